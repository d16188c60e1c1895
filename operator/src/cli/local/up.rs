//! `kv-operator local up`.

use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kv_core::id::ClusterUid;
use kv_core::spec::ClusterSpec;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, interval, sleep};

use super::output::{LocalPublisher, Screen, all_processes, how_to_connect};
use super::{Failure, UpArgs, admit_file};
use crate::crd::{KvCluster, KvClusterStatus, Retention, State};
use crate::engine::{Engine, Event, Identity, Publisher, Wanted};
use crate::provider::local::layout::{Layout, Settings};
use crate::provider::local::launch::{Launch, find_program};
use crate::provider::local::ports::{DEFAULT_BASE, Ports};
use crate::provider::local::{Incident, LocalProvider, admit};

/// How often the applied KvCluster is looked at.
const WATCH: Duration = Duration::from_millis(200);

/// How long `--detach` waits for the cluster to become ready.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Runs a cluster until SIGTERM or Ctrl-C.
///
/// # Errors
/// If the cluster cannot be started.
pub async fn up(layout: Layout, args: &UpArgs) -> Result<ExitCode, Failure> {
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
    let mut stop = Stop::new()?;
    let _lock = layout.lock()?;
    let program = find_program(args.node_binary.as_deref())?;
    let (cluster, spec) = match &args.file {
        Some(file) => admit_file(&layout, file)?,
        None => admit::load(&layout)?.ok_or_else(|| no_cluster(&layout))?,
    };
    let settings = settings(&layout, args, &cluster)?;
    let launch = launch(&layout, &cluster, &spec, program)?;
    let identity = Identity {
        uid: ClusterUid(launch.uid.clone()),
        name: cluster.metadata.name.clone().unwrap_or_default(),
        control_password: layout.make_control_password()?,
    };
    layout.forget_status();

    let screen = Arc::new(Screen::new());
    let wake = Arc::new(Notify::new());
    let (incidents, mut incident_rx) = mpsc::unbounded_channel();
    let wanted = watch::Sender::new(wanted(&cluster, &spec));
    let provider = Arc::new(LocalProvider::open(
        identity.name.clone(),
        layout.clone(),
        settings.clone(),
        launch,
        retains(&cluster),
        Arc::clone(&wake),
        incidents,
    )?);
    let applied = watch::Sender::new(cluster);
    let publisher = |said_ready: bool| LocalPublisher {
        layout: layout.clone(),
        base_port: settings.base_port,
        cluster: applied.subscribe(),
        screen: Arc::clone(&screen),
        said_ready: said_ready.into(),
    };
    let teller = publisher(true);
    let engine = Engine::new(identity, Arc::clone(&provider), publisher(false), wake);
    let converging = engine.run(wanted.subscribe());
    let watching = follow_file(&layout, &applied, &wanted, &provider, &teller);
    let telling = async {
        while let Some(incident) = incident_rx.recv().await {
            teller.event(event(incident)).await;
        }
    };
    tokio::select! {
        () = converging => {}
        () = watching => {}
        () = telling => {}
        () = stop.asked() => {}
    }
    layout.forget_status();
    screen.line("stopping all nodes");
    provider.stop().await;
    screen.line("stopped");
    Ok(ExitCode::SUCCESS)
}

fn no_cluster(layout: &Layout) -> Failure {
    crate::provider::local::layout::LayoutError::NoCluster(layout.dir().to_owned()).into()
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
        let running = all_processes(layout, cluster, known.base_port).into_iter().find(|row| row.pid.is_some());
        if let Some(row) = running {
            let text = format!(
                "node {} still runs on port {}: stop the cluster with `kv-operator local down` before changing its \
                 base port from {} to {base}",
                row.node, row.port, known.base_port
            );
            return Err(text.into());
        }
    }
    let settings = Settings { base_port: base, workloads: known.map(|known| known.workloads).unwrap_or_default() };
    // A new cluster's ports are tried before anything is started or remembered.
    let mut last = 0;
    if settings.workloads.is_empty() {
        let name = cluster.metadata.name.clone().unwrap_or_default();
        for shard in 0..cluster.spec.shards {
            for ordinal in 0..=cluster.spec.replicas_per_shard {
                let index = layout.claim_index(&crate::provider::local::node_name(&name, shard, ordinal))?;
                Ports::of(base, index)?.check_free()?;
                last = last.max(index);
            }
        }
    }
    Ports::of(base, last)?;
    layout.save_settings(&settings)?;
    Ok(settings)
}

fn launch(layout: &Layout, cluster: &KvCluster, spec: &ClusterSpec, program: PathBuf) -> Result<Launch, Failure> {
    let password_file = match &cluster.spec.auth {
        None => None,
        Some(auth) => {
            let path = layout.secret(&auth.secret_ref.name);
            if !path.is_file() {
                let text = format!(
                    "spec.auth.secretRef.name: without Kubernetes the password of the default user is read from {}; \
                     put it there",
                    path.display()
                );
                return Err(text.into());
            }
            Some(path)
        }
    };
    Ok(Launch {
        program,
        uid: cluster.metadata.uid.clone().unwrap_or_default(),
        durable: spec.durable,
        config: spec.config.clone(),
        password_file,
    })
}

