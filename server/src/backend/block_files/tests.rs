use std::ops::ControlFlow;

use proto::etcdserverpb::{CompactionRequest, PutRequest};
use proto::log::{Command, command::Op};
use state::backend::{Backend as _, BackendBatch, Layout, Mark, Writeback, WritebackLimits};
use state::{Limits, Record, State, Values, block};

use super::*;
use crate::backend::SledBackend;

/// A file has three blocks of such a value.
const LONG: usize = 10 << 10;
const FILE_BYTES: u64 = 32 << 10;

fn key(main: i64) -> Vec<u8> {
    block_key(Revision::first_of(main))
}

/// A block of one value that does not compress.
fn block_of(main: i64, value_bytes: usize) -> Vec<u8> {
    let mut word = main.cast_unsigned();
    let mut next = || {
        word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed >> 56) as u8
    };
    let value: Vec<u8> = (0..value_bytes).map(|_| next()).collect();
    block::encode(&[Record::put(Revision::first_of(main), main, 1, 0, b"k", &value)])
}

fn put(main: i64, value_bytes: usize) -> Write {
    Write { key: key(main), value: Some(block_of(main, value_bytes)) }
}

fn commit(backend: &mut SledBackend, writes: impl IntoIterator<Item = Write>) {
    let batch = BackendBatch::new(Mark::default(), writes.into_iter().collect());
    backend.commit(&batch).unwrap();
}

fn pairs(backend: &SledBackend) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut pairs = Vec::new();
    let scanned = backend.scan(b"b/", &mut |key, value| {
        pairs.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    });
    scanned.unwrap();
    pairs
}

fn files_in(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path.join(DIR)).unwrap();
    let mut names: Vec<String> =
        entries.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn has_block(backend: &SledBackend, main: i64) -> bool {
    let wanted = Revision::first_of(main);
    let found = backend.reader().block_of(wanted).ok().and_then(|it| it.find(wanted).unwrap());
    found.is_some_and(|found| found.mod_revision() == main)
}

#[test]
fn a_reference_is_these_bytes_and_every_flipped_bit_is_noticed() {
    let place = Place { file: 3, offset: 0x0123_4567, bytes: 18_923 };
    let reference = place.reference(&key(9));
    let expected = [2, 0, 0, 0, 3, 0, 0, 0, 0x67, 0x45, 0x23, 0x01, 0xeb, 0x49, 0, 0];
    assert_eq!(reference[..16], expected);
    assert_eq!(reference[16..], crc32c::crc32c(&[&key(9)[..], &expected].concat()).to_le_bytes());
    assert_eq!(Place::of(&key(9), &reference), Some(place));
    assert_eq!(Place::of(&key(8), &reference), None);
    for bit in 0..reference.len() * 8 {
        let mut bad = reference;
        bad[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(Place::of(&key(9), &bad), None, "bit {bit}");
    }
}

#[test]
fn blocks_lie_beside_sled_and_are_read_from_there_whoever_asks() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sled-1");
    let mut backend = SledBackend::open(&path).unwrap();
    commit(&mut backend, [put(2, 500), put(5, 70_000)]);
    commit(&mut backend, [put(8, 100), put(5, 60_000)]);
    commit(&mut backend, [Write { key: key(8), value: None }]);
    let long = AT_HAND_BYTES_MAX as usize;
    commit(&mut backend, [put(9, long)]);
    let expected = vec![
        (key(2), block_of(2, 500)),
        (key(5), block_of(5, 60_000)),
        (key(9), block_of(9, long)),
    ];
    let check = |backend: &SledBackend| {
        assert_eq!(pairs(backend), expected);
        assert_eq!(backend.db().get(key(5)).unwrap().unwrap().len(), REFERENCE_BYTES);
        assert_eq!(backend.get(&key(5)).unwrap().unwrap(), block_of(5, 60_000));
        assert!(backend.get(&key(8)).unwrap().is_none());
        assert!(has_block(backend, 2) && has_block(backend, 5) && !has_block(backend, 8));
        let reader = backend.reader();
        assert!(reader.block_of(Revision::first_of(1)).is_err(), "before the first");
        let at_hand = reader.block_at_hand(Revision::first_of(7)).expect("written just now");
        assert_eq!(at_hand.first(), Revision::first_of(5), "the last that is not behind it");
        assert!(
            reader.block_at_hand(Revision::first_of(9)).is_none(),
            "long, and left to who may wait"
        );
    };
    check(&backend);
    backend.flush().unwrap();
    check(&backend);
    drop(backend);
    let mut backend = SledBackend::open(&path).unwrap();
    // Not looked at whole yet: nothing is taken for room to be had back.
    backend.flush().unwrap();
    check(&backend);

    backend.clear().unwrap();
    assert_eq!((pairs(&backend), files_in(&path)), (Vec::new(), Vec::new()));
    commit(&mut backend, [put(3, 500)]);
    assert!(has_block(&backend, 3));
}

