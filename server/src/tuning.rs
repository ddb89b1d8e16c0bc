//! The plan of timing, at the door: what of it this member has applied, and the way of a new one to the
//! leader, who judges it before it proposes it.

use proto::admin::TuningResponse;
use proto::log::TuningSubmit;
use proto::log::command::Op;
use state::Response;

use crate::door::{Door, RequestError};
use crate::propose::Handle;

impl Handle {
    /// Gets a plan into the log: its epoch and where in the log it stands.
    pub(crate) async fn submit_plan_here(
        &self,
        submit: TuningSubmit,
    ) -> Result<(u64, u64), RequestError> {
        let applied = self.propose(Op::TuningSubmit(submit)).await?;
        match applied.response {
            Response::Tuning { epoch } => Ok((epoch, applied.index)),
            _ => Err(RequestError::Stopped),
        }
    }

    /// The plan as this member has applied it, and what it uses.
    pub(crate) fn plan(&self) -> TuningResponse {
        TuningResponse {
            member_id: self.shared.identity.member_id,
            tuning: Some(Door::view(self).tuning().clone()),
            leader_id: self.shared.led.borrow().leader.unwrap_or_default(),
            ..TuningResponse::default()
        }
    }
}
