//! What is told of a cluster: conditions, and every shard with its nodes. Made from the same facts and reasons as the plan.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::control::NodeState;
use crate::id::{Epoch, NodeId};
use crate::plan::view::{View, views};
use crate::plan::{NodeObserved, Observed, Plan, Presence, ShardPlan, Step, Template, adoption};
use crate::quorum::Acknowledge;
use crate::shard::{Role, ShardConfig};
use crate::slot::SlotSet;
use crate::spec::ClusterSpec;

/// What is told of a cluster. It has no time stamps; who stores it knows when a condition changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// Ready, Progressing, Degraded, UpToDate, in this order; Durable, where acknowledged writes promise something;
    /// Adopting, while a shard follows a source; and Rebalancing, while slots move.
    pub conditions: Vec<Condition>,
    /// Nodes that do what their shard's config says.
    pub ready_nodes: u32,
    /// Nodes that the spec asks for.
    pub total_nodes: u32,
    /// Shards that serve writes, and shards that the spec asks for: `3/3`.
    pub masters: String,
    /// The shards in order of their index.
    pub shards: Vec<ShardStatus>,
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which one.
    #[serde(rename = "type")]
    pub kind: ConditionKind,
    /// Whether it holds.
    pub status: bool,
    /// A typed reason, in CamelCase.
    pub reason: String,
    /// The reason for people, with what they can do.
    pub message: String,
}

/// The conditions of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ConditionKind {
    /// Every shard serves, every node is in step, and nothing is left to do.
    Ready,
    /// Something is being done or waited for.
    Progressing,
    /// Something that worked, or should work, does not.
    Degraded,
    /// Every node was started from what is specified now.
    UpToDate,
    /// Acknowledged writes are as safe as specified. Only where they promise something.
    Durable,
    /// The shard follows `spec.source`, or is being cut over from it. Only where there is a source.
    Adopting,
    /// Slots move from one shard to another. Only while they do.
    Rebalancing,
}

/// Something that went wrong outside the plan: a spec that cannot be taken, an object that cannot be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// A typed reason, in CamelCase.
    pub reason: String,
    /// What went wrong, naming the thing that failed and what the user can do.
    pub message: String,
}

/// What is told of a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShardStatus {
    /// Index of the shard.
    pub index: u16,
    /// Epoch of its config; 0 before it is founded.
    pub epoch: Epoch,
    /// Name of its master; `None` before it is founded.
    pub master: Option<String>,
    /// The slots that it serves.
    pub slots: SlotSet,
    /// The server that it follows; `None` if it has data of its own.
    pub source: Option<SourceStatus>,
    /// Its nodes, those that should be there and those that are, in order of their name.
    pub nodes: Vec<NodeStatus>,
}

/// What is told of a source that a shard follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceStatus {
    /// Host and port.
    pub address: String,
    /// Whether its data is here, and its stream flows.
    pub following: bool,
    /// Bytes of its stream that are still to come, if known.
    pub lag_bytes: Option<u64>,
    /// What is wrong with the link, or keeps a cut-over from happening.
    pub problem: Option<String>,
}

/// What is told of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Its id, if known.
    pub id: Option<NodeId>,
    /// Its role in the config; `None` if it is no member.
    pub role: Option<Role>,
    /// Name of the node that feeds it.
    pub parent: Option<String>,
    /// How it is.
    pub state: NodeCondition,
    /// Its replication offset.
    pub offset: Option<u64>,
    /// Bytes that a replica lags behind the master.
    pub lag_bytes: Option<u64>,
    /// Milliseconds that a replica lags behind its parent: 0 when nothing is missing, else since its last acknowledgement.
    pub lag_ms: Option<u64>,
}

