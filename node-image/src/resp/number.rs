//! Numbers as Redis reads and writes them.

/// Parses a 64-bit signed integer as Redis does: no spaces, no plus sign, no leading zeros, `-0` refused.
#[must_use]
pub fn parse_i64(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let canonical = match digits {
        b"0" => text.len() == 1,
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if !canonical || text.len() > 20 {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Parses a floating-point number as Redis does: no surrounding spaces, `inf` and exponents allowed, no NaN.
#[must_use]
pub fn parse_f64(text: &[u8]) -> Option<f64> {
    if text.is_empty() || text.len() > 255 {
        return None;
    }
    let text = std::str::from_utf8(text).ok()?;
    // What is only too large for a double is no infinity: that has a name.
    let named = text.bytes().any(|b| b.eq_ignore_ascii_case(&b'i'));
    text.parse::<f64>().ok().filter(|number| !number.is_nan() && (named || number.is_finite()))
}

/// Writes a double in the shortest form that reads back the same, in the notation of C's `%.17g`, as scores are shown:
/// `3`, `0.1`, `1e+20`, `inf`.
#[must_use]
pub fn format_float(number: f64) -> String {
    if number.is_infinite() {
        return if number > 0.0 { "inf".into() } else { "-inf".into() };
    }
    if number == 0.0 {
        return if number.is_sign_negative() { "-0".into() } else { "0".into() };
    }
    let scientific = format!("{number:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-5..17).contains(&exponent) {
        return format!("{number}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_strict() {
        assert_eq!(parse_i64(b"0"), Some(0));
        assert_eq!(parse_i64(b"-9223372036854775808"), Some(i64::MIN));
        for text in ["", "-", "-0", "+1", "01", " 1", "1 ", "9223372036854775808", "1.0", "١"] {
            assert_eq!(parse_i64(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn a_float_that_is_too_large_is_none() {
        assert_eq!(parse_f64(b"1e400"), None);
        assert_eq!(parse_f64(b"-inf"), Some(f64::NEG_INFINITY));
        assert_eq!(parse_f64(b"Infinity"), Some(f64::INFINITY));
        assert_eq!(parse_f64(b"nan"), None);
    }

    #[test]
    fn floats_are_written_as_redis_does() {
        // Replies of a Redis 7.0 server to ZSCORE, in order.
        for (number, text) in [
            (3.0, "3"),
            (0.1, "0.1"),
            (1e20, "1e+20"),
            (123_456_789.5, "123456789.5"),
            (f64::INFINITY, "inf"),
            (-1.5, "-1.5"),
            (1e-7, "1e-07"),
        ] {
            assert_eq!(format_float(number), text);
        }
    }
}
