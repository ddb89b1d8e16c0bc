//! One revision of one key: the same bytes on every disk, fewer in memory.
//!
//! A record is laid out once, when the command that makes it is applied, and from then on only its
//! reference count changes: the trees in memory and the history that watchers read hold the same
//! allocation, and a value is cut out of it for a client without copying it. What lies in a block of the
//! backend or a chunk of a snapshot has a header of fixed size, which is made and read where blocks and
//! chunks are ([`Record::put_into`], [`Record::from_bytes`]).
//!
//! Layout on disk, integers little endian:
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
//! In memory most of these numbers are small, and there are as many headers as keys: LEB128, about 10
//! bytes in all (ADR 30).
//!
//! | size | field |
//! |---|---|
//! | 1 | bits 0 to 5: length of the header, this byte included; bit 6: a tombstone; bit 7: without its value |
//! | … | `key_len`; of a record without its value `value_len` |
//! | … | `mod_main`, `mod_sub` |
//! | … | unless a tombstone: `mod_main` − `create_revision`, `version`, `lease` |
//! | … | key, then value |
//!
//! Invariant: a `Record` that exists is well formed. [`Record::from_bytes`] refuses anything else,
//! so the accessors need no error.
//!
//! Where values do not all stay in memory the trees hold records *without their value*: header and key,
//! marked as such. Whoever wants such a value asks [`crate::values::Values`] for the whole record.
//! Invariant: a record without its value never leaves memory, and its value is never taken for empty:
//! [`Record::value`] and [`Record::put_into`] of one panic.

use std::cmp::Ordering;
use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use prost::encoding::{decode_varint, encode_varint};
use proto::mvccpb::KeyValue;
use thiserror::Error;
use triomphe::{Arc, ThinArc};

/// Bytes before the key, on disk.
pub const HEADER_BYTES: usize = 48;

/// Longest key plus value a record holds. Far above any request limit; it bounds what a damaged
/// length field can ask for.
pub const KEY_VALUE_BYTES_MAX: usize = 1 << 30;

/// On disk.
const FLAG_TOMBSTONE: u32 = 1;

/// In the first byte of a record in memory.
const TOMBSTONE: u8 = 1 << 6;
/// The value lies elsewhere ([`crate::values`]).
const APART: u8 = 1 << 7;
const HEADER_LEN: u8 = TOMBSTONE - 1;
/// The first byte and the longest LEB128 each field can have: `key_len` 5, `mod_sub` 5, the
/// other four 10.
const PACKED_HEADER_BYTES_MAX: usize = 51;
const _: () = assert!(PACKED_HEADER_BYTES_MAX <= HEADER_LEN as usize);

/// What a record is made of before it is filled; longer ones begin as a buffer of their own.
static ZEROES: [u8; 4 << 10] = [0; 4 << 10];

const MOD_MAIN: Range<usize> = 0..8;
const MOD_SUB: Range<usize> = 8..12;
/// Both, on disk.
pub(crate) const REVISION: Range<usize> = 0..12;
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
pub struct Record(ThinArc<(), u8>);

