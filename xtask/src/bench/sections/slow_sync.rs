//! Disks as in clouds: every sync takes a millisecond, or five, longer.

use std::time::Duration;

use anyhow::Result;

use super::{Bench, MEMBERS, Record, SYSTEMS, Section, etcd_tool_put, say, stop};
use crate::bench::cluster::Cluster;

pub(super) const SECTION: Section = Section {
    name: "slow-sync",
    about: "puts with 1 ms and 5 ms added to every fdatasync of both systems (needs strace)",
    how: "as etcd-tool, with strace delaying every `fdatasync` of every member and stopping nothing \
          else but the start of threads. strace costs CPU of its own, so CPU is not compared.",
    round,
};

/// Added to each sync, with the puts of one and of a thousand clients.
const DELAYS: [(u64, &str, u64, u64); 2] =
    [(1_000, "1 ms", 800, 50_000), (5_000, "5 ms", 300, 40_000)];

fn round(bench: &Bench, record: &mut Record) -> Result<()> {
    let mut strace = stop::command("strace");
    strace.arg("--seccomp-bpf").arg("-f").arg("true");
    if stop::run(strace, Duration::from_secs(10)).is_err() {
        let reason = "strace is not there or may not trace (package strace)";
        say(&format!("  skipped: {reason}"));
        record.miss(format!("slow syncs: {reason}"));
        return Ok(());
    }
    for (delay, name, one, many) in DELAYS {
        for system in SYSTEMS {
            say(&format!("  {system}, {name}"));
            record.attempt(&format!("{system}, {name} a sync"), |record| {
                let setup = bench.setup(system, MEMBERS);
                let cluster =
                    Cluster::start(crate::bench::Setup { sync_delay_us: delay, ..setup })?;
                for (clients, connections, puts, words) in [
                    ("1", "1", bench.count(one, 200), "1 client"),
                    ("1000", "100", bench.count(many, 2_000), "1,000 clients"),
                ] {
                    let load = etcd_tool_put(bench, &cluster, connections, clients, puts)?;
                    let case = format!("put, {words}, syncs {name} longer");
                    record.add(&case, "requests/s", system, load.ops_per_s);
                    record.add(&case, "mean ms", system, load.mean_ms);
                    record.add(&case, "p50 ms", system, load.p50_ms);
                    record.add(&case, "p99 ms", system, load.p99_ms);
                }
                cluster.stop()
            })?;
        }
    }
    Ok(())
}
