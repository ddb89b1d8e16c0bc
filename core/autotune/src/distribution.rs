//! What was measured of late: distributions in fixed memory, and the longest of a day.
//!
//! A timeout must cover the rare and long, so means are of little use and percentiles are kept. They
//! come from a histogram with logarithmic buckets: [`SUB_BUCKETS`] to each power of two, so that the
//! upper end of a bucket lies at most a thirty-second above what fell into it. Two windows take turns:
//! one fills while the other is remembered, so what is told is of the last five to ten minutes and
//! forgets by itself. Time is passed in, and may stand still or go back: then nothing is forgotten.

/// Buckets to each power of two. Values below it have a bucket of their own.
pub const SUB_BUCKETS: u64 = 1 << SUB_BUCKET_BITS;
const SUB_BUCKET_BITS: u32 = 5;
/// Values from here on, 19 hours, fall into the last bucket.
const VALUE_BITS: u32 = 36;
const BUCKETS: usize = ((VALUE_BITS - SUB_BUCKET_BITS + 1) as usize) << SUB_BUCKET_BITS;
/// How long a window fills.
pub const WINDOW_US: u64 = 300_000_000;
/// The longest is remembered for a day, in steps of an hour.
const DAY_SLOTS: usize = 25;
const DAY_SLOT_US: u64 = 3_600_000_000;

/// Percentiles of what was recorded; all 0 without samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Percentiles {
    /// How many were recorded.
    pub samples: u64,
    /// The median.
    pub p50_us: u64,
    /// 99 of 100 are not longer.
    pub p99_us: u64,
    /// 999 of 1,000 are not longer.
    pub p999_us: u64,
    /// 9,999 of 10,000 are not longer.
    pub p9999_us: u64,
    /// The longest, exactly.
    pub max_us: u64,
}

#[derive(Clone, Debug)]
struct Window {
    counts: Box<[u32; BUCKETS]>,
    samples: u64,
    max_us: u64,
}

impl Window {
    fn new() -> Self {
        Window { counts: Box::new([0; BUCKETS]), samples: 0, max_us: 0 }
    }

    fn clear(&mut self) {
        if self.samples > 0 {
            self.counts.fill(0);
            (self.samples, self.max_us) = (0, 0);
        }
    }
}

/// Durations of the last one to two windows, usually five to ten minutes, in 8 KiB.
#[derive(Clone, Debug)]
pub struct Distribution {
    window_us: u64,
    filling: Window,
    remembered: Window,
    window_began_us: u64,
}

impl Distribution {
    /// An empty one.
    pub fn new() -> Self {
        Distribution::over(WINDOW_US)
    }

    /// An empty one with windows of another length.
    pub fn over(window_us: u64) -> Self {
        assert!(window_us > 0, "a window has a length");
        Distribution {
            window_us,
            filling: Window::new(),
            remembered: Window::new(),
            window_began_us: 0,
        }
    }

    /// How much time what is told is of, if it was recorded all the while.
    pub fn span_us(&mut self, now_us: u64) -> u64 {
        self.turn(now_us);
        let remembered_us = self.window_us.min(self.window_began_us);
        remembered_us + now_us.saturating_sub(self.window_began_us)
    }

    /// Takes in one duration.
    pub fn record(&mut self, now_us: u64, value_us: u64) {
        self.turn(now_us);
        let count = &mut self.filling.counts[bucket(value_us)];
        *count = count.saturating_add(1);
        self.filling.samples += 1;
        self.filling.max_us = self.filling.max_us.max(value_us);
    }

    /// What is known as of now.
    pub fn percentiles(&mut self, now_us: u64) -> Percentiles {
        self.turn(now_us);
        let samples = self.filling.samples + self.remembered.samples;
        let max_us = self.filling.max_us.max(self.remembered.max_us);
        let mut told = Percentiles { samples, max_us, ..Percentiles::default() };
        if samples == 0 {
            return told;
        }
        let mut wanted = [(5_000_u64, 0), (9_900, 0), (9_990, 0), (9_999, 0)];
        let (mut seen, mut next) = (0, 0);
        let windows = self.filling.counts.iter().zip(self.remembered.counts.iter());
        for (index, (filling, remembered)) in windows.enumerate() {
            seen += u64::from(*filling) + u64::from(*remembered);
            while let Some((share, value)) = wanted.get_mut(next)
                && u128::from(seen) * 10_000 >= u128::from(samples) * u128::from(*share)
            {
                *value = upper_end(index).min(max_us);
                next += 1;
            }
            if next == wanted.len() {
                break;
            }
        }
        let [p50, p99, p999, p9999] = wanted.map(|(_, value)| value);
        (told.p50_us, told.p99_us, told.p999_us, told.p9999_us) = (p50, p99, p999, p9999);
        told
    }

    fn turn(&mut self, now_us: u64) {
        let age_us = now_us.saturating_sub(self.window_began_us);
        if age_us < self.window_us {
            return;
        }
        std::mem::swap(&mut self.filling, &mut self.remembered);
        self.filling.clear();
        if age_us >= 2 * self.window_us {
            self.remembered.clear();
        }
        self.window_began_us = now_us - age_us % self.window_us;
    }
}

impl Default for Distribution {
    fn default() -> Self {
        Distribution::new()
    }
}

/// Which bucket a value falls into.
fn bucket(value_us: u64) -> usize {
    let value = value_us.min((1 << VALUE_BITS) - 1);
    if value < SUB_BUCKETS {
        return value as usize;
    }
    let shift = value.ilog2() - SUB_BUCKET_BITS;
    ((shift as usize) << SUB_BUCKET_BITS) + (value >> shift) as usize
}

