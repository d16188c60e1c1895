//! Who a user wants to lead a shard: an annotation of the KvCluster for each shard, which is taken away when that node
//! leads, or when the shard has no such node. A wish that cannot be granted yet stands until it is, or is taken back.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::crd::{KvClusterStatus, NodeHealth, ShardStatus};
use kv_core::shard::Role;

/// What the annotation's name begins with; the index of the shard follows.
const PREFIX: &str = "kvcluster.io/switchover-";

/// The annotation that wishes for a master of this shard.
#[must_use]
pub fn annotation(shard: u16) -> String {
    format!("{PREFIX}{shard}")
}

/// The wishes of an object: the name of a node for each shard that has one.
#[must_use]
pub fn wishes(meta: &ObjectMeta) -> BTreeMap<u16, String> {
    let of = |(key, value): (&String, &String)| {
        let shard = key.strip_prefix(PREFIX)?.parse().ok()?;
        (annotation(shard) == *key).then(|| (shard, value.clone()))
    };
    meta.annotations.iter().flatten().filter_map(of).collect()
}

/// Why nobody can be asked to lead.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum NobodyToAsk {
    /// There is no such shard.
    #[error("there is no shard {0}")]
    NoShard(u16),
    /// The shard has no such node.
    #[error("shard {shard} has no node {node}; it has {}", .nodes.join(", "))]
    NoNode {
        /// The shard.
        shard: u16,
        /// What was asked for.
        node: String,
        /// What there is.
        nodes: Vec<String>,
    },
    /// No replica is in step.
    #[error("shard {0} has no replica that is ready to lead")]
    NoReplica(u16),
}

/// The node to ask: `to`, or else the ready replica that is behind the least.
///
/// # Errors
/// If there is none.
pub fn successor(status: &KvClusterStatus, shard: u16, to: Option<&str>) -> Result<String, NobodyToAsk> {
    let of_shard = |one: &&ShardStatus| one.index == shard;
    let found = status.shards.iter().find(of_shard).ok_or(NobodyToAsk::NoShard(shard))?;
    if let Some(node) = to {
        return match found.nodes.iter().any(|one| one.name == node) {
            true => Ok(node.to_owned()),
            false => {
                let nodes = found.nodes.iter().map(|one| one.name.clone()).collect();
                Err(NobodyToAsk::NoNode { shard, node: node.to_owned(), nodes })
            }
        };
    }
    let ready =
        found.nodes.iter().filter(|node| node.role == Some(Role::Replica) && node.state == NodeHealth::Ready);
    let best = ready.min_by_key(|node| node.lag_bytes.unwrap_or(u64::MAX));
    best.map(|node| node.name.clone()).ok_or(NobodyToAsk::NoReplica(shard))
}

/// Whether this node leads the shard, as far as the status knows.
#[must_use]
pub fn leads(status: &KvClusterStatus, shard: u16, node: &str) -> bool {
    let found = status.shards.iter().find(|one| one.index == shard);
    found.is_some_and(|one| one.master.as_deref() == Some(node))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> KvClusterStatus {
        let node = |name: &str, role: &str, state: &str, lag: u64| serde_json::json!({"name": name, "role": role, "state": state, "lagBytes": lag});
        let nodes = [
            node("a-0-0", "Master", "Ready", 0),
            node("a-0-1", "Replica", "Ready", 9),
            node("a-0-2", "Replica", "Ready", 3),
            node("a-0-3", "Replica", "Down", 0),
        ];
        let shards = [serde_json::json!({"index": 0, "master": "a-0-0", "nodes": nodes})];
        serde_json::from_value(serde_json::json!({"shards": shards})).unwrap()
    }

    #[test]
    fn the_ready_replica_that_is_behind_the_least_is_asked_or_the_one_that_is_named() {
        let status = status();
        assert_eq!(successor(&status, 0, None).unwrap(), "a-0-2");
        assert_eq!(successor(&status, 0, Some("a-0-1")).unwrap(), "a-0-1");
        assert_eq!(successor(&status, 1, None), Err(NobodyToAsk::NoShard(1)));
        let text = successor(&status, 0, Some("b-0-1")).unwrap_err().to_string();
        assert_eq!(text, "shard 0 has no node b-0-1; it has a-0-0, a-0-1, a-0-2, a-0-3");
        assert!(leads(&status, 0, "a-0-0") && !leads(&status, 0, "a-0-1"));
    }

    #[test]
    fn wishes_are_read_from_annotations_that_name_a_shard() {
        let annotations = [
            ("kvcluster.io/switchover-0", "a-0-1"),
            ("kvcluster.io/switchover-12", "a-12-0"),
            ("kvcluster.io/switchover-", "x"),
            ("kvcluster.io/switchover-007", "x"),
            ("kvcluster.io/other", "x"),
        ];
        let annotations = annotations.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let meta = ObjectMeta { annotations: Some(annotations.into()), ..ObjectMeta::default() };
        let expected = [(0, "a-0-1".to_owned()), (12, "a-12-0".to_owned())];
        assert_eq!(wishes(&meta), expected.into());
    }
}
