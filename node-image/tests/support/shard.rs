//! Shards of managed nodes, told what they are by the test.

use std::collections::BTreeMap;

use kv_core::control::{LinkState, NodeState};
use kv_core::id::{ClusterUid, Epoch, NodeId};
use kv_core::quorum::Acknowledge;
use kv_core::shard::{ClusterMap, Member, NodeAddress, ShardConfig};
use kv_core::slot::SlotSet;

use rustix::process::Signal;

use super::{Process, until};

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
        topology: kv_core::topology::Topology::Star,
        failover: kv_core::lease::Failover::default(),
        source: None,
        overlap: Vec::new(),
        former: Vec::new(),
        given: Vec::new(),
        taken: Vec::new(),
        left: SlotSet::default(),
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
    tell_map_at(nodes, config, &[]);
}

/// The same, with other ports in place of some nodes' own.
pub fn tell_map_at(nodes: &[&Process], config: &ShardConfig, ports: &[(NodeId, u16)]) {
    let mut addresses: BTreeMap<_, _> = nodes.iter().map(|node| (node.report().id, address(node))).collect();
    for &(id, port) in ports {
        let at = addresses.entry(id).or_insert_with(|| NodeAddress {
            ip: "127.0.0.1".into(),
            hostname: String::new(),
            port,
            bus_port: port,
        });
        at.port = port;
    }
    let map = ClusterMap { uid: config.uid.clone(), shards: vec![config.clone()], addresses, down: vec![] };
    for node in nodes {
        node.control(&["MAP", &serde_json::to_string(&map).unwrap()]).unwrap();
    }
}

pub fn streaming(node: &Process) -> bool {
    node.report().link.is_some_and(|link| link.state == LinkState::Streaming)
}

/// A shard of managed nodes under one config; the first node is its first master.
pub struct Shard {
    pub nodes: Vec<Process>,
    pub config: ShardConfig,
}

impl Shard {
    /// Under epoch 1, as `adapt` makes the config.
    pub fn new(replicas: usize, adapt: impl FnOnce(&mut ShardConfig)) -> Self {
        Self::with(&[], replicas, adapt)
    }

    /// The same of nodes with these arguments.
    pub fn with(args: &[&str], replicas: usize, adapt: impl FnOnce(&mut ShardConfig)) -> Self {
        let nodes: Vec<_> = (0..=replicas).map(|n| Process::managed(&format!("s-0-{n}"), args)).collect();
        let others: Vec<_> = nodes.iter().skip(1).collect();
        let mut config = config(1, &nodes[0], &others);
        adapt(&mut config);
        let shard = Self { nodes, config };
        shard.accept();
        tell_map(&shard.nodes.iter().collect::<Vec<_>>(), &shard.config);
        until("the replicas stream", || shard.nodes.iter().skip(1).all(streaming));
        shard
    }

    pub fn master(&self) -> &Process {
        &self.nodes[0]
    }

    /// Sends the config to all.
    pub fn accept(&self) {
        self.nodes.iter().for_each(|node| drop(accept(node, &self.config).unwrap()));
    }

    pub fn signal(&self, nodes: &[usize], signal: Signal) {
        nodes.iter().for_each(|&node| self.nodes[node].signal(signal));
    }

    /// Which of these nodes says that it is the serving master.
    pub fn leader(&self, among: &[usize]) -> Option<usize> {
        among.iter().copied().find(|&node| self.nodes[node].report().state == NodeState::Master)
    }
}
