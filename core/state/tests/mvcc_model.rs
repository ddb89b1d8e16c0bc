//! The state against a naive model: one whole map of keys for every revision there ever was.
//!
//! Random commands go to both. Then everything that can be asked of the past and the present is asked
//! of both, while compactions are still being carried out in the background and after.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod apart;

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};
use proto::log::command::Op;
use proto::log::{Command, LeaseGrant, LeaseRevoke};
use proto::mvccpb::KeyValue;
use state::{KeyRange, Limits, Record, Response, State, StateError, StateParts, View};

type Keys = BTreeMap<Vec<u8>, KeyValue>;

/// Every past there was.
struct Model {
    /// By revision, from 0; nothing was there at 0 and 1.
    past: Vec<Keys>,
    compact_revision: i64,
    leases: Vec<i64>,
}

impl Model {
    fn new() -> Self {
        Self { past: vec![Keys::new(), Keys::new()], compact_revision: -1, leases: Vec::new() }
    }

    fn revision(&self) -> i64 {
        self.past.len() as i64 - 1
    }

    fn keys(&self) -> &Keys {
        self.past.last().unwrap()
    }

    fn at(&self, revision: i64) -> Result<&Keys, StateError> {
        if revision > self.revision() {
            return Err(StateError::FutureRevision);
        }
        if revision <= 0 {
            return Ok(self.keys());
        }
        if revision < self.compact_revision {
            return Err(StateError::Compacted);
        }
        Ok(&self.past[revision as usize])
    }

    /// Adds the next past if anything changed.
    fn commit(&mut self, keys: Keys) {
        if &keys != self.keys() {
            self.past.push(keys);
        }
    }

    fn put(&self, keys: &mut Keys, key: &[u8], value: &[u8], lease: i64) {
        let revision = self.revision() + 1;
        let fresh = KeyValue { create_revision: revision, ..KeyValue::default() };
        let entry = keys.entry(key.to_vec()).or_insert(fresh);
        *entry = KeyValue {
            key: key.to_vec().into(),
            value: value.to_vec().into(),
            mod_revision: revision,
            version: entry.version + 1,
            lease,
            create_revision: entry.create_revision,
        };
    }

    /// The keys of a range, the slow way.
    fn range(&self, request: &RangeRequest) -> Result<(Vec<KeyValue>, bool, i64), StateError> {
        let keys = self.at(request.revision)?;
        let in_range = |key: &[u8]| contains(&request.key, &request.range_end, key);
        let mut found: Vec<KeyValue> =
            keys.values().filter(|kv| in_range(&kv.key)).cloned().collect();
        let count = found.len() as i64;
        let filters = [
            request.min_mod_revision,
            request.max_mod_revision,
            request.min_create_revision,
            request.max_create_revision,
        ];
        found.retain(|kv| {
            (filters[0] == 0 || kv.mod_revision >= filters[0])
                && (filters[1] == 0 || kv.mod_revision <= filters[1])
                && (filters[2] == 0 || kv.create_revision >= filters[2])
                && (filters[3] == 0 || kv.create_revision <= filters[3])
        });
        let limit = if request.limit > 0 { request.limit as usize } else { usize::MAX };
        // etcd: without an order only one key more than the limit is fetched.
        if request.sort_order() == SortOrder::None && filters == [0; 4] {
            found.truncate(limit.saturating_add(1));
        }
        found.sort_by(|a, b| {
            let ordering = match request.sort_target() {
                SortTarget::Key => a.key.cmp(&b.key),
                SortTarget::Version => a.version.cmp(&b.version),
                SortTarget::Create => a.create_revision.cmp(&b.create_revision),
                SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
                SortTarget::Value => a.value.cmp(&b.value),
            };
            if request.sort_order() == SortOrder::Descend { ordering.reverse() } else { ordering }
        });
        let more = found.len() > limit;
        found.truncate(limit);
        if request.keys_only {
            found.iter_mut().for_each(|kv| kv.value.clear());
        }
        if request.count_only {
            return Ok((Vec::new(), false, count));
        }
        Ok((found, more, count))
    }
}

