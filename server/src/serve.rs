//! Connections: accepted, shared out among the client threads, and served.
//!
//! Each client thread runs a current-thread runtime and owns the connections it is given, so that what
//! a connection touches stays on one processor; measured, that serves a third more calls than one
//! runtime that steals work. One more thread accepts and hands the connections out in turn.
//!
//! gRPC and plain pages share a port, and where two URLs say so, TLS and plain text do. Everything a
//! stranger can hold up has a limit: the number of connections, of handshakes and their time, the
//! time until the first bytes and the headers, the streams of a connection, and how many calls may be
//! cancelled in a burst before their answers are given up.

mod io_meter;
mod listen;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use socket2::TcpKeepalive;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tonic::body::Body;
use tower::ServiceExt;

use crate::api::Shared;
use crate::api::front::Front;
use crate::api::unary::Answer;
use crate::config::Config;
use crate::door::Door;
use crate::http::{client_router, control_router, metrics_router};
use crate::metrics::Metrics;
use crate::shutdown::stopped;
use crate::strangers::{Stranger, Strangers};
use crate::tls::{HANDSHAKE_TIMEOUT, MaybeTls};
use io_meter::{Metered, Socket as Stream};
use listen::{Listening, Security};

pub(crate) use listen::bind_control;
#[cfg(test)]
pub(crate) use listen::bind_for_test;
pub use listen::{BindError, Content, Listener, SocketOptions, bind_all, bind_tcp};

/// How long a connection may stay silent at its beginning.
const FIRST_BYTES_TIMEOUT: Duration = Duration::from_secs(10);
/// TLS handshakes under way at a time; one more, and the oldest is given up.
const HANDSHAKES_MAX: usize = 1_024;
/// What every TLS connection begins with, and no HTTP request.
const TLS_FIRST_BYTE: u8 = 0x16;
/// Fewer bytes than any request and any HTTP/2 preface has.
const FIRST_BYTES_MIN: u64 = 16;
/// How long the headers of an HTTP/1 request may take.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Calls of one connection that may be cancelled before they were taken up. hyper's own limit of 20
/// closes the connection of a client that cancels a burst of calls.
const PENDING_ACCEPT_RESET_STREAMS_MAX: usize = 10_000;
/// Streams of one connection we may have reset for the client's errors before it is closed.
const LOCAL_ERROR_RESET_STREAMS_MAX: usize = 10_000;
/// Bytes of the headers of one call; as grpc-go.
const HEADER_LIST_BYTES_MAX: u32 = 16 << 20;
/// What a connection of HTTP/1 may hold of what it reads and writes; hyper's own limit would hold a
/// whole page of metrics for each that does not read it.
const HTTP1_BUFFER_BYTES_MAX: usize = 64 << 10;
/// How long to wait after a failed accept, which mostly means that descriptors ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Silence after which TCP asks whether the other side is still there.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);
/// Threads for clients when the number of processors decides.
const CLIENT_THREADS_MAX: usize = 16;
/// How long open calls may take to end once the member stops.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How connections are served.
#[derive(Clone, Copy, Debug)]
pub struct ServeOptions {
    threads: usize,
    connections_max: usize,
    concurrent_streams_max: u32,
    keepalive_interval: Option<Duration>,
    keepalive_timeout: Duration,
}

impl ServeOptions {
    /// Takes them out of all settings.
    pub fn of(config: &Config) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = config.client_threads.unwrap_or(processors.clamp(1, CLIENT_THREADS_MAX));
        let for_ever = Duration::from_secs(u64::from(u32::MAX));
        Self {
            threads,
            connections_max: config.client_connections_max,
            concurrent_streams_max: config.max_concurrent_streams,
            keepalive_interval: Some(config.grpc_keepalive_interval).filter(|i| !i.is_zero()),
            keepalive_timeout: Some(config.grpc_keepalive_timeout)
                .filter(|timeout| !timeout.is_zero())
                .unwrap_or(for_ever),
        }
    }

    /// How long what was sent may stay unread by the other side's kernel until the connection is
    /// closed; as grpc-go has it, the time an answer to a keepalive may take, if these are sent.
    fn unread_timeout(&self) -> Option<Duration> {
        self.keepalive_interval.map(|_| self.keepalive_timeout)
    }

    /// For a few callers that ask little.
    pub(crate) fn on_one_thread(self) -> Self {
        Self { threads: 1, ..self }
    }
}

/// Connections being accepted and served.
#[derive(Debug)]
pub struct Serving {
    threads: Vec<JoinHandle<()>>,
}

impl Serving {
    /// Waits until all connections have ended. They begin to when `stopping` turns true.
    pub fn join(self) {
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a client thread panicked");
            }
        }
    }
}

/// What answers requests.
pub(crate) trait Answers: Send + Sync + 'static {
    /// Answers one.
    fn answer(
        &self,
        content: Content,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Answer>> + Send;
}

