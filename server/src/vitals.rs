//! How steadily this member runs, as far as timings are chosen by it: how late the loop that carries
//! the protocol comes round, how long syncs of the log take, how regularly the leader is heard, how
//! long there was none.
//!
//! Each is recorded by the thread it happens on, under a lock of its own that is held for a few
//! nanoseconds; percentiles are made when somebody asks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use autotune::{Distribution, LongestOfDay, Percentiles};
use member::{HintStatus, consensus};
use prometheus::Histogram;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use proto::admin;

use crate::metrics::catalogue;
use crate::propose::Shared;

/// One kind of duration.
#[derive(Debug, Default)]
struct Durations {
    recent: Distribution,
    longest: LongestOfDay,
}

impl Durations {
    fn record(&mut self, now_us: u64, value_us: u64) {
        self.recent.record(now_us, value_us);
        self.longest.record(now_us, value_us);
    }
}

/// The leader's signs of life.
#[derive(Debug, Default)]
struct Heartbeats {
    gaps: Distribution,
    /// From whom the last one came, and when.
    last: Option<(u64, u64)>,
}

/// Who leads, as this member knows it.
#[derive(Debug, Default)]
struct Reign {
    leader: Option<u64>,
    is_leader: bool,
    /// The last sign of the leader that was lost and not yet followed by another.
    last_sign_us: Option<u64>,
}

/// How long nobody led.
#[derive(Debug)]
struct Leaderless {
    total_us: u64,
    since_us: Option<u64>,
}

/// Writes are of the last one to two of these: short enough to show what a new plan does to them.
const WRITES_WINDOW_US: u64 = 30_000_000;

/// What one member observes of itself.
#[derive(Debug)]
pub(crate) struct Vitals {
    writes: Mutex<Distribution>,
    loop_stalls: Mutex<Durations>,
    syncs: Mutex<Durations>,
    heartbeats: Mutex<Heartbeats>,
    leaderless: Mutex<Leaderless>,
    reign: Mutex<Reign>,
    hints: Mutex<HintStatus>,
    stall_seconds: Histogram,
    gap_seconds: Histogram,
    failover_seconds: Histogram,
}

/// The numbers, as of one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct VitalSigns {
    pub(crate) loop_stalls: Percentiles,
    pub(crate) loop_stall_max_us: u64,
    pub(crate) syncs: Percentiles,
    pub(crate) sync_max_us: u64,
    pub(crate) heartbeat_gaps: Percentiles,
    pub(crate) writes: Percentiles,
    pub(crate) writes_per_second: u64,
}

impl Default for Vitals {
    fn default() -> Self {
        Vitals {
            writes: Mutex::new(Distribution::over(WRITES_WINDOW_US)),
            loop_stalls: Mutex::default(),
            syncs: Mutex::default(),
            heartbeats: Mutex::default(),
            // Nobody leads when a member begins.
            leaderless: Mutex::new(Leaderless { total_us: 0, since_us: Some(0) }),
            reign: Mutex::default(),
            hints: Mutex::default(),
            stall_seconds: catalogue::histogram("metastore_raft_loop_stall_seconds"),
            gap_seconds: catalogue::histogram("metastore_heartbeat_gap_seconds"),
            failover_seconds: catalogue::histogram("metastore_failover_duration_seconds"),
        }
    }
}

impl Vitals {
    /// The loop comes round, so much later than it meant to.
    pub(crate) fn note_pass(&self, now_us: u64, late_us: u64) {
        lock(&self.loop_stalls).record(now_us, late_us);
        self.stall_seconds.observe(seconds(late_us));
    }

    /// A sync of the log took so long.
    pub(crate) fn note_sync(&self, now_us: u64, took_us: u64) {
        lock(&self.syncs).record(now_us, took_us);
    }

    /// A write that was asked for here was answered after so long. One that meets another at the door
    /// is passed over: among thousands it is not missed.
    pub(crate) fn note_write(&self, now_us: u64, took_us: u64) {
        if let Ok(mut writes) = self.writes.try_lock() {
            writes.record(now_us, took_us);
        }
    }

    /// The leader was heard.
    pub(crate) fn note_leader_heard(&self, now_us: u64, leader: u64) {
        let mut heartbeats = lock(&self.heartbeats);
        if let Some((from, before_us)) = heartbeats.last.replace((leader, now_us))
            && from == leader
        {
            let gap_us = now_us.saturating_sub(before_us);
            heartbeats.gaps.record(now_us, gap_us);
            drop(heartbeats);
            self.gap_seconds.observe(seconds(gap_us));
        }
    }

    /// Who leads has changed. Gaps do not reach over that, and a leader hears none.
    pub(crate) fn note_leadership(&self, now_us: u64, leader: Option<u64>, is_leader: bool) {
        let mut heartbeats = lock(&self.heartbeats);
        let last = heartbeats.last.take();
        self.note_reign(now_us, leader, is_leader, last);
        if is_leader {
            heartbeats.gaps = Distribution::new();
        }
        drop(heartbeats);
        let mut leaderless = lock(&self.leaderless);
        match (leader, leaderless.since_us) {
            (None, None) => leaderless.since_us = Some(now_us),
            (Some(_), Some(since_us)) => {
                leaderless.total_us += now_us.saturating_sub(since_us);
                leaderless.since_us = None;
            }
            _ => {}
        }
    }

