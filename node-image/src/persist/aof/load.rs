//! Reads an append-only file back: the base, then the commands of the incr files.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use kv_core::id::Epoch;

use super::location::AofLocation;
use super::manifest::{ListedFile, Manifest, ManifestError};
use super::replay::{Replay, ReplayError};
use crate::keyspace::{Keyspace, Tracking};
use crate::persist::checksum::Checksum;
use crate::persist::rdb::{self, Aux, RdbError};
use crate::persist::watched::Watched;

/// A step of loading, to be done by the caller.
pub enum Step<'a> {
    /// Take this data in place of everything.
    Base(Box<Keyspace>),
    /// Execute this command.
    Command(&'a [&'a [u8]]),
    /// So many bytes of the files were read since the last such step.
    Read(usize),
}

/// How to load.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// `databases`
    pub databases: usize,
    /// How keys were used, if account is kept of that.
    pub tracking: Tracking,
    /// `aof-load-truncated`: cut a torn tail off, and go on.
    pub truncate: bool,
}

/// A tail that was cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutTail {
    /// The file.
    pub path: PathBuf,
    /// Where it ends now.
    pub offset: u64,
    /// How many bytes it was longer.
    pub bytes: u64,
}

/// What was loaded.
#[derive(Debug)]
pub struct LoadedAof {
    /// The files, for [`Aof::resume`](super::Aof::resume).
    pub manifest: Manifest,
    /// What the base says of itself.
    pub aux: Aux,
    /// Where the data stands in the history `aux.repl_id`: the base's offset and the bytes of the stream since then.
    /// It orders copies by age in an election; it is never good for a partial resynchronisation.
    pub offset: u64,
    /// Epoch of the last config under which the data changed.
    pub write_epoch: Epoch,
    /// Commands that were executed.
    pub commands: u64,
    /// A torn tail that was cut off; worth a warning.
    pub cut: Option<CutTail>,
    /// Of the bytes at the end of the last file that no checksum in it covers.
    pub(super) checksum: Checksum,
}

/// Why an append-only file cannot be loaded. The node must not start with the data that was loaded until then.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file cannot be read or cut.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The manifest makes no sense.
    #[error("{} is corrupt: {source}; restore it from a backup", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// Where and what.
        source: ManifestError,
    },
    /// There are files with data but no manifest that would say what to do with them.
    #[error(
        "{} is missing, but {} holds data: restore the manifest, or move that file away to start without it",
        path.display(),
        stray.display()
    )]
    NoManifest {
        /// The manifest.
        path: PathBuf,
        /// A file that it should name.
        stray: PathBuf,
    },
    /// The base does not read.
    #[error("the base {} is not usable: {source}", path.display())]
    Base {
        /// The base file.
        path: PathBuf,
        /// Where and what.
        source: RdbError,
    },
    /// A part of the file is missing, or there is more than there was when it was completed.
    #[error(
        "{} is {found} bytes long but must be {listed}, as the manifest says: the file is corrupt: restore it, or let \
         the node begin empty and copy from a replica",
        path.display()
    )]
    Length {
        /// The incr file.
        path: PathBuf,
        /// Its length.
        found: u64,
        /// The length that it had when the next file was begun.
        listed: u64,
    },
    /// The commands of a file do not read, or one of them does not execute.
    #[error("{}, at byte {offset}: {source}", path.display())]
    Commands {
        /// The incr file.
        path: PathBuf,
        /// Where the command begins.
        offset: u64,
        /// What is wrong.
        source: ReplayError,
    },
}

