//! How much may be on its way to a follower.
//!
//! A pipe holds its rate times its round trip. Less in it and the follower idles; much more and what
//! comes next waits in a queue, the heartbeats of the same road among it. So the leader measures, with
//! every answer, the rate at which a follower takes what it is sent and the least time an answer takes,
//! as BBR does (Cardwell et al., 2016), and keeps twice the product on the way: with the pipe merely
//! half used the rate can rise to twice what was seen, and the window follows it. Messages are no longer
//! than the road carries in a few milliseconds, so that a heartbeat never waits long behind one.
//!
//! A road of which nothing is known yet, or whose answers have stayed out for many round trips, is taken
//! for one on which TCP begins anew, with a handful of segments a round trip (RFC 6928): a message of
//! many times that is there whole only after as many round trips, and answered only then. There a
//! message is no longer than all that has arrived since ([`Flow::shown_bytes`]): what was written while
//! nobody led is answered from the first round trip on, not in one piece at the end.
//!
//! All of it moves within the bounds of the plan ([`autotune::BatchBounds`]), that of bytes among them:
//! raft-rs counts messages only.

use std::collections::VecDeque;

use crate::lately::Lately;

/// Messages that may be on the way however little the pipe holds: disks and processors take turns.
const WINDOW_MESSAGES_MIN: usize = 16;
/// The pipe's content that may be on the way.
const WINDOW_FACTOR: u64 = 2;
/// A message occupies the road no longer than this.
const MESSAGE_TIME_US_MAX: u64 = 5_000;
/// Nor for longer than a heartbeat interval over this.
const MESSAGES_PER_HEARTBEAT: u64 = 4;
/// But it is at least this long.
const MESSAGE_BYTES_MIN: u64 = 64 << 10;
/// The first messages on a road that has shown nothing: half of what TCP sends before its first answer.
pub(crate) const MESSAGE_BYTES_FIRST: u64 = 8 << 10;
/// A road whose answers stay out for so many of its round trips has become another one.
const SILENT_ROUND_TRIPS: u64 = 8;
/// But not before so long: disks take their time.
const SILENT_US_MIN: u64 = 100_000;
/// The greatest rate is taken from one to two periods of so many round trips.
const RATE_PERIOD_ROUND_TRIPS: u64 = 10;
/// The least round trip is taken from one to two such periods.
const ROUND_TRIP_PERIOD_US: u64 = 10_000_000;
/// The weight of a new message in their mean length is one to this.
const SMOOTHING: u64 = 8;

/// A message on its way.
#[derive(Debug)]
struct Sent {
    last_index: u64,
    bytes: u64,
    at_us: u64,
    /// Sent before: which of the two is answered nobody knows (Karn's rule, RFC 6298 §3).
    is_again: bool,
    /// What had been delivered when it left, and when the last of that was.
    delivered: u64,
    delivered_us: u64,
}

/// What is on its way to one follower, and how it fares.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    on_way: VecDeque<Sent>,
    bytes: u64,
    delivered: u64,
    delivered_us: u64,
    /// What has been delivered since the road was new, idle for long, or answered after a long silence.
    shown: u64,
    /// The last index of all that was ever sent.
    highest: u64,
    /// Bytes a second.
    rate: Lately,
    round_trip_us: Lately,
    message_bytes: u64,
}

