//! Drives many clients over many connections and measures what they meet.
//!
//! Each thread is a current-thread runtime that owns its connections: no locks are contended and
//! requests that become ready together leave in one system call. A closed loop sends a client's next
//! request when the last is answered; with a rate, requests fall due at fixed times whoever is free,
//! and their latency counts from when they were due, so a stall of the server is not hidden by the
//! clients that wait for it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use client::Tls;
use client::raw::{Caller, Connection, Method};
use hdrhistogram::Histogram;
use tokio::task::JoinSet;

use crate::cli::Target;

/// Longest wait for all connections.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for one answer; a server that takes longer has failed.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// After so many refusals the load is stopped.
const REFUSALS_MAX: u64 = 1000;
/// A timer fires up to so late by design; only more than that counts as waiting of the request.
const TIMER_SLACK: Duration = Duration::from_millis(1);
/// How long after the end of an open loop requests may still be sent that fell due before it.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest latency a histogram tells apart.
const LATENCY_US_MAX: u64 = 120_000_000;

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
}

/// Makes request number `index` of a stage. One for each client.
pub(crate) trait Requests: Send + 'static {
    fn method() -> Method;
    fn next(&mut self, index: u64) -> Bytes;
    /// Whether an answer is what the load is about; a reason if not.
    fn check(answer: &Bytes) -> std::result::Result<(), &'static str> {
        let _any = answer;
        Ok(())
    }
}

/// Latencies and refusals.
#[derive(Debug)]
pub(crate) struct Recorder {
    pub(crate) latency_us: Histogram<u64>,
    pub(crate) refusals: BTreeMap<String, u64>,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        let latency_us =
            Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are in order");
        Recorder { latency_us, refusals: BTreeMap::new() }
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        let us = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latency_us.saturating_record(us.max(1));
    }

    fn add(&mut self, other: &Recorder) {
        self.latency_us.add(&other.latency_us).expect("equal bounds");
        for (said, count) in &other.refusals {
            *self.refusals.entry(said.clone()).or_default() += count;
        }
    }
}

/// What all threads share.
#[derive(Debug, Default)]
struct Shared {
    /// Requests begun in this stage.
    begun: AtomicU64,
    /// Requests answered well in this stage.
    done: AtomicU64,
    refused: AtomicU64,
    /// The load is over before its time, for this reason.
    stop: AtomicBool,
    failure: Mutex<Option<anyhow::Error>>,
}

impl Shared {
    fn fail(&self, error: anyhow::Error) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
        self.stop.store(true, Ordering::Relaxed);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// What a load gave.
#[derive(Debug)]
pub(crate) struct Outcome<S> {
    pub(crate) recorder: Recorder,
    pub(crate) elapsed: Duration,
    /// What `sample` said right before and right after the measured stage.
    pub(crate) before: S,
    pub(crate) after: S,
}

/// Runs a load: connects, warms up, then measures. `requests` makes the source of each client;
/// `sample` is called right around the measured stage; `progress` once a second with the requests
/// answered in the stage so far and in that second.
pub(crate) fn run<R: Requests, S>(
    plan: &Plan,
    mut requests: impl FnMut(usize) -> R,
    mut sample: impl FnMut() -> Result<S>,
    progress: impl Fn(u64, u64) + Sync,
) -> Result<Outcome<S>> {
    assert!(plan.threads > 0 && plan.connections >= plan.threads, "threads without connections");
    let shared = Arc::new(Shared::default());
    // The threads and this one meet four times: connected · warm · sampled · finished.
    let barrier = Barrier::new(plan.threads + 1);
    let (finished, unfinished) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for thread in 0..plan.threads {
            // Connection number c belongs to thread c % threads, client number k to connection
            // k % connections.
            let endpoints: Vec<&str> = (thread..plan.connections)
                .step_by(plan.threads)
                .map(|connection| {
                    &plan.target.endpoints[connection % plan.target.endpoints.len()][..]
                })
                .collect();
            let clients: Vec<(usize, R)> = (0..plan.clients)
                .map(|client| (client, client % plan.connections))
                .filter(|(_, connection)| connection % plan.threads == thread)
                .map(|(client, connection)| (connection / plan.threads, requests(client)))
                .collect();
            let (shared, barrier) = (Arc::clone(&shared), &barrier);
            let builder = std::thread::Builder::new().name(format!("load-{thread}"));
            let work = move || drive(plan, &endpoints, clients, &shared, barrier);
            threads.push(builder.spawn_scoped(scope, work)?);
        }
        let (shown, progress) = (&shared, &progress);
        let _shower = scope.spawn(move || show(shown, &unfinished, progress));

        barrier.wait();
        barrier.wait();
        shared.begun.store(0, Ordering::Relaxed);
        shared.done.store(0, Ordering::Relaxed);
        let before = sample();
        let started = Instant::now();
        barrier.wait();
        barrier.wait();
        let elapsed = started.elapsed();
        let after = sample();
        drop(finished);

        let mut recorder = Recorder::new();
        for thread in threads {
            recorder.add(&thread.join().map_err(|_| anyhow!("a load thread panicked"))?);
        }
        match shared.failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None => Ok(Outcome { recorder, elapsed, before: before?, after: after? }),
        }
    })
}

