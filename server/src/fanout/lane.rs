//! The last stretch, from the watch thread to the streams of one client thread.
//!
//! An event may matter to a thousand streams, and waking each of them from another thread costs a lock
//! and a system call apiece. So what is for the streams of one client thread goes there in one piece,
//! wakes the thread once, and is handed out by a task of its own, which wakes its neighbours for
//! nothing.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;

use super::Delivery;

/// Deliveries an empty outlet keeps room for; one that held more for a slow client gives it back.
const ROOM_KEPT: usize = 64;

/// The way into one client thread. Whoever opens streams there holds it, and they share it.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    entrance: Arc<Entrance>,
    is_served: AtomicBool,
}

impl Lane {
    /// The near end. To be called on the client thread: the first call starts the task there.
    pub(super) fn entrance(&self) -> Arc<Entrance> {
        if !self.is_served.swap(true, Ordering::AcqRel) {
            let entrance = Arc::clone(&self.entrance);
            // It ends with its runtime.
            drop(tokio::spawn(async move { entrance.hand_out().await }));
        }
        Arc::clone(&self.entrance)
    }
}

/// A delivery and where it goes.
pub(super) type Parcel = (Arc<Outlet>, Delivery);

/// Where the watch thread leaves what is for a client thread. It holds no more than the buffers of
/// that thread's streams allow, for the hub counts what has not been passed on.
#[derive(Debug, Default)]
pub(super) struct Entrance {
    parcels: Mutex<Vec<Parcel>>,
    arrived: Notify,
}

impl Entrance {
    fn lock(&self) -> MutexGuard<'_, Vec<Parcel>> {
        self.parcels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves parcels; `more` is empty then.
    pub(super) fn leave(&self, more: &mut Vec<Parcel>) {
        let mut parcels = self.lock();
        if parcels.is_empty() {
            std::mem::swap(&mut *parcels, more);
        } else {
            parcels.append(more);
        }
        drop(parcels);
        self.arrived.notify_one();
    }

    async fn hand_out(&self) {
        loop {
            self.arrived.notified().await;
            let parcels = std::mem::take(&mut *self.lock());
            for (outlet, delivery) in parcels {
                outlet.put(delivery);
            }
        }
    }
}

/// What has arrived for one stream.
#[derive(Debug, Default)]
pub(crate) struct Outlet {
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    deliveries: VecDeque<Delivery>,
    /// Of the task that takes them, once it has found none.
    waker: Option<Waker>,
    is_waiting: bool,
    is_closed: bool,
}

impl Outlet {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a delivery. If the taker is gone nobody is left to tell.
    pub(crate) fn put(&self, delivery: Delivery) {
        let mut held = self.lock();
        if held.is_closed {
            return;
        }
        held.deliveries.push_back(delivery);
        if std::mem::take(&mut held.is_waiting)
            && let Some(waker) = &held.waker
        {
            waker.wake_by_ref();
        }
    }

    /// The taker is gone.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().is_closed
    }
}

/// The taker's end of an outlet.
#[derive(Debug, Default)]
pub(super) struct Taker(Arc<Outlet>);

impl Taker {
    pub(super) fn outlet(&self) -> Arc<Outlet> {
        Arc::clone(&self.0)
    }

    pub(super) fn poll_next(&self, cx: &Context<'_>) -> Poll<Delivery> {
        let mut held = self.0.lock();
        if let Some(delivery) = held.deliveries.pop_front() {
            return Poll::Ready(delivery);
        }
        if held.deliveries.capacity() > ROOM_KEPT {
            held.deliveries = VecDeque::new();
        }
        if !held.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            held.waker = Some(cx.waker().clone());
        }
        held.is_waiting = true;
        Poll::Pending
    }
}

impl Drop for Taker {
    fn drop(&mut self) {
        let mut held = self.0.lock();
        held.is_closed = true;
        let dropped = std::mem::take(&mut held.deliveries);
        let waker = held.waker.take();
        drop(held);
        drop((dropped, waker));
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use proto::etcdserverpb::WatchResponse;

    use super::super::told::Press;
    use super::*;

    fn numbered(watch_id: i64) -> Delivery {
        let head = WatchResponse { watch_id, ..WatchResponse::default() };
        Delivery::Response(Press::default().told(head), 0)
    }

    async fn next(taker: &Taker) -> i64 {
        match poll_fn(|cx| taker.poll_next(cx)).await {
            Delivery::Response(told, _) => told.head.watch_id,
            Delivery::End(status) => panic!("{status}"),
        }
    }

    #[tokio::test]
    async fn each_stream_of_a_lane_gets_its_own_in_order() {
        let lane = Lane::default();
        let entrance = lane.entrance();
        let (one, other) = (Taker::default(), Taker::default());
        let mut parcels = vec![
            (one.outlet(), numbered(1)),
            (other.outlet(), numbered(10)),
            (one.outlet(), numbered(2)),
        ];
        entrance.leave(&mut parcels);
        parcels.push((one.outlet(), numbered(3)));
        entrance.leave(&mut parcels);
        assert!(parcels.is_empty());
        assert_eq!((next(&one).await, next(&one).await, next(&one).await), (1, 2, 3));
        assert_eq!(next(&other).await, 10);
    }

    #[tokio::test]
    async fn a_taker_that_waits_is_woken_by_another_thread() {
        let lane = Lane::default();
        let entrance = lane.entrance();
        let taker = Taker::default();
        for round in 0..100 {
            let (entrance, outlet) = (Arc::clone(&entrance), taker.outlet());
            let thread = std::thread::spawn(move || {
                entrance.leave(&mut vec![(outlet, numbered(round))]);
            });
            assert_eq!(next(&taker).await, round);
            thread.join().expect("it does not panic");
        }
    }

    #[test]
    fn an_outlet_whose_taker_is_gone_keeps_nothing() {
        let taker = Taker::default();
        let outlet = taker.outlet();
        outlet.put(numbered(1));
        drop(taker);
        outlet.put(numbered(2));
        assert!(outlet.is_closed());
        assert!(outlet.lock().deliveries.is_empty());
    }
}
