//! Watch streams: a client's requests to the fan-out, its responses back.
//!
//! Whether a watcher may be created and what it is told is the hub's affair; here the stream lives and
//! ends. It ends with the client, with the member, or, if the client asked for that, with the leader.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::Stream;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::watch_server::Watch;
use proto::etcdserverpb::{WatchRequest, WatchResponse};
use state::watch::StreamId;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tonic::{Request, Response, Status, Streaming};

use super::Shared;
use super::error::stream_status;
use super::gate::requires_leader;
use super::method::MethodId;
use crate::door::{Door, RequestError};
use crate::fanout::{Ask, Delivery, Lane, Load, Outlet, Subscription};

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

#[tonic::async_trait]
impl<D: Door> Watch for WatchService<D> {
    type WatchStream = Responses<D>;

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
                Err(status) => end_stream(&outlet, status),
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

fn end_stream(outlet: &Outlet, status: Status) {
    outlet.put(Delivery::End(status));
}

struct Inbound<D> {
    shared: Arc<Shared<D>>,
    method: MethodId,
    stream: StreamId,
    load: Arc<Load>,
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
    type Item = Result<WatchResponse, Status>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<WatchResponse, Status>>> {
        Poll::Ready(match ready!(self.subscription.poll_next(cx)) {
            Delivery::Response(mut response, _) => {
                let term = self.shared.door.leadership().term;
                self.shared.fill(&mut response.header, term);
                self.shared.calls.message_sent(self.method);
                Some(Ok(response))
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
