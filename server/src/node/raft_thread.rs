//! Drain, step, carry out.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use member::{ApplyTask, DiskTask, Effects, Forward, Input, Member, Reply, consensus};

use super::{Fatal, REMOVED};
use crate::door::{NodeStatus, PeerStatus};
use crate::metrics::Metrics;
use crate::peers::{LinkState, Peers};
use crate::propose::{Led, Shared};

/// The status others see is at most this old while the member is busy.
const STATUS_AGE_MAX: Duration = Duration::from_millis(20);
/// How much later than its deadline a request may be given up.
const EXPIRY_INTERVAL_US: u64 = 100_000;

pub(super) struct RaftThread {
    member: Member,
    shared: Arc<Shared>,
    peers: Peers,
    to_log: Sender<Vec<DiskTask>>,
    to_apply: Sender<Vec<ApplyTask>>,
    metrics: Arc<Metrics>,
    fatal: Fatal,
    status_at: Option<Instant>,
}

impl RaftThread {
    pub(super) fn new(
        member: Member,
        shared: Arc<Shared>,
        peers: Peers,
        to_log: Sender<Vec<DiskTask>>,
        to_apply: Sender<Vec<ApplyTask>>,
        metrics: Arc<Metrics>,
        fatal: Fatal,
    ) -> Self {
        RaftThread { member, shared, peers, to_log, to_apply, metrics, fatal, status_at: None }
    }

    pub(super) fn run(&mut self) {
        let mut wake_at = self.shared.started;
        let mut expire_us = 0;
        while let Some(inputs) = self.shared.inbox.take(wake_at) {
            let now_us = self.shared.now_us();
            let meant_us = self.shared.raft_due_us.load(Ordering::Relaxed);
            // 0: it has not come round yet.
            if meant_us > 0 && meant_us <= now_us {
                self.shared.vitals.note_pass(now_us, now_us - meant_us);
            }
            let effects = self.member.step(now_us, inputs);
            let Effects {
                disk,
                net,
                forward,
                apply,
                reply,
                leadership,
                removed,
                again,
                wake_at_us,
            } = effects;
            if now_us >= expire_us {
                self.shared.expire_tickets(now_us);
                expire_us = now_us + EXPIRY_INTERVAL_US;
            }
            let due_us = if again { now_us } else { wake_at_us.min(expire_us) };
            self.shared.raft_due_us.store(due_us, Ordering::Relaxed);
            wake_at = self.shared.started + Duration::from_micros(if again { 0 } else { due_us });
            // First what somebody waits for, then what comes back from others, then the own disk, which
            // is the nearest. A receiver is gone only when its thread has failed, and that has been told.
            if !apply.is_empty() {
                drop(self.to_apply.send(apply));
            }
            if !net.is_empty() {
                self.peers.send(net);
            }
            if !disk.is_empty() {
                let sizes = &self.metrics.batch_commands;
                self.shared.figures.note_entries(&disk, |commands| sizes.observe(commands as f64));
                drop(self.to_log.send(disk));
            }
            if let Some(Forward { to, commands }) = forward
                && let Err(commands) = self.peers.forward(to, commands)
            {
                self.shared.inbox.urgent(Input::NotForwarded(commands));
            }
            for reply in reply {
                self.count(&reply);
                self.shared.answer(&reply);
            }
            let changed = leadership.is_some();
            if let Some(leadership) = leadership {
                self.tell(&leadership);
            }
            self.publish_status(changed);
            if removed {
                self.fatal.raise_of_data(REMOVED.to_owned());
            }
        }
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
        self.shared.tuning.store(Some(Arc::new(tuning)));
        self.shared.replica.store(Some(Arc::new(status)));
    }
}
