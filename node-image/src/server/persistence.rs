//! Files: snapshots, the append-only file.

use std::fmt::{Display, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use kv_core::id::Epoch;

use super::{Clock, Kind, Server};
use crate::config::Config;
use crate::persist::aof::{Aof, AofError, AofLocation, FsyncPolicy};
use crate::persist::rdb::{Aux, Format};
use crate::persist::save::{self, BackgroundSave, SaveError, SaveOptions};
use crate::{notice, warning};

/// Bytes that a snapshot serialises in one go.
const STEP_BYTES: usize = 256 * 1024;

/// Milliseconds after a snapshot failed or was given up before the next is begun.
const AFTER_FAILURE_MS: u64 = 5000;

/// What the data thread keeps on disk.
#[derive(Debug)]
pub struct Persistence {
    pub(super) dump: PathBuf,
    pub(super) location: AofLocation,
    pub(super) policy: FsyncPolicy,
    aof: Option<Aof>,
    save: Option<BackgroundSave>,
    /// Changes of data when the snapshot that is or was saved began.
    dirty_at_start: u64,
    last_save: u64,
    last_save_at: Instant,
    /// Why the last snapshot in the background failed.
    save_error: Option<String>,
    /// When the last snapshot failed or was given up, if none was saved since.
    save_failed_at: Option<Instant>,
    saves: Runs,
    rewrites: Runs,
    /// BGSAVE SCHEDULE: a snapshot is to be made as soon as none is in its way.
    scheduled: bool,
    keys_loaded: u64,
    /// Up to where the replication stream is in the append-only file, on the disk.
    synced: u64,
}

/// How long the runs of a job in the background took, and how many there were.
#[derive(Debug, Default)]
struct Runs {
    /// When the one began that is under way.
    began: Option<Instant>,
    /// Seconds that the last one took.
    last_seconds: Option<u64>,
    /// How many were completed.
    completed: u64,
}

impl Runs {
    fn begin(&mut self, now: Instant) {
        self.began = Some(now);
    }

    fn end(&mut self, now: Instant, ok: bool) {
        self.last_seconds = self.current(now);
        self.began = None;
        self.completed += u64::from(ok);
    }

    fn current(&self, now: Instant) -> Option<u64> {
        Some(now.saturating_duration_since(self.began?).as_secs())
    }
}

/// Seconds as INFO tells them.
fn told(seconds: Option<u64>) -> i64 {
    seconds.and_then(|seconds| i64::try_from(seconds).ok()).unwrap_or(-1)
}

/// A status as INFO tells it.
fn status(failed: bool) -> &'static str {
    if failed { "err" } else { "ok" }
}

/// What came of the wish to have a snapshot made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bgsave {
    /// It has begun.
    Started,
    /// One is being made.
    Running,
    /// The append-only file is being rewritten, or a snapshot made for replicas.
    Busy,
}

impl Persistence {
    pub(super) fn new(config: &Config, unix_ms: u64) -> Self {
        Self {
            dump: dump_path(config),
            location: location(config),
            policy: policy(config),
            aof: None,
            save: None,
            dirty_at_start: 0,
            last_save: unix_ms / 1000,
            last_save_at: Instant::now(),
            save_error: None,
            save_failed_at: None,
            saves: Runs::default(),
            rewrites: Runs::default(),
            scheduled: false,
            keys_loaded: 0,
            synced: 0,
        }
    }

    /// Bytes of the append-only file that wait to be written.
    pub(crate) fn buffered(&self) -> usize {
        self.aof.as_ref().map_or(0, Aof::buffered)
    }

    /// `CONFIG RESETSTAT`
    pub(crate) fn reset_stats(&mut self) {
        self.aof.as_mut().into_iter().for_each(Aof::reset_delayed_fsyncs);
    }

    /// Whether there is an append-only file.
    pub(super) fn is_logging(&self) -> bool {
        self.aof.is_some()
    }

