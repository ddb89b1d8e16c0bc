//! One direction between two places: when a packet that came in leaves again, or why it never does.
//!
//! Pure: the clock and the random numbers are arguments. Times are nanoseconds of one clock.

use rand::Rng;

use crate::rule::Rule;

/// Packets of one direction that may be under way; what is beyond is dropped.
pub const PACKETS_MAX: u64 = 32_768;
/// The jitter's tail ends here, in means.
const JITTER_MEANS_MAX: f64 = 10.0;
const NS_PER_S: u64 = 1_000_000_000;
/// A direction with this delay or more is long. What leaves it leaves together, up to this part of the
/// delay late: a router that is awake for each packet takes the processor the servers need.
const LONG_NS: u64 = 10_000_000;
const LATE_PART: u64 = 400;

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It leaves at this time.
    Leaves(u64),
    /// The direction is cut.
    Cut,
    /// It was its turn to be lost.
    Lost,
    /// A queue was full.
    Full,
}

/// Packets and bytes of one direction since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Taken on their way.
    pub packets: u64,
    /// The same in bytes.
    pub bytes: u64,
    /// Dropped by a cut.
    pub cut: u64,
    /// Dropped by loss.
    pub lost: u64,
    /// Dropped by a full queue, the lab's or the receiver's.
    pub full: u64,
}

/// One direction: its rule and what is under way.
#[derive(Clone, Debug, Default)]
pub struct Link {
    rule: Rule,
    /// When the bandwidth is free again.
    sent_ns: u64,
    /// When the last packet in order leaves.
    last_ns: u64,
    under_way: u64,
    counters: Counters,
}

impl Link {
    /// The rule for packets from now on; those under way leave as they would have.
    pub fn set(&mut self, rule: Rule) {
        self.rule = rule;
    }

    /// The rule in force.
    pub fn rule(&self) -> Rule {
        self.rule
    }

    /// Whether a wake-up more or less does not matter.
    pub fn is_long(&self) -> bool {
        nanoseconds(self.rule.delay) >= LONG_NS
    }

    /// What has passed so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Decides about a packet that comes in now.
    pub fn admit(&mut self, now_ns: u64, bytes: u64, random: &mut impl Rng) -> Fate {
        let fate = self.fate(now_ns, bytes, random);
        match fate {
            Fate::Leaves(_) => {
                self.under_way += 1;
                self.counters.packets += 1;
                self.counters.bytes += bytes;
            }
            Fate::Cut => self.counters.cut += 1,
            Fate::Lost => self.counters.lost += 1,
            Fate::Full => self.counters.full += 1,
        }
        fate
    }

    /// A packet has left; `is_taken`: the receiver had room for it.
    pub fn left(&mut self, is_taken: bool) {
        self.under_way -= 1;
        if !is_taken {
            self.counters.full += 1;
        }
    }

    fn fate(&mut self, now_ns: u64, bytes: u64, random: &mut impl Rng) -> Fate {
        let rule = self.rule;
        if rule.is_cut {
            return Fate::Cut;
        }
        if rule.loss > 0.0 && random.random::<f64>() < rule.loss {
            return Fate::Lost;
        }
        if self.under_way >= PACKETS_MAX {
            return Fate::Full;
        }
        // A token bucket that holds one packet: what is sent leaves evenly, as from an interface.
        let mut at_ns = now_ns;
        if let Some(bits) = rule.rate_bits {
            let waits_ns = self.sent_ns.saturating_sub(now_ns);
            let waiting_bytes = u128::from(waits_ns) * u128::from(bits) / 8 / u128::from(NS_PER_S);
            if waiting_bytes + u128::from(bytes) > u128::from(rule.queue_bytes) {
                return Fate::Full;
            }
            self.sent_ns = self.sent_ns.max(now_ns) + bytes * 8 * NS_PER_S / bits;
            at_ns = self.sent_ns;
        }
        if rule.reorder > 0.0 && random.random::<f64>() < rule.reorder {
            return Fate::Leaves(at_ns);
        }
        at_ns += nanoseconds(rule.delay);
        if !rule.jitter.is_zero() {
            // 1 - u is never 0, so the logarithm is finite.
            let means = -(1.0 - random.random::<f64>()).ln();
            let mean_ns = nanoseconds(rule.jitter) as f64;
            at_ns += (means.min(JITTER_MEANS_MAX) * mean_ns) as u64;
        }
        if self.is_long() {
            at_ns = at_ns.next_multiple_of(nanoseconds(rule.delay) / LATE_PART);
        }
        // A shorter delay must not let packets overtake those that left under a longer one.
        self.last_ns = at_ns.max(self.last_ns);
        Fate::Leaves(self.last_ns)
    }
}

