//! Appends, forwards and questions: what arrives, in which order, and what is given back.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use proto::peer::raft_message::Type;
use proto::peer::{
    LeaderReply, LeaderRequest, LeaseTtl, RaftMessage, leader_reply, leader_request,
};
use server::peers::{LinkState, PeerError};

use super::{PATIENCE, Proxy, STEP, Start, TERM, free_port, pair, wait_until};

#[test]
fn appends_keep_their_order_and_urgent_messages_arrive_beside_them() {
    let (left, right) = pair(Start::member(1), Start::member(2));
    let urgent = [
        Type::MsgHeartbeat,
        Type::MsgHeartbeatResponse,
        Type::MsgRequestVote,
        Type::MsgRequestVoteResponse,
        Type::MsgRequestPreVote,
        Type::MsgRequestPreVoteResponse,
        Type::MsgTimeoutNow,
        Type::MsgTransferLeader,
        Type::MsgReadIndex,
        Type::MsgReadIndexResp,
    ];
    let mut messages: Vec<_> = (1..=500).map(|index| left.append(2, index, 100)).collect();
    messages.push(left.message(Type::MsgAppendResponse, 2, 501, Vec::new()));
    messages.extend(urgent.map(|kind| left.message(kind, 2, 9, Vec::new())));
    left.peers.send(messages.clone());
    wait_until("all have arrived", || {
        let seen = right.node.seen();
        seen.appended.len() == 501 && seen.urgent.len() == urgent.len()
    });
    let seen = right.node.seen();
    assert_eq!(seen.appended, messages[..501]);
    assert_eq!(seen.urgent, messages[501..]);
    let link = &left.peers.links()[&2];
    assert!(link.sent.messages >= 511 && link.sent.bytes > 50_000, "{link:?}");
    assert_eq!(link.dropped, 0);
    assert_eq!(link.version.as_deref(), Some("0.1.0"));
}

#[test]
fn a_member_that_restarts_is_found_again() {
    let (left, right) = pair(Start::member(1), Start::member(2));
    let url = right.url();
    drop(right);
    // It is silent before it is lost, and lost before that is told.
    wait_until("the loss is told", || left.node.unreachable_count() > 0);
    assert!(left.peers.links()[&2].last_error.is_some());
    left.peers.send(vec![left.append(2, 1, 10)]);

    let right = Start { url, boot_id: 2, ..Start::member(2) }.start();
    right.knows(&[(1, left.url())]);
    wait_until("both are connected again", || left.is_connected(2) && right.is_connected(1));
    left.peers.send(vec![left.append(2, 2, 10)]);
    wait_until("the append has arrived", || right.appended_indexes().contains(&2));
    assert_eq!(left.peers.links()[&2].boot_id, Some(2));
}

#[test]
fn a_peer_that_cannot_be_reached_is_reported_and_nothing_piles_up() {
    let left = Start::member(1).start();
    left.knows(&[(2, format!("http://127.0.0.1:{}", free_port()))]);
    wait_until("it is given up for now", || {
        left.peers.links()[&2].state == LinkState::Disconnected
            && left.peers.links()[&2].failures > 3
    });
    let before = left.node.unreachable_count();
    wait_until("messages are dropped", || {
        left.peers
            .send(vec![left.append(2, 1, 10), left.message(Type::MsgHeartbeat, 2, 1, vec![])]);
        left.peers.links()[&2].dropped >= 10
    });
    assert!(left.node.unreachable_count() > before);
    let command = Bytes::from_static(b"put");
    assert_eq!(left.peers.forward(2, TERM, vec![command.clone()]), Err(vec![command.clone()]));
    assert_eq!(left.peers.forward(3, TERM, vec![command.clone()]), Err(vec![command]));
    let why = left.peers.links()[&2].last_error.clone().unwrap();
    assert!(why.contains("refused"), "{why}");
}

