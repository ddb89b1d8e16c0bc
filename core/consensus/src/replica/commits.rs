//! What a leader is told by an append that carries nothing but a newer commit index: nothing.
//!
//! raft-rs and etcd's raft answer each. With few writes under way every commit leaves as a message of
//! its own, and its answers would wake the leader once for each follower, to hear what it knows: the
//! follower's log has not grown, and what is said of a commit index is used by nobody.
//!
//! What else an answer is good for, and who sees to that: that the follower lives, and how far away it
//! is, the answers to heartbeats say. If the leader lacks an answer to entries it asks upon the next of
//! those, with an append that carries nothing and commits nothing new; that one is answered.

use raft::eraftpb::MessageType;

use super::Replica;

impl Replica {
    /// Takes back the answer to what the leader just said, for it only moved the commit index. Any
    /// other message stays: with an answer to entries the leader would wait for them in vain.
    pub(super) fn leave_unanswered(&mut self, leader: u64, index: u64) {
        let answer = self.raw.raft.msgs.pop_if(|last| {
            last.get_msg_type() == MessageType::MsgAppendResponse
                && (last.to, last.index, last.reject) == (leader, index, false)
        });
        debug_assert!(answer.is_some(), "the answer to what was taken last");
    }
}
