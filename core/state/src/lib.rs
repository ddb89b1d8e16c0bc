//! What the cluster knows, as a pure function from commands to outcomes.

pub mod alarm;
pub mod backend;
pub mod block;
pub mod check;
pub mod command;
pub mod error;
#[cfg(test)]
mod fixture;
pub mod hash;
pub mod lease;
pub mod membership;
pub mod mvcc;
pub mod outcome;
pub mod parts;
pub mod portable;
mod query;
pub mod record;
pub mod snapshot;
pub mod txn;
pub mod view;
pub mod watch;

pub use command::{Limits, PartsError, State};
pub use error::StateError;
pub use lease::Lease;
pub use mvcc::KeyRange;
pub use mvcc::log::EventPage;
pub use outcome::{Event, LeaseChange, Outcome, Response};
pub use parts::{Applied, Changes, StateParts};
pub use record::{Record, RecordError, Revision};
pub use view::{LeaseInfo, RangePage, View};
