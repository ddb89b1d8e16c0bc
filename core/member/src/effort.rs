//! How much there is to apply: little, and whoever finds it may do so on the spot; or more than that.

use std::ops::AddAssign;

use prost::Message as _;
use proto::etcdserverpb::{RequestOp, TxnRequest, request_op::Request};
use proto::log::command::Op;
use proto::log::{Batch, Command, Entry, entry};

use crate::apply::ApplyTask;

/// More operations are not little. One takes a few microseconds, whatever the size of the store.
const LITTLE_OPERATIONS_MAX: usize = 16;
/// More bytes of entries are not little; a value is copied once.
const LITTLE_BYTES_MAX: u64 = 16 << 10;

/// What it takes to apply something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effort {
    /// Operations on one key or one lease each.
    operations: usize,
    bytes: u64,
}

impl Effort {
    /// It may take long.
    pub const MUCH: Effort = Effort { operations: usize::MAX, bytes: u64::MAX };

    /// What these tasks take. Much: a snapshot, a change of the membership, whatever touches a range
    /// of keys or all keys of a lease.
    pub fn of(tasks: &[ApplyTask]) -> Effort {
        let mut effort = Effort::default();
        for task in tasks {
            let ApplyTask::Entries { entries, bytes } = task else { return Effort::MUCH };
            effort += Effort { operations: entries.len(), bytes: *bytes };
            if !effort.is_little() {
                return Effort::MUCH;
            }
            for entry in entries {
                let Some(operations) = operations_of(entry) else { return Effort::MUCH };
                effort += Effort { operations, bytes: 0 };
            }
        }
        effort
    }

    /// Whether whoever finds it may as well do it.
    pub fn is_little(&self) -> bool {
        self.operations <= LITTLE_OPERATIONS_MAX && self.bytes <= LITTLE_BYTES_MAX
    }
}

impl AddAssign for Effort {
    fn add_assign(&mut self, more: Effort) {
        self.operations = self.operations.saturating_add(more.operations);
        self.bytes = self.bytes.saturating_add(more.bytes);
    }
}

/// Operations beyond one for each entry. `None`: one of them may take long.
fn operations_of(entry: &Entry) -> Option<usize> {
    if entry.r#type != i32::from(entry::Type::Normal) {
        return None;
    }
    // What can not be read is not carried out either.
    let batch = Batch::decode(entry.data.clone()).unwrap_or_default();
    let of_commands = batch.commands.into_iter().map(|command| {
        let command = Command::decode(command).unwrap_or_default();
        command.op.map_or(Some(0), |op| operations_of_command(&op))
    });
    let operations: usize = of_commands.sum::<Option<usize>>()?;
    Some(operations.saturating_sub(1))
}

fn operations_of_command(op: &Op) -> Option<usize> {
    match op {
        Op::Put(_) | Op::LeaseGrant(_) => Some(1),
        Op::DeleteRange(delete) => delete.range_end.is_empty().then_some(1),
        Op::Txn(txn) => operations_of_txn(txn),
        _ => None,
    }
}

