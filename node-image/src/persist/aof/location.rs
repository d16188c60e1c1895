//! Where the files of an append-only file are and how they are called.

use std::io;
use std::path::{Path, PathBuf};

use super::manifest::{ListedFile, Manifest};
use crate::persist::fs;

/// Where the files of an append-only file are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AofLocation {
    dir: PathBuf,
    name: String,
}

impl AofLocation {
    /// Files called `name` (`appendfilename`) in the directory `dir`/`sub` (`dir`, `appenddirname`).
    #[must_use]
    pub fn new(dir: &Path, sub: &str, name: &str) -> Self {
        Self { dir: dir.join(sub), name: name.to_owned() }
    }

    /// The directory of the files.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The manifest's path.
    #[must_use]
    pub fn manifest_path(&self) -> PathBuf {
        self.dir.join(format!("{}.manifest", self.name))
    }

    pub(super) fn path(&self, file: &ListedFile) -> PathBuf {
        self.dir.join(&file.name)
    }

    pub(super) fn base(&self, seq: u64) -> ListedFile {
        ListedFile { name: format!("{}.{seq}.base.rdb", self.name), seq, len: None }
    }

    pub(super) fn incr(&self, seq: u64) -> ListedFile {
        ListedFile { name: format!("{}.{seq}.incr.aof", self.name), seq, len: None }
    }

    /// Makes the directory if it is not there.
    pub(super) fn make_dir(&self) -> io::Result<()> {
        std::fs::create_dir_all(&self.dir)?;
        fs::sync_dir(&fs::parent_dir(&self.dir))
    }

    pub(super) fn write_manifest(&self, manifest: &Manifest) -> io::Result<()> {
        fs::write_atomically(&self.manifest_path(), manifest.text().as_bytes())
    }

    /// Files that look like parts of this append-only file but that the manifest does not name as data.
    pub(super) fn strays(&self, manifest: &Manifest) -> io::Result<Vec<PathBuf>> {
        let mut strays = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let ours = self.is_part(&name) || (name.starts_with("temp-") && name.contains(&self.name));
            if ours && !manifest.needs(&name) {
                strays.push(entry.path());
            }
        }
        Ok(strays)
    }

    /// Whether this is the name of a base or incr file.
    fn is_part(&self, name: &str) -> bool {
        let rest = name.strip_prefix(&self.name).and_then(|rest| rest.strip_prefix('.'));
        let Some((seq, kind)) = rest.and_then(|rest| rest.split_once('.')) else { return false };
        seq.bytes().all(|byte| byte.is_ascii_digit()) && matches!(kind, "base.rdb" | "base.aof" | "incr.aof")
    }
}
