//! Failover beside that of Valkey with Sentinel: the same faults, the same client, processes of this machine.

mod ours;
mod valkey;
mod writer;

use std::path::Path;
use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::cluster::{Error, Result};
use crate::peer::servers::Program;
use crate::scenario::median;
use ours::Ours;
use valkey::Valkey;
use writer::{MASTER, Writer};

/// Writes before a fault, and after it.
const WRITES: usize = 200;

/// Three servers of one data set, one of them the master, that something fails over.
trait World {
    /// Addresses at which the Sentinel protocol is spoken.
    fn sentinels(&self) -> Vec<String>;

    /// Waits until all servers run and are in step; the address of the master.
    async fn settled(&mut self) -> Result<String>;

    /// Sends a signal to the process of the master.
    async fn signal(&mut self, master: &str, signal: Signal) -> Result<()>;
}

/// What is done to a master.
#[derive(Clone, Copy)]
enum Fault {
    Signal(Signal),
    /// Until another one leads.
    Freeze,
    /// `SENTINEL FAILOVER`.
    Switchover,
}

const FAULTS: [(&str, Fault); 4] = [
    ("`kill -9`", Fault::Signal(Signal::SIGKILL)),
    ("SIGSTOP, and SIGCONT when another one leads", Fault::Freeze),
    ("SIGTERM", Fault::Signal(Signal::SIGTERM)),
    ("`SENTINEL FAILOVER`", Fault::Switchover),
];

/// What came of a fault.
struct Series {
    refused: Vec<f64>,
    acknowledged: usize,
    missing: usize,
}

impl Series {
    fn cell(&self) -> String {
        let worst = self.refused.iter().copied().fold(0.0, f64::max);
        let refused = median(&self.refused);
        format!("{refused:.0} ms, {worst:.0} ms; {} of {}", self.missing, self.acknowledged)
    }
}

/// Measures both, each fault `rounds` times; Valkey is the server program at `peer`, which can be a sentinel too.
///
/// # Errors
/// If a program is missing, or one side does not recover.
pub async fn compare(peer: &Path, rounds: usize) -> Result<String> {
    let version = Program::new(peer.to_owned())?.version;
    let quorum = json!({"replication": {"acknowledge": {"mode": "Quorum", "copies": 2}}});
    let asynchronous = all(&mut Ours::start(&json!({})).await?, "Async", rounds).await?;
    let quorum = all(&mut Ours::start(&quorum).await?, "Quorum", rounds).await?;
    let theirs = all(&mut Valkey::start(peer)?, &version, rounds).await?;
    let mut page = format!(
        "Writes refused, median and worst of {rounds}; acknowledged writes that are missing in the end.\n\n\
         | of a master | kv-node, Async | kv-node, Quorum | {version}, 3 sentinels |\n|---|---|---|---|\n"
    );
    let rows = FAULTS.iter().zip(asynchronous).zip(quorum).zip(theirs);
    for ((((fault, _), asynchronous), quorum), theirs) in rows {
        let (asynchronous, quorum, theirs) = (asynchronous.cell(), quorum.cell(), theirs.cell());
        page += &format!("| {fault} | {asynchronous} | {quorum} | {theirs} |\n");
    }
    Ok(page)
}

async fn all(world: &mut impl World, name: &str, rounds: usize) -> Result<Vec<Series>> {
    let mut all = Vec::new();
    for (text, fault) in FAULTS {
        let series = series(world, fault, rounds).await?;
        eprintln!("{name}: {text}: {}", series.cell());
        all.push(series);
    }
    Ok(all)
}

async fn series(world: &mut impl World, fault: Fault, rounds: usize) -> Result<Series> {
    world.settled().await?;
    let writer = Writer::start(world.sentinels());
    let mut refused = Vec::new();
    for _ in 0..rounds {
        let master = world.settled().await?;
        writer.wait_for_more(WRITES).await?;
        let began = Instant::now();
        match fault {
            Fault::Signal(signal) => world.signal(&master, signal).await?,
            Fault::Freeze => world.signal(&master, Signal::SIGSTOP).await?,
            Fault::Switchover => switch_over(&world.sentinels()).await?,
        }
        writer.wait_for_more(WRITES).await?;
        if matches!(fault, Fault::Freeze) {
            world.signal(&master, Signal::SIGCONT).await?;
        }
        let after = world.settled().await?;
        writer.wait_for_more(WRITES).await?;
        if after == master {
            return Err(Error::Unexpected(format!("{master} is still the master")));
        }
        refused.push(writer.longest_ms(began));
    }
    let (acknowledged, missing) = writer.finish().await?;
    Ok(Series { refused, acknowledged, missing })
}

async fn switch_over(sentinels: &[String]) -> Result<()> {
    let first = sentinels.first().ok_or_else(|| Error::Unexpected("there is no sentinel".into()))?;
    let access = crate::ledger::route::Access::default();
    let mut sentinel = access.connect(first, std::time::Duration::from_secs(5)).await?;
    Ok(redis::cmd("SENTINEL").arg("FAILOVER").arg(MASTER).query_async(&mut sentinel).await?)
}
