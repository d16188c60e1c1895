//! Input that tells how it is read.

use std::io::{self, BufReader, Read};

/// Bytes that are read at a time.
const PIECE: usize = 1024 * 1024;

/// An input that says of every read how many bytes came; whoever is told may refuse to go on.
pub(crate) struct Watched<R, F> {
    input: R,
    tell: F,
}

impl<R: Read, F: FnMut(usize) -> Result<(), String>> Watched<R, F> {
    /// A buffer over `input`.
    pub(crate) fn buffered(input: R, tell: F) -> BufReader<Self> {
        BufReader::with_capacity(PIECE, Self { input, tell })
    }
}

impl<R: Read, F: FnMut(usize) -> Result<(), String>> Read for Watched<R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        (self.tell)(count).map_err(io::Error::other)?;
        Ok(count)
    }
}
