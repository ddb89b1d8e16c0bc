//! Runs a load: threads that connect, warm up and are measured together, however they load.
//!
//! Each thread is a current-thread runtime that owns its connections: no locks are contended and
//! requests that become ready together leave in one system call. What it does there is a
//! [`Worker`]'s affair. A closed loop sends a client's next request when the last is answered; with
//! a rate, requests fall due at fixed times whoever is free, and their latency counts from when they
//! were due, so a stall of the server is not hidden by the clients that wait for it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow, bail};
use client::Tls;
use client::raw::Connection;
use hdrhistogram::Histogram;

use super::cost::{Sample, Watched};
use super::interrupt::{Interrupt, Interrupted};
use super::recorder::{self, Collector, Second, Tally};
pub(crate) use super::shared::Shared;
use super::shared::{later, lock};
use crate::cli::Target;

/// Longest wait for all connections.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time without any answer; a server that takes longer has failed.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// The same while endpoints cannot be reached: as long as a member may take to come back.
const UNREACHABLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How often it is looked whether the load is to end or has stalled.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a load that is to end before its time waits for the answers under way.
const LAST_ANSWERS_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a load whose time is over waits without any answer for those under way.
const TAIL_TIMEOUT: Duration = Duration::from_secs(10);
/// A timer fires up to so late by design; only more than that counts as waiting of the request.
const TIMER_SLACK: Duration = Duration::from_millis(1);
/// How long after the end of an open loop requests may still be sent that fell due before it.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// What is said of requests that a load left behind.
const LEFT_BEHIND: &str = "no answer until the load ended";

/// When a stage of load ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Amount {
    Total(u64),
    Lasting(Duration),
}

/// What to drive, with.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) target: Target,
    pub(crate) connections: usize,
    pub(crate) clients: usize,
    pub(crate) threads: usize,
    pub(crate) warmup: Duration,
    pub(crate) amount: Amount,
    /// Requests a second, all clients together; `None`: closed loop.
    pub(crate) rate: Option<f64>,
    pub(crate) part: Part,
}

/// What a load is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The report is about it.
    Measured,
    Preparation,
    TidyingUp,
}

impl Plan {
    /// With so many clients at most.
    pub(crate) fn limit_clients(mut self, most: usize) -> Self {
        self.clients = self.clients.min(most);
        // A connection without a client would be idle.
        self.connections = self.connections.min(self.clients);
        self.threads = self.threads.min(self.connections);
        self
    }

    /// Of each of a thread's connections the endpoints, its own first: connection number c belongs
    /// to thread c % threads.
    pub(crate) fn endpoints(&self, thread: usize) -> Vec<Vec<String>> {
        let of = |connection: usize| {
            let mut endpoints = self.target.endpoints.clone();
            endpoints.rotate_left(connection % self.target.endpoints.len());
            endpoints
        };
        (thread..self.connections).step_by(self.threads).map(of).collect()
    }
}

/// What one thread does.
pub(crate) trait Worker: Send {
    /// Makes it ready to send.
    async fn connect(&mut self, plan: &Plan) -> Result<()>;

    /// One stage of load: returns when its last answer has come. May be dropped before.
    async fn stage(&mut self, pace: Pace, shared: &Arc<Shared>, recorder: &recorder::Shared);
}

/// How a load ended.
#[derive(Debug)]
pub(crate) enum End {
    Whole,
    /// By a signal, before its time.
    Signal(i32),
    /// It could not go on.
    Failed(Error),
}

/// What a load gave.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Latencies of each kind of request.
    pub(crate) kinds: Box<[Histogram<u64>]>,
    pub(crate) refusals: Tally,
    /// Requests without an answer: they may have been carried out.
    pub(crate) lost: Tally,
    pub(crate) seconds: Vec<Second>,
    pub(crate) elapsed: Duration,
    /// Right before and right after.
    pub(crate) cost: (Sample, Sample),
    pub(crate) end: End,
}

impl Outcome {
    /// Requests answered well.
    pub(crate) fn ops(&self) -> u64 {
        self.kinds.iter().map(Histogram::len).sum()
    }
}

/// How far a load is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress<'a> {
    pub(crate) is_warmup: bool,
    pub(crate) done: u64,
    pub(crate) last: &'a Second,
}

