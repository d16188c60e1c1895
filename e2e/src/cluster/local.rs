//! A cluster of `kv-operator local`: the operator and the nodes are processes of this machine.

use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

use super::truth::Said;
use super::view::View;
use super::{Cluster, Error, Ledger, POLL, Programs, Result};
use crate::ledger::route::Access;
use crate::ledger::{Clock, Options, Session};

/// Ports to keep free from the base port on: more than any test has nodes. Health and the Sentinel protocol are served
/// this far above.
const PORTS: u16 = 40;
const OFFSETS: [u16; 3] = [0, 1500, 3000];
const WATCH: Duration = Duration::from_millis(250);
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// A cluster of local processes; it goes with its value, processes and files.
pub struct Local {
    programs: Programs,
    folder: TempDir,
    base_port: u16,
    operator: Option<Child>,
    said: Arc<Mutex<Vec<Said>>>,
    watcher: JoinHandle<()>,
    _alone: OwnedSemaphorePermit,
}

/// Tests of one program run beside each other, on few cores: one cluster at a time.
static ALONE: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(1)));

/// What `kv-operator local status -o json` prints.
#[derive(Deserialize)]
struct LocalStatus {
    cluster: View,
    #[serde(default)]
    processes: Vec<Process>,
}

/// A node's process.
#[derive(Clone, Debug, Deserialize)]
pub struct Process {
    /// The node's name.
    pub node: String,
    /// Its process id.
    pub pid: i32,
    /// Its data port.
    pub port: u16,
    /// Its port of the Sentinel protocol.
    #[serde(rename = "sentinelPort")]
    pub sentinel_port: u16,
    /// Where it keeps its data.
    pub dir: String,
}

impl Local {
    /// Starts the operator on a manifest, once no other cluster of this process is left; the nodes come up meanwhile.
    ///
    /// # Errors
    /// If a program is missing or cannot be started.
    pub async fn up(manifest: &Value) -> Result<Self> {
        let alone = ALONE.clone().acquire_owned().await;
        let alone = alone.map_err(|error| Error::Unexpected(error.to_string()))?;
        let programs = Programs::find()?;
        let folder = tempfile::Builder::new().prefix("kv-e2e-").tempdir()?;
        let base_port = free_base_port()?;
        let said = Arc::new(Mutex::new(Vec::new()));
        let watcher = tokio::spawn(watch(programs.clone(), folder.path().join("cluster"), said.clone()));
        let mut local = Self { programs, folder, base_port, operator: None, said, watcher, _alone: alone };
        std::fs::write(local.manifest_file(), manifest.to_string())?;
        local.start_operator()?;
        Ok(local)
    }

