//! A store made of its records at once: a member that starts has a million of them.
//!
//! What became of a record follows from those of the same key next to it, so the records are put in
//! order of key and revision, and each tree is built in its order from one end to the other, without
//! a search. Low keys need nothing of high ones: who has two threads does both at the same time. The
//! result is the store that would have come of putting the records one after the other, each
//! compaction carried out.

use super::gather::{Gathered, Place, head};
use super::order::{ByKey, ByKeyRevision, ByLease, ByRevision};
use super::tree::{Builder, Leaves, Tree};
use super::{FIRST_REVISION, Store};
use crate::record::{Record, Revision};
use crate::values::Values;

/// Why records do not make a store.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum RestoreError {
    /// The revisions cannot belong to a store.
    #[error("store revision {revision} with compact revision {compact_revision}")]
    Revisions {
        /// The store's revision as given.
        revision: i64,
        /// Its compact revision as given.
        compact_revision: i64,
    },
    /// Records must ascend and not pass the store's revision.
    #[error("record {at} follows record {last} in a store at revision {revision}")]
    OutOfOrder {
        /// Revision of the record refused.
        at: Revision,
        /// The one before it.
        last: Revision,
        /// The store's revision.
        revision: i64,
    },
}

/// Does two pieces of work that need nothing of each other, one after the other or both at once. When
/// it returns, each has been done once.
pub type Both<'a> = &'a dyn Fn(&mut (dyn FnMut() + Send), &mut (dyn FnMut() + Send));

/// [`Both`] for those who have one thread.
pub fn in_turn(one: &mut (dyn FnMut() + Send), other: &mut (dyn FnMut() + Send)) {
    one();
    other();
}

/// Fewer records than this are not divided: a thread would cost more than it saves.
const DIVIDED_MIN: usize = 10_000;

impl Gathered {
    /// Takes records in ascending order of revision, up to a store's. Those that come without their value
    /// are in the backend, the others may not be.
    pub(crate) fn of(
        records: Vec<Record>,
        revision: i64,
        values: &Values,
    ) -> Result<Self, RestoreError> {
        let mut gathered = Self::default();
        let mut last = Revision::default();
        for record in records {
            let at = record.revision();
            if at <= last || at.main > revision {
                return Err(RestoreError::OutOfOrder { at, last, revision });
            }
            last = at;
            gathered.push(values.keep(&record).unwrap_or(record));
        }
        Ok(gathered)
    }
}

impl Store {
    /// Rebuilds a store from its records, none of which is above its revision. Records that compaction
    /// had taken out already may be among them.
    pub(crate) fn restore(
        revision: i64,
        compact_revision: i64,
        gathered: Gathered,
        values: Values,
        both: Both<'_>,
    ) -> Result<Self, RestoreError> {
        if revision < FIRST_REVISION || compact_revision > revision {
            return Err(RestoreError::Revisions { revision, compact_revision });
        }
        let (revisions, mut places, shared) = gathered.into_places();
        let middle = middle(&mut places);
        let (low, high) = places.split_at_mut(middle);
        let (mut lower, mut higher) = (Part::default(), Part::default());
        both(&mut || lower = Part::of(low, shared, compact_revision), &mut || {
            higher = Part::of(high, shared, compact_revision);
        });
        drop(places);

        let mut store = Self { revision, compact_revision, ..Self::with_values(values) };
        let mut current = Builder::<ByKey>::default();
        let mut history = Builder::<ByKeyRevision>::default();
        let (mut attached, mut forgotten) = (Vec::new(), Vec::new());
        for part in [lower, higher] {
            current.extend(part.current);
            history.extend(part.history);
            attached.extend(part.attached);
            forgotten.extend(part.forgotten);
            store.bytes_live += part.bytes_live;
            store.bytes_kept += part.bytes_kept;
        }
        store.current = current.finish();
        store.history = history.finish();
        store.revisions = without(revisions, forgotten);

        // They stay in the order of keys within a lease.
        attached.sort_by_key(Record::lease);
        let mut by_lease = Builder::<ByLease>::default();
        attached.into_iter().for_each(|record| by_lease.push(record));
        store.attached = by_lease.finish();
        Ok(store)
    }
}