#[test]
fn a_peer_that_stops_reading_fills_a_bounded_queue_and_hears_heartbeats_all_the_same() {
    let mut start = Start::member(1);
    start.limits.queue_messages_max = 50;
    start.limits.queue_bytes_max = usize::MAX;
    let (left, right) = pair(start, Start::member(2));
    right.node.0.is_full.store(true, Ordering::Relaxed);
    let mut index = 0;
    let append = left.append(2, 0, 1 << 20);
    wait_until("the pipe is full", || {
        index += 1;
        left.peers.send(vec![RaftMessage { index, ..append.clone() }]);
        left.peers.links()[&2].dropped > 0
    });
    assert!(left.node.unreachable_count() > 0);
    let sent = left.peers.links()[&2].sent.bytes;
    assert!(sent < 40 << 20, "no more than HTTP/2's windows has left: {sent}");

    let before = left.peers.links()[&2].rtt.samples();
    left.peers.send(vec![left.message(Type::MsgHeartbeat, 2, 1, Vec::new())]);
    wait_until("heartbeat and probes pass", || {
        !right.node.seen().urgent.is_empty() && left.peers.links()[&2].rtt.samples() > before + 5
    });
    assert!(right.appended_indexes().is_empty());
    assert_eq!(left.peers.links()[&2].state, LinkState::Healthy);

    right.node.0.is_full.store(false, Ordering::Relaxed);
    wait_until("what waited arrives", || right.appended_indexes().len() > 50);
    let indexes = right.appended_indexes();
    assert!(indexes.is_sorted() && indexes.starts_with(&[1, 2, 3]));
}

#[test]
fn round_trips_are_measured_while_the_bulk_connection_is_busy() {
    let (left, right) = pair(Start::member(1), Start::member(2));
    let before = left.peers.links()[&2].rtt.samples();
    let mut index = 0;
    wait_until("enough probes came back under load", || {
        for _ in 0..8 {
            index += 1;
            left.peers.send(vec![left.append(2, index, 1 << 20)]);
        }
        right.node.seen().appended.clear();
        left.peers.links()[&2].rtt.samples() >= before + 20
    });
    let link = left.peers.links()[&2].clone();
    assert!(link.rtt.min_us() <= link.rtt.srtt_us() && link.rtt.min_us() < 30_000_000);
    assert_eq!(link.probes_lost, 0);
    wait_until("the control thread has looked at its lateness", || {
        left.peers.control_lateness_us() > 0
    });
}

#[test]
fn a_forward_never_arrives_twice_nor_after_it_was_given_back() {
    let left = Start::member(1).start();
    let right = Start::member(2).start();
    let proxy = Proxy::before(right.address());
    left.knows(&[(2, format!("http://{}", proxy.address))]);
    right.knows(&[(1, left.url())]);
    let mut refused = BTreeSet::new();
    let mut taken = BTreeSet::new();
    let mut next = 0u64;
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..25 {
        wait_until("the connection stands again", || left.is_connected(2));
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // A stretch of commands of changing size, cut somewhere in the middle.
        let (count, cut_at) = (200, random % 200);
        for number in 0..count {
            let mut command = next.to_le_bytes().to_vec();
            command.resize(8 + (random as usize + number as usize * 977) % 20_000, 0);
            let command = Bytes::from(command);
            match left.peers.forward(2, TERM, vec![command]) {
                Ok(()) => assert!(taken.insert(next)),
                Err(_) => assert!(refused.insert(next)),
            }
            next += 1;
            if number == cut_at {
                proxy.cut();
            }
        }
    }
    wait_until("the connection stands again", || left.is_connected(2));
    // The loss of a connection is noticed late: commands into a dead one may still be taken.
    let last = next;
    let number = |command: &Bytes| u64::from_le_bytes(command[..8].try_into().unwrap());
    wait_until("a last command has arrived", || {
        let command = Bytes::copy_from_slice(&next.to_le_bytes());
        let set = if left.peers.forward(2, TERM, vec![command]).is_ok() {
            &mut taken
        } else {
            &mut refused
        };
        set.insert(next);
        next += 1;
        right.node.seen().forwarded.iter().any(|command| number(command) >= last)
    });

    let mut arrived = BTreeSet::new();
    for command in &right.node.seen().forwarded {
        assert!(arrived.insert(number(command)), "{} came twice", number(command));
    }
    let mut given_back = BTreeSet::new();
    for command in &left.node.seen().not_forwarded {
        assert!(given_back.insert(number(command)), "{} came back twice", number(command));
    }
    assert!(arrived.is_disjoint(&given_back), "given back and sent");
    assert!(arrived.is_disjoint(&refused), "refused and sent");
    assert!(given_back.is_subset(&taken) && arrived.is_subset(&taken));
    assert!(!arrived.is_empty());
    println!(
        "{} commands: {} arrived, {} refused, {} given back, {} lost",
        next,
        arrived.len(),
        refused.len(),
        given_back.len(),
        taken.len() - arrived.len() - given_back.len()
    );
}

