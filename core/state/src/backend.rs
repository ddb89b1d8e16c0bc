//! The store under the state: an ordered map on disk that may be thrown away at any time.
//!
//! Truth lies in the log and in verified snapshot files. The backend only spares a member reading
//! them all at boot, so its rule is simple: what is read back is either exactly a state the member
//! had at some log index, or it is refused and the whole generation is dropped and built anew.
//!
//! One key space, by prefix:
//!
//! | key | value |
//! |---|---|
//! | `m/applied` | [`Mark`]: how far the log is contained, and a digest of everything below |
//! | `b/` revision | a [block](crate::block) of records, under the first one's revision |
//! | `d/` revision, revision | some records of the block of the first revision that are dead, from the second one on: revisions, each main 8 and sub 4 little endian, and a CRC32C |
//! | `t/lease/…`, `t/member/…` … | a table's row, and a CRC32C |
//!
//! A revision in a key is main 8, sub 4, big endian. The CRC32C behind a value is over key and value.
//!
//! Invariant: every batch carries the mark that describes the key space after it. A crash keeps
//! a prefix of the batches, so data without its applied index, or the index without its data, cannot
//! be found at boot.
//!
//! [`Writeback`] turns what apply does into batches; [`load`] reads a key space back. Both are pure,
//! and the engine behind [`Backend`] decides nothing.

mod conformance;
mod load;
mod memory;
mod writeback;

use std::ops::ControlFlow;

use bytes::Bytes;
use thiserror::Error;

pub use conformance::conformance;
pub use load::{Layout, LoadError, Loaded, Loading, Pair, load};
pub use memory::{MemBackend, MemFault};
pub use writeback::{Writeback, WritebackLimits};

use crate::block::{Block, BlockError};
use crate::parts::{APPLIED_BYTES, Applied, AppliedError, Row, Table};
use crate::record::Revision;

/// Where the [`Mark`] lies.
pub const APPLIED_KEY: &[u8] = b"m/applied";

/// Every block lies under this prefix.
pub const BLOCK_PREFIX: &[u8] = b"b/";

/// Every list of dead records lies under this prefix.
pub const DEAD_PREFIX: &[u8] = b"d/";

/// Every row lies under this prefix, followed by the table's name and a slash.
pub const TABLE_PREFIX: &[u8] = b"t/";

/// Encoded length of [`Mark`].
pub const MARK_BYTES: usize = APPLIED_BYTES + 44;

/// Why the backend cannot be used. The remedy is always the same: drop the generation.
#[derive(Debug, Error)]
pub enum BackendError {
    /// The engine failed.
    #[error("backend engine: {0}")]
    Engine(String),
    /// There is data but no mark.
    #[error("backend holds {0:?} but no applied position")]
    Unmarked(String),
    /// The mark cannot be read.
    #[error("backend's applied position: {0}")]
    Mark(#[from] AppliedError),
    /// A key no version of this program writes.
    #[error("backend holds the unknown key {0:?}")]
    UnknownKey(String),
    /// A block cannot be read.
    #[error("backend block {revision}: {error}")]
    Block {
        /// Revision it lies under.
        revision: Revision,
        /// What is wrong with it.
        error: BlockError,
    },
    /// A block that must be there is not.
    #[error("backend block {0} is missing")]
    BlockMissing(Revision),
    /// Records that overlap their neighbours, or lie above the applied revision.
    #[error("backend holds record {0} where it cannot be")]
    Misplaced(Revision),
    /// The checksum behind a row or a list of dead records does not match.
    #[error("backend value of {0:?} is damaged")]
    Row(String),
    /// What was found is not what the mark counted.
    #[error("backend holds {found}, its applied position counts {counted}")]
    Digest {
        /// By the mark.
        counted: Census,
        /// By looking.
        found: Census,
    },
}

/// What [`Backend::scan`] calls with each key and value.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// One ordered map with atomic batches: sled in production, [`MemBackend`] in memory.
///
/// Batches become durable in the order they are committed; a crash may lose the last ones since
/// [`Backend::flush`], never one from the middle, never half of one.
pub trait Backend: Send {
    /// Applies every write of `batch` at once.
    ///
    /// # Errors
    /// [`BackendError::Engine`]; the generation is then to be dropped.
    fn commit(&mut self, batch: &BackendBatch) -> Result<(), BackendError>;

    /// The value under `key`.
    ///
    /// # Errors
    /// [`BackendError::Engine`].
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, BackendError>;

