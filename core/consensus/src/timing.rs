//! The scaled clock: heartbeats and election timeouts that can change while raft runs.
//!
//! raft-rs counts ticks and fixes its timeouts in ticks when it is made. So its configuration stays
//! constant, 50 ticks to an election timeout, and the length of a tick is what changes. A new
//! timeout in the midst of a wait keeps the elapsed share of it: the wait is a mixture of the old
//! and the new one and never ends at once. Heartbeats are sent by this clock, not by ticks.
//!
//! Guards against a clock that lies:
//!
//! * A follower that did not run for a while has not heard silence, it was deaf: one late pass
//!   counts at most [`FOLLOWER_TICKS_MAX`] ticks. When pass after pass is late, load makes them
//!   slow and the time did pass, so from the third on it counts in full; a dead leader is noticed
//!   under load too.
//! * A member that stands still every now and then hears heartbeats late and would be a bad leader: each
//!   stall lengthens its own waits, never the time for which it refuses others its vote, up to
//!   [`PATIENCE_MAX`] times. It wears off by a tenth a minute. Others stand in the meantime. So this
//!   holds only for who has not stood itself, and while no election is known to be lost: where all
//!   are busy nobody stands in the meantime, and widened waits must not be lengthened once more.
//! * A leader never counts more than one election timeout per pass: its check for a quorum would
//!   run twice without a chance for anyone to answer, and a healthy leader would step down.
//! * When the round trip has grown beyond the election timeout, no candidate ever hears its voters
//!   in time, no leader lasts, and no plan with a longer timeout can be committed. A member that
//!   loses [`LOSSES_MAX`] elections in a row although voters did answer, or steps down as leader
//!   although followers did, lengthens its own timeout, doubling up to [`WIDENED_US_MAX`], until a
//!   leader commits. Who sees how long an answer took does not wait for losses: its timeout
//!   becomes [`ROUND_TRIPS_MIN`] times that at least. Already the question whether an election could be
//!   won tells it, before there is a candidacy to lose, for answers say when their questions were sent.
//!   Silence does not count: alone in a partition nothing is learnt about the round trip, and long
//!   timeouts would only delay the recovery.
//! * Once a leader commits, the timeout is again as it was set, which may still be shorter than the
//!   round trip. Then answers come as evenly as heartbeats leave, until the network or a busy machine
//!   holds some of them back, and a leader that looks for a quorum within one such timeout finds none.
//!   So a leader waits for as long as its heartbeats' answers take of late, times [`ROUND_TRIPS_MIN`];
//!   until one has come, for as long as its first commit took. For how long followers refuse their
//!   votes, and with it every lease, stays as it was set.

use autotune::Timing;

use crate::config::{ELECTION_TICKS, ELECTION_TICKS_MAX, ELECTION_TICKS_MIN, PATIENCE_MAX};

/// Ticks one late pass of a follower or candidate may count.
pub(crate) const FOLLOWER_TICKS_MAX: u64 = 5;
/// Late passes in a row from which time counts in full.
pub(crate) const LATE_PASSES_MAX: u32 = 3;
/// Elections lost in a row after which the timeout is lengthened.
pub(crate) const LOSSES_MAX: u32 = 3;
/// A lengthened timeout is at least this long.
pub(crate) const WIDENED_US_MIN: u64 = 1_000_000;
/// And at most this long, unless the timeout set is longer.
pub(crate) const WIDENED_US_MAX: u64 = 10_000_000;
/// Round trips a timeout must hold for elections to be won: votes, and the first commit.
const ROUND_TRIPS_MIN: u64 = 2;
/// What a stall adds to the patience of a member, in hundredths of a usual wait.
const STALL_PATIENCE: u64 = 50;
/// How often a tenth of what has been added wears off.
const PATIENCE_WEARS_US: u64 = 60_000_000;
/// The clock asks to be called every so many ticks, below the clamp.
const TICKS_PER_CALL: u64 = 4;

