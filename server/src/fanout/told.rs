//! A response on its way: what is its own, and the events, which it shares with others.
//!
//! Watchers of the same keys get the same events under different ids. Those are encoded once, by the
//! watch thread; each response holds a reference to the bytes, and a client thread copies them behind
//! the few that are the response's own.

use bytes::{BufMut, Bytes};
use prost::Message;
use proto::etcdserverpb::WatchResponse;
use proto::mvccpb::{Event, KeyValue};

/// A response whose events are encoded already.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Everything but the events.
    pub(crate) head: WatchResponse,
    /// How many events.
    pub(crate) event_count: usize,
    /// The fields of a message that has nothing but events: behind the head's they make one message.
    events: Bytes,
}

impl Told {
    pub(crate) fn encoded_len(&self) -> usize {
        self.head.encoded_len() + self.events.len()
    }

    /// Writes the message; there must be room for it.
    pub(crate) fn encode_raw(&self, into: &mut impl BufMut) {
        self.head.encode_raw(into);
        into.put_slice(&self.events);
    }
}

/// Encodes events, unless they are those of the response before: the hub gives out what one change
/// means to all its watchers in a row.
#[derive(Debug, Default)]
pub(super) struct Press {
    /// Held, so that what lies at the same place is the same.
    events: Vec<Event>,
    encoded: Bytes,
}

impl Press {
    pub(super) fn told(&mut self, mut response: WatchResponse) -> Told {
        let events = std::mem::take(&mut response.events);
        if events.is_empty() {
            return Told { head: response, event_count: 0, events: Bytes::new() };
        }
        let event_count = events.len();
        if !is_same(&self.events, &events) {
            let only = WatchResponse { events, ..WatchResponse::default() };
            self.encoded = only.encode_to_vec().into();
            self.events = only.events;
        }
        Told { head: response, event_count, events: self.encoded.clone() }
    }

    /// Forgets the events: nothing is to be kept in memory for what may come.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

fn is_same(one: &[Event], other: &[Event]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_same_event(one, other))
}

fn is_same_event(one: &Event, other: &Event) -> bool {
    one.r#type == other.r#type
        && is_same_record(one.kv.as_ref(), other.kv.as_ref())
        && is_same_record(one.prev_kv.as_ref(), other.prev_kv.as_ref())
}

/// Whether both were made of one record, by where its bytes lie. A record says the same wherever it
/// is shown; one that lies twice in memory is only encoded twice.
fn is_same_record(one: Option<&KeyValue>, other: Option<&KeyValue>) -> bool {
    let place = |bytes: &Bytes| (bytes.as_ptr(), bytes.len());
    match (one, other) {
        (Some(one), Some(other)) => {
            one.mod_revision == other.mod_revision
                && place(&one.key) == place(&other.key)
                && place(&one.value) == place(&other.value)
        }
        (None, None) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proto::etcdserverpb::ResponseHeader;

    use super::*;

    fn event(key: &'static [u8], value: &Bytes, mod_revision: i64) -> Event {
        let kv = KeyValue {
            key: Bytes::from_static(key),
            value: value.clone(),
            mod_revision,
            create_revision: 3,
            version: 2,
            lease: 9,
        };
        Event { r#type: 0, kv: Some(kv), prev_kv: None }
    }

    fn response(watch_id: i64, events: Vec<Event>) -> WatchResponse {
        let header = Some(ResponseHeader { revision: 77, ..ResponseHeader::default() });
        WatchResponse { header, watch_id, fragment: true, events, ..WatchResponse::default() }
    }

    #[test]
    fn what_is_encoded_is_the_response() {
        let value = Bytes::from(vec![7; 300]);
        let before = KeyValue { mod_revision: 4, ..KeyValue::default() };
        let mut with_prev = event(b"b", &value, 6);
        with_prev.prev_kv = Some(before);
        let cases = [
            response(1, vec![]),
            response(1, vec![event(b"a", &value, 5)]),
            response(2, vec![event(b"a", &value, 5)]),
            response(3, vec![event(b"a", &value, 5), event(b"b", &value, 6)]),
            response(4, vec![event(b"a", &value, 5), with_prev]),
            response(5, vec![event(b"b", &value, 6), event(b"a", &value, 5)]),
            response(6, vec![event(b"b", &value, 7)]),
            response(7, vec![Event { r#type: 1, ..event(b"b", &value, 7) }]),
        ];
        let mut press = Press::default();
        for case in cases {
            let told = press.told(case.clone());
            let mut encoded = Vec::new();
            told.encode_raw(&mut encoded);
            assert_eq!(encoded, case.encode_to_vec());
            assert_eq!(encoded.len(), told.encoded_len());
        }
    }

    #[test]
    fn watchers_of_the_same_events_share_their_encoding() {
        let value = Bytes::from(vec![7; 300]);
        let mut press = Press::default();
        let one = press.told(response(1, vec![event(b"a", &value, 5)]));
        let other = press.told(response(2, vec![event(b"a", &value, 5)]));
        assert_eq!(one.events.as_ptr(), other.events.as_ptr());
        assert_ne!(one.head.watch_id, other.head.watch_id);
    }
}
