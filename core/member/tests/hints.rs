//! Which crash hints a member follows: of the leader's newest process, while no lease may run.

use bytes::Bytes;
use member::consensus::Config;
use member::state::{Limits, StateParts};
use member::wal::mem::MemDisk;
use member::wal::{Identity, LogOptions};
use member::{
    ApplyTask, ApplyWorker, BASE_INDEX, BASE_TERM, DiskTask, Effects, Input, Member, MemberConfig,
    Recovery, SnapshotPolicy, bootstrap, recover,
};
use prost::Message as _;
use proto::log::{
    Batch, Command, Entry, Member as MemberRow, TuningParams, TuningSubmit, command::Op,
};
use proto::peer::{RaftMessage, raft_message::Type};

/// It leads, in this term and boot.
const LEADER: u64 = 2;
const TERM: u64 = BASE_TERM + 1;
const BOOT: u64 = 70;
/// All turns are over by then.
const TURNS_US: u64 = 20_000;

struct Stage {
    member: Member,
    apply: ApplyWorker,
    sent: Vec<RaftMessage>,
}

impl Stage {
    fn new(consensus: Config) -> Stage {
        let rows: Vec<MemberRow> = (1..=3)
            .map(|id| MemberRow { id, name: format!("m{id}"), ..MemberRow::default() })
            .collect();
        let recovery = Recovery {
            log: LogOptions::default(),
            limits: Limits::default(),
            log_entries_kept: 0,
            log_bytes_kept: 0,
        };
        let identity = Identity { cluster_id: 7, member_id: 1 };
        let (mut snapshots, mut log) = (MemDisk::new(), MemDisk::new());
        let parts = StateParts::new_cluster(&rows);
        bootstrap(&mut snapshots, &mut log, identity, parts, &recovery).expect("a whole disk");
        let booted =
            recover(&mut snapshots, &mut log, None, &recovery, None).expect("a whole disk");
        let mut apply = ApplyWorker::new(booted.state);
        let view = apply.view();
        let config = MemberConfig {
            cluster_id: 7,
            origin: 9,
            consensus,
            snapshots: SnapshotPolicy::default(),
            strict_reconfig_check: true,
        };
        let member = Member::new(config, booted.boot, &view, booted.held, 0).expect("a founder");
        let mut stage = Stage { member, apply, sent: Vec::new() };
        stage.step(0, vec![Input::PeerGreeted { peer: LEADER, boot_id: BOOT }, beat()]);
        stage
    }

    /// One step, with a disk and an apply worker that are done at once.
    fn step(&mut self, now_us: u64, mut inputs: Vec<Input>) {
        for _ in 0..100 {
            let effects = self.member.step(now_us, inputs);
            let Effects { disk, net, apply, again, .. } = effects;
            inputs = Vec::new();
            self.sent.extend(net);
            for task in disk {
                if let DiskTask::Append { number, .. } = task {
                    inputs.push(Input::Persisted { number });
                }
            }
            for task in apply.into_iter().filter(|task| matches!(task, ApplyTask::Entries { .. })) {
                let applied =
                    self.apply.run(task, &mut |_| unreachable!("no snapshot")).expect("entries");
                inputs.push(Input::Applied(Box::new(applied.report)));
            }
            if inputs.is_empty() && !again {
                return;
            }
        }
        panic!("the member does not come to rest");
    }

    /// Whether the hint makes the member stand for election.
    fn stands_upon(&mut self, peer: u64, boot_id: u64) -> bool {
        self.step(0, vec![Input::LeaderGone { peer, boot_id }]);
        self.step(TURNS_US, vec![]);
        self.sent.iter().any(|message| message.r#type() == Type::MsgRequestPreVote)
    }
}

fn beat() -> Input {
    Input::Message(RaftMessage {
        r#type: Type::MsgHeartbeat.into(),
        to: 1,
        from: LEADER,
        term: TERM,
        ..RaftMessage::default()
    })
}

/// The leader's entry with a plan of timing, committed.
fn plan(lease_us: u64) -> Input {
    let to = TuningParams {
        heartbeat_interval_us: 100_000,
        election_timeout_us: 1_000_000,
        lease_us,
        batch_commands_max: 1_000,
        linger_us_max: 0,
        message_bytes_max: 1 << 20,
        inflight_messages_max: 256,
        inflight_bytes_max: 64 << 20,
    };
    let submit = TuningSubmit { to: Some(to), ..TuningSubmit::default() };
    let command = Command { id: None, op: Some(Op::TuningSubmit(submit)) };
    let batch = Batch { commands: vec![Bytes::from(command.encode_to_vec())] };
    let index = BASE_INDEX + 1;
    Input::Message(RaftMessage {
        r#type: Type::MsgAppend.into(),
        to: 1,
        from: LEADER,
        term: TERM,
        log_term: BASE_TERM,
        index: BASE_INDEX,
        commit: index,
        entries: vec![Entry {
            term: TERM,
            index,
            data: Bytes::from(batch.encode_to_vec()),
            ..Entry::default()
        }],
        ..RaftMessage::default()
    })
}

#[test]
fn a_hint_about_the_leaders_process_is_followed() {
    let mut stage = Stage::new(Config::new(1, 9));
    assert!(stage.stands_upon(LEADER, BOOT));
    assert_eq!(stage.member.hints(0).taken, 1);
}

#[test]
fn a_hint_about_another_process_of_the_leader_or_another_member_is_not() {
    assert!(!Stage::new(Config::new(1, 9)).stands_upon(LEADER, BOOT + 1));
    assert!(!Stage::new(Config::new(1, 9)).stands_upon(3, BOOT));
}

#[test]
fn a_member_told_to_follow_none_follows_none() {
    let config = Config { crash_hints: false, ..Config::new(1, 9) };
    assert!(!Stage::new(config).stands_upon(LEADER, BOOT));
}

#[test]
fn no_hint_is_followed_from_a_plan_with_a_lease_on() {
    let mut without = Stage::new(Config::new(1, 9));
    without.step(0, vec![plan(0)]);
    assert_eq!(without.member.tuning(0).epoch, 1);
    assert!(without.stands_upon(LEADER, BOOT));
    let mut with = Stage::new(Config::new(1, 9));
    with.step(0, vec![plan(700_000)]);
    assert_eq!((with.member.tuning(0).epoch, with.member.tuning(0).in_force.lease_us), (1, 0));
    assert!(!with.stands_upon(LEADER, BOOT), "it has not begun, and may any time");
}

#[test]
fn a_leader_that_beats_after_a_hint_makes_it_a_false_one() {
    let mut stage = Stage::new(Config::new(1, 9));
    for n in 1..=3 {
        stage.step(0, vec![Input::LeaderGone { peer: LEADER, boot_id: BOOT }]);
        stage.step(1_000, vec![beat()]);
        assert_eq!(stage.member.hints(1_000).false_hints, n);
    }
    assert!(!stage.stands_upon(LEADER, BOOT), "three were false");
    assert_eq!(stage.member.hints(0).silenced, 1);
}
