//! When to move: the formulas say what is right, this says what is done about it.
//!
//! Raising is quick, for a timeout that is too short deposes leaders; lowering is slow, for one that
//! is too long only costs time when something dies. So more is believed of what asks for longer
//! timeouts (a majority's rows, the last complete view where there are holes) than of what asks for
//! shorter ones (everybody, everything, fresh, many times in a row), and what is lowered goes halfway
//! at most and is watched.
//!
//! Whatever comes in, these hold:
//!
//! * a plan lies within the bounds, on the grid, with five heartbeats to its election timeout;
//! * nothing is lowered while a voter or the distance of two is not known;
//! * there are no more than so many plans in an hour;
//! * the same inputs give the same decisions.

use super::decision::{Blame, Change, Decision, Event, Freeze, Hold, Step};
use super::evidence::{Evidence, Reading, read};
use super::grid::{fit, grid_up};
use super::observation::Observation;
use super::settings::{Guards, Mode, Settings};
use super::state::{Kind, Pending, State, Verifying};
use super::target::{Target, failover_us, shape, target};
use crate::{Params, Plan};

/// Heartbeats that need more of the timeout than this, in hundredths, are a breach. The formulas
/// leave 1.5 times the longest gap, which is two thirds.
const SLACK_PERCENT_MAX: u64 = 70;
/// Evaluations in a row with a breach after which the timeout is raised.
const SLACK_EVALUATIONS: u32 = 2;
/// False elections within [`FALSE_ELECTIONS_MS`] after which it is.
const FALSE_ELECTIONS_MAX: usize = 2;
const FALSE_ELECTIONS_MS: u64 = 600_000;
/// By how much, in hundredths, if the formulas do not say.
const UNEXPLAINED_RAISE_PERCENT: u64 = 160;
/// A plan that has not shown up by then was not submitted.
const SUBMIT_MS_MAX: u64 = 60_000;
/// A plan that has not settled by then waits for somebody.
const SETTLE_MS_MAX: u64 = 120_000;
/// A timeout that has to be raised so soon after it was lowered was lowered too soon.
const REGRET_MS: u64 = 3_600_000;
/// A lowered plan is watched for so many of its election timeouts at least.
const VERIFY_ELECTIONS: u64 = 60;
/// Commits may take so much longer, in hundredths, at a load that differs by no more than
/// [`LOAD_PERCENT_MAX`].
const SLOWER_WRITES_PERCENT: u64 = 50;
/// And by so much at least: less is what one minute differs by from the next.
const SLOWER_WRITES_US_MIN: u64 = 5_000;
const LOAD_PERCENT_MAX: u64 = 20;
/// Heartbeats that are off by this factor, in hundredths, are worth a plan of their own.
const FIT_HEARTBEAT_PERCENT: u64 = 160;
/// So is a window that should be wider by this one.
const FIT_WINDOW_PERCENT: u64 = 125;

/// The planner of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controller {
    settings: Settings,
    state: State,
}

/// What one evaluation works with.
struct Now<'a> {
    reading: &'a Reading,
    observation: &'a Observation,
    plan: &'a Plan,
    /// Where the newest plan leads.
    base: Params,
    evidence: Evidence,
    target: Target,
    slack_percent: u64,
    /// This evaluation counts for what must be sustained.
    counts: bool,
}

impl Controller {
    /// A planner that goes on from `state`, or begins from its default. The settings' bounds must
    /// have been validated.
    pub fn new(settings: Settings, state: State) -> Controller {
        assert!(settings.bounds.validate().is_ok(), "bounds {:?}", settings.bounds);
        Controller { settings, state }
    }

    /// What is to be kept.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// What was asked for.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The owner asks for something else: also the end of a freeze.
    pub fn reconfigure(&mut self, settings: Settings) {
        assert!(settings.bounds.validate().is_ok(), "bounds {:?}", settings.bounds);
        if settings != self.settings {
            self.settings = settings;
            self.state.thaw();
        }
    }