/// The numbers of a record.
#[derive(Clone, Copy)]
struct Numbers {
    revision: Revision,
    is_tombstone: bool,
    create_revision: i64,
    version: i64,
    lease: i64,
}

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
        let numbers = Numbers { revision, is_tombstone: false, create_revision, version, lease };
        Self::whole(numbers, key, value)
    }

    /// The mark that `key` was deleted.
    ///
    /// # Panics
    /// If the key exceeds [`KEY_VALUE_BYTES_MAX`].
    #[must_use]
    pub fn tombstone(revision: Revision, key: &[u8]) -> Self {
        let numbers =
            Numbers { revision, is_tombstone: true, create_revision: 0, version: 0, lease: 0 };
        Self::whole(numbers, key, &[])
    }

    fn whole(numbers: Numbers, key: &[u8], value: &[u8]) -> Self {
        let key_value_bytes = key.len().saturating_add(value.len());
        assert!(key_value_bytes <= KEY_VALUE_BYTES_MAX, "record of {key_value_bytes} bytes");
        Self::pack(numbers, 0, key.len(), [key, value])
    }

    /// `length` is the one that does not follow from those of header and `content`.
    fn pack(numbers: Numbers, mark: u8, length: usize, content: [&[u8]; 2]) -> Self {
        let Numbers { revision, is_tombstone, create_revision, version, lease } = numbers;
        let mut header = [0; PACKED_HEADER_BYTES_MAX];
        let mut rest = &mut header[1..];
        let mut add = |number: u64| encode_varint(number, &mut rest);
        add(length as u64);
        add(revision.main.cast_unsigned());
        add(revision.sub.into());
        if !is_tombstone {
            add((revision.main - create_revision).cast_unsigned());
            add(version.cast_unsigned());
            add(lease.cast_unsigned());
        }
        let header_bytes = PACKED_HEADER_BYTES_MAX - rest.len();
        let header_len = u8::try_from(header_bytes).expect("it has room in six bits");
        header[0] = header_len | mark | if is_tombstone { TOMBSTONE } else { 0 };

        let bytes = header_bytes + content[0].len() + content[1].len();
        let mut packed = match ZEROES.get(..bytes) {
            Some(zeroes) => ThinArc::from_header_and_slice((), zeroes),
            None => ThinArc::from_header_and_slice((), &vec![0; bytes]),
        };
        packed.with_arc_mut(|packed| {
            let to = Arc::get_mut(packed).expect("not shared yet").slice_mut();
            let (header_at, to) = to.split_at_mut(header_bytes);
            let (first_at, second_at) = to.split_at_mut(content[0].len());
            header_at.copy_from_slice(&header[..header_bytes]);
            first_at.copy_from_slice(content[0]);
            second_at.copy_from_slice(content[1]);
        });
        Self(packed)
    }

    /// Reads a record back. `bytes` must be exactly one record.
    ///
    /// # Errors
    /// [`RecordError`] for anything [`Record::put`] or [`Record::tombstone`] would not have made.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RecordError> {
        Self::verify(bytes)?;
        let numbers = Numbers {
            revision: Revision { main: i64_at(bytes, MOD_MAIN), sub: u32_at(bytes, MOD_SUB) },
            is_tombstone: u32_at(bytes, FLAGS) & FLAG_TOMBSTONE != 0,
            create_revision: i64_at(bytes, CREATE_REVISION),
            version: i64_at(bytes, VERSION),
            lease: i64_at(bytes, LEASE),
        };
        let key_len = u32_at(bytes, KEY_LEN) as usize;
        Ok(Self::pack(numbers, 0, key_len, [&bytes[HEADER_BYTES..], &[]]))
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

    /// Appends the whole record as it lies in a block or a snapshot.
    ///
    /// # Panics
    /// If the record is without its value.
    pub fn put_into(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.disk_header());
        to.extend_from_slice(self.key_and_value());
    }

    /// The whole record as [`Record::put_into`] appends it.
    ///
    /// # Panics
    /// If the record is without its value.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.bytes_len());
        self.put_into(&mut bytes);
        bytes
    }

    /// What lies on a disk before the key.
    pub(crate) fn disk_header(&self) -> [u8; HEADER_BYTES] {
        let Numbers { revision, is_tombstone, create_revision, version, lease } = self.numbers();
        let flags = if is_tombstone { FLAG_TOMBSTONE } else { 0 };
        let length = |bytes: usize| u32::try_from(bytes).expect("bounded when it was made");
        let mut header = [0; HEADER_BYTES];
        header[MOD_MAIN].copy_from_slice(&revision.main.to_le_bytes());
        header[MOD_SUB].copy_from_slice(&revision.sub.to_le_bytes());
        header[FLAGS].copy_from_slice(&flags.to_le_bytes());
        header[CREATE_REVISION].copy_from_slice(&create_revision.to_le_bytes());
        header[VERSION].copy_from_slice(&version.to_le_bytes());
        header[LEASE].copy_from_slice(&lease.to_le_bytes());
        header[KEY_LEN].copy_from_slice(&length(self.key().len()).to_le_bytes());
        header[VALUE_LEN].copy_from_slice(&length(self.value_len()).to_le_bytes());
        header
    }

    /// What lies behind the header, on a disk and in memory.
    ///
    /// # Panics
    /// If the record is without its value.
    pub(crate) fn key_and_value(&self) -> &[u8] {
        assert!(self.is_whole(), "record {} is without its value", self.revision());
        &self.packed()[self.key_start()..]
    }

    /// Bytes of the whole record on a disk, whether or not the value is here.
    #[must_use]
    pub fn bytes_len(&self) -> usize {
        HEADER_BYTES + self.key().len() + self.value_len()
    }

    /// Whether the value is here.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.packed()[0] & APART == 0
    }

    /// The same record without its value, in memory of its own.
    #[must_use]
    pub(crate) fn without_value(&self) -> Self {
        Self::pack(self.numbers(), APART, self.value_len(), [self.key(), &[]])
    }

    /// How many places share the bytes.
    pub(crate) fn shares(&self) -> usize {
        ThinArc::strong_count(&self.0)
    }

    fn packed(&self) -> &[u8] {
        &self.0.slice
    }

    fn key_start(&self) -> usize {
        (self.packed()[0] & HEADER_LEN).into()
    }

    /// The length in the header, and what follows it there.
    fn length_and_rest(&self) -> (usize, &[u8]) {
        let mut rest = &self.packed()[1..self.key_start()];
        let length = next_number(&mut rest);
        (usize::try_from(length).expect("bounded when it was made"), rest)
    }

    fn numbers(&self) -> Numbers {
        let (_, mut rest) = self.length_and_rest();
        let revision = next_revision(&mut rest);
        let mut next = || next_number(&mut rest).cast_signed();
        let is_tombstone = self.is_tombstone();
        let [create_revision, version, lease] =
            if is_tombstone { [0; 3] } else { [revision.main - next(), next(), next()] };
        Numbers { revision, is_tombstone, create_revision, version, lease }
    }

    /// When the change happened.
    #[must_use]
    pub fn revision(&self) -> Revision {
        next_revision(&mut self.length_and_rest().1)
    }

    /// Revision of the transaction that made the record: etcd's `mod_revision`.
    #[must_use]
    pub fn mod_revision(&self) -> i64 {
        next_number(&mut self.length_and_rest().1).cast_signed()
    }

    /// Whether the record says that the key was deleted.
    #[must_use]
    pub fn is_tombstone(&self) -> bool {
        self.packed()[0] & TOMBSTONE != 0
    }

    /// Revision at which the key came into being; 0 in a tombstone.
    #[must_use]
    pub fn create_revision(&self) -> i64 {
        self.numbers().create_revision
    }

    /// Changes since creation, 1 for a fresh key; 0 in a tombstone.
    #[must_use]
    pub fn version(&self) -> i64 {
        self.numbers().version
    }

    /// The lease the key is attached to; 0 for none.
    #[must_use]
    pub fn lease(&self) -> i64 {
        self.numbers().lease
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.packed()[self.key_start()..self.value_start()]
    }

    /// The value; empty in a tombstone.
    ///
    /// # Panics
    /// If the record is without its value.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        assert!(self.is_whole(), "record {} is without its value", self.revision());
        &self.packed()[self.value_start()..]
    }

    /// Length of the value, whether or not it is here.
    #[must_use]
    pub fn value_len(&self) -> usize {
        if self.is_whole() {
            self.packed().len() - self.value_start()
        } else {
            self.length_and_rest().0
        }
    }

    fn value_start(&self) -> usize {
        if self.is_whole() {
            self.key_start() + self.length_and_rest().0
        } else {
            self.packed().len()
        }
    }

    /// The key as a buffer that shares the record's memory.
    #[must_use]
    pub fn key_bytes(&self) -> Bytes {
        Bytes::from_owner(self.clone()).slice(self.key_start()..self.value_start())
    }

    /// The key as a client sees it. Key and value share the record's memory. A tombstone carries
    /// the key and `mod_revision` only, as a DELETE event does.
    ///
    /// # Panics
    /// If the record is without its value.
    #[must_use]
    pub fn to_key_value(&self) -> KeyValue {
        assert!(self.is_whole(), "record {} is without its value", self.revision());
        let Numbers { revision, create_revision, version, lease, .. } = self.numbers();
        let whole = Bytes::from_owner(self.clone());
        KeyValue {
            key: whole.slice(self.key_start()..self.value_start()),
            create_revision,
            mod_revision: revision.main,
            version,
            value: whole.slice(self.value_start()..),
            lease,
        }
    }

    /// [`Record::to_key_value`] without the value. The key is copied, so that a list of keys held
    /// by a slow client does not hold the values.
    #[must_use]
    pub fn to_key_only(&self) -> KeyValue {
        let Numbers { revision, create_revision, version, lease, .. } = self.numbers();
        KeyValue {
            key: Bytes::copy_from_slice(self.key()),
            create_revision,
            mod_revision: revision.main,
            version,
            value: Bytes::new(),
            lease,
        }
    }
}

