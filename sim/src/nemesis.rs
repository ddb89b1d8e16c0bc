//! Whoever breaks things, within what the plan allows.

use member::Input;
use proto::etcdserverpb::CompactionRequest;
use proto::log::command::Op;
use proto::log::membership_change::Kind;
use proto::log::{Member as MemberRow, MembershipChange, RequestId};

use member::wal::{Identity, WAL_DIR};

use crate::node::{Caller, Node};
use crate::process::Crash;
use crate::random::Random;
use crate::world::{CLUSTER_ID, Event, Phase, World, row};

/// Machines there are at most, those that left included.
const MACHINES_MAX: usize = 8;
/// Longest a process stays away.
const AWAY_US_MAX: u64 = 800_000;
/// Longest a process stands still.
const PAUSE_US_MAX: u64 = 1_500_000;
/// Longest the network is in pieces.
const PARTITION_US_MAX: u64 = 2_000_000;

/// The nemesis.
#[derive(Debug)]
pub(crate) struct Nemesis {
    random: Random,
    partitions: u64,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Death,
    Power,
    Blackout,
    Torn,
    DiskError,
    Rot,
    Partition,
    Pause,
    Membership,
    Transfer,
    Plan,
    DiskStall,
    Compaction,
}

impl Nemesis {
    pub(crate) fn new(seed: u64) -> Self {
        Nemesis { random: Random::of(seed, "nemesis", 0), partitions: 0 }
    }

    pub(crate) fn random(&mut self) -> &mut Random {
        &mut self.random
    }
}

impl World {
    /// The next fault.
    pub(crate) fn fault(&mut self) {
        if self.phase != Phase::Faults {
            return;
        }
        self.start_newcomers();
        let allowed = self.plan.faults;
        let kinds: Vec<Fault> = [
            (true, Fault::Compaction),
            (allowed.process_deaths, Fault::Death),
            (allowed.power_losses, Fault::Power),
            (allowed.blackouts, Fault::Blackout),
            (allowed.torn_writes, Fault::Torn),
            (allowed.disk_errors, Fault::DiskError),
            (allowed.rot, Fault::Rot),
            (allowed.partitions, Fault::Partition),
            (allowed.pauses, Fault::Pause),
            (allowed.membership, Fault::Membership),
            (allowed.membership, Fault::Membership),
            (allowed.transfers, Fault::Transfer),
            (allowed.plans, Fault::Plan),
            (allowed.plans, Fault::Plan),
            (allowed.plans, Fault::Plan),
            (allowed.disk_stalls, Fault::DiskStall),
            (allowed.disk_stalls, Fault::DiskStall),
        ]
        .into_iter()
        .filter_map(|(is_allowed, fault)| is_allowed.then_some(fault))
        .collect();
        let every_us = self.plan.fault_every_us;
        let random = &mut self.nemesis.random;
        let mut next_us = random.within(every_us / 4, 2 * every_us);
        let fault = random.pick(&kinds).copied().unwrap_or(Fault::Compaction);
        let mut stalls_us = None;
        let running: Vec<u64> =
            self.nodes.iter().filter(|(_, n)| n.process.is_some()).map(|(id, _)| *id).collect();
        let random = &mut self.nemesis.random;
        let Some(id) = random.pick(&running).copied() else {
            return self.after(next_us, Event::Fault);
        };
        let away_us = random.within(1_000, AWAY_US_MAX);
        match fault {
            Fault::Death => {
                let is_short = random.permille(500);
                self.crash(id, Crash::Death, if is_short { 1_000 } else { away_us });
            }
            Fault::Power => self.crash(id, Crash::Power, away_us),
            Fault::Blackout => self.blackout(&running),
            Fault::Torn => {
                let cut = random.below(60);
                self.figures.count("writes to be torn");
                self.nodes[&id].disk.get().faults.power_off_after = Some(cut);
            }
            Fault::DiskError => {
                let (sync, after) = (random.permille(700), random.below(10));
                let mut disk = self.nodes[&id].disk.get();
                if sync {
                    disk.faults.fail_sync_after = Some(after);
                } else {
                    disk.faults.fail_write_after = Some(after);
                }
            }
            Fault::Rot => self.rot(id),
            Fault::Partition => self.partition(),
            Fault::Pause => {
                let pause_us = random.within(1_000, PAUSE_US_MAX);
                self.figures.count("pauses");
                self.trace.note(self.now_us, &[30, id, pause_us], || {
                    format!("{id}: stands still for {pause_us} µs")
                });
                let until_us = self.now_us + pause_us;
                self.nodes.get_mut(&id).expect("it runs").paused_us = until_us;
            }
            Fault::Membership => self.change_membership(),
            Fault::Transfer => self.hand_over(),
            Fault::Plan => self.submit_plan(&running),
            Fault::DiskStall => stalls_us = self.stall_disk(),
            Fault::Compaction => self.compact(id),
        }
        next_us += stalls_us.unwrap_or(0);
        self.after(next_us, Event::Fault);
    }

