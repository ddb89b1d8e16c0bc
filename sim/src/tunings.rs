//! Plans of timing: submitted at random while everything else happens, and held against what must be
//! true of any two members in any mixture of phases.
//!
//! * **ratio**: the election timeout of every member that votes is at least five heartbeat intervals
//!   of every other, for any of them may lead;
//! * **leases**: a lease that may still run ends before any voter's patience does, also if the member
//!   that holds it has shortened it meanwhile;
//! * **promises**: a member never uses less than what it has confirmed, restarts included;
//! * **one plan upon one plan**: a plan is taken only upon the one it names, and only if it is legal;
//! * **a leader with a dead disk goes**: a standstill of its disk costs it the leadership.

use std::collections::BTreeMap;

use member::autotune::{BatchBounds, Params, Phase, Timing};
use member::consensus::Role;
use member::state::tuning::{params_of, params_said, plan_of};
use member::{ApplyTask, Input};
use prost::Message as _;
use proto::log::command::Op;
use proto::log::{Batch, Command, Entry, Tuning, TuningAdvance, TuningSubmit};
use proto::peer::{RaftMessage, TuningAck, raft_message::Type};

use crate::mutant::Mutant;
use crate::node::Caller;
use crate::world::{Event, Phase as RunPhase, World};

/// Longest name and reason, and a little beyond.
const REASON_BYTES_MAX: u64 = 260;
/// A disk stands still for so many of the longest election timeouts …
const STALL_ELECTIONS: u64 = 10;
/// … within which another member must lead.
const STALL_US_MIN: u64 = 1_000_000;

/// What a member uses, as it said after its last step.
#[derive(Clone, Debug)]
struct Uses {
    boot: u64,
    votes: bool,
    params: Params,
    reached: (u64, Phase),
    /// Leases that it may have given: length, and when the last of them ends.
    leases: Vec<(u64, u64)>,
}

/// What a member has confirmed, and what it promised with that. It may have used longer timeouts then.
#[derive(Clone, Copy, Debug)]
struct Promise {
    reached: (u64, Phase),
    params: Params,
}

/// All members' plans.
#[derive(Debug, Default)]
pub(crate) struct Tunings {
    uses: BTreeMap<u64, Uses>,
    promises: BTreeMap<u64, Promise>,
    /// By epoch: the one it was made upon, as its submitter was told.
    taken: BTreeMap<u64, u64>,
    /// A mutant's: the step it has proposed last.
    hurried: (u64, u32),
    /// A mutant's: when a leader whose disk stands still spoke up last.
    beat_us: u64,
    stalls: u64,
}

/// A leader whose disk stands still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stall {
    node: u64,
    term: u64,
    /// Everyone's boot when it began: if another fault got in between, nothing follows.
    boots: Vec<(u64, u64)>,
}

impl World {
    // What is asked for ----------------------------------------------------------------------

    /// Somebody submits a plan, mostly a legal one, mostly to the leader.
    pub(crate) fn submit_plan(&mut self, running: &[u64]) {
        let leader = self.leader();
        let random = self.nemesis.random();
        let to_leader = random.permille(850);
        let anyone = random.pick(running).copied();
        let Some(id) = leader.filter(|_| to_leader).or(anyone) else { return };
        let Some(process) = self.nodes.get(&id).and_then(|node| node.running()) else { return };
        let newest = process.view.tuning().epoch;
        let random = self.nemesis.random();
        let expected_epoch = match random.below(10) {
            0 => newest.saturating_sub(random.within(1, 3)),
            1 => newest + random.within(1, 3),
            _ => newest,
        };
        let to = match random.below(6) {
            0 => None,
            _ => Some(params_said(&self.some_params())),
        };
        let random = self.nemesis.random();
        let reason = if random.permille(50) { random.below(REASON_BYTES_MAX) } else { 0 };
        let submit = TuningSubmit {
            expected_epoch,
            to,
            planner: String::from("nemesis"),
            reason: "x".repeat(usize::try_from(reason).unwrap_or(0)),
            at_ms: 0,
            supersede: random.permille(400),
        };
        let is_legal = to.is_none_or(|to| params_of(&to).validate().is_ok());
        self.figures.count(if is_legal { "plans submitted" } else { "illegal plans submitted" });
        let unjudged = self.nemesis.random().permille(400);
        self.trace.note(self.now_us, &[36, id, expected_epoch, u64::from(is_legal)], || {
            format!("{id}: is given a plan upon epoch {expected_epoch}: {to:?}")
        });
        let caller = Caller::Plan { expected_epoch, is_legal };
        if unjudged {
            // As if the leader had judged it at another time: apply alone must refuse it.
            self.propose(id, caller, Op::TuningSubmit(submit));
            return;
        }
        let process = self.nodes.get_mut(&id).and_then(|node| node.process.as_deref_mut());
        let Some(process) = process else { return };
        let sequence = process.ticket(caller);
        self.input(id, Input::SubmitTuning { sequence, submit });
    }

