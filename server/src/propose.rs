//! How a request reaches the member and comes back: a bounded queue in, a ticket out.
//!
//! The client runtimes hold a [`Handle`] each. A command is encoded once, here, into the bytes that
//! the log, the peers and apply will see. Whoever waits holds a ticket; the apply thread calls the
//! tickets of a whole batch at once. Nobody here takes a lock that apply or the raft thread holds
//! for longer than it takes to move a pointer.
//!
//! What goes another way than a command has a file of its own: `leases`, `membership`, `tuning`,
//! `observe`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use member::consensus;
use member::{Completion, Input, Proposal, Reply};
use otlp::Span;
use prost::Message as _;
use proto::admin::{ObserveResponse, TuningResponse};
use proto::log::command::Op;
use proto::log::{Command, Member, RequestId, TuningSubmit};
use proto::peer::{LeaderRequest, leader_reply, leader_request};
use state::View;
use tokio::sync::watch;

use crate::door::{
    self, AppliedOutcome, Door, Identity, Leadership, LeaseTtl, NodeStatus, RequestError,
};
use crate::figures::Figures;
use crate::inbox::Inbox;
use crate::metrics::{Metrics, Stage};
use crate::peers::{LinkState, Peers};
use crate::renewals::Renewals;
use crate::telemetry::flight::Flights;
use crate::telemetry::{self, call};
use crate::tickets::{AppliedGate, Held, Tickets};
use crate::vitals::Vitals;

/// How long a transfer of leadership may take, in election timeouts.
const TRANSFER_ELECTIONS: u32 = 3;

/// A read that waits longer for its index is slow, as in etcd.
const SLOW_READ_INDEX: Duration = Duration::from_millis(500);

/// Who leads, and how that came about, as the raft thread tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Led {
    pub(crate) leader: Option<u64>,
    /// It is this member.
    pub(crate) is_leader: bool,
    /// How often a leader was lost or another found since the start.
    pub(crate) changes: u64,
}

/// The answer to a proposal: how it ended, or that it was not even proposed.
pub(crate) enum Ended {
    Applied {
        index: u64,
        term: u64,
        completion: Completion,
        /// When readers could see it.
        applied_us: u64,
    },
    Refused(RequestError),
}

/// Bounds of requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SharedLimits {
    pub(crate) election_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) request_bytes_max: usize,
    pub(crate) warning_apply_duration: Duration,
}

/// What the node's threads and the handles share.
pub(crate) struct Shared {
    pub(crate) identity: Identity,
    pub(crate) origin: u64,
    /// When it began, on [`Shared::now_us`]'s clock.
    pub(crate) started: Duration,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) view: ArcSwap<View>,
    pub(crate) status: ArcSwap<NodeStatus>,
    pub(crate) replica: ArcSwapOption<consensus::Status>,
    pub(crate) tuning: ArcSwapOption<member::TuningStatus>,
    pub(crate) figures: Figures,
    pub(crate) vitals: Vitals,
    pub(crate) applied: AppliedGate,
    /// With the command, if it is one: what a lost leader took with it is proposed again.
    pub(crate) proposals: Tickets<Ended, Option<Bytes>>,
    pub(crate) reads: Tickets<Option<u64>>,
    pub(crate) leases: Tickets<Result<Option<LeaseTtl>, Option<u64>>>,
    pub(crate) renewals: Arc<Renewals>,
    pub(crate) led: watch::Sender<Led>,
    pub(crate) transfers: Tickets<Result<(), RequestError>>,
    pub(crate) leadership: watch::Sender<Leadership>,
    pub(crate) sequence: AtomicU64,
    /// When the raft thread meant to come round again, on [`Shared::now_us`]'s clock.
    pub(crate) raft_due_us: AtomicU64,
    pub(crate) request_timeout: Duration,
    pub(crate) election_timeout: Duration,
    pub(crate) request_bytes_max: usize,
    pub(crate) warning_apply_duration: Duration,
    pub(crate) backend: crate::backend::Control,
    pub(crate) flights: Flights,
    pub(crate) metrics: Arc<Metrics>,
}

