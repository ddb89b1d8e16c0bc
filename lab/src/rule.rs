//! What a direction between two places does to packets, in the words of a command line.
//!
//! `delay=40ms jitter=5ms loss=1% reorder=0.1% rate=100mbit queue=256k` or `cut`. Words that are not
//! there keep what was in force; `clear` sets everything back, `heal` ends a cut.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Longest delay, and longest mean of the jitter.
pub const DELAY_MAX: Duration = Duration::from_secs(10);
/// Least rate: a full packet in about a second.
pub const RATE_BITS_MIN: u64 = 16_000;
/// Largest rate that can be asked for; no rule has none at all.
pub const RATE_BITS_MAX: u64 = 100_000_000_000;
/// Bytes that wait for the bandwidth unless the rule says otherwise: a router's buffer.
pub const QUEUE_BYTES: u64 = 256 << 10;
/// Least such queue: one full packet.
pub const QUEUE_BYTES_MIN: u64 = 1 << 16;
/// Largest such queue.
pub const QUEUE_BYTES_MAX: u64 = 64 << 20;

/// What one direction does to packets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// Least time a packet is under way.
    pub delay: Duration,
    /// Mean of what is added to it: exponentially distributed, at most ten times the mean. Packets of
    /// one direction stay in order, as behind one another in a queue.
    pub jitter: Duration,
    /// Part of the packets that is dropped, each by itself; 0 to 1.
    pub loss: f64,
    /// Part of the packets that overtakes: without delay, before all that is under way; 0 to 1.
    pub reorder: f64,
    /// Bits per second; none: no limit.
    pub rate_bits: Option<u64>,
    /// Bytes that may wait for the bandwidth; what is beyond is dropped.
    pub queue_bytes: u64,
    /// Nothing passes.
    pub is_cut: bool,
}

impl Default for Rule {
    fn default() -> Self {
        Rule {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0.0,
            reorder: 0.0,
            rate_bits: None,
            queue_bytes: QUEUE_BYTES,
            is_cut: false,
        }
    }
}

impl Rule {
    /// Half of a round trip, and nothing else.
    pub fn of_rtt(rtt: Duration) -> Self {
        Rule { delay: rtt / 2, ..Rule::default() }
    }

    /// This rule, changed by words.
    pub fn with<'a>(self, words: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut rule = self;
        for word in words {
            rule.change(word).with_context(|| format!("{word:?}"))?;
        }
        Ok(rule)
    }

    fn change(&mut self, word: &str) -> Result<()> {
        let Some((name, value)) = word.split_once('=') else {
            match word {
                "cut" => self.is_cut = true,
                "heal" => self.is_cut = false,
                "clear" => *self = Rule::default(),
                _ => bail!(
                    "not a word of a rule: delay=, jitter=, loss=, reorder=, rate=, queue=, cut, heal, clear"
                ),
            }
            return Ok(());
        };
        match name {
            "delay" => self.delay = duration(value)?,
            "jitter" => self.jitter = duration(value)?,
            "loss" => self.loss = part(value)?,
            "reorder" => self.reorder = part(value)?,
            "rate" => self.rate_bits = rate(value)?,
            "queue" => {
                let bytes = scaled(value, &[("k", 1 << 10), ("m", 1 << 20), ("", 1)])?;
                if !(QUEUE_BYTES_MIN..=QUEUE_BYTES_MAX).contains(&bytes) {
                    bail!("from {QUEUE_BYTES_MIN} to {QUEUE_BYTES_MAX} bytes");
                }
                self.queue_bytes = bytes;
            }
            _ => bail!("no rule has a {name:?}"),
        }
        Ok(())
    }
}

