//! Calls for load generators, as cheap as HTTP/2 allows.
//!
//! The request is framed once, before the clock starts; the answer comes back as bytes that nobody
//! need decode. There is no retry and no deadline: a generator must see what happens. Connections
//! belong to the current-thread runtime that made them, so that many calls share one system call.
//! Unary calls go through a [`Caller`], messages both ways on one call through [`Connection::stream`].
//!
//! ```no_run
//! # async fn example() -> client::Result<()> {
//! use client::raw::{Connection, Method, frame};
//! let put = Method::new("/etcdserverpb.KV/Put");
//! let request = frame(&client::proto::etcdserverpb::PutRequest::default());
//! let mut connection = Connection::dial("127.0.0.1:2379").await?;
//! let answer = connection.unary(&put, request).await?;
//! # let _ = answer; Ok(()) }
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::header::{CONTENT_TYPE, HeaderValue, TE};
use http::{HeaderMap, Request, Uri};
use prost::Message;
use tonic::{Code, Status};

use crate::config::{CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES};
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::link::chain;
use crate::tls::{self, Tls};

/// gRPC's prefix of a message: a flag and a length.
const PREFIX_BYTES: usize = 5;
/// As much is set aside for an answer at once, whatever length its prefix claims.
const RESERVED_BYTES_MAX: usize = 4 << 20;
/// Largest page [`Connection::get`] takes.
const PAGE_BYTES_MAX: usize = 4 << 20;

/// A message with gRPC's prefix, ready to be sent any number of times.
pub fn frame(message: &impl Message) -> Bytes {
    let bytes = message.encoded_len();
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + bytes);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(bytes).expect("a request of less than 4 GiB"));
    message.encode(&mut frame).expect("the buffer grows");
    frame.freeze()
}

/// A method's path, checked once.
#[derive(Clone, Debug)]
pub struct Method {
    path: &'static str,
}

impl Method {
    /// Such as `/etcdserverpb.KV/Put`.
    pub const fn new(path: &'static str) -> Self {
        Method { path }
    }
}

/// One HTTP/2 connection. Clones share it.
#[derive(Clone, Debug)]
pub struct Connection {
    endpoint: Endpoint,
    sender: SendRequest<Bytes>,
}

/// One method on one connection, with everything about the request made beforehand.
#[derive(Clone, Debug)]
pub struct Caller {
    endpoint: String,
    sender: SendRequest<Bytes>,
    uri: Uri,
    headers: HeaderMap,
}

impl Connection {
    /// Connects; no deadline.
    pub async fn dial(endpoint: &str) -> Result<Self> {
        Self::dial_with(endpoint, None).await
    }

    /// Connects, with TLS if the endpoint asks for it; no deadline.
    pub async fn dial_with(endpoint: &str, tls: Option<&Tls>) -> Result<Self> {
        let endpoint = Endpoint::parse(endpoint, tls.is_some())?;
        let tls = tls.map(Tls::ready).transpose()?;
        let unreachable =
            |reason: String| Error::Unreachable { endpoint: endpoint.text.clone(), reason };
        let stream = tls::dial(&endpoint, tls.as_ref()).await.map_err(unreachable)?;
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .enable_push(false)
            .handshake(stream)
            .await
            .map_err(|error| unreachable(chain(&error)))?;
        // Ends when the connection does; the calls on it learn why.
        drop(tokio::spawn(connection));
        Ok(Connection { endpoint, sender })
    }

    /// Prepares calls of one method.
    pub fn caller(&self, method: &Method) -> Caller {
        let mut parts = self.endpoint.origin.clone().into_parts();
        parts.path_and_query = Some(http::uri::PathAndQuery::from_static(method.path));
        let mut headers = HeaderMap::with_capacity(2);
        let _none = headers.insert(TE, HeaderValue::from_static("trailers"));
        let _none = headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        Caller {
            endpoint: self.endpoint.text.clone(),
            sender: self.sender.clone(),
            uri: Uri::from_parts(parts).expect("an origin with a path is a URI"),
            headers,
        }
    }

