//! Pods whose labels somebody removed. The watches see only what carries the labels of a cluster, so such a pod looks as
//! if it were gone, and its StatefulSet gives it up; but its node runs on, and may be a master.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client, ResourceExt};
use serde_json::Value;
use tokio::time::{Instant, timeout};

use super::build::Cluster;
use super::stores::{Key, Stores};
use super::{lock, names};

/// How many pods are looked for in one pass.
const MOST: usize = 16;

/// How long looking may take: a node that is really gone is to be told as such soon.
const LIMIT: Duration = Duration::from_millis(300);

/// How long what was found is taken for true, until its labels are mended.
const FRESH: Duration = Duration::from_secs(1);

/// What was found of pods that the watches miss.
#[derive(Default)]
pub struct Hidden(Mutex<BTreeMap<String, Found>>);

struct Found {
    at: Instant,
    /// Whether the API server has said so.
    sure: bool,
    pod: Option<Arc<Pod>>,
}

impl Found {
    fn holds(&self) -> bool {
        (self.sure && self.pod.is_none()) || self.at.elapsed() < FRESH
    }
}

impl Hidden {
    /// The cluster's pods that the watches do not show. Each pod that is missing is looked for once: another one of its
    /// name, whenever it is made, has its labels.
    pub async fn find(&self, client: &Client, cluster: &Cluster, stores: &Stores) -> Vec<Arc<Pod>> {
        let missing = missing(cluster, stores);
        let unknown: Vec<String> = {
            let mut known = lock(&self.0);
            known.retain(|name, found| missing.contains(name) && found.holds());
            missing.iter().filter(|name| !known.contains_key(*name)).take(MOST).cloned().collect()
        };
        if !unknown.is_empty() {
            let api: Api<Pod> = Api::namespaced(client.clone(), &cluster.namespace);
            let lookups = unknown.iter().map(|name| api.get_opt(name));
            let mut answers = timeout(LIMIT, join_all(lookups)).await.unwrap_or_default().into_iter();
            let mut known = lock(&self.0);
            for name in unknown {
                let answer = answers.next().and_then(Result::ok);
                let sure = answer.is_some();
                let pod = answer.flatten().filter(|pod| is_node_of(cluster, pod)).map(Arc::new);
                known.insert(name, Found { at: Instant::now(), sure, pod });
            }
        }
        lock(&self.0).values().filter_map(|found| found.pod.clone()).collect()
    }
}

/// Names of the pods that StatefulSets should have and that the watches do not show.
fn missing(cluster: &Cluster, stores: &Stores) -> Vec<String> {
    let key: Key = (cluster.namespace.clone(), cluster.name.clone());
    let sets = stores.sets_of(&key);
    let alive = sets.iter().filter(|set| set.metadata.deletion_timestamp.is_none());
    let wanted = alive.flat_map(|set| {
        let replicas = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
        let name = set.name_any();
        (0..replicas).map(move |ordinal| format!("{name}-{ordinal}"))
    });
    let shown = stores.pods_of(&key);
    wanted.filter(|name| !shown.iter().any(|pod| pod.name_any() == *name)).collect()
}

/// Whether a pod runs a node of this very cluster, whatever its labels say.
#[must_use]
pub fn is_node_of(cluster: &Cluster, pod: &Pod) -> bool {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let args: Vec<&String> = containers.filter_map(|container| container.args.as_ref()).flatten().collect();
    let ours =
        |pair: &[&String]| matches!(pair, [flag, uid] if *flag == "--kv-cluster-uid" && **uid == cluster.uid);
    names::node_of(&cluster.name, &pod.name_any()).is_some() && args.windows(2).any(ours)
}

/// The labels that select a node's pod, if the pod lacks one of them.
#[must_use]
pub fn lost_labels(cluster: &Cluster, pod: &Pod) -> Option<Value> {
    let (shard, _) = names::node_of(&cluster.name, pod.metadata.name.as_deref()?)?;
    let wanted = names::selector(&cluster.name, Some(shard));
    let has = |(name, value): (&String, &Value)| pod.labels().get(name).map(String::as_str) == value.as_str();
    let lacks = !wanted.as_object()?.iter().all(has);
    let alive = pod.metadata.deletion_timestamp.is_none();
    (lacks && alive && is_node_of(cluster, pod)).then_some(wanted)
}

/// The pod of this name, if the watches show it.
#[must_use]
pub fn shown(stores: &Stores, namespace: &str, name: &str) -> Option<Arc<Pod>> {
    stores.pods.get(&ObjectRef::new(name).within(namespace))
}
