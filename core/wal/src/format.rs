//! The bytes of version 1: segment header, batch, record. Pure functions, no disk.
//!
//! A segment is two copies of a header block, then batches back to back. A batch is what one
//! `append` wrote: a batch header and its records, all of it or nothing. Every checksum is a
//! CRC32C that starts with the segment's salt and the offset, so bytes that belong to another
//! segment, an earlier life of the same blocks or another place in this file never pass.
//! Checksums are independent, not rolling: one bad record does not hide the ones behind it.
//!
//! All integers are little endian; `docs/formats/wal.md` has the tables.

use bytes::Bytes;

use crate::entry::{Entry, HardState, Identity, LogBatch, SnapshotMark};

/// The version this build writes and reads. Version 1 is not promised to later releases; version 0,
/// whose segments did not say how long they are, was never released.
pub const FORMAT_VERSION: u32 = 1;

/// One batch may not be larger: its length must fit 32 bits with room to spare.
pub const BATCH_BYTES_MAX: u64 = 1 << 30;

/// A header copy has a block of its own, so that one lost 4 KiB sector leaves the other.
pub(crate) const HEADER_BLOCK_BYTES: usize = 4096;
/// Where the first batch starts.
pub(crate) const DATA_START: u64 = 2 * HEADER_BLOCK_BYTES as u64;
pub(crate) const BATCH_HEADER_BYTES: usize = 56;
pub(crate) const RECORD_HEADER_BYTES: usize = 40;
/// Batches start, and records start, at multiples of this.
pub(crate) const ALIGN: usize = 8;
/// Stays free behind every batch: the idle mark always fits, and a complete segment, cut off behind
/// its last batch, is always shorter than it was made.
pub(crate) const TAIL_ROOM: u64 = (BATCH_HEADER_BYTES + ALIGN) as u64;

/// Payloads from here on are written from where they lie instead of being copied together.
const COPY_BYTES_MAX: usize = 4096;

const SEGMENT_MAGIC: [u8; 8] = *b"MSWAL\r\n\x1a";
const BATCH_MAGIC: [u8; 4] = *b"mBat";
const HARD_STATE_BYTES: usize = 24;

const RECORD_ENTRY: u8 = 1;
const RECORD_HARD_STATE: u8 = 2;
const RECORD_SNAPSHOT_MARK: u8 = 3;

/// The batch repeats hard state and snapshot mark at the start of a segment; the mark discards
/// nothing there.
const FLAG_RESTATES: u32 = 1;

/// What the head of a segment says about the segment and the one before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) seq: u64,
    /// The next index of the log when the segment was started.
    pub(crate) first_index: u64,
    pub(crate) identity: Identity,
    pub(crate) salt: u64,
    pub(crate) prev_salt: u64,
    /// Where the log leaves the previous segment; bytes behind it are void. 0: there is none.
    pub(crate) prev_end: u64,
    /// The header checksum of the last batch before `prev_end`.
    pub(crate) prev_crc: u32,
    /// End of the batches that were synced before the segment got its name.
    pub(crate) opening_end: u64,
    /// How long the file was made, durably, before the segment got its name. No batch goes beyond.
    pub(crate) length: u64,
}

/// Why a header block was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadHeader {
    Damaged,
    Version(u32),
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut block = vec![0; HEADER_BLOCK_BYTES];
        block[0..8].copy_from_slice(&SEGMENT_MAGIC);
        put_u32(&mut block, 8, FORMAT_VERSION);
        put_u32(&mut block, 12, HEADER_BLOCK_BYTES as u32);
        put_u64(&mut block, 16, self.seq);
        put_u64(&mut block, 24, self.first_index);
        put_u64(&mut block, 32, self.identity.cluster_id);
        put_u64(&mut block, 40, self.identity.member_id);
        put_u64(&mut block, 48, self.salt);
        put_u64(&mut block, 56, self.prev_salt);
        put_u64(&mut block, 64, self.prev_end);
        put_u64(&mut block, 72, self.opening_end);
        put_u32(&mut block, 80, self.prev_crc);
        put_u64(&mut block, 88, self.length);
        let crc = crc32c::crc32c(&block[..HEADER_BLOCK_BYTES - 4]);
        put_u32(&mut block, HEADER_BLOCK_BYTES - 4, crc);
        block
    }

    pub(crate) fn decode(block: &[u8]) -> Result<Self, BadHeader> {
        // Magic, version and the checksum's place hold for every version to come.
        if block.len() != HEADER_BLOCK_BYTES
            || block[0..8] != SEGMENT_MAGIC
            || get_u32(block, HEADER_BLOCK_BYTES - 4)
                != crc32c::crc32c(&block[..HEADER_BLOCK_BYTES - 4])
        {
            return Err(BadHeader::Damaged);
        }
        let version = get_u32(block, 8);
        if version != FORMAT_VERSION {
            return Err(BadHeader::Version(version));
        }
        Ok(Self {
            seq: get_u64(block, 16),
            first_index: get_u64(block, 24),
            identity: Identity { cluster_id: get_u64(block, 32), member_id: get_u64(block, 40) },
            salt: get_u64(block, 48),
            prev_salt: get_u64(block, 56),
            prev_end: get_u64(block, 64),
            opening_end: get_u64(block, 72),
            prev_crc: get_u32(block, 80),
            length: get_u64(block, 88),
        })
    }
}

