//! How the log comes back: judge what is on the disk, then make it durable before anyone acts
//! on it.
//!
//! Everything below the watermark was synced and may have been acknowledged. If any of it does
//! not read back, that is corruption, and the only honest answer is to refuse: cutting it off
//! would forget a promise in silence. What lies above the watermark was never covered by a known
//! sync. Its good batches are kept (they may have been synced just before the stop), but they
//! may live in the page cache alone, so they are written again into a new segment and synced.
//! From the first bad batch on it is a torn tail and void.
//!
//! A crash tears what a file holds, never the length it durably had. A segment shorter than its
//! header says was cut short by somebody, or its successor was removed: that is refused, too.
//!
//! The old segment is not touched until the new one is durable. A stop anywhere in between finds
//! the old one as it was, and recovery starts over.

use std::collections::VecDeque;

use crate::disk::Disk;
use crate::entry::{Entry, HardState, Identity, Kept, LogBatch, LogState, SnapshotMark, TermStart};
use crate::error::LogError;
use crate::format::{BatchEncoder, DATA_START, DecodedBatch, SegmentHeader};
use crate::log::{Log, LogOptions, Restart, Sealed, salt};
use crate::segment::{
    HeaderRead, Prepared, Scan, ScanMemory, SegmentName, SyncSteps, WAL_DIR, list_segments,
    opening_bytes, read_headers, start_segment,
};

/// What the log held. All of it is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// Whose log it is.
    pub identity: Identity,
    /// The hard state last written.
    pub hard_state: Option<HardState>,
    /// The entries that were to be kept, consecutive, replaced ones gone. The first may be at or
    /// below the newest snapshot: segments are released whole.
    pub entries: Vec<Entry>,
    /// Where each term begins in the log, the first entry's first, kept or not.
    pub terms: Vec<TermStart>,
    /// Where the log last restarted behind a snapshot from elsewhere.
    pub snapshot: Option<SnapshotMark>,
    /// The index of the first entry of the log, kept or not, or of the next one if there is none.
    pub first_index: u64,
    /// The last index; `first_index - 1` if there are no entries.
    pub last_index: u64,
    /// Bytes cut off because no sync had covered them; see `torn`.
    pub torn_bytes: u64,
    /// Where they were.
    pub torn: Option<Torn>,
    /// Synced bytes given up because of [`LogOptions::allow_damaged_tail`].
    pub damaged: Option<Torn>,
    /// Entries that were above the watermark and have been written again.
    pub rewritten_entries: u64,
    /// Segments of which one of the two header copies is damaged. The other one holds.
    pub damaged_headers: Vec<String>,
    /// Segments found.
    pub segments: u64,
}

/// A part of a segment that is void.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Torn {
    /// The segment.
    pub path: String,
    /// Where it starts.
    pub offset: u64,
    /// To the last byte that is not zero.
    pub bytes: u64,
    /// Why the batch there does not hold.
    pub reason: &'static str,
}

/// A log that has been read and found whole. Nothing has been written yet: whoever has a reason not to
/// go on drops it, and the directory is as it was.
pub struct Reading<D: Disk> {
    disk: D,
    options: LogOptions,
    recovered: Recovered,
    sealed: VecDeque<Sealed>,
    last: SegmentName,
    header: SegmentHeader,
    opening: Vec<LogBatch>,
    durable_end: u64,
}

impl<D: Disk> Log<D> {
    /// Opens the log, checks every byte of it below the watermark, and makes what is above
    /// durable. Refuses a log that belongs to anybody but `expected`.
    pub fn open(
        disk: D,
        expected: Option<Identity>,
        options: LogOptions,
    ) -> Result<(Self, Recovered), LogError> {
        Self::read(disk, expected, options)?.open()
    }

    /// Reads the log and checks it, as [`Log::open`] does, and changes nothing.
    pub fn read(
        disk: D,
        expected: Option<Identity>,
        options: LogOptions,
    ) -> Result<Reading<D>, LogError> {
        Self::read_kept(disk, expected, options, || Kept::ALL)
    }

