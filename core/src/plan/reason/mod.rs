//! Why a step is taken or waited for. Conditions, events and log lines are all made from these.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::slot::SlotSet;

mod change;
mod master;

pub use change::Change;
pub use master::{Departure, DiskError, Loss};

/// Why a step is taken or waited for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Reason {
    /// The shard has never had a config and all of its nodes are blank.
    #[error("founds the shard with {master} as its master")]
    Founding {
        /// The first master.
        master: String,
    },
    /// The shard had a config, and all who knew its data are gone for good.
    #[error("founds the shard anew with {master} as its master: every node answers and none holds its data")]
    FoundingAnew {
        /// The first master.
        master: String,
    },
    /// A change of master is under way: promises are asked for.
    #[error("{loss}; asks the nodes for promises, to promote {candidate}")]
    Electing {
        /// What became of the master.
        loss: Loss,
        /// Who will probably lead.
        candidate: String,
    },
    /// A change of master is decided.
    #[error("{loss}; promotes {master}")]
    Promoting {
        /// What became of the master before.
        loss: Loss,
        /// The new master.
        master: String,
    },
    /// A master that must go is paused, so that its successor catches up.
    #[error("{departure}; holds writes for a moment until {successor} has caught up")]
    HandingOver {
        /// Why it must go.
        departure: Departure,
        /// Who will lead.
        successor: String,
    },
    /// The successor has caught up with the paused master.
    #[error("{departure}, and {successor} has caught up; asks the nodes for promises")]
    SwitchingOver {
        /// Why it must go.
        departure: Departure,
        /// Who will lead.
        successor: String,
    },
    /// Members or parents change, and the master stays.
    #[error("{}", join(.0, "; "))]
    Reconfiguring(Vec<Change>),
    /// The same, and the nodes are asked to agree first.
    #[error("asks the nodes to agree: {}", join(.0, "; "))]
    Agreeing(Vec<Change>),
    /// The same, and too few nodes answer to agree.
    #[error("{}: too few of the members answer to agree to that: bring back {}", join(.changes, "; "), .missing.join(", "))]
    NoAgreement {
        /// What is to change.
        changes: Vec<Change>,
        /// Who does not answer.
        missing: Vec<String>,
    },
    /// Nodes have an older config than the shard.
    #[error("tells the present config to {}", .nodes.join(", "))]
    Informing {
        /// Who is told.
        nodes: Vec<String>,
    },
    /// The shard cannot be founded until all of its nodes answer.
    #[error("waits for {} to answer; if they do not start, the condition Degraded, events or their logs say why", .nodes.join(", "))]
    WaitingForNodes {
        /// Who is missing.
        nodes: Vec<String>,
    },
    /// The master has not answered yet, and may yet.
    #[error("waits for the master {master} to answer")]
    WaitingForMaster {
        /// The master.
        master: String,
    },
    /// Too few members answer for a change of master.
    #[error("{loss}; a change of master needs {needed} of the members, and {answering} answer: bring back {}", .missing.join(", "))]
    NoQuorum {
        /// What became of the master.
        loss: Loss,
        /// How many must promise.
        needed: usize,
        /// How many answer.
        answering: usize,
        /// Who does not answer.
        missing: Vec<String>,
    },
    /// The master is silent to the observer, and others hear it.
    #[error("{loss}; but {} hear it, or did a moment ago, and it stays the master as long as they do", .nodes.join(", "))]
    HeardByOthers {
        /// What became of the master.
        loss: Loss,
        /// Who hears it.
        nodes: Vec<String>,
    },
    /// Nobody who answers holds data that may lead.
    #[error("{loss}; no node that answers holds all of the data: bring back {}", .missing.join(", "))]
    NoCandidate {
        /// What became of the master.
        loss: Loss,
        /// Who does not answer.
        missing: Vec<String>,
    },
    /// Too few nodes answer to elect a master without risk, and a user has asked to go on without the others.
    #[error(
        "{loss}; as spec.failover.onQuorumLoss asks, {master} is made the master without {}: acknowledged writes that only \
         these hold are lost",
        .given_up.join(", ")
    )]
    Forcing {
        /// What became of the master.
        loss: Loss,
        /// Who leads.
        master: String,
        /// Who is not waited for.
        given_up: Vec<String>,
    },
    /// A master should go and has no successor.
    #[error("{departure}, and no replica is in step to succeed it; it stays the master")]
    NoSuccessor {
        /// Why it should go.
        departure: Departure,
    },
    /// A master should go and its successor lags too far behind to pause writes for it.
    #[error("{departure}; its successor {successor} is far behind; it stays the master until that is little")]
    SuccessorLags {
        /// Why it should go.
        departure: Departure,
        /// Who will lead.
        successor: String,
        /// How far it is behind.
        bytes: u64,
    },
    /// The master is paused and its successor not quite there.
    #[error("{departure}; writes are held while {successor} catches up on the last {bytes} bytes")]
    CatchingUp {
        /// Why the master must go.
        departure: Departure,
        /// Who will lead.
        successor: String,
        /// How far it is behind.
        bytes: u64,
    },
    /// The config is as specified, and nodes are on their way.
    #[error("waits for {} to be in step", .nodes.join(", "))]
    NodesNotReady {
        /// Who is missing or not in step.
        nodes: Vec<String>,
    },
    /// Acknowledgements changed, and what was written before is not with all who answer for it now.
    #[error(
        "waits until enough nodes of the old and the new quorum know of the change, and have what was written before"
    )]
    Settling,
    /// Replies should wait for replicas, and do not: too few keep up.
    #[error(
        "the replicas do not keep up: writes are acknowledged without them (SemiSync is degraded), and may be lost with the master"
    )]
    NotDurable,
    /// Nodes cannot write to their disks.
    #[error(
        "{}; writes are not kept there: free space on the disk, or let it grow by spec.storage.volume.size",
        join(.nodes, "; ")
    )]
    DiskFull {
        /// Which, and why.
        nodes: Vec<DiskError>,
    },
    /// Volumes hold data that those of the source would replace.
    #[error("does not follow {of}, as {} would lose data: take spec.source away, or create the cluster with empty volumes", .nodes.join(", "))]
    SourceRefused {
        /// The source.
        of: String,
        /// Who holds data.
        nodes: Vec<String>,
    },
    /// The master is on the way to its source.
    #[error("connects to {of}")]
    ConnectsSource {
        /// The source.
        of: String,
    },
    /// The master gets a snapshot from its source.
    #[error("copies the data of {of}")]
    CopiesSource {
        /// The source.
        of: String,
    },
    /// The master cannot follow its source.
    #[error("cannot follow {of}: {problem}")]
    SourceFails {
        /// The source.
        of: String,
        /// What is wrong, and what can be done.
        problem: String,
    },
    /// The master follows its source.
    #[error(
        "follows {of}; clients can read, and writes are refused: when status.shards[0].source.lagBytes is small, \
         remove spec.source to cut over"
    )]
    FollowsSource {
        /// The source.
        of: String,
    },
    /// The same, and something would keep a cut-over from happening.
    #[error(
        "follows {of}; clients can read, and writes are refused. A cut-over is not possible yet: {problem}"
    )]
    FollowsSourceBut {
        /// The source.
        of: String,
        /// What is wrong, and what can be done.
        problem: String,
    },
    /// A cut-over was asked for while the source is far ahead.
    #[error("is to be cut over from {of}, and waits until less than 1 MB of its stream is missing")]
    SourceAhead {
        /// The source.
        of: String,
    },
    /// The source takes no writes, and the last of its stream arrives.
    #[error("is being cut over from {of}: takes in the last of its data")]
    CuttingOver {
        /// The source.
        of: String,
    },
    /// A cut-over did not succeed.
    #[error("cannot be cut over from {of}, and tries again: {problem}")]
    CutOverFails {
        /// The source.
        of: String,
        /// What is wrong, and what can be done.
        problem: String,
    },
    /// A node that never became ready was started from what is not wanted any more.
    #[error("starts {node} anew: it does not become ready, and what it was started from is outdated")]
    Replacing {
        /// The node.
        node: String,
    },
    /// A node that runs was started from what is not wanted any more, and all others are in step.
    #[error("starts {node} anew from what is specified now; all other nodes of the shard are in step")]
    Renewing {
        /// The node.
        node: String,
    },
    /// A master is to import slots from another shard.
    #[error("asks shard {from} for the slots {slots}{}", .failed.as_ref().map(|why| format!(", anew: {why}")).unwrap_or_default())]
    Importing {
        /// Which slots.
        slots: SlotSet,
        /// Who has them.
        from: u16,
        /// Why it failed when it was tried last, if it did.
        failed: Option<String>,
    },
    /// A master imports slots that are not to move any more.
    #[error("gives up the import of the slots {slots} from shard {from}: they are not to move any more")]
    GivingUpImport {
        /// Which slots.
        slots: SlotSet,
        /// Who has them.
        from: u16,
    },
    /// Slots move to another shard, and both serve meanwhile.
    #[error("the slots {slots} move from shard {from} to shard {to}")]
    MovingSlots {
        /// Which slots.
        slots: SlotSet,
        /// Who has them.
        from: u16,
        /// Who gets them.
        to: u16,
    },
    /// Slots are about to be given to another shard, and writes to them are held for a moment.
    #[error(
        "the slots {slots} go over from shard {from} to shard {to}; writes to them are held for a moment"
    )]
    HoldingSlots {
        /// Which slots.
        slots: SlotSet,
        /// Who had them.
        from: u16,
        /// Who gets them.
        to: u16,
    },
    /// A shard beyond the specified ones is on its way out.
    #[error("is one shard more than specified: it is removed when it has no slots, and no keys, any more")]
    Retiring,
    /// Somebody else answers at a node's address.
    #[error(
        "at the address of {node} answers {found}; it is left alone: give that node another address, or its volume another cluster"
    )]
    StrayNode {
        /// Whose address it is.
        node: String,
        /// Who answers.
        found: String,
    },
}

