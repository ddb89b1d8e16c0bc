//! How members speak to each other.
//!
//! Between two members stand, in each direction, two connections. The *append* connection carries
//! entries, the answers to them, and commands forwarded to the leader. The *control* connection
//! carries what must never wait behind them: heartbeats, votes, probes. It lives on a thread of its
//! own, at both ends, so neither a full pipe nor a busy thread makes a healthy leader look dead or a
//! near peer look far. A snapshot travels on a third connection, made for it. All are HTTP/2 and
//! gRPC (`metastore/peer.proto`); the same port answers `/version` and `/members` over plain HTTP.
//!
//! ```text
//!   raft thread ── send ──► outbox (bounded) ── pulled by ──► connection ═══► the peer's Inbound
//! ```
//!
//! The transport promises little, as raft asks for little: messages may be lost, and are counted; one
//! connection keeps their order; nothing is sent twice. The last is a promise about forwarded
//! commands: a command that may have left is never sent again, and one that provably did not leave
//! comes back through [`Inbound::not_forwarded`].
//!
//! Invariant: nothing here waits for the node, and the node never waits for anything here. Towards
//! peers, queues are bounded and the overflow is dropped; from peers, a stream is read only as fast
//! as the node takes what it brings.

mod admission;
mod codec;
mod inbound;
mod link;
mod outbound;
mod outbox;
mod pages;
mod snapshot;
mod wire;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::uri::PathAndQuery;
use proto::log::{Member, SnapshotMeta};
use proto::peer::{Hello, LeaderReply, LeaderRequest, RaftMessage};
use tokio::runtime::{Builder, Handle};
use tokio::sync::{Semaphore, oneshot};
use tonic::{Request, Status};

pub use admission::Refusal;
pub use link::{LinkState, LinkTraffic, PeerLink};
pub use pages::{FetchError, RemoteCluster, Versions, fetch_members};

use crate::config::Url;
use admission::{Admission, Throttle, Topic};
use codec::FrameCodec;
use inbound::Door;
use link::{Bulk, Lane, Link, Urgent, lock};
use outbox::Admit;

/// Name of a chunk of a snapshot: the BLAKE3 of its content.
pub type ChunkHash = [u8; 32];

/// How often the control thread looks at how late it runs.
const LATENESS_INTERVAL: Duration = Duration::from_millis(50);
/// Commands are forwarded in frames of about this size.
const FORWARD_BYTES: usize = 1 << 20;
/// What a message costs beside the bytes it carries.
const MESSAGE_BYTES: usize = 128;
const ENTRY_BYTES: usize = 96;
/// How often a stopping transport looks whether all has arrived.
const FLUSH_INTERVAL: Duration = Duration::from_millis(2);
/// For a network thread to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);
/// Threads that compress and check chunks.
const BLOCKING_THREADS_MAX: usize = 2;
/// A peer silent for this long is given a new connection, however short the election timeout.
const SILENCE_MIN: Duration = Duration::from_secs(2);
/// Largest answer of a leader.
const LEADER_REPLY_BYTES_MAX: usize = 256 << 10;

/// Who this member is and how it speaks to others.
#[derive(Clone, Debug)]
pub struct PeersConfig {
    /// The cluster.
    pub cluster_id: u64,
    /// This member.
    pub member_id: u64,
    /// Differs between two boots of this member.
    pub boot_id: u64,
    /// This program's version.
    pub version: String,
    /// Where to listen (`--listen-peer-urls`).
    pub listen_urls: Vec<Url>,
    /// The timing in force, now and later.
    pub timing: PeerTiming,
    /// Sizes and rates.
    pub limits: PeerLimits,
}

/// Sizes and rates of the transport.
#[derive(Clone, Debug)]
pub struct PeerLimits {
    /// Largest message taken from a peer. Every member's largest append must fit.
    pub frame_bytes_max: usize,
    /// Messages waiting for one peer on the append connection.
    pub queue_messages_max: usize,
    /// The same in bytes.
    pub queue_bytes_max: usize,
    /// Between two probes when nothing else is sent.
    pub probe_interval_idle: Duration,
    /// Between two probes that go along with other messages.
    pub probe_interval_min: Duration,
    /// Snapshots sent at one time.
    pub snapshots_sending_max: usize,
    /// Rate of one snapshot, compressed; `None`: as fast as it goes.
    pub snapshot_bytes_per_second: Option<u64>,
}

