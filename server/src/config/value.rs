//! Values as Go's flag package reads them, since scripts written for etcd rely on its spellings.

use std::time::Duration;

/// `1`, `t`, `true` and their like.
pub(super) fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("parse error".to_owned()),
    }
}

/// A duration such as `300ms`, `1.5h` or `2h45m`; zero may go without a unit. Negative durations
/// have no use in any setting and are refused.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    const SECOND: f64 = 1e9;
    let error = || format!("time: invalid duration {text:?}");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return Err(error());
    }
    let mut nanos = 0f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = match &rest[..digits] {
            "" | "." => return Err(error()),
            number => number.parse().map_err(|_| error())?,
        };
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => SECOND,
            "m" => 60.0 * SECOND,
            "h" => 3600.0 * SECOND,
            "" => return Err(format!("time: missing unit in duration {text:?}")),
            unit => return Err(format!("time: unknown unit {unit:?} in duration {text:?}")),
        };
        nanos += number * unit;
        rest = &rest[letters..];
    }
    // Go keeps durations in 63 bits of nanoseconds.
    if nanos >= i64::MAX as f64 {
        return Err(error());
    }
    Ok(Duration::from_nanos(nanos.round() as u64))
}

/// A duration that may have a minus in front, in microseconds.
pub(super) fn parse_signed_us(text: &str) -> Result<i64, String> {
    let (size, is_negative) = match text.strip_prefix('-') {
        Some(size) => (size, true),
        None => (text, false),
    };
    let us = i64::try_from(parse_duration(size)?.as_micros())
        .map_err(|_| format!("time: invalid duration {text:?}"))?;
    Ok(if is_negative { -us } else { us })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_in_go() {
        let table = [
            ("0", Ok(0)),
            ("0s", Ok(0)),
            ("100ms", Ok(100_000)),
            ("1.5h", Ok(5_400_000_000)),
            ("2h45m", Ok(9_900_000_000)),
            (".5s", Ok(500_000)),
            ("7us", Ok(7)),
            ("5", Err("time: missing unit in duration \"5\"")),
            ("", Err("time: invalid duration \"\"")),
            ("foo", Err("time: invalid duration \"foo\"")),
            ("-5s", Err("time: invalid duration \"-5s\"")),
            ("5d", Err("time: unknown unit \"d\" in duration \"5d\"")),
            ("1.2.3s", Err("time: invalid duration \"1.2.3s\"")),
            ("9999999999h", Err("time: invalid duration \"9999999999h\"")),
        ];
        for (text, expected) in table {
            let got = parse_duration(text).map(|d| d.as_micros());
            assert_eq!(got, expected.map_err(str::to_owned), "{text:?}");
        }
    }

    #[test]
    fn booleans_read_as_in_go() {
        for text in ["1", "t", "T", "TRUE", "true", "True"] {
            assert_eq!(parse_bool(text), Ok(true));
        }
        for text in ["0", "f", "F", "FALSE", "false", "False"] {
            assert_eq!(parse_bool(text), Ok(false));
        }
        for text in ["", "yes", "tRUE", "2"] {
            assert_eq!(parse_bool(text), Err("parse error".to_owned()));
        }
    }
}
