//! Estimators of the round trip to a peer, fed by probes.
//!
//! One clock only: the prober echoes its own sending time, and the time the answer lay with the
//! peer is taken off, so that a busy peer is not taken for a long wire. The smoothing is RFC 6298's:
//! the first sample R gives SRTT = R and RTTVAR = R/2; every further one moves RTTVAR by a quarter
//! of the distance and then SRTT by an eighth. Fractions of a microsecond are kept, or small
//! changes would never move the mean.

/// Sub-microsecond steps kept by the running means.
const FRACTION: u64 = 1 << 8;
/// A round trip beyond this is an artefact of a suspended host, not of a network.
pub const RTT_US_MAX: u64 = 60_000_000;

/// The round trip to one peer as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RttEstimator {
    srtt: u64,
    rttvar: u64,
    min_us: u64,
    last_us: u64,
    samples: u64,
}

impl RttEstimator {
    /// Takes in one answered probe: when it was sent and its answer received, and how long the
    /// peer held it. Returns the sample, or `None` if the times make no sense.
    pub fn record(&mut self, sent_us: u64, received_us: u64, hold_us: u64) -> Option<u64> {
        let rtt_us = received_us.checked_sub(sent_us)?.checked_sub(hold_us)?;
        // Nothing answers in no time: the clock stood still, or the hold is a lie.
        if rtt_us == 0 || rtt_us > RTT_US_MAX {
            return None;
        }
        let sample = rtt_us * FRACTION;
        if self.samples == 0 {
            self.srtt = sample;
            self.rttvar = sample / 2;
            self.min_us = rtt_us;
        } else {
            let distance = self.srtt.abs_diff(sample);
            self.rttvar = self.rttvar - self.rttvar / 4 + distance / 4;
            self.srtt = self.srtt - self.srtt / 8 + sample / 8;
            self.min_us = self.min_us.min(rtt_us);
        }
        self.last_us = rtt_us;
        self.samples = self.samples.saturating_add(1);
        Some(rtt_us)
    }

    /// Smoothed round trip.
    pub fn srtt_us(&self) -> u64 {
        self.srtt / FRACTION
    }

    /// Smoothed mean deviation.
    pub fn rttvar_us(&self) -> u64 {
        self.rttvar / FRACTION
    }

    /// Shortest round trip seen.
    pub fn min_us(&self) -> u64 {
        self.min_us
    }

    /// Latest round trip.
    pub fn last_us(&self) -> u64 {
        self.last_us
    }

    /// Probes behind the numbers; 0: they mean nothing yet.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// Forgets everything, for a peer that has moved.
    pub fn reset(&mut self) {
        *self = RttEstimator::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_sample_sets_the_mean_and_half_of_it_the_deviation() {
        let mut rtt = RttEstimator::default();
        assert_eq!(rtt.record(1_000, 3_000, 0), Some(2_000));
        assert_eq!((rtt.srtt_us(), rtt.rttvar_us()), (2_000, 1_000));
        assert_eq!((rtt.min_us(), rtt.last_us(), rtt.samples()), (2_000, 2_000, 1));
    }

    #[test]
    fn further_samples_move_deviation_by_a_quarter_and_mean_by_an_eighth() {
        let mut rtt = RttEstimator::default();
        rtt.record(0, 8_000, 0);
        rtt.record(0, 16_000, 0);
        // RTTVAR = 3/4 * 4000 + 1/4 * |8000 - 16000|, SRTT = 7/8 * 8000 + 1/8 * 16000.
        assert_eq!((rtt.srtt_us(), rtt.rttvar_us()), (9_000, 5_000));
        assert_eq!(rtt.min_us(), 8_000);
    }

    #[test]
    fn a_steady_round_trip_is_found_to_the_microsecond() {
        let mut rtt = RttEstimator::default();
        rtt.record(0, 50_000, 0);
        for _ in 0..200 {
            rtt.record(0, 1_003, 0);
        }
        assert!(rtt.srtt_us().abs_diff(1_003) <= 1, "{}", rtt.srtt_us());
        assert!(rtt.rttvar_us() <= 1, "{}", rtt.rttvar_us());
    }

    #[test]
    fn the_time_the_peer_held_the_probe_is_not_on_the_wire() {
        let mut rtt = RttEstimator::default();
        assert_eq!(rtt.record(100, 10_100, 9_000), Some(1_000));
    }

    #[test]
    fn times_that_make_no_sense_are_left_out() {
        let mut rtt = RttEstimator::default();
        assert_eq!(rtt.record(2_000, 1_000, 0), None);
        assert_eq!(rtt.record(1_000, 2_000, 1_001), None);
        assert_eq!(rtt.record(0, u64::MAX, 0), None);
        assert_eq!(rtt.record(1_000, 2_000, 1_000), None);
        assert_eq!(rtt, RttEstimator::default());
    }
}
