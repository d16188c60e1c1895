//! The node's own small state: who it is and what it promised. It is on disk before anybody is told.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kv_core::id::{ClusterUid, Epoch, NodeId};
use kv_core::shard::{ClusterMap, ShardConfig};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::{checksum, fs};

/// Name of the state file in the node's directory.
pub const STATE_FILE: &str = "node.json";

/// Name of the file with the cluster's map, a hint.
pub const MAP_FILE: &str = "map.json";

/// Name of the file that the process locks for as long as it uses the directory.
pub const LOCK_FILE: &str = "lock";

/// Name of a file that only takes up room: on a full disk it makes way for a promise. Else a master could not even hand
/// over to a node whose disk is not full.
pub const RESERVE_FILE: &str = "reserve";

/// Bytes that are set aside for the state.
const RESERVE: usize = 64 * 1024;

/// When the state, or the reserve, is written again that could not be.
const RETRY: Duration = Duration::from_secs(1);

/// What a node must not forget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PersistedState {
    /// The node's random id, for the life of its volume.
    pub id: NodeId,
    /// The highest epoch that it promised or accepted.
    #[serde(default)]
    pub promised: Epoch,
    /// Whether that promise leaves the master where it is, so that the node goes on until the config arrives.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub renewing: bool,
    /// The config that it accepted last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ShardConfig>,
    /// The cluster that it belongs to, once it was started for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<ClusterUid>,
    /// The shard that it belongs to, once it was started for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<u16>,
}

/// The state in memory with its file, and the lock on the directory.
#[derive(Debug)]
pub struct NodeStateFile {
    path: PathBuf,
    state: PersistedState,
    /// Why the state could not be written, until it can be.
    error: Option<String>,
    /// When [`NodeStateFile::tend`] does something next.
    tend_at: Option<Instant>,
    /// Held open: closing it gives the lock up.
    _lock: File,
}

/// Why the state could not be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another process works in the directory.
    #[error("another kv-node uses the directory {}: stop it, or give this one a directory of its own (dir)", dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// The lock file could not be made or locked.
    #[error("cannot lock {}: {source}; the directory (dir) must exist and be writable", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The state file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The state file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The state file is not what a node writes.
    #[error(
        "{} is corrupt: {source}; restore it from a backup, or empty the whole directory, and the node starts as a new, \
         blank one",
        path.display()
    )]
    Corrupt {
        /// The state file.
        path: PathBuf,
        /// Where it stops to make sense.
        source: serde_json::Error,
    },
    /// The state file could not be written.
    #[error("cannot write {}: {source}; nothing was promised", path.display())]
    Write {
        /// The state file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system gave no random bytes for a new id.
    #[error("cannot draw a random node id: {0}")]
    Random(getrandom::Error),
}

impl StateError {
    fn is_disk_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Self::Write { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
    }
}

