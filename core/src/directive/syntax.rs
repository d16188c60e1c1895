//! The syntax of redis.conf and of the command line.

use super::{Directive, DirectiveError, Kind, Place, Problem, Value, find, parse_value};

/// A directive that was read, with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Where it was written.
    pub place: Place,
    /// The directive.
    pub directive: &'static Directive,
    /// Its value.
    pub value: Value,
}

/// A quote is open at the end of the text, or a closing quote is not followed by a space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unbalanced quotes")]
pub struct UnbalancedQuotes;

/// Splits a line into words as Redis does for its files and for inline commands: words apart by white space, `"..."` with the escapes
/// `\n \r \t \b \a \xHH \\ \"`, and `'...'` with the escape `\'`.
///
/// # Errors
/// If quotes are not closed, or followed by anything but white space.
pub fn split_args(line: &[u8]) -> Result<Vec<Vec<u8>>, UnbalancedQuotes> {
    let mut args = Vec::new();
    let mut rest = line.trim_ascii_start();
    while !rest.is_empty() && rest.first() != Some(&0) {
        let (arg, after) = next_arg(rest)?;
        args.push(arg);
        rest = after.trim_ascii_start();
    }
    Ok(args)
}

fn next_arg(mut rest: &[u8]) -> Result<(Vec<u8>, &[u8]), UnbalancedQuotes> {
    let mut arg = Vec::new();
    loop {
        rest = match rest {
            [] | [0, ..] => return Ok((arg, &[])),
            [space, ..] if space.is_ascii_whitespace() => return Ok((arg, rest)),
            [b'"', quoted @ ..] => return closed(double_quoted(quoted, &mut arg)?).map(|after| (arg, after)),
            [b'\'', quoted @ ..] => {
                return closed(single_quoted(quoted, &mut arg)?).map(|after| (arg, after));
            }
            [byte, after @ ..] => {
                arg.push(*byte);
                after
            }
        };
    }
}

/// What follows a closing quote: white space, or the end.
fn closed(after: &[u8]) -> Result<&[u8], UnbalancedQuotes> {
    match after {
        [byte, ..] if !byte.is_ascii_whitespace() && *byte != 0 => Err(UnbalancedQuotes),
        _ => Ok(after),
    }
}

fn double_quoted<'a>(mut rest: &'a [u8], arg: &mut Vec<u8>) -> Result<&'a [u8], UnbalancedQuotes> {
    loop {
        rest = match rest {
            [] => return Err(UnbalancedQuotes),
            [b'"', after @ ..] => return Ok(after),
            [b'\\', b'x', high, low, after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                arg.push(hex(*high) * 16 + hex(*low));
                after
            }
            [b'\\', escaped, after @ ..] => {
                arg.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                after
            }
            [byte, after @ ..] => {
                arg.push(*byte);
                after
            }
        };
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => digit.to_ascii_lowercase() - b'a' + 10,
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], arg: &mut Vec<u8>) -> Result<&'a [u8], UnbalancedQuotes> {
    loop {
        rest = match rest {
            [] => return Err(UnbalancedQuotes),
            [b'\'', after @ ..] => return Ok(after),
            [b'\\', b'\'', after @ ..] => {
                arg.push(b'\'');
                after
            }
            [byte, after @ ..] => {
                arg.push(*byte);
                after
            }
        };
    }
}

fn split_text(text: &str) -> Result<Vec<String>, Problem> {
    split_args(text.as_bytes())
        .map_err(|UnbalancedQuotes| Problem::UnbalancedQuotes)?
        .into_iter()
        .map(|arg| String::from_utf8(arg).map_err(|_| Problem::NotUtf8))
        .collect()
}

/// Parses the value of `directive` as it stands in a file, behind the name. Empty means an empty text.
pub(super) fn parse_text(directive: &Directive, text: &str) -> Result<Value, Problem> {
    let args = split_text(text)?;
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    parse_value(directive, if args.is_empty() { &[""] } else { &args })
}

/// Parses the text of a file in the syntax of redis.conf: a directive a line, `#` starts a line of comment. `include` is
/// returned like any other directive; reading the included file at that point is for the caller.
///
/// # Errors
/// The first thing that is wrong, with file and line.
pub fn parse_file(text: &str, file: &str) -> Result<Vec<Setting>, DirectiveError> {
    let mut settings = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let place = Place::File { file: file.to_owned(), line: number };
        let words = split_text(line).map_err(|problem| DirectiveError {
            place: place.clone(),
            name: String::new(),
            problem,
        })?;
        if let Some((name, args)) = words.split_first() {
            settings.push(setting(place, name, args)?);
        }
    }
    Ok(settings)
}

