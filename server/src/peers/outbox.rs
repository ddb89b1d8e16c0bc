//! What waits for one peer on one connection.
//!
//! The raft thread pushes and never waits; the thread that owns the connection pulls. Between the two
//! stands a queue bounded in messages and in bytes, so that a peer that has stopped reading costs a
//! known amount of memory and nobody's time.
//!
//! **An item is pulled once.** From then on its bytes may have left. An item that was never pulled
//! provably stayed here, and [`Outbox::close`] hands exactly those back: that is all it takes to
//! never send a forwarded write twice. Sessions are numbered, so that the stream of a connection
//! given up, which the network code may poll once more, finds nothing to take.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// How much one outbox holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct OutboxLimits {
    pub(super) messages_max: usize,
    pub(super) bytes_max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No connection, and none is being made.
    Closed,
    /// Being made. What can be said again anyway may wait for it.
    Connecting,
    /// The peer has accepted us.
    Open,
    /// A stream that was open ends, and another is being made that takes its place.
    Renewing,
    /// What waits still leaves, nothing is added, then the stream ends.
    Finishing,
}

/// When an item may be queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admit {
    /// Also while the connection is being made.
    Connecting,
    /// Only once the peer has accepted us.
    Open,
}

/// The queue of one connection.
#[derive(Debug)]
pub(super) struct Outbox<T> {
    limits: OutboxLimits,
    waiting: Mutex<Waiting<T>>,
}

#[derive(Debug)]
struct Waiting<T> {
    phase: Phase,
    session: u64,
    queue: VecDeque<(T, usize)>,
    bytes: usize,
    waker: Option<Waker>,
}

impl<T> Outbox<T> {
    pub(super) fn new(limits: OutboxLimits) -> Self {
        let waiting = Waiting {
            phase: Phase::Closed,
            session: 0,
            queue: VecDeque::new(),
            bytes: 0,
            waker: None,
        };
        Outbox { limits, waiting: Mutex::new(waiting) }
    }

    /// A connection is being made; what is pushed now goes out on it. Returns the session's number.
    pub(super) fn begin(&self) -> u64 {
        let mut waiting = self.lock();
        assert_eq!(waiting.phase, Phase::Closed, "one connection at a time");
        waiting.phase = Phase::Connecting;
        waiting.session += 1;
        waiting.session
    }

    /// The peer has accepted us: the queue may be pulled.
    pub(super) fn open(&self, session: u64) {
        let waker = {
            let mut waiting = self.lock();
            if waiting.session != session
                || !matches!(waiting.phase, Phase::Connecting | Phase::Renewing)
            {
                return;
            }
            waiting.phase = Phase::Open;
            waiting.waker.take()
        };
        wake(waker);
    }

    /// The stream ends behind what was pulled; what waits, and what is pushed, is for the next one,
    /// whose session's number is returned. `None`: none is open.
    pub(super) fn renew(&self) -> Option<u64> {
        let (session, waker) = {
            let mut waiting = self.lock();
            if waiting.phase != Phase::Open {
                return None;
            }
            waiting.phase = Phase::Renewing;
            waiting.session += 1;
            (waiting.session, waiting.waker.take())
        };
        wake(waker);
        Some(session)
    }

    /// Bytes that wait on the connection that stands; `None`: none does.
    pub(super) fn waiting_bytes(&self) -> Option<usize> {
        let waiting = self.lock();
        (waiting.phase == Phase::Open).then_some(waiting.bytes)
    }

    /// Whether a connection stands and half of the messages that may wait on it have room.
    pub(super) fn is_half_free(&self) -> bool {
        let waiting = self.lock();
        waiting.phase == Phase::Open && waiting.queue.len() < self.limits.messages_max / 2
    }

    /// Lets what waits leave and then ends the stream, if there is one.
    pub(super) fn finish(&self) {
        let waker = {
            let mut waiting = self.lock();
            if waiting.phase == Phase::Open {
                waiting.phase = Phase::Finishing;
            }
            waiting.waker.take()
        };
        wake(waker);
    }

    /// The connection is over. Returns what never left.
    pub(super) fn close(&self) -> Vec<T> {
        let (unsent, waker) = {
            let mut waiting = self.lock();
            waiting.phase = Phase::Closed;
            waiting.bytes = 0;
            (std::mem::take(&mut waiting.queue), waiting.waker.take())
        };
        wake(waker);
        unsent.into_iter().map(|(item, _)| item).collect()
    }