impl AsRef<[u8]> for Record {
    /// As it lies in memory.
    fn as_ref(&self) -> &[u8] {
        self.packed()
    }
}

impl PartialEq for Record {
    /// Of a record without its value everything else is compared.
    fn eq(&self, other: &Self) -> bool {
        if self.is_whole() == other.is_whole() {
            return self.packed() == other.packed();
        }
        self.disk_header() == other.disk_header() && self.key() == other.key()
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
        self.revision().cmp(&other.revision()).then_with(|| self.packed().cmp(other.packed()))
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

/// Takes the revision off the header of a record, whose length has been taken.
fn next_revision(rest: &mut &[u8]) -> Revision {
    let main = next_number(rest).cast_signed();
    let sub = u32::try_from(next_number(rest)).expect("made from as many bits");
    Revision { main, sub }
}

/// Takes the first number off the header of a record.
fn next_number(rest: &mut &[u8]) -> u64 {
    decode_varint(rest).expect("as it was packed")
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
        let record = Record::from_bytes(&sample().to_vec()).unwrap();
        assert_eq!(record, sample());
        assert_eq!(record.revision(), Revision { main: 7, sub: 2 });
        assert_eq!((record.create_revision(), record.version(), record.lease()), (3, 4, 9));
        assert_eq!((record.key(), record.value()), (&b"key"[..], &b"value"[..]));
        assert!(!record.is_tombstone());
    }

    #[test]
    fn the_layout_on_disk_is_pinned() {
        let hex: String = sample().to_vec().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "0700000000000000020000000000000003000000000000000400000000000000\
             09000000000000000300000005000000\
             6b657976616c7565"
        );
        let hex: String = Record::tombstone(Revision { main: 8, sub: 0 }, b"k")
            .to_vec()
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
        assert_eq!(Record::from_bytes(&record.to_vec()), Ok(record.clone()));
        let expected = KeyValue { key: "gone".into(), mod_revision: 8, ..KeyValue::default() };
        assert_eq!(record.to_key_value(), expected);
    }

