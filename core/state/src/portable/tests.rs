use proto::etcdserverpb::{AlarmRequest, CompactionRequest, PutRequest};
use proto::log::command::Op;
use proto::log::membership_change::Kind;
use proto::log::{
    ClusterVersionSet, Command, LeaseCheckpoint, LeaseGrant, Member, MemberPublish,
    MembershipChange, lease_checkpoint,
};

use super::*;
use crate::fixture::{Step, Trial, arbitrary_step, from_hex};
use crate::{Limits, State, StateParts};
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

/// A state with something in every table.
fn complete() -> View {
    let member = |id: u64| Member {
        id,
        name: format!("m{id}"),
        peer_urls: vec![format!("http://10.0.0.{id}:2380")],
        client_urls: vec![format!("http://10.0.0.{id}:2379")],
        is_learner: false,
    };
    let parts = StateParts::new_cluster(&[member(1), member(2)]);
    let mut trial = Trial::resumed(parts, &[]);
    let put = |lease| PutRequest {
        key: "leased".into(),
        value: "value".into(),
        lease,
        ..PutRequest::default()
    };
    let alarm = AlarmRequest { action: 1, member_id: 1, alarm: 1 };
    let items = vec![lease_checkpoint::Item { id: 5, remaining_ttl: 30 }];
    let publish = MemberPublish {
        member_id: 1,
        name: "m1".to_owned(),
        client_urls: vec!["http://10.0.0.1:2379".to_owned()],
        version: "3.6.0".to_owned(),
    };
    for step in [Step::Put(1, 40), Step::Put(1, 80), Step::Put(2, 200), Step::Delete(1, 1)] {
        trial.step(&step);
    }
    for op in [
        Op::LeaseGrant(LeaseGrant { id: 5, ttl: 60 }),
        Op::Put(put(5)),
        Op::LeaseCheckpoint(LeaseCheckpoint { items }),
        Op::MemberPublish(publish),
        Op::ClusterVersionSet(ClusterVersionSet { version: "3.6.0".to_owned() }),
        Op::Compact(CompactionRequest { revision: 4, physical: false }),
        Op::Alarm(alarm),
    ] {
        trial.index += 1;
        let command = Command { id: None, op: Some(op) };
        let outcome = trial.state.apply(trial.index, 2, &command);
        assert!(outcome.result.is_ok(), "{outcome:?}");
    }
    let change = MembershipChange {
        id: None,
        kind: Kind::Remove.into(),
        member: Some(Member { id: 2, ..Member::default() }),
    };
    trial.state.apply_membership(trial.index + 1, 2, &change).unwrap();
    trial.state.publish()
}

/// What was saved once can be restored for ever: this file was written by version 0.1.0. It may never
/// be replaced; a later version adds its own.
#[test]
fn a_file_of_version_1_can_still_be_restored() {
    let pinned = from_hex(include_str!("version_1.hex"));
    let (found, parts) = read([&pinned]).unwrap();
    let expected = PortableHeader {
        cluster_id: 0xc1,
        revision: 6,
        index: 12,
        term: 2,
        keys: 2,
        created_by: "0.1.0".to_owned(),
    };
    assert_eq!(found.header, expected);
    let view = State::from_parts(parts, Limits::default()).unwrap().publish();
    assert_eq!(view.parts(), complete().parts());
    assert_eq!(found.hash, crate::hash::hash_all(&view));
    let tables: std::collections::BTreeSet<_> = view.rows().iter().map(|row| row.table).collect();
    let all = crate::parts::Table::ALL.len();
    assert_eq!(tables.len(), all - 1, "a row of every table but that of the plan");
}

#[test]
fn a_plan_of_timing_is_left_out() {
    let without = complete();
    let mut state = State::from_parts(without.parts(), Limits::default()).unwrap();
    let (index, term) = state.applied();
    let submit = Op::TuningSubmit(proto::log::TuningSubmit::default());
    assert!(state.apply(index, term, &Command { id: None, op: Some(submit) }).result.is_ok());
    let with = state.publish();
    assert_ne!(with.rows(), without.rows());
    let file = |view: &View| write(view, 1, "test").collect::<Vec<_>>().concat();
    assert_eq!(file(&with), file(&without));
}