    /// A leader that was lost is missed since it was last heard; the own leadership since it ended.
    fn note_reign(
        &self,
        now_us: u64,
        leader: Option<u64>,
        is_leader: bool,
        last: Option<(u64, u64)>,
    ) {
        let mut reign = lock(&self.reign);
        if let Some(lost) = reign.leader.filter(|_| leader != reign.leader) {
            let heard = last.filter(|(from, _)| *from == lost && !reign.is_leader);
            reign.last_sign_us = Some(heard.map_or(now_us, |(_, at_us)| at_us));
        }
        let found = if leader.is_some() { reign.last_sign_us.take() } else { None };
        reign.leader = leader;
        reign.is_leader = is_leader;
        drop(reign);
        if let Some(since_us) = found {
            self.failover_seconds.observe(seconds(now_us.saturating_sub(since_us)));
        }
    }

    /// What the member says of crash hints. Returns whether they were switched off since.
    pub(crate) fn note_hints(&self, now: HintStatus) -> bool {
        let before = std::mem::replace(&mut *lock(&self.hints), now);
        now.silenced > before.silenced
    }

    pub(crate) fn hints(&self) -> HintStatus {
        *lock(&self.hints)
    }

    pub(crate) fn signs(&self, now_us: u64) -> VitalSigns {
        let mut told = VitalSigns::default();
        {
            let mut stalls = lock(&self.loop_stalls);
            told.loop_stalls = stalls.recent.percentiles(now_us);
            told.loop_stall_max_us = stalls.longest.longest_us(now_us);
        }
        {
            let mut syncs = lock(&self.syncs);
            told.syncs = syncs.recent.percentiles(now_us);
            told.sync_max_us = syncs.longest.longest_us(now_us);
        }
        told.heartbeat_gaps = lock(&self.heartbeats).gaps.percentiles(now_us);
        let mut writes = lock(&self.writes);
        told.writes = writes.percentiles(now_us);
        let span_us = writes.span_us(now_us).max(1);
        told.writes_per_second = told.writes.samples.saturating_mul(1_000_000) / span_us;
        told
    }

    fn leaderless_us(&self, now_us: u64) -> u64 {
        let leaderless = lock(&self.leaderless);
        let running = leaderless.since_us.map_or(0, |since_us| now_us.saturating_sub(since_us));
        leaderless.total_us + running
    }
}

/// As the admin API says it.
pub(crate) fn distribution(of: Percentiles) -> admin::Distribution {
    let Percentiles { samples, p50_us, p99_us, p999_us, p9999_us, max_us } = of;
    admin::Distribution { samples, p50_us, p99_us, p999_us, p9999_us, max_us }
}

/// As the admin API says it.
pub(crate) fn election_stats(
    status: &consensus::Status,
    hints: &HintStatus,
) -> admin::ElectionStats {
    admin::ElectionStats {
        pre_campaigns: status.pre_campaigns,
        begun: status.elections_stood.total(),
        won: status.elections_won,
        quorum_losses: status.quorum_losses,
        false_elections: hints.false_elections,
    }
}

/// Reads the numbers at each scrape.
struct VitalsCollector {
    shared: Arc<Shared>,
    descriptions: Vec<Desc>,
}

/// What a registry of metrics takes.
pub(crate) fn collector(shared: &Arc<Shared>) -> Box<dyn Collector> {
    let collector = VitalsCollector { shared: Arc::clone(shared), descriptions: Vec::new() };
    let descriptions = collector.parts().iter().flat_map(|part| part.desc()).cloned().collect();
    Box::new(VitalsCollector { descriptions, ..collector })
}

