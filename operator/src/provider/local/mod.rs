//! Nodes as child processes on loopback: the embedded default.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kv_core::plan::{Presence, Problem, Template, Vote, Workload};
use kv_core::shard::NodeAddress;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

pub mod admit;
mod backoff;
pub mod launch;
pub mod layout;
pub mod ports;
pub mod process;
mod supervisor;

use super::{Applied, Login, Provider, SightedNode, Sighting};
use crate::force;
use crate::wish::{annotation, wishes};
use launch::Launch;
use layout::{Layout, LayoutError, Settings, read_json};
use ports::{PortError, Ports};
use process::{Process, Record};
pub use supervisor::Incident;
use supervisor::{Order, State, Supervisor};

/// When what could not be written is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What the local provider could not do.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// A file of the cluster's folder.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The KvCluster in the folder.
    #[error(transparent)]
    Admit(#[from] admit::AdmitError),
    /// A password that the KvCluster names.
    #[error(
        "spec.source.secretRef.name: without Kubernetes the password of the source is read from {0}, and its user, if it \
         is not the default one, from the file username beside it; put it there"
    )]
    NoSecret(PathBuf),
    /// The folder is a copy.
    #[error(
        "{dir} is a copy of a cluster that runs: the process {pid} works in {other}; two of the same nodes must not run. Stop \
         that cluster with `kv-operator local down` first, or make a new one in another folder with `kv-operator local up -f \
         FILE --dir NEW`"
    )]
    Copy {
        /// The folder.
        dir: PathBuf,
        /// Where a node of the original works.
        other: PathBuf,
        /// Its process.
        pid: i32,
    },
    /// The control password is gone.
    #[error(
        "{path} is gone, and {node} runs (process {pid}), which takes no other password: put the file back, or stop the nodes \
         with `kv-operator local down`; the next `up` starts them with a new one"
    )]
    NoControlPassword {
        /// The file.
        path: PathBuf,
        /// A node that was started with it.
        node: String,
        /// Its process.
        pid: i32,
    },
    /// A node's port.
    #[error("{node}: {source}")]
    Port {
        /// The node.
        node: String,
        /// Why.
        source: PortError,
    },
}

struct Node {
    shard: u16,
    ordinal: u16,
    ports: Ports,
    state: Arc<Mutex<State>>,
    order: watch::Sender<Order>,
    task: JoinHandle<()>,
}

impl Node {
    fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn removed(&self) -> bool {
        *self.order.borrow() != Order::Run
    }
}

struct Inner {
    settings: Settings,
    nodes: BTreeMap<String, Node>,
    votes: BTreeMap<u16, Vote>,
}

/// The processes of one cluster. It owns the cluster's folder: take its lock before.
pub struct LocalProvider {
    name: String,
    layout: Layout,
    launch: watch::Sender<Launch>,
    /// Whether the folder of a node stays when the node goes.
    retain: watch::Sender<bool>,
    wake: Arc<Notify>,
    incidents: UnboundedSender<Incident>,
    inner: Mutex<Inner>,
}

impl LocalProvider {
    /// Starts, or takes over, the nodes that were there before.
    ///
    /// # Errors
    /// If the folder cannot be used, or a port of a node is another process's.
    pub fn open(
        name: String,
        layout: Layout,
        settings: Settings,
        launch: Launch,
        retain: bool,
        wake: Arc<Notify>,
        incidents: UnboundedSender<Incident>,
    ) -> Result<Self, LocalError> {
        let votes = read_json(&layout.votes())?.unwrap_or_default();
        let provider = Self {
            name,
            layout,
            launch: watch::Sender::new(launch),
            retain: watch::Sender::new(retain),
            wake,
            incidents,
            inner: Mutex::new(Inner { settings: settings.clone(), nodes: BTreeMap::new(), votes }),
        };
        provider.check_ports(&settings.workloads)?;
        let mut inner = provider.inner();
        for workload in &settings.workloads {
            provider.start_missing(&mut inner, *workload)?;
        }
        drop(inner);
        Ok(provider)
    }

