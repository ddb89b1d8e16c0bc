//! One whole member of a cluster, without the machine it runs on.
//!
//! A member is four workers, each a pure function between two doors. They never wait for each
//! other; a shell (the server's threads, or the simulator's event loop) carries values between
//! them:
//!
//! ```text
//!            inputs                              effects
//!   peers ──────────▶ ┌────────┐ net, forward ─────────────▶ peers
//!   callers ────────▶ │ Member │ reply ────────────────────▶ callers
//!   clock ──────────▶ └────────┘ disk ──▶ LogWorker ── Persisted ──▶ (Member)
//!                                apply ─▶ ApplyWorker ─ Applied ───▶ (Member), outcomes ▶ callers
//!                                save ──▶ SnapshotWorker ─ Saved ──▶ (Member)
//! ```
//!
//! What ships is what is simulated: everything that orders disk, network and replies is in this
//! crate. The order it keeps, and that no shell may change:
//!
//! * Invariant: a message that promises durability leaves only after the sync it promises.
//! * Invariant: an outcome is produced only by apply, and apply sees only committed entries that
//!   this member's own log holds durably.
//! * Invariant: the log is released only below a snapshot that is durable and of which an older
//!   generation is still there.
//! * Invariant: a received snapshot is durable before the log restarts at it, and the log has
//!   durably restarted before the state is replaced.
//!
//! [`Effects`] is meant to be destructured without `..`: a new kind of effect then breaks every
//! shell until it is handled.

mod apply;
mod boot;
mod door;
mod effort;
mod hints;
pub mod identity;
mod lease_clock;
mod log_worker;
mod membership;
mod snapshot_policy;
mod snapshot_worker;
mod step;
mod tuning;

pub use apply::{
    Applied, ApplyError, ApplyReport, ApplyTask, ApplyWorker, Completed, Completion, Restored,
    SnapshotJob,
};
pub use boot::{
    BASE_INDEX, BASE_TERM, BootError, Booted, LogRead, Recovery, bootstrap, conf_state_of,
    force_new_cluster, join, read_log, read_snapshots, recover, recover_from,
};
pub use door::{Effects, Forward, Input, LeaseTtl, MemberConfig, Proposal, Reply};
pub use effort::Effort;
pub use hints::{FALSE_HINTS_MAX, FALSE_HINTS_WITHIN_US, HintStatus, SILENCED_US};
pub use lease_clock::LeaseClock;
pub use log_worker::{DiskTask, LogWorker};
pub use membership::MembershipRefusal;
pub use snapshot_policy::SnapshotPolicy;
pub use snapshot_worker::{SnapshotError, SnapshotWorker, SnapshotsHeld};
pub use step::Member;
pub use tuning::{Held, TuningRefusal, TuningStatus};

pub use {autotune, consensus, state, wal};