impl Default for PeerLimits {
    fn default() -> Self {
        PeerLimits {
            frame_bytes_max: 16 << 20,
            queue_messages_max: 4_096,
            queue_bytes_max: 64 << 20,
            probe_interval_idle: Duration::from_secs(1),
            probe_interval_min: Duration::from_millis(100),
            snapshots_sending_max: 2,
            snapshot_bytes_per_second: None,
        }
    }
}

/// The timing the transport goes by. It can be set while the transport runs.
#[derive(Clone, Debug)]
pub struct PeerTiming(Arc<AtomicU64>);

impl PeerTiming {
    /// Timing with this election timeout.
    pub fn new(election_timeout: Duration) -> Self {
        let timing = PeerTiming(Arc::default());
        timing.set_election_timeout(election_timeout);
        timing
    }

    /// Puts another election timeout in force.
    pub fn set_election_timeout(&self, election_timeout: Duration) {
        let us = u64::try_from(election_timeout.as_micros()).unwrap_or(u64::MAX);
        self.0.store(us, Ordering::Relaxed);
    }

    fn election_timeout(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }
}

/// Where a member is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// The member.
    pub id: u64,
    /// Its peer URLs, tried in turn.
    pub urls: Vec<String>,
}

/// The node, as the transport sees it. Called on the network threads (and, where
/// [`Peers::send`] and [`Peers::set_members`] find no room, on the caller's): none may block.
pub trait Inbound: Clone + Send + Sync + 'static {
    /// An append, an answer to one, or the message of a snapshot that is durable here. May wait for
    /// room: its stream is not read meanwhile, and only its. `false`: the node is gone.
    fn append(&self, message: RaftMessage) -> impl Future<Output = bool> + Send;

    /// A heartbeat, a vote or their like. `false`: no room, dropped.
    fn urgent(&self, message: RaftMessage) -> bool;

    /// Commands which a peer takes this member to be the leader for. May wait like
    /// [`Inbound::append`].
    fn forwarded(&self, from: u64, commands: Vec<Bytes>) -> impl Future<Output = bool> + Send;

    /// Commands given to [`Peers::forward`] of which not a byte has left.
    fn not_forwarded(&self, commands: Vec<Bytes>);

    /// Raft messages for this peer were dropped, or a connection to it broke.
    fn unreachable(&self, to: u64);

    /// The peer has made a snapshot durable (`ok`), or its transfer failed.
    fn snapshot_sent(&self, to: u64, ok: bool);

    /// A question for the leader.
    fn leader_call(
        &self,
        from: u64,
        request: LeaderRequest,
    ) -> impl Future<Output = LeaderReply> + Send;

    /// The member table, for `/members`.
    fn members(&self) -> Vec<Member>;

    /// The versions, for `/version`.
    fn versions(&self) -> Versions;

    /// A peer will not speak to this member. It has been logged; a member that hears
    /// [`Refusal::NotMember`] may have been removed while it was away.
    fn refused(&self, by: u64, refusal: Refusal) {
        let _ = (by, refusal);
    }
}

/// The chunks of snapshots, as the transport reads and writes them.
pub trait Chunks: Clone + Send + Sync + 'static {
    /// The content of a chunk.
    fn read(&self, hash: ChunkHash) -> impl Future<Output = Result<Bytes, String>> + Send;

    /// Which of these are not here.
    fn missing(&self, hashes: &[ChunkHash]) -> impl Future<Output = Vec<ChunkHash>> + Send;

    /// Keeps a chunk. Its content has been checked.
    fn write(
        &self,
        hash: ChunkHash,
        content: Bytes,
    ) -> impl Future<Output = Result<(), String>> + Send;

    /// Makes a snapshot durable all of whose chunks are here.
    fn commit(&self, meta: SnapshotMeta) -> impl Future<Output = Result<(), String>> + Send;
}

/// Why the transport cannot start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeersError {
    /// A listener cannot be bound.
    #[error("cannot listen for peers on {url}: {why}")]
    Bind {
        /// Where.
        url: String,
        /// What the system says.
        why: String,
    },
    /// Only plain TCP is spoken between members.
    #[error("cannot listen for peers on {url}: only http:// is supported in this version")]
    Scheme {
        /// Where.
        url: String,
    },
    /// No thread, or no runtime on it.
    #[error("cannot start the peer transport: {why}")]
    Thread {
        /// What the system says.
        why: String,
    },
}

impl PeersError {
    fn bind(url: &Url, error: &std::io::Error) -> Self {
        // Without the number which Rust adds to the system's words.
        let why = error.to_string();
        let why = why.split(" (os error").next().unwrap_or_default().to_lowercase();
        PeersError::Bind { url: url.to_string(), why }
    }

