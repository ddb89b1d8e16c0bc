//! The thread around [`Hub`]: events in from apply, responses out to the clients' streams.
//!
//! The hub decides who is told what; this thread only gives it what it asks for. Apply leaves its
//! changes in an inbox and goes on. While no stream is open it leaves nothing but the newest view, and
//! when the inbox is full the changes in it are thrown away: the history has them too, and the hub reads
//! them from there. So a slow watcher costs apply nothing, and memory only up to named limits.
//!
//! Back pressure runs the other way: a stream tells what it has passed on, and the hub sends no more
//! than its buffer holds.

mod lane;
mod told;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus::IntGauge;
use proto::etcdserverpb::WatchCreateRequest;
use state::watch::{Hub, HubFigures, HubLimits, StreamId};
use state::{Changes, Event, Record, View};
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};
use tonic::Status;

use self::lane::{Entrance, Parcel, Taker};
pub(crate) use self::lane::{Lane, Outlet};
use self::told::Press;
pub(crate) use self::told::Told;
use crate::metrics::Metrics;

/// Changes that wait for the hub; beyond, it reads them from the history.
const RECORDS_WAITING_MAX: usize = 100_000;
/// Revisions of history read for watchers that are behind between two looks into the inbox.
const CATCH_UP_REVISIONS: usize = 10_000;
/// Progress notifications come up to a tenth of the interval late, each stream at its own time.
const JITTER_DIVISOR: u64 = 10;
/// What a stream passes on before it tells the hub, so that not every response wakes the thread.
const REPORT_BYTES: usize = 256 * 1024;

/// The way to the hub, for apply and for the api.
#[derive(Clone, Debug)]
pub struct Fanout {
    inbox: Arc<Inbox>,
    pending_events: IntGauge,
}

/// What a stream of responses carries.
#[derive(Debug)]
pub(crate) enum Delivery {
    /// A response and its length as the hub counts it.
    Response(Told, usize),
    /// The stream is over.
    End(Status),
}

/// What a client asks of its stream.
#[derive(Debug)]
pub(crate) enum Ask {
    /// A watcher. The view is the newest there was when the request came.
    Create(WatchCreateRequest, View),
    /// An end of one.
    Cancel(i64),
    /// Progress.
    Progress,
}

#[derive(Debug)]
enum Order {
    Open {
        entrance: Arc<Entrance>,
        outlet: Arc<Outlet>,
        load: Arc<Load>,
        reply: oneshot::Sender<StreamId>,
    },
    Ask {
        stream: StreamId,
        ask: Ask,
        /// Given back when the order has been carried out.
        _place: OwnedSemaphorePermit,
    },
    Sent {
        stream: StreamId,
        bytes: usize,
    },
    Close {
        stream: StreamId,
    },
}

/// Bytes on their way between the hub and a stream's client.
#[derive(Debug, Default)]
pub(crate) struct Load {
    bytes: AtomicUsize,
    /// Events among them.
    events: AtomicUsize,
    lighter: Notify,
}

impl Load {
    /// Waits until the client has taken enough to be listened to again: each request may be answered.
    pub(crate) async fn has_room(&self) {
        let bytes_max = HubLimits::default().stream_buffer_bytes_max;
        while self.bytes.load(Ordering::Acquire) >= bytes_max {
            let lighter = self.lighter.notified();
            if self.bytes.load(Ordering::Acquire) >= bytes_max {
                lighter.await;
            }
        }
    }
}

#[derive(Debug, Default)]
struct Inbox {
    waiting: Mutex<Waiting>,
    filled: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    orders: Vec<Order>,
    /// Changes since the hub last looked, and where they led.
    records: Vec<Record>,
    view: Option<View>,
    /// The records do not lead to the view.
    is_gap: bool,
    /// When the first of the records was applied.
    since: Option<Instant>,
    streams: usize,
    is_stopped: bool,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn order(&self, order: Order) {
        self.lock().orders.push(order);
        self.filled.notify_one();
    }
}

