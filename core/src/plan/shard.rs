//! The next step of one shard.

use crate::control::DataState;
use crate::id::{Epoch, NodeId};
use crate::plan::master::{self, Master};
use crate::plan::reason::Reason;
use crate::plan::view::{Seen, View, epoch_of};
use crate::plan::{
    Action, ShardPlan, Step, Template, adoption, change, election, founding, handover, rollout, workload,
};
use crate::shard::ShardConfig;

/// Decides the next step of a shard; `all` are the cluster's shards.
pub(super) fn plan(view: &View<'_>, all: &[View<'_>]) -> ShardPlan {
    let (step, serving, durable, follows) = match view.config {
        None => (founding::found(view, all), false, false, false),
        Some(_) if workload::is_gone(view) => (Step::Wait(Reason::Retiring), false, false, false),
        Some(config) => {
            let master = master::find(view, config);
            let serves = match &master {
                Master::Serves(_, report) if report.disk_error.is_none() && config.source.is_none() => {
                    Some(*report)
                }
                _ => None,
            };
            let durable = config.acknowledge == view.spec.acknowledge
                && serves
                    .is_some_and(|report| report.durability.is_none_or(|durability| !durability.degraded));
            let follows = config.source.is_some() && matches!(master, Master::Serves(..));
            (next_step(view, config, master), serves.is_some(), durable, follows)
        }
    };
    let ready = view.config.map_or(0, |config| {
        let wanted = config.members.iter().filter(|member| view.wants_name(&member.name));
        wanted.filter(|member| view.in_place(config, member)).count()
    });
    let new = view.wanted_names().filter(|name| is_new(view, name)).count();
    let step = rollout::roll(view, replace_stuck(view, name_stray(view, step)));
    ShardPlan {
        index: view.index,
        needs_vote: view.config.is_some_and(|config| election::needs_vote(view, config, &step)),
        step,
        config: view.config.cloned(),
        serving,
        durable,
        follows,
        ready_nodes: u16::try_from(ready).unwrap_or(u16::MAX),
        wish: view.config.and_then(|config| handover::wish_end(view, config)),
        new_nodes: u16::try_from(new).unwrap_or(u16::MAX),
    }
}

/// Whether the node of this name comes up for the first time: it is no member yet, or one that is being filled and never
/// held anything.
fn is_new(view: &View<'_>, name: &str) -> bool {
    let members = view.config.map(|config| config.members.as_slice()).unwrap_or_default();
    let Some(member) = members.iter().find(|member| member.name == name) else { return true };
    view.answering().any(|(_, report)| {
        report.id == member.id && report.data <= DataState::Syncing && report.write_epoch == Epoch(0)
    }) && view.config.is_some_and(|config| config.master != member.id || config.source.is_some())
}

fn next_step(view: &View<'_>, config: &ShardConfig, master: Master<'_, '_>) -> Step {
    match master {
        Master::Serves(master, report) => {
            if handover::comes_later(view, config, master, report)
                && let Some(change) = change::reconfigure(view, config, master)
            {
                return change;
            }
            let hand_over = handover::hand_over(view, config, master, report);
            if let Some(Step::Do(..)) = &hand_over {
                return hand_over.unwrap_or(Step::Nothing);
            }
            if let Some(wait) = hand_over.as_ref().filter(|step| is_pressing(step)) {
                return wait.clone();
            }
            change::reconfigure(view, config, master)
                .or_else(|| inform(view, config))
                .or(hand_over)
                .or_else(|| adoption::next(view, config, report))
                .unwrap_or_else(|| settled(view, config))
        }
        Master::Unaware => inform(view, config).unwrap_or(Step::Nothing),
        Master::Unheard => {
            Step::Wait(Reason::WaitingForMaster { master: view.name_of(config, config.master) })
        }
        Master::Lost(loss) => election::elect(view, config, loss),
    }
}

/// Whether clients wait for what is waited for.
fn is_pressing(step: &Step) -> bool {
    matches!(step, Step::Wait(reason) if reason.is_pressing())
}

