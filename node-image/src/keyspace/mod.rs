//! The data: databases of slots of keys.
//!
//! Commands reach values by typed closures ([`Keyspace::read`], [`Keyspace::modify`], [`Keyspace::upsert`]); how values
//! are laid out is known to `value` only. Every change to a slot is announced to an observer first, which is how a
//! snapshot keeps the state of the moment it began.

mod db;
mod expiry;
mod slots;
pub mod value;

#[cfg(test)]
mod tests;

use kv_core::slot::{SLOT_COUNT, Slot, key_slot};

use db::Db;
pub use db::{Entry, SlotTable};
use expiry::ExpiryCursor;
pub use expiry::ExpiryMode;
use value::{Kind, Value};

/// Where and when a command runs.
#[derive(Clone, Copy, Debug)]
pub struct At {
    /// The database.
    pub db: usize,
    /// Unix time in milliseconds.
    pub now: u64,
}

/// What a new value does to the time to live that its key had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expire {
    /// Takes it away.
    Never,
    /// Leaves it as it is.
    Keep,
    /// Sets it to this Unix time in milliseconds.
    At(u64),
}

/// A key holds a value of another type than the command works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key holds a value of another type")]
pub struct WrongType;

/// Is told of changes before they happen.
pub trait WriteObserver: Send {
    /// An entry of this slot is about to be added, changed or removed.
    fn before_write(&mut self, db: usize, slot: Slot, entries: &SlotTable);

    /// Whole databases are about to be emptied or to change places.
    fn before_flush(&mut self, dbs: &[usize]);
}

/// All databases.
pub struct Keyspace {
    dbs: Vec<Option<Box<Db>>>,
    expiry: ExpiryMode,
    expired: Vec<(usize, Box<[u8]>)>,
    expired_total: u64,
    cursor: ExpiryCursor,
    used_memory: usize,
    observer: Option<Box<dyn WriteObserver>>,
}

impl std::fmt::Debug for Keyspace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lens: Vec<_> = (0..self.dbs.len()).map(|db| self.len(db)).collect();
        f.debug_struct("Keyspace").field("expiry", &self.expiry).field("keys", &lens).finish_non_exhaustive()
    }
}

impl Keyspace {
    /// Empty databases; each takes memory from its first key on.
    #[must_use]
    pub fn new(databases: usize) -> Self {
        Self {
            dbs: (0..databases).map(|_| None).collect(),
            expiry: ExpiryMode::Delete,
            expired: Vec::new(),
            expired_total: 0,
            cursor: ExpiryCursor::default(),
            used_memory: 0,
            observer: None,
        }
    }

    /// How many databases there are.
    #[must_use]
    pub fn databases(&self) -> usize {
        self.dbs.len()
    }

    /// Number of keys in a database.
    #[must_use]
    pub fn len(&self, db: usize) -> usize {
        self.db(db).map_or(0, Db::len)
    }

    /// Number of keys in all databases.
    #[must_use]
    pub fn total(&self) -> usize {
        self.dbs.iter().flatten().map(|db| db.len()).sum()
    }

