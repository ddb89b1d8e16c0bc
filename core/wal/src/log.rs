//! The log: append, sync, mark, release. How it comes back after a stop is in `recover.rs`.
//!
//! One owner, one writer, no queue: gathering batches while a sync runs is the caller's affair.
//! Only the last segment ever holds bytes that are not durable, because a segment is synced
//! before its successor gets a name. That keeps the question of what is torn to one file.
//!
//! A segment's length is settled when it starts: as much as had been filled with zeros by then.
//! The first of a process is short, so that a start is quick; each one after it may be twice as
//! long as the one before, until they have the size the options say.

use std::collections::VecDeque;

use crate::disk::{Disk, DiskError};
use crate::entry::{HardState, Identity, LogBatch, SnapshotMark};
use crate::error::LogError;
use crate::format::{
    BATCH_BYTES_MAX, BatchEncoder, DATA_START, SegmentHeader, TAIL_ROOM, Watermark, batch_bytes,
};
use crate::segment::{
    Active, Prepared, SegmentName, SyncSteps, WAL_DIR, ensure_wal_dir, list_segments,
    opening_bytes, start_segment,
};

/// How large a segment is unless the options say otherwise. The log is released by whole segments and the
/// next one is ready before it is needed: so much may be kept at either end for nothing.
pub const SEGMENT_BYTES_DEFAULT: u64 = 16 << 20;
/// Smaller segments would be all header.
const SEGMENT_BYTES_MIN: u64 = 2 * DATA_START;
/// One step of zero-filling; bounds how long it can delay the next append.
const PREPARE_STEP_BYTES: u64 = 1 << 20;

/// How a log is kept.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// The size segments grow to; a batch that does not fit makes a larger one.
    pub segment_bytes: u64,
    /// Where the salts of this process's segments come from. Give a fresh random number at every
    /// start.
    pub salt_seed: u64,
    /// Cut the log off at damage in its last segment even if what is lost there was synced.
    /// Promised entries may go: only for a sole voter, on the operator's explicit word.
    pub allow_damaged_tail: bool,
    /// Seeded bugs; all false in anything that serves.
    pub faults: LogFaults,
}

impl LogOptions {
    /// The size segments grow to.
    fn bytes(&self) -> u64 {
        self.segment_bytes.max(SEGMENT_BYTES_MIN)
    }

    /// The size of the first segment of a process, and one step of zero-filling.
    pub(crate) fn first_bytes(&self) -> u64 {
        PREPARE_STEP_BYTES.min(self.bytes())
    }
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            salt_seed: 0,
            allow_damaged_tail: false,
            faults: LogFaults::default(),
        }
    }
}

/// Bugs on demand. Used only by the simulator, to prove that its checkers find a missing sync.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogFaults {
    /// `sync` says yes without a sync.
    pub skip_data_sync: bool,
    /// `open` takes what it read for durable: it does not sync what it writes again.
    pub skip_recovery_sync: bool,
    /// No directory is ever synced.
    pub skip_dir_sync: bool,
    /// The full segment is not synced when the next one starts.
    pub skip_rollover_sync: bool,
    /// `open` cuts the log off at the first bad record, whatever the watermark says.
    pub ignore_watermark: bool,
}

/// Figures about the log, for metrics and for the caller's decisions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Segments on disk, with the one written to.
    pub segments: u64,
    /// What they occupy, as long as they are; without the next one being prepared.
    pub bytes: u64,
    /// The smallest index that may still be in the log.
    pub first_index: u64,
    /// The last index appended; `first_index - 1` if the log holds none.
    pub last_index: u64,
    /// The last index covered by a sync.
    pub synced_index: u64,
    /// Bytes appended and not synced.
    pub unsynced_bytes: u64,
    /// Bytes used of the segment written to.
    pub active_bytes: u64,
    /// Bytes of the next segment already filled with zeros.
    pub prepared_bytes: u64,
    /// The disk was full when the next segment was being prepared. What is allocated still
    /// takes appends; make room before it is used up.
    pub no_space: bool,
    /// Batches appended by this process.
    pub batches: u64,
    /// Entries appended by this process.
    pub entries: u64,
    /// Bytes appended by this process.
    pub appended_bytes: u64,
    /// Syncs that reached the disk.
    pub syncs: u64,
    /// Segments started by this process.
    pub rollovers: u64,
}

