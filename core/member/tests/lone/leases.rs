//! Who may speak for a lease: a leader that was one after the question was asked.

use bytes::Bytes;
use member::consensus::Config;
use member::{Input, Reply};
use prost::Message as _;
use proto::log::{Command, LeaseGrant, RequestId, command};
use proto::peer::{RaftMessage, TuningAck, raft_message::Type};

use crate::Lone;

const OTHER: u64 = 2;
const STEP_US: u64 = 20_000;
/// Rounds within which everything here has settled.
const ROUNDS_MAX: usize = 400;

pub(crate) struct Stage {
    pub(crate) lone: Lone,
    now_us: u64,
}

fn forwarded(command: Bytes) -> Input {
    Input::Forwarded { from: OTHER, term: 0, commands: vec![command] }
}

impl Stage {
    pub(crate) fn new() -> Stage {
        Stage { lone: Lone::new(Config::new(1, 9)), now_us: 0 }
    }

    pub(crate) fn step(&mut self, inputs: Vec<Input>) {
        self.lone.step(self.now_us, inputs);
    }

    /// What member 2 answers to what was sent to it since the last time.
    fn answers(&mut self) -> Vec<Input> {
        let answer = |message: &RaftMessage| {
            let (kind, index) = match message.r#type() {
                Type::MsgRequestPreVote => (Type::MsgRequestPreVoteResponse, 0),
                Type::MsgRequestVote => (Type::MsgRequestVoteResponse, 0),
                Type::MsgHeartbeat => (Type::MsgHeartbeatResponse, 0),
                Type::MsgAppend => {
                    let last = message.entries.last();
                    (Type::MsgAppendResponse, last.map_or(message.index, |entry| entry.index))
                }
                _ => return None,
            };
            Some(Input::Message(RaftMessage {
                r#type: kind.into(),
                to: 1,
                from: OTHER,
                term: message.term,
                index,
                context: message.context.clone(),
                sent_us: message.sent_us,
                tuning: Some(TuningAck::default()),
                ..RaftMessage::default()
            }))
        };
        let sent = std::mem::take(&mut self.lone.sent);
        sent.iter().filter(|message| message.to == OTHER).filter_map(answer).collect()
    }

    /// Lets member 1 become the leader, with its first entry committed and applied.
    pub(crate) fn lead(&mut self) -> u64 {
        for _ in 0..ROUNDS_MAX {
            self.pass();
            let status = self.lone.member.status();
            if status.leader == Some(1) && status.applied == status.last_index {
                self.lone.replies.clear();
                return status.term;
            }
        }
        panic!("no leader");
    }

    /// A while with answers from member 2.
    fn pass(&mut self) {
        self.now_us += STEP_US;
        let answers = self.answers();
        self.step(answers);
    }

    /// Member 2 has been elected since this term.
    fn hear_successor(&mut self, term: u64) {
        let heartbeat = RaftMessage {
            r#type: Type::MsgHeartbeat.into(),
            to: 1,
            from: OTHER,
            term: term + 1,
            ..RaftMessage::default()
        };
        self.step(vec![Input::Message(heartbeat)]);
    }

    fn lease_replies(&self) -> Vec<&Reply> {
        self.lone
            .replies
            .iter()
            .filter(|it| matches!(it, Reply::Lease { .. } | Reply::LeaseAskLeader { .. }))
            .collect()
    }
}

#[test]
fn a_lease_question_is_answered_once_a_quorum_has_confirmed_the_leader() {
    let mut stage = Stage::new();
    stage.lead();
    drop(stage.answers());
    stage.step(vec![Input::LeaseKeepAlive { ticket: 5, id: 77 }]);
    assert!(stage.lease_replies().is_empty(), "{:?}", stage.lone.replies);
    let answers = stage.answers();
    assert!(!answers.is_empty(), "a round of heartbeats has left");
    stage.step(answers);
    assert_eq!(stage.lease_replies(), [&Reply::Lease { ticket: 5, lease: None }]);
    // The round was the member's own: no caller holds its ticket.
    assert!(!stage.lone.replies.iter().any(|reply| matches!(reply, Reply::ReadAt { .. })));
}

#[test]
fn a_leader_that_was_deposed_without_knowing_renews_no_lease() {
    let mut stage = Stage::new();
    let term = stage.lead();
    drop(stage.answers());
    stage.step(vec![
        Input::LeaseKeepAlive { ticket: 5, id: 77 },
        Input::LeaseTimeToLive { ticket: 6, id: 77 },
    ]);
    // What it hears instead of confirmations: another one leads, and has for a while.
    stage.hear_successor(term);
    let ask = |ticket| Reply::LeaseAskLeader { ticket, leader: Some(OTHER) };
    assert_eq!(stage.lease_replies(), [&ask(5), &ask(6)]);
}

