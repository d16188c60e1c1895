//! Moving slots between shards, live.
//!
//! A move goes through these steps, each of which is seen in what nodes report, so that any operator goes on with it:
//!
//! 1. The target's config says that keys of the slots may be left there, and its master imports them: it asks the source's
//!    master for them (`KV IMPORT`).
//! 2. When all keys were sent and only changes follow, the source's nodes agree to a new epoch, and its master holds writes to
//!    these slots (`KV HOLD`).
//! 3. When the target has all that was written, and enough of its nodes hold it, the source gives the slots away: its new
//!    config has a certificate ([`Transfer`]). That is the one moment at which the owner changes.
//! 4. When a majority of the source knows that, the target takes the slots; when a majority of the target knows that, the map
//!    shows it, and clients are sent there.
//! 5. The source forgets the certificate and deletes what it kept; then the target forgets it, too.
//!
//! A target that lost what it had imported before step 4 imports it again: the source keeps it until step 5.

use std::collections::BTreeMap;

use crate::control::{Completion, DataState, ExportReport, ImportReport, NodeReport};
use crate::id::NodeId;
use crate::plan::change;
use crate::plan::election::{is_known, needs_vote};
use crate::plan::master::{self, Master};
use crate::plan::reason::{Change, Reason};
use crate::plan::view::{Seen, View};
use crate::plan::{Action, ShardPlan, Step};
use crate::quorum::Electorate;
use crate::rebalance::{self, Move};
use crate::shard::{ShardConfig, Transfer};
use crate::slot::{SLOT_COUNT, SlotSet};

/// Slots that move together at the most: clients of one move's slots wait together for its end.
const BATCH: usize = 1024;

/// For how long a source holds writes at the most, in milliseconds; then it goes on, and it is tried again.
const HOLD_MS: u64 = 2000;

/// Bytes that are still on their way at the most when a source holds writes: to the target, and from there to its replicas.
const MAX_LAG: u64 = 1 << 20;

/// A shard that serves, with its master.
struct Side<'v, 'a> {
    view: &'v View<'a>,
    config: &'a ShardConfig,
    master: &'v Seen<'a>,
    report: &'a NodeReport,
}

