//! Records on their way to become a store: taken one after the other in the order of their revisions,
//! which is how a backend and a snapshot hold them.
//!
//! What can be done with a record that has just been read is done then, while it is in the processor's
//! cache: the tree of revisions grows, and the part of the key that sorts it is noted. To come back to
//! a million records for either means waiting for memory.

use super::order::ByRevision;
use super::tree::{Builder, Tree};
use crate::record::{Record, Revision};

/// Records in the order of their revisions.
#[derive(Default)]
pub(crate) struct Gathered {
    places: Vec<Place>,
    revisions: Builder<ByRevision>,
    /// Some key; all begin with its first `shared` bytes.
    witness: Vec<u8>,
    shared: usize,
    /// Places before this one have heads that leave out more than `shared` bytes.
    stale: usize,
}

/// A record and what it is sorted by first: the eight bytes of its key after those that all keys looked
/// at have in common, as a number that sorts as they do. Comparing keys themselves would mean waiting
/// for memory at every step.
pub(super) struct Place {
    pub(super) head: u64,
    /// Its number in the order of revisions.
    pub(super) at: usize,
    record: Option<Record>,
}

impl Place {
    pub(super) fn record(&self) -> &Record {
        self.record.as_ref().expect("a record is taken once")
    }

    pub(super) fn take(&mut self) -> Record {
        self.record.take().expect("a record is taken once")
    }
}

impl Gathered {
    /// Adds a record whose revision is above all before.
    pub(crate) fn push(&mut self, record: Record) {
        let key = record.key();
        if self.places.is_empty() {
            self.witness = key.to_vec();
            self.shared = key.len();
        } else if !key.starts_with(&self.witness[..self.shared]) {
            self.shared = self.witness.iter().zip(key).take_while(|(a, b)| a == b).count();
            self.stale = self.places.len();
        }
        let head = head(&key[self.shared..]);
        self.revisions.push(record.clone());
        self.places.push(Place { head, at: self.places.len(), record: Some(record) });
    }

    /// All records, in the order of their revisions.
    pub(crate) fn records(&self) -> impl DoubleEndedIterator<Item = &Record> {
        self.places.iter().map(Place::record)
    }

    /// Without the records of these revisions, which ascend.
    #[must_use]
    pub(crate) fn without(self, gone: &[Revision]) -> Self {
        if gone.is_empty() {
            return self;
        }
        let Self { places, revisions, .. } = self;
        // Two such trees are not held at a time.
        drop(revisions);
        let mut left = Self::default();
        let kept = places.into_iter().map(|mut place| place.take());
        kept.filter(|it| gone.binary_search(&it.revision()).is_err()).for_each(|it| left.push(it));
        left
    }

    /// The tree of revisions, and the places with the bytes that all their heads leave out.
    pub(super) fn into_places(self) -> (Tree<ByRevision>, Vec<Place>, usize) {
        let Self { mut places, revisions, shared, stale, .. } = self;
        for place in &mut places[..stale] {
            place.head = head(&place.record().key()[shared..]);
        }
        (revisions.finish(), places, shared)
    }
}

pub(super) fn head(key: &[u8]) -> u64 {
    match key.first_chunk() {
        Some(eight) => u64::from_be_bytes(*eight),
        None => {
            let mut eight = [0; 8];
            eight[..key.len()].copy_from_slice(key);
            u64::from_be_bytes(eight)
        }
    }
}
