//! Hashes by which members tell whether they hold the same.
//!
//! [`hash_kv`] answers etcd's HashKV and is meant to be compared between members. It must not depend
//! on how far a member has come in forgetting what a compaction allows it to forget, so it is
//! defined over what *must* be there: at revision R with compact revision C, in order of revision,
//!
//! * every record after C and up to R, tombstones included, and
//! * per key the newest record at or before C, unless that is a tombstone.
//!
//! Records enter with all their bytes, so with revision, version, lease, key and value. The hash is
//! their CRC32C and begins with the version of this definition. etcd's own value is another one:
//! it hashes etcd's encoding, and only equal programs can be compared.
//!
//! [`hash_all`] (etcd's Hash) is over the whole state at one index, members and leases included.
//! [`roll`] is kept up to date by apply and costs nothing to ask for: two members that applied the
//! same log up to the same index have the same value, or one of them is corrupt.

use crate::error::StateError;
use crate::record::{Record, Revision};
use crate::snapshot;
use crate::view::View;

/// What [`hash_kv`] begins with; changes with its definition.
const HASH_KV_SEED: &[u8] = b"metastore kv 1";

/// Answer to a HashKV.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvHash {
    /// The hash.
    pub hash: u32,
    /// Compact revision it was computed with. Hashes of different ones cannot be compared.
    pub compact_revision: i64,
    /// Revision up to which records were hashed.
    pub hash_revision: i64,
}

/// Hash of all keys at `revision`; 0 is the present.
///
/// # Errors
/// [`StateError::Compacted`] below the compact revision, [`StateError::FutureRevision`] above the
/// present one.
pub fn hash_kv(view: &View, revision: i64) -> Result<KvHash, StateError> {
    let compact_revision = view.compact_revision();
    let hash_revision = if revision <= 0 { view.revision() } else { revision };
    if hash_revision > view.revision() {
        return Err(StateError::FutureRevision);
    }
    if hash_revision < compact_revision {
        return Err(StateError::Compacted);
    }
    let seed = crc32c::crc32c(HASH_KV_SEED);
    let hash = view
        .records()
        .take_while(|record| record.revision() <= Revision::last_of(hash_revision))
        .filter(|record| !record.is_tombstone() || record.mod_revision() > compact_revision)
        .fold(seed, |hash, record| append(hash, &view.values().walk(record)));
    Ok(KvHash { hash, compact_revision, hash_revision })
}

/// Hash of the whole state: [`snapshot::chain`] of its chunks.
#[must_use]
pub fn hash_all(view: &View) -> u32 {
    snapshot::chunks(view).fold(0, |hash, chunk| snapshot::chain(hash, &chunk))
}

/// The rolling hash after `records` have been applied, `before` being the one before; 0 at first.
#[must_use]
pub fn roll<'a>(before: u32, records: impl IntoIterator<Item = &'a Record>) -> u32 {
    records.into_iter().fold(before, append)
}

/// Goes on over a whole record as it lies on a disk.
fn append(hash: u32, record: &Record) -> u32 {
    let hash = crc32c::crc32c_append(hash, &record.disk_header());
    crc32c::crc32c_append(hash, record.key_and_value())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fixture::{Step, Trial, arbitrary_step};
    use crate::{Limits, State};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn members_hash_alike_however_far_their_sweeps_have_come(
            steps in prop::collection::vec((arbitrary_step(), any::<bool>()), 1..80),
        ) {
            let (mut eager, mut lazy) = (Trial::new(), Trial::new());
            for (step, is_restored) in &steps {
                eager.step(step);
                eager.step(&Step::Sweep);
                if !matches!(step, Step::Sweep) {
                    lazy.step(step);
                }
                if *is_restored {
                    let parts = eager.state.publish().parts();
                    eager.state = State::from_parts(parts, Limits::default()).unwrap();
                }
            }
            let (eager, lazy) = (eager.state.publish(), lazy.state.publish());
            prop_assert_eq!(hash_all(&eager), hash_all(&lazy));
            prop_assert_eq!(eager.applied(), lazy.applied());
            for revision in 0..=eager.revision() + 1 {
                prop_assert_eq!(hash_kv(&eager, revision), hash_kv(&lazy, revision));
            }
        }

        #[test]
        fn any_change_of_a_key_changes_the_hashes(
            steps in prop::collection::vec(arbitrary_step(), 1..40),
            key in 0_u8..12,
        ) {
            let mut trial = Trial::new();
            for step in &steps {
                trial.step(step);
            }
            let before = trial.state.publish();
            trial.step(&Step::Put(key, 1));
            let after = trial.state.publish();
            let latest = hash_kv(&after, 0).unwrap();
            prop_assert_ne!(latest.hash, hash_kv(&before, 0).unwrap().hash);
            prop_assert_eq!(hash_kv(&after, before.revision()), hash_kv(&before, 0));
            prop_assert_ne!(hash_all(&before), hash_all(&after));
            prop_assert_ne!(before.applied().rolling_hash, after.applied().rolling_hash);
            prop_assert_eq!(latest.hash_revision, after.revision());
        }
    }

    #[test]
    fn revisions_that_cannot_be_read_have_no_hash() {
        let mut trial = Trial::new();
        for _ in 0..9 {
            trial.step(&Step::Put(1, 1));
        }
        trial.step(&Step::Compact(50));
        let view = trial.state.publish();
        assert_eq!(view.compact_revision(), 5);
        assert_eq!(hash_kv(&view, 4), Err(StateError::Compacted));
        assert_eq!(hash_kv(&view, 11), Err(StateError::FutureRevision));
        let at = |revision| hash_kv(&view, revision).unwrap();
        assert_eq!((at(5).hash_revision, at(5).compact_revision), (5, 5));
        assert_eq!(at(0), at(10));
    }

    #[test]
    fn states_with_equal_lengths_and_other_contents_differ() {
        let state = |value: &str| {
            let mut trial = Trial::new();
            trial.step(&Step::Skip);
            let mut parts = trial.state.publish().parts();
            parts.applied.revision = 2;
            let record = Record::put(Revision::first_of(2), 2, 1, 0, b"key", value.as_bytes());
            parts.records.push(record);
            State::from_parts(parts, Limits::default()).unwrap().publish()
        };
        assert_ne!(hash_all(&state("one")), hash_all(&state("two")));
        assert_ne!(hash_kv(&state("one"), 0), hash_kv(&state("two"), 0));
    }
}
