//! Lines that vouch for what stands before them. To Redis and Valkey they are annotations, which they skip.
//!
//! ```text
//! #kv-crc 1a2b3c4d
//! ```
//!
//! The number is a CRC-32. In an incr file it is that of all bytes since the last such line, or since the file's
//! beginning: each write ends with one, so bytes without one behind them are of a write that was not completed, or of
//! another server. In a small file that is written as a whole it stands in the first line, and is that of all others.

use crc32fast::Hasher;

/// Begins such a line.
pub(crate) const MARK: &str = "#kv-crc ";

/// Hexadecimal digits of a checksum.
const DIGITS: usize = 8;

/// The checksum of bytes that no line vouches for yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Checksum {
    hasher: Hasher,
    bytes: u64,
}

impl Checksum {
    /// Adds bytes.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// How many bytes it is of.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn value(&self) -> u32 {
        self.hasher.clone().finalize()
    }
}

/// A text with its checksum in a line before it.
pub(crate) fn seal(text: &str) -> String {
    format!("{}\n{text}", line(of(text.as_bytes())))
}

/// What [`seal`] was given; the bytes as they are if they have no checksum; nothing if it is wrong.
pub(crate) fn open(bytes: &[u8]) -> Option<&[u8]> {
    let end = memchr::memchr(b'\n', bytes).unwrap_or(bytes.len());
    let (first, rest) = bytes.split_at_checked(end)?;
    let rest = rest.get(1..).unwrap_or_default();
    match parse(first) {
        Parsed::Checksum(found) => (found == of(rest)).then_some(rest),
        Parsed::Damaged => None,
        Parsed::Other => Some(bytes),
    }
}

/// The checksum of these bytes.
pub(crate) fn of(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// The line, without a line break.
pub(crate) fn line(checksum: u32) -> String {
    format!("{MARK}{checksum:0DIGITS$x}")
}

/// What a line is, which is given without its line break.
pub(crate) fn parse(line: &[u8]) -> Parsed {
    let Some(digits) = line.strip_prefix(MARK.as_bytes()) else { return Parsed::Other };
    let whole = digits.len() == DIGITS && digits.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(digits).ok().filter(|_| whole);
    match text.map(|text| u32::from_str_radix(text, 16)) {
        Some(Ok(checksum)) => Parsed::Checksum(checksum),
        _ => Parsed::Damaged,
    }
}

/// What a line is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    Checksum(u32),
    /// It begins as a checksum, and does not go on as one.
    Damaged,
    Other,
}

/// Whether there is such a line anywhere in these bytes.
pub(crate) fn is_in(bytes: &[u8]) -> bool {
    memchr::memmem::find_iter(bytes, MARK).any(|at| {
        let rest = bytes.get(at..).unwrap_or_default();
        let begins = at == 0 || bytes.get(at - 1) == Some(&b'\n');
        let line = memchr::memchr(b'\n', rest).and_then(|end| rest.get(..end)?.strip_suffix(b"\r"));
        begins && line.is_some_and(|line| matches!(parse(line), Parsed::Checksum(_)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_back_and_a_damaged_one_is_none() {
        assert_eq!(line(0xab), "#kv-crc 000000ab");
        assert_eq!(parse(b"#kv-crc 000000ab"), Parsed::Checksum(0xab));
        for damaged in
            ["#kv-crc ", "#kv-crc 000000a", "#kv-crc 000000abc", "#kv-crc 000000ag", "#kv-crc +00000ab"]
        {
            assert_eq!(parse(damaged.as_bytes()), Parsed::Damaged, "{damaged}");
        }
        assert_eq!(parse(b"#kv-crd 000000ab"), Parsed::Other);
    }

    #[test]
    fn it_is_found_only_as_a_whole_line() {
        for (bytes, found) in [
            ("#kv-crc 000000ab\r\n", true),
            ("x\r\n#kv-crc 000000ab\r\nx", true),
            ("#kv-crc #kv-crc \n#kv-crc 000000ab\r\n", true),
            ("x#kv-crc 000000ab\r\n", false),
            ("\n#kv-crc 000000ab\r", false),
            ("\n#kv-crc 000000ab\n", false),
        ] {
            assert_eq!(is_in(bytes.as_bytes()), found, "{bytes:?}");
        }
    }
}
