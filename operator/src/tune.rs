//! Timing and batching of a cluster: what its members measure goes to the planner, what the planner
//! decides comes back as a step, a report, and a condition. Pure, like all that decides.
//!
//! The planner (`autotune::planner`) is the one that `metactl` and the simulator use; its state is kept in
//! the resource's status ([`memory`]), where the next operator finds it. The report is written before the
//! step is carried out: a plan that was decided on stands there as pending until it shows up among the
//! members, so that whoever comes after a crash submits it, or sees that it was. Submitting is a compare
//! and set on the number of the newest plan; of two operators, or of an operator and somebody with
//! metactl, one is refused.
//!
//! What the user set by hand takes the same way, past the planner.

mod memory;
mod report;

pub(crate) use report::short;

use autotune::planner::{
    Bounds, Context, Controller, Decision, Freeze, Guards, Hold, Mode, Observation, Policy,
    Settings, State, Step as Evaluation, Writes,
};
use autotune::{BatchBounds, LEASE_PERCENT_MAX, PLAN_FORMAT_BASE, Params, Phase, Timing};

use crate::crd::{
    AutotuneMode, AutotuneSpec, AutotuneStatus, BatchingMode, OperationKind, PolicySpec,
};
use crate::decide::{Decision as Operation, Doing, Rest};
use crate::facts::Facts;
use crate::observed::{Answer, Tuning};
use crate::plan::{Step, TuningFigures};
use crate::quantity;
use crate::status::Claim;

/// How soon to look again while a plan is on its way.
const AGAIN_APPLYING_S: u32 = 3;
/// Longest reason that members take, in bytes.
const REASON_BYTES_MAX: usize = 256;
/// Of the election timeout a leader may answer by itself, where leases are asked for: two of its fifty
/// ticks less than what is allowed.
const LEASE_PERCENT: u64 = LEASE_PERCENT_MAX - 4;

/// What comes out.
#[derive(Default)]
pub(crate) struct Tuned {
    /// What to report. None: nothing was ever seen.
    pub(crate) status: Option<AutotuneStatus>,
    /// The condition, where there is one.
    pub(crate) claim: Option<Claim>,
    /// What to do, if nothing else is to be done.
    pub(crate) step: Option<Step>,
    /// Look again so soon.
    pub(crate) again_s: Option<u32>,
    /// For the metrics.
    pub(crate) figures: TuningFigures,
}

/// Why nothing is changed, as far as the planner does not know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    /// `spec.paused` or `spec.autotune.paused`.
    Paused,
    /// Authorities are being replaced.
    CertificateRotation,
    /// Somebody was started a short while ago: only longer timeouts are applied.
    YoungMember,
}

/// All that a report is made of.
struct Seen<'a> {
    facts: &'a Facts<'a>,
    spec: &'a AutotuneSpec,
    old: Option<&'a AutotuneStatus>,
    /// The newest plan there is.
    tuning: Tuning,
    /// It was set by hand that this is in force.
    by_hand: Option<Params>,
    held: Option<Held>,
    /// Not every member is known to read the form of what is wanted, but only this older one.
    unread: Option<(u32, u32)>,
    /// What the planner makes of it.
    evaluation: Evaluation,
    /// And what it remembers.
    state: State,
    /// Of the pending plan.
    reason: Option<String>,
}

/// Decides.
pub(crate) fn tune(facts: &Facts<'_>, operation: &Operation) -> Tuned {
    let observed = facts.observed;
    let old = facts.status().and_then(|status| status.autotune.as_ref());
    let as_before = Tuned { status: old.cloned(), claim: report::kept(facts), ..Tuned::default() };
    let resting = matches!(operation.rests, Some(Rest::Deleting | Rest::Hibernated));
    if observed.members.is_none() || resting {
        return Tuned { claim: old.and(report::no_quorum(facts)), ..as_before };
    }
    // Who has applied most knows the newest plan. Without a leader's answer there is nothing to go by.
    let Some(leader) = facts.leader.and_then(|id| facts.answer_of(id)) else { return as_before };
    let tuning = newest(facts).unwrap_or_else(|| unaware(leader));
    let spec = &observed.object.spec.autotune;
    let by_hand = by_hand(facts, &tuning.flags);
    let held = held(facts, operation);
    let planned = Params { bounds: as_flags(&tuning.flags, spec), ..tuning.flags };
    let unread = unread(facts, by_hand.as_ref().unwrap_or(&planned));
    let mode = match spec.mode {
        AutotuneMode::Auto if unread.is_none() => Mode::Auto,
        _ => Mode::Observe,
    };
    let settings = match settings(spec, &tuning.flags, held, mode) {
        Ok(settings) => settings,
        Err(problem) => return Tuned { claim: Some(report::bad(&problem)), ..as_before },
    };

    let now_ms = u64::try_from(observed.now_s).unwrap_or(0) * 1_000;
    let mut state = memory::state_of(old, &settings.guards, now_ms);
    let generation = observed.object.metadata.generation.unwrap_or(0);
    if old.is_some_and(|old| old.memory.generation != generation) {
        state.thaw();
    }
    let pending_before = state.pending;
    let mut controller = Controller::new(settings, state);
    let observation = observation(facts, operation);
    let evaluation = controller.step(now_ms, &observation, &tuning.plan, &tuning.flags);
    let mut state = controller.state().clone();
    if spec.batching.mode == BatchingMode::Off
        && let Some(pending) = &mut state.pending
        && let Some(to) = &mut pending.to
    {
        to.bounds = as_flags(&tuning.flags, spec);
    }
    let reason = match state.pending {
        Some(pending) if pending_before == Some(pending) => {
            old.and_then(|old| old.memory.pending.as_ref()).map(|pending| pending.reason.clone())
        }
        Some(_) => Some(shortened(evaluation.decision.to_string())),
        None => None,
    };

    let seen = Seen { facts, spec, old, tuning, by_hand, held, unread, evaluation, state, reason };
    let step = step(&seen).filter(|_| operation.steps.is_empty() && operation.rests.is_none());
    let applying = step.is_some() || seen.tuning.plan.phase != Phase::Settled;
    let evaluate_s = u32::try_from(spec.guards.evaluation_seconds).unwrap_or(u32::MAX).max(1);
    let again_s = match spec.mode {
        _ if applying => Some(AGAIN_APPLYING_S.min(evaluate_s)),
        AutotuneMode::Off => None,
        AutotuneMode::Observe | AutotuneMode::Auto => Some(evaluate_s),
    };
    let status = report::status(&seen, generation);
    let claim = report::claim(&seen, &status);
    let figures = report::figures(&seen);
    Tuned { status: Some(status), claim, step, again_s, figures }
}

