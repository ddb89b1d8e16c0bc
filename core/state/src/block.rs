//! Consecutive records packed into one checksummed value.
//!
//! A store that writes each revision under its own key pays its price per insert, and sled's is
//! high: one insert costs more than everything else a write does. Revisions only ever grow, so the
//! backend keeps a *block* of some tens of them as one value under the revision of its first record.
//! A block is written once; only compaction replaces it, by a smaller one.
//!
//! Layout, integers little endian:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 1 | version, 1 |
//! | 1 | 1 | compression of the records: 0 none, 1 lz4 block |
//! | 2 | 2 | zero |
//! | 4 | 4 | `count` of records, at least 1 |
//! | 8 | 12 | revision of the first record: main 8, sub 4 |
//! | 20 | 12 | revision of the last record: main 8, sub 4 |
//! | 32 | 4 | `raw_len`, bytes of the records |
//! | 36 | 4 | `stored_len`, bytes of the records as stored |
//! | 40 | 4 × `count` | where each record ends, counted from the first record's start |
//! | … | `stored_len` | the records, one after the other |
//! | … | 4 | CRC32C of everything before |
//!
//! The offset table stands outside the compressed part: how many records there are and how long each
//! is can be told without unpacking, and one is found without making its neighbours ([`Block::find`]).
//! Compression is left off where it does not help.

use std::cmp::Ordering;
use std::ops::Range;

use thiserror::Error;

use crate::record::{self, Record, RecordError, Revision};

/// Version written, and the only one read.
pub const BLOCK_VERSION: u8 = 1;

const HEADER_BYTES: usize = 40;
const CRC_BYTES: usize = 4;
const COMPRESSION_NONE: u8 = 0;
const COMPRESSION_LZ4: u8 = 1;

/// An lz4 block cannot grow more than this when unpacked; bounds what a damaged length can ask for.
const LZ4_RATIO_MAX: usize = 255;

const COUNT: Range<usize> = 4..8;
const FIRST: Range<usize> = 8..20;
const LAST: Range<usize> = 20..32;
const RAW_LEN: Range<usize> = 32..36;
const STORED_LEN: Range<usize> = 36..40;

/// Why some bytes are not a block.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum BlockError {
    /// Its lengths do not add up to the bytes given.
    #[error("block of {0} bytes is cut short or overlong")]
    Length(usize),
    /// The checksum does not match.
    #[error("block checksum is {actual:#010x}, not {expected:#010x}")]
    Checksum {
        /// As stored.
        expected: u32,
        /// Of the bytes found.
        actual: u32,
    },
    /// Written by another version.
    #[error("block version {0} is not {BLOCK_VERSION}")]
    Version(u8),
    /// A compression this version does not know.
    #[error("block compression {0} is unknown")]
    Compression(u8),
    /// The compressed part does not unpack to what the header says.
    #[error("block does not unpack")]
    Unpack,
    /// A record in it is malformed.
    #[error("block holds a bad record: {0}")]
    Record(#[from] RecordError),
    /// Its records are not in revision order or not those the header names.
    #[error("block holds records out of order at {0}")]
    Order(Revision),
}