    /// Whether no database holds a key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.dbs.iter().flatten().all(|db| db.len() == 0)
    }

    /// Number of keys of a database that have a time to live.
    #[must_use]
    pub fn expiring_len(&self, db: usize) -> usize {
        self.db(db).map_or(0, Db::expiring_len)
    }

    /// An estimate of the bytes that keys and values take.
    #[must_use]
    pub fn used_memory(&self) -> usize {
        self.used_memory
    }

    /// Sets what becomes of keys whose time is over.
    pub fn set_expiry_mode(&mut self, mode: ExpiryMode) {
        self.expiry = mode;
    }

    /// What becomes of keys whose time is over.
    #[must_use]
    pub fn expiry_mode(&self) -> ExpiryMode {
        self.expiry
    }

    /// Sets who is told of changes; returns who was until now.
    pub fn observe(&mut self, observer: Option<Box<dyn WriteObserver>>) -> Option<Box<dyn WriteObserver>> {
        std::mem::replace(&mut self.observer, observer)
    }

    fn db(&self, db: usize) -> Option<&Db> {
        self.dbs.get(db)?.as_deref()
    }

    fn db_mut(&mut self, db: usize) -> Option<&mut Db> {
        self.dbs.get_mut(db).map(|db| &mut **db.get_or_insert_default())
    }

    /// Everything that changes a slot calls this first.
    fn before_write(&mut self, db: usize, slot: Slot) {
        let Some(observer) = &mut self.observer else { return };
        match self.dbs.get(db).and_then(Option::as_deref).and_then(|db| db.slot(slot)) {
            Some(table) => observer.before_write(db, slot, table),
            None => observer.before_write(db, slot, &SlotTable::default()),
        }
    }

    fn is_gone(&self, entry: &Entry, now: u64) -> bool {
        self.expiry != ExpiryMode::Ignore && entry.is_expired(now)
    }

    /// What `key` holds; nothing if its time is over.
    #[must_use]
    pub fn peek(&self, at: At, key: &[u8]) -> Option<&Entry> {
        let entry = self.db(at.db)?.find(key_slot(key), key)?;
        (!self.is_gone(entry, at.now)).then_some(entry)
    }

    /// What `key` holds, if that is of the type.
    ///
    /// # Errors
    /// If it is of another type.
    pub fn peek_as<T: Kind>(&self, at: At, key: &[u8]) -> Result<Option<&T>, WrongType> {
        self.peek(at, key).map(|entry| T::of(&entry.value).ok_or(WrongType)).transpose()
    }

    /// Removes `key` if its time is over and the mode is to delete such keys.
    pub fn expire_if_due(&mut self, at: At, key: &[u8]) {
        if self.expiry != ExpiryMode::Delete {
            return;
        }
        let slot = key_slot(key);
        let due = self.db(at.db).and_then(|db| db.find(slot, key)).is_some_and(|e| e.is_expired(at.now));
        if due {
            self.remove_expired(at.db, slot, key.into());
        }
    }

    fn remove_expired(&mut self, db: usize, slot: Slot, key: Box<[u8]>) {
        if self.remove_at(db, slot, &key).is_some() {
            self.expired.push((db, key));
            self.expired_total += 1;
        }
    }

    /// As [`Keyspace::peek`], after the removal of the key if it is due.
    pub fn find(&mut self, at: At, key: &[u8]) -> Option<&Entry> {
        self.expire_if_due(at, key);
        self.peek(at, key)
    }

    /// As [`Keyspace::peek_as`], after the removal of the key if it is due.
    ///
    /// # Errors
    /// If the key holds a value of another type.
    pub fn read<T: Kind>(&mut self, at: At, key: &[u8]) -> Result<Option<&T>, WrongType> {
        self.expire_if_due(at, key);
        self.peek_as(at, key)
    }

    /// Changes what `key` holds, if it is there. A collection that is empty afterwards is removed.
    ///
    /// # Errors
    /// If the key holds a value of another type.
    pub fn modify<T: Kind, R>(
        &mut self,
        at: At,
        key: &[u8],
        change: impl FnOnce(&mut T) -> R,
    ) -> Result<Option<R>, WrongType> {
        if self.read::<T>(at, key)?.is_none() {
            return Ok(None);
        }
        let slot = key_slot(key);
        self.before_write(at.db, slot);
        let Some(entry) = self.db_mut(at.db).and_then(|db| db.value_mut(slot, key)) else { return Ok(None) };
        let before = entry.value.memory();
        let result = change(T::of_mut(&mut entry.value).ok_or(WrongType)?);
        let after = entry.value.memory();
        let empty = entry.value.is_empty_collection();
        self.used_memory = (self.used_memory + after).saturating_sub(before);
        if empty {
            self.remove_at(at.db, slot, key);
        }
        Ok(Some(result))
    }

    /// Changes what `key` holds, an empty value if it is not there. A collection that is empty afterwards is removed.
    ///
    /// # Errors
    /// If the key holds a value of another type.
    pub fn upsert<T: Kind, R>(
        &mut self,
        at: At,
        key: &[u8],
        change: impl FnOnce(&mut T) -> R,
    ) -> Result<R, WrongType> {
        if self.read::<T>(at, key)?.is_none() {
            let mut value = T::default();
            let result = change(&mut value);
            let value = value.into_value();
            if !value.is_empty_collection() {
                self.insert(at, key, value, Expire::Never);
            }
            return Ok(result);
        }
        self.modify(at, key, change)?.ok_or(WrongType)
    }

    /// Sets what `key` holds, whatever it held.
    pub fn insert(&mut self, at: At, key: &[u8], value: Value, expire: Expire) {
        let expire_at = match expire {
            Expire::Never => 0,
            Expire::Keep => self.find(at, key).map_or(0, |entry| entry.expire_at),
            Expire::At(time) => time,
        };
        self.insert_loaded(at.db, key.into(), value, expire_at);
    }

    /// Sets what `key` holds as a file or a master says it, without a look at the clock.
    pub fn insert_loaded(&mut self, db: usize, key: Box<[u8]>, value: Value, expire_at: u64) {
        let slot = key_slot(&key);
        self.before_write(db, slot);
        let entry = Entry { key, value, expire_at };
        let memory = entry.memory();
        let Some(found) = self.db_mut(db) else { return };
        let displaced = found.insert(slot, entry);
        let freed = displaced.map_or(0, |displaced| displaced.memory());
        self.used_memory = (self.used_memory + memory).saturating_sub(freed);
    }

    /// Takes `key` out; nothing if its time is over.
    pub fn remove(&mut self, at: At, key: &[u8]) -> Option<Entry> {
        self.expire_if_due(at, key);
        let removed = self.remove_at(at.db, key_slot(key), key)?;
        (!self.is_gone(&removed, at.now)).then_some(removed)
    }

    fn remove_at(&mut self, db: usize, slot: Slot, key: &[u8]) -> Option<Entry> {
        self.db(db)?.find(slot, key)?;
        self.before_write(db, slot);
        let removed = self.db_mut(db)?.remove(slot, key)?;
        self.used_memory = self.used_memory.saturating_sub(removed.memory());
        Some(removed)
    }

    /// Sets when `key` expires (0: never); returns when it did until now, nothing if there is no such key.
    pub fn set_expire(&mut self, at: At, key: &[u8], expire_at: u64) -> Option<u64> {
        self.find(at, key)?;
        let slot = key_slot(key);
        self.before_write(at.db, slot);
        self.db_mut(at.db)?.set_expire(slot, key, expire_at)
    }

    /// Empties a database.
    pub fn flush(&mut self, db: usize) {
        if let Some(observer) = &mut self.observer {
            observer.before_flush(&[db]);
        }
        let Some(flushed) = self.dbs.get_mut(db).and_then(Option::take) else { return };
        if self.is_empty() {
            self.used_memory = 0;
        } else {
            let slots = flushed.occupied().filter_map(|slot| flushed.slot(slot));
            let freed: usize = slots.flat_map(SlotTable::iter).map(Entry::memory).sum();
            self.used_memory = self.used_memory.saturating_sub(freed);
        }
        drop_elsewhere(flushed);
    }

    /// Empties every database.
    pub fn flush_all(&mut self) {
        let all: Vec<_> = (0..self.dbs.len()).collect();
        if let Some(observer) = &mut self.observer {
            observer.before_flush(&all);
        }
        self.dbs.iter_mut().filter_map(Option::take).for_each(drop_elsewhere);
        self.used_memory = 0;
    }

    /// Lets two databases change places. Returns whether both exist.
    pub fn swap_databases(&mut self, a: usize, b: usize) -> bool {
        if a.max(b) >= self.dbs.len() {
            return false;
        }
        if let Some(observer) = &mut self.observer {
            observer.before_flush(&[a, b]);
        }
        self.dbs.swap(a, b);
        true
    }

    /// Takes over the data of `loaded` in place of its own. Observer, mode and counters stay.
    pub fn replace_all(&mut self, loaded: Self) {
        let databases = self.dbs.len().max(loaded.dbs.len());
        self.flush_all();
        self.dbs = loaded.dbs;
        self.dbs.resize_with(databases, || None);
        self.used_memory = loaded.used_memory;
        self.expired.clear();
        self.cursor = ExpiryCursor::default();
    }

    /// Number of keys in a slot.
    #[must_use]
    pub fn slot_len(&self, db: usize, slot: Slot) -> usize {
        self.slot(db, slot).map_or(0, SlotTable::len)
    }

    /// The entries of a slot; nothing if the database holds none or there is no such slot.
    #[must_use]
    pub fn slot(&self, db: usize, slot: Slot) -> Option<&SlotTable> {
        self.db(db)?.slot(slot)
    }

    /// Shows every entry of a slot, the expired ones included.
    pub fn for_each_in_slot(&self, db: usize, slot: Slot, show: impl FnMut(&Entry)) {
        if let Some(table) = self.slot(db, slot) {
            table.iter().for_each(show);
        }
    }

    /// Up to `count` keys of a slot.
    #[must_use]
    pub fn keys_in_slot(&self, db: usize, slot: Slot, count: usize) -> Vec<&[u8]> {
        let entries = self.slot(db, slot).into_iter().flat_map(SlotTable::iter);
        entries.take(count).map(|entry| &*entry.key).collect()
    }

    /// The lowest slot from `from` on that holds a key.
    #[must_use]
    pub fn next_occupied_slot(&self, db: usize, from: Slot) -> Option<Slot> {
        self.db(db)?.next_occupied(from)
    }

    /// The entries of a database that are not gone, in the order of their slots.
    pub fn entries(&self, at: At) -> impl Iterator<Item = &Entry> {
        let db = self.db(at.db);
        let slots = db.into_iter().flat_map(|db| db.occupied().filter_map(|slot| db.slot(slot)));
        slots.flat_map(SlotTable::iter).filter(move |entry| !self.is_gone(entry, at.now))
    }

    /// Shows the entries of whole slots from `cursor` on until at least `count` were looked at; returns the cursor to
    /// go on with, 0 at the end. Keys that are there all the time are shown whatever else changes.
    pub fn scan(&self, at: At, cursor: u64, count: usize, mut show: impl FnMut(&Entry)) -> u64 {
        let mut seen = 0;
        let mut from = Slot::try_from(cursor).unwrap_or(SLOT_COUNT);
        while seen < count {
            let Some(slot) = self.next_occupied_slot(at.db, from) else { return 0 };
            let Some(table) = self.slot(at.db, slot) else { return 0 };
            table.iter().filter(|entry| !self.is_gone(entry, at.now)).for_each(&mut show);
            seen += table.len();
            from = slot + 1;
        }
        self.next_occupied_slot(at.db, from).map_or(0, u64::from)
    }

    /// Any key that is not gone; tries a number of times to find one among those that are.
    pub fn random_key(&self, at: At, random: &mut fastrand::Rng) -> Option<&[u8]> {
        const ATTEMPTS: usize = 100;
        let db = self.db(at.db).filter(|db| db.len() > 0)?;
        let mut picks = (0..ATTEMPTS).filter_map(|_| db.nth(random.usize(..db.len())));
        picks.find(|entry| !self.is_gone(entry, at.now)).map(|entry| &*entry.key)
    }
}

/// Frees a database on a thread of its own: that can take seconds. Without a thread it is freed here.
fn drop_elsewhere(db: Box<Db>) {
    const WORTH_A_THREAD: usize = 10_000;
    if db.len() >= WORTH_A_THREAD {
        // If no thread can be had, the closure is dropped, and the database with it.
        let _ = std::thread::Builder::new().name("lazy-free".into()).spawn(move || drop(db));
    }
}
