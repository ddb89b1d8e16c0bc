//! Linearizable reads without writing: ReadIndex, one round for many.
//!
//! A read is linearizable at any index that was committed at some moment after the read was asked
//! for, provided that the leader still led at that moment. The leader proves that by a round of
//! heartbeats. Rounds are the cost, so reads share them: tickets gather while a round is on its
//! way, and all that have gathered go with the next one. At most one round is on its way and one
//! gathering, so reads never flood the peers with heartbeats, however many there are.
//!
//! A follower's round is one question to the leader; the leader lets it ride on its own next
//! round, together with its own tickets.
//!
//! Invariant: a ticket is never answered by a round that began before the ticket was taken.
//!
//! Invariant: no context is ever used twice. In etcd a repeated question, answered long ago,
//! brought acknowledgements of its first asking along, and they vouched for younger questions queued
//! before it: a stale read (etcd-io/etcd#20418, #21378, #21399). Here a question asked again gets a
//! new context, raft's queue only ever sees rounds this leader began in this term, and an answer
//! counts only for tickets that were taken before its very question was asked. Contexts carry the
//! boot's seed, or an answer meant for the process that died could reach its successor.
//!
//! Rounds get lost: a leader that has not yet committed in its term drops them, a follower without
//! a leader drops them, networks do. A change of leader or term begins a lost round again, and a
//! follower also asks again after half an election timeout, or twice what an answer took of late; a
//! leader's own round is repeated by every heartbeat. The leader may be farther away than that: then
//! no answer would ever be in time, were those to questions asked before not taken, too. Tickets that
//! waited too long fail.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};

use crate::config::{PEER_READS_WAITING_MAX, READ_WAIT_US, READS_WAITING_MAX};
use crate::output::ReadReady;

/// However long answers take, one that is lost is asked again within a read's time.
const TOOK_US_MAX: u64 = READ_WAIT_US / 8;
/// How often the wait before a question is asked again is doubled.
const DOUBLINGS_MAX: u32 = 2;
/// Questions asked again whose answers are still taken; the oldest is forgotten.
const EARLIER_MAX: usize = 16;
/// Rounds that wait for what was told; a further one joins the last.
const HELD_ROUNDS_MAX: usize = 16;
/// With each answer so small a part of what one took at most is forgotten.
const TOOK_WEARS: u64 = 8;

/// A local read.
#[derive(Clone, Copy, Debug)]
struct Ticket {
    ticket: u64,
    taken_us: u64,
    /// In the order they were taken.
    number: u64,
}

/// Another member's round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerRead {
    pub(crate) from: u64,
    pub(crate) context: Bytes,
}

/// A round on its way.
#[derive(Debug)]
struct Round {
    context: Bytes,
    tickets: Vec<Ticket>,
    peers: Vec<PeerRead>,
    /// The newest ticket taken before it began.
    through: u64,
    began_us: u64,
    term: u64,
    leader: u64,
    /// It is answered at this index or above, once that is committed.
    told: u64,
    /// Where a quorum has confirmed the leader, once it has.
    proved: u64,
}

impl Round {
    /// Takes in a younger one, which waits for the same or more.
    fn join(&mut self, younger: Round) {
        let Round { tickets, peers, told, proved, .. } = younger;
        self.tickets.extend(tickets);
        // Who asks again is content with the answer to the last question.
        self.peers.retain(|peer| peers.iter().all(|other| other.from != peer.from));
        self.peers.extend(peers);
        self.told = self.told.max(told);
        self.proved = self.proved.max(proved);
    }
}

/// What a round has come to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answered {
    /// What it is linearizable at.
    pub(crate) index: u64,
    /// The local reads.
    pub(crate) ready: Vec<ReadReady>,
    /// Other members', to be told.
    pub(crate) peers: Vec<PeerRead>,
}

/// A follower's question that was asked again before an answer came.
#[derive(Debug)]
struct Asked {
    context: Bytes,
    through: u64,
    began_us: u64,
}

