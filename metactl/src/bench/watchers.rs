//! Many watchers of one load, and when each event reached each of them.
//!
//! Values begin with the time at which they were sent, and one process sends and receives, so the
//! way of an event is measured by one clock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use client::{Client, Code, Config, KeyRange, RetryPolicy, Watch, WatchOf};
use hdrhistogram::Histogram;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use super::interrupt::Interrupt;
use super::load::End;
use super::recorder::{self, Recorder};
use super::requests;
use super::{keys, kinds::Stamps};
use crate::cli::{Target, with_tls};

/// Pause before a watch whose endpoint failed goes on at another.
const AGAIN_PAUSE: Duration = Duration::from_millis(100);
/// Longest silence while events are still missing.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How often it is looked whether all events have come.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// All watchers, on a thread and a runtime of their own.
pub(crate) struct Audience {
    watchers: u64,
    heard: Arc<AtomicU64>,
    recorder: recorder::Shared,
    failed: Arc<Mutex<Option<client::Error>>>,
    /// Dropped to end the thread.
    _stay: oneshot::Sender<()>,
}

impl Audience {
    /// Starts the watchers; returns when the servers have taken on all of them.
    pub(crate) fn gather(
        target: &Target,
        watchers: usize,
        connections: usize,
        stamps: Stamps,
    ) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("the watchers' runtime")?;
        let watches = runtime.block_on(start(target, watchers, connections))?;
        let (stay, left) = oneshot::channel();
        let audience = Audience {
            watchers: watchers as u64,
            heard: Arc::default(),
            recorder: Arc::new(Mutex::new(Recorder::new(1))),
            failed: Arc::default(),
            _stay: stay,
        };
        for (watch, elsewhere) in watches {
            audience.spawn(&runtime, watch, elsewhere, stamps);
        }
        let thread = std::thread::Builder::new().name("watchers".into());
        // Detached: it ends when the audience is dropped, and holds nothing that must be closed.
        drop(thread.spawn(move || drop(runtime.block_on(left)))?);
        Ok(audience)
    }

    fn spawn(&self, runtime: &Runtime, mut watch: Watch, elsewhere: Client, stamps: Stamps) {
        let heard = Arc::clone(&self.heard);
        let recorder = Arc::clone(&self.recorder);
        let failed = Arc::clone(&self.failed);
        drop(runtime.spawn(async move {
            loop {
                let events = match watch.next().await {
                    Ok(response) => response.events,
                    Err(error) if is_passing(&error) => {
                        tokio::time::sleep(AGAIN_PAUSE).await;
                        let of = events().start_revision(watch.next_revision());
                        if let Ok(again) = elsewhere.watch(of).await {
                            watch = again;
                        }
                        continue;
                    }
                    Err(error) => {
                        let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                        failed.get_or_insert(error);
                        return;
                    }
                };
                let mut recorder = recorder.lock().unwrap_or_else(PoisonError::into_inner);
                let mut own = 0;
                for event in &events {
                    let stamp = event.kv.as_ref().and_then(|kv| requests::stamp(&kv.value));
                    // Others may write such keys, too.
                    if let Some(age) = stamp.and_then(|stamp| stamps.age(stamp)) {
                        recorder.record(0, age);
                        own += 1;
                    }
                }
                heard.fetch_add(own, Ordering::Relaxed);
            }
        }));
    }

    /// Waits until every watcher has heard of every put; when something was heard last, and how it
    /// ended.
    pub(crate) fn finish(&self, puts: u64, interrupt: &Interrupt) -> (Instant, End) {
        let all = puts * self.watchers;
        let (mut last, mut since) = (0, Instant::now());
        loop {
            let heard = self.heard.load(Ordering::Relaxed);
            if heard != last {
                (last, since) = (heard, Instant::now());
            }
            if heard >= all {
                return (since, End::Whole);
            }
            if let Some(signal) = interrupt.asked() {
                return (since, End::Signal(signal));
            }
            if let Some(error) = &*self.failed.lock().unwrap_or_else(PoisonError::into_inner) {
                return (since, End::Failed(anyhow!("a watcher failed: {error}")));
            }
            if since.elapsed() >= SILENCE_MAX {
                return (
                    since,
                    End::Failed(anyhow!("{} of {all} events did not arrive", all - heard)),
                );
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// What has been heard so far.
    pub(crate) fn leave(&self) -> Histogram<u64> {
        recorder::lock(&self.recorder).take()
    }
}

/// Whether a watch goes on after it, at this endpoint or another.
fn is_passing(error: &client::Error) -> bool {
    matches!(error.code(), Code::Unavailable | Code::DeadlineExceeded)
}

/// What is watched.
fn events() -> WatchOf {
    WatchOf::new(KeyRange::prefix(keys::PREFIX))
}

/// Each watch with the client it goes on with when its endpoint fails.
async fn start(
    target: &Target,
    watchers: usize,
    connections: usize,
) -> Result<Vec<(Watch, Client)>> {
    let client = |endpoints: Vec<String>| {
        Client::new(
            with_tls(Config::new(endpoints), target.tls.as_ref()).retry(RetryPolicy::never()),
        )
    };
    let clients: Vec<(Client, Client)> = (0..connections)
        .map(|connection| {
            // One endpoint each: a connection is then really one connection.
            let home = target.endpoints[connection % target.endpoints.len()].clone();
            let mut all = target.endpoints.clone();
            all.rotate_left((connection + 1) % target.endpoints.len());
            Ok((client(vec![home])?, client(all)?))
        })
        .collect::<client::Result<_>>()?;
    let mut watches = Vec::with_capacity(watchers);
    for watcher in 0..watchers {
        let (home, elsewhere) = &clients[watcher % connections];
        watches.push((home.watch(events()).await?, elsewhere.clone()));
    }
    Ok(watches)
}
