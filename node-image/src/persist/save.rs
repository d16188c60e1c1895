//! Snapshots to a file: in the background, and at once.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kv_core::slot::SLOT_COUNT;

use super::fs::NewFile;
use super::rdb::{Aux, Finisher, Format, Piece, RdbWriter};
use super::snapshot::{Aborted, Walker};
use crate::keyspace::Keyspace;

/// Bytes that may wait for the disk before the walker pauses.
const AHEAD: usize = 8 * 1024 * 1024;

/// Bytes that may wait for the disk before the writing thread saves the time to compress. Writes to pages that the walker
/// did not visit yet bring them out faster than that can be done.
const COMPRESSED_AHEAD: usize = 32 * 1024 * 1024;

/// Bytes that may wait for the disk before clients wait for it, too.
const MOST_AHEAD: usize = 64 * 1024 * 1024;

/// How long clients wait then in each tick.
const HOLD_BACK: Duration = Duration::from_micros(500);

/// Bytes that are collected before they are written.
const PIECE: usize = 256 * 1024;

/// Bytes after which a file is synced, if that is not left to its end: so the disk has little to catch up on there.
const SYNC_EVERY: usize = 4 * 1024 * 1024;

/// Held while a snapshot takes its name, unless it was given up: so one that was given up never replaces a later one. Only
/// threads that may wait for the disk take it.
static NAMING: Mutex<()> = Mutex::new(());

/// How a snapshot is written to its file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SaveOptions {
    /// Compression and checksum.
    pub format: Format,
    /// Sync the file as it grows (`rdb-save-incremental-fsync`, `aof-rewrite-incremental-fsync`).
    pub sync_often: bool,
    /// The file is only for who made it: it has no name, is not synced, and goes when it is closed.
    pub nameless: bool,
}

/// Why a snapshot is not in its file. An older file of the name is as it was.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The disk refused.
    #[error("cannot save the snapshot {}: {source}; check its directory (dir) and the free space", path.display())]
    Io {
        /// The file that was to be made.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The data was replaced.
    #[error("the snapshot {} was given up: {why}", path.display())]
    Aborted {
        /// The file that was to be made.
        path: PathBuf,
        /// What happened.
        why: Aborted,
    },
}

/// A snapshot on its way to a file. Dropped before its end, it leaves no file.
#[derive(Debug)]
pub struct BackgroundSave {
    path: PathBuf,
    /// `None` when everything is serialised.
    walker: Option<Walker>,
    writer: FileThread,
}

/// Begins to save what the keyspace holds now. Go on with [`BackgroundSave::poll`].
///
/// # Errors
/// If the file or its thread cannot be made.
pub fn start_bgsave(
    keyspace: &mut Keyspace,
    path: &Path,
    aux: &Aux,
    options: SaveOptions,
) -> Result<BackgroundSave, SaveError> {
    let writer = FileThread::start(path, options)
        .map_err(|source| SaveError::Io { path: path.to_path_buf(), source })?;
    Ok(BackgroundSave { path: path.to_path_buf(), walker: Some(Walker::start(keyspace, aux)), writer })
}

impl BackgroundSave {
    /// Whether it observes the keyspace, so that no other snapshot may begin.
    #[must_use]
    pub fn walking(&self) -> bool {
        self.walker.is_some()
    }

    /// Whether [`BackgroundSave::poll`] would serialise now, or only wait for the disk.
    #[must_use]
    pub fn can_step(&self) -> bool {
        self.walking() && self.writer.waiting() < AHEAD
    }

    /// Waits a moment if far too much waits for the disk; to be called once a tick. That bounds the memory that a snapshot
    /// takes while clients write faster than the disk.
    pub fn hold_back(&self) {
        let aside = self.walker.as_ref().map_or(0, Walker::aside);
        if self.writer.waiting() + aside > MOST_AHEAD {
            std::thread::sleep(HOLD_BACK);
        }
    }

