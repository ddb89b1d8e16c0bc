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
//! A queue that comes and goes, or two roads that take turns, look like a road that becomes longer again
//! and again, and a new connection helps there no more than the last one: each renewal of a link puts
//! the next one farther off.
//!
//! Heartbeats and probes are too few to fill a window: the control connection stays.

/// Round trips of which the least counts: one that is long may be a segment that was lost.
const SAMPLES: u32 = 20;
/// The road is another one if it takes so many times as long as it did,
const FACTOR: u64 = 4;
/// and so much longer: where round trips are short TCP learns soon by itself.
const LONGER_US_MIN: u64 = 5_000;

/// After a link's first renewal the next one comes no sooner than this; twice that after each,
const INTERVAL_FIRST_US: u64 = 2_000_000;
/// up to this,
const INTERVAL_MAX_US: u64 = 60_000_000;
/// and all over again once none was wanted for so long.
const QUIET_US: u64 = 600_000_000;

/// When a link may have its next renewal.
#[derive(Debug, Default)]
struct Pace {
    /// After the last renewal; zero: there was none of late.
    interval_us: u64,
    next_us: u64,
    wanted_us: u64,
}

impl Pace {
    /// A renewal is wanted. Whether it is time for one.
    fn wanted(&mut self, now_us: u64) -> bool {
        if now_us.saturating_sub(self.wanted_us) >= QUIET_US {
            self.interval_us = 0;
        }
        self.wanted_us = now_us;
        now_us >= self.next_us
    }

    fn renewed(&mut self, now_us: u64) {
        self.interval_us = (self.interval_us * 2).clamp(INTERVAL_FIRST_US, INTERVAL_MAX_US);
        self.next_us = now_us + self.interval_us;
    }
}

/// The length of the road since a connection was made on it.
#[derive(Debug, Default)]
pub(super) struct Stretch {
    /// Of the link: outlives its connections.
    pace: Pace,
    /// The least round trip of all that count.
    least_us: Option<u64>,
    /// The least of those that do not count yet, and how many they are.
    new_us: Option<u64>,
    samples: u32,
}

impl Stretch {
    /// There is a new connection: the road is as long as it is now.
    pub(super) fn connected(&mut self) {
        *self = Stretch { pace: std::mem::take(&mut self.pace), ..Stretch::default() };
    }

    /// The connection is being renewed.
    pub(super) fn renewed(&mut self, now_us: u64) {
        self.pace.renewed(now_us);
    }

    /// Takes in a round trip. Whether the road has become another one and it is time for a renewal: said
    /// again after every so many samples, until there is a new connection.
    pub(super) fn measured(&mut self, now_us: u64, round_trip_us: u64) -> bool {
        let new_us = self.new_us.map_or(round_trip_us, |least| least.min(round_trip_us));
        self.samples += 1;
        if self.samples < SAMPLES {
            self.new_us = Some(new_us);
            return false;
        }
        (self.new_us, self.samples) = (None, 0);
        let least_us = self.least_us.map_or(new_us, |least| least.min(new_us));
        self.least_us = Some(least_us);
        let is_longer = new_us >= least_us.saturating_mul(FACTOR).max(least_us + LONGER_US_MIN);
        is_longer && self.pace.wanted(now_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Round trips one after the other: after how many of them the road is said to be another one.
    fn said(round_trips_us: impl IntoIterator<Item = u64>) -> Vec<usize> {
        let mut stretch = Stretch::default();
        let said = |(number, us): (usize, u64)| stretch.measured(0, us).then_some(number + 1);
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

    const PROBE_US: u64 = 50_000;

    /// When a link is renewed whose round trips are measured one probe after the other.
    fn renewals(
        stretch: &mut Stretch,
        from_us: u64,
        round_trips_us: impl IntoIterator<Item = u64>,
    ) -> Vec<u64> {
        let mut renewals = Vec::new();
        let mut now_us = from_us;
        for round_trip_us in round_trips_us {
            now_us += PROBE_US;
            if stretch.measured(now_us, round_trip_us) {
                stretch.renewed(now_us);
                stretch.connected();
                renewals.push(now_us);
            }
        }
        renewals
    }

    #[test]
    fn a_queue_that_comes_and_goes_renews_a_link_ever_less_often() {
        let turns = |count| {
            let turn = [2_000; 5].into_iter().chain([80_000; 40]);
            std::iter::repeat_n(turn, count).flatten()
        };
        let mut stretch = Stretch::default();
        // An hour: 1,600 turns of 45 probes.
        let renewals_us = renewals(&mut stretch, 0, turns(1_600));
        let hour_us = 1_600 * 45 * PROBE_US;
        let doublings = (INTERVAL_MAX_US / INTERVAL_FIRST_US).ilog2() as usize + 1;
        let most = doublings + usize::try_from(hour_us / INTERVAL_MAX_US).unwrap();
        assert!((doublings..=most).contains(&renewals_us.len()), "{renewals_us:?}");
        let mut least_us = INTERVAL_FIRST_US;
        for pair in renewals_us.windows(2) {
            assert!(pair[1] - pair[0] >= least_us, "{renewals_us:?}");
            least_us = (least_us * 2).min(INTERVAL_MAX_US);
        }

        // While it is wanted it stays so, and after a long quiet stretch it is as at first.
        let soon = |stretch: &mut Stretch, from_us| {
            let renewals_us = renewals(stretch, from_us, turns(40));
            renewals_us.windows(2).any(|pair| pair[1] - pair[0] < INTERVAL_MAX_US)
        };
        assert!(!soon(&mut stretch, hour_us + QUIET_US / 2));
        assert!(soon(&mut stretch, hour_us + 3 * QUIET_US));
    }
}
