//! Requests: arrays of bulk strings, and inline commands, parsed to ranges of the read buffer without copying.

use std::ops::Range;

use memchr::memchr;

/// Bounds on what a client may send.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Arguments of a request.
    pub args: usize,
    /// Bytes of an argument (`proto-max-bulk-len`).
    pub bulk: usize,
    /// Bytes of an inline request.
    pub inline: usize,
}

impl Limits {
    /// What an authenticated client may send.
    #[must_use]
    pub const fn trusted(bulk: usize) -> Self {
        Self { args: 1024 * 1024, bulk, inline: 64 * 1024 }
    }

    /// What a client may send before it has authenticated: 10 arguments of 16 kB, as in Redis.
    pub const UNAUTHENTICATED: Self = Self { args: 10, bulk: 16 * 1024, inline: 64 * 1024 };
}

/// A violation of the protocol. The connection is closed after the error was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The number of arguments is no number, or too large.
    #[error("ERR Protocol error: invalid multibulk length")]
    ArrayLength,
    /// More than 10 arguments before AUTH.
    #[error("ERR Protocol error: unauthenticated multibulk length")]
    UnauthenticatedArrayLength,
    /// More than 16 kB in an argument before AUTH.
    #[error("ERR Protocol error: unauthenticated bulk length")]
    UnauthenticatedBulkLength,
    /// The length of an argument is no number, negative, or too large.
    #[error("ERR Protocol error: invalid bulk length")]
    BulkLength,
    /// An argument does not begin with `$`.
    #[error("ERR Protocol error: expected '$', got '{0}'")]
    ExpectedBulk(char),
    /// An inline request does not end in time.
    #[error("ERR Protocol error: too big inline request")]
    InlineTooBig,
    /// A length does not end in time.
    #[error("ERR Protocol error: too big mbulk count string")]
    CountTooBig,
    /// A length does not end in time.
    #[error("ERR Protocol error: too big bulk count string")]
    BulkCountTooBig,
    /// Quotes of an inline request do not match.
    #[error("ERR Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
}

/// A whole request in the read buffer.
#[derive(Debug, Default)]
pub struct Request {
    /// The arguments as ranges of the buffer, the command's name first.
    pub args: Vec<Range<usize>>,
    /// Arguments of an inline request, which are unquoted and so no ranges of the buffer; used if `args` is empty.
    pub inline: Vec<Vec<u8>>,
    /// Where the request ends in the buffer.
    pub end: usize,
}

/// Arguments that a request keeps room for.
const KEPT_ARGS: usize = 256;

impl Request {
    /// Bytes that it takes besides itself.
    #[must_use]
    pub fn memory(&self) -> usize {
        let inline = self.inline.iter().map(Vec::capacity).sum::<usize>();
        self.args.capacity() * size_of::<Range<usize>>() + inline
    }

    /// Gives back what a request of unusually many arguments took.
    pub fn trim(&mut self) {
        if self.args.capacity() > KEPT_ARGS {
            self.args = Vec::new();
        }
    }
}

/// What the parser found.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A request; it may be empty (a blank line, `*0`), which is skipped.
    Complete,
    /// More bytes are needed.
    Incomplete,
}

/// Parses a connection's requests. It remembers how far an incomplete request was read, so that a big one that arrives
/// in pieces is not read from its start again and again.
#[derive(Debug, Default)]
pub struct RequestParser {
    /// Arguments still to come of the array that is being read, if any.
    pending: Option<usize>,
    /// Where the next argument of that array begins.
    at: usize,
}

/// The longest line that holds a length.
const COUNT_LINE: usize = 64 * 1024;

impl RequestParser {
    /// Reads the request that begins at `start` of `buffer` into `request`. When it is incomplete, call again with the
    /// same start, buffer and request, and more bytes in the buffer.
    ///
    /// # Errors
    /// If the bytes are no request.
    pub fn parse(
        &mut self,
        buffer: &[u8],
        start: usize,
        limits: &Limits,
        request: &mut Request,
    ) -> Result<Parsed, ParseError> {
        let remaining = match self.pending {
            Some(remaining) => remaining,
            None => {
                request.args.clear();
                request.inline.clear();
                match buffer.get(start) {
                    None => return Ok(Parsed::Incomplete),
                    Some(b'*') => {}
                    Some(_) => return inline(buffer, start, limits, request),
                }
                let Some((count, next)) = length(buffer, start + 1, ParseError::CountTooBig)? else {
                    return Ok(Parsed::Incomplete);
                };
                let count = count.ok_or(ParseError::ArrayLength)?;
                if count > limits.args as i64 {
                    let unauthenticated = limits.args <= Limits::UNAUTHENTICATED.args;
                    let refused = unauthenticated && count <= 1024 * 1024;
                    return Err(if refused {
                        ParseError::UnauthenticatedArrayLength
                    } else {
                        ParseError::ArrayLength
                    });
                }
                self.at = next;
                usize::try_from(count).unwrap_or(0)
            }
        };
        self.arguments(buffer, remaining, limits, request)
    }