    /// The folder of the cluster.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.folder.path().join("cluster")
    }

    fn manifest_file(&self) -> PathBuf {
        self.folder.path().join("manifest.json")
    }

    /// Starts the operator, which takes running nodes over. Its output goes on at the end of its log.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_operator(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.folder.path().join("operator.log"))?;
        let child = Command::new(self.programs.path("kv-operator"))
            .args(["local", "up", "-f"])
            .arg(self.manifest_file())
            .arg("--dir")
            .arg(self.dir())
            .args(["--base-port", &self.base_port.to_string()])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.operator = Some(child);
        Ok(())
    }

    /// Kills the operator as `kill -9` does; the nodes go on.
    ///
    /// # Errors
    /// If it cannot be killed.
    pub async fn kill_operator(&mut self) -> Result<()> {
        if let Some(mut operator) = self.operator.take() {
            operator.kill().await?;
        }
        Ok(())
    }

    /// Asks the operator to stop, and waits until it has; returns whether it ended well.
    ///
    /// # Errors
    /// If it does not stop in time.
    pub async fn stop_operator(&mut self) -> Result<bool> {
        let Some(mut operator) = self.operator.take() else { return Ok(true) };
        if let Some(pid) = operator.id() {
            signal(i32::try_from(pid).unwrap_or_default(), Signal::SIGTERM)?;
        }
        match tokio::time::timeout(STOP_WITHIN, operator.wait()).await {
            Ok(status) => Ok(status?.success()),
            Err(_) => {
                operator.kill().await?;
                Err(Error::Unexpected(format!("the operator did not stop; its log: {}", self.log())))
            }
        }
    }

    /// The nodes' processes.
    ///
    /// # Errors
    /// If there is no status.
    pub async fn processes(&self) -> Result<Vec<Process>> {
        Ok(status(&self.programs, &self.dir()).await?.processes)
    }

    /// The process of a node.
    ///
    /// # Errors
    /// If it has none.
    pub async fn process(&self, node: &str) -> Result<Process> {
        let processes = self.processes().await?;
        let found = processes.into_iter().find(|process| process.node == node);
        found.ok_or_else(|| Error::Unexpected(format!("{node} has no process")))
    }

    /// How to reach the cluster.
    ///
    /// # Errors
    /// If there is no status.
    pub async fn access(&self) -> Result<Access> {
        let processes = self.processes().await?;
        Ok(Access {
            seeds: processes.iter().map(|p| format!("127.0.0.1:{}", p.port)).collect(),
            password: None,
        })
    }

    /// The end of the operator's log.
    #[must_use]
    pub fn log(&self) -> String {
        let log = std::fs::read_to_string(self.folder.path().join("operator.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines.get(lines.len().saturating_sub(60)..).unwrap_or_default().join("\n")
    }

    /// Asks a node to stop, as a kubelet does: its master role is handed over first.
    ///
    /// # Errors
    /// If it has no process.
    pub async fn terminate(&self, node: &str) -> Result<()> {
        self.signal(node, Signal::SIGTERM).await
    }

    /// Lets no file of a node grow beyond so many bytes: to the node its disk is full. `None` ends that.
    ///
    /// # Errors
    /// If it has no process, or that takes no limit.
    pub async fn limit_files(&self, node: &str, bytes: Option<u64>) -> Result<()> {
        let limit = bytes.map_or_else(|| "unlimited".to_owned(), |bytes| bytes.to_string());
        let mut command = Command::new("prlimit");
        command
            .arg(format!("--pid={}", self.process(node).await?.pid))
            .arg(format!("--fsize={limit}:unlimited"));
        output(command).await.map(drop)
    }

    /// Has a node lead its shard, or the best replica if none is named, by the command line; returns what that printed.
    ///
    /// # Errors
    /// What it said, if it failed.
    pub async fn switchover(&self, shard: usize, to: Option<&str>) -> Result<String> {
        let mut command = Command::new(self.programs.path("kv-operator"));
        command.args(["local", "switchover", "--timeout", "5", "--shard", &shard.to_string()]);
        command.arg("--dir").arg(self.dir());
        if let Some(node) = to {
            command.args(["--to", node]);
        }
        output(command).await
    }

    /// Runs a command at a node.
    ///
    /// # Errors
    /// If the node has no process, or refuses.
    pub async fn run(&self, node: &str, args: &[&str]) -> Result<redis::Value> {
        let address = format!("127.0.0.1:{}", self.process(node).await?.port);
        let mut connection = Access::default().connect(&address, Duration::from_secs(2)).await?;
        let mut command = redis::Cmd::new();
        args.iter().for_each(|arg| _ = command.arg(*arg));
        Ok(command.query_async(&mut connection).await?)
    }

    /// Sends a signal to a node's process.
    ///
    /// # Errors
    /// If it has none.
    pub async fn signal(&self, node: &str, which: Signal) -> Result<()> {
        signal(self.process(node).await?.pid, which)
    }
}

impl Cluster for Local {
    async fn view(&self) -> Result<View> {
        Ok(status(&self.programs, &self.dir()).await?.cluster)
    }

    async fn apply(&mut self, manifest: &Value) -> Result<()> {
        let file = self.folder.path().join("applied.json");
        std::fs::write(&file, manifest.to_string())?;
        let mut command = Command::new(self.programs.path("kv-operator"));
        command.args(["local", "apply", "-f"]).arg(&file).arg("--dir").arg(self.dir());
        output(command).await?;
        // An operator that starts again reads the manifest that is in force.
        std::fs::rename(file, self.manifest_file())?;
        Ok(())
    }

    async fn kill(&self, node: &str) -> Result<()> {
        self.signal(node, Signal::SIGKILL).await
    }

    async fn freeze(&self, node: &str) -> Result<()> {
        self.signal(node, Signal::SIGSTOP).await
    }

    async fn thaw(&self, node: &str) -> Result<()> {
        self.signal(node, Signal::SIGCONT).await
    }

    async fn ledger(&self) -> Result<Ledger> {
        Ok(Ledger::Here(Box::new(Session::start(Options::new(self.access().await?)).await?)))
    }

    async fn info(&self, node: &str) -> Result<String> {
        let address = format!("127.0.0.1:{}", self.process(node).await?.port);
        let mut connection = Access::default().connect(&address, Duration::from_secs(2)).await?;
        Ok(redis::cmd("INFO").query_async(&mut connection).await?)
    }

    fn history(&self) -> String {
        self.log()
    }

    fn said(&self) -> Vec<Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.watcher.abort();
        if std::thread::panicking() {
            eprintln!("the operator's log ends with:\n{}", self.log());
        }
        if let Some(mut operator) = self.operator.take() {
            let pid = operator.id().and_then(|pid| i32::try_from(pid).ok());
            let stopped = pid.is_some_and(|pid| signal(pid, Signal::SIGTERM).is_ok());
            let deadline = Instant::now() + STOP_WITHIN;
            while stopped && Instant::now() < deadline && matches!(operator.try_wait(), Ok(None)) {
                std::thread::sleep(POLL);
            }
            // The process may be gone already, which is all that is wanted.
            let _gone = operator.start_kill();
        }
        // What the operator left, or what outlived a killed one.
        let _down = std::process::Command::new(self.programs.path("kv-operator"))
            .args(["local", "down", "--purge", "--dir"])
            .arg(self.dir())
            .stdin(Stdio::null())
            .output();
        if let Some(folder) = self.folder.path().to_str() {
            kill_all_in(folder);
        }
    }
}

