//! What a replica says of itself.

use autotune::Timing;

use super::{Replica, role};
use crate::output::{PeerProgress, ProgressState, Status};

impl Replica {
    /// The timing in force: as set, or lengthened after lost elections.
    pub fn effective_timing(&self) -> Timing {
        self.clock.effective()
    }

    /// Highest index known to be committed; [`Replica::status`] has it too, and costs more.
    pub fn commit_index(&self) -> u64 {
        self.raw.raft.raft_log.committed
    }

    /// Commands taken and not yet in any entry.
    pub fn commands_making(&self) -> usize {
        self.making.len()
    }

    /// The replica as it is now.
    pub fn status(&self) -> Status {
        let raft = &self.raw.raft;
        let conf_state = self.conf_state();
        let progress = raft.prs().iter().filter(|_| self.is_leader()).map(|(id, progress)| {
            let (window, inflight_bytes) = self.road(*id);
            let seen = PeerProgress {
                match_index: progress.matched,
                next_index: progress.next_idx,
                state: match progress.state {
                    raft::ProgressState::Probe => ProgressState::Probe,
                    raft::ProgressState::Replicate => ProgressState::Replicate,
                    raft::ProgressState::Snapshot => ProgressState::Snapshot,
                },
                inflight: progress.ins.count(),
                window,
                inflight_bytes,
                recent_active: *id == raft.id || progress.recent_active,
                is_learner: conf_state.learners.contains(id),
            };
            (*id, seen)
        });
        Status {
            id: raft.id,
            term: raft.term,
            leader: self.leader(),
            role: role(raft.state),
            voted_for: (raft.vote != raft::INVALID_ID).then_some(raft.vote),
            commit: raft.raft_log.committed,
            applied: self.applied,
            last_index: raft.raft_log.last_index(),
            first_index: raft.raft_log.first_index(),
            persisted: raft.raft_log.persisted,
            lead_transferee: raft.lead_transferee,
            progress: progress.collect(),
            conf_state,
            timing: self.clock.timing(),
            effective_timing: self.effective_timing(),
            batching: self.config.batching,
            log_bytes_in_memory: self.log().bytes(),
            snapshot_index: self.log().available_snapshot_index(),
            elections: self.elections.begun,
            pre_campaigns: self.elections.pre_campaigns,
            elections_stood: self.elections.stood,
            elections_won: self.elections.won,
            quorum_losses: self.elections.quorum_losses,
            reads_waiting: self.reads.waiting(),
            commands_making: self.commands_making(),
            persists_outstanding: self.outbox.outstanding(),
            durable_told: self.told.messages(),
            committed_early: self.heard.entries(),
        }
    }
}
