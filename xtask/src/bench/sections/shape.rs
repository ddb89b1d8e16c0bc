//! Other shapes of a cluster and of its clients: more members, fifty clients,
//! thousands of connections that say nothing.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Bench, MEMBERS, Record, SYSTEMS, Section, counted, etcd_tool_put, say, stop};

pub(super) const MEMBERS_SECTION: Section = Section {
    name: "members",
    about: "puts of 1,000 clients on five and on seven members",
    how: "etcd's own load tool as in etcd-tool.",
    round: members,
};
pub(super) const SOURCE_SECTION: Section = Section {
    name: "source-case",
    about: "50 clients, 50,000 puts in all (with --long: each)",
    how: "`metactl bench put`, three members, 50 clients with a connection each, 50,000 puts in all, \
          50,000 each where the case says so.",
    round: source_case,
};
pub(super) const CONNECTIONS_SECTION: Section = Section {
    name: "connections",
    about: "bytes of a server for each of 5,000 idle connections",
    how: "one member; memory before and after 5,000 connections that exchanged HTTP/2 settings and \
          say nothing further.",
    round: connections,
};

pub(in crate::bench) const CONNECTIONS: &str = "5,000 idle connections";
pub(in crate::bench) const BYTES_EACH: &str = "resident bytes a connection";

const PUTS: u64 = 50_000;
const SOURCE_CLIENTS: &str = "50";
const IDLE_CONNECTIONS: u64 = 5_000;
/// Until memory has settled.
const SETTLE: Duration = Duration::from_secs(2);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

fn members(bench: &Bench, record: &mut Record) -> Result<()> {
    let puts = bench.count(PUTS, 2_000);
    for members in [5, 7] {
        for system in SYSTEMS {
            say(&format!("  {system}, {members} members"));
            record.attempt(&format!("{system}, {members} members"), |record| {
                let cluster = bench.start(system, members)?;
                let load = etcd_tool_put(bench, &cluster, "100", "1000", puts)?;
                load.add_to(record, &format!("put, 1,000 clients, {members} members"), system);
                cluster.stop()
            })?;
        }
    }
    Ok(())
}

fn source_case(bench: &Bench, record: &mut Record) -> Result<()> {
    let clients = ["put", "--connections", SOURCE_CLIENTS, "--clients", SOURCE_CLIENTS];
    let all = bench.count(PUTS, 2_000);
    let mut cases = vec![("50 clients, 50,000 puts in all", all)];
    if bench.long {
        cases.push(("50 clients, 50,000 puts each", 50 * all));
    }
    for (case, puts) in cases {
        for system in SYSTEMS {
            say(&format!("  {system}, {case}"));
            let cluster = bench.start(system, MEMBERS)?;
            let load = counted(bench, &cluster.endpoints(), &clients, puts)?.load()?;
            load.add_to(record, case, system);
            cluster.stop()?;
        }
    }
    Ok(())
}

fn connections(bench: &Bench, record: &mut Record) -> Result<()> {
    let count = bench.count(IDLE_CONNECTIONS, 100);
    for system in SYSTEMS {
        say(&format!("  {system}"));
        let cluster = bench.start(system, 1)?;
        stop::pause(SETTLE)?;
        let before = cluster.memory()?;
        let held = (0..count)
            .map(|number| {
                stop::check()?;
                greet(cluster.address()).with_context(|| format!("connection {}", number + 1))
            })
            .collect::<Result<Vec<TcpStream>>>()?;
        stop::pause(SETTLE)?;
        let after = cluster.memory()?;
        let each = |before: u64, after: u64| after.saturating_sub(before) as f64 / count as f64;
        record.add(CONNECTIONS, BYTES_EACH, system, each(before.bytes(), after.bytes()));
        let anonymous = each(before.anon_bytes, after.anon_bytes);
        record.add(CONNECTIONS, "of them anonymous", system, anonymous);
        drop(held);
        cluster.stop()?;
    }
    Ok(())
}

/// A connection on which both sides have said how they speak HTTP/2.
fn greet(address: SocketAddr) -> Result<TcpStream> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const HEAD_BYTES: usize = 9;
    const SETTINGS: u8 = 4;
    let empty_settings = |flags: u8| [0, 0, 0, SETTINGS, flags, 0, 0, 0, 0];
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_TIMEOUT)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.write_all(&[PREFACE, &empty_settings(0)].concat())?;
    let mut head = [0; HEAD_BYTES];
    stream.read_exact(&mut head)?;
    if head[3] != SETTINGS {
        bail!("the server began with a frame of kind {}", head[3]);
    }
    // Acknowledged; what else the server sends stays unread.
    stream.write_all(&empty_settings(1))?;
    Ok(stream)
}
