//! One file of the log: its name, how it is started, how it is read back.
//!
//! A segment gets its name only when its header and opening batches are on the device, and the
//! one before it was synced first. So a name in the directory says four things after any crash:
//! the header holds, the opening holds, everything before is complete, and the file is as long as
//! its header says. It never grows: a batch that does not fit goes into the next segment. A last
//! segment that is shorter was therefore cut by somebody, and is no torn tail.

use bytes::{Bytes, BytesMut};

use crate::disk::{Disk, DiskError, ensure_dir, ensure_gone, in_memory, read_into, read_range};
use crate::entry::{Identity, LogBatch};
use crate::error::LogError;
use crate::format::{
    ALIGN, BadBatch, BadHeader, BatchEncoder, DATA_START, DecodedBatch, FORMAT_VERSION,
    HEADER_BLOCK_BYTES, SegmentHeader, TAIL_ROOM, Watermark, batch_bytes, decode_batch,
    decode_batch_header,
};

/// Where the segments are, below the data directory.
pub const WAL_DIR: &str = "member/wal";
/// The directories above it, outermost first, each with its parent.
const PARENTS: [(&str, &str); 2] = [("member", ""), (WAL_DIR, "member")];

/// The next segment while it is filled with zeros.
const PREPARED_PATH: &str = "member/wal/next.prepared";
const SUFFIX: &str = ".wal";

/// The name of a segment: its number, and the next index of the log when it was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SegmentName {
    pub(crate) seq: u64,
    pub(crate) first_index: u64,
}

impl SegmentName {
    pub(crate) fn path(self) -> String {
        format!("{WAL_DIR}/{:016x}-{:016x}{SUFFIX}", self.seq, self.first_index)
    }

    fn parse(name: &str) -> Option<Self> {
        let (seq, first_index) = name.strip_suffix(SUFFIX)?.split_once('-')?;
        let parsed = Self {
            seq: u64::from_str_radix(seq, 16).ok()?,
            first_index: u64::from_str_radix(first_index, 16).ok()?,
        };
        // Only the one spelling that `path` gives.
        (parsed.path().strip_prefix(WAL_DIR)?.strip_prefix('/')? == name).then_some(parsed)
    }
}

