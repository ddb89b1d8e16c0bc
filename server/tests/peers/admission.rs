//! Who is let in, who is told why not, and what noise on the port does.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use proto::peer::RaftMessage;
use proto::peer::raft_message::Type;
use server::peers::{Inbound as _, LinkState, Refusal, fetch_members};

use super::{CLUSTER, REMOVED, Start, pair, wait_until};

#[test]
fn strangers_are_refused_and_told_why() {
    let right = Start::member(2).start();
    right.knows(&[(3, "http://127.0.0.1:1".to_owned())]);
    for (start, looks_for, refusal, why) in [
        (Start::member(1), 2, Refusal::NotMember, "member 1 is not in cluster c1"),
        (Start::member(REMOVED), 2, Refusal::Removed, "member 5 has been removed from cluster c1"),
        (
            Start { cluster_id: 0xc2, ..Start::member(3) },
            2,
            Refusal::OtherCluster,
            "member 3 is of cluster c2, this is cluster c1",
        ),
        (
            Start::member(3),
            4,
            Refusal::OtherMember,
            "member 3 looked for member 4, this is member 2",
        ),
    ] {
        let stranger = start.start();
        stranger.knows(&[(looks_for, right.url())]);
        wait_until("the stranger is refused", || {
            stranger.node.seen().refused.contains(&(looks_for, refusal))
        });
        let link = stranger.peers.links()[&looks_for].clone();
        assert!(link.last_error.clone().unwrap().contains(why), "{link:?}");
        assert_ne!(link.state, LinkState::Healthy);
        stranger.peers.send(vec![
            stranger.append(looks_for, 1, 1),
            stranger.message(Type::MsgHeartbeat, looks_for, 1, Vec::new()),
        ]);
    }
    let seen = right.node.seen();
    assert!(seen.appended.is_empty() && seen.urgent.is_empty() && seen.forwarded.is_empty());
}

#[test]
fn a_member_added_later_is_let_in_and_one_removed_is_cut_off() {
    let left = Start::member(1).start();
    let right = Start::member(2).start();
    left.knows(&[(2, right.url())]);
    wait_until("the unknown is refused", || {
        left.node.seen().refused.contains(&(2, Refusal::NotMember))
    });
    right.knows(&[(1, left.url())]);
    wait_until("both are connected", || left.is_connected(2) && right.is_connected(1));
    right.knows(&[]);
    wait_until("the removed is cut off", || !left.is_connected(2));
    left.peers.send(vec![left.append(2, 1, 1)]);
    assert!(right.appended_indexes().is_empty());
}

#[test]
fn a_member_that_moved_is_found_at_its_new_address() {
    let (left, right) = pair(Start::member(1), Start::member(2));
    let moved = Start { boot_id: 2, ..Start::member(2) }.start();
    moved.knows(&[(1, left.url())]);
    left.knows(&[(2, moved.url())]);
    wait_until("it is connected there", || left.is_connected(2));
    left.peers.send(vec![left.append(2, 1, 1)]);
    wait_until("the append has arrived", || moved.appended_indexes() == [1]);
    assert!(right.appended_indexes().is_empty());
}

#[test]
fn a_message_beyond_the_limit_is_refused_and_the_next_one_passes() {
    let mut start = Start::member(2);
    start.limits.frame_bytes_max = 1 << 20;
    let (left, right) = pair(Start::member(1), start);
    left.peers.send(vec![left.append(2, 1, 2 << 20)]);
    wait_until("the connection is given up", || {
        left.peers.links()[&2]
            .last_error
            .as_ref()
            .is_some_and(|why| why.contains("decoded message length too large"))
    });
    wait_until("it stands again", || left.is_connected(2));
    left.peers.send(vec![left.append(2, 2, 1 << 10)]);
    wait_until("the small one has arrived", || right.appended_indexes() == [2]);
    // One that is too large for this member itself does not even leave.
    left.peers.send(vec![left.append(2, 3, 17 << 20)]);
    assert_eq!(left.peers.links()[&2].dropped, 1);
}