/// Packs records into a block.
///
/// # Panics
/// If there are none, if they are not in revision order, or if they exceed 4 GiB: blocks are cut
/// long before.
#[must_use]
pub fn encode(records: &[Record]) -> Vec<u8> {
    let (Some(first), Some(last)) = (records.first(), records.last()) else {
        panic!("a block holds at least one record");
    };
    let raw_bytes: usize = records.iter().map(Record::bytes_len).sum();
    let mut raw = Vec::with_capacity(raw_bytes);
    let mut ends = Vec::with_capacity(records.len() * 4);
    let mut previous: Option<Revision> = None;
    for record in records {
        let revision = record.revision();
        assert!(previous.is_none_or(|it| it < revision), "block out of order at {revision}");
        previous = Some(revision);
        record.put_into(&mut raw);
        ends.extend_from_slice(&length_u32(raw.len()).to_le_bytes());
    }

    let packed = lz4_flex::block::compress(&raw);
    let (compression, stored) = if packed.len() < raw.len() {
        (COMPRESSION_LZ4, &packed)
    } else {
        (COMPRESSION_NONE, &raw)
    };

    let mut block = Vec::with_capacity(HEADER_BYTES + ends.len() + stored.len() + CRC_BYTES);
    block.extend_from_slice(&[BLOCK_VERSION, compression, 0, 0]);
    block.extend_from_slice(&length_u32(records.len()).to_le_bytes());
    for revision in [first.revision(), last.revision()] {
        block.extend_from_slice(&revision.main.to_le_bytes());
        block.extend_from_slice(&revision.sub.to_le_bytes());
    }
    block.extend_from_slice(&length_u32(raw.len()).to_le_bytes());
    block.extend_from_slice(&length_u32(stored.len()).to_le_bytes());
    block.extend_from_slice(&ends);
    block.extend_from_slice(stored);
    let crc = crc32c::crc32c(&block);
    block.extend_from_slice(&crc.to_le_bytes());
    block
}

/// A block found whole, its records not made yet: who wants one does not pay for its neighbours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The records as they lie on disk.
    raw: Vec<u8>,
    /// Where each ends.
    ends: Vec<u32>,
    first: Revision,
    last: Revision,
}

impl Block {
    /// Checks a block and unpacks it.
    ///
    /// # Errors
    /// [`BlockError`] for anything [`encode`] would not have written, but for what only
    /// [`Block::records`] finds: a bad record, and records out of order within.
    pub fn open(block: &[u8]) -> Result<Self, BlockError> {
        if block.len() < HEADER_BYTES + CRC_BYTES {
            return Err(BlockError::Length(block.len()));
        }
        let (body, crc) = block.split_at(block.len() - CRC_BYTES);
        let expected = u32_at(crc, 0..CRC_BYTES);
        let actual = crc32c::crc32c(body);
        if expected != actual {
            return Err(BlockError::Checksum { expected, actual });
        }
        if body[0] != BLOCK_VERSION {
            return Err(BlockError::Version(body[0]));
        }
        let [count, raw_len, stored_len] =
            [COUNT, RAW_LEN, STORED_LEN].map(|field| u32_at(body, field) as usize);
        // Compared without adding up, which a 32-bit machine could not.
        let rest = body.len() - HEADER_BYTES;
        if count == 0 || count > rest / 4 || rest - count * 4 != stored_len || body[2..4] != [0, 0]
        {
            return Err(BlockError::Length(block.len()));
        }
        let (ends, stored) = body[HEADER_BYTES..].split_at(count * 4);

        let raw = match body[1] {
            COMPRESSION_NONE => stored.to_vec(),
            COMPRESSION_LZ4 => unpack(stored, raw_len).ok_or(BlockError::Unpack)?,
            other => return Err(BlockError::Compression(other)),
        };
        if raw.len() != raw_len {
            return Err(BlockError::Unpack);
        }

        let ends: Vec<u32> = ends.chunks_exact(4).map(|end| u32_at(end, 0..4)).collect();
        let mut start = 0;
        for end in &ends {
            let end = *end as usize;
            if end < start || end > raw.len() {
                return Err(BlockError::Length(block.len()));
            }
            if end - start < record::HEADER_BYTES {
                return Err(RecordError::Short(end - start).into());
            }
            start = end;
        }
        if start != raw.len() {
            return Err(BlockError::Length(block.len()));
        }
        let [first, last] = [FIRST, LAST].map(|field| revision_at(body, field));
        let block = Self { raw, ends, first, last };
        let held = [block.revision(0), block.revision(count - 1)];
        if [first, last] == held { Ok(block) } else { Err(BlockError::Order(held[0])) }
    }

    /// Revision of the first record.
    #[must_use]
    pub fn first(&self) -> Revision {
        self.first
    }