/// Who leads, and whether a leader may answer reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lead {
    pub(crate) term: u64,
    /// 0: nobody.
    pub(crate) leader: u64,
    pub(crate) is_self: bool,
    /// An entry of the leader's own term is committed; before that its commit index may lag.
    pub(crate) may_answer: bool,
    /// Up to here followers may have answered their callers already ([`crate::durable`]).
    pub(crate) told: u64,
    pub(crate) committed: u64,
}

/// The reads of one replica.
#[derive(Debug)]
pub(crate) struct Reads {
    id: u64,
    seed: u64,
    begun: u64,
    gathering: VecDeque<Ticket>,
    gathering_peers: Vec<PeerRead>,
    round: Option<Round>,
    /// Rounds that are proved and wait for what was told before they began, oldest first.
    held: VecDeque<Round>,
    /// The round's, with other contexts, to the same leader in the same term; oldest first.
    earlier: VecDeque<Asked>,
    /// How often the round was asked again.
    repeats: u32,
    /// How long an answer took of late.
    took_us: u64,
    /// Tickets taken.
    taken: u64,
    failed: Vec<u64>,
}

impl Reads {
    pub(crate) fn new(id: u64, seed: u64) -> Reads {
        Reads {
            id,
            seed,
            begun: 0,
            gathering: VecDeque::new(),
            gathering_peers: Vec::new(),
            round: None,
            held: VecDeque::new(),
            earlier: VecDeque::new(),
            repeats: 0,
            took_us: 0,
            taken: 0,
            failed: Vec::new(),
        }
    }

    /// Takes a ticket; too many fail at once.
    pub(crate) fn push(&mut self, now_us: u64, ticket: u64) {
        if self.waiting() >= READS_WAITING_MAX {
            self.failed.push(ticket);
        } else {
            self.taken += 1;
            self.gathering.push_back(Ticket { ticket, taken_us: now_us, number: self.taken });
        }
    }

    /// Takes another member's round. False: too many wait.
    pub(crate) fn push_peer(&mut self, read: PeerRead) -> bool {
        if self.gathering_peers.len() >= PEER_READS_WAITING_MAX {
            return false;
        }
        if !self.gathering_peers.contains(&read) {
            self.gathering_peers.push(read);
        }
        true
    }

    pub(crate) fn waiting(&self) -> usize {
        self.gathering.len() + self.rounds().map(|round| round.tickets.len()).sum::<usize>()
    }

    /// Those that have begun, oldest first.
    fn rounds(&self) -> impl Iterator<Item = &Round> {
        self.held.iter().chain(&self.round)
    }

    /// Whether an answer to this context is waited for.
    pub(crate) fn expects(&self, context: &[u8]) -> bool {
        self.round.as_ref().is_some_and(|round| round.context == context)
            || self.earlier.iter().any(|asked| asked.context == context)
    }

