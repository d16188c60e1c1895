//! A snapshot on its way to the replicas that asked for one: sent as it is made, or written to a file first.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::keyspace::Keyspace;
use crate::persist::rdb::{Aux, Finisher, Format};
use crate::persist::save::{self, BackgroundSave, SaveError, SaveOptions};
use crate::persist::snapshot::Walker;
use crate::server::ClientKey;

/// Entries that are serialised in one go, so that clients wait for no longer than that.
const STEP_BYTES: usize = 256 * 1024;

/// A snapshot on its way to the replicas that asked for one.
#[derive(Debug)]
pub struct SyncJob {
    /// Who gets it.
    pub sinks: Vec<ClientKey>,
    way: Way,
}

/// How it gets there.
#[derive(Debug)]
enum Way {
    /// It is sent as it is made; `finisher` is `None` after the last piece.
    Stream { walker: Walker, finisher: Option<Finisher>, mark: String },
    /// It is written to a file, which is sent.
    File { save: BackgroundSave },
}

/// What a step brought.
#[derive(Debug)]
pub enum Progress {
    /// Bytes to be sent, if any.
    Bytes(Vec<u8>),
    /// The last bytes to be sent, with the mark that ends a snapshot.
    End(Vec<u8>),
    /// The file to be sent, and its length.
    File(SentFile, u64),
}

/// A file without a name, that is sent. Closing it frees what it takes on the disk and in the page cache: that is left to a
/// thread.
#[derive(Debug)]
pub struct SentFile(Option<File>);

impl SentFile {
    /// Fills `piece` with what stands at `offset`.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn read_at(&self, piece: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |file| file.read_exact_at(piece, offset))
    }
}

impl Drop for SentFile {
    fn drop(&mut self) {
        let file = self.0.take();
        // Where there can be no thread, it is closed here.
        let _ = std::thread::Builder::new().name("snapshot-close".into()).spawn(move || drop(file));
    }
}

impl SyncJob {
    /// Begins a snapshot of what the keyspace holds now, that is sent as it is made; `mark`: 40 characters that end it.
    pub fn stream(keyspace: &mut Keyspace, aux: &Aux, sinks: Vec<ClientKey>, mark: String) -> Self {
        // It is finished on the data thread, which has no time to compress.
        let finisher = Some(Finisher::new(Format { compress: false, ..Format::default() }));
        Self { sinks, way: Way::Stream { walker: Walker::start(keyspace, aux), finisher, mark } }
    }

    /// Begins one that is written to a file first, in the folder of this path, and without a name.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn file(
        keyspace: &mut Keyspace,
        aux: &Aux,
        path: &Path,
        options: SaveOptions,
    ) -> Result<Self, SaveError> {
        let options = SaveOptions { nameless: true, ..options };
        let save = save::start_bgsave(keyspace, path, aux, options)?;
        Ok(Self { sinks: Vec::new(), way: Way::File { save } })
    }

    /// Whether the snapshot can go on at once, as far as the disk is concerned.
    #[must_use]
    pub fn can_step(&self) -> bool {
        match &self.way {
            Way::Stream { .. } => true,
            Way::File { save } => save.can_step(),
        }
    }

    /// Goes on. `room`: its receivers keep up; else only what writes to unvisited slots have serialised is taken.
    ///
    /// # Errors
    /// If the keyspace was replaced or flushed meanwhile, or the disk refuses; the job is at its end.
    pub fn step(&mut self, keyspace: &mut Keyspace, room: bool) -> Result<Progress, String> {
        match &mut self.way {
            Way::Stream { walker, finisher, mark } => {
                let done = if room {
                    walker.step(keyspace, STEP_BYTES).map_err(|why| why.to_string())?
                } else {
                    false
                };
                let piece = walker.take_output();
                let mut bytes = match finisher {
                    Some(finisher) if !piece.is_empty() => finisher.finish(piece, true),
                    _ => Vec::new(),
                };
                if !done {
                    return Ok(Progress::Bytes(bytes));
                }
                if let Some(finisher) = finisher.take() {
                    bytes.extend_from_slice(&finisher.end());
                }
                bytes.extend_from_slice(mark.as_bytes());
                Ok(Progress::End(bytes))
            }
            Way::File { save } => {
                let outcome = save.poll(keyspace, STEP_BYTES);
                save.hold_back();
                match outcome {
                    None => Ok(Progress::Bytes(Vec::new())),
                    Some(Err(error)) => Err(error.to_string()),
                    Some(Ok(file)) => {
                        let len =
                            file.metadata().map_err(|error| format!("cannot read its file: {error}"))?.len();
                        Ok(Progress::File(SentFile(Some(file)), len))
                    }
                }
            }
        }
    }

    /// Gives it up.
    pub fn abort(self, keyspace: &mut Keyspace) {
        match self.way {
            Way::Stream { walker, .. } => walker.cancel(keyspace),
            Way::File { save } => save.cancel(keyspace),
        }
    }
}