    /// Serialises about `budget` bytes more if the disk keeps up. Returns the outcome once it is there: the file, complete
    /// and durable under its name unless it was to have none, or why there is none. After that it is not to be called again.
    pub fn poll(&mut self, keyspace: &mut Keyspace, budget: usize) -> Option<Result<File, SaveError>> {
        if let Some(walker) = &mut self.walker {
            let progress =
                if self.writer.waiting() < AHEAD { walker.step(keyspace, budget) } else { Ok(false) };
            match progress {
                Err(why) => {
                    self.walker = None;
                    return Some(Err(SaveError::Aborted { path: self.path.clone(), why }));
                }
                Ok(done) => {
                    self.writer.write(walker.take_output());
                    if done {
                        self.walker = None;
                        self.writer.finish();
                        return None; // the disk takes longer
                    }
                }
            }
        }
        let outcome = self.writer.outcome()?;
        if let Some(walker) = self.walker.take() {
            walker.cancel(keyspace);
        }
        Some(outcome.map_err(|source| SaveError::Io { path: self.path.clone(), source }))
    }

    /// Gives it up. The thread that writes ends by itself: it frees what still waited for the disk, and removes the file.
    pub fn cancel(mut self, keyspace: &mut Keyspace) {
        if let Some(walker) = self.walker.take() {
            walker.cancel(keyspace);
        }
    }

    /// Gives it up, and waits for the disk until its file is gone; for the end of the process.
    pub fn end(mut self, keyspace: &mut Keyspace) {
        if let Some(walker) = self.walker.take() {
            walker.cancel(keyspace);
        }
        self.writer.end();
    }
}

/// Saves what the keyspace holds now, and returns when the file is complete and durable. Clients wait.
///
/// # Errors
/// If the disk refuses.
pub fn save_now(keyspace: &Keyspace, path: &Path, aux: &Aux, options: SaveOptions) -> Result<(), SaveError> {
    write_all(keyspace, path, aux, options)
        .map_err(|source| SaveError::Io { path: path.to_path_buf(), source })
}

fn write_all(keyspace: &Keyspace, path: &Path, aux: &Aux, options: SaveOptions) -> io::Result<()> {
    let mut file = SnapshotFile::create(path, options)?;
    let mut writer = RdbWriter::begin(aux, keyspace.tracking());
    for db in 0..keyspace.databases() {
        let mut from = 0;
        while let Some(slot) = keyspace.next_occupied_slot(db, from).filter(|&slot| slot < SLOT_COUNT) {
            keyspace.slot_entries(db, slot).for_each(|entry| writer.entry(db, &entry));
            if writer.pending() >= PIECE {
                file.write(writer.take(), false)?;
            }
            from = slot + 1;
        }
    }
    writer.finish();
    file.write(writer.take(), false)?;
    file.complete(&AtomicBool::new(false)).map(drop)
}

/// A snapshot's file while it is written.
#[derive(Debug)]
struct SnapshotFile {
    file: NewFile,
    finisher: Finisher,
    options: SaveOptions,
    unsynced: usize,
}

impl SnapshotFile {
    fn create(path: &Path, options: SaveOptions) -> io::Result<Self> {
        Ok(Self {
            file: if options.nameless { NewFile::nameless(path)? } else { NewFile::create(path)? },
            finisher: Finisher::new(options.format),
            options,
            unsynced: 0,
        })
    }

    fn write(&mut self, piece: Piece, fast: bool) -> io::Result<()> {
        let bytes = self.finisher.finish(piece, fast);
        self.file.write(&bytes)?;
        self.unsynced += bytes.len();
        if self.options.sync_often && !self.options.nameless && self.unsynced >= SYNC_EVERY {
            self.file.sync()?;
            self.unsynced = 0;
        }
        Ok(())
    }

    /// Writes the end, and gives the file its name, if it is to have one and was not given up.
    fn complete(mut self, given_up: &AtomicBool) -> io::Result<File> {
        self.file.write(&self.finisher.end())?;
        if self.options.nameless {
            return self.file.handle();
        }
        self.file.sync()?;
        let _naming = NAMING.lock().unwrap_or_else(PoisonError::into_inner);
        if given_up.load(Ordering::SeqCst) {
            return Err(io::Error::other("it was given up"));
        }
        let file = self.file.handle()?;
        self.file.commit()?;
        Ok(file)
    }
}

/// A thread that writes a file, so that the data thread never waits for the disk. If this is dropped before the outcome is
/// there, the thread gives up.
#[derive(Debug)]
struct FileThread {
    pieces: Sender<Message>,
    outcome: Receiver<io::Result<File>>,
    shared: Arc<Shared>,
}

/// What the thread and who started it both look at.
#[derive(Debug, Default)]
struct Shared {
    /// Bytes that wait for the disk.
    waiting: AtomicUsize,
    given_up: AtomicBool,
}

