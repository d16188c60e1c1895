//! What became of a master, and why one that serves must go.

use serde::{Deserialize, Serialize};

/// What became of a master that no longer serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Loss {
    /// Its process has ended.
    #[error("the master {master} has exited")]
    Exited {
        /// The master.
        master: String,
    },
    /// It did not answer for too long. The text leaves out how long: a reason that lasts should keep its words, since
    /// each new text is another event and another write of the status.
    #[error("the master {master} does not answer")]
    Silent {
        /// The master.
        master: String,
        /// Since when.
        silent_ms: u64,
    },
    /// It was started again, and may have lost the last writes.
    #[error("the master {master} was restarted")]
    Restarted {
        /// The master.
        master: String,
    },
    /// Its provider starts another process in its place.
    #[error("the master {master} was replaced, and has not answered since")]
    Replaced {
        /// The master.
        master: String,
    },
    /// A new node without its data has taken its place.
    #[error("the master {master} was replaced by a blank node")]
    Reborn {
        /// The master.
        master: String,
    },
    /// It is not there.
    #[error("the master {master} is gone")]
    Absent {
        /// The master.
        master: String,
    },
    /// Another one was elected after it, and does not answer.
    #[error("{master} is not the master any more, and the one that was elected after it does not answer")]
    Superseded {
        /// The master of the newest config that is seen.
        master: String,
    },
    /// It promised a newer epoch and refuses writes.
    #[error("the master {master} has stepped down")]
    Fenced {
        /// The master.
        master: String,
    },
}

impl Loss {
    /// Whether it is certain that the master acknowledges nothing any more. Who is silent may be heard by others; and a
    /// pod that is gone from the API server, or replaced, may go on running on a machine that nobody reaches.
    #[must_use]
    pub fn is_certain(&self) -> bool {
        match self {
            Self::Exited { .. } | Self::Fenced { .. } | Self::Restarted { .. } => true,
            Self::Superseded { .. }
            | Self::Silent { .. }
            | Self::Reborn { .. }
            | Self::Absent { .. }
            | Self::Replaced { .. } => false,
        }
    }

    /// The code for events and receipts.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Exited { .. } => "MasterExited",
            Self::Silent { .. } => "MasterSilent",
            Self::Restarted { .. } => "MasterRestarted",
            Self::Replaced { .. } => "MasterReplaced",
            Self::Reborn { .. } => "MasterReborn",
            Self::Absent { .. } => "MasterAbsent",
            Self::Superseded { .. } => "MasterSuperseded",
            Self::Fenced { .. } => "MasterFenced",
        }
    }
}

/// Why a master that serves must go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Departure {
    /// It is being deleted, or was told to stop.
    #[error("the master {master} is about to stop")]
    Stopping {
        /// The master.
        master: String,
    },
    /// The spec asks for fewer nodes.
    #[error("the master {master} is one node more than specified")]
    Surplus {
        /// The master.
        master: String,
    },
    /// Another node was asked to lead.
    #[error("{successor} was asked to lead in place of {master}")]
    Asked {
        /// The master.
        master: String,
        /// Who was asked.
        successor: String,
    },
    /// It was asked to make way.
    #[error("the master {master} was asked to make way")]
    Yielding {
        /// The master.
        master: String,
    },
    /// It was started from what is not wanted any more, and is to be started anew.
    #[error("the master {master} is of an older spec")]
    Outdated {
        /// The master.
        master: String,
    },
    /// Its machine is to be emptied.
    #[error("the machine of the master {master} is being drained")]
    Draining {
        /// The master.
        master: String,
    },
    /// Masters should live elsewhere, and a node there has been in step for long.
    #[error("the master {master} is not where masters should live (spec.failover.preferred)")]
    Homing {
        /// The master.
        master: String,
    },
    /// It cannot write to its disk, and refuses writes.
    #[error("the master {0}")]
    DiskFull(DiskError),
}

impl Departure {
    /// The code for receipts.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Stopping { .. } => "MasterStopping",
            Self::Surplus { .. } => "MasterSurplus",
            Self::Asked { .. } => "SuccessorAsked",
            Self::Yielding { .. } => "MasterYielding",
            Self::Outdated { .. } => "MasterOutdated",
            Self::Draining { .. } => "MasterDraining",
            Self::Homing { .. } => "MasterAwayFromHome",
            Self::DiskFull(_) => "MasterDiskFull",
        }
    }
}

/// A node that cannot write to its disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{node} cannot write to its disk ({error})")]
pub struct DiskError {
    /// The node.
    pub node: String,
    /// What it says.
    pub error: String,
}