#[test]
fn messages_in_another_members_name_end_the_stream() {
    let (left, right) = pair(Start::member(1), Start::member(2));
    let forged = RaftMessage { from: 3, ..left.append(2, 1, 1) };
    left.peers.send(vec![forged]);
    wait_until("the stream is refused", || {
        left.peers.links()[&2]
            .last_error
            .as_ref()
            .is_some_and(|why| why.contains("a message from 3 to 2 in the stream from 1 to 2"))
    });
    assert!(right.appended_indexes().is_empty());
}

#[test]
fn noise_on_the_port_harms_nobody() {
    let (left, right) = pair(Start::member(1), Start::member(2));
    let mut idle = Vec::new();
    for noise in [
        &b""[..],
        b"\0",
        b"\0metastore nonsense\n\r\n\r\n",
        b"\0metastore control\nGET / HTTP/1.0\r\n\r\n",
        b"GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"PRI * HTTP/2",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        &[0xff; 10_000],
    ] {
        let mut stream = TcpStream::connect(right.address()).unwrap();
        drop(stream.write_all(noise));
        idle.push(stream);
    }
    left.peers.send(vec![left.append(2, 1, 1), left.message(Type::MsgHeartbeat, 2, 1, vec![])]);
    wait_until("members still speak", || {
        right.appended_indexes() == [1] && right.node.seen().urgent.len() == 1
    });
    assert!(left.is_connected(2) && right.is_connected(1));
}

#[test]
fn the_peer_port_answers_plain_http_as_etcd_does() {
    let side = Start::member(1).start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let nowhere = "http://127.0.0.1:1".to_owned();
    let cluster = runtime.block_on(fetch_members(&[nowhere.clone(), side.url()], None)).unwrap();
    assert_eq!(cluster.cluster_id, CLUSTER);
    assert_eq!(cluster.members, side.node.members());
    assert_eq!(cluster.answered, side.url());
    let failed = runtime.block_on(fetch_members(&[nowhere], None)).unwrap_err().to_string();
    assert!(failed.starts_with("could not retrieve cluster information"), "{failed}");
    assert!(failed.contains("http://127.0.0.1:1: "), "{failed}");

    let get = |request: &str| {
        let mut stream = TcpStream::connect(side.address()).unwrap();
        write!(stream, "{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let members = get("GET /members");
    assert!(members.starts_with("HTTP/1.1 200 OK\r\n"), "{members}");
    assert!(members.contains("x-etcd-cluster-id: c1\r\n"), "{members}");
    let table = r#"[{"id":1,"peerURLs":["http://127.0.0.1:1"],"name":"m1"}]"#;
    assert!(members.ends_with(&format!("\r\n\r\n{table}\n")), "{members}");
    let version = get("GET /version");
    let versions = r#"{"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"3.7.0"}"#;
    assert!(version.ends_with(&format!("\r\n\r\n{versions}")), "{version}");
    assert!(get("GET /health").starts_with("HTTP/1.1 404 "));
    assert!(get("GET /health").ends_with("\r\n\r\n404 page not found\n"));
    let refused = get("POST /members");
    assert!(
        refused.starts_with("HTTP/1.1 405 ") && refused.contains("allow: GET\r\n"),
        "{refused}"
    );
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", taken.local_addr().unwrap());
    let error = Start { url: url.clone(), ..Start::member(1) }.try_start().err().unwrap();
    assert_eq!(
        error.to_string(),
        format!("cannot listen for peers on {url}: address already in use")
    );
    let https = Start { url: "https://127.0.0.1:0".to_owned(), ..Start::member(1) };
    assert_eq!(
        https.try_start().err().unwrap().to_string(),
        "cannot listen for peers on https://127.0.0.1:0: no certificate is given"
    );
}