#[test]
fn what_waits_unsent_when_a_member_is_removed_is_given_back() {
    let (left, right) = pair(Start::member(1), Start::member(2));
    right.node.0.is_full.store(true, Ordering::Relaxed);
    let mut taken = 0;
    wait_until("the pipe is full", || {
        let fits = left.peers.forward(2, TERM, vec![Bytes::from(vec![1; 1 << 20])]).is_ok();
        taken += usize::from(fits);
        !fits
    });
    left.knows(&[]);
    assert!(left.peers.links().is_empty());
    let given_back = left.node.seen().not_forwarded.len();
    assert!(given_back > 0 && given_back < taken, "{given_back} of {taken}");
    right.node.0.is_full.store(false, Ordering::Relaxed);
    right.knows(&[]);
    assert!(right.node.seen().forwarded.len() + given_back <= taken);
}

#[test]
fn a_large_forward_is_split_and_keeps_its_order() {
    let (left, right) = pair(Start::member(1), Start::member(2));
    let commands: Vec<Bytes> = (0..40u8).map(|number| Bytes::from(vec![number; 300_000])).collect();
    left.forward(2, commands.clone());
    wait_until("all have arrived", || right.node.seen().forwarded.len() == commands.len());
    assert_eq!(right.node.seen().forwarded, commands);
    assert_eq!(right.node.seen().forward_terms, BTreeSet::from([TERM]));
}

#[test]
fn a_forward_without_a_bound_is_one_that_older_members_read() {
    let (left, right) = pair(Start::member(1), Start::member(2));
    let command = Bytes::from_static(b"put");
    wait_until("the command is taken", || left.peers.forward(2, 0, vec![command.clone()]).is_ok());
    wait_until("it has arrived", || !right.node.seen().forwarded.is_empty());
    assert_eq!(right.node.seen().forward_terms, BTreeSet::from([0]));
}

#[test]
fn a_question_to_the_leader_is_answered() {
    let (left, _right) = pair(Start::member(1), Start::member(2));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ask = |to, call, timeout| {
        let request = LeaderRequest { hello: None, call: Some(call) };
        runtime.block_on(left.peers.leader_call(to, request, timeout))
    };
    let keep_alive = leader_request::Call::LeaseKeepAlive(proto::peer::LeaseKeepAlive {
        id: 42,
        more: Vec::new(),
    });
    let answer = ask(2, keep_alive.clone(), PATIENCE);
    let ttl = LeaseTtl { ttl: 42, granted_ttl: 1, more: Vec::new() };
    assert_eq!(answer, Ok(LeaderReply { reply: Some(leader_reply::Reply::LeaseTtl(ttl)) }));
    assert_eq!(ask(3, keep_alive, PATIENCE), Err(PeerError::NotConnected(3)));
    let never = leader_request::Call::ReadIndex(proto::peer::ReadIndex {});
    assert_eq!(ask(2, never, STEP), Err(PeerError::Timeout(2)));
}

#[test]
fn what_was_sent_before_shutdown_arrives() {
    let (left, right) = pair(Start::member(1), Start::member(2));
    right.node.0.is_full.store(true, Ordering::Relaxed);
    // More than HTTP/2's windows hold.
    left.peers.send((1..=40).map(|index| left.append(2, index, 1 << 20)).collect());
    let stopping = left.peers.clone();
    let stopped = std::thread::spawn(move || stopping.shutdown(PATIENCE));
    right.node.0.is_full.store(false, Ordering::Relaxed);
    stopped.join().unwrap();
    wait_until("all have arrived", || right.appended_indexes().len() == 40);
}