/// The newest plan that anybody who was asked has applied.
fn newest(facts: &Facts<'_>) -> Option<Tuning> {
    let answers = facts.members().filter_map(|row| facts.answer_of(row.id));
    let plans = answers.filter_map(|answer| answer.tuning.as_ref());
    plans.max_by_key(|tuning| (tuning.plan.epoch, tuning.plan.phase)).cloned()
}

/// Of a cluster in which nobody knows plans.
fn unaware(leader: &Answer) -> Tuning {
    let timing = Timing {
        heartbeat_interval_us: leader.heartbeat_interval_us,
        election_timeout_us: leader.election_timeout_us,
    };
    let flags = Params { timing, ..Params::default() };
    Tuning { flags, in_force: flags, ..Tuning::default() }
}

fn by_hand(facts: &Facts<'_>, flags: &Params) -> Option<Params> {
    let (heartbeat_ms, election_ms) = facts.observed.object.spec.raft.by_hand()?;
    let us = |ms: i64| u64::try_from(ms).unwrap_or(0) * 1_000;
    let timing =
        Timing { heartbeat_interval_us: us(heartbeat_ms), election_timeout_us: us(election_ms) };
    let spec = &facts.observed.object.spec.autotune;
    let leased = spec.lease_reads;
    let lease_us = if leased { timing.election_timeout_us / 100 * LEASE_PERCENT } else { 0 };
    Some(Params { timing, lease_us, bounds: as_flags(flags, spec) })
}

/// Batching as the members' flags have it.
fn as_flags(flags: &Params, spec: &AutotuneSpec) -> BatchBounds {
    BatchBounds { compression: spec.batching.compression, ..flags.bounds }
}

/// The form of the plan that is wanted, if not every member is known to read it, and which all read.
/// The leader refuses such a plan, so it is not even submitted.
fn unread(facts: &Facts<'_>, wanted: &Params) -> Option<(u32, u32)> {
    let format = wanted.format();
    let leader = facts.leader.and_then(|id| facts.answer_of(id))?.tuning.as_ref();
    let all = leader.map_or(0, |tuning| tuning.known_by_all).max(PLAN_FORMAT_BASE);
    (format > all).then_some((format, all))
}

/// What the planner is not told of by what it observes.
fn held(facts: &Facts<'_>, operation: &Operation) -> Option<Held> {
    let spec = &facts.observed.object.spec;
    if operation.rests.is_some() || spec.paused || spec.autotune.paused {
        return Some(Held::Paused);
    }
    if facts.observed.rotating {
        return Some(Held::CertificateRotation);
    }
    let young_ms = young_ms(&spec.autotune);
    let answers = facts.voters().filter_map(|voter| facts.answer_of(voter.id));
    let mut knowing = answers.filter(|answer| answer.row.knows_plans);
    knowing.any(|answer| answer.row.uptime_ms < young_ms).then_some(Held::YoungMember)
}

/// A member that was started more recently has not measured enough to be judged by.
fn young_ms(spec: &AutotuneSpec) -> u64 {
    let guards = &spec.guards;
    let seconds = guards.evaluation_seconds.saturating_mul(guards.sustain_evaluations);
    u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000)
}

