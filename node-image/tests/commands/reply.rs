//! Replies, read and made comparable.

use std::io::BufRead;

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reply {
    /// Everything that is one line, its kind first.
    Line(String),
    Bulk(Vec<u8>),
    /// Kind and elements.
    Array(char, Vec<Reply>),
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Line(line) => f.write_str(line),
            Self::Bulk(bytes) => write!(f, "\"{}\"", bytes.escape_ascii()),
            Self::Array(kind, items) => {
                write!(f, "{kind}")?;
                f.debug_list().entries(items).finish()
            }
        }
    }
}

impl Reply {
    pub fn read(input: &mut impl BufRead) -> Self {
        let mut line = Vec::new();
        input.read_until(b'\n', &mut line).expect("a reply");
        let line = String::from_utf8(line).expect("a line of text");
        let line = line.strip_suffix("\r\n").unwrap_or_else(|| panic!("a whole line, not {line:?}"));
        let len = line.get(1..).and_then(|len| len.parse::<i64>().ok());
        match (line.chars().next(), len) {
            (Some('$'), Some(len @ 0..)) => {
                let mut bytes = vec![0; len as usize + 2];
                input.read_exact(&mut bytes).expect("a bulk string");
                assert!(bytes.ends_with(b"\r\n"), "a bulk string ends its line");
                bytes.truncate(len as usize);
                Self::Bulk(bytes)
            }
            (Some(kind @ ('*' | '~' | '%')), Some(len @ 0..)) => {
                let count = if kind == '%' { len * 2 } else { len };
                Self::Array(kind, (0..count).map(|_| Self::read(input)).collect())
            }
            _ => Self::Line(line.into()),
        }
    }

    /// Whether both are moments or spans between which there is no more than the time between two executions.
    pub fn is_about(&self, other: &Self, seconds: bool) -> bool {
        let number = |reply: &Self| match reply {
            Self::Line(line) => line.strip_prefix(':')?.parse::<i64>().ok().filter(|number| *number > 0),
            _ => None,
        };
        let (Some(a), Some(b)) = (number(self), number(other)) else { return false };
        a.abs_diff(b) <= if seconds { 5 } else { 5000 }
    }

    /// Whether both are numbers that differ no more than by the rounding of a sum with an addend of this size.
    pub fn is_near(&self, other: &Self, addend: f64) -> bool {
        let number = |reply: &Self| match reply {
            Self::Bulk(bytes) => std::str::from_utf8(bytes).ok()?.parse::<f64>().ok(),
            _ => None,
        };
        let (Some(a), Some(b)) = (number(self), number(other)) else { return false };
        (a - b).abs() <= a.abs().max(addend.abs()).max(1.0) * 1e-14
    }

    /// Whether it is the reply to a SCAN that has to go on: cursors differ.
    pub fn is_partial_scan(&self) -> bool {
        matches!(self, Self::Array(_, items) if items.first() != Some(&Self::Bulk(b"0".to_vec())))
    }

    /// What has to be the same for the command `name`: not the order of what has none, not the choices of chance, and
    /// not how many digits of a large score are shown, which differs between versions of Redis, and not the sign of 0, which differs between its encodings.
    pub fn comparable(mut self, name: &str, args: usize) -> Self {
        self.shorten_numbers();
        match name {
            "SCAN" | "SSCAN" => self.map_items(1, |items| items.sort()),
            "HSCAN" | "ZSCAN" => self.map_items(1, sort_pairs),
            "HGETALL" => self.map_all(sort_pairs),
            "HKEYS" | "HVALS" | "SMEMBERS" | "SINTER" | "SUNION" | "SDIFF" | "KEYS" | "SPOP" => {
                self.map_all(|items| items.sort())
            }
            "SRANDMEMBER" | "HRANDFIELD" | "ZRANDMEMBER" if args > 2 => {
                self.map_all(|items| items.iter_mut().for_each(blank))
            }
            "SRANDMEMBER" | "HRANDFIELD" | "ZRANDMEMBER" => {
                let mut reply = self;
                blank(&mut reply);
                reply
            }
            _ => self,
        }
    }

    fn shorten_numbers(&mut self) {
        let shortened = |text: &str| match text {
            "-0" => Some("0".to_owned()),
            _ if text.contains("e+") => Some(format!("{:e}", text.parse::<f64>().ok()?)),
            _ => None,
        };
        match self {
            Self::Array(_, items) => items.iter_mut().for_each(Self::shorten_numbers),
            Self::Bulk(bytes) => {
                if let Some(text) = std::str::from_utf8(bytes).ok().and_then(shortened) {
                    *bytes = text.into_bytes();
                }
            }
            Self::Line(line) => {
                if let Some(text) = line.strip_prefix(',').and_then(shortened) {
                    *line = format!(",{text}");
                }
            }
        }
    }

    fn map_all(self, change: impl FnOnce(&mut Vec<Reply>)) -> Self {
        match self {
            Self::Array(kind, mut items) => {
                change(&mut items);
                Self::Array(kind, items)
            }
            other => other,
        }
    }

    fn map_items(self, index: usize, change: impl FnOnce(&mut Vec<Reply>)) -> Self {
        self.map_all(|items| {
            if let Some(Self::Array(_, items)) = items.get_mut(index) {
                change(items);
            }
        })
    }
}

fn sort_pairs(items: &mut Vec<Reply>) {
    let mut pairs: Vec<_> = items.chunks(2).map(<[Reply]>::to_vec).collect();
    pairs.sort();
    *items = pairs.concat();
}

/// Forgets contents, keeps shape.
fn blank(reply: &mut Reply) {
    match reply {
        Reply::Bulk(bytes) => bytes.clear(),
        Reply::Array(_, items) => items.iter_mut().for_each(blank),
        Reply::Line(line) if line.starts_with(',') => line.truncate(1),
        Reply::Line(_) => {}
    }
}
