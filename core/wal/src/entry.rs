//! What goes into the log, in the words of Raft.

use std::collections::VecDeque;

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

/// Which entries come back from the disk. The others are read and checked like these, and let go:
/// a log may hold far more than whoever reads it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Every entry above this index.
    pub above: u64,
    /// Of those at or below it the last ones, at most so many …
    pub entries_max: u64,
    /// … and at most so many bytes of them.
    pub bytes_max: u64,
}

impl Kept {
    /// Every entry.
    pub const ALL: Kept = Kept { above: 0, entries_max: u64::MAX, bytes_max: u64::MAX };
}

/// The log as the batches so far leave it.
#[derive(Debug, Clone)]
pub(crate) struct LogState {
    pub(crate) hard_state: Option<HardState>,
    pub(crate) snapshot: Option<SnapshotMark>,
    /// The last ones, without a gap; which, says `kept`.
    pub(crate) entries: VecDeque<Entry>,
    /// Where each term begins, the entries let go included.
    pub(crate) terms: Vec<TermStart>,
    /// The index after the last.
    pub(crate) next_index: u64,
    kept: Kept,
    /// How many of `entries` are at or below `kept.above`, and their bytes.
    below: (u64, u64),
    /// No entry up to this index will be left at the end: they are let go at once.
    floor: u64,
    /// How many of `entries`, the last ones, share memory with what they were read from.
    borrowed: usize,
}

/// From this index on, entries are of this term, up to where the next one starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TermStart {
    /// The index.
    pub index: u64,
    /// The term.
    pub term: u64,
}

impl LogState {
    pub(crate) fn new(next_index: u64, kept: Kept) -> Self {
        LogState {
            hard_state: None,
            snapshot: None,
            entries: VecDeque::new(),
            terms: Vec::new(),
            next_index,
            kept,
            below: (0, 0),
            floor: 0,
            borrowed: 0,
        }
    }

    /// The log is known to go on to this index at least: of what `kept` asks for, nothing lies so far
    /// before the end that it need be kept for a while. What is applied is never replaced.
    pub(crate) fn will_reach(&mut self, index: u64) {
        self.floor = index.min(self.kept.above).saturating_sub(self.kept.entries_max);
    }

    /// The index of the first entry, kept or not, or of the next one if there is none.
    pub(crate) fn first_index(&self) -> u64 {
        self.terms.first().map_or(self.next_index, |first| first.index)
    }

    /// Adds a batch. A batch that restates repeats a mark already in force.
    pub(crate) fn fold(&mut self, batch: LogBatch, restates: bool) -> Result<(), &'static str> {
        if let Some(hard_state) = batch.hard_state {
            self.hard_state = Some(hard_state);
        }
        if let Some(mark) = batch.snapshot {
            self.snapshot = Some(mark);
            if !restates {
                self.cut_from(0);
                self.next_index = mark.index + 1;
            }
        }
        for entry in batch.entries {
            if entry.index > self.next_index {
                return Err("entries are missing before this one");
            }
            if entry.index < self.next_index {
                // A leader replaced what was not committed. Below the first index it means that
                // everything is replaced.
                self.cut_from(entry.index);
            }
            self.next_index = entry.index + 1;
            self.push(entry);
        }
        Ok(())
    }

    fn push(&mut self, entry: Entry) {
        if self.terms.last().is_none_or(|last| last.term != entry.term) {
            self.terms.push(TermStart { index: entry.index, term: entry.term });
        }
        if entry.index <= self.floor {
            return;
        }
        if entry.index <= self.kept.above {
            self.below.0 += 1;
            self.below.1 += payload_bytes(&entry);
        }
        self.entries.push_back(entry);
        self.borrowed += 1;
        while self.below.0 > self.kept.entries_max || self.below.1 > self.kept.bytes_max {
            let gone = self.entries.pop_front().expect("what is counted is there");
            self.uncount(&gone);
        }
        self.borrowed = self.borrowed.min(self.entries.len());
    }

    /// Gives the entries that are left memory of their own, so that the segment they were read from
    /// can go. Most entries of a long log are let go without ever having been copied.
    pub(crate) fn own(&mut self) {
        let owned = self.entries.len() - std::mem::take(&mut self.borrowed);
        for entry in self.entries.range_mut(owned..) {
            // One copy for both parts.
            let payload = Bytes::from([&entry.context[..], &entry.data].concat());
            let context_bytes = entry.context.len();
            entry.context = payload.slice(..context_bytes);
            entry.data = payload.slice(context_bytes..);
        }
    }

    fn cut_from(&mut self, index: u64) {
        while self.terms.last().is_some_and(|last| last.index >= index) {
            self.terms.pop();
        }
        while self.entries.back().is_some_and(|last| last.index >= index) {
            let gone = self.entries.pop_back().expect("looked at just above");
            self.borrowed = self.borrowed.saturating_sub(1);
            self.uncount(&gone);
        }
    }

    fn uncount(&mut self, gone: &Entry) {
        if gone.index <= self.kept.above {
            self.below.0 -= 1;
            self.below.1 -= payload_bytes(gone);
        }
    }
}