/// What the user asks for, in the planner's words.
fn settings(
    spec: &AutotuneSpec,
    flags: &Params,
    held: Option<Held>,
    mode: Mode,
) -> Result<Settings, String> {
    let policy = match spec.policy {
        PolicySpec::Latency => Policy::Latency,
        PolicySpec::Balanced => Policy::Balanced,
        PolicySpec::Stability => Policy::Stability,
    };
    let us = |ms: i64| u64::try_from(ms).unwrap_or(0) * 1_000;
    let number = |value: i64| u64::try_from(value).unwrap_or(0);
    let bytes = |text: &str| quantity::bytes(text).map_or(0, number);
    let usual = Settings::of(policy);
    let batching = match spec.batching.mode {
        BatchingMode::Off => as_flags(flags, spec),
        BatchingMode::Auto => BatchBounds {
            batch_commands_max: flags.bounds.batch_commands_max,
            linger_us_max: number(spec.batching.max_linger_micros),
            message_bytes_max: bytes(&spec.batching.max_message_bytes),
            inflight_messages_max: usual.bounds.batching.inflight_messages_max,
            inflight_bytes_max: bytes(&spec.batching.max_inflight_bytes),
            compression: spec.batching.compression,
        },
    };
    let bounds = Bounds {
        heartbeat_us_min: us(spec.heartbeat.min_ms),
        heartbeat_us_max: us(spec.heartbeat.max_ms),
        election_us_min: spec.election.min_ms.map_or(usual.bounds.election_us_min, us),
        election_us_max: us(spec.election.max_ms),
        batching,
    };
    bounds.validate().map_err(|error| error.to_string())?;
    let guards = &spec.guards;
    let evaluations = u32::try_from(guards.sustain_evaluations).unwrap_or(u32::MAX);
    let evaluation_ms = number(guards.evaluation_seconds) * 1_000;
    let cooldown_ms = number(guards.cooldown_seconds) * 1_000;
    let guards = Guards {
        evaluation_ms,
        // Never lowered on what somebody says who has just come.
        sustain_evaluations: if held == Some(Held::YoungMember) { u32::MAX } else { evaluations },
        raise_cooldown_ms: usual.guards.raise_cooldown_ms.min(cooldown_ms),
        cooldown_ms,
        verify_ms: number(guards.verify_seconds) * 1_000,
        warm_up_ms: young_ms(spec),
        ..usual.guards
    };
    Ok(Settings {
        mode,
        paused: matches!(held, Some(Held::Paused | Held::CertificateRotation)),
        bounds,
        guards,
        leases: spec.lease_reads,
        ..usual
    })
}

/// What members say, for the planner.
fn observation(facts: &Facts<'_>, operation: &Operation) -> Observation {
    let begun = match &operation.doing {
        Doing::Nothing => None,
        Doing::Operation { kind, .. } => Some(*kind),
        Doing::AsBefore => {
            facts.status().and_then(|status| status.operation.as_ref()).map(|begun| begun.kind)
        }
    };
    let wanted = usize::try_from(facts.wanted).unwrap_or(0);
    let rows = facts.members().filter_map(|row| facts.answer_of(row.id));
    let members: Vec<_> = rows.map(|answer| answer.row.clone()).collect();
    Observation {
        voters: facts.voters().map(|voter| voter.id).collect(),
        writes: Writes::of_members(&members),
        members,
        context: Context {
            membership_change: facts.rows.len() != wanted
                || facts.learner().is_some()
                || begun.is_some_and(|kind| {
                    !matches!(
                        kind,
                        OperationKind::Roll | OperationKind::Restore | OperationKind::Expand
                    )
                }),
            upgrade: begun == Some(OperationKind::Roll),
            restore: begun == Some(OperationKind::Restore),
        },
    }
}

/// What to submit, if anything.
fn step(seen: &Seen<'_>) -> Option<Step> {
    if seen.unread.is_some() {
        return None;
    }
    let plan = &seen.tuning.plan;
    let submit = |to: Option<Params>, reason: &str| Step::SubmitTuning {
        expected_epoch: plan.epoch,
        to,
        reason: reason.to_owned(),
        supersede: plan.phase != Phase::Settled,
    };
    if let Some(by_hand) = seen.by_hand {
        let frozen = matches!(
            seen.evaluation.decision,
            Decision::Frozen {
                reason: Freeze::MembershipChange | Freeze::Upgrade | Freeze::Restore
            }
        );
        let knows = seen.facts.voters().all(|voter| {
            let answer = seen.facts.answer_of(voter.id);
            answer.is_some_and(|answer| answer.row.knows_plans)
        });
        let wanted = plan.to != Some(by_hand) && !seen.facts.observed.object.spec.paused;
        return (wanted && knows && !frozen).then(|| submit(Some(by_hand), "set by hand"));
    }
    if seen.spec.mode != AutotuneMode::Auto {
        return None;
    }
    let pending = seen.state.pending?;
    let decided = matches!(
        seen.evaluation.decision,
        Decision::Apply { .. }
            | Decision::Rollback { .. }
            | Decision::Hold { reason: Hold::Submitting }
    );
    let reason = seen.reason.as_deref().unwrap_or_default();
    decided.then(|| submit(pending.to, reason))
}

/// Cut at a character.
fn shortened(mut reason: String) -> String {
    let mut end = REASON_BYTES_MAX.min(reason.len());
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason.truncate(end);
    reason
}
