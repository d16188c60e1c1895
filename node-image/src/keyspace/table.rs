//! The entries of one slot: pages by linear hashing.
//!
//! One page at a time is split when the table fills, and merged when it empties, so that growth never pauses for longer
//! than a page takes, whatever the size. Pages adapt to their content, so it costs no memory that some are split and
//! others are not yet.
//!
//! Source: Litwin, "Linear hashing: a new tool for file and table addressing", VLDB 1980.

use std::hash::BuildHasher;

use foldhash::quality::RandomState;
use kv_core::slot::Slot;
use smallvec::SmallVec;

use super::WriteObserver;
use super::entry::{EntryRef, Meta};
use super::page::{NewValue, Page};
use super::value::Value;

/// Entries of a page on average, above which one more page is made.
const PAGE_ENTRIES: usize = 40;
/// Bytes of entries of a page on average, above which one more page is made.
const PAGE_BYTES: usize = 4096;
/// A quarter of what splits a table merges its pages.
const MERGE_FRACTION: usize = 4;

/// A hash of a key, and what is made of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyHash(u64);

impl KeyHash {
    pub(super) fn of(hasher: &RandomState, key: &[u8]) -> Self {
        Self(hasher.hash_one(key))
    }

    /// The tag in a page: the highest bits, never 0.
    fn tag(self) -> u8 {
        ((self.0 >> 56) as u8).max(1)
    }
}

/// Who has to see a page before it changes.
pub(super) struct Watch<'a> {
    pub(super) db: usize,
    pub(super) slot: Slot,
    /// Number of the current snapshot.
    pub(super) version: u32,
    pub(super) observer: Option<&'a mut Box<dyn WriteObserver>>,
    pub(super) hasher: &'a RandomState,
}

impl Watch<'_> {
    fn before(&mut self, page: &mut Page) {
        if page.version != self.version {
            page.version = self.version;
            if let Some(observer) = &mut self.observer {
                observer.before_write(self.db, self.slot, page);
            }
        }
    }
}

/// The place of an entry in a table, until the table changes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    page: usize,
    index: usize,
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
    /// Most tables have one page, which is found without another step.
    pages: SmallVec<[Page; 1]>,
    len: usize,
    /// Bytes of entries in pages.
    live_bytes: usize,
    /// Bytes of pages and objects.
    memory: usize,
    /// How many entries have a time to live.
    pub(super) expiring: usize,
    /// No entry expires before this.
    pub(super) soonest: u64,
}

impl Default for SlotTable {
    fn default() -> Self {
        Self { pages: SmallVec::new(), len: 0, live_bytes: 0, memory: 0, expiring: 0, soonest: u64::MAX }
    }
}

impl SlotTable {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that it takes.
    pub(super) fn memory(&self) -> usize {
        self.memory + self.spilled()
    }

    /// Bytes of the list of pages, if it is not in the table itself.
    fn spilled(&self) -> usize {
        if self.pages.spilled() { self.pages.capacity() * size_of::<Page>() } else { 0 }
    }

    /// The same, counted anew; checks the other accounts on the way.
    #[cfg(test)]
    pub(super) fn recount(&self) -> usize {
        assert_eq!(self.len, self.iter().count());
        assert_eq!(self.expiring, self.iter().filter(|entry| entry.expire_at != 0).count());
        assert_eq!(self.live_bytes, self.pages.iter().map(Page::live_bytes).sum::<usize>());
        self.pages.iter().map(Page::memory).sum::<usize>() + self.spilled()
    }

    pub(super) fn pages(&self) -> &[Page] {
        &self.pages
    }

    pub(super) fn page_mut(&mut self, page: usize) -> Option<&mut Page> {
        self.pages.get_mut(page)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = EntryRef<'_>> {
        self.pages.iter().flat_map(Page::iter)
    }

