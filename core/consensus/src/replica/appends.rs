//! What the answer to a heartbeat says of appends that are on their way to a follower.
//!
//! Raft takes each for a sign that they are lost: it sends the probe again, with everything that has
//! gathered meanwhile, or lets one message more out of a full window. Where the round trip is many
//! heartbeat intervals that happens many times before the first answer can be there: dozens of copies
//! of a megabyte follow one another down a road that has just become slow, and nothing is committed.
//!
//! So an answer counts only if its heartbeat was sent after the append, and the next time twice as long
//! after it, up to [`DOUBLINGS_MAX`] times: heartbeats have a connection of their own and overtake.

use std::collections::BTreeMap;

use proto::peer::{RaftMessage, raft_message::Type};
use raft::ProgressState;

use super::Replica;

/// How often the wait for an append's answer is doubled, beginning at one round trip of a heartbeat.
const DOUBLINGS_MAX: u32 = 2;

/// Of each follower: what is on its way.
#[derive(Debug, Default)]
pub(super) struct Appends(BTreeMap<u64, OnWay>);

#[derive(Clone, Copy, Debug, Default)]
struct OnWay {
    /// When the newest append left.
    sent_us: u64,
    /// How often it was taken for lost since the last answer.
    repeats: u32,
}

impl Appends {
    /// An append leaves.
    pub(super) fn sent(&mut self, now_us: u64, to: u64) {
        self.0.entry(to).or_default().sent_us = now_us;
    }

    /// The follower answers, or what was sent is known to be lost.
    pub(super) fn over(&mut self, from: u64) {
        self.0.remove(&from);
    }

    /// Who is no peer any more is sent nothing.
    pub(super) fn retain(&mut self, is_peer: impl Fn(u64) -> bool) {
        self.0.retain(|id, _| is_peer(*id));
    }

    /// Whether the answer to the heartbeat of this time comes before that to the append could. If not,
    /// the append is taken for lost.
    fn may_still_be_answered(&mut self, now_us: u64, from: u64, heartbeat_us: u64) -> bool {
        let Some(on_way) = self.0.get_mut(&from) else { return false };
        let round_trip_us = now_us.saturating_sub(heartbeat_us);
        let waits_us = round_trip_us.saturating_mul((1 << on_way.repeats) - 1);
        if heartbeat_us < on_way.sent_us.saturating_add(waits_us) {
            return true;
        }
        on_way.repeats = (on_way.repeats + 1).min(DOUBLINGS_MAX);
        false
    }
}

impl Replica {
    /// Whether raft must not take the answer to this heartbeat for a sign that an append is lost.
    pub(super) fn is_no_sign_of_loss(&mut self, kind: Type, message: &RaftMessage) -> bool {
        // 0: by one that does not say what it answers.
        let is_answer = kind == Type::MsgHeartbeatResponse && message.sent_us > 0;
        if !is_answer || !self.is_leader() || message.term != self.raw.raft.term {
            return false;
        }
        let from = message.from;
        let Some(progress) = self.raw.raft.prs().get(from) else { return false };
        let waits = match progress.state {
            ProgressState::Probe => progress.paused,
            ProgressState::Replicate => progress.ins.full(),
            ProgressState::Snapshot => false,
        };
        waits && self.appends.may_still_be_answered(self.now_us, from, message.sent_us)
    }

    /// Whether this answers the newest append, as far as one can tell: who is asked again with the first
    /// commands of a term, and has another log, refuses both, and has been asked anew by then.
    pub(super) fn is_of_newest_append(&self, message: &RaftMessage) -> bool {
        let progress = self.raw.raft.prs().get(message.from);
        let is_question = |it: &&raft::Progress| it.state == ProgressState::Probe;
        let asked = progress.filter(is_question).map(|it| it.next_idx.saturating_sub(1));
        !message.reject || asked.is_none_or(|index| index == message.index)
    }

    /// Gives raft an answer to a heartbeat and keeps it from sending upon it.
    pub(super) fn step_without_sending(
        &mut self,
        message: raft::eraftpb::Message,
    ) -> raft::Result<()> {
        let from = message.from;
        let state = |replica: &mut Replica, set: Option<(ProgressState, bool)>| {
            let progress = replica.raw.raft.mut_prs().get_mut(from)?;
            let before = (progress.state, progress.paused);
            if let Some((state, paused)) = set {
                (progress.state, progress.paused) = (state, paused);
            }
            Some(before)
        };
        // Who is sent a snapshot is sent nothing else.
        let before = state(self, Some((ProgressState::Snapshot, true)));
        let stepped = self.raw.step(message);
        state(self, before);
        stepped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_append_is_taken_for_lost_after_a_round_trip_then_after_two_and_after_four() {
        let mut appends = Appends::default();
        assert!(!appends.may_still_be_answered(0, 2, 0), "nothing is on its way");
        let (round_trip_us, interval_us) = (1_500_000, 25_000);
        let mut sent_us = 10_000_000;
        appends.sent(sent_us, 2);
        let mut waited = Vec::new();
        for number in 0..2_000 {
            let heartbeat_us = 8_500_000 + number * interval_us;
            let now_us = heartbeat_us + round_trip_us;
            if now_us > sent_us && !appends.may_still_be_answered(now_us, 2, heartbeat_us) {
                waited.push((now_us - sent_us).div_ceil(round_trip_us));
                sent_us = now_us;
                appends.sent(now_us, 2);
            }
        }
        assert_eq!(waited[..4], [1, 2, 4, 4]);
        appends.over(2);
        appends.sent(60_000_000, 2);
        assert!(appends.may_still_be_answered(60_000_001, 2, 59_999_999));
        assert!(!appends.may_still_be_answered(61_500_000, 2, 60_000_000));
    }
}
