//! `metactl bench`: load on any etcd v3 endpoint, and what it costs.
//!
//! Written to be much cheaper than the servers it measures: see `load` and `requests` for how.
//! Server CPU, memory and written bytes come from `/proc` when the servers run on this machine, syncs
//! from their metrics pages. It writes keys under a prefix of its own and deletes none of them; leases it
//! was granted it gives back.

mod chart;
mod cost;
mod flags;
mod html;
mod idle;
mod interrupt;
mod keepalive;
mod keys;
mod kinds;
mod leases;
mod line;
mod load;
mod preflight;
mod progress;
mod recorder;
mod report;
mod requests;
mod shared;
mod unary;
mod watchers;
mod zipf;

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::BytesMut;
use clap::{Args, Subcommand};

use crate::cli::Target;
use cost::Watched;
use flags::{Base, CONNECTIONS_MAX, Consistency, Keys, Load, Ratio, Values};
use html::Place;
use idle::IdleWatchers;
use interrupt::Interrupt;
pub(crate) use interrupt::Interrupted;
use kinds::{Mixed, Puts, Ranges, Stamps, Swaps};
use leases::Granted;
use load::{End, Outcome, Plan, Worker};
use progress::Shower;
use report::Report;
use requests::{Asked, Span};
use unary::{Requests, clients};
use watchers::Audience;

/// Most keys that all clients together may be reading at a time.
const KEYS_UNDER_WAY_MAX: u64 = 2_000_000;
/// Most keys of a compare-and-swap load: their revisions are kept in memory.
const SWAPPED_KEYS_MAX: u64 = 1 << 24;
/// Most watchers that hear of nothing.
const IDLE_WATCHERS_MAX: usize = 1_000_000;
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
        #[command(flatten)]
        values: Values,
    },
    /// Read one key at a time, or several (fill the key space with `put` before)
    Range {
        #[command(flatten)]
        load: Load,
        #[command(flatten)]
        keys: Keys,
        /// l: linearizable, through the leader; s: serializable, from the member asked
        #[arg(long, default_value = "l")]
        consistency: Consistency,
        /// Keys that one request reads, from the chosen one on
        #[arg(long, value_name = "N")]
        keys_per_range: Option<u64>,
        /// Read by prefix: the whole key space, or with --keys-per-range (a power of ten) the keys
        /// that differ in their last digits only
        #[arg(long)]
        prefix: bool,
        /// Ask how many keys there are and for none of them
        #[arg(long, requires = "prefix")]
        count_only: bool,
    },
    /// Write keys if nobody wrote them since they were last looked at (compare-and-swap)
    Txn {
        #[command(flatten)]
        load: Load,
        #[command(flatten)]
        keys: Keys,
        #[command(flatten)]
        values: Values,
    },
    /// Read and write keys in turns (fill the key space with `put` before)
    Mixed {
        #[command(flatten)]
        load: Load,
        #[command(flatten)]
        keys: Keys,
        #[command(flatten)]
        values: Values,
        /// So many reads to so many writes
        #[arg(long, default_value = "9:1", value_name = "READS:WRITES")]
        ratio: Ratio,
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
        #[command(flatten)]
        values: Values,
        /// Watchers of the whole key space, each on a stream of its own
        #[arg(long, default_value_t = 100)]
        watchers: usize,
        /// Connections the watchers share
        #[arg(long, default_value_t = 10)]
        watch_connections: usize,
        /// Watchers besides, each of a key that nobody writes, many on a stream
        #[arg(long, default_value_t = 0)]
        idle_watchers: usize,
    },
    /// Grant leases, or keep them alive
    #[command(subcommand)]
    Lease(Lease),
}

#[derive(Debug, Subcommand)]
enum Lease {
    /// Grant leases; they are revoked at the end
    Grant {
        #[command(flatten)]
        load: Load,
        /// Time to live of a lease, in seconds
        #[arg(long, default_value_t = 60, value_name = "SECONDS")]
        ttl: u64,
        /// Write a key on each lease, which goes with it; --total and --rate count both
        #[arg(long)]
        with_key: bool,
        /// Leave the leases to run out by themselves instead of revoking them at the end
        #[arg(long)]
        keep: bool,
    },
    /// Grant leases, then renew each at a third of its time to live, over one stream a connection
    Keepalive {
        #[command(flatten)]
        base: Base,
        /// How many leases
        #[arg(long, default_value_t = 10_000)]
        leases: u64,
        /// Time to live of a lease, in seconds
        #[arg(long, default_value_t = 60, value_name = "SECONDS")]
        ttl: u64,
        /// Leave the leases to run out by themselves instead of revoking them at the end
        #[arg(long)]
        keep: bool,
    },
}