    fn some_params(&mut self) -> Params {
        let random = self.nemesis.random();
        let election_timeout_us = random.within(40_000, 500_000);
        // One in six is out of bounds in one way or another.
        let parts = if random.below(12) == 0 { random.within(1, 4) } else { random.within(5, 12) };
        let lease_percent = match random.below(12) {
            0 => 81 + random.below(40),
            1..=5 => 0,
            _ => random.within(1, 80),
        };
        Params {
            timing: Timing {
                heartbeat_interval_us: election_timeout_us / parts,
                election_timeout_us,
            },
            lease_us: election_timeout_us / 100 * lease_percent,
            bounds: BatchBounds {
                batch_commands_max: random.within(1, 64),
                linger_us_max: random.below(2_000),
                message_bytes_max: random.within(2 << 10, 64 << 10),
                inflight_messages_max: random.within(1, 64),
                ..BatchBounds::default()
            },
        }
    }

    /// A plan was taken; its submitter is told.
    pub(crate) fn plan_taken(&mut self, expected_epoch: u64, is_legal: bool, epoch: u64) {
        self.figures.count("plans taken");
        let before = self.tunings.taken.insert(epoch, expected_epoch);
        if epoch != expected_epoch + 1 || before.is_some() {
            self.broken(format!(
                "plans: the one made upon epoch {expected_epoch} was taken as epoch {epoch}"
            ));
        }
        if !is_legal {
            self.broken(format!("plans: that of epoch {epoch} is not legal, and was taken"));
        }
    }

    // What must hold -------------------------------------------------------------------------

    /// A member has confirmed a phase.
    pub(crate) fn confirmed_plan(&mut self, id: u64, ack: &TuningAck) {
        let Some(phase) = Phase::of(u64::from(ack.phase)) else { return };
        let now_us = self.now_us;
        let Some(process) = self.nodes.get(&id).and_then(|node| node.running()) else { return };
        let params = process.member.tuning(process.local_us(now_us)).promised;
        let reached = (ack.epoch, phase);
        let promise = Promise { reached, params };
        let known = self.tunings.promises.entry(id).or_insert(promise);
        if known.reached < reached {
            *known = promise;
        }
    }

    /// A process ends: what it used and leased goes with it.
    pub(crate) fn forget_plan(&mut self, id: u64) {
        self.tunings.uses.remove(&id);
    }

    /// What a member uses, after each step.
    pub(crate) fn check_plan(&mut self, id: u64) {
        let now_us = self.now_us;
        let Some(node) = self.nodes.get(&id) else { return };
        let (boot, Some(process)) = (node.boot, node.running()) else { return };
        let status = process.member.tuning(process.local_us(now_us));
        let votes = process.member.members().iter().any(|row| row.id == id && !row.is_learner);
        let (params, reached) = (status.in_force, (status.epoch, status.phase));
        let mut leases = Vec::new();
        if let Some(before) = self.tunings.uses.get(&id).filter(|before| before.boot == boot) {
            if reached < before.reached {
                return self.broken(format!(
                    "plans: member {id} went back from {:?} to {reached:?}",
                    before.reached
                ));
            }
            let length_us = before.params.lease_us;
            leases = before.leases.iter().copied().filter(|(_, until)| *until > now_us).collect();
            if length_us > params.lease_us {
                leases.push((length_us, now_us + length_us));
            }
        }
        leases.sort_unstable();
        leases.dedup();
        let uses = Uses { boot, votes, params, reached, leases };
        if let Some(promise) = self.tunings.promises.get(&id)
            && reached < promise.reached
            && (params.timing.election_timeout_us < promise.params.timing.election_timeout_us
                || params.lease_us > promise.params.lease_us)
        {
            let promise = *promise;
            return self.broken(format!(
                "promises: member {id} confirmed {promise:?} and uses {params:?} at {reached:?}"
            ));
        }
        self.tunings.uses.insert(id, uses);
        self.check_pairs(id);
        self.hurry_plan(id);
    }

