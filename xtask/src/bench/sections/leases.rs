//! Puts beside a million leases that are kept alive, and beside a hundred thousand that run out at
//! once.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::{Bench, MEMBERS, Record, Section, counted, put, say, stop};
use crate::bench::cluster::{Cluster, metric};
use crate::bench::record::METASTORE;
use crate::bench::stop::Tool;
use crate::bench::tools;

pub(super) const SECTION: Section = Section {
    name: "leases",
    about: "puts beside 1,000,000 leases kept alive, and beside 100,000 that expire at once",
    how: "MetaStore alone, three members; puts of `metactl bench put`, open loop at 5,000/s. Leases of 600 s \
          are renewed every 200 s, 5,000/s. Those that expire hold a key each; they are granted, then all members are \
          restarted: a new leader gives every lease its whole time again, so all end together.",
    round,
};

pub(in crate::bench) const IDLE: &str = "put at 5,000/s, no leases";
pub(in crate::bench) const KEPT: &str = "put at 5,000/s, 1,000,000 leases kept alive";
pub(in crate::bench) const EXPIRING: &str = "put at 5,000/s, 100,000 leases expiring";
pub(in crate::bench) const SHARE_OF_DUE: &str = "keep-alives by those due";
const EXPIRED: &str = "leases that expired meanwhile";

const RATE: f64 = 5_000.0;
const PUT_S: f64 = 10.0;
const LEASES: u64 = 1_000_000;
const TTL_S: u64 = 600;
/// How often the load generator renews a lease.
const RENEWALS_PER_TTL: f64 = 3.0;
/// Longest wait until all leases are granted.
const GRANT_TIMEOUT: Duration = Duration::from_secs(300);
const EXPIRING_LEASES: u64 = 100_000;
const EXPIRING_TTL_S: u64 = 20;
/// Puts begin before the leases run out; revoking all of them may take longer than this.
const EXPIRY_S: f64 = 12.0;
const LEAD_S: f64 = 2.0;
const EXPIRED_METRIC: &str = "etcd_debugging_server_lease_expired_total";

fn round(bench: &Bench, record: &mut Record) -> Result<()> {
    let cluster = bench.start(METASTORE, MEMBERS)?;
    let endpoints = cluster.endpoints();
    say("  no leases");
    put(bench, &endpoints, Some(RATE), bench.seconds(PUT_S))?
        .load()?
        .add_to(record, IDLE, METASTORE);
    say("  kept alive");
    record.attempt(KEPT, |record| kept(bench, &cluster, record))?;
    cluster.stop()?;
    say("  expiring");
    record.attempt(EXPIRING, |record| expiring(bench, record))
}

fn kept(bench: &Bench, cluster: &Cluster, record: &mut Record) -> Result<()> {
    let leases = bench.count(LEASES, 1_000);
    let seconds = bench.seconds(PUT_S);
    // It outlasts the puts; its own warm-up and end are not theirs.
    let around = 8.0;
    // In words, since with --json nothing tells granting from renewing.
    let mut keeping = stop::command(&bench.metactl);
    keeping
        .args(["--endpoints", &cluster.endpoints(), "bench", "lease", "keepalive", "--keep"])
        .args(["--leases", &leases.to_string(), "--ttl", &TTL_S.to_string()])
        .args(["--connections", "50", "--duration", &(seconds + around).to_string()]);
    let began = Instant::now();
    let mut keeping = Tool::start(keeping)?;
    while !is_renewing(&keeping.messages()) {
        if keeping.is_over()? {
            let said = keeping.finish(Duration::ZERO).map(drop);
            return said.and(Err(anyhow::anyhow!("the keep-alives ended before the puts")));
        }
        if began.elapsed() >= GRANT_TIMEOUT {
            bail!("{leases} leases were not granted within {GRANT_TIMEOUT:?}");
        }
        stop::pause(Duration::from_millis(200))?;
    }
    record.add(KEPT, "s until all were granted", METASTORE, began.elapsed().as_secs_f64());
    let load = put(bench, &cluster.endpoints(), Some(RATE), seconds)?.load()?;
    ensure!(!keeping.is_over()?, "the keep-alives ended before the puts");
    load.add_to(record, KEPT, METASTORE);
    let said = keeping.finish(tools::limit(seconds))?;
    let (rate, p99) = renewals(&said).with_context(|| format!("metactl bench said: {said}"))?;
    record.add(KEPT, "keep-alives/s", METASTORE, rate);
    let due = leases as f64 * RENEWALS_PER_TTL / TTL_S as f64;
    record.add(KEPT, SHARE_OF_DUE, METASTORE, rate / due);
    record.add(KEPT, "keep-alive p99 ms", METASTORE, p99);
    let memory = cluster.memory()?.bytes() as f64 / f64::from(1 << 20);
    record.add(KEPT, "resident MiB", METASTORE, memory);
    Ok(())
}

