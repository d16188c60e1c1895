//! Shards of managed nodes, told what they are by the test.

use std::collections::BTreeMap;

use kv_core::control::LinkState;
use kv_core::id::{ClusterUid, Epoch, NodeId};
use kv_core::quorum::Acknowledge;
use kv_core::shard::{ClusterMap, Member, NodeAddress, ShardConfig};
use kv_core::slot::SlotSet;

use super::Process;

pub fn config(epoch: u64, master: &Process, replicas: &[&Process]) -> ShardConfig {
    let id = |node: &Process| node.report().id;
    let member =
        |node: &Process, parent: Option<NodeId>| Member { id: id(node), name: node.report().name, parent };
    let mut members = vec![member(master, None)];
    members.extend(replicas.iter().map(|node| member(node, Some(id(master)))));
    ShardConfig {
        uid: ClusterUid("uid".into()),
        shard: 0,
        epoch: Epoch(epoch),
        master: id(master),
        members,
        slots: SlotSet::all(),
        acknowledge: Acknowledge::Async,
        failover: kv_core::lease::Failover::default(),
        overlap: None,
    }
}

pub fn accept(node: &Process, config: &ShardConfig) -> redis::RedisResult<kv_core::control::NodeReport> {
    node.control(&["ACCEPT", &serde_json::to_string(config).unwrap()])
}

pub fn address(node: &Process) -> NodeAddress {
    NodeAddress {
        ip: "127.0.0.1".into(),
        hostname: String::new(),
        port: node.port,
        bus_port: node.port + 10_000,
    }
}

pub fn tell_map(nodes: &[&Process], config: &ShardConfig) {
    let addresses: BTreeMap<_, _> = nodes.iter().map(|node| (node.report().id, address(node))).collect();
    let map = ClusterMap { uid: config.uid.clone(), shards: vec![config.clone()], addresses, down: vec![] };
    for node in nodes {
        node.control(&["MAP", &serde_json::to_string(&map).unwrap()]).unwrap();
    }
}

pub fn streaming(node: &Process) -> bool {
    node.report().link.is_some_and(|link| link.state == LinkState::Streaming)
}
