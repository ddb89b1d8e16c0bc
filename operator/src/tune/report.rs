//! What is reported of tuning: steady, so that it is written when something happens.

use autotune::planner::{Decision, Evidence, Freeze, Hold};
use autotune::{Params, Phase};
use k8s_openapi::jiff::Timestamp;

use super::memory::{memory_of, params_of, signed, timing_status};
use super::{Held, Seen, as_flags};
use crate::crd::{
    AutotuneMode, AutotuneStatus, BatchingMode, ChangeKind, ChangeResult, ChangeStatus,
    ObservedStatus, TimingStatus,
};
use crate::facts::Facts;
use crate::metrics::CERTIFICATE_ROTATION;
use crate::plan::TuningFigures;
use crate::status::{AUTOTUNE_READY, Claim, name_of_member};

/// Changes that are remembered beside the newest.
const HISTORY_MAX: usize = 5;
/// A figure is replaced by one that differs by this factor.
const STEADY_FACTOR: f64 = 1.5;
/// Timings so close to each other are one recommendation: a step of the series.
const SAME_PERCENT: u64 = 130;
/// Windows and bytes vary more.
const SAME_WINDOW_PERCENT: u64 = 160;
/// Below this nobody is farther away than anybody else.
const WORTH_A_PAIR_US: u64 = 1_000;
/// Numbers of samples that something depends on.
const SAMPLES: [u64; 3] = [300, 50, 0];

/// The status after an evaluation.
pub(super) fn status(seen: &Seen<'_>, generation: i64) -> AutotuneStatus {
    let plan = &seen.tuning.plan;
    let old = seen.old;
    let mut status = AutotuneStatus {
        phase: phase(seen).to_owned(),
        epoch: signed(plan.epoch),
        applied: plan.to.as_ref().map(timing_status),
        recommended: recommended(seen).map(|params| timing_status(&params)),
        last_known_good: seen.state.good.as_ref().map(timing_status),
        observed: observed(seen),
        last_change: old.and_then(|old| old.last_change.clone()),
        history: old.map(|old| old.history.clone()).unwrap_or_default(),
        memory: memory_of(&seen.state, old.map(|old| &old.memory), generation, seen.reason.clone()),
    };
    if seen.spec.mode == AutotuneMode::Off {
        // Nobody asks what might be recommended.
        let memory = &mut status.memory;
        (memory.lower_since, memory.fit_since, memory.slack_since) = (None, None, None);
    }
    note_change(seen, &mut status);
    status
}

/// Keeps the journal of plans.
fn note_change(seen: &Seen<'_>, status: &mut AutotuneStatus) {
    let tuning = &seen.tuning;
    let plan = &tuning.plan;
    let known = status.last_change.as_ref().map_or(0, |change| change.epoch);
    let pending = seen.old.and_then(|old| old.memory.pending.as_ref());
    let is_rollback = pending.is_some_and(|pending| {
        pending.kind == ChangeKind::Rollback && pending.to.as_ref().map(params_of) == plan.to
    });
    if plan.epoch > 0 && signed(plan.epoch) != known {
        if let Some(mut before) = status.last_change.take() {
            before.result = match before.result {
                _ if is_rollback => ChangeResult::RolledBack,
                ChangeResult::Applying | ChangeResult::Verifying => ChangeResult::Superseded,
                ended => ended,
            };
            status.history.insert(0, before);
            status.history.truncate(HISTORY_MAX);
        }
        status.last_change = Some(ChangeStatus {
            epoch: signed(plan.epoch),
            from: Some(timing_status(&plan.from.params.unwrap_or(tuning.flags))),
            to: plan.to.as_ref().map(timing_status),
            reason: tuning.reason.clone(),
            planner: tuning.planner.clone(),
            at: Timestamp::from_millisecond(tuning.at_ms).unwrap_or_default().to_string(),
            result: ChangeResult::Applying,
        });
    }
    if let Some(change) = &mut status.last_change {
        change.result = match (plan.phase, seen.state.verifying) {
            (Phase::Settled, Some(_)) => ChangeResult::Verifying,
            (Phase::Settled, None) => ChangeResult::Verified,
            _ => ChangeResult::Applying,
        };
    }
}

