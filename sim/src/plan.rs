//! What a seed stands for: how large the cluster is, how bad its world, and for how long.

use member::autotune::Timing;

use crate::random::Random;

/// The options of one run, all drawn from the seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Founding members.
    pub members: u64,
    /// Clients, each with one request at a time.
    pub clients: u64,
    /// Keys the clients contend for.
    pub keys: u64,
    /// Longest a client thinks between two requests.
    pub think_us_max: u64,
    /// How long a client waits for an answer.
    pub request_timeout_us: u64,
    /// Heartbeats and election timeout to begin with.
    pub timing: Timing,
    /// How long faults go on.
    pub faults_us: u64,
    /// Mean time between two faults.
    pub fault_every_us: u64,
    /// Kinds of faults that happen in this run.
    pub faults: Faults,
    /// Messages lost, of a thousand.
    pub loss_permille: u64,
    /// Messages that arrive twice.
    pub duplicate_permille: u64,
    /// Messages overtake each other; else each link keeps their order.
    pub reorders: bool,
    /// Shortest way of a message.
    pub delay_us_min: u64,
    /// Longest, but for the few that linger.
    pub delay_us_max: u64,
    /// Longest a write and its sync take.
    pub disk_us_max: u64,
    /// Longest a task of apply takes.
    pub apply_us_max: u64,
    /// Entries between two snapshots.
    pub snapshot_entries: u64,
    /// Entries kept in memory for laggards.
    pub log_entries_kept: u64,
    /// Bytes of a log segment.
    pub segment_bytes: u64,
    /// Lost sectors come back as garbage, not as zeros.
    pub stale_blocks: bool,
    /// Membership changes are judged strictly.
    pub strict_reconfig_check: bool,
    /// Bytes of values a member keeps in memory; none: all.
    pub value_cache_bytes: Option<usize>,
}

/// Which kinds of faults a run has; a run with all of them would hide each behind the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Faults {
    /// Processes die, the machine lives; it may lose its power later.
    pub process_deaths: bool,
    /// One machine loses its power.
    pub power_losses: bool,
    /// All lose it at once.
    pub blackouts: bool,
    /// Processes die, or machines lose power, in the midst of a write.
    pub torn_writes: bool,
    /// A sync or write fails.
    pub disk_errors: bool,
    /// Bits of a log at rest flip.
    pub rot: bool,
    /// The network falls apart: in two, one way, or into two halves with a bridge.
    pub partitions: bool,
    /// Members stand still.
    pub pauses: bool,
    /// Members come and go.
    pub membership: bool,
    /// The leadership is handed over.
    pub transfers: bool,
    /// Plans of timing are submitted.
    pub plans: bool,
    /// The leader's disk stands still.
    pub disk_stalls: bool,
}

impl Plan {
    /// The plan of a seed.
    pub fn of(seed: u64) -> Plan {
        let mut random = Random::of(seed, "plan", 0);
        let members = [1, 3, 3, 3, 3, 5][random.below(6) as usize];
        let election_timeout_us = random.within(50_000, 300_000);
        let heartbeat_interval_us = election_timeout_us / random.within(5, 10);
        let delay_us_max = [400, 2_000, election_timeout_us / 20][random.below(3) as usize];
        // Kinds that came later draw from a stream of their own, so that seeds keep what they had.
        let mut new_faults = Random::of(seed, "plan", 1);
        let mut caches = Random::of(seed, "plan", 2);
        let mut roads = Random::of(seed, "plan", 3);
        // Of every other cluster the members are so far apart that commits are told of early.
        let far_us = if roads.permille(500) { roads.within(600, 2_500) } else { 0 };
        let value_cache_bytes = caches.permille(500).then(|| caches.below(2_000) as usize);
        let mut sometimes = |permille| random.permille(permille);
        let faults = Faults {
            process_deaths: sometimes(600),
            power_losses: sometimes(600),
            blackouts: sometimes(500),
            torn_writes: sometimes(500),
            disk_errors: sometimes(300),
            rot: sometimes(250),
            partitions: members > 1 && sometimes(600),
            pauses: sometimes(400),
            membership: sometimes(400),
            transfers: members > 1 && sometimes(400),
            plans: sometimes(300) || new_faults.permille(300),
            disk_stalls: new_faults.permille(400),
        };
        let noisy = random.permille(500);
        Plan {
            members,
            clients: random.within(2, 6),
            keys: random.within(2, 12),
            think_us_max: random.within(2_000, 40_000),
            request_timeout_us: random.within(2, 8) * election_timeout_us,
            timing: Timing { heartbeat_interval_us, election_timeout_us },
            faults_us: random.within(4_000_000, 10_000_000),
            fault_every_us: random.within(100_000, 900_000),
            faults,
            loss_permille: if noisy { random.within(0, 80) } else { 0 },
            duplicate_permille: if noisy { random.within(0, 80) } else { 0 },
            reorders: random.permille(500),
            delay_us_min: random.within(20, 200) + far_us,
            delay_us_max: delay_us_max.max(300) + far_us,
            disk_us_max: random.within(200, 8_000),
            apply_us_max: random.within(50, 3_000),
            snapshot_entries: random.within(10, 200),
            log_entries_kept: random.within(2, 60),
            segment_bytes: random.within(24, 96) << 10,
            stale_blocks: random.permille(500),
            strict_reconfig_check: random.permille(500),
            value_cache_bytes,
        }
    }
}
