//! The door between the api and the node behind it.
//!
//! The api knows requests, the node knows the log; this trait is all they know of each other. In a
//! member it is the handle to the Raft, apply and control threads; in tests it is a store in memory
//! that applies at once. Every method may be called from any client thread.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use proto::admin::{ObserveResponse, TuningResponse};
use proto::log::command::Op;
use proto::log::{Member, TuningSubmit, membership_change};
use state::{StateError, View};
use tokio::sync::watch;

/// Who this member is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster_id: u64,
    /// The member.
    pub member_id: u64,
}

/// What came of a command, as this member applied it.
#[derive(Clone, Debug)]
pub struct AppliedOutcome {
    /// Index of the entry that held it.
    pub index: u64,
    /// Term of this member when it was applied.
    pub term: u64,
    /// The answer.
    pub response: state::Response,
}

/// Who leads, as far as this member knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The leader.
    pub leader: Option<u64>,
    /// The term this member is in.
    pub term: u64,
    /// This member only listens.
    pub is_learner: bool,
}

/// One of the other members, as seen from here.
#[derive(Clone, Debug, Default)]
pub struct PeerStatus {
    /// Its id.
    pub member_id: u64,
    /// It answered lately.
    pub reachable: bool,
    /// It only listens.
    pub is_learner: bool,
    /// How much of the leader's log it has; 0 on followers.
    pub match_index: u64,
    /// What may be, and what is on its way to it; `None` on followers.
    pub road: Option<Road>,
}

/// What a leader sends a follower before it answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Road {
    /// Messages that may be on the way.
    pub window: usize,
    /// Entry bytes that are.
    pub inflight_bytes: u64,
}

/// One member at one moment.
#[derive(Clone, Debug, Default)]
pub struct NodeStatus {
    /// Who this member is.
    pub identity: Identity,
    /// Who leads.
    pub leader: Option<u64>,
    /// The term.
    pub term: u64,
    /// Last entry of the log.
    pub last_index: u64,
    /// Last entry known to be committed.
    pub commit_index: u64,
    /// Last entry applied.
    pub applied_index: u64,
    /// This member only listens.
    pub is_learner: bool,
    /// This member leads.
    pub is_leader: bool,
    /// Size of the store.
    pub db_size_bytes: u64,
    /// Size of what lives in it.
    pub db_size_in_use_bytes: u64,
    /// The heartbeat interval in force.
    pub heartbeat_interval_us: u64,
    /// The election timeout in force.
    pub election_timeout_us: u64,
    /// The others.
    pub peers: Vec<PeerStatus>,
}

/// What is left of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTtl {
    /// Seconds left.
    pub ttl: i64,
    /// Seconds it was granted for.
    pub granted_ttl: i64,
}

/// A change of the members, before it has a request id.
#[derive(Clone, Debug, PartialEq)]
pub struct MembershipChange {
    /// What happens to it.
    pub kind: membership_change::Kind,
    /// The member; only its id matters for a removal or a promotion.
    pub member: Member,
}

/// Why a request did not come to an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The state refused it.
    #[error(transparent)]
    State(#[from] StateError),
    /// Nobody leads.
    #[error("etcdserver: no leader")]
    NoLeader,
    /// Only the leader does this.
    #[error("etcdserver: not leader")]
    NotLeader,
    /// The leader changed before the answer.
    #[error("etcdserver: leader changed")]
    LeaderChanged,
    /// No answer in time.
    #[error("etcdserver: request timed out")]
    Timeout,
    /// No answer in time, and a leader was lost meanwhile.
    #[error("etcdserver: request timed out, possibly due to previous leader failure")]
    TimeoutLeaderFailure,
    /// The way to the leader broke after the request was sent.
    #[error("etcdserver: request timed out, possibly due to connection lost")]
    TimeoutConnectionLost,
    /// Applying took too long to catch up.
    #[error("etcdserver: request timed out, waiting for the applied index took too long")]
    TimeoutAppliedIndex,
    /// The transfer of leadership did not come to an end.
    #[error("etcdserver: request timed out, leader transfer took too long")]
    TimeoutLeaderTransfer,
    /// Too much is under way.
    #[error("etcdserver: too many requests")]
    TooManyRequests,
    /// This member is going away.
    #[error("etcdserver: server stopped")]
    Stopped,
    /// Not on a learner.
    #[error("etcdserver: rpc not supported for learner")]
    LearnerNotSupported,
    /// Leadership cannot go there.
    #[error("etcdserver: bad leader transferee")]
    BadLeaderTransferee,
    /// Members are missing.
    #[error("etcdserver: unhealthy cluster")]
    Unhealthy,
    /// The learner lags too far behind.
    #[error("etcdserver: can only promote a learner member which is in sync with leader")]
    LearnerNotReady,
    /// The change would leave too few members running.
    #[error("etcdserver: re-configuration failed due to not enough started members")]
    NotEnoughStarted,
    /// The leader takes no plan of timing now.
    #[error(transparent)]
    Plan(member::TuningRefusal),
    /// The encoded command is larger than `--max-request-bytes`.
    #[error("etcdserver: request is too large")]
    TooLarge,
    /// The leader, asked on behalf of this request, refused it in these words.
    #[error("{message}")]
    Remote {
        /// gRPC code.
        code: i32,
        /// Message.
        message: String,
    },
    /// Something that has no name in etcd.
    #[error("{0}")]
    Other(String),
}

/// What the api asks of the node.
pub trait Door: Clone + Send + Sync + 'static {
    /// Gets a command into the log and waits until this member has applied it.
    fn propose(&self, op: Op) -> impl Future<Output = Result<AppliedOutcome, RequestError>> + Send;

    /// A view that is not older than this call: asks the leader how far it has come, and waits until
    /// this member has come as far.
    fn linearizable_view(&self) -> impl Future<Output = Result<View, RequestError>> + Send;

    /// The state as this member has it.
    fn view(&self) -> View;

    /// This member at this moment.
    fn status(&self) -> Arc<NodeStatus>;

    /// Who leads now. Asked for with every request, so it has to be cheap.
    fn leadership(&self) -> Leadership;

    /// Who leads, and every change of it.
    fn leader_changes(&self) -> watch::Receiver<Leadership>;

    /// Changes the members; answers with all of them.
    fn change_membership(
        &self,
        change: MembershipChange,
    ) -> impl Future<Output = Result<Vec<Member>, RequestError>> + Send;

    /// Gives the leadership to another member.
    fn move_leader(&self, to: u64) -> impl Future<Output = Result<(), RequestError>> + Send;

    /// Renews a lease; answers with its seconds, 0 for one that does not exist.
    fn lease_keep_alive(&self, id: i64) -> impl Future<Output = Result<i64, RequestError>> + Send;

    /// What is left of a lease.
    fn lease_time_to_live(
        &self,
        id: i64,
    ) -> impl Future<Output = Result<Option<LeaseTtl>, RequestError>> + Send;

    /// Gives back what the store on disk does not use.
    fn defragment(&self) -> impl Future<Output = Result<(), RequestError>> + Send;

    /// Submits a plan of timing; answers with its epoch.
    fn submit_tuning(
        &self,
        submit: TuningSubmit,
    ) -> impl Future<Output = Result<u64, RequestError>> + Send;

    /// The plan of timing, as this member has applied it.
    fn tuning(&self) -> TuningResponse;

    /// What this member observes of itself and of its peers.
    fn observe(&self) -> ObserveResponse;

    /// How long ago the raft thread should have come round; near zero unless it hangs.
    fn raft_overdue(&self) -> Duration;

    /// Who this member is.
    fn identity(&self) -> Identity;
}