impl VitalsCollector {
    fn parts(&self) -> Vec<Box<dyn Collector>> {
        let now_us = self.shared.now_us();
        let vitals = &self.shared.vitals;
        let elections = catalogue::counters("metastore_elections_total");
        let pre_campaigns = catalogue::counter("metastore_precampaigns_total");
        let durable_told = catalogue::counter("metastore_raft_durable_told_total");
        let early_commits = catalogue::counter("metastore_raft_early_commits_total");
        let leaderless = catalogue::float_counter("metastore_leaderless_seconds_total");
        let slack = catalogue::float_gauge("metastore_heartbeat_slack_ratio");
        leaderless.inc_by(seconds(vitals.leaderless_us(now_us)));
        let stood = self.shared.replica.load().as_ref().map(|status| {
            pre_campaigns.inc_by(status.pre_campaigns);
            durable_told.inc_by(status.durable_told);
            early_commits.inc_by(status.committed_early);
            let gap_us = vitals.signs(now_us).heartbeat_gaps.p999_us;
            slack.set(gap_us as f64 / status.effective_timing.election_timeout_us as f64);
            status.elections_stood
        });
        let stood = stood.unwrap_or_default();
        for (cause, count) in [
            ("planned", stood.planned),
            ("timeout", stood.timeout),
            ("transfer", stood.transfer),
            ("hint", stood.hint),
        ] {
            elections.with_label_values(&[cause]).inc_by(count);
        }
        let hints = vitals.hints();
        let taken = catalogue::counters("metastore_crash_hints_total");
        taken.with_label_values(&["followed"]).inc_by(hints.taken);
        taken.with_label_values(&["false"]).inc_by(hints.false_hints);
        let silenced = catalogue::gauge("metastore_crash_hints_off");
        silenced.set(i64::from(hints.silenced_until_us > now_us));
        let false_elections = catalogue::counter("metastore_false_elections_total");
        false_elections.inc_by(hints.false_elections);
        vec![
            Box::new(taken),
            Box::new(silenced),
            Box::new(false_elections),
            Box::new(elections),
            Box::new(pre_campaigns),
            Box::new(durable_told),
            Box::new(early_commits),
            Box::new(leaderless),
            Box::new(slack),
            Box::new(vitals.stall_seconds.clone()),
            Box::new(vitals.gap_seconds.clone()),
            Box::new(vitals.failover_seconds.clone()),
        ]
    }
}

impl Collector for VitalsCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.parts().iter().flat_map(|part| part.collect()).collect()
    }
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_of_the_last_minute_are_counted_by_the_second_and_older_ones_forgotten() {
        const S: u64 = 1_000_000;
        let vitals = Vitals::default();
        for at_s in 0..60 {
            for _ in 0..50 {
                vitals.note_write(at_s * S, if at_s < 30 { 900_000 } else { 4_000 });
            }
        }
        let signs = vitals.signs(59 * S);
        assert_eq!((signs.writes.samples, signs.writes_per_second), (3_000, 50));
        assert!(signs.writes.p99_us >= 900_000);
        let signs = vitals.signs(60 * S);
        assert_eq!((signs.writes.samples, signs.writes_per_second), (1_500, 50));
        assert!(signs.writes.p99_us < 5_000);
    }

    #[test]
    fn gaps_are_between_signs_of_one_leader() {
        let vitals = Vitals::default();
        vitals.note_leader_heard(0, 1);
        vitals.note_leader_heard(100, 1);
        vitals.note_leader_heard(900, 2);
        vitals.note_leader_heard(950, 2);
        let gaps = vitals.signs(1_000).heartbeat_gaps;
        assert_eq!((gaps.samples, gaps.max_us), (2, 100));
        vitals.note_leadership(1_000, Some(2), false);
        vitals.note_leader_heard(5_000, 2);
        assert_eq!(vitals.signs(5_000).heartbeat_gaps.samples, 2);
    }

    #[test]
    fn a_failover_lasts_from_the_last_sign_until_a_leader_is_known() {
        let vitals = Vitals::default();
        let seen = || {
            let histogram = &vitals.failover_seconds;
            (histogram.get_sample_count(), histogram.get_sample_sum())
        };
        vitals.note_leadership(1_000_000, Some(2), false);
        assert_eq!(seen(), (0, 0.0), "the first leader follows nobody");
        vitals.note_leader_heard(2_000_000, 2);
        vitals.note_leadership(3_000_000, None, false);
        vitals.note_leadership(3_250_000, Some(3), false);
        assert_eq!(seen(), (1, 1.25));
        // The new one handed over before it was ever heard.
        vitals.note_leadership(4_000_000, Some(1), true);
        assert_eq!(seen(), (2, 1.25));
        vitals.note_leadership(5_000_000, None, false);
        vitals.note_leadership(5_500_000, Some(1), true);
        assert_eq!(seen(), (3, 1.75));
    }

    #[test]
    fn a_leader_has_no_gaps() {
        let vitals = Vitals::default();
        vitals.note_leader_heard(0, 1);
        vitals.note_leader_heard(100, 1);
        vitals.note_leadership(200, Some(3), true);
        assert_eq!(vitals.signs(200).heartbeat_gaps, Percentiles::default());
    }

    #[test]
    fn time_without_a_leader_adds_up_and_counts_while_it_lasts() {
        let vitals = Vitals::default();
        assert_eq!(vitals.leaderless_us(50), 50);
        vitals.note_leadership(100, Some(1), false);
        vitals.note_leadership(300, Some(2), false);
        assert_eq!(vitals.leaderless_us(1_000), 100);
        vitals.note_leadership(2_000, None, false);
        vitals.note_leadership(2_500, None, false);
        assert_eq!(vitals.leaderless_us(3_000), 1_100);
    }

    #[test]
    fn the_longest_stays_when_percentiles_have_forgotten_it() {
        let vitals = Vitals::default();
        vitals.note_pass(0, 400_000);
        vitals.note_sync(0, 700_000);
        let signs = vitals.signs(2 * autotune::WINDOW_US);
        assert_eq!(signs.loop_stalls.samples, 0);
        assert_eq!((signs.loop_stall_max_us, signs.sync_max_us), (400_000, 700_000));
    }
}
