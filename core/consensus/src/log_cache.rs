//! The log as raft sees it: a window of entries in memory.
//!
//! Everything above the applied index is here, always, so that raft never waits for a disk. Below
//! it the window keeps what laggards may still want, up to two limits (less where nobody follows); a
//! follower further behind gets a snapshot. Writing to the disk is the business of others: raft is told what is durable
//! through `persisted`, not through this cache.
//!
//! Raft asks for a snapshot when a follower needs entries the window no longer holds. The newest
//! available one serves if the window still continues it; otherwise the wish is noted
//! ([`LogCache::take_snapshot_wanted`]) and the window stops shrinking for a while, or under load
//! every snapshot would be too old by the time it is made.

use std::cell::Cell;
use std::collections::VecDeque;

use proto::log;
use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Storage, StorageError};

use crate::config::{ENTRY_OVERHEAD_BYTES, LOG_HELD_FACTOR};
use crate::convert;

/// The window of the log in memory.
pub(crate) struct LogCache {
    /// Index and term of the entry before the window.
    before: (u64, u64),
    entries: VecDeque<Entry>,
    bytes: u64,
    /// Bytes of the entries at or below `applied`.
    bytes_applied: u64,
    applied: u64,
    snapshot: Option<log::SnapshotMeta>,
    snapshot_wanted: Cell<bool>,
    /// Entries above this index are wanted behind a snapshot that is being made or sent.
    held_above: Option<u64>,
    /// What raft is given when it starts; not kept up to date.
    initial: (HardState, ConfState),
}

impl LogCache {
    pub(crate) fn new(
        before: (u64, u64),
        snapshot: Option<log::SnapshotMeta>,
        hard_state: HardState,
        conf_state: ConfState,
    ) -> LogCache {
        LogCache {
            before,
            entries: VecDeque::new(),
            bytes: 0,
            bytes_applied: 0,
            applied: before.0,
            snapshot,
            snapshot_wanted: Cell::new(false),
            held_above: None,
            initial: (hard_state, conf_state),
        }
    }

    fn first(&self) -> u64 {
        self.before.0 + 1
    }

    fn last(&self) -> u64 {
        self.before.0 + self.entries.len() as u64
    }

    fn position(&self, index: u64) -> usize {
        debug_assert!(index >= self.first());
        (index - self.first()) as usize
    }

    /// Appends entries, after cutting off what they replace.
    pub(crate) fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(
            first.index > self.applied && first.index >= self.first(),
            "entry {} replaces what is applied up to {}",
            first.index,
            self.applied
        );
        assert!(first.index <= self.last() + 1, "entry {} leaves a gap", first.index);
        while self.last() >= first.index {
            let cut = self.entries.pop_back().expect("the window reaches to `last`");
            self.bytes -= entry_bytes(&cut);
        }
        for entry in entries {
            assert_eq!(entry.index, self.last() + 1, "entries are contiguous");
            self.bytes += entry_bytes(entry);
            self.entries.push_back(entry.clone());
        }
    }

    /// Starts anew behind a snapshot that came from the leader.
    pub(crate) fn restore(&mut self, meta: log::SnapshotMeta) {
        self.before = (meta.index, meta.term);
        self.entries.clear();
        self.bytes = 0;
        self.bytes_applied = 0;
        self.applied = self.applied.max(meta.index);
        self.held_above = None;
        self.snapshot = Some(meta);
    }

    /// Moves the applied index forward.
    pub(crate) fn set_applied(&mut self, index: u64) {
        assert!(index <= self.last(), "applied index {index} is beyond the log");
        while self.applied < index {
            self.applied += 1;
            if self.applied >= self.first() {
                let entry = &self.entries[self.position(self.applied)];
                self.bytes_applied += entry_bytes(entry);
            }
        }
    }

    /// Lets go of applied entries beyond the limits.
    pub(crate) fn trim(&mut self, bytes_kept: u64, entries_kept: u64) {
        while self.before.0 < self.applied {
            let kept = self.applied - self.before.0;
            let held = self.held_above.is_some_and(|above| self.first() > above);
            let factor = if held { LOG_HELD_FACTOR } else { 1 };
            if kept <= entries_kept.saturating_mul(factor)
                && self.bytes_applied <= bytes_kept.saturating_mul(factor)
            {
                break;
            }
            let gone = self.entries.pop_front().expect("applied entries are in the window");
            self.before = (gone.index, gone.term);
            self.bytes -= entry_bytes(&gone);
            self.bytes_applied -= entry_bytes(&gone);
        }
    }

    /// Entries above this index stay longer, for a follower that is behind.
    pub(crate) fn hold_above(&mut self, index: Option<u64>) {
        self.held_above = index;
    }

    pub(crate) fn snapshot_available(&mut self, meta: log::SnapshotMeta) {
        if self.snapshot.as_ref().is_none_or(|old| old.index < meta.index) {
            self.snapshot = Some(meta);
        }
    }

    pub(crate) fn available_snapshot_index(&self) -> u64 {
        self.snapshot.as_ref().map_or(0, |meta| meta.index)
    }

    pub(crate) fn snapshot_wanted(&self) -> bool {
        self.snapshot_wanted.get()
    }

    pub(crate) fn take_snapshot_wanted(&self) -> bool {
        self.snapshot_wanted.take()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of the entries that are not applied yet.
    pub(crate) fn bytes_unapplied(&self) -> u64 {
        self.bytes - self.bytes_applied
    }
}

