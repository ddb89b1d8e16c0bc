//! Watch streams: a client's requests to the fan-out, its responses back.
//!
//! Whether a watcher may be created and what it is told is the hub's affair; here the stream lives and
//! ends. It ends with the client, with the member, or, if the client asked for that, with the leader.
//!
//! The service is put together here and not by tonic's generated code, for the sake of its codec:
//! responses come from the fan-out with their events encoded.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use futures::Stream;
use futures::future::BoxFuture;
use hyper::body::Incoming;
use prost::Message as _;
use proto::etcdserverpb::WatchRequest;
use proto::etcdserverpb::watch_request::RequestUnion;
use state::watch::StreamId;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{Grpc, StreamingService};
use tonic::{Request, Response, Status, Streaming};

use super::error::stream_status;
use super::gate::requires_leader;
use super::method::MethodId;
use super::{GRPC_OVERHEAD_BYTES, Shared};
use crate::door::{Door, RequestError};
use crate::fanout::{Ask, Delivery, Lane, Load, Outlet, Subscription, Told};
use crate::telemetry::call;

/// Requests of one stream that wait for the hub.
const REQUESTS_WAITING_MAX: usize = 256;

/// The service, on one client thread.
pub(super) struct WatchService<D> {
    shared: Arc<Shared<D>>,
    lane: Lane,
    method: MethodId,
}

impl<D: Door> WatchService<D> {
    pub(super) fn new(shared: Arc<Shared<D>>) -> Self {
        let method = MethodId::find("/etcdserverpb.Watch/Watch");
        let lane = Lane::default();
        Self {
            shared,
            lane,
            method: method.unwrap_or_else(|| unreachable!("Watch is in the table")),
        }
    }
}

impl<D: Door> WatchService<D> {
    /// Answers one call.
    pub(super) async fn serve(
        self: &Arc<Self>,
        request: http::Request<Incoming>,
    ) -> http::Response<Body> {
        let bytes_max = self.shared.settings.request_bytes_max + GRPC_OVERHEAD_BYTES;
        let mut grpc = Grpc::new(WatchCodec).apply_max_message_size_config(Some(bytes_max), None);
        grpc.streaming(Watches(Arc::clone(self)), request).await
    }

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Responses<D>>, Status> {
        let must_have_leader = requires_leader(request.metadata().as_ref());
        let subscription = self.shared.fanout.open(&self.lane).await;
        let subscription = subscription.ok_or_else(|| Status::from(RequestError::Stopped))?;
        let inbound = Inbound {
            shared: Arc::clone(&self.shared),
            method: self.method,
            stream: subscription.stream(),
            load: subscription.load(),
            call: call::current(),
        };
        let outlet = subscription.outlet();
        let requests = request.into_inner();
        let listener = tokio::spawn(async move {
            let end = tokio::select! {
                end = inbound.listen(requests) => end,
                status = inbound.shared.stream_over(must_have_leader) => Err(status),
            };
            match end {
                // The client has said all it wanted to ask, and still listens.
                Ok(()) => {
                    let status = inbound.shared.stream_over(must_have_leader).await;
                    end_stream(&outlet, status);
                }
                Err(status) => {
                    let failures = &inbound.shared.metrics.stream_failures;
                    failures.with_label_values(&["receive", "watch"]).inc();
                    end_stream(&outlet, status);
                }
            }
        });
        Ok(Response::new(Responses {
            subscription,
            shared: Arc::clone(&self.shared),
            method: self.method,
            listener: listener.abort_handle(),
        }))
    }
}

/// [`WatchService::watch`] as tonic calls it.
struct Watches<D>(Arc<WatchService<D>>);

impl<D: Door> StreamingService<WatchRequest> for Watches<D> {
    type Response = Told;
    type ResponseStream = Responses<D>;
    type Future = BoxFuture<'static, Result<Response<Responses<D>>, Status>>;

    fn call(&mut self, request: Request<Streaming<WatchRequest>>) -> Self::Future {
        let service = Arc::clone(&self.0);
        Box::pin(async move { service.watch(request).await })
    }
}

/// Requests as they are, responses half encoded.
struct WatchCodec;

impl Codec for WatchCodec {
    type Encode = Told;
    type Decode = WatchRequest;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for WatchCodec {
    type Item = Told;
    type Error = Status;

    fn encode(&mut self, told: Told, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.reserve(told.encoded_len());
        told.encode_raw(into);
        Ok(())
    }
}

impl Decoder for WatchCodec {
    type Item = WatchRequest;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<WatchRequest>, Status> {
        let request = WatchRequest::decode(from);
        request.map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

fn end_stream(outlet: &Outlet, status: Status) {
    outlet.put(Delivery::End(status));
}

struct Inbound<D> {
    shared: Arc<Shared<D>>,
    method: MethodId,
    stream: StreamId,
    load: Arc<Load>,
    /// Where the call stands, if it is traced.
    call: Option<otlp::Context>,
}

impl<D: Door> Inbound<D> {
    /// Passes requests on until the client has no more.
    async fn listen(&self, mut requests: Streaming<WatchRequest>) -> Result<(), Status> {
        let places = Arc::new(Semaphore::new(REQUESTS_WAITING_MAX));
        loop {
            self.load.has_room().await;
            let Some(request) = requests.message().await.map_err(stream_status)? else {
                return Ok(());
            };
            self.shared.calls.message_received(self.method);
            let traced = self.call.map(|call| (call, SystemTime::now()));
            let creates = matches!(request.request_union, Some(RequestUnion::CreateRequest(_)));
            let ask = match request.request_union {
                Some(RequestUnion::CreateRequest(create)) => {
                    Ask::Create(create, self.shared.door.view())
                }
                Some(RequestUnion::CancelRequest(cancel)) => Ask::Cancel(cancel.watch_id),
                Some(RequestUnion::ProgressRequest(_)) => Ask::Progress,
                // A request of a later version asks for nothing we know; the stream goes on.
                None => continue,
            };
            let place = Arc::clone(&places).acquire_owned().await;
            let place = place.map_err(|_| Status::from(RequestError::Stopped))?;
            self.shared.fanout.ask(self.stream, ask, place);
            if let Some((call, start)) = traced.filter(|_| creates) {
                call::note_wait(call, "watch_create", start, None);
            }
        }
    }
}

/// The responses of one stream. Dropping it ends the stream.
pub(super) struct Responses<D> {
    subscription: Subscription,
    shared: Arc<Shared<D>>,
    method: MethodId,
    listener: AbortHandle,
}

impl<D: Door> Stream for Responses<D> {
    type Item = Result<Told, Status>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Told, Status>>> {
        Poll::Ready(match ready!(self.subscription.poll_next(cx)) {
            Delivery::Response(mut told, _) => {
                let term = self.shared.door.leadership().term;
                self.shared.fill(&mut told.head.header, term);
                self.shared.calls.message_sent(self.method);
                Some(Ok(told))
            }
            Delivery::End(status) => Some(Err(status)),
        })
    }
}

impl<D> Drop for Responses<D> {
    fn drop(&mut self) {
        self.listener.abort();
    }
}
