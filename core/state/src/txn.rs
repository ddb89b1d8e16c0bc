//! Transactions: compare, then do one thing or the other, all at once.
//!
//! A txn runs in three passes, as in etcd. First every compare, those of nested txns included, is
//! decided against the state *before* the txn; this fixes which branches run. Then everything that
//! could be refused in them is looked at, still before anything has changed: a missing lease, a
//! missing key to be ignored, a revision that cannot be read. The third pass cannot fail. It sees its own
//! changes; they share one revision, and a txn that changes nothing leaves the revision alone.

use std::cmp::Ordering;

use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::response_op::Response;
use proto::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest,
    RangeResponse, RequestOp, ResponseOp, TxnRequest, TxnResponse,
};

use crate::error::StateError;
use crate::lease::Leases;
use crate::mvcc::{KeyRange, Store, Transaction};
use crate::outcome::header;
use crate::query;
use crate::record::Record;

/// Which branch of a txn runs, and of the txns nested in it.
struct Path {
    succeeded: bool,
    /// One for each nested txn of the branch, in order.
    nested: Vec<Self>,
}

/// Where a txn runs.
enum Target<'a, 'b> {
    /// Only ranges are asked for.
    Read(&'a Store),
    Write(&'a mut Transaction<'b>),
}

impl Target<'_, '_> {
    fn store(&self) -> &Store {
        match self {
            Self::Read(store) => store,
            Self::Write(transaction) => transaction.store(),
        }
    }

    fn revision(&self) -> i64 {
        match self {
            Self::Read(store) => store.revision(),
            Self::Write(transaction) => transaction.revision(),
        }
    }
}

/// Runs a txn that [`crate::check::txn`] has passed. On an error nothing has changed.
pub(crate) fn run(
    transaction: &mut Transaction<'_>,
    leases: &Leases,
    request: &TxnRequest,
) -> Result<TxnResponse, StateError> {
    let path = Path::decide(transaction.store(), request);
    path.check(transaction.store(), Some(leases), request)?;
    Ok(path.run(&mut Target::Write(transaction), request))
}

/// Runs a txn of ranges only.
pub(crate) fn read(store: &Store, request: &TxnRequest) -> Result<TxnResponse, StateError> {
    let path = Path::decide(store, request);
    path.check(store, None, request)?;
    Ok(path.run(&mut Target::Read(store), request))
}

/// Whether a txn, whichever way it goes, changes nothing.
#[must_use]
pub fn is_read_only(request: &TxnRequest) -> bool {
    all_ops(request, &|op| matches!(op, Some(Request::RequestRange(_))))
}

/// Whether a txn asks for nothing newer than what this member happens to know.
#[must_use]
pub fn is_serializable(request: &TxnRequest) -> bool {
    all_ops(request, &|op| matches!(op, Some(Request::RequestRange(range)) if range.serializable))
}

fn all_ops(request: &TxnRequest, holds: &impl Fn(&Option<Request>) -> bool) -> bool {
    request.success.iter().chain(&request.failure).all(|op| match &op.request {
        Some(Request::RequestTxn(nested)) => all_ops(nested, holds),
        other => holds(other),
    })
}

impl Path {
    fn decide(store: &Store, request: &TxnRequest) -> Self {
        let succeeded = request.compare.iter().all(|compare| matches(store, compare));
        let nested = branch(request, succeeded)
            .iter()
            .filter_map(|op| match &op.request {
                Some(Request::RequestTxn(nested)) => Some(Self::decide(store, nested)),
                _ => None,
            })
            .collect();
        Self { succeeded, nested }
    }

    fn check(
        &self,
        store: &Store,
        leases: Option<&Leases>,
        request: &TxnRequest,
    ) -> Result<(), StateError> {
        let mut nested = self.nested.iter();
        for op in branch(request, self.succeeded) {
            match (&op.request, leases) {
                (Some(Request::RequestRange(range)), _) => check_range(store, range)?,
                (Some(Request::RequestPut(put)), Some(leases)) => check_put(store, leases, put)?,
                (Some(Request::RequestDeleteRange(_)), Some(_)) => {}
                (Some(Request::RequestTxn(request)), _) => {
                    nested.next().expect("one path each").check(store, leases, request)?;
                }
                (Some(Request::RequestPut(_) | Request::RequestDeleteRange(_)), None) => {
                    return Err(StateError::NotCapable);
                }
                (None, _) => return Err(StateError::KeyNotFound),
            }
        }
        Ok(())
    }

