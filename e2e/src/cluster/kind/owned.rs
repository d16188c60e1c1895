//! Invariant G: which objects there are in the namespace, and which there must be.

use std::collections::BTreeSet;

use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};

use super::Kind;
use crate::cluster::Result;
use crate::scenario::Size;

/// Kinds of objects that an operator could make, or touch, in a namespace: group, version, kind, plural.
const KINDS: [(&str, &str, &str, &str); 14] = [
    ("", "v1", "ConfigMap", "configmaps"),
    ("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims"),
    ("", "v1", "Pod", "pods"),
    ("", "v1", "Secret", "secrets"),
    ("", "v1", "Service", "services"),
    ("", "v1", "ServiceAccount", "serviceaccounts"),
    ("apps", "v1", "DaemonSet", "daemonsets"),
    ("apps", "v1", "Deployment", "deployments"),
    ("apps", "v1", "StatefulSet", "statefulsets"),
    ("batch", "v1", "Job", "jobs"),
    ("coordination.k8s.io", "v1", "Lease", "leases"),
    ("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"),
    ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    ("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings"),
];

/// What Kubernetes puts into every namespace, and the pod that clients run in.
const OTHERS: [&str; 3] = ["ConfigMap/kube-root-ca.crt", "ServiceAccount/default", "Pod/kv-e2e-client"];

/// All objects of the namespace as `Kind/name`, but for those of Kubernetes itself and of the tests.
///
/// # Errors
/// If the API server cannot be asked.
pub async fn objects(kind: &Kind) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for (group, version, name, plural) in KINDS {
        let resource =
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, name), plural);
        let api: Api<DynamicObject> = Api::namespaced_with(kind.client(), kind.namespace(), &resource);
        let objects = api.list(&ListParams::default()).await?;
        found.extend(
            objects.items.into_iter().filter_map(|object| Some(format!("{name}/{}", object.metadata.name?))),
        );
    }
    found.retain(|object| !OTHERS.contains(&object.as_str()));
    Ok(found)
}

/// The objects that a KvCluster of this name and size, with volumes, is to own.
#[must_use]
pub fn expected(name: &str, size: Size) -> BTreeSet<String> {
    let mut objects: BTreeSet<String> = [
        format!("ConfigMap/{name}-config"),
        format!("Secret/{name}-auth"),
        format!("Secret/{name}-control"),
        format!("Service/{name}"),
        format!("Service/{name}-nodes"),
        format!("Service/{name}-readonly"),
    ]
    .into();
    for shard in 0..size.shards {
        objects.insert(format!("StatefulSet/{name}-{shard}"));
        objects.insert(format!("PodDisruptionBudget/{name}-{shard}"));
        for node in 0..size.nodes {
            objects.insert(format!("Pod/{name}-{shard}-{node}"));
            objects.insert(format!("PersistentVolumeClaim/data-{name}-{shard}-{node}"));
        }
    }
    objects
}
