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
        Self::mount(|path| run(&["mount", "-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs", path]))
    }

    /// An ext4 in a file, which is made for it if it is not there.
    pub fn ext4(image: &Path) -> Option<Self> {
        let file = image.to_str().unwrap();
        Self::mount(|path| {
            if !image.exists() {
                File::create(image)
                    .and_then(|file| file.set_len(16 << 20))
                    .map_err(|error| error.to_string())?;
                run(&["mkfs.ext4", "-q", "-F", file])?;
            }
            run(&["mount", "-o", "loop", file, path])
        })
    }

    fn mount(mount: impl Fn(&str) -> Result<(), String>) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        match mount(dir.path().to_str().unwrap()) {
            Ok(()) => Some(Self { dir, mounts: 1 }),
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

    /// What the kernel does to an ext4 whose device fails: it turns read-only, whatever is open.
    pub fn fail(&self) {
        run(&["mount", "-o", "remount,abort", self.name()]).unwrap();
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
