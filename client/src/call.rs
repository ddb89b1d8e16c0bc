//! How every call is made: which endpoint, how often, until when.
//!
//! Calls go round robin over the endpoints. A failure that may be repeated (see
//! [`RetryPolicy`](crate::RetryPolicy)) moves to the next endpoint at once; only a full round that
//! failed is followed by a pause. All attempts share one deadline.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::uri::PathAndQuery;
use prost::Message;
use tokio::time::Instant;
use tonic::client::Grpc;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::config::{ANSWER_BYTES_MAX, Config, RetryPolicy};
use crate::error::{Error, LEARNER_REFUSES, Result};
use crate::link::{Link, Wire, WireError, chain};

/// Whether carrying a call out twice can be told from carrying it out once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// Changes nothing.
    Read,
    /// Changes something: repeated only if it never left.
    Write,
}

/// A gRPC method with its types and its repeatability.
pub(crate) struct Method<Q, A> {
    path: &'static str,
    repeat: Repeat,
    types: PhantomData<fn(Q) -> A>,
}

impl<Q, A> Method<Q, A> {
    pub(crate) const fn read(path: &'static str) -> Self {
        Method { path, repeat: Repeat::Read, types: PhantomData }
    }

    pub(crate) const fn write(path: &'static str) -> Self {
        Method { path, repeat: Repeat::Write, types: PhantomData }
    }

    fn path(&self) -> PathAndQuery {
        PathAndQuery::from_static(self.path)
    }
}

/// What all handles of one client share.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) config: Config,
    pub(crate) links: Vec<Link>,
    /// Where the next call's round begins.
    turn: AtomicUsize,
}

/// The endpoints one handle may use.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) caller: Arc<Caller>,
    /// Index into the links; `None`: any.
    pub(crate) only: Option<usize>,
}

impl Caller {
    pub(crate) fn new(config: Config) -> Result<Self> {
        let tls = config.ready_tls()?;
        let endpoints = config.parse()?.into_iter();
        let links = endpoints.map(|endpoint| Link::new(endpoint, tls.clone())).collect();
        Ok(Caller { config, links, turn: AtomicUsize::new(0) })
    }
}

impl Route {
    /// The endpoints of one call in the order in which they are tried: round robin, those that
    /// could not be reached a moment ago last.
    fn round(&self) -> Vec<&Link> {
        let links = &self.caller.links;
        if let Some(only) = self.only {
            return vec![&links[only]];
        }
        let first = self.caller.turn.fetch_add(1, Ordering::Relaxed) % links.len();
        let mut round: Vec<&Link> = links.iter().collect();
        round.rotate_left(first);
        round.sort_by_key(|link| link.avoided());
        round
    }

