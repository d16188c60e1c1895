//! `spec.failover`: when a replica takes over, and which.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When a replica takes over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "!has(self.lease) || duration(self.lease) < duration(self.downAfter)",
        "message": "spec.failover.lease must be less than spec.failover.downAfter",
    },
    {
        "rule": "self.failback == 'Never' || has(self.preferred)",
        "message": "spec.failover.failback needs spec.failover.preferred",
    },
]))]
pub struct Failover {
    /// For how long a master's data port may not answer until the master counts as down, from 500ms to 60s.
    /// A master whose process is known to have ended, or whose pod is being deleted, is replaced at once.
    #[serde(default = "default_down_after")]
    #[schemars(
        length(max = super::schema::MAX_DURATION),
        regex(pattern = r"^([0-9]+(\.[0-9]+)?(ms|s|m))+$"),
        extend("x-kubernetes-validations" = [{
            "rule": "duration(self) >= duration('500ms') && duration(self) <= duration('60s')",
            "message": "spec.failover.downAfter must be from 500ms to 60s",
        }])
    )]
    pub down_after: String,

    /// For how long a master goes on that cannot reach a majority of its shard's voters, from 200ms to less than
    /// `downAfter`. The voters are the shard's nodes, and the operator where their number is even. Default: three quarters
    /// of `downAfter`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = super::schema::MAX_DURATION),
        regex(pattern = r"^([0-9]+(\.[0-9]+)?(ms|s|m))+$"),
        extend("x-kubernetes-validations" = [{
            "rule": "duration(self) >= duration('200ms') && duration(self) <= duration('60s')",
            "message": "spec.failover.lease must be from 200ms to 60s",
        }])
    )]
    pub lease: Option<String>,

    /// What a master does then. RefuseWrites: it refuses them, as another one may have been elected. KeepWriting: it goes
    /// on; what it acknowledges is lost if another one was. Only with spec.replication.acknowledge.mode Async.
    #[serde(default)]
    pub on_isolation: OnIsolation,

    /// What is done for a shard that has lost its master, and of which too few nodes answer to elect another one without
    /// risk. Abort: nothing, until they are back. ForceWithPossibleDataLoss: the operator goes on with those that answer, and
    /// acknowledged writes that only the others hold are lost. It is used up at once: it counts for the shards that need it
    /// when it is set, and for no later loss, whatever else is changed. To use it again set it to Abort first. Make sure before
    /// that the nodes that are missing do not run on somewhere.
    #[serde(default)]
    pub on_quorum_loss: OnQuorumLoss,

    /// Where masters should live. Of nodes with equally new data one there leads, and a master that makes way hands over to
    /// one there if it can. Absent: that is all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred: Option<Preferred>,

    /// Whether a master elsewhere hands over to a preferred node. Never. WhenCaughtUp: once that has been in step for
    /// `failbackAfter`.
    #[serde(default)]
    pub failback: Failback,

    /// For how long a preferred node must have been in step without a break before a master elsewhere hands over to it, from
    /// 1s to 24h. So a node that comes and goes does not take the master along.
    #[serde(default = "default_failback_after")]
    #[schemars(
        length(max = super::schema::MAX_DURATION),
        regex(pattern = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"),
        extend("x-kubernetes-validations" = [{
            "rule": "duration(self) >= duration('1s') && duration(self) <= duration('24h')",
            "message": "spec.failover.failbackAfter must be from 1s to 24h",
        }])
    )]
    pub failback_after: String,
}

impl Default for Failover {
    fn default() -> Self {
        Self {
            down_after: default_down_after(),
            lease: None,
            on_isolation: OnIsolation::default(),
            on_quorum_loss: OnQuorumLoss::default(),
            preferred: None,
            failback: Failback::default(),
            failback_after: default_failback_after(),
        }
    }
}

/// What is done for a shard that has lost its master, and too many nodes besides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum OnQuorumLoss {
    /// Nothing, until enough nodes are back.
    #[default]
    Abort,
    /// Those that are there go on, once.
    ForceWithPossibleDataLoss,
}

/// Where masters should live: one of these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.zone) != has(self.ordinal)",
    "message": "spec.failover.preferred must have one of zone and ordinal",
}]))]
pub struct Preferred {
    /// On the nodes of this zone: those on machines with this label topology.kubernetes.io/zone. Local processes have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub zone: Option<String>,

    /// On the node with this number of each shard: 1 for NAME-SHARD-1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 8))]
    pub ordinal: Option<u16>,
}

/// Whether a master elsewhere hands over to a preferred node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Failback {
    /// It stays.
    #[default]
    Never,
    /// It does, once that has been in step for a while.
    WhenCaughtUp,
}

/// What a master does that cannot reach a majority of its shard's voters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum OnIsolation {
    /// It refuses writes.
    #[default]
    RefuseWrites,
    /// It goes on.
    KeepWriting,
}

fn default_down_after() -> String {
    "2s".into()
}

fn default_failback_after() -> String {
    "1m".into()
}
