//! An election without a quorum, because a user has given up the nodes that are missing. What only these hold is lost; and if
//! they live on somewhere, unreached, they may go on by themselves.

use crate::control::{Consent, DataState, NodeReport};
use crate::plan::change::{sorted_members, with_parents};
use crate::plan::election::{Voters, proposed_epoch};
use crate::plan::reason::{Loss, Reason};
use crate::plan::view::View;
use crate::plan::{Action, Step};
use crate::quorum::Acknowledge;
use crate::shard::{Member, ShardConfig};

/// The next step towards a master elected by whoever answers; `None` if that was not asked for, is not needed (`quorum`), or
/// nobody who answers holds data that could lead.
pub(super) fn force(view: &View<'_>, config: &ShardConfig, loss: &Loss, quorum: bool) -> Option<Step> {
    if quorum || view.forced != Some(config.epoch) {
        return None;
    }
    let answering = Voters::of(view, config, false).ranked();
    let (best, report) = *answering.iter().rfind(|(_, report)| report.data >= DataState::Restored)?;
    let lets_go = |report: &NodeReport| loss.is_certain() || !report.bound;
    // Who hears the master proves that it is not lost.
    if !answering.iter().all(|(_, report)| lets_go(report)) {
        return None;
    }
    let answers = |member: &&Member| answering.iter().any(|(_, report)| report.id == member.id);
    let reason = Reason::Forcing {
        loss: loss.clone(),
        master: best.node.name.clone(),
        given_up: config
            .voters()
            .filter(|member| !answers(member))
            .map(|member| member.name.clone())
            .collect(),
    };
    let epoch = proposed_epoch(view, config, best.node.ordinal);
    let behind: Vec<_> =
        answering.iter().filter(|(_, other)| other.promised < epoch).map(|(_, o)| o.id).collect();
    if !behind.is_empty() {
        let consent = if loss.is_certain() { Consent::Ended } else { Consent::IfSilent };
        return Some(Step::Do(Action::Prepare { epoch, nodes: behind, consent }, reason));
    }
    let members = answering.iter().filter(|(_, report)| report.promised == epoch);
    let members =
        members.map(|(seen, report)| Member { id: report.id, name: seen.node.name.clone(), parent: None });
    let members = with_parents(view, report.id, sorted_members(members.collect()));
    let acknowledge = affordable(config.acknowledge, members.len());
    let then = members.iter().map(|member| member.id).filter(|id| *id != report.id).collect();
    let config = ShardConfig {
        epoch,
        master: report.id,
        members,
        acknowledge,
        overlap: Vec::new(),
        former: Vec::new(),
        ..config.clone()
    };
    Some(Step::Do(Action::Accept { config: Box::new(config), first: report.id, then }, reason))
}

/// What so few nodes can promise. The spec's promise is taken again when there are enough.
fn affordable(wanted: Acknowledge, nodes: usize) -> Acknowledge {
    match wanted {
        Acknowledge::Quorum { copies, .. } if usize::from(copies) <= nodes => wanted,
        Acknowledge::Quorum { timeout_ms, .. } if nodes > 1 => {
            Acknowledge::Quorum { copies: u16::try_from(nodes).unwrap_or(u16::MAX), timeout_ms }
        }
        Acknowledge::Quorum { .. } => Acknowledge::Async,
        other => other,
    }
}
