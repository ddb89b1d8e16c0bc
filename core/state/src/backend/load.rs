//! Reading a key space back at boot, believing nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use thiserror::Error;

use super::{
    APPLIED_KEY, Backend, BackendError, Census, DEAD_PREFIX, Mark, TABLE_PREFIX, block_first,
    dead_of, pair_digest, printable, row_of,
};
use crate::block;
use crate::command::{Limits, PartsError, State};
use crate::mvcc::{Both, Gathered};
use crate::parts::{Applied, Row, StateParts};
use crate::record::{Record, Revision};
use crate::values::Values;

/// What is known of a block without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockStat {
    /// [`pair_digest`] of its key and value.
    pub digest: u64,
    /// Records in it.
    pub records: u32,
    /// How many of them are listed as dead; at most this many really are.
    pub dead: u32,
    /// Bytes of its records before compression.
    pub raw_bytes: u32,
}

/// Where things lie in a key space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    pub(super) mark: Mark,
    /// By revision of the first record.
    pub(super) blocks: BTreeMap<Revision, BlockStat>,
    /// Digest of each row, by its whole key.
    pub(super) rows: BTreeMap<Vec<u8>, u64>,
    /// Dead records of no list, found while loading.
    pub(super) unlisted: Vec<Revision>,
}

/// What was found in a backend.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The state at the index of the last batch that survived.
    pub parts: StateParts,
    /// To go on writing with [`super::Writeback::resume`].
    pub layout: Layout,
}

/// Why what a backend holds is no state.
#[derive(Debug, Error)]
pub enum LoadError {
    /// It is not what was written.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// It is, but no state comes apart into this.
    #[error(transparent)]
    Parts(#[from] PartsError),
}

/// Reads the whole key space, checking every checksum, the order of all records, and the number and
/// digest of all pairs. `None` if it is empty.
///
/// # Errors
/// [`BackendError`] at the slightest doubt: the generation is to be dropped and built anew from the
/// newest snapshot and the log.
pub fn load(backend: &dyn Backend) -> Result<Option<Loaded>, BackendError> {
    let Some(mut loading) = Loading::begin(backend, Values::default())? else { return Ok(None) };
    loading.list_dead(backend)?;
    each_pair(backend, b"", &mut |pair| loading.add(pair))?;
    loading.finish().map(Some)
}

/// Reads every pair whose key begins with `prefix`, until one is not right.
fn each_pair(
    backend: &dyn Backend,
    prefix: &[u8],
    take: &mut dyn FnMut(Pair) -> Result<(), BackendError>,
) -> Result<(), BackendError> {
    let mut failed = None;
    backend.scan(prefix, &mut |key, value| match Pair::read(key, value).and_then(&mut *take) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            failed = Some(error);
            ControlFlow::Break(())
        }
    })?;
    failed.map_or(Ok(()), Err)
}

/// One pair of a key space, read and found whole by itself. That is most of the work of loading, and
/// may be done for many pairs at a time; [`Loading::add`] then judges them in order.
#[derive(Debug)]
pub struct Pair {
    key: Vec<u8>,
    digest: u64,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Mark,
    Row(Row),
    Dead { block: Revision, dead: Vec<Revision> },
    Block { first: Revision, records: Vec<Record> },
}

impl Pair {
    /// Reads a pair and checks it, as far as it can be judged without the others.
    ///
    /// # Errors
    /// [`BackendError`], as [`load`].
    pub fn read(key: &[u8], value: &[u8]) -> Result<Self, BackendError> {
        let damaged = || BackendError::Row(printable(key));
        let content = if key == APPLIED_KEY {
            Content::Mark
        } else if key.starts_with(TABLE_PREFIX) {
            Content::Row(row_of(key, value).ok_or_else(damaged)?)
        } else if key.starts_with(DEAD_PREFIX) {
            let (block, dead) = dead_of(key, value).ok_or_else(damaged)?;
            Content::Dead { block, dead }
        } else {
            let first = block_first(key);
            let first = first.ok_or_else(|| BackendError::UnknownKey(printable(key)))?;
            let records = block::decode(value)
                .map_err(|error| BackendError::Block { revision: first, error })?;
            Content::Block { first, records }
        };
        Ok(Self { key: key.to_vec(), digest: pair_digest(key, value), content })
    }
}

/// A key space on its way to become a state, pair by pair.
pub struct Loading {
    rows: Vec<Row>,
    records: Gathered,
    /// The last record that was read, dead or not.
    last: Revision,
    layout: Layout,
    census: Census,
    /// What is listed as dead, by block, until the block comes.
    dead: BTreeMap<Revision, BTreeSet<Revision>>,
    /// The lists [`Loading::list_dead`] has seen and [`Loading::add`] has not yet.
    lists_left: Census,
    values: Values,
}

impl std::fmt::Debug for Loading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loading").field("last", &self.last).finish_non_exhaustive()
    }
}

impl Loading {
    /// Begins with the mark, which says what must be found. `None` if the key space is empty. Values that
    /// `values` keeps apart are checked and left where they are.
    ///
    /// # Errors
    /// [`BackendError`], as [`load`].
    pub fn begin(backend: &dyn Backend, values: Values) -> Result<Option<Self>, BackendError> {
        let Some(mark) = backend.get(APPLIED_KEY)? else {
            let mut found = None;
            backend.scan(b"", &mut |key, _| {
                found = Some(printable(key));
                ControlFlow::Break(())
            })?;
            return found.map_or(Ok(None), |key| Err(BackendError::Unmarked(key)));
        };
        let mark = Mark::decode(&mark)?;
        Ok(Some(Self {
            rows: Vec::new(),
            records: Gathered::default(),
            last: Revision::default(),
            layout: Layout { mark, ..Layout::default() },
            census: Census::default(),
            dead: BTreeMap::new(),
            lists_left: Census::default(),
            values,
        }))
    }

