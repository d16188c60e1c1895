//! Files that are there whole or not at all.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

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
    /// Creates the temporary file beside `target`. The process id in its name keeps two savers apart.
    pub(crate) fn create(target: &Path) -> io::Result<Self> {
        let name = target
            .file_name()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the path names no file"))?
            .to_string_lossy();
        let temp = parent_dir(target).join(format!("temp-{}-{name}", std::process::id()));
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&temp)?;
        Ok(Self { file, temp, target: target.to_path_buf(), committed: false })
    }

    /// Appends bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
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
        drop(abandoned);
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
