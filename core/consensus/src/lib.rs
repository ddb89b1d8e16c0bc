//! What the cluster agrees on: one raft replica as a pure state machine.
//!
//! [`Replica`] wraps raft-rs. Inputs are method calls (a tick, a message, a proposal, "this is
//! durable"); everything it wants done comes out of [`Replica::take_output`] as plain data. It has
//! no clock, no thread, no file and no randomness: the same calls give the same outputs, so the
//! simulator runs exactly what ships.
//!
//! The way of a write: `propose` puts the command into the batch in the making (`batch`);
//! `take_output` turns the batch into entries, which leave for the followers and for the disk at
//! the same time. `persisted` says that the disk has them; only then does this member count itself.
//! When a majority has an entry it is `committed`, and comes out to be applied once it is durable
//! here too.
//!
//! | where | what |
//! |---|---|
//! | `replica` | the state machine and the order of things |
//! | `outbox` | writes and messages on their way out: what must wait for what |
//! | `log_cache` | the log as raft sees it, a window in memory |
//! | `flow` | how much is on its way to a follower |
//! | `durable` | who may know of a commit before the leader does |
//! | `lease` | when a leader needs to ask nobody |
//! | `reads` | linearizable reads, many per round |
//! | `timing` | heartbeats and timeouts that change while raft runs |
//! | `membership` | one member comes or goes |
//! | `validate` | what a peer may say |
//! | `boot` | what the disk may say |
//! | `convert` | raft-rs's structs and ours |
//! | [`rtt`] | estimators of the round trip |

mod batch;
mod boot;
mod config;
mod convert;
mod durable;
mod error;
mod flow;
mod lately;
mod lease;
mod log_cache;
mod membership;
mod outbox;
mod output;
mod pace;
mod reads;
mod replica;
pub mod rtt;
mod timing;
mod validate;

pub use config::{Boot, Config};
pub use error::{ConsensusError, MembershipError, ProposeError, Rejected, TransferError};
pub use output::{
    ElectionCause, ElectionCauses, Leadership, Output, PeerProgress, Persist, ProgressState,
    ReadReady, Role, Status,
};
pub use replica::Replica;
