//! One peer as this member sees it: what waits for it, how it fares, how far away it is.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use autotune::Percentiles;
use consensus::rtt::RttEstimator;
use prometheus::Histogram;
use proto::peer::raft_message::Type;
use proto::peer::{Forward, Hello, Probe, RaftMessage, TraceContext};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tonic::transport::Channel;

use super::PeerLimits;
use super::codec::{Length, Traffic};
use super::outbox::{Admit, Outbox, OutboxLimits};
use super::packing::Packing;
use super::probes::{Moment, Probes};
use super::stretch::Stretch;
use crate::config::Url;

/// Nearer than this TCP carries everything at once, and answers share their segments with commands.
const ANSWERS_APART_FROM: Duration = Duration::from_millis(10);
/// Bytes an answer may always be behind: what a connection carries in its first round trip (RFC 6928).
const ANSWERS_BEHIND_BYTES_MAX: u64 = 14 << 10;
/// Urgent messages that wait for one peer. They are small, and soon stale; answers to appends take at most
/// half of the room.
const URGENT_MESSAGES_MAX: usize = 1_024;
const URGENT_BYTES_MAX: usize = 1 << 20;
/// A link tried this often without success is called disconnected.
const ATTEMPTS_WHILE_PROBING: u64 = 3;

/// How a peer can be reached at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Connected, and heard from.
    Healthy,
    /// Connected but silent, or just lost and being tried again.
    Probing,
    /// Not connected.
    Disconnected,
}

impl LinkState {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Probing => "probing",
            Self::Disconnected => "disconnected",
        }
    }
}

/// Messages and bytes, one way, since the link was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkTraffic {
    /// Frames of any kind.
    pub messages: u64,
    /// Their encoded length, as on the wire.
    pub bytes: u64,
    /// The same before compression.
    pub plain_bytes: u64,
}

/// A peer, as of now.
#[derive(Clone, Debug)]
pub struct PeerLink {
    /// The peer's member id.
    pub id: u64,
    /// Where it is looked for.
    pub urls: Vec<String>,
    /// How it can be reached.
    pub state: LinkState,
    /// Since both connections stand; `None` when one does not.
    pub connected_for: Option<Duration>,
    /// Since anything was heard from it; `None`: nothing yet.
    pub last_contact: Option<Duration>,
    /// Round trip over the control connections, without the time the peer held the probe. Without
    /// samples its numbers mean nothing.
    pub rtt: RttEstimator,
    /// Since the newest round trip; `None`: none yet.
    pub rtt_age: Option<Duration>,
    /// Round trips of the last minutes.
    pub round_trips: Percentiles,
    /// Echoes of probes that were left out of the round trips: a snapshot was under way on the link,
    /// one of the ends stood still, or the times make no sense.
    pub rtt_marked: u64,
    /// Between two probes of the peer, of the last minutes, had they been sent evenly. Without what a
    /// standstill of this member made longer.
    pub gaps: Percentiles,
    /// Sent to the peer.
    pub sent: LinkTraffic,
    /// Received from the peer.
    pub received: LinkTraffic,
    /// Raft messages not sent, for want of a connection or of room.
    pub dropped: u64,
    /// Connections that failed or broke.
    pub failures: u64,
    /// Probes sent.
    pub probes_sent: u64,
    /// Probes never echoed.
    pub probes_lost: u64,
    /// The peer's boot, from its greeting.
    pub boot_id: Option<u64>,
    /// The peer's version, from its greeting.
    pub version: Option<String>,
    /// Why the last connection failed or broke.
    pub last_error: Option<String>,
}

/// Which connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    /// Heartbeats, votes, probes; answers to appends where much is before them on the other.
    Control,
    /// Appends, forwards, questions to the leader.
    Bulk,
    /// A snapshot; a connection for each.
    Snapshot,
}

impl Lane {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Bulk => "append",
            Self::Snapshot => "snapshot",
        }
    }
}

