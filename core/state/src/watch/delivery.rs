//! How events reach watchers: new ones at once, past ones a page at a time.
//!
//! After a member starts, thousands of watchers may come back with a revision each. Those of ranges
//! that stand near each other read a stretch of the past together: it is walked once, an index of
//! the readers tells whom each event concerns, and they go on from the same revision. A watcher of a
//! single key reads by itself, because the history has its versions side by side.

use std::collections::BTreeMap;
use std::ops::Bound;

use proto::etcdserverpb::WatchResponse;
use proto::mvccpb;

use super::index::Index;
use super::response::{Rendered, event_bytes, fragments, plain};
use super::{Hub, HubLimits, WatcherId};
use crate::outcome::Event;
use crate::view::View;

/// Readers near each other from which on they read together.
const SHARED_READERS_MIN: usize = 4;

/// Readers of one shared page; each costs a place in an index made for it.
const SHARED_READERS_MAX: usize = 4096;

impl Hub {
    /// Lets watchers that are behind read the history, in turn, until about `budget_revisions` have
    /// been read. Returns whether there is more to do right away.
    ///
    /// # Panics
    /// If `view` is older than what was published.
    pub fn catch_up(&mut self, view: &View, budget_revisions: usize) -> bool {
        assert!(view.revision() >= self.revision, "catching up with the past of the past");
        // Compaction has overtaken the view: its owner has a newer one already, or is about to get it.
        let Some(_pin) = view.pin() else { return !self.ready.is_empty() };
        let mut budget = budget_revisions.max(1);
        while budget > 0 {
            let after = (Bound::Excluded(self.last_served), Bound::Unbounded);
            let next = self.ready.range(after).next().or_else(|| self.ready.first());
            let Some(id) = next.copied() else { return false };
            self.last_served = id;
            let stream = self.watchers[&id].stream;
            if self.has_room(stream) {
                budget = budget.saturating_sub(self.read_on(id, view));
            } else {
                self.not_ready(id);
                self.streams.get_mut(&stream).expect("watchers have one").waiting.push(id);
            }
        }
        !self.ready.is_empty()
    }

    /// Sends a synced watcher new events, or lets it fall behind if its stream is full.
    pub(super) fn notify(
        &mut self,
        id: WatcherId,
        events: &[Event],
        indices: Vec<usize>,
        rendered: &mut Rendered<'_>,
    ) {
        let watcher = &self.watchers[&id];
        let (from, wants) = (watcher.next_revision, watcher.wants);
        let mut wanted = indices
            .into_iter()
            .filter(|index| {
                let event = &events[*index];
                event.record.mod_revision() >= from && wants.event(event)
            })
            .peekable();
        while let Some(first) = wanted.peek() {
            let stream = self.watchers[&id].stream;
            if !self.has_room(stream) {
                let revision = events[*first].record.mod_revision();
                return self.fall_behind(id, revision);
            }
            let mut page = Page::new(&self.limits);
            let mut taken = Vec::new();
            while let Some(index) =
                wanted.next_if(|index| page.takes(&events[*index], wants.prev_kv))
            {
                taken.push(rendered.event(index, wants.prev_kv));
            }
            let through = if wanted.peek().is_none() { self.revision } else { page.last_revision };
            self.send_events(id, taken, through);
        }
    }

    /// Lets a watcher that is behind, and others with it, go on by a page. Returns what it cost, in
    /// revisions.
    fn read_on(&mut self, id: WatcherId, view: &View) -> usize {
        let watcher = &self.watchers[&id];
        let from = watcher.next_revision;
        if watcher.range().as_single().is_none() && from >= view.compact_revision() {
            let window = i64::try_from(self.limits.response_revisions_max).unwrap_or(i64::MAX);
            let near = (from, 0)..(from.saturating_add(window), 0);
            let readers: Vec<WatcherId> =
                self.ready_ranges.range(near).take(SHARED_READERS_MAX).map(|(_, id)| *id).collect();
            if readers.len() >= SHARED_READERS_MIN {
                return self.read_together(readers, from, view);
            }
        }
        self.read_alone(id, view)
    }

    fn read_alone(&mut self, id: WatcherId, view: &View) -> usize {
        let watcher = &self.watchers[&id];
        let (from, wants) = (watcher.next_revision, watcher.wants);
        let page = view.events(
            from,
            &watcher.key,
            &watcher.range_end,
            self.limits.response_revisions_max,
            page_bytes(&self.limits, wants.prev_kv),
        );
        let Ok(page) = page else {
            self.cancel_compacted(id, view.compact_revision());
            return 1;
        };
        assert!(page.next_revision > from || from > view.revision(), "a page leads nowhere");
        let is_single = watcher.range().as_single().is_some();
        let cost = if is_single { page.events.len() } else { walked(from, page.next_revision) };
        let mut rendered = Rendered::new(&page.events, view);
        let wanted = (0..page.events.len())
            .filter(|index| wants.event(&page.events[*index]))
            .map(|index| rendered.event(index, wants.prev_kv))
            .collect();
        self.advance(id, page.next_revision, wanted);
        cost.max(1)
    }