    /// Evaluates the rows. `plan` is the cluster's newest plan, `own` what the members' flags say.
    pub fn step(
        &mut self,
        now_ms: u64,
        observation: &Observation,
        plan: &Plan,
        own: &Params,
    ) -> Step {
        let guards = self.settings.guards;
        self.state.pass_time(now_ms);
        let counts = self.state.evaluated_ms.is_none_or(|at_ms| {
            now_ms.saturating_sub(at_ms) >= guards.evaluation_ms - guards.evaluation_ms / 10
        });
        if counts {
            self.state.evaluated_ms = Some(now_ms);
        }
        let reading = read(observation, &guards);
        let mut events = Vec::new();
        let false_elections = self.state.note_elections(observation, &guards);
        if false_elections > 0 {
            events.push(Event::FalseElections { count: false_elections });
        }
        self.note_slow(&reading, &mut events);
        self.note_plan(plan, &mut events);
        let evidence = self.known(&reading);
        let in_force = plan.in_force(own);
        let timing = in_force.timing;
        let Some(evidence) = evidence else {
            let mut decision = Decision::Hold { reason: Hold::InsufficientSamples };
            if let Some(otherwise) = self.not_now(&reading, observation) {
                decision = otherwise;
            }
            self.reset_streaks();
            return Step {
                decision,
                target: None,
                evidence: None,
                slack_percent: 0,
                failover_us: 0,
                failover_us_now: 0,
                events,
            };
        };
        let target = target(&evidence, &self.settings);
        let slack_percent =
            evidence.slack_percent(timing.heartbeat_interval_us, timing.election_timeout_us);
        let base = plan.to.unwrap_or(*own);
        let now = Now {
            reading: &reading,
            observation,
            plan,
            base,
            evidence,
            target,
            slack_percent,
            counts,
        };
        let decision = self.not_now(&reading, observation).unwrap_or_else(|| self.decide(&now));
        Step {
            decision: self.release(decision, &now),
            target: Some(target),
            evidence: Some(evidence),
            slack_percent,
            failover_us: failover_us(&target.params.timing, &evidence),
            failover_us_now: failover_us(&timing, &evidence),
            events,
        }
    }

    fn note_slow(&mut self, reading: &Reading, events: &mut Vec<Event>) {
        let slow = reading.slow.map(|(member, ..)| member);
        if slow != self.state.slow
            && let Some((member, rtt_us, others_us)) = reading.slow
        {
            events.push(Event::SlowMember { member, rtt_us, others_us });
        }
        // A hole is no recovery.
        if slow.is_some() || reading.holes.is_empty() {
            self.state.slow = slow;
        }
    }

    /// Follows the cluster's newest plan: ours, or somebody else's.
    fn note_plan(&mut self, plan: &Plan, events: &mut Vec<Event>) {
        let state = &mut self.state;
        if state.epoch != Some(plan.epoch) {
            let first = state.epoch.is_none();
            let ours = state.pending.take().filter(|pending| !first && pending.to == plan.to);
            state.epoch = Some(plan.epoch);
            state.epoch_ms = state.now_ms;
            (state.lower_streak, state.fit_streak, state.slack_streak) = (0, 0, 0);
            state.verifying = None;
            match ours {
                Some(Pending { kind: Kind::Trial, decided_ms, writes, .. }) => {
                    let epoch = plan.epoch;
                    state.verifying =
                        Some(Verifying { epoch, decided_ms, settled_ms: None, writes });
                }
                Some(_) => state.good = plan.to,
                None => {
                    state.good = plan.to;
                    if !first {
                        state.plans_ms.push(state.now_ms);
                    }
                }
            }
        }
        if let Some(pending) = state.pending
            && state.now_ms.saturating_sub(pending.decided_ms) >= SUBMIT_MS_MAX
        {
            state.pending = None;
        }
        if self.settings.mode == Mode::Observe {
            // Nothing is taken back by one who only watches.
            (state.pending, state.verifying) = (None, None);
        }
        let calm_ms = state.now_ms.saturating_sub(state.doubled_ms);
        if calm_ms >= self.settings.guards.cooldown_ms_max {
            state.doublings = 0;
        }
        let Some(verifying) = &mut state.verifying else { return };
        if plan.phase.next().is_none() && verifying.settled_ms.is_none() {
            verifying.settled_ms = Some(state.now_ms);
        }
        let Some(to) = plan.to else { return };
        let until_ms = verified_ms(verifying, &to, &self.settings.guards);
        if until_ms.is_some_and(|until_ms| state.now_ms >= until_ms)
            && self.blame_of_past().is_none()
        {
            events.push(Event::Verified { epoch: plan.epoch });
            (self.state.verifying, self.state.good) = (None, Some(to));
        }
    }