/// What waits on the append connection.
#[allow(clippy::large_enum_variant, reason = "nearly every item is of the large kind")]
#[derive(Debug)]
pub(super) enum Bulk {
    Raft(RaftMessage),
    Forward(Forward),
    /// Of commands in the items behind it.
    Traces(Vec<TraceContext>),
}

/// What waits on the control connection. A probe is stamped when it is pulled.
#[allow(clippy::large_enum_variant, reason = "nearly every item is of the large kind")]
#[derive(Debug)]
pub(super) enum Urgent {
    Raft(RaftMessage),
    Probe,
}

/// Where a snapshot is going.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    /// To the peer.
    Out,
    /// From the peer.
    In,
}

/// Held while a snapshot is on its way.
#[derive(Debug)]
pub(super) struct Transferring(Arc<Link>, Way);

impl Drop for Transferring {
    fn drop(&mut self) {
        self.0.transfers(self.1).fetch_sub(1, Ordering::Relaxed);
    }
}

/// A snapshot on its way.
#[derive(Debug)]
struct Transfer {
    task: AbortHandle,
    /// A newer one has taken its place: its end means nothing any more.
    is_replaced: Arc<AtomicBool>,
}

/// One peer: shared by the raft thread (pushes), the network threads and whoever asks.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: u64,
    pub(super) urls: Vec<Url>,
    pub(super) bulk: Outbox<Bulk>,
    pub(super) control: Outbox<Urgent>,
    pub(super) sent: Arc<Traffic>,
    pub(super) received: Traffic,
    /// Of what has come on the peer's append stream that stands: what probes tell it.
    pub(super) taken_bytes: AtomicU64,
    /// How what is sent to it is compressed.
    pub(super) packing: Mutex<Packing>,
    /// The peer takes answers to appends on the control connection, and is far enough for that to matter.
    answers_may_go_apart: AtomicBool,
    pub(super) dropped: AtomicU64,
    /// Streams from the peer that ended otherwise than by being closed.
    pub(super) streams_broken: AtomicU64,
    /// Appends the peer refused, for its log is another there.
    pub(super) appends_rejected: AtomicU64,
    made: Instant,
    /// Where the transport's clock begins.
    epoch: Instant,
    pub(super) snapshots_sent: AtomicU64,
    pub(super) snapshots_failed: AtomicU64,
    /// The peer has just called: a waiting retry of the control connection need not wait longer.
    pub(super) retry_control: Notify,
    /// The same for the append connection.
    pub(super) retry_bulk: Notify,
    /// The peer has fallen silent: the append connection is most likely as dead as the other.
    pub(super) reset_bulk: Notify,
    /// The road has become longer: the append connection is to be made anew.
    pub(super) renew_bulk: Notify,
    pub(super) snapshots_received: AtomicU64,
    pub(super) snapshots_refused: AtomicU64,
    sending: AtomicU64,
    receiving: AtomicU64,
    /// A probe waits in the outbox: another would tell nothing more.
    probe_waits: AtomicBool,
    /// A probe rode on a message since the pacer last looked.
    probe_has_ridden: AtomicBool,
    /// What `/metrics` says of round trips to the peer.
    pub(super) round_trips: OnceLock<Histogram>,
    health: Mutex<Health>,
    calls: Mutex<Option<Channel>>,
    /// The tasks that keep the connections, to be ended with the link.
    tasks: Mutex<Vec<AbortHandle>>,
    transfer: Mutex<Option<Transfer>>,
}

#[derive(Debug, Default)]
struct Health {
    control_since: Option<Instant>,
    bulk_since: Option<Instant>,
    last_contact: Option<Instant>,
    probes: Probes,
    /// Of the append connection.
    stretch: Stretch,
    failures: u64,
    failures_in_a_row: u64,
    losses: u64,
    boot_id: Option<u64>,
    version: Option<String>,
    last_error: Option<String>,
}