    /// Gives up rounds that cannot be answered any more and tickets that waited too long.
    pub(crate) fn check(&mut self, now_us: u64, lead: Lead, election_timeout_us: u64) {
        let is_over = |round: &mut Round| round.term != lead.term || round.leader != lead.leader;
        let mut outdated = self.round.take_if(is_over);
        let mut held = VecDeque::new();
        if self.held.front_mut().is_some_and(is_over) {
            held = std::mem::take(&mut self.held);
        }
        if outdated.is_some() {
            self.forget_earlier();
        } else {
            let due_us = self.round.as_ref().map(|it| self.repeat_us(it, election_timeout_us));
            let is_late = !lead.is_self && due_us.is_some_and(|due_us| now_us >= due_us);
            outdated = self.round.take_if(|_| is_late);
            if let Some(Round { context, through, began_us, .. }) = &outdated {
                let (context, through, began_us) = (context.clone(), *through, *began_us);
                self.repeats += 1;
                self.earlier.push_back(Asked { context, through, began_us });
                if self.earlier.len() > EARLIER_MAX {
                    self.earlier.pop_front();
                }
            }
        }
        for round in outdated.into_iter().chain(held.into_iter().rev()) {
            for ticket in round.tickets.into_iter().rev() {
                self.gathering.push_front(ticket);
            }
            // Only a leader has peers' rounds. If it still leads, they ride on the next round.
            self.gathering_peers.extend(round.peers);
        }
        if !lead.is_self {
            self.gathering_peers.clear();
        }
        let expired = |ticket: &Ticket| now_us >= fail_us(ticket.taken_us, election_timeout_us);
        while let Some(ticket) = self.gathering.pop_front_if(|ticket| expired(ticket)) {
            self.failed.push(ticket.ticket);
        }
        for round in self.held.iter_mut().chain(&mut self.round) {
            let failed = &mut self.failed;
            round.tickets.retain(|ticket| {
                let expired = expired(ticket);
                if expired {
                    failed.push(ticket.ticket);
                }
                !expired
            });
        }
        if self.round.is_none() && self.gathering.is_empty() {
            // Nobody waits any more.
            self.forget_earlier();
        }
    }

    fn forget_earlier(&mut self) {
        self.earlier.clear();
        self.repeats = 0;
    }

    /// Whether a round should begin now.
    pub(crate) fn may_begin(&self, lead: Lead) -> bool {
        self.round.is_none()
            && lead.leader != 0
            && (!lead.is_self || lead.may_answer)
            && !(self.gathering.is_empty() && self.gathering_peers.is_empty())
    }

    /// Begins a round with everything that has gathered and returns its context.
    pub(crate) fn begin(&mut self, now_us: u64, lead: Lead) -> Bytes {
        debug_assert!(self.may_begin(lead));
        self.begun += 1;
        let mut context = BytesMut::with_capacity(32);
        context.put_u64(self.id);
        context.put_u64(self.seed);
        context.put_u64(lead.term);
        context.put_u64(self.begun);
        let context = context.freeze();
        self.round = Some(Round {
            context: context.clone(),
            tickets: self.gathering.drain(..).collect(),
            peers: std::mem::take(&mut self.gathering_peers),
            through: self.taken,
            began_us: now_us,
            term: lead.term,
            leader: lead.leader,
            told: if lead.is_self { lead.told } else { 0 },
            proved: 0,
        });
        context
    }

    /// Whether the round of this context, which is proved at an index, waits for what was told before it
    /// began: a follower may have answered a caller that the write is done, and the reader must find it.
    /// It waits aside, so that the next one can begin.
    pub(crate) fn holds(&mut self, context: &[u8], index: u64, lead: Lead) -> bool {
        let is_it = |round: &mut Round| round.context == context && round.told > lead.committed;
        let Some(mut round) = self.round.take_if(is_it) else { return false };
        round.proved = index;
        let is_full = self.held.len() >= HELD_ROUNDS_MAX;
        match self.held.back_mut().filter(|_| is_full) {
            // It waits for no less, and its tickets are older.
            Some(last) => last.join(round),
            None => self.held.push_back(round),
        }
        true
    }

    /// Whether a round that waited is to be answered.
    pub(crate) fn is_held_over(&self, lead: Lead) -> bool {
        self.held.front().is_some_and(|round| round.told <= lead.committed)
    }

    /// A round that waited and is to be answered.
    pub(crate) fn take_held(&mut self, lead: Lead) -> Option<Answered> {
        let is_over = self.is_held_over(lead);
        let round = self.held.pop_front_if(|_| is_over)?;
        let index = round.proved.max(round.told);
        Some(Answered { index, ready: ready(&round.tickets, index), peers: round.peers })
    }

