//! What goes into the log, in the words of Raft.

use bytes::Bytes;

/// Whose log it is. A directory never changes its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster_id: u64,
    /// The member of the cluster.
    pub member_id: u64,
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cluster {:x} member {:x}", self.cluster_id, self.member_id)
    }
}

/// One entry of the log. The log does not look into `kind`, `context` and `data`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entry {
    /// The term of the leader that made it.
    pub term: u64,
    /// Its place in the log; the first is 1.
    pub index: u64,
    /// What kind of entry it is, the owner's affair.
    pub kind: u8,
    /// A short companion of the data, the owner's affair.
    pub context: Bytes,
    /// The content.
    pub data: Bytes,
}

/// What a voter must not forget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HardState {
    /// The current term.
    pub term: u64,
    /// Whom the member voted for in that term; 0 is nobody.
    pub vote: u64,
    /// The highest index known to be committed.
    pub commit: u64,
}

/// The log restarts behind a snapshot that came from elsewhere. A snapshot the member took of its
/// own state needs none: the log goes on, and `release` lets go of what the snapshot contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotMark {
    /// The last index the snapshot contains.
    pub index: u64,
    /// The term of that index.
    pub term: u64,
}

/// What one append writes: all of it is recovered, or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogBatch {
    /// The hard state, if it changed.
    pub hard_state: Option<HardState>,
    /// Entries with consecutive indexes. The first replaces what the log holds from that index on.
    pub entries: Vec<Entry>,
    /// The log restarts here: every entry written before is superseded, and the next index is
    /// the mark's plus one. Takes effect before the entries of the same batch.
    pub snapshot: Option<SnapshotMark>,
}

impl LogBatch {
    /// True if there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.hard_state.is_none() && self.entries.is_empty() && self.snapshot.is_none()
    }
}

/// The log as the batches so far leave it.
#[derive(Debug, Clone, Default)]
pub(crate) struct LogState {
    pub(crate) hard_state: Option<HardState>,
    pub(crate) snapshot: Option<SnapshotMark>,
    pub(crate) entries: Vec<Entry>,
    /// The index after the last.
    pub(crate) next_index: u64,
}

impl LogState {
    /// Adds a batch. A batch that restates repeats a mark already in force.
    pub(crate) fn fold(&mut self, batch: LogBatch, restates: bool) -> Result<(), &'static str> {
        if let Some(hard_state) = batch.hard_state {
            self.hard_state = Some(hard_state);
        }
        if let Some(mark) = batch.snapshot {
            self.snapshot = Some(mark);
            if !restates {
                self.entries.clear();
                self.next_index = mark.index + 1;
            }
        }
        for entry in batch.entries {
            if entry.index > self.next_index {
                return Err("entries are missing before this one");
            }
            if entry.index < self.next_index {
                // A leader replaced what was not committed. Below the first index kept it means
                // that all of what is kept is replaced.
                let first = self.entries.first().map_or(entry.index, |first| first.index);
                let keep = entry.index.saturating_sub(first);
                self.entries.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
            }
            self.next_index = entry.index + 1;
            self.entries.push(entry);
        }
        Ok(())
    }
}
