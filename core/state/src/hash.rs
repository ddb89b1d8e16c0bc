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
        .fold(seed, |hash, record| crc32c::crc32c_append(hash, record.as_bytes()));
    Ok(KvHash { hash, compact_revision, hash_revision })
}

/// Hash of the whole state: CRC32C over the chunks of its snapshot.
#[must_use]
pub fn hash_all(view: &View) -> u32 {
    snapshot::chunks(view).fold(0, |hash, chunk| crc32c::crc32c_append(hash, &chunk))
}

/// The rolling hash after `records` have been applied, `before` being the one before; 0 at first.
#[must_use]
pub fn roll<'a>(before: u32, records: impl IntoIterator<Item = &'a Record>) -> u32 {
    records.into_iter().fold(before, |hash, record| crc32c::crc32c_append(hash, record.as_bytes()))
}
