//! How many client commands travel together.
//!
//! No linger is the default: while one batch is on its way to the disk the next one gathers by
//! itself, so a timer would only add its length to every quiet write. Only a member whose batches
//! queue for processor gathers longer.

use thiserror::Error;

/// Least that `entry_bytes_max` may be.
pub const ENTRY_BYTES_FLOOR: u64 = 1 << 10;
/// Most that `entry_bytes_max` may be.
pub const ENTRY_BYTES_CEILING: u64 = 16 << 20;
/// Most that `entry_commands_max` may be.
pub const ENTRY_COMMANDS_CEILING: u64 = 65_536;
/// Longest linger and longest gathering: beyond it waiting costs more than any batch can save.
pub const LINGER_US_MAX: u64 = 100_000;

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

    #[test]
    fn defaults_obey_their_own_rules() {
        assert_eq!(Batching::default().validate(), Ok(()));
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
