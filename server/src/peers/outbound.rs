//! The connections this member makes: to each peer one for what is urgent and one for the bulk.
//!
//! Both are kept the same way: connect, greet, and only when the peer has accepted the greeting let
//! the outbox flow; when the connection breaks, hand back what never left, wait a little longer than
//! the last time, and begin again. The wait is cut short when the peer calls: then it is there.
//!
//! Where the road becomes much longer ([`super::stretch`]) the append connection is renewed: another is
//! made beside it, then its stream ends behind what has left, and when the peer has read that, what
//! waits goes on in the new one. Order is kept, and nothing is lost unless that takes too long or the
//! old one breaks; then raft is told, as when any connection breaks.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::Stream;
use http::uri::PathAndQuery;
use proto::peer::{AppendAck, AppendFrame, ControlFrame, Hello, append_frame, control_frame};
use tonic::codec::Streaming;
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::admission::{Refusal, Topic};
use super::codec::{Frame, FrameCodec, Received};
use super::compress::{Agreed, Reads};
use super::link::{Bulk, Lane, Link, Urgent};
use super::waits::GREETING_TIMEOUT;
use super::wire::Dialled;
use super::{Core, Reports, gone, wire};

/// Path of a method of `metastore.peer.v1.Peer`.
pub(super) const APPEND: &str = "/metastore.peer.v1.Peer/Append";
pub(super) const CONTROL: &str = "/metastore.peer.v1.Peer/Control";
pub(super) const SNAPSHOT: &str = "/metastore.peer.v1.Peer/Snapshot";
pub(super) const LEADER: &str = "/metastore.peer.v1.Peer/Leader";

/// Largest answer that is read on the append and control connections.
const REPLY_BYTES_MAX: usize = 64 << 10;
/// First wait before connecting again; doubled each time,
const RETRY_FIRST: Duration = Duration::from_millis(50);
/// up to this,
const RETRY_MAX: Duration = Duration::from_secs(1);
/// or to this when the peer will not have us.
const RETRY_REFUSED_MAX: Duration = Duration::from_secs(5);
/// An attempt that lasted this long, whether the connection stood or not, begins over with short waits:
/// far away it takes its time by itself.
const LASTED_LONG: Duration = Duration::from_secs(1);

/// An append connection is renewed no sooner than so long after it was made.
const RENEWAL_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// For the peer to read what the old connection carries: as much as may be on its way, two seconds away.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(3);

/// How often a connection asks whether its peer has fallen silent; twice in a row, and it has.
const SILENCE_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// How a connection ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) why: String,
    pub(super) refusal: Option<Refusal>,
    /// This member gave it up, for nothing was heard.
    is_silence: bool,
}

impl Ended {
    pub(super) fn because(why: impl Into<String>) -> Self {
        Ended { why: why.into(), refusal: None, is_silence: false }
    }

    fn closed() -> Self {
        Ended::because("closed by the peer")
    }

    fn silence() -> Self {
        Ended { is_silence: true, ..Ended::because("the peer has fallen silent") }
    }

    pub(super) fn status(status: &Status) -> Self {
        let refusal = Refusal::of(status);
        let source = std::error::Error::source(status);
        let why = match source {
            Some(source) if status.message().is_empty() || refusal.is_none() => wire::cause(source),
            _ => status.message().to_owned(),
        };
        Ended { why, refusal, is_silence: false }
    }
}

/// Waits between attempts: exponential, each drawn from the upper half, so that the members of a
/// cluster that come back together do not stay in step.
#[derive(Debug)]
struct Backoff {
    next: Duration,
}

impl Backoff {
    fn new() -> Self {
        Backoff { next: RETRY_FIRST }
    }

    fn reset(&mut self) {
        self.next = RETRY_FIRST;
    }

    fn draw(&mut self, max: Duration) -> Duration {
        let wait = self.next.min(max);
        self.next = (wait * 2).min(max);
        wait.mul_f64(rand::random_range(0.5..=1.0))
    }
}