impl Fanout {
    /// Starts the thread. Events after `view` are to be given to [`Fanout::applied`]. `fatal` is told
    /// if the thread cannot go on: a member that tells its watchers nothing must not stay.
    pub fn start(
        view: &View,
        progress_interval: Duration,
        metrics: Arc<Metrics>,
        fatal: impl FnOnce(String) + Send + 'static,
    ) -> io::Result<Self> {
        let inbox = Arc::new(Inbox::default());
        let pending_events = metrics.pending_events.clone();
        let mut thread = WatchThread {
            inbox: Arc::clone(&inbox),
            hub: Hub::new(HubLimits::default(), view),
            view: Some(view.clone()),
            streams: BTreeMap::new(),
            lanes: Vec::new(),
            press: Press::default(),
            streams_with_prev: 0,
            ticks: BTreeSet::new(),
            progress_interval,
            metrics,
            exported: HubFigures::default(),
            pending_events: 0,
        };
        std::thread::Builder::new().name("watch".to_owned()).spawn(move || {
            if catch_unwind(AssertUnwindSafe(|| thread.run())).is_err() {
                thread.inbox.lock().is_stopped = true;
                fatal("the watch thread panicked".to_owned());
            }
        })?;
        Ok(Self { inbox, pending_events })
    }

    /// Apply has come to `view`, through `changes` unless the state was replaced as a whole.
    pub fn applied(&self, view: &View, changes: &Changes, is_replaced: bool) {
        let mut waiting = self.inbox.lock();
        waiting.view = Some(view.clone());
        let records = waiting.records.len() + changes.records.len();
        if is_replaced || waiting.streams == 0 || records > RECORDS_WAITING_MAX {
            waiting.records.clear();
            waiting.is_gap = true;
        } else if !waiting.is_gap {
            waiting.records.extend_from_slice(&changes.records);
            waiting.since.get_or_insert_with(Instant::now);
        }
        let is_watched = waiting.streams > 0;
        drop(waiting);
        if is_watched {
            self.inbox.filled.notify_one();
        }
    }

    /// Ends the thread and with it all streams.
    pub fn stop(&self) {
        self.inbox.lock().is_stopped = true;
        self.inbox.filled.notify_one();
    }

    /// Opens a stream for a task on the lane's thread. `None` when the watch thread has ended.
    pub(crate) async fn open(&self, lane: &Lane) -> Option<Subscription> {
        let taker = Taker::default();
        let (reply, stream) = oneshot::channel();
        let load = Arc::new(Load::default());
        let (entrance, outlet) = (lane.entrance(), taker.outlet());
        let open = Order::Open { entrance, outlet, load: Arc::clone(&load), reply };
        self.inbox.lock().streams += 1;
        self.inbox.order(open);
        let stream = stream.await.ok()?;
        Some(Subscription { fanout: self.clone(), stream, taker, load, unreported: 0 })
    }

    /// Hands a client's request on. The place is given back when the hub has dealt with it.
    pub(crate) fn ask(&self, stream: StreamId, ask: Ask, place: OwnedSemaphorePermit) {
        self.inbox.order(Order::Ask { stream, ask, _place: place });
    }
}

/// One stream as its client's side holds it. Dropping it ends its watchers.
#[derive(Debug)]
pub(crate) struct Subscription {
    fanout: Fanout,
    stream: StreamId,
    taker: Taker,
    load: Arc<Load>,
    /// Taken, and the hub not told yet.
    unreported: usize,
}

impl Subscription {
    /// Its id.
    pub(crate) fn stream(&self) -> StreamId {
        self.stream
    }

    /// The near end, to say that the stream is over.
    pub(crate) fn outlet(&self) -> Arc<Outlet> {
        self.taker.outlet()
    }

    /// What is under way to the client.
    pub(crate) fn load(&self) -> Arc<Load> {
        Arc::clone(&self.load)
    }

    /// The next delivery.
    pub(crate) fn poll_next(&mut self, cx: &std::task::Context<'_>) -> std::task::Poll<Delivery> {
        let next = std::task::ready!(self.taker.poll_next(cx));
        if let Delivery::Response(told, bytes) = &next {
            if told.event_count > 0 {
                self.load.events.fetch_sub(told.event_count, Ordering::Relaxed);
                self.fanout.pending_events.sub(gauge(told.event_count));
            }
            self.load.bytes.fetch_sub(*bytes, Ordering::AcqRel);
            self.load.lighter.notify_one();
            self.unreported += bytes;
            if self.unreported >= REPORT_BYTES {
                let bytes = std::mem::take(&mut self.unreported);
                self.fanout.inbox.order(Order::Sent { stream: self.stream, bytes });
            }
        }
        std::task::Poll::Ready(next)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.fanout.inbox.order(Order::Close { stream: self.stream });
    }
}

struct Stream {
    /// The number of its lane.
    lane: usize,
    outlet: Arc<Outlet>,
    load: Arc<Load>,
    wants_prev: bool,
    tick: Instant,
}