    /// Visits every pair whose key begins with `prefix`, in key order, until told to break.
    ///
    /// # Errors
    /// [`BackendError::Engine`].
    fn scan(&self, prefix: &[u8], visit: Visit<'_>) -> Result<(), BackendError>;

    /// Makes all committed batches durable.
    ///
    /// # Errors
    /// [`BackendError::Engine`].
    fn flush(&mut self) -> Result<(), BackendError>;

    /// Bytes taken on disk.
    ///
    /// # Errors
    /// [`BackendError::Engine`].
    fn size_bytes(&self) -> Result<u64, BackendError>;

    /// Forgets everything, durably: the start of a new generation.
    ///
    /// # Errors
    /// [`BackendError::Engine`].
    fn clear(&mut self) -> Result<(), BackendError>;
}

/// One write of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The key.
    pub key: Vec<u8>,
    /// The new value; `None` removes the key.
    pub value: Option<Vec<u8>>,
}

/// Writes that happen together, the last of them the new [`Mark`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendBatch {
    mark: Mark,
    writes: Vec<Write>,
}

impl BackendBatch {
    /// A batch of `writes` after which `mark` describes the key space.
    #[must_use]
    pub fn new(mark: Mark, mut writes: Vec<Write>) -> Self {
        writes.push(Write { key: APPLIED_KEY.to_vec(), value: Some(mark.encode().to_vec()) });
        Self { mark, writes }
    }

    /// Position in the log that the key space contains after this batch.
    #[must_use]
    pub fn applied(&self) -> &Applied {
        &self.mark.applied
    }

    /// All writes, the mark included. A key is written at most once.
    #[must_use]
    pub fn writes(&self) -> &[Write] {
        &self.writes
    }

    /// Bytes of keys and values.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let of = |write: &Write| write.key.len() + write.value.as_ref().map_or(0, Vec::len);
        self.writes.iter().map(of).sum()
    }
}

/// What a key space holds, so that a pair lost or brought back by the engine is noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Number of blocks.
    pub blocks: u64,
    /// Number of lists of dead records.
    pub dead_lists: u64,
    /// Number of rows.
    pub rows: u64,
    /// Sum, wrapping, of [`pair_digest`] over all of them.
    pub digest: u64,
}

impl std::fmt::Display for Census {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { blocks, dead_lists, rows, digest } = self;
        write!(f, "{blocks} blocks, {dead_lists} dead lists, {rows} rows, digest {digest:016x}")
    }
}

/// The value under [`APPLIED_KEY`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Position in the log.
    pub applied: Applied,
    /// What lies beside the mark.
    pub census: Census,
    /// The compact revision up to which the lists of dead records are complete. Below the applied
    /// one, whoever loads finds the rest itself.
    pub swept_revision: i64,
}

