//! A planned change of master: pause, let the successor catch up, ask for promises. The election does the rest.

use std::cmp::Reverse;

use crate::control::{Consent, DataState, LinkState, NodeReport};
use crate::plan::reason::{Departure, DiskError, Reason};
use crate::plan::view::{Seen, View, epoch_of};
use crate::plan::{Action, Step, rollout};
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
    let Some((target, target_report)) = successor(view, config, report) else {
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
    Some(match (report.paused, bytes) {
        (true, 0) => {
            let epoch = view.known_epoch().next_for(target.node.ordinal);
            let members = view.answering().filter(|(_, report)| config.member(report.id).is_some());
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
        rollout::departure(view, config, master, report)
    }
}

/// The replica that should succeed a serving master: in step with it, there to stay, and able to keep writes.
fn successor<'v, 'a>(
    view: &'v View<'a>,
    config: &ShardConfig,
    master: &NodeReport,
) -> Option<(&'v Seen<'a>, &'a NodeReport)> {
    view.answering()
        .filter(|(_, report)| report.id != config.master && config.member(report.id).is_some())
        .filter(|(seen, _)| !seen.leaving() && view.wants(seen.node.ordinal))
        .filter(|(_, report)| report.disk_error.is_none())
        .filter(|(_, report)| report.promised == config.epoch && epoch_of(report) == config.epoch)
        .filter(|(_, report)| report.data == DataState::Live && report.replid == master.replid)
        .filter(|(_, report)| report.link.as_ref().is_some_and(|link| link.state == LinkState::Streaming))
        .max_by_key(|(seen, report)| (report.offset, Reverse(seen.node.ordinal)))
}