/// Reports progress once a second until the other end of the channel is dropped.
fn show(shared: &Shared, unfinished: &mpsc::Receiver<()>, progress: &(impl Fn(u64, u64) + Sync)) {
    let mut last = 0;
    while let Err(mpsc::RecvTimeoutError::Timeout) = unfinished.recv_timeout(Duration::from_secs(1))
    {
        let done = shared.done.load(Ordering::Relaxed);
        // A new stage counts from 0 again.
        progress(done, done.checked_sub(last).unwrap_or(done));
        last = done;
    }
}

/// The life of one thread: what it recorded of the measured stage. It meets the others however
/// badly it fares, or they would wait for it.
fn drive<R: Requests>(
    plan: &Plan,
    endpoints: &[&str],
    clients: Vec<(usize, R)>,
    shared: &Arc<Shared>,
    barrier: &Barrier,
) -> Recorder {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("a load thread's runtime");
    let connected = runtime.and_then(|runtime| {
        let connections = runtime.block_on(dial(endpoints, plan.target.tls.as_ref()))?;
        Ok((runtime, connections))
    });
    let (runtime, connections) = match connected {
        Ok(connected) => connected,
        Err(error) => {
            shared.fail(error);
            for _meeting in 0..4 {
                barrier.wait();
            }
            return Recorder::new();
        }
    };
    let clients: Vec<(Caller, R)> = clients
        .into_iter()
        .map(|(connection, requests)| (connections[connection].caller(&R::method()), requests))
        .collect();

    barrier.wait();
    let warmup = Amount::Lasting(plan.warmup);
    let (clients, _) = runtime.block_on(stage(clients, shared, warmup, plan.rate));
    barrier.wait();
    barrier.wait();
    let (_, recorder) = runtime.block_on(stage(clients, shared, plan.amount, plan.rate));
    barrier.wait();
    recorder
}

async fn dial(endpoints: &[&str], tls: Option<&Tls>) -> Result<Vec<Connection>> {
    let dialled = async {
        let mut connections = Vec::new();
        for endpoint in endpoints {
            connections.push(Connection::dial_with(endpoint, tls).await?);
        }
        Ok(connections)
    };
    tokio::time::timeout(DIAL_TIMEOUT, dialled)
        .await
        .unwrap_or_else(|_| bail!("not all connections stood within {DIAL_TIMEOUT:?}"))
}