/// Runs a load with a worker for each thread: connects, warms up, then measures. `progress` is called
/// once a second. What ends it before its time is an error only if there is nothing to report:
/// before it was measured.
pub(crate) fn run<W: Worker>(
    plan: &Plan,
    kinds: usize,
    workers: Vec<W>,
    watched: &Watched,
    interrupt: &Interrupt,
    progress: &(dyn Fn(Progress<'_>) + Sync),
) -> Result<Outcome> {
    assert!(plan.threads > 0 && workers.len() == plan.threads, "a worker for each thread");
    interrupt.hold();
    let shared = Arc::new(Shared { interrupt: interrupt.clone(), ..Shared::default() });
    let collector = Mutex::new(Collector::new(kinds, plan.threads));
    let collect = || collector.lock().unwrap_or_else(PoisonError::into_inner);
    let measuring = AtomicBool::new(false);
    // The threads and this one meet four times: connected · warm · sampled · finished.
    let barrier = Barrier::new(plan.threads + 1);
    let (finished, unfinished) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (thread, worker) in workers.into_iter().enumerate() {
            let recorder = collect().recorder(thread);
            let (shared, barrier) = (Arc::clone(&shared), &barrier);
            let builder = std::thread::Builder::new().name(format!("load-{thread}"));
            let work = move || drive(plan, worker, &shared, &recorder, barrier);
            threads.push(builder.spawn_scoped(scope, work)?);
        }
        let (collector, measuring) = (&collector, &measuring);
        let shower = scope.spawn(move || {
            let show = |second: &Second, done| {
                let is_warmup = !measuring.load(Ordering::Relaxed);
                progress(Progress { is_warmup, done, last: second });
            };
            follow(collector, watched, &unfinished, &show);
        });

        barrier.wait();
        barrier.wait();
        let was_warm = !shared.stopped();
        if lock(&shared.left).is_some() {
            shared.fail(anyhow!("warm-up: no answer to some requests for {TAIL_TIMEOUT:?}"));
        }
        for count in [&shared.begun, &shared.done, &shared.refused, &shared.refused_for_good] {
            count.store(0, Ordering::Relaxed);
        }
        *lock(&shared.last) = None;
        // What is not measured costs nothing.
        let before = was_warm.then(|| watched.before());
        measuring.store(true, Ordering::Relaxed);
        let started = Instant::now();
        collect().restart(started, watched.footprint());
        barrier.wait();
        barrier.wait();
        let left = *lock(&shared.left);
        // A wait that ended in no answer took none of the load's time.
        let ended = left.or(*lock(&shared.last)).unwrap_or_else(Instant::now);
        let elapsed = ended.saturating_duration_since(started);
        drop(finished);
        let after = was_warm.then(|| watched.after());
        for thread in threads {
            thread.join().map_err(|_| anyhow!("a load thread panicked"))?;
        }
        shower.join().map_err(|_| anyhow!("showing progress panicked"))?;

        let end = match (lock(&shared.failure).take(), interrupt.asked()) {
            (Some(error), _) if !was_warm => return Err(error),
            (None, Some(signal)) if !was_warm && plan.part == Part::Measured => {
                return Err(Interrupted { signal, is_shown: false }.into());
            }
            (Some(error), _) => End::Failed(error),
            (None, Some(signal)) => End::Signal(signal),
            (None, None) => End::Whole,
        };
        let cost = before.zip(after).unwrap_or_default();
        let mut collector = collect();
        let _last = collector.collect(started + elapsed, watched.footprint());
        let left_behind = shared.under_way.load(Ordering::Relaxed);
        if left.is_some() && left_behind > 0 {
            *collector.lost.entry(LEFT_BEHIND.to_owned()).or_default() += left_behind;
        }
        Ok(Outcome {
            kinds: std::mem::take(&mut collector.kinds),
            refusals: std::mem::take(&mut collector.refusals),
            lost: std::mem::take(&mut collector.lost),
            seconds: std::mem::take(&mut collector.seconds),
            elapsed,
            cost,
            end,
        })
    })
}

/// Collects once a second until the other end of the channel is dropped.
fn follow(
    collector: &Mutex<Collector>,
    watched: &Watched,
    unfinished: &mpsc::Receiver<()>,
    show: &dyn Fn(&Second, u64),
) {
    let lock = || collector.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let rest = lock().next().saturating_duration_since(Instant::now());
        let Err(mpsc::RecvTimeoutError::Timeout) = unfinished.recv_timeout(rest) else { return };
        let mut collector = lock();
        let now = Instant::now();
        // Measuring may have begun anew meanwhile.
        if now < collector.next() {
            continue;
        }
        let Some(second) = collector.collect(now, watched.footprint()) else { continue };
        let done = collector.done();
        drop(collector);
        show(&second, done);
    }
}

/// The life of one thread. It meets the others however badly it fares, or they would wait for it.
fn drive<W: Worker>(
    plan: &Plan,
    mut worker: W,
    shared: &Arc<Shared>,
    recorder: &recorder::Shared,
    barrier: &Barrier,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("a load thread's runtime");
    let connected = runtime.and_then(|runtime| {
        runtime.block_on(async {
            tokio::select! {
                connected = tokio::time::timeout(DIAL_TIMEOUT, worker.connect(plan)) => connected
                    .unwrap_or_else(|_| bail!("not all connections stood within {DIAL_TIMEOUT:?}")),
                () = stopped(shared) => Ok(()),
            }
        })?;
        Ok(runtime)
    });
    let runtime = match connected {
        Ok(connected) => connected,
        Err(error) => {
            shared.fail(error);
            for _meeting in 0..4 {
                barrier.wait();
            }
            return;
        }
    };
    let patience = ANSWER_TIMEOUT + plan.rate.map_or(Duration::ZERO, Pace::interval);
    let mut stage = |amount| {
        let pace = Pace::new(Instant::now(), amount, plan.rate);
        runtime.block_on(async {
            tokio::select! {
                () = worker.stage(pace, shared, recorder) => {}
                () = given_up(shared, &pace, patience) => {}
            }
        });
    };
    barrier.wait();
    stage(Amount::Lasting(plan.warmup));
    barrier.wait();
    barrier.wait();
    stage(plan.amount);
    barrier.wait();
}

