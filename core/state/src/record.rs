//! One revision of one key, as the same bytes everywhere.
//!
//! A record is laid out once, when the command that makes it is applied, and from then on only its
//! reference count changes: the trees in memory, the history that watchers read, a block in the
//! backend and a chunk of a snapshot all hold these very bytes. Nothing is encoded again on the way
//! from memory to disk, and a value is cut out of a record for a client without copying it.
//!
//! Layout, integers little endian:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | `mod_main`, revision of the transaction that made the record |
//! | 8 | 4 | `mod_sub`, number of the change within that transaction |
//! | 12 | 4 | flags: bit 0 set for a tombstone, the others zero |
//! | 16 | 8 | `create_revision`, 0 in a tombstone |
//! | 24 | 8 | `version`, 0 in a tombstone |
//! | 32 | 8 | `lease`, 0 for none |
//! | 40 | 4 | `key_len` |
//! | 44 | 4 | `value_len`, 0 in a tombstone |
//! | 48 | … | key, then value |
//!
//! Invariant: a `Record` that exists is well formed. [`Record::from_bytes`] refuses anything else,
//! so the accessors need no error.
//!
//! Where values do not all stay in memory the trees hold records *without their value*: header and key,
//! marked as such. Whoever wants such a value asks [`crate::values::Values`] for the whole record.
//! Invariant: a record without its value never leaves memory, and its value is never taken for empty:
//! [`Record::value`] and [`Record::as_bytes`] of one panic.

use std::cmp::Ordering;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use proto::mvccpb::KeyValue;
use thiserror::Error;

/// Bytes before the key.
pub const HEADER_BYTES: usize = 48;

/// Longest key plus value a record holds. Far above any request limit; it bounds what a damaged
/// length field can ask for.
pub const KEY_VALUE_BYTES_MAX: usize = 1 << 30;

const FLAG_TOMBSTONE: u32 = 1;
/// In memory only: the value lies elsewhere ([`crate::values`]). No reader of a disk takes it.
const FLAG_APART: u32 = 1 << 31;

const MOD_MAIN: Range<usize> = 0..8;
const MOD_SUB: Range<usize> = 8..12;
const FLAGS: Range<usize> = 12..16;
const CREATE_REVISION: Range<usize> = 16..24;
const VERSION: Range<usize> = 24..32;
const LEASE: Range<usize> = 32..40;
const KEY_LEN: Range<usize> = 40..44;
const VALUE_LEN: Range<usize> = 44..48;

/// When a change happened: `main` counts transactions, `sub` the changes within one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// The store's revision, shared by all changes of one transaction.
    pub main: i64,
    /// Position within the transaction, from 0.
    pub sub: u32,
}

impl Revision {
    /// The first possible change of transaction `main`.
    #[must_use]
    pub fn first_of(main: i64) -> Self {
        Self { main, sub: 0 }
    }

    /// The last possible change of transaction `main`.
    #[must_use]
    pub fn last_of(main: i64) -> Self {
        Self { main, sub: u32::MAX }
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.main, self.sub)
    }
}

/// Why some bytes are not a record.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum RecordError {
    /// Fewer bytes than a header.
    #[error("record of {0} bytes is shorter than its header")]
    Short(usize),
    /// The header's lengths do not add up to the bytes given.
    #[error("record of {actual} bytes claims {claimed}")]
    Length {
        /// Header plus key plus value, as claimed.
        claimed: u64,
        /// Bytes given.
        actual: usize,
    },
    /// Longer than [`KEY_VALUE_BYTES_MAX`].
    #[error("record claims a key and value of {0} bytes")]
    Oversized(u64),
    /// A key is never empty.
    #[error("record has an empty key")]
    EmptyKey,
    /// A flag this version does not know.
    #[error("record has unknown flags {0:#x}")]
    UnknownFlags(u32),
    /// Revisions, versions and tombstones that no transaction makes.
    #[error("record has impossible revisions")]
    Impossible,
}

/// One revision of one key: a value put, or a tombstone.
///
/// Cloning shares the bytes. Records are ordered by revision.
#[derive(Clone)]
pub struct Record(Arc<[u8]>);

impl Record {
    /// A value put under `key`.
    ///
    /// # Panics
    /// If key and value together exceed [`KEY_VALUE_BYTES_MAX`]; requests are checked long before.
    #[must_use]
    pub fn put(
        revision: Revision,
        create_revision: i64,
        version: i64,
        lease: i64,
        key: &[u8],
        value: &[u8],
    ) -> Self {
        Self::encode(revision, 0, [create_revision, version, lease], key, value)
    }

