//! From rows to the few numbers a plan is made of.
//!
//! Of each pair of voters the worse direction counts: both measure the same way there and back, so
//! the greater one is the one that saw more, and a member that claims less than its peer is not
//! believed. What is missing is missing: a pair without samples, or with a round trip of nothing, is
//! a hole in the matrix and never a short distance.
//!
//! What only one member suffers cannot depose a leader, since a pre-vote asks a quorum; so of stalls
//! and of long syncs that value counts which a quorum has seen. (A leader whose disk alone stands still
//! should lose the leadership.) In the rare percentiles that are too
//! thin for their samples the next coarser one is taken.

use super::observation::{Link, MemberRow, Observation, PROBE_INTERVAL_US};
use super::settings::Guards;
use crate::Percentiles;

/// Nothing measured is believed to be longer.
const MEASURED_US_MAX: u64 = 60_000_000;
/// Samples from which the 99.99th percentile says something.
pub(crate) const SAMPLES_P9999: u64 = 20_000;
/// And the 99.9th.
const SAMPLES_P999: u64 = 1_000;
/// And the 99th.
const SAMPLES_P99: u64 = 100;
/// A member so many times farther from all others than they are from each other is slow.
const SLOW_FACTOR: u64 = 4;
/// If it is farther by at least this.
const SLOW_US_MIN: u64 = 5_000;
/// And the others are no farther from each other than this; beyond, distances are geography.
const NEAR_US_MAX: u64 = 10_000;

/// What the rows of one moment come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Evidence {
    /// How many vote.
    pub voters: u64,
    /// Longest smoothed round trip of any two.
    pub rtt_us: u64,
    /// Mean deviation of that pair.
    pub rtt_deviation_us: u64,
    /// Longest 99th percentile of any two.
    pub rtt_us_p99: u64,
    /// Who is that far apart.
    pub worst_pair: (u64, u64),
    /// How late the loop of the slowest member was, in the 99.9th percentile.
    pub stall_us: u64,
    /// Silence of the leader that a quorum heard: it stood still, or they all did.
    pub shared_stall_us: u64,
    /// Longest gap between signs of life of any pair, in the highest percentile its samples carry.
    pub gap_us: u64,
    /// The same in the 99.9th percentile.
    pub gap_us_p999: u64,
    /// Whether all gaps have samples enough for the 99.99th percentile.
    pub gaps_measured: bool,
    /// Syncs as long as a quorum has, in the 99.99th percentile.
    pub sync_us: u64,
    /// The typical sync of the slowest member.
    pub sync_us_p50: u64,
    /// Syncs as long as a quorum had, in 24 hours.
    pub shared_sync_us: u64,
    /// Lost probes of the worst direction, in a million.
    pub loss_ppm: u64,
    /// Samples of the pair that has least.
    pub samples: u64,
    /// Entry bytes in an append message; 0: unknown.
    pub append_bytes_mean: u64,
}

/// What the rows come to, and what they lack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// `None`: not one pair is known.
    pub evidence: Option<Evidence>,
    /// Voters without a row that is fresh enough.
    pub missing: Vec<u64>,
    /// Pairs of voters of whose distance one direction at least is not known.
    pub holes: Vec<(u64, u64)>,
    /// Enough rows for a majority.
    pub quorum: bool,
    /// Samples and freshness suffice for a shorter timeout.
    pub lowerable: bool,
    /// A voter that does not know plans.
    pub unaware: Option<u64>,
    /// Somebody learns.
    pub learner: bool,
    /// A voter far from all others, which are close to each other: it, its distance, theirs.
    pub slow: Option<(u64, u64, u64)>,
}

/// Makes sense of the rows.
pub fn read(observation: &Observation, guards: &Guards) -> Reading {
    let mut voters = observation.voters.clone();
    voters.sort_unstable();
    voters.dedup();
    let row_of = |id: u64| {
        let fresh = |row: &&MemberRow| row.id == id && row.age_ms <= guards.row_age_ms_max;
        observation.members.iter().find(fresh)
    };
    let rows: Vec<&MemberRow> = voters.iter().filter_map(|id| row_of(*id)).collect();
    let mut reading = Reading {
        missing: voters.iter().copied().filter(|id| row_of(*id).is_none()).collect(),
        quorum: rows.len() > voters.len() / 2,
        lowerable: rows.iter().all(|row| row.age_ms <= guards.lower_row_age_ms_max),
        unaware: rows.iter().find(|row| !row.knows_plans).map(|row| row.id),
        learner: observation.members.iter().any(|row| row.is_learner),
        ..Reading::default()
    };
    let pairs = pairs(&voters, row_of, guards, &mut reading);
    reading.lowerable &= reading.missing.is_empty()
        && reading.holes.is_empty()
        && pairs.iter().all(|pair| pair.samples >= guards.lower_samples_min);
    reading.slow = slow(&voters, &pairs);
    reading.evidence = gather(&voters, &rows, &pairs);
    reading
}

