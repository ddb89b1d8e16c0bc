//! Keys at every revision since the last compaction.
//!
//! The store is four [`tree::Tree`]s over the same [`Record`]s (see [`order`]): what is live, what
//! was live, everything in the order it happened, and what hangs on a lease. Copying a store copies
//! four pointers, so a reader's copy costs nothing and never changes.
//!
//! Invariants, checked by `tests/mvcc_model.rs` against a plain list of past states:
//! * `revisions` = `current` ∪ `history`, and the two are disjoint;
//! * a key's live record is newer than all its records in `history`;
//! * every record whose revision is above `compact_revision` is there.
//!
//! [`read`] answers questions about past and present, [`compact`] forgets, [`log`] replays changes,
//! `gather` takes its records, and `restore` makes a store of them at once.

pub mod compact;
mod gather;
pub mod log;
pub mod order;
pub mod range;
pub mod read;
mod restore;
pub mod tree;

use order::{ByKey, ByKeyRevision, ByLease, ByRevision};
use tree::Tree;

pub use compact::Sweep;
pub(crate) use gather::Gathered;
pub use range::KeyRange;
pub use restore::{Both, RestoreError, in_turn};

use crate::outcome::Event;
use crate::record::{Record, Revision};
use crate::values::Values;

/// The revision of a store in which nothing ever happened.
pub const FIRST_REVISION: i64 = 1;

/// `compact_revision` of a store that was never compacted, as etcd reports it.
pub const NEVER_COMPACTED: i64 = -1;

/// Keys, past and present. `Clone` is cheap and the copies are independent.
#[derive(Clone)]
pub struct Store {
    current: Tree<ByKey>,
    history: Tree<ByKeyRevision>,
    revisions: Tree<ByRevision>,
    attached: Tree<ByLease>,
    /// Last committed transaction.
    revision: i64,
    compact_revision: i64,
    sweep: Option<Sweep>,
    bytes_kept: u64,
    bytes_live: u64,
    values: Values,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            current: Tree::default(),
            history: Tree::default(),
            revisions: Tree::default(),
            attached: Tree::default(),
            revision: FIRST_REVISION,
            compact_revision: NEVER_COMPACTED,
            sweep: None,
            bytes_kept: 0,
            bytes_live: 0,
            values: Values::default(),
        }
    }
}

impl Store {
    /// An empty store that keeps its values there.
    pub(crate) fn with_values(values: Values) -> Self {
        Self { values, ..Self::default() }
    }

    /// Where the values are that its records are without.
    pub(crate) fn values(&self) -> &Values {
        &self.values
    }

    /// Revision of the last transaction that changed a key.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Oldest revision that can be read; [`NEVER_COMPACTED`] at first.
    #[must_use]
    pub fn compact_revision(&self) -> i64 {
        self.compact_revision
    }

    /// Bytes of all records kept, superseded ones included.
    #[must_use]
    pub fn bytes_kept(&self) -> u64 {
        self.bytes_kept
    }

    /// Bytes of live records.
    #[must_use]
    pub fn bytes_live(&self) -> u64 {
        self.bytes_live
    }

    /// Records kept, superseded ones and tombstones included.
    #[must_use]
    pub fn records_kept(&self) -> usize {
        self.revisions.len()
    }

    /// Starts a transaction; nothing is visible as committed until [`Transaction::commit`].
    pub fn begin(&mut self) -> Transaction<'_> {
        let main = self.revision + 1;
        Transaction { store: self, next: Revision::first_of(main), events: Vec::new() }
    }

    /// Makes a record the newest of its key. Returns the live record it supersedes.
    fn append(&mut self, record: &Record) -> Option<Record> {
        let apart = self.values.keep(record);
        let record = apart.as_ref().unwrap_or(record);
        let bytes = record.bytes_len() as u64;
        self.bytes_kept += bytes;
        let superseded = if record.is_tombstone() {
            self.history.insert(record.clone());
            self.current.remove(record.key())
        } else {
            self.bytes_live += bytes;
            if record.lease() != 0 {
                self.attached.insert(record.clone());
            }
            self.current.insert(record.clone())
        };
        if let Some(old) = &superseded {
            self.bytes_live -= old.bytes_len() as u64;
            if old.lease() != 0 && (record.is_tombstone() || old.lease() != record.lease()) {
                self.attached.remove((old.lease(), old.key()));
            }
            self.history.insert(old.clone());
        }
        let replaced = self.revisions.insert(record.clone());
        debug_assert!(replaced.is_none(), "revision {} used twice", record.revision());
        superseded
    }
}

/// Changes that become one revision together.
pub struct Transaction<'a> {
    store: &'a mut Store,
    next: Revision,
    events: Vec<Event>,
}

impl Transaction<'_> {
    /// The store as the transaction sees it: with its own changes.
    #[must_use]
    pub fn store(&self) -> &Store {
        self.store
    }

    /// Revision a response within the transaction reports: the next one as soon as there is a change.
    #[must_use]
    pub fn revision(&self) -> i64 {
        if self.events.is_empty() { self.store.revision } else { self.next.main }
    }

    /// Puts a value. The caller has checked the request and the lease.
    pub fn put(&mut self, key: &[u8], value: &[u8], lease: i64) {
        let (create_revision, version) = match self.store.current.get(key) {
            Some(live) => (live.create_revision(), live.version().saturating_add(1)),
            None => (self.next.main, 1),
        };
        self.append(Record::put(self.next, create_revision, version, lease, key, value));
    }

    /// Deletes what lives in the range and returns it.
    pub fn delete_range(&mut self, range: KeyRange<'_>) -> Vec<Record> {
        let doomed: Vec<Record> = self.store.live(range).cloned().collect();
        for record in &doomed {
            self.append(Record::tombstone(self.next, record.key()));
        }
        doomed
    }

    /// Deletes what is attached to a lease, in the order of keys.
    pub fn delete_attached(&mut self, lease: i64) {
        let doomed: Vec<Record> = self.store.attached(lease).cloned().collect();
        for record in doomed {
            self.append(Record::tombstone(self.next, record.key()));
        }
    }

    fn append(&mut self, record: Record) {
        let superseded = self.store.append(&record);
        // What a watcher is told came before is what was there before the transaction.
        let prev = match superseded {
            Some(old) if old.mod_revision() == self.next.main => {
                self.store.record_at(record.key(), self.next.main - 1).cloned()
            }
            other => other,
        };
        self.events.push(Event { record, prev });
        self.next.sub = self.next.sub.checked_add(1).expect("fewer changes than keys fit memory");
    }

    /// Ends the transaction. Without changes the store keeps its revision.
    pub fn commit(self) -> Vec<Event> {
        if !self.events.is_empty() {
            self.store.revision = self.next.main;
        }
        self.events
    }
}
