//! From what the disk remembers to a log raft can start from.
//!
//! raft-rs panics at a log that contradicts itself; here it is an error that names the
//! contradiction, because what to do then (ask the peers, ask the operator) is for others to say.
//! One difference is no contradiction: the commit index is written lazily, so the state may have
//! applied more than it says. What was applied was committed, and the commit index is raised to it.

use proto::log::{ConfState, Entry, HardState, SnapshotMeta};

use crate::config::{Boot, INDEX_MAX};
use crate::convert;
use crate::error::ConsensusError;
use crate::log_cache::LogCache;
use crate::validate;

/// A log to start from.
pub(crate) struct Opened {
    pub(crate) log: LogCache,
    pub(crate) applied: u64,
    /// Nothing is known, not even the configuration: a snapshot must come first.
    pub(crate) joining: bool,
}

/// Checks what the disk remembers and makes the log of it.
pub(crate) fn open(boot: Boot) -> Result<Opened, ConsensusError> {
    let Boot { hard_state, snapshot, entries, applied, conf_state } = boot;
    check_conf_state(&conf_state)?;
    if let Some(meta) = &snapshot {
        validate::check_snapshot(meta, INDEX_MAX)
            .map_err(|error| ConsensusError::Boot(error.to_string()))?;
    }
    check_entries(&entries)?;

    let joining = conf_state == ConfState::default();
    if joining && (snapshot.is_some() || !entries.is_empty() || applied > 0) {
        return fail("a log without a configuration".to_owned());
    }
    let (before, entries) = join(snapshot.as_ref(), entries)?;
    let last = entries.last().map_or(before, |entry| (entry.index, entry.term));
    check_applied(applied, snapshot.as_ref(), last.0)?;
    let hard_state = raise(hard_state.unwrap_or_default(), applied, last)?;

    let mut log = LogCache::new(
        before,
        // One without chunks only says where the log begins.
        snapshot.filter(|meta| !meta.chunks.is_empty()),
        convert::hard_state_to_raft(&hard_state),
        convert::conf_state_to_raft(&conf_state),
    );
    let entries: Vec<_> = entries.into_iter().map(convert::entry_to_raft).collect();
    log.append(&entries);
    log.set_applied(applied);
    Ok(Opened { log, applied, joining })
}

fn check_conf_state(conf_state: &ConfState) -> Result<(), ConsensusError> {
    validate::check_conf_state(conf_state).map_err(|error| ConsensusError::Boot(error.to_owned()))
}

/// Entries follow each other, in terms that only rise.
fn check_entries(entries: &[Entry]) -> Result<(), ConsensusError> {
    let mut previous: Option<&Entry> = None;
    for entry in entries {
        if entry.index == 0 || entry.index > INDEX_MAX || entry.term == 0 || entry.term > INDEX_MAX
        {
            return fail(format!("entry {} of term {} is out of range", entry.index, entry.term));
        }
        if let Some(previous) = previous {
            if entry.index != previous.index + 1 {
                return fail(format!("entry {} follows entry {}", entry.index, previous.index));
            }
            if entry.term < previous.term {
                return fail(format!(
                    "entry {} has term {}, below term {} before it",
                    entry.index, entry.term, previous.term
                ));
            }
        }
        previous = Some(entry);
    }
    Ok(())
}

/// Joins snapshot and entries: the index and term before the log, and the entries of the log.
fn join(
    snapshot: Option<&SnapshotMeta>,
    mut entries: Vec<Entry>,
) -> Result<((u64, u64), Vec<Entry>), ConsensusError> {
    let base = snapshot.map_or((0, 0), |meta| (meta.index, meta.term));
    let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
        return Ok((base, entries));
    };
    if last.index < base.0 {
        // The snapshot has overtaken the log.
        return Ok((base, Vec::new()));
    }
    if first.index > base.0 + 1 {
        return fail(format!(
            "entry {} is the first after the snapshot at {}",
            first.index, base.0
        ));
    }
    if first.index == base.0 + 1 {
        if first.term < base.1 {
            return fail(format!(
                "entry {} has term {}, below term {} of the snapshot before it",
                first.index, first.term, base.1
            ));
        }
        return Ok((base, entries));
    }
    let at_snapshot = &entries[(base.0 - first.index) as usize];
    if at_snapshot.term != base.1 {
        return fail(format!(
            "entry {} has term {}, the snapshot at it has term {}",
            base.0, at_snapshot.term, base.1
        ));
    }
    if first.index == 1 {
        return Ok(((0, 0), entries));
    }
    // The term before the first entry is not known, so the first entry is what lies before the log.
    let before = entries.remove(0);
    Ok(((before.index, before.term), entries))
}

fn check_applied(
    applied: u64,
    snapshot: Option<&SnapshotMeta>,
    last: u64,
) -> Result<(), ConsensusError> {
    let snapshot = snapshot.map_or(0, |meta| meta.index);
    if applied < snapshot {
        return fail(format!("the state is at {applied}, behind the snapshot at {snapshot}"));
    }
    if applied > last {
        return fail(format!("the state is at {applied}, beyond the last entry {last}"));
    }
    Ok(())
}

