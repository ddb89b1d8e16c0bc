//! What a plan says, and what of it is in force while it is carried out.
//!
//! A new heartbeat interval H, election timeout E and lease length L never take effect at once, for
//! members learn of them at different times. Whatever mixture of old and new the members are in, three
//! things must hold: every E is at least five times every H, since any member may lead; a lease ends
//! before any voter would elect another; and nobody's wait ends early. One order gives all three,
//! whether a value rises or falls, and each step begins when every voter has confirmed the one before:
//!
//! ```text
//! Raise   E_i := max(E_old, E_new)
//! Beat    H   := H_new, and the bounds of batching
//! Lease   L   := L_new
//! Settle  E_i := E_new
//! Settled every voter has confirmed
//! ```
//!
//! Every phase is a legal place to rest for ever: whoever drives may die at any moment.
//!
//! A plan may be submitted while another is on its way (the way out of one that cannot end, because a
//! voter is gone). Members may then be anywhere between two phases, so the new plan begins from the
//! [`Origin`]: what leaders use now, and the longest E anybody may still have.

use thiserror::Error;

use crate::{ENTRY_COMMANDS_CEILING, LINGER_US_MAX, Timing, TimingError};

/// A lease is at most so many hundredths of the election timeout: the rest is for clocks that drift
/// and for the tick in which a voter's patience ends.
pub const LEASE_PERCENT_MAX: u64 = 80;
/// Least and most of [`BatchBounds::message_bytes_max`].
pub const MESSAGE_BYTES_FLOOR: u64 = 1 << 10;
/// See [`MESSAGE_BYTES_FLOOR`].
pub const MESSAGE_BYTES_CEILING: u64 = 32 << 20;
/// Most of [`BatchBounds::inflight_messages_max`].
pub const INFLIGHT_MESSAGES_CEILING: u64 = 4_096;
/// Most of [`BatchBounds::inflight_bytes_max`].
pub const INFLIGHT_BYTES_CEILING: u64 = 1 << 30;

/// The newest form of a plan this version reads. Whoever gives [`Params`] a field that a plan can set
/// raises it and says in [`Params::format`] which plans need the new form.
pub const PLAN_FORMAT: u32 = 2;
/// The form every version reads, also those that say nothing of forms.
pub const PLAN_FORMAT_BASE: u32 = 1;

/// Everything a plan sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Params {
    /// Heartbeats and election timeout.
    pub timing: Timing,
    /// How long a leader may answer reads by itself after a quorum was heard; 0: never.
    pub lease_us: u64,
    /// Within which a leader adapts by itself.
    pub bounds: BatchBounds,
}

/// The room in which a leader moves its own batching, by itself and at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct BatchBounds {
    /// Commands in one raft entry.
    pub batch_commands_max: u64,
    /// Longest wait of a batch for company.
    pub linger_us_max: u64,
    /// Entry bytes in one append message.
    pub message_bytes_max: u64,
    /// Append messages on their way to one follower.
    pub inflight_messages_max: u64,
    /// Their bytes.
    pub inflight_bytes_max: u64,
    /// Whether messages may be compressed on their way to a follower.
    #[cfg_attr(feature = "serde", serde(default = "yes"))]
    pub compression: bool,
}

#[cfg(feature = "serde")]
fn yes() -> bool {
    true
}

impl Default for BatchBounds {
    fn default() -> Self {
        BatchBounds {
            batch_commands_max: 4_096,
            linger_us_max: 2_000,
            message_bytes_max: 1 << 20,
            inflight_messages_max: 256,
            inflight_bytes_max: 64 << 20,
            compression: true,
        }
    }
}

impl Params {
    /// The oldest form that says all of this. A plan is written in it, so that a member of an older
    /// version keeps nobody from a plan it would understand.
    #[must_use]
    pub fn format(&self) -> u32 {
        if self.bounds.compression { PLAN_FORMAT_BASE } else { 2 }
    }

