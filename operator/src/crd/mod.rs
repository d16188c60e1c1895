//! The `KvCluster` resource: what users write, and what they read back.
//!
//! Only what works is in here. The doc comments are the descriptions that `kubectl explain` shows, and the rules are
//! checked by the API server; `validate` checks the same where there is none (local mode).

#![allow(clippy::duplicated_attributes, reason = "columns of one table share types and priorities")]

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod document;
mod failover;
mod receipt;
mod schema;
mod status;
mod validate;

pub use document::{ReadError, read};
pub use failover::{Failback, Failover, OnIsolation, OnQuorumLoss, Preferred};
pub use receipt::{Candidate, Lost, Proposer, Receipt, ReceiptKind};
pub use schema::{definition, definition_template, definition_yaml};
pub use status::{KvClusterStatus, NodeHealth, NodeStatus, ShardStatus, SourceStatus, State};
pub use validate::{InvalidField, describe, quantity};

/// The wanted cluster.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kvcluster.io",
    version = "v1alpha1",
    kind = "KvCluster",
    plural = "kvclusters",
    shortname = "kvc",
    category = "kv",
    namespaced,
    status = "KvClusterStatus",
    derive = "PartialEq",
    doc = "A replicated, sharded key-value cluster that speaks the Redis protocol.",
    printcolumn(name = "Shards", type_ = "integer", json_path = ".spec.shards"),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".spec.replicasPerShard"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.ready"),
    printcolumn(name = "Masters", type_ = "string", json_path = ".status.masters"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Topology", type_ = "string", json_path = ".status.topology", priority = "1"),
    printcolumn(name = "Image", type_ = "string", json_path = ".status.image", priority = "1")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "(has(self.storage) && has(self.storage.volume)) == (has(oldSelf.storage) && has(oldSelf.storage.volume))",
        "message": "spec.storage.volume cannot be added or removed after creation",
    },
    {
        "rule": "!has(self.replication.acknowledge.copies) \
                 || self.replication.acknowledge.copies <= self.replicasPerShard + 1",
        "message": "spec.replication.acknowledge.copies must be at most the nodes of a shard: spec.replicasPerShard + 1",
    },
    {
        "rule": "self.failover.onIsolation != 'KeepWriting' || self.replication.acknowledge.mode == 'Async'",
        "message": "spec.failover.onIsolation KeepWriting needs spec.replication.acknowledge.mode Async",
    },
    {
        "rule": "!has(self.failover.preferred) || !has(self.failover.preferred.ordinal) \
                 || self.failover.preferred.ordinal <= self.replicasPerShard",
        "message": "spec.failover.preferred.ordinal must be at most spec.replicasPerShard",
    },
    {
        "rule": "self.replication.acknowledge.mode != 'SemiSync' \
                 || (has(self.replication.acknowledge.replicas) ? self.replication.acknowledge.replicas : 1) \
                 <= self.replicasPerShard",
        "message": "spec.replication.acknowledge.replicas must be at most spec.replicasPerShard",
    },
    {
        "rule": "!has(self.source) || self.shards == 1",
        "message": "spec.source can be adopted by a cluster of one shard only: spec.shards must be 1",
    },
]))]
pub struct KvClusterSpec {
    /// Number of shards. Each serves a part of the 16384 slots. Where it is changed, slots move between the shards, live.
    #[schemars(range(min = 1, max = 1024))]
    pub shards: u16,

    /// Replicas of each shard, beside its master.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 0, max = 8))]
    pub replicas_per_shard: u16,

    /// How data is copied from a shard's master to its replicas. Changes are applied live.
    #[serde(default)]
    pub replication: Replication,

    /// When a replica takes over.
    #[serde(default)]
    pub failover: Failover,

    /// Image of the nodes. Default: the one that the operator was started with, also after an upgrade of the operator.
    /// Pods that run are renewed one at a time in each shard, replicas first, the master after a hand-over, while all
    /// others are in step. The condition UpToDate names those that are older.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub image: Option<String>,

