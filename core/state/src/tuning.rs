//! The plan of timing: one record beside the keys, changed by compare-and-set.
//!
//! What a plan means is [`autotune`]'s to say; here it is kept, like members and alarms are, outside
//! the revisions, in snapshots and in the backend. A command that submits a plan names the epoch it
//! was made upon, one that takes it a step further names epoch and phase, so of two that were sent at
//! once the second is refused, on every member alike.
//!
//! Whoever proposes has checked who is in touch; what must be the same everywhere is checked here: the
//! rules of the values, one plan at a time, and no member that joins while a plan is on its way.

use std::sync::{Arc, LazyLock};

use autotune::{ParamsError, Phase};
use prost::Message;
use proto::log::membership_change::Kind;
use proto::log::{self, MembershipChange, TuningAdvance, TuningParams, TuningPast, TuningSubmit};
use proto::tuning::origin_said;
pub use proto::tuning::{format_of, params_of, params_said, plan_of};
use thiserror::Error;

use crate::parts::{Row, RowChange, Table};

/// Longest name of a planner, in bytes.
pub const PLANNER_BYTES_MAX: usize = 64;
/// Longest reason for a plan, in bytes.
pub const REASON_BYTES_MAX: usize = 256;
/// Plans of the past that are remembered.
pub const PAST_PLANS_MAX: usize = 5;

const PLAN_KEY: &[u8] = b"plan";

static NO_PLAN: LazyLock<log::Tuning> =
    LazyLock::new(|| log::Tuning { phase: Phase::Settled as u32, ..log::Tuning::default() });

/// Why a plan of timing, or a step of it, was refused.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum TuningError {
    /// Made upon a plan that is not the newest any more.
    #[error("plan was made upon epoch {expected}, but the newest plan has epoch {newest}")]
    Epoch {
        /// Epoch the plan was made upon.
        expected: u64,
        /// The newest one.
        newest: u64,
    },
    /// A step of a plan that has been taken, or is not due.
    #[error("step from {from} of epoch {epoch} is not due: epoch {newest} is in {phase}")]
    Step {
        /// Epoch of the step.
        epoch: u64,
        /// Phase it leads out of, by number.
        from: u32,
        /// The newest epoch.
        newest: u64,
        /// Where that is.
        phase: &'static str,
    },
    /// One plan at a time, and no member joins meanwhile.
    #[error("plan of epoch {epoch} has not settled: it is in phase {phase}")]
    Unsettled {
        /// The plan's epoch.
        epoch: u64,
        /// Where it is.
        phase: &'static str,
    },
    /// The values break a rule.
    #[error("plan is not legal: {0}")]
    Params(#[from] ParamsError),
    /// A name or reason of undue length, or with control characters in it.
    #[error("{what} of a plan is not one line of at most {bytes_max} bytes")]
    Text {
        /// What it is.
        what: &'static str,
        /// What it may be.
        bytes_max: usize,
    },
}

/// A plan of timing in a form that this member does not read. A newer version wrote it.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error(
    "a plan of timing has format {format}, and this version reads formats up to {knows}: run a version that \
     reads it"
)]
pub struct UnknownFormat {
    /// Of the plan.
    pub format: u32,
    /// The newest this member reads.
    pub knows: u32,
}

/// Whether the values of a plan are in a form that is read here.
///
/// # Errors
/// [`UnknownFormat`], if they are not.
pub fn check_format(said: Option<&TuningParams>, knows: u32) -> Result<(), UnknownFormat> {
    match said.map_or(0, format_of) {
        format if format > knows => Err(UnknownFormat { format, knows }),
        _ => Ok(()),
    }
}

/// The same of a row: of the plan in it, and, while that is on its way, of where it began. What was long
/// ago may be in any form: nobody uses it.
pub(crate) fn check_row_format(value: &[u8], knows: u32) -> Result<(), UnknownFormat> {
    let Ok(tuning) = log::Tuning::decode(value) else { return Ok(()) };
    check_format(tuning.to.as_ref(), knows)?;
    match tuning.from.filter(|_| settled(&tuning).is_err()) {
        Some(from) => check_format(from.params.as_ref(), knows),
        None => Ok(()),
    }
}

/// The plan, if there ever was one. `Clone` is cheap.
#[derive(Clone, Default)]
pub(crate) struct Tuning(Option<Arc<log::Tuning>>);

impl Tuning {
    pub(crate) fn get(&self) -> &log::Tuning {
        self.0.as_deref().unwrap_or(&NO_PLAN)
    }

