use std::collections::BTreeSet;

use super::*;
use crate::fixture::{Step, Trial, arbitrary_step, from_hex, to_hex};
use crate::{Limits, State};
use proptest::prelude::*;

fn all(view: &View) -> Vec<Bytes> {
    chunks(view).collect()
}

/// A state of many keys: `keys` puts of `value_len` bytes, then `updates` more.
fn large(keys: usize, updates: usize, value_len: usize) -> StateParts {
    let mut records = Vec::new();
    for number in 0..keys + updates {
        let main = number as i64 + 2;
        // Some keys are written often, most never again.
        let name = if number < keys { number } else { (number * 7919) % (keys / 10) };
        let key = format!("/registry/pods/default/{name:08}");
        let value: Vec<u8> = (0..value_len).map(|at| (at * 31 + number) as u8).collect();
        records.push(Record::put(Revision::first_of(main), main, 1, 0, key.as_bytes(), &value));
    }
    let revision = (keys + updates) as i64 + 1;
    StateParts {
        applied: Applied { index: 9, term: 1, revision, ..Applied::default() },
        rows: Vec::new(),
        records,
    }
}

/// Bytes of the second sequence that the first has not.
fn fresh_bytes(before: &[Bytes], after: &[Bytes]) -> usize {
    let known: BTreeSet<&Bytes> = before.iter().collect();
    after.iter().filter(|chunk| !known.contains(chunk)).map(Bytes::len).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_snapshot_restores_to_the_same_state(steps in prop::collection::vec(arbitrary_step(), 0..80)) {
        let mut trial = Trial::new();
        for step in &steps {
            trial.step(step);
        }
        let view = trial.state.publish();
        let parts = restore(all(&view)).unwrap();
        prop_assert_eq!(&parts, &view.parts());
        let again = State::from_parts(parts, Limits::default()).unwrap().publish();
        prop_assert_eq!(all(&again), all(&view));
    }
}

fn sample() -> Vec<Bytes> {
    let row = |table, key: &[u8]| Row { table, key: key.to_vec(), value: b"row".to_vec() };
    let parts = StateParts {
        applied: Applied { index: 7, term: 2, revision: 4, compact_revision: 2, rolling_hash: 5 },
        rows: vec![row(Table::Lease, b"1"), row(Table::Lease, b"2"), row(Table::Cluster, b"v")],
        records: vec![
            Record::put(Revision { main: 2, sub: 0 }, 2, 1, 0, b"a", b"value"),
            Record::put(Revision { main: 4, sub: 0 }, 4, 1, 0, b"b", b""),
            Record::tombstone(Revision { main: 4, sub: 1 }, b"a"),
        ],
    };
    chunks_of_parts(&parts).collect()
}

#[test]
fn every_flipped_bit_is_noticed() {
    let good = sample();
    for chunk in 0..good.len() {
        for bit in 0..good[chunk].len() * 8 {
            let mut bad = good.clone();
            let mut bytes = bad[chunk].to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            bad[chunk] = bytes.into();
            assert!(restore(&bad).is_err(), "chunk {chunk}, bit {bit}");
        }
    }
}

#[test]
fn every_truncation_is_noticed() {
    let good = sample();
    for chunk in 0..good.len() {
        for length in 0..good[chunk].len() {
            let mut bad = good.clone();
            bad[chunk].truncate(length);
            assert!(restore(&bad).is_err(), "chunk {chunk}, length {length}");
        }
    }
}

#[test]
fn chunks_missing_doubled_swapped_or_from_elsewhere_are_noticed() {
    let parts = large(20_000, 0, 300);
    let good: Vec<Bytes> = chunks_of_parts(&parts).collect();
    assert!(good.len() > 5, "several chunks of records");
    assert_eq!(restore(&good), Ok(parts.clone()));
    for chunk in 0..good.len() {
        let mut missing = good.clone();
        missing.remove(chunk);
        assert!(restore(&missing).is_err(), "without chunk {chunk}");
        let mut doubled = good.clone();
        doubled.insert(chunk, good[chunk].clone());
        assert!(restore(&doubled).is_err(), "with chunk {chunk} twice");
        let mut swapped = good.clone();
        swapped.swap(chunk, (chunk + 1) % good.len());
        assert!(restore(&swapped).is_err(), "with chunk {chunk} out of place");
    }

    // A good chunk of another state of the same revision.
    let mut other = parts;
    let record = &other.records[0];
    other.records[0] = Record::put(record.revision(), 2, 1, 0, record.key(), &[0; 300]);
    let mut mixed = good;
    mixed[1] = chunks_of_parts(&other).nth(1).unwrap();
    assert_eq!(restore(&mixed), Err(SnapshotError::Sequence));
    assert_eq!(restore(&mixed[..3]), Err(SnapshotError::Unfinished(3)));
}

