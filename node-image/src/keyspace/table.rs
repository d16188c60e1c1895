//! The keys of one slot: [`Pages`], with an account of what expires.

use foldhash::quality::RandomState;
use kv_core::slot::Slot;

use super::WriteObserver;
use super::entry::{EntryRef, Meta};
use super::page::{NewValue, Page};
pub(super) use super::pages::{KeyHash, Place};
use super::pages::{Owner, Pages};
use super::value::Value;

/// Who has to see a page before it changes.
pub(super) struct Watch<'a> {
    pub(super) db: usize,
    pub(super) slot: Slot,
    /// Number of the current snapshot.
    pub(super) version: u32,
    pub(super) observer: Option<&'a mut Box<dyn WriteObserver>>,
    pub(super) hasher: &'a RandomState,
}

impl Owner for Watch<'_> {
    fn hash(&self, key: &[u8]) -> KeyHash {
        KeyHash::of(self.hasher, key)
    }

    fn new_page(&self) -> Page {
        Page::new(self.version)
    }

    fn before(&mut self, page: &mut Page) {
        if page.version != self.version {
            page.version = self.version;
            if let Some(observer) = &mut self.observer {
                observer.before_write(self.db, self.slot, page);
            }
        }
    }
}

/// What went from a table.
#[derive(Debug)]
pub(super) struct Gone {
    /// The value, if it was more than a string in a page.
    pub(super) object: Option<Value>,
    /// When it would have expired; 0: never.
    pub(super) expire_at: u64,
}

/// The entries of one slot.
#[derive(Debug)]
pub(super) struct SlotTable {
    pages: Pages,
    /// How many entries have a time to live.
    pub(super) expiring: usize,
    /// No entry expires before this.
    pub(super) soonest: u64,
}

impl Default for SlotTable {
    fn default() -> Self {
        Self { pages: Pages::default(), expiring: 0, soonest: u64::MAX }
    }
}

impl SlotTable {
    pub(super) fn len(&self) -> usize {
        self.pages.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pages.len() == 0
    }

    /// Bytes that it takes.
    pub(super) fn memory(&self) -> usize {
        self.pages.memory()
    }

    /// The same, counted anew; checks the other accounts on the way.
    #[cfg(test)]
    pub(super) fn recount(&self) -> usize {
        assert_eq!(self.expiring, self.iter().filter(|entry| entry.expire_at != 0).count());
        self.pages.recount()
    }

    pub(super) fn pages(&self) -> &[Page] {
        self.pages.list()
    }

    pub(super) fn page_mut(&mut self, page: usize) -> Option<&mut Page> {
        self.pages.page_mut(page)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = EntryRef<'_>> {
        self.pages.iter()
    }

    /// The entry at a place of its own among all, or none if `index` is not below their number.
    pub(super) fn nth(&self, mut index: usize) -> Option<EntryRef<'_>> {
        for page in self.pages() {
            if index < page.len() {
                return page.entry(index);
            }
            index -= page.len();
        }
        None
    }

    #[inline]
    pub(super) fn find(&self, hash: KeyHash, key: &[u8]) -> Option<Place> {
        self.pages.find(hash, key)
    }

    /// Touches the page of a key.
    pub(super) fn warm_page(&self, hash: KeyHash) -> usize {
        self.pages.warm_page(hash)
    }

    /// Touches the directory of the page of a key.
    pub(super) fn warm_directory(&self, hash: KeyHash) -> usize {
        self.pages.warm_directory(hash)
    }

    /// Touches what is likely to be the entry of a key.
    pub(super) fn warm_entry(&self, hash: KeyHash) -> usize {
        self.pages.warm_entry(hash)
    }

    #[inline]
    pub(super) fn entry(&self, place: Place) -> Option<EntryRef<'_>> {
        self.pages.entry(place)
    }

    /// When an entry expires; 0: never.
    #[inline]
    pub(super) fn expire_at(&self, place: Place) -> u64 {
        if self.expiring == 0 { 0 } else { self.pages.expire_at(place) }
    }

    /// Changes an object, in place.
    pub(super) fn change_object<R>(
        &mut self,
        watch: &mut Watch<'_>,
        place: Place,
        change: impl FnOnce(&mut Value) -> R,
    ) -> Option<R> {
        self.pages.change_object(watch, place, change)
    }

    /// Sets what a key holds. `found` is its place, if it has one.
    pub(super) fn insert(
        &mut self,
        watch: &mut Watch<'_>,
        hash: KeyHash,
        found: Option<Place>,
        key: &[u8],
        value: NewValue<'_>,
        meta: Meta,
    ) -> Option<Gone> {
        let before = found.map_or(0, |found| self.expire_at(found));
        let object = self.pages.insert(watch, hash, found, key, value, meta);
        self.count_expiry(before, meta.expire_at);
        found.map(|_| Gone { object, expire_at: before })
    }

    /// Removes an entry.
    pub(super) fn remove(&mut self, watch: &mut Watch<'_>, place: Place) -> Option<Gone> {
        self.pages.entry(place)?;
        let expire_at = self.expire_at(place);
        let (object, merged) = self.pages.remove(watch, place);
        self.count_expiry(expire_at, 0);
        if merged && self.expiring > 0 {
            // Entries moved to a page that a search for expired ones may have passed already.
            self.soonest = 0;
        }
        Some(Gone { object, expire_at })
    }

    /// Sets when an entry expires (0: never); returns when it did until now.
    pub(super) fn set_expire(
        &mut self,
        watch: &mut Watch<'_>,
        hash: KeyHash,
        key: &[u8],
        expire_at: u64,
    ) -> Option<u64> {
        let before = self.pages.expire_at(self.pages.find(hash, key)?);
        self.pages.set_expire(watch, hash, key, expire_at)?;
        self.count_expiry(before, expire_at);
        Some(before)
    }

    /// Notes how an entry was used. That is no change of the data.
    pub(super) fn set_access(&mut self, place: Place, access: u32) {
        self.pages.set_access(place, access);
    }

    /// Any entry of any page; `only` says which are wanted. A few are tried.
    pub(super) fn sample(
        &self,
        random: &mut fastrand::Rng,
        only: impl Fn(&EntryRef<'_>) -> bool,
    ) -> Option<EntryRef<'_>> {
        let page = self.pages().get(random.usize(..self.pages().len().max(1)))?;
        let from = random.usize(..page.len().max(1));
        (from..page.len()).chain(0..from).filter_map(|index| page.entry(index)).find(only)
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

    /// See [`Pages::scan`].
    pub(super) fn scan(&self, cursor: u64, show: impl FnMut(&Page)) -> u64 {
        self.pages.scan(cursor, show)
    }
}
