//! The timings compared, and what the planner makes of a network.

use member::autotune::planner::columns::{ETCD, ETCD_SHORT, SOURCE, dynatune};
use member::autotune::planner::{
    Guards, Link, MemberRow, Observation, PROBE_INTERVAL_US, Policy, Settings, read, target,
};
use member::autotune::{Distribution, Percentiles, Timing};

use super::weather::{MEMBERS, Preset, Repair, Trouble, Weather};

/// Probes of each link before a plan is made: ten minutes.
const PROBES: u64 = 24_000;
/// Minutes of a day, over which stalls are remembered.
const DAY_MINUTES: u64 = 1_440;
/// A sync that nothing holds up, and how many there are in a second.
const SYNC_US: u64 = 2_000;
const SYNCS_PER_S: u64 = 100;
/// The seed under which networks are observed; pieces have others.
const SEED: u64 = 0x0b5e_7e5e_ed00;

/// Whose timing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    Etcd,
    EtcdShort,
    Source,
    Dynatune,
    Plan(Policy),
    /// Any two numbers.
    Static(Timing),
}

impl Column {
    pub(super) const ALL: [Column; 7] = [
        Column::Etcd,
        Column::EtcdShort,
        Column::Source,
        Column::Dynatune,
        Column::Plan(Policy::Balanced),
        Column::Plan(Policy::Latency),
        Column::Plan(Policy::Stability),
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Column::Etcd => "etcd",
            Column::EtcdShort => "etcd-25",
            Column::Source => "source",
            Column::Dynatune => "dynatune",
            Column::Plan(policy) => policy.as_str(),
            Column::Static(_) => "static",
        }
    }

    /// The column of a word: a name, or heartbeat interval and election timeout in milliseconds.
    pub(super) fn of(word: &str) -> Option<Column> {
        let named = Column::ALL.into_iter().find(|column| column.name() == word);
        let us = |text: &str| text.parse::<u64>().ok()?.checked_mul(1_000);
        named.or_else(|| {
            let (heartbeat, election) = word.split_once('/')?;
            let timing = Timing {
                heartbeat_interval_us: us(heartbeat)?,
                election_timeout_us: us(election)?,
            };
            timing.validate().ok().map(|()| Column::Static(timing))
        })
    }

    /// How long the next segment behind a lost one is away, on the connection of the heartbeats.
    pub(super) fn next_segment_us(self, timing: Timing) -> u64 {
        let beat_us = timing.heartbeat_interval_us;
        match self {
            // etcd's heartbeats are alone on an idle connection.
            Column::Etcd | Column::EtcdShort => beat_us,
            _ => beat_us.min(PROBE_INTERVAL_US),
        }
    }

    /// The timing on a network; it does not depend on the seed of a piece.
    pub(super) fn timing(self, preset: &'static Preset, repair: Repair) -> Timing {
        match self {
            Column::Static(timing) => timing,
            Column::Etcd => ETCD,
            Column::EtcdShort => ETCD_SHORT,
            Column::Source => SOURCE,
            Column::Dynatune => {
                let (mean_us, deviation_us) = worst_path(preset, repair);
                dynatune(PROBES, mean_us, deviation_us, preset.loss_ppm)
            }
            Column::Plan(policy) => {
                let reading = read(&observation(preset, repair), &Guards::default());
                let evidence = reading.evidence.expect("every pair was observed");
                target(&evidence, &Settings::of(policy)).params.timing
            }
        }
    }
}

/// Round trips of all probes of a path, first to last.
fn probe(weather: &Weather, from: usize, to: usize) -> Vec<(u64, u64)> {
    let (mut there_us, mut back_us) = (0, 0);
    let answers = (1..=PROBES).map(|number| {
        let sent_us = number * PROBE_INTERVAL_US;
        there_us = there_us.max(sent_us + weather.delay_us(from, to, sent_us));
        back_us = back_us.max(there_us + weather.delay_us(to, from, there_us));
        (back_us, back_us - sent_us)
    });
    answers.collect()
}

