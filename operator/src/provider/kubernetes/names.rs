//! Names and labels of what a cluster owns. They are an interface: changing one orphans running clusters.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// The field manager of everything that is applied.
pub const MANAGER: &str = "kv-operator";

/// The finalizer on a KvCluster.
pub const FINALIZER: &str = "kvcluster.io/cleanup";

/// Label: name of the KvCluster.
pub const CLUSTER: &str = "kvcluster.io/cluster";

/// Label: index of the shard.
pub const SHARD: &str = "kvcluster.io/shard";

/// Label on pods: `master` or `replica`.
pub const ROLE: &str = "kvcluster.io/role";

/// Annotation: digest of the object as it was built.
pub const APPLIED: &str = "kvcluster.io/applied";

/// Annotation on pods: digest of the directives that a node takes only when it starts.
pub const FIXED: &str = "kvcluster.io/fixed-directives";

/// Annotation on the ConfigMap: the last spec that was valid, as JSON.
pub const VALID_SPEC: &str = "kvcluster.io/valid-spec";

/// Name of a node's volume; its PersistentVolumeClaim is named after it and the node.
pub const VOLUME: &str = "data";

/// Port of clients, replication and control.
pub const CLIENT_PORT: u16 = 6379;

/// Port that is announced for peers.
pub const BUS_PORT: u16 = 16379;

/// Port of the Sentinel protocol.
pub const SENTINEL_PORT: u16 = 26379;

/// Port of health and metrics.
pub const HEALTH_PORT: u16 = 9121;

/// Name of a shard's StatefulSet and PodDisruptionBudget.
#[must_use]
pub fn shard(cluster: &str, shard: u16) -> String {
    format!("{cluster}-{shard}")
}

/// The shard whose StatefulSet has this name; `None` if no shard's has.
#[must_use]
pub fn shard_of_set(cluster: &str, set: &str) -> Option<u16> {
    let index = set.strip_prefix(cluster)?.strip_prefix('-')?.parse().ok()?;
    (shard(cluster, index) == set).then_some(index)
}

/// Shard and ordinal of the node that has this name; `None` if no node has.
#[must_use]
pub fn node_of(cluster: &str, node: &str) -> Option<(u16, u16)> {
    let (set, ordinal) = node.rsplit_once('-')?;
    Some((shard_of_set(cluster, set)?, ordinal.parse().ok()?))
}

/// Shard and ordinal of the node whose PersistentVolumeClaim has this name; `None` if no node's has.
#[must_use]
pub fn node_of_claim(cluster: &str, claim: &str) -> Option<(u16, u16)> {
    node_of(cluster, claim.strip_prefix(VOLUME)?.strip_prefix('-')?)
}

/// Name of the headless Service that gives the nodes their DNS names.
#[must_use]
pub fn nodes(cluster: &str) -> String {
    format!("{cluster}-nodes")
}

/// Name of the Service of the replicas.
#[must_use]
pub fn readonly(cluster: &str) -> String {
    format!("{cluster}-readonly")
}

/// Name of the ConfigMap.
#[must_use]
pub fn config(cluster: &str) -> String {
    format!("{cluster}-config")
}

/// Name of the Secret that is generated for clients.
#[must_use]
pub fn auth(cluster: &str) -> String {
    format!("{cluster}-auth")
}

/// Name of the Secret of the control protocol.
#[must_use]
pub fn control(cluster: &str) -> String {
    format!("{cluster}-control")
}

/// DNS name of a node, relative to the cluster's domain.
#[must_use]
pub fn hostname(cluster: &str, namespace: &str, node: &str) -> String {
    format!("{node}.{}.{namespace}.svc", nodes(cluster))
}

/// Labels of an object of a cluster; of a shard, if one is given.
#[must_use]
pub fn labels(cluster: &str, shard: Option<u16>) -> Value {
    let mut labels = json!({
        "app.kubernetes.io/name": "kvcluster",
        "app.kubernetes.io/instance": cluster,
        "app.kubernetes.io/component": "node",
        "app.kubernetes.io/part-of": "kvcluster",
        "app.kubernetes.io/managed-by": MANAGER,
    });
    merge(&mut labels, selector(cluster, shard));
    labels
}

/// Labels that select the pods of a cluster; of a shard, if one is given.
#[must_use]
pub fn selector(cluster: &str, shard: Option<u16>) -> Value {
    match shard {
        Some(shard) => json!({ CLUSTER: cluster, SHARD: shard.to_string() }),
        None => json!({ CLUSTER: cluster }),
    }
}

/// The shard that an object's labels name.
#[must_use]
pub fn shard_of(labels: &BTreeMap<String, String>) -> Option<u16> {
    labels.get(SHARD)?.parse().ok()
}

/// Adds the fields of one JSON object to another.
pub(super) fn merge(into: &mut Value, from: Value) {
    if let (Value::Object(into), Value::Object(from)) = (into, from) {
        into.extend(from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        assert_eq!(shard_of_set("a", "a-3"), Some(3));
        assert_eq!(node_of("a", "a-3-1"), Some((3, 1)));
        assert_eq!(node_of_claim("a-b", "data-a-b-0-2"), Some((0, 2)));
        for foreign in ["a-3", "data-a-b-0-2", "data-a-01-2", "data-a-x-2", "other-a-0-2", "data-ab-0-2"] {
            assert_eq!(node_of_claim("a", foreign), None, "{foreign}");
        }
    }
}
