//! The front of the api: one HTTP/2 request in, one gRPC answer out.
//!
//! Every client thread has a [`Front`] of its own, so that the pointers a call touches are not shared
//! between processors. A call is found in the table of methods, admitted by the gate, given to its
//! service under the deadline its client set, and counted whatever becomes of it: also when the client
//! goes away and the call is dropped halfway. Reads and writes of keys take the short way of `unary`,
//! everything else the one tonic generates.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use proto::admin::admin_server::AdminServer;
use proto::etcdserverpb::auth_server::AuthServer;
use proto::etcdserverpb::cluster_server::ClusterServer;
use proto::etcdserverpb::kv_server::KvServer;
use proto::etcdserverpb::lease_server::LeaseServer;
use proto::etcdserverpb::maintenance_server::MaintenanceServer;
use proto::health::health_server::HealthServer;
use tonic::body::Body;
use tonic::codegen::Service as _;
use tonic::{Code, Status};

use super::admin::AdminService;
use super::auth::AuthService;
use super::cluster::ClusterService;
use super::error::{deadline_exceeded, stream_status};
use super::gate::grpc_timeout;
use super::health::HealthService;
use super::kv::KvService;
use super::lease::LeaseService;
use super::maintenance::MaintenanceService;
use super::method::{self, Kind, Method, MethodId, Service, Short};
use super::unary::{self, Answer};
use super::watch::WatchService;
use super::{GRPC_OVERHEAD_BYTES, Shared};
use crate::door::Door;
use crate::telemetry::{self, call::TracedCall};

/// The services of one client thread.
pub struct Front<D: Door> {
    shared: Arc<Shared<D>>,
    keys: KvService<D>,
    bytes_max: usize,
    kv: KvServer<KvService<D>>,
    watch: Arc<WatchService<D>>,
    lease: LeaseServer<LeaseService<D>>,
    cluster: ClusterServer<ClusterService<D>>,
    maintenance: MaintenanceServer<MaintenanceService<D>>,
    auth: AuthServer<AuthService<D>>,
    health: HealthServer<HealthService<D>>,
    admin: AdminServer<AdminService<D>>,
}

impl<D: Door> std::fmt::Debug for Front<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Front").finish_non_exhaustive()
    }
}

impl<D: Door> Front<D> {
    /// Services over what all threads share.
    pub fn new(shared: &Arc<Shared<D>>) -> Self {
        let bytes_max = shared.settings.request_bytes_max + GRPC_OVERHEAD_BYTES;
        let own = || Arc::clone(shared);
        Self {
            keys: KvService::new(own()),
            bytes_max,
            kv: KvServer::new(KvService::new(own())).max_decoding_message_size(bytes_max),
            watch: Arc::new(WatchService::new(own())),
            lease: LeaseServer::new(LeaseService::new(own())).max_decoding_message_size(bytes_max),
            cluster: ClusterServer::new(ClusterService::new(own()))
                .max_decoding_message_size(bytes_max),
            maintenance: MaintenanceServer::new(MaintenanceService::new(own()))
                .max_decoding_message_size(bytes_max),
            auth: AuthServer::new(AuthService::new(own())).max_decoding_message_size(bytes_max),
            health: HealthServer::new(HealthService::new(own()))
                .max_decoding_message_size(bytes_max),
            admin: AdminServer::new(AdminService::new(own())).max_decoding_message_size(bytes_max),
            shared: own(),
        }
    }

    /// Whether a request is for gRPC and not for a page.
    pub fn is_grpc<B>(request: &Request<B>) -> bool {
        request.version() == http::Version::HTTP_2
            && request
                .headers()
                .get(http::header::CONTENT_TYPE)
                .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
    }

    /// Answers one call.
    pub(crate) async fn call(&self, request: Request<Incoming>) -> Response<Answer> {
        match telemetry::call::begin(request.headers()) {
            None => self.answer(request, None).await,
            Some(traced) => {
                let answer = Box::pin(self.answer(request, Some(Arc::clone(&traced))));
                traced.follow(answer).await
            }
        }
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        traced: Option<Arc<TracedCall>>,
    ) -> Response<Answer> {
        let Some(id) = MethodId::find(request.uri().path()) else {
            return refusal(&Status::unimplemented(method::unknown(request.uri().path())));
        };
        let method = id.info();
        let mut call = Call::start(Arc::clone(&self.shared), id, traced);
        let timeout = match method.kind {
            Kind::Unary => grpc_timeout(request.headers()),
            // Streams live until one side ends them; a client's deadline ends its side.
            Kind::ServerStream | Kind::BidiStream => None,
        };
        if let Err(status) = self.shared.admit(method, request.headers()) {
            call.finish(status.code());
            return refusal(&status);
        }
        let short = method.short.filter(|_| !request.headers().contains_key("grpc-encoding"));
        if let Some(short) = short {
            // In a box, for a call is moved several times before it is first asked.
            let answer = Box::pin(self.serve_short(short, request.into_body()));
            let answer = within(timeout, answer).await.flatten();
            call.finish(answer.as_ref().err().map_or(Code::Ok, Status::code));
            return answer.unwrap_or_else(|status| refusal(&status));
        }
        // In a box: what most calls never take should not make each of them longer.
        Box::pin(self.call_service(method, request, timeout, call)).await.map(Answer::from)
    }

