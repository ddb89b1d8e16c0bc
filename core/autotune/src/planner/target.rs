//! The formulas: which parameters the evidence asks for, and which of it decides.
//!
//! ```text
//! H = a quarter of the longest round trip, on the grid
//! E = the greatest of, on the grid:
//!     the least bound
//!     α round trips                               an election takes three: question, vote, first entry
//!     5 H                                         one late heartbeat elects nobody
//!     p99 round trip + retransmission + stall     one lost segment elects nobody
//!     1.5 × the gap between heartbeats            what the network really does
//!     1.5 × the longest stall a quorum suffered   a leader that stands still and comes back
//!     2 × the longest sync a quorum had           half of E silences a leader whose disk stands still
//! L = 0.76 E, if leases are asked for
//! ```
//!
//! Both are clamped to the bounds, E never below five H.

use super::evidence::Evidence;
use super::grid::{fit, grid_down, grid_up};
use super::settings::{Policy, Settings};
use crate::{BatchBounds, HEARTBEATS_PER_ELECTION_MIN, INFLIGHT_MESSAGES_CEILING, Params, Timing};

/// Least that TCP waits before it sends a lost segment again.
const RETRANSMISSION_US_MIN: u64 = 200_000;
/// Of an election timeout that is a few round trips long none is lost with a single late heartbeat.
const HEARTBEATS_PER_ROUND_TRIP: u64 = 4;
/// A leader's lease in hundredths of the election timeout: 80, less two of its fifty ticks.
const LEASE_PERCENT: u64 = 76;
/// Windows are never narrower: acknowledgements wait for disks, not only for the network.
const INFLIGHT_MESSAGES_MIN: u64 = 256;
/// Nor in bytes.
const INFLIGHT_BYTES_MIN: u64 = 16 << 20;
/// A message delays the ones behind it by no more than this.
const MESSAGE_US_MAX: u64 = 5_000;
/// Messages are never made smaller than this for it.
const MESSAGE_BYTES_MIN: u64 = 64 << 10;
/// Messages are taken to be no smaller and no larger than this when windows are sized.
const APPEND_BYTES_MIN: u64 = 4 << 10;
/// See [`APPEND_BYTES_MIN`]; also what is taken for granted without measurement.
const APPEND_BYTES_MAX: u64 = 64 << 10;

/// What decides an election timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// The least bound: nothing measured asks for more.
    Floor,
    /// Round trips.
    RoundTrips,
    /// Heartbeats.
    Heartbeats,
    /// A segment that is lost and sent again.
    Loss,
    /// Gaps between signs of life.
    Gaps,
    /// Stalls of a quorum, silences of the leader.
    Stalls,
    /// Syncs.
    Disk,
    /// The greatest bound: more was asked for.
    Ceiling,
}

impl Binding {
    /// The words for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Binding::Floor => "least bound",
            Binding::RoundTrips => "round trips",
            Binding::Heartbeats => "heartbeats",
            Binding::Loss => "a lost segment",
            Binding::Gaps => "gaps between signs of life",
            Binding::Stalls => "stalls of a quorum",
            Binding::Disk => "syncs",
            Binding::Ceiling => "greatest bound",
        }
    }
}

/// What the evidence asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// On the grid, within the bounds.
    pub params: Params,
    /// Election timeout needed, as it was before grid and bounds.
    pub need_us: u64,
    /// What decides it.
    pub binding: Binding,
}

/// Applies the formulas.
pub fn target(evidence: &Evidence, settings: &Settings) -> Target {
    let bounds = &settings.bounds;
    let round_trip_us = evidence.rtt_us;
    let heartbeat_most_us = bounds
        .heartbeat_us_max
        .min(bounds.election_us_max / HEARTBEATS_PER_ELECTION_MIN)
        .max(bounds.heartbeat_us_min);
    let heartbeat_us = round_trip_us / HEARTBEATS_PER_ROUND_TRIP;
    let heartbeat_us = fit(heartbeat_us, bounds.heartbeat_us_min, heartbeat_most_us);
    let retransmission_us = RETRANSMISSION_US_MIN
        .max(round_trip_us.saturating_add(evidence.rtt_deviation_us.saturating_mul(4)));
    let probes_gap_us = match settings.policy {
        // One pair's gap deposes nobody: it takes a majority's at once.
        Policy::Latency => evidence.gap_us_p999,
        Policy::Balanced | Policy::Stability => evidence.gap_us,
    };
    // How long a lost segment takes is a guess until it has been measured.
    let repair_us = if settings.policy == Policy::Latency && evidence.gaps_measured {
        probes_gap_us.min(retransmission_us)
    } else {
        retransmission_us
    };
    let gap_us = evidence.heartbeat_gap_us(probes_gap_us, heartbeat_us);
    let asked = [
        (bounds.election_us_min, Binding::Floor),
        (settings.policy.round_trips().saturating_mul(round_trip_us), Binding::RoundTrips),
        (HEARTBEATS_PER_ELECTION_MIN * heartbeat_us, Binding::Heartbeats),
        (evidence.rtt_us_p99 + repair_us + evidence.stall_us, Binding::Loss),
        (gap_us.saturating_mul(3) / 2, Binding::Gaps),
        (evidence.shared_stall_us.saturating_mul(3) / 2, Binding::Stalls),
        (2 * evidence.sync_us.max(evidence.shared_sync_us), Binding::Disk),
    ];
    let (mut need_us, mut binding) = asked[0];
    for (us, what) in asked {
        if us > need_us {
            (need_us, binding) = (us, what);
        }
    }
    if need_us > bounds.election_us_max {
        binding = Binding::Ceiling;
    }
    let election_us = fit(need_us, bounds.election_us_min, bounds.election_us_max);
    Target { params: shape(heartbeat_us, election_us, evidence, settings), need_us, binding }
}