impl Flow {
    /// A message with entries up to `last_index` leaves.
    pub(crate) fn sent(&mut self, now_us: u64, last_index: u64, bytes: u64) {
        if self.on_way.is_empty() {
            // Nothing was asked of the pipe until now. TCP begins anew after a pause too (RFC 5681 §4.1).
            if self.is_silent_since(now_us, self.delivered_us) {
                self.shown = 0;
            }
            self.delivered_us = now_us;
        }
        if self.on_way.back().is_some_and(|newest| newest.last_index >= last_index) {
            // Sent again: what was on the way before is lost.
            self.lost();
        }
        self.message_bytes = match self.message_bytes {
            0 => bytes,
            mean => (mean * (SMOOTHING - 1) + bytes) / SMOOTHING,
        };
        self.bytes += bytes;
        self.on_way.push_back(Sent {
            last_index,
            bytes,
            at_us: now_us,
            is_again: last_index <= self.highest,
            delivered: self.delivered,
            delivered_us: self.delivered_us,
        });
        self.highest = self.highest.max(last_index);
        // Raft's window bounds what is sent without an answer; what it takes for lost is forgotten.
        while self.on_way.len() as u64 > autotune::INFLIGHT_MESSAGES_CEILING {
            self.bytes -= self.on_way.pop_front().map_or(0, |oldest| oldest.bytes);
        }
    }

    /// The follower has everything up to `index`.
    pub(crate) fn acknowledged(&mut self, now_us: u64, index: u64) {
        if self.is_silent(now_us) {
            // Nor is its round trip what it was.
            self.shown = 0;
            self.round_trip_us = Lately::default();
            self.rate = Lately::default();
        }
        let mut newest = None;
        while self.on_way.front().is_some_and(|oldest| oldest.last_index <= index) {
            let sent = self.on_way.pop_front().expect("there is a front");
            self.bytes -= sent.bytes;
            self.delivered += sent.bytes;
            self.shown += sent.bytes;
            newest = Some(sent);
        }
        let Some(sent) = newest else { return };
        self.delivered_us = now_us.max(self.delivered_us);
        if sent.is_again {
            return;
        }
        let round_trip_us = now_us.saturating_sub(sent.at_us).max(1);
        self.round_trip_us.add(now_us, ROUND_TRIP_PERIOD_US, round_trip_us, u64::min);
        let took_us = now_us.saturating_sub(sent.delivered_us).max(1);
        let bytes = u128::from(self.delivered - sent.delivered);
        let rate = u64::try_from(bytes * 1_000_000 / u128::from(took_us)).unwrap_or(u64::MAX);
        let period_us = RATE_PERIOD_ROUND_TRIPS * round_trip_us;
        self.rate.add(now_us, period_us, rate, u64::max);
    }

    /// Nothing that was on the way will be answered.
    pub(crate) fn lost(&mut self) {
        self.on_way.clear();
        self.bytes = 0;
    }

    /// Bytes on the way.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where the follower's log ends has to be asked: what it was sent is lost, and what its road carries
    /// is not known any more.
    pub(crate) fn broken(&mut self) {
        self.lost();
        self.shown = 0;
    }

    /// What the road has carried since it was new, idle for long, or answered again after a long silence;
    /// 0 while it is silent.
    pub(crate) fn shown_bytes(&self, now_us: u64) -> u64 {
        if self.is_silent(now_us) { 0 } else { self.shown }
    }

    /// Whether answers stay out.
    fn is_silent(&self, now_us: u64) -> bool {
        let oldest = self.on_way.front();
        oldest.is_some_and(|it| self.is_silent_since(now_us, it.at_us.max(self.delivered_us)))
    }

    fn is_silent_since(&self, now_us: u64, since_us: u64) -> bool {
        let round_trip_us = self.round_trip_us.get(u64::min).unwrap_or(0);
        let most_us = (SILENT_ROUND_TRIPS * round_trip_us).max(SILENT_US_MIN);
        now_us.saturating_sub(since_us) > most_us
    }

    /// Messages that may be on the way, at most so many.
    pub(crate) fn window(&self, most: usize) -> usize {
        let (Some(rate), Some(round_trip_us)) =
            (self.rate.get(u64::max), self.round_trip_us.get(u64::min))
        else {
            return most;
        };
        let pipe = u128::from(rate) * u128::from(round_trip_us) / 1_000_000;
        let wanted = (pipe * u128::from(WINDOW_FACTOR)).div_ceil(self.message_bytes.max(1).into());
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        wanted.max(WINDOW_MESSAGES_MIN).min(most)
    }