    /// A new plan.
    pub(crate) fn submit(&mut self, submit: &TuningSubmit) -> Result<RowChange, TuningError> {
        check_submit(self.get(), submit)?;
        let before = self.get();
        let plan = plan_of(before).succeeded_by(submit.to.as_ref().map(params_of));
        let mut past = before.past.clone();
        if before.epoch > 0 && plan_of(before).phase == Phase::Settled {
            past.insert(
                0,
                TuningPast {
                    epoch: before.epoch,
                    to: before.to,
                    planner: before.planner.clone(),
                    reason: before.reason.clone(),
                    at_ms: before.at_ms,
                },
            );
            past.truncate(PAST_PLANS_MAX);
        }
        Ok(self.replace(log::Tuning {
            epoch: plan.epoch,
            phase: plan.phase as u32,
            from: Some(origin_said(&plan.from)),
            to: submit.to,
            planner: submit.planner.clone(),
            reason: submit.reason.clone(),
            at_ms: submit.at_ms,
            past,
        }))
    }

    /// The next phase of the plan.
    pub(crate) fn advance(&mut self, advance: &TuningAdvance) -> Result<RowChange, TuningError> {
        let now = self.get();
        let phase = plan_of(now).phase;
        let next =
            phase.next().filter(|_| advance.epoch == now.epoch && advance.phase == now.phase);
        let Some(next) = next else {
            return Err(TuningError::Step {
                epoch: advance.epoch,
                from: advance.phase,
                newest: now.epoch,
                phase: phase.as_str(),
            });
        };
        Ok(self.replace(log::Tuning { phase: next as u32, ..now.clone() }))
    }

    /// Nobody joins while a plan is on its way: a newcomer knows of no barrier. Leaving is the way out
    /// of a plan that cannot end.
    pub(crate) fn check_membership(&self, change: &MembershipChange) -> Result<(), TuningError> {
        if change.kind() == Kind::Remove { Ok(()) } else { settled(self.get()) }
    }

    fn replace(&mut self, tuning: log::Tuning) -> RowChange {
        let row = row_of(&tuning).into();
        self.0 = Some(Arc::new(tuning));
        row
    }

    pub(crate) fn row(&self) -> Option<Row> {
        self.0.as_deref().map(row_of)
    }

    /// Takes in the row; `None` if it makes no sense.
    pub(crate) fn restore(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let tuning = log::Tuning::decode(value).ok()?;
        let legal = |params: &TuningParams| params_of(params).validate().is_ok();
        let from = tuning.from.as_ref().and_then(|from| from.params.as_ref());
        let good = key == PLAN_KEY
            && self.0.is_none()
            && tuning.epoch > 0
            && Phase::of(u64::from(tuning.phase)).is_some()
            && [tuning.to.as_ref(), from].into_iter().flatten().all(legal);
        self.0 = Some(Arc::new(tuning));
        good.then_some(())
    }
}

fn row_of(tuning: &log::Tuning) -> Row {
    Row { table: Table::Tuning, key: PLAN_KEY.to_vec(), value: tuning.encode_to_vec() }
}

fn settled(tuning: &log::Tuning) -> Result<(), TuningError> {
    match plan_of(tuning).phase {
        Phase::Settled => Ok(()),
        phase => Err(TuningError::Unsettled { epoch: tuning.epoch, phase: phase.as_str() }),
    }
}

/// Whether a plan would be taken now: what the leader asks before it proposes one, and apply again.
///
/// # Errors
/// [`TuningError`]: the first rule broken.
pub fn check_submit(now: &log::Tuning, submit: &TuningSubmit) -> Result<(), TuningError> {
    if submit.expected_epoch != now.epoch {
        let expected = submit.expected_epoch;
        return Err(TuningError::Epoch { expected, newest: now.epoch });
    }
    for (what, text, bytes_max) in [
        ("planner", &submit.planner, PLANNER_BYTES_MAX),
        ("reason", &submit.reason, REASON_BYTES_MAX),
    ] {
        if text.len() > bytes_max || text.chars().any(char::is_control) {
            return Err(TuningError::Text { what, bytes_max });
        }
    }
    if let Some(to) = &submit.to {
        params_of(to).validate()?;
    }
    if submit.supersede { Ok(()) } else { settled(now) }
}

#[cfg(test)]
mod tests {
    use autotune::{Params, Timing};
    use proto::log::command::Op;
    use proto::log::{Command, Member};

    use super::*;
    use crate::{Limits, Response, State, StateError, StateParts};

    fn target(heartbeat_ms: u64, election_ms: u64) -> TuningParams {
        params_said(&Params {
            timing: Timing {
                heartbeat_interval_us: heartbeat_ms * 1_000,
                election_timeout_us: election_ms * 1_000,
            },
            ..Params::default()
        })
    }