impl Reason {
    /// The code for events and conditions.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Founding { .. } => "Founding",
            Self::FoundingAnew { .. } => "FoundingAnew",
            Self::Electing { loss, .. } => loss.code(),
            Self::Promoting { .. } => "MasterPromoted",
            Self::HandingOver { .. } => "HandingOver",
            Self::SwitchingOver { .. } => "SwitchingOver",
            Self::Reconfiguring(changes) => changes.first().map_or("Reconfiguring", Change::code),
            Self::Agreeing(_) => "AgreeingOnChange",
            Self::NoAgreement { .. } => "NoAgreement",
            Self::Informing { .. } => "InformingNodes",
            Self::WaitingForNodes { .. } => "WaitingForNodes",
            Self::WaitingForMaster { .. } => "WaitingForMaster",
            Self::NoQuorum { .. } => "NoQuorum",
            Self::HeardByOthers { .. } => "MasterHeardByOthers",
            Self::NoCandidate { .. } => "NoCandidate",
            Self::Forcing { .. } => "ForcedWithPossibleDataLoss",
            Self::NoSuccessor { .. } => "NoSuccessor",
            Self::SuccessorLags { .. } => "SuccessorLags",
            Self::CatchingUp { .. } => "CatchingUp",
            Self::NodesNotReady { .. } => "NodesNotReady",
            Self::Settling => "Settling",
            Self::NotDurable => "NotDurable",
            Self::DiskFull { .. } => "DiskFull",
            Self::SourceRefused { .. } => "SourceRefused",
            Self::ConnectsSource { .. } => "ConnectingToSource",
            Self::CopiesSource { .. } => "CopyingSource",
            Self::SourceFails { .. } => "SourceFails",
            Self::FollowsSource { .. } => "FollowingSource",
            Self::FollowsSourceBut { .. } => "CutOverNotPossible",
            Self::SourceAhead { .. } => "SourceAhead",
            Self::CuttingOver { .. } => "CuttingOver",
            Self::CutOverFails { .. } => "CutOverFails",
            Self::Replacing { .. } => "ReplacingNode",
            Self::Renewing { .. } => "RenewingNode",
            Self::Importing { .. } => "ImportingSlots",
            Self::GivingUpImport { .. } => "ImportGivenUp",
            Self::MovingSlots { .. } => "MovingSlots",
            Self::HoldingSlots { .. } => "HoldingSlots",
            Self::Retiring => "RetiringShard",
            Self::StrayNode { .. } => "StrayNode",
        }
    }

    /// What became of the master that is to be replaced, if that is what this is about.
    #[must_use]
    pub fn loss(&self) -> Option<&Loss> {
        match self {
            Self::Electing { loss, .. }
            | Self::Promoting { loss, .. }
            | Self::NoQuorum { loss, .. }
            | Self::HeardByOthers { loss, .. }
            | Self::NoCandidate { loss, .. }
            | Self::Forcing { loss, .. } => Some(loss),
            _ => None,
        }
    }

    /// Why the master makes way that serves, if it is about to.
    #[must_use]
    pub fn departure(&self) -> Option<&Departure> {
        match self {
            Self::HandingOver { departure, .. }
            | Self::SwitchingOver { departure, .. }
            | Self::CatchingUp { departure, .. } => Some(departure),
            _ => None,
        }
    }

    /// Whether clients wait for what comes next, so that the next look should be taken at once.
    #[must_use]
    pub fn is_pressing(&self) -> bool {
        matches!(self, Self::CatchingUp { .. } | Self::CuttingOver { .. } | Self::HoldingSlots { .. })
    }

    /// Whether it is a step of many in a move of slots, which is told when it begins and when it ends.
    #[must_use]
    pub fn is_detail(&self) -> bool {
        match self {
            Self::HoldingSlots { .. } | Self::GivingUpImport { .. } => true,
            Self::Agreeing(changes) => changes.iter().all(Change::is_transfer),
            Self::Reconfiguring(changes) => {
                let ends = |change: &Change| matches!(change, Change::ForgetsTaken { .. });
                changes.iter().all(|change| change.is_transfer() && !ends(change))
            }
            _ => false,
        }
    }

    /// Whether it says that something is wrong, so that an event about it is a warning.
    #[must_use]
    pub fn is_warning(&self) -> bool {
        match self {
            Self::Electing { loss, .. } | Self::Promoting { loss, .. } => {
                !matches!(loss, Loss::Fenced { .. })
            }
            Self::HandingOver { departure, .. } => matches!(departure, Departure::DiskFull(_)),
            Self::FoundingAnew { .. }
            | Self::DiskFull { .. }
            | Self::NotDurable
            | Self::NoQuorum { .. }
            | Self::HeardByOthers { .. }
            | Self::NoAgreement { .. }
            | Self::NoCandidate { .. }
            | Self::Forcing { .. }
            | Self::NoSuccessor { .. }
            | Self::SourceRefused { .. }
            | Self::SourceFails { .. }
            | Self::CutOverFails { .. }
            | Self::StrayNode { .. } => true,
            _ => false,
        }
    }
}

fn join<T: fmt::Display>(parts: &[T], separator: &str) -> String {
    parts.iter().map(ToString::to_string).collect::<Vec<_>>().join(separator)
}
