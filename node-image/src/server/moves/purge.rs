//! Deleting what is left of slots that are another shard's.

use std::time::Instant;

use kv_core::slot::{Slot, SlotSet};

use super::SLICE;
use crate::keyspace::{At, ExpiryMode};
use crate::server::Server;

/// Keys that are deleted by one command.
const BATCH: usize = 64;

impl Server {
    /// Slots of which nothing should be here: another shard serves them, and its own config, or an import that was given up,
    /// says that there may be keys.
    fn left_slots(&self) -> Option<SlotSet> {
        let config = self.routing.config().filter(|_| self.may_originate())?;
        let mut left = config.left.clone().union(&self.moves.leftovers).without(&config.slots);
        for given in &config.given {
            left = left.without(&given.slots);
        }
        if let Some(import) = &self.moves.import {
            left = left.without(import.slots());
        }
        (!left.is_empty()).then_some(left)
    }

    /// Looks whether anything is to be deleted.
    pub(super) fn find_leftovers(&mut self) {
        if self.moves.purging.is_none() && self.keyspace.len(0) > 0 {
            let left = self.left_slots();
            self.moves.purging = left.and_then(|left| left.iter().find(|slot| self.is_left(*slot)));
        }
    }

    /// Whether a slot that may be deleted has keys. Not before another shard is known to serve it.
    fn is_left(&self, slot: Slot) -> bool {
        let own = self.routing.identity().map(|identity| identity.shard);
        let foreign = self.routing.owner(slot).is_some_and(|owner| Some(owner) != own);
        foreign && self.keyspace.slot_len(0, slot) > 0
    }

    pub(super) fn step_purge(&mut self) {
        let Some(from) = self.moves.purging else { return };
        let slots: Option<SlotSet> =
            self.left_slots().map(|left| left.iter().filter(|slot| self.is_left(*slot)).collect());
        self.moves.purging = slots.and_then(|slots| self.delete_keys_of(&slots, from));
    }

    /// Deletes keys of these slots from a slot on, for a short time. Returns where to go on, if any are left.
    pub(super) fn delete_keys_of(&mut self, slots: &SlotSet, mut from: Slot) -> Option<Slot> {
        let began = Instant::now();
        let at = At { db: 0, now: self.clock.unix_ms };
        while let Some(slot) = self.keyspace.next_occupied_slot(0, from) {
            if !slots.contains(slot) || self.keyspace.slot_len(0, slot) == 0 {
                from = slot + 1;
                continue;
            }
            let entries = self.keyspace.slot_entries(0, slot).take(BATCH);
            let keys: Vec<Vec<u8>> = entries.map(|entry| entry.key.to_vec()).collect();
            self.keyspace.set_expiry_mode(ExpiryMode::Ignore);
            keys.iter().for_each(|key| _ = self.keyspace.delete(at, key, true));
            self.stats.dirty += keys.len() as u64;
            let words = std::iter::once(&b"DEL"[..]).chain(keys.iter().map(Vec::as_slice));
            self.replicate(0, &words.collect::<Vec<_>>());
            if began.elapsed() >= SLICE {
                return Some(slot);
            }
        }
        None
    }
}
