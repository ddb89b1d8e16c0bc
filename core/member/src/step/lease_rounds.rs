//! Questions about leases, which only the leader answers: many share one proof that it still leads.

use bytes::Bytes;
use prost::Message as _;
use proto::log::{Command, LeaseRevoke, RequestId, command};

use super::Member;
use crate::door::{Effects, Reply};

/// Lease questions waiting for a new leader to catch up with its own term.
const WAITING_LEASES_MAX: usize = 100_000;
/// After a round that answered so many lease questions the next one gathers: it begins when
/// [`LEASE_ROUND_FULL`] wait, or this long after the one before. A few callers, each waiting for its
/// answer before it asks again, are never held up.
const LEASE_ROUND_CROWDED: usize = 4;
const LEASE_ROUND_FULL: usize = 64;
const LEASE_ROUND_INTERVAL_US: u64 = 2_000;

#[derive(Debug)]
pub(super) enum LeaseQuestion {
    KeepAlive { ticket: u64, id: i64 },
    TimeToLive { ticket: u64, id: i64 },
}

/// A read that proves that this member still leads.
#[derive(Debug)]
pub(super) struct LeaseRound {
    ticket: u64,
    /// How many of the waiting questions came before it.
    questions: usize,
    /// Proved: the answers are those of the state with this index in it. Whoever asks may have been
    /// told of a grant by a member that has applied it sooner than this one.
    read_index: Option<u64>,
}

impl Member {
    pub(super) fn ask_lease(&mut self, question: LeaseQuestion, effects: &mut Effects) {
        if self.waiting_leases.len() >= WAITING_LEASES_MAX {
            let (LeaseQuestion::KeepAlive { ticket, .. }
            | LeaseQuestion::TimeToLive { ticket, .. }) = question;
            effects.reply.push(Reply::LeaseAskLeader { ticket, leader: None });
            return;
        }
        self.waiting_leases.push_back(question);
    }

    /// Lease questions are answered by a leader that was one after they were asked. One that was
    /// deposed and has not heard of it would renew what its successor lets end.
    pub(super) fn prove_leadership(&mut self, now_us: u64) {
        let gathers = now_us < self.lease_round_gathers_until_us
            && self.waiting_leases.len() < LEASE_ROUND_FULL;
        if self.wants_lease_round() && !gathers {
            self.own_sequence += 1;
            self.replica.read(self.own_sequence);
            let questions = self.waiting_leases.len();
            let ticket = self.own_sequence;
            self.lease_round = Some(LeaseRound { ticket, questions, read_index: None });
            let interval_us =
                if questions < LEASE_ROUND_CROWDED { 0 } else { LEASE_ROUND_INTERVAL_US };
            self.lease_round_gathers_until_us = now_us + interval_us;
        }
    }

    pub(super) fn wants_lease_round(&self) -> bool {
        // A lease granted in an earlier term may not be applied yet: "no such lease" would be a lie.
        let may_answer = self.is_leader && self.applied_term >= self.term;
        may_answer && self.lease_round.is_none() && !self.waiting_leases.is_empty()
    }

    /// The round of a ticket, if it is one, has proved what it was for.
    pub(super) fn prove_lease_round(&mut self, ticket: u64, index: u64) {
        if let Some(round) = self.lease_round.as_mut().filter(|round| round.ticket == ticket) {
            round.read_index = Some(index);
        }
    }

    /// Nothing was proved: the questions stay, another round is begun for them if this member leads.
    pub(super) fn drop_lease_round(&mut self, ticket: u64) {
        self.lease_round.take_if(|round| round.ticket == ticket);
    }

    pub(super) fn answer_leases(&mut self, now_us: u64, effects: &mut Effects) {
        if !self.is_leader {
            return;
        }
        let applied_index = self.applied_index;
        let is_applied =
            |round: &mut LeaseRound| round.read_index.is_some_and(|index| index <= applied_index);
        let Some(round) = self.lease_round.take_if(is_applied) else { return };
        for question in self.waiting_leases.drain(..round.questions) {
            let (ticket, lease) = match question {
                LeaseQuestion::KeepAlive { ticket, id } => (ticket, self.leases.renew(id, now_us)),
                LeaseQuestion::TimeToLive { ticket, id } => {
                    (ticket, self.leases.time_to_live(id, now_us))
                }
            };
            effects.reply.push(Reply::Lease { ticket, lease });
        }
    }

    /// Only a leader knows: everyone else names it.
    pub(super) fn pass_leases_on(&mut self, effects: &mut Effects) {
        if self.is_leader {
            return;
        }
        self.lease_round = None;
        for question in self.waiting_leases.drain(..) {
            let (LeaseQuestion::KeepAlive { ticket, .. }
            | LeaseQuestion::TimeToLive { ticket, .. }) = question;
            effects.reply.push(Reply::LeaseAskLeader { ticket, leader: self.leader });
        }
    }

    pub(super) fn revoke_expired(&mut self, now_us: u64) {
        if !self.is_leader || self.applied_term < self.term {
            return;
        }
        for id in self.leases.take_expired(now_us) {
            self.own_sequence += 1;
            let command = Command {
                id: Some(RequestId { member: self.config.origin, sequence: self.own_sequence }),
                op: Some(command::Op::LeaseRevoke(LeaseRevoke { id, expired: true })),
            };
            // Refused for now: the clock offers it again.
            let _ = self.replica.propose(Bytes::from(command.encode_to_vec()));
        }
    }
}
