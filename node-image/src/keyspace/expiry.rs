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

/// What a part of the search for expired keys came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpirySearch {
    /// Keys with a time to live that were looked at. Those of slots in which nothing is due are not.
    pub looked_at: usize,
    /// Those that were expired, and were removed.
    pub expired: usize,
    /// The end of all databases was reached; the next search begins at their start.
    pub round: bool,
}

impl std::ops::AddAssign for ExpirySearch {
    fn add_assign(&mut self, other: Self) {
        self.looked_at += other.looked_at;
        self.expired += other.expired;
        self.round |= other.round;
    }
}

/// Where the next [`Keyspace::expire_cycle`] goes on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ExpiryCursor {
    db: usize,
    slot: Slot,
    page: usize,
}

impl Keyspace {
    /// Removes keys whose time is over, looking at no more than about `budget` entries and slots, and goes on next time
    /// where it stopped. Does nothing unless the mode is [`ExpiryMode::Delete`].
    pub fn expire_cycle(&mut self, now: u64, budget: usize) -> ExpirySearch {
        let mut found = ExpirySearch::default();
        if self.expiry != ExpiryMode::Delete {
            return ExpirySearch { round: true, ..found };
        }
        let mut left = budget;
        while left > 0 && !found.round {
            let ExpiryCursor { db, slot, .. } = self.cursor;
            let next = self.dbs.get(db).and_then(Option::as_ref).and_then(|found| found.expiring.next(slot));
            let Some(next) = next else {
                found.round = db + 1 >= self.dbs.len();
                self.cursor = ExpiryCursor { db: if found.round { 0 } else { db + 1 }, slot: 0, page: 0 };
                continue;
            };
            if self.is_staged(next) {
                self.cursor = ExpiryCursor { db, slot: next + 1, page: 0 };
                left = left.saturating_sub(1);
                continue;
            }
            if next != slot {
                self.cursor = ExpiryCursor { db, slot: next, page: 0 };
            }
            let (page, cost) = self.expire_page(At { db, now });
            found += page;
            left = left.saturating_sub(cost);
        }
        found
    }

    /// Removes what is expired in the page of the cursor, and moves the cursor on. Returns what that cost, too.
    fn expire_page(&mut self, at: At) -> (ExpirySearch, usize) {
        let ExpiryCursor { slot, page, .. } = self.cursor;
        let next_slot = ExpiryCursor { db: at.db, slot: slot.saturating_add(1).min(SLOT_COUNT), page: 0 };
        let table = self.db_mut(at.db).and_then(|db| db.slot_mut(slot));
        let Some(table) = table.filter(|table| page > 0 || table.soonest < at.now) else {
            self.cursor = next_slot;
            return (ExpirySearch::default(), 1);
        };
        if page == 0 {
            // Found anew on the way through the pages; what is set meanwhile lowers it, too.
            table.soonest = u64::MAX;
        }
        let Some(found) = table.pages().get(page) else {
            self.cursor = next_slot;
            return (ExpirySearch::default(), 1);
        };
        let (mut keys, mut soonest): (Vec<Box<[u8]>>, _) = (Vec::new(), u64::MAX);
        let mut looked_at = 0;
        for entry in found.iter().filter(|entry| entry.expire_at != 0) {
            looked_at += 1;
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
        (ExpirySearch { looked_at, expired, round: false }, cost)
    }

    /// Whether [`Keyspace::take_expired`] has any.
    #[inline]
    #[must_use]
    pub fn has_expired(&self) -> bool {
        !self.expired.is_empty()
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