/// One run: what to load, how to show how it goes, and what sets its values apart from those of
/// other runs.
struct Run<'a> {
    target: &'a Target,
    json: bool,
    seed: u64,
    interrupt: Interrupt,
}

/// What a run gave.
struct Done {
    report: Report,
    end: End,
    /// To be revoked when the report has been shown.
    leases: Option<Granted>,
}

impl Bench {
    pub(crate) fn run(&self, target: &Target, json: bool, out: &mut dyn Write) -> Result<()> {
        // Values must differ from one run to the next, or a second run writes what is there.
        let seed = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos() as u64);
        let place = self.kind.base().html.as_deref().map(Place::check).transpose()?;
        let interrupt = Interrupt::listen()?;
        let run = Run { target, json, seed, interrupt };
        let Done { report, end, leases } = self.kind.run(&run)?;
        let failed = match end {
            End::Failed(error) => Some(error),
            End::Signal(_) => None,
            End::Whole => report.fault().map(anyhow::Error::msg),
        };
        // Where nothing was done there is nothing to show but why.
        let shown = match report.ops {
            0 if failed.is_some() => Ok(()),
            _ => show(&report, json, place, out),
        };
        if let Some(leases) = leases {
            leases.give_back(&run, failed.is_some());
        }
        match (failed, run.interrupt.asked()) {
            (Some(error), _) => Err(error),
            (None, _) if shown.is_err() => shown,
            (None, Some(signal)) => Err(Interrupted { signal, is_shown: true }.into()),
            (None, None) => Ok(()),
        }
    }
}

/// In both places, whatever becomes of one of them.
fn show(report: &Report, json: bool, place: Option<Place>, out: &mut dyn Write) -> Result<()> {
    let written = match json {
        true => serde_json::to_writer(&mut *out, report)
            .map_err(std::io::Error::from)
            .and_then(|()| writeln!(out)),
        false => report.write(out),
    };
    let written = written.and_then(|()| out.flush());
    if let Some(place) = place {
        place.write(report)?;
    }
    written.context("standard output")
}

impl Run<'_> {
    /// Looks at the endpoints, then runs the load.
    fn load<W: Worker>(
        &self,
        plan: &Plan,
        kinds: usize,
        watched: &Watched,
        workers: Vec<W>,
    ) -> Result<Outcome> {
        self.load_until(plan, kinds, watched, workers, &self.interrupt)
    }

    fn load_until<W: Worker>(
        &self,
        plan: &Plan,
        kinds: usize,
        watched: &Watched,
        workers: Vec<W>,
        interrupt: &Interrupt,
    ) -> Result<Outcome> {
        let shower = Shower::new(self.json, plan);
        let show = |progress: load::Progress<'_>| shower.show(&progress);
        let outcome = load::run(plan, kinds, workers, watched, interrupt, &show);
        shower.end();
        outcome
    }

    /// Looks whom to load and whether it can be.
    fn watched(&self, base: &Base, connections: usize) -> Result<Watched> {
        preflight::allow_files(connections)?;
        let watched = Watched::new(&base.pid, self.target)?;
        preflight::greet(self.target)?;
        Ok(watched)
    }

    /// Runs a load of requests and reports.
    fn requests<R: Requests>(
        &self,
        what: &str,
        load: &Load,
        plan: &Plan,
        requests: impl FnMut(usize) -> R,
    ) -> Result<Done> {
        let watched = self.watched(&load.base, plan.connections)?;
        let outcome = self.load(plan, R::KINDS.len(), &watched, clients(plan, requests))?;
        let what = format!("{what}, {}", words(plan));
        let (report, end) = Report::new(what, R::KINDS, &watched, outcome);
        Ok(Done { report, end, leases: None })
    }
}

impl Kind {
    fn base(&self) -> &Base {
        match self {
            Kind::Put { load, .. }
            | Kind::Range { load, .. }
            | Kind::Txn { load, .. }
            | Kind::Mixed { load, .. }
            | Kind::Watch { load, .. }
            | Kind::Lease(Lease::Grant { load, .. }) => &load.base,
            Kind::Lease(Lease::Keepalive { base, .. }) => base,
        }
    }

