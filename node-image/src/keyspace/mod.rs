//! The data: databases of slots of keys.
//!
//! Keys are packed into pages ([`Page`]), pages make up the hash table of a slot, and slots a database. Commands reach
//! strings by [`Keyspace::read_str`] and [`Keyspace::set_str`], and the other values by typed closures
//! ([`Keyspace::read`], [`Keyspace::modify`], [`Keyspace::upsert`]); how values are laid out is known to `value` only.
//! Every change to a page is announced to an observer first, which is how a snapshot keeps the state of the moment it
//! began.

mod access;
mod db;
mod entry;
mod eviction;
mod expiry;
mod lazy;
mod memo;
mod observe;
mod page;
mod pages;
mod slots;
mod table;
pub mod value;
mod watch;

#[cfg(test)]
mod tests;

use kv_core::slot::{SLOT_COUNT, Slot, SlotSet, key_slot};

pub use access::{Tracking, Usage};
use db::{Address, Db, Seen};
pub use entry::EntryRef;
use entry::Meta;
pub use eviction::{Policy, Pool};
use expiry::ExpiryCursor;
pub use expiry::{ExpiryMode, ExpirySearch};
pub use lazy::LazyFree;
use memo::Memo;
pub use observe::WriteObserver;
use page::NewValue;
pub use page::{Page, Showing};
use table::Place;
pub use value::{Collection, ValueRef};
use value::{Kind, Str, Value};
pub use watch::Ticket;
use watch::{Change, Watches};

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

impl Expire {
    /// To expire at this Unix time in milliseconds; 0: never.
    #[must_use]
    pub fn time(expire_at: u64) -> Self {
        if expire_at == 0 { Self::Never } else { Self::At(expire_at) }
    }
}

/// A key holds a value of another type than the command works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key holds a value of another type")]
pub struct WrongType;

/// All databases.
pub struct Keyspace {
    dbs: Vec<Option<Box<Db>>>,
    expiry: ExpiryMode,
    expired: Vec<(usize, Box<[u8]>)>,
    expired_total: u64,
    cursor: ExpiryCursor,
    observer: Option<Box<dyn WriteObserver>>,
    watches: Watches,
    tracking: Tracking,
    freer: lazy::Freer,
    memo: Memo,
    /// Reads do not count as uses.
    untouched: bool,
    random: fastrand::Rng,
    /// Slots that come from another shard: their keys neither expire nor are evicted, and no client sees them.
    staged: Option<Box<SlotSet>>,
    /// Number of the current snapshot: pages of an older number were not seen by the observer.
    version: u32,
}

/// The most keys that are looked at together.
const MOST_WARMED: usize = 64;

