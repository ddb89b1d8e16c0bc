//! How a request reaches the member and comes back: a bounded queue in, a ticket out.
//!
//! The client runtimes hold a [`Handle`] each. A command is encoded once, here, into the bytes that
//! the log, the peers and apply will see. Whoever waits holds a ticket; the apply thread calls the
//! tickets of a whole batch at once. Nobody here takes a lock that apply or the raft thread holds
//! for longer than it takes to move a pointer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use member::consensus::{self, PeerProgress, ProgressState};
use member::{Completion, Input, MembershipRefusal, Proposal, Reply};
use otlp::Span;
use prost::Message as _;
use proto::admin::{Alarm, ObserveResponse, PeerObservation, TuningResponse};
use proto::etcdserverpb::AlarmMember;
use proto::log::command::Op;
use proto::log::{
    Command, Member as MemberRow, MembershipChange, RequestId, TuningSubmit, membership_change,
};
use proto::peer::{LeaderRequest, leader_reply, leader_request};
use state::{StateError, View};
use tokio::sync::watch;

use crate::door::{
    self, AppliedOutcome, Door, Identity, Leadership, LeaseTtl, NodeStatus, RequestError,
};
use crate::figures::Figures;
use crate::inbox::Inbox;
use crate::metrics::{Metrics, Stage};
use crate::peers::{LinkState, PeerLink, Peers};
use crate::renewals::{Renewals, Renewed};
use crate::telemetry::flight::Flights;
use crate::telemetry::{self, call};
use crate::tickets::{AppliedGate, Held, Tickets};
use crate::vitals::{self, Vitals};

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
    pub(crate) proposals: Tickets<Ended>,
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