    /// The same, but only some entries come back. Which, is asked once something has been read: who
    /// knows may still be finding out.
    pub fn read_kept(
        mut disk: D,
        expected: Option<Identity>,
        options: LogOptions,
        kept: impl FnOnce() -> Kept,
    ) -> Result<Reading<D>, LogError> {
        let names = list_segments(&mut disk)?;
        if names.is_empty() {
            return Err(LogError::NotFound { dir: WAL_DIR });
        }
        let headers = read_headers(&mut disk, &names, expected)?;
        if !options.faults.skip_dir_sync {
            // Names too may live in the cache alone. A segment that follows must not outlive them.
            disk.sync_dir(WAL_DIR)?;
        }
        let mut memory = ScanMemory::default();
        let mut history = History::read_sealed(&mut disk, &names, &headers, kept, &mut memory)?;
        let tail = Tail::read(&mut disk, &names, &headers, &mut history, &options, &mut memory)?;

        let last = names[names.len() - 1];
        let last_header = &headers[headers.len() - 1].header;
        let seq = last.seq + 1;
        let header = SegmentHeader {
            seq,
            first_index: history.state.next_index,
            identity: last_header.identity,
            salt: salt(options.salt_seed, seq),
            prev_salt: last_header.salt,
            prev_end: tail.durable_end,
            prev_crc: tail.durable_crc,
            opening_end: 0,
            length: 0,
        };
        let mut opening = vec![LogBatch {
            hard_state: history.state.hard_state,
            snapshot: history.state.snapshot,
            entries: Vec::new(),
        }];
        opening.extend(tail.rewrite.iter().filter(|batch| !batch.is_empty()).cloned());

        let rewritten_entries = tail.rewrite.iter().map(|batch| batch.entries.len() as u64).sum();
        for batch in tail.rewrite {
            let folded = history.state.fold(batch, false);
            folded.map_err(|reason| history.corrupt(last, tail.durable_end, 0, reason))?;
        }
        history.state.own();
        let state = history.state;
        let first_index = state.first_index();
        let recovered = Recovered {
            identity: header.identity,
            hard_state: state.hard_state,
            snapshot: state.snapshot,
            first_index,
            last_index: state.next_index - 1,
            torn_bytes: tail.torn.as_ref().map_or(0, |torn| torn.bytes),
            torn: tail.torn,
            damaged: tail.damaged,
            rewritten_entries,
            damaged_headers: names
                .iter()
                .zip(&headers)
                .filter(|(_, read)| read.damaged_copy)
                .map(|(name, _)| name.path())
                .collect(),
            segments: names.len() as u64,
            entries: state.entries.into(),
            terms: state.terms,
        };
        Ok(Reading {
            disk,
            options,
            recovered,
            sealed: history.sealed,
            last,
            header,
            opening,
            durable_end: tail.durable_end,
        })
    }
}

impl<D: Disk> Reading<D> {
    /// What the log holds; durable once it is opened.
    pub fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    /// Gives the disk back; the log is as it was.
    pub fn into_disk(self) -> D {
        self.disk
    }

    /// Makes what was read durable and the log ready to go on.
    ///
    /// What was read may be gone with the next power failure: it counts only once it is durable in a
    /// segment of this process.
    pub fn open(self) -> Result<(Log<D>, Recovered), LogError> {
        let Reading {
            mut disk,
            options,
            recovered,
            sealed,
            last,
            mut header,
            opening,
            durable_end,
        } = self;
        let sync = SyncSteps {
            data: !options.faults.skip_recovery_sync,
            dir: !options.faults.skip_dir_sync,
        };
        let mut prepared = Prepared::create(&mut disk)?;
        prepared.reserve(&mut disk, opening_bytes(&opening), options.first_bytes())?;
        let mut encoder = BatchEncoder::default();
        let active = start_segment(&mut disk, prepared, &mut header, &opening, &mut encoder, sync)?;
        if recovered.damaged.is_none() {
            // Gives the room back. Damage is left as it is, for whoever wants to look at it.
            let old = disk.open(&last.path())?;
            disk.set_len(&old, durable_end)?;
        }
        let restart = Restart {
            identity: recovered.identity,
            sealed,
            active,
            hard_state: recovered.hard_state,
            snapshot: recovered.snapshot,
            first_index: recovered.first_index,
            next_index: recovered.last_index + 1,
        };
        Ok((Log::restart(disk, options, restart), recovered))
    }
}

/// The log as read so far.
struct History {
    state: LogState,
    sealed: VecDeque<Sealed>,
}

impl History {
    /// Reads every segment but the last. They were synced whole: nothing in them may be bad.
    fn read_sealed<D: Disk>(
        disk: &mut D,
        names: &[SegmentName],
        headers: &[HeaderRead],
        kept: impl FnOnce() -> Kept,
        memory: &mut ScanMemory,
    ) -> Result<Self, LogError> {
        let mut ahead = match headers.get(1) {
            Some(next) => {
                let end = Some(next.header.prev_end);
                Some(memory.scan(disk, names[0], &headers[0].header, end)?)
            }
            None => None,
        };
        let mut state = LogState::new(headers[0].header.first_index, kept());
        state.will_reach(headers[headers.len() - 1].header.first_index.saturating_sub(1));
        let mut history = Self { state, sealed: VecDeque::with_capacity(names.len()) };
        for (position, pair) in headers.windows(2).enumerate() {
            let (name, header, next) = (names[position], &pair[0].header, &pair[1].header);
            let scan = match ahead.take() {
                Some(scan) => scan,
                None => memory.scan(disk, name, header, Some(next.prev_end))?,
            };
            let synced_index = next.first_index.saturating_sub(1);
            let end = scan.end;
            let crc = scan.crc_at(end);
            let (bad, file_bytes) = (scan.bad, scan.file_bytes);
            history.take(name, scan.batches, next.prev_end)?;
            memory.reuse(scan.memory);
            if file_bytes < next.prev_end {
                return Err(history.cut_short(name, file_bytes, next.prev_end));
            }
            if let Some(bad) = bad {
                return Err(history.corrupt(name, bad.offset, synced_index, bad.reason));
            }
            if end != next.prev_end {
                let reason = "the segment ends before its successor says";
                return Err(history.corrupt(name, end, synced_index, reason));
            }
            if crc != next.prev_crc {
                let reason = "the last batch is not the one its successor names";
                return Err(history.corrupt(name, end, synced_index, reason));
            }
        }
        Ok(history)
    }

