//! The first config of a shard.

use std::cmp::Reverse;

use crate::control::NodeReport;
use crate::id::{Epoch, NodeId};
use crate::plan::change::{fitness, sorted_members};
use crate::plan::reason::Reason;
use crate::plan::view::{Seen, View};
use crate::plan::{Action, Step, adoption};
use crate::shard::{Member, ShardConfig};
use crate::slot::{SlotSet, even_share};
use crate::source::Source;
use crate::topology::{Seat, assign_parents};

/// How old the last answer of a founder may be. A shard is founded on the word of its nodes that they know of no config.
const FRESH_MS: u64 = 1000;

/// Founds a shard that never had a config, once all of its nodes answer.
pub(super) fn found(view: &View<'_>) -> Step {
    let slots = even_share(view.index, view.spec.shards);
    found_with(view, slots, view.spec.source.clone(), |master| Reason::Founding { master })
}

/// Founds a shard once more whose members are all gone for good, with the slots that it had.
pub(super) fn found_anew(view: &View<'_>, old: &ShardConfig) -> Step {
    let source = old.source.as_ref().map(|old| view.spec.source.as_ref().unwrap_or(old).clone());
    found_with(view, old.slots.clone(), source, |master| Reason::FoundingAnew { master })
}

fn found_with(
    view: &View<'_>,
    slots: SlotSet,
    source: Option<Source>,
    reason: impl Fn(String) -> Reason,
) -> Step {
    // A node beyond the spec that does not answer may hold a config too, and one whose last answer is not of this moment may
    // have accepted one since.
    let unheard = |seen: &&Seen<'_>| {
        let stale = seen.node.silent_ms >= FRESH_MS;
        if view.wants(seen.node.ordinal) { seen.answers && stale } else { !seen.answers || stale }
    };
    let mut missing = view.missing();
    missing.extend(view.nodes.iter().filter(unheard).map(|seen| seen.node.name.clone()));
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
    }
}
