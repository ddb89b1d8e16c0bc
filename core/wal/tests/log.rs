//! The log from its caller's side: what goes in comes out, in order, or there is a clear no.

mod common;

use common::{
    Model, OWNER, SMALL_SEGMENT_BYTES, entries, entry, hard_state, mark, options, recover,
};
use wal::mem::MemDisk;
use wal::{DiskError, Identity, Log, LogBatch, LogError, LogOptions, SnapshotMark};

fn new_log(disk: &mut MemDisk) -> Log<&mut MemDisk> {
    Log::create(disk, OWNER, options(1)).expect("a new disk takes a log")
}

#[test]
fn what_was_appended_and_synced_is_recovered() {
    let mut disk = MemDisk::new();
    let mut log = new_log(&mut disk);
    let mut batch = entries(2, 1, 3);
    batch.hard_state = hard_state(2, 0x11, 0).hard_state;
    log.append(&batch).unwrap();
    log.append(&entries(2, 4, 4)).unwrap();
    log.sync().unwrap();
    drop(log);
    disk.power_loss_keep_nothing();

    let recovered = recover(&mut disk);
    assert_eq!(recovered.identity, OWNER);
    assert_eq!(recovered.hard_state, batch.hard_state);
    assert_eq!(recovered.entries[..3], batch.entries[..]);
    assert_eq!(recovered.entries[3..], entries(2, 4, 4).entries[..]);
    assert_eq!((recovered.first_index, recovered.last_index), (1, 4));
    assert_eq!((recovered.torn_bytes, recovered.snapshot), (0, None));
}

#[test]
fn an_empty_log_opens_empty() {
    let mut disk = MemDisk::new();
    drop(new_log(&mut disk));
    disk.power_loss_keep_nothing();
    let recovered = recover(&mut disk);
    assert_eq!((recovered.first_index, recovered.last_index), (1, 0));
    assert_eq!(recovered.hard_state, None);
}

#[test]
fn what_was_not_synced_may_go_and_takes_nothing_with_it() {
    let mut disk = MemDisk::new();
    let mut log = new_log(&mut disk);
    log.append(&entries(1, 1, 2)).unwrap();
    log.sync().unwrap();
    log.append(&entries(1, 3, 9)).unwrap();
    drop(log);
    disk.power_loss_keep_nothing();
    assert_eq!(recover(&mut disk).last_index, 2);
}

#[test]
fn an_entry_replaces_everything_from_its_index_on() {
    let mut disk = MemDisk::new();
    let mut log = new_log(&mut disk);
    log.append(&entries(1, 1, 5)).unwrap();
    log.append(&entries(2, 3, 3)).unwrap();
    log.sync().unwrap();
    assert_eq!(log.stats().last_index, 3);
    drop(log);
    let recovered = recover(&mut disk);
    let terms: Vec<u64> = recovered.entries.iter().map(|entry| entry.term).collect();
    assert_eq!(terms, [1, 1, 2]);
}

#[test]
fn a_snapshot_mark_restarts_the_log_behind_it() {
    let mut disk = MemDisk::new();
    let mut log = new_log(&mut disk);
    log.append(&entries(1, 1, 5)).unwrap();
    let mut batch = mark(100, 7);
    batch.entries = entries(7, 101, 102).entries;
    log.append(&batch).unwrap();
    log.sync().unwrap();
    drop(log);
    let recovered = recover(&mut disk);
    assert_eq!(recovered.snapshot, batch.snapshot);
    assert_eq!(recovered.entries, batch.entries);
    // A second recovery starts from the segment the first one wrote.
    let again = recover(&mut disk);
    assert_eq!((again.snapshot, again.entries), (batch.snapshot, batch.entries));
}

