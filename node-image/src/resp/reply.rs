//! Replies, written straight into a connection's output buffer.

use super::number::format_float;

/// Which version of the protocol a connection speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// RESP2, which every connection begins with.
    #[default]
    Resp2,
    /// RESP3, chosen by `HELLO 3`.
    Resp3,
}

/// Writes replies to the end of a buffer.
#[derive(Debug)]
pub struct Reply<'a> {
    out: &'a mut Vec<u8>,
    protocol: Protocol,
    limit: usize,
}

impl<'a> Reply<'a> {
    /// A writer to the end of `out`.
    pub fn new(out: &'a mut Vec<u8>, protocol: Protocol) -> Self {
        Self { out, protocol, limit: usize::MAX }
    }

    /// The same, for a client that is closed as soon as the buffer holds more than `limit` bytes: what would be added
    /// then is left out.
    #[must_use]
    pub fn limited(self, limit: usize) -> Self {
        Self { limit, ..self }
    }

    fn is_full(&self) -> bool {
        self.out.len() > self.limit
    }

    /// The protocol that is written.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Bytes in the buffer.
    #[must_use]
    pub fn position(&self) -> usize {
        self.out.len()
    }

    fn header(&mut self, kind: u8, number: i64) {
        if self.is_full() {
            return;
        }
        self.out.push(kind);
        self.out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    /// `+OK`
    pub fn ok(&mut self) {
        self.out.extend_from_slice(b"+OK\r\n");
    }

    /// A simple string; must hold no line break.
    pub fn simple(&mut self, text: &str) {
        self.out.push(b'+');
        self.out.extend_from_slice(text.as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    /// An error; the text begins with its code, such as `ERR`. Line breaks become spaces.
    pub fn error(&mut self, text: &str) {
        self.out.push(b'-');
        self.out.extend(text.bytes().map(|b| if b == b'\r' || b == b'\n' { b' ' } else { b }));
        self.out.extend_from_slice(b"\r\n");
    }

    /// An integer.
    pub fn integer(&mut self, number: i64) {
        self.header(b':', number);
    }

    /// A count or length as an integer.
    pub fn count(&mut self, number: usize) {
        self.integer(i64::try_from(number).unwrap_or(i64::MAX));
    }

    /// A truth value as Redis' commands return them in both protocols: `:1` or `:0`.
    pub fn one_or_zero(&mut self, truth: bool) {
        self.integer(i64::from(truth));
    }

    /// A bulk string.
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.header(b'$', i64::try_from(bytes.len()).unwrap_or(i64::MAX));
        if self.is_full() {
            return;
        }
        self.out.extend_from_slice(bytes);
        self.out.extend_from_slice(b"\r\n");
    }

    /// A bulk string of an integer's digits.
    pub fn bulk_integer(&mut self, number: i64) {
        self.bulk(itoa::Buffer::new().format(number).as_bytes());
    }

    /// A bulk string, or nil.
    pub fn bulk_or_nil(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bulk(bytes),
            None => self.nil(),
        }
    }

    /// A text for people: verbatim string in RESP3, bulk string in RESP2.
    pub fn verbatim(&mut self, text: &str) {
        match self.protocol {
            Protocol::Resp2 => self.bulk(text.as_bytes()),
            Protocol::Resp3 => {
                self.header(b'=', i64::try_from(text.len() + 4).unwrap_or(i64::MAX));
                self.out.extend_from_slice(b"txt:");
                self.out.extend_from_slice(text.as_bytes());
                self.out.extend_from_slice(b"\r\n");
            }
        }
    }

    /// A missing value: `$-1` or `_`.
    pub fn nil(&mut self) {
        self.out.extend_from_slice(match self.protocol {
            Protocol::Resp2 => b"$-1\r\n",
            Protocol::Resp3 => b"_\r\n",
        });
    }

    /// A missing array: `*-1` or `_`.
    pub fn nil_array(&mut self) {
        self.out.extend_from_slice(match self.protocol {
            Protocol::Resp2 => b"*-1\r\n",
            Protocol::Resp3 => b"_\r\n",
        });
    }

    /// A double: `,1.5`, or a bulk string in RESP2.
    pub fn double(&mut self, number: f64) {
        let text = format_float(number);
        match self.protocol {
            Protocol::Resp2 => self.bulk(text.as_bytes()),
            Protocol::Resp3 => {
                self.out.push(b',');
                self.out.extend_from_slice(text.as_bytes());
                self.out.extend_from_slice(b"\r\n");
            }
        }
    }

    /// The head of an array of `len` replies that follow.
    pub fn array(&mut self, len: usize) {
        self.header(b'*', i64::try_from(len).unwrap_or(i64::MAX));
    }

    /// The head of a set of `len` replies; an array in RESP2.
    pub fn set(&mut self, len: usize) {
        let kind = if self.protocol == Protocol::Resp3 { b'~' } else { b'*' };
        self.header(kind, i64::try_from(len).unwrap_or(i64::MAX));
    }

    /// The head of a push of `len` replies, which is no answer to a request; an array in RESP2.
    pub fn push(&mut self, len: usize) {
        let kind = if self.protocol == Protocol::Resp3 { b'>' } else { b'*' };
        self.header(kind, i64::try_from(len).unwrap_or(i64::MAX));
    }

    /// The head of a map of `len` pairs; an array of twice as many in RESP2.
    pub fn map(&mut self, len: usize) {
        match self.protocol {
            Protocol::Resp3 => self.header(b'%', i64::try_from(len).unwrap_or(i64::MAX)),
            Protocol::Resp2 => self.array(len * 2),
        }
    }

    /// Bytes that are a whole reply already.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(protocol: Protocol, write: impl FnOnce(&mut Reply<'_>)) -> String {
        let mut out = Vec::new();
        write(&mut Reply::new(&mut out, protocol));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_protocols_differ_where_they_should() {
        for (two, three, write) in [
            ("$-1\r\n", "_\r\n", (|r| r.nil()) as fn(&mut Reply<'_>)),
            ("*-1\r\n", "_\r\n", |r| r.nil_array()),
            ("*4\r\n", "%2\r\n", |r| r.map(2)),
            ("*2\r\n", "~2\r\n", |r| r.set(2)),
            ("$3\r\n1.5\r\n", ",1.5\r\n", |r| r.double(1.5)),
            ("$2\r\nhi\r\n", "=6\r\ntxt:hi\r\n", |r| r.verbatim("hi")),
            (":1\r\n", ":1\r\n", |r| r.one_or_zero(true)),
        ] {
            assert_eq!(written(Protocol::Resp2, write), two);
            assert_eq!(written(Protocol::Resp3, write), three);
        }
    }

    #[test]
    fn a_reply_ends_soon_after_its_limit() {
        let mut out = Vec::new();
        let mut reply = Reply::new(&mut out, Protocol::Resp2).limited(1000);
        reply.array(1_000_000);
        (0..1_000_000).for_each(|_| reply.bulk(&[b'x'; 100]));
        (0..1_000_000).for_each(|number| reply.integer(number));
        assert!((1001..1200).contains(&out.len()), "{}", out.len());
    }

    #[test]
    fn an_error_is_one_line() {
        assert_eq!(written(Protocol::Resp2, |r| r.error("ERR a\r\nb")), "-ERR a  b\r\n");
    }
}
