//! How many nodes each shard's workload should have.

use crate::plan::Workload;
use crate::plan::election::is_known;
use crate::plan::master::{self, Master};
use crate::plan::view::{View, ordinal_of};
use crate::shard::ShardConfig;

/// The wanted workload of a shard; `None` if it is to go. It never takes away a node that the shard's config still has, and
/// takes away nothing as long as it is not sure what that config is, which only a serving master tells, or the word of those
/// who were members before still counts.
pub(super) fn workload(view: &View<'_>, all: &[View<'_>]) -> Option<Workload> {
    let wanted = view.spec.nodes_per_shard();
    let config = view.config;
    let is_extra = view.index >= view.spec.shards;
    if is_extra && (view.workload_nodes.is_none() || is_empty(view, all)) {
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

/// Whether a shard has nothing that anybody could miss: its master says so, and no other shard waits for its word; or it was
/// never founded, and the other shards have all slots.
fn is_empty(view: &View<'_>, all: &[View<'_>]) -> bool {
    match view.config {
        None => super::founding::uncovered(all).is_empty(),
        Some(config) => match master::find(view, config) {
            Master::Serves(_, report) => {
                let takers = all.iter().filter_map(|other| other.config).flat_map(|other| &other.taken);
                let needed = takers.into_iter().any(|taken| taken.from == view.index);
                serves_nothing(config) && is_known(view, config) && report.keys == 0 && !needed
            }
            _ => false,
        },
    }
}

fn serves_nothing(config: &ShardConfig) -> bool {
    config.slots.is_empty() && config.given.is_empty() && config.taken.is_empty()
}

/// Whether a shard beyond the specified ones is on its way out: it serves nothing, and its workload was deleted.
pub(super) fn is_gone(view: &View<'_>) -> bool {
    let is_extra = view.index >= view.spec.shards;
    is_extra && view.workload_nodes.is_none() && view.config.is_some_and(serves_nothing)
}
