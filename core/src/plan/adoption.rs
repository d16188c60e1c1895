//! Following a running Redis or Valkey (`spec.source`), and ceasing to: the cut-over, which a user asks for by taking
//! `spec.source` away. The shard's master follows the source and is followed by its replicas. Nobody here has anything that
//! the source has not, so that any of them can follow it instead; until the cut-over, of which the barrier of the first
//! reign of its own is the sign in the data (`write_epoch`).

use crate::control::{DataState, LinkState, NodeReport};
use crate::id::Epoch;
use crate::plan::reason::{Change, Reason};
use crate::plan::view::{Seen, View};
use crate::plan::{Action, Step};
use crate::shard::ShardConfig;
use crate::source::{Following, Source};

/// How many bytes may be missing when the source's writers are held: little enough to arrive within a moment.
const MAX_LAG: u64 = 1 << 20;

/// Why no shard is founded that follows a source: the nodes' volumes hold data, which would be replaced.
pub(super) fn would_lose(founders: &[(&Seen<'_>, &NodeReport)], source: &Source) -> Option<Reason> {
    let holds = |report: &NodeReport| report.keys > 0 || report.write_epoch > Epoch(0);
    let full = founders.iter().filter(|(_, report)| holds(report));
    let nodes: Vec<_> = full.map(|(seen, _)| seen.node.name.clone()).collect();
    (!nodes.is_empty()).then(|| Reason::SourceRefused { of: source.to_string(), nodes })
}

/// Whether a master that follows a source has its data, and a stream that flows.
pub(super) fn is_following(report: &NodeReport) -> bool {
    let streams = report.link.as_ref().is_some_and(|link| link.state == LinkState::Streaming);
    streams && report.data == DataState::Live
}

/// The source that the next config names. It ends once the user took it away, and all of its data is here.
pub(super) fn source(view: &View<'_>, config: &ShardConfig, master: Option<&NodeReport>) -> Option<Source> {
    let present = config.source.as_ref()?;
    let complete = master.and_then(|report| report.source.as_ref()).is_some_and(|source| source.complete);
    match &view.spec.source {
        Some(wanted) => Some(wanted.clone()),
        None if complete => None,
        None => Some(present.clone()),
    }
}

/// What that changes.
pub(super) fn change(old: &ShardConfig, new: &ShardConfig) -> Option<Change> {
    match (&old.source, &new.source) {
        (Some(old), None) => Some(Change::CutsOver { source: old.to_string() }),
        (old, Some(new)) if old.as_ref() != Some(new) => Some(Change::Follows { source: new.to_string() }),
        _ => None,
    }
}

/// What a shard that follows a source does when nothing else is to be done, or what it waits for; `None` if it follows none.
pub(super) fn next(view: &View<'_>, config: &ShardConfig, master: &NodeReport) -> Option<Step> {
    let source = config.source.as_ref()?;
    let name = source.to_string();
    let link = master.source.clone().unwrap_or_default();
    if !is_following(master) {
        let copying = master.link.as_ref().is_some_and(|link| link.state == LinkState::Syncing);
        return Some(Step::Wait(match link.problem {
            Some(problem) if !copying => Reason::SourceFails { of: name, problem },
            _ if copying => Reason::CopiesSource { of: name },
            _ => Reason::ConnectsSource { of: name },
        }));
    }
    if view.spec.source.is_some() {
        return Some(Step::Wait(match link.problem {
            Some(problem) => Reason::FollowsSourceBut { of: name, problem },
            None => Reason::FollowsSource { of: name },
        }));
    }
    Some(cut_over(config, master, link, name))
}

fn cut_over(config: &ShardConfig, master: &NodeReport, link: Following, of: String) -> Step {
    if link.cutting_over {
        return Step::Wait(match link.problem {
            None => Reason::CuttingOver { of },
            Some(problem) => Reason::CutOverFails { of, problem },
        });
    }
    match (link.problem, link.lag_bytes) {
        (_, Some(MAX_LAG..)) => Step::Wait(Reason::SourceAhead { of }),
        // It may be mended at the source: it is tried again and again.
        (Some(problem), _) => Step::Do(
            Action::CutOver { master: master.id, epoch: config.epoch },
            Reason::CutOverFails { of, problem },
        ),
        (None, Some(_)) => {
            Step::Do(Action::CutOver { master: master.id, epoch: config.epoch }, Reason::CuttingOver { of })
        }
        (None, None) => Step::Wait(Reason::ConnectsSource { of }),
    }
}

/// Whether a source is specified for shards that have data of their own: it would replace them, and so is not followed.
pub(super) fn is_refused<'a>(
    wanted: Option<&Source>,
    mut configs: impl Iterator<Item = &'a ShardConfig>,
) -> bool {
    wanted.is_some() && configs.any(|config| config.source.is_none())
}
