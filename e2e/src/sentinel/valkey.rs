//! Valkey as its users run it without a cluster: three servers, three sentinels, and something that restarts who ends.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::World;
use super::writer::MASTER;
use crate::cluster::{Error, POLL, Result};
use crate::ledger::route::Access;
use crate::peer::servers::free_port;
use crate::scenario::SETTLE_WITHIN;

const SERVERS: usize = 3;
const QUORUM: usize = 2;
/// After this time a server is started again that has ended, as ours is.
const RESTART: Duration = Duration::from_secs(1);

/// A server or sentinel.
struct Process {
    port: u16,
    arguments: Vec<String>,
    child: Child,
    ended: Option<Instant>,
}

/// Servers and sentinels; they end with this value.
pub struct Valkey {
    program: PathBuf,
    servers: Vec<Process>,
    sentinels: Vec<Process>,
    _folder: TempDir,
}

impl Valkey {
    /// Starts all of them.
    ///
    /// # Errors
    /// If one cannot be started.
    pub fn start(program: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("kv-sentinel-").tempdir()?;
        let mut this =
            Self { program: program.to_owned(), servers: Vec::new(), sentinels: Vec::new(), _folder: folder };
        let mut first = None;
        for _ in 0..SERVERS {
            let port = free_port()?;
            let replicaof = first.map(|first| format!("replicaof 127.0.0.1 {first}\n")).unwrap_or_default();
            let text = format!("save \"\"\nprotected-mode no\nrepl-diskless-sync-delay 0\n{replicaof}");
            let server = this.spawn(port, &text, &[])?;
            this.servers.push(server);
            first = first.or(Some(port));
        }
        let first = first.unwrap_or_default();
        for _ in 0..SERVERS {
            let text = format!(
                "sentinel monitor {MASTER} 127.0.0.1 {first} {QUORUM}\n\
                 sentinel down-after-milliseconds {MASTER} 2000\n\
                 sentinel failover-timeout {MASTER} 10000\n"
            );
            let sentinel = this.spawn(free_port()?, &text, &["--sentinel"])?;
            this.sentinels.push(sentinel);
        }
        Ok(this)
    }

    fn spawn(&self, port: u16, text: &str, more: &[&str]) -> Result<Process> {
        let dir = self._folder.path().join(port.to_string());
        std::fs::create_dir(&dir)?;
        let file = dir.join("conf");
        let own =
            format!("port {port}\nbind 127.0.0.1\ndir {}\nlogfile {}/log\n", dir.display(), dir.display());
        std::fs::write(&file, own + text)?;
        let mut arguments = vec![file.display().to_string()];
        arguments.extend(more.iter().map(|one| (*one).to_owned()));
        let child = run(&self.program, &arguments)?;
        Ok(Process { port, arguments, child, ended: None })
    }

    fn pid(&self, address: &str) -> Result<Pid> {
        let of = |process: &&Process| address.ends_with(&format!(":{}", process.port));
        let pid = self.servers.iter().find(of).and_then(|process| process.child.id());
        let pid = pid.and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 1);
        pid.map(Pid::from_raw).ok_or_else(|| Error::Unexpected(format!("no server runs at {address}")))
    }

    fn restart_ended(&mut self) -> Result<()> {
        for server in &mut self.servers {
            if server.child.try_wait()?.is_none() {
                server.ended = None;
            } else if server.ended.get_or_insert_with(Instant::now).elapsed() >= RESTART {
                server.child = run(&self.program, &server.arguments)?;
                server.ended = None;
            }
        }
        Ok(())
    }

    /// The master that all sentinels name, if it has all replicas in step.
    async fn settled_now(&self) -> redis::RedisResult<Option<String>> {
        let mut named = Vec::new();
        for sentinel in self.sentinels() {
            let mut connection = Access::default().connect(&sentinel, Duration::from_secs(1)).await?;
            let mut ask = redis::cmd("SENTINEL");
            ask.arg("MASTER").arg(MASTER);
            let facts: std::collections::BTreeMap<String, String> = ask.query_async(&mut connection).await?;
            let fact = |name: &str| facts.get(name).cloned().unwrap_or_default();
            let complete =
                fact("num-other-sentinels") == "2" && fact("num-slaves") == "2" && fact("flags") == "master";
            named.push(complete.then(|| format!("{}:{}", fact("ip"), fact("port"))));
        }
        named.dedup();
        let [Some(master)] = named.as_slice() else { return Ok(None) };
        let mut connection = Access::default().connect(master, Duration::from_secs(1)).await?;
        let info: String = redis::cmd("INFO").arg("replication").query_async(&mut connection).await?;
        let in_step = info.matches("state=online").count() == SERVERS - 1 && info.contains("role:master");
        Ok(in_step.then(|| master.clone()))
    }
}

impl World for Valkey {
    fn sentinels(&self) -> Vec<String> {
        self.sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port)).collect()
    }

    async fn settled(&mut self) -> Result<String> {
        let began = Instant::now();
        loop {
            self.restart_ended()?;
            let last = match self.settled_now().await {
                Ok(Some(master)) => return Ok(master),
                Ok(None) => "not all replicas are in step".to_owned(),
                Err(error) => error.to_string(),
            };
            if began.elapsed() > SETTLE_WITHIN {
                let what = "a master that all sentinels name, with two replicas".to_owned();
                return Err(Error::TooLate { what, waited_s: SETTLE_WITHIN.as_secs(), last });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn signal(&mut self, master: &str, signal: Signal) -> Result<()> {
        kill(self.pid(master)?, signal).map_err(|error| Error::Io(error.into()))
    }
}

fn run(program: &Path, arguments: &[String]) -> Result<Child> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    Ok(command.spawn()?)
}
