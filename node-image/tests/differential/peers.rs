//! The two that are compared: a Redis server, and the command table on a keyspace of its own.

use std::io::{BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kv_node::command::{Args, Ctx, Effects, Handler, Settings, table};
use kv_node::keyspace::{ExpiryMode, Keyspace};
use kv_node::resp::{Protocol, Reply as Writer};

use crate::reply::Reply;

pub const DATABASES: usize = 4;

/// A `redis-server` process that ends with this value.
pub struct Redis {
    process: Child,
    stream: BufReader<UnixStream>,
    _dir: tempfile::TempDir,
}

impl Redis {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory for the server");
        let socket = dir.path().join("redis.sock");
        let mut process = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--databases", &DATABASES.to_string()])
            .arg("--unixsocket")
            .arg(&socket)
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server must be installed for this test (Debian: apt-get install redis-server)");
        let deadline = Instant::now() + Duration::from_secs(20);
        let stream = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > deadline => {
                    let _ = process.kill();
                    panic!("redis-server does not listen on its socket: {error}");
                }
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        Self { process, stream: BufReader::new(stream), _dir: dir }
    }

    pub fn execute(&mut self, argv: &[Vec<u8>]) -> Reply {
        let mut request = format!("*{}\r\n", argv.len()).into_bytes();
        for arg in argv {
            request.extend(format!("${}\r\n", arg.len()).into_bytes());
            request.extend(arg);
            request.extend(b"\r\n");
        }
        self.stream.get_mut().write_all(&request).expect("redis-server takes requests");
        Reply::read(&mut self.stream)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The command table on a keyspace.
pub struct Node {
    pub keyspace: Keyspace,
    protocol: Protocol,
    effects: Effects,
    random: fastrand::Rng,
    settings: Settings,
}

impl Node {
    pub fn new(mode: ExpiryMode, protocol: Protocol, seed: u64) -> Self {
        let mut keyspace = Keyspace::new(DATABASES);
        keyspace.set_expiry_mode(mode);
        let settings = Settings { max_bulk: 512 << 20, cluster_enabled: false, databases: DATABASES };
        let random = fastrand::Rng::with_seed(seed);
        Self { keyspace, protocol, effects: Effects::default(), random, settings }
    }

    /// Runs a command; returns its reply and what is to be replicated.
    pub fn execute(&mut self, argv: &[Vec<u8>], now: u64) -> (Reply, Vec<Vec<Vec<u8>>>) {
        let mut out = Vec::new();
        let slices: Vec<&[u8]> = argv.iter().map(Vec::as_slice).collect();
        self.effects.clear();
        let result = self.run(&slices, now, &mut out);
        if let Err(text) = result {
            assert!(out.is_empty(), "an error after a part of a reply: {text}");
            Writer::new(&mut out, self.protocol).error(&text);
        }
        let mut input = out.as_slice();
        let reply = Reply::read(&mut input);
        assert!(
            input.is_empty(),
            "one command has one reply, not {reply:?} and {:?}",
            input.escape_ascii().to_string()
        );
        let expired = self.keyspace.take_expired();
        let mut replicated: Vec<_> =
            expired.into_iter().map(|(_, key)| vec![b"DEL".to_vec(), key.into()]).collect();
        let instead = self.effects.take_instead();
        if self.effects.dirty() > 0 {
            replicated.extend(instead.unwrap_or_else(|| vec![argv.to_vec()]));
        } else {
            assert!(instead.is_none(), "nothing changed, but something is replicated");
        }
        (reply, replicated)
    }

    fn run(&mut self, argv: &[&[u8]], now: u64, out: &mut Vec<u8>) -> Result<(), String> {
        let spec = table::lookup(argv[0]).ok_or("ERR unknown command")?;
        let count = argv.len() as i32;
        if (spec.arity >= 0 && count != spec.arity) || count < spec.arity.abs() {
            return Err(format!("ERR wrong number of arguments for '{}' command", spec.name));
        }
        let Handler::Data(handler) = spec.handler else { panic!("{} is no data command", spec.name) };
        let mut ctx = Ctx {
            keyspace: &mut self.keyspace,
            db: 0,
            now,
            reply: Writer::new(out, self.protocol),
            effects: &mut self.effects,
            random: &mut self.random,
            settings: &self.settings,
        };
        handler(&mut ctx, Args::new(argv)).map_err(|error| error.to_string())
    }
}
