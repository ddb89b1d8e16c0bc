//! What a start makes of snapshots and a log that do not fit each other.

use member::state::{Limits, StateParts, Values};
use member::wal::mem::MemDisk;
use member::wal::{Identity, LogError, LogOptions};
use member::{
    BASE_INDEX, BASE_TERM, BootError, Booted, Recovery, SnapshotJob, bootstrap, conf_state_of,
    force_new_cluster, recover,
};
use proto::log::{Member as MemberRow, SnapshotMeta};

const OWNER: Identity = Identity { cluster_id: 7, member_id: 1 };
/// Beyond where the log of a new cluster ends.
const AHEAD: u64 = 9;

/// Where a process has its one directory, two handles lead to one disk; here the log and the
/// snapshots may as well have one each.
#[derive(Default)]
struct Disks {
    snapshots: MemDisk,
    log: MemDisk,
}

fn recovery(allow_damaged_tail: bool) -> Recovery {
    let log = LogOptions { allow_damaged_tail, ..LogOptions::default() };
    Recovery {
        log,
        limits: Limits::default(),
        log_entries_kept: 10,
        log_bytes_kept: 1 << 20,
        values: Values::default(),
    }
}

fn founders() -> StateParts {
    let row = MemberRow { id: OWNER.member_id, name: "m1".to_owned(), ..MemberRow::default() };
    StateParts::new_cluster(&[row])
}

impl Disks {
    fn found(&mut self) -> Result<(), BootError> {
        let (snapshots, log) = (&mut self.snapshots, &mut self.log);
        bootstrap(snapshots, log, OWNER, founders(), &recovery(false))
    }

    fn founded() -> Disks {
        let mut disks = Disks::default();
        disks.found().expect("a whole disk");
        disks
    }

    fn recover(&mut self, allow_damaged_tail: bool) -> Result<Booted<&mut MemDisk>, BootError> {
        let recovery = recovery(allow_damaged_tail);
        recover(&mut self.snapshots, &mut self.log, Some(OWNER), &recovery, None)
    }
}

/// The state as if more had been applied.
fn job_ahead(booted: &mut Booted<&mut MemDisk>) -> SnapshotJob {
    let view = booted.state.publish();
    let meta = SnapshotMeta {
        index: AHEAD,
        term: BASE_TERM,
        conf_state: Some(conf_state_of(&view.members())),
        revision: view.revision(),
        ..SnapshotMeta::default()
    };
    SnapshotJob::new(view, meta)
}

#[test]
fn an_own_snapshot_beyond_the_logs_end_means_that_log_is_lost() {
    let mut disks = Disks::founded();
    let mut booted = disks.recover(false).expect("whole");
    let job = job_ahead(&mut booted);
    booted.snapshots.save(job).expect("written");
    drop(booted);
    let before = (disks.snapshots.files(), disks.log.files());
    let error = disks.recover(false).err().expect("refused").to_string();
    let named = format!("member/snap/{AHEAD:016x}-{BASE_TERM:016x}.manifest was taken of it");
    assert!(error.contains(&named), "{error}");
    assert_eq!((disks.snapshots.files(), disks.log.files()), before);

    // On the operator's word what is left begins anew, behind everything that is there.
    let booted = disks.recover(true).expect("allowed");
    let survivor = force_new_cluster(booted, &recovery(true)).expect("the only voter");
    assert_eq!(survivor.boot.applied, AHEAD + 1);
    drop(survivor);
    assert_eq!(disks.recover(false).expect("whole again").boot.applied, AHEAD + 1);
}

#[test]
fn a_received_snapshot_whose_mark_was_never_written_is_passed_over() {
    let mut disks = Disks::founded();
    let mut booted = disks.recover(false).expect("whole");
    let mut meta = job_ahead(&mut booted).meta;
    meta.chunks = booted.held.newest.clone().expect("the first").chunks;
    booted.snapshots.commit(&meta).expect("written");
    drop(booted);
    assert_eq!(disks.recover(false).expect("nothing is lost").boot.applied, BASE_INDEX);
}

#[test]
fn a_cluster_is_founded_whole_or_not_at_all() {
    let steps = {
        let disks = Disks::founded();
        (disks.snapshots.changes(), disks.log.changes())
    };
    assert!(steps.0 > 5 && steps.1 > 5);
    for step in 0..=steps.1 {
        for keep_all in [true, false] {
            let mut disks = Disks::default();
            disks.log.faults.power_off_after = Some(step);
            let founded = disks.found().is_ok();
            if keep_all {
                disks.log.power_loss_keep_all();
            } else {
                disks.log.power_loss_keep_nothing();
            }
            match disks.recover(false) {
                Ok(booted) => assert_eq!(booted.boot.applied, BASE_INDEX, "step {step}"),
                Err(BootError::Log(LogError::NotFound { .. })) => {
                    assert!(!founded, "step {step}");
                    disks.found().expect("what is left is no member");
                }
                Err(error) => panic!("step {step}: {error}"),
            }
        }
    }
}
