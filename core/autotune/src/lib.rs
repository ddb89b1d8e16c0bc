//! Which timing and which batching a member uses, and the rules every choice obeys.
//!
//! Whoever chooses (a flag, an operator, a tuner), the member itself checks: nothing in the
//! safety of the cluster may rest on the chooser being right. So the types live here with their
//! rules, and every door through which a value enters calls `validate`.
//!
//! [`compression`] decides for each follower whether what it is sent is worth compressing.
//! [`Timing`] and [`Batching`] are what a member uses, a [`Plan`] is how a cluster changes it while it
//! runs.

mod batching;
pub mod compression;
mod distribution;
mod plan;
pub mod planner;
mod timing;

pub use batching::{
    Batching, BatchingError, ENTRY_BYTES_CEILING, ENTRY_BYTES_FLOOR, ENTRY_COMMANDS_CEILING,
    LINGER_US_MAX,
};
pub use distribution::{Distribution, LongestOfDay, Percentiles, SUB_BUCKETS, WINDOW_US};
pub use plan::{
    BatchBounds, INFLIGHT_BYTES_CEILING, INFLIGHT_MESSAGES_CEILING, LEASE_PERCENT_MAX,
    MESSAGE_BYTES_CEILING, MESSAGE_BYTES_FLOOR, Origin, PLAN_FORMAT, PLAN_FORMAT_BASE, Params,
    ParamsError, Phase, Plan,
};
pub use timing::{
    ELECTION_TIMEOUT_US_MAX, HEARTBEAT_INTERVAL_US_MIN, HEARTBEATS_PER_ELECTION_MIN, Timing,
    TimingError,
};
