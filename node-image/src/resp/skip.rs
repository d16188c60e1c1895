//! Where a reply ends, for who has replies as bytes and must tell one from the next.

/// Deepest nesting that is looked into. Replies of commands are far flatter.
const MOST_DEPTH: usize = 32;

/// Writes `error` to `out` in place of every reply in `bytes`; pushed messages are no replies and stay. Returns how many
/// replies there were; `None` if `bytes` are no whole replies.
#[must_use]
pub fn fail_replies(mut bytes: &[u8], error: &str, out: &mut Vec<u8>) -> Option<u64> {
    let mut count = 0;
    while let Some(&kind) = bytes.first() {
        let (value, rest) = bytes.split_at_checked(value_len(bytes, MOST_DEPTH)?)?;
        if kind == b'>' {
            out.extend_from_slice(value);
        } else {
            out.extend_from_slice(b"-");
            out.extend_from_slice(error.as_bytes());
            out.extend_from_slice(b"\r\n");
            count += 1;
        }
        bytes = rest;
    }
    Some(count)
}

/// Length of the value at the start of `bytes`.
fn value_len(bytes: &[u8], depth: usize) -> Option<usize> {
    let line = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let number = || std::str::from_utf8(bytes.get(1..line)?).ok()?.parse::<i64>().ok();
    let mut end = line + 2;
    let items = match bytes.first()? {
        b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => 0,
        b'$' | b'=' | b'!' => {
            if let Ok(length) = usize::try_from(number()?) {
                end = end.checked_add(length)?.checked_add(2)?;
            }
            0
        }
        b'*' | b'~' | b'>' => usize::try_from(number()?).unwrap_or(0),
        b'%' => usize::try_from(number()?).ok()?.checked_mul(2)?,
        // An attribute stands before the value that it belongs to.
        b'|' => usize::try_from(number()?).ok()?.checked_mul(2)?.checked_add(1)?,
        _ => return None,
    };
    for _ in 0..items {
        end = end.checked_add(value_len(bytes.get(end..)?, depth.checked_sub(1)?)?)?;
    }
    (end <= bytes.len()).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(bytes: &str) -> Option<(u64, String)> {
        let mut out = Vec::new();
        let count = fail_replies(bytes.as_bytes(), "E", &mut out)?;
        Some((count, String::from_utf8(out).unwrap()))
    }

    #[test]
    fn every_reply_becomes_an_error() {
        for reply in [
            "+OK\r\n",
            "-ERR x\r\n",
            ":1\r\n",
            "$5\r\na\r\nbc\r\n",
            "$-1\r\n",
            "*-1\r\n",
            "*0\r\n",
            "*2\r\n$1\r\na\r\n*1\r\n:1\r\n",
            "%1\r\n+a\r\n~1\r\n#t\r\n",
            "=7\r\ntxt:a\r\n\r\n",
            "_\r\n",
            "|1\r\n+a\r\n+b\r\n:3\r\n",
        ] {
            assert_eq!(failed(reply), Some((1, "-E\r\n".into())), "{reply:?}");
            assert_eq!(failed(&format!("{reply}+OK\r\n")), Some((2, "-E\r\n-E\r\n".into())), "{reply:?}");
        }
        assert_eq!(failed(">2\r\n+a\r\n+b\r\n:1\r\n"), Some((1, ">2\r\n+a\r\n+b\r\n-E\r\n".into())));
        assert_eq!(failed(""), Some((0, String::new())));
    }

    #[test]
    fn what_is_no_whole_reply_is_refused() {
        let deep = "*1\r\n".repeat(1000);
        for bytes in [
            "+OK",
            "$5\r\nabc",
            "*2\r\n:1\r\n",
            "?\r\n",
            "$x\r\n",
            "%-1\r\n",
            "*9223372036854775807\r\n",
            &deep,
        ] {
            assert_eq!(failed(bytes), None, "{bytes:?}");
        }
    }
}
