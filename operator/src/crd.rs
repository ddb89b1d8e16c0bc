//! The `MetaStore` resource: what a user writes, and what the operator reports.
//!
//! The definition that clusters are given is generated from these types ([`definition`]). What a user
//! can get wrong is refused by the API server through the rules here, each with what to do instead.

#![expect(unreachable_pub, reason = "the derive of schemas puts the types into modules of its own")]

mod autotune;
mod reference;
mod status;
mod tls;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, LocalObjectReference, PodSecurityContext, ResourceRequirements, Toleration,
    TopologySpreadConstraint,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};
use kube::{CustomResource, CustomResourceExt, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::autotune::{
    AutotuneMode, AutotuneSpec, AutotuneStatus, BatchingMode, BatchingSpec, ChangeKind,
    ChangeResult, ChangeStatus, ElectionRange, GuardsSpec, HeartbeatRange, MemberElections,
    MemoryStatus, ObservedStatus, PendingStatus, PolicySpec, SilenceStatus, TimingStatus,
    VerifyingStatus, WritesStatus,
};
pub use self::reference::reference;
pub use self::status::{MemberStatus, MetaStoreStatus, Operation, OperationKind};
pub use self::tls::{ClientTls, IssuerRef, PeerTls, TlsMode, TlsSpec};

/// Group of the resource.
pub const GROUP: &str = "metastore.io";
/// Most voters a cluster may have: with each more the quorum grows and writes get slower.
pub const REPLICAS_MAX: i32 = 9;
/// Longest name of a MetaStore: the names of pods, claims and services are made of it.
pub const NAME_CHARS_MAX: usize = 40;

/// A cluster of MetaStore members. `spec: {}` is three members of eight GiB each.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "metastore.io",
    version = "v1alpha1",
    kind = "MetaStore",
    plural = "metastores",
    shortname = "ms",
    category = "all",
    namespaced,
    status = "MetaStoreStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A cluster of MetaStore members: a metadata store that speaks etcd's v3 API.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.ready", description = "Members that serve, of those wanted"),
    printcolumn(name = "Leader", type_ = "string", json_path = ".status.leader", description = "Pod of the member that leads"),
    printcolumn(name = "RTT", type_ = "string", json_path = ".status.rtt", description = "Slowest smoothed round trip between the leader and a voter"),
    printcolumn(name = "HB", type_ = "string", json_path = ".status.heartbeat", description = "Heartbeat interval in force"),
    printcolumn(name = "Election", type_ = "string", json_path = ".status.election", description = "Election timeout in force"),
    printcolumn(name = "Tuning", type_ = "string", json_path = ".status.autotune.phase", description = "How far the tuning of the timing is"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version", description = "Version that all members run"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Epoch", type_ = "integer", json_path = ".status.autotune.epoch", description = "Number of the plan of timing in force", priority = 1),
    printcolumn(name = "Quorum", type_ = "string", json_path = ".status.quorum", description = "Voters in touch, of those needed", priority = 1),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason", description = "What the operator is doing or waiting for", priority = 1),
    validation = Rule::new("self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("the name must begin with a letter, hold only a-z, 0-9 and '-', not end with '-', and be at most 40 characters long: pods and services are named after it"),
    validation = Rule::new("!self.metadata.name.endsWith('-peers')")
        .message("the name must not end with '-peers': so do the names of services that other MetaStores' members find each other by")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("has(self.restoreFrom) == has(oldSelf.restoreFrom) && (!has(self.restoreFrom) || self.restoreFrom == oldSelf.restoreFrom)")
        .message("restoreFrom is read when the cluster is founded and cannot change later: make a new MetaStore to restore another snapshot"),
    validation = Rule::new("has(self.storage.className) == has(oldSelf.storage.className) && (!has(self.storage.className) || self.storage.className == oldSelf.storage.className)")
        .message("storage.className cannot change: make a new MetaStore with restoreFrom a snapshot"),
    validation = Rule::new("self.tls.peer.mode == oldSelf.tls.peer.mode")
        .message("tls.peer.mode cannot change while members talk to each other: make a new MetaStore with restoreFrom a snapshot"),
    validation = Rule::new("self.autotune.mode != 'Auto' || !has(self.raft.heartbeatMs) && !has(self.raft.electionMs)")
        .message("raft.heartbeatMs and raft.electionMs are set by hand, and autotune.mode Auto would change them: remove them, or set autotune.mode to Observe or Off")
)]
pub struct MetaStoreSpec {
    /// Members that vote. Odd sizes: an even one tolerates no more failures than the odd one below it.
    #[serde(default = "default_replicas")]
    #[x_kube(
        validation = Rule::new("self >= 1")
            .message("a cluster has at least one member; set spec.hibernate to true to stop all pods and keep the data"),
        validation = Rule::new("self <= 9")
            .message("a cluster has at most 9 members: with more, every write waits for more of them; 3 or 5 are usual")
    )]
    pub replicas: i32,
    /// Version to run: the tag of the operator's default image. Absent: that image as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9_][A-Za-z0-9_.-]*$')")
        .message("version is the tag of an image, such as 0.1.0; spec.image names a whole image"))]
    pub version: Option<String>,
    /// Image to run instead of the operator's default, with its tag or digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,
    /// When to pull the image: Always, IfNotPresent or Never.
    #[serde(default)]
    pub image_pull_policy: PullPolicy,
    /// Secrets for pulling it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Where each member keeps its data.
    #[serde(default)]
    pub storage: StorageSpec,
    /// Begin with the content of a snapshot instead of empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_from: Option<RestoreSpec>,
    /// Requests and limits of each member. Absent: small requests, so that members are not the first to
    /// be evicted. A limit of CPU slows elections down: better none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// What to add to the pods.
    #[serde(default)]
    pub pod_template: PodTemplate,
    /// Encryption of what clients and members say.
    #[serde(default)]
    pub tls: TlsSpec,
    /// Options of the server.
    #[serde(default)]
    pub server: ServerSpec,
    /// Timing and batching of the consensus, set by hand.
    #[serde(default)]
    pub raft: RaftSpec,
    /// Timing and batching of the consensus, from the round trips that members measure.
    #[serde(default)]
    pub autotune: AutotuneSpec,
    /// Objects for Prometheus' operator.
    #[serde(default)]
    pub monitoring: MonitoringSpec,
    /// Traces of what members do, over OTLP. Absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracing: Option<TracingSpec>,
    /// Who may reach the members.
    #[serde(default)]
    pub network_policy: NetworkPolicySpec,
    /// Stop all pods and keep data and membership; false wakes the cluster again.
    #[serde(default)]
    pub hibernate: bool,
    /// Let the operator only look and report.
    #[serde(default)]
    pub paused: bool,
}

