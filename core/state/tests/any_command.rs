//! Whatever a log holds, apply answers it: no panic, no half-done command, and the same on every member.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod apart;

use proptest::collection::vec;
use proptest::prelude::*;
use proto::etcdserverpb::compare::TargetUnion;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::{
    AlarmRequest, CompactionRequest, Compare, DeleteRangeRequest, PutRequest, RangeRequest,
    RequestOp, TxnRequest,
};
use proto::log::command::Op;
use proto::log::{
    ClusterVersionSet, Command, LeaseCheckpoint, LeaseGrant, LeaseRevoke, Member, MemberPublish,
    MemberUpdate, MembershipChange, TuningAdvance, TuningParams, TuningSubmit, lease_checkpoint,
};
use state::{Limits, State, check, hash};

/// Small numbers that mean something, and ones that mean nothing.
fn number() -> impl Strategy<Value = i64> {
    prop_oneof![6 => -2..30_i64, 1 => Just(i64::MIN), 1 => Just(i64::MAX), 1 => any::<i64>()]
}

fn id() -> impl Strategy<Value = u64> {
    prop_oneof![5 => 0..5_u64, 1 => any::<u64>()]
}

fn string() -> impl Strategy<Value = bytes::Bytes> {
    vec(prop_oneof![Just(0_u8), Just(b'a'), Just(b'b'), Just(255_u8)], 0..4).prop_map(Into::into)
}

fn enumeration() -> impl Strategy<Value = i32> {
    prop_oneof![8 => 0..5_i32, 1 => any::<i32>()]
}

fn put() -> impl Strategy<Value = PutRequest> {
    (string(), string(), number(), any::<(bool, bool, bool)>()).prop_map(
        |(key, value, lease, (prev_kv, ignore_value, ignore_lease))| PutRequest {
            key,
            value,
            lease,
            prev_kv,
            ignore_value,
            ignore_lease,
        },
    )
}

