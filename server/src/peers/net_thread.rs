//! A thread with a runtime of its own, and how late it runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use super::PeersError;

/// How often a thread looks at how late it runs.
const LATENESS_INTERVAL: Duration = Duration::from_millis(50);
/// For a network thread to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);
/// Threads that compress and check chunks.
const BLOCKING_THREADS_MAX: usize = 2;

/// A thread with a runtime of its own.
#[derive(Debug)]
pub(super) struct NetThread {
    pub(super) handle: Handle,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl NetThread {
    /// Starts it, idle.
    pub(super) fn start(name: &'static str) -> Result<NetThread, PeersError> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .thread_name(name)
            .build()
            .map_err(|error| PeersError::thread(&error))?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                // Told to stop, or nobody is left who could.
                drop(runtime.block_on(stopped));
                runtime.shutdown_timeout(STOP_TIMEOUT);
            })
            .map_err(|error| PeersError::thread(&error))?;
        Ok(NetThread { handle, stop, thread })
    }

    /// Ends it and everything on it.
    pub(super) fn stop(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            tracing::error!("a network thread panicked");
        }
    }
}

/// Watches how late the runtime this is spawned on wakes its timers, and keeps the worst.
pub(super) async fn watch_lateness(worst_us: Arc<AtomicU64>) {
    loop {
        let due = tokio::time::Instant::now() + LATENESS_INTERVAL;
        tokio::time::sleep_until(due).await;
        let late_us = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
        worst_us.fetch_max(late_us, Ordering::Relaxed);
    }
}
