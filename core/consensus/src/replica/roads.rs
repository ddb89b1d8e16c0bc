//! How much is sent to each follower before it answers: what its road holds, within the bounds set.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use autotune::Batching;
use bytes::Bytes;
use raft::{ProgressState, eraftpb};

use super::Replica;
use crate::config::ENTRY_OVERHEAD_BYTES;
use crate::convert;
use crate::error::ConsensusError;
use crate::flow::{Flow, MESSAGE_BYTES_FIRST};

/// The ways to the followers of a leader.
#[derive(Debug, Default)]
pub(super) struct Roads {
    flows: BTreeMap<u64, Flow>,
    /// The term's own first entry, with which followers are asked where their logs end; none: commands
    /// have left since.
    question: Option<u64>,
}

impl Roads {
    /// Of a leader whose term begins with this entry.
    pub(super) fn of_term(first_index: u64) -> Self {
        Roads { question: Some(first_index), ..Roads::default() }
    }
}

impl Replica {
    /// Changes the bounds from now on: entry bytes in one message, and messages and bytes on the way
    /// to one follower. A smaller window takes effect as the larger one drains.
    pub fn set_window(
        &mut self,
        message_bytes_max: u64,
        inflight_max: usize,
        inflight_bytes_max: u64,
    ) -> Result<(), ConsensusError> {
        let config = crate::Config {
            message_bytes_max,
            inflight_max,
            inflight_bytes_max,
            ..self.config.clone()
        };
        config.validate()?;
        self.config = config;
        self.open_windows();
        Ok(())
    }

    /// A message leaves.
    pub(super) fn note_sent(&mut self, message: &eraftpb::Message) {
        if message.get_msg_type() != eraftpb::MessageType::MsgAppend {
            return;
        }
        self.appends.sent(self.now_us, message.to);
        let Some(last) = message.entries.last() else { return };
        let bytes = message.entries.iter().map(|entry| entry.data.len() as u64).sum();
        let flow = self.roads.flows.entry(message.to).or_default();
        flow.sent(self.now_us, last.index, bytes);
        self.open_window(message.to);
    }

    /// A follower has everything up to here.
    pub(super) fn note_acknowledged(&mut self, from: u64, index: u64) {
        if let Some(flow) = self.roads.flows.get_mut(&from) {
            flow.acknowledged(self.now_us, index);
            self.open_window(from);
            self.fit_messages();
        }
    }

    /// After whatever may have made raft forget its windows, or changed the bounds.
    pub(super) fn open_windows(&mut self) {
        let peers = self.raw.raft.prs();
        self.roads.flows.retain(|id, _| peers.get(*id).is_some());
        let ids: Vec<u64> = peers.iter().map(|(id, _)| *id).collect();
        for id in ids {
            self.open_window(id);
        }
        self.fit_messages();
    }

    /// Raft counts messages. Where the bytes are too many, those on the way are all there may be.
    fn open_window(&mut self, id: u64) {
        let Some(progress) = self.raw.raft.prs().get(id) else { return };
        let on_way = progress.ins.count();
        let streams = progress.state == ProgressState::Replicate;
        let mut window = self.config.inflight_max;
        if let Some(flow) = self.roads.flows.get_mut(&id) {
            if !streams {
                flow.broken();
            }
            window = flow.window(window);
            if flow.bytes() >= self.config.inflight_bytes_max {
                window = window.min(on_way);
            }
        }
        self.raw.raft.adjust_max_inflight_msgs(id, window.max(1));
    }

    /// Messages are as long as the slowest road in use bears, and no longer than what those roads have
    /// carried so far that a commit needs; or a learner's, which is sent what others have long had.
    /// Returns what those roads have carried, if anybody else has a vote.
    fn fit_messages(&mut self) -> Option<u64> {
        let heartbeat_us = self.clock.timing().heartbeat_interval_us;
        let flows = &self.roads.flows;
        let fitting = flows.values().filter_map(|flow| flow.message_bytes(heartbeat_us)).min();
        let most = self.config.message_bytes_max;
        let shown = self.shown_bytes();
        let longest = shown.map_or(most, |bytes| {
            let learners = self.raw.raft.prs().conf().learners();
            let of = |id: &u64| flows.get(id).map_or(0, |flow| flow.shown_bytes(self.now_us));
            bytes.max(learners.iter().map(of).max().unwrap_or(0))
        });
        self.raw.raft.max_msg_size = fitting.unwrap_or(most).min(longest).min(most);
        shown
    }

