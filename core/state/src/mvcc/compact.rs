//! Forgetting what was superseded.
//!
//! A compaction takes effect at once for every reader: nothing below its revision can be asked for
//! any more. Taking the superseded records out of the trees is the *sweep*, done in bounded steps
//! between commands so that a compaction of millions of revisions never holds up apply.
//!
//! The sweep walks the revisions after the previous compaction up to the new one, and no others:
//! whatever a revision in that stretch superseded goes, and so do tombstones below the new compact
//! revision. A tombstone *at* the compact revision stays until the next compaction, because a watch
//! may still start there and has to see the delete. Records below the previous compaction that
//! nothing superseded are never looked at.
//!
//! How far a sweep has come is no part of the replicated state: [`Store::records`] leaves out what
//! the sweep has still to take, so that snapshots and hashes of equal states are equal.

use super::Store;
use crate::error::StateError;
use crate::record::{Record, Revision};

/// A compaction whose superseded records are being taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// First revision not walked yet.
    next: Revision,
}

impl Store {
    /// Makes `revision` the oldest that can be read.
    pub(crate) fn compact(&mut self, revision: i64) -> Result<(), StateError> {
        if revision <= self.compact_revision {
            return Err(StateError::Compacted);
        }
        if revision > self.revision {
            return Err(StateError::FutureRevision);
        }
        // A sweep under way goes on to the new end, but not from beyond the old one: tombstones there
        // were left.
        let from = Revision::first_of(self.compact_revision);
        let next = self.sweep.map_or(from, |sweep| sweep.next.min(from));
        self.sweep = Some(Sweep { next });
        self.compact_revision = revision;
        Ok(())
    }

    /// Whether superseded records are still waiting to be taken out.
    #[must_use]
    pub fn is_sweeping(&self) -> bool {
        self.sweep.is_some()
    }

    /// Walks up to `records_max` more revisions of a sweep. Returns whether there is more to do.
    /// What it takes out is added to `removed`.
    pub(crate) fn sweep(&mut self, records_max: usize, removed: &mut Vec<Revision>) -> bool {
        let Some(Sweep { next }) = self.sweep else { return false };
        let walked: Vec<Record> = self
            .revisions
            .iter_from(next)
            .take_while(|record| record.mod_revision() <= self.compact_revision)
            .take(records_max.max(1))
            .cloned()
            .collect();
        let Some(last) = walked.last().map(Record::revision) else {
            self.sweep = None;
            return false;
        };
        for record in &walked {
            let key = record.key();
            let superseded = self.history.last_before((key, record.revision()));
            if let Some(superseded) = superseded.filter(|old| old.key() == key).cloned() {
                self.forget(&superseded);
                removed.push(superseded.revision());
            }
            if record.is_tombstone() && record.mod_revision() < self.compact_revision {
                self.forget(record);
                removed.push(record.revision());
            }
        }
        self.sweep = Some(Sweep { next: Revision { main: last.main, sub: last.sub + 1 } });
        true
    }

    pub(super) fn forget(&mut self, record: &Record) {
        let gone = self.history.remove((record.key(), record.revision()));
        debug_assert!(gone.is_some(), "{record:?} is not in history");
        self.revisions.remove(record.revision());
        self.bytes_kept -= record.bytes_len() as u64;
    }

    /// Whether a record of this store outlives the compactions so far.
    #[must_use]
    pub fn keeps(&self, record: &Record) -> bool {
        let revision = record.revision();
        if revision.main >= self.compact_revision {
            return true;
        }
        if record.is_tombstone() {
            return false;
        }
        let key = record.key();
        let compacted = |newer: &Record| newer.mod_revision() <= self.compact_revision;
        match self.current.get(key) {
            Some(live) if live.revision() == revision => return true,
            Some(live) if compacted(live) => return false,
            _ => {}
        }
        let after = Revision { main: revision.main, sub: revision.sub + 1 };
        let newer = self.history.iter_from((key, after)).next();
        !newer.is_some_and(|newer| newer.key() == key && compacted(newer))
    }

    /// Whether a record, perhaps one long forgotten, is among [`Store::records`].
    #[must_use]
    pub fn holds(&self, record: &Record) -> bool {
        self.revisions.get(record.revision()).is_some_and(|it| it == record)
            && (!self.is_sweeping() || self.keeps(record))
    }

    /// The records that outlive the compactions so far, from a revision on, in the order they
    /// were made. They alone, with the two revisions, make the store again.
    pub fn records(&self, from: Revision) -> impl Iterator<Item = &Record> {
        let sweeping = self.is_sweeping();
        self.revisions.iter_from(from).filter(move |record| !sweeping || self.keeps(record))
    }
}
