//! The requests of a load, made as cheaply as they can be made, and what is read of the answers.
//!
//! A generator shares its machine with the servers it measures, so each request is written by hand
//! into its client's buffer, gRPC's prefix included, and that buffer is used again once the request
//! has left. Values are distinct and do not compress: a store that shares, deduplicates or
//! compresses must not look better than it is. Answers are walked, not decoded.

use bytes::{BufMut, Bytes, BytesMut};

use super::keys::{LEASED_PREFIX, PREFIX, Random, put_digits, put_key};

/// Largest value. Servers with default settings refuse requests of more than 1.5 MiB, and say so.
pub(crate) const VALUE_BYTES_MAX: usize = 64 << 20;

/// Fields are written as their number and their kind in one byte.
const fn varint(field: u8) -> u8 {
    field << 3
}

const fn bytes(field: u8) -> u8 {
    field << 3 | 2
}

/// Whose mod revision a compare looks at.
const COMPARE_MOD: u8 = 2;

fn put_varint(to: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        to.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    to.put_u8(value as u8);
}

fn varint_bytes(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// Bytes of a field that holds so many.
fn field_bytes(content: usize) -> usize {
    1 + varint_bytes(content as u64) + content
}

fn open_field(to: &mut BytesMut, tag: u8, content: usize) {
    to.put_u8(tag);
    put_varint(to, content as u64);
}

/// Opens a frame for a message of so many bytes.
fn open_frame(to: &mut BytesMut, message: usize) {
    // Takes the space of earlier frames if they have been sent.
    to.reserve(5 + message);
    to.put_u8(0);
    to.put_u32(u32::try_from(message).expect("a request of less than 4 GiB"));
}

/// A key, and what is to be written there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Write {
    pub(crate) key: u64,
    pub(crate) key_bytes: usize,
    pub(crate) value_bytes: usize,
    /// The value begins with this, if given, and goes on with noise.
    pub(crate) stamp: Option<u64>,
    /// The lease the key lives on; 0: none.
    pub(crate) lease: u64,
}

impl Write {
    fn prefix(&self) -> &'static [u8] {
        if self.lease == 0 { PREFIX } else { LEASED_PREFIX }
    }

    fn bytes(&self) -> usize {
        let lease = if self.lease == 0 { 0 } else { 1 + varint_bytes(self.lease) };
        field_bytes(self.key_bytes) + field_bytes(self.value_bytes) + lease
    }

    /// The fields of a `PutRequest`.
    fn put(&self, to: &mut BytesMut, random: &mut Random) {
        open_field(to, bytes(1), self.key_bytes);
        put_key(to, self.prefix(), self.key, self.key_bytes);
        open_field(to, bytes(2), self.value_bytes);
        let mut rest = self.value_bytes;
        if let Some(stamp) = self.stamp {
            to.put_u64(stamp);
            rest -= 8;
        }
        while rest >= 8 {
            to.put_u64_le(random.next());
            rest -= 8;
        }
        to.put_slice(&random.next().to_le_bytes()[..rest]);
        if self.lease != 0 {
            to.put_u8(varint(3));
            put_varint(to, self.lease);
        }
    }
}

/// A framed `PutRequest`.
pub(crate) fn put(to: &mut BytesMut, random: &mut Random, write: Write) -> Bytes {
    open_frame(to, write.bytes());
    write.put(to, random);
    to.split().freeze()
}

/// Which keys a range reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Span {
    One,
    /// So many from the chosen key on.
    Following(u64),
    /// All that share the chosen number as their first digits, so many of them being left open.
    Digits(usize),
}

/// What else a range is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) serializable: bool,
    /// How many keys there are, and none of them.
    pub(crate) count_only: bool,
}

