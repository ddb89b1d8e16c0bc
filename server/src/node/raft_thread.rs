//! Step, carry out: what whoever has the turn (`raft_turn`) does with what came.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant, SystemTime};

use member::{ApplyTask, DiskTask, Effects, Forward, Input, Member, Reply, consensus};
use otlp::Span;
use proto::peer::RaftMessage;

use super::applier::Applier;
use super::apply_turn::ApplyTurn;
use super::log_thread::LogWork;
use super::raft_turn::Step;
use super::stage_clock::{Since, StageClock};
use super::{Fatal, REMOVED};
use crate::door::{NodeStatus, PeerStatus, Road};
use crate::metrics::Metrics;
use crate::peers::{LinkState, Peers};
use crate::propose::{Led, Shared};
use crate::telemetry::call;

/// The status others see is at most this old while the member is busy.
const STATUS_AGE_MAX: Duration = Duration::from_millis(20);
/// How much later than its deadline a request may be given up.
const EXPIRY_INTERVAL_US: u64 = 100_000;

pub(super) struct Stepper {
    member: Member,
    shared: Arc<Shared>,
    peers: Peers,
    to_log: Sender<LogWork>,
    apply: Arc<ApplyTurn<Applier>>,
    metrics: Arc<Metrics>,
    fatal: Fatal,
    status_at: Option<Instant>,
    expire_us: u64,
    stages: StageClock,
    is_leader: bool,
    heartbeat_interval_us: u64,
    leaderless_since: Option<SystemTime>,
}

impl Stepper {
    pub(super) fn new(
        member: Member,
        shared: Arc<Shared>,
        peers: Peers,
        to_log: Sender<LogWork>,
        apply: Arc<ApplyTurn<Applier>>,
        metrics: Arc<Metrics>,
        fatal: Fatal,
    ) -> Self {
        let timeout_us = u64::try_from(shared.request_timeout.as_micros()).unwrap_or(u64::MAX);
        let stages = StageClock::new(Arc::clone(&metrics.stages), timeout_us);
        Stepper {
            member,
            shared,
            peers,
            to_log,
            apply,
            metrics,
            fatal,
            status_at: None,
            expire_us: 0,
            stages,
            is_leader: false,
            heartbeat_interval_us: u64::MAX,
            leaderless_since: Some(SystemTime::now()),
        }
    }

    /// Something in this step may be traced.
    #[cold]
    fn follow(
        &self,
        disk: &[DiskTask],
        apply: &[ApplyTask],
        net: &[RaftMessage],
        forward: Option<&Forward>,
    ) {
        let flights = &self.shared.flights;
        flights.stepped(disk, apply, self.is_leader);
        for message in net.iter().filter(|message| !message.entries.is_empty()) {
            self.peers.tell_traces(message.to, flights.replicated(&message.entries));
        }
        if let Some(Forward { to, commands, .. }) = forward {
            self.peers.tell_traces(*to, flights.forwarded(commands));
        }
    }

    /// A trace of its own: from the loss of the leader, or the start, until there is one.
    fn follow_election(&mut self, new: &consensus::Leadership) {
        let Some(leader) = new.leader else {
            self.leaderless_since.get_or_insert_with(SystemTime::now);
            return;
        };
        let Some(start) = self.leaderless_since.take() else { return };
        let times = (start, SystemTime::now());
        call::note_own(|context| {
            Span::new(context, None, "election", times)
                .with("metastore.leader", format!("{leader:x}"))
                .with("metastore.raft.term", new.term.cast_signed())
        });
    }

    fn count(&self, reply: &Reply) {
        match reply {
            Reply::NotProposed { .. }
            | Reply::MembershipRefused { .. }
            | Reply::TuningRefused { .. } => {
                self.metrics.proposals_failed.inc();
            }
            Reply::ReadFailed { .. } => self.metrics.read_indexes_failed.inc(),
            _ => {}
        }
    }

    fn tell(&self, new: &consensus::Leadership) {
        tracing::info!(
            leader = new.leader.map(|id| format!("{id:x}")),
            term = new.term,
            is_leader = new.is_leader,
            "leadership"
        );
        if new.leader.is_some() && new.leader != self.shared.led.borrow().leader {
            self.metrics.leader_changes.inc();
        }
        let now_us = self.shared.now_us();
        self.shared.vitals.note_leadership(now_us, new.leader, new.is_leader);
        self.shared.led.send_modify(|held| {
            let changes = held.changes + u64::from(new.leader != held.leader);
            *held = Led { leader: new.leader, is_leader: new.is_leader, changes };
        });
        // Whether this member learns is for apply to say.
        self.shared.leadership.send_modify(|held| {
            held.leader = new.leader;
            held.term = new.term;
        });
    }

