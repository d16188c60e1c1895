//! The planner: (spec, observed state) → wanted workloads and at most one next step per shard, each with its reason.
//!
//! Pure and level-triggered: every pass starts from what is seen now. A change of master takes several passes
//! (prepare, then accept), each of which can be repeated, or taken over by another operator, at any point.

use serde::{Deserialize, Serialize};

use crate::control::{Consent, NodeReport};
use crate::id::{ClusterUid, Epoch, NodeId};
use crate::rebalance::Move;
use crate::shard::{ClusterMap, NodeAddress, ShardConfig};
use crate::slot::SlotSet;

/// All that was seen of a cluster in one pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The cluster.
    pub uid: ClusterUid,
    /// The cluster's name; nodes are called `NAME-SHARD-ORDINAL`.
    pub name: String,
    /// The shards in order of their index; a shard of the spec that is missing here has nothing yet.
    pub shards: Vec<ShardObserved>,
}

/// All that was seen of a shard in one pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardObserved {
    /// Index of the shard, from 0.
    pub index: u16,
    /// Number of nodes that the existing workload (StatefulSet) asks for; `None` if there is no workload.
    pub workload_nodes: Option<u16>,
    /// The nodes that are there, in order of their ordinal.
    pub nodes: Vec<NodeObserved>,
    /// What the observer, as a witness, has voted for last; `None` if it never did.
    pub witness: Option<Vote>,
    /// Name of the node that a user wants to lead; `None` if that is all the same.
    pub wish: Option<String>,
    /// The epoch of the config that a user gives up: if the shard still has it, and too few nodes answer to elect a master
    /// without risk, those that do go on without the others.
    pub forced: Option<Epoch>,
    /// For how long the observer's own word binds it not to vote against the present master, in milliseconds; `None` if the
    /// observer has no vote.
    pub bound_ms: Option<u64>,
    /// The master that the observer gave that word to; `None` if it is not the only one, or if it may have been another
    /// observer that gave it. It binds no more when that master is known to have ended.
    pub bound_to: Option<NodeId>,
}

/// A vote of the witness. It is kept before anybody can act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Vote {
    /// The epoch.
    pub epoch: Epoch,
    /// Who leads under it.
    pub master: NodeId,
}

/// All that was seen of a node in one pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeObserved {
    /// Its name, `NAME-SHARD-ORDINAL`.
    pub name: String,
    /// Its number within the shard, from 0.
    pub ordinal: u16,
    /// What its provider says of it.
    pub presence: Presence,
    /// Its last answer since its process was last seen to start, however old (see `silent_ms`); `None` if it never
    /// answered.
    pub report: Option<NodeReport>,
    /// Milliseconds since it last answered, or since it was first seen if it never did.
    pub silent_ms: u64,
    /// Where it can be reached, if known.
    pub address: Option<NodeAddress>,
    /// Whether it was started from what is wanted now.
    pub template: Template,
    /// Where it stands, and how firmly.
    pub site: Site,
}

/// Where a node stands, and how firmly, as far as is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Site {
    /// The zone of its machine; `None` if not known.
    pub zone: Option<String>,
    /// Whether its machine is to be emptied: what runs there goes soon.
    pub draining: bool,
    /// For how long it has been a replica in step with its parent, in milliseconds.
    pub steady_ms: u64,
}

/// Whether a node was started from what its workload asks for now: image, resources and the like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Template {
    /// It was.
    Current,
    /// From something older.
    Outdated,
    /// From something older, and its provider says that it never became ready, or that it ends again and again.
    Stuck,
}

/// What a provider says of a node, without asking it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Presence {
    /// There, and its process is not known to run yet (pod pending, volume not bound, image missing ...).
    Starting,
    /// Its process runs.
    Running,
    /// Being deleted: it still runs, and stops soon (deletionTimestamp is set).
    Leaving,
    /// Its process is known to have ended, and no other was started in its place yet.
    Exited,
}

/// What should be, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The wanted workloads in order of their shard. A workload of a shard that is not in the list is to be deleted.
    pub workloads: Vec<Workload>,
    /// For every shard its next step and its condition, in order of the index.
    pub shards: Vec<ShardPlan>,
    /// The slots that are still to move to other shards, as far as it is known who serves which.
    pub moves: Vec<Move>,
    /// What every node should know of the cluster, to be sent to those in `map_targets`.
    pub map: ClusterMap,
    /// The nodes that answer and whose map is another.
    pub map_targets: Vec<NodeId>,
}

/// A wanted workload: one StatefulSet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// Index of the shard.
    pub shard: u16,
    /// Number of its nodes.
    pub nodes: u16,
}

/// The plan for one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardPlan {
    /// Index of the shard.
    pub index: u16,
    /// What to do next.
    pub step: Step,
    /// The newest config that any node accepted; `None` before the shard is founded.
    pub config: Option<ShardConfig>,
    /// Whether clients can write to the shard now.
    pub serving: bool,
    /// Whether the serving master acknowledges writes as specified.
    pub durable: bool,
    /// Whether its master follows a source, so that clients can only read.
    pub follows: bool,
    /// Number of nodes that do what the config says: the serving master, and replicas whose stream flows.
    pub ready_nodes: u16,
    /// Whether the step needs the observer's own vote, which is to be kept before anybody can act on it.
    pub needs_vote: bool,
    /// What became of the user's wish who is to lead; `None` if there is none, or it stands.
    pub wish: Option<WishEnd>,
    /// Number of wanted nodes that are not ready, and never were: they come up for the first time.
    pub new_nodes: u16,
}

