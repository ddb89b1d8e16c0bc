//! All that a decision is made from, as one plain value: what the user wants, what Kubernetes has, and
//! what the members say. `observe` fills it in; tests and the simulated cluster write it by hand.
//!
//! Ordinals stand for pods: pod `demo-2` has ordinal 2, claim `data-demo-2` and the peer URL
//! `…//demo-2.demo-peers.…`. A row of the member table belongs to the ordinal its peer URL names,
//! never to one its name or its place in a list suggests.

use std::collections::BTreeMap;

use autotune::planner::MemberRow;
use autotune::{Params, Plan};

use crate::crd::MetaStore;

/// Number of a pod in its set.
pub type Ordinal = i32;

/// One look at one cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Seconds since 1970, when it was looked.
    pub now_s: i64,
    /// The resource, its last status included.
    pub object: MetaStore,
    /// The set of pods; none before the first pass.
    pub workload: Option<Workload>,
    /// Pods there are, also those being deleted.
    pub pods: BTreeMap<Ordinal, Pod>,
    /// Claims there are, also of ordinals that are no more.
    pub claims: BTreeMap<Ordinal, Claim>,
    /// What each running pod's member answered, by the pod's ordinal. No entry: nobody to ask, or no
    /// answer in time.
    pub answers: BTreeMap<Ordinal, Answer>,
    /// The member table by a linearizable read. None: no quorum answered.
    pub members: Option<Vec<Member>>,
    /// Objects under names that are to be ours, made by somebody else: "Service demo".
    pub foreign: Vec<String>,
    /// Secrets that the spec names and that are not there, or lack something: one line each.
    pub missing_secrets: Vec<String>,
    /// The claim of `spec.restoreFrom`, if it is needed and not there.
    pub missing_claim: Option<String>,
    /// Whether services, budgets, policies, secrets or monitors are not as the spec wants them.
    pub children_stale: bool,
    /// An authority is being replaced.
    pub rotating: bool,
    /// Hash of what the pods are to be like now (`resources::pod_hash`).
    pub wanted_hash: String,
}

/// The StatefulSet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// Pods it is told to have.
    pub replicas: i32,
    /// Whether its controller has seen its latest generation: until then a deleted pod might come back
    /// the old way.
    pub settled: bool,
    /// Hash that its template gives to pods.
    pub template_hash: String,
    /// How its pods begin when their directory is empty.
    pub beginning: Option<Beginning>,
    /// It is being deleted.
    pub deleting: bool,
}

/// How a member begins when its directory is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// It founds the cluster together with ordinals 0 to `founders` - 1.
    Found {
        /// How many.
        founders: i32,
    },
    /// It founds the cluster alone, from the snapshot of `spec.restoreFrom`.
    Restore,
    /// It asks the members at these ordinals, and is refused unless they know it and have not seen it.
    Join {
        /// Whom.
        others: Vec<Ordinal>,
    },
}

/// One pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its uid, for deleting this one and no later one.
    pub uid: String,
    /// Being deleted.
    pub deleting: bool,
    /// Ready, as its readiness probe says.
    pub ready: bool,
    /// Seconds since 1970 since when it is ready.
    pub ready_since_s: Option<i64>,
    /// The server's container runs.
    pub running: bool,
    /// Hash of what it was made like.
    pub hash: String,
    /// Why its container does not run: ImagePullBackOff, CrashLoopBackOff, Unschedulable …
    pub waiting: Option<String>,
    /// How the server's container ended last, if it did.
    pub last_exit: Option<Exit>,
    /// Uid of the claim it has mounted by name, if known.
    pub claim_uid: Option<String>,
}

/// How a container ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    /// 0 when told to stop; 2: settings refused; 3: the data directory can not be used.
    pub code: i32,
    /// Its last words.
    pub message: String,
}

/// The server's exit code for "the data of this member are lost, damaged or of no use any more".
pub const EXIT_DATA: i32 = 3;

/// One volume claim.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// Its uid.
    pub uid: String,
    /// Being deleted.
    pub deleting: bool,
    /// Bytes asked for.
    pub requested_bytes: i64,
    /// Bytes it has; 0 until bound.
    pub capacity_bytes: i64,
    /// Its storage class lets it grow.
    pub expandable: bool,
}

/// What a member says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Its id.
    pub member_id: u64,
    /// Its cluster.
    pub cluster_id: u64,
    /// The leader it knows; 0: none.
    pub leader_id: u64,
    /// Its term.
    pub term: u64,
    /// Highest index it knows committed.
    pub commit_index: u64,
    /// Highest index it has applied.
    pub applied_index: u64,
    /// Version of its program.
    pub version: String,
    /// In force on it.
    pub heartbeat_interval_us: u64,
    /// In force on it.
    pub election_timeout_us: u64,
    /// What it sees of the others. `match_index` is of use on the leader only.
    pub peers: Vec<Peer>,
    /// Alarms that are on in the cluster, as far as it has applied.
    pub alarms: Vec<Alarm>,
    /// What it measures of itself and of its links.
    pub row: MemberRow,
    /// The plan of timing as it has applied it. None: it did not say.
    pub tuning: Option<Tuning>,
}

/// The plan of timing as a member has applied it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    /// The newest.
    pub plan: Plan,
    /// Who planned it.
    pub planner: String,
    /// Why.
    pub reason: String,
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// What the member's own flags say.
    pub flags: Params,
    /// What the member uses now.
    pub in_force: Params,
    /// Why the plan does not go on; empty if it does.
    pub held_by: String,
    /// The newest form of plans that every member reads; only the leader knows.
    pub known_by_all: u32,
}

/// An alarm, as etcd has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alarm {
    /// Id of the member it was raised for.
    pub member_id: u64,
    /// NOSPACE or CORRUPT.
    pub kind: String,
}

/// What a member sees of another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// The other's id.
    pub member_id: u64,
    /// In touch.
    pub reachable: bool,
    /// Smoothed round trip; 0: not measured.
    pub rtt_us: u64,
    /// What the leader knows to be in the other's log.
    pub match_index: u64,
}

/// A row of the member table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: u64,
    /// Its name; empty until it has started once.
    pub name: String,
    /// The ordinal its peer URL names; none: added by somebody else, from elsewhere.
    pub ordinal: Option<Ordinal>,
    /// Does not vote.
    pub learner: bool,
    /// Has published client URLs, so it was up at least once.
    pub started: bool,
}
