//! What to do next. Pure: from one [`Observed`] to one [`Plan`].

use autotune::Params;

use crate::crd::MetaStoreStatus;
use crate::decide::decide;
use crate::events::between;
use crate::facts::Facts;
use crate::observed::{Beginning, Observed, Ordinal};
use crate::status::status;
use crate::tune::tune;

/// What one pass decides on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// To carry out, in order; a later one only if those before it succeeded. At most one is
    /// [disruptive](Step::is_disruptive), and it is the last.
    pub steps: Vec<Step>,
    /// What to report. Equal to the status there is where nothing has changed.
    pub status: MetaStoreStatus,
    /// What to tell, for `kubectl describe`.
    pub events: Vec<Event>,
    /// Look again after so many seconds, whatever happens.
    pub again_s: u32,
    /// What tuning says in figures.
    pub tuning: TuningFigures,
}

/// What tuning says in figures, which nobody keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TuningFigures {
    /// Why nothing about the timing is changed.
    pub frozen: Option<&'static str>,
    /// How long clients would wait for a new leader with what is in force, in the model.
    pub predicted_failover_us: Option<u64>,
}

/// One thing to do. Each may be done twice, or be cut short and done again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Bring services, budgets, policies, secrets and monitors to what the spec wants.
    ApplyChildren,
    /// Bring the StatefulSet to so many pods, that begin like this on empty directories.
    ApplyWorkload {
        /// Pods.
        replicas: i32,
        /// How they begin.
        beginning: Beginning,
    },
    /// Ask a claim for more bytes.
    ExpandClaim {
        /// Of whom.
        ordinal: Ordinal,
        /// How many.
        bytes: i64,
    },
    /// Put a row for a pod to come into the member table, without a vote.
    AddLearner {
        /// For whom.
        ordinal: Ordinal,
    },
    /// Give a learner its vote.
    Promote {
        /// Who.
        member_id: u64,
    },
    /// Ask the leader to hand over.
    MoveLeader {
        /// The leader's pod.
        from: Ordinal,
        /// To whom.
        to: u64,
    },
    /// Take a row out of the member table.
    RemoveMember {
        /// Whose.
        member_id: u64,
    },
    /// Delete one pod, this one only; its set makes it anew.
    DeletePod {
        /// Which.
        ordinal: Ordinal,
        /// This one.
        uid: String,
    },
    /// Delete one claim, this one only.
    DeleteClaim {
        /// Whose.
        ordinal: Ordinal,
        /// This one.
        uid: String,
    },
    /// Submit a plan of timing, if the newest one still is the one it was made from. The leader carries
    /// it out, in an order in which every moment is safe.
    SubmitTuning {
        /// Number of the newest plan there is.
        expected_epoch: u64,
        /// What it sets; none: back to the members' flags.
        to: Option<Params>,
        /// Why, in a few words.
        reason: String,
        /// Also while the newest plan has not arrived everywhere.
        supersede: bool,
    },
}

impl Step {
    /// Whether it takes something from the cluster: a leader, a member, a pod, data. Such a step is
    /// decided on twice, the second time from what the API server and the members said just then.
    pub fn is_disruptive(&self) -> bool {
        match self {
            Step::ApplyChildren
            | Step::ExpandClaim { .. }
            | Step::AddLearner { .. }
            | Step::Promote { .. } => false,
            // It may have fewer pods.
            Step::ApplyWorkload { .. }
            | Step::MoveLeader { .. }
            | Step::RemoveMember { .. }
            | Step::DeletePod { .. }
            | Step::DeleteClaim { .. }
            // A shorter patience takes a leader, if what it was decided from no longer holds.
            | Step::SubmitTuning { .. } => true,
        }
    }
}

/// Something that happened, or that the user has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// To be acted on by somebody, or only told.
    pub warning: bool,
    /// In CamelCase, from a fixed set.
    pub reason: &'static str,
    /// One sentence.
    pub note: String,
}

/// Decides.
pub fn plan(observed: &Observed) -> Plan {
    let facts = Facts::of(observed);
    let mut decision = decide(&facts);
    let mut tuned = tune(&facts, &decision);
    let tuning = tuned.figures;
    decision.steps.extend(tuned.step.take());
    decision.again_s = tuned.again_s.map_or(decision.again_s, |s| s.min(decision.again_s));
    let disruptive = decision.steps.iter().position(Step::is_disruptive);
    assert!(
        disruptive.is_none_or(|at| at + 1 == decision.steps.len()),
        "a disruptive step is the last: {:?}",
        decision.steps
    );
    let status = status(&facts, &decision, tuned);
    let events = match &observed.object.status {
        Some(old) => between(old, &status),
        None => between(&MetaStoreStatus::default(), &status),
    };
    Plan { steps: decision.steps, status, events, again_s: decision.again_s, tuning }
}