    fn thread(error: &std::io::Error) -> Self {
        PeersError::Thread { why: error.to_string() }
    }
}

/// Why a question to the leader has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// There is no connection: the question has not been asked.
    #[error("not connected to member {0:x}")]
    NotConnected(u64),
    /// No answer in time. It may have been asked.
    #[error("no answer from member {0:x} in time")]
    Timeout(u64),
    /// The connection broke, or the peer refused. It may have been asked.
    #[error("member {id:x}: {why}")]
    Failed {
        /// The peer.
        id: u64,
        /// What happened.
        why: String,
    },
}

/// The running transport. Clones are handles to the same one; it runs until
/// [`Peers::shutdown`], or until the last of them is dropped.
#[derive(Clone, Debug)]
pub struct Peers {
    core: Arc<Core>,
    reports: Arc<dyn Reports>,
    threads: Arc<Mutex<Vec<NetThread>>>,
    local_addresses: Arc<[SocketAddr]>,
}

/// What connections share.
#[derive(Debug)]
struct Core {
    config: PeersConfig,
    links: RwLock<Arc<BTreeMap<u64, Arc<Link>>>>,
    admission: Arc<Admission>,
    control: Handle,
    bulk: Handle,
    epoch: Instant,
    throttle: Throttle,
    sending: Semaphore,
    stopping: AtomicBool,
    control_lateness_us: AtomicU64,
    urgent_refused: AtomicU64,
}

/// The node and the chunks, without their types.
trait Reports: std::fmt::Debug + Send + Sync {
    fn not_forwarded(&self, commands: Vec<Bytes>);
    fn unreachable(&self, to: u64);
    fn refused(&self, by: u64, refusal: Refusal);
    /// Begins to send a snapshot.
    fn send_snapshot(self: Arc<Self>, link: &Arc<Link>, message: RaftMessage);
}

struct Told<I, C> {
    core: Arc<Core>,
    inbound: I,
    chunks: C,
}

impl<I, C> std::fmt::Debug for Told<I, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Told")
    }
}

impl<I: Inbound, C: Chunks> Reports for Told<I, C> {
    fn not_forwarded(&self, commands: Vec<Bytes>) {
        self.inbound.not_forwarded(commands);
    }

    fn unreachable(&self, to: u64) {
        self.inbound.unreachable(to);
    }

    fn refused(&self, by: u64, refusal: Refusal) {
        self.inbound.refused(by, refusal);
    }

    fn send_snapshot(self: Arc<Self>, link: &Arc<Link>, message: RaftMessage) {
        let is_replaced = Arc::new(AtomicBool::new(false));
        let mut outcome = SnapshotOutcome {
            inbound: self.inbound.clone(),
            to: link.id,
            is_replaced: Arc::clone(&is_replaced),
            ok: false,
        };
        let owner = Arc::clone(link);
        let link = Arc::clone(link);
        let bulk = self.core.bulk.clone();
        let task = bulk.spawn(async move {
            let sent = snapshot::send(&self.core, &self.chunks, &link, message).await;
            outcome.is(sent.is_ok());
            if let Err(why) = sent {
                tracing::warn!(
                    peer = format_args!("{:x}", link.id),
                    "could not send a snapshot to a peer: {why}"
                );
            }
        });
        owner.replace_transfer(task.abort_handle(), is_replaced);
    }
}

/// Reports how a transfer ended, however it ends: raft sends a peer nothing else until it knows.
struct SnapshotOutcome<I: Inbound> {
    inbound: I,
    to: u64,
    is_replaced: Arc<AtomicBool>,
    ok: bool,
}

impl<I: Inbound> SnapshotOutcome<I> {
    /// A method, so that the transfer's task owns the whole and not a copy of one field.
    fn is(&mut self, ok: bool) {
        self.ok = ok;
    }
}

impl<I: Inbound> Drop for SnapshotOutcome<I> {
    fn drop(&mut self) {
        if !self.is_replaced.load(Ordering::Relaxed) {
            self.inbound.snapshot_sent(self.to, self.ok);
        }
    }
}

