//! What users read back: the types of the status. `engine` results become a status in `provider`-independent code
//! elsewhere; nothing here decides but [`State::of`].

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use kv_core::shard::Role;

use super::Receipt;

/// What is known of the cluster. A cache for users: nothing is decided from it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KvClusterStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Ready: every shard serves, every node is in step, and nothing is left to do. Progressing: something is being done
    /// or waited for. Degraded: something that worked, or should work, does not. UpToDate: every node was started from
    /// what is specified now. Durable, where
    /// acknowledged writes promise something: they are as safe as specified. Adopting, while spec.source is followed: how far
    /// that is, and what to do next. The reason is for programs, the message for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,

    /// All conditions in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,

    /// Number of nodes that serve or copy as they should.
    #[serde(default)]
    pub ready_nodes: u32,

    /// Nodes that serve or copy as they should, of those wanted, such as `6/6`.
    #[serde(default)]
    pub ready: String,

    /// Shards that have a serving master, of those wanted, such as `3/3`.
    #[serde(default)]
    pub masters: String,

    /// The wanted topology in one word, such as `Tree(2)`.
    #[serde(default)]
    pub topology: String,

    /// The image that new pods get.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub image: String,

    /// The shards in order of their index.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["index"]))]
    pub shards: Vec<ShardStatus>,

    /// The last changes of masters, at most 5, the latest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failovers: Vec<Receipt>,
}

/// All conditions in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum State {
    /// All is as specified.
    Ready,
    /// On the way there.
    Progressing,
    /// A node that should serve or copy does not.
    Degraded,
    /// The spec cannot be carried out as it is; the Degraded condition says why. What ran before goes on.
    Failed,
}

/// A shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ShardStatus {
    /// Index of the shard, from 0.
    pub index: u16,

    /// Epoch of the shard's config. It grows with every change of it.
    #[serde(default)]
    pub epoch: u64,

    /// Name of the master; absent before the shard has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master: Option<String>,

    /// The slots that the shard serves, as ranges.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slots: Vec<String>,

    /// The server that the shard follows; absent if it has data of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceStatus>,

    /// The nodes in order of their name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub nodes: Vec<NodeStatus>,
}

/// The server that a shard follows until it is cut over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceStatus {
    /// Its host and port.
    pub address: String,

    /// Whether its data is here, and its stream flows.
    #[serde(default)]
    pub following: bool,

    /// Bytes of its stream that are still to come; absent while that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_bytes: Option<u64>,

    /// What is wrong, or keeps a cut-over from coming about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Name of the node and of its pod.
    pub name: String,

    /// Its random id; absent if it never answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,

    /// Whether it is the shard's writer or a copy; absent if it is no member of the shard yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "role_schema")]
    pub role: Option<Role>,

    /// Name of the node that feeds it; absent for a master.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,

    /// What it does at present.
    pub state: NodeHealth,

    /// Bytes of the replication stream that it has written or applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,

    /// Bytes of the replication stream by which it is behind its master; absent for a master.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_bytes: Option<u64>,

    /// For how long it has been behind its parent, such as `3ms`; absent for a master.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<String>,
}

/// What a node does at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum NodeHealth {
    /// It serves, or copies a stream that flows.
    Ready,
    /// It is being filled, or connects to its parent.
    Syncing,
    /// It answers, and waits for its place in the shard.
    Joining,
    /// It promised a newer epoch, and waits for the shard's config of that epoch.
    Fenced,
    /// Its process does not run yet.
    Starting,
    /// It cannot write to its disk, and so keeps nothing.
    DiskFull,
    /// It is being deleted.
    Leaving,
    /// It does not answer, or its process has ended.
    Down,
    /// Another node answers in its place.
    Stray,
}

fn role_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "enum": ["Master", "Replica"] })
}

impl State {
    /// The one place where conditions become a word.
    #[must_use]
    pub fn of(conditions: &[Condition]) -> Self {
        let find = |kind: &str| conditions.iter().find(|condition| condition.type_ == kind);
        let holds = |kind: &str| find(kind).is_some_and(|condition| condition.status == "True");
        let invalid = find("Degraded").is_some_and(|condition| condition.reason == "InvalidSpec");
        if invalid {
            Self::Failed
        } else if holds("Degraded") {
            Self::Degraded
        } else if holds("Progressing") || !holds("Ready") {
            Self::Progressing
        } else {
            Self::Ready
        }
    }
}
