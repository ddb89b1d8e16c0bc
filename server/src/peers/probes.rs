//! What two members tell each other of the network between them.
//!
//! Each sends the other a probe every few milliseconds: when it left, and an echo of the newest probe
//! that came from there, with the time it lay here. So no probe is answered by itself, and each frame
//! is a question and an answer at once, as in RTCP (RFC 3550, section 6.4.1). A probe rides on any
//! message that leaves on the control connection, or goes alone if none did; it so shares the fate of
//! the heartbeats it stands for.
//!
//! Each end goes by its own clock. What it gets back of its own time is only a name: when a probe left
//! is remembered here, and a peer cannot make itself near or far.
//!
//! *Gaps* are between two frames of the peer. Frames are not sent at even times, for a probe that rides
//! takes the place of one that was due; how much later than even it was sent is taken off, up to
//! [`EARLY_INTERVALS_MAX`] intervals in all, so that what is left is the network's and the peer's doing.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use autotune::{Distribution, Percentiles};
use consensus::rtt::RttEstimator;
use proto::peer::{ControlFrame, Probe, ProbeEcho, control_frame};

use super::Core;
use super::lately::{ClockOffset, Losses};
use super::link::Link;

/// Probes without an echo that are remembered; the oldest is forgotten and counts as lost.
const OUTSTANDING_MAX: usize = 1_024;
/// A message takes a probe along once half an interval has passed since the last one.
const RIDES_PER_INTERVAL_MAX: u64 = 2;
/// A probe that was due and did not leave, for another rode, comes within this many intervals.
const EARLY_INTERVALS_MAX: u64 = 2;

/// What probes to and from one peer have shown. Times are of the transport's clock.
#[derive(Debug, Default)]
pub(super) struct Probes {
    interval_us: u64,
    rtt: RttEstimator,
    rtt_at_us: Option<u64>,
    rtt_marked: u64,
    round_trips: Distribution,
    gaps: Distribution,
    /// Where the round trips known were measured to, and where probes go now. Where the two differ,
    /// what is known is kept until something is known of the new place.
    measured_to: Option<SocketAddr>,
    connected_to: Option<SocketAddr>,
    /// When probes left that have no echo yet.
    outstanding: VecDeque<u64>,
    left_us: u64,
    sent: u64,
    lost: u64,
    losses_of_late: Losses,
    clock: ClockOffset,
    heard: Option<Heard>,
    /// The newest probe of the peer, unless it has its echo.
    to_echo: Option<Heard>,
}

/// A probe of the peer.
#[derive(Clone, Copy, Debug)]
struct Heard {
    /// By the peer's clock.
    sent_us: u64,
    /// By this member's.
    at_us: u64,
}

/// The moment at which a probe came.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moment {
    pub(super) now_us: u64,
    pub(super) wall_us: u64,
    /// A snapshot is on its way on the link.
    pub(super) is_transferring: bool,
}

/// What is known, as of a moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) rtt: RttEstimator,
    pub(super) rtt_age: Option<Duration>,
    pub(super) round_trips: Percentiles,
    pub(super) rtt_marked: u64,
    pub(super) gaps: Percentiles,
    pub(super) sent: u64,
    pub(super) lost: u64,
}

impl Probes {
    pub(super) fn new(interval: Duration) -> Self {
        Probes { interval_us: us(interval), ..Probes::default() }
    }

    /// Whether a message that leaves now takes a probe along.
    pub(super) fn may_ride(&self, now_us: u64) -> bool {
        now_us.saturating_sub(self.left_us) >= self.interval_us / RIDES_PER_INTERVAL_MAX
    }

    /// A probe that leaves now. `stood_still` says whether this member did since a time.
    pub(super) fn leaves(
        &mut self,
        now_us: u64,
        wall_us: u64,
        stood_still: impl FnOnce(u64) -> bool,
    ) -> Probe {
        if self.outstanding.len() == OUTSTANDING_MAX {
            self.outstanding.pop_front();
            self.lose(now_us, 1);
        }
        // Also the probe's name.
        let sent_us = now_us.max(self.left_us + 1);
        self.left_us = sent_us;
        self.outstanding.push_back(sent_us);
        self.sent += 1;
        self.losses_of_late.sent(now_us);
        let echo = self.to_echo.take().map(|heard| ProbeEcho {
            sent_us: heard.sent_us,
            hold_us: now_us.saturating_sub(heard.at_us),
            marked: stood_still(heard.at_us),
        });
        Probe { sent_us, wall_us, echo, ..Probe::default() }
    }