impl Shared {
    pub(crate) fn new(
        identity: Identity,
        origin: u64,
        view: View,
        backend: crate::backend::Control,
        limits: SharedLimits,
        metrics: Arc<Metrics>,
    ) -> Self {
        let SharedLimits {
            election_timeout,
            request_timeout,
            request_bytes_max,
            warning_apply_duration,
        } = limits;
        let applied = AppliedGate::default();
        applied.reached(view.applied_index());
        Shared {
            identity,
            origin,
            started: since_boot(),
            inbox: Arc::default(),
            view: ArcSwap::from_pointee(view),
            status: ArcSwap::from_pointee(NodeStatus { identity, ..NodeStatus::default() }),
            replica: ArcSwapOption::empty(),
            tuning: ArcSwapOption::empty(),
            figures: Figures::default(),
            vitals: Vitals::default(),
            applied,
            proposals: Tickets::new(),
            reads: Tickets::new(),
            leases: Tickets::new(),
            renewals: Arc::default(),
            transfers: Tickets::new(),
            led: watch::channel(Led::default()).0,
            leadership: watch::channel(Leadership::default()).0,
            sequence: AtomicU64::new(1),
            raft_due_us: AtomicU64::new(0),
            request_timeout,
            election_timeout,
            request_bytes_max,
            warning_apply_duration,
            backend,
            flights: Flights::new(telemetry::tracer()),
            metrics,
        }
    }

    /// Microseconds since the start: the clock of everything in core. It goes on while the machine
    /// sleeps, or a leader that slept would take its lease for a fresh one.
    pub(crate) fn now_us(&self) -> u64 {
        duration_us(since_boot().saturating_sub(self.started))
    }

    /// When a request that begins now is given up.
    pub(crate) fn deadline_us(&self) -> u64 {
        self.now_us() + duration_us(self.request_timeout)
    }

    /// Gives up what nobody has answered in time.
    pub(crate) fn expire_tickets(&self, now_us: u64) {
        self.proposals.expire(now_us);
        // Of each it is known until when it may wait, and so since when it does.
        let left_us = duration_us(self.request_timeout.saturating_sub(SLOW_READ_INDEX));
        let slow = self.reads.count_late(now_us + left_us);
        self.metrics.slow_read_indexes.inc_by(slow);
        self.reads.expire(now_us);
        self.leases.expire(now_us);
        self.transfers.expire(now_us);
    }

    pub(crate) fn next_sequence(&self) -> u64 {
        self.sequence.fetch_add(1, Ordering::Relaxed)
    }

    /// A number for a proposal of this member's own, which nobody waits for.
    pub(crate) fn own_sequence(&self) -> u64 {
        self.next_sequence()
    }

    /// How many proposals wait for their end.
    pub(crate) fn pending_proposals(&self) -> usize {
        self.proposals.outstanding()
    }

    /// For whoever still waits for it.
    fn propose_again(&self, sequence: u64) {
        let Some((Some(command), deadline_us)) = self.proposals.kept(sequence) else { return };
        self.metrics.proposals_repeated.inc();
        if !self.inbox.propose(Proposal { sequence, deadline_us, command }) {
            self.proposals.call(sequence, Ended::Refused(self.inbox.refusal()));
        }
    }

    /// Gives an answer of the member to whoever waits for it.
    pub(crate) fn answer(&self, reply: &Reply) {
        match *reply {
            Reply::ReadAt { ticket, index } => self.reads.call(ticket, Some(index)),
            Reply::ReadFailed { ticket } => self.reads.call(ticket, None),
            Reply::NotProposed { sequence, busy } => {
                let error =
                    if busy { RequestError::TooManyRequests } else { RequestError::Timeout };
                self.proposals.call(sequence, Ended::Refused(error));
            }
            Reply::Lost { sequence } => self.propose_again(sequence),
            Reply::MembershipRefused { sequence, refusal } => {
                self.proposals.call(sequence, Ended::Refused(refusal.into()));
            }
            Reply::TuningRefused { sequence, refusal } => {
                self.proposals.call(sequence, Ended::Refused(refusal.into()));
            }
            Reply::TransferBegun { ticket } => self.transfers.call(ticket, Ok(())),
            Reply::TransferRefused { ticket, error } => {
                self.transfers.call(ticket, Err(error.into()));
            }
            Reply::Lease { ticket, lease } => self.leases.call(
                ticket,
                Ok(lease.map(|l| LeaseTtl { ttl: l.ttl, granted_ttl: l.granted_ttl })),
            ),
            Reply::LeaseAskLeader { ticket, leader } => self.leases.call(ticket, Err(leader)),
        }
    }
}

impl From<member::consensus::TransferError> for RequestError {
    fn from(error: member::consensus::TransferError) -> Self {
        match error {
            member::consensus::TransferError::NotLeader { .. } => RequestError::NotLeader,
            _ => RequestError::BadLeaderTransferee,
        }
    }
}

