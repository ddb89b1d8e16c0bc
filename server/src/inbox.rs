//! What waits for the raft thread, in bounds.
//!
//! Producers push under a lock that is held for one push; the raft thread takes everything there is
//! with one lock. What keeps the cluster alive (heartbeats, votes, reports of disk and apply) has a
//! lane of its own and is never refused for lack of room that client load has taken.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use member::{Input, Proposal};

use crate::door::RequestError;

/// Proposals that may wait here; the raft thread takes all of them at each turn.
const PROPOSALS_MAX: usize = 20_000;
/// The same in bytes.
const PROPOSAL_BYTES_MAX: usize = 64 << 20;
/// Read tickets that may wait here.
const READS_MAX: usize = 100_000;
/// Appends and forwards of peers that may wait here.
const BULK_MAX: usize = 4_096;
/// Reports, control messages and questions: their producers are few, so this is never reached
/// unless the raft thread stands still.
const URGENT_MAX: usize = 200_000;

#[derive(Default)]
struct Lanes {
    urgent: Vec<Input>,
    bulk: Vec<Input>,
    proposals: Vec<Proposal>,
    proposal_bytes: usize,
    reads: Vec<u64>,
    closed: bool,
    sleeping: bool,
}

impl Lanes {
    fn is_empty(&self) -> bool {
        self.urgent.is_empty()
            && self.bulk.is_empty()
            && self.proposals.is_empty()
            && self.reads.is_empty()
    }
}

/// The raft thread's queue.
#[derive(Default)]
pub(crate) struct Inbox {
    lanes: Mutex<Lanes>,
    filled: Condvar,
    drained: tokio::sync::Notify,
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox").finish_non_exhaustive()
    }
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, put: impl FnOnce(&mut Lanes) -> bool) -> bool {
        let mut lanes = self.lock();
        if lanes.closed || !put(&mut lanes) {
            return false;
        }
        if lanes.sleeping {
            lanes.sleeping = false;
            drop(lanes);
            self.filled.notify_one();
        }
        true
    }

    /// A caller's command. False: no room, or closed.
    pub(crate) fn propose(&self, proposal: Proposal) -> bool {
        self.push(|lanes| {
            let bytes = lanes.proposal_bytes + proposal.command.len();
            let room = lanes.proposals.len() < PROPOSALS_MAX && bytes <= PROPOSAL_BYTES_MAX;
            if room {
                lanes.proposal_bytes = bytes;
                lanes.proposals.push(proposal);
            }
            room
        })
    }

    /// A caller's read. False: no room, or closed.
    pub(crate) fn read(&self, ticket: u64) -> bool {
        self.push(|lanes| {
            let room = lanes.reads.len() < READS_MAX;
            if room {
                lanes.reads.push(ticket);
            }
            room
        })
    }

    /// A report, a control message, a question. False: closed.
    pub(crate) fn urgent(&self, input: Input) -> bool {
        self.push(|lanes| {
            let room = lanes.urgent.len() < URGENT_MAX;
            if room {
                lanes.urgent.push(input);
            }
            room
        })
    }

    /// A report that is found with whatever comes next, or after [`Inbox::wake`].
    pub(crate) fn leave(&self, report: Input) {
        let mut lanes = self.lock();
        if !lanes.closed {
            debug_assert!(lanes.urgent.len() < URGENT_MAX, "whoever leaves reports leaves few");
            lanes.urgent.push(report);
        }
    }

    /// Wakes the raft thread if something has been left for it.
    pub(crate) fn wake(&self) {
        self.push(|lanes| !lanes.is_empty());
    }

    /// An append or a forward of a peer; waits for room. False: closed.
    pub(crate) async fn bulk(&self, input: Input) -> bool {
        let mut input = Some(input);
        loop {
            let drained = self.drained.notified();
            let mut closed = false;
            let pushed = self.push(|lanes| {
                let room = lanes.bulk.len() < BULK_MAX;
                if room {
                    lanes.bulk.extend(input.take());
                }
                room
            });
            if !pushed {
                closed = self.lock().closed;
            }
            if pushed || closed {
                return pushed;
            }
            drained.await;
        }
    }

    /// Why a push was refused.
    pub(crate) fn refusal(&self) -> RequestError {
        if self.lock().closed { RequestError::Stopped } else { RequestError::TooManyRequests }
    }

    /// Takes everything there is, waiting for something until `until`. `None`: closed.
    pub(crate) fn take(&self, until: Instant) -> Option<Vec<Input>> {
        let mut lanes = self.lock();
        while lanes.is_empty() && !lanes.closed {
            let now = Instant::now();
            if now >= until {
                break;
            }
            lanes.sleeping = true;
            lanes = self
                .filled
                .wait_timeout(lanes, until - now)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            lanes.sleeping = false;
        }
        if lanes.closed {
            return None;
        }
        let mut inputs = std::mem::take(&mut lanes.urgent);
        let bulk = std::mem::take(&mut lanes.bulk);
        let proposals = std::mem::take(&mut lanes.proposals);
        let reads = std::mem::take(&mut lanes.reads);
        lanes.proposal_bytes = 0;
        drop(lanes);
        if !bulk.is_empty() {
            inputs.extend(bulk);
            self.drained.notify_waiters();
        }
        // Reads before proposals: a read waits for nothing that came with it.
        inputs.extend(reads.into_iter().map(|ticket| Input::Read { ticket }));
        if !proposals.is_empty() {
            inputs.push(Input::Propose(proposals));
        }
        Some(inputs)
    }

    /// Refuses everything from now on and wakes the raft thread.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
        self.drained.notify_waiters();
    }
}
