//! The only place where this crate reads a clock or draws at random. What decides is given both.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds since 1970.
pub(crate) fn now_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// A wait shortened or lengthened by up to a fifth, so that what began together does not return
/// together.
pub(crate) fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.8 + 0.4 * rand::random::<f64>())
}

/// The wait after `failures` failures in a row: it doubles from `first` up to `most`.
pub(crate) fn backoff(failures: u32, first: Duration, most: Duration) -> Duration {
    first.saturating_mul(1_u32 << failures.saturating_sub(1).min(16)).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let (first, most) = (Duration::from_secs(1), Duration::from_secs(60));
        let waits: Vec<u64> = (1..9).map(|n| backoff(n, first, most).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(backoff(u32::MAX, first, most), most);
    }

    #[test]
    fn jitter_stays_within_a_fifth() {
        for _ in 0..100 {
            let wait = jittered(Duration::from_secs(10)).as_secs_f64();
            assert!((8.0..=12.0).contains(&wait), "{wait}");
        }
    }
}