/// Two voters, the worse direction of each value.
struct Pair {
    ends: (u64, u64),
    srtt_us: u64,
    rttvar_us: u64,
    p99_us: u64,
    gap_us: u64,
    gap_us_p999: u64,
    gaps_measured: bool,
    loss_ppm: u64,
    samples: u64,
}

fn pairs<'a>(
    voters: &[u64],
    row_of: impl Fn(u64) -> Option<&'a MemberRow>,
    guards: &Guards,
    reading: &mut Reading,
) -> Vec<Pair> {
    let link = |from: u64, to: u64| {
        let row = row_of(from)?;
        let known = |link: &&Link| {
            link.to == to
                && link.reachable
                && link.srtt_us > 0
                && link.samples >= guards.samples_min
                && link.age_ms.saturating_add(row.age_ms) <= guards.row_age_ms_max
        };
        row.links.iter().find(known)
    };
    let mut pairs = Vec::new();
    for (at, one) in voters.iter().enumerate() {
        for other in &voters[at + 1..] {
            let (there, back) = (link(*one, *other), link(*other, *one));
            if there.is_none() || back.is_none() {
                reading.holes.push((*one, *other));
            }
            let known: Vec<&Link> = there.into_iter().chain(back).collect();
            if !known.is_empty() {
                pairs.push(pair((*one, *other), &known));
            }
        }
    }
    pairs
}

fn pair(ends: (u64, u64), directions: &[&Link]) -> Pair {
    let most = |value: &dyn Fn(&Link) -> u64| {
        let values = directions.iter().map(|link| value(link).min(MEASURED_US_MAX));
        values.max().unwrap_or(0)
    };
    let p99_us = |link: &Link| {
        let estimate_us = link.srtt_us.saturating_add(link.rttvar_us.saturating_mul(4));
        if link.rtt.samples >= SAMPLES_P99 { link.rtt.p99_us } else { estimate_us }
            .max(link.srtt_us)
    };
    Pair {
        ends,
        srtt_us: most(&|link| link.srtt_us),
        rttvar_us: most(&|link| link.rttvar_us),
        p99_us: most(&p99_us),
        gap_us: most(&|link| rarest(&link.gaps)),
        gap_us_p999: most(&|link| p999(&link.gaps)),
        gaps_measured: directions.iter().all(|link| link.gaps.samples >= SAMPLES_P9999),
        loss_ppm: most(&|link| {
            let lost = link.probes_lost.min(link.probes_sent);
            u64::try_from(u128::from(lost) * 1_000_000 / u128::from(link.probes_sent.max(1)))
                .unwrap_or(0)
        }),
        samples: directions.iter().map(|link| link.samples).min().unwrap_or(0),
    }
}

/// The highest percentile the samples carry; 0 if none.
fn rarest(measured: &Percentiles) -> u64 {
    if measured.samples >= SAMPLES_P9999 { measured.p9999_us } else { p999(measured) }
}

fn p999(measured: &Percentiles) -> u64 {
    match measured.samples {
        SAMPLES_P999.. => measured.p999_us,
        SAMPLES_P99.. => measured.p99_us,
        _ => 0,
    }
}

