//! What the planner remembers between two evaluations.
//!
//! Plain fields and small: whoever runs the planner keeps them where it likes and hands them to its
//! successor. To be kept before a decision is carried out: a plan whose memory was lost is taken for
//! somebody else's, and is not watched.

use super::evidence::Evidence;
use super::observation::{Observation, Writes};
use super::settings::Guards;
use crate::Params;

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
/// Times of false elections, plans and plans taken back that are remembered, at most.
const TIMES_MAX: usize = 64;
/// So many elections of one member are believed between two evaluations.
const FALSE_ELECTIONS_MAX: u64 = 4;
/// Members whose counters are remembered.
const MEMBERS_MAX: usize = 64;

/// What the planner remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct State {
    /// Time of the newest evaluation.
    pub now_ms: u64,
    /// Time of the newest one that counted.
    pub evaluated_ms: Option<u64>,
    /// Epoch of the newest plan seen; `None`: not one evaluation yet.
    pub epoch: Option<u64>,
    /// When it was seen first.
    pub epoch_ms: u64,
    /// Decided on and not seen yet.
    pub pending: Option<Pending>,
    /// Being watched.
    pub verifying: Option<Verifying>,
    /// The plan to go back to; `None`: each member's own flags.
    pub good: Option<Params>,
    /// When plans were decided on, the oldest first.
    pub plans_ms: Vec<u64>,
    /// When plans were taken back.
    pub rollbacks_ms: Vec<u64>,
    /// When the timeout was lowered last.
    pub lowered_ms: Option<u64>,
    /// The last lowering went only part of the way, for what is lowered goes halfway at most.
    pub descending: bool,
    /// How often the cooldown is doubled.
    pub doublings: u32,
    /// When it was doubled last.
    pub doubled_ms: u64,
    /// Evaluations in a row that asked for a shorter timeout.
    pub lower_streak: u32,
    /// That asked for other heartbeats or batching.
    pub fit_streak: u32,
    /// In which heartbeats needed too much of the timeout.
    pub slack_streak: u32,
    /// Counters of false elections as seen last.
    pub counted: Vec<Counted>,
    /// When leaders were deposed that were alive.
    pub false_elections_ms: Vec<u64>,
    /// Longest silence of a leader in each hour of the last day: the hour, the silence.
    pub silences_us: Vec<(u64, u64)>,
    /// What was known when everything was.
    pub complete: Option<Evidence>,
    /// Too many plans were taken back.
    pub unstable: bool,
    /// The member that was reported to be slow.
    pub slow: Option<u64>,
}

/// A plan decided on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Pending {
    /// Where it leads; `None`: each member's own flags.
    pub to: Option<Params>,
    /// How it is to be judged.
    pub kind: Kind,
    /// When it was decided on.
    pub decided_ms: u64,
    /// Writes at that time.
    pub writes: Option<Writes>,
}

/// How a plan is to be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Kind {
    /// Longer timeouts are good at once.
    Raise,
    /// What is shorter must prove itself.
    Trial,
    /// What was good before is good again.
    Rollback,
}

/// A plan that is being watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Verifying {
    /// Which.
    pub epoch: u64,
    /// When it was decided on.
    pub decided_ms: u64,
    /// When all had applied it.
    pub settled_ms: Option<u64>,
    /// Writes before it.
    pub writes: Option<Writes>,
}

/// False elections of a member as counted by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Counted {
    /// Which member.
    pub member: u64,
    /// In which of its lives.
    pub boot_id: u64,
    /// How many.
    pub false_elections: u64,
}

impl State {
    /// Lets time pass. A clock that was set back costs nothing: all times move with it.
    pub(super) fn pass_time(&mut self, now_ms: u64) {
        let back_ms = self.now_ms.saturating_sub(now_ms);
        self.now_ms = now_ms;
        if back_ms > 0 {
            self.shift_back(back_ms);
        }
        let recent = |times: &mut Vec<u64>, span_ms: u64| {
            times.retain(|at_ms| now_ms.saturating_sub(*at_ms) < span_ms);
            let surplus = times.len().saturating_sub(TIMES_MAX);
            times.drain(..surplus);
        };
        recent(&mut self.plans_ms, HOUR_MS);
        recent(&mut self.rollbacks_ms, DAY_MS);
        recent(&mut self.false_elections_ms, HOUR_MS);
    }

