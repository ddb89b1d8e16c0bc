//! What may happen a thousand times a second is told once in a while, with how many were left out.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// At least this long between two lines about the same thing.
const INTERVAL_US: u64 = 5_000_000;

/// One thing that is told seldom.
#[derive(Debug, Default)]
pub(crate) struct Seldom {
    due_us: AtomicU64,
    left_out: AtomicU64,
}

impl Seldom {
    /// It has happened again. If it is to be told: how many were not since it last was.
    pub(crate) fn is_due(&self, now_us: u64) -> Option<u64> {
        let due_us = self.due_us.load(Relaxed);
        let next_us = now_us.saturating_add(INTERVAL_US);
        // Of those that come at once, one tells.
        let tells = now_us >= due_us
            && self.due_us.compare_exchange(due_us, next_us, Relaxed, Relaxed).is_ok();
        if tells {
            return Some(self.left_out.swap(0, Relaxed));
        }
        self.left_out.fetch_add(1, Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_counted_until_the_next_line() {
        let seldom = Seldom::default();
        assert_eq!(seldom.is_due(7), Some(0));
        assert_eq!(seldom.is_due(8), None);
        assert_eq!(seldom.is_due(6 + INTERVAL_US), None);
        assert_eq!(seldom.is_due(7 + INTERVAL_US), Some(2));
        assert_eq!(seldom.is_due(9 * INTERVAL_US), Some(0));
    }
}