    /// Checks that the ports of these workloads are free, except where the node itself listens.
    ///
    /// # Errors
    /// The first port that is another process's.
    pub fn check_ports(&self, workloads: &[Workload]) -> Result<(), LocalError> {
        let base = self.inner().settings.base_port;
        let uid = self.launch().uid;
        for (node, _) in workloads.iter().flat_map(|workload| self.names(*workload)) {
            let index = self.layout.claim_index(&node)?;
            let runs = running(&self.layout, &uid, &node).is_some();
            let free =
                Ports::of(base, index).and_then(|ports| if runs { Ok(()) } else { ports.check_free() });
            free.map_err(|source| LocalError::Port { node, source })?;
        }
        Ok(())
    }

    /// What nodes are started with from now on, and whether the folders of removed nodes stay.
    pub fn change(&self, launch: Launch, retain: bool) {
        self.launch.send_replace(launch);
        self.retain.send_replace(retain);
        self.wake.notify_one();
    }

    /// What nodes are started with at present.
    #[must_use]
    pub fn launch(&self) -> Launch {
        self.launch.borrow().clone()
    }

    /// Stops all nodes at once and waits until their processes have ended.
    pub async fn stop(&self) {
        let nodes = std::mem::take(&mut self.inner().nodes);
        for node in nodes.values() {
            node.order.send_replace(Order::Stop);
        }
        for node in nodes.into_values() {
            // A supervisor that broke off has nothing to wait for.
            let _ = node.task.await;
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn names(&self, workload: Workload) -> Vec<(String, u16)> {
        (0..workload.nodes).map(|ordinal| (node_name(&self.name, workload.shard, ordinal), ordinal)).collect()
    }

    /// Starts a supervisor for every node of a workload that has none.
    fn start_missing(&self, inner: &mut Inner, workload: Workload) -> Result<Vec<String>, LocalError> {
        let mut started = Vec::new();
        for (name, ordinal) in self.names(workload) {
            if inner.nodes.contains_key(&name) {
                continue;
            }
            let index = self.layout.claim_index(&name)?;
            let ports = Ports::of(inner.settings.base_port, index)
                .map_err(|source| LocalError::Port { node: name.clone(), source })?;
            // One that runs already is shown as such from the start: it does not change by being taken over.
            let record = running(&self.layout, &self.launch.borrow().uid, &name);
            let presence = if record.is_some() { Presence::Running } else { Presence::Starting };
            let state = Arc::new(Mutex::new(State { presence, record, problem: None }));
            let order = watch::Sender::new(Order::Run);
            let supervisor = Supervisor {
                name: name.clone(),
                shard: workload.shard,
                ports,
                layout: self.layout.clone(),
                launch: self.launch.subscribe(),
                order: order.subscribe(),
                state: Arc::clone(&state),
                wake: Arc::clone(&self.wake),
                incidents: self.incidents.clone(),
            };
            let task = tokio::spawn(supervisor.run());
            inner
                .nodes
                .insert(name.clone(), Node { shard: workload.shard, ordinal, ports, state, order, task });
            started.push(format!("node {name} on port {}", ports.data));
        }
        Ok(started)
    }

    /// Tells the nodes beyond a workload to leave, and forgets those that have.
    fn remove_surplus(&self, inner: &mut Inner, wanted: &[Workload]) -> Result<Vec<String>, LocalError> {
        let surplus = |node: &Node| !wanted.iter().any(|w| w.shard == node.shard && node.ordinal < w.nodes);
        let mut changes = Vec::new();
        for (name, node) in inner.nodes.iter().filter(|(_, node)| surplus(node) && !node.removed()) {
            node.order.send_replace(Order::Remove);
            changes.push(format!("node {name} is being removed"));
        }
        let gone: Vec<_> = inner
            .nodes
            .iter()
            .filter(|(_, node)| node.removed() && node.state().presence == Presence::Exited)
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            inner.nodes.remove(&name);
            if !*self.retain.borrow() {
                let path = self.layout.node(&name);
                fs::remove_dir_all(&path).map_err(|source| LayoutError::Write { path, source })?;
            }
            changes.push(format!("node {name} is gone"));
        }
        Ok(changes)
    }
}

impl Provider for LocalProvider {
    type Error = LocalError;

