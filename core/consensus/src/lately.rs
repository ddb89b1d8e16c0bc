//! Extreme values of late, without remembering every one.

/// The extreme value of the present period and of the one before.
#[derive(Debug, Default)]
pub(crate) struct Lately {
    values: [Option<u64>; 2],
    period_end_us: u64,
}

impl Lately {
    /// Takes in a value, `pick` being the least or the greatest of two.
    pub(crate) fn add(
        &mut self,
        now_us: u64,
        period_us: u64,
        value: u64,
        pick: fn(u64, u64) -> u64,
    ) {
        if now_us >= self.period_end_us {
            self.values = [None, self.values[0]];
            self.period_end_us = now_us + period_us;
        }
        self.values[0] = Some(self.values[0].map_or(value, |held| pick(held, value)));
    }

    /// The extreme value of one to two periods; `None`: there was none.
    pub(crate) fn get(&self, pick: fn(u64, u64) -> u64) -> Option<u64> {
        self.values.into_iter().flatten().reduce(pick)
    }
}