    /// One request, one answer.
    pub(crate) async fn unary<Q, A>(&self, method: &Method<Q, A>, message: Q) -> Result<A>
    where
        Q: Message + Clone + Sync + 'static,
        A: Message + Default + Sync + 'static,
    {
        let mut attempts = self.attempts(method.repeat);
        loop {
            let attempt = async {
                let mut grpc = self.grpc(attempts.link(), attempts.deadline).await?;
                let mut request = Request::new(message.clone());
                request.set_timeout(attempts.deadline.saturating_duration_since(Instant::now()));
                let call = grpc.unary(request, method.path(), ProstCodec::default());
                self.answer(&attempts, call).await
            };
            match attempt.await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(error) => attempts.failed(error).await?,
            }
        }
    }

    /// One request, many answers. Returns when the server has accepted the request; the deadline
    /// covers only that.
    pub(crate) async fn answers<Q, A>(
        &self,
        method: &Method<Q, A>,
        message: Q,
    ) -> Result<Answers<A>>
    where
        Q: Message + Clone + Sync + 'static,
        A: Message + Default + Sync + 'static,
    {
        let mut attempts = self.attempts(method.repeat);
        loop {
            let attempt = async {
                let mut grpc = self.grpc(attempts.link(), attempts.deadline).await?;
                let request = Request::new(message.clone());
                let call = grpc.server_streaming(request, method.path(), ProstCodec::default());
                self.answer(&attempts, call).await
            };
            match attempt.await {
                Ok(answer) => return Ok(Answers::new(attempts.link(), answer.into_inner())),
                Err(error) => attempts.failed(error).await?,
            }
        }
    }

    /// A stream in both directions. `open` makes the requests of one attempt; it must hold the
    /// first one ready, since servers accept a stream only with their first answer.
    pub(crate) async fn stream<Q, A, S>(
        &self,
        method: &Method<Q, A>,
        mut open: impl FnMut() -> S + Send,
    ) -> Result<Answers<A>>
    where
        Q: Message + Sync + 'static,
        A: Message + Default + Sync + 'static,
        S: futures::Stream<Item = Q> + Send + 'static,
    {
        let mut attempts = self.attempts(method.repeat);
        loop {
            let mut request = Request::new(open());
            if self.caller.config.require_leader {
                let yes = MetadataValue::from_static("true");
                let _earlier = request.metadata_mut().insert("hasleader", yes);
            }
            let attempt = async {
                let mut grpc = self.grpc(attempts.link(), attempts.deadline).await?;
                let call = grpc.streaming(request, method.path(), ProstCodec::default());
                self.answer(&attempts, call).await
            };
            match attempt.await {
                Ok(answer) => return Ok(Answers::new(attempts.link(), answer.into_inner())),
                Err(error) => attempts.failed(error).await?,
            }
        }
    }

    fn attempts(&self, repeat: Repeat) -> Attempts<'_> {
        Attempts {
            policy: self.caller.config.retry,
            deadline: Instant::now() + self.caller.config.request_timeout,
            round: self.round(),
            repeat,
            made: 0,
        }
    }

    async fn answer<T>(
        &self,
        attempts: &Attempts<'_>,
        call: impl Future<Output = std::result::Result<T, Status>>,
    ) -> Result<T> {
        match tokio::time::timeout_at(attempts.deadline, call).await {
            Ok(answer) => answer.map_err(|status| failure(&attempts.link().endpoint.text, &status)),
            Err(_) => Err(self.deadline(true)),
        }
    }

    async fn grpc(&self, link: &Link, deadline: Instant) -> Result<Grpc<Wire>> {
        let wire = tokio::time::timeout_at(deadline, link.wire(&self.caller.config))
            .await
            .unwrap_or_else(|_| Err(self.deadline(false)))?;
        Ok(Grpc::with_origin(wire, link.endpoint.origin.clone())
            .max_decoding_message_size(ANSWER_BYTES_MAX))
    }

    fn deadline(&self, sent: bool) -> Error {
        Error::Deadline { after: self.caller.config.request_timeout, sent }
    }
}

/// The attempts of one call.
struct Attempts<'a> {
    policy: RetryPolicy,
    deadline: Instant,
    round: Vec<&'a Link>,
    repeat: Repeat,
    made: u32,
}

impl<'a> Attempts<'a> {
    /// Where the attempt goes that is to be made now.
    fn link(&self) -> &'a Link {
        self.round[self.made as usize % self.round.len()]
    }

    /// An attempt failed: returns when the next one may be made, or the error if none may.
    async fn failed(&mut self, error: Error) -> Result<()> {
        self.made += 1;
        let endpoints = self.round.len();
        if self.made >= self.policy.attempts_max || !may_repeat(self.repeat, &error, endpoints) {
            return Err(error);
        }
        if (self.made as usize).is_multiple_of(endpoints) {
            let rounds = self.made / endpoints as u32;
            let resume = Instant::now() + self.policy.pause_with_jitter(rounds);
            // The last failure says more than "deadline passed" would.
            if resume >= self.deadline {
                return Err(error);
            }
            tokio::time::sleep_until(resume).await;
        }
        Ok(())
    }
}

