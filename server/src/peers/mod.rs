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
//! commands: the transport never sends again what may have left, and what provably did not leave comes
//! back through [`Inbound::not_forwarded`].
//!
//! Invariant: nothing here waits for the node, and the node never waits for anything here. Towards
//! peers, queues are bounded and the overflow is dropped; from peers, a stream is read only as fast
//! as the node takes what it brings.

mod admission;
mod codec;
mod compress;
mod config;
mod gone;
mod inbound;
mod lately;
mod link;
mod metrics;
mod net_thread;
mod outbound;
mod outbox;
mod pacer;
mod packing;
mod pages;
mod ports;
mod probes;
mod snapshot;
mod stretch;
mod waits;
mod wire;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::Waker;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::uri::PathAndQuery;
use proto::peer::raft_message::Type;
use proto::peer::{Forward, Hello, LeaderReply, LeaderRequest, RaftMessage, TraceContext};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tonic::{Request, Status};

pub use admission::Refusal;
pub use config::{PeerAddress, PeerError, PeerLimits, PeerTiming, PeersConfig, PeersError};
pub use link::{LinkState, LinkTraffic, PeerLink};
pub use pages::{FetchError, RemoteCluster, Versions, fetch_members};
pub use ports::{ChunkHash, Chunks, Inbound};

use crate::config::Url;
use admission::{Admission, Throttle, Topic};
use codec::FrameCodec;
use inbound::Door;
use link::{Bulk, Lane, Link, Urgent, lock};
use net_thread::NetThread;
use outbox::Admit;
use pacer::Pacer;

/// Commands are forwarded in frames of about this size: the leader has none of a frame before it has all,
/// and what a connection that begins carries in a round trip is ten segments (RFC 6928); a megabyte takes six.
const FORWARD_BYTES: usize = 12 << 10;
/// What a message costs beside the bytes it carries.
const MESSAGE_BYTES: usize = 128;
const ENTRY_BYTES: usize = 96;
const TRACE_BYTES: usize = 56;
/// How often a stopping transport looks whether all has arrived.
const FLUSH_INTERVAL: Duration = Duration::from_millis(2);
/// Largest answer of a leader.
const LEADER_REPLY_BYTES_MAX: usize = 256 << 10;

/// Whether all of these could be listened on now: asked before a new member writes anything, so that
/// a port in use leaves no trace.
pub fn check_listen(urls: &[Url]) -> Result<(), PeersError> {
    urls.iter().map(wire::bind).collect::<Result<Vec<_>, _>>().map(drop)
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
    pacer: Pacer,
    urgent_refused: AtomicU64,
    durations: metrics::Durations,
    busy: packing::Busy,
    /// A plan may forbid it.
    compression_allowed: AtomicBool,
}

/// The node and the chunks, without their types.
trait Reports: std::fmt::Debug + Send + Sync {
    fn not_forwarded(&self, forward: Forward);
    fn unreachable(&self, to: u64);
    fn refused(&self, by: u64, refusal: Refusal);
    fn gone(&self, peer: u64, boot_id: u64);
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
    fn not_forwarded(&self, forward: Forward) {
        self.inbound.not_forwarded(forward);
    }

    fn unreachable(&self, to: u64) {
        self.inbound.unreachable(to);
    }

    fn refused(&self, by: u64, refusal: Refusal) {
        self.inbound.refused(by, refusal);
    }

    fn gone(&self, peer: u64, boot_id: u64) {
        self.inbound.gone(peer, boot_id);
    }

