//! Sockets: binding them, accepting connections, and sharing these out among the client threads.
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

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
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
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tonic::body::Body;
use tower::ServiceExt;

use crate::api::Shared;
use crate::api::front::Front;
use crate::api::unary::Answer;
use crate::config::{Address, Config, Url};
use crate::door::Door;
use crate::http::{client_router, control_router, metrics_router};
use crate::metrics::Metrics;
use crate::shutdown::stopped;
use crate::strangers::{Stranger, Strangers};
use crate::tls::{HANDSHAKE_TIMEOUT, MaybeTls, Tls};
use io_meter::{Metered, Socket as Stream};

/// Connections the kernel keeps until they are accepted.
const BACKLOG: i32 = 4_096;
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

/// A socket that cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("--{flag} {url}: listen {network} {address}: bind: {reason}")]
pub struct BindError {
    flag: &'static str,
    url: String,
    network: &'static str,
    address: String,
    reason: String,
}

/// What is served on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// gRPC and pages.
    All,
    /// gRPC alone.
    Grpc,
    /// Pages alone.
    Pages,
    /// Metrics and health alone.
    Metrics,
    /// What only the owner of the data directory may ask for.
    Control,
}

#[derive(Debug)]
enum Listening {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener, SocketFile),
}

/// The name of a Unix socket, which goes when the listener goes.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What is spoken below HTTP.
#[derive(Clone, Debug)]
enum Security {
    Plain,
    Tls(Arc<Tls>),
    /// Whatever the caller begins with.
    Either(Arc<Tls>),
}

/// One bound socket.
#[derive(Debug)]
pub struct Listener {
    content: Content,
    urls: Vec<Url>,
    listening: Listening,
    security: Security,
}

impl Listener {
    /// The URLs it was bound for: two if both `http` and `https` are asked for on one address.
    pub fn urls(&self) -> &[Url] {
        &self.urls
    }

    /// What is served on it.
    pub fn content(&self) -> Content {
        self.content
    }

    /// The address really bound, which tells the port when port 0 was asked for.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match &self.listening {
            Listening::Tcp(listener) => listener.local_addr().ok(),
            Listening::Unix(..) => None,
        }
    }
}

impl Listener {
    /// Whether a URL asks for the same port, with TLS where this has none or the other way round.
    fn is_twin_of(&self, url: &Url) -> bool {
        let (own, twin) = (&self.urls[0], url);
        let same_port = own.port() == twin.port() && own.port() != 0 && own.host() == twin.host();
        same_port && self.urls.len() == 1 && own.is_tls() != twin.is_tls()
    }

    fn serve_both(&mut self, url: &Url, tls: Option<&Arc<Tls>>) {
        self.urls.push(url.clone());
        if let Some(tls) = tls {
            self.security = Security::Either(Arc::clone(tls));
        }
    }
}

/// Options of the sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct SocketOptions {
    /// Set SO_REUSEPORT.
    pub reuse_port: bool,
}

/// Binds every URL clients may come to. Nothing is accepted yet. `tls` is needed for those that ask
/// for it.
pub fn bind_all(config: &Config, tls: Option<&Arc<Tls>>) -> Result<Vec<Listener>, BindError> {
    let options = SocketOptions { reuse_port: config.socket_reuse_port };
    let grpc = if config.listen_client_http_urls.is_empty() { Content::All } else { Content::Grpc };
    let mut listeners: Vec<Listener> = Vec::new();
    for (flag, content, urls) in [
        ("listen-client-urls", grpc, &config.listen_client_urls),
        ("listen-client-http-urls", Content::Pages, &config.listen_client_http_urls),
        ("listen-metrics-urls", Content::Metrics, &config.listen_metrics_urls),
    ] {
        for url in urls {
            match listeners.iter_mut().find(|it| it.content == content && it.is_twin_of(url)) {
                Some(twin) => twin.serve_both(url, tls),
                None => listeners.push(bind(flag, content, url, options, tls)?),
            }
        }
    }
    Ok(listeners)
}