/// How a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeCondition {
    /// It does what the config says.
    Ready,
    /// It is there, and its process is not known to run yet, or has not answered yet.
    Starting,
    /// It answers, and waits for its first config, or for what it is after a restart.
    Joining,
    /// It is on the way to be in step with its parent.
    Syncing,
    /// It promised a newer epoch and waits for its config.
    Fenced,
    /// It cannot write to its disk, and so keeps nothing.
    DiskFull,
    /// It is about to stop.
    Leaving,
    /// It does not answer, has exited, or is not there.
    Down,
    /// Another node answers in its place.
    Stray,
}

/// What is remembered of a cluster's shards from one look to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Those that are known to have had a config, even if no node that has it is in sight.
    pub founded: BTreeSet<u16>,
    /// Those that lack something since a moment ago only, as while a master hands over, and of which nothing worse was seen.
    pub in_passing: BTreeSet<u16>,
}

/// Tells how a cluster is. `problems` are what went wrong outside the plan.
#[must_use]
pub fn status(
    spec: &ClusterSpec,
    observed: &Observed,
    plan: &Plan,
    memory: &Memory,
    problems: &[Problem],
) -> ClusterStatus {
    let total_nodes = u32::from(spec.shards) * u32::from(spec.nodes_per_shard());
    let ready_nodes = plan.shards.iter().map(|shard| u32::from(shard.ready_nodes)).sum();
    let wanted = |shard: &&ShardPlan| shard.index < spec.shards;
    let masters = plan.shards.iter().filter(wanted).filter(|shard| shard.serving).count();
    let problems: Vec<_> = problems.iter().cloned().chain(refused_source(spec, plan)).collect();
    let paused = clients_paused(observed, plan);
    let facts = Facts { spec, plan, memory, problems: &problems, paused, ready_nodes, total_nodes };
    ClusterStatus {
        conditions: [facts.ready(), facts.progressing(), facts.degraded(), up_to_date(spec, observed)]
            .into_iter()
            .chain(facts.durable())
            .chain(facts.adopting())
            .chain(rebalancing(plan))
            .collect(),
        ready_nodes,
        total_nodes,
        masters: format!("{masters}/{}", spec.shards),
        shards: views(spec, observed).iter().map(shard_status).collect(),
    }
}

struct Facts<'a> {
    spec: &'a ClusterSpec,
    plan: &'a Plan,
    memory: &'a Memory,
    problems: &'a [Problem],
    /// What there is to say of masters that users have hold their clients' writes.
    paused: Option<String>,
    ready_nodes: u32,
    total_nodes: u32,
}