    fn submit(expected_epoch: u64, to: Option<TuningParams>) -> TuningSubmit {
        TuningSubmit { expected_epoch, to, planner: "test".to_owned(), ..TuningSubmit::default() }
    }

    fn apply(state: &mut State, op: Op) -> Result<Response, StateError> {
        let (index, term) = state.applied();
        state.apply(index + 1, term, &Command { id: None, op: Some(op) }).result
    }

    fn try_submit(state: &mut State, submit: TuningSubmit) -> Result<Response, StateError> {
        apply(state, Op::TuningSubmit(submit))
    }

    fn step(state: &mut State, epoch: u64, phase: Phase) -> Result<Response, StateError> {
        apply(state, Op::TuningAdvance(TuningAdvance { epoch, phase: phase as u32 }))
    }

    fn settle(state: &mut State, epoch: u64) {
        for phase in &Phase::ALL[..4] {
            step(state, epoch, *phase).expect("the next step");
        }
    }

    #[test]
    fn a_plan_goes_through_its_phases_one_by_one_and_each_once() {
        let mut state = State::new(Limits::default());
        let to = target(25, 315);
        assert_eq!(try_submit(&mut state, submit(0, Some(to))), Ok(Response::Tuning { epoch: 1 }));
        assert_eq!(plan_of(state.tuning()).phase, Phase::Raise);
        assert!(step(&mut state, 1, Phase::Beat).is_err());
        assert!(step(&mut state, 2, Phase::Raise).is_err());
        assert!(step(&mut state, 1, Phase::Raise).is_ok());
        let again = step(&mut state, 1, Phase::Raise).unwrap_err().to_string();
        assert_eq!(again, "step from 1 of epoch 1 is not due: epoch 1 is in beat");
        for phase in [Phase::Beat, Phase::Lease, Phase::Settle] {
            assert!(step(&mut state, 1, phase).is_ok());
        }
        assert!(step(&mut state, 1, Phase::Settled).is_err());
        assert_eq!(plan_of(state.tuning()).in_force(&Params::default()), params_of(&to));
    }

    #[test]
    fn what_may_not_be_is_refused_with_the_reason_and_nothing_changes() {
        let mut state = State::new(Limits::default());
        try_submit(&mut state, submit(0, Some(target(25, 315)))).expect("a plan");
        let before = state.tuning().clone();
        let mut long = submit(1, None);
        long.supersede = true;
        long.reason = "x".repeat(REASON_BYTES_MAX + 1);
        for (bad, line) in [
            (
                submit(0, Some(target(25, 315))),
                "plan was made upon epoch 0, but the newest plan has epoch 1",
            ),
            (
                submit(1, Some(target(100, 499))),
                "plan is not legal: election timeout of 499000 µs is less than 5 heartbeat \
                 intervals of 100000 µs",
            ),
            (
                submit(1, Some(target(25, 50_001))),
                "plan is not legal: election timeout of 50001000 µs is above 50000000 µs",
            ),
            (submit(1, None), "plan of epoch 1 has not settled: it is in phase raise"),
            (long, "reason of a plan is not one line of at most 256 bytes"),
        ] {
            assert_eq!(try_submit(&mut state, bad).unwrap_err().to_string(), line);
        }
        assert_eq!(*state.tuning(), before);
    }

    #[test]
    fn a_plan_on_its_way_gives_way_to_one_that_says_so() {
        let mut state = State::new(Limits::default());
        try_submit(&mut state, submit(0, Some(target(250, 2_500)))).expect("a plan");
        step(&mut state, 1, Phase::Raise).expect("a step");
        let back = TuningSubmit { supersede: true, ..submit(1, None) };
        assert_eq!(try_submit(&mut state, back), Ok(Response::Tuning { epoch: 2 }));
        let plan = plan_of(state.tuning());
        // Some may have 250 ms between heartbeats by now.
        assert_eq!(plan.in_force(&Params::default()).timing.election_timeout_us, 2_500_000);
        assert!(state.tuning().past.is_empty(), "it never settled");
    }

    #[test]
    fn plans_that_settled_are_remembered_the_newest_first_up_to_five() {
        let mut state = State::new(Limits::default());
        for epoch in 0..7 {
            let to = target(25, 315 + epoch);
            try_submit(&mut state, submit(epoch, Some(to))).expect("a plan");
            settle(&mut state, epoch + 1);
        }
        let epochs: Vec<u64> = state.tuning().past.iter().map(|past| past.epoch).collect();
        assert_eq!(epochs, [6, 5, 4, 3, 2]);
        assert_eq!(state.tuning().past[0].to, Some(target(25, 320)));
    }

