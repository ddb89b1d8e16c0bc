//! What a load has shown, for people and for programs.

use std::io::{self, Write};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::cost::{Sample, Watched};
use super::load::{End, Outcome};
use super::recorder::{Second, Tally, histogram};
use crate::procfs::Usage;

/// Points of a latency curve each time the rest halves.
const CURVE_POINTS_PER_HALVING: u32 = 4;

/// Milliseconds at which so much of the requests had been answered.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) mean_ms: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p90_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) max_ms: f64,
}

impl Latency {
    fn of(us: &Histogram<u64>) -> Self {
        let at = |quantile| us.value_at_quantile(quantile) as f64 / 1e3;
        Latency {
            mean_ms: us.mean() / 1e3,
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: us.max() as f64 / 1e3,
        }
    }
}

/// Requests of one kind.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Kind {
    pub(crate) name: String,
    pub(crate) ops: u64,
    pub(crate) ops_per_s: f64,
    pub(crate) latency: Latency,
    /// Parts of all requests, each with the milliseconds after which so many had been answered.
    pub(crate) curve: Vec<(f64, f64)>,
}

impl Kind {
    fn of(name: &str, us: &Histogram<u64>, elapsed: Duration) -> Self {
        let curve = us
            .iter_quantiles(CURVE_POINTS_PER_HALVING)
            .map(|step| (step.quantile_iterated_to(), step.value_iterated_to() as f64 / 1e3))
            .collect();
        Kind {
            name: name.to_owned(),
            ops: us.len(),
            ops_per_s: rate(us.len(), elapsed),
            latency: Latency::of(us),
            curve,
        }
    }
}

/// One server process on this machine.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Server {
    pub(crate) pid: u32,
    pub(crate) name: String,
    pub(crate) cpu_us_per_op: f64,
    pub(crate) rss_anon_bytes: u64,
    pub(crate) rss_file_bytes: u64,
    pub(crate) rss_peak_bytes: u64,
    /// In pages it dirtied; only if this user may know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) written_bytes: Option<u64>,
}

/// How an endpoint's log was synced.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LogSyncs {
    pub(crate) endpoint: String,
    pub(crate) count: u64,
    /// `None`: there were none.
    pub(crate) mean_ms: Option<f64>,
    /// Requests of the whole load for each sync.
    pub(crate) ops_per_sync: Option<f64>,
}

/// Everything one run has shown.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// What was run, in words.
    pub(crate) load: String,
    /// A signal ended it before its time.
    pub(crate) interrupted: bool,
    /// Why it ended before its time, if not by a signal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failed: Option<String>,
    pub(crate) elapsed_s: f64,
    pub(crate) ops: u64,
    pub(crate) ops_per_s: f64,
    pub(crate) latency: Latency,
    /// Keys read, where a request reads several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) keys_per_s: Option<f64>,
    /// The kinds of requests; one or several.
    pub(crate) kinds: Vec<Kind>,
    /// What the server refused, by its words.
    pub(crate) refusals: Tally,
    /// Requests whose answers did not come, by the reason: they may have been carried out.
    pub(crate) lost: Tally,
    /// Empty if no server runs on this machine.
    pub(crate) servers: Vec<Server>,
    /// Servers of this machine that ended during the load; nothing else is known of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) ended_pids: Vec<u32>,
    /// All servers together.
    pub(crate) server_cpu_us_per_op: f64,
    /// Given to the disks of this machine by all its programs; only with servers here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) disks_written_bytes: Option<u64>,
    /// Of the endpoints whose metrics pages tell.
    pub(crate) log_syncs: Vec<LogSyncs>,
    /// What this program itself used.
    pub(crate) own_cpu_us_per_op: f64,
    /// Only of a watch load: what reached the watchers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) delivery: Option<Delivery>,
    /// How it went, second by second.
    pub(crate) seconds: Vec<Second>,
}

/// Events as they reached their watchers.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Delivery {
    pub(crate) events: u64,
    pub(crate) events_per_s: f64,
    /// From sending the put to receiving the event.
    pub(crate) latency: Latency,
    pub(crate) server_cpu_us_per_event: f64,
}

