//! The replication stream's recent past: what replicas are fed from, and what a partial resync needs.

use std::collections::VecDeque;

const BLOCK: usize = 64 * 1024;

/// The last bytes of the replication stream, at least `size` of them, and more while a replica still needs them.
///
/// Positions count the bytes of the stream from its beginning: the byte at position `p` is the one that Redis calls
/// offset `p + 1`, and `end()` is `master_repl_offset`. Replicas hold a position instead of a copy of what they are
/// still to be sent, so a slow one costs nothing but the time until it is cut off.
#[derive(Debug)]
pub struct Backlog {
    blocks: VecDeque<Vec<u8>>,
    start: u64,
    end: u64,
    size: usize,
}

impl Backlog {
    /// An empty backlog at position `end` that keeps `size` bytes.
    #[must_use]
    pub fn new(end: u64, size: usize) -> Self {
        Self { blocks: VecDeque::new(), start: end, end, size }
    }

    /// The oldest position that is kept.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// The position after the last byte.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Bytes that are kept.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Bytes of memory that it takes.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.blocks.iter().map(Vec::capacity).sum()
    }

    /// Those of them beyond its size, which are kept for replicas only.
    #[must_use]
    pub fn surplus(&self) -> usize {
        self.memory().saturating_sub(self.size)
    }

    /// Whether nothing is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Changes how many bytes are kept (`repl-backlog-size`).
    pub fn resize(&mut self, size: usize) {
        self.size = size;
    }

    /// Adds `bytes` at the end.
    pub fn append(&mut self, mut bytes: &[u8]) {
        self.end += bytes.len() as u64;
        while !bytes.is_empty() {
            let room = self.blocks.back().map_or(0, |block| BLOCK - block.len());
            if room == 0 {
                self.blocks.push_back(Vec::with_capacity(BLOCK));
                continue;
            }
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            if let Some(block) = self.blocks.back_mut() {
                block.extend_from_slice(now);
            }
            bytes = later;
        }
    }

    /// The bytes from `position` on, as far as they lie in one piece; empty at the end, `None` if they are gone or
    /// were never there.
    #[must_use]
    pub fn read(&self, position: u64) -> Option<&[u8]> {
        if position < self.start || position > self.end {
            return None;
        }
        let mut at = usize::try_from(position - self.start).ok()?;
        // Blocks are full but for the last, and the first one is never cut.
        let index = at / BLOCK;
        at %= BLOCK;
        match self.blocks.get(index) {
            Some(block) => block.get(at..),
            None => Some(&[]),
        }
    }

    /// Drops whole blocks that neither the size nor a reader at position `needed` asks for.
    pub fn trim(&mut self, needed: u64) {
        while let Some(block) = self.blocks.front() {
            let after = self.start + block.len() as u64;
            if block.len() < BLOCK || after > needed || self.end - after < self.size as u64 {
                return;
            }
            self.start = after;
            self.blocks.pop_front();
        }
    }

    /// Forgets everything and goes on at position `end`: another history was loaded.
    pub fn reset(&mut self, end: u64) {
        self.blocks.clear();
        self.start = end;
        self.end = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(backlog: &Backlog, mut position: u64) -> Vec<u8> {
        let mut all = Vec::new();
        while position < backlog.end() {
            let piece = backlog.read(position).unwrap();
            all.extend_from_slice(piece);
            position += piece.len() as u64;
        }
        all
    }

    #[test]
    fn every_kept_position_can_be_read() {
        let mut backlog = Backlog::new(1000, 3 * BLOCK);
        let bytes: Vec<u8> = (0..10 * BLOCK + 77).map(|i| (i * 31 % 251) as u8).collect();
        for piece in bytes.chunks(1013) {
            backlog.append(piece);
            backlog.trim(u64::MAX);
        }
        assert_eq!(backlog.end(), 1000 + bytes.len() as u64);
        assert!(backlog.len() >= 3 * BLOCK as u64 && backlog.len() < 5 * BLOCK as u64);
        for position in (backlog.start()..=backlog.end()).step_by(997) {
            assert_eq!(tail(&backlog, position), bytes[(position - 1000) as usize..]);
        }
        assert_eq!(backlog.read(backlog.start() - 1), None);
        assert_eq!(backlog.read(backlog.end() + 1), None);
    }

    #[test]
    fn a_reader_keeps_what_it_needs() {
        let mut backlog = Backlog::new(0, 1);
        backlog.append(&vec![1; 8 * BLOCK]);
        backlog.trim(BLOCK as u64 + 5);
        assert_eq!(backlog.start(), BLOCK as u64);
        backlog.trim(u64::MAX);
        assert!(backlog.len() <= 2 * BLOCK as u64);
    }
}
