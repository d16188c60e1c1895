//! The end of the append-only file: a buffer, the file that it goes to, and when that is made durable.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};

use super::AofError;
use crate::persist::checksum::{self, Checksum};

/// `appendfsync`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsyncPolicy {
    /// What was written is durable before its replies leave.
    Always,
    /// What was written is durable about a second later.
    EverySec,
    /// The system decides.
    No,
}

/// How long after a failure the next attempt is made, and how far apart syncs are under [`FsyncPolicy::EverySec`].
const SECOND: Duration = Duration::from_secs(1);

/// For how long writing is put off while a sync is under way, which would block it.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is needed of a file; tests have files that fail.
pub(super) trait Disk: Send + Sync {
    /// Appends a part of the bytes; returns how many.
    fn append(&self, bytes: &[u8]) -> io::Result<usize>;
    /// Cuts it.
    fn truncate(&self, len: u64) -> io::Result<()>;
    /// Makes it durable.
    fn sync(&self) -> io::Result<()>;
}

impl Disk for File {
    fn append(&self, bytes: &[u8]) -> io::Result<usize> {
        (&mut &*self).write(bytes)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// An incr file that is being written.
pub(super) struct Log {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    /// Its length without what a failed write may have left.
    len: u64,
    buffer: Vec<u8>,
    /// Of what no checksum in the file or in the buffer covers, up to `summed` in the buffer.
    checksum: Checksum,
    summed: usize,
    policy: FsyncPolicy,
    /// Whether something was written that was not synced.
    dirty: bool,
    last_sync: Option<Instant>,
    put_off_since: Option<Instant>,
    /// How often that took too long (`aof_delayed_fsync`).
    delayed: u64,
    syncer: Option<Syncer>,
    error: Option<AofError>,
    retry_at: Option<Instant>,
    /// Where the replication stream stands after what was appended.
    offset: u64,
    /// Where it stood when the sync that is under way began.
    syncing: u64,
    /// Up to where it is known to be on the disk.
    synced: u64,
}

impl Log {
    /// Makes an empty file, in place of what may be left there of an earlier attempt.
    pub fn create(path: &Path, policy: FsyncPolicy) -> Result<Self, AofError> {
        Self::open(path, None, policy)
    }

    /// Goes on with a file; `checksum` is of the bytes at its end that no checksum in it covers.
    pub fn resume(path: &Path, checksum: Checksum, policy: FsyncPolicy) -> Result<Self, AofError> {
        Self::open(path, Some(checksum), policy)
    }

    fn open(path: &Path, resumed: Option<Checksum>, policy: FsyncPolicy) -> Result<Self, AofError> {
        let failed = |source| AofError::io("open", path, source);
        let mut options = OpenOptions::new();
        let file = options.append(true).create(true).open(path).map_err(failed)?;
        if resumed.is_none() {
            file.set_len(0).map_err(failed)?;
        }
        let len = file.metadata().map_err(failed)?.len();
        file.sync_all().map_err(failed)?;
        let mut log = Self::on(path, Arc::new(file), len, policy);
        log.checksum = resumed.unwrap_or_default();
        Ok(log)
    }

    fn on(path: &Path, disk: Arc<dyn Disk>, len: u64, policy: FsyncPolicy) -> Self {
        Self {
            path: path.to_path_buf(),
            disk,
            len,
            buffer: Vec::new(),
            checksum: Checksum::default(),
            summed: 0,
            policy,
            dirty: false,
            last_sync: None,
            put_off_since: None,
            delayed: 0,
            syncer: None,
            error: None,
            retry_at: None,
            offset: 0,
            syncing: 0,
            synced: 0,
        }
    }

    /// Says where the replication stream stands after what was appended.
    pub fn set_offset(&mut self, offset: u64) {
        self.offset = offset;
    }

    /// Up to where the stream is known to be on the disk.
    pub fn synced(&self) -> u64 {
        self.synced
    }

    pub fn set_policy(&mut self, policy: FsyncPolicy) {
        self.policy = policy;
    }

    pub fn append(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes in the file and in the buffer.
    pub fn len(&self) -> u64 {
        self.len + self.buffer.len() as u64
    }

    /// Bytes that are not in the file yet.
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// How often a write could not be put off any longer though a sync was under way, since the last call.
    pub fn take_delayed(&mut self) -> u64 {
        std::mem::take(&mut self.delayed)
    }

    /// What went wrong, taken out of a log that is given up.
    pub fn into_error(self) -> Option<AofError> {
        self.error
    }

    pub fn error(&self) -> Option<&AofError> {
        self.error.as_ref()
    }

    /// Whether the data in the file may have holes, which only a new base heals: after a failed sync the system may
    /// have dropped what it could not write.
    pub fn is_suspect(&self) -> bool {
        matches!(self.error, Some(AofError::Sync { .. }))
    }

    /// Writes what is in the buffer, and syncs it as the policy says. After a failure nothing is tried for a second.
    pub fn flush(&mut self, now: Instant) -> Result<(), &AofError> {
        self.collect_sync();
        let waits = self.retry_at.is_some_and(|at| now < at);
        if !self.is_suspect() && !waits && !self.put_off(now) {
            let outcome = self.write().and_then(|()| self.sync_by_policy(now));
            self.retry_at = outcome.is_err().then(|| now + SECOND);
            self.error = outcome.err();
            self.note_synced();
        }
        self.error.as_ref().map_or(Ok(()), Err)
    }

    /// If nothing is left to be synced, everything is.
    fn note_synced(&mut self) {
        let busy = self.syncer.as_ref().is_some_and(Syncer::is_busy);
        if self.buffer.is_empty() && !self.dirty && !busy && self.error.is_none() {
            self.synced = self.offset;
        }
    }

    /// Writes and syncs everything, whatever the policy.
    pub fn close(&mut self) -> Result<(), AofError> {
        if let Some(Err(source)) = self.syncer.as_ref().and_then(Syncer::wait) {
            self.error = Some(AofError::Sync { path: self.path.clone(), source });
        }
        if let Some(error) = self.error.as_ref().filter(|_| self.is_suspect()) {
            return Err(error.copy());
        }
        self.write()?;
        self.sync()
    }

    /// A write blocks while a sync of the same file is under way.
    fn put_off(&mut self, now: Instant) -> bool {
        let syncing =
            self.policy == FsyncPolicy::EverySec && self.syncer.as_ref().is_some_and(Syncer::is_busy);
        if !syncing || self.buffer.is_empty() {
            self.put_off_since = None;
            return false;
        }
        let since = *self.put_off_since.get_or_insert(now);
        let patient = now.saturating_duration_since(since) < PATIENCE;
        self.delayed += u64::from(!patient);
        patient
    }

    /// Ends what is in the buffer with its checksum.
    fn seal(&mut self) {
        self.checksum.add(self.buffer.get(self.summed..).unwrap_or_default());
        if self.checksum.bytes() > 0 {
            self.buffer.extend_from_slice(checksum::line(self.checksum.value()).as_bytes());
            self.buffer.extend_from_slice(b"\r\n");
            self.checksum = Checksum::default();
        }
        self.summed = self.buffer.len();
    }

    fn write(&mut self) -> Result<(), AofError> {
        self.seal();
        let mut written = 0;
        let outcome = loop {
            let rest = self.buffer.get(written..).unwrap_or_default();
            if rest.is_empty() {
                break Ok(());
            }
            match self.disk.append(rest) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        // A part of the buffer is of no use in the file, unless it cannot be taken back.
        if outcome.is_ok() || (written > 0 && self.disk.truncate(self.len).is_err()) {
            self.len += written as u64;
            self.buffer.drain(..written);
            self.summed = self.buffer.len();
            self.dirty |= written > 0;
        }
        outcome.map_err(|source| AofError::io("write", &self.path, source))
    }

    fn sync(&mut self) -> Result<(), AofError> {
        if self.dirty {
            if let Err(source) = self.disk.sync() {
                let error = AofError::Sync { path: self.path.clone(), source };
                self.error = Some(error.copy());
                return Err(error);
            }
            self.dirty = false;
        }
        Ok(())
    }

    fn sync_by_policy(&mut self, now: Instant) -> Result<(), AofError> {
        match self.policy {
            FsyncPolicy::Always => self.sync(),
            FsyncPolicy::No => Ok(()),
            FsyncPolicy::EverySec => {
                let due = self.last_sync.is_none_or(|last| now.saturating_duration_since(last) >= SECOND);
                if self.dirty && due {
                    self.sync_elsewhere(now)?;
                }
                Ok(())
            }
        }
    }

    fn sync_elsewhere(&mut self, now: Instant) -> Result<(), AofError> {
        if self.syncer.is_none() {
            let started = Syncer::start(Arc::clone(&self.disk));
            self.syncer = Some(started.map_err(|source| AofError::io("start to sync", &self.path, source))?);
        }
        if let Some(syncer) = self.syncer.as_ref().filter(|syncer| !syncer.is_busy()) {
            syncer.request();
            self.syncing = self.offset;
            self.dirty = false;
            self.last_sync = Some(now);
        }
        Ok(())
    }

    fn collect_sync(&mut self) {
        match self.syncer.as_ref().and_then(Syncer::outcome) {
            Some(Ok(())) => self.synced = self.syncing,
            Some(Err(source)) => self.error = Some(AofError::Sync { path: self.path.clone(), source }),
            None => {}
        }
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("path", &self.path).field("len", &self.len).finish_non_exhaustive()
    }
}

/// A thread that syncs a file when asked to. It ends when this is dropped.
struct Syncer {
    requests: Sender<()>,
    outcomes: Receiver<io::Result<()>>,
    busy: Arc<AtomicBool>,
}

impl Syncer {
    fn start(disk: Arc<dyn Disk>) -> io::Result<Self> {
        let (requests, incoming) = channel::<()>();
        let (report, outcomes) = channel();
        let busy = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&busy);
        std::thread::Builder::new().name("aof-sync".into()).spawn(move || {
            while incoming.recv().is_ok() {
                let outcome = disk.sync();
                // Nobody listens any more after the file was replaced.
                let _ = report.send(outcome);
                flag.store(false, Ordering::Release);
            }
        })?;
        Ok(Self { requests, outcomes, busy })
    }

    fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire)
    }

    fn request(&self) {
        self.busy.store(true, Ordering::Release);
        if self.requests.send(()).is_err() {
            self.busy.store(false, Ordering::Release);
        }
    }

    /// The outcome of the sync that is under way, if there is one.
    fn wait(&self) -> Option<io::Result<()>> {
        if self.is_busy() { self.outcomes.recv().ok() } else { self.outcome() }
    }

    fn outcome(&self) -> Option<io::Result<()>> {
        match self.outcomes.try_recv() {
            Ok(outcome) => Some(outcome),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(io::Error::other("the syncing thread is gone"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A disk of a size that can be changed.
    #[derive(Default)]
    struct Small {
        content: Mutex<Vec<u8>>,
        room: Mutex<usize>,
        syncs: Mutex<usize>,
        sync_fails: AtomicBool,
        /// Held by a test for as long as a sync is to take.
        hold: Mutex<()>,
    }

    impl Disk for Small {
        fn append(&self, bytes: &[u8]) -> io::Result<usize> {
            let mut content = self.content.lock().unwrap();
            let free = *self.room.lock().unwrap() - content.len();
            let count = bytes.len().min(free);
            content.extend_from_slice(&bytes[..count]);
            if count == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(count) }
        }

        fn truncate(&self, len: u64) -> io::Result<()> {
            self.content.lock().unwrap().truncate(len as usize);
            Ok(())
        }

        fn sync(&self) -> io::Result<()> {
            *self.syncs.lock().unwrap() += 1;
            drop(self.hold.lock().unwrap());
            if self.sync_fails.load(Ordering::Relaxed) { Err(io::Error::other("sync")) } else { Ok(()) }
        }
    }

    impl Small {
        fn text(&self) -> String {
            String::from_utf8(self.content.lock().unwrap().clone()).unwrap()
        }
    }

    /// These pieces, each with its checksum.
    fn sealed(pieces: &[&str]) -> String {
        let line = |piece: &str| checksum::line(checksum::of(piece.as_bytes()));
        pieces.iter().map(|piece| format!("{piece}{}\r\n", line(piece))).collect()
    }

    #[test]
    fn what_was_resumed_is_sealed_with_what_follows() {
        let (disk, mut log) = small(100, FsyncPolicy::No);
        log.checksum.add(b"left");
        log.append(b"new");
        log.flush(Instant::now()).unwrap();
        log.append(b"er");
        log.flush(Instant::now()).unwrap();
        let first = checksum::line(checksum::of(b"leftnew"));
        assert_eq!(disk.text(), format!("new{first}\r\n{}", sealed(&["er"])));
    }

    fn small(room: usize, policy: FsyncPolicy) -> (Arc<Small>, Log) {
        let disk = Arc::new(Small { room: Mutex::new(room), ..Small::default() });
        let log = Log::on(Path::new("a.aof"), Arc::clone(&disk) as Arc<dyn Disk>, 0, policy);
        (disk, log)
    }

    #[test]
    fn a_full_disk_is_tried_again_after_a_second_and_loses_nothing() {
        let (disk, mut log) = small(30, FsyncPolicy::No);
        let start = Instant::now();
        log.append(b"12345678");
        assert!(log.flush(start).is_ok());
        log.append(b"abcdefgh");
        let error = log.flush(start).unwrap_err().to_string();
        assert!(error.contains("a.aof"), "{error}");
        assert_eq!(disk.text(), sealed(&["12345678"]), "the partial write is taken back");
        log.append(b"+");
        *disk.room.lock().unwrap() = 100;
        assert!(log.flush(start + SECOND / 2).is_err());
        assert!(log.flush(start + SECOND).is_ok());
        assert!(log.error().is_none());
        assert_eq!(disk.text(), sealed(&["12345678", "abcdefgh", "+"]));
    }

    #[test]
    fn always_syncs_in_the_flush_and_a_failed_sync_stays_an_error() {
        let (disk, mut log) = small(100, FsyncPolicy::Always);
        let start = Instant::now();
        log.append(b"a");
        assert!(log.flush(start).is_ok());
        assert!(log.flush(start).is_ok());
        assert_eq!(*disk.syncs.lock().unwrap(), 1, "nothing to sync, nothing is synced");
        disk.sync_fails.store(true, Ordering::Relaxed);
        log.append(b"b");
        assert!(log.flush(start).is_err());
        disk.sync_fails.store(false, Ordering::Relaxed);
        assert!(log.flush(start + SECOND * 5).is_err());
        assert!(log.is_suspect());
    }

    #[test]
    fn everysec_syncs_on_another_thread() {
        let (disk, mut log) = small(100, FsyncPolicy::EverySec);
        let start = Instant::now();
        log.append(b"a");
        assert!(log.flush(start).is_ok());
        while *disk.syncs.lock().unwrap() < 1 {
            std::thread::sleep(Duration::from_millis(1));
        }
        log.append(b"b");
        assert!(log.flush(start + SECOND / 2).is_ok());
        disk.sync_fails.store(true, Ordering::Relaxed);
        let deadline = Instant::now() + Duration::from_secs(60);
        while log.flush(start + SECOND * 4).is_ok() {
            assert!(Instant::now() < deadline, "the failed sync is never noticed");
        }
        assert!(log.is_suspect());
        assert_eq!(disk.text(), sealed(&["a", "b"]));
    }

    #[test]
    fn a_write_does_not_wait_for_a_slow_sync_for_ever() {
        let (disk, mut log) = small(100, FsyncPolicy::EverySec);
        let start = Instant::now();
        let hold = disk.hold.lock().unwrap();
        log.append(b"a");
        log.flush(start).unwrap();
        log.append(b"b");
        for (after, text, delayed) in
            [(SECOND, &["a"][..], 0), (PATIENCE, &["a"], 0), (PATIENCE * 2, &["a", "b"], 1)]
        {
            log.flush(start + after).unwrap();
            assert_eq!((disk.text(), log.take_delayed()), (sealed(text), delayed), "{after:?}");
        }
        drop(hold);
    }
}