    /// One walk through the past for many watchers of ranges. The page begins at the first reader's
    /// revision; others may begin within it.
    fn read_together(&mut self, mut readers: Vec<WatcherId>, from: i64, view: &View) -> usize {
        let any_prev = readers.iter().any(|id| self.watchers[id].wants.prev_kv);
        let page = view
            .events(
                from,
                &[0],
                &[0],
                self.limits.response_revisions_max,
                page_bytes(&self.limits, any_prev),
            )
            .expect("readers are at or above the compact revision");
        assert!(page.next_revision > from || from > view.revision(), "a page leads nowhere");

        let mut index = Index::default();
        for id in &readers {
            index.insert(self.watchers[id].range(), *id);
        }
        let mut matched: BTreeMap<WatcherId, Vec<usize>> = BTreeMap::new();
        for (at, event) in page.events.iter().enumerate() {
            index.visit(event.record.key(), &mut |id| {
                let watcher = &self.watchers[&id];
                if event.record.mod_revision() >= watcher.next_revision
                    && watcher.wants.event(event)
                {
                    matched.entry(id).or_default().push(at);
                }
            });
        }
        let mut rendered = Rendered::new(&page.events, view);
        readers.sort_unstable();
        for id in readers {
            let watcher = &self.watchers[&id];
            let (next_revision, prev_kv) = (watcher.next_revision, watcher.wants.prev_kv);
            let indices = matched.remove(&id).unwrap_or_default();
            // One whose stream became full by another's events reads this page again later.
            let must_wait = !indices.is_empty() && !self.has_room(watcher.stream);
            if next_revision < page.next_revision && !must_wait {
                let wanted = indices.into_iter().map(|at| rendered.event(at, prev_kv)).collect();
                self.advance(id, page.next_revision, wanted);
            }
        }
        walked(from, page.next_revision).max(1)
    }

    /// A watcher that was behind has read up to a revision and is sent what it found.
    fn advance(&mut self, id: WatcherId, next_revision: i64, events: Vec<mvccpb::Event>) {
        self.not_ready(id);
        let watcher = self.watchers.get_mut(&id).expect("its owner looked it up");
        watcher.next_revision = next_revision;
        let stream = watcher.stream;
        if next_revision > self.revision {
            watcher.is_synced = true;
            self.index.insert(self.watchers[&id].range(), id);
            self.streams.get_mut(&stream).expect("watchers have one").behind -= 1;
            self.figures.watchers_behind -= 1;
        } else {
            self.get_ready(id);
        }
        if !events.is_empty() {
            self.send_events(id, events, next_revision - 1);
        }
        // After the events: progress speaks of what went before it.
        self.answer_progress(stream);
    }

    /// A watcher that is behind waits for its turn.
    pub(super) fn get_ready(&mut self, id: WatcherId) {
        let watcher = &self.watchers[&id];
        self.ready.insert(id);
        if watcher.range().as_single().is_none() {
            self.ready_ranges.insert((watcher.next_revision, id));
        }
    }

    /// A watcher no longer waits for its turn, if it did.
    pub(super) fn not_ready(&mut self, id: WatcherId) {
        self.ready.remove(&id);
        self.ready_ranges.remove(&(self.watchers[&id].next_revision, id));
    }

    fn send_events(&mut self, id: WatcherId, events: Vec<mvccpb::Event>, through_revision: i64) {
        let watcher = self.watchers.get_mut(&id).expect("its owner looked it up");
        watcher.is_idle = false;
        let (stream, has_fragments) = (watcher.stream, watcher.wants.fragments);
        self.figures.events_total += events.len() as u64;
        let response = WatchResponse { events, ..plain(watcher.watch_id, through_revision) };
        if has_fragments {
            for fragment in fragments(response, self.limits.fragment_bytes_max) {
                self.queue(stream, fragment);
            }
        } else {
            self.queue(stream, response);
        }
    }

    /// A synced watcher leaves the index and will read on from `revision`.
    pub(super) fn fall_behind(&mut self, id: WatcherId, revision: i64) {
        let watcher = self.watchers.get_mut(&id).expect("its owner looked it up");
        assert!(watcher.is_synced, "a watcher falls behind twice");
        watcher.is_synced = false;
        watcher.next_revision = revision;
        let stream = watcher.stream;
        self.index.remove(self.watchers[&id].range(), id);
        self.get_ready(id);
        self.streams.get_mut(&stream).expect("watchers have one").behind += 1;
        self.figures.watchers_behind += 1;
    }
}

/// Bytes of records to read for one response: with the state before, an event is about twice as long.
fn page_bytes(limits: &HubLimits, prev_kv: bool) -> usize {
    limits.response_bytes_max / if prev_kv { 2 } else { 1 }
}

fn walked(from: i64, next: i64) -> usize {
    usize::try_from(next - from).unwrap_or(0)
}

/// What goes into one response: whole revisions.
struct Page {
    revisions_left: usize,
    bytes_left: usize,
    last_revision: i64,
}

impl Page {
    fn new(limits: &HubLimits) -> Self {
        Self {
            revisions_left: limits.response_revisions_max.max(1),
            bytes_left: limits.response_bytes_max,
            last_revision: 0,
        }
    }

    /// Whether the next event still belongs here; if so, it counts.
    fn takes(&mut self, event: &Event, prev_kv: bool) -> bool {
        let revision = event.record.mod_revision();
        let begins = revision != self.last_revision;
        let is_full = self.revisions_left == 0 || self.bytes_left == 0;
        if begins && is_full && self.last_revision > 0 {
            return false;
        }
        self.revisions_left -= usize::from(begins);
        self.bytes_left = self.bytes_left.saturating_sub(event_bytes(event, prev_kv));
        self.last_revision = revision;
        true
    }
}
