//! A node for tests of the api: one member that applies at once, in memory, and a server around it on
//! a port of the loopback.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use proto::log::command::Op;
use proto::log::{Command, Member, RequestId};
use state::{Limits, State, StateError, StateParts, View};
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};

use crate::api::{Settings, Shared};
use crate::config::{Config, Url};
use crate::door::{
    AppliedOutcome, Door, Identity, Leadership, LeaseTtl, MembershipChange, NodeStatus,
    RequestError,
};
use crate::fanout::Fanout;
use crate::metrics::Metrics;
use crate::serve::{self, Content, Listener, ServeOptions, Serving};

pub(crate) const MEMBER_ID: u64 = 0xa1;
pub(crate) const CLUSTER_ID: u64 = 0xc1;
pub(crate) const TERM: u64 = 7;

#[derive(Clone)]
pub(crate) struct FakeNode {
    parts: Arc<Parts>,
}

struct Parts {
    state: Mutex<(State, View)>,
    leadership: watch::Sender<Leadership>,
    fanout: Fanout,
    /// Linearizable reads and proposals fail.
    is_cut_off: AtomicBool,
    /// Proposals never come back.
    is_stuck: AtomicBool,
    raft_overdue_s: AtomicU64,
}

impl FakeNode {
    pub(crate) fn new(metrics: &Arc<Metrics>, progress_interval: Duration, quota: i64) -> Self {
        let member = Member {
            id: MEMBER_ID,
            name: "m1".to_owned(),
            peer_urls: vec!["http://127.0.0.1:2380".to_owned()],
            client_urls: vec!["http://127.0.0.1:2379".to_owned()],
            is_learner: false,
        };
        let limits = Limits { quota_bytes: quota, ..Limits::default() };
        let mut state =
            State::from_parts(StateParts::new_cluster(&[member]), limits).expect("a new cluster");
        let view = state.publish();
        let panicked = |reason| panic!("{reason}");
        let fanout = Fanout::start(&view, progress_interval, Arc::clone(metrics), panicked);
        let leadership = Leadership { leader: Some(MEMBER_ID), term: TERM, is_learner: false };
        let parts = Parts {
            state: Mutex::new((state, view)),
            leadership: watch::Sender::new(leadership),
            fanout: fanout.expect("a thread"),
            is_cut_off: AtomicBool::new(false),
            is_stuck: AtomicBool::new(false),
            raft_overdue_s: AtomicU64::new(0),
        };
        Self { parts: Arc::new(parts) }
    }

    pub(crate) fn fanout(&self) -> Fanout {
        self.parts.fanout.clone()
    }

    pub(crate) fn lose_leader(&self) {
        self.parts.is_cut_off.store(true, Ordering::Release);
        self.parts.leadership.send_modify(|leadership| leadership.leader = None);
    }

    pub(crate) fn become_learner(&self) {
        self.parts.leadership.send_modify(|leadership| leadership.is_learner = true);
    }

    /// The raft thread has not moved for so long.
    pub(crate) fn hang_raft(&self, seconds: u64) {
        self.parts.raft_overdue_s.store(seconds, Ordering::Release);
    }

