//! Processes begin and end: on what a machine's disk has, with what its power failure took.
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use member::consensus::Config;
use member::state::backend::{Layout, MemFault, Writeback, load};
use member::state::watch::{Hub, HubLimits};
use member::state::{Limits, StateParts, Values, View};
use member::wal::{LogFaults, LogOptions};
use member::{
    ApplyWorker, Booted, Input, LogWorker, Member, MemberConfig, Proposal, Recovery, SnapshotPolicy,
};
use proto::log::MemberPublish;
use proto::log::command::Op;

use crate::disk::SharedDisk;
use crate::mutant::Mutant;
use crate::node::{Caller, Node, Running, WRITEBACK, encoded};
use crate::values::{SharedBackend, ValueStore};
use crate::world::{CLUSTER_ID, Event, Phase, World};

/// The log marks itself after so long without work.
pub(crate) const LOG_IDLE_US: u64 = 1_000_000;
/// Between two tries of a member to say who it is.
const PUBLISH_EVERY_US: u64 = 500_000;
/// Of a thousand crashes, so many cost the backend.
const BACKEND_LOST_PERMILLE: u64 = 150;
/// Of a thousand starts, so many end in the midst of recovering, where a run tears writes.
const START_TORN_PERMILLE: u64 = 150;

/// Bytes of applied entries a member keeps in memory.
const LOG_BYTES_KEPT: u64 = 1 << 20;

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crash {
    /// The process dies, the page cache lives.
    Death,
    /// The machine loses its power.
    Power,
}

