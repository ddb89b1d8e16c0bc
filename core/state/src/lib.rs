//! What the cluster knows, as a pure function from commands to outcomes.
//!
//! The log says what happens and in which order; this room says what that means. [`State::apply`]
//! takes one command of the log, carries it out whole or refuses it, and tells what came of it: an
//! answer for the caller, events for watchers, changes of leases for whoever watches the clock,
//! [`Changes`] for whoever keeps them on disk. Everyone else reads [`View`]s.
//!
//! | to know | see |
//! |---|---|
//! | what a command does | [`command`], [`txn`], [`check`] for what is refused at the door |
//! | what a key was at a revision | [`mvcc`] |
//! | who deletes a leased key, what an alarm refuses, who is a member, how a plan of timing goes on | [`lease`], [`alarm`], [`membership`], [`tuning`] |
//! | what a watcher is told | [`watch`] |
//! | how the state is kept and sent | [`parts`], [`block`], [`backend`], [`snapshot`], [`portable`] |
//! | where values are that are not in memory | [`values`] |
//! | how members compare what they hold | [`hash`] |
//!
//! Invariant: nothing here asks for the time, a random number, or how this member is configured when
//! it decides what a command does. Equal logs make equal states.
//!
//! Invariant: a [`View`] never changes, and neither waits for apply nor makes it wait.
//!
//! What the answers must be is etcd's to say. `tests/golden` has a script for each fact, compared with
//! etcd 3.7.3; `docs/adr/0001-state-structure.md` tells why the state is built as it is.

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
pub mod tuning;
pub mod txn;
pub mod values;
pub mod view;
pub mod watch;

pub use command::{Limits, PartsError, State};
pub use error::StateError;
pub use lease::Lease;
pub use mvcc::log::EventPage;
pub use mvcc::{Both, KeyRange, in_turn};
pub use outcome::{Event, LeaseChange, Outcome, Response};
pub use parts::{Applied, Changes, StateParts};
pub use record::{Record, RecordError, Revision};
pub use tuning::TuningError;
pub use values::{Pin, ValueCache, ValueSource, Values};
pub use view::{LeaseInfo, RangePage, View};