fn contains(start: &[u8], end: &[u8], key: &[u8]) -> bool {
    match end {
        [] => key == start,
        [0] => key >= start,
        _ => key >= start && key < end,
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put {
        key: Vec<u8>,
        value: u8,
        lease: usize,
    },
    Delete {
        key: Vec<u8>,
        range_end: Vec<u8>,
    },
    /// Puts and deletes together, with one compare on a version.
    Txn {
        compared: Vec<u8>,
        version: i64,
        puts: Vec<Vec<u8>>,
        delete: Vec<u8>,
    },
    Compact {
        back: i64,
    },
    Grant {
        id: i64,
    },
    Revoke {
        lease: usize,
    },
    Sweep {
        records: usize,
    },
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    // Few and of several lengths, with common beginnings: versions and ties are what matters.
    prop_oneof![
        4 => (0..20_u8).prop_map(|number| format!("/registry/pods/{number:02}").into_bytes()),
        2 => (0..200_u8).prop_map(|number| format!("/registry/leases/node-{number:03}").into_bytes()),
        1 => vec(0..3_u8, 1..4),
    ]
}

fn range_end() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![Just(Vec::new()), Just(vec![0]), key(), Just(b"/registry/pods0".to_vec())]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (key(), any::<u8>(), 0..8_usize)
            .prop_map(|(key, value, lease)| Step::Put { key, value, lease }),
        3 => key().prop_map(|key| Step::Delete { key, range_end: Vec::new() }),
        1 => (key(), key()).prop_map(|(key, range_end)| Step::Delete { key, range_end }),
        4 => (key(), 0..3_i64, vec(key(), 0..4), key()).prop_map(
            |(compared, version, puts, delete)| Step::Txn { compared, version, puts, delete }
        ),
        1 => (-2..40_i64).prop_map(|back| Step::Compact { back }),
        1 => (1..6_i64).prop_map(|id| Step::Grant { id }),
        1 => (0..4_usize).prop_map(|lease| Step::Revoke { lease }),
        2 => (1..40_usize).prop_map(|records| Step::Sweep { records }),
    ]
}

struct Pair {
    state: State,
    model: Model,
    index: u64,
    /// Every record there ever was.
    records: Vec<Record>,
}

impl Pair {
    fn new(is_apart: bool) -> Self {
        let state = apart::state(Limits::default(), is_apart);
        Self { state, model: Model::new(), index: 0, records: Vec::new() }
    }
}

