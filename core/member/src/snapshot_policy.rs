//! When a member takes a snapshot, and how far it may then release its log.
//!
//! A snapshot costs time in proportion to what changed since the last one, a long log costs time at
//! the next boot. So a snapshot is due when the log since the last one is larger than the last
//! snapshot (replaying it would take longer than reading the snapshot) and at least
//! [`SnapshotPolicy::log_bytes_min`]; an explicit count of entries is honoured as given.

use proto::log::SnapshotMeta;

use crate::SnapshotsHeld;

/// The settings.
#[derive(Clone, Debug)]
pub struct SnapshotPolicy {
    /// Log bytes applied since the last snapshot below which none is due.
    pub log_bytes_min: u64,
    /// Entries since the last snapshot, if the user fixed a number (`--snapshot-count`).
    pub entries: Option<u64>,
}

impl Default for SnapshotPolicy {
    fn default() -> Self {
        SnapshotPolicy { log_bytes_min: 64 << 20, entries: None }
    }
}

/// What is known about the own snapshots, and what is due.
#[derive(Debug)]
pub(crate) struct SnapshotDecision {
    policy: SnapshotPolicy,
    held: SnapshotsHeld,
    log_bytes: u64,
    snapshot_bytes: u64,
    in_progress: bool,
    wanted: bool,
}

impl SnapshotDecision {
    pub(crate) fn new(policy: SnapshotPolicy, held: SnapshotsHeld) -> Self {
        let snapshot_bytes = held.newest.as_ref().map_or(0, |meta| meta.state_bytes);
        SnapshotDecision {
            policy,
            held,
            log_bytes: 0,
            snapshot_bytes,
            in_progress: false,
            wanted: false,
        }
    }

    pub(crate) fn newest_index(&self) -> u64 {
        self.held.newest.as_ref().map_or(0, |meta| meta.index)
    }

    /// Entries of `bytes` were applied, up to `index`.
    pub(crate) fn applied(&mut self, _index: u64, bytes: u64, state_bytes: Option<u64>) {
        self.log_bytes += bytes;
        if let Some(state_bytes) = state_bytes {
            self.snapshot_bytes = state_bytes;
        }
    }

    /// A laggard needs a snapshot newer than what is held.
    pub(crate) fn wanted(&mut self) {
        self.wanted = true;
    }

    pub(crate) fn due(&self, applied_index: u64) -> bool {
        let newest = self.newest_index();
        if self.in_progress || applied_index <= newest {
            return false;
        }
        let due = match self.policy.entries {
            Some(entries) => applied_index - newest > entries,
            None => self.log_bytes > self.policy.log_bytes_min.max(self.snapshot_bytes),
        };
        due || self.wanted
    }

    pub(crate) fn asked(&mut self) {
        self.in_progress = true;
        self.wanted = false;
    }

    pub(crate) fn begun(&mut self) {
        self.log_bytes = 0;
    }

    pub(crate) fn failed(&mut self) {
        self.in_progress = false;
    }

    /// A snapshot is durable. Returns through which index the log may go: the one before stays
    /// usable, so the log is kept from there on.
    pub(crate) fn saved(&mut self, meta: &SnapshotMeta) -> Option<u64> {
        self.in_progress = false;
        let newer = self.held.newest.as_ref().is_none_or(|held| held.index < meta.index);
        if newer {
            self.held.previous_index = self.held.newest.as_ref().map(|held| held.index);
            self.held.newest = Some(meta.clone());
            self.snapshot_bytes = meta.state_bytes;
        }
        self.held.previous_index
    }

    /// The state was replaced by a received snapshot: the log begins anew behind it.
    pub(crate) fn restored(&mut self, meta: SnapshotMeta) {
        self.log_bytes = 0;
        self.snapshot_bytes = meta.state_bytes;
        self.held = SnapshotsHeld { newest: Some(meta), previous_index: None };
    }
}
