//! From what members say on the wire to what decisions are made from, and back.

use autotune::planner::{Elections, Link, MemberRow};
use autotune::{BatchBounds, Origin, Params, Percentiles, Phase, Plan, Timing};
use client::proto::admin::{Distribution, ObserveResponse, PeerObservation, TuningResponse};
use client::proto::log::{self, TuningParams};

use crate::members::{Row, Submission};
use crate::observed::{Alarm, Answer, Peer, Tuning};

/// Who plans, in the plans of this operator.
pub(crate) const PLANNER: &str = "operator";

/// What a member says of itself.
pub(crate) fn answer_of(said: ObserveResponse, tuning: Option<Tuning>) -> Answer {
    let row = member_row(&said, tuning.is_some());
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

/// What a member measures.
fn member_row(said: &ObserveResponse, knows_plans: bool) -> MemberRow {
    let elections = said.elections.unwrap_or_default();
    MemberRow {
        id: said.member_id,
        boot_id: said.boot_id,
        uptime_ms: said.uptime_us / 1_000,
        // Asked just now.
        age_ms: 0,
        is_learner: said.is_learner,
        leader_id: said.leader_id,
        knows_plans,
        plan_epoch: said.tuning_epoch,
        plan_phase: Phase::of(u64::from(said.tuning_phase)),
        heartbeat_interval_us: said.heartbeat_interval_us,
        election_timeout_us: said.election_timeout_us,
        loop_stalls: percentiles(said.loop_stalls.as_ref()),
        loop_stall_us_max: said.loop_stall_max_us,
        sync_times: percentiles(said.sync_times.as_ref()),
        sync_us_max: said.sync_max_us,
        heartbeat_gaps: percentiles(said.heartbeat_gaps.as_ref()),
        elections: Elections {
            pre_campaigns: elections.pre_campaigns,
            begun: elections.begun,
            won: elections.won,
            quorum_losses: elections.quorum_losses,
            false_elections: elections.false_elections,
        },
        append_bytes_mean: append_bytes_mean(said),
        links: said.peers.iter().map(link).collect(),
    }
}

/// A mean that is no number counts as unknown.
fn append_bytes_mean(said: &ObserveResponse) -> u64 {
    let batches = said.batches.unwrap_or_default();
    let mean = batches.entries_per_append_mean * batches.bytes_per_entry_mean;
    if mean.is_finite() && mean > 0.0 { mean.min(1e12) as u64 } else { 0 }
}

fn link(peer: &PeerObservation) -> Link {
    Link {
        to: peer.member_id,
        reachable: peer.reachable,
        samples: peer.rtt_samples,
        srtt_us: peer.rtt_srtt_us,
        rttvar_us: peer.rtt_var_us,
        rtt: percentiles(peer.rtt.as_ref()),
        gaps: percentiles(peer.gaps.as_ref()),
        probes_sent: peer.probes_sent,
        probes_lost: peer.probes_lost,
        age_ms: peer.rtt_age_us / 1_000,
    }
}

fn percentiles(said: Option<&Distribution>) -> Percentiles {
    let Some(said) = said else { return Percentiles::default() };
    Percentiles {
        samples: said.samples,
        p50_us: said.p50_us,
        p99_us: said.p99_us,
        p999_us: said.p999_us,
        p9999_us: said.p9999_us,
        max_us: said.max_us,
    }
}

/// The plan of timing as a member has applied it. None: what it says makes no sense here.
pub(crate) fn tuning_of(said: TuningResponse) -> Option<Tuning> {
    let plan = said.tuning.unwrap_or_default();
    let origin = plan.from.unwrap_or_default();
    let phase = match (plan.epoch, plan.phase) {
        (0, _) => Phase::Settled,
        (_, phase) => Phase::of(u64::from(phase))?,
    };
    Some(Tuning {
        plan: Plan {
            epoch: plan.epoch,
            phase,
            from: Origin {
                params: origin.params.as_ref().map(params_of),
                election_us_min: origin.election_us_min,
                flags: origin.flags,
            },
            to: plan.to.as_ref().map(params_of),
        },
        planner: plan.planner,
        reason: plan.reason,
        at_ms: plan.at_ms,
        flags: params_of(said.flags.as_ref()?),
        in_force: params_of(said.in_force.as_ref()?),
        held_by: said.held_by,
    })
}

fn params_of(said: &TuningParams) -> Params {
    Params {
        timing: Timing {
            heartbeat_interval_us: said.heartbeat_interval_us,
            election_timeout_us: said.election_timeout_us,
        },
        lease_us: said.lease_us,
        bounds: BatchBounds {
            batch_commands_max: said.batch_commands_max,
            linger_us_max: said.linger_us_max,
            message_bytes_max: said.message_bytes_max,
            inflight_messages_max: said.inflight_messages_max,
            inflight_bytes_max: said.inflight_bytes_max,
        },
    }
}

/// A plan, as it is submitted.
pub(crate) fn submit(plan: &Submission) -> log::TuningSubmit {
    log::TuningSubmit {
        expected_epoch: plan.expected_epoch,
        to: plan.to.as_ref().map(params_said),
        planner: PLANNER.to_owned(),
        reason: plan.reason.clone(),
        at_ms: plan.at_ms,
        supersede: plan.supersede,
    }
}

fn params_said(params: &Params) -> TuningParams {
    let Params { timing, lease_us, bounds } = params;
    TuningParams {
        heartbeat_interval_us: timing.heartbeat_interval_us,
        election_timeout_us: timing.election_timeout_us,
        lease_us: *lease_us,
        batch_commands_max: bounds.batch_commands_max,
        linger_us_max: bounds.linger_us_max,
        message_bytes_max: bounds.message_bytes_max,
        inflight_messages_max: bounds.inflight_messages_max,
        inflight_bytes_max: bounds.inflight_bytes_max,
    }
}
