#![allow(clippy::print_stdout, reason = "prints its figures")]
//! What a key costs: bytes of memory a key, microseconds a put, a read, a count.
//!
//! `cargo run --release -p state --example footprint [KEYS] [COMMANDS_PER_PUBLISH]`
//!
//! Keys of 16 bytes, values of 256, 1,000,000 of them unless told otherwise. The figures in
//! docs/adr/0001-state-structure.md come from here.

use std::hint::black_box;

use proto::etcdserverpb::{CompactionRequest, PutRequest, RangeRequest};
use proto::log::Command;
use proto::log::command::Op;
use state::{Limits, State, View};

const VALUE_BYTES: usize = 256;

fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| {
        argument.parse::<u64>().unwrap_or_else(|_| panic!("{argument} is not a number"))
    });
    let keys = arguments.next().unwrap_or(1_000_000).max(1);
    let batch = arguments.next().unwrap_or(64).max(1);
    println!("{keys} keys of 16 bytes with values of {VALUE_BYTES}, a view every {batch} puts");
    run("ascending keys", keys, batch, |number| number);
    // Odd, so that every number comes once; the order looks random to a tree.
    run("scattered keys", keys, batch, |number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
}

fn run(title: &str, keys: u64, batch: u64, key: impl Fn(u64) -> u64) {
    println!("\n{title}");
    let before = resident_bytes();
    let mut load = Load { state: State::new(Limits::default()), view: None, index: 0, batch };

    let put = |load: &mut Load, number| load.apply(put(key(number), number));
    timed("put a new key", keys, || (0..keys).for_each(|number| put(&mut load, number)));
    drop(load.state.take_changes());
    let now = resident_bytes();
    // What an earlier run gave back to the allocator would hide what this one takes.
    if before < now / 4 {
        println!("{:>12} bytes of memory a key", (now - before) / keys);
    }

    let overwrites = keys.min(200_000);
    let scattered = |number: u64| number.wrapping_mul(0xd134_2543_de82_ef95) % keys;
    timed("put an old key, in the order they came", overwrites, || {
        (0..overwrites).for_each(|number| put(&mut load, number));
    });
    timed("put an old key, any", overwrites, || {
        (0..overwrites).for_each(|number| put(&mut load, scattered(number)));
    });
    drop(load.state.take_changes());
    let view = load.state.publish();
    let gets = keys.min(200_000);
    timed("get", gets, || {
        for number in 0..gets {
            let key = name(key(scattered(number)));
            black_box(view.range(&RangeRequest { key: key.into(), ..RangeRequest::default() }))
                .expect("a plain request");
        }
    });
    let everything =
        RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..RangeRequest::default() };
    timed("list, a key", keys, || drop(black_box(view.range(&everything))));
    let half =
        RangeRequest { range_end: name(u64::MAX / 2).into(), count_only: true, ..everything };
    timed("count half", 100_000, || count(&view, &half, 100_000));
    let past = RangeRequest { revision: view.revision() - 10_000, ..half };
    timed("count half, 10,000 updates ago", 100_000, || count(&view, &past, 100_000));
    drop(view);
    load.view = None;

    let revision = load.state.publish().revision();
    load.apply(Op::Compact(CompactionRequest { revision, physical: false }));
    timed("compact, a revision", keys + 2 * overwrites, || while load.state.sweep(1_000) {});
}

struct Load {
    state: State,
    view: Option<View>,
    index: u64,
    batch: u64,
}

impl Load {
    fn apply(&mut self, op: Op) {
        self.index += 1;
        let outcome = self.state.apply(self.index, 1, &Command { id: None, op: Some(op) });
        assert!(outcome.result.is_ok(), "{outcome:?}");
        if self.index.is_multiple_of(self.batch) {
            self.view = Some(self.state.publish());
            drop(self.state.take_changes());
        }
    }
}

fn name(key: u64) -> Vec<u8> {
    format!("{key:016x}").into_bytes()
}

fn put(key: u64, number: u64) -> Op {
    let mut value = vec![0_u8; VALUE_BYTES];
    value[..8].copy_from_slice(&number.to_le_bytes());
    Op::Put(PutRequest { key: name(key).into(), value: value.into(), ..PutRequest::default() })
}

fn count(view: &View, request: &RangeRequest, times: usize) {
    for _ in 0..times {
        assert!(black_box(view.range(request)).is_ok_and(|response| response.count > 0));
    }
}

/// Processor time, so that a busy machine does not show.
fn timed(what: &str, times: u64, work: impl FnOnce()) {
    let start = processor_ns();
    work();
    let each = (processor_ns() - start) as f64 / times as f64 / 1e3;
    println!("{each:>12.3} µs  {what}");
}

/// Time this thread has been running.
fn processor_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells");
    text.split_whitespace().next().and_then(|ns| ns.parse().ok()).expect("nanoseconds first")
}

/// Resident memory of this process.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("it has a size");
    let kib: u64 = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("KiB");
    kib * 1024
}
