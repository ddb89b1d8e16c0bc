//! How much is sent to each follower before it answers: what its road holds, within the bounds set.

use std::collections::BTreeMap;

use raft::{ProgressState, eraftpb};

use super::Replica;
use crate::error::ConsensusError;
use crate::flow::Flow;

/// The ways to the followers of a leader.
#[derive(Debug, Default)]
pub(super) struct Roads(BTreeMap<u64, Flow>);

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
        let flow = self.roads.0.entry(message.to).or_default();
        flow.sent(self.now_us, last.index, bytes);
        self.open_window(message.to);
    }

    /// A follower has everything up to here.
    pub(super) fn note_acknowledged(&mut self, from: u64, index: u64) {
        if let Some(flow) = self.roads.0.get_mut(&from) {
            flow.acknowledged(self.now_us, index);
            self.open_window(from);
            self.fit_messages();
        }
    }

    /// After whatever may have made raft forget its windows, or changed the bounds.
    pub(super) fn open_windows(&mut self) {
        let peers = self.raw.raft.prs();
        self.roads.0.retain(|id, _| peers.get(*id).is_some());
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
        if let Some(flow) = self.roads.0.get_mut(&id) {
            if !streams {
                flow.lost();
            }
            window = flow.window(window);
            if flow.bytes() >= self.config.inflight_bytes_max {
                window = window.min(on_way);
            }
        }
        self.raw.raft.adjust_max_inflight_msgs(id, window.max(1));
    }

    /// Messages are as long as the slowest road in use bears.
    fn fit_messages(&mut self) {
        let heartbeat_us = self.clock.timing().heartbeat_interval_us;
        let fitting = self.roads.0.values().filter_map(|flow| flow.message_bytes(heartbeat_us));
        let most = self.config.message_bytes_max;
        self.raw.raft.max_msg_size = fitting.min().map_or(most, |bytes| bytes.min(most));
    }

    /// Messages that may be on the way to a follower, and the bytes that are.
    pub(super) fn road(&self, id: u64) -> (usize, u64) {
        let most = self.config.inflight_max;
        self.roads.0.get(&id).map_or((most, 0), |flow| (flow.window(most), flow.bytes()))
    }
}