fn gather(voters: &[u64], rows: &[&MemberRow], pairs: &[Pair]) -> Option<Evidence> {
    let worst = pairs.iter().max_by_key(|pair| (pair.srtt_us, pair.ends))?;
    let over_pairs = |value: fn(&Pair) -> u64| pairs.iter().map(value).max().unwrap_or(0);
    let over_rows = |value: &dyn Fn(&MemberRow) -> u64| {
        rows.iter().map(|row| value(row).min(MEASURED_US_MAX)).max().unwrap_or(0)
    };
    let quorum = voters.len() / 2 + 1;
    let shared = |values: Vec<u64>| shared_by(quorum, values);
    // On a follower a gap is a heartbeat interval and what came on top of it.
    let silences = rows.iter().filter(|row| row.heartbeat_gaps.samples > 0).map(|row| {
        let interval_us = row.heartbeat_interval_us.max(1);
        row.heartbeat_gaps.max_us.saturating_sub(interval_us)
    });
    let silence_us = shared(silences.collect());
    let longest_syncs = rows.iter().map(|row| row.sync_us_max).collect();
    Some(Evidence {
        voters: voters.len() as u64,
        rtt_us: worst.srtt_us,
        rtt_deviation_us: worst.rttvar_us,
        rtt_us_p99: over_pairs(|pair| pair.p99_us),
        worst_pair: worst.ends,
        stall_us: over_rows(&|row| p999(&row.loop_stalls)),
        shared_stall_us: silence_us,
        gap_us: over_pairs(|pair| pair.gap_us),
        gap_us_p999: over_pairs(|pair| pair.gap_us_p999),
        gaps_measured: pairs.iter().all(|pair| pair.gaps_measured),
        sync_us: shared(rows.iter().map(|row| rarest(&row.sync_times)).collect()),
        sync_us_p50: over_rows(&|row| row.sync_times.p50_us),
        shared_sync_us: shared(longest_syncs),
        loss_ppm: over_pairs(|pair| pair.loss_ppm),
        samples: pairs.iter().map(|pair| pair.samples).min().unwrap_or(0),
        append_bytes_mean: rows.iter().map(|row| row.append_bytes_mean).max().unwrap_or(0),
    })
}

/// The greatest value that a quorum reaches; with fewer of them, the one that all reach.
fn shared_by(quorum: usize, mut values: Vec<u64>) -> u64 {
    values.sort_unstable_by(|a, b| b.cmp(a));
    let at = quorum.min(values.len()).saturating_sub(1);
    values.get(at).copied().unwrap_or(0).min(MEASURED_US_MAX)
}

fn slow(voters: &[u64], pairs: &[Pair]) -> Option<(u64, u64, u64)> {
    let has = |pair: &Pair, id: u64| pair.ends.0 == id || pair.ends.1 == id;
    voters.iter().find_map(|id| {
        let (own, others): (Vec<&Pair>, Vec<&Pair>) = pairs.iter().partition(|pair| has(pair, *id));
        if own.len() + 1 < voters.len() || others.is_empty() {
            return None;
        }
        let nearest_us = own.iter().map(|pair| pair.srtt_us).min()?;
        let mut between: Vec<u64> = others.iter().map(|pair| pair.srtt_us).collect();
        between.sort_unstable();
        let median_us = between[between.len() / 2];
        let is_slow = median_us <= NEAR_US_MAX
            && nearest_us > median_us * SLOW_FACTOR
            && nearest_us - median_us > SLOW_US_MIN;
        is_slow.then_some((*id, nearest_us, median_us))
    })
}

impl Evidence {
    /// How long a heartbeat may keep its followers waiting, judged by the probes that share its
    /// connection and come every [`PROBE_INTERVAL_US`].
    pub fn heartbeat_gap_us(&self, probes_gap_us: u64, heartbeat_interval_us: u64) -> u64 {
        if probes_gap_us == 0 {
            return 0;
        }
        let late_us = probes_gap_us.saturating_sub(PROBE_INTERVAL_US);
        late_us.saturating_add(heartbeat_interval_us)
    }

    /// How much of an election timeout heartbeats need at times (99.9th percentile), in hundredths.
    pub fn slack_percent(&self, heartbeat_interval_us: u64, election_timeout_us: u64) -> u64 {
        let gap_us = self.heartbeat_gap_us(self.gap_us_p999, heartbeat_interval_us);
        gap_us.saturating_mul(100) / election_timeout_us.max(1)
    }

    /// The worse of two in everything.
    pub fn worse_of(&self, other: &Evidence) -> Evidence {
        let worst = if other.rtt_us > self.rtt_us { other } else { self };
        Evidence {
            voters: self.voters,
            rtt_us: worst.rtt_us,
            rtt_deviation_us: worst.rtt_deviation_us,
            rtt_us_p99: self.rtt_us_p99.max(other.rtt_us_p99),
            worst_pair: worst.worst_pair,
            stall_us: self.stall_us.max(other.stall_us),
            shared_stall_us: self.shared_stall_us.max(other.shared_stall_us),
            gap_us: self.gap_us.max(other.gap_us),
            gap_us_p999: self.gap_us_p999.max(other.gap_us_p999),
            gaps_measured: self.gaps_measured && other.gaps_measured,
            sync_us: self.sync_us.max(other.sync_us),
            sync_us_p50: self.sync_us_p50.max(other.sync_us_p50),
            shared_sync_us: self.shared_sync_us.max(other.shared_sync_us),
            loss_ppm: self.loss_ppm.max(other.loss_ppm),
            samples: self.samples.min(other.samples),
            append_bytes_mean: self.append_bytes_mean,
        }
    }
}