impl Facts<'_> {
    fn all_is_well(&self) -> bool {
        let well = |shard: &ShardPlan| shard.serving && shard.step == Step::Nothing;
        self.plan.shards.iter().all(well) && self.ready_nodes >= self.total_nodes
    }

    fn summary(&self) -> String {
        let serving = self.plan.shards.iter().filter(|shard| shard.serving).count();
        let (ready, total, shards) = (self.ready_nodes, self.total_nodes, self.spec.shards);
        format!("{ready} of {total} nodes are ready, {serving} of {shards} shards serve")
    }

    /// Reason and message of the shards that are not well, those first that do not serve.
    fn unwell(&self) -> Option<(String, String)> {
        let reason = |shard: &ShardPlan| match &shard.step {
            Step::Nothing => None,
            Step::Wait(reason) | Step::Do(_, reason) => {
                Some((reason.code().to_owned(), format!("shard {}: {reason}", shard.index)))
            }
        };
        let (down, up): (Vec<_>, Vec<_>) = self.plan.shards.iter().partition(|shard| !shard.serving);
        let reasons: Vec<_> = down.into_iter().chain(up).filter_map(reason).collect();
        let (code, _) = reasons.first()?.clone();
        let shown: Vec<_> = reasons.iter().take(3).map(|(_, text)| text.clone()).collect();
        let more = reasons.len().saturating_sub(shown.len());
        let more = if more > 0 { format!("; and {more} more shards") } else { String::new() };
        Some((code, shown.join("; ") + &more))
    }

    fn problem(&self) -> Option<(String, String)> {
        let first = self.problems.first()?;
        let messages: Vec<_> = self.problems.iter().map(|problem| problem.message.as_str()).collect();
        Some((first.reason.clone(), messages.join("; ")))
    }

    fn ready(&self) -> Condition {
        let (status, (reason, message)) = match &self.paused {
            Some(paused) if self.all_is_well() => (false, ("ClientsPaused".to_owned(), paused.clone())),
            None if self.all_is_well() => (true, ("AllNodesReady".to_owned(), self.summary())),
            _ => (false, self.unwell().unwrap_or_else(|| ("NodesNotReady".to_owned(), self.summary()))),
        };
        Condition { kind: ConditionKind::Ready, status, reason, message }
    }

    fn progressing(&self) -> Condition {
        let (status, (reason, message)) = match self.unwell() {
            Some(unwell) => (true, unwell),
            None if self.all_is_well() => (
                false,
                // With a problem, something is left to do that is not being done.
                self.problem()
                    .unwrap_or_else(|| ("AsSpecified".to_owned(), "nothing is left to do".to_owned())),
            ),
            None => (true, ("NodesNotReady".to_owned(), self.summary())),
        };
        Condition { kind: ConditionKind::Progressing, status, reason, message }
    }

    /// What comes up for the first time is not degraded, be it the cluster or a replica, nor is what lasts a moment only and
    /// is nobody's fault. Else a shard that had a config is, whenever a node is missing.
    fn degraded(&self) -> Condition {
        let memory = self.memory;
        // One that is on its way out, and serves nothing, is missed by nobody.
        let missed = |shard: &ShardPlan| {
            let serves = shard.config.as_ref().is_some_and(|config| !config.slots.is_empty());
            shard.index < self.spec.shards || serves
        };
        let founded = |shard: &&ShardPlan| {
            missed(shard) && (shard.config.is_some() || memory.founded.contains(&shard.index))
        };
        let lacks = |shard: &ShardPlan| shard.lacks(self.spec) && !memory.in_passing.contains(&shard.index);
        let lacking = self.plan.shards.iter().filter(founded).any(lacks);
        let healthy = || ("AllWell".to_owned(), self.summary());
        let (status, (reason, message)) = match self.problem() {
            Some(problem) => (true, problem),
            None if lacking => {
                (true, self.unwell().unwrap_or_else(|| ("NodesNotReady".to_owned(), self.summary())))
            }
            None => (false, healthy()),
        };
        Condition { kind: ConditionKind::Degraded, status, reason, message }
    }

    /// What a shard that follows a source does, or waits for.
    fn adopting(&self) -> Option<Condition> {
        let follows =
            |shard: &&ShardPlan| shard.config.as_ref().is_some_and(|config| config.source.is_some());
        let shard = self.plan.shards.iter().find(follows)?;
        let (reason, message) = match &shard.step {
            Step::Wait(reason) | Step::Do(_, reason) => (reason.code(), reason.to_string()),
            Step::Nothing => return None,
        };
        let (reason, message) = (reason.to_owned(), format!("shard {} {message}", shard.index));
        Some(Condition { kind: ConditionKind::Adopting, status: true, reason, message })
    }

    fn durable(&self) -> Option<Condition> {
        if !self.spec.acknowledge.holds_replies() {
            return None;
        }
        let short: Vec<_> =
            self.plan.shards.iter().filter(|shard| !shard.durable).map(|shard| shard.index).collect();
        let (reason, message) = match short.first() {
            None => (
                "AsSpecified",
                format!("acknowledged writes are kept as specified: {}", self.spec.acknowledge),
            ),
            Some(first) => {
                let more =
                    if short.len() > 1 { format!(" and {} more", short.len() - 1) } else { String::new() };
                let text = match self.spec.acknowledge {
                    Acknowledge::SemiSync { .. } => {
                        "replies do not wait for replicas, as these do not keep up"
                    }
                    _ => "no master acknowledges writes as specified yet",
                };
                ("NotDurable", format!("shard {first}{more}: {text}"))
            }
        };
        let status = short.is_empty();
        Some(Condition { kind: ConditionKind::Durable, status, reason: reason.to_owned(), message })
    }
}