/// Whether granting is over, by the load generator's lines of progress.
fn is_renewing(messages: &str) -> bool {
    messages.lines().any(|line| line.contains(" done, ") && !line.contains("preparing"))
}

/// Keep-alives a second and their p99 in ms, out of the report in words. With refusals or lost answers: none.
fn renewals(said: &str) -> Option<(f64, f64)> {
    let line = |name: &str| said.lines().find_map(|line| line.trim_start().strip_prefix(name));
    if line("refused").is_some() || line("lost").is_some() {
        return None;
    }
    let rate = line("done ")?.rsplit_once(", ")?.1.strip_suffix("/s")?.parse().ok()?;
    let (_, p99) = line("latency ")?.split_once("p99 ")?;
    Some((rate, p99.split_once(',')?.0.parse().ok()?))
}

fn expiring(bench: &Bench, record: &mut Record) -> Result<()> {
    let mut cluster = bench.start(METASTORE, MEMBERS)?;
    let leases = bench.count(EXPIRING_LEASES, 1_000);
    let ttl = EXPIRING_TTL_S.to_string();
    let words = ["lease", "grant", "--connections", "10", "--clients", "500", "--ttl", &ttl];
    // A lease and its key are two requests.
    let words = [&words[..], &["--with-key", "--keep"]].concat();
    counted(bench, &cluster.endpoints(), &words, 2 * leases)?;
    cluster.restart()?;
    stop::pause(Duration::from_secs_f64(EXPIRING_TTL_S as f64 - LEAD_S))?;
    // The leader counts them.
    let leader = cluster.leader()?;
    let before = metric(leader, EXPIRED_METRIC)?;
    // Not shortened: that they run out is waited for.
    let load = put(bench, &cluster.endpoints(), Some(RATE), EXPIRY_S)?.load()?;
    load.add_to(record, EXPIRING, METASTORE);
    let expired = metric(leader, EXPIRED_METRIC)? - before;
    record.add(EXPIRING, EXPIRED, METASTORE, expired);
    ensure!(expired > 0.0, "no lease ran out while puts were measured ({before} before)");
    cluster.stop()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn granting_is_told_from_renewing() {
        let granting = "  preparing, 1 s: 25 done, 25/s, p99 2.50 ms\n";
        assert!(!is_renewing("") && !is_renewing(granting));
        assert!(is_renewing(&format!("{granting}  warm-up, 1 s: 9 done, 9/s, p99 2.50 ms\n")));
    }

    #[test]
    fn a_report_in_words_is_read_and_one_with_refusals_is_not() {
        let said = "keep-alive of 9 leases\n  done         50 in 10.00 s, 5/s\n  \
                    latency      ms: mean 1.00, p50 0.90, p90 1.20, p99 2.50, p99.9 3.00, max 4.00\n";
        assert_eq!(renewals(said), Some((5.0, 2.5)));
        assert_eq!(renewals(&format!("{said}  refused      4 x no such lease\n")), None);
        assert_eq!(renewals(&format!("{said}  lost         4 x connection lost\n")), None);
        assert_eq!(renewals("nothing of the kind"), None);
    }
}
