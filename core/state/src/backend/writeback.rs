//! From what apply does to batches for the backend, off the way of any answer.
//!
//! [`Writeback::feed`] gathers records in an unfinished *tail*. When the tail is worth a block it is
//! sealed, at the boundary of a log entry, together with the rows that changed and the applied index
//! of that entry. Until then those entries live in memory and in the log alone, which is all right:
//! the log is cut by snapshots, never by what the backend holds.
//!
//! Compaction leaves dead records in blocks. Which ones is written beside the blocks, in *lists of the
//! dead*, at once and for all blocks together: were each block cleared in its own time, a tombstone
//! could go before the records it stands against, and a deleted key would be back after a restart.
//! A block at least half dead is then read, filtered and written anew, with small neighbours taken
//! in, so that live data never lies spread over many nearly empty blocks. [`Writeback::compact`] does
//! a bounded piece of that at a time, when the backend has nothing more urgent to do.
//!
//! Invariant: a record is listed as dead only in a batch whose applied index lies at or beyond the
//! compaction that dropped it, and in the order in which it was dropped. Else a crash would bring back
//! an index at which the record was still readable, without it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::{Bound, ControlFlow};

use super::load::{BlockStat, Layout, raw_bytes};
use super::{
    Backend, BackendBatch, BackendError, Mark, Write, block_key, dead_key, dead_of, dead_prefix,
    dead_value, guarded, pair_digest, printable, row_key,
};
use crate::block;
use crate::parts::{Applied, Changes, Row};
use crate::record::{Record, Revision};
use crate::view::View;

/// How much goes into one block, one batch, one step of compaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WritebackLimits {
    /// Revisions in a block. More would make a cold read unpack more than it wants.
    pub block_revisions_max: usize,
    /// Bytes of records in a block, unless a single record is longer.
    pub block_bytes_max: usize,
    /// Rows that changed and wait for a block to be written with.
    pub rows_waiting_max: usize,
    /// Entries applied that wait for a block, when they bring no records.
    pub entries_waiting_max: usize,
    /// Dropped records that wait to be listed as dead; reached, the tail is sealed early.
    pub removed_waiting_max: usize,
    /// Bytes of sealed blocks and rows put into one batch, unless a single entry brings more.
    pub batch_bytes_max: usize,
    /// Blocks looked at in one step of compaction.
    pub compaction_blocks_max: usize,
}

impl Default for WritebackLimits {
    fn default() -> Self {
        Self {
            block_revisions_max: 64,
            block_bytes_max: 64 << 10,
            rows_waiting_max: 256,
            entries_waiting_max: 4096,
            removed_waiting_max: 4096,
            batch_bytes_max: 1 << 20,
            compaction_blocks_max: 16,
        }
    }
}

/// What a seal brings, not yet in a batch.
#[derive(Debug)]
struct Sealed {
    mark: Mark,
    writes: Vec<Write>,
    bytes: usize,
}

/// Gathers changes and hands out batches. Everything handed out must be committed, in order.
#[derive(Debug)]
pub struct Writeback {
    limits: WritebackLimits,
    /// As it will be when all that is sealed has been committed.
    layout: Layout,
    sealed: VecDeque<Sealed>,
    sealed_bytes: usize,

    tail: Vec<Record>,
    tail_bytes: usize,
    tail_revisions: usize,
    rows: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    entries: usize,
    /// Position after the last entry fed.
    applied: Applied,

    /// Dropped records not listed as dead yet, as they were dropped.
    removed: Vec<Revision>,
    /// Blocks at least half dead, by first record.
    rotten: BTreeSet<Revision>,
}

impl Writeback {
    /// For an empty backend.
    #[must_use]
    pub fn new(limits: WritebackLimits) -> Self {
        Self::with_layout(limits, Layout::default())
    }

