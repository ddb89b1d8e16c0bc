//! Events as they go to a client: built once, shared by all who get them, cut to size.

use std::collections::BTreeMap;

use prost::Message;
use proto::etcdserverpb::{ResponseHeader, WatchResponse};
use proto::mvccpb;
use proto::mvccpb::event::EventType;

use crate::outcome::Event;
use crate::values::{Pin, Values};
use crate::view::View;

/// A response that only tells the revision.
pub(super) fn plain(watch_id: i64, revision: i64) -> WatchResponse {
    let header = Some(ResponseHeader { revision, ..ResponseHeader::default() });
    WatchResponse { header, watch_id, ..WatchResponse::default() }
}

/// Events of one batch as clients see them, each built when the first watcher wants it. Copies share
/// key and value with the record.
pub(super) struct Rendered<'a> {
    events: &'a [Event],
    values: &'a Values,
    /// Without it compaction has overtaken the view: what came before an event may be gone.
    pin: Option<Pin>,
    bare: BTreeMap<usize, mvccpb::Event>,
    with_prev: BTreeMap<usize, mvccpb::Event>,
}

impl<'a> Rendered<'a> {
    /// `view` is the one the events are of, or lead to.
    pub(super) fn new(events: &'a [Event], view: &'a View) -> Self {
        let (values, pin) = (view.values(), view.pin());
        Self { events, values, pin, bare: BTreeMap::new(), with_prev: BTreeMap::new() }
    }

    pub(super) fn event(&mut self, index: usize, prev_kv: bool) -> mvccpb::Event {
        let event = &self.events[index];
        let cache = if prev_kv { &mut self.with_prev } else { &mut self.bare };
        let (values, is_pinned) = (self.values, self.pin.is_some());
        cache.entry(index).or_insert_with(|| render(event, prev_kv, values, is_pinned)).clone()
    }
}

fn render(event: &Event, prev_kv: bool, values: &Values, is_pinned: bool) -> mvccpb::Event {
    let record = &event.record;
    let prev = event.prev.as_ref().filter(|_| prev_kv);
    // As far as it is still known: a compaction takes it as it takes the past.
    let prev = if is_pinned {
        prev.map(|prev| values.key_value(prev))
    } else {
        prev.and_then(|prev| values.at_hand(prev)).map(|prev| prev.to_key_value())
    };
    let kind = if record.is_tombstone() { EventType::Delete } else { EventType::Put };
    mvccpb::Event { r#type: kind.into(), kv: Some(values.key_value(record)), prev_kv: prev }
}

/// Bytes of an event's keys and values, a little less than what it takes on the wire.
pub(super) fn event_bytes(event: &Event, prev_kv: bool) -> usize {
    let prev = event.prev.as_ref().filter(|_| prev_kv);
    event.record.bytes_len() + prev.map_or(0, |prev| prev.bytes_len())
}

/// Splits a response that is longer than `bytes_max` into several that are not, as far as single
/// events allow. All but the last are marked as fragments.
pub(super) fn fragments(mut response: WatchResponse, bytes_max: usize) -> Vec<WatchResponse> {
    if response.events.len() < 2 || response.encoded_len() <= bytes_max {
        return vec![response];
    }
    let events = std::mem::take(&mut response.events);
    response.fragment = true;
    let empty_bytes = response.encoded_len();
    let mut fragments = Vec::new();
    let mut current = response.clone();
    let mut bytes = empty_bytes;
    for event in events {
        let event_bytes = field_bytes(event.encoded_len());
        if !current.events.is_empty() && bytes + event_bytes > bytes_max {
            fragments.push(std::mem::replace(&mut current, response.clone()));
            bytes = empty_bytes;
        }
        bytes += event_bytes;
        current.events.push(event);
    }
    current.fragment = false;
    fragments.push(current);
    fragments
}

/// Bytes of a message of this length as a field with a number up to 15.
fn field_bytes(length: usize) -> usize {
    1 + prost::length_delimiter_len(length) + length
}