/// Begins to accept and serve. Ends when `stopping` turns true: no more connections are accepted, the
/// open ones are told, and what they still do may take [`DRAIN_TIMEOUT`].
pub fn serve<D: Door>(
    listeners: Vec<Listener>,
    shared: &Arc<Shared<D>>,
    options: ServeOptions,
) -> io::Result<Serving> {
    let (metrics, stopping) = (Arc::clone(&shared.metrics), shared.stopping.clone());
    let shared = Arc::clone(shared);
    // Each thread has services of its own.
    serve_on("client", listeners, options, &metrics, &stopping, move || Pages {
        front: Front::new(&shared),
        all: client_router(&shared),
        metrics: metrics_router(&shared),
        control: control_router(&shared),
    })
}

/// The same with other answers, one set of them for each thread.
pub(crate) fn serve_on<A: Answers>(
    name: &'static str,
    listeners: Vec<Listener>,
    options: ServeOptions,
    metrics: &Arc<Metrics>,
    stopping: &watch::Receiver<bool>,
    answers: impl Fn() -> A + Clone + Send + 'static,
) -> io::Result<Serving> {
    let mut threads = Vec::new();
    let mut senders = Vec::new();
    for number in 0..options.threads {
        // Bounded by the permits of the connections, which are taken first.
        let (sender, receiver) = mpsc::unbounded_channel();
        senders.push(sender);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (metrics, stopping) = (Arc::clone(metrics), stopping.clone());
        let answers = answers.clone();
        let thread = std::thread::Builder::new().name(format!("{name}-{number}"));
        threads.push(thread.spawn(move || {
            let answers = Arc::new(answers());
            runtime.block_on(client_thread(receiver, answers, metrics, options, stopping));
            runtime.shutdown_timeout(Duration::from_secs(1));
        })?);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let stopping = stopping.clone();
    let thread = std::thread::Builder::new().name(format!("{name}-accept"));
    threads.push(thread.spawn(move || {
        runtime.block_on(accept_all(listeners, senders, options, stopping));
    })?);
    Ok(Serving { threads })
}

struct Accepted {
    stream: Accept,
    from: Option<SocketAddr>,
    content: Content,
    security: Security,
    stranger: Option<Stranger>,
    permit: OwnedSemaphorePermit,
}

enum Accept {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

async fn accept_all(
    listeners: Vec<Listener>,
    senders: Vec<mpsc::UnboundedSender<Accepted>>,
    options: ServeOptions,
    mut stopping: watch::Receiver<bool>,
) {
    let permits = Arc::new(Semaphore::new(options.connections_max));
    let strangers = Strangers::new(HANDSHAKES_MAX);
    let senders = Arc::new(senders);
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for listener in listeners {
        let (permits, senders, next) =
            (Arc::clone(&permits), Arc::clone(&senders), Arc::clone(&next));
        let strangers = Arc::clone(&strangers);
        tasks.spawn(async move {
            let url = listener.urls[0].to_string();
            let unread = options.unread_timeout();
            let ended = accept(listener, unread, &permits, &strangers, &senders, &next).await;
            if let Err(error) = ended {
                tracing::error!(%error, url, "cannot accept connections");
            }
        });
    }
    stopped(&mut stopping).await;
    tasks.shutdown().await;
}

async fn accept(
    listener: Listener,
    unread_timeout: Option<Duration>,
    permits: &Arc<Semaphore>,
    strangers: &Arc<Strangers>,
    senders: &[mpsc::UnboundedSender<Accepted>],
    next: &AtomicU64,
) -> io::Result<()> {
    let Listener { content, urls, listening, security } = listener;
    let (acceptor, _socket_file) = match listening {
        Listening::Tcp(tcp) => (Acceptor::Tcp(TcpListener::from_std(tcp)?), None),
        Listening::Unix(unix, file) => (Acceptor::Unix(UnixListener::from_std(unix)?), Some(file)),
    };
    loop {
        let Ok(permit) = Arc::clone(permits).acquire_owned().await else { return Ok(()) };
        match acceptor.accept(unread_timeout).await {
            Ok((stream, from)) => {
                let turn = next.fetch_add(1, Ordering::Relaxed) as usize % senders.len();
                let stranger = match &security {
                    Security::Plain => None,
                    Security::Tls(_) | Security::Either(_) => Some(strangers.enter()),
                };
                let security = security.clone();
                let accepted = Accepted { stream, from, content, security, stranger, permit };
                // A thread that has ended takes no more; the connection is closed.
                let _ = senders[turn].send(accepted);
            }
            Err(error) => {
                tracing::warn!(%error, url = %urls[0], "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Acceptor {
    async fn accept(
        &self,
        unread_timeout: Option<Duration>,
    ) -> io::Result<(Accept, Option<SocketAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, from) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let keepalive = TcpKeepalive::new().with_time(TCP_KEEPALIVE);
                let socket = socket2::SockRef::from(&stream);
                socket.set_tcp_keepalive(&keepalive)?;
                socket.set_tcp_user_timeout(unread_timeout)?;
                Ok((Accept::Tcp(stream.into_std()?), Some(from)))
            }
            Self::Unix(listener) => {
                Ok((Accept::Unix(listener.accept().await?.0.into_std()?), None))
            }
        }
    }
}

/// What one client thread serves.
struct Pages<D: Door> {
    front: Front<D>,
    all: Router,
    metrics: Router,
    control: Router,
}

impl<D: Door> Answers for Pages<D> {
    async fn answer(&self, content: Content, request: Request<Incoming>) -> Response<Answer> {
        let is_grpc = Front::<D>::is_grpc(&request);
        let router = match content {
            Content::All | Content::Grpc if is_grpc => return self.front.call(request).await,
            Content::All | Content::Pages => self.all.clone(),
            Content::Metrics => self.metrics.clone(),
            Content::Control => self.control.clone(),
            // Pages have sockets of their own.
            Content::Grpc => Router::new(),
        };
        ask(router, request).await
    }
}

/// Puts a request to a router.
pub(crate) async fn ask(router: Router, request: Request<Incoming>) -> Response<Answer> {
    match router.oneshot(request.map(axum::body::Body::new)).await {
        Ok(response) => response.map(|body| Body::new(body).into()),
        Err(never) => match never {},
    }
}

async fn client_thread<A: Answers>(
    mut accepted: mpsc::UnboundedReceiver<Accepted>,
    answers: Arc<A>,
    metrics: Arc<Metrics>,
    options: ServeOptions,
    mut stopping: watch::Receiver<bool>,
) {
    let builder = Arc::new(connection_builder(options));
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            next = accepted.recv() => {
                let Some(accepted) = next else { break };
                let task = connection(
                    accepted,
                    Arc::clone(&answers),
                    Arc::clone(&builder),
                    Arc::clone(&metrics),
                    stopping.clone(),
                );
                connections.spawn(task);
            }
            // Takes finished ones off the books.
            _ = connections.join_next(), if !connections.is_empty() => {}
            () = stopped(&mut stopping) => break,
        }
    }
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN_TIMEOUT, drained).await.is_err() {
        tracing::warn!("open calls did not end in time and are cut off");
    }
}

