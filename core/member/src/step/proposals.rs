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

/// In place of a term: by, or to, a member that does not know of forwards that are bound to one.
pub(super) const ANY_TERM: u64 = 0;

/// Who waits for a command.
#[derive(Clone, Copy, Debug)]
enum Caller {
    /// A caller here, by its ticket.
    Own(u64),
    /// A caller of a follower, which is not told when nothing comes of it; in this term.
    Of { follower: u64, term: u64 },
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
        let term = self.replica.term();
        while let Some(proposal) = self.waiting.front() {
            if matches!(proposal.caller, Caller::Of { term: of, .. } if !is_for(of, term)) {
                self.pop_waiting();
                continue;
            }
            if proposal.deadline_us <= now_us {
                proposal.refuse(false, effects);
                self.pop_waiting();
                continue;
            }
            let command = proposal.command.clone();
            let proposed = match proposal.caller {
                Caller::Own(_) => self.replica.propose(command),
                Caller::Of { follower, .. } => self.replica.propose_for(follower, command),
            };
            match proposed {
                Ok(()) => {
                    self.note_given(term);
                    self.pop_waiting();
                }
                Err(ProposeError::NotLeader { leader: Some(to) })
                    if to != self.id() && !self.forwards_rest(now_us) =>
                {
                    let bound = if self.binding == Some((term, to)) { term } else { ANY_TERM };
                    let forward = forward.get_or_insert_with(|| Forward {
                        to,
                        term: bound,
                        commands: Vec::new(),
                    });
                    if (forward.to, forward.term) != (to, bound) {
                        break;
                    }
                    forward.commands.push(proposal.command.clone());
                    if bound != ANY_TERM {
                        self.note_given(bound);
                    }
                    self.pop_waiting();
                }
                Err(ProposeError::TooLarge { .. }) => {
                    proposal.refuse(true, effects);
                    self.pop_waiting();
                }
                // No leader, none that is reached, or one that is full or handing over: it waits, within
                // its deadline.
                Err(_) => break,
            }
        }
        effects.forward = forward;
    }

    /// The first that waits is given to the leader of this term.
    fn note_given(&mut self, term: u64) {
        let Some(first) = self.waiting.front() else { return };
        if let Caller::Own(sequence) = first.caller {
            self.given.note(sequence, term, first.deadline_us);
        }
    }

    /// Whether commands were handed back a moment ago: what is sent now would come back at once.
    pub(super) fn forwards_rest(&self, now_us: u64) -> bool {
        now_us < self.forwards_rest_until_us
    }

    fn pop_waiting(&mut self) {
        if let Some(proposal) = self.waiting.pop_front() {
            self.waiting_bytes -= proposal.command.len();
        }
    }

    /// Commands of another member. It is not told when they are dropped: it finds out, or its caller's
    /// deadline answers.
    pub(super) fn take_forwarded(
        &mut self,
        from: u64,
        term: u64,
        commands: Vec<Bytes>,
        effects: &mut Effects,
    ) {
        if !is_for(term, self.replica.term()) {
            // They may have been given to the leader of another term since.
            return;
        }
        for command in commands {
            // A follower that was asked in error does not send them further: they could go in circles.
            if let Err(ProposeError::Busy) = self.replica.propose_for(from, command.clone()) {
                // Keep what fits until the batches in the making have left.
                let caller = Caller::Of { follower: from, term };
                self.wait_for_leader(Waiting { caller, deadline_us: u64::MAX, command }, effects);
            }
        }
    }

    /// An entry of a term is applied: whoever waits for what an earlier leader lost may propose it again.
    pub(super) fn find_lost(&mut self, now_us: u64, applied_term: u64, effects: &mut Effects) {
        let lost = self.given.lost_before(applied_term, now_us);
        effects.reply.extend(lost.into_iter().map(|sequence| Reply::Lost { sequence }));
    }

    /// Own commands that were handed back before a byte of them had left for the leader of this term, if
    /// that is still where they are; [`ANY_TERM`]: they have gone nowhere else.
    pub(super) fn take_back(
        &mut self,
        now_us: u64,
        term: u64,
        commands: Vec<Bytes>,
        effects: &mut Effects,
    ) {
        for (sequence, command) in self.callers_own(commands) {
            let known_us = if term == ANY_TERM {
                let known_us = self.given.take_back_any(sequence);
                Some(known_us.unwrap_or_else(|| self.deadline_unknown_us(now_us)))
            } else {
                self.given.take_back(sequence, term)
            };
            let Some(deadline_us) = known_us else { continue };
            let caller = Caller::Own(sequence);
            self.wait_for_leader(Waiting { caller, deadline_us, command }, effects);
        }
    }

    /// What callers here asked for. What this member did as the leader is its successor's business, which
    /// may have renewed the lease that is to be revoked.
    fn callers_own(&self, commands: Vec<Bytes>) -> Vec<(u64, Bytes)> {
        let origin = self.config.origin;
        let own = commands.into_iter().filter_map(|command| {
            let id = request_id(&command)?;
            let is_callers = id.member == origin && id.sequence <= OWN_SEQUENCES_FROM;
            is_callers.then_some((id.sequence, command))
        });
        own.collect()
    }

    /// Until when a command waits whose deadline is not known any more: one election is enough.
    fn deadline_unknown_us(&self, now_us: u64) -> u64 {
        now_us + 5 * self.replica.status().timing.election_timeout_us
    }
}

/// Whether what is meant for a term may be proposed in this one.
fn is_for(term: u64, now: u64) -> bool {
    term == ANY_TERM || term == now
}

fn request_id(command: &Bytes) -> Option<RequestId> {
    Command::decode(command.clone()).ok()?.id
}