fn delete() -> impl Strategy<Value = DeleteRangeRequest> {
    (string(), string(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| DeleteRangeRequest {
        key,
        range_end,
        prev_kv,
    })
}

fn range() -> impl Strategy<Value = RangeRequest> {
    let numbers = (number(), number(), number(), number(), number(), number());
    let rest = (enumeration(), enumeration(), any::<(bool, bool, bool)>());
    (string(), string(), numbers, rest).prop_map(|(key, range_end, numbers, rest)| RangeRequest {
        key,
        range_end,
        limit: numbers.0,
        revision: numbers.1,
        min_mod_revision: numbers.2,
        max_mod_revision: numbers.3,
        min_create_revision: numbers.4,
        max_create_revision: numbers.5,
        sort_order: rest.0,
        sort_target: rest.1,
        keys_only: rest.2.0,
        count_only: rest.2.1,
        serializable: rest.2.2,
    })
}

fn compare() -> impl Strategy<Value = Compare> {
    let union = prop_oneof![
        Just(None),
        number().prop_map(|number| Some(TargetUnion::Version(number))),
        number().prop_map(|number| Some(TargetUnion::CreateRevision(number))),
        number().prop_map(|number| Some(TargetUnion::ModRevision(number))),
        number().prop_map(|number| Some(TargetUnion::Lease(number))),
        string().prop_map(|value| Some(TargetUnion::Value(value))),
    ];
    (enumeration(), enumeration(), string(), string(), union).prop_map(
        |(result, target, key, range_end, target_union)| Compare {
            result,
            target,
            key,
            range_end,
            target_union,
        },
    )
}

fn txn() -> impl Strategy<Value = TxnRequest> {
    let leaf = prop_oneof![
        1 => Just(None),
        8 => range().prop_map(|range| Some(Request::RequestRange(range))),
        12 => put().prop_map(|put| Some(Request::RequestPut(put))),
        8 => delete().prop_map(|delete| Some(Request::RequestDeleteRange(delete))),
    ];
    let op = leaf.prop_recursive(4, 24, 4, |inner| {
        nest(inner.prop_map(|request| RequestOp { request }))
            .prop_map(|txn| Some(Request::RequestTxn(txn)))
    });
    nest(op.prop_map(|request| RequestOp { request }))
}

fn nest(op: impl Strategy<Value = RequestOp> + Clone) -> impl Strategy<Value = TxnRequest> {
    (vec(compare(), 0..3), vec(op.clone(), 0..4), vec(op, 0..4))
        .prop_map(|(compare, success, failure)| TxnRequest { compare, success, failure })
}

fn member() -> impl Strategy<Value = Member> {
    (id(), vec("[ab]", 0..2), any::<bool>()).prop_map(|(id, peer_urls, is_learner)| Member {
        id,
        peer_urls,
        is_learner,
        ..Member::default()
    })
}

#[derive(Clone, Debug)]
enum Entry {
    Command(Box<Command>),
    Membership(MembershipChange),
}

fn params() -> impl Strategy<Value = TuningParams> {
    (0_u64..200_000, prop_oneof![0_u64..60_000_000, Just(u64::MAX)], 0_u64..1_000_000).prop_map(
        |(heartbeat_interval_us, election_timeout_us, lease_us)| TuningParams {
            heartbeat_interval_us,
            election_timeout_us,
            lease_us,
            batch_commands_max: 64,
            linger_us_max: 0,
            message_bytes_max: 1 << 20,
            inflight_messages_max: 16,
            inflight_bytes_max: 1 << 20,
            ..TuningParams::default()
        },
    )
}

fn entry() -> impl Strategy<Value = Entry> {
    let alarm = (enumeration(), id(), enumeration())
        .prop_map(|(action, member_id, alarm)| AlarmRequest { action, member_id, alarm });
    let items = vec((number(), number()), 0..4).prop_map(|items| LeaseCheckpoint {
        items: items
            .into_iter()
            .map(|(id, remaining_ttl)| lease_checkpoint::Item { id, remaining_ttl })
            .collect(),
    });
    let op = prop_oneof![
        1 => Just(None),
        20 => put().prop_map(|put| Some(Op::Put(put))),
        6 => delete().prop_map(|delete| Some(Op::DeleteRange(delete))),
        16 => txn().prop_map(|txn| Some(Op::Txn(txn))),
        3 => number().prop_map(|revision| Some(Op::Compact(CompactionRequest {
            revision,
            physical: false,
        }))),
        6 => (number(), number()).prop_map(|(id, ttl)| Some(Op::LeaseGrant(LeaseGrant { id, ttl }))),
        3 => (number(), any::<bool>())
            .prop_map(|(id, expired)| Some(Op::LeaseRevoke(LeaseRevoke { id, expired }))),
        2 => items.prop_map(|checkpoint| Some(Op::LeaseCheckpoint(checkpoint))),
        1 => alarm.prop_map(|alarm| Some(Op::Alarm(alarm))),
        2 => member().prop_map(|member| Some(Op::MemberPublish(MemberPublish {
            member_id: member.id,
            name: "m".to_owned(),
            client_urls: member.peer_urls,
            version: "1".to_owned(),
        }))),
        2 => member().prop_map(|member| Some(Op::MemberUpdate(MemberUpdate {
            member_id: member.id,
            peer_urls: member.peer_urls,
        }))),
        1 => "[12]".prop_map(|version| Some(Op::ClusterVersionSet(ClusterVersionSet { version }))),
        2 => (0_u64..4, proptest::option::of(params()), any::<bool>()).prop_map(
            |(expected_epoch, to, supersede)| Some(Op::TuningSubmit(TuningSubmit {
                expected_epoch,
                to,
                supersede,
                ..TuningSubmit::default()
            }))
        ),
        2 => (0_u64..4, 0_u32..7)
            .prop_map(|(epoch, phase)| Some(Op::TuningAdvance(TuningAdvance { epoch, phase }))),
    ];
    prop_oneof![
        10 => op.prop_map(|op| Entry::Command(Box::new(Command { id: None, op }))),
        1 => (enumeration(), proptest::option::of(member()))
            .prop_map(|(kind, member)| Entry::Membership(MembershipChange { id: None, kind, member })),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_command_is_answered_and_refused_whole_and_alike_on_every_member(
        entries in vec(entry(), 1..60),
        questions in vec(range(), 8),
    ) {
        let mut one = State::new(Limits::default());
        // Configured otherwise, and given the log in another rhythm.
        let limits = Limits {
            txn_ops_max: 1,
            quota_bytes: 1,
            lease_ttl_min: 99,
            ..Limits::default()
        };
        // … and with its values elsewhere.
        let mut other = apart::state(limits, true);
        for (index, entry) in (1..).zip(&entries) {
            let before = one.publish();
            match entry {
                Entry::Command(command) => {
                    let outcome = one.apply(index, 1, command);
                    prop_assert_eq!(&outcome.result, &other.apply(index, 1, command).result);
                    let after = one.publish();
                    prop_assert_eq!(outcome.revision, after.revision());
                    if outcome.result.is_err() {
                        prop_assert!(outcome.events.is_empty() && outcome.leases.is_empty());
                        prop_assert_eq!(before.rows(), after.rows());
                        prop_assert_eq!(before.revision(), after.revision());
                        prop_assert_eq!(before.keys_total(), after.keys_total());
                    } else {
                        let changed = i64::from(!outcome.events.is_empty());
                        prop_assert_eq!(before.revision() + changed, after.revision());
                    }
                }
                Entry::Membership(change) => {
                    let members = one.apply_membership(index, 1, change);
                    prop_assert_eq!(members, other.apply_membership(index, 1, change));
                }
            }
        }
        let (view, its) = (one.publish(), other.publish());
        prop_assert_eq!(view.parts(), its.parts());
        prop_assert_eq!(hash::hash_kv(&view, 0), hash::hash_kv(&its, 0));
        for question in &questions {
            prop_assert_eq!(view.range(question), its.range(question));
            let page = view.events(question.revision, &question.key, &question.range_end, 3, 9);
            // What is compared of events is all but the values.
            prop_assert_eq!(page, its.events(question.revision, &question.key, &question.range_end, 3, 9));
        }
        let restored = State::from_parts(view.parts(), Limits::default());
        prop_assert_eq!(restored.map(|mut state| state.publish().parts()), Ok(view.parts()));
    }
}

#[test]
fn a_txn_nested_beyond_reason_is_refused() {
    let mut txn = TxnRequest::default();
    for _ in 0..check::TXN_DEPTH_MAX {
        let op = RequestOp { request: Some(Request::RequestTxn(txn)) };
        txn = TxnRequest { success: vec![op], ..TxnRequest::default() };
    }
    assert_eq!(check::txn(&txn, usize::MAX).unwrap_err(), state::StateError::TooManyOps);
    let command = Command { id: None, op: Some(Op::Txn(txn)) };
    let outcome = State::new(Limits::default()).apply(1, 1, &command);
    assert_eq!(outcome.result, Err(state::StateError::TooManyOps));
}

#[test]
fn thousands_of_puts_and_deletes_in_one_txn_are_checked_in_no_time() {
    let key = |number: u32| format!("{number:08}").into_bytes().into();
    let op = |request| RequestOp { request: Some(request) };
    // 100,000 of each, never overlapping: quadratic work would take minutes.
    let success = (0..100_000_u32)
        .flat_map(|number| {
            let put = PutRequest { key: key(2 * number), ..PutRequest::default() };
            let delete = DeleteRangeRequest { key: key(2 * number + 1), ..Default::default() };
            [op(Request::RequestPut(put)), op(Request::RequestDeleteRange(delete))]
        })
        .collect();
    let txn = TxnRequest { success, ..TxnRequest::default() };
    assert_eq!(check::txn(&txn, usize::MAX), Ok(()));
}
