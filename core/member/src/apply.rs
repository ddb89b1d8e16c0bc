//! Carries committed entries into the state: the only place where the cluster's knowledge changes.
//!
//! Everything here is deterministic. An error of a command is its outcome, the same on every
//! member; one command that fails never touches its neighbours in the batch.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use proto::log::{
    Batch, Command, Entry, Member as MemberRow, MembershipChange, RequestId, SnapshotMeta, Tuning,
    entry,
};
use state::tuning::UnknownFormat;
use state::{Changes, LeaseChange, Outcome, Pin, State, StateError, StateParts, View};

use crate::boot::conf_state_of;
use crate::snapshot_worker::SnapshotError;

/// Records a compaction looks at in one step between entries.
const SWEEP_RECORDS: usize = 4_096;

/// Entries of several outputs that become one task, in bytes.
const JOINED_BYTES_MAX: u64 = 4 << 20;

/// What apply is to do.
#[derive(Clone, Debug)]
pub enum ApplyTask {
    /// Committed entries, in order.
    Entries {
        /// The entries.
        entries: Vec<Entry>,
        /// Sum of their data.
        bytes: u64,
    },
    /// Replace the state by a received snapshot; its chunks are on this member's disk.
    Restore(SnapshotMeta),
    /// Take the state as it is now for a snapshot.
    BeginSnapshot,
}

impl ApplyTask {
    /// Entries that wait behind each other become one task: the view is published once. Not more than
    /// `JOINED_BYTES_MAX`, 4 MiB: between tasks it is asked whether there is room for what they hold.
    #[must_use]
    pub fn joined(tasks: Vec<Self>) -> Vec<Self> {
        let mut joined: Vec<Self> = Vec::new();
        for task in tasks {
            match (joined.last_mut(), task) {
                (
                    Some(Self::Entries { entries, bytes }),
                    Self::Entries { entries: more, bytes: more_bytes },
                ) if bytes.saturating_add(more_bytes) <= JOINED_BYTES_MAX => {
                    entries.extend(more);
                    *bytes += more_bytes;
                }
                (_, task) => joined.push(task),
            }
        }
        joined
    }
}

/// A state to be written as a snapshot, by the snapshot worker.
#[derive(Clone, Debug)]
pub struct SnapshotJob {
    /// The state at `meta.index`; it does not change any more.
    pub view: View,
    /// Index, term and configuration; chunks and sizes are filled in as they are written.
    pub meta: SnapshotMeta,
    /// Keeps the values of the view readable until the snapshot is written.
    pub pin: Arc<Pin>,
}

impl SnapshotJob {
    /// Of a view that has just been published.
    ///
    /// # Panics
    /// If a backend has been told already of what newer views lack.
    pub fn new(view: View, meta: SnapshotMeta) -> Self {
        let pin = view.pin().expect("compaction overtakes no view that nobody has heard of");
        SnapshotJob { view, meta, pin: Arc::new(pin) }
    }
}

/// How one request ended.
#[derive(Clone, Debug)]
pub enum Completion {
    /// A command was applied.
    Command(Outcome),
    /// A membership change was applied, or found wrong: the members now, or why not.
    Membership(Result<Vec<MemberRow>, StateError>),
}

/// The end of a request; on the member whose origin it carries a caller waits for it.
#[derive(Clone, Debug)]
pub struct Completed {
    /// Whose it is.
    pub id: RequestId,
    /// Where in the log it stands.
    pub index: u64,
    /// The term it was proposed in.
    pub term: u64,
    /// How it ended.
    pub completion: Completion,
}

/// A state replaced by a snapshot, as far as the member must know.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The snapshot.
    pub meta: SnapshotMeta,
    /// All leases: id and remaining seconds.
    pub leases: Vec<(i64, i64)>,
}

