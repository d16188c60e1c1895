//! The measurements that docs/performance.md records, printed as Markdown.

use std::fmt::Write as _;
use std::time::Instant;

use serde_json::json;

use crate::cluster::kind::Kind;
use crate::cluster::kind::faults::CutOff;
use crate::cluster::local::Local;
use crate::cluster::{Cluster, Error, Ledger, Result, manifest};
use crate::ledger::Report;
use crate::scenario::{self, Loss, SETTLE_WITHIN, Size, median};

const NAME: &str = "bench";
const SIZE: Size = Size { shards: 3, nodes: 2 };
const KEYS: usize = 100_000;

/// How a master was lost, how often, and what each time came to.
struct Series {
    fault: &'static str,
    losses: Vec<Loss>,
    report: Report,
}

impl Series {
    fn row(&self) -> String {
        let refused: Vec<f64> = self.losses.iter().map(|loss| loss.refused_ms).collect();
        let settled: Vec<f64> = self.losses.iter().map(|loss| loss.settled_ms).collect();
        let worst = refused.iter().copied().fold(0.0, f64::max);
        format!(
            "| {} | {} | {:.0} ms | {worst:.0} ms | {:.1} s | {} | {} |",
            self.fault,
            self.losses.len(),
            median(&refused),
            median(&settled) / 1000.0,
            self.report.tally().acked,
            self.report.verdict.missing.count,
        )
    }
}

/// Measures a local cluster.
///
/// # Errors
/// If a program is missing, or the cluster does not recover.
pub async fn local(rounds: usize) -> Result<String> {
    let began = Instant::now();
    let local = Local::up(&manifest(NAME, SIZE.shards, SIZE.nodes - 1, &json!({}))).await?;
    scenario::settled(&local, SIZE).await?;
    let ready_s = began.elapsed().as_secs_f64();
    let began = Instant::now();
    let right = scenario::write_and_read(&local.access().await?, KEYS).await?;
    let keys_s = began.elapsed().as_secs_f64();

    let nothing = async |()| Ok(());
    let terminate = async |master: &str| local.terminate(master).await;
    let kill = async |master: &str| local.kill(master).await;
    let freeze = async |master: &str| local.freeze(master).await.map(|()| master.to_owned());
    let thaw = async |master: String| local.thaw(&master).await;
    let series = [
        series(&local, "SIGTERM of a master (hand-over)", rounds, &terminate, &nothing).await?,
        series(&local, "`kill -9` of a master", rounds, &kill, &nothing).await?,
        series(&local, "SIGSTOP of a master", rounds.min(5), &freeze, &thaw).await?,
    ];
    Ok(page("`kv-operator local`", ready_s, &series)
        + &format!(
            "\n{right} of {KEYS} keys written and read back by the cluster client of redis-rs in {keys_s:.1} s.\n"
        ))
}

/// Measures a cluster on Kubernetes.
///
/// # Errors
/// If there is no Kubernetes, or the cluster does not recover.
pub async fn kind(rounds: usize) -> Result<String> {
    let began = Instant::now();
    let mut kind = Kind::new(NAME).await?;
    kind.apply(&manifest(NAME, SIZE.shards, SIZE.nodes - 1, &json!({}))).await?;
    scenario::settled(&kind, SIZE).await?;
    let ready_s = began.elapsed().as_secs_f64();

    let nothing = async |()| Ok(());
    let delete = async |master: &str| kind.delete_pod(master, None).await;
    let force = async |master: &str| kind.delete_pod(master, Some(0)).await;
    let kill = async |master: &str| kind.kill(master).await;
    let freeze = async |master: &str| kind.freeze(master).await.map(|()| master.to_owned());
    let thaw = async |master: String| kind.thaw(&master).await;
    let cut = async |master: &str| CutOff::begin(&kind.worker_of(master).await?).await;
    let heal = async |cut: CutOff| cut.heal().await;
    let mut all = vec![
        series(&kind, "`kubectl delete pod` of a master", rounds, &delete, &nothing).await?,
        series(&kind, "`kubectl delete pod --force --grace-period=0`", rounds, &force, &nothing).await?,
        series(&kind, "`kill -9` in the container", rounds, &kill, &nothing).await?,
        series(&kind, "SIGSTOP of a master", rounds.min(3), &freeze, &thaw).await?,
    ];
    let mut ledger = kind.ledger().await?;
    let mut losses = Vec::new();
    for _ in 0..rounds.min(3) {
        let shard = shard_elsewhere(&kind).await?;
        losses.push(scenario::lose_master(&kind, &mut ledger, SIZE, shard, &cut, &heal).await?);
    }
    all.push(Series { fault: "worker cut off", losses, report: ledger.finish(SETTLE_WITHIN).await? });
    Ok(page("Kubernetes (kind, 3 workers)", ready_s, &all))
}

