//! One database: a table of entries per slot.

use std::hash::BuildHasher;

use hashbrown::hash_table::Entry as Place;
use hashbrown::{DefaultHashBuilder, HashTable};
use kv_core::slot::{SLOT_COUNT, Slot};

use super::slots::SlotBitmap;
use super::value::Value;

/// Bytes that an entry takes besides its key and its value, roughly.
const ENTRY_OVERHEAD: usize = size_of::<Entry>() + 16;

/// Tables that grew over this many entries give memory back when they are nearly empty.
const SHRINK_ABOVE: usize = 64;

/// A key and what it holds.
#[derive(Debug)]
pub struct Entry {
    /// The key.
    pub key: Box<[u8]>,
    /// Its value.
    pub value: Value,
    /// When it expires, in Unix milliseconds; 0: never.
    pub expire_at: u64,
}

impl Entry {
    /// Whether its time is over.
    #[must_use]
    pub fn is_expired(&self, now: u64) -> bool {
        self.expire_at != 0 && now > self.expire_at
    }

    /// An estimate of the bytes that it takes.
    #[must_use]
    pub fn memory(&self) -> usize {
        ENTRY_OVERHEAD + self.key.len() + self.value.memory()
    }
}

/// The entries of one slot.
#[derive(Debug)]
pub struct SlotTable {
    entries: HashTable<Entry>,
    /// How many entries have a time to live.
    expiring: usize,
    /// No entry expires before this.
    soonest: u64,
}

impl Default for SlotTable {
    fn default() -> Self {
        Self { entries: HashTable::new(), expiring: 0, soonest: u64::MAX }
    }
}

impl SlotTable {
    /// The entries in no particular order, the expired ones included.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn count_expiry(&mut self, before: u64, after: u64) {
        self.expiring = self.expiring + usize::from(after != 0) - usize::from(before != 0);
        if after != 0 {
            self.soonest = self.soonest.min(after);
        }
        if self.expiring == 0 {
            self.soonest = u64::MAX;
        }
    }
}

/// One database.
#[derive(Debug)]
pub(super) struct Db {
    slots: Box<[SlotTable]>,
    hasher: DefaultHashBuilder,
    occupied: SlotBitmap,
    /// Slots in which something can expire.
    pub(super) expiring: SlotBitmap,
    len: usize,
    expiring_len: usize,
}

impl Default for Db {
    fn default() -> Self {
        Self {
            slots: (0..SLOT_COUNT).map(|_| SlotTable::default()).collect(),
            hasher: DefaultHashBuilder::default(),
            occupied: SlotBitmap::default(),
            expiring: SlotBitmap::default(),
            len: 0,
            expiring_len: 0,
        }
    }
}

impl Db {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn expiring_len(&self) -> usize {
        self.expiring_len
    }

    pub(super) fn slot(&self, slot: Slot) -> Option<&SlotTable> {
        self.slots.get(usize::from(slot))
    }

    pub(super) fn next_occupied(&self, from: Slot) -> Option<Slot> {
        self.occupied.next(from)
    }

    pub(super) fn occupied(&self) -> impl Iterator<Item = Slot> + '_ {
        self.occupied.iter()
    }

    pub(super) fn find(&self, slot: Slot, key: &[u8]) -> Option<&Entry> {
        let table = self.slot(slot)?;
        table.entries.find(self.hasher.hash_one(key), |entry| *entry.key == *key)
    }

    /// The value of `key`, to be changed. Its expiry is changed by [`Db::set_expire`] only.
    pub(super) fn value_mut(&mut self, slot: Slot, key: &[u8]) -> Option<&mut Entry> {
        let table = self.slots.get_mut(usize::from(slot))?;
        table.entries.find_mut(self.hasher.hash_one(key), |entry| *entry.key == *key)
    }

    /// Puts an entry in; returns the one that it displaced.
    pub(super) fn insert(&mut self, slot: Slot, entry: Entry) -> Option<Entry> {
        let Self { slots, hasher, .. } = self;
        let table = slots.get_mut(usize::from(slot))?;
        let after = entry.expire_at;
        let hash = hasher.hash_one(&*entry.key);
        let place =
            table.entries.entry(hash, |other| other.key == entry.key, |other| hasher.hash_one(&*other.key));
        let displaced = match place {
            Place::Occupied(mut place) => Some(std::mem::replace(place.get_mut(), entry)),
            Place::Vacant(place) => {
                place.insert(entry);
                None
            }
        };
        let before = displaced.as_ref().map_or(0, |displaced| displaced.expire_at);
        table.count_expiry(before, after);
        self.len += usize::from(displaced.is_none());
        self.note(slot, before, after);
        displaced
    }

    /// Takes an entry out.
    pub(super) fn remove(&mut self, slot: Slot, key: &[u8]) -> Option<Entry> {
        let Self { slots, hasher, .. } = self;
        let table = slots.get_mut(usize::from(slot))?;
        let place = table.entries.find_entry(hasher.hash_one(key), |entry| *entry.key == *key).ok()?;
        let (removed, _) = place.remove();
        table.count_expiry(removed.expire_at, 0);
        if table.entries.is_empty() {
            *table = SlotTable::default();
        } else if table.entries.capacity() > SHRINK_ABOVE && table.len() < table.entries.capacity() / 8 {
            table.entries.shrink_to(table.len() * 2, |entry| hasher.hash_one(&*entry.key));
        }
        self.len -= 1;
        self.note(slot, removed.expire_at, 0);
        Some(removed)
    }

    /// Sets when `key` expires; returns when it did until now.
    pub(super) fn set_expire(&mut self, slot: Slot, key: &[u8], expire_at: u64) -> Option<u64> {
        let entry = self.value_mut(slot, key)?;
        let before = std::mem::replace(&mut entry.expire_at, expire_at);
        self.slots.get_mut(usize::from(slot))?.count_expiry(before, expire_at);
        self.note(slot, before, expire_at);
        Some(before)
    }

    fn note(&mut self, slot: Slot, before: u64, after: u64) {
        self.expiring_len = self.expiring_len + usize::from(after != 0) - usize::from(before != 0);
        if let Some(table) = self.slots.get(usize::from(slot)) {
            self.occupied.put(slot, !table.is_empty());
            self.expiring.put(slot, table.expiring > 0);
        }
    }

    /// Up to `limit` keys of `slot` whose time is over, and how many entries were looked at for them.
    pub(super) fn expired_in(&mut self, slot: Slot, now: u64, limit: usize) -> (Vec<Box<[u8]>>, usize) {
        let Some(table) = self.slots.get_mut(usize::from(slot)) else { return (Vec::new(), 1) };
        if table.soonest >= now {
            return (Vec::new(), 1);
        }
        let expired = table.iter().filter(|entry| entry.is_expired(now));
        let keys: Vec<_> = expired.take(limit).map(|entry| entry.key.clone()).collect();
        if keys.len() < limit {
            let rest = table.iter().filter(|entry| entry.expire_at != 0 && !entry.is_expired(now));
            table.soonest = rest.map(|entry| entry.expire_at).min().unwrap_or(u64::MAX);
        }
        (keys, table.len())
    }

    /// The entry at a place of its own among all, or none if `index` is not below the number of entries.
    pub(super) fn nth(&self, mut index: usize) -> Option<&Entry> {
        for slot in self.occupied() {
            let table = self.slot(slot)?;
            if index < table.len() {
                return table.iter().nth(index);
            }
            index -= table.len();
        }
        None
    }
}