/// What apply tells the member.
#[derive(Clone, Debug, Default)]
pub struct ApplyReport {
    /// Applied up to here.
    pub index: u64,
    /// Term of the last applied entry.
    pub term: u64,
    /// Bytes of entries this report ends.
    pub bytes: u64,
    /// Sequences of the requests of this origin that are among them.
    pub own: Vec<u64>,
    /// Membership entries, and whether the state took the change.
    pub memberships: Vec<(Entry, bool)>,
    /// The member table, if it changed.
    pub members: Option<Vec<MemberRow>>,
    /// The plan of timing, if it changed.
    pub tuning: Option<Tuning>,
    /// What happened to leases.
    pub leases: Vec<LeaseChange>,
    /// The state was replaced.
    pub restored: Option<Restored>,
    /// A snapshot was begun.
    pub snapshot_begun: bool,
    /// Size of the state a snapshot would hold, when known anew.
    pub snapshot_bytes: Option<u64>,
}

/// What came of a task.
#[derive(Clone, Debug)]
pub struct Applied {
    /// For the member.
    pub report: ApplyReport,
    /// For callers.
    pub completed: Vec<Completed>,
    /// The state readers see from now on.
    pub view: View,
    /// For the backend and the watchers.
    pub changes: Changes,
    /// For the snapshot worker.
    pub snapshot: Option<SnapshotJob>,
    /// The state was replaced as a whole: backend and watchers begin anew from `view`.
    pub replaced: bool,
}

/// Why a task could not be carried out: this member must stop.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A received snapshot.
    #[error("received snapshot: {0}")]
    Snapshot(#[from] SnapshotError),
    /// A command in a form that a newer version knows.
    #[error("entry {index} of the log: {error}")]
    Format {
        /// Index of the entry.
        index: u64,
        /// Which form, and what is read here.
        error: UnknownFormat,
    },
}

/// Owns the state.
#[derive(Debug)]
pub struct ApplyWorker {
    state: State,
    /// Of this boot's requests.
    origin: u64,
    /// As of the view published last: there is something to sweep, and readers may wait for its end.
    compacting: bool,
}

impl ApplyWorker {
    /// Takes over a state; `origin` as in [`crate::MemberConfig`], or 0 where nobody waits.
    pub fn new(state: State, origin: u64) -> Self {
        ApplyWorker { state, origin, compacting: false }
    }

    /// Whether a command may wait for the disk: values do not all stay in memory.
    pub fn may_wait(&self) -> bool {
        !self.state.values().are_in_memory()
    }

    /// The state as it is now, for readers.
    pub fn view(&mut self) -> View {
        let view = self.state.publish();
        self.compacting = view.is_compacting();
        view
    }

    /// Goes on with a compaction in small steps while there is nothing to apply. `None`: there is
    /// none under way.
    pub fn sweep(&mut self) -> Option<(View, Changes)> {
        if !self.compacting {
            return None;
        }
        self.state.sweep(SWEEP_RECORDS);
        let view = self.view();
        Some((view, self.state.take_changes()))
    }

    /// Carries out one task; `load` reads a snapshot that is on this member's disk.
    pub fn run(
        &mut self,
        task: ApplyTask,
        load: &mut dyn FnMut(&SnapshotMeta) -> Result<StateParts, SnapshotError>,
    ) -> Result<Applied, ApplyError> {
        let mut report = ApplyReport::default();
        let mut completed = Vec::new();
        let mut snapshot = None;
        let mut replaced = false;
        match task {
            ApplyTask::Entries { entries, bytes } => {
                report.bytes = bytes;
                for entry in entries {
                    self.apply_entry(entry, &mut report, &mut completed)?;
                }
            }
            ApplyTask::Restore(meta) => {
                let parts = load(&meta)?;
                let values = self.state.values().clone();
                let state = State::restore(parts, *self.state.limits(), values);
                self.state = state.map_err(SnapshotError::from)?;
                replaced = true;
                let view = self.state.publish();
                report.members = Some(view.members());
                report.tuning = Some(view.tuning().clone());
                report.restored = Some(Restored {
                    leases: view.leases().map(|l| (l.id, l.remaining_ttl)).collect(),
                    meta,
                });
            }
            ApplyTask::BeginSnapshot => {
                let view = self.state.publish();
                let meta = SnapshotMeta {
                    index: view.applied_index(),
                    term: view.applied_term(),
                    conf_state: Some(conf_state_of(&view.members())),
                    revision: view.revision(),
                    ..SnapshotMeta::default()
                };
                snapshot = Some(SnapshotJob::new(view, meta));
                report.snapshot_begun = true;
            }
        }
        (report.index, report.term) = self.state.applied();
        let view = self.view();
        let changes = self.state.take_changes();
        Ok(Applied { report, completed, view, changes, snapshot, replaced })
    }

