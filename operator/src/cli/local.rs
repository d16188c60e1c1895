//! `kv-operator local`: a cluster as processes of this machine.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use super::Failure;
use super::receipts::Form;
use super::switchover::Switchover;
use crate::provider::local::admit;
use crate::provider::local::layout::{Layout, LayoutError};

mod detach;
mod down;
mod follow;
mod output;
mod show;
mod status;
mod switchover;
mod up;

pub(super) use show::columns;

/// Run a cluster as processes of this machine, without Kubernetes.
#[derive(Debug, Parser)]
pub struct Args {
    /// Folder that holds everything of the cluster: what was applied, passwords, data, logs.
    #[arg(long, global = true, default_value = ".kvcluster")]
    dir: PathBuf,
    /// What to do.
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the cluster and look after it until SIGTERM or Ctrl-C, which stop it.
    ///
    /// If `up` is killed, its nodes go on, and the next `up` takes them over. A node that dies is started again after
    /// 1 s, and after up to 10 s if it keeps dying.
    Up(UpArgs),
    /// Change the cluster: `up` carries it out, now if it runs, else when it is started.
    Apply {
        /// The KvCluster, in YAML or JSON; - for standard input.
        #[arg(short, long)]
        file: PathBuf,
    },
    /// Show the cluster and its nodes.
    Status {
        /// Form of the output.
        #[arg(short, long, value_enum, default_value = "table")]
        output: Format,
    },
    /// Have another node lead a shard: writes wait until it has all of the data, and go on there. None is lost or refused.
    Switchover(Switchover),
    /// Show receipts of the last changes of master: why, when each step was, who could have led, and what was lost.
    Receipts {
        /// Form of the output.
        #[arg(short, long, value_enum, default_value = "text")]
        output: Form,
    },
    /// Stop the cluster, whether `up` runs or not.
    Down {
        /// Remove the folder with all data, too.
        #[arg(long)]
        purge: bool,
    },
}

#[derive(Debug, Parser)]
struct UpArgs {
    /// The KvCluster, in YAML or JSON; - for standard input. Without it the one that was applied last.
    #[arg(short, long)]
    file: Option<PathBuf>,
    /// Port of the first node; the next node has the next port. For peers each node announces the port 10000 above
    /// its own; it serves health and metrics 1500 above, and speaks the Sentinel protocol 3000 above. Default: 7000,
    /// or what the folder was started with before.
    #[arg(long)]
    base_port: Option<u16>,
    /// URL to which each warning and each change of master is posted as JSON.
    #[arg(long, env = "KV_NOTIFY_URL", hide_env_values = true)]
    notify_url: Option<String>,
    /// Go on in the background; return when the cluster is ready, or after 60 s.
    #[arg(long)]
    detach: bool,
    /// The node program. Default: kv-node in the folder of this program.
    #[arg(long, env = "KV_NODE")]
    node_binary: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Runs the subcommand.
///
/// # Errors
/// What failed, in words for the user.
pub async fn run(args: Args) -> Result<ExitCode, Failure> {
    let layout = Layout::new(&args.dir);
    match args.command {
        Command::Up(up) if up.detach => detach::detach(&layout, &up).await,
        Command::Up(up) => up::up(layout, &up).await,
        Command::Apply { file } => apply(&layout, &file),
        Command::Status { output } => status::status(&layout, output).await,
        Command::Switchover(change) => switchover::switchover(&layout, &change).await,
        Command::Receipts { output } => receipts(&layout, output),
        Command::Down { purge } => down::down(&layout, purge).await,
    }
}

fn receipts(layout: &Layout, form: Form) -> Result<ExitCode, Failure> {
    if admit::load(layout)?.is_none() {
        return Err(LayoutError::NoCluster(layout.dir().to_owned()).into());
    }
    super::receipts::print(&layout.load_failovers()?, form)
}

fn apply(layout: &Layout, file: &std::path::Path) -> Result<ExitCode, Failure> {
    let before = admit::load(layout)?.and_then(|(cluster, _)| cluster.metadata.generation);
    let (cluster, _) = admit_file(layout, file)?;
    let name = cluster.metadata.name.unwrap_or_default();
    let how = match before {
        None => "created",
        generation if generation == cluster.metadata.generation => "unchanged",
        Some(_) => "configured",
    };
    super::print(&format!("kvcluster.kvcluster.io/{name} {how}"))?;
    if layout.lock_holder().is_none() {
        super::note(&format!(
            "note: no `kv-operator local up` runs on {}; start it to carry this out",
            layout.dir().display()
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn admit_file(
    layout: &Layout,
    file: &std::path::Path,
) -> Result<(crate::crd::KvCluster, kv_core::spec::ClusterSpec), Failure> {
    let place = if file.as_os_str() == "-" { "standard input".into() } else { file.display().to_string() };
    let text = if file.as_os_str() == "-" {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(file)
    };
    let text = text.map_err(|error| format!("cannot read {place}: {error}"))?;
    Ok(admit::admit(layout, &text, &place)?)
}