/// The step that a master needs that is lost or is to go, or nodes that do not know of a new one, and no other.
pub(super) fn succeed(view: &View<'_>) -> Option<Step> {
    let config = view.config?;
    match master::find(view, config) {
        Master::Lost(loss) => Some(election::elect(view, config, loss)),
        Master::Serves(master, report) => match handover::hand_over(view, config, master, report) {
            Some(step) if matches!(&step, Step::Do(..)) || is_pressing(&step) => Some(step),
            _ => inform(view, config),
        },
        Master::Unaware => inform(view, config),
        Master::Unheard => None,
    }
}

/// Sends the present config to those who answer and have an older one: members, nodes whose word still counts, though they may
/// never have heard of it, and nodes that were members before.
fn inform(view: &View<'_>, config: &ShardConfig) -> Option<Step> {
    let counts = |id: NodeId| config.electorates().any(|electorate| electorate.voters.contains(&id));
    let behind: Vec<_> = view
        .answering()
        .filter(|(_, report)| counts(report.id) || report.config.is_some())
        .filter(|(_, report)| epoch_of(report) < config.epoch && report.promised <= config.epoch)
        .collect();
    let ids: Vec<_> = behind.iter().map(|(_, report)| report.id).collect();
    let first = ids.iter().copied().find(|&id| id == config.master).or_else(|| ids.first().copied())?;
    let nodes = behind.iter().map(|(seen, _)| seen.node.name.clone()).collect();
    let then = ids.into_iter().filter(|&id| id != first).collect();
    Some(Step::Do(
        Action::Accept { config: Box::new(config.clone()), first, then },
        Reason::Informing { nodes },
    ))
}

fn settled(view: &View<'_>, config: &ShardConfig) -> Step {
    let nodes = view.disk_errors();
    if !nodes.is_empty() {
        return Step::Wait(Reason::DiskFull { nodes });
    }
    let behind = config.members.iter().filter(|member| !view.in_place(config, member));
    let mut nodes: Vec<_> = behind.map(|member| member.name.clone()).collect();
    nodes.extend(view.missing().into_iter().filter(|name| !config.members.iter().any(|m| m.name == *name)));
    if !nodes.is_empty() {
        return Step::Wait(Reason::NodesNotReady { nodes });
    }
    match view.node(config.master).and_then(|master| master.report?.durability) {
        Some(durability) if durability.degraded => Step::Wait(Reason::NotDurable),
        _ if !config.overlap.is_empty() => Step::Wait(Reason::Settling),
        _ => Step::Nothing,
    }
}

/// Where nothing else can be done, a node is started anew that does not become ready by itself, and was started from what is
/// not wanted any more: a bad image, or resources that nobody has. It runs nothing that could be lost.
fn replace_stuck(view: &View<'_>, step: Step) -> Step {
    let idle = match &step {
        Step::Nothing => true,
        Step::Wait(_) => !is_pressing(&step),
        Step::Do(..) => false,
    };
    let stuck = |seen: &&Seen<'_>| seen.node.template == Template::Stuck && !seen.answers && !seen.leaving();
    match view.nodes.iter().find(stuck) {
        Some(seen) if idle => {
            let (node, template) = (seen.node.name.clone(), Template::Stuck);
            Step::Do(Action::Replace { node: node.clone(), template }, Reason::Replacing { node })
        }
        _ => step,
    }
}

/// Where nodes are waited for and another one answers in the place of one of them, that is the reason to show.
fn name_stray(view: &View<'_>, step: Step) -> Step {
    let waits = matches!(
        &step,
        Step::Nothing | Step::Wait(Reason::WaitingForNodes { .. } | Reason::NodesNotReady { .. })
    );
    let stray = view.nodes.iter().find(|seen| seen.stray).and_then(|seen| {
        let report = seen.node.report.as_ref()?;
        let found = format!("{} of shard {} of cluster {}", report.name, report.shard, report.uid);
        Some(Reason::StrayNode { node: seen.node.name.clone(), found })
    });
    match stray {
        Some(reason) if waits => Step::Wait(reason),
        _ => step,
    }
}
