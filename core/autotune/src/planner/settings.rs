//! What the owner of a cluster asks for: how short, within which bounds, and how carefully.

use thiserror::Error;

use crate::{
    BatchBounds, ELECTION_TIMEOUT_US_MAX, HEARTBEAT_INTERVAL_US_MIN, HEARTBEATS_PER_ELECTION_MIN,
    Params, ParamsError, Timing,
};

/// No bound lets an election timeout below this: a throttled container stands still for as long.
pub const ELECTION_US_FLOOR: u64 = 100_000;

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

    /// An election timeout holds at least this many round trips. Of three voters two divide the
    /// vote in about one of so many elections.
    pub fn round_trips(self) -> u64 {
        match self {
            Policy::Latency => 5,
            Policy::Balanced => 10,
            Policy::Stability => 20,
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
            heartbeat_us_max: 5_000_000,
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
