//! When a peer is taken for gone, and when not.

use std::net::TcpListener;

use server::peers::{LinkState, PeerAddress};

use super::{Proxy, Start, free_port, pair, wait_until};

#[test]
fn a_peer_whose_machine_refuses_after_the_connection_closed_is_gone() {
    /// On a machine that is busy the refusals may come too late to be worth anything.
    const TRIES: usize = 10;
    for _ in 0..TRIES {
        let (left, right) = pair(Start::member(1), Start { boot_id: 77, ..Start::member(2) });
        drop(right);
        wait_until("the peer is gone, or looked for long after that was worth knowing", || {
            !left.node.seen().gone.is_empty() || left.peers.links()[&2].failures >= 12
        });
        let gone = left.node.seen().gone.clone();
        if !gone.is_empty() {
            assert_eq!(gone, [(2, 77)]);
            return;
        }
    }
    panic!("never said to be gone");
}

#[test]
fn connections_that_are_cut_while_the_peer_listens_tell_of_no_death() {
    let left = Start::member(1).start();
    let right = Start::member(2).start();
    let proxy = Proxy::before(right.address());
    left.knows(&[(2, format!("http://{}", proxy.address))]);
    right.knows(&[(1, left.url())]);
    for _ in 0..5 {
        wait_until("the connection stands", || left.is_connected(2));
        let failures = left.peers.links()[&2].failures;
        proxy.cut();
        wait_until("the loss is noticed", || left.peers.links()[&2].failures >= failures + 2);
    }
    wait_until("the connection stands again", || left.is_connected(2));
    assert_eq!(left.node.seen().gone, []);
}

#[test]
fn a_peer_that_may_be_alive_behind_another_address_is_not_gone() {
    let left = Start::member(1).start();
    let right = Start::member(2).start();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let urls = vec![right.url(), format!("http://{}", other.local_addr().unwrap())];
    left.peers.set_members(vec![PeerAddress { id: 2, urls }]);
    right.knows(&[(1, left.url())]);
    wait_until("the connection stands", || left.is_connected(2));
    drop(right);
    wait_until("it is looked for", || left.peers.links()[&2].state == LinkState::Disconnected);
    assert_eq!(left.node.seen().gone, []);
}

#[test]
fn a_peer_that_was_never_reached_is_not_gone() {
    let left = Start::member(1).start();
    left.knows(&[(2, format!("http://127.0.0.1:{}", free_port()))]);
    wait_until("it is refused", || left.peers.links()[&2].failures >= 4);
    assert_eq!(left.node.seen().gone, []);
}
