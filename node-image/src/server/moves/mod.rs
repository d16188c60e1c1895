//! Slots that move between this master and the master of another shard, live.
//!
//! The target asks (`KV EXPORT`) and gets commands: each key as it is, and from then on what is done to it. It runs them as if
//! they were its own, so that its replicas, and its files, have the keys, too; no client sees them before its shard's config
//! has the slots. The source sends slot after slot; what is done to keys of slots that were not sent yet is not passed on.
//! When the operator says so it holds writes to the slots, and ends what it sends by a mark. Who has the mark has everything.

mod entries;
mod export;
mod import;
mod purge;

use std::time::{Duration, Instant};

use kv_core::control::NodeState;
use kv_core::shard::ShardConfig;
use kv_core::slot::{Slot, SlotSet};

use super::{Refusal, Server};
use export::Export;
pub(crate) use import::Arrival;
use import::Import;

/// How long keys are copied or deleted in one go.
const SLICE: Duration = Duration::from_millis(1);

/// For how long requests are held for slots that are between two masters; then they are refused.
const PATIENCE: Duration = Duration::from_secs(10);

/// Slots that move.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    export: Option<Export>,
    import: Option<Import>,
    /// Names the imports of this process.
    generation: u64,
    /// Slots of imports that were given up, of which keys may be left.
    leftovers: SlotSet,
    /// The next slot to look for keys that are to be deleted.
    purging: Option<Slot>,
    /// Since when requests may be held for slots that are between two masters.
    between_since: Option<Instant>,
}

impl Server {
    /// Whether writes to a slot are held: the rest of it is on its way to another master.
    pub(super) fn holds_slot(&self, slot: Slot) -> bool {
        self.moves.export.as_ref().is_some_and(|export| export.holds(slot))
    }

    /// Whether a request for a slot that is between two masters is held, or refused since that takes too long.
    pub(super) fn awaits_owner(&self) -> bool {
        self.moves.between_since.is_none_or(|since| self.clock.instant.duration_since(since) < PATIENCE)
    }

    /// Checks what a config that is to be accepted does to slots that this master serves.
    ///
    /// # Errors
    /// If it gives slots away of which not everything was sent, or takes some of which not everything has arrived.
    pub(crate) fn check_transfers(&self, config: &ShardConfig) -> Result<(), Refusal> {
        let Some(present) = self.routing.config() else { return Ok(()) };
        let stays = config.master == self.routing.id() && self.routing.state() == NodeState::Master;
        if !stays || config.epoch <= present.epoch {
            // What a new master is told was decided when the old one served.
            return Ok(());
        }
        let mut kept = config.slots.clone();
        for given in &config.given {
            let known = present.given.contains(given);
            if !known && !self.moves.export.as_ref().is_some_and(|export| export.has_sent(given)) {
                return Err(Refusal::NotSent(given.slots.clone()));
            }
            kept = kept.union(&given.slots);
        }
        let mut known = present.slots.clone();
        for taken in &config.taken {
            if present.taken.contains(taken) {
                continue;
            }
            if !self.moves.import.as_ref().is_some_and(|import| import.has_all(taken)) {
                return Err(Refusal::NotArrived(taken.slots.clone()));
            }
            known = known.union(&taken.slots);
        }
        if !kept.is_superset(&present.slots) {
            return Err(Refusal::NotSent(present.slots.clone().without(&kept)));
        }
        if !known.is_superset(&config.slots) {
            return Err(Refusal::NotArrived(config.slots.clone().without(&known)));
        }
        Ok(())
    }

    /// After a change of role, config or map: ends what is no business of this node any more.
    pub(super) fn settle_moves(&mut self) {
        let serves = self.routing.state() == NodeState::Master;
        let config = self.routing.config().filter(|_| serves);
        let owns = |slots: &SlotSet| config.is_some_and(|config| config.slots.is_superset(slots));
        let gave =
            |export: &Export| config.is_some_and(|config| config.given.iter().any(|g| export.is_of(g)));
        let export_ends =
            self.moves.export.as_ref().is_some_and(|export| !owns(export.slots()) && !gave(export));
        let import_done = self.moves.import.as_ref().is_some_and(|import| owns(import.slots()));
        if export_ends {
            self.drop_export("the slots are not this master's any more");
        }
        if import_done {
            self.finish_import();
        } else if !serves && self.moves.import.is_some() {
            self.drop_import();
        }
        if !serves {
            // The next master begins with what its config says.
            self.moves.leftovers = SlotSet::default();
        }
        let between = serves && self.routing.is_between();
        self.moves.between_since = between.then(|| self.moves.between_since.unwrap_or(self.clock.instant));
    }

    /// Whether there is something of a move to be done at once.
    pub(super) fn is_moving(&self) -> bool {
        self.can_export() || self.can_clear() || (self.moves.purging.is_some() && self.may_originate())
    }

    /// Goes on with what moves, for a short time.
    pub(super) fn step_moves(&mut self) {
        self.step_export();
        self.step_import();
        self.step_purge();
    }

    /// Periodic work.
    pub(super) fn tend_moves(&mut self) {
        self.settle_moves();
        self.tend_export();
        self.tend_import();
        self.find_leftovers();
        let late = |since: Instant| self.clock.instant.duration_since(since) >= PATIENCE;
        if self.moves.between_since.is_some_and(late) {
            self.retry_held(); // to be refused
        }
    }

    /// Before a command is added to the stream: what it means for slots that move.
    pub(super) fn note_effect(&mut self, args: &[&[u8]]) {
        if self.moves.export.is_none() && self.moves.import.is_none() {
            return;
        }
        let name = args.first().copied().unwrap_or_default();
        if [&b"flushall"[..], b"flushdb"].iter().any(|flush| name.eq_ignore_ascii_case(flush)) {
            self.drop_export("the data were flushed");
            self.fail_import("the data were flushed");
            return;
        }
        self.pass_effect(args);
    }
}
