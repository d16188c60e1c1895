//! A planned change of master: pause, let the successor catch up, ask for promises. The election does the rest.

use std::cmp::Reverse;

use crate::control::{Consent, DataState, LinkState, NodeReport};
use crate::plan::reason::{Departure, DiskError, Reason};
use crate::plan::view::{Seen, View, epoch_of};
use crate::plan::{Action, Step, Template, WishEnd, election, rollout};
use crate::shard::ShardConfig;

/// For how long a master holds writes.
const PAUSE_MS: u64 = 1000;

/// How many bytes a successor may lag behind when the pause begins: little enough to be caught up within the pause.
const MAX_LAG: u64 = 1 << 20;

/// The next step towards a successor, or what it waits for; `None` if the master may stay.
pub(super) fn hand_over(
    view: &View<'_>,
    config: &ShardConfig,
    master: &Seen<'_>,
    report: &NodeReport,
) -> Option<Step> {
    let departure = departure(view, config, master, report)?;
    if can_wait(&departure, report) && !config.overlap.is_empty() {
        return None;
    }
    let wanted = wanted(view, config);
    let may = |seen: &Seen<'_>| match &departure {
        Departure::Asked { .. } => is(wanted, seen),
        Departure::Draining { .. } => !seen.node.site.draining,
        Departure::Homing { .. } => may_come_home(view, seen, report),
        _ => true,
    };
    let Some((target, target_report)) = successor(view, config, report, wanted, may) else {
        return Some(Step::Wait(match departure {
            Departure::DiskFull(_) => Reason::DiskFull { nodes: view.disk_errors() },
            departure => Reason::NoSuccessor { departure },
        }));
    };
    let successor = target.node.name.clone();
    // The reports are not of one moment: the successor's may be the later one.
    let bytes = report.offset.abs_diff(target_report.offset);
    // Whoever waits for an acknowledgement is to get it from this master.
    let owed = report
        .durability
        .is_some_and(|durability| !durability.degraded && durability.durable < report.offset);
    let bytes = if owed { bytes.max(1) } else { bytes };
    // What a source sends goes on to come, and its next reader goes on there: nothing is to be held.
    let still = config.source.is_some() && bytes < MAX_LAG;
    let (paused, bytes) = if still { (true, 0) } else { (report.paused, bytes) };
    Some(match (paused, bytes) {
        (true, 0) => {
            let epoch = election::proposed_epoch(view, config, target.node.ordinal);
            let members = view.answering().filter(|(_, report)| config.member(report.id).is_some());
            let members = members.filter(|(_, report)| report.promised < epoch);
            let nodes = members.map(|(_, report)| report.id).collect();
            Step::Do(
                Action::Prepare { epoch, nodes, consent: Consent::Ended },
                Reason::SwitchingOver { departure, successor },
            )
        }
        (true, bytes) => Step::Wait(Reason::CatchingUp { departure, successor, bytes }),
        (false, MAX_LAG..) => Step::Wait(Reason::SuccessorLags { departure, successor, bytes }),
        (false, _) => {
            let (master, target) = (report.id, target_report.id);
            let pause = Action::Pause { master, target, epoch: config.epoch, milliseconds: PAUSE_MS };
            Step::Do(pause, Reason::HandingOver { departure, successor })
        }
    })
}

/// Whether changes of members come first: what a master owes to its clients may need nodes that are not there yet.
fn can_wait(departure: &Departure, master: &NodeReport) -> bool {
    let urgent = matches!(departure, Departure::Stopping { .. } | Departure::DiskFull(_));
    !urgent && !master.paused
}

/// Whether the master is to go, and that comes after changes of members.
pub(super) fn comes_later(
    view: &View<'_>,
    config: &ShardConfig,
    master: &Seen<'_>,
    report: &NodeReport,
) -> bool {
    departure(view, config, master, report).is_some_and(|departure| can_wait(&departure, report))
}

fn departure(
    view: &View<'_>,
    config: &ShardConfig,
    master: &Seen<'_>,
    report: &NodeReport,
) -> Option<Departure> {
    let name = master.node.name.clone();
    if master.leaving() {
        Some(Departure::Stopping { master: name })
    } else if !view.wants(master.node.ordinal) {
        Some(Departure::Surplus { master: name })
    } else if let Some(error) = report.disk_error.clone() {
        Some(Departure::DiskFull(DiskError { node: name, error }))
    } else {
        // A wish that cannot be granted now holds up nothing else.
        let asked = wanted(view, config);
        let can = |may: &dyn Fn(&Seen<'_>) -> bool| successor(view, config, report, None, may).is_some();
        let ready = asked.filter(|asked| can(&|seen| is(Some(asked), seen)));
        let departure = |seen: &Seen<'_>| {
            let successor = seen.node.name.clone();
            Departure::Asked { master: name.clone(), successor }
        };
        ready
            .map(departure)
            .or_else(|| report.asked_to_yield.then(|| Departure::Yielding { master: name.clone() }))
            .or_else(|| {
                let goes = master.node.site.draining && can(&|seen| !seen.node.site.draining);
                goes.then(|| Departure::Draining { master: name.clone() })
            })
            .or_else(|| rollout::departure(view, config, master, report))
            .or_else(|| asked.map(departure))
            .or_else(|| {
                let goes = is_away(view, master) && can(&|seen| may_come_home(view, seen, report));
                goes.then(|| Departure::Homing { master: name.clone() })
            })
    }
}

