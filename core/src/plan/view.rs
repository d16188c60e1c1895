//! A shard as the planner sees it: what is trusted of what was observed.

use crate::control::{DataState, LinkState, NodeReport, NodeState};
use crate::id::{Epoch, NodeId};
use crate::plan::reason::DiskError;
use crate::plan::{NodeObserved, Observed, Presence, ShardObserved, Vote, adoption};
use crate::shard::{Member, ShardConfig};
use crate::spec::{ClusterSpec, Home};

/// A shard, with its newest config.
pub(super) struct View<'a> {
    pub spec: &'a ClusterSpec,
    pub observed: &'a Observed,
    pub index: u16,
    pub workload_nodes: Option<u16>,
    /// What the observer has voted for last.
    pub witness: Option<Vote>,
    /// Name of the node that a user wants to lead.
    pub wish: Option<&'a str>,
    /// The epoch of the config that a user gives up.
    pub forced: Option<Epoch>,
    /// For how long the observer is bound not to vote against the master.
    pub bound_ms: Option<u64>,
    /// To whom, if to one only.
    pub bound_to: Option<NodeId>,
    pub nodes: Vec<Seen<'a>>,
    /// The newest config that any node accepted.
    pub config: Option<&'a ShardConfig>,
}

/// A node, with its report if that can be trusted.
pub(super) struct Seen<'a> {
    pub node: &'a NodeObserved,
    /// Its report, if it is from the node that it should be.
    pub report: Option<&'a NodeReport>,
    /// Whether it answers: it did within the time after which a node counts as down.
    pub answers: bool,
    /// Whether somebody else answers in its place.
    pub stray: bool,
}

/// The shards of the spec and those that are there, in order of their index.
pub(super) fn views<'a>(spec: &'a ClusterSpec, observed: &'a Observed) -> Vec<View<'a>> {
    let beyond = observed.shards.iter().map(|shard| shard.index).filter(|&index| index >= spec.shards);
    (0..spec.shards)
        .chain(beyond)
        .map(|index| {
            let shard = observed.shards.iter().find(|shard| shard.index == index);
            View::new(spec, observed, index, shard)
        })
        .collect()
}

impl<'a> View<'a> {
    fn new(
        spec: &'a ClusterSpec,
        observed: &'a Observed,
        index: u16,
        shard: Option<&'a ShardObserved>,
    ) -> Self {
        let nodes: Vec<_> = shard
            .map(|shard| shard.nodes.as_slice())
            .unwrap_or_default()
            .iter()
            .map(|node| Seen::new(spec, observed, index, node))
            .collect();
        let config = nodes
            .iter()
            .filter_map(|seen| seen.report?.config.as_ref())
            .filter(|config| config.uid == observed.uid && config.shard == index)
            .max_by_key(|config| config.epoch);
        Self {
            spec,
            observed,
            index,
            workload_nodes: shard.and_then(|shard| shard.workload_nodes),
            witness: shard.and_then(|shard| shard.witness),
            wish: shard.and_then(|shard| shard.wish.as_deref()),
            forced: shard.and_then(|shard| shard.forced),
            bound_ms: shard.map_or(Some(0), |shard| shard.bound_ms),
            bound_to: shard.and_then(|shard| shard.bound_to),
            nodes,
            config,
        }
    }