fn retains(cluster: &KvCluster) -> bool {
    cluster.volume().is_some_and(|volume| volume.retention == Retention::Retain)
}

fn wanted(cluster: &KvCluster, spec: &ClusterSpec) -> Wanted {
    Wanted {
        spec: spec.clone(),
        generation: cluster.metadata.generation.unwrap_or_default(),
        problems: Vec::new(),
    }
}

fn event(incident: Incident) -> Event {
    Event {
        shard: Some(incident.shard),
        warning: incident.warning,
        reason: incident.reason.into(),
        message: incident.message,
    }
}

/// Takes what is applied to the folder. A file that was damaged by hand is told once, and changes nothing.
async fn follow_file(
    layout: &Layout,
    applied: &watch::Sender<KvCluster>,
    wanted_spec: &watch::Sender<Wanted>,
    provider: &LocalProvider,
    teller: &LocalPublisher,
) {
    let stamp = || -> Option<(SystemTime, u64)> {
        let meta = std::fs::metadata(layout.cluster()).ok()?;
        Some((meta.modified().ok()?, std::os::unix::fs::MetadataExt::ino(&meta)))
    };
    let mut last = stamp();
    let mut ticks = interval(WATCH);
    loop {
        ticks.tick().await;
        let now = stamp();
        if now == last {
            continue;
        }
        last = now;
        let program = provider.launch().program;
        let taken = match admit::load(layout) {
            Ok(None) => continue,
            Ok(Some((cluster, _))) if cluster == *applied.borrow() => continue,
            Ok(Some((cluster, spec))) => {
                launch(layout, &cluster, &spec, program).map(|launch| (cluster, spec, launch))
            }
            Err(error) => Err(error.into()),
        };
        match taken {
            Ok((cluster, spec, launch)) => {
                provider.change(launch, retains(&cluster));
                wanted_spec.send_replace(wanted(&cluster, &spec));
                let message = format!("generation {}", cluster.metadata.generation.unwrap_or_default());
                applied.send_replace(cluster);
                teller.event(Event { shard: None, warning: false, reason: "SpecChanged".into(), message }).await;
            }
            Err(error) => {
                let message = error.to_string();
                teller.event(Event { shard: None, warning: true, reason: "InvalidSpec".into(), message }).await;
            }
        }
    }
}

/// Starts `up` in the background, and waits until the cluster is ready.
///
/// # Errors
/// If it does not become ready, with the reason.
pub async fn detach(layout: &Layout, args: &UpArgs) -> Result<ExitCode, Failure> {
    if let Some(pid) = layout.lock_holder() {
        let dir = layout.dir().to_owned();
        return Err(crate::provider::local::layout::LayoutError::Locked { dir, pid: pid.to_string() }.into());
    }
    crate::provider::local::layout::create_dir(layout.dir())?;
    if let Some(file) = &args.file {
        // Said here and not in a log: what is wrong with the file.
        admit_file(layout, file)?;
    }
    layout.forget_status();
    let log = std::fs::File::create(layout.up_log())?;
    let mut command = tokio::process::Command::new(std::env::current_exe()?);
    command.args(["local", "up", "--dir"]).arg(layout.dir());
    if let Some(port) = args.base_port {
        command.arg("--base-port").arg(port.to_string());
    }
    if let Some(binary) = &args.node_binary {
        command.arg("--node-binary").arg(std::path::absolute(binary)?);
    }
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
    let mut child = command.spawn()?;
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        if let Some(status) = child.try_wait()? {
            let log = std::fs::read_to_string(layout.up_log()).unwrap_or_default();
            return Err(format!("`up` ended ({status}): {}", log.lines().last().unwrap_or("no output")).into());
        }
        let file = layout.load_status()?;
        let cluster = admit::load(layout)?.map(|(cluster, _)| cluster);
        let ready = cluster.as_ref().zip(file.as_ref()).filter(|(cluster, file)| is_ready(cluster, &file.status));
        if let Some((cluster, _)) = ready {
            let base = layout.load_settings()?.map_or(DEFAULT_BASE, |settings| settings.base_port);
            println!("{}", how_to_connect(cluster, &all_processes(layout, cluster, base)));
            println!("Stop it with: kv-operator local down --dir {}", layout.dir().display());
            return Ok(ExitCode::SUCCESS);
        }
        if Instant::now() > deadline {
            let why = file.map_or_else(|| "there is no status yet".into(), |file| why_not_ready(&file.status));
            let log = layout.up_log().display().to_string();
            return Err(format!("not ready after {READY_WITHIN:?}: {why}; `up` goes on, see {log}").into());
        }
        sleep(Duration::from_millis(100)).await;
    }
}

fn is_ready(cluster: &KvCluster, status: &KvClusterStatus) -> bool {
    status.state == Some(State::Ready) && status.observed_generation == cluster.metadata.generation
}

fn why_not_ready(status: &KvClusterStatus) -> String {
    let conditions = status.conditions.iter().filter(|condition| condition.type_ != "Progressing");
    let texts: Vec<_> = conditions.map(|condition| format!("{}: {}", condition.type_, condition.message)).collect();
    texts.join("; ")
}
