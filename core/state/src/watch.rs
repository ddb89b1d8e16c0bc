//! Watches: who is told what, in which order, and what happens to those who cannot follow.
//!
//! A [`Hub`] serves many *streams* (connections), each with many *watchers*. It has one owner, no
//! clock and no thread. Apply feeds it every new event once ([`Hub::publish`]); it hands out responses
//! ([`Hub::take_output`]) and is told when they have left ([`Hub::sent`]).
//!
//! A watcher is in one of two places:
//! * **synced**: it stands in an index by key and gets new events as they are published. An event
//!   costs the watchers that match it, not those that do not;
//! * **behind**: it began in the past, or its stream was full when it should have been sent
//!   something. It holds nothing but the revision to go on from, and reads the past a page at a
//!   time ([`Hub::catch_up`], fairly in turn) until it is synced. If the past has been compacted away
//!   meanwhile, it is cancelled and told so.
//!
//! A slow client therefore costs a bounded buffer and no events: they lie in the history, once, for
//! everyone. What a watcher is sent obeys nine rules, which [`checker`] states and tests.
//!
//! Invariant: a response with revision R in its header is queued after every event up to R that its
//! watcher is to get. For a progress response with watch id −1 this holds of all watchers of the
//! stream. Where etcd writes the store's revision into the header of every page of a catch-up, the
//! header here never runs ahead of the events.

pub mod checker;
mod delivery;
mod index;
mod response;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use prost::Message;
use proto::etcdserverpb::watch_create_request::FilterType;
use proto::etcdserverpb::{WatchCreateRequest, WatchResponse};

use self::index::Index;
use self::response::{Rendered, plain};
use crate::error::StateError;
use crate::mvcc::KeyRange;
use crate::outcome::Event;
use crate::view::View;

/// The watch id of responses that speak for no watcher: refusals, and the progress of a whole stream.
pub const NO_WATCH_ID: i64 = -1;

/// Reason given for a watch id that the stream uses already.
pub const REASON_DUPLICATE_ID: &str = "mvcc: duplicate watch ID provided on the WatchStream";

/// Reason given for a range that ends before it begins.
pub const REASON_EMPTY_RANGE: &str = "mvcc: watcher range is empty";

/// Reason given for the watch id −1, which could not be told from a stream's progress.
pub const REASON_RESERVED_ID: &str = "mvcc: watch ID -1 is reserved";

/// Reason given when [`HubLimits::watchers_per_stream_max`] is reached.
pub const REASON_TOO_MANY: &str = "mvcc: too many watchers on the WatchStream";

/// Bounds of a hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HubLimits {
    /// Revisions in one response.
    pub response_revisions_max: usize,
    /// Bytes of events in one response, unless a single revision has more.
    pub response_bytes_max: usize,
    /// Bytes of one response to a watcher that asked for fragments, unless a single event has more.
    pub fragment_bytes_max: usize,
    /// Bytes queued for a stream and not yet sent, beyond which its watchers fall behind. One
    /// response may exceed it.
    pub stream_buffer_bytes_max: usize,
    /// Watchers of one stream.
    pub watchers_per_stream_max: usize,
    /// Ids of watchers the hub cancelled that a stream remembers, so that the client's own cancel is
    /// still answered.
    pub ended_per_stream_max: usize,
    /// Responses given out by one [`Hub::take_output`].
    pub output_responses_max: usize,
}

impl Default for HubLimits {
    fn default() -> Self {
        Self {
            response_revisions_max: 1000,
            response_bytes_max: 1 << 20,
            fragment_bytes_max: 3 << 19,
            stream_buffer_bytes_max: 4 << 20,
            watchers_per_stream_max: 100_000,
            ended_per_stream_max: 1024,
            output_responses_max: 1024,
        }
    }
}

/// One client's stream of watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(u64);

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A watcher within the hub, in order of creation.
type WatcherId = u64;

struct Watcher {
    stream: StreamId,
    watch_id: i64,
    key: Vec<u8>,
    range_end: Vec<u8>,
    /// Events before it are not for this watcher, or have been queued. While synced it stays as it
    /// was on joining.
    next_revision: i64,
    /// No progress is told below it: what the client asked to start from, or was told at creation.
    progress_from: i64,
    is_synced: bool,
    wants: Wants,
    /// Nothing was sent since the last tick.
    is_idle: bool,
}