/// The door to the member, for everything that serves clients. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(crate) shared: Arc<Shared>,
    pub(crate) peers: Peers,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle").field("identity", &self.shared.identity).finish_non_exhaustive()
    }
}

impl Handle {
    pub(crate) async fn await_end(
        &self,
        sequence: u64,
        deadline_us: u64,
        command: Option<Bytes>,
        send: impl FnOnce(&Inbox) -> bool,
    ) -> Result<Ended, RequestError> {
        let shared = &self.shared;
        let began = *shared.led.borrow();
        let receiver = shared.proposals.draw(sequence, deadline_us, command);
        let _held = Held { tickets: &shared.proposals, ticket: sequence };
        if !send(&shared.inbox) {
            return Err(shared.inbox.refusal());
        }
        receiver.await.map_err(|_| self.unanswered(deadline_us, began))
    }

    /// Why a ticket was torn.
    fn unanswered(&self, deadline_us: u64, began: Led) -> RequestError {
        if self.shared.now_us() < deadline_us {
            return RequestError::Stopped;
        }
        self.timeout_since(began)
    }

    /// Which of etcd's time-out messages fits what happened meanwhile.
    fn timeout_since(&self, began: Led) -> RequestError {
        let now = *self.shared.led.borrow();
        let disconnected = |leader| self.peers.link_state(leader) == Some(LinkState::Disconnected);
        if now.changes != began.changes {
            RequestError::TimeoutLeaderFailure
        } else if now.leader.is_some_and(disconnected) {
            RequestError::TimeoutConnectionLost
        } else {
            RequestError::Timeout
        }
    }

    pub(crate) async fn ask_leader(
        &self,
        call: leader_request::Call,
    ) -> Result<leader_reply::Reply, RequestError> {
        let shared = &self.shared;
        let mut leadership = shared.leadership.subscribe();
        let known = leadership.wait_for(|now| now.leader.is_some());
        let leader = match tokio::time::timeout(shared.request_timeout, known).await {
            Ok(Ok(now)) => now.leader.unwrap_or_default(),
            Ok(Err(_)) => return Err(RequestError::Stopped),
            Err(_) => return Err(RequestError::NoLeader),
        };
        if leader == shared.identity.member_id {
            // It became the leader meanwhile; the caller's retry is served here.
            return Err(RequestError::LeaderChanged);
        }
        let traced = call::current().map(|call| (call, SystemTime::now()));
        let request = LeaderRequest { hello: None, call: Some(call) };
        let reply = self
            .peers
            .leader_call(leader, request, shared.request_timeout)
            .await
            .map_err(|_| RequestError::TimeoutConnectionLost)?;
        if let Some((call, start)) = traced {
            call::note_wait(call, "ask_leader", start, None);
        }
        match reply.reply {
            Some(leader_reply::Reply::Error(error)) => Err(RequestError::Remote {
                code: error.kind.parse().unwrap_or(UNKNOWN),
                message: error.message,
            }),
            Some(reply) => Ok(reply),
            None => Err(RequestError::Stopped),
        }
    }
}

impl Door for Handle {
    async fn propose(&self, op: Op) -> Result<AppliedOutcome, RequestError> {
        let shared = &self.shared;
        let sequence = shared.next_sequence();
        let id = RequestId { member: shared.origin, sequence };
        let command = Bytes::from(Command { id: Some(id), op: Some(op) }.encode_to_vec());
        if command.len() > shared.request_bytes_max {
            return Err(RequestError::TooLarge);
        }
        let (began_us, deadline_us) = (shared.now_us(), shared.deadline_us());
        let kept = Some(command.clone());
        let proposal = Proposal { sequence, deadline_us, command };
        let _flight = shared.flights.begin(id.member, sequence);
        let ended = self.await_end(sequence, deadline_us, kept, |inbox| inbox.propose(proposal));
        match ended.await? {
            Ended::Applied {
                index,
                term,
                completion: Completion::Command(outcome),
                applied_us,
            } => {
                let now_us = shared.now_us();
                let took_us = now_us.saturating_sub(applied_us);
                shared.metrics.stages.note(Stage::Reply, took_us, 1);
                shared.vitals.note_write(now_us, now_us.saturating_sub(began_us));
                Ok(AppliedOutcome { index, term, response: outcome.result? })
            }
            Ended::Applied { .. } => Err(RequestError::Stopped),
            Ended::Refused(error) => Err(error),
        }
    }