    /// Queues an item of about so many bytes, or gives it back.
    pub(super) fn push(&self, item: T, bytes: usize, admit: Admit) -> Result<(), T> {
        wake(self.enqueue(item, bytes, admit)?);
        Ok(())
    }

    /// The same, but whoever pulls is left asleep: the caller wakes them when it has queued all there
    /// is, so that it leaves in one write.
    pub(super) fn enqueue(&self, item: T, bytes: usize, admit: Admit) -> Result<Option<Waker>, T> {
        let mut waiting = self.lock();
        let admitted = match waiting.phase {
            Phase::Closed | Phase::Finishing => false,
            Phase::Connecting => admit == Admit::Connecting,
            Phase::Open | Phase::Renewing => true,
        };
        // An item larger than the whole allowance still passes, alone.
        let fits = waiting.queue.len() < self.limits.messages_max
            && (waiting.queue.is_empty() || waiting.bytes + bytes <= self.limits.bytes_max);
        if !admitted || !fits {
            return Err(item);
        }
        waiting.bytes += bytes;
        waiting.queue.push_back((item, bytes));
        Ok(waiting.waker.take())
    }

    /// The next item for this session's stream; `None` when the session is over.
    pub(super) fn poll_pull(&self, context: &mut Context<'_>, session: u64) -> Poll<Option<T>> {
        let mut waiting = self.lock();
        if waiting.session != session || waiting.phase == Phase::Closed {
            return Poll::Ready(None);
        }
        if matches!(waiting.phase, Phase::Open | Phase::Finishing)
            && let Some((item, bytes)) = waiting.queue.pop_front()
        {
            waiting.bytes -= bytes;
            return Poll::Ready(Some(item));
        }
        if waiting.phase == Phase::Finishing {
            return Poll::Ready(None);
        }
        waiting.waker = Some(context.waker().clone());
        Poll::Pending
    }

