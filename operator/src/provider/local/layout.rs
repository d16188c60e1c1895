//! The folder of a local cluster: which file lies where, and how it is read and written.
//!
//! | path | what |
//! |---|---|
//! | `cluster.yaml` | the applied KvCluster, with its uid and generation |
//! | `control-password` | password of the control users, readable by its owner only |
//! | `settings.json` | base port and the shards' workloads |
//! | `status.json` | the status that `up` wrote last, with its process id |
//! | `failovers.json` | receipts of the last changes of master |
//! | `votes.json` | what the operator has voted for last in each shard |
//! | `secrets/NAME/password` | put there by the user, where `spec.auth.secretRef` or `spec.source.secretRef` names it |
//! | `secrets/NAME/username` | the same, of a source |
//! | `lock` | held by the `up` that runs, with its process id |
//! | `edit.lock` | held by who edits `cluster.yaml` |
//! | `up.log` | what a detached `up` printed |
//! | `nodes/NAME/data` | the node's own files |
//! | `nodes/NAME/node.log` | the node's log |
//! | `nodes/NAME/index` | the node's number, which its ports are made from |
//! | `nodes/NAME/process.json` | its process, and what it was started with |

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use kv_core::plan::Workload;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::crd::{KvClusterStatus, Receipt};

/// A file of the cluster's folder that could not be used.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// It could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It could not be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It does not hold what it should.
    #[error("{path} is damaged: {why}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Another `up` works on the folder.
    #[error("{dir} is in use: `kv-operator local up` runs already, with process id {pid}")]
    Locked {
        /// The folder.
        dir: PathBuf,
        /// The other's process id.
        pid: String,
    },
    /// The folder holds no cluster.
    #[error("{0} holds no cluster; start one with `kv-operator local up -f FILE --dir {0}`")]
    NoCluster(PathBuf),
}

/// What the local provider must remember.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// Ports are counted from here.
    pub base_port: u16,
    /// The workloads as they were applied last.
    pub workloads: Vec<Workload>,
}

/// The status file: a status is worth nothing once the `up` that wrote it is gone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusFile {
    /// Process id of the `up` that wrote it.
    pub pid: i32,
    /// The status.
    pub status: KvClusterStatus,
}

/// The folder of a local cluster.
#[derive(Clone, Debug)]
pub struct Layout {
    dir: PathBuf,
}

impl Layout {
    /// A folder that need not exist. A relative path is taken from the present working folder.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self { dir: std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned()) }
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The applied KvCluster.
    #[must_use]
    pub fn cluster(&self) -> PathBuf {
        self.dir.join("cluster.yaml")
    }

    fn status(&self) -> PathBuf {
        self.dir.join("status.json")
    }