impl Peers {
    /// Binds the listeners and starts the network threads. Speaks to nobody before
    /// [`Peers::set_members`].
    pub fn start<I: Inbound, C: Chunks>(
        config: PeersConfig,
        inbound: I,
        chunks: C,
    ) -> Result<Peers, PeersError> {
        let listeners =
            config.listen_urls.iter().map(wire::bind).collect::<Result<Vec<_>, PeersError>>()?;
        let local_addresses = listeners.iter().filter_map(|it| it.local_addr().ok()).collect();
        let control = NetThread::start("control")?;
        let bulk = NetThread::start("peers")?;
        let core = Arc::new(Core {
            links: RwLock::default(),
            admission: Arc::new(Admission::new(config.cluster_id, config.member_id)),
            control: control.handle.clone(),
            bulk: bulk.handle.clone(),
            epoch: Instant::now(),
            throttle: Throttle::default(),
            sending: Semaphore::new(config.limits.snapshots_sending_max),
            stopping: AtomicBool::new(false),
            control_lateness_us: AtomicU64::new(0),
            urgent_refused: AtomicU64::new(0),
            config,
        });
        let door = Arc::new(Door::new(Arc::clone(&core), inbound.clone(), chunks.clone()));
        {
            let _entered = control.handle.enter();
            for listener in listeners {
                let listener = tokio::net::TcpListener::from_std(listener)
                    .map_err(|error| PeersError::thread(&error))?;
                control.handle.spawn(Arc::clone(&door).accept(listener));
            }
        }
        control.handle.spawn(watch_lateness(Arc::clone(&core)));
        let reports = Arc::new(Told { core: Arc::clone(&core), inbound, chunks });
        let threads = Arc::new(Mutex::new(vec![control, bulk]));
        Ok(Peers { core, reports, threads, local_addresses })
    }

    /// Where this member listens; with port 0 in the URL, the port that was chosen.
    pub fn local_addresses(&self) -> &[SocketAddr] {
        &self.local_addresses
    }

    /// Sends raft messages, each to its `to`. Never blocks: what finds no room is dropped, counted
    /// and reported.
    pub fn send(&self, messages: Vec<RaftMessage>) {
        let links = self.core.links();
        let mut dropped: Vec<u64> = Vec::new();
        for message in messages {
            let to = message.to;
            let Some(link) = links.get(&to) else {
                // Removed, or not yet known here.
                dropped.push(to);
                continue;
            };
            let bytes = message_bytes(&message);
            if bytes > self.core.config.limits.frame_bytes_max
                && self.core.throttle.is_due(Topic::TooLarge(to))
            {
                tracing::error!(
                    peer = format_args!("{to:x}"),
                    "a raft message of {bytes} bytes is larger than any member takes"
                );
            }
            let sent = match inbound::lane_for(message.r#type) {
                Some(Lane::Snapshot) => {
                    Arc::clone(&self.reports).send_snapshot(link, message);
                    true
                }
                Some(Lane::Bulk) => {
                    bytes <= self.core.config.limits.frame_bytes_max
                        && link.bulk.push(Bulk::Raft(message), bytes, Admit::Connecting).is_ok()
                }
                Some(Lane::Control) => {
                    bytes <= inbound::CONTROL_FRAME_BYTES_MAX
                        && link
                            .control
                            .push(Urgent::Raft(message), bytes, Admit::Connecting)
                            .is_ok()
                }
                None => {
                    debug_assert!(false, "a replica keeps messages to itself to itself");
                    true
                }
            };
            if !sent {
                link.dropped.fetch_add(1, Ordering::Relaxed);
                dropped.push(to);
            }
        }
        dropped.sort_unstable();
        dropped.dedup();
        for to in dropped {
            self.reports.unreachable(to);
        }
    }

    /// Forwards commands, once. `Err` gives them back: not a byte has left. After `Ok` they are sent
    /// or lost, or come back through [`Inbound::not_forwarded`].
    pub fn forward(&self, to: u64, commands: Vec<Bytes>) -> Result<(), Vec<Bytes>> {
        let Some(link) = self.core.links().get(&to).cloned() else { return Err(commands) };
        let mut refused: Vec<Bytes> = Vec::new();
        let mut frame: Vec<Bytes> = Vec::new();
        let mut frame_bytes = 0;
        let mut push = |frame: Vec<Bytes>, bytes: usize| {
            if frame.is_empty() {
                return;
            }
            // After one that did not fit none may follow: commands keep their order.
            if !refused.is_empty() {
                refused.extend(frame);
            } else if let Err(Bulk::Forward(back)) =
                link.bulk.push(Bulk::Forward(frame), bytes, Admit::Open)
            {
                refused.extend(back);
            }
        };
        for command in commands {
            let bytes = command.len() + ENTRY_BYTES;
            if frame_bytes + bytes > FORWARD_BYTES {
                push(std::mem::take(&mut frame), frame_bytes);
                frame_bytes = 0;
            }
            frame_bytes += bytes;
            frame.push(command);
        }
        push(frame, frame_bytes);
        if refused.is_empty() { Ok(()) } else { Err(refused) }
    }