#[test]
fn segments_follow_each_other_and_release_removes_whole_ones() {
    let mut disk = MemDisk::new();
    let mut log = new_log(&mut disk);
    log.append(&hard_state(3, 9, 1)).unwrap();
    let mut model = Model::new();
    model.apply(&hard_state(3, 9, 1));
    let data = "x".repeat(2000);
    for index in 1..=40 {
        let batch = LogBatch { entries: vec![entry(3, index, &data)], ..LogBatch::default() };
        log.append(&batch).unwrap();
        log.sync().unwrap();
        model.apply(&batch);
    }
    let before = log.stats();
    assert!(before.segments > 5 && before.rollovers + 1 == before.segments);
    let removed = log.release(20).unwrap();
    assert!(removed > 2);
    let after = log.stats();
    assert_eq!(after.segments, before.segments - removed);
    assert!(after.first_index <= 21 && after.first_index > 10);
    assert_eq!(log.release(20).unwrap(), 0);
    drop(log);
    disk.power_loss_keep_nothing();
    let recovered = recover(&mut disk);
    assert!(model.matches(&recovered, 20));
    assert_eq!(recovered.first_index, after.first_index);
}

#[test]
fn releasing_everything_keeps_hard_state_and_next_index() {
    let mut disk = MemDisk::new();
    let mut log = new_log(&mut disk);
    log.append(&hard_state(3, 9, 1)).unwrap();
    let data = "x".repeat(3000);
    for index in 1..=9 {
        log.append(&LogBatch { entries: vec![entry(3, index, &data)], ..LogBatch::default() })
            .unwrap();
    }
    log.sync().unwrap();
    log.mark_synced_when_idle().unwrap();
    drop(log);
    let (mut log, _) = Log::open(&mut disk, Some(OWNER), options(2)).unwrap();
    log.append(&hard_state(4, 0, 9)).unwrap();
    log.release(9).unwrap();
    log.sync().unwrap();
    assert_eq!(log.stats().segments, 1);
    drop(log);
    disk.power_loss_keep_nothing();
    let recovered = recover(&mut disk);
    assert_eq!((recovered.first_index, recovered.last_index), (10, 9));
    assert_eq!(recovered.hard_state, hard_state(4, 0, 9).hard_state);
    let (mut log, _) = Log::open(&mut disk, None, options(3)).unwrap();
    log.append(&entries(4, 10, 10)).unwrap();
}

#[test]
fn a_batch_larger_than_a_segment_is_one_batch_in_a_larger_segment() {
    let mut disk = MemDisk::new();
    let mut log = new_log(&mut disk);
    log.append(&entries(1, 1, 3)).unwrap();
    let huge = "y".repeat(3 * SMALL_SEGMENT_BYTES as usize);
    let batch = LogBatch {
        entries: vec![entry(1, 4, &huge), entry(1, 5, "small"), entry(1, 6, &huge)],
        ..LogBatch::default()
    };
    log.append(&batch).unwrap();
    log.append(&entries(1, 7, 8)).unwrap();
    log.sync().unwrap();
    drop(log);
    let recovered = recover(&mut disk);
    assert_eq!(recovered.entries[3..6], batch.entries[..]);
    assert_eq!(recovered.last_index, 8);
}

#[test]
fn a_gap_or_a_released_index_is_refused_and_nothing_is_written() {
    let mut disk = MemDisk::new();
    let mut log = new_log(&mut disk);
    log.append(&entries(1, 1, 3)).unwrap();
    let order = |index, first, next| Err(LogError::Order { index, first, next });
    assert_eq!(log.append(&entries(1, 5, 6)), order(5, 1, 4));
    let mut holed = entries(1, 4, 5);
    holed.entries[1].index = 6;
    assert_eq!(log.append(&holed), order(6, 1, 5));
    log.append(&mark(10, 2)).unwrap();
    assert_eq!(log.append(&entries(1, 10, 10)), order(10, 11, 11));
    assert_eq!(log.append(&mark(9, 2)), order(9, 11, 11));
    log.append(&entries(2, 11, 11)).unwrap();
    log.sync().unwrap();
    drop(log);
    assert_eq!(recover(&mut disk).last_index, 11);
}

#[test]
fn a_log_of_another_cluster_or_member_is_refused_by_both_names() {
    let mut disk = MemDisk::new();
    drop(new_log(&mut disk));
    let other = Identity { cluster_id: 0xc1, member_id: 0x22 };
    let error = Log::open(&mut disk, Some(other), options(1)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "member/wal/0000000000000001-0000000000000001.wal: belongs to cluster c1 member 11, \
         this is cluster c1 member 22"
    );
    assert!(Log::open(&mut disk, None, options(1)).is_ok());
}

