//! What was so of late, in memory of one size: two spans of time, the one under way and the one
//! before it. What is asked for is over both, so it is never older than two spans and, once a span
//! has passed, never of less than one.

/// How long a span is for clocks: a clock that was stepped shows within twice that.
const CLOCK_SPAN_US: u64 = 5_000_000;
/// How long a span is for losses.
const LOSS_SPAN_US: u64 = 30_000_000;

/// Which span is under way.
#[derive(Clone, Copy, Debug, Default)]
struct Spans<T> {
    began_us: u64,
    now: T,
    before: T,
}

impl<T: Copy + Default> Spans<T> {
    fn at(&mut self, now_us: u64, span_us: u64) -> &mut T {
        let passed = now_us.saturating_sub(self.began_us) / span_us;
        if passed > 0 {
            self.before = if passed == 1 { self.now } else { T::default() };
            self.now = T::default();
            self.began_us += passed * span_us;
        }
        &mut self.now
    }
}

/// By how much a peer's wall clock is ahead, from the round trip that left least room for error.
///
/// Arithmetic of NTP (RFC 5905, section 8): of the four times of an exchange the offset follows, up to
/// half the round trip; the exchange with the least round trip errs least (section 10).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ClockOffset(Spans<Option<(u64, i64)>>);

impl ClockOffset {
    /// An answer came now, `rtt_us` after its probe without what the peer held it. It left at
    /// `peer_wall_us` by the peer's wall clock and came at `own_wall_us` by this member's.
    pub(super) fn record(&mut self, now_us: u64, rtt_us: u64, peer_wall_us: u64, own_wall_us: u64) {
        let half_us = (rtt_us / 2).cast_signed();
        let apart_us = peer_wall_us.cast_signed().saturating_sub(own_wall_us.cast_signed());
        let seen = (rtt_us, apart_us.saturating_add(half_us));
        let best = self.0.at(now_us, CLOCK_SPAN_US);
        if best.is_none_or(|(least_us, _)| rtt_us <= least_us) {
            *best = Some(seen);
        }
    }

    /// Microseconds the peer's clock is ahead; `None`: nothing is known of late.
    pub(super) fn offset_us(&mut self, now_us: u64) -> Option<i64> {
        self.0.at(now_us, CLOCK_SPAN_US);
        let known = [self.0.now, self.0.before];
        known.into_iter().flatten().min_by_key(|(rtt_us, _)| *rtt_us).map(|(_, offset)| offset)
    }
}

/// Probes sent and lost.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Losses(Spans<(u64, u64)>);

impl Losses {
    pub(super) fn sent(&mut self, now_us: u64) {
        self.0.at(now_us, LOSS_SPAN_US).0 += 1;
    }

    pub(super) fn lost(&mut self, now_us: u64, count: u64) {
        self.0.at(now_us, LOSS_SPAN_US).1 += count;
    }

    /// Lost of those sent; `None`: none was sent of late.
    pub(super) fn ratio(&mut self, now_us: u64) -> Option<f64> {
        self.0.at(now_us, LOSS_SPAN_US);
        let ((sent, lost), (sent_before, lost_before)) = (self.0.now, self.0.before);
        let sent = sent + sent_before;
        // What is lost now may have been sent before the spans began.
        (sent > 0).then(|| ((lost + lost_before) as f64 / sent as f64).min(1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000;
    const WALL: u64 = 1_700_000_000 * S;

    #[test]
    fn an_offset_is_exact_where_both_ways_take_the_same() {
        let mut clock = ClockOffset::default();
        assert_eq!(clock.offset_us(0), None);
        // 300 us there, 300 us back; the peer is 2 s ahead.
        clock.record(S, 600, WALL + 2 * S, WALL + 300);
        assert_eq!(clock.offset_us(S), Some(2_000_000));
        let mut behind = ClockOffset::default();
        behind.record(S, 600, WALL - 2 * S, WALL + 300);
        assert_eq!(behind.offset_us(S), Some(-2_000_000));
    }

    #[test]
    fn the_least_round_trip_of_late_is_believed_and_forgotten_after_two_spans() {
        let mut clock = ClockOffset::default();
        clock.record(0, 100, WALL + 7, WALL + 50);
        clock.record(1, 90_000, WALL + 500_000, WALL);
        assert_eq!(clock.offset_us(1), Some(7));
        // The clock is stepped: what was known outlives one span and not two.
        clock.record(CLOCK_SPAN_US + 1, 120, WALL + 3 * S, WALL + 60);
        assert_eq!(clock.offset_us(CLOCK_SPAN_US + 1), Some(7));
        clock.record(2 * CLOCK_SPAN_US + 1, 120, WALL + 3 * S, WALL + 60);
        assert_eq!(clock.offset_us(2 * CLOCK_SPAN_US + 1), Some(3_000_000));
        assert_eq!(clock.offset_us(9 * CLOCK_SPAN_US), None);
    }

    #[test]
    fn losses_are_of_late_and_never_more_than_all() {
        let mut losses = Losses::default();
        assert_eq!(losses.ratio(0), None);
        for at in 0..10 {
            losses.sent(at);
        }
        losses.lost(10, 1);
        assert_eq!(losses.ratio(10), Some(0.1));
        losses.sent(LOSS_SPAN_US);
        losses.lost(LOSS_SPAN_US, 20);
        assert_eq!(losses.ratio(LOSS_SPAN_US), Some(1.0));
        assert_eq!(losses.ratio(4 * LOSS_SPAN_US), None);
    }
}
