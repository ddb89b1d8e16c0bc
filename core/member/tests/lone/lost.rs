//! Commands given to a leader that was lost: proposed again by whoever asked, once, and only once that is
//! safe.

use bytes::Bytes;
use member::consensus::Config;
use member::{Forward, Input, Proposal, Reply};
use prost::Message as _;
use proto::etcdserverpb::PutRequest;
use proto::log::{Batch, Command, Entry, RequestId, command};
use proto::peer::{RaftMessage, raft_message::Type};

use crate::Lone;
use crate::leases::Stage;

const FIRST: u64 = 2;
const SECOND: u64 = 3;
/// Of this boot, as `Lone` has it.
const ORIGIN: u64 = 9;
const NOW_US: u64 = 1_000;
const NOTHING: [u64; 0] = [];

fn command(sequence: u64) -> Bytes {
    let id = Some(RequestId { member: ORIGIN, sequence });
    let put = PutRequest { key: Bytes::from_static(b"k"), ..PutRequest::default() };
    Command { id, op: Some(command::Op::Put(put)) }.encode_to_vec().into()
}

fn propose(sequence: u64) -> Input {
    let proposal = Proposal { sequence, deadline_us: u64::MAX, command: command(sequence) };
    Input::Propose(vec![proposal])
}

/// An empty entry, as every leader begins with, or one that holds a command.
fn entry(term: u64, index: u64, holds: Option<u64>) -> Entry {
    let batch = holds.map(|sequence| Batch { commands: vec![command(sequence)] });
    let data = batch.map_or_else(Bytes::new, |batch| batch.encode_to_vec().into());
    Entry { term, index, data, ..Entry::default() }
}

struct Follower {
    lone: Lone,
    /// Its log: the terms of its entries, the first at the index it was founded with.
    terms: Vec<u64>,
    base: u64,
    binds: bool,
    now_us: u64,
}

impl Follower {
    fn new() -> Follower {
        let mut lone = Lone::new(Config::new(1, ORIGIN));
        lone.step(NOW_US, Vec::new());
        let status = lone.member.status();
        let term = status.term.max(1);
        Follower { lone, terms: vec![term], base: status.last_index, binds: true, now_us: NOW_US }
    }

    /// What its log ends with.
    fn last(&self) -> (u64, u64) {
        (self.base + self.terms.len() as u64 - 1, self.terms[self.terms.len() - 1])
    }

    /// A leader of this term sends an entry and says that it is committed.
    fn hear(&mut self, leader: u64, term: u64, holds: Option<u64>) {
        self.hear_all(leader, term, &[(term, holds)]);
    }

    /// The same, of several with terms of their own.
    fn hear_all(&mut self, leader: u64, term: u64, entries: &[(u64, Option<u64>)]) {
        let (index, log_term) = self.last();
        let numbered = (index + 1..).zip(entries);
        let append = RaftMessage {
            r#type: Type::MsgAppend.into(),
            to: 1,
            from: leader,
            term,
            index,
            log_term,
            entries: numbered.map(|(index, (term, holds))| entry(*term, index, *holds)).collect(),
            commit: index + entries.len() as u64,
            binds_forwards: self.binds,
            ..RaftMessage::default()
        };
        self.terms.extend(entries.iter().map(|(term, _)| *term));
        self.lone.step(self.now_us, vec![Input::Message(append)]);
        let status = self.lone.member.status();
        assert_eq!((status.term, status.applied), (term, self.last().0), "the append is taken");
    }

    fn step(&mut self, input: Input) {
        self.lone.step(self.now_us, vec![input]);
    }

    /// Until it wants to be stepped again.
    fn rest(&mut self) {
        self.now_us = self.lone.wake_at_us;
        self.step(Input::Tick);
    }

    /// What was sent on since this was last asked: to whom, for which term, whose.
    fn forwarded(&mut self) -> Vec<(u64, u64, Vec<Bytes>)> {
        let forwarded = std::mem::take(&mut self.lone.forwarded);
        forwarded.into_iter().map(|Forward { to, term, commands }| (to, term, commands)).collect()
    }