    /// A probe of the peer. Returns the round trip, if it echoes one and tells of the network.
    pub(super) fn heard(
        &mut self,
        probe: &Probe,
        moment: Moment,
        stood_still: impl Fn(u64) -> bool,
    ) -> Option<u64> {
        let heard = Heard { sent_us: probe.sent_us, at_us: moment.now_us };
        if let Some(before) = self.heard.replace(heard)
            && !stood_still(before.at_us)
        {
            self.gaps.record(moment.now_us, self.gap_us(before, heard));
        }
        self.to_echo = Some(heard);
        let echo = probe.echo.as_ref()?;
        let at = self.outstanding.binary_search(&echo.sent_us).ok()?;
        // One connection keeps the order: what left before has arrived, and had no echo of its own.
        let left_us = self.outstanding.drain(..=at).next_back()?;
        let away_us = moment.now_us.saturating_sub(left_us);
        let rtt_us = if echo.marked || moment.is_transferring || stood_still(left_us) {
            None
        } else {
            if self.connected_to != self.measured_to {
                self.rtt.reset();
                self.round_trips = Distribution::new();
                self.measured_to = self.connected_to;
            }
            // The estimator takes no echo that was held for longer than it was away.
            self.rtt.record(0, away_us, echo.hold_us)
        };
        let Some(rtt_us) = rtt_us else {
            self.rtt_marked += 1;
            return None;
        };
        self.rtt_at_us = Some(moment.now_us);
        self.round_trips.record(moment.now_us, rtt_us);
        if probe.wall_us > 0 {
            self.clock.record(moment.now_us, rtt_us, probe.wall_us, moment.wall_us);
        }
        Some(rtt_us)
    }

    /// How far two probes lie apart, had they been sent an interval apart.
    fn gap_us(&self, before: Heard, after: Heard) -> u64 {
        let came_us = after.at_us.saturating_sub(before.at_us);
        let sent_us = after.sent_us.saturating_sub(before.sent_us);
        let uneven_us = sent_us.min(EARLY_INTERVALS_MAX * self.interval_us);
        (came_us + self.interval_us).saturating_sub(uneven_us)
    }

    fn lose(&mut self, now_us: u64, count: u64) {
        self.lost += count;
        self.losses_of_late.lost(now_us, count);
    }

    /// The connection that carries the probes broke.
    pub(super) fn cut_off(&mut self, now_us: u64) {
        self.lose(now_us, self.outstanding.len() as u64);
        self.outstanding.clear();
        self.greeted();
    }

    /// The peer begins a new connection: how long it was without is no gap in what it carries.
    pub(super) fn greeted(&mut self) {
        (self.heard, self.to_echo) = (None, None);
    }

    /// The peer has moved here: what is known of it is better than nothing until something is known
    /// of the new place.
    pub(super) fn remember(&mut self, moved: &Probes) {
        self.rtt = moved.rtt;
        self.rtt_at_us = moved.rtt_at_us;
        self.rtt_marked = moved.rtt_marked;
        self.round_trips = moved.round_trips.clone();
        self.gaps = moved.gaps.clone();
        self.measured_to = moved.measured_to;
    }

    /// Where probes go from now on.
    pub(super) fn lead_to(&mut self, address: Option<SocketAddr>) {
        self.connected_to = address;
    }

    pub(super) fn lead(&self) -> Option<SocketAddr> {
        self.connected_to
    }

    /// The round trip as it is known; `None`: it is not.
    pub(super) fn rtt(&self) -> Option<RttEstimator> {
        Some(self.rtt).filter(|rtt| rtt.samples() > 0)
    }

    pub(super) fn clock_offset_us(&mut self, now_us: u64) -> Option<i64> {
        self.clock.offset_us(now_us)
    }

    pub(super) fn loss_ratio(&mut self, now_us: u64) -> Option<f64> {
        self.losses_of_late.ratio(now_us)
    }

    pub(super) fn round_trips(&mut self, now_us: u64) -> Percentiles {
        self.round_trips.percentiles(now_us)
    }

    pub(super) fn known(&mut self, now_us: u64) -> Known {
        Known {
            rtt: self.rtt,
            rtt_age: self.rtt_at_us.map(|at| Duration::from_micros(now_us.saturating_sub(at))),
            round_trips: self.round_trips.percentiles(now_us),
            rtt_marked: self.rtt_marked,
            gaps: self.gaps.percentiles(now_us),
            sent: self.sent,
            lost: self.lost,
        }
    }
}

impl Core {
    /// A frame that leaves now, and the probe that rides on it or is all there is.
    pub(super) fn with_probe(
        &self,
        link: &Link,
        frame: Option<control_frame::Frame>,
    ) -> ControlFrame {
        let now_us = self.us(Instant::now());
        let stood_still = |since_us| self.pacer.stood_still(since_us, now_us);
        let alone = frame.is_none();
        let probe = link.probe_leaves(alone, now_us, self.wall_us(), stood_still);
        ControlFrame { frame, probe }
    }