    fn run(&self, target: &mut Target<'_, '_>, request: &TxnRequest) -> TxnResponse {
        let mut nested = self.nested.iter();
        let responses = branch(request, self.succeeded)
            .iter()
            .map(|op| {
                let response = match (&op.request, &mut *target) {
                    (Some(Request::RequestRange(request)), target) => {
                        Some(Response::ResponseRange(range(target, request)))
                    }
                    (Some(Request::RequestPut(request)), Target::Write(transaction)) => {
                        Some(Response::ResponsePut(put(transaction, request)))
                    }
                    (Some(Request::RequestDeleteRange(request)), Target::Write(transaction)) => {
                        Some(Response::ResponseDeleteRange(delete_range(transaction, request)))
                    }
                    (Some(Request::RequestTxn(request)), target) => {
                        let path = nested.next().expect("one path each");
                        let response = path.run(target, request);
                        // As in etcd: the revision is told by the outermost txn alone.
                        Some(Response::ResponseTxn(TxnResponse { header: header(0), ..response }))
                    }
                    _ => None,
                };
                ResponseOp { response }
            })
            .collect();
        TxnResponse { header: header(target.revision()), succeeded: self.succeeded, responses }
    }
}

fn branch(request: &TxnRequest, succeeded: bool) -> &[RequestOp] {
    if succeeded { &request.success } else { &request.failure }
}

/// All keys of the compare's range must match. Of a range without keys an empty record is compared,
/// except for its value: there is no telling a missing value from an empty one, so that never holds.
fn matches(store: &Store, compare: &Compare) -> bool {
    let mut live = store.live(KeyRange::new(&compare.key, &compare.range_end)).peekable();
    if live.peek().is_none() {
        let by_value = compare.target == CompareTarget::Value as i32;
        return !by_value && matches_record(None, compare);
    }
    if compare.target == CompareTarget::Value as i32 {
        return live.all(|record| matches_record(Some(&store.values().read(record)), compare));
    }
    live.all(|record| matches_record(Some(record), compare))
}

fn matches_record(record: Option<&Record>, compare: &Compare) -> bool {
    let operand = compare.target_union.as_ref();
    let number = |field: fn(&Record) -> i64, operand: i64| record.map_or(0, field).cmp(&operand);
    // Target and operand come apart on the wire: an operand of another kind counts as none.
    let ordering: Ordering = match (CompareTarget::try_from(compare.target), operand) {
        (Ok(CompareTarget::Version), Some(TargetUnion::Version(version))) => {
            number(Record::version, *version)
        }
        (Ok(CompareTarget::Version), _) => number(Record::version, 0),
        (Ok(CompareTarget::Create), Some(TargetUnion::CreateRevision(revision))) => {
            number(Record::create_revision, *revision)
        }
        (Ok(CompareTarget::Create), _) => number(Record::create_revision, 0),
        (Ok(CompareTarget::Mod), Some(TargetUnion::ModRevision(revision))) => {
            number(Record::mod_revision, *revision)
        }
        (Ok(CompareTarget::Mod), _) => number(Record::mod_revision, 0),
        (Ok(CompareTarget::Lease), Some(TargetUnion::Lease(lease))) => {
            number(Record::lease, *lease)
        }
        (Ok(CompareTarget::Lease), _) => number(Record::lease, 0),
        (Ok(CompareTarget::Value), operand) => {
            let value = match operand {
                Some(TargetUnion::Value(value)) => &value[..],
                _ => &[],
            };
            record.map_or(&[][..], Record::value).cmp(value)
        }
        // What does not exist compares equal, and holds below: etcd's answer to nonsense.
        (Err(_), _) => Ordering::Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering.is_eq(),
        Ok(CompareResult::NotEqual) => ordering.is_ne(),
        Ok(CompareResult::Greater) => ordering.is_gt(),
        Ok(CompareResult::Less) => ordering.is_lt(),
        Err(_) => true,
    }
}

fn check_range(store: &Store, request: &RangeRequest) -> Result<(), StateError> {
    if request.revision == 0 {
        return Ok(());
    }
    if request.revision > store.revision() {
        return Err(StateError::FutureRevision);
    }
    // Unlike in a plain range, a negative revision does not mean the present here.
    if request.revision < store.compact_revision() {
        return Err(StateError::Compacted);
    }
    Ok(())
}

/// What may stand in the way of a put. The lease is looked for before the key, as etcd does.
pub(crate) fn check_put(
    store: &Store,
    leases: &Leases,
    request: &PutRequest,
) -> Result<(), StateError> {
    if request.lease != 0 && leases.get(request.lease).is_none() {
        return Err(StateError::LeaseNotFound);
    }
    let needs_key = request.ignore_value || request.ignore_lease;
    if needs_key && store.get(&request.key).is_none() {
        return Err(StateError::KeyNotFound);
    }
    Ok(())
}

/// Puts what [`check_put`] has passed.
pub(crate) fn put(transaction: &mut Transaction<'_>, request: &PutRequest) -> PutResponse {
    let asks = request.prev_kv || request.ignore_value || request.ignore_lease;
    let prev = if asks { transaction.store().get(&request.key).cloned() } else { None };
    // Whoever asks for the lease alone does not need the value.
    let wants_value = request.prev_kv || request.ignore_value;
    let values = transaction.store().values();
    let prev = if wants_value { prev.map(|prev| values.read(&prev)) } else { prev };
    let value = match &prev {
        Some(prev) if request.ignore_value => prev.value(),
        _ => &request.value,
    };
    let lease = match &prev {
        Some(prev) if request.ignore_lease => prev.lease(),
        _ => request.lease,
    };
    transaction.put(&request.key, value, lease);
    PutResponse {
        header: header(transaction.revision()),
        prev_kv: prev.filter(|_| request.prev_kv).map(|prev| prev.to_key_value()),
    }
}

pub(crate) fn delete_range(
    transaction: &mut Transaction<'_>,
    request: &DeleteRangeRequest,
) -> DeleteRangeResponse {
    let deleted = transaction.delete_range(KeyRange::new(&request.key, &request.range_end));
    let prev_kvs = if request.prev_kv {
        let whole = transaction.store().values().fetched(&deleted);
        deleted.iter().map(|record| whole.of(record).to_key_value()).collect()
    } else {
        Vec::new()
    };
    DeleteRangeResponse {
        header: header(transaction.revision()),
        deleted: i64::try_from(deleted.len()).unwrap_or(i64::MAX),
        prev_kvs,
    }
}

fn range(target: &Target<'_, '_>, request: &RangeRequest) -> RangeResponse {
    query::range(target.store(), request, target.revision())
        .expect("the revision was checked before the txn began")
}