fn bind(
    flag: &'static str,
    content: Content,
    url: &Url,
    options: SocketOptions,
    tls: Option<&Arc<Tls>>,
) -> Result<Listener, BindError> {
    let refused = |network, address: String, error: &io::Error| {
        // The operating system's text without Rust's number behind it.
        let text = error.to_string();
        let text = text.split(" (os error").next().unwrap_or_default();
        let reason = text.chars().take(1).flat_map(char::to_lowercase).chain(text.chars().skip(1));
        BindError { flag, url: url.to_string(), network, address, reason: reason.collect() }
    };
    let security = match (url.is_tls(), tls) {
        (false, _) => Security::Plain,
        (true, Some(tls)) => Security::Tls(Arc::clone(tls)),
        (true, None) => {
            let error = io::Error::other("no certificate is given");
            return Err(refused("tcp", url.host().to_owned(), &error));
        }
    };
    let address = url.bind_address().map_err(|e| refused("tcp", url.host().to_owned(), &e))?;
    let listening = match address {
        Address::Tcp(address) => bind_tcp(address, options)
            .map(Listening::Tcp)
            .map_err(|e| refused("tcp", address.to_string(), &e))?,
        Address::Unix(path) => bind_unix(&path)
            .map(|listener| Listening::Unix(listener, SocketFile(path.clone())))
            .map_err(|e| refused("unix", path.display().to_string(), &e))?,
    };
    Ok(Listener { content, urls: vec![url.clone()], listening, security })
}

/// Binds the socket that only whoever may read the data directory can reach.
pub(crate) fn bind_control(path: &Path) -> Result<Listener, BindError> {
    let url = Url::unix(path);
    let listener = bind("data-dir", Content::Control, &url, SocketOptions::default(), None)?;
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(path, private).map_err(|error| BindError {
        flag: "data-dir",
        url: url.to_string(),
        network: "unix",
        address: path.display().to_string(),
        reason: error.to_string(),
    })?;
    Ok(listener)
}

#[cfg(test)]
pub(crate) fn bind_for_test(content: Content, url: &Url) -> Result<Listener, BindError> {
    bind("listen-client-urls", content, url, SocketOptions::default(), None)
}

/// Binds one TCP address. Like Go, it sets SO_REUSEADDR always, so that a restart need not wait for
/// old connections; so `--socket-reuse-address` finds its wish fulfilled.
pub fn bind_tcp(address: SocketAddr, options: SocketOptions) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if options.reuse_port {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() && address.ip().is_unspecified() {
        // "[::]" means every address, those of IPv4 too.
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn bind_unix(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    // A socket somebody left behind would be in the way for ever. Anything else stays where it is.
    let is_stale = std::fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_socket())
        && std::os::unix::net::UnixStream::connect(path).is_err();
    if is_stale {
        std::fs::remove_file(path)?;
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).expect("a URL")
    }

    #[test]
    fn a_port_in_use_is_refused_in_etcds_words() {
        let first = bind_for_test(Content::All, &url("http://127.0.0.1:0")).expect("bound");
        let address = first.tcp_address().expect("an address");
        let second = bind_for_test(Content::All, &url(&format!("http://{address}")));
        assert_eq!(
            second.expect_err("in use").to_string(),
            format!(
                "--listen-client-urls http://{address}: listen tcp {address}: bind: \
                 address already in use"
            )
        );
    }

    #[test]
    fn a_stale_unix_socket_is_replaced_and_nothing_else_is() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("socket");
        let socket = url(&format!("unix://{}", path.display()));
        // Dropped without its name being removed, as by kill -9.
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
        let first = bind_for_test(Content::All, &socket).expect("the stale one is replaced");
        let error = bind_for_test(Content::All, &socket).expect_err("in use").to_string();
        assert!(error.ends_with("bind: address already in use"), "{error}");
        drop(first);
        assert!(!path.exists(), "the name goes with the listener");
        std::fs::write(&path, "precious").expect("written");
        bind_for_test(Content::All, &socket).expect_err("in the way");
        assert_eq!(std::fs::read(&path).expect("still there"), b"precious");
    }

    #[test]
    fn every_url_is_bound_for_what_it_serves() {
        let any = |content: &[(&str, &str)]| {
            let mut config = Config::defaults();
            for (flag, text) in content {
                let urls = vec![url(text)];
                match *flag {
                    "client" => config.listen_client_urls = urls,
                    "http" => config.listen_client_http_urls = urls,
                    _ => config.listen_metrics_urls = urls,
                }
            }
            let bound = bind_all(&config, None).expect("bound");
            bound.iter().map(|listener| listener.content).collect::<Vec<_>>()
        };
        let port = "http://127.0.0.1:0";
        let shared = any(&[("client", port), ("metrics", "http://[::1]:0")]);
        assert_eq!(shared, [Content::All, Content::Metrics]);
        let split = any(&[("client", port), ("http", port)]);
        assert_eq!(split, [Content::Grpc, Content::Pages]);
    }
}
