//! What becomes of a snapshot's pieces before they are written: strings are compressed, and all is summed up.

use super::CRC;
use super::lzf::Compressor;
use super::writer::{Piece, push_length};

/// How snapshots are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Compress strings that become shorter by it (`rdbcompression`).
    pub compress: bool,
    /// End with a checksum (`rdbchecksum`).
    pub checksum: bool,
}

impl Default for Format {
    fn default() -> Self {
        Self { compress: true, checksum: true }
    }
}

/// Turns the pieces of a snapshot, in order, into the bytes of its file.
pub struct Finisher {
    compressor: Option<Compressor>,
    crc: Option<crc::Digest<'static, u64, crc::Table<16>>>,
}

impl std::fmt::Debug for Finisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (compress, checksum) = (self.compressor.is_some(), self.crc.is_some());
        f.debug_struct("Finisher").field("compress", &compress).field("checksum", &checksum).finish()
    }
}

impl Finisher {
    /// For a new snapshot.
    #[must_use]
    pub fn new(format: Format) -> Self {
        Self {
            compressor: format.compress.then(Compressor::default),
            crc: format.checksum.then(|| CRC.digest()),
        }
    }

    /// The bytes of the next piece; if that is to go fast, its strings are not compressed.
    pub fn finish(&mut self, piece: Piece, fast: bool) -> Vec<u8> {
        let bytes = match &mut self.compressor {
            Some(compressor) if !fast && !piece.strings.is_empty() => compress(compressor, &piece),
            _ => piece.bytes,
        };
        if let Some(crc) = &mut self.crc {
            crc.update(&bytes);
        }
        bytes
    }

    /// What follows the last piece: the checksum, or zeros for none.
    #[must_use]
    pub fn end(self) -> [u8; 8] {
        self.crc.map_or(0, |crc| crc.finalize()).to_le_bytes()
    }
}

fn compress(compressor: &mut Compressor, piece: &Piece) -> Vec<u8> {
    let mut out = Vec::with_capacity(piece.bytes.len());
    let mut packed = Vec::new();
    let mut done = 0;
    for &at in &piece.strings {
        let Some(text) = piece.bytes.get(at..).and_then(text_at) else { continue };
        packed.clear();
        if !compressor.compress(text, &mut packed) {
            continue;
        }
        out.extend_from_slice(piece.bytes.get(done..at).unwrap_or_default());
        out.push(COMPRESSED);
        push_length(&mut out, packed.len());
        push_length(&mut out, text.len());
        out.extend_from_slice(&packed);
        done = at + head_len(text.len()) + text.len();
    }
    out.extend_from_slice(piece.bytes.get(done..).unwrap_or_default());
    out
}

/// Begins a compressed string.
const COMPRESSED: u8 = 0xc3;

/// The string whose length these bytes begin with.
fn text_at(bytes: &[u8]) -> Option<&[u8]> {
    let (&first, rest) = bytes.split_first()?;
    let (len, text) = match first {
        0..=0x3f => (usize::from(first), rest),
        0x40..=0x7f => {
            let (&low, text) = rest.split_first()?;
            (usize::from(first & 0x3f) << 8 | usize::from(low), text)
        }
        0x80 => {
            let (len, text) = rest.split_first_chunk()?;
            (usize::try_from(u32::from_be_bytes(*len)).ok()?, text)
        }
        _ => return None, // of 4 GB and more: such a one is no case for a fast compression
    };
    text.get(..len)
}

/// Bytes that a length takes.
fn head_len(len: usize) -> usize {
    match len {
        0..=0x3f => 1,
        0x40..=0x3fff => 2,
        _ => 5,
    }
}