impl Pair {
    fn apply(&mut self, op: Op) -> Result<Response, StateError> {
        self.index += 1;
        let outcome = self.state.apply(self.index, 1, &Command { id: None, op: Some(op) });
        self.records.extend(outcome.events.iter().map(|event| event.record.clone()));
        for event in &outcome.events {
            assert_eq!(event.record.mod_revision(), outcome.revision);
            let before = self.model.keys().get(event.record.key());
            let whole = |prev: &Record| self.state.values().key_value(prev);
            assert_eq!(event.prev.as_ref().map(whole), before.cloned());
        }
        outcome.result
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Put { key, value, lease } => {
                let lease = self.model.leases.get(*lease).copied().unwrap_or(0);
                let put = PutRequest { lease, ..put(key, *value) };
                self.apply(Op::Put(put)).unwrap();
                let mut keys = self.model.keys().clone();
                self.model.put(&mut keys, key, &[*value; 3], lease);
                self.model.commit(keys);
            }
            Step::Delete { key, range_end } => {
                let request = delete(key, range_end);
                let Ok(Response::DeleteRange(response)) = self.apply(Op::DeleteRange(request))
                else {
                    panic!("a delete is answered")
                };
                let mut keys = self.model.keys().clone();
                keys.retain(|other, _| !contains(key, range_end, other));
                assert_eq!(response.deleted as usize, self.model.keys().len() - keys.len());
                self.model.commit(keys);
            }
            Step::Txn { compared, version, puts, delete: doomed } => {
                self.txn(compared, *version, puts, doomed);
            }
            Step::Compact { back } => {
                let revision = self.model.revision() - back;
                let expected = if revision <= self.model.compact_revision {
                    Some(StateError::Compacted)
                } else if revision > self.model.revision() {
                    Some(StateError::FutureRevision)
                } else {
                    self.model.compact_revision = revision;
                    None
                };
                // With the views up to date a compaction is not carried out all at once by the next.
                drop(self.state.publish());
                let request = CompactionRequest { revision, physical: false };
                assert_eq!(self.apply(Op::Compact(request)).err(), expected);
            }
            Step::Grant { id } => {
                let granted = self.apply(Op::LeaseGrant(LeaseGrant { id: *id, ttl: 10 }));
                if self.model.leases.contains(id) {
                    assert_eq!(granted.err(), Some(StateError::LeaseExists));
                } else {
                    assert!(granted.is_ok());
                    self.model.leases.push(*id);
                }
            }
            Step::Revoke { lease } => {
                let Some(id) = self.model.leases.get(*lease).copied() else { return };
                self.model.leases.remove(*lease);
                self.apply(Op::LeaseRevoke(LeaseRevoke { id, expired: false })).unwrap();
                let mut keys = self.model.keys().clone();
                keys.retain(|_, kv| kv.lease != id);
                self.model.commit(keys);
            }
            Step::Sweep { records } => _ = self.state.sweep(*records),
        }
    }

    fn txn(&mut self, compared: &[u8], version: i64, puts: &[Vec<u8>], doomed: &[u8]) {
        let op = |request| RequestOp { request: Some(request) };
        let mut success: Vec<RequestOp> =
            puts.iter().map(|key| op(Request::RequestPut(put(key, 7)))).collect();
        success.push(op(Request::RequestDeleteRange(delete(doomed, b""))));
        let request = TxnRequest {
            compare: vec![Compare {
                result: CompareResult::Equal as i32,
                target: CompareTarget::Version as i32,
                key: compared.to_vec().into(),
                range_end: Vec::new().into(),
                target_union: Some(TargetUnion::Version(version)),
            }],
            success,
            failure: vec![op(Request::RequestPut(put(doomed, 8)))],
        };
        let mut twice: Vec<&[u8]> = puts.iter().map(Vec::as_slice).collect();
        twice.push(doomed);
        twice.sort_unstable();
        if !twice.is_sorted_by(|a, b| a < b) {
            assert_eq!(self.apply(Op::Txn(request)).err(), Some(StateError::DuplicateKey));
            return;
        }
        let Ok(Response::Txn(response)) = self.apply(Op::Txn(request)) else {
            panic!("the txn is well formed")
        };
        let mut keys = self.model.keys().clone();
        let succeeded = keys.get(compared).map_or(0, |kv| kv.version) == version;
        assert_eq!(response.succeeded, succeeded);
        if succeeded {
            puts.iter().for_each(|key| self.model.put(&mut keys, key, &[7; 3], 0));
            keys.remove(doomed);
        } else {
            self.model.put(&mut keys, doomed, &[8; 3], 0);
        }
        self.model.commit(keys);
        assert_eq!(response.header.unwrap().revision, self.model.revision());
    }
}

fn put(key: &[u8], value: u8) -> PutRequest {
    PutRequest { key: key.to_vec().into(), value: vec![value; 3].into(), ..PutRequest::default() }
}

fn delete(key: &[u8], range_end: &[u8]) -> DeleteRangeRequest {
    DeleteRangeRequest {
        key: key.to_vec().into(),
        range_end: range_end.to_vec().into(),
        prev_kv: false,
    }
}

fn question() -> impl Strategy<Value = RangeRequest> {
    let revision = prop_oneof![2 => Just(0_i64), 5 => 0..240_i64];
    let filter = || prop_oneof![4 => Just(0_i64), 1 => 0..100_i64];
    let range = (key(), range_end(), -1..8_i64, revision, 0..3_i32, 0..5_i32);
    let flags = (any::<bool>(), 0..6_u8, filter(), filter(), filter(), filter());
    (range, flags).prop_map(|(range, flags)| {
        let (key, range_end, limit, revision, sort_order, sort_target) = range;
        RangeRequest {
            key: key.into(),
            range_end: range_end.into(),
            limit,
            revision,
            sort_order,
            sort_target,
            keys_only: flags.0,
            count_only: flags.1 == 0,
            min_mod_revision: flags.2,
            max_mod_revision: flags.3,
            min_create_revision: flags.4,
            max_create_revision: flags.5,
            serializable: false,
        }
    })
}

fn compare_ranges(view: &View, model: &Model, questions: &[RangeRequest]) {
    for question in questions {
        let answer = view.range(question).map(|response| {
            assert_eq!(response.header.unwrap().revision, model.revision());
            (response.kvs, response.more, response.count)
        });
        assert_eq!(answer, model.range(question), "{question:?}");
        if let Some(at_hand) = view.range_at_hand(question) {
            assert_eq!(at_hand, view.range(question), "{question:?}");
        }
    }
}

