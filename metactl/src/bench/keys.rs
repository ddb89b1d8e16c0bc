//! Which keys a load takes, and in which order.
//!
//! All of them begin with [`PREFIX`]: a load on a store that holds something else touches nothing of
//! it.

use bytes::{BufMut, BytesMut};

use super::zipf::Zipf;

/// What every key written begins with.
pub(crate) const PREFIX: &[u8] = b"bench/";
/// What every key on a lease begins with. No other key written looks so: what goes with a lease has not
/// been there before.
pub(crate) const LEASED_PREFIX: &[u8] = b"bench/lease-";
/// Shortest key: the prefix and room for some digits.
pub(crate) const KEY_BYTES_MIN: usize = 8;
/// Longest key.
pub(crate) const KEY_BYTES_MAX: usize = 1024;

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

    /// From 0 to below 1.
    pub(crate) fn unit(&mut self) -> f64 {
        const BITS: u32 = f64::MANTISSA_DIGITS;
        (self.next() >> (64 - BITS)) as f64 / (1_u64 << BITS) as f64
    }
}

/// In which order keys are taken.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    Sequential,
    Uniform,
    /// Some keys far more often than others, by this law. The keys of the first ranks lie scattered,
    /// at a distance of `stride` that has no divisor in common with the number of keys.
    Zipf {
        law: Zipf,
        stride: u64,
    },
}

impl Order {
    /// Over so many keys.
    pub(crate) fn zipf(keys: u64, exponent: f64) -> Self {
        const GOLDEN: f64 = 0.618_033_988_749_894_9;
        let mut stride = ((keys as f64 * GOLDEN) as u64).max(1);
        while divisor(stride, keys) != 1 {
            stride += 1;
        }
        Order::Zipf { law: Zipf::new(keys, exponent), stride }
    }
}

/// The greatest that both have.
fn divisor(mut one: u64, mut other: u64) -> u64 {
    while other != 0 {
        (one, other) = (other, one % other);
    }
    one
}

/// Chooses the keys of one client.
#[derive(Clone, Debug)]
pub(crate) struct Choice {
    pub(crate) random: Random,
    /// How many keys there are to choose from.
    pub(crate) keys: u64,
    pub(crate) order: Order,
}

impl Choice {
    /// For the client's request number `index`.
    pub(crate) fn next(&mut self, index: u64) -> u64 {
        match self.order {
            Order::Sequential => index % self.keys,
            Order::Uniform => self.random.below(self.keys),
            Order::Zipf { law, stride } => {
                let rank = law.draw(&mut self.random) - 1;
                ((u128::from(rank) * u128::from(stride)) % u128::from(self.keys)) as u64
            }
        }
    }
}

/// Key number `index`: the prefix and the number with leading zeros, `bytes` long in all.
pub(crate) fn put_key(to: &mut BytesMut, prefix: &[u8], index: u64, bytes: usize) {
    assert!(bytes > prefix.len(), "a key of {bytes} bytes has no digits");
    to.put_slice(prefix);
    put_digits(to, index, bytes - prefix.len());
}

/// A number with leading zeros.
pub(crate) fn put_digits(to: &mut BytesMut, number: u64, digits: usize) {
    let start = to.len();
    to.put_bytes(b'0', digits);
    let (mut rest, mut at) = (number, start + digits);
    while rest > 0 && at > start {
        at -= 1;
        to[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    assert_eq!(rest, 0, "number {number} does not fit into {digits} digits");
}

/// Whether all keys of the space have names of their own at this length.
pub(crate) fn key_space_fits(key_space: u64, key_bytes: usize) -> bool {
    let digits = (key_bytes - PREFIX.len()) as u32;
    10_u64.checked_pow(digits).is_none_or(|names| key_space <= names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_space_must_have_a_name_for_each_key() {
        assert!(key_space_fits(100, 8) && !key_space_fits(101, 8));
        assert!(key_space_fits(u64::MAX, 1024));
    }

    #[test]
    fn ranks_have_keys_of_their_own() {
        for keys in [1, 2, 6, 100, 1000, 1024] {
            let Order::Zipf { stride, .. } = Order::zipf(keys, 0.99) else { unreachable!() };
            let taken: std::collections::BTreeSet<u64> =
                (0..keys).map(|rank| rank * stride % keys).collect();
            assert_eq!(taken.len() as u64, keys);
        }
    }

    #[test]
    fn orders_stay_within_the_key_space() {
        for order in [Order::Sequential, Order::Uniform, Order::zipf(7, 0.5)] {
            let mut choice = Choice { random: Random::new(1), keys: 7, order };
            let chosen: std::collections::BTreeSet<u64> =
                (0..1000).map(|index| choice.next(index)).collect();
            assert_eq!(chosen, (0..7).collect());
        }
    }

    #[test]
    fn a_fraction_is_never_one() {
        assert!((0..1000).map(Random::new).all(|mut random| (0.0..1.0).contains(&random.unit())));
    }
}
