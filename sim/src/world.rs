//! The event loop: one heap of events by virtual time, and everything there is.
//!
//! A run has two halves. In the first, faults happen. In the second they have stopped, and the
//! cluster must show that it lives: a leader comes, each client's write succeeds, and all members
//! end at the same index with the same hashes. What must never happen is watched in both.

use std::collections::BTreeMap;

use bytes::Bytes;
use member::state::tuning::plan_of;
use member::state::{View, hash};
use member::wal::Identity;
use proto::log::Member as MemberRow;
use proto::peer::RaftMessage;

use crate::clients::Client;
use crate::hints::Hints;
use crate::history::History;
use crate::mutant::Mutant;
use crate::nemesis::Nemesis;
use crate::network::Network;
use crate::node::Node;
use crate::plan::Plan;
use crate::random::Random;
use crate::trace::Trace;
use crate::truth::Truth;
use crate::tunings::{Stall, Tunings};

/// All simulated clusters have this id.
pub(crate) const CLUSTER_ID: u64 = 0xc1;
/// Election timeouts within which a leader must come after the last fault.
const LEADER_ELECTIONS_MAX: u64 = 10;
/// After the leader, every client's write must have succeeded by then.
const WRITES_US_MAX: u64 = 10_000_000;
/// After the last write, all members must be equal by then.
const EQUAL_US_MAX: u64 = 10_000_000;
/// How often the second half looks where it stands.
const LOOK_US: u64 = 10_000;
/// More events than any honest run has.
const EVENTS_MAX: u64 = 5_000_000;

/// Something that happens at its time.
#[derive(Debug)]
pub(crate) enum Event {
    /// The member is stepped.
    Wake { node: u64, boot: u64 },
    /// A message arrives.
    Message { to: u64, message: Box<RaftMessage> },
    /// Commands arrive at whom a follower took for the leader.
    Forwarded { from: u64, to: u64, term: u64, commands: Vec<Bytes> },
    /// The connection on which commands waited breaks.
    HandedBack { node: u64, boot: u64, term: u64, commands: Vec<Bytes> },
    /// A snapshot's transfer comes to its end.
    Snapshot { from: u64, from_boot: u64, to: u64, message: Box<RaftMessage> },
    /// The sender of a snapshot learns how that went.
    SnapshotSent { node: u64, boot: u64, to: u64, ok: bool },
    /// The log worker runs.
    Log { node: u64, boot: u64 },
    /// A second has passed for the log.
    LogIdle { node: u64, boot: u64 },
    /// The apply worker runs.
    Apply { node: u64, boot: u64 },
    /// The snapshot worker runs.
    Save { node: u64, boot: u64 },
    /// A process dies, if it is still the same.
    Crash { node: u64, boot: u64 },
    /// Who was connected to a process that ended connects again.
    Refused { node: u64, boot: u64, gone: u64, gone_boot: u64, origin: u64 },
    /// A stopped process comes back.
    Restart { node: u64, boot: u64 },
    /// A member that is not known by name says who it is.
    Publish { node: u64, boot: u64 },
    /// A client's next request.
    Client { client: u64, turn: u64 },
    /// A client has waited long enough.
    TimedOut { client: u64, turn: u64 },
    /// A question about a lease reaches the leader.
    LeaseAsked { to: u64, client: u64, turn: u64, request: usize, lease: i64 },
    /// The next fault.
    Fault,
    /// A disk goes on.
    StallEnds { stall: Stall },
    /// The partition ends.
    Heal { partition: u64 },
    /// The faults end.
    Calm,
    /// The second half looks where it stands.
    Look,
}

impl Event {
    /// The process that must run for it to happen.
    fn process(&self) -> Option<u64> {
        match self {
            Event::Wake { node, .. }
            | Event::Message { to: node, .. }
            | Event::Forwarded { to: node, .. }
            | Event::Snapshot { to: node, .. }
            | Event::SnapshotSent { node, .. }
            | Event::HandedBack { node, .. }
            | Event::Log { node, .. }
            | Event::LogIdle { node, .. }
            | Event::Apply { node, .. }
            | Event::Save { node, .. }
            | Event::Publish { node, .. }
            | Event::Refused { node, .. }
            | Event::LeaseAsked { to: node, .. } => Some(*node),
            Event::Crash { .. }
            | Event::Restart { .. }
            | Event::Client { .. }
            | Event::TimedOut { .. }
            | Event::Fault
            | Event::StallEnds { .. }
            | Event::Heal { .. }
            | Event::Calm
            | Event::Look => None,
        }
    }
}

