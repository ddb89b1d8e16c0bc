//! Events as they go to a client: built once, shared by all who get them, cut to size.

use std::collections::BTreeMap;

use prost::Message;
use proto::etcdserverpb::{ResponseHeader, WatchResponse};
use proto::mvccpb;
use proto::mvccpb::event::EventType;

use crate::outcome::Event;

/// A response that only tells the revision.
pub(super) fn plain(watch_id: i64, revision: i64) -> WatchResponse {
    let header = Some(ResponseHeader { revision, ..ResponseHeader::default() });
    WatchResponse { header, watch_id, ..WatchResponse::default() }
}

/// Events of one batch as clients see them, each built when the first watcher wants it. Copies share
/// key and value with the record.
pub(super) struct Rendered<'a> {
    events: &'a [Event],
    bare: BTreeMap<usize, mvccpb::Event>,
    with_prev: BTreeMap<usize, mvccpb::Event>,
}

impl<'a> Rendered<'a> {
    pub(super) fn new(events: &'a [Event]) -> Self {
        Self { events, bare: BTreeMap::new(), with_prev: BTreeMap::new() }
    }

    pub(super) fn event(&mut self, index: usize, prev_kv: bool) -> mvccpb::Event {
        let event = &self.events[index];
        let cache = if prev_kv { &mut self.with_prev } else { &mut self.bare };
        cache.entry(index).or_insert_with(|| render(event, prev_kv)).clone()
    }
}

pub(super) fn render(event: &Event, prev_kv: bool) -> mvccpb::Event {
    let record = &event.record;
    let kind = if record.is_tombstone() { EventType::Delete } else { EventType::Put };
    mvccpb::Event {
        r#type: kind.into(),
        kv: Some(record.to_key_value()),
        prev_kv: event.prev.as_ref().filter(|_| prev_kv).map(|prev| prev.to_key_value()),
    }
}

/// Bytes of an event's keys and values, a little less than what it takes on the wire.
pub(super) fn event_bytes(event: &Event, prev_kv: bool) -> usize {
    let prev = event.prev.as_ref().filter(|_| prev_kv);
    event.record.as_bytes().len() + prev.map_or(0, |prev| prev.as_bytes().len())
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
