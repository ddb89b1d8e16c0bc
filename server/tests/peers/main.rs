//! Transports of two members over loopback: what arrives where, what is lost, what never comes twice.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod admission;
mod compression;
mod gone;
mod messages;
#[path = "../shared/ports.rs"]
mod ports;
mod renewal;
mod snapshots;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::sleep;
use std::time::{Duration, Instant};

use bytes::Bytes;
use proto::log::{Chunk, Entry, Member, SnapshotMeta};
use proto::peer::raft_message::Type;
use proto::peer::{
    Forward, LeaderReply, LeaderRequest, LeaseTtl, RaftMessage, leader_reply, leader_request,
};
use server::config::{PeerCompression, Url};
use server::peers::{
    ChunkHash, Chunks, Inbound, LinkState, PeerAddress, PeerLimits, PeerTiming, Peers, PeersConfig,
    PeersError, Refusal, Versions,
};

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

/// What commands are forwarded for.
const TERM: u64 = 7;

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
    forward_terms: BTreeSet<u64>,
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

    async fn forwarded(&self, _from: u64, forward: Forward) -> bool {
        self.room().await;
        let mut seen = self.seen();
        seen.forward_terms.insert(forward.term);
        seen.forwarded.extend(forward.commands);
        true
    }

    fn not_forwarded(&self, forward: Forward) {
        assert_eq!(forward.term, TERM);
        self.seen().not_forwarded.extend(forward.commands);
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
            match self.peers.forward(to, TERM, std::mem::take(&mut commands)) {
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

/// A proxy that can be told to cut every connection, and to take its time.
struct Proxy {
    address: SocketAddr,
    open: Arc<Mutex<Vec<TcpStream>>>,
    taken: Arc<AtomicUsize>,
    delay_us: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Proxy {
    fn before(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let open: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let stop = Arc::new(AtomicBool::new(false));
        let (taken, delay_us) = (Arc::default(), Arc::default());
        let (connections, stopped) = (Arc::clone(&open), Arc::clone(&stop));
        let (count, delay): (Arc<AtomicUsize>, Arc<AtomicU64>) =
            (Arc::clone(&taken), Arc::clone(&delay_us));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let Ok(server) = TcpStream::connect(target) else { continue };
                count.fetch_add(1, Ordering::Relaxed);
                let mut all = connections.lock().unwrap();
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    all.push(to.try_clone().unwrap());
                    relay(from, to, Arc::clone(&delay));
                }
            }
        });
        Proxy { address, open, taken, delay_us, stop }
    }

    /// Connections so far.
    fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Keeps everything for so long from now on, each way.
    fn delay(&self, delay: Duration) {
        self.delay_us.store(delay.as_micros().try_into().unwrap(), Ordering::Relaxed);
    }

    fn cut(&self) {
        for stream in self.open.lock().unwrap().drain(..) {
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

/// Hands on what one side says, in its order and after a while.
fn relay(mut from: TcpStream, mut to: TcpStream, delay_us: Arc<AtomicU64>) {
    const PIECES: usize = 4_096;
    let (pieces, due) = std::sync::mpsc::sync_channel::<(Instant, Vec<u8>)>(PIECES);
    std::thread::spawn(move || {
        let mut piece = vec![0; 64 << 10];
        while let Ok(bytes @ 1..) = from.read(&mut piece) {
            let at = Instant::now() + Duration::from_micros(delay_us.load(Ordering::Relaxed));
            if pieces.send((at, piece[..bytes].to_vec())).is_err() {
                return;
            }
        }
    });
    std::thread::spawn(move || {
        for (at, piece) in due {
            sleep(at.saturating_duration_since(Instant::now()));
            if to.write_all(&piece).is_err() {
                break;
            }
        }
        drop(to.shutdown(Shutdown::Both));
    });
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.cut();
        drop(TcpStream::connect(self.address));
    }
}

fn snapshot_message(from: &Side, meta: SnapshotMeta) -> RaftMessage {
    RaftMessage { snapshot: Some(meta), ..from.message(Type::MsgSnapshot, 2, 7, Vec::new()) }
}