    /// A probe of a peer came.
    pub(super) fn take_probe(&self, link: &Link, probe: &Probe, at: Instant) {
        let now_us = self.us(at);
        let stood_still = |since_us| self.pacer.stood_still(since_us, now_us);
        if let Some(rtt_us) = link.probe_heard(probe, now_us, self.wall_us(), stood_still) {
            let known =
                || self.durations.round_trips.with_label_values(&[&format!("{:x}", link.id)]);
            link.round_trips.get_or_init(known).observe(rtt_us as f64 / 1e6);
        }
        link.learn_of_answers(probe);
        self.look_at_road(link, probe.taken_bytes, at);
    }
}

fn us(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000;
    const S: u64 = 1_000_000;

    fn probes() -> Probes {
        Probes::new(Duration::from_millis(25))
    }

    fn leaves(probes: &mut Probes, now_us: u64) -> Probe {
        probes.leaves(now_us, 0, |_| false)
    }

    fn at(now_us: u64) -> Moment {
        Moment { now_us, ..Moment::default() }
    }

    /// What the peer sends: its own time, and an echo of a probe.
    fn echo(of: &Probe, hold_us: u64) -> Probe {
        let echo = ProbeEcho { sent_us: of.sent_us, hold_us, marked: false };
        Probe { sent_us: 7, echo: Some(echo), ..Probe::default() }
    }

    fn hears(probes: &mut Probes, probe: &Probe, now_us: u64) -> Option<u64> {
        probes.heard(probe, at(now_us), |_| false)
    }

    #[test]
    fn two_members_measure_each_other_by_one_frame_each_way() {
        let (mut left, mut right) = (probes(), probes());
        // The clocks have nothing to do with each other; the way takes 3 ms there and 5 back.
        for n in 0..100 {
            let (there_us, back_us) = (n * 25 * MS, n * 25 * MS + 11 * MS);
            let probe = leaves(&mut left, S + there_us);
            hears(&mut right, &probe, 70 * S + there_us + 3 * MS);
            let probe = leaves(&mut right, 70 * S + back_us);
            hears(&mut left, &probe, S + back_us + 5 * MS);
        }
        let (left, right) = (left.known(4 * S), right.known(73 * S));
        assert_eq!((left.rtt.srtt_us(), left.rtt.samples()), (8_000, 100));
        assert_eq!((right.rtt.srtt_us(), right.rtt.samples()), (8_000, 99));
        assert_eq!((left.gaps.samples, left.gaps.max_us), (99, 25_000));
        assert_eq!((left.sent, left.lost, right.lost), (100, 0, 0));
    }

    #[test]
    fn a_probe_has_one_echo_and_the_newest_speaks_for_those_before_it() {
        let (mut left, mut right) = (probes(), probes());
        let first = leaves(&mut left, 100);
        let second = leaves(&mut left, 200);
        assert!(second.sent_us > first.sent_us && leaves(&mut left, 200).sent_us > 200);
        hears(&mut right, &first, 1_000);
        hears(&mut right, &second, 1_100);
        let echoed = leaves(&mut right, 1_300);
        assert_eq!(echoed.echo.map(|it| (it.sent_us, it.hold_us)), Some((second.sent_us, 200)));
        assert_eq!(leaves(&mut right, 1_400).echo, None);
        assert_eq!(hears(&mut left, &echoed, 900), Some(500));
        assert_eq!(hears(&mut left, &echoed, 950), None, "it has come before");
        assert_eq!(left.known(0).lost, 0);
    }

    #[test]
    fn an_echo_of_nothing_or_from_before_its_probe_is_no_sample() {
        let mut probes = probes();
        let probe = leaves(&mut probes, S);
        let unknown = Probe { sent_us: probe.sent_us + 1, ..probe };
        assert_eq!(hears(&mut probes, &echo(&unknown, 0), S + MS), None);
        assert_eq!(hears(&mut probes, &echo(&probe, 5 * MS), S + MS), None);
        assert_eq!(hears(&mut probes, &echo(&probe, 0), S + MS), None);
        assert_eq!(probes.known(S).rtt.samples(), 0);
    }

    #[test]
    fn samples_that_tell_nothing_of_the_network_are_left_out_and_counted() {
        let mut probes = probes();
        let mut now_us = S;
        let mut ask = |hold_us, marked, is_transferring, still| {
            now_us += 10 * MS;
            let mut back = echo(&leaves(&mut probes, now_us), hold_us);
            back.echo.as_mut().unwrap().marked = marked;
            let moment = Moment { now_us: now_us + 2 * MS, wall_us: 0, is_transferring };
            probes.heard(&back, moment, |_| still)
        };
        assert_eq!(ask(MS, true, false, false), None, "the peer stood still");
        assert_eq!(ask(MS, false, false, true), None, "this member stood still");
        assert_eq!(ask(2 * MS, false, false, false), None, "no time at all");
        assert_eq!(ask(3 * MS, false, false, false), None, "held for longer than it was away");
        assert_eq!(ask(MS, false, true, false), None, "a snapshot is on its way");
        assert_eq!(ask(MS, false, false, false), Some(MS));
        let known = probes.known(now_us + 7 * MS);
        assert_eq!((known.rtt.samples(), known.round_trips.samples, known.rtt_marked), (1, 1, 5));
        assert_eq!(known.rtt_age, Some(Duration::from_millis(5)));
    }

    #[test]
    fn a_clock_is_compared_only_by_round_trips_that_count() {
        let mut probes = probes();
        let mut ask = |marked, wall_us| {
            let mut back = Probe { wall_us, ..echo(&leaves(&mut probes, 0), MS) };
            back.echo.as_mut().unwrap().marked = marked;
            let moment = Moment { now_us: 3 * MS, wall_us: 1_000, is_transferring: false };
            probes.heard(&back, moment, |_| false);
            probes.clock_offset_us(3 * MS)
        };
        assert_eq!(ask(true, 9_000_000), None, "the peer stood still");
        assert_eq!(ask(false, 0), None, "the peer did not tell");
        assert!(ask(false, 9_000_000).is_some_and(|us| us.abs_diff(9_000_000) < 10));
    }

    #[test]
    fn gaps_are_what_the_way_adds_and_reach_over_no_standstill_and_no_lost_connection() {
        let mut probes = probes();
        let mut came = |sent_ms, at_ms: u64, still| {
            let probe = Probe { sent_us: sent_ms * MS, ..Probe::default() };
            probes.heard(&probe, at(at_ms * MS), |_| still);
            let seen = probes.gaps.percentiles(at_ms * MS);
            (seen.samples, seen.max_us / MS)
        };
        assert_eq!(came(100, 10, false), (0, 0));
        assert_eq!(came(125, 35, false), (1, 25));
        assert_eq!(came(140, 50, false), (2, 25), "it rode, and came early");
        assert_eq!(came(190, 100, false), (3, 25), "the one that was due did not leave");
        assert_eq!(came(215, 200, true), (3, 25), "this member stood still");
        assert_eq!(came(240, 265, false), (4, 65), "on its way for 40 ms longer");
        assert_eq!(came(440, 465, false), (5, 175), "the peer stood still");
        probes.cut_off(0);
        let probe = Probe { sent_us: 540 * MS, ..Probe::default() };
        probes.heard(&probe, at(900 * MS), |_| false);
        assert_eq!(probes.known(900 * MS).gaps.samples, 5);
    }

    #[test]
    fn a_peer_that_moves_is_measured_anew_and_known_as_it_was_until_then() {
        let mut near = probes();
        near.lead_to("10.0.0.1:2380".parse().ok());
        for n in 1..=9 {
            let back = echo(&leaves(&mut near, n * 25 * MS), 0);
            hears(&mut near, &back, n * 25 * MS + MS);
        }
        let mut moved = probes();
        moved.remember(&near);
        moved.lead_to("10.0.0.2:2380".parse().ok());
        let last_known = moved.known(232 * MS).rtt;
        assert_eq!((last_known.srtt_us(), last_known.samples()), (1_000, 9));
        assert_eq!(moved.known(232 * MS).rtt_age, Some(Duration::from_millis(6)));
        let back = echo(&leaves(&mut moved, S), 0);
        hears(&mut moved, &back, S + 80 * MS);
        let anew = moved.known(S);
        assert_eq!((anew.rtt.srtt_us(), anew.rtt.samples()), (80_000, 1));
        assert_eq!((anew.round_trips.samples, anew.round_trips.p50_us), (1, 80_000));
    }

    #[test]
    fn probes_cut_off_or_never_echoed_are_lost() {
        let mut probes = probes();
        leaves(&mut probes, MS);
        probes.cut_off(2 * MS);
        assert_eq!(probes.known(S).lost, 1);
        for n in 1..=OUTSTANDING_MAX as u64 {
            leaves(&mut probes, n * S);
        }
        assert_eq!(probes.known(S).lost, 1);
        leaves(&mut probes, 2_000 * S);
        assert_eq!(probes.known(S).lost, 2);
    }

    #[test]
    fn messages_take_a_probe_along_twice_an_interval_at_most() {
        let mut probes = probes();
        leaves(&mut probes, 100 * MS);
        assert!(!probes.may_ride(112 * MS));
        assert!(probes.may_ride(113 * MS));
    }
}
