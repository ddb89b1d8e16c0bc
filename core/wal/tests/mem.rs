//! The disk in memory forgets what a real one may forget, and nothing else.

mod common;

use std::collections::BTreeSet;

use common::Rng;
use wal::mem::{MemDisk, SECTOR_BYTES};
use wal::{Disk, DiskError};

fn with_file(content: &[u8]) -> MemDisk {
    let mut disk = MemDisk::new();
    disk.put_file("f", content);
    disk
}

#[test]
fn writes_are_read_back_and_lost_until_synced() {
    let mut disk = with_file(b"old");
    let file = disk.open("f").unwrap();
    disk.write_at(&file, 1, &[b"n", b"ew"]).unwrap();
    assert_eq!(disk.content("f").unwrap(), b"onew");
    let mut synced = disk.clone();
    synced.sync_data(&file).unwrap();
    synced.power_loss_keep_nothing();
    assert_eq!(synced.content("f").unwrap(), b"onew");
    let mut kept = disk.clone();
    kept.power_loss_keep_all();
    assert_eq!(kept.content("f").unwrap(), b"onew");
    disk.power_loss_keep_nothing();
    assert_eq!(disk.content("f").unwrap(), b"old");
}

#[test]
fn a_power_failure_tears_at_sectors_and_loses_sizes_on_their_own() {
    let old = vec![1; 4 * SECTOR_BYTES];
    let mut torn = BTreeSet::new();
    let mut sizes = BTreeSet::new();
    for seed in 0..300 {
        let mut disk = with_file(&old);
        let file = disk.open("f").unwrap();
        disk.write_at(&file, 100, &[&vec![2; 3 * SECTOR_BYTES]]).unwrap();
        disk.write_at(&file, 4 * SECTOR_BYTES as u64, &[b"grown"]).unwrap();
        let mut rng = Rng(seed);
        disk.power_loss(&mut |n| rng.below(n));
        let content = disk.content("f").unwrap();
        sizes.insert(content.len());
        let new: Vec<bool> =
            (0..4).map(|sector| content[(sector * SECTOR_BYTES).max(100)] == 2).collect();
        for (sector, new) in new.iter().enumerate() {
            let from = (sector * SECTOR_BYTES).max(100);
            let to = ((sector + 1) * SECTOR_BYTES).min(100 + 3 * SECTOR_BYTES);
            let expected = if *new { 2 } else { 1 };
            assert!(content[from..to].iter().all(|byte| *byte == expected));
        }
        torn.insert(new);
    }
    assert_eq!(sizes, BTreeSet::from([4 * SECTOR_BYTES, 4 * SECTOR_BYTES + 5]));
    assert_eq!(torn.len(), 16, "every subset of sectors is seen");
}

#[test]
fn names_are_lost_one_by_one_until_the_directory_is_synced() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..200 {
        let mut disk = MemDisk::new();
        disk.put_file("d/old", b"");
        drop(disk.create("d/a").unwrap());
        drop(disk.create("d/b").unwrap());
        disk.rename("d/b", "d/c").unwrap();
        disk.unlink("d/old").unwrap();
        assert_eq!(disk.files(), ["d/a", "d/c"]);
        let mut synced = disk.clone();
        synced.sync_dir("d").unwrap();
        synced.power_loss_keep_nothing();
        assert_eq!(synced.files(), ["d/a", "d/c"]);
        let mut rng = Rng(seed);
        disk.power_loss(&mut |n| rng.below(n));
        outcomes.insert(disk.files());
    }
    // `a` and `old` there or not; `b` as itself, as `c`, or not at all.
    assert_eq!(outcomes.len(), 12);
    // Also the later without the earlier: the new name without the first one ever having been.
    assert!(outcomes.contains(&vec!["d/c".to_owned(), "d/old".to_owned()]));
}

#[test]
fn a_lost_directory_takes_its_files_with_it() {
    let mut disk = MemDisk::new();
    disk.create_dir("d").unwrap();
    let file = disk.create("d/f").unwrap();
    disk.sync_data(&file).unwrap();
    disk.sync_dir("d").unwrap();
    let mut synced = disk.clone();
    synced.sync_dir("").unwrap();
    synced.power_loss_keep_nothing();
    assert_eq!(synced.files(), ["d/f"]);
    disk.power_loss_keep_nothing();
    assert!(disk.files().is_empty());
    assert!(matches!(disk.list("d"), Err(DiskError::NotFound { .. })));
}