    /// What the roads have shown that they carry to as many voters as a commit needs, at least the first
    /// messages' length; `None`: nobody else has a vote.
    fn shown_bytes(&self) -> Option<u64> {
        let Reverse(bytes) = self.needed(|flow| Reverse(flow.shown_bytes(self.now_us)))?;
        Some(bytes.max(MESSAGE_BYTES_FIRST))
    }

    /// Of the ways to the other voters, the least values first, the last that a quorum needs, this member
    /// being of it. `None`: there are no others.
    fn needed<T: Copy + Ord>(&self, of: impl Fn(&Flow) -> T) -> Option<T> {
        let peers = self.raw.raft.prs();
        let votes = |id: u64| id != self.config.id && peers.conf().voters().contains(id);
        let others = peers.iter().filter(|(id, _)| votes(**id));
        let unused = Flow::default();
        let ways = others.map(|(id, _)| self.roads.flows.get(id).unwrap_or(&unused));
        let mut values: Vec<T> = ways.map(of).collect();
        values.sort_unstable();
        values.get(values.len().div_ceil(2).checked_sub(1)?).copied()
    }

    /// Entries made now: within the bounds set, and short where messages are. An entry is never cut.
    pub(super) fn fit_entries(&mut self) -> Batching {
        let batching = self.config.batching;
        // The term's own first entry may have to go along.
        let shown = self.fit_messages().map_or(u64::MAX, |bytes| bytes - 2 * ENTRY_OVERHEAD_BYTES);
        Batching { entry_bytes_max: batching.entry_bytes_max.min(shown), ..batching }
    }

    /// Upon a proposal raft sends one message, and what does not fit waits for an answer. So entries are
    /// proposed by the message, until no more bytes may be on the way.
    pub(super) fn in_messages(&self, entries: Vec<Bytes>) -> Vec<Vec<eraftpb::Entry>> {
        let most = self.raw.raft.max_msg_size;
        // A way that is full is sent nothing more anyway.
        let on_way = self.needed(Flow::bytes).unwrap_or(0);
        let mut room = self.config.inflight_bytes_max.saturating_sub(on_way);
        let mut messages: Vec<Vec<eraftpb::Entry>> = Vec::new();
        let mut bytes = 0;
        for entry in entries {
            let more = entry.len() as u64 + ENTRY_OVERHEAD_BYTES;
            match messages.last_mut() {
                Some(message) if bytes + more <= most || room == 0 => {
                    bytes += more;
                    message.push(convert::proposal(entry));
                }
                _ => {
                    bytes = more;
                    messages.push(vec![convert::proposal(entry)]);
                }
            }
            room = room.saturating_sub(more);
        }
        messages
    }

    /// A new leader's first append asks each follower where its log ends, and raft sends it nothing else
    /// until that is answered. It mostly ends where the leader's own does, so the first commands of a
    /// term follow at once, as part of the same question asked again, instead of a round trip later.
    /// Raft will send them once more; they are as short as a road's first messages are.
    pub(super) fn send_behind_question(&mut self) {
        let Some(question) = self.roads.question.take() else { return };
        let raft = &mut self.raw.raft;
        let is_asked = |progress: &raft::Progress| {
            progress.state == ProgressState::Probe
                && progress.paused
                && progress.next_idx == question
        };
        let asked: Vec<u64> =
            raft.prs().iter().filter(|(_, it)| is_asked(it)).map(|(id, _)| *id).collect();
        for id in asked {
            if let Some(progress) = raft.mut_prs().get_mut(id) {
                progress.resume();
                raft.send_append(id);
            }
        }
    }

    /// Messages that may be on the way to a follower, and the bytes that are.
    pub(super) fn road(&self, id: u64) -> (usize, u64) {
        let most = self.config.inflight_max;
        self.roads.flows.get(&id).map_or((most, 0), |flow| (flow.window(most), flow.bytes()))
    }
}
