//! Applies what is committed, lets readers see it, then tells everyone who waits.

use std::sync::Arc;
use std::time::SystemTime;

use member::{Applied, ApplyTask, ApplyWorker, Completion, Input, Proposal};
use prost::Message as _;
use proto::etcdserverpb::{AlarmRequest, AlarmType, alarm_request::AlarmAction};
use proto::log::{Command, RequestId, command};
use state::parts::Changes;
use state::{Outcome, Record, Response, View};

use super::SnapshotDoor;
use super::apply_turn::{Apply, ApplyWork};
use super::stage_clock::Since;
use crate::backend::BackendWriter;
use crate::metrics::{Batch, Metrics, Stage};
use crate::peers::{PeerAddress, Peers};
use crate::propose::{Ended, Shared};
use crate::seldom::Seldom;

/// Told of everything that is applied, after readers can see it. Must not wait.
pub trait AppliedSink: Send {
    /// `changes` led to `view`; after `replaced` they did not, and the view stands alone.
    fn applied(&mut self, view: &View, changes: &Changes, replaced: bool);
}

/// Owns the state, and knows everyone who is to hear of it. Whoever has it applies (`apply_turn`).
pub(super) struct Applier {
    pub(super) worker: ApplyWorker,
    pub(super) shared: Arc<Shared>,
    pub(super) snapshots: SnapshotDoor,
    pub(super) backend: BackendWriter,
    pub(super) sinks: Vec<Box<dyn AppliedSink>>,
    pub(super) peers: Peers,
    pub(super) metrics: Arc<Metrics>,
    /// Longer applies are told of.
    pub(super) warning_duration_us: u64,
    pub(super) slow: Seldom,
    /// A compaction is under way.
    pub(super) sweeping_since_us: Option<u64>,
}

impl Apply for Applier {
    fn apply(&mut self, work: ApplyWork, reported: &dyn Fn()) -> Result<(), String> {
        let ApplyWork { tasks, mut since } = work;
        for task in ApplyTask::joined(tasks) {
            self.backend.wait_for_room();
            let snapshots = self.snapshots.clone();
            let traced = self.shared.flights.are_any().then(SystemTime::now);
            let began_us = self.shared.now_us();
            let restores = matches!(task, ApplyTask::Restore(_));
            self.metrics.snapshot_applies.set(i64::from(restores));
            let result = self.worker.run(task, &mut |meta| snapshots.load(meta.clone()));
            self.metrics.snapshot_applies.set(0);
            let applied = result.map_err(|error| error.to_string())?;
            if let Some(start) = traced {
                let ids = applied.completed.iter().map(|done| (&done.id, done.index));
                self.shared.flights.applied(ids, start);
            }
            let applied_us = self.spread(applied, &mut since, began_us, reported);
            self.note_slow(applied_us.saturating_sub(began_us));
        }
        Ok(())
    }

    fn sweep(&mut self) -> bool {
        let Some((view, changes)) = self.sweep_on() else { return false };
        self.shared.view.store(Arc::new(view.clone()));
        // Whoever keeps an older view keeps what was swept alive with it.
        for sink in &mut self.sinks {
            sink.applied(&view, &changes, false);
        }
        self.backend.applied(&view, changes, false);
        true
    }
}

impl Applier {
    /// A step of a compaction, if one is under way.
    fn sweep_on(&mut self) -> Option<(View, Changes)> {
        let began_us = self.shared.now_us();
        let swept = self.worker.sweep();
        let now_us = self.shared.now_us();
        match &swept {
            Some((_, changes)) => {
                self.sweeping_since_us.get_or_insert(began_us);
                let took_us = now_us.saturating_sub(began_us);
                self.metrics.compaction.note_step(took_us, changes.removed.len());
            }
            None => {
                if let Some(since_us) = self.sweeping_since_us.take() {
                    self.metrics.compaction.note_end(now_us.saturating_sub(since_us));
                }
            }
        }
        swept
    }

