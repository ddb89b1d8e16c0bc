//! Keys: get, put, delete, transactions, compaction.
//!
//! The builders cover everyday use; every call also takes etcd's own request message, for whatever a
//! builder has no word for.

use bytes::Bytes;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, Compare, DeleteRangeRequest, DeleteRangeResponse,
    PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse,
    request_op,
};

use crate::Client;
use crate::call::Method;
use crate::error::Result;

const RANGE: Method<RangeRequest, RangeResponse> = Method::read("/etcdserverpb.KV/Range");
const PUT: Method<PutRequest, PutResponse> = Method::write("/etcdserverpb.KV/Put");
const DELETE: Method<DeleteRangeRequest, DeleteRangeResponse> =
    Method::write("/etcdserverpb.KV/DeleteRange");
const TXN: Method<TxnRequest, TxnResponse> = Method::write("/etcdserverpb.KV/Txn");
const TXN_READ: Method<TxnRequest, TxnResponse> = Method::read("/etcdserverpb.KV/Txn");
const COMPACT: Method<CompactionRequest, CompactionResponse> =
    Method::write("/etcdserverpb.KV/Compact");

/// Which keys a call is about.
///
/// ```
/// use client::KeyRange;
/// let range = KeyRange::prefix("app/");
/// assert_eq!((&range.key[..], &range.range_end[..]), (&b"app/"[..], &b"app0"[..]));
/// assert!(KeyRange::from("app/one").range_end.is_empty());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// The key, or the first of the range.
    pub key: Bytes,
    /// Where the range ends, exclusive. Empty: the one key. A zero byte: no end.
    pub range_end: Bytes,
}

impl KeyRange {
    /// From `first` to before `end`.
    pub fn span(first: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        KeyRange { key: first.into(), range_end: end.into() }
    }

    /// All keys that start with `prefix`; all keys at all if it is empty.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let prefix = prefix.into();
        if prefix.is_empty() {
            return KeyRange::all();
        }
        let range_end = after_prefix(&prefix);
        KeyRange { key: prefix, range_end }
    }

    /// `first` and every key after it.
    pub fn at_least(first: impl Into<Bytes>) -> Self {
        KeyRange { key: first.into(), range_end: Bytes::from_static(&[0]) }
    }

    /// Every key.
    pub fn all() -> Self {
        KeyRange::at_least(Bytes::from_static(&[0]))
    }
}

/// The first key after all keys with the prefix; a zero byte (no end) if there is none.
fn after_prefix(prefix: &[u8]) -> Bytes {
    match prefix.iter().rposition(|&byte| byte < 0xff) {
        None => Bytes::from_static(&[0]),
        Some(last) => {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            end.into()
        }
    }
}

impl From<&str> for KeyRange {
    fn from(key: &str) -> Self {
        KeyRange { key: Bytes::copy_from_slice(key.as_bytes()), range_end: Bytes::new() }
    }
}

impl From<&[u8]> for KeyRange {
    fn from(key: &[u8]) -> Self {
        KeyRange { key: Bytes::copy_from_slice(key), range_end: Bytes::new() }
    }
}

impl From<String> for KeyRange {
    fn from(key: String) -> Self {
        KeyRange { key: key.into(), range_end: Bytes::new() }
    }
}

impl From<Vec<u8>> for KeyRange {
    fn from(key: Vec<u8>) -> Self {
        KeyRange { key: key.into(), range_end: Bytes::new() }
    }
}

impl From<Bytes> for KeyRange {
    fn from(key: Bytes) -> Self {
        KeyRange { key, range_end: Bytes::new() }
    }
}

/// What to read. Linearizable unless told otherwise.
#[derive(Clone, Debug, Default)]
pub struct Get(RangeRequest);

impl Get {
    /// A key, or a [`KeyRange`].
    pub fn new(range: impl Into<KeyRange>) -> Self {
        let KeyRange { key, range_end } = range.into();
        Get(RangeRequest { key, range_end, ..RangeRequest::default() })
    }

    /// At most so many keys; 0: all.
    pub fn limit(mut self, keys_max: i64) -> Self {
        self.0.limit = keys_max;
        self
    }

    /// As of this revision.
    pub fn revision(mut self, revision: i64) -> Self {
        self.0.revision = revision;
        self
    }

    /// From the asked member's own state, which may lag.
    pub fn serializable(mut self) -> Self {
        self.0.serializable = true;
        self
    }