impl NodeStateFile {
    /// Locks the directory, clears it of half-made files, and reads its state file. If there is none, the node is new: it draws an id and writes it.
    ///
    /// # Errors
    /// If another process uses the directory, or the file cannot be read, understood or written.
    pub fn open(dir: &Path) -> Result<Self, StateError> {
        let lock = lock(dir)?;
        // What cannot be removed now is tried again at the next start.
        let _ = fs::remove_abandoned(dir);
        let path = dir.join(STATE_FILE);
        let read = match std::fs::read(&path) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(StateError::Read { path, source }),
        };
        let Some(bytes) = read else {
            let id = random_node_id()?;
            let state = PersistedState {
                id,
                promised: Epoch(0),
                renewing: false,
                config: None,
                uid: None,
                shard: None,
            };
            write(&path, &state)?;
            return Ok(Self::with(path, state, lock));
        };
        match parse(&bytes) {
            Ok(state) => Ok(Self::with(path, state, lock)),
            Err(source) => Err(StateError::Corrupt { path, source }),
        }
    }

    fn with(path: PathBuf, state: PersistedState, lock: File) -> Self {
        let mut file = Self { path, state, error: None, tend_at: None, _lock: lock };
        file.set_aside();
        file
    }

    fn reserve(&self) -> PathBuf {
        self.path.with_file_name(RESERVE_FILE)
    }

    /// Takes up the room that a promise may need one day. Where the disk is full already, it is tried again.
    fn set_aside(&mut self) {
        let path = self.reserve();
        let is_there = std::fs::metadata(&path).is_ok_and(|found| found.len() == RESERVE as u64);
        self.tend_at = None;
        if !is_there && fs::write_atomically(&path, &vec![b'.'; RESERVE]).is_err() {
            self.tend_at = Some(Instant::now() + RETRY);
        }
    }

    /// Why promises cannot be kept on disk; `None` if they can, as far as is known.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// Periodic work: tries again what the disk refused.
    pub fn tend(&mut self, now: Instant) {
        if self.tend_at.is_none_or(|at| now < at) {
            return;
        }
        match write(&self.path, &self.state) {
            Ok(()) => {
                self.error = None;
                self.set_aside();
            }
            Err(_) => self.tend_at = Some(now + RETRY),
        }
    }

    /// The cluster as the node was told last, if that was kept: where to find its parent after a restart.
    #[must_use]
    pub fn read_map(&self) -> Option<ClusterMap> {
        let bytes = std::fs::read(self.path.with_file_name(MAP_FILE)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Keeps the map for the next start. It is a hint and no promise: nobody waits for the disk, and it may get lost.
    pub fn keep_map(&self, map: &ClusterMap) {
        let keep = || {
            let mut file = fs::NewFile::create(&self.path.with_file_name(MAP_FILE))?;
            file.write(&serde_json::to_vec(map)?)?;
            file.publish()
        };
        // Without it the node learns the map from the operator.
        let _: io::Result<()> = keep();
    }

    /// What is on disk.
    #[must_use]
    pub fn get(&self) -> &PersistedState {
        &self.state
    }

    /// Changes the state on disk and then in memory; if the disk refuses, nothing changes.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn update(&mut self, change: impl FnOnce(&mut PersistedState)) -> Result<(), StateError> {
        let mut state = self.state.clone();
        change(&mut state);
        if state != self.state {
            self.keep(&state)?;
            self.state = state;
        }
        Ok(())
    }

    fn keep(&mut self, state: &PersistedState) -> Result<(), StateError> {
        let outcome = making_room(&self.reserve(), || write(&self.path, state));
        self.error = outcome.as_ref().err().map(ToString::to_string);
        self.set_aside();
        if self.error.is_some() {
            self.tend_at = Some(Instant::now() + RETRY);
        }
        outcome
    }
}

/// A node id drawn from the system's entropy.
///
/// # Errors
/// If the system has none to give.
pub fn random_node_id() -> Result<NodeId, StateError> {
    let mut bytes = [0; 20];
    getrandom::fill(&mut bytes).map_err(StateError::Random)?;
    Ok(NodeId::from_bytes(bytes))
}

fn lock(dir: &Path) -> Result<File, StateError> {
    let path = dir.join(LOCK_FILE);
    let opened = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    let file = opened.map_err(|source| StateError::Lock { path: path.clone(), source })?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StateError::Locked { dir: dir.to_path_buf() }),
        Err(errno) => Err(StateError::Lock { path, source: errno.into() }),
    }
}

fn parse(bytes: &[u8]) -> Result<PersistedState, serde_json::Error> {
    let wrong = || serde::de::Error::custom("the checksum in line 1 is not that of the lines below");
    serde_json::from_slice(checksum::open(bytes).ok_or_else(wrong)?)
}

/// Writes, and if the disk is full gives up the reserve and writes once more.
fn making_room(reserve: &Path, mut write: impl FnMut() -> Result<(), StateError>) -> Result<(), StateError> {
    match write() {
        Err(error) if error.is_disk_full() && std::fs::remove_file(reserve).is_ok() => write(),
        outcome => outcome,
    }
}

fn write(path: &Path, state: &PersistedState) -> Result<(), StateError> {
    let text = serde_json::to_string_pretty(state)
        .map_err(|error| StateError::Write { path: path.to_path_buf(), source: error.into() })?;
    fs::write_atomically(path, checksum::seal(&text).as_bytes())
        .map_err(|source| StateError::Write { path: path.to_path_buf(), source })
}

#[cfg(test)]
mod tests {
    use kv_core::shard::Member;
    use kv_core::slot::SlotSet;

    use super::*;