    /// Where the data is kept. Absent: in memory only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<Storage>,

    /// Directives for every node, as in a node's configuration file, such as `maxmemory: 512mb`. Those that a running
    /// node can take are applied at once, for the others the pods are renewed as for an image. Directives that the
    /// operator sets itself are refused. What somebody changes by CONFIG SET of these is set back; of others it stays until
    /// the node starts anew, at that node only.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 256))]
    pub config: BTreeMap<String, Scalar>,

    /// Compute resources of each node's container. Pods that run are renewed as for an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,

    /// How clients log in. Absent: with a password that is generated into the Secret `NAME-auth`, key `password`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,

    /// A running Redis or Valkey to take over from, only of use for a new cluster of one shard. The cluster starts as its
    /// replica: clients can read, and writes are refused. To cut over, remove spec.source: the cluster takes writes as
    /// soon as it has all of the source's data. Until then putting it back takes that back. The condition Adopting and
    /// status.shards[0].source tell how far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
}

/// A running Redis or Valkey.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// Host name or IP address of the server, a master.
    #[schemars(length(min = 1, max = 253))]
    pub host: String,

    /// Its port.
    #[serde(default = "default_source_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,

    /// A Secret in the same namespace: the key `password` holds the password, and `username` the user, if that is not the
    /// default user. The user must be allowed to run PSYNC, REPLCONF, PING, INFO and CLIENT. Absent: no login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<SecretRef>,

    /// What is done with the source's writers at the cut-over. Pause: the source holds their writes (CLIENT PAUSE WRITE, Redis
    /// 6.2 and later) until the cluster has everything, and for a minute more. Stopped: nothing, as you have stopped them; the
    /// cluster is not cut over while the source takes writes.
    #[serde(default)]
    pub writers: Writers,
}

/// What is done with a source's writers at the cut-over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Writers {
    /// Their writes are held.
    #[default]
    Pause,
    /// Nothing: they have been stopped.
    Stopped,
}

/// How data is copied from a shard's master to its replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Replication {
    /// How the replicas of a shard hang below its master.
    #[serde(default)]
    pub topology: Topology,

    /// What an acknowledged write promises. Changes are applied live.
    #[serde(default)]
    pub acknowledge: Acknowledge,
}

/// What an acknowledged write promises.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "!has(self.replicas) || self.mode == 'SemiSync'",
        "message": "spec.replication.acknowledge.replicas has a meaning with mode SemiSync only",
    },
    {
        "rule": "!has(self.copies) || self.mode == 'Quorum'",
        "message": "spec.replication.acknowledge.copies has a meaning with mode Quorum only",
    },
]))]
pub struct Acknowledge {
    /// Async: a write is acknowledged when the master has it; if the master is lost, so is what it had not sent yet.
    /// SemiSync: when `replicas` replicas have it, too; after `timeout` without them the shard goes on as with Async, and
    /// the condition Durable says so, until they have caught up. Quorum: when `copies` nodes have it; no acknowledged
    /// write is lost as long as fewer nodes than that are. It never degrades: after `timeout` the reply is the error
    /// UNCERTAIN, and while too few nodes are there writes are refused with NOREPLICAS. Only replicas that the master
    /// feeds itself count.
    #[serde(default)]
    pub mode: AcknowledgeMode,

    /// SemiSync: replicas that must have a write. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 8))]
    pub replicas: Option<u16>,

    /// Quorum: nodes that must have a write, the master included. Default: more than half of a shard's nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 9))]
    pub copies: Option<u16>,

    /// For how long a reply is held, from 10ms to 60s. It has no meaning with mode Async.
    #[serde(default = "default_acknowledge_timeout")]
    #[schemars(
        length(max = schema::MAX_DURATION),
        regex(pattern = r"^([0-9]+(\.[0-9]+)?(ms|s|m))+$"),
        extend("x-kubernetes-validations" = [{
            "rule": "duration(self) >= duration('10ms') && duration(self) <= duration('60s')",
            "message": "spec.replication.acknowledge.timeout must be from 10ms to 60s",
        }])
    )]
    pub timeout: String,
}

