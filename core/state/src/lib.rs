//! What the cluster knows, as a pure function from commands to outcomes.

// AGREEMENT (remove when met). storage ⇄ state, details in parts.rs:
// * apply yields `parts::Changes` per entry (records, rows, removed by compaction, applied position);
//   `applied.rolling_hash = hash::roll(before, &records)`;
// * `State::from_parts(StateParts) -> Result<State, _>` (compacts again at applied.compact_revision;
//   rows are decoded by their owners);
// * `View`: `applied() -> Applied`, `rows() -> Vec<Row>` sorted by (table, key), `records()` iterator of
//   all kept Records in revision order, `get_at(key, revision) -> Option<Record>` (newest record of the
//   key with mod_main <= revision, tombstones included), `events(...)`, `revision()`,
//   `compact_revision()`. At compact_revision C keep every record with mod_main >= C (also tombstones
//   AT C: a watch from C sees them) and per key the newest < C unless shadowed by one at C or a tombstone.
// member (core/member, already written against this) ⇄ state:
// * `StateParts::rebased(self, index, term) -> StateParts` (applied position set), `StateParts::new_cluster(members: &[proto::log::Member]) -> StateParts`
//   (empty store, revision 1, these members), `StateParts::set_members(&mut self, Vec<proto::log::Member>)` (replaces table; removed ids remembered);
// * `State::from_parts(parts, Limits) -> Result<State, PartsError>`, `State::limits() -> &Limits`, `State::members() -> Vec<Member>`, `State::skip(index, term)` may be
//   called once per entry before its commands with the same index; `State::applied() -> (u64, u64)`; `View::parts() -> StateParts`;
// * `Outcome { result: Result<Response, StateError>, leases: Vec<LeaseChange>, .. }` Clone+Debug; `enum LeaseChange { Granted{id, ttl}, Revoked{id}, Checkpointed{id, remaining_ttl} }` (i64);
// * `View::leases()` iterates LeaseInfo {id, granted_ttl, remaining_ttl}; `View::{applied_index, applied_term, members, revision}`; `snapshot::chunks(&View)`, `snapshot::restore(Vec<Bytes>) -> Result<StateParts, SnapshotError>`.
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
