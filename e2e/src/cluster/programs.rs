//! Where the programs under test are.

use std::path::{Path, PathBuf};

use super::{Error, Result};

/// The folder that holds `kv-operator` and `kv-node`.
#[derive(Clone, Debug)]
pub struct Programs(PathBuf);

impl Programs {
    /// The folder named by KV_BIN_DIR, or the one that the running program was built into.
    ///
    /// # Errors
    /// If one of the programs is not there.
    pub fn find() -> Result<Self> {
        let folder = match std::env::var_os("KV_BIN_DIR") {
            Some(folder) => PathBuf::from(folder),
            None => built_into()?,
        };
        let folder = std::path::absolute(folder)?;
        for program in ["kv-operator", "kv-node"] {
            if !folder.join(program).is_file() {
                return Err(Error::NoProgram {
                    program: program.into(),
                    folder: folder.display().to_string(),
                });
            }
        }
        Ok(Self(folder))
    }

    /// The path of a program.
    #[must_use]
    pub fn path(&self, program: &str) -> PathBuf {
        self.0.join(program)
    }
}

/// Test programs lie in a folder `deps` below the one of the programs.
fn built_into() -> Result<PathBuf> {
    let me = std::env::current_exe()?;
    let folder = me.parent().unwrap_or(Path::new("."));
    let up = folder.ends_with("deps").then(|| folder.parent()).flatten();
    Ok(up.unwrap_or(folder).to_owned())
}