/// The segments in the directory, oldest first, numbered without a gap.
pub(crate) fn list_segments<D: Disk>(disk: &mut D) -> Result<Vec<SegmentName>, LogError> {
    let names = match disk.list(WAL_DIR) {
        Ok(names) => names,
        Err(DiskError::NotFound { .. }) => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let mut segments = Vec::new();
    for name in names.iter().filter(|name| name.ends_with(SUFFIX)) {
        let parsed = SegmentName::parse(name);
        segments
            .push(parsed.ok_or_else(|| LogError::UnexpectedFile { path: join(WAL_DIR, name) })?);
    }
    segments.sort_unstable();
    for pair in segments.windows(2) {
        if pair[1].seq != pair[0].seq + 1 {
            return Err(LogError::MissingSegment {
                dir: WAL_DIR,
                after: pair[0].path(),
                before: pair[1].path(),
            });
        }
    }
    Ok(segments)
}

fn join(dir: &str, name: &str) -> String {
    format!("{dir}/{name}")
}

/// Makes the directory of the log and its parents, durably.
pub(crate) fn ensure_wal_dir<D: Disk>(disk: &mut D, sync: bool) -> Result<(), DiskError> {
    for (dir, parent) in PARENTS {
        ensure_dir(disk, dir)?;
        if sync {
            disk.sync_dir(parent)?;
        }
    }
    Ok(())
}

/// A file on the way to become a segment.
#[derive(Debug)]
pub(crate) struct Prepared<F> {
    pub(crate) file: F,
    pub(crate) allocated: u64,
}

impl<F> Prepared<F> {
    /// Makes the file. One left by an earlier process goes: nobody knows what it holds.
    pub(crate) fn create<D: Disk<File = F>>(disk: &mut D) -> Result<Self, DiskError> {
        ensure_gone(disk, PREPARED_PATH)?;
        Ok(Self { file: disk.create(PREPARED_PATH)?, allocated: 0 })
    }

    /// Makes the file `needed` bytes long, or `wanted` if it is too short and there is room for
    /// that. Not yet durable.
    pub(crate) fn reserve<D: Disk<File = F>>(
        &mut self,
        disk: &mut D,
        needed: u64,
        wanted: u64,
    ) -> Result<(), DiskError> {
        if self.allocated >= needed {
            return Ok(());
        }
        let needed = needed.next_multiple_of(HEADER_BLOCK_BYTES as u64);
        let wanted = wanted.max(needed);
        match disk.allocate(&self.file, wanted) {
            Ok(()) => self.allocated = wanted,
            Err(DiskError::NoSpace { path }) => {
                self.allocated = disk.len(&self.file)?;
                if self.allocated < needed {
                    return Err(DiskError::NoSpace { path });
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// The segment that is written to.
#[derive(Debug)]
pub(crate) struct Active<F> {
    pub(crate) name: SegmentName,
    pub(crate) file: F,
    pub(crate) salt: u64,
    /// Where the next batch goes.
    pub(crate) tail: u64,
    /// How long the file is, as its header says.
    pub(crate) length: u64,
    /// Everything before this offset is durable.
    pub(crate) synced: u64,
    /// Header checksum of the last batch.
    pub(crate) last_crc: u32,
    /// The largest index of any entry in it; 0 if there is none.
    pub(crate) index_max: u64,
}

/// How long a file must be for a segment to begin with these batches.
pub(crate) fn opening_bytes(opening: &[LogBatch]) -> u64 {
    DATA_START + opening.iter().map(batch_bytes).sum::<u64>() + TAIL_ROOM
}

/// Starts the segment `header` describes with the opening batches, of which the first restates.
/// When it returns, all of it is durable, the length too, and the segment has its name.
pub(crate) fn start_segment<D: Disk>(
    disk: &mut D,
    prepared: Prepared<D::File>,
    header: &mut SegmentHeader,
    opening: &[LogBatch],
    encoder: &mut BatchEncoder,
    sync: SyncSteps,
) -> Result<Active<D::File>, DiskError> {
    let name = SegmentName { seq: header.seq, first_index: header.first_index };
    header.opening_end = opening_bytes(opening) - TAIL_ROOM;
    header.length = prepared.allocated;
    assert!(header.opening_end + TAIL_ROOM <= header.length, "the caller reserves the room");
    let block = header.encode();
    disk.write_at(&prepared.file, 0, &[&block, &block])?;
    let mut active = Active {
        name,
        file: prepared.file,
        salt: header.salt,
        tail: DATA_START,
        length: header.length,
        synced: header.opening_end,
        last_crc: 0,
        index_max: 0,
    };
    for (position, batch) in opening.iter().enumerate() {
        let none = Watermark::default();
        active.last_crc = encoder.encode(batch, position == 0, header.salt, active.tail, none);
        disk.write_at(&active.file, active.tail, &encoder.parts())?;
        active.tail += batch_bytes(batch);
        active.index_max =
            batch.entries.last().map_or(active.index_max, |last| active.index_max.max(last.index));
    }
    encoder.clear();
    assert_eq!(active.tail, header.opening_end, "the header says where the opening ends");
    if sync.data {
        disk.sync_data(&active.file)?;
    }
    disk.rename(PREPARED_PATH, &name.path())?;
    if sync.dir {
        disk.sync_dir(WAL_DIR)?;
    }
    Ok(active)
}

/// Which syncs to carry out: all, unless a seeded bug leaves one out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SyncSteps {
    pub(crate) data: bool,
    pub(crate) dir: bool,
}

/// A segment's header as read back, and whether one of its two copies was damaged.
#[derive(Debug, Clone)]
pub(crate) struct HeaderRead {
    pub(crate) header: SegmentHeader,
    pub(crate) damaged_copy: bool,
}

/// Reads the header of a segment and checks that it belongs where it is.
pub(crate) fn read_header<D: Disk>(
    disk: &mut D,
    name: SegmentName,
) -> Result<HeaderRead, LogError> {
    let path = name.path();
    let file = disk.open(&path)?;
    // For the header and for all that is read of the file after it.
    disk.drop_cache(&file)?;
    let blocks = read_range(disk, &file, 0, DATA_START)?;
    let (first, second) = blocks.split_at(blocks.len().min(HEADER_BLOCK_BYTES));
    let damaged = |reason| LogError::Corrupt {
        path: path.clone(),
        offset: 0,
        index: name.first_index,
        synced_index: name.first_index.saturating_sub(1),
        reason,
    };
    let (header, damaged_copy) = match (SegmentHeader::decode(first), SegmentHeader::decode(second))
    {
        (Ok(header), Ok(twin)) if header == twin => (header, false),
        (Ok(_), Ok(_)) => return Err(damaged("the two copies of the segment header disagree")),
        (Ok(header), Err(BadHeader::Damaged)) | (Err(BadHeader::Damaged), Ok(header)) => {
            (header, true)
        }
        (Err(BadHeader::Version(found)), _) | (_, Err(BadHeader::Version(found))) => {
            return Err(LogError::UnknownVersion { path, found, supported: FORMAT_VERSION });
        }
        (Err(BadHeader::Damaged), Err(BadHeader::Damaged)) => {
            let cut = blocks.len() < DATA_START as usize;
            return Err(damaged(match cut {
                true => "the file ends inside the segment header",
                false => "both copies of the segment header are damaged",
            }));
        }
    };
    if (header.seq, header.first_index) != (name.seq, name.first_index) {
        return Err(damaged("the segment header does not match the file's name"));
    }
    Ok(HeaderRead { header, damaged_copy })
}

/// Every segment's header, oldest first, each checked against the owner and its neighbour.
pub(crate) fn read_headers<D: Disk>(
    disk: &mut D,
    names: &[SegmentName],
    expected: Option<Identity>,
) -> Result<Vec<HeaderRead>, LogError> {
    let mut headers: Vec<HeaderRead> = Vec::with_capacity(names.len());
    let mut expected = expected;
    for &name in names {
        let read = read_header(disk, name)?;
        let found = read.header.identity;
        if *expected.get_or_insert(found) != found {
            let expected = expected.expect("set above");
            return Err(LogError::ForeignIdentity { path: name.path(), expected, found });
        }
        if let Some(previous) = headers.last()
            && previous.header.salt != read.header.prev_salt
        {
            return Err(LogError::Corrupt {
                path: name.path(),
                offset: 0,
                index: name.first_index,
                synced_index: name.first_index.saturating_sub(1),
                reason: "the segment does not continue the one before it",
            });
        }
        headers.push(read);
    }
    Ok(headers)
}

/// What a segment holds. The batches share the memory the segment was read into.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// What was read.
    pub(crate) memory: Bytes,
    pub(crate) batches: Vec<DecodedBatch>,
    /// End of the last good batch; everything from here on is zeros, torn or rotten.
    pub(crate) end: u64,
    /// Why the batch at `end` does not hold. None if there are only zeros.
    pub(crate) bad: Option<BadBatch>,
    /// The highest watermark in any good batch header, also behind the bad batch; at least the end
    /// of the opening.
    pub(crate) watermark: Watermark,
    /// From `end` to the last byte that is not zero.
    pub(crate) left_bytes: u64,
    /// The length of the file.
    pub(crate) file_bytes: u64,
}

impl Scan {
    /// The checksum of the last batch before `end`; 0 if there is none.
    pub(crate) fn crc_at(&self, end: u64) -> u32 {
        let last = self.batches.iter().rev().find(|batch| batch.end <= end);
        last.map_or(0, |batch| batch.header.crc)
    }
}

/// The memory segments are read into, one after the other: fresh memory for each would cost more than
/// reading it.
#[derive(Debug, Default)]
pub(crate) struct ScanMemory(BytesMut);

impl ScanMemory {
    /// Reads the segment from its first batch to `end`, or to the end of the file.
    pub(crate) fn scan<D: Disk>(
        &mut self,
        disk: &mut D,
        name: SegmentName,
        header: &SegmentHeader,
        end: Option<u64>,
    ) -> Result<Scan, LogError> {
        let file = disk.open(&name.path())?;
        let len = disk.len(&file)?;
        let wanted = in_memory(end.map_or(len, |end| end.min(len)));
        let mut memory = std::mem::take(&mut self.0);
        match memory.is_empty() {
            true => memory = BytesMut::zeroed(wanted),
            false => memory.resize(wanted, 0),
        }
        let filled = read_into(disk, &file, 0, &mut memory)?;
        memory.truncate(filled);
        let bytes = memory.freeze();
        Ok(Scan { file_bytes: len, ..scan_bytes(&bytes, header) })
    }

    /// Takes the memory of a scan back, unless something of it is still held.
    pub(crate) fn reuse(&mut self, memory: Bytes) {
        self.0 = memory.try_into_mut().unwrap_or_default();
    }
}

fn scan_bytes(bytes: &Bytes, header: &SegmentHeader) -> Scan {
    let mut scan = Scan {
        memory: bytes.clone(),
        end: DATA_START,
        watermark: Watermark { offset: header.opening_end, index: 0 },
        ..Scan::default()
    };
    let mut at = DATA_START as usize;
    while at < bytes.len() {
        match decode_batch(bytes, header.salt, at) {
            Ok(batch) => {
                scan.watermark = scan.watermark.max(batch.header.synced);
                at = batch.end as usize;
                scan.end = batch.end;
                scan.batches.push(batch);
            }
            Err(bad) => {
                scan.bad = Some(bad);
                break;
            }
        }
    }
    let rest = bytes.get(at..).unwrap_or_default();
    let Some(last) = last_nonzero(rest) else {
        scan.bad = None;
        return scan;
    };
    scan.left_bytes = last as u64 + 1;
    // Later batches prove what was synced before them, even if nothing between can be read.
    for offset in (at..=at + last).step_by(ALIGN) {
        if let Ok(later) = decode_batch_header(bytes, header.salt, offset) {
            scan.watermark = scan.watermark.max(later.synced);
        }
    }
    scan
}

/// Where the last byte is that is not zero. A segment not yet full is mostly zeros.
fn last_nonzero(bytes: &[u8]) -> Option<usize> {
    const ZEROS: [u8; HEADER_BLOCK_BYTES] = [0; HEADER_BLOCK_BYTES];
    let mut end = bytes.len();
    for block in bytes.rchunks(ZEROS.len()) {
        if block != &ZEROS[..block.len()] {
            break;
        }
        end -= block.len();
    }
    bytes[..end].iter().rposition(|byte| *byte != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_byte_that_is_not_zero_is_found_wherever_it_is() {
        for len in [0, 1, 4_095, 4_096, 4_097, 20_000] {
            let mut bytes = vec![0; len];
            assert_eq!(last_nonzero(&bytes), None);
            for at in (0..len).step_by(997).chain(len.checked_sub(1)) {
                bytes[at] = 1;
                assert_eq!(last_nonzero(&bytes), Some(at));
                bytes[at / 2] = 1;
                assert_eq!(last_nonzero(&bytes), Some(at));
                (bytes[at], bytes[at / 2]) = (0, 0);
            }
        }
    }
}
