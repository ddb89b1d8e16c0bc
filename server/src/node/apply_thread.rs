//! Applies what is committed, lets readers see it, then tells everyone who waits.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};

use member::{Applied, ApplyTask, ApplyWorker, Completion, Input, Proposal};
use prost::Message as _;
use proto::etcdserverpb::{AlarmRequest, AlarmType, alarm_request::AlarmAction};
use proto::log::{Command, RequestId, command};
use state::parts::Changes;
use state::{Outcome, Response, View};

use super::{Fatal, SnapshotDoor};
use crate::backend::BackendWriter;
use crate::metrics::Metrics;
use crate::peers::{PeerAddress, Peers};
use crate::propose::{Ended, Shared};

/// Told of everything that is applied, after readers can see it. Must not wait.
pub trait AppliedSink: Send {
    /// `changes` led to `view`; after `replaced` they did not, and the view stands alone.
    fn applied(&mut self, view: &View, changes: &Changes, replaced: bool);
}

pub(super) struct ApplyThread {
    pub(super) worker: ApplyWorker,
    pub(super) shared: Arc<Shared>,
    pub(super) snapshots: SnapshotDoor,
    pub(super) backend: BackendWriter,
    pub(super) sinks: Vec<Box<dyn AppliedSink>>,
    pub(super) peers: Peers,
    pub(super) metrics: Arc<Metrics>,
    pub(super) fatal: Fatal,
}

impl ApplyThread {
    pub(super) fn run(&mut self, tasks: &Receiver<Vec<ApplyTask>>) {
        loop {
            let mut batch = match tasks.try_recv() {
                Ok(batch) => batch,
                // Nothing to apply: the moment to go on with a compaction.
                Err(TryRecvError::Empty) => match self.worker.sweep() {
                    Some((view, changes)) => {
                        self.shared.view.store(Arc::new(view.clone()));
                        // Whoever keeps an older view keeps what was swept alive with it.
                        for sink in &mut self.sinks {
                            sink.applied(&view, &changes, false);
                        }
                        self.backend.applied(&view, changes, false);
                        continue;
                    }
                    None => match tasks.recv() {
                        Ok(batch) => batch,
                        Err(_) => return,
                    },
                },
                Err(TryRecvError::Disconnected) => return,
            };
            while let Ok(more) = tasks.try_recv() {
                batch.extend(more);
            }
            for task in joined(batch) {
                let snapshots = self.snapshots.clone();
                let result = self.worker.run(task, &mut |meta| snapshots.load(meta.clone()));
                match result {
                    Ok(applied) => self.spread(applied),
                    Err(error) => {
                        return self.fatal.raise(format!("received snapshot: {error}"));
                    }
                }
            }
        }
    }

    fn spread(&mut self, applied: Applied) {
        let Applied { report, completed, view, changes, snapshot, replaced } = applied;
        // Readers first: who is answered now must find the own write.
        self.shared.view.store(Arc::new(view.clone()));
        self.shared.applied.reached(report.index);
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
        for done in completed {
            if let Completion::Command(outcome) = &done.completion {
                over_quota |= outcome.over_quota;
                self.count(outcome);
            }
            if done.id.member == self.shared.origin {
                let ended = Ended::Applied {
                    index: done.index,
                    term: done.term,
                    completion: done.completion,
                };
                self.shared.proposals.call(done.id.sequence, ended);
            }
        }
        self.shared.inbox.wake();
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
    }

    fn count(&self, outcome: &Outcome) {
        match &outcome.result {
            Ok(Response::Put(_)) => self.metrics.mvcc_puts.inc(),
            Ok(Response::DeleteRange(_)) => self.metrics.mvcc_deletes.inc(),
            Ok(Response::Txn(_)) => self.metrics.mvcc_txns.inc(),
            Ok(Response::LeaseRevoke(_)) => self.metrics.lease_expired.inc(),
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

/// Entries that wait behind each other are applied as one: the view is published once.
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

pub(crate) fn addresses(members: &[proto::log::Member]) -> Vec<PeerAddress> {
    members.iter().map(|m| PeerAddress { id: m.id, urls: m.peer_urls.clone() }).collect()
}
