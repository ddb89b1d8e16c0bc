//! What the operator reports.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::AutotuneStatus;

/// What the operator reports.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MetaStoreStatus {
    /// The generation of the spec that all below is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Id of the cluster in hexadecimal. Once set, no member ever founds a cluster again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// Pods there are.
    #[serde(default)]
    pub replicas: i32,
    /// Selects the pods, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// "2/3": members that serve, of those wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,
    /// Pod of the leader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// "0.7ms": the slowest smoothed round trip between the leader and a voter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt: Option<String>,
    /// Heartbeat interval in force on the leader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<String>,
    /// Election timeout in force on the leader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub election: Option<String>,
    /// The version that all members run, or "old, new" while a roll is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// "3/2": voters in touch with the leader, of those a quorum needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum: Option<String>,
    /// One word on what the operator does or waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Available, Progressing, Degraded, AutotuneReady, QuorumLost, EvenSize.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Each member.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<MemberStatus>,
    /// What is being carried out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,
    /// What the tuning of the timing has seen and done. Absent with a single member that nothing was set
    /// for, and before there is a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autotune: Option<AutotuneStatus>,
    /// When a member whose data was damaged was last replaced: the next waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_replacement: Option<String>,
}

/// One member.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// Its pod, or the name it was added with.
    pub name: String,
    /// Its id in hexadecimal.
    pub id: String,
    /// leader, voter, learner, or unknown to the operator ("foreign").
    pub role: String,
    /// Whether it serves.
    pub ready: bool,
    /// What it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Entries of the log that the leader has committed and it has not applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<i64>,
    /// Smoothed round trip to the leader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt: Option<String>,
    /// Uid of the claim its data is on. Another claim under the same name means that the data is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim_uid: Option<String>,
}

/// What is being carried out, so that whoever reads it, an operator that was just started among them,
/// knows why the cluster looks as it does.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Operation {
    /// What.
    pub kind: OperationKind,
    /// How far: the last step that was decided on.
    pub phase: String,
    /// The member it is about, by pod name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
    /// Its id in hexadecimal, where it matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member_id: Option<String>,
    /// Since when.
    pub since: String,
}

/// Kinds of operations.
#[derive(
    Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord,
)]
#[allow(missing_docs, reason = "the words say it")]
pub enum OperationKind {
    Bootstrap,
    Restore,
    ScaleOut,
    ScaleIn,
    Replace,
    Roll,
    Hibernate,
    Wake,
    Expand,
}
