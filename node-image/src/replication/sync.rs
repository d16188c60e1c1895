//! A snapshot on its way to the replicas that asked for one.

use crate::keyspace::Keyspace;
use crate::persist::rdb::{Aux, Finisher, Format};
use crate::persist::snapshot::{Aborted, Walker};
use crate::server::ClientKey;

/// Entries that are serialised in one go, so that clients wait for no longer than that.
const STEP_BYTES: usize = 256 * 1024;

/// A snapshot on its way to the replicas that asked for one.
#[derive(Debug)]
pub struct SyncJob {
    /// Who gets it.
    pub sinks: Vec<ClientKey>,
    /// 40 characters that end it.
    pub mark: String,
    walker: Walker,
    /// `None` after the last piece.
    finisher: Option<Finisher>,
}

/// What a step brought.
#[derive(Debug)]
pub struct Chunk {
    /// Bytes to be sent.
    pub bytes: Vec<u8>,
    /// Whether these were the last.
    pub finished: bool,
}

impl SyncJob {
    /// Begins a snapshot of what the keyspace holds now.
    pub fn start(keyspace: &mut Keyspace, aux: &Aux, sinks: Vec<ClientKey>, mark: String) -> Self {
        // It is finished on the data thread, which has no time to compress.
        let finisher = Some(Finisher::new(Format { compress: false, ..Format::default() }));
        Self { sinks, mark, walker: Walker::start(keyspace, aux), finisher }
    }

    /// Serialises a part of what is still to come.
    ///
    /// # Errors
    /// If the keyspace was replaced or flushed meanwhile.
    pub fn step(&mut self, keyspace: &mut Keyspace) -> Result<Chunk, Aborted> {
        let finished = self.walker.step(keyspace, STEP_BYTES)?;
        Ok(self.chunk(finished))
    }

    /// Takes what writes to unvisited slots have serialised.
    ///
    /// # Errors
    /// If the keyspace was replaced or flushed meanwhile.
    pub fn idle(&mut self) -> Result<Chunk, Aborted> {
        Ok(self.chunk(false))
    }

    fn chunk(&mut self, finished: bool) -> Chunk {
        let piece = self.walker.take_output();
        let mut bytes = match &mut self.finisher {
            Some(finisher) if !piece.is_empty() => finisher.finish(piece, true),
            _ => Vec::new(),
        };
        if finished && let Some(finisher) = self.finisher.take() {
            bytes.extend_from_slice(&finisher.end());
        }
        Chunk { bytes, finished }
    }

    /// Gives it up.
    pub fn abort(self, keyspace: &mut Keyspace) {
        self.walker.cancel(keyspace);
    }
}
