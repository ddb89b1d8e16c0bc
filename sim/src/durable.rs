//! What leaders tell of their disks, and what followers commit by it: that it happens, that a quorum has
//! what is committed, and what becomes of it where it is done wrong.

use member::Input;
use member::consensus::{Role, Status};
use proto::log::Entry;
use proto::peer::{RaftMessage, raft_message::Type};

use crate::mutant::Mutant;
use crate::world::World;

impl World {
    /// What a member is about to apply as the first of all is on the disks of a quorum. Where members come
    /// and go it is not known of whom.
    pub(crate) fn check_quorum(&mut self, id: u64, entries: &[Entry]) {
        if self.plan.faults.membership {
            return;
        }
        let members = self.plan.members;
        let new = entries.iter().filter(|entry| entry.index > self.truth.last_committed());
        for entry in new {
            let has_it = |id: &u64| {
                self.nodes.get(id).is_some_and(|it| it.confirmed.has(entry.index, entry.term))
            };
            let copies = (1..=members).filter(has_it).count() as u64;
            if copies <= members / 2 {
                let Entry { index, term, .. } = entry;
                return self.broken(format!(
                    "quorum: member {id} applies the entry of term {term} at index {index}, which \
                     {copies} of {members} have on their disks"
                ));
            }
        }
    }

    /// Counts what a member has committed before its leader said so.
    pub(crate) fn count_early(&mut self, id: u64, status: &Status) {
        let process = self.nodes.get_mut(&id).and_then(|node| node.process.as_deref_mut());
        let Some(running) = process else { return };
        let before = std::mem::replace(&mut running.committed_early, status.committed_early);
        for _ in before..status.committed_early {
            self.figures.count("entries committed early");
        }
    }

    // Mutants --------------------------------------------------------------------------------

    /// A mutant's way: whose voters are told, and of what.
    fn tells(&self, status: &Status) -> Option<u64> {
        let voters = status.conf_state.voters.len();
        let is_pair = (2..=3).contains(&voters);
        match self.mutant? {
            Mutant::DurableEarly if is_pair => Some(status.last_index),
            Mutant::DurableUntold if is_pair => Some(status.persisted),
            Mutant::DurableOfFive if voters > 3 => Some(status.persisted),
            _ => None,
        }
    }

    /// A mutant's way: what a leader says behind its replica's back.
    pub(crate) fn tell_durable(&mut self, id: u64) {
        let process = self.nodes.get(&id).and_then(|node| node.running());
        let Some(running) = process.filter(|running| running.is_leader) else { return };
        let status = running.member.status();
        let in_term = status.role == Role::Leader && running.view.applied_term() == status.term;
        let Some(index) = self.tells(&status).filter(|_| in_term) else { return };
        if index <= status.commit.max(running.told) {
            return;
        }
        let process = self.nodes.get_mut(&id).and_then(|node| node.process.as_deref_mut());
        let Some(running) = process else { return };
        running.told = index;
        for to in status.conf_state.voters.into_iter().filter(|to| *to != id) {
            let message = RaftMessage {
                r#type: Type::MsgAppend.into(),
                to,
                from: id,
                term: status.term,
                log_term: status.term,
                index,
                durable_index: index,
                ..RaftMessage::default()
            };
            self.send(id, message);
        }
    }

    /// A mutant's way: what is on the leader's disk is taken to be on the own.
    pub(crate) fn trust_durable(&mut self, id: u64, durable_index: u64) {
        if durable_index == 0 || !self.is(Mutant::DurableTrusted) {
            return;
        }
        let issued = self.nodes.get(&id).and_then(|node| node.confirmed.issued.back());
        if let Some(number) = issued.map(|issued| issued.number) {
            self.input(id, Input::Persisted { number });
        }
    }
}
