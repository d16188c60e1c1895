//! How many nodes each shard's workload should have.

use crate::plan::Workload;
use crate::plan::master::{self, Master};
use crate::plan::view::{View, ordinal_of};

/// The wanted workload of a shard; `None` if it is to go. It never takes away a node that the shard's config still has, and
/// takes away nothing as long as it is not sure what that config is, which only a serving master tells, or the word of those
/// who were members before still counts.
pub(super) fn workload(view: &View<'_>) -> Option<Workload> {
    let wanted = view.spec.nodes_per_shard();
    let config = view.config;
    let is_extra = view.index >= view.spec.shards;
    if is_extra && (view.workload_nodes.is_none() || config.is_some_and(|config| config.slots.is_empty())) {
        return None;
    }
    let members = config.map(|config| config.members.as_slice()).unwrap_or_default();
    let highest = members.iter().filter_map(|member| ordinal_of(&member.name)).max();
    let held = highest.map_or(0, |ordinal| ordinal + 1);
    let is_sure = config.is_some_and(|config| matches!(master::find(view, config), Master::Serves(..)));
    let counts_on_before = config.is_some_and(|config| !config.overlap.is_empty());
    let present = if is_sure && !counts_on_before { 0 } else { view.workload_nodes.unwrap_or(0) };
    Some(Workload { shard: view.index, nodes: wanted.max(held).max(present) })
}
