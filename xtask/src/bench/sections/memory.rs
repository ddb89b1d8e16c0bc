//! A million keys: memory, disk, restart, and what is given back.

use std::time::Duration;

use anyhow::{Context, Result};

use super::{Bench, Record, SYSTEMS, Section, TOOL_TIMEOUT, counted, etcdctl, fill, say, stop};
use crate::bench::cluster::{Cluster, Memory, Setup};
use crate::bench::record::METASTORE;

pub(super) const SECTION: Section = Section {
    name: "memory",
    about: "1,000,000 keys of 256 B on one member: memory, disk, restart, cold list, giving back",
    how: "one member; 1,000,000 keys with distinct values of 256 B that do not compress, each written \
          once by `metactl bench put` with 500 clients. File-backed memory is partly the kernel's to take \
          back. The cold list is the first request after the restart. At last every key is deleted, \
          the history compacted, and 30 s pass.",
    round,
};

pub(in crate::bench) const FULL: &str = "after filling";
pub(in crate::bench) const RESTARTED: &str = "after restart";
pub(in crate::bench) const EMPTIED: &str = "30 s after deleting and compacting everything";
pub(in crate::bench) const CACHE: &str = "after filling, value cache of 64 MiB";
pub(in crate::bench) const RSS: &str = "resident MiB, both";
pub(in crate::bench) const DISK: &str = "MiB on disk";
pub(in crate::bench) const RESTART_S: &str = "restart to healthy, s";
pub(in crate::bench) const LIST_MS: &str = "list of 10,000 keys, ms";

pub(super) const KEYS: u64 = 1_000_000;
pub(super) const LISTED: u64 = 10_000;
/// Keys one delete takes: as many as share the digits before their last four.
const DELETED_AT_ONCE: u64 = 10_000;
const KEY_DIGITS: usize = 10;
const GIVING_BACK: f64 = 30.0;
pub(super) const CACHE_FLAG: &str = "--value-cache-bytes";
const CACHE_BYTES: &str = "67108864";

fn round(bench: &Bench, record: &mut Record) -> Result<()> {
    let keys = bench.count(KEYS, LISTED);
    for system in SYSTEMS {
        say(&format!("  {system}"));
        let cluster = bench.start(system, 1)?;
        let mut cluster = filled(bench, record, cluster, (system, FULL), keys)?;
        restarted(bench, record, &mut cluster, (system, RESTARTED), keys)?;
        record.attempt(&format!("giving back, {system}"), |record| {
            empty(bench, &cluster, keys)?;
            stop::pause(Duration::from_secs_f64(bench.seconds(GIVING_BACK)))?;
            add_memory(record, EMPTIED, system, cluster.memory()?);
            add_disk(record, EMPTIED, system, &cluster)
        })?;
        cluster.stop()?;
    }
    if !bench.metastore_has(CACHE_FLAG) {
        record.miss(format!("{CACHE}: not in this build ({CACHE_FLAG})"));
        return Ok(());
    }
    say("  MetaStore, value cache");
    record.attempt(CACHE, |record| {
        let cluster = Cluster::start(with_cache(bench))?;
        let mut cluster = filled(bench, record, cluster, (METASTORE, CACHE), keys)?;
        let case = "after restart, value cache of 64 MiB";
        restarted(bench, record, &mut cluster, (METASTORE, case), keys)?;
        cluster.stop()
    })
}

fn filled(
    bench: &Bench,
    record: &mut Record,
    cluster: Cluster,
    (system, case): (&str, &str),
    keys: u64,
) -> Result<Cluster> {
    let load = fill(bench, &cluster, keys)?.load()?;
    record.add(case, "puts/s while filling", system, load.ops_per_s);
    let memory = cluster.memory()?;
    add_memory(record, case, system, memory);
    record.add(case, "resident MiB, peak", system, mib(memory.peak_bytes));
    add_disk(record, case, system, &cluster)?;
    Ok(cluster)
}

/// One member of MetaStore with a value cache.
pub(super) fn with_cache(bench: &Bench) -> Setup {
    let mut setup = bench.setup(METASTORE, 1);
    setup.flags.extend([CACHE_FLAG.to_owned(), CACHE_BYTES.to_owned()]);
    setup
}

/// How long a restart takes, what is resident then, and how long the first list takes.
pub(super) fn restarted(
    bench: &Bench,
    record: &mut Record,
    cluster: &mut Cluster,
    (system, case): (&str, &str),
    keys: u64,
) -> Result<()> {
    record.add(case, RESTART_S, system, cluster.restart()?.as_secs_f64());
    add_memory(record, case, system, cluster.memory()?);
    let (space, listed) = (keys.to_string(), LISTED.to_string());
    let words = [
        &["range", "--connections", "1", "--clients", "1", "--prefix"][..],
        &["--key-space", &space, "--keys-per-range", &listed],
    ];
    let list = counted(bench, &cluster.endpoints(), &words.concat(), 1)?;
    record.add(case, LIST_MS, system, list.load()?.mean_ms);
    Ok(())
}

/// Deletes every key, then compacts the history at the last revision.
fn empty(bench: &Bench, cluster: &Cluster, keys: u64) -> Result<()> {
    let endpoint = cluster.address();
    for group in 0..keys.div_ceil(DELETED_AT_ONCE) {
        let open = DELETED_AT_ONCE.ilog10() as usize;
        let mut command = etcdctl(bench, &endpoint);
        command.args([
            "del",
            "--prefix",
            &format!("bench/{group:0width$}", width = KEY_DIGITS - open),
        ]);
        stop::run(command, TOOL_TIMEOUT)?;
    }
    let mut command = etcdctl(bench, &endpoint);
    command.args(["get", "bench/", "--prefix", "--limit", "1", "-w", "json"]);
    let said: serde_json::Value = serde_json::from_str(&stop::run(command, TOOL_TIMEOUT)?)?;
    anyhow::ensure!(said["count"].as_u64().unwrap_or(0) == 0, "keys are left after deleting all");
    let revision = said["header"]["revision"].as_u64().context("etcdctl said no revision")?;
    let mut command = etcdctl(bench, &endpoint);
    command.args(["compact", "--physical", &revision.to_string()]);
    stop::run(command, TOOL_TIMEOUT).map(drop)
}

pub(super) fn add_memory(record: &mut Record, case: &str, system: &str, memory: Memory) {
    record.add(case, "resident MiB, anonymous", system, mib(memory.anon_bytes));
    record.add(case, "resident MiB, of files", system, mib(memory.file_bytes));
    record.add(case, RSS, system, mib(memory.bytes()));
}

fn add_disk(record: &mut Record, case: &str, system: &str, cluster: &Cluster) -> Result<()> {
    record.add(case, DISK, system, mib(cluster.disk_bytes()?));
    Ok(())
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
