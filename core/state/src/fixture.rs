//! For tests: pinned bytes as hex text, and states with a history.

use proptest::prelude::*;
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, PutRequest, RequestOp, TxnRequest,
};
use proto::log::command::Op;
use proto::log::{Command, LeaseGrant};

use crate::{Changes, Event, Limits, State, StateParts, View};

/// Bytes of hex text; spaces and line ends do not count.
pub(crate) fn from_hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text
        .chars()
        .filter(|it| !it.is_whitespace())
        .map(|it| it.to_digit(16).expect("hex text"))
        .collect();
    assert!(digits.len().is_multiple_of(2), "hex text of odd length");
    digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).expect("a byte")).collect()
}

/// Hex text of bytes.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One thing that happens to a state under trial.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Key number, length of the value.
    Put(u8, usize),
    /// From key number, up to and with key number.
    Delete(u8, u8),
    /// Puts and deletes of distinct keys in one revision.
    Txn(Vec<(u8, bool)>),
    /// Compaction at so many percent of the present revision.
    Compact(u8),
    /// Every record a compaction left behind is taken out.
    Sweep,
    /// A lease.
    Grant(u8),
    /// An entry that changes nothing.
    Skip,
}

/// Steps over a few keys.
pub(crate) fn arbitrary_step() -> impl Strategy<Value = Step> {
    let key = || 0_u8..12;
    prop_oneof![
        6 => (key(), 0_usize..300).prop_map(|(key, len)| Step::Put(key, len)),
        2 => (key(), 0_u8..3).prop_map(|(key, more)| Step::Delete(key, key + more)),
        2 => prop::collection::btree_map(key(), any::<bool>(), 1..6)
            .prop_map(|ops| Step::Txn(ops.into_iter().collect())),
        1 => (0_u8..=100).prop_map(Step::Compact),
        1 => Just(Step::Sweep),
        1 => any::<u8>().prop_map(Step::Grant),
        1 => Just(Step::Skip),
    ]
}

/// A state that steps are applied to, and everything that ever happened to it.
pub(crate) struct Trial {
    pub(crate) state: State,
    pub(crate) index: u64,
    pub(crate) history: Vec<Event>,
}

/// The key of a number.
pub(crate) fn key_of(number: u8) -> Vec<u8> {
    format!("k/{:02}", number).into_bytes()
}

impl Trial {
    pub(crate) fn new() -> Self {
        Self { state: State::new(Limits::default()), index: 0, history: Vec::new() }
    }

    /// Goes on from a state as it was restored, with the history up to there.
    pub(crate) fn resumed(parts: StateParts, history: &[Event]) -> Self {
        let index = parts.applied.index;
        let revision = parts.applied.revision;
        let known = |event: &&Event| event.record.mod_revision() <= revision;
        let history = history.iter().take_while(known).cloned().collect();
        let state = State::from_parts(parts, Limits::default()).expect("parts of a state");
        Self { state, index, history }
    }

    /// Applies a step; gives what changed, the state after it, and its events.
    pub(crate) fn step(&mut self, step: &Step) -> (Changes, View, Vec<Event>) {
        let mut events = Vec::new();
        match self.op(step) {
            Some(op) => {
                self.index += 1;
                let command = Command { id: None, op: Some(op) };
                events = self.state.apply(self.index, 1, &command).events;
            }
            None if matches!(step, Step::Sweep) => while self.state.sweep(64) {},
            None => {
                self.index += 1;
                self.state.skip(self.index, 1);
            }
        }
        self.history.extend_from_slice(&events);
        let view = self.state.publish();
        (self.state.take_changes(), view, events)
    }

    fn op(&mut self, step: &Step) -> Option<Op> {
        let revision = self.state.publish().revision();
        let put = |number: u8, length: usize| PutRequest {
            key: key_of(number).into(),
            // Neither all equal nor incompressible.
            value: (0..length).map(|at| (at / 8) as u8 ^ revision as u8).collect(),
            ..PutRequest::default()
        };
        let delete = |from: u8, to: u8| DeleteRangeRequest {
            key: key_of(from).into(),
            range_end: key_of(to + 1).into(),
            ..DeleteRangeRequest::default()
        };
        Some(match step {
            Step::Put(key, length) => Op::Put(put(*key, *length)),
            Step::Delete(from, to) => Op::DeleteRange(delete(*from, *to)),
            Step::Txn(ops) => {
                let request = |(key, is_put): &(u8, bool)| RequestOp {
                    request: Some(match is_put {
                        true => Request::RequestPut(put(*key, 20)),
                        false => Request::RequestDeleteRange(delete(*key, *key)),
                    }),
                };
                let success = ops.iter().map(request).collect();
                Op::Txn(TxnRequest { success, ..TxnRequest::default() })
            }
            Step::Compact(percent) => {
                let revision = revision * i64::from(*percent) / 100;
                Op::Compact(CompactionRequest { revision, physical: false })
            }
            Step::Grant(id) => Op::LeaseGrant(LeaseGrant { id: i64::from(*id) + 1, ttl: 60 }),
            Step::Sweep | Step::Skip => return None,
        })
    }
}