/// A framed `RangeRequest`, from key or group number `index`.
pub(crate) fn range(
    to: &mut BytesMut,
    index: u64,
    key_bytes: usize,
    span: Span,
    asked: Asked,
) -> Bytes {
    let digits = key_bytes - PREFIX.len();
    let (first_bytes, end_bytes) = match span {
        Span::One => (key_bytes, 0),
        // One digit more than a key: the end behind the last key still sorts there.
        Span::Following(_) => (key_bytes, key_bytes + 1),
        Span::Digits(open) => (key_bytes - open, key_bytes - open),
    };
    let end_field = if end_bytes == 0 { 0 } else { field_bytes(end_bytes) };
    let flags = [(7, asked.serializable), (9, asked.count_only)];
    let flags = flags.into_iter().filter(|(_, is_set)| *is_set).map(|(field, _)| field);
    let message = field_bytes(first_bytes) + end_field + 2 * flags.clone().count();
    open_frame(to, message);
    open_field(to, bytes(1), first_bytes);
    to.put_slice(PREFIX);
    match span {
        Span::One => put_digits(to, index, digits),
        Span::Following(keys) => {
            put_digits(to, index, digits);
            open_field(to, bytes(2), end_bytes);
            // Right behind the last key: no key is longer.
            put_key(to, PREFIX, index + keys - 1, key_bytes);
            to.put_u8(0);
        }
        Span::Digits(open) => {
            put_digits(to, index, digits - open);
            open_field(to, bytes(2), end_bytes);
            to.put_slice(PREFIX);
            put_digits(to, index, digits - open);
            // The first text that does not begin with these digits.
            *to.last_mut().expect("the prefix at least") += 1;
        }
    }
    for field in flags {
        to.put_slice(&[varint(field), 1]);
    }
    to.split().freeze()
}

/// A framed `TxnRequest`: if the key's mod revision is still `revision` (0: there is no such key),
/// write, else say which it is.
pub(crate) fn swap(to: &mut BytesMut, random: &mut Random, write: Write, revision: u64) -> Bytes {
    let compare = 2 + field_bytes(write.key_bytes) + 1 + varint_bytes(revision);
    let success = field_bytes(write.bytes());
    let look = field_bytes(write.key_bytes) + 2;
    let failure = field_bytes(look);
    open_frame(to, field_bytes(compare) + field_bytes(success) + field_bytes(failure));

    open_field(to, bytes(1), compare);
    to.put_slice(&[varint(2), COMPARE_MOD]);
    open_field(to, bytes(3), write.key_bytes);
    put_key(to, write.prefix(), write.key, write.key_bytes);
    to.put_u8(varint(6));
    put_varint(to, revision);

    open_field(to, bytes(2), success);
    open_field(to, bytes(2), write.bytes());
    write.put(to, random);

    open_field(to, bytes(3), failure);
    open_field(to, bytes(1), look);
    open_field(to, bytes(1), write.key_bytes);
    put_key(to, write.prefix(), write.key, write.key_bytes);
    to.put_slice(&[varint(8), 1]); // keys only
    to.split().freeze()
}

/// A framed `LeaseGrantRequest`; the server chooses the id.
pub(crate) fn grant(to: &mut BytesMut, ttl_s: u64) -> Bytes {
    open_frame(to, 1 + varint_bytes(ttl_s));
    to.put_u8(varint(1));
    put_varint(to, ttl_s);
    to.split().freeze()
}

/// A framed `LeaseRevokeRequest`.
pub(crate) fn revoke(to: &mut BytesMut, lease: u64) -> Bytes {
    put_keep_alive(to, lease);
    to.split().freeze()
}

/// Appends a framed `LeaseKeepAliveRequest`; one to revoke a lease has the same form.
pub(crate) fn put_keep_alive(to: &mut BytesMut, lease: u64) {
    open_frame(to, 1 + varint_bytes(lease));
    to.put_u8(varint(1));
    put_varint(to, lease);
}

/// Bytes of the number in the key of an idle watcher.
const IDLE_DIGITS: usize = 10;
/// Comes before it, where keys that are written have a digit.
const IDLE: &[u8] = b"idle-";

