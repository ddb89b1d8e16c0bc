//! What becomes of the members and of the leadership by command: judged, put into the log one after
//! the other, handed over.

use consensus::ProposeError;
use proto::log::MembershipChange;

use super::Member;
use crate::door::{Effects, Reply};
use crate::membership::{self, Connectivity, MembershipRefusal};

/// Membership changes waiting for the one in progress.
const WAITING_CHANGES_MAX: usize = 16;

impl Member {
    pub(super) fn take_membership(
        &mut self,
        now_us: u64,
        change: MembershipChange,
        effects: &mut Effects,
    ) {
        let sequence = change.id.as_ref().map_or(0, |id| id.sequence);
        let refusal = self.check_membership(now_us, &change).err().or_else(|| {
            (self.waiting_changes.len() >= WAITING_CHANGES_MAX).then_some(MembershipRefusal::Busy)
        });
        match refusal {
            Some(refusal) => effects.reply.push(Reply::MembershipRefused { sequence, refusal }),
            None => self.waiting_changes.push_back(change),
        }
        self.give_membership(effects);
    }

    fn check_membership(
        &self,
        now_us: u64,
        change: &MembershipChange,
    ) -> Result<(), MembershipRefusal> {
        if !self.is_leader {
            return Err(MembershipRefusal::NotLeader { leader: self.leader });
        }
        self.check_membership_with_plan(change)?;
        let silence_us_max = self.replica.status().timing.election_timeout_us;
        let connectivity = Connectivity::of(self.id(), &self.heard_us, now_us, silence_us_max);
        membership::check(
            change,
            &self.members,
            &connectivity,
            self.config.strict_reconfig_check,
            |id| self.replica.learner_ready(id),
        )
    }

    pub(super) fn give_membership(&mut self, effects: &mut Effects) {
        while let Some(change) = self.waiting_changes.front() {
            match self.replica.propose_membership(change.clone()) {
                Ok(()) => drop(self.waiting_changes.pop_front()),
                Err(ProposeError::ChangePending | ProposeError::Busy) => return,
                Err(error) => {
                    let sequence = change.id.as_ref().map_or(0, |id| id.sequence);
                    let refusal = match error {
                        ProposeError::NotLeader { leader } => {
                            MembershipRefusal::NotLeader { leader }
                        }
                        ProposeError::Membership(error) => error.into(),
                        _ => MembershipRefusal::Busy,
                    };
                    effects.reply.push(Reply::MembershipRefused { sequence, refusal });
                    self.waiting_changes.pop_front();
                }
            }
        }
    }

    pub(super) fn transfer(&mut self, ticket: u64, to: u64, effects: &mut Effects) {
        let to = if to == 0 { self.most_caught_up_voter() } else { to };
        effects.reply.push(match self.replica.transfer_leader(to) {
            Ok(()) => Reply::TransferBegun { ticket },
            Err(error) => Reply::TransferRefused { ticket, error },
        });
    }

    fn most_caught_up_voter(&self) -> u64 {
        let status = self.replica.status();
        status
            .progress
            .iter()
            .filter(|(id, p)| **id != self.id() && !p.is_learner && p.recent_active)
            .max_by_key(|(_, p)| p.match_index)
            .map_or(0, |(id, _)| *id)
    }
}
