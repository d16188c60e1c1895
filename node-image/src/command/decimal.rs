//! Sums of decimal numbers as INCRBYFLOAT and HINCRBYFLOAT show them.
//!
//! Redis adds in 80-bit floats and shows 17 digits after the point, so that 0.1 and 0.2 make 0.3. Numbers that fit are
//! added here exactly, as integers scaled by 10^17; all others as doubles.

use crate::resp::parse_f64;

const DIGITS: u32 = 17;
const SCALE: i128 = 10i128.pow(DIGITS);

/// Why there is no sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoSum {
    /// The first text is no number.
    First,
    /// The second text is no number.
    Second,
    /// The sum is infinite or not a number.
    NotFinite,
}

/// The sum of two numbers in Redis' notation.
pub(super) fn sum(a: &[u8], b: &[u8]) -> Result<String, NoSum> {
    let second = parse_f64(b).ok_or(NoSum::Second)?;
    let first = parse_f64(a).ok_or(NoSum::First)?;
    if let (Some(a), Some(b)) = (scaled(a), scaled(b))
        && let Some(sum) = a.checked_add(b)
    {
        return Ok(show(sum));
    }
    let sum = first + second;
    if !sum.is_finite() {
        return Err(NoSum::NotFinite);
    }
    Ok(trimmed(format!("{sum:.17}")))
}

/// A number of the form `-12.5e3` times 10^17, if that is an integer and fits.
fn scaled(text: &[u8]) -> Option<i128> {
    let text = std::str::from_utf8(text).ok()?;
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let exponent: i32 = exponent.parse().ok()?;
    let negative = mantissa.starts_with('-');
    let digits = mantissa.strip_prefix(['-', '+']).unwrap_or(mantissa);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let shift = exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?.checked_add(DIGITS as i32)?;
    let mut number: i128 = 0;
    for digit in whole.bytes().chain(fraction.bytes()) {
        let digit = digit.is_ascii_digit().then(|| i128::from(digit - b'0'))?;
        number = number.checked_mul(10)?.checked_add(digit)?;
    }
    let power = 10i128.checked_pow(shift.unsigned_abs())?;
    let number = if shift >= 0 {
        number.checked_mul(power)?
    } else {
        (number % power == 0).then_some(number / power)?
    };
    Some(if negative { -number } else { number })
}

fn show(number: i128) -> String {
    let sign = if number < 0 { "-" } else { "" };
    let (whole, fraction) = (number.unsigned_abs() / SCALE as u128, number.unsigned_abs() % SCALE as u128);
    trimmed(format!("{sign}{whole}.{fraction:017}"))
}

fn trimmed(text: String) -> String {
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_redis() {
        // Replies of a Redis 7.0 server to INCRBYFLOAT.
        for (a, b, expected) in [
            ("0.1", "0.2", "0.3"),
            ("10.50", "0.1", "10.6"),
            ("5.0e3", "2.0e2", "5200"),
            ("0", "-1.5", "-1.5"),
            ("3", "-3", "0"),
            ("1e17", "1", "100000000000000001"),
            ("+1", ".5", "1.5"),
        ] {
            assert_eq!(sum(a.as_bytes(), b.as_bytes()).as_deref(), Ok(expected), "{a} + {b}");
        }
        assert_eq!(sum(b"1", b"inf"), Err(NoSum::NotFinite));
        assert_eq!(sum(b"inf", b"-inf"), Err(NoSum::NotFinite));
        assert_eq!(sum(b"x", b"1"), Err(NoSum::First));
        assert_eq!(sum(b"1", b"1 "), Err(NoSum::Second));
        assert!(sum(b"1e300", b"1").is_ok_and(|text| text.len() == 301));
    }
}