    /// The member that has just moved against every other.
    fn check_pairs(&mut self, moved: u64) {
        let uses = &self.tunings.uses;
        let Some(one) = uses.get(&moved).filter(|one| one.votes) else { return };
        let others = uses.iter().filter(|(_, other)| other.votes);
        let broken = others
            .flat_map(|(id, other)| [(moved, one, *id, other), (*id, other, moved, one)])
            .find_map(|(a, leads, b, votes)| Some((a, b, self.breach(leads, votes)?)));
        // A member that was removed and does not know it yet is beyond all plans.
        let members = || self.membership();
        if let Some((leads, votes, what)) = broken
            && [leads, votes].iter().all(|id| members().contains(id))
        {
            self.broken(format!("plans: if member {leads} leads voter {votes}: {what}"));
        }
    }

    fn breach(&self, leads: &Uses, votes: &Uses) -> Option<String> {
        let election_us = votes.params.timing.election_timeout_us;
        let heartbeat_us = leads.params.timing.heartbeat_interval_us;
        if election_us / 5 < heartbeat_us {
            return Some(format!(
                "heartbeats every {heartbeat_us} µs at {:?}, patience of {election_us} µs at {:?}",
                leads.reached, votes.reached
            ));
        }
        let held = leads.leases.iter().filter(|(_, until)| *until > self.now_us);
        let lease_us = held.map(|(length, _)| *length).max().unwrap_or(0);
        let lease_us = lease_us.max(leads.params.lease_us);
        (lease_us * 100 >= election_us * 99).then(|| {
            format!(
                "a lease of {lease_us} µs at {:?}, patience of {election_us} µs at {:?}",
                leads.reached, votes.reached
            )
        })
    }

    // A disk that stands still ---------------------------------------------------------------

    /// The leader's disk stands still. Nothing else happens meanwhile: another member must lead when
    /// it is over.
    pub(crate) fn stall_disk(&mut self) -> Option<u64> {
        let leader = self.leader()?;
        let voters = self.nodes.get(&leader)?.running()?.view.members();
        // Whoever fails meanwhile makes the judgement void.
        let are_well = voters.iter().all(|row| {
            let node = self.nodes.get(&row.id);
            node.is_some_and(|node| node.running().is_some() && node.paused_us <= self.now_us)
        });
        if voters.iter().filter(|row| !row.is_learner).count() < 3 || !are_well {
            return None;
        }
        self.network.heal();
        let running = self.nodes.values().filter_map(|node| node.running());
        let longest_us = running
            .map(|process| process.member.status().effective_timing.election_timeout_us)
            .max()?;
        // Where messages are lost an election may take a few attempts.
        let attempts = if self.plan.loss_permille > 0 { 2 } else { 1 };
        let lasts_us = attempts * (STALL_ELECTIONS * longest_us).max(STALL_US_MIN);
        let term = self.nodes.get(&leader)?.running()?.member.status().term;
        let stall = Stall { node: leader, term, boots: self.boots_of_all() };
        self.figures.count("disks that stood still");
        self.trace.note(self.now_us, &[37, leader, lasts_us], || {
            format!("{leader}: its disk stands still for {lasts_us} µs")
        });
        self.nodes.get_mut(&leader)?.stalled_us = self.now_us + lasts_us;
        self.tunings.stalls += 1;
        self.after(lasts_us, Event::StallEnds { stall });
        Some(lasts_us)
    }

    fn boots_of_all(&self) -> Vec<(u64, u64)> {
        self.nodes.iter().map(|(id, node)| (*id, node.boot)).collect()
    }

    pub(crate) fn stall_ends(&mut self, stall: &Stall) {
        if self.boots_of_all() != stall.boots || self.phase != RunPhase::Faults {
            return;
        }
        let moved = self.truth.led_after(stall.term, stall.node);
        if !moved {
            self.broken(format!(
                "a leader with a dead disk goes: member {} still leads term {}",
                stall.node, stall.term
            ));
        }
    }

