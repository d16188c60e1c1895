//! One engine for each KvCluster: starts it, tells it what is wanted, and stops it when the KvCluster is deleted.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::finalizer::{self, Event, finalizer};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Client, ResourceExt};
use kv_core::id::ClusterUid;
use kv_core::plan::Problem;
use kv_core::spec::ClusterSpec;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use super::build::Cluster;
use super::health::Metrics;
use super::publish::{KubernetesPublisher, write_status};
use super::stores::{Key, Stores, Wakers};
use super::{Error, KubernetesProvider, explain, lock, names, secrets};
use crate::crd::{self, InvalidField, KvCluster, KvClusterSpec, KvClusterStatus, Retention, State};
use crate::engine::{Engine, Hook, Identity, Wanted};
use crate::force::Force;
use crate::wish::wishes;

/// How often it is looked whether a deleted cluster's pods are gone.
const CLEANUP_PERIOD: Duration = Duration::from_millis(500);

/// When a KvCluster is looked at again whose engine could not be started.
const RETRY: Duration = Duration::from_secs(3);

/// Why a KvCluster could not be taken care of.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// Its Secrets could not be made.
    #[error(transparent)]
    Provider(#[from] Error),
    /// The API server refused something.
    #[error("cannot {what}: {why}")]
    Api {
        /// What was tried.
        what: &'static str,
        /// What the API server said.
        why: String,
    },
    /// A deleted cluster's pods or volumes are still there.
    #[error("waits for {0} to be gone")]
    NotGone(String),
    /// The object does not come from an API server.
    #[error("the KvCluster has no name, namespace or UID")]
    Nameless,
}

type Finalized = finalizer::Error<ReconcileError>;

/// What all KvClusters share.
pub struct Operator {
    /// The connection to the API server.
    pub client: Client,
    /// What exists.
    pub stores: Stores,
    /// Whom to wake.
    pub wakers: Wakers,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Image of nodes whose KvCluster names none.
    pub node_image: String,
    /// The name of this operator's pod.
    pub instance: String,
    /// Where notifications go.
    pub hook: Option<Hook>,
    engines: Mutex<BTreeMap<Key, Running>>,
}