/// `2s`, `40ms`, `0.25ms`, `250us`.
pub fn duration(text: &str) -> Result<Duration> {
    let (number, unit_s) = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0)]
        .into_iter()
        .find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)))
        .with_context(|| "a time has a unit: us, ms or s")?;
    let number: f64 = number.parse().ok().with_context(|| "not a number")?;
    let seconds = number * unit_s;
    if !(0.0..=DELAY_MAX.as_secs_f64()).contains(&seconds) {
        bail!("from 0 to {} s", DELAY_MAX.as_secs());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// `1%` or `0.01`.
fn part(text: &str) -> Result<f64> {
    let (number, unit) = match text.strip_suffix('%') {
        Some(number) => (number, 0.01),
        None => (text, 1.0),
    };
    let part = number.parse::<f64>().ok().with_context(|| "not a number")? * unit;
    if !(0.0..=1.0).contains(&part) {
        bail!("from 0 to 100%");
    }
    Ok(part)
}

/// `10mbit`, `64kbit`, `1gbit`; 0: no limit.
fn rate(text: &str) -> Result<Option<u64>> {
    if text == "0" {
        return Ok(None);
    }
    let bits =
        scaled(text, &[("kbit", 1_000), ("mbit", 1_000_000), ("gbit", 1_000_000_000), ("bit", 1)])?;
    if !(RATE_BITS_MIN..=RATE_BITS_MAX).contains(&bits) {
        bail!("from {RATE_BITS_MIN} to {RATE_BITS_MAX} bit/s; 0: no limit");
    }
    Ok(Some(bits))
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Result<u64> {
    let (number, by) = units
        .iter()
        .find_map(|(unit, by)| Some((text.strip_suffix(unit)?, *by)))
        .with_context(|| "a unit is missing")?;
    let number: u64 = number.parse().ok().with_context(|| "not a whole number")?;
    number.checked_mul(by).with_context(|| "too large")
}

impl fmt::Display for Rule {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |it: Duration| it.as_secs_f64() * 1e3;
        if self.is_cut {
            return to.write_str("cut");
        }
        write!(to, "delay={}ms", ms(self.delay))?;
        if !self.jitter.is_zero() {
            write!(to, " jitter={}ms", ms(self.jitter))?;
        }
        for (name, part) in [("loss", self.loss), ("reorder", self.reorder)] {
            if part > 0.0 {
                write!(to, " {name}={}%", part * 100.0)?;
            }
        }
        if let Some(bits) = self.rate_bits {
            write!(to, " rate={bits}bit queue={}", self.queue_bytes)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_changed_by_the_words_that_are_there_and_keeps_the_rest() {
        let rule = Rule::default()
            .with(
                "delay=0.25ms jitter=500us loss=1% reorder=0.002 rate=10mbit queue=128k".split(' '),
            )
            .unwrap();
        assert_eq!(rule.delay, Duration::from_micros(250));
        assert_eq!(rule.jitter, Duration::from_micros(500));
        assert_eq!((rule.loss, rule.reorder), (0.01, 0.002));
        assert_eq!((rule.rate_bits, rule.queue_bytes), (Some(10_000_000), 128 << 10));
        let cut = rule.with(["cut"]).unwrap();
        assert!(cut.is_cut && cut.delay == rule.delay);
        assert_eq!(cut.with(["heal"]).unwrap(), rule);
        assert_eq!(cut.with(["clear", "delay=1s"]).unwrap().delay, Duration::from_secs(1));
        assert_eq!(rule.with(["rate=0"]).unwrap().rate_bits, None);
    }

    #[test]
    fn nonsense_is_refused_in_one_line_that_names_it() {
        for word in [
            "delay=40",
            "delay=-1ms",
            "delay=NaNms",
            "delay=11s",
            "loss=101%",
            "loss=x",
            "rate=5",
            "rate=1bit",
            "queue=1",
            "queue=1g",
            "nope",
            "nope=1",
            "delay",
            "rate=99999999999gbit",
        ] {
            let error = format!("{:#}", Rule::default().with([word]).unwrap_err());
            assert!(error.contains(word) && !error.contains('\n'), "{word}: {error}");
        }
    }

    #[test]
    fn a_rule_is_shown_in_the_words_that_make_it() {
        let rule =
            Rule::default().with("delay=40ms jitter=5ms loss=1% rate=8mbit".split(' ')).unwrap();
        let shown = rule.to_string();
        assert_eq!(Rule::default().with(shown.split(' ')).unwrap(), rule, "{shown}");
    }
}
