//! What the planner says, in words a program can match and a person can read.

use std::fmt;

use super::evidence::Evidence;
use super::target::{Binding, Target};
use crate::Params;

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing.
    Hold {
        /// Why.
        reason: Hold,
    },
    /// Nothing, for that is what was asked for; but this plan would be submitted.
    Recommend {
        /// The plan.
        params: Params,
        /// What for.
        why: Change,
        /// A member that does not know plans is why it cannot be submitted.
        unaware: Option<u64>,
    },
    /// A plan is to be submitted.
    Apply {
        /// The plan.
        params: Params,
        /// What for.
        reason: Change,
    },
    /// The newest plan is to be taken back.
    Rollback {
        /// The last known good one; `None`: each member's own flags.
        to: Option<Params>,
        /// What went wrong.
        reason: Blame,
    },
    /// Nothing, whatever is measured, until something else has ended.
    Frozen {
        /// What.
        reason: Freeze,
    },
}

/// Why nothing is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// The plan in force is the right one.
    Converged,
    /// Fewer than two voters: nobody elects anybody.
    SoleVoter,
    /// Rows of fewer than a majority.
    NoQuorum {
        /// A voter without a fresh row.
        missing: u64,
    },
    /// Not a single pair has samples enough.
    InsufficientSamples,
    /// A shorter timeout wants all voters and all pairs, with many samples, fresh.
    Incomplete {
        /// A voter without a fresh row, or one end of a pair that is not known; 0: samples are few.
        member: u64,
        /// The other end; 0: there is none.
        peer: u64,
    },
    /// A change must be asked for some times in a row.
    Sustaining {
        /// So often it was.
        evaluations: u32,
        /// So often it must be.
        of: u32,
    },
    /// Too soon after the plan before.
    Cooldown {
        /// When that is over.
        until_ms: u64,
    },
    /// Too many plans in an hour.
    RateCap,
    /// A plan was decided on, and has not shown up yet.
    Submitting,
    /// The newest plan is on its way.
    UnderWay,
    /// It has been for long: a voter does not confirm.
    PartialApply,
    /// A lowered plan is being watched.
    Verifying {
        /// Until then.
        until_ms: u64,
    },
}

/// What a change is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A longer timeout is needed.
    Raise(Binding),
    /// Heartbeats needed more than two thirds of the timeout.
    Slack,
    /// Leaders were deposed that were alive.
    FalseElections,
    /// A shorter timeout suffices; what still decides it.
    Lower(Binding),
    /// The timeout stays; heartbeats or batching are to fit what was measured.
    Fit,
}

/// What a plan is blamed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// A leader was deposed that was alive.
    FalseElection,
    /// Heartbeats needed more than two thirds of the timeout.
    Slack,
    /// Under the same load writes take longer.
    SlowWrites,
}

/// What must end before anything changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freeze {
    /// The owner's pause.
    Paused,
    /// A member comes or goes, or learns.
    MembershipChange,
    /// Members are being restarted.
    Upgrade,
    /// The cluster is being restored.
    Restore,
    /// Too many plans were taken back; ends when the owner changes something.
    Unstable,
}

/// Something worth telling, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A voter is far from all others, which are close to each other.
    SlowMember {
        /// Which.
        member: u64,
        /// Its distance from the nearest.
        rtt_us: u64,
        /// Theirs from each other.
        others_us: u64,
    },
    /// A plan has proved itself.
    Verified {
        /// Which.
        epoch: u64,
    },
    /// Leaders were deposed that were alive.
    FalseElections {
        /// How many since the evaluation before.
        count: u64,
    },
}

/// An evaluation: the decision, and what it was made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What is to be done.
    pub decision: Decision,
    /// What the formulas ask for now, before all caution.
    pub target: Option<Target>,
    /// What was read from the rows.
    pub evidence: Option<Evidence>,
    /// How much of the election timeout in force heartbeats need at times, in hundredths.
    pub slack_percent: u64,
    /// How long clients would wait for a new leader with the target, in the model.
    pub failover_us: u64,
    /// And with what is in force.
    pub failover_us_now: u64,
    /// Worth telling.
    pub events: Vec<Event>,
}

