//! What must hold for any bytes whatever. Each check takes the fuzzer's input, and panics if something does not.

pub mod aof;
pub mod commands;
pub mod rdb;
pub mod resp;

use crate::commands::generate::Source;

/// Bytes that choices are drawn from: all choices are 0 when they are used up.
pub struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    pub fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    /// The next `len` bytes, or what is left.
    pub fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Bytes behind their length, which takes two bytes.
    pub fn part(&mut self) -> &'a [u8] {
        let len = u16::from_le_bytes([self.byte(), self.byte()]);
        self.take(len.into())
    }
}

/// What [`Bytes::part`] reads.
pub fn part(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_le_bytes(), bytes].concat()
}

impl Source for Bytes<'_> {
    fn below(&mut self, end: usize) -> usize {
        let len = if end <= 1 { 0 } else { (end - 1).ilog2() as usize / 8 + 1 };
        (0..len).fold(0, |number, _| number << 8 | usize::from(self.byte())) % end
    }
}