/// Raises the commit index to what is applied, and checks the rest against the log.
fn raise(
    mut hard_state: HardState,
    applied: u64,
    last: (u64, u64),
) -> Result<HardState, ConsensusError> {
    if hard_state.term > INDEX_MAX {
        return fail(format!("term {} is out of range", hard_state.term));
    }
    if hard_state.commit > last.0 {
        return fail(format!(
            "commit index {} is beyond the last entry {}",
            hard_state.commit, last.0
        ));
    }
    if hard_state.term < last.1 {
        return fail(format!(
            "term {} is below term {} of the last entry {}",
            hard_state.term, last.1, last.0
        ));
    }
    hard_state.commit = hard_state.commit.max(applied);
    Ok(hard_state)
}

fn fail<T>(reason: String) -> Result<T, ConsensusError> {
    Err(ConsensusError::Boot(reason))
}

#[cfg(test)]
mod tests {
    use raft::Storage;

    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, ..Default::default() }
    }

    fn conf() -> ConfState {
        ConfState { voters: vec![1, 2, 3], ..Default::default() }
    }

    fn meta(index: u64, term: u64) -> SnapshotMeta {
        SnapshotMeta { index, term, conf_state: Some(conf()), ..Default::default() }
    }

    fn boot(snapshot: Option<SnapshotMeta>, entries: Vec<Entry>, applied: u64) -> Boot {
        let term = entries.last().map_or(0, |entry| entry.term);
        let term = term.max(snapshot.as_ref().map_or(0, |meta| meta.term));
        Boot {
            hard_state: Some(HardState { term, vote: 0, commit: 0 }),
            snapshot,
            entries,
            applied,
            conf_state: conf(),
        }
    }

    fn window(boot: Boot) -> (u64, u64) {
        let log = open(boot).unwrap_or_else(|error| panic!("{error}")).log;
        (log.first_index().unwrap(), log.last_index().unwrap())
    }

    fn error(boot: Boot) -> String {
        open(boot).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn logs_that_agree_with_themselves_are_taken() {
        let entries = |range: std::ops::Range<u64>| range.map(|i| entry(i, 1)).collect::<Vec<_>>();
        assert_eq!(window(boot(None, vec![], 0)), (1, 0));
        assert_eq!(window(boot(None, entries(1..6), 3)), (1, 5));
        assert_eq!(window(boot(Some(meta(5, 1)), vec![], 5)), (6, 5));
        assert_eq!(window(boot(Some(meta(5, 1)), entries(6..9), 5)), (6, 8));
        assert_eq!(window(boot(Some(meta(5, 1)), entries(1..9), 7)), (1, 8));
        assert_eq!(window(boot(Some(meta(5, 1)), entries(3..9), 5)), (4, 8));
        assert_eq!(window(boot(Some(meta(5, 1)), entries(1..4), 5)), (6, 5));
    }

    #[test]
    fn the_commit_index_is_raised_to_what_is_applied() {
        let opened = open(boot(None, vec![entry(1, 1), entry(2, 1)], 2)).ok().unwrap();
        assert_eq!(opened.log.initial_state().unwrap().hard_state.commit, 2);
    }

    #[test]
    fn a_member_that_knows_nothing_is_joining_and_a_founder_is_not() {
        assert!(open(Boot::default()).ok().unwrap().joining);
        assert!(!open(boot(None, vec![], 0)).ok().unwrap().joining);
    }

    #[test]
    fn logs_that_contradict_themselves_are_errors_that_name_the_contradiction() {
        let two = || vec![entry(1, 1), entry(2, 2)];
        let with = |change: fn(&mut Boot)| {
            let mut boot = boot(None, two(), 0);
            change(&mut boot);
            error(boot)
        };
        let cases = [
            (with(|b| b.entries[1].index = 3), "entry 3 follows entry 1"),
            (with(|b| b.entries[0].term = 3), "entry 2 has term 2, below term 3 before it"),
            (with(|b| b.entries[0].term = 0), "entry 1 of term 0 is out of range"),
            (with(|b| b.entries[1].index = u64::MAX), "is out of range"),
            (with(|b| b.applied = 3), "the state is at 3, beyond the last entry 2"),
            (
                with(|b| b.hard_state.as_mut().unwrap().commit = 3),
                "commit index 3 is beyond the last entry 2",
            ),
            (with(|b| b.hard_state = None), "term 0 is below term 2 of the last entry 2"),
            (with(|b| b.conf_state.voters = vec![1, 1]), "configuration with a member twice"),
            (with(|b| b.conf_state = ConfState::default()), "a log without a configuration"),
            (
                error(boot(None, vec![entry(2, 1)], 0)),
                "entry 2 is the first after the snapshot at 0",
            ),
            (
                error(boot(Some(meta(5, 1)), vec![entry(7, 1)], 5)),
                "entry 7 is the first after the snapshot at 5",
            ),
            (
                error(boot(Some(meta(2, 1)), two(), 2)),
                "entry 2 has term 2, the snapshot at it has term 1",
            ),
            (
                error(boot(Some(meta(5, 3)), vec![entry(6, 2)], 5)),
                "entry 6 has term 2, below term 3 of the snapshot before it",
            ),
            (
                error(boot(Some(meta(5, 1)), vec![], 4)),
                "the state is at 4, behind the snapshot at 5",
            ),
        ];
        for (found, expected) in cases {
            assert!(found.contains(expected), "{found:?} does not say {expected:?}");
        }
    }
}
