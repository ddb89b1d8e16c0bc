//! A snapshot exists whole or not at all, whatever step the power fails at, and none that was
//! committed is lost to a later one.

mod common;

use bytes::Bytes;
use common::Rng;
use wal::mem::MemDisk;
use wal::{ChunkRef, DiskError, Manifest, SnapshotError, SnapshotFaults, SnapshotStore};

fn chunk(text: &str) -> ([u8; 32], Vec<u8>) {
    let bytes = text.repeat(50).into_bytes();
    (*blake3::hash(&bytes).as_bytes(), bytes)
}

/// A snapshot at `index` whose chunks have these texts.
fn manifest(index: u64, texts: &[&str]) -> Manifest {
    let refs = texts.iter().map(|text| {
        let (hash, bytes) = chunk(text);
        ChunkRef { hash, bytes: bytes.len() as u64 }
    });
    let meta = Bytes::from(format!("at {index}"));
    Manifest { index, term: 2, begins_log: false, meta, chunks: refs.collect() }
}

fn take(
    store: &mut SnapshotStore,
    disk: &mut MemDisk,
    index: u64,
    texts: &[&str],
) -> Result<(), SnapshotError> {
    for text in texts {
        let (hash, bytes) = chunk(text);
        if !store.has_chunk(&hash) {
            store.write_chunk(disk, hash, &bytes)?;
        }
    }
    store.commit(disk, manifest(index, texts))
}

fn indexes(manifests: &[Manifest]) -> Vec<u64> {
    manifests.iter().map(|manifest| manifest.index).collect()
}

fn chunk_files(disk: &MemDisk) -> usize {
    disk.files().iter().filter(|path| path.starts_with("member/snap/chunks/")).count()
}

fn chunk_path(text: &str) -> String {
    format!("member/snap/chunks/{}", blake3::hash(&chunk(text).1).to_hex())
}

#[test]
fn a_committed_snapshot_is_there_after_a_power_failure() {
    let mut disk = MemDisk::new();
    let (mut store, found) = SnapshotStore::open(&mut disk).unwrap();
    assert!(found.is_empty());
    take(&mut store, &mut disk, 10, &["a", "b"]).unwrap();
    take(&mut store, &mut disk, 20, &["b", "c"]).unwrap();
    assert_eq!(chunk_files(&disk), 3, "the shared chunk is written once");
    disk.power_loss_keep_nothing();
    let (mut store, found) = SnapshotStore::open(&mut disk).unwrap();
    assert_eq!(found, [manifest(20, &["b", "c"]), manifest(10, &["a", "b"])]);
    for text in ["a", "b", "c"] {
        let (hash, bytes) = chunk(text);
        assert_eq!(store.read_chunk(&mut disk, &hash).unwrap(), bytes);
    }
    store.verify(&mut disk, &found[0]).unwrap();
    assert!(store.damaged().is_empty());
}

#[test]
fn removal_keeps_two_and_every_chunk_they_need() {
    let mut disk = MemDisk::new();
    let (mut store, _) = SnapshotStore::open(&mut disk).unwrap();
    for (index, texts) in [(1, ["a", "x"]), (2, ["b", "x"]), (3, ["c", "y"]), (4, ["d", "y"])] {
        take(&mut store, &mut disk, index, &texts).unwrap();
    }
    // Asking for fewer than two keeps two.
    assert_eq!(store.remove_older(&mut disk, 0, u64::MAX).unwrap(), (2, 3));
    assert_eq!(chunk_files(&disk), 3);
    disk.power_loss_keep_nothing();
    let (mut store, found) = SnapshotStore::open(&mut disk).unwrap();
    assert_eq!(indexes(&found), [4, 3]);
    for manifest in &found {
        store.verify(&mut disk, manifest).unwrap();
    }
    assert_eq!(store.remove_older(&mut disk, 2, u64::MAX).unwrap(), (0, 0));
}

#[test]
fn what_was_received_and_the_log_never_began_at_pushes_nothing_out_and_goes_at_the_next_boot() {
    let mut disk = MemDisk::new();
    let (mut store, _) = SnapshotStore::open(&mut disk).unwrap();
    for (index, text) in [(1, "a"), (2, "b"), (3, "c")] {
        take(&mut store, &mut disk, index, &[text]).unwrap();
    }
    for (index, text) in [(10, "r"), (20, "s")] {
        let (hash, bytes) = chunk(text);
        store.write_chunk(&mut disk, hash, &bytes).unwrap();
        let received = Manifest { begins_log: true, ..manifest(index, &[text]) };
        store.commit(&mut disk, received).unwrap();
    }
    assert_eq!(store.remove_older(&mut disk, 2, 3).unwrap(), (1, 1));
    disk.power_loss_keep_nothing();
    let (mut store, found) = SnapshotStore::open(&mut disk).unwrap();
    assert_eq!(indexes(&found), [20, 10, 3, 2]);
    assert_eq!(store.remove_unbegun(&mut disk, 15).unwrap(), 1);
    disk.power_loss_keep_nothing();
    let (_, found) = SnapshotStore::open(&mut disk).unwrap();
    assert_eq!(indexes(&found), [10, 3, 2]);
}

