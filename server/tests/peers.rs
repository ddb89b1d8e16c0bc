//! Transports of two members over loopback: what arrives where, what is lost, what never comes twice.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::sleep;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::log::{Chunk, Entry, Member, SnapshotMeta};
use proto::peer::peer_client::PeerClient;
use proto::peer::{
    AppendAck, AppendFrame, Compression, ControlFrame, Hello, LeaderReply, LeaderRequest, LeaseTtl,
    Packed, RaftMessage, SnapshotFrame, SnapshotReply, append_frame, leader_reply, leader_request,
    raft_message::Type,
};
use server::config::{PeerCompression, Url};
use server::peers::{
    ChunkHash, Chunks, Inbound, LinkState, PeerAddress, PeerError, PeerLimits, PeerTiming, Peers,
    PeersConfig, PeersError, Refusal, Versions, fetch_members,
};

#[path = "shared/ports.rs"]
mod ports;

use ports::free_port;

const CLUSTER: u64 = 0xc1;
/// Was a member once.
const REMOVED: u64 = 5;
/// Nothing here takes longer unless it is broken.
const PATIENCE: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(5);

#[track_caller]
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}");
        sleep(STEP);
    }
}

/// A node that remembers what it was given.
#[derive(Clone, Default)]
struct Node(Arc<NodeState>);

#[derive(Default)]
struct NodeState {
    seen: Mutex<Seen>,
    /// While set, appends and forwards find no room.
    is_full: AtomicBool,
    unreachable: AtomicUsize,
}

#[derive(Default)]
struct Seen {
    appended: Vec<RaftMessage>,
    urgent: Vec<RaftMessage>,
    forwarded: Vec<Bytes>,
    not_forwarded: Vec<Bytes>,
    snapshots: Vec<(u64, bool)>,
    refused: Vec<(u64, Refusal)>,
    gone: Vec<(u64, u64)>,
}

impl Node {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.seen.lock().unwrap()
    }

    fn unreachable_count(&self) -> usize {
        self.0.unreachable.load(Ordering::Relaxed)
    }

    async fn room(&self) {
        while self.0.is_full.load(Ordering::Relaxed) {
            tokio::time::sleep(STEP).await;
        }
    }
}

impl Inbound for Node {
    async fn append(&self, message: RaftMessage) -> bool {
        self.room().await;
        self.seen().appended.push(message);
        true
    }

    fn urgent(&self, message: RaftMessage) -> bool {
        self.seen().urgent.push(message);
        true
    }

    async fn forwarded(&self, _from: u64, commands: Vec<Bytes>) -> bool {
        self.room().await;
        self.seen().forwarded.extend(commands);
        true
    }

    fn not_forwarded(&self, commands: Vec<Bytes>) {
        self.seen().not_forwarded.extend(commands);
    }

    fn unreachable(&self, _to: u64) {
        self.0.unreachable.fetch_add(1, Ordering::Relaxed);
    }

    fn snapshot_sent(&self, to: u64, ok: bool) {
        self.seen().snapshots.push((to, ok));
    }

    async fn leader_call(&self, from: u64, request: LeaderRequest) -> LeaderReply {
        let ttl = match request.call {
            Some(leader_request::Call::LeaseKeepAlive(call)) => call.id,
            _ => std::future::pending().await,
        };
        let ttl = LeaseTtl { ttl, granted_ttl: i64::try_from(from).unwrap(), more: Vec::new() };
        LeaderReply { reply: Some(leader_reply::Reply::LeaseTtl(ttl)) }
    }

    fn members(&self) -> Vec<Member> {
        vec![Member {
            id: 1,
            name: "m1".to_owned(),
            peer_urls: vec!["http://127.0.0.1:1".to_owned()],
            ..Member::default()
        }]
    }

    fn is_removed(&self, member: u64) -> bool {
        member == REMOVED
    }

    fn gone(&self, peer: u64, boot_id: u64) {
        self.seen().gone.push((peer, boot_id));
    }

    fn versions(&self) -> Versions {
        Versions {
            server: "3.7.3".to_owned(),
            cluster: "3.7.0".to_owned(),
            storage: "3.7.0".to_owned(),
        }
    }

    fn refused(&self, by: u64, refusal: Refusal) {
        self.seen().refused.push((by, refusal));
    }
}

/// Chunks in memory.
#[derive(Clone, Default)]
struct Store(Arc<StoreState>);