    fn blame_of_past(&self) -> Option<Blame> {
        let verifying = self.state.verifying?;
        let elections = self.state.false_elections_since(verifying.decided_ms);
        (elections > 0).then_some(Blame::FalseElection)
    }

    /// What is known, the past included where it must be.
    fn known(&mut self, reading: &Reading) -> Option<Evidence> {
        let mut evidence = reading.evidence?;
        evidence.shared_stall_us = self.state.note_silence(evidence.shared_stall_us);
        let whole = reading.holes.is_empty() && reading.missing.is_empty();
        if whole {
            self.state.complete = Some(evidence);
            return Some(evidence);
        }
        Some(match &self.state.complete {
            Some(complete) => evidence.worse_of(complete),
            None => evidence,
        })
    }

    /// Reasons for which nothing is even considered.
    fn not_now(&self, reading: &Reading, observation: &Observation) -> Option<Decision> {
        let context = &observation.context;
        let freezes = [
            (self.settings.paused, Freeze::Paused),
            (context.restore, Freeze::Restore),
            (context.upgrade, Freeze::Upgrade),
            (context.membership_change || reading.learner, Freeze::MembershipChange),
            // The last rollback is still seen through.
            (self.state.unstable && self.state.verifying.is_none(), Freeze::Unstable),
        ];
        if observation.voters.len() < 2 {
            return Some(Decision::Hold { reason: Hold::SoleVoter });
        }
        if let Some((_, reason)) = freezes.into_iter().find(|(on, _)| *on) {
            return Some(Decision::Frozen { reason });
        }
        let missing = *reading.missing.first()?;
        (!reading.quorum).then_some(Decision::Hold { reason: Hold::NoQuorum { missing } })
    }

    fn decide(&mut self, now: &Now<'_>) -> Decision {
        let hold = |reason| Decision::Hold { reason };
        if self.state.pending.is_some() {
            return hold(Hold::Submitting);
        }
        if let Some((params, reason)) = self.raise(now) {
            self.state.lower_streak = 0;
            return match self.may_move(self.settings.guards.raise_cooldown_ms, 0) {
                Err(reason) => hold(reason),
                Ok(()) => Decision::Apply { params, reason },
            };
        }
        if let Some(reason) = self.blame(now) {
            // A plan on its way may be taken back too.
            return match self.may_move(0, 0) {
                Err(reason) => hold(reason),
                Ok(()) => Decision::Rollback { to: self.state.good, reason },
            };
        }
        if now.plan.phase.next().is_some() {
            let late = self.state.now_ms.saturating_sub(self.state.epoch_ms) >= SETTLE_MS_MAX;
            return hold(if late { Hold::PartialApply } else { Hold::UnderWay });
        }
        if let Some(verifying) = self.state.verifying {
            let until_ms = verified_ms(&verifying, &now.base, &self.settings.guards);
            return hold(Hold::Verifying { until_ms: until_ms.unwrap_or(0) });
        }
        self.lower_or_fit(now)
    }