impl World {
    /// Whether this bug is seeded.
    pub(crate) fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// What a boot is told from outside.
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
                salt_seed: self.boots.draw() ^ id,
                allow_damaged_tail: false,
                faults,
            },
            limits: Limits::default(),
            log_entries_kept: self.plan.log_entries_kept,
            log_bytes_kept: LOG_BYTES_KEPT,
            values: Values::default(),
        }
    }

    /// Ends a process and settles what its disk keeps.
    pub(crate) fn crash(&mut self, id: u64, crash: Crash, restart_us: u64) {
        self.figures.count(match crash {
            Crash::Death => "process deaths",
            Crash::Power => "power losses",
        });
        self.trace.note(self.now_us, &[4, id, crash as u64], || format!("{id}: {crash:?}"));
        let before = self.nodes.get(&id).and_then(|node| Some((node.boot, node.running()?.origin)));
        self.stop(id);
        self.lose(id, crash);
        if let Some((boot, origin)) = before.filter(|_| crash == Crash::Death) {
            self.refuses(id, boot, origin);
        }
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

    pub(crate) fn lose(&mut self, id: u64, crash: Crash) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let loss = &mut self.loss;
        match crash {
            Crash::Death => node.disk.get().process_crash(),
            Crash::Power => node.disk.get().power_loss(&mut |end| loss.below(end)),
        }
        let kept = loss.below(node.backend.get().unflushed() as u64 + 1);
        node.backend.get().crash(usize::try_from(kept).unwrap_or(0));
        if loss.permille(BACKEND_LOST_PERMILLE) {
            // It may be thrown away at any time: nothing is promised on it.
            self.figures.count("backends lost");
            node.backend = SharedBackend::default();
        }
    }

    /// Ends a process. Whoever waited for it never learns how that ended.
    pub(crate) fn stop(&mut self, id: u64) {
        self.end_watchers(id, false);
        self.forget_plan(id);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.boot += 1;
        node.stalled_us = 0;
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
        let mut recovery = self.recovery(id);
        let cache_bytes = self.plan.value_cache_bytes;
        let empties = self.is(Mutant::EmptyDisk) && self.nodes[&id].starts == 1;
        let lies = self.is(Mutant::LyingDirSync);
        let fault = match self.mutant {
            Some(Mutant::AppliedAhead) => MemFault::AppliedAhead,
            Some(Mutant::AppliedBehind) => MemFault::AppliedBehind,
            _ => MemFault::None,
        };
        let torn = self.phase == Phase::Faults
            && self.nodes[&id].starts > 0
            && self.plan.faults.torn_writes
            && self.loss.permille(START_TORN_PERMILLE);
        let stale_blocks = self.plan.stale_blocks;
        let cut = torn.then(|| self.loss.below(40));
        let new_origin = self.boots.draw() | 1;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.starts += 1;
        if empties {
            let fresh = Node::newcomer(node.identity, &recovery);
            node.disk = fresh.disk;
            node.backend = fresh.backend;
        }
        node.backend.get().set_fault(fault);
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
        let values = cache_bytes.map(|bytes| ValueStore::new(bytes, node.backend.clone()));
        recovery.values = values.as_ref().map_or_else(Values::default, ValueStore::values);
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
        node.confirmed.recovered(&booted.boot);
        let members = booted.state.members();
        if !members.is_empty() && members.iter().all(|row| row.id != id) {
            node.is_retired = true;
            return;
        }
        if node.origin == 0 || self.mutant != Some(Mutant::SameOrigin) {
            node.origin = new_origin;
        }
        self.begin(id, booted, layout, values);
    }

    pub(crate) fn cannot_recover(&mut self, id: u64, error: &str) {
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
        booted: Booted<SharedDisk>,
        layout: Option<Layout>,
        values: Option<Arc<ValueStore>>,
    ) {
        let Booted { state, boot, log, snapshots, held, from_backend, .. } = booted;
        let now_us = self.now_us;
        self.figures.count(if from_backend {
            "boots from the backend"
        } else {
            "boots from a snapshot"
        });
        let origin = self.nodes[&id].origin;
        let mut apply = ApplyWorker::new(state, origin);
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
        let mut consensus = Config::new(id, origin);
        consensus.timing = self.plan.timing;
        consensus.log_entries_kept = self.plan.log_entries_kept;
        consensus.log_bytes_kept = LOG_BYTES_KEPT;
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
            plan_format: member::autotune::PLAN_FORMAT,
        };
        let commit = boot.hard_state.map_or(0, |hard| hard.commit);
        let member = match Member::new(config, boot, &view, held, 0) {
            Ok(member) => member,
            Err(error) => return self.broken(format!("durability: member {id}: {error}")),
        };
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let writeback = match layout.filter(|_| from_backend) {
            Some(layout) => Some(Writeback::resume(WRITEBACK, layout, &view)),
            None => rebuilt(&mut node.backend, &view),
        };
        if let (Some(values), Some(writeback)) = (&values, &writeback) {
            while values.cache().synced(writeback.sealed_applied().revision) {}
        }
        node.process = Some(Box::new(Running {
            origin,
            started_us: now_us,
            member,
            log: LogWorker::new(log),
            apply,
            snapshots,
            writeback,
            values,
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
            commands: BTreeMap::new(),
            reads: Vec::new(),
            leases: BTreeMap::new(),
            leader: None,
            is_leader: false,
            commit,
            applied_early: 0,
            committed_early: 0,
            told: 0,
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
        let proposal = Proposal { sequence, deadline_us, command };
        running.commands.insert(sequence, proposal.clone());
        self.input(id, Input::Propose(vec![proposal]));
        Some((origin, sequence))
    }

    /// As the server does: the command of a caller who still waits went down with a leader.
    pub(crate) fn propose_again(&mut self, id: u64, sequence: u64) {
        let Some(running) = self.nodes.get(&id).and_then(|node| node.running()) else { return };
        let waits = running.callers.contains_key(&sequence);
        let Some(proposal) = running.commands.get(&sequence).filter(|_| waits).cloned() else {
            return;
        };
        self.figures.count("commands proposed again");
        self.input(id, Input::Propose(vec![proposal]));
    }

    /// With a mutant: whatever is waited for is taken for lost with its leader.
    pub(crate) fn propose_all_again(&mut self, id: u64) {
        let Some(running) = self.nodes.get(&id).and_then(|node| node.running()) else { return };
        let sequences: Vec<u64> = running.commands.keys().copied().collect();
        for sequence in sequences {
            self.propose_again(id, sequence);
        }
    }
}

/// A backend filled anew from a whole state.
pub(crate) fn rebuilt(backend: &mut SharedBackend, view: &View) -> Option<Writeback> {
    let StateParts { applied, rows, records } = view.parts();
    Writeback::rebuild(WRITEBACK, backend, applied, rows, records).ok()
}
