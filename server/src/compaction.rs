//! History thrown away by itself, as etcd does it: what is older than a period, or more than so many
//! revisions back.
//!
//! Every member remembers revisions as time goes by, and the leader alone acts on them, so that a new
//! leader need not wait a whole period. What is due is decided by [`Periodic`] and [`Revisions`], which
//! know no clock; [`run`] looks at the clock and proposes.

use std::collections::VecDeque;
use std::time::Duration;

use proto::etcdserverpb::CompactionRequest;
use proto::log::command::Op;
use state::StateError;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::AutoCompaction;
use crate::door::{Door, RequestError};
use crate::shutdown::stopped;

/// Periods longer than this are worked off in steps of this.
const PERIODIC_INTERVAL_MAX: Duration = Duration::from_secs(3600);
/// A period is looked at so many times.
const LOOKS_PER_INTERVAL: u32 = 10;
/// How often revisions are counted.
const REVISIONS_INTERVAL: Duration = Duration::from_secs(300);

/// Compacts what is older than a period.
#[derive(Debug)]
struct Periodic {
    period: Duration,
    /// Revisions at the last looks, oldest first.
    seen: VecDeque<i64>,
    /// When the last compaction succeeded, or the member started.
    last_success: Duration,
    /// Nothing is compacted sooner than this after it: first a whole period, then an interval.
    pause: Duration,
    last_revision: i64,
}

impl Periodic {
    fn new(period: Duration) -> Self {
        Self {
            period,
            seen: VecDeque::new(),
            last_success: Duration::ZERO,
            pause: period,
            last_revision: 0,
        }
    }

    fn interval(&self) -> Duration {
        self.period.min(PERIODIC_INTERVAL_MAX)
    }

    /// Time between two looks.
    fn look_interval(&self) -> Duration {
        self.interval() / LOOKS_PER_INTERVAL
    }

    /// Looks that make a period.
    fn looks_kept(&self) -> usize {
        let looks = self.period.as_nanos() / self.look_interval().as_nanos().max(1);
        usize::try_from(looks).unwrap_or(usize::MAX).saturating_add(1)
    }

    /// The revision to compact now, if it is time; `now` since the member started.
    fn look(&mut self, now: Duration, revision: i64, is_leader: bool) -> Option<i64> {
        self.seen.push_back(revision);
        while self.seen.len() > self.looks_kept() {
            self.seen.pop_front();
        }
        if !is_leader || now.saturating_sub(self.last_success) < self.pause {
            return None;
        }
        self.pause = self.interval();
        let oldest = *self.seen.front()?;
        (oldest != self.last_revision).then_some(oldest)
    }

    fn succeeded(&mut self, now: Duration, revision: i64) {
        self.last_success = now;
        self.last_revision = revision;
    }
}

/// Compacts what is more than so many revisions back.
#[derive(Debug)]
struct Revisions {
    retention: i64,
    last_revision: i64,
}

impl Revisions {
    fn look(&self, revision: i64, is_leader: bool) -> Option<i64> {
        let due = revision - self.retention;
        (is_leader && due > 0 && due != self.last_revision).then_some(due)
    }
}

#[derive(Debug)]
enum Policy {
    Periodic(Periodic),
    Revisions(Revisions),
}

impl Policy {
    fn of(setting: AutoCompaction) -> Option<Self> {
        match setting {
            AutoCompaction::Off => None,
            AutoCompaction::Periodic(period) => Some(Self::Periodic(Periodic::new(period))),
            AutoCompaction::Revision(retention) => {
                Some(Self::Revisions(Revisions { retention, last_revision: 0 }))
            }
        }
    }

    fn look_interval(&self) -> Duration {
        match self {
            // A period of nanoseconds must not become a loop without pause.
            Self::Periodic(periodic) => periodic.look_interval().max(Duration::from_millis(1)),
            Self::Revisions(_) => REVISIONS_INTERVAL,
        }
    }