    /// Adds bytes of the replication stream to the append-only file.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        if let Some(aof) = &mut self.aof {
            aof.append(bytes);
        }
    }

    /// Records in the append-only file that what follows is written under this epoch.
    pub(super) fn append_write_epoch(&mut self, epoch: Epoch) {
        if let Some(aof) = &mut self.aof {
            aof.append_write_epoch(epoch);
        }
    }

    /// Up to where the replication stream is in the append-only file, on the disk; `None` if there is no such file.
    pub(crate) fn synced(&self) -> Option<u64> {
        self.aof.as_ref().map(|_| self.synced)
    }

    fn aof_error(&self) -> Option<&AofError> {
        self.aof.as_ref()?.last_write_error()
    }

    /// Whether a snapshot to a file observes the keyspace.
    pub(super) fn walking(&self) -> bool {
        self.save.as_ref().is_some_and(BackgroundSave::walking) || self.aof.as_ref().is_some_and(Aof::walking)
    }

    /// Whether a snapshot to a file can go on at once.
    pub(super) fn can_step(&self) -> bool {
        self.save.as_ref().is_some_and(BackgroundSave::can_step)
            || self.aof.as_ref().is_some_and(Aof::can_step)
    }

    /// Goes on with this append-only file.
    pub(super) fn open_aof(&mut self, aof: Aof) {
        self.aof = Some(aof);
    }

    /// The files were loaded.
    pub(super) fn loaded(&mut self, now: Clock, keys: u64) {
        self.keys_loaded = keys;
        (self.last_save, self.last_save_at) = (now.unix_ms / 1000, now.instant);
    }

    /// Bytes of the files that will be loaded.
    pub(super) fn bytes_on_disk(&self, config: &Config) -> u64 {
        let size = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
        match std::fs::read_dir(self.location.dir()) {
            Ok(entries) if config.settings.bool("appendonly") => {
                entries.flatten().map(|entry| size(&entry.path())).sum()
            }
            _ => size(&self.dump),
        }
    }

    /// Its lines of INFO.
    pub(crate) fn describe(&self, now: Instant, text: &mut String) {
        let (saves, rewrites) = (&self.saves, &self.rewrites);
        let mut line = |name: &str, value: &dyn Display| _ = write!(text, "{name}:{value}\r\n");
        line("rdb_bgsave_in_progress", &u8::from(self.save.is_some()));
        line("rdb_last_save_time", &self.last_save);
        line("rdb_last_bgsave_status", &status(self.save_error.is_some()));
        line("rdb_last_bgsave_time_sec", &told(saves.last_seconds));
        line("rdb_current_bgsave_time_sec", &told(saves.current(now)));
        line("rdb_saves", &saves.completed);
        // There is no fork, and nothing that is copied on write.
        line("rdb_last_cow_size", &0);
        line("rdb_last_load_keys_expired", &0);
        line("rdb_last_load_keys_loaded", &self.keys_loaded);
        let rewriting = self.aof.as_ref().is_some_and(Aof::is_rewriting);
        let rewrite_failed = self.aof.as_ref().is_some_and(Aof::last_rewrite_failed);
        line("aof_enabled", &u8::from(self.aof.is_some()));
        line("aof_rewrite_in_progress", &u8::from(rewriting));
        line("aof_rewrite_scheduled", &0);
        line("aof_last_rewrite_time_sec", &told(rewrites.last_seconds));
        line("aof_current_rewrite_time_sec", &told(rewrites.current(now).filter(|_| rewriting)));
        line("aof_last_bgrewrite_status", &status(rewrite_failed));
        line("aof_rewrites", &rewrites.completed);
        line("aof_last_write_status", &status(self.aof_error().is_some()));
        line("aof_last_cow_size", &0);
        if let Some(aof) = &self.aof {
            line("aof_current_size", &aof.size());
            line("aof_base_size", &aof.size_after_rewrite());
            line("aof_pending_rewrite", &0);
            line("aof_buffer_length", &aof.buffered());
            line("aof_delayed_fsync", &aof.delayed_fsyncs());
        }
    }
}

fn dump_path(config: &Config) -> PathBuf {
    config.dir().join(config.settings.text("dbfilename"))
}

fn location(config: &Config) -> AofLocation {
    let settings = &config.settings;
    AofLocation::new(&config.dir(), settings.text("appenddirname"), settings.text("appendfilename"))
}

