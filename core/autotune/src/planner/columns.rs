//! What plans are compared with: constants people use, the best constant there is, and Dynatune.
//!
//! Dynatune (Shiozaki and Nakamura, 2025) sets the election timeout of each path to the mean of the
//! round trip and twice its standard deviation, and sends as many heartbeats within it as make it
//! unlikely that all are lost. It is here to be measured, not to be used: the tail of a distribution
//! is not in its mean.

use super::grid::grid_up;
use crate::{HEARTBEAT_INTERVAL_US_MIN, HEARTBEATS_PER_ELECTION_MIN, Timing};

/// Dynatune's `s`.
const DEVIATIONS: u64 = 2;
/// Dynatune's `1 - x`, in a million.
const ALL_LOST_PPM: u64 = 1_000;
/// Fewer samples say nothing: Dynatune then uses etcd's defaults.
const SAMPLES_MIN: u64 = 10;
/// Heartbeats to an election timeout, however many are lost.
const BEATS_MAX: u64 = 100;

/// etcd's defaults.
pub const ETCD: Timing = Timing { heartbeat_interval_us: 100_000, election_timeout_us: 1_000_000 };
/// Half of etcd's: what is often set by hand.
pub const SOURCE: Timing = Timing { heartbeat_interval_us: 50_000, election_timeout_us: 500_000 };
/// etcd as short as one dares within a zone.
pub const ETCD_SHORT: Timing =
    Timing { heartbeat_interval_us: 25_000, election_timeout_us: 315_000 };

/// Dynatune's choice for a path, as far as a server may run it: heartbeats are at least five to an
/// election timeout and no shorter than a millisecond.
pub fn dynatune(samples: u64, mean_us: u64, deviation_us: u64, loss_ppm: u64) -> Timing {
    if samples < SAMPLES_MIN {
        return ETCD;
    }
    let (heartbeat_us, election_us) = dynatune_unbounded(mean_us, deviation_us, loss_ppm);
    let shortest_us = HEARTBEATS_PER_ELECTION_MIN * HEARTBEAT_INTERVAL_US_MIN;
    let election_us = election_us.clamp(shortest_us, crate::ELECTION_TIMEOUT_US_MAX);
    let most_us = election_us / HEARTBEATS_PER_ELECTION_MIN;
    Timing {
        heartbeat_interval_us: heartbeat_us.clamp(HEARTBEAT_INTERVAL_US_MIN, most_us),
        election_timeout_us: election_us,
    }
}

/// Dynatune's formula as published: heartbeat interval and election timeout.
pub fn dynatune_unbounded(mean_us: u64, deviation_us: u64, loss_ppm: u64) -> (u64, u64) {
    let election_us = mean_us.saturating_add(deviation_us.saturating_mul(DEVIATIONS)).max(1);
    let loss_ppm = loss_ppm.min(1_000_000);
    // K = ceil(log_p(1 - x)): so many in a row are lost less often than once in a thousand.
    let (mut beats, mut all_lost_ppm) = (1, loss_ppm);
    while all_lost_ppm > ALL_LOST_PPM && beats < BEATS_MAX {
        beats += 1;
        all_lost_ppm = all_lost_ppm * loss_ppm / 1_000_000;
    }
    (election_us / beats, election_us)
}

/// Constants among which the best one is sought for a network: election timeouts of the series from
/// twice the round trip on, with heartbeats as often as it needs and no more often than every 10 ms.
pub fn oracle_grid(rtt_us: u64) -> Vec<Timing> {
    let shortest_us = grid_up(rtt_us.saturating_mul(2).max(50_000));
    let longest_us = shortest_us.saturating_mul(32).clamp(2_500_000, 10_000_000);
    let mut grid = Vec::new();
    let mut election_us = shortest_us;
    while election_us <= longest_us {
        let heartbeat_us = (election_us / 10).clamp(10_000, 100_000.max(rtt_us));
        let heartbeat_us = heartbeat_us.min(election_us / HEARTBEATS_PER_ELECTION_MIN);
        grid.push(Timing { heartbeat_interval_us: heartbeat_us, election_timeout_us: election_us });
        election_us = grid_up(election_us + 1);
    }
    grid
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dynatune_is_the_published_formula_where_a_server_may_run_it() {
        assert_eq!(dynatune_unbounded(100_000, 5_000, 0), (110_000, 110_000));
        assert_eq!(dynatune_unbounded(100_000, 5_000, 10_000), (55_000, 110_000));
        assert_eq!(dynatune_unbounded(100_000, 5_000, 200_000), (22_000, 110_000));
        assert_eq!(dynatune_unbounded(100_000, 5_000, 1_000_000).0, 1_100);
        let run = dynatune(1_000, 100_000, 5_000, 10_000);
        assert_eq!((run.heartbeat_interval_us, run.election_timeout_us), (22_000, 110_000));
        assert_eq!(dynatune(9, 100_000, 5_000, 0), ETCD);
        assert_eq!(dynatune(10, u64::MAX, u64::MAX, u64::MAX).validate(), Ok(()));
        assert_eq!(dynatune(10, 0, 0, 0).validate(), Ok(()));
    }

    #[test]
    fn every_constant_of_the_grid_is_legal_and_etcds_lies_between_its_ends() {
        for rtt_us in [0, 500, 2_000, 10_000, 80_000, 200_000, 1_500_000, 60_000_000] {
            let grid = oracle_grid(rtt_us);
            assert!(grid.iter().all(|timing| timing.validate().is_ok()), "{grid:?}");
            assert!(
                grid.windows(2).all(|two| two[0].election_timeout_us < two[1].election_timeout_us)
            );
            assert!(
                grid.len() <= 30 && (rtt_us > 1_000_000 || grid.len() >= 8),
                "{rtt_us}: {}",
                grid.len()
            );
        }
        for timing in [ETCD, ETCD_SHORT, SOURCE] {
            assert_eq!(timing.validate(), Ok(()));
        }
    }
}