/// Connects to each of these.
pub(crate) async fn dial(endpoints: &[String], tls: Option<&Tls>) -> Result<Vec<Connection>> {
    let mut connections = Vec::with_capacity(endpoints.len());
    for endpoint in endpoints {
        connections.push(Connection::dial_with(endpoint, tls).await?);
    }
    Ok(connections)
}

/// Returns when the load is to end before its time.
async fn stopped(shared: &Shared) {
    while !shared.stopped() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Returns when nothing has been answered for so long that nothing will be, or some time after the
/// load was stopped.
async fn given_up(shared: &Shared, pace: &Pace, patience: Duration) {
    let (mut last, mut since) = (0, Instant::now());
    let (mut last_done, mut done_since) = (0, since);
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if shared.stopped() {
            return tokio::time::sleep(LAST_ANSWERS_TIMEOUT).await;
        }
        let done = shared.done.load(Ordering::Relaxed);
        if done != last_done {
            (last_done, done_since) = (done, Instant::now());
        }
        if let Some(until) = pace.until.filter(|until| *until <= Instant::now()) {
            later(&shared.last, done_since.max(until));
        }
        let seen = done + shared.refused.load(Ordering::Relaxed);
        if seen != last {
            (last, since) = (seen, Instant::now());
        }
        if let Some(until) = pace.until
            && Instant::now() >= since.max(until) + TAIL_TIMEOUT
        {
            return shared.leave(since.max(until));
        }
        let unreachable = lock(&shared.unreachable).clone();
        let (patience, reason) = match unreachable {
            Some(reason) => (patience.min(UNREACHABLE_TIMEOUT), reason),
            None => (patience, "no answer to any request".to_owned()),
        };
        if since.elapsed() >= patience {
            shared.leave(since);
            return shared
                .fail(anyhow!("given up after {patience:.0?} without an answer: {reason}"));
        }
    }
}

/// When requests fall due and when there are no more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) started: Instant,
    pub(crate) until: Option<Instant>,
    total: u64,
    rate: Option<f64>,
}

impl Pace {
    fn new(started: Instant, amount: Amount, rate: Option<f64>) -> Self {
        let (until, total) = match amount {
            Amount::Lasting(duration) => (Some(started + duration), u64::MAX),
            Amount::Total(total) => (None, total),
        };
        Pace { started, until, total, rate }
    }

    /// Whether nothing falls due any more because time is up.
    pub(crate) fn is_over(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// Between two requests of a rate.
    fn interval(rate: f64) -> Duration {
        Duration::from_secs_f64(1.0 / rate)
    }

    /// When request number `index` falls due; `None`: there is no such request.
    pub(crate) fn due(&self, index: u64, now: Instant) -> Option<Instant> {
        if index >= self.total {
            return None;
        }
        let Some(rate) = self.rate else {
            return self.until.is_none_or(|until| now < until).then_some(now);
        };
        // What fell due in time is sent, however late: to leave it out would flatter the server.
        let due = self.started + Duration::from_secs_f64(index as f64 / rate);
        self.until.is_none_or(|until| due < until && now < until + DRAIN_TIMEOUT).then_some(due)
    }
}

/// From when the latency of a request counts that fell due at `due` and was sent at `sent`.
pub(crate) fn counts_from(due: Instant, sent: Instant) -> Instant {
    sent.min(due + TIMER_SLACK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_a_rate_fall_due_whoever_is_free() {
        let started = Instant::now();
        let pace = Pace::new(started, Amount::Lasting(Duration::from_secs(1)), Some(1000.0));
        let late = started + Duration::from_millis(900);
        assert_eq!(pace.due(100, late), Some(started + Duration::from_millis(100)));
        assert_eq!(pace.due(1000, late), None);
        assert!(pace.due(100, started + Duration::from_secs(2)).is_some());
        assert_eq!(pace.due(100, started + Duration::from_secs(1) + DRAIN_TIMEOUT), None);
    }

    #[test]
    fn a_closed_loop_ends_at_its_total() {
        let now = Instant::now();
        let pace = Pace::new(now, Amount::Total(5), None);
        assert_eq!((pace.due(4, now), pace.due(5, now)), (Some(now), None));
    }

    #[test]
    fn waiting_for_a_free_client_counts_and_a_timers_grain_does_not() {
        let due = Instant::now();
        let soon = due + Duration::from_micros(700);
        let late = due + Duration::from_millis(50);
        assert_eq!(counts_from(due, soon), soon);
        assert_eq!(counts_from(due, late), due + TIMER_SLACK);
    }
}
