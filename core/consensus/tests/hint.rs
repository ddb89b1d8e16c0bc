//! The crash hint: who is told that the leader's process is gone stands at its turn, grants what it
//! would have refused, and is deaf to hints about anybody else.

#![allow(clippy::unwrap_used, reason = "a test that goes wrong may panic")]

mod lone;

use autotune::Timing;
use consensus::{Config, ElectionCauses, Replica, Role};
use proto::peer::{RaftMessage, raft_message::Type};

use lone::{drain, follower, kinds, leader, message, replica};

/// Turns are eight milliseconds apart, and begin within two.
const TURNS_US: u64 = 10_000;

fn told(seed: u64) -> Replica {
    let mut replica = replica(Config::new(1, seed));
    replica.receive(0, message(Type::MsgHeartbeat, 5)).unwrap();
    drain(&mut replica);
    assert!(replica.leader_gone(0, 2));
    replica
}

fn asks(from: u64, index: u64) -> RaftMessage {
    let ask = message(Type::MsgRequestPreVote, 6);
    RaftMessage { from, index, log_term: 5, commit: 8, commit_term: 5, ..ask }
}

fn stands_at_us(replica: &mut Replica) -> u64 {
    let due_us = replica.next_deadline_us(0);
    replica.tick(due_us);
    let sent = drain(replica);
    assert!(kinds(&sent).contains(&Type::MsgRequestPreVote), "{sent:?}");
    due_us
}

#[test]
fn a_follower_stands_within_milliseconds_of_the_hint() {
    let mut replica = told(7);
    assert!(stands_at_us(&mut replica) <= TURNS_US);
    assert_eq!(replica.status().role, Role::PreCandidate);
    replica.receive(TURNS_US, message(Type::MsgRequestPreVoteResponse, 6)).unwrap();
    drain(&mut replica);
    replica.receive(TURNS_US, message(Type::MsgRequestVoteResponse, 6)).unwrap();
    let status = replica.status();
    assert_eq!(status.role, Role::Leader);
    assert_eq!(status.elections_stood, ElectionCauses { hint: 1, ..ElectionCauses::default() });
    assert_eq!(status.pre_campaigns, 1);
}

#[test]
fn followers_take_turns() {
    // Members 1 and 3 remain of term 5; member 3 is first in it.
    let first_us = {
        let conf_state = lone::conf(&[1, 2, 3]);
        let boot = consensus::Boot { conf_state, ..Default::default() };
        let mut third = Replica::new(Config::new(3, 7), boot, 0).unwrap();
        let beat = RaftMessage { to: 3, ..message(Type::MsgHeartbeat, 5) };
        third.receive(0, beat).unwrap();
        drain(&mut third);
        assert!(third.leader_gone(0, 2));
        stands_at_us(&mut third)
    };
    let second_us = stands_at_us(&mut told(7));
    assert!(first_us.abs_diff(second_us) >= 6_000, "{first_us} and {second_us}");
}

#[test]
fn who_is_told_grants_at_once_what_it_would_have_refused() {
    let mut deaf = follower();
    deaf.receive(0, asks(3, 10)).unwrap();
    assert!(drain(&mut deaf).is_empty(), "it hears its leader");
    let mut told = told(7);
    told.receive(0, asks(3, 10)).unwrap();
    assert_eq!(kinds(&drain(&mut told)), [Type::MsgRequestPreVoteResponse]);
    // And leaves the turn to who asked.
    told.tick(TURNS_US);
    assert_eq!(told.status().role, Role::Follower);
}

#[test]
fn entries_the_dead_leader_sent_do_not_renew_its_lease() {
    let mut told = told(7);
    told.receive(0, RaftMessage { index: 10, log_term: 5, ..message(Type::MsgAppend, 5) }).unwrap();
    drain(&mut told);
    told.receive(0, asks(3, 10)).unwrap();
    assert_eq!(kinds(&drain(&mut told)), [Type::MsgRequestPreVoteResponse]);
}

#[test]
fn who_has_more_than_the_one_that_asks_stands_at_once() {
    let mut told = told(7);
    told.receive(0, asks(3, 9)).unwrap();
    assert_eq!(kinds(&drain(&mut told)), [Type::MsgRequestPreVoteResponse]);
    told.tick(0);
    assert_eq!(told.status().role, Role::PreCandidate);
}

#[test]
fn a_leader_that_beats_after_all_keeps_its_followers() {
    let mut told = told(7);
    told.receive(1, message(Type::MsgHeartbeat, 5)).unwrap();
    drain(&mut told);
    told.tick(TURNS_US);
    assert_eq!(told.status().role, Role::Follower);
    told.receive(TURNS_US, asks(3, 10)).unwrap();
    assert!(drain(&mut told).is_empty());
}

#[test]
fn hints_about_anybody_else_are_nothing() {
    let mut follower = follower();
    assert!(!follower.leader_gone(0, 3));
    assert!(!follower.leader_gone(0, 1));
    assert!(!leader().leader_gone(0, 1));
    let mut nobodys = replica(Config::new(1, 7));
    assert!(!nobodys.leader_gone(0, 2));
    follower.tick(TURNS_US);
    assert_eq!(follower.status().role, Role::Follower);
}

#[test]
fn split_votes_are_cast_again_without_a_timeout_and_not_for_ever() {
    let timing = Timing { heartbeat_interval_us: 1_000_000, election_timeout_us: 50_000_000 };
    let mut replica = replica(Config { timing, ..Config::new(1, 7) });
    replica.receive(0, message(Type::MsgHeartbeat, 5)).unwrap();
    drain(&mut replica);
    assert!(replica.leader_gone(0, 2));
    let mut now_us = 0;
    for round in 1..=3 {
        now_us += TURNS_US;
        replica.tick(now_us);
        drain(&mut replica);
        assert_eq!(replica.status().role, Role::PreCandidate, "round {round}");
        let term = replica.status().term;
        let from_3 = |kind, reject| RaftMessage { from: 3, reject, ..message(kind, term + 1) };
        replica.receive(now_us, from_3(Type::MsgRequestPreVoteResponse, false)).unwrap();
        drain(&mut replica);
        assert_eq!(replica.status().role, Role::Candidate);
        replica.receive(now_us, from_3(Type::MsgRequestVoteResponse, true)).unwrap();
        drain(&mut replica);
    }
    now_us += TURNS_US;
    replica.tick(now_us);
    assert_eq!(replica.status().role, Role::Candidate);
    assert_eq!(replica.status().elections_stood.hint, 3);
}