    /// Writes the status, in the name of this process.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save_status(&self, status: &KvClusterStatus) -> Result<(), LayoutError> {
        let pid = i32::try_from(std::process::id()).unwrap_or_default();
        let file = StatusFile { pid, status: status.clone() };
        // Not worth a sync, for which nodes on the same disk would have to wait.
        write_with(&self.status(), &to_json(&self.status(), &file)?, 0o644, false)
    }

    /// The status that was written last, by whomever.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn load_status(&self) -> Result<Option<StatusFile>, LayoutError> {
        read_json(&self.status())
    }

    /// Removes the status: from now on it is not true any more.
    pub fn forget_status(&self) {
        // A status that stays is told to be another process's by its process id.
        let _ = fs::remove_file(self.status());
    }

    fn failovers(&self) -> PathBuf {
        self.dir.join("failovers.json")
    }

    /// Writes the receipts of the last changes of master, if they are others than there are.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn save_failovers(&self, receipts: &[Receipt]) -> Result<(), LayoutError> {
        let path = self.failovers();
        if self.load_failovers().is_ok_and(|before| before == receipts) {
            return Ok(());
        }
        write_with(&path, &to_json(&path, &receipts)?, 0o644, false)
    }

    /// The receipts of the last changes of master, the latest first.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn load_failovers(&self) -> Result<Vec<Receipt>, LayoutError> {
        Ok(read_json(&self.failovers())?.unwrap_or_default())
    }

    /// What the operator has voted for last in each shard.
    #[must_use]
    pub fn votes(&self) -> PathBuf {
        self.dir.join("votes.json")
    }

    /// The control password.
    #[must_use]
    pub fn control_password(&self) -> PathBuf {
        self.dir.join("control-password")
    }

    /// What a detached `up` prints.
    #[must_use]
    pub fn up_log(&self) -> PathBuf {
        self.dir.join("up.log")
    }

    /// The user that `spec.source.secretRef` names, if any.
    #[must_use]
    pub fn username(&self, name: &str) -> PathBuf {
        self.dir.join("secrets").join(name).join("username")
    }

    /// The password that `spec.auth.secretRef` or `spec.source.secretRef` names.
    #[must_use]
    pub fn secret(&self, name: &str) -> PathBuf {
        self.dir.join("secrets").join(name).join("password")
    }

    /// Removes all that was written here, and the folder too unless it holds something else.
    ///
    /// # Errors
    /// If something cannot be removed.
    pub fn purge(&self) -> Result<(), LayoutError> {
        let files = [
            self.cluster(),
            self.status(),
            self.control_password(),
            self.settings(),
            self.up_log(),
            self.votes(),
            self.failovers(),
            self.edit_lock(),
        ];
        let broken = |path: PathBuf| move |source| LayoutError::Write { path, source };
        for (path, removed) in std::iter::once(self.nodes())
            .map(|path| (path.clone(), fs::remove_dir_all(path)))
            .chain(files.into_iter().map(|path| (path.clone(), fs::remove_file(path))))
        {
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(broken(path)(error)),
                _ => {}
            }
        }
        fs::remove_file(self.dir.join("lock")).map_err(broken(self.dir.join("lock")))?;
        match fs::remove_dir(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => {
                Err(broken(self.dir.clone())(error))
            }
            _ => Ok(()),
        }
    }

    fn settings(&self) -> PathBuf {
        self.dir.join("settings.json")
    }

    fn nodes(&self) -> PathBuf {
        self.dir.join("nodes")
    }

    /// The folder of a node.
    #[must_use]
    pub fn node(&self, name: &str) -> PathBuf {
        self.nodes().join(name)
    }

    /// What a node writes itself.
    #[must_use]
    pub fn data(&self, name: &str) -> PathBuf {
        self.node(name).join("data")
    }

    /// A node's log.
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.node(name).join("node.log")
    }

    /// A node's process.
    #[must_use]
    pub fn process(&self, name: &str) -> PathBuf {
        self.node(name).join("process.json")
    }

    /// Names of the nodes that have a folder, in order.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn node_names(&self) -> Result<Vec<String>, LayoutError> {
        let path = self.nodes();
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(LayoutError::Read { path, source }),
        };
        let mut names: Vec<_> =
            entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        Ok(names)
    }

    /// The number of a node, if it has one.
    #[must_use]
    pub fn index(&self, name: &str) -> Option<u16> {
        fs::read_to_string(self.node(name).join("index")).ok()?.trim().parse().ok()
    }

    /// The number of a node; a new node gets the lowest that is free. A number never changes while the node's folder
    /// exists, so that other nodes can come and go.
    ///
    /// # Errors
    /// If the folder cannot be read or written.
    pub fn claim_index(&self, name: &str) -> Result<u16, LayoutError> {
        if let Some(index) = self.index(name) {
            return Ok(index);
        }
        let taken: Vec<u16> = self.node_names()?.iter().filter_map(|other| self.index(other)).collect();
        let index = (0..u16::MAX).find(|index| !taken.contains(index)).unwrap_or(u16::MAX);
        create_dir(&self.data(name))?;
        write(&self.node(name).join("index"), format!("{index}\n").as_bytes())?;
        Ok(index)
    }

    /// What the provider remembers; `None` in a new folder.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn load_settings(&self) -> Result<Option<Settings>, LayoutError> {
        read_json(&self.settings())
    }

    /// Remembers.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save_settings(&self, settings: &Settings) -> Result<(), LayoutError> {
        write_json(&self.settings(), settings)
    }

    /// The control password; made when it is asked for the first time.
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub fn make_control_password(&self) -> Result<String, LayoutError> {
        let path = self.control_password();
        if let Some(password) = read(&path)? {
            return Ok(password.trim().to_owned());
        }
        let password = random_hex().map_err(|source| LayoutError::Write { path: path.clone(), source })?;
        write_with(&path, format!("{password}\n").as_bytes(), 0o600, true)?;
        Ok(password)
    }

    /// The control password, if there is one.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn load_control_password(&self) -> Result<Option<String>, LayoutError> {
        Ok(read(&self.control_password())?.map(|text| text.trim().to_owned()))
    }

    /// Waits until nobody else edits the applied KvCluster, and keeps others from it until what is returned is dropped. The
    /// folder must exist.
    ///
    /// # Errors
    /// If it cannot be locked.
    pub fn edit(&self) -> Result<Lock, LayoutError> {
        let path = self.edit_lock();
        let open = || {
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path)?;
            file.lock()?;
            Ok(Lock { _file: file })
        };
        open().map_err(|source| LayoutError::Write { path: path.clone(), source })
    }

    fn edit_lock(&self) -> PathBuf {
        self.dir.join("edit.lock")
    }

    /// Takes the folder for this process; it is given back when the lock is dropped or the process ends.
    ///
    /// # Errors
    /// If another process has it.
    pub fn lock(&self) -> Result<Lock, LayoutError> {
        create_dir(&self.dir)?;
        let path = self.dir.join("lock");
        let broken = |source| LayoutError::Write { path: path.clone(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(broken)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let pid = self.lock_holder().map_or_else(|| "unknown".into(), |pid| pid.to_string());
                return Err(LayoutError::Locked { dir: self.dir.clone(), pid });
            }
            Err(TryLockError::Error(source)) => return Err(broken(source)),
        }
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(broken)?;
        Ok(Lock { _file: file })
    }

    /// Process id of the `up` that has the folder; `None` if none runs.
    #[must_use]
    pub fn lock_holder(&self) -> Option<i32> {
        let path = self.dir.join("lock");
        let file = File::open(&path).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => fs::read_to_string(&path).ok()?.trim().parse().ok(),
            _ => None,
        }
    }
}