    fn arguments(
        &mut self,
        buffer: &[u8],
        mut remaining: usize,
        limits: &Limits,
        request: &mut Request,
    ) -> Result<Parsed, ParseError> {
        while remaining > 0 {
            self.pending = Some(remaining);
            match buffer.get(self.at) {
                None => return Ok(Parsed::Incomplete),
                Some(b'$') => {}
                Some(&other) => return Err(ParseError::ExpectedBulk(char::from(other))),
            }
            let Some((len, next)) = length(buffer, self.at + 1, ParseError::BulkCountTooBig)? else {
                return Ok(Parsed::Incomplete);
            };
            let len = len.and_then(|len| usize::try_from(len).ok()).ok_or(ParseError::BulkLength)?;
            if len > limits.bulk {
                let unauthenticated = limits.args <= Limits::UNAUTHENTICATED.args;
                return Err(if unauthenticated {
                    ParseError::UnauthenticatedBulkLength
                } else {
                    ParseError::BulkLength
                });
            }
            if buffer.len() < next + len + 2 {
                return Ok(Parsed::Incomplete);
            }
            request.args.push(next..next + len);
            self.at = next + len + 2;
            remaining -= 1;
        }
        self.pending = None;
        request.end = self.at;
        Ok(Parsed::Complete)
    }

    /// Forgets the unfinished request, which is going to be parsed from its start again.
    pub fn restart(&mut self) {
        self.pending = None;
    }

    /// Tells the parser that `count` bytes before the unfinished request were dropped from the buffer.
    pub fn dropped(&mut self, count: usize, request: &mut Request) {
        if self.pending.is_some() {
            self.at -= count;
            for range in &mut request.args {
                *range = range.start - count..range.end - count;
            }
        }
    }

    /// Bytes that the buffer should hold for the argument that is being read; 0 if unknown.
    #[must_use]
    pub fn wanted(&self, buffer: &[u8]) -> usize {
        let Some(_) = self.pending else { return 0 };
        match length(buffer, self.at + 1, ParseError::BulkCountTooBig) {
            Ok(Some((Some(len), next))) => next + usize::try_from(len).unwrap_or(0) + 2,
            _ => 0,
        }
    }
}

/// A length, which is `None` if it is no number, and where the next thing begins; `None` if more bytes are needed.
type Length = Option<(Option<i64>, usize)>;

/// Reads a length and its line break at `at`.
#[inline]
fn length(buffer: &[u8], at: usize, too_big: ParseError) -> Result<Length, ParseError> {
    // Nearly all lengths are of one or two digits.
    match buffer.get(at..) {
        Some(&[one @ b'0'..=b'9', b'\r', _, ..]) => Ok(Some((Some(i64::from(one - b'0')), at + 3))),
        Some(&[ten @ b'1'..=b'9', one @ b'0'..=b'9', b'\r', _, ..]) => {
            Ok(Some((Some(i64::from((ten - b'0') * 10 + (one - b'0'))), at + 4)))
        }
        _ => any_length(buffer, at, too_big),
    }
}

fn any_length(buffer: &[u8], at: usize, too_big: ParseError) -> Result<Length, ParseError> {
    let rest = buffer.get(at..).unwrap_or_default();
    let Some(cr) = find_within(COUNT_LINE, b'\r', rest) else {
        return if rest.len() > COUNT_LINE { Err(too_big) } else { Ok(None) };
    };
    if rest.len() < cr + 2 {
        return Ok(None);
    }
    let digits = rest.get(..cr).unwrap_or_default();
    Ok(Some((super::parse_i64(digits), at + cr + 2)))
}

/// Where the line ends that `rest` begins with, if that is no longer than `most` bytes: whether it is does not depend on
/// how much of what follows has arrived.
fn find_within(most: usize, end: u8, rest: &[u8]) -> Option<usize> {
    memchr(end, rest.get(..=most).unwrap_or(rest))
}

fn inline(buffer: &[u8], start: usize, limits: &Limits, request: &mut Request) -> Result<Parsed, ParseError> {
    let rest = buffer.get(start..).unwrap_or_default();
    let Some(newline) = find_within(limits.inline, b'\n', rest) else {
        return if rest.len() > limits.inline {
            Err(ParseError::InlineTooBig)
        } else {
            Ok(Parsed::Incomplete)
        };
    };
    let line = rest.get(..newline).unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    request.inline = split_inline(line).ok_or(ParseError::UnbalancedQuotes)?;
    request.end = start + newline + 1;
    Ok(Parsed::Complete)
}

