//! The state at one moment, for as long as a reader likes.
//!
//! A view never changes and holds nobody up: apply goes on with its own copy, sharing what is equal.
//! Any number of views may be held at a time; what they keep alive is what has changed since.
//!
//! Records handed out one by one may be without their value, where values do not all stay in memory:
//! [`View::values`] has the whole ones, and whoever asks it holds a [`View::pin`] meanwhile.

use std::fmt;
use std::sync::Arc;

use proto::etcdserverpb::{
    AlarmMember, AlarmType, RangeRequest, RangeResponse, TxnRequest, TxnResponse,
};
use proto::log::{Member, MembershipChange};

use crate::command::{Contents, Limits};
use crate::error::StateError;
use crate::lease;
use crate::mvcc::log::EventPage;
use crate::mvcc::{KeyRange, Store};
use crate::parts::{Applied, Row, StateParts};
use crate::record::{Record, Revision};
use crate::values::{Pin, Values};
use crate::{check, query, txn};

/// The state at one moment. `Clone` copies a pointer.
#[derive(Clone)]
pub struct View(Arc<Contents>);

/// A lease, as a client may ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    /// Its id.
    pub id: i64,
    /// Seconds it lives without renewal.
    pub granted_ttl: i64,
    /// Seconds a leader gives it when taking over: what it had left at the last checkpoint, or all.
    pub remaining_ttl: i64,
}

/// One stretch of a range that is read bit by bit.
#[derive(Clone, Debug, PartialEq)]
pub struct RangePage {
    /// Live records, by key.
    pub records: Vec<Record>,
    /// Where the next page begins; `None` when there is no more.
    pub next_key: Option<Vec<u8>>,
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View").field("applied", &self.applied()).finish_non_exhaustive()
    }
}

impl View {
    pub(crate) fn new(contents: Contents) -> Self {
        Self(Arc::new(contents))
    }

    fn store(&self) -> &Store {
        &self.0.store
    }

    /// How far the log had been applied, and what came of it.
    #[must_use]
    pub fn applied(&self) -> Applied {
        self.0.applied()
    }

    /// Index of the last entry applied.
    #[must_use]
    pub fn applied_index(&self) -> u64 {
        self.0.index
    }

    /// Term of that entry.
    #[must_use]
    pub fn applied_term(&self) -> u64 {
        self.0.term
    }