#[test]
fn a_directory_without_a_log_is_told_from_one_with_a_log() {
    let mut disk = MemDisk::new();
    let error = Log::open(&mut disk, None, options(1)).unwrap_err();
    assert_eq!(error, LogError::NotFound { dir: "member/wal" });
    drop(new_log(&mut disk));
    let error = Log::create(&mut disk, OWNER, options(1)).unwrap_err();
    assert!(matches!(error, LogError::AlreadyExists { .. }));
}

#[test]
fn a_failed_sync_closes_the_log_for_good() {
    let mut disk = MemDisk::new();
    let mut log = new_log(&mut disk);
    log.append(&entries(1, 1, 2)).unwrap();
    log.disk().faults.fail_sync_after = Some(0);
    let error = log.sync().unwrap_err();
    assert!(matches!(error, LogError::Disk(DiskError::Io { action: "fdatasync", .. })));
    for result in [
        log.sync(),
        log.append(&entries(1, 3, 3)),
        log.mark_synced_when_idle(),
        log.release(1).map(drop),
        log.prepare().map(drop),
    ] {
        let error = result.unwrap_err();
        assert!(matches!(&error, LogError::Poisoned { cause } if cause.contains("fdatasync")));
    }
}

#[test]
fn a_failed_write_closes_the_log_for_good() {
    let mut disk = MemDisk::new();
    let mut log = new_log(&mut disk);
    log.append(&entries(1, 1, 2)).unwrap();
    log.disk().faults.fail_write_after = Some(0);
    assert!(matches!(log.append(&entries(1, 3, 3)), Err(LogError::Disk(_))));
    assert!(matches!(log.append(&entries(1, 3, 3)), Err(LogError::Poisoned { .. })));
}

#[test]
fn pages_a_failed_sync_left_clean_are_not_taken_for_durable() {
    let mut disk = MemDisk::new();
    let mut log = new_log(&mut disk);
    log.append(&entries(1, 1, 2)).unwrap();
    log.sync().unwrap();
    log.append(&entries(1, 3, 3)).unwrap();
    log.disk().faults.fail_sync_after = Some(0);
    log.sync().unwrap_err();
    drop(log);
    disk.process_crash();
    // Index 3 is in the cache, on no device, and no later sync would write it.
    let recovered = recover(&mut disk);
    disk.power_loss_keep_nothing();
    assert_eq!(recover(&mut disk).entries, recovered.entries);
    assert_eq!(recovered.last_index, 2);
}

#[test]
fn a_full_disk_is_named_while_prepared_room_still_takes_appends() {
    let mut disk = MemDisk::new();
    let mut log = new_log(&mut disk);
    let mut index = 1;
    // For less than a segment: it is taken when it is needed.
    log.disk().faults.space_left_bytes = Some(SMALL_SEGMENT_BYTES - 4096);
    assert!(!log.prepare().unwrap());
    assert!(log.stats().no_space);
    let error = loop {
        let data = "z".repeat(1000);
        let batch = LogBatch { entries: vec![entry(1, index, &data)], ..LogBatch::default() };
        match log.append(&batch) {
            Ok(()) => log.sync().unwrap(),
            Err(error) => break error,
        }
        index += 1;
        assert!(index < 100, "a full disk must be noticed");
    };
    assert!(matches!(error, LogError::NoSpace { .. }));
    assert!(error.to_string().ends_with("no space left on device"));
    assert_eq!(log.stats().rollovers, 1, "a shorter segment was made of what there was");
    drop(log);
    disk.faults.space_left_bytes = None;
    disk.power_loss_keep_nothing();
    assert_eq!(recover(&mut disk).last_index, index - 1);
}

#[test]
fn an_idle_log_marks_its_watermark_once() {
    let mut disk = MemDisk::new();
    let mut log = new_log(&mut disk);
    log.mark_synced_when_idle().unwrap();
    let empty = log.stats().active_bytes;
    log.append(&entries(1, 1, 1)).unwrap();
    log.mark_synced_when_idle().unwrap();
    let unsynced = log.stats();
    assert!(unsynced.unsynced_bytes > 0, "nothing to say before the sync");
    log.sync().unwrap();
    log.mark_synced_when_idle().unwrap();
    let marked = log.stats();
    assert!(empty < unsynced.active_bytes && unsynced.active_bytes < marked.active_bytes);
    assert_eq!(marked.unsynced_bytes, 0);
    log.mark_synced_when_idle().unwrap();
    assert_eq!(log.stats().active_bytes, marked.active_bytes);
}