#[derive(Clone, Copy)]
struct Wants {
    progress: bool,
    prev_kv: bool,
    fragments: bool,
    puts: bool,
    deletes: bool,
}

impl Wants {
    fn of(request: &WatchCreateRequest) -> Self {
        let filtered = |kind: FilterType| request.filters.contains(&i32::from(kind));
        Self {
            progress: request.progress_notify,
            prev_kv: request.prev_kv,
            fragments: request.fragment,
            puts: !filtered(FilterType::Noput),
            deletes: !filtered(FilterType::Nodelete),
        }
    }

    fn event(self, event: &Event) -> bool {
        if event.record.is_tombstone() { self.deletes } else { self.puts }
    }
}

impl Watcher {
    fn range(&self) -> KeyRange<'_> {
        KeyRange::new(&self.key, &self.range_end)
    }
}

#[derive(Default)]
struct Stream {
    watchers: BTreeMap<i64, WatcherId>,
    /// Watchers of it that are behind.
    behind: usize,
    /// Those of them that wait for room.
    waiting: Vec<WatcherId>,
    /// Cancelled by the hub, not yet by the client.
    ended: BTreeSet<i64>,
    next_id: i64,
    /// Queued or handed out, and not yet sent.
    buffered_bytes: usize,
}

/// Figures to export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HubFigures {
    /// Open streams.
    pub streams: usize,
    /// Watchers of all streams.
    pub watchers: usize,
    /// Watchers that are behind.
    pub watchers_behind: usize,
    /// Bytes queued for all streams and not yet sent.
    pub buffered_bytes: usize,
    /// Events queued since the start, counted once per watcher.
    pub events_total: u64,
}

/// All streams and watchers of one member.
pub struct Hub {
    limits: HubLimits,
    /// As far as events have been published.
    revision: i64,
    streams: BTreeMap<StreamId, Stream>,
    watchers: BTreeMap<WatcherId, Watcher>,
    /// Synced watchers by key.
    index: Index,
    /// Watchers that are behind and whose stream has room.
    ready: BTreeSet<WatcherId>,
    /// Those of them that watch a range, by the revision they go on from.
    ready_ranges: BTreeSet<(i64, WatcherId)>,
    /// The one served last, so that all take turns.
    last_served: WatcherId,
    /// Streams whose request for progress is not answered yet.
    asking: BTreeSet<StreamId>,
    output: VecDeque<(StreamId, WatchResponse)>,
    next_stream: u64,
    next_watcher: WatcherId,
    figures: HubFigures,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("revision", &self.revision).finish_non_exhaustive()
    }
}

impl Hub {
    /// A hub to which the events after `view` will be published.
    #[must_use]
    pub fn new(limits: HubLimits, view: &View) -> Self {
        Self {
            limits,
            revision: view.revision(),
            streams: BTreeMap::new(),
            watchers: BTreeMap::new(),
            index: Index::default(),
            ready: BTreeSet::new(),
            ready_ranges: BTreeSet::new(),
            last_served: 0,
            asking: BTreeSet::new(),
            output: VecDeque::new(),
            next_stream: 0,
            next_watcher: 0,
            figures: HubFigures::default(),
        }
    }

    /// Begins a stream.
    pub fn open(&mut self) -> StreamId {
        self.next_stream += 1;
        let stream = StreamId(self.next_stream);
        self.streams.insert(stream, Stream::default());
        stream
    }

    /// Ends a stream and its watchers. What is queued for it is dropped.
    pub fn close(&mut self, stream: StreamId) {
        let Some(closed) = self.streams.get(&stream) else { return };
        for id in closed.watchers.values().copied().collect::<Vec<_>>() {
            self.drop_watcher(id);
        }
        let closed = self.streams.remove(&stream);
        self.asking.remove(&stream);
        self.figures.buffered_bytes -= closed.map_or(0, |it| it.buffered_bytes);
    }