    // Mutants --------------------------------------------------------------------------------

    /// A mutant's way: the plan goes on when a quorum has confirmed.
    fn hurry_plan(&mut self, id: u64) {
        if !self.is(Mutant::QuorumBarrier) {
            return;
        }
        let now_us = self.now_us;
        let Some(process) = self.nodes.get(&id).and_then(|node| node.running()) else { return };
        let status = process.member.tuning(process.local_us(now_us));
        let step = (status.epoch, status.phase as u32);
        let voters: Vec<u64> = process
            .member
            .members()
            .iter()
            .filter(|row| !row.is_learner)
            .map(|row| row.id)
            .collect();
        let reached = Some((status.epoch, status.phase));
        let confirmed =
            voters.iter().filter(|id| status.confirmed.get(id).copied() >= reached).count();
        let is_due = process.is_leader
            && status.phase != Phase::Settled
            && confirmed > voters.len() / 2
            && self.tunings.hurried != step;
        if is_due {
            self.tunings.hurried = step;
            let advance = TuningAdvance { epoch: step.0, phase: step.1 };
            self.propose(id, Caller::Chore, Op::TuningAdvance(advance));
        }
    }

    /// A mutant's way: what a member is told of the plan.
    pub(crate) fn bend_plan(&self, tuning: &mut Tuning) {
        let own = Params { timing: self.plan.timing, ..Params::default() };
        let plan = plan_of(tuning);
        let to = plan.to.unwrap_or(own);
        let mut from = tuning.from.take().unwrap_or_default();
        let before = from.params.map_or(own, |params| params_of(&params));
        if self.is(Mutant::ElectionFirst) && plan.phase == Phase::Beat {
            // The short timeout together with the short interval, while others have the long one.
            from.params = Some(params_said(&Params { lease_us: before.lease_us, ..to }));
            (from.election_us_min, from.flags) = (0, false);
        }
        if self.is(Mutant::LeaseEarly) && to.lease_us > before.lease_us {
            from.params = Some(params_said(&Params { lease_us: to.lease_us, ..before }));
        }
        tuning.from = Some(from);
    }

    /// A mutant's way: a plan is taken whatever it was made upon.
    pub(crate) fn ignore_epoch(&self, id: u64, task: &mut ApplyTask) {
        let Some(process) = self.nodes.get(&id).and_then(|node| node.running()) else { return };
        let mut epoch = process.view.tuning().epoch;
        let ApplyTask::Entries { entries, .. } = task else { return };
        for entry in entries.iter_mut().filter(|entry| is_normal(entry)) {
            let mut batch = Batch::decode(entry.data.clone()).unwrap_or_default();
            for bytes in &mut batch.commands {
                let mut command = Command::decode(bytes.clone()).unwrap_or_default();
                if let Some(Op::TuningSubmit(submit)) = &mut command.op {
                    submit.expected_epoch = epoch;
                    submit.supersede = true;
                    epoch += 1;
                    *bytes = command.encode_to_vec().into();
                }
            }
            entry.data = batch.encode_to_vec().into();
        }
    }

    /// A mutant's way: a leader speaks up although its disk stands still.
    pub(crate) fn beat_anyway(&mut self, id: u64) {
        let now_us = self.now_us;
        let Some(node) = self.nodes.get(&id) else { return };
        let Some(process) = node.running().filter(|_| node.stalled_us > now_us) else { return };
        let status = process.member.status();
        let interval_us = status.timing.heartbeat_interval_us;
        if status.role != Role::Leader || now_us < self.tunings.beat_us + interval_us {
            return;
        }
        self.tunings.beat_us = now_us;
        let others = status.progress.keys().filter(|to| **to != id);
        let beats: Vec<RaftMessage> = others
            .map(|to| RaftMessage {
                r#type: Type::MsgHeartbeat.into(),
                to: *to,
                from: id,
                term: status.term,
                ..RaftMessage::default()
            })
            .collect();
        for beat in beats {
            self.send(id, beat);
        }
    }
}

fn is_normal(entry: &Entry) -> bool {
    entry.r#type() == proto::log::entry::Type::Normal && !entry.data.is_empty()
}