    /// Longest message of several entries; `None`: nothing is known of the road.
    pub(crate) fn message_bytes(&self, heartbeat_us: u64) -> Option<u64> {
        let rate = self.rate.get(u64::max)?;
        let time_us = MESSAGE_TIME_US_MAX.min(heartbeat_us / MESSAGES_PER_HEARTBEAT);
        let bytes = u128::from(rate) * u128::from(time_us) / 1_000_000;
        Some(u64::try_from(bytes).unwrap_or(u64::MAX).max(MESSAGE_BYTES_MIN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGE: u64 = 10_000;
    const MOST: usize = 4_096;

    /// A road of so many bytes a second and so much time, kept full with `window` messages, for `ms`.
    fn full_road(rate: u64, round_trip_us: u64, window: usize, ms: u64) -> Flow {
        let mut flow = Flow::default();
        let (mut index, mut road_free_us) = (0, 0);
        let mut answers: VecDeque<(u64, u64)> = VecDeque::new();
        for now_us in (0..ms * 1_000).step_by(10) {
            while answers.front().is_some_and(|(at_us, _)| *at_us <= now_us) {
                let (_, index) = answers.pop_front().expect("there is a front");
                flow.acknowledged(now_us, index);
            }
            while answers.len() < window {
                index += 1;
                flow.sent(now_us, index, MESSAGE);
                road_free_us = road_free_us.max(now_us) + MESSAGE * 1_000_000 / rate;
                answers.push_back((road_free_us + round_trip_us, index));
            }
        }
        flow
    }

    #[test]
    fn nothing_known_leaves_the_bounds_of_the_plan() {
        let flow = Flow::default();
        assert_eq!(flow.window(MOST), 4_096);
        assert_eq!(flow.message_bytes(100_000), None);
    }

    #[test]
    fn twice_what_a_full_road_holds_may_be_on_the_way() {
        // 12.5 MB/s and 80 ms hold a megabyte: a hundred messages.
        let flow = full_road(12_500_000, 80_000, 200, 3_000);
        let window = flow.window(MOST);
        assert!((195..=215).contains(&window), "{window}");
    }

    #[test]
    fn a_window_that_is_too_small_grows_with_every_round_trip_until_the_road_is_full() {
        let mut window = WINDOW_MESSAGES_MIN;
        let mut seen = vec![window];
        for _ in 0..6 {
            window = full_road(12_500_000, 80_000, window, 1_000).window(MOST);
            seen.push(window);
        }
        assert!(seen.windows(2).take(3).all(|pair| pair[1] > pair[0] * 3 / 2), "{seen:?}");
        assert!((190..=220).contains(&window), "{seen:?}");
    }

    #[test]
    fn a_near_follower_keeps_the_least_window_however_fast_it_is() {
        let flow = full_road(1_000_000_000, 100, 4, 100);
        let window = flow.window(MOST);
        assert!((WINDOW_MESSAGES_MIN..=64).contains(&window), "{window}");
    }

    #[test]
    fn an_idle_pause_does_not_look_like_a_slow_road() {
        let mut flow = full_road(12_500_000, 80_000, 200, 3_000);
        let before = flow.window(MOST);
        let mut now_us = 3_000_000;
        flow.acknowledged(now_us, u64::MAX);
        now_us += 500_000;
        flow.sent(now_us, 1 << 40, MESSAGE);
        flow.acknowledged(now_us + 80_000, 1 << 40);
        assert!(flow.window(MOST) >= before / 2, "{before} to {}", flow.window(MOST));
    }

    #[test]
    fn messages_are_as_long_as_the_road_carries_in_five_milliseconds_or_a_quarter_heartbeat() {
        let flow = full_road(100_000_000, 2_000, 400, 300);
        let long = flow.message_bytes(100_000).expect("the rate is known");
        assert!((450_000..=550_000).contains(&long), "{long}");
        let short = flow.message_bytes(8_000).expect("the rate is known");
        assert!((180_000..=220_000).contains(&short), "{short}");
        let slow = full_road(1_000_000, 2_000, 4, 300);
        assert_eq!(slow.message_bytes(100_000), Some(MESSAGE_BYTES_MIN));
    }

    /// One message at a time, answered after 2 ms, every 10 ms.
    fn near_road(messages: u64) -> Flow {
        let mut flow = Flow::default();
        for index in 1..=messages {
            flow.sent(index * 10_000, index, MESSAGE);
            flow.acknowledged(index * 10_000 + 2_000, index);
        }
        flow
    }

    #[test]
    fn a_road_has_shown_what_it_carried_since_it_was_new_idle_or_silent() {
        assert_eq!(Flow::default().shown_bytes(0), 0);
        let mut flow = near_road(3);
        // Nothing on the way is no silence, but then the road is not known any more.
        assert_eq!(flow.shown_bytes(60_000_000), 3 * MESSAGE);
        flow.sent(100_000, 4, MESSAGE);
        assert_eq!(flow.shown_bytes(100_000), 3 * MESSAGE);
        flow.acknowledged(102_000, 4);
        flow.sent(202_001, 5, MESSAGE);
        assert_eq!(flow.shown_bytes(202_001), 0);
        flow.acknowledged(204_000, 5);
        assert_eq!(flow.shown_bytes(204_000), MESSAGE);

        flow.sent(210_000, 6, MESSAGE);
        flow.sent(260_000, 7, MESSAGE);
        assert_eq!(flow.shown_bytes(310_000), MESSAGE);
        assert_eq!(flow.shown_bytes(310_001), 0);
        flow.acknowledged(1_710_000, 6);
        assert_eq!(flow.shown_bytes(1_710_000), MESSAGE);
        // By its new round trip, an answer less than eight of them later is no silence.
        flow.acknowledged(8_000_000, 7);
        assert_eq!(flow.shown_bytes(8_000_000), 2 * MESSAGE);
    }

    #[test]
    fn a_follower_that_has_to_be_asked_anew_has_shown_nothing() {
        let mut flow = near_road(3);
        flow.broken();
        assert_eq!(flow.shown_bytes(40_000), 0);
    }

    #[test]
    fn what_is_sent_again_says_nothing_of_the_round_trip() {
        let mut flow = Flow::default();
        flow.sent(0, 12, MESSAGE);
        flow.lost();
        flow.sent(80_000, 12, MESSAGE);
        // The answer to the first one.
        flow.acknowledged(81_000, 12);
        assert_eq!((flow.window(MOST), flow.message_bytes(100_000)), (MOST, None));
        flow.sent(90_000, 13, MESSAGE);
        flow.acknowledged(170_000, 13);
        assert_eq!(flow.round_trip_us.get(u64::min), Some(80_000));
    }

    #[test]
    fn a_far_road_is_not_silent_before_many_of_its_round_trips_have_passed() {
        let mut flow = Flow::default();
        for index in 1..=10 {
            flow.sent(index * 100_000, index, MESSAGE);
            flow.acknowledged(index * 100_000 + 80_000, index);
        }
        flow.sent(1_500_000, 11, MESSAGE);
        assert_eq!(flow.shown_bytes(2_140_000), 10 * MESSAGE);
        assert_eq!(flow.shown_bytes(2_140_001), 0);
    }

    #[test]
    fn bytes_on_the_way_are_counted_until_they_are_answered_or_lost() {
        let mut flow = Flow::default();
        flow.sent(0, 1, 100);
        flow.sent(0, 2, 200);
        assert_eq!(flow.bytes(), 300);
        flow.acknowledged(10, 1);
        assert_eq!(flow.bytes(), 200);
        // Sent again from 2 on: raft gave the first for lost.
        flow.sent(20, 2, 200);
        assert_eq!(flow.bytes(), 200);
        flow.lost();
        assert_eq!(flow.bytes(), 0);
        flow.acknowledged(30, 2);
        assert_eq!(flow.bytes(), 0);
    }
}