impl Report {
    /// `kinds`: the names of the outcome's kinds. Also how the load ended.
    pub(crate) fn new(
        load: String,
        kinds: &[&str],
        watched: &Watched,
        outcome: Outcome,
    ) -> (Self, End) {
        let (ops, elapsed) = (outcome.ops(), outcome.elapsed);
        let mut all = histogram();
        for kind in &outcome.kinds {
            all.add(kind).expect("equal bounds");
        }
        let kinds = kinds.iter().zip(&outcome.kinds);
        let (before, after) = &outcome.cost;
        let disks = |sample: &Sample| sample.disks_written_bytes;
        let disks_written_bytes = (!watched.processes.is_empty())
            .then(|| Some(disks(after)?.saturating_sub(disks(before)?)))
            .flatten();
        let servers = servers(watched, before, after, ops);
        let is_there = |pid: &u32| servers.iter().any(|server| server.pid == *pid);
        let pids = watched.processes.iter().map(|(pid, _)| *pid);
        let report = Report {
            load,
            interrupted: matches!(outcome.end, End::Signal(_)),
            failed: match &outcome.end {
                End::Failed(error) => Some(format!("{error:#}")),
                End::Whole | End::Signal(_) => None,
            },
            elapsed_s: elapsed.as_secs_f64(),
            ops,
            ops_per_s: rate(ops, elapsed),
            latency: Latency::of(&all),
            keys_per_s: None,
            kinds: kinds.map(|(name, us)| Kind::of(name, us, elapsed)).collect(),
            refusals: outcome.refusals,
            lost: outcome.lost,
            ended_pids: pids.filter(|pid| !is_there(pid)).collect(),
            server_cpu_us_per_op: servers
                .iter()
                .fold(0.0, |sum, server| sum + server.cpu_us_per_op),
            servers,
            disks_written_bytes,
            log_syncs: log_syncs(watched, before, after, ops),
            own_cpu_us_per_op: cpu_us_per_op(after.own, before.own, ops),
            delivery: None,
            seconds: outcome.seconds,
        };
        (report, outcome.end)
    }

    /// Why it is no success although nothing ended it: not one request was answered well.
    pub(crate) fn fault(&self) -> Option<String> {
        let (said, _) = self.refusals.iter().chain(&self.lost).max_by_key(|(_, count)| **count)?;
        let count: u64 = self.refusals.values().chain(self.lost.values()).sum();
        (self.ops == 0).then(|| format!("none of {count} requests was answered well: {said}"))
    }

    /// Adds what reached the watchers.
    pub(crate) fn delivered(&mut self, heard: &Histogram<u64>, elapsed: Duration) {
        let events = heard.len();
        self.delivery = Some(Delivery {
            events,
            events_per_s: rate(events, elapsed),
            latency: Latency::of(heard),
            server_cpu_us_per_event: self.server_cpu_us_per_op * self.ops as f64
                / events.max(1) as f64,
        });
    }