    async fn linearizable_view(&self) -> Result<View, RequestError> {
        let shared = &self.shared;
        let began = *shared.led.borrow();
        let traced = call::current().map(|call| (call, SystemTime::now()));
        let ticket = shared.next_sequence();
        let deadline_us = shared.deadline_us();
        let receiver = shared.reads.draw(ticket, deadline_us, ());
        let _held = Held { tickets: &shared.reads, ticket };
        if !shared.inbox.read(ticket) {
            return Err(shared.inbox.refusal());
        }
        let index = match receiver.await {
            Ok(Some(index)) => index,
            Ok(None) => return Err(self.timeout_since(began)),
            Err(_) => return Err(self.unanswered(deadline_us, began)),
        };
        let asked = traced.map(|(call, start)| {
            call::note_wait(call, "read_index", start, Some(index));
            (call, SystemTime::now())
        });
        if !shared.applied.reached_already(index) {
            let left = Duration::from_micros(deadline_us.saturating_sub(shared.now_us()));
            let reached = tokio::time::timeout(left, shared.applied.wait_for(index)).await;
            reached.map_err(|_| self.timeout_since(began))?;
            if let Some((call, start)) = asked {
                call::note_wait(call, "wait_applied", start, Some(index));
            }
        }
        Ok(self.view())
    }

    fn view(&self) -> View {
        View::clone(&self.shared.view.load())
    }

    fn status(&self) -> Arc<NodeStatus> {
        self.shared.status.load_full()
    }

    fn leadership(&self) -> Leadership {
        *self.shared.leadership.borrow()
    }

    fn leader_changes(&self) -> watch::Receiver<Leadership> {
        self.shared.leadership.subscribe()
    }

    async fn change_membership(
        &self,
        change: door::MembershipChange,
    ) -> Result<Vec<Member>, RequestError> {
        self.change_members(change).await
    }

    async fn move_leader(&self, to: u64) -> Result<(), RequestError> {
        let shared = &self.shared;
        let mut led = shared.led.subscribe();
        if !led.borrow().is_leader {
            return Err(RequestError::NotLeader);
        }
        if to == shared.identity.member_id {
            return Ok(());
        }
        let ticket = shared.next_sequence();
        let patience = TRANSFER_ELECTIONS * shared.election_timeout;
        let receiver = shared.transfers.draw(ticket, shared.now_us() + duration_us(patience), ());
        let _held = Held { tickets: &shared.transfers, ticket };
        if !shared.inbox.urgent(Input::TransferLeader { ticket, to }) {
            return Err(shared.inbox.refusal());
        }
        let start = SystemTime::now();
        let moved = async {
            receiver.await.map_err(|_| RequestError::Stopped)??;
            let done = led.wait_for(|now| now.leader.is_some() && !now.is_leader).await;
            done.map(drop).map_err(|_| RequestError::Stopped)
        };
        let moved = tokio::time::timeout(patience, moved)
            .await
            .unwrap_or(Err(RequestError::TimeoutLeaderTransfer));
        call::note_rare(|context, parent| {
            let times = (start, SystemTime::now());
            let mut span = Span::new(context, parent, "transfer_leader", times);
            span.error = moved.as_ref().err().map(ToString::to_string);
            span.with("metastore.to", format!("{to:x}"))
        });
        moved
    }

    async fn lease_keep_alive(&self, id: i64) -> Result<i64, RequestError> {
        self.renew_lease(id).await
    }

    async fn lease_time_to_live(&self, id: i64) -> Result<Option<LeaseTtl>, RequestError> {
        self.lease_left(id).await
    }

    async fn defragment(&self) -> Result<(), RequestError> {
        let rebuilt = self.shared.backend.rebuild().await;
        rebuilt.map_err(RequestError::Other)
    }

    async fn submit_tuning(&self, submit: TuningSubmit) -> Result<u64, RequestError> {
        self.submit_plan(submit).await
    }

    fn tuning(&self) -> TuningResponse {
        self.plan()
    }

    fn observe(&self) -> ObserveResponse {
        self.observed()
    }

    fn raft_overdue(&self) -> Duration {
        let due_us = self.shared.raft_due_us.load(Ordering::Relaxed);
        Duration::from_micros(self.shared.now_us().saturating_sub(due_us))
    }

    fn identity(&self) -> Identity {
        self.shared.identity
    }
}

fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(now).unwrap_or_default()
}

/// gRPC's code Unknown.
const UNKNOWN: i32 = 2;

pub(crate) fn duration_us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
