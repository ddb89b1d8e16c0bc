//! Which crash hints a member follows: of the leader's newest process, while no lease may run.

use bytes::Bytes;
use member::consensus::Config;
use member::{BASE_INDEX, BASE_TERM, Input};
use prost::Message as _;
use proto::log::{Batch, Command, Entry, TuningParams, TuningSubmit, command::Op};
use proto::peer::{RaftMessage, raft_message::Type};

use crate::Lone;

/// It leads, in this term and boot.
const LEADER: u64 = 2;
const TERM: u64 = BASE_TERM + 1;
const BOOT: u64 = 70;
/// All turns are over by then.
const TURNS_US: u64 = 20_000;

struct Stage(Lone);

impl Stage {
    fn new(consensus: Config) -> Stage {
        let mut stage = Stage(Lone::new(consensus));
        stage.0.step(0, vec![Input::PeerGreeted { peer: LEADER, boot_id: BOOT }, beat()]);
        stage
    }

    /// Whether the hint makes the member stand for election.
    fn stands_upon(&mut self, peer: u64, boot_id: u64) -> bool {
        self.0.step(0, vec![Input::LeaderGone { peer, boot_id }]);
        self.0.step(TURNS_US, vec![]);
        self.0.sent.iter().any(|message| message.r#type() == Type::MsgRequestPreVote)
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
        ..TuningParams::default()
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
    assert_eq!(stage.0.member.hints(0).taken, 1);
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
    without.0.step(0, vec![plan(0)]);
    assert_eq!(without.0.member.tuning(0).epoch, 1);
    assert!(without.stands_upon(LEADER, BOOT));
    let mut with = Stage::new(Config::new(1, 9));
    with.0.step(0, vec![plan(700_000)]);
    assert_eq!((with.0.member.tuning(0).epoch, with.0.member.tuning(0).in_force.lease_us), (1, 0));
    assert!(!with.stands_upon(LEADER, BOOT), "it has not begun, and may any time");
}

#[test]
fn a_leader_that_beats_after_a_hint_makes_it_a_false_one() {
    let mut stage = Stage::new(Config::new(1, 9));
    for n in 1..=3 {
        stage.0.step(0, vec![Input::LeaderGone { peer: LEADER, boot_id: BOOT }]);
        stage.0.step(1_000, vec![beat()]);
        assert_eq!(stage.0.member.hints(1_000).false_hints, n);
    }
    assert!(!stage.stands_upon(LEADER, BOOT), "three were false");
    assert_eq!(stage.0.member.hints(0).silenced, 1);
}
