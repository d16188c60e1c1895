//! Which servers there are to replicate with.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::Process;

/// A server of others.
#[derive(Clone, Debug)]
pub struct Peer {
    pub name: String,
    program: PathBuf,
}

/// The servers that `KV_PEERS` names (programs, separated by colons). Without it: Debian's Redis, which is always there,
/// and those that `scripts/peer` built. What is missing is said aloud.
pub fn all() -> Vec<Peer> {
    if let Ok(named) = std::env::var("KV_PEERS") {
        return named.split(':').map(PathBuf::from).map(Peer::new).collect();
    }
    let mut programs = vec![PathBuf::from("redis-server")];
    let built = Path::new(env!("CARGO_BIN_EXE_kv-node")).ancestors().nth(2).unwrap().join("peer/bin");
    for name in ["valkey", "redis"] {
        let program = built.join(format!("{name}-server"));
        if program.exists() {
            programs.push(program);
        } else {
            let text = format!("\nNOT RUN with {}: scripts/peer {name} builds it\n", program.display());
            // Past the harness, which would keep it to itself.
            std::io::stderr().write_all(text.as_bytes()).unwrap();
        }
    }
    programs.into_iter().map(Peer::new).collect()
}

impl Peer {
    fn new(program: PathBuf) -> Self {
        let output = Command::new(&program).arg("--version").output();
        let output = output.unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        // "Redis server v=7.0.15 sha=...", "Valkey server v=9.1.2 sha=..."
        let text = String::from_utf8(output.stdout).unwrap();
        let mut words = text.split(' ');
        let name = words.next().unwrap().to_lowercase();
        let version = words.find_map(|word| word.strip_prefix("v=")).unwrap();
        Self { name: format!("{name} {version}"), program }
    }

    pub fn start(&self, args: &[&str]) -> Process {
        Process::other(self.program.to_str().unwrap(), args)
    }
}

/// How many keys the tests are to work with.
pub fn keys() -> usize {
    std::env::var("KV_PEER_KEYS").map_or(20_000, |count| count.parse().expect("KV_PEER_KEYS: a number"))
}
