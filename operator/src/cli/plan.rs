//! `kv-operator plan`: what would be done for a KvCluster, without doing it. The same code as in `run` up to the writes.

use std::fmt::Write;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, ValueEnum};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource, ResourceExt};
use kv_core::id::ClusterUid;
use kv_core::plan::{Observed, Plan, Step, plan};
use kv_core::spec::ClusterSpec;
use serde::Serialize;
use tokio::task::JoinSet;

use super::Failure;
use crate::crd::{self, KvCluster};
use crate::engine::{Identity, look};
use crate::provider::kubernetes::apply::changes;
use crate::provider::kubernetes::build::Cluster;
use crate::provider::kubernetes::hidden::Hidden;
use crate::provider::kubernetes::stores::{Stores, Wakers};
use crate::provider::kubernetes::{explain, secrets, view};

/// Show what would be done.
#[derive(Debug, Parser)]
pub struct Args {
    /// The KvCluster, in YAML or JSON; - for standard input.
    #[arg(short, long)]
    file: PathBuf,
    /// Namespace, if the file names none.
    #[arg(short, long)]
    namespace: Option<String>,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
    /// Image of nodes if the KvCluster names none.
    #[arg(long, default_value = concat!("kvcluster/node:", env!("CARGO_PKG_VERSION")), env = "KV_NODE_IMAGE")]
    node_image: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// What would be done.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Preview {
    namespace: String,
    name: String,
    /// Whether the KvCluster exists.
    exists: bool,
    /// Writes of objects, in order.
    changes: Vec<String>,
    /// The next step of every shard.
    shards: Vec<ShardPreview>,
    /// Nodes that could not be asked; what would be done may then differ.
    silent: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ShardPreview {
    index: u16,
    step: &'static str,
    reason: Option<&'static str>,
    message: Option<String>,
}

/// Runs the subcommand.
///
/// # Errors
/// What failed, in words for the user.
pub async fn run(args: Args) -> Result<ExitCode, Failure> {
    let mut object = crd::read(&read_file(&args.file)?)?;
    let client =
        Client::try_default().await.map_err(|error| format!("no connection to Kubernetes: {error}"))?;
    let namespace = object
        .namespace()
        .or_else(|| args.namespace.clone())
        .unwrap_or_else(|| client.default_namespace().to_owned());
    object.metadata.namespace = Some(namespace.clone());
    let spec = object.to_core().map_err(|fields| crd::describe(&fields))?;
    let (exists, object) = dry_run(&client, &namespace, &object).await?;
    let preview = preview(&client, &object, exists, &spec, &args.node_image).await?;
    match args.output {
        Format::Text => super::print(text(&preview).trim_end())?,
        Format::Json => super::print(&serde_json::to_string_pretty(&preview)?)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn read_file(file: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let outcome = if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).map(drop)
    } else {
        std::fs::read_to_string(file).map(|read| text = read)
    };
    outcome.map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(text)
}

/// Lets the API server check the object, with all rules about what may change, and fill in the defaults.
async fn dry_run(client: &Client, namespace: &str, object: &KvCluster) -> Result<(bool, KvCluster), Failure> {
    let api: Api<KvCluster> = Api::namespaced(client.clone(), namespace);
    let name = object.name_any();
    let live = api.get_opt(&name).await.map_err(|error| explain(&error))?;
    let wanted = serde_json::json!({
        "apiVersion": KvCluster::api_version(&()),
        "kind": KvCluster::kind(&()),
        "metadata": { "name": name },
        "spec": object.spec,
    });
    let params = PatchParams::apply("kv-operator-plan").force().dry_run();
    let mut checked =
        api.patch(&name, &params, &Patch::Apply(wanted)).await.map_err(|error| explain(&error))?;
    // As `kubectl apply` would: what the file does not name goes.
    checked.spec = object.spec.clone();
    Ok((live.is_some(), checked))
}

async fn preview(
    client: &Client,
    object: &KvCluster,
    exists: bool,
    spec: &ClusterSpec,
    image: &str,
) -> Result<Preview, Failure> {
    let cluster = Cluster::of(object, image).ok_or("the API server returned a KvCluster without a UID")?;
    let mut watches = JoinSet::new();
    let stores = Stores::start(client, Some(&cluster.namespace), &Wakers::default(), &mut watches);
    stores.ready().await?;
    let hidden = Hidden::default().find(client, &cluster, &stores).await;
    let observed = observe(client, &cluster, &stores, &hidden).await?;
    let plan = plan(spec, &observed);
    let (changes, refused) = changes(&cluster, &plan.workloads, &stores, &hidden);
    if let Some(error) = refused.into_iter().next() {
        return Err(error.into());
    }
    let nodes = observed.shards.iter().flat_map(|shard| &shard.nodes);
    Ok(Preview {
        changes: changes.iter().map(ToString::to_string).collect(),
        shards: shards(&plan),
        silent: nodes.filter(|node| node.report.is_none()).map(|node| node.name.clone()).collect(),
        namespace: cluster.namespace,
        name: cluster.name,
        exists,
    })
}

async fn observe(
    client: &Client,
    cluster: &Cluster,
    stores: &Stores,
    hidden: &[Arc<Pod>],
) -> Result<Observed, Failure> {
    let sighting = view::sighting(stores, &cluster.namespace, &cluster.name, hidden);
    let identity = Identity {
        uid: ClusterUid(cluster.uid.clone()),
        name: cluster.name.clone(),
        control_password: secrets::control_password(client, cluster).await?.unwrap_or_default(),
    };
    Ok(look(&identity, &sighting).await)
}

fn shards(plan: &Plan) -> Vec<ShardPreview> {
    let preview = |index, step: &Step| {
        let (step, reason) = match step {
            Step::Nothing => ("Nothing", None),
            Step::Wait(reason) => ("Wait", Some(reason)),
            Step::Do(_, reason) => ("Do", Some(reason)),
        };
        ShardPreview {
            index,
            step,
            reason: reason.map(|r| r.code()),
            message: reason.map(ToString::to_string),
        }
    };
    plan.shards.iter().map(|shard| preview(shard.index, &shard.step)).collect()
}

fn text(preview: &Preview) -> String {
    let mut text = String::new();
    let known = if preview.exists { "exists" } else { "is new" };
    // Writing to a String cannot fail.
    let _ = writeln!(text, "KvCluster {}/{} {known}", preview.namespace, preview.name);
    for change in &preview.changes {
        let _ = writeln!(text, "  {change}");
    }
    if preview.changes.is_empty() {
        let _ = writeln!(text, "  no object would change");
    }
    for shard in &preview.shards {
        let what = match (shard.step, &shard.message) {
            ("Do", Some(message)) => format!("next step: {message}"),
            (_, Some(message)) => message.clone(),
            _ => "as specified".into(),
        };
        let _ = writeln!(text, "  shard {}: {what}", shard.index);
    }
    if !preview.silent.is_empty() {
        let _ = writeln!(
            text,
            "  not asked: {} (run this where pods can be reached, as in the operator's pod)",
            preview.silent.join(", ")
        );
    }
    text
}
