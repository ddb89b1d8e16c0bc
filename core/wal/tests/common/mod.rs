//! What the tests share: a small deterministic generator, a model of the log, entry builders.

#![allow(dead_code, reason = "each test file uses its own part")]

use bytes::Bytes;
use wal::mem::MemDisk;
use wal::{Entry, HardState, Identity, Log, LogBatch, LogOptions, Recovered, SnapshotMark};

/// The owner of every test log.
pub(crate) const OWNER: Identity = Identity { cluster_id: 0xc1, member_id: 0x11 };
/// Small segments, so that rollovers happen.
pub(crate) const SMALL_SEGMENT_BYTES: u64 = 16 << 10;

/// SplitMix64: enough for tests, the same everywhere.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

pub(crate) fn options(salt_seed: u64) -> LogOptions {
    LogOptions { segment_bytes: SMALL_SEGMENT_BYTES, salt_seed, ..LogOptions::default() }
}

pub(crate) fn entry(term: u64, index: u64, data: &str) -> Entry {
    Entry {
        term,
        index,
        kind: (index % 3) as u8,
        context: Bytes::from(vec![7; (index % 5) as usize]),
        data: Bytes::copy_from_slice(data.as_bytes()),
    }
}

pub(crate) fn entries(term: u64, from: u64, to: u64) -> LogBatch {
    let make = |index| entry(term, index, &format!("entry {index} of term {term}"));
    LogBatch { entries: (from..=to).map(make).collect(), ..LogBatch::default() }
}

pub(crate) fn hard_state(term: u64, vote: u64, commit: u64) -> LogBatch {
    LogBatch { hard_state: Some(HardState { term, vote, commit }), ..LogBatch::default() }
}

pub(crate) fn mark(index: u64, term: u64) -> LogBatch {
    LogBatch { snapshot: Some(SnapshotMark { index, term }), ..LogBatch::default() }
}

/// Opens the log on the disk, leaving the disk with the caller.
pub(crate) fn recover(disk: &mut MemDisk) -> Recovered {
    Log::open(disk, Some(OWNER), options(99)).expect("the log opens").1
}

/// The log as a plain value; nothing is ever released from it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Model {
    pub(crate) hard_state: Option<HardState>,
    pub(crate) snapshot: Option<SnapshotMark>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) next_index: u64,
}

impl Model {
    pub(crate) fn new() -> Self {
        Self { next_index: 1, ..Self::default() }
    }

    pub(crate) fn apply(&mut self, batch: &LogBatch) {
        if batch.hard_state.is_some() {
            self.hard_state = batch.hard_state;
        }
        if let Some(mark) = batch.snapshot {
            self.snapshot = Some(mark);
            self.entries.clear();
            self.next_index = mark.index + 1;
        }
        for entry in &batch.entries {
            self.entries.retain(|kept| kept.index < entry.index);
            self.entries.push(entry.clone());
            self.next_index = entry.index + 1;
        }
    }

    /// True if `recovered` is this log, of which entries up to `released` may be gone.
    pub(crate) fn matches(&self, recovered: &Recovered, released: u64) -> bool {
        let first = recovered.first_index;
        let rest: Vec<&Entry> = self.entries.iter().filter(|entry| entry.index >= first).collect();
        let missing =
            self.entries.iter().any(|entry| entry.index < first && entry.index > released);
        recovered.hard_state == self.hard_state
            && recovered.snapshot == self.snapshot
            && recovered.last_index + 1 == self.next_index
            && !missing
            && rest == recovered.entries.iter().collect::<Vec<_>>()
    }
}
