//! Input of a snapshot: counts bytes, sums them up, and decodes lengths and strings.

use std::io::{BufRead, ErrorKind};

use super::{CRC, RdbError, RdbErrorKind, lzf};

/// The most that a claimed length makes us allocate before its bytes arrived.
const CHUNK: usize = 64 * 1024;

/// A length, or the mark of a specially encoded string.
pub(super) enum Length {
    Plain(u64),
    Encoded(u8),
}

/// A reader that knows its offset and keeps a running checksum. It consumes nothing beyond what it is asked for, but
/// what it was asked for only at [`Source::settle`], or when more is needed than the input has ready.
pub(super) struct Source<R> {
    input: R,
    /// Bytes that were consumed from the input; they are in the checksum.
    consumed: u64,
    /// How many were taken of those that the input has ready.
    taken: usize,
    crc: crc::Digest<'static, u64, crc::Table<16>>,
    packed: Vec<u8>,
}

impl<R: BufRead> Source<R> {
    pub fn new(input: R) -> Self {
        Self { input, consumed: 0, taken: 0, crc: CRC.digest(), packed: Vec::new() }
    }

    pub fn error(&self, kind: RdbErrorKind) -> RdbError {
        RdbError { offset: self.consumed + self.taken as u64, kind }
    }

    pub fn corrupt(&self, what: &'static str) -> RdbError {
        self.error(RdbErrorKind::Corrupt(what))
    }

    /// The checksum of everything taken so far.
    pub fn checksum(&mut self) -> u64 {
        self.settle();
        self.crc.clone().finalize()
    }

    /// Sums up and consumes what was taken.
    pub fn settle(&mut self) {
        if self.taken > 0 {
            let ready = self.input.fill_buf().unwrap_or_default();
            self.crc.update(ready.get(..self.taken).unwrap_or_default());
            self.input.consume(self.taken);
            self.consumed += self.taken as u64;
            self.taken = 0;
        }
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

    /// What is there and was not taken: at least one byte.
    #[inline]
    fn ready(&mut self) -> Result<&[u8], RdbError> {
        let taken = self.taken;
        if taken == 0 || !self.input.fill_buf().is_ok_and(|ready| ready.len() > taken) {
            self.settle();
            self.wait()?;
        }
        Ok(self.input.fill_buf().unwrap_or_default().get(self.taken..).unwrap_or_default())
    }

    #[inline]
    pub fn byte(&mut self) -> Result<u8, RdbError> {
        let byte = self.ready()?.first().copied().unwrap_or_default();
        self.taken += 1;
        Ok(byte)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], RdbError> {
        if let Some(&array) = self.ready()?.first_chunk() {
            self.taken += N;
            return Ok(array);
        }
        let mut array = [0; N];
        for byte in &mut array {
            *byte = self.byte()?;
        }
        Ok(array)
    }

    /// Appends exactly `len` bytes to `out`. Memory grows with what arrives, not with what is claimed.
    pub fn append(&mut self, len: u64, out: &mut Vec<u8>) -> Result<(), RdbError> {
        let mut missing = len;
        out.reserve(usize::try_from(len).unwrap_or(CHUNK).min(CHUNK));
        while missing > 0 {
            let most = usize::try_from(missing).unwrap_or(usize::MAX);
            let ready = self.ready()?;
            let piece = ready.get(..most).unwrap_or(ready);
            let count = piece.len();
            out.extend_from_slice(piece);
            self.taken += count;
            missing -= count as u64;
        }
        Ok(())
    }

    #[inline]
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

    /// Reads a string over; `out` holds it afterwards, and nothing else.
    pub fn string(&mut self, out: &mut Vec<u8>) -> Result<(), RdbError> {
        out.clear();
        let number = match self.length_or_encoding()? {
            Length::Plain(length) => return self.append(length, out),
            Length::Encoded(0) => i8::from_le_bytes(self.array()?).into(),
            Length::Encoded(1) => i16::from_le_bytes(self.array()?).into(),
            Length::Encoded(2) => i32::from_le_bytes(self.array()?),
            Length::Encoded(3) => return self.compressed(out),
            Length::Encoded(_) => return Err(self.corrupt("an unknown encoding of a string")),
        };
        // As Redis turns small integers back to strings.
        out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
        Ok(())
    }

    /// A string that is soon forgotten.
    pub fn short_string(&mut self) -> Result<Vec<u8>, RdbError> {
        let mut text = Vec::new();
        self.string(&mut text)?;
        Ok(text)
    }

    fn compressed(&mut self, out: &mut Vec<u8>) -> Result<(), RdbError> {
        let len = self.length()?;
        let claimed = self.length()?;
        if claimed > len.saturating_mul(lzf::RATIO) || claimed > i32::MAX as u64 {
            return Err(self.corrupt("a compressed string claims an impossible length"));
        }
        let mut packed = std::mem::take(&mut self.packed);
        packed.clear();
        self.append(len, &mut packed)?;
        let unpacked = lzf::decompress(&packed, usize::try_from(claimed).unwrap_or(0), out);
        self.packed = packed;
        unpacked.ok_or_else(|| self.corrupt("a compressed string does not unpack"))
    }
}