impl Health {
    fn state(&self, now: Instant, quiet_after: Duration) -> LinkState {
        let Some(last_contact) = self.last_contact else { return LinkState::Disconnected };
        let is_quiet = now.saturating_duration_since(last_contact) > quiet_after;
        match self.control_since {
            Some(_) if !is_quiet => LinkState::Healthy,
            Some(_) => LinkState::Probing,
            None if self.failures_in_a_row < ATTEMPTS_WHILE_PROBING => LinkState::Probing,
            None => LinkState::Disconnected,
        }
    }
}

impl Link {
    pub(super) fn new(id: u64, urls: Vec<Url>, limits: &PeerLimits, epoch: Instant) -> Self {
        let bulk = OutboxLimits {
            messages_max: limits.queue_messages_max,
            bytes_max: limits.queue_bytes_max,
        };
        let control =
            OutboxLimits { messages_max: URGENT_MESSAGES_MAX, bytes_max: URGENT_BYTES_MAX };
        Link {
            id,
            urls,
            bulk: Outbox::new(bulk),
            control: Outbox::new(control),
            sent: Arc::default(),
            received: Traffic::default(),
            taken_bytes: AtomicU64::new(0),
            packing: Mutex::default(),
            answers_may_go_apart: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
            streams_broken: AtomicU64::new(0),
            appends_rejected: AtomicU64::new(0),
            made: Instant::now(),
            epoch,
            snapshots_sent: AtomicU64::new(0),
            snapshots_failed: AtomicU64::new(0),
            retry_control: Notify::new(),
            retry_bulk: Notify::new(),
            reset_bulk: Notify::new(),
            renew_bulk: Notify::new(),
            sending: AtomicU64::new(0),
            receiving: AtomicU64::new(0),
            snapshots_received: AtomicU64::new(0),
            snapshots_refused: AtomicU64::new(0),
            probe_waits: AtomicBool::new(false),
            probe_has_ridden: AtomicBool::new(false),
            round_trips: OnceLock::new(),
            health: Mutex::new(Health {
                probes: Probes::new(limits.probe_interval),
                ..Health::default()
            }),
            calls: Mutex::default(),
            tasks: Mutex::default(),
            transfer: Mutex::default(),
        }
    }

    /// Hands over a task that lives as long as the link.
    pub(super) fn own(&self, task: AbortHandle) {
        lock(&self.tasks).push(task);
    }

    /// At most one snapshot is under way to a peer: a newer one ends the older, silently, which
    /// learns of it through its flag.
    pub(super) fn replace_transfer(&self, task: AbortHandle, is_replaced: Arc<AtomicBool>) {
        if let Some(older) = lock(&self.transfer).replace(Transfer { task, is_replaced }) {
            older.is_replaced.store(true, Ordering::Relaxed);
            older.task.abort();
        }
    }

    /// Ends all tasks. What waited is for the caller to take from the outboxes.
    pub(super) fn end(&self) {
        for task in lock(&self.tasks).drain(..) {
            task.abort();
        }
        if let Some(transfer) = lock(&self.transfer).take() {
            transfer.task.abort();
        }
        lock(&self.calls).take();
    }

    /// The peer greeted us, on a connection it made.
    pub(super) fn greeted(&self, hello: &Hello) {
        {
            let mut health = lock(&self.health);
            health.boot_id = Some(hello.boot_id);
            health.version = Some(hello.version.clone());
            health.last_contact = Some(Instant::now());
            health.probes.greeted();
        }
        self.retry_control.notify_waiters();
        self.retry_bulk.notify_waiters();
    }

    /// The peer said something.
    pub(super) fn heard(&self, length: Length) {
        self.received.add(length);
        lock(&self.health).last_contact = Some(Instant::now());
    }

    /// A connection stands. Returns whether the peer was out of reach before.
    pub(super) fn connected(&self, lane: Lane, calls: Option<Channel>) -> bool {
        if calls.is_some() {
            *lock(&self.calls) = calls;
        }
        let mut health = lock(&self.health);
        let now = Instant::now();
        let was_down = match lane {
            Lane::Control => health.control_since.replace(now).is_none(),
            _ => {
                health.stretch.connected();
                health.bulk_since.replace(now).is_none()
            }
        };
        health.failures_in_a_row = 0;
        health.last_contact = Some(now);
        was_down
    }