    fn run(&self, run: &Run<'_>) -> Result<Done> {
        match self {
            Kind::Put { load, keys, values } => {
                keys.check()?;
                let plan = load.plan(run.target)?;
                values.check(0, plan.clients)?;
                let what = format!("put of {} B, {}", values.value_bytes, keys.words());
                run.requests(&what, load, &plan, puts(keys, values, run.seed, None))
            }
            Kind::Range { load, keys, consistency, keys_per_range, prefix, count_only } => {
                keys.check()?;
                let plan = load.plan(run.target)?;
                // What is counted is not under way.
                let reading = if *count_only { 0 } else { plan.clients };
                let (span, count, choices) = span(keys, *keys_per_range, *prefix, reading)?;
                let asked = Asked { count_only: *count_only, ..(*consistency).into() };
                let ranges = ranges(keys, asked, (span, count, choices), run.seed);
                let of = match count {
                    _ if *count_only => format!("the count of {count} keys"),
                    1 => "one key".to_owned(),
                    _ if *prefix => format!("{count} keys by prefix"),
                    _ => format!("{count} keys"),
                };
                let what = format!("{} range of {of}, {}", consistency.name(), keys.words());
                let mut done = run.requests(&what, load, &plan, ranges)?;
                done.report.keys_per_s =
                    (count > 1 && !count_only).then_some(done.report.ops_per_s * count as f64);
                Ok(done)
            }
            Kind::Txn { load, keys, values } => {
                keys.check()?;
                if keys.key_space > SWAPPED_KEYS_MAX {
                    bail!("--key-space {}: at most {SWAPPED_KEYS_MAX} for txn", keys.key_space);
                }
                let plan = load.plan(run.target)?;
                values.check(0, plan.clients)?;
                let revisions = kinds::no_revisions(keys.key_space);
                let choose = keys.choose(keys.key_space, run.seed);
                let swaps = |client| Swaps {
                    keys: choose(client),
                    key_bytes: keys.key_bytes,
                    value_bytes: values.value_bytes,
                    revisions: Arc::clone(&revisions),
                    under_way: (0, 0),
                    buffer: BytesMut::new(),
                };
                let what = format!("swap of {} B, {}", values.value_bytes, keys.words());
                run.requests(&what, load, &plan, swaps)
            }
            Kind::Mixed { load, keys, values, ratio, consistency } => {
                keys.check()?;
                let plan = load.plan(run.target)?;
                values.check(0, plan.clients)?;
                let (mut reads, mut writes) = (
                    ranges(keys, (*consistency).into(), (Span::One, 1, keys.key_space), run.seed),
                    // Of another seed, or each key would be read right after it was written.
                    puts(keys, values, !run.seed, None),
                );
                let mixed = |client| Mixed {
                    reads: reads(client),
                    writes: writes(client),
                    read_share: ratio.reads,
                    write_share: ratio.writes,
                    is_read: false,
                };
                let what = format!(
                    "{} {} reads to {} writes of {} B, {}",
                    ratio.reads,
                    consistency.name(),
                    ratio.writes,
                    values.value_bytes,
                    keys.words()
                );
                run.requests(&what, load, &plan, mixed)
            }
            Kind::Watch { load, keys, values, watchers, watch_connections, idle_watchers } => {
                watch(run, load, keys, values, (*watchers, *idle_watchers, *watch_connections))
            }
            Kind::Lease(Lease::Grant { load, ttl, with_key, keep }) => {
                leases::grant(run, load, *ttl, *with_key, *keep)
            }
            Kind::Lease(Lease::Keepalive { base, leases, ttl, keep }) => {
                leases::keep_alive(run, base, *leases, *ttl, *keep)
            }
        }
    }
}

fn puts(
    keys: &Keys,
    values: &Values,
    seed: u64,
    stamps: Option<Stamps>,
) -> impl FnMut(usize) -> Puts + use<> {
    let choose = keys.choose(keys.key_space, seed);
    let (key_bytes, value_bytes) = (keys.key_bytes, values.value_bytes);
    move |client| Puts {
        keys: choose(client),
        key_bytes,
        value_bytes,
        stamps,
        buffer: BytesMut::new(),
    }
}

/// `choices`: how many keys or groups of keys there are to begin at.
fn ranges(
    keys: &Keys,
    asked: Asked,
    (span, keys_per_range, choices): (Span, u64, u64),
    seed: u64,
) -> impl FnMut(usize) -> Ranges + use<> {
    let choose = keys.choose(choices, seed);
    let key_bytes = keys.key_bytes;
    move |client| Ranges {
        keys: choose(client),
        key_bytes,
        span,
        keys_per_range,
        asked,
        buffer: BytesMut::new(),
    }
}