#[test]
fn questions_that_come_in_crowds_share_a_round_and_single_ones_do_not_wait() {
    let mut stage = Stage::new();
    stage.lead();
    drop(stage.answers());
    let ask = |ticket| Input::LeaseKeepAlive { ticket, id: 77 };
    // One after the other: each has a round at once.
    for ticket in 0..3 {
        stage.step(vec![ask(ticket)]);
        let answers = stage.answers();
        assert!(!answers.is_empty(), "a round for question {ticket}");
        stage.step(answers);
        assert_eq!(stage.lease_replies().len(), 1);
        stage.lone.replies.clear();
    }
    // After a crowd the next one gathers until its time has come.
    stage.step((10..20).map(ask).collect());
    let answers = stage.answers();
    stage.step(answers);
    assert_eq!(stage.lease_replies().len(), 10);
    stage.lone.replies.clear();
    stage.step(vec![ask(20)]);
    assert!(stage.answers().is_empty(), "it gathers");
    assert!(stage.lone.wake_at_us > stage.now_us);
    stage.step(vec![ask(21)]);
    assert!(stage.answers().is_empty(), "it still gathers");
    stage.now_us = stage.lone.wake_at_us;
    stage.step(vec![Input::Tick]);
    let answers = stage.answers();
    stage.step(answers);
    assert_eq!(stage.lease_replies().len(), 2);
}

/// Another member may have applied the grant first and told whoever asked for it.
#[test]
fn a_lease_that_is_granted_is_there_when_asked_for_though_the_leader_is_slow_to_apply() {
    let mut stage = Stage::new();
    stage.lead();
    drop(stage.answers());
    stage.lone.unapplied = Some(Vec::new());
    let id = Some(RequestId { member: 8, sequence: 1 });
    let op = Some(command::Op::LeaseGrant(LeaseGrant { id: 77, ttl: 600 }));
    let command = Command { id, op }.encode_to_vec();
    stage.step(vec![forwarded(command.into())]);
    let answers = stage.answers();
    stage.step(answers);
    let status = stage.lone.member.status();
    assert_eq!((status.commit, status.applied + 1), (status.last_index, status.last_index));

    stage.step(vec![Input::LeaseTimeToLive { ticket: 5, id: 77 }]);
    let answers = stage.answers();
    stage.step(answers);
    assert!(stage.lease_replies().is_empty(), "{:?}", stage.lone.replies);
    let applied = stage.lone.catch_up();
    stage.step(applied);
    let [Reply::Lease { ticket: 5, lease: Some(lease) }] = stage.lease_replies()[..] else {
        panic!("{:?}", stage.lone.replies)
    };
    assert_eq!(lease.granted_ttl, 600);
}

/// Another member may have committed the grant by what was durable at two, and told whoever asked for it.
#[test]
fn a_lease_that_a_follower_has_told_of_is_renewed_though_the_leader_cannot_know_of_it_yet() {
    let mut stage = Stage::new();
    stage.lead();
    // Until the leader believes that member 2 is far.
    for _ in 0..60 {
        stage.pass();
    }
    let id = Some(RequestId { member: 8, sequence: 1 });
    let op = Some(command::Op::LeaseGrant(LeaseGrant { id: 77, ttl: 600 }));
    let grant = Command { id, op }.encode_to_vec();
    drop(stage.answers());
    stage.step(vec![forwarded(grant.into())]);
    let status = stage.lone.member.status();
    assert_eq!((status.durable_told, status.commit + 1), (1, status.last_index));
    let of_the_grant = stage.answers();

    stage.step(vec![Input::LeaseKeepAlive { ticket: 5, id: 77 }]);
    let answers = stage.answers();
    assert!(!answers.is_empty(), "a round of heartbeats has left");
    stage.step(answers);
    assert!(stage.lease_replies().is_empty(), "{:?}", stage.lone.replies);
    stage.step(of_the_grant);
    let [Reply::Lease { ticket: 5, lease: Some(lease) }] = stage.lease_replies()[..] else {
        panic!("{:?}", stage.lone.replies)
    };
    assert_eq!(lease.granted_ttl, 600);
}

/// Its successor may have renewed it: the holder asked again as soon as somebody led.
#[test]
fn what_a_leader_had_begun_to_revoke_is_not_handed_to_its_successor() {
    let mut stage = Stage::new();
    let term = stage.lead();
    let grant = command::Op::LeaseGrant(LeaseGrant { id: 77, ttl: 3 });
    let forever = |id| command::Op::LeaseGrant(LeaseGrant { id, ttl: 600 });
    let command = |sequence, op| {
        let id = Some(RequestId { member: 9, sequence });
        Bytes::from(Command { id, op: Some(op) }.encode_to_vec())
    };
    stage.step(vec![forwarded(command(1, grant))]);
    let answers = stage.answers();
    stage.step(answers);
    for _ in 0..115 {
        stage.pass();
    }
    // A disk that stands still holds back what the leader wants to write, and the lease runs out.
    stage.lone.is_stuck = true;
    stage.step(vec![forwarded(command(2, forever(78)))]);
    for _ in 0..30 {
        stage.pass();
    }
    let late = command(3, forever(79));
    stage.step(vec![forwarded(late.clone())]);
    for _ in 0..10 {
        stage.pass();
    }
    assert_eq!(stage.lone.member.commands_waiting(), 2, "a command and a revocation");
    stage.hear_successor(term);
    stage.step(vec![Input::Tick]);
    // What callers asked for goes on, and nothing else.
    let forwarded = stage.lone.forwarded.iter().flat_map(|it| &it.commands);
    assert_eq!(forwarded.collect::<Vec<_>>(), [&late]);
}
