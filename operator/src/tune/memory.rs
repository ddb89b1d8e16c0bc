//! The planner's state in the resource's status, and back.
//!
//! What changes with every look is not kept as it is, or the status would be written with every look: of
//! evaluations in a row it is kept since when they agree, of silences those that no later one exceeds.
//! What was known when everybody answered is not kept at all: while somebody is missing nothing is
//! lowered, and what is in force was made from it.

use autotune::planner::{Counted, Guards, Kind, Pending, State, Verifying, Writes};
use autotune::{BatchBounds, Params, Timing};

use crate::crd::{
    AutotuneStatus, ChangeKind, MemberElections, MemoryStatus, PendingStatus, SilenceStatus,
    TimingStatus, VerifyingStatus, WritesStatus,
};

/// Shorter silences are no reason for any timeout that may be chosen.
const SILENCE_US_MIN: u64 = 50_000;
/// A silence is kept anew if it exceeds the one that is kept for its hour by so many hundredths.
const SILENCE_PERCENT: u64 = 5;

/// What a timing looks like in the status.
pub(crate) fn timing_status(params: &Params) -> TimingStatus {
    let Params { timing, lease_us, bounds } = params;
    let ms = |us: u64| us as f64 / 1_000.0;
    TimingStatus {
        heartbeat_ms: ms(timing.heartbeat_interval_us),
        election_ms: ms(timing.election_timeout_us),
        lease_ms: ms(*lease_us),
        batch_commands: signed(bounds.batch_commands_max),
        linger_micros: signed(bounds.linger_us_max),
        message_bytes: signed(bounds.message_bytes_max),
        inflight_messages: signed(bounds.inflight_messages_max),
        inflight_bytes: signed(bounds.inflight_bytes_max),
        no_compression: !bounds.compression,
    }
}

/// What a timing in the status stands for, to the microsecond.
pub(crate) fn params_of(timing: &TimingStatus) -> Params {
    let us = |ms: f64| (ms * 1_000.0).round().max(0.0) as u64;
    Params {
        timing: Timing {
            heartbeat_interval_us: us(timing.heartbeat_ms),
            election_timeout_us: us(timing.election_ms),
        },
        lease_us: us(timing.lease_ms),
        bounds: BatchBounds {
            batch_commands_max: unsigned(timing.batch_commands),
            linger_us_max: unsigned(timing.linger_micros),
            message_bytes_max: unsigned(timing.message_bytes),
            inflight_messages_max: unsigned(timing.inflight_messages),
            inflight_bytes_max: unsigned(timing.inflight_bytes),
            compression: !timing.no_compression,
        },
    }
}

pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn all_unsigned(values: &[i64]) -> Vec<u64> {
    values.iter().map(|value| unsigned(*value)).collect()
}

fn all_signed(values: &[u64]) -> Vec<i64> {
    values.iter().map(|value| signed(*value)).collect()
}

fn writes_of(status: &WritesStatus) -> Writes {
    Writes { p99_us: unsigned(status.p99_micros), per_second: unsigned(status.per_second) }
}

fn writes_status(writes: Writes) -> WritesStatus {
    WritesStatus { p99_micros: signed(writes.p99_us), per_second: signed(writes.per_second) }
}

/// The planner's state as it was left. None: it never looked at this cluster.
pub(super) fn state_of(status: Option<&AutotuneStatus>, guards: &Guards, now_ms: u64) -> State {
    let Some(status) = status else { return State::default() };
    let kept = &status.memory;
    let pending = kept.pending.as_ref().map(|pending| Pending {
        to: pending.to.as_ref().map(params_of),
        kind: match pending.kind {
            ChangeKind::Raise => Kind::Raise,
            ChangeKind::Trial => Kind::Trial,
            ChangeKind::Rollback => Kind::Rollback,
        },
        decided_ms: unsigned(pending.at),
        writes: pending.writes.as_ref().map(writes_of),
    });
    let verifying = kept.verifying.as_ref().map(|verifying| Verifying {
        epoch: unsigned(verifying.epoch),
        decided_ms: unsigned(verifying.decided_at),
        settled_ms: verifying.settled_at.map(unsigned),
        writes: verifying.writes.as_ref().map(writes_of),
    });
    // So many evaluations have agreed by now, without the one that comes.
    let streak = |since: Option<i64>| {
        let since_ms = since.map_or(now_ms, unsigned);
        let evaluations = now_ms.saturating_sub(since_ms) / guards.evaluation_ms.max(1);
        u32::try_from(evaluations).unwrap_or(u32::MAX)
    };
    let mut state = State {
        now_ms: 0,
        evaluated_ms: None,
        epoch: Some(unsigned(status.epoch)),
        epoch_ms: unsigned(kept.epoch_at),
        pending,
        verifying,
        good: status.last_known_good.as_ref().map(params_of),
        plans_ms: all_unsigned(&kept.plans_at),
        rollbacks_ms: all_unsigned(&kept.rollbacks_at),
        lowered_ms: kept.lowered_at.map(unsigned),
        descending: kept.descending,
        doublings: u32::try_from(kept.doublings).unwrap_or(0),
        doubled_ms: unsigned(kept.doubled_at),
        lower_streak: streak(kept.lower_since),
        fit_streak: streak(kept.fit_since),
        slack_streak: streak(kept.slack_since),
        counted: kept.elections.iter().filter_map(counted).collect(),
        false_elections_ms: all_unsigned(&kept.false_elections_at),
        silences_us: kept
            .silences
            .iter()
            .map(|it| (unsigned(it.hour), unsigned(it.micros)))
            .collect(),
        complete: None,
        unstable: kept.unstable,
        slow: kept.slow.as_deref().and_then(hexadecimal),
    };
    state.now_ms = latest_ms(&state);
    state
}

