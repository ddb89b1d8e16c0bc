//! Many watchers of one load, and when each event reached each of them.
//!
//! Values begin with the time at which they were sent, and one process sends and receives, so the
//! way of an event is measured by one clock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use client::{Client, Config, KeyRange, Watch, WatchOf};
use hdrhistogram::Histogram;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use super::recorder::{self, Recorder};
use super::requests;
use super::{keys, kinds::nanoseconds_since};
use crate::cli::{Target, with_tls};

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
    /// Starts the watchers; returns when the servers have taken on all of them. Stamps count from
    /// `since`.
    pub(crate) fn gather(
        target: &Target,
        watchers: usize,
        connections: usize,
        since: Instant,
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
        for watch in watches {
            audience.spawn(&runtime, watch, since);
        }
        let thread = std::thread::Builder::new().name("watchers".into());
        // Detached: it ends when the audience is dropped, and holds nothing that must be closed.
        drop(thread.spawn(move || drop(runtime.block_on(left)))?);
        Ok(audience)
    }

    fn spawn(&self, runtime: &Runtime, mut watch: Watch, since: Instant) {
        let heard = Arc::clone(&self.heard);
        let recorder = Arc::clone(&self.recorder);
        let failed = Arc::clone(&self.failed);
        drop(runtime.spawn(async move {
            loop {
                let events = match watch.next().await {
                    Ok(response) => response.events,
                    Err(error) => {
                        let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                        failed.get_or_insert(error);
                        return;
                    }
                };
                let now = nanoseconds_since(since);
                let mut recorder = recorder.lock().unwrap_or_else(PoisonError::into_inner);
                for event in &events {
                    let stamp = event.kv.as_ref().and_then(|kv| requests::stamp(&kv.value));
                    let delay = now.saturating_sub(stamp.unwrap_or(now));
                    recorder.record(0, Duration::from_nanos(delay));
                }
                heard.fetch_add(events.len() as u64, Ordering::Relaxed);
            }
        }));
    }

    /// Waits until every watcher has heard of every put; returns from sending to hearing, in
    /// microseconds.
    pub(crate) fn finish(&self, puts: u64) -> Result<Histogram<u64>> {
        let all = puts * self.watchers;
        let (mut last, mut since) = (0, Instant::now());
        loop {
            let heard = self.heard.load(Ordering::Relaxed);
            if heard >= all {
                break;
            }
            if let Some(error) = &*self.failed.lock().unwrap_or_else(PoisonError::into_inner) {
                bail!("a watcher failed: {error}");
            }
            if heard != last {
                (last, since) = (heard, Instant::now());
            }
            if since.elapsed() >= SILENCE_MAX {
                bail!("{} of {all} events did not arrive", all - heard);
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(self.leave())
    }

    /// What has been heard so far.
    pub(crate) fn leave(&self) -> Histogram<u64> {
        recorder::lock(&self.recorder).take()
    }
}

async fn start(target: &Target, watchers: usize, connections: usize) -> Result<Vec<Watch>> {
    let clients: Vec<Client> = (0..connections)
        .map(|connection| {
            // One endpoint each: a connection is then really one connection.
            let endpoint = &target.endpoints[connection % target.endpoints.len()];
            Client::new(with_tls(Config::new([endpoint.clone()]), target.tls.as_ref()))
        })
        .collect::<client::Result<_>>()?;
    let mut watches = Vec::with_capacity(watchers);
    for watcher in 0..watchers {
        let of = WatchOf::new(KeyRange::prefix(keys::PREFIX));
        watches.push(clients[watcher % connections].watch(of).await?);
    }
    Ok(watches)
}
