//! Rewriting: a new base takes the place of the old one and of all that happened since, while clients go on writing.
//!
//! There are two ways. Usually a new incr file is begun and listed at once, so that until the new base is there the old
//! base and all incr files make up the data. Where the old files are not a beginning of what follows (new data from a
//! parent, a file with holes), the new incr file is listed together with the new base only: until then a restart finds
//! the old data, as it was.

use std::time::Duration;

use super::{Aof, AofError, ListedFile, Log, older_bytes, publish, remove_elsewhere};
use crate::keyspace::Keyspace;
use crate::persist::rdb::Aux;
use crate::persist::save::{BackgroundSave, SaveError, start_bgsave};

/// A new base that is being made.
#[derive(Debug)]
pub(super) struct Rewrite {
    save: BackgroundSave,
    base: ListedFile,
}

impl Aof {
    /// Begins to make a new base of what the keyspace holds now. `aux` must say where the stream stands now. The next
    /// command of the stream should be preceded by a SELECT, for readers that begin each file with database 0.
    /// A rewrite that is under way is given up.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn start_rewrite(&mut self, keyspace: &mut Keyspace, aux: &Aux) -> Result<(), AofError> {
        self.cancel_rewrite(keyspace);
        let begun = if self.is_whole() { self.begin_listed() } else { self.begin_unlisted() };
        let begun = begun.and_then(|()| self.begin_base(keyspace, aux));
        self.note_begin(begun.is_err());
        begun
    }

    /// Begins anew with data that has nothing to do with what is on the disk: after a full synchronisation, once the
    /// keyspace holds it. The old files stay in use until the new base is there. If the disk refuses, that is the
    /// [`Aof::last_write_error`], and [`Aof::rewrite_wanted`] asks for another attempt.
    pub fn reset(&mut self, keyspace: &mut Keyspace, aux: &Aux) {
        self.cancel_rewrite(keyspace);
        // What was wrong with the old data does not matter any more.
        (self.log, self.fault) = (None, None);
        let begun = self.begin_unlisted().and_then(|()| self.begin_base(keyspace, aux));
        self.note_begin(begun.is_err());
        if let Err(error) = begun {
            self.fault.get_or_insert(error);
        }
    }

    /// Whether a rewrite is under way.
    #[must_use]
    pub fn is_rewriting(&self) -> bool {
        self.rewrite.is_some()
    }

    /// Whether the last rewrite failed (`aof_last_bgrewrite_status`).
    #[must_use]
    pub fn last_rewrite_failed(&self) -> bool {
        self.failures > 0
    }

    /// Whether it observes the keyspace, so that no other snapshot may begin.
    #[must_use]
    pub fn walking(&self) -> bool {
        self.rewrite.as_ref().is_some_and(|rewrite| rewrite.save.walking())
    }

    /// Whether [`Aof::poll`] would serialise now, or only wait for the disk.
    #[must_use]
    pub fn can_step(&self) -> bool {
        self.rewrite.as_ref().is_some_and(|rewrite| rewrite.save.can_step())
    }

    /// Waits a moment if far too much of the new base waits for the disk; to be called once a tick.
    pub fn hold_back(&self) {
        if let Some(rewrite) = &self.rewrite {
            rewrite.save.hold_back();
        }
    }

    /// Goes on with the rewrite, serialising about `budget` bytes. Returns its outcome when it is there. After an error
    /// the old files are still in use; after [`SaveError::Aborted`] it may be begun anew at once.
    pub fn poll(&mut self, keyspace: &mut Keyspace, budget: usize) -> Option<Result<(), AofError>> {
        let outcome = self.rewrite.as_mut()?.save.poll(keyspace, budget)?;
        let rewrite = self.rewrite.take()?;
        let aborted = matches!(outcome, Err(SaveError::Aborted { .. }));
        let outcome = outcome.map_err(AofError::from).and_then(|_| self.switch(rewrite.base));
        self.note_rewrite(outcome.is_err() && !aborted);
        Some(outcome)
    }

    /// Completes a rewrite, if a restart would otherwise find data that were replaced, or only the disk is to be waited
    /// for; for the end of the process. A failure leaves the old files.
    pub fn finish_rewrite(&mut self, keyspace: &mut Keyspace) {
        const LOOK: Duration = Duration::from_millis(1);
        while self.is_rewriting() && !(self.walking() && self.is_listed()) {
            if self.poll(keyspace, usize::MAX).is_none() {
                std::thread::sleep(LOOK);
            }
        }
    }

    /// Gives a rewrite up.
    pub fn cancel_rewrite(&mut self, keyspace: &mut Keyspace) {
        if let Some(rewrite) = self.rewrite.take() {
            rewrite.save.cancel(keyspace);
        }
    }

    /// Begins a new incr file, and lists it. The old one is complete and durable before that.
    fn begin_listed(&mut self) -> Result<(), AofError> {
        self.close()?;
        let incr = self.location.incr(self.manifest.next_incr_seq());
        let log = Log::create(&self.location.path(&incr), self.policy)?;
        let mut manifest = self.manifest.clone();
        if let (Some(complete), Some(log)) = (manifest.incr.last_mut(), &self.log) {
            complete.len = Some(log.len());
        }
        manifest.incr.push(incr.clone());
        if let Err(error) = publish(&self.location, &manifest) {
            if !self.manifest_stands() {
                // The old file is listed as complete: nothing may be added to it, nor to the new one.
                (self.log, self.fault) = (None, Some(error.copy()));
            }
            return Err(error);
        }
        self.older_bytes = self.size();
        (self.manifest, self.log, self.log_file) = (manifest, Some(log), incr);
        Ok(())
    }

    /// Whether a restart would read the manifest that is in use.
    pub(super) fn manifest_stands(&self) -> bool {
        std::fs::read(self.location.manifest_path()).is_ok_and(|text| text == self.manifest.text().as_bytes())
    }

    /// Begins a new incr file that is no part of the data yet. What was wrong with the old one stays an error until
    /// the new base is there.
    fn begin_unlisted(&mut self) -> Result<(), AofError> {
        let error = self.log.take().and_then(Log::into_error);
        self.fault = self.fault.take().or(error);
        let incr = self.location.incr(self.manifest.next_incr_seq());
        self.log_file = incr.clone();
        match Log::create(&self.location.path(&incr), self.policy) {
            Ok(log) => self.log = Some(log),
            Err(error) => {
                self.fault.get_or_insert(error.copy());
                return Err(error);
            }
        }
        self.older_bytes = older_bytes(&self.location, &self.manifest, &self.log_file);
        Ok(())
    }

    fn begin_base(&mut self, keyspace: &mut Keyspace, aux: &Aux) -> Result<(), AofError> {
        let base = self.location.base(self.manifest.next_base_seq());
        let aux = Aux { aof_base: true, ..aux.clone() };
        let save = start_bgsave(keyspace, &self.location.path(&base), &aux, self.base_options)?;
        self.rewrite = Some(Rewrite { save, base });
        Ok(())
    }

    /// Puts the new base in place of everything before it.
    fn switch(&mut self, base: ListedFile) -> Result<(), AofError> {
        if !self.is_listed() {
            self.close()?;
        }
        let mut manifest = self.manifest.clone();
        manifest.base = Some(base);
        manifest.incr = vec![self.log_file.clone()];
        manifest.history.clear();
        publish(&self.location, &manifest)?;
        let old = self.manifest.base.iter().chain(&self.manifest.incr).chain(&self.manifest.history);
        let gone =
            old.filter(|file| !manifest.needs(&file.name)).map(|file| self.location.path(file)).collect();
        remove_elsewhere(gone);
        self.manifest = manifest;
        self.fault = None;
        self.older_bytes = older_bytes(&self.location, &self.manifest, &self.log_file);
        self.size_after_rewrite = self.size();
        Ok(())
    }
}