/// Whether a master is not where masters should live, and to be brought back there, while nothing else is to be done with the
/// nodes.
fn is_away(view: &View<'_>, master: &Seen<'_>) -> bool {
    let fails_back = view.spec.preferred.as_ref().is_some_and(|preferred| preferred.failback_ms.is_some());
    let current = view.nodes.iter().all(|seen| seen.node.template == Template::Current);
    fails_back && current && !view.prefers(master)
}

/// Whether a master may be brought back to this node: it has been in step for long. Once the master holds writes for it, it
/// is.
fn may_come_home(view: &View<'_>, seen: &Seen<'_>, master: &NodeReport) -> bool {
    let after = view.spec.preferred.as_ref().and_then(|preferred| preferred.failback_ms);
    let steady = after.is_some_and(|after| seen.node.site.steady_ms >= after) || master.paused;
    view.prefers(seen) && !seen.node.site.draining && steady
}

fn is(one: Option<&Seen<'_>>, seen: &Seen<'_>) -> bool {
    one.is_some_and(|one| one.node.name == seen.node.name)
}

/// The replica that was asked to lead, by a user's wish or itself, and that may stay.
fn wanted<'v, 'a>(view: &'v View<'a>, config: &ShardConfig) -> Option<&'v Seen<'a>> {
    let is_replica = |seen: &Seen<'_>| {
        let member = seen.id().and_then(|id| config.member(id));
        member.is_some_and(|member| member.id != config.master)
    };
    let may = |seen: &&Seen<'_>| is_replica(seen) && !seen.leaving() && view.wants(seen.node.ordinal);
    view.nodes.iter().filter(|seen| view.is_asked(seen)).find(may)
}

/// What became of the wish of a user: it ends when that node leads, or when there is no such node.
pub(super) fn wish_end(view: &View<'_>, config: &ShardConfig) -> Option<WishEnd> {
    let wish = view.wish?;
    let master = view.name_of(config, config.master) == wish;
    let leads = master && view.node(config.master).is_some_and(|seen| view.leads(seen));
    let member = config.members.iter().any(|member| member.name == wish);
    match (leads, member || view.named(wish).is_some()) {
        (true, _) => Some(WishEnd::Fulfilled),
        (false, false) => Some(WishEnd::NoMember),
        (false, true) => None,
    }
}

/// The replica that should succeed a serving master, of those that `may`: in step with it, there to stay, and able to keep
/// writes. `wanted` comes first; then who is where masters should live, if it does not lag far behind.
fn successor<'v, 'a>(
    view: &'v View<'a>,
    config: &ShardConfig,
    master: &NodeReport,
    wanted: Option<&Seen<'_>>,
    may: impl Fn(&Seen<'_>) -> bool,
) -> Option<(&'v Seen<'a>, &'a NodeReport)> {
    let suits = |seen: &Seen<'_>, report: &NodeReport| {
        let near = master.offset.saturating_sub(report.offset) < MAX_LAG;
        (!seen.node.site.draining, near && view.prefers(seen))
    };
    view.answering()
        .filter(|(seen, _)| may(seen))
        .filter(|(_, report)| report.id != config.master && config.member(report.id).is_some())
        .filter(|(seen, _)| !seen.leaving() && view.wants(seen.node.ordinal))
        .filter(|(_, report)| report.disk_error.is_none())
        .filter(|(_, report)| epoch_of(report) == config.epoch)
        .filter(|(_, report)| report.data == DataState::Live && report.replid == master.replid)
        .filter(|(seen, report)| {
            let streams = report.link.as_ref().is_some_and(|link| link.state == LinkState::Streaming);
            (report.promised == config.epoch && streams) || is_begun(view, master, seen, report)
        })
        .max_by_key(|(seen, report)| {
            (is(wanted, seen), suits(seen, report), report.offset, Reverse(seen.node.ordinal))
        })
}

/// Whether this replica was asked for its promise to succeed the paused master, and gave it, with which it takes nothing from
/// that any more; others have yet to.
fn is_begun(view: &View<'_>, master: &NodeReport, seen: &Seen<'_>, report: &NodeReport) -> bool {
    let newest = report.promised == view.known_epoch() && report.promised.is_for(seen.node.ordinal);
    master.paused && newest && !report.renewing
}
