//! Values that do not all stay in memory.
//!
//! By default every value lies in the record that holds it, and nothing here costs anything. A member
//! with a bounded cache gives its state a [`ValueSource`]: from then on the trees hold records without
//! their values, and the source has them, in memory until the backend has synced them, and from then on
//! in the backend, the recently used ones in memory as well ([`ValueCache`] decides which).
//!
//! Apply and whoever may wait ask with [`Values::read`]; who must not wait asks for what is at hand.
//! A value that must be there and cannot be read ends the member: [`ValueSource::read`] panics, and
//! nobody is answered wrongly. A start finds what is wrong with the backend and builds it from snapshot
//! and log.
//!
//! *Compaction.* A view may be older than what compaction has left of the backend. Whoever reads values
//! of a view therefore holds a [`Pin`] of its compact revision meanwhile: while it is held nothing goes
//! that this revision still has. A view that compaction has overtaken already cannot be pinned; whoever
//! wants the present takes the newest view, whoever wants that revision is told that it is compacted.
//! Apply needs no pin: the backend drops only what apply told it to.

mod cache;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

pub use cache::{CacheFigures, ValueCache};
use proto::mvccpb::KeyValue;

use crate::record::{Record, Revision};

/// Where values are that the trees do not hold. Shared by apply and all readers.
pub trait ValueSource: Debug + Send + Sync {
    /// Values of fewer bytes stay in the trees.
    fn apart_bytes_min(&self) -> usize;

    /// Takes charge of the value of a record that is in no backend yet.
    fn hold(&self, record: &Record);

    /// The whole record of an entry, if it is in memory.
    fn at_hand(&self, entry: &Record) -> Option<Record>;

    /// As [`ValueSource::at_hand`], or read, if that takes neither a disk nor long.
    fn near(&self, entry: &Record) -> Option<Record> {
        self.at_hand(entry)
    }

    /// The whole record of an entry; may wait for the disk. `reuse` says that it may be wanted again
    /// soon: walks over everything leave the cache as it is.
    ///
    /// # Panics
    /// If the value cannot be read: the member must stop.
    fn read(&self, entry: &Record, reuse: bool) -> Record;

    /// From now on nothing goes that a state with this compact revision holds. False if some of it may
    /// be gone already.
    fn pin(&self, compact_revision: i64) -> bool;

    /// Takes back one [`ValueSource::pin`].
    fn unpin(&self, compact_revision: i64);
}

/// So many values are read by one who must not wait, where that takes no disk: some tens of microseconds
/// each. More are left to one who may.
const NEAR_MAX: usize = 4;

/// What a state's trees leave out, if anything. `Clone` copies a pointer.
#[derive(Clone, Debug, Default)]
pub struct Values(Option<Arc<dyn ValueSource>>);

/// Whether a reader may wait for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    Waits,
    AtHand,
}

impl Values {
    /// Values lie apart from the trees, in `source`.
    #[must_use]
    pub fn kept_by(source: Arc<dyn ValueSource>) -> Self {
        Self(Some(source))
    }

    /// Whether every value is in memory.
    #[must_use]
    pub fn are_in_memory(&self) -> bool {
        self.0.is_none()
    }

    fn source_for(&self, record: &Record) -> Option<&Arc<dyn ValueSource>> {
        let source = self.0.as_ref().filter(|_| record.is_whole())?;
        // A value without bytes is where its key is, whatever the source says.
        (record.value_len() >= source.apart_bytes_min().max(1)).then_some(source)
    }

    /// What the trees hold instead of a record that is in no backend yet; `None` for itself.
    pub(crate) fn keep(&self, record: &Record) -> Option<Record> {
        self.source_for(record)?.hold(record);
        Some(record.without_value())
    }

    /// What the trees hold of a record that was read from the backend.
    pub(crate) fn entry_of(&self, stored: Record) -> Record {
        if self.source_for(&stored).is_some() { stored.without_value() } else { stored }
    }

    fn must(&self) -> &dyn ValueSource {
        self.0.as_deref().expect("a record without its value comes from a source")
    }

    /// The whole record of an entry; may wait for the disk.
    ///
    /// # Panics
    /// If the value cannot be read.
    #[must_use]
    pub fn read(&self, entry: &Record) -> Record {
        if entry.is_whole() { entry.clone() } else { self.must().read(entry, true) }
    }

    /// An entry as a client sees it, whole; may wait for the disk.
    #[must_use]
    pub fn key_value(&self, entry: &Record) -> KeyValue {
        if entry.is_whole() { entry.to_key_value() } else { self.read(entry).to_key_value() }
    }

    /// As [`Values::read`], on a walk over everything.
    #[must_use]
    pub fn walk(&self, entry: &Record) -> Record {
        if entry.is_whole() { entry.clone() } else { self.must().read(entry, false) }
    }

    /// The whole record of an entry, if it is in memory.
    #[must_use]
    pub fn at_hand(&self, entry: &Record) -> Option<Record> {
        if entry.is_whole() { Some(entry.clone()) } else { self.must().at_hand(entry) }
    }

    /// The whole records of some entries, read in the order in which they lie in the backend. `None` if
    /// one is not at hand and the caller does not wait.
    pub(crate) fn fetch<'a>(
        &self,
        entries: impl IntoIterator<Item = &'a Record>,
        patience: Patience,
    ) -> Option<Fetched> {
        let mut fetched = BTreeMap::new();
        if self.are_in_memory() {
            return Some(Fetched(fetched));
        }
        let mut wanted: Vec<&Record> = entries.into_iter().filter(|it| !it.is_whole()).collect();
        wanted.sort_unstable_by_key(|entry| entry.revision());
        let are_few = wanted.len() <= NEAR_MAX;
        for entry in wanted {
            let whole = match patience {
                Patience::Waits => self.read(entry),
                Patience::AtHand if are_few => self.must().near(entry)?,
                Patience::AtHand => self.at_hand(entry)?,
            };
            fetched.insert(entry.revision(), whole);
        }
        Some(Fetched(fetched))
    }

    /// [`Values::fetch`] by one who waits.
    pub(crate) fn fetched<'a>(&self, entries: impl IntoIterator<Item = &'a Record>) -> Fetched {
        self.fetch(entries, Patience::Waits).expect("who waits gets them")
    }

    /// `None` if compaction may have overtaken a state with this compact revision.
    pub(crate) fn pin(&self, compact_revision: i64) -> Option<Pin> {
        let source = self.0.clone();
        let is_there = source.as_ref().is_none_or(|source| source.pin(compact_revision));
        is_there.then_some(Pin { source, compact_revision })
    }
}

/// Records that were fetched; those that were whole anyway are not among them.
pub(crate) struct Fetched(BTreeMap<Revision, Record>);

impl Fetched {
    /// The whole record of one of the entries fetched.
    pub(crate) fn of<'a>(&'a self, entry: &'a Record) -> &'a Record {
        if entry.is_whole() { entry } else { &self.0[&entry.revision()] }
    }
}

/// While it is held, the values of a view stay readable.
#[derive(Debug)]
pub struct Pin {
    source: Option<Arc<dyn ValueSource>>,
    compact_revision: i64,
}

impl Drop for Pin {
    fn drop(&mut self) {
        if let Some(source) = &self.source {
            source.unpin(self.compact_revision);
        }
    }
}