/// A segment that is complete.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) name: SegmentName,
    /// The largest index of any entry in it; 0 if there is none.
    pub(crate) index_max: u64,
    /// How long the file is.
    pub(crate) bytes: u64,
}

/// The log of one member.
#[derive(Debug)]
pub struct Log<D: Disk> {
    disk: D,
    identity: Identity,
    options: LogOptions,
    sealed: VecDeque<Sealed>,
    sealed_bytes: u64,
    active: Active<D::File>,
    prepared: Option<Prepared<D::File>>,
    hard_state: Option<HardState>,
    snapshot: Option<SnapshotMark>,
    encoder: BatchEncoder,
    /// The last batch is a mark: an idle log writes no second one.
    marked: bool,
    poisoned: Option<String>,
    stats: LogStats,
}

/// What `recover.rs` found out and `Log` goes on from.
pub(crate) struct Restart<F> {
    pub(crate) identity: Identity,
    pub(crate) sealed: VecDeque<Sealed>,
    pub(crate) active: Active<F>,
    pub(crate) hard_state: Option<HardState>,
    pub(crate) snapshot: Option<SnapshotMark>,
    pub(crate) first_index: u64,
    pub(crate) next_index: u64,
}

impl<D: Disk> Log<D> {
    /// Makes a new, empty log. The first index is 1.
    pub fn create(disk: D, identity: Identity, options: LogOptions) -> Result<Self, LogError> {
        Self::create_with(disk, identity, options, None)
    }

    /// Makes a new log that begins behind a snapshot, with this hard state: both are there as soon
    /// as the log is.
    pub fn create_behind(
        disk: D,
        identity: Identity,
        options: LogOptions,
        hard_state: HardState,
        mark: SnapshotMark,
    ) -> Result<Self, LogError> {
        Self::create_with(disk, identity, options, Some((hard_state, mark)))
    }

    fn create_with(
        mut disk: D,
        identity: Identity,
        options: LogOptions,
        behind: Option<(HardState, SnapshotMark)>,
    ) -> Result<Self, LogError> {
        if let Some(first) = list_segments(&mut disk)?.first() {
            return Err(LogError::AlreadyExists { path: first.path() });
        }
        let sync_dir = !options.faults.skip_dir_sync;
        ensure_wal_dir(&mut disk, sync_dir)?;
        let (hard_state, snapshot) = behind.unzip();
        let first_index = snapshot.map_or(1, |mark| mark.index + 1);
        let opening = [LogBatch { hard_state, snapshot, entries: Vec::new() }];
        let mut prepared = Prepared::create(&mut disk)?;
        prepared.reserve(&mut disk, opening_bytes(&opening), options.first_bytes())?;
        let mut header = SegmentHeader {
            seq: 1,
            first_index,
            identity,
            salt: salt(options.salt_seed, 1),
            prev_salt: 0,
            prev_end: 0,
            prev_crc: 0,
            opening_end: 0,
            length: 0,
        };
        let active = start_segment(
            &mut disk,
            prepared,
            &mut header,
            &opening,
            &mut BatchEncoder::default(),
            SyncSteps { data: !options.faults.skip_data_sync, dir: sync_dir },
        )?;
        let restart = Restart {
            identity,
            sealed: VecDeque::new(),
            active,
            hard_state,
            snapshot,
            first_index,
            next_index: first_index,
        };
        Ok(Self::restart(disk, options, restart))
    }