    /// Accepts the values, or says in one line which rule they break.
    pub fn validate(&self) -> Result<(), ParamsError> {
        let Params { timing, lease_us, bounds } = *self;
        timing.validate()?;
        let election_us = timing.election_timeout_us;
        if lease_us > election_us / 100 * LEASE_PERCENT_MAX {
            return Err(ParamsError::Lease { lease_us, election_us });
        }
        let BatchBounds {
            batch_commands_max,
            linger_us_max,
            message_bytes_max,
            inflight_messages_max,
            inflight_bytes_max,
            compression: _,
        } = bounds;
        let within = |name, value, min, max| {
            if (min..=max).contains(&value) {
                Ok(())
            } else {
                Err(ParamsError::Bound { name, value, min, max })
            }
        };
        within("commands in a batch", batch_commands_max, 1, ENTRY_COMMANDS_CEILING)?;
        within("linger in µs", linger_us_max, 0, LINGER_US_MAX)?;
        within(
            "bytes in a message",
            message_bytes_max,
            MESSAGE_BYTES_FLOOR,
            MESSAGE_BYTES_CEILING,
        )?;
        within("messages in flight", inflight_messages_max, 1, INFLIGHT_MESSAGES_CEILING)?;
        within("bytes in flight", inflight_bytes_max, message_bytes_max, INFLIGHT_BYTES_CEILING)
    }
}

/// Why [`Params`] were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ParamsError {
    /// Heartbeat or election timeout.
    #[error(transparent)]
    Timing(#[from] TimingError),
    /// A lease that could outlive the patience of a voter.
    #[error(
        "lease of {lease_us} µs is longer than {LEASE_PERCENT_MAX} % of the election timeout of \
         {election_us} µs"
    )]
    Lease {
        /// The lease given.
        lease_us: u64,
        /// The election timeout given.
        election_us: u64,
    },
    /// A bound of batching.
    #[error("{name}: {value} is not within {min} to {max}")]
    Bound {
        /// What is bounded.
        name: &'static str,
        /// The value refused.
        value: u64,
        /// Least.
        min: u64,
        /// Most.
        max: u64,
    },
}

/// How far a plan has been carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Election timeouts rise, if they are to.
    Raise = 1,
    /// Heartbeats change.
    Beat = 2,
    /// Leases change.
    Lease = 3,
    /// Election timeouts fall, if they are to.
    Settle = 4,
    /// All voters have confirmed [`Phase::Settle`].
    Settled = 5,
}

impl Phase {
    /// All of them, in order.
    pub const ALL: [Phase; 5] =
        [Phase::Raise, Phase::Beat, Phase::Lease, Phase::Settle, Phase::Settled];

    /// The one after it, if it is not the last.
    pub fn next(self) -> Option<Phase> {
        Phase::ALL.into_iter().find(|phase| *phase > self)
    }

    /// The phase of a number.
    pub fn of(number: u64) -> Option<Phase> {
        Phase::ALL.into_iter().find(|phase| *phase as u64 == number)
    }

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Raise => "raise",
            Phase::Beat => "beat",
            Phase::Lease => "lease",
            Phase::Settle => "settle",
            Phase::Settled => "settled",
        }
    }
}

/// What was in force when a plan was submitted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// What leaders use; `None`: each member what its own flags say.
    pub params: Option<Params>,
    /// Some member may still have an election timeout as long as this.
    pub election_us_min: u64,
    /// Some member may still have the one of its own flags.
    pub flags: bool,
}

/// A plan on its way through the cluster, or arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Grows with every plan of a cluster; 0: there was none.
    pub epoch: u64,
    /// How far it has come.
    pub phase: Phase,
    /// Where it began.
    pub from: Origin,
    /// Where it leads; `None`: back to each member's own flags.
    pub to: Option<Params>,
}

impl Default for Plan {
    /// No plan: everybody's own flags.
    fn default() -> Self {
        Plan { epoch: 0, phase: Phase::Settled, from: Origin::default(), to: None }
    }
}

impl Plan {
    /// The plan after this one.
    pub fn succeeded_by(&self, to: Option<Params>) -> Plan {
        let from = match self.phase {
            Phase::Settled => Origin { params: self.to, ..Origin::default() },
            Phase::Raise => {
                Origin { params: self.from.params, ..self.longest_election(self.from.params) }
            }
            Phase::Beat | Phase::Lease | Phase::Settle => {
                Origin { params: self.to, ..self.longest_election(self.to) }
            }
        };
        Plan { epoch: self.epoch + 1, phase: Phase::Raise, from, to }
    }