#[test]
fn zeros_are_written_ahead_so_that_appends_do_not_grow_files() {
    let mut disk = MemDisk::new();
    let mut log =
        Log::create(&mut disk, OWNER, LogOptions { segment_bytes: 64 << 10, ..options(1) })
            .unwrap();
    while log.prepare().unwrap() {}
    assert_eq!(log.stats().prepared_bytes, 64 << 10);
    let data = "z".repeat(5000);
    // Into the second segment, without `sync`, which would prepare more.
    for index in 1..=20 {
        log.append(&LogBatch { entries: vec![entry(1, index, &data)], ..LogBatch::default() })
            .unwrap();
    }
    assert_eq!(log.stats().rollovers, 1);
    assert_eq!(newest_len(&mut log), 64 << 10);
}

/// The length of the segment written to.
fn newest_len(log: &mut Log<&mut MemDisk>) -> usize {
    let files = log.disk().files();
    let newest = files.iter().rfind(|path| path.ends_with(".wal")).expect("a segment");
    log.disk().content(newest).expect("a file").len()
}

/// Appends so many bytes in batches of one size; the lengths of the segments in order.
fn lengths_of_segments(batch_bytes: usize, total_bytes: usize) -> Vec<usize> {
    let mut disk = MemDisk::new();
    let options = LogOptions { segment_bytes: 8 << 20, ..options(1) };
    let mut log = Log::create(&mut disk, OWNER, options).expect("a new disk takes a log");
    let data = "z".repeat(batch_bytes);
    let mut lengths = vec![newest_len(&mut log)];
    for index in 1..=(total_bytes / batch_bytes) as u64 {
        let batch = LogBatch { entries: vec![entry(1, index, &data)], ..LogBatch::default() };
        log.append(&batch).expect("a healthy disk takes a batch");
        if log.stats().rollovers as usize == lengths.len() {
            lengths.push(newest_len(&mut log));
        }
        log.sync().expect("a healthy disk syncs");
    }
    lengths
}

#[test]
fn segments_grow_from_a_short_first_one_to_the_full_size() {
    let lengths = lengths_of_segments(40 << 10, 40 << 20);
    assert_eq!(lengths[0], 1 << 20);
    assert!(lengths.is_sorted() && lengths.len() <= 9, "{lengths:?}");
    assert_eq!(lengths.last(), Some(&(8 << 20)));
    // And where no batch fits the first.
    let lengths = lengths_of_segments(3 << 19, 40 << 20);
    assert!(lengths.is_sorted() && lengths.len() <= 12, "{lengths:?}");
    assert_eq!(lengths.last(), Some(&(8 << 20)));
}

#[test]
fn a_log_comes_back_on_a_disk_that_is_nearly_full() {
    let mut disk = MemDisk::new();
    let mut log = new_log(&mut disk);
    log.append(&entries(1, 1, 3)).unwrap();
    log.sync().unwrap();
    drop(log);
    disk.faults.space_left_bytes = Some(SMALL_SEGMENT_BYTES - 4096);
    assert_eq!(recover(&mut disk).last_index, 3);
    disk.power_loss_keep_nothing();
    assert_eq!(recover(&mut disk).last_index, 3);
    disk.faults.space_left_bytes = Some(4096);
    let error = Log::open(&mut disk, Some(OWNER), options(4)).unwrap_err();
    assert!(matches!(error, LogError::NoSpace { .. }), "{error}");
}

#[test]
fn a_log_that_begins_behind_a_snapshot_says_so_from_its_first_moment() {
    let mut disk = MemDisk::new();
    let state = hard_state(3, 0, 7).hard_state.unwrap();
    let behind = SnapshotMark { index: 7, term: 3 };
    let log = Log::create_behind(&mut disk, OWNER, options(1), state, behind).unwrap();
    assert_eq!((log.stats().first_index, log.stats().last_index), (8, 7));
    drop(log);
    disk.power_loss_keep_nothing();
    let recovered = recover(&mut disk);
    assert_eq!((recovered.first_index, recovered.last_index), (8, 7));
    assert_eq!((recovered.hard_state, recovered.snapshot), (Some(state), Some(behind)));
}
