//! Whether a single constant would do as well as the best one of each network: no plan would be needed
//! then.
//!
//! The constants are those of all columns of ours, whose timing does not move while they are measured, and
//! all that oracles tried. Oracles try others in other networks. So where a constant has no figures in a
//! network, the better of the two next to it by election timeout stands for it. That flatters it: beyond the
//! best constant outages only grow, before it they grow or leaders are lost, and whatever lies between
//! two constants on one side is no better than the better one.

use std::collections::BTreeSet;

use super::column::{COLUMNS, System};
use super::record::{Kind, Record, Tried, quantile};
use crate::preset::{Preset, Trouble};

/// What all constants together have shown.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Best {
    pub(super) heartbeat_ms: u64,
    pub(super) election_ms: u64,
    /// Its outage by the oracle's, in the network where that is largest; infinite: it loses leaders there that
    /// the oracle keeps.
    pub(super) worst: f64,
    pub(super) worst_in: String,
    /// How many were compared.
    pub(super) of: usize,
    /// Networks with an oracle.
    pub(super) networks: usize,
}

/// Least networks with an oracle: in a single one the oracle's constant is as good as the oracle.
const NETWORKS_MIN: usize = 2;

/// Where the longest outage counts, it was looked for at most so many times as long as the oracle's: the
/// longest of twenty minutes says nothing beside that of one.
const WATCHED_LONGER_MAX: f64 = 2.0;

/// The constant whose worst network is the least bad. None: there are too few oracles to tell.
pub(super) fn best(records: &[Record]) -> Option<Best> {
    let networks: Vec<Network> = records.iter().filter_map(|it| Network::of(it, records)).collect();
    if networks.len() < NETWORKS_MIN {
        return None;
    }
    let constants: BTreeSet<(u64, u64)> =
        networks.iter().flat_map(|network| network.figures.iter().map(timing)).collect();
    let of = constants.len();
    let all = constants.into_iter().filter_map(|constant| {
        let ratios = networks.iter().map(|network| (network.ratio(constant), network.name));
        let (worst, name) = ratios.max_by(|one, other| one.0.total_cmp(&other.0))?;
        let (heartbeat_ms, election_ms) = constant;
        let (worst_in, networks) = (name.to_owned(), networks.len());
        Some(Best { heartbeat_ms, election_ms, worst, worst_in, of, networks })
    });
    all.min_by(|one, other| one.worst.total_cmp(&other.worst))
}

/// Time without writes, as the oracle judges it: the median after lost hosts or, where nobody is killed, the
/// longest there was. None: it keeps no leader, or nothing was measured.
pub(super) fn outage_ms(record: &Record) -> Option<f64> {
    if record.keeps_no_leader {
        return None;
    }
    let median = quantile(&record.gaps(Kind::Host), 0.5);
    median.or_else(|| Some(record.watch.as_ref().filter(|_| is_troubled(record))?.gap_ms))
}

/// Whether leaders or disks stall there, so that nobody is killed.
fn is_troubled(record: &Record) -> bool {
    Preset::named(&record.preset).is_ok_and(|preset| preset.trouble != Trouble::Nothing)
}

fn timing(of: &Tried) -> (u64, u64) {
    (of.heartbeat_ms, of.election_ms)
}

/// What constants did in a network with an oracle.
struct Network<'a> {
    name: &'a str,
    oracle_ms: f64,
    oracles_false: u64,
    figures: Vec<Tried>,
}