    fn look(&mut self, now: Duration, revision: i64, is_leader: bool) -> Option<i64> {
        match self {
            Self::Periodic(periodic) => periodic.look(now, revision, is_leader),
            Self::Revisions(revisions) => revisions.look(revision, is_leader),
        }
    }

    fn succeeded(&mut self, now: Duration, revision: i64) {
        match self {
            Self::Periodic(periodic) => periodic.succeeded(now, revision),
            Self::Revisions(revisions) => revisions.last_revision = revision,
        }
    }
}

/// Compacts by itself until the member stops.
pub(crate) async fn run<D: Door>(
    door: D,
    setting: AutoCompaction,
    mut stopping: watch::Receiver<bool>,
) {
    let Some(mut policy) = Policy::of(setting) else { return };
    let started = Instant::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep(policy.look_interval()) => {}
            () = stopped(&mut stopping) => return,
        }
        let is_leader = door.leadership().leader == Some(door.identity().member_id);
        let Some(revision) = policy.look(started.elapsed(), door.view().revision(), is_leader)
        else {
            continue;
        };
        let request = CompactionRequest { revision, physical: false };
        match door.propose(Op::Compact(request)).await {
            // Somebody else has done it.
            Ok(_) | Err(RequestError::State(StateError::Compacted)) => {
                policy.succeeded(started.elapsed(), revision);
                tracing::info!(revision, "completed auto compaction");
            }
            Err(error) => tracing::warn!(revision, %error, "failed auto compaction"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// Looks once per interval with revisions that grow by one a look; answers what was compacted
    /// when, in looks.
    fn compactions(period: Duration, looks: u32, leads: impl Fn(u32) -> bool) -> Vec<(u32, i64)> {
        let mut periodic = Periodic::new(period);
        let mut done = Vec::new();
        for look in 1..=looks {
            let now = periodic.look_interval() * look;
            if let Some(revision) = periodic.look(now, i64::from(look), leads(look)) {
                periodic.succeeded(now, revision);
                done.push((look, revision));
            }
        }
        done
    }

    #[test]
    fn a_short_period_is_kept_whole_and_compacted_once_a_period() {
        // Ten looks make five minutes; the first look that is a period old is the first one.
        let done = compactions(5 * MINUTE, 35, |_| true);
        assert_eq!(done, [(10, 1), (20, 10), (30, 20)]);
    }

    #[test]
    fn a_long_period_is_compacted_every_hour_after_the_first() {
        // Looks are six minutes apart, ten to the hour; the period is three hours.
        let done = compactions(180 * MINUTE, 55, |_| true);
        assert_eq!(done, [(30, 1), (40, 10), (50, 20)]);
    }

    #[test]
    fn followers_remember_and_new_leaders_act_at_once() {
        let done = compactions(5 * MINUTE, 25, |look| look >= 23);
        assert_eq!(done, [(23, 13)]);
    }

    #[test]
    fn a_failure_is_tried_again_at_the_next_look_and_an_idle_store_is_left_alone() {
        let mut periodic = Periodic::new(5 * MINUTE);
        let look = periodic.look_interval();
        for n in 1..10 {
            assert_eq!(periodic.look(look * n, 7, true), None);
        }
        assert_eq!(periodic.look(look * 10, 7, true), Some(7));
        assert_eq!(periodic.look(look * 11, 7, true), Some(7), "it failed");
        periodic.succeeded(look * 11, 7);
        for n in 12..40 {
            assert_eq!(periodic.look(look * n, 7, true), None, "nothing new");
        }
    }

    #[test]
    fn revisions_are_kept_by_number() {
        let mut revisions = Revisions { retention: 100, last_revision: 0 };
        assert_eq!(revisions.look(100, true), None);
        assert_eq!(revisions.look(101, true), Some(1));
        assert_eq!(revisions.look(150, false), None);
        assert_eq!(revisions.look(150, true), Some(50));
        revisions.last_revision = 50;
        assert_eq!(revisions.look(150, true), None);
        assert_eq!(revisions.look(151, true), Some(51));
    }
}