/// Puts the next step of the move that is under way, or of the next one, in the place of those steps of its shards that can
/// wait for it. One move at a time.
pub(super) fn steps(views: &[View<'_>], plans: &mut [ShardPlan], moves: &[Move]) {
    for (shard, step) in next(views, plans, moves) {
        let plan = plans.iter_mut().find(|plan| plan.index == shard);
        if let Some(plan) = plan.filter(|plan| gives_way(&plan.step, &step)) {
            let view = views.iter().find(|view| view.index == shard);
            plan.needs_vote =
                view.is_some_and(|view| view.config.is_some_and(|config| needs_vote(view, config, &step)));
            plan.step = step;
        }
    }
    // What is beyond the spec is on its way out, even if nothing can be done for that at present.
    let wanted = views.first().map_or(0, |view| view.spec.shards);
    for plan in plans.iter_mut().filter(|plan| plan.index >= wanted && plan.step == Step::Nothing) {
        plan.step = Step::Wait(Reason::Retiring);
    }
}

/// Whether a shard's own step can wait for one of a move. What is waited for is not hidden by what a move waits for.
fn gives_way(own: &Step, step: &Step) -> bool {
    let stays = |changes: &[Change]| matches!(changes, [Change::Stays]);
    match own {
        Step::Nothing => true,
        Step::Wait(reason) => matches!(step, Step::Do(..)) && !reason.is_pressing(),
        Step::Do(_, Reason::Agreeing(changes) | Reason::Reconfiguring(changes)) => stays(changes),
        Step::Do(..) => false,
    }
}

fn next(views: &[View<'_>], plans: &[ShardPlan], moves: &[Move]) -> Vec<(u16, Step)> {
    let configs = || views.iter().filter_map(|view| view.config);
    if let Some(transfer) = configs().flat_map(|config| &config.given).next() {
        return complete(views, transfer);
    }
    if let Some((config, transfer)) = configs().find_map(|config| Some((config, config.taken.first()?))) {
        return forget_taken(views, config, transfer);
    }
    let wanted = moves.first().map(|first| first.clone().batch(BATCH));
    let mut steps = cancel(views, wanted.as_ref());
    if let Some(wanted) = wanted.filter(|_| steps.is_empty()) {
        steps = transfer(views, plans, &wanted);
    }
    steps
}

/// All moves that are wanted; none as long as it is not known of every slot who serves it, as while some are between two
/// shards.
pub(super) fn moves(views: &[View<'_>]) -> Vec<Move> {
    // What a source sends goes to the shard that follows it, and to no other.
    let configs = views.iter().map(|view| {
        let config = view.config.filter(|config| config.source.is_none())?;
        Some((view.index, config.slots.clone()))
    });
    let owned: Option<BTreeMap<_, _>> = configs.collect();
    let (Some(owned), Some(first)) = (owned, views.first()) else { return Vec::new() };
    let total: usize = owned.values().map(SlotSet::len).sum();
    let all = owned.values().fold(SlotSet::default(), SlotSet::union);
    let known = total == usize::from(SLOT_COUNT) && all.len() == total;
    if known { rebalance::moves(&owned, first.spec.shards) } else { Vec::new() }
}

impl<'v, 'a> Side<'v, 'a> {
    fn of(views: &'v [View<'a>], index: u16) -> Option<Self> {
        let view = views.iter().find(|view| view.index == index)?;
        let config = view.config?;
        match master::find(view, config) {
            Master::Serves(master, report) => Some(Self { view, config, master, report }),
            _ => None,
        }
    }

    /// Proposes `new` in place of the present config.
    fn renew(&self, new: ShardConfig, change: Change) -> Step {
        change::renew(self.view, self.config, self.master, new, vec![change])
    }

    /// Whether so many members do what they should that a change is known to a majority as soon as it is decided. What is
    /// between two shards waits for that.
    fn decides(&self) -> bool {
        self.config.electorates().all(|electorate| {
            let in_place = |id: &&NodeId| {
                self.config.member(**id).is_some_and(|member| self.view.in_place(self.config, member))
            };
            electorate.voters.iter().filter(in_place).count() >= electorate.majority(false)
        })
    }

    /// Whether all its nodes that answer are of this release: others may not know what a certificate is.
    fn is_of(&self, release: &str) -> bool {
        self.view.answering().all(|(_, report)| report.version == release)
    }

    /// Gives slots away.
    fn give(&self, transfer: Transfer) -> Step {
        let change = Change::Gives { slots: transfer.slots.clone(), to: transfer.to };
        let mut new = self.config.clone();
        new.slots = new.slots.without(&transfer.slots);
        new.given.push(transfer);
        self.renew(new, change)
    }

    /// Takes slots that were given away.
    fn take(&self, transfer: Transfer) -> Step {
        let change = Change::Takes { slots: transfer.slots.clone(), from: transfer.from };
        let mut new = self.config.clone();
        new.slots = new.slots.union(&transfer.slots);
        new.left = new.left.without(&transfer.slots);
        new.taken.push(transfer);
        self.renew(new, change)
    }

    /// What the master says of its import, if that is of these slots.
    fn imports(&self, from: u16, slots: &SlotSet) -> Option<&'a ImportReport> {
        self.report.import.as_ref().filter(|import| import.from == from && import.slots == *slots)
    }

    /// Whether all that was written until the hold `id` is with so many nodes of the shard that no election misses it.
    fn has(&self, id: &str, import: &ImportReport) -> bool {
        completed(import, id).is_some_and(|done| self.replicated() >= done.offset)
    }

    /// The same; but where acknowledgements promise nothing, nodes that do not answer are not waited for: the shard serves
    /// without them, too.
    fn has_enough(&self, id: &str, import: &ImportReport) -> bool {
        let Some(Completion { offset, .. }) = completed(import, id) else { return false };
        let behind = |report: &NodeReport| report.offset < *offset || report.data != DataState::Live;
        let alone = !self.config.holds_replies()
            && !self
                .view
                .answering()
                .any(|(_, other)| self.config.member(other.id).is_some() && behind(other));
        alone || self.has(id, import)
    }

    /// The offset up to which every election sees the stream.
    fn replicated(&self) -> u64 {
        let held = |id: NodeId| {
            let report = self.view.node(id).filter(|seen| seen.answers)?.report?;
            let same = report.replid == self.report.replid && report.data == DataState::Live;
            same.then_some(report.offset)
        };
        let reached = |voters: Electorate| voters.reached(voters.decisive(), held);
        self.config.electorates().map(reached).min().unwrap_or(0)
    }

    /// Begins to import slots, after the config says that keys of them may be here: whoever leads deletes them, if the import
    /// comes to nothing.
    fn begin(&self, from: u16, slots: &SlotSet) -> Step {
        if self.config.left.is_superset(slots) {
            return self.import(from, slots);
        }
        let mut new = self.config.clone();
        new.left = new.left.union(slots);
        self.renew(new, Change::Awaits { slots: slots.clone(), from })
    }

    fn import(&self, from: u16, slots: &SlotSet) -> Step {
        let (master, epoch, slots) = (self.report.id, self.config.epoch, slots.clone());
        let failed = self.report.import.as_ref().and_then(|import| import.error.clone());
        let reason = Reason::Importing { slots: slots.clone(), from, failed };
        Step::Do(Action::Import { master, epoch, from, slots }, reason)
    }
}

fn completed<'i>(import: &'i ImportReport, id: &str) -> Option<&'i Completion> {
    import.complete.as_ref().filter(|done| done.id == id)
}

