//! Input of a snapshot: counts bytes, sums them up, and decodes lengths and strings.

use std::io::{BufRead, ErrorKind};

use super::{CRC, RdbError, RdbErrorKind};

/// The most that a claimed length makes us allocate before its bytes arrived.
const CHUNK: usize = 64 * 1024;

/// The most bytes that one byte of LZF can stand for (3 bytes for 264).
const LZF_RATIO: u64 = 88;

/// A length, or the mark of a specially encoded string.
pub(super) enum Length {
    Plain(u64),
    Encoded(u8),
}

/// A reader that knows its offset and keeps a running checksum. It consumes nothing beyond what it is asked for.
pub(super) struct Source<R> {
    input: R,
    offset: u64,
    crc: crc::Digest<'static, u64, crc::Table<16>>,
}

impl<R: BufRead> Source<R> {
    pub fn new(input: R) -> Self {
        Self { input, offset: 0, crc: CRC.digest() }
    }

    pub fn error(&self, kind: RdbErrorKind) -> RdbError {
        RdbError { offset: self.offset, kind }
    }

    pub fn corrupt(&self, what: &'static str) -> RdbError {
        self.error(RdbErrorKind::Corrupt(what))
    }

    /// The checksum of everything consumed so far.
    pub fn checksum(&self) -> u64 {
        self.crc.clone().finalize()
    }

    /// Waits until at least one byte is there.
    fn wait(&mut self) -> Result<(), RdbError> {
        loop {
            match self.input.fill_buf() {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.error(RdbErrorKind::Io(error))),
                Ok([]) => return Err(self.error(RdbErrorKind::Truncated)),
                Ok(_) => return Ok(()),
            }
        }
    }

    /// Consumes at least one and at most `most` bytes that are there, and shows them.
    fn consume(&mut self, most: usize, show: impl FnOnce(&[u8])) -> Result<usize, RdbError> {
        self.wait()?;
        let ready = self.input.fill_buf().unwrap_or_default();
        let taken = ready.get(..most).unwrap_or(ready);
        let count = taken.len();
        self.crc.update(taken);
        show(taken);
        self.input.consume(count);
        self.offset += count as u64;
        Ok(count)
    }

    pub fn byte(&mut self) -> Result<u8, RdbError> {
        let mut byte = 0;
        self.consume(1, |bytes| byte = bytes.first().copied().unwrap_or_default())?;
        Ok(byte)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], RdbError> {
        let mut array = [0; N];
        for byte in &mut array {
            *byte = self.byte()?;
        }
        Ok(array)
    }

    /// Exactly `len` bytes. Memory grows with what arrives, not with what is claimed.
    pub fn bytes(&mut self, len: u64) -> Result<Vec<u8>, RdbError> {
        let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(CHUNK).min(CHUNK));
        let mut missing = len;
        while missing > 0 {
            let most = usize::try_from(missing).unwrap_or(usize::MAX);
            missing -= self.consume(most, |ready| bytes.extend_from_slice(ready))? as u64;
        }
        Ok(bytes)
    }

    pub fn length_or_encoding(&mut self) -> Result<Length, RdbError> {
        let first = self.byte()?;
        Ok(match first >> 6 {
            0 => Length::Plain(u64::from(first & 0x3f)),
            1 => Length::Plain(u64::from(first & 0x3f) << 8 | u64::from(self.byte()?)),
            2 => match first {
                0x80 => Length::Plain(u64::from(u32::from_be_bytes(self.array()?))),
                0x81 => Length::Plain(u64::from_be_bytes(self.array()?)),
                _ => return Err(self.corrupt("an unknown encoding of a length")),
            },
            _ => Length::Encoded(first & 0x3f),
        })
    }

    pub fn length(&mut self) -> Result<u64, RdbError> {
        match self.length_or_encoding()? {
            Length::Plain(length) => Ok(length),
            Length::Encoded(_) => Err(self.corrupt("an encoded string where a length must be")),
        }
    }

    pub fn string(&mut self) -> Result<Vec<u8>, RdbError> {
        match self.length_or_encoding()? {
            Length::Plain(length) => self.bytes(length),
            Length::Encoded(0) => Ok(decimal(i8::from_le_bytes(self.array()?).into())),
            Length::Encoded(1) => Ok(decimal(i16::from_le_bytes(self.array()?).into())),
            Length::Encoded(2) => Ok(decimal(i32::from_le_bytes(self.array()?).into())),
            Length::Encoded(3) => self.compressed(),
            Length::Encoded(_) => Err(self.corrupt("an unknown encoding of a string")),
        }
    }

    fn compressed(&mut self) -> Result<Vec<u8>, RdbError> {
        let packed = self.length()?;
        let length = self.length()?;
        if length > packed.saturating_mul(LZF_RATIO) || length > i32::MAX as u64 {
            return Err(self.corrupt("a compressed string claims an impossible length"));
        }
        let data = self.bytes(packed)?;
        let size = usize::try_from(length).unwrap_or(0);
        match lzf::decompress(&data, size) {
            Ok(text) if text.len() == size => Ok(text),
            _ => Err(self.corrupt("a compressed string does not unpack")),
        }
    }
}

/// A number as text, as Redis turns small integers back to strings.
pub(super) fn decimal(number: i64) -> Vec<u8> {
    itoa::Buffer::new().format(number).as_bytes().to_vec()
}
