//! When the road to a peer has become so much longer that its append connection is made anew.
//!
//! What TCP has learnt of a short road is in its way on a long one. BBR lets twice the product of the
//! rate and the least round trip of the last ten seconds be on its way (Cardwell et al., 2016): after a
//! step from 0.1 ms to 80 ms that is a thousandth of what the road holds, four segments a round trip in
//! the end, and then the rate grows by a quarter in eight round trips. Measured, 4,000 writes on their
//! way made 4,000 a second for ten seconds, and 20,000 on new connections. Slow start has an end that
//! was found on the short road, too. A new connection begins with the new round trip and doubles what is
//! on its way in each; what it costs is two of them.
//!
//! Heartbeats and probes are too few to fill a window: the control connection stays.

/// Round trips of which the least counts: one that is long may be a segment that was lost.
const SAMPLES: u32 = 20;
/// The road is another one if it takes so many times as long as it did,
const FACTOR: u64 = 4;
/// and so much longer: where round trips are short TCP learns soon by itself.
const LONGER_US_MIN: u64 = 5_000;

/// The length of the road since a connection was made on it.
#[derive(Debug, Default)]
pub(super) struct Stretch {
    /// The least round trip of all that count.
    least_us: Option<u64>,
    /// The least of those that do not count yet, and how many they are.
    new_us: Option<u64>,
    samples: u32,
}

impl Stretch {
    /// Takes in a round trip. Whether the road has become another one: said again after every so many
    /// samples, until there is a new connection.
    pub(super) fn measured(&mut self, round_trip_us: u64) -> bool {
        let new_us = self.new_us.map_or(round_trip_us, |least| least.min(round_trip_us));
        self.samples += 1;
        if self.samples < SAMPLES {
            self.new_us = Some(new_us);
            return false;
        }
        (self.new_us, self.samples) = (None, 0);
        let least_us = self.least_us.map_or(new_us, |least| least.min(new_us));
        self.least_us = Some(least_us);
        new_us >= least_us.saturating_mul(FACTOR).max(least_us + LONGER_US_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Round trips one after the other: after how many of them the road is said to be another one.
    fn said(round_trips_us: impl IntoIterator<Item = u64>) -> Vec<usize> {
        let mut stretch = Stretch::default();
        let said = |(number, us): (usize, u64)| stretch.measured(us).then_some(number + 1);
        round_trips_us.into_iter().enumerate().filter_map(said).collect()
    }

    fn step(from_us: u64, to_us: u64) -> Vec<usize> {
        said([from_us; 40].into_iter().chain([to_us; 40]))
    }

    #[test]
    fn a_road_that_has_become_much_longer_is_said_to_be_until_there_is_a_new_connection() {
        assert_eq!(step(2_000, 80_000), [60, 80]);
        assert_eq!(step(2_000, 1_500_000), [60, 80]);
        assert_eq!(step(20_000, 80_000), [60, 80]);
    }

    #[test]
    fn a_road_that_is_somewhat_longer_or_shorter_is_the_same() {
        assert_eq!(step(20_001, 80_000), [0; 0]);
        assert_eq!(step(100, 5_000), [0; 0]);
        assert_eq!(step(80_000, 2_000), [0; 0]);
        assert_eq!(step(u64::MAX / 2, u64::MAX / 2), [0; 0]);
    }

    #[test]
    fn segments_lost_now_and_then_do_not_make_a_road_longer() {
        // One of twenty round trips is as it should be.
        let lossy = (0..400).map(|n| if n % 20 == 7 { 2_100 } else { 230_000 });
        assert_eq!(said([2_000; 40].into_iter().chain(lossy)), [0; 0]);
    }

    #[test]
    fn the_length_is_that_since_the_connection_was_made() {
        assert_eq!(said([80_000; 100]), [0; 0]);
        let near_for_a_while = [80_000; 40].into_iter().chain([2_000; 20]).chain([80_000; 20]);
        assert_eq!(said(near_for_a_while), [80]);
    }
}
