//! What a leader is told by an append that carries nothing but a newer commit index: nothing.
//!
//! raft-rs and etcd's raft answer each. With few writes under way every commit leaves as a message of
//! its own, and its answers would wake the leader once for each follower, to hear what it knows: the
//! follower's log has not grown, and what is said of a commit index is used by nobody.
//!
//! What else an answer is good for, and who sees to that: that the follower lives, and how far away it
//! is, the answers to heartbeats say. If the leader lacks an answer to entries it asks upon the next of
//! those, with an append that carries nothing and commits nothing new; that one is answered. New is what
//! the leader has not named before, though the follower may know it from what is durable at both.

use proto::peer::raft_message::Type;
use raft::eraftpb::{Message, MessageType};

use super::Replica;

/// The commit index a leader names by a message; `None`: by this one it names none.
pub(super) fn named(kind: Type, message: &Message) -> Option<u64> {
    let last = message.index + message.entries.len() as u64;
    match kind {
        Type::MsgAppend => Some(message.commit.min(last)),
        Type::MsgHeartbeat => Some(message.commit),
        _ => None,
    }
}

impl Replica {
    /// The leader has named a commit index; before, what was committed here was this. Whether it is new.
    pub(super) fn is_named(&mut self, term: u64, commit: u64, before: u64) -> bool {
        let raft = &self.raw.raft;
        raft.term == term && self.heard.name(term, commit, before, raft.raft_log.committed)
    }

    /// Takes back the answer to what the leader just said, for it only moved the commit index. Any
    /// other message stays: with an answer to entries the leader would wait for them in vain, and a
    /// refusal has to be heard.
    pub(super) fn leave_unanswered(&mut self, leader: u64, index: u64) {
        self.raw.raft.msgs.pop_if(|last| {
            last.get_msg_type() == MessageType::MsgAppendResponse
                && (last.to, last.index, last.reject) == (leader, index, false)
        });
    }
}