    /// A longer timeout, if one is needed.
    fn raise(&mut self, now: &Now<'_>) -> Option<(Params, Change)> {
        let bounds = &self.settings.bounds;
        let base_us = now.base.timing.election_timeout_us;
        let breach = now.slack_percent > SLACK_PERCENT_MAX;
        if now.counts {
            let streak = self.state.slack_streak;
            self.state.slack_streak = if breach { streak.saturating_add(1) } else { 0 };
        }
        let since_ms = self.state.now_ms.saturating_sub(FALSE_ELECTIONS_MS);
        let since_ms = self.state.plans_ms.last().map_or(since_ms, |at_ms| since_ms.max(*at_ms));
        let deposed = self.state.false_elections_since(since_ms);
        let percent = 100 + self.settings.guards.raise_percent;
        let needed = now.target.need_us.saturating_mul(100) > base_us.saturating_mul(percent);
        let unexplained_us = base_us.saturating_mul(UNEXPLAINED_RAISE_PERCENT) / 100;
        let (need_us, change) = if needed || base_us < bounds.election_us_min {
            (now.target.need_us, Change::Raise(now.target.binding))
        } else if deposed >= FALSE_ELECTIONS_MAX {
            (now.target.need_us.max(unexplained_us), Change::FalseElections)
        } else if self.state.slack_streak >= SLACK_EVALUATIONS {
            let explained = now.target.params.timing.election_timeout_us > base_us;
            let need_us = now.target.need_us;
            (if explained { need_us } else { unexplained_us }, Change::Slack)
        } else {
            return None;
        };
        let election_us = fit(need_us, bounds.election_us_min, bounds.election_us_max);
        let heartbeat_us = now.target.params.timing.heartbeat_interval_us;
        let params = shape(heartbeat_us, election_us, &now.evidence, &self.settings);
        (election_us > base_us).then_some((params, change))
    }

    /// What the plan that is being watched is to be blamed for.
    fn blame(&self, now: &Now<'_>) -> Option<Blame> {
        let verifying = self.state.verifying?;
        if let Some(blame) = self.blame_of_past() {
            return Some(blame);
        }
        verifying.settled_ms?;
        if now.slack_percent > SLACK_PERCENT_MAX {
            return Some(Blame::Slack);
        }
        let (before, after) = (verifying.writes?, now.observation.writes?);
        let apart = before.per_second.abs_diff(after.per_second).saturating_mul(100);
        let alike = apart <= before.per_second.saturating_mul(LOAD_PERCENT_MAX);
        let slower = after.p99_us.saturating_mul(100)
            > before.p99_us.saturating_mul(100 + SLOWER_WRITES_PERCENT);
        let longer_us = after.p99_us.saturating_sub(before.p99_us);
        let slower = slower && longer_us >= SLOWER_WRITES_US_MIN;
        (alike && slower && before.p99_us > 0).then_some(Blame::SlowWrites)
    }

    /// A shorter timeout, or other heartbeats and windows around the same one.
    fn lower_or_fit(&mut self, now: &Now<'_>) -> Decision {
        let guards = self.settings.guards;
        let bounds = &self.settings.bounds;
        let hold = |reason| Decision::Hold { reason };
        let base_us = now.base.timing.election_timeout_us;
        let target_us = now.target.params.timing.election_timeout_us;
        let spared = u128::from(target_us) * 100
            <= u128::from(base_us) * u128::from(100 - guards.lower_percent.min(100));
        let lower = (target_us < base_us && (spared || self.state.descending))
            || base_us > bounds.election_us_max;
        let fits = !lower && self.misfit(now);
        if !lower && !fits {
            self.state.descending = false;
            self.reset_streaks();
            return hold(Hold::Converged);
        }
        if !now.reading.lowerable {
            self.reset_streaks();
            let (member, peer) = match (now.reading.missing.first(), now.reading.holes.first()) {
                (Some(member), _) => (*member, 0),
                (None, Some(hole)) => *hole,
                (None, None) => (0, 0),
            };
            return hold(Hold::Incomplete { member, peer });
        }
        let state = &mut self.state;
        if now.counts {
            state.lower_streak = if lower { state.lower_streak.saturating_add(1) } else { 0 };
            state.fit_streak = if fits { state.fit_streak.saturating_add(1) } else { 0 };
        }
        let streak = if lower { state.lower_streak } else { state.fit_streak };
        if streak < guards.sustain_evaluations {
            return hold(Hold::Sustaining { evaluations: streak, of: guards.sustain_evaluations });
        }
        if let Err(reason) = self.may_move(self.state.cooldown_ms(&guards), 1) {
            return hold(reason);
        }
        let wanted_us = if lower { target_us.max(grid_up(base_us.div_ceil(2))) } else { base_us };
        let election_us = fit(wanted_us, bounds.election_us_min, bounds.election_us_max);
        let heartbeat_us = now.target.params.timing.heartbeat_interval_us;
        let params = shape(heartbeat_us, election_us, &now.evidence, &self.settings);
        let reason = if lower { Change::Lower(now.target.binding) } else { Change::Fit };
        Decision::Apply { params, reason }
    }