/// Appends a framed `WatchRequest` for a key that nobody writes.
pub(crate) fn put_watch(to: &mut BytesMut, number: u64) {
    const KEY_BYTES: usize = PREFIX.len() + IDLE.len() + IDLE_DIGITS;
    let create = field_bytes(KEY_BYTES);
    open_frame(to, field_bytes(create));
    open_field(to, bytes(1), create);
    open_field(to, bytes(1), KEY_BYTES);
    to.put_slice(PREFIX);
    to.put_slice(IDLE);
    put_digits(to, number, IDLE_DIGITS);
}

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of an encoded message, by number; ends early where it makes no sense.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for at in 0..10 {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, Content<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let tag = self.varint()?;
        let bytes = match tag & 7 {
            0 => return Some((tag >> 3, Content::Number(self.varint()?))),
            1 => 8,
            2 => usize::try_from(self.varint()?).ok()?,
            5 => 4,
            _ => return None,
        };
        let (content, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some((tag >> 3, Content::Bytes(content)))
    }
}

/// The message in field `number`.
fn message(of: &[u8], number: u64) -> Option<&[u8]> {
    Fields(of).find_map(|field| match field {
        (found, Content::Bytes(content)) if found == number => Some(content),
        _ => None,
    })
}

/// The number in field `number`; 0 as protobuf has it if there is none.
fn number(of: &[u8], number: u64) -> u64 {
    let found = Fields(of).find_map(|field| match field {
        (found, Content::Number(value)) if found == number => Some(value),
        _ => None,
    });
    found.unwrap_or(0)
}

/// Whether an encoded `RangeResponse` holds at least so many keys.
pub(crate) fn has_kvs(answer: &[u8], count: u64) -> bool {
    let kvs = Fields(answer).filter(|field| matches!(field, (2, Content::Bytes(_))));
    kvs.take(count as usize).count() as u64 == count
}

/// How many keys an encoded `RangeResponse` says there are.
pub(crate) fn count(answer: &[u8]) -> u64 {
    number(answer, 4)
}

/// How a compare-and-swap went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Swapped {
    pub(crate) done: bool,
    /// The key's mod revision now.
    pub(crate) revision: u64,
}

/// Out of an encoded `TxnResponse` to [`swap`].
pub(crate) fn swapped(answer: &[u8]) -> Swapped {
    if number(answer, 2) == 1 {
        let revision = message(answer, 1).map_or(0, |header| number(header, 3));
        return Swapped { done: true, revision };
    }
    let range = message(answer, 3).and_then(|response| message(response, 1));
    let kv = range.and_then(|range| message(range, 2));
    Swapped { done: false, revision: kv.map_or(0, |kv| number(kv, 3)) }
}

/// The id and seconds to live in an encoded `LeaseGrantResponse` or `LeaseKeepAliveResponse`.
pub(crate) fn lease(answer: &[u8]) -> (u64, i64) {
    (number(answer, 2), number(answer, 3).cast_signed())
}

/// What an encoded `WatchResponse` is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Watched {
    Created,
    /// In the server's words.
    Canceled(String),
    Other,
}

pub(crate) fn watched(answer: &[u8]) -> Watched {
    match (number(answer, 4), number(answer, 3)) {
        // A watcher that is refused is created and canceled in one.
        (1, _) => {
            let reason = message(answer, 6).unwrap_or_default();
            Watched::Canceled(String::from_utf8_lossy(reason).into_owned())
        }
        (_, 1) => Watched::Created,
        _ => Watched::Other,
    }
}