/// One stage of load on one thread: returns when every client has had its last answer.
async fn stage<R: Requests>(
    clients: Vec<(Caller, R)>,
    shared: &Arc<Shared>,
    amount: Amount,
    rate: Option<f64>,
) -> (Vec<(Caller, R)>, Recorder) {
    let recorder = Arc::new(Mutex::new(Recorder::new()));
    let started = Instant::now();
    let pace = Pace {
        started,
        until: match amount {
            Amount::Lasting(duration) => Some(started + duration),
            Amount::Total(_) => None,
        },
        total: match amount {
            Amount::Total(total) => total,
            Amount::Lasting(_) => u64::MAX,
        },
        rate,
    };
    let mut tasks = JoinSet::new();
    for (caller, requests) in clients {
        let task = client(caller, requests, Arc::clone(shared), pace, Arc::clone(&recorder));
        drop(tasks.spawn(task));
    }
    let mut clients = Vec::with_capacity(tasks.len());
    let all = async {
        while let Some(client) = tasks.join_next().await {
            match client {
                Ok(client) => clients.push(client),
                Err(error) => shared.fail(error.into()),
            }
        }
    };
    tokio::select! {
        () = all => {}
        () = stalled(shared) => {}
    }
    drop(tasks);
    let mut recorder = recorder.lock().unwrap_or_else(PoisonError::into_inner);
    (clients, std::mem::replace(&mut *recorder, Recorder::new()))
}

/// Returns when nothing has been answered for so long that nothing will be, or when another thread
/// has given up.
async fn stalled(shared: &Shared) {
    let (mut last, mut since) = (0, Instant::now());
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let seen = shared.done.load(Ordering::Relaxed) + shared.refused.load(Ordering::Relaxed);
        if seen != last {
            (last, since) = (seen, Instant::now());
        }
        if shared.stopped() {
            return;
        }
        if since.elapsed() >= ANSWER_TIMEOUT {
            return shared.fail(anyhow!("no answer to any request for {ANSWER_TIMEOUT:?}"));
        }
    }
}

/// When requests fall due and when there are no more.
#[derive(Clone, Copy, Debug)]
struct Pace {
    started: Instant,
    until: Option<Instant>,
    total: u64,
    rate: Option<f64>,
}

impl Pace {
    /// When request number `index` falls due; `None`: there is no such request.
    fn due(&self, index: u64, now: Instant) -> Option<Instant> {
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
fn counts_from(due: Instant, sent: Instant) -> Instant {
    sent.min(due + TIMER_SLACK)
}

async fn client<R: Requests>(
    mut caller: Caller,
    mut requests: R,
    shared: Arc<Shared>,
    pace: Pace,
    recorder: Arc<Mutex<Recorder>>,
) -> (Caller, R) {
    let mut now = Instant::now();
    while !shared.stopped() {
        let index = shared.begun.fetch_add(1, Ordering::Relaxed);
        let Some(due) = pace.due(index, now) else { break };
        if due > now {
            tokio::time::sleep_until(due.into()).await;
        }
        let request = requests.next(index);
        let sent = Instant::now();
        let answer = caller.call(request).await;
        now = Instant::now();
        let refusal = match answer {
            Ok(answer) => match R::check(&answer) {
                Ok(()) => {
                    shared.done.fetch_add(1, Ordering::Relaxed);
                    let mut recorder = recorder.lock().unwrap_or_else(PoisonError::into_inner);
                    recorder.record(now - counts_from(due, sent));
                    continue;
                }
                Err(reason) => reason.to_owned(),
            },
            Err(client::Error::Answered { message, .. }) => message,
            Err(error) => {
                shared.fail(error.into());
                break;
            }
        };
        if shared.refused.fetch_add(1, Ordering::Relaxed) + 1 >= REFUSALS_MAX {
            shared.fail(anyhow!("{REFUSALS_MAX} requests refused, the last with: {refusal}"));
        }
        let mut recorder = recorder.lock().unwrap_or_else(PoisonError::into_inner);
        *recorder.refusals.entry(refusal).or_default() += 1;
    }
    (caller, requests)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_a_rate_fall_due_whoever_is_free() {
        let started = Instant::now();
        let until = Some(started + Duration::from_secs(1));
        let pace = Pace { started, until, total: u64::MAX, rate: Some(1000.0) };
        let late = started + Duration::from_millis(900);
        assert_eq!(pace.due(100, late), Some(started + Duration::from_millis(100)));
        assert_eq!(pace.due(1000, late), None);
        assert!(pace.due(100, started + Duration::from_secs(2)).is_some());
        assert_eq!(pace.due(100, started + Duration::from_secs(1) + DRAIN_TIMEOUT), None);
    }

    #[test]
    fn a_closed_loop_ends_at_its_total() {
        let now = Instant::now();
        let pace = Pace { started: now, until: None, total: 5, rate: None };
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
