//! The project's own load generator, which is cheap enough to show what the servers can do: the
//! maximum, then fixed rates, where latency is not throughput said in other words.

use std::net::SocketAddr;

use anyhow::{Context, Result};

use super::{Bench, MEMBERS, Record, SYSTEMS, Section, put, say, stop};
use crate::bench::cluster::Echo;
use crate::bench::record::{ECHO, ETCD, METASTORE};
use crate::bench::tools::{self, Load, OPS_PER_S, Report};

pub(super) const SECTION: Section = Section {
    name: "open-loop",
    about: "metactl bench put: closed loop, highest open-loop rate, equal offered loads",
    how: "`metactl bench put`, three members, distinct values of 256 B that do not compress, 1,000 \
          clients over 100 connections, all on the leader unless it says otherwise; in an open loop requests fall due at fixed times and their \
          latency counts from then. CPU is that of the members that are asked: of the leader alone, of \
          all three where the load is spread. The highest rate is sought in five halvings between 30 % and 100 % \
          of the closed loop's. The echo (server/examples/echo.rs, one current-thread runtime) is loaded twice: by \
          the same generator, which writes the frames of many calls in one go and is answered likewise, and by an \
          ordinary tonic client, one current-thread runtime with 64 connections and 1,000 calls under way.",
    round,
};

pub(in crate::bench) const CLOSED: &str = "closed loop";
/// What the goals call the unary echo: an ordinary client, not our generator.
pub(in crate::bench) const ORDINARY: &str = "closed loop, ordinary tonic client";
pub(in crate::bench) const SPREAD: &str = "closed loop, spread over all members";
pub(in crate::bench) const HIGHEST: &str = "highest rate with p50 ≤ 10 ms and p99 ≤ 50 ms";
pub(in crate::bench) const PUTS_PER_SYNC: &str = "puts per log sync";

const SHARES: [(f64, &str); 2] = [(0.5, "50 % of etcd's maximum"), (0.8, "80 % of etcd's maximum")];
const RATES: [(f64, &str); 3] =
    [(1e3, "1,000 puts/s"), (5e3, "5,000 puts/s"), (9e3, "9,000 puts/s")];
/// Bounds within which a rate is carried.
const P50_MS_MAX: f64 = 10.0;
const P99_MS_MAX: f64 = 50.0;
/// Of the closed loop's maximum: where the highest rate is sought.
const SOUGHT_FROM: f64 = 0.3;
const HALVINGS: usize = 5;

const CLOSED_S: f64 = 8.0;
const RATE_S: f64 = 6.0;
const STEP_S: f64 = 5.0;

fn round(bench: &Bench, record: &mut Record) -> Result<()> {
    for system in SYSTEMS {
        say(&format!("  {system}"));
        let cluster = bench.start(system, MEMBERS)?;
        let leader = cluster.leader()?;
        let spread = put(bench, &cluster.endpoints(), None, bench.seconds(CLOSED_S))?;
        spread.load()?.add_to(record, SPREAD, system);
        let closed = put(bench, &leader, None, bench.seconds(CLOSED_S))?;
        closed.load()?.add_to(record, CLOSED, system);
        if let Some(puts) = closed.ops_per_sync() {
            record.add(CLOSED, PUTS_PER_SYNC, system, puts);
        }
        // Of this very round: etcd's turn is the first.
        let rounds = record.of(CLOSED, OPS_PER_S, ETCD);
        let most = *rounds.and_then(<[f64]>::last).context("etcd has no maximum")?;
        let shares = SHARES.map(|(share, case)| (share * most, case));
        for (rate, case) in shares.into_iter().chain(RATES) {
            let report = put(bench, &leader, Some(rate), bench.seconds(RATE_S))?;
            report.load()?.add_to(record, case, system);
        }
        if system == METASTORE {
            let most = closed.load()?.ops_per_s;
            record
                .attempt("highest open-loop rate", |record| seek(bench, &leader, most, record))?;
        }
        cluster.stop()?;
    }
    say("  echo");
    let echo = Echo::start(&bench.echo)?;
    let report = put(bench, &echo.address, None, bench.seconds(CLOSED_S))?;
    report.load()?.add_to(record, CLOSED, ECHO);
    record.attempt("echo, ordinary tonic client", |record| {
        ordinary(bench, &echo)?.add_to(record, ORDINARY, ECHO);
        Ok(())
    })
}

/// The echo as an ordinary client finds it.
fn ordinary(bench: &Bench, echo: &Echo) -> Result<Load> {
    let seconds = bench.seconds(CLOSED_S).ceil();
    let command = tools::echo_call(&bench.echo, echo.address, seconds as u64);
    let before = echo.cpu_us()?;
    let report = Report::of(&stop::run(command, tools::limit(seconds))?)?;
    let spent = echo.cpu_us()? - before;
    report.load_at(spent as f64 / report.number("/calls")?)
}

/// The highest rate carried within the bounds.
fn seek(bench: &Bench, leader: &SocketAddr, most: f64, record: &mut Record) -> Result<()> {
    let mut best = None;
    let (mut low, mut high) = (SOUGHT_FROM * most, most);
    for _ in 0..HALVINGS {
        let rate = f64::midpoint(low, high);
        let load = put(bench, leader, Some(rate), bench.seconds(STEP_S))?.load()?;
        if load.p50_ms <= P50_MS_MAX && load.p99_ms <= P99_MS_MAX {
            (low, best) = (rate, Some(load));
        } else {
            high = rate;
        }
    }
    let best = best.with_context(|| {
        format!("no rate from {low:.0}/s on had p50 ≤ {P50_MS_MAX} ms and p99 ≤ {P99_MS_MAX} ms")
    })?;
    best.add_to(record, HIGHEST, METASTORE);
    Ok(())
}
