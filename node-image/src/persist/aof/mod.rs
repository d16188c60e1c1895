//! The append-only file, of several parts as in Redis 7: a base (a snapshot) and incr files (the replication stream).
//!
//! An incr file holds the bytes of the replication stream and nothing else but annotations, so that the base's offset
//! and the length of what follows say how old a copy is.
//!
//! Everything is covered by a checksum: the base by that of its format, the incr files and the manifest by annotations.
//! So loading tells what a crash leaves, which is cut off (the end of a write that was never completed, and so was never
//! acknowledged under `appendfsync always`), from damage, which it refuses.

mod load;
mod location;
mod log;
mod manifest;
mod replay;
mod rewrite;

#[cfg(test)]
mod damage;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kv_core::id::Epoch;

pub use load::{CutTail, LoadError, LoadOptions, LoadedAof, Step, load};
pub use location::AofLocation;
pub use log::FsyncPolicy;
pub use manifest::{ListedFile, Manifest, ManifestError};

use super::fs;
use super::rdb::Aux;
use super::save::{SaveError, SaveOptions, save_now};
use crate::keyspace::Keyspace;
use log::Log;
use rewrite::Rewrite;

/// Bytes that may wait for a disk that refuses them. A replica cannot refuse what its parent sends.
const MAX_BUFFERED: usize = 64 * 1024 * 1024;

/// How long after a failed rewrite the next one is wanted.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// Each failure in a row doubles that time, up to so many times: each attempt begins another incr file.
const DOUBLINGS: u32 = 6;

/// Why the append-only file is not what it should be. Writes are to be refused while there is one (MISCONF).
#[derive(Debug, thiserror::Error)]
pub enum AofError {
    /// The disk refused something. It is tried again.
    #[error("cannot {doing} {}: {source}; check the free space of its directory", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What was written may not be on the disk. A rewrite heals it.
    #[error("cannot make {} durable: {source}; it is rewritten as soon as the disk allows", path.display())]
    Sync {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A new base could not be made.
    #[error("the append-only file was not rewritten: {0}")]
    Base(#[from] SaveError),
    /// The manifest on the disk does not read.
    #[error(transparent)]
    Load(#[from] LoadError),
}

impl AofError {
    fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { doing, path: path.to_path_buf(), source }
    }

    /// The same error once more, of those that the disk causes: one to be returned, one to be kept.
    fn copy(&self) -> Self {
        let again = |source: &io::Error| io::Error::new(source.kind(), source.to_string());
        match self {
            Self::Sync { path, source } => Self::Sync { path: path.clone(), source: again(source) },
            Self::Io { doing, path, source } => Self::io(doing, path, again(source)),
            other => {
                Self::io("write", Path::new("the append-only file"), io::Error::other(other.to_string()))
            }
        }
    }
}

/// The append-only file of a running node.
#[derive(Debug)]
pub struct Aof {
    location: AofLocation,
    policy: FsyncPolicy,
    /// How the next bases are written.
    base_options: SaveOptions,
    /// What is on the disk.
    manifest: Manifest,
    /// What is written; `None` after an error that only a new base heals.
    log: Option<Log>,
    /// The file that `log` writes or wrote.
    log_file: ListedFile,
    /// The error that only a new base heals.
    fault: Option<AofError>,
    /// When a rewrite failed last.
    failed_at: Option<Instant>,
    /// How many failed in a row.
    failures: u32,
    /// Bytes of the base and of the incr files before the one that is written.
    older_bytes: u64,
    /// Size when the last rewrite had ended, or when it was opened.
    size_after_rewrite: u64,
    rewrite: Option<Rewrite>,
    /// Writes that blocked since a sync took too long.
    delayed_fsyncs: u64,
}

impl Aof {
    /// Makes a new append-only file whose base is what the keyspace holds now; returns when it is durable. For the
    /// start of a node that has none; clients would wait.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn create(
        location: AofLocation,
        policy: FsyncPolicy,
        keyspace: &Keyspace,
        aux: &Aux,
        base_options: SaveOptions,
    ) -> Result<Self, AofError> {
        location.make_dir().map_err(|source| AofError::io("make", location.dir(), source))?;
        if location.manifest_path().exists() {
            let path = location.manifest_path();
            return Err(AofError::io("replace", &path, io::ErrorKind::AlreadyExists.into()));
        }
        let (base, incr) = (location.base(1), location.incr(1));
        save_now(keyspace, &location.path(&base), &Aux { aof_base: true, ..aux.clone() }, base_options)?;
        let log = Log::create(&location.path(&incr), policy)?;
        let manifest = Manifest { base: Some(base), history: Vec::new(), incr: vec![incr.clone()] };
        publish(&location, &manifest)?;
        Ok(Self::assemble(location, policy, manifest, log, incr))
    }

    /// Goes on with what was loaded.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn resume(location: AofLocation, policy: FsyncPolicy, loaded: LoadedAof) -> Result<Self, AofError> {
        let mut manifest = loaded.manifest;
        let fresh = manifest.incr.is_empty();
        let incr = manifest.incr.last().cloned().unwrap_or_else(|| location.incr(manifest.next_incr_seq()));
        let path = location.path(&incr);
        let log = if fresh {
            manifest.incr.push(incr.clone());
            Log::create(&path, policy)?
        } else {
            Log::resume(&path, loaded.checksum, policy)?
        };
        manifest.history.clear();
        let aof = Self::assemble(location, policy, manifest, log, incr);
        // A full disk is no reason not to start, and to serve what can be read.
        if !aof.manifest_stands() {
            publish(&aof.location, &aof.manifest)?;
        }
        // What cannot be removed now is tried again at the next start.
        let strays = aof.location.strays(&aof.manifest).unwrap_or_default();
        strays.iter().for_each(|stray| drop(std::fs::remove_file(stray)));
        Ok(aof)
    }

