//! What the owner of a cluster asks for: how short, within which bounds, and how carefully.

use thiserror::Error;

use crate::{
    BatchBounds, ELECTION_TIMEOUT_US_MAX, ENTRY_COMMANDS_CEILING, HEARTBEAT_INTERVAL_US_MIN,
    HEARTBEATS_PER_ELECTION_MIN, INFLIGHT_BYTES_CEILING, INFLIGHT_MESSAGES_CEILING, LINGER_US_MAX,
    MESSAGE_BYTES_CEILING, Params, ParamsError, Timing,
};

/// No bound lets an election timeout below this: a throttled container stands still for as long.
pub const ELECTION_US_FLOOR: u64 = 100_000;

/// No plan sets a longer heartbeat interval: longer ones serve no network.
const HEARTBEAT_US_CEILING: u64 = 5_000_000;

/// How failover time is weighed against needless elections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Short failovers; a needless election now and then is borne.
    Latency,
    /// Short failovers where the network lets them, few needless elections everywhere.
    #[default]
    Balanced,
    /// As few needless elections as can be.
    Stability,
}

impl Policy {
    /// All of them.
    pub const ALL: [Policy; 3] = [Policy::Latency, Policy::Balanced, Policy::Stability];

    /// An election timeout holds at least this many round trips. An election that goes well takes three,
    /// and two candidates that meet do not divide the vote: one gives way (ADR 35).
    pub fn round_trips(self) -> u64 {
        match self {
            Policy::Latency => 2,
            Policy::Balanced => 3,
            Policy::Stability => 10,
        }
    }

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Policy::Latency => "latency",
            Policy::Balanced => "balanced",
            Policy::Stability => "stability",
        }
    }

    /// The policy of a word.
    pub fn of(word: &str) -> Option<Policy> {
        Policy::ALL.into_iter().find(|policy| policy.as_str() == word)
    }
}

/// Whether anything is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Plans are recommended.
    #[default]
    Observe,
    /// Plans are applied.
    Auto,
}

/// Between what every plan stays, whatever was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Shortest heartbeat interval.
    pub heartbeat_us_min: u64,
    /// Longest heartbeat interval.
    pub heartbeat_us_max: u64,
    /// Shortest election timeout.
    pub election_us_min: u64,
    /// Longest election timeout.
    pub election_us_max: u64,
    /// Widest bounds of batching a plan may set.
    pub batching: BatchBounds,
}

impl Bounds {
    /// The bounds a policy has if nothing else is said.
    pub fn of(policy: Policy) -> Bounds {
        Bounds {
            heartbeat_us_min: 25_000,
            heartbeat_us_max: HEARTBEAT_US_CEILING,
            election_us_min: if policy == Policy::Latency { 150_000 } else { 300_000 },
            election_us_max: 10_000_000,
            batching: BatchBounds { inflight_messages_max: 4_096, ..BatchBounds::default() },
        }
    }

    /// Accepts the bounds, or says in one line what is wrong with them.
    pub fn validate(&self) -> Result<(), BoundsError> {
        let Bounds {
            heartbeat_us_min,
            heartbeat_us_max,
            election_us_min,
            election_us_max,
            batching,
        } = *self;
        let wrong = |name, value, rule| Err(BoundsError::Value { name, value, rule });
        if heartbeat_us_min < HEARTBEAT_INTERVAL_US_MIN {
            return wrong("least heartbeat interval in µs", heartbeat_us_min, "below 1 ms");
        }
        if heartbeat_us_min > heartbeat_us_max {
            return wrong("least heartbeat interval in µs", heartbeat_us_min, "above the greatest");
        }
        if election_us_min < ELECTION_US_FLOOR {
            return wrong("least election timeout in µs", election_us_min, "below 100 ms");
        }
        if election_us_min > election_us_max {
            return wrong("least election timeout in µs", election_us_min, "above the greatest");
        }
        if election_us_max > ELECTION_TIMEOUT_US_MAX {
            return wrong("greatest election timeout in µs", election_us_max, "above 50 s");
        }
        if heartbeat_us_min > election_us_min / HEARTBEATS_PER_ELECTION_MIN {
            return wrong(
                "least election timeout in µs",
                election_us_min,
                "less than 5 of the least heartbeat intervals",
            );
        }
        Params { timing: Timing::default(), lease_us: 0, bounds: batching }.validate()?;
        Ok(())
    }