/// An engine that runs. It ends when this is dropped.
struct Running {
    uid: String,
    provider: Arc<KubernetesProvider>,
    object: Arc<Mutex<Arc<KvCluster>>>,
    wanted: watch::Sender<Wanted>,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Operator {
    /// An operator that takes care of no cluster yet.
    #[must_use]
    pub fn new(
        client: Client,
        stores: Stores,
        wakers: Wakers,
        metrics: Arc<Metrics>,
        node_image: String,
        instance: String,
        hook: Option<Hook>,
    ) -> Self {
        Self { client, stores, wakers, metrics, node_image, instance, hook, engines: Mutex::default() }
    }

    /// Takes care of all KvClusters of a namespace, or of all namespaces, until `stop` is done.
    pub async fn run(self, namespace: Option<&str>, stop: impl Future<Output = ()> + Send + Sync + 'static) {
        let api: Api<KvCluster> = match namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        let operator = Arc::new(self);
        Controller::new(api, watcher::Config::default())
            .graceful_shutdown_on(stop)
            .run(reconcile, retry, operator)
            .for_each(|_| std::future::ready(()))
            .await;
    }

    async fn apply(&self, object: Arc<KvCluster>) -> Result<Action, ReconcileError> {
        let key = key(&object)?;
        let generation = object.metadata.generation.unwrap_or_default();
        let checked = object.to_core();
        if self.update(&key, &object, generation, &checked) {
            return Ok(Action::await_change());
        }
        let (wishes, force) = (wishes(&object.metadata), Force::of(&object));
        let (object, wanted) = match checked {
            Ok(spec) => (object, Wanted { spec, generation, problems: Vec::new(), wishes, force }),
            Err(fields) => match self.last_valid(&object).await? {
                Some((valid, spec)) => {
                    let generation = valid_generation(&object);
                    let problems = vec![invalid(&fields)];
                    (Arc::new(valid), Wanted { spec, generation, problems, wishes, force: Force::Denied })
                }
                None => {
                    tracing::warn!(cluster = %object.name_any(), "{}", crd::describe(&fields));
                    self.report(&object, generation, &invalid(&fields)).await?;
                    return Ok(Action::await_change());
                }
            },
        };
        let generation = wanted.generation;
        match self.start(key, &object, wanted).await {
            Ok(()) => Ok(Action::await_change()),
            Err(error) => {
                let problem = Problem { reason: "CannotStart".into(), message: error.to_string() };
                self.report(&object, generation, &problem).await?;
                Err(error)
            }
        }
    }

    /// Tells the engine that runs for the object what is wanted now; false if there is none.
    fn update(
        &self,
        key: &Key,
        object: &Arc<KvCluster>,
        generation: i64,
        checked: &Result<ClusterSpec, Vec<InvalidField>>,
    ) -> bool {
        let mut engines = lock(&self.engines);
        let Some(running) = engines.get(key) else { return false };
        if Some(&running.uid) != object.uid().as_ref() || running.task.is_finished() {
            engines.remove(key);
            return false;
        }
        let wishes = wishes(&object.metadata);
        let next = match checked {
            Ok(spec) => {
                if let Some(cluster) = Cluster::of(object, &self.node_image) {
                    running.provider.set_cluster(cluster);
                }
                *lock(&running.object) = Arc::clone(object);
                let force = Force::of(object);
                Wanted { spec: spec.clone(), generation, problems: Vec::new(), wishes, force }
            }
            Err(fields) => {
                let last = running.wanted.borrow().clone();
                // The generation stays that of the spec, so that nobody takes the newest one as rolled out.
                Wanted { problems: vec![invalid(fields)], wishes, force: Force::Denied, ..last }
            }
        };
        running.wanted.send_if_modified(|wanted| {
            let changed = *wanted != next;
            if changed {
                *wanted = next;
            }
            changed
        });
        true
    }

    async fn start(&self, key: Key, object: &Arc<KvCluster>, wanted: Wanted) -> Result<(), ReconcileError> {
        let cluster = Cluster::of(object, &self.node_image).ok_or(ReconcileError::Nameless)?;
        let sets = self.stores.sets_of(&key);
        let passwords = secrets::ensure(&self.client, &cluster, &sets, None).await.map_err(Error::from)?;
        let identity = Identity {
            uid: ClusterUid(cluster.uid.clone()),
            name: cluster.name.clone(),
            control_password: passwords.control.clone(),
        };
        let uid = cluster.uid.clone();
        let provider = Arc::new(KubernetesProvider::new(
            self.client.clone(),
            self.stores.clone(),
            Arc::clone(&self.metrics),
            cluster,
            passwords,
        ));
        let object = Arc::new(Mutex::new(Arc::clone(object)));
        let publisher = KubernetesPublisher::new(
            self.client.clone(),
            Arc::clone(&provider),
            Arc::clone(&object),
            self.instance.clone(),
            self.hook.clone(),
        );
        let wake = Arc::new(Notify::new());
        self.wakers.insert(key.clone(), Arc::clone(&wake));
        let (wanted, wanted_rx) = watch::channel(wanted);
        tracing::info!(namespace = %key.0, cluster = %key.1, "takes care of the cluster");
        let before = lock(&object).status.clone();
        let engine = Engine::new(identity, Arc::clone(&provider), publisher, wake, before.as_ref());
        let task = tokio::spawn(engine.run(wanted_rx));
        let running = Running { uid, provider, object, wanted, task: task.abort_handle() };
        tokio::spawn(end_with(task));
        let mut engines = lock(&self.engines);
        engines.insert(key, running);
        self.metrics.clusters(engines.len());
        Ok(())
    }

    /// The last spec that was valid, from the ConfigMap that was made from it.
    async fn last_valid(
        &self,
        object: &KvCluster,
    ) -> Result<Option<(KvCluster, ClusterSpec)>, ReconcileError> {
        let namespace = object.namespace().unwrap_or_default();
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &namespace);
        let found =
            api.get_opt(&names::config(&object.name_any())).await.map_err(failed("get the ConfigMap"))?;
        let spec = found
            .filter(|map| {
                map.owner_references().iter().any(|owner| Some(&owner.uid) == object.uid().as_ref())
            })
            .and_then(|map| {
                serde_json::from_str::<KvClusterSpec>(map.annotations().get(names::VALID_SPEC)?).ok()
            });
        Ok(spec.and_then(|spec| {
            let valid = KvCluster { spec, ..object.clone() };
            let core = valid.to_core().ok()?;
            Some((valid, core))
        }))
    }