impl Decision {
    /// One word, as conditions and columns want it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Decision::Hold { reason } => reason.as_str(),
            Decision::Recommend { unaware: Some(_), .. } => "MixedVersions",
            Decision::Recommend { .. } => "Recommended",
            Decision::Apply { .. } => "Applying",
            Decision::Rollback { .. } => "RollingBack",
            Decision::Frozen { reason } => reason.as_str(),
        }
    }
}

impl Hold {
    /// One word.
    pub fn as_str(self) -> &'static str {
        match self {
            Hold::Converged => "Converged",
            Hold::SoleVoter => "SoleVoter",
            Hold::NoQuorum { .. } => "NoQuorum",
            Hold::InsufficientSamples => "InsufficientSamples",
            Hold::Incomplete { member: 0, .. } => "InsufficientSamples",
            Hold::Incomplete { .. } => "MemberHealth",
            Hold::Sustaining { .. } => "Sustaining",
            Hold::Cooldown { .. } => "Cooldown",
            Hold::RateCap => "RateCap",
            Hold::Submitting => "Submitting",
            Hold::UnderWay => "UnderWay",
            Hold::PartialApply => "PartialApply",
            Hold::Verifying { .. } => "Verifying",
        }
    }
}

impl Freeze {
    /// One word.
    pub fn as_str(self) -> &'static str {
        match self {
            Freeze::Paused => "Paused",
            Freeze::MembershipChange => "MembershipChange",
            Freeze::Upgrade => "Upgrade",
            Freeze::Restore => "Restore",
            Freeze::Unstable => "Unstable",
        }
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hold::Converged => write!(f, "the plan in force fits what is measured"),
            Hold::SoleVoter => write!(f, "with one voter there is nothing to tune"),
            Hold::NoQuorum { missing } => {
                write!(f, "a majority is not heard from: member {missing:x} among others")
            }
            Hold::InsufficientSamples => write!(f, "no two members have measured enough yet"),
            Hold::Incomplete { member: 0, .. } => {
                write!(f, "a shorter timeout wants more and fresher samples of every pair")
            }
            Hold::Incomplete { member, peer: 0 } => {
                write!(f, "no shorter timeout while member {member:x} is not heard from")
            }
            Hold::Incomplete { member, peer } => write!(
                f,
                "no shorter timeout while the distance of {member:x} and {peer:x} is not known"
            ),
            Hold::Sustaining { evaluations, of } => {
                write!(f, "asked for {evaluations} times in a row of {of}")
            }
            Hold::Cooldown { .. } => write!(f, "too soon after the plan before"),
            Hold::RateCap => write!(f, "too many plans in an hour"),
            Hold::Submitting => write!(f, "a plan was submitted and has not shown up yet"),
            Hold::UnderWay => write!(f, "the newest plan is on its way"),
            Hold::PartialApply => write!(f, "a voter does not confirm the newest plan"),
            Hold::Verifying { .. } => write!(f, "the newest plan is being watched"),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Raise(binding) => write!(f, "longer: {}", binding.as_str()),
            Change::Slack => {
                write!(f, "longer: heartbeats need more than two thirds of the timeout")
            }
            Change::FalseElections => write!(f, "longer: leaders were deposed that were alive"),
            Change::Lower(binding) => write!(f, "shorter: {}", binding.as_str()),
            Change::Fit => write!(f, "heartbeats and batching to fit what is measured"),
        }
    }
}

impl fmt::Display for Blame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Blame::FalseElection => "back: a leader was deposed that was alive",
            Blame::Slack => "back: heartbeats need more than two thirds of the timeout",
            Blame::SlowWrites => "back: writes take longer under the same load",
        })
    }
}

impl fmt::Display for Freeze {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Freeze::Paused => "paused",
            Freeze::MembershipChange => "the membership is changing",
            Freeze::Upgrade => "members are being restarted",
            Freeze::Restore => "the cluster is being restored",
            Freeze::Unstable => "too many plans had to be taken back",
        })
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Decision::Hold { reason } => write!(f, "{reason}"),
            Decision::Recommend { why, unaware: None, .. } => write!(f, "{why}"),
            Decision::Recommend { why, unaware: Some(id), .. } => {
                write!(f, "{why}; but member {id:x} does not know plans")
            }
            Decision::Apply { reason, .. } => write!(f, "{reason}"),
            Decision::Rollback { reason, .. } => write!(f, "{reason}"),
            Decision::Frozen { reason } => write!(f, "{reason}"),
        }
    }
}