/// Loads an append-only file; nothing if there is none. `apply` does each step, or says why it cannot.
///
/// # Errors
/// If anything but the last file's tail makes no sense.
pub fn load(
    location: &AofLocation,
    options: LoadOptions,
    mut apply: impl FnMut(Step<'_>) -> Result<(), String>,
) -> Result<Option<LoadedAof>, LoadError> {
    let Some(manifest) = read_manifest(location)? else { return Ok(None) };
    let mut replay = Replay::default();
    let mut aux = Aux::default();
    let mut cut = None;
    if let Some(base) = &manifest.base {
        let path = location.path(base);
        if holds_commands(&path)? {
            // Written by Redis with aof-use-rdb-preamble off.
            load_incr(location, base, false, &mut replay, &mut apply)?;
        } else {
            aux = load_base(&path, options, &mut apply)?;
            select(&path, aux.repl_stream_db, &mut apply)?;
        }
    }
    for file in &manifest.incr {
        let last = manifest.incr.last() == Some(file);
        cut = load_incr(location, file, last && options.truncate, &mut replay, &mut apply)?;
    }
    Ok(Some(LoadedAof {
        offset: aux.repl_offset.unwrap_or(0).saturating_add(replay.stream_bytes()),
        write_epoch: replay.write_epoch().or(aux.write_epoch).unwrap_or_default(),
        commands: replay.commands(),
        checksum: replay.checksum(),
        manifest,
        aux,
        cut,
    }))
}

/// Reads the manifest; nothing if there is neither a manifest nor data.
pub(super) fn read_manifest(location: &AofLocation) -> Result<Option<Manifest>, LoadError> {
    let path = location.manifest_path();
    match std::fs::read(&path) {
        Ok(text) => match Manifest::parse(&text) {
            Ok(manifest) => Ok(Some(manifest)),
            Err(source) => Err(LoadError::Manifest { path, source }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => no_manifest(location, path),
        Err(source) => Err(LoadError::Io { path, source }),
    }
}

/// Creation writes the manifest after an incr file that is still empty, so only a lost manifest leaves one with data.
fn no_manifest(location: &AofLocation, path: PathBuf) -> Result<Option<Manifest>, LoadError> {
    let strays = match location.strays(&Manifest::default()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(LoadError::Io { path: location.dir().to_path_buf(), source }),
        Ok(strays) => strays,
    };
    let holds_data = |stray: &PathBuf| {
        let incr = stray.extension().is_some_and(|extension| extension == "aof");
        incr && std::fs::metadata(stray).is_ok_and(|found| found.len() > 0)
    };
    match strays.into_iter().find(holds_data) {
        Some(stray) => Err(LoadError::NoManifest { path, stray }),
        None => Ok(None),
    }
}

fn open(path: &Path) -> Result<File, LoadError> {
    File::open(path).map_err(|source| LoadError::Io { path: path.to_path_buf(), source })
}

/// Whether a base is no snapshot.
fn holds_commands(path: &Path) -> Result<bool, LoadError> {
    let mut first = [0];
    let read = open(path)?.read(&mut first);
    let count = read.map_err(|source| LoadError::Io { path: path.to_path_buf(), source })?;
    Ok(count == 0 && path.extension().is_some_and(|extension| extension == "aof")
        || first == *b"*"
        || first == *b"#")
}

fn load_base(
    path: &Path,
    options: LoadOptions,
    apply: &mut impl FnMut(Step<'_>) -> Result<(), String>,
) -> Result<Aux, LoadError> {
    let empty = Keyspace::new(options.databases).tracking_as(options.tracking);
    let input = Watched::buffered(open(path)?, |bytes| apply(Step::Read(bytes)));
    let loaded =
        rdb::load(input, empty).map_err(|source| LoadError::Base { path: path.to_path_buf(), source })?;
    apply(Step::Base(Box::new(loaded.keyspace))).map_err(|why| refused(path, why))?;
    Ok(loaded.aux)
}

/// The stream goes on in the database that it had selected when the base was made.
fn select(
    path: &Path,
    db: Option<u32>,
    apply: &mut impl FnMut(Step<'_>) -> Result<(), String>,
) -> Result<(), LoadError> {
    let number = db.unwrap_or(0).to_string();
    apply(Step::Command(&[b"SELECT", number.as_bytes()])).map_err(|why| refused(path, why))
}

fn refused(path: &Path, why: String) -> LoadError {
    LoadError::Commands { path: path.to_path_buf(), offset: 0, source: ReplayError::Refused(why) }
}

fn load_incr(
    location: &AofLocation,
    file: &ListedFile,
    truncate: bool,
    replay: &mut Replay,
    apply: &mut impl FnMut(Step<'_>) -> Result<(), String>,
) -> Result<Option<CutTail>, LoadError> {
    let path = location.path(file);
    let file_error = |source| LoadError::Io { path: path.clone(), source };
    let input = open(&path)?;
    let len = input.metadata().map_err(file_error)?.len();
    if let Some(listed) = file.len.filter(|&listed| listed != len) {
        return Err(LoadError::Length { path, found: len, listed });
    }
    // A machine that crashes leaves zeros where it had made room for what it did not write any more.
    let zeros = trailing_zeros(&input, len).map_err(file_error)?;
    let mut input = input.take(len - zeros);
    let failed = |offset, source| LoadError::Commands { path: path.clone(), offset, source };
    replay.begin_file();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let count = match input.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(file_error(source)),
            Ok(count) => count,
        };
        if count == 0 {
            break;
        }
        apply(Step::Read(count)).map_err(|why| refused(&path, why))?;
        replay
            .feed(buffer.get(..count).unwrap_or_default(), &mut |command| apply(Step::Command(command)))
            .map_err(|source| failed(replay.offset(), source))?;
    }
    let (offset, bytes) = (replay.offset(), replay.torn() + zeros);
    if bytes == 0 {
        return Ok(None);
    }
    if replay.is_endless() {
        return Err(failed(offset, ReplayError::Endless));
    }
    if !truncate {
        return Err(failed(offset, ReplayError::Torn));
    }
    cut(&path, offset).map_err(file_error)?;
    Ok(Some(CutTail { path, offset, bytes }))
}

/// How many bytes at the end of a file are zero.
fn trailing_zeros(file: &File, len: u64) -> io::Result<u64> {
    let mut block = [0; 4096];
    let mut end = len;
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        let piece = block.get_mut(..usize::try_from(end - start).unwrap_or(0)).unwrap_or_default();
        file.read_exact_at(piece, start)?;
        if let Some(last) = piece.iter().rposition(|byte| *byte != 0) {
            return Ok(len - start - last as u64 - 1);
        }
        end = start;
    }
    Ok(len)
}

fn cut(path: &Path, len: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(len)?;
    file.sync_all()
}
