//! What a replica is told when it is made: its settings and what its disk remembers.
//!
//! Every limit that bounds memory, messages or waiting in this crate has its name here or in
//! [`Config`], so that "how much can it take" is answered by one page.

use autotune::{Batching, Timing};
use proto::log;

use crate::error::ConsensusError;

/// Highest term or index believed. Beyond it `+ 1` would soon overflow, and no honest cluster gets
/// there: at a million entries a second it takes 146,000 years.
pub(crate) const INDEX_MAX: u64 = 1 << 62;
/// Entry bytes accepted in one message from a peer.
pub(crate) const RECEIVED_BYTES_MAX: u64 = 64 << 20;
/// Longest context of a message from a peer.
pub(crate) const MESSAGE_CONTEXT_BYTES_MAX: usize = 64;
/// Longest context of an entry: an encoded membership change with its URLs.
pub(crate) const ENTRY_CONTEXT_BYTES_MAX: usize = 64 << 10;
/// Largest single command.
pub(crate) const COMMAND_BYTES_MAX: u64 = 32 << 20;
/// Chunks a snapshot's manifest may list: 1 TiB of 1 MiB chunks.
pub(crate) const SNAPSHOT_CHUNKS_MAX: usize = 1 << 20;
/// Voters and learners together.
pub(crate) const MEMBERS_MAX: usize = 64;

/// Bytes above the applied index, commands in the making included, from which the leader says busy.
pub(crate) const UNAPPLIED_BYTES_MAX: u64 = 128 << 20;
/// Commands in the making from which the leader says busy.
pub(crate) const COMMANDS_MAKING_MAX: usize = 65_536;
/// Committed bytes handed out in one output.
pub(crate) const COMMITTED_BYTES_PER_OUTPUT: u64 = 16 << 20;
/// What an entry weighs in memory besides its data and context.
pub(crate) const ENTRY_OVERHEAD_BYTES: u64 = 96;
/// A member without followers keeps no more than this in memory. Whoever is added needs a snapshot in
/// any case; from then on `log_bytes_kept` holds.
pub(crate) const LOG_ALONE_BYTES_KEPT: u64 = 4 << 20;
/// While a laggard is served a snapshot, up to this many times `log_bytes_kept` and
/// `log_entries_kept` stay in memory, lest the log behind the snapshot be gone when it arrives.
pub(crate) const LOG_HELD_FACTOR: u64 = 4;

/// Local read tickets waiting at any time; a read beyond fails at once.
pub(crate) const READS_WAITING_MAX: usize = 65_536;
/// Read rounds of other members waiting at any time; their senders ask again.
pub(crate) const PEER_READS_WAITING_MAX: usize = 256;
/// A read is failed after this and two election timeouts, as in etcd.
pub(crate) const READ_WAIT_US: u64 = 5_000_000;

/// Ticks of one election timeout. Raft's own configuration is constant; the clock is scaled.
pub(crate) const ELECTION_TICKS: u64 = 50;
/// Shortest randomised wait. One above [`ELECTION_TICKS`], so that nobody campaigns in the very
/// tick in which its voters cease to protect the old leader.
pub(crate) const ELECTION_TICKS_MIN: u64 = 51;
/// Waits are shorter than this, but for those of a member that has stood still of late.
pub(crate) const ELECTION_TICKS_MAX: u64 = 100;
/// How many times as long they are then, at most.
pub(crate) const PATIENCE_MAX: u64 = 4;
/// Raft's own heartbeat, as rare as it can be: the replica sends its heartbeats by the clock.
pub(crate) const HEARTBEAT_TICKS: u64 = ELECTION_TICKS - 1;

/// Settings of one replica.
#[derive(Clone, Debug)]
pub struct Config {
    /// This member's id; not 0.
    pub id: u64,
    /// Feeds the election timeouts and marks the read rounds of this boot. It must differ between
    /// two boots of the same member, or a late answer to a read of the earlier boot could be taken
    /// for an answer to one of this boot.
    pub seed: u64,
    /// Heartbeats and election timeout to begin with.
    pub timing: Timing,
    /// Batching to begin with.
    pub batching: Batching,
    /// Entry bytes in one append message, except that one entry always fits.
    pub message_bytes_max: u64,
    /// Append messages on their way to one follower.
    pub inflight_max: usize,
    /// Entry bytes on their way to one follower; one message always fits.
    pub inflight_bytes_max: u64,
    /// Ask whether an election could be won before disturbing anyone.
    pub pre_vote: bool,
    /// Stand for election at once when told that the leader's process is gone.
    pub crash_hints: bool,
    /// Bytes of entries at or below the applied index kept in memory for laggards; a member alone in its
    /// cluster keeps at most 4 MiB.
    pub log_bytes_kept: u64,
    /// How many such entries are kept.
    pub log_entries_kept: u64,
}

impl Config {
    /// The defaults for a member.
    pub fn new(id: u64, seed: u64) -> Config {
        Config {
            id,
            seed,
            timing: Timing::default(),
            batching: Batching::default(),
            message_bytes_max: 1 << 20,
            inflight_max: 256,
            inflight_bytes_max: 64 << 20,
            pre_vote: true,
            crash_hints: true,
            log_bytes_kept: 32 << 20,
            log_entries_kept: 10_000,
        }
    }

    /// Accepts the settings, or names the one that is wrong.
    pub fn validate(&self) -> Result<(), ConsensusError> {
        if self.id == 0 {
            return Err(ConsensusError::Config("member id is 0"));
        }
        if !(1 << 10..=32 << 20).contains(&self.message_bytes_max) {
            return Err(ConsensusError::Config("message_bytes_max is not within 1 KiB to 32 MiB"));
        }
        if !(1..=4_096).contains(&self.inflight_max) {
            return Err(ConsensusError::Config("inflight_max is not within 1 to 4096"));
        }
        if !(self.message_bytes_max..=1 << 30).contains(&self.inflight_bytes_max) {
            return Err(ConsensusError::Config(
                "inflight_bytes_max is not within message_bytes_max to 1 GiB",
            ));
        }
        self.timing.validate()?;
        self.batching.validate()?;
        Ok(())
    }
}

/// What the disk remembers of this replica.
///
/// Three shapes are good: everything empty but `conf_state` with voters (a founder's first boot);
/// everything empty, `conf_state` too (a member that joins: it will ask for a snapshot, since the
/// configuration it starts from is not in the log); or what a restart found.
#[derive(Clone, Debug, Default)]
pub struct Boot {
    /// Term, vote and commit index last persisted.
    pub hard_state: Option<log::HardState>,
    /// The newest snapshot on disk. Without chunks it only says at which index and term the log
    /// begins, and is never sent to anyone.
    pub snapshot: Option<log::SnapshotMeta>,
    /// The log as far as it is on disk: without gaps, beginning at or before the entry after the
    /// snapshot.
    pub entries: Vec<log::Entry>,
    /// What the state already contains; at least the snapshot's index.
    pub applied: u64,
    /// The configuration as of `applied`, or of the cluster's founding.
    pub conf_state: log::ConfState,
}