    /// A connection broke or could not be made. Returns whether it stood before.
    pub(super) fn failed(&self, lane: Lane, error: &str) -> bool {
        let mut health = lock(&self.health);
        health.failures += 1;
        health.failures_in_a_row += 1;
        health.last_error = Some(error.to_owned());
        if lane == Lane::Control {
            health.probes.cut_off(self.us(Instant::now()));
            let stood = health.control_since.take().is_some();
            health.losses += u64::from(stood);
            stood
        } else {
            let stood = health.bulk_since.take().is_some();
            health.losses += u64::from(stood);
            drop(health);
            lock(&self.calls).take();
            stood
        }
    }

    /// A channel for single questions, while the append connection stands.
    pub(super) fn calls(&self) -> Option<Channel> {
        lock(&self.calls).clone()
    }

    /// The peer has moved here from another link's addresses: what is known of it is better than
    /// nothing until something is known of the new ones.
    pub(super) fn remember(&self, moved: &Link) {
        let known = lock(&moved.health);
        let mut health = lock(&self.health);
        health.probes.remember(&known.probes);
    }

    /// Where the control connection leads.
    pub(super) fn leads_to(&self, address: Option<SocketAddr>) {
        lock(&self.health).probes.lead_to(address);
    }

    /// Where the control connection leads, or led.
    pub(super) fn led_to(&self) -> Option<SocketAddr> {
        lock(&self.health).probes.lead()
    }

    /// The peer's newest boot, if it has greeted.
    pub(super) fn boot_id(&self) -> Option<u64> {
        lock(&self.health).boot_id
    }

    /// For as long as a snapshot is on its way.
    pub(super) fn transferring(self: &Arc<Self>, way: Way) -> Transferring {
        self.transfers(way).fetch_add(1, Ordering::Relaxed);
        Transferring(Arc::clone(self), way)
    }

    fn transfers(&self, way: Way) -> &AtomicU64 {
        match way {
            Way::Out => &self.sending,
            Way::In => &self.receiving,
        }
    }

    /// Snapshots on their way to the peer.
    pub(super) fn sending(&self) -> u64 {
        self.sending.load(Ordering::Relaxed)
    }

    /// Snapshots on their way from the peer.
    pub(super) fn receiving(&self) -> u64 {
        self.receiving.load(Ordering::Relaxed)
    }

    /// Whether round trips tell of the network now, and not of a snapshot.
    pub(super) fn is_transferring(&self) -> bool {
        self.sending() + self.receiving() > 0
    }

    /// Queues a probe, unless one waits already.
    pub(super) fn ask(&self) {
        if !self.probe_waits.swap(true, Ordering::Relaxed)
            && self.control.push(Urgent::Probe, 0, Admit::Open).is_err()
        {
            self.probe_waits.store(false, Ordering::Relaxed);
        }
    }

    /// A probe that waited has left, or never will.
    pub(super) fn asked(&self) {
        self.probe_waits.store(false, Ordering::Relaxed);
    }

    /// Whether a message has taken a probe along since this was last asked: then none need go alone.
    pub(super) fn take_has_ridden(&self) -> bool {
        self.probe_has_ridden.swap(false, Ordering::Relaxed)
    }

    /// A probe that leaves now, alone or, if it is time for one, on a message. `stood_still` says
    /// whether this member did since a time.
    pub(super) fn probe_leaves(
        &self,
        is_alone: bool,
        now_us: u64,
        wall_us: u64,
        stood_still: impl FnOnce(u64) -> bool,
    ) -> Option<Probe> {
        let probes = &mut lock(&self.health).probes;
        if !is_alone && !probes.may_ride(now_us) {
            return None;
        }
        if !is_alone {
            self.probe_has_ridden.store(true, Ordering::Relaxed);
        }
        let taken_bytes = self.taken_bytes.load(Ordering::Relaxed);
        Some(Probe {
            taken_bytes,
            takes_answers: true,
            ..probes.leaves(now_us, wall_us, stood_still)
        })
    }

