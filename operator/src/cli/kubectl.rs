//! `kubectl kv`: what one does with KvClusters beyond `kubectl get` and `apply`. kubectl finds the program `kubectl-kv` on PATH.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::json;

use super::Failure;
use super::receipts::{self, Form};
use super::switchover::{Place, Switchover};
use crate::crd::{KvCluster, KvClusterStatus};
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
    /// Show receipts of the last changes of master: why, when each step was, who could have led, and what was lost.
    Receipts {
        /// Name of the KvCluster.
        name: String,
        /// Form of the output.
        #[arg(short, long, value_enum, default_value = "text")]
        output: Form,
    },
}

/// Runs the subcommand.
///
/// # Errors
/// What failed, in words for the user.
pub async fn run(args: Kubectl) -> Result<ExitCode, Failure> {
    let client = connect(args.context).await?;
    let namespace = args.namespace.unwrap_or_else(|| client.default_namespace().to_owned());
    let of = |name| Named { api: Api::namespaced(client, &namespace), name };
    match args.command {
        Command::Switchover { name, change } => change.run(&of(name)).await,
        Command::Receipts { name, output } => {
            let (_, status) = of(name).look().await?;
            receipts::print(&status.failovers, output)
        }
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

/// A KvCluster of the API server.
struct Named {
    api: Api<KvCluster>,
    name: String,
}

impl Place for Named {
    async fn look(&self) -> Result<(ObjectMeta, KvClusterStatus), Failure> {
        let object = self.api.get(&self.name).await?;
        Ok((object.metadata, object.status.unwrap_or_default()))
    }

    async fn wish(&self, shard: u16, node: Option<&str>) -> Result<(), Failure> {
        let patch = json!({ "metadata": { "annotations": { wish::annotation(shard): node } } });
        self.api.patch_metadata(&self.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }
}