    fn send_snapshot(self: Arc<Self>, link: &Arc<Link>, message: RaftMessage) {
        let is_replaced = Arc::new(AtomicBool::new(false));
        let mut outcome = SnapshotOutcome {
            inbound: self.inbound.clone(),
            link: Arc::clone(link),
            is_replaced: Arc::clone(&is_replaced),
            ok: false,
        };
        let owner = Arc::clone(link);
        let link = Arc::clone(link);
        let bulk = self.core.bulk.clone();
        let task = bulk.spawn(async move {
            let began = Instant::now();
            let span = tracing::info_span!(
                target: otlp::COLD,
                "send_snapshot",
                to = format_args!("{:x}", link.id)
            );
            let sent = snapshot::send(&self.core, &self.chunks, &link, message);
            let sent = tracing::Instrument::instrument(sent, span).await;
            outcome.is(sent.is_ok());
            if sent.is_ok() {
                let seconds = &self.core.durations.snapshots_sent;
                let seconds = seconds.with_label_values(&[&format!("{:x}", link.id)]);
                seconds.observe(began.elapsed().as_secs_f64());
            }
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
    link: Arc<Link>,
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
            let count =
                if self.ok { &self.link.snapshots_sent } else { &self.link.snapshots_failed };
            count.fetch_add(1, Ordering::Relaxed);
            self.inbound.snapshot_sent(self.link.id, self.ok);
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
        let mut listeners = Vec::new();
        for url in &config.listen_urls {
            let tls = match (url.is_tls(), &config.tls) {
                (false, _) => None,
                (true, Some(tls)) => Some(Arc::clone(tls)),
                (true, None) => return Err(PeersError::NoCertificate { url: url.to_string() }),
            };
            listeners.push((wire::bind(url)?, tls));
        }
        let local_addresses = listeners.iter().filter_map(|it| it.0.local_addr().ok()).collect();
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
            pacer: Pacer::new(config.limits.probe_interval),
            urgent_refused: AtomicU64::new(0),
            durations: metrics::Durations::new(),
            busy: packing::Busy::new(),
            compression_allowed: AtomicBool::new(true),
            config,
        });
        let door = Arc::new(Door::new(Arc::clone(&core), inbound.clone(), chunks.clone()));
        {
            let _entered = control.handle.enter();
            for (listener, tls) in listeners {
                let listener = tokio::net::TcpListener::from_std(listener)
                    .map_err(|error| PeersError::thread(&error))?;
                control.handle.spawn(Arc::clone(&door).accept(listener, tls));
            }
        }
        control.handle.spawn(pacer::run(Arc::clone(&core)));
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
        let mut asleep: Vec<Waker> = Vec::new();
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
            let is_answer = message.r#type() == Type::MsgAppendResponse;
            let lane = if is_answer && link.answers_go_apart() {
                Some(Lane::Control)
            } else {
                inbound::lane_for(message.r#type)
            };
            let sent = match lane {
                Some(Lane::Snapshot) => {
                    Arc::clone(&self.reports).send_snapshot(link, message);
                    true
                }
                Some(Lane::Bulk) => {
                    bytes <= self.core.config.limits.frame_bytes_max
                        && link
                            .bulk
                            .enqueue(Bulk::Raft(message), bytes, Admit::Connecting)
                            .map(|waker| asleep.extend(waker))
                            .is_ok()
                }
                Some(Lane::Control) => {
                    bytes <= inbound::CONTROL_FRAME_BYTES_MAX
                        && link
                            .control
                            .enqueue(Urgent::Raft(message), bytes, Admit::Connecting)
                            .map(|waker| asleep.extend(waker))
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
        asleep.into_iter().for_each(Waker::wake);
        dropped.sort_unstable();
        dropped.dedup();
        for to in dropped {
            self.reports.unreachable(to);
        }
    }

    /// Tells a peer what is traced of what is sent to it next. It is dropped where there is no room.
    pub fn tell_traces(&self, to: u64, mut contexts: Vec<TraceContext>) {
        contexts.truncate(codec::TRACES_PER_FRAME_MAX);
        let Some(link) = self.core.links().get(&to).cloned() else { return };
        if !contexts.is_empty() {
            let bytes = MESSAGE_BYTES + contexts.len() * TRACE_BYTES;
            drop(link.bulk.push(Bulk::Traces(contexts), bytes, Admit::Open));
        }
    }

    /// Forwards commands, once. `Err` gives them back: not a byte has left. After `Ok` they are sent
    /// or lost, or come back through [`Inbound::not_forwarded`]. `term` as in [`Forward`].
    pub fn forward(&self, to: u64, term: u64, commands: Vec<Bytes>) -> Result<(), Vec<Bytes>> {
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
                link.bulk.push(Bulk::Forward(Forward { term, commands: frame }), bytes, Admit::Open)
            {
                refused.extend(back.commands);
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
                    moved => {
                        let link = Link::new(id, urls, &core.config.limits, core.epoch);
                        if let Some(moved) = moved {
                            link.remember(moved);
                        }
                        let link = Arc::new(link);
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
            core.durations.forget(link.id);
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
            let codec = FrameCodec::<LeaderRequest, LeaderReply>::new(LEADER_REPLY_BYTES_MAX)
                .counting(&link.sent);
            let path = PathAndQuery::from_static(outbound::LEADER);
            let reply = grpc.unary(Request::new(request), path, codec).await;
            reply.map_err(|status| failed(outbound::Ended::status(&status).why))
        };
        let reply = tokio::time::timeout(timeout, call)
            .await
            .map_err(|_| PeerError::Timeout(leader))??
            .into_inner();
        link.heard(reply.length);
        Ok(reply.message)
    }

    /// Every peer, as of now.
    pub fn links(&self) -> BTreeMap<u64, PeerLink> {
        let now = Instant::now();
        let links = self.core.links();
        let view = |link: &Link| link.view(now, self.core.quiet_after(link));
        links.iter().map(|(id, link)| (*id, view(link))).collect()
    }

    /// How one peer can be reached: cheaper than [`Peers::links`]. `None`: there is no such peer.
    pub fn link_state(&self, id: u64) -> Option<LinkState> {
        let state = |link: &Arc<Link>| link.state(Instant::now(), self.core.quiet_after(link));
        self.core.links().get(&id).map(state)
    }

    /// The election timeout in force has changed: a peer may be silent for longer, or for less long.
    pub fn set_election_timeout(&self, election_timeout: Duration) {
        self.core.config.timing.set_election_timeout(election_timeout);
    }

    /// Whether the plan in force lets anything be compressed.
    pub fn set_compression_allowed(&self, allowed: bool) {
        self.core.compression_allowed.store(allowed, Ordering::Relaxed);
    }

    /// How late the control thread ran at worst since this was last asked.
    pub fn control_lateness_us(&self) -> u64 {
        self.core.pacer.take_worst_us()
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

    /// What this member's wall clock says, as it tells it to peers: microseconds since 1970. Nothing
    /// but a comparison of clocks goes by it.
    fn wall_us(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let us = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        us.saturating_add_signed(self.config.wall_clock_offset_us)
    }

    fn check_message(&self, message: &RaftMessage, from: u64, lane: Lane) -> Result<(), Status> {
        inbound::check_message(message, from, self.config.member_id, lane)
    }

    /// A healthy link is heard from at least once in this time.
    fn quiet_after(&self, link: &Link) -> Duration {
        waits::quiet_after(self.config.limits.probe_interval, link.round_trip())
    }

    /// A connection silent for longer is made anew.
    fn silence_max(&self, link: &Link) -> Duration {
        let election_timeout = self.config.timing.election_timeout();
        let probe_interval = self.config.limits.probe_interval;
        waits::silence_max(election_timeout, probe_interval, link.round_trip())
    }

    fn count_refused(&self) {
        self.urgent_refused.fetch_add(1, Ordering::Relaxed);
    }

    /// A stream from a peer ended otherwise than by being closed.
    fn broke(&self, from: u64, lane: Lane, status: &Status) {
        if let Some(link) = self.links().get(&from) {
            link.streams_broken.fetch_add(1, Ordering::Relaxed);
        }
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