/// Parses flags of the command line: `--name value value --other value`. A flag of yes or no may stand alone for `yes`.
///
/// # Errors
/// The first thing that is wrong, with the flag's name.
pub fn parse_flags<S: AsRef<str>>(argv: &[S]) -> Result<Vec<Setting>, DirectiveError> {
    let mut settings = Vec::new();
    let mut words = argv.iter().map(S::as_ref).peekable();
    while let Some(flag) = words.next() {
        let name = flag.strip_prefix("--").filter(|name| !name.is_empty()).ok_or_else(|| DirectiveError {
            place: Place::Flag,
            name: flag.to_owned(),
            problem: Problem::NotAFlag,
        })?;
        let mut args = Vec::new();
        while let Some(arg) = words.next_if(|word| !word.starts_with("--")) {
            args.push(arg.to_owned());
        }
        if args.is_empty() && super::lookup(name).is_some_and(|directive| directive.kind == Kind::Bool) {
            args.push("yes".to_owned());
        }
        settings.push(setting(Place::Flag, name, &args)?);
    }
    Ok(settings)
}

fn setting(place: Place, name: &str, args: &[String]) -> Result<Setting, DirectiveError> {
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let parsed = find(name).and_then(|directive| {
        let needs_one = args.is_empty();
        if needs_one {
            return Err(Problem::WrongNumberOfArguments { wanted: "at least one argument", got: 0 });
        }
        Ok((directive, parse_value(directive, &args)?))
    });
    match parsed {
        Ok((directive, value)) => Ok(Setting { place, directive, value }),
        Err(problem) => Err(DirectiveError { place, name: name.to_owned(), problem }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(line: &str) -> Option<Vec<String>> {
        let args = split_args(line.as_bytes()).ok()?;
        Some(args.into_iter().map(|arg| String::from_utf8(arg).unwrap()).collect())
    }

    #[test]
    fn lines_split_as_in_redis() {
        for (line, expected) in [
            ("set foo bar", Some(vec!["set", "foo", "bar"])),
            ("  a\t b  ", Some(vec!["a", "b"])),
            (r#"save """#, Some(vec!["save", ""])),
            (r#"a "b c\n\x41\"" 'd \' e'"#, Some(vec!["a", "b c\nA\"", "d ' e"])),
            (r"'\n'", Some(vec!["\\n"])),
            (r#"pre"quoted""#, Some(vec!["prequoted"])),
            (r#""open"#, None),
            (r#""a"b"#, None),
            ("'a'b", None),
            ("", Some(vec![])),
        ] {
            let expected = expected.map(|args| args.into_iter().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(split(line), expected, "{line}");
        }
    }

    fn file_error(text: &str) -> String {
        parse_file(text, "kv.conf").unwrap_err().to_string()
    }

    #[test]
    fn files_are_read_line_by_line() {
        let text = "# comment\nPORT 7000\n\n  save 900 1\nsave 300 10\r\nrequirepass \"a b\"\nslaveof h 1\n";
        let settings = parse_file(text, "kv.conf").unwrap();
        let shown: Vec<_> = settings.iter().map(|s| format!("{}={}", s.directive.name, s.value)).collect();
        assert_eq!(shown, ["port=7000", "save=900 1", "save=300 10", "requirepass=a b", "replicaof=h 1"]);
        assert_eq!(settings[0].place, Place::File { file: "kv.conf".into(), line: 2 });
    }

    #[test]
    fn errors_name_file_line_and_directive() {
        for (text, expected) in [
            (
                "\nappendfsync often",
                "kv.conf:2 'appendfsync': must be one of always, everysec, no; got \"often\"",
            ),
            ("maxmemori 1", "kv.conf:1 'maxmemori': is no directive; did you mean 'maxmemory'?"),
            ("loadmodule x.so", "kv.conf:1 'loadmodule': is no directive"),
            ("logfile \"x", "kv.conf:1: unbalanced quotes"),
            ("port", "kv.conf:1 'port': takes at least one argument; got 0 arguments"),
        ] {
            assert_eq!(file_error(text), format!("*** FATAL CONFIG FILE ERROR *** {expected}"));
        }
    }

    #[test]
    fn flags_take_values_up_to_the_next_flag() {
        let argv = ["--port", "7000", "--save", "", "--replicaof", "h", "1", "--appendonly", "--dir", "-x"];
        let settings = parse_flags(&argv).unwrap();
        let shown: Vec<_> = settings.iter().map(|s| format!("{}={}", s.directive.name, s.value)).collect();
        assert_eq!(shown, ["port=7000", "save=", "replicaof=h 1", "appendonly=yes", "dir=-x"]);
        for (argv, expected) in [
            (["--port", "x"], "--port: must be a whole number from 0 to 65535; got \"x\""),
            (["7000", "--port"], "--7000: a flag starts with --, such as --port 6379"),
        ] {
            let error = parse_flags(&argv).unwrap_err().to_string();
            assert_eq!(error, format!("*** FATAL CONFIG ERROR *** {expected}"));
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[ -~\n\"'\\\\]*") {
            let _ = parse_file(&text, "f");
            let _ = split_args(text.as_bytes());
        }
    }
}