/// The one rule on repeating; see [`RetryPolicy`](crate::RetryPolicy).
fn may_repeat(repeat: Repeat, error: &Error, endpoints: usize) -> bool {
    match error {
        Error::Unreachable { .. } => true,
        Error::Answered { message, .. } if message == LEARNER_REFUSES => endpoints > 1,
        Error::ConnectionLost { .. } | Error::Answered { code: Code::Unavailable, .. } => {
            repeat == Repeat::Read
        }
        _ => false,
    }
}

/// What a status means: one with a source was made on this side, of a failed connection; one
/// without was sent by the server.
fn failure(endpoint: &str, status: &Status) -> Error {
    let endpoint = endpoint.to_owned();
    let Some(source) = std::error::Error::source(status) else {
        return match status.code() {
            // tonic's own words for an answer without a message.
            Code::Internal if status.message() == "Missing response message." => {
                Error::Protocol { endpoint, what: status.message().to_owned() }
            }
            code => Error::Answered { code, message: status.message().to_owned() },
        };
    };
    let reason = chain(source);
    match source.downcast_ref::<WireError>() {
        Some(WireError { never_sent: true, .. }) => Error::Unreachable { endpoint, reason },
        _ => Error::ConnectionLost { endpoint, reason },
    }
}

/// The answers of an open stream.
#[derive(Debug)]
pub(crate) struct Answers<A> {
    /// The member at the other end.
    pub(crate) endpoint: String,
    streaming: Streaming<A>,
}

impl<A> Answers<A> {
    fn new(link: &Link, streaming: Streaming<A>) -> Self {
        Answers { endpoint: link.endpoint.text.clone(), streaming }
    }

    /// The next answer; `None` when the server ended the stream in order. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Option<A>> {
        self.streaming.message().await.map_err(|status| failure(&self.endpoint, &status))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(code: Code, message: &str) -> Error {
        Error::Answered { code, message: message.into() }
    }

    #[test]
    fn a_write_is_repeated_only_if_it_never_left_or_a_learner_refused_it() {
        let refused = Error::Unreachable { endpoint: "a".into(), reason: String::new() };
        let lost = Error::ConnectionLost { endpoint: "a".into(), reason: String::new() };
        let changed = answered(Code::Unavailable, "etcdserver: leader changed");
        let learner = answered(Code::FailedPrecondition, LEARNER_REFUSES);
        let full = answered(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded");

        assert!(may_repeat(Repeat::Write, &refused, 1) && may_repeat(Repeat::Read, &refused, 1));
        assert!(!may_repeat(Repeat::Write, &lost, 3) && may_repeat(Repeat::Read, &lost, 3));
        assert!(!may_repeat(Repeat::Write, &changed, 3) && may_repeat(Repeat::Read, &changed, 3));
        assert!(may_repeat(Repeat::Write, &learner, 2) && !may_repeat(Repeat::Write, &learner, 1));
        assert!(!may_repeat(Repeat::Write, &full, 3) && !may_repeat(Repeat::Read, &full, 3));
    }

    #[test]
    fn rounds_start_at_each_endpoint_in_turn_and_visit_all() {
        let config = Config::new(["a:1", "b:1", "c:1"]);
        let route = Route { caller: Arc::new(Caller::new(config).unwrap()), only: None };
        let mut rounds = (0..4).map(|_| {
            route.round().iter().map(|link| link.endpoint.authority.as_str()).collect::<Vec<_>>()
        });
        assert_eq!(rounds.next().unwrap(), ["a:1", "b:1", "c:1"]);
        assert_eq!(rounds.next().unwrap(), ["b:1", "c:1", "a:1"]);
        assert_eq!(rounds.next().unwrap(), ["c:1", "a:1", "b:1"]);
        assert_eq!(rounds.next().unwrap(), ["a:1", "b:1", "c:1"]);
    }
}