/// The address of a key, if that was not noted before.
#[inline]
fn address_of(noted: Option<Address>, db: &Db, key: &[u8]) -> Address {
    let address = || db.address(key_slot(key), key);
    debug_assert!(noted.is_none_or(|noted| noted == address()), "a key that was noted is where it was");
    noted.unwrap_or_else(address)
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
            observer: None,
            watches: Watches::default(),
            tracking: Tracking::Off,
            freer: lazy::Freer::default(),
            memo: Memo::default(),
            untouched: false,
            random: fastrand::Rng::new(),
            staged: None,
            version: 0,
        }
    }

    /// The same, and keeps account of this.
    #[must_use]
    pub fn tracking_as(mut self, tracking: Tracking) -> Self {
        self.track(tracking);
        self
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

    /// Bytes that keys and values take, as they were asked for from the allocator.
    #[must_use]
    pub fn used_memory(&self) -> usize {
        self.dbs.iter().flatten().map(|db| db.memory()).sum()
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

    fn db(&self, db: usize) -> Option<&Db> {
        self.dbs.get(db)?.as_deref()
    }

    fn db_mut(&mut self, db: usize) -> Option<&mut Db> {
        self.dbs.get_mut(db)?.as_deref_mut()
    }

    /// A database that something is to be written to, and who has to see that.
    fn writable(&mut self, db: usize) -> Option<(&mut Db, Seen<'_>)> {
        let found = self.dbs.get_mut(db)?.get_or_insert_default();
        Some((found, Seen { db, version: self.version, observer: self.observer.as_mut() }))
    }

    fn is_gone(&self, entry: &EntryRef<'_>, now: u64) -> bool {
        self.expiry != ExpiryMode::Ignore && entry.is_expired(now)
    }

    fn locate(&self, db: usize, key: &[u8]) -> Option<(Address, Place, EntryRef<'_>)> {
        let noted = self.memo.recall(db, key);
        let db = self.db(db)?;
        let address = address_of(noted, db, key);
        let (place, entry) = db.find(address, key)?;
        Some((address, place, entry))
    }

    /// What `key` holds; nothing if its time is over.
    #[must_use]
    pub fn peek(&self, at: At, key: &[u8]) -> Option<EntryRef<'_>> {
        let (_, _, entry) = self.locate(at.db, key)?;
        (!self.is_gone(&entry, at.now)).then_some(entry)
    }

    /// What `key` holds, if that is of the type.
    ///
    /// # Errors
    /// If it is of another type.
    pub fn peek_as<T: Collection>(&self, at: At, key: &[u8]) -> Result<Option<&T>, WrongType> {
        self.peek(at, key).map(|entry| T::of_ref(entry.value).ok_or(WrongType)).transpose()
    }

    /// Removes `key` if its time is over and the mode is to delete such keys.
    pub fn expire_if_due(&mut self, at: At, key: &[u8]) {
        if self.expiry != ExpiryMode::Delete {
            return;
        }
        if let Some((address, place, entry)) = self.locate(at.db, key)
            && entry.is_expired(at.now)
        {
            self.remove_expired(at.db, address, place, key);
        }
    }

    fn remove_expired(&mut self, db: usize, address: Address, place: Place, key: &[u8]) {
        let removed = self.writable(db).and_then(|(db, seen)| db.remove(seen, address, place));
        if let Some(gone) = removed {
            self.freer.value(gone.object, self.freer.lazily.expire);
            self.watches.mark(db, key, Change::Removed);
            self.expired.push((db, key.into()));
            self.expired_total += 1;
        }
    }

    /// The place of `key`, after it was removed if it is due. `None` also if it is hidden.
    #[inline]
    fn place(&mut self, at: At, key: &[u8]) -> Option<(Address, Place)> {
        let noted = self.memo.recall(at.db, key);
        let db = self.db(at.db)?;
        let address = address_of(noted, db, key);
        let (place, expire_at) = db.place(address, key)?;
        if expire_at == 0 || at.now <= expire_at || self.expiry == ExpiryMode::Ignore {
            return Some((address, place));
        }
        if self.expiry == ExpiryMode::Delete {
            self.remove_expired(at.db, address, place, key);
        }
        None
    }

    /// Looks at the memory where keys are or would be, at all of them together. It changes nothing but what the
    /// processor's caches hold, and notes where that is until [`Keyspace::forget`] is called: before the bytes of the
    /// keys themselves change.
    pub fn warm<'k>(&mut self, db: usize, keys: impl Iterator<Item = &'k [u8]>) {
        let Some(found) = self.dbs.get(db).and_then(Option::as_deref) else { return self.memo.forget() };
        let address = |key| (key, found.address(key_slot(key), key));
        self.memo.note(db, keys.take(MOST_WARMED).map(address));
        found.warm(self.memo.addresses());
    }

    /// The keys that were looked at will not stay where they are in memory.
    pub fn forget(&mut self) {
        self.memo.forget();
    }

    /// As [`Keyspace::peek`], after the removal of the key if it is due.
    #[inline]
    pub fn find(&mut self, at: At, key: &[u8]) -> Option<EntryRef<'_>> {
        let (address, place) = self.place(at, key)?;
        self.db(at.db)?.slot(address.slot)?.entry(place)
    }

    /// As [`Keyspace::find`], and keeps account of the use.
    #[inline]
    pub fn use_key(&mut self, at: At, key: &[u8]) -> Option<EntryRef<'_>> {
        let (address, place) = self.place(at, key)?;
        if self.tracking != Tracking::Off && !self.untouched {
            self.note_use(at, address, place);
        }
        self.db(at.db)?.slot(address.slot)?.entry(place)
    }

    /// As [`Keyspace::peek_as`], after the removal of the key if it is due.
    ///
    /// # Errors
    /// If the key holds a value of another type.
    pub fn read<T: Collection>(&mut self, at: At, key: &[u8]) -> Result<Option<&T>, WrongType> {
        self.use_key(at, key).map(|entry| T::of_ref(entry.value).ok_or(WrongType)).transpose()
    }

    /// The string that `key` holds, after the removal of the key if it is due.
    ///
    /// # Errors
    /// If the key holds a value of another type.
    #[inline]
    pub fn read_str(&mut self, at: At, key: &[u8]) -> Result<Option<&[u8]>, WrongType> {
        self.use_key(at, key).map(|entry| entry.value.string().ok_or(WrongType)).transpose()
    }

    /// Changes what `key` holds, if it is there. A collection that is empty afterwards is removed.
    ///
    /// # Errors
    /// If the key holds a value of another type.
    pub fn modify<T: Collection, R>(
        &mut self,
        at: At,
        key: &[u8],
        change: impl FnOnce(&mut T) -> R,
    ) -> Result<Option<R>, WrongType> {
        let Some((address, place)) = self.place(at, key) else { return Ok(None) };
        if self.peek_as::<T>(at, key)?.is_none() {
            return Ok(None);
        }
        self.watches.touch(at.db, key, Change::Written);
        let Some((db, seen)) = self.writable(at.db) else { return Ok(None) };
        let changed = db.change_object(seen, address, place, |value| {
            let result = T::of_mut(value).map(change);
            (result, value.is_empty_collection())
        });
        let Some((result, empty)) = changed else { return Ok(None) };
        if empty && let Some((db, seen)) = self.writable(at.db) {
            let gone = db.remove(seen, address, place);
            self.freer.value(gone.and_then(|gone| gone.object), false);
        }
        result.ok_or(WrongType).map(Some)
    }

    /// Changes what `key` holds, an empty value if it is not there. A collection that is empty afterwards is removed.
    ///
    /// # Errors
    /// If the key holds a value of another type.
    pub fn upsert<T: Collection, R>(
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

    /// Changes the string that `key` holds, an empty one if it is not there. Its time to live stays.
    ///
    /// # Errors
    /// If the key holds a value of another type.
    pub fn update_str<R>(
        &mut self,
        at: At,
        key: &[u8],
        change: impl FnOnce(&mut Str) -> R,
    ) -> Result<R, WrongType> {
        let Some((address, place)) = self.place(at, key) else {
            let mut text = Str::default();
            let result = change(&mut text);
            self.insert(at, key, text.into_value(), Expire::Never);
            return Ok(result);
        };
        let entry = self.db(at.db).and_then(|db| db.slot(address.slot)?.entry(place)).ok_or(WrongType)?;
        let (expire_at, access) = (entry.expire_at, entry.access);
        let ValueRef::Str { bytes, edited } = entry.value else { return Err(WrongType) };
        // A long string is changed where it is. It stays there, even if it becomes short.
        let mut text =
            if bytes.len() > entry::STRING_MAX { Str::default() } else { Str::with_history(bytes, edited) };
        self.watches.touch(at.db, key, Change::Written);
        let (db, seen) = self.writable(at.db).ok_or(WrongType)?;
        let mut change = Some(change);
        let changed =
            db.change_object(seen, address, place, |value| Some((change.take()?)(Str::of_mut(value)?)));
        if let Some(result) = changed {
            return result.ok_or(WrongType);
        }
        let result = (change.take().ok_or(WrongType)?)(&mut text);
        let access = self.access_after(access, at.now);
        self.put(at.db, address, Some(place), key, text.into_value(), Meta { expire_at, access });
        Ok(result)
    }

    /// Sets what `key` holds, whatever it held.
    pub fn insert(&mut self, at: At, key: &[u8], value: Value, expire: Expire) {
        let expire_at = self.expiry_after(at, key, expire);
        self.insert_loaded(at.db, key, value, expire_at);
        if self.tracking != Tracking::Off
            && let Some((address, place, _)) = self.locate(at.db, key)
        {
            self.note_use(at, address, place);
        }
    }

    /// Sets `key` to a string, whatever it held.
    pub fn set_str(&mut self, at: At, key: &[u8], bytes: &[u8], expire: Expire) {
        let expire_at = self.expiry_after(at, key, expire);
        self.watches.touch(at.db, key, Change::Written);
        let noted = self.memo.recall(at.db, key);
        let (tracking, random) = (self.tracking, &mut self.random);
        let Some(db) = self.dbs.get_mut(at.db).map(Option::get_or_insert_default) else { return };
        let seen = Seen { db: at.db, version: self.version, observer: self.observer.as_mut() };
        let address = address_of(noted, db, key);
        let place = db.place(address, key).map(|(place, _)| place);
        let access = match tracking {
            Tracking::Off => None,
            _ => {
                let before = place.and_then(|place| db.slot(address.slot)?.entry(place)?.access);
                tracking.written(before, at.now, random)
            }
        };
        let meta = Meta { expire_at, access };
        if let Some(gone) = db.insert(seen, address, place, key, NewValue::string(bytes), meta) {
            self.freer.value(gone.object, self.freer.lazily.server_del);
        }
    }

    fn expiry_after(&mut self, at: At, key: &[u8], expire: Expire) -> u64 {
        match expire {
            Expire::Never => 0,
            Expire::Keep => self.find(at, key).map_or(0, |entry| entry.expire_at),
            Expire::At(time) => time,
        }
    }

    /// Sets what `key` holds as a file or a master says it, without a look at the clock.
    pub fn insert_loaded(&mut self, db: usize, key: &[u8], value: Value, expire_at: u64) {
        let noted = self.memo.recall(db, key);
        let Some((found, _)) = self.writable(db) else { return };
        let address = address_of(noted, found, key);
        let place = found.find(address, key).map(|(place, _)| place);
        self.put(db, address, place, key, value, Meta::expiring(expire_at));
    }

    /// As [`Keyspace::insert_loaded`], and takes over how the key was used until now, if that is kept account of.
    pub fn load(&mut self, at: At, key: &[u8], value: Value, expire_at: u64, usage: Option<Usage>) {
        let access = self.tracking.restored(usage, at.now);
        let noted = self.memo.recall(at.db, key);
        let Some((found, _)) = self.writable(at.db) else { return };
        let address = address_of(noted, found, key);
        let place = found.find(address, key).map(|(place, _)| place);
        self.put(at.db, address, place, key, value, Meta { expire_at, access });
    }

    /// As [`Keyspace::load`], of a string.
    pub fn load_str(&mut self, at: At, key: &[u8], text: &[u8], expire_at: u64, usage: Option<Usage>) {
        let access = self.tracking.restored(usage, at.now);
        let noted = self.memo.recall(at.db, key);
        let Some((found, seen)) = self.writable(at.db) else { return };
        let address = address_of(noted, found, key);
        let place = found.find(address, key).map(|(place, _)| place);
        found.insert(seen, address, place, key, NewValue::string(text), Meta { expire_at, access });
    }

    fn put(
        &mut self,
        db: usize,
        address: Address,
        found: Option<Place>,
        key: &[u8],
        value: Value,
        meta: Meta,
    ) {
        let mut scratch = Str::default();
        value.moved(db, key);
        let value = NewValue::of(value, &mut scratch);
        self.watches.touch(db, key, Change::Written);
        let Some((db, seen)) = self.writable(db) else { return };
        if let Some(gone) = db.insert(seen, address, found, key, value, meta) {
            self.freer.value(gone.object, self.freer.lazily.server_del);
        }
    }

    /// Removes `key`, which another value took the place of. Returns whether it was there; not if its time is over.
    pub fn remove(&mut self, at: At, key: &[u8]) -> bool {
        self.delete(at, key, self.freer.lazily.server_del)
    }

    /// Removes `key`; `lazily`: a large value is freed on a thread of its own. Returns whether it was there; not if its
    /// time is over.
    pub fn delete(&mut self, at: At, key: &[u8], lazily: bool) -> bool {
        let Some((address, place)) = self.place(at, key) else { return self.remove_hidden(at, key) };
        self.watches.touch(at.db, key, Change::Removed);
        let gone = self.writable(at.db).and_then(|(db, seen)| db.remove(seen, address, place));
        gone.map(|gone| self.freer.value(gone.object, lazily)).is_some()
    }

    /// Removes a key that is hidden since its time is over; says that it was not there.
    fn remove_hidden(&mut self, at: At, key: &[u8]) -> bool {
        if let Some((address, place, _)) = self.locate(at.db, key)
            && let Some((db, seen)) = self.writable(at.db)
            && let Some(gone) = db.remove(seen, address, place)
        {
            self.freer.value(gone.object, self.freer.lazily.expire);
            // One that began to watch it while it was to be seen has to hear of its end.
            self.watches.mark(at.db, key, Change::Removed);
        }
        false
    }

    /// Takes `key` out: its value, and when it expires (0: never). Nothing if its time is over.
    pub fn take(&mut self, at: At, key: &[u8]) -> Option<(Value, u64)> {
        let (address, place) = self.place(at, key)?;
        let entry = self.db(at.db)?.slot(address.slot)?.entry(place)?;
        let text = match entry.value {
            ValueRef::Str { .. } => Some(entry.value.to_value()),
            _ => None,
        };
        self.watches.touch(at.db, key, Change::Removed);
        let (db, seen) = self.writable(at.db)?;
        let gone = db.remove(seen, address, place)?;
        Some((gone.object.or(text)?, gone.expire_at))
    }

    /// Sets when `key` expires (0: never); returns when it did until now, nothing if there is no such key.
    pub fn set_expire(&mut self, at: At, key: &[u8], expire_at: u64) -> Option<u64> {
        let (address, _) = self.place(at, key)?;
        self.watches.touch(at.db, key, Change::Written);
        let (db, seen) = self.writable(at.db)?;
        db.set_expire(seen, address, key, expire_at)
    }

    /// Empties a database; `lazily`: it is freed on a thread of its own.
    pub fn flush(&mut self, db: usize, lazily: bool) {
        self.memo.forget();
        self.touch_all(db, |_, _| false);
        if let Some(observer) = &mut self.observer {
            observer.before_flush(&[db]);
        }
        if let Some(flushed) = self.dbs.get_mut(db).and_then(Option::take) {
            self.freer.db(flushed, lazily);
        }
    }

    /// Empties every database; `lazily`: they are freed on a thread of their own.
    pub fn flush_all(&mut self, lazily: bool) {
        self.memo.forget();
        let all: Vec<_> = (0..self.dbs.len()).collect();
        all.iter().for_each(|db| self.touch_all(*db, |_, _| false));
        if let Some(observer) = &mut self.observer {
            observer.before_flush(&all);
        }
        self.dbs.iter_mut().filter_map(Option::take).for_each(|db| self.freer.db(db, lazily));
    }

    /// Lets two databases change places. Returns whether both exist.
    pub fn swap_databases(&mut self, a: usize, b: usize) -> bool {
        if a.max(b) >= self.dbs.len() {
            return false;
        }
        if a == b {
            return true;
        }
        if let Some(observer) = &mut self.observer {
            observer.before_flush(&[a, b]);
        }
        self.touch_all(a, |all, key| all.locate(b, key).is_some());
        self.touch_all(b, |all, key| all.locate(a, key).is_some());
        self.dbs.swap(a, b);
        self.memo.forget();
        true
    }

    /// Takes over the data of `loaded` in place of its own. Observer, mode and counters stay.
    pub fn replace_all(&mut self, loaded: Self) {
        let databases = self.dbs.len().max(loaded.dbs.len());
        (0..databases).for_each(|db| self.touch_all(db, |_, key| loaded.locate(db, key).is_some()));
        self.flush_all(self.freer.lazily.replica_flush); // which forgets all addresses
        self.dbs = loaded.dbs;
        self.dbs.resize_with(databases, || None);
        self.expired.clear();
        self.cursor = ExpiryCursor::default();
    }

    /// Says of which slots the keys are still coming in from another shard, if any: until all are there, they neither expire
    /// nor are evicted, since what follows counts on them.
    pub fn stage(&mut self, slots: Option<SlotSet>) {
        self.staged = slots.map(Box::new);
    }

    fn is_staged(&self, slot: Slot) -> bool {
        self.staged.as_ref().is_some_and(|staged| staged.contains(slot))
    }

    /// Number of keys in a slot.
    #[must_use]
    pub fn slot_len(&self, db: usize, slot: Slot) -> usize {
        self.db(db).and_then(|db| db.slot(slot)).map_or(0, |table| table.len())
    }

    /// The entries of a slot, the expired ones included.
    pub fn slot_entries(&self, db: usize, slot: Slot) -> impl Iterator<Item = EntryRef<'_>> {
        self.db(db).and_then(|db| db.slot(slot)).into_iter().flat_map(|table| table.iter())
    }

    /// The lowest slot from `from` on that holds a key.
    #[must_use]
    pub fn next_occupied_slot(&self, db: usize, from: Slot) -> Option<Slot> {
        self.db(db)?.next_occupied(from)
    }

    /// The entries of a database that are not gone, in the order of their slots.
    pub fn entries(&self, at: At) -> impl Iterator<Item = EntryRef<'_>> {
        let db = self.db(at.db);
        let shown = |slot: &Slot| !self.is_staged(*slot);
        let slots =
            db.into_iter().flat_map(move |db| db.occupied().filter(shown).filter_map(|slot| db.slot(slot)));
        slots.flat_map(|table| table.iter()).filter(move |entry| !self.is_gone(entry, at.now))
    }

    /// Shows some entries of a slot from `cursor` on, the expired ones included; returns the cursor to go on with, 0 at the end.
    /// Keys that are there all the time are shown, some of them perhaps twice.
    pub fn scan_slot(&self, db: usize, slot: Slot, cursor: u64, mut show: impl FnMut(EntryRef<'_>)) -> u64 {
        let table = self.db(db).and_then(|db| db.slot(slot));
        table.map_or(0, |table| table.scan(cursor, |page| page.iter().for_each(&mut show)))
    }

    /// Shows entries from `cursor` on until at least `count` were looked at; returns the cursor to go on with, 0 at the
    /// end. Keys that are there all the time are shown whatever else changes. The low 14 bits of a cursor are its slot.
    pub fn scan(&self, at: At, cursor: u64, count: usize, mut show: impl FnMut(EntryRef<'_>)) -> u64 {
        let mut seen = 0;
        let mut from = (cursor % u64::from(SLOT_COUNT)) as Slot;
        let mut within = cursor / u64::from(SLOT_COUNT);
        while seen < count {
            let Some(slot) = self.next_occupied_slot(at.db, from) else { return 0 };
            let Some(table) = self.db(at.db).and_then(|db| db.slot(slot)) else { return 0 };
            if slot != from {
                (from, within) = (slot, 0);
            }
            if self.is_staged(slot) {
                seen += 1;
                (from, within) = (slot + 1, 0);
                continue;
            }
            within = table.scan(within, |page| {
                page.iter().filter(|entry| !self.is_gone(entry, at.now)).for_each(&mut show);
                seen += page.len().max(1);
            });
            if within == 0 {
                from += 1;
            }
        }
        match within {
            0 => self.next_occupied_slot(at.db, from).map_or(0, u64::from),
            _ => within * u64::from(SLOT_COUNT) + u64::from(from),
        }
    }

    /// Any key that is not gone; tries a number of times to find one among those that are.
    pub fn random_key(&self, at: At, random: &mut fastrand::Rng) -> Option<&[u8]> {
        const ATTEMPTS: usize = 100;
        let db = self.db(at.db).filter(|db| db.len() > 0)?;
        let mut picks = (0..ATTEMPTS).filter_map(|_| db.nth(random.usize(..db.len())));
        let shown = |key: &[u8]| self.staged.is_none() || !self.is_staged(key_slot(key));
        picks.find(|entry| !self.is_gone(entry, at.now) && shown(entry.key)).map(|entry| entry.key)
    }
}