    /// The widest that any owner may set: what every plan must lie within, whoever submits it.
    pub fn widest() -> Bounds {
        Bounds {
            heartbeat_us_min: HEARTBEAT_INTERVAL_US_MIN,
            heartbeat_us_max: HEARTBEAT_US_CEILING,
            election_us_min: ELECTION_US_FLOOR,
            election_us_max: ELECTION_TIMEOUT_US_MAX,
            batching: BatchBounds {
                batch_commands_max: ENTRY_COMMANDS_CEILING,
                linger_us_max: LINGER_US_MAX,
                message_bytes_max: MESSAGE_BYTES_CEILING,
                inflight_messages_max: INFLIGHT_MESSAGES_CEILING,
                inflight_bytes_max: INFLIGHT_BYTES_CEILING,
                compression: true,
            },
        }
    }

    /// Accepts a plan that keeps the rules and lies within the timings, or says in one line which it
    /// breaks.
    pub fn check(&self, params: &Params) -> Result<(), ParamsError> {
        params.validate()?;
        let Timing { heartbeat_interval_us, election_timeout_us } = params.timing;
        for (name, value, min, max) in [
            (
                "heartbeat interval in µs",
                heartbeat_interval_us,
                self.heartbeat_us_min,
                self.heartbeat_us_max,
            ),
            (
                "election timeout in µs",
                election_timeout_us,
                self.election_us_min,
                self.election_us_max,
            ),
        ] {
            if !(min..=max).contains(&value) {
                return Err(ParamsError::Bound { name, value, min, max });
            }
        }
        Ok(())
    }

    /// Whether a plan lies within them.
    pub fn hold(&self, params: &Params) -> bool {
        let (timing, batching) = (&params.timing, &params.bounds);
        let most = &self.batching;
        (self.heartbeat_us_min..=self.heartbeat_us_max).contains(&timing.heartbeat_interval_us)
            && (self.election_us_min..=self.election_us_max).contains(&timing.election_timeout_us)
            && batching.batch_commands_max <= most.batch_commands_max
            && batching.linger_us_max <= most.linger_us_max
            && batching.message_bytes_max <= most.message_bytes_max
            && batching.inflight_messages_max <= most.inflight_messages_max
            && batching.inflight_bytes_max <= most.inflight_bytes_max
            && (most.compression || !batching.compression)
    }
}

/// Why [`Bounds`] were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BoundsError {
    /// One of the timings.
    #[error("{name}: {value} is {rule}")]
    Value {
        /// What is wrong.
        name: &'static str,
        /// The value refused.
        value: u64,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// One of batching.
    #[error(transparent)]
    Batching(#[from] ParamsError),
}

/// How careful the planner is before it moves anything, and afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guards {
    /// Time between two evaluations; those in between decide nothing that has to be sustained.
    pub evaluation_ms: u64,
    /// Evaluations in a row that must ask for a shorter timeout.
    pub sustain_evaluations: u32,
    /// After a plan nothing is raised for this long.
    pub raise_cooldown_ms: u64,
    /// After a plan nothing is lowered for this long; doubles with every plan that was taken back.
    pub cooldown_ms: u64,
    /// Up to which it doubles.
    pub cooldown_ms_max: u64,
    /// A lowered plan is watched for this long, and for 60 election timeouts at least.
    pub verify_ms: u64,
    /// Samples of a pair below which it is unknown.
    pub samples_min: u64,
    /// Samples of each pair, in both directions, for a shorter timeout.
    pub lower_samples_min: u64,
    /// A row that is older is missing.
    pub row_age_ms_max: u64,
    /// With an older one nothing is lowered.
    pub lower_row_age_ms_max: u64,
    /// The timeout is raised when so many hundredths more of it are needed.
    pub raise_percent: u64,
    /// And lowered when at least so many hundredths of it can be spared.
    pub lower_percent: u64,
    /// Plans in an hour.
    pub plans_per_hour: usize,
    /// Plans taken back within a day after which nothing is done any more.
    pub rollbacks_per_day: usize,
    /// A member that booted more recently is not blamed for elections.
    pub warm_up_ms: u64,
}