/// Keeps one connection to a peer for as long as the link lives.
pub(super) async fn keep(core: Arc<Core>, reports: Arc<dyn Reports>, link: Arc<Link>, lane: Lane) {
    let mut backoff = Backoff::new();
    for attempt in 0usize.. {
        let begun = Instant::now();
        let url_count = link.urls.len().max(1);
        let ended = match lane {
            Lane::Control => control_session(&core, &link, attempt % url_count).await,
            _ => bulk_session(&core, &*reports, &link, attempt % url_count).await,
        };
        let Err(ended) = ended;
        let stood = link.failed(lane, &ended.why);
        hand_back(&*reports, &link, lane);
        if core.stopping.load(Ordering::Relaxed) {
            return;
        }
        reports.unreachable(link.id);
        let is_closed = stood && !ended.is_silence && ended.refusal.is_none();
        if is_closed && lane == Lane::Control && core.config.crash_hints {
            look_after(&*reports, &link).await;
        }
        if let Some(refusal) = ended.refusal {
            reports.refused(link.id, refusal);
        }
        // A connection lost is news; one that still cannot be made is said once in a while.
        let topic = Topic::Unreachable(lane, link.id, ended.refusal);
        if stood || core.throttle.is_due(topic) {
            tracing::warn!(
                peer = format_args!("{:x}", link.id),
                connection = lane.as_str(),
                "{} peer: {}",
                if stood { "lost a" } else { "cannot reach a" },
                ended.why
            );
        }
        if begun.elapsed() >= LASTED_LONG {
            backoff.reset();
        }
        let max = if ended.refusal.is_some() { RETRY_REFUSED_MAX } else { RETRY_MAX };
        let called = match lane {
            Lane::Control => &link.retry_control,
            _ => &link.retry_bulk,
        };
        tokio::select! {
            () = tokio::time::sleep(backoff.draw(max)) => {}
            () = called.notified() => {}
        }
    }
}

/// A connection that stood was closed: whether the peer is gone is worth knowing at once.
async fn look_after(reports: &dyn Reports, link: &Link) {
    let Some(boot_id) = link.boot_id() else { return };
    if gone::is_gone(link).await {
        tracing::warn!(
            peer = format_args!("{:x}", link.id),
            "the process of a peer is gone: its machine refuses connections"
        );
        reports.gone(link.id, boot_id);
    }
}

/// Closes an outbox and returns to the node what provably never left.
pub(super) fn hand_back(reports: &dyn Reports, link: &Link, lane: Lane) {
    let mut dropped = 0;
    if lane == Lane::Control {
        dropped = link.control.close().iter().filter(|it| matches!(it, Urgent::Raft(_))).count();
    } else {
        for item in link.bulk.close() {
            match item {
                Bulk::Raft(_) => dropped += 1,
                Bulk::Forward(forward) => reports.not_forwarded(forward),
                Bulk::Traces(_) => {}
            }
        }
    }
    link.dropped.fetch_add(dropped as u64, Ordering::Relaxed);
}

enum Never {}

/// Appends and forwards, until the connection breaks.
async fn bulk_session(
    core: &Arc<Core>,
    reports: &dyn Reports,
    link: &Arc<Link>,
    url: usize,
) -> Result<Never, Ended> {
    let session = link.bulk.begin();
    let stands = async {
        let dialled = dial(core, link, url, Lane::Bulk).await?;
        open_bulk(core, link, dialled, session).await
    };
    let mut acks = in_time(stands).await?;
    loop {
        // From here on, so that none is missed between two waits.
        let reset = link.reset_bulk.notified();
        let dialled = until_renewed(core, link, url, &mut acks).await?;
        // None: this member is stopping, and what waits still leaves.
        let Some(session) = link.bulk.renew() else { continue };
        link.renewed();
        if let Some(why) = may_be_lost(link, &mut acks).await? {
            // As with a connection that breaks: raft must ask what has come.
            reports.unreachable(link.id);
            tracing::warn!(
                peer = format_args!("{:x}", link.id),
                "an append connection is made anew, and what the old one carried may be lost: {why}"
            );
        }
        acks = tokio::select! {
            acks = in_time(open_bulk(core, link, dialled, session)) => acks?,
            // A road that has dropped out is for the waits between attempts.
            () = reset => return Err(Ended::silence()),
        };
        tracing::info!(
            peer = format_args!("{:x}", link.id),
            "the road to a peer has become longer: its append connection is a new one"
        );
    }
}

/// Opens the stream of a session, and lets the outbox flow.
async fn open_bulk(
    core: &Arc<Core>,
    link: &Arc<Link>,
    dialled: Dialled,
    session: u64,
) -> Result<Streaming<Received<AppendAck>>, Ended> {
    let pull = BulkPull { link: Arc::clone(link), hello: Some(core.hello(link.id)), session };
    let (dialled, acks) =
        open::<_, AppendFrame, AppendAck>(core, link, dialled, Lane::Bulk, APPEND, pull).await?;
    if link.connected(Lane::Bulk, Some(dialled.channel)) {
        tracing::info!(peer = format_args!("{:x}", link.id), "append connection to a peer stands");
    }
    link.bulk.open(session);
    if core.stopping.load(Ordering::Relaxed) {
        link.bulk.finish();
    }
    Ok(acks)
}