/// Has masters give up what they import and is not wanted any more.
fn cancel(views: &[View<'_>], wanted: Option<&Move>) -> Vec<(u16, Step)> {
    let is_wanted = |shard: u16, import: &ImportReport| {
        wanted.is_some_and(|wanted| {
            wanted.to == shard && wanted.from == import.from && wanted.slots == import.slots
        })
    };
    let sides = views.iter().filter_map(|view| Side::of(views, view.index));
    let unwanted = sides.filter_map(|side| {
        let import = side.report.import.as_ref()?;
        let (shard, from) = (side.view.index, import.from);
        (!is_wanted(shard, import)).then(|| {
            let action = Action::Import {
                master: side.report.id,
                epoch: side.config.epoch,
                from,
                slots: SlotSet::default(),
            };
            (shard, Step::Do(action, Reason::GivingUpImport { slots: import.slots.clone(), from }))
        })
    });
    unwanted.collect()
}

/// A move from its begin until the source gives the slots away.
fn transfer(views: &[View<'_>], plans: &[ShardPlan], wanted: &Move) -> Vec<(u16, Step)> {
    let Move { slots, from, to } = wanted;
    let (Some(source), Some(target)) = (Side::of(views, *from), Side::of(views, *to)) else {
        return Vec::new();
    };
    let reason = || Reason::MovingSlots { slots: slots.clone(), from: *from, to: *to };
    let goes_on = |import: &&ImportReport| import.error.is_none() && import.source == source.report.id;
    let Some(import) = target.imports(*from, slots).filter(goes_on) else {
        // What is not in step is mended first.
        let calm = |shard: u16| {
            let plan = plans.iter().find(|plan| plan.index == shard);
            plan.is_some_and(|plan| gives_way(&plan.step, &Step::Wait(reason())))
        };
        let release = &source.report.version;
        let alike = source.is_of(release) && target.is_of(release);
        let begin = calm(*from) && calm(*to) && alike && target.config.overlap.is_empty();
        return begin.then(|| (*to, target.begin(*from, slots))).into_iter().collect();
    };
    let waits = |pressing: bool| {
        let reason = if pressing {
            Reason::HoldingSlots { slots: slots.clone(), from: *from, to: *to }
        } else {
            reason()
        };
        vec![(*from, Step::Wait(reason.clone())), (*to, Step::Wait(reason))]
    };
    let export = source.report.export.as_ref().filter(|export| export.to == *to && export.slots == *slots);
    let keeps_up = target.replicated().saturating_add(MAX_LAG) >= target.report.offset;
    let ready = |export: &&ExportReport| {
        let little = export.following && export.pending_bytes <= MAX_LAG;
        export.held.is_some() || (little && keeps_up && source.config.overlap.is_empty())
    };
    let decided_soon = source.decides() && target.decides();
    let Some(export) = export.filter(ready).filter(|_| decided_soon) else { return waits(false) };
    let certificate = |id: &str| Transfer { slots: slots.clone(), from: *from, to: *to, id: id.to_owned() };
    let waiting = Step::Wait(reason());
    match &export.held {
        Some(id) if target.has(id, import) => vec![(*from, source.give(certificate(id))), (*to, waiting)],
        Some(_) => waits(true),
        None => {
            // Both agree to what is to come before anybody waits for it.
            let (give, take) = (source.give(certificate("")), target.take(certificate("")));
            let agreed = |step: &Step| matches!(step, Step::Do(Action::Accept { .. }, _));
            if !agreed(&give) {
                return vec![(*from, give), (*to, waiting)];
            }
            if !agreed(&take) {
                return vec![(*from, waiting), (*to, take)];
            }
            let (master, epoch) = (source.report.id, source.config.epoch);
            let action = Action::Hold { master, epoch, to: *to, slots: slots.clone(), milliseconds: HOLD_MS };
            let reason = Reason::HoldingSlots { slots: slots.clone(), from: *from, to: *to };
            vec![(*from, Step::Do(action, reason)), (*to, waiting)]
        }
    }
}

/// A move from when the source has given the slots away until it forgets them.
fn complete(views: &[View<'_>], transfer: &Transfer) -> Vec<(u16, Step)> {
    let Transfer { slots, from, to, id } = transfer;
    let Some(target) = Side::of(views, *to) else { return Vec::new() };
    let waits = || {
        let reason = Reason::HoldingSlots { slots: slots.clone(), from: *from, to: *to };
        vec![(*from, Step::Wait(reason.clone())), (*to, Step::Wait(reason))]
    };
    if target.config.taken.iter().any(|taken| taken.id == *id) {
        let Some(source) = Side::of(views, *from).filter(|_| is_known(target.view, target.config)) else {
            return waits();
        };
        let mut new = source.config.clone();
        new.given.retain(|given| given.id != *id);
        new.left = new.left.union(slots);
        return vec![(*from, source.renew(new, Change::ForgetsGiven { slots: slots.clone() }))];
    }
    let known = views
        .iter()
        .find(|view| view.index == *from)
        .is_some_and(|view| view.config.is_some_and(|config| is_known(view, config)));
    if !known {
        return waits();
    }
    let source = views.iter().find_map(|view| view.config.filter(|config| config.shard == *from));
    let imports = |import: &&ImportReport| {
        let goes_on = import.error.is_none() && source.is_some_and(|config| config.master == import.source);
        goes_on || completed(import, id).is_some()
    };
    match target.imports(*from, slots).filter(imports) {
        None => vec![(*to, target.import(*from, slots))],
        Some(import) if target.has_enough(id, import) && target.config.overlap.is_empty() => {
            vec![(*to, target.take(transfer.clone()))]
        }
        Some(_) => waits(),
    }
}

/// The end of a move: the target forgets where the slots are from, once nobody asks.
fn forget_taken(views: &[View<'_>], config: &ShardConfig, transfer: &Transfer) -> Vec<(u16, Step)> {
    let Some(target) = Side::of(views, config.shard) else { return Vec::new() };
    let source = views.iter().find(|view| view.index == transfer.from);
    let forgotten = source.is_some_and(|view| {
        view.config.is_some_and(|config| {
            is_known(view, config) && config.given.iter().all(|given| given.id != transfer.id)
        })
    });
    if !forgotten {
        return Vec::new();
    }
    let mut new = target.config.clone();
    new.taken.retain(|taken| taken.id != transfer.id);
    vec![(config.shard, target.renew(new, Change::ForgetsTaken { slots: transfer.slots.clone() }))]
}