    fn bytes(&self, index: usize) -> &[u8] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.raw[start as usize..self.ends[index] as usize]
    }

    fn revision(&self, index: usize) -> Revision {
        revision_at(self.bytes(index), record::REVISION)
    }

    /// The record of a revision, alone; `None` if there is none.
    ///
    /// # Errors
    /// [`BlockError::Record`] if it is malformed.
    pub fn find(&self, revision: Revision) -> Result<Option<Record>, BlockError> {
        if !(self.first..=self.last).contains(&revision) {
            return Ok(None);
        }
        let (mut low, mut high) = (0, self.ends.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.revision(middle).cmp(&revision) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Ok(Some(Record::from_bytes(self.bytes(middle))?)),
            }
        }
        Ok(None)
    }

    /// All records.
    ///
    /// # Errors
    /// [`BlockError`] if one is malformed or out of order.
    pub fn records(&self) -> Result<Vec<Record>, BlockError> {
        let mut records = Vec::with_capacity(self.ends.len());
        let mut previous: Option<Revision> = None;
        for index in 0..self.ends.len() {
            let record = Record::from_bytes(self.bytes(index))?;
            let revision = record.revision();
            if previous.is_some_and(|it| it >= revision) {
                return Err(BlockError::Order(revision));
            }
            previous = Some(revision);
            records.push(record);
        }
        Ok(records)
    }
}

/// Unpacks a block whole.
///
/// # Errors
/// [`BlockError`] for anything [`encode`] would not have written.
pub fn decode(block: &[u8]) -> Result<Vec<Record>, BlockError> {
    Block::open(block)?.records()
}

/// Unpacks an lz4 block of known raw length; `None` if it is anything else.
pub(crate) fn unpack(stored: &[u8], raw_len: usize) -> Option<Vec<u8>> {
    if raw_len / LZ4_RATIO_MAX > stored.len() {
        return None;
    }
    let raw = lz4_flex::block::decompress(stored, raw_len).ok()?;
    (raw.len() == raw_len).then_some(raw)
}

fn length_u32(length: usize) -> u32 {
    u32::try_from(length).expect("blocks are cut long before 4 GiB")
}

fn u32_at(bytes: &[u8], field: Range<usize>) -> u32 {
    u32::from_le_bytes(bytes[field].try_into().expect("a field of four bytes"))
}