#[derive(Default)]
struct StoreState {
    chunks: Mutex<BTreeMap<ChunkHash, Bytes>>,
    written: Mutex<Vec<ChunkHash>>,
    committed: Mutex<Vec<SnapshotMeta>>,
    /// Writes that succeed before the rest fails.
    writes_left: AtomicU64,
}

impl Store {
    fn empty() -> Self {
        let store = Store::default();
        store.0.writes_left.store(u64::MAX, Ordering::Relaxed);
        store
    }

    /// A snapshot of `count` different chunks, all here.
    fn with_snapshot(count: u32) -> (Self, SnapshotMeta) {
        let store = Store::empty();
        let mut meta =
            SnapshotMeta { index: 7, term: 3, cluster_id: CLUSTER, ..Default::default() };
        for number in 0..count {
            let content = Bytes::from(number.to_le_bytes().repeat(10_000 + number as usize));
            let hash = *blake3::hash(&content).as_bytes();
            let bytes = content.len() as u64;
            meta.chunks.push(Chunk { hash: Bytes::copy_from_slice(&hash), bytes });
            meta.state_bytes += bytes;
            store.0.chunks.lock().unwrap().insert(hash, content);
        }
        (store, meta)
    }
}

impl Chunks for Store {
    async fn read(&self, hash: ChunkHash) -> Result<Bytes, String> {
        self.0.chunks.lock().unwrap().get(&hash).cloned().ok_or_else(|| "not here".to_owned())
    }

    async fn missing(&self, hashes: &[ChunkHash]) -> Vec<ChunkHash> {
        let chunks = self.0.chunks.lock().unwrap();
        hashes.iter().filter(|hash| !chunks.contains_key(*hash)).copied().collect()
    }

    async fn write(&self, hash: ChunkHash, content: Bytes) -> Result<(), String> {
        if self.0.writes_left.fetch_sub(1, Ordering::Relaxed) == 0 {
            self.0.writes_left.store(0, Ordering::Relaxed);
            return Err("no space left on device".to_owned());
        }
        self.0.chunks.lock().unwrap().insert(hash, content);
        self.0.written.lock().unwrap().push(hash);
        Ok(())
    }

    async fn commit(&self, meta: SnapshotMeta) -> Result<(), String> {
        self.0.committed.lock().unwrap().push(meta);
        Ok(())
    }
}

/// One member: its transport, and what it brings.
struct Side {
    id: u64,
    peers: Peers,
    node: Node,
    store: Store,
}

struct Start {
    id: u64,
    cluster_id: u64,
    boot_id: u64,
    url: String,
    limits: PeerLimits,
    compression: PeerCompression,
    store: Store,
}

impl Start {
    fn member(id: u64) -> Self {
        Start {
            id,
            cluster_id: CLUSTER,
            boot_id: 1,
            url: format!("http://127.0.0.1:{}", free_port()),
            limits: PeerLimits {
                probe_interval: Duration::from_millis(5),
                ..PeerLimits::default()
            },
            compression: PeerCompression::None,
            store: Store::empty(),
        }
    }

    fn try_start(self) -> Result<Side, PeersError> {
        let config = PeersConfig {
            cluster_id: self.cluster_id,
            member_id: self.id,
            boot_id: self.boot_id,
            version: "0.1.0".to_owned(),
            listen_urls: vec![Url::parse(&self.url).unwrap()],
            timing: PeerTiming::new(Duration::from_secs(1)),
            limits: self.limits,
            compression: self.compression,
            crash_hints: true,
            tls: None,
            wall_clock_offset_us: 0,
        };
        let node = Node::default();
        let store = self.store;
        let peers = Peers::start(config, node.clone(), store.clone())?;
        Ok(Side { id: self.id, peers, node, store })
    }

    fn start(self) -> Side {
        self.try_start().unwrap()
    }
}

impl Side {
    fn address(&self) -> SocketAddr {
        self.peers.local_addresses()[0]
    }

    fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    fn knows(&self, peers: &[(u64, String)]) {
        let peers = peers.iter().map(|(id, url)| PeerAddress { id: *id, urls: vec![url.clone()] });
        self.peers.set_members(peers.collect());
    }

    fn append(&self, to: u64, index: u64, bytes: usize) -> RaftMessage {
        let data = Bytes::from(vec![0x5a; bytes]);
        let entry = Entry { term: 1, index, data, ..Entry::default() };
        self.message(Type::MsgAppend, to, index, vec![entry])
    }

