//! What a user writes about the tuning of timing and batching, and what is reported of it.
//!
//! The report is also the operator's memory: what was good before, since when something is tried, how
//! often it was taken back. Numbers in it are rounded so that it is written when something happens, and
//! not whenever somebody measures.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Timing and batching from the round trips that members measure.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("self.heartbeat.minMs <= self.heartbeat.maxMs")
        .message("autotune.heartbeat.minMs must not be above autotune.heartbeat.maxMs"),
    validation = Rule::new("(has(self.election.minMs) ? self.election.minMs : self.policy == 'Latency' ? 150 : 300) <= self.election.maxMs")
        .message("autotune.election.minMs (300, or 150 with policy Latency, if it is absent) must not be above autotune.election.maxMs"),
    validation = Rule::new("(has(self.election.minMs) ? self.election.minMs : self.policy == 'Latency' ? 150 : 300) >= 5 * self.heartbeat.minMs")
        .message("autotune.election.minMs (300, or 150 with policy Latency, if it is absent) must be at least 5 times autotune.heartbeat.minMs, or a single late heartbeat starts an election"),
    validation = Rule::new("self.election.maxMs <= 50000")
        .message("autotune.election.maxMs is at most 50000: a leader that is gone would not be missed for a minute")
)]
pub struct AutotuneSpec {
    /// Whether timing is only watched, or also changed.
    #[serde(default)]
    pub mode: AutotuneMode,
    /// What matters most.
    #[serde(default)]
    pub policy: PolicySpec,
    /// Within what the heartbeat interval is chosen.
    #[serde(default)]
    pub heartbeat: HeartbeatRange,
    /// Within what the election timeout is chosen.
    #[serde(default)]
    pub election: ElectionRange,
    /// Nothing is changed for now; what is in force stays.
    #[serde(default)]
    pub paused: bool,
    /// Leaders answer linearizable reads by a lease, without asking a quorum, for up to 0.76 of the
    /// election timeout after they were last heard. Members then wait for the timeout also where a
    /// leader's process is plainly gone.
    #[serde(default)]
    pub lease_reads: bool,
    /// The room in which leaders adapt batches and windows by themselves.
    #[serde(default)]
    pub batching: BatchingSpec,
    /// How sure one has to be, and how long to wait.
    #[serde(default)]
    pub guards: GuardsSpec,
}

/// What tuning does.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AutotuneMode {
    /// Nothing. What is in force stays.
    Off,
    /// It says what it would do.
    #[default]
    Observe,
    /// It does it.
    Auto,
}

/// What matters most.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PolicySpec {
    /// That a lost leader is missed soon.
    Latency,
    /// Both.
    #[default]
    Balanced,
    /// That no leader is lost by mistake.
    Stability,
}

/// Bounds of the heartbeat interval.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeartbeatRange {
    /// Least milliseconds between heartbeats.
    #[serde(default = "default_heartbeat_min")]
    #[schemars(range(min = 5, max = 10_000))]
    pub min_ms: i64,
    /// Most milliseconds between heartbeats.
    #[serde(default = "default_heartbeat_max")]
    #[schemars(range(min = 5, max = 10_000))]
    pub max_ms: i64,
}

fn default_heartbeat_min() -> i64 {
    25
}

fn default_heartbeat_max() -> i64 {
    5_000
}

impl Default for HeartbeatRange {
    fn default() -> Self {
        HeartbeatRange { min_ms: default_heartbeat_min(), max_ms: default_heartbeat_max() }
    }
}

/// Bounds of the election timeout.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ElectionRange {
    /// Least milliseconds. Absent: 300, or 150 with policy Latency: below 300 a single lost packet may
    /// cost a leader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100))]
    pub min_ms: Option<i64>,
    /// Most milliseconds.
    #[serde(default = "default_election_max")]
    #[schemars(range(min = 100))]
    pub max_ms: i64,
}

fn default_election_max() -> i64 {
    10_000
}

impl Default for ElectionRange {
    fn default() -> Self {
        ElectionRange { min_ms: None, max_ms: default_election_max() }
    }
}