impl<'a> Network<'a> {
    /// None: the record is no oracle's, or has no outage.
    fn of(oracle: &'a Record, records: &[Record]) -> Option<Self> {
        if oracle.column != "oracle" {
            return None;
        }
        let watched = |of: &Record| {
            of.watch.as_ref().map_or((0, 0.0), |watch| (watch.false_elections, watch.seconds))
        };
        let (oracles_false, oracle_s) = watched(oracle);
        let is_ours = |column: &str| {
            COLUMNS.iter().any(|it| it.name == column && it.system == System::MetaStore)
        };
        let here = records.iter().filter(|it| it.preset == oracle.preset && is_ours(&it.column));
        let columns = here.filter_map(|it| {
            let (count, seconds) = watched(it);
            // Who watches for longer sees more: in as long a time as the oracle was watched.
            let share = if seconds > oracle_s { oracle_s / seconds } else { 1.0 };
            let is_alike = !is_troubled(it) || share * WATCHED_LONGER_MAX >= 1.0;
            let gap_ms = outage_ms(it).filter(|_| is_alike);
            // What was not measured is no failure.
            (gap_ms.is_some() || it.keeps_no_leader).then(|| Tried {
                heartbeat_ms: it.heartbeat_ms,
                election_ms: it.election_ms,
                gap_ms,
                false_elections: (count as f64 * share).round() as u64,
            })
        });
        Some(Network {
            name: &oracle.preset,
            oracle_ms: outage_ms(oracle)?,
            oracles_false,
            figures: columns.chain(oracle.tried.iter().cloned()).collect(),
        })
    }

    /// A constant's outage by the oracle's, or the better one of its neighbours'.
    fn ratio(&self, constant: (u64, u64)) -> f64 {
        let election_ms = constant.1;
        let best = |of: &dyn Fn(&Tried) -> bool| {
            let ratios = self.figures.iter().filter(|it| of(it)).map(|it| self.ratio_of(it));
            ratios.min_by(f64::total_cmp)
        };
        if let Some(own) = best(&|it| timing(it) == constant) {
            return own;
        }
        let elections = || self.figures.iter().map(|it| it.election_ms);
        let below = elections().filter(|it| *it <= election_ms).max();
        let above = elections().filter(|it| *it >= election_ms).min();
        best(&|it| Some(it.election_ms) == below || Some(it.election_ms) == above)
            .unwrap_or(f64::INFINITY)
    }