/// Proof that the folder is this process's.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// 128 random bits from the kernel, in hex.
///
/// # Errors
/// If the kernel has none.
pub fn random_hex() -> io::Result<String> {
    let mut bytes = [0; 16];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        filled += rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Makes a folder with its parents.
///
/// # Errors
/// If it cannot be made.
pub fn create_dir(path: &Path) -> Result<(), LayoutError> {
    fs::create_dir_all(path).map_err(|source| LayoutError::Write { path: path.to_owned(), source })
}

/// A file's text; `None` if there is no such file.
///
/// # Errors
/// If it is there and cannot be read.
pub fn read(path: &Path) -> Result<Option<String>, LayoutError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(LayoutError::Read { path: path.to_owned(), source }),
    }
}

/// Writes a file so that a reader sees the old text or the new one.
///
/// # Errors
/// If it cannot be written.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), LayoutError> {
    write_with(path, bytes, 0o644, true)
}

fn write_with(path: &Path, bytes: &[u8], mode: u32, sync: bool) -> Result<(), LayoutError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = || {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        if sync {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)
    };
    written().map_err(|source| LayoutError::Write { path: path.to_owned(), source })
}

/// A file that holds JSON; `None` if there is no such file.
///
/// # Errors
/// If it cannot be read, or holds something else.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, LayoutError> {
    let Some(text) = read(path)? else { return Ok(None) };
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|error| LayoutError::Damaged { path: path.to_owned(), why: error.to_string() })
}

/// Writes a file that holds JSON.
///
/// # Errors
/// If it cannot be written.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), LayoutError> {
    write(path, &to_json(path, value)?)
}

fn to_json(path: &Path, value: &impl Serialize) -> Result<Vec<u8>, LayoutError> {
    serde_json::to_vec_pretty(value)
        .map_err(|error| LayoutError::Damaged { path: path.to_owned(), why: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_and_the_lowest_free_one_is_given() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        for (name, index) in [("a-0-0", 0), ("a-0-1", 1), ("a-1-0", 2), ("a-0-1", 1)] {
            assert_eq!(layout.claim_index(name).unwrap(), index);
        }
        fs::remove_dir_all(layout.node("a-0-1")).unwrap();
        assert_eq!(layout.claim_index("a-0-2").unwrap(), 1);
        assert_eq!(layout.claim_index("a-0-1").unwrap(), 3);
    }

    #[test]
    fn a_folder_has_one_owner() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        assert_eq!(layout.lock_holder(), None);
        let lock = layout.lock().unwrap();
        let text = layout.lock().unwrap_err().to_string();
        assert!(text.contains(&std::process::id().to_string()), "{text}");
        drop(lock);
        assert_eq!(layout.lock_holder(), None);
        layout.lock().unwrap();
    }

    #[test]
    fn the_control_password_is_kept_and_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let password = layout.make_control_password().unwrap();
        assert_eq!(password.len(), 32);
        assert_eq!(layout.make_control_password().unwrap(), password);
        let mode = fs::metadata(layout.control_password()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
