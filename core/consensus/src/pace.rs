//! How long a batch gathers while the one before it is on its way.
//!
//! What a batch costs does not depend on its size: a message to each follower, a sync on every disk, a
//! dozen threads to wake. So what comes while this member's own disk takes the batch before gathers:
//! that disk could not begin with it sooner, and what is answered here waits for it in any case.
//!
//! Where the members have processor to spare, small batches are quick and nobody should wait for more
//! company than that. Where they have not, a batch takes longer to commit than distance and disks
//! account for, and fewer, larger ones carry more writes with the same processor.
//!
//! So the time from leaving to committed is measured. Its least value of late stands for distance and
//! disks, as in BBR (Cardwell et al., 2016); what is beyond it is queueing, and the next batch leaves no
//! sooner than a multiple of that after the last one. A quiet member, or one whose peers are merely far
//! away, never waits; nor does whoever comes alone, after one that was alone.
//!
//! Queueing may be other programs', and the callers few: then a batch that waits finds no company, and
//! waiting for it is given up for a while.

use std::collections::VecDeque;

use crate::lately::Lately;

/// The next batch leaves so many times the queueing delay after the last.
const QUEUEING_FACTOR: u64 = 3;
/// The weight of a new measurement is one to this.
const SMOOTHING: u64 = 8;
/// The least time to commit is taken from one to two such periods.
const PERIOD_US: u64 = 10_000_000;
/// Batches that leave at once after those that waited have found too little company.
const UNHELD_BATCHES: u32 = 64;
/// What one companion counts.
const COMPANION: u64 = 256;
/// Less than this is too little.
const COMPANY_MIN: u64 = COMPANION / 4;
/// Batches on their way that are timed; more are not.
const TIMED_MAX: usize = 64;

/// The time batches take to commit, and when the next one may leave.
#[derive(Debug)]
pub(crate) struct Pace {
    /// The last index of each batch under way, and when it left.
    under_way: VecDeque<(u64, u64)>,
    left_us: u64,
    /// Commands in the last batch.
    last_commands: usize,
    /// Smoothed time to commit; 0 before the first.
    commit_us: u64,
    /// The least time to commit.
    least_us: Lately,
    /// Smoothed number of commands beside the first in batches that waited, in [`COMPANION`]s.
    company: u64,
    /// So many batches are not made to wait for queueing.
    unheld: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            under_way: VecDeque::new(),
            left_us: 0,
            last_commands: 0,
            commit_us: 0,
            least_us: Lately::default(),
            company: COMPANION,
            unheld: 0,
        }
    }
}

/// What the next batch is, as far as it decides when it leaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Next {
    /// Commands in it so far.
    pub(crate) commands: usize,
    /// When it could have left.
    pub(crate) due_us: u64,
    /// This member's own disk has not yet taken what was handed out before.
    pub(crate) is_disk_busy: bool,
}

impl Pace {
    /// A batch leaves, with entries up to this index.
    pub(crate) fn left(&mut self, now_us: u64, next: Next, gather_us_max: u64, last_index: u64) {
        self.weigh_company(next, gather_us_max);
        self.left_us = now_us;
        self.last_commands = next.commands;
        if self.under_way.len() < TIMED_MAX {
            self.under_way.push_back((last_index, now_us));
        }
    }

    /// Whether it was worth while to wait.
    fn weigh_company(&mut self, next: Next, gather_us_max: u64) {
        if self.unheld > 0 {
            self.unheld -= 1;
            return;
        }
        if self.queue_free_us(next.commands, gather_us_max) <= next.due_us {
            return;
        }
        let found = COMPANION * (next.commands as u64).saturating_sub(1);
        self.company = (self.company * (SMOOTHING - 1) + found) / SMOOTHING;
        if self.company < COMPANY_MIN {
            // The next one that waits tells whether it is worth it again.
            (self.company, self.unheld) = (COMPANY_MIN, UNHELD_BATCHES);
        }
    }

    /// The log is committed up to this index.
    pub(crate) fn committed(&mut self, now_us: u64, index: u64) {
        while let Some(&(last_index, left_us)) = self.under_way.front()
            && last_index <= index
        {
            self.under_way.pop_front();
            self.measured(now_us, now_us.saturating_sub(left_us));
        }
    }

    fn measured(&mut self, now_us: u64, took_us: u64) {
        self.least_us.add(now_us, PERIOD_US, took_us, u64::min);
        self.commit_us = match self.commit_us {
            0 => took_us,
            before => (before * (SMOOTHING - 1) + took_us) / SMOOTHING,
        };
    }

    /// When the next batch may leave, at most so long after the last.
    pub(crate) fn next_us(&self, next: Next, gather_us_max: u64) -> u64 {
        let free_us = self.queue_free_us(next.commands, gather_us_max);
        let disk_us =
            if next.is_disk_busy { self.left_us.saturating_add(gather_us_max) } else { 0 };
        free_us.max(disk_us).max(next.due_us)
    }