pub(crate) fn entry_bytes(entry: &Entry) -> u64 {
    entry.data.len() as u64 + entry.context.len() as u64 + ENTRY_OVERHEAD_BYTES
}

impl Storage for LogCache {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let (hard_state, conf_state) = self.initial.clone();
        Ok(RaftState::new(hard_state, conf_state))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low < self.first() {
            return Err(Error::Store(StorageError::Compacted));
        }
        assert!(high <= self.last() + 1, "entries up to {high} are beyond {}", self.last());
        let bytes_max = max_size.into().unwrap_or(u64::MAX);
        let mut bytes = 0;
        let range = self.position(low)..self.position(high);
        let mut out = Vec::new();
        for entry in self.entries.range(range) {
            bytes += entry_bytes(entry);
            if bytes > bytes_max && !out.is_empty() {
                break;
            }
            out.push(entry.clone());
        }
        Ok(out)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.before.0 {
            return Ok(self.before.1);
        }
        if index < self.before.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        match self.entries.get(self.position(index)) {
            Some(entry) => Ok(entry.term),
            None => Err(Error::Store(StorageError::Unavailable)),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        // Raft refuses a snapshot from before its receiver was a member, however often it is sent.
        let knows = |meta: &log::SnapshotMeta| {
            meta.conf_state
                .as_ref()
                .is_some_and(|conf| conf.voters.contains(&to) || conf.learners.contains(&to))
        };
        match &self.snapshot {
            Some(meta)
                if meta.index >= self.before.0 && meta.index >= request_index && knows(meta) =>
            {
                Ok(convert::snapshot_to_raft(meta))
            }
            _ => {
                self.snapshot_wanted.set(true);
                Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, data: vec![0; 4].into(), ..Default::default() }
    }

    fn cache(range: std::ops::RangeInclusive<u64>) -> LogCache {
        let before = range.start() - 1;
        let term = u64::from(before > 0);
        let mut cache =
            LogCache::new((before, term), None, HardState::default(), ConfState::default());
        cache.append(&range.map(|index| entry(index, 1)).collect::<Vec<_>>());
        cache
    }

    fn indexes(cache: &LogCache, low: u64, high: u64, bytes: u64) -> Vec<u64> {
        let context = GetEntriesContext::empty(false);
        let entries = cache.entries(low, high, bytes, context).unwrap();
        entries.iter().map(|entry| entry.index).collect()
    }

    #[test]
    fn later_entries_replace_what_they_conflict_with() {
        let mut cache = cache(1..=5);
        cache.append(&[entry(4, 2)]);
        assert_eq!(cache.last_index().unwrap(), 4);
        assert_eq!(cache.term(4).unwrap(), 2);
        assert_eq!(cache.term(3).unwrap(), 1);
        assert_eq!(cache.bytes(), 4 * (ENTRY_OVERHEAD_BYTES + 4));
    }

    #[test]
    fn entries_above_applied_are_never_let_go() {
        let mut cache = cache(1..=10);
        cache.trim(0, 0);
        assert_eq!(cache.first_index().unwrap(), 1);
        cache.set_applied(4);
        cache.trim(0, 0);
        assert_eq!(cache.first_index().unwrap(), 5);
        assert_eq!(cache.term(4).unwrap(), 1);
        assert!(matches!(cache.term(3), Err(Error::Store(StorageError::Compacted))));
        assert_eq!(cache.bytes_unapplied(), cache.bytes());
    }

    #[test]
    fn applied_entries_are_kept_up_to_either_limit() {
        let mut by_count = cache(1..=10);
        by_count.set_applied(10);
        by_count.trim(u64::MAX, 3);
        assert_eq!(by_count.first_index().unwrap(), 8);
        let mut by_bytes = cache(1..=10);
        by_bytes.set_applied(10);
        by_bytes.trim(2 * (ENTRY_OVERHEAD_BYTES + 4), u64::MAX);
        assert_eq!(by_bytes.first_index().unwrap(), 9);
    }

    #[test]
    fn entries_behind_a_snapshot_on_its_way_are_held_longer_but_not_for_ever() {
        let mut cache = cache(1..=100);
        cache.set_applied(100);
        cache.hold_above(Some(70));
        cache.trim(u64::MAX, 10);
        assert_eq!(cache.first_index().unwrap(), 71);
        cache.trim(u64::MAX, 2);
        assert_eq!(cache.first_index().unwrap(), 93);
        cache.hold_above(None);
        cache.trim(u64::MAX, 2);
        assert_eq!(cache.first_index().unwrap(), 99);
    }

    #[test]
    fn one_entry_is_returned_however_small_the_limit() {
        let cache = cache(1..=5);
        assert_eq!(indexes(&cache, 2, 6, 0), [2]);
        assert_eq!(indexes(&cache, 2, 6, 2 * (ENTRY_OVERHEAD_BYTES + 4)), [2, 3]);
        assert_eq!(indexes(&cache, 2, 6, u64::MAX), [2, 3, 4, 5]);
    }

    fn snapshot(index: u64, learners: &[u64]) -> log::SnapshotMeta {
        let conf_state =
            log::ConfState { voters: vec![1], learners: learners.to_vec(), ..Default::default() };
        log::SnapshotMeta { index, term: 1, conf_state: Some(conf_state), ..Default::default() }
    }

    #[test]
    fn a_snapshot_from_before_a_member_was_added_is_not_for_that_member() {
        let mut cache = cache(1..=10);
        cache.snapshot_available(snapshot(4, &[]));
        assert!(cache.snapshot(0, 2).is_err());
        assert!(cache.take_snapshot_wanted());
        cache.snapshot_available(snapshot(8, &[2]));
        assert_eq!(cache.snapshot(0, 2).unwrap().get_metadata().index, 8);
    }

    #[test]
    fn a_snapshot_serves_only_while_the_log_continues_it() {
        let mut cache = cache(1..=10);
        assert!(cache.snapshot(0, 2).is_err());
        assert!(cache.take_snapshot_wanted());
        cache.snapshot_available(snapshot(4, &[2]));
        assert_eq!(cache.snapshot(0, 2).unwrap().get_metadata().index, 4);
        assert!(!cache.take_snapshot_wanted());
        assert!(cache.snapshot(5, 2).is_err());
        assert!(cache.take_snapshot_wanted());
        cache.set_applied(10);
        cache.trim(0, 5);
        assert!(cache.snapshot(0, 2).is_err());
        assert!(cache.take_snapshot_wanted());
    }
}