    /// The question of this context is answered.
    pub(crate) fn complete(&mut self, now_us: u64, context: &[u8], index: u64) -> Option<Answered> {
        if let Some(round) = self.round.take_if(|round| round.context == context) {
            self.took(now_us, round.began_us);
            self.forget_earlier();
            let index = index.max(round.told);
            return Some(Answered {
                index,
                ready: ready(&round.tickets, index),
                peers: round.peers,
            });
        }
        let at = self.earlier.iter().position(|asked| asked.context == context)?;
        let asked = self.earlier.drain(..=at).next_back()?;
        self.took(now_us, asked.began_us);
        // They are questions of this round, whose tickets are in the order they were taken.
        let round = self.round.as_mut()?;
        let count = round.tickets.partition_point(|ticket| ticket.number <= asked.through);
        let done: Vec<Ticket> = round.tickets.drain(..count).collect();
        if round.tickets.is_empty() {
            self.round = None;
            self.forget_earlier();
        }
        Some(Answered { index, ready: ready(&done, index), peers: Vec::new() })
    }

    fn took(&mut self, now_us: u64, began_us: u64) {
        let worn_us = self.took_us - self.took_us / TOOK_WEARS;
        self.took_us = worn_us.max(now_us.saturating_sub(began_us));
    }

    pub(crate) fn take_failed(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.failed)
    }

    pub(crate) fn has_failed(&self) -> bool {
        !self.failed.is_empty()
    }

    /// When [`Reads::check`] has something to do at the latest.
    pub(crate) fn deadline_us(&self, election_timeout_us: u64, is_leader: bool) -> Option<u64> {
        let round = self.round.as_ref();
        let retry = round.filter(|_| !is_leader);
        let retry = retry.map(|round| self.repeat_us(round, election_timeout_us));
        // Tickets are in the order they were taken.
        let begun = self.rounds().flat_map(|round| &round.tickets).next();
        let oldest = begun.or(self.gathering.front());
        let fail = oldest.map(|ticket| fail_us(ticket.taken_us, election_timeout_us));
        retry.into_iter().chain(fail).min()
    }

    /// When a follower asks again.
    fn repeat_us(&self, round: &Round, election_timeout_us: u64) -> u64 {
        let wait_us = (election_timeout_us / 2).max(2 * self.took_us.min(TOOK_US_MAX));
        let wait_us = wait_us.saturating_mul(1 << self.repeats.min(DOUBLINGS_MAX));
        round.began_us.saturating_add(wait_us)
    }
}

fn ready(tickets: &[Ticket], index: u64) -> Vec<ReadReady> {
    tickets.iter().map(|ticket| ReadReady { ticket: ticket.ticket, index }).collect()
}

