//! Clusters on Kubernetes: a StatefulSet for each shard, and the Services, Secrets and other objects around them.
//!
//! `build` says what the objects are (pure), `differ` whether a live one departs from that (pure), `apply` writes,
//! `view` reads pods as nodes (pure), `stores` are the watches, `hidden` finds pods that these miss,
//! `machines` what pods run on. `controller` runs one engine for each KvCluster,
//! `witness` keeps the operator's votes,
//! `publish` tells users what it does, `lease` lets one of several operators act.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Client, Resource, ResourceExt};
use kv_core::plan::{Problem, Template, Vote, Workload};
use serde_json::json;

use super::{Applied, Login, Provider, Sighting};
use crate::crd::KvCluster;
use crate::force;
use crate::wish::{annotation, wishes};

pub mod apply;
pub mod build;
pub mod controller;
pub mod differ;
pub mod health;
pub mod hidden;
pub mod lease;
pub mod machines;
pub mod names;
pub mod publish;
pub mod retries;
pub mod secrets;
pub mod stores;
#[cfg(test)]
mod tests;
pub mod view;
pub mod witness;

use build::{Cluster, Kind};
use health::Metrics;
use hidden::Hidden;
use retries::{Object, Retries};
use secrets::{Passwords, SecretError};
use stores::{Key, Stores};
use witness::{Witness, WitnessError};

/// How often it is checked that the generated Secrets are still there. They are not watched, since that needs the
/// right to read all Secrets.
const SECRETS_PERIOD: Duration = Duration::from_secs(60);

/// How often the KvCluster is annotated where another write to it came before.
const ANNOTATE_TRIES: usize = 5;

/// One cluster on Kubernetes.
pub struct KubernetesProvider {
    client: Client,
    stores: Stores,
    metrics: Arc<Metrics>,
    cluster: Mutex<Arc<Cluster>>,
    memory: Mutex<Memory>,
    hidden: Hidden,
    witness: Witness,
}

/// What saves work, and nothing that matters.
struct Memory {
    /// What was compared when nothing differed.
    clean: Option<Fingerprint>,
    secrets: Instant,
    /// What was in the Secrets, in case they get lost.
    passwords: Passwords,
    /// What could not be written.
    retries: Retries<Error>,
    /// The pods that the last look found without their labels.
    hidden: Vec<Arc<Pod>>,
}