    pub(crate) fn get_stuck(&self) {
        self.parts.is_stuck.store(true, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, (State, View)> {
        self.parts.state.lock().expect("no test panics while it applies")
    }

    /// Applies a command, publishes the view and tells the watchers.
    pub(crate) fn apply(&self, op: Op) -> Result<AppliedOutcome, RequestError> {
        let mut state = self.lock();
        let index = state.0.applied().0 + 1;
        let id = Some(RequestId { member: MEMBER_ID, sequence: index });
        let outcome = state.0.apply(index, TERM, &Command { id, op: Some(op) });
        state.0.sweep(usize::MAX);
        let changes = state.0.take_changes();
        state.1 = state.0.publish();
        self.parts.fanout.applied(&state.1, &changes, false);
        Ok(AppliedOutcome { index, term: TERM, response: outcome.result? })
    }
}

impl Door for FakeNode {
    async fn propose(&self, op: Op) -> Result<AppliedOutcome, RequestError> {
        if self.parts.is_stuck.load(Ordering::Acquire) {
            std::future::pending::<()>().await;
        }
        if self.parts.is_cut_off.load(Ordering::Acquire) {
            return Err(RequestError::Timeout);
        }
        self.apply(op)
    }

    async fn linearizable_view(&self) -> Result<View, RequestError> {
        if self.parts.is_cut_off.load(Ordering::Acquire) {
            return Err(RequestError::Timeout);
        }
        Ok(self.view())
    }

    fn view(&self) -> View {
        self.lock().1.clone()
    }

    fn status(&self) -> Arc<NodeStatus> {
        let leadership = self.leadership();
        let index = self.lock().0.applied().0;
        Arc::new(NodeStatus {
            identity: self.identity(),
            leader: leadership.leader,
            term: TERM,
            last_index: index,
            commit_index: index,
            applied_index: index,
            is_learner: leadership.is_learner,
            is_leader: leadership.leader.is_some(),
            db_size_bytes: 4096,
            db_size_in_use_bytes: 1024,
            ..NodeStatus::default()
        })
    }

    fn leadership(&self) -> Leadership {
        *self.parts.leadership.borrow()
    }

    fn leader_changes(&self) -> watch::Receiver<Leadership> {
        self.parts.leadership.subscribe()
    }

    async fn change_membership(
        &self,
        change: MembershipChange,
    ) -> Result<Vec<Member>, RequestError> {
        let mut state = self.lock();
        let index = state.0.applied().0 + 1;
        let change = proto::log::MembershipChange {
            id: None,
            kind: change.kind.into(),
            member: Some(change.member),
        };
        let members = state.0.apply_membership(index, TERM, &change)?;
        state.1 = state.0.publish();
        Ok(members)
    }

    async fn move_leader(&self, to: u64) -> Result<(), RequestError> {
        if to == MEMBER_ID { Ok(()) } else { Err(RequestError::BadLeaderTransferee) }
    }

    async fn lease_keep_alive(&self, id: i64) -> Result<i64, RequestError> {
        let lease = self.view().lease(id).ok_or(StateError::LeaseNotFound)?;
        Ok(lease.granted_ttl)
    }

    async fn lease_time_to_live(&self, id: i64) -> Result<Option<LeaseTtl>, RequestError> {
        let lease = self.view().lease(id);
        Ok(lease.map(|lease| LeaseTtl { ttl: lease.granted_ttl, granted_ttl: lease.granted_ttl }))
    }

    async fn defragment(&self) -> Result<(), RequestError> {
        Ok(())
    }

    async fn submit_tuning(&self, submit: proto::log::TuningSubmit) -> Result<u64, RequestError> {
        match self.propose(Op::TuningSubmit(submit)).await?.response {
            state::Response::Tuning { epoch } => Ok(epoch),
            other => panic!("a plan was answered with {other:?}"),
        }
    }

    fn tuning(&self) -> proto::admin::TuningResponse {
        proto::admin::TuningResponse {
            member_id: self.identity().member_id,
            tuning: Some(self.view().tuning().clone()),
            ..proto::admin::TuningResponse::default()
        }
    }

    fn observe(&self) -> proto::admin::ObserveResponse {
        proto::admin::ObserveResponse {
            member_id: self.identity().member_id,
            ..proto::admin::ObserveResponse::default()
        }
    }

    fn raft_overdue(&self) -> Duration {
        Duration::from_secs(self.parts.raft_overdue_s.load(Ordering::Acquire))
    }

    fn identity(&self) -> Identity {
        Identity { cluster_id: CLUSTER_ID, member_id: MEMBER_ID }
    }
}

/// A server around a fake node. Dropping it stops both.
pub(crate) struct Served {
    pub(crate) node: FakeNode,
    pub(crate) address: SocketAddr,
    pub(crate) shared: Arc<Shared<FakeNode>>,
    pub(crate) stop: watch::Sender<bool>,
    serving: Option<Serving>,
}

impl Served {
    /// With the settings of a member started without flags.
    pub(crate) fn start() -> Self {
        Self::start_with(&Config::defaults(), Content::All)
    }

    pub(crate) fn start_with(config: &Config, content: Content) -> Self {
        let url = Url::parse("http://127.0.0.1:0").expect("a URL");
        let listener = serve::bind_for_test(content, &url).expect("bound");
        let address = listener.tcp_address().expect("an address");
        Self::start_on(config, listener, address)
    }

    pub(crate) fn start_on(config: &Config, listener: Listener, address: SocketAddr) -> Self {
        let metrics = Arc::new(Metrics::new());
        let quota = config.quota_bytes.map_or(-1, u64::cast_signed);
        let node = FakeNode::new(&metrics, config.watch_progress_notify_interval, quota);
        let (stop, stopping) = watch::channel(false);
        let shared = Arc::new(Shared::new(
            node.clone(),
            Settings::of(config),
            metrics,
            node.fanout(),
            stopping,
        ));
        let serving = serve::serve(vec![listener], &shared, ServeOptions::of(config));
        let serving = Some(serving.expect("threads"));
        Self { node, address, shared, stop, serving }
    }

    /// A connection.
    pub(crate) async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).expect("a URL");
        endpoint.connect().await.expect("connected")
    }
}

impl Served {
    /// Stops and waits for the end.
    pub(crate) fn join(&mut self) {
        self.stop.send_replace(true);
        if let Some(serving) = self.serving.take() {
            serving.join();
        }
        self.node.fanout().stop();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.join();
    }
}
