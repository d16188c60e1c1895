//! Values of directives: parsing, and the canonical text that `CONFIG GET` shows.

use std::fmt;

use super::{Directive, Kind, Problem};

/// A value of a directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Of [`Kind::Bool`].
    Bool(bool),
    /// Of [`Kind::Integer`].
    Integer(i64),
    /// Of [`Kind::Memory`], [`Kind::MemoryFrom`] and [`Kind::MemoryOrPercent`].
    Bytes(u64),
    /// Of [`Kind::MemoryOrPercent`].
    Percent(u8),
    /// Of [`Kind::Enum`].
    Choice(&'static str),
    /// Of [`Kind::Text`], [`Kind::FileName`], [`Kind::Secret`] and [`Kind::EventFlags`].
    Text(String),
    /// Of [`Kind::Words`].
    Words(Vec<String>),
    /// Of [`Kind::HostPort`]; `None` for `no one`.
    HostPort(Option<(String, u16)>),
    /// Of [`Kind::SavePoints`].
    SavePoints(Vec<SavePoint>),
    /// Of [`Kind::OutputLimits`].
    OutputLimits(Vec<OutputLimit>),
}

/// Save after `seconds` if at least `changes` keys changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavePoint {
    /// The time.
    pub seconds: u64,
    /// The changes.
    pub changes: u64,
}

/// Limits of the output that is buffered for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputLimit {
    /// `normal`, `slave` or `pubsub`.
    pub class: &'static str,
    /// Bytes at which the client is closed at once; 0 for no limit.
    pub hard: u64,
    /// Bytes at which it is closed after `seconds`; 0 for no limit.
    pub soft: u64,
    /// For how long the soft limit may be exceeded.
    pub seconds: u64,
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined = |f: &mut fmt::Formatter<'_>, texts: Vec<String>| f.write_str(&texts.join(" "));
        match self {
            Self::Bool(yes) => f.write_str(if *yes { "yes" } else { "no" }),
            Self::Integer(number) => number.fmt(f),
            Self::Bytes(bytes) => bytes.fmt(f),
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Choice(choice) => f.write_str(choice),
            Self::Text(text) => f.write_str(text),
            Self::Words(words) => joined(f, words.clone()),
            Self::HostPort(None) => Ok(()),
            Self::HostPort(Some((host, port))) => write!(f, "{host} {port}"),
            Self::SavePoints(points) => {
                joined(f, points.iter().map(|p| format!("{} {}", p.seconds, p.changes)).collect())
            }
            Self::OutputLimits(limits) => joined(
                f,
                limits.iter().map(|l| format!("{} {} {} {}", l.class, l.hard, l.soft, l.seconds)).collect(),
            ),
        }
    }
}

/// Parses the arguments of `directive`. A directive of several arguments takes them in one text too (`CONFIG SET save
/// "900 1"`).
///
/// # Errors
/// If they are not of the directive's kind.
pub fn parse_value(directive: &Directive, args: &[&str]) -> Result<Value, Problem> {
    match directive.kind {
        Kind::Words => Ok(Value::Words(words(args).map(str::to_owned).collect())),
        Kind::HostPort => host_port(&words(args).collect::<Vec<_>>()),
        Kind::SavePoints => save_points(&words(args).collect::<Vec<_>>()),
        Kind::OutputLimits => output_limits(&words(args).collect::<Vec<_>>()),
        kind => match args {
            [arg] => single(kind, arg),
            _ => Err(Problem::WrongNumberOfArguments { wanted: "one argument", got: args.len() }),
        },
    }
}

fn words<'a>(args: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    args.iter().flat_map(|arg| arg.split_ascii_whitespace())
}

