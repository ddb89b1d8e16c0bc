//! What can be said against a request without looking at the state.
//!
//! The api asks before it proposes, so that nonsense never reaches the log; apply asks again,
//! because it must survive any log. Checks and their order are etcd's, for a request with several
//! faults is answered with one.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};
use proto::log::Command;
use proto::log::command::Op;

use crate::error::StateError;
use crate::lease::LEASE_QUOTA_BYTES;
use crate::mvcc::KeyRange;
use crate::record::KEY_VALUE_BYTES_MAX;

/// Compares, or operations of one branch, that a txn may have unless configured otherwise.
pub const TXN_OPS_MAX_DEFAULT: usize = 128;

/// How deep txns may be nested, whatever the limit on operations: bounds recursion.
pub const TXN_DEPTH_MAX: usize = 64;

/// Seconds of the longest lease, about 285 years.
pub const LEASE_TTL_MAX: i64 = 9_000_000_000;

type Check = Result<(), StateError>;

/// A range: a key, and a sort order that exists.
///
/// # Errors
/// The first fault found.
pub fn range(request: &RangeRequest) -> Check {
    if request.key.is_empty() {
        return Err(StateError::EmptyKey);
    }
    let order = SortOrder::try_from(request.sort_order);
    let target = SortTarget::try_from(request.sort_target);
    if order.is_err() || target.is_err() { Err(StateError::InvalidSortOption) } else { Ok(()) }
}

/// A put: a key, and nothing given that is to be ignored.
///
/// # Errors
/// The first fault found.
pub fn put(request: &PutRequest) -> Check {
    if request.key.is_empty() {
        return Err(StateError::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(StateError::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(StateError::LeaseProvided);
    }
    if request.key.len().saturating_add(request.value.len()) > KEY_VALUE_BYTES_MAX {
        return Err(StateError::RequestTooLarge);
    }
    Ok(())
}

/// A delete: a key.
///
/// # Errors
/// The first fault found.
pub fn delete_range(request: &DeleteRangeRequest) -> Check {
    if request.key.is_empty() { Err(StateError::EmptyKey) } else { Ok(()) }
}

/// A txn: not too many operations, each in order, and no key changed twice.
///
/// # Errors
/// The first fault found.
pub fn txn(request: &TxnRequest, ops_max: usize) -> Check {
    txn_shape(request, ops_max, TXN_DEPTH_MAX)?;
    branch_changes(&request.success)?;
    branch_changes(&request.failure)?;
    Ok(())
}

/// A new lease's time to live as it goes into the log: never below the minimum.
///
/// # Errors
/// [`StateError::LeaseTtlTooLarge`].
pub fn lease_ttl(ttl: i64, ttl_min: i64) -> Result<i64, StateError> {
    if ttl > LEASE_TTL_MAX { Err(StateError::LeaseTtlTooLarge) } else { Ok(ttl.max(ttl_min)) }
}

/// What etcd reckons a key costs besides its bytes.
const KEY_QUOTA_BYTES: u64 = 256;

/// What a put takes of the quota.
#[must_use]
pub fn put_quota_cost(request: &PutRequest) -> u64 {
    KEY_QUOTA_BYTES + (request.key.len() + request.value.len()) as u64
}

/// What a txn takes of the quota: its dearer branch. 0 if it puts nothing.
#[must_use]
pub fn txn_quota_cost(request: &TxnRequest) -> u64 {
    let cost = |ops: &[RequestOp]| -> u64 {
        ops.iter()
            .map(|op| match &op.request {
                Some(Request::RequestPut(put)) => put_quota_cost(put),
                Some(Request::RequestTxn(txn)) => txn_quota_cost(txn),
                _ => 0,
            })
            .sum()
    };
    cost(&request.success).max(cost(&request.failure))
}

/// What a command takes of the quota; 0 for what may still be done when there is no space.
#[must_use]
pub fn quota_cost(command: &Command) -> u64 {
    match &command.op {
        Some(Op::Put(request)) => put_quota_cost(request),
        Some(Op::Txn(request)) => txn_quota_cost(request),
        Some(Op::LeaseGrant(_)) => LEASE_QUOTA_BYTES,
        _ => 0,
    }
}

fn txn_shape(request: &TxnRequest, ops_max: usize, depth_left: usize) -> Check {
    let ops = request.compare.len().max(request.success.len()).max(request.failure.len());
    let (Some(ops_left), Some(depth_left)) = (ops_max.checked_sub(ops), depth_left.checked_sub(1))
    else {
        return Err(StateError::TooManyOps);
    };
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(StateError::EmptyKey);
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Request::RequestRange(request)) => range(request)?,
            Some(Request::RequestPut(request)) => put(request)?,
            Some(Request::RequestDeleteRange(request)) => delete_range(request)?,
            // A nested txn gets what its parent left over.
            Some(Request::RequestTxn(request)) => txn_shape(request, ops_left, depth_left)?,
            None => return Err(StateError::KeyNotFound),
        }
    }
    Ok(())
}

