//! What is written and not yet durable, and the messages that wait for it.
//!
//! Raft's promises are made by messages: "I have these entries", "I vote for you". A message must
//! not leave before what it promises is durable. A follower's messages wait for every write handed
//! out before them; a leader's entries promise nothing about its own disk and leave at once, while
//! the leader's own copy is still being written.
//!
//! Two refinements over raft-rs's own rule (everything of a follower waits, nothing of a leader):
//!
//! * A leader's messages wait until its term and its vote for itself are durable. Elected by
//!   others they always are, since the votes were asked for after that. A sole voter elects itself
//!   in an instant, and its learners might store entries of a term that a power cut makes it forget,
//!   and then lead a second time, with other entries.
//! * A follower's heartbeat response waits for its term only, not for entries: it promises nothing
//!   about them, and reads of the whole cluster would wait for the slowest disk otherwise.

use std::collections::VecDeque;

use proto::peer::{RaftMessage, raft_message::Type};

/// A write handed out.
#[derive(Debug)]
struct Outstanding {
    number: u64,
    snapshot: Option<u64>,
}

/// What a confirmation means to raft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Confirmed {
    /// Everything raft produced up to this number is durable.
    pub(crate) through: u64,
    /// Index of the newest snapshot among it.
    pub(crate) snapshot: Option<u64>,
}

/// Writes and messages of one replica on their way out.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// Writes that must be synced, oldest first.
    outstanding: VecDeque<Outstanding>,
    /// Messages and the write they wait for, in order.
    held: VecDeque<(u64, RaftMessage)>,
    released: Vec<RaftMessage>,
    /// Newest number raft produced.
    last: u64,
    /// The write that holds the newest term and vote.
    vote: u64,
    /// When a write was last confirmed, or the oldest outstanding one was handed out.
    progress_us: u64,
}

impl Outbox {
    /// A new write leaves. Returns what raft may be told at once.
    pub(crate) fn write(
        &mut self,
        now_us: u64,
        number: u64,
        must_sync: bool,
        vote_changed: bool,
        snapshot: Option<u64>,
    ) -> Option<Confirmed> {
        debug_assert!(number > self.last);
        self.last = number;
        if vote_changed {
            debug_assert!(must_sync);
            self.vote = number;
        }
        if must_sync {
            if self.outstanding.is_empty() {
                self.progress_us = now_us;
            }
            self.outstanding.push_back(Outstanding { number, snapshot });
        }
        self.outstanding.is_empty().then_some(Confirmed { through: number, snapshot: None })
    }

