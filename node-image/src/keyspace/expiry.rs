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
    page: usize,
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
            let ExpiryCursor { db, slot, .. } = self.cursor;
            let next = self.dbs.get(db).and_then(Option::as_ref).and_then(|found| found.expiring.next(slot));
            let Some(next) = next else {
                databases_left -= 1;
                self.cursor = ExpiryCursor { db: (db + 1) % self.dbs.len().max(1), slot: 0, page: 0 };
                continue;
            };
            if next != slot {
                self.cursor = ExpiryCursor { db, slot: next, page: 0 };
            }
            let (expired, cost) = self.expire_page(At { db, now });
            removed += expired;
            left = left.saturating_sub(cost);
        }
        removed
    }

    /// Removes what is expired in the page of the cursor, and moves the cursor on. Returns how many entries it removed
    /// and looked at.
    fn expire_page(&mut self, at: At) -> (usize, usize) {
        let ExpiryCursor { slot, page, .. } = self.cursor;
        let next_slot = ExpiryCursor { db: at.db, slot: slot.saturating_add(1).min(SLOT_COUNT), page: 0 };
        let table = self.db_mut(at.db).and_then(|db| db.slot_mut(slot));
        let Some(table) = table.filter(|table| page > 0 || table.soonest < at.now) else {
            self.cursor = next_slot;
            return (0, 1);
        };
        if page == 0 {
            // Found anew on the way through the pages; what is set meanwhile lowers it, too.
            table.soonest = u64::MAX;
        }
        let Some(found) = table.pages().get(page) else {
            self.cursor = next_slot;
            return (0, 1);
        };
        let (mut keys, mut soonest): (Vec<Box<[u8]>>, _) = (Vec::new(), u64::MAX);
        for entry in found.iter().filter(|entry| entry.expire_at != 0) {
            if entry.is_expired(at.now) {
                keys.push(entry.key.into());
            } else {
                soonest = soonest.min(entry.expire_at);
            }
        }
        let cost = found.len().max(1);
        table.soonest = table.soonest.min(soonest);
        self.cursor = ExpiryCursor { db: at.db, slot, page: page + 1 };
        let expired = keys.len();
        for key in keys {
            self.expire_if_due(at, &key);
        }
        (expired, cost)
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