    /// The mark that `key` was deleted.
    ///
    /// # Panics
    /// If the key exceeds [`KEY_VALUE_BYTES_MAX`].
    #[must_use]
    pub fn tombstone(revision: Revision, key: &[u8]) -> Self {
        Self::encode(revision, FLAG_TOMBSTONE, [0; 3], key, &[])
    }

    fn encode(
        revision: Revision,
        flags: u32,
        [create_revision, version, lease]: [i64; 3],
        key: &[u8],
        value: &[u8],
    ) -> Self {
        let key_value_bytes = key.len().saturating_add(value.len());
        assert!(key_value_bytes <= KEY_VALUE_BYTES_MAX, "record of {key_value_bytes} bytes");
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("bounded just above");

        // A range of known length allocates once, with the reference count in front.
        let mut bytes: Arc<[u8]> = std::iter::repeat_n(0, HEADER_BYTES + key_value_bytes).collect();
        let buffer = Arc::get_mut(&mut bytes).expect("not shared yet");
        buffer[MOD_MAIN].copy_from_slice(&revision.main.to_le_bytes());
        buffer[MOD_SUB].copy_from_slice(&revision.sub.to_le_bytes());
        buffer[FLAGS].copy_from_slice(&flags.to_le_bytes());
        buffer[CREATE_REVISION].copy_from_slice(&create_revision.to_le_bytes());
        buffer[VERSION].copy_from_slice(&version.to_le_bytes());
        buffer[LEASE].copy_from_slice(&lease.to_le_bytes());
        buffer[KEY_LEN].copy_from_slice(&length(key).to_le_bytes());
        buffer[VALUE_LEN].copy_from_slice(&length(value).to_le_bytes());
        let (key_at, value_at) = buffer[HEADER_BYTES..].split_at_mut(key.len());
        key_at.copy_from_slice(key);
        value_at.copy_from_slice(value);
        Self(bytes)
    }

