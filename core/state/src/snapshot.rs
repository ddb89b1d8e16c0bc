//! The whole state as a sequence of chunks.
//!
//! A snapshot is taken often and changes little, so it is cut where its *content* says, not where the
//! count of bytes happens to stand: most chunks of the next snapshot, also after a compaction, are
//! byte for byte those of the last, and whoever keeps chunks by hash stores and sends only the rest.
//! For the same reason a chunk says nothing of its place; the manifest gives the order, and the last
//! chunk holds a checksum over the sequence.
//!
//! Order: one *head*, then *rows* by table and key, then *records* by revision, then one *end*.
//!
//! A chunk, integers little endian:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | magic `MSCH` |
//! | 4 | 1 | version, 1 |
//! | 5 | 1 | kind: 1 head, 2 rows, 3 records, 4 end |
//! | 6 | 2 | zero |
//! | 8 | 4 | `count` of rows or records; 1 in head and end |
//! | 12 | 4 | `body_len` |
//! | 16 | … | body |
//! | … | 4 | CRC32C of everything before |
//!
//! Bodies: *head* is an [`Applied`]; *rows* is, for each, table u8, key length u32, value length u32,
//! key, value; *records* are records one after the other; *end* is the number of chunks before it,
//! of rows and of records, each u64, and the CRC32C over the CRC32Cs of all chunks before it.
//!
//! Chunks are not compressed here: they are named by the hash of these bytes, and each way they take
//! (file, wire, portable file) compresses as it likes.

use bytes::Bytes;
use thiserror::Error;

use crate::parts::{APPLIED_BYTES, Applied, AppliedError, Row, StateParts, Table};
use crate::record::{Record, RecordError, Revision};
use crate::view::View;

/// Version written, and the only one read.
pub const CHUNK_VERSION: u8 = 1;

/// A chunk is never cut before it has this many bytes, unless a large record follows.
pub const CHUNK_BYTES_MIN: usize = 128 << 10;

/// A body has at most this many bytes, unless it is a single larger record or row.
pub const CHUNK_BYTES_MAX: usize = 1 << 20;

/// Beyond the least, a chunk gathers this many bytes on average before its content cuts it.
const CUT_EVERY_BYTES: u32 = 384 << 10;

const MAGIC: &[u8; 4] = b"MSCH";
const HEADER_BYTES: usize = 16;
const CRC_BYTES: usize = 4;
const ROW_HEADER_BYTES: usize = 9;
const END_BYTES: usize = 28;

/// What a chunk is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Head = 1,
    Rows = 2,
    Records = 3,
    End = 4,
}

impl Kind {
    fn from_number(number: u8) -> Option<Self> {
        [Self::Head, Self::Rows, Self::Records, Self::End]
            .into_iter()
            .find(|kind| *kind as u8 == number)
    }
}

/// Why chunks do not make a state.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SnapshotError {
    /// A chunk's lengths do not add up.
    #[error("snapshot chunk {chunk} of {bytes} bytes is cut short or overlong")]
    Length {
        /// Its place in the sequence, from 0.
        chunk: u64,
        /// Bytes given.
        bytes: usize,
    },
    /// A chunk's checksum does not match, or it is no chunk at all.
    #[error("snapshot chunk {0} is damaged")]
    Checksum(u64),
    /// Written by another version.
    #[error("snapshot chunk {chunk} has version {version}, not {CHUNK_VERSION}")]
    Version {
        /// Its place in the sequence.
        chunk: u64,
        /// Its version.
        version: u8,
    },
    /// Chunks are missing, doubled or in the wrong order.
    #[error("snapshot chunk {0} is out of place")]
    OutOfPlace(u64),
    /// The sequence ends without its end.
    #[error("snapshot ends after {0} chunks without its end")]
    Unfinished(u64),
    /// The end counts something else than was found.
    #[error("snapshot chunks are not those its end names")]
    Sequence,
    /// The head cannot be read.
    #[error("snapshot head: {0}")]
    Head(#[from] AppliedError),
    /// A record is malformed.
    #[error("snapshot holds a bad record: {0}")]
    Record(#[from] RecordError),
    /// Records not in order, or above the snapshot's revision.
    #[error("snapshot holds record {0} out of order")]
    RecordOrder(Revision),
    /// A row of a table this version does not know.
    #[error("snapshot holds a row of unknown table {0}")]
    UnknownTable(u8),
    /// Rows not in order.
    #[error("snapshot holds rows of table {0} out of order")]
    RowOrder(Table),
}

/// The chunks of a state, made one by one as they are asked for.
pub fn chunks(view: &View) -> impl Iterator<Item = Bytes> {
    Chunks::new(view.applied(), view.rows(), view.whole_records())
}

/// As [`chunks`], without what is of no use to another cluster: the plan of timing.
pub(crate) fn chunks_for_others(view: &View) -> impl Iterator<Item = Bytes> + use<'_> {
    let mut rows = view.rows();
    rows.retain(|row| row.table != Table::Tuning);
    Chunks::new(view.applied(), rows, view.whole_records())
}