impl ShardPlan {
    /// Whether it does not serve, and follows no source, or a node is not ready that was, or that is not on its way for the first time.
    #[must_use]
    pub fn lacks(&self, spec: &ClusterSpec) -> bool {
        let works = self.serving || self.follows;
        !works || self.ready_nodes + self.new_nodes < spec.nodes_per_shard()
    }

    /// Whether what is done or waited for says that something is wrong.
    #[must_use]
    pub fn is_alarming(&self) -> bool {
        match &self.step {
            Step::Nothing => false,
            Step::Wait(reason) | Step::Do(_, reason) => reason.is_warning(),
        }
    }
}

/// How a user's wish who is to lead has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WishEnd {
    /// That node leads.
    Fulfilled,
    /// The shard has no such node.
    NoMember,
}

/// The next step of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The shard is as specified.
    Nothing,
    /// Something is missing that only time or a user can bring.
    Wait(Reason),
    /// One action, and why.
    Do(Action, Reason),
}

/// One action on the nodes of a shard. What nodes are asked carries an epoch, and a node that knows a newer one refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask `nodes` to promise `epoch`. The next pass sees the promises in their reports.
    Prepare {
        /// The new epoch.
        epoch: Epoch,
        /// Whom to ask.
        nodes: Vec<NodeId>,
        /// Who of them may promise.
        consent: Consent,
    },
    /// Send `config` to `first`, and when that accepted it, to the rest.
    Accept {
        /// The config.
        config: Box<ShardConfig>,
        /// Who must accept before anybody else hears of it: the (new) master, or the one that lags behind.
        first: NodeId,
        /// Who is told then, in any order; a failure there is mended by a later pass.
        then: Vec<NodeId>,
    },
    /// Ask the master to hold its clients' writes, so that `target` can catch up and take over.
    Pause {
        /// The master.
        master: NodeId,
        /// Its successor.
        target: NodeId,
        /// The master's present epoch.
        epoch: Epoch,
        /// After this many milliseconds the master goes on by itself.
        milliseconds: u64,
    },
    /// Ask the master, which follows a source, to see to it that it has all of it.
    CutOver {
        /// The master.
        master: NodeId,
        /// Its present epoch.
        epoch: Epoch,
    },
    /// Ask a master to import slots from the master of another shard.
    Import {
        /// The master that gets them.
        master: NodeId,
        /// Its present epoch.
        epoch: Epoch,
        /// Index of the shard that has them.
        from: u16,
        /// Which slots; none: it gives up what it imports.
        slots: SlotSet,
    },
    /// Ask a master to hold writes to slots that it exports, so that the rest of them gets across.
    Hold {
        /// The master.
        master: NodeId,
        /// Its present epoch.
        epoch: Epoch,
        /// Index of the shard that gets them.
        to: u16,
        /// Which slots.
        slots: SlotSet,
        /// After this many milliseconds the master goes on by itself.
        milliseconds: u64,
    },
    /// Ask the provider to start a node again from what is wanted now. It keeps its volume.
    Replace {
        /// Name of the node.
        node: String,
        /// What it was seen to be of. If it is of another by now, it stays.
        template: Template,
    },
}

mod adoption;
mod change;
pub mod check;
mod election;
mod force;
mod founding;
mod handover;
mod map;
mod master;
mod reason;
mod rollout;
mod shard;
mod status;
mod transfer;
mod view;
mod workload;

pub use reason::{Change, Departure, DiskError, Loss, Reason};
pub use status::{
    ClusterStatus, Condition, ConditionKind, Memory, NodeCondition, NodeStatus, Problem, ShardStatus,
    SourceStatus, status,
};

use crate::spec::ClusterSpec;

/// The next step towards a new master of a shard whose master is lost or is to go, or towards all knowing of the one that
/// there is; `None` if nothing of this is to be done. Nodes that have no operator plan with this.
#[must_use]
pub fn succeed(spec: &ClusterSpec, observed: &Observed, shard: u16) -> Option<Step> {
    let views = view::views(spec, observed);
    views.iter().find(|view| view.index == shard).and_then(shard::succeed)
}

/// Decides what should be, and the next step of every shard.
#[must_use]
pub fn plan(spec: &ClusterSpec, observed: &Observed) -> Plan {
    let shards: Vec<_> = view::views(spec, observed);
    let mut plans: Vec<_> = shards.iter().map(|view| shard::plan(view, &shards)).collect();
    let moves = transfer::moves(&shards);
    transfer::steps(&shards, &mut plans, &moves);
    let (map, map_targets) = map::map(&observed.uid, &shards);
    Plan {
        workloads: shards.iter().filter_map(|view| workload::workload(view, &shards)).collect(),
        shards: plans,
        moves,
        map,
        map_targets,
    }
}