/// Where the second half stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Faults happen.
    Faults,
    /// They have stopped, and timeouts were no longer than this; a leader must come.
    Electing { since_us: u64, election_us: u64 },
    /// Each client must write by then.
    Writing { until_us: u64 },
    /// All must be equal by then.
    Settling { until_us: u64 },
    /// All has been shown.
    Done,
}

/// Counts of what happened, so that it can be seen that it did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// By name.
    pub counts: BTreeMap<&'static str, u64>,
}

impl Figures {
    pub(crate) fn count(&mut self, name: &'static str) {
        *self.counts.entry(name).or_default() += 1;
    }
}

/// The whole simulation.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) mutant: Option<Mutant>,
    pub(crate) now_us: u64,
    heap: BTreeMap<(u64, u64), Event>,
    scheduled: u64,
    pub(crate) trace: Trace,
    pub(crate) truth: Truth,
    pub(crate) history: History,
    pub(crate) figures: Figures,
    pub(crate) network: Network,
    pub(crate) nodes: BTreeMap<u64, Node>,
    pub(crate) clients: Vec<Client>,
    pub(crate) nemesis: Nemesis,
    /// Latencies of disks and workers.
    pub(crate) pace: Random,
    pub(crate) queues: Random,
    /// What a power failure takes.
    pub(crate) loss: Random,
    /// Origins and salts of boots.
    pub(crate) boots: Random,
    /// Where watchers begin, and the like.
    pub(crate) watching: Random,
    pub(crate) phase: Phase,
    pub(crate) tunings: Tunings,
    pub(crate) hints: Hints,
}

impl World {
    /// A founded cluster at time 0.
    pub(crate) fn new(seed: u64, mutant: Option<Mutant>, trace: Trace) -> World {
        let plan = Plan::of(seed);
        let mut world = World {
            mutant,
            now_us: 0,
            heap: BTreeMap::new(),
            scheduled: 0,
            trace,
            truth: Truth::default(),
            history: History::default(),
            figures: Figures::default(),
            network: Network::new(seed, &plan),
            nodes: BTreeMap::new(),
            clients: (0..plan.clients).map(|id| Client::new(seed, id)).collect(),
            nemesis: Nemesis::new(seed),
            pace: Random::of(seed, "pace", 0),
            queues: Random::of(seed, "queues", 0),
            loss: Random::of(seed, "loss", 0),
            boots: Random::of(seed, "boots", 0),
            watching: Random::of(seed, "watching", 0),
            phase: Phase::Faults,
            tunings: Tunings::default(),
            hints: Hints::default(),
            plan,
        };
        world.found();
        for client in 0..world.plan.clients {
            world.after(1_000 * client, Event::Client { client, turn: 0 });
        }
        world.after(world.plan.fault_every_us, Event::Fault);
        world.after(world.plan.faults_us, Event::Calm);
        world
    }

    fn found(&mut self) {
        let rows: Vec<MemberRow> = (1..=self.plan.members).map(row).collect();
        for id in 1..=self.plan.members {
            let identity = Identity { cluster_id: CLUSTER_ID, member_id: id };
            let node = Node::founder(identity, &rows, &self.recovery(id));
            self.nodes.insert(id, node);
            self.start(id);
        }
    }

    /// Something is to happen in a while.
    pub(crate) fn after(&mut self, delay_us: u64, event: Event) {
        self.at(self.now_us + delay_us, event);
    }

    /// Something is to happen at a time.
    pub(crate) fn at(&mut self, at_us: u64, event: Event) {
        self.scheduled += 1;
        self.heap.insert((at_us.max(self.now_us), self.scheduled), event);
    }