    /// Goes on after [`super::load`]. `view` is of the state built from what was loaded.
    #[must_use]
    pub fn resume(limits: WritebackLimits, layout: Layout, view: &View) -> Self {
        let mut writeback = Self::with_layout(limits, layout);
        assert_eq!(writeback.applied.revision, view.revision(), "the state loaded and the view");
        writeback.removed = std::mem::take(&mut writeback.layout.unlisted);
        let rotten = writeback.layout.blocks.iter().filter(|(_, stat)| is_rotten(stat));
        writeback.rotten = rotten.map(|(first, _)| *first).collect();
        writeback
    }

    fn with_layout(limits: WritebackLimits, layout: Layout) -> Self {
        Self {
            limits,
            applied: layout.mark.applied,
            layout,
            sealed: VecDeque::new(),
            sealed_bytes: 0,
            tail: Vec::new(),
            tail_bytes: 0,
            tail_revisions: 0,
            rows: BTreeMap::new(),
            entries: 0,
            removed: Vec::new(),
            rotten: BTreeSet::new(),
        }
    }

    /// Empties `backend` and fills it with a whole state: a new generation. Until the last batch the
    /// backend does not load.
    ///
    /// # Errors
    /// [`BackendError::Engine`].
    pub fn rebuild(
        limits: WritebackLimits,
        backend: &mut dyn Backend,
        applied: Applied,
        rows: Vec<Row>,
        records: impl IntoIterator<Item = Record>,
    ) -> Result<Self, BackendError> {
        backend.clear()?;
        let mut writeback = Self::new(limits);
        for record in records {
            writeback.push_record(&record);
            if writeback.is_tail_full() {
                writeback.seal_at(Applied::default());
            }
            if writeback.sealed_bytes >= limits.batch_bytes_max {
                writeback.drain_into(backend)?;
            }
        }
        for row in rows {
            writeback.rows.insert(row_key(row.table, &row.key), Some(row.value));
        }
        writeback.applied = applied;
        writeback.layout.mark.swept_revision = applied.compact_revision;
        writeback.seal_at(applied);
        writeback.drain_into(backend)?;
        backend.flush()?;
        Ok(writeback)
    }

    fn drain_into(&mut self, backend: &mut dyn Backend) -> Result<(), BackendError> {
        while let Some(batch) = self.take_batch() {
            backend.commit(&batch)?;
        }
        Ok(())
    }