    /// A probe of the peer. Returns the round trip it shows, if it tells of the network.
    pub(super) fn probe_heard(
        &self,
        probe: &Probe,
        now_us: u64,
        wall_us: u64,
        stood_still: impl Fn(u64) -> bool,
    ) -> Option<u64> {
        let moment = Moment { now_us, wall_us, is_transferring: self.is_transferring() };
        let mut health = lock(&self.health);
        let round_trip_us = health.probes.heard(probe, moment, stood_still)?;
        let is_due = health.bulk_since.is_some() && health.stretch.measured(now_us, round_trip_us);
        drop(health);
        if is_due {
            self.renew_bulk.notify_waiters();
        }
        Some(round_trip_us)
    }

    /// Counts an append the peer refused.
    pub(super) fn count_rejection(&self, message: &RaftMessage) {
        if message.reject && message.r#type() == Type::MsgAppendResponse {
            self.appends_rejected.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Learns from a probe of the peer whether answers to its appends may go apart.
    pub(super) fn learn_of_answers(&self, probe: &Probe) {
        let may = probe.takes_answers && self.round_trip() >= ANSWERS_APART_FROM;
        self.answers_may_go_apart.store(may, Ordering::Relaxed);
    }

    /// Whether an answer to an append goes by the control connection: on the other it would wait behind
    /// commands for the leader, which has nothing committed before it has the answer.
    pub(super) fn answers_go_apart(&self) -> bool {
        self.answers_may_go_apart.load(Ordering::Relaxed)
            && self.control.is_half_free()
            && self.bulk.waiting_bytes().is_none_or(|waiting| {
                lock(&self.packing).is_behind(waiting as u64, ANSWERS_BEHIND_BYTES_MAX)
            })
    }

    /// The append connection is being renewed.
    pub(super) fn renewed(&self) {
        lock(&self.health).stretch.renewed(self.us(Instant::now()));
    }

    /// The round trip as it is known; `None`: it is not.
    pub(super) fn rtt(&self) -> Option<RttEstimator> {
        lock(&self.health).probes.rtt()
    }

    /// The smoothed round trip; zero: not known.
    pub(super) fn round_trip(&self) -> Duration {
        Duration::from_micros(self.rtt().map_or(0, |rtt| rtt.srtt_us()))
    }

    /// How long nothing has been heard.
    pub(super) fn silence(&self, now: Instant) -> Duration {
        lock(&self.health)
            .last_contact
            .map_or(Duration::MAX, |at| now.saturating_duration_since(at))
    }

    /// The time on the transport's clock.
    fn us(&self, at: Instant) -> u64 {
        us(at.saturating_duration_since(self.epoch))
    }

    /// How long nothing has been heard; of who was never heard, since it is listened for.
    pub(super) fn silent_for(&self, now: Instant) -> Duration {
        let heard = lock(&self.health).last_contact.unwrap_or(self.made);
        now.saturating_duration_since(heard)
    }

    /// Whether the connections this member makes stand: for what is urgent, and for the bulk.
    pub(super) fn is_up(&self) -> [(Lane, bool); 2] {
        let health = lock(&self.health);
        [(Lane::Control, health.control_since.is_some()), (Lane::Bulk, health.bulk_since.is_some())]
    }

    /// Whether one of them stands.
    pub(super) fn is_up_for(&self, lane: Lane) -> bool {
        self.is_up().into_iter().any(|(one, is_up)| one == lane && is_up)
    }

    /// How far the peer's wall clock is ahead, as far as is known of late.
    pub(super) fn clock_offset_us(&self, now: Instant) -> Option<i64> {
        lock(&self.health).probes.clock_offset_us(self.us(now))
    }

    /// The share of probes lost of late.
    pub(super) fn loss_ratio(&self, now: Instant) -> Option<f64> {
        lock(&self.health).probes.loss_ratio(self.us(now))
    }

    /// Round trips of the last minutes.
    pub(super) fn percentiles(&self, now: Instant) -> Percentiles {
        lock(&self.health).probes.round_trips(self.us(now))
    }

    /// Connections that stood and were lost.
    pub(super) fn losses(&self) -> u64 {
        lock(&self.health).losses
    }

    /// How the peer can be reached.
    pub(super) fn state(&self, now: Instant, quiet_after: Duration) -> LinkState {
        lock(&self.health).state(now, quiet_after)
    }

    /// The link as of now. Longer silence than `quiet_after` is worth a doubt.
    pub(super) fn view(&self, now: Instant, quiet_after: Duration) -> PeerLink {
        let traffic = |traffic: &Traffic| LinkTraffic {
            messages: traffic.messages.load(Ordering::Relaxed),
            bytes: traffic.bytes.load(Ordering::Relaxed),
            plain_bytes: traffic.plain_bytes.load(Ordering::Relaxed),
        };
        let mut health = lock(&self.health);
        let known = health.probes.known(self.us(now));
        PeerLink {
            id: self.id,
            urls: crate::config::texts(&self.urls),
            state: health.state(now, quiet_after),
            connected_for: health
                .control_since
                .zip(health.bulk_since)
                .map(|(control, bulk)| now.saturating_duration_since(control.max(bulk))),
            last_contact: health.last_contact.map(|at| now.saturating_duration_since(at)),
            rtt: known.rtt,
            rtt_age: known.rtt_age,
            round_trips: known.round_trips,
            rtt_marked: known.rtt_marked,
            gaps: known.gaps,
            sent: traffic(&self.sent),
            received: traffic(&self.received),
            dropped: self.dropped.load(Ordering::Relaxed),
            failures: health.failures,
            probes_sent: known.sent,
            probes_lost: known.lost,
            boot_id: health.boot_id,
            version: health.version.clone(),
            last_error: health.last_error.clone(),
        }
    }
}

fn us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link() -> Link {
        Link::new(2, Vec::new(), &PeerLimits::default(), Instant::now())
    }