    fn message(&self, kind: Type, to: u64, index: u64, entries: Vec<Entry>) -> RaftMessage {
        RaftMessage { r#type: kind as i32, from: self.id, to, index, entries, ..Default::default() }
    }

    fn is_connected(&self, to: u64) -> bool {
        let links = self.peers.links();
        links[&to].state == LinkState::Healthy && links[&to].connected_for.is_some()
    }

    /// Sends commands on as soon as they are taken: the connection is said to stand a moment before.
    fn forward(&self, to: u64, mut commands: Vec<Bytes>) {
        wait_until("the commands are taken", || {
            match self.peers.forward(to, std::mem::take(&mut commands)) {
                Ok(()) => true,
                Err(given_back) => {
                    commands = given_back;
                    false
                }
            }
        });
    }

    fn appended_indexes(&self) -> Vec<u64> {
        self.node.seen().appended.iter().map(|message| message.index).collect()
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        self.peers.shutdown(Duration::ZERO);
    }
}

/// Two members that know each other and are connected both ways.
fn pair(left: Start, right: Start) -> (Side, Side) {
    let (left, right) = (left.start(), right.start());
    left.knows(&[(left.id, left.url()), (right.id, right.url())]);
    right.knows(&[(left.id, left.url()), (right.id, right.url())]);
    wait_until("both are connected", || left.is_connected(right.id) && right.is_connected(left.id));
    (left, right)
}

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
    assert_eq!(left.peers.forward(2, vec![command.clone()]), Err(vec![command.clone()]));
    assert_eq!(left.peers.forward(3, vec![command.clone()]), Err(vec![command]));
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

/// A proxy that can be told to cut every connection.
struct Proxy {
    address: SocketAddr,
    open: Arc<Mutex<Vec<TcpStream>>>,
    stop: Arc<AtomicBool>,
}

impl Proxy {
    fn before(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let open: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let stop = Arc::new(AtomicBool::new(false));
        let (connections, stopped) = (Arc::clone(&open), Arc::clone(&stop));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let Ok(server) = TcpStream::connect(target) else { continue };
                let mut all = connections.lock().unwrap();
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    all.push(to.try_clone().unwrap());
                    std::thread::spawn(move || {
                        drop(std::io::copy(&mut from, &mut to));
                        drop(to.shutdown(Shutdown::Both));
                    });
                }
            }
        });
        Proxy { address, open, stop }
    }

    fn cut(&self) {
        for stream in self.open.lock().unwrap().drain(..) {
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.cut();
        drop(TcpStream::connect(self.address));
    }
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
            match left.peers.forward(2, vec![command]) {
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
        let set =
            if left.peers.forward(2, vec![command]).is_ok() { &mut taken } else { &mut refused };
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
        let fits = left.peers.forward(2, vec![Bytes::from(vec![1; 1 << 20])]).is_ok();
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
}

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

fn compressing(compression: PeerCompression) -> Start {
    Start { compression, ..Start::member(1) }
}

/// Two members that ask each other so seldom that what they say of that counts for nothing, however
/// long the rest takes.
fn quiet_pair(mut left: Start, mut right: Start) -> (Side, Side) {
    for start in [&mut left, &mut right] {
        start.limits.probe_interval = Duration::from_millis(200);
    }
    pair(left, right)
}

/// Bytes in which nothing repeats.
fn noise(seed: u64, bytes: usize) -> Bytes {
    let mut noise = vec![0; bytes];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut noise);
    noise.into()
}