fn connection_builder(options: ServeOptions) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIMEOUT)
        .max_buf_size(HTTP1_BUFFER_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(options.concurrent_streams_max)
        .max_pending_accept_reset_streams(PENDING_ACCEPT_RESET_STREAMS_MAX)
        .max_local_error_reset_streams(LOCAL_ERROR_RESET_STREAMS_MAX)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .keep_alive_interval(options.keepalive_interval)
        .keep_alive_timeout(options.keepalive_timeout);
    builder
}

/// Puts TLS around a connection that asks for it. `None`: it is none.
async fn secured(
    stream: Stream,
    security: Security,
    from: Option<SocketAddr>,
) -> Option<MaybeTls<Stream>> {
    let tls = match security {
        Security::Plain => return Some(MaybeTls::Plain(stream)),
        Security::Tls(tls) => tls,
        Security::Either(tls) => {
            let first = tokio::time::timeout(HANDSHAKE_TIMEOUT, stream.first_byte()).await;
            if first.ok()?.ok()? != TLS_FIRST_BYTE {
                return Some(MaybeTls::Plain(stream));
            }
            tls
        }
    };
    let from = from.map_or_else(|| "a unix socket".to_owned(), |from| from.to_string());
    tls.accept(stream, from).await
}

async fn connection<A: Answers>(
    accepted: Accepted,
    answers: Arc<A>,
    builder: Arc<auto::Builder<TokioExecutor>>,
    metrics: Arc<Metrics>,
    mut stopping: watch::Receiver<bool>,
) {
    let Accepted { stream, from, content, security, stranger, permit: _permit } = accepted;
    let received = Arc::new(AtomicU64::new(0));
    let stream = match stream {
        Accept::Tcp(stream) => TcpStream::from_std(stream).map(Stream::Tcp),
        Accept::Unix(stream) => UnixStream::from_std(stream).map(Stream::Unix),
    };
    let Ok(stream) = stream else { return };
    let transport = match stranger {
        None => secured(stream, security, from).await,
        Some(mut stranger) => tokio::select! {
            secured = secured(stream, security, from) => secured,
            () = stranger.sent_away() => None,
            () = stopped(&mut stopping) => None,
        },
    };
    let Some(transport) = transport else { return };
    let io = Metered::new(transport, Arc::clone(&received), Arc::clone(&metrics));
    let service = service_fn(move |request| {
        let answers = Arc::clone(&answers);
        async move { Ok::<_, Infallible>(answers.answer(content, request).await) }
    });
    metrics.client_connections.inc();
    let mut served = pin!(builder.serve_connection(TokioIo::new(io), service));
    let mut first_bytes = pin!(tokio::time::sleep(FIRST_BYTES_TIMEOUT));
    let mut is_silent = true;
    // How a connection ends is the client's affair; errors are those of broken connections.
    loop {
        tokio::select! {
            result = served.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%error, "connection ended");
                }
                break;
            }
            () = first_bytes.as_mut(), if is_silent => {
                if received.load(Ordering::Relaxed) < FIRST_BYTES_MIN {
                    break;
                }
                is_silent = false;
            }
            () = stopped(&mut stopping) => {
                served.as_mut().graceful_shutdown();
                // The thread gives up on us if this takes too long.
                let _ = served.await;
                break;
            }
        }
    }
    metrics.client_connections.dec();
}
