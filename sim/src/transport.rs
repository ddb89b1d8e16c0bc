//! What members send each other: messages, forwards that go at most once, snapshots by their chunks.

use bytes::Bytes;
use member::{Forward, Input};
use proto::peer::{RaftMessage, TuningAck, raft_message::Type};

use crate::mutant::Mutant;
use crate::world::{CLUSTER_ID, Event, Phase, World};

/// Of a thousand forwards, so many wait for a connection, for up to [`QUEUED_US_MAX`], and leave or are
/// handed back when leaders may have come and gone.
const QUEUED_PERMILLE: u64 = 30;
const QUEUED_US_MAX: u64 = 4_000_000;

impl World {
    pub(crate) fn send(&mut self, from: u64, message: RaftMessage) {
        let to = message.to;
        let now_us = self.now_us;
        if message.durable_index > 0 {
            self.figures.count("durable indexes told");
        }
        if message.r#type() == Type::MsgSnapshot {
            self.figures.count("snapshots sent");
            let arrives = self.network.arrival(now_us, from, to);
            let from_boot = self.nodes[&from].boot;
            let message = Box::new(message);
            return self.at(arrives, Event::Snapshot { from, from_boot, to, message });
        }
        if self.is(Mutant::AckBeforeQuorum)
            && message.r#type() == Type::MsgAppend
            && let Some(last) = message.entries.last()
        {
            let forged = RaftMessage {
                r#type: Type::MsgAppendResponse.into(),
                to: from,
                from: to,
                term: message.term,
                index: last.index,
                ..RaftMessage::default()
            };
            self.input(from, Input::Message(forged));
        }
        if self.is(Mutant::LeaseUnanswered) && message.r#type() == Type::MsgHeartbeat {
            let process = self.nodes[&from].running();
            let epoch = process.map_or(0, |process| process.view.tuning().epoch);
            let forged = RaftMessage {
                r#type: Type::MsgHeartbeatResponse.into(),
                to: from,
                from: to,
                term: message.term,
                sent_us: message.sent_us,
                // The plan is known, and no phase of it confirmed.
                tuning: Some(TuningAck { epoch, ..TuningAck::default() }),
                ..RaftMessage::default()
            };
            self.input(from, Input::Message(forged));
        }
        let is_up = self.nodes.get(&to).is_some_and(|node| node.running().is_some());
        if (!is_up || !self.network.is_open(from, to)) && self.pace.permille(200) {
            self.input(from, Input::PeerUnreachable { to });
        }
        for at in self.network.arrivals(now_us, from, to) {
            self.at(at, Event::Message { to, message: Box::new(message.clone()) });
        }
    }

    pub(crate) fn deliver(&mut self, to: u64, message: RaftMessage) {
        self.trace.note(
            self.now_us,
            &[
                10,
                to,
                message.from,
                u64::from(message.r#type.unsigned_abs()),
                message.term,
                message.index,
            ],
            || {
                format!(
                    "{} -> {to}: {:?} term {} index {} commit {} entries {} durable {}{}",
                    message.from,
                    message.r#type(),
                    message.term,
                    message.index,
                    message.commit,
                    message.entries.len(),
                    message.durable_index,
                    if message.reject { " rejected" } else { "" }
                )
            },
        );
        let durable_index = message.durable_index;
        self.input(to, Input::Message(message));
        self.trust_durable(to, durable_index);
    }

    pub(crate) fn forward(&mut self, from: u64, forward: Forward) {
        let Forward { to, term, commands } = forward;
        self.figures.count("forwards");
        let is_up = self.nodes.get(&to).is_some_and(|node| node.running().is_some());
        if (!is_up || !self.network.is_open(from, to)) && self.pace.permille(500) {
            // Known before a byte has left.
            return self.input(from, Input::NotForwarded { term, commands });
        }
        let mut at = self.network.arrival(self.now_us, from, to);
        if self.phase == Phase::Faults && self.queues.permille(QUEUED_PERMILLE) {
            self.figures.count("forwards that wait for a connection");
            at += self.queues.below(QUEUED_US_MAX);
            if self.queues.permille(500) {
                let boot = self.nodes[&from].boot;
                return self.at(at, Event::HandedBack { node: from, boot, term, commands });
            }
        }
        if self.network.arrivals(self.now_us, from, to).is_empty() {
            self.figures.count("forwards lost");
            return;
        }
        if self.is(Mutant::ForwardTwice) && self.pace.permille(100) {
            let commands = commands.clone();
            self.at(at + 1_000, Event::Forwarded { from, to, term, commands });
        }
        self.at(at, Event::Forwarded { from, to, term, commands });
    }

    pub(crate) fn deliver_forward(&mut self, from: u64, to: u64, term: u64, commands: Vec<Bytes>) {
        self.trace.note(self.now_us, &[11, to, commands.len() as u64], || {
            format!("-> {to}: {} commands forwarded in term {term}", commands.len())
        });
        let term = if self.is(Mutant::ForwardAnyTerm) { 0 } else { term };
        self.input(to, Input::Forwarded { from, term, commands });
    }

    pub(crate) fn hand_back(&mut self, node: u64, boot: u64, term: u64, commands: Vec<Bytes>) {
        let is_same = self.nodes.get(&node).is_some_and(|it| it.boot == boot);
        if is_same {
            self.figures.count("forwards handed back late");
            let term = if self.is(Mutant::HandedBackAnyTerm) { 0 } else { term };
            self.input(node, Input::NotForwarded { term, commands });
        }
    }

    /// The chunks that are missing travel, the receiver makes the snapshot durable, then its member
    /// hears of it.
    pub(crate) fn deliver_snapshot(
        &mut self,
        from: u64,
        from_boot: u64,
        to: u64,
        message: RaftMessage,
    ) {
        let ok = self.transfer(from, from_boot, to, &message);
        self.figures.count(if ok { "snapshots received" } else { "snapshot transfers failed" });
        self.trace.note(self.now_us, &[12, from, to, u64::from(ok)], || {
            let index = message.snapshot.as_ref().map_or(0, |meta| meta.index);
            format!("{from} -> {to}: snapshot at {index}: {ok}")
        });
        if ok {
            self.input(to, Input::Message(message));
            // The moments after are delicate: log and state are to be replaced in their order.
            let is_hit = self.loss.permille(300);
            let after_us = self.loss.below(20_000);
            if is_hit && self.phase == Phase::Faults && self.plan.faults.process_deaths {
                let boot = self.nodes[&to].boot;
                self.after(after_us, Event::Crash { node: to, boot });
            }
        }
        let at = self.network.arrival(self.now_us, to, from);
        self.at(at, Event::SnapshotSent { node: from, boot: from_boot, to, ok });
    }

    fn transfer(&mut self, from: u64, from_boot: u64, to: u64, message: &RaftMessage) -> bool {
        if !self.network.is_open(from, to) || !self.network.is_open(to, from) {
            return false;
        }
        let Some(meta) = message.snapshot.clone() else { return false };
        if meta.cluster_id != CLUSTER_ID {
            // As the server answers: it would be another cluster's.
            self.figures.count("snapshots of another cluster");
            return false;
        }
        let hashes: Vec<[u8; 32]> =
            meta.chunks.iter().filter_map(|chunk| chunk.hash.as_ref().try_into().ok()).collect();
        let Some(receiver) = self.nodes.get_mut(&to).and_then(|node| node.process.as_deref_mut())
        else {
            return false;
        };
        let missing = receiver.snapshots.missing(&hashes);
        let Some(sender) = self.nodes.get_mut(&from).and_then(|node| node.process_of(from_boot))
        else {
            return false;
        };
        let mut chunks = Vec::new();
        for hash in missing {
            match sender.snapshots.read_chunk(&hash) {
                Ok(chunk) => chunks.push((hash, chunk)),
                // A newer snapshot has let it go.
                Err(_) => return false,
            }
        }
        let skips_commit = self.is(Mutant::SnapshotNotCommitted);
        let Some(receiver) = self.nodes.get_mut(&to).and_then(|node| node.process.as_deref_mut())
        else {
            return false;
        };
        let mut done = Ok(());
        for (hash, chunk) in chunks {
            done = done.and_then(|()| receiver.snapshots.write_chunk(hash, &chunk));
        }
        if !skips_commit {
            done = done.and_then(|()| receiver.snapshots.commit(&meta));
        }
        if let Err(error) = done {
            self.disk_failed(to, &error.to_string());
            return false;
        }
        true
    }

    pub(crate) fn snapshot_sent(&mut self, id: u64, boot: u64, to: u64, ok: bool) {
        if self.nodes.get(&id).is_some_and(|node| node.boot == boot) {
            self.input(id, Input::SnapshotSent { to, ok });
        }
    }
}