/// The clock of one replica.
#[derive(Debug)]
pub(crate) struct ScaledClock {
    timing: Timing,
    last_us: u64,
    /// Time not yet counted as ticks, times [`ELECTION_TICKS`]: a tick is due per election timeout.
    remainder: u64,
    late_passes: u32,
    /// The length of a tick has changed since the last call: it may be late without standing still.
    changed: bool,
    next_heartbeat_us: u64,
    /// Elections lost in a row with answers and without a commit.
    losses: u32,
    /// How long heartbeats wait for a quorum's answers; 0: this member does not lead.
    answers_us: u64,
    /// What stalls have added to the own waits, in hundredths.
    patience: u64,
    patience_wears_us: u64,
}

impl ScaledClock {
    pub(crate) fn new(timing: Timing, now_us: u64) -> ScaledClock {
        ScaledClock {
            timing,
            last_us: now_us,
            remainder: 0,
            late_passes: 0,
            // Nor is the first one.
            changed: true,
            next_heartbeat_us: now_us,
            losses: 0,
            answers_us: 0,
            patience: 0,
            patience_wears_us: now_us,
        }
    }

    /// The timing that was set.
    pub(crate) fn timing(&self) -> Timing {
        self.timing
    }

    /// The timing in force: as set, or lengthened.
    pub(crate) fn effective(&self) -> Timing {
        Timing { election_timeout_us: self.election_timeout_us(), ..self.timing }
    }

    pub(crate) fn election_timeout_us(&self) -> u64 {
        let losses = self.widened_us(self.losses / LOSSES_MAX);
        losses.max(self.bearing_us(self.answers_us))
    }

    /// The timeout after so many lengthenings.
    fn widened_us(&self, rounds: u32) -> u64 {
        let set_us = self.timing.election_timeout_us;
        if rounds == 0 {
            return set_us;
        }
        let base_us = set_us.max(WIDENED_US_MIN);
        let widened_us = base_us.saturating_mul(1_u64 << (rounds - 1).min(16));
        widened_us.min(WIDENED_US_MAX.max(set_us))
    }

    /// The shortest timeout in which answers that take so long can be waited for.
    fn bearing_us(&self, answer_us: u64) -> u64 {
        let wanted_us = answer_us.saturating_mul(ROUND_TRIPS_MIN).min(WIDENED_US_MAX);
        let mut rounds = 0;
        while self.widened_us(rounds) < wanted_us {
            rounds += 1;
        }
        self.widened_us(rounds)
    }

    pub(crate) fn set_timing(&mut self, timing: Timing, now_us: u64) {
        self.rescale(|clock| clock.timing = timing);
        // A shorter interval must not wait for the longer one to end.
        self.next_heartbeat_us =
            self.next_heartbeat_us.min(now_us.saturating_add(timing.heartbeat_interval_us));
    }

    /// An election was lost although voters answered, or a leader had to step down although
    /// followers did.
    pub(crate) fn lost(&mut self) {
        self.rescale(|clock| clock.losses = clock.losses.saturating_add(1));
    }

    /// The answer of a voter took so long.
    pub(crate) fn answered_after(&mut self, round_trip_us: u64) {
        let wanted_us = round_trip_us.saturating_mul(ROUND_TRIPS_MIN).min(WIDENED_US_MAX);
        while self.election_timeout_us() < wanted_us {
            let rounds = self.losses / LOSSES_MAX + 1;
            self.rescale(|clock| clock.losses = rounds * LOSSES_MAX);
        }
    }

    /// The leader's heartbeats wait so long for a quorum's answers; 0: this member does not lead.
    pub(crate) fn led_with_answers_after(&mut self, answers_us: u64) {
        if self.bearing_us(answers_us) == self.bearing_us(self.answers_us) {
            self.answers_us = answers_us;
        } else {
            self.rescale(|clock| clock.answers_us = answers_us);
        }
    }

    /// A leader commits: timeouts are long enough.
    pub(crate) fn committed(&mut self) {
        if self.losses > 0 {
            self.rescale(|clock| clock.losses = 0);
        }
    }

    /// Changes the length of a tick and keeps the share of it that has passed.
    fn rescale(&mut self, change: impl FnOnce(&mut ScaledClock)) {
        let old_us = self.election_timeout_us();
        change(self);
        let new_us = self.election_timeout_us();
        let remainder = u128::from(self.remainder) * u128::from(new_us) / u128::from(old_us);
        self.remainder = u64::try_from(remainder).unwrap_or(0).min(new_us - 1);
        self.changed = true;
    }

