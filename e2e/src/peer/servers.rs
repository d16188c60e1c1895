//! Servers under measurement: processes on a core of their own, with ports and folders of their own.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::SERVER_CORE;
use super::process;
use crate::cluster::{Error, Result};

/// How long a server may take to serve; a big snapshot may have to be loaded.
const START_WITHIN: Duration = Duration::from_secs(120);
/// How long a request may take before a measurement is given up.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Between two looks at whether a server serves.
const POLL: Duration = Duration::from_millis(1);
/// Settings of every server; room for the idle connections beside those that load it.
const SETTINGS: [&str; 10] = [
    "--bind",
    "127.0.0.1",
    "--save",
    "",
    "--appendonly",
    "no",
    "--maxclients",
    "12000",
    "--protected-mode",
    "no",
];

/// A server program.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    /// Its name and version.
    pub version: String,
}

impl Program {
    /// The program at `path`.
    ///
    /// # Errors
    /// If it does not run, or does not tell its version as Redis does.
    pub fn new(path: PathBuf) -> Result<Self> {
        let output = Command::new(&path).arg("--version").output().map_err(|error| failed(&path, &error))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = version(&text).ok_or_else(|| failed(&path, &format!("no version in {text:?}")))?;
        Ok(Self { path, version })
    }
}

/// "Valkey 9.1.2" of what `--version` prints. Our node tells the version of Redis that it speaks like, and its own
/// as the build.
fn version(text: &str) -> Option<String> {
    let (name, rest) = text.split_once(" server v=")?;
    let own = rest.split_whitespace().find_map(|word| word.strip_prefix("build=kv-"));
    Some(format!("{name} {}", own.or_else(|| rest.split_whitespace().next())?))
}

fn failed(program: &Path, problem: &dyn std::fmt::Display) -> Error {
    Error::Command { command: program.display().to_string(), output: problem.to_string() }
}

/// A process that ends with this value.
pub struct Process(Child);

impl Process {
    /// Starts `program` on `core`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn on_core(core: usize, program: &Path, set_up: impl FnOnce(&mut Command)) -> Result<Self> {
        let mut command = on_core(core, program);
        set_up(&mut command);
        command.spawn().map(Self).map_err(|error| failed(program, &error))
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Nothing, as long as it runs.
    ///
    /// # Errors
    /// If it has ended.
    pub fn runs(&mut self) -> Result<()> {
        match self.0.try_wait()? {
            None => Ok(()),
            Some(status) => Err(Error::Unexpected(format!("it ended: {status}"))),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only where it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The command that runs `program` on `core`; the process keeps its id.
pub fn on_core(core: usize, program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.arg("-c").arg(core.to_string()).arg(program).stdin(Stdio::null());
    command
}

/// A running server. It ends with this value, and its folder with it.
pub struct Server {
    process: Process,
    folder: TempDir,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Server {
    /// Starts an empty server, and waits until it serves.
    ///
    /// # Errors
    /// If it does not.
    pub fn start(program: &Program) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("kv-peer-").tempdir()?;
        Self::start_in(program, folder)
    }

    fn start_in(program: &Program, folder: TempDir) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let log = folder.path().join("log");
        let output = File::create(&log)?;
        let errors = output.try_clone()?;
        let process = Process::on_core(SERVER_CORE, &program.path, |command| {
            command.args(["--port", &address.port().to_string()]).arg("--dir").arg(folder.path());
            command.args(SETTINGS).stdout(output).stderr(errors);
        })?;
        let mut server = Self { process, folder, address };
        server.serves().map_err(|problem| {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            failed(&program.path, &format!("{problem}; it said: {said}"))
        })?;
        Ok(server)
    }

    /// Ends it as a crash does, and starts `program` on its files; how long it took until that served, in seconds.
    ///
    /// # Errors
    /// If it does not serve.
    pub fn restart(self, program: &Program) -> Result<(Self, f64)> {
        let Self { process, folder, .. } = self;
        drop(process);
        let began = Instant::now();
        let server = Self::start_in(program, folder)?;
        Ok((server, began.elapsed().as_secs_f64()))
    }

    fn serves(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_WITHIN;
        loop {
            let last = match self.connect() {
                Ok(mut connection) => match redis::cmd("PING").query::<String>(&mut connection) {
                    Ok(_) => return Ok(()),
                    Err(error) => error.to_string(),
                },
                Err(error) => error.to_string(),
            };
            self.process.runs()?;
            if Instant::now() > deadline {
                let what = format!("a PONG from {}", self.address);
                return Err(Error::TooLate { what, waited_s: START_WITHIN.as_secs(), last });
            }
            std::thread::sleep(POLL);
        }
    }

    /// A connection.
    ///
    /// # Errors
    /// If it is not accepted.
    pub fn connect(&self) -> Result<redis::Connection> {
        let client = redis::Client::open(format!("redis://{}", self.address))?;
        let connection = client.get_connection_with_timeout(ANSWER_WITHIN)?;
        connection.set_read_timeout(Some(ANSWER_WITHIN))?;
        connection.set_write_timeout(Some(ANSWER_WITHIN))?;
        Ok(connection)
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Resident bytes, as soon as they stay about the same.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn settled_rss(&self) -> Result<f64> {
        const CALM: Duration = Duration::from_millis(500);
        const AT_MOST: Duration = Duration::from_secs(5);
        let began = Instant::now();
        let (mut last, mut since) = (process::rss(self.pid())?, began);
        loop {
            std::thread::sleep(CALM / 5);
            let now = process::rss(self.pid())?;
            if (now - last).abs() > last / 1000.0 {
                (last, since) = (now, Instant::now());
            }
            if since.elapsed() >= CALM || began.elapsed() >= AT_MOST {
                return Ok(now);
            }
        }
    }
}

/// A port that nobody has at the moment.
///
/// # Errors
/// If there is none.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_as_their_users_know_them() {
        let told = |text| version(text).unwrap();
        assert_eq!(
            told("Valkey server v=9.1.2 sha=0:0 malloc=jemalloc-5.3.0 bits=64 build=ab\n"),
            "Valkey 9.1.2"
        );
        assert_eq!(told("Redis server v=7.0.15 sha=0:0 malloc=libc bits=64 build=cd"), "Redis 7.0.15");
        assert_eq!(
            told("kv-node server v=7.2.0 sha=0:0 malloc=libc bits=64 build=kv-0.1.0"),
            "kv-node 0.1.0"
        );
        assert_eq!(version("bash 5.2"), None);
    }
}
