//! What every node should know of the whole cluster.

use std::collections::BTreeMap;

use crate::control::digest;
use crate::id::{ClusterUid, NodeId};
use crate::plan::view::View;
use crate::shard::ClusterMap;

/// The map, and the nodes that answer and have another one.
pub(super) fn map(uid: &ClusterUid, shards: &[View<'_>]) -> (ClusterMap, Vec<NodeId>) {
    let nodes = || shards.iter().flat_map(|view| &view.nodes);
    let addresses: BTreeMap<_, _> =
        nodes().filter_map(|seen| Some((seen.id()?, seen.node.address.clone()?))).collect();
    let configs: Vec<_> = shards.iter().filter_map(|view| view.config.cloned()).collect();
    let down = shards.iter().flat_map(down).collect();
    let map = ClusterMap { uid: uid.clone(), shards: configs, addresses, down };
    let current = serde_json::to_vec(&map).map(|json| digest(&json)).unwrap_or_default();
    let outdated = nodes().filter(|seen| seen.answers).filter_map(|seen| seen.report);
    let targets = outdated.filter(|report| report.map_digest != current).map(|report| report.id).collect();
    (map, targets)
}

fn down(view: &View<'_>) -> Vec<NodeId> {
    let members = view.config.map(|config| config.members.as_slice()).unwrap_or_default();
    let is_down = |id: NodeId| !view.node(id).is_some_and(|seen| seen.answers);
    members.iter().map(|member| member.id).filter(|&id| is_down(id)).collect()
}