fn default_replicas() -> i32 {
    3
}

/// When an image is pulled.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "Kubernetes' own words")]
pub enum PullPolicy {
    Always,
    #[default]
    IfNotPresent,
    Never,
}

/// The volume of a member.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StorageSpec {
    /// Size of each member's volume. It can grow where the storage class allows.
    #[serde(default = "default_size")]
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(
        validation = Rule::new("isQuantity(self) && quantity(self).isInteger() && quantity(self).isGreaterThan(quantity('0'))")
            .message("storage.size is a quantity of bytes above zero, such as 8Gi"),
        validation = Rule::new("!isQuantity(self) || !isQuantity(oldSelf) || quantity(self).compareTo(quantity(oldSelf)) >= 0")
            .message("storage.size cannot shrink, for volumes cannot: make a new MetaStore with restoreFrom a snapshot")
    )]
    pub size: String,
    /// Storage class. Absent: the cluster's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub class_name: Option<String>,
    /// What becomes of the volume of a member that scaling in has removed.
    #[serde(default = "default_on_scale_in")]
    pub on_scale_in: Retention,
    /// What becomes of the volumes when the MetaStore is deleted.
    #[serde(default = "default_on_delete")]
    pub on_delete: Retention,
}

fn default_size() -> String {
    "8Gi".to_owned()
}

fn default_on_scale_in() -> Retention {
    Retention::Delete
}

fn default_on_delete() -> Retention {
    Retention::Retain
}

impl Default for StorageSpec {
    fn default() -> Self {
        StorageSpec {
            size: default_size(),
            class_name: None,
            on_scale_in: default_on_scale_in(),
            on_delete: default_on_delete(),
        }
    }
}

/// What becomes of a volume that is no longer used.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// It stays.
    Retain,
    /// It goes.
    Delete,
}

/// A snapshot file on a volume.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RestoreSpec {
    /// Claim of the volume that holds the file, in the same namespace.
    #[schemars(length(min = 1, max = 253))]
    pub claim_name: String,
    /// The file's path on that volume.
    #[schemars(length(min = 1, max = 1024))]
    #[x_kube(validation = Rule::new("!self.startsWith('/') && !self.matches('(^|/)[.][.](/|$)')")
        .message("restoreFrom.path is relative to the volume's root and holds no '..'"))]
    pub path: String,
    /// Go on so many revisions later than the snapshot, so that what clients saw since never repeats.
    #[serde(default = "default_bump")]
    #[schemars(range(min = 0))]
    pub bump_revision: i64,
}

