//! Watches that survive the connection they run on.
//!
//! A watch is one stream on the wire and one position in the history: `next_revision`. Every batch
//! moves the position behind its last event, a progress notification moves it behind the header's
//! revision. When the stream fails, the watch is created again at the position, on whichever member
//! can be reached; events below it are dropped. So no event is delivered twice and none is left out,
//! or the watch says that it is over: with [`Error::Compacted`] if the position is no longer kept.
//!
//! Nothing runs in the background. [`Watch::next`] does all the work, an answer not asked for waits
//! in the connection's window, and a slow reader slows only its own stream.

use std::time::Duration;

use futures::Stream;
use proto::etcdserverpb::watch_create_request::FilterType;
use proto::etcdserverpb::watch_request::RequestUnion;
use proto::etcdserverpb::{WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::Client;
use crate::call::{Answers, Method, Route};
use crate::config::STREAM_REQUESTS_MAX;
use crate::error::{Error, Result};
use crate::kv::KeyRange;

const WATCH: Method<WatchRequest, WatchResponse> = Method::read("/etcdserverpb.Watch/Watch");

/// A stream that lived so long failed on its own account, not for the reason of the one before.
const STREAM_STOOD: Duration = Duration::from_secs(5);

/// What to watch.
#[derive(Clone, Debug, Default)]
pub struct WatchOf(WatchCreateRequest);

impl WatchOf {
    /// A key, or a [`KeyRange`].
    pub fn new(range: impl Into<KeyRange>) -> Self {
        let KeyRange { key, range_end } = range.into();
        WatchOf(WatchCreateRequest { key, range_end, ..WatchCreateRequest::default() })
    }

    /// From this revision on, which may lie in the past or in the future. 0: from now on.
    pub fn start_revision(mut self, revision: i64) -> Self {
        self.0.start_revision = revision;
        self
    }

    /// Each event carries the pair that was there before.
    pub fn prev_kv(mut self) -> Self {
        self.0.prev_kv = true;
        self
    }

    /// The server says now and then how far it is when there is nothing else to say.
    pub fn progress_notify(mut self) -> Self {
        self.0.progress_notify = true;
        self
    }

    /// Without events of this kind.
    pub fn without(mut self, kind: FilterType) -> Self {
        self.0.filters.push(kind.into());
        self
    }
}

impl From<WatchOf> for WatchCreateRequest {
    fn from(of: WatchOf) -> Self {
        of.0
    }
}

/// An ongoing watch.
#[derive(Debug)]
pub struct Watch {
    route: Route,
    /// As asked for; `start_revision` is the position once that is known.
    create: WatchCreateRequest,
    open: Option<Open>,
    /// Streams that ended early, one after the other.
    failures: u32,
    /// Why there will be no more events.
    over: Option<Error>,
}

#[derive(Debug)]
struct Open {
    answers: Answers<WatchResponse>,
    requests: mpsc::Sender<WatchRequest>,
    since: Instant,
}

impl Client {
    /// Starts a watch; returns when the server has taken it on.
    ///
    /// ```no_run
    /// # async fn example(client: client::Client) -> client::Result<()> {
    /// use client::{KeyRange, WatchOf};
    /// let mut watch = client.watch(WatchOf::new(KeyRange::prefix("app/"))).await?;
    /// loop {
    ///     for event in watch.next().await?.events {
    ///         println!("{event:?}");
    ///     }
    /// }
    /// # }
    /// ```
    pub async fn watch(&self, create: impl Into<WatchCreateRequest>) -> Result<Watch> {
        let mut create = create.into();
        if create.fragment {
            return Err(Error::Request { problem: "a watch that resumes cannot take fragments" });
        }
        // Each watch has a stream of its own, so an id of the caller's choice has no use.
        create.watch_id = 0;
        let route = self.route.clone();
        let mut watch = Watch { route, create, open: None, failures: 0, over: None };
        watch.ensure_open().await?;
        Ok(watch)
    }
}

impl Watch {
    /// The next batch of events, or a progress notification (no events, only a header).
    ///
    /// After an error of code `Unavailable` or `DeadlineExceeded` it may be called again and goes
    /// on from the same position. Any other error is final and is returned again. Cancel safe.
    pub async fn next(&mut self) -> Result<WatchResponse> {
        loop {
            self.ensure_open().await?;
            let open = self.open.as_mut().expect("ensured above");
            match open.answers.next().await {
                Ok(Some(response)) => {
                    if let Some(response) = self.take(response)? {
                        return Ok(response);
                    }
                }
                Ok(None) => self.stream_ended(None)?,
                Err(error) => self.stream_ended(Some(error))?,
            }
        }
    }

    /// The revision of the first event not yet delivered: where a new watch would go on.
    pub fn next_revision(&self) -> i64 {
        self.create.start_revision
    }

    /// Whether there will be no more events.
    pub fn is_over(&self) -> bool {
        self.over.is_some()
    }

    /// Asks how far the watch is; the answer comes from [`Watch::next`] as a batch without events.
    pub async fn request_progress(&mut self) -> Result<()> {
        self.ensure_open().await?;
        let open = self.open.as_mut().expect("ensured above");
        let ask = RequestUnion::ProgressRequest(WatchProgressRequest {});
        // A stream that ended in the meantime is found and made again by `next`.
        let _sent = open.requests.send(WatchRequest { request_union: Some(ask) }).await;
        Ok(())
    }

    /// The same as a stream. It ends after a final error.
    pub fn into_stream(self) -> impl Stream<Item = Result<WatchResponse>> {
        futures::stream::unfold(Some(self), |watch| async {
            let mut watch = watch?;
            let item = watch.next().await;
            let rest = (!watch.is_over()).then_some(watch);
            Some((item, rest))
        })
    }

    async fn ensure_open(&mut self) -> Result<()> {
        let policy = self.route.caller.config.retry;
        while self.open.is_none() {
            if let Some(over) = &self.over {
                return Err(over.clone());
            }
            if self.failures > 0 {
                tokio::time::sleep(policy.pause_with_jitter(self.failures)).await;
            }
            match self.create().await {
                Ok(open) => self.open = Some(open),
                Err(error) => self.stream_ended(Some(error))?,
            }
        }
        Ok(())
    }

    /// One attempt to have a stream with the watch created on it. Moves the position only in its
    /// last, synchronous step.
    async fn create(&mut self) -> Result<Open> {
        let patience = self.route.caller.config.request_timeout;
        let since = Instant::now();
        let mut requests = None;
        let mut answers = self
            .route
            .stream(&WATCH, || {
                let (send, receive) = mpsc::channel(STREAM_REQUESTS_MAX);
                let create = RequestUnion::CreateRequest(self.create.clone());
                send.try_send(WatchRequest { request_union: Some(create) })
                    .expect("a new channel has room for one request");
                requests = Some(send);
                ReceiverStream::new(receive)
            })
            .await?;
        let first = tokio::time::timeout_at(since + patience, answers.next())
            .await
            .unwrap_or(Err(Error::Deadline { after: patience, sent: true }))?;
        let broken = |what: &str| Error::Protocol {
            endpoint: answers.endpoint.clone(),
            what: what.to_owned(),
        };
        let Some(first) = first else {
            return Err(Error::ConnectionLost {
                endpoint: answers.endpoint.clone(),
                reason: "the stream ended before the watch was created".into(),
            });
        };
        if first.canceled {
            return Err(canceled(first));
        }
        if !first.created {
            return Err(broken("a watch stream began without its creation"));
        }
        if self.create.start_revision == 0 {
            let header =
                first.header.ok_or_else(|| broken("a watch was created without header"))?;
            self.create.start_revision = header.revision + 1;
        }
        let requests = requests.expect("the stream was opened with it");
        Ok(Open { answers, requests, since })
    }

    /// Takes in one answer of the stream; `None` if it holds nothing new for the caller.
    fn take(&mut self, mut response: WatchResponse) -> Result<Option<WatchResponse>> {
        if response.canceled {
            return Err(self.finish(canceled(response)));
        }
        if response.created {
            return Ok(None);
        }
        let position = self.create.start_revision;
        if response.events.is_empty() {
            // Progress: everything up to the header's revision has been delivered.
            let reached = response.header.as_ref().map_or(0, |header| header.revision);
            self.create.start_revision = position.max(reached + 1);
            return Ok(Some(response));
        }
        let revision_of =
            |event: &proto::mvccpb::Event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
        response.events.retain(|event| revision_of(event) >= position);
        let Some(last) = response.events.last() else { return Ok(None) };
        self.create.start_revision = revision_of(last) + 1;
        Ok(Some(response))
    }

    /// The stream is gone, or could not be had. Fails if the watch is over or patience is.
    fn stream_ended(&mut self, error: Option<Error>) -> Result<()> {
        let stood = self.open.take().is_some_and(|open| open.since.elapsed() >= STREAM_STOOD);
        let error = match error {
            // The member ended the stream in order, as it does when it stops.
            None => Error::Answered { code: Code::Unavailable, message: "stream ended".into() },
            Some(error) => error,
        };
        match error.code() {
            Code::Unavailable | Code::Internal | Code::DeadlineExceeded => {}
            _ => return Err(self.finish(error)),
        }
        self.failures = if stood { 1 } else { self.failures + 1 };
        if self.failures >= self.route.caller.config.retry.attempts_max {
            self.failures = 0;
            return Err(error);
        }
        Ok(())
    }

    fn finish(&mut self, error: Error) -> Error {
        self.open = None;
        self.over = Some(error.clone());
        error
    }
}

fn canceled(response: WatchResponse) -> Error {
    match response.compact_revision {
        0 => Error::WatchCanceled { reason: response.cancel_reason },
        compact_revision => Error::Compacted { compact_revision },
    }
}
