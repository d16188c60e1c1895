//! Our node beside Valkey: throughput, memory, snapshots, latency and connections of one server process, measured in
//! pairs (ours, the peer's, ours, the peer's ...) on one machine. The server has one core, what loads it another.
//!
//! [`stats`] and [`table`] are pure; [`servers`] starts servers, [`process`] reads what the kernel tells of them,
//! [`client`] fills them; each of the other modules is one kind of [`Scenario`]. Clusters and faults are measured by
//! [`crate::measure`].

use std::path::PathBuf;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::cluster::{Error, Programs, Result};

mod client;
mod connections;
mod latency;
mod memory;
pub mod process;
mod scale;
pub mod servers;
mod snapshot;
pub mod stats;
mod sync;
pub mod table;
pub mod throughput;

pub use scale::Scale;
use servers::Program;
use table::{Measured, Row};
use throughput::Generator;

/// The core of the server.
pub const SERVER_CORE: usize = 0;
/// The core of all that loads it.
pub const CLIENT_CORE: usize = 1;

/// The programs that take part, and how much they have to do.
pub struct Bench {
    ours: Program,
    peer: Program,
    generator: Generator,
    scale: Scale,
}

/// One thing that is done to a server, and what it tells.
trait Scenario {
    /// The rows of the table that it fills.
    fn rows(&self) -> Vec<Row>;

    /// How many pairs of runs to do if so many were asked for.
    fn rounds(&self, asked: usize) -> usize {
        asked
    }

    /// Does it to a new server of `program`; one value for each row.
    fn run(&self, bench: &Bench, program: &Program) -> Result<Vec<f64>>;
}

fn scenarios(scale: Scale) -> Vec<Box<dyn Scenario>> {
    let mut all: Vec<Box<dyn Scenario>> = Vec::new();
    all.extend(throughput::all().into_iter().map(|one| Box::new(one) as Box<dyn Scenario>));
    all.extend(memory::keys().into_iter().map(|one| Box::new(one) as Box<dyn Scenario>));
    all.extend(memory::collections(scale).into_iter().map(|one| Box::new(one) as Box<dyn Scenario>));
    all.push(Box::new(snapshot::Snapshot::of(scale)));
    all.push(Box::new(sync::FullSync::of(scale)));
    all.push(Box::new(latency::Latency::default()));
    all.push(Box::new(connections::Connections::of(scale)));
    all
}

impl Bench {
    /// Our node beside the server that KV_PEER names.
    ///
    /// # Errors
    /// If one of them is missing.
    pub fn find(scale: Scale) -> Result<Self> {
        Self::against(program()?, scale)
    }

    /// Our node beside a server program; the load generator is the one beside that.
    ///
    /// # Errors
    /// If one of them is missing.
    pub fn against(peer: PathBuf, scale: Scale) -> Result<Self> {
        let generator = Generator::beside(&peer);
        let ours = Program::new(Programs::find()?.path("kv-node"))?;
        Ok(Self { ours, peer: Program::new(peer)?, generator, scale })
    }

    /// Measures the rows whose name contains `pattern`, in any case, by so many pairs of runs; the long ones take half
    /// as many. It blocks for minutes, and keeps this thread on the core of the clients.
    ///
    /// # Errors
    /// If a program fails, or no row is so called.
    pub fn run(&self, pattern: &str, rounds: usize) -> Result<Vec<Measured>> {
        pin_to(CLIENT_CORE)?;
        let pattern = pattern.to_lowercase();
        let wanted = |row: &Row| row.name.to_lowercase().contains(&pattern);
        let mut measured = Vec::new();
        for scenario in scenarios(self.scale) {
            if scenario.rows().iter().any(wanted) {
                let rows = self.pairs(scenario.as_ref(), scenario.rounds(rounds).max(1))?;
                measured.extend(rows.into_iter().filter(|one| wanted(&one.row)));
            }
        }
        if measured.is_empty() {
            return Err(Error::Unexpected(format!("no row is called like {pattern:?}")));
        }
        Ok(measured)
    }

    /// The section of docs/performance.md.
    #[must_use]
    pub fn section(&self, measured: &[Measured]) -> String {
        table::section(&table::machine(), &self.ours.version, &self.peer.version, measured)
    }

    fn pairs(&self, scenario: &dyn Scenario, rounds: usize) -> Result<Vec<Measured>> {
        let mut measured: Vec<Measured> = scenario.rows().into_iter().map(Measured::new).collect();
        for _ in 0..rounds {
            let ours = scenario.run(self, &self.ours)?;
            let peers = scenario.run(self, &self.peer)?;
            for (one, (our, peer)) in measured.iter_mut().zip(ours.into_iter().zip(peers)) {
                one.ours.push(our);
                one.peer.push(peer);
            }
        }
        for one in &measured {
            eprintln!("{}", one.line());
        }
        Ok(measured)
    }
}

/// The server program that KV_PEER names.
///
/// # Errors
/// If it names none.
pub fn program() -> Result<PathBuf> {
    std::env::var_os("KV_PEER").map(PathBuf::from).ok_or_else(|| {
        let text =
            "no peer to compare with: set KV_PEER to the path of a valkey-server (scripts/peer makes one)";
        Error::Unexpected(text.into())
    })
}

/// Keeps this thread, and all that it starts, on one core.
pub(crate) fn pin_to(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set)).map_err(|error| {
        Error::Unexpected(format!("cannot keep the clients on core {core} (two are needed): {error}"))
    })
}