#[derive(Debug)]
enum Message {
    Piece(Piece),
    End,
}

/// Lets the data thread go first where both want one processor, as in a container that has no more. Where it cannot be
/// had, clients wait a little longer.
fn give_way() {
    // Linux takes "this process" to be this thread.
    let _ = rustix::process::setpriority_process(None, 10);
}

impl FileThread {
    fn start(path: &Path, options: SaveOptions) -> io::Result<Self> {
        let file = SnapshotFile::create(path, options)?;
        let (pieces, incoming) = channel();
        let (report, outcome) = channel();
        let shared = Arc::new(Shared::default());
        let seen = Arc::clone(&shared);
        std::thread::Builder::new().name("snapshot-file".into()).spawn(move || {
            give_way();
            if let Some(outcome) = write_pieces(file, &incoming, &seen) {
                // Nobody listens any more if the snapshot was given up meanwhile.
                let _ = report.send(outcome);
            }
        })?;
        Ok(Self { pieces, outcome, shared })
    }

    fn waiting(&self) -> usize {
        self.shared.waiting.load(Ordering::Relaxed)
    }

    fn write(&self, piece: Piece) {
        if !piece.is_empty() {
            self.shared.waiting.fetch_add(piece.len(), Ordering::Relaxed);
            // A thread that ended has reported why.
            let _ = self.pieces.send(Message::Piece(piece));
        }
    }

    fn finish(&self) {
        let _ = self.pieces.send(Message::End);
    }

    fn give_up(&self) {
        self.shared.given_up.store(true, Ordering::SeqCst);
        let _ = self.pieces.send(Message::End); // it may wait for the next piece
    }

    /// Gives up, and returns when the thread does nothing more to the file.
    fn end(&self) {
        self.give_up();
        // It hangs up when it ends, whatever it has to say.
        while self.outcome.recv().is_ok() {}
    }

    fn outcome(&self) -> Option<io::Result<File>> {
        match self.outcome.try_recv() {
            Ok(outcome) => Some(outcome),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(io::Error::other("the writing thread is gone"))),
        }
    }
}

