//! What sled costs behind the state: CPU per revision, disk, time to read it all back.
//!
//! `cargo run --release -p server --example backend_figures [REVISIONS]`; the figures in
//! docs/adr/0002 are from this program.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use proto::etcdserverpb::{CompactionRequest, DeleteRangeRequest, PutRequest};
use proto::log::{Command, command::Op};
use server::backend::SledBackend;
use state::backend::{Backend, Writeback, WritebackLimits, load};
use state::{Limits, State};

const REVISIONS_DEFAULT: u64 = 1_000_000;
const VALUE_BYTES: usize = 256;
/// Commands in one entry, as under load.
const COMMANDS_PER_ENTRY: u64 = 64;

struct Store {
    state: State,
    backend: SledBackend,
    writeback: Writeback,
    index: u64,
    backend_cpu: Duration,
}

impl Store {
    fn open(path: &Path) -> Store {
        let backend = SledBackend::open(path).expect("sled opens");
        Store {
            state: State::new(Limits::default()),
            backend,
            writeback: Writeback::new(WritebackLimits::default()),
            index: 0,
            backend_cpu: Duration::ZERO,
        }
    }

    fn apply(&mut self, ops: impl Iterator<Item = Op>) {
        self.index += 1;
        for op in ops {
            let outcome = self.state.apply(self.index, 1, &Command { id: None, op: Some(op) });
            outcome.result.expect("applied");
        }
        let view = self.state.publish();
        let changes = self.state.take_changes();
        let began = cpu();
        self.writeback.feed([&changes], &view);
        while let Some(batch) = self.writeback.take_batch() {
            self.backend.commit(&batch).expect("committed");
        }
        self.backend_cpu += cpu() - began;
    }

    fn compact_all(&mut self) {
        let began = cpu();
        while self.writeback.wants_compaction() {
            if let Some(batch) = self.writeback.compact(&self.backend).expect("compacted") {
                self.backend.commit(&batch).expect("committed");
            }
        }
        self.backend_cpu += cpu() - began;
    }
}

/// CPU time of this process, sled's own threads included.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

/// Values that do not compress, different in every revision.
fn value(seed: u64) -> Vec<u8> {
    let mut word = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(VALUE_BYTES);
    while bytes.len() < VALUE_BYTES {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes
}

fn put(key: u64, seed: u64) -> Op {
    Op::Put(PutRequest {
        key: format!("{key:016}").into(),
        value: value(seed).into(),
        ..PutRequest::default()
    })
}

fn disk_mib(path: &Path) -> u64 {
    bytes_below(path) >> 20
}

fn bytes_below(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).expect("a directory").flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

fn main() {
    let revisions: u64 =
        std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(REVISIONS_DEFAULT);
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("sled");
    let mut out = std::io::stdout();
    let mut say = |line: String| writeln!(out, "{line}").expect("written");

    let mut store = Store::open(&path);
    for entry in 0..revisions / COMMANDS_PER_ENTRY {
        let keys = entry * COMMANDS_PER_ENTRY..(entry + 1) * COMMANDS_PER_ENTRY;
        store.apply(keys.map(|key| put(key, key)));
    }
    store.backend.flush().expect("flushed");
    let per_revision = store.backend_cpu.as_secs_f64() * 1e6 / revisions as f64;
    say(format!("{revisions} puts of distinct keys, {VALUE_BYTES} B values, in blocks:"));
    say(format!("  CPU µs per revision  {per_revision:.2}"));
    say(format!("  disk MiB             {}", disk_mib(&path)));
    say(format!("  live data MiB        {}", store.state.publish().size_bytes() >> 20));

    for round in 1..=10_u64 {
        store.backend_cpu = Duration::ZERO;
        for entry in 0..revisions / 10 / COMMANDS_PER_ENTRY {
            let keys = entry * COMMANDS_PER_ENTRY..(entry + 1) * COMMANDS_PER_ENTRY;
            store.apply(keys.map(|key| put(key * 10 % revisions, key + round * revisions)));
        }
        let revision = store.state.publish().revision();
        let compact = CompactionRequest { revision, ..CompactionRequest::default() };
        store.apply(std::iter::once(Op::Compact(compact)));
        while store.state.publish().is_compacting() {
            store.apply(std::iter::empty());
        }
        store.compact_all();
    }
    store.backend.flush().expect("flushed");
    say(String::from("ten rounds of overwriting a tenth and compacting:"));
    say(format!("  disk MiB             {}", disk_mib(&path)));

    let half = DeleteRangeRequest {
        key: format!("{:016}", 0).into(),
        range_end: format!("{:016}", revisions / 2).into(),
        ..DeleteRangeRequest::default()
    };
    store.apply(std::iter::once(Op::DeleteRange(half)));
    store.writeback.seal();
    store.apply(std::iter::empty());
    store.backend.flush().expect("flushed");
    let view = store.state.publish();
    drop(store.backend);
    let began = Instant::now();
    let backend = SledBackend::open(&path).expect("sled opens");
    let opened = began.elapsed();
    let loaded = load(&backend).expect("loads").expect("holds a state");
    let read = began.elapsed();
    let state = State::from_parts(loaded.parts, Limits::default()).expect("a state");
    say(String::from("opened again, half of the keys deleted:"));
    say(format!("  s to open sled       {:.2}", opened.as_secs_f64()));
    say(format!("  s to read and check  {:.2}", (read - opened).as_secs_f64()));
    say(format!("  s to build the state {:.2}", (began.elapsed() - read).as_secs_f64()));
    drop(state);
    drop(backend);

    let next = dir.path().join("sled-next");
    let mut backend = SledBackend::open(&next).expect("sled opens");
    let began = Instant::now();
    let (applied, rows) = (view.applied(), view.rows());
    let records = view.whole_records();
    Writeback::rebuild(WritebackLimits::default(), &mut backend, applied, rows, records)
        .expect("rebuilt");
    say(String::from("a new generation of it:"));
    say(format!("  s to build           {:.2}", began.elapsed().as_secs_f64()));
    say(format!("  disk MiB             {}", disk_mib(&next)));
}