    /// Opens a call whose messages go both ways. Nothing is awaited: servers answer the opening
    /// with their first message.
    pub async fn stream(&self, method: &Method) -> Result<(StreamSender, StreamReceiver)> {
        let mut caller = self.caller(method);
        let request = caller.request();
        let lost = |error: h2::Error| Error::ConnectionLost {
            endpoint: self.endpoint.text.clone(),
            reason: chain(&error),
        };
        std::future::poll_fn(|cx| caller.sender.poll_ready(cx)).await.map_err(lost)?;
        let (answer, body) = caller.sender.send_request(request, false).map_err(lost)?;
        let endpoint = &self.endpoint.text;
        Ok((
            StreamSender { endpoint: endpoint.clone(), body },
            StreamReceiver {
                endpoint: endpoint.clone(),
                state: Receiving::Head(answer),
                rest: Bytes::new(),
            },
        ))
    }

    /// An ordinary page of the server, such as `/metrics`. Servers without TLS may want HTTP/1 for
    /// that.
    pub async fn get(&self, path: &'static str) -> Result<Bytes> {
        let mut caller = self.caller(&Method::new(path));
        let mut request = caller.request();
        *request.method_mut() = http::Method::GET;
        request.headers_mut().clear();
        let endpoint = &self.endpoint.text;
        let lost = |error: h2::Error| Error::ConnectionLost {
            endpoint: endpoint.clone(),
            reason: chain(&error),
        };
        let broken = |what: String| Error::Protocol { endpoint: endpoint.clone(), what };
        std::future::poll_fn(|cx| caller.sender.poll_ready(cx)).await.map_err(lost)?;
        let (answer, _no_body) = caller.sender.send_request(request, true).map_err(lost)?;
        let (head, mut body) = answer.await.map_err(lost)?.into_parts();
        if head.status != http::StatusCode::OK {
            return Err(broken(format!("{path}: {}", head.status)));
        }
        let mut page = BytesMut::new();
        while let Some(piece) = body.data().await {
            let piece = piece.map_err(lost)?;
            body.flow_control().release_capacity(piece.len()).map_err(lost)?;
            if page.len() + piece.len() > PAGE_BYTES_MAX {
                return Err(broken(format!("{path}: more than {PAGE_BYTES_MAX} bytes")));
            }
            page.extend_from_slice(&piece);
        }
        Ok(page.freeze())
    }

    /// One call; [`Connection::caller`] is cheaper for many.
    pub async fn unary(&mut self, method: &Method, frame: Bytes) -> Result<Bytes> {
        self.caller(method).call(frame).await
    }
}

impl Caller {
    /// Sends one framed request and returns the answer's message without its prefix. With
    /// [`Error::Unreachable`] nothing of it was sent: the connection had been lost before.
    pub async fn call(&mut self, frame: Bytes) -> Result<Bytes> {
        let lost = |error: h2::Error| Error::ConnectionLost {
            endpoint: self.endpoint.clone(),
            reason: chain(&error),
        };
        let unsent = |error: h2::Error| Error::Unreachable {
            endpoint: self.endpoint.clone(),
            reason: chain(&error),
        };
        let request = self.request();
        std::future::poll_fn(|cx| self.sender.poll_ready(cx)).await.map_err(unsent)?;
        let (answer, mut body) = self.sender.send_request(request, false).map_err(unsent)?;
        body.send_data(frame, true).map_err(lost)?;
        let (head, mut body) = answer.await.map_err(lost)?.into_parts();
        if let Some(status) = Status::from_header_map(&head.headers) {
            return Err(answered(&status));
        }
        if head.status != http::StatusCode::OK {
            return Err(self.broken(&format!("HTTP status {}, which is not gRPC's", head.status)));
        }
        // Small answers come in one piece and are not copied.
        let (mut message, mut joined) = (Bytes::new(), BytesMut::new());
        while let Some(piece) = body.data().await {
            let piece = piece.map_err(lost)?;
            body.flow_control().release_capacity(piece.len()).map_err(lost)?;
            if message.is_empty() {
                message = piece;
                continue;
            }
            if joined.is_empty() {
                let bytes = claimed_bytes(&message).unwrap_or(0).min(RESERVED_BYTES_MAX);
                joined.reserve(bytes.max(message.len() + piece.len()));
                joined.extend_from_slice(&message);
            }
            joined.extend_from_slice(&piece);
        }
        if !joined.is_empty() {
            message = joined.freeze();
        }
        let trailers = body.trailers().await.map_err(lost)?.unwrap_or_default();
        // The common case is decided without making a status of it.
        if trailers.get("grpc-status").is_none_or(|code| code != "0") {
            return Err(match Status::from_header_map(&trailers) {
                Some(status) => answered(&status),
                None => self.broken("no grpc-status"),
            });
        }
        if message.len() < PREFIX_BYTES {
            return Err(self.broken("no message"));
        }
        Ok(message.slice(PREFIX_BYTES..))
    }

