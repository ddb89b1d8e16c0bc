use super::*;
use crate::fixture::{Step, Trial, arbitrary_step, from_hex};
use crate::{Limits, State};
use proptest::prelude::*;

fn file(view: &View) -> Vec<u8> {
    write(view, 0xc1, "0.1.0").flatten().collect()
}

fn small() -> Vec<u8> {
    let mut trial = Trial::new();
    for step in [Step::Grant(4), Step::Put(1, 40), Step::Put(2, 200), Step::Delete(1, 1)] {
        trial.step(&step);
    }
    file(&trial.state.publish())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_file_restores_to_the_same_state_whatever_the_pieces(
        steps in prop::collection::vec(arbitrary_step(), 0..60),
        piece_bytes in 1_usize..2000,
    ) {
        let mut trial = Trial::new();
        for step in &steps {
            trial.step(step);
        }
        let view = trial.state.publish();
        let whole = file(&view);
        prop_assert_eq!(whole.len() % 512, 32);
        let (found, parts) = read(whole.chunks(piece_bytes)).unwrap();
        prop_assert_eq!(&parts, &view.parts());
        prop_assert_eq!(found.total_bytes, whole.len() as u64);
        prop_assert_eq!(found.hash, crate::hash::hash_all(&view));
        prop_assert_eq!(found.header.keys, view.keys_total() as u64);
        prop_assert_eq!(status([&whole]).unwrap(), found);
        let again = State::from_parts(parts, Limits::default()).unwrap().publish();
        prop_assert_eq!(file(&again), whole);
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let good = small();
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(status([&bad]).is_err(), "bit {bit}");
    }
}

#[test]
fn every_truncation_and_any_trailing_byte_is_noticed() {
    let good = small();
    for length in 0..good.len() {
        assert!(status([&good[..length]]).is_err(), "length {length}");
    }
    let length = good.len() as u64;
    let trailing = [good, vec![0]].concat();
    assert_eq!(status([&trailing]), Err(PortableError::Trailing(length)));
}

#[test]
fn foreign_files_are_named() {
    assert_eq!(status(["hello, world"]), Err(PortableError::Magic));
    let bbolt: Vec<u8> = [&[0; 16][..], &BBOLT_MAGIC, &[2, 0, 0, 0]].concat();
    assert_eq!(status([&bbolt]), Err(PortableError::EtcdDatabase));
    assert_eq!(status(bbolt.chunks(3)), Err(PortableError::EtcdDatabase));
    assert_eq!(status([[]]), Err(PortableError::Short(0)));
}

#[test]
fn a_newer_format_is_refused_by_its_number() {
    let mut newer = small();
    let header_len = u32::from_le_bytes(newer[8..12].try_into().unwrap()) as usize;
    newer[12] = 2;
    let crc = crc32c::crc32c(&newer[..12 + header_len]);
    newer[12 + header_len..][..4].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(status([&newer]), Err(PortableError::Version(2)));
}

#[test]
fn a_header_that_names_another_revision_is_refused() {
    let mut trial = Trial::new();
    trial.step(&Step::Put(1, 1));
    let view = trial.state.publish();
    let header = PortableHeader { revision: 3, ..PortableHeader::default() };
    let pieces = write_chunks(&header, snapshot::chunks(&view));
    assert_eq!(read(pieces), Err(PortableError::Mismatch { named: 3, found: 2 }));
}

#[test]
fn a_large_state_is_written_in_pieces_of_about_a_mebibyte() {
    let mut trial = Trial::new();
    for _ in 0..600 {
        trial.step(&Step::Put(0, 8000));
    }
    let view = trial.state.publish();
    let pieces: Vec<Bytes> = write(&view, 1, "test").collect();
    assert!(pieces.len() > 5);
    assert!(pieces.iter().all(|piece| piece.len() < (1 << 20) + (64 << 10)));
    assert_eq!(read(&pieces).unwrap().1, view.parts());
}

/// What was saved once can be restored for ever: this file was written by version 0.1.0.
#[test]
fn a_file_of_version_1_can_still_be_restored() {
    let pinned = from_hex(include_str!("version_1.hex"));
    let (found, parts) = read([&pinned]).unwrap();
    assert_eq!(
        found.header,
        PortableHeader {
            cluster_id: 0xc1,
            revision: 4,
            index: 4,
            term: 1,
            keys: 1,
            created_by: "0.1.0".to_owned(),
        }
    );
    let view = State::from_parts(parts, Limits::default()).unwrap().publish();
    assert_eq!(view.get(b"k/02").map(|record| record.value().len()), Some(200));
    assert_eq!(view.get(b"k/01"), None);
    assert!(view.lease(5).is_some());
    assert_eq!(found.hash, crate::hash::hash_all(&view));
}
