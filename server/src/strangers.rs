//! Connections on which nobody has said yet who they are.
//!
//! They cost a descriptor and a little memory each, so their number is bounded. When there are too
//! many the one that has been silent longest goes: a wait in line would let whoever connects and says
//! nothing keep everybody else out, while an honest caller needs milliseconds to become known.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// The strangers there are.
#[derive(Debug)]
pub(crate) struct Strangers {
    max: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    /// Oldest first; dropping the sender sends it away.
    by_age: BTreeMap<u64, oneshot::Sender<()>>,
}

/// A stranger; dropped when it is known, or gone.
#[derive(Debug)]
pub(crate) struct Stranger {
    strangers: Arc<Strangers>,
    number: u64,
    sent_away: oneshot::Receiver<()>,
}

impl Strangers {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        assert!(max > 0, "room for one at least");
        Arc::new(Strangers { max, waiting: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets one more in, and sends the oldest away if there is no room.
    pub(crate) fn enter(self: &Arc<Self>) -> Stranger {
        let (sender, sent_away) = oneshot::channel();
        let mut waiting = self.lock();
        if waiting.by_age.len() >= self.max {
            drop(waiting.by_age.pop_first());
        }
        let number = waiting.next;
        waiting.next += 1;
        waiting.by_age.insert(number, sender);
        drop(waiting);
        Stranger { strangers: Arc::clone(self), number, sent_away }
    }
}

impl Stranger {
    /// Waits until it has to go.
    pub(crate) async fn sent_away(&mut self) {
        // The sender is only ever dropped.
        drop((&mut self.sent_away).await);
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.strangers.lock().by_age.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_goes_when_there_is_no_room_and_nobody_else() {
        let strangers = Strangers::new(2);
        let mut first = strangers.enter();
        let second = strangers.enter();
        let mut third = strangers.enter();
        first.sent_away().await;
        drop(second);
        let fourth = strangers.enter();
        assert_eq!(strangers.lock().by_age.len(), 2, "who has become known makes room");
        assert_eq!(third.sent_away.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        drop((first, third, fourth));
        assert!(strangers.lock().by_age.is_empty());
    }
}