/// Until another connection is there that is to take the place of this one.
async fn until_renewed(
    core: &Core,
    link: &Link,
    url: usize,
    acks: &mut Streaming<Received<AppendAck>>,
) -> Result<Dialled, Ended> {
    loop {
        let renewed = async {
            tokio::time::sleep(RENEWAL_INTERVAL_MIN).await;
            link.renew_bulk.notified().await;
            in_time(dial(core, link, url, Lane::Bulk)).await
        };
        tokio::select! {
            ended = until_ended(link, acks) => {
                return Err(ended.err().unwrap_or_else(Ended::closed));
            }
            // If there is none the old one goes on.
            dialled = renewed => if let Ok(dialled) = dialled {
                return Ok(dialled);
            }
        }
    }
}

/// Waits for the peer to close a stream that has ended, which it does when it has read all of it.
/// Returns why some of it may be lost, if it may.
async fn may_be_lost(
    link: &Link,
    acks: &mut Streaming<Received<AppendAck>>,
) -> Result<Option<String>, Ended> {
    match tokio::time::timeout(RENEWAL_TIMEOUT, until_ended(link, acks)).await {
        Ok(Ok(())) => Ok(None),
        // The new connection goes the same way.
        Ok(Err(ended)) if ended.is_silence => Err(ended),
        Ok(Err(ended)) => Ok(Some(ended.why)),
        Err(_) => Ok(Some(String::from("the peer has not read it in time"))),
    }
}

/// Until the append connection is closed by the peer, or breaks.
async fn until_ended(link: &Link, acks: &mut Streaming<Received<AppendAck>>) -> Result<(), Ended> {
    loop {
        tokio::select! {
            ack = acks.message() => match ack {
                Ok(Some(ack)) => link.heard(ack.length),
                Ok(None) => return Ok(()),
                Err(status) => return Err(Ended::status(&status)),
            },
            () = link.reset_bulk.notified() => return Err(Ended::silence()),
        }
    }
}

/// What takes longer is given up.
async fn in_time<T>(greeting: impl Future<Output = Result<T, Ended>>) -> Result<T, Ended> {
    let answered = tokio::time::timeout(GREETING_TIMEOUT, greeting).await;
    answered.unwrap_or_else(|_| Err(Ended::because("no answer to the greeting")))
}

/// Heartbeats, votes and probes, until the connection breaks or the peer falls silent.
async fn control_session(core: &Arc<Core>, link: &Arc<Link>, url: usize) -> Result<Never, Ended> {
    let session = link.control.begin();
    let pull = ControlPull {
        core: Arc::clone(core),
        link: Arc::clone(link),
        hello: Some(core.hello(link.id)),
        session,
    };
    let stands = async {
        let dialled = dial(core, link, url, Lane::Control).await?;
        open::<_, ControlFrame, ControlFrame>(core, link, dialled, Lane::Control, CONTROL, pull)
            .await
    };
    let (dialled, mut replies) = in_time(stands).await?;
    link.connected(Lane::Control, None);
    link.leads_to(dialled.address);
    link.asked();
    link.control.open(session);
    // At once: the distance to a new peer is worth knowing. The next ones the pacer asks for.
    link.ask();
    let mut next_check = tokio::time::Instant::now() + SILENCE_CHECK_INTERVAL;
    let mut is_suspect = false;
    loop {
        tokio::select! {
            reply = replies.message() => match reply {
                Ok(Some(Received { message, length })) => {
                    let now = Instant::now();
                    link.heard(length);
                    if let Some(probe) = &message.probe {
                        core.take_probe(link, probe, now);
                    }
                }
                Ok(None) => return Err(Ended::closed()),
                Err(status) => return Err(Ended::status(&status)),
            },
            () = tokio::time::sleep_until(next_check) => {
                let now = Instant::now();
                if link.silence(now) <= core.silence_max(link) {
                    is_suspect = false;
                } else if !is_suspect {
                    // It may be this member that was asleep.
                    is_suspect = true;
                } else {
                    // After a partition TCP itself tries again only after many seconds: a fresh
                    // connection finds a peer that is back much sooner.
                    link.reset_bulk.notify_waiters();
                    return Err(Ended::silence());
                }
                next_check = tokio::time::Instant::now() + SILENCE_CHECK_INTERVAL;
            }
        }
    }
}

