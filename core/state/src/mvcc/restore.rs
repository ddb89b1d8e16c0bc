//! A store made of its records at once: a member that starts has a million of them.
//!
//! What became of a record follows from those of the same key next to it, so the records are put in
//! order of key and revision, and each tree is built in its order from one end to the other, without
//! a search. The result is the store that would have come of putting the records one after the other,
//! each compaction carried out.

use super::order::{ByKey, ByKeyRevision, ByLease, ByRevision};
use super::tree::Builder;
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

impl Store {
    /// Rebuilds a store from its records in ascending order of revision. Records that compaction had
    /// taken out already may be among them. Those that come without their value are in the backend,
    /// the others may not be.
    pub(crate) fn restore(
        revision: i64,
        compact_revision: i64,
        mut records: Vec<Record>,
        values: Values,
    ) -> Result<Self, RestoreError> {
        if revision < FIRST_REVISION || compact_revision > revision {
            return Err(RestoreError::Revisions { revision, compact_revision });
        }
        check_order(&records, revision)?;
        if !values.are_in_memory() {
            for record in &mut records {
                if let Some(apart) = values.keep(record) {
                    *record = apart;
                }
            }
        }
        let mut store = Self { revision, compact_revision, ..Self::with_values(values) };
        let mut current = Builder::<ByKey>::default();
        let mut history = Builder::<ByKeyRevision>::default();
        let mut attached = Vec::new();
        let mut forgotten = Vec::new();
        let mut by_key = in_order_of_keys(&records).into_iter().peekable();
        while let Some(at) = by_key.next() {
            let record = &records[at];
            let bytes = record.bytes_len() as u64;
            let newer = by_key.peek().map(|next| &records[*next]);
            let newer = newer.filter(|newer| newer.key() == record.key());
            let is_forgotten = match (record.is_tombstone(), newer) {
                (true, _) => record.mod_revision() < compact_revision,
                (false, Some(newer)) => newer.mod_revision() <= compact_revision,
                (false, None) => {
                    store.bytes_live += bytes;
                    store.bytes_kept += bytes;
                    current.push(record.clone());
                    if record.lease() != 0 {
                        attached.push(record.clone());
                    }
                    continue;
                }
            };
            if is_forgotten {
                forgotten.push(at);
            } else {
                store.bytes_kept += bytes;
                history.push(record.clone());
            }
        }
        store.current = current.finish();
        store.history = history.finish();

        // They stay in the order of keys within a lease.
        attached.sort_by_key(Record::lease);
        let mut by_lease = Builder::<ByLease>::default();
        attached.into_iter().for_each(|record| by_lease.push(record));
        store.attached = by_lease.finish();

        forgotten.sort_unstable();
        let mut forgotten = forgotten.into_iter().peekable();
        let mut revisions = Builder::<ByRevision>::default();
        for (at, record) in records.into_iter().enumerate() {
            if forgotten.next_if_eq(&at).is_none() {
                revisions.push(record);
            }
        }
        store.revisions = revisions.finish();
        Ok(store)
    }
}

fn check_order(records: &[Record], revision: i64) -> Result<(), RestoreError> {
    let mut last = Revision::default();
    for record in records {
        let at = record.revision();
        if at <= last || at.main > revision {
            return Err(RestoreError::OutOfOrder { at, last, revision });
        }
        last = at;
    }
    Ok(())
}

/// A record by its place in the list, and what it is sorted by first: the eight bytes of its key after
/// those that all keys looked at have in common, as a number that sorts as they do. Comparing keys
/// themselves would mean waiting for memory at every step.
struct Place {
    head: u64,
    at: usize,
}

/// How often places with equal heads are told apart by the bytes that follow, before whole keys are
/// compared. Bounds the depth of the recursion whatever the keys are.
const HEADS_MAX: usize = 32;
/// Fewer places than this are sorted by whole keys at once.
const HEADS_WORTH: usize = 16;