fn policy(config: &Config) -> FsyncPolicy {
    match config.settings.text("appendfsync") {
        "always" => FsyncPolicy::Always,
        "no" => FsyncPolicy::No,
        _ => FsyncPolicy::EverySec,
    }
}

/// How snapshots are written; `sync_often` is the directive that has them synced as they grow.
fn save_options(config: &Config, sync_often: &str) -> SaveOptions {
    let settings = &config.settings;
    let format = Format { compress: settings.bool("rdbcompression"), checksum: settings.bool("rdbchecksum") };
    SaveOptions { format, sync_often: settings.bool(sync_often), nameless: false }
}

impl Server {
    /// What a snapshot says of itself.
    pub(super) fn snapshot_aux(&self) -> Aux {
        Aux {
            redis_ver: Some(kv_core::REDIS_VERSION.to_owned()),
            ctime: i64::try_from(self.clock.unix_ms / 1000).ok(),
            used_mem: Some(self.keyspace.used_memory() as u64),
            // Whoever loads it may go on from there, which takes that all changes were counted.
            repl_id: Some(self.history.replid.clone())
                .filter(|id| self.history.is_recorded() && !id.is_empty()),
            repl_offset: Some(self.history.offset()),
            repl_stream_db: self.history.stream_db.and_then(|db| u32::try_from(db).ok()),
            write_epoch: self.routing.is_managed().then(|| self.routing.write_epoch()),
            ..Aux::default()
        }
    }

    /// How the base of the append-only file is written.
    pub(super) fn base_options(&self) -> SaveOptions {
        save_options(&self.config, "aof-rewrite-incremental-fsync")
    }

    pub(super) fn save_options(&self) -> SaveOptions {
        save_options(&self.config, "rdb-save-incremental-fsync")
    }

    /// Saves a snapshot; clients wait meanwhile.
    pub(crate) fn save_now(&mut self) -> Result<(), SaveError> {
        self.persistence.dirty_at_start = self.stats.dirty;
        self.persistence.saves.begin(Instant::now());
        let (aux, options) = (self.snapshot_aux(), self.save_options());
        let outcome = save::save_now(&self.keyspace, &self.persistence.dump, &aux, options);
        self.note_save(&outcome.as_ref().copied());
        outcome
    }

    /// Why writes are to be refused, though the node's role allows them: what keeps the data from the disk.
    pub(super) fn disk_error(&self) -> Option<String> {
        if let Some(error) = self.persistence.aof_error() {
            return Some(format!(
                "Errors writing to the AOF file: {error}. Writes are refused until the disk can be written again."
            ));
        }
        let stops = self.tunables.stop_writes_on_bgsave_error && !self.tunables.save_points.is_empty();
        let error = self.persistence.save_error.as_ref().filter(|_| stops)?;
        Some(format!(
            "Errors saving a snapshot: {error}. Writes are refused until one is saved (stop-writes-on-bgsave-error)."
        ))
    }

    /// Begins a snapshot in the background.
    ///
    /// # Errors
    /// If the disk refuses.
    pub(crate) fn start_bgsave(&mut self) -> Result<Bgsave, SaveError> {
        if self.is_saving() {
            return Ok(Bgsave::Running);
        }
        if self.persistence.walking() || self.sync_job.is_some() {
            return Ok(Bgsave::Busy);
        }
        self.persistence.saves.begin(self.clock.instant);
        let (aux, options) = (self.snapshot_aux(), self.save_options());
        match save::start_bgsave(&mut self.keyspace, &self.persistence.dump, &aux, options) {
            Ok(job) => {
                notice!("Background saving started");
                self.persistence.dirty_at_start = self.stats.dirty;
                self.persistence.save = Some(job);
                self.persistence.scheduled = false;
                Ok(Bgsave::Started)
            }
            Err(error) => {
                self.note_bgsave(&Err(&error));
                Err(error)
            }
        }
    }

    /// Whether a snapshot is being saved in the background.
    pub(crate) fn is_saving(&self) -> bool {
        self.persistence.save.is_some()
    }