fn nanoseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    const MS: u64 = 1_000_000;

    fn link(words: &str) -> (Link, SmallRng) {
        let mut link = Link::default();
        link.set(Rule::default().with(words.split(' ')).unwrap());
        (link, SmallRng::seed_from_u64(7))
    }

    fn times(link: &mut Link, random: &mut SmallRng, every_ns: u64, packets: u64) -> Vec<u64> {
        let admit = |packet: u64| match link.admit(packet * every_ns, 1_000, random) {
            Fate::Leaves(at) => {
                link.left(true);
                Some(at - packet * every_ns)
            }
            _ => None,
        };
        (0..packets).filter_map(admit).collect()
    }

    #[test]
    fn a_delay_is_exact_and_jitter_only_adds_to_it() {
        let (mut still, mut random) = link("delay=0.25ms");
        assert!(times(&mut still, &mut random, MS, 100).iter().all(|after| *after == MS / 4));
        let (mut moved, mut random) = link("delay=2ms jitter=1ms");
        let after = times(&mut moved, &mut random, 50 * MS, 20_000);
        let mean = after.iter().sum::<u64>() as f64 / after.len() as f64 / MS as f64;
        assert!(after.iter().all(|after| (2 * MS..=12 * MS).contains(after)));
        assert!((2.95..3.05).contains(&mean), "{mean}");
    }

    #[test]
    fn on_a_long_road_packets_leave_together_and_none_is_early() {
        let (mut long, mut random) = link("delay=40ms");
        assert!(long.is_long() && !Link::default().is_long());
        let after = times(&mut long, &mut random, MS / 100, 10_000);
        assert!(after.iter().all(|after| (40 * MS..40 * MS + MS / 10).contains(after)));
        let leave = after.iter().zip(0..).map(|(after, packet)| after + packet * MS / 100);
        let turns: std::collections::BTreeSet<u64> = leave.collect();
        assert!((995..=1_005).contains(&turns.len()), "{}", turns.len());
    }

    #[test]
    fn packets_stay_in_order_whatever_the_jitter_and_whatever_the_rule_becomes() {
        let (mut link, mut random) = link("delay=5ms jitter=5ms");
        let mut last = 0;
        for packet in 0..5_000 {
            if packet == 2_500 {
                link.set(Rule::default());
            }
            let Fate::Leaves(at) = link.admit(packet * MS / 10, 100, &mut random) else {
                panic!("nothing is dropped")
            };
            assert!(at >= last);
            last = at;
        }
    }

    #[test]
    fn packets_that_overtake_leave_at_once() {
        let (mut link, mut random) = link("delay=5ms reorder=10%");
        let after = times(&mut link, &mut random, MS, 10_000);
        let at_once = after.iter().filter(|after| **after == 0).count();
        assert!((900..1_100).contains(&at_once), "{at_once}");
    }

    #[test]
    fn so_many_are_lost_and_counted() {
        let (mut link, mut random) = link("loss=1%");
        let passed = times(&mut link, &mut random, MS, 100_000).len() as u64;
        let counters = link.counters();
        assert_eq!((counters.packets, counters.lost), (passed, 100_000 - passed));
        assert!((800..1_200).contains(&counters.lost), "{counters:?}");
    }

    #[test]
    fn bandwidth_spaces_packets_and_its_full_queue_drops() {
        // 1,000 bytes a millisecond.
        let (mut link, mut random) = link("rate=8mbit queue=64k");
        let fates: Vec<Fate> = (0..70).map(|_| link.admit(0, 1_000, &mut random)).collect();
        assert_eq!(fates[..2], [Fate::Leaves(MS), Fate::Leaves(2 * MS)]);
        assert_eq!(fates[64], Fate::Leaves(65 * MS));
        assert!(fates[65..].iter().all(|fate| *fate == Fate::Full));
        assert_eq!(link.admit(10 * MS, 1_000, &mut random), Fate::Leaves(66 * MS));
        assert_eq!(link.counters().full, 5);
    }

    #[test]
    fn a_direction_holds_a_bounded_number_of_packets() {
        let (mut link, mut random) = link("delay=10s");
        for _ in 0..PACKETS_MAX {
            assert!(matches!(link.admit(0, 1, &mut random), Fate::Leaves(_)));
        }
        assert_eq!(link.admit(0, 1, &mut random), Fate::Full);
        link.left(true);
        assert!(matches!(link.admit(0, 1, &mut random), Fate::Leaves(_)));
    }

    #[test]
    fn a_cut_passes_nothing() {
        let (mut link, mut random) = link("cut");
        assert_eq!(link.admit(0, 1, &mut random), Fate::Cut);
        assert_eq!(link.counters(), Counters { cut: 1, ..Counters::default() });
    }
}
