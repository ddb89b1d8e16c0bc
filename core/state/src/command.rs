//! The one writer: commands in the order of the log, each carried out whole or refused.
//!
//! `apply` is a function of the state and the command alone. It asks no clock and no configuration of
//! this member, since its neighbours may be configured otherwise and must come to the same state:
//! limits that are configured are enforced before a command is proposed. Whatever the log holds, a
//! command that makes no sense is refused, on every member alike, and never panics.
//!
//! Quota: the size of the store differs a little between members while compaction is under way, so
//! no command is refused by size. A command that leaves the store above its quota says so in its
//! outcome; the alarm that is then raised goes through the log and refuses what follows.

use std::fmt;

use proto::etcdserverpb::{
    AlarmRequest, AlarmResponse, AlarmType, CompactionRequest, CompactionResponse,
    LeaseCheckpointResponse, LeaseGrantResponse, LeaseRevokeResponse, TxnRequest,
};
use proto::log::command::Op;
use proto::log::{Command, LeaseCheckpoint, LeaseGrant, LeaseRevoke, Member, MembershipChange};
use thiserror::Error;

use crate::alarm::Alarms;
use crate::check;
use crate::error::StateError;
use crate::lease::{self, LEASE_QUOTA_BYTES, Leases};
use crate::membership::Membership;
use crate::mvcc::{Both, Gathered, RestoreError, Store, Transaction, in_turn};
use crate::outcome::{Event, LeaseChange, Outcome, Response, header};
use crate::parts::{Applied, Changes, Row, RowChange, StateParts, Table};
use crate::record::Record;
use crate::tuning::{self, Tuning, TuningError, UnknownFormat};
use crate::values::Values;
use crate::view::View;
use crate::{hash, txn};

/// etcd's quota when none is configured.
pub const QUOTA_BYTES_DEFAULT: u64 = 2 * 1024 * 1024 * 1024;

/// Records a compaction is taken on by with every view published …
const SWEEP_RECORDS_PER_VIEW: usize = 32;

/// … and with every record added since the one before, so that it ends however much is written.
const SWEEP_RECORDS_PER_RECORD: usize = 2;

/// What is configured about a state. None of it changes what a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Compares, or operations of one branch, in a txn.
    pub txn_ops_max: usize,
    /// Size at which NOSPACE is to be raised. 0: etcd's default of 2 GiB; negative: none.
    pub quota_bytes: i64,
    /// Seconds no lease may be shorter than.
    pub lease_ttl_min: i64,
    /// Newest form of plans of timing this member reads. Less than [`autotune::PLAN_FORMAT`] only in tests, which
    /// have a member of an older version so.
    pub plan_format: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            txn_ops_max: check::TXN_OPS_MAX_DEFAULT,
            quota_bytes: 0,
            lease_ttl_min: 2,
            plan_format: autotune::PLAN_FORMAT,
        }
    }
}

impl Limits {
    /// The quota in force; `None` if there is none.
    #[must_use]
    pub fn quota_bytes_max(&self) -> Option<u64> {
        match self.quota_bytes {
            0 => Some(QUOTA_BYTES_DEFAULT),
            configured => u64::try_from(configured).ok(),
        }
    }
}

/// Everything the cluster has agreed on, at one place in the log. `Clone` is cheap.
#[derive(Clone, Default)]
pub(crate) struct Contents {
    pub(crate) store: Store,
    pub(crate) leases: Leases,
    pub(crate) alarms: Alarms,
    pub(crate) membership: Membership,
    pub(crate) tuning: Tuning,
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) rolling_hash: u32,
    pub(crate) limits: Limits,
}

impl Contents {
    pub(crate) fn applied(&self) -> Applied {
        Applied {
            index: self.index,
            term: self.term,
            revision: self.store.revision(),
            compact_revision: self.store.compact_revision(),
            rolling_hash: self.rolling_hash,
        }
    }

    /// Bytes counted against the quota.
    pub(crate) fn bytes(&self) -> u64 {
        self.store.bytes_kept() + self.leases.len() as u64 * LEASE_QUOTA_BYTES
    }

    /// Commands that change keys or leases are refused once the state is known to be corrupt. Reads
    /// are not, as in etcd.
    pub(crate) fn refuse_corrupt(&self) -> Result<(), StateError> {
        if self.alarms.is_on(AlarmType::Corrupt) { Err(StateError::Corrupt) } else { Ok(()) }
    }

    /// Whether a change of who belongs to the cluster makes sense now.
    pub(crate) fn check_membership(&self, change: &MembershipChange) -> Result<(), StateError> {
        self.membership.check(change)?;
        Ok(self.tuning.check_membership(change)?)
    }

