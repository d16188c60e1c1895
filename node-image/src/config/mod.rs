//! The node's directives: from the command line, a file, CONFIG SET and the operator.

mod tunables;

use std::fs;
use std::path::{Path, PathBuf};

use kv_core::directive::{self, DirectiveError, Setting, Settings};

pub use tunables::Tunables;

/// What the command line asks for.
#[derive(Debug)]
pub enum CommandLine {
    /// `--version` or `-v`.
    Version,
    /// `--help` or `-h`.
    Help,
    /// Run a node with these directives.
    Run(Box<Config>),
}

/// All directives of a node, and where they came from.
#[derive(Clone, Debug)]
pub struct Config {
    /// The values.
    pub settings: Settings,
    /// The configuration file, if one was given.
    pub file: Option<PathBuf>,
    /// Password of the users that the operator and other nodes come as; `None` unless the node is managed.
    pub control_password: Option<String>,
}

/// Why a node cannot start as it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A directive is wrong.
    #[error(transparent)]
    Directive(#[from] DirectiveError),
    /// A file cannot be read.
    #[error("*** FATAL CONFIG FILE ERROR *** cannot read {path} ({what}): {error}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What it was to be used for.
        what: &'static str,
        /// Why.
        error: std::io::Error,
    },
    /// `include` goes too deep.
    #[error("*** FATAL CONFIG FILE ERROR *** {0}: files include each other more than {MAX_INCLUDES} deep")]
    IncludeDepth(PathBuf),
    /// Directives that exclude or need each other.
    #[error("*** FATAL CONFIG ERROR *** {0}")]
    Contradiction(String),
}

const MAX_INCLUDES: usize = 16;

/// Reads `[CONFIG-FILE] [--directive value ...]`. What stands on the command line wins over the file.
///
/// # Errors
/// If a file cannot be read or a directive is wrong.
pub fn parse(args: &[String]) -> Result<CommandLine, ConfigError> {
    match args.first().map(String::as_str) {
        Some("-v" | "--version") => return Ok(CommandLine::Version),
        Some("-h" | "--help") => return Ok(CommandLine::Help),
        _ => {}
    }
    let (file, flags) = match args.split_first() {
        Some((first, rest)) if !first.starts_with('-') => (Some(PathBuf::from(first)), rest),
        _ => (None, args),
    };
    let mut all = Vec::new();
    if let Some(file) = &file {
        read_file(file, 0, &mut all)?;
    }
    let mut settings = Settings::default();
    settings.load(&all);
    settings.load(&directive::parse_flags(flags)?);
    let config = Config { control_password: None, settings, file };
    Ok(CommandLine::Run(Box::new(config.finish()?)))
}

fn read_file(path: &Path, depth: usize, all: &mut Vec<Setting>) -> Result<(), ConfigError> {
    if depth > MAX_INCLUDES {
        return Err(ConfigError::IncludeDepth(path.to_owned()));
    }
    let text = read(path, "configuration")?;
    for setting in directive::parse_file(&text, &path.display().to_string())? {
        if setting.directive.name == "include" {
            read_file(Path::new(&setting.value.to_string()), depth + 1, all)?;
        } else {
            all.push(setting);
        }
    }
    Ok(())
}

fn read(path: &Path, what: &'static str) -> Result<String, ConfigError> {
    fs::read_to_string(path).map_err(|error| ConfigError::Unreadable { path: path.to_owned(), what, error })
}

fn password(settings: &Settings, name: &str, what: &'static str) -> Result<Option<String>, ConfigError> {
    match settings.text(name) {
        "" => Ok(None),
        path => Ok(Some(read(Path::new(path), what)?.trim_end_matches(['\r', '\n']).to_owned())),
    }
}

impl Config {
    /// Reads the password files and checks that the directives fit each other.
    fn finish(mut self) -> Result<Self, ConfigError> {
        if let Some(text) = password(&self.settings, "kv-password-file", "kv-password-file")? {
            self.set("requirepass", &text)?;
        }
        self.control_password =
            password(&self.settings, "kv-control-password-file", "kv-control-password-file")?
                .filter(|text| !text.is_empty());
        if self.is_managed() {
            let lacks = |what: &str| Err(ConfigError::Contradiction(format!("kv-cluster-uid needs {what}")));
            if self.control_password.is_none() {
                return lacks("kv-control-password-file with a password in it");
            }
            if self.settings.text("kv-node-name").is_empty() {
                return lacks("kv-node-name");
            }
            if !self.settings.bool("cluster-enabled") {
                return lacks("cluster-enabled yes");
            }
        } else if self.settings.number("sentinel-port") > 0 {
            let text = "sentinel-port needs kv-cluster-uid: only a node of a cluster knows who its master is";
            return Err(ConfigError::Contradiction(text.into()));
        }
        Ok(self)
    }

    fn set(&mut self, name: &str, text: &str) -> Result<(), ConfigError> {
        let Some(directive) = directive::lookup(name) else {
            return Err(ConfigError::Contradiction(format!("{name} is no directive")));
        };
        let value = directive::parse_value(directive, &[text])
            .map_err(|problem| ConfigError::Contradiction(format!("{name}: {problem}")))?;
        self.settings.set(directive, value);
        Ok(())
    }

    /// Whether an operator decides about this node.
    #[must_use]
    pub fn is_managed(&self) -> bool {
        !self.settings.text("kv-cluster-uid").is_empty()
    }

    /// Where data files are kept.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        PathBuf::from(self.settings.text("dir"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(args: &[&str]) -> Result<Config, ConfigError> {
        match parse(&args.iter().map(ToString::to_string).collect::<Vec<_>>())? {
            CommandLine::Run(config) => Ok(*config),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_win_over_files_and_files_include_files() {
        let dir = tempfile::tempdir().unwrap();
        let (main, other, pass) =
            (dir.path().join("a.conf"), dir.path().join("b.conf"), dir.path().join("p"));
        fs::write(&other, "maxclients 77\n").unwrap();
        fs::write(&pass, "secret\n").unwrap();
        fs::write(
            &main,
            format!("port 7\ntimeout 5\ninclude {}\nkv-password-file {}\n", other.display(), pass.display()),
        )
        .unwrap();
        let config = run(&[main.to_str().unwrap(), "--port", "8"]).unwrap();
        assert_eq!(config.settings.number("port"), 8);
        assert_eq!(config.settings.number("timeout"), 5);
        assert_eq!(config.settings.number("maxclients"), 77);
        assert_eq!(config.settings.text("requirepass"), "secret");
    }

    #[test]
    fn errors_name_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let looping = dir.path().join("loop.conf");
        fs::write(&looping, format!("include {}\n", looping.display())).unwrap();
        assert!(matches!(run(&[looping.to_str().unwrap()]), Err(ConfigError::IncludeDepth(_))));
        assert!(run(&["/no/such.conf"]).unwrap_err().to_string().contains("/no/such.conf"));
        let text = run(&["--kv-cluster-uid", "u"]).unwrap_err().to_string();
        assert!(text.contains("kv-control-password-file"), "{text}");
    }
}
