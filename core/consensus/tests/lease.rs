//! Reads by the leader alone: what begins a lease, what ends it, and what voters promise for it.

#![allow(clippy::unwrap_used, reason = "a test that goes wrong may panic")]

mod lone;

use consensus::{Replica, Role};
use proto::peer::{RaftMessage, raft_message::Type};

use lone::{drain, follower, has, kinds, leader, message};

const LEASE_US: u64 = 240_000;

fn heartbeats(messages: &[RaftMessage]) -> Vec<&RaftMessage> {
    messages.iter().filter(|m| m.r#type() == Type::MsgHeartbeat).collect()
}

/// A leader of term 6 that commits, with leases, and what its first heartbeat said of its time.
fn leasing() -> (Replica, u64) {
    let mut replica = leader();
    replica.set_lease(LEASE_US);
    replica.receive(0, has(11, 2)).unwrap();
    drain(&mut replica);
    let mut sent = Vec::new();
    for now_us in (0..=200_000).step_by(10_000) {
        replica.tick(now_us);
        sent.extend(replica.take_output(now_us).messages);
    }
    let sent_us = heartbeats(&sent).first().unwrap().sent_us;
    assert!((90_000..=110_000).contains(&sent_us), "{sent_us}");
    (replica, sent_us)
}

fn answer(sent_us: u64) -> RaftMessage {
    RaftMessage { sent_us, ..message(Type::MsgHeartbeatResponse, 6) }
}

/// Whether a read is answered at once, without a word to anybody.
fn reads_alone(replica: &mut Replica, now_us: u64, ticket: u64) -> bool {
    replica.tick(now_us);
    replica.take_output(now_us);
    replica.read(ticket);
    let mut sent = Vec::new();
    for _ in 0..10 {
        let output = replica.take_output(now_us);
        sent.extend(output.messages);
        if let Some(read) = output.reads.first() {
            assert_eq!((read.ticket, read.index), (ticket, 11));
            assert!(heartbeats(&sent).is_empty());
            return true;
        }
        if !replica.has_output() {
            break;
        }
    }
    assert!(!heartbeats(&sent).is_empty(), "it asks a quorum: {:?}", kinds(&sent));
    false
}

#[test]
fn within_its_lease_a_leader_answers_reads_without_asking_anybody() {
    let (mut replica, sent_us) = leasing();
    replica.receive(250_000, answer(sent_us)).unwrap();
    assert!(reads_alone(&mut replica, 250_000, 1));
    assert!(reads_alone(&mut replica, sent_us + LEASE_US - 1, 2));
    assert!(!reads_alone(&mut replica, sent_us + LEASE_US, 3), "however late the answer came");
}

#[test]
fn nobodys_answer_and_answers_without_a_time_begin_no_lease() {
    let (mut replica, _) = leasing();
    replica.receive(210_000, answer(0)).unwrap();
    replica.receive(210_000, answer(u64::MAX)).unwrap();
    assert!(!reads_alone(&mut replica, 210_000, 1));
}

#[test]
fn without_a_length_every_read_asks_a_quorum() {
    let (mut replica, sent_us) = leasing();
    replica.receive(210_000, answer(sent_us)).unwrap();
    replica.set_lease(0);
    assert!(!reads_alone(&mut replica, 210_000, 1));
}

#[test]
fn with_the_word_to_a_successor_the_lease_is_over_for_the_term() {
    let (mut replica, sent_us) = leasing();
    replica.receive(210_000, answer(sent_us)).unwrap();
    replica.transfer_leader(2).unwrap();
    let sent = replica.take_output(210_000).messages;
    assert!(kinds(&sent).contains(&Type::MsgTimeoutNow), "{:?}", kinds(&sent));
    replica.receive(211_000, answer(sent_us + 50_000)).unwrap();
    assert!(!reads_alone(&mut replica, 212_000, 1));
    // The transfer is given up after an election timeout; the word to the successor may still arrive.
    for now_us in (220_000..3_000_000).step_by(10_000) {
        replica.tick(now_us);
        for beat in heartbeats(&replica.take_output(now_us).messages) {
            let (from, context) = (beat.to, beat.context.clone());
            let answered = RaftMessage { from, context, ..answer(beat.sent_us) };
            replica.receive(now_us, answered).unwrap();
        }
    }
    assert_eq!(replica.status().role, Role::Leader);
    assert_eq!(replica.status().lead_transferee, None);
    assert!(!reads_alone(&mut replica, 3_000_000, 2));
}

#[test]
fn a_follower_says_which_heartbeat_it_answers() {
    let mut replica = follower();
    let beat = RaftMessage { sent_us: 77, ..message(Type::MsgHeartbeat, 5) };
    replica.receive(0, beat).unwrap();
    let sent = drain(&mut replica);
    assert_eq!(kinds(&sent), [Type::MsgHeartbeatResponse]);
    assert_eq!(sent[0].sent_us, 77);
}

#[test]
fn a_voter_that_may_have_promised_before_its_boot_gives_no_vote_for_an_election_timeout() {
    let ask = |kind| RaftMessage { index: 10, log_term: 5, ..message(kind, 6) };
    for kind in [Type::MsgRequestPreVote, Type::MsgRequestVote] {
        let mut forgetful = lone::replica(consensus::Config::new(1, 7));
        forgetful.receive(0, ask(kind)).unwrap();
        assert_eq!(drain(&mut forgetful).len(), 1, "{kind:?}");
        let mut mindful = lone::replica(consensus::Config::new(1, 7));
        mindful.keep_promises();
        mindful.receive(999_999, ask(kind)).unwrap();
        assert!(drain(&mut mindful).is_empty(), "{kind:?}");
        mindful.receive(1_000_000, ask(kind)).unwrap();
        assert_eq!(drain(&mut mindful).len(), 1, "{kind:?}");
    }
}
