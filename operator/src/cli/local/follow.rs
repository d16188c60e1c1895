//! Carries what is applied to the folder to the engine and the provider of a running `up`.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use kv_core::spec::ClusterSpec;
use tokio::sync::watch;
use tokio::time::interval;

use super::Failure;
use super::output::LocalPublisher;
use crate::crd::{KvCluster, Retention};
use crate::engine::{Event, Publisher, Wanted};
use crate::force::Force;
use crate::provider::local::launch::Launch;
use crate::provider::local::layout::Layout;
use crate::provider::local::{LocalProvider, admit};
use crate::wish::wishes;

/// How often the applied KvCluster is looked at.
const PERIOD: Duration = Duration::from_millis(200);

/// Where a running `up` keeps what is applied.
pub struct Follower<'a> {
    /// The cluster's folder.
    pub layout: &'a Layout,
    /// The KvCluster.
    pub applied: &'a watch::Sender<KvCluster>,
    /// Its spec for the engine.
    pub wanted: &'a watch::Sender<Wanted>,
    /// Who starts nodes.
    pub provider: &'a LocalProvider,
    /// Who tells what happened.
    pub teller: &'a LocalPublisher,
}

impl Follower<'_> {
    /// Takes what is applied to the folder, for ever. What is not valid is told once, and changes nothing.
    pub async fn run(&self) {
        let mut last = self.stamp();
        let mut ticks = interval(PERIOD);
        loop {
            ticks.tick().await;
            let now = self.stamp();
            if now != last {
                last = now;
                if let Err(error) = self.take().await {
                    self.tell(true, "InvalidSpec", error.to_string()).await;
                }
            }
        }
    }

    /// Tells one version of the file from the next.
    fn stamp(&self) -> Option<(SystemTime, u64)> {
        let meta = std::fs::metadata(self.layout.cluster()).ok()?;
        Some((meta.modified().ok()?, meta.ino()))
    }

    async fn take(&self) -> Result<(), Failure> {
        let Some((cluster, spec)) = admit::load(self.layout)? else {
            let applied = self.applied.borrow().clone();
            if admit::restore(self.layout, &applied)? {
                let path = self.layout.cluster().display().to_string();
                let message =
                    format!("{path} was removed, and is written again; `kv-operator local down` stops");
                self.tell(true, "Restored", message).await;
            }
            return Ok(());
        };
        if cluster == *self.applied.borrow() {
            return Ok(());
        }
        let before = self.provider.launch();
        let launch = launch(self.layout, &cluster, &spec, before.program.clone())?;
        let generation = cluster.metadata.generation.unwrap_or_default();
        if self.applied.borrow().metadata.generation != Some(generation) {
            self.tell(false, "SpecChanged", format!("carries out generation {generation}")).await;
        }
        if launch.fixed() != before.fixed() {
            let names: BTreeSet<_> =
                launch.fixed().into_iter().chain(before.fixed()).map(|(name, _)| name).collect();
            let names: Vec<_> = names.into_iter().collect();
            let message =
                format!("{}: a node takes its value when it starts the next time", names.join(", "));
            self.tell(true, "RestartNeeded", message).await;
        }
        self.provider.change(launch, retains(&cluster));
        self.applied.send_replace(cluster.clone());
        self.wanted.send_replace(wanted(&cluster, &spec));
        Ok(())
    }

    async fn tell(&self, warning: bool, reason: &str, message: String) {
        self.teller
            .event(Event { shard: None, warning, reason: reason.to_owned(), message, receipt: None })
            .await;
    }
}

/// What nodes are started with.
///
/// # Errors
/// If the password that the spec names is not there.
pub fn launch(
    layout: &Layout,
    cluster: &KvCluster,
    spec: &ClusterSpec,
    program: PathBuf,
) -> Result<Launch, Failure> {
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

/// Whether the folder of a removed node stays.
pub fn retains(cluster: &KvCluster) -> bool {
    cluster.volume().is_some_and(|volume| volume.retention == Retention::Retain)
}

/// What the engine is to bring about.
pub fn wanted(cluster: &KvCluster, spec: &ClusterSpec) -> Wanted {
    Wanted {
        spec: spec.clone(),
        generation: cluster.metadata.generation.unwrap_or_default(),
        problems: Vec::new(),
        wishes: wishes(&cluster.metadata),
        force: Force::of(cluster),
    }
}
