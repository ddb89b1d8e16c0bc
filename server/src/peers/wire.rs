//! The one place where sockets, listeners and HTTP/2 connections between members are made.
//!
//! Two kinds of connection arrive on one port and must end up on different threads: the control
//! connection on the control thread, everything else on the bulk thread. Which it is has to be known
//! before HTTP/2 (and before TLS) begins, since a connection cannot be moved afterwards. So who dials
//! a control connection says so first, in a line that begins with a zero byte: no HTTP request and
//! no TLS handshake does. Then comes TLS, if the URL asks for it, on the thread the connection stays on. A control stream that comes without it is served all the same, by the bulk
//! thread.

use std::error::Error as StdError;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};

use super::PeersError;
use super::link::Lane;
use super::waits::{
    CALLER_TIMEOUT, CONNECT_TIMEOUT, FETCH_TIMEOUT, GREETING_TIMEOUT, KEEPALIVE_INTERVAL,
    KEEPALIVE_TIMEOUT,
};
use crate::config::{Address, Scheme, Url};
use crate::serve::{SocketOptions, bind_tcp};
use crate::strangers::Stranger;
use crate::tls::{MaybeTls, Speaks, Tls};

/// What a control connection begins with.
const CONTROL_PREFACE: &[u8] = b"\0metastore control\n";

/// HTTP/2 windows of bulk connections: 80 ms of 100 MB/s.
const BULK_STREAM_WINDOW_BYTES: u32 = 8 << 20;
const BULK_CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// HTTP/2 windows of control connections.
const CONTROL_WINDOW_BYTES: u32 = 1 << 20;
/// Largest HTTP/2 frame we ask for: few frames for much data.
const HTTP2_FRAME_BYTES_MAX: u32 = 1 << 20;
/// Streams on one connection; questions to the leader are one each.
const STREAMS_PER_CONNECTION_MAX: u32 = 1_024;
const HEADER_BYTES_MAX: u32 = 16 << 10;

/// Binds a URL. The error names it.
pub(super) fn bind(url: &Url) -> Result<StdListener, PeersError> {
    let address = match (url.scheme(), url.bind_address()) {
        (Scheme::Http | Scheme::Https, Ok(Address::Tcp(address))) => address,
        (Scheme::Http | Scheme::Https, Err(error)) => return Err(PeersError::bind(url, &error)),
        _ => return Err(PeersError::Scheme { url: url.to_string() }),
    };
    let bound = bind_tcp(address, SocketOptions::default());
    bound.map_err(|error| PeersError::bind(url, &error))
}

/// A connection to a peer.
#[derive(Debug)]
pub(super) struct Dialled {
    pub(super) channel: Channel,
    /// Where it leads.
    pub(super) address: Option<SocketAddr>,
}

