//! Both systems under etcd's own load tool, and beside them gRPC that does nothing.

use anyhow::Result;

use super::{
    Bench, ETCD_TOOL_PUT, MEMBERS, Record, SYSTEMS, Section, TOOL_TIMEOUT, VALUE_BYTES, etcd_tool,
    etcd_tool_put, etcdctl, say, stop,
};
use crate::bench::cluster::Echo;
use crate::bench::record::ECHO;

pub(super) const SECTION: Section = Section {
    name: "etcd-tool",
    about: "puts and one-key ranges by etcd's own load tool, three members; the unary echo",
    how: "etcd's own load tool, three members; 1,000 clients over 100 connections, 1 over 1; values of \
          256 B, `--sequential-keys --key-space-size=1000000`; puts go to the leader (`--target-leader`) \
          unless it says otherwise, ranges, of one key, to all members. The echo is tonic's \
          KV service on one current-thread runtime whose `Put` answers at once (server/examples/echo.rs).",
    round,
};

pub(in crate::bench) const PUT_1: &str = "put, 1 client";
pub(in crate::bench) const PUT: &str = "put, 1,000 clients";
const PUT_SPREAD: &str = "put, 1,000 clients, spread over all members";
pub(in crate::bench) const RANGE_L: &str = "linearizable range, 1,000 clients";
pub(in crate::bench) const RANGE_S: &str = "serializable range, 1,000 clients";

fn round(bench: &Bench, record: &mut Record) -> Result<()> {
    let (one, many) = (bench.count(4_000, 200), bench.count(100_000, 3_000));
    let clients = ["--conns", "100", "--clients", "1000"];
    for system in SYSTEMS {
        say(&format!("  {system}"));
        let cluster = bench.start(system, MEMBERS)?;
        etcd_tool_put(bench, &cluster, "1", "1", one)?.add_to(record, PUT_1, system);
        etcd_tool_put(bench, &cluster, "100", "1000", many)?.add_to(record, PUT, system);
        let endpoints = cluster.endpoints();
        let words = [&clients[..], &ETCD_TOOL_PUT].concat();
        etcd_tool(bench, &endpoints, &words, many, &|| cluster.cpu_us())?
            .add_to(record, PUT_SPREAD, system);
        // The tool's own keys hold zero bytes, which no command line can carry: read another one.
        let mut write = etcdctl(bench, &endpoints);
        write.args(["put", "one", &"v".repeat(VALUE_BYTES.parse()?)]);
        stop::run(write, TOOL_TIMEOUT)?;
        for (case, consistency) in [(RANGE_L, "l"), (RANGE_S, "s")] {
            let words =
                [&clients[..], &["range", "one", "--consistency", consistency][..]].concat();
            let load = etcd_tool(bench, &endpoints, &words, many, &|| cluster.cpu_us())?;
            load.add_to(record, case, system);
        }
        cluster.stop()?;
    }
    say("  echo");
    let echo = Echo::start(&bench.echo)?;
    let words = [&clients[..], &ETCD_TOOL_PUT].concat();
    let load = etcd_tool(bench, &echo.address, &words, many, &|| echo.cpu_us())?;
    load.add_to(record, PUT, ECHO);
    Ok(())
}