/// Masters that serve, and take no writes for now as a user wants it.
fn clients_paused(observed: &Observed, plan: &Plan) -> Option<String> {
    let masters = plan.shards.iter().filter(|shard| shard.serving).filter_map(|shard| shard.config.as_ref());
    let nodes = || observed.shards.iter().flat_map(|shard| &shard.nodes);
    let paused = masters.filter_map(|config| {
        let leads =
            |node: &&NodeObserved| node.report.as_ref().is_some_and(|report| report.id == config.master);
        nodes().find(leads).filter(|node| node.report.as_ref().is_some_and(|report| report.clients_paused))
    });
    let names: Vec<_> = paused.map(|node| node.name.as_str()).collect();
    let text = "as CLIENT PAUSE told it; CLIENT UNPAUSE there ends that";
    (!names.is_empty()).then(|| format!("writes of clients are held at {}, {text}", names.join(", ")))
}

/// A source that was named for a cluster that has data already.
fn refused_source(spec: &ClusterSpec, plan: &Plan) -> Option<Problem> {
    let configs = plan.shards.iter().filter_map(|shard| shard.config.as_ref());
    let refused = adoption::is_refused(spec.source.as_ref(), configs);
    let source = spec.source.as_ref().filter(|_| refused)?;
    let message = format!(
        "spec.source is not followed: the data of {source} would replace those of this cluster; remove spec.source, or \
         create another cluster with it"
    );
    Some(Problem { reason: "SourceRefused".to_owned(), message })
}

fn rebalancing(plan: &Plan) -> Option<Condition> {
    let configs = || plan.shards.iter().filter_map(|shard| shard.config.as_ref());
    let between =
        configs().flat_map(|config| &config.given).map(|given| (&given.slots, given.from, given.to));
    let next = plan.moves.iter().map(|next| (&next.slots, next.from, next.to));
    let all: Vec<_> = between.chain(next).collect();
    let slots: usize = all.iter().map(|(slots, ..)| slots.len()).sum();
    let (_, from, to) = all.first()?;
    Some(Condition {
        kind: ConditionKind::Rebalancing,
        status: true,
        reason: "MovingSlots".to_owned(),
        message: format!("{slots} slots are still to move, the next of them from shard {from} to shard {to}"),
    })
}

fn up_to_date(spec: &ClusterSpec, observed: &Observed) -> Condition {
    const SHOWN: usize = 3;
    let nodes = observed.shards.iter().flat_map(|shard| &shard.nodes);
    let outdated: Vec<_> =
        nodes.filter(|node| node.template != Template::Current).map(|node| node.name.as_str()).collect();
    let more = match outdated.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let shown: Vec<_> = outdated.iter().take(SHOWN).copied().collect();
    let (reason, message) = if outdated.is_empty() {
        ("AsSpecified", "every node was started from what is specified now".to_owned())
    } else {
        let how = if spec.nodes_per_shard() == 1 && !spec.durable {
            "each holds the only copy of its data, in memory: to renew it at the price of that data, delete its pod"
        } else {
            "they are renewed one at a time in each shard, replicas first, while all others are in step"
        };
        let text =
            format!("started from an older spec (image, resources): {}{more}; {how}", shown.join(", "));
        ("OutdatedNodes", text)
    };
    let status = outdated.is_empty();
    Condition { kind: ConditionKind::UpToDate, status, reason: reason.to_owned(), message }
}