    /// Has a snapshot made as soon as nothing is in its way.
    pub(crate) fn schedule_bgsave(&mut self) {
        self.persistence.scheduled = true;
    }

    /// Gives up the snapshot that is being saved, or else the one that is scheduled. Returns what was given up.
    pub(crate) fn cancel_bgsave(&mut self) -> Option<&'static str> {
        if let Some(job) = self.take_bgsave() {
            job.cancel(&mut self.keyspace);
            return Some("Background saving cancelled");
        }
        std::mem::take(&mut self.persistence.scheduled).then_some("Scheduled background saving cancelled")
    }

    /// The snapshot that is being saved, which is to be given up.
    pub(super) fn take_bgsave(&mut self) -> Option<BackgroundSave> {
        let job = self.persistence.save.take()?;
        self.persistence.saves.end(self.clock.instant, false);
        // It did not fail, but a save point does not bring it back at once.
        self.persistence.save_failed_at = Some(self.clock.instant);
        notice!("Background saving cancelled");
        Some(job)
    }

    fn note_bgsave(&mut self, outcome: &Result<(), &SaveError>) {
        if let Err(error @ SaveError::Io { .. }) = outcome {
            self.persistence.save_error = Some(error.to_string());
        }
        self.note_save(outcome);
    }

    fn note_save(&mut self, outcome: &Result<(), &SaveError>) {
        let now = Clock::now();
        self.persistence.saves.end(now.instant, outcome.is_ok());
        match outcome {
            Ok(()) => {
                notice!("DB saved on disk");
                (self.persistence.last_save, self.persistence.last_save_at) =
                    (now.unix_ms / 1000, now.instant);
                self.stats.dirty_at_save = self.persistence.dirty_at_start;
                (self.persistence.save_error, self.persistence.save_failed_at) = (None, None);
            }
            Err(error) => {
                warning!("{error}");
                self.persistence.save_failed_at = Some(now.instant);
            }
        }
    }

    /// When the last snapshot was saved, in seconds since 1970.
    #[must_use]
    pub fn last_save_unix(&self) -> u64 {
        self.persistence.last_save
    }

    /// Whether a snapshot is being made of the keyspace, so that writes may take longer.
    pub(super) fn is_walking(&self) -> bool {
        self.persistence.walking() || self.sync_job.is_some()
    }

    /// Goes on with what is being written.
    pub(super) fn step_persistence(&mut self) {
        if let Some(outcome) =
            self.persistence.save.as_mut().and_then(|job| job.poll(&mut self.keyspace, STEP_BYTES))
        {
            self.persistence.save = None;
            self.note_bgsave(&outcome.as_ref().map(drop));
        }
        let rewrite = self.persistence.aof.as_mut().and_then(|aof| aof.poll(&mut self.keyspace, STEP_BYTES));
        if let Some(save) = &self.persistence.save {
            save.hold_back();
        }
        if let Some(aof) = &self.persistence.aof {
            aof.hold_back();
        }
        if let Some(outcome) = rewrite {
            self.persistence.rewrites.end(self.clock.instant, outcome.is_ok());
            match outcome {
                Ok(()) => notice!("Background AOF rewrite finished successfully"),
                Err(error) => warning!("{error}"),
            }
        }
    }

    /// Periodic work: begins the snapshots and rewrites that are due.
    pub(super) fn tend_persistence(&mut self) {
        let changes = self.stats.dirty - self.stats.dirty_at_save;
        let seconds = self.millis_since(self.persistence.last_save_at) / 1000;
        // While writes may be refused for want of a snapshot, no further changes can make one due.
        let failed = self.persistence.save_error.is_some();
        let due = |&(after, least): &(u64, u64)| failed || (changes >= least.max(1) && seconds >= after);
        let wanted = self.persistence.scheduled || self.tunables.save_points.iter().any(due);
        let failed_at = self.persistence.save_failed_at;
        if wanted && failed_at.is_none_or(|at| self.millis_since(at) >= AFTER_FAILURE_MS) {
            // An error is noted, and tried again.
            let _ = self.start_bgsave();
        }
        let settings = &self.config.settings;
        let percentage = settings.number("auto-aof-rewrite-percentage");
        let least = settings.number("auto-aof-rewrite-min-size");
        let wanted = |aof: &Aof| aof.rewrite_wanted(self.clock.instant, percentage, least);
        if self.persistence.aof.as_ref().is_some_and(wanted)
            && let Err(error) = self.start_rewrite()
        {
            warning!("{error}");
        }
    }

    /// Makes what this tick added to the append-only file durable, as far as `appendfsync` promises.
    pub(super) fn flush_aof(&mut self) {
        let Some(aof) = &mut self.persistence.aof else { return };
        let had_error = aof.last_write_error().is_some();
        aof.set_offset(self.history.offset());
        let outcome = aof.flush(self.clock.instant).map_err(ToString::to_string);
        let synced = aof.synced().unwrap_or(0);
        if synced > self.persistence.synced {
            self.persistence.synced = synced;
            self.answer_waits();
        }
        let Err(error) = outcome else { return };
        if had_error {
            return;
        }
        warning!("{error}");
        // The replies of this tick promise what is known not to be on the disk: nobody may see them.
        for key in self.clients.keys_where(|client| client.queued && matches!(client.kind, Kind::Normal)) {
            self.clients.doom(key);
        }
    }

    /// The data were replaced: the append-only file begins anew with them.
    pub(super) fn restart_aof(&mut self) {
        let aux = self.snapshot_aux();
        self.persistence.synced = 0;
        if let Some(aof) = &mut self.persistence.aof {
            self.persistence.rewrites.begin(self.clock.instant);
            aof.reset(&mut self.keyspace, &aux);
        }
    }

    /// Begins to rewrite the append-only file, unless a snapshot is being made: then it is tried again later.
    pub(crate) fn start_rewrite(&mut self) -> Result<(), AofError> {
        if self.sync_job.is_some() || self.persistence.walking() {
            return Ok(());
        }
        self.history.stream_db = if self.link.is_some() { self.history.stream_db } else { None };
        let aux = self.snapshot_aux();
        let Some(aof) = &mut self.persistence.aof else { return Ok(()) };
        self.persistence.rewrites.begin(self.clock.instant);
        let begun = aof.start_rewrite(&mut self.keyspace, &aux);
        if begun.is_err() {
            self.persistence.rewrites.end(self.clock.instant, false);
        }
        begun
    }

    /// `appendonly`, `appendfsync` or the files' names were changed: makes them count.
    pub(super) fn apply_persistence_settings(&mut self) {
        self.persistence.dump = dump_path(&self.config);
        self.persistence.policy = policy(&self.config);
        let on = self.config.settings.bool("appendonly");
        let base_options = self.base_options();
        match &mut self.persistence.aof {
            // Once all is loaded it is opened.
            None if self.loading.is_some() => {}
            Some(aof) if on => {
                aof.set_policy(self.persistence.policy);
                aof.set_base_options(base_options);
            }
            Some(_) => self.close_aof(),
            None if on => self.enable_aof(),
            None => {}
        }
    }

    fn enable_aof(&mut self) {
        if let Some(job) = self.sync_job.take() {
            // Its receivers ask again.
            job.sinks.iter().for_each(|&key| self.clients.doom(key));
            job.abort(&mut self.keyspace);
        }
        let (location, policy, aux) =
            (self.persistence.location.clone(), self.persistence.policy, self.snapshot_aux());
        let base_options = self.base_options();
        match Aof::enable(location, policy, &mut self.keyspace, &aux, base_options) {
            Ok(aof) => {
                self.persistence.rewrites.begin(self.clock.instant);
                self.persistence.aof = Some(aof);
            }
            Err(error) => warning!("{error}"),
        }
    }

    /// Closes the append-only file.
    pub(super) fn close_aof(&mut self) {
        if let Some(mut aof) = self.persistence.aof.take() {
            aof.finish_rewrite(&mut self.keyspace);
            aof.cancel_rewrite(&mut self.keyspace);
            if let Err(error) = aof.close() {
                warning!("{error}");
            }
        }
    }
}
