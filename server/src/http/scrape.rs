//! What a scrape is answered with, and what it may hold.
//!
//! A page of metrics is some 300 KB, made anew for each that asks, and kept until it has been read. So
//! there is a bound for how many are made and read at a time, and for how long one may be read; and who
//! takes gzip, as Prometheus does, is sent a tenth. The page leaves in pieces, so that what is not
//! read yet is held here, where it can be let go, and not by the connection.

use std::io::{self, Write as _};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;

use super::{METRICS, error, page};

/// Scrapes that are answered at a time, over all ports: Prometheus comes in pairs, and people look on.
pub(crate) const SCRAPES_MAX: usize = 16;
/// How long the answer to one may take to be read; Prometheus gives up after 10 s if nobody says otherwise.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes given to the connection at a time.
const PIECE_BYTES: usize = 16 << 10;

/// Answers a scrape with what `render` writes, or not at all if too many are under way.
pub(super) fn answer(
    scrapes: &Arc<Semaphore>,
    headers: &HeaderMap,
    render: impl FnOnce() -> String,
) -> Response {
    let Ok(permit) = Arc::clone(scrapes).try_acquire_owned() else {
        let why = format!("{SCRAPES_MAX} scrapes are under way, and that is the limit");
        return error(StatusCode::SERVICE_UNAVAILABLE, &why);
    };
    let text = render();
    let zipped = if takes_gzip(headers) { gzip(text.as_bytes()).ok() } else { None };
    let is_zipped = zipped.is_some();
    let content = zipped.unwrap_or_else(|| text.into_bytes()).into();
    let mut response = page(StatusCode::OK, METRICS, Body::new(Reading::new(content, permit)));
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    if is_zipped {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// Whether `Accept-Encoding` names gzip, and not with a weight of nothing.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter();
    values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).any(
        |coding| {
            let (name, parameters) = coding.split_once(';').unwrap_or((coding, ""));
            let weight = parameters.trim().strip_prefix("q=").map(str::parse::<f32>);
            name.trim().eq_ignore_ascii_case("gzip") && !matches!(weight, Some(Ok(0.0)))
        },
    )
}

/// At the fastest level: it takes a hundredth of the time that rendering does on the way to a tenth.
fn gzip(text: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(text.len() / 8), Compression::fast());
    encoder.write_all(text)?;
    encoder.finish()
}

/// What has not been read yet, and its place among the scrapes.
struct Unread {
    rest: Bytes,
    _permit: OwnedSemaphorePermit,
}

/// A page that is being read.
struct Reading {
    /// `None`: read, or let go.
    unread: Arc<Mutex<Option<Unread>>>,
    /// The timer that lets it go.
    timer: AbortHandle,
}

impl Reading {
    fn new(content: Bytes, permit: OwnedSemaphorePermit) -> Self {
        let unread = Arc::new(Mutex::new(Some(Unread { rest: content, _permit: permit })));
        let late = Arc::clone(&unread);
        // A connection nobody reads from does not ask for the next piece, so no look at a clock
        // when it does would be enough.
        let timer = tokio::spawn(async move {
            tokio::time::sleep(READ_TIMEOUT).await;
            late.lock().unwrap_or_else(PoisonError::into_inner).take();
        });
        Reading { unread, timer: timer.abort_handle() }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        // A task that is aborted is dropped some time later.
        self.unread.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.timer.abort();
    }
}

impl http_body::Body for Reading {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let mut unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(held) = unread.as_mut() else {
            return Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())));
        };
        if held.rest.is_empty() {
            return Poll::Ready(None);
        }
        let length = held.rest.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(held.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        let unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner);
        unread.as_ref().is_some_and(|held| held.rest.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        let unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner);
        unread
            .as_ref()
            .map_or_else(SizeHint::default, |held| SizeHint::with_exact(held.rest.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use http_body_util::BodyExt as _;

    use super::*;

    /// Longer than one piece, so that reading it has a middle.
    fn long() -> String {
        "etcd_server_has_leader 1\n".repeat(4 * PIECE_BYTES / 25)
    }

    fn asked_for(encoding: &str) -> HeaderMap {
        [(header::ACCEPT_ENCODING, HeaderValue::from_str(encoding).expect("a value"))]
            .into_iter()
            .collect()
    }

    #[tokio::test]
    async fn who_takes_gzip_is_sent_a_tenth_and_who_does_not_the_plain_page() {
        let scrapes = Arc::new(Semaphore::new(SCRAPES_MAX));
        for (encoding, zipped) in [
            ("gzip", true),
            ("deflate, GZIP;q=0.5", true),
            ("gzip;q=0", false),
            ("identity", false),
            ("", false),
        ] {
            let response = answer(&scrapes, &asked_for(encoding), long);
            let is_gzip = response.headers().get("content-encoding").is_some_and(|it| it == "gzip");
            assert_eq!(is_gzip, zipped, "{encoding}");
            assert_eq!(response.headers()["vary"], "Accept-Encoding");
            let body = response.into_body().collect().await.expect("read").to_bytes();
            let mut text = String::new();
            if zipped {
                assert!(body.len() < long().len() / 10, "{} bytes", body.len());
                let mut decoder = flate2::read::GzDecoder::new(&body[..]);
                decoder.read_to_string(&mut text).expect("gzip");
            } else {
                text = String::from_utf8(body.to_vec()).expect("UTF-8");
            }
            assert_eq!(text, long(), "{encoding}");
        }
    }

    #[tokio::test]
    async fn one_scrape_too_many_is_refused_in_one_line_until_another_has_been_read() {
        let scrapes = Arc::new(Semaphore::new(SCRAPES_MAX));
        let plain = HeaderMap::new();
        let mut open: Vec<_> = (0..SCRAPES_MAX).map(|_| answer(&scrapes, &plain, long)).collect();
        let refused = answer(&scrapes, &plain, || panic!("nothing is rendered for it"));
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        let why = refused.into_body().collect().await.expect("read").to_bytes();
        assert_eq!(why, "16 scrapes are under way, and that is the limit\n");
        let read = open.pop().expect("one").into_body().collect().await.expect("read").to_bytes();
        assert_eq!(read.len(), long().len());
        assert_eq!(answer(&scrapes, &plain, long).status(), StatusCode::OK);
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_that_is_not_read_in_time_is_let_go() {
        let scrapes = Arc::new(Semaphore::new(1));
        let slow = answer(&scrapes, &HeaderMap::new(), long);
        let mut body = slow.into_body();
        let first = body.frame().await.expect("a piece").expect("read");
        assert_eq!(first.into_data().expect("data").len(), PIECE_BYTES);
        assert_eq!(scrapes.available_permits(), 0);
        tokio::time::sleep(READ_TIMEOUT * 2).await;
        assert_eq!(scrapes.available_permits(), 1, "its place is free while it is still open");
        let late = body.frame().await.expect("an end").expect_err("too late");
        assert!(late.to_string().contains("timed out"), "{late}");
    }
}