#[test]
fn chunks_of_a_snapshot_in_the_making_are_not_garbage() {
    let mut disk = MemDisk::new();
    let (mut store, _) = SnapshotStore::open(&mut disk).unwrap();
    for (index, text) in [(1, "a"), (2, "b"), (3, "c")] {
        take(&mut store, &mut disk, index, &[text]).unwrap();
    }
    // The next snapshot counts on an old chunk and a new one while the old go.
    assert!(store.has_chunk(&chunk("a").0));
    let (hash, bytes) = chunk("n");
    store.write_chunk(&mut disk, hash, &bytes).unwrap();
    assert_eq!(store.remove_older(&mut disk, 2, u64::MAX).unwrap(), (1, 0));
    store.commit(&mut disk, manifest(4, &["a", "n"])).unwrap();
    // One that is given up leaves garbage.
    let (hash, bytes) = chunk("given up");
    store.write_chunk(&mut disk, hash, &bytes).unwrap();
    store.abandon();
    assert_eq!(store.remove_older(&mut disk, 2, u64::MAX).unwrap(), (1, 2));
    assert!(!store.has_chunk(&hash));
}

#[test]
fn content_that_is_not_what_its_name_says_is_refused() {
    let mut disk = MemDisk::new();
    let (mut store, _) = SnapshotStore::open(&mut disk).unwrap();
    let error = store.write_chunk(&mut disk, chunk("a").0, b"other").unwrap_err();
    assert!(matches!(error, SnapshotError::HashMismatch { .. }));
    assert_eq!(chunk_files(&disk), 0);
}

#[test]
fn a_manifest_without_its_chunks_is_refused() {
    let mut disk = MemDisk::new();
    let (mut store, _) = SnapshotStore::open(&mut disk).unwrap();
    let error = store.commit(&mut disk, manifest(1, &["a"])).unwrap_err();
    assert_eq!(error, SnapshotError::MissingChunk { path: chunk_path("a") });
    let (hash, bytes) = chunk("a");
    store.write_chunk(&mut disk, hash, &bytes).unwrap();
    let mut wrong = manifest(1, &["a"]);
    wrong.chunks[0].bytes += 1;
    assert!(matches!(
        store.commit(&mut disk, wrong),
        Err(SnapshotError::ChunkLength { expected: 51, found: 50, .. })
    ));
    store.commit(&mut disk, manifest(1, &["a"])).unwrap();
}

#[test]
fn a_damaged_chunk_is_named_and_can_be_written_again() {
    let mut disk = MemDisk::new();
    let (mut store, _) = SnapshotStore::open(&mut disk).unwrap();
    take(&mut store, &mut disk, 1, &["a", "b"]).unwrap();
    disk.flip_bit(&chunk_path("b"), 77);
    let (hash, bytes) = chunk("b");
    let error = store.verify(&mut disk, &manifest(1, &["a", "b"])).unwrap_err();
    assert!(matches!(&error, SnapshotError::DamagedChunk { path, .. } if *path == chunk_path("b")));
    assert!(!store.has_chunk(&hash));
    store.write_chunk(&mut disk, hash, &bytes).unwrap();
    store.verify(&mut disk, &manifest(1, &["a", "b"])).unwrap();
}

#[test]
fn every_flipped_bit_of_a_manifest_is_reported_and_the_older_snapshot_serves() {
    let mut disk = MemDisk::new();
    let (mut store, _) = SnapshotStore::open(&mut disk).unwrap();
    take(&mut store, &mut disk, 1, &["a"]).unwrap();
    take(&mut store, &mut disk, 2, &["a", "b"]).unwrap();
    let path = manifest(2, &[]).path();
    for bit in 0..disk.content(&path).unwrap().len() as u64 * 8 {
        let mut image = disk.clone();
        image.flip_bit(&path, bit);
        let (store, found) = SnapshotStore::open(&mut image).unwrap();
        assert_eq!(indexes(&found), [1], "bit {bit}");
        assert_eq!(store.damaged()[0].path, path);
    }
}

#[test]
fn a_snapshot_whose_chunk_is_gone_or_short_is_reported() {
    let mut disk = MemDisk::new();
    let (mut store, _) = SnapshotStore::open(&mut disk).unwrap();
    take(&mut store, &mut disk, 1, &["a"]).unwrap();
    take(&mut store, &mut disk, 2, &["b"]).unwrap();
    disk.put_file(&chunk_path("b"), b"short");
    let (store, found) = SnapshotStore::open(&mut disk).unwrap();
    assert_eq!(indexes(&found), [1]);
    assert_eq!(store.damaged()[0].reason, format!("{}: 5 bytes instead of 50", chunk_path("b")));
}