    /// Reads a record back. `bytes` must be exactly one record.
    ///
    /// # Errors
    /// [`RecordError`] for anything [`Record::put`] or [`Record::tombstone`] would not have made.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RecordError> {
        Self::verify(bytes)?;
        Ok(Self(Arc::from(bytes)))
    }

    /// Length of the record that starts at the head of `bytes`, which may hold more after it.
    ///
    /// # Errors
    /// [`RecordError`] if not even the header is there or it claims an absurd length.
    pub fn length_at(bytes: &[u8]) -> Result<usize, RecordError> {
        if bytes.len() < HEADER_BYTES {
            return Err(RecordError::Short(bytes.len()));
        }
        let key_value_bytes =
            u64::from(u32_at(bytes, KEY_LEN)) + u64::from(u32_at(bytes, VALUE_LEN));
        match usize::try_from(key_value_bytes) {
            Ok(length) if length <= KEY_VALUE_BYTES_MAX => Ok(HEADER_BYTES + length),
            _ => Err(RecordError::Oversized(key_value_bytes)),
        }
    }

    fn verify(bytes: &[u8]) -> Result<(), RecordError> {
        let claimed = Self::length_at(bytes)?;
        if claimed != bytes.len() {
            return Err(RecordError::Length { claimed: claimed as u64, actual: bytes.len() });
        }
        if u32_at(bytes, KEY_LEN) == 0 {
            return Err(RecordError::EmptyKey);
        }
        let flags = u32_at(bytes, FLAGS);
        if flags & !FLAG_TOMBSTONE != 0 {
            return Err(RecordError::UnknownFlags(flags));
        }
        let [mod_main, create_revision, version, lease] =
            [MOD_MAIN, CREATE_REVISION, VERSION, LEASE].map(|field| i64_at(bytes, field));
        let possible = if flags & FLAG_TOMBSTONE != 0 {
            create_revision == 0 && version == 0 && lease == 0 && u32_at(bytes, VALUE_LEN) == 0
        } else {
            create_revision > 0 && create_revision <= mod_main && version > 0
        };
        if mod_main > 0 && possible { Ok(()) } else { Err(RecordError::Impossible) }
    }

    /// The whole record as it lies in a block or a snapshot.
    ///
    /// # Panics
    /// If the record is without its value.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        assert!(self.is_whole(), "record {} is without its value", self.revision());
        &self.0
    }

    /// Bytes of the whole record, whether or not the value is here.
    #[must_use]
    pub fn bytes_len(&self) -> usize {
        self.value_start() + self.value_len()
    }

    /// Whether the value is here.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        u32_at(&self.0, FLAGS) & FLAG_APART == 0
    }

    /// The same record without its value, in memory of its own.
    #[must_use]
    pub(crate) fn without_value(&self) -> Self {
        let mut bytes: Arc<[u8]> = Arc::from(&self.0[..self.value_start()]);
        let buffer = Arc::get_mut(&mut bytes).expect("not shared yet");
        let flags = u32_at(buffer, FLAGS) | FLAG_APART;
        buffer[FLAGS].copy_from_slice(&flags.to_le_bytes());
        Self(bytes)
    }

    /// How many places share the bytes.
    pub(crate) fn shares(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    /// When the change happened.
    #[must_use]
    pub fn revision(&self) -> Revision {
        Revision { main: i64_at(&self.0, MOD_MAIN), sub: u32_at(&self.0, MOD_SUB) }
    }

    /// Revision of the transaction that made the record: etcd's `mod_revision`.
    #[must_use]
    pub fn mod_revision(&self) -> i64 {
        i64_at(&self.0, MOD_MAIN)
    }

    /// Whether the record says that the key was deleted.
    #[must_use]
    pub fn is_tombstone(&self) -> bool {
        u32_at(&self.0, FLAGS) & FLAG_TOMBSTONE != 0
    }

    /// Revision at which the key came into being; 0 in a tombstone.
    #[must_use]
    pub fn create_revision(&self) -> i64 {
        i64_at(&self.0, CREATE_REVISION)
    }

    /// Changes since creation, 1 for a fresh key; 0 in a tombstone.
    #[must_use]
    pub fn version(&self) -> i64 {
        i64_at(&self.0, VERSION)
    }

    /// The lease the key is attached to; 0 for none.
    #[must_use]
    pub fn lease(&self) -> i64 {
        i64_at(&self.0, LEASE)
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.0[HEADER_BYTES..self.value_start()]
    }

    /// The value; empty in a tombstone.
    ///
    /// # Panics
    /// If the record is without its value.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        &self.as_bytes()[self.value_start()..]
    }

    /// Length of the value, whether or not it is here.
    #[must_use]
    pub fn value_len(&self) -> usize {
        u32_at(&self.0, VALUE_LEN) as usize
    }

    fn value_start(&self) -> usize {
        HEADER_BYTES + u32_at(&self.0, KEY_LEN) as usize
    }

    /// The key as a buffer that shares the record's memory.
    #[must_use]
    pub fn key_bytes(&self) -> Bytes {
        Bytes::from_owner(self.clone()).slice(HEADER_BYTES..self.value_start())
    }

    /// The key as a client sees it. Key and value share the record's memory. A tombstone carries
    /// the key and `mod_revision` only, as a DELETE event does.
    ///
    /// # Panics
    /// If the record is without its value.
    #[must_use]
    pub fn to_key_value(&self) -> KeyValue {
        assert!(self.is_whole(), "record {} is without its value", self.revision());
        let whole = Bytes::from_owner(self.clone());
        KeyValue {
            key: whole.slice(HEADER_BYTES..self.value_start()),
            create_revision: self.create_revision(),
            mod_revision: self.mod_revision(),
            version: self.version(),
            value: whole.slice(self.value_start()..),
            lease: self.lease(),
        }
    }

    /// [`Record::to_key_value`] without the value. The key is copied, so that a list of keys held
    /// by a slow client does not hold the values.
    #[must_use]
    pub fn to_key_only(&self) -> KeyValue {
        KeyValue {
            key: Bytes::copy_from_slice(self.key()),
            create_revision: self.create_revision(),
            mod_revision: self.mod_revision(),
            version: self.version(),
            value: Bytes::new(),
            lease: self.lease(),
        }
    }
}

