//! Loading the files at the start, while clients are told to wait.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use mio::Events;

use super::propagate::{Beside, beside_data, select};
use super::{Clock, Ending, Event, Server};
use crate::command::Args;
use crate::keyspace::Keyspace;
use crate::persist::aof::{self, Aof, AofError, LoadOptions, Step};
use crate::persist::rdb::{self, RdbError};
use crate::persist::watched::Watched;
use crate::{notice, verbose, warning};

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
    /// The process is to end before all is loaded.
    #[error("stopped while data were being loaded; the files are as they were")]
    Stopped,
    /// The append-only file is broken.
    #[error(transparent)]
    Log(#[from] aof::LoadError),
    /// The append-only file cannot be begun or gone on with.
    #[error(transparent)]
    Resume(#[from] AofError),
}

/// Files that are being loaded.
#[derive(Clone, Copy, Debug)]
pub struct Loading {
    /// When that began.
    pub began: Clock,
    /// Bytes of the files.
    pub total_bytes: u64,
    /// How many of them were read.
    pub loaded_bytes: u64,
}

impl Server {
    /// Loads what the files hold, see [`Server::load_files`]. Clients that come meanwhile are told to wait.
    ///
    /// # Errors
    /// If the files cannot be loaded, or the process is to end before they are.
    pub(super) fn load(&mut self) -> Result<(), LoadError> {
        let began = Clock::now();
        self.loading = Some(Loading {
            began,
            total_bytes: self.persistence.bytes_on_disk(&self.config),
            loaded_bytes: 0,
        });
        let outcome = self.load_files();
        self.loading = None;
        if self.ending != Ending::No {
            return Err(LoadError::Stopped);
        }
        outcome?;
        self.clock = Clock::now();
        self.apply_persistence_settings();
        self.persistence.loaded(self.clock, self.keyspace.total() as u64);
        self.stats.dirty_at_save = self.stats.dirty;
        verbose!("Loading took {} ms", self.millis_since(began.instant));
        Ok(())
    }

    /// The append-only file if it is on and there is one, else the snapshot.
    fn load_files(&mut self) -> Result<(), LoadError> {
        if !self.config.settings.bool("appendonly") {
            return self.load_dump();
        }
        let (location, policy) = (self.persistence.location.clone(), self.persistence.policy);
        let options = LoadOptions {
            databases: self.settings.databases,
            tracking: self.tunables.tracking,
            truncate: self.config.settings.bool("aof-load-truncated"),
        };
        let mut db = 0;
        let Some(loaded) = aof::load(&location, options, |step| self.load_step(step, &mut db))? else {
            self.load_dump()?;
            let aux = self.snapshot_aux();
            let aof = Aof::create(location, policy, &self.keyspace, &aux, self.base_options())?;
            self.persistence.open_aof(aof);
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
        // For elections. That it is a prefix of a history, to go on with there, is nothing that the file can prove.
        self.history.restore(None, loaded.offset);
        self.routing.restore_write_epoch(loaded.write_epoch);
        let aof = Aof::resume(location, policy, loaded)?;
        self.persistence.open_aof(aof);
        Ok(())
    }

    fn load_step(&mut self, step: Step<'_>, db: &mut usize) -> Result<(), String> {
        match step {
            Step::Read(bytes) => self.serve_while_loading(bytes),
            Step::Base(keyspace) => {
                self.keyspace = *keyspace;
                Ok(())
            }
            Step::Command(args) => self.replay(Args::new(args), db),
        }
    }

    /// Runs a command of the append-only file.
    fn replay(&mut self, args: Args<'_>, db: &mut usize) -> Result<(), String> {
        match beside_data(args) {
            None => self.execute_silently(*db, args),
            Some(Beside::Select) => select(args, self.keyspace.databases()).map(|chosen| *db = chosen),
            Some(_) => Ok(()),
        }
    }

    fn load_dump(&mut self) -> Result<(), LoadError> {
        let path = self.persistence.dump.clone();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(LoadError::Open { path, error }),
        };
        let empty = Keyspace::new(self.settings.databases).tracking_as(self.tunables.tracking);
        let loaded = rdb::load(Watched::buffered(file, |bytes| self.serve_while_loading(bytes)), empty)
            .map_err(|error| LoadError::Snapshot { path: path.clone(), error })?;
        notice!("DB loaded from {}: {} keys", path.display(), loaded.keyspace.total());
        self.keyspace = loaded.keyspace;
        let aux = loaded.aux;
        let replid = aux.repl_id.filter(|id| id.len() == 40 && aux.repl_offset.is_some());
        self.restored_db = aux.repl_stream_db.and_then(|db| usize::try_from(db).ok()).unwrap_or(0);
        self.history.restore(replid, aux.repl_offset.unwrap_or(0));
        self.routing.restore_write_epoch(aux.write_epoch.unwrap_or_default());
        Ok(())
    }

    /// Some bytes of the files were read: serves clients as far as that can be done without the data.
    ///
    /// # Errors
    /// If the process is to end.
    fn serve_while_loading(&mut self, bytes: usize) -> Result<(), String> {
        self.shared.beat();
        self.clock = Clock::now();
        if let Some(loading) = &mut self.loading {
            loading.loaded_bytes += bytes as u64;
        }
        let mut ready = Events::with_capacity(64);
        if self.poll.poll(&mut ready, Some(Duration::ZERO)).is_ok() {
            for event in &ready {
                self.on_ready(event);
            }
        }
        while let Ok(event) = self.events.try_recv() {
            if matches!(event, Event::Terminate) {
                notice!("Received SIGTERM while data are loaded: exiting");
                self.ending = Ending::Now { save: Some(false) };
            }
        }
        if self.accepting {
            self.accept();
        }
        self.read_clients();
        self.write_clients();
        self.evict_clients();
        match self.ending {
            Ending::No => Ok(()),
            _ => Err("the process is to end".into()),
        }
    }
}
