//! A thread with a runtime of its own.

use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use super::PeersError;

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
