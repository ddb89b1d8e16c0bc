//! etcd's gRPC API: decode, check, ask at the [door](crate::door), fill in the header.
//!
//! Each service is a thin type over the same [`Shared`]. What is common to all calls happens before
//! they get here: [`front`] routes, counts and applies deadlines, `gate` refuses what may not pass,
//! and `error` is the only place where an error becomes a status.

mod admin;
mod auth;
mod cluster;
pub(crate) mod error;
pub mod front;
mod gate;
mod health;
mod kv;
mod lease;
mod maintenance;
mod method;
pub(crate) mod unary;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::etcdserverpb::ResponseHeader;
use tokio::sync::{Semaphore, watch as signal};
use tokio::time::Instant;
use tonic::Status;

use crate::config::Config;
use crate::door::{Door, Leadership, RequestError};
use crate::fanout::Fanout;
use crate::metrics::Metrics;
use crate::seldom::Seldom;
use crate::shutdown::stopped;
use method::CallMetrics;

/// Beyond what a request may hold, so much more is accepted for what gRPC wraps around it.
const GRPC_OVERHEAD_BYTES: usize = 512 * 1024;
/// Writes that may wait for their outcome on this member at a time.
const PROPOSALS_IN_FLIGHT_MAX: usize = 100_000;
/// Answers that take long to compute and do so beside the client threads: large ranges and
/// hashes.
const HEAVY_IN_FLIGHT_MAX: usize = 8;
/// Snapshots sent to clients at a time. One may take as long as its client likes.
const SNAPSHOTS_MAX: usize = 4;
/// Election timeouts without a leader after which a stream that asked for one ends.
const LEADERLESS_ELECTION_TIMEOUTS: u32 = 3;

/// What of the settings the api needs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bytes of a request.
    pub request_bytes_max: usize,
    /// Operations of a txn.
    pub txn_ops_max: usize,
    /// How long a request may wait for its outcome.
    pub request_timeout: Duration,
    /// The election timeout.
    pub election_timeout: Duration,
    /// Seconds of the shortest lease.
    pub lease_ttl_min: i64,
    /// The quota as it is reported; 0: none.
    pub quota_bytes: u64,
    /// Slower unary requests are logged.
    pub warning_unary_request_duration: Duration,
}

impl Settings {
    /// Takes them out of all settings.
    pub fn of(config: &Config) -> Self {
        Self {
            request_bytes_max: config.max_request_bytes,
            txn_ops_max: config.max_txn_ops,
            request_timeout: config.request_timeout(),
            election_timeout: Duration::from_millis(config.election_timeout_ms),
            lease_ttl_min: config.lease_ttl_min(),
            quota_bytes: config.quota_bytes.unwrap_or(0),
            warning_unary_request_duration: config.warning_unary_request_duration,
        }
    }
}

/// What all services of all client threads share.
pub struct Shared<D> {
    pub(crate) door: D,
    pub(crate) settings: Settings,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) calls: CallMetrics,
    pub(crate) fanout: Fanout,
    /// Turns true when the member goes away: streams end then.
    pub(crate) stopping: signal::Receiver<bool>,
    /// Long computations under way.
    pub(crate) heavy: Semaphore,
    /// Snapshots being sent.
    pub(crate) snapshots: Arc<Semaphore>,
    proposals_in_flight: AtomicUsize,
    lease_ids: LeaseIds,
    began: std::time::Instant,
    slow_calls: Seldom,
}

impl<D> std::fmt::Debug for Shared<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl<D: Door> Shared<D> {
    /// Everything the api works with.
    pub fn new(
        door: D,
        settings: Settings,
        metrics: Arc<Metrics>,
        fanout: Fanout,
        stopping: signal::Receiver<bool>,
    ) -> Self {
        Self {
            calls: CallMetrics::new(&metrics),
            lease_ids: LeaseIds::new(door.identity().member_id),
            proposals_in_flight: AtomicUsize::new(0),
            began: std::time::Instant::now(),
            slow_calls: Seldom::default(),
            heavy: Semaphore::new(HEAVY_IN_FLIGHT_MAX),
            snapshots: Arc::new(Semaphore::new(SNAPSHOTS_MAX)),
            door,
            settings,
            metrics,
            fanout,
            stopping,
        }
    }

    /// A call took long. If that is to be told: how many were left out since it last was.
    fn tells_of_slow_call(&self) -> Option<u64> {
        self.slow_calls.is_due(u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// A header without a revision, as cluster calls have it.
    pub(crate) fn header(&self, revision: i64) -> Option<ResponseHeader> {
        let Leadership { term, .. } = self.door.leadership();
        self.header_of_term(revision, term)
    }

    pub(crate) fn header_of_term(&self, revision: i64, raft_term: u64) -> Option<ResponseHeader> {
        let identity = self.door.identity();
        Some(ResponseHeader {
            cluster_id: identity.cluster_id,
            member_id: identity.member_id,
            revision,
            raft_term,
        })
    }

    /// Waits until a stream must end: the member stops, or there has been no leader for long and the
    /// client asked for one.
    pub(crate) async fn stream_over(&self, must_have_leader: bool) -> Status {
        let patience = LEADERLESS_ELECTION_TIMEOUTS * self.settings.election_timeout;
        let mut stopping = self.stopping.clone();
        let mut leaders = self.door.leader_changes();
        let mut patience_ends: Option<Instant> = None;
        loop {
            let is_leaderless = must_have_leader && leaders.borrow_and_update().leader.is_none();
            // A new term without a leader does not begin the wait anew.
            patience_ends =
                is_leaderless.then(|| patience_ends.unwrap_or_else(|| Instant::now() + patience));
            let out_of_patience = async {
                match patience_ends {
                    Some(end) => tokio::time::sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stopped(&mut stopping) => return RequestError::Stopped.into(),
                changed = leaders.changed(), if must_have_leader => {
                    if changed.is_err() {
                        return RequestError::Stopped.into();
                    }
                }
                () = out_of_patience => return RequestError::NoLeader.into(),
            }
        }
    }

    /// Completes the header of an answer of the state, which knows the revision alone.
    pub(crate) fn fill(&self, header: &mut Option<ResponseHeader>, term: u64) {
        let revision = header.as_ref().map_or(0, |header| header.revision);
        *header = self.header_of_term(revision, term);
    }
}

/// Ids for leases whose client left the choice to the server: positive, and unlike those of other
/// members and of this member's earlier boots. Sixteen bits of member, forty of time, then counted.
#[derive(Debug)]
struct LeaseIds {
    next: AtomicU64,
}

impl LeaseIds {
    fn new(member_id: u64) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let milliseconds = u64::try_from(now.as_millis()).unwrap_or_default() & ((1 << 40) - 1);
        Self { next: AtomicU64::new((member_id << 48) | (milliseconds << 8)) }
    }

    fn next(&self) -> i64 {
        loop {
            let id = self.next.fetch_add(1, Ordering::Relaxed) & i64::MAX.cast_unsigned();
            if id != 0 {
                return id.cast_signed();
            }
        }
    }
}

#[cfg(test)]
mod tests;