    /// Whether a stream has room. The owner reads no further requests of one that has none: each
    /// may be answered with a response.
    #[must_use]
    pub fn has_room(&self, stream: StreamId) -> bool {
        let buffered = self.streams.get(&stream).map_or(0, |it| it.buffered_bytes);
        buffered < self.limits.stream_buffer_bytes_max
    }

    /// Creates a watcher. `view` is the newest there is, which publishing may not have reached yet:
    /// what a client was told before it asked for a watch *from now on* is not told again.
    ///
    /// The answer, a creation or a refusal, is the next response of the stream.
    pub fn create(&mut self, stream: StreamId, request: WatchCreateRequest, view: &View) {
        let now = view.revision().max(self.revision);
        let Some(open) = self.streams.get(&stream) else { return };
        let wants = Wants::of(&request);
        let WatchCreateRequest { key, range_end, start_revision, watch_id, .. } = request;
        // Without a key everything from the smallest one on is meant.
        let key = if key.is_empty() { vec![0] } else { key.to_vec() };
        let range_end = range_end.to_vec();
        if start_revision < 0 {
            return self.refuse(stream, &StateError::Compacted.to_string(), view);
        }
        if KeyRange::new(&key, &range_end).is_empty() {
            return self.refuse(stream, REASON_EMPTY_RANGE, view);
        }
        let is_taken = |id: i64| open.watchers.contains_key(&id) || open.ended.contains(&id);
        if is_taken(watch_id) && watch_id != 0 {
            return self.refuse(stream, REASON_DUPLICATE_ID, view);
        }
        if watch_id == NO_WATCH_ID {
            return self.refuse(stream, REASON_RESERVED_ID, view);
        }
        if open.watchers.len() >= self.limits.watchers_per_stream_max {
            return self.refuse(stream, REASON_TOO_MANY, view);
        }
        let is_chosen_here = watch_id == 0;
        let watch_id = if is_chosen_here {
            (open.next_id..).find(|id| !is_taken(*id)).expect("fewer watchers than ids")
        } else {
            watch_id
        };

        self.next_watcher += 1;
        let id = self.next_watcher;
        let next_revision = if start_revision == 0 { now + 1 } else { start_revision };
        let watcher = Watcher {
            stream,
            watch_id,
            key,
            range_end,
            next_revision,
            progress_from: if start_revision == 0 { now } else { start_revision },
            is_synced: next_revision > self.revision,
            wants,
            is_idle: true,
        };
        if watcher.is_synced {
            self.index.insert(watcher.range(), id);
        } else {
            self.figures.watchers_behind += 1;
        }
        let is_behind = !watcher.is_synced;
        let open = self.streams.get_mut(&stream).expect("looked up just above");
        open.behind += usize::from(is_behind);
        open.watchers.insert(watch_id, id);
        if is_chosen_here {
            open.next_id = watch_id + 1;
        }
        self.watchers.insert(id, watcher);
        if is_behind {
            self.get_ready(id);
        }
        self.figures.watchers += 1;
        self.queue(stream, WatchResponse { created: true, ..plain(watch_id, now) });
        if start_revision > 0 && start_revision < view.compact_revision() {
            self.cancel_compacted(id, view.compact_revision());
        }
    }

    /// Answers a request to create a watcher with a refusal: for reasons of the owner, such as
    /// missing permission.
    pub fn refuse(&mut self, stream: StreamId, reason: &str, view: &View) {
        let now = view.revision().max(self.revision);
        let refusal = plain(NO_WATCH_ID, now);
        let cancel_reason = reason.to_owned();
        self.queue(
            stream,
            WatchResponse { created: true, canceled: true, cancel_reason, ..refusal },
        );
    }

    /// Ends a watcher because its client says so. An unknown id is ignored, as etcd does.
    pub fn cancel(&mut self, stream: StreamId, watch_id: i64) {
        let Some(open) = self.streams.get_mut(&stream) else { return };
        if let Some(id) = open.watchers.get(&watch_id).copied() {
            self.drop_watcher(id);
        } else if !open.ended.remove(&watch_id) {
            return;
        }
        let revision = self.revision;
        self.queue(stream, WatchResponse { canceled: true, ..plain(watch_id, revision) });
        // The others may all be synced now.
        self.answer_progress(stream);
    }