/// As [`chunks`], for a state taken apart.
pub fn chunks_of_parts(parts: &StateParts) -> impl Iterator<Item = Bytes> {
    Chunks::new(parts.applied, parts.rows.clone(), parts.records.iter().cloned())
}

/// The hash of a sequence of chunks after one more; 0 before the first. Over the CRC32Cs the chunks
/// end with: a CRC over a chunk with its own CRC would not depend on what is in it.
#[must_use]
pub fn chain(before: u32, chunk: &[u8]) -> u32 {
    let crc = chunk.last_chunk::<CRC_BYTES>().map_or(&[][..], |crc| crc);
    crc32c::crc32c_append(before, crc)
}

/// Writes chunks lazily.
struct Chunks<I: Iterator<Item = Record>> {
    applied: Applied,
    rows: std::vec::IntoIter<Row>,
    next_row: Option<Vec<u8>>,
    records: I,
    next_record: Option<Record>,
    /// The kind to write next; `None` when the end is written.
    stage: Option<Kind>,
    totals: Totals,
}

/// What the end says of all before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    chunks: u64,
    rows: u64,
    records: u64,
    chain: u32,
}

impl Totals {
    fn add_chunk(&mut self, crc: [u8; 4]) {
        self.chunks += 1;
        self.chain = chain(self.chain, &crc);
    }

    fn encode(&self) -> [u8; END_BYTES] {
        let mut bytes = [0; END_BYTES];
        for (index, number) in [self.chunks, self.rows, self.records].into_iter().enumerate() {
            bytes[index * 8..index * 8 + 8].copy_from_slice(&number.to_le_bytes());
        }
        bytes[24..].copy_from_slice(&self.chain.to_le_bytes());
        bytes
    }
}

impl<I: Iterator<Item = Record>> Chunks<I> {
    fn new(applied: Applied, rows: Vec<Row>, records: I) -> Self {
        Self {
            applied,
            rows: rows.into_iter(),
            next_row: None,
            records,
            next_record: None,
            stage: Some(Kind::Head),
            totals: Totals::default(),
        }
    }

    fn head(&mut self) -> Bytes {
        self.stage = Some(Kind::Rows);
        let mut chunk = Body::new(Kind::Head);
        chunk.push(&self.applied.encode());
        self.close(chunk)
    }

    fn rows(&mut self) -> Option<Bytes> {
        let mut body = Body::new(Kind::Rows);
        loop {
            let Some(row) = self.next_row.take().or_else(|| self.rows.next().map(encode_row))
            else {
                self.stage = Some(Kind::Records);
                break;
            };
            if !body.takes(row.len()) {
                self.next_row = Some(row);
                break;
            }
            self.totals.rows += 1;
            // A row's value may change where it stands: its key decides.
            let key_len = u32::from_le_bytes(row[1..5].try_into().expect("four bytes")) as usize;
            let cut = cuts(&row[ROW_HEADER_BYTES..][..key_len], row.len());
            body.push(&row);
            if body.is_full() || cut && body.may_be_cut() {
                break;
            }
        }
        (body.count() > 0).then(|| self.close(body))
    }

    fn records(&mut self) -> Option<Bytes> {
        let mut body = Body::new(Kind::Records);
        loop {
            let Some(record) = self.next_record.take().or_else(|| self.records.next()) else {
                self.stage = Some(Kind::End);
                break;
            };
            let bytes = record.bytes_len();
            if !body.takes(bytes) {
                self.next_record = Some(record);
                break;
            }
            self.totals.records += 1;
            body.push_record(&record);
            // The first twelve bytes are the revision, which names the record for ever.
            if body.is_full() || cuts(&record.disk_header()[..12], bytes) && body.may_be_cut() {
                break;
            }
        }
        (body.count() > 0).then(|| self.close(body))
    }

    fn end(&mut self) -> Bytes {
        self.stage = None;
        let mut body = Body::new(Kind::End);
        body.push(&self.totals.encode());
        self.close(body)
    }

