//! `kv-operator local up`.

use std::process::ExitCode;
use std::sync::Arc;

use kv_core::id::ClusterUid;
use kv_core::spec::ClusterSpec;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{Notify, watch};

use super::follow::{Follower, launch, retains, wanted};
use super::output::{LocalPublisher, Screen, all_processes};
use super::{Failure, UpArgs, admit_file};
use crate::crd::{KvCluster, KvClusterStatus};
use crate::engine::{Engine, Event, Hook, Identity, Publisher};
use crate::provider::local::launch::find_program;
use crate::provider::local::layout::{Layout, LayoutError, Settings};
use crate::provider::local::ports::{DEFAULT_BASE, Ports};
use crate::provider::local::{Incident, LocalProvider, admit, check_original, control_password, node_name};

/// Runs a cluster until SIGTERM or Ctrl-C.
///
/// # Errors
/// If the cluster cannot be started.
pub async fn up(layout: Layout, args: &UpArgs) -> Result<ExitCode, Failure> {
    init_log();
    let mut stop = Stop::new()?;
    let _lock = layout.lock()?;
    let program = find_program(args.node_binary.as_deref())?;
    let (cluster, spec) = match &args.file {
        Some(file) => admit_file(&layout, file)?,
        None => admit::load(&layout)?.ok_or_else(|| LayoutError::NoCluster(layout.dir().to_owned()))?,
    };
    check_original(&layout, cluster.metadata.uid.as_deref().unwrap_or_default())?;
    let settings = settings(&layout, args, &cluster)?;
    let launch = launch(&layout, &cluster, &spec, program)?;
    let before = before(&layout);
    layout.forget_status();

    let screen = Arc::new(Screen::new());
    let (incidents, incident_rx) = unbounded_channel();
    let identity = Identity {
        uid: ClusterUid(launch.uid.clone()),
        name: cluster.metadata.name.clone().unwrap_or_default(),
        control_password: control_password(&layout, &launch.uid)?,
    };
    let wake = Arc::new(Notify::new());
    let provider = LocalProvider::open(
        identity.name.clone(),
        layout.clone(),
        settings.clone(),
        launch,
        retains(&cluster),
        Arc::clone(&wake),
        incidents,
    )?;
    let hook = args.notify_url.as_deref().filter(|url| !url.is_empty()).map(Hook::start).transpose()?;
    let running = Running { layout, settings, screen, provider: Arc::new(provider), wake, hook };
    tokio::select! {
        () = running.work(cluster, &spec, identity, &before, incident_rx) => {}
        () = stop.asked() => {}
    }
    running.stop().await;
    Ok(ExitCode::SUCCESS)
}

/// What an `up` before this one left: the status only if that was killed, and the nodes went on.
fn before(layout: &Layout) -> KvClusterStatus {
    let status = layout.load_status().ok().flatten().map(|file| file.status);
    // Receipts that cannot be read are not worth a cluster that does not start.
    let failovers = layout.load_failovers().unwrap_or_default();
    KvClusterStatus { failovers, ..status.unwrap_or_default() }
}

/// With `RUST_LOG` the engine says what it does.
fn init_log() {
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
}

/// A cluster that is looked after.
struct Running {
    layout: Layout,
    settings: Settings,
    screen: Arc<Screen>,
    provider: Arc<LocalProvider>,
    wake: Arc<Notify>,
    hook: Option<Hook>,
}

impl Running {
    /// Looks after the cluster, for ever.
    async fn work(
        &self,
        cluster: KvCluster,
        spec: &ClusterSpec,
        identity: Identity,
        before: &KvClusterStatus,
        mut incidents: UnboundedReceiver<Incident>,
    ) {
        let wanted = watch::Sender::new(wanted(&cluster, spec));
        let applied = watch::Sender::new(cluster);
        let publisher = || {
            let (applied, hook) = (applied.subscribe(), self.hook.clone());
            LocalPublisher::new(&self.layout, &self.settings, applied, &self.screen, hook)
        };
        let (provider, wake) = (Arc::clone(&self.provider), Arc::clone(&self.wake));
        let engine = Engine::new(identity, provider, publisher(), wake, Some(before));
        let teller = publisher();
        let follower = Follower {
            layout: &self.layout,
            applied: &applied,
            wanted: &wanted,
            provider: &self.provider,
            teller: &teller,
        };
        let telling = async {
            while let Some(incident) = incidents.recv().await {
                teller.event(event(incident)).await;
            }
        };
        tokio::join!(engine.run(wanted.subscribe()), follower.run(), telling);
    }

    /// Stops all nodes; nobody looks after them any more, so that none is missed.
    async fn stop(&self) {
        self.layout.forget_status();
        self.screen.table(Vec::new());
        self.screen.line("stopping all nodes");
        self.provider.stop().await;
        self.screen.line("stopped");
    }
}

/// The signals that stop the cluster.
struct Stop {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Stop {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The ports and workloads of the folder. The base port cannot change under nodes that run.
fn settings(layout: &Layout, args: &UpArgs, cluster: &KvCluster) -> Result<Settings, Failure> {
    let known = layout.load_settings()?;
    let base = args.base_port.or(known.as_ref().map(|known| known.base_port)).unwrap_or(DEFAULT_BASE);
    if let Some(known) = known.as_ref().filter(|known| known.base_port != base) {
        let running =
            all_processes(layout, cluster, known.base_port).into_iter().find(|row| row.pid.is_some());
        if let Some(row) = running {
            let text = format!(
                "node {} still runs on port {}: stop the cluster with `kv-operator local down` before changing its \
                 base port from {} to {base}",
                row.node, row.port, known.base_port
            );
            return Err(text.into());
        }
    }
    let settings =
        Settings { base_port: base, workloads: known.map(|known| known.workloads).unwrap_or_default() };
    if settings.workloads.is_empty() {
        try_ports(layout, cluster, base)?;
    }
    layout.save_settings(&settings)?;
    Ok(settings)
}

/// A new cluster's ports are tried before anything is started or remembered.
fn try_ports(layout: &Layout, cluster: &KvCluster, base: u16) -> Result<(), Failure> {
    let name = cluster.metadata.name.clone().unwrap_or_default();
    for shard in 0..cluster.spec.shards {
        for ordinal in 0..=cluster.spec.replicas_per_shard {
            let index = layout.claim_index(&node_name(&name, shard, ordinal))?;
            Ports::of(base, index)?.check_free()?;
        }
    }
    Ok(())
}

fn event(incident: Incident) -> Event {
    Event {
        shard: Some(incident.shard),
        warning: incident.warning,
        reason: incident.reason.into(),
        message: incident.message,
        receipt: None,
    }
}
