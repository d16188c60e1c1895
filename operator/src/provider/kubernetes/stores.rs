//! What the API server says exists: one watch for each kind of object that clusters own, kept in memory.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt, TryStreamExt, future};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::runtime::reflector::store::{Writer, WriterDropped};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, reflector};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::build::Kind;
use super::machines::Machines;
use super::names;

/// Namespace and name of a KvCluster.
pub type Key = (String, String);

/// Who wants to be woken when something of a cluster changed.
#[derive(Clone, Debug, Default)]
pub struct Wakers(Arc<Mutex<BTreeMap<Key, Arc<Notify>>>>);

impl Wakers {
    /// Wakes `notify` from now on when something of the cluster changes.
    pub fn insert(&self, key: Key, notify: Arc<Notify>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, notify);
    }

    /// Wakes nobody any more for the cluster.
    pub fn remove(&self, key: &Key) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    /// Wakes everybody.
    pub fn wake_all(&self) {
        let wakers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        wakers.values().for_each(|notify| notify.notify_one());
    }

    fn wake(&self, object: &impl Resource) {
        let meta = object.meta();
        let cluster = meta.labels.as_ref().and_then(|labels| labels.get(names::CLUSTER));
        if let (Some(namespace), Some(cluster)) = (&meta.namespace, cluster) {
            let wakers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(notify) = wakers.get(&(namespace.clone(), cluster.clone())) {
                notify.notify_one();
            }
        }
    }
}

/// All objects that carry the label of a cluster.
#[derive(Clone)]
pub struct Stores {
    /// Pods.
    pub pods: Store<Pod>,
    /// StatefulSets.
    pub sets: Store<StatefulSet>,
    /// Services.
    pub services: Store<Service>,
    /// ConfigMaps.
    pub configs: Store<ConfigMap>,
    /// PodDisruptionBudgets.
    pub budgets: Store<PodDisruptionBudget>,
    /// PersistentVolumeClaims.
    pub claims: Store<PersistentVolumeClaim>,
    /// The machines that pods run on, as far as this operator may look at them.
    pub machines: Machines,
}

impl Stores {
    /// Starts the watches, in one namespace or in all. They run until the set of tasks is dropped.
    pub fn start(client: &Client, namespace: Option<&str>, wakers: &Wakers, tasks: &mut JoinSet<()>) -> Self {
        Self {
            pods: watch(client, namespace, wakers, tasks),
            sets: watch(client, namespace, wakers, tasks),
            services: watch(client, namespace, wakers, tasks),
            configs: watch(client, namespace, wakers, tasks),
            budgets: watch(client, namespace, wakers, tasks),
            claims: watch(client, namespace, wakers, tasks),
            machines: Machines::watch(client, wakers, tasks),
        }
    }

    /// Waits until everything was listed once.
    ///
    /// # Errors
    /// If a watch has ended.
    pub async fn ready(&self) -> Result<(), WriterDropped> {
        futures::try_join!(
            self.pods.wait_until_ready(),
            self.sets.wait_until_ready(),
            self.services.wait_until_ready(),
            self.configs.wait_until_ready(),
            self.budgets.wait_until_ready(),
            self.claims.wait_until_ready(),
        )
        .map(drop)
    }

    /// The object of this kind and name as JSON.
    #[must_use]
    pub fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<Value> {
        match kind {
            Kind::ConfigMap => json(&self.configs, namespace, name),
            Kind::Service => json(&self.services, namespace, name),
            Kind::StatefulSet => json(&self.sets, namespace, name),
            Kind::PodDisruptionBudget => json(&self.budgets, namespace, name),
        }
    }

    /// The pods of a cluster, in order of their name.
    #[must_use]
    pub fn pods_of(&self, key: &Key) -> Vec<Arc<Pod>> {
        of(&self.pods, key)
    }

    /// The StatefulSets of a cluster, in order of their name.
    #[must_use]
    pub fn sets_of(&self, key: &Key) -> Vec<Arc<StatefulSet>> {
        of(&self.sets, key)
    }

    /// The PersistentVolumeClaims of a cluster, in order of their name.
    #[must_use]
    pub fn claims_of(&self, key: &Key) -> Vec<Arc<PersistentVolumeClaim>> {
        of(&self.claims, key)
    }

    /// Changes whenever one of the cluster's objects does that are applied.
    #[must_use]
    pub fn version_of(&self, key: &Key) -> Vec<(Kind, String, String)> {
        let mut versions = Vec::new();
        versions.extend(versions_of(Kind::ConfigMap, &self.configs, key));
        versions.extend(versions_of(Kind::Service, &self.services, key));
        versions.extend(versions_of(Kind::StatefulSet, &self.sets, key));
        versions.extend(versions_of(Kind::PodDisruptionBudget, &self.budgets, key));
        versions
    }
}

fn of<K>(store: &Store<K>, (namespace, cluster): &Key) -> Vec<Arc<K>>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let mut found = store.state_filter(|object| {
        object.namespace().as_ref() == Some(namespace) && object.labels().get(names::CLUSTER) == Some(cluster)
    });
    found.sort_by_key(|object| object.name_any());
    found
}

fn versions_of<K>(kind: Kind, store: &Store<K>, key: &Key) -> Vec<(Kind, String, String)>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    of(store, key)
        .iter()
        .map(|object| (kind, object.name_any(), object.resource_version().unwrap_or_default()))
        .collect()
}

fn json<K>(store: &Store<K>, namespace: &str, name: &str) -> Option<Value>
where
    K: Resource<DynamicType = ()> + Clone + serde::Serialize + 'static,
{
    let object = store.get(&ObjectRef::new(name).within(namespace))?;
    serde_json::to_value(&*object).ok()
}

fn watch<K>(client: &Client, namespace: Option<&str>, wakers: &Wakers, tasks: &mut JoinSet<()>) -> Store<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
    K::DynamicType: Hash + Eq,
{
    let api: Api<K> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let (reader, writer): (Store<K>, Writer<K>) = reflector::store();
    let wakers = wakers.clone();
    let events = watcher::watcher(api, watcher::Config::default().labels(names::CLUSTER))
        .default_backoff()
        .modify(|object| object.managed_fields_mut().clear())
        .reflect(writer);
    tasks.spawn(async move {
        let kind = K::kind(&());
        events
            .inspect_err(|error| tracing::warn!(%kind, %error, "a watch broke off; it starts again"))
            .for_each(|event| {
                if let Ok(Event::Apply(object) | Event::Delete(object) | Event::InitApply(object)) = event {
                    wakers.wake(&object);
                }
                future::ready(())
            })
            .await;
    });
    reader
}