    /// Tells what keeps the engine of a KvCluster from running.
    async fn report(
        &self,
        object: &KvCluster,
        generation: i64,
        problem: &Problem,
    ) -> Result<(), ReconcileError> {
        let mut status = object.status.clone().unwrap_or_default();
        status.observed_generation = Some(generation);
        status.conditions = [("Ready", "False"), ("Progressing", "False"), ("Degraded", "True")]
            .map(|(type_, value)| condition(object, generation, type_, value, problem))
            .into();
        status.state = Some(State::of(&status.conditions));
        if object.status.as_ref() == Some(&status) {
            return Ok(());
        }
        self.metrics.wrote("KvCluster");
        write_status(&self.client, object, &status).await.map_err(failed("write the status"))
    }

    async fn cleanup(&self, object: &KvCluster) -> Result<Action, ReconcileError> {
        let key = key(object)?;
        self.wakers.remove(&key);
        let running = {
            let mut engines = lock(&self.engines);
            let running = engines.remove(&key);
            self.metrics.clusters(engines.len());
            running
        };
        drop(running);
        let uid = object.uid().unwrap_or_default();
        let sets: Api<StatefulSet> = Api::namespaced(self.client.clone(), &key.0);
        for set in self.stores.sets_of(&key) {
            let is_ours = set.owner_references().iter().any(|owner| owner.uid == uid);
            if is_ours && set.metadata.deletion_timestamp.is_none() {
                match sets.delete(&set.name_any(), &DeleteParams::background()).await {
                    Ok(_) => self.metrics.wrote("StatefulSet"),
                    Err(kube::Error::Api(status)) if status.code == 404 => {}
                    Err(error) => return Err(failed("delete a StatefulSet")(error)),
                }
            }
        }
        self.nothing_left(object, &key)?;
        tracing::info!(namespace = %key.0, cluster = %key.1, "the cluster is gone");
        Ok(Action::await_change())
    }

    /// The rest is left to the garbage collector, which follows the owner references. What it does not collect is not
    /// waited for: volumes that nodes left behind, and what users labelled themselves.
    fn nothing_left(&self, object: &KvCluster, key: &Key) -> Result<(), ReconcileError> {
        let uid = object.uid().unwrap_or_default();
        let goes = |meta: &ObjectMeta| is_collected(&key.1, &uid, meta);
        let mut left = Vec::new();
        for set in self.stores.sets_of(key).iter().filter(|set| goes(&set.metadata)) {
            left.push(format!("StatefulSet {}", set.name_any()));
        }
        for pod in self.stores.pods_of(key).iter().filter(|pod| goes(&pod.metadata)) {
            left.push(format!("pod {}", pod.name_any()));
        }
        if object.volume().is_some_and(|volume| volume.retention == Retention::Delete) {
            for claim in self.stores.claims_of(key) {
                if claim.metadata.deletion_timestamp.is_some() || goes(&claim.metadata) {
                    left.push(format!("PersistentVolumeClaim {}", claim.name_any()));
                }
            }
        }
        match left.first() {
            None => Ok(()),
            Some(first) => Err(ReconcileError::NotGone(format!("{first} ({} objects in all)", left.len()))),
        }
    }
}

/// Crash-only: an engine that panics takes the operator with it, and the next one starts from what is there.
async fn end_with(task: tokio::task::JoinHandle<()>) {
    if let Err(error) = task.await
        && error.is_panic()
    {
        tracing::error!(%error, "an engine ended unexpectedly; the operator starts anew");
        std::process::exit(1);
    }
}

async fn reconcile(object: Arc<KvCluster>, operator: Arc<Operator>) -> Result<Action, Finalized> {
    let namespace = object.namespace().unwrap_or_default();
    let api: Api<KvCluster> = Api::namespaced(operator.client.clone(), &namespace);
    finalizer(&api, names::FINALIZER, object, |event| async {
        match event {
            Event::Apply(object) => operator.apply(object).await,
            Event::Cleanup(object) => operator.cleanup(&object).await,
        }
    })
    .await
}