    async fn sight(&self) -> Result<Sighting, LocalError> {
        let inner = self.inner();
        let votes = inner.votes.clone();
        let workloads = inner.settings.workloads.clone();
        let mut sighting = Sighting { workloads, votes, ..Sighting::default() };
        for (name, node) in &inner.nodes {
            let state = node.state();
            sighting.nodes.push(sighted(name, node.shard, node.ordinal, node.ports, &state));
            if let Some(message) = state.problem {
                sighting.problems.push(Problem { reason: "NodeNotStarted".into(), message });
            }
        }
        Ok(sighting)
    }

    async fn apply(&self, wanted: &[Workload]) -> Applied<LocalError> {
        match self.make(wanted) {
            Ok(changes) => Applied { changes, ..Applied::default() },
            Err(error) => {
                Applied { failures: vec![error], retry: Some(Instant::now() + RETRY), ..Applied::default() }
            }
        }
    }

    async fn vote(&self, shard: u16, vote: Vote) -> Result<(), LocalError> {
        let mut inner = self.inner();
        let mut votes = inner.votes.clone();
        votes.insert(shard, vote);
        layout::write_json(&self.layout.votes(), &votes)?;
        inner.votes = votes;
        Ok(())
    }

    async fn end_wish(&self, shard: u16, node: &str) -> Result<(), LocalError> {
        Ok(admit::annotate(&self.layout, &annotation(shard), |meta| {
            wishes(meta).get(&shard).is_some_and(|wish| wish == node).then_some(None)
        })?)
    }

    async fn keep_force(&self, text: Option<&str>) -> Result<(), LocalError> {
        Ok(admit::annotate(&self.layout, force::ANNOTATION, |meta| {
            let kept = force::kept(meta);
            (kept.is_some() != text.is_some()).then(|| text.map(str::to_owned))
        })?)
    }

    async fn login(&self, secret: &str) -> Result<Login, LocalError> {
        let text = |path: &Path| Ok::<_, LayoutError>(layout::read(path)?.map(|text| text.trim().to_owned()));
        let path = self.layout.secret(secret);
        let password = text(&path)?.filter(|password| !password.is_empty());
        let password = password.ok_or(LocalError::NoSecret(path))?;
        Ok(Login { username: text(&self.layout.username(secret))?.filter(|name| !name.is_empty()), password })
    }