/// How far the log was durable when a batch was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Watermark {
    /// Everything in this segment before this offset was synced.
    pub(crate) offset: u64,
    /// The last index of the log at that moment.
    pub(crate) index: u64,
}

/// A batch header that passed its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchHeader {
    pub(crate) restates: bool,
    pub(crate) batch_bytes: u32,
    pub(crate) record_count: u32,
    pub(crate) synced: Watermark,
    /// Over the checksums of the record headers, so that `crc` stands for the whole batch.
    pub(crate) records_crc: u32,
    pub(crate) crc: u32,
}

/// A whole batch that passed all its checksums.
#[derive(Debug, Clone)]
pub(crate) struct DecodedBatch {
    pub(crate) offset: u64,
    pub(crate) end: u64,
    pub(crate) header: BatchHeader,
    pub(crate) batch: LogBatch,
}

/// Where and why a batch does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadBatch {
    /// The offset of the bad header or record.
    pub(crate) offset: u64,
    pub(crate) reason: &'static str,
}

/// The bytes `batch` will take in a segment.
pub(crate) fn batch_bytes(batch: &LogBatch) -> u64 {
    let mut total = BATCH_HEADER_BYTES as u64;
    if batch.hard_state.is_some() {
        total += record_bytes(HARD_STATE_BYTES as u64);
    }
    if batch.snapshot.is_some() {
        total += record_bytes(0);
    }
    for entry in &batch.entries {
        total += record_bytes(entry.context.len() as u64 + entry.data.len() as u64);
    }
    total
}

fn record_bytes(payload_bytes: u64) -> u64 {
    RECORD_HEADER_BYTES as u64 + payload_bytes.next_multiple_of(ALIGN as u64)
}

/// Builds one batch as a list of parts for one write. Small payloads are copied together; large
/// ones stay where they are.
#[derive(Debug, Default)]
pub(crate) struct BatchEncoder {
    buf: Vec<u8>,
    /// Payload pieces to slip in before the byte of `buf` at the position.
    lent: Vec<(usize, Bytes)>,
    lent_bytes: u64,
    /// Over the record headers' checksums so far.
    records_crc: u32,
}

