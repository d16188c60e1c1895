//! Files that are there whole or not at all.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Number of temporary files that this process made.
static CREATED: AtomicU64 = AtomicU64::new(0);

/// Makes the names in a directory durable: a rename or a new file survives a power cut only after this.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// The directory that a file lies in.
pub(crate) fn parent_dir(path: &Path) -> PathBuf {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// A file under a temporary name, which takes its real name by [`NewFile::commit`]. Dropped before that, it is removed.
#[derive(Debug)]
pub(crate) struct NewFile {
    file: File,
    temp: PathBuf,
    target: PathBuf,
    committed: bool,
}

impl NewFile {
    /// Creates the temporary file beside `target`. No other one has its name: an earlier one of the same target may
    /// still be on its way out, on another thread.
    pub(crate) fn create(target: &Path) -> io::Result<Self> {
        let name = target
            .file_name()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?
            .to_string_lossy();
        let number = CREATED.fetch_add(1, Ordering::Relaxed);
        let temp = parent_dir(target).join(format!("temp-{}-{number}-{name}", std::process::id()));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&temp)?;
        Ok(Self { file, temp, target: target.to_path_buf(), committed: false })
    }

    /// Creates one in the folder of `target` that never has a name: it goes when it is closed.
    pub(crate) fn nameless(target: &Path) -> io::Result<Self> {
        let mut file = Self::create(target)?;
        std::fs::remove_file(&file.temp)?;
        file.committed = true;
        Ok(file)
    }

    /// The file itself, to be read or kept.
    pub(crate) fn handle(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Appends bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    /// Makes what was written so far durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Gives the file its name. After a power cut it may be missing, or the old one.
    pub(crate) fn publish(mut self) -> io::Result<()> {
        std::fs::rename(&self.temp, &self.target)?;
        self.committed = true;
        Ok(())
    }

    /// Makes the content durable, gives the file its name, and makes the name durable.
    pub(crate) fn commit(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        std::fs::rename(&self.temp, &self.target)?;
        self.committed = true;
        sync_dir(&parent_dir(&self.target))
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.committed {
            // The name says "temp": what cannot be removed now is no harm.
            let _ = std::fs::remove_file(&self.temp);
        }
    }
}

/// Removes the temporary files of processes that ended before they were complete. Nobody else may use the directory.
pub(crate) fn remove_abandoned(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if is_temporary(&entry.file_name().to_string_lossy()) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn is_temporary(name: &str) -> bool {
    let mut parts = name.splitn(4, '-');
    let number = |part: Option<&str>| part.is_some_and(|part| part.parse::<u64>().is_ok());
    parts.next() == Some("temp") && number(parts.next()) && number(parts.next()) && parts.next().is_some()
}

/// Replaces a file's content as one step.
pub(crate) fn write_atomically(target: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = NewFile::create(target)?;
    file.write(content)?;
    file.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_whole_and_an_abandoned_one_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write_atomically(&path, b"one").unwrap();
        let mut abandoned = NewFile::create(&path).unwrap();
        abandoned.write(b"tw").unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        drop(abandoned);
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_a_crash_left_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["temp-12-0-dump.rdb", "temp-1.rdb", "temp-file-0-mine", "dump.rdb"] {
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
        remove_abandoned(dir.path()).unwrap();
        assert!(!dir.path().join("temp-12-0-dump.rdb").exists());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
    }
}