/// What a range reads: how its request is written, how many keys are expected, and how many
/// different ranges there are.
fn span(
    keys: &Keys,
    keys_per_range: Option<u64>,
    prefix: bool,
    clients: usize,
) -> Result<(Span, u64, u64)> {
    let count = keys_per_range.unwrap_or(if prefix { keys.key_space } else { 1 });
    if count == 0 || count > keys.key_space {
        bail!("--keys-per-range {count}: from 1 to the --key-space of {}", keys.key_space);
    }
    if count.saturating_mul(clients as u64) > KEYS_UNDER_WAY_MAX && count > 1 {
        bail!(
            "{count} keys a range with --clients {clients}: more than {KEYS_UNDER_WAY_MAX} keys \
             would be under way"
        );
    }
    match (prefix, keys_per_range) {
        (false, None | Some(1)) => Ok((Span::One, 1, keys.key_space)),
        (false, Some(_)) => Ok((Span::Following(count), count, keys.key_space - count + 1)),
        (true, None) => Ok((Span::Digits(keys.key_bytes - keys::PREFIX.len()), count, 1)),
        (true, Some(_)) => {
            let digits = count.ilog10();
            if 10_u64.pow(digits) != count {
                bail!("--keys-per-range {count}: with --prefix a power of ten");
            }
            Ok((Span::Digits(digits as usize), count, keys.key_space / count))
        }
    }
}

fn watch(
    run: &Run<'_>,
    load: &Load,
    keys: &Keys,
    values: &Values,
    (watchers, idle_watchers, watch_connections): (usize, usize, usize),
) -> Result<Done> {
    keys.check()?;
    if !(1..=CONNECTIONS_MAX).contains(&watchers) {
        bail!("--watchers {watchers}: from 1 to {CONNECTIONS_MAX}");
    }
    if idle_watchers > IDLE_WATCHERS_MAX {
        bail!("--idle-watchers {idle_watchers}: at most {IDLE_WATCHERS_MAX}");
    }
    if !(1..=CONNECTIONS_MAX).contains(&watch_connections) {
        bail!("--watch-connections {watch_connections}: from 1 to {CONNECTIONS_MAX}");
    }
    if load.base.warmup.is_some_and(|warmup| warmup > 0.0) {
        bail!("--warmup: a watch load counts every event from the first");
    }
    let plan = Plan { warmup: Duration::ZERO, ..load.plan(run.target)? };
    // A value begins with the time at which it was sent.
    values.check(8, plan.clients)?;
    let watched = run.watched(&load.base, plan.connections + 3 * watch_connections)?;
    let _idle = match idle_watchers {
        0 => None,
        _ => Some(IdleWatchers::gather(run.target, idle_watchers, watch_connections)?),
    };
    let stamps = Stamps::new(run.seed);
    let connections = watch_connections.min(watchers);
    let audience = Audience::gather(run.target, watchers, connections, stamps)?;
    let workers = clients(&plan, puts(keys, values, run.seed, Some(stamps)));
    let mut outcome = run.load(&plan, Puts::KINDS.len(), &watched, workers)?;
    if let End::Whole = outcome.end {
        // The load is over when the last watcher has heard of the last put.
        let waiting = Instant::now();
        let (last, end) = audience.finish(outcome.ops(), &run.interrupt);
        outcome.elapsed += last.saturating_duration_since(waiting);
        outcome.end = end;
        outcome.cost.1 = watched.after();
    }
    let heard = audience.leave();
    let what = format!(
        "put of {} B seen by {watchers} watchers{}, {}, {}",
        values.value_bytes,
        match idle_watchers {
            0 => String::new(),
            _ => format!(" beside {idle_watchers} idle ones"),
        },
        keys.words(),
        words(&plan)
    );
    let elapsed = outcome.elapsed;
    let (mut report, end) = Report::new(what, Puts::KINDS, &watched, outcome);
    report.delivered(&heard, elapsed);
    Ok(Done { report, end, leases: None })
}

fn words(plan: &Plan) -> String {
    let pace = match plan.rate {
        None => "closed loop".to_owned(),
        Some(rate) => format!("open loop at {rate}/s"),
    };
    format!(
        "{} connections, {} clients, {} threads, {pace}",
        plan.connections, plan.clients, plan.threads
    )
}