    fn ratio_of(&self, it: &Tried) -> f64 {
        match it.gap_ms {
            Some(gap_ms) if it.false_elections <= self.oracles_false => gap_ms / self.oracle_ms,
            _ => f64::INFINITY,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::{Loss, Watch};
    use super::*;

    fn tried((election_ms, gap_ms, false_elections): (u64, f64, u64)) -> Tried {
        Tried {
            heartbeat_ms: election_ms / 10,
            election_ms,
            gap_ms: (gap_ms > 0.0).then_some(gap_ms),
            false_elections,
        }
    }

    fn cell(preset: &str, column: &str, election_ms: u64, gap_ms: f64) -> Record {
        let loss = Loss { kind: Kind::Host, detection_ms: None, gap_ms, recovered: true, terms: 1 };
        Record {
            preset: preset.into(),
            column: column.into(),
            heartbeat_ms: election_ms / 10,
            election_ms,
            watch: Some(Watch::default()),
            losses: vec![loss],
            ..Record::default()
        }
    }

    fn oracle(preset: &str, election_ms: u64, gap_ms: f64, all: &[(u64, f64, u64)]) -> Record {
        let tried = all.iter().copied().map(tried).collect();
        Record { tried, ..cell(preset, "oracle", election_ms, gap_ms) }
    }

    /// Near by the oracle is short; far away it keeps no leader there.
    fn near_and_far() -> [Record; 2] {
        [
            oracle("same-zone", 100, 120.0, &[(100, 125.0, 0), (400, 500.0, 0), (1600, 2e3, 0)]),
            oracle("far-loss", 1600, 2e3, &[(100, 0.0, 0), (400, 600.0, 3), (1600, 2100.0, 0)]),
        ]
    }

    #[test]
    fn no_constant_is_as_short_as_the_oracle_near_by_and_keeps_its_leaders_far_away() {
        let best = best(&near_and_far()).unwrap();
        assert_eq!((best.election_ms, best.of, best.networks), (1600, 3, 2));
        assert_eq!((best.worst, &*best.worst_in), (2e3 / 120.0, "same-zone"));
    }

    #[test]
    fn a_constant_that_loses_leaders_the_oracle_keeps_is_out_however_short_its_outage() {
        let [mut near, mut far] = near_and_far();
        near.tried.truncate(1);
        far.tried.truncate(2);
        (far.heartbeat_ms, far.election_ms) = (40, 400);
        far.losses[0].gap_ms = 600.0;
        // The oracle has no false election, the same constant had three when it was tried.
        let worst = |far: &Record| best(&[near.clone(), far.clone()]).map(|it| it.worst);
        assert_eq!(worst(&far), Some(1.0));
        far.column = "static".into();
        far.watch = Some(Watch { false_elections: 3, ..Watch::default() });
        let other = oracle("far-loss", 1600, 2e3, &[(1600, 2e3, 0)]);
        let all = [near.clone(), far.clone(), other];
        let network = Network::of(&all[2], &all).unwrap();
        assert_eq!(network.ratio((40, 400)), f64::INFINITY);
        assert_eq!(network.ratio((160, 1600)), 1.0);
    }

    #[test]
    fn a_constant_that_was_not_tried_has_the_better_of_its_neighbours() {
        let records = near_and_far();
        let network = Network::of(&records[0], &records).unwrap();
        let by = |ms: f64| ms / 120.0;
        assert_eq!(network.ratio((10, 100)), 1.0, "its own, the best figure of it");
        assert_eq!(network.ratio((99, 400)), by(500.0), "another heartbeat");
        assert_eq!(network.ratio((50, 500)), by(500.0));
        assert_eq!(network.ratio((5, 50)), 1.0);
        assert_eq!(network.ratio((500, 5000)), by(2e3));
        let far = Network::of(&records[1], &records).unwrap();
        assert_eq!(far.ratio((20, 200)), f64::INFINITY, "both lose their leaders");
    }

    #[test]
    fn columns_of_ours_are_constants_and_etcds_are_not() {
        let mut records = near_and_far().to_vec();
        records.push(cell("far-loss", "etcd", 100, 100.0));
        assert_eq!(best(&records).unwrap().election_ms, 1600);
        // As good as both oracles: the goal would be missed.
        records.push(cell("far-loss", "static", 100, 2e3));
        let best = best(&records).unwrap();
        assert_eq!((best.election_ms, best.worst), (100, 1.0));
    }

    #[test]
    fn who_was_watched_for_longer_is_not_blamed_for_it() {
        let watch = |seconds, false_elections, gap_ms| {
            Some(Watch { seconds, false_elections, gap_ms, ..Watch::default() })
        };
        let ratio = |preset: &str, watched: Option<Watch>| {
            let lost = |record: Record| match preset {
                "disk-of-all" => Record { losses: vec![], ..record },
                _ => record,
            };
            let static_ = Record { watch: watched, ..cell(preset, "static", 1_000, 500.0) };
            let oracle = Record { watch: watch(60.0, 0, 250.0), ..oracle(preset, 100, 250.0, &[]) };
            let all = [lost(oracle), lost(static_)];
            Network::of(&all[0], &all).unwrap().ratio((100, 1_000))
        };
        assert_eq!(ratio("far-loss", watch(600.0, 4, 0.0)), 2.0, "less than one in a minute");
        assert_eq!(ratio("far-loss", watch(600.0, 6, 0.0)), f64::INFINITY);
        assert_eq!(ratio("far-loss", watch(10.0, 1, 0.0)), f64::INFINITY);
        assert_eq!(ratio("disk-of-all", watch(60.0, 0, 750.0)), 3.0);
        assert_eq!(
            ratio("disk-of-all", watch(1_200.0, 0, 750.0)),
            1.0,
            "only the oracle's is left"
        );
    }

    #[test]
    fn one_oracle_tells_nothing_and_where_nobody_is_killed_the_longest_outage_counts() {
        let [near, far] = near_and_far();
        assert_eq!(best(std::slice::from_ref(&near)), None);
        let watch = Some(Watch { gap_ms: 300.0, ..Watch::default() });
        let unkilled = |record: Record| Record { watch: watch.clone(), losses: vec![], ..record };
        assert_eq!(outage_ms(&unkilled(far)), None);
        assert_eq!(outage_ms(&unkilled(cell("disk-of-all", "static", 1_000, 0.0))), Some(300.0));
    }
}