    fn close(&mut self, body: Body) -> Bytes {
        let (chunk, crc) = body.finish();
        self.totals.add_chunk(crc);
        chunk
    }
}

impl<I: Iterator<Item = Record>> Iterator for Chunks<I> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        loop {
            let chunk = match self.stage? {
                Kind::Head => Some(self.head()),
                Kind::Rows => self.rows(),
                Kind::Records => self.records(),
                Kind::End => Some(self.end()),
            };
            if chunk.is_some() {
                return chunk;
            }
        }
    }
}

/// Whether content named by `name` ends a chunk: one byte in [`CUT_EVERY_BYTES`] does, so large
/// pieces do more often than small ones.
fn cuts(name: &[u8], bytes: usize) -> bool {
    let threshold = u32::try_from(bytes).unwrap_or(u32::MAX).min(CUT_EVERY_BYTES);
    crc32c::crc32c(name) % CUT_EVERY_BYTES < threshold
}

fn encode_row(row: Row) -> Vec<u8> {
    let Row { table, key, value } = row;
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("rows are small").to_le_bytes();
    let mut bytes = Vec::with_capacity(ROW_HEADER_BYTES + key.len() + value.len());
    bytes.push(table.number());
    bytes.extend_from_slice(&length(&key));
    bytes.extend_from_slice(&length(&value));
    bytes.extend_from_slice(&key);
    bytes.extend_from_slice(&value);
    bytes
}

/// A chunk being written.
struct Body {
    chunk: Vec<u8>,
    count: u32,
}

impl Body {
    fn new(kind: Kind) -> Self {
        let mut chunk = Vec::new();
        chunk.extend_from_slice(MAGIC);
        chunk.extend_from_slice(&[CHUNK_VERSION, kind as u8, 0, 0]);
        chunk.extend_from_slice(&[0; 8]);
        Self { chunk, count: 0 }
    }

    fn len(&self) -> usize {
        self.chunk.len() - HEADER_BYTES
    }

    fn count(&self) -> u32 {
        self.count
    }

    /// Whether a piece of this length still belongs here. A large one gets a chunk of its own.
    fn takes(&self, bytes: usize) -> bool {
        self.count == 0 || self.len() + bytes <= CHUNK_BYTES_MAX
    }

    fn push(&mut self, bytes: &[u8]) {
        self.count += 1;
        self.chunk.extend_from_slice(bytes);
    }

    fn push_record(&mut self, record: &Record) {
        self.count += 1;
        record.put_into(&mut self.chunk);
    }

    fn may_be_cut(&self) -> bool {
        self.len() >= CHUNK_BYTES_MIN
    }

    fn is_full(&self) -> bool {
        self.len() >= CHUNK_BYTES_MAX
    }

    fn finish(mut self) -> (Bytes, [u8; CRC_BYTES]) {
        let body_len = u32::try_from(self.len()).expect("a record is at most 1 GiB");
        self.chunk[8..12].copy_from_slice(&self.count.to_le_bytes());
        self.chunk[12..16].copy_from_slice(&body_len.to_le_bytes());
        let crc = crc32c::crc32c(&self.chunk).to_le_bytes();
        self.chunk.extend_from_slice(&crc);
        (Bytes::from(self.chunk), crc)
    }
}

/// Puts a state together from all its chunks, in order.
///
/// # Errors
/// [`SnapshotError`] for anything but exactly the chunks of one snapshot.
pub fn restore<C: AsRef<[u8]>>(
    chunks: impl IntoIterator<Item = C>,
) -> Result<StateParts, SnapshotError> {
    let mut restore = Restore::new();
    for chunk in chunks {
        restore.push(chunk.as_ref())?;
    }
    restore.finish()
}

/// As [`restore`], chunk by chunk.
#[derive(Debug)]
pub struct Restore {
    parts: StateParts,
    totals: Totals,
    /// Kind of the chunk before.
    last: Option<Kind>,
}

impl Default for Restore {
    fn default() -> Self {
        Self::new()
    }
}

impl Restore {
    /// Waits for the first chunk.
    #[must_use]
    pub fn new() -> Self {
        Self { parts: StateParts::default(), totals: Totals::default(), last: None }
    }