    /// A fact is broken.
    pub(crate) fn broken(&mut self, fact: String) {
        self.trace.note(self.now_us, &[0xbad], || format!("BROKEN {fact}"));
        self.truth.broken(fact);
    }

    /// Runs to the end, or to the first fact broken.
    pub(crate) fn run(&mut self) {
        while self.phase != Phase::Done && self.truth.violation().is_none() {
            let Some(((at_us, _), event)) = self.heap.pop_first() else {
                return self.broken(String::from("liveness: nothing happens any more"));
            };
            self.now_us = at_us;
            if self.trace.events() > EVENTS_MAX {
                return self.broken(format!("liveness: more than {EVENTS_MAX} events"));
            }
            let paused_us = event.process().and_then(|id| self.nodes.get(&id)).map(|n| n.paused_us);
            match paused_us {
                Some(until_us) if until_us > self.now_us => self.at(until_us, event),
                _ => self.happen(event),
            }
        }
        if self.truth.violation().is_none() {
            self.judge();
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Wake { node, boot } => self.wake(node, boot),
            Event::Message { to, message } => self.deliver(to, *message),
            Event::Forwarded { from, to, term, commands } => {
                self.deliver_forward(from, to, term, commands);
            }
            Event::HandedBack { node, boot, term, commands } => {
                self.hand_back(node, boot, term, commands);
            }
            Event::Snapshot { from, from_boot, to, message } => {
                self.deliver_snapshot(from, from_boot, to, *message);
            }
            Event::SnapshotSent { node, boot, to, ok } => self.snapshot_sent(node, boot, to, ok),
            Event::Log { node, boot } => self.run_log(node, boot),
            Event::LogIdle { node, boot } => self.idle_log(node, boot),
            Event::Apply { node, boot } => self.run_apply(node, boot),
            Event::Save { node, boot } => self.run_save(node, boot),
            Event::Crash { node, boot } => self.crash_soon(node, boot),
            Event::Restart { node, boot } => self.restart(node, boot),
            Event::Publish { node, boot } => self.publish(node, boot),
            Event::Client { client, turn } => self.client_turn(client, turn),
            Event::TimedOut { client, turn } => self.client_timed_out(client, turn),
            Event::LeaseAsked { to, client, turn, request, lease } => {
                self.lease_asked(to, client, turn, request, lease);
            }
            Event::Fault => self.fault(),
            Event::StallEnds { stall } => self.stall_ends(&stall),
            Event::Refused { node, boot, gone, gone_boot, origin } => {
                self.refused(node, boot, gone, gone_boot, origin);
            }
            Event::Heal { partition } => self.heal(partition),
            Event::Calm => self.calm(),
            Event::Look => self.look(),
        }
    }