    fn longest_election(&self, leaders: Option<Params>) -> Origin {
        let of = |params: Option<Params>| params.map_or(0, |p| p.timing.election_timeout_us);
        Origin {
            params: leaders,
            election_us_min: of(self.from.params).max(of(self.to)).max(self.from.election_us_min),
            flags: self.from.flags || self.from.params.is_none() || self.to.is_none(),
        }
    }

    /// What a member uses whose own flags say `own`.
    pub fn in_force(&self, own: &Params) -> Params {
        let from = self.from.params.unwrap_or(*own);
        let to = self.to.unwrap_or(*own);
        let beats = if self.phase >= Phase::Beat { to } else { from };
        let election_timeout_us = if self.phase >= Phase::Settle {
            to.timing.election_timeout_us
        } else {
            let flags_us = if self.from.flags { own.timing.election_timeout_us } else { 0 };
            from.timing
                .election_timeout_us
                .max(to.timing.election_timeout_us)
                .max(self.from.election_us_min)
                .max(flags_us)
        };
        Params {
            timing: Timing {
                heartbeat_interval_us: beats.timing.heartbeat_interval_us,
                election_timeout_us,
            },
            lease_us: if self.phase >= Phase::Lease { to.lease_us } else { from.lease_us },
            bounds: beats.bounds,
        }
    }
}

impl Plan {
    /// How long after the last voter has confirmed [`Phase::Lease`] a lease of before may still run.
    pub fn lease_before_us(&self) -> u64 {
        // Behind a plan that was given up there may be a lease as long as its election timeout allows.
        let given_up_us = self.from.election_us_min / 100 * LEASE_PERCENT_MAX;
        self.from.params.map_or(0, |params| params.lease_us).max(given_up_us)
    }

