//! Waiting for what another thread will say: a ticket for an answer, a gate for the applied index.
//!
//! A ticket holds until a deadline. A timer for each would cost more than the rest of a ticket; so the
//! tickets are looked through now and then, and those whose time is over are torn.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Tickets are kept in this many maps, so that threads seldom meet at one.
const TICKET_SHARDS: usize = 16;
/// One who waits, and until when.
#[derive(Debug)]
struct Waiting<T, K> {
    sender: oneshot::Sender<T>,
    deadline_us: u64,
    is_late: bool,
    kept: K,
}

type Shard<T, K> = HashMap<u64, Waiting<T, K>>;

/// Waits of callers for an answer that some other thread gives. Something may be kept for as long as one
/// of them lasts.
#[derive(Debug)]
pub(crate) struct Tickets<T, K = ()> {
    shards: Vec<Mutex<Shard<T, K>>>,
}

impl<T, K> Tickets<T, K> {
    pub(crate) fn new() -> Self {
        Tickets { shards: (0..TICKET_SHARDS).map(|_| Mutex::default()).collect() }
    }

    fn shard(&self, ticket: u64) -> MutexGuard<'_, Shard<T, K>> {
        let shard = &self.shards[(ticket % TICKET_SHARDS as u64) as usize];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A wait for an answer. An error says that none came by the deadline.
    pub(crate) fn draw(&self, ticket: u64, deadline_us: u64, kept: K) -> oneshot::Receiver<T> {
        let (sender, receiver) = oneshot::channel();
        let waiting = Waiting { sender, deadline_us, is_late: false, kept };
        self.shard(ticket).insert(ticket, waiting);
        receiver
    }

    /// What is kept for a ticket that somebody holds, and until when that waits.
    pub(crate) fn kept(&self, ticket: u64) -> Option<(K, u64)>
    where
        K: Clone,
    {
        self.shard(ticket).get(&ticket).map(|it| (it.kept.clone(), it.deadline_us))
    }

    /// Tears the tickets whose time is over. To be called often enough for whoever waits.
    pub(crate) fn expire(&self, now_us: u64) {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.retain(|_, waiting| waiting.deadline_us > now_us);
        }
    }

    /// How many tickets have come to be due before a time, since this was last asked.
    pub(crate) fn count_late(&self, due_us: u64) -> u64 {
        let mut count = 0;
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for waiting in shard.values_mut().filter(|it| !it.is_late && it.deadline_us <= due_us) {
                waiting.is_late = true;
                count += 1;
            }
        }
        count
    }

    /// Answers a ticket, if anyone still holds it.
    pub(crate) fn call(&self, ticket: u64, answer: T) {
        let waiting = self.shard(ticket).remove(&ticket);
        if let Some(Waiting { sender, .. }) = waiting {
            drop(sender.send(answer));
        }
    }

    /// Nobody waits for it any more.
    fn tear(&self, ticket: u64) {
        self.shard(ticket).remove(&ticket);
    }

    pub(crate) fn outstanding(&self) -> usize {
        self.shards.iter().map(|s| s.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }
}

/// Gives a ticket back when its holder stops waiting, for whatever reason.
pub(crate) struct Held<'a, T, K = ()> {
    pub(crate) tickets: &'a Tickets<T, K>,
    pub(crate) ticket: u64,
}

impl<T, K> Drop for Held<'_, T, K> {
    fn drop(&mut self) {
        self.tickets.tear(self.ticket);
    }
}

/// Where the applied index is waited for.
#[derive(Debug, Default)]
pub(crate) struct AppliedGate {
    index: AtomicU64,
    waiting: Mutex<BTreeMap<u64, Vec<oneshot::Sender<()>>>>,
}

impl AppliedGate {
    /// Apply has reached `index`, and its view is published.
    pub(crate) fn reached(&self, index: u64) {
        self.index.store(index, Ordering::Release);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(first) = waiting.first_entry() {
            if *first.key() > index {
                break;
            }
            for waiter in first.remove() {
                let _ = waiter.send(());
            }
        }
    }

    pub(crate) async fn wait_for(&self, index: u64) {
        let receiver = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if self.index.load(Ordering::Acquire) >= index {
                return;
            }
            let (sender, receiver) = oneshot::channel();
            waiting.entry(index).or_default().push(sender);
            receiver
        };
        drop(receiver.await);
    }

    pub(crate) fn reached_already(&self, index: u64) -> bool {
        self.index.load(Ordering::Acquire) >= index
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;

    #[test]
    fn a_ticket_is_answered_once_or_torn_when_its_time_is_over() {
        let tickets = Tickets::new();
        let mut early = tickets.draw(1, 100, "first");
        let mut late = tickets.draw(2, 101, "second");
        assert_eq!((tickets.count_late(99), tickets.count_late(100)), (0, 1));
        assert_eq!((tickets.count_late(100), tickets.count_late(101)), (0, 1));
        tickets.expire(99);
        assert_eq!(tickets.outstanding(), 2);
        tickets.expire(100);
        assert_eq!((tickets.kept(1), tickets.kept(2)), (None, Some(("second", 101))));
        assert_eq!(early.try_recv(), Err(TryRecvError::Closed));
        assert_eq!(late.try_recv(), Err(TryRecvError::Empty));
        tickets.call(1, "too late");
        tickets.call(2, "in time");
        assert_eq!(late.try_recv(), Ok("in time"));
        assert_eq!(tickets.outstanding(), 0);
    }
}