    async fn call_service(
        &self,
        method: &Method,
        request: Request<Incoming>,
        timeout: Option<Duration>,
        mut call: Call<D>,
    ) -> Response<Body> {
        let answer = self.serve(method.service, request);
        let mut response = within(timeout, answer).await.unwrap_or_else(Status::into_http);
        if let Some(status) = too_large(response.headers()) {
            response = status.into_http();
        }
        match (code(response.headers()), method.kind) {
            // An error, which has no body, or the one message of a unary call.
            (Some(code), _) => call.finish(code),
            (None, Kind::Unary) => call.finish(Code::Ok),
            (None, Kind::ServerStream | Kind::BidiStream) => {
                return response.map(|body| Body::new(Counted { body, call }));
            }
        }
        response
    }

    async fn serve_short(&self, short: Short, body: Incoming) -> Result<Response<Answer>, Status> {
        match short {
            Short::Put => {
                unary::answer(&self.keys.put(unary::read(body, self.bytes_max).await?).await?)
            }
            Short::Range => {
                unary::answer(&self.keys.range(unary::read(body, self.bytes_max).await?).await?)
            }
            Short::DeleteRange => {
                let request = unary::read(body, self.bytes_max).await?;
                unary::answer(&self.keys.delete_range(request).await?)
            }
            Short::Txn => {
                unary::answer(&self.keys.txn(unary::read(body, self.bytes_max).await?).await?)
            }
        }
    }

    async fn serve(&self, service: Service, request: Request<Incoming>) -> Response<Body> {
        let answer = match service {
            Service::Kv => self.kv.clone().call(request),
            Service::Watch => return self.watch.serve(request).await,
            Service::Lease => self.lease.clone().call(request),
            Service::Cluster => self.cluster.clone().call(request),
            Service::Maintenance => self.maintenance.clone().call(request),
            Service::Auth => self.auth.clone().call(request),
            Service::Health => self.health.clone().call(request),
            Service::Admin => self.admin.clone().call(request),
        };
        match answer.await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// Waits for an answer as long as its client does.
async fn within<T>(
    timeout: Option<Duration>,
    answer: impl Future<Output = T>,
) -> Result<T, Status> {
    match timeout {
        None => Ok(answer.await),
        Some(timeout) => {
            tokio::time::timeout(timeout, answer).await.map_err(|_| deadline_exceeded())
        }
    }
}

/// The answer that says only what went wrong.
fn refusal(status: &Status) -> Response<Answer> {
    status.clone().into_http().map(Answer::Body)
}

/// The code in the headers of an answer without a body, or in its trailers.
fn code(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|value| Code::from_bytes(value.as_bytes()))
}

/// tonic's refusal of an oversized message, as grpc-go would put it.
fn too_large(headers: &HeaderMap) -> Option<Status> {
    if code(headers)? != Code::OutOfRange {
        return None;
    }
    let refused = stream_status(Status::from_header_map(headers)?);
    (refused.code() != Code::OutOfRange).then_some(refused)
}

/// One call on the books.
struct Call<D: Door> {
    shared: Arc<Shared<D>>,
    id: MethodId,
    started: Instant,
    is_finished: bool,
    traced: Option<Arc<TracedCall>>,
}

impl<D: Door> Call<D> {
    fn start(shared: Arc<Shared<D>>, id: MethodId, traced: Option<Arc<TracedCall>>) -> Self {
        let started = shared.calls.start(id);
        Self { shared, id, started, is_finished: false, traced }
    }

    fn finish(&mut self, code: Code) {
        if std::mem::replace(&mut self.is_finished, true) {
            return;
        }
        let took = self.shared.calls.finish(self.id, self.started, code);
        let method = self.id.info();
        if let Some(traced) = self.traced.take() {
            traced.finish(method.path, code);
        }
        let is_slow = method.kind == Kind::Unary
            && took > self.shared.settings.warning_unary_request_duration;
        if is_slow && let Some(left_out) = self.shared.tells_of_slow_call() {
            tracing::warn!(
                method = method.path,
                code = ?code,
                time_spent_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                left_out,
                "request took too long"
            );
        }
    }
}

impl<D: Door> Drop for Call<D> {
    fn drop(&mut self) {
        self.finish(Code::Cancelled);
    }
}

/// The body of a stream, which tells at its end how the call went.
struct Counted<D: Door> {
    body: Body,
    call: Call<D>,
}

impl<D: Door> HttpBody for Counted<D> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(code) = frame.trailers_ref().and_then(code) {
                    self.call.finish(code);
                }
            }
            Some(Err(status)) => {
                let code = status.code();
                self.call.finish(code);
            }
            None => self.call.finish(Code::Ok),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
