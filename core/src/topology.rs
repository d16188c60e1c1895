//! How the replicas of a shard hang below its master.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::NodeId;

/// The shape of replication within a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "PascalCase")]
pub enum Topology {
    /// Every replica is fed by the master.
    #[default]
    Star,
    /// The master feeds one replica, that one the next, and so on.
    Chain,
    /// The master and every relay feed up to `fanout` replicas each.
    Tree {
        /// Children of each node, at least 1.
        fanout: u16,
    },
}

impl Topology {
    /// How many children a node may have.
    #[must_use]
    pub fn fanout(self) -> usize {
        match self {
            Self::Star => usize::MAX,
            Self::Chain => 1,
            Self::Tree { fanout } => usize::from(fanout.max(1)),
        }
    }
}
