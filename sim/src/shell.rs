//! The shell around each simulated member: what the server's threads do, done by events.
//!
//! The rooms are the same and so is the order of things: effects are destructured without `..`, the
//! log takes whatever has gathered while it was busy, apply joins what waits behind each other,
//! readers see a state before anyone is told of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use member::consensus::{Config, Role};
use member::state::backend::{Backend as _, MemBackend, Writeback, load};
use member::state::watch::{Hub, HubLimits};
use member::state::{Changes, Event as StateEvent, Limits, StateParts, View};
use member::wal::{LogFaults, LogOptions};
use member::{
    Applied, ApplyTask, ApplyWorker, Booted, DiskTask, Effects, Forward, Input, LogWorker, Member,
    MemberConfig, Proposal, Recovery, SnapshotPolicy, conf_state_of,
};
use prost::Message as _;
use proto::etcdserverpb::WatchCreateRequest;
use proto::log::command::Op;
use proto::log::{Chunk, MemberPublish};
use proto::peer::{RaftMessage, raft_message::Type};

use crate::mutant::Mutant;
use crate::node::{Caller, Issued, Running, WRITEBACK, encoded};
use crate::truth::Watching;
use crate::world::{CLUSTER_ID, Event, Phase, World};

/// How long a step waits for more inputs at most.
const GATHER_US: u64 = 60;
/// The log marks itself after so long without work.
const LOG_IDLE_US: u64 = 1_000_000;
/// Steps of one member within one microsecond beyond which it is stuck.
const STEPS_AT_ONCE_MAX: u64 = 200;
/// Revisions read for watchers that are behind, at a time.
const CATCH_UP_REVISIONS: usize = 40;
/// Between two tries of a member to say who it is.
const PUBLISH_EVERY_US: u64 = 500_000;

/// Of a thousand crashes, so many cost the backend.
const BACKEND_LOST_PERMILLE: u64 = 150;

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crash {
    /// The process dies, the page cache lives.
    Death,
    /// The machine loses its power.
    Power,
}

impl World {
    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    pub(crate) fn recovery(&mut self, id: u64) -> Recovery {
        let faults = LogFaults {
            skip_data_sync: self.is(Mutant::SkipDataSync),
            skip_recovery_sync: self.is(Mutant::SkipRecoverySync),
            skip_dir_sync: self.is(Mutant::SkipDirSync),
            skip_rollover_sync: self.is(Mutant::SkipRolloverSync),
            ignore_watermark: self.is(Mutant::IgnoreWatermark),
        };
        Recovery {
            log: LogOptions {
                segment_bytes: self.plan.segment_bytes,
                salt_seed: self.boots.next() ^ id,
                allow_damaged_tail: false,
                faults,
            },
            limits: Limits::default(),
        }
    }

    // Processes --------------------------------------------------------------------------------

    /// Ends a process and settles what its disk keeps.
    pub(crate) fn crash(&mut self, id: u64, crash: Crash, restart_us: u64) {
        self.figures.count(match crash {
            Crash::Death => "process deaths",
            Crash::Power => "power losses",
        });
        self.trace.note(self.now_us, &[4, id, crash as u64], || format!("{id}: {crash:?}"));
        self.stop(id);
        self.lose(id, crash);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let boot = node.boot;
        self.after(restart_us, Event::Restart { node: id, boot });
    }

    pub(crate) fn crash_soon(&mut self, id: u64, boot: u64) {
        let is_same = self.nodes.get(&id).is_some_and(|n| n.boot == boot && n.process.is_some());
        if is_same && self.phase == Phase::Faults {
            self.figures.count("crashes while a snapshot is installed");
            let crash = if self.loss.permille(500) { Crash::Power } else { Crash::Death };
            self.crash(id, crash, 50_000);
        }
    }