/// Kills every process whose command line names `folder`, which is unique to one test.
fn kill_all_in(folder: &str) {
    let Ok(processes) = std::fs::read_dir("/proc") else { return };
    for process in processes.flatten() {
        let pid = process.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        let line = std::fs::read_to_string(process.path().join("cmdline")).unwrap_or_default();
        if let Some(pid) = pid.filter(|_| line.contains(folder)) {
            eprintln!("kv-e2e: process {pid} was left over and is killed: {}", line.replace('\0', " "));
            let _gone = signal(pid, Signal::SIGKILL);
        }
    }
}

fn signal(pid: i32, which: Signal) -> Result<()> {
    if pid <= 1 {
        return Err(Error::Unexpected(format!("no process has the id {pid}")));
    }
    kill(Pid::from_raw(pid), which).map_err(|error| Error::Io(error.into()))
}

async fn status(programs: &Programs, dir: &std::path::Path) -> Result<LocalStatus> {
    let mut command = Command::new(programs.path("kv-operator"));
    command.args(["local", "status", "-o", "json", "--dir"]).arg(dir);
    let text = output(command).await?;
    serde_json::from_str(&text).map_err(|error| Error::Unexpected(format!("status {text:?}: {error}")))
}

/// Runs a command and returns what it printed; an error with all its output if it fails.
pub(super) async fn output(mut command: Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let command = format!("{:?}", command.as_std());
    Err(Error::Command { command, output: format!("{text}{}", String::from_utf8_lossy(&output.stderr)) })
}

/// Writes down what the condition Ready says.
async fn watch(programs: Programs, dir: PathBuf, said: Arc<Mutex<Vec<Said>>>) {
    let clock = Clock::start();
    loop {
        let at_us = clock.now_us();
        if let Ok(status) = status(&programs, &dir).await {
            let ready = status.cluster.ready();
            said.lock().unwrap_or_else(PoisonError::into_inner).push(Said { at_us, ready });
        }
        tokio::time::sleep(WATCH).await;
    }
}

/// A port from which on some are free. They may be taken until they are used; the random start makes that rare.
fn free_base_port() -> Result<u16> {
    for _ in 0..200 {
        let base = fastrand::u16(20_000..29_000);
        let mut ports = (base..base + PORTS).flat_map(|port| OFFSETS.map(|offset| port + offset));
        if ports.all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return Ok(base);
        }
    }
    Err(Error::Unexpected(format!("no {PORTS} free ports in a row between 20000 and 29000")))
}