    pub(crate) fn restart(disk: D, options: LogOptions, from: Restart<D::File>) -> Self {
        let stats = LogStats {
            first_index: from.first_index,
            last_index: from.next_index - 1,
            synced_index: from.next_index - 1,
            ..LogStats::default()
        };
        Self {
            disk,
            identity: from.identity,
            options,
            sealed_bytes: from.sealed.iter().map(|segment| segment.bytes).sum(),
            sealed: from.sealed,
            active: from.active,
            prepared: None,
            hard_state: from.hard_state,
            snapshot: from.snapshot,
            encoder: BatchEncoder::default(),
            marked: true,
            poisoned: None,
            stats,
        }
    }

    /// Writes a batch behind the others, in one write. It is durable after the next [`Log::sync`].
    pub fn append(&mut self, batch: &LogBatch) -> Result<(), LogError> {
        self.check_poison()?;
        if batch.is_empty() {
            return Ok(());
        }
        self.check_order(batch)?;
        let bytes = batch_bytes(batch);
        if bytes > BATCH_BYTES_MAX {
            return Err(LogError::TooLarge { bytes, bytes_max: BATCH_BYTES_MAX });
        }
        if self.active.tail + bytes + TAIL_ROOM > self.active.length {
            self.roll(bytes)?;
        }
        self.write(batch)?;

        if batch.hard_state.is_some() {
            self.hard_state = batch.hard_state;
        }
        if let Some(mark) = batch.snapshot {
            self.snapshot = batch.snapshot;
            self.stats.first_index = mark.index + 1;
            self.stats.last_index = mark.index;
        }
        if let Some(last) = batch.entries.last() {
            self.stats.last_index = last.index;
            self.active.index_max = self.active.index_max.max(last.index);
        }
        self.stats.batches += 1;
        self.stats.entries += batch.entries.len() as u64;
        self.stats.appended_bytes += bytes;
        self.marked = false;
        Ok(())
    }

    /// Makes everything appended so far durable. Only after it returned `Ok` may any of it be
    /// acknowledged.
    pub fn sync(&mut self) -> Result<(), LogError> {
        self.check_poison()?;
        self.sync_active()?;
        // The next segment gets ready as this one fills: to twice its length while they still grow.
        // A caller that prepares in its idle moments never gets here.
        let next_bytes = self.prepared.as_ref().map_or(0, |prepared| prepared.allocated);
        let growing = self.active.length < self.options.bytes();
        let ahead = if growing { self.active.tail } else { self.options.first_bytes() };
        let ready = self.active.tail + ahead;
        let behind = ready.min(self.options.bytes()).saturating_sub(next_bytes);
        if behind > 0 && !self.stats.no_space {
            self.prepare_by(behind.max(self.options.first_bytes()))?;
        }
        Ok(())
    }

    /// Writes the watermark on its own if the last batches have none behind them, and syncs it.
    /// Call it within a second of the last sync when nothing more was appended, and every second
    /// from then on: with nothing to mark it takes a step of [`Log::prepare`].
    pub fn mark_synced_when_idle(&mut self) -> Result<(), LogError> {
        self.check_poison()?;
        if self.marked && self.active.synced == self.active.tail {
            return self.prepare().map(drop);
        }
        self.mark_synced()
    }

    /// Writes the watermark on its own and syncs it, unless it is there already or a sync has yet
    /// to cover what was appended.
    pub fn mark_synced(&mut self) -> Result<(), LogError> {
        self.check_poison()?;
        if self.marked || self.active.synced < self.active.tail {
            return Ok(());
        }
        self.write(&LogBatch::default())?;
        self.sync_active()?;
        self.marked = true;
        Ok(())
    }