    #[test]
    fn damaged_bytes_are_refused() {
        let good = sample().to_vec();
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
        assert_eq!((apart.bytes_len(), apart.value_len()), (whole.to_vec().len(), 5));
        assert_eq!(format!("{apart:?}"), format!("{whole:?}"));
        let other = Record::put(Revision { main: 7, sub: 2 }, 3, 4, 8, b"key", b"value");
        assert_ne!(apart, other);
        let asks: [fn(&Record) -> usize; 2] = [|it| it.value().len(), |it| it.to_vec().len()];
        for ask in asks {
            let asked = std::panic::catch_unwind(|| ask(&apart));
            assert!(asked.is_err(), "a value that is not here is not an empty one");
        }
    }

    #[test]
    fn small_numbers_make_a_short_header_and_large_ones_find_room() {
        let usual = Record::put(Revision::first_of(1_000_000), 999_999, 1, 0, b"key", &[7; 256]);
        assert_eq!(usual.as_ref().len(), 9 + 3 + 256);
        assert_eq!(usual.without_value().as_ref().len(), 10 + 3);

        let main = i64::MAX;
        let revision = Revision { main, sub: u32::MAX };
        let value = vec![7; ZEROES.len()];
        for lease in [i64::MAX, i64::MIN, -1] {
            let extreme = Record::put(revision, 1, i64::MAX, lease, &value, &value);
            for seen in [&extreme, &extreme.without_value()] {
                assert_eq!((seen.revision(), seen.create_revision()), (revision, 1));
                assert_eq!((seen.version(), seen.lease()), (i64::MAX, lease));
                assert_eq!((seen.key(), seen.value_len()), (&value[..], value.len()));
            }
            assert_eq!(extreme.value(), value);
            assert_eq!(Record::from_bytes(&extreme.to_vec()), Ok(extreme));
        }
        let tombstone = Record::tombstone(revision, &value);
        assert_eq!(Record::from_bytes(&tombstone.to_vec()), Ok(tombstone.clone()));
        assert_eq!((tombstone.revision(), tombstone.lease()), (revision, 0));
    }

    #[test]
    fn records_are_ordered_by_revision() {
        let at = |main, sub| Record::put(Revision { main, sub }, 1, 1, 0, b"k", b"");
        assert!(at(2, 9) < at(3, 0));
        assert!(at(3, 0) < at(3, 1));
    }
}