impl BatchEncoder {
    /// Encodes `batch` as it stands at `offset`; returns the batch header's checksum.
    pub(crate) fn encode(
        &mut self,
        batch: &LogBatch,
        restates: bool,
        salt: u64,
        offset: u64,
        synced: Watermark,
    ) -> u32 {
        assert_eq!(offset % ALIGN as u64, 0, "batches are aligned");
        self.buf.clear();
        self.lent.clear();
        self.lent_bytes = 0;
        self.records_crc = 0;
        self.buf.resize(BATCH_HEADER_BYTES, 0);
        let mut record_count = 0u32;
        if let Some(hard_state) = batch.hard_state {
            let mut payload = [0; HARD_STATE_BYTES];
            put_u64(&mut payload, 0, hard_state.term);
            put_u64(&mut payload, 8, hard_state.vote);
            put_u64(&mut payload, 16, hard_state.commit);
            let payload = Bytes::copy_from_slice(&payload);
            self.record(RECORD_HARD_STATE, 0, 0, 0, &Bytes::new(), &payload, salt, offset);
            record_count += 1;
        }
        if let Some(mark) = batch.snapshot {
            let none = Bytes::new();
            self.record(RECORD_SNAPSHOT_MARK, 0, mark.term, mark.index, &none, &none, salt, offset);
            record_count += 1;
        }
        for entry in &batch.entries {
            let (context, data) = (&entry.context, &entry.data);
            self.record(
                RECORD_ENTRY,
                entry.kind,
                entry.term,
                entry.index,
                context,
                data,
                salt,
                offset,
            );
            record_count += 1;
        }
        let total = self.buf.len() as u64 + self.lent_bytes;
        assert!(total <= BATCH_BYTES_MAX, "the caller checks the size of a batch");
        let header = &mut self.buf[..BATCH_HEADER_BYTES];
        header[0..4].copy_from_slice(&BATCH_MAGIC);
        put_u32(header, 4, if restates { FLAG_RESTATES } else { 0 });
        put_u32(header, 8, total as u32);
        put_u32(header, 12, record_count);
        put_u64(header, 16, batch.entries.first().map_or(0, |entry| entry.index));
        put_u64(header, 24, batch.entries.last().map_or(0, |entry| entry.index));
        put_u64(header, 32, synced.offset);
        put_u64(header, 40, synced.index);
        put_u32(header, 48, self.records_crc);
        let crc = crc32c::crc32c_append(seed(salt, offset), &header[..BATCH_HEADER_BYTES - 4]);
        put_u32(header, BATCH_HEADER_BYTES - 4, crc);
        crc
    }

    #[expect(clippy::too_many_arguments, reason = "one field of the format each")]
    fn record(
        &mut self,
        record_type: u8,
        kind: u8,
        term: u64,
        index: u64,
        context: &Bytes,
        data: &Bytes,
        salt: u64,
        batch_offset: u64,
    ) {
        let seed = seed(salt, batch_offset + self.buf.len() as u64 + self.lent_bytes);
        let payload_bytes = context.len() + data.len();
        let pad = &[0u8; ALIGN][..payload_bytes.next_multiple_of(ALIGN) - payload_bytes];
        let mut payload_crc = crc32c::crc32c_append(seed, context);
        payload_crc = crc32c::crc32c_append(payload_crc, data);
        payload_crc = crc32c::crc32c_append(payload_crc, pad);

        let mut header = [0; RECORD_HEADER_BYTES];
        put_u32(&mut header, 0, data.len() as u32);
        put_u32(&mut header, 4, context.len() as u32);
        header[8] = record_type;
        header[9] = kind;
        put_u32(&mut header, 12, payload_crc);
        put_u64(&mut header, 16, term);
        put_u64(&mut header, 24, index);
        let crc = crc32c::crc32c_append(seed, &header[..RECORD_HEADER_BYTES - 4]);
        put_u32(&mut header, RECORD_HEADER_BYTES - 4, crc);
        self.records_crc = crc32c::crc32c_append(self.records_crc, &crc.to_le_bytes());

        self.buf.extend_from_slice(&header);
        for piece in [context, data] {
            if piece.len() < COPY_BYTES_MAX {
                self.buf.extend_from_slice(piece);
            } else {
                self.lent.push((self.buf.len(), piece.clone()));
                self.lent_bytes += piece.len() as u64;
            }
        }
        self.buf.extend_from_slice(pad);
    }

    /// The batch last encoded, in order.
    pub(crate) fn parts(&self) -> Vec<&[u8]> {
        let mut parts = Vec::with_capacity(2 * self.lent.len() + 1);
        let mut from = 0;
        for (at, piece) in &self.lent {
            if *at > from {
                parts.push(&self.buf[from..*at]);
            }
            parts.push(piece);
            from = *at;
        }
        if from < self.buf.len() {
            parts.push(&self.buf[from..]);
        }
        parts
    }

    /// Lets go of lent payloads and of an unusually large buffer.
    pub(crate) fn clear(&mut self) {
        self.lent.clear();
        self.buf.clear();
        self.buf.shrink_to(1 << 20);
    }
}