    /// Ends a watcher for a reason of the owner, such as a permission withdrawn.
    pub fn evict(&mut self, stream: StreamId, watch_id: i64, reason: &str) {
        let Some(open) = self.streams.get(&stream) else { return };
        let Some(id) = open.watchers.get(&watch_id).copied() else { return };
        self.drop_watcher(id);
        let revision = self.revision;
        let cancel_reason = reason.to_owned();
        let response = WatchResponse { canceled: true, cancel_reason, ..plain(watch_id, revision) };
        self.queue(stream, response);
        self.answer_progress(stream);
    }

    /// A client asks how far its stream has come. Answered once, as soon as all its watchers are
    /// synced; a stream without watchers gets no answer. Requests that wait together are answered
    /// together.
    pub fn progress_request(&mut self, stream: StreamId) {
        if self.streams.get(&stream).is_some_and(|open| !open.watchers.is_empty()) {
            self.asking.insert(stream);
            self.answer_progress(stream);
        }
    }

    /// Takes in the events that lead from what was published before to `view`, in order.
    ///
    /// # Panics
    /// If they do not: a hub that was not told everything must not tell anyone anything.
    pub fn publish(&mut self, view: &View, events: &[Event]) {
        let before = self.revision;
        assert!(view.revision() >= before, "published {} after {before}", view.revision());
        let mut expected = before;
        for event in events {
            let revision = event.record.mod_revision();
            assert!(
                revision == expected && revision > before || revision == expected + 1,
                "event of revision {revision} published after {expected}"
            );
            expected = revision;
        }
        assert_eq!(expected, view.revision(), "last event published and the view");
        self.revision = view.revision();

        let mut matched: BTreeMap<WatcherId, Vec<usize>> = BTreeMap::new();
        for (index, event) in events.iter().enumerate() {
            self.index.visit(event.record.key(), &mut |id| {
                matched.entry(id).or_default().push(index);
            });
        }
        let mut rendered = Rendered::new(events, view);
        for (id, indices) in matched {
            self.notify(id, events, indices, &mut rendered);
        }
        self.answer_progress_requests();
    }

    /// The state was replaced as a whole, by a snapshot: events in between were never published.
    /// Everyone reads them from the history, as far as it goes.
    ///
    /// # Panics
    /// If `view` is older than what was published.
    pub fn replaced(&mut self, view: &View) {
        assert!(view.revision() >= self.revision, "state replaced by an older one");
        let synced: Vec<WatcherId> =
            self.watchers.iter().filter(|(_, it)| it.is_synced).map(|(id, _)| *id).collect();
        let next = self.revision + 1;
        self.revision = view.revision();
        for id in synced {
            let revision = self.watchers[&id].next_revision.max(next);
            if revision <= self.revision {
                self.fall_behind(id, revision);
            }
        }
        self.answer_progress_requests();
    }

    /// Tells idle synced watchers that asked for it how far they have come. To be called on the
    /// interval of progress notifications; a watcher that was sent something since the last call is
    /// passed over once.
    pub fn progress_tick(&mut self) {
        for stream in self.streams.keys().copied().collect::<Vec<_>>() {
            self.progress_tick_of(stream);
        }
    }

    /// [`Hub::progress_tick`] for one stream, for owners that spread the ticks over time.
    pub fn progress_tick_of(&mut self, stream: StreamId) {
        let Some(open) = self.streams.get(&stream) else { return };
        let ids: Vec<WatcherId> = open.watchers.values().copied().collect();
        for id in ids {
            let has_room = self.has_room(stream);
            let watcher = self.watchers.get_mut(&id).expect("a stream's watchers exist");
            if !watcher.wants.progress {
                continue;
            }
            let was_idle = std::mem::replace(&mut watcher.is_idle, true);
            if was_idle && has_room && knows_all(watcher, self.revision) {
                let response = plain(watcher.watch_id, self.revision);
                self.queue(stream, response);
            }
        }
    }

