//! What passes between the living state and its storage.
//!
//! The state knows keys, leases, alarms and members; the backend, the snapshot and the portable
//! file know only three plain things, so that a new table never changes how bytes are kept:
//!
//! * [`Applied`]: how far the log has been applied, and what came of it;
//! * [`Record`]s in revision order: everything under keys, history included;
//! * [`Row`]s: everything else, a key and an encoded value in a named [`Table`]. The module that owns
//!   a table owns the encoding of its rows; the encodings lie on disks and keep their meaning.
//!
//! [`Changes`] is what one applied entry did to them, [`StateParts`] is all of them.

use std::fmt;

use thiserror::Error;

use crate::record::{Record, Revision};

/// Encoded length of [`Applied`].
pub const APPLIED_BYTES: usize = 48;

/// Version of the encoding of [`Applied`], of the tables' rows and of the keys they lie under.
pub const STATE_FORMAT_VERSION: u32 = 1;

/// How far the log has been applied, and what came of it. Equal on all members at an equal index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Index of the last log entry applied; 0 before the first.
    pub index: u64,
    /// Term of that entry.
    pub term: u64,
    /// The store's revision after it; 1 before the first write, as in etcd.
    pub revision: i64,
    /// History before this revision is gone; 0 or less when nothing has been compacted.
    pub compact_revision: i64,
    /// [`crate::hash::roll`] over every record ever applied.
    pub rolling_hash: u32,
}

/// The bytes are not an [`Applied`] of a version known here.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum AppliedError {
    /// Not [`APPLIED_BYTES`] bytes.
    #[error("applied position is {0} bytes long, not {APPLIED_BYTES}")]
    Length(usize),
    /// Written by another version.
    #[error("state format version {0} is not {STATE_FORMAT_VERSION}")]
    Version(u32),
    /// The checksum does not match.
    #[error("applied position is damaged")]
    Checksum,
    /// Revisions no state has.
    #[error("applied position has impossible revisions")]
    Impossible,
}

impl Applied {
    /// Layout, little endian: version u32, rolling hash u32, index u64, term u64, revision i64,
    /// compact revision i64, four zero bytes, CRC32C of all before.
    #[must_use]
    pub fn encode(&self) -> [u8; APPLIED_BYTES] {
        let mut bytes = [0; APPLIED_BYTES];
        bytes[0..4].copy_from_slice(&STATE_FORMAT_VERSION.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.rolling_hash.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.index.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.term.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.revision.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.compact_revision.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..APPLIED_BYTES - 4]);
        bytes[APPLIED_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads back what [`Applied::encode`] wrote.
    ///
    /// # Errors
    /// [`AppliedError`] for anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, AppliedError> {
        let bytes: &[u8; APPLIED_BYTES] =
            bytes.try_into().map_err(|_| AppliedError::Length(bytes.len()))?;
        let u32_at =
            |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let u64_at =
            |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        if crc32c::crc32c(&bytes[..APPLIED_BYTES - 4]) != u32_at(APPLIED_BYTES - 4) {
            return Err(AppliedError::Checksum);
        }
        if u32_at(0) != STATE_FORMAT_VERSION {
            return Err(AppliedError::Version(u32_at(0)));
        }
        let applied = Self {
            index: u64_at(8),
            term: u64_at(16),
            revision: u64_at(24).cast_signed(),
            compact_revision: u64_at(32).cast_signed(),
            rolling_hash: u32_at(4),
        };
        let possible = applied.revision >= 0 && applied.compact_revision <= applied.revision;
        if possible && u32_at(40) == 0 { Ok(applied) } else { Err(AppliedError::Impossible) }
    }
}

/// A table of rows beside the keys. The number is part of every format on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Leases, by id.
    Lease = 1,
    /// Raised alarms, by member and kind.
    Alarm = 2,
    /// Members of the cluster, by id.
    Member = 3,
    /// Ids of members removed, which never come back.
    Removed = 4,
    /// Single values of the cluster, by name: its version and the like.
    Cluster = 5,
    /// The plan of timing, a single row; there from the first plan on.
    Tuning = 6,
}

impl Table {
    /// Every table, by number.
    pub const ALL: [Self; 6] =
        [Self::Lease, Self::Alarm, Self::Member, Self::Removed, Self::Cluster, Self::Tuning];

    /// The number it has on disk.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The table of a number; `None` if this version knows none.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.number() == number)
    }

    /// The name its rows lie under in the backend.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Lease => "lease",
            Self::Alarm => "alarm",
            Self::Member => "member",
            Self::Removed => "removed",
            Self::Cluster => "cluster",
            Self::Tuning => "tuning",
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One row of a table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// The table.
    pub table: Table,
    /// What the row is found by. Integers are big endian, so that byte order is number order.
    pub key: Vec<u8>,
    /// Encoded by the module that owns the table.
    pub value: Vec<u8>,
}

/// A row as an entry left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowChange {
    /// The table.
    pub table: Table,
    /// As [`Row::key`].
    pub key: Vec<u8>,
    /// The row's new value; `None` when the row is gone.
    pub value: Option<Vec<u8>>,
}

/// What one applied log entry did to the state.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Where the state stands after the entry, also when the entry changed nothing else.
    pub applied: Applied,
    /// Records added, in revision order.
    pub records: Vec<Record>,
    /// Rows written or removed, in order.
    pub rows: Vec<RowChange>,
    /// Revisions of records that compaction dropped from history with this entry, in any order.
    /// A record at or above `applied.compact_revision` is never among them.
    pub removed: Vec<Revision>,
}

/// Everything there is to know of a state at one index: what a snapshot holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateParts {
    /// The index, and the revisions that belong to it.
    pub applied: Applied,
    /// All rows, by table and key.
    pub rows: Vec<Row>,
    /// All records kept, in revision order, tombstones still in history included. What a backend
    /// loads may also hold records older than `applied.compact_revision` that compaction has
    /// already dropped from the living state: whoever builds a state compacts again.
    pub records: Vec<Record>,
}