    /// The members there are from now on; this one may be among them. Connects to new ones, lets go
    /// of those that are gone, and starts over with those that moved.
    pub fn set_members(&self, members: Vec<PeerAddress>) {
        let core = &self.core;
        let mut started = Vec::new();
        let mut ended = Vec::new();
        {
            let mut links = core.links.write().unwrap_or_else(PoisonError::into_inner);
            let mut next = BTreeMap::new();
            for PeerAddress { id, urls } in members {
                if id == core.config.member_id {
                    continue;
                }
                let urls = usable(id, &urls);
                let link = match links.get(&id) {
                    Some(link) if link.urls == urls => Arc::clone(link),
                    _ => {
                        let link = Arc::new(Link::new(id, urls, &core.config.limits));
                        started.push(Arc::clone(&link));
                        link
                    }
                };
                next.insert(id, link);
            }
            for (id, link) in links.iter() {
                if !next.get(id).is_some_and(|kept| Arc::ptr_eq(kept, link)) {
                    ended.push(Arc::clone(link));
                }
            }
            *links = Arc::new(next);
        }
        for link in ended {
            link.end();
            core.admission.end_streams_of(link.id);
            outbound::hand_back(&*self.reports, &link, Lane::Control);
            outbound::hand_back(&*self.reports, &link, Lane::Bulk);
        }
        for link in started {
            for (lane, runtime) in [(Lane::Control, &core.control), (Lane::Bulk, &core.bulk)] {
                let keep = outbound::keep(
                    Arc::clone(core),
                    Arc::clone(&self.reports),
                    Arc::clone(&link),
                    lane,
                );
                link.own(runtime.spawn(keep).abort_handle());
            }
        }
    }

    /// Asks the leader. May be called on any runtime.
    pub async fn leader_call(
        &self,
        leader: u64,
        mut request: LeaderRequest,
        timeout: Duration,
    ) -> Result<LeaderReply, PeerError> {
        let link = self.core.links().get(&leader).cloned();
        let Some((link, channel)) = link.and_then(|link| link.calls().map(|it| (link, it))) else {
            return Err(PeerError::NotConnected(leader));
        };
        request.hello = Some(self.core.hello(leader));
        let failed = |why| PeerError::Failed { id: leader, why };
        let call = async {
            let mut grpc =
                tonic::client::Grpc::new(channel).max_decoding_message_size(LEADER_REPLY_BYTES_MAX);
            grpc.ready().await.map_err(|error| failed(wire::cause(&error)))?;
            let codec = FrameCodec::<LeaderRequest, LeaderReply>::new(Some(Arc::clone(&link.sent)));
            let path = PathAndQuery::from_static(outbound::LEADER);
            let reply = grpc.unary(Request::new(request), path, codec).await;
            reply.map_err(|status| failed(outbound::Ended::status(&status).why))
        };
        let reply = tokio::time::timeout(timeout, call)
            .await
            .map_err(|_| PeerError::Timeout(leader))??
            .into_inner();
        link.heard(reply.bytes);
        Ok(reply.message)
    }

    /// Every peer, as of now.
    pub fn links(&self) -> BTreeMap<u64, PeerLink> {
        let now = Instant::now();
        let quiet_after = self.core.quiet_after();
        let links = self.core.links();
        links.iter().map(|(id, link)| (*id, link.view(now, quiet_after))).collect()
    }

    /// How one peer can be reached: cheaper than [`Peers::links`]. `None`: there is no such peer.
    pub fn link_state(&self, id: u64) -> Option<LinkState> {
        let state = |link: &Arc<Link>| link.state(Instant::now(), self.core.quiet_after());
        self.core.links().get(&id).map(state)
    }

    /// How late the control thread ran at worst since this was last asked.
    pub fn control_lateness_us(&self) -> u64 {
        self.core.control_lateness_us.swap(0, Ordering::Relaxed)
    }

    /// Urgent messages from peers which the node had no room for.
    pub fn urgent_refused(&self) -> u64 {
        self.core.urgent_refused.load(Ordering::Relaxed)
    }