    fn shift_back(&mut self, back_ms: u64) {
        let State {
            now_ms: _,
            evaluated_ms,
            epoch: _,
            epoch_ms,
            pending,
            verifying,
            good: _,
            plans_ms,
            rollbacks_ms,
            lowered_ms,
            descending: _,
            doublings: _,
            doubled_ms,
            lower_streak: _,
            fit_streak: _,
            slack_streak: _,
            counted: _,
            false_elections_ms,
            silences_us: _,
            complete: _,
            unstable: _,
            slow: _,
        } = self;
        let pending = pending.iter_mut().map(|it| &mut it.decided_ms);
        let verifying = verifying
            .iter_mut()
            .flat_map(|it| std::iter::once(&mut it.decided_ms).chain(&mut it.settled_ms));
        let times = plans_ms
            .iter_mut()
            .chain(rollbacks_ms)
            .chain(false_elections_ms)
            .chain(evaluated_ms)
            .chain(lowered_ms)
            .chain([epoch_ms, doubled_ms])
            .chain(pending)
            .chain(verifying);
        for at_ms in times {
            *at_ms = at_ms.saturating_sub(back_ms);
        }
    }

    /// Counts false elections since the last time, of members that have been up for long enough.
    pub(super) fn note_elections(&mut self, observation: &Observation, guards: &Guards) -> u64 {
        let mut sum = 0;
        for row in &observation.members {
            let is_voter = observation.voters.contains(&row.id);
            if !is_voter || row.age_ms > guards.row_age_ms_max {
                continue;
            }
            let seen = Counted {
                member: row.id,
                boot_id: row.boot_id,
                false_elections: row.elections.false_elections,
            };
            match self.counted.iter().position(|counted| counted.member == row.id) {
                None if self.counted.len() < MEMBERS_MAX => self.counted.push(seen),
                None => {}
                Some(at) => {
                    let before = &mut self.counted[at];
                    if before.boot_id == seen.boot_id && row.uptime_ms >= guards.warm_up_ms {
                        let more = seen.false_elections.saturating_sub(before.false_elections);
                        sum += more.min(FALSE_ELECTIONS_MAX);
                    }
                    *before = seen;
                }
            }
        }
        self.counted.retain(|counted| observation.voters.contains(&counted.member));
        for _ in 0..sum.min(TIMES_MAX as u64) {
            self.false_elections_ms.push(self.now_ms);
        }
        let surplus = self.false_elections_ms.len().saturating_sub(TIMES_MAX);
        self.false_elections_ms.drain(..surplus);
        sum
    }

    /// Remembers how long the leader was silent, and says how long in the last day.
    pub(super) fn note_silence(&mut self, silence_us: u64) -> u64 {
        let hour = self.now_ms / HOUR_MS;
        self.silences_us.retain(|(at, _)| at.abs_diff(hour) < 24);
        match self.silences_us.iter_mut().find(|(at, _)| *at == hour) {
            Some((_, longest_us)) => *longest_us = silence_us.max(*longest_us),
            None if silence_us > 0 => self.silences_us.push((hour, silence_us)),
            None => {}
        }
        self.silences_us.iter().map(|(_, us)| *us).max().unwrap_or(0)
    }

    /// False elections since then.
    pub(super) fn false_elections_since(&self, at_ms: u64) -> usize {
        self.false_elections_ms.iter().filter(|it| **it > at_ms).count()
    }

    /// How long after a plan nothing is lowered.
    pub(super) fn cooldown_ms(&self, guards: &Guards) -> u64 {
        let doubled = guards.cooldown_ms.saturating_mul(1 << self.doublings.min(32));
        doubled.min(guards.cooldown_ms_max.max(guards.cooldown_ms))
    }

    /// A plan did not hold: the next one of its kind waits twice as long.
    pub(super) fn double_cooldown(&mut self) {
        self.doublings = self.doublings.saturating_add(1);
        self.doubled_ms = self.now_ms;
    }

    /// Forgets what led to a freeze and to long cooldowns: the owner has changed something.
    pub fn thaw(&mut self) {
        (self.unstable, self.doublings, self.doubled_ms) = (false, 0, 0);
        (self.lower_streak, self.fit_streak, self.slack_streak) = (0, 0, 0);
        self.rollbacks_ms.clear();
    }
}