/// What becomes of the records of some keys.
#[derive(Default)]
struct Part {
    current: Leaves<ByKey>,
    history: Leaves<ByKeyRevision>,
    attached: Vec<Record>,
    /// What compaction took out.
    forgotten: Vec<Revision>,
    bytes_live: u64,
    bytes_kept: u64,
}

impl Part {
    /// Takes all records of these keys. Heads leave out `shared` bytes.
    fn of(places: &mut [Place], shared: usize, compact_revision: i64) -> Self {
        sort(places, shared, HEADS_MAX);
        let mut part = Self::default();
        let mut places = places.iter_mut().peekable();
        while let Some(place) = places.next() {
            let (head, record) = (place.head, place.take());
            let bytes = record.bytes_len() as u64;
            // Records of one key have one head, and those of most keys another: no key is looked at.
            let newer = places.peek().filter(|next| next.head == head).map(|next| next.record());
            let newer = newer.filter(|newer| newer.key() == record.key());
            let is_forgotten = match (record.is_tombstone(), newer) {
                (true, _) => record.mod_revision() < compact_revision,
                (false, Some(newer)) => newer.mod_revision() <= compact_revision,
                (false, None) => {
                    part.bytes_live += bytes;
                    part.bytes_kept += bytes;
                    if record.lease() != 0 {
                        part.attached.push(record.clone());
                    }
                    part.current.push(record);
                    continue;
                }
            };
            if is_forgotten {
                part.forgotten.push(record.revision());
            } else {
                part.bytes_kept += bytes;
                part.history.push(record);
            }
        }
        part
    }
}

/// A tree of revisions without some of them. Mostly there is nothing to take out.
fn without(revisions: Tree<ByRevision>, mut gone: Vec<Revision>) -> Tree<ByRevision> {
    if gone.is_empty() {
        return revisions;
    }
    gone.sort_unstable();
    let mut gone = gone.into_iter().peekable();
    let mut kept = Builder::<ByRevision>::default();
    for record in revisions.iter() {
        if gone.next_if_eq(&record.revision()).is_none() {
            kept.push(record.clone());
        }
    }
    kept.finish()
}

/// Puts lower keys before higher ones and says where these begin: somewhere in the middle, if there are
/// many. All records of a key are on one side.
fn middle(places: &mut [Place]) -> usize {
    if places.len() < DIVIDED_MIN {
        return places.len();
    }
    let half = places.len() / 2;
    let (_, at_half, _) = places.select_nth_unstable_by_key(half, |place| (place.head, place.at));
    let from = at_half.head;
    let mut lower = 0;
    for at in 0..half {
        if places[at].head < from {
            places.swap(lower, at);
            lower += 1;
        }
    }
    lower
}

/// How often places with equal heads are told apart by the bytes that follow, before whole keys are
/// compared. Bounds the depth of the recursion whatever the keys are.
const HEADS_MAX: usize = 32;
/// Fewer places than this are sorted by whole keys at once.
const HEADS_WORTH: usize = 16;

/// Puts places in order of key and then revision. Their keys have the first `shared` bytes in common,
/// and heads are of what follows.
fn sort(places: &mut [Place], shared: usize, heads_left: usize) {
    places.sort_unstable_by_key(|place| (place.head, place.at));
    for alike in places.chunk_by_mut(|a, b| a.head == b.head) {
        if alike.len() > 1 {
            tell_apart(alike, shared, heads_left);
        }
    }
}

