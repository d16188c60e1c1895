//! Why a step is taken or waited for. Conditions, events and log lines are all made from these.

use serde::{Deserialize, Serialize};

/// Why a step is taken or waited for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// The shard has never had a config and all of its nodes are blank.
    Founding,
}