    /// Without values.
    pub fn keys_only(mut self) -> Self {
        self.0.keys_only = true;
        self
    }

    /// Only how many.
    pub fn count_only(mut self) -> Self {
        self.0.count_only = true;
        self
    }

    /// In this order.
    pub fn sort(mut self, target: SortTarget, order: SortOrder) -> Self {
        self.0.set_sort_target(target);
        self.0.set_sort_order(order);
        self
    }
}

impl From<Get> for RangeRequest {
    fn from(get: Get) -> Self {
        get.0
    }
}

impl From<&str> for Get {
    fn from(key: &str) -> Self {
        Get::new(key)
    }
}

/// What to write.
#[derive(Clone, Debug, Default)]
pub struct Put(PutRequest);

impl Put {
    /// This value under this key.
    pub fn new(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Put(PutRequest { key: key.into(), value: value.into(), ..PutRequest::default() })
    }

    /// The key goes when the lease goes.
    pub fn lease(mut self, id: i64) -> Self {
        self.0.lease = id;
        self
    }

    /// Answer with the pair that was there.
    pub fn prev_kv(mut self) -> Self {
        self.0.prev_kv = true;
        self
    }

    /// Keep the lease the key has.
    pub fn ignore_lease(mut self) -> Self {
        self.0.ignore_lease = true;
        self
    }
}

impl From<Put> for PutRequest {
    fn from(put: Put) -> Self {
        put.0
    }
}

/// What to delete.
#[derive(Clone, Debug, Default)]
pub struct Delete(DeleteRangeRequest);

impl Delete {
    /// A key, or a [`KeyRange`].
    pub fn new(range: impl Into<KeyRange>) -> Self {
        let KeyRange { key, range_end } = range.into();
        Delete(DeleteRangeRequest { key, range_end, prev_kv: false })
    }

    /// Answer with the pairs that were there.
    pub fn prev_kv(mut self) -> Self {
        self.0.prev_kv = true;
        self
    }
}

impl From<Delete> for DeleteRangeRequest {
    fn from(delete: Delete) -> Self {
        delete.0
    }
}

/// One comparison of a transaction.
#[derive(Clone, Debug)]
pub struct When(Compare);

impl When {
    fn compare(key: impl Into<Bytes>, target: CompareTarget, result: CompareResult) -> Compare {
        let mut compare = Compare { key: key.into(), ..Compare::default() };
        compare.set_target(target);
        compare.set_result(result);
        compare
    }

    /// The key does not exist.
    pub fn missing(key: impl Into<Bytes>) -> Self {
        let mut compare = When::compare(key, CompareTarget::Create, CompareResult::Equal);
        compare.target_union = Some(TargetUnion::CreateRevision(0));
        When(compare)
    }

    /// The key exists.
    pub fn exists(key: impl Into<Bytes>) -> Self {
        let mut compare = When::compare(key, CompareTarget::Create, CompareResult::Greater);
        compare.target_union = Some(TargetUnion::CreateRevision(0));
        When(compare)
    }

    /// The key was last changed at a revision that compares so.
    pub fn mod_revision(key: impl Into<Bytes>, result: CompareResult, revision: i64) -> Self {
        let mut compare = When::compare(key, CompareTarget::Mod, result);
        compare.target_union = Some(TargetUnion::ModRevision(revision));
        When(compare)
    }

    /// The key has a version that compares so.
    pub fn version(key: impl Into<Bytes>, result: CompareResult, version: i64) -> Self {
        let mut compare = When::compare(key, CompareTarget::Version, result);
        compare.target_union = Some(TargetUnion::Version(version));
        When(compare)
    }

    /// The key has a value that compares so. False if the key is missing.
    pub fn value(key: impl Into<Bytes>, result: CompareResult, value: impl Into<Bytes>) -> Self {
        let mut compare = When::compare(key, CompareTarget::Value, result);
        compare.target_union = Some(TargetUnion::Value(value.into()));
        When(compare)
    }
}

impl From<When> for Compare {
    fn from(when: When) -> Self {
        when.0
    }
}

/// One operation of a transaction.
#[derive(Clone, Debug)]
pub struct Op(request_op::Request);

impl From<Get> for Op {
    fn from(get: Get) -> Self {
        Op(request_op::Request::RequestRange(get.0))
    }
}

impl From<Put> for Op {
    fn from(put: Put) -> Self {
        Op(request_op::Request::RequestPut(put.0))
    }
}

