//! One timer for all peers: it asks for the probes, and says when this member itself stood still.
//!
//! A round trip that was measured by a thread that ran late tells of the thread, not of the network.
//! How late the control thread runs is seen by the timer that is on it anyway. A sample is *marked*,
//! and left out of every distribution of round trips, if the thread was late while its probe was under
//! way; the peer says the same of itself in its echo.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::Core;

/// The control thread stood still if its timer is late by more than this.
const STALL: Duration = Duration::from_millis(10);

/// How steadily the control thread runs.
#[derive(Debug)]
pub(super) struct Pacer {
    interval_us: u64,
    /// When the timer last went off, on the transport's clock.
    beat_us: AtomicU64,
    /// When it was last found late.
    late_us: AtomicU64,
    worst_us: AtomicU64,
}

impl Pacer {
    pub(super) fn new(interval: Duration) -> Self {
        let interval_us = us(interval);
        Pacer {
            interval_us,
            beat_us: AtomicU64::new(0),
            late_us: AtomicU64::new(0),
            worst_us: AtomicU64::new(0),
        }
    }

    /// The timer goes off, `late` after its time.
    fn beat(&self, now_us: u64, late: Duration) {
        self.worst_us.fetch_max(us(late), Relaxed);
        if late > STALL {
            self.late_us.store(now_us, Relaxed);
        }
        self.beat_us.store(now_us, Relaxed);
    }

    /// Whether the thread stood still at some time since `since_us`. What was read in the very pass
    /// that ends a stall may have waited through it, and comes before or shortly after the timer.
    pub(super) fn stood_still(&self, since_us: u64, now_us: u64) -> bool {
        let beat_us = self.beat_us.load(Relaxed);
        let late_us = self.late_us.load(Relaxed);
        now_us.saturating_sub(beat_us) > self.interval_us + us(STALL)
            || (late_us > 0 && late_us.saturating_add(us(STALL)) >= since_us)
    }

    /// How late the timer was at worst since this was last asked.
    pub(super) fn take_worst_us(&self) -> u64 {
        self.worst_us.swap(0, Relaxed)
    }
}

/// Has a probe sent to every peer to which none rode on a message since the last time. Runs on the
/// control thread.
pub(super) async fn run(core: Arc<Core>) {
    let interval = core.config.limits.probe_interval;
    let mut due = tokio::time::Instant::now() + interval;
    loop {
        tokio::time::sleep_until(due).await;
        let late = due.elapsed();
        core.pacer.beat(core.us(Instant::now()), late);
        for link in core.links().values() {
            if !link.take_has_ridden() {
                link.ask();
            }
        }
        // What was missed is not made up for.
        due = if late < interval { due + interval } else { due + late + interval };
    }
}

fn us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000;

    fn pacer() -> Pacer {
        let pacer = Pacer::new(Duration::from_millis(25));
        pacer.beat(100 * MS, Duration::from_millis(1));
        pacer
    }

    #[test]
    fn a_thread_whose_timer_is_in_time_does_not_stand_still() {
        let pacer = pacer();
        assert!(!pacer.stood_still(90 * MS, 125 * MS));
        assert_eq!(pacer.take_worst_us(), MS);
        assert_eq!(pacer.take_worst_us(), 0);
    }

    #[test]
    fn a_stall_is_seen_before_the_timer_has_noticed_it() {
        assert!(pacer().stood_still(120 * MS, 136 * MS));
    }

    #[test]
    fn whatever_was_under_way_in_a_stall_is_marked_and_what_leaves_later_is_not() {
        let pacer = pacer();
        pacer.beat(200 * MS, Duration::from_millis(75));
        pacer.beat(225 * MS, Duration::ZERO);
        assert!(pacer.stood_still(199 * MS, 226 * MS));
        assert!(pacer.stood_still(210 * MS, 226 * MS));
        assert!(!pacer.stood_still(211 * MS, 226 * MS));
    }
}
