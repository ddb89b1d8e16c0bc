//! The connections other members make to this one.
//!
//! A stream is read only as fast as the node takes what it carries: an append that finds no room is
//! waited with, the stream is not read meanwhile, and HTTP/2's window makes the sender wait in turn.
//! Nothing queues here. What is urgent never waits: it is handed over or dropped.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::Stream;
use http::Response;
use hyper::body::Incoming;
use proto::peer::{
    AppendAck, AppendFrame, ControlFrame, Forward, Hello, LeaderReply, LeaderRequest, RaftMessage,
    SnapshotFrame, SnapshotReply, append_frame, control_frame, raft_message::Type, snapshot_frame,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codec::Streaming;
use tonic::server::Grpc;
use tonic::{Request, Status};
use tower::service_fn;

use super::admission::{Admitted, Topic};
use super::codec::{FrameCodec, Received};
use super::compress::Reads;
use super::link::{Lane, Link};
use super::outbound::{APPEND, CONTROL, LEADER, SNAPSHOT};
use super::waits::HELLO_TIMEOUT;
use super::wire::Caller;
use super::{Chunks, Core, Inbound, pages, snapshot, wire};
use crate::strangers::{Stranger, Strangers};
use crate::tls::{MaybeTls, Tls, certificate_of};

/// Connections at one time, of all kinds. Seven members need twenty.
const CONNECTIONS_MAX: usize = 512;
/// Connections at one time on which no member has greeted yet; one more, and the oldest is closed.
const STRANGERS_MAX: usize = 256;
const _: () = assert!(STRANGERS_MAX < CONNECTIONS_MAX, "strangers must leave room for members");
/// Largest frame on the control connection.
pub(super) const CONTROL_FRAME_BYTES_MAX: usize = 256 << 10;
/// Largest question to the leader.
const LEADER_REQUEST_BYTES_MAX: usize = 256 << 10;
/// Probes that wait to be sent back on the connection others came on; a peer that does not read them
/// gets no more.
const PROBES_BACK_MAX: usize = 4;
/// Rest after accepting failed, as it does when the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the streams share, with the node behind them.
#[derive(Debug)]
pub(super) struct Door<I, C> {
    pub(super) core: Arc<Core>,
    pub(super) inbound: I,
    pub(super) chunks: C,
    pub(super) receiving: Semaphore,
    connections: Arc<Semaphore>,
    strangers: Arc<Strangers>,
}

impl<I: Inbound, C: Chunks> Door<I, C> {
    pub(super) fn new(core: Arc<Core>, inbound: I, chunks: C) -> Self {
        Door {
            core,
            inbound,
            chunks,
            receiving: Semaphore::new(snapshot::RECEIVING_MAX),
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            strangers: Strangers::new(STRANGERS_MAX),
        }
    }

    /// Accepts on one listener, and hands each connection to the thread it is for.
    pub(super) async fn accept(self: Arc<Self>, listener: TcpListener, tls: Option<Arc<Tls>>) {
        loop {
            let Ok(connection) = Arc::clone(&self.connections).acquire_owned().await else {
                return;
            };
            let (stream, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    if self.core.throttle.is_due(Topic::Accept) {
                        tracing::warn!("cannot accept connections of peers: {error}");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let mut stranger = self.strangers.enter();
            let (door, tls) = (Arc::clone(&self), tls.clone());
            tokio::spawn(async move {
                let mut stream = stream;
                let lane = tokio::select! {
                    lane = wire::lane_of(&mut stream) => lane,
                    () = stranger.sent_away() => return,
                };
                // A caller that does not say what it wants is hung up on, without a word to the log:
                // load balancers and port scanners do it all day.
                let Ok(lane) = lane else { return };
                if lane == Lane::Control {
                    door.serve(stream, from, lane, tls, stranger).await;
                    drop(connection);
                } else if let Ok(stream) = stream.into_std() {
                    let bulk = door.core.bulk.clone();
                    bulk.spawn(async move {
                        if let Ok(stream) = TcpStream::from_std(stream) {
                            door.serve(stream, from, lane, tls, stranger).await;
                        }
                        drop(connection);
                    });
                }
            });
        }
    }

    async fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        from: SocketAddr,
        lane: Lane,
        tls: Option<Arc<Tls>>,
        mut stranger: Stranger,
    ) {
        let stream = match &tls {
            None => MaybeTls::Plain(stream),
            Some(tls) => {
                let accepted = tokio::select! {
                    accepted = tls.accept(stream, from) => accepted,
                    () = stranger.sent_away() => None,
                };
                let Some(stream) = accepted else { return };
                stream
            }
        };
        let checks_names = tls.is_some_and(|tls| tls.checks_caller_names());
        let certificate = certificate_of(&stream).filter(|_| checks_names);
        let caller = Arc::new(Caller { certificate, ..Caller::default() });
        let known = Arc::clone(&caller);
        let answer = move |request| Arc::clone(&self).answer(request, Arc::clone(&caller));
        wire::serve(stream, lane, known, stranger, answer).await;
    }

    /// One HTTP request, gRPC or not.
    async fn answer(
        self: Arc<Self>,
        request: http::Request<Incoming>,
        caller: Arc<Caller>,
    ) -> Response<Body> {
        let frame_bytes_max = self.core.config.limits.frame_bytes_max;
        match request.uri().path() {
            APPEND => {
                let codec = FrameCodec::<AppendAck, AppendFrame>::new(frame_bytes_max);
                let service = service_fn(move |r| Arc::clone(&self).append(r, Arc::clone(&caller)));
                grpc(codec, frame_bytes_max).streaming(service, request).await
            }
            CONTROL => {
                let codec = FrameCodec::<ControlFrame, ControlFrame>::new(CONTROL_FRAME_BYTES_MAX);
                let service =
                    service_fn(move |r| Arc::clone(&self).control(r, Arc::clone(&caller)));
                grpc(codec, CONTROL_FRAME_BYTES_MAX).streaming(service, request).await
            }
            SNAPSHOT => {
                let codec = FrameCodec::<SnapshotReply, SnapshotFrame>::new(frame_bytes_max);
                let service =
                    service_fn(move |r| Arc::clone(&self).snapshot(r, Arc::clone(&caller)));
                grpc(codec, frame_bytes_max).streaming(service, request).await
            }
            LEADER => {
                let codec = FrameCodec::<LeaderReply, LeaderRequest>::new(LEADER_REQUEST_BYTES_MAX);
                let service = service_fn(move |r| Arc::clone(&self).leader(r, Arc::clone(&caller)));
                grpc(codec, LEADER_REQUEST_BYTES_MAX).unary(service, request).await
            }
            path if request
                .headers()
                .get(http::header::CONTENT_TYPE)
                .is_some_and(pages::is_grpc) =>
            {
                Status::unimplemented(format!("no method {path}")).into_http()
            }
            _ => pages::answer(&request, self.core.config.cluster_id, &self.inbound),
        }
    }

    fn admit(&self, hello: Option<Hello>, lane: Lane, caller: &Caller) -> Result<Admitted, Status> {
        let hello =
            hello.ok_or_else(|| Status::invalid_argument("a stream must begin with a greeting"))?;
        let link = self.check(&hello, caller)?;
        self.inbound.greeted(link.id, hello.boot_id);
        Ok(self.core.admission.enter(link, lane))
    }

    fn check(&self, hello: &Hello, caller: &Caller) -> Result<Arc<Link>, Status> {
        let is_removed = |id| self.inbound.is_removed(id);
        let certificate = caller.certificate.as_ref();
        let links = self.core.links();
        let link = self.core.admission.check(hello, &links, is_removed, certificate)?;
        caller.is_known.store(true, Ordering::Relaxed);
        Ok(link)
    }

    async fn append(
        self: Arc<Self>,
        request: Request<Streaming<Received<AppendFrame>>>,
        caller: Arc<Caller>,
    ) -> Result<tonic::Response<ReceiverStream<Result<AppendAck, Status>>>, Status> {
        let mut frames = request.into_inner();
        let hello = match first(&mut frames).await?.frame {
            Some(append_frame::Frame::Hello(hello)) => Some(hello),
            _ => None,
        };
        let mut admitted = self.admit(hello, Lane::Bulk, &caller)?;
        let from = admitted.link.id;
        let (end, acks) = mpsc::channel(1);
        tokio::spawn(async move {
            let ended = tokio::select! {
                () = admitted.ended() => Err(Status::aborted("replaced by a newer stream")),
                ended = self.read_appends(&mut frames, from) => ended,
            };
            if let Err(status) = ended {
                self.core.broke(from, Lane::Bulk, &status);
                drop(end.try_send(Err(status)));
            }
        });
        Ok(accepted(ReceiverStream::new(acks)))
    }

    async fn read_appends(
        &self,
        frames: &mut Streaming<Received<AppendFrame>>,
        from: u64,
    ) -> Result<(), Status> {
        let link = self.core.link(from)?;
        let mut traces = Vec::new();
        link.taken_bytes.store(0, Ordering::Relaxed);
        while let Some(Received { message, length }) = frames.message().await? {
            link.heard(length);
            link.taken_bytes.fetch_add(length.wire as u64, Ordering::Relaxed);
            let taken = match message.frame {
                Some(append_frame::Frame::Raft(message)) => {
                    self.core.check_message(&message, from, Lane::Bulk)?;
                    link.count_rejection(&message);
                    if !message.entries.is_empty() {
                        self.tell_traces(&mut traces, false);
                    }
                    self.inbound.append(message).await
                }
                Some(append_frame::Frame::Bound(Forward { term: 0, .. })) => {
                    return Err(Status::invalid_argument("a bound forward without its term"));
                }
                Some(
                    append_frame::Frame::Forward(forward) | append_frame::Frame::Bound(forward),
                ) => {
                    self.tell_traces(&mut traces, true);
                    self.inbound.forwarded(from, forward).await
                }
                Some(append_frame::Frame::Traces(told)) => {
                    traces = told.contexts;
                    true
                }
                Some(append_frame::Frame::Hello(_)) => {
                    return Err(Status::invalid_argument("a second greeting"));
                }
                // Unpacked by the codec; or of a later version.
                Some(append_frame::Frame::Packed(_)) | None => true,
            };
            if !taken {
                return Err(Status::unavailable("the member is stopping"));
            }
        }
        Ok(())
    }

    fn tell_traces(&self, traces: &mut Vec<proto::peer::TraceContext>, is_forward: bool) {
        if !traces.is_empty() {
            self.inbound.traces(&std::mem::take(traces), is_forward);
        }
    }

    async fn control(
        self: Arc<Self>,
        request: Request<Streaming<Received<ControlFrame>>>,
        caller: Arc<Caller>,
    ) -> Result<tonic::Response<ProbesBack>, Status> {
        let mut frames = request.into_inner();
        let hello = match first(&mut frames).await?.frame {
            Some(control_frame::Frame::Hello(hello)) => Some(hello),
            _ => None,
        };
        let mut admitted = self.admit(hello, Lane::Control, &caller)?;
        let from = admitted.link.id;
        let (ask, asked) = mpsc::channel(PROBES_BACK_MAX);
        let (core, link) = (Arc::clone(&self.core), Arc::clone(&admitted.link));
        tokio::spawn(async move {
            let ended = tokio::select! {
                () = admitted.ended() => Err(Status::aborted("replaced by a newer stream")),
                ended = self.read_control(&mut frames, from, &ask) => ended,
            };
            if let Err(status) = ended {
                self.core.broke(from, Lane::Control, &status);
            }
        });
        Ok(tonic::Response::new(ProbesBack { core, link, asked }))
    }

    async fn read_control(
        &self,
        frames: &mut Streaming<Received<ControlFrame>>,
        from: u64,
        ask: &mpsc::Sender<()>,
    ) -> Result<(), Status> {
        let link = self.core.link(from)?;
        while let Some(Received { message, length }) = frames.message().await? {
            let received_at = Instant::now();
            link.heard(length);
            if let Some(probe) = &message.probe {
                self.core.take_probe(&link, probe, received_at);
                // Without a connection of its own there, this member has only this one.
                if !link.is_up_for(Lane::Control) {
                    let _ = ask.try_send(());
                }
            }
            match message.frame {
                Some(control_frame::Frame::Raft(message)) => {
                    self.core.check_message(&message, from, Lane::Control)?;
                    link.count_rejection(&message);
                    if !self.inbound.urgent(message) {
                        self.core.count_refused();
                    }
                }
                Some(control_frame::Frame::Hello(_)) => {
                    return Err(Status::invalid_argument("a second greeting"));
                }
                None => {}
            }
        }
        Ok(())
    }

    async fn snapshot(
        self: Arc<Self>,
        request: Request<Streaming<Received<SnapshotFrame>>>,
        caller: Arc<Caller>,
    ) -> Result<tonic::Response<ReceiverStream<Result<SnapshotReply, Status>>>, Status> {
        let mut frames = request.into_inner();
        let hello = match first(&mut frames).await?.frame {
            Some(snapshot_frame::Frame::Hello(hello)) => Some(hello),
            _ => None,
        };
        let mut admitted = self.admit(hello, Lane::Snapshot, &caller)?;
        let (replies, stream) = mpsc::channel(snapshot::REPLIES_MAX);
        tokio::spawn(async move {
            let from = admitted.link.id;
            tokio::select! {
                () = admitted.ended() => {}
                () = snapshot::receive(&self, from, &mut frames, &replies) => {}
            }
        });
        Ok(accepted(ReceiverStream::new(stream)))
    }

    async fn leader(
        self: Arc<Self>,
        request: Request<Received<LeaderRequest>>,
        caller: Arc<Caller>,
    ) -> Result<tonic::Response<LeaderReply>, Status> {
        let Received { message: mut request, length } = request.into_inner();
        let hello = request
            .hello
            .take()
            .ok_or_else(|| Status::invalid_argument("a question must carry a greeting"))?;
        let link = self.check(&hello, &caller)?;
        link.heard(length);
        Ok(tonic::Response::new(self.inbound.leader_call(link.id, request).await))
    }
}

fn grpc<T: tonic::codec::Codec>(codec: T, bytes_max: usize) -> Grpc<T> {
    Grpc::new(codec).apply_max_message_size_config(Some(bytes_max), None)
}

/// The answer to a greeting: welcome, and what may come packed.
fn accepted<T>(replies: T) -> tonic::Response<T> {
    let mut response = tonic::Response::new(replies);
    Reads::announce(response.metadata_mut());
    response
}

/// The first frame of a stream.
async fn first<T: Send>(frames: &mut Streaming<Received<T>>) -> Result<T, Status> {
    match tokio::time::timeout(HELLO_TIMEOUT, frames.message()).await {
        Ok(Ok(Some(received))) => Ok(received.message),
        Ok(Ok(None)) => Err(Status::invalid_argument("a stream must begin with a greeting")),
        Ok(Err(status)) => Err(status),
        Err(_) => Err(Status::deadline_exceeded("no greeting")),
    }
}

/// Whether a raft message may come from this peer on this connection.
pub(super) fn check_message(
    message: &RaftMessage,
    from: u64,
    own: u64,
    lane: Lane,
) -> Result<(), Status> {
    if message.from != from || message.to != own {
        return Err(Status::invalid_argument(format!(
            "a message from {:x} to {:x} in the stream from {from:x} to {own:x}",
            message.from, message.to
        )));
    }
    let is_answer = message.r#type() == Type::MsgAppendResponse;
    if lane_for(message.r#type) != Some(lane) && !(is_answer && lane == Lane::Control) {
        return Err(Status::invalid_argument(format!(
            "a message of type {} on the {} connection",
            message.r#type,
            lane.as_str()
        )));
    }
    Ok(())
}

/// The connection a message travels on; `None`: none of them. The answer to an append may take the control
/// connection too ([`super::link::Link::answers_go_apart`]).
pub(super) fn lane_for(message_type: i32) -> Option<Lane> {
    match Type::try_from(message_type).ok()? {
        Type::MsgAppend | Type::MsgAppendResponse => Some(Lane::Bulk),
        Type::MsgSnapshot => Some(Lane::Snapshot),
        Type::MsgRequestVote
        | Type::MsgRequestVoteResponse
        | Type::MsgHeartbeat
        | Type::MsgHeartbeatResponse
        | Type::MsgTransferLeader
        | Type::MsgTimeoutNow
        | Type::MsgReadIndex
        | Type::MsgReadIndexResp
        | Type::MsgRequestPreVote
        | Type::MsgRequestPreVoteResponse => Some(Lane::Control),
        // A replica says these to itself only; commands travel as forwards.
        Type::MsgHup
        | Type::MsgBeat
        | Type::MsgPropose
        | Type::MsgUnreachable
        | Type::MsgSnapStatus
        | Type::MsgCheckQuorum => None,
    }
}

/// Probes on the connection others came on, for as long as this member has none of its own there.
#[derive(Debug)]
struct ProbesBack {
    core: Arc<Core>,
    link: Arc<Link>,
    asked: mpsc::Receiver<()>,
}

impl Stream for ProbesBack {
    type Item = Result<ControlFrame, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let asked = self.asked.poll_recv(context);
        asked.map(|asked| asked.map(|()| Ok(self.core.with_probe(&self.link, None))))
    }
}