/// Parameters around an election timeout within the bounds.
pub(crate) fn shape(
    heartbeat_us: u64,
    election_us: u64,
    evidence: &Evidence,
    settings: &Settings,
) -> Params {
    let most_us = election_us / HEARTBEATS_PER_ELECTION_MIN;
    let heartbeat_us = if heartbeat_us > most_us {
        grid_down(most_us).clamp(settings.bounds.heartbeat_us_min, most_us)
    } else {
        heartbeat_us
    };
    Params {
        timing: Timing { heartbeat_interval_us: heartbeat_us, election_timeout_us: election_us },
        lease_us: if settings.leases { election_us / 100 * LEASE_PERCENT } else { 0 },
        bounds: batching(evidence, settings),
    }
}

/// The room in which a leader batches: a window of twice what the longest link holds, messages that
/// delay nobody, and a linger that is short beside a commit.
fn batching(evidence: &Evidence, settings: &Settings) -> BatchBounds {
    let most = &settings.bounds.batching;
    let product = |us: u64| {
        let bytes = u128::from(settings.bandwidth_bytes_per_s) * u128::from(us) / 1_000_000;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    };
    let message_bytes = product(MESSAGE_US_MAX).max(MESSAGE_BYTES_MIN).min(most.message_bytes_max);
    let message_bytes = 1_u64 << message_bytes.max(1).ilog2();
    let window_bytes = product(evidence.rtt_us).saturating_mul(2);
    let append_bytes = match evidence.append_bytes_mean {
        0 => APPEND_BYTES_MAX,
        mean => mean.clamp(APPEND_BYTES_MIN, APPEND_BYTES_MAX),
    };
    let commit_us = evidence.rtt_us.saturating_add(evidence.sync_us_p50);
    BatchBounds {
        batch_commands_max: most.batch_commands_max,
        linger_us_max: grid_down(commit_us / 20).min(most.linger_us_max),
        message_bytes_max: message_bytes,
        inflight_messages_max: grid_up(window_bytes / append_bytes)
            .clamp(INFLIGHT_MESSAGES_MIN, INFLIGHT_MESSAGES_CEILING)
            .min(most.inflight_messages_max),
        inflight_bytes_max: grid_up(window_bytes)
            .max(INFLIGHT_BYTES_MIN)
            .min(most.inflight_bytes_max)
            .max(message_bytes),
        compression: most.compression,
    }
}

