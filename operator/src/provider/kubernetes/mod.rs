//! Clusters on Kubernetes: a StatefulSet for each shard, and the Services, Secrets and other objects around them.
//!
//! `build` says what the objects are (pure), `differ` whether a live one departs from that (pure), `apply` writes,
//! `view` reads pods as nodes (pure), `stores` are the watches. `controller` runs one engine for each KvCluster,
//! `publish` tells users what it does, `lease` lets one of several operators act.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kube::{Client, Resource, ResourceExt};
use kv_core::plan::Workload;

use super::{Provider, Sighting};
use crate::crd::KvCluster;

pub mod apply;
pub mod build;
pub mod controller;
pub mod differ;
pub mod health;
pub mod lease;
pub mod names;
pub mod publish;
pub mod secrets;
pub mod stores;
pub mod view;

use build::{Cluster, Kind};
use health::Metrics;
use secrets::{Passwords, SecretError};
use stores::{Key, Stores};

/// How often it is checked that the generated Secrets are still there. They are not watched, since that needs the
/// right to read all Secrets.
const SECRETS_PERIOD: Duration = Duration::from_secs(60);

/// One cluster on Kubernetes.
pub struct KubernetesProvider {
    client: Client,
    stores: Stores,
    metrics: Arc<Metrics>,
    cluster: Mutex<Arc<Cluster>>,
    memory: Mutex<Memory>,
}

/// What saves work, and nothing that matters.
struct Memory {
    /// What was compared when nothing differed.
    clean: Option<Fingerprint>,
    secrets: Instant,
    /// What was in the Secrets, in case they get lost.
    passwords: Passwords,
}

type Fingerprint = (Arc<Cluster>, Vec<Workload>, Vec<(Kind, String, String)>, Vec<String>);

impl KubernetesProvider {
    /// A provider for a cluster whose Secrets were made just now.
    #[must_use]
    pub fn new(
        client: Client,
        stores: Stores,
        metrics: Arc<Metrics>,
        cluster: Cluster,
        passwords: Passwords,
    ) -> Self {
        let memory = Memory { clean: None, secrets: Instant::now(), passwords };
        Self { client, stores, metrics, cluster: Mutex::new(Arc::new(cluster)), memory: Mutex::new(memory) }
    }

    /// The cluster as it is wanted now.
    #[must_use]
    pub fn cluster(&self) -> Arc<Cluster> {
        Arc::clone(&lock(&self.cluster))
    }

    /// Wants the cluster to be this from now on.
    pub fn set_cluster(&self, cluster: Cluster) {
        let mut current = lock(&self.cluster);
        if **current != cluster {
            *current = Arc::new(cluster);
        }
    }

    fn fingerprint(&self, cluster: Arc<Cluster>, wanted: &[Workload]) -> Fingerprint {
        let key: Key = (cluster.namespace.clone(), cluster.name.clone());
        let claims = self.stores.claims_of(&key);
        let claims = claims.iter().map(|claim| claim.resource_version().unwrap_or_default()).collect();
        (cluster, wanted.to_vec(), self.stores.version_of(&key), claims)
    }

    async fn check_secrets(&self, cluster: &Cluster) -> Result<(), SecretError> {
        let (known, age) = {
            let memory = lock(&self.memory);
            (memory.passwords.clone(), memory.secrets.elapsed())
        };
        // A Secret that has just come to be needed is made before the StatefulSets ask for it.
        let is_new = cluster.spec.auth.is_none() && known.auth.is_none();
        if is_new || age >= SECRETS_PERIOD {
            let sets = self.stores.sets_of(&(cluster.namespace.clone(), cluster.name.clone()));
            let found = secrets::ensure(&self.client, cluster, &sets, Some(&known)).await?;
            let mut memory = lock(&self.memory);
            memory.secrets = Instant::now();
            memory.passwords.auth = found.auth;
        }
        Ok(())
    }
}

/// Why a cluster on Kubernetes could not be made what it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An object.
    #[error(transparent)]
    Apply(#[from] apply::ApplyError),
    /// A Secret.
    #[error(transparent)]
    Secret(#[from] SecretError),
}

impl Provider for KubernetesProvider {
    type Error = Error;

    async fn sight(&self) -> Result<Sighting, Error> {
        let cluster = self.cluster();
        Ok(view::sighting(&self.stores, &cluster.namespace, &cluster.name))
    }

    async fn apply(&self, wanted: &[Workload]) -> Result<Vec<String>, Error> {
        let cluster = self.cluster();
        self.check_secrets(&cluster).await?;
        let fingerprint = self.fingerprint(Arc::clone(&cluster), wanted);
        if lock(&self.memory).clean.as_ref() == Some(&fingerprint) {
            return Ok(Vec::new());
        }
        let changes = apply::changes(&cluster, wanted, &self.stores)?;
        let mut lines = Vec::new();
        for change in &changes {
            if apply::write(&self.client, &cluster, change).await? {
                self.metrics.wrote(change.kind());
                lines.push(change.to_string());
            }
        }
        lock(&self.memory).clean = changes.is_empty().then_some(fingerprint);
        Ok(lines)
    }
}

impl Cluster {
    /// The cluster that a KvCluster asks for; `None` if the object does not come from an API server.
    #[must_use]
    pub fn of(object: &KvCluster, default_image: &str) -> Option<Self> {
        Some(Self {
            name: object.meta().name.clone()?,
            namespace: object.namespace()?,
            uid: object.uid()?,
            image: object.spec.image.clone().unwrap_or_else(|| default_image.to_owned()),
            spec: object.spec.clone(),
        })
    }
}

/// What the API server said, without the structure that it came in.
#[must_use]
pub fn explain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        error => error.to_string(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
