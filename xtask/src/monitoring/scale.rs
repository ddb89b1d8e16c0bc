//! Rules on another scale of time: for a test that has seconds instead of minutes, or for a cluster
//! that is to be watched more patiently. The chart does the same with its templates; a test holds the
//! two together.

use anyhow::{Context, Result, ensure};

/// Shortest range of samples that is asked for, in milliseconds.
const WINDOW_MS_MIN: u64 = 1000;

/// By what durations are multiplied.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scale {
    /// How long a condition has to hold.
    pub(super) holds: f64,
    /// How far back rates look.
    pub(super) windows: f64,
}

impl Scale {
    /// As written.
    pub(super) const ONE: Scale = Scale { holds: 1.0, windows: 1.0 };

    /// A `for`.
    pub(super) fn hold(self, duration: &str) -> String {
        scaled(duration, self.holds, 0)
    }

    /// Ranges of a query: `[5m]`, `[15m:1m]`.
    pub(super) fn query(self, query: &str) -> String {
        let mut text = String::with_capacity(query.len());
        let mut rest = query;
        while let Some((before, after)) = rest.split_once('[') {
            let Some((range, after)) = after.split_once(']') else { break };
            let ranges: Vec<String> =
                range.split(':').map(|part| scaled(part, self.windows, WINDOW_MS_MIN)).collect();
            text.push_str(before);
            text.push('[');
            text.push_str(&ranges.join(":"));
            text.push(']');
            rest = after;
        }
        text.push_str(rest);
        text
    }
}

fn scaled(duration: &str, by: f64, ms_min: u64) -> String {
    if (by - 1.0).abs() < f64::EPSILON {
        return duration.to_owned();
    }
    let Some(ms) = milliseconds(duration) else { return duration.to_owned() };
    let ms = ((ms as f64 * by).round() as u64).max(ms_min);
    format!("{ms}ms")
}

/// A duration of one unit, as all here are.
fn milliseconds(duration: &str) -> Option<u64> {
    let digits = duration.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let unit = match &duration[digits.len()..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// A factor from the command line.
pub(super) fn factor(option: &str, text: &str) -> Result<f64> {
    let factor: f64 = text.parse().with_context(|| format!("{option}: {text:?} is no number"))?;
    ensure!((0.0..=1000.0).contains(&factor), "{option}: {text} is not from 0 to 1000");
    Ok(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_multiplied_and_windows_stay_above_a_second() {
        let tenth = Scale { holds: 0.1, windows: 0.001 };
        assert_eq!(tenth.hold("5m"), "30000ms");
        assert_eq!(tenth.query("rate(a[5m]) + b[1d:1h]"), "rate(a[1000ms]) + b[86400ms:3600ms]");
        assert_eq!(Scale { holds: 0.0, windows: 1.0 }.hold("5m"), "0ms");
        assert_eq!(Scale::ONE.query("rate(a[5m])"), "rate(a[5m])");
    }

    #[test]
    fn a_factor_is_a_number_from_0_to_1000() {
        assert_eq!(factor("--for-scale", "0.05").unwrap(), 0.05);
        for bad in ["x", "-1", "NaN", "1001"] {
            assert!(factor("--for-scale", bad).is_err(), "{bad}");
        }
    }
}
