//! What is compared: a system and a timing that does not move while it is measured.

use std::time::Duration;

use anyhow::{Result, bail};
use autotune::Timing;
use autotune::planner::{Policy, columns};

use crate::measure::RoundTrips;
use crate::preset::Preset;
use crate::rule::Rule;

/// Whose server is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum System {
    Etcd,
    MetaStore,
}

/// A column of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) system: System,
    pub(super) way: Way,
    /// Losses of each kind that a whole run has.
    pub(super) losses: usize,
}

/// Where its timing comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Fixed(Timing),
    Dynatune,
    /// The planner's, of what the members measured, submitted to the running cluster.
    Plan(Policy),
    /// The best of the constants that were tried in this network.
    Oracle,
}

const fn column(
    name: &'static str,
    title: &'static str,
    system: System,
    way: Way,
    losses: usize,
) -> Column {
    Column { name, title, system, way, losses }
}

/// All of them, in the tables' order.
pub(super) const COLUMNS: [Column; 8] = [
    column("etcd", "etcd 100/1000", System::Etcd, Way::Fixed(columns::ETCD), 30),
    column("etcd-short", "etcd 25/315", System::Etcd, Way::Fixed(columns::ETCD_SHORT), 10),
    column("static", "MetaStore 100/1000", System::MetaStore, Way::Fixed(columns::ETCD), 10),
    column("source", "MetaStore 50/500", System::MetaStore, Way::Fixed(columns::SOURCE), 10),
    column("oracle", "MetaStore, oracle", System::MetaStore, Way::Oracle, 10),
    column("dynatune", "MetaStore, Dynatune", System::MetaStore, Way::Dynatune, 10),
    column(
        "balanced",
        "MetaStore, plan balanced",
        System::MetaStore,
        Way::Plan(Policy::Balanced),
        30,
    ),
    column("latency", "MetaStore, plan latency", System::MetaStore, Way::Plan(Policy::Latency), 30),
];

impl Column {
    /// Whether nobody vouches that this timing keeps a leader: that it does not is a result then.
    pub(super) fn is_unsteady(&self) -> bool {
        matches!(self.way, Way::Dynatune | Way::Oracle)
    }

    pub(super) fn named(name: &str) -> Result<&'static Column> {
        match COLUMNS.iter().find(|column| column.name == name) {
            Some(column) => Ok(column),
            None => {
                let names: Vec<&str> = COLUMNS.iter().map(|column| column.name).collect();
                bail!("{name:?}: no such column (there are {})", names.join(", "))
            }
        }
    }
}

impl Way {
    /// The timing members are started with, in a network whose round trips were measured; none: the
    /// oracle's has to be sought. A plan begins with what a server does if nothing is said.
    pub(super) fn timing(self, preset: &Preset, trips: &RoundTrips) -> Option<Timing> {
        let timing = match self {
            Way::Fixed(timing) => timing,
            Way::Dynatune => {
                let (mean_us, deviation_us) = spread(trips);
                let samples = trips.sorted.len() as u64;
                columns::dynatune(samples, mean_us, deviation_us, loss_ppm(preset))
            }
            Way::Plan(_) => columns::ETCD,
            Way::Oracle => return None,
        };
        Some(in_milliseconds(timing))
    }
}

/// Flags are whole milliseconds, and the heartbeat must fit five times whatever is cut off.
fn in_milliseconds(timing: Timing) -> Timing {
    let election_ms = timing.election_timeout_us.div_ceil(1_000).max(5);
    let heartbeat_ms = timing.heartbeat_interval_us.div_ceil(1_000).min(election_ms / 5);
    Timing { heartbeat_interval_us: heartbeat_ms * 1_000, election_timeout_us: election_ms * 1_000 }
}

/// Part of the round trips that lose a packet, in a million.
fn loss_ppm(preset: &Preset) -> u64 {
    let loss = Rule::default().with(preset.rule.split(' ')).map_or(0.0, |rule| rule.loss);
    ((1.0 - (1.0 - loss).powi(2)) * 1e6) as u64
}

/// Mean and standard deviation.
fn spread(trips: &RoundTrips) -> (u64, u64) {
    let count = trips.sorted.len().max(1) as f64;
    let us = |it: &Duration| it.as_secs_f64() * 1e6;
    let mean = trips.sorted.iter().map(us).sum::<f64>() / count;
    let squares = trips.sorted.iter().map(|it| (us(it) - mean).powi(2)).sum::<f64>();
    (mean as u64, (squares / count).sqrt() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trips(rtt_us: u64) -> RoundTrips {
        RoundTrips { sorted: vec![Duration::from_micros(rtt_us); 100], lost: 0 }
    }

    #[test]
    fn every_timing_is_one_that_a_server_takes() {
        for column in COLUMNS {
            for (preset, rtt_us) in [("same-zone", 300), ("far-loss", 200_400), ("metro", 10_200)] {
                let preset = Preset::named(preset).unwrap();
                let Some(timing) = column.way.timing(preset, &trips(rtt_us)) else {
                    assert_eq!(column.name, "oracle");
                    continue;
                };
                assert_eq!(timing.validate(), Ok(()), "{}: {timing:?}", column.name);
                assert_eq!(timing.heartbeat_interval_us % 1_000, 0);
            }
        }
    }

    #[test]
    fn columns_are_found_by_their_names() {
        assert_eq!(Column::named("etcd").unwrap().title, "etcd 100/1000");
        assert!(Column::named("x").unwrap_err().to_string().contains("balanced"));
    }
}
