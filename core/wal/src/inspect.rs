//! A look at the log that changes nothing: for the offline tool and for a damaged log, which
//! [`crate::Log::open`] refuses.

use crate::disk::Disk;
use crate::entry::{HardState, Identity, SnapshotMark};
use crate::error::LogError;
use crate::format::SegmentHeader;
use crate::recover::Torn;
use crate::segment::{HeaderRead, Scan, ScanMemory, SegmentName, list_segments, read_header};

/// One segment as it is on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentReport {
    /// The file.
    pub path: String,
    /// Its number.
    pub seq: u64,
    /// The next index of the log when it was started.
    pub first_index: u64,
    /// Whose it is.
    pub identity: Identity,
    /// The batches that hold, in order; in all but the last segment those its successor builds on.
    pub batches: Vec<BatchReport>,
    /// Everything before this offset is known to have been synced: from the watermarks, or because
    /// the next segment says so.
    pub synced_through: u64,
    /// What follows the last good batch, if it is not just zeros.
    pub rest: Option<Torn>,
    /// What is wrong beyond what a power failure may leave.
    pub damage: Option<String>,
}

/// One batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchReport {
    /// Where it starts.
    pub offset: u64,
    /// Its length.
    pub bytes: u64,
    /// The watermark it carries: everything before this offset was synced.
    pub synced_through: u64,
    /// The hard state it sets.
    pub hard_state: Option<HardState>,
    /// The snapshot mark it sets or repeats.
    pub snapshot: Option<SnapshotMark>,
    /// Its first and last entry, as term and index.
    pub entries: Option<((u64, u64), (u64, u64))>,
}

/// Reports every segment, oldest first. A segment whose header cannot be read is an error in its
/// place, and the others are reported all the same.
pub fn inspect<D: Disk>(disk: &mut D) -> Result<Vec<Result<SegmentReport, LogError>>, LogError> {
    let names = list_segments(disk)?;
    let mut headers: Vec<_> = names.iter().map(|name| Some(read_header(disk, *name))).collect();
    let mut reports = Vec::with_capacity(names.len());
    for (place, &name) in names.iter().enumerate() {
        let read = headers[place].take().expect("each header is taken once");
        let next = headers.get(place + 1).and_then(|next| next.as_ref()?.as_ref().ok());
        reports.push(read.and_then(|read| report(disk, name, &read, next)));
    }
    Ok(reports)
}

fn report<D: Disk>(
    disk: &mut D,
    name: SegmentName,
    read: &HeaderRead,
    next: Option<&HeaderRead>,
) -> Result<SegmentReport, LogError> {
    let next = next.map(|next| &next.header);
    let scan =
        ScanMemory::default().scan(disk, name, &read.header, next.map(|next| next.prev_end))?;
    let batches = scan.batches.iter().map(|decoded| BatchReport {
        offset: decoded.offset,
        bytes: decoded.end - decoded.offset,
        synced_through: decoded.header.synced.offset,
        hard_state: decoded.batch.hard_state,
        snapshot: decoded.batch.snapshot,
        entries: decoded
            .batch
            .entries
            .first()
            .zip(decoded.batch.entries.last())
            .map(|(first, last)| ((first.term, first.index), (last.term, last.index))),
    });
    Ok(SegmentReport {
        path: name.path(),
        seq: name.seq,
        first_index: name.first_index,
        identity: read.header.identity,
        batches: batches.collect(),
        synced_through: next.map_or(scan.watermark.offset, |next| next.prev_end),
        rest: scan.bad.map(|bad| Torn {
            path: name.path(),
            offset: scan.end,
            bytes: scan.left_bytes,
            reason: bad.reason,
        }),
        damage: damage(read, next, &scan),
    })
}

/// The same judgement as that of a log that is opened.
fn damage(read: &HeaderRead, next: Option<&SegmentHeader>, scan: &Scan) -> Option<String> {
    let header = &read.header;
    let bytes_made = next.map_or(header.length, |next| next.prev_end);
    let synced_through = next.map_or(scan.watermark.offset, |next| next.prev_end);
    if scan.file_bytes < bytes_made {
        return Some(format!("cut short: {} of {bytes_made} bytes are there", scan.file_bytes));
    }
    if scan.end < synced_through {
        let reason = scan.bad.map_or("only zeros", |bad| bad.reason);
        return Some(format!("at byte {} of what was synced: {reason}", scan.end));
    }
    if let Some(next) = next {
        if next.prev_salt != header.salt {
            return Some("the next segment does not continue this one".to_owned());
        }
        if next.prev_crc != scan.crc_at(scan.end) {
            return Some("the last batch is not the one the next segment names".to_owned());
        }
    }
    read.damaged_copy.then(|| "one of the two copies of the header".to_owned())
}
