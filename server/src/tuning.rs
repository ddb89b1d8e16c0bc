//! The plan of timing, at the door: what of it this member has applied, and the way of a new one to the
//! leader, who judges it before it proposes it.

use autotune::planner::Bounds;
use member::{Completion, Input, TuningRefusal, TuningStatus};
use proto::admin::{TuningConfirmation, TuningResponse};
use proto::log::TuningSubmit;
use proto::peer::{TuningProposal, leader_reply, leader_request};
use state::tuning::{params_of, params_said};
use state::{Response, StateError, TuningError};

use crate::door::{Door, RequestError};
use crate::propose::{Ended, Handle};

impl From<TuningRefusal> for RequestError {
    fn from(refusal: TuningRefusal) -> Self {
        match refusal {
            TuningRefusal::NotLeader { .. } => RequestError::NotLeader,
            TuningRefusal::State(error) => StateError::Tuning(error).into(),
            TuningRefusal::Busy => RequestError::TooManyRequests,
            refusal => RequestError::Plan(refusal),
        }
    }
}

impl Handle {
    /// Gets a plan into the log, here or at the leader, and waits until this member has applied it:
    /// its epoch.
    pub(crate) async fn submit_plan(&self, submit: TuningSubmit) -> Result<u64, RequestError> {
        check_reach(&submit).map_err(StateError::Tuning)?;
        if self.shared.led.borrow().is_leader {
            return self.submit_plan_here(submit).await.map(|(epoch, _)| epoch);
        }
        let call = leader_request::Call::Tuning(TuningProposal { submit: Some(submit) });
        let leader_reply::Reply::Tuning(taken) = self.ask_leader(call).await? else {
            return Err(RequestError::Stopped);
        };
        // What the leader has applied the caller may expect to see here too.
        let wait = self.shared.applied.wait_for(taken.index);
        tokio::time::timeout(self.shared.request_timeout, wait)
            .await
            .map_err(|_| RequestError::TimeoutAppliedIndex)?;
        Ok(taken.epoch)
    }

    /// As the leader: the plan's epoch and where in the log it stands.
    pub(crate) async fn submit_plan_here(
        &self,
        submit: TuningSubmit,
    ) -> Result<(u64, u64), RequestError> {
        let sequence = self.shared.next_sequence();
        let ended = self
            .await_end(sequence, self.shared.deadline_us(), None, |inbox| {
                inbox.urgent(Input::SubmitTuning { sequence, submit })
            })
            .await?;
        match ended {
            Ended::Applied { index, completion: Completion::Command(outcome), .. } => {
                match outcome.result? {
                    Response::Tuning { epoch } => Ok((epoch, index)),
                    _ => Err(RequestError::Stopped),
                }
            }
            Ended::Applied { .. } => Err(RequestError::Stopped),
            Ended::Refused(error) => Err(error),
        }
    }

    /// The plan as this member has applied it, and what it uses.
    pub(crate) fn plan(&self) -> TuningResponse {
        let mut response = TuningResponse {
            member_id: self.shared.identity.member_id,
            tuning: Some(Door::view(self).tuning().clone()),
            leader_id: self.shared.led.borrow().leader.unwrap_or_default(),
            ..TuningResponse::default()
        };
        if let Some(status) = self.shared.tuning.load().as_deref() {
            say(status, &mut response);
        }
        response
    }
}

/// What is legal in the log may still be of no use to any network: refused at the door, by whichever
/// member is asked.
fn check_reach(submit: &TuningSubmit) -> Result<(), TuningError> {
    let to = submit.to.as_ref().map(params_of);
    to.map_or(Ok(()), |to| Bounds::widest().check(&to)).map_err(TuningError::Params)
}

fn say(status: &TuningStatus, response: &mut TuningResponse) {
    response.flags = Some(params_said(&status.flags));
    response.in_force = Some(params_said(&status.in_force));
    response.knows = status.knows;
    response.known_by_all = status.known_by_all;
    response.held_by = status.held_by.as_ref().map(ToString::to_string).unwrap_or_default();
    response.confirmations = status
        .confirmed
        .iter()
        .map(|(id, (epoch, phase))| TuningConfirmation {
            member_id: *id,
            epoch: *epoch,
            phase: *phase as u32,
        })
        .collect();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_of_no_use_to_any_network_is_refused_at_the_door_and_one_back_to_the_flags_is_not() {
        let timing = autotune::Timing { heartbeat_interval_us: 5_000, election_timeout_us: 50_000 };
        let params = autotune::Params { timing, ..autotune::Params::default() };
        let submit = |to| TuningSubmit { to, ..TuningSubmit::default() };
        let refusal = check_reach(&submit(Some(params_said(&params)))).unwrap_err();
        let line =
            "plan is not legal: election timeout in µs: 50000 is not within 100000 to 50000000";
        assert_eq!(refusal.to_string(), line);
        assert_eq!(check_reach(&submit(None)), Ok(()));
    }
}