impl Mark {
    /// [`Applied::encode`], then blocks, dead lists, rows, digest and swept revision, 8 bytes each,
    /// then CRC32C of all before, little endian.
    #[must_use]
    pub fn encode(&self) -> [u8; MARK_BYTES] {
        let mut bytes = [0; MARK_BYTES];
        bytes[..APPLIED_BYTES].copy_from_slice(&self.applied.encode());
        let Census { blocks, dead_lists, rows, digest } = self.census;
        let numbers = [blocks, dead_lists, rows, digest, self.swept_revision.cast_unsigned()];
        for (index, number) in numbers.into_iter().enumerate() {
            let at = APPLIED_BYTES + index * 8;
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        let crc = crc32c::crc32c(&bytes[..MARK_BYTES - 4]);
        bytes[MARK_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads back what [`Mark::encode`] wrote.
    ///
    /// # Errors
    /// [`AppliedError`] for anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, AppliedError> {
        let bytes: &[u8; MARK_BYTES] =
            bytes.try_into().map_err(|_| AppliedError::Length(bytes.len()))?;
        let (body, crc) = bytes.split_at(MARK_BYTES - 4);
        if crc32c::crc32c(body).to_le_bytes() != crc {
            return Err(AppliedError::Checksum);
        }
        let number = |index: usize| {
            let at = APPLIED_BYTES + index * 8;
            u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
        };
        Ok(Self {
            applied: Applied::decode(&bytes[..APPLIED_BYTES])?,
            census: Census {
                blocks: number(0),
                dead_lists: number(1),
                rows: number(2),
                digest: number(3),
            },
            swept_revision: number(4).cast_signed(),
        })
    }
}

/// Digest of one pair, made of the CRC32C of the key and the one every value ends with. (A CRC over
/// a value with its own CRC behind it would not depend on the value.)
#[must_use]
pub fn pair_digest(key: &[u8], value: &[u8]) -> u64 {
    let of_value = value.last_chunk().map_or(0, |crc| u32::from_le_bytes(*crc));
    let mut digest = u64::from(crc32c::crc32c(key)) << 32 | u64::from(of_value);
    // Mixed, so that the sum over all pairs tells which value lies under which key.
    for factor in [0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb] {
        digest = (digest ^ digest >> 30).wrapping_mul(factor);
    }
    digest ^ digest >> 31
}

/// A block, from the last pair whose key is not behind [`block_key`] of `wanted`: the one in which that
/// revision lies, if it is there at all. Its checksum is checked.
///
/// # Errors
/// [`BackendError`]; whoever is sure that the revision is there must take it for damage.
pub fn block_at(wanted: Revision, key: &[u8], value: &[u8]) -> Result<Block, BackendError> {
    let revision = block_first(key).ok_or(BackendError::BlockMissing(wanted))?;
    let opened = Block::open(value).map_err(|error| BackendError::Block { revision, error })?;
    if opened.first() == revision { Ok(opened) } else { Err(BackendError::Misplaced(revision)) }
}

/// Key of the block that begins with `first`.
#[must_use]
pub fn block_key(first: Revision) -> Vec<u8> {
    [BLOCK_PREFIX, &revision_key(first)].concat()
}

/// Revision a block's key names; `None` if it is not one.
#[must_use]
pub fn block_first(key: &[u8]) -> Option<Revision> {
    revision_of_key(key.strip_prefix(BLOCK_PREFIX)?)
}

fn revision_key(revision: Revision) -> [u8; 12] {
    let main = u64::try_from(revision.main).expect("revisions of records are positive");
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&main.to_be_bytes());
    bytes[8..].copy_from_slice(&revision.sub.to_be_bytes());
    bytes
}

fn revision_of_key(key: &[u8]) -> Option<Revision> {
    let (main, sub) = key.split_at_checked(8)?;
    let main = i64::try_from(u64::from_be_bytes(main.try_into().ok()?)).ok()?;
    Some(Revision { main, sub: u32::from_be_bytes(sub.try_into().ok()?) })
}

/// What the keys of all dead lists of a block begin with.
fn dead_prefix(block: Revision) -> Vec<u8> {
    [DEAD_PREFIX, &revision_key(block)].concat()
}

/// Key of a block's list of dead records that names `from` first.
fn dead_key(block: Revision, from: Revision) -> Vec<u8> {
    [DEAD_PREFIX, &revision_key(block), &revision_key(from)].concat()
}

fn dead_value(key: &[u8], dead: &[Revision]) -> Vec<u8> {
    let mut value = Vec::with_capacity(dead.len() * 12);
    for revision in dead {
        value.extend_from_slice(&revision.main.to_le_bytes());
        value.extend_from_slice(&revision.sub.to_le_bytes());
    }
    guarded(key, &value)
}

/// The block and the dead records a list names; `None` if it is damaged.
fn dead_of(key: &[u8], stored: &[u8]) -> Option<(Revision, Vec<Revision>)> {
    let (block, _) = key.strip_prefix(DEAD_PREFIX)?.split_at_checked(12)?;
    let value = unguarded(key, stored)?;
    let revision = |bytes: &[u8]| {
        let (main, sub) = bytes.split_at_checked(8)?;
        let main = i64::from_le_bytes(main.try_into().ok()?);
        Some(Revision { main, sub: u32::from_le_bytes(sub.try_into().ok()?) })
    };
    let dead: Option<Vec<Revision>> = value.chunks(12).map(revision).collect();
    Some((revision_of_key(block)?, dead?))
}

/// Key of a table's row.
#[must_use]
pub fn row_key(table: Table, key: &[u8]) -> Vec<u8> {
    [TABLE_PREFIX, table.name().as_bytes(), b"/", key].concat()
}

/// A value as it is stored: behind it the CRC32C of key and value.
fn guarded(key: &[u8], value: &[u8]) -> Vec<u8> {
    let crc = crc32c::crc32c_append(crc32c::crc32c(key), value);
    [value, &crc.to_le_bytes()].concat()
}

/// The value in what was stored; `None` if the checksum fails.
fn unguarded<'a>(key: &[u8], stored: &'a [u8]) -> Option<&'a [u8]> {
    let (value, crc) = stored.split_at_checked(stored.len().checked_sub(4)?)?;
    let actual = crc32c::crc32c_append(crc32c::crc32c(key), value);
    (actual.to_le_bytes() == crc).then_some(value)
}

/// The row stored under `row_key`; `None` if the key names no table or the checksum fails.
fn row_of(row_key: &[u8], stored: &[u8]) -> Option<Row> {
    let path = row_key.strip_prefix(TABLE_PREFIX)?;
    let (table, key) = Table::ALL.into_iter().find_map(|table| {
        let key = path.strip_prefix(table.name().as_bytes())?.strip_prefix(b"/")?;
        Some((table, key))
    })?;
    let value = unguarded(row_key, stored)?.to_vec();
    Some(Row { table, key: key.to_vec(), value })
}

/// A key as an operator can read it.
fn printable(key: &[u8]) -> String {
    key.escape_ascii().to_string()
}

#[cfg(test)]
mod tests;