/// Connects.
async fn dial(core: &Core, link: &Link, url: usize, lane: Lane) -> Result<Dialled, Ended> {
    let Some(url) = link.urls.get(url) else {
        return Err(Ended::because("the peer has no usable URL"));
    };
    wire::dial(url, lane, core.config.tls.as_ref()).await.map_err(Ended::because)
}

/// Opens a stream which the peer has accepted.
async fn open<S, E, D>(
    core: &Core,
    link: &Link,
    dialled: Dialled,
    lane: Lane,
    path: &'static str,
    frames: S,
) -> Result<(Dialled, Streaming<Received<D>>), Ended>
where
    S: Stream<Item = E> + Send + 'static,
    E: Frame,
    D: Frame,
{
    let agreed = Agreed::default();
    let codec = FrameCodec::<E, D>::new(REPLY_BYTES_MAX).counting(&link.sent).packing(&agreed);
    let (replies, reads) =
        open_stream(dialled.channel.clone(), path, codec, frames, REPLY_BYTES_MAX).await?;
    if lane == Lane::Bulk {
        core.begin_packing(link, agreed, reads);
    }
    Ok((dialled, replies))
}

/// Opens a stream on a connection. Returns when the peer has accepted the greeting, with what it reads.
pub(super) async fn open_stream<S, E, D>(
    channel: Channel,
    path: &'static str,
    codec: FrameCodec<E, D>,
    frames: S,
    reply_bytes_max: usize,
) -> Result<(Streaming<Received<D>>, Reads), Ended>
where
    S: Stream<Item = E> + Send + 'static,
    E: Frame,
    D: Frame,
{
    let mut grpc = tonic::client::Grpc::new(channel).max_decoding_message_size(reply_bytes_max);
    grpc.ready().await.map_err(|error| Ended::because(wire::cause(&error)))?;
    let path = PathAndQuery::from_static(path);
    let response = grpc.streaming(Request::new(frames), path, codec).await;
    let response = response.map_err(|status| Ended::status(&status))?;
    let reads = Reads::of(response.metadata());
    Ok((response.into_inner(), reads))
}

/// The stream behind the append connection: what is polled out of it has left.
struct BulkPull {
    link: Arc<Link>,
    hello: Option<Hello>,
    session: u64,
}

impl Stream for BulkPull {
    type Item = AppendFrame;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<AppendFrame>> {
        let frame = match self.hello.take() {
            Some(hello) => append_frame::Frame::Hello(hello),
            None => match self.link.bulk.poll_pull(context, self.session) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(Bulk::Raft(message))) => append_frame::Frame::Raft(message),
                Poll::Ready(Some(Bulk::Forward(forward))) => {
                    // A member that does not know of terms drops a bound one, and so keeps to it.
                    let is_bound = forward.term != 0;
                    if is_bound {
                        append_frame::Frame::Bound(forward)
                    } else {
                        append_frame::Frame::Forward(forward)
                    }
                }
                Poll::Ready(Some(Bulk::Traces(contexts))) => {
                    append_frame::Frame::Traces(proto::peer::Traces { contexts })
                }
            },
        };
        Poll::Ready(Some(AppendFrame { frame: Some(frame) }))
    }
}

/// The stream behind the control connection. Probes are stamped here, on their way out.
struct ControlPull {
    core: Arc<Core>,
    link: Arc<Link>,
    hello: Option<Hello>,
    session: u64,
}

impl Stream for ControlPull {
    type Item = ControlFrame;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<ControlFrame>> {
        if let Some(hello) = self.hello.take() {
            let frame = Some(control_frame::Frame::Hello(hello));
            return Poll::Ready(Some(ControlFrame { frame, probe: None }));
        }
        self.link.control.poll_pull(context, self.session).map(|urgent| {
            let frame = match urgent? {
                Urgent::Raft(message) => Some(control_frame::Frame::Raft(message)),
                Urgent::Probe => {
                    self.link.asked();
                    None
                }
            };
            Some(self.core.with_probe(&self.link, frame))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_limit_and_are_never_in_step() {
        let mut backoff = Backoff::new();
        let mut least = RETRY_FIRST / 2;
        for _ in 0..10 {
            let wait = backoff.draw(RETRY_MAX);
            assert!(wait >= least && wait <= RETRY_MAX, "{wait:?}");
            least = (least * 2).min(RETRY_MAX / 2);
        }
        backoff.reset();
        assert!(backoff.draw(RETRY_MAX) <= RETRY_FIRST);
    }
}