    /// A process is started from what is wanted at that time, and told what changes: none is outdated, and so none is
    /// ever to be replaced.
    async fn replace(&self, _: &str, _: Template) -> Result<(), LocalError> {
        Ok(())
    }
}

impl LocalProvider {
    fn make(&self, wanted: &[Workload]) -> Result<Vec<String>, LocalError> {
        let mut inner = self.inner();
        if inner.settings.workloads != wanted {
            let settings = Settings { workloads: wanted.to_vec(), ..inner.settings.clone() };
            self.layout.save_settings(&settings)?;
            inner.settings = settings;
        }
        let mut changes = self.remove_surplus(&mut inner, wanted)?;
        for workload in wanted {
            changes.extend(self.start_missing(&mut inner, *workload)?);
        }
        Ok(changes)
    }
}

/// The name of a node.
#[must_use]
pub fn node_name(cluster: &str, shard: u16, ordinal: u16) -> String {
    format!("{cluster}-{shard}-{ordinal}")
}

/// What a folder says of its nodes, without looking after them.
#[must_use]
pub fn sight_processes(layout: &Layout, uid: &str, cluster: &str, settings: &Settings) -> Sighting {
    let mut sighting = Sighting { workloads: settings.workloads.clone(), ..Sighting::default() };
    for workload in &settings.workloads {
        for ordinal in 0..workload.nodes {
            let name = node_name(cluster, workload.shard, ordinal);
            let ports = layout.index(&name).and_then(|index| Ports::of(settings.base_port, index).ok());
            let Some(ports) = ports else { continue };
            let record = running(layout, uid, &name);
            let presence = if record.is_some() { Presence::Running } else { Presence::Exited };
            let state = State { presence, record, problem: None };
            sighting.nodes.push(sighted(&name, workload.shard, ordinal, ports, &state));
        }
    }
    sighting
}

/// Stops all processes that belong to a folder, without a supervisor; take the folder's lock before. Returns how many
/// there were.
///
/// # Errors
/// If the folder cannot be read.
pub async fn stop_processes(layout: &Layout, uid: &str) -> Result<usize, LayoutError> {
    let names = layout.node_names()?;
    let running: Vec<_> =
        names.iter().filter_map(|name| Process::adopt(running(layout, uid, name)?)).collect();
    let count = running.len();
    futures::future::join_all(running.into_iter().map(supervisor::stop_at_once)).await;
    Ok(count)
}

fn sighted(name: &str, shard: u16, ordinal: u16, ports: Ports, state: &State) -> SightedNode {
    SightedNode {
        name: name.to_owned(),
        shard,
        ordinal,
        presence: state.presence,
        incarnation: state.record.as_ref().map_or_else(String::new, |r| format!("{}@{}", r.pid, r.started)),
        address: Some(NodeAddress {
            ip: "127.0.0.1".into(),
            hostname: String::new(),
            port: ports.data,
            bus_port: ports.bus,
        }),
        template: Template::Current,
        zone: None,
        draining: false,
    }
}

/// The process of a node that runs. An `up` that was killed may have left one that it made no record of.
#[must_use]
pub fn running(layout: &Layout, uid: &str, node: &str) -> Option<Record> {
    let data = layout.data(node);
    let recorded: Option<Record> = read_json(&layout.process(node)).ok().flatten();
    // In a copy of the folder the record names the process of the original; in one that was moved, its own.
    let own = |record: &Record| record.dir().is_some_and(|dir| same_folder(&dir, &data) || !dir.exists());
    let recorded = recorded.filter(|record| record.runs() && own(record));
    recorded
        .or_else(|| Record::all(uid).find(|record| record.dir().is_some_and(|dir| same_folder(&dir, &data))))
}

/// Checks that no node of the same cluster runs from another folder, which this one, or that, is a copy of: their nodes have
/// the same ids, and would vote as one node twice.
///
/// # Errors
/// If one does.
pub fn check_original(layout: &Layout, uid: &str) -> Result<(), LocalError> {
    let names = layout.node_names()?;
    let own = |dir: &Path| !dir.exists() || names.iter().any(|name| same_folder(dir, &layout.data(name)));
    let mut strangers = Record::all(uid).filter_map(|record| Some((record.dir()?, record.pid)));
    match strangers.find(|(dir, _)| !own(dir)) {
        Some((other, pid)) => Err(LocalError::Copy { dir: layout.dir().to_owned(), other, pid }),
        None => Ok(()),
    }
}

/// The control password; made anew unless a node runs that was started with another one.
///
/// # Errors
/// If one does, or the file cannot be read or written.
pub fn control_password(layout: &Layout, uid: &str) -> Result<String, LocalError> {
    let path = layout.control_password();
    if !path.exists() {
        let mut running = layout.node_names()?.into_iter().filter_map(|node| {
            let record = running(layout, uid, &node)?;
            Some((node, record.pid))
        });
        if let Some((node, pid)) = running.next() {
            return Err(LocalError::NoControlPassword { path, node, pid });
        }
    }
    Ok(layout.make_control_password()?)
}

fn same_folder(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    one == other || identity(one).is_some_and(|id| identity(other) == Some(id))
}