    /// Every machine loses its power, or every process dies, at once.
    fn blackout(&mut self, running: &[u64]) {
        self.figures.count("blackouts");
        for id in running {
            let random = &mut self.nemesis.random;
            let crash = if random.permille(850) { Crash::Power } else { Crash::Death };
            let away_us = random.within(1_000, 300_000);
            self.crash(*id, crash, away_us);
        }
    }

    /// A bit of a log that was at rest flips while the process is away.
    fn rot(&mut self, id: u64) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(running) = node.process.as_deref_mut() else { return };
        if running.log_runs || running.log.idle().is_err() {
            return;
        }
        let used_bytes = running.log.log().stats().active_bytes;
        self.crash(id, Crash::Death, 10_000);
        let random = &mut self.nemesis.random;
        let bit = random.below(used_bytes * 8);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let mut disk = node.disk.get();
        let segments = disk
            .files()
            .into_iter()
            .filter(|path| path.starts_with(WAL_DIR) && path.ends_with(".wal"));
        let Some(path) = segments.max() else { return };
        disk.flip_bit(&path, bit);
        drop(disk);
        self.figures.count("bits flipped");
        self.trace.note(self.now_us, &[31, id, bit], || format!("{id}: bit {bit} of {path} flips"));
        node.rotten = Some((path, bit));
    }

    fn partition(&mut self) {
        let ids: Vec<u64> = self.nodes.keys().copied().collect();
        let random = &mut self.nemesis.random;
        self.nemesis.partitions += 1;
        let kind = random.below(4);
        let lasts_us = random.within(50_000, PARTITION_US_MAX);
        let side: Vec<bool> = ids.iter().map(|_| random.permille(500)).collect();
        let bridge = random.below(ids.len() as u64);
        let alone = random.below(ids.len() as u64);
        self.network.heal();
        for (a, from) in ids.iter().enumerate() {
            for (b, to) in ids.iter().enumerate() {
                let is_cut = match kind {
                    // In two.
                    0 => side[a] != side[b],
                    // One way.
                    1 => side[a] && !side[b],
                    // In two, but one member hears both.
                    2 => side[a] != side[b] && a as u64 != bridge && b as u64 != bridge,
                    // One alone.
                    _ => (a as u64 == alone) != (b as u64 == alone),
                };
                if is_cut {
                    self.network.block(*from, *to);
                }
            }
        }
        self.figures.count("partitions");
        self.resets();
        self.trace.note(self.now_us, &[32, kind, lasts_us], || {
            format!("partition of kind {kind} for {lasts_us} µs, sides {side:?}")
        });
        let partition = self.nemesis.partitions;
        self.after(lasts_us, Event::Heal { partition });
    }

    pub(crate) fn heal(&mut self, partition: u64) {
        if self.nemesis.partitions == partition {
            self.trace.note(self.now_us, &[33], || String::from("the partition ends"));
            self.network.heal();
        }
    }

    fn change_membership(&mut self) {
        let Some(leader) = self.leader() else { return };
        let Some(running) = self.nodes.get(&leader).and_then(|node| node.running()) else { return };
        let members = running.view.members();
        let newest = self.nodes.keys().last().copied().unwrap_or(0);
        let machines = self.nodes.len();
        let random = &mut self.nemesis.random;
        let learner = members.iter().find(|row| row.is_learner).cloned();
        let voters: Vec<&MemberRow> = members.iter().filter(|row| !row.is_learner).collect();
        let dice = random.below(100);
        let (kind, member) = match learner {
            Some(learner) if dice < 80 => (Kind::Promote, learner),
            None if dice < 50 && machines < MACHINES_MAX => {
                let member = MemberRow { name: String::new(), is_learner: true, ..row(newest + 1) };
                (Kind::AddLearner, member)
            }
            _ if voters.len() as u64 >= self.plan.members.max(2) || dice < 20 => {
                let Some(gone) = random.pick(&voters) else { return };
                if gone.id == leader && voters.len() == 2 {
                    // Known: the other one may never learn that it is alone (docs/bugs.md).
                    return;
                }
                (Kind::Remove, MemberRow { id: gone.id, ..MemberRow::default() })
            }
            _ => return,
        };
        let Some(running) = self.nodes.get_mut(&leader).and_then(|n| n.process.as_deref_mut())
        else {
            return;
        };
        let sequence = running.ticket(Caller::Chore);
        let id = Some(RequestId { member: running.origin, sequence });
        self.trace.note(self.now_us, &[34, member.id, kind as u64], || {
            format!("{leader}: is asked for {kind:?} of {}", member.id)
        });
        let change = MembershipChange { id, kind: kind.into(), member: Some(member) };
        self.input(leader, Input::ProposeMembership(change));
    }

    /// Machines of members that were added begin.
    pub(crate) fn start_newcomers(&mut self) {
        for id in self.membership() {
            if !self.nodes.contains_key(&id) {
                self.figures.count("newcomers");
                self.trace.note(self.now_us, &[35, id], || format!("{id}: a machine is added"));
                let recovery = self.recovery(id);
                let identity = Identity { cluster_id: CLUSTER_ID, member_id: id };
                self.nodes.insert(id, Node::newcomer(identity, &recovery));
                self.start(id);
            }
        }
    }

    /// Processes of members that are none any more, and were never told, are ended.
    pub(crate) fn stop_removed(&mut self) {
        self.start_newcomers();
        let members = self.membership();
        if members.is_empty() {
            return;
        }
        let gone: Vec<u64> = self
            .nodes
            .iter()
            .filter(|(id, node)| !members.contains(id) && !node.is_retired)
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            self.stop(id);
            self.nodes.get_mut(&id).expect("just seen").is_retired = true;
        }
    }

    fn hand_over(&mut self) {
        let Some(leader) = self.leader() else { return };
        let others: Vec<u64> = self.nodes.keys().copied().filter(|id| *id != leader).collect();
        let random = &mut self.nemesis.random;
        let picks = random.permille(500);
        let to = if picks { 0 } else { random.pick(&others).copied().unwrap_or(0) };
        self.figures.count("transfers");
        let Some(running) = self.nodes.get_mut(&leader).and_then(|n| n.process.as_deref_mut())
        else {
            return;
        };
        let ticket = running.ticket(Caller::Chore);
        self.input(leader, Input::TransferLeader { ticket, to });
    }

    fn compact(&mut self, id: u64) {
        let back = i64::try_from(self.nemesis.random.below(30)).unwrap_or(0);
        let Some(running) = self.nodes.get(&id).and_then(|node| node.running()) else { return };
        let revision = running.view.revision() - back;
        if revision > 0 {
            self.figures.count("compactions");
            let compact = CompactionRequest { revision, ..CompactionRequest::default() };
            self.propose(id, Caller::Chore, Op::Compact(compact));
        }
    }

    /// Ends what ails a machine. Returns its election timeout, or how long its pause still lasts.
    pub(crate) fn calm_node(&mut self, id: u64) -> u64 {
        let Some(node) = self.nodes.get_mut(&id) else { return 0 };
        {
            let mut disk = node.disk.get();
            disk.faults.power_off_after = None;
            disk.faults.fail_sync_after = None;
            disk.faults.fail_write_after = None;
        }
        let boot = node.boot;
        let was_stalled = std::mem::take(&mut node.stalled_us) > self.now_us;
        let paused_us = node.paused_us.saturating_sub(self.now_us);
        let starts = node.process.is_none() && !node.is_retired;
        if was_stalled {
            self.after(0, Event::Log { node: id, boot });
        }
        if starts {
            self.start(id);
        }
        let Some(running) = self.nodes.get(&id).and_then(|node| node.running()) else { return 0 };
        paused_us.max(running.member.status().effective_timing.election_timeout_us)
    }
}
