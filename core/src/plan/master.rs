//! What became of a shard's master.

use crate::control::{NodeReport, NodeState};
use crate::plan::reason::Loss;
use crate::plan::view::{Seen, View, epoch_of};
use crate::plan::{Presence, Vote};
use crate::shard::ShardConfig;

/// What became of a shard's master.
pub(super) enum Master<'v, 'a> {
    /// It serves.
    Serves(&'v Seen<'a>, &'a NodeReport),
    /// It answers, and does not know yet that it leads.
    Unaware,
    /// It has not been heard yet, and for so short a time that it may yet be.
    Unheard,
    /// It serves no more.
    Lost(Loss),
}

/// Finds out what became of the master of `config`.
pub(super) fn find<'v, 'a>(view: &'v View<'a>, config: &ShardConfig) -> Master<'v, 'a> {
    let master = view.name_of(config, config.master);
    let superseded = |vote: Vote| vote.epoch > config.epoch && vote.master != config.master;
    if view.witness.is_some_and(superseded) {
        return Master::Lost(Loss::Superseded { master });
    }
    match view.node(config.master).and_then(|seen| Some((seen, seen.report?))) {
        Some((seen, report)) => of_report(config, master, seen, report),
        None => without_report(view, master),
    }
}

fn of_report<'v, 'a>(
    config: &ShardConfig,
    master: String,
    seen: &'v Seen<'a>,
    report: &'a NodeReport,
) -> Master<'v, 'a> {
    if seen.node.presence == Presence::Exited {
        return Master::Lost(Loss::Exited { master });
    }
    if !seen.answers {
        return Master::Lost(Loss::Silent { master, silent_ms: seen.node.silent_ms });
    }
    match report.state {
        NodeState::Master => Master::Serves(seen, report),
        // What it said is from before it was told, and it may have been since.
        _ if epoch_of(report) < config.epoch && report.promised <= config.epoch => Master::Unaware,
        NodeState::Fenced | NodeState::Replica => Master::Lost(Loss::Fenced { master }),
        NodeState::Joining | NodeState::Blank => Master::Lost(Loss::Restarted { master }),
    }
}

/// The node of the master's name is another one, or has not answered since it started.
fn without_report<'v, 'a>(view: &'v View<'a>, master: String) -> Master<'v, 'a> {
    let Some(seen) = view.named(&master).filter(|seen| !seen.stray) else {
        return Master::Lost(Loss::Absent { master });
    };
    match seen.node.presence {
        _ if seen.report.is_some() => Master::Lost(Loss::Reborn { master }),
        Presence::Exited => Master::Lost(Loss::Exited { master }),
        Presence::Starting => Master::Lost(Loss::Replaced { master }),
        Presence::Running | Presence::Leaving if seen.node.silent_ms >= view.spec.failover.down_after_ms => {
            Master::Lost(Loss::Silent { master, silent_ms: seen.node.silent_ms })
        }
        Presence::Running | Presence::Leaving => Master::Unheard,
    }
}