    /// Removes the oldest segments that hold no entry above `through_index`, durably; returns how
    /// many. Every segment restates the hard state at its start, so none is lost with the old.
    pub fn release(&mut self, through_index: u64) -> Result<u64, LogError> {
        self.check_poison()?;
        let mut removed = 0;
        while let Some(oldest) = self.sealed.front()
            && oldest.index_max <= through_index
        {
            let path = oldest.name.path();
            let first = (oldest.index_max + 1).min(self.stats.last_index + 1);
            self.stats.first_index = self.stats.first_index.max(first);
            // One by one: a later name must never be gone while an earlier one is still there.
            let done = self.disk.unlink(&path).and_then(|()| self.sync_wal_dir());
            self.guard(done)?;
            self.sealed_bytes -= self.sealed.pop_front().map_or(0, |segment| segment.bytes);
            self.stats.no_space = false;
            removed += 1;
        }
        Ok(removed)
    }

    /// Takes one step of work ahead: zero-fills and syncs a part of the next segment, at most
    /// 1 MiB. Call it when nobody waits, the acknowledgements gone and the queue empty; a log
    /// that is never idle does it in `sync`, as much as it needs. Returns true if there is more
    /// to do.
    pub fn prepare(&mut self) -> Result<bool, LogError> {
        self.check_poison()?;
        self.prepare_by(self.options.first_bytes())
    }

    fn prepare_by(&mut self, bytes: u64) -> Result<bool, LogError> {
        match self.prepare_next(bytes) {
            // No log is lost: what is allocated goes on, and the figures say why.
            Err(DiskError::NoSpace { .. }) => {
                self.stats.no_space = true;
                Ok(false)
            }
            other => {
                self.guard(other)?;
                self.stats.no_space = false;
                let next = self.prepared.as_ref().map_or(0, |prepared| prepared.allocated);
                Ok(next < self.options.bytes())
            }
        }
    }

    fn prepare_next(&mut self, bytes: u64) -> Result<(), DiskError> {
        let segment_bytes = self.options.bytes();
        if self.prepared.is_none() {
            self.prepared = Some(Prepared::create(&mut self.disk)?);
        }
        let prepared = self.prepared.as_mut().expect("made above");
        if prepared.allocated < segment_bytes {
            let allocated = (prepared.allocated + bytes).min(segment_bytes);
            self.disk.allocate(&prepared.file, allocated)?;
            // In steps, or the rollover would have to wait for all of it.
            self.disk.sync_data(&prepared.file)?;
            prepared.allocated = allocated;
        }
        Ok(())
    }

    /// The disk, for what shares it with the log.
    pub fn disk(&mut self) -> &mut D {
        &mut self.disk
    }

    /// Closes the log and gives the disk back. Syncs nothing.
    pub fn into_disk(self) -> D {
        self.disk
    }

    /// Whose log it is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The hard state last appended.
    pub fn hard_state(&self) -> Option<HardState> {
        self.hard_state
    }

    /// Why the log refuses to go on, if it does.
    pub fn poisoned(&self) -> Option<&str> {
        self.poisoned.as_deref()
    }

    /// Figures about the log.
    pub fn stats(&self) -> LogStats {
        LogStats {
            segments: self.sealed.len() as u64 + 1,
            bytes: self.sealed_bytes + self.active.length,
            unsynced_bytes: self.active.tail - self.active.synced,
            active_bytes: self.active.tail,
            prepared_bytes: self.prepared.as_ref().map_or(0, |prepared| prepared.allocated),
            ..self.stats
        }
    }

    fn check_poison(&self) -> Result<(), LogError> {
        match &self.poisoned {
            Some(cause) => Err(LogError::Poisoned { cause: cause.clone() }),
            None => Ok(()),
        }
    }

    /// Passes a result on; an error closes the log for good.
    fn guard<T>(&mut self, result: Result<T, DiskError>) -> Result<T, LogError> {
        result.map_err(|error| {
            self.poisoned = Some(error.to_string());
            error.into()
        })
    }

