//! What a leader sends, when, and how much of it: entries leave with the output of their proposal, in a
//! window, encoded once; who is slow or far behind costs nobody else anything.

#![allow(clippy::unwrap_used, reason = "a test that goes wrong may panic")]

mod lone;

use bytes::Bytes;
use consensus::{Boot, Config, Output, ProgressState, Replica};
use proto::log::{self, MembershipChange, membership_change};
use proto::peer::{RaftMessage, raft_message::Type};

use lone::{drain, has, kinds, leader, message, meta};

fn appends_to(messages: &[RaftMessage], to: u64) -> Vec<&RaftMessage> {
    messages.iter().filter(|m| m.to == to && m.r#type() == Type::MsgAppend).collect()
}

/// Member 2 acknowledges everything there is.
fn acknowledge(replica: &mut Replica) -> Vec<RaftMessage> {
    replica.receive(0, has(replica.status().last_index, 2)).unwrap();
    drain(replica)
}

#[test]
fn an_entry_and_its_commit_leave_at_once_without_tick_or_heartbeat() {
    let mut replica = leader();
    for id in [2, 3] {
        replica.receive(0, has(11, id)).unwrap();
    }
    drain(&mut replica);
    replica.propose(Bytes::from_static(b"x")).unwrap();
    let Output { messages, persist, .. } = replica.take_output(0);
    // Beside the write of the leader's own copy, not after it.
    assert_eq!(persist.as_ref().unwrap().entries[0].index, 12);
    assert_eq!(kinds(&messages), [Type::MsgAppend; 2]);
    assert!(messages.iter().all(|m| m.entries[0].index == 12));
    replica.persisted(persist.unwrap().number);
    replica.receive(0, has(12, 2)).unwrap();
    let Output { messages, committed, .. } = replica.take_output(0);
    assert_eq!(committed[0].index, 12);
    assert_eq!(kinds(&messages), [Type::MsgAppend; 2], "followers learn of the commit");
    assert!(messages.iter().all(|m| m.commit == 12 && m.entries.is_empty()));
}

#[test]
fn a_commit_index_goes_with_the_entries_that_leave_at_the_same_time() {
    let mut replica = leader();
    for id in [2, 3] {
        replica.receive(0, has(11, id)).unwrap();
    }
    drain(&mut replica);
    replica.propose(Bytes::from_static(b"x")).unwrap();
    drain(&mut replica);
    replica.propose(Bytes::from_static(b"y")).unwrap();
    replica.receive(0, has(12, 2)).unwrap();
    let Output { messages, committed, .. } = replica.take_output(0);
    assert_eq!(committed[0].index, 12);
    let said: Vec<_> = messages.iter().map(|m| (m.to, m.commit, m.entries.len())).collect();
    assert_eq!(said, [(2, 12, 1), (3, 12, 1)]);
}

#[test]
fn log_followers_and_apply_share_one_encoded_batch() {
    let mut replica = leader();
    for id in [2, 3] {
        replica.receive(0, has(11, id)).unwrap();
    }
    drain(&mut replica);
    for _ in 0..5 {
        replica.propose(Bytes::from(vec![7; 1_000])).unwrap();
    }
    let first = replica.take_output(0);
    let persist = first.persist.unwrap();
    assert_eq!(persist.entries.len(), 1, "one entry for what has gathered");
    let written = persist.entries[0].data.as_ptr();
    for message in &first.messages {
        assert_eq!(message.entries[0].data.as_ptr(), written);
    }
    replica.persisted(persist.number);
    replica.receive(0, has(12, 3)).unwrap();
    assert_eq!(replica.take_output(0).committed[0].data.as_ptr(), written);
}

#[test]
fn the_first_commands_of_a_term_follow_the_question_where_a_log_ends() {
    let mut replica = leader();
    let sent = |replica: &mut Replica| -> Vec<(u64, Vec<u64>)> {
        replica.propose(Bytes::from_static(b"x")).unwrap();
        let messages = drain(replica);
        let to_2 = appends_to(&messages, 2);
        let indexes = |m: &RaftMessage| m.entries.iter().map(|entry| entry.index).collect();
        to_2.iter().map(|m| (m.index, indexes(m))).collect()
    };
    assert_eq!(sent(&mut replica), [(10, vec![11, 12])], "asked again, with the commands");
    assert_eq!(sent(&mut replica), [], "once a term");
    // It has what both say: what it is not known to have is sent again, with what came after.
    replica.receive(0, has(11, 2)).unwrap();
    let messages = drain(&mut replica);
    let entries: Vec<u64> =
        appends_to(&messages, 2).iter().flat_map(|m| &m.entries).map(|it| it.index).collect();
    assert_eq!(entries, [12, 13]);
    replica.receive(0, has(12, 2)).unwrap();
    assert_eq!(replica.status().commit, 12);
    assert_eq!(sent(&mut replica), [(13, vec![14])]);
}

#[test]
fn a_follower_with_another_log_refuses_both_and_is_asked_anew_once() {
    let mut replica = leader();
    replica.propose(Bytes::from_static(b"x")).unwrap();
    drain(&mut replica);
    let refused = RaftMessage { reject: true, reject_hint: 7, log_term: 5, ..has(10, 2) };
    replica.receive(10_000, refused.clone()).unwrap();
    let messages = drain(&mut replica);
    let asked: Vec<_> =
        appends_to(&messages, 2).iter().map(|m| (m.index, m.entries.len())).collect();
    assert_eq!(asked, [(7, 5)]);
    // The second refusal is of the same question, and the answer to a heartbeat of before the new one
    // does not say that it is lost.
    replica.receive(11_000, refused).unwrap();
    let answer = RaftMessage { sent_us: 5_000, ..message(Type::MsgHeartbeatResponse, 6) };
    replica.receive(12_000, answer).unwrap();
    assert!(appends_to(&drain(&mut replica), 2).is_empty());
    replica.receive(20_000, has(12, 2)).unwrap();
    drain(&mut replica);
    assert_eq!(replica.status().commit, 12);
}

#[test]
fn entries_and_messages_are_short_until_a_road_has_shown_that_it_carries_more() {
    let mut replica = leader();
    replica.receive(0, has(11, 2)).unwrap();
    drain(&mut replica);
    let longest = |replica: &mut Replica, voter: u64, answers: bool| -> (usize, usize) {
        for _ in 0..100 {
            replica.propose(Bytes::from(vec![7; 1_000])).unwrap();
        }
        let Output { messages, persist, .. } = replica.take_output(0);
        let persist = persist.unwrap();
        let entry = persist.entries.iter().map(|it| it.data.len()).max();
        let bytes = |m: &&RaftMessage| m.entries.iter().map(|it| it.data.len()).sum();
        let message = appends_to(&messages, voter).iter().map(bytes).max();
        replica.persisted(persist.number);
        drain(replica);
        if answers {
            let last_index = replica.status().last_index;
            replica.receive(0, has(last_index, voter)).unwrap();
            drain(replica);
        }
        (entry.unwrap(), message.unwrap_or(0))
    };
    let first = longest(&mut replica, 2, true);
    assert!(first.0 <= 8 << 10 && first.1 <= 8 << 10, "{first:?}");
    // It has a hundred of them by now; the other is gone, and holds nobody up.
    let (entry, message) = longest(&mut replica, 2, false);
    assert!((90_000..=110_000).contains(&entry) && message == entry, "{entry} {message}");
}

#[test]
fn messages_are_as_short_as_the_roads_ask_that_a_commit_needs() {
    let boot = Boot { conf_state: lone::conf(&[1, 2, 3, 4, 5]), ..Default::default() };
    let mut replica =
        Replica::new(Config { pre_vote: false, ..Config::new(1, 7) }, boot, 0).unwrap();
    replica.campaign();
    drain(&mut replica);
    let of = |kind: Type, from: u64| RaftMessage { from, ..message(kind, 1) };
    for from in [2, 3] {
        replica.receive(0, of(Type::MsgRequestVoteResponse, from)).unwrap();
    }
    drain(&mut replica);
    let longest = |replica: &mut Replica, has_it: &[u64]| {
        for _ in 0..100 {
            replica.propose(Bytes::from(vec![7; 1_000])).unwrap();
        }
        let persist = replica.take_output(0).persist.unwrap();
        replica.persisted(persist.number);
        drain(replica);
        let index = replica.status().last_index;
        for from in has_it {
            replica
                .receive(0, RaftMessage { index, ..of(Type::MsgAppendResponse, *from) })
                .unwrap();
        }
        drain(replica);
        persist.entries.iter().map(|it| it.data.len()).max().unwrap()
    };
    for from in [2, 3] {
        replica.receive(0, RaftMessage { index: 1, ..of(Type::MsgAppendResponse, from) }).unwrap();
    }
    drain(&mut replica);
    assert!(longest(&mut replica, &[2]) < 8 << 10);
    assert!(longest(&mut replica, &[2]) < 8 << 10, "the second nearest has shown nothing");
    longest(&mut replica, &[2, 3]);
    assert!(longest(&mut replica, &[2, 3]) > 90_000);
}

#[test]
fn no_more_is_proposed_at_once_than_may_be_on_the_way() {
    let mut replica =
        lone::leader_with(Config { inflight_bytes_max: 1 << 20, ..Config::new(1, 7) });
    replica.receive(0, has(11, 2)).unwrap();
    drain(&mut replica);
    for _ in 0..4_000 {
        replica.propose(Bytes::from(vec![7; 1_000])).unwrap();
    }
    let sent = replica.take_output(0).messages;
    let bytes = |m: &&RaftMessage| m.entries.iter().map(|it| it.data.len()).sum::<usize>();
    let bytes: usize = appends_to(&sent, 2).iter().map(bytes).sum();
    assert!(((1 << 20) - (16 << 10)..(1 << 20) + (16 << 10)).contains(&bytes), "{bytes}");
}

#[test]
fn a_sole_voter_has_no_road_to_wait_for() {
    let boot = Boot { conf_state: lone::conf(&[1]), ..Default::default() };
    let mut replica = Replica::new(Config::new(1, 7), boot, 0).unwrap();
    replica.campaign();
    drain(&mut replica);
    for _ in 0..100 {
        replica.propose(Bytes::from(vec![7; 1_000])).unwrap();
    }
    assert_eq!(replica.take_output(0).persist.unwrap().entries.len(), 1);
}

#[test]
fn a_follower_is_sent_a_window_of_messages_ahead_of_its_answers_and_no_more() {
    let mut replica = lone::leader_with(Config { inflight_max: 4, ..Config::new(1, 7) });
    replica.receive(0, has(11, 2)).unwrap();
    drain(&mut replica);
    let mut sent = Vec::new();
    for _ in 0..10 {
        replica.propose(Bytes::from_static(b"x")).unwrap();
        sent.extend(drain(&mut replica));
    }
    let indexes: Vec<u64> = appends_to(&sent, 2).iter().map(|m| m.entries[0].index).collect();
    assert_eq!(indexes, [12, 13, 14, 15], "before any answer");
    // The first answers make room again: what was held back goes together.
    replica.receive(0, has(13, 2)).unwrap();
    let sent = drain(&mut replica);
    let entries: Vec<u64> =
        appends_to(&sent, 2).iter().flat_map(|m| &m.entries).map(|e| e.index).collect();
    assert_eq!(entries, (16..=21).collect::<Vec<_>>());
}

#[test]
fn one_message_carries_a_bounded_number_of_bytes() {
    let mut replica = lone::leader_with(Config { message_bytes_max: 10_000, ..Config::new(1, 7) });
    for _ in 0..20 {
        replica.propose(Bytes::from(vec![7; 4_000])).unwrap();
        drain(&mut replica);
    }
    replica.receive(0, has(11, 2)).unwrap();
    let sent = drain(&mut replica);
    let appends = appends_to(&sent, 2);
    assert_eq!(appends.iter().map(|m| m.entries.len()).sum::<usize>(), 20, "all at once");
    assert!(appends.iter().all(|m| m.entries.len() <= 2), "{}", appends.len());
}

#[test]
fn bytes_on_the_way_to_a_follower_are_bounded_whatever_the_number_of_messages() {
    let mut replica = lone::leader_with(Config {
        message_bytes_max: 10_000,
        inflight_bytes_max: 10_000,
        ..Config::new(1, 7)
    });
    replica.receive(0, has(11, 2)).unwrap();
    drain(&mut replica);
    let mut sent = Vec::new();
    for _ in 0..10 {
        replica.propose(Bytes::from(vec![7; 4_000])).unwrap();
        sent.extend(drain(&mut replica));
    }
    let indexes: Vec<u64> = appends_to(&sent, 2).iter().map(|m| m.entries[0].index).collect();
    assert_eq!(indexes, [12, 13, 14], "the third passes the bound, the fourth would be beyond it");
    let road = replica.status().progress[&2];
    assert!((12_000..13_000).contains(&road.inflight_bytes), "{}", road.inflight_bytes);
    replica.receive(0, has(14, 2)).unwrap();
    let sent = drain(&mut replica);
    let entries: usize = appends_to(&sent, 2).iter().map(|m| m.entries.len()).sum();
    assert!((3..7).contains(&entries), "a window more: {entries}");
}

#[test]
fn the_window_of_a_follower_follows_what_its_road_holds() {
    let mut replica = leader();
    for follower in [2, 3] {
        replica.receive(0, has(11, follower)).unwrap();
    }
    drain(&mut replica);
    assert_eq!(replica.status().progress[&2].window, 256, "as set, until it is measured");
    // One small message every 10 ms, answered after 80: far less than a window is on the way.
    let mut answers = std::collections::VecDeque::new();
    for step in 0..100_u64 {
        let now_us = step * 10_000;
        while answers.front().is_some_and(|(at_us, _)| *at_us <= now_us) {
            let (_, index) = answers.pop_front().unwrap();
            replica.receive(now_us, has(index, 2)).unwrap();
            replica.receive(now_us, has(index, 3)).unwrap();
        }
        replica.propose(Bytes::from(vec![7; 1_000])).unwrap();
        let Output { persist, messages, .. } = replica.take_output(now_us);
        if let Some(persist) = persist {
            replica.persisted(persist.number);
        }
        let sent = appends_to(&messages, 2);
        if let Some(newest) = sent.iter().filter_map(|message| message.entries.last()).next_back() {
            answers.push_back((now_us + 80_000, newest.index));
        }
    }
    let window = replica.status().progress[&2].window;
    assert!((16..=20).contains(&window), "twice the eight messages of a round trip: {window}");
}

#[test]
fn neither_a_silent_follower_nor_one_that_is_sent_a_snapshot_holds_the_other_back() {
    let mut replica = leader();
    replica.receive(0, has(11, 2)).unwrap();
    drain(&mut replica);
    replica.snapshot_available(meta(11, 6));
    for is_sent_a_snapshot in [false, true] {
        if is_sent_a_snapshot {
            let wants = RaftMessage { request_snapshot: 1, reject: true, index: 10, ..has(10, 3) };
            replica.receive(0, wants).unwrap();
            drain(&mut replica);
            assert_eq!(replica.status().progress[&3].state, ProgressState::Snapshot);
        }
        for _ in 0..1_000 {
            let before = replica.status().commit;
            replica.propose(Bytes::from_static(b"x")).unwrap();
            assert_eq!(appends_to(&drain(&mut replica), 2).len(), 1);
            acknowledge(&mut replica);
            assert_eq!(replica.status().commit, before + 1);
        }
    }
}

#[test]
fn a_follower_that_lacks_much_is_found_in_one_step_by_the_index_it_names() {
    let mut replica = leader();
    for _ in 0..1_000 {
        replica.propose(Bytes::from_static(&[7; 200])).unwrap();
        drain(&mut replica);
        acknowledge(&mut replica);
    }
    // Its log ends at 5; the leader's first probe was at 10.
    let lacks = RaftMessage { reject: true, index: 10, reject_hint: 5, log_term: 5, ..has(0, 3) };
    replica.receive(0, lacks).unwrap();
    let sent = drain(&mut replica);
    let probe = appends_to(&sent, 3);
    assert_eq!(probe.len(), 1);
    assert_eq!((probe[0].index, probe[0].entries[0].index), (5, 6), "not one by one");
    let last = probe[0].entries.last().unwrap().index;
    assert!(last > 600, "with as much as a message holds: {last}");
    replica.receive(0, has(last, 3)).unwrap();
    assert_eq!(replica.status().progress[&3].state, ProgressState::Replicate);
    let sent = drain(&mut replica);
    let rest = appends_to(&sent, 3);
    assert_eq!(rest.iter().flat_map(|m| &m.entries).map(|e| e.index).max(), Some(1_011));
}

#[test]
fn all_reads_that_wait_on_a_follower_share_one_question_and_its_one_answer() {
    let mut replica = lone::follower();
    for ticket in 0..500 {
        replica.read(ticket);
    }
    let asked = replica.take_output(0).messages;
    assert_eq!(kinds(&asked), [Type::MsgReadIndex]);
    for ticket in 500..900 {
        replica.read(ticket);
    }
    assert!(!kinds(&drain(&mut replica)).contains(&Type::MsgReadIndex), "one on its way");
    let answer = RaftMessage {
        index: 8,
        entries: asked[0].entries.clone(),
        ..message(Type::MsgReadIndexResp, 5)
    };
    replica.receive(0, answer).unwrap();
    let Output { reads, messages, .. } = replica.take_output(0);
    assert_eq!(reads.len(), 500, "one round trip, and they may read");
    assert_eq!(kinds(&messages), [Type::MsgReadIndex], "the others share the next");
}

/// Commits this many commands of 1 MiB.
fn fill(replica: &mut Replica, commands: usize) {
    for _ in 0..commands {
        replica.propose(Bytes::from(vec![7; 1 << 20])).unwrap();
        drain(replica);
    }
}

#[test]
fn who_is_alone_keeps_little_of_the_log_and_as_much_as_others_once_somebody_joins() {
    let boot = Boot { conf_state: lone::conf(&[1]), ..Default::default() };
    let mut replica = Replica::new(Config::new(1, 7), boot, 0).unwrap();
    replica.campaign();
    drain(&mut replica);
    fill(&mut replica, 10);
    let kept = replica.status().log_bytes_in_memory;
    assert!((3 << 20..=4 << 20).contains(&kept), "{kept}");

    let peer_urls = vec![String::from("http://2")];
    let joining = log::Member { id: 2, peer_urls, is_learner: true, ..Default::default() };
    let kind = membership_change::Kind::AddLearner.into();
    let change = MembershipChange { kind, member: Some(joining), ..Default::default() };
    replica.propose_membership(change).unwrap();
    for _ in 0..2 {
        let output = replica.take_output(0);
        for entry in &output.committed {
            replica.apply_membership(entry, true).unwrap();
            replica.applied(entry.index);
        }
        if let Some(persist) = output.persist {
            replica.persisted(persist.number);
        }
    }
    assert_eq!(replica.status().conf_state.learners, [2]);
    fill(&mut replica, 10);
    let kept = replica.status().log_bytes_in_memory;
    assert!(kept > 13 << 20, "{kept}");
}
