//! How much of its log a member brings back into memory.

use member::state::{Limits, StateParts, Values};
use member::wal::mem::MemDisk;
use member::wal::{Entry, HardState, Identity, LogBatch, LogOptions};
use member::{BASE_INDEX, BASE_TERM, Booted, Recovery, bootstrap, recover};
use proto::log::Member as MemberRow;

const OWNER: Identity = Identity { cluster_id: 7, member_id: 1 };
const LAST: u64 = 20;
const APPLIED: u64 = 15;

fn recovery(log_entries_kept: u64) -> Recovery {
    let (log, limits) = (LogOptions::default(), Limits::default());
    Recovery { log, limits, log_entries_kept, log_bytes_kept: 1 << 20, values: Values::default() }
}

fn founders() -> StateParts {
    let row = MemberRow { id: OWNER.member_id, name: "m1".to_owned(), ..MemberRow::default() };
    StateParts::new_cluster(&[row])
}

/// What a backend would hold.
fn backend(term: u64) -> Option<StateParts> {
    Some(founders().rebased(APPLIED, term))
}

struct Disks(MemDisk, MemDisk);

impl Disks {
    /// A member with a snapshot at the beginning and a log up to [`LAST`].
    fn with_a_log() -> Disks {
        let (mut snapshots, mut log) = (MemDisk::default(), MemDisk::default());
        bootstrap(&mut snapshots, &mut log, OWNER, founders(), &recovery(0)).expect("a whole disk");
        let mut disks = Disks(snapshots, log);
        let mut booted = disks.recover(0, None);
        let entry = |index| Entry { index, term: BASE_TERM, ..Entry::default() };
        let batch = LogBatch {
            hard_state: Some(HardState { term: BASE_TERM, vote: 0, commit: LAST }),
            entries: (BASE_INDEX + 1..=LAST).map(entry).collect(),
            snapshot: None,
        };
        booted.log.append(&batch).expect("written");
        booted.log.sync().expect("synced");
        drop(booted);
        disks
    }

    fn recover(&mut self, kept: u64, backend: Option<StateParts>) -> Booted<&mut MemDisk> {
        recover(&mut self.0, &mut self.1, Some(OWNER), &recovery(kept), backend).expect("whole")
    }
}

fn indexes(booted: &Booted<&mut MemDisk>) -> Vec<u64> {
    booted.boot.entries.iter().map(|entry| entry.index).collect()
}

#[test]
fn of_what_the_backend_holds_only_the_allowance_comes_into_memory() {
    let mut disks = Disks::with_a_log();
    for (kept, before) in [(0, APPLIED), (3, APPLIED - 3), (APPLIED - 2, BASE_INDEX + 1)] {
        let booted = disks.recover(kept, backend(BASE_TERM));
        assert!(booted.from_backend);
        assert_eq!(indexes(&booted), (before + 1..=LAST).collect::<Vec<_>>());
        let snapshot = booted.boot.snapshot.as_ref().expect("says where the log begins");
        assert_eq!((snapshot.index, snapshot.term), (before, BASE_TERM));
        assert!(snapshot.chunks.is_empty(), "it is no snapshot that could be sent");
        assert_eq!(booted.held.newest.as_ref().map(|meta| meta.index), Some(BASE_INDEX));
        assert_eq!((booted.boot.applied, booted.log.stats().first_index), (APPLIED, 2));
    }
}

#[test]
fn a_log_that_goes_on_from_the_newest_snapshot_is_said_to() {
    let mut disks = Disks::with_a_log();
    let booted = disks.recover(LAST, backend(BASE_TERM));
    assert_eq!(indexes(&booted), (BASE_INDEX + 1..=LAST).collect::<Vec<_>>());
    assert_eq!(booted.boot.snapshot, booted.held.newest);
}

#[test]
fn a_backend_that_does_not_fit_costs_no_entries() {
    let mut disks = Disks::with_a_log();
    for foreign in [None, backend(BASE_TERM + 1)] {
        let booted = disks.recover(0, foreign);
        assert!(!booted.from_backend);
        assert_eq!(booted.boot.applied, BASE_INDEX);
        assert_eq!(indexes(&booted), (BASE_INDEX + 1..=LAST).collect::<Vec<_>>());
    }
}