    fn publish_status(&mut self, now: bool) {
        let fresh = self.status_at.is_some_and(|at| at.elapsed() < STATUS_AGE_MAX);
        if fresh && !now {
            return;
        }
        self.status_at = Some(Instant::now());
        let pending = i64::try_from(self.shared.pending_proposals()).unwrap_or(i64::MAX);
        self.metrics.proposals_pending.set(pending);
        let status = self.member.status();
        let identity = self.shared.identity;
        let members = self.member.members();
        let is_learner = members.iter().any(|m| m.id == identity.member_id && m.is_learner);
        let view = self.shared.view.load();
        let peers = members
            .iter()
            .filter(|member| member.id != identity.member_id)
            .map(|member| PeerStatus {
                member_id: member.id,
                reachable: self.peers.link_state(member.id) == Some(LinkState::Healthy),
                is_learner: member.is_learner,
                match_index: status.progress.get(&member.id).map_or(0, |p| p.match_index),
                road: status
                    .progress
                    .get(&member.id)
                    .map(|p| Road { window: p.window, inflight_bytes: p.inflight_bytes }),
            })
            .collect();
        self.shared.status.store(Arc::new(NodeStatus {
            identity,
            leader: status.leader,
            term: status.term,
            last_index: status.last_index,
            commit_index: status.commit,
            applied_index: status.applied,
            is_learner,
            is_leader: status.leader == Some(identity.member_id),
            db_size_bytes: self.shared.backend.size_bytes().max(view.size_bytes()),
            // History is in use until it is compacted, as in etcd.
            db_size_in_use_bytes: view.size_bytes(),
            heartbeat_interval_us: status.effective_timing.heartbeat_interval_us,
            election_timeout_us: status.effective_timing.election_timeout_us,
            peers,
        }));
        let tuning = self.member.tuning(self.shared.now_us());
        self.metrics.note_tuning(&tuning);
        self.peers.set_compression_allowed(tuning.in_force.bounds.compression);
        self.shared.tuning.store(Some(Arc::new(tuning)));
        let election_us = status.effective_timing.election_timeout_us;
        self.peers.set_election_timeout(Duration::from_micros(election_us));
        if self.shared.vitals.note_hints(self.member.hints(self.shared.now_us())) {
            tracing::warn!(
                "crash hints are switched off for an hour: after too many of them the leader was alive"
            );
        }
        self.heartbeat_interval_us = status.effective_timing.heartbeat_interval_us;
        self.shared.replica.store(Some(Arc::new(status)));
    }
}

impl Step for Stepper {
    fn step(&mut self, inputs: Vec<Input>) -> Instant {
        let (now_us, now) = (self.shared.now_us(), Instant::now());
        let meant_us = self.shared.raft_due_us.load(Ordering::Relaxed);
        // 0: it has not come round yet.
        if meant_us > 0 && meant_us <= now_us {
            let late_us = now_us - meant_us;
            self.shared.vitals.note_pass(now_us, late_us);
            if self.is_leader && late_us > self.heartbeat_interval_us {
                self.metrics.heartbeat_send_failures.inc();
            }
        }
        self.stages.arrived(&inputs, now_us);
        let effects = self.member.step(now_us, inputs);
        let Effects { disk, net, forward, apply, reply, leadership, removed, again, wake_at_us } =
            effects;
        if let Some(leadership) = &leadership {
            self.is_leader = leadership.is_leader;
        }
        self.stages.stepped(now_us, self.member.commands_waiting(), self.is_leader);
        for lag_us in self.member.take_lease_lags_us() {
            self.metrics.lease_expired.inc();
            self.metrics.lease_expiry_lag_seconds.observe(lag_us as f64 / 1e6);
        }
        if now_us >= self.expire_us {
            self.shared.expire_tickets(now_us);
            self.expire_us = now_us + EXPIRY_INTERVAL_US;
            if self.shared.flights.are_any() {
                self.shared.flights.expire();
            }
        }
        let due_us = if again { now_us } else { wake_at_us.min(self.expire_us) };
        self.shared.raft_due_us.store(due_us, Ordering::Relaxed);
        if self.shared.flights.are_any() {
            self.follow(&disk, &apply, &net, forward.as_ref());
        }
        // First what somebody waits for, then what comes back from others, then the own disk, which
        // is the nearest. A receiver is gone only when its thread has failed, and that has been told.
        self.stages.committed(now_us, self.member.commit_index());
        if !apply.is_empty() {
            let since = self.stages.given_to_apply(last_index(&apply));
            self.apply.push(apply, since);
        }
        if !net.is_empty() {
            self.peers.send(net);
        }
        if !disk.is_empty() {
            let sizes = &self.metrics.batch_commands;
            let mut since = Since { at_us: now_us, commands: 0 };
            self.shared.figures.note_entries(&disk, |index, commands| {
                sizes.observe(commands as f64);
                self.stages.logged(index, Since { at_us: now_us, commands });
                since.commands += commands;
            });
            if !self.is_leader {
                since.commands = 0;
            }
            drop(self.to_log.send(LogWork { tasks: disk, since }));
        }
        if let Some(Forward { to, term, commands }) = forward
            && let Err(commands) = self.peers.forward(to, term, commands)
        {
            self.shared.inbox.urgent(Input::NotForwarded { term, commands });
        }
        for reply in reply {
            self.count(&reply);
            self.shared.answer(&reply);
        }
        let changed = leadership.is_some();
        if let Some(leadership) = leadership {
            self.tell(&leadership);
            self.follow_election(&leadership);
        }
        self.publish_status(changed);
        if removed {
            self.fatal.raise_of_data(REMOVED.to_owned());
        }
        now + Duration::from_micros(due_us.saturating_sub(now_us))
    }
}

impl Drop for Stepper {
    fn drop(&mut self) {
        self.apply.close();
    }
}

/// The last entry given to apply; 0: none.
fn last_index(tasks: &[ApplyTask]) -> u64 {
    let last = |task: &ApplyTask| match task {
        ApplyTask::Entries { entries, .. } => entries.last().map(|entry| entry.index),
        _ => None,
    };
    tasks.iter().filter_map(last).next_back().unwrap_or(0)
}