    /// The node with this id.
    pub fn node(&self, id: NodeId) -> Option<&Seen<'a>> {
        self.nodes.iter().find(|seen| seen.id() == Some(id))
    }

    /// The node of this name, whatever its id.
    pub fn named(&self, name: &str) -> Option<&Seen<'a>> {
        self.nodes.iter().find(|seen| seen.node.name == name)
    }

    /// The nodes that answer, with their reports.
    pub fn answering(&self) -> impl Iterator<Item = (&Seen<'a>, &'a NodeReport)> {
        self.nodes.iter().filter(|seen| seen.answers).filter_map(|seen| Some((seen, seen.report?)))
    }

    /// The highest epoch that any node promised or accepted.
    pub fn known_epoch(&self) -> Epoch {
        let reports = self.nodes.iter().filter_map(|seen| seen.report);
        let promised = reports.map(|report| report.promised.max(epoch_of(report))).max();
        promised.unwrap_or_default().max(self.witness.map_or(Epoch(0), |vote| vote.epoch))
    }

    /// Whether the spec asks for a node with this ordinal.
    pub fn wants(&self, ordinal: u16) -> bool {
        ordinal < self.spec.nodes_per_shard()
    }

    /// Whether a member of this name belongs to the shard as specified; so does one whose name says nothing.
    pub fn wants_name(&self, name: &str) -> bool {
        ordinal_of(name).is_none_or(|ordinal| self.wants(ordinal))
    }

    /// Names of the nodes that the spec asks for.
    pub fn wanted_names(&self) -> impl Iterator<Item = String> {
        (0..self.spec.nodes_per_shard())
            .map(|ordinal| format!("{}-{}-{ordinal}", self.observed.name, self.index))
    }

    /// Names of the nodes that the spec asks for and that do not answer.
    pub fn missing(&self) -> Vec<String> {
        self.wanted_names().filter(|name| !self.named(name).is_some_and(|seen| seen.answers)).collect()
    }

    /// The nodes that answer and cannot write to their disks.
    pub fn disk_errors(&self) -> Vec<DiskError> {
        let error = |(seen, report): (&Seen<'a>, &NodeReport)| {
            Some(DiskError { node: seen.node.name.clone(), error: report.disk_error.clone()? })
        };
        self.answering().filter_map(error).collect()
    }

    /// The name of a member of `config`, for people.
    pub fn name_of(&self, config: &ShardConfig, id: NodeId) -> String {
        let name = config.member(id).map(|member| member.name.clone());
        name.or_else(|| self.node(id).map(|seen| seen.node.name.clone())).unwrap_or_else(|| id.to_string())
    }

    /// Whether `member` was replaced by a node of the same name and another id: the member is gone for good.
    pub fn reborn(&self, member: &Member) -> bool {
        self.named(&member.name)
            .is_some_and(|seen| seen.answers && seen.id().is_some_and(|id| id != member.id))
            && self.node(member.id).is_none()
    }

    /// Whether this node was asked to lead: by a user's wish or, where there is none, directly.
    pub fn is_asked(&self, seen: &Seen<'_>) -> bool {
        match self.wish {
            Some(name) => seen.node.name == name,
            None => seen.report.is_some_and(|report| report.asked_to_lead),
        }
    }

    /// Whether masters should live where this node is.
    pub fn prefers(&self, seen: &Seen<'_>) -> bool {
        self.spec.preferred.as_ref().is_some_and(|preferred| match &preferred.home {
            Home::Zone(zone) => seen.node.site.zone.as_ref() == Some(zone),
            Home::Ordinal(ordinal) => seen.node.ordinal == *ordinal,
        })
    }

    /// Whether the node answers and serves as a master.
    pub fn leads(&self, seen: &Seen<'_>) -> bool {
        seen.answers && seen.report.is_some_and(|report| report.state == NodeState::Master)
    }

    /// Whether the voter of this id was replaced by a blank node, see [`View::reborn`].
    pub fn gone(&self, config: &ShardConfig, id: NodeId) -> bool {
        config.voters().any(|voter| voter.id == id && self.reborn(voter))
    }

    /// Whether the node does what `config` asks of it.
    pub fn in_place(&self, config: &ShardConfig, member: &Member) -> bool {
        let Some((seen, report)) = self.node(member.id).and_then(|seen| Some((seen, seen.report?))) else {
            return false;
        };
        if !seen.answers || report.disk_error.is_some() {
            return false;
        }
        if member.id == config.master {
            return report.state == NodeState::Master
                && (config.source.is_none() || adoption::is_following(report));
        }
        let follows = report.link.as_ref().is_some_and(|link| {
            link.state == LinkState::Streaming && (link.parent.is_none() || link.parent == member.parent)
        });
        report.config.as_ref().is_some_and(|own| is_same_place(own, config))
            && report.state == NodeState::Replica
            && report.data == DataState::Live
            && follows
    }
}

impl<'a> Seen<'a> {
    fn new(spec: &ClusterSpec, observed: &Observed, index: u16, node: &'a NodeObserved) -> Self {
        let expected = |report: &&NodeReport| {
            report.uid == observed.uid && report.shard == index && report.name == node.name
        };
        let report = node.report.as_ref().filter(expected);
        let alive = node.presence != Presence::Exited && node.silent_ms < spec.failover.down_after_ms;
        Self {
            node,
            report,
            answers: report.is_some() && alive,
            stray: node.report.is_some() && report.is_none(),
        }
    }

    pub fn id(&self) -> Option<NodeId> {
        self.report.map(|report| report.id)
    }

    /// Whether it is about to stop.
    pub fn leaving(&self) -> bool {
        self.node.presence == Presence::Leaving || self.report.is_some_and(|report| report.leaving)
    }
}

/// Whether a node has the same to do under two configs, whatever slots they have.
fn is_same_place(a: &ShardConfig, b: &ShardConfig) -> bool {
    a.epoch == b.epoch
        || (a.master, &a.members, a.acknowledge, &a.overlap)
            == (b.master, &b.members, b.acknowledge, &b.overlap)
            && (a.given != b.given || a.taken != b.taken || a.slots != b.slots)
}

/// The epoch of the config that the node accepted last; 0 if none.
pub(super) fn epoch_of(report: &NodeReport) -> Epoch {
    report.config.as_ref().map_or(Epoch(0), |config| config.epoch)
}

/// The ordinal at the end of a node's name.
pub(super) fn ordinal_of(name: &str) -> Option<u16> {
    name.rsplit_once('-')?.1.parse().ok()
}
