//! `metactl bench`: load on any etcd v3 endpoint, and what it costs.
//!
//! Written to be much cheaper than the servers it measures: see `load` for how. Server CPU and
//! memory come from `/proc` when the servers run on this machine.

mod load;
mod report;
mod requests;
mod watchers;

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use bytes::Bytes;
use clap::{Args, Subcommand, ValueEnum};
use client::raw::Method;

use crate::cli::Target;
use load::{Amount, Plan, Requests};
use report::{Report, Watched};
use requests::{KEY_BYTES_MAX, KEY_BYTES_MIN, Random, VALUE_BYTES_MAX};
use watchers::Audience;

/// Most connections and clients one run takes.
const CONNECTIONS_MAX: usize = 10_000;
/// Most threads.
const THREADS_MAX: usize = 64;

#[derive(Debug, Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Debug, Subcommand)]
enum Kind {
    /// Write keys
    Put {
        #[command(flatten)]
        load: Load,
        #[command(flatten)]
        keys: Keys,
        /// Bytes of a value; all values differ and do not compress
        #[arg(long, default_value_t = 256)]
        value_bytes: usize,
    },
    /// Read one key at a time (fill the key space with `put` before)
    Range {
        #[command(flatten)]
        load: Load,
        #[command(flatten)]
        keys: Keys,
        /// l: linearizable, through the leader; s: serializable, from the member asked
        #[arg(long, default_value = "l")]
        consistency: Consistency,
    },
    /// Write keys that many watchers watch, and see when each learns of it
    Watch {
        #[command(flatten)]
        load: Load,
        #[command(flatten)]
        keys: Keys,
        /// Bytes of a value, at least 8
        #[arg(long, default_value_t = 256)]
        value_bytes: usize,
        /// Watchers of the whole key space, each on a stream of its own
        #[arg(long, default_value_t = 100)]
        watchers: usize,
        /// Connections the watchers share
        #[arg(long, default_value_t = 10)]
        watch_connections: usize,
    },
}

#[derive(Debug, Args)]
struct Load {
    /// HTTP/2 connections, spread over the endpoints
    #[arg(long, default_value_t = 10)]
    connections: usize,
    /// Requests under way at a time, spread over the connections
    #[arg(long, default_value_t = 100)]
    clients: usize,
    /// Threads of this program (default: half the cores)
    #[arg(long)]
    threads: Option<usize>,
    /// Stop after so many requests
    #[arg(long, conflicts_with = "duration")]
    total: Option<u64>,
    /// Stop after so many seconds (default 10)
    #[arg(long, value_name = "SECONDS")]
    duration: Option<f64>,
    /// Seconds of the same load before measuring begins (default 1, with --total 0)
    #[arg(long, value_name = "SECONDS")]
    warmup: Option<f64>,
    /// Send so many requests a second whatever becomes of them (open loop), instead of each client
    /// sending its next when its last is answered
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<f64>,
    /// Server processes to measure (default: those that listen at the endpoints, if on this machine)
    #[arg(long, value_delimiter = ',')]
    pid: Vec<u32>,
}