impl From<Delete> for Op {
    fn from(delete: Delete) -> Self {
        Op(request_op::Request::RequestDeleteRange(delete.0))
    }
}

impl From<Txn> for Op {
    fn from(txn: Txn) -> Self {
        Op(request_op::Request::RequestTxn(txn.0))
    }
}

/// A transaction: if every comparison holds one list of operations runs, else the other, all of it
/// at one revision.
///
/// ```
/// use client::{Get, Put, Txn, When};
/// let take_lock = Txn::new()
///     .when(When::missing("lock"))
///     .then(Put::new("lock", "me"))
///     .otherwise(Get::new("lock"));
/// # let _ = take_lock;
/// ```
#[derive(Clone, Debug, Default)]
pub struct Txn(TxnRequest);

impl Txn {
    /// One without comparisons (they all hold) and without operations.
    pub fn new() -> Self {
        Txn::default()
    }

    /// One more comparison that must hold.
    pub fn when(mut self, when: When) -> Self {
        self.0.compare.push(when.0);
        self
    }

    /// One more operation for when all comparisons hold.
    pub fn then(mut self, op: impl Into<Op>) -> Self {
        self.0.success.push(RequestOp { request: Some(op.into().0) });
        self
    }

    /// One more operation for when a comparison does not hold.
    pub fn otherwise(mut self, op: impl Into<Op>) -> Self {
        self.0.failure.push(RequestOp { request: Some(op.into().0) });
        self
    }
}

impl From<Txn> for TxnRequest {
    fn from(txn: Txn) -> Self {
        txn.0
    }
}

/// Whether a transaction can change nothing, whichever way it goes.
fn only_reads(txn: &TxnRequest) -> bool {
    txn.success.iter().chain(&txn.failure).all(|op| match &op.request {
        Some(request_op::Request::RequestRange(_)) | None => true,
        Some(request_op::Request::RequestTxn(nested)) => only_reads(nested),
        Some(_) => false,
    })
}

impl Client {
    /// Reads a key or a range.
    ///
    /// ```no_run
    /// # async fn example(client: client::Client) -> client::Result<()> {
    /// use client::{Get, KeyRange};
    /// let answer = client.get(Get::new(KeyRange::prefix("app/")).limit(10)).await?;
    /// for kv in answer.kvs {
    ///     println!("{:?} = {:?}", kv.key, kv.value);
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn get(&self, get: impl Into<RangeRequest>) -> Result<RangeResponse> {
        self.route.unary(&RANGE, get.into()).await
    }

    /// Writes one key.
    pub async fn put(&self, put: impl Into<PutRequest>) -> Result<PutResponse> {
        self.route.unary(&PUT, put.into()).await
    }

    /// Deletes a key or a range.
    pub async fn delete(
        &self,
        delete: impl Into<DeleteRangeRequest>,
    ) -> Result<DeleteRangeResponse> {
        self.route.unary(&DELETE, delete.into()).await
    }

    /// Runs a transaction. One that can only read is repeated like a read.
    pub async fn txn(&self, txn: impl Into<TxnRequest>) -> Result<TxnResponse> {
        let txn = txn.into();
        let method = if only_reads(&txn) { &TXN_READ } else { &TXN };
        self.route.unary(method, txn).await
    }

    /// Gives up everything before `revision`. With `physical` it answers only when the space has
    /// really been given back.
    pub async fn compact(&self, revision: i64, physical: bool) -> Result<CompactionResponse> {
        self.route.unary(&COMPACT, CompactionRequest { revision, physical }).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_prefix_of_its_length() {
        for (prefix, end) in [
            (&b"a"[..], &b"b"[..]),
            (b"a\xff", b"b"),
            (b"\xff\xff", b"\0"),
            (b"", b"\0"),
            (b"\0", b"\x01"),
        ] {
            assert_eq!(&KeyRange::prefix(prefix.to_vec()).range_end[..], end);
        }
        assert_eq!(&KeyRange::prefix("").key[..], b"\0");
    }

    #[test]
    fn a_txn_only_reads_if_no_branch_at_any_depth_writes() {
        let reads = Txn::new().then(Get::new("a")).otherwise(Txn::new().then(Get::new("b")));
        let writes = Txn::new().then(Get::new("a")).otherwise(Txn::new().then(Delete::new("b")));
        assert!(only_reads(&reads.into()));
        assert!(!only_reads(&writes.into()));
    }
}
