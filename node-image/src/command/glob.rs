//! Patterns as in KEYS and SCAN: `*`, `?`, `[a-c]`, `[^a]`, and `\` before a character that is meant as it is.

/// Whether all of `text` fits `pattern`. Takes at most the product of their lengths, whatever the pattern: on a mismatch
/// only the last star is tried again, since the ones before it need not match more.
#[must_use]
pub fn glob_match(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    loop {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            retry = Some((p, t));
            continue;
        }
        match (pattern.get(p..).filter(|rest| !rest.is_empty()), text.get(t)) {
            (None, None) => return true,
            (Some(rest), Some(&byte)) => {
                let (fits, len) = match_one(rest, byte);
                if fits {
                    p += len;
                    t += 1;
                    continue;
                }
            }
            _ => {}
        }
        match retry {
            Some((star, from)) if from < text.len() => {
                retry = Some((star, from + 1));
                (p, t) = (star, from + 1);
            }
            _ => return false,
        }
    }
}

/// Whether the first element of `pattern`, which is not empty and no star, fits `byte`, and how long that element is.
fn match_one(pattern: &[u8], byte: u8) -> (bool, usize) {
    match pattern {
        [b'?', ..] => (true, 1),
        [b'[', class @ ..] => {
            let (fits, len) = match_class(class, byte);
            (fits, len + 1)
        }
        [b'\\', literal, ..] => (*literal == byte, 2),
        [literal, ..] => (*literal == byte, 1),
        [] => (false, 0),
    }
}

/// Whether the class that begins after its `[` holds `byte`, and the length of its text. A class without an end ends
/// with the pattern.
fn match_class(class: &[u8], byte: u8) -> (bool, usize) {
    let negated = class.first() == Some(&b'^');
    let mut at = usize::from(negated);
    let mut fits = false;
    while let Some(rest) = class.get(at..).filter(|rest| !rest.is_empty()) {
        match rest {
            [b'\\', literal, ..] => {
                fits |= *literal == byte;
                at += 2;
            }
            [b']', ..] => return (fits != negated, at + 1),
            [low, b'-', high, ..] => {
                fits |= (*low.min(high)..=*low.max(high)).contains(&byte);
                at += 3;
            }
            [literal, ..] => {
                fits |= *literal == byte;
                at += 1;
            }
            [] => break,
        }
    }
    (fits != negated, at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h*llo", "heeeello", true),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-b]llo", "hbllo", true),
            ("h[b-a]llo", "hbllo", true),
            ("h\\*llo", "h*llo", true),
            ("h\\*llo", "hello", false),
            ("[a", "a", true),
            ("a[", "a", false),
            ("\\", "\\", true),
            ("*a*b*c", "xxaxxbxxc", true),
            ("*a*b*c", "xxaxxcxxb", false),
            ("", "", true),
            ("", "a", false),
            ("a**", "a", true),
            ("[\\]]", "]", true),
        ] {
            assert_eq!(glob_match(pattern.as_bytes(), text.as_bytes()), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        assert!(!glob_match("a*".repeat(1000).as_bytes(), &[b'a'; 999]));
        assert!(!glob_match(&[b"*a".repeat(50), b"b".to_vec()].concat(), &[b'a'; 5000]));
    }

    proptest! {
        #[test]
        fn no_pattern_panics(pattern in "[a-c*?\\[\\]^\\\\-]{0,20}", text in "[a-c\\]]{0,10}") {
            let _ = glob_match(pattern.as_bytes(), text.as_bytes());
        }

        #[test]
        fn stars_and_letters_match_as_a_simple_matcher_says(pattern in "[ab*?]{0,8}", text in "[ab]{0,8}") {
            fn simple(pattern: &[u8], text: &[u8]) -> bool {
                match (pattern, text) {
                    ([], []) => true,
                    ([b'*', rest @ ..], _) => (0..=text.len()).any(|skip| simple(rest, &text[skip..])),
                    ([p, ps @ ..], [t, ts @ ..]) => (*p == b'?' || p == t) && simple(ps, ts),
                    _ => false,
                }
            }
            let expected = simple(pattern.as_bytes(), text.as_bytes());
            prop_assert_eq!(glob_match(pattern.as_bytes(), text.as_bytes()), expected);
        }
    }
}