/// Pages of a range at a pinned revision come to the same as the range in one piece.
fn compare_pages(view: &View, model: &Model, question: &RangeRequest) {
    let range = KeyRange::new(&question.key, &question.range_end);
    let (mut paged, mut from) = (Vec::new(), None::<Vec<u8>>);
    loop {
        let page = match view.range_page(range, question.revision, from.as_deref(), 3, 400) {
            Ok(page) => page,
            Err(error) => return assert_eq!(model.at(question.revision).err(), Some(error)),
        };
        paged.extend(page.records.iter().map(|it| view.values().key_value(it)));
        match page.next_key {
            Some(next) => from = Some(next),
            None => break,
        }
    }
    let plain = RangeRequest {
        key: question.key.clone(),
        range_end: question.range_end.clone(),
        revision: question.revision,
        ..RangeRequest::default()
    };
    assert_eq!(paged, model.range(&plain).unwrap().0);
}

/// Replaying all events from a revision turns that past into the present.
fn compare_events(
    view: &View,
    model: &Model,
    (key, range_end): (&[u8], &[u8]),
    (revisions_max, bytes_max): (usize, usize),
) {
    let compacted = view.events(model.compact_revision - 1, key, range_end, 1, 1);
    assert_eq!(compacted.err(), Some(StateError::Compacted));

    let from = model.compact_revision.max(1);
    // At the compact revision itself the events are still there, but not what was before them.
    if model.compact_revision > 1 {
        let page = view.events(from, key, range_end, usize::MAX, usize::MAX).unwrap();
        let here = page.events.iter().take_while(|event| event.record.mod_revision() == from);
        let (before, after) = (&model.past[from as usize - 1], &model.past[from as usize]);
        let mut changed: Vec<&Vec<u8>> = before.keys().chain(after.keys()).collect();
        changed.retain(|key| before.get(*key) != after.get(*key));
        changed.retain(|other| contains(key, range_end, other));
        changed.sort();
        changed.dedup();
        let mut told = Vec::new();
        for event in here {
            assert_eq!(event.prev, None);
            told.push(event.record.key().to_vec());
        }
        told.sort();
        assert!(told.iter().eq(changed));
    }
    let in_range = |keys: &Keys| -> Keys {
        keys.iter()
            .filter(|(other, _)| contains(key, range_end, other))
            .map(|(key, kv)| (key.clone(), kv.clone()))
            .collect()
    };
    let mut replayed = in_range(&model.past[from as usize]);
    let mut next = from + 1;
    loop {
        let page = view.events(next, key, range_end, revisions_max, bytes_max).unwrap();
        let mut revisions: Vec<i64> =
            page.events.iter().map(|event| event.record.mod_revision()).collect();
        revisions.dedup();
        assert!(revisions.len() <= revisions_max);
        for event in &page.events {
            let record = &event.record;
            let before = model.past[record.mod_revision() as usize - 1].get(record.key());
            let known = before.filter(|_| record.mod_revision() > model.compact_revision);
            let whole = |record: &Record| view.values().key_value(record);
            assert_eq!(event.prev.as_ref().map(whole), known.cloned());
            if record.is_tombstone() {
                assert!(replayed.remove(record.key()).is_some());
            } else {
                replayed.insert(record.key().to_vec(), whole(record));
            }
        }
        let (first, last) = (page.events.first(), page.events.last());
        let main = |event: &state::Event| event.record.mod_revision();
        assert!(first.is_none_or(|first| main(first) >= next));
        assert!(last.is_none_or(|last| main(last) < page.next_revision));
        if page.next_revision > model.revision() {
            break;
        }
        assert!(page.next_revision > next, "each page goes on");
        // A page ends between revisions: what is replayed is exactly that past.
        assert_eq!(replayed, in_range(&model.past[page.next_revision as usize - 1]));
        next = page.next_revision;
    }
    assert_eq!(replayed, in_range(model.keys()));
}