fn fail_us(taken_us: u64, election_timeout_us: u64) -> u64 {
    taken_us.saturating_add(READ_WAIT_US + 2 * election_timeout_us)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ELECTION_US: u64 = 1_000_000;

    fn follower(term: u64, leader: u64) -> Lead {
        Lead { term, leader, is_self: false, may_answer: false, told: 0, committed: 0 }
    }

    fn leader(term: u64) -> Lead {
        Lead { term, leader: 1, is_self: true, may_answer: true, told: 0, committed: 0 }
    }

    fn tickets(ready: &[ReadReady]) -> Vec<u64> {
        ready.iter().map(|ready| ready.ticket).collect()
    }

    #[test]
    fn a_ticket_taken_while_a_round_is_on_its_way_waits_for_the_next() {
        let mut reads = Reads::new(1, 9);
        reads.push(0, 10);
        reads.push(0, 11);
        let first = reads.begin(0, leader(5));
        reads.push(1, 12);
        assert!(!reads.may_begin(leader(5)), "one round at a time");
        let answered = reads.complete(2, &first, 7).unwrap();
        assert_eq!(tickets(&answered.ready), [10, 11]);
        let second = reads.begin(2, leader(5));
        assert_ne!(first, second);
        assert!(reads.complete(2, &first, 8).is_none(), "an answer counts for its own round only");
        assert_eq!(tickets(&reads.complete(3, &second, 8).unwrap().ready), [12]);
    }

    #[test]
    fn a_leader_that_has_not_committed_in_its_term_begins_no_round() {
        let mut reads = Reads::new(1, 9);
        reads.push(0, 10);
        assert!(!reads.may_begin(Lead { may_answer: false, ..leader(5) }));
        assert!(!reads.may_begin(follower(5, 0)));
        assert!(reads.may_begin(leader(5)));
        assert!(reads.may_begin(follower(5, 2)));
    }

    #[test]
    fn a_round_begins_again_with_a_new_context_when_the_leader_or_term_changes() {
        for changed in [follower(5, 3), follower(6, 2), follower(6, 0)] {
            let mut reads = Reads::new(1, 9);
            reads.push(0, 10);
            let first = reads.begin(0, follower(5, 2));
            reads.push(1, 11);
            reads.check(2, changed, ELECTION_US);
            assert!(!reads.expects(&first));
            let second = reads.begin(3, follower(7, 2));
            assert_ne!(first, second);
            assert_eq!(tickets(&reads.complete(3, &second, 8).unwrap().ready), [10, 11]);
        }
    }

    #[test]
    fn a_follower_asks_again_after_half_an_election_timeout_and_a_leader_does_not() {
        let mut reads = Reads::new(1, 9);
        reads.push(0, 10);
        let first = reads.begin(0, follower(5, 2));
        assert_eq!(reads.deadline_us(ELECTION_US, false), Some(500_000));
        reads.check(499_999, follower(5, 2), ELECTION_US);
        assert!(reads.expects(&first));
        reads.check(500_000, follower(5, 2), ELECTION_US);
        assert!(reads.may_begin(follower(5, 2)));
        assert_ne!(reads.begin(500_000, follower(5, 2)), first);

        let mut reads = Reads::new(1, 9);
        reads.push(0, 10);
        let round = reads.begin(0, leader(5));
        reads.check(6_000_000, leader(5), ELECTION_US);
        assert!(reads.expects(&round));
    }

    #[test]
    fn an_answer_that_comes_after_the_question_was_asked_again_counts_for_tickets_before_it() {
        let mut reads = Reads::new(1, 9);
        let lead = follower(5, 2);
        reads.push(0, 10);
        let first = reads.begin(0, lead);
        // In the same microsecond, and yet after the question.
        reads.push(0, 11);
        reads.check(500_000, lead, ELECTION_US);
        let second = reads.begin(500_000, lead);
        reads.push(500_000, 12);
        assert_eq!(tickets(&reads.complete(1_200_000, &first, 7).unwrap().ready), [10]);
        assert!(reads.complete(1_200_000, &first, 7).is_none(), "once");
        assert_eq!(tickets(&reads.complete(1_700_000, &second, 8).unwrap().ready), [11]);
        assert!(!reads.expects(&second));
        reads.begin(1_700_000, lead);
        assert_eq!(reads.waiting(), 1);
    }

    #[test]
    fn a_follower_asks_again_ever_later_and_not_before_twice_what_an_answer_took() {
        let mut reads = Reads::new(1, 9);
        let lead = follower(5, 2);
        reads.push(0, 10);
        let mut context = reads.begin(0, lead);
        assert!(reads.expects(&context));
        let mut waits = Vec::new();
        let mut now_us = 0;
        for _ in 0..4 {
            let due_us = reads.deadline_us(ELECTION_US, false).unwrap();
            waits.push((due_us - now_us) / 1_000);
            now_us = due_us;
            reads.check(now_us, lead, ELECTION_US);
            context = reads.begin(now_us, lead);
        }
        assert_eq!(waits, [500, 1_000, 2_000, 2_000]);
        for (took_us, wait_us) in [(600_000, 1_200_000), (9_000_000, 2 * TOOK_US_MAX)] {
            reads.complete(now_us + took_us, &context, 7).unwrap();
            reads.push(now_us, 11);
            context = reads.begin(now_us, lead);
            assert_eq!(reads.deadline_us(ELECTION_US, false), Some(now_us + wait_us));
        }
    }

    #[test]
    fn questions_asked_again_are_bounded_and_forgotten_when_nobody_waits() {
        let mut reads = Reads::new(1, 9);
        let lead = follower(5, 2);
        reads.push(0, 10);
        let mut now_us = 0;
        let first = reads.begin(0, lead);
        for _ in 0..=EARLIER_MAX {
            now_us = reads.repeat_us(reads.round.as_ref().unwrap(), 10_000);
            reads.check(now_us, lead, 10_000);
            reads.begin(now_us, lead);
        }
        assert_eq!(reads.earlier.len(), EARLIER_MAX);
        assert!(!reads.expects(&first));
        reads.check(now_us + READ_WAIT_US, lead, 10_000);
        assert_eq!((reads.take_failed(), reads.earlier.len()), (vec![10], 0));
    }

    #[test]
    fn a_ticket_fails_after_its_wait_whether_gathering_or_on_its_way() {
        let mut reads = Reads::new(1, 9);
        reads.push(0, 10);
        reads.begin(0, leader(5));
        reads.push(1, 11);
        assert_eq!(reads.deadline_us(ELECTION_US, true), Some(7_000_000));
        reads.check(7_000_000, leader(5), ELECTION_US);
        assert_eq!(reads.take_failed(), [10]);
        reads.check(7_000_001, leader(5), ELECTION_US);
        assert_eq!(reads.take_failed(), [11]);
        assert_eq!(reads.waiting(), 0);
    }

    #[test]
    fn reads_beyond_the_limit_fail_at_once() {
        let mut reads = Reads::new(1, 9);
        for ticket in 0..READS_WAITING_MAX as u64 + 2 {
            reads.push(0, ticket);
        }
        assert_eq!(reads.waiting(), READS_WAITING_MAX);
        assert_eq!(reads.take_failed().len(), 2);
        for n in 0..PEER_READS_WAITING_MAX as u64 {
            assert!(reads.push_peer(PeerRead { from: n, context: Bytes::new() }));
        }
        assert!(!reads.push_peer(PeerRead { from: 999, context: Bytes::new() }));
    }

    #[test]
    fn other_members_rounds_ride_along_and_die_with_the_leadership() {
        let mut reads = Reads::new(1, 9);
        let theirs = PeerRead { from: 2, context: Bytes::from_static(b"theirs") };
        assert!(reads.push_peer(theirs.clone()));
        assert!(reads.push_peer(theirs.clone()), "a repeated question counts once");
        let round = reads.begin(0, leader(5));
        assert_eq!(reads.complete(1, &round, 8).unwrap().peers, std::slice::from_ref(&theirs));
        reads.push_peer(theirs);
        reads.check(1, follower(6, 2), ELECTION_US);
        assert!(!reads.may_begin(follower(6, 2)));
    }

    #[test]
    fn a_round_waits_aside_for_what_was_told_before_it_began_and_is_answered_there() {
        let mut reads = Reads::new(1, 9);
        reads.push(0, 10);
        let lead = Lead { told: 9, committed: 7, ..leader(5) };
        let first = reads.begin(0, lead);
        let later = Lead { told: 12, committed: 8, ..lead };
        assert!(reads.holds(&first, 7, later));
        assert!(reads.complete(1, &first, 7).is_none());
        assert!(!reads.is_held_over(later) && reads.take_held(later).is_none());
        // The next one begins meanwhile, and waits for more.
        reads.push(1, 11);
        assert!(reads.may_begin(later));
        let second = reads.begin(1, later);
        assert!(reads.holds(&second, 8, later));
        assert_eq!(reads.waiting(), 2);
        let committed = Lead { committed: 9, ..later };
        assert!(reads.is_held_over(committed));
        let answered = reads.take_held(committed).unwrap();
        assert_eq!(answered.ready, [ReadReady { ticket: 10, index: 9 }]);
        assert!(reads.take_held(committed).is_none());
        let answered = reads.take_held(Lead { committed: 14, ..later }).unwrap();
        assert_eq!(answered.ready, [ReadReady { ticket: 11, index: 12 }]);
    }

    #[test]
    fn what_was_told_and_is_committed_when_the_round_is_proved_counts_too() {
        let mut reads = Reads::new(1, 9);
        reads.push(0, 10);
        let round = reads.begin(0, Lead { told: 9, committed: 7, ..leader(5) });
        assert!(!reads.holds(&round, 7, Lead { told: 9, committed: 9, ..leader(5) }));
        assert_eq!(reads.complete(1, &round, 7).unwrap().index, 9);
        // What a member told when it led says nothing of another's round.
        reads.push(2, 11);
        let asked = reads.begin(2, Lead { told: 9, ..follower(6, 2) });
        assert_eq!(reads.complete(3, &asked, 8).unwrap().index, 8);
    }

    /// A leader of term 5 whose rounds all wait: as many as there is room for, and three more.
    fn holding() -> (Reads, Lead) {
        let mut reads = Reads::new(1, 9);
        let mut lead = Lead { told: 100, committed: 7, ..leader(5) };
        for n in 0..HELD_ROUNDS_MAX as u64 + 3 {
            reads.push(n, n);
            reads.push_peer(PeerRead {
                from: 2,
                context: Bytes::from(vec![u8::try_from(n).unwrap()]),
            });
            lead.told = 100 + n;
            let round = reads.begin(n, lead);
            assert!(reads.holds(&round, 7, lead));
        }
        (reads, lead)
    }

    #[test]
    fn rounds_that_wait_are_bounded_and_those_beyond_wait_together() {
        let (mut reads, lead) = holding();
        assert_eq!(reads.held.len(), HELD_ROUNDS_MAX);
        let newest = lead.told;
        let before_it = Lead { committed: newest - 1, ..lead };
        for n in 0..HELD_ROUNDS_MAX as u64 - 1 {
            let answered = reads.take_held(before_it).unwrap();
            assert_eq!(answered.ready, [ReadReady { ticket: n, index: 100 + n }]);
        }
        assert!(reads.take_held(before_it).is_none());
        let answered = reads.take_held(Lead { committed: newest, ..lead }).unwrap();
        assert_eq!(tickets(&answered.ready), [15, 16, 17, 18]);
        assert_eq!((answered.index, answered.peers.len()), (newest, 1));
        assert_eq!(answered.peers[0].context, Bytes::from_static(&[18]));
    }

    #[test]
    fn rounds_that_wait_fail_in_time_and_begin_again_in_their_order_under_another_leader() {
        let (mut reads, lead) = holding();
        assert_eq!(reads.deadline_us(ELECTION_US, true), Some(7_000_000));
        reads.check(7_000_000, lead, ELECTION_US);
        assert_eq!(reads.take_failed(), [0]);
        reads.push(7_000_000, 99);
        let changed = follower(6, 2);
        reads.check(7_000_000, changed, ELECTION_US);
        assert!(!reads.is_held_over(Lead { committed: 200, ..lead }));
        let round = reads.begin(7_000_000, changed);
        let ready = reads.complete(7_000_001, &round, 8).unwrap().ready;
        assert_eq!(tickets(&ready), (1..=18).chain([99]).collect::<Vec<_>>());
    }

    #[test]
    fn contexts_of_two_boots_differ() {
        let context = |seed| {
            let mut reads = Reads::new(1, seed);
            reads.push(0, 10);
            reads.begin(0, leader(5))
        };
        assert_ne!(context(1), context(2));
        assert_eq!(context(1), context(1));
    }
}
