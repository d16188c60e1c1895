//! Small file systems that can be filled and made read-only. Mounting them takes root.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A mounted file system of its own; it is unmounted with the test.
pub struct Volume {
    dir: TempDir,
    mounts: usize,
    /// The directory of the file that holds an ext4.
    image: Option<TempDir>,
}

/// Runs a command; its error output if it fails.
fn run(words: &[&str]) -> Result<(), String> {
    let output = Command::new(words[0]).args(&words[1..]).output();
    let output = output.map_err(|error| format!("{}: {error}", words[0]))?;
    let error = || String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(error()) }
}

impl Volume {
    /// In memory.
    pub fn tmpfs(size: &str) -> Option<Self> {
        Self::mount(None, |path| run(&["mount", "-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs", path]))
    }

    /// An ext4 of 32 MB in a file.
    pub fn ext4() -> Option<Self> {
        let image = tempfile::tempdir().unwrap();
        let file = image.path().join("image");
        File::create(&file).and_then(|file| file.set_len(32 << 20)).unwrap();
        let name = file.to_str().unwrap().to_owned();
        Self::mount(Some(image), |path| {
            run(&["mkfs.ext4", "-q", "-F", &name]).and_then(|()| run(&["mount", "-o", "loop", &name, path]))
        })
    }

    fn mount(image: Option<TempDir>, mount: impl Fn(&str) -> Result<(), String>) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        match mount(dir.path().to_str().unwrap()) {
            Ok(()) => Some(Self { dir, mounts: 1, image }),
            Err(error) => {
                let name = std::thread::current().name().unwrap_or_default().to_owned();
                let text =
                    format!("\nNOT RUN: {name}: nothing can be mounted here (it takes root): {error}\n");
                assert!(std::env::var_os("CI").is_none(), "{text}");
                // Past the harness, which would keep it to itself.
                std::io::stderr().write_all(text.as_bytes()).unwrap();
                None
            }
        }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn name(&self) -> &str {
        self.path().to_str().unwrap()
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }

    /// Takes all the space that is left.
    pub fn fill(&self) {
        let mut file = File::options().append(true).create(true).open(self.ballast()).unwrap();
        for size in [1 << 16, 1 << 12] {
            while file.write_all(&vec![b'x'; size]).is_ok() {}
        }
    }

    pub fn give_space_back(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }

    /// Makes it read-only for whoever opens a file from now on.
    pub fn close_to_writers(&mut self) {
        run(&["mount", "--bind", self.name(), self.name()]).unwrap();
        self.mounts += 1;
        run(&["mount", "-o", "remount,bind,ro", self.name()]).unwrap();
    }

    pub fn open_to_writers(&mut self) {
        run(&["umount", self.name()]).unwrap();
        self.mounts -= 1;
    }

    /// What the kernel does to an ext4 whose device fails: it turns read-only, whatever is open, and what was not
    /// synced is lost.
    pub fn fail(&self) -> Result<(), String> {
        run(&["mount", "-o", "remount,abort", self.name()])
    }

    /// Mounts an ext4 again that failed. No process may have a file open there. The journal is replayed.
    pub fn mount_again(&mut self) {
        let image = self.image.as_ref().unwrap().path().join("image");
        run(&["umount", self.name()]).unwrap();
        run(&["mount", "-o", "loop", image.to_str().unwrap(), self.name()]).unwrap();
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        for _ in 0..self.mounts {
            if let Err(error) = run(&["umount", "-l", self.name()]) {
                eprintln!("{error}");
            }
        }
    }
}