    /// Whether the phase may be left although a voter has not confirmed it: only where timeouts rise
    /// alone, and never to a longer lease.
    pub fn may_leave_absent_behind(&self, own: &Params) -> bool {
        let before = Plan { phase: Phase::Raise, ..*self }.in_force(own);
        let after = Plan { phase: Phase::Settled, ..*self }.in_force(own);
        before.timing.election_timeout_us == after.timing.election_timeout_us
            && (self.phase != Phase::Beat || after.lease_us <= before.lease_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(heartbeat_ms: u64, election_ms: u64, lease_ms: u64) -> Params {
        Params {
            timing: Timing {
                heartbeat_interval_us: heartbeat_ms * 1_000,
                election_timeout_us: election_ms * 1_000,
            },
            lease_us: lease_ms * 1_000,
            bounds: BatchBounds::default(),
        }
    }

    /// Every state a member can be in while `plan` is carried out: that of any phase up to the one
    /// reached, or still that of the plan before.
    fn reachable(history: &[Plan]) -> Vec<Plan> {
        let newest = history[history.len() - 1];
        let reached = Phase::ALL.into_iter().filter(|phase| *phase <= newest.phase);
        let mut states: Vec<Plan> = reached.map(|phase| Plan { phase, ..newest }).collect();
        // The barrier: all voters were at the phase before when this one began.
        let behind = states.len().saturating_sub(2);
        states.drain(..behind);
        if newest.phase == Phase::Raise {
            states.extend(history[..history.len() - 1].last());
        }
        states
    }

    #[test]
    fn in_every_phase_each_election_timeout_holds_five_heartbeats_of_any_leader() {
        let flags = [params(100, 1_000, 0), params(50, 500, 0), params(25, 125, 0)];
        let targets = [
            None,
            Some(params(25, 315, 200)),
            Some(params(250, 2_500, 1_900)),
            Some(params(100, 1_000, 760)),
            Some(params(1_000, 5_000, 0)),
        ];
        for own in flags {
            for first in targets {
                for stopped_at in Phase::ALL {
                    for second in targets {
                        for phase in Phase::ALL {
                            let settled = Plan::default();
                            let one = Plan { phase: stopped_at, ..settled.succeeded_by(first) };
                            let two = Plan { phase, ..one.succeeded_by(second) };
                            legal(&reachable(&[settled, one]), &own);
                            // Behind a plan that was given up, members lag by one phase of it.
                            let mut behind = reachable(&[settled, one]);
                            if phase > Phase::Raise {
                                behind.clear();
                            }
                            behind.extend(reachable(&[one, two]));
                            legal(&behind, &own);
                        }
                    }
                }
            }
        }
    }

    fn legal(states: &[Plan], own: &Params) {
        for a in states {
            for b in states {
                let (leader, voter) = (a.in_force(own), b.in_force(own));
                let timing = Timing {
                    heartbeat_interval_us: leader.timing.heartbeat_interval_us,
                    election_timeout_us: voter.timing.election_timeout_us,
                };
                assert_eq!(timing.validate(), Ok(()), "{a:?} leads {b:?}");
                assert!(
                    leader.lease_us * 100 < voter.timing.election_timeout_us * 99,
                    "{a:?} leads {b:?}"
                );
            }
        }
    }

    #[test]
    fn a_settled_plan_is_in_force_as_it_was_asked_for() {
        let own = params(100, 1_000, 0);
        let to = params(25, 315, 200);
        let plan = Plan { phase: Phase::Settled, ..Plan::default().succeeded_by(Some(to)) };
        assert_eq!(plan.in_force(&own), to);
        let back = Plan { phase: Phase::Settled, ..plan.succeeded_by(None) };
        assert_eq!(back.in_force(&own), own);
        assert_eq!((plan.epoch, back.epoch), (1, 2));
    }

    #[test]
    fn only_a_raise_leaves_the_absent_behind_and_never_to_a_longer_lease() {
        let own = params(100, 1_000, 0);
        let at = |from: Option<Params>, to: Params, phase| {
            let settled = Plan { phase: Phase::Settled, ..Plan::default().succeeded_by(from) };
            Plan { phase, ..settled.succeeded_by(Some(to)) }.may_leave_absent_behind(&own)
        };
        let (short, long) = (params(25, 315, 0), params(250, 2_500, 0));
        for phase in [Phase::Raise, Phase::Beat, Phase::Lease, Phase::Settle] {
            assert!(at(None, long, phase));
            assert!(!at(None, short, phase));
            assert!(!at(Some(long), own, phase));
        }
        let leased = params(250, 2_500, 1_900);
        assert!(at(None, leased, Phase::Raise));
        assert!(!at(None, leased, Phase::Beat));
        assert!(at(Some(params(25, 315, 200)), long, Phase::Beat));
    }

    #[test]
    fn what_breaks_a_rule_is_refused_by_name() {
        assert_eq!(Params::default().validate(), Ok(()));
        let line = params(25, 315, 253).validate().unwrap_err().to_string();
        assert_eq!(
            line,
            "lease of 253000 µs is longer than 80 % of the election timeout of 315000 µs"
        );
        assert!(params(25, 315, 252).validate().is_ok());
        assert!(params(64, 315, 0).validate().is_err());
        let wide = BatchBounds { inflight_messages_max: 4_097, ..BatchBounds::default() };
        let line = Params { bounds: wide, ..Params::default() }.validate().unwrap_err().to_string();
        assert_eq!(line, "messages in flight: 4097 is not within 1 to 4096");
    }

    #[test]
    fn a_plan_takes_the_oldest_form_that_says_it() {
        assert_eq!(Params::default().format(), PLAN_FORMAT_BASE);
        let plain = BatchBounds { compression: false, ..BatchBounds::default() };
        assert_eq!(Params { bounds: plain, ..Params::default() }.format(), PLAN_FORMAT);
    }

    #[test]
    fn phases_have_an_order_and_an_end() {
        let mut phase = Phase::Raise;
        let mut seen = vec![phase];
        while let Some(next) = phase.next() {
            phase = next;
            seen.push(phase);
        }
        assert_eq!(seen, Phase::ALL);
        assert!(Phase::ALL.iter().all(|p| Phase::of(*p as u64) == Some(*p)));
        assert_eq!(Phase::of(0), None);
    }
}
