//! Preferred numbers: timeouts are chosen from the R10 series, ten to a decade.
//!
//! A step of a quarter is the least that makes a difference in practice. What is noise below it never
//! shows as a new plan.

/// Ten steps of a decade.
const SERIES: [u64; 10] = [100, 125, 160, 200, 250, 315, 400, 500, 630, 800];
/// Largest power of ten the series is multiplied by.
const SCALE_MAX: u64 = 1_000_000_000_000;

fn all() -> impl DoubleEndedIterator<Item = u64> {
    let decades = (0..=SCALE_MAX.ilog10()).map(|exponent| 10_u64.pow(exponent));
    decades.flat_map(|scale| SERIES.into_iter().map(move |step| step * scale))
}

/// The least number of the series that is not below `value`.
pub fn grid_up(value: u64) -> u64 {
    all().find(|step| *step >= value).unwrap_or(SCALE_MAX * 800)
}

/// The greatest number of the series that is not above `value`; the least of all below that.
pub fn grid_down(value: u64) -> u64 {
    all().rev().find(|step| *step <= value).unwrap_or(SERIES[0])
}

/// The number of the series for `value` within bounds; where the bounds hold none, the upper one.
pub fn fit(value: u64, min: u64, max: u64) -> u64 {
    assert!(min <= max, "bounds {min} to {max}");
    let up = grid_up(value.clamp(min, max));
    if up <= max {
        return up;
    }
    let down = grid_down(max);
    if down >= min { down } else { max }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_the_series_stay_and_others_go_to_the_next() {
        for (value, up, down) in [
            (0, 100, 100),
            (100, 100, 100),
            (101, 125, 100),
            (300_000, 315_000, 250_000),
            (344_000, 400_000, 315_000),
            (880_000, 1_000_000, 800_000),
            (1_000_000, 1_000_000, 1_000_000),
            (1_000_001, 1_250_000, 1_000_000),
        ] {
            assert_eq!((grid_up(value), grid_down(value)), (up, down), "{value}");
        }
        assert_eq!(grid_up(u64::MAX), SCALE_MAX * 800);
    }

    #[test]
    fn bounds_win_over_the_series() {
        assert_eq!(fit(1, 300_000, 10_000_000), 315_000);
        assert_eq!(fit(u64::MAX, 300_000, 10_000_000), 10_000_000);
        assert_eq!(fit(600_000, 300_000, 600_000), 500_000);
        assert_eq!(fit(1, 300_000, 300_000), 300_000);
        assert_eq!(fit(1, 510_000, 600_000), 600_000);
    }
}
