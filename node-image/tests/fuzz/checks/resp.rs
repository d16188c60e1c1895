//! Requests: how the bytes arrive changes nothing, and nothing exceeds the limits.

use kv_node::resp::{Limits, ParseError, Parsed, Request, RequestParser};

use super::Bytes;

type Requests = Vec<Vec<Vec<u8>>>;

/// Limits that inputs of a few hundred bytes exceed, and those of clients.
const LIMITS: [Limits; 3] =
    [Limits { args: 5, bulk: 20, inline: 30 }, Limits::UNAUTHENTICATED, Limits::trusted(512 * 1024 * 1024)];

/// A connection: what has arrived and is not parsed yet, and what was found.
struct Connection<'a> {
    limits: &'a Limits,
    parser: RequestParser,
    request: Request,
    buffer: Vec<u8>,
    found: Requests,
}

impl<'a> Connection<'a> {
    fn new(limits: &'a Limits) -> Self {
        let (parser, request) = Default::default();
        Self { limits, parser, request, buffer: Vec::new(), found: Vec::new() }
    }

    /// Takes bytes that arrive, in the way of the server.
    fn receive(&mut self, bytes: &[u8]) -> Result<(), ParseError> {
        self.buffer.extend_from_slice(bytes);
        let mut start = 0;
        while self.parser.parse(&self.buffer, start, self.limits, &mut self.request)? == Parsed::Complete {
            let ranges = self.request.args.iter();
            let mut args: Vec<_> = ranges.map(|range| self.buffer[range.clone()].to_vec()).collect();
            args.append(&mut self.request.inline);
            self.check_limits(&args);
            self.found.push(args);
            assert!(self.request.end > start, "a request takes bytes");
            start = self.request.end;
        }
        self.buffer.drain(..start);
        self.parser.dropped(start, &mut self.request);
        let wanted = self.parser.wanted(&self.buffer);
        assert!(wanted <= self.buffer.len() + self.limits.bulk + 2, "{wanted} bytes are wanted");
        Ok(())
    }

    fn check_limits(&self, args: &[Vec<u8>]) {
        let most = self.limits.bulk.max(self.limits.inline);
        assert!(args.iter().all(|arg| arg.len() <= most), "an argument is too long");
        let most = self.limits.args.max(self.limits.inline);
        assert!(args.len() <= most, "there are too many arguments");
    }
}

pub fn check(data: &[u8]) {
    let mut bytes = Bytes(data);
    let limits = &LIMITS[usize::from(bytes.byte()) % LIMITS.len()];
    let cuts = bytes.take(4);
    let input = bytes.0;
    let mut whole = Connection::new(limits);
    let outcome = whole.receive(input);

    let mut cuts = cuts.iter().chain(&[1]).filter(|cut| **cut > 0).cycle();
    let mut pieces = Connection::new(limits);
    let mut rest = input;
    let mut in_pieces = Ok(());
    while in_pieces.is_ok() && !rest.is_empty() {
        let cut = cuts.next().map_or(1, |cut| usize::from(*cut));
        let (piece, later) = rest.split_at(cut.min(rest.len()));
        in_pieces = pieces.receive(piece);
        rest = later;
    }
    assert_eq!(in_pieces, outcome, "the outcome depends on the pieces");
    assert_eq!(pieces.found, whole.found, "the requests depend on the pieces");
    if outcome.is_ok() {
        assert_eq!(pieces.buffer, whole.buffer, "what is left depends on the pieces");
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let inputs: [&[u8]; 8] = [
        b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*0\r\nPING \"a b\"\r\n*1\r\n$4\r\nPING\r\n",
        b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$20\r\nxxxxxxxxxxxxxxxxxxxx\r\n*-1\r\n",
        b"SET 'it''s' \"\\x00\\n\\\"\"\n\r\n\nGET a\n",
        b"*2147483648\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n$9223372036854775807\r\n",
        b"*01\r\n$00004\r\nPING\r\n",
        b"*1\r\n:1\r\n",
    ];
    let seed = |(number, input): (usize, &&[u8])| [&[number as u8, 1, 0, 7, 3], *input].concat();
    inputs.iter().enumerate().map(seed).collect()
}
