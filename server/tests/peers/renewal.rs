//! Append connections that are made anew, for the road has become longer.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use proto::peer::raft_message::Type;

use super::{Proxy, Side, Start, wait_until};

/// Two members and what lies before the second, the way there measured often enough.
fn on_a_known_road() -> (Side, Side, Proxy) {
    let left = Start::member(1).start();
    let right = Start::member(2).start();
    let proxy = Proxy::before(right.address());
    left.knows(&[(2, format!("http://{}", proxy.address))]);
    right.knows(&[(1, left.url())]);
    wait_until("both are connected", || left.is_connected(2) && right.is_connected(1));
    let measured = left.peers.links()[&2].rtt.samples();
    wait_until("the road is known", || left.peers.links()[&2].rtt.samples() >= measured + 60);
    (left, right, proxy)
}

#[test]
fn on_a_road_that_becomes_much_longer_appends_and_forwards_go_on_in_a_new_connection() {
    let (left, right, proxy) = on_a_known_road();

    let (mut sent, before) = (0_u64, proxy.taken());
    let mut go_on = || {
        sent += 1;
        left.peers.send(vec![left.append(2, sent, 1_000)]);
        left.forward(2, vec![Bytes::from(sent.to_string())]);
        sent
    };
    proxy.delay(Duration::from_millis(100));
    wait_until("there is another connection", || {
        go_on();
        proxy.taken() > before
    });
    // Some leave before the new stream is open, and some on it.
    let at_least = go_on() + 200;
    wait_until("appends and forwards go on", || go_on() >= at_least);
    let sent = go_on();
    wait_until("all have arrived", || {
        let seen = right.node.seen();
        seen.appended.len() as u64 >= sent && seen.forwarded.len() as u64 >= sent
    });

    let numbers: Vec<u64> = (1..=sent).collect();
    assert_eq!(right.appended_indexes(), numbers, "in order, each once");
    let forwarded: Vec<String> = numbers.iter().map(u64::to_string).collect();
    assert_eq!(right.node.seen().forwarded, forwarded);
    assert!(left.node.seen().not_forwarded.is_empty());
    let link = &left.peers.links()[&2];
    assert_eq!((link.dropped, link.failures), (0, 0), "{:?}", link.last_error);
    assert_eq!(left.node.unreachable_count(), 0);
}

#[test]
fn an_answer_does_not_wait_behind_commands_for_a_far_leader() {
    let (left, right, proxy) = on_a_known_road();
    let mut index = 0;
    let mut commands_and_answer = || {
        index += 1;
        left.forward(2, vec![Bytes::from(vec![7; 64 << 10])]);
        left.peers.send(vec![left.message(Type::MsgAppendResponse, 2, index, Vec::new())]);
    };
    wait_until("an answer has come behind commands", || {
        commands_and_answer();
        !right.appended_indexes().is_empty()
    });

    proxy.delay(Duration::from_millis(30));
    wait_until("the road is far", || left.peers.links()[&2].rtt.srtt_us() > 20_000);
    right.node.0.is_full.store(true, Ordering::Relaxed);
    wait_until("an answer has come apart", || {
        commands_and_answer();
        !right.node.seen().urgent.is_empty()
    });
    let answers = right.node.seen().urgent.clone();
    assert!(answers.iter().all(|it| it.r#type() == Type::MsgAppendResponse), "{answers:?}");
    right.node.0.is_full.store(false, Ordering::Relaxed);
}

#[test]
fn what_a_renewed_connection_may_have_lost_is_reported() {
    let (left, right, proxy) = on_a_known_road();

    right.node.0.is_full.store(true, Ordering::Relaxed);
    left.peers.send(vec![left.append(2, 1, 1_000)]);
    proxy.delay(Duration::from_millis(100));
    wait_until("it is reported", || left.node.unreachable_count() > 0);
    right.node.0.is_full.store(false, Ordering::Relaxed);
    let mut sent = 1;
    wait_until("appends go on", || {
        sent += 1;
        left.peers.send(vec![left.append(2, sent, 1_000)]);
        right.appended_indexes().last().is_some_and(|index| *index > 1)
    });
    let link = &left.peers.links()[&2];
    assert_eq!(link.failures, 0, "not by a broken connection: {:?}", link.last_error);
}
