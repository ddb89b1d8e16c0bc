//! What a load has shown, for people and for programs.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use serde::Serialize;

use super::load::Outcome;
use crate::procfs::{self, Usage};

/// The processes whose cost is measured.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    servers: Vec<(u32, String)>,
}

/// The cost of all watched processes and of this one at a moment.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    servers: Vec<Usage>,
    own: Usage,
}

impl Watched {
    /// The given processes, else those of this machine that listen at the endpoints.
    pub(crate) fn new(pids: &[u32], endpoints: &[String]) -> Result<Self> {
        let pids: Vec<u32> = if pids.is_empty() {
            use std::net::ToSocketAddrs;
            let addresses: Vec<_> = endpoints
                .iter()
                .map(|endpoint| endpoint.split_once("://").map_or(&endpoint[..], |(_, rest)| rest))
                .map(|endpoint| endpoint.trim_end_matches('/'))
                .filter_map(|endpoint| endpoint.to_socket_addrs().ok())
                .flatten()
                .collect();
            procfs::listeners(&addresses).into_iter().collect()
        } else {
            pids.to_vec()
        };
        for pid in &pids {
            if Usage::of(*pid).is_err() {
                bail!("--pid {pid}: no such process");
            }
        }
        Ok(Watched { servers: pids.into_iter().map(|pid| (pid, procfs::name(pid))).collect() })
    }

    /// Now.
    pub(crate) fn sample(&self) -> Result<Sample> {
        let of = |pid: u32| Usage::of(pid).with_context(|| format!("process {pid} is gone"));
        let servers: Result<Vec<Usage>> = self.servers.iter().map(|(pid, _)| of(*pid)).collect();
        Ok(Sample { servers: servers?, own: of(std::process::id())? })
    }
}

/// Milliseconds at which so much of the requests had been answered.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Latency {
    mean_ms: f64,
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    max_ms: f64,
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

/// One server process on this machine.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Server {
    pid: u32,
    name: String,
    cpu_us_per_op: f64,
    rss_anon_bytes: u64,
    rss_file_bytes: u64,
    rss_peak_bytes: u64,
}

/// Everything one run has shown.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// What was run, in words.
    pub(crate) load: String,
    pub(crate) elapsed_s: f64,
    pub(crate) ops: u64,
    pub(crate) ops_per_s: f64,
    pub(crate) latency: Latency,
    /// What the server refused, by its words.
    pub(crate) refusals: std::collections::BTreeMap<String, u64>,
    /// Empty if no server runs on this machine.
    pub(crate) servers: Vec<Server>,
    /// All servers together.
    pub(crate) server_cpu_us_per_op: f64,
    /// What this program itself used.
    pub(crate) own_cpu_us_per_op: f64,
    /// Only of a watch load: what reached the watchers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) delivery: Option<Delivery>,
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
    pub(crate) fn new(load: String, watched: &Watched, outcome: &Outcome<Sample>) -> Self {
        let Outcome { recorder, elapsed, before, after } = outcome;
        let ops = recorder.latency_us.len();
        let per_op = |after: Usage, before: Usage| {
            after.cpu_us.saturating_sub(before.cpu_us) as f64 / ops.max(1) as f64
        };
        let servers: Vec<Server> = watched
            .servers
            .iter()
            .zip(before.servers.iter().zip(&after.servers))
            .map(|((pid, name), (before, after))| Server {
                pid: *pid,
                name: name.clone(),
                cpu_us_per_op: per_op(*after, *before),
                rss_anon_bytes: after.rss_anon_bytes,
                rss_file_bytes: after.rss_file_bytes,
                rss_peak_bytes: after.rss_peak_bytes,
            })
            .collect();
        Report {
            load,
            elapsed_s: elapsed.as_secs_f64(),
            ops,
            ops_per_s: rate(ops, *elapsed),
            latency: Latency::of(&recorder.latency_us),
            refusals: recorder.refusals.clone(),
            server_cpu_us_per_op: servers.iter().map(|server| server.cpu_us_per_op).sum(),
            servers,
            own_cpu_us_per_op: per_op(after.own, before.own),
            delivery: None,
        }
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
        writeln!(
            to,
            "  done         {} in {:.2} s, {:.0}/s",
            self.ops, self.elapsed_s, self.ops_per_s
        )?;
        write_latency(to, "latency", &self.latency)?;
        if let Some(delivery) = &self.delivery {
            writeln!(
                to,
                "  delivered    {} events, {:.0}/s, server CPU {:.1} us each",
                delivery.events, delivery.events_per_s, delivery.server_cpu_us_per_event
            )?;
            write_latency(to, "delivery", &delivery.latency)?;
        }
        for (said, count) in &self.refusals {
            writeln!(to, "  refused      {count} x {said}")?;
        }
        if self.servers.is_empty() {
            writeln!(to, "  server CPU   unknown: no server at these endpoints on this machine")?;
        } else {
            writeln!(to, "  server CPU   {:.1} us per operation", self.server_cpu_us_per_op)?;
        }
        for server in &self.servers {
            let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
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
        writeln!(to, "  own CPU      {:.1} us per operation", self.own_cpu_us_per_op)
    }
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
