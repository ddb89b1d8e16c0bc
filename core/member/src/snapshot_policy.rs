//! When a member takes a snapshot, and how far it may then release its log.
//!
//! A snapshot writes what changed since the last one but reads and hashes the whole state; a long log
//! costs room, and time at the next boot. So a snapshot is due when the log since the last one is larger
//! than a part of the last snapshot, one in [`SnapshotPolicy::state_divisor`], and at least
//! [`SnapshotPolicy::log_bytes_min`]; an explicit count of entries is honoured as given. The log is kept
//! from the older of two snapshots, so its length is at most about twice that.

use proto::log::SnapshotMeta;

use crate::SnapshotsHeld;

/// The settings.
#[derive(Clone, Debug)]
pub struct SnapshotPolicy {
    /// Log bytes applied since the last snapshot below which none is due.
    pub log_bytes_min: u64,
    /// Into how many parts a large state is divided: log of one part's size makes a snapshot due.
    pub state_divisor: u64,
    /// Entries since the last snapshot, if the user fixed a number (`--snapshot-count`).
    pub entries: Option<u64>,
}

impl Default for SnapshotPolicy {
    fn default() -> Self {
        SnapshotPolicy { log_bytes_min: 64 << 20, state_divisor: 4, entries: None }
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
            None => {
                let part_bytes = self.snapshot_bytes / self.policy.state_divisor.max(1);
                self.log_bytes > self.policy.log_bytes_min.max(part_bytes)
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn with_snapshot(state_bytes: u64) -> SnapshotDecision {
        let newest = SnapshotMeta { index: 1, state_bytes, ..SnapshotMeta::default() };
        let held = SnapshotsHeld { newest: Some(newest), previous_index: None };
        let policy = SnapshotPolicy { log_bytes_min: 100, state_divisor: 4, entries: None };
        SnapshotDecision::new(policy, held)
    }

    #[test]
    fn a_snapshot_is_due_after_log_of_a_part_of_the_states_size() {
        for (state_bytes, log_bytes) in [(0, 100), (400, 100), (404, 101), (4_000, 1_000)] {
            let mut decision = with_snapshot(state_bytes);
            decision.applied(2, log_bytes, None);
            assert!(!decision.due(2), "{log_bytes} bytes of log, {state_bytes} of state");
            decision.applied(3, 1, None);
            assert!(decision.due(3), "{log_bytes} + 1 bytes of log, {state_bytes} of state");
        }
    }

    #[test]
    fn the_log_goes_behind_the_older_of_two_snapshots() {
        let mut decision = with_snapshot(0);
        let saved = |index| SnapshotMeta { index, ..SnapshotMeta::default() };
        assert_eq!(decision.saved(&saved(5)), Some(1));
        assert_eq!(decision.saved(&saved(9)), Some(5));
        assert_eq!(decision.saved(&saved(7)), Some(5), "an older one changes nothing");
    }
}
