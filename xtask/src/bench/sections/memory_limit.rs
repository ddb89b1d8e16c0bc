//! Both systems under one memory limit, which counts what the kernel keeps of their files as well.

use anyhow::{Result, bail};

use super::memory::{CACHE_FLAG, KEYS, LISTED, add_memory, restarted, with_cache};
use super::{Bench, Record, SYSTEMS, Section, fill, say, timed};
use crate::bench::cluster::{Cluster, Setup};
use crate::bench::record::METASTORE;

pub(super) const SECTION: Section = Section {
    name: "memory-limit",
    about: "1,000,000 keys of 256 B on one member that may have 640 MiB: filling, reading, restart",
    how: "one member in a control group of 640 MiB, in which the kernel counts what a server allocates and what it \
          keeps of that server's files; 1,000,000 keys with distinct values of 256 B that do not compress, each written once by \
          `metactl bench put` with 500 clients, then one-key serializable ranges of keys drawn uniformly, 100 clients for 8 s, then a \
          restart and a list of 10,000 keys. The load tool is outside. Where the kernel ends a server for want of memory it says so.",
    round,
};

/// A quarter more than either takes where nothing limits it.
const LIMIT_BYTES: u64 = 640 << 20;
const READ_S: f64 = 8.0;

fn round(bench: &Bench, record: &mut Record) -> Result<()> {
    for system in SYSTEMS {
        say(&format!("  {system}"));
        let setup = bench.setup(system, 1);
        let what = format!("{system}, 640 MiB");
        record.attempt(&what, |record| limited(bench, record, (system, ""), setup))?;
    }
    if !bench.metastore_has(CACHE_FLAG) {
        record.miss(format!("value cache of 64 MiB: not in this build ({CACHE_FLAG})"));
        return Ok(());
    }
    say("  MetaStore, value cache");
    let what = "MetaStore, value cache of 64 MiB, 640 MiB";
    let case = ", value cache of 64 MiB";
    record.attempt(what, |record| limited(bench, record, (METASTORE, case), with_cache(bench)))
}

fn limited(
    bench: &Bench,
    record: &mut Record,
    (system, case): (&str, &str),
    mut setup: Setup,
) -> Result<()> {
    setup.memory_max_bytes = LIMIT_BYTES;
    let mut cluster = Cluster::start(setup)?;
    let measured = loads(bench, record, (system, case), &mut cluster);
    if cluster.memory_kills() > 0 {
        bail!("the kernel ended it for want of memory");
    }
    measured?;
    cluster.stop()
}

fn loads(
    bench: &Bench,
    record: &mut Record,
    (system, case): (&str, &str),
    cluster: &mut Cluster,
) -> Result<()> {
    let keys = bench.count(KEYS, LISTED);
    let space = keys.to_string();
    let load = fill(bench, cluster, keys)?.load()?;
    let filling = format!("filling{case}");
    load.add_to(record, &filling, system);
    add_memory(record, &filling, system, cluster.memory()?);
    let reads = [
        &["range", "--consistency", "s", "--connections", "100", "--clients", "100"][..],
        &["--keys", "uniform", "--key-space", &space],
    ];
    let reads = timed(bench, &cluster.endpoints(), &reads.concat(), bench.seconds(READ_S))?;
    reads.load()?.add_to(record, &format!("ranges of any key{case}"), system);
    restarted(bench, record, cluster, (system, &format!("restart{case}")), keys)
}