type Fingerprint = (Arc<Cluster>, Vec<Workload>, Vec<(Kind, String, String)>, Vec<String>, Vec<String>);

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
        let memory = Memory {
            clean: None,
            secrets: Instant::now(),
            passwords,
            retries: Retries::default(),
            hidden: Vec::new(),
        };
        Self {
            client,
            stores,
            metrics,
            cluster: Mutex::new(Arc::new(cluster)),
            memory: Mutex::new(memory),
            hidden: Hidden::default(),
            witness: Witness::default(),
        }
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

    /// What to tell of a spec that speaks of zones, where these are not known.
    fn zones_unknown(&self, cluster: &Cluster) -> Option<Problem> {
        cluster.spec.failover.preferred.as_ref()?.zone.as_ref()?;
        let error = self.stores.machines.error()?;
        let message = format!(
            "spec.failover.preferred.zone has no effect: the zones of the machines are not known: {error}; let the \
             operator list and watch nodes (value watchNodes of the chart)"
        );
        Some(Problem { reason: "ZonesUnknown".into(), message })
    }

    /// Sets an annotation of the KvCluster, or takes it away, where that is `due`.
    async fn annotate(
        &self,
        name: &str,
        value: Option<&str>,
        due: impl Fn(&ObjectMeta) -> bool,
    ) -> Result<(), Error> {
        let cluster = self.cluster();
        let api: Api<KvCluster> = Api::namespaced(self.client.clone(), &cluster.namespace);
        let failed = |verb, source| Err(apply::failed(verb, "KvCluster", &cluster.name, source).into());
        for tries_left in (0..ANNOTATE_TRIES).rev() {
            let object = match api.get_metadata(&cluster.name).await {
                Ok(object) => object,
                Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
                Err(source) => return failed("get", source),
            };
            if !due(&object.metadata) {
                return Ok(());
            }
            let version = object.resource_version();
            let patch = json!({ "metadata": { "resourceVersion": version, "annotations": { name: value } } });
            match api.patch_metadata(&cluster.name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => {
                    self.metrics.wrote("KvCluster");
                    return Ok(());
                }
                // Its status was written meanwhile.
                Err(kube::Error::Api(status)) if status.code == 409 && tries_left > 0 => {}
                Err(source) => return failed("patch", source),
            }
        }
        Ok(())
    }

    fn fingerprint(&self, cluster: Arc<Cluster>, wanted: &[Workload], hidden: &[Arc<Pod>]) -> Fingerprint {
        let key: Key = (cluster.namespace.clone(), cluster.name.clone());
        let claims = self.stores.claims_of(&key);
        let claims = claims.iter().map(|claim| claim.resource_version().unwrap_or_default()).collect();
        let pods = self.stores.pods_of(&key);
        let unlabelled = pods.iter().chain(hidden).filter(|pod| hidden::lost_labels(&cluster, pod).is_some());
        let unlabelled = unlabelled.map(|pod| pod.name_any()).collect();
        (cluster, wanted.to_vec(), self.stores.version_of(&key), claims, unlabelled)
    }

    /// Tries something on an object, unless it failed a short while ago. Returns what came of it.
    async fn attempt<T>(
        &self,
        object: Object,
        what: String,
        work: impl AsyncFnOnce() -> Result<T, Error>,
    ) -> Option<T> {
        if !lock(&self.memory).retries.may_try(&object, &what, Instant::now()) {
            return None;
        }
        let (outcome, done) = match work().await {
            Ok(done) => (Ok(()), Some(done)),
            Err(error) => (Err(error), None),
        };
        lock(&self.memory).retries.note(object, what, outcome, Instant::now());
        done
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
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// An object.
    #[error(transparent)]
    Apply(#[from] apply::ApplyError),
    /// A Secret.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A vote.
    #[error(transparent)]
    Witness(#[from] WitnessError),
}

impl Provider for KubernetesProvider {
    type Error = Error;

    async fn sight(&self) -> Result<Sighting, Error> {
        let cluster = self.cluster();
        let hidden = self.hidden.find(&self.client, &cluster, &self.stores).await;
        let mut sighting = view::sighting(&self.stores, &cluster.namespace, &cluster.name, &hidden);
        sighting.votes = self.witness.votes(&self.client, &cluster).await?;
        sighting.problems.extend(self.zones_unknown(&cluster));
        lock(&self.memory).hidden = hidden;
        Ok(sighting)
    }

    async fn apply(&self, wanted: &[Workload]) -> Applied<Error> {
        let cluster = self.cluster();
        let secrets: Object = ("Secret", String::new());
        self.attempt(secrets.clone(), String::new(), async || Ok(self.check_secrets(&cluster).await?)).await;
        let hidden = lock(&self.memory).hidden.clone();
        let fingerprint = self.fingerprint(Arc::clone(&cluster), wanted, &hidden);
        let mut applied = Applied::default();
        if lock(&self.memory).clean.as_ref() != Some(&fingerprint) {
            let (changes, refused) = apply::changes(&cluster, wanted, &self.stores, &hidden);
            for change in &changes {
                let write = async || Ok(apply::write(&self.client, &cluster, change).await?);
                if self.attempt(change.object(), format!("{change:?}"), write).await == Some(true) {
                    self.metrics.wrote(change.object().0);
                    applied.changes.push(change.to_string());
                }
            }
            let mut memory = lock(&self.memory);
            memory
                .retries
                .keep(|object| *object == secrets || changes.iter().any(|change| change.object() == *object));
            memory.clean = (changes.is_empty() && refused.is_empty()).then_some(fingerprint);
            applied.failures.extend(refused.into_iter().map(Error::from));
        }
        let memory = lock(&self.memory);
        applied.failures.extend(memory.retries.errors());
        applied.retry = memory.retries.next();
        applied
    }

    async fn vote(&self, shard: u16, vote: Vote) -> Result<(), Error> {
        Ok(self.witness.vote(&self.client, &self.cluster(), shard, vote).await?)
    }

    async fn login(&self, secret: &str) -> Result<Login, Error> {
        Ok(secrets::login(&self.client, &self.cluster(), secret).await?)
    }

    async fn end_wish(&self, shard: u16, node: &str) -> Result<(), Error> {
        let stands = |meta: &ObjectMeta| wishes(meta).get(&shard).is_some_and(|wish| wish == node);
        self.annotate(&annotation(shard), None, stands).await
    }

    async fn keep_force(&self, text: Option<&str>) -> Result<(), Error> {
        let due = |meta: &ObjectMeta| force::kept(meta).is_some() != text.is_some();
        self.annotate(force::ANNOTATION, text, due).await
    }

    /// The pod is deleted as it was seen: if something of it has changed meanwhile, it is another version of it, and stays.
    async fn replace(&self, node: &str, seen: Template) -> Result<(), Error> {
        let cluster = self.cluster();
        let sets = self.stores.sets_of(&(cluster.namespace.clone(), cluster.name.clone()));
        let Some(pod) = hidden::shown(&self.stores, &cluster.namespace, node) else { return Ok(()) };
        let now = view::node(&cluster.name, &cluster.namespace, &pod, &sets).map(|node| node.template);
        if now != Some(seen) || seen == Template::Current {
            return Ok(());
        }
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &cluster.namespace);
        let only = Preconditions { uid: pod.uid(), resource_version: pod.resource_version() };
        match api.delete(node, &DeleteParams { preconditions: Some(only), ..DeleteParams::default() }).await {
            Ok(_) => self.metrics.wrote("Pod"),
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => {}
            Err(source) => return Err(apply::failed("delete", "Pod", node, source).into()),
        }
        Ok(())
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