impl Drop for FileThread {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// Writes what comes until the end; `None` if it is given up before that.
fn write_pieces(
    mut file: SnapshotFile,
    incoming: &Receiver<Message>,
    shared: &Shared,
) -> Option<io::Result<File>> {
    loop {
        let message = incoming.recv().ok()?;
        if shared.given_up.load(Ordering::SeqCst) {
            return None;
        }
        match message {
            Message::End => return Some(file.complete(&shared.given_up)),
            Message::Piece(piece) => {
                let len = piece.len();
                let fast = shared.waiting.load(Ordering::Relaxed) > COMPRESSED_AHEAD;
                if let Err(error) = file.write(piece, fast) {
                    return Some(Err(error));
                }
                shared.waiting.fetch_sub(len, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::keyspace::value::Value;
    use crate::persist::rdb;

    const OPTIONS: SaveOptions =
        SaveOptions { format: Format { compress: true, checksum: true }, sync_often: true, nameless: false };

    fn filled() -> Keyspace {
        let mut keyspace = Keyspace::new(1);
        for n in 0..5000 {
            keyspace.insert_loaded(0, format!("k{n}").as_bytes(), Value::string(&[b'v'; 100]), 0);
        }
        keyspace
    }

    fn wait(save: &mut BackgroundSave, keyspace: &mut Keyspace) -> Result<(), SaveError> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(outcome) = save.poll(keyspace, 10_000) {
                return outcome.map(drop);
            }
            assert!(Instant::now() < deadline, "the save does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn read_back(path: &Path) -> usize {
        rdb::load(std::io::BufReader::new(std::fs::File::open(path).unwrap()), Keyspace::new(1))
            .unwrap()
            .keyspace
            .len(0)
    }

    #[test]
    fn both_ways_leave_a_whole_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dump.rdb");
        let mut keyspace = filled();
        save_now(&keyspace, &path, &Aux::default(), OPTIONS).unwrap();
        assert_eq!(read_back(&path), 5000);
        let mut save = start_bgsave(&mut keyspace, &path, &Aux::default(), OPTIONS).unwrap();
        keyspace.insert_loaded(0, b"later".as_slice(), Value::string(b"v"), 0);
        wait(&mut save, &mut keyspace).unwrap();
        assert_eq!(read_back(&path), 5000);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_given_up_save_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dump.rdb");
        std::fs::write(&path, "old").unwrap();
        let mut keyspace = filled();
        let mut save = start_bgsave(&mut keyspace, &path, &Aux::default(), OPTIONS).unwrap();
        assert!(save.poll(&mut keyspace, 1).is_none());
        keyspace.flush_all(true);
        let error = wait(&mut save, &mut keyspace).unwrap_err();
        assert!(matches!(error, SaveError::Aborted { .. }), "{error}");
        drop(save);
        let deadline = Instant::now() + Duration::from_secs(60);
        while std::fs::read_dir(dir.path()).unwrap().count() > 1 {
            assert!(Instant::now() < deadline, "the temporary file stays");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
    }

    /// Goes on until nothing but the disk is to be waited for.
    fn serialise(save: &mut BackgroundSave, keyspace: &mut Keyspace) {
        while save.walking() {
            assert!(save.poll(keyspace, usize::MAX).is_none());
        }
    }

    #[test]
    fn who_gives_a_save_up_does_not_wait_for_the_disk_and_later_ones_stand() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dump.rdb");
        let mut keyspace = filled();
        let naming = NAMING.lock().unwrap(); // a disk that is busy
        let mut first = start_bgsave(&mut keyspace, &path, &Aux::default(), OPTIONS).unwrap();
        serialise(&mut first, &mut keyspace);
        let (done, waited) = channel();
        std::thread::spawn(move || {
            first.cancel(&mut keyspace);
            keyspace.insert_loaded(0, b"later".as_slice(), Value::string(b"v"), 0);
            let mut second = start_bgsave(&mut keyspace, &path, &Aux::default(), OPTIONS).unwrap();
            serialise(&mut second, &mut keyspace);
            done.send((second, keyspace, path)).unwrap();
        });
        let (mut second, mut keyspace, path) = waited.recv_timeout(Duration::from_secs(60)).unwrap();
        drop(naming);
        wait(&mut second, &mut keyspace).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while std::fs::read_dir(dir.path()).unwrap().count() > 1 {
            assert!(Instant::now() < deadline, "the temporary file stays");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(read_back(&path), 5001);
    }

    #[test]
    fn what_waits_for_the_disk_is_freed_unwritten_when_its_save_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let file = SnapshotFile::create(&dir.path().join("dump.rdb"), OPTIONS).unwrap();
        let mut writer = RdbWriter::begin(&Aux::default(), filled().tracking());
        writer.finish();
        let (pieces, incoming) = channel();
        pieces.send(Message::Piece(writer.take())).unwrap();
        pieces.send(Message::End).unwrap();
        let shared = Shared { given_up: AtomicBool::new(true), ..Shared::default() };
        assert!(write_pieces(file, &incoming, &shared).is_none());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_without_a_name_is_whole_and_goes_with_who_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let options = SaveOptions { nameless: true, ..OPTIONS };
        let mut keyspace = filled();
        let path = dir.path().join("dump.rdb");
        let mut save = start_bgsave(&mut keyspace, &path, &Aux::default(), options).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left, whatever happens");
        serialise(&mut save, &mut keyspace);
        let mut outcome = None;
        while outcome.is_none() {
            outcome = save.poll(&mut keyspace, 1);
        }
        let mut file = outcome.unwrap().unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        let loaded = rdb::load(std::io::BufReader::new(file), Keyspace::new(1)).unwrap();
        assert_eq!(loaded.keyspace.len(0), 5000);
    }

    #[test]
    fn a_save_is_not_harmed_by_one_that_was_given_up_just_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dump.rdb");
        let mut keyspace = filled();
        for _ in 0..20 {
            start_bgsave(&mut keyspace, &path, &Aux::default(), OPTIONS).unwrap().cancel(&mut keyspace);
            let mut save = start_bgsave(&mut keyspace, &path, &Aux::default(), OPTIONS).unwrap();
            wait(&mut save, &mut keyspace).unwrap();
        }
        assert_eq!(read_back(&path), 5000);
    }

    #[test]
    fn a_refusing_disk_is_an_error_with_the_name_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("missing").join("dump.rdb");
        let error = save_now(&filled(), &path, &Aux::default(), OPTIONS).unwrap_err().to_string();
        assert!(error.contains("dump.rdb"), "{error}");
        assert!(start_bgsave(&mut filled(), &path, &Aux::default(), OPTIONS).is_err());
    }
}