#[test]
fn blocks_are_synced_before_sled_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut backend = SledBackend::open_with(&dir.path().join("sled-1"), FILE_BYTES).unwrap();
    let unsynced = |backend: &SledBackend| -> Vec<u32> {
        backend.files().unsynced.lock().unwrap().files.keys().copied().collect()
    };
    (1..=4).for_each(|main| commit(&mut backend, [put(main, LONG)]));
    assert_eq!(unsynced(&backend), [1, 2]);
    backend.flush().unwrap();
    assert!(unsynced(&backend).is_empty());
    commit(&mut backend, [put(5, LONG)]);
    assert_eq!(unsynced(&backend), [2]);
    // Rows enough for sled to be opened anew, which syncs it.
    for _ in 0..3 {
        let rows = (0..4_096_u32).map(|n| Write {
            key: [b"t/lease/", &n.to_be_bytes()[..]].concat(),
            value: Some(vec![7; 4_096]),
        });
        commit(&mut backend, rows);
    }
    assert!(unsynced(&backend).is_empty());
}

#[test]
fn room_that_nothing_leads_to_is_had_back_once_that_is_synced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sled-1");
    let mut backend = SledBackend::open_with(&path, FILE_BYTES).unwrap();
    (1..=9).for_each(|main| commit(&mut backend, [put(main, LONG)]));
    let names = |numbers: &[u32]| -> Vec<String> {
        numbers.iter().map(|it| format!("{it:08}.blocks")).collect()
    };
    let all = names(&[1, 2, 3]);
    assert_eq!(files_in(&path), all);
    backend.flush().unwrap();
    assert_eq!(files_in(&path), all);

    // The first file is not needed, of the second a third.
    let remove = |main| Write { key: key(main), value: None };
    commit(&mut backend, [1, 2, 3, 4, 6].map(remove));
    let place_of =
        |backend: &SledBackend, main| backend.files().place_of(Revision::first_of(main)).unwrap().1;
    let before = place_of(&backend, 5);
    assert_eq!(files_in(&path), all, "sled may still come back as it was");
    backend.flush().unwrap();
    assert_eq!((before.file, place_of(&backend, 5).file), (2, 4), "moved");
    assert_eq!(files_in(&path), names(&[2, 3, 4]));
    backend.flush().unwrap();
    assert_eq!(files_in(&path), names(&[3, 4]));
    assert_eq!(backend.files().size_bytes(), 4 * block_of(1, LONG).len() as u64);
    assert!((5..=9).filter(|it| *it != 6).all(|main| has_block(&backend, main)));
    let expected: Vec<_> = [5, 7, 8, 9].map(|main| (key(main), block_of(main, LONG))).into();
    assert_eq!(pairs(&backend), expected);
}

/// A backend with the state of so many puts, and that state.
fn filled(path: &Path, puts: u64) -> (SledBackend, State) {
    let mut backend = SledBackend::open(path).unwrap();
    let mut state = State::new(Limits::default());
    for n in 0..puts {
        let put = PutRequest {
            key: format!("{:04}", n * 7 % puts).into(),
            value: vec![n as u8; 300].into(),
            ..PutRequest::default()
        };
        let command = Command { id: None, op: Some(Op::Put(put)) };
        state.apply(n + 1, 1, &command).result.unwrap();
    }
    let view = state.publish();
    let (rows, records) = (view.rows(), view.whole_records());
    let limits = WritebackLimits::default();
    Writeback::rebuild(limits, &mut backend, view.applied(), rows, records).unwrap();
    (backend, state)
}

fn load(backend: &SledBackend) -> Result<(State, Layout), String> {
    let (sender, _position) = std::sync::mpsc::channel();
    let loaded = backend.load_state(Limits::default(), &Values::default(), &sender)?;
    Ok(loaded.expect("it was filled"))
}

