//! What a user asks for, in plain Rust: the part of a KvCluster that decisions are made from.

use std::collections::BTreeMap;

use crate::lease::Failover;
use crate::quorum::Acknowledge;
use crate::source::Source;
use crate::topology::Topology;

/// The wanted cluster, validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterSpec {
    /// Number of shards, 1 to 1024.
    pub shards: u16,
    /// Replicas of each shard, 0 to 8.
    pub replicas_per_shard: u16,
    /// How replicas hang below their master.
    pub topology: Topology,
    /// What an acknowledged write promises.
    pub acknowledge: Acknowledge,
    /// When a silent master is replaced, and what one does that hears nobody.
    pub failover: Failover,
    /// Where masters should live; `None` if that is all the same.
    pub preferred: Option<Preferred>,
    /// A running server that the shards follow until this is taken away; only of use when a shard is founded.
    pub source: Option<Source>,
    /// Whether nodes have a volume; without one a restarted node is blank.
    pub durable: bool,
    /// Directives for every node, validated against [`crate::directive`].
    pub config: BTreeMap<String, String>,
}

/// Where masters should live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preferred {
    /// Where.
    pub home: Home,
    /// For how long a node there must have been in step before a master elsewhere hands over to it, in milliseconds; `None`
    /// if it never does.
    pub failback_ms: Option<u64>,
}

/// A place for masters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Home {
    /// The nodes in this zone.
    Zone(String),
    /// The node with this ordinal of each shard.
    Ordinal(u16),
}

impl ClusterSpec {
    /// Nodes of each shard: the master and its replicas.
    #[must_use]
    pub fn nodes_per_shard(&self) -> u16 {
        self.replicas_per_shard + 1
    }
}
