//! What is durable at two is committed where two are a quorum: a follower may find that out before the
//! leader tells it ([`crate::durable`]).
//!
//! A leader says that its log up to an index is on its disk only while the entry there is of its term,
//! the receiver and it are voters and a quorum of the configuration in force, no change of that is in the
//! log and not applied, and reads are not served by lease. It is what the leader would commit by, were
//! the receiver's acknowledgement there; only the other of the two finds out.
//!
//! A follower commits by it only in the same term, only entries of that term, and only what is on its own
//! disk, too. So it has what it commits before it can vote in a later term, as the leader has: who is
//! elected by a quorum has it from one of the two.
//!
//! Invariant: reads do not begin below what was told. A caller of the follower may have been answered by
//! it before the leader knows that the write is committed (`Reads`).

use bytes::Bytes;
use proto::peer::{RaftMessage, raft_message::Type};
use raft::{ProgressState, StateRole};

use super::Replica;
use crate::error::ProposeError;

/// Voters of whom two are a quorum.
const VOTERS: std::ops::RangeInclusive<usize> = 2..=3;

impl Replica {
    /// Takes a command that a follower has sent on: a caller there waits for it.
    pub fn propose_for(&mut self, follower: u64, command: Bytes) -> Result<(), ProposeError> {
        self.propose(command)?;
        self.making.came_through(follower);
        Ok(())
    }

    /// Who waits to be told what is durable here, and what may be said.
    fn durable_to_tell(&self) -> impl Iterator<Item = (u64, u64)> {
        let raft = &self.raw.raft;
        let log = &raft.raft_log;
        let may_tell = self.is_leader()
            && log.persisted > log.committed
            && !self.lease.is_on()
            && !raft.has_pending_conf();
        self.told.waiting().filter(move |_| may_tell).filter_map(move |follower| {
            let index = self.sent_and_durable(follower);
            let is_due = self.told.is_due(follower, index, log.committed)
                && log.match_term(index, raft.term)
                && self.is_quorum_with(follower);
            is_due.then_some((follower, index))
        })
    }

    /// What is on this disk and was sent to a follower: reads wait for what was told, and must not wait for
    /// what has not left. 0: it is not sent entries in a stream.
    fn sent_and_durable(&self, follower: u64) -> u64 {
        let raft = &self.raw.raft;
        let progress = raft.prs().get(follower);
        let streams = progress.filter(|progress| progress.state == ProgressState::Replicate);
        streams.map_or(0, |progress| raft.raft_log.persisted.min(progress.next_idx - 1))
    }

    /// Whether anybody waits to be told what is durable here.
    pub(super) fn has_durable_to_tell(&self) -> bool {
        self.durable_to_tell().next().is_some()
    }

    /// Tells those who wait for it: with entries that leave now, or alone.
    pub(super) fn tell_durable(&mut self, messages: &mut Vec<RaftMessage>) {
        let (term, commit) = (self.raw.raft.term, self.raw.raft.raft_log.committed);
        let due: Vec<(u64, u64)> = self.durable_to_tell().collect();
        for (to, index) in due {
            self.told.tell(to, index);
            let carries = |message: &&mut RaftMessage| {
                message.r#type() == Type::MsgAppend
                    && (message.to, message.term) == (to, term)
                    && !message.entries.is_empty()
            };
            match messages.iter_mut().find(carries) {
                Some(message) => message.durable_index = index,
                // Who does not know the field takes it for an append of nothing, after what it has.
                None => messages.push(RaftMessage {
                    r#type: Type::MsgAppend.into(),
                    to,
                    from: self.config.id,
                    term,
                    log_term: term,
                    index,
                    commit,
                    durable_index: index,
                    ..Default::default()
                }),
            }
        }
    }

    /// Whether this member and another are a quorum of the configuration in force.
    fn is_quorum_with(&self, follower: u64) -> bool {
        let conf = self.conf_state();
        conf.voters_outgoing.is_empty()
            && VOTERS.contains(&conf.voters.len())
            && [self.config.id, follower].iter().all(|id| conf.voters.contains(id))
    }

    /// Takes a message that says nothing but what is durable at the leader. Raft is not told: to raft it
    /// would be an append to be answered, or one behind a gap.
    pub(super) fn receive_durable(&mut self, message: &RaftMessage) {
        let before = self.raw.raft.state;
        self.hear_durable(message.from, message.term, message.durable_index);
        self.settle(before);
    }

    /// A member says that this is durable with it, as the leader of a term.
    pub(super) fn hear_durable(&mut self, from: u64, term: u64, index: u64) {
        let raft = &self.raw.raft;
        if index > 0 && (raft.term, raft.leader_id) == (term, from) {
            self.heard.hear(term, index);
            self.commit_durable();
        }
    }

    /// Commits what is durable at the leader and here.
    pub(super) fn commit_durable(&mut self) {
        let raft = &self.raw.raft;
        let (term, log) = (raft.term, &raft.raft_log);
        // Never beyond the own disk: who becomes the leader tells others what is committed.
        let index = self.heard.index(term).min(log.persisted);
        let before = log.committed;
        let may_commit = raft.state == StateRole::Follower && index > before;
        if may_commit && log.match_term(index, term) {
            self.raw.raft.raft_log.commit_to(index);
            self.heard.commit(before, index);
        }
    }
}
