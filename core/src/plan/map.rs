//! What every node should know of the whole cluster.

use std::collections::BTreeMap;

use crate::control::digest;
use crate::id::{ClusterUid, NodeId};
use crate::plan::election::is_known;
use crate::plan::view::View;
use crate::shard::{ClusterMap, ShardConfig};

/// The map, and the nodes that answer and have another one.
pub(super) fn map(uid: &ClusterUid, shards: &[View<'_>]) -> (ClusterMap, Vec<NodeId>) {
    let nodes = || shards.iter().flat_map(|view| &view.nodes);
    let addresses: BTreeMap<_, _> =
        nodes().filter_map(|seen| Some((seen.id()?, seen.node.address.clone()?))).collect();
    let configs: Vec<_> = shards.iter().filter_map(shown).collect();
    let down = shards.iter().flat_map(down).collect();
    let map = ClusterMap { uid: uid.clone(), shards: configs, addresses, down };
    let current = serde_json::to_vec(&map).map(|json| digest(&json)).unwrap_or_default();
    let outdated = nodes().filter(|seen| seen.answers).filter_map(|seen| seen.report);
    let targets = outdated.filter(|report| report.map_digest != current).map(|report| report.id).collect();
    (map, targets)
}

/// A shard's config as others are to know it: without the slots that it takes, as long as its next master might not know that.
fn shown(view: &View<'_>) -> Option<ShardConfig> {
    let mut config = view.config?.clone();
    if !config.taken.is_empty() && !is_known(view, &config) {
        let taken = std::mem::take(&mut config.taken);
        config.slots = taken.iter().fold(config.slots, |slots, taken| slots.without(&taken.slots));
    }
    Some(config)
}

fn down(view: &View<'_>) -> Vec<NodeId> {
    let members = view.config.map(|config| config.members.as_slice()).unwrap_or_default();
    let is_down = |id: NodeId| !view.node(id).is_some_and(|seen| seen.answers);
    members.iter().map(|member| member.id).filter(|&id| is_down(id)).collect()
}
