//! `kv-operator run`.

use std::future::Future;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::ListParams;
use kube::{Api, Client};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tracing_subscriber::EnvFilter;

use super::Failure;
use crate::crd::KvCluster;
use crate::engine::Hook;
use crate::provider::kubernetes::controller::Operator;
use crate::provider::kubernetes::health::{self, Metrics};
use crate::provider::kubernetes::lease::Elector;
use crate::provider::kubernetes::stores::{Stores, Wakers};

/// Run the operator.
#[derive(Debug, Parser)]
pub struct Args {
    /// Namespace whose KvClusters are taken care of; `all` for every one.
    #[arg(long, default_value = "all", env = "KV_NAMESPACE")]
    namespace: String,
    /// Image of nodes whose KvCluster names none.
    #[arg(long, default_value = concat!("kvcluster/node:", env!("CARGO_PKG_VERSION")), env = "KV_NODE_IMAGE")]
    node_image: String,
    /// Act only while holding the lease, so that several operators can run.
    #[arg(long)]
    leader_election: bool,
    /// Name of the lease.
    #[arg(long, default_value = "kv-operator")]
    lease_name: String,
    /// Namespace of the lease; default: that of this pod, or `default`.
    #[arg(long, env = "POD_NAMESPACE")]
    lease_namespace: Option<String>,
    /// The name of this operator; default: that of its pod or machine.
    #[arg(long, env = "POD_NAME")]
    identity: Option<String>,
    /// Address of /healthz, /readyz and /metrics.
    #[arg(long, default_value = "0.0.0.0:8080")]
    health_address: SocketAddr,
    /// URL to which each warning and each change of master is posted as JSON.
    #[arg(long, env = "KV_NOTIFY_URL", hide_env_values = true)]
    notify_url: Option<String>,
}

/// Runs the subcommand.
///
/// # Errors
/// What failed, in words for the user.
pub async fn run(args: Args) -> Result<ExitCode, Failure> {
    init_log();
    let stop = stopped()?;
    let metrics = Arc::new(Metrics::default());
    health::serve(args.health_address, Arc::clone(&metrics))
        .await
        .map_err(|error| format!("cannot listen on {}: {error}", args.health_address))?;
    let client =
        Client::try_default().await.map_err(|error| format!("no connection to Kubernetes: {error}"))?;
    check_definition(&client, &args).await?;
    let hook = args.notify_url.as_deref().filter(|url| !url.is_empty()).map(Hook::start).transpose()?;
    tracing::info!(version = kv_core::VERSION, namespace = %args.namespace, "kv-operator starts");
    if args.leader_election {
        run_elected(client, &args, metrics, hook, stop).await
    } else {
        act(client, &args, metrics, hook, stop).await;
        Ok(ExitCode::SUCCESS)
    }
}

/// JSON for machines, lines for people. `RUST_LOG` says how much.
fn init_log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        log.init();
    } else {
        log.json().flatten_event(true).init();
    }
}

/// Done when SIGTERM or SIGINT arrives.
fn stopped() -> Result<oneshot::Receiver<()>, Failure> {
    let (tell, told) = oneshot::channel();
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        // Nobody is left to be told if the operator ended by itself.
        let _ = tell.send(());
    });
    Ok(told)
}

/// The resource must be there before it can be watched.
async fn check_definition(client: &Client, args: &Args) -> Result<(), Failure> {
    let params = ListParams::default().limit(1);
    let found = match namespace(args) {
        Some(namespace) => Api::<KvCluster>::namespaced(client.clone(), namespace).list(&params).await,
        None => Api::<KvCluster>::all(client.clone()).list(&params).await,
    };
    found.map(drop).map_err(|error| match error {
        kube::Error::Api(status) if status.code == 404 => {
            "the KvCluster resource is not installed; install it with: kv-operator crd | kubectl apply --server-side -f -"
                .into()
        }
        error => format!("KvClusters cannot be listed: {error}").into(),
    })
}

fn namespace(args: &Args) -> Option<&str> {
    Some(args.namespace.as_str()).filter(|namespace| *namespace != "all")
}

fn identity(args: &Args) -> String {
    let machine =
        || std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|name| name.trim().to_owned());
    let name = args.identity.clone().or_else(machine).unwrap_or_else(|| "kv-operator".into());
    // Two processes of one machine are two operators.
    format!("{name}-{}", std::process::id())
}

async fn run_elected(
    client: Client,
    args: &Args,
    metrics: Arc<Metrics>,
    hook: Option<Hook>,
    mut stop: oneshot::Receiver<()>,
) -> Result<ExitCode, Failure> {
    let namespace = args.lease_namespace.clone().unwrap_or_else(|| "default".into());
    let api: Api<Lease> = Api::namespaced(client.clone(), &namespace);
    let mut elector = Elector::new(api, args.lease_name.clone(), identity(args));
    tokio::select! {
        () = elector.acquire() => {}
        _ = &mut stop => return Ok(ExitCode::SUCCESS),
    }
    tracing::info!(lease = %args.lease_name, "holds the lease and acts");
    let lost = tokio::select! {
        () = act(client, args, metrics, hook, stop) => None,
        lost = elector.hold() => Some(lost),
    };
    match lost {
        // Whatever is under way ends with the process.
        Some(lost) => Err(Box::new(lost)),
        None => {
            elector.release().await;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Takes care of KvClusters until `stop`.
async fn act(
    client: Client,
    args: &Args,
    metrics: Arc<Metrics>,
    hook: Option<Hook>,
    stop: impl Future + Send + Sync + 'static,
) {
    metrics.lead();
    let wakers = Wakers::default();
    let mut watches = JoinSet::new();
    let stores = Stores::start(&client, namespace(args), &wakers, &mut watches);
    let stop = async move {
        stop.await;
    };
    let mut stop = Box::pin(stop);
    tokio::select! {
        ready = stores.ready() => if let Err(error) = ready {
            tracing::error!(%error, "a watch has ended");
            return;
        },
        () = &mut stop => return,
    }
    let operator =
        Operator::new(client, stores, wakers, metrics, args.node_image.clone(), identity(args), hook);
    operator.run(namespace(args), stop).await;
}