    /// Takes in the changes of some entries, in order; `view` is of the state after the last.
    ///
    /// # Panics
    /// If the entries do not follow what was fed before.
    pub fn feed<'a>(&mut self, changes: impl IntoIterator<Item = &'a Changes>, view: &View) {
        for entry in changes {
            let (before, after) = (self.applied.index, entry.applied.index);
            assert!(after >= before, "entry {after} fed after {before}");
            // Sweeping after a compaction goes on between entries.
            let between_entries = entry.records.is_empty() && entry.rows.is_empty();
            assert!(after > before || between_entries, "entry {after} fed in pieces");
            for record in &entry.records {
                self.push_record(record);
            }
            for row in &entry.rows {
                self.rows.insert(row_key(row.table, &row.key), row.value.clone());
            }
            self.removed.extend_from_slice(&entry.removed);
            self.entries += usize::from(after > before);
            self.applied = entry.applied;
            if self.is_tail_full()
                || self.rows.len() >= self.limits.rows_waiting_max
                || self.entries >= self.limits.entries_waiting_max
            {
                self.seal_at(self.applied);
            }
        }
        assert_eq!(self.applied.revision, view.revision(), "the entries fed and the view");
        let is_swept = !view.is_compacting();
        let is_news = self.layout.mark.swept_revision < self.applied.compact_revision;
        if is_swept && is_news || self.removed.len() >= self.limits.removed_waiting_max {
            self.list_dead(is_swept);
        }
    }

    /// Seals the tail early: before the member stops, or to bound what a restart replays.
    pub fn seal(&mut self) {
        if self.entries > 0 {
            self.seal_at(self.applied);
        }
    }

    /// The next batch to commit, if anything is sealed.
    pub fn take_batch(&mut self) -> Option<BackendBatch> {
        let mut mark = None;
        let mut writes: BTreeMap<Vec<u8>, Option<Vec<u8>>> = BTreeMap::new();
        let mut bytes = 0;
        while let Some(next) = self.sealed.front() {
            if mark.is_some() && bytes + next.bytes > self.limits.batch_bytes_max {
                break;
            }
            let sealed = self.sealed.pop_front().expect("looked at just above");
            bytes += sealed.bytes;
            self.sealed_bytes -= sealed.bytes;
            mark = Some(sealed.mark);
            writes.extend(sealed.writes.into_iter().map(|it| (it.key, it.value)));
        }
        let writes = writes.into_iter().map(|(key, value)| Write { key, value }).collect();
        Some(BackendBatch::new(mark?, writes))
    }

    /// Bytes gathered and not handed out. Growing without end means that the backend cannot follow:
    /// its generation is then to be dropped and rebuilt later.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.sealed_bytes + self.tail_bytes
    }

    /// Position in the log contained in the backend once all batches handed out are committed.
    #[must_use]
    pub fn sealed_applied(&self) -> &Applied {
        &self.layout.mark.applied
    }

    /// Whether [`Writeback::compact`] has something to do.
    #[must_use]
    pub fn wants_compaction(&self) -> bool {
        !self.rotten.is_empty()
    }

    /// One bounded step of clearing dead records out of blocks: the batch to commit, if any. Does
    /// nothing while sealed data waits for [`Writeback::take_batch`], which always comes first.
    ///
    /// # Errors
    /// [`BackendError`] if a block cannot be read: the generation is to be dropped.
    pub fn compact(&mut self, backend: &dyn Backend) -> Result<Option<BackendBatch>, BackendError> {
        if !self.sealed.is_empty() {
            return Ok(None);
        }
        let mut writes = Vec::new();
        let mut looked_at = 0;
        // What this step writes the backend does not have yet.
        let mut fresh = BTreeSet::new();
        while looked_at < self.limits.compaction_blocks_max {
            let Some(first) = self.rotten.pop_first() else { break };
            let blocks_max = self.limits.compaction_blocks_max - looked_at;
            let group = self.neighbours(first, blocks_max, &fresh);
            looked_at += group.len();
            let mut kept = Vec::new();
            for &revision in &group {
                let stat = self.forget_block(revision, &mut writes);
                let dead = self.forget_dead(backend, revision, &mut writes)?;
                let records = read_block(backend, revision, &stat)?;
                kept.extend(records.into_iter().filter(|it| !dead.contains(&it.revision())));
            }
            fresh.extend(self.write_blocks(&kept, &mut writes));
        }
        if writes.is_empty() {
            return Ok(None);
        }
        // A block may be rewritten under the key of one just forgotten: the later write counts.
        let writes: BTreeMap<_, _> = writes.into_iter().map(|it| (it.key, it.value)).collect();
        let writes = writes.into_iter().map(|(key, value)| Write { key, value }).collect();
        Ok(Some(BackendBatch::new(self.layout.mark, writes)))
    }

    fn push_record(&mut self, record: &Record) {
        let revision = record.revision();
        let last = self.tail.last().map(Record::revision);
        assert!(last.is_none_or(|last| last < revision), "record {revision} out of order");
        if last.is_none_or(|last| last.main < revision.main) {
            self.tail_revisions += 1;
        }
        self.tail_bytes += record.bytes_len();
        self.tail.push(record.clone());
    }

    fn is_tail_full(&self) -> bool {
        self.tail_revisions >= self.limits.block_revisions_max
            || self.tail_bytes >= self.limits.block_bytes_max
    }

    /// Everything gathered goes into blocks; the key space will then contain the log up to
    /// `applied`.
    fn seal_at(&mut self, applied: Applied) {
        let mut writes = Vec::new();
        let tail = std::mem::take(&mut self.tail);
        self.tail_bytes = 0;
        self.tail_revisions = 0;
        self.entries = 0;
        self.write_blocks(&tail, &mut writes);
        for (key, value) in std::mem::take(&mut self.rows) {
            self.write_row(key, value, &mut writes);
        }
        self.layout.mark.applied = applied;
        self.push_sealed(writes);
    }

    fn push_sealed(&mut self, writes: Vec<Write>) {
        let bytes =
            writes.iter().map(|it| it.key.len() + it.value.as_ref().map_or(0, Vec::len)).sum();
        self.sealed_bytes += bytes;
        self.sealed.push_back(Sealed { mark: self.layout.mark, writes, bytes });
    }

    fn write_row(&mut self, key: Vec<u8>, value: Option<Vec<u8>>, writes: &mut Vec<Write>) {
        let census = &mut self.layout.mark.census;
        let stored = value.map(|value| guarded(&key, &value));
        let new = stored.as_deref().map(|value| pair_digest(&key, value));
        let old = match new {
            Some(digest) => self.layout.rows.insert(key.clone(), digest),
            None => self.layout.rows.remove(&key),
        };
        census.rows = census.rows + u64::from(new.is_some()) - u64::from(old.is_some());
        census.digest = census.digest.wrapping_add(new.unwrap_or(0)).wrapping_sub(old.unwrap_or(0));
        if old.is_some() || stored.is_some() {
            writes.push(Write { key, value: stored });
        }
    }

    /// Cuts records into blocks, at the end of a revision where that is possible. Returns what the
    /// blocks begin with.
    fn write_blocks(&mut self, records: &[Record], writes: &mut Vec<Write>) -> Vec<Revision> {
        let mut written = Vec::new();
        let mut rest = records;
        while !rest.is_empty() {
            let (records, after) = rest.split_at(self.block_len(rest));
            rest = after;
            let first = records[0].revision();
            let key = block_key(first);
            let value = block::encode(records);
            let stat = BlockStat {
                digest: pair_digest(&key, &value),
                records: u32::try_from(records.len()).expect("blocks are small"),
                dead: 0,
                raw_bytes: raw_bytes(records),
            };
            let before = self.layout.blocks.insert(first, stat);
            assert!(before.is_none(), "two blocks begin with {first}");
            let census = &mut self.layout.mark.census;
            census.blocks += 1;
            census.digest = census.digest.wrapping_add(stat.digest);
            writes.push(Write { key, value: Some(value) });
            written.push(first);
        }
        written
    }

    /// How many of `records` make the next block: at least one.
    fn block_len(&self, records: &[Record]) -> usize {
        let (mut bytes, mut revisions, mut whole) = (0, 0, 0);
        let mut main = None;
        for (index, record) in records.iter().enumerate() {
            let begins = main != Some(record.mod_revision());
            if begins {
                whole = index;
                revisions += 1;
                main = Some(record.mod_revision());
            }
            bytes += record.bytes_len();
            let full =
                bytes > self.limits.block_bytes_max || revisions > self.limits.block_revisions_max;
            if full && index > 0 {
                // A revision larger than a block is the one thing that is cut within.
                return if whole > 0 { whole } else { index };
            }
        }
        records.len()
    }

    fn block_of(&self, revision: Revision) -> Option<Revision> {
        self.layout.blocks.range(..=revision).next_back().map(|(first, _)| *first)
    }

    /// Lists what compaction dropped as dead. `is_swept` says that this is all of it.
    fn list_dead(&mut self, is_swept: bool) {
        self.seal();
        let mut lists: BTreeMap<Revision, Vec<Revision>> = BTreeMap::new();
        for revision in std::mem::take(&mut self.removed) {
            // Blocks built anew since do not have it at all.
            if let Some(first) = self.block_of(revision) {
                lists.entry(first).or_default().push(revision);
            }
        }
        let mut writes = Vec::new();
        for (first, dead) in lists {
            let key = dead_key(first, dead[0]);
            let value = dead_value(&key, &dead);
            let census = &mut self.layout.mark.census;
            census.dead_lists += 1;
            census.digest = census.digest.wrapping_add(pair_digest(&key, &value));
            writes.push(Write { key, value: Some(value) });
            let stat = self.layout.blocks.get_mut(&first).expect("found just above");
            let more = u32::try_from(dead.len()).unwrap_or(u32::MAX);
            stat.dead = stat.dead.saturating_add(more).min(stat.records);
            if is_rotten(stat) {
                self.rotten.insert(first);
            }
        }
        if is_swept {
            self.layout.mark.swept_revision = self.applied.compact_revision;
        }
        self.push_sealed(writes);
    }

    /// A rotten block and those around it that fit into one new block with it.
    fn neighbours(
        &self,
        first: Revision,
        blocks_max: usize,
        fresh: &BTreeSet<Revision>,
    ) -> Vec<Revision> {
        let mut group = VecDeque::from([first]);
        let blocks = &self.layout.blocks;
        let (mut bytes, mut records) = alive(&blocks[&first]);
        let mut fits = |stat: &BlockStat| {
            let (more_bytes, more_records) = alive(stat);
            bytes += more_bytes;
            records += more_records;
            bytes <= self.limits.block_bytes_max && records <= self.limits.block_revisions_max
        };
        for (revision, stat) in blocks.range(..first).rev() {
            if group.len() >= blocks_max || fresh.contains(revision) || !fits(stat) {
                break;
            }
            group.push_front(*revision);
        }
        for (revision, stat) in blocks.range((Bound::Excluded(first), Bound::Unbounded)) {
            if group.len() >= blocks_max || !fits(stat) {
                break;
            }
            group.push_back(*revision);
        }
        group.into()
    }

    fn forget_block(&mut self, first: Revision, writes: &mut Vec<Write>) -> BlockStat {
        let stat = self.layout.blocks.remove(&first).expect("a block of the layout");
        self.rotten.remove(&first);
        let census = &mut self.layout.mark.census;
        census.blocks -= 1;
        census.digest = census.digest.wrapping_sub(stat.digest);
        writes.push(Write { key: block_key(first), value: None });
        stat
    }

    /// Takes away a block's lists of the dead and returns what they list.
    fn forget_dead(
        &mut self,
        backend: &dyn Backend,
        first: Revision,
        writes: &mut Vec<Write>,
    ) -> Result<BTreeSet<Revision>, BackendError> {
        let mut dead = BTreeSet::new();
        let census = &mut self.layout.mark.census;
        let mut failed = None;
        backend.scan(&dead_prefix(first), &mut |key, value| {
            let Some((_, listed)) = dead_of(key, value) else {
                failed = Some(BackendError::Row(printable(key)));
                return ControlFlow::Break(());
            };
            dead.extend(listed);
            census.dead_lists -= 1;
            census.digest = census.digest.wrapping_sub(pair_digest(key, value));
            writes.push(Write { key: key.to_vec(), value: None });
            ControlFlow::Continue(())
        })?;
        failed.map_or(Ok(dead), Err)
    }
}

fn is_rotten(stat: &BlockStat) -> bool {
    stat.dead > 0 && stat.dead.saturating_mul(2) >= stat.records
}

/// Bytes and records of a block that are not dead; the bytes are an estimate.
fn alive(stat: &BlockStat) -> (usize, usize) {
    let alive = u64::from(stat.records - stat.dead);
    let bytes = u64::from(stat.raw_bytes) * alive / u64::from(stat.records);
    let length = |number: u64| usize::try_from(number).expect("no more than a block's");
    (length(bytes), length(alive))
}

fn read_block(
    backend: &dyn Backend,
    first: Revision,
    stat: &BlockStat,
) -> Result<Vec<Record>, BackendError> {
    let key = block_key(first);
    let value = backend.get(&key)?.ok_or(BackendError::BlockMissing(first))?;
    if pair_digest(&key, &value) != stat.digest {
        return Err(BackendError::Misplaced(first));
    }
    block::decode(&value).map_err(|error| BackendError::Block { revision: first, error })
}