/// How long clients will wait after the loss of a leader's host, on average: the first of the
/// followers runs out of patience, one in so many votes is split, and three round trips and syncs
/// later something is committed. Kept for the record, beside what is measured.
pub fn failover_us(timing: &Timing, evidence: &Evidence) -> u64 {
    let (election_us, voters) = (timing.election_timeout_us, evidence.voters.max(2));
    let detect_us = election_us
        .saturating_add(election_us / voters)
        .saturating_sub(timing.heartbeat_interval_us / 2);
    // Two of three draw waits that lie within half a round trip of each other.
    let split_ppm = evidence.rtt_us.saturating_mul(1_000_000) / election_us.max(1);
    let split_ppm = split_ppm.min(900_000);
    let again_us =
        u128::from(detect_us) * u128::from(split_ppm) / u128::from(1_000_000 - split_ppm);
    detect_us
        .saturating_add(u64::try_from(again_us).unwrap_or(u64::MAX))
        .saturating_add(3 * evidence.rtt_us)
        .saturating_add(3 * evidence.sync_us_p50)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence(rtt_us: u64, rtt_us_p99: u64) -> Evidence {
        Evidence {
            voters: 3,
            rtt_us,
            rtt_us_p99,
            rtt_deviation_us: rtt_us / 8,
            stall_us: 10_000,
            gap_us: 30_000,
            gap_us_p999: 28_000,
            gaps_measured: true,
            ..Evidence::default()
        }
    }

    fn plan(evidence: &Evidence, policy: Policy) -> (u64, u64, Binding) {
        let target = target(evidence, &Settings::of(policy));
        assert_eq!(target.params.validate(), Ok(()));
        let timing = target.params.timing;
        (timing.heartbeat_interval_us / 1_000, timing.election_timeout_us / 1_000, target.binding)
    }

    #[test]
    fn distances_have_the_plans_that_were_worked_out_for_them() {
        use Policy::{Balanced, Latency, Stability};
        let zone = evidence(700, 1_600);
        assert_eq!(plan(&zone, Balanced), (25, 315, Binding::Floor));
        assert_eq!(plan(&zone, Latency), (25, 160, Binding::Floor));
        assert_eq!(plan(&evidence(2_600, 6_000), Balanced), (25, 315, Binding::Floor));
        let lossy = Evidence { gap_us: 229_000, ..evidence(2_600, 6_000) };
        assert_eq!(plan(&lossy, Balanced), (25, 400, Binding::Gaps));
        let region = evidence(88_000, 131_000);
        assert_eq!(plan(&region, Balanced), (25, 400, Binding::Loss));
        assert_eq!(plan(&region, Latency), (25, 200, Binding::RoundTrips));
        assert_eq!(plan(&region, Stability), (25, 1_000, Binding::RoundTrips));
        let far = evidence(233_000, 395_000);
        assert_eq!(plan(&far, Balanced), (63, 800, Binding::Loss));
        assert_eq!(plan(&far, Stability), (63, 2_500, Binding::RoundTrips));
        let stalls = Evidence { shared_stall_us: 400_000, ..zone };
        assert_eq!(plan(&stalls, Balanced), (25, 630, Binding::Stalls));
        let disk = Evidence { shared_sync_us: 400_000, ..zone };
        assert_eq!(plan(&disk, Balanced), (25, 800, Binding::Disk));
        let far = Evidence { shared_stall_us: 60_000_000, ..zone };
        assert_eq!(plan(&far, Balanced), (25, 10_000, Binding::Ceiling));
    }

    #[test]
    fn a_lost_segment_is_taken_to_cost_a_retransmission_until_its_cost_is_measured() {
        let known = evidence(2_600, 6_000);
        let unknown = Evidence { gaps_measured: false, ..known };
        assert_eq!(plan(&known, Policy::Latency), (25, 160, Binding::Floor));
        assert_eq!(plan(&unknown, Policy::Latency), (25, 250, Binding::Loss));
        // The rarest of its repairs may take long: the other follower still hears the leader.
        let lossy = Evidence { gap_us: 229_000, gap_us_p999: 70_000, ..known };
        assert_eq!(plan(&lossy, Policy::Latency), (25, 160, Binding::Floor));
        let often = Evidence { gap_us: 229_000, gap_us_p999: 229_000, ..known };
        assert_eq!(plan(&often, Policy::Latency), (25, 400, Binding::Gaps));
    }

    #[test]
    fn the_window_holds_twice_what_a_link_does() {
        let of = |evidence: &Evidence| {
            let bounds = target(evidence, &Settings::of(Policy::Balanced)).params.bounds;
            (bounds.inflight_messages_max, bounds.inflight_bytes_max >> 20, bounds.linger_us_max)
        };
        assert_eq!(of(&evidence(700, 1_600)), (256, 16, 100));
        assert_eq!(of(&evidence(88_000, 131_000)), (400, 23, 2_000));
        let small = Evidence { append_bytes_mean: 300, ..evidence(88_000, 131_000) };
        assert_eq!(of(&small).0, 4_096);
    }

    #[test]
    fn a_lease_is_shorter_than_four_fifths_of_any_timeout() {
        let settings = Settings { leases: true, ..Settings::of(Policy::Balanced) };
        let params = target(&evidence(700, 1_600), &settings).params;
        assert_eq!((params.lease_us, params.validate()), (239_400, Ok(())));
    }

    #[test]
    fn bounds_that_leave_little_room_still_give_five_heartbeats() {
        let mut settings = Settings::of(Policy::Balanced);
        settings.bounds.election_us_max = 625_000;
        settings.bounds.heartbeat_us_min = 60_000;
        assert_eq!(settings.bounds.validate(), Ok(()));
        let params = target(&evidence(480_000, 500_000), &settings).params;
        assert_eq!(params.timing.election_timeout_us, 500_000);
        assert_eq!(params.timing.heartbeat_interval_us, 100_000);
        assert!(settings.bounds.hold(&params));
    }

    #[test]
    fn the_predicted_failover_is_that_of_the_model() {
        let zone = evidence(500, 1_600);
        let of = |heartbeat_us, election_us| {
            let timing =
                Timing { heartbeat_interval_us: heartbeat_us, election_timeout_us: election_us };
            failover_us(&timing, &zone) / 1_000
        };
        assert_eq!((of(25_000, 315_000), of(100_000, 1_000_000)), (409, 1_285));
    }
}