#[test]
fn what_repeats_itself_crosses_a_compressed_link_in_fewer_bytes_and_noise_as_it_is() {
    for (compression, shrinks) in [
        (PeerCompression::None, false),
        (PeerCompression::Lz4, true),
        (PeerCompression::Zstd, true),
    ] {
        let (left, right) = quiet_pair(compressing(compression), Start::member(2));
        let text: Vec<_> = (1..=50).map(|index| left.append(2, index, 20_000)).collect();
        let before = left.peers.links()[&2].sent;
        left.peers.send(text.clone());
        left.forward(2, vec![Bytes::from(vec![7; 9_000]); 3]);
        wait_until("all has arrived", || {
            let seen = right.node.seen();
            seen.appended.len() == 50 && seen.forwarded.len() == 3
        });
        assert_eq!(right.node.seen().appended, text);
        let sent = left.peers.links()[&2].sent;
        let (wire, plain) = (sent.bytes - before.bytes, sent.plain_bytes - before.plain_bytes);
        assert!(plain > 1_027_000, "{plain}");
        assert_eq!(wire < plain / 20, shrinks, "{compression:?}: {wire} of {plain}");
        // A probe may still be on its way.
        let received = || right.peers.links()[&1].received;
        wait_until("all that was sent is counted", || received().plain_bytes >= plain);
        assert_eq!(received().bytes < plain, shrinks);

        let noisy: Vec<_> = (51..=60)
            .map(|index| {
                let data = noise(index, 20_000);
                let entry = Entry { term: 1, index, data, ..Entry::default() };
                left.message(Type::MsgAppend, 2, index, vec![entry])
            })
            .collect();
        left.peers.send(noisy.clone());
        wait_until("the noise has arrived", || right.node.seen().appended.len() == 60);
        assert_eq!(right.node.seen().appended[50..], noisy);
        assert!(left.peers.links()[&2].sent.bytes - sent.bytes >= 200_000, "sent as it is");
    }
}

#[test]
fn chunks_of_a_snapshot_cross_in_the_form_that_was_asked_for() {
    let chunks = |compression| {
        let (store, meta) = Store::with_snapshot(50);
        let start = Start { store, ..compressing(compression) };
        let (left, right) = quiet_pair(start, Start::member(2));
        left.peers.send(vec![snapshot_message(&left, meta.clone())]);
        wait_until("it is taken", || left.node.seen().snapshots == [(2, true)]);
        assert_eq!(*right.store.0.chunks.lock().unwrap(), *left.store.0.chunks.lock().unwrap());
        let sent = left.peers.links()[&2].sent;
        assert!(sent.plain_bytes > meta.state_bytes && sent.bytes < meta.state_bytes / 20);
        sent.bytes
    };
    assert!(chunks(PeerCompression::Zstd) < chunks(PeerCompression::None), "none: LZ4");
}

/// Says these frames after a greeting in member 1's name, and returns what is said to them.
fn speak_raw(to: &Side, frames: Vec<append_frame::Frame>) -> String {
    let hello = Hello { cluster_id: CLUSTER, from: 1, to: to.id, boot_id: 9, ..Hello::default() };
    let mut all = vec![append_frame::Frame::Hello(hello)];
    all.extend(frames);
    let frames = all.into_iter().map(|frame| AppendFrame { frame: Some(frame) });
    let url = to.url();
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let channel = tonic::transport::Endpoint::from_shared(url).unwrap();
        let mut peer = PeerClient::new(channel.connect().await.unwrap());
        let frames = tokio_stream::StreamExt::chain(
            tokio_stream::iter(frames.collect::<Vec<_>>()),
            tokio_stream::pending(),
        );
        let acks = async { peer.append(frames).await?.into_inner().message().await };
        match tokio::time::timeout(PATIENCE, acks).await.unwrap() {
            Ok(_) => "closed".to_owned(),
            Err(status) => status.message().to_owned(),
        }
    })
}

#[test]
fn bombs_and_garbage_end_the_stream_with_one_line_and_nothing_is_lost() {
    let (left, right) = pair(compressing(PeerCompression::Zstd), Start::member(2));
    let limit = PeerLimits::default().frame_bytes_max;
    let (lz4, zstd) = (Compression::Lz4 as i32, Compression::Zstd as i32);
    let packed = |compression, bytes, data: Vec<u8>| {
        append_frame::Frame::Packed(Packed { compression, bytes, data: data.into() })
    };
    let zeros = vec![0; 2 * limit];
    let bomb = zstd::bulk::compress(&zeros, 1).unwrap();
    let entries = AppendFrame {
        frame: Some(append_frame::Frame::Raft(RaftMessage {
            entries: vec![Entry::default(); 300_000],
            ..RaftMessage::default()
        })),
    };
    let entries = prost::Message::encode_to_vec(&entries);
    let nested = AppendFrame { frame: Some(packed(lz4, 0, Vec::new())) };
    let nested = prost::Message::encode_to_vec(&nested);
    let says = |bytes: usize| format!("does not unfold to the {bytes} bytes it says");
    for (frame, why) in [
        (
            packed(zstd, zeros.len() as u64, bomb.clone()),
            format!("says it unfolds to {} bytes; the limit is {limit}", zeros.len()),
        ),
        (packed(zstd, 1_000, bomb), says(1_000)),
        (packed(lz4, 5_000, noise(1, 1_000).to_vec()), says(5_000)),
        (packed(zstd, 5_000, noise(1, 1_000).to_vec()), says(5_000)),
        (packed(7, 5_000, vec![0; 10]), "compressed in an unknown way (7)".to_owned()),
        (
            packed(lz4, 10, lz4_flex::block::compress(&[0xff; 10])),
            "not a protobuf message".to_owned(),
        ),
        (
            packed(lz4, entries.len() as u64, lz4_flex::block::compress(&entries)),
            "more than 262144 entries in one append".to_owned(),
        ),
        (
            packed(lz4, nested.len() as u64, lz4_flex::block::compress(&nested)),
            "a compressed frame within a compressed one".to_owned(),
        ),
    ] {
        let said = speak_raw(&right, vec![frame]);
        assert!(said.contains(&why), "{said:?}, expected {why:?}");
    }
    // The real member 1 was cut off by who spoke in its name, and is back.
    wait_until("it is connected again", || left.is_connected(2));
    let mut next = 0;
    wait_until("appends pass", || {
        next += 1;
        left.peers.send(vec![left.append(2, next, 10_000)]);
        !right.node.seen().appended.is_empty()
    });
}