    /// Adds a segment that holds.
    fn take(
        &mut self,
        name: SegmentName,
        batches: Vec<DecodedBatch>,
        bytes: u64,
    ) -> Result<(), LogError> {
        let mut index_max = 0;
        for decoded in batches {
            let last = decoded.batch.entries.last().map_or(0, |last| last.index);
            index_max = index_max.max(last);
            self.state
                .fold(decoded.batch, decoded.header.restates)
                .map_err(|reason| self.corrupt(name, decoded.offset, 0, reason))?;
        }
        self.state.own();
        self.sealed.push_back(Sealed { name, index_max, bytes });
        Ok(())
    }

    fn cut_short(&self, name: SegmentName, bytes: u64, bytes_made: u64) -> LogError {
        LogError::CutShort { path: name.path(), bytes, bytes_made, index: self.state.next_index }
    }

    fn corrupt(
        &self,
        name: SegmentName,
        offset: u64,
        synced_index: u64,
        reason: &'static str,
    ) -> LogError {
        let index = self.state.next_index;
        let synced_index = synced_index.max(index - 1);
        LogError::Corrupt { path: name.path(), offset, index, synced_index, reason }
    }
}

/// The last segment, divided at the watermark.
struct Tail {
    /// The batches above the watermark that hold.
    rewrite: Vec<LogBatch>,
    /// Where the log leaves the segment: the watermark.
    durable_end: u64,
    durable_crc: u32,
    torn: Option<Torn>,
    damaged: Option<Torn>,
}

impl Tail {
    /// Reads the last segment and adds what is at or below the watermark to `history`.
    fn read<D: Disk>(
        disk: &mut D,
        names: &[SegmentName],
        headers: &[HeaderRead],
        history: &mut History,
        options: &LogOptions,
        memory: &mut ScanMemory,
    ) -> Result<Self, LogError> {
        let (name, header) = (names[names.len() - 1], &headers[headers.len() - 1].header);
        let scan = memory.scan(disk, name, header, None)?;
        let promised = scan.watermark.offset;
        let lost = Torn {
            path: name.path(),
            offset: scan.end,
            bytes: scan.left_bytes,
            reason: scan.bad.map_or("only zeros follow", |bad| bad.reason),
        };
        let Scan { batches, end, bad, watermark, file_bytes, .. } = scan;
        let cut_short = file_bytes < header.length;
        let broken = end < promised || cut_short;
        let durable_end = promised.min(end);
        let cut_off = options.allow_damaged_tail && end >= header.opening_end.max(DATA_START);
        if cut_short && !cut_off {
            // The good part first, so that the message can say which index is lost.
            history.take(name, batches, file_bytes)?;
            return Err(history.cut_short(name, file_bytes, header.length));
        }
        if broken && !cut_off && !options.faults.ignore_watermark {
            let (offset, reason) = match bad {
                Some(bad) => (bad.offset, bad.reason),
                None => (end, "only zeros where a sync had covered a batch"),
            };
            // The good part first, so that the message can say which index is lost.
            history.take(name, batches, file_bytes)?;
            return Err(history.corrupt(name, offset, watermark.index, reason));
        }
        let straddles =
            |batch: &DecodedBatch| batch.offset < durable_end && durable_end < batch.end;
        if let Some(batch) = batches.iter().find(|batch| straddles(batch)) {
            let reason = "the watermark lies inside a batch";
            return Err(history.corrupt(name, batch.offset, watermark.index, reason));
        }
        let split = batches.partition_point(|batch| batch.end <= durable_end);
        let mut durable = batches;
        let rewrite = durable.split_off(split).into_iter().map(|decoded| decoded.batch).collect();
        let durable_crc = durable.last().map_or(0, |last| last.header.crc);
        // What lies behind is given back, except where there is damage to look at.
        history.take(name, durable, if broken { file_bytes } else { durable_end })?;
        let (torn, damaged) = match (broken, lost.bytes) {
            (true, _) => (None, Some(lost)),
            (false, 0) => (None, None),
            (false, _) => (Some(lost), None),
        };
        Ok(Self { rewrite, durable_end, durable_crc, torn, damaged })
    }
}