    fn apply_entry(
        &mut self,
        entry: Entry,
        report: &mut ApplyReport,
        completed: &mut Vec<Completed>,
    ) -> Result<(), ApplyError> {
        let (index, term) = (entry.index, entry.term);
        match entry::Type::try_from(entry.r#type) {
            Ok(entry::Type::Normal) if entry.data.is_empty() => self.state.skip(index, term),
            Ok(entry::Type::Normal) => {
                // A batch that can not be read has no commands, on every member alike.
                let batch = Batch::decode(entry.data).unwrap_or_default();
                self.state.skip(index, term);
                for command in batch.commands {
                    self.apply_command(index, term, &command, report, completed)?;
                }
            }
            Ok(entry::Type::ConfChange | entry::Type::ConfChangeV2) | Err(_) => {
                self.apply_membership(entry, report, completed);
            }
        }
        Ok(())
    }

    fn apply_command(
        &mut self,
        index: u64,
        term: u64,
        command: &Bytes,
        report: &mut ApplyReport,
        completed: &mut Vec<Completed>,
    ) -> Result<(), ApplyError> {
        let Ok(command) = Command::decode(command.clone()) else { return Ok(()) };
        self.state.check_format(&command).map_err(|error| ApplyError::Format { index, error })?;
        let members_change = matches!(
            command.op,
            Some(
                proto::log::command::Op::MemberPublish(_)
                    | proto::log::command::Op::MemberUpdate(_)
            )
        );
        let outcome = self.state.apply(index, term, &command);
        report.leases.extend(outcome.leases.iter().cloned());
        if members_change && outcome.result.is_ok() {
            report.members = Some(self.state.members());
        }
        if let Ok(state::Response::Tuning { .. }) = outcome.result {
            report.tuning = Some(self.state.tuning().clone());
        }
        if let Some(id) = command.id {
            if id.member == self.origin {
                report.own.push(id.sequence);
            }
            completed.push(Completed { id, index, term, completion: Completion::Command(outcome) });
        }
        Ok(())
    }

    fn apply_membership(
        &mut self,
        entry: Entry,
        report: &mut ApplyReport,
        completed: &mut Vec<Completed>,
    ) {
        let (index, term) = (entry.index, entry.term);
        let change = MembershipChange::decode(entry.context.clone()).unwrap_or_default();
        let result = self.state.apply_membership(index, term, &change);
        report.memberships.push((entry, result.is_ok()));
        if let Ok(members) = &result {
            report.members = Some(members.clone());
        }
        if let Some(id) = change.id {
            completed.push(Completed {
                id,
                index,
                term,
                completion: Completion::Membership(result),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_joined_in_order_up_to_a_size_and_never_across_something_else() {
        let entries = |index, bytes| ApplyTask::Entries {
            entries: vec![Entry { index, ..Entry::default() }],
            bytes,
        };
        let half = JOINED_BYTES_MAX / 2;
        let tasks = vec![
            entries(1, half),
            entries(2, half),
            entries(3, 1),
            ApplyTask::BeginSnapshot,
            entries(4, 1),
            entries(5, 3 * JOINED_BYTES_MAX),
            entries(6, u64::MAX),
        ];
        let indices = |task: &ApplyTask| match task {
            ApplyTask::Entries { entries, .. } => entries.iter().map(|it| it.index).collect(),
            _ => Vec::new(),
        };
        let joined: Vec<Vec<u64>> = ApplyTask::joined(tasks).iter().map(indices).collect();
        assert_eq!(joined, [vec![1, 2], vec![3], vec![], vec![4], vec![5], vec![6]]);
    }
}