fn operations_of_txn(txn: &TxnRequest) -> Option<usize> {
    let TxnRequest { compare, success, failure } = txn;
    let is_of_one_key = |op: &RequestOp| match &op.request {
        Some(Request::RequestPut(_)) | None => true,
        Some(Request::RequestRange(range)) => range.range_end.is_empty(),
        Some(Request::RequestDeleteRange(delete)) => delete.range_end.is_empty(),
        Some(Request::RequestTxn(_)) => false,
    };
    let all = compare.iter().all(|compare| compare.range_end.is_empty())
        && success.iter().chain(failure).all(is_of_one_key);
    all.then(|| compare.len() + success.len().max(failure.len()))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proto::etcdserverpb::{Compare, DeleteRangeRequest, PutRequest, RangeRequest};
    use proto::log::{LeaseGrant, LeaseRevoke, SnapshotMeta};

    use super::*;

    fn put() -> Op {
        Op::Put(PutRequest { key: Bytes::from_static(b"k"), ..PutRequest::default() })
    }

    fn entry(ops: Vec<Op>) -> Entry {
        let commands = ops
            .into_iter()
            .map(|op| Command { id: None, op: Some(op) }.encode_to_vec().into())
            .collect();
        Entry { data: Batch { commands }.encode_to_vec().into(), ..Entry::default() }
    }

    fn task(entries: Vec<Entry>) -> ApplyTask {
        let bytes = entries.iter().map(|entry| entry.data.len() as u64).sum();
        ApplyTask::Entries { entries, bytes }
    }

    fn is_little(ops: Vec<Op>) -> bool {
        Effort::of(&[task(vec![entry(ops)])]).is_little()
    }

    #[test]
    fn as_many_operations_as_there_may_be_are_little_and_one_more_is_not() {
        assert!(is_little(vec![put(); LITTLE_OPERATIONS_MAX]));
        assert!(!is_little(vec![put(); LITTLE_OPERATIONS_MAX + 1]));
        let each_alone = |count| task(vec![entry(vec![put()]); count]);
        assert!(Effort::of(&[each_alone(LITTLE_OPERATIONS_MAX)]).is_little());
        assert!(!Effort::of(&[each_alone(LITTLE_OPERATIONS_MAX + 1)]).is_little());
        let empty = |count| task(vec![Entry::default(); count]);
        assert!(Effort::of(&[empty(LITTLE_OPERATIONS_MAX)]).is_little());
        assert!(!Effort::of(&[empty(LITTLE_OPERATIONS_MAX + 1)]).is_little());
    }

    #[test]
    fn what_gathers_is_no_longer_little_together() {
        let half = Effort::of(&[task(vec![entry(vec![put(); LITTLE_OPERATIONS_MAX / 2])])]);
        let mut all = half;
        all += half;
        assert!(all.is_little());
        all += half;
        assert!(!all.is_little());
        all += Effort::MUCH;
        assert!(!all.is_little());
    }

    #[test]
    fn a_long_value_is_not_little() {
        let value = |length| {
            let value = Bytes::from(vec![7; length]);
            vec![Op::Put(PutRequest { value, ..PutRequest::default() })]
        };
        let most = LITTLE_BYTES_MAX as usize;
        assert!(is_little(value(most - 100)));
        assert!(!is_little(value(most)));
    }

    #[test]
    fn what_touches_ranges_or_more_than_keys_is_not_little() {
        let end = Bytes::from_static(b"z");
        let range = RangeRequest { range_end: end.clone(), ..RangeRequest::default() };
        let delete = DeleteRangeRequest { range_end: end.clone(), ..DeleteRangeRequest::default() };
        let of = |request| RequestOp { request: Some(request) };
        let txn = |txn| is_little(vec![Op::Txn(txn)]);
        assert!(!is_little(vec![Op::DeleteRange(delete.clone())]));
        assert!(is_little(vec![Op::DeleteRange(DeleteRangeRequest::default())]));
        for request in [
            Request::RequestRange(range),
            Request::RequestDeleteRange(delete),
            Request::RequestTxn(TxnRequest::default()),
        ] {
            let failure = vec![of(request.clone())];
            assert!(!txn(TxnRequest { failure, ..TxnRequest::default() }), "{request:?}");
        }
        let compare = vec![Compare { range_end: end, ..Compare::default() }];
        assert!(!txn(TxnRequest { compare, ..TxnRequest::default() }));
        assert!(!is_little(vec![Op::LeaseRevoke(LeaseRevoke::default())]));
        assert!(is_little(vec![Op::LeaseGrant(LeaseGrant::default())]));
    }

    /// How Kubernetes writes: compare, put, or else read.
    #[test]
    fn a_txn_on_one_key_is_little() {
        let of = |request| vec![RequestOp { request: Some(request) }];
        let txn = TxnRequest {
            compare: vec![Compare::default()],
            success: of(Request::RequestPut(PutRequest::default())),
            failure: of(Request::RequestRange(RangeRequest::default())),
        };
        assert!(is_little(vec![Op::Txn(txn.clone()); LITTLE_OPERATIONS_MAX / 2]));
        assert!(!is_little(vec![Op::Txn(txn); LITTLE_OPERATIONS_MAX / 2 + 1]));
    }

    #[test]
    fn snapshots_and_membership_are_never_little() {
        assert!(!Effort::of(&[ApplyTask::BeginSnapshot]).is_little());
        assert!(!Effort::of(&[ApplyTask::Restore(SnapshotMeta::default())]).is_little());
        let change = Entry { r#type: entry::Type::ConfChangeV2.into(), ..Entry::default() };
        assert!(!Effort::of(&[task(vec![change])]).is_little());
        assert!(Effort::of(&[]).is_little());
    }
}