/// Splits a line as `sdssplitargs` does: by spaces, with "..." (escapes \n \r \t \b \a \xHH) and '...' quotes.
fn split_inline(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    kv_core::directive::split_args(line).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse_all(input: &[u8], limits: &Limits) -> Result<Vec<Vec<Vec<u8>>>, ParseError> {
        let (mut parser, mut request, mut start, mut all) =
            (RequestParser::default(), Request::default(), 0, vec![]);
        while parser.parse(input, start, limits, &mut request)? == Parsed::Complete {
            let mut args: Vec<_> = request.args.iter().map(|range| input[range.clone()].to_vec()).collect();
            args.append(&mut request.inline);
            all.push(args);
            start = request.end;
        }
        Ok(all)
    }

    const TRUSTED: Limits = Limits::trusted(512 * 1024 * 1024);

    #[test]
    fn pipelined_requests() {
        let input = b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*0\r\nPING \"a b\"\r\n*1\r\n$4\r\nPI";
        let all = parse_all(input, &TRUSTED).unwrap();
        assert_eq!(
            all,
            vec![vec![b"GET".to_vec(), b"a".to_vec()], vec![], vec![b"PING".to_vec(), b"a b".to_vec()]]
        );
    }

    #[test]
    fn violations_have_the_texts_of_redis() {
        for (input, text) in [
            ("*x\r\n", "ERR Protocol error: invalid multibulk length"),
            ("*2147483648\r\n", "ERR Protocol error: invalid multibulk length"),
            ("*1\r\n:1\r\n", "ERR Protocol error: expected '$', got ':'"),
            ("*1\r\n$-2\r\n", "ERR Protocol error: invalid bulk length"),
            ("*1\r\n$9223372036854775807\r\n", "ERR Protocol error: invalid bulk length"),
            ("SET \"a\r\n", "ERR Protocol error: unbalanced quotes in request"),
        ] {
            assert_eq!(parse_all(input.as_bytes(), &TRUSTED).unwrap_err().to_string(), text, "{input:?}");
        }
        assert_eq!(
            parse_all(b"*11\r\n", &Limits::UNAUTHENTICATED),
            Err(ParseError::UnauthenticatedArrayLength)
        );
        assert_eq!(
            parse_all(b"*1\r\n$16385\r\n", &Limits::UNAUTHENTICATED),
            Err(ParseError::UnauthenticatedBulkLength)
        );
    }

    #[test]
    fn a_line_that_is_too_long_is_refused_however_it_arrives() {
        let count = format!("*{}1\r\n", "0".repeat(COUNT_LINE + 9));
        let bulk = format!("*1\r\n${}1\r\nx\r\n", "0".repeat(COUNT_LINE + 9));
        let inline = format!("PING {}\r\n", "x".repeat(TRUSTED.inline));
        for (input, error) in [
            (count, ParseError::CountTooBig),
            (bulk, ParseError::BulkCountTooBig),
            (inline, ParseError::InlineTooBig),
        ] {
            assert_eq!(parse_all(input.as_bytes(), &TRUSTED), Err(error.clone()), "at once");
            let cut = input.len() - 3;
            assert_eq!(parse_all(&input.as_bytes()[..cut], &TRUSTED), Err(error), "but for its end");
        }
    }

    proptest! {
        #[test]
        fn arrival_in_pieces_changes_nothing(
            requests in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..6), 1..8),
            cuts in prop::collection::vec(1usize..30, 1..60),
        ) {
            let mut input = Vec::new();
            for request in &requests {
                input.extend(format!("*{}\r\n", request.len()).bytes());
                for arg in request {
                    input.extend(format!("${}\r\n", arg.len()).bytes());
                    input.extend(arg);
                    input.extend(b"\r\n");
                }
            }
            let (mut parser, mut request, mut buffer, mut start) = (RequestParser::default(), Request::default(), vec![], 0);
            let mut found = vec![];
            let mut rest = input.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (piece, later) = rest.split_at((*cut).min(rest.len()));
                buffer.extend(piece);
                rest = later;
                while parser.parse(&buffer, start, &TRUSTED, &mut request).unwrap() == Parsed::Complete {
                    found.push(request.args.iter().map(|range| buffer[range.clone()].to_vec()).collect::<Vec<_>>());
                    start = request.end;
                }
                buffer.drain(..start);
                parser.dropped(start, &mut request);
                start = 0;
            }
            prop_assert_eq!(found, requests);
        }

        #[test]
        fn no_bytes_panic(input in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_all(&input, &TRUSTED);
            let mut array = b"*3\r\n".to_vec();
            array.extend(&input);
            let _ = parse_all(&array, &Limits::UNAUTHENTICATED);
        }
    }
}