fn single(kind: Kind, arg: &str) -> Result<Value, Problem> {
    match kind {
        Kind::Bool => match arg.to_ascii_lowercase().as_str() {
            "yes" => Ok(Value::Bool(true)),
            "no" => Ok(Value::Bool(false)),
            _ => Err(Problem::bad_value("'yes' or 'no'", arg)),
        },
        Kind::Integer { min, max } => arg
            .parse()
            .ok()
            .filter(|number| (min..=max).contains(number))
            .map(Value::Integer)
            .ok_or_else(|| Problem::bad_value(integer_bounds(min, max), arg)),
        Kind::Memory => memory(arg).map(Value::Bytes),
        Kind::MemoryFrom(min) => match memory(arg)? {
            bytes if bytes < min => {
                Err(Problem::bad_value(format!("a size of at least {}mb", min >> 20), arg))
            }
            bytes => Ok(Value::Bytes(bytes)),
        },
        Kind::MemoryOrPercent => match arg.strip_suffix('%') {
            Some(percent) => {
                percent.parse().ok().filter(|&percent| percent <= 100).map(Value::Percent).ok_or_else(|| {
                    Problem::bad_value("a percentage from 0% to 100%, or a size such as 100mb", arg)
                })
            }
            None => memory(arg).map(Value::Bytes),
        },
        Kind::Enum(choices) => choices
            .iter()
            .find(|choice| choice.eq_ignore_ascii_case(arg))
            .map(|choice| Value::Choice(choice))
            .ok_or_else(|| Problem::bad_value(one_of(choices), arg)),
        Kind::EventFlags => event_flags(arg),
        Kind::FileName if arg.contains(['/', '\\']) || ["", ".", ".."].contains(&arg) => {
            Err(Problem::bad_value("a name without a path", arg))
        }
        Kind::Text
        | Kind::FileName
        | Kind::Secret
        | Kind::Words
        | Kind::HostPort
        | Kind::SavePoints
        | Kind::OutputLimits => Ok(Value::Text(arg.to_owned())),
    }
}

fn one_of(choices: &[&str]) -> String {
    match choices {
        [only] => format!("'{only}'"),
        _ => format!("one of {}", choices.join(", ")),
    }
}

fn integer_bounds(min: i64, max: i64) -> String {
    match (min, max) {
        (i64::MIN, i64::MAX) => "a whole number".to_owned(),
        (min, i64::MAX) => format!("a whole number of at least {min}"),
        (min, max) => format!("a whole number from {min} to {max}"),
    }
}

fn memory(arg: &str) -> Result<u64, Problem> {
    parse_memory(arg).ok_or_else(|| Problem::bad_value("a size such as 100, 64kb, 512mb or 2gb", arg))
}

