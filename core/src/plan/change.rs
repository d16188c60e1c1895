//! Changes of members and parents that keep the master.

use crate::control::{Consent, DataState, NodeReport};
use crate::id::NodeId;
use crate::plan::reason::{Change, Reason};
use crate::plan::view::{Seen, View, epoch_of, ordinal_of};
use crate::plan::{Action, Presence, Step, adoption, election};
use crate::quorum::Electorate;
use crate::shard::{Member, ShardConfig};
use crate::topology::{Fitness, Seat, assign_parents};

/// Makes members and parents what they should be, all in one new config; `None` if they are.
pub(super) fn reconfigure(view: &View<'_>, config: &ShardConfig, master: &Seen<'_>) -> Option<Step> {
    let settled = election::is_known(view, config)
        && master.report.is_some_and(|report| {
            let kept = report.durability.map_or(!config.holds_replies(), |durability| durability.settled);
            epoch_of(report) == config.epoch && kept
        });
    // One change of those whose word counts at a time; but who is gone for good would be waited for in vain.
    let settles = !config.overlap.is_empty() && settled;
    let (members, acknowledge) = match (settles, config.overlap.is_empty()) {
        (true, _) => (config.members.clone(), config.acknowledge),
        (false, false) => {
            let members = replaced(view, config, &wanted_members(view, config));
            let members = taken_back(view, config, members);
            let enough = usize::from(config.acknowledge.copies()) <= members.len();
            (members, if enough { config.acknowledge } else { view.spec.acknowledge })
        }
        (false, true) => {
            let members = removable(view, config, wanted_members(view, config));
            let next = view.spec.acknowledge;
            // What more copies are wanted of than there are nodes waits for those.
            let enough = usize::from(next.copies()) <= members.len();
            (members, if enough { next } else { config.acknowledge })
        }
    };
    let members = with_parents(view, config.master, members);
    let failover = view.spec.failover;
    let topology = view.spec.topology;
    let source = adoption::source(view, config, master.report);
    let mut new = ShardConfig { members, acknowledge, topology, failover, source, ..config.clone() };
    new.overlap = if settles { Vec::new() } else { overlap(view, config, &new) };
    new.former = former(config, &new);
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
    changes.extend(adoption::change(config, &new));
    if settles {
        changes.push(Change::Settles);
    }
    if changes.is_empty() {
        changes.extend(unfinished(view, config));
    }
    if changes.is_empty() {
        return None;
    }
    Some(renew(view, config, master, new, changes))
}

/// Proposes `new`, which has the same master, in place of `config`: asks the nodes to agree, or sends it if they have.
pub(super) fn renew(
    view: &View<'_>,
    config: &ShardConfig,
    master: &Seen<'_>,
    mut new: ShardConfig,
    changes: Vec<Change>,
) -> Step {
    let (epoch, asked) = election::agree(view, config, master.node.ordinal);
    match asked {
        Some(nodes) if nodes.is_empty() => {
            return Step::Wait(Reason::NoAgreement { changes, missing: unheard(view, config) });
        }
        Some(nodes) => {
            let ask = Action::Prepare { epoch, nodes, consent: Consent::Renewal(config.epoch) };
            return Step::Do(ask, Reason::Agreeing(changes));
        }
        None => new.epoch = epoch,
    }
    let concerned = |id: NodeId| config.member(id).is_some() || new.member(id).is_some();
    let others = view
        .answering()
        .filter(|(_, report)| report.id != config.master)
        .filter(|(_, report)| concerned(report.id) || report.config.is_some());
    let then = others.map(|(_, report)| report.id).collect();
    let action = Action::Accept { config: Box::new(new), first: config.master, then };
    Step::Do(action, Reason::Reconfiguring(changes))
}

/// The members that do not answer.
fn unheard(view: &View<'_>, config: &ShardConfig) -> Vec<String> {
    let answers = |member: &&Member| view.node(member.id).is_some_and(|seen| seen.answers);
    config.members.iter().filter(|member| !answers(member)).map(|member| member.name.clone()).collect()
}

