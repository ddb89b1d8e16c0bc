//! One replica on its own, whose peers the test speaks for.

#![allow(dead_code, reason = "each test file uses a part")]
#![allow(unreachable_pub, reason = "a module of tests")]

use bytes::Bytes;
use consensus::{Boot, Config, Replica, Role};
use proto::log::{Chunk, ConfState, Entry, HardState, SnapshotMeta};
use proto::peer::{RaftMessage, raft_message::Type};

pub(crate) fn conf(voters: &[u64]) -> ConfState {
    ConfState { voters: voters.to_vec(), ..Default::default() }
}

pub(crate) fn entry(index: u64, term: u64) -> Entry {
    Entry { index, term, ..Default::default() }
}

pub(crate) fn meta(index: u64, term: u64) -> SnapshotMeta {
    SnapshotMeta {
        index,
        term,
        conf_state: Some(conf(&[1, 2, 3])),
        chunks: vec![Chunk { hash: Bytes::from(vec![1; 32]), bytes: 1 }],
        ..Default::default()
    }
}

/// Member 1 of three in term 5, with entries 1 to 10 of term 5, of which 8 are committed.
pub(crate) fn replica(config: Config) -> Replica {
    let boot = Boot {
        hard_state: Some(HardState { term: 5, vote: 0, commit: 8 }),
        entries: (1..=10).map(|index| entry(index, 5)).collect(),
        applied: 8,
        conf_state: conf(&[1, 2, 3]),
        ..Default::default()
    };
    Replica::new(config, boot, 0).unwrap()
}

pub(crate) fn follower() -> Replica {
    let mut replica = replica(Config::new(1, 7));
    replica.receive(0, message(Type::MsgHeartbeat, 5)).unwrap();
    drain(&mut replica);
    replica
}

/// Leads term 6; entry 11 is its first, and it is on its disk.
pub(crate) fn leader() -> Replica {
    leader_with(Config::new(1, 7))
}

/// The same with another configuration.
pub(crate) fn leader_with(mut config: Config) -> Replica {
    config.pre_vote = false;
    let mut replica = replica(config);
    replica.campaign();
    drain(&mut replica);
    replica.receive(0, message(Type::MsgRequestVoteResponse, 6)).unwrap();
    drain(&mut replica);
    assert_eq!(replica.status().role, Role::Leader);
    assert_eq!(replica.status().last_index, 11);
    replica
}

pub(crate) fn has(index: u64, from: u64) -> RaftMessage {
    RaftMessage { index, from, ..message(Type::MsgAppendResponse, 6) }
}

/// From member 2 to member 1.
pub(crate) fn message(kind: Type, term: u64) -> RaftMessage {
    RaftMessage { r#type: kind.into(), from: 2, to: 1, term, ..Default::default() }
}

/// An append after the last entry.
pub(crate) fn append(entries: Vec<Entry>) -> RaftMessage {
    RaftMessage { index: 10, log_term: 5, entries, ..message(Type::MsgAppend, 6) }
}

/// Carries everything out at once; what is sent.
pub(crate) fn drain(replica: &mut Replica) -> Vec<RaftMessage> {
    let mut sent = Vec::new();
    for _ in 0..100 {
        if !replica.has_output() {
            return sent;
        }
        let output = replica.take_output(0);
        sent.extend(output.messages);
        if let Some(entry) = output.committed.last() {
            replica.applied(entry.index);
        }
        if let Some(persist) = output.persist {
            replica.persisted(persist.number);
        }
    }
    panic!("never comes to rest");
}

pub(crate) fn kinds(messages: &[RaftMessage]) -> Vec<Type> {
    messages.iter().map(RaftMessage::r#type).collect()
}