/// Reads the batch header at `offset` of the segment `bytes`, if one stands there.
pub(crate) fn decode_batch_header(
    bytes: &[u8],
    salt: u64,
    offset: usize,
) -> Result<BatchHeader, BadBatch> {
    let bad = |reason| BadBatch { offset: offset as u64, reason };
    let Some(header) = bytes.get(offset..offset + BATCH_HEADER_BYTES) else {
        return Err(bad("the segment ends inside a batch header"));
    };
    if header[0..4] != BATCH_MAGIC {
        return Err(bad("no batch starts here"));
    }
    let crc = get_u32(header, BATCH_HEADER_BYTES - 4);
    let expected =
        crc32c::crc32c_append(seed(salt, offset as u64), &header[..BATCH_HEADER_BYTES - 4]);
    if crc != expected {
        return Err(bad("the batch header's checksum does not match"));
    }
    let flags = get_u32(header, 4);
    if flags & !FLAG_RESTATES != 0 {
        return Err(bad("the batch header has unknown flags"));
    }
    Ok(BatchHeader {
        restates: flags & FLAG_RESTATES != 0,
        batch_bytes: get_u32(header, 8),
        record_count: get_u32(header, 12),
        synced: Watermark { offset: get_u64(header, 32), index: get_u64(header, 40) },
        records_crc: get_u32(header, 48),
        crc,
    })
}

/// Reads the batch at `offset` of the segment and checks every checksum in it. The entries' payloads
/// are parts of `segment`: whoever keeps one keeps all of it, or copies.
pub(crate) fn decode_batch(
    segment: &Bytes,
    salt: u64,
    offset: usize,
) -> Result<DecodedBatch, BadBatch> {
    let header = decode_batch_header(segment, salt, offset)?;
    let bad = |at: usize, reason| BadBatch { offset: at as u64, reason };
    let end = offset + header.batch_bytes as usize;
    if end > segment.len() {
        return Err(bad(offset, "the segment ends inside a batch"));
    }
    let bytes = &segment[..end];
    let mut batch = LogBatch::default();
    let mut at = offset + BATCH_HEADER_BYTES;
    let mut records_crc = 0;
    for _ in 0..header.record_count {
        let Some(record) = bytes.get(at..at + RECORD_HEADER_BYTES) else {
            return Err(bad(at, "the batch ends inside a record header"));
        };
        let seed = seed(salt, at as u64);
        if get_u32(record, RECORD_HEADER_BYTES - 4)
            != crc32c::crc32c_append(seed, &record[..RECORD_HEADER_BYTES - 4])
        {
            return Err(bad(at, "the record header's checksum does not match"));
        }
        records_crc = crc32c::crc32c_append(records_crc, &record[RECORD_HEADER_BYTES - 4..]);
        let data_bytes = get_u32(record, 0) as usize;
        let context_bytes = get_u32(record, 4) as usize;
        let payload_bytes = data_bytes + context_bytes;
        let payload_start = at + RECORD_HEADER_BYTES;
        let next = payload_start + payload_bytes.next_multiple_of(ALIGN);
        let Some(payload) = bytes.get(payload_start..next) else {
            return Err(bad(at, "the batch ends inside a record"));
        };
        if get_u32(record, 12) != crc32c::crc32c_append(seed, payload) {
            return Err(bad(at, "the record payload's checksum does not match"));
        }
        let (term, index) = (get_u64(record, 16), get_u64(record, 24));
        match record[8] {
            RECORD_ENTRY => {
                let data_start = payload_start + context_bytes;
                let context = segment.slice(payload_start..data_start);
                let data = segment.slice(data_start..data_start + data_bytes);
                batch.entries.push(Entry { term, index, kind: record[9], context, data });
            }
            RECORD_HARD_STATE if payload_bytes == HARD_STATE_BYTES => {
                batch.hard_state = Some(HardState {
                    term: get_u64(payload, 0),
                    vote: get_u64(payload, 8),
                    commit: get_u64(payload, 16),
                });
            }
            RECORD_SNAPSHOT_MARK if payload_bytes == 0 => {
                batch.snapshot = Some(SnapshotMark { index, term });
            }
            _ => return Err(bad(at, "the record is of an unknown type")),
        }
        at = next;
    }
    if at != end {
        return Err(bad(offset, "the batch's length does not match its records"));
    }
    if records_crc != header.records_crc {
        return Err(bad(offset, "the batch holds records of another batch"));
    }
    Ok(DecodedBatch { offset: offset as u64, end: end as u64, header, batch })
}

/// Where every checksum starts: the segment's salt and the place.
fn seed(salt: u64, offset: u64) -> u32 {
    let mut place = [0; 16];
    put_u64(&mut place, 0, salt);
    put_u64(&mut place, 8, offset);
    crc32c::crc32c(&place)
}

pub(crate) fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