    fn request(&self) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        *request.version_mut() = http::Version::HTTP_2;
        request
    }

    fn broken(&self, what: &str) -> Error {
        Error::Protocol { endpoint: self.endpoint.clone(), what: what.to_owned() }
    }
}

/// The sending half of a call whose messages go both ways.
#[derive(Debug)]
pub struct StreamSender {
    endpoint: String,
    body: SendStream<Bytes>,
}

impl StreamSender {
    /// Sends framed messages, one or several behind each other. They wait in memory while the server
    /// takes none: the caller limits what is not answered.
    pub fn send(&mut self, frames: Bytes) -> Result<()> {
        self.body.send_data(frames, false).map_err(|error| Error::ConnectionLost {
            endpoint: self.endpoint.clone(),
            reason: chain(&error),
        })
    }
}

/// The receiving half.
#[derive(Debug)]
pub struct StreamReceiver {
    endpoint: String,
    state: Receiving,
    /// Bytes received behind the message returned last.
    rest: Bytes,
}

#[derive(Debug)]
enum Receiving {
    Head(ResponseFuture),
    Body(RecvStream),
}

impl StreamReceiver {
    /// The next message without its prefix; `None`: the server ended the call well. A call of this
    /// that is dropped before it returns loses nothing.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        let endpoint = &self.endpoint;
        let lost = |error: h2::Error| Error::ConnectionLost {
            endpoint: endpoint.clone(),
            reason: chain(&error),
        };
        if let Receiving::Head(head) = &mut self.state {
            let (head, body) = head.await.map_err(lost)?.into_parts();
            if let Some(status) = Status::from_header_map(&head.headers) {
                return Err(answered(&status));
            }
            self.state = Receiving::Body(body);
        }
        let Receiving::Body(body) = &mut self.state else {
            unreachable!("the head has been received")
        };
        loop {
            if let Some(bytes) = claimed_bytes(&self.rest)
                && self.rest.len() >= bytes
            {
                return Ok(Some(self.rest.split_to(bytes).slice(PREFIX_BYTES..)));
            }
            let Some(piece) = body.data().await else { break };
            let piece = piece.map_err(lost)?;
            body.flow_control().release_capacity(piece.len()).map_err(lost)?;
            self.rest =
                if self.rest.is_empty() { piece } else { [&self.rest[..], &piece].concat().into() };
        }
        let trailers = body.trailers().await.map_err(lost)?.unwrap_or_default();
        match Status::from_header_map(&trailers) {
            Some(status) if status.code() == Code::Ok => Ok(None),
            Some(status) => Err(answered(&status)),
            None => Err(Error::Protocol {
                endpoint: endpoint.clone(),
                what: "no grpc-status".to_owned(),
            }),
        }
    }
}

/// The bytes of the first message and its prefix, as that claims.
fn claimed_bytes(received: &[u8]) -> Option<usize> {
    let length = received.get(1..PREFIX_BYTES)?.first_chunk()?;
    Some(PREFIX_BYTES + u32::from_be_bytes(*length) as usize)
}

fn answered(status: &Status) -> Error {
    let code = if status.code() == Code::Ok { Code::Internal } else { status.code() };
    Error::Answered { code, message: status.message().to_owned() }
}