/// The places of records given in order of revision, in order of key and then revision.
fn in_order_of_keys(records: &[Record]) -> Vec<usize> {
    let mut places: Vec<Place> = (0..records.len()).map(|at| Place { head: 0, at }).collect();
    sort(records, &mut places, 0, HEADS_MAX);
    places.into_iter().map(|place| place.at).collect()
}

/// Sorts places whose keys have the first `shared` bytes in common.
fn sort(records: &[Record], places: &mut [Place], shared: usize, heads_left: usize) {
    let rest = |place: &Place| records[place.at].key().get(shared..).unwrap_or_default();
    if heads_left == 0 || places.len() < HEADS_WORTH {
        places.sort_unstable_by(|a, b| rest(a).cmp(rest(b)).then(a.at.cmp(&b.at)));
        return;
    }
    let first = rest(&places[0]);
    let more = places.iter().fold(first.len(), |more, place| {
        first[..more].iter().zip(rest(place)).take_while(|(a, b)| a == b).count()
    });
    for place in places.iter_mut() {
        place.head = head(&rest(place)[more..]);
    }
    places.sort_unstable_by_key(|place| (place.head, place.at));
    let are_alike = places.first().map(|it| it.head) == places.last().map(|it| it.head);
    // Keys that end with zeros, or are the same: heads get no further with them.
    let heads_left = if are_alike { 0 } else { heads_left - 1 };
    for alike in places.chunk_by_mut(|a, b| a.head == b.head) {
        if alike.len() > 1 {
            sort(records, alike, shared + more, heads_left);
        }
    }
}

fn head(key: &[u8]) -> u64 {
    match key.first_chunk() {
        Some(eight) => u64::from_be_bytes(*eight),
        None => {
            let mut eight = [0; 8];
            eight[..key.len()].copy_from_slice(key);
            u64::from_be_bytes(eight)
        }
    }
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
            let restored = Store::restore(
                store.revision,
                store.compact_revision,
                records.clone(),
                Values::default(),
            );
            same(&restored.unwrap(), &store)?;

            let compacted = store.revision * percent / 100;
            if store.compact(compacted).is_ok() {
                while store.sweep(100, &mut Vec::new()) {}
                let values = Values::default();
                let restored = Store::restore(store.revision, compacted, records, values);
                same(&restored.unwrap(), &store)?;
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
            prop_assert_eq!(in_order_of_keys(&records), expected);
        }
    }

    #[test]
    fn keys_that_share_more_than_any_head_reaches_are_told_apart() {
        let long = |at: i64| {
            let key = [vec![b'x'; 9 * (at % 100) as usize], vec![b'y']].concat();
            Record::put(Revision::first_of(at + 2), at + 2, 1, 0, &key, b"")
        };
        let records: Vec<Record> = (0..2_000).map(long).collect();
        let order = in_order_of_keys(&records);
        let named = |at: &usize| (records[*at].key().to_vec(), *at);
        assert!(order.is_sorted_by_key(named));
        assert_eq!(order.len(), records.len());
    }

    #[test]
    fn records_out_of_order_make_no_store() {
        let at = |main| Record::put(Revision::first_of(main), main, 1, 0, b"k", b"");
        let revisions = |revision, compact_revision| {
            Store::restore(revision, compact_revision, Vec::new(), Values::default()).map(drop)
        };
        assert_eq!(
            revisions(0, -1),
            Err(RestoreError::Revisions { revision: 0, compact_revision: -1 })
        );
        assert!(revisions(4, 5).is_err() && revisions(4, 4).is_ok());
        let records = |mains: &[i64]| {
            let records = mains.iter().map(|main| at(*main)).collect();
            Store::restore(5, -1, records, Values::default()).map(drop)
        };
        assert_eq!(records(&[3, 5]), Ok(()));
        for mains in [[3, 3], [5, 3], [5, 6]] {
            assert!(matches!(records(&mains), Err(RestoreError::OutOfOrder { .. })), "{mains:?}");
        }
    }
}