/// The latest time that was kept: a clock that is behind it was set back.
fn latest_ms(state: &State) -> u64 {
    let verifying = state.verifying.iter();
    let verifying = verifying.flat_map(|it| [it.decided_ms, it.settled_ms.unwrap_or(0)]);
    let pending = state.pending.iter().map(|it| it.decided_ms);
    let times = [&state.plans_ms, &state.rollbacks_ms, &state.false_elections_ms];
    let times = times.into_iter().flatten().copied();
    let single = [state.epoch_ms, state.doubled_ms, state.lowered_ms.unwrap_or(0)];
    times.chain(single).chain(verifying).chain(pending).max().unwrap_or(0)
}

fn hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

fn counted(kept: &MemberElections) -> Option<Counted> {
    Some(Counted {
        member: hexadecimal(&kept.member)?,
        boot_id: hexadecimal(&kept.boot)?,
        false_elections: unsigned(kept.count),
    })
}

/// What is to be kept of it. `reason` is that of the pending plan.
pub(super) fn memory_of(
    state: &State,
    before: Option<&MemoryStatus>,
    generation: i64,
    reason: Option<String>,
) -> MemoryStatus {
    let now = signed(state.now_ms);
    let since = |streak: u32, kept: Option<i64>| (streak > 0).then(|| kept.unwrap_or(now).min(now));
    MemoryStatus {
        generation,
        epoch_at: signed(state.epoch_ms),
        pending: state.pending.as_ref().map(|pending| PendingStatus {
            to: pending.to.as_ref().map(timing_status),
            kind: match pending.kind {
                Kind::Raise => ChangeKind::Raise,
                Kind::Trial => ChangeKind::Trial,
                Kind::Rollback => ChangeKind::Rollback,
            },
            reason: reason.unwrap_or_default(),
            at: signed(pending.decided_ms),
            writes: pending.writes.map(writes_status),
        }),
        verifying: state.verifying.map(|verifying| VerifyingStatus {
            epoch: signed(verifying.epoch),
            decided_at: signed(verifying.decided_ms),
            settled_at: verifying.settled_ms.map(signed),
            writes: verifying.writes.map(writes_status),
        }),
        plans_at: all_signed(&state.plans_ms),
        rollbacks_at: all_signed(&state.rollbacks_ms),
        lowered_at: state.lowered_ms.map(signed),
        descending: state.descending,
        doublings: i64::from(state.doublings),
        doubled_at: signed(state.doubled_ms),
        lower_since: since(state.lower_streak, before.and_then(|kept| kept.lower_since)),
        fit_since: since(state.fit_streak, before.and_then(|kept| kept.fit_since)),
        slack_since: since(state.slack_streak, before.and_then(|kept| kept.slack_since)),
        elections: elections(&state.counted),
        false_elections_at: all_signed(&state.false_elections_ms),
        silences: silences(&state.silences_us, before),
        unstable: state.unstable,
        slow: state.slow.map(|id| format!("{id:x}")),
    }
}

/// In the order of ids, whatever order members answered in.
fn elections(counted: &[Counted]) -> Vec<MemberElections> {
    let mut counted = counted.to_vec();
    counted.sort_by_key(|counted| counted.member);
    let kept = counted.iter().map(|counted| MemberElections {
        member: format!("{:x}", counted.member),
        boot: format!("{:x}", counted.boot_id),
        count: signed(counted.false_elections),
    });
    kept.collect()
}

fn silences(silences: &[(u64, u64)], before: Option<&MemoryStatus>) -> Vec<SilenceStatus> {
    let exceeded = |(hour, us): &(u64, u64)| {
        silences.iter().any(|(later, longer)| later > hour && longer >= us)
    };
    let lasting = silences.iter().filter(|it| it.1 >= SILENCE_US_MIN && !exceeded(it));
    let mut kept: Vec<SilenceStatus> = lasting
        .map(|(hour, us)| {
            let silence = SilenceStatus { hour: signed(*hour), micros: signed(*us) };
            let known = before.into_iter().flat_map(|kept| &kept.silences);
            let known = known.filter(|known| known.hour == silence.hour).find(|known| {
                unsigned(known.micros).saturating_mul(100 + SILENCE_PERCENT) >= us * 100
            });
            known.cloned().unwrap_or(silence)
        })
        .collect();
    kept.sort_by_key(|silence| silence.hour);
    kept
}