/// The same for places whose heads are equal. They may differ afterwards, those of one key do not.
fn tell_apart(places: &mut [Place], shared: usize, heads_left: usize) {
    fn rest(place: &Place, shared: usize) -> &[u8] {
        place.record().key().get(shared..).unwrap_or_default()
    }
    if heads_left == 0 || places.len() < HEADS_WORTH {
        places.sort_unstable_by(|a, b| rest(a, shared).cmp(rest(b, shared)).then(a.at.cmp(&b.at)));
        return;
    }
    let first = rest(&places[0], shared);
    let more = places.iter().fold(first.len(), |more, place| {
        first[..more].iter().zip(rest(place, shared)).take_while(|(a, b)| a == b).count()
    });
    for place in places.iter_mut() {
        place.head = head(&rest(place, shared)[more..]);
    }
    // Keys that end with zeros, or are the same: heads get no further with them.
    let are_alike = places.iter().all(|place| place.head == places[0].head);
    sort(places, shared + more, if are_alike { 0 } else { heads_left - 1 });
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// A key, the lease of a put or nothing for a delete, and whether it begins a revision.
    type Change = (Vec<u8>, Option<i64>, bool);

    /// Keys that share long beginnings, that differ in length and in zeros at the end.
    fn key() -> impl Strategy<Value = Vec<u8>> {
        let piece =
            prop_oneof![Just("/registry/pods/"), Just("a"), Just("b"), Just("\0"), Just("")];
        vec(piece, 1..6).prop_map(|pieces| format!("k{}", pieces.concat()).into_bytes())
    }

    fn changes() -> impl Strategy<Value = Vec<Change>> {
        vec((key(), prop::option::weighted(0.7, 0..3_i64), any::<bool>()), 0..200)
    }

    /// What some changes leave, put in one after the other.
    fn one_by_one(changes: &[Change]) -> (Store, Vec<Record>) {
        let (mut store, mut records) = (Store::default(), Vec::<Record>::new());
        let mut at = Revision::first_of(FIRST_REVISION + 1);
        for (key, lease, begins) in changes {
            // No transaction changes a key twice.
            let changed =
                store.revisions.iter_from(Revision::first_of(at.main)).any(|it| it.key() == key);
            if *begins || changed {
                at = Revision::first_of(at.main + 1);
            }
            let live = store.current.get(key);
            let record = match (lease, live) {
                (Some(lease), Some(live)) => {
                    Record::put(at, live.create_revision(), live.version() + 1, *lease, key, b"v")
                }
                (Some(lease), None) => Record::put(at, at.main, 1, *lease, key, b"value"),
                (None, Some(_)) => Record::tombstone(at, key),
                (None, None) => continue,
            };
            store.append(&record);
            records.push(record);
            at.sub += 1;
        }
        store.revision = at.main;
        (store, records)
    }

    fn restored(
        revision: i64,
        compact_revision: i64,
        records: Vec<Record>,
    ) -> Result<Store, RestoreError> {
        let values = Values::default();
        let gathered = Gathered::of(records, revision, &values)?;
        Store::restore(revision, compact_revision, gathered, values, &in_turn)
    }

    /// The places of records given in order of revision, in order of key and then revision.
    fn in_order_of_keys(records: Vec<Record>) -> Vec<usize> {
        let gathered = Gathered::of(records, i64::MAX, &Values::default()).unwrap();
        let (_, mut places, shared) = gathered.into_places();
        sort(&mut places, shared, HEADS_MAX);
        places.iter().map(|place| place.at).collect()
    }

    fn same(found: &Store, expected: &Store) -> Result<(), TestCaseError> {
        prop_assert!(found.current.iter().eq(expected.current.iter()));
        prop_assert!(found.history.iter().eq(expected.history.iter()));
        prop_assert!(found.revisions.iter().eq(expected.revisions.iter()));
        prop_assert!(found.attached.iter().eq(expected.attached.iter()));
        prop_assert_eq!(found.revisions.sum(), expected.revisions.sum());
        prop_assert_eq!(found.revision, expected.revision);
        prop_assert_eq!(found.compact_revision, expected.compact_revision);
        prop_assert_eq!(found.bytes_kept, expected.bytes_kept);
        prop_assert_eq!(found.bytes_live, expected.bytes_live);
        prop_assert!(!found.is_sweeping());
        Ok(())
    }

    proptest! {
        #[test]
        fn a_store_made_at_once_is_the_one_that_came_about_step_by_step(
            changes in changes(),
            percent in 0..=100_i64,
        ) {
            let (mut store, records) = one_by_one(&changes);
            let compact_revision = store.compact_revision;
            same(&restored(store.revision, compact_revision, records.clone()).unwrap(), &store)?;

            let compacted = store.revision * percent / 100;
            if store.compact(compacted).is_ok() {
                while store.sweep(100, &mut Vec::new()) {}
                same(&restored(store.revision, compacted, records).unwrap(), &store)?;
            }
        }

        #[test]
        fn places_are_in_order_of_key_and_then_revision(keys in vec(key(), 0..300)) {
            let record = |(at, key): (usize, &Vec<u8>)| {
                let revision = Revision::first_of(2 + at as i64);
                Record::put(revision, revision.main, 1, 0, key, b"")
            };
            let records: Vec<Record> = keys.iter().enumerate().map(record).collect();
            let mut expected: Vec<usize> = (0..keys.len()).collect();
            expected.sort_by_key(|at| &keys[*at]);
            prop_assert_eq!(in_order_of_keys(records), expected);
        }
    }

    #[test]
    fn keys_that_share_more_than_any_head_reaches_are_told_apart() {
        let long = |at: i64| {
            let key = [vec![b'x'; 9 * (at % 100) as usize], vec![b'y']].concat();
            Record::put(Revision::first_of(at + 2), at + 2, 1, 0, &key, b"")
        };
        let records: Vec<Record> = (0..2_000).map(long).collect();
        let order = in_order_of_keys(records.clone());
        let named = |at: &usize| (records[*at].key().to_vec(), *at);
        assert!(order.is_sorted_by_key(named));
        assert_eq!(order.len(), records.len());
    }

    #[test]
    fn records_out_of_order_make_no_store() {
        let at = |main| Record::put(Revision::first_of(main), main, 1, 0, b"k", b"");
        let revisions =
            |revision, compact_revision| restored(revision, compact_revision, Vec::new()).map(drop);
        assert_eq!(
            revisions(0, -1),
            Err(RestoreError::Revisions { revision: 0, compact_revision: -1 })
        );
        assert!(revisions(4, 5).is_err() && revisions(4, 4).is_ok());
        let records = |mains: &[i64]| {
            let records = mains.iter().map(|main| at(*main)).collect();
            restored(5, -1, records).map(drop)
        };
        assert_eq!(records(&[3, 5]), Ok(()));
        for mains in [[3, 3], [5, 3], [5, 6]] {
            assert!(matches!(records(&mains), Err(RestoreError::OutOfOrder { .. })), "{mains:?}");
        }
    }

    /// Keys in an order that is none, some of them written more than once, some deleted, of which only
    /// few have as much in common as those before them.
    fn many() -> (Vec<Change>, i64) {
        let change = |number: u32| {
            let key = number.wrapping_mul(2_654_435_761) % 9_000;
            let key = format!(
                "/registry/{}/{key:05}",
                if key.is_multiple_of(3) { "pods" } else { "nodes" }
            );
            (key.into_bytes(), (!number.is_multiple_of(7)).then_some(i64::from(number % 5)), true)
        };
        ((0..2 * DIVIDED_MIN as u32).map(change).collect(), 12_000)
    }

    #[test]
    fn two_halves_in_whatever_order_make_the_store_that_came_about_step_by_step() {
        let (changes, compacted) = many();
        let (mut store, records) = one_by_one(&changes);
        store.compact(compacted).unwrap();
        while store.sweep(1_000, &mut Vec::new()) {}
        let gathered = || Gathered::of(records.clone(), i64::MAX, &Values::default()).unwrap();
        let mut places = gathered().into_places().1;
        let middle = middle(&mut places);
        assert!(middle > 0 && middle < places.len());
        let highest = places[..middle].iter().map(|place| place.record().key()).max();
        assert!(highest < places[middle..].iter().map(|place| place.record().key()).min());

        let backwards = |one: &mut (dyn FnMut() + Send), other: &mut (dyn FnMut() + Send)| {
            other();
            one();
        };
        let ways: [Both<'_>; 2] = [&in_turn, &backwards];
        for both in ways {
            let values = Values::default();
            let restored = Store::restore(store.revision, compacted, gathered(), values, both);
            same(&restored.unwrap(), &store).unwrap();
        }
    }

    #[test]
    fn records_that_are_gone_are_not_gathered() {
        let (_, records) = one_by_one(&many().0);
        let gone: Vec<Revision> = records.iter().step_by(3).map(Record::revision).collect();
        let gathered = Gathered::of(records.clone(), i64::MAX, &Values::default()).unwrap();
        let left = gathered.without(&gone);
        let expected = records.iter().filter(|it| !gone.contains(&it.revision()));
        assert!(left.records().eq(expected.clone()));
        assert!(left.into_places().0.iter().eq(expected));
    }
}
