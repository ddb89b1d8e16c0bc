//! Heartbeats and the election timeout: the two numbers of which everything else is a consequence.
//!
//! [`Timing`] follows etcd's rules, because etcd's flags and etcd's experience apply: an election
//! timeout below five heartbeats loses leaders to one late packet, one above fifty seconds is a
//! typing error. Timing buys failover time and stability, not throughput: replication is driven by
//! events, never by these clocks.

use thiserror::Error;

/// No heartbeat is sent more often than this.
pub const HEARTBEAT_INTERVAL_US_MIN: u64 = 1_000;
/// An election timeout holds at least this many heartbeats.
pub const HEARTBEATS_PER_ELECTION_MIN: u64 = 5;
/// No election timeout is longer, as in etcd.
pub const ELECTION_TIMEOUT_US_MAX: u64 = 50_000_000;

/// How often a leader speaks up, and how long its silence is borne.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Timing {
    /// Time between two heartbeats of a leader.
    pub heartbeat_interval_us: u64,
    /// Base election timeout; each wait is drawn from one to two of these.
    pub election_timeout_us: u64,
}

impl Default for Timing {
    /// etcd's defaults: 100 ms and 1 s.
    fn default() -> Self {
        Timing { heartbeat_interval_us: 100_000, election_timeout_us: 1_000_000 }
    }
}

impl Timing {
    /// Accepts the pair, or says in one line which rule it breaks.
    pub fn validate(&self) -> Result<(), TimingError> {
        let Timing { heartbeat_interval_us: heartbeat_us, election_timeout_us: election_us } =
            *self;
        if heartbeat_us < HEARTBEAT_INTERVAL_US_MIN {
            return Err(TimingError::HeartbeatTooShort { heartbeat_us });
        }
        if election_us > ELECTION_TIMEOUT_US_MAX {
            return Err(TimingError::ElectionTooLong { election_us });
        }
        // Not multiplied: the heartbeat may be any number.
        if heartbeat_us > election_us / HEARTBEATS_PER_ELECTION_MIN {
            return Err(TimingError::RatioTooSmall { heartbeat_us, election_us });
        }
        Ok(())
    }
}

/// Why a [`Timing`] was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TimingError {
    /// Heartbeats would flood the peers.
    #[error("heartbeat interval of {heartbeat_us} µs is below {HEARTBEAT_INTERVAL_US_MIN} µs")]
    HeartbeatTooShort {
        /// The value refused.
        heartbeat_us: u64,
    },
    /// A dead leader would go unnoticed for too long.
    #[error("election timeout of {election_us} µs is above {ELECTION_TIMEOUT_US_MAX} µs")]
    ElectionTooLong {
        /// The value refused.
        election_us: u64,
    },
    /// One late heartbeat would start an election.
    #[error(
        "election timeout of {election_us} µs is less than {HEARTBEATS_PER_ELECTION_MIN} heartbeat \
         intervals of {heartbeat_us} µs"
    )]
    RatioTooSmall {
        /// The heartbeat interval given.
        heartbeat_us: u64,
        /// The election timeout given.
        election_us: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timing(heartbeat_interval_us: u64, election_timeout_us: u64) -> Timing {
        Timing { heartbeat_interval_us, election_timeout_us }
    }

    #[test]
    fn defaults_obey_their_own_rules() {
        assert_eq!(Timing::default().validate(), Ok(()));
    }

    #[test]
    fn timing_is_accepted_up_to_each_limit_and_refused_one_beyond() {
        assert_eq!(timing(1_000, 5_000).validate(), Ok(()));
        assert_eq!(timing(10_000_000, 50_000_000).validate(), Ok(()));
        assert_eq!(
            timing(999, 50_000).validate(),
            Err(TimingError::HeartbeatTooShort { heartbeat_us: 999 })
        );
        assert_eq!(
            timing(100_000, 50_000_001).validate(),
            Err(TimingError::ElectionTooLong { election_us: 50_000_001 })
        );
        assert_eq!(
            timing(100_000, 499_999).validate(),
            Err(TimingError::RatioTooSmall { heartbeat_us: 100_000, election_us: 499_999 })
        );
        assert_eq!(timing(100_000, 500_000).validate(), Ok(()));
    }

    #[test]
    fn extreme_numbers_are_refused_without_overflow() {
        assert!(timing(u64::MAX, u64::MAX).validate().is_err());
        assert!(timing(u64::MAX, 50_000_000).validate().is_err());
        assert!(timing(0, 0).validate().is_err());
    }

    #[test]
    fn an_error_names_the_values_in_one_line() {
        let line = timing(100_000, 499_999).validate().unwrap_err().to_string();
        assert_eq!(
            line,
            "election timeout of 499999 µs is less than 5 heartbeat intervals of 100000 µs"
        );
        assert!(!line.contains('\n'));
    }
}