    /// Some responses of a stream have left: `bytes` is the sum of their encoded lengths as
    /// [`Hub::take_output`] gave them out.
    pub fn sent(&mut self, stream: StreamId, bytes: usize) {
        let Some(open) = self.streams.get_mut(&stream) else { return };
        let bytes = bytes.min(open.buffered_bytes);
        open.buffered_bytes -= bytes;
        self.figures.buffered_bytes -= bytes;
        // Room for more than a page, so that a slow client is not served crumb by crumb.
        if open.buffered_bytes <= self.limits.stream_buffer_bytes_max / 2 {
            for id in std::mem::take(&mut open.waiting) {
                self.get_ready(id);
            }
        }
    }

    /// Whether [`Hub::take_output`] has something to give.
    #[must_use]
    pub fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Responses to send, in order for each stream; at most [`HubLimits::output_responses_max`], and
    /// fewer when some were for streams closed since: [`Hub::has_output`] tells whether to go on.
    /// Headers hold the revision alone, the rest is the server's.
    pub fn take_output(&mut self) -> Vec<(StreamId, WatchResponse)> {
        let length = self.output.len().min(self.limits.output_responses_max);
        let streams = &self.streams;
        let output = self.output.drain(..length);
        output.filter(|(stream, _)| streams.contains_key(stream)).collect()
    }

    /// Revision up to which events have been published.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Figures to export.
    #[must_use]
    pub fn figures(&self) -> HubFigures {
        HubFigures { streams: self.streams.len(), ..self.figures }
    }

    fn cancel_compacted(&mut self, id: WatcherId, compact_revision: i64) {
        let watcher = &self.watchers[&id];
        let (stream, watch_id) = (watcher.stream, watcher.watch_id);
        self.drop_watcher(id);
        let open = self.streams.get_mut(&stream).expect("watchers have one");
        open.ended.insert(watch_id);
        if open.ended.len() > self.limits.ended_per_stream_max {
            open.ended.pop_first();
        }
        let revision = self.revision.max(compact_revision);
        let response =
            WatchResponse { canceled: true, compact_revision, ..plain(watch_id, revision) };
        self.queue(stream, response);
        self.answer_progress(stream);
    }

    /// Forgets a watcher wherever it is.
    fn drop_watcher(&mut self, id: WatcherId) {
        self.not_ready(id);
        let watcher = self.watchers.remove(&id).expect("its owner looked it up");
        let open = self.streams.get_mut(&watcher.stream).expect("watchers have one");
        open.watchers.remove(&watcher.watch_id);
        self.figures.watchers -= 1;
        if watcher.is_synced {
            self.index.remove(watcher.range(), id);
        } else {
            open.behind -= 1;
            open.waiting.retain(|it| *it != id);
            self.figures.watchers_behind -= 1;
        }
    }

    fn answer_progress_requests(&mut self) {
        for stream in self.asking.iter().copied().collect::<Vec<_>>() {
            self.answer_progress(stream);
        }
    }

    /// Answers a stream's progress request if it has one and all its watchers know everything up to
    /// the revision published.
    fn answer_progress(&mut self, stream: StreamId) {
        if !self.asking.contains(&stream) {
            return;
        }
        let open = &self.streams[&stream];
        let revision = self.revision;
        if open.watchers.is_empty() {
            self.asking.remove(&stream);
        } else if open.behind == 0
            && open.watchers.values().all(|id| knows_all(&self.watchers[id], revision))
        {
            self.asking.remove(&stream);
            self.queue(stream, plain(NO_WATCH_ID, revision));
        }
    }

    fn queue(&mut self, stream: StreamId, response: WatchResponse) {
        let Some(open) = self.streams.get_mut(&stream) else { return };
        let bytes = response.encoded_len();
        open.buffered_bytes += bytes;
        self.figures.buffered_bytes += bytes;
        self.output.push_back((stream, response));
    }
}

/// Whether a watcher can be told that it knows everything up to `revision`.
fn knows_all(watcher: &Watcher, revision: i64) -> bool {
    watcher.is_synced && watcher.next_revision <= revision + 1 && watcher.progress_from <= revision
}

#[cfg(test)]
mod tests;
