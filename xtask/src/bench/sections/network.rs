//! Bytes between members, with and without compression.

use anyhow::Result;

use super::{Bench, MEMBERS, Record, Section, counted, etcd_tool_put, say};
use crate::bench::cluster::{Cluster, metric};
use crate::bench::record::METASTORE;
use crate::bench::tools::{CPU_US, OPS_PER_S};

pub(super) const SECTION: Section = Section {
    name: "network",
    about: "bytes from the leader to its peers per put: none, lz4, zstd; equal and random values",
    how: "MetaStore alone, three members; bytes are the leader's `etcd_network_peer_sent_bytes_total`. \
          Random values differ and do not compress (`metactl bench put`); equal ones are one random value \
          in every put (etcd's load tool). 256 B, 1,000 clients.",
    round,
};

const FLAG: &str = "--peer-compression";
const SENT: &str = "etcd_network_peer_sent_bytes_total";
const PUTS: u64 = 60_000;

fn round(bench: &Bench, record: &mut Record) -> Result<()> {
    let kinds = ["none", "lz4", "zstd"];
    let kinds = if bench.metastore_has(FLAG) {
        &kinds[..]
    } else {
        record.miss(format!("lz4 and zstd: not in this build ({FLAG})"));
        &kinds[..1]
    };
    for kind in kinds {
        say(&format!("  {kind}"));
        record.attempt(kind, |record| {
            let mut setup = bench.setup(METASTORE, MEMBERS);
            if bench.metastore_has(FLAG) {
                setup.flags.extend([FLAG.to_owned(), (*kind).to_owned()]);
            }
            let cluster = Cluster::start(setup)?;
            let puts = bench.count(PUTS, 2_000);
            let words = ["put", "--connections", "100", "--clients", "1000"];
            let random = || counted(bench, &cluster.endpoints(), &words, puts)?.load();
            let equal = || etcd_tool_put(bench, &cluster, "100", "1000", puts);
            for (values, load) in
                [("random values", &random as &dyn Fn() -> _), ("equal values", &equal)]
            {
                let leader = cluster.leader()?;
                let before = metric(leader, SENT)?;
                let load = load()?;
                let sent = (metric(leader, SENT)? - before) / puts as f64;
                let case = format!("put, {values}, {kind}");
                record.add(&case, "bytes sent by the leader per put", METASTORE, sent);
                record.add(&case, OPS_PER_S, METASTORE, load.ops_per_s);
                record.add(&case, CPU_US, METASTORE, load.cpu_us_per_op);
            }
            cluster.stop()
        })?;
    }
    Ok(())
}
