//! Files: loading at the start, snapshots, the append-only file.

use std::fmt::Write as _;
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::time::Instant;

use kv_core::id::Epoch;

use super::propagate::select;
use super::{Kind, Server};
use crate::command::Args;
use crate::config::Config;
use crate::persist::aof::{self, Aof, AofError, AofLocation, FsyncPolicy, LoadOptions, Step};
use crate::persist::rdb::{self, Aux, RdbError};
use crate::persist::save::{self, BackgroundSave, SaveError};
use crate::{notice, warning};

/// Bytes that a snapshot serialises in one go.
const STEP_BYTES: usize = 256 * 1024;

/// Milliseconds after a failed snapshot before the next is begun.
const AFTER_FAILURE_MS: u64 = 5000;

/// Why data cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file is there and cannot be opened.
    #[error("cannot open {}: {error}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A snapshot is broken.
    #[error("cannot load {}: {error}; restore it from a backup, or move it away to start without its data", path.display())]
    Snapshot {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: RdbError,
    },
    /// The append-only file is broken.
    #[error(transparent)]
    Log(#[from] aof::LoadError),
    /// The append-only file cannot be begun or gone on with.
    #[error(transparent)]
    Resume(#[from] AofError),
}

/// What the data thread keeps on disk.
#[derive(Debug)]
pub struct Persistence {
    dump: PathBuf,
    location: AofLocation,
    policy: FsyncPolicy,
    aof: Option<Aof>,
    save: Option<BackgroundSave>,
    /// Changes of data when the snapshot that is or was saved began.
    dirty_at_start: u64,
    last_save: u64,
    last_save_at: Instant,
    /// Why the last snapshot in the background failed.
    save_error: Option<String>,
    /// When the last snapshot failed, whatever the reason, if none was saved since.
    save_failed_at: Option<Instant>,
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
        }
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

    /// Its lines of INFO.
    pub(crate) fn describe(&self, text: &mut String) {
        let _ = write!(
            text,
            "rdb_bgsave_in_progress:{}\r\nrdb_last_save_time:{}\r\nrdb_last_bgsave_status:{}\r\n",
            u8::from(self.save.is_some()),
            self.last_save,
            if self.save_error.is_none() { "ok" } else { "err" }
        );
        let on = u8::from(self.aof.is_some());
        let status = if self.aof_error().is_none() { "ok" } else { "err" };
        let rewriting = u8::from(self.aof.as_ref().is_some_and(Aof::is_rewriting));
        let failed = self.aof.as_ref().is_some_and(Aof::last_rewrite_failed);
        let rewritten = if failed { "err" } else { "ok" };
        let _ = write!(
            text,
            "aof_enabled:{on}\r\naof_rewrite_in_progress:{rewriting}\r\naof_last_bgrewrite_status:{rewritten}\r\n\
             aof_last_write_status:{status}\r\n"
        );
        if let Some(aof) = &self.aof {
            let (size, base) = (aof.size(), aof.size_after_rewrite());
            let _ = write!(text, "aof_current_size:{size}\r\naof_base_size:{base}\r\n");
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

impl Server {
    /// Loads what the files hold: the append-only file if it is on and there is one, else the snapshot.
    pub(super) fn load(&mut self) -> Result<(), LoadError> {
        if !self.config.settings.bool("appendonly") {
            return self.load_dump();
        }
        let (location, policy) = (self.persistence.location.clone(), self.persistence.policy);
        let options = LoadOptions {
            databases: self.settings.databases,
            truncate: self.config.settings.bool("aof-load-truncated"),
        };
        let mut db = 0;
        let Some(loaded) = aof::load(&location, options, |step| self.load_step(step, &mut db))? else {
            self.load_dump()?;
            let aux = self.snapshot_aux();
            self.persistence.aof = Some(Aof::create(location, policy, &self.keyspace, &aux)?);
            return Ok(());
        };
        if let Some(cut) = &loaded.cut {
            warning!("{}: a torn tail of {} bytes was cut off", cut.path.display(), cut.bytes);
        }
        notice!(
            "DB loaded from append only file: {} keys, {} commands",
            self.keyspace.total(),
            loaded.commands
        );
        self.restore_position(loaded.offset, loaded.write_epoch);
        self.persistence.aof = Some(Aof::resume(location, policy, loaded)?);
        Ok(())
    }

    fn load_step(&mut self, step: Step<'_>, db: &mut usize) -> Result<(), String> {
        self.shared.beat();
        match step {
            Step::Base(keyspace) => {
                self.keyspace = *keyspace;
                Ok(())
            }
            Step::Command(args) => self.replay(Args::new(args), db),
        }
    }

    /// Runs a command of the append-only file.
    fn replay(&mut self, args: Args<'_>, db: &mut usize) -> Result<(), String> {
        if args.is(0, "select") {
            *db = select(args, self.keyspace.databases())?;
            return Ok(());
        }
        // What the stream holds besides data.
        if ["ping", "replconf", "publish", "spublish"].iter().any(|name| args.is(0, name)) {
            return Ok(());
        }
        self.execute_silently(*db, args)
    }

    fn load_dump(&mut self) -> Result<(), LoadError> {
        let path = self.persistence.dump.clone();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(LoadError::Open { path, error }),
        };
        let loaded = rdb::load(BufReader::with_capacity(1 << 20, file), self.settings.databases)
            .map_err(|error| LoadError::Snapshot { path: path.clone(), error })?;
        notice!("DB loaded from {}: {} keys", path.display(), loaded.keyspace.total());
        self.keyspace = loaded.keyspace;
        self.restore_position(
            loaded.aux.repl_offset.unwrap_or(0),
            loaded.aux.write_epoch.unwrap_or_default(),
        );
        Ok(())
    }

    /// Where the loaded data stood, for elections. The history's id is a new one: a file is no proof that the node can
    /// go on in the stream.
    fn restore_position(&mut self, offset: u64, write_epoch: Epoch) {
        self.history.backlog.reset(offset);
        self.routing.restore_write_epoch(write_epoch);
    }

    /// What a snapshot says of itself.
    pub(super) fn snapshot_aux(&self) -> Aux {
        Aux {
            redis_ver: Some(kv_core::REDIS_VERSION.to_owned()),
            ctime: i64::try_from(self.clock.unix_ms / 1000).ok(),
            used_mem: Some(self.keyspace.used_memory() as u64),
            repl_id: Some(self.history.replid.clone()),
            repl_offset: Some(self.history.offset()),
            repl_stream_db: self.history.stream_db.and_then(|db| u32::try_from(db).ok()),
            write_epoch: self.routing.is_managed().then(|| self.routing.write_epoch()),
            aof_base: false,
        }
    }

    /// Saves a snapshot; clients wait meanwhile.
    pub(crate) fn save_now(&mut self) -> Result<(), SaveError> {
        self.persistence.dirty_at_start = self.stats.dirty;
        let outcome = save::save_now(&self.keyspace, &self.persistence.dump, &self.snapshot_aux());
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

    /// Begins a snapshot in the background. Returns false if one is being made.
    ///
    /// # Errors
    /// If the disk refuses.
    pub(crate) fn start_bgsave(&mut self) -> Result<bool, SaveError> {
        if self.persistence.save.is_some() || self.persistence.walking() || self.sync_job.is_some() {
            return Ok(false);
        }
        let aux = self.snapshot_aux();
        match save::start_bgsave(&mut self.keyspace, &self.persistence.dump, &aux) {
            Ok(job) => {
                notice!("Background saving started");
                self.persistence.dirty_at_start = self.stats.dirty;
                self.persistence.save = Some(job);
                Ok(true)
            }
            Err(error) => {
                self.note_bgsave(&Err(&error));
                Err(error)
            }
        }
    }

    fn note_bgsave(&mut self, outcome: &Result<(), &SaveError>) {
        if let Err(error @ SaveError::Io { .. }) = outcome {
            self.persistence.save_error = Some(error.to_string());
        }
        self.note_save(outcome);
    }

    fn note_save(&mut self, outcome: &Result<(), &SaveError>) {
        match outcome {
            Ok(()) => {
                notice!("DB saved on disk");
                self.persistence.last_save = self.clock.unix_ms / 1000;
                self.persistence.last_save_at = self.clock.instant;
                self.stats.dirty_at_save = self.persistence.dirty_at_start;
                (self.persistence.save_error, self.persistence.save_failed_at) = (None, None);
            }
            Err(error) => {
                warning!("{error}");
                self.persistence.save_failed_at = Some(self.clock.instant);
            }
        }
    }

    /// When the last snapshot was saved, in seconds since 1970.
    #[must_use]
    pub fn last_save_unix(&self) -> u64 {
        self.persistence.last_save
    }

    /// Goes on with what is being written.
    pub(super) fn step_persistence(&mut self) {
        if let Some(outcome) =
            self.persistence.save.as_mut().and_then(|job| job.poll(&mut self.keyspace, STEP_BYTES))
        {
            self.persistence.save = None;
            self.note_bgsave(&outcome.as_ref().copied());
        }
        match self.persistence.aof.as_mut().and_then(|aof| aof.poll(&mut self.keyspace, STEP_BYTES)) {
            Some(Ok(())) => notice!("Background AOF rewrite finished successfully"),
            Some(Err(error)) => warning!("{error}"),
            None => {}
        }
    }

    /// Periodic work: begins the snapshots and rewrites that are due.
    pub(super) fn tend_persistence(&mut self) {
        let changes = self.stats.dirty - self.stats.dirty_at_save;
        let seconds = self.millis_since(self.persistence.last_save_at) / 1000;
        // While writes may be refused for want of a snapshot, no further changes can make one due.
        let failed = self.persistence.save_error.is_some();
        let due = |&(after, least): &(u64, u64)| failed || (changes >= least.max(1) && seconds >= after);
        let failed_at = self.persistence.save_failed_at;
        if failed_at.is_none_or(|at| self.millis_since(at) >= AFTER_FAILURE_MS)
            && self.tunables.save_points.iter().any(due)
        {
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
        let Err(error) = aof.flush(self.clock.instant) else { return };
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
        if let Some(aof) = &mut self.persistence.aof {
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
        match &mut self.persistence.aof {
            Some(aof) => aof.start_rewrite(&mut self.keyspace, &aux),
            None => Ok(()),
        }
    }

    /// `appendonly`, `appendfsync` or the files' names were changed: makes them count.
    pub(super) fn apply_persistence_settings(&mut self) {
        self.persistence.dump = dump_path(&self.config);
        self.persistence.policy = policy(&self.config);
        let on = self.config.settings.bool("appendonly");
        match &mut self.persistence.aof {
            Some(aof) if on => aof.set_policy(self.persistence.policy),
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
        match Aof::enable(location, policy, &mut self.keyspace, &aux) {
            Ok(aof) => self.persistence.aof = Some(aof),
            Err(error) => warning!("{error}"),
        }
    }

    /// Closes the append-only file.
    pub(super) fn close_aof(&mut self) {
        if let Some(mut aof) = self.persistence.aof.take() {
            aof.cancel_rewrite(&mut self.keyspace);
            if let Err(error) = aof.close() {
                warning!("{error}");
            }
        }
    }
}