    #[test]
    fn a_plan_is_part_of_the_state_and_of_no_other_cluster() {
        let mut state = State::new(Limits::default());
        assert!(state.publish().rows().is_empty());
        try_submit(&mut state, submit(0, Some(target(25, 315)))).expect("a plan");
        step(&mut state, 1, Phase::Raise).expect("a step");
        let mut parts = state.publish().parts();
        let restored = State::from_parts(parts.clone(), Limits::default()).expect("parts");
        assert_eq!(restored.tuning(), state.tuning());
        parts.set_members(vec![Member { id: 1, ..Member::default() }]);
        let other = State::from_parts(parts, Limits::default()).expect("parts");
        assert_eq!(other.tuning().epoch, 0);
    }

    #[test]
    fn a_damaged_plan_is_no_part_of_a_state() {
        let mut state = State::new(Limits::default());
        try_submit(&mut state, submit(0, Some(target(25, 315)))).expect("a plan");
        let row = state.publish().rows().remove(0);
        let mut illegal = state.tuning().clone();
        illegal.to = Some(target(100, 100));
        let mut nowhere = state.tuning().clone();
        nowhere.phase = 9;
        for rows in [
            vec![Row { key: b"other".to_vec(), ..row.clone() }],
            vec![Row { value: vec![0xff], ..row.clone() }],
            vec![row.clone(), row],
            vec![row_of(&illegal)],
            vec![row_of(&nowhere)],
        ] {
            let mut parts = StateParts::new_cluster(&[]);
            parts.rows = rows;
            assert!(State::from_parts(parts, Limits::default()).is_err());
        }
    }

    #[test]
    fn a_plan_of_a_form_that_is_not_read_here_is_met_with_a_stop_and_one_of_the_past_with_nothing()
    {
        let mut older = State::new(Limits { plan_format: 1, ..Limits::default() });
        let bounds = autotune::BatchBounds { compression: false, ..Default::default() };
        let plain = params_said(&Params { bounds, ..params_of(&target(25, 315)) });
        let command = |to| Command { id: None, op: Some(Op::TuningSubmit(submit(0, Some(to)))) };
        assert_eq!(older.check_format(&command(target(25, 315))), Ok(()));
        assert_eq!(
            older.check_format(&command(plain)).unwrap_err().to_string(),
            "a plan of timing has format 2, and this version reads formats up to 1: run a version that \
             reads it"
        );
        // A form that nobody here has heard of, and what it says besides means nothing.
        let strange = TuningParams { format: 9, ..target(25, 315) };
        assert!(State::new(Limits::default()).check_format(&command(strange)).is_err());
        let restored = |state: &mut State, knows| {
            let parts = state.publish().parts();
            let limits = Limits { plan_format: knows, ..Limits::default() };
            State::from_parts(parts, limits).map(drop).map_err(|error| error.to_string())
        };
        let mut state = State::new(Limits::default());
        assert!(state.check_format(&command(plain)).is_ok());
        try_submit(&mut state, submit(0, Some(plain))).expect("a plan");
        settle(&mut state, 1);
        assert!(restored(&mut state, 1).unwrap_err().contains("format 2"));
        assert_eq!(restored(&mut state, 2), Ok(()));
        try_submit(&mut state, submit(1, Some(target(25, 315)))).expect("a plan");
        assert!(restored(&mut state, 1).is_err(), "leaders still use the one before");
        settle(&mut state, 2);
        assert_eq!(restored(&mut state, 1), Ok(()));
        assert_eq!(try_submit(&mut older, submit(0, None)), Ok(Response::Tuning { epoch: 1 }));
    }

    #[test]
    fn nobody_joins_while_a_plan_is_on_its_way_and_everybody_may_leave() {
        let mut state = State::new(Limits::default());
        let change = |kind: Kind, id| MembershipChange {
            id: None,
            kind: kind.into(),
            member: Some(Member { id, ..Member::default() }),
        };
        for id in [1, 2] {
            state.apply_membership(id, 1, &change(Kind::AddVoter, id)).expect("a member");
        }
        state.apply_membership(3, 1, &change(Kind::AddLearner, 3)).expect("a learner");
        try_submit(&mut state, submit(0, Some(target(25, 315)))).expect("a plan");
        for (kind, id) in [(Kind::AddVoter, 9), (Kind::AddLearner, 9), (Kind::Promote, 3)] {
            let refusal = state.apply_membership(5, 1, &change(kind, id)).unwrap_err();
            let line = "plan of epoch 1 has not settled: it is in phase raise";
            assert!(refusal.to_string() == line || kind == Kind::AddLearner, "{refusal}");
        }
        assert!(state.apply_membership(6, 1, &change(Kind::Remove, 2)).is_ok());
        settle(&mut state, 1);
        assert!(state.apply_membership(20, 1, &change(Kind::Promote, 3)).is_ok());
    }
}