fn shard_status(view: &View<'_>) -> ShardStatus {
    let mut names: Vec<String> = view.nodes.iter().map(|seen| seen.node.name.clone()).collect();
    let members = view.config.map(|config| config.members.as_slice()).unwrap_or_default();
    names.extend(view.missing());
    names.extend(members.iter().map(|member| member.name.clone()));
    names.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    names.dedup();
    ShardStatus {
        index: view.index,
        epoch: view.config.map_or(Epoch(0), |config| config.epoch),
        master: view.config.map(|config| view.name_of(config, config.master)),
        slots: view.config.map(|config| config.slots.clone()).unwrap_or_default(),
        source: view.config.and_then(|config| source_status(view, config)),
        nodes: names.into_iter().map(|name| node_status(view, name)).collect(),
    }
}

fn source_status(view: &View<'_>, config: &ShardConfig) -> Option<SourceStatus> {
    let address = config.source.as_ref()?.to_string();
    let report = view.node(config.master).filter(|seen| seen.answers).and_then(|seen| seen.report);
    let link = report.and_then(|report| report.source.clone()).unwrap_or_default();
    Some(SourceStatus {
        address,
        following: report.is_some_and(adoption::is_following),
        lag_bytes: link.lag_bytes,
        problem: link.problem,
    })
}

fn node_status(view: &View<'_>, name: String) -> NodeStatus {
    let seen = view.named(&name);
    let report = seen.and_then(|seen| seen.report);
    let member = view.config.and_then(|config| {
        let of_id = report.and_then(|report| config.member(report.id));
        let of_name = || config.members.iter().find(|member| member.name == name && report.is_none());
        of_id.or_else(of_name)
    });
    let config = view.config;
    let role = member.and_then(|member| config?.role(member.id));
    let is_replica = role == Some(Role::Replica);
    let offset = report.map(|report| report.offset);
    let master_offset =
        config.and_then(|config| view.node(config.master)?.report).map(|report| report.offset);
    let lag_bytes = match (is_replica, master_offset, offset) {
        (true, Some(master), Some(offset)) => Some(master.saturating_sub(offset)),
        _ => None,
    };
    NodeStatus {
        id: report.map(|report| report.id).or(member.map(|member| member.id)),
        role,
        parent: member.and_then(|member| Some(view.name_of(config?, member.parent?))),
        state: condition(view, config, &name),
        offset,
        lag_bytes,
        lag_ms: lag_bytes.and_then(|bytes| if bytes == 0 { Some(0) } else { ack_age(view, member?.id) }),
        name,
    }
}

fn ack_age(view: &View<'_>, id: NodeId) -> Option<u64> {
    let fed = view.answering().flat_map(|(_, report)| &report.replicas).find(|fed| fed.id == Some(id))?;
    Some(fed.ack_age_ms)
}

fn condition(view: &View<'_>, config: Option<&ShardConfig>, name: &str) -> NodeCondition {
    let Some(seen) = view.named(name) else { return NodeCondition::Down };
    let Some(report) = seen.report else {
        return match seen.node.presence {
            _ if seen.stray => NodeCondition::Stray,
            Presence::Starting => NodeCondition::Starting,
            Presence::Running if seen.node.silent_ms < view.spec.failover.down_after_ms => {
                NodeCondition::Starting
            }
            Presence::Running | Presence::Leaving | Presence::Exited => NodeCondition::Down,
        };
    };
    let member = config.and_then(|config| Some((config, config.member(report.id)?)));
    if !seen.answers {
        NodeCondition::Down
    } else if seen.leaving() {
        NodeCondition::Leaving
    } else if report.disk_error.is_some() {
        NodeCondition::DiskFull
    } else if member.is_some_and(|(config, member)| view.in_place(config, member)) {
        NodeCondition::Ready
    } else {
        match report.state {
            NodeState::Fenced => NodeCondition::Fenced,
            NodeState::Blank | NodeState::Joining => NodeCondition::Joining,
            NodeState::Replica | NodeState::Master => NodeCondition::Syncing,
        }
    }
}