    /// Counts the time since the last call, in ticks.
    pub(crate) fn advance(&mut self, now_us: u64, leader: bool) -> u64 {
        let election_us = self.election_timeout_us();
        let dt_us = now_us.saturating_sub(self.last_us).min(4 * election_us);
        self.last_us = self.last_us.max(now_us);
        self.wear_off(now_us);
        let changed = std::mem::take(&mut self.changed);
        let total = self.remainder + dt_us * ELECTION_TICKS;
        let ticks = total / election_us;
        self.remainder = total % election_us;
        if leader {
            self.late_passes = 0;
            return ticks.min(ELECTION_TICKS);
        }
        if ticks <= FOLLOWER_TICKS_MAX {
            self.late_passes = 0;
            return ticks;
        }
        self.late_passes = self.late_passes.saturating_add(1);
        if self.late_passes == 1 && !changed {
            self.patience = (self.patience + STALL_PATIENCE).min((PATIENCE_MAX - 1) * 100);
        }
        let most = if self.late_passes >= LATE_PASSES_MAX {
            ELECTION_TICKS_MIN
        } else {
            FOLLOWER_TICKS_MAX
        };
        ticks.min(most)
    }

    fn wear_off(&mut self, now_us: u64) {
        if self.patience == 0 {
            self.patience_wears_us = now_us.saturating_add(PATIENCE_WEARS_US);
        } else if now_us >= self.patience_wears_us {
            self.patience = self.patience * 9 / 10;
            self.patience_wears_us = now_us.saturating_add(PATIENCE_WEARS_US);
        }
    }

    /// The wait of this member, which has not stood yet, where a usual one has so many ticks.
    pub(crate) fn patient(&self, ticks: usize) -> usize {
        if self.losses > 0 {
            return ticks;
        }
        let longest = (ELECTION_TICKS_MAX * PATIENCE_MAX - 1) as usize;
        (ticks * (100 + self.patience) as usize / 100).min(longest)
    }

    /// A leader's first heartbeat follows its first append by one interval.
    pub(crate) fn became_leader(&mut self, now_us: u64) {
        self.next_heartbeat_us = now_us.saturating_add(self.timing.heartbeat_interval_us);
    }

    /// Whether a leader's heartbeat is due; if so, the next one is set.
    pub(crate) fn heartbeat_due(&mut self, now_us: u64) -> bool {
        if now_us < self.next_heartbeat_us {
            return false;
        }
        let interval_us = self.timing.heartbeat_interval_us;
        self.next_heartbeat_us = self.next_heartbeat_us.saturating_add(interval_us);
        if self.next_heartbeat_us <= now_us {
            // Heartbeats missed are not made up for.
            self.next_heartbeat_us = now_us.saturating_add(interval_us);
        }
        true
    }

    /// When the clock wants to be called at the latest.
    pub(crate) fn deadline_us(&self, leader: bool) -> u64 {
        let wanted = (TICKS_PER_CALL * self.election_timeout_us()).saturating_sub(self.remainder);
        let ticks_us = self.last_us.saturating_add(wanted.div_ceil(ELECTION_TICKS));
        if leader { ticks_us.min(self.next_heartbeat_us) } else { ticks_us }
    }
}