impl Default for Guards {
    fn default() -> Self {
        Guards {
            evaluation_ms: 30_000,
            sustain_evaluations: 10,
            raise_cooldown_ms: 30_000,
            cooldown_ms: 600_000,
            cooldown_ms_max: 6 * 3_600_000,
            verify_ms: 120_000,
            samples_min: 50,
            lower_samples_min: 300,
            row_age_ms_max: 60_000,
            lower_row_age_ms_max: 30_000,
            raise_percent: 15,
            lower_percent: 30,
            plans_per_hour: 6,
            rollbacks_per_day: 3,
            warm_up_ms: 300_000,
        }
    }
}

/// Everything the owner says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether plans are applied.
    pub mode: Mode,
    /// Nothing changes while this is on.
    pub paused: bool,
    /// How failover time is weighed against needless elections.
    pub policy: Policy,
    /// Between what every plan stays.
    pub bounds: Bounds,
    /// How careful to be.
    pub guards: Guards,
    /// Whether plans give leaders a lease.
    pub leases: bool,
    /// Of a link between members; windows are sized for it.
    pub bandwidth_bytes_per_s: u64,
}

impl Settings {
    /// A policy with its defaults.
    pub fn of(policy: Policy) -> Settings {
        Settings {
            mode: Mode::Observe,
            paused: false,
            policy,
            bounds: Bounds::of(policy),
            guards: Guards::default(),
            leases: false,
            bandwidth_bytes_per_s: 125_000_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_off_the_widest_bounds_is_refused_in_one_line_and_no_policy_leads_there() {
        let widest = Bounds::widest();
        let plan = |heartbeat_interval_us, election_timeout_us| Params {
            timing: Timing { heartbeat_interval_us, election_timeout_us },
            ..Params::default()
        };
        for policy in Policy::ALL {
            let bounds = Bounds::of(policy);
            assert_eq!(
                widest.check(&plan(bounds.heartbeat_us_min, bounds.election_us_min)),
                Ok(())
            );
            let longest = plan(bounds.election_us_max / 5, bounds.election_us_max);
            assert_eq!(widest.check(&longest), Ok(()));
        }
        for (params, line) in [
            (plan(1_000, 99_000), "election timeout in µs: 99000 is not within 100000 to 50000000"),
            (
                plan(6_000_000, 50_000_000),
                "heartbeat interval in µs: 6000000 is not within 1000 to 5000000",
            ),
            (
                plan(100_000, 499_000),
                "election timeout of 499000 µs is less than 5 heartbeat intervals of 100000 µs",
            ),
        ] {
            assert_eq!(widest.check(&params).unwrap_err().to_string(), line);
        }
    }

    #[test]
    fn the_bounds_of_every_policy_are_good_and_bounds_that_contradict_themselves_are_named() {
        for policy in Policy::ALL {
            let good = Bounds::of(policy);
            assert_eq!(good.validate(), Ok(()));
            assert_eq!(Policy::of(policy.as_str()), Some(policy));
            let cases = [
                Bounds { heartbeat_us_min: 999, ..good },
                Bounds { heartbeat_us_min: 6_000_000, ..good },
                Bounds { election_us_min: 99_999, ..good },
                Bounds { election_us_min: 10_000_001, ..good },
                Bounds { election_us_max: 50_000_001, ..good },
                Bounds { heartbeat_us_min: 100_000, ..good },
            ];
            for case in cases {
                let line = case.validate().unwrap_err().to_string();
                assert!(line.contains("in µs: ") && !line.contains('\n'), "{line}");
            }
            let batching = BatchBounds { inflight_messages_max: 4_097, ..good.batching };
            let line = Bounds { batching, ..good }.validate().unwrap_err().to_string();
            assert_eq!(line, "messages in flight: 4097 is not within 1 to 4096");
        }
    }
}
