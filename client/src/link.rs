//! One HTTP/2 connection to one member, made on demand and made again when it is gone.
//!
//! tonic's own channel hides whether a failed request had left the process. Everything about
//! retrying a write hangs on that, so requests go straight to hyper here: its `try_send_request`
//! hands the request back exactly when no byte of it was written.

use std::future::Future;
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tonic::body::Body;
use tonic::client::GrpcService;

use crate::config::{CONNECTION_WINDOW_BYTES, Config, STREAM_WINDOW_BYTES};
use crate::endpoint::Endpoint;
use crate::error::{Error, Result};
use crate::tls::{self, Ready};

/// For so long after a failed dial the other endpoints are asked first.
const AVOID_AFTER_FAILURE: Duration = Duration::from_secs(2);

/// A member and the connection to it, shared by all calls.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) endpoint: Endpoint,
    tls: Option<Ready>,
    state: Mutex<State>,
    /// Held while dialling, so that callers who find no connection dial once together.
    dialling: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    sender: Option<SendRequest<Body>>,
    failed_at: Option<Instant>,
}

impl Link {
    pub(crate) fn new(endpoint: Endpoint, tls: Option<Ready>) -> Self {
        Link { endpoint, tls, state: Mutex::default(), dialling: tokio::sync::Mutex::new(()) }
    }

    /// Whether dialling it failed so recently that others should be asked first.
    pub(crate) fn avoided(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.failed_at.is_some_and(|at| at.elapsed() < AVOID_AFTER_FAILURE)
    }

    /// A way to send requests: over the connection that stands, or over a new one.
    pub(crate) async fn wire(&self, config: &Config) -> Result<Wire> {
        if let Some(wire) = self.standing() {
            return Ok(wire);
        }
        let _dialling = self.dialling.lock().await;
        // Someone else may have dialled while this caller waited for its turn.
        if let Some(wire) = self.standing() {
            return Ok(wire);
        }
        let dialled = tokio::time::timeout(config.connect_timeout, self.dial(config)).await;
        let outcome = match dialled {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no connection within {:?}", config.connect_timeout)),
        };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(sender) => {
                *state = State { sender: Some(sender.clone()), failed_at: None };
                Ok(Wire { sender })
            }
            Err(reason) => {
                *state = State { sender: None, failed_at: Some(Instant::now()) };
                Err(Error::Unreachable { endpoint: self.endpoint.text.clone(), reason })
            }
        }
    }

    fn standing(&self) -> Option<Wire> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = state.sender.as_ref().filter(|sender| !sender.is_closed())?;
        Some(Wire { sender: sender.clone() })
    }

    async fn dial(&self, config: &Config) -> std::result::Result<SendRequest<Body>, String> {
        let stream = tls::dial(&self.endpoint, self.tls.as_ref()).await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .keep_alive_interval(config.keepalive_interval)
            .keep_alive_timeout(config.keepalive_timeout)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| chain(&error))?;
        // Ends by itself when the last sender is dropped or the peer is gone.
        drop(tokio::spawn(connection));
        Ok(sender)
    }
}

/// The service tonic's client code speaks through.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    sender: SendRequest<Body>,
}

/// A request that failed on the connection, as opposed to one the server answered.
#[derive(Debug)]
pub(crate) struct WireError {
    pub(crate) never_sent: bool,
    source: hyper::Error,
}

impl std::fmt::Display for WireError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&chain(&self.source))
    }
}

impl std::error::Error for WireError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl GrpcService<Body> for Wire {
    type ResponseBody = Incoming;
    type Error = WireError;
    type Future = Pin<
        Box<dyn Future<Output = std::result::Result<http::Response<Incoming>, WireError>> + Send>,
    >;

    // Readiness is part of the call, so that its failure says "never sent" too.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), WireError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answer = self.sender.try_send_request(request);
        Box::pin(async move {
            answer.await.map_err(|mut error| {
                let never_sent = error.take_message().is_some();
                WireError { never_sent, source: error.into_error() }
            })
        })
    }
}

/// An error and what caused it, in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !said.ends_with(&next) {
            said.push_str(": ");
            said.push_str(&next);
        }
        cause = error.source();
    }
    said
}
