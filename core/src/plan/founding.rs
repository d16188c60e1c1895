//! The first config of a shard.

use std::cmp::Reverse;

use crate::control::NodeReport;
use crate::id::{Epoch, NodeId};
use crate::plan::change::{fitness, sorted_members};
use crate::plan::reason::Reason;
use crate::plan::view::{Seen, View};
use crate::plan::{Action, Step, adoption};
use crate::shard::{Member, ShardConfig};
use crate::slot::{Slot, SlotSet};
use crate::source::Source;
use crate::topology::{Seat, assign_parents};

/// How old the last answer of a founder may be. A shard is founded on the word of its nodes that they know of no config.
const FRESH_MS: u64 = 1000;

/// Founds a shard that never had a config, once all of its nodes answer. It gets its share of the slots that no shard has: of
/// a new cluster that is an even one, and of one that grows it is none. So every other shard must have said what it has, or
/// that it is new, too.
pub(super) fn found(view: &View<'_>, all: &[View<'_>]) -> Step {
    let founded =
        found_with(view, share(view, all), view.spec.source.clone(), |master| Reason::Founding { master });
    let others = all.iter().filter(|other| other.index != view.index && other.config.is_none());
    let nodes: Vec<_> = others.flat_map(unheard_founders).collect();
    match founded {
        Step::Do(..) if !nodes.is_empty() => Step::Wait(Reason::WaitingForNodes { nodes }),
        step => step,
    }
}

/// The slots that no shard in sight has.
pub(super) fn uncovered(all: &[View<'_>]) -> SlotSet {
    let configs = all.iter().filter_map(|view| view.config);
    configs.fold(SlotSet::all(), |left, config| {
        let given = config.given.iter().map(|given| &given.slots);
        given.fold(left.without(&config.slots), |left, slots| left.without(slots))
    })
}

/// What a shard without a config gets of them.
fn share(view: &View<'_>, all: &[View<'_>]) -> SlotSet {
    let free: Vec<Slot> = uncovered(all).iter().collect();
    let new = |other: &&View<'_>| other.config.is_none() && other.index < view.spec.shards;
    let new: Vec<u16> = all.iter().filter(new).map(|other| other.index).collect();
    let Some(place) = new.iter().position(|index| *index == view.index) else { return SlotSet::default() };
    let bound = |place: usize| place * free.len() / new.len();
    free.get(bound(place)..bound(place + 1)).unwrap_or_default().iter().copied().collect()
}

/// Founds a shard once more whose members are all gone for good, with the slots that it had.
pub(super) fn found_anew(view: &View<'_>, old: &ShardConfig) -> Step {
    let source = old.source.as_ref().map(|old| view.spec.source.as_ref().unwrap_or(old).clone());
    let founded = found_with(view, old.slots.clone(), source, |master| Reason::FoundingAnew { master });
    match founded {
        // What was decided about slots holds, whatever became of the nodes.
        Step::Do(Action::Accept { mut config, first, then }, reason) => {
            config.given.clone_from(&old.given);
            config.taken.clone_from(&old.taken);
            config.left = old.left.clone();
            Step::Do(Action::Accept { config, first, then }, reason)
        }
        step => step,
    }
}

fn found_with(
    view: &View<'_>,
    slots: SlotSet,
    source: Option<Source>,
    reason: impl Fn(String) -> Reason,
) -> Step {
    let missing = unheard_founders(view);
    if !missing.is_empty() {
        return Step::Wait(Reason::WaitingForNodes { nodes: missing });
    }
    let founders: Vec<_> = view.answering().filter(|(seen, _)| view.wants(seen.node.ordinal)).collect();
    if let Some(wait) = source.as_ref().and_then(|source| adoption::would_lose(&founders, source)) {
        return Step::Wait(wait);
    }
    // Volumes may hold data from before, such as a snapshot that somebody put there: the most of it leads.
    let worth = |(seen, report): &&(&Seen<'_>, &NodeReport)| {
        let healthy = report.disk_error.is_none();
        (report.data, report.write_epoch, report.offset, report.keys, healthy, Reverse(seen.node.ordinal))
    };
    let Some((master, report)) = founders.iter().max_by_key(worth) else {
        return Step::Wait(Reason::WaitingForNodes { nodes: missing });
    };
    let epoch = view.known_epoch().next_for(master.node.ordinal);
    let config = ShardConfig { source, ..first_config(view, &founders, report.id, epoch, slots) };
    let then = founders.iter().map(|(_, other)| other.id).filter(|&id| id != report.id).collect();
    Step::Do(
        Action::Accept { config: Box::new(config), first: report.id, then },
        reason(master.node.name.clone()),
    )
}

/// The nodes that have not said what they hold.
fn unheard_founders(view: &View<'_>) -> Vec<String> {
    // A node beyond the spec that does not answer may hold a config too, and one whose last answer is not of this moment may
    // have accepted one since.
    let unheard = |seen: &&Seen<'_>| {
        let stale = seen.node.silent_ms >= FRESH_MS;
        if view.wants(seen.node.ordinal) { seen.answers && stale } else { !seen.answers || stale }
    };
    let mut missing = view.missing();
    missing.extend(view.nodes.iter().filter(unheard).map(|seen| seen.node.name.clone()));
    missing
}

fn first_config(
    view: &View<'_>,
    founders: &[(&Seen<'_>, &NodeReport)],
    master: NodeId,
    epoch: Epoch,
    slots: SlotSet,
) -> ShardConfig {
    let seat = |&(seen, report): &(&Seen<'_>, &NodeReport)| Seat {
        id: report.id,
        fitness: fitness(Some(seen)),
        parent: None,
    };
    let seats: Vec<_> = founders.iter().map(seat).collect();
    let parents = assign_parents(view.spec.topology, master, &seats);
    let members = founders.iter().map(|(seen, report)| Member {
        id: report.id,
        name: seen.node.name.clone(),
        parent: parents.get(&report.id).copied(),
    });
    ShardConfig {
        uid: view.observed.uid.clone(),
        shard: view.index,
        epoch,
        master,
        members: sorted_members(members.collect()),
        slots,
        acknowledge: view.spec.acknowledge,
        topology: view.spec.topology,
        failover: view.spec.failover,
        source: None,
        overlap: Vec::new(),
        former: Vec::new(),
        given: Vec::new(),
        taken: Vec::new(),
        left: SlotSet::default(),
    }
}