    fn lose(&mut self, id: u64, crash: Crash) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let loss = &mut self.loss;
        match crash {
            Crash::Death => node.disk.get().process_crash(),
            Crash::Power => node.disk.get().power_loss(&mut |end| loss.below(end)),
        }
        let kept = loss.below(node.backend.unflushed() as u64 + 1);
        node.backend.crash(usize::try_from(kept).unwrap_or(0));
        if loss.permille(BACKEND_LOST_PERMILLE) {
            // It may be thrown away at any time: nothing is promised on it.
            self.figures.count("backends lost");
            node.backend = MemBackend::new();
        }
    }

    /// Ends a process. Whoever waited for it never learns how that ended.
    pub(crate) fn stop(&mut self, id: u64) {
        self.end_watchers(id, false);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.boot += 1;
        node.paused_us = 0;
        let Some(process) = node.process.take() else { return };
        let waiting: Vec<Caller> =
            process.callers.into_values().chain(process.reads.into_iter().map(|r| r.1)).collect();
        for caller in waiting {
            self.hung_up(caller);
        }
    }

    pub(crate) fn restart(&mut self, id: u64, boot: u64) {
        let Some(node) = self.nodes.get(&id) else { return };
        if node.boot == boot && !node.is_retired && node.process.is_none() {
            self.start(id);
        }
    }

    /// Starts a process on what its machine has.
    pub(crate) fn start(&mut self, id: u64) {
        let recovery = self.recovery(id);
        let empties = self.is(Mutant::EmptyDisk) && self.nodes[&id].starts == 1;
        let lies = self.is(Mutant::LyingDirSync);
        let fault = match self.mutant {
            Some(Mutant::AppliedAhead) => member::state::backend::MemFault::AppliedAhead,
            Some(Mutant::AppliedBehind) => member::state::backend::MemFault::AppliedBehind,
            _ => member::state::backend::MemFault::None,
        };
        let torn = self.phase == Phase::Faults
            && self.nodes[&id].starts > 0
            && self.plan.faults.torn_writes
            && self.loss.permille(150);
        let stale_blocks = self.plan.stale_blocks;
        let cut = torn.then(|| self.loss.below(40));
        let new_origin = self.boots.next() | 1;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.starts += 1;
        if empties {
            let fresh = crate::node::Node::newcomer(node.identity, &recovery);
            node.disk = fresh.disk;
            node.backend = fresh.backend;
        }
        node.backend.set_fault(fault);
        {
            let mut disk = node.disk.get();
            disk.faults.stale_blocks = stale_blocks;
            disk.faults.ignore_sync_dir = lies;
            disk.faults.power_off_after = cut;
        }
        let loaded = match load(&node.backend) {
            Ok(loaded) => loaded,
            Err(error) => {
                return self.broken(format!(
                    "backend: what a crash left of member {id}'s is no state it had: {error}"
                ));
            }
        };
        let (parts, layout) = loaded.map_or((None, None), |it| (Some(it.parts), Some(it.layout)));
        let (disk, identity) = (node.disk.clone(), node.identity);
        let recovered =
            member::recover(disk.clone(), disk.clone(), Some(identity), &recovery, parts);
        let powered_off = disk.get().faults.power_off_after == Some(0);
        disk.get().faults.power_off_after = None;
        let booted = match recovered {
            Ok(booted) => booted,
            Err(_) if powered_off => {
                self.figures.count("crashes while recovering");
                let crash = if self.loss.permille(500) { Crash::Power } else { Crash::Death };
                return self.crash(id, crash, 1_000);
            }
            Err(error) => return self.cannot_recover(id, &error.to_string()),
        };
        if let Err(promise) = node.confirmed.check(&booted.boot) {
            return self.broken(format!("durability: member {id} {promise}"));
        }
        let members = booted.state.members();
        if !members.is_empty() && members.iter().all(|row| row.id != id) {
            node.is_retired = true;
            return;
        }
        if node.origin == 0 || self.mutant != Some(Mutant::SameOrigin) {
            node.origin = new_origin;
        }
        self.begin(id, booted, layout);
    }

    fn cannot_recover(&mut self, id: u64, error: &str) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some((path, bit)) = node.rotten.take() else {
            return self.broken(format!("durability: member {id} can not be recovered: {error}"));
        };
        // It noticed, and said so. Somebody brings the right bit back.
        self.trace.note(self.now_us, &[5, id], || format!("{id}: refuses its rotten log: {error}"));
        self.figures.count("rot refused");
        if node.disk.get().content(&path).is_some() {
            node.disk.get().flip_bit(&path, bit);
        }
        self.start(id);
    }

    fn begin(
        &mut self,
        id: u64,
        booted: Booted<crate::disk::SharedDisk>,
        layout: Option<member::state::backend::Layout>,
    ) {
        let Booted { state, boot, log, snapshots, held, from_backend, .. } = booted;
        let now_us = self.now_us;
        self.figures.count(if from_backend {
            "boots from the backend"
        } else {
            "boots from a snapshot"
        });
        let mut apply = ApplyWorker::new(state);
        let view = apply.view();
        self.trace.note(now_us, &[6, id, view.applied_index(), boot.entries.len() as u64], || {
            format!(
                "{id}: starts at index {} with {} entries, {:?}, snapshot {:?}",
                view.applied_index(),
                boot.entries.len(),
                boot.hard_state,
                boot.snapshot.as_ref().map(|meta| (meta.index, meta.term))
            )
        });
        let origin = self.nodes[&id].origin;
        let mut consensus = Config::new(id, origin);
        consensus.timing = self.plan.timing;
        consensus.log_entries_kept = self.plan.log_entries_kept;
        consensus.log_bytes_kept = 1 << 20;
        consensus.message_bytes_max = 16 << 10;
        let config = MemberConfig {
            cluster_id: CLUSTER_ID,
            origin,
            consensus,
            snapshots: SnapshotPolicy {
                entries: Some(self.plan.snapshot_entries),
                ..SnapshotPolicy::default()
            },
            strict_reconfig_check: self.plan.strict_reconfig_check,
        };
        let commit = boot.hard_state.map_or(0, |hard| hard.commit);
        let member = match Member::new(config, boot, &view, held, 0) {
            Ok(member) => member,
            Err(error) => return self.broken(format!("durability: member {id}: {error}")),
        };
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.confirmed.issued.clear();
        let writeback = match layout.filter(|_| from_backend) {
            Some(layout) => Some(Writeback::resume(WRITEBACK, layout, &view)),
            None => rebuilt(&mut node.backend, &view),
        };
        node.process = Some(Box::new(Running {
            origin,
            started_us: now_us,
            member,
            log: LogWorker::new(log),
            apply,
            snapshots,
            writeback,
            hub: Hub::new(
                HubLimits { stream_buffer_bytes_max: 4 << 10, ..HubLimits::default() },
                &view,
            ),
            view: view.clone(),
            inbox: Vec::new(),
            wake_us: u64::MAX,
            log_tasks: Vec::new(),
            log_runs: false,
            apply_tasks: Vec::new(),
            apply_runs: false,
            save_tasks: VecDeque::new(),
            save_runs: false,
            next_ticket: 0,
            callers: BTreeMap::new(),
            reads: Vec::new(),
            leases: BTreeMap::new(),
            leader: None,
            is_leader: false,
            commit,
            applied_early: 0,
            watchers: BTreeMap::new(),
            steps_now: (0, 0),
        }));
        let boot = node.boot;
        self.truth.published(id, view.applied(), &[]);
        self.watch(id);
        self.wake_at(id, now_us);
        self.after(LOG_IDLE_US, Event::LogIdle { node: id, boot });
        self.after(0, Event::Publish { node: id, boot });
    }

    /// A member nobody knows by name says who it is, until it is heard.
    pub(crate) fn publish(&mut self, id: u64, boot: u64) {
        let Some(running) = self.nodes.get_mut(&id).and_then(|node| node.process_of(boot)) else {
            return;
        };
        if running.view.member(id).is_some_and(|row| !row.name.is_empty()) {
            return;
        }
        let op = Op::MemberPublish(MemberPublish {
            member_id: id,
            name: format!("m{id}"),
            client_urls: Vec::new(),
            version: String::from("3.6.0"),
        });
        self.propose(id, Caller::Chore, op);
        self.after(PUBLISH_EVERY_US, Event::Publish { node: id, boot });
    }

    /// Hands a command to a member. Returns origin and sequence, unless it does not run.
    pub(crate) fn propose(&mut self, id: u64, caller: Caller, op: Op) -> Option<(u64, u64)> {
        let timeout_us = self.plan.request_timeout_us;
        let now_us = self.now_us;
        let running = self.nodes.get_mut(&id)?.process.as_deref_mut()?;
        let sequence = running.ticket(caller);
        let origin = running.origin;
        let deadline_us = running.local_us(now_us) + timeout_us;
        let command = encoded(origin, sequence, op);
        self.input(id, Input::Propose(vec![Proposal { sequence, deadline_us, command }]));
        Some((origin, sequence))
    }

    // Steps ------------------------------------------------------------------------------------

    /// Puts something into a member's inbox.
    pub(crate) fn input(&mut self, id: u64, input: Input) {
        let gather_us = self.pace.below(GATHER_US);
        let Some(running) = self.nodes.get_mut(&id).and_then(|node| node.process.as_deref_mut())
        else {
            return;
        };
        running.inbox.push(input);
        self.wake_at(id, self.now_us + gather_us);
    }

    fn wake_at(&mut self, id: u64, at_us: u64) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let boot = node.boot;
        let Some(running) = node.process.as_deref_mut() else { return };
        if at_us < running.wake_us {
            running.wake_us = at_us;
            self.at(at_us, Event::Wake { node: id, boot });
        }
    }

    pub(crate) fn wake(&mut self, id: u64, boot: u64) {
        let now_us = self.now_us;
        let Some(running) = self.nodes.get_mut(&id).and_then(|node| node.process_of(boot)) else {
            return;
        };
        if running.wake_us > now_us {
            return;
        }
        running.wake_us = u64::MAX;
        running.steps_now = if running.steps_now.0 == now_us {
            (now_us, running.steps_now.1 + 1)
        } else {
            (now_us, 0)
        };
        if running.steps_now.1 > STEPS_AT_ONCE_MAX {
            return self.broken(format!("liveness: member {id} wants to be stepped without end"));
        }
        let inputs = std::mem::take(&mut running.inbox);
        let taken = inputs.len() as u64;
        let effects = running.member.step(running.local_us(now_us), inputs);
        self.trace.note(
            now_us,
            &[7, id, taken, effects.net.len() as u64, effects.disk.len() as u64],
            || {
                format!(
                    "{id}: step of {taken} inputs: {} messages, {} disk, {} apply, {} replies",
                    effects.net.len(),
                    effects.disk.len(),
                    effects.apply.len(),
                    effects.reply.len()
                )
            },
        );
        self.carry_out(id, effects);
        self.check_member(id);
    }

    fn carry_out(&mut self, id: u64, effects: Effects) {
        let Effects { disk, net, forward, apply, reply, leadership, removed, again, wake_at_us } =
            effects;
        let now_us = self.now_us;
        if let Some(leadership) = leadership {
            if leadership.is_leader {
                self.truth.leads(leadership.term, id);
                self.figures.count("leaders");
            }
            let (term, leader) = (leadership.term, leadership.leader.unwrap_or(0));
            self.trace.note(now_us, &[8, id, term, leader], || {
                format!("{id}: leader {leader} in term {term}")
            });
            if let Some(running) = self.nodes.get_mut(&id).and_then(|n| n.process.as_deref_mut()) {
                running.leader = leadership.leader;
                running.is_leader = leadership.is_leader;
            }
        }
        self.give_disk(id, disk);
        for message in net {
            self.send(id, message);
        }
        if let Some(forward) = forward {
            self.forward(id, forward);
        }
        self.give_apply(id, apply);
        for reply in reply {
            self.replied(id, reply);
        }
        if removed {
            self.retire(id);
            return;
        }
        let Some(running) = self.nodes.get(&id).and_then(|node| node.running()) else { return };
        let wake_us = running.started_us + wake_at_us;
        self.wake_at(id, if again { now_us } else { wake_us });
    }

    fn retire(&mut self, id: u64) {
        self.figures.count("members retired");
        self.trace.note(self.now_us, &[9, id], || format!("{id}: has left the cluster"));
        self.stop(id);
        if let Some(node) = self.nodes.get_mut(&id) {
            node.is_retired = true;
        }
    }

    /// What a member says of itself, after each step.
    fn check_member(&mut self, id: u64) {
        let Some(running) = self.nodes.get_mut(&id).and_then(|node| node.process.as_deref_mut())
        else {
            return;
        };
        let status = running.member.status();
        let before = std::mem::replace(&mut running.commit, status.commit);
        let applied = running.view.applied_index();
        let mut conf = conf_state_of(running.member.members());
        let mut found = status.conf_state;
        for ids in [&mut conf.voters, &mut conf.learners, &mut found.voters, &mut found.learners] {
            ids.sort_unstable();
        }
        if status.role == Role::Leader {
            self.truth.leads(status.term, id);
        }
        if status.commit < before {
            self.broken(format!(
                "commit: member {id} went back from {before} to {}",
                status.commit
            ));
        }
        if applied > status.commit {
            self.broken(format!(
                "commit: member {id} has applied {applied}, but only {} is committed",
                status.commit
            ));
        }
        // A snapshot that the replica has taken and the state has not: they meet when it is applied.
        let is_restoring = status.first_index > applied + 1;
        let is_empty = conf.voters.is_empty();
        if !is_restoring
            && !is_empty
            && (conf.voters, conf.learners) != (found.voters, found.learners)
        {
            self.broken(format!(
                "membership: member {id} votes by another configuration than its table says"
            ));
        }
    }

    // Network ----------------------------------------------------------------------------------

    fn send(&mut self, from: u64, message: RaftMessage) {
        let to = message.to;
        let now_us = self.now_us;
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
                    "{} -> {to}: {:?} term {} index {} commit {} entries {}{}",
                    message.from,
                    message.r#type(),
                    message.term,
                    message.index,
                    message.commit,
                    message.entries.len(),
                    if message.reject { " rejected" } else { "" }
                )
            },
        );
        self.input(to, Input::Message(message));
    }

    fn forward(&mut self, from: u64, forward: Forward) {
        let Forward { to, commands } = forward;
        self.figures.count("forwards");
        let is_up = self.nodes.get(&to).is_some_and(|node| node.running().is_some());
        if (!is_up || !self.network.is_open(from, to)) && self.pace.permille(500) {
            // Known before a byte has left.
            return self.input(from, Input::NotForwarded(commands));
        }
        if self.network.arrivals(self.now_us, from, to).is_empty() {
            self.figures.count("forwards lost");
            return;
        }
        let at = self.network.arrival(self.now_us, from, to);
        if self.is(Mutant::ForwardTwice) && self.pace.permille(100) {
            self.at(at + 1_000, Event::Forwarded { to, commands: commands.clone() });
        }
        self.at(at, Event::Forwarded { to, commands });
    }

    pub(crate) fn deliver_forward(&mut self, to: u64, commands: Vec<bytes::Bytes>) {
        self.trace.note(self.now_us, &[11, to, commands.len() as u64], || {
            format!("-> {to}: {} commands forwarded", commands.len())
        });
        self.input(to, Input::Forwarded(commands));
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

    // Disk -------------------------------------------------------------------------------------

    /// A worker met a failing disk: the process ends, as the server does.
    fn disk_failed(&mut self, id: u64, error: &str) {
        self.trace.note(self.now_us, &[13, id], || format!("{id}: stops: {error}"));
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let is_off = node.disk.get().faults.power_off_after == Some(0);
        self.figures.count(if is_off { "crashes in the midst of writing" } else { "disk errors" });
        let crash = if is_off && self.loss.permille(600) { Crash::Power } else { Crash::Death };
        let restart_us = self.loss.within(1_000, 500_000);
        self.crash(id, crash, restart_us);
    }

    fn give_disk(&mut self, id: u64, tasks: Vec<DiskTask>) {
        if tasks.is_empty() {
            return;
        }
        let (forgets, early) = (self.is(Mutant::ForgetVote), self.is(Mutant::PersistedEarly));
        let early_apply = self.is(Mutant::ApplyBeforeCommit);
        let pace_us = self.pace.within(50, self.plan.disk_us_max);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let boot = node.boot;
        let Some(running) = node.process.as_deref_mut() else { return };
        let (mut told, mut ahead) = (Vec::new(), Vec::new());
        for mut task in tasks {
            if let DiskTask::Append { number, batch, .. } = &mut task {
                node.confirmed.issued.push_back(Issued {
                    number: *number,
                    vote: batch.hard_state.map(|hard| (hard.term, hard.vote)),
                    entries: batch.entries.iter().map(|entry| (entry.index, entry.term)).collect(),
                    base: batch.snapshot.map(|mark| mark.index),
                });
                if forgets {
                    batch.hard_state =
                        batch.hard_state.map(|hard| member::wal::HardState { vote: 0, ..hard });
                }
                if early {
                    told.push(Input::Persisted { number: *number });
                }
                if early_apply {
                    ahead.extend(batch.entries.iter().map(|entry| proto::log::Entry {
                        term: entry.term,
                        index: entry.index,
                        r#type: i32::from(entry.kind),
                        data: entry.data.clone(),
                        context: entry.context.clone(),
                    }));
                }
            }
            running.log_tasks.push(task);
        }
        let begins = !std::mem::replace(&mut running.log_runs, true);
        if begins {
            self.after(pace_us, Event::Log { node: id, boot });
        }
        for input in told {
            if let Input::Persisted { number } = input {
                self.nodes.get_mut(&id).expect("just seen").confirmed.confirm(number);
            }
            self.input(id, input);
        }
        if !ahead.is_empty() {
            self.apply_ahead(id, ahead);
        }
    }

    pub(crate) fn run_log(&mut self, id: u64, boot: u64) {
        let ignores = self.is(Mutant::IgnoreFailedSync);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(running) = node.process_of(boot) else { return };
        let tasks = std::mem::take(&mut running.log_tasks);
        running.log_runs = false;
        let done = match running.log.run(&tasks) {
            Err(_) if ignores && node.disk.get().faults.power_off_after != Some(0) => {
                let numbers = tasks.iter().filter_map(|task| match task {
                    DiskTask::Append { number, .. } => Some(Input::Persisted { number: *number }),
                    DiskTask::Release { .. } => None,
                });
                Ok(numbers.collect())
            }
            done => done,
        };
        match done {
            Ok(inputs) => {
                self.trace.note(self.now_us, &[14, id, tasks.len() as u64], || {
                    format!("{id}: log took {} tasks: {inputs:?}", tasks.len())
                });
                for input in inputs {
                    if let Input::Persisted { number } = input {
                        self.nodes.get_mut(&id).expect("just seen").confirmed.confirm(number);
                    }
                    self.input(id, input);
                }
            }
            Err(error) => self.disk_failed(id, &error.to_string()),
        }
    }

    pub(crate) fn idle_log(&mut self, id: u64, boot: u64) {
        let Some(running) = self.nodes.get_mut(&id).and_then(|node| node.process_of(boot)) else {
            return;
        };
        let marked = if running.log_runs { Ok(()) } else { running.log.idle() };
        match marked {
            Ok(()) => self.after(LOG_IDLE_US, Event::LogIdle { node: id, boot }),
            Err(error) => self.disk_failed(id, &error.to_string()),
        }
    }

    // Apply ------------------------------------------------------------------------------------

    fn give_apply(&mut self, id: u64, tasks: Vec<ApplyTask>) {
        for task in &tasks {
            if let ApplyTask::Entries { entries, .. } = task {
                self.truth.committed(id, entries);
            }
        }
        let Some(running) = self.nodes.get_mut(&id).and_then(|node| node.process.as_deref_mut())
        else {
            return;
        };
        running.apply_tasks.extend(tasks);
        self.plan_apply(id);
    }

    fn plan_apply(&mut self, id: u64) {
        let pace_us = self.pace.within(20, self.plan.apply_us_max);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let boot = node.boot;
        let Some(running) = node.process.as_deref_mut() else { return };
        let is_due = !running.apply_tasks.is_empty() || running.view.is_compacting();
        if is_due && !std::mem::replace(&mut running.apply_runs, true) {
            self.after(pace_us, Event::Apply { node: id, boot });
        }
    }

    pub(crate) fn run_apply(&mut self, id: u64, boot: u64) {
        let Some(running) = self.nodes.get_mut(&id).and_then(|node| node.process_of(boot)) else {
            return;
        };
        running.apply_runs = false;
        let tasks = joined(std::mem::take(&mut running.apply_tasks));
        if tasks.is_empty() {
            if let Some((view, changes)) = running.apply.sweep() {
                running.view = view.clone();
                self.keep(id, &view, &changes, false);
            }
            return self.plan_apply(id);
        }
        for mut task in tasks {
            let Some(running) = self.nodes.get_mut(&id).and_then(|node| node.process_of(boot))
            else {
                return;
            };
            let early = running.applied_early;
            if early > 0
                && let ApplyTask::Entries { entries, .. } = &mut task
            {
                entries.retain(|entry| entry.index > early);
            }
            if let ApplyTask::Entries { entries, .. } = &task {
                self.truth.applied_first(self.now_us, entries);
            }
            let Running { apply, snapshots, .. } = running;
            match apply.run(task, &mut |meta| snapshots.load(meta)) {
                Ok(applied) => self.spread(id, applied),
                Err(error) => return self.disk_failed(id, &error.to_string()),
            }
        }
        self.plan_apply(id);
    }

    /// A mutant's way: what is durable here is applied, whoever else has it.
    fn apply_ahead(&mut self, id: u64, entries: Vec<proto::log::Entry>) {
        let Some(running) = self.nodes.get_mut(&id).and_then(|n| n.process.as_deref_mut()) else {
            return;
        };
        let next = running.view.applied_index() + 1;
        let follows = entries.first().is_some_and(|entry| entry.index == next);
        let normal = entries.iter().all(|entry| entry.r#type == 0);
        if !follows || !normal || !running.apply_tasks.is_empty() {
            return;
        }
        running.applied_early = entries.last().map_or(0, |entry| entry.index);
        let task = ApplyTask::Entries { entries, bytes: 0 };
        if let Ok(applied) = running.apply.run(task, &mut |_| unreachable!("entries alone")) {
            let view = applied.view.clone();
            running.view = view.clone();
            self.keep(id, &view, &applied.changes, false);
        }
    }

    fn spread(&mut self, id: u64, applied: Applied) {
        let Applied { mut report, completed, view, changes, snapshot, replaced } = applied;
        let now_us = self.now_us;
        if self.is(Mutant::SkipConfChange) && id == 1 {
            report.memberships.clear();
        }
        self.trace.note(
            now_us,
            &[15, id, view.applied_index(), u64::from(view.applied().rolling_hash)],
            || {
                format!(
                    "{id}: applied up to {}, revision {}, {} requests",
                    view.applied_index(),
                    view.revision(),
                    completed.len()
                )
            },
        );
        let Some(running) = self.nodes.get_mut(&id).and_then(|node| node.process.as_deref_mut())
        else {
            return;
        };
        let before = running.view.revision();
        running.view = view.clone();
        let origin = running.origin;
        if view.revision() < before {
            self.broken(format!(
                "one history: member {id} went back from revision {before} to {}",
                view.revision()
            ));
        }
        self.input(id, Input::Applied(report));
        for done in completed {
            if done.id.member == origin {
                self.completed(id, done);
            }
        }
        self.serve_reads(id);
        self.keep(id, &view, &changes, replaced);
        if let Some(job) = snapshot {
            self.figures.count("snapshots taken");
            let pace_us = self.pace.within(100, 20_000);
            let Some(node) = self.nodes.get_mut(&id) else { return };
            let boot = node.boot;
            let Some(running) = node.process.as_deref_mut() else { return };
            running.save_tasks.push_back(job);
            if !std::mem::replace(&mut running.save_runs, true) {
                self.after(pace_us, Event::Save { node: id, boot });
            }
        }
    }

    /// The checkers, the backend and the watchers learn what apply did.
    fn keep(&mut self, id: u64, view: &View, changes: &Changes, replaced: bool) {
        self.truth.published(id, view.applied(), &changes.records);
        let gap = self.is(Mutant::WatchGap) && self.watching.permille(20);
        let flushes = self.watching.permille(100);
        let tidies = self.watching.permille(200);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(running) = node.process.as_deref_mut() else { return };
        // The backend.
        if replaced || running.writeback.is_none() {
            running.writeback = rebuilt(&mut node.backend, view);
        } else if let Some(writeback) = &mut running.writeback {
            writeback.feed([changes], view);
            let mut done = Ok(());
            while let Some(batch) = writeback.take_batch() {
                done = done.and_then(|()| node.backend.commit(&batch));
            }
            if tidies && writeback.wants_compaction() {
                match writeback.compact(&node.backend) {
                    Ok(Some(batch)) => done = done.and_then(|()| node.backend.commit(&batch)),
                    Ok(None) => {}
                    Err(error) => done = Err(error),
                }
            }
            if flushes {
                done = done.and_then(|()| node.backend.flush());
            }
            if let Err(error) = done {
                return self.broken(format!("backend of member {id}: {error}"));
            }
        }
        // The watchers.
        if replaced {
            running.hub.replaced(view);
        } else if !gap && !changes.records.is_empty() {
            let events: Vec<StateEvent> = changes
                .records
                .iter()
                .map(|record| StateEvent {
                    prev: view.record_before(record),
                    record: record.clone(),
                })
                .collect();
            running.hub.publish(view, &events);
        }
        if gap && !replaced {
            // Whoever was synced is taken for caught up.
            running.hub = Hub::new(HubLimits::default(), view);
            let watchers = std::mem::take(&mut running.watchers);
            for (_, watching) in watchers {
                let stream = running.hub.open();
                running.hub.create(
                    stream,
                    WatchCreateRequest { start_revision: 0, ..watching.request.clone() },
                    view,
                );
                drop(running.hub.take_output());
                running.watchers.insert(stream, watching);
            }
        }
        self.serve_watchers(id);
    }

    // Snapshots --------------------------------------------------------------------------------

    pub(crate) fn run_save(&mut self, id: u64, boot: u64) {
        let skips = self.is(Mutant::ReleaseWithoutSnapshot);
        let pace_us = self.pace.within(100, 20_000);
        let Some(running) = self.nodes.get_mut(&id).and_then(|node| node.process_of(boot)) else {
            return;
        };
        running.save_runs = false;
        let Some(job) = running.save_tasks.pop_front() else { return };
        if !running.save_tasks.is_empty() {
            running.save_runs = true;
            self.after(pace_us, Event::Save { node: id, boot });
        }
        let Some(running) = self.nodes.get_mut(&id).and_then(|node| node.process_of(boot)) else {
            return;
        };
        let saved = if skips {
            let mut meta = job.meta;
            for chunk in member::state::snapshot::chunks(&job.view) {
                let hash = blake3::hash(&chunk).as_bytes().to_vec().into();
                meta.state_bytes += chunk.len() as u64;
                meta.chunks.push(Chunk { hash, bytes: chunk.len() as u64 });
            }
            Ok(meta)
        } else {
            running.snapshots.save(job)
        };
        match saved {
            Ok(meta) => {
                self.trace.note(self.now_us, &[16, id, meta.index], || {
                    format!("{id}: saved a snapshot at {}", meta.index)
                });
                self.input(id, Input::SnapshotSaved(meta));
            }
            Err(error) => self.disk_failed(id, &error.to_string()),
        }
    }

    // Watchers ---------------------------------------------------------------------------------

    /// Some watchers begin with the process: from now on, from the past, of all or of one key.
    fn watch(&mut self, id: u64) {
        for _ in 0..2 {
            let start = self.watching.below(3);
            let key = self.watching.below(self.plan.keys);
            let (all, prev_kv, progress_notify) = (
                self.watching.permille(500),
                self.watching.permille(500),
                self.watching.permille(500),
            );
            let back = i64::try_from(self.watching.below(40)).unwrap_or(0);
            let Some(running) = self.nodes.get_mut(&id).and_then(|n| n.process.as_deref_mut())
            else {
                return;
            };
            let now = running.view.revision();
            let oldest = running.view.compact_revision().max(1);
            let start_revision = match start {
                0 => 0,
                1 => (now - back).max(oldest),
                _ => now + 1,
            };
            let (key, range_end) = if all {
                (bytes::Bytes::from_static(&[0]), bytes::Bytes::from_static(&[0]))
            } else {
                (crate::clients::key(key).into(), bytes::Bytes::new())
            };
            let request = WatchCreateRequest {
                key,
                range_end,
                start_revision,
                prev_kv,
                progress_notify,
                ..WatchCreateRequest::default()
            };
            let stream = running.hub.open();
            running.hub.create(stream, request.clone(), &running.view);
            let watching = Watching {
                request,
                responses: Vec::new(),
                compact_revision: 0,
                complete_through: None,
            };
            running.watchers.insert(stream, watching);
        }
        self.serve_watchers(id);
    }

    fn serve_watchers(&mut self, id: u64) {
        let (ticks, slow) = (self.watching.permille(50), self.watching.permille(300));
        let Some(running) = self.nodes.get_mut(&id).and_then(|node| node.process.as_deref_mut())
        else {
            return;
        };
        if ticks {
            running.hub.progress_tick();
        }
        if slow {
            // Nobody reads now: the buffers fill, watchers fall behind.
            return;
        }
        take_output(running, CATCH_UP_REVISIONS);
    }

    /// The watchers of a process end with it.
    pub(crate) fn end_watchers(&mut self, id: u64, is_complete: bool) {
        let Some(running) = self.nodes.get_mut(&id).and_then(|node| node.process.as_deref_mut())
        else {
            return;
        };
        if is_complete {
            for _ in 0..1_000 {
                take_output(running, usize::MAX);
                if !running.hub.catch_up(&running.view, CATCH_UP_REVISIONS)
                    && !running.hub.has_output()
                {
                    break;
                }
            }
        }
        let through = is_complete.then(|| running.view.revision());
        for (_, mut watching) in std::mem::take(&mut running.watchers) {
            let cancelled = watching.responses.last().is_some_and(|response| response.canceled);
            watching.complete_through = through.filter(|_| !cancelled);
            watching.compact_revision = running.view.compact_revision();
            self.truth.watched(watching);
        }
    }

    // What the whole cluster looks like --------------------------------------------------------

    /// A member that leads, if one does.
    pub(crate) fn leader(&self) -> Option<u64> {
        self.nodes
            .iter()
            .filter_map(|(id, node)| Some((*id, node.running()?.member.status())))
            .filter(|(_, status)| status.role == Role::Leader)
            .max_by_key(|(_, status)| status.term)
            .map(|(id, _)| id)
    }

    /// The members by the newest table any process has.
    pub(crate) fn membership(&self) -> BTreeSet<u64> {
        self.nodes
            .values()
            .filter_map(|node| node.running())
            .max_by_key(|running| running.view.applied_index())
            .map(|running| running.view.members().iter().map(|row| row.id).collect())
            .unwrap_or_default()
    }
}

fn take_output(running: &mut Running, revisions: usize) {
    running.hub.catch_up(&running.view, revisions);
    while running.hub.has_output() {
        for (stream, response) in running.hub.take_output() {
            running.hub.sent(stream, response.encoded_len());
            if let Some(watching) = running.watchers.get_mut(&stream) {
                watching.responses.push(response);
            }
        }
    }
}

fn rebuilt(backend: &mut MemBackend, view: &View) -> Option<Writeback> {
    let StateParts { applied, rows, records } = view.parts();
    Writeback::rebuild(WRITEBACK, backend, applied, rows, records).ok()
}

/// Entries that wait behind each other are applied as one.
fn joined(tasks: Vec<ApplyTask>) -> Vec<ApplyTask> {
    let mut joined: Vec<ApplyTask> = Vec::new();
    for task in tasks {
        match (joined.last_mut(), task) {
            (
                Some(ApplyTask::Entries { entries, bytes }),
                ApplyTask::Entries { entries: more, bytes: more_bytes },
            ) => {
                entries.extend(more);
                *bytes += more_bytes;
            }
            (_, task) => joined.push(task),
        }
    }
    joined
}