/// A shard whose master is not on the Kubernetes node of the active operator, which is also that of the writers, and not
/// on the same one as all other masters: a cluster client (the `redis` crate) that loses all masters at once by a cut does
/// not find the new ones for minutes. Where there is no such shard, a master is made to leave.
///
/// # Errors
/// If none leaves.
pub async fn shard_elsewhere(kind: &Kind) -> Result<usize> {
    let (_, of_operator) = kind.active_operator().await?;
    for moved in 0..=SIZE.shards {
        let view = scenario::settled(kind, SIZE).await?;
        let mut workers = Vec::new();
        for shard in 0..SIZE.shards {
            workers.push(kind.worker_of(view.master(shard).unwrap_or_default()).await?);
        }
        let fit = |worker: &String| *worker != of_operator && workers.iter().any(|other| other != worker);
        if let Some(shard) = workers.iter().position(fit) {
            return Ok(shard);
        }
        let shard = moved % SIZE.shards;
        let (old, epoch) = (view.master(shard).unwrap_or_default(), view.epoch(shard));
        kind.delete_pod(old, None).await?;
        kind.wait("a new epoch of the shard", SETTLE_WITHIN, |view| view.epoch(shard) > epoch).await?;
    }
    Err(Error::Unexpected("all masters stay on one node, or on that of the operator".into()))
}

/// Loses masters in turn, all in the same way, under one ledger.
async fn series<C: Cluster, H>(
    cluster: &C,
    fault: &'static str,
    rounds: usize,
    inflict: &impl AsyncFn(&str) -> Result<H>,
    mend: &impl AsyncFn(H) -> Result<()>,
) -> Result<Series> {
    let mut ledger: Ledger = cluster.ledger().await?;
    let mut losses = Vec::new();
    for round in 0..rounds {
        let loss =
            scenario::lose_master(cluster, &mut ledger, SIZE, round % SIZE.shards, inflict, mend).await?;
        eprintln!("{fault}: {} -> {}: {:.0} ms", loss.old, loss.new, loss.refused_ms);
        losses.push(loss);
    }
    let report = ledger.finish(SETTLE_WITHIN).await?;
    eprintln!("{fault}: {report}");
    Ok(Series { fault, losses, report })
}

fn page(place: &str, ready_s: f64, series: &[Series]) -> String {
    let mut text = format!("### {place}\n\n{}\n\n", machine());
    let _infallible = writeln!(
        text,
        "{} shards, {} replica each; a write every 2 ms to each shard. From apply to ready: {ready_s:.1} s.\n",
        SIZE.shards,
        SIZE.nodes - 1
    );
    text += "| Fault | Runs | Writes refused, median | worst | As specified again, median | Acknowledged | Lost |\n";
    text += "|---|---|---|---|---|---|---|\n";
    for one in series {
        text += &one.row();
        text.push('\n');
    }
    text
}

/// The machine, in one line.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or_else(String::new, |(_, value)| value.trim().to_owned())
    };
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let memory_kb: u64 =
        field(&read("/proc/meminfo"), "MemTotal").trim_end_matches(" kB").parse().unwrap_or_default();
    format!(
        "Measured on {processors} cores of {}, {} GB of memory, Linux {}.",
        field(&read("/proc/cpuinfo"), "model name"),
        memory_kb / 1024 / 1024,
        read("/proc/sys/kernel/osrelease").trim()
    )
}
