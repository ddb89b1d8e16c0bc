//! Delivery to watchers: few matching ones among very many, and very many matching ones.

use anyhow::Result;

use super::{Bench, Record, SYSTEMS, Section, say, timed};
use crate::bench::record::METASTORE;
use crate::bench::tools::Report;

pub(super) const SECTION: Section = Section {
    name: "watch",
    about: "delivery to 50 watchers beside 100,000 idle ones; to 1,000 watchers, both systems",
    how: "one member, `metactl bench watch`; delivery counts from sending the put to receiving the event.",
    round,
};

pub(in crate::bench) const IDLE: &str = "1,000 events/s to 50 watchers, 100,000 idle ones";
pub(in crate::bench) const P99: &str = "delivery p99 ms";
pub(in crate::bench) const RSS: &str = "resident MiB";
pub(in crate::bench) const MANY: &str = "20 events/s to 1,000 watchers";
pub(in crate::bench) const FASTEST: &str = "as many events as 1,000 watchers take";

const IDLE_WATCHERS: u64 = 100_000;
const LOAD_S: f64 = 8.0;

fn round(bench: &Bench, record: &mut Record) -> Result<()> {
    let idle = bench.count(IDLE_WATCHERS, 1_000).to_string();
    let loads: [(&str, &[&str], &[&str]); 3] = [
        (
            IDLE,
            &[METASTORE],
            &["--rate", "1000", "--clients", "100", "--watchers", "50", "--idle-watchers", &idle],
        ),
        (MANY, &SYSTEMS, &["--rate", "20", "--clients", "10", "--watchers", "1000"]),
        (FASTEST, &SYSTEMS, &["--clients", "10", "--watchers", "1000"]),
    ];
    for (case, systems, words) in loads {
        for system in systems {
            say(&format!("  {system}, {case}"));
            record.attempt(&format!("{system}, {case}"), |record| {
                let cluster = bench.start(system, 1)?;
                let words = [&["watch", "--connections", "10", "--key-space", "10000"][..], words];
                let seconds = bench.seconds(LOAD_S);
                let report = timed(bench, &cluster.endpoints(), &words.concat(), seconds)?;
                add(record, case, system, &report)?;
                cluster.stop()
            })?;
        }
    }
    Ok(())
}

fn add(record: &mut Record, case: &str, system: &str, report: &Report) -> Result<()> {
    for (figure, path) in [
        ("deliveries/s", "/delivery/events_per_s"),
        ("delivery p50 ms", "/delivery/latency/p50_ms"),
        (P99, "/delivery/latency/p99_ms"),
        ("server CPU µs per delivery", "/delivery/server_cpu_us_per_event"),
        ("put p99 ms", "/latency/p99_ms"),
    ] {
        record.add(case, figure, system, report.number(path)?);
    }
    let rss =
        report.number("/servers/0/rss_anon_bytes")? + report.number("/servers/0/rss_file_bytes")?;
    record.add(case, RSS, system, rss / f64::from(1 << 20));
    Ok(())
}
