//! A look at the log that changes nothing: for the offline tool and for a damaged log, which
//! [`crate::Log::open`] refuses.

use crate::disk::Disk;
use crate::entry::{HardState, Identity, SnapshotMark};
use crate::error::LogError;
use crate::recover::Torn;
use crate::segment::{list_segments, read_header, scan_segment};

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
    /// One of the two header copies is damaged.
    pub damaged_header: bool,
    /// The batches that hold, in order.
    pub batches: Vec<BatchReport>,
    /// Everything before this offset is known to have been synced.
    pub synced_through: u64,
    /// What follows the last good batch, if it is not just zeros. Below `synced_through` it is
    /// damage; above, a torn tail. In all but the last segment it may be what recovery left.
    pub rest: Option<Torn>,
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
    let mut reports = Vec::with_capacity(names.len());
    for name in names {
        let report = read_header(disk, name).and_then(|read| {
            let scan = scan_segment(disk, name, &read.header, None)?;
            let rest = scan.bad.map(|bad| Torn {
                path: name.path(),
                offset: scan.end,
                bytes: scan.left_bytes,
                reason: bad.reason,
            });
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
                damaged_header: read.damaged_copy,
                batches: batches.collect(),
                synced_through: scan.watermark.offset,
                rest,
            })
        });
        reports.push(report);
    }
    Ok(reports)
}