/// Those whose word must go on to count for a while after a change from `old` to `new`: where it is others who elect, or who
/// keep acknowledged writes, or more or fewer of them who do. Where acknowledgements promise nothing any more, what was
/// promised before is not waited for.
fn overlap(view: &View<'_>, old: &ShardConfig, new: &ShardConfig) -> Vec<Electorate> {
    let gone = |id: NodeId| view.gone(old, id);
    let changed = (old.electorate() != new.electorate()).then(|| old.electorate());
    let mut kept: Vec<_> = old.overlap.iter().cloned().chain(changed).map(|one| one.without(gone)).collect();
    kept.retain(|electorate| !electorate.voters.is_empty());
    if !new.holds_replies() {
        kept.iter_mut().for_each(|electorate| electorate.copies = 0);
        let voters = new.electorate().voters;
        kept.retain(|electorate| electorate.voters != voters);
    }
    kept.dedup();
    kept
}

/// Those who vote under `new` for the sake of what was before, and are no members any more.
fn former(old: &ShardConfig, new: &ShardConfig) -> Vec<Member> {
    let votes = |member: &&Member| {
        new.member(member.id).is_none() && new.overlap.iter().any(|one| one.voters.contains(&member.id))
    };
    old.voters().filter(votes).map(|member| Member { parent: None, ..member.clone() }).collect()
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

/// The present members, with those of `wanted` in the places of their names, and without those that are gone for good.
fn replaced(view: &View<'_>, config: &ShardConfig, wanted: &[Member]) -> Vec<Member> {
    let of_name = |member: &Member| wanted.iter().find(|other| other.name == member.name).cloned();
    let stays = |member: &Member| (!view.reborn(member)).then(|| member.clone());
    config.members.iter().filter_map(|member| of_name(member).or_else(|| stays(member))).collect()
}

/// `members`, or with those of before, too, that still vote: where so many of them are gone that the others cannot have what
/// was acknowledged.
fn taken_back(view: &View<'_>, config: &ShardConfig, mut members: Vec<Member>) -> Vec<Member> {
    let gone = |id: NodeId| view.gone(config, id);
    for electorate in config.overlap.iter().cloned().map(|one| one.without(gone)) {
        let is_member = |id: NodeId| members.iter().any(|member| member.id == id);
        let there = electorate.voters.iter().filter(|id| is_member(**id)).count();
        if !config.holds_replies() || there >= electorate.decisive() {
            continue;
        }
        let former = view
            .answering()
            .filter(|(_, report)| electorate.voters.contains(&report.id) && !is_member(report.id));
        let former =
            former.map(|(seen, report)| Member { id: report.id, name: seen.node.name.clone(), parent: None });
        let former: Vec<_> = former.collect();
        members.extend(former);
    }
    sorted_members(members)
}

/// `wanted`, or with the present members, too: where so many are to go that the others cannot have, by the present promise,
/// what was acknowledged. The promise is changed first then.
fn removable(view: &View<'_>, config: &ShardConfig, wanted: Vec<Member>) -> Vec<Member> {
    let gone = |id: NodeId| view.gone(config, id);
    let stay = |id: &&NodeId| wanted.iter().any(|member| member.id == **id);
    let present = config.electorate().without(gone);
    let enough = present.voters.iter().filter(stay).count() >= present.decisive();
    if !view.spec.acknowledge.holds_replies() || enough {
        return wanted;
    }
    let kept = config.members.iter().filter(|member| !wanted.iter().any(|other| other.name == member.name));
    sorted_members(wanted.iter().chain(kept).cloned().collect())
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
    let promised = answers.and_then(|seen| seen.report);
    promised.is_some_and(|report| report.promised > config.epoch && !report.renewing)
}

/// Nodes that agreed to a change that is not wanted any more.
fn unfinished(view: &View<'_>, config: &ShardConfig) -> Option<Change> {
    let agreed = |report: &NodeReport| report.renewing && report.promised > config.epoch;
    view.answering()
        .any(|(_, report)| config.member(report.id).is_some() && agreed(report))
        .then_some(Change::Stays)
}