impl AsRef<[u8]> for Record {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq for Record {
    /// Of a record without its value everything else is compared.
    fn eq(&self, other: &Self) -> bool {
        if self.is_whole() == other.is_whole() {
            return self.0 == other.0;
        }
        let [own, its] = [self, other].map(|record| &record.0[..record.value_start()]);
        own.len() == its.len()
            && own[..FLAGS.start] == its[..FLAGS.start]
            && own[FLAGS.end..] == its[FLAGS.end..]
    }
}

impl Eq for Record {}

impl PartialOrd for Record {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Record {
    fn cmp(&self, other: &Self) -> Ordering {
        // A revision names one record of a store; the bytes only keep order and equality in step.
        self.revision().cmp(&other.revision()).then_with(|| self.0.cmp(&other.0))
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key().escape_ascii();
        if self.is_tombstone() {
            return write!(f, "{} delete {key}", self.revision());
        }
        write!(
            f,
            "{} put {key} ({} bytes, created {}, version {}, lease {})",
            self.revision(),
            self.value_len(),
            self.create_revision(),
            self.version(),
            self.lease(),
        )
    }
}

fn u32_at(bytes: &[u8], field: Range<usize>) -> u32 {
    u32::from_le_bytes(bytes[field].try_into().expect("a field of four bytes"))
}

fn i64_at(bytes: &[u8], field: Range<usize>) -> i64 {
    i64::from_le_bytes(bytes[field].try_into().expect("a field of eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Record {
        Record::put(Revision { main: 7, sub: 2 }, 3, 4, 9, b"key", b"value")
    }

    #[test]
    fn a_record_reads_back_what_was_put() {
        let record = Record::from_bytes(sample().as_bytes()).unwrap();
        assert_eq!(record, sample());
        assert_eq!(record.revision(), Revision { main: 7, sub: 2 });
        assert_eq!((record.create_revision(), record.version(), record.lease()), (3, 4, 9));
        assert_eq!((record.key(), record.value()), (&b"key"[..], &b"value"[..]));
        assert!(!record.is_tombstone());
    }

    #[test]
    fn the_layout_on_disk_is_pinned() {
        let hex: String = sample().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "0700000000000000020000000000000003000000000000000400000000000000\
             09000000000000000300000005000000\
             6b657976616c7565"
        );
        let hex: String = Record::tombstone(Revision { main: 8, sub: 0 }, b"k")
            .as_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(
            hex,
            "0800000000000000000000000100000000000000000000000000000000000000\
             00000000000000000100000000000000\
             6b"
        );
    }

    #[test]
    fn a_client_sees_the_key_value_without_a_copy() {
        let record = sample();
        let seen = record.to_key_value();
        assert_eq!((&seen.key[..], &seen.value[..]), (record.key(), record.value()));
        assert_eq!(seen.value.as_ptr(), record.value().as_ptr());
        assert_eq!((seen.create_revision, seen.mod_revision), (3, 7));
        assert_eq!((seen.version, seen.lease), (4, 9));
        assert!(record.to_key_only().value.is_empty());
    }

    #[test]
    fn a_tombstone_carries_key_and_revision_only() {
        let record = Record::tombstone(Revision { main: 8, sub: 1 }, b"gone");
        assert!(record.is_tombstone());
        assert_eq!(Record::from_bytes(record.as_bytes()), Ok(record.clone()));
        let expected = KeyValue { key: "gone".into(), mod_revision: 8, ..KeyValue::default() };
        assert_eq!(record.to_key_value(), expected);
    }

    #[test]
    fn damaged_bytes_are_refused() {
        let good = sample().as_bytes().to_vec();
        let damage = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            Record::from_bytes(&bytes)
        };
        assert_eq!(Record::from_bytes(&good[..40]), Err(RecordError::Short(40)));
        let length = |claimed| Err(RecordError::Length { claimed, actual: 56 });
        assert_eq!(damage(KEY_LEN.start, 4), length(57));
        assert_eq!(damage(VALUE_LEN.end - 1, 0x7f), Err(RecordError::Oversized(0x7f00_0008)));
        assert_eq!(damage(FLAGS.start, 2), Err(RecordError::UnknownFlags(2)));
        assert_eq!(damage(FLAGS.start, 1), Err(RecordError::Impossible));
        assert_eq!(damage(MOD_MAIN.end - 1, 0xff), Err(RecordError::Impossible));
        assert_eq!(damage(CREATE_REVISION.start, 8), Err(RecordError::Impossible));
        assert_eq!(damage(VERSION.start, 0), Err(RecordError::Impossible));

        let mut keyless = good;
        keyless[KEY_LEN.start] = 0;
        keyless[VALUE_LEN.start] = 8;
        assert_eq!(Record::from_bytes(&keyless), Err(RecordError::EmptyKey));
    }

    #[test]
    fn a_record_without_its_value_tells_all_but_the_value() {
        let (whole, apart) = (sample(), sample().without_value());
        assert!(whole.is_whole() && !apart.is_whole());
        assert_eq!(apart, whole);
        assert_eq!(apart.to_key_only(), whole.to_key_only());
        assert_eq!((apart.bytes_len(), apart.value_len()), (whole.as_bytes().len(), 5));
        assert_eq!(format!("{apart:?}"), format!("{whole:?}"));
        let other = Record::put(Revision { main: 7, sub: 2 }, 3, 4, 8, b"key", b"value");
        assert_ne!(apart, other);
        let asks: [fn(&Record) -> usize; 2] = [|it| it.value().len(), |it| it.as_bytes().len()];
        for ask in asks {
            let asked = std::panic::catch_unwind(|| ask(&apart));
            assert!(asked.is_err(), "a value that is not here is not an empty one");
        }
        assert_eq!(
            Record::from_bytes(&apart.0).map(drop),
            Err(RecordError::Length { claimed: 56, actual: 51 })
        );
    }

    #[test]
    fn records_are_ordered_by_revision() {
        let at = |main, sub| Record::put(Revision { main, sub }, 1, 1, 0, b"k", b"");
        assert!(at(2, 9) < at(3, 0));
        assert!(at(3, 0) < at(3, 1));
    }
}