    /// A message that promises what is in the writes handed out so far.
    pub(crate) fn send(&mut self, message: RaftMessage, leader: bool) {
        let vote_durable = self.front().is_none_or(|front| front > self.vote);
        let wait_for = if leader || message.r#type() == Type::MsgHeartbeatResponse {
            (!vote_durable).then_some(self.vote)
        } else {
            self.outstanding.back().map(|write| write.number)
        };
        match wait_for {
            None => self.released.push(message),
            Some(number) => self.held.push_back((number, message)),
        }
    }

    /// A message that promises nothing.
    pub(crate) fn send_at_once(&mut self, message: RaftMessage) {
        self.released.push(message);
    }

    /// Everything up to the write of this number is durable.
    pub(crate) fn persisted(&mut self, now_us: u64, number: u64) -> Confirmed {
        assert!(number <= self.last, "write {number} was never handed out");
        let mut snapshot = None;
        while let Some(write) = self.outstanding.pop_front_if(|write| write.number <= number) {
            snapshot = write.snapshot.or(snapshot);
            self.progress_us = now_us;
        }
        let through = self.front().map_or(self.last, |front| front - 1);
        // A heartbeat response may wait for less than what stands before it.
        let mut still_held = VecDeque::new();
        for (number, message) in self.held.drain(..) {
            if number <= through {
                self.released.push(message);
            } else {
                still_held.push_back((number, message));
            }
        }
        self.held = still_held;
        Confirmed { through, snapshot }
    }

    pub(crate) fn take_released(&mut self) -> Vec<RaftMessage> {
        std::mem::take(&mut self.released)
    }

    pub(crate) fn has_released(&self) -> bool {
        !self.released.is_empty()
    }

    pub(crate) fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    /// Whether a leader's snapshot is among what is not yet durable.
    pub(crate) fn snapshot_outstanding(&self) -> bool {
        self.outstanding.iter().any(|write| write.snapshot.is_some())
    }

    /// Whether the disk has made no progress for this long while something waits for it.
    pub(crate) fn stalled(&self, now_us: u64, limit_us: u64) -> bool {
        !self.outstanding.is_empty() && now_us.saturating_sub(self.progress_us) >= limit_us
    }

    fn front(&self) -> Option<u64> {
        self.outstanding.front().map(|write| write.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: Type, index: u64) -> RaftMessage {
        RaftMessage { r#type: kind.into(), index, ..Default::default() }
    }

    fn sent(outbox: &mut Outbox) -> Vec<u64> {
        outbox.take_released().iter().map(|message| message.index).collect()
    }

    #[test]
    fn a_followers_promise_waits_for_every_write_before_it() {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.write(0, 1, true, false, None), None);
        outbox.send(message(Type::MsgAppendResponse, 1), false);
        assert_eq!(outbox.write(0, 2, false, false, None), None);
        outbox.send(message(Type::MsgAppendResponse, 2), false);
        outbox.write(0, 3, true, false, None);
        outbox.send(message(Type::MsgAppendResponse, 3), false);
        assert!(sent(&mut outbox).is_empty());
        assert_eq!(outbox.persisted(1, 1), Confirmed { through: 2, snapshot: None });
        assert_eq!(sent(&mut outbox), [1, 2]);
        assert_eq!(outbox.persisted(1, 3), Confirmed { through: 3, snapshot: None });
        assert_eq!(sent(&mut outbox), [3]);
    }

    #[test]
    fn nothing_waits_for_a_commit_index() {
        let mut outbox = Outbox::default();
        let confirmed = outbox.write(0, 1, false, false, None);
        assert_eq!(confirmed, Some(Confirmed { through: 1, snapshot: None }));
        outbox.send(message(Type::MsgAppendResponse, 1), false);
        assert_eq!(sent(&mut outbox), [1]);
    }

    #[test]
    fn a_leaders_entries_leave_before_its_own_copy_is_durable() {
        let mut outbox = Outbox::default();
        outbox.write(0, 1, true, false, None);
        outbox.send(message(Type::MsgAppend, 1), true);
        assert_eq!(sent(&mut outbox), [1]);
    }

    #[test]
    fn a_leader_is_silent_until_its_vote_for_itself_is_durable() {
        let mut outbox = Outbox::default();
        outbox.write(0, 1, true, true, None);
        outbox.send(message(Type::MsgAppend, 1), true);
        outbox.write(0, 2, true, false, None);
        outbox.send(message(Type::MsgAppend, 2), true);
        assert!(sent(&mut outbox).is_empty());
        outbox.persisted(1, 1);
        assert_eq!(sent(&mut outbox), [1, 2]);
        outbox.send(message(Type::MsgAppend, 3), true);
        assert_eq!(sent(&mut outbox), [3]);
    }

    #[test]
    fn a_heartbeat_response_waits_for_the_term_and_not_for_entries() {
        let mut outbox = Outbox::default();
        outbox.write(0, 1, true, false, None);
        outbox.send(message(Type::MsgHeartbeatResponse, 1), false);
        assert_eq!(sent(&mut outbox), [1]);
        outbox.write(0, 2, true, true, None);
        outbox.write(0, 3, true, false, None);
        outbox.send(message(Type::MsgAppendResponse, 3), false);
        outbox.send(message(Type::MsgHeartbeatResponse, 2), false);
        assert!(sent(&mut outbox).is_empty());
        outbox.persisted(1, 2);
        assert_eq!(sent(&mut outbox), [2]);
    }

    #[test]
    fn the_disk_stalls_only_while_something_waits_and_nothing_moves() {
        let mut outbox = Outbox::default();
        assert!(!outbox.stalled(9_000, 500));
        outbox.write(1_000, 1, true, false, None);
        outbox.write(1_400, 2, true, false, None);
        assert!(!outbox.stalled(1_499, 500));
        assert!(outbox.stalled(1_500, 500));
        outbox.persisted(1_600, 1);
        assert!(!outbox.stalled(2_099, 500));
        assert!(outbox.stalled(2_100, 500));
        outbox.persisted(2_200, 2);
        assert!(!outbox.stalled(9_000, 500));
    }

    #[test]
    fn a_confirmed_snapshot_is_named() {
        let mut outbox = Outbox::default();
        outbox.write(0, 1, true, false, Some(40));
        outbox.write(0, 2, true, false, None);
        assert!(outbox.snapshot_outstanding());
        assert_eq!(outbox.persisted(1, 2), Confirmed { through: 2, snapshot: Some(40) });
        assert!(!outbox.snapshot_outstanding());
    }
}