/// How many ticks this wait lasts. A pure function of who waits and for which attempt, so that a
/// run can be repeated; raft's own draw comes from the thread's random numbers and is overwritten.
pub(crate) fn election_ticks(seed: u64, id: u64, term: u64, campaigns: u64) -> usize {
    let mut hash = seed;
    for part in [id, term, campaigns] {
        hash = mix(hash ^ part.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }
    let span = ELECTION_TICKS_MAX - ELECTION_TICKS_MIN;
    (ELECTION_TICKS_MIN + hash % span) as usize
}

/// The finaliser of splitmix64: every bit in depends on every bit out.
pub(crate) fn mix(value: u64) -> u64 {
    let mut value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1 s election timeout: a tick is 20 ms.
    fn clock() -> ScaledClock {
        ScaledClock::new(Timing::default(), 0)
    }

    #[test]
    fn an_election_timeout_is_fifty_ticks_whatever_its_length() {
        for election_timeout_us in [5_000, 333_333, 1_000_000, 50_000_000] {
            let timing = Timing { heartbeat_interval_us: 1_000, election_timeout_us };
            let mut clock = ScaledClock::new(timing, 0);
            let step_us = election_timeout_us / 40;
            let ticks: u64 = (1..=40).map(|n| clock.advance(n * step_us, false)).sum();
            let rest = clock.advance(election_timeout_us, false);
            assert_eq!(ticks + rest, ELECTION_TICKS, "{election_timeout_us}");
        }
    }

    #[test]
    fn a_follower_that_did_not_run_has_not_heard_silence() {
        let mut clock = clock();
        assert_eq!(clock.advance(900_000, false), FOLLOWER_TICKS_MAX);
        assert_eq!(clock.advance(920_000, false), 1);
    }

    #[test]
    fn time_counts_in_full_when_pass_after_pass_is_late() {
        let mut clock = clock();
        let ticks: Vec<_> = (1..=5).map(|n| clock.advance(n * 200_000, false)).collect();
        assert_eq!(ticks, [5, 5, 10, 10, 10]);
        assert_eq!(clock.advance(1_020_000, false), 1);
        assert_eq!(clock.advance(1_220_000, false), FOLLOWER_TICKS_MAX);
    }

    #[test]
    fn a_member_that_stands_still_waits_longer_before_it_stands_for_election_until_that_wears_off()
    {
        let mut clock = clock();
        assert_eq!((clock.patient(51), clock.patient(99)), (51, 99));
        let mut now_us = 0;
        clock.advance(now_us, false);
        let mut seen = Vec::new();
        for _ in 0..8 {
            now_us += 900_000;
            clock.advance(now_us, false);
            now_us += 20_000;
            clock.advance(now_us, false);
            seen.push(clock.patient(60));
        }
        assert_eq!(seen, [90, 120, 150, 180, 210, 240, 240, 240]);
        assert!(clock.patient(99) < (ELECTION_TICKS_MAX * PATIENCE_MAX) as usize);
        assert_eq!(
            clock.election_timeout_us(),
            1_000_000,
            "votes are refused no longer than before"
        );
        // An hour at 80 ms a pass.
        for _ in 0..45_000 {
            now_us += 80_000;
            clock.advance(now_us, false);
        }
        assert_eq!(clock.patient(60), 60);
    }

    #[test]
    fn a_leader_counts_at_most_one_election_timeout_per_pass() {
        let mut clock = clock();
        assert_eq!(clock.advance(3_000_000, true), ELECTION_TICKS);
        assert_eq!(clock.advance(u64::MAX, true), ELECTION_TICKS);
    }

    #[test]
    fn a_changed_timeout_keeps_the_elapsed_share_of_a_tick() {
        let mut clock = clock();
        assert_eq!(clock.advance(19_000, false), 0);
        let short = Timing { heartbeat_interval_us: 1_000, election_timeout_us: 100_000 };
        clock.set_timing(short, 19_000);
        assert_eq!(clock.advance(19_050, false), 0);
        assert_eq!(clock.advance(19_100, false), 1);
    }

    #[test]
    fn heartbeats_keep_their_rhythm_and_are_not_made_up_for() {
        let mut clock = clock();
        clock.became_leader(0);
        assert!(!clock.heartbeat_due(99_999));
        assert!(clock.heartbeat_due(103_000));
        assert!(!clock.heartbeat_due(199_999));
        assert!(clock.heartbeat_due(200_000));
        assert!(clock.heartbeat_due(900_000));
        assert!(!clock.heartbeat_due(999_999));
        assert!(clock.heartbeat_due(1_000_000));
    }

    #[test]
    fn a_shorter_heartbeat_interval_holds_from_now_on() {
        let mut clock = clock();
        clock.became_leader(0);
        let short = Timing { heartbeat_interval_us: 10_000, election_timeout_us: 1_000_000 };
        clock.set_timing(short, 5_000);
        assert_eq!(clock.deadline_us(true), 15_000);
    }

    #[test]
    fn three_losses_in_a_row_lengthen_the_timeout_until_a_commit() {
        let short = Timing { heartbeat_interval_us: 25_000, election_timeout_us: 315_000 };
        let mut clock = ScaledClock::new(short, 0);
        let mut seen = Vec::new();
        for _ in 0..18 {
            seen.push(clock.election_timeout_us());
            clock.lost();
        }
        assert_eq!(
            seen.iter().step_by(3).copied().collect::<Vec<_>>(),
            [315_000, 1_000_000, 2_000_000, 4_000_000, 8_000_000, 10_000_000]
        );
        assert_eq!(clock.effective().heartbeat_interval_us, 25_000);
        clock.committed();
        assert_eq!(clock.effective(), short);
    }

    #[test]
    fn an_answer_that_took_long_lengthens_the_timeout_at_once_to_two_round_trips() {
        let short = Timing { heartbeat_interval_us: 25_000, election_timeout_us: 315_000 };
        let after = |round_trip_us| {
            let mut clock = ScaledClock::new(short, 0);
            clock.answered_after(round_trip_us);
            clock.election_timeout_us()
        };
        let seen = [0, 157_000, 158_000, 500_000, 501_000, 1_500_000, 4_900_000, u64::MAX];
        let seen = seen.map(after);
        let ms = [315, 315, 1_000, 1_000, 2_000, 4_000, 10_000, 10_000];
        assert_eq!(seen.map(|us| us / 1_000), ms);
    }

    #[test]
    fn a_leader_waits_for_two_of_its_heartbeats_round_trips_and_nobody_else_does() {
        let short = Timing { heartbeat_interval_us: 25_000, election_timeout_us: 315_000 };
        let mut clock = ScaledClock::new(short, 0);
        let seen = [150_000, 400_000, 600_000, 9_000_000, 100_000].map(|answers_us| {
            clock.led_with_answers_after(answers_us);
            clock.committed();
            clock.election_timeout_us() / 1_000
        });
        assert_eq!(seen, [315, 1_000, 2_000, 10_000, 315]);
        clock.led_with_answers_after(400_000);
        clock.led_with_answers_after(0);
        assert_eq!(clock.effective(), short);
    }

    #[test]
    fn patience_ends_with_the_first_election_that_is_lost() {
        let mut clock = clock();
        clock.advance(0, false);
        clock.advance(900_000, false);
        assert_eq!(clock.patient(60), 90);
        clock.lost();
        assert_eq!(clock.patient(60), 60);
        clock.committed();
        assert_eq!(clock.patient(60), 90);
    }

    #[test]
    fn a_timeout_set_above_the_widest_is_not_shortened_by_losses() {
        let long = Timing { heartbeat_interval_us: 100_000, election_timeout_us: 20_000_000 };
        let mut clock = ScaledClock::new(long, 0);
        for _ in 0..100 {
            clock.lost();
        }
        assert_eq!(clock.effective(), long);
    }

    #[test]
    fn election_waits_fill_their_range_and_differ_by_who_and_when() {
        let mut seen = std::collections::BTreeSet::new();
        for term in 0..1_000 {
            let ticks = election_ticks(7, 1, term, 0) as u64;
            assert!((ELECTION_TICKS_MIN..ELECTION_TICKS_MAX).contains(&ticks));
            seen.insert(ticks);
        }
        assert_eq!(seen.len() as u64, ELECTION_TICKS_MAX - ELECTION_TICKS_MIN);
        let same = |a: (u64, u64, u64, u64), b: (u64, u64, u64, u64)| {
            (0..64).all(|n| {
                election_ticks(a.0, a.1, a.2 + n, a.3) == election_ticks(b.0, b.1, b.2 + n, b.3)
            })
        };
        assert!(same((1, 2, 3, 4), (1, 2, 3, 4)));
        assert!(!same((1, 2, 3, 4), (2, 2, 3, 4)));
        assert!(!same((1, 2, 3, 4), (1, 3, 3, 4)));
        assert!(!same((1, 2, 3, 4), (1, 2, 3, 5)));
    }
}