/// Parses a size as Redis does: bytes, or with a unit `k` (1000), `kb` (1024), `m`, `mb`, `g`, `gb` in any case.
#[must_use]
pub fn parse_memory(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" => 1_000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

fn event_flags(arg: &str) -> Result<Value, Problem> {
    const FLAGS: &str = "KEg$lshzxetdmnA";
    if arg.chars().all(|c| FLAGS.contains(c)) {
        Ok(Value::Text(arg.to_owned()))
    } else {
        Err(Problem::bad_value(format!("letters out of {FLAGS}, or empty"), arg))
    }
}

fn host_port(words: &[&str]) -> Result<Value, Problem> {
    match words {
        [] => Ok(Value::HostPort(None)),
        [no, one] if no.eq_ignore_ascii_case("no") && one.eq_ignore_ascii_case("one") => {
            Ok(Value::HostPort(None))
        }
        [host, port] => port
            .parse()
            .ok()
            .filter(|&port| port > 0)
            .map(|port| Value::HostPort(Some(((*host).to_owned(), port))))
            .ok_or_else(|| Problem::bad_value("a host and a port from 1 to 65535", &words.join(" "))),
        _ => Err(Problem::WrongNumberOfArguments { wanted: "a host and a port", got: words.len() }),
    }
}

fn save_points(words: &[&str]) -> Result<Value, Problem> {
    if !words.len().is_multiple_of(2) {
        return Err(Problem::WrongNumberOfArguments {
            wanted: "pairs of seconds and changes, or an empty text",
            got: words.len(),
        });
    }
    words
        .chunks_exact(2)
        .map(|pair| match pair {
            [seconds, changes] => match (seconds.parse(), changes.parse()) {
                (Ok(seconds @ 1..), Ok(changes)) => Ok(SavePoint { seconds, changes }),
                _ => Err(Problem::bad_value(
                    "pairs of seconds (at least 1) and changes, such as 900 1",
                    &words.join(" "),
                )),
            },
            _ => Err(Problem::bad_value("pairs of seconds and changes", &words.join(" "))),
        })
        .collect::<Result<_, _>>()
        .map(Value::SavePoints)
}

fn output_limits(words: &[&str]) -> Result<Value, Problem> {
    if words.is_empty() || !words.len().is_multiple_of(4) {
        return Err(Problem::WrongNumberOfArguments {
            wanted: "groups of class, hard limit, soft limit and seconds",
            got: words.len(),
        });
    }
    words.chunks_exact(4).map(output_limit).collect::<Result<_, _>>().map(Value::OutputLimits)
}

fn output_limit(group: &[&str]) -> Result<OutputLimit, Problem> {
    let parsed = match group {
        [class, hard, soft, seconds] => output_class(class).and_then(|class| {
            Some(OutputLimit {
                class,
                hard: parse_memory(hard)?,
                soft: parse_memory(soft)?,
                seconds: seconds.parse().ok()?,
            })
        }),
        _ => None,
    };
    parsed.ok_or_else(|| {
        Problem::bad_value(
            "a class (normal, replica or pubsub), two sizes and seconds, such as replica 256mb 64mb 60",
            &group.join(" "),
        )
    })
}

fn output_class(text: &str) -> Option<&'static str> {
    match text.to_ascii_lowercase().as_str() {
        "normal" => Some("normal"),
        "slave" | "replica" => Some("slave"),
        "pubsub" => Some("pubsub"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{DIRECTIVES, lookup};
    use super::*;

    fn shown(name: &str, args: &[&str]) -> String {
        match parse_value(lookup(name).unwrap(), args) {
            Ok(value) => value.to_string(),
            Err(problem) => format!("error: {problem}"),
        }
    }

    #[test]
    fn values_are_shown_as_redis_shows_them() {
        for (name, args, expected) in [
            ("maxmemory", &["1gb"] as &[&str], "1073741824"),
            ("maxmemory", &["1K"], "1000"),
            ("maxmemory-clients", &["5%"], "5%"),
            ("appendonly", &["YES"], "yes"),
            ("appendfsync", &["EverySec"], "everysec"),
            ("save", &["900", "1"], "900 1"),
            ("save", &["900 1 300 10"], "900 1 300 10"),
            ("save", &[""], ""),
            ("replicaof", &["no", "one"], ""),
            ("slaveof", &["db.example", "6380"], "db.example 6380"),
            ("client-output-buffer-limit", &["replica", "1mb", "512kb", "60"], "slave 1048576 524288 60"),
            ("bind", &["127.0.0.1", "-::1"], "127.0.0.1 -::1"),
        ] {
            assert_eq!(shown(name, args), expected, "{name} {args:?}");
        }
    }

    #[test]
    fn bad_values_say_what_is_wanted() {
        for (name, args, expected) in [
            ("appendonly", &["maybe"] as &[&str], "error: must be 'yes' or 'no'; got \"maybe\""),
            ("port", &["70000"], "error: must be a whole number from 0 to 65535; got \"70000\""),
            ("timeout", &[], "error: takes one argument; got 0 arguments"),
            (
                "save",
                &["900"],
                "error: takes pairs of seconds and changes, or an empty text; got 1 arguments",
            ),
            ("daemonize", &["yes"], "error: must be 'no'; got \"yes\""),
            ("maxmemory", &["-1"], "error: must be a size such as 100, 64kb, 512mb or 2gb; got \"-1\""),
            ("dbfilename", &["../x"], "error: must be a name without a path; got \"../x\""),
            ("appendfilename", &["/x"], "error: must be a name without a path; got \"/x\""),
            ("appenddirname", &[".."], "error: must be a name without a path; got \"..\""),
            ("proto-max-bulk-len", &["1"], "error: must be a size of at least 1mb; got \"1\""),
            ("client-query-buffer-limit", &["1000k"], "error: must be a size of at least 1mb; got \"1000k\""),
        ] {
            assert_eq!(shown(name, args), expected, "{name} {args:?}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", Some(0)),
            ("10b", Some(10)),
            ("2mb", Some(2 << 20)),
            ("3G", Some(3_000_000_000)),
            ("", None),
            ("kb", None),
            ("1tb", None),
            ("99999999999gb", None),
        ] {
            assert_eq!(parse_memory(text), bytes, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_shown_is_accepted_again(i in 0..DIRECTIVES.len(), text in ".{0,12}") {
            if let Ok(value) = parse_value(&DIRECTIVES[i], &[&text]) {
                let again = value.to_string();
                prop_assert_eq!(parse_value(&DIRECTIVES[i], &[&again]), Ok(value));
            }
        }
    }
}
