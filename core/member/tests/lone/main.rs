//! Member 1 of three, with a disk and an apply worker that are done at once. Its neighbours' parts the
//! test plays.

mod hints;
mod leases;
mod lost;
mod promises;
mod restored;

use member::consensus::Config;
use member::state::{Limits, StateParts, Values};
use member::wal::mem::MemDisk;
use member::wal::{Identity, LogOptions};
use member::{
    ApplyTask, ApplyWorker, DiskTask, Effects, Forward, Input, Member, MemberConfig, Recovery,
    Reply, SnapshotPolicy, bootstrap, recover,
};
use proto::log::Member as MemberRow;
use proto::peer::RaftMessage;

/// Steps within which a member comes to rest.
const STEPS_MAX: usize = 400;

pub(crate) struct Lone {
    pub(crate) member: Member,
    apply: ApplyWorker,
    /// Apply does nothing while this is some: it is behind by these.
    pub(crate) unapplied: Option<Vec<ApplyTask>>,
    /// The disk stands still.
    pub(crate) is_stuck: bool,
    /// Commands sent on to whoever leads.
    pub(crate) forwarded: Vec<Forward>,
    /// Messages of the member that nobody has answered yet.
    pub(crate) sent: Vec<RaftMessage>,
    pub(crate) replies: Vec<Reply>,
    pub(crate) wake_at_us: u64,
}

impl Lone {
    pub(crate) fn new(consensus: Config) -> Lone {
        let rows: Vec<MemberRow> = (1..=3)
            .map(|id| MemberRow { id, name: format!("m{id}"), ..MemberRow::default() })
            .collect();
        let recovery = Recovery {
            log: LogOptions::default(),
            limits: Limits::default(),
            log_entries_kept: 0,
            log_bytes_kept: 0,
            values: Values::default(),
        };
        let identity = Identity { cluster_id: 7, member_id: 1 };
        // Where a process has its one directory, two handles lead to one disk; here the log and the
        // snapshots may as well have one each.
        let (mut snapshots, mut log) = (MemDisk::new(), MemDisk::new());
        let parts = StateParts::new_cluster(&rows);
        bootstrap(&mut snapshots, &mut log, identity, parts, &recovery).expect("a whole disk");
        let booted =
            recover(&mut snapshots, &mut log, None, &recovery, None).expect("a whole disk");
        let mut apply = ApplyWorker::new(booted.state, 9);
        let view = apply.view();
        let config = MemberConfig {
            cluster_id: 7,
            origin: 9,
            consensus,
            snapshots: SnapshotPolicy::default(),
            strict_reconfig_check: true,
            plan_format: autotune::PLAN_FORMAT,
        };
        let member = Member::new(config, booted.boot, &view, booted.held, 0).expect("a founder");
        Lone {
            member,
            apply,
            unapplied: None,
            is_stuck: false,
            forwarded: Vec::new(),
            sent: Vec::new(),
            replies: Vec::new(),
            wake_at_us: 0,
        }
    }

    /// Gives it these, and what follows from them, until it is at rest.
    pub(crate) fn step(&mut self, now_us: u64, mut inputs: Vec<Input>) {
        for _ in 0..STEPS_MAX {
            let effects = self.member.step(now_us, inputs);
            let Effects { disk, net, apply, reply, again, wake_at_us, forward, .. } = effects;
            self.forwarded.extend(forward);
            self.wake_at_us = wake_at_us;
            inputs = Vec::new();
            self.replies.extend(reply);
            self.sent.extend(net);
            for task in disk.into_iter().filter(|_| !self.is_stuck) {
                if let DiskTask::Append { number, .. } = task {
                    inputs.push(Input::Persisted { number });
                }
            }
            match &mut self.unapplied {
                Some(behind) => behind.extend(apply),
                None => inputs.extend(self.carry_out(apply)),
            }
            if inputs.is_empty() && !again {
                return;
            }
        }
        panic!("the member does not come to rest");
    }

    /// Apply catches up.
    pub(crate) fn catch_up(&mut self) -> Vec<Input> {
        let behind = self.unapplied.take().unwrap_or_default();
        self.carry_out(behind)
    }

    fn carry_out(&mut self, tasks: Vec<ApplyTask>) -> Vec<Input> {
        let entries = tasks.into_iter().filter(|task| matches!(task, ApplyTask::Entries { .. }));
        let applied = entries.map(|task| {
            let done = self.apply.run(task, &mut |_| unreachable!("no snapshot"));
            done.expect("entries").report
        });
        applied.map(|report| Input::Applied(Box::new(report))).collect()
    }
}
