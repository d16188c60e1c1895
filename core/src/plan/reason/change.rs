//! What differs between a shard's config and the next.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::quorum::Acknowledge;
use crate::slot::SlotSet;

/// One difference between a shard's config and the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// A node becomes a member.
    Adds {
        /// The node.
        node: String,
    },
    /// A blank node takes the place of a member of the same name.
    Replaces {
        /// The node.
        node: String,
    },
    /// A member is one no more.
    Removes {
        /// The node.
        node: String,
    },
    /// A member is fed by another parent.
    Moves {
        /// The node.
        node: String,
        /// Its new parent.
        parent: String,
    },
    /// A replica promised an epoch in an election that came to nothing, and is taken back.
    TakesBack {
        /// The node.
        node: String,
    },
    /// Nothing changes but the epoch, which nodes have agreed to.
    Stays,
    /// An acknowledged write promises something else.
    Acknowledges {
        /// What it promises from now on.
        mode: Acknowledge,
    },
    /// Replicas are to hang otherwise below the next master; below this one they do already.
    Reshapes,
    /// Another source is followed, or in another way.
    Follows {
        /// The source.
        source: String,
    },
    /// The source is followed no more: writes are taken.
    CutsOver {
        /// The source.
        source: String,
    },
    /// When a silent master is replaced, or what one does that hears nobody.
    FailsOver,
    /// The word of those that were members before counts no more: nothing depends on it.
    Settles,
    /// Slots of another shard are about to come in: who does not get all of them deletes what there is.
    Awaits {
        /// Which slots.
        slots: SlotSet,
        /// Index of that shard.
        from: u16,
    },
    /// Slots are another shard's from now on.
    Gives {
        /// Which slots.
        slots: SlotSet,
        /// Index of that shard.
        to: u16,
    },
    /// Slots of another shard are this one's from now on.
    Takes {
        /// Which slots.
        slots: SlotSet,
        /// Index of that shard.
        from: u16,
    },
    /// What was kept of slots that were given away can be deleted: the other shard serves them.
    ForgetsGiven {
        /// Which slots.
        slots: SlotSet,
    },
    /// Nobody asks any more where slots are from.
    ForgetsTaken {
        /// Which slots.
        slots: SlotSet,
    },
}

impl Change {
    /// Whether it is about slots that move.
    pub(super) fn is_transfer(&self) -> bool {
        matches!(
            self,
            Self::Awaits { .. }
                | Self::Gives { .. }
                | Self::Takes { .. }
                | Self::ForgetsGiven { .. }
                | Self::ForgetsTaken { .. }
        )
    }

    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Adds { .. } => "ReplicaAdded",
            Self::Replaces { .. } => "ReplicaReplaced",
            Self::Removes { .. } => "ReplicaRemoved",
            Self::Moves { .. } => "ReplicaMoved",
            Self::TakesBack { .. } => "ReplicaTakenBack",
            Self::Stays => "EpochRenewed",
            Self::Acknowledges { .. } => "AcknowledgeChanged",
            Self::Reshapes => "TopologyChanged",
            Self::Follows { .. } => "SourceChanged",
            Self::CutsOver { .. } => "CutOver",
            Self::FailsOver => "FailoverChanged",
            Self::Settles => "MembersSettled",
            Self::Awaits { .. } => "SlotsAwaited",
            Self::Gives { .. } => "SlotsGiven",
            Self::Takes { .. } => "SlotsTaken",
            Self::ForgetsGiven { .. } => "SlotsLeft",
            Self::ForgetsTaken { .. } => "SlotsMoved",
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Adds { node } => write!(f, "adds {node}"),
            Self::Replaces { node } => write!(f, "takes the blank {node} in place of the old one"),
            Self::Removes { node } => write!(f, "removes {node}"),
            Self::Moves { node, parent } => write!(f, "feeds {node} from {parent}"),
            Self::TakesBack { node } => write!(f, "takes back {node} after an election that came to nothing"),
            Self::Stays => write!(f, "changes nothing but the epoch that nodes have agreed to"),
            Self::Acknowledges { mode } => write!(f, "acknowledges writes by {mode}"),
            Self::Reshapes => write!(f, "takes spec.replication.topology"),
            Self::Follows { source } => write!(f, "follows {source}"),
            Self::CutsOver { source } => {
                write!(f, "has all of {source}, follows it no more, and takes writes")
            }
            Self::FailsOver => write!(f, "takes spec.failover"),
            Self::Settles => write!(f, "ends the overlap of the old and the new quorum"),
            Self::Awaits { slots, from } => write!(f, "awaits the slots {slots} of shard {from}"),
            Self::Gives { slots, to } => write!(f, "gives the slots {slots} to shard {to}"),
            Self::Takes { slots, from } => write!(f, "takes the slots {slots} of shard {from}"),
            Self::ForgetsGiven { slots } => {
                write!(f, "deletes the slots {slots}, which another shard serves")
            }
            Self::ForgetsTaken { slots } => write!(f, "ends the move of the slots {slots}"),
        }
    }
}