fn default_bump() -> i64 {
    1_000_000_000
}

/// What to add to the pods.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodTemplate {
    /// Annotations to add.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Labels to add. Those that the operator sets win.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Replaces the default: pods of one cluster prefer different nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Taints to tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,
    /// Labels that nodes must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Replaces the default: spread over zones where that is possible.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// Priority class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
    /// Replaces the default: user, group and fsGroup 65532, non-root, seccomp RuntimeDefault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_context: Option<PodSecurityContext>,
    /// Seconds a pod may take to hand over leadership and to stop.
    #[serde(default = "default_grace")]
    #[schemars(range(min = 10, max = 3600))]
    pub termination_grace_period_seconds: i64,
}

fn default_grace() -> i64 {
    60
}

impl Default for PodTemplate {
    fn default() -> Self {
        PodTemplate {
            annotations: BTreeMap::new(),
            labels: BTreeMap::new(),
            affinity: None,
            tolerations: Vec::new(),
            node_selector: BTreeMap::new(),
            topology_spread_constraints: Vec::new(),
            priority_class_name: None,
            security_context: None,
            termination_grace_period_seconds: default_grace(),
        }
    }
}

/// Options of the server. What is absent is the server's default.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServerSpec {
    /// Size of the state beyond which only deletions and compactions are taken, such as 2Gi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).isInteger() && quantity(self).isGreaterThan(quantity('0'))")
        .message("server.quota is a quantity of bytes above zero, such as 2Gi"))]
    pub quota: Option<String>,
    /// Bytes of values kept in memory, the recently used ones, such as 512Mi; the others are read from disk. Keys
    /// stay in memory. Absent: all values do. A change is carried out by a rolling restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).isInteger() && !quantity(self).isLessThan(quantity('8Mi'))")
        .message("server.valueCache is a quantity of bytes of at least 8Mi, such as 512Mi; leave it out to keep all values in memory"))]
    pub value_cache: Option<String>,
    /// How members compress what they send each other: Auto for each peer as it pays. Absent: not at all, but chunks
    /// of snapshots. A change is carried out by a rolling restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_compression: Option<PeerCompression>,
    /// Compaction of history by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_compaction: Option<AutoCompaction>,
    /// Entries of the log between two snapshots. Absent: by size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub snapshot_count: Option<i64>,
    /// Largest request, such as 1536Ki.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).isInteger() && quantity(self).isGreaterThan(quantity('0')) && quantity(self).isLessThan(quantity('2Gi'))")
        .message("server.maxRequestSize is a quantity of bytes above zero and below 2Gi, such as 1536Ki"))]
    pub max_request_size: Option<String>,
    /// Most operations in a transaction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_txn_ops: Option<i64>,
    /// Most streams on a connection at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4_294_967_295i64))]
    pub max_concurrent_streams: Option<i64>,
    /// How much is logged: debug, info, warn or error.
    #[serde(default)]
    pub log_level: LogLevel,
}

/// How much is logged.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the words of the flag")]
pub enum LogLevel {
    Debug,
    #[default]
    Info,
    Warn,
    Error,
}

/// How members compress what they send each other.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerCompression {
    /// Fast, for what repeats itself.
    Lz4,
    /// Smaller, for more processor time.
    Zstd,
    /// For each peer, while it pays.
    Auto,
}

/// Compaction of history by itself.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("self.mode == 'periodic' ? self.retention.matches('^([0-9]+(h|m|s))+$|^[0-9]+$') : self.retention.matches('^[0-9]+$')")
    .message("server.autoCompaction.retention is a duration such as 1h30m in mode periodic, and a number of revisions in mode revision"))]
pub struct AutoCompaction {
    /// By age, or by number of revisions.
    pub mode: CompactionMode,
    /// What to keep: a duration such as 1h, or a number of revisions.
    #[schemars(length(min = 1, max = 32))]
    pub retention: String,
}

/// What history is measured by.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the words of the flag")]
pub enum CompactionMode {
    Periodic,
    Revision,
}

/// Timing set by hand, and how commands are gathered. Heartbeat and election timeout are changed while
/// the members run, by a plan that all of them confirm; what is absent is left to autotune, or as it is.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("has(self.heartbeatMs) == has(self.electionMs)")
        .message("raft.heartbeatMs and raft.electionMs are set together, or neither is"),
    validation = Rule::new("!has(self.heartbeatMs) || !has(self.electionMs) || self.electionMs >= 5 * self.heartbeatMs")
        .message("raft.electionMs must be at least 5 times raft.heartbeatMs, or a single late heartbeat starts an election")
)]
pub struct RaftSpec {
    /// Milliseconds between heartbeats of the leader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 5, max = 10_000))]
    pub heartbeat_ms: Option<i64>,
    /// Milliseconds without a leader after which a follower stands for election.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 50, max = 50_000))]
    pub election_ms: Option<i64>,
    /// How client commands are gathered into one entry of the log. A change is carried out by a rolling
    /// restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batch: Option<BatchSpec>,
}

