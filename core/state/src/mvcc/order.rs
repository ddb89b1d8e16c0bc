//! The orders in which the same records are kept.
//!
//! | tree | sorted by | holds |
//! |---|---|---|
//! | current | key | the live record of every key |
//! | history | key, revision | superseded records and tombstones that compaction has not reached |
//! | revisions | revision | all of the above |
//! | attached | lease, key | live records that have a lease |

use std::cmp::Ordering;
use std::ops::{AddAssign, SubAssign};
use std::sync::Arc;

use super::tree::{Nothing, Order, Sum};
use crate::record::{Record, Revision};

/// Live records by key.
pub struct ByKey;

impl Order for ByKey {
    type Entry = Record;
    type Key<'a> = &'a [u8];
    type Bound = Arc<[u8]>;
    type Sum = Nothing;

    fn key(entry: &Record) -> &[u8] {
        entry.key()
    }
    fn bound(key: &[u8]) -> Arc<[u8]> {
        Arc::from(key)
    }
    fn bound_key(bound: &Arc<[u8]>) -> &[u8] {
        bound
    }
    fn compare(a: &[u8], b: &[u8]) -> Ordering {
        a.cmp(b)
    }
    fn sum(_: &Record) -> Nothing {
        Nothing
    }
}

/// Superseded records by key, then revision.
pub struct ByKeyRevision;

impl Order for ByKeyRevision {
    type Entry = Record;
    type Key<'a> = (&'a [u8], Revision);
    type Bound = (Arc<[u8]>, Revision);
    type Sum = Nothing;

    fn key(entry: &Record) -> (&[u8], Revision) {
        (entry.key(), entry.revision())
    }
    fn bound((key, revision): (&[u8], Revision)) -> (Arc<[u8]>, Revision) {
        (Arc::from(key), revision)
    }
    fn bound_key((key, revision): &(Arc<[u8]>, Revision)) -> (&[u8], Revision) {
        (key, *revision)
    }
    fn compare(a: (&[u8], Revision), b: (&[u8], Revision)) -> Ordering {
        a.cmp(&b)
    }
    fn sum(_: &Record) -> Nothing {
        Nothing
    }
}

/// All records by revision.
pub struct ByRevision;

impl Order for ByRevision {
    type Entry = Record;
    type Key<'a> = Revision;
    type Bound = Revision;
    type Sum = Turnover;

    fn key(entry: &Record) -> Revision {
        entry.revision()
    }
    fn bound(key: Revision) -> Revision {
        key
    }
    fn bound_key(bound: &Revision) -> Revision {
        *bound
    }
    fn compare(a: Revision, b: Revision) -> Ordering {
        a.cmp(&b)
    }
    fn sum(entry: &Record) -> Turnover {
        Turnover::of(entry)
    }
}

/// Keys that came and went over a stretch of revisions. What a past count needs: changes of keys
/// that stayed do not show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turnover {
    /// Records that created a key.
    pub created: u64,
    /// Records that deleted a key.
    pub deleted: u64,
}

impl Turnover {
    /// What one record did.
    #[must_use]
    pub fn of(record: &Record) -> Self {
        let deleted = u64::from(record.is_tombstone());
        Self { created: u64::from(record.version() == 1), deleted }
    }

    /// Creations and deletions together.
    #[must_use]
    pub fn total(self) -> u64 {
        self.created + self.deleted
    }
}

impl AddAssign for Turnover {
    fn add_assign(&mut self, other: Self) {
        self.created += other.created;
        self.deleted += other.deleted;
    }
}

impl SubAssign for Turnover {
    fn sub_assign(&mut self, other: Self) {
        self.created -= other.created;
        self.deleted -= other.deleted;
    }
}

impl Sum for Turnover {}

/// Live records with a lease by lease, then key.
pub struct ByLease;

impl Order for ByLease {
    type Entry = Record;
    type Key<'a> = (i64, &'a [u8]);
    type Bound = (i64, Arc<[u8]>);
    type Sum = Nothing;

    fn key(entry: &Record) -> (i64, &[u8]) {
        (entry.lease(), entry.key())
    }
    fn bound((lease, key): (i64, &[u8])) -> (i64, Arc<[u8]>) {
        (lease, Arc::from(key))
    }
    fn bound_key((lease, key): &(i64, Arc<[u8]>)) -> (i64, &[u8]) {
        (*lease, key)
    }
    fn compare(a: (i64, &[u8]), b: (i64, &[u8])) -> Ordering {
        a.cmp(&b)
    }
    fn sum(_: &Record) -> Nothing {
        Nothing
    }
}