    /// Whether what stands beside the election timeout is worth a plan.
    fn misfit(&self, now: &Now<'_>) -> bool {
        let heartbeat_us = now.target.params.timing.heartbeat_interval_us;
        let ideal = shape(
            heartbeat_us,
            fit(
                now.base.timing.election_timeout_us,
                self.settings.bounds.election_us_min,
                self.settings.bounds.election_us_max,
            ),
            &now.evidence,
            &self.settings,
        );
        let beats = |params: &Params| params.timing.heartbeat_interval_us;
        let (least, most) =
            (beats(&ideal).min(beats(&now.base)), beats(&ideal).max(beats(&now.base)));
        let window = |params: &Params| params.bounds.inflight_messages_max.saturating_mul(100);
        most.saturating_mul(100) >= least.saturating_mul(FIT_HEARTBEAT_PERCENT)
            || window(&ideal) / FIT_WINDOW_PERCENT >= now.base.bounds.inflight_messages_max
            || (ideal.lease_us == 0) != (now.base.lease_us == 0)
            || !self.settings.bounds.hold(&now.base)
    }

    fn reset_streaks(&mut self) {
        (self.state.lower_streak, self.state.fit_streak) = (0, 0);
    }

    /// Whether a plan may be submitted so soon; `spare` plans must be left in the hour.
    fn may_move(&self, cooldown_ms: u64, spare: usize) -> Result<(), Hold> {
        let guards = &self.settings.guards;
        let spare = spare.min(guards.plans_per_hour.saturating_sub(1));
        if self.state.plans_ms.len() + spare >= guards.plans_per_hour {
            return Err(Hold::RateCap);
        }
        let until_ms = self.state.plans_ms.last().map_or(0, |at_ms| at_ms + cooldown_ms);
        if self.state.now_ms < until_ms { Err(Hold::Cooldown { until_ms }) } else { Ok(()) }
    }

    /// Turns what would be done into what may be done, and remembers it.
    fn release(&mut self, decision: Decision, now: &Now<'_>) -> Decision {
        let unaware = now.reading.unaware;
        let (to, kind) = match decision {
            Decision::Apply { params, reason } => {
                if self.settings.mode == Mode::Observe || unaware.is_some() {
                    return Decision::Recommend { params, why: reason, unaware };
                }
                let raised = matches!(reason, Change::Raise(_) | Change::Slack)
                    || reason == Change::FalseElections;
                (Some(params), if raised { Kind::Raise } else { Kind::Trial })
            }
            Decision::Rollback { to, .. } => (to, Kind::Rollback),
            other => return other,
        };
        let state = &mut self.state;
        let now_ms = state.now_ms;
        match kind {
            Kind::Raise => {
                state.descending = false;
                let soon = |at_ms: u64| now_ms.saturating_sub(at_ms) < REGRET_MS;
                if state.lowered_ms.take().is_some_and(soon) {
                    state.double_cooldown();
                }
            }
            Kind::Trial => {
                let election_us = |params: &Params| params.timing.election_timeout_us;
                let reached =
                    to.is_none_or(|to| election_us(&to) <= election_us(&now.target.params));
                state.descending = !reached;
                state.lowered_ms = Some(now_ms);
            }
            Kind::Rollback => {
                (state.descending, state.lowered_ms) = (false, None);
                state.double_cooldown();
                state.rollbacks_ms.push(now_ms);
                state.unstable = state.rollbacks_ms.len() >= self.settings.guards.rollbacks_per_day;
            }
        }
        self.reset_streaks();
        let state = &mut self.state;
        state.slack_streak = 0;
        state.plans_ms.push(now_ms);
        state.pending =
            Some(Pending { to, kind, decided_ms: now_ms, writes: now.observation.writes });
        decision
    }
}

/// When a plan has proved itself; `None`: it has not settled.
fn verified_ms(verifying: &Verifying, to: &Params, guards: &Guards) -> Option<u64> {
    let elections_ms = to.timing.election_timeout_us.saturating_mul(VERIFY_ELECTIONS) / 1_000;
    Some(verifying.settled_ms? + guards.verify_ms.max(elections_ms))
}
