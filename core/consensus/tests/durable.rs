//! What a follower makes of what it is told to be durable, and what a leader's reads owe to it.

#![allow(clippy::unwrap_used, reason = "a test that goes wrong may panic")]

mod lone;

use bytes::Bytes;
use consensus::{ReadReady, Replica, Role};
use proto::peer::{RaftMessage, raft_message::Type};

use lone::{append, drain, entry, follower, has, kinds, leader, message};

/// Member 2, leading this term, has its log up to here on its disk.
fn durable(index: u64, term: u64) -> RaftMessage {
    RaftMessage { index, log_term: term, durable_index: index, ..message(Type::MsgAppend, term) }
}

#[test]
fn what_is_durable_at_the_leader_and_here_is_committed_without_an_answer() {
    let mut replica = follower();
    assert_eq!(replica.commit_index(), 8);
    replica.receive(0, durable(9, 5)).unwrap();
    assert_eq!(replica.commit_index(), 9);
    replica.receive(0, durable(12, 5)).unwrap();
    assert_eq!(replica.commit_index(), 10, "it has no more");
    assert!(drain(&mut replica).is_empty());
    assert_eq!((replica.status().applied, replica.status().committed_early), (10, 2));
}

#[test]
fn only_the_leader_of_the_term_is_believed() {
    for wrong in [durable(10, 4), durable(10, 6), RaftMessage { from: 3, ..durable(10, 5) }] {
        let mut replica = follower();
        replica.receive(0, wrong.clone()).unwrap();
        assert_eq!((replica.commit_index(), replica.status().term), (8, 5), "{wrong:?}");
        assert!(drain(&mut replica).is_empty());
    }
    // Nor is it by who stands for election, or waits for a leader.
    let mut candidate = follower();
    candidate.campaign();
    candidate.receive(0, durable(10, 5)).unwrap();
    assert_eq!(candidate.commit_index(), 8);
}

#[test]
fn entries_of_an_earlier_term_are_not_committed_by_it() {
    let mut replica = follower();
    replica.receive(0, message(Type::MsgHeartbeat, 6)).unwrap();
    drain(&mut replica);
    // The log here ends in entries of term 5, which the leader of term 6 may not have.
    replica.receive(0, durable(10, 6)).unwrap();
    replica.receive(0, durable(11, 6)).unwrap();
    assert_eq!(replica.commit_index(), 8);
    // Its own first entry comes, and everything before it is what the leader has.
    replica.receive(0, append(vec![entry(11, 6)])).unwrap();
    drain(&mut replica);
    assert_eq!(replica.commit_index(), 11);
}

#[test]
fn what_was_heard_in_a_term_counts_for_nothing_in_the_next() {
    let mut replica = follower();
    replica.receive(0, durable(12, 5)).unwrap();
    let of_next = RaftMessage { log_term: 5, ..append(vec![entry(11, 6), entry(12, 6)]) };
    replica.receive(0, RaftMessage { commit: 8, ..of_next }).unwrap();
    drain(&mut replica);
    assert_eq!((replica.status().term, replica.commit_index()), (6, 10));
}

#[test]
fn nothing_is_committed_that_is_not_on_the_own_disk() {
    let mut replica = follower();
    let entries = vec![entry(11, 5), entry(12, 5)];
    let with_entries = RaftMessage { term: 5, durable_index: 12, ..append(entries) };
    replica.receive(0, with_entries).unwrap();
    let mut persists = Vec::new();
    while replica.has_output() {
        let output = replica.take_output(0);
        assert!(output.committed.iter().all(|entry| entry.index <= 10));
        persists.extend(output.persist);
    }
    assert_eq!((replica.status().last_index, replica.commit_index()), (12, 10));
    replica.persisted(persists.last().unwrap().number);
    assert_eq!(replica.commit_index(), 12);
    let output = replica.take_output(0);
    assert_eq!(output.committed.last().unwrap().index, 12);
    assert_eq!(kinds(&output.messages), [Type::MsgAppendResponse], "entries are answered");
}

#[test]
fn who_stands_for_election_commits_nothing_by_what_it_was_told_before() {
    let mut replica = follower();
    let with_entries = RaftMessage { term: 5, durable_index: 12, ..append(vec![entry(11, 5)]) };
    replica.receive(0, with_entries).unwrap();
    let persist = replica.take_output(0).persist.unwrap();
    replica.campaign();
    assert_ne!(replica.status().role, Role::Follower);
    replica.persisted(persist.number);
    assert_eq!((replica.status().persisted, replica.commit_index()), (11, 10));
}

#[test]
fn a_commit_index_the_leader_names_later_is_not_answered_and_a_question_is() {
    let mut replica = follower();
    replica.receive(0, durable(10, 5)).unwrap();
    drain(&mut replica);
    let names = RaftMessage { index: 10, log_term: 5, commit: 10, ..message(Type::MsgAppend, 5) };
    replica.receive(0, names.clone()).unwrap();
    assert!(drain(&mut replica).is_empty());
    replica.receive(0, names).unwrap();
    assert_eq!(kinds(&drain(&mut replica)), [Type::MsgAppendResponse]);
}

#[test]
fn it_is_no_sign_of_a_leader() {
    let mut replica = follower();
    for now_us in (0..4_000_000).step_by(50_000) {
        replica.receive(now_us, durable(10, 5)).unwrap();
        replica.tick(now_us);
    }
    assert_ne!(replica.status().role, Role::Follower);
}

// The leader's reads ---------------------------------------------------------------------------