    /// The entry at a place of its own among all, or none if `index` is not below their number.
    pub(super) fn nth(&self, mut index: usize) -> Option<EntryRef<'_>> {
        for page in &self.pages {
            if index < page.len() {
                return page.entry(index);
            }
            index -= page.len();
        }
        None
    }

    /// The low bits of a hash that every page is addressed by; those below the split point take one more.
    fn level(&self) -> u32 {
        self.pages.len().max(1).ilog2()
    }

    fn page_of(&self, hash: KeyHash) -> usize {
        let level = self.level();
        let wide = (hash.0 & ((2 << level) - 1)) as usize;
        if wide < self.pages.len() { wide } else { wide & ((1 << level) - 1) }
    }

    #[inline]
    pub(super) fn find(&self, hash: KeyHash, key: &[u8]) -> Option<Place> {
        let page = self.page_of(hash);
        let index = self.pages.get(page)?.find(hash.tag(), key)?;
        Some(Place { page, index })
    }

    /// Touches the page of a key.
    pub(super) fn warm_page(&self, hash: KeyHash) -> usize {
        self.pages.get(self.page_of(hash)).map_or(0, Page::len)
    }

    /// Touches the directory of the page of a key.
    pub(super) fn warm_directory(&self, hash: KeyHash) -> usize {
        self.pages.get(self.page_of(hash)).map_or(0, Page::warm_directory)
    }

    /// Touches what is likely to be the entry of a key.
    pub(super) fn warm_entry(&self, hash: KeyHash) -> usize {
        self.pages.get(self.page_of(hash)).map_or(0, |page| page.warm_entry(hash.tag()))
    }

    #[inline]
    pub(super) fn entry(&self, place: Place) -> Option<EntryRef<'_>> {
        self.pages.get(place.page)?.entry(place.index)
    }

    /// Changes a page after everyone has seen it, and keeps the accounts.
    fn change<R>(
        &mut self,
        watch: &mut Watch<'_>,
        page: usize,
        change: impl FnOnce(&mut Page) -> R,
    ) -> Option<R> {
        let page = self.pages.get_mut(page)?;
        watch.before(page);
        let (memory, live) = (page.memory(), page.live_bytes());
        let result = change(page);
        self.memory = (self.memory + page.memory()).saturating_sub(memory);
        self.live_bytes = (self.live_bytes + page.live_bytes()).saturating_sub(live);
        Some(result)
    }

    /// Changes an object, in place.
    pub(super) fn change_object<R>(
        &mut self,
        watch: &mut Watch<'_>,
        place: Place,
        change: impl FnOnce(&mut Value) -> R,
    ) -> Option<R> {
        self.change(watch, place.page, |page| page.change_object(place.index, change))?
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
        if self.pages.is_empty() {
            self.pages.push(Page::new(watch.version));
        }
        let before = found.map_or(0, |found| self.expire_at(found));
        let len = Page::entry_len(key, &value, meta);
        let is_string = matches!(value, NewValue::Inline { .. });
        let (mut value, mut place) = (Some(value), found);
        let object = loop {
            let done = self.change(watch, self.page_of(hash), |page| {
                let fits = is_string && place.is_some_and(|place| page.fits_in_place(place.index, len));
                if !fits {
                    page.reserve(len).ok()?;
                }
                let value = value.take()?;
                Some(match place {
                    Some(place) => page.replace(place.index, key, value, meta),
                    None => {
                        page.insert(hash.tag(), key, value, meta);
                        None
                    }
                })
            })?;
            if let Some(object) = done {
                break object;
            }
            // The page is as large as pages get, which takes many times what it has on average: it is split in turn.
            self.split_next(watch);
            place = self.find(hash, key);
        };
        self.count_expiry(before, meta.expire_at);
        self.len += usize::from(found.is_none());
        self.grow(watch);
        found.map(|_| Gone { object, expire_at: before })
    }

    /// Removes an entry.
    pub(super) fn remove(&mut self, watch: &mut Watch<'_>, place: Place) -> Option<Gone> {
        let expire_at = self.expire_at(place);
        let object = self.change(watch, place.page, |page| page.remove(place.index))?;
        self.len = self.len.saturating_sub(1);
        self.count_expiry(expire_at, 0);
        if self.len == 0 {
            *self = Self::default();
        } else {
            self.shrink(watch);
        }
        Some(Gone { object, expire_at })
    }

    fn expire_at(&self, place: Place) -> u64 {
        self.pages.get(place.page).map_or(0, |page| page.expire_at(place.index))
    }

    /// Sets when an entry expires (0: never); returns when it did until now.
    pub(super) fn set_expire(
        &mut self,
        watch: &mut Watch<'_>,
        hash: KeyHash,
        key: &[u8],
        expire_at: u64,
    ) -> Option<u64> {
        let mut place = self.find(hash, key)?;
        let before = self.expire_at(place);
        while self.change(watch, place.page, |page| {
            let room = page.reserve(page.len_expiring(place.index, expire_at));
            room.is_ok_and(|()| page.set_expire(place.index, expire_at).is_some())
        }) == Some(false)
        {
            self.split_next(watch);
            place = self.find(hash, key)?;
        }
        self.count_expiry(before, expire_at);
        Some(before)
    }

    /// Notes how an entry was used. That is no change of the data.
    pub(super) fn set_access(&mut self, place: Place, access: u32) {
        let Some(page) = self.pages.get_mut(place.page) else { return };
        let (memory, live) = (page.memory(), page.live_bytes());
        page.set_access(place.index, access);
        self.memory = (self.memory + page.memory()).saturating_sub(memory);
        self.live_bytes = (self.live_bytes + page.live_bytes()).saturating_sub(live);
    }

    /// Any entry of any page; `only` says which are wanted. A few are tried.
    pub(super) fn sample(
        &self,
        random: &mut fastrand::Rng,
        only: impl Fn(&EntryRef<'_>) -> bool,
    ) -> Option<EntryRef<'_>> {
        let page = self.pages.get(random.usize(..self.pages.len().max(1)))?;
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

    fn grow(&mut self, watch: &mut Watch<'_>) {
        let pages = self.pages.len();
        if self.len > pages * PAGE_ENTRIES || (self.live_bytes > pages * PAGE_BYTES && self.len > pages * 4) {
            self.split_next(watch);
        }
    }

    /// Makes one more page, of entries of the page whose turn it is.
    fn split_next(&mut self, watch: &mut Watch<'_>) {
        let level = self.level();
        let source = self.pages.len() - (1 << level);
        let hasher = watch.hasher;
        let moved =
            self.change(watch, source, |page| page.split(|key| KeyHash::of(hasher, key).0 >> level & 1 == 1));
        let Some(page) = moved else { return };
        self.memory += page.memory();
        self.live_bytes += page.live_bytes();
        if self.pages.len() == self.pages.capacity() {
            self.pages.reserve_exact(self.pages.len() / 8 + 1);
        }
        self.pages.push(page);
    }

    fn shrink(&mut self, watch: &mut Watch<'_>) {
        let pages = self.pages.len();
        let few = self.len < pages * PAGE_ENTRIES / MERGE_FRACTION;
        if !few || self.live_bytes > pages * PAGE_BYTES / MERGE_FRACTION || pages < 2 {
            return;
        }
        let Some(mut last) = self.pages.pop() else { return };
        watch.before(&mut last);
        let (memory, live) = (last.memory(), last.live_bytes());
        let target = self.pages.len() - (1 << self.level());
        match self.change(watch, target, |page| page.merge(last)) {
            Some(Err((_, last))) => self.pages.push(last),
            _ => {
                self.memory = self.memory.saturating_sub(memory);
                self.live_bytes = self.live_bytes.saturating_sub(live);
                if self.pages.capacity() > self.pages.len() * 2 {
                    self.pages.shrink_to_fit();
                }
                if self.expiring > 0 {
                    // Entries moved to a page that a search for expired ones may have passed already.
                    self.soonest = 0;
                }
            }
        }
    }

    /// Shows the pages at `cursor` and returns the cursor to go on with, 0 at the end. An entry that is there all the
    /// time is shown, however the table grows or shrinks between two calls.
    ///
    /// The cursor counts in the hash's low bits from the highest to the lowest, as Redis' `dictScan` does: pages that
    /// were split or merged since are then either all before it or all behind it.
    pub(super) fn scan(&self, cursor: u64, mut show: impl FnMut(&Page)) -> u64 {
        let level = self.level();
        let mask = (1_u64 << level) - 1;
        let page = cursor & mask;
        let buddy = page | 1 << level;
        for page in [page, buddy] {
            if let Some(page) = usize::try_from(page).ok().and_then(|page| self.pages.get(page)) {
                show(page);
            }
        }
        // Set the bits above the level, and count up in reverse: that carries into them at the end.
        (cursor | !mask).reverse_bits().wrapping_add(1).reverse_bits()
    }
}
