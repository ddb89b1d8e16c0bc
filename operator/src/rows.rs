//! From what members say on the wire to what decisions are made from, and back.

use client::proto::admin::{ObserveResponse, TuningResponse};
use client::proto::log::TuningSubmit;
use client::tuning::{member_row, params_of, params_said, plan_of};

use crate::members::{Row, Submission};
use crate::observed::{Alarm, Answer, Peer, Tuning};

/// Who plans, in the plans of this operator.
pub(crate) const PLANNER: &str = "operator";

/// What a member says of itself.
pub(crate) fn answer_of(said: ObserveResponse, tuning: Option<Tuning>) -> Answer {
    let row = member_row(&said);
    let peers = said.peers.into_iter().map(|peer| Peer {
        member_id: peer.member_id,
        reachable: peer.reachable,
        rtt_us: if peer.rtt_samples == 0 { 0 } else { peer.rtt_srtt_us },
        match_index: peer.match_index,
    });
    let alarms = said.alarms.into_iter();
    Answer {
        member_id: said.member_id,
        cluster_id: said.cluster_id,
        leader_id: said.leader_id,
        term: said.term,
        commit_index: said.commit_index,
        applied_index: said.applied_index,
        version: said.version,
        heartbeat_interval_us: said.heartbeat_interval_us,
        election_timeout_us: said.election_timeout_us,
        peers: peers.collect(),
        alarms: alarms
            .map(|alarm| Alarm { member_id: alarm.member_id, kind: alarm.kind })
            .collect(),
        row,
        tuning,
    }
}

/// A row of the member table.
pub(crate) fn row_of(member: client::proto::etcdserverpb::Member) -> Row {
    Row {
        id: member.id,
        name: member.name,
        peer_urls: member.peer_ur_ls,
        learner: member.is_learner,
        started: !member.client_ur_ls.is_empty(),
    }
}

/// The plan of timing as a member has applied it. None: it says less than that.
pub(crate) fn tuning_of(said: TuningResponse) -> Option<Tuning> {
    let (flags, in_force) = (said.flags.as_ref()?, said.in_force.as_ref()?);
    let plan = said.tuning.unwrap_or_default();
    Some(Tuning {
        plan: plan_of(&plan),
        planner: plan.planner,
        reason: plan.reason,
        at_ms: plan.at_ms,
        flags: params_of(flags),
        in_force: params_of(in_force),
        held_by: said.held_by,
        known_by_all: said.known_by_all,
    })
}

/// A plan, as it is submitted.
pub(crate) fn submit(plan: &Submission) -> TuningSubmit {
    TuningSubmit {
        expected_epoch: plan.expected_epoch,
        to: plan.to.as_ref().map(params_said),
        planner: PLANNER.to_owned(),
        reason: plan.reason.clone(),
        at_ms: plan.at_ms,
        supersede: plan.supersede,
    }
}
