//! Range requests, answered from a store at one moment.

use std::cmp::Ordering;

use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::{RangeRequest, RangeResponse};

use crate::error::StateError;
use crate::mvcc::{KeyRange, Store};
use crate::outcome::header;
use crate::record::Record;
use crate::values::{Fetched, Patience, Values};

/// Answers a request that [`crate::check::range`] has passed. `revision` is the store's own, or that
/// of the transaction the request is part of; the header tells it, and what is asked for must not
/// lie beyond it.
pub(crate) fn range(
    store: &Store,
    request: &RangeRequest,
    revision: i64,
) -> Result<RangeResponse, StateError> {
    answer(store, request, revision, Patience::Waits)
        .map(|it| it.expect("who waits gets an answer"))
}

/// As [`range`], by one who must not wait; `None` if it would have to.
pub(crate) fn range_at_hand(
    store: &Store,
    request: &RangeRequest,
    revision: i64,
) -> Option<Result<RangeResponse, StateError>> {
    answer(store, request, revision, Patience::AtHand).transpose()
}

fn answer(
    store: &Store,
    request: &RangeRequest,
    revision: i64,
    patience: Patience,
) -> Result<Option<RangeResponse>, StateError> {
    if request.revision > revision {
        return Err(StateError::FutureRevision);
    }
    if request.revision > 0 && request.revision < store.compact_revision() {
        return Err(StateError::Compacted);
    }
    let at = if request.revision > 0 { request.revision } else { i64::MAX };
    let keys = KeyRange::new(&request.key, &request.range_end);
    let count = store.count_at(keys, at);
    let mut response = RangeResponse {
        header: header(revision),
        count: i64::try_from(count).unwrap_or(i64::MAX),
        ..RangeResponse::default()
    };
    if request.count_only {
        return Ok(Some(response));
    }

    let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0);
    let live = store.live_at(keys, at);
    let Some(found) = Found::new(request, limit, count, live, store.values(), patience) else {
        return Ok(None);
    };
    response.more = found.more;
    let records = found.records;
    if request.keys_only {
        response.kvs = records.into_iter().map(Record::to_key_only).collect();
    } else {
        let Some(whole) = store.values().fetch(records.iter().copied(), patience) else {
            return Ok(None);
        };
        response.kvs = records.into_iter().map(|it| whole.of(it).to_key_value()).collect();
    }
    Ok(Some(response))
}

struct Found<'a> {
    records: Vec<&'a Record>,
    more: bool,
}

impl<'a> Found<'a> {
    fn new(
        request: &RangeRequest,
        limit: Option<usize>,
        count: usize,
        live: impl Iterator<Item = &'a Record>,
        values: &Values,
        patience: Patience,
    ) -> Option<Self> {
        // Without an order etcd looks no further than one key past the limit, and only then sorts by
        // a target other than the key.
        let cut_first = !is_filtered(request) && !is_sorted(request);
        let most = limit.filter(|_| cut_first).map_or(count, |limit| count.min(limit + 1));
        let mut records = Vec::with_capacity(most);
        records.extend(live.filter(|record| passes(request, record)).take(most));

        let more = limit.is_some_and(|limit| records.len() > limit);
        let by_value = request.sort_target() == SortTarget::Value;
        let compared = values.fetch(records.iter().copied().filter(|_| by_value), patience)?;
        sort(request, limit.filter(|_| more), &mut records, &compared);
        records.truncate(limit.unwrap_or(usize::MAX));
        Some(Self { records, more })
    }
}

/// Whether an order was asked for other than the one records come in.
pub(crate) fn is_sorted(request: &RangeRequest) -> bool {
    match request.sort_order() {
        SortOrder::None => false,
        SortOrder::Ascend => request.sort_target() != SortTarget::Key,
        SortOrder::Descend => true,
    }
}

/// Whether only some of the keys were asked for, by revision.
pub(crate) fn is_filtered(request: &RangeRequest) -> bool {
    [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ] != [0; 4]
}

fn passes(request: &RangeRequest, record: &Record) -> bool {
    let within = |min: i64, max: i64, revision: i64| {
        (min == 0 || revision >= min) && (max == 0 || revision <= max)
    };
    within(request.min_mod_revision, request.max_mod_revision, record.mod_revision())
        && within(
            request.min_create_revision,
            request.max_create_revision,
            record.create_revision(),
        )
}

/// Brings records, which come by key, into the order asked for. Equals stay in the order of keys.
/// With a limit only so many are put in order, the rest follow anyhow. `compared` has the values, if it
/// is by them.
fn sort(request: &RangeRequest, limit: Option<usize>, records: &mut [&Record], compared: &Fetched) {
    let by = |a: &Record, b: &Record| match request.sort_target() {
        SortTarget::Key => a.key().cmp(b.key()),
        SortTarget::Version => a.version().cmp(&b.version()),
        SortTarget::Create => a.create_revision().cmp(&b.create_revision()),
        SortTarget::Mod => a.mod_revision().cmp(&b.mod_revision()),
        SortTarget::Value => compared.of(a).value().cmp(compared.of(b).value()),
    };
    let order = |a: &&Record, b: &&Record| {
        let wanted = match request.sort_order() {
            SortOrder::Descend => by(b, a),
            SortOrder::None | SortOrder::Ascend => by(a, b),
        };
        // No two are equal, so that any way of sorting ends the same.
        wanted.then_with(|| a.key().cmp(b.key()))
    };
    if request.sort_target() == SortTarget::Key && request.sort_order() != SortOrder::Descend {
        debug_assert!(records.is_sorted_by(|a, b| by(a, b) == Ordering::Less));
        return;
    }
    match limit {
        Some(limit) if limit < records.len() => {
            records.select_nth_unstable_by(limit, order);
            records[..limit].sort_unstable_by(order);
        }
        _ => records.sort_unstable_by(order),
    }
}