    /// Shows and tells what was applied. Returns when readers could see it.
    fn spread(
        &mut self,
        applied: Applied,
        since: &mut Vec<Since>,
        began_us: u64,
        reported: &dyn Fn(),
    ) -> u64 {
        let Applied { report, completed, view, changes, snapshot, replaced } = applied;
        // Readers first: who is answered now must find the own write.
        self.shared.view.store(Arc::new(view.clone()));
        self.shared.applied.reached(report.index);
        let applied_us = self.shared.now_us();
        for Since { at_us, commands } in since.drain(..) {
            self.metrics.stages.note(Stage::Apply, applied_us.saturating_sub(at_us), commands);
        }
        if let Some(members) = &report.members {
            self.peers.set_members(addresses(members));
            // Promotion changes it without any change of leader, and before anyone is answered.
            let own = self.shared.identity.member_id;
            let is_learner = members.iter().any(|m| m.id == own && m.is_learner);
            self.shared.leadership.send_if_modified(|held| {
                let changed = held.is_learner != is_learner;
                held.is_learner = is_learner;
                changed
            });
        }
        // What a caller asks next must find the raft thread informed, but the answer goes first.
        self.shared.inbox.leave(Input::Applied(Box::new(report)));
        let mut over_quota = false;
        let mut batch = Batch::default();
        for done in completed {
            if let Completion::Command(outcome) = &done.completion {
                over_quota |= outcome.over_quota;
                self.count(outcome);
                batch.add(outcome);
            }
            if done.id.member == self.shared.origin {
                let ended = Ended::Applied {
                    index: done.index,
                    term: done.term,
                    completion: done.completion,
                    applied_us,
                };
                self.shared.proposals.call(done.id.sequence, ended);
            }
        }
        reported();
        self.metrics.applies.note(&batch, applied_us.saturating_sub(began_us));
        let bytes: usize = changes.records.iter().map(Record::bytes_len).sum();
        self.metrics.put_bytes.add(i64::try_from(bytes).unwrap_or(i64::MAX));
        for sink in &mut self.sinks {
            sink.applied(&view, &changes, replaced);
        }
        self.backend.applied(&view, changes, replaced);
        if over_quota {
            self.raise_no_space(&view);
        }
        if let Some(job) = snapshot {
            self.snapshots.save(job);
        }
        applied_us
    }

    fn note_slow(&self, took_us: u64) {
        if took_us <= self.warning_duration_us {
            return;
        }
        self.metrics.slow_applies.inc();
        if let Some(left_out) = self.slow.is_due(self.shared.now_us()) {
            let took_ms = took_us / 1_000;
            tracing::warn!(took_ms, left_out, "apply took too long");
        }
    }

    fn count(&self, outcome: &Outcome) {
        match &outcome.result {
            Ok(Response::Put(_)) => self.metrics.mvcc_puts.inc(),
            Ok(Response::DeleteRange(_)) => self.metrics.mvcc_deletes.inc(),
            Ok(Response::Txn(_)) => self.metrics.mvcc_txns.inc(),
            Ok(Response::LeaseGrant(granted)) => {
                self.metrics.leases_granted.inc();
                self.metrics.lease_ttl_seconds.observe(granted.ttl as f64);
            }
            Ok(Response::LeaseRevoke(_)) => self.metrics.leases_revoked.inc(),
            _ => {}
        }
    }

    /// The store has outgrown its quota: an alarm, through the log, makes all members refuse writes.
    fn raise_no_space(&self, view: &View) {
        let no_space = AlarmType::Nospace as i32;
        if view.alarms().iter().any(|alarm| alarm.alarm == no_space) {
            return;
        }
        let sequence = self.shared.own_sequence();
        let alarm = AlarmRequest {
            action: AlarmAction::Activate.into(),
            member_id: self.shared.identity.member_id,
            alarm: no_space,
        };
        let command = Command {
            id: Some(RequestId { member: self.shared.origin, sequence }),
            op: Some(command::Op::Alarm(alarm)),
        };
        tracing::warn!("database space exceeded: raising the NOSPACE alarm");
        self.shared.inbox.propose(Proposal {
            sequence,
            deadline_us: u64::MAX,
            command: command.encode_to_vec().into(),
        });
    }
}

pub(crate) fn addresses(members: &[proto::log::Member]) -> Vec<PeerAddress> {
    members.iter().map(|m| PeerAddress { id: m.id, urls: m.peer_urls.clone() }).collect()
}