    /// The faults end: the second half begins.
    fn calm(&mut self) {
        self.trace.note(self.now_us, &[1], || String::from("CALM: no more faults"));
        self.network.calm();
        let mut election_us = self.plan.timing.election_timeout_us;
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            election_us = election_us.max(self.calm_node(id));
        }
        self.phase = Phase::Electing { since_us: self.now_us, election_us };
        self.after(LOOK_US, Event::Look);
    }

    fn look(&mut self) {
        self.stop_removed();
        match self.phase {
            Phase::Faults | Phase::Done => return,
            Phase::Electing { since_us, election_us } => {
                let is_over =
                    |election_us| self.now_us > since_us + LEADER_ELECTIONS_MAX * election_us;
                if self.leader().is_some() {
                    self.trace.note(self.now_us, &[2], || String::from("a leader is there"));
                    self.phase = Phase::Writing { until_us: self.now_us + WRITES_US_MAX };
                    for client in &mut self.clients {
                        client.must_write();
                    }
                } else if is_over(election_us) && is_over(self.longest_election_us()) {
                    // Answers to who stood still come late, and lengthen timeouts.
                    return self.broken(format!(
                        "liveness: no leader {LEADER_ELECTIONS_MAX} election timeouts after the \
                         last fault: {}",
                        self.standing()
                    ));
                }
            }
            Phase::Writing { until_us } => {
                let waiting = self.clients.iter().find(|client| !client.has_written());
                if waiting.is_none() {
                    self.trace.note(self.now_us, &[3], || String::from("all clients have written"));
                    self.phase = Phase::Settling { until_us: self.now_us + EQUAL_US_MAX };
                    for client in &mut self.clients {
                        client.retire();
                    }
                } else if self.now_us > until_us {
                    return self.broken(format!(
                        "liveness: no write of client {} succeeds after the last fault: {}",
                        waiting.map_or(0, |client| client.id),
                        self.standing()
                    ));
                }
            }
            Phase::Settling { until_us } => {
                if self.clients.iter().all(Client::is_retired) && self.is_settled() {
                    self.phase = Phase::Done;
                    return;
                }
                if self.now_us > until_us {
                    return self.broken(format!(
                        "liveness: the members do not come to the same end: {}",
                        self.standing()
                    ));
                }
            }
        }
        self.after(LOOK_US, Event::Look);
    }

    fn longest_election_us(&self) -> u64 {
        let running = self.nodes.values().filter_map(|node| node.running());
        let timings = running.map(|it| it.member.status().effective_timing);
        timings.map(|timing| timing.election_timeout_us).max().unwrap_or(0)
    }

    /// Views of all members of the cluster as it is now; `None` if one does not run.
    fn views(&self) -> Option<Vec<(u64, View)>> {
        let ids = self.membership();
        ids.into_iter().map(|id| Some((id, self.nodes.get(&id)?.running()?.view.clone()))).collect()
    }

    fn is_settled(&self) -> bool {
        let Some(views) = self.views() else { return false };
        let last = self.truth.last_committed();
        // Leases still end, each a step forward: then nothing is settled yet.
        views.iter().all(|(_, view)| {
            view.applied_index() >= last
                && !view.is_compacting()
                && view.leases_total() == 0
                && plan_of(view.tuning()).phase == member::autotune::Phase::Settled
        }) && views.windows(2).all(|pair| pair[0].1.applied_index() == pair[1].1.applied_index())
    }

    /// Who stands where, for the report of a liveness failure.
    fn standing(&self) -> String {
        let mut text = String::new();
        for (id, node) in &self.nodes {
            let stands = match node.running() {
                Some(running) => {
                    let status = running.member.status();
                    format!(
                        "{:?} term {} commit {} applied {} last {} leases {}",
                        status.role,
                        status.term,
                        status.commit,
                        running.view.applied_index(),
                        status.last_index,
                        running.view.leases_total()
                    )
                }
                None => String::from("down"),
            };
            text += &format!("[{id}: {stands}] ");
        }
        text
    }

    /// The last judgement: what was told against what is.
    fn judge(&mut self) {
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.end_watchers(id, true);
        }
        let records = self.truth.history();
        if let Some(views) = self.views() {
            let hashes = |view: &View| {
                (view.applied(), hash::hash_all(view), hash::hash_kv(view, 0).map(|h| h.hash).ok())
            };
            let first = views.first().map(|(_, view)| hashes(view));
            for (id, view) in &views {
                if Some(hashes(view)) != first {
                    return self.broken(format!(
                        "equal states: member {id} ends with {:?}, others with {first:?}",
                        hashes(view)
                    ));
                }
                let newest = records.last().map_or(1, |record| record.mod_revision());
                if view.revision() != newest {
                    return self.broken(format!(
                        "durability: member {id} ends at revision {}, but {newest} was applied",
                        view.revision()
                    ));
                }
            }
        }
        let truth = &self.truth;
        let judged = self.history.judge(&records, |origin, seq| truth.has_request(origin, seq));
        if let Err(fact) = judged {
            return self.broken(format!("history: {fact}"));
        }
        self.truth.judge_watchers();
    }
}

/// How a member stands in the table.
pub(crate) fn row(id: u64) -> MemberRow {
    MemberRow {
        id,
        name: format!("m{id}"),
        peer_urls: vec![format!("http://10.0.0.{id}:2380")],
        client_urls: vec![format!("http://10.0.0.{id}:2379")],
        is_learner: false,
    }
}