fn payload_bytes(entry: &Entry) -> u64 {
    (entry.context.len() + entry.data.len()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(entries: impl IntoIterator<Item = (u64, u64)>) -> LogBatch {
        let entry = |(index, term)| Entry {
            index,
            term,
            data: Bytes::from_static(&[0; 10]),
            ..Entry::default()
        };
        LogBatch { entries: entries.into_iter().map(entry).collect(), ..LogBatch::default() }
    }

    fn kept(above: u64, entries_max: u64, bytes_max: u64) -> LogState {
        let mut state = LogState::new(1, Kept { above, entries_max, bytes_max });
        state.fold(batch((1..=20).map(|index| (index, 1 + index / 10))), false).unwrap();
        state
    }

    fn indexes(state: &LogState) -> Vec<u64> {
        state.entries.iter().map(|entry| entry.index).collect()
    }

    #[test]
    fn everything_above_comes_back_and_so_much_of_the_rest_as_is_allowed() {
        assert_eq!(indexes(&kept(0, 0, 0)), (1..=20).collect::<Vec<_>>());
        assert_eq!(indexes(&kept(15, 0, 0)), (16..=20).collect::<Vec<_>>());
        assert_eq!(indexes(&kept(15, 3, u64::MAX)), (13..=20).collect::<Vec<_>>());
        assert_eq!(indexes(&kept(15, u64::MAX, 45)), (12..=20).collect::<Vec<_>>());
        assert_eq!(indexes(&kept(30, 2, u64::MAX)), [19, 20]);
    }

    #[test]
    fn of_what_is_let_go_the_terms_are_still_known() {
        let mut state = kept(20, 0, 0);
        let starts = |state: &LogState| {
            state.terms.iter().map(|start| (start.index, start.term)).collect::<Vec<_>>()
        };
        assert_eq!(starts(&state), [(1, 1), (10, 2), (20, 3)]);
        assert_eq!((state.first_index(), state.next_index), (1, 21));
        state.fold(batch([(15, 4)]), false).unwrap();
        assert_eq!(starts(&state), [(1, 1), (10, 2), (15, 4)]);
        state.fold(batch([(1, 5)]), false).unwrap();
        assert_eq!((starts(&state), state.first_index()), (vec![(1, 5)], 1));
        let mark = SnapshotMark { index: 40, term: 6 };
        state.fold(LogBatch { snapshot: Some(mark), ..batch([]) }, false).unwrap();
        assert_eq!((starts(&state), state.first_index()), (vec![], 41));
    }

    #[test]
    fn entries_that_replace_what_was_let_go_leave_no_gap() {
        let mut state = kept(18, 4, u64::MAX);
        assert_eq!(indexes(&state), (15..=20).collect::<Vec<_>>());
        state.fold(batch([(12, 4), (13, 4)]), false).unwrap();
        assert_eq!(indexes(&state), [12, 13]);
        state.fold(batch((14..=19).map(|index| (index, 4))), false).unwrap();
        assert_eq!(indexes(&state), (15..=19).collect::<Vec<_>>());
    }

    #[test]
    fn what_will_not_be_left_is_let_go_at_once() {
        let kept = Kept { above: 18, entries_max: 5, bytes_max: u64::MAX };
        let read = |reaches: &[u64]| {
            let mut state = LogState::new(1, kept);
            reaches.iter().for_each(|index| state.will_reach(*index));
            state.fold(batch((1..=20).map(|index| (index, 1 + index / 10))), false).unwrap();
            (state.entries, state.terms, state.next_index)
        };
        for reach in [0, 4, 10, 17, 18, 19, 20] {
            assert_eq!(read(&[reach]), read(&[]), "known to reach {reach}");
        }
        let mut state = LogState::new(1, kept);
        state.will_reach(20);
        state.fold(batch((1..=13).map(|index| (index, 1))), false).unwrap();
        assert_eq!((indexes(&state), state.next_index), (vec![], 14));
        // Not of a log that holds what was promised; no gap all the same.
        state.fold(batch((9..=15).map(|index| (index, 2))), false).unwrap();
        assert_eq!(indexes(&state), [14, 15]);
    }

    #[test]
    fn what_is_left_of_a_segment_has_memory_of_its_own() {
        let mut state = LogState::new(1, Kept { above: 20, entries_max: 6, bytes_max: u64::MAX });
        let segment = |terms: u64| {
            let memory = Bytes::from(vec![7; 200]);
            let entries = (0..20).map(|at| Entry {
                index: 1 + at,
                term: terms,
                context: memory.slice(at as usize * 10..at as usize * 10 + 3),
                data: memory.slice(at as usize * 10 + 3..at as usize * 10 + 10),
                ..Entry::default()
            });
            (memory.clone(), LogBatch { entries: entries.collect(), ..LogBatch::default() })
        };
        let shares = |memory: &Bytes, entry: &Entry| {
            memory.as_ptr_range().contains(&entry.data.as_ptr())
                || memory.as_ptr_range().contains(&entry.context.as_ptr())
        };
        let (first, batch) = segment(1);
        state.fold(batch, false).unwrap();
        assert!(state.entries.iter().all(|entry| shares(&first, entry)));
        state.own();
        assert_eq!(indexes(&state), (15..=20).collect::<Vec<_>>());
        let (second, mut batch) = segment(2);
        batch.entries.drain(..17);
        state.fold(batch, false).unwrap();
        assert_eq!(indexes(&state), (15..=20).collect::<Vec<_>>());
        state.own();
        for entry in &state.entries {
            assert!(!shares(&first, entry) && !shares(&second, entry));
            assert_eq!((&entry.context[..], &entry.data[..]), (&[7; 3][..], &[7; 7][..]));
        }
    }
}
