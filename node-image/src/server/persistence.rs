//! Files: loading at the start, snapshots, the append-only file.

use std::fmt::Write as _;
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::time::Instant;

use super::Server;
use crate::config::Config;
use crate::persist::rdb::{self, Aux, RdbError};
use crate::persist::save::{self, BackgroundSave, SaveError};
use crate::{notice, warning};

/// Bytes that a snapshot serialises in one go.
const STEP_BYTES: usize = 256 * 1024;

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
}

/// What the data thread keeps on disk.
#[derive(Debug)]
pub struct Persistence {
    dump: PathBuf,
    save: Option<BackgroundSave>,
    last_save: u64,
    last_save_at: Instant,
    last_save_ok: bool,
}

impl Persistence {
    pub(super) fn new(config: &Config, unix_ms: u64) -> Self {
        Self {
            dump: config.dir().join(config.settings.text("dbfilename")),
            save: None,
            last_save: unix_ms / 1000,
            last_save_at: Instant::now(),
            last_save_ok: true,
        }
    }

    pub(super) fn apply_settings(&mut self, config: &Config) {
        self.dump = config.dir().join(config.settings.text("dbfilename"));
    }

    /// Adds bytes of the replication stream to the append-only file.
    pub(super) fn append(&mut self, _bytes: &[u8]) {}

    /// Why writes cannot be kept; `None` if they can.
    pub(super) fn write_error(&self) -> Option<String> {
        None
    }

    /// Whether a snapshot to a file observes the keyspace.
    pub(super) fn walking(&self) -> bool {
        self.save.as_ref().is_some_and(BackgroundSave::walking)
    }

    /// Whether a snapshot to a file can go on at once.
    pub(super) fn can_step(&self) -> bool {
        self.save.as_ref().is_some_and(BackgroundSave::can_step)
    }

    /// Its lines of INFO.
    pub(crate) fn describe(&self, text: &mut String) {
        let _ = write!(
            text,
            "rdb_bgsave_in_progress:{}\r\nrdb_last_save_time:{}\r\nrdb_last_bgsave_status:{}\r\n",
            u8::from(self.save.is_some()),
            self.last_save,
            if self.last_save_ok { "ok" } else { "err" }
        );
    }
}

impl Server {
    /// Loads what the files hold.
    pub(super) fn load(&mut self) -> Result<(), LoadError> {
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
        self.history.backlog.reset(loaded.aux.repl_offset.unwrap_or(0));
        Ok(())
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
        let outcome = save::save_now(&self.keyspace, &self.persistence.dump, &self.snapshot_aux());
        self.note_save(&outcome);
        outcome
    }

    /// Begins a snapshot in the background. Returns false if one is being made.
    pub(crate) fn start_bgsave(&mut self) -> bool {
        if self.persistence.save.is_some() || self.sync_job.is_some() {
            return false;
        }
        let aux = self.snapshot_aux();
        match save::start_bgsave(&mut self.keyspace, &self.persistence.dump, &aux) {
            Ok(job) => {
                notice!("Background saving started");
                self.persistence.save = Some(job);
            }
            Err(error) => self.note_save(&Err(error)),
        }
        true
    }

    fn note_save(&mut self, outcome: &Result<(), SaveError>) {
        self.persistence.last_save_ok = outcome.is_ok();
        self.persistence.last_save_at = self.clock.instant;
        match outcome {
            Ok(()) => {
                notice!("DB saved on disk");
                self.persistence.last_save = self.clock.unix_ms / 1000;
                self.stats.dirty_at_save = self.stats.dirty;
            }
            Err(error) => warning!("{error}"),
        }
    }

    /// When the last snapshot was saved, in seconds since 1970.
    #[must_use]
    pub fn last_save_unix(&self) -> u64 {
        self.persistence.last_save
    }

    /// Goes on with what is being written.
    pub(super) fn step_persistence(&mut self) {
        let Some(job) = &mut self.persistence.save else { return };
        if let Some(outcome) = job.poll(&mut self.keyspace, STEP_BYTES) {
            self.persistence.save = None;
            self.note_save(&outcome);
        }
    }

    /// Periodic work: begins the snapshots that are due.
    pub(super) fn tend_persistence(&mut self) {
        let changes = self.stats.dirty - self.stats.dirty_at_save;
        let seconds = self.millis_since(self.persistence.last_save_at) / 1000;
        let due = |&(after, least): &(u64, u64)| changes >= least.max(1) && seconds >= after;
        if self.tunables.save_points.iter().any(due) {
            self.start_bgsave();
        }
    }

    /// Makes what this tick added to the append-only file durable, as far as `appendfsync` promises.
    pub(super) fn flush_aof(&mut self) {}

    /// The data were replaced: the append-only file begins anew with them.
    pub(super) fn restart_aof(&mut self) {}

    /// Begins to rewrite the append-only file.
    pub(crate) fn start_rewrite(&mut self) -> Result<(), SaveError> {
        Ok(())
    }

    /// Closes the append-only file at the end.
    pub(super) fn close_aof(&mut self) {}
}