/// The room in which leaders adapt batches and windows.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BatchingSpec {
    /// Whether leaders adapt at all.
    #[serde(default)]
    pub mode: BatchingMode,
    /// Longest wait of a batch for company.
    #[serde(default = "default_linger")]
    #[schemars(range(min = 0, max = 100_000))]
    pub max_linger_micros: i64,
    /// Most bytes in a message to a follower, such as 1Mi.
    #[serde(default = "default_message_bytes")]
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).isInteger() && quantity(self).compareTo(quantity('1Ki')) >= 0 && quantity(self).compareTo(quantity('32Mi')) <= 0")
        .message("autotune.batching.maxMessageBytes is a quantity of bytes from 1Ki to 32Mi, such as 1Mi"))]
    pub max_message_bytes: String,
    /// Most bytes on their way to a follower, such as 64Mi.
    #[serde(default = "default_inflight_bytes")]
    #[schemars(length(min = 1, max = 32))]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).isInteger() && quantity(self).compareTo(quantity('32Mi')) >= 0 && quantity(self).compareTo(quantity('1Gi')) <= 0")
        .message("autotune.batching.maxInflightBytes is a quantity of bytes from 32Mi to 1Gi, such as 64Mi"))]
    pub max_inflight_bytes: String,
    /// Whether messages may be compressed on their way to a follower. False waits until all members know such plans.
    #[serde(default = "default_compression")]
    pub compression: bool,
}

fn default_compression() -> bool {
    true
}

fn default_linger() -> i64 {
    2_000
}

fn default_message_bytes() -> String {
    "1Mi".to_owned()
}

fn default_inflight_bytes() -> String {
    "64Mi".to_owned()
}

impl Default for BatchingSpec {
    fn default() -> Self {
        BatchingSpec {
            mode: BatchingMode::default(),
            max_linger_micros: default_linger(),
            max_message_bytes: default_message_bytes(),
            max_inflight_bytes: default_inflight_bytes(),
            compression: default_compression(),
        }
    }
}

/// Whether leaders adapt.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BatchingMode {
    /// Plans leave batches and windows as the members' flags have them.
    Off,
    /// Leaders adapt within the bounds here.
    #[default]
    Auto,
}

/// How sure one has to be, and how long to wait.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GuardsSpec {
    /// Seconds between two looks at what members measure.
    #[serde(default = "default_evaluation")]
    #[schemars(range(min = 1, max = 3_600))]
    pub evaluation_seconds: i64,
    /// Looks in a row that have to agree before an election timeout is lowered. A member that was
    /// started less than so many looks ago holds every change up.
    #[serde(default = "default_sustain")]
    #[schemars(range(min = 1, max = 1_000))]
    pub sustain_evaluations: i64,
    /// Seconds after a change before timeouts are lowered; twice as many after each that was taken back.
    #[serde(default = "default_cooldown")]
    #[schemars(range(min = 1, max = 86_400))]
    pub cooldown_seconds: i64,
    /// Seconds for which a lowered timeout is on trial, at least. A leader that is lost by mistake in this
    /// time takes the change back.
    #[serde(default = "default_verify")]
    #[schemars(range(min = 1, max = 86_400))]
    pub verify_seconds: i64,
}

fn default_evaluation() -> i64 {
    30
}

fn default_sustain() -> i64 {
    10
}

fn default_cooldown() -> i64 {
    600
}

fn default_verify() -> i64 {
    120
}

impl Default for GuardsSpec {
    fn default() -> Self {
        GuardsSpec {
            evaluation_seconds: default_evaluation(),
            sustain_evaluations: default_sustain(),
            cooldown_seconds: default_cooldown(),
            verify_seconds: default_verify(),
        }
    }
}

/// What tuning has seen and done.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AutotuneStatus {
    /// Off, Manual, Collecting, Waiting, Recommending, Held, Applying, Verifying or Converged.
    pub phase: String,
    /// Number of the newest plan; 0: there was none, and members use their flags.
    #[serde(default)]
    pub epoch: i64,
    /// What the newest plan sets. Absent: members use their flags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<TimingStatus>,
    /// What would be right now, if that is something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recommended: Option<TimingStatus>,
    /// What a change that fails goes back to. Absent: the members' flags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_known_good: Option<TimingStatus>,
    /// What members measure, rounded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<ObservedStatus>,
    /// The newest change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_change: Option<ChangeStatus>,
    /// Changes before it, the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5))]
    pub history: Vec<ChangeStatus>,
    /// What an operator that is started anew goes on from. Times in it are Unix milliseconds.
    #[serde(default)]
    pub memory: MemoryStatus,
}

/// A timing, with the bounds of batching that go with it.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TimingStatus {
    /// Milliseconds between heartbeats.
    pub heartbeat_ms: f64,
    /// Milliseconds of the election timeout.
    pub election_ms: f64,
    /// Milliseconds a leader may answer reads by itself; 0: never.
    pub lease_ms: f64,
    /// Most commands in an entry.
    pub batch_commands: i64,
    /// Longest wait of a batch for company.
    pub linger_micros: i64,
    /// Most bytes in a message to a follower.
    pub message_bytes: i64,
    /// Most messages on their way to a follower.
    pub inflight_messages: i64,
    /// Their bytes.
    pub inflight_bytes: i64,
    /// Nothing is compressed between members.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_compression: bool,
}

