//! `metastore pre-stop`: what Kubernetes runs in the container before it stops the member.
//!
//! It asks the member in the same data directory, through the control socket, to hand the leadership
//! over if it has it, and waits until another leads, bounded. It never removes the member. kubelet
//! goes on whatever comes of it, and SIGTERM does the same again; a failure is said on standard error
//! and by exit code 1, for kubelet to put into an event.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::http::{ASK_HAND_OVER, HandOverAnswer};

/// Beyond what the member is given, so much longer is waited for its answer.
const GRACE: Duration = Duration::from_secs(1);
/// Largest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Asks the member behind a socket to hand the leadership over. What came of it, or why nothing did.
pub fn run(socket: &PathBuf, timeout: Duration) -> Result<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let patience = timeout.saturating_add(GRACE);
    runtime
        .block_on(async { tokio::time::timeout(patience, ask(socket, timeout)).await })
        .unwrap_or_else(|_| Err(format!("no answer within {patience:?}")))
        .map_err(|why| format!("pre-stop: {}: {why}", socket.display()))
}

async fn ask(socket: &PathBuf, timeout: Duration) -> Result<String, String> {
    let stream = UnixStream::connect(socket).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
            "no member runs on this data directory".to_owned()
        }
        _ => error.to_string(),
    })?;
    let (mut requests, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    // It ends with this process.
    drop(tokio::spawn(connection));
    let uri = format!("{ASK_HAND_OVER}?timeout_ms={}", timeout.as_millis());
    let request =
        Request::post(uri).header(http::header::HOST, "control").body(Empty::<Bytes>::new());
    let request = request.map_err(|error| error.to_string())?;
    let response = requests.send_request(request).await.map_err(|error| error.to_string())?;
    let is_done = response.status().is_success();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| error.to_string())?.to_bytes();
    let answer: HandOverAnswer = serde_json::from_slice(&body).map_err(|_| {
        format!("an answer that makes no sense: {:?}", String::from_utf8_lossy(&body))
    })?;
    if is_done { Ok(answer.outcome) } else { Err(answer.outcome) }
}