    /// When queueing lets a batch of so many commands leave.
    fn queue_free_us(&self, commands: usize, gather_us_max: u64) -> u64 {
        let is_alone = self.under_way.is_empty() && self.last_commands.max(commands) <= 1;
        let Some(least_us) = self.least_us.get(u64::min).filter(|_| self.unheld == 0 && !is_alone)
        else {
            return 0;
        };
        let queueing_us = self.commit_us.saturating_sub(least_us);
        self.left_us.saturating_add((QUEUEING_FACTOR * queueing_us).min(gather_us_max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATHER_US_MAX: u64 = 10_000;

    /// So many commands that could have left when the last ones did, on a disk that is free.
    fn next(pace: &Pace, commands: usize) -> Next {
        Next { commands, due_us: pace.left_us, is_disk_busy: false }
    }

    fn leave(pace: &mut Pace, now_us: u64, commands: usize, last_index: u64) {
        pace.left(now_us, next(pace, commands), GATHER_US_MAX, last_index);
    }

    /// Batches one after the other that take so long to commit, and one more that is under way.
    fn after(took_us: impl IntoIterator<Item = u64>) -> (Pace, u64) {
        let (mut pace, mut now_us) = (Pace::default(), 1);
        for (index, took_us) in (1..).zip(took_us) {
            leave(&mut pace, now_us, 20, index);
            now_us += took_us;
            pace.committed(now_us, index);
        }
        leave(&mut pace, now_us, 20, 1_000_000);
        (pace, now_us)
    }

    fn gathers_us(took_us: impl IntoIterator<Item = u64>) -> u64 {
        let (pace, now_us) = after(took_us);
        pace.next_us(next(&pace, 20), GATHER_US_MAX) - now_us
    }

    #[test]
    fn before_the_first_measurement_nobody_waits() {
        assert_eq!(gathers_us([]), 0);
    }

    #[test]
    fn distance_alone_makes_nobody_wait() {
        assert_eq!(gathers_us([400; 50]), 0);
        assert_eq!(gathers_us([200_000; 50]), 0);
    }

    #[test]
    fn queueing_makes_the_next_batch_gather_for_a_multiple_of_it() {
        let busy = std::iter::once(500).chain([2_500; 100]);
        let gathers_us = gathers_us(busy);
        assert!((5_900..=6_000).contains(&gathers_us), "{gathers_us}");
    }

    #[test]
    fn gathering_has_an_end_and_can_be_turned_off() {
        let (pace, now_us) = after(std::iter::once(500).chain([1_000_000; 8]));
        for is_disk_busy in [false, true] {
            let next = Next { is_disk_busy, ..next(&pace, 20) };
            assert_eq!(pace.next_us(next, GATHER_US_MAX), now_us + GATHER_US_MAX);
            assert_eq!(pace.next_us(next, 0), now_us);
        }
    }

    #[test]
    fn a_network_that_has_become_slower_is_not_taken_for_queueing_for_ever() {
        let slower = std::iter::once(500).chain([2_500; (2 * PERIOD_US / 2_500) as usize + 2]);
        assert_eq!(gathers_us(slower), 0);
    }

    #[test]
    fn what_comes_while_the_disk_is_busy_gathers_until_it_is_free() {
        let (pace, now_us) = after([400; 50]);
        let busy = Next { is_disk_busy: true, ..next(&pace, 1) };
        assert_eq!(pace.next_us(busy, GATHER_US_MAX), now_us + GATHER_US_MAX);
        let free = Next { is_disk_busy: false, due_us: now_us + 70, ..busy };
        assert_eq!(pace.next_us(free, GATHER_US_MAX), now_us + 70);
    }

    #[test]
    fn who_comes_alone_after_one_that_was_alone_does_not_wait() {
        let (mut pace, now_us) = after(std::iter::once(500).chain([2_500; 100]));
        let waits = |pace: &Pace, commands| {
            pace.next_us(next(pace, commands), GATHER_US_MAX) > pace.left_us
        };
        assert!(waits(&pace, 1), "others are under way");
        pace.committed(now_us + 2_500, 1_000_000);
        assert!(waits(&pace, 1), "the last one was not alone");
        leave(&mut pace, now_us + 10_000, 1, 1_000_001);
        assert!(waits(&pace, 1), "the last one is under way");
        pace.committed(now_us + 12_500, 1_000_001);
        assert!(!waits(&pace, 1));
        assert!(waits(&pace, 2), "they came together");
    }

    /// Batches of so many commands each that come right after the last has left: which of them wait.
    fn waits(pace: &mut Pace, commands: usize, batches: usize) -> Vec<bool> {
        let batch = |_| {
            let due_us = pace.left_us;
            let next_us = pace.next_us(next(pace, commands), GATHER_US_MAX);
            leave(pace, next_us, commands, 1_000_000);
            next_us > due_us
        };
        (0..batches).map(batch).collect()
    }

    #[test]
    fn waiting_that_finds_no_company_is_given_up_and_tried_again_now_and_then() {
        let (mut pace, _) = after(std::iter::once(500).chain([2_500; 100]));
        let waits = waits(&mut pace, 1, 1_000);
        let tried = waits.iter().take_while(|waits| **waits).count();
        assert!((2..40).contains(&tried), "{waits:?}");
        let round = 1 + UNHELD_BATCHES as usize;
        let is_trial = |n: usize| (n + 1).is_multiple_of(round);
        let mut later = waits[tried..].iter().enumerate();
        assert!(later.all(|(n, waits)| *waits == is_trial(n)), "{waits:?}");
    }

    #[test]
    fn waiting_that_finds_company_goes_on() {
        let (mut pace, _) = after(std::iter::once(500).chain([2_500; 100]));
        assert_eq!(waits(&mut pace, 20, 50), [true; 50]);
        // Of few callers the last ones are still company.
        assert_eq!(waits(&mut pace, 2, 500), [true; 500]);
        // Nobody comes any more: it is found out within a few batches.
        let alone = waits(&mut pace, 1, 100);
        assert!((2..20).contains(&alone.iter().filter(|waits| **waits).count()), "{alone:?}");
    }

    #[test]
    fn no_more_batches_are_timed_than_there_is_room_for() {
        let mut pace = Pace::default();
        for index in 0..10 * TIMED_MAX as u64 {
            leave(&mut pace, index, 1, index);
        }
        assert_eq!(pace.under_way.len(), TIMED_MAX);
        pace.committed(1_000, u64::MAX);
        assert!(pace.under_way.is_empty());
    }
}
