//! Keys whose time is over.

use kv_core::slot::{SLOT_COUNT, Slot};

use super::{At, Keyspace};

/// What becomes of a key whose time is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExpiryMode {
    /// It is removed when it is met, and recorded so that its removal can be propagated: a master.
    #[default]
    Delete,
    /// It is hidden and kept until the master says to remove it: a replica that serves its clients.
    Hide,
    /// It is there until it is removed: commands that come from the master, or from a file.
    Ignore,
}

/// Where the next [`Keyspace::expire_cycle`] goes on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ExpiryCursor {
    db: usize,
    slot: Slot,
}

impl Keyspace {
    /// Removes keys whose time is over, looking at no more than about `budget` entries, and goes on next time where it
    /// stopped. Returns how many it removed. Does nothing unless the mode is [`ExpiryMode::Delete`].
    pub fn expire_cycle(&mut self, now: u64, budget: usize) -> usize {
        if self.expiry != ExpiryMode::Delete {
            return 0;
        }
        let mut left = budget;
        let mut removed = 0;
        let mut databases_left = self.dbs.len() + 1;
        while left > 0 && databases_left > 0 {
            let ExpiryCursor { db, slot } = self.cursor;
            let next = self.dbs.get(db).and_then(Option::as_ref).and_then(|found| found.expiring.next(slot));
            let Some(slot) = next else {
                databases_left -= 1;
                self.cursor = ExpiryCursor { db: (db + 1) % self.dbs.len().max(1), slot: 0 };
                continue;
            };
            let (expired, cost) = self.expire_slot(At { db, now }, slot, left);
            removed += expired;
            left = left.saturating_sub(cost);
            // A slot that holds more expired keys than the budget allows is gone on with.
            self.cursor =
                ExpiryCursor { db, slot: if left == 0 && expired == cost { slot } else { slot + 1 } };
            if self.cursor.slot >= SLOT_COUNT {
                databases_left -= 1;
                self.cursor = ExpiryCursor { db: (db + 1) % self.dbs.len().max(1), slot: 0 };
            }
        }
        removed
    }

    fn expire_slot(&mut self, at: At, slot: Slot, limit: usize) -> (usize, usize) {
        let Some(Some(db)) = self.dbs.get_mut(at.db) else { return (0, 1) };
        let (keys, cost) = db.expired_in(slot, at.now, limit);
        let expired = keys.len();
        for key in keys {
            self.remove_expired(at.db, slot, key);
        }
        (expired, cost.max(expired).max(1))
    }

    /// Keys that were removed because their time was over, since the last call: their removal is to be propagated.
    pub fn take_expired(&mut self) -> Vec<(usize, Box<[u8]>)> {
        std::mem::take(&mut self.expired)
    }

    /// How many keys were removed because their time was over.
    #[must_use]
    pub fn expired_total(&self) -> u64 {
        self.expired_total
    }
}