/// The records that must be left, worked out from the pasts alone.
fn expected_records(model: &Model) -> Vec<(i64, Vec<u8>, bool)> {
    let mut expected = Vec::new();
    for revision in 1..model.past.len() {
        let (before, after) = (&model.past[revision - 1], &model.past[revision]);
        let compact = model.compact_revision.max(0) as usize;
        for (key, kv) in after {
            let made_here = kv.mod_revision == revision as i64;
            let lives = revision >= compact
                || model.past[compact]
                    .get(key)
                    .is_some_and(|live| live.mod_revision == kv.mod_revision);
            if made_here && lives {
                expected.push((revision as i64, key.clone(), false));
            }
        }
        for key in before.keys().filter(|key| !after.contains_key(*key)) {
            if revision >= compact {
                expected.push((revision as i64, key.clone(), true));
            }
        }
    }
    expected.sort();
    expected
}

fn kept_records(view: &View) -> Vec<(i64, Vec<u8>, bool)> {
    let mut kept: Vec<_> = view
        .records()
        .map(|record| (record.mod_revision(), record.key().to_vec(), record.is_tombstone()))
        .collect();
    kept.sort();
    kept
}

fn compare_all(view: &View, model: &Model, questions: &[RangeRequest]) {
    assert_eq!(view.revision(), model.revision());
    assert_eq!(view.keys_total(), model.keys().len());
    compare_ranges(view, model, questions);
    compare_pages(view, model, &questions[0]);
    compare_events(view, model, (&[0], &[0]), (2, usize::MAX));
    for question in &questions[..2] {
        let range = (&question.key[..], &question.range_end[..]);
        compare_events(view, model, range, (3, usize::MAX));
        compare_events(view, model, range, (usize::MAX, 200));
    }
    assert_eq!(kept_records(view), expected_records(model));
    let bytes: usize = model
        .keys()
        .values()
        .map(|kv| state::record::HEADER_BYTES + kv.key.len() + kv.value.len())
        .sum();
    assert_eq!(view.size_in_use_bytes(), bytes as u64);
    for &id in &model.leases {
        let keys: Vec<&[u8]> =
            model.keys().values().filter(|kv| kv.lease == id).map(|kv| &kv.key[..]).collect();
        assert_eq!(view.lease_keys(id), keys);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_past_and_the_present_can_be_read_until_compacted(
        steps in vec(step(), 1..240),
        questions in vec(question(), 24),
        keep_at in 0..240_usize,
        is_apart in any::<bool>(),
    ) {
        let mut pair = Pair::new(is_apart);
        let mut kept = None;
        for (number, step) in steps.iter().enumerate() {
            pair.step(step);
            if number == keep_at {
                kept = Some((pair.state.publish(), pair.model.past.len(), pair.model.compact_revision));
            }
        }
        let view = pair.state.publish();
        compare_all(&view, &pair.model, &questions);

        // The end of the sweep changes nothing that can be asked for.
        let records: Vec<_> = view.records().cloned().collect();
        while pair.state.sweep(5) {}
        let swept = pair.state.publish();
        prop_assert!(!swept.is_compacting());
        compare_all(&swept, &pair.model, &questions);
        prop_assert!(swept.records().eq(records.iter()));
        let bytes: usize = records.iter().map(|record| record.bytes_len()).sum();
        prop_assert_eq!(swept.size_bytes(), bytes as u64 + 64 * pair.model.leases.len() as u64);

        // Taken apart and put together again it is the same, also with what compaction had not
        // taken out yet.
        let parts = swept.parts();
        let mut restored = apart::restored(parts.clone(), Limits::default(), &pair.state);
        compare_all(&restored.publish(), &pair.model, &questions);
        prop_assert_eq!(&restored.publish().parts(), &parts);
        let everything = StateParts { records: pair.records.clone(), ..parts.clone() };
        let mut restored = apart::restored(everything, Limits::default(), &pair.state);
        prop_assert_eq!(restored.publish().parts(), parts);

        // A view kept from earlier has not moved.
        if let Some((view, length, compact_revision)) = kept {
            pair.model.past.truncate(length);
            pair.model.compact_revision = compact_revision;
            pair.model.leases.clear();
            compare_all(&view, &pair.model, &questions);
        }
    }

    #[test]
    fn the_same_commands_make_the_same_state_however_the_sweep_is_timed(
        steps in vec(step(), 1..120),
    ) {
        let mut one = Pair::new(false);
        let mut other = Pair::new(true);
        for step in &steps {
            one.step(step);
            if !matches!(step, Step::Sweep { .. }) {
                other.step(step);
                other.state.sweep(3);
            }
        }
        // A sweep is no command.
        prop_assert_eq!(one.state.publish().parts(), other.state.publish().parts());
    }
}