/// What is sent, and the reads that are answered.
fn outputs(replica: &mut Replica, now_us: u64) -> (Vec<RaftMessage>, Vec<ReadReady>) {
    let (mut sent, mut reads) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        if !replica.has_output() {
            return (sent, reads);
        }
        let output = replica.take_output(now_us);
        sent.extend(output.messages);
        reads.extend(output.reads);
        if let Some(entry) = output.committed.last() {
            replica.applied(entry.index);
        }
        if let Some(persist) = output.persist {
            replica.persisted(persist.number);
        }
    }
    panic!("never comes to rest");
}

const BEAT_US: u64 = 110_000;
const NOW_US: u64 = 200_000;

fn beats(sent: &[RaftMessage]) -> impl Iterator<Item = &RaftMessage> {
    sent.iter().filter(|message| message.r#type() == Type::MsgHeartbeat)
}

/// A follower's answer to what was sent to it.
fn answers(sent: &[RaftMessage], from: u64) -> Vec<RaftMessage> {
    let answer = |beat: &RaftMessage| RaftMessage {
        from,
        sent_us: beat.sent_us,
        context: beat.context.clone(),
        ..message(Type::MsgHeartbeatResponse, 6)
    };
    beats(sent).filter(|beat| beat.to == from).map(answer).collect()
}

/// The leader of term 6, whose followers are far, has entry 12 on its disk and has told member 2.
fn told() -> Replica {
    let mut replica = leader();
    replica.receive(0, has(11, 2)).unwrap();
    drain(&mut replica);
    replica.tick(BEAT_US);
    let (sent, _) = outputs(&mut replica, BEAT_US);
    // As often as it takes to believe that it is far.
    for answer in answers(&sent, 2).iter().cycle().take(8) {
        replica.receive(NOW_US, answer.clone()).unwrap();
    }
    replica.propose_for(2, Bytes::from_static(b"x")).unwrap();
    let (sent, _) = outputs(&mut replica, NOW_US);
    let said: Vec<(u64, u64)> = sent
        .iter()
        .filter(|message| message.durable_index > 0)
        .map(|message| (message.to, message.durable_index))
        .collect();
    assert_eq!(said, [(2, 12)]);
    assert_eq!(replica.commit_index(), 11);
    replica
}

#[test]
fn a_read_waits_for_what_was_told_before_it_and_finds_it() {
    let mut replica = told();
    replica.read(7);
    let (sent, _) = outputs(&mut replica, NOW_US);
    for answer in answers(&sent, 3) {
        replica.receive(NOW_US, answer).unwrap();
    }
    let (_, reads) = outputs(&mut replica, NOW_US);
    assert!(reads.is_empty(), "a quorum has confirmed the leader: {reads:?}");
    replica.receive(NOW_US, has(12, 3)).unwrap();
    let (_, reads) = outputs(&mut replica, NOW_US);
    assert_eq!(reads, [ReadReady { ticket: 7, index: 12 }]);
}

#[test]
fn a_read_that_is_proved_when_what_was_told_is_committed_is_answered_there_too() {
    let mut replica = told();
    replica.read(7);
    let (sent, _) = outputs(&mut replica, NOW_US);
    replica.receive(NOW_US, has(12, 3)).unwrap();
    outputs(&mut replica, NOW_US);
    for answer in answers(&sent, 3) {
        replica.receive(NOW_US, answer).unwrap();
    }
    let (_, reads) = outputs(&mut replica, NOW_US);
    assert_eq!(reads, [ReadReady { ticket: 7, index: 12 }]);
}

#[test]
fn another_members_read_waits_for_it_as_well() {
    let mut replica = told();
    let context = proto::log::Entry { data: Bytes::from_static(b"of 3"), ..Default::default() };
    let question =
        RaftMessage { from: 3, term: 0, entries: vec![context], ..message(Type::MsgReadIndex, 0) };
    replica.receive(NOW_US, question).unwrap();
    let (sent, _) = outputs(&mut replica, NOW_US);
    for answer in answers(&sent, 3) {
        replica.receive(NOW_US, answer).unwrap();
    }
    let (sent, _) = outputs(&mut replica, NOW_US);
    assert!(!kinds(&sent).contains(&Type::MsgReadIndexResp));
    replica.receive(NOW_US, has(12, 3)).unwrap();
    let (sent, _) = outputs(&mut replica, NOW_US);
    let answers: Vec<u64> = sent
        .iter()
        .filter(|message| message.r#type() == Type::MsgReadIndexResp)
        .map(|message| message.index)
        .collect();
    assert_eq!(answers, [12]);
}

#[test]
fn a_read_by_lease_waits_for_what_was_told_before_the_plan_asked_for_leases() {
    let mut replica = told();
    replica.set_lease(240_000);
    replica.read(7);
    let (sent, reads) = outputs(&mut replica, NOW_US);
    assert_eq!(beats(&sent).count(), 0, "nobody is asked");
    assert!(reads.is_empty());
    replica.receive(NOW_US, has(12, 3)).unwrap();
    let (_, reads) = outputs(&mut replica, NOW_US);
    assert_eq!(reads, [ReadReady { ticket: 7, index: 12 }]);
}

#[test]
fn with_the_leadership_a_read_that_waited_begins_again() {
    let mut replica = told();
    replica.read(7);
    let (sent, _) = outputs(&mut replica, NOW_US);
    for answer in answers(&sent, 3) {
        replica.receive(NOW_US, answer).unwrap();
    }
    outputs(&mut replica, NOW_US);
    replica.receive(NOW_US, message(Type::MsgHeartbeat, 7)).unwrap();
    let (sent, reads) = outputs(&mut replica, NOW_US);
    assert!(reads.is_empty());
    assert!(kinds(&sent).contains(&Type::MsgReadIndex), "{:?}", kinds(&sent));
}