fn revision_at(bytes: &[u8], field: Range<usize>) -> Revision {
    let (main, sub) = bytes[field].split_at(8);
    Revision {
        main: i64::from_le_bytes(main.try_into().expect("eight bytes")),
        sub: u32::from_le_bytes(sub.try_into().expect("four bytes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::from_hex;

    fn sample() -> Vec<Record> {
        let at = |main, sub| Revision { main, sub };
        vec![
            Record::put(at(2, 0), 2, 1, 0, b"a", b"one"),
            Record::put(at(3, 0), 3, 1, 7, b"b", &[b'x'; 200]),
            Record::tombstone(at(3, 1), b"a"),
        ]
    }

    #[test]
    fn a_block_gives_back_its_records() {
        assert_eq!(decode(&encode(&sample())), Ok(sample()));
        let incompressible = [Record::tombstone(Revision::first_of(9), b"k")];
        assert_eq!(decode(&encode(&incompressible)), Ok(incompressible.to_vec()));
    }

    #[test]
    fn one_record_is_found_without_its_neighbours() {
        let block = Block::open(&encode(&sample())).unwrap();
        assert_eq!(block.first(), sample()[0].revision());
        for record in sample() {
            assert_eq!(block.find(record.revision()), Ok(Some(record)));
        }
        for (main, sub) in [(1, 0), (2, 1), (3, 2), (4, 0)] {
            assert_eq!(block.find(Revision { main, sub }), Ok(None));
        }
    }

    #[test]
    fn version_1_can_still_be_read() {
        let tombstone = Record::tombstone(Revision::first_of(9), b"k");
        let packed = "0101000001000000090000000000000000000000090000000000000000000000\
                      310000001600000031000000260900010016010b000d02009001000000000000\
                      006bb22b1e43";
        assert_eq!(decode(&from_hex(packed)), Ok(vec![tombstone.clone()]));

        // The same without compression, as it is where that does not help.
        let plain = "0100000001000000090000000000000000000000090000000000000000000000\
                     31000000310000003100000009000000000000000000000001000000\
                     0000000000000000000000000000000000000000000000000100000000000000\
                     6b";
        let mut plain = from_hex(plain);
        plain.extend_from_slice(&crc32c::crc32c(&plain).to_le_bytes());
        assert_eq!(decode(&plain), Ok(vec![tombstone]));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = encode(&sample());
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_truncation_and_any_trailing_byte_is_noticed() {
        let good = encode(&sample());
        for length in 0..good.len() {
            assert!(decode(&good[..length]).is_err(), "length {length}");
        }
        assert!(decode(&[&good[..], &[0]].concat()).is_err());
    }

    /// Damage that comes with a matching checksum: a bug, not rot. It must not panic.
    fn resealed(change: impl Fn(&mut [u8])) -> Result<Vec<Record>, BlockError> {
        let mut block = encode(&sample());
        let body = block.len() - CRC_BYTES;
        change(&mut block[..body]);
        let crc = crc32c::crc32c(&block[..body]);
        block[body..].copy_from_slice(&crc.to_le_bytes());
        decode(&block)
    }

    #[test]
    fn lies_under_a_good_checksum_are_refused() {
        assert_eq!(resealed(|block| block[0] = 2), Err(BlockError::Version(2)));
        assert_eq!(resealed(|block| block[1] = 9), Err(BlockError::Compression(9)));
        assert!(matches!(resealed(|block| block[4] = 0), Err(BlockError::Length(_))));
        assert!(matches!(resealed(|block| block[7] = 0xff), Err(BlockError::Length(_))));
        assert_eq!(resealed(|block| block[35] = 0xff), Err(BlockError::Unpack));
        assert!(matches!(resealed(|block| block[8] = 1), Err(BlockError::Order(_))));
        assert!(matches!(resealed(|block| block[20] = 9), Err(BlockError::Order(_))));
        for at in 0..HEADER_BYTES + 12 {
            for byte in [0, 1, 0x7f, 0xff] {
                let _ = resealed(|block| block[at] = byte);
            }
        }
    }

    /// A block of one record, plain, whose bytes are changed before its checksum is made.
    fn plain(change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
        let record = Record::tombstone(Revision::first_of(9), b"k");
        let mut block = vec![BLOCK_VERSION, COMPRESSION_NONE, 0, 0, 1, 0, 0, 0];
        for _ in [FIRST, LAST] {
            block.extend_from_slice(&record.to_vec()[record::REVISION]);
        }
        for _ in [RAW_LEN, STORED_LEN, HEADER_BYTES..HEADER_BYTES + 4] {
            block.extend_from_slice(&length_u32(record.bytes_len()).to_le_bytes());
        }
        block.extend_from_slice(&record.to_vec());
        change(&mut block);
        let crc = crc32c::crc32c(&block);
        block.extend_from_slice(&crc.to_le_bytes());
        block
    }

    #[test]
    fn a_record_that_is_none_is_refused_alone_too() {
        let wanted = Revision::first_of(9);
        let good = Block::open(&plain(|_| {})).unwrap();
        assert!(good.find(wanted).unwrap().is_some());
        // An unknown flag of the record.
        let bad = Block::open(&plain(|block| block[HEADER_BYTES + 4 + 12] = 0xf0)).unwrap();
        assert_eq!(bad.find(wanted), Err(RecordError::UnknownFlags(0xf0).into()));
        // A record too short to have a revision.
        let cut = Block::open(&plain(|block| {
            block.truncate(HEADER_BYTES + 4 + 8);
            for at in [32, 36, 40] {
                block[at] = 8;
            }
        }));
        assert_eq!(cut, Err(RecordError::Short(8).into()));
    }
}