    /// Revision of the last change of a key.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.store().revision()
    }

    /// Oldest revision that can be read; −1 before the first compaction.
    #[must_use]
    pub fn compact_revision(&self) -> i64 {
        self.store().compact_revision()
    }

    /// Whether a compaction is still being carried out: what asked for a physical one waits for this
    /// to end.
    #[must_use]
    pub fn is_compacting(&self) -> bool {
        self.store().is_sweeping()
    }

    /// What is configured.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// Bytes kept, as counted against the quota.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.0.bytes()
    }

    /// Bytes of live records alone.
    #[must_use]
    pub fn size_in_use_bytes(&self) -> u64 {
        self.store().bytes_live()
    }

    /// Number of live keys.
    #[must_use]
    pub fn keys_total(&self) -> usize {
        self.store().keys()
    }

    /// Whether something of this cost ([`check::put_quota_cost`] and the like) still fits the quota.
    /// What costs nothing always does.
    #[must_use]
    pub fn has_quota_for(&self, cost_bytes: u64) -> bool {
        let quota = self.0.limits.quota_bytes_max();
        cost_bytes == 0
            || quota.is_none_or(|quota| self.size_bytes().saturating_add(cost_bytes) < quota)
    }

    /// Where the values are that its records are without.
    #[must_use]
    pub fn values(&self) -> &Values {
        self.store().values()
    }

    /// To be held by whoever reads values of this view. `None` if compaction has overtaken it, and values
    /// of what it had may be gone: the newest view can be pinned.
    #[must_use]
    pub fn pin(&self) -> Option<Pin> {
        self.values().pin(self.compact_revision())
    }

    /// Answers a range request. May wait for the disk, where values do not all stay in memory.
    ///
    /// # Errors
    /// What [`check::range`] finds, or a revision that cannot be read.
    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, StateError> {
        check::range(request)?;
        query::range(self.store(), request, self.revision())
    }

    /// As [`View::range`], by one who must not wait; `None` if that takes a value that is not in memory, or
    /// more than a few that can be read without a disk.
    /// Needs no pin.
    #[must_use]
    pub fn range_at_hand(
        &self,
        request: &RangeRequest,
    ) -> Option<Result<RangeResponse, StateError>> {
        match check::range(request) {
            Ok(()) => query::range_at_hand(self.store(), request, self.revision()),
            Err(error) => Some(Err(error)),
        }
    }

    /// The response a range that is sent in pieces ends with, without keys: header, count and
    /// whether the limit left something out.
    ///
    /// # Errors
    /// As [`View::range`].
    pub fn range_summary(&self, request: &RangeRequest) -> Result<RangeResponse, StateError> {
        let mut summary = self.range(&RangeRequest { count_only: true, ..request.clone() })?;
        summary.more = !request.count_only && request.limit > 0 && summary.count > request.limit;
        Ok(summary)
    }

    /// One page of a range at a revision (0 or less: the view's own), by key, from `from_key` on if
    /// given: at most `records_max` records and, beyond the first, `bytes_max` bytes. The page after
    /// begins at its `next_key`.
    ///
    /// # Errors
    /// A revision that cannot be read.
    pub fn range_page(
        &self,
        range: KeyRange<'_>,
        revision: i64,
        from_key: Option<&[u8]>,
        records_max: usize,
        bytes_max: usize,
    ) -> Result<RangePage, StateError> {
        if revision > self.revision() {
            return Err(StateError::FutureRevision);
        }
        if revision > 0 && revision < self.compact_revision() {
            return Err(StateError::Compacted);
        }
        let at = if revision > 0 { revision } else { i64::MAX };
        let range = from_key.map_or(range, |key| range.starting_at(key));
        let (mut records, mut bytes) = (Vec::new(), 0_usize);
        for record in self.store().live_at(range, at) {
            let full = records.len() >= records_max.max(1) || bytes >= bytes_max;
            if full && !records.is_empty() {
                return Ok(RangePage { records, next_key: Some(record.key().to_vec()) });
            }
            bytes += record.bytes_len();
            records.push(record.clone());
        }
        Ok(RangePage { records, next_key: None })
    }

    /// Answers a txn of which [`txn::is_read_only`] holds.
    ///
    /// # Errors
    /// What [`check::txn`] finds, a revision that cannot be read, or
    /// [`StateError::NotCapable`] for a txn that would change something.
    pub fn txn_read_only(&self, request: &TxnRequest) -> Result<TxnResponse, StateError> {
        check::txn(request, self.0.limits.txn_ops_max)?;
        txn::read(self.store(), request)
    }

    /// The live record of a key.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<Record> {
        self.store().get(key).cloned()
    }

    /// The newest record of a key made at or before a revision, a tombstone included, as far as
    /// compaction has left it.
    #[must_use]
    pub fn get_at(&self, key: &[u8], revision: i64) -> Option<Record> {
        self.store().newest_at(key, revision).cloned()
    }

    /// The record of a key that was live at a revision.
    ///
    /// # Errors
    /// A revision that cannot be read.
    pub fn record_at(&self, key: &[u8], revision: i64) -> Result<Option<Record>, StateError> {
        if revision > self.revision() {
            return Err(StateError::FutureRevision);
        }
        if revision < self.compact_revision() {
            return Err(StateError::Compacted);
        }
        Ok(self.store().record_at(key, revision).cloned())
    }

    /// What lived under a record's key just before the record was made, as far as it is still known:
    /// an event's `prev_kv`.
    #[must_use]
    pub fn record_before(&self, record: &Record) -> Option<Record> {
        self.store().before(record).cloned()
    }

    /// Events of a range from a revision on, a page at a time: at most `revisions_max` matching
    /// revisions and, beyond the first, `bytes_max` bytes. The events of a revision are never split.
    ///
    /// # Errors
    /// [`StateError::Compacted`] if that revision is no longer known.
    pub fn events(
        &self,
        from_revision: i64,
        key: &[u8],
        range_end: &[u8],
        revisions_max: usize,
        bytes_max: usize,
    ) -> Result<EventPage, StateError> {
        let range = KeyRange::new(key, range_end);
        self.store().events(from_revision, range, revisions_max, bytes_max)
    }

    /// All records kept, in the order they were made. What a compaction under way has still to take
    /// out is left out already, so equal states give equal records.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.store().records(Revision::default())
    }

    /// [`View::records`], whole. May wait for the disk.
    pub fn whole_records(&self) -> impl Iterator<Item = Record> + use<'_> {
        self.records().map(|record| self.values().walk(record))
    }

    /// Whether a record that was once applied outlives the compactions so far.
    #[must_use]
    pub fn keeps(&self, record: &Record) -> bool {
        self.store().keeps(record)
    }

    /// [`View::records`] from a revision on.
    pub fn records_from(&self, from: Revision) -> impl Iterator<Item = &Record> {
        self.store().records(from)
    }

    /// All rows, by table and key.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        let leases = self.0.leases.iter().map(|lease| lease::row(&lease));
        let mut rows: Vec<Row> =
            leases.chain(self.0.alarms.rows()).chain(self.0.membership.rows()).collect();
        rows.extend(self.0.tuning.row());
        rows.sort();
        rows
    }

    /// Everything there is to know.
    #[must_use]
    pub fn parts(&self) -> StateParts {
        let records = self.whole_records().collect();
        StateParts { applied: self.applied(), rows: self.rows(), records }
    }

    /// A lease by id.
    #[must_use]
    pub fn lease(&self, id: i64) -> Option<LeaseInfo> {
        self.0.leases.get(id).map(LeaseInfo::from)
    }

    /// Keys attached to a lease, sorted.
    #[must_use]
    pub fn lease_keys(&self, id: i64) -> Vec<bytes::Bytes> {
        let keys = self.store().attached(id);
        keys.map(|record| bytes::Bytes::copy_from_slice(record.key())).collect()
    }

    /// All leases by id.
    pub fn leases(&self) -> impl Iterator<Item = LeaseInfo> {
        self.0.leases.iter().map(LeaseInfo::from)
    }

    /// Number of leases.
    #[must_use]
    pub fn leases_total(&self) -> usize {
        self.0.leases.len()
    }

    /// The alarms that are on, by member.
    #[must_use]
    pub fn alarms(&self) -> Vec<AlarmMember> {
        self.0.alarms.of(AlarmType::None)
    }

    /// Whether an alarm of this kind is on for any member.
    #[must_use]
    pub fn is_alarmed(&self, kind: AlarmType) -> bool {
        self.0.alarms.is_on(kind)
    }

    /// Members by id.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        self.0.membership.members().cloned().collect()
    }

    /// A member by id.
    #[must_use]
    pub fn member(&self, id: u64) -> Option<Member> {
        self.0.membership.get(id).cloned()
    }

    /// Whether a member was removed. Its id never comes back.
    #[must_use]
    pub fn is_member_removed(&self, id: u64) -> bool {
        self.0.membership.is_removed(id)
    }

    /// The version of the program a member last said it runs.
    #[must_use]
    pub fn member_version(&self, id: u64) -> Option<&str> {
        self.0.membership.version_of(id)
    }

    /// Whether a membership change would be carried out now.
    ///
    /// # Errors
    /// What [`crate::State::apply_membership`] would answer.
    pub fn check_membership(&self, change: &MembershipChange) -> Result<(), StateError> {
        self.0.check_membership(change)
    }

    /// The plan of timing and how far it has come; the default where there never was one.
    #[must_use]
    pub fn tuning(&self) -> &proto::log::Tuning {
        self.0.tuning.get()
    }

    /// The cluster's version; `None` until it has been decided.
    #[must_use]
    pub fn cluster_version(&self) -> Option<&str> {
        Some(self.0.membership.cluster_version()).filter(|version| !version.is_empty())
    }
}

impl From<lease::Lease> for LeaseInfo {
    fn from(lease: lease::Lease) -> Self {
        Self {
            id: lease.id,
            granted_ttl: lease.granted_ttl,
            remaining_ttl: lease.ttl_after_takeover(),
        }
    }
}

/// Whether a range can be sent in pieces: neither sorted nor filtered by revision.
#[must_use]
pub fn is_streamable(request: &RangeRequest) -> bool {
    !query::is_sorted(request) && !query::is_filtered(request)
}