    #[test]
    fn a_new_node_draws_an_id_and_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = NodeStateFile::open(dir.path()).unwrap().get().clone();
        assert_eq!(NodeStateFile::open(dir.path()).unwrap().get(), &first);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(NodeStateFile::open(other.path()).unwrap().get().id, first.id);
    }

    #[test]
    fn promises_and_configs_survive() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = NodeStateFile::open(dir.path()).unwrap();
        let id = file.get().id;
        let uid = ClusterUid("u".into());
        file.update(|state| {
            state.promised = Epoch(7);
            state.uid = Some(uid.clone());
            state.shard = Some(2);
            state.config = Some(ShardConfig {
                uid: uid.clone(),
                shard: 2,
                epoch: Epoch(7),
                master: id,
                members: vec![Member { id, name: "shop-2-0".into(), parent: None }],
                slots: SlotSet::all(),
                acknowledge: kv_core::quorum::Acknowledge::Async,
                topology: kv_core::topology::Topology::Star,
                failover: kv_core::lease::Failover::default(),
                source: None,
                overlap: Vec::new(),
                former: Vec::new(),
                given: Vec::new(),
                taken: Vec::new(),
                left: SlotSet::default(),
            });
        })
        .unwrap();
        let kept = file.get().clone();
        drop(file);
        assert_eq!(NodeStateFile::open(dir.path()).unwrap().get(), &kept);
    }

    #[test]
    fn a_second_process_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let _first = NodeStateFile::open(dir.path()).unwrap();
        let error = NodeStateFile::open(dir.path()).unwrap_err();
        assert!(matches!(error, StateError::Locked { .. }), "{error}");
    }

    #[test]
    fn a_corrupt_file_is_named_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(STATE_FILE);
        std::fs::write(&path, "{\"id\": 4").unwrap();
        let error = NodeStateFile::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("node.json is corrupt"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"id\": 4");
    }

    #[test]
    fn no_cut_and_no_flipped_bit_changes_what_was_promised() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = NodeStateFile::open(dir.path()).unwrap();
        file.update(|state| state.promised = Epoch(12)).unwrap();
        let good = std::fs::read(dir.path().join(STATE_FILE)).unwrap();
        for at in 0..good.len() {
            assert!(parse(&good[..at]).is_err(), "cut at {at}");
            for bit in 0..8 {
                let mut bytes = good.clone();
                bytes[at] ^= 1 << bit;
                if let Ok(state) = parse(&bytes) {
                    assert_eq!(&state, file.get(), "byte {at}, bit {bit}");
                }
            }
        }
        // As an editor, or an earlier version, writes it.
        let text = serde_json::to_vec(file.get()).unwrap();
        assert_eq!(&parse(&text).unwrap(), file.get());
    }

    #[test]
    fn on_a_full_disk_the_reserve_makes_way_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = NodeStateFile::open(dir.path()).unwrap();
        let reserve = file.reserve();
        assert_eq!(std::fs::metadata(&reserve).unwrap().len(), RESERVE as u64);
        let full = |kind: io::ErrorKind| StateError::Write { path: dir.path().into(), source: kind.into() };
        let fits = || if reserve.exists() { Err(full(io::ErrorKind::StorageFull)) } else { Ok(()) };
        making_room(&reserve, fits).unwrap();
        let never = || Err(full(io::ErrorKind::StorageFull));
        assert!(making_room(&reserve, never).is_err(), "there is no more room to make");
        drop(file);
        let _again = NodeStateFile::open(dir.path()).unwrap();
        let denied = || Err(full(io::ErrorKind::PermissionDenied));
        assert!(making_room(&reserve, denied).is_err());
        assert!(reserve.exists(), "it is set aside again, and given up for nothing but room");
    }

    #[test]
    fn a_failed_write_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = NodeStateFile::open(dir.path()).unwrap();
        std::fs::remove_dir_all(dir.path()).unwrap();
        assert!(file.update(|state| state.promised = Epoch(9)).is_err());
        assert_eq!(file.get().promised, Epoch(0));
        assert!(file.error().is_some_and(|error| error.contains("node.json")));
        let later = Instant::now() + 2 * RETRY;
        file.tend(later);
        assert!(file.error().is_some());
        std::fs::create_dir(dir.path()).unwrap();
        file.tend(later + 2 * RETRY);
        assert_eq!(file.error(), None, "it finds out by itself that the disk is back");
    }
}