/// The largest value of a bucket.
fn upper_end(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * SUB_BUCKETS {
        return bucket;
    }
    let shift = bucket / SUB_BUCKETS - 1;
    let lower = (bucket - shift * SUB_BUCKETS) << shift;
    lower + (1 << shift) - 1
}

/// The longest of the last 24 to 25 hours.
#[derive(Clone, Debug, Default)]
pub struct LongestOfDay {
    slots: [u64; DAY_SLOTS],
    /// The hour of the newest slot.
    hour: u64,
}

impl LongestOfDay {
    /// Takes in one duration.
    pub fn record(&mut self, now_us: u64, value_us: u64) {
        self.turn(now_us);
        let slot = &mut self.slots[self.hour as usize % DAY_SLOTS];
        *slot = (*slot).max(value_us);
    }

    /// The longest as of now; 0 without any.
    pub fn longest_us(&mut self, now_us: u64) -> u64 {
        self.turn(now_us);
        self.slots.iter().copied().max().unwrap_or_default()
    }

    fn turn(&mut self, now_us: u64) {
        let hour = now_us / DAY_SLOT_US;
        let passed = hour.saturating_sub(self.hour).min(DAY_SLOTS as u64);
        for ahead in 1..=passed {
            self.slots[(self.hour + ahead) as usize % DAY_SLOTS] = 0;
        }
        if passed == DAY_SLOTS as u64 {
            self.slots = [0; DAY_SLOTS];
        }
        self.hour = self.hour.max(hour);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upper_end_of_a_bucket_is_at_most_a_thirty_second_above_what_is_in_it() {
        let mut value = 0;
        while value < 1 << VALUE_BITS {
            let end = upper_end(bucket(value));
            assert!(end >= value && end - value <= value / SUB_BUCKETS, "{value}: {end}");
            value += 1 + value / 97;
        }
    }

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        for index in 0..BUCKETS {
            assert_eq!(bucket(upper_end(index)), index);
            if index + 1 < BUCKETS {
                assert_eq!(bucket(upper_end(index) + 1), index + 1);
            }
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_are_the_least_value_that_so_many_do_not_exceed() {
        let mut seen = Distribution::new();
        for value in 1..=10_000 {
            seen.record(0, value);
        }
        let told = seen.percentiles(0);
        assert_eq!((told.samples, told.max_us), (10_000, 10_000));
        for (value, exact) in [
            (told.p50_us, 5_000),
            (told.p99_us, 9_900),
            (told.p999_us, 9_990),
            (told.p9999_us, 9_999),
        ] {
            assert!((exact..=exact + exact / 20).contains(&value), "{value} for {exact}");
        }
    }

    #[test]
    fn no_percentile_is_beyond_the_longest_and_none_is_told_of_nothing() {
        let mut seen = Distribution::new();
        assert_eq!(seen.percentiles(0), Percentiles::default());
        seen.record(0, 1_000_000);
        let told = seen.percentiles(0);
        assert_eq!([told.p50_us, told.p9999_us, told.max_us], [1_000_000; 3]);
    }

    #[test]
    fn a_value_beyond_all_buckets_is_still_the_longest() {
        let mut seen = Distribution::new();
        seen.record(0, u64::MAX);
        assert_eq!(seen.percentiles(0).max_us, u64::MAX);
    }

    #[test]
    fn what_is_told_is_of_five_to_ten_minutes() {
        let mut seen = Distribution::new();
        seen.record(WINDOW_US - 1, 7);
        assert_eq!(seen.percentiles(2 * WINDOW_US - 1).samples, 1);
        seen.record(2 * WINDOW_US - 1, 9);
        assert_eq!(seen.percentiles(2 * WINDOW_US).max_us, 9);
        assert_eq!(seen.percentiles(2 * WINDOW_US).samples, 1);
        assert_eq!(seen.percentiles(9 * WINDOW_US), Percentiles::default());
    }

    #[test]
    fn a_shorter_window_forgets_sooner_and_says_how_much_time_it_is_of() {
        let mut seen = Distribution::over(10);
        seen.record(5, 7);
        assert_eq!((seen.percentiles(9).samples, seen.span_us(9)), (1, 9));
        assert_eq!((seen.percentiles(19).samples, seen.span_us(19)), (1, 19));
        assert_eq!((seen.percentiles(20).samples, seen.span_us(20)), (0, 10));
    }

    #[test]
    fn a_clock_that_goes_back_forgets_nothing() {
        let mut seen = Distribution::new();
        seen.record(3 * WINDOW_US, 5);
        seen.record(0, 6);
        assert_eq!(seen.percentiles(1).samples, 2);
    }

    #[test]
    fn the_longest_is_remembered_for_a_day_and_no_longer_than_a_day_and_an_hour() {
        let mut longest = LongestOfDay::default();
        longest.record(DAY_SLOT_US - 1, 500);
        longest.record(2 * DAY_SLOT_US, 300);
        assert_eq!(longest.longest_us(25 * DAY_SLOT_US - 1), 500);
        assert_eq!(longest.longest_us(25 * DAY_SLOT_US), 300);
        assert_eq!(longest.longest_us(27 * DAY_SLOT_US), 0);
        longest.record(1_000 * DAY_SLOT_US, 4);
        assert_eq!(longest.longest_us(1_000 * DAY_SLOT_US), 4);
        assert_eq!(longest.longest_us(u64::MAX), 0);
    }
}
