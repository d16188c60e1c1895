//! Input of a snapshot: counts bytes, sums them up, and decodes lengths and strings.

use std::io::{ErrorKind, Read};

use super::{CRC, RdbError, RdbErrorKind};

/// Bytes that are asked for at once; also the most that a claimed length makes us allocate before its bytes arrived.
const CHUNK: usize = 64 * 1024;

/// The most bytes that one byte of LZF can stand for (3 bytes for 264).
const LZF_RATIO: u64 = 88;

/// A length, or the mark of a specially encoded string.
pub(super) enum Length {
    Plain(u64),
    Encoded(u8),
}

/// A reader with a buffer, an offset and a running checksum.
pub(super) struct Source<R> {
    input: R,
    buffer: Vec<u8>,
    /// What of the buffer was consumed.
    at: usize,
    /// What of the buffer is in the checksum; at most `at`.
    summed: usize,
    /// Offset of the buffer's first byte.
    base: u64,
    crc: crc::Digest<'static, u64, crc::Table<16>>,
}

impl<R: Read> Source<R> {
    pub fn new(input: R) -> Self {
        Self { input, buffer: Vec::new(), at: 0, summed: 0, base: 0, crc: CRC.digest() }
    }

    pub fn offset(&self) -> u64 {
        self.base + self.at as u64
    }

    pub fn error(&self, kind: RdbErrorKind) -> RdbError {
        RdbError { offset: self.offset(), kind }
    }

    pub fn corrupt(&self, what: &'static str) -> RdbError {
        self.error(RdbErrorKind::Corrupt(what))
    }

    /// What was read from the input beyond what was consumed.
    pub fn into_unread(mut self) -> Vec<u8> {
        self.buffer.drain(..self.at);
        self.buffer
    }

    /// The checksum of everything consumed so far.
    pub fn checksum(&mut self) -> u64 {
        self.sum();
        self.crc.clone().finalize()
    }

    fn sum(&mut self) {
        self.crc.update(self.buffer.get(self.summed..self.at).unwrap_or_default());
        self.summed = self.at;
    }

    /// Unconsumed bytes; waits for at least one.
    fn fill(&mut self) -> Result<&[u8], RdbError> {
        if self.at == self.buffer.len() {
            self.sum();
            self.base += self.at as u64;
            (self.at, self.summed) = (0, 0);
            self.buffer.resize(CHUNK, 0);
            let count = loop {
                match self.input.read(&mut self.buffer) {
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    other => break other,
                }
            };
            self.buffer.truncate(*count.as_ref().unwrap_or(&0));
            match count {
                Ok(0) => return Err(self.error(RdbErrorKind::Truncated)),
                Ok(_) => {}
                Err(error) => return Err(self.error(RdbErrorKind::Io(error))),
            }
        }
        Ok(self.buffer.get(self.at..).unwrap_or_default())
    }

    pub fn byte(&mut self) -> Result<u8, RdbError> {
        let byte = self.fill()?.first().copied().unwrap_or_default();
        self.at += 1;
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
            let ready = self.fill()?;
            let count = ready.len().min(usize::try_from(missing).unwrap_or(usize::MAX));
            bytes.extend_from_slice(ready.get(..count).unwrap_or_default());
            self.at += count;
            missing -= count as u64;
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