impl Default for Acknowledge {
    fn default() -> Self {
        Self {
            mode: AcknowledgeMode::default(),
            replicas: None,
            copies: None,
            timeout: default_acknowledge_timeout(),
        }
    }
}

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum AcknowledgeMode {
    /// When the master has it.
    #[default]
    Async,
    /// When some replicas have it, too, unless they do not keep up.
    SemiSync,
    /// When enough nodes have it.
    Quorum,
}

/// How the replicas of a shard hang below its master.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "(self.type == 'Tree') == has(self.fanout)",
    "message": "spec.replication.topology.fanout must be given with type Tree, and with no other type",
}]))]
pub struct Topology {
    /// Star: the master feeds every replica. Chain: it feeds one replica, that one the next, and so on.
    /// Tree: the master and every replica feed up to `fanout` replicas each.
    #[serde(rename = "type", default)]
    pub kind: TopologyType,

    /// How many replicas a node of a Tree may feed. Required with type Tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 8))]
    pub fanout: Option<u16>,
}

/// The shape of replication within a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum TopologyType {
    /// The master feeds every replica.
    #[default]
    Star,
    /// The master feeds one replica, that one the next, and so on.
    Chain,
    /// The master and every replica feed up to `fanout` replicas each.
    Tree,
}

/// Where the data is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// A volume for each node. Absent: memory only, so that a restarted node comes back blank.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<Volume>,
}

/// A volume for each node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.storageClassName) == has(oldSelf.storageClassName) \
             && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)",
    "message": "spec.storage.volume.storageClassName cannot be changed after creation",
}]))]
pub struct Volume {
    /// Size of each node's volume, such as `10Gi`. It may only grow, and only where the storage class lets volumes
    /// expand.
    #[schemars(
        length(min = 1, max = 32),
        extend("x-kubernetes-validations" = [
            {
                "rule": "isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))",
                "message": "spec.storage.volume.size must be a quantity above 0, such as 10Gi",
            },
            {
                "rule": "!isQuantity(self) || !isQuantity(oldSelf) \
                         || quantity(self).compareTo(quantity(oldSelf)) >= 0",
                "message": "spec.storage.volume.size may only grow",
            },
        ])
    )]
    pub size: String,

    /// Storage class of the volumes. Absent: the default of the Kubernetes cluster. It cannot be changed after
    /// creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,

    /// What becomes of the volumes when the KvCluster is deleted, or of a node's volume when the node is. Retained
    /// volumes belong to their cluster: another KvCluster of the same name cannot use them, and does not start until
    /// they are deleted.
    #[serde(default)]
    pub retention: Retention,
}

/// What becomes of volumes that are no longer used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Retention {
    /// They stay, with their data.
    #[default]
    Retain,
    /// They are deleted, with their data.
    Delete,
}

/// Compute resources of a container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// The most that a node may use, by resource, such as `memory: 1Gi`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::quantities")]
    pub limits: BTreeMap<String, Quantity>,

    /// What is set aside for a node, by resource, such as `cpu: 500m`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::quantities")]
    pub requests: BTreeMap<String, Quantity>,
}

/// How clients log in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Auth {
    /// A Secret in the same namespace whose key `password` holds the password of the default user.
    pub secret_ref: SecretRef,
}

/// The name of a Secret in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// A value that may be written as a number or as a text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number or a text; put words such as yes, no, on and off in quotes")]
pub enum Scalar {
    /// Written as a number.
    Number(i64),
    /// Written as a text.
    Text(String),
}

impl std::fmt::Display for Scalar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}

impl KvCluster {
    /// The volume that each node is to have; `None` for memory only.
    #[must_use]
    pub fn volume(&self) -> Option<&Volume> {
        self.spec.storage.as_ref().and_then(|storage| storage.volume.as_ref())
    }
}

fn default_replicas() -> u16 {
    1
}

fn default_source_port() -> u16 {
    6379
}

fn default_acknowledge_timeout() -> String {
    "1s".into()
}
