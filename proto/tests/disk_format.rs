//! The bytes of what lies on disks, pinned. A test that fails here means that a member could no
//! longer read its own log: change the code, not the fixture.

use bytes::Bytes;
use prost::Message;
use proto::etcdserverpb as etcd;
use proto::log::command::Op;
use proto::log::{
    Batch, Chunk, ClusterVersionSet, Command, ConfState, Entry, HardState, LeaseCheckpoint,
    LeaseGrant, LeaseRevoke, Member, MemberPublish, MemberUpdate, MembershipChange, RequestId,
    SnapshotMeta, Tuning, TuningAdvance, TuningOrigin, TuningParams, TuningPast, TuningSubmit,
    entry, lease_checkpoint, membership_change,
};

#[test]
fn every_command_keeps_its_bytes() {
    let key = Bytes::from_static(b"k");
    let put = etcd::PutRequest {
        key: key.clone(),
        value: Bytes::from_static(b"v"),
        lease: 7,
        prev_kv: true,
        ignore_value: false,
        ignore_lease: false,
    };
    let delete_range = etcd::DeleteRangeRequest {
        key: key.clone(),
        range_end: Bytes::from_static(b"\0"),
        prev_kv: true,
    };
    let txn = etcd::TxnRequest {
        compare: vec![etcd::Compare {
            result: etcd::compare::CompareResult::Equal.into(),
            target: etcd::compare::CompareTarget::Mod.into(),
            key: key.clone(),
            range_end: Bytes::new(),
            target_union: Some(etcd::compare::TargetUnion::ModRevision(0)),
        }],
        success: vec![etcd::RequestOp {
            request: Some(etcd::request_op::Request::RequestPut(put.clone())),
        }],
        failure: vec![etcd::RequestOp {
            request: Some(etcd::request_op::Request::RequestRange(etcd::RangeRequest {
                key,
                ..etcd::RangeRequest::default()
            })),
        }],
    };
    let alarm = etcd::AlarmRequest {
        action: etcd::alarm_request::AlarmAction::Activate.into(),
        member_id: 3,
        alarm: etcd::AlarmType::Nospace.into(),
    };
    let checkpoint =
        LeaseCheckpoint { items: vec![lease_checkpoint::Item { id: 7, remaining_ttl: 30 }] };
    let publish = MemberPublish {
        member_id: 3,
        name: "c".to_owned(),
        client_urls: vec!["http://c:2379".to_owned()],
        version: "3.6.0".to_owned(),
    };
    let update = MemberUpdate { member_id: 3, peer_urls: vec!["http://c:2380".to_owned()] };

    for (op, hex) in [
        (Op::Put(put), "0a0d08ef9bafcdf8acd1910110ac02520a0a016b12017618072001"),
        (Op::DeleteRange(delete_range), "0a0d08ef9bafcdf8acd1910110ac025a080a016b1201001801"),
        (
            Op::Txn(txn),
            concat!(
                "0a0d08ef9bafcdf8acd1910110ac02621e0a0710021a016b3000120c120a0a01",
                "6b120176180720011a050a030a016b"
            ),
        ),
        (
            Op::Compact(etcd::CompactionRequest { revision: 99, physical: true }),
            "0a0d08ef9bafcdf8acd1910110ac026a0408631001",
        ),
        (
            Op::LeaseGrant(LeaseGrant { id: 7, ttl: 60 }),
            "0a0d08ef9bafcdf8acd1910110ac0272040807103c",
        ),
        (
            Op::LeaseRevoke(LeaseRevoke { id: 7, expired: true }),
            "0a0d08ef9bafcdf8acd1910110ac027a0408071001",
        ),
        (Op::LeaseCheckpoint(checkpoint), "0a0d08ef9bafcdf8acd1910110ac028201060a040807101e"),
        (Op::Alarm(alarm), "0a0d08ef9bafcdf8acd1910110ac028a0106080110031801"),
        (
            Op::MemberPublish(publish),
            concat!(
                "0a0d08ef9bafcdf8acd1910110ac0292011b08031201631a0d687474703a2f2f",
                "633a323337392205332e362e30"
            ),
        ),
        (
            Op::MemberUpdate(update),
            "0a0d08ef9bafcdf8acd1910110ac029a01110803120d687474703a2f2f633a32333830",
        ),
        (
            Op::ClusterVersionSet(ClusterVersionSet { version: "3.6.0".to_owned() }),
            "0a0d08ef9bafcdf8acd1910110ac02a201070a05332e362e30",
        ),
        (
            Op::TuningSubmit(TuningSubmit {
                expected_epoch: 6,
                to: Some(tuning_params()),
                planner: "metactl".to_owned(),
                reason: "one zone".to_owned(),
                at_ms: 1_790_000_000_000,
                supersede: true,
            }),
            concat!(
                "0a0d08ef9bafcdf8acd1910110ac02aa013e0806121e08a8c30110f89c131898",
                "cb0e20802028d00f3080804038800240808080201a076d65746163746c22086f",
                "6e65207a6f6e652880d8c1a28c343001"
            ),
        ),
        (
            Op::TuningAdvance(TuningAdvance { epoch: 7, phase: 2 }),
            "0a0d08ef9bafcdf8acd1910110ac02b2010408071002",
        ),
    ] {
        pin(&Command { id: Some(request_id()), op: Some(op) }, hex);
    }
}

