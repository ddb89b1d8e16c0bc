//! Bugs on demand. A harness that finds nothing proves nothing; one that finds all of these does.
//!
//! Each stands for a mistake that was really made somewhere, or is easily made: those of the log and
//! the disk are switches in their rooms, the others are made by the simulator where it carries the
//! member's effects out. What ships has no part in them.

/// A seeded bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutant {
    /// The log says it synced and did not.
    SkipDataSync,
    /// What a restart reads from the page cache is taken for durable.
    SkipRecoverySync,
    /// No directory of the log is ever synced.
    SkipDirSync,
    /// A full segment is not synced when the next one begins.
    SkipRolloverSync,
    /// Damage to synced records is cut off like a torn tail.
    IgnoreWatermark,
    /// Directory syncs of the whole disk do nothing.
    LyingDirSync,
    /// After a failed sync the log thread goes on as if nothing had happened.
    IgnoreFailedSync,
    /// The disk's confirmation is given before the disk was asked.
    PersistedEarly,
    /// Term and vote are not written.
    ForgetVote,
    /// The leader counts its followers' acknowledgements before they come.
    AckBeforeQuorum,
    /// Entries are applied when they are durable here, committed or not.
    ApplyBeforeCommit,
    /// The backend writes its applied index ahead of the data.
    AppliedAhead,
    /// The backend writes its applied index after the data.
    AppliedBehind,
    /// A forward whose answer is missing is sent again.
    ForwardTwice,
    /// A leader proposes what was forwarded to that of another term.
    ForwardAnyTerm,
    /// What is handed back is proposed again, although it went to another leader meanwhile.
    HandedBackAnyTerm,
    /// What is waited for is proposed again as soon as another leads.
    GivenAgainEarly,
    /// The log is released although the snapshot was never written.
    ReleaseWithoutSnapshot,
    /// A received snapshot is announced before it is durable.
    SnapshotNotCommitted,
    /// Linearizable reads are served from what this member happens to know.
    LocalReads,
    /// A read does not wait until its index is applied.
    ReadBeforeApplied,
    /// A member comes back with an empty disk and its old identity.
    EmptyDisk,
    /// One member does not install a membership change.
    SkipConfChange,
    /// A keepalive is answered and the lease not renewed.
    KeepAliveLost,
    /// A page of events never reaches the watchers.
    WatchGap,
    /// Two boots of a member number their requests alike.
    SameOrigin,
    /// A plan of timing goes on when a quorum has confirmed a phase.
    QuorumBarrier,
    /// Election timeouts fall together with heartbeat intervals, not after them.
    ElectionFirst,
    /// Leases grow when a plan begins, not when every voter bears with the leader for longer.
    LeaseEarly,
    /// A heartbeat begins a lease when it is sent, whether a voter hears it or not.
    LeaseUnanswered,
    /// A plan is taken whatever plan it was made upon.
    StaleEpoch,
    /// A leader sends heartbeats although its disk stands still.
    NoHeartbeatGate,
    /// A connection that is reset is taken for the death of who was at its other end.
    HintFromReset,
    /// A leader says that entries are on its disk when they are in its log.
    DurableEarly,
    /// Two of five are taken for a quorum.
    DurableOfFive,
    /// A follower takes what is on its leader's disk for what is on its own.
    DurableTrusted,
    /// A leader's reads know nothing of what it told others of its disk.
    DurableUntold,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Mutant; 37] = [
        Mutant::SkipDataSync,
        Mutant::SkipRecoverySync,
        Mutant::SkipDirSync,
        Mutant::SkipRolloverSync,
        Mutant::IgnoreWatermark,
        Mutant::LyingDirSync,
        Mutant::IgnoreFailedSync,
        Mutant::PersistedEarly,
        Mutant::ForgetVote,
        Mutant::AckBeforeQuorum,
        Mutant::ApplyBeforeCommit,
        Mutant::AppliedAhead,
        Mutant::AppliedBehind,
        Mutant::ForwardTwice,
        Mutant::ForwardAnyTerm,
        Mutant::HandedBackAnyTerm,
        Mutant::GivenAgainEarly,
        Mutant::ReleaseWithoutSnapshot,
        Mutant::SnapshotNotCommitted,
        Mutant::LocalReads,
        Mutant::ReadBeforeApplied,
        Mutant::EmptyDisk,
        Mutant::SkipConfChange,
        Mutant::KeepAliveLost,
        Mutant::WatchGap,
        Mutant::SameOrigin,
        Mutant::QuorumBarrier,
        Mutant::ElectionFirst,
        Mutant::LeaseEarly,
        Mutant::LeaseUnanswered,
        Mutant::StaleEpoch,
        Mutant::NoHeartbeatGate,
        Mutant::HintFromReset,
        Mutant::DurableEarly,
        Mutant::DurableOfFive,
        Mutant::DurableTrusted,
        Mutant::DurableUntold,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Mutant::SkipDataSync => "skip-data-sync",
            Mutant::SkipRecoverySync => "skip-recovery-sync",
            Mutant::SkipDirSync => "skip-dir-sync",
            Mutant::SkipRolloverSync => "skip-rollover-sync",
            Mutant::IgnoreWatermark => "ignore-watermark",
            Mutant::LyingDirSync => "lying-dir-sync",
            Mutant::IgnoreFailedSync => "ignore-failed-sync",
            Mutant::PersistedEarly => "persisted-early",
            Mutant::ForgetVote => "forget-vote",
            Mutant::AckBeforeQuorum => "ack-before-quorum",
            Mutant::ApplyBeforeCommit => "apply-before-commit",
            Mutant::AppliedAhead => "applied-ahead",
            Mutant::AppliedBehind => "applied-behind",
            Mutant::ForwardTwice => "forward-twice",
            Mutant::ForwardAnyTerm => "forward-any-term",
            Mutant::HandedBackAnyTerm => "handed-back-any-term",
            Mutant::GivenAgainEarly => "given-again-early",
            Mutant::ReleaseWithoutSnapshot => "release-without-snapshot",
            Mutant::SnapshotNotCommitted => "snapshot-not-committed",
            Mutant::LocalReads => "local-reads",
            Mutant::ReadBeforeApplied => "read-before-applied",
            Mutant::EmptyDisk => "empty-disk",
            Mutant::SkipConfChange => "skip-conf-change",
            Mutant::KeepAliveLost => "keepalive-lost",
            Mutant::WatchGap => "watch-gap",
            Mutant::SameOrigin => "same-origin",
            Mutant::QuorumBarrier => "quorum-barrier",
            Mutant::ElectionFirst => "election-first",
            Mutant::LeaseEarly => "lease-early",
            Mutant::LeaseUnanswered => "lease-unanswered",
            Mutant::StaleEpoch => "stale-epoch",
            Mutant::NoHeartbeatGate => "no-heartbeat-gate",
            Mutant::HintFromReset => "hint-from-reset",
            Mutant::DurableEarly => "durable-early",
            Mutant::DurableOfFive => "durable-of-five",
            Mutant::DurableTrusted => "durable-trusted",
            Mutant::DurableUntold => "durable-untold",
        }
    }

    /// The mutant of a name.
    pub fn of(name: &str) -> Option<Mutant> {
        Mutant::ALL.into_iter().find(|mutant| mutant.name() == name)
    }
}