#[derive(Debug, Args)]
struct Keys {
    /// Bytes of a key
    #[arg(long, default_value_t = 16)]
    key_bytes: usize,
    /// How many different keys there are
    #[arg(long, default_value_t = 1_000_000)]
    key_space: u64,
    /// In which order they are taken
    #[arg(long, default_value = "sequential")]
    keys: Order,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Order {
    Sequential,
    Uniform,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Consistency {
    #[value(name = "l")]
    Linearizable,
    #[value(name = "s")]
    Serializable,
}

impl Load {
    fn plan(&self, target: &Target) -> Result<Plan> {
        let within = |name: &str, value: usize, max: usize| match value {
            0 => bail!("--{name} must be at least 1"),
            value if value > max => bail!("--{name} {value}: at most {max}"),
            value => Ok(value),
        };
        let seconds = |name: &str, value: f64| {
            Duration::try_from_secs_f64(value)
                .map_err(|_| anyhow::anyhow!("--{name} {value}: not a number of seconds"))
        };
        let clients = within("clients", self.clients, CONNECTIONS_MAX)?;
        // A connection without a client would be idle.
        let connections = within("connections", self.connections, CONNECTIONS_MAX)?.min(clients);
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = within("threads", self.threads.unwrap_or(cores.div_ceil(2)), THREADS_MAX)?;
        if let Some(rate) = self.rate
            && !(rate > 0.0 && rate.is_finite())
        {
            bail!("--rate {rate}: must be above 0");
        }
        let amount = match (self.total, self.duration) {
            (Some(0), _) => bail!("--total must be at least 1"),
            (Some(total), _) => Amount::Total(total),
            (None, duration) => {
                let duration = seconds("duration", duration.unwrap_or(10.0))?;
                if duration.is_zero() {
                    bail!("--duration must be above 0");
                }
                Amount::Lasting(duration)
            }
        };
        let warmup = self.warmup.unwrap_or(if self.total.is_some() { 0.0 } else { 1.0 });
        Ok(Plan {
            target: target.clone(),
            connections,
            clients,
            threads: threads.min(connections),
            warmup: seconds("warmup", warmup)?,
            amount,
            rate: self.rate,
        })
    }
}

impl Keys {
    fn check(&self) -> Result<()> {
        if !(KEY_BYTES_MIN..=KEY_BYTES_MAX).contains(&self.key_bytes) {
            bail!("--key-bytes {}: from {KEY_BYTES_MIN} to {KEY_BYTES_MAX}", self.key_bytes);
        }
        if self.key_space == 0 {
            bail!("--key-space must be at least 1");
        }
        if !requests::key_space_fits(self.key_space, self.key_bytes) {
            bail!("--key-space {}: more keys than --key-bytes tell apart", self.key_space);
        }
        Ok(())
    }

    fn choose(&self, client: usize, seed: u64) -> Choice {
        Choice {
            random: Random::new(seed ^ (client as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            bytes: self.key_bytes,
            space: self.key_space,
            order: self.keys,
        }
    }
}

/// Chooses the keys of one client.
#[derive(Clone, Debug)]
struct Choice {
    random: Random,
    bytes: usize,
    space: u64,
    order: Order,
}

impl Choice {
    fn next(&mut self, index: u64) -> u64 {
        match self.order {
            Order::Sequential => index % self.space,
            Order::Uniform => self.random.below(self.space),
        }
    }
}

struct Puts {
    keys: Choice,
    value_bytes: usize,
    /// Values begin with the time since then, in nanoseconds.
    stamped_since: Option<Instant>,
}

impl Requests for Puts {
    fn method() -> Method {
        Method::new("/etcdserverpb.KV/Put")
    }

    fn next(&mut self, index: u64) -> Bytes {
        let key = self.keys.next(index);
        let stamp = self.stamped_since.map(nanoseconds_since);
        requests::put(&mut self.keys.random, key, self.keys.bytes, self.value_bytes, stamp)
    }
}

fn nanoseconds_since(then: Instant) -> u64 {
    u64::try_from(then.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

struct Ranges {
    keys: Choice,
    serializable: bool,
}

impl Requests for Ranges {
    fn method() -> Method {
        Method::new("/etcdserverpb.KV/Range")
    }

    fn next(&mut self, index: u64) -> Bytes {
        let key = self.keys.next(index);
        requests::range(key, self.keys.bytes, self.serializable)
    }

    // Reading nothing would look fast.
    fn check(answer: &Bytes) -> std::result::Result<(), &'static str> {
        requests::has_kvs(answer)
            .then_some(())
            .ok_or("the key does not exist (fill the key space with `put` first)")
    }
}

impl Bench {
    pub(crate) fn run(&self, target: &Target, json: bool, out: &mut dyn Write) -> Result<()> {
        let report = self.kind.run(target)?;
        if json {
            serde_json::to_writer(&mut *out, &report)?;
            writeln!(out)?;
        } else {
            report.write(out)?;
        }
        Ok(())
    }
}

impl Kind {
    fn run(&self, target: &Target) -> Result<Report> {
        // Values must differ from one run to the next, or a second run writes what is there.
        let seed = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos() as u64);
        match self {
            Kind::Put { load, keys, value_bytes } => {
                check_value(*value_bytes, 0)?;
                keys.check()?;
                let plan = load.plan(target)?;
                let watched = Watched::new(&load.pid, &target.endpoints)?;
                let puts = |client| Puts {
                    keys: keys.choose(client, seed),
                    value_bytes: *value_bytes,
                    stamped_since: None,
                };
                let outcome = load::run(&plan, puts, || watched.sample(), show)?;
                let name = format!("put of {value_bytes} B, {}", words(&plan, keys));
                Ok(Report::new(name, &watched, &outcome))
            }
            Kind::Range { load, keys, consistency } => {
                keys.check()?;
                let plan = load.plan(target)?;
                let watched = Watched::new(&load.pid, &target.endpoints)?;
                let serializable = *consistency == Consistency::Serializable;
                let ranges = |client| Ranges { keys: keys.choose(client, seed), serializable };
                let outcome = load::run(&plan, ranges, || watched.sample(), show)?;
                let kind = if serializable { "serializable" } else { "linearizable" };
                let name = format!("{kind} range of one key, {}", words(&plan, keys));
                Ok(Report::new(name, &watched, &outcome))
            }
            Kind::Watch { load, keys, value_bytes, watchers, watch_connections } => {
                check_value(*value_bytes, 8)?;
                keys.check()?;
                if !(1..=CONNECTIONS_MAX).contains(watchers) {
                    bail!("--watchers {watchers}: from 1 to {CONNECTIONS_MAX}");
                }
                if !(1..=CONNECTIONS_MAX).contains(watch_connections) {
                    bail!("--watch-connections {watch_connections}: from 1 to {CONNECTIONS_MAX}");
                }
                if load.warmup.is_some_and(|warmup| warmup > 0.0) {
                    bail!("--warmup: a watch load counts every event from the first");
                }
                let plan = Plan { warmup: Duration::ZERO, ..load.plan(target)? };
                let watched = Watched::new(&load.pid, &target.endpoints)?;
                let since = Instant::now();
                let connections = (*watch_connections).min(*watchers);
                let audience = Audience::gather(target, *watchers, connections, since)?;
                let puts = |client| Puts {
                    keys: keys.choose(client, seed),
                    value_bytes: *value_bytes,
                    stamped_since: Some(since),
                };
                let mut outcome = load::run(&plan, puts, || watched.sample(), show)?;
                // The load is over when the last watcher has heard of the last put.
                let waiting = Instant::now();
                let heard = audience.finish(outcome.recorder.latency_us.len())?;
                outcome.elapsed += waiting.elapsed();
                outcome.after = watched.sample()?;
                let name = format!(
                    "put of {value_bytes} B seen by {watchers} watchers, {}",
                    words(&plan, keys)
                );
                let mut report = Report::new(name, &watched, &outcome);
                report.delivered(&heard, outcome.elapsed);
                Ok(report)
            }
        }
    }
}

fn check_value(bytes: usize, min: usize) -> Result<()> {
    if !(min..=VALUE_BYTES_MAX).contains(&bytes) {
        bail!("--value-bytes {bytes}: from {min} to {VALUE_BYTES_MAX}");
    }
    Ok(())
}

fn words(plan: &Plan, keys: &Keys) -> String {
    let order = match keys.keys {
        Order::Sequential => "sequential",
        Order::Uniform => "uniform",
    };
    let pace = match plan.rate {
        None => "closed loop".to_owned(),
        Some(rate) => format!("open loop at {rate}/s"),
    };
    format!(
        "{} connections, {} clients, {} threads, {order} over {} keys of {} B, {pace}",
        plan.connections, plan.clients, plan.threads, keys.key_space, keys.key_bytes
    )
}

/// Progress goes to standard error, so that reports can be piped.
fn show(done: u64, last_second: u64) {
    drop(writeln!(std::io::stderr(), "  {done} done, {last_second}/s"));
}