fn tuning_params() -> TuningParams {
    TuningParams {
        heartbeat_interval_us: 25_000,
        election_timeout_us: 315_000,
        lease_us: 239_000,
        batch_commands_max: 4_096,
        linger_us_max: 2_000,
        message_bytes_max: 1 << 20,
        inflight_messages_max: 256,
        inflight_bytes_max: 64 << 20,
        ..TuningParams::default()
    }
}

#[test]
fn the_plan_of_timing_keeps_its_bytes() {
    let past = TuningPast {
        epoch: 6,
        to: None,
        planner: "metactl".to_owned(),
        reason: "back".to_owned(),
        at_ms: 1_780_000_000_000,
    };
    pin(
        &Tuning {
            epoch: 7,
            phase: 3,
            from: Some(TuningOrigin {
                params: Some(tuning_params()),
                election_us_min: 1_000_000,
                flags: true,
            }),
            to: Some(tuning_params()),
            planner: "metactl".to_owned(),
            reason: "one zone".to_owned(),
            at_ms: 1_790_000_000_000,
            past: vec![past],
        },
        concat!(
            "080710031a260a1e08a8c30110f89c131898cb0e20802028d00f308080403880",
            "02408080802010c0843d1801221e08a8c30110f89c131898cb0e20802028d00f",
            "3080804038800240808080202a076d65746163746c32086f6e65207a6f6e6538",
            "80d8c1a28c34421808061a076d65746163746c22046261636b2880909282e733"
        ),
    );
}

#[test]
fn batch_keeps_its_bytes() {
    let command = |key: &'static [u8]| Command {
        id: Some(request_id()),
        op: Some(Op::Put(etcd::PutRequest {
            key: Bytes::from_static(key),
            ..etcd::PutRequest::default()
        })),
    };
    let commands = [command(b"a"), command(b"b")].map(|it| it.encode_to_vec().into());
    pin(
        &Batch { commands: commands.into() },
        concat!(
            "0a140a0d08ef9bafcdf8acd1910110ac0252030a01610a140a0d08ef9bafcdf8",
            "acd1910110ac0252030a0162"
        ),
    );
}

#[test]
fn membership_change_keeps_its_bytes() {
    let member = Member {
        id: 3,
        name: "c".to_owned(),
        peer_urls: vec!["http://c:2380".to_owned()],
        client_urls: vec!["http://c:2379".to_owned()],
        is_learner: true,
    };
    let kind = membership_change::Kind::AddLearner.into();
    pin(
        &MembershipChange { id: Some(request_id()), kind, member: Some(member) },
        concat!(
            "0a0d08ef9bafcdf8acd1910110ac0210011a2508031201631a0d687474703a2f",
            "2f633a32333830220d687474703a2f2f633a323337392801"
        ),
    );
}

#[test]
fn entry_keeps_its_bytes() {
    let data = Bytes::from_static(b"data");
    let context = Bytes::from_static(b"ctx");
    let kind = entry::Type::ConfChange.into();
    pin(
        &Entry { term: 5, index: 300, r#type: kind, data, context },
        "080510ac0218012204646174612a03637478",
    );
    pin(&Entry { term: 1, index: 1, ..Entry::default() }, "08011001");
}

#[test]
fn hard_state_keeps_its_bytes() {
    pin(&HardState { term: 5, vote: u64::MAX, commit: 300 }, "080510ffffffffffffffffff0118ac02");
}

#[test]
fn snapshot_meta_keeps_its_bytes() {
    let meta = SnapshotMeta {
        index: 300,
        term: 5,
        conf_state: Some(ConfState {
            voters: vec![1, 2, 300],
            learners: vec![4],
            voters_outgoing: vec![1, 2],
            learners_next: vec![2],
            auto_leave: true,
        }),
        chunks: vec![
            Chunk { hash: Bytes::from_static(&[0xaa; 32]), bytes: 1 << 20 },
            Chunk { hash: Bytes::from_static(&[0xbb; 32]), bytes: 17 },
        ],
        state_bytes: (1 << 20) + 17,
        cluster_id: 0xcdf8_181e_3277_8ff1,
        revision: 42,
    };
    pin(
        &meta,
        concat!(
            "08ac0210051a120a040102ac021201041a020102220102280122260a20aaaaaa",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa108080",
            "4022240a20bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
            "bbbbbbbbbb10112891804030f19fde93e38386fccd01382a"
        ),
    );
}

#[test]
fn numbers_of_kinds_never_move() {
    use entry::Type;
    use membership_change::Kind;
    let types = [Type::Normal, Type::ConfChange, Type::ConfChangeV2].map(|it| it as i32);
    assert_eq!(types, [0, 1, 2]);
    let kinds = [Kind::AddVoter, Kind::AddLearner, Kind::Promote, Kind::Remove];
    assert_eq!(kinds.map(|it| it as i32), [0, 1, 2, 3]);
}

fn request_id() -> RequestId {
    RequestId { member: 0x0123_4567_89ab_cdef, sequence: 300 }
}

fn pin<M: Message + Default + PartialEq + std::fmt::Debug>(message: &M, hex: &str) {
    let encoded = message.encode_to_vec();
    let written: String = encoded.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(written, hex, "{message:?}");
    assert_eq!(&M::decode(encoded.as_slice()).expect("own bytes decode"), message);
}
