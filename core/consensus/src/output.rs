//! What a replica wants done, and what it says of itself.

use std::collections::BTreeMap;

use autotune::{Batching, Timing};
use bytes::Bytes;
use proto::log;
use proto::peer::RaftMessage;

/// Everything a replica wants done since the last output. Its owner destructures it without `..`,
/// so that a new wish breaks the build until it is granted.
///
/// The parts may be carried out in parallel, except that `committed` follows the snapshot of the
/// same or an earlier `persist`, and entries are applied in order.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// To be written; answered by [`crate::Replica::persisted`].
    pub persist: Option<Persist>,
    /// To be sent now. Whatever must not be said before something is durable is held back inside.
    pub messages: Vec<RaftMessage>,
    /// To be applied in order; answered by [`crate::Replica::applied`]. An entry is here only once
    /// it is committed and durable on this member.
    pub committed: Vec<log::Entry>,
    /// Reads that are linearizable once the index is applied.
    pub reads: Vec<ReadReady>,
    /// Tickets of reads that found no leader in time, or too many others waiting.
    pub reads_failed: Vec<u64>,
    /// The leader or the term has changed.
    pub leadership: Option<Leadership>,
    /// A follower needs a snapshot and none is new enough: one should be made of the state as it
    /// is applied now and announced by [`crate::Replica::snapshot_available`].
    pub snapshot_wanted: bool,
    /// Commands taken by [`crate::Replica::propose`] that were never sent to anyone: the leadership
    /// was lost before. They may safely be proposed elsewhere.
    pub dropped: Vec<Bytes>,
}

/// What must become durable together, in this order: snapshot, entries, hard state.
#[derive(Clone, Debug, PartialEq)]
pub struct Persist {
    /// Ascending; `persisted(number)` confirms this one and all before.
    pub number: u64,
    /// Term, vote and commit index, if they changed. A commit index that changed alone waits for the
    /// next of these: nothing depends on its being on the disk, and who boots learns it anew.
    pub hard_state: Option<log::HardState>,
    /// Entries; the first replaces whatever the log held at its index and beyond.
    pub entries: Vec<log::Entry>,
    /// A snapshot that replaces the log, if a leader sent one.
    pub snapshot: Option<log::SnapshotMeta>,
}

/// A read whose index is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadReady {
    /// As given to [`crate::Replica::read`].
    pub ticket: u64,
    /// The read is linearizable once this index is applied.
    pub index: u64,
}

/// Who leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leadership {
    /// The current term.
    pub term: u64,
    /// The leader of the term, as far as known.
    pub leader: Option<u64>,
    /// Whether that is this replica.
    pub is_leader: bool,
}

/// What part a replica plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Role {
    /// Follows a leader or waits for one; learners too.
    #[default]
    Follower,
    /// Asks whether it could win an election.
    PreCandidate,
    /// Stands for election.
    Candidate,
    /// Leads.
    Leader,
}

/// What made a member stand for election.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ElectionCause {
    /// It was called upon: a sole voter, at boot.
    Planned,
    /// Nothing was heard of a leader for a randomised election timeout.
    #[default]
    Timeout,
    /// The leader handed over.
    Transfer,
    /// The leader's process was found to be gone.
    Hint,
}

/// Elections counted by their cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ElectionCauses {
    /// See [`ElectionCause::Planned`].
    pub planned: u64,
    /// See [`ElectionCause::Timeout`].
    pub timeout: u64,
    /// See [`ElectionCause::Transfer`].
    pub transfer: u64,
    /// See [`ElectionCause::Hint`].
    pub hint: u64,
}

impl ElectionCauses {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.planned + self.timeout + self.transfer + self.hint
    }

    pub(crate) fn count(&mut self, cause: ElectionCause) {
        *match cause {
            ElectionCause::Planned => &mut self.planned,
            ElectionCause::Timeout => &mut self.timeout,
            ElectionCause::Transfer => &mut self.transfer,
            ElectionCause::Hint => &mut self.hint,
        } += 1;
    }
}

/// How a leader sends entries to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgressState {
    /// One message at a time, until it is known where the logs part.
    Probe,
    /// In a stream.
    Replicate,
    /// Not at all: a snapshot is on its way.
    Snapshot,
}

/// A peer as its leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerProgress {
    /// The peer holds the log durably up to here.
    pub match_index: u64,
    /// The next entry to be sent.
    pub next_index: u64,
    /// How entries are sent.
    pub state: ProgressState,
    /// Append messages sent and not yet answered.
    pub inflight: usize,
    /// How many may be.
    pub window: usize,
    /// Entry bytes in those that are.
    pub inflight_bytes: u64,
    /// Heard from within the last election timeout.
    pub recent_active: bool,
    /// Does not vote.
    pub is_learner: bool,
}

/// A replica as it is now.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// This member.
    pub id: u64,
    /// Current term.
    pub term: u64,
    /// Leader of the term as far as known.
    pub leader: Option<u64>,
    /// What part this replica plays.
    pub role: Role,
    /// Whom it voted for in this term.
    pub voted_for: Option<u64>,
    /// Highest index known to be committed.
    pub commit: u64,
    /// Highest index the state contains.
    pub applied: u64,
    /// Last index of the log.
    pub last_index: u64,
    /// First index of the log in memory.
    pub first_index: u64,
    /// Highest index durable on this member.
    pub persisted: u64,
    /// To whom the leadership is being handed over.
    pub lead_transferee: Option<u64>,
    /// The configuration in force.
    pub conf_state: log::ConfState,
    /// All members as the leader sees them; empty elsewhere.
    pub progress: BTreeMap<u64, PeerProgress>,
    /// Timing as it was set.
    pub timing: Timing,
    /// Timing in force: a member that keeps losing elections lengthens its timeout by itself.
    pub effective_timing: Timing,
    /// Batching in force.
    pub batching: Batching,
    /// Bytes of the log in memory.
    pub log_bytes_in_memory: u64,
    /// Index of the newest snapshot available; 0: none.
    pub snapshot_index: u64,
    /// Candidacies of this member since it booted.
    pub elections: u64,
    /// Of these, the ones that began by asking whether an election could be won.
    pub pre_campaigns: u64,
    /// Elections this member really stood in since it booted, by what made it stand.
    pub elections_stood: ElectionCauses,
    /// Elections this member won since it booted.
    pub elections_won: u64,
    /// Times it stepped down because no quorum answered.
    pub quorum_losses: u64,
    /// Reads waiting for their index.
    pub reads_waiting: usize,
    /// Commands waiting for their entry.
    pub commands_making: usize,
    /// Writes handed out and not yet confirmed.
    pub persists_outstanding: usize,
    /// Times this member told a follower what is on its disk, since it booted.
    pub durable_told: u64,
    /// Entries this member committed by what its leader's disk and its own have, since it booted.
    pub committed_early: u64,
}
