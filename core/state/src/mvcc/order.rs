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

/// Bytes a string must share with its neighbours before a head leaves them out; rounding down keeps
/// bases from changing with every split.
const PREFIX_STEP: usize = 2;

fn shared_prefix(a: &[u8], b: &[u8]) -> usize {
    let shared = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    shared - shared % PREFIX_STEP
}

/// The four bytes after the first `base`, as a number that sorts as they do.
fn head(key: &[u8], base: usize) -> u32 {
    let rest = key.get(base..).unwrap_or_default();
    match rest.first_chunk() {
        Some(four) => u32::from_be_bytes(*four),
        None => {
            let mut four = [0; 4];
            four[..rest.len()].copy_from_slice(rest);
            u32::from_be_bytes(four)
        }
    }
}

/// `base` bytes of the witness are what every key of the node begins with.
fn place(key: &[u8], base: usize, witness: &[u8]) -> Ordering {
    let prefix = &witness[..base];
    if key.starts_with(prefix) { Ordering::Equal } else { key.cmp(prefix) }
}

/// How far a number is above the base; what is too far up or below is as far as can be.
pub(crate) fn distance(number: i64, base: i64) -> u32 {
    let distance = i128::from(number) - i128::from(base);
    u32::try_from(distance.clamp(0, i128::from(u32::MAX))).expect("clamped just now")
}

/// Live records by key.
pub struct ByKey;

impl Order for ByKey {
    type Entry = Record;
    type Key<'a> = &'a [u8];
    type Bound = Arc<[u8]>;
    type Sum = Nothing;
    type Base = usize;

    fn base(first: &[u8], last: &[u8]) -> usize {
        shared_prefix(first, last)
    }
    fn head(key: &[u8], base: usize) -> u32 {
        head(key, base)
    }
    fn fits_all(base: usize) -> bool {
        base == 0
    }
    fn place(key: &[u8], base: usize, witness: &[u8]) -> Ordering {
        place(key, base, witness)
    }

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
    fn touch(entry: &Record) -> usize {
        entry.shares()
    }
}

/// Superseded records by key, then revision.
pub struct ByKeyRevision;

impl Order for ByKeyRevision {
    type Entry = Record;
    type Key<'a> = (&'a [u8], Revision);
    type Bound = (Arc<[u8]>, Revision);
    type Sum = Nothing;
    type Base = usize;

    fn base(first: (&[u8], Revision), last: (&[u8], Revision)) -> usize {
        shared_prefix(first.0, last.0)
    }
    fn head(key: (&[u8], Revision), base: usize) -> u32 {
        head(key.0, base)
    }
    fn fits_all(base: usize) -> bool {
        base == 0
    }
    fn place(key: (&[u8], Revision), base: usize, witness: (&[u8], Revision)) -> Ordering {
        place(key.0, base, witness.0)
    }

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
    fn touch(entry: &Record) -> usize {
        entry.shares()
    }
}

/// All records by revision.
pub struct ByRevision;

impl Order for ByRevision {
    type Entry = Record;
    type Key<'a> = Revision;
    type Bound = Revision;
    type Sum = Turnover;
    type Base = i64;

    fn base(key: Revision, _: Revision) -> i64 {
        key.main
    }
    fn head(key: Revision, base: i64) -> u32 {
        distance(key.main, base)
    }
    fn fits_all(_: i64) -> bool {
        true
    }
    fn place(_: Revision, _: i64, _: Revision) -> Ordering {
        Ordering::Equal
    }

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
    fn touch(entry: &Record) -> usize {
        entry.shares()
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
    type Base = i64;

    fn base((lease, _): (i64, &[u8]), _: (i64, &[u8])) -> i64 {
        lease
    }
    fn head((lease, _): (i64, &[u8]), base: i64) -> u32 {
        distance(lease, base)
    }
    fn fits_all(_: i64) -> bool {
        true
    }
    fn place(_: (i64, &[u8]), _: i64, _: (i64, &[u8])) -> Ordering {
        Ordering::Equal
    }

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
    fn touch(entry: &Record) -> usize {
        entry.shares()
    }
}