    /// Reads which records are dead, to be done before any pair is added: the lists come behind all
    /// blocks, and what has been taken up is not easily put away again.
    ///
    /// # Errors
    /// [`BackendError`], as [`load`].
    pub fn list_dead(&mut self, backend: &dyn Backend) -> Result<(), BackendError> {
        each_pair(backend, DEAD_PREFIX, &mut |Pair { key, digest, content }| {
            let Content::Dead { block, dead } = content else {
                return Err(BackendError::UnknownKey(printable(&key)));
            };
            self.lists_left.dead_lists += 1;
            self.lists_left.digest = self.lists_left.digest.wrapping_add(digest);
            self.dead.entry(block).or_default().extend(dead);
            Ok(())
        })
    }

    /// Position in the log of the state that is being loaded.
    #[must_use]
    pub fn applied(&self) -> &Applied {
        &self.layout.mark.applied
    }

    /// Takes the next pair, in order of keys.
    ///
    /// # Errors
    /// [`BackendError`], as [`load`].
    pub fn add(&mut self, pair: Pair) -> Result<(), BackendError> {
        let Pair { key, digest, content } = pair;
        if !matches!(content, Content::Mark) {
            self.census.digest = self.census.digest.wrapping_add(digest);
        }
        match content {
            Content::Mark => {}
            Content::Row(row) => {
                self.census.rows += 1;
                self.rows.push(row);
                self.layout.rows.insert(key, digest);
            }
            Content::Dead { block, dead } => {
                // Blocks come before, by prefix.
                let stat = self.layout.blocks.get_mut(&block);
                let stat = stat.ok_or_else(|| BackendError::Row(printable(&key)))?;
                let more = u32::try_from(dead.len()).unwrap_or(u32::MAX);
                stat.dead = stat.dead.saturating_add(more).min(stat.records);
                self.census.dead_lists += 1;
                self.lists_left.dead_lists = self.lists_left.dead_lists.wrapping_sub(1);
                self.lists_left.digest = self.lists_left.digest.wrapping_sub(digest);
            }
            Content::Block { first, records } => self.add_block(first, digest, records)?,
        }
        Ok(())
    }

    fn add_block(
        &mut self,
        first: Revision,
        digest: u64,
        records: Vec<Record>,
    ) -> Result<(), BackendError> {
        let applied = self.layout.mark.applied.revision;
        let begins = records.first().map(|it| it.revision());
        let ends = records.last().map_or(first, |it| it.revision());
        if begins != Some(first) || first <= self.last || ends.main > applied {
            return Err(BackendError::Misplaced(first));
        }
        self.last = ends;
        self.census.blocks += 1;
        let stat = BlockStat {
            digest,
            records: u32::try_from(records.len()).expect("a block counts its records in 32 bits"),
            dead: 0,
            raw_bytes: raw_bytes(&records),
        };
        self.layout.blocks.insert(first, stat);
        let dead = self.dead.remove(&first).unwrap_or_default();
        for record in records {
            if !dead.contains(&record.revision()) {
                self.records.push(self.values.entry_of(record));
            }
        }
        Ok(())
    }

    /// The state, once every pair has been added. What can be done by two threads is given to `both`.
    ///
    /// # Errors
    /// [`BackendError::Digest`] if what was added is not what the mark counted, [`LoadError::Parts`] if no
    /// state consists of it.
    pub fn into_state(self, limits: Limits, both: Both<'_>) -> Result<(State, Layout), LoadError> {
        let values = self.values.clone();
        let (rows, records, layout) = self.checked()?;
        let state = State::build(layout.mark.applied, rows, records, limits, values, both)?;
        Ok((state, layout))
    }

    /// The same, in parts.
    fn finish(self) -> Result<Loaded, BackendError> {
        let (rows, records, layout) = self.checked()?;
        let (applied, records) = (layout.mark.applied, records.records().cloned().collect());
        Ok(Loaded { parts: StateParts { applied, rows, records }, layout })
    }

    fn checked(self) -> Result<(Vec<Row>, Gathered, Layout), BackendError> {
        let Self { mut rows, mut records, mut layout, census, lists_left, .. } = self;
        let mark = layout.mark;
        // Lists are read twice, and must be the same.
        if census != mark.census || lists_left != Census::default() {
            return Err(BackendError::Digest { counted: mark.census, found: census });
        }
        if mark.swept_revision < mark.applied.compact_revision {
            layout.unlisted = shadowed(&records, mark.applied.compact_revision);
            records = records.without(&layout.unlisted);
        }
        // The key space is in order of table names, a state's parts in order of tables.
        rows.sort();
        Ok((rows, records, layout))
    }
}

/// Records that a compaction drops but had not dropped yet, in the order it would: what a newer
/// record at or before the compact revision supersedes, and tombstones before it.
fn shadowed(records: &Gathered, compact_revision: i64) -> Vec<Revision> {
    let is_later = |record: &&Record| record.mod_revision() > compact_revision;
    let mut newer: BTreeSet<&[u8]> = BTreeSet::new();
    let mut dropped = Vec::new();
    for record in records.records().rev().skip_while(is_later) {
        let is_superseded = !newer.insert(record.key());
        if is_superseded || record.is_tombstone() && record.mod_revision() < compact_revision {
            dropped.push(record.revision());
        }
    }
    dropped.reverse();
    dropped
}

/// Bytes of records before compression.
pub(super) fn raw_bytes(records: &[Record]) -> u32 {
    let bytes: usize = records.iter().map(Record::bytes_len).sum();
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
