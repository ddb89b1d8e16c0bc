//! Which timing and which batching a member uses, and the rules every choice obeys.
//!
//! Whoever chooses (a flag, an operator, a tuner), the member itself checks: nothing in the
//! safety of the cluster may rest on the chooser being right. So the types live here with their
//! rules, and every door through which a value enters calls `validate`.
//!
//! [`Timing`] follows etcd's rules, because etcd's flags and etcd's experience apply: an election
//! timeout below five heartbeats loses leaders to one late packet, one above fifty seconds is a
//! typing error. Timing buys failover time and stability, not throughput: replication is driven by
//! events, never by these clocks.
//!
//! [`Batching`] says how many client commands may share a raft entry. No linger is the default:
//! while one batch is on its way to the disk the next one gathers by itself, so a timer would only
//! add its length to every quiet write. Only a member whose batches queue for processor gathers
//! longer.

mod plan;

use thiserror::Error;

pub use plan::{
    BatchBounds, INFLIGHT_BYTES_CEILING, INFLIGHT_MESSAGES_CEILING, LEASE_PERCENT_MAX,
    MESSAGE_BYTES_CEILING, MESSAGE_BYTES_FLOOR, Origin, Params, ParamsError, Phase, Plan,
};

/// No heartbeat is sent more often than this.
pub const HEARTBEAT_INTERVAL_US_MIN: u64 = 1_000;
/// An election timeout holds at least this many heartbeats.
pub const HEARTBEATS_PER_ELECTION_MIN: u64 = 5;
/// No election timeout is longer, as in etcd.
pub const ELECTION_TIMEOUT_US_MAX: u64 = 50_000_000;

/// Least that `entry_bytes_max` may be.
pub const ENTRY_BYTES_FLOOR: u64 = 1 << 10;
/// Most that `entry_bytes_max` may be.
pub const ENTRY_BYTES_CEILING: u64 = 16 << 20;
/// Most that `entry_commands_max` may be.
pub const ENTRY_COMMANDS_CEILING: u64 = 65_536;
/// Longest linger and longest gathering: beyond it waiting costs more than any batch can save.
pub const LINGER_US_MAX: u64 = 100_000;

/// How often a leader speaks up, and how long its silence is borne.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// How many client commands share one raft entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batching {
    /// Off: every command gets an entry of its own.
    pub enabled: bool,
    /// An entry is closed before it grows beyond this; one larger command still goes, alone.
    pub entry_bytes_max: u64,
    /// An entry is closed at this many commands.
    pub entry_commands_max: u64,
    /// How long the first command of a batch waits for company; 0: not at all.
    pub linger_us: u64,
    /// How long after the one before it a batch leaves at the latest, when batches take longer to
    /// commit than distance and disks account for; 0: at once.
    pub gather_us_max: u64,
}

impl Default for Batching {
    fn default() -> Self {
        Batching {
            enabled: true,
            entry_bytes_max: 1 << 20,
            entry_commands_max: 4_096,
            linger_us: 0,
            gather_us_max: 10_000,
        }
    }
}

impl Batching {
    /// Accepts the values, or says in one line which rule they break.
    pub fn validate(&self) -> Result<(), BatchingError> {
        let Batching { enabled: _, entry_bytes_max, entry_commands_max, linger_us, gather_us_max } =
            *self;
        if !(ENTRY_BYTES_FLOOR..=ENTRY_BYTES_CEILING).contains(&entry_bytes_max) {
            return Err(BatchingError::EntryBytes { entry_bytes_max });
        }
        if !(1..=ENTRY_COMMANDS_CEILING).contains(&entry_commands_max) {
            return Err(BatchingError::EntryCommands { entry_commands_max });
        }
        if linger_us > LINGER_US_MAX {
            return Err(BatchingError::Linger { linger_us });
        }
        if gather_us_max > LINGER_US_MAX {
            return Err(BatchingError::Gather { gather_us_max });
        }
        Ok(())
    }
}

/// Why a [`Batching`] was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BatchingError {
    /// Entries too small to batch, or too large to send.
    #[error(
        "entry size of {entry_bytes_max} bytes is not within {ENTRY_BYTES_FLOOR} to \
         {ENTRY_BYTES_CEILING}"
    )]
    EntryBytes {
        /// The value refused.
        entry_bytes_max: u64,
    },
    /// No commands per entry, or more than an apply step should hold.
    #[error("{entry_commands_max} commands per entry are not within 1 to {ENTRY_COMMANDS_CEILING}")]
    EntryCommands {
        /// The value refused.
        entry_commands_max: u64,
    },
    /// Every quiet write would wait this long.
    #[error("linger of {linger_us} µs is above {LINGER_US_MAX} µs")]
    Linger {
        /// The value refused.
        linger_us: u64,
    },
    /// Every write of a busy member could wait this long.
    #[error("gathering of {gather_us_max} µs is above {LINGER_US_MAX} µs")]
    Gather {
        /// The value refused.
        gather_us_max: u64,
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
        assert_eq!(Batching::default().validate(), Ok(()));
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

    #[test]
    fn batching_is_refused_beyond_each_limit() {
        let fine = Batching::default();
        let cases = [
            Batching { entry_bytes_max: ENTRY_BYTES_FLOOR - 1, ..fine },
            Batching { entry_bytes_max: ENTRY_BYTES_CEILING + 1, ..fine },
            Batching { entry_commands_max: 0, ..fine },
            Batching { entry_commands_max: ENTRY_COMMANDS_CEILING + 1, ..fine },
            Batching { linger_us: LINGER_US_MAX + 1, ..fine },
            Batching { gather_us_max: LINGER_US_MAX + 1, ..fine },
        ];
        for case in cases {
            assert!(case.validate().is_err(), "{case:?}");
        }
    }
}
