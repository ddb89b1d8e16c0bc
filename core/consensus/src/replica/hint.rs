//! The crash hint: the leader's process is gone, and this member knows it before any timeout.
//!
//! When a process dies its kernel closes its sockets, and who connects again is refused. Whoever finds
//! that out calls [`Replica::leader_gone`]. The follower then no longer counts itself in the leader's
//! lease, so that it grants the question whether an election could be won, and after a short wait
//! asks it itself. A quorum still has to agree, and votes are cast and counted as ever: a hint that
//! is false costs an election and never data.
//!
//! Followers find out at about the same time, and two that stand at once may split the votes and
//! lose a whole election timeout. So they take turns, [`SLOT_US`] apart, in an order which all of them
//! know: by id, beginning elsewhere in every term. The turn is given up for who asks and has all that
//! this member has, and taken at once when somebody asks who lacks some of it, for that candidate
//! cannot win. An election that is lost beyond doubt is stood in again without a timeout.

use proto::peer::{RaftMessage, raft_message::Type};
use raft::{INVALID_ID, StateRole};

use super::Replica;
use crate::config::ELECTION_TICKS;
use crate::output::ElectionCause;
use crate::timing::mix;

/// Between the turns of two followers.
const SLOT_US: u64 = 8_000;
/// A turn begins at random within so much.
const JITTER_US: u64 = 2_000;
/// Elections stood in upon one hint.
const CAMPAIGNS_MAX: u32 = 3;

/// The leader that is gone.
#[derive(Debug)]
pub(super) struct Gone {
    leader: u64,
    /// The term it led, and once this member stands, the term it stands in.
    term: u64,
    /// When this member stands for election; `None`: it waits for the end of one.
    due_us: Option<u64>,
    campaigns: u32,
}

impl Replica {
    /// The process of the leader is gone: its connections were closed, and new ones are refused.
    /// Returns whether that changes anything.
    pub fn leader_gone(&mut self, now_us: u64, leader: u64) -> bool {
        self.observe(now_us);
        let raft = &self.raw.raft;
        let follows = raft.state == StateRole::Follower && raft.leader_id == leader;
        let is_on = self.config.crash_hints && leader != self.config.id;
        if !follows || !is_on || self.gone.is_some() {
            return false;
        }
        let term = raft.term;
        let due_us = Some(self.turn_us(leader));
        self.gone = Some(Gone { leader, term, due_us, campaigns: 0 });
        self.leave_lease();
        true
    }

    /// When this member's turn is.
    fn turn_us(&self, leader: u64) -> u64 {
        let term = self.raw.raft.term;
        let mut voters = self.conf_state().voters;
        voters.retain(|id| *id != leader);
        voters.sort_unstable();
        let count = voters.len().max(1) as u64;
        let own = voters.iter().position(|id| *id == self.config.id).unwrap_or(0) as u64;
        let rank = (own + term) % count;
        let jitter_us = mix(self.config.seed ^ term) % JITTER_US;
        self.now_us.saturating_add(rank * SLOT_US + jitter_us)
    }

    /// Messages the leader sent before it died may still arrive, and renew its lease.
    fn leave_lease(&mut self) {
        let raft = &mut self.raw.raft;
        raft.election_elapsed = raft.election_elapsed.max(ELECTION_TICKS as usize);
    }

    /// Forgets the hint once somebody else leads, or the term has passed.
    fn check_hint(&mut self) {
        let Some(gone) = &mut self.gone else { return };
        let raft = &self.raw.raft;
        let stands = raft.state == StateRole::Candidate && raft.vote == raft.id;
        if stands && raft.term == gone.term + 1 {
            gone.term = raft.term;
        }
        let is_over = raft.state == StateRole::Leader
            || raft.term != gone.term
            || (raft.leader_id != INVALID_ID && raft.leader_id != gone.leader);
        if is_over {
            self.gone = None;
        }
    }

    /// Stands for election if it is time.
    pub(super) fn follow_hint(&mut self) {
        self.check_hint();
        let Some(gone) = &mut self.gone else { return };
        if gone.due_us.is_none_or(|due_us| due_us > self.now_us) {
            return;
        }
        gone.due_us = None;
        gone.campaigns += 1;
        if !self.may_campaign() {
            return;
        }
        let before = self.raw.raft.state;
        self.begin_candidacy(ElectionCause::Hint);
        // The only error is one of storage, and this storage has none to give.
        let _ = self.raw.campaign();
        self.settle(before);
    }

    /// When [`Replica::follow_hint`] has something to do.
    pub(super) fn hint_due_us(&self) -> Option<u64> {
        self.gone.as_ref().and_then(|gone| gone.due_us)
    }

    /// What a message says of the hint, before raft takes it.
    pub(super) fn weigh_hint(&mut self, kind: Type, message: &RaftMessage) {
        self.check_hint();
        let Some(gone) = &mut self.gone else { return };
        let log = &self.raw.raft.raft_log;
        match kind {
            Type::MsgHeartbeat if message.from == gone.leader && message.term == gone.term => {
                self.gone = None;
            }
            Type::MsgRequestPreVote | Type::MsgRequestVote => {
                if log.is_up_to_date(message.index, message.log_term) {
                    let patience_us = self.clock.election_timeout_us() / 10;
                    let later_us = self.now_us.saturating_add(patience_us.max(2 * SLOT_US));
                    gone.due_us = gone.due_us.map(|due_us| due_us.max(later_us));
                } else if gone.due_us.is_some() {
                    gone.due_us = Some(self.now_us);
                }
                if self.raw.raft.state == StateRole::Follower {
                    self.leave_lease();
                }
            }
            _ => {}
        }
    }

    /// After a message: whether the election stood in upon the hint is lost, so that there is no
    /// sense in waiting for its timeout.
    pub(super) fn retry_hint(&mut self, kind: Type) {
        if kind != Type::MsgRequestVoteResponse || self.raw.raft.state != StateRole::Candidate {
            return;
        }
        self.check_hint();
        let Some(gone) = &self.gone else { return };
        let (_, refused, _) = self.raw.raft.mut_prs().tally_votes();
        let voters = self.conf_state().voters.len();
        // The vote of the one that is gone will not come either.
        let is_lost = voters.saturating_sub(refused + 1) < voters / 2 + 1;
        if is_lost && gone.due_us.is_none() && gone.campaigns < CAMPAIGNS_MAX {
            let due_us = self.turn_us(gone.leader);
            if let Some(gone) = &mut self.gone {
                gone.due_us = Some(due_us);
            }
        }
    }
}