/// Keys put and ranges deleted by one branch and everything below it.
#[derive(Default)]
struct BranchChanges<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Ranges<'a>,
}

impl<'a> BranchChanges<'a> {
    fn put(&mut self, key: &'a [u8]) -> Check {
        if self.deletes.contains(key) || !self.puts.insert(key) {
            return Err(StateError::DuplicateKey);
        }
        Ok(())
    }
}

/// As etcd does, a nested txn that deletes a key which an earlier sibling puts is let through.
fn branch_changes(ops: &[RequestOp]) -> Result<BranchChanges<'_>, StateError> {
    let mut all = BranchChanges::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            all.deletes.insert(KeyRange::new(&delete.key, &delete.range_end));
        }
    }
    for op in ops {
        if let Some(Request::RequestTxn(txn)) = &op.request {
            let success = branch_changes(&txn.success)?;
            let failure = branch_changes(&txn.failure)?;
            // Only one of the two will run, so both may put the same key.
            for key in success.puts.union(&failure.puts) {
                all.put(key)?;
            }
            all.deletes.extend(success.deletes);
            all.deletes.extend(failure.deletes);
        }
    }
    for op in ops {
        if let Some(Request::RequestPut(put)) = &op.request {
            all.put(&put.key)?;
        }
    }
    Ok(all)
}

/// A union of ranges, kept as disjoint ones, so that a txn of thousands of puts and deletes is
/// still checked in no time.
#[derive(Default)]
struct Ranges<'a>(BTreeMap<&'a [u8], End<'a>>);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End<'a> {
    /// A key, and whether the range includes it.
    At(&'a [u8], bool),
    Open,
}

impl End<'_> {
    fn reaches(self, key: &[u8]) -> bool {
        match self {
            Self::At(end, included) => key < end || (included && key == end),
            Self::Open => true,
        }
    }
}

impl<'a> Ranges<'a> {
    fn contains(&self, key: &[u8]) -> bool {
        self.0.range(..=key).next_back().is_some_and(|(_, end)| end.reaches(key))
    }

    fn insert(&mut self, range: KeyRange<'a>) {
        if range.is_empty() {
            return;
        }
        let end = match range.end() {
            Bound::Included(end) => End::At(end, true),
            Bound::Excluded(end) => End::At(end, false),
            Bound::Unbounded => End::Open,
        };
        self.add(range.start(), end);
    }

    fn extend(&mut self, other: Self) {
        for (start, end) in other.0 {
            self.add(start, end);
        }
    }

    fn add(&mut self, mut start: &'a [u8], mut end: End<'a>) {
        let before = self.0.range(..=start).next_back();
        if let Some((&earlier, _)) = before.filter(|(_, end)| end.reaches(start)) {
            start = earlier;
        }
        // Each range is swallowed once, so this is paid for by its insertion.
        while let Some((&next, &its_end)) = self.0.range(start..).next() {
            if next != start && !end.reaches(next) {
                break;
            }
            end = end.max(its_end);
            self.0.remove(next);
        }
        self.0.insert(start, end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_union_of_ranges_contains_what_any_of_them_contains() {
        let ranges: [(&[u8], &[u8]); 8] = [
            (b"d", b"f"),
            (b"cc", b"e"),
            (b"b", b""),
            (b"a", b"c"),
            (b"f", b""),
            (b"x", b"\0"),
            (b"z", b"y"),
            (b"e", b"fa"),
        ];
        let mut union = Ranges::default();
        for (count, (key, range_end)) in ranges.into_iter().enumerate() {
            union.insert(KeyRange::new(key, range_end));
            for probe in
                [&b"a"[..], b"b", b"c", b"cc", b"d", b"ea", b"f", b"f0", b"fa", b"x", b"zz"]
            {
                let expected = ranges[..=count]
                    .iter()
                    .any(|(key, range_end)| KeyRange::new(key, range_end).contains(probe));
                assert_eq!(union.contains(probe), expected, "{count} {probe:?}");
            }
        }
        assert_eq!(union.0.len(), 3);
    }
}