/// The stamp a value begins with.
pub(crate) fn stamp(value: &[u8]) -> Option<u64> {
    value.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::proto::etcdserverpb as pb;
    use client::proto::mvccpb::KeyValue;
    use prost::Message;

    const HEADER: pb::ResponseHeader = pb::ResponseHeader {
        cluster_id: u64::MAX,
        member_id: u64::MAX,
        revision: 77_777,
        raft_term: u64::MAX,
    };

    fn unframed<M: Message + Default>(frame: &Bytes) -> M {
        assert_eq!(frame[0], 0);
        let bytes = u32::from_be_bytes(frame[1..5].try_into().unwrap());
        assert_eq!(bytes as usize, frame.len() - 5);
        M::decode(&frame[5..]).unwrap()
    }

    fn write(key: u64, key_bytes: usize, value_bytes: usize) -> Write {
        Write { key, key_bytes, value_bytes, stamp: None, lease: 0 }
    }

    #[test]
    fn hand_written_puts_decode_to_what_was_meant() {
        let (mut random, mut to) = (Random::new(1), BytesMut::new());
        for value_bytes in [8, 9, 127, 128, 256, 20_000] {
            let write = Write { stamp: Some(7), ..write(42, 16, value_bytes) };
            let put: pb::PutRequest = unframed(&put(&mut to, &mut random, write));
            assert_eq!(&put.key[..], b"bench/0000000042");
            assert_eq!(put.value.len(), value_bytes);
            assert_eq!(stamp(&put.value), Some(7));
        }
        let put: pb::PutRequest = unframed(&put(&mut to, &mut random, write(0, 8, 0)));
        assert_eq!((&put.key[..], put.value.len()), (&b"bench/00"[..], 0));
    }

    #[test]
    fn ranges_hold_the_keys_they_should_and_no_more() {
        let mut to = BytesMut::new();
        let name = |key: u64| {
            let mut name = BytesMut::new();
            put_key(&mut name, PREFIX, key, 16);
            name
        };
        for (index, span, keys) in [
            (9, Span::One, 9..10),
            (9, Span::Following(1), 9..10),
            (95, Span::Following(10), 95..105),
            (9, Span::Digits(1), 90..100),
            (19, Span::Digits(2), 1900..2000),
        ] {
            for (serializable, count_only) in [(false, false), (true, false), (true, true)] {
                let asked = Asked { serializable, count_only };
                let range: pb::RangeRequest = unframed(&range(&mut to, index, 16, span, asked));
                assert_eq!((range.serializable, range.count_only), (serializable, count_only));
                let within = |key: u64| match &range.range_end[..] {
                    [] => range.key[..] == name(key)[..],
                    end => range.key[..] <= name(key)[..] && name(key)[..] < *end,
                };
                let found: Vec<u64> = (0..3000).filter(|key| within(*key)).collect();
                assert_eq!(found, keys.clone().collect::<Vec<_>>(), "{span:?}");
            }
        }
        let all: pb::RangeRequest =
            unframed(&range(&mut to, 0, 16, Span::Digits(10), Asked::default()));
        assert_eq!((&all.key[..], &all.range_end[..]), (&b"bench/"[..], &b"bench0"[..]));
    }

    #[test]
    fn a_swap_writes_if_nobody_else_did_and_asks_otherwise() {
        use pb::compare::{CompareResult, CompareTarget, TargetUnion};
        use pb::request_op::Request;
        let (mut random, mut to) = (Random::new(1), BytesMut::new());
        for (revision, value_bytes) in [(0, 1), (5, 256), (1 << 40, 100_000)] {
            let frame = swap(&mut to, &mut random, write(42, 16, value_bytes), revision);
            let txn: pb::TxnRequest = unframed(&frame);
            let compare = &txn.compare[0];
            assert_eq!(compare.result(), CompareResult::Equal);
            assert_eq!(compare.target(), CompareTarget::Mod);
            assert_eq!(compare.target_union, Some(TargetUnion::ModRevision(revision as i64)));
            let Some(Request::RequestPut(put)) = &txn.success[0].request else { panic!() };
            let Some(Request::RequestRange(range)) = &txn.failure[0].request else { panic!() };
            assert_eq!((&put.key, &range.key), (&compare.key, &compare.key));
            assert_eq!((&put.key[..], put.value.len()), (&b"bench/0000000042"[..], value_bytes));
            assert!(range.keys_only);
            assert_eq!((txn.compare.len(), txn.success.len(), txn.failure.len()), (1, 1, 1));
        }
    }

    #[test]
    fn a_swap_that_was_lost_says_what_to_compare_with_next() {
        let mut answer =
            pb::TxnResponse { header: Some(HEADER), succeeded: true, ..Default::default() };
        let revision = HEADER.revision as u64;
        assert_eq!(swapped(&answer.encode_to_vec()), Swapped { done: true, revision });
        let kv = KeyValue { key: b"k"[..].into(), mod_revision: 300, ..Default::default() };
        let range = pb::RangeResponse { header: Some(HEADER), kvs: vec![kv], ..Default::default() };
        answer.succeeded = false;
        assert_eq!(swapped(&answer.encode_to_vec()), Swapped { done: false, revision: 0 });
        let response = Some(pb::response_op::Response::ResponseRange(range));
        answer.responses = vec![pb::ResponseOp { response }];
        assert_eq!(swapped(&answer.encode_to_vec()), Swapped { done: false, revision: 300 });
    }

    #[test]
    fn leases_are_granted_and_kept() {
        let mut to = BytesMut::new();
        let request: pb::LeaseGrantRequest = unframed(&grant(&mut to, 600));
        assert_eq!((request.ttl, request.id), (600, 0));
        for id in [1, i64::MAX, -1] {
            put_keep_alive(&mut to, id as u64);
            let request: pb::LeaseKeepAliveRequest = unframed(&to.split().freeze());
            assert_eq!(request.id, id);
            let answer = pb::LeaseKeepAliveResponse { header: Some(HEADER), id, ttl: -1 };
            assert_eq!(lease(&answer.encode_to_vec()), (id as u64, -1));
        }
    }

    #[test]
    fn idle_watchers_watch_what_is_never_written() {
        let mut to = BytesMut::new();
        put_watch(&mut to, 77);
        let request: pb::WatchRequest = unframed(&to.split().freeze());
        let Some(pb::watch_request::RequestUnion::CreateRequest(create)) = request.request_union
        else {
            panic!("not a creation")
        };
        assert_eq!((&create.key[..], create.range_end.len()), (&b"bench/idle-0000000077"[..], 0));
        let mut answer = pb::WatchResponse { header: Some(HEADER), ..Default::default() };
        assert_eq!(watched(&answer.encode_to_vec()), Watched::Other);
        answer.created = true;
        assert_eq!(watched(&answer.encode_to_vec()), Watched::Created);
        (answer.canceled, answer.cancel_reason) = (true, "no".into());
        assert_eq!(watched(&answer.encode_to_vec()), Watched::Canceled("no".into()));
    }

    #[test]
    fn an_answer_with_too_few_keys_is_told_from_one_with_enough() {
        let mut answer = pb::RangeResponse { header: Some(HEADER), count: 9, ..Default::default() };
        assert!(!has_kvs(&answer.encode_to_vec(), 1));
        assert_eq!(count(&answer.encode_to_vec()), 9);
        answer.kvs.push(KeyValue { value: vec![2; 300].into(), ..Default::default() });
        assert!(has_kvs(&answer.encode_to_vec(), 1));
        assert!(!has_kvs(&answer.encode_to_vec(), 2));
        answer.kvs.push(KeyValue::default());
        assert!(has_kvs(&answer.encode_to_vec(), 2));
        assert!(!has_kvs(&[], 1));
    }

    #[test]
    fn an_answer_that_makes_no_sense_is_no_panic() {
        let mut random = Random::new(3);
        for length in 0..200 {
            let noise: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
            let _any = (has_kvs(&noise, 3), swapped(&noise), lease(&noise));
        }
    }

    #[test]
    fn values_are_distinct_and_their_buffer_is_used_again() {
        let (mut random, mut to) = (Random::new(1), BytesMut::new());
        let mut frame = || put(&mut to, &mut random, write(0, 16, 16));
        let values: std::collections::BTreeSet<Bytes> = (0..1000).map(|_| frame()).collect();
        assert_eq!(values.len(), 1000);
        drop(values);
        let places: std::collections::BTreeSet<usize> =
            (0..1000).map(|_| frame().as_ptr() as usize).collect();
        assert!(places.len() < 10, "{} places", places.len());
    }
}