impl From<MembershipRefusal> for RequestError {
    fn from(refusal: MembershipRefusal) -> Self {
        match refusal {
            MembershipRefusal::NotLeader { .. } => RequestError::NotLeader,
            MembershipRefusal::NotEnoughStarted => RequestError::NotEnoughStarted,
            MembershipRefusal::Unhealthy => RequestError::Unhealthy,
            MembershipRefusal::LearnerNotReady => RequestError::LearnerNotReady,
            MembershipRefusal::NotLearner => StateError::MemberNotLearner.into(),
            MembershipRefusal::NotFound => StateError::MemberNotFound.into(),
            MembershipRefusal::Exists => StateError::MemberExists.into(),
            MembershipRefusal::Tuning(error) => StateError::Tuning(error).into(),
            MembershipRefusal::Busy => RequestError::TooManyRequests,
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
        send: impl FnOnce(&Inbox) -> bool,
    ) -> Result<Ended, RequestError> {
        let shared = &self.shared;
        let began = *shared.led.borrow();
        let receiver = shared.proposals.draw(sequence, deadline_us);
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

    /// Changes the membership, here or at the leader: where in the log the change stands.
    pub(crate) async fn change_membership_by_leader(
        &self,
        change: MembershipChange,
    ) -> Result<u64, RequestError> {
        if self.shared.led.borrow().is_leader {
            if !self.would_remove_this_leader(&change) {
                return self.change_membership_here(change).await;
            }
            // A leader that removes itself is gone before the last voter may have heard that the
            // removal is committed, and without it that voter could never lead.
            self.move_leader(0).await?;
        }
        let call = leader_request::Call::Membership(proto::peer::MembershipProposal {
            change: Some(change),
        });
        match self.ask_leader(call).await? {
            leader_reply::Reply::ReadIndex(reply) => Ok(reply.index),
            _ => Err(RequestError::Stopped),
        }
    }

    fn would_remove_this_leader(&self, change: &MembershipChange) -> bool {
        let own = self.shared.identity.member_id;
        let removes_own = change.kind() == membership_change::Kind::Remove
            && change.member.as_ref().is_some_and(|member| member.id == own);
        let members = self.shared.view.load().members();
        removes_own && members.iter().any(|member| member.id != own && !member.is_learner)
    }

    async fn change_membership_here(
        &self,
        mut change: MembershipChange,
    ) -> Result<u64, RequestError> {
        let sequence = self.shared.next_sequence();
        change.id = Some(RequestId { member: self.shared.origin, sequence });
        let promotes = change.kind() == membership_change::Kind::Promote;
        let done = self.await_change(sequence, change).await;
        if promotes {
            self.shared.metrics.note_promotion(done.as_ref().err());
        }
        done
    }

    async fn await_change(
        &self,
        sequence: u64,
        change: MembershipChange,
    ) -> Result<u64, RequestError> {
        let ended = self
            .await_end(sequence, self.shared.deadline_us(), |inbox| {
                inbox.urgent(Input::ProposeMembership(change))
            })
            .await?;
        match ended {
            Ended::Applied { index, completion: Completion::Membership(result), .. } => {
                result?;
                Ok(index)
            }
            Ended::Applied { .. } => Err(RequestError::Stopped),
            Ended::Refused(error) => Err(error),
        }
    }

    async fn ask_lease(
        &self,
        input: impl FnOnce(u64) -> Input,
        call: leader_request::Call,
    ) -> Result<Option<LeaseTtl>, RequestError> {
        match self.ask_lease_if_leading(input).await? {
            Ok(lease) => Ok(lease),
            Err(_) => match self.ask_leader(call).await? {
                leader_reply::Reply::LeaseTtl(ttl) => Ok(lease_ttl(&ttl)),
                _ => Err(RequestError::Stopped),
            },
        }
    }

    /// The inner error names the leader this member would ask.
    async fn ask_lease_if_leading(
        &self,
        input: impl FnOnce(u64) -> Input,
    ) -> Result<Result<Option<LeaseTtl>, Option<u64>>, RequestError> {
        let led = *self.shared.led.borrow();
        // Where another leads, the raft thread would only say so.
        match led.leader {
            Some(leader) if !led.is_leader => Ok(Err(Some(leader))),
            _ => self.ask_lease_here(input).await,
        }
    }

    /// Has the leader renew leases, at most [`crate::renewals::RENEWALS_PER_CALL_MAX`], in one call. One of an
    /// older version renews the first alone; it is asked for each of the others.
    async fn renew_at_leader(self, ids: Vec<i64>) -> Vec<Renewed> {
        let mut answers = self.renew_in_one_call(&ids).await;
        for id in &ids[answers.len()..] {
            answers.extend(self.renew_in_one_call(&[*id]).await);
        }
        answers
    }

    /// What the leader answers: for all, or for the first alone. An error is everybody's.
    async fn renew_in_one_call(&self, ids: &[i64]) -> Vec<Renewed> {
        let [id, more @ ..] = ids else { return Vec::new() };
        let call = proto::peer::LeaseKeepAlive { id: *id, more: more.to_vec() };
        let mut led = self.shared.led.subscribe();
        let deadline_us = self.shared.deadline_us();
        let reply = loop {
            let call = leader_request::Call::LeaseKeepAlive(call.clone());
            tokio::select! {
                reply = self.ask_leader(call) => break reply,
                // Who was asked may never answer, and to renew twice is to renew once.
                _ = led.changed() => {}
            }
            if self.shared.now_us() >= deadline_us {
                break Err(RequestError::Timeout);
            }
        };
        match reply {
            Ok(leader_reply::Reply::LeaseTtl(first)) => {
                let is_for_all = first.more.len() == more.len();
                let others = if is_for_all { first.more.as_slice() } else { &[] };
                std::iter::once(&first).chain(others).map(|lease| Ok(lease_ttl(lease))).collect()
            }
            Ok(_) => vec![Err(RequestError::Stopped); ids.len()],
            Err(error) => vec![Err(error); ids.len()],
        }
    }

    /// The inner error names the leader this member would ask.
    pub(crate) async fn ask_lease_here(
        &self,
        input: impl FnOnce(u64) -> Input,
    ) -> Result<Result<Option<LeaseTtl>, Option<u64>>, RequestError> {
        let shared = &self.shared;
        let ticket = shared.next_sequence();
        let deadline_us = shared.deadline_us();
        let receiver = shared.leases.draw(ticket, deadline_us);
        let _held = Held { tickets: &shared.leases, ticket };
        if !shared.inbox.urgent(input(ticket)) {
            return Err(shared.inbox.refusal());
        }
        receiver.await.map_err(|_| {
            let is_late = shared.now_us() >= deadline_us;
            if is_late { RequestError::Timeout } else { RequestError::Stopped }
        })
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

/// As a leader tells it: no time at all stands for no lease.
fn lease_ttl(told: &proto::peer::LeaseTtl) -> Option<LeaseTtl> {
    (told.ttl >= 0).then_some(LeaseTtl { ttl: told.ttl, granted_ttl: told.granted_ttl })
}

/// What asks this member to renew a lease.
pub(crate) fn renewal(id: i64) -> impl FnOnce(u64) -> Input {
    move |ticket| Input::LeaseKeepAlive { ticket, id }
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
        let proposal = Proposal { sequence, deadline_us, command };
        let _flight = shared.flights.begin(id.member, sequence);
        match self.await_end(sequence, deadline_us, |inbox| inbox.propose(proposal)).await? {
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
        let receiver = shared.reads.draw(ticket, deadline_us);
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
    ) -> Result<Vec<MemberRow>, RequestError> {
        let change =
            MembershipChange { id: None, kind: change.kind.into(), member: Some(change.member) };
        let index = self.change_membership_by_leader(change).await?;
        // What the leader has applied the caller may expect to see here too.
        let wait = self.shared.applied.wait_for(index);
        tokio::time::timeout(self.shared.request_timeout, wait)
            .await
            .map_err(|_| RequestError::TimeoutAppliedIndex)?;
        Ok(Door::view(self).members())
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
        let receiver = shared.transfers.draw(ticket, shared.now_us() + duration_us(patience));
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
        let lease = match self.ask_lease_if_leading(renewal(id)).await? {
            Ok(lease) => lease,
            Err(_) => {
                let handle = self.clone();
                let ask = move |ids| handle.clone().renew_at_leader(ids);
                self.shared.renewals.renew(id, ask).await?
            }
        };
        if lease.is_some() && self.shared.led.borrow().is_leader {
            self.shared.metrics.leases_renewed.inc();
        }
        Ok(lease.map_or(0, |lease| lease.ttl))
    }

    async fn lease_time_to_live(&self, id: i64) -> Result<Option<LeaseTtl>, RequestError> {
        let call = leader_request::Call::LeaseTimeToLive(proto::peer::LeaseTimeToLive { id });
        self.ask_lease(|ticket| Input::LeaseTimeToLive { ticket, id }, call).await
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
        let shared = &self.shared;
        let view = Door::view(self);
        let now_us = shared.now_us();
        let signs = shared.vitals.signs(now_us);
        let mut response = ObserveResponse {
            member_id: shared.identity.member_id,
            cluster_id: shared.identity.cluster_id,
            version: crate::version::VERSION.to_owned(),
            revision: view.revision(),
            state_bytes: view.size_in_use_bytes(),
            batches: Some(shared.figures.batches()),
            syncs: Some(shared.figures.syncs()),
            alarms: view.alarms().iter().map(alarm).collect(),
            tuning_epoch: view.tuning().epoch,
            tuning_phase: view.tuning().phase,
            boot_id: shared.origin,
            uptime_us: now_us,
            is_learner: shared.leadership.borrow().is_learner,
            loop_stalls: Some(vitals::distribution(signs.loop_stalls)),
            loop_stall_max_us: signs.loop_stall_max_us,
            sync_times: Some(vitals::distribution(signs.syncs)),
            sync_max_us: signs.sync_max_us,
            heartbeat_gaps: Some(vitals::distribution(signs.heartbeat_gaps)),
            writes: Some(vitals::distribution(signs.writes)),
            writes_per_second: signs.writes_per_second,
            ..ObserveResponse::default()
        };
        let links = self.peers.links();
        let status = shared.replica.load();
        if let Some(status) = status.as_ref() {
            response.leader_id = status.leader.unwrap_or_default();
            response.term = status.term;
            response.commit_index = status.commit;
            response.applied_index = status.applied;
            response.first_log_index = status.first_index;
            response.log_bytes = status.log_bytes_in_memory;
            response.snapshot_index = status.snapshot_index;
            response.elections = Some(vitals::election_stats(status, &shared.vitals.hints()));
            response.heartbeat_interval_us = status.effective_timing.heartbeat_interval_us;
            response.election_timeout_us = status.effective_timing.election_timeout_us;
        }
        response.peers = links
            .values()
            .map(|link| {
                let progress = status.as_ref().and_then(|s| s.progress.get(&link.id));
                peer_observation(link, progress)
            })
            .collect();
        response
    }

    fn raft_overdue(&self) -> Duration {
        let due_us = self.shared.raft_due_us.load(Ordering::Relaxed);
        Duration::from_micros(self.shared.now_us().saturating_sub(due_us))
    }

    fn identity(&self) -> Identity {
        self.shared.identity
    }
}

fn alarm(on: &AlarmMember) -> Alarm {
    Alarm { member_id: on.member_id, kind: on.alarm().as_str_name().to_owned() }
}

fn peer_observation(link: &PeerLink, progress: Option<&PeerProgress>) -> PeerObservation {
    let state = progress.map(|progress| match progress.state {
        ProgressState::Probe => "probe",
        ProgressState::Replicate => "replicate",
        ProgressState::Snapshot => "snapshot",
    });
    let rtt = &link.rtt;
    PeerObservation {
        member_id: link.id,
        reachable: link.state == LinkState::Healthy,
        rtt_srtt_us: rtt.srtt_us(),
        rtt_var_us: rtt.rttvar_us(),
        rtt_min_us: rtt.min_us(),
        rtt_samples: rtt.samples(),
        match_index: progress.map_or(0, |progress| progress.match_index),
        next_index: progress.map_or(0, |progress| progress.next_index),
        state: state.unwrap_or_default().to_owned(),
        inflight: progress.map_or(0, |progress| progress.inflight as u64),
        last_contact_us: link.last_contact.map_or(u64::MAX, duration_us),
        rtt: Some(vitals::distribution(link.round_trips)),
        rtt_age_us: link.rtt_age.map_or(u64::MAX, duration_us),
        rtt_marked: link.rtt_marked,
        gaps: Some(vitals::distribution(link.gaps)),
        probes_sent: link.probes_sent,
        probes_lost: link.probes_lost,
        link: link.state.as_str().to_owned(),
        boot_id: link.boot_id.unwrap_or_default(),
    }
}

fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(now).unwrap_or_default()
}

/// gRPC's code Unknown.
const UNKNOWN: i32 = 2;

fn duration_us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