/// Damage that comes with matching checksums must be refused too, or at least not panic.
#[test]
fn lies_under_a_good_checksum_do_not_panic() {
    let good = sample();
    for chunk in 0..good.len() {
        for at in 0..good[chunk].len() - CRC_BYTES {
            for byte in [0, 1, 2, 0x7f, 0xff] {
                let mut bad = good.clone();
                let mut bytes = bad[chunk].to_vec();
                let body = bytes.len() - CRC_BYTES;
                bytes[at] = byte;
                let crc = crc32c::crc32c(&bytes[..body]);
                bytes[body..].copy_from_slice(&crc.to_le_bytes());
                bad[chunk] = bytes.into();
                assert!(restore(&bad).is_err() || bad[chunk] == good[chunk], "{chunk} {at} {byte}");
            }
        }
    }
}

#[test]
fn well_made_chunks_of_an_impossible_state_are_refused() {
    let good = restore(sample()).unwrap();
    let outcome = |change: fn(&mut StateParts)| {
        let mut parts = good.clone();
        change(&mut parts);
        restore(chunks_of_parts(&parts)).err()
    };
    assert_eq!(outcome(|_| {}), None);
    let revision = |main, sub| Revision { main, sub };
    assert_eq!(
        outcome(|parts| parts.records.swap(0, 1)),
        Some(SnapshotError::RecordOrder(revision(2, 0)))
    );
    assert_eq!(
        outcome(|parts| parts.records.push(parts.records[2].clone())),
        Some(SnapshotError::RecordOrder(revision(4, 1)))
    );
    assert_eq!(
        outcome(|parts| parts.applied.revision = 3),
        Some(SnapshotError::RecordOrder(revision(4, 0)))
    );
    assert_eq!(outcome(|parts| parts.rows.swap(0, 1)), Some(SnapshotError::RowOrder(Table::Lease)));
    assert_eq!(
        outcome(|parts| parts.rows.insert(0, parts.rows[0].clone())),
        Some(SnapshotError::RowOrder(Table::Lease))
    );
    assert_eq!(
        outcome(|parts| parts.applied.compact_revision = 9),
        Some(SnapshotError::Head(AppliedError::Impossible))
    );
}

#[test]
fn chunks_are_about_a_mebibyte_and_a_large_record_has_its_own() {
    let mut parts = large(30_000, 0, 300);
    let revision = parts.applied.revision + 1;
    parts.applied.revision = revision + 1;
    let value = vec![1; 3 << 20];
    let whale = |main| Record::put(Revision::first_of(main), main, 1, 0, b"whale", &value);
    parts.records.extend([whale(revision), whale(revision + 1)]);
    let made: Vec<Bytes> = chunks_of_parts(&parts).collect();
    let whales = made.iter().filter(|chunk| chunk.len() > CHUNK_BYTES_MAX + 20).count();
    assert_eq!(whales, 2);
    let bodies = &made[1..made.len() - 4];
    assert!(bodies.iter().all(|chunk| chunk.len() >= CHUNK_BYTES_MIN));
    assert!(bodies.len() > 10);
    assert_eq!(restore(made), Ok(parts));
}

#[test]
fn new_writes_leave_earlier_chunks_as_they_were() {
    let before: Vec<Bytes> = chunks_of_parts(&large(40_000, 0, 300)).collect();
    let after: Vec<Bytes> = chunks_of_parts(&large(40_000, 1000, 300)).collect();
    let fresh = fresh_bytes(&before, &after);
    assert!(fresh < 2 * CHUNK_BYTES_MAX, "{fresh} bytes are new");
}

#[test]
fn a_compaction_of_some_keys_leaves_most_chunks_as_they_were() {
    for value_len in [20, 300, 5000] {
        let parts = large(40_000, 4000, value_len.min(1000));
        let before: Vec<Bytes> = chunks_of_parts(&parts).collect();
        let mut compacted = parts.clone();
        // What is dropped lies close together: one busy stretch of the past.
        compacted.records.drain(100..160);
        let after: Vec<Bytes> = chunks_of_parts(&compacted).collect();
        let fresh = fresh_bytes(&before, &after);
        assert!(fresh < 4 * CHUNK_BYTES_MAX, "{fresh} bytes are new with values of {value_len}");
    }
}

#[test]
fn version_1_is_pinned() {
    let made: Vec<String> = sample().iter().map(|chunk| to_hex(chunk)).collect();
    let pinned: Vec<&str> = include_str!("version_1.hex").lines().collect();
    assert_eq!(made, pinned);
    let parts = restore(pinned.into_iter().map(from_hex)).unwrap();
    assert_eq!(parts.records.len(), 3);
}

#[test]
fn a_state_with_nothing_in_it_has_a_snapshot() {
    let mut trial = Trial::new();
    trial.step(&Step::Skip);
    let view = trial.state.publish();
    let made = all(&view);
    assert_eq!(made.len(), 2);
    assert_eq!(restore(made), Ok(view.parts()));
}