    /// Something may be on its way to a peer that has accepted us.
    pub(super) fn is_flowing(&self) -> bool {
        matches!(self.lock().phase, Phase::Open | Phase::Renewing | Phase::Finishing)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<T>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Outside the lock: a waker may run code of the runtime.
fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: OutboxLimits = OutboxLimits { messages_max: 3, bytes_max: 100 };

    fn pull(outbox: &Outbox<u32>, session: u64) -> Poll<Option<u32>> {
        outbox.poll_pull(&mut Context::from_waker(Waker::noop()), session)
    }

    #[test]
    fn items_are_pulled_in_order_once_the_peer_has_accepted() {
        let outbox = Outbox::new(LIMITS);
        let session = outbox.begin();
        outbox.push(1, 10, Admit::Connecting).unwrap();
        assert_eq!(outbox.push(2, 10, Admit::Open), Err(2));
        assert_eq!(pull(&outbox, session), Poll::Pending);
        outbox.open(session);
        outbox.push(3, 10, Admit::Open).unwrap();
        assert_eq!(pull(&outbox, session), Poll::Ready(Some(1)));
        assert_eq!(pull(&outbox, session), Poll::Ready(Some(3)));
        assert_eq!(pull(&outbox, session), Poll::Pending);
    }

    #[derive(Default)]
    struct Wakes(std::sync::atomic::AtomicUsize);

    impl std::task::Wake for Wakes {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    #[test]
    fn who_queues_many_wakes_once_and_at_the_end() {
        let outbox = Outbox::new(LIMITS);
        let session = outbox.begin();
        outbox.open(session);
        let wakes = std::sync::Arc::new(Wakes::default());
        let count = || wakes.0.load(std::sync::atomic::Ordering::Relaxed);
        let waker = Waker::from(std::sync::Arc::clone(&wakes));
        assert_eq!(outbox.poll_pull(&mut Context::from_waker(&waker), session), Poll::Pending);
        let mut asleep = Vec::new();
        for item in 1..=3 {
            asleep.extend(outbox.enqueue(item, 1, Admit::Open).unwrap());
        }
        assert_eq!((count(), asleep.len()), (0, 1), "asleep while there is more to queue");
        asleep.into_iter().for_each(Waker::wake);
        assert_eq!(count(), 1);
        assert_eq!(pull(&outbox, session), Poll::Ready(Some(1)));
        // One that queues a single item wakes by itself.
        assert_eq!(pull(&outbox, session), Poll::Ready(Some(2)));
        assert_eq!(pull(&outbox, session), Poll::Ready(Some(3)));
        assert_eq!(outbox.poll_pull(&mut Context::from_waker(&waker), session), Poll::Pending);
        outbox.push(4, 1, Admit::Open).unwrap();
        assert_eq!(count(), 2);
    }

    #[test]
    fn a_finishing_outbox_lets_go_of_what_it_has_and_takes_no_more() {
        let outbox = Outbox::new(LIMITS);
        let session = outbox.begin();
        outbox.open(session);
        outbox.push(1, 10, Admit::Open).unwrap();
        outbox.finish();
        assert_eq!(outbox.push(2, 10, Admit::Connecting), Err(2));
        assert_eq!(pull(&outbox, session), Poll::Ready(Some(1)));
        assert_eq!(pull(&outbox, session), Poll::Ready(None));
        assert!(outbox.is_flowing());
        assert!(outbox.close().is_empty() && !outbox.is_flowing());
    }

    #[test]
    fn a_full_outbox_gives_the_item_back() {
        let outbox = Outbox::new(LIMITS);
        outbox.begin();
        outbox.push(1, 60, Admit::Connecting).unwrap();
        assert_eq!(outbox.push(2, 60, Admit::Connecting), Err(2), "too many bytes");
        outbox.push(3, 10, Admit::Connecting).unwrap();
        outbox.push(4, 10, Admit::Connecting).unwrap();
        assert_eq!(outbox.push(5, 10, Admit::Connecting), Err(5), "too many messages");
    }

    #[test]
    fn an_item_larger_than_the_allowance_passes_alone() {
        let outbox = Outbox::new(LIMITS);
        outbox.begin();
        outbox.push(1, 1_000, Admit::Connecting).unwrap();
        assert_eq!(outbox.push(2, 1, Admit::Connecting), Err(2));
    }

    #[test]
    fn what_was_never_pulled_comes_back_and_an_old_stream_takes_nothing() {
        let outbox = Outbox::new(LIMITS);
        let first = outbox.begin();
        outbox.open(first);
        for item in 1..=3 {
            outbox.push(item, 1, Admit::Open).unwrap();
        }
        assert_eq!(pull(&outbox, first), Poll::Ready(Some(1)));
        assert_eq!(outbox.close(), [2, 3]);
        assert_eq!(outbox.push(4, 1, Admit::Connecting), Err(4), "closed");
        let second = outbox.begin();
        outbox.open(second);
        outbox.push(5, 1, Admit::Open).unwrap();
        assert_eq!(pull(&outbox, first), Poll::Ready(None));
        assert_eq!(pull(&outbox, second), Poll::Ready(Some(5)));
    }

    #[test]
    fn a_stream_that_is_renewed_ends_and_what_waits_is_for_the_next_one() {
        let outbox = Outbox::new(LIMITS);
        assert_eq!(outbox.renew(), None);
        let first = outbox.begin();
        assert_eq!(outbox.renew(), None, "none is open");
        outbox.open(first);
        outbox.push(1, 10, Admit::Open).unwrap();
        assert_eq!(pull(&outbox, first), Poll::Ready(Some(1)));
        let wakes = std::sync::Arc::new(Wakes::default());
        let waker = Waker::from(std::sync::Arc::clone(&wakes));
        assert_eq!(outbox.poll_pull(&mut Context::from_waker(&waker), first), Poll::Pending);
        let second = outbox.renew().unwrap();
        assert_eq!(wakes.0.load(std::sync::atomic::Ordering::Relaxed), 1, "it is told");
        outbox.push(2, 10, Admit::Open).unwrap();
        assert_eq!(pull(&outbox, first), Poll::Ready(None));
        assert_eq!(pull(&outbox, second), Poll::Pending, "not accepted yet");
        assert!(outbox.is_flowing(), "what was pulled may be on its way");
        outbox.open(first);
        assert_eq!(pull(&outbox, second), Poll::Pending);
        outbox.open(second);
        assert_eq!(pull(&outbox, second), Poll::Ready(Some(2)));
        // One that is given up in between hands back what was never pulled.
        let third = outbox.renew().unwrap();
        outbox.push(3, 10, Admit::Open).unwrap();
        assert_eq!(outbox.close(), [3]);
        assert_eq!(pull(&outbox, third), Poll::Ready(None));
    }
}
