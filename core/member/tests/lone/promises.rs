//! What a member promises with a plan that it confirms.

use member::Input;
use member::consensus::Config;
use proto::peer::{RaftMessage, raft_message::Type};

use crate::Lone;

/// Turns within which it asks for votes.
const TURNS_MAX: usize = 1_000;

#[test]
fn a_timeout_that_was_lengthened_is_used_and_not_promised() {
    let config = Config::new(1, 9);
    let mut lone = Lone::new(config.clone());
    let mut now_us = 0;
    let is_question = |message: &&RaftMessage| message.r#type() == Type::MsgRequestPreVote;
    let question = (0..TURNS_MAX).find_map(|_| {
        lone.step(now_us, vec![]);
        now_us = lone.wake_at_us.max(now_us + 1);
        lone.sent.iter().find(is_question).cloned()
    });
    let question = question.expect("nobody leads");
    let before = lone.member.tuning(now_us);
    assert_eq!((before.in_force.timing, before.promised.timing), (config.timing, config.timing));

    // As far away as that no answer comes within the timeout.
    let away_us = 3 * config.timing.election_timeout_us;
    let answer = RaftMessage {
        r#type: Type::MsgRequestPreVoteResponse.into(),
        to: 1,
        from: question.to,
        term: question.term,
        sent_us: question.sent_us,
        ..RaftMessage::default()
    };
    lone.step(question.sent_us + away_us, vec![Input::Message(answer)]);
    let status = lone.member.tuning(question.sent_us + away_us);
    assert!(status.in_force.timing.election_timeout_us >= away_us, "{status:?}");
    assert_eq!(status.promised.timing, config.timing);
}