impl RaftSpec {
    /// What was set by hand: milliseconds between heartbeats and of the election timeout.
    pub fn by_hand(&self) -> Option<(i64, i64)> {
        self.heartbeat_ms.zip(self.election_ms)
    }
}

/// How commands are gathered.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BatchSpec {
    /// Most commands in an entry; 1 turns batching off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_commands: Option<i64>,
    /// Longest wait for more commands in microseconds; 0: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub max_wait_us: Option<i64>,
}

/// Objects for Prometheus' operator.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MonitoringSpec {
    /// Which object tells Prometheus where the metrics are.
    #[serde(default)]
    pub monitor: Monitor,
    /// Labels that Prometheus selects it by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Time between scrapes, such as 15s. Absent: as Prometheus is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9]+(ms|s|m)$"), length(max = 16))]
    pub interval: Option<String>,
}

/// Traces of what members do, over OTLP.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TracingSpec {
    /// The collector, as host:port.
    #[schemars(regex(pattern = r"^[^/:$ ]+:[0-9]+$"), length(max = 280))]
    pub endpoint: String,
    /// How traces travel: grpc or http/protobuf.
    #[serde(default)]
    pub protocol: TraceProtocol,
    /// Traces taken per million, beside those that clients take.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub sampling_rate: i64,
}

/// How traces travel.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the words of the flag")]
pub enum TraceProtocol {
    #[default]
    #[serde(rename = "grpc")]
    Grpc,
    #[serde(rename = "http/protobuf")]
    Http,
}

/// Which object tells Prometheus where the metrics are.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "Prometheus' operator's own words")]
pub enum Monitor {
    #[default]
    None,
    ServiceMonitor,
    PodMonitor,
}

/// Who may reach the members.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkPolicySpec {
    /// Make one: the peer port for members only, the client port as clientLabels says, metrics for all.
    #[serde(default = "default_true")]
    pub enabled: bool,
    /// Pods, in the same namespace, that may use the client port, by label. Empty: every pod anywhere.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub client_labels: BTreeMap<String, String>,
}

impl Default for NetworkPolicySpec {
    fn default() -> Self {
        NetworkPolicySpec { enabled: true, client_labels: BTreeMap::new() }
    }
}

fn default_true() -> bool {
    true
}

/// The definition for the API server.
pub fn definition() -> CustomResourceDefinition {
    let mut definition = MetaStore::crd();
    for version in &mut definition.spec.versions {
        let schema = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut());
        let properties = schema.and_then(|schema| schema.properties.as_mut());
        let Some(properties) = properties else { continue };
        properties.values_mut().for_each(forbid_null);
        // Conditions are told apart by their type when two apply them.
        let status = properties.get_mut("status").and_then(|status| status.properties.as_mut());
        if let Some(conditions) = status.and_then(|status| status.get_mut("conditions")) {
            conditions.x_kubernetes_list_type = Some("map".to_owned());
            conditions.x_kubernetes_list_map_keys = Some(vec!["type".to_owned()]);
        }
    }
    definition
}

/// Whether a field has a type of Kubernetes' own, which its documentation explains.
pub(crate) fn is_kubernetes_own(field: &str) -> bool {
    const OWN: [&str; 7] = [
        "affinity",
        "conditions",
        "imagePullSecrets",
        "resources",
        "securityContext",
        "tolerations",
        "topologySpreadConstraints",
    ];
    OWN.contains(&field)
}

/// Null is not a value of our fields: rules would see a field that is there, the operator none.
fn forbid_null(schema: &mut JSONSchemaProps) {
    for (name, field) in schema.properties.iter_mut().flatten() {
        field.nullable = None;
        if !is_kubernetes_own(name) {
            forbid_null(field);
        }
    }
    if let Some(JSONSchemaPropsOrArray::Schema(item)) = &mut schema.items {
        forbid_null(item);
    }
}

/// The same in YAML, as it lies in the chart.
pub fn yaml() -> String {
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    let text = serde_saphyr::to_string_with_options(&definition(), options);
    let text = text.expect("a definition has string keys only");
    format!("# Written by `cargo xtask gen` from operator/src/crd.rs.\n{text}")
}