/// Mean and standard deviation of the path that has the greatest mean.
fn worst_path(preset: &'static Preset, repair: Repair) -> (u64, u64) {
    let weather = Weather::new(preset, SEED, repair.on(PROBE_INTERVAL_US));
    let paths = [(0, 1), (0, 2), (1, 2)].map(|(from, to)| {
        let trips = probe(&weather, from, to);
        let count = trips.len() as f64;
        let mean = trips.iter().map(|(_, us)| *us as f64).sum::<f64>() / count;
        let square = trips.iter().map(|(_, us)| (*us as f64 - mean).powi(2)).sum::<f64>() / count;
        (mean as u64, square.sqrt() as u64)
    });
    paths.into_iter().max().unwrap_or_default()
}

/// What members would say after ten minutes of the network, and a day of its stalls.
fn observation(preset: &'static Preset, repair: Repair) -> Observation {
    let mut weather = Weather::new(preset, SEED, repair.on(PROBE_INTERVAL_US));
    let members = (0..MEMBERS).map(|at| member(&mut weather, at)).collect();
    Observation { voters: (1..=MEMBERS as u64).collect(), members, ..Observation::default() }
}

fn member(weather: &mut Weather, at: usize) -> MemberRow {
    let others = (0..MEMBERS).filter(|other| *other != at);
    let links = others.map(|other| link(weather, at, other)).collect();
    let (mut stall_us, mut sync_us_max) = (0, SYNC_US);
    for minute in 0..DAY_MINUTES {
        // Whoever leads, the longest stall of a day was heard by its followers.
        let (begin_us, end_us) = weather.process_stretch(0, minute);
        stall_us = stall_us.max(end_us - begin_us);
        let (begin_us, end_us) = weather.disk_stretch(at, minute);
        sync_us_max = sync_us_max.max(end_us - begin_us);
    }
    let mut syncs = Distribution::new();
    for minute in 0..10 {
        let (begin_us, end_us) = weather.disk_stretch(at, minute);
        if end_us > begin_us {
            syncs.record(0, end_us - begin_us);
        }
        for _ in 0..SYNCS_PER_S * 60 {
            syncs.record(0, SYNC_US);
        }
    }
    let leads = at == 0;
    let interval_us = ETCD.heartbeat_interval_us;
    let gaps =
        Percentiles { samples: 6_000, max_us: interval_us + stall_us, ..Percentiles::default() };
    let late =
        |us| Percentiles { samples: 50_000, p999_us: us, p9999_us: us, ..Percentiles::default() };
    let stalls = weather.preset.trouble == Trouble::Processes;
    MemberRow {
        id: at as u64 + 1,
        uptime_ms: 86_400_000,
        knows_plans: true,
        leader_id: 1,
        heartbeat_interval_us: interval_us,
        election_timeout_us: ETCD.election_timeout_us,
        // One pass in many thousands stands still for long; the others are a millisecond late.
        loop_stalls: late(1_000),
        loop_stall_us_max: if stalls { stall_us } else { 1_000 },
        sync_times: syncs.percentiles(0),
        sync_us_max,
        heartbeat_gaps: if leads { Percentiles::default() } else { gaps },
        links,
        ..MemberRow::default()
    }
}

fn link(weather: &Weather, from: usize, to: usize) -> Link {
    let (mut trips, mut gaps) = (Distribution::new(), Distribution::new());
    let (mut srtt_us, mut rttvar_us, mut last_us) = (0, 0, 0);
    for (at_us, trip_us) in probe(weather, from, to) {
        trips.record(0, trip_us);
        if last_us == 0 {
            (srtt_us, rttvar_us) = (trip_us, trip_us / 2);
        } else {
            gaps.record(0, at_us - last_us);
            // RFC 6298.
            rttvar_us = (3 * rttvar_us + srtt_us.abs_diff(trip_us)) / 4;
            srtt_us = (7 * srtt_us + trip_us) / 8;
        }
        last_us = at_us;
    }
    // What was smoothed last is one draw of many; the median stands for it.
    let rtt = trips.percentiles(0);
    Link {
        to: to as u64 + 1,
        reachable: true,
        samples: PROBES,
        srtt_us: rtt.p50_us,
        rttvar_us: rttvar_us.min(rtt.p50_us),
        rtt,
        gaps: gaps.percentiles(0),
        probes_sent: PROBES,
        ..Link::default()
    }
}