    /// For people.
    pub(crate) fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        writeln!(to, "{}", self.load)?;
        if self.interrupted {
            writeln!(to, "  interrupted  results until then, without the requests under way")?;
        }
        if let Some(failed) = &self.failed {
            writeln!(to, "  failed       results until then: {failed}")?;
        }
        writeln!(
            to,
            "  done         {} in {:.2} s, {:.0}/s",
            self.ops, self.elapsed_s, self.ops_per_s
        )?;
        if let Some(keys_per_s) = self.keys_per_s {
            writeln!(to, "  keys read    {keys_per_s:.0}/s")?;
        }
        write_latency(to, "latency", &self.latency)?;
        if self.kinds.len() > 1 {
            for kind in &self.kinds {
                writeln!(to, "  {:<12} {}, {:.0}/s", kind.name, kind.ops, kind.ops_per_s)?;
                if kind.ops > 0 {
                    write_latency(to, "", &kind.latency)?;
                }
            }
        }
        if let Some(delivery) = &self.delivery {
            write!(
                to,
                "  delivered    {} events, {:.0}/s",
                delivery.events, delivery.events_per_s
            )?;
            if !self.servers.is_empty() {
                write!(to, ", server CPU {:.1} us each", delivery.server_cpu_us_per_event)?;
            }
            writeln!(to)?;
            write_latency(to, "delivery", &delivery.latency)?;
        }
        for (said, count) in &self.refusals {
            writeln!(to, "  refused      {count} x {said}")?;
        }
        for (reason, count) in &self.lost {
            writeln!(to, "  lost         {count} x {reason}")?;
        }
        for pid in &self.ended_pids {
            writeln!(to, "  ended        pid {pid}, during the load")?;
        }
        if self.servers.is_empty() && !self.ended_pids.is_empty() {
            writeln!(to, "  server CPU   unknown: no server is left")?;
        } else if self.servers.is_empty() {
            writeln!(to, "  server CPU   unknown: no server at these endpoints on this machine")?;
        } else {
            writeln!(to, "  server CPU   {:.1} us per operation", self.server_cpu_us_per_op)?;
        }
        for server in &self.servers {
            writeln!(
                to,
                "    {:<10} pid {}: {:.1} us, resident {:.0} MiB anonymous + {:.0} MiB of files, peak {:.0} MiB",
                server.name,
                server.pid,
                server.cpu_us_per_op,
                mib(server.rss_anon_bytes),
                mib(server.rss_file_bytes),
                mib(server.rss_peak_bytes),
            )?;
        }
        if let Some(bytes) = self.disks_written_bytes {
            let per_op = self.per_op(bytes);
            writeln!(to, "  disks        {per_op:.0} B per operation, from all of this machine")?;
        }
        for syncs in &self.log_syncs {
            write!(to, "  log syncs    {}: {}", syncs.endpoint, syncs.count)?;
            match syncs.ops_per_sync.zip(syncs.mean_ms) {
                Some((ops, ms)) => writeln!(to, ", one for {ops:.1} operations, {ms:.2} ms each")?,
                None => writeln!(to)?,
            }
        }
        writeln!(to, "  own CPU      {:.1} us per operation", self.own_cpu_us_per_op)
    }

    pub(crate) fn per_op(&self, bytes: u64) -> f64 {
        bytes as f64 / self.ops.max(1) as f64
    }
}

pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn cpu_us_per_op(after: Usage, before: Usage, ops: u64) -> f64 {
    after.cpu_us.saturating_sub(before.cpu_us) as f64 / ops.max(1) as f64
}

fn servers(watched: &Watched, before: &Sample, after: &Sample, ops: u64) -> Vec<Server> {
    watched
        .processes
        .iter()
        .zip(before.processes.iter().zip(&after.processes))
        .filter_map(|((pid, name), (before, after))| {
            let (before, after) = ((*before)?, (*after)?);
            Some(Server {
                pid: *pid,
                name: name.clone(),
                cpu_us_per_op: cpu_us_per_op(after, before, ops),
                rss_anon_bytes: after.rss_anon_bytes,
                rss_file_bytes: after.rss_file_bytes,
                rss_peak_bytes: after.rss_peak_bytes,
                written_bytes: after
                    .written_bytes
                    .zip(before.written_bytes)
                    .map(|(after, before)| after.saturating_sub(before)),
            })
        })
        .collect()
}

fn log_syncs(watched: &Watched, before: &Sample, after: &Sample, ops: u64) -> Vec<LogSyncs> {
    watched
        .endpoints()
        .iter()
        .zip(before.syncs.iter().zip(&after.syncs))
        .filter_map(|(endpoint, (before, after))| {
            let (before, after) = ((*before)?, (*after)?);
            // One that was started anew began to count anew.
            if before.started_s != after.started_s {
                return None;
            }
            let count = after.count.saturating_sub(before.count);
            let took_s = (after.took_s - before.took_s).max(0.0);
            let per_sync = |sum: f64| (count > 0).then(|| sum / count as f64);
            Some(LogSyncs {
                endpoint: endpoint.clone(),
                count,
                mean_ms: per_sync(took_s * 1e3),
                ops_per_sync: per_sync(ops as f64),
            })
        })
        .collect()
}

fn rate(count: u64, elapsed: Duration) -> f64 {
    count as f64 / elapsed.as_secs_f64().max(1e-9)
}

fn write_latency(to: &mut dyn Write, name: &str, latency: &Latency) -> io::Result<()> {
    writeln!(
        to,
        "  {name:<12} ms: mean {:.2}, p50 {:.2}, p90 {:.2}, p99 {:.2}, p99.9 {:.2}, max {:.2}",
        latency.mean_ms,
        latency.p50_ms,
        latency.p90_ms,
        latency.p99_ms,
        latency.p999_ms,
        latency.max_ms,
    )
}
