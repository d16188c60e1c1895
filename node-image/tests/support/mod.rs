//! Nodes and real Redis servers as child processes, on free ports and in directories of their own.
#![allow(dead_code, missing_docs, reason = "each test uses a part of it")]

pub mod content;
pub mod proxy;
pub mod shard;
pub mod volume;
pub mod wire;

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kv_core::control::NodeReport;
use redis::{Connection, FromRedisValue, RedisResult};
use tempfile::TempDir;

/// How long any event may take; `KV_TEST_PATIENCE` (seconds) allows more for tests of much data.
fn patience() -> Duration {
    let seconds = std::env::var("KV_TEST_PATIENCE").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(30))
}

/// Stands for a port that nobody listens on, another one each time.
pub const FREE: &str = "{free}";

/// Stands for the file with the control password, which is in the node's own directory.
pub const SECRET: &str = "{secret}";

pub struct Process {
    child: Child,
    pub port: u16,
    pub dir: TempDir,
    args: Vec<String>,
    program: String,
}

/// A port that nobody listens on now. Ports below the ephemeral range, so that no outgoing connection takes it.
pub fn free_port() -> u16 {
    let mut random = fastrand::Rng::new();
    (0..1000)
        .map(|_| random.u16(10_000..32_000))
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port")
}

impl Process {
    pub fn node(args: &[&str]) -> Self {
        Self::start(env!("CARGO_BIN_EXE_kv-node"), args)
    }

    /// A real Redis, from Debian's package redis-server.
    pub fn redis(args: &[&str]) -> Self {
        Self::start("redis-server", args)
    }

    /// Another server that speaks the protocol.
    pub fn other(program: &str, args: &[&str]) -> Self {
        Self::start(program, args)
    }

    /// A managed node of shard 0 of the cluster `uid`.
    pub fn managed(name: &str, args: &[&str]) -> Self {
        let mut all = vec!["--kv-cluster-uid", "uid", "--kv-shard", "0", "--kv-node-name", name];
        all.extend(["--kv-control-password-file", SECRET, "--cluster-enabled", "yes"]);
        all.extend(args);
        Self::node(&all)
    }

    /// Another process may take the port between its choice and its use: then another one is chosen.
    fn start(program: &str, args: &[&str]) -> Self {
        (0..10).find_map(|_| Self::start_on(program, args, free_port())).expect("a server on a free port")
    }

    fn start_on(program: &str, args: &[&str], port: u16) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut all = vec!["--port".to_owned(), port.to_string(), "--dir".to_owned()];
        all.extend([dir.path().to_str().unwrap().to_owned(), "--save".to_owned(), String::new()]);
        let secret = dir.path().join("secret");
        std::fs::write(&secret, "secret\n").unwrap();
        all.extend(args.iter().map(|arg| match *arg {
            FREE => free_port().to_string(),
            arg => arg.replace(SECRET, secret.to_str().unwrap()),
        }));
        let child = spawn(program, &all, &dir);
        let mut process = Self { child, port, dir, args: all, program: program.to_owned() };
        process.wait_until_up().then_some(process)
    }

    /// Returns false if the port turned out to be taken.
    fn wait_until_up(&mut self) -> bool {
        eventually("the server answers", || {
            if self.child.try_wait().unwrap().is_some() {
                assert!(self.log().contains("ddress already in use"), "it ended: {}", self.log());
                return Some(false);
            }
            let mut connection = self.try_connect().ok()?;
            let pong = redis::cmd("PING").query::<String>(&mut connection);
            match pong {
                Ok(pong) => (pong == "PONG").then_some(true),
                Err(error) => (error.code() == Some("NOAUTH")).then_some(true),
            }
        })
    }

    /// Starts it again, and does not wait.
    pub fn spawn_again(&mut self) {
        self.child = spawn(&self.program, &self.args, &self.dir);
    }

    pub fn restart(&mut self) {
        self.spawn_again();
        assert!(self.wait_until_up(), "its port was taken meanwhile");
    }

    /// Starts it again though it is going to end by itself; returns its log.
    pub fn restart_in_vain(&mut self) -> String {
        self.child = spawn(&self.program, &self.args, &self.dir);
        self.wait_until_gone();
        self.log()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Lets no file of the process grow beyond so many bytes from now on: to it the disk is full. `None`: as ever.
    pub fn limit_files(&self, bytes: Option<u64>) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let limit = rustix::process::Rlimit { current: bytes, maximum: None };
        rustix::process::prlimit(Some(pid), rustix::process::Resource::Fsize, limit).unwrap();
    }

    /// Lets the process have no more than so many files open; `None`: as ever.
    pub fn limit_open_files(&self, number: Option<u64>) {
        use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
        let ours = getrlimit(Resource::Nofile);
        let limit = Rlimit { current: number.or(ours.maximum), maximum: ours.maximum };
        prlimit(Some(Pid::from_child(&self.child)), Resource::Nofile, limit).unwrap();
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(&mut self) {
        self.signal(rustix::process::Signal::TERM);
        self.wait_until_gone();
    }

    pub fn wait_until_gone(&mut self) {
        eventually("the process ends", || self.child.try_wait().unwrap().map(drop));
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    fn try_connect(&self) -> RedisResult<Connection> {
        redis::Client::open(("127.0.0.1", self.port))?.get_connection_with_timeout(Duration::from_secs(5))
    }

    pub fn connect(&self) -> Connection {
        self.try_connect().unwrap()
    }

    /// Runs a command on a new connection.
    pub fn run<T: FromRedisValue>(&self, args: &[&str]) -> RedisResult<T> {
        self.connect().run(args)
    }

    pub fn port_text(&self) -> String {
        self.port.to_string()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// A field of `INFO`.
    pub fn info(&self, field: &str) -> String {
        let text: String = self.run(&["INFO"]).unwrap();
        let prefix = format!("{field}:");
        text.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap_or_default().to_owned()
    }

    /// Sends a control command.
    pub fn control(&self, args: &[&str]) -> RedisResult<NodeReport> {
        let mut connection = self.connect();
        let () = connection.run(&["AUTH", "kv-operator", "secret"])?;
        let mut all = vec!["KV"];
        all.extend(args);
        let text: String = connection.run(&all)?;
        Ok(serde_json::from_str(&text).unwrap())
    }

    pub fn report(&self) -> NodeReport {
        self.control(&["REPORT"]).unwrap()
    }
}

fn spawn(program: &str, args: &[String], dir: &TempDir) -> Child {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.path().join("log")).unwrap();
    Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {program}: {error}"))
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of {} on port {}\n{}", self.program, self.port, self.log());
        }
    }
}

pub trait Run {
    fn run<T: FromRedisValue>(&mut self, args: &[&str]) -> RedisResult<T>;
}

impl Run for Connection {
    fn run<T: FromRedisValue>(&mut self, args: &[&str]) -> RedisResult<T> {
        let (name, rest) = args.split_first().unwrap();
        redis::cmd(name).arg(rest).query(self)
    }
}

/// Waits until `check` finds what it looks for.
pub fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience();
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10)); // poll interval
    }
}

/// Waits until `check` holds.
pub fn until(what: &str, mut check: impl FnMut() -> bool) {
    eventually(what, || check().then_some(()));
}
