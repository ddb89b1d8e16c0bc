//! Steps: what has gathered goes into the member, what it wants done is carried out.
//!
//! Effects are destructured without `..`, as the server does: a new kind of effect breaks this shell
//! until it is handled.
use std::collections::BTreeSet;

use member::consensus::Role;
use member::{Effects, Input, conf_state_of};

use crate::mutant::Mutant;
use crate::world::{Event, World};

/// How long a step waits for more inputs at most.
const GATHER_US: u64 = 60;
/// Steps of one member within one microsecond beyond which it is stuck.
const STEPS_AT_ONCE_MAX: u64 = 200;

impl World {
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

    pub(crate) fn wake_at(&mut self, id: u64, at_us: u64) {
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
        self.check_plan(id);
        self.check_hints(id);
        if self.is(Mutant::NoHeartbeatGate) {
            self.beat_anyway(id);
        }
        self.tell_durable(id);
    }

    pub(crate) fn carry_out(&mut self, id: u64, effects: Effects) {
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
            if self.is(Mutant::GivenAgainEarly) && leadership.leader.is_some() {
                self.propose_all_again(id);
            }
        }
        self.give_disk(id, disk);
        for message in net {
            if let Some(ack) = &message.tuning {
                self.confirmed_plan(id, ack);
            }
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

    pub(crate) fn retire(&mut self, id: u64) {
        self.figures.count("members retired");
        self.trace.note(self.now_us, &[9, id], || format!("{id}: has left the cluster"));
        self.stop(id);
        if let Some(node) = self.nodes.get_mut(&id) {
            node.is_retired = true;
        }
    }

    /// What a member says of itself, after each step.
    pub(crate) fn check_member(&mut self, id: u64) {
        let Some(running) = self.nodes.get_mut(&id).and_then(|node| node.process.as_deref_mut())
        else {
            return;
        };
        let status = running.member.status();
        let before = std::mem::replace(&mut running.commit, status.commit);
        self.count_early(id, &status);
        let Some(running) = self.nodes.get(&id).and_then(|node| node.running()) else { return };
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
