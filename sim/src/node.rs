//! One simulated machine: its disk, its backend, and the process that runs on them, if one does.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use member::consensus::Boot;
use member::state::backend::{Writeback, WritebackLimits};
use member::state::watch::{Hub, StreamId};
use member::state::{StateParts, View};
use member::wal::Identity;
use member::{
    ApplyTask, ApplyWorker, DiskTask, Input, LogWorker, Member, Proposal, Recovery, SnapshotJob,
    SnapshotWorker,
};
use proto::log::Member as MemberRow;

use crate::disk::SharedDisk;
use crate::truth::Watching;
use crate::values::{SharedBackend, ValueStore};

/// Blocks of the simulated backend are small, so that there are many.
pub(crate) const WRITEBACK: WritebackLimits = WritebackLimits {
    block_revisions_max: 4,
    block_bytes_max: 4 << 10,
    rows_waiting_max: 8,
    entries_waiting_max: 8,
    removed_waiting_max: 32,
    batch_bytes_max: 8 << 10,
    compaction_blocks_max: 4,
};

/// Who waits for an answer of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// A client, its turn, and the number of its request.
    Client { client: u64, turn: u64, request: usize },
    /// The nemesis: the epoch its plan was made upon, and whether it may be taken.
    Plan { expected_epoch: u64, is_legal: bool },
    /// The simulator itself, which only wants it done.
    Chore,
}

/// What the disk has confirmed, and so must never forget.
#[derive(Clone, Debug, Default)]
pub(crate) struct Confirmed {
    /// Term and vote.
    pub(crate) vote: (u64, u64),
    /// Terms of the entries, by index.
    pub(crate) entries: BTreeMap<u64, u64>,
    /// Index of the snapshot at which the log restarted.
    pub(crate) base: u64,
    /// Issued and not confirmed: number, batch as far as it matters here.
    pub(crate) issued: VecDeque<Issued>,
}

/// A batch on its way to the disk.
#[derive(Clone, Debug)]
pub(crate) struct Issued {
    pub(crate) number: u64,
    pub(crate) vote: Option<(u64, u64)>,
    pub(crate) entries: Vec<(u64, u64)>,
    pub(crate) base: Option<u64>,
}

impl Confirmed {
    /// Whether this entry is among it.
    pub(crate) fn has(&self, index: u64, term: u64) -> bool {
        index <= self.base || self.entries.get(&index) == Some(&term)
    }

    /// Everything up to a batch is confirmed.
    pub(crate) fn confirm(&mut self, number: u64) {
        while self.issued.front().is_some_and(|issued| issued.number <= number) {
            let Some(issued) = self.issued.pop_front() else { return };
            if let Some(vote) = issued.vote {
                self.vote = vote;
            }
            if let Some(base) = issued.base {
                self.base = base;
                self.entries.clear();
            }
            if let Some((first, _)) = issued.entries.first() {
                self.entries.split_off(first);
            }
            self.entries.extend(issued.entries);
        }
    }

    /// What recovery returns is durable, all of it. Applied entries that it left on the disk still are,
    /// as far as they are above the newest snapshot.
    pub(crate) fn recovered(&mut self, boot: &Boot) {
        let found = boot.hard_state.unwrap_or_default();
        let before = boot.snapshot.as_ref().map_or(0, |meta| meta.index);
        let snapshot = boot.snapshot.as_ref().filter(|meta| !meta.chunks.is_empty());
        self.vote = (found.term, found.vote);
        self.base = snapshot.map_or(self.base, |meta| meta.index);
        self.entries.split_off(&(before + 1));
        self.entries.extend(boot.entries.iter().map(|entry| (entry.index, entry.term)));
        self.issued.clear();
    }

    /// Whether what a restart found keeps all promises: the vote, and the entries above its base.
    pub(crate) fn check(&self, boot: &Boot) -> Result<(), String> {
        let found = boot.hard_state.unwrap_or_default();
        let (term, vote) = self.vote;
        if found.term < term || found.term == term && vote != 0 && found.vote != vote {
            return Err(format!(
                "voted for {vote} in term {term}, and came back with a vote for {} in term {}",
                found.vote, found.term
            ));
        }
        // A batch that was not confirmed may have replaced entries all the same.
        let replaced = self.issued.iter().filter_map(|it| {
            it.entries.first().map(|(index, _)| *index).into_iter().chain(it.base.map(|_| 0)).min()
        });
        let kept = replaced.min().unwrap_or(u64::MAX);
        let snapshot = boot.snapshot.as_ref().map_or(0, |meta| meta.index);
        // Entries from before that snapshot may be in memory again, if they reach beyond it.
        let last = boot.entries.last().map_or(snapshot, |entry| entry.index);
        if last < self.base && kept > 0 {
            return Err(format!("had a snapshot at {}, and came back with {snapshot}", self.base));
        }
        let entries: BTreeMap<u64, u64> =
            boot.entries.iter().map(|entry| (entry.index, entry.term)).collect();
        for (index, term) in self.entries.range(snapshot + 1..) {
            if *index < kept && entries.get(index) != Some(term) {
                return Err(format!(
                    "had confirmed the entry of term {term} at index {index}, and came back with \
                     {:?}",
                    entries.get(index)
                ));
            }
        }
        Ok(())
    }
}

