//! Reading the present and the past.
//!
//! A key at a past revision is found without walking its versions: either the live record is old
//! enough, or the newest old enough one is the predecessor in `history`. A range at a past revision
//! merges `current` with `history`, seeking past the versions of a hot key.
//!
//! Counting the present is two ranks. Counting the past takes the cheapest of three ways:
//! the whole key space is the present less what came plus what went since, which the revision tree
//! sums up in O(log n); otherwise either the creations and deletions since are walked (updates are
//! stepped over, a subtree without turnover is not entered), or the range itself, whichever is
//! known to be shorter beforehand.

use std::iter::Peekable;

use super::order::{ByKey, ByKeyRevision, Turnover};
use super::{KeyRange, Store, tree};
use crate::record::{Record, Revision};

/// Versions of one key stepped over before seeking past them all.
const STEPS_BEFORE_SEEK: usize = 4;

const END_OF_TIME: Revision = Revision { main: i64::MAX, sub: u32::MAX };

impl Store {
    /// The live record of a key.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&Record> {
        self.current.get(key)
    }

    /// Live records in a range, by key.
    pub fn live<'a>(&'a self, range: KeyRange<'a>) -> impl Iterator<Item = &'a Record> {
        let from = self.current.iter_from(range.start());
        from.take_while(move |record| range.reaches(record.key()))
    }

    /// Live records attached to a lease, by key.
    pub fn attached(&self, lease: i64) -> impl Iterator<Item = &Record> {
        let from = self.attached.iter_from((lease, &[]));
        from.take_while(move |record| record.lease() == lease)
    }

    /// Live records that have a lease, by lease and key.
    pub fn all_attached(&self) -> impl Iterator<Item = &Record> {
        self.attached.iter()
    }

    /// Number of live keys.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.current.len()
    }

    /// The record of `key` that was live at `revision`.
    #[must_use]
    pub fn record_at(&self, key: &[u8], revision: i64) -> Option<&Record> {
        match self.current.get(key) {
            Some(live) if live.mod_revision() <= revision => Some(live),
            _ => self.superseded_at(key, revision),
        }
    }

    /// The newest record of `key` made at or before `revision`, tombstones included.
    #[must_use]
    pub fn newest_at(&self, key: &[u8], revision: i64) -> Option<&Record> {
        match self.current.get(key) {
            Some(live) if live.mod_revision() <= revision => Some(live),
            _ => {
                let newest = self.history.last_before((key, Revision::last_of(revision)))?;
                (newest.key() == key).then_some(newest)
            }
        }
    }

    fn superseded_at(&self, key: &[u8], revision: i64) -> Option<&Record> {
        let newest = self.history.last_before((key, Revision::last_of(revision)))?;
        (newest.key() == key && !newest.is_tombstone()).then_some(newest)
    }

    /// Whether `revision` sees everything there is, changes of an open transaction included.
    fn is_present(&self, revision: i64) -> bool {
        self.revisions.last().is_none_or(|last| last.mod_revision() <= revision)
    }

    /// Records of a range that were live at `revision`, by key.
    #[must_use]
    pub fn live_at<'a>(&'a self, range: KeyRange<'a>, revision: i64) -> LiveAt<'a> {
        let start = range.start();
        let past = !self.is_present(revision);
        let superseded = past.then(|| self.history.iter_from((start, Revision::default())));
        LiveAt {
            store: self,
            range,
            revision,
            current: self.current.iter_from(start).peekable(),
            superseded: superseded.map(Iterator::peekable),
        }
    }

    /// Number of live keys in a range.
    #[must_use]
    pub fn count(&self, range: KeyRange<'_>) -> usize {
        if range.is_empty() {
            return 0;
        }
        if let Some(key) = range.as_single() {
            return usize::from(self.current.get(key).is_some());
        }
        let end = match range.end() {
            std::ops::Bound::Excluded(end) => self.current.rank(end),
            _ => self.current.len(),
        };
        end - self.current.rank(range.start())
    }

    /// Number of keys of a range that were live at `revision`.
    #[must_use]
    pub fn count_at(&self, range: KeyRange<'_>, revision: i64) -> usize {
        if range.is_empty() {
            return 0;
        }
        if let Some(key) = range.as_single() {
            return usize::from(self.record_at(key, revision).is_some());
        }
        let now = self.count(range);
        let since = Revision::first_of(revision.saturating_add(1));
        let mut turnover = self.revisions.sum();
        turnover -= self.revisions.sum_before(since);
        if turnover.total() == 0 {
            return now;
        }
        if range.is_everything() {
            return before(now, turnover);
        }
        let walk_of_range = now + self.superseded_in(range);
        if turnover.total() > walk_of_range as u64 {
            return self.live_at(range, revision).count();
        }
        let mut turnover = Turnover::default();
        let mut changes = self.revisions.iter_from(since);
        while let Some(record) = changes.next_where(|sum| sum.total() > 0) {
            if range.contains(record.key()) {
                turnover += Turnover::of(record);
            }
        }
        before(now, turnover)
    }

    fn superseded_in(&self, range: KeyRange<'_>) -> usize {
        let end = match range.end() {
            std::ops::Bound::Excluded(end) => self.history.rank((end, Revision::default())),
            _ => self.history.len(),
        };
        end.saturating_sub(self.history.rank((range.start(), Revision::default())))
    }
}

/// The count before the turnover that led to the count `now`.
fn before(now: usize, turnover: Turnover) -> usize {
    let before = now as u64 + turnover.deleted - turnover.created;
    usize::try_from(before).expect("a count of keys in memory")
}

/// Records that were live at a revision, by key.
pub struct LiveAt<'a> {
    store: &'a Store,
    range: KeyRange<'a>,
    revision: i64,
    current: Peekable<tree::Iter<'a, ByKey>>,
    /// `None` when the present is read.
    superseded: Option<Peekable<tree::Iter<'a, ByKeyRevision>>>,
}

impl<'a> LiveAt<'a> {
    fn skip_superseded(&mut self, key: &[u8]) {
        let Some(superseded) = &mut self.superseded else { return };
        for _ in 0..STEPS_BEFORE_SEEK {
            if superseded.next_if(|record| record.key() == key).is_none() {
                return;
            }
        }
        *superseded = self.store.history.iter_from((key, END_OF_TIME)).peekable();
    }
}

impl<'a> Iterator for LiveAt<'a> {
    type Item = &'a Record;

    fn next(&mut self) -> Option<&'a Record> {
        let range = self.range;
        let in_range = |record: &&'a Record| range.reaches(record.key());
        loop {
            let live = self.current.peek().copied().filter(in_range);
            let old = self.superseded.as_mut().and_then(|iter| iter.peek().copied());
            let old = old.filter(in_range).map(Record::key);
            let key = match (live.map(Record::key), old) {
                (Some(live), Some(old)) => live.min(old),
                (live, old) => live.or(old)?,
            };
            let live = live.filter(|record| record.key() == key);
            if live.is_some() {
                self.current.next();
            }
            let had_versions = old == Some(key);
            if had_versions {
                self.skip_superseded(key);
            }
            let found = match live {
                Some(live) if self.superseded.is_none() => Some(live),
                Some(live) if live.mod_revision() <= self.revision => Some(live),
                _ if had_versions => self.store.superseded_at(key, self.revision),
                _ => None,
            };
            if found.is_some() {
                return found;
            }
        }
    }
}