    fn lost(&mut self) -> Vec<u64> {
        let replies = std::mem::take(&mut self.lone.replies);
        let lost = |reply| match reply {
            Reply::Lost { sequence } => Some(sequence),
            _ => None,
        };
        replies.into_iter().filter_map(lost).collect()
    }
}

#[test]
fn what_a_lost_leader_did_not_commit_is_lost_when_the_next_ones_first_entry_is_applied() {
    let mut follower = Follower::new();
    let term = follower.last().1 + 1;
    follower.hear(FIRST, term, None);
    for sequence in [1, 2] {
        follower.step(propose(sequence));
    }
    let sent = [(FIRST, term, vec![command(1)]), (FIRST, term, vec![command(2)])];
    assert_eq!(follower.forwarded(), sent);
    follower.hear(FIRST, term, Some(1));
    assert_eq!(follower.lost(), NOTHING, "the leader may still have the other committed");

    follower.hear(SECOND, term + 1, None);
    assert_eq!(follower.lost(), [2]);
    follower.step(propose(2));
    assert_eq!(follower.forwarded(), [(SECOND, term + 1, vec![command(2)])]);
    follower.hear(SECOND, term + 1, Some(2));
    follower.hear(FIRST, term + 2, None);
    assert_eq!(follower.lost(), NOTHING);
}

#[test]
fn what_the_next_leader_has_from_the_last_one_is_not_lost() {
    let mut follower = Follower::new();
    let term = follower.last().1 + 1;
    follower.hear(FIRST, term, None);
    follower.step(propose(1));
    // It commits what its predecessor left, in the predecessor's term, and with it its own first entry.
    follower.hear_all(SECOND, term + 1, &[(term, Some(1)), (term + 1, None)]);
    assert_eq!(follower.lost(), NOTHING);
}

#[test]
fn what_went_to_a_leader_that_binds_nothing_is_never_called_lost() {
    let mut follower = Follower::new();
    let term = follower.last().1 + 1;
    follower.binds = false;
    follower.hear(FIRST, term, None);
    follower.step(propose(1));
    assert_eq!(follower.forwarded(), [(FIRST, 0, vec![command(1)])]);
    follower.binds = true;
    follower.hear(SECOND, term + 1, None);
    assert_eq!(follower.lost(), NOTHING);
}

#[test]
fn what_is_handed_back_goes_to_whoever_leads_unless_it_went_there_already() {
    let mut follower = Follower::new();
    let term = follower.last().1 + 1;
    follower.hear(FIRST, term, None);
    follower.step(propose(1));
    follower.forwarded();
    let back = |term| Input::NotForwarded { term, commands: vec![command(1)] };
    follower.step(back(term));
    assert_eq!(follower.forwarded(), [], "no connection stands: it would come back at once");
    follower.rest();
    assert_eq!(follower.forwarded(), [(FIRST, term, vec![command(1)])]);

    follower.hear(SECOND, term + 1, None);
    assert_eq!(follower.lost(), [1]);
    follower.step(propose(1));
    follower.step(back(term));
    follower.rest();
    assert_eq!(follower.forwarded(), [(SECOND, term + 1, vec![command(1)])], "once");
}

#[test]
fn a_leader_proposes_what_is_for_its_term_and_nothing_else() {
    let mut stage = Stage::new();
    let term = stage.lead();
    let proposed = |stage: &Stage| stage.lone.member.status().last_index;
    let before = proposed(&stage);
    let at = |term, sequence| {
        let commands = vec![command(sequence)];
        Input::Forwarded { from: FIRST, term, commands }
    };
    stage.step(vec![at(term - 1, 1)]);
    stage.step(vec![at(term + 1, 2)]);
    assert_eq!(proposed(&stage), before);
    stage.step(vec![at(term, 3)]);
    stage.step(vec![at(0, 4)]);
    assert_eq!(proposed(&stage), before + 2);
}