fn retry(object: Arc<KvCluster>, error: &Finalized, _: Arc<Operator>) -> Action {
    let cluster = ObjectRef::from_obj(&*object);
    match error {
        Finalized::CleanupFailed(ReconcileError::NotGone(_)) => {
            tracing::debug!(%cluster, %error, "cleans up");
            Action::requeue(CLEANUP_PERIOD)
        }
        _ => {
            tracing::warn!(%cluster, %error, "tries again");
            Action::requeue(RETRY)
        }
    }
}

fn key(object: &KvCluster) -> Result<Key, ReconcileError> {
    let namespace = object.namespace().ok_or(ReconcileError::Nameless)?;
    Ok((namespace, object.metadata.name.clone().ok_or(ReconcileError::Nameless)?))
}

/// Whether an object goes when the cluster does: the cluster owns it, or one of its StatefulSets or pods. Those are
/// told by their names, since they may be gone already.
fn is_collected(cluster: &str, uid: &str, meta: &ObjectMeta) -> bool {
    meta.owner_references.iter().flatten().any(|owner| match owner.kind.as_str() {
        "StatefulSet" => names::shard_of_set(cluster, &owner.name).is_some(),
        "Pod" => names::node_of(cluster, &owner.name).is_some(),
        _ => owner.uid == uid,
    })
}

/// The generation of the last valid spec of an object whose newest spec is not valid: that of its status, and in any
/// case an older one than the newest.
fn valid_generation(object: &KvCluster) -> i64 {
    let older = object.metadata.generation.unwrap_or_default() - 1;
    let observed = object.status.as_ref().and_then(|status| status.observed_generation);
    observed.map_or(older, |observed| observed.min(older))
}

fn invalid(fields: &[InvalidField]) -> Problem {
    Problem { reason: "InvalidSpec".into(), message: crd::describe(fields) }
}

fn failed(what: &'static str) -> impl FnOnce(kube::Error) -> ReconcileError {
    move |source| ReconcileError::Api { what, why: explain(&source) }
}

fn condition(object: &KvCluster, generation: i64, type_: &str, value: &str, problem: &Problem) -> Condition {
    let before = object.status.as_ref().map(|status: &KvClusterStatus| status.conditions.as_slice());
    let old = before.unwrap_or_default().iter().find(|old| old.type_ == type_ && old.status == value);
    Condition {
        type_: type_.into(),
        status: value.into(),
        reason: problem.reason.clone(),
        message: problem.message.clone(),
        last_transition_time: old
            .map_or_else(|| Time(Timestamp::now()), |old| old.last_transition_time.clone()),
        observed_generation: Some(generation),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_nobody_collects_is_not_waited_for() {
        let cases = [
            (json!([]), false),
            (json!([{ "kind": "KvCluster", "name": "shop", "uid": "u" }]), true),
            (json!([{ "kind": "KvCluster", "name": "shop", "uid": "older" }]), false),
            (json!([{ "kind": "StatefulSet", "name": "shop-1", "uid": "s" }]), true),
            (json!([{ "kind": "StatefulSet", "name": "shop-tools", "uid": "s" }]), false),
            (json!([{ "kind": "Pod", "name": "shop-1-2", "uid": "p" }]), true),
            (json!([{ "kind": "ReplicaSet", "name": "shop-1", "uid": "r" }]), false),
        ];
        for (mut owners, expected) in cases {
            for owner in owners.as_array_mut().unwrap() {
                owner["apiVersion"] = json!("v1");
            }
            let meta = serde_json::from_value(json!({ "ownerReferences": owners })).unwrap();
            assert_eq!(is_collected("shop", "u", &meta), expected, "{owners}");
        }
    }
    #[test]
    fn an_invalid_spec_does_not_count_as_observed() {
        for (observed, expected) in [(None, 6), (Some(3), 3), (Some(7), 6)] {
            let object = json!({
                "apiVersion": "kvcluster.io/v1alpha1", "kind": "KvCluster",
                "metadata": { "name": "shop", "generation": 7 }, "spec": { "shards": 1 },
                "status": { "observedGeneration": observed },
            });
            assert_eq!(valid_generation(&serde_json::from_value(object).unwrap()), expected);
        }
    }
}