    fn refuse_without_space(&self) -> Result<(), StateError> {
        self.refuse_corrupt()?;
        if self.alarms.is_on(AlarmType::Nospace) { Err(StateError::NoSpace) } else { Ok(()) }
    }
}

/// The replicated state of one member. It has one owner, who applies the log to it; everyone else
/// reads the [`View`]s it publishes.
#[derive(Default)]
pub struct State {
    contents: Contents,
    changes: Changes,
    /// Records added since a view was published.
    records_unpublished: usize,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("applied", &self.contents.applied()).finish_non_exhaustive()
    }
}

/// Why parts do not make a state.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PartsError {
    /// Records that cannot be those of one store.
    #[error(transparent)]
    Records(#[from] RestoreError),
    /// A row that its table does not understand.
    #[error("row {key:02x?} of table {table} is damaged or there twice")]
    Row {
        /// The table.
        table: Table,
        /// The row's key.
        key: Vec<u8>,
    },
    /// A live record that hangs on a lease that is not there.
    #[error("key {key} is attached to unknown lease {lease}")]
    Lease {
        /// The key, escaped.
        key: String,
        /// The lease's id.
        lease: i64,
    },
    /// A newer version wrote it.
    #[error(transparent)]
    Format(#[from] UnknownFormat),
}

impl State {
    /// An empty state at revision 1, before the first entry of the log.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self::new_with(limits, Values::default())
    }

    /// As [`State::new`], of a state that keeps its values there.
    #[must_use]
    pub fn new_with(limits: Limits, values: Values) -> Self {
        let store = Store::with_values(values);
        Self { contents: Contents { store, limits, ..Contents::default() }, ..Self::default() }
    }

    /// Where its values are.
    #[must_use]
    pub fn values(&self) -> &Values {
        self.contents.store.values()
    }

    /// A state from its parts, as a snapshot or a backend keeps them.
    ///
    /// # Errors
    /// [`PartsError`] for parts that no state would have come apart into.
    pub fn from_parts(parts: StateParts, limits: Limits) -> Result<Self, PartsError> {
        Self::restore(parts, limits, Values::default())
    }

    /// As [`State::from_parts`], of a state that keeps its values there. Records that come without their
    /// value are in the backend already.
    ///
    /// # Errors
    /// As [`State::from_parts`].
    pub fn restore(parts: StateParts, limits: Limits, values: Values) -> Result<Self, PartsError> {
        let StateParts { applied, rows, records } = parts;
        let records = Gathered::of(records, applied.revision, &values)?;
        Self::build(applied, rows, records, limits, values, &in_turn)
    }

    /// The same of records that have been gathered. What can be done by two threads is given to `both`.
    pub(crate) fn build(
        applied: Applied,
        rows: Vec<Row>,
        records: Gathered,
        limits: Limits,
        values: Values,
        both: Both<'_>,
    ) -> Result<Self, PartsError> {
        let Applied { revision, compact_revision, .. } = applied;
        let store = Store::restore(revision, compact_revision, records, values, both)?;
        let mut contents = Contents {
            store,
            index: applied.index,
            term: applied.term,
            rolling_hash: applied.rolling_hash,
            limits,
            ..Contents::default()
        };
        for row in rows {
            if row.table == Table::Tuning {
                tuning::check_row_format(&row.value, limits.plan_format)?;
            }
            let restored = match row.table {
                Table::Lease => contents.leases.restore(&row.key, &row.value),
                Table::Alarm => contents.alarms.restore(&row.key, &row.value),
                Table::Member | Table::Removed | Table::Cluster => {
                    contents.membership.restore(row.table, &row.key, &row.value)
                }
                Table::Tuning => contents.tuning.restore(&row.key, &row.value),
            };
            restored.ok_or(PartsError::Row { table: row.table, key: row.key })?;
        }
        if let Some(orphan) =
            contents.store.first_attached_to_other(|id| contents.leases.get(id).is_some())
        {
            let key = orphan.key().escape_ascii().to_string();
            return Err(PartsError::Lease { key, lease: orphan.lease() });
        }
        Ok(Self { contents, ..Self::default() })
    }

    /// What is configured.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.contents.limits
    }

    /// Index and term of the last entry applied.
    #[must_use]
    pub fn applied(&self) -> (u64, u64) {
        (self.contents.index, self.contents.term)
    }

    /// Members by id.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        self.contents.membership.members().cloned().collect()
    }

    /// The plan of timing and how far it has come; the default where there never was one.
    #[must_use]
    pub fn tuning(&self) -> &proto::log::Tuning {
        self.contents.tuning.get()
    }

    /// The state as it is now, for readers. Costs a handful of pointers, and takes a compaction that
    /// is under way a little further.
    pub fn publish(&mut self) -> View {
        let added = std::mem::take(&mut self.records_unpublished);
        self.sweep(SWEEP_RECORDS_PER_VIEW + SWEEP_RECORDS_PER_RECORD * added);
        View::new(self.contents.clone())
    }

    /// Goes on with a compaction by at most `records_max` records, a few microseconds each. Returns
    /// whether there is more to do; whoever has nothing else to apply calls again.
    pub fn sweep(&mut self, records_max: usize) -> bool {
        let more = self.contents.store.sweep(records_max, &mut self.changes.removed);
        self.changes.applied = self.contents.applied();
        more
    }

    /// What happened since the last call, for whoever keeps it.
    pub fn take_changes(&mut self) -> Changes {
        self.changes.applied = self.contents.applied();
        std::mem::take(&mut self.changes)
    }

    /// Notes an entry of the log that changes nothing here, or the beginning of one.
    pub fn skip(&mut self, index: u64, term: u64) {
        debug_assert!(index >= self.contents.index, "the log goes forward");
        self.contents.index = index;
        self.contents.term = term;
    }

    /// Carries out a change of who belongs to the cluster. Returns the members after it.
    ///
    /// # Errors
    /// [`StateError`] if the change makes no sense; then nothing has changed.
    pub fn apply_membership(
        &mut self,
        index: u64,
        term: u64,
        change: &MembershipChange,
    ) -> Result<Vec<Member>, StateError> {
        self.skip(index, term);
        self.contents.check_membership(change)?;
        let rows = self.contents.membership.change(change)?;
        self.changes.rows.extend(rows);
        Ok(self.members())
    }

    /// Whether this member reads the form of a command. One that does not must stop before it: others
    /// take from it what this member would not, and the two would differ from then on.
    ///
    /// # Errors
    /// [`UnknownFormat`]: the form, and what this member reads.
    pub fn check_format(&self, command: &Command) -> Result<(), UnknownFormat> {
        match &command.op {
            Some(Op::TuningSubmit(submit)) => {
                tuning::check_format(submit.to.as_ref(), self.contents.limits.plan_format)
            }
            _ => Ok(()),
        }
    }

    /// Carries out one command.
    pub fn apply(&mut self, index: u64, term: u64, command: &Command) -> Outcome {
        self.skip(index, term);
        let (mut events, mut leases) = (Vec::new(), Vec::new());
        let result = self.carry_out(command, &mut events, &mut leases);
        debug_assert!(result.is_ok() || events.is_empty(), "a refused command changes nothing");

        let first_new = self.changes.records.len();
        self.changes.records.extend(events.iter().map(|event| event.record.clone()));
        let added = &self.changes.records[first_new..];
        self.records_unpublished += added.len();
        if !added.is_empty() {
            self.contents.rolling_hash = hash::roll(self.contents.rolling_hash, added);
        }
        let quota = self.contents.limits.quota_bytes_max();
        let above = quota.is_some_and(|quota| self.contents.bytes() >= quota);
        Outcome {
            over_quota: above && result.is_ok() && check::quota_cost(command) > 0,
            revision: self.contents.store.revision(),
            result,
            events,
            leases,
        }
    }

    fn carry_out(
        &mut self,
        command: &Command,
        events: &mut Vec<Event>,
        lease_changes: &mut Vec<LeaseChange>,
    ) -> Result<Response, StateError> {
        match command.op.as_ref().ok_or(StateError::NotCapable)? {
            Op::Put(request) => {
                self.contents.refuse_without_space()?;
                check::put(request)?;
                txn::check_put(&self.contents.store, &self.contents.leases, request)?;
                Ok(Response::Put(
                    self.transact(events, |transaction| txn::put(transaction, request)),
                ))
            }
            Op::DeleteRange(request) => {
                self.contents.refuse_corrupt()?;
                check::delete_range(request)?;
                let deleted =
                    self.transact(events, |transaction| txn::delete_range(transaction, request));
                Ok(Response::DeleteRange(deleted))
            }
            Op::Txn(request) => self.txn(request, events),
            Op::Compact(request) => self.compact(request),
            Op::LeaseGrant(grant) => self.grant(grant, lease_changes),
            Op::LeaseRevoke(revoke) => self.revoke(revoke, events, lease_changes),
            Op::LeaseCheckpoint(checkpoint) => Ok(self.checkpoint(checkpoint, lease_changes)),
            Op::Alarm(request) => Ok(self.alarm(request)),
            Op::MemberPublish(publish) => {
                let rows = self.contents.membership.publish(publish)?;
                self.changes.rows.extend(rows);
                Ok(Response::Members(self.members()))
            }
            Op::MemberUpdate(update) => {
                let rows = self.contents.membership.update(update)?;
                self.changes.rows.extend(rows);
                Ok(Response::Members(self.members()))
            }
            Op::ClusterVersionSet(set) => {
                let row = self.contents.membership.set_cluster_version(&set.version);
                self.changes.rows.extend(row);
                Ok(Response::ClusterVersion)
            }
            Op::TuningSubmit(submit) => {
                let changed = self.contents.tuning.submit(submit);
                self.tuned(changed)
            }
            Op::TuningAdvance(advance) => {
                let changed = self.contents.tuning.advance(advance);
                self.tuned(changed)
            }
        }
    }

    fn transact<T>(
        &mut self,
        events: &mut Vec<Event>,
        changes: impl FnOnce(&mut Transaction<'_>) -> T,
    ) -> T {
        let mut transaction = self.contents.store.begin();
        let done = changes(&mut transaction);
        *events = transaction.commit();
        done
    }

    fn txn(
        &mut self,
        request: &TxnRequest,
        events: &mut Vec<Event>,
    ) -> Result<Response, StateError> {
        self.contents.refuse_corrupt()?;
        // How many operations are too many is configured, and was asked before proposing.
        check::txn(request, usize::MAX)?;
        if check::txn_quota_cost(request) > 0 {
            self.contents.refuse_without_space()?;
        }
        let leases = self.contents.leases.clone();
        self.transact(events, |transaction| txn::run(transaction, &leases, request))
            .map(Response::Txn)
    }

    fn compact(&mut self, request: &CompactionRequest) -> Result<Response, StateError> {
        self.contents.refuse_corrupt()?;
        self.contents.store.compact(request.revision)?;
        Ok(Response::Compact(CompactionResponse { header: self.header() }))
    }

    fn grant(
        &mut self,
        grant: &LeaseGrant,
        lease_changes: &mut Vec<LeaseChange>,
    ) -> Result<Response, StateError> {
        self.contents.refuse_without_space()?;
        let granted = self.contents.leases.grant(grant.id, grant.ttl)?;
        self.changes.rows.push(lease::row(&granted).into());
        lease_changes.push(LeaseChange::Granted { id: granted.id, ttl: granted.granted_ttl });
        Ok(Response::LeaseGrant(LeaseGrantResponse {
            header: self.header(),
            id: granted.id,
            ttl: granted.granted_ttl,
            error: String::new(),
        }))
    }

    fn revoke(
        &mut self,
        revoke: &LeaseRevoke,
        events: &mut Vec<Event>,
        lease_changes: &mut Vec<LeaseChange>,
    ) -> Result<Response, StateError> {
        self.contents.refuse_corrupt()?;
        let revoked = self.contents.leases.revoke(revoke.id)?;
        self.transact(events, |transaction| transaction.delete_attached(revoked.id));
        self.changes.rows.push(lease::row_removed(revoked.id));
        lease_changes.push(LeaseChange::Revoked { id: revoked.id });
        Ok(Response::LeaseRevoke(LeaseRevokeResponse { header: self.header() }))
    }

    fn checkpoint(
        &mut self,
        checkpoint: &LeaseCheckpoint,
        lease_changes: &mut Vec<LeaseChange>,
    ) -> Response {
        for item in &checkpoint.items {
            let Some(lease) = self.contents.leases.checkpoint(item.id, item.remaining_ttl) else {
                continue;
            };
            self.changes.rows.push(lease::row(&lease).into());
            lease_changes.push(LeaseChange::Checkpointed {
                id: lease.id,
                remaining_ttl: lease.remaining_ttl,
            });
        }
        Response::LeaseCheckpoint(LeaseCheckpointResponse { header: self.header() })
    }

    fn alarm(&mut self, request: &AlarmRequest) -> Response {
        let (alarms, row): (_, Option<RowChange>) = self.contents.alarms.apply(request);
        self.changes.rows.extend(row);
        Response::Alarm(AlarmResponse { header: self.header(), alarms })
    }

    fn tuned(&mut self, changed: Result<RowChange, TuningError>) -> Result<Response, StateError> {
        self.changes.rows.push(changed?);
        Ok(Response::Tuning { epoch: self.contents.tuning.get().epoch })
    }

    fn header(&self) -> Option<proto::etcdserverpb::ResponseHeader> {
        header(self.contents.store.revision())
    }
}

impl Store {
    /// A live record attached to a lease for which `exists` is false.
    fn first_attached_to_other(&self, exists: impl Fn(i64) -> bool) -> Option<&Record> {
        self.all_attached().find(|record| !exists(record.lease()))
    }
}
