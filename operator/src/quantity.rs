//! Kubernetes' quantities: `8Gi`, `1500m`, `1e3`. The API server writes one value in another form than
//! it was given, so they are compared as numbers.

/// Digits that a quantity may have: more than any amount of bytes or of processors needs, and few
/// enough for 128 bits.
const DIGITS_MAX: usize = 18;
/// Billionths in one: the smallest unit there is.
const ONE: i128 = 1_000_000_000;

/// The value in billionths, rounded up as Kubernetes rounds. None: not a quantity, or one beyond what
/// anything here is measured in.
pub fn billionths(text: &str) -> Option<i128> {
    let (negative, rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if number.is_empty() || number == "." || fraction.contains('.') {
        return None;
    }
    if whole.len() + fraction.len() > DIGITS_MAX {
        return None;
    }
    let digits: i128 = format!("0{whole}{fraction}").parse().ok()?;
    let (times, over) = multiplier(suffix)?;
    let above = digits.checked_mul(times)?.checked_mul(ONE)?;
    let below = over.checked_mul(10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?)?;
    let value = above / below + i128::from(above % below != 0);
    Some(if negative { -value } else { value })
}

/// What a suffix multiplies by: a numerator and a denominator.
fn multiplier(suffix: &str) -> Option<(i128, i128)> {
    let binary = |power: u32| Some((1i128 << (10 * power), 1));
    let decimal = |power: u32| Some((10i128.pow(power), 1));
    match suffix {
        "n" => Some((1, ONE)),
        "u" => Some((1, 1_000_000)),
        "m" => Some((1, 1_000)),
        "" => Some((1, 1)),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10i128.checked_pow(exponent.unsigned_abs())?;
            Some(if exponent < 0 { (1, power) } else { (power, 1) })
        }
    }
}

/// The value as a whole number, of bytes for example, rounded up.
pub fn bytes(text: &str) -> Option<i64> {
    let value = billionths(text)?;
    let whole = value.div_euclid(ONE) + i128::from(value.rem_euclid(ONE) != 0);
    i64::try_from(whole).ok()
}

/// Whether two texts name the same value.
pub fn equal(a: &str, b: &str) -> bool {
    a == b || billionths(a).is_some_and(|value| Some(value) == billionths(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_have_the_values_that_kubernetes_gives_them() {
        let table = [
            ("8Gi", Some(8 << 30)),
            ("1536Ki", Some(1536 << 10)),
            ("1.5Gi", Some(3 << 29)),
            ("100M", Some(100_000_000)),
            ("1e3", Some(1000)),
            ("1E3", Some(1000)),
            ("1E", Some(1_000_000_000_000_000_000)),
            ("12e-1", Some(2)),
            ("500m", Some(1)),
            ("+5", Some(5)),
            ("-1", Some(-1)),
            ("0", Some(0)),
            (".5", Some(1)),
            ("5.", Some(5)),
            ("8Ei", None),
            ("", None),
            ("-", None),
            (".", None),
            ("1.2.3", None),
            ("1Gb", None),
            ("1 Gi", None),
            ("ten", None),
            ("1e99", None),
            ("99999999999999999999", None),
        ];
        for (text, value) in table {
            assert_eq!(bytes(text), value, "{text:?}");
        }
    }

    #[test]
    fn one_value_in_two_forms_is_equal() {
        for (a, b) in [("1000m", "1"), ("1Gi", "1024Mi"), ("0.5", "500m"), ("1e3", "1k")] {
            assert!(equal(a, b), "{a} {b}");
        }
        assert!(!equal("1G", "1Gi"));
        assert!(!equal("x", "y"));
        assert!(equal("x", "x"));
    }
}