/// A process.
pub(crate) struct Running {
    pub(crate) origin: u64,
    pub(crate) started_us: u64,
    pub(crate) member: Member,
    pub(crate) log: LogWorker<SharedDisk>,
    pub(crate) apply: ApplyWorker,
    pub(crate) snapshots: SnapshotWorker<SharedDisk>,
    pub(crate) writeback: Option<Writeback>,
    /// Where its values are, if not all are in memory.
    pub(crate) values: Option<Arc<ValueStore>>,
    pub(crate) view: View,
    /// What the member has not been stepped with yet.
    pub(crate) inbox: Vec<Input>,
    pub(crate) wake_us: u64,
    pub(crate) log_tasks: Vec<DiskTask>,
    pub(crate) log_runs: bool,
    pub(crate) apply_tasks: Vec<ApplyTask>,
    pub(crate) apply_runs: bool,
    pub(crate) save_tasks: VecDeque<SnapshotJob>,
    pub(crate) save_runs: bool,
    pub(crate) next_ticket: u64,
    pub(crate) callers: BTreeMap<u64, Caller>,
    /// Commands that callers wait for, to be proposed again where they are lost.
    pub(crate) commands: BTreeMap<u64, Proposal>,
    /// Reads that know their index and wait for it.
    pub(crate) reads: Vec<(u64, Caller)>,
    /// Leases asked for, by ticket.
    pub(crate) leases: BTreeMap<u64, i64>,
    pub(crate) leader: Option<u64>,
    pub(crate) is_leader: bool,
    /// Highest commit index it told of.
    pub(crate) commit: u64,
    /// Entries it has committed by what its leader's disk and its own have.
    pub(crate) committed_early: u64,
    /// With a mutant: what it has told of its disk behind its replica's back.
    pub(crate) told: u64,
    /// With a mutant: applied ahead of the commit index.
    pub(crate) applied_early: u64,
    pub(crate) hub: Hub,
    pub(crate) watchers: BTreeMap<StreamId, Watching>,
    /// Steps in this microsecond: a member that always wants another one is stuck.
    pub(crate) steps_now: (u64, u64),
}

impl Running {
    /// The member's own clock.
    pub(crate) fn local_us(&self, now_us: u64) -> u64 {
        now_us - self.started_us
    }

    /// A new ticket, for a proposal or a question.
    pub(crate) fn ticket(&mut self, caller: Caller) -> u64 {
        self.next_ticket += 1;
        self.callers.insert(self.next_ticket, caller);
        self.next_ticket
    }
}

/// A machine.
pub(crate) struct Node {
    pub(crate) identity: Identity,
    pub(crate) disk: SharedDisk,
    pub(crate) backend: SharedBackend,
    /// Grows with every stop: what belongs to an earlier process is void.
    pub(crate) boot: u64,
    /// The disk stands still until then.
    pub(crate) stalled_us: u64,
    /// The process stands still until then.
    pub(crate) paused_us: u64,
    pub(crate) process: Option<Box<Running>>,
    pub(crate) confirmed: Confirmed,
    /// It has left the cluster for good.
    pub(crate) is_retired: bool,
    /// A bit that was flipped: file and place.
    pub(crate) rotten: Option<(String, u64)>,
    /// How often it was started.
    pub(crate) starts: u64,
    /// Of its newest boot.
    pub(crate) origin: u64,
}

impl Node {
    fn new(identity: Identity, disk: SharedDisk) -> Node {
        Node {
            identity,
            disk,
            backend: SharedBackend::default(),
            boot: 0,
            stalled_us: 0,
            paused_us: 0,
            process: None,
            confirmed: Confirmed::default(),
            is_retired: false,
            rotten: None,
            starts: 0,
            origin: 0,
        }
    }

    /// The machine of a founding member, before its first start.
    pub(crate) fn founder(identity: Identity, rows: &[MemberRow], recovery: &Recovery) -> Node {
        let disk = SharedDisk::default();
        let parts = StateParts::new_cluster(rows);
        member::bootstrap(disk.clone(), disk.clone(), identity, parts, recovery)
            .unwrap_or_else(|error| panic!("founding on a whole disk: {error}"));
        Node::new(identity, disk)
    }

    /// The machine of a member that joins, before its first start.
    pub(crate) fn newcomer(identity: Identity, recovery: &Recovery) -> Node {
        let disk = SharedDisk::default();
        member::join(disk.clone(), identity, recovery)
            .unwrap_or_else(|error| panic!("joining with a whole disk: {error}"));
        Node::new(identity, disk)
    }

    /// The process, if one runs.
    pub(crate) fn running(&self) -> Option<&Running> {
        self.process.as_deref()
    }

    /// The process of this boot, if it still runs.
    pub(crate) fn process_of(&mut self, boot: u64) -> Option<&mut Running> {
        if self.boot == boot { self.process.as_deref_mut() } else { None }
    }
}

/// An encoded command.
pub(crate) fn encoded(origin: u64, sequence: u64, op: proto::log::command::Op) -> Bytes {
    use prost::Message as _;
    let id = Some(proto::log::RequestId { member: origin, sequence });
    Bytes::from(proto::log::Command { id, op: Some(op) }.encode_to_vec())
}
