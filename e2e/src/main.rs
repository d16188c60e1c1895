//! `kv-e2e`: the ledger as a program of its own (it runs as a pod), and the measurements of docs/performance.md.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use kv_e2e::ledger::route::Access;
use kv_e2e::ledger::{Options, wire};
use kv_e2e::peer::{self, Scale};
use kv_e2e::{fanout, measure, sentinel};

/// Drives real clusters under test.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write unique values and keep account of them; requests on standard input, replies on standard output.
    Ledger {
        /// An address of the cluster, HOST:PORT; can be given several times.
        #[arg(long, required = true)]
        seed: Vec<String>,
        /// File that holds the password of the default user.
        #[arg(long)]
        password_file: Option<PathBuf>,
        /// Microseconds between the beginnings of two writes of a writer.
        #[arg(long, default_value_t = 2000)]
        pace_us: u64,
        /// Writers for each shard.
        #[arg(long, default_value_t = 1)]
        lanes: usize,
        /// Writers over all slots through the cluster client.
        #[arg(long, default_value_t = 1)]
        cluster_lanes: usize,
    },
    /// Send one command to one node and print the reply.
    Ask {
        /// HOST:PORT
        #[arg(long)]
        address: String,
        /// File that holds the password of the default user.
        #[arg(long)]
        password_file: Option<PathBuf>,
        /// The command and its arguments.
        #[arg(required = true, last = true)]
        command: Vec<String>,
    },
    /// Measure, and print the figures as Markdown.
    #[command(subcommand)]
    Bench(Bench),
    /// Do nothing until told to stop; a pod's main process, beside which ledgers are started.
    Idle,
}

#[derive(Subcommand)]
enum Bench {
    /// Faults of a cluster of processes of this machine.
    Local {
        /// Runs of each fault.
        #[arg(long, default_value_t = 10)]
        rounds: usize,
    },
    /// Faults of a cluster on the Kubernetes of the current kubeconfig, made by e2e/kind/cluster.
    Kind {
        /// Runs of each fault.
        #[arg(long, default_value_t = 10)]
        rounds: usize,
    },
    /// Failover of a local cluster beside that of Valkey with three sentinels (KV_PEER: the path of its server).
    Sentinel {
        /// Runs of each fault.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
    },
    /// What replicas cost their master, as a Star and as a Tree.
    Fanout {
        /// Runs of each.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Seconds that are measured in each.
        #[arg(long, default_value_t = 5)]
        seconds: u64,
    },
    /// One node beside Valkey (KV_PEER: the path of its server).
    Peer {
        /// Only rows whose name contains this, in any case.
        #[arg(long, value_name = "PATTERN", default_value = "", hide_default_value = true)]
        rows: String,
        /// Pairs of runs of each row, half as many of the long ones [default: 5, quick 2]
        #[arg(long)]
        rounds: Option<usize>,
        /// Do less, in three minutes.
        #[arg(long)]
        quick: bool,
        /// A document whose marked section is replaced by the whole table.
        #[arg(long, conflicts_with = "rows")]
        write: Option<PathBuf>,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Ledger { seed, password_file, pace_us, lanes, cluster_lanes } => {
            let access = password(password_file).map(|password| Access { seeds: seed, password });
            match access {
                Ok(access) => {
                    let options = Options {
                        pace: Duration::from_micros(pace_us),
                        lanes_per_shard: lanes,
                        cluster_lanes,
                        ..Options::new(access)
                    };
                    wire::serve(options, tokio::io::stdin(), tokio::io::stdout())
                        .await
                        .map_err(|e| e.to_string())
                }
                Err(error) => Err(error),
            }
        }
        Command::Ask { address, password_file, command } => ask(&address, password_file, &command).await,
        Command::Bench(what) => bench(what).await,
        Command::Idle => idle().await.map_err(|error| error.to_string()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kv-e2e: {error}");
            ExitCode::FAILURE
        }
    }
}

fn password(file: Option<PathBuf>) -> Result<Option<String>, String> {
    file.map(|file| match std::fs::read_to_string(&file) {
        Ok(text) => Ok(text.trim_end_matches('\n').to_owned()),
        Err(error) => Err(format!("cannot read the password file {}: {error}", file.display())),
    })
    .transpose()
}

async fn bench(what: Bench) -> Result<(), String> {
    let page = match what {
        Bench::Local { rounds } => measure::local(rounds).await,
        Bench::Kind { rounds } => measure::kind(rounds).await,
        Bench::Sentinel { rounds } => match peer::program() {
            Ok(peer) => sentinel::compare(&peer, rounds).await,
            Err(error) => Err(error),
        },
        Bench::Fanout { rounds, seconds } => {
            let blocking = tokio::task::spawn_blocking(move || fanout::measure(rounds, seconds));
            blocking.await.map_err(|error| error.to_string())?
        }
        Bench::Peer { rows, rounds, quick, write } => {
            let (scale, usual) = if quick { (Scale::QUICK, 2) } else { (Scale::FULL, 5) };
            let rounds = rounds.unwrap_or(usual);
            let blocking =
                tokio::task::spawn_blocking(move || compare(&rows, rounds, scale, write.as_deref()));
            return blocking.await.map_err(|error| error.to_string())?;
        }
    };
    println!("{}", page.map_err(|error| error.to_string())?);
    Ok(())
}

/// Prints the section of the document as it writes it.
fn compare(rows: &str, rounds: usize, scale: Scale, document: Option<&Path>) -> Result<(), String> {
    let bench = peer::Bench::find(scale).map_err(|error| error.to_string())?;
    let measured = bench.run(rows, rounds).map_err(|error| error.to_string())?;
    let section = bench.section(&measured);
    println!("{section}");
    let Some(path) = document else { return Ok(()) };
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
    let text = peer::table::replace(&text, &section).map_err(|error| failed(&error))?;
    std::fs::write(path, text).map_err(|error| failed(&error))
}

async fn ask(address: &str, password_file: Option<PathBuf>, command: &[String]) -> Result<(), String> {
    let access = Access { seeds: Vec::new(), password: password(password_file)? };
    let mut connection = access
        .connect(address, Duration::from_secs(5))
        .await
        .map_err(|error| format!("{address}: {error}"))?;
    let mut request = redis::Cmd::new();
    for argument in command {
        request.arg(argument);
    }
    let reply: redis::Value =
        request.query_async(&mut connection).await.map_err(|error| error.to_string())?;
    match redis::from_redis_value_ref::<String>(&reply) {
        Ok(text) => println!("{text}"),
        Err(_) => println!("{reply:?}"),
    }
    Ok(())
}

async fn idle() -> std::io::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        result = tokio::signal::ctrl_c() => result,
    }
}
