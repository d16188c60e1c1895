//! The engine's status as the status of a KvCluster resource.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kv_core::plan;

use super::StatusUpdate;
use crate::crd::{
    KvCluster, KvClusterStatus, NodeHealth, NodeStatus, ShardStatus, SourceStatus, State, TopologyType,
};

/// The status of a KvCluster. A condition keeps the time of its last transition from the status before.
#[must_use]
pub fn resource_status(
    cluster: &KvCluster,
    before: Option<&KvClusterStatus>,
    update: &StatusUpdate,
    now: Timestamp,
) -> KvClusterStatus {
    let status = &update.status;
    let conditions: Vec<_> =
        status.conditions.iter().map(|new| condition(new, before, update.generation, now)).collect();
    KvClusterStatus {
        observed_generation: Some(update.generation),
        state: Some(State::of(&conditions)),
        conditions,
        ready_nodes: status.ready_nodes,
        ready: format!("{}/{}", status.ready_nodes, status.total_nodes),
        masters: status.masters.clone(),
        topology: topology(cluster),
        image: cluster.spec.image.clone().unwrap_or_default(),
        shards: status.shards.iter().map(shard).collect(),
        failovers: update.failovers.clone(),
    }
}

fn condition(
    new: &plan::Condition,
    before: Option<&KvClusterStatus>,
    generation: i64,
    now: Timestamp,
) -> Condition {
    let type_ = format!("{:?}", new.kind);
    let status = if new.status { "True" } else { "False" }.to_owned();
    let old = before.and_then(|before| before.conditions.iter().find(|old| old.type_ == type_));
    let since =
        old.filter(|old| old.status == status).map_or(Time(now), |old| old.last_transition_time.clone());
    Condition {
        type_,
        status,
        reason: new.reason.clone(),
        message: new.message.clone(),
        last_transition_time: since,
        observed_generation: Some(generation),
    }
}

fn topology(cluster: &KvCluster) -> String {
    let topology = &cluster.spec.replication.topology;
    match (topology.kind, topology.fanout) {
        (TopologyType::Tree, Some(fanout)) => format!("Tree({fanout})"),
        (kind, _) => format!("{kind:?}"),
    }
}

fn shard(shard: &plan::ShardStatus) -> ShardStatus {
    ShardStatus {
        index: shard.index,
        epoch: shard.epoch.0,
        master: shard.master.clone(),
        source: shard.source.as_ref().map(source),
        slots: shard.slots.ranges().iter().map(ToString::to_string).collect(),
        nodes: shard.nodes.iter().map(node).collect(),
    }
}

fn source(source: &plan::SourceStatus) -> SourceStatus {
    SourceStatus {
        address: source.address.clone(),
        following: source.following,
        lag_bytes: source.lag_bytes,
        problem: source.problem.clone(),
    }
}

fn node(node: &plan::NodeStatus) -> NodeStatus {
    NodeStatus {
        name: node.name.clone(),
        id: node.id.map(|id| id.to_string()),
        role: node.role,
        parent: node.parent.clone(),
        state: match node.state {
            plan::NodeCondition::Ready => NodeHealth::Ready,
            plan::NodeCondition::Starting => NodeHealth::Starting,
            plan::NodeCondition::Joining => NodeHealth::Joining,
            plan::NodeCondition::Fenced => NodeHealth::Fenced,
            plan::NodeCondition::Syncing => NodeHealth::Syncing,
            plan::NodeCondition::DiskFull => NodeHealth::DiskFull,
            plan::NodeCondition::Leaving => NodeHealth::Leaving,
            plan::NodeCondition::Down => NodeHealth::Down,
            plan::NodeCondition::Stray => NodeHealth::Stray,
        },
        offset: node.offset,
        lag_bytes: node.lag_bytes,
        lag: node.lag_ms.map(|lag| format!("{lag}ms")),
    }
}