    /// Takes the next chunk.
    ///
    /// # Errors
    /// [`SnapshotError`]; the restore is then of no further use.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), SnapshotError> {
        let place = self.totals.chunks;
        let length = SnapshotError::Length { chunk: place, bytes: chunk.len() };
        if chunk.len() < HEADER_BYTES + CRC_BYTES {
            return Err(length);
        }
        let (content, crc) = chunk.split_at(chunk.len() - CRC_BYTES);
        let crc: [u8; CRC_BYTES] = crc.try_into().expect("cut to this length");
        if crc32c::crc32c(content).to_le_bytes() != crc || content[..4] != MAGIC[..] {
            return Err(SnapshotError::Checksum(place));
        }
        if content[4] != CHUNK_VERSION {
            return Err(SnapshotError::Version { chunk: place, version: content[4] });
        }
        let (header, body) = content.split_at(HEADER_BYTES);
        let count = u32::from_le_bytes(header[8..12].try_into().expect("four bytes"));
        let body_len = u32::from_le_bytes(header[12..16].try_into().expect("four bytes"));
        if body_len as usize != body.len() || header[6..8] != [0, 0] {
            return Err(length);
        }
        let kind = Kind::from_number(header[5]).ok_or(SnapshotError::OutOfPlace(place))?;
        let fits = match self.last {
            None => kind == Kind::Head,
            Some(Kind::End) => false,
            Some(last) => kind != Kind::Head && kind >= last,
        };
        if !fits {
            return Err(SnapshotError::OutOfPlace(place));
        }
        let found = match kind {
            Kind::Head => {
                self.parts.applied = Applied::decode(body)?;
                1
            }
            Kind::Rows => self.take_rows(body)?,
            Kind::Records => self.take_records(body)?,
            Kind::End if body == self.totals.encode() => 1,
            Kind::End => return Err(SnapshotError::Sequence),
        };
        if found != u64::from(count) {
            return Err(length);
        }
        self.last = Some(kind);
        self.totals.add_chunk(crc);
        Ok(())
    }

    /// The state, once its end has been pushed.
    ///
    /// # Errors
    /// [`SnapshotError::Unfinished`].
    pub fn finish(self) -> Result<StateParts, SnapshotError> {
        match self.last {
            Some(Kind::End) => Ok(self.parts),
            _ => Err(SnapshotError::Unfinished(self.totals.chunks)),
        }
    }

    /// Position of the state, known from the first chunk on.
    #[must_use]
    pub fn applied(&self) -> &Applied {
        &self.parts.applied
    }

    fn take_rows(&mut self, body: &[u8]) -> Result<u64, SnapshotError> {
        let length =
            SnapshotError::Length { chunk: self.totals.chunks, bytes: body.len() + HEADER_BYTES };
        let mut rest = body;
        let mut found = 0;
        while !rest.is_empty() {
            let (header, after) = rest.split_at_checked(ROW_HEADER_BYTES).ok_or(length)?;
            let key_len = u32::from_le_bytes(header[1..5].try_into().expect("four bytes"));
            let value_len = u32::from_le_bytes(header[5..9].try_into().expect("four bytes"));
            let (key, after) = after.split_at_checked(key_len as usize).ok_or(length)?;
            let (value, after) = after.split_at_checked(value_len as usize).ok_or(length)?;
            let table =
                Table::from_number(header[0]).ok_or(SnapshotError::UnknownTable(header[0]))?;
            let before = self.parts.rows.last();
            if before.is_some_and(|it| (it.table, it.key.as_slice()) >= (table, key)) {
                return Err(SnapshotError::RowOrder(table));
            }
            self.parts.rows.push(Row { table, key: key.to_vec(), value: value.to_vec() });
            found += 1;
            rest = after;
        }
        self.totals.rows += found;
        Ok(found)
    }

    fn take_records(&mut self, body: &[u8]) -> Result<u64, SnapshotError> {
        let mut rest = body;
        let mut found = 0;
        while !rest.is_empty() {
            let length = Record::length_at(rest)?;
            let (bytes, after) =
                rest.split_at_checked(length).ok_or(RecordError::Short(rest.len()))?;
            let record = Record::from_bytes(bytes)?;
            let revision = record.revision();
            let before = self.parts.records.last().map(Record::revision);
            if before.is_some_and(|before| before >= revision)
                || revision.main > self.parts.applied.revision
            {
                return Err(SnapshotError::RecordOrder(revision));
            }
            self.parts.records.push(record);
            found += 1;
            rest = after;
        }
        self.totals.records += found;
        Ok(found)
    }
}

const _: () = assert!(APPLIED_BYTES == 48, "the head's length is part of the format");

#[cfg(test)]
mod tests;