struct WatchThread {
    inbox: Arc<Inbox>,
    hub: Hub,
    /// The newest view seen; while nobody watches the inbox has it.
    view: Option<View>,
    streams: BTreeMap<StreamId, Stream>,
    /// One for each client thread that has had a stream, and what is about to be left there.
    lanes: Vec<(Arc<Entrance>, Vec<Parcel>)>,
    press: Press,
    /// How many of them have a watcher that wants the state before each event.
    streams_with_prev: usize,
    /// When each stream is to be told of its progress.
    ticks: BTreeSet<(Instant, StreamId)>,
    progress_interval: Duration,
    metrics: Arc<Metrics>,
    exported: HubFigures,
    /// Events given to streams and not counted yet.
    pending_events: usize,
}

fn gauge(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl WatchThread {
    fn run(&mut self) {
        let mut has_more = false;
        loop {
            self.give_back_view();
            let Some(mut waiting) = self.look(has_more) else { return };
            // First what has happened, then what is asked: a new watcher begins behind the events.
            let since = waiting.since;
            self.publish(&mut waiting);
            for order in waiting.orders {
                self.carry_out(order);
            }
            self.tick();
            has_more = match &self.view {
                Some(view) => self.hub.catch_up(view, CATCH_UP_REVISIONS),
                None => false,
            };
            self.deliver();
            self.export(since);
        }
    }

    /// While nobody watches the newest view alone is kept, in the inbox: one kept here would keep alive
    /// all that was there when the member started, or when the last watcher went.
    fn give_back_view(&mut self) {
        // One a watcher brought may be newer than what was published: events are still to come for it.
        let is_published = |view: &mut View| view.revision() == self.hub.revision();
        if !self.streams.is_empty() {
            return;
        }
        let mut waiting = self.inbox.lock();
        let mut older = if waiting.streams == 0 { self.view.take_if(is_published) } else { None };
        if waiting.view.is_none() {
            waiting.view = older.take();
        }
        drop(waiting);
        // It may be the last to hold very much.
        drop(older);
    }

    /// Takes what waits; waits itself if nothing does and nothing else is to be done. `None` at the end.
    fn look(&self, has_more: bool) -> Option<Waiting> {
        let mut waiting = self.inbox.lock();
        let next_tick = self.ticks.first().map(|(tick, _)| *tick);
        while !has_more && waiting.is_idle() {
            let Some(tick) = next_tick else {
                waiting = self.inbox.filled.wait(waiting).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let Some(left) = tick.checked_duration_since(Instant::now()) else { break };
            let woken = self.inbox.filled.wait_timeout(waiting, left);
            waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        if waiting.is_stopped {
            return None;
        }
        Some(Waiting {
            orders: std::mem::take(&mut waiting.orders),
            records: std::mem::take(&mut waiting.records),
            view: waiting.view.take(),
            is_gap: std::mem::take(&mut waiting.is_gap),
            since: waiting.since.take(),
            streams: 0,
            is_stopped: false,
        })
    }

    fn publish(&mut self, waiting: &mut Waiting) {
        let Some(view) = waiting.view.take() else { return };
        if waiting.is_gap {
            self.hub.replaced(&view);
        } else {
            let wants_prev = self.streams_with_prev > 0;
            let events: Vec<_> = waiting
                .records
                .drain(..)
                .map(|record| {
                    let prev = if wants_prev { view.record_before(&record) } else { None };
                    Event { record, prev }
                })
                .collect();
            self.hub.publish(&view, &events);
        }
        self.see(view);
    }

    fn see(&mut self, view: View) {
        let is_newer = |seen: &View| view.applied_index() >= seen.applied_index();
        if self.view.as_ref().is_none_or(is_newer) {
            self.view = Some(view);
        }
    }

    fn carry_out(&mut self, order: Order) {
        match order {
            Order::Open { entrance, outlet, load, reply } => {
                let lane = self.lane(entrance);
                let stream = self.hub.open();
                let tick = self.next_tick(stream);
                self.ticks.insert((tick, stream));
                let open = Stream { lane, outlet, load, wants_prev: false, tick };
                self.streams.insert(stream, open);
                if reply.send(stream).is_err() {
                    self.close(stream);
                }
            }
            Order::Ask { stream, ask: Ask::Create(request, view), .. } => {
                if let Some(open) = self.streams.get_mut(&stream)
                    && request.prev_kv
                    && !std::mem::replace(&mut open.wants_prev, true)
                {
                    self.streams_with_prev += 1;
                }
                self.see(view);
                let view = self.view.as_ref().expect("one was seen just now");
                self.hub.create(stream, request, view);
            }
            Order::Ask { stream, ask: Ask::Cancel(watch_id), .. } => {
                self.hub.cancel(stream, watch_id);
            }
            Order::Ask { stream, ask: Ask::Progress, .. } => self.hub.progress_request(stream),
            Order::Sent { stream, bytes } => self.hub.sent(stream, bytes),
            Order::Close { stream } => self.close(stream),
        }
    }

    fn lane(&mut self, entrance: Arc<Entrance>) -> usize {
        let known = self.lanes.iter().position(|(known, _)| Arc::ptr_eq(known, &entrance));
        known.unwrap_or_else(|| {
            self.lanes.push((entrance, Vec::new()));
            self.lanes.len() - 1
        })
    }

    fn close(&mut self, stream: StreamId) {
        let Some(closed) = self.streams.remove(&stream) else { return };
        self.ticks.remove(&(closed.tick, stream));
        self.streams_with_prev -= usize::from(closed.wants_prev);
        // What its client did not take is gone with it.
        let pending = closed.load.events.swap(0, Ordering::Relaxed);
        self.metrics.pending_events.sub(gauge(pending));
        self.hub.close(stream);
        self.inbox.lock().streams -= 1;
    }

    /// When a stream is next told of its progress: spread out, so that a thousand streams opened
    /// together are not served together for ever.
    fn next_tick(&self, stream: StreamId) -> Instant {
        use std::hash::{BuildHasher, RandomState};
        let interval = self.progress_interval;
        let spread = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX) / JITTER_DIVISOR;
        let jitter = RandomState::new().hash_one(stream) % spread.max(1);
        Instant::now() + interval + Duration::from_nanos(jitter)
    }

    fn tick(&mut self) {
        let now = Instant::now();
        while let Some((tick, stream)) =
            self.ticks.first().copied().filter(|(tick, _)| *tick <= now)
        {
            self.ticks.remove(&(tick, stream));
            let next = self.next_tick(stream);
            let Some(open) = self.streams.get_mut(&stream) else { continue };
            // A client that left while its stream was being opened could not say so.
            if open.outlet.is_closed() {
                self.close(stream);
                continue;
            }
            open.tick = next;
            self.ticks.insert((next, stream));
            self.hub.progress_tick_of(stream);
        }
    }

    fn deliver(&mut self) {
        while self.hub.has_output() {
            for (stream, response) in self.hub.take_output() {
                let Some(open) = self.streams.get(&stream) else { continue };
                let told = self.press.told(response);
                let bytes = told.encoded_len();
                open.load.bytes.fetch_add(bytes, Ordering::AcqRel);
                open.load.events.fetch_add(told.event_count, Ordering::Relaxed);
                self.pending_events += told.event_count;
                let parcel = (Arc::clone(&open.outlet), Delivery::Response(told, bytes));
                self.lanes[open.lane].1.push(parcel);
            }
            for (entrance, parcels) in &mut self.lanes {
                if !parcels.is_empty() {
                    entrance.leave(parcels);
                }
            }
        }
        self.metrics.pending_events.add(gauge(std::mem::take(&mut self.pending_events)));
        self.press.clear();
    }

    /// `since`: when the oldest of what was published now was applied.
    fn export(&mut self, since: Option<Instant>) {
        let figures = self.hub.figures();
        let metrics = &self.metrics;
        metrics.watch_streams.set(gauge(figures.streams));
        metrics.watchers.set(gauge(figures.watchers));
        metrics.slow_watchers.set(gauge(figures.watchers_behind));
        metrics.watch_buffer_bytes.set(gauge(figures.buffered_bytes));
        let events = figures.events_total - self.exported.events_total;
        metrics.watch_events.inc_by(events);
        if let Some(since) = since.filter(|_| events > 0) {
            metrics.watch_delivery_lag_seconds.observe(since.elapsed().as_secs_f64());
        }
        self.exported = figures;
    }
}

impl Waiting {
    /// Nothing for the thread to do. A view alone can wait until somebody watches.
    fn is_idle(&self) -> bool {
        let has_news = self.streams > 0 && self.view.is_some();
        self.orders.is_empty() && !has_news && !self.is_stopped
    }
}
