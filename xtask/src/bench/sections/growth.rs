//! Whether MetaStore's costs grow with what it holds: keys, keys counted, watchers of other keys.

use anyhow::Result;

use super::{Bench, MEMBERS, Record, Section, fill, say, timed};
use crate::bench::cluster::Cluster;
use crate::bench::record::METASTORE;
use crate::bench::tools::CPU_US;

pub(super) const SECTION: Section = Section {
    name: "growth",
    about: "CPU a put at 10^4 to 10^6 keys (--long: 10^7), of a count, of an event beside idle watchers",
    how: "MetaStore alone, three members. Puts of 256 B to uniformly drawn keys of a store that holds \
          them all, open loop at 5,000/s; counts of all keys with a common prefix, `count_only`, 10 \
          clients; 1,000 events/s to 10 watchers beside others that watch keys nobody writes.",
    round,
};

/// What one figure at different sizes, powers of ten, is called.
pub(in crate::bench) fn put_case(keys: u64) -> String {
    format!("put among 10^{} keys", keys.ilog10())
}
pub(in crate::bench) fn count_case(keys: u64) -> String {
    format!("count of 10^{} keys", keys.ilog10())
}
pub(in crate::bench) const NO_IDLE: &str = "event, no idle watchers";
pub(in crate::bench) const IDLE: &str = "event, 10,000 idle watchers";
pub(in crate::bench) const CPU_PER_EVENT: &str = "server CPU µs per event";

/// Keys of the smallest store, and of the largest two.
pub(in crate::bench) const FEWEST: u64 = 10_000;
pub(in crate::bench) const MANY: u64 = 1_000_000;
pub(in crate::bench) const MOST: u64 = 10_000_000;
/// Of the smallest count.
pub(in crate::bench) const COUNTED_LEAST: u64 = 1_000;

const PUT_S: f64 = 6.0;
const COUNT_S: f64 = 2.0;
const WATCH_S: f64 = 6.0;

fn round(bench: &Bench, record: &mut Record) -> Result<()> {
    let most = bench.count(MANY, FEWEST);
    let mut sizes: Vec<u64> = vec![FEWEST, 100_000, MANY];
    sizes.retain(|keys| *keys <= most);
    let largest = *sizes.last().expect("the smallest at least");
    if bench.long {
        sizes.push(MOST);
    }
    let cluster = bench.start(METASTORE, MEMBERS)?;
    for keys in sizes {
        say(&format!("  {keys} keys"));
        fill(bench, &cluster, keys)?;
        let space = keys.to_string();
        let words = [
            &["put", "--connections", "100", "--clients", "1000", "--rate", "5000"][..],
            &["--keys", "uniform", "--key-space", &space],
        ];
        let report = timed(bench, &cluster.endpoints(), &words.concat(), bench.seconds(PUT_S))?;
        report.load()?.add_to(record, &put_case(keys), METASTORE);
    }
    record.attempt("counts", |record| counts(bench, &cluster, largest, record))?;
    cluster.stop()?;

    for (case, idle) in [(NO_IDLE, "0"), (IDLE, "10000")] {
        say(&format!("  {idle} idle watchers"));
        let cluster = bench.start(METASTORE, MEMBERS)?;
        let words = [
            &["watch", "--connections", "10", "--clients", "100", "--rate", "1000"][..],
            &["--watchers", "10", "--idle-watchers", idle, "--key-space", "10000"],
        ];
        let report = timed(bench, &cluster.endpoints(), &words.concat(), bench.seconds(WATCH_S))?;
        let each = report.number("/delivery/server_cpu_us_per_event")?;
        record.add(case, CPU_PER_EVENT, METASTORE, each);
        record.add(case, CPU_US, METASTORE, report.number("/server_cpu_us_per_op")?);
        let p99 = report.number("/delivery/latency/p99_ms")?;
        record.add(case, "delivery p99 ms", METASTORE, p99);
        cluster.stop()?;
    }
    Ok(())
}

fn counts(bench: &Bench, cluster: &Cluster, largest: u64, record: &mut Record) -> Result<()> {
    let space = largest.to_string();
    for keys in [COUNTED_LEAST, 10_000, 100_000, MANY] {
        if keys > largest {
            break;
        }
        say(&format!("  count of {keys} keys"));
        let keys_per_range = keys.to_string();
        let words = [
            &["range", "--prefix", "--count-only", "--connections", "10", "--clients", "10"][..],
            &["--key-space", &space, "--keys-per-range", &keys_per_range],
        ];
        let report = timed(bench, &cluster.endpoints(), &words.concat(), bench.seconds(COUNT_S))?;
        report.load()?.add_to(record, &count_case(keys), METASTORE);
    }
    Ok(())
}