/// A member of a version that knows nothing of compression.
struct Older(Arc<Mutex<Vec<AppendFrame>>>);

type Silence<T> = tokio_stream::Pending<Result<T, tonic::Status>>;

#[tonic::async_trait]
impl proto::peer::peer_server::Peer for Older {
    type AppendStream = Silence<AppendAck>;
    type ControlStream = Silence<ControlFrame>;
    type SnapshotStream = Silence<SnapshotReply>;

    async fn append(
        &self,
        request: tonic::Request<tonic::Streaming<AppendFrame>>,
    ) -> Result<tonic::Response<Self::AppendStream>, tonic::Status> {
        let (mut frames, seen) = (request.into_inner(), Arc::clone(&self.0));
        tokio::spawn(async move {
            while let Ok(Some(frame)) = frames.message().await {
                seen.lock().unwrap().push(frame);
            }
        });
        Ok(tonic::Response::new(tokio_stream::pending()))
    }

    async fn control(
        &self,
        _: tonic::Request<tonic::Streaming<ControlFrame>>,
    ) -> Result<tonic::Response<Self::ControlStream>, tonic::Status> {
        Ok(tonic::Response::new(tokio_stream::pending()))
    }

    async fn snapshot(
        &self,
        _: tonic::Request<tonic::Streaming<SnapshotFrame>>,
    ) -> Result<tonic::Response<Self::SnapshotStream>, tonic::Status> {
        Ok(tonic::Response::new(tokio_stream::pending()))
    }

    async fn leader(
        &self,
        _: tonic::Request<LeaderRequest>,
    ) -> Result<tonic::Response<LeaderReply>, tonic::Status> {
        Ok(tonic::Response::new(LeaderReply::default()))
    }
}

#[test]
fn a_member_of_an_older_version_is_sent_plain_bytes() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let older = proto::peer::peer_server::PeerServer::new(Older(Arc::clone(&seen)));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        tonic::transport::Server::builder().add_service(older).serve_with_incoming(incoming).await
    });
    let left = compressing(PeerCompression::Zstd).start();
    left.knows(&[(1, left.url()), (2, url)]);
    let mut index = 0;
    wait_until("appends have arrived", || {
        index += 1;
        left.peers.send(vec![left.append(2, index, 10_000)]);
        seen.lock().unwrap().len() > 3
    });
    let seen = seen.lock().unwrap();
    for frame in &seen[1..] {
        let Some(append_frame::Frame::Raft(message)) = &frame.frame else { panic!("{frame:?}") };
        assert_eq!(message.entries[0].data.len(), 10_000);
    }
}

fn snapshot_message(from: &Side, meta: SnapshotMeta) -> RaftMessage {
    RaftMessage { snapshot: Some(meta), ..from.message(Type::MsgSnapshot, 2, 7, Vec::new()) }
}