#[test]
fn a_failed_sync_closes_the_store_for_good_and_a_full_disk_does_not() {
    let mut disk = MemDisk::new();
    let (mut store, _) = SnapshotStore::open(&mut disk).unwrap();
    disk.faults.space_left_bytes = Some(20);
    let (hash, bytes) = chunk("a");
    let error = store.write_chunk(&mut disk, hash, &bytes).unwrap_err();
    assert!(matches!(error, SnapshotError::NoSpace { .. }), "{error}");
    assert_eq!(disk.faults.space_left_bytes, Some(20), "nothing is left behind");
    disk.faults.space_left_bytes = None;
    store.write_chunk(&mut disk, hash, &bytes).unwrap();
    disk.faults.fail_sync_after = Some(0);
    let error = store.commit(&mut disk, manifest(1, &["a"])).unwrap_err();
    assert!(matches!(error, SnapshotError::Disk(DiskError::Io { .. })));
    let again = store.commit(&mut disk, manifest(1, &["a"]));
    assert!(matches!(again, Err(SnapshotError::Poisoned { .. })));
    let again = store.write_chunk(&mut disk, hash, &bytes);
    assert!(matches!(again, Err(SnapshotError::Poisoned { .. })));
}

/// What each of the snapshots of [`life`] contains.
const LIFE: [(u64, [&str; 2]); 4] =
    [(10, ["a", "x"]), (20, ["b", "x"]), (30, ["c", "x"]), (40, ["d", "y"])];

/// Takes and removes snapshots until the power is off; returns how many were committed.
fn life(disk: &mut MemDisk, faults: SnapshotFaults) -> usize {
    let Ok((mut store, found)) = SnapshotStore::open_with(disk, faults) else { return 0 };
    let mut committed = found.len();
    for (index, texts) in LIFE {
        if take(&mut store, disk, index, &texts).is_err() {
            break;
        }
        committed += 1;
        if store.remove_older(disk, 2, u64::MAX).is_err() {
            break;
        }
    }
    committed
}

/// Cuts the life after `step` and says what the rule finds broken.
fn cut(step: u64, way: u64, rng: &mut Rng, faults: SnapshotFaults) -> Result<(), String> {
    let mut disk = MemDisk::new();
    disk.faults.power_off_after = Some(step);
    let committed = life(&mut disk, faults);
    let mut last = None;
    // Three more starts, the process or the power failing in between.
    for round in 0..3 {
        match (way + round) % 4 {
            0 => disk.process_crash(),
            1 => disk.power_loss_keep_nothing(),
            2 => disk.power_loss_keep_all(),
            _ => disk.power_loss(&mut |n| rng.below(n)),
        }
        let opened = SnapshotStore::open_with(&mut disk, faults);
        let (mut store, found) = opened.map_err(|error| format!("does not open: {error}"))?;
        if let Some(damaged) = store.damaged().first() {
            return Err(format!("{}: {}", damaged.path, damaged.reason));
        }
        let found_indexes = indexes(&found);
        // The one being committed when the power failed may be there or not; none of the two
        // committed before it may be gone.
        for (index, _) in LIFE[..committed].iter().rev().take(2) {
            let superseded = found_indexes.first().is_some_and(|newest| {
                newest > index && found_indexes.len() >= 2 && !found_indexes.contains(index)
            });
            if !found_indexes.contains(index) && !superseded {
                return Err(format!("{index} was committed, found {found_indexes:?}"));
            }
        }
        if let Some(last) = last.replace(found_indexes.clone())
            && last != found_indexes
        {
            return Err(format!("{last:?} was recovered, later {found_indexes:?}"));
        }
        for manifest in &found {
            store.verify(&mut disk, manifest).map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

/// Cuts after each step in many ways; returns how many cuts broke the rule.
fn matrix(faults: SnapshotFaults) -> (usize, String) {
    let mut whole = MemDisk::new();
    assert_eq!(life(&mut whole, faults), LIFE.len());
    let mut rng = Rng(8);
    let (mut broken, mut example) = (0, String::new());
    for step in 0..=whole.changes() {
        for way in 0..48 {
            if let Err(error) = cut(step, way, &mut rng, faults) {
                broken += 1;
                example = format!("step {step} way {way}: {error}");
            }
        }
    }
    (broken, example)
}

#[test]
fn a_cut_after_any_step_leaves_whole_snapshots_only() {
    assert_eq!(matrix(SnapshotFaults::default()), (0, String::new()));
}

#[test]
fn skipped_syncs_of_snapshots_are_found() {
    let none = SnapshotFaults::default();
    assert!(matrix(SnapshotFaults { skip_data_sync: true, ..none }).0 > 0);
    assert!(matrix(SnapshotFaults { skip_dir_sync: true, ..none }).0 > 0);
}
