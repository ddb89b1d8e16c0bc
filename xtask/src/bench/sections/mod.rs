//! The parts of a run. Each measures one round of its own, all by itself.

pub(super) mod etcd_tool;
pub(super) mod growth;
pub(super) mod leases;
pub(super) mod memory;
mod memory_limit;
mod network;
pub(super) mod open_loop;
mod shape;
mod slow_sync;
mod snapshot;
pub(super) mod watch;

use std::fmt::Display;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::cluster::Cluster;
use super::record::{ETCD, METASTORE, Record};
use super::tools::{self, Load, Report};
use super::{Bench, say, stop};

/// In the order they take turns in.
const SYSTEMS: [&str; 2] = [ETCD, METASTORE];
/// Members where nothing else is said.
const MEMBERS: usize = 3;
/// What is put.
const VALUE_BYTES: &str = "256";
const KEY_SPACE: &str = "1000000";
/// Longest run of a tool whose work is counted and not timed.
const TOOL_TIMEOUT: Duration = Duration::from_secs(600);

/// One part of a run.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    /// How it was measured, for the document.
    pub(super) how: &'static str,
    pub(super) round: fn(&Bench, &mut Record) -> Result<()>,
}

/// In order of importance.
pub(super) const SECTIONS: [Section; 13] = [
    etcd_tool::SECTION,
    open_loop::SECTION,
    memory::SECTION,
    memory_limit::SECTION,
    slow_sync::SECTION,
    shape::MEMBERS_SECTION,
    shape::SOURCE_SECTION,
    shape::CONNECTIONS_SECTION,
    snapshot::SECTION,
    growth::SECTION,
    watch::SECTION,
    leases::SECTION,
    network::SECTION,
];

/// One run of etcd's load tool; the CPU is what `cpu_us` counts before and after it.
fn etcd_tool(
    bench: &Bench,
    endpoints: &dyn Display,
    words: &[&str],
    ops: u64,
    cpu_us: &dyn Fn() -> Result<u64>,
) -> Result<Load> {
    let before = cpu_us()?;
    let mut command = stop::command(&bench.load);
    command.args(["--endpoints", &endpoints.to_string()]).args(words);
    command.args(["--total", &ops.to_string()]);
    let said = stop::run(command, TOOL_TIMEOUT)?;
    let after = cpu_us()?;
    let mut load = Load::of_etcd_tool(&said)?;
    load.cpu_us_per_op = (after - before) as f64 / ops as f64;
    Ok(load)
}

/// The words of a put by etcd's load tool.
const ETCD_TOOL_PUT: [&str; 6] =
    ["put", "--val-size", VALUE_BYTES, "--sequential-keys", "--key-space-size", KEY_SPACE];

/// A put load of etcd's tool on a cluster, all of it on the leader.
fn etcd_tool_put(
    bench: &Bench,
    cluster: &Cluster,
    connections: &str,
    clients: &str,
    ops: u64,
) -> Result<Load> {
    let clients = ["--target-leader", "--conns", connections, "--clients", clients];
    let words = [&clients[..], &ETCD_TOOL_PUT].concat();
    etcd_tool(bench, &cluster.endpoints(), &words, ops, &|| cluster.cpu_us())
}

/// One run of `metactl bench` that lasts so long.
fn timed(bench: &Bench, endpoints: &dyn Display, words: &[&str], seconds: f64) -> Result<Report> {
    let mut command = tools::bench(&bench.metactl, endpoints);
    command.args(words).args(["--duration", &seconds.to_string()]);
    Report::of(&stop::run(command, tools::limit(seconds))?)
}

/// One run of `metactl bench` with so many requests.
fn counted(bench: &Bench, endpoints: &dyn Display, words: &[&str], ops: u64) -> Result<Report> {
    let mut command = tools::bench(&bench.metactl, endpoints);
    command.args(words).args(["--total", &ops.to_string()]);
    Report::of(&stop::run(command, TOOL_TIMEOUT)?)
}

/// Puts by `metactl bench`, 1,000 clients over 100 connections; `rate`: open loop.
fn put(bench: &Bench, endpoints: &dyn Display, rate: Option<f64>, seconds: f64) -> Result<Report> {
    let mut words = vec!["put", "--connections", "100", "--clients", "1000"];
    let rate = rate.map(|rate| format!("{rate:.0}"));
    if let Some(rate) = &rate {
        words.extend(["--rate", rate]);
    }
    timed(bench, endpoints, &words, seconds)
}

/// Writes so many keys, each once.
fn fill(bench: &Bench, cluster: &Cluster, keys: u64) -> Result<Report> {
    let space = keys.to_string();
    let words = ["put", "--connections", "100", "--clients", "500", "--key-space", &space];
    counted(bench, &cluster.endpoints(), &words, keys)
}

/// `etcdctl` at one or more endpoints.
fn etcdctl(bench: &Bench, endpoints: &dyn Display) -> Command {
    let mut command = stop::command(&bench.etcdctl);
    command.args(["--command-timeout", "120s", "--endpoints", &endpoints.to_string()]);
    command
}
