//! Commands on their way into the log: kept until there is a leader, handed to it, taken back from it.

use bytes::Bytes;
use consensus::ProposeError;
use prost::Message as _;
use proto::log::{Command, RequestId};

use super::{Member, OWN_SEQUENCES_FROM};
use crate::door::{Effects, Forward, Proposal, Reply};

/// Proposals kept while there is no leader to give them to; one more is answered `Busy`.
const WAITING_PROPOSALS_MAX: usize = 20_000;
/// The same in bytes.
const WAITING_BYTES_MAX: usize = 64 << 20;

/// Who waits for a command.
#[derive(Clone, Copy, Debug)]
enum Caller {
    /// A caller here, by its ticket.
    Own(u64),
    /// A caller of this member, which is not told when nothing comes of it.
    Of(u64),
}

/// A command that waits for a leader, or for room.
pub(super) struct Waiting {
    caller: Caller,
    deadline_us: u64,
    command: Bytes,
}

impl From<Proposal> for Waiting {
    fn from(proposal: Proposal) -> Self {
        let Proposal { sequence, deadline_us, command } = proposal;
        Waiting { caller: Caller::Own(sequence), deadline_us, command }
    }
}

impl Waiting {
    fn refuse(&self, busy: bool, effects: &mut Effects) {
        if let Caller::Own(sequence) = self.caller {
            effects.reply.push(Reply::NotProposed { sequence, busy });
        }
    }
}

impl Member {
    pub(super) fn wait_for_leader(&mut self, proposal: Waiting, effects: &mut Effects) {
        let bytes = proposal.command.len();
        if self.waiting.len() >= WAITING_PROPOSALS_MAX
            || self.waiting_bytes + bytes > WAITING_BYTES_MAX
        {
            proposal.refuse(true, effects);
            return;
        }
        self.waiting_bytes += bytes;
        self.waiting.push_back(proposal);
    }

    /// Hands waiting proposals to the log if this member leads, else to the leader, else keeps them.
    pub(super) fn give_waiting(&mut self, now_us: u64, effects: &mut Effects) {
        let mut forward: Option<Forward> = effects.forward.take();
        while let Some(proposal) = self.waiting.front() {
            if proposal.deadline_us <= now_us {
                proposal.refuse(false, effects);
                self.pop_waiting();
                continue;
            }
            let command = proposal.command.clone();
            let proposed = match proposal.caller {
                Caller::Own(_) => self.replica.propose(command),
                Caller::Of(follower) => self.replica.propose_for(follower, command),
            };
            match proposed {
                Ok(()) => self.pop_waiting(),
                Err(ProposeError::NotLeader { leader: Some(to) }) if to != self.id() => {
                    let forward =
                        forward.get_or_insert_with(|| Forward { to, commands: Vec::new() });
                    if forward.to != to {
                        break;
                    }
                    forward.commands.push(proposal.command.clone());
                    self.pop_waiting();
                }
                Err(ProposeError::TooLarge { .. }) => {
                    proposal.refuse(true, effects);
                    self.pop_waiting();
                }
                // No leader, or a leader that is full or handing over: it waits, within its deadline.
                Err(_) => break,
            }
        }
        effects.forward = forward;
    }

    fn pop_waiting(&mut self) {
        if let Some(proposal) = self.waiting.pop_front() {
            self.waiting_bytes -= proposal.command.len();
        }
    }

    /// Commands of another member. It will not send them again, and neither is it told when they are
    /// dropped: its caller's deadline answers.
    pub(super) fn take_forwarded(
        &mut self,
        from: u64,
        commands: Vec<Bytes>,
        effects: &mut Effects,
    ) {
        for command in commands {
            // A follower that was asked in error does not send them further: they could go in circles.
            if let Err(ProposeError::Busy) = self.replica.propose_for(from, command.clone()) {
                // Keep what fits until the batches in the making have left.
                let caller = Caller::Of(from);
                self.wait_for_leader(Waiting { caller, deadline_us: u64::MAX, command }, effects);
            }
        }
    }

    /// Own commands that were handed back before they reached any log or any wire.
    pub(super) fn take_back(&mut self, now_us: u64, commands: Vec<Bytes>, effects: &mut Effects) {
        for command in commands {
            let Some(id) = request_id(&command) else { continue };
            // What it did as the leader is its successor's business, which may have renewed the lease
            // that is to be revoked.
            if id.member == self.config.origin && id.sequence <= OWN_SEQUENCES_FROM {
                // The caller's own deadline is not known any more; one election is enough to wait.
                let deadline_us = now_us + 5 * self.replica.status().timing.election_timeout_us;
                let caller = Caller::Own(id.sequence);
                self.wait_for_leader(Waiting { caller, deadline_us, command }, effects);
            }
        }
    }
}

fn request_id(command: &Bytes) -> Option<RequestId> {
    Command::decode(command.clone()).ok()?.id
}