fn phase(seen: &Seen<'_>) -> &'static str {
    let under_way = seen.tuning.plan.phase != Phase::Settled;
    if let Some(by_hand) = seen.by_hand {
        let there = seen.tuning.plan.to == Some(by_hand) && !under_way;
        return if there { "Manual" } else { "Applying" };
    }
    match (seen.spec.mode, seen.evaluation.decision) {
        _ if under_way => "Applying",
        (AutotuneMode::Off, _) | (_, Decision::Hold { reason: Hold::SoleVoter }) => "Off",
        (_, Decision::Apply { .. } | Decision::Rollback { .. }) => "Applying",
        (_, Decision::Recommend { .. }) => "Recommending",
        (_, Decision::Frozen { .. }) => "Held",
        (_, Decision::Hold { reason }) => match reason {
            Hold::Converged => "Converged",
            Hold::NoQuorum { .. } | Hold::InsufficientSamples | Hold::Incomplete { .. } => {
                "Collecting"
            }
            Hold::Sustaining { .. } | Hold::Cooldown { .. } | Hold::RateCap => "Waiting",
            Hold::Verifying { .. } => "Verifying",
            Hold::SoleVoter => "Off",
            Hold::Submitting | Hold::UnderWay | Hold::PartialApply => "Applying",
        },
    }
}

/// What would be right, if that is something else than what is there.
fn recommended(seen: &Seen<'_>) -> Option<Params> {
    if seen.spec.mode == AutotuneMode::Off {
        return None;
    }
    let mut params = match seen.evaluation.decision {
        Decision::Recommend { params, .. } | Decision::Apply { params, .. } => params,
        Decision::Hold {
            reason: Hold::Sustaining { .. } | Hold::Cooldown { .. } | Hold::RateCap,
        } => seen.evaluation.target?.params,
        _ => return None,
    };
    if seen.spec.batching.mode == BatchingMode::Off {
        params.bounds = as_flags(&seen.tuning.flags, seen.spec);
    }
    let told = seen.old.and_then(|old| old.recommended.as_ref()).map(params_of);
    // What was told stays, as long as it is about right; what is done is told as it is done.
    let applies = matches!(seen.evaluation.decision, Decision::Apply { .. });
    match told {
        Some(told) if !applies && about_same(&told, &params) => Some(told),
        _ => Some(params),
    }
}

fn about_same(one: &Params, other: &Params) -> bool {
    let close = |a: u64, b: u64, percent: u64| {
        a.max(b).saturating_mul(100) <= a.min(b).saturating_mul(percent)
    };
    let (a, b) = (&one.timing, &other.timing);
    close(a.heartbeat_interval_us, b.heartbeat_interval_us, SAME_PERCENT)
        && close(a.election_timeout_us, b.election_timeout_us, SAME_PERCENT)
        && (one.lease_us == 0) == (other.lease_us == 0)
        && one.bounds.batch_commands_max == other.bounds.batch_commands_max
        && one.bounds.linger_us_max == other.bounds.linger_us_max
        && close(one.bounds.message_bytes_max, other.bounds.message_bytes_max, SAME_WINDOW_PERCENT)
        && close(
            one.bounds.inflight_messages_max,
            other.bounds.inflight_messages_max,
            SAME_WINDOW_PERCENT,
        )
        && close(
            one.bounds.inflight_bytes_max,
            other.bounds.inflight_bytes_max,
            SAME_WINDOW_PERCENT,
        )
}

fn observed(seen: &Seen<'_>) -> Option<ObservedStatus> {
    if seen.spec.mode == AutotuneMode::Off {
        return None;
    }
    let Some(evidence) = &seen.evaluation.evidence else {
        return seen.old.and_then(|old| old.observed.clone());
    };
    let old = seen.old.and_then(|old| old.observed.as_ref());
    let ms = |us: u64| us as f64 / 1_000.0;
    let slack = seen.evaluation.slack_percent as f64 / 100.0;
    let slow = seen.state.slow;
    Some(ObservedStatus {
        max_rtt_ms: steady(ms(evidence.rtt_us), old.map(|old| &old.max_rtt_ms[..]), 0.01),
        p99_rtt_ms: steady(ms(evidence.rtt_us_p99), old.map(|old| &old.p99_rtt_ms[..]), 0.01),
        worst_pair: worst_pair(seen, evidence, old),
        loss_ppm: steady_count(signed(evidence.loss_ppm), old.map(|old| old.loss_ppm)),
        slack: steady(slack, old.map(|old| &old.slack[..]), 0.05),
        samples: SAMPLES.into_iter().find(|most| evidence.samples >= *most).map_or(0, signed),
        slow_member: slow.map(|id| member(seen.facts, id)),
    })
}

fn member(facts: &Facts<'_>, id: u64) -> String {
    facts.row(id).map_or_else(|| format!("{id:x}"), |row| name_of_member(facts, row))
}

/// The pair stays while it is about as far apart as the worst.
fn worst_pair(
    seen: &Seen<'_>,
    evidence: &Evidence,
    old: Option<&ObservedStatus>,
) -> Option<String> {
    if evidence.rtt_us < WORTH_A_PAIR_US {
        return None;
    }
    let (one, other) = evidence.worst_pair;
    let pair = format!("{}/{}", member(seen.facts, one), member(seen.facts, other));
    let Some(told) = old.and_then(|old| old.worst_pair.clone()).filter(|told| *told != pair) else {
        return Some(pair);
    };
    let names = |id: u64| member(seen.facts, id);
    let still_far = told.split_once('/').is_some_and(|(a, b)| {
        let far = |us: u64| us as f64 * STEADY_FACTOR >= evidence.rtt_us as f64;
        let mut rows = seen.facts.voters().filter_map(|voter| seen.facts.answer_of(voter.id));
        rows.any(|answer| {
            let from = names(answer.member_id);
            answer.row.links.iter().filter(|link| far(link.srtt_us)).any(|link| {
                let to = names(link.to);
                (a == from && b == to) || (a == to && b == from)
            })
        })
    });
    Some(if still_far { told } else { pair })
}

/// The number told before, unless this one differs by half of it, or both are next to nothing.
fn steady(value: f64, told: Option<&str>, nothing: f64) -> String {
    let near = |told: &&str| {
        told.parse::<f64>().is_ok_and(|told| {
            let (least, most) = (told.min(value), told.max(value));
            most <= nothing || most <= least * STEADY_FACTOR
        })
    };
    told.filter(near).map_or_else(|| rounded(value), str::to_owned)
}

/// Two figures.
fn rounded(value: f64) -> String {
    match value {
        v if v >= 9.95 => format!("{v:.0}"),
        v if v >= 0.995 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

/// The count told before, unless this one differs by half of it; then two figures of it.
fn steady_count(value: i64, told: Option<i64>) -> i64 {
    let near = |told: &i64| {
        let (least, most) = (value.min(*told), value.max(*told));
        most as f64 <= least as f64 * STEADY_FACTOR
    };
    told.filter(near).unwrap_or_else(|| {
        let scale = 10_i64.pow(value.max(1).ilog10().saturating_sub(1));
        value / scale * scale
    })
}

fn claim_of(holds: bool, reason: &str, message: impl Into<String>) -> Claim {
    Claim { kind: AUTOTUNE_READY, holds, reason: reason.to_owned(), message: message.into() }
}

/// The condition as it was.
pub(super) fn kept(facts: &Facts<'_>) -> Option<Claim> {
    let conditions = facts.status().into_iter().flat_map(|status| &status.conditions);
    let mut old = conditions.filter(|condition| condition.type_ == AUTOTUNE_READY);
    old.next().map(|old| claim_of(old.status == "True", &old.reason, old.message.clone()))
}

/// The condition while nothing is known.
pub(super) fn no_quorum(facts: &Facts<'_>) -> Option<Claim> {
    kept(facts).map(|_| claim_of(false, "NoQuorum", "no quorum of the members answers"))
}

/// The condition where the spec contradicts itself in a way that the definition does not refuse.
pub(super) fn bad(problem: &str) -> Claim {
    claim_of(false, "BadSpec", format!("spec.autotune: {problem}"))
}

/// Something else than what is in force is to be submitted, but for what holds it back.
fn wants_another(seen: &Seen<'_>) -> bool {
    let is_recommended = || matches!(seen.evaluation.decision, Decision::Recommend { .. });
    match seen.by_hand {
        Some(by_hand) => seen.tuning.plan.to != Some(by_hand),
        None => seen.spec.mode == AutotuneMode::Auto && is_recommended(),
    }
}

/// The condition after an evaluation. Its message is the same as long as nothing happens.
pub(super) fn claim(seen: &Seen<'_>, status: &AutotuneStatus) -> Option<Claim> {
    let plan = &seen.tuning.plan;
    let epoch = plan.epoch;
    let late = matches!(seen.evaluation.decision, Decision::Hold { reason: Hold::PartialApply });
    let under_way = plan.phase != Phase::Settled;
    if under_way && late {
        let held_by = match &seen.tuning.held_by[..] {
            "" => "a voter does not confirm it",
            why => why,
        };
        let message = format!("plan {epoch} rests in phase {}: {held_by}", plan.phase.as_str());
        return Some(claim_of(false, "PartialApply", message));
    }
    if let Some((format, all)) = seen.unread.filter(|_| wants_another(seen)) {
        let message = format!(
            "the plan has format {format}, and not every member is known to read more than format {all}: it is \
             submitted when all do"
        );
        return Some(claim_of(false, "MixedVersions", message));
    }
    if seen.by_hand.is_some() {
        return Some(match &status.phase[..] {
            "Manual" => claim_of(true, "Manual", "what was set by hand is in force"),
            _ => claim_of(false, "Applying", "what was set by hand is on its way"),
        });
    }
    if seen.spec.mode == AutotuneMode::Off {
        return under_way
            .then(|| claim_of(false, "Applying", format!("plan {epoch} is on its way")));
    }
    let target = || status.recommended.as_ref().map(short).unwrap_or_default();
    Some(match seen.evaluation.decision {
        _ if under_way => claim_of(false, "Applying", format!("plan {epoch} is on its way")),
        Decision::Apply { reason, .. } => {
            claim_of(false, "Applying", format!("{} is submitted: {reason}", target()))
        }
        Decision::Rollback { reason, .. } => claim_of(false, "RollingBack", reason.to_string()),
        Decision::Recommend { why, unaware: Some(id), .. } => {
            let who = member(seen.facts, id);
            let message =
                format!("{} would be right ({why}), but {who} does not know plans", target());
            claim_of(false, "MixedVersions", message)
        }
        Decision::Recommend { why, .. } => {
            claim_of(true, "Recommended", format!("{} would be right: {why}", target()))
        }
        Decision::Frozen { reason } => frozen(seen, reason),
        Decision::Hold { reason } => hold(seen, reason, &target()),
    })
}

/// For the metrics.
pub(super) fn figures(seen: &Seen<'_>) -> TuningFigures {
    let frozen = match seen.evaluation.decision {
        Decision::Frozen { reason } => Some(freeze(seen, reason)),
        _ => None,
    };
    let failover_us = Some(seen.evaluation.failover_us_now).filter(|us| *us > 0);
    TuningFigures { frozen, predicted_failover_us: failover_us }
}

/// Why, in one word.
fn freeze(seen: &Seen<'_>, reason: Freeze) -> &'static str {
    match (reason, seen.held) {
        (Freeze::Paused, Some(Held::CertificateRotation)) => CERTIFICATE_ROTATION,
        _ => reason.as_str(),
    }
}

fn frozen(seen: &Seen<'_>, reason: Freeze) -> Claim {
    let word = freeze(seen, reason);
    if word == CERTIFICATE_ROTATION {
        return claim_of(false, word, "authorities are being replaced");
    }
    claim_of(false, word, reason.to_string())
}

fn hold(seen: &Seen<'_>, reason: Hold, target: &str) -> Claim {
    let known = |id: u64| member(seen.facts, id);
    let (holds, message) = match reason {
        Hold::Converged => (true, "the plan in force fits what is measured".to_owned()),
        Hold::SoleVoter => (true, reason.to_string()),
        Hold::Sustaining { .. } if seen.held == Some(Held::YoungMember) => {
            let message = format!("{target} would be right; a member was started just now");
            return claim_of(false, "YoungMember", message);
        }
        Hold::Sustaining { .. } => {
            (false, format!("{target} would be right, if it is for a while"))
        }
        Hold::Cooldown { .. } | Hold::RateCap => {
            (false, format!("{target} would be right: {reason}"))
        }
        Hold::NoQuorum { missing } => {
            (false, format!("a majority is not heard from: {} among others", known(missing)))
        }
        Hold::Incomplete { member, peer: 0 } if member != 0 => {
            (false, format!("no shorter timeout while {} is not heard from", known(member)))
        }
        Hold::Incomplete { member, peer } if member != 0 => {
            let (one, other) = (known(member), known(peer));
            (
                false,
                format!("no shorter timeout while the distance of {one} and {other} is unknown"),
            )
        }
        _ => (false, reason.to_string()),
    };
    claim_of(holds, reason.as_str(), message)
}

/// "25/315 ms".
pub(crate) fn short(timing: &TimingStatus) -> String {
    format!("{}/{} ms", timing.heartbeat_ms, timing.election_ms)
}