    /// Lets what waits for connected peers arrive, for at most `grace`, and ends everything. Blocks;
    /// not to be called on one of the transport's own threads. Once is enough.
    pub fn shutdown(&self, grace: Duration) {
        let deadline = Instant::now() + grace;
        self.core.stopping.store(true, Ordering::Relaxed);
        let links = self.core.links();
        for link in links.values() {
            link.control.finish();
            link.bulk.finish();
        }
        // A stream that has ended is closed by the peer in turn, when it has read it all.
        let flowing = || links.values().any(|it| it.bulk.is_flowing() || it.control.is_flowing());
        while flowing() && Instant::now() < deadline {
            std::thread::sleep(FLUSH_INTERVAL);
        }
        let threads = std::mem::take(&mut *lock(&self.threads));
        for thread in threads {
            thread.stop();
        }
        for link in links.values() {
            outbound::hand_back(&*self.reports, link, Lane::Control);
            outbound::hand_back(&*self.reports, link, Lane::Bulk);
        }
    }
}

impl Core {
    fn links(&self) -> Arc<BTreeMap<u64, Arc<Link>>> {
        Arc::clone(&self.links.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn link(&self, id: u64) -> Result<Arc<Link>, Status> {
        self.links()
            .get(&id)
            .cloned()
            .ok_or_else(|| Status::permission_denied("no member any more"))
    }

    fn hello(&self, to: u64) -> Hello {
        Hello {
            cluster_id: self.config.cluster_id,
            from: self.config.member_id,
            to,
            boot_id: self.config.boot_id,
            version: self.config.version.clone(),
        }
    }

    fn us(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.epoch);
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }

    fn check_message(&self, message: &RaftMessage, from: u64, lane: Lane) -> Result<(), Status> {
        inbound::check_message(message, from, self.config.member_id, lane)
    }

    /// A healthy link is heard from at least once in this time.
    fn quiet_after(&self) -> Duration {
        self.config.limits.probe_interval_idle + SILENCE_MIN / 2
    }

    /// A connection silent for longer is made anew.
    fn silence_max(&self) -> Duration {
        let doubtful = 2 * self.config.timing.election_timeout();
        doubtful.max(SILENCE_MIN).max(3 * self.config.limits.probe_interval_idle)
    }

    fn count_refused(&self) {
        self.urgent_refused.fetch_add(1, Ordering::Relaxed);
    }

    /// A stream from a peer ended otherwise than by being closed.
    fn broke(&self, from: u64, lane: Lane, status: &Status) {
        if self.throttle.is_due(Topic::Broke(lane, from, status.code() as i32)) {
            let why = outbound::Ended::status(status).why;
            tracing::info!(
                peer = format_args!("{from:x}"),
                connection = lane.as_str(),
                "a stream from a peer ended: {why}"
            );
        }
    }
}

/// The URLs that can be understood. The others are logged: they came from the member table, which
/// this member cannot refuse.
fn usable(id: u64, urls: &[String]) -> Vec<Url> {
    let parse = |text: &String| match Url::parse(text) {
        Ok(url) => Some(url),
        Err(why) => {
            tracing::warn!(peer = format_args!("{id:x}"), "cannot use a peer's URL: {why}");
            None
        }
    };
    urls.iter().filter_map(parse).collect()
}

/// About what a message occupies, in memory and on the wire.
fn message_bytes(message: &RaftMessage) -> usize {
    let entries: usize =
        message.entries.iter().map(|it| it.data.len() + it.context.len() + ENTRY_BYTES).sum();
    entries + message.context.len() + MESSAGE_BYTES
}

async fn watch_lateness(core: Arc<Core>) {
    loop {
        let due = tokio::time::Instant::now() + LATENESS_INTERVAL;
        tokio::time::sleep_until(due).await;
        let late_us = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
        core.control_lateness_us.fetch_max(late_us, Ordering::Relaxed);
    }
}

/// A thread with a runtime of its own.
#[derive(Debug)]
struct NetThread {
    handle: Handle,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl NetThread {
    fn start(name: &'static str) -> Result<NetThread, PeersError> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .thread_name(name)
            .build()
            .map_err(|error| PeersError::thread(&error))?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                // Told to stop, or nobody is left who could.
                drop(runtime.block_on(stopped));
                runtime.shutdown_timeout(STOP_TIMEOUT);
            })
            .map_err(|error| PeersError::thread(&error))?;
        Ok(NetThread { handle, stop, thread })
    }

    fn stop(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            tracing::error!("a network thread panicked");
        }
    }
}
