//! What all threads of a load share: how much was sent and answered, and why it ends.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Error, anyhow};

use super::interrupt::Interrupt;
use super::recorder;

/// After so many refusals the load is stopped.
const REFUSALS_MAX: u64 = 1000;

/// What all threads share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// Requests begun in this stage.
    pub(super) begun: AtomicU64,
    /// Requests answered well in this stage.
    pub(super) done: AtomicU64,
    pub(super) refused: AtomicU64,
    /// Of those, the ones that the same request would meet again.
    pub(super) refused_for_good: AtomicU64,
    /// Requests whose answers are waited for.
    pub(super) under_way: AtomicU64,
    /// The load is over before its time.
    pub(super) stop: AtomicBool,
    pub(super) failure: Mutex<Option<Error>>,
    /// Why the endpoint dialled last could not be reached, until one is.
    pub(super) unreachable: Mutex<Option<String>>,
    /// Nothing was waited for after this moment, though some answers had not come.
    pub(super) left: Mutex<Option<Instant>>,
    /// When, after time was up, the last request was answered well.
    pub(super) last: Mutex<Option<Instant>>,
    pub(super) interrupt: Interrupt,
}

impl Shared {
    /// Gives the load up.
    pub(crate) fn fail(&self, error: Error) {
        lock(&self.failure).get_or_insert(error);
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.interrupt.asked().is_some()
    }

    /// The number of a request that a client is about to begin.
    pub(crate) fn begin(&self) -> u64 {
        self.begun.fetch_add(1, Ordering::Relaxed)
    }

    /// So many requests have been sent.
    pub(crate) fn sent(&self, count: u64) {
        self.under_way.fetch_add(count, Ordering::Relaxed);
    }

    /// So many of those sent are waited for no more.
    pub(crate) fn settled(&self, count: u64) {
        self.under_way.fetch_sub(count, Ordering::Relaxed);
    }

    /// A request has been answered well.
    pub(crate) fn answered(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    /// A request has been refused; too many end the load.
    pub(crate) fn refused(&self, said: String, recorder: &recorder::Shared) {
        if self.refused_for_good.fetch_add(1, Ordering::Relaxed) + 1 >= REFUSALS_MAX {
            self.fail(anyhow!("{REFUSALS_MAX} requests refused, the last with: {said}"));
        }
        self.refused_for_now(said, recorder);
    }

    /// A request has been refused that may be taken a moment later.
    pub(crate) fn refused_for_now(&self, said: String, recorder: &recorder::Shared) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        recorder::lock(recorder).refuse(said);
    }

    /// An endpoint could not be reached.
    pub(crate) fn unreachable(&self, reason: String) {
        *lock(&self.unreachable) = Some(reason);
    }

    /// An endpoint was reached.
    pub(crate) fn reached(&self) {
        *lock(&self.unreachable) = None;
    }

    pub(super) fn leave(&self, at: Instant) {
        later(&self.left, at);
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn later(mark: &Mutex<Option<Instant>>, at: Instant) {
    let mut mark = lock(mark);
    *mark = (*mark).max(Some(at));
}
