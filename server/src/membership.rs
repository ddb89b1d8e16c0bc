//! A change of the members on its way: to the leader, who judges it and puts it into the log, and back
//! once this member has applied it.

use member::{Completion, Input, MembershipRefusal};
use proto::log::{Member, MembershipChange, RequestId, membership_change};
use proto::peer::{MembershipProposal, leader_reply, leader_request};
use state::StateError;

use crate::door::{self, Door, RequestError};
use crate::propose::{Ended, Handle};

impl From<MembershipRefusal> for RequestError {
    fn from(refusal: MembershipRefusal) -> Self {
        match refusal {
            MembershipRefusal::NotLeader { .. } => RequestError::NotLeader,
            MembershipRefusal::NotEnoughStarted => RequestError::NotEnoughStarted,
            MembershipRefusal::Unhealthy => RequestError::Unhealthy,
            MembershipRefusal::LearnerNotReady => RequestError::LearnerNotReady,
            MembershipRefusal::NotLearner => StateError::MemberNotLearner.into(),
            MembershipRefusal::NotFound => StateError::MemberNotFound.into(),
            MembershipRefusal::Exists => StateError::MemberExists.into(),
            MembershipRefusal::Tuning(error) => StateError::Tuning(error).into(),
            MembershipRefusal::Busy => RequestError::TooManyRequests,
        }
    }
}

impl Handle {
    /// Changes the membership and waits until this member has applied it: all members then.
    pub(crate) async fn change_members(
        &self,
        change: door::MembershipChange,
    ) -> Result<Vec<Member>, RequestError> {
        let change =
            MembershipChange { id: None, kind: change.kind.into(), member: Some(change.member) };
        let index = self.change_membership_by_leader(change).await?;
        // What the leader has applied the caller may expect to see here too.
        let wait = self.shared.applied.wait_for(index);
        tokio::time::timeout(self.shared.request_timeout, wait)
            .await
            .map_err(|_| RequestError::TimeoutAppliedIndex)?;
        Ok(Door::view(self).members())
    }

    /// Changes the membership, here or at the leader: where in the log the change stands.
    pub(crate) async fn change_membership_by_leader(
        &self,
        change: MembershipChange,
    ) -> Result<u64, RequestError> {
        if self.shared.led.borrow().is_leader {
            if !self.would_remove_this_leader(&change) {
                return self.change_membership_here(change).await;
            }
            // A leader that removes itself is gone before the last voter may have heard that the
            // removal is committed, and without it that voter could never lead.
            self.move_leader(0).await?;
        }
        let call = leader_request::Call::Membership(MembershipProposal { change: Some(change) });
        match self.ask_leader(call).await? {
            leader_reply::Reply::ReadIndex(reply) => Ok(reply.index),
            _ => Err(RequestError::Stopped),
        }
    }

    fn would_remove_this_leader(&self, change: &MembershipChange) -> bool {
        let own = self.shared.identity.member_id;
        let removes_own = change.kind() == membership_change::Kind::Remove
            && change.member.as_ref().is_some_and(|member| member.id == own);
        let members = self.shared.view.load().members();
        removes_own && members.iter().any(|member| member.id != own && !member.is_learner)
    }

    async fn change_membership_here(
        &self,
        mut change: MembershipChange,
    ) -> Result<u64, RequestError> {
        let sequence = self.shared.next_sequence();
        change.id = Some(RequestId { member: self.shared.origin, sequence });
        let promotes = change.kind() == membership_change::Kind::Promote;
        let done = self.await_change(sequence, change).await;
        if promotes {
            self.shared.metrics.note_promotion(done.as_ref().err());
        }
        done
    }

    async fn await_change(
        &self,
        sequence: u64,
        change: MembershipChange,
    ) -> Result<u64, RequestError> {
        let ended = self
            .await_end(sequence, self.shared.deadline_us(), None, |inbox| {
                inbox.urgent(Input::ProposeMembership(change))
            })
            .await?;
        match ended {
            Ended::Applied { index, completion: Completion::Membership(result), .. } => {
                result?;
                Ok(index)
            }
            Ended::Applied { .. } => Err(RequestError::Stopped),
            Ended::Refused(error) => Err(error),
        }
    }
}
