//! The requests of a load, made as cheaply as they can be made.
//!
//! A generator shares its machine with the servers it measures, so each request is written by hand
//! into one buffer, gRPC's prefix included. Values are distinct and do not compress: a store that
//! shares, deduplicates or compresses must not look better than it is.

use bytes::{BufMut, Bytes, BytesMut};

/// Shortest key: a letter and room for the digits of any number the key space allows.
pub(crate) const KEY_BYTES_MIN: usize = 8;
/// Longest key.
pub(crate) const KEY_BYTES_MAX: usize = 1024;
/// Largest value; etcd refuses requests of more than 1.5 MiB.
pub(crate) const VALUE_BYTES_MAX: usize = 1_500_000;

/// SplitMix64: a few nanoseconds a word, good enough to be incompressible.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// Below `bound`, by multiplication: the bias is far below what a load shows.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

/// Key number `index`: `k` and the number with leading zeros, `bytes` long in all.
pub(crate) fn put_key(to: &mut BytesMut, index: u64, bytes: usize) {
    let start = to.len();
    to.put_bytes(b'0', bytes);
    to[start] = b'k';
    let (mut rest, mut at) = (index, start + bytes);
    while rest > 0 && at > start + 1 {
        at -= 1;
        to[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    assert_eq!(rest, 0, "key number {index} does not fit into {bytes} bytes");
}

/// Whether all keys of the space have names of their own at this length.
pub(crate) fn key_space_fits(key_space: u64, key_bytes: usize) -> bool {
    let digits = (key_bytes - 1) as u32;
    10_u64.checked_pow(digits).is_none_or(|names| key_space <= names)
}

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

/// Opens a frame for a message of `bytes`.
fn open_frame(bytes: usize) -> BytesMut {
    let mut frame = BytesMut::with_capacity(5 + bytes);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(bytes).expect("a request of less than 4 GiB"));
    frame
}

/// A framed `PutRequest`. The value begins with `stamp` and goes on with noise.
pub(crate) fn put(
    random: &mut Random,
    index: u64,
    key_bytes: usize,
    value_bytes: usize,
    stamp: Option<u64>,
) -> Bytes {
    let field = |bytes: usize| 1 + varint_bytes(bytes as u64) + bytes;
    let mut frame = open_frame(field(key_bytes) + field(value_bytes));
    frame.put_u8(0x0a); // key = 1
    put_varint(&mut frame, key_bytes as u64);
    put_key(&mut frame, index, key_bytes);
    frame.put_u8(0x12); // value = 2
    put_varint(&mut frame, value_bytes as u64);
    let mut rest = value_bytes;
    if let Some(stamp) = stamp {
        frame.put_u64(stamp);
        rest -= 8;
    }
    while rest >= 8 {
        frame.put_u64_le(random.next());
        rest -= 8;
    }
    frame.put_slice(&random.next().to_le_bytes()[..rest]);
    frame.freeze()
}

/// A framed `RangeRequest` of one key.
pub(crate) fn range(index: u64, key_bytes: usize, serializable: bool) -> Bytes {
    let bytes = 1 + varint_bytes(key_bytes as u64) + key_bytes + if serializable { 2 } else { 0 };
    let mut frame = open_frame(bytes);
    frame.put_u8(0x0a); // key = 1
    put_varint(&mut frame, key_bytes as u64);
    put_key(&mut frame, index, key_bytes);
    if serializable {
        frame.put_slice(&[0x38, 1]); // serializable = 7
    }
    frame.freeze()
}

/// Whether an encoded `RangeResponse` holds a key: whether anything with the tag of `kvs` follows the
/// header.
pub(crate) fn has_kvs(answer: &[u8]) -> bool {
    const HEADER: u8 = 0x0a;
    const KVS: u8 = 0x12;
    match answer {
        // Headers are far shorter than 128 bytes, so their length is one byte.
        [HEADER, bytes, rest @ ..] => rest.get(usize::from(*bytes)) == Some(&KVS),
        [KVS, ..] => true,
        _ => false,
    }
}

/// The stamp a value begins with.
pub(crate) fn stamp(value: &[u8]) -> Option<u64> {
    value.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::proto::etcdserverpb::{PutRequest, RangeRequest};
    use prost::Message;

    fn unframed<M: Message + Default>(frame: &Bytes) -> M {
        assert_eq!(frame[0], 0);
        let bytes = u32::from_be_bytes(frame[1..5].try_into().unwrap());
        assert_eq!(bytes as usize, frame.len() - 5);
        M::decode(&frame[5..]).unwrap()
    }

    #[test]
    fn hand_written_requests_decode_to_what_was_meant() {
        let mut random = Random::new(1);
        for value_bytes in [8, 9, 127, 128, 256, 20_000] {
            let put: PutRequest = unframed(&put(&mut random, 42, 16, value_bytes, Some(7)));
            assert_eq!(&put.key[..], b"k000000000000042");
            assert_eq!(put.value.len(), value_bytes);
            assert_eq!(stamp(&put.value), Some(7));
        }
        let put: PutRequest = unframed(&put(&mut random, 0, 8, 0, None));
        assert_eq!((&put.key[..], put.value.len()), (&b"k0000000"[..], 0));
        for serializable in [false, true] {
            let range: RangeRequest = unframed(&range(9, 200, serializable));
            assert_eq!((range.key.len(), range.serializable), (200, serializable));
        }
    }

    #[test]
    fn an_answer_without_a_key_is_told_from_one_with() {
        use client::proto::etcdserverpb::{RangeResponse, ResponseHeader};
        let header = ResponseHeader {
            cluster_id: u64::MAX,
            member_id: u64::MAX,
            revision: i64::MAX,
            raft_term: u64::MAX,
        };
        let mut answer = RangeResponse { header: Some(header), count: 1, ..Default::default() };
        assert!(!has_kvs(&answer.encode_to_vec()));
        answer.kvs.push(client::proto::mvccpb::KeyValue::default());
        assert!(has_kvs(&answer.encode_to_vec()));
        answer.header = None;
        assert!(has_kvs(&answer.encode_to_vec()));
        assert!(!has_kvs(&[]));
    }

    #[test]
    fn values_are_distinct() {
        let mut random = Random::new(1);
        let values: std::collections::BTreeSet<Bytes> =
            (0..1000).map(|_| put(&mut random, 0, 16, 16, None)).collect();
        assert_eq!(values.len(), 1000);
    }

    #[test]
    fn a_key_space_must_have_a_name_for_each_key() {
        assert!(key_space_fits(10_000_000, 8) && !key_space_fits(10_000_001, 8));
        assert!(key_space_fits(u64::MAX, 1024));
    }
}