/// What members measure, rounded: a figure is replaced by one that differs by half.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ObservedStatus {
    /// Slowest smoothed round trip between two voters, in milliseconds.
    pub max_rtt_ms: String,
    /// Slowest of a hundred, in milliseconds.
    pub p99_rtt_ms: String,
    /// The pair with the slowest round trip, "demo-0/demo-2", unless all are within a millisecond.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worst_pair: Option<String>,
    /// Probes lost, of a million.
    pub loss_ppm: i64,
    /// The longest wait for a heartbeat, but for one in a thousand, as a part of the election timeout.
    pub slack: String,
    /// Round trips measured of every pair of voters, at least: 0, 50 or 300.
    pub samples: i64,
    /// A member that is far from all others, while they are close to each other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_member: Option<String>,
}

/// A change of timing.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ChangeStatus {
    /// Number of the plan.
    pub epoch: i64,
    /// What was in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<TimingStatus>,
    /// What the plan sets. Absent: the members' flags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<TimingStatus>,
    /// Why.
    pub reason: String,
    /// Who planned it: the operator, or somebody with metactl.
    pub planner: String,
    /// When.
    pub at: String,
    /// What became of it.
    pub result: ChangeResult,
}

/// What became of a change.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChangeResult {
    /// Not every voter has confirmed it yet.
    #[default]
    Applying,
    /// It is in force and on trial.
    Verifying,
    /// It stays.
    Verified,
    /// It was taken back.
    RolledBack,
    /// Another came before it had proved itself.
    Superseded,
}

/// What an operator that is started anew goes on from. Times are Unix milliseconds.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MemoryStatus {
    /// Generation of the spec that it was kept under: another one ends a freeze.
    #[serde(default)]
    pub generation: i64,
    /// When the newest plan was seen first.
    #[serde(default)]
    pub epoch_at: i64,
    /// A plan that was decided on and has not shown up yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<PendingStatus>,
    /// The change on trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verifying: Option<VerifyingStatus>,
    /// When plans were decided on, in the last hour.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub plans_at: Vec<i64>,
    /// When plans were taken back, in the last day.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub rollbacks_at: Vec<i64>,
    /// When a timeout was lowered last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lowered_at: Option<i64>,
    /// The newest change was one of several steps down.
    #[serde(default)]
    pub descending: bool,
    /// How often the wait between changes is doubled.
    #[serde(default)]
    pub doublings: i64,
    /// When it was doubled last.
    #[serde(default)]
    pub doubled_at: i64,
    /// Since when a shorter timeout is asked for without a break.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lower_since: Option<i64>,
    /// Since when other heartbeats or windows are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fit_since: Option<i64>,
    /// Since when heartbeats need too much of the timeout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slack_since: Option<i64>,
    /// Leaders lost by mistake, as each member counted last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub elections: Vec<MemberElections>,
    /// When they were lost, in the last hour.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub false_elections_at: Vec<i64>,
    /// Long silences of leaders, in the last day.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 25))]
    pub silences: Vec<SilenceStatus>,
    /// Too many plans were taken back: nothing is changed until the spec is.
    #[serde(default)]
    pub unstable: bool,
    /// Id of the member that was told to be slow, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow: Option<String>,
}

/// A plan that was decided on.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PendingStatus {
    /// What it sets. Absent: the members' flags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<TimingStatus>,
    /// How it is judged.
    pub kind: ChangeKind,
    /// Why.
    pub reason: String,
    /// When it was decided on.
    pub at: i64,
    /// Writes at that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writes: Option<WritesStatus>,
}

/// How a change is judged.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChangeKind {
    /// Longer timeouts are good at once.
    #[default]
    Raise,
    /// Shorter ones are on trial.
    Trial,
    /// Goes back to what was good.
    Rollback,
}

/// A change on trial.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct VerifyingStatus {
    /// Number of its plan.
    pub epoch: i64,
    /// When it was decided on.
    pub decided_at: i64,
    /// Since when it is in force everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled_at: Option<i64>,
    /// Writes before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writes: Option<WritesStatus>,
}

/// How writes fared.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct WritesStatus {
    /// 99 of 100 took no longer.
    pub p99_micros: i64,
    /// How many there were.
    pub per_second: i64,
}

/// Leaders lost by mistake, as a member counts since it was started.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct MemberElections {
    /// Id of the member in hexadecimal.
    pub member: String,
    /// Which start of it, in hexadecimal.
    pub boot: String,
    /// How many.
    pub count: i64,
}

/// A long silence of a leader.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SilenceStatus {
    /// In which hour since 1970.
    pub hour: i64,
    /// How long.
    pub micros: i64,
}
