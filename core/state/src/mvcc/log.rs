//! What happened, in order: the past that watchers catch up with.

use super::{KeyRange, Store};
use crate::error::StateError;
use crate::outcome::Event;
use crate::record::{Record, Revision};

/// Records looked at for one page, whether or not they match: bounds the time a page takes.
pub const PAGE_RECORDS_SCANNED_MAX: usize = 16_384;

/// A stretch of the past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventPage {
    /// Matching events, oldest first. All events of a revision are in one page.
    pub events: Vec<Event>,
    /// Where the next page begins. Past the store's revision when there is no more.
    pub next_revision: i64,
}

impl Store {
    /// Events of a range from revision `from` on, at most `revisions_max` revisions that match and,
    /// beyond the first of them, at most `bytes_max` bytes of records.
    ///
    /// # Errors
    /// [`StateError::Compacted`] if `from` is below the compact revision.
    pub fn events(
        &self,
        from: i64,
        range: KeyRange<'_>,
        revisions_max: usize,
        bytes_max: usize,
    ) -> Result<EventPage, StateError> {
        if from < self.compact_revision {
            return Err(StateError::Compacted);
        }
        let mut page = Page {
            store: self,
            events: Vec::new(),
            revisions: 0,
            bytes: 0,
            revisions_max: revisions_max.max(1),
            bytes_max,
        };
        let end = self.revision.saturating_add(1).max(from);
        let next_revision = match range.as_single() {
            Some(key) => page.fill_key(from, key),
            None => page.fill_range(from, range),
        };
        let next_revision = next_revision.unwrap_or(end);
        Ok(EventPage { events: page.events, next_revision })
    }

    /// The record that was live just before `record` was made, as far as it can still be known.
    #[must_use]
    pub fn before(&self, record: &Record) -> Option<&Record> {
        let revision = record.mod_revision() - 1;
        if revision < self.compact_revision {
            return None;
        }
        self.record_at(record.key(), revision)
    }
}

struct Page<'a> {
    store: &'a Store,
    events: Vec<Event>,
    revisions: usize,
    bytes: usize,
    revisions_max: usize,
    bytes_max: usize,
}

impl Page<'_> {
    /// Both return the revision to go on with, or `None` at the end.
    fn fill_range(&mut self, from: i64, range: KeyRange<'_>) -> Option<i64> {
        let mut last_main = from;
        for (scanned, record) in
            self.store.revisions.iter_from(Revision::first_of(from)).enumerate()
        {
            let main = record.mod_revision();
            if scanned >= PAGE_RECORDS_SCANNED_MAX && main != last_main {
                return Some(main);
            }
            last_main = main;
            if range.contains(record.key()) && !self.take(record) {
                return Some(main);
            }
        }
        None
    }

    /// The versions of one key are together in `history`: nothing else is looked at.
    fn fill_key(&mut self, from: i64, key: &[u8]) -> Option<i64> {
        let versions = self.store.history.iter_from((key, Revision::first_of(from)));
        let live = self.store.get(key).filter(|live| live.mod_revision() >= from);
        for record in versions.take_while(|record| record.key() == key).chain(live) {
            if !self.take(record) {
                return Some(record.mod_revision());
            }
        }
        None
    }

    /// Adds an event unless it begins a revision that no longer fits.
    fn take(&mut self, record: &Record) -> bool {
        let main = record.mod_revision();
        let begins = self.events.last().is_none_or(|last| last.record.mod_revision() != main);
        if begins {
            let full = self.revisions == self.revisions_max || self.bytes >= self.bytes_max;
            if full && self.revisions > 0 {
                return false;
            }
            self.revisions += 1;
        }
        self.bytes += record.bytes_len();
        let prev = self.store.before(record).cloned();
        self.events.push(Event { record: record.clone(), prev });
        true
    }
}