    fn check_order(&self, batch: &LogBatch) -> Result<(), LogError> {
        let mut first = self.stats.first_index;
        let mut next = self.stats.last_index + 1;
        let order = |index, first, next| Err(LogError::Order { index, first, next });
        if let Some(mark) = batch.snapshot {
            if mark.index + 1 < first {
                return order(mark.index, first, next);
            }
            first = mark.index + 1;
            next = first;
        }
        if let Some(entry) = batch.entries.first() {
            if entry.index < first || entry.index > next {
                return order(entry.index, first, next);
            }
            for (expected, entry) in (entry.index..).zip(&batch.entries) {
                if entry.index != expected {
                    return order(entry.index, first, expected);
                }
            }
        }
        Ok(())
    }

    /// Writes the batch at the tail with the present watermark.
    fn write(&mut self, batch: &LogBatch) -> Result<(), LogError> {
        let active = &mut self.active;
        let end = active.tail + batch_bytes(batch);
        assert!(end <= active.length, "a segment never grows");
        let synced = Watermark { offset: active.synced, index: self.stats.synced_index };
        let crc = self.encoder.encode(batch, false, active.salt, active.tail, synced);
        let written = self.disk.write_at(&active.file, active.tail, &self.encoder.parts());
        self.encoder.clear();
        self.guard(written)?;
        let active = &mut self.active;
        active.last_crc = crc;
        active.tail = end;
        Ok(())
    }

    fn sync_active(&mut self) -> Result<(), LogError> {
        if self.active.synced == self.active.tail {
            return Ok(());
        }
        if !self.options.faults.skip_data_sync {
            let synced = self.disk.sync_data(&self.active.file);
            self.guard(synced)?;
            self.stats.syncs += 1;
        }
        self.active.synced = self.active.tail;
        self.stats.synced_index = self.stats.last_index;
        Ok(())
    }

    fn sync_wal_dir(&mut self) -> Result<(), DiskError> {
        if self.options.faults.skip_dir_sync { Ok(()) } else { self.disk.sync_dir(WAL_DIR) }
    }

    /// Completes the segment and starts the next one, with room for a batch of `bytes`.
    fn roll(&mut self, bytes: u64) -> Result<(), LogError> {
        if !self.options.faults.skip_rollover_sync {
            self.sync_active()?;
        }
        let seq = self.active.name.seq + 1;
        let mut header = SegmentHeader {
            seq,
            first_index: self.stats.last_index + 1,
            identity: self.identity,
            salt: salt(self.options.salt_seed, seq),
            prev_salt: self.active.salt,
            prev_end: self.active.tail,
            prev_crc: self.active.last_crc,
            opening_end: 0,
            length: 0,
        };
        let opening = [LogBatch {
            hard_state: self.hard_state,
            snapshot: self.snapshot,
            entries: Vec::new(),
        }];
        let faults = self.options.faults;
        let sync = SyncSteps { data: !faults.skip_data_sync, dir: !faults.skip_dir_sync };
        let prepared = match self.prepared.take() {
            Some(prepared) => Ok(prepared),
            None => Prepared::create(&mut self.disk),
        };
        let mut prepared = self.guard(prepared)?;
        let needed = opening_bytes(&opening) + bytes;
        let reserved = prepared.reserve(&mut self.disk, needed, self.options.first_bytes());
        self.guard(reserved)?;
        let started =
            start_segment(&mut self.disk, prepared, &mut header, &opening, &mut self.encoder, sync);
        let active = self.guard(started)?;
        let old = std::mem::replace(&mut self.active, active);
        // Gives the room back, and shows by its length that a segment follows.
        let cut = self.disk.set_len(&old.file, old.tail);
        self.guard(cut)?;
        self.sealed_bytes += old.tail;
        let sealed = Sealed { name: old.name, index_max: old.index_max, bytes: old.tail };
        self.sealed.push_back(sealed);
        self.stats.rollovers += 1;
        Ok(())
    }
}

/// The salt of a segment: the seed and the number, well mixed (the finalizer of SplitMix64).
pub(crate) fn salt(seed: u64, seq: u64) -> u64 {
    let mut mixed = seed.wrapping_add(seq.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
