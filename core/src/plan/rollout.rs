//! A changed spec (image, resources, directives that need a restart) reaches the nodes that run: they are started anew one
//! at a time, replicas first, and the master after it has handed over. Each waits until all others are in step, so that a
//! shard never has more than one node less than specified, and what a bad spec breaks is one replica.

use crate::control::NodeReport;
use crate::plan::reason::{Departure, Reason};
use crate::plan::view::{Seen, View};
use crate::plan::{Action, Step, Template};
use crate::shard::ShardConfig;

/// How many bytes a replica may lag behind: more than what a busy master is sent between two reports, and far less than
/// what a replica misses that comes back.
const MAX_LAG: u64 = 64 << 20;

/// Where nothing else is to be done, starts the next outdated node anew that does not lead.
pub(super) fn roll(view: &View<'_>, step: Step) -> Step {
    let settled = matches!(step, Step::Nothing | Step::Wait(Reason::FollowsSource { .. }));
    let next = view.config.filter(|_| settled).and_then(|config| next(view, config));
    next.map_or(step, |seen| {
        let node = seen.node.name.clone();
        let template = seen.node.template;
        Step::Do(Action::Replace { node: node.clone(), template }, Reason::Renewing { node })
    })
}

/// The replica with the highest ordinal that is outdated. A shard's only node has nobody to hand over to: it may go if its
/// data is on a volume.
fn next<'v, 'a>(view: &'v View<'a>, config: &ShardConfig) -> Option<&'v Seen<'a>> {
    let alone = view.spec.nodes_per_shard() == 1 && view.spec.durable;
    let may_go = |seen: &&Seen<'_>| is_outdated(seen) && (alone || seen.id() != Some(config.master));
    let found = view.nodes.iter().filter(may_go).max_by_key(|seen| seen.node.ordinal)?;
    all_in_step(view, config).then_some(found)
}

/// Why a master that serves should make way: of a shard whose nodes are all in step, it alone is outdated. Once it holds
/// writes it goes through with it.
pub(super) fn departure(
    view: &View<'_>,
    config: &ShardConfig,
    master: &Seen<'_>,
    report: &NodeReport,
) -> Option<Departure> {
    let others = || view.nodes.iter().filter(|seen| seen.id() != Some(report.id));
    let must_go = is_outdated(master) && others().next().is_some() && !others().any(is_outdated);
    let may_go = must_go && (report.paused || all_in_step(view, config));
    may_go.then(|| Departure::Outdated { master: master.node.name.clone() })
}

fn is_outdated(seen: &Seen<'_>) -> bool {
    seen.node.template != Template::Current
}

/// Whether the nodes that are there are the specified ones, each is there to stay, does what the config says, and has all
/// of the master's data but what is on its way.
fn all_in_step(view: &View<'_>, config: &ShardConfig) -> bool {
    let Some(master) = view.node(config.master).and_then(|seen| seen.report) else { return false };
    let as_specified = view.nodes.len() == usize::from(view.spec.nodes_per_shard())
        && view.nodes.iter().all(|seen| view.wants(seen.node.ordinal) && !seen.leaving());
    let in_step = |seen: &Seen<'_>| {
        seen.report.is_some_and(|report| {
            let member = config.member(report.id);
            let follows = report.replid == master.replid && report.offset.abs_diff(master.offset) < MAX_LAG;
            member.is_some_and(|member| view.in_place(config, member)) && follows
        })
    };
    as_specified && view.nodes.iter().all(in_step)
}