    /// Begins an append-only file while the node serves (`CONFIG SET appendonly yes`). It counts from the moment on
    /// that its first rewrite ends, see [`Aof::poll`]; until then a restart finds what was there before.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn enable(
        location: AofLocation,
        policy: FsyncPolicy,
        keyspace: &mut Keyspace,
        aux: &Aux,
        base_options: SaveOptions,
    ) -> Result<Self, AofError> {
        location.make_dir().map_err(|source| AofError::io("make", location.dir(), source))?;
        let manifest = load::read_manifest(&location)?.unwrap_or_default();
        let incr = location.incr(manifest.next_incr_seq());
        let log = Log::create(&location.path(&incr), policy)?;
        let mut aof = Self::assemble(location, policy, manifest, log, incr);
        aof.set_base_options(base_options);
        aof.start_rewrite(keyspace, aux)?;
        Ok(aof)
    }

    fn assemble(
        location: AofLocation,
        policy: FsyncPolicy,
        manifest: Manifest,
        log: Log,
        log_file: ListedFile,
    ) -> Self {
        let older_bytes = older_bytes(&location, &manifest, &log_file);
        let size_after_rewrite = older_bytes + log.len();
        Self {
            location,
            policy,
            base_options: SaveOptions::default(),
            manifest,
            log: Some(log),
            log_file,
            fault: None,
            failed_at: None,
            failures: 0,
            older_bytes,
            size_after_rewrite,
            rewrite: None,
            delayed_fsyncs: 0,
        }
    }

    /// Adds bytes of the replication stream. They are written by the next [`Aof::flush`].
    pub fn append(&mut self, stream: &[u8]) {
        if let Some(log) = &mut self.log {
            log.append(stream);
        }
    }

    /// Says where the replication stream stands after what was appended; to be called before [`Aof::flush`].
    pub fn set_offset(&mut self, offset: u64) {
        if let Some(log) = &mut self.log {
            log.set_offset(offset);
        }
    }

    /// Up to where the stream is on the disk, in files that a restart would read; `None` if that is not known.
    #[must_use]
    pub fn synced(&self) -> Option<u64> {
        self.log.as_ref().filter(|_| self.is_whole()).map(Log::synced)
    }

    /// Records that what follows is written under this epoch. To be called when the epoch of the data changes and no
    /// new base is made.
    pub fn append_write_epoch(&mut self, epoch: Epoch) {
        self.append(format!("{}{epoch}\r\n", replay::EPOCH_MARK).as_bytes());
    }

    /// Writes what was appended; to be called once a tick, before replies leave, and at least each second. After an
    /// error it tries again by itself a second later.
    ///
    /// # Errors
    /// As [`Aof::last_write_error`].
    pub fn flush(&mut self, now: Instant) -> Result<(), &AofError> {
        if let Some(mut log) = self.log.take() {
            let failed = log.flush(now).is_err();
            self.delayed_fsyncs += log.take_delayed();
            if failed && log.buffered() > MAX_BUFFERED {
                self.fault = log.into_error();
            } else {
                self.log = Some(log);
            }
        }
        self.last_write_error().map_or(Ok(()), Err)
    }

    /// The error that keeps what was appended from the disk, if there is one.
    #[must_use]
    pub fn last_write_error(&self) -> Option<&AofError> {
        self.fault.as_ref().or_else(|| self.log.as_ref()?.error())
    }

    /// Changes `appendfsync`.
    pub fn set_policy(&mut self, policy: FsyncPolicy) {
        self.policy = policy;
        if let Some(log) = &mut self.log {
            log.set_policy(policy);
        }
    }

    /// How often a write could not wait any longer for a sync that was under way (`aof_delayed_fsync`).
    #[must_use]
    pub fn delayed_fsyncs(&self) -> u64 {
        self.delayed_fsyncs
    }

    /// Counts those anew.
    pub fn reset_delayed_fsyncs(&mut self) {
        self.delayed_fsyncs = 0;
    }

    /// Changes how the bases of later rewrites are written.
    pub fn set_base_options(&mut self, options: SaveOptions) {
        self.base_options = options;
    }

    /// Bytes of all files (`aof_current_size`).
    #[must_use]
    pub fn size(&self) -> u64 {
        self.older_bytes + self.log.as_ref().map_or(0, Log::len)
    }

    /// Bytes that were appended and not written yet.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.log.as_ref().map_or(0, Log::buffered)
    }

    /// Bytes of all files after the last rewrite (`aof_base_size`).
    #[must_use]
    pub fn size_after_rewrite(&self) -> u64 {
        self.size_after_rewrite
    }

    /// Whether a rewrite should begin: the file grew by `percentage` since the last one and is at least `min_size`
    /// bytes long (`auto-aof-rewrite-percentage`, 0 for never, `auto-aof-rewrite-min-size`), or only a new base heals
    /// it. After a rewrite that failed it is not wanted for a while, which grows unless writes are refused meanwhile.
    #[must_use]
    pub fn rewrite_wanted(&self, now: Instant, percentage: u64, min_size: u64) -> bool {
        let doublings = if self.is_whole() { self.failures.saturating_sub(1).min(DOUBLINGS) } else { 0 };
        let wait = AFTER_FAILURE * (1 << doublings);
        let too_early = self.failed_at.is_some_and(|at| now.saturating_duration_since(at) < wait);
        if self.rewrite.is_some() || too_early {
            return false;
        }
        let grown = self.size().saturating_sub(self.size_after_rewrite).saturating_mul(100);
        let large =
            self.size() >= min_size && grown >= percentage.saturating_mul(self.size_after_rewrite.max(1));
        (percentage > 0 && large) || !self.is_whole()
    }

    /// Writes and syncs everything: the last call at a shutdown.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn close(&mut self) -> Result<(), AofError> {
        self.log.as_mut().map_or(Ok(()), Log::close)
    }

    /// Records whether a rewrite could be begun.
    fn note_begin(&mut self, failed: bool) {
        self.failed_at = failed.then(Instant::now);
        self.failures = self.failures.saturating_add(u32::from(failed));
    }

    /// Records how a rewrite ended.
    fn note_rewrite(&mut self, failed: bool) {
        self.note_begin(failed);
        if !failed {
            self.failures = 0;
        }
    }

    /// Whether the files on the disk and what is still to be written make up the data.
    fn is_whole(&self) -> bool {
        self.is_listed() && self.log.as_ref().is_some_and(|log| !log.is_suspect())
    }

    /// Whether a restart would read the file that is written. It would not while the first base of new data is made.
    fn is_listed(&self) -> bool {
        self.manifest.incr.last() == Some(&self.log_file)
    }
}

fn older_bytes(location: &AofLocation, manifest: &Manifest, current: &ListedFile) -> u64 {
    let files = manifest.base.iter().chain(&manifest.incr).filter(|&file| file != current);
    files.filter_map(|file| std::fs::metadata(location.path(file)).ok()).map(|found| found.len()).sum()
}

/// Replaces the manifest. The files that it names must be durable.
fn publish(location: &AofLocation, manifest: &Manifest) -> Result<(), AofError> {
    let failed = |source| AofError::io("write", &location.manifest_path(), source);
    fs::sync_dir(location.dir()).map_err(failed)?;
    location.write_manifest(manifest).map_err(failed)
}

/// Removes files on a thread of its own: large ones take a while.
fn remove_elsewhere(paths: Vec<PathBuf>) {
    if !paths.is_empty() {
        // What stays is removed at the next start.
        let remove = move || paths.iter().for_each(|path| drop(std::fs::remove_file(path)));
        let _ = std::thread::Builder::new().name("aof-remove".into()).spawn(remove);
    }
}