    const QUIET: Duration = Duration::from_secs(2);

    fn view(link: &Link, now: Instant) -> PeerLink {
        link.view(now, QUIET)
    }

    #[test]
    fn who_was_never_heard_is_silent_since_it_is_listened_for() {
        let link = link();
        let later = link.made + 5 * QUIET;
        assert_eq!(link.silent_for(later), 5 * QUIET);
        link.connected(Lane::Control, None);
        assert!(link.silent_for(later) <= 5 * QUIET);
        assert_eq!(link.is_up(), [(Lane::Control, true), (Lane::Bulk, false)]);
    }

    #[test]
    fn one_probe_waits_at_a_time() {
        let link = link();
        let session = link.control.begin();
        link.ask();
        link.control.open(session);
        for _ in 0..3 {
            link.ask();
        }
        assert_eq!(link.control.close().len(), 1);
    }

    #[test]
    fn a_link_goes_from_healthy_over_probing_to_disconnected() {
        let link = link();
        let state = |after: Duration| view(&link, Instant::now() + after).state;
        assert_eq!(state(Duration::ZERO), LinkState::Disconnected);
        link.connected(Lane::Control, None);
        assert_eq!(state(Duration::ZERO), LinkState::Healthy);
        assert_eq!(state(10 * QUIET), LinkState::Probing);
        link.failed(Lane::Control, "cut");
        assert_eq!(state(Duration::ZERO), LinkState::Probing);
        for _ in 0..ATTEMPTS_WHILE_PROBING {
            link.failed(Lane::Control, "refused");
        }
        assert_eq!(state(Duration::ZERO), LinkState::Disconnected);
    }

    #[test]
    fn a_snapshot_counts_on_its_way_out_or_in() {
        let link = Arc::new(link());
        let out = link.transferring(Way::Out);
        assert_eq!((link.sending(), link.receiving()), (1, 0));
        let _in = link.transferring(Way::In);
        drop(out);
        assert_eq!((link.sending(), link.receiving()), (0, 1));
        assert!(link.is_transferring());
    }
}
