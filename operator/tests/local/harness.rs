//! A local cluster under test: runs the programs, and cleans up after itself.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::Connection;
use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take that should happen soon.
pub const SOON: Duration = Duration::from_secs(40);

/// Few cores: one cluster at a time.
static ALONE: Mutex<()> = Mutex::new(());

pub struct Cluster {
    dir: TempDir,
    pub base_port: u16,
    up: Option<Child>,
    /// Where `up` posts notifications.
    pub notify_url: String,
    _alone: MutexGuard<'static, ()>,
}

/// The node program: from $KV_NODE, or beside the operator.
pub fn node_program() -> PathBuf {
    let beside = Path::new(env!("CARGO_BIN_EXE_kv-operator")).with_file_name("kv-node");
    let program = std::env::var_os("KV_NODE").map_or(beside, PathBuf::from);
    assert!(program.is_file(), "no {}: run `cargo build -p kv-node`, or set KV_NODE", program.display());
    program
}

/// A port from which on some are free.
pub fn free_base_port() -> u16 {
    let mut port = 11_000 + u16::try_from(std::process::id() % 800).unwrap() * 10;
    loop {
        let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if (port..port + 10).all(|port| free(port) && free(port + 1500)) {
            return port;
        }
        port += 10;
    }
}

/// Waits until something is there.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {SOON:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Cluster {
    /// A folder in which nothing runs yet.
    pub fn new() -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        Self {
            dir: tempfile::tempdir().unwrap(),
            base_port: free_base_port(),
            up: None,
            notify_url: String::new(),
            _alone: alone,
        }
    }

    /// A cluster that is ready.
    pub fn ready(spec: &str) -> Self {
        let mut cluster = Self::new();
        cluster.write(spec);
        cluster.up();
        cluster.wait_ready();
        cluster
    }

    pub fn dir(&self) -> PathBuf {
        self.dir.path().join("cluster")
    }

    pub fn file(&self) -> PathBuf {
        self.dir.path().join("kvc.yaml")
    }

    /// Writes the KvCluster that `up` and `apply` read.
    pub fn write(&self, spec: &str) {
        let text = format!(
            "{{apiVersion: kvcluster.io/v1alpha1, kind: KvCluster, metadata: {{name: shop}}, spec: {spec}}}"
        );
        std::fs::write(self.file(), text).unwrap();
    }

    pub fn command(&self, args: &[&str]) -> Command {
        self.command_in(&self.dir(), args)
    }

    /// A command for another folder than the cluster's.
    pub fn command_in(&self, dir: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kv-operator"));
        command.args(["local", "--dir"]).arg(dir).args(args).env("KV_NODE", node_program());
        command.stdin(Stdio::null());
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    pub fn up_command(&self) -> Command {
        let mut command = self.command(&["up", "-f"]);
        command.arg(self.file()).args(["--base-port", &self.base_port.to_string()]);
        command.env("KV_NOTIFY_URL", &self.notify_url);
        command
    }

    pub fn up(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.log()).unwrap();
        self.up = Some(self.up_command().stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("up.out")
    }

    pub fn said(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    pub fn kill_up(&mut self) {
        let mut up = self.up.take().unwrap();
        up.kill().unwrap();
        up.wait().unwrap();
    }

    /// Asks `up` to stop as Ctrl-C does; whether it ended well.
    pub fn stop_up(&mut self) -> bool {
        let mut up = self.up.take().unwrap();
        signal(i32::try_from(up.id()).unwrap(), "INT");
        let ended = eventually("up stops", || up.try_wait().unwrap());
        ended.success()
    }

    pub fn apply(&self, spec: &str) -> Output {
        self.write(spec);
        self.run(&["apply", "-f", self.file().to_str().unwrap()])
    }

    /// What `receipts -o json` prints.
    pub fn receipts(&self) -> Value {
        serde_json::from_slice(&self.run(&["receipts", "-o", "json"]).stdout).unwrap()
    }

    /// What `status -o json` prints.
    pub fn status(&self) -> Option<Value> {
        let output = self.run(&["status", "-o", "json"]);
        serde_json::from_slice(&output.stdout).ok()
    }

    pub fn wait_ready(&self) -> Value {
        self.wait_for("ready", |_| true)
    }

    /// Waits until the cluster is ready and something else holds too.
    pub fn wait_for(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(status) = self.status() {
                let cluster = &status["cluster"];
                let observed = &cluster["status"]["observedGeneration"];
                if cluster["status"]["state"] == "Ready"
                    && *observed == cluster["metadata"]["generation"]
                    && holds(&status)
                {
                    return status;
                }
                last = status;
            }
            assert!(Instant::now() < deadline, "{what}: not within {SOON:?}\n{last:#}\n{}", self.said());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn pid(&self, node: &str) -> i32 {
        process(&self.status().unwrap(), node)["pid"].as_i64().unwrap().try_into().unwrap()
    }

    /// Waits until all is ready and a node has another process than this one.
    pub fn wait_restarted(&self, node: &str, pid: i32) {
        self.wait_for("another process, all ready", |status| {
            let processes = status["processes"].as_array().unwrap();
            processes.iter().any(|process| process["node"] == node && process["pid"] != pid)
        });
    }

    pub fn port(&self, node: &str) -> u16 {
        process(&self.status().unwrap(), node)["port"].as_u64().unwrap().try_into().unwrap()
    }

    pub fn connect(&self, node: &str) -> Connection {
        connect(self.port(node))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("up said:\n{}", self.said());
        }
        if let Some(mut up) = self.up.take() {
            let _ = up.kill();
            let _ = up.wait();
        }
        let _ = self.run(&["down", "--purge"]);
    }
}

pub fn process<'a>(status: &'a Value, node: &str) -> &'a Value {
    let found = status["processes"].as_array().unwrap().iter().find(|process| process["node"] == node);
    found.unwrap_or_else(|| panic!("{node} has no process: {status:#}"))
}

pub fn master(status: &Value, shard: usize) -> String {
    status["cluster"]["status"]["shards"][shard]["master"].as_str().unwrap().to_owned()
}

pub fn connect(port: u16) -> Connection {
    redis::Client::open(("127.0.0.1", port))
        .unwrap()
        .get_connection_with_timeout(Duration::from_secs(2))
        .unwrap()
}

/// Whether a process runs; one that waits for its parent to take note of its end does not.
pub fn runs(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

pub fn signal(pid: i32, name: &str) {
    assert!(pid > 1);
    assert!(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap().success());
}
