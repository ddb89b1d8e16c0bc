//! The best constant there is for a network, found by trying.

use std::time::Duration;

use anyhow::{Context, Result};
use autotune::Timing;
use autotune::planner::columns::oracle_grid;
use autotune::planner::{Bounds, Policy};

use super::cell::Bench;
use super::column::Column;
use super::milliseconds;
use super::record::{Kind, Record, Tried, Wanted, quantile};
use crate::measure::RoundTrips;
use crate::preset::{Preset, Trouble};

/// Losses of each constant that is tried, and constants that are tried at most.
pub(super) const TRIED_LOSSES: usize = 5;
pub(super) const TRIED_MAX: usize = 8;
/// How long each is watched where nothing but losses troubles it.
pub(super) const TRIED_WATCH: Duration = Duration::from_secs(10);

/// The constant with the shortest outage among those that keep their leader, within the bounds that a
/// balanced plan has. What lies below them is tried as well, and shown.
pub(super) fn find(
    bench: &Bench<'_>,
    preset: &Preset,
    column: &Column,
    trips: &RoundTrips,
    record: &mut Record,
) -> Result<Timing> {
    let rtt_us = u64::try_from(trips.quantile(0.5).as_micros()).unwrap_or(u64::MAX);
    let is_calm = preset.trouble == Trouble::Nothing;
    let usual = &bench.wanted;
    let losses = usual.losses.iter().map(|(_, count)| *count).max().unwrap_or(0);
    let wanted = Wanted {
        watch: if is_calm { TRIED_WATCH.min(usual.watch) } else { usual.watch },
        is_light: true,
        load: false,
        losses: if is_calm { vec![(Kind::Host, TRIED_LOSSES.min(losses))] } else { Vec::new() },
    };
    for timing in candidates(rtt_us) {
        let ms = (timing.heartbeat_interval_us / 1_000, timing.election_timeout_us / 1_000);
        if record.tried.iter().any(|tried| (tried.heartbeat_ms, tried.election_ms) == ms) {
            continue;
        }
        let name = format!("{}, trying {}/{}", bench.name, ms.0, ms.1);
        let trying = Bench { wanted: wanted.clone(), name, ..bench.clone() };
        let mut of_it = Record { preset: record.preset.clone(), ..Record::default() };
        let timing = milliseconds(ms.0, ms.1);
        trying.measure(preset, column, (timing, None), &mut of_it, &|_| Ok(()))?;
        let gaps = of_it.gaps(Kind::Host);
        let watch = of_it.watch.unwrap_or_default();
        // Where nobody is killed, what a stall costs is the outage.
        let gap_ms = quantile(&gaps, 0.5).or(Some(watch.gap_ms));
        record.tried.push(Tried {
            heartbeat_ms: ms.0,
            election_ms: ms.1,
            gap_ms: gap_ms.filter(|_| !of_it.keeps_no_leader),
            false_elections: watch.false_elections,
        });
        record.save()?;
    }
    best(&record.tried).context("the oracle tried nothing")
}

/// What is tried: of the grid at even distances, and the shortest that the bounds allow.
fn candidates(rtt_us: u64) -> Vec<Timing> {
    let grid = oracle_grid(rtt_us);
    let every = grid.len().div_ceil(TRIED_MAX);
    let is_allowed = |timing: &Timing| timing.election_timeout_us >= least_us();
    let shortest = grid.iter().position(is_allowed);
    let is_tried = |at: usize| at.is_multiple_of(every) || Some(at) == shortest;
    grid.into_iter().enumerate().filter(|(at, _)| is_tried(*at)).map(|(_, it)| it).collect()
}

/// The shortest election timeout a balanced plan may have.
fn least_us() -> u64 {
    Bounds::of(Policy::Balanced).election_us_min
}

/// A constant in the midst of those that are tried.
pub(super) fn middle(trips: &RoundTrips) -> Timing {
    let rtt_us = u64::try_from(trips.quantile(0.5).as_micros()).unwrap_or(u64::MAX);
    let grid = oracle_grid(rtt_us);
    let Timing { heartbeat_interval_us, election_timeout_us } = grid[grid.len() / 2];
    milliseconds(heartbeat_interval_us / 1_000, election_timeout_us / 1_000)
}

/// Without false elections if any is, then with the shortest outage; those that keep no leader last.
fn best(tried: &[Tried]) -> Option<Timing> {
    let gap_ms = |it: &Tried| it.gap_ms.unwrap_or(f64::MAX);
    let is_allowed = |it: &&Tried| 1_000 * it.election_ms >= least_us();
    let best = tried.iter().filter(is_allowed).min_by(|one, other| {
        let fails = |it: &Tried| (it.gap_ms.is_none(), it.false_elections);
        fails(one).cmp(&fails(other)).then(gap_ms(one).total_cmp(&gap_ms(other)))
    })?;
    Some(milliseconds(best.heartbeat_ms, best.election_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_that_keeps_its_leader_is_better_than_a_short_one_that_does_not() {
        let tried = |election_ms, gap_ms, false_elections| Tried {
            heartbeat_ms: 10,
            election_ms,
            gap_ms,
            false_elections,
        };
        let all = [
            tried(315, None, 0),
            tried(400, Some(450.0), 3),
            tried(500, Some(560.0), 0),
            tried(800, Some(900.0), 0),
        ];
        let of = |tried: &[Tried]| best(tried).map(|it| it.election_timeout_us / 1_000);
        assert_eq!(of(&all), Some(500));
        assert_eq!(of(&all[..2]), Some(400));
        assert_eq!((of(&all[..1]), of(&[])), (Some(315), None));
        let below = [tried(250, Some(200.0), 0), tried(800, Some(900.0), 0)];
        assert_eq!(of(&below), Some(800), "no plan may be as short");
    }

    #[test]
    fn the_shortest_constant_within_the_bounds_is_tried_in_every_network() {
        for rtt_us in [500, 2_000, 10_000, 80_000, 200_000] {
            let tried: Vec<u64> =
                candidates(rtt_us).iter().map(|it| it.election_timeout_us).collect();
            assert!(tried.len() <= TRIED_MAX + 1 && tried.is_sorted(), "{tried:?}");
            let shortest = 315_000.max(2 * rtt_us);
            assert!(tried.iter().any(|us| (shortest..=shortest * 5 / 4).contains(us)), "{tried:?}");
        }
    }
}
