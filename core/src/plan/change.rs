//! Changes of members and parents that keep the master.

use crate::control::DataState;
use crate::id::NodeId;
use crate::plan::reason::{Change, Reason};
use crate::plan::view::{Seen, View, epoch_of, ordinal_of};
use crate::plan::{Action, Presence, Step};
use crate::quorum::Electorate;
use crate::shard::{Member, ShardConfig};
use crate::topology::{Fitness, Seat, assign_parents};

/// Makes members and parents what they should be, all in one new config; `None` if they are.
pub(super) fn reconfigure(view: &View<'_>, config: &ShardConfig, master: &Seen<'_>) -> Option<Step> {
    let settled = master.report.is_some_and(|report| {
        epoch_of(report) == config.epoch && report.durability.is_some_and(|durability| durability.settled)
    });
    // One change of those whose word counts at a time; but who is gone for good would be waited for in vain.
    let settles = !config.overlap.is_empty() && settled;
    let replaces = config.members.iter().any(|member| view.reborn(member));
    let voters_stay = settles || (!config.overlap.is_empty() && !replaces);
    let members = if voters_stay { config.members.clone() } else { wanted_members(view, config) };
    let members = with_parents(view, config.master, members);
    let acknowledge = if voters_stay { config.acknowledge } else { view.spec.acknowledge };
    let failover = view.spec.failover;
    let topology = view.spec.topology;
    let mut new = ShardConfig { members, acknowledge, topology, failover, ..config.clone() };
    new.overlap = if settles { Vec::new() } else { overlap(view, config, &new) };
    let mut changes = differences(view, config, &new.members);
    if new.acknowledge != config.acknowledge {
        changes.push(Change::Acknowledges { mode: new.acknowledge });
    }
    if new.topology != config.topology && changes.is_empty() {
        changes.push(Change::Reshapes);
    }
    if new.failover != config.failover {
        changes.push(Change::FailsOver);
    }
    if settles {
        changes.push(Change::Settles);
    }
    if changes.is_empty() {
        return None;
    }
    new.epoch = view.known_epoch().next_for(master.node.ordinal);
    let concerned = |id: NodeId| config.member(id).is_some() || new.member(id).is_some();
    let others = view
        .answering()
        .filter(|(_, report)| report.id != config.master)
        .filter(|(_, report)| concerned(report.id) || report.config.is_some());
    let then = others.map(|(_, report)| report.id).collect();
    let action = Action::Accept { config: Box::new(new), first: config.master, then };
    Some(Step::Do(action, Reason::Reconfiguring(changes)))
}

/// Those whose word must go on to count for a while after a change from `old` to `new`: where acknowledgements promise
/// something, and it is others who keep it, or more or fewer of them.
fn overlap(view: &View<'_>, old: &ShardConfig, new: &ShardConfig) -> Vec<Electorate> {
    if !new.holds_replies() {
        return Vec::new();
    }
    let gone = |id: NodeId| old.member(id).is_some_and(|member| view.reborn(member));
    let changed = (old.electorate() != new.electorate()).then(|| old.electorate());
    let mut kept: Vec<_> = old.overlap.iter().cloned().chain(changed).map(|one| one.without(gone)).collect();
    kept.retain(|electorate| !electorate.voters.is_empty());
    kept.dedup();
    kept
}

/// The present members without those that the spec no longer asks for, and with every node that answers and should be one.
fn wanted_members(view: &View<'_>, config: &ShardConfig) -> Vec<Member> {
    let mut members: Vec<_> = config
        .members
        .iter()
        .filter(|member| member.id == config.master || view.wants_name(&member.name))
        .cloned()
        .collect();
    for (seen, report) in view.answering() {
        let known = members.iter().any(|member| member.id == report.id);
        let masters_place = config.member(config.master).is_some_and(|master| master.name == seen.node.name);
        if !known && !masters_place && !seen.leaving() && view.wants(seen.node.ordinal) {
            members.retain(|member| member.name != seen.node.name);
            members.push(Member { id: report.id, name: seen.node.name.clone(), parent: None });
        }
    }
    sorted_members(members)
}

/// Members in order of their ordinal.
pub(super) fn sorted_members(mut members: Vec<Member>) -> Vec<Member> {
    members.sort_by(|a, b| (ordinal_of(&a.name), &a.name).cmp(&(ordinal_of(&b.name), &b.name)));
    members
}

/// `members` with the parents that the topology asks for below `master`.
pub(super) fn with_parents(view: &View<'_>, master: NodeId, members: Vec<Member>) -> Vec<Member> {
    let seat = |member: &Member| Seat {
        id: member.id,
        fitness: fitness(view.node(member.id)),
        parent: member.parent,
    };
    let seats: Vec<_> = members.iter().map(seat).collect();
    let parents = assign_parents(view.spec.topology, master, &seats);
    members.into_iter().map(|member| Member { parent: parents.get(&member.id).copied(), ..member }).collect()
}

/// What can be asked of a node as a relay.
pub(super) fn fitness(seen: Option<&Seen<'_>>) -> Fitness {
    let up = seen.filter(|seen| seen.answers && !seen.leaving() && seen.node.presence != Presence::Exited);
    match up.and_then(|seen| seen.report) {
        None => Fitness::Down,
        Some(report) if report.data == DataState::Live => Fitness::Synced,
        Some(_) => Fitness::Joining,
    }
}

fn differences(view: &View<'_>, config: &ShardConfig, members: &[Member]) -> Vec<Change> {
    let named = |list: &[Member], name: &str| list.iter().any(|member| member.name == name);
    let removed = config.members.iter().filter(|member| !named(members, &member.name));
    let mut changes: Vec<_> = removed.map(|member| Change::Removes { node: member.name.clone() }).collect();
    for member in members {
        let node = member.name.clone();
        match config.member(member.id) {
            None if named(&config.members, &member.name) => changes.push(Change::Replaces { node }),
            None => changes.push(Change::Adds { node }),
            Some(old) if old.parent != member.parent => {
                let parent = members.iter().find(|other| Some(other.id) == member.parent);
                let parent = parent.map(|parent| parent.name.clone()).unwrap_or_default();
                changes.push(Change::Moves { node, parent });
            }
            Some(_) if is_stuck(view, config, member.id) => changes.push(Change::TakesBack { node }),
            Some(_) => {}
        }
    }
    changes
}

/// Whether a member promised an epoch above that of the config, so that it would refuse the config.
fn is_stuck(view: &View<'_>, config: &ShardConfig, id: NodeId) -> bool {
    let answers = view.node(id).filter(|seen| seen.answers && id != config.master);
    answers.and_then(|seen| seen.report).is_some_and(|report| report.promised > config.epoch)
}