#[test]
fn a_generation_with_its_blocks_in_sled_is_read_and_written_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sled-1");
    let (backend, mut state) = filled(&path, 1_000);
    let blocks = pairs(&backend);
    let db = backend.db();
    for (key, block) in &blocks {
        db.insert(key, block.as_slice()).unwrap();
    }
    db.flush().unwrap();
    drop((db, backend));
    fs::remove_dir_all(path.join(DIR)).unwrap();

    let mut backend = SledBackend::open(&path).unwrap();
    let (mut loaded, layout) = load(&backend).unwrap();
    assert_eq!(loaded.publish().parts(), state.publish().parts());
    let records: Vec<Record> = state.publish().whole_records().collect();
    let read = |backend: &SledBackend, record: &Record| {
        backend.reader().block_of(record.revision()).unwrap().find(record.revision()).unwrap()
    };
    for record in &records {
        assert_eq!(read(&backend, record).as_ref(), Some(record));
    }
    assert!(backend.reader().block_at_hand(records[0].revision()).is_none(), "sled may wait");

    // Puts over most keys, and a compaction that leaves little of the old blocks.
    let mut writeback = Writeback::resume(WritebackLimits::default(), layout, &loaded.publish());
    for n in 1_000..1_900 {
        let key = format!("{:04}", n - 1_000).into();
        let put = PutRequest { key, value: vec![7; 300].into(), ..PutRequest::default() };
        let command = Command { id: None, op: Some(Op::Put(put)) };
        loaded.apply(n + 1, 1, &command).result.unwrap();
        let view = loaded.publish();
        writeback.feed([&loaded.take_changes()], &view);
    }
    let compaction = CompactionRequest { revision: loaded.publish().revision(), physical: false };
    let command = Command { id: None, op: Some(Op::Compact(compaction)) };
    loaded.apply(1_901, 1, &command).result.unwrap();
    while loaded.sweep(64) {}
    let view = loaded.publish();
    writeback.feed([&loaded.take_changes()], &view);
    writeback.seal();
    while let Some(batch) = writeback.take_batch() {
        backend.commit(&batch).unwrap();
    }
    assert!(writeback.wants_compaction());
    while let Some(batch) = writeback.compact(&backend).unwrap() {
        backend.commit(&batch).unwrap();
    }
    backend.flush().unwrap();
    for record in view.whole_records() {
        assert_eq!(read(&backend, &record).as_ref(), Some(&record));
    }
    drop(backend);
    let (mut again, _) = load(&SledBackend::open(&path).unwrap()).unwrap();
    assert_eq!(again.publish().parts(), view.parts());
}

#[test]
fn a_generation_whose_files_lack_something_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sled-1");
    let (backend, _) = filled(&path, 1_000);
    drop(backend);
    let name = &files_in(&path)[0];
    let file = path.join(DIR).join(name);
    let whole = fs::read(&file).unwrap();
    let refused = || load(&SledBackend::open(&path).unwrap()).map(drop).unwrap_err();
    fs::write(&file, &whole[..whole.len() - 1]).unwrap();
    assert!(refused().contains("failed to fill whole buffer"), "{}", refused());
    let mut rotten = whole.clone();
    rotten[whole.len() / 2] ^= 1;
    fs::write(&file, &rotten).unwrap();
    assert!(refused().contains("block checksum"), "{}", refused());
    fs::remove_file(&file).unwrap();
    assert!(refused().contains("is missing"), "{}", refused());
    fs::write(&file, &whole).unwrap();
    load(&SledBackend::open(&path).unwrap()).unwrap();

    // References to each other's blocks, each with its checksum.
    let backend = SledBackend::open(&path).unwrap();
    let [one, other] = [0, 1].map(|at| pairs(&backend)[at].0.clone());
    let place = |key: &[u8]| Place::of(key, &backend.db().get(key).unwrap().unwrap()).unwrap();
    let places = [place(&one), place(&other)];
    backend.db().insert(&one, &places[1].reference(&one)).unwrap();
    backend.db().insert(&other, &places[0].reference(&other)).unwrap();
    let refused = load(&backend).map(drop).unwrap_err();
    assert!(refused.contains("where it cannot be"), "{refused}");
}