#[test]
fn a_snapshot_sends_what_is_missing_and_resumes_where_it_broke() {
    let (store, meta) = Store::with_snapshot(20);
    let (left, right) = pair(Start { store, ..Start::member(1) }, Start::member(2));
    let held = ChunkHash::try_from(&meta.chunks[4].hash[..]).unwrap();
    let content = left.store.0.chunks.lock().unwrap()[&held].clone();
    right.store.0.chunks.lock().unwrap().insert(held, content);
    right.store.0.writes_left.store(8, Ordering::Relaxed);
    let message = snapshot_message(&left, meta.clone());
    left.peers.send(vec![message.clone()]);
    wait_until("the first transfer has failed", || left.node.seen().snapshots == [(2, false)]);
    assert!(right.appended_indexes().is_empty(), "the replica hears nothing of half a snapshot");
    assert_eq!(right.store.0.written.lock().unwrap().len(), 8);

    right.store.0.writes_left.store(u64::MAX, Ordering::Relaxed);
    left.peers.send(vec![message.clone()]);
    wait_until("the second has succeeded", || {
        left.node.seen().snapshots == [(2, false), (2, true)]
    });
    assert_eq!(right.node.seen().appended, [message]);
    assert_eq!(*right.store.0.committed.lock().unwrap(), [meta]);
    let written = right.store.0.written.lock().unwrap().clone();
    assert_eq!(written.len(), 19, "each chunk once, and none that was there");
    assert_eq!(written.iter().collect::<BTreeSet<_>>().len(), 19);
    assert!(!written.contains(&held));
    assert_eq!(*right.store.0.chunks.lock().unwrap(), *left.store.0.chunks.lock().unwrap());
}

#[test]
fn a_snapshot_without_chunks_to_send_is_taken() {
    let (left, right) = pair(Start::member(1), Start::member(2));
    let meta = SnapshotMeta { index: 7, cluster_id: CLUSTER, ..SnapshotMeta::default() };
    left.peers.send(vec![snapshot_message(&left, meta.clone())]);
    wait_until("it is taken", || left.node.seen().snapshots == [(2, true)]);
    assert_eq!(*right.store.0.committed.lock().unwrap(), [meta]);
}

#[test]
fn a_damaged_chunk_and_a_foreign_snapshot_are_refused() {
    let (store, meta) = Store::with_snapshot(5);
    let (left, right) = pair(Start { store, ..Start::member(1) }, Start::member(2));
    {
        let mut chunks = left.store.0.chunks.lock().unwrap();
        let rotten = ChunkHash::try_from(&meta.chunks[2].hash[..]).unwrap();
        let mut content = chunks[&rotten].to_vec();
        content[17] ^= 1;
        chunks.insert(rotten, content.into());
    }
    left.peers.send(vec![snapshot_message(&left, meta.clone())]);
    wait_until("it is refused", || left.node.seen().snapshots == [(2, false)]);
    let foreign = SnapshotMeta { cluster_id: 0xc2, ..meta };
    left.peers.send(vec![snapshot_message(&left, foreign)]);
    wait_until("it is refused too", || left.node.seen().snapshots.len() == 2);
    assert_eq!(left.node.seen().snapshots, [(2, false), (2, false)]);
    assert!(right.store.0.committed.lock().unwrap().is_empty());
    assert!(right.appended_indexes().is_empty());
    let written = right.store.0.written.lock().unwrap().len();
    assert!(written < 5, "{written}");
}

#[test]
fn a_snapshot_to_nobody_fails() {
    let left = Start::member(1).start();
    left.knows(&[(2, format!("http://127.0.0.1:{}", free_port()))]);
    left.peers.send(vec![snapshot_message(&left, SnapshotMeta::default())]);
    wait_until("it has failed", || left.node.seen().snapshots == [(2, false)]);
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

#[test]
fn a_transfer_cut_short_by_a_move_is_reported_and_one_replaced_is_not() {
    let (store, meta) = Store::with_snapshot(20);
    let mut start = Start { store, ..Start::member(1) };
    // Slow enough to be still under way.
    start.limits.snapshot_bytes_per_second = Some(1);
    let (left, right) = pair(start, Start::member(2));
    left.peers.send(vec![snapshot_message(&left, meta.clone())]);
    wait_until("it has begun", || !right.store.0.written.lock().unwrap().is_empty());
    left.peers.send(vec![snapshot_message(&left, meta)]);
    wait_until("the next has begun", || right.store.0.written.lock().unwrap().len() > 1);
    assert!(left.node.seen().snapshots.is_empty());
    left.knows(&[(2, "http://127.0.0.1:1".to_owned())]);
    wait_until("it is reported", || left.node.seen().snapshots == [(2, false)]);
    assert!(right.store.0.committed.lock().unwrap().is_empty());
}

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
