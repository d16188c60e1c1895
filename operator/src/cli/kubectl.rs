//! `kubectl kv`: what one does with KvClusters beyond `kubectl get` and `apply`. kubectl finds the program `kubectl-kv` on PATH.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use kube::api::{Api, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::Failure;
use crate::crd::KvCluster;
use crate::wish;

/// Works with KvClusters, as `kubectl kv`.
#[derive(Debug, Parser)]
#[command(name = "kubectl-kv", bin_name = "kubectl kv", version)]
pub struct Kubectl {
    /// Namespace of the KvCluster. Default: that of the context.
    #[arg(short, long, global = true)]
    namespace: Option<String>,
    /// Context of the kubeconfig. Default: the current one.
    #[arg(long, global = true)]
    context: Option<String>,
    /// What to do.
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Have another node lead a shard: writes wait until it has all of the data, and go on there. None is lost or refused.
    Switchover {
        /// Name of the KvCluster.
        name: String,
        #[command(flatten)]
        change: Switchover,
    },
}

/// A change of master that a user wants.
#[derive(Debug, Parser)]
#[group(skip)] // clap would name the group as the subcommand that these are part of.
pub struct Switchover {
    /// Index of the shard.
    #[arg(long)]
    pub shard: u16,
    /// Name of the node that is to lead. Default: the ready replica that is behind the least.
    #[arg(long)]
    pub to: Option<String>,
    /// Seconds to wait for it. Then the wish is taken back.
    #[arg(long, default_value_t = 30)]
    pub timeout: u64,
}

impl Switchover {
    /// Until when it is waited for.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        Instant::now() + Duration::from_secs(self.timeout.min(24 * 3600))
    }

    /// Why it was not done in time.
    #[must_use]
    pub fn late(&self, node: &str, why: &str) -> Failure {
        format!(
            "{node} does not lead shard {} after {} s: {why}; it is not asked any more",
            self.shard, self.timeout
        )
        .into()
    }
}

/// How often to look whether it is done.
pub const PERIOD: Duration = Duration::from_millis(100);

/// Runs the subcommand.
///
/// # Errors
/// What failed, in words for the user.
pub async fn run(args: Kubectl) -> Result<ExitCode, Failure> {
    let client = connect(args.context).await?;
    let namespace = args.namespace.unwrap_or_else(|| client.default_namespace().to_owned());
    let api = Api::namespaced(client, &namespace);
    match args.command {
        Command::Switchover { name, change } => switchover(&api, &name, &change).await,
    }
}

async fn connect(context: Option<String>) -> Result<Client, Failure> {
    let failed = |error: &dyn std::fmt::Display| format!("no connection to Kubernetes: {error}");
    let config = match context {
        None => Config::infer().await.map_err(|error| failed(&error))?,
        Some(context) => {
            let options = KubeConfigOptions { context: Some(context), ..KubeConfigOptions::default() };
            let file = Kubeconfig::read().map_err(|error| failed(&error))?;
            Config::from_custom_kubeconfig(file, &options).await.map_err(|error| failed(&error))?
        }
    };
    Ok(Client::try_from(config).map_err(|error| failed(&error))?)
}

async fn switchover(api: &Api<KvCluster>, name: &str, change: &Switchover) -> Result<ExitCode, Failure> {
    let shard = change.shard;
    let status = api.get(name).await?.status.unwrap_or_default();
    let node = wish::successor(&status, shard, change.to.as_deref())?;
    wish_for(api, name, shard, Some(&node)).await?;
    let deadline = change.deadline();
    loop {
        let object = api.get(name).await?;
        let status = object.status.clone().unwrap_or_default();
        let stands = wish::wishes(&object.metadata).get(&shard) == Some(&node);
        if !stands && wish::leads(&status, shard, &node) {
            println!("shard {shard}: {node} leads");
            return Ok(ExitCode::SUCCESS);
        }
        if Instant::now() > deadline {
            wish_for(api, name, shard, None).await?;
            return Err(change.late(&node, &why(&status)));
        }
        sleep(PERIOD).await;
    }
}

/// What a status says of a change that is not done yet.
#[must_use]
pub fn why(status: &crate::crd::KvClusterStatus) -> String {
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
    ready.map_or_else(|| "there is no status".to_owned(), |ready| ready.message.clone())
}

async fn wish_for(
    api: &Api<KvCluster>,
    name: &str,
    shard: u16,
    node: Option<&str>,
) -> Result<(), kube::Error> {
    let patch = json!({ "metadata": { "annotations": { wish::annotation(shard): node } } });
    api.patch_metadata(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
}
