//! The leader's lease, fed with what raft hears; the rule itself is in [`crate::lease`].

use proto::peer::raft_message::Type;

use super::Replica;

impl Replica {
    /// Changes the length of the lease from now on; 0: every read asks a quorum.
    pub fn set_lease(&mut self, length_us: u64) {
        self.lease.set_length(length_us);
    }

    /// For an election timeout from now no vote is given: before this boot one may have been promised.
    pub fn keep_promises(&mut self) {
        self.mute_until_us = self.now_us.saturating_add(self.clock.election_timeout_us());
    }

    /// What a message says of leases: a heartbeat asks for a promise, an answer gives it.
    pub(super) fn note_lease(&mut self, kind: Type, from: u64, term: u64, sent_us: u64) {
        let raft = &self.raw.raft;
        if raft.term != term {
            return;
        }
        match kind {
            Type::MsgHeartbeat if raft.leader_id == from => self.lease.heard(from, term, sent_us),
            Type::MsgHeartbeatResponse if self.is_leader() => {
                self.lease.answered(self.now_us, from, sent_us);
                self.note_heartbeat_answer(from, sent_us);
                if (1..=self.now_us).contains(&sent_us) {
                    self.told.answered_after(self.now_us, from, self.now_us - sent_us);
                }
            }
            _ => {}
        }
    }

    /// Whether this leader may answer reads by itself.
    pub(super) fn holds_lease(&self) -> bool {
        self.is_leader()
            && self.raw.raft.lead_transferee.is_none()
            && self.raw.raft.commit_to_current_term()
            && self.lease.holds(self.now_us, self.config.id, &self.voters())
    }
}