#[test]
fn a_dead_process_loses_nothing_and_makes_nothing_durable() {
    let mut disk = with_file(b"old");
    let file = disk.open("f").unwrap();
    disk.write_at(&file, 0, &[b"new"]).unwrap();
    disk.process_crash();
    assert_eq!(disk.content("f").unwrap(), b"new");
    assert!(!disk.is_durable());
    disk.power_loss_keep_nothing();
    assert_eq!(disk.content("f").unwrap(), b"old");
}

#[test]
fn a_failed_sync_leaves_pages_that_look_clean_and_are_not_on_the_device() {
    let mut disk = with_file(b"old");
    let file = disk.open("f").unwrap();
    disk.write_at(&file, 0, &[b"new"]).unwrap();
    disk.faults.fail_sync_after = Some(0);
    assert!(disk.sync_data(&file).is_err());
    // The next sync says yes, as on Linux, and has nothing to write.
    disk.sync_data(&file).unwrap();
    assert_eq!(disk.content("f").unwrap(), b"new");
    disk.drop_cache(&file).unwrap();
    assert_eq!(disk.content("f").unwrap(), b"old");
}

#[test]
fn dropping_the_cache_keeps_what_is_on_its_way() {
    let mut disk = with_file(b"old");
    let file = disk.open("f").unwrap();
    disk.write_at(&file, 0, &[b"new"]).unwrap();
    disk.drop_cache(&file).unwrap();
    assert_eq!(disk.content("f").unwrap(), b"new");
}

#[test]
fn a_disk_that_lies_makes_nothing_durable() {
    let mut disk = with_file(b"old");
    disk.faults.ignore_sync_data = true;
    disk.faults.ignore_sync_dir = true;
    let file = disk.open("f").unwrap();
    disk.write_at(&file, 0, &[b"new"]).unwrap();
    disk.sync_data(&file).unwrap();
    drop(disk.create("g").unwrap());
    disk.sync_dir("").unwrap();
    disk.power_loss_keep_nothing();
    assert_eq!(disk.files(), ["f"]);
    assert_eq!(disk.content("f").unwrap(), b"old");
}

#[test]
fn a_full_disk_writes_what_fits() {
    let mut disk = with_file(b"old");
    disk.faults.space_left_bytes = Some(2);
    let file = disk.open("f").unwrap();
    disk.write_at(&file, 0, &[b"new"]).unwrap();
    let error = disk.write_at(&file, 2, &[b"wide"]).unwrap_err();
    assert_eq!(error, DiskError::NoSpace { path: "f".to_owned() });
    assert_eq!(disk.content("f").unwrap(), b"newid");
}

#[test]
fn after_the_power_is_off_nothing_happens_any_more() {
    let mut disk = with_file(b"old");
    let file = disk.open("f").unwrap();
    disk.faults.power_off_after = Some(1);
    disk.write_at(&file, 0, &[b"new"]).unwrap();
    assert!(disk.sync_data(&file).is_err());
    assert!(disk.write_at(&file, 0, &[b"xxx"]).is_err());
    assert!(disk.read_at(&file, 0, &mut [0; 3]).is_err());
    assert_eq!(disk.content("f").unwrap(), b"new");
    disk.process_crash();
    assert!(disk.open("f").is_ok());
}

#[test]
fn calls_fail_as_the_operating_systems_do() {
    let mut disk = MemDisk::new();
    disk.create_dir("d").unwrap();
    let path = "d/f".to_owned();
    let missing = Err(DiskError::NotFound { path: path.clone() });
    assert_eq!(disk.open("d/f").map(drop), missing);
    assert_eq!(disk.unlink("d/f"), missing);
    assert_eq!(disk.rename("d/f", "d/g"), missing);
    let file = disk.create("d/f").unwrap();
    assert_eq!(disk.create("d/f").map(drop), Err(DiskError::AlreadyExists { path }));
    assert!(matches!(disk.create("e/f"), Err(DiskError::NotFound { .. })));
    assert!(matches!(disk.create_dir("d"), Err(DiskError::AlreadyExists { .. })));
    disk.allocate(&file, 10).unwrap();
    disk.allocate(&file, 5).unwrap();
    assert_eq!(disk.len(&file).unwrap(), 10);
    disk.set_len(&file, 4).unwrap();
    assert_eq!(disk.read_at(&file, 2, &mut [0; 8]).unwrap(), 2);
    assert_eq!(disk.list("").unwrap(), ["d"]);
    assert_eq!(disk.list("d").unwrap(), ["f"]);
}