/// Connects to a peer. The connection lives on the runtime this is called on.
pub(super) async fn dial(url: &Url, lane: Lane, tls: Option<&Arc<Tls>>) -> Result<Dialled, String> {
    // TLS is ours: what tonic is told is only what requests carry.
    let authority = url.to_string();
    let authority = authority.split_once("://").map_or("", |(_, authority)| authority);
    let origin = format!("http://{authority}").parse();
    let origin = origin.unwrap_or_else(|_| Uri::from_static("http://peer"));
    let (stream_window, connection_window) = match lane {
        Lane::Control => (CONTROL_WINDOW_BYTES, CONTROL_WINDOW_BYTES),
        Lane::Bulk | Lane::Snapshot => (BULK_STREAM_WINDOW_BYTES, BULK_CONNECTION_WINDOW_BYTES),
    };
    let endpoint = Endpoint::from(origin)
        .connect_timeout(GREETING_TIMEOUT)
        .initial_stream_window_size(stream_window)
        .initial_connection_window_size(connection_window)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .http2_max_header_list_size(HEADER_BYTES_MAX);
    let (to, tls) = (url.clone(), tls.cloned());
    let address = Arc::new(OnceLock::new());
    let found = Arc::clone(&address);
    let connector = tower::service_fn(move |_: Uri| {
        let (to, tls, found) = (to.clone(), tls.clone(), Arc::clone(&found));
        async move {
            let stream = connect(&to, lane, tls.as_ref(), Speaks::Http2).await?;
            if let Ok(address) = stream.below().peer_addr() {
                let _ = found.set(address);
            }
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    let channel = endpoint.connect_with_connector(connector).await;
    let channel = channel.map_err(|error| format!("{url}: {}", cause(&error)))?;
    Ok(Dialled { channel, address: address.get().copied() })
}

async fn connect(
    url: &Url,
    lane: Lane,
    tls: Option<&Arc<Tls>>,
    speaks: Speaks,
) -> io::Result<MaybeTls<TcpStream>> {
    let tls = match (url.scheme(), tls) {
        (Scheme::Http, _) => None,
        (Scheme::Https, Some(tls)) => Some(tls),
        (Scheme::Https, None) => {
            return Err(io::Error::other("this member has no --peer-cert-file to speak TLS with"));
        }
        _ => return Err(io::Error::other("members speak over TCP alone")),
    };
    let connecting = TcpStream::connect((url.host(), url.port()));
    let mut stream = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await??;
    set_options(&stream)?;
    if lane == Lane::Control {
        stream.write_all(CONTROL_PREFACE).await?;
    }
    match tls {
        Some(tls) => tls.connect(stream, url.host(), speaks).await,
        None => Ok(MaybeTls::Plain(stream)),
    }
}

/// A connection for one request of HTTP/1.
pub(super) async fn connect_for_page(
    url: &Url,
    tls: Option<&Arc<Tls>>,
) -> io::Result<MaybeTls<TcpStream>> {
    let connecting = connect(url, Lane::Bulk, tls, Speaks::Http1);
    tokio::time::timeout(FETCH_TIMEOUT, connecting).await?
}

fn set_options(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(KEEPALIVE_TIMEOUT))
}

/// Learns for which thread an accepted connection is.
pub(super) async fn lane_of(stream: &mut TcpStream) -> io::Result<Lane> {
    set_options(stream)?;
    let first = async {
        let mut first = [0];
        if stream.peek(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if first[0] != CONTROL_PREFACE[0] {
            return Ok(Lane::Bulk);
        }
        let mut preface = [0; CONTROL_PREFACE.len()];
        stream.read_exact(&mut preface).await?;
        if preface == *CONTROL_PREFACE {
            Ok(Lane::Control)
        } else {
            Err(io::Error::other("an unknown preface"))
        }
    };
    tokio::time::timeout(CALLER_TIMEOUT, first).await?
}

/// Who calls, as far as a connection shows.
#[derive(Debug, Default)]
pub(super) struct Caller {
    /// Set when a member has greeted.
    pub(super) is_known: AtomicBool,
    /// The certificate it has shown.
    pub(super) certificate: Option<CertificateDer<'static>>,
}

/// Serves an accepted connection until it ends. The caller becomes known to whoever answers when a
/// member has greeted on it; a connection on which none has is closed after a while, or when there are
/// too many of them, so that strangers hold neither descriptors nor windows.
pub(super) async fn serve<S, F>(
    stream: MaybeTls<TcpStream>,
    lane: Lane,
    caller: Arc<Caller>,
    mut stranger: Stranger,
    answer: S,
) where
    S: Fn(Request<Incoming>) -> F + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let (stream_window, connection_window) = match lane {
        Lane::Control => (CONTROL_WINDOW_BYTES, CONTROL_WINDOW_BYTES),
        Lane::Bulk | Lane::Snapshot => (BULK_STREAM_WINDOW_BYTES, BULK_CONNECTION_WINDOW_BYTES),
    };
    let service = service_fn(move |request| {
        let answer = answer(request);
        async move { Ok::<_, std::convert::Infallible>(answer.await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(CALLER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(stream_window)
        .initial_connection_window_size(connection_window)
        .max_frame_size(HTTP2_FRAME_BYTES_MAX)
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let deadline = tokio::time::sleep(CALLER_TIMEOUT);
    tokio::select! {
        // However it ends, the streams on it are told; there is nobody else to tell.
        ended = &mut connection => return drop(ended),
        () = deadline => {}
        () = stranger.sent_away() => {}
    }
    drop(stranger);
    if caller.is_known.load(Ordering::Relaxed) {
        drop(connection.await);
    }
}

/// The innermost cause of a network error: the outer ones say "transport error".
pub(super) fn cause(error: &(dyn StdError + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
