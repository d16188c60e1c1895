//! Entries in pages, by linear hashing: what the keys of a slot stand in, and the fields of a large hash or set.
//!
//! One page at a time is split when they fill, and merged when they empty, so that growth never pauses for longer than a
//! page takes, whatever the size. Pages adapt to their content, so it costs no memory that some are split and others are
//! not yet.
//!
//! Source: Litwin, "Linear hashing: a new tool for file and table addressing", VLDB 1980.

use std::hash::BuildHasher;

use foldhash::quality::RandomState;
use smallvec::SmallVec;

use super::entry::{EntryRef, Meta};
use super::page::{NewValue, Page};
use super::value::Value;

/// Entries of a page on average, above which one more page is made.
const PAGE_ENTRIES: usize = 40;
/// Bytes of entries of a page on average, above which one more page is made.
const PAGE_BYTES: usize = 4096;
/// A quarter of what splits pages merges them.
const MERGE_FRACTION: usize = 4;

/// A hash of a key, and what is made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// Whose pages they are: makes the hashes of keys, and sees a page before it changes.
pub(super) trait Owner {
    /// The hash of a key.
    fn hash(&self, key: &[u8]) -> KeyHash;

    /// A page without entries.
    fn new_page(&self) -> Page {
        Page::default()
    }

    /// An entry of this page is about to be added, changed or removed.
    fn before(&mut self, _page: &mut Page) {}
}

/// The place of an entry, until the pages change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) page: usize,
    pub(super) index: usize,
}

/// Entries in pages.
#[derive(Clone, Debug, Default)]
pub(super) struct Pages {
    /// Most slots have one page, which is found without another step.
    list: SmallVec<[Page; 1]>,
    len: usize,
    /// Bytes of entries in pages.
    live_bytes: usize,
    /// Bytes of pages and objects.
    memory: usize,
}

impl Pages {
    /// Number of entries.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes that they take.
    pub(super) fn memory(&self) -> usize {
        self.memory + self.spilled()
    }

    /// Bytes of the list of pages, if it is not in here.
    fn spilled(&self) -> usize {
        if self.list.spilled() { self.list.capacity() * size_of::<Page>() } else { 0 }
    }

    /// The same as [`Pages::memory`], counted anew; checks the other accounts on the way.
    #[cfg(test)]
    pub(super) fn recount(&self) -> usize {
        assert_eq!(self.len, self.iter().count());
        assert_eq!(self.live_bytes, self.list.iter().map(Page::live_bytes).sum::<usize>());
        self.list.iter().map(Page::memory).sum::<usize>() + self.spilled()
    }

    pub(super) fn list(&self) -> &[Page] {
        &self.list
    }

    pub(super) fn page_mut(&mut self, page: usize) -> Option<&mut Page> {
        self.list.get_mut(page)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = EntryRef<'_>> {
        self.list.iter().flat_map(Page::iter)
    }

    /// The low bits of a hash that every page is addressed by; those below the split point take one more.
    fn level(&self) -> u32 {
        self.list.len().max(1).ilog2()
    }

    pub(super) fn page_of(&self, hash: KeyHash) -> usize {
        let level = self.level();
        let wide = (hash.0 & ((2 << level) - 1)) as usize;
        if wide < self.list.len() { wide } else { wide & ((1 << level) - 1) }
    }

    /// The page that the page `last` is or would be split from, if it is the last one.
    pub(super) fn origin(last: usize) -> usize {
        last - (1 << last.max(1).ilog2())
    }

    #[inline]
    pub(super) fn find(&self, hash: KeyHash, key: &[u8]) -> Option<Place> {
        let page = self.page_of(hash);
        let index = self.list.get(page)?.find(hash.tag(), key)?;
        Some(Place { page, index })
    }

    /// Touches the page of a key.
    pub(super) fn warm_page(&self, hash: KeyHash) -> usize {
        self.list.get(self.page_of(hash)).map_or(0, Page::len)
    }

    /// Touches the directory of the page of a key.
    pub(super) fn warm_directory(&self, hash: KeyHash) -> usize {
        self.list.get(self.page_of(hash)).map_or(0, Page::warm_directory)
    }

    /// Touches what is likely to be the entry of a key.
    pub(super) fn warm_entry(&self, hash: KeyHash) -> usize {
        self.list.get(self.page_of(hash)).map_or(0, |page| page.warm_entry(hash.tag()))
    }

    #[inline]
    pub(super) fn entry(&self, place: Place) -> Option<EntryRef<'_>> {
        self.list.get(place.page)?.entry(place.index)
    }

    /// When an entry expires; 0: never.
    pub(super) fn expire_at(&self, place: Place) -> u64 {
        self.list.get(place.page).map_or(0, |page| page.expire_at(place.index))
    }

    /// Changes a page after its owner has seen it, and keeps the accounts.
    fn change<R>(
        &mut self,
        owner: &mut impl Owner,
        page: usize,
        change: impl FnOnce(&mut Page) -> R,
    ) -> Option<R> {
        let page = self.list.get_mut(page)?;
        owner.before(page);
        let (memory, live) = (page.memory(), page.live_bytes());
        let result = change(page);
        self.memory = (self.memory + page.memory()).saturating_sub(memory);
        self.live_bytes = (self.live_bytes + page.live_bytes()).saturating_sub(live);
        Some(result)
    }

    /// Changes an object, in place.
    pub(super) fn change_object<R>(
        &mut self,
        owner: &mut impl Owner,
        place: Place,
        change: impl FnOnce(&mut Value) -> R,
    ) -> Option<R> {
        self.change(owner, place.page, |page| page.change_object(place.index, change))?
    }

    /// Sets what a key holds. `found` is its place, if it has one. Returns the object that it held.
    pub(super) fn insert(
        &mut self,
        owner: &mut impl Owner,
        hash: KeyHash,
        found: Option<Place>,
        key: &[u8],
        value: NewValue<'_>,
        meta: Meta,
    ) -> Option<Value> {
        if self.list.is_empty() {
            self.list.push(owner.new_page());
        }
        let len = Page::entry_len(key, &value, meta);
        let is_string = matches!(value, NewValue::Inline { .. });
        let (mut value, mut place) = (Some(value), found);
        let object = loop {
            let done = self.change(owner, self.page_of(hash), |page| {
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
            self.split_next(owner);
            place = self.find(hash, key);
        };
        self.len += usize::from(found.is_none());
        self.grow(owner);
        object
    }

    /// Removes an entry; returns the object that it held, and whether pages were merged. None stay where no entry does.
    pub(super) fn remove(&mut self, owner: &mut impl Owner, place: Place) -> (Option<Value>, bool) {
        let Some(object) = self.change(owner, place.page, |page| page.remove(place.index)) else {
            return (None, false);
        };
        self.len = self.len.saturating_sub(1);
        if self.len == 0 {
            *self = Self::default();
            return (object, false);
        }
        (object, self.shrink(owner))
    }

    /// Sets when an entry expires (0: never).
    pub(super) fn set_expire(
        &mut self,
        owner: &mut impl Owner,
        hash: KeyHash,
        key: &[u8],
        expire_at: u64,
    ) -> Option<()> {
        let mut place = self.find(hash, key)?;
        while self.change(owner, place.page, |page| {
            let room = page.reserve(page.len_expiring(place.index, expire_at));
            room.is_ok_and(|()| page.set_expire(place.index, expire_at).is_some())
        }) == Some(false)
        {
            self.split_next(owner);
            place = self.find(hash, key)?;
        }
        Some(())
    }

    /// Notes how an entry was used. That is no change of the data.
    pub(super) fn set_access(&mut self, place: Place, access: u32) {
        let Some(page) = self.list.get_mut(place.page) else { return };
        let (memory, live) = (page.memory(), page.live_bytes());
        page.set_access(place.index, access);
        self.memory = (self.memory + page.memory()).saturating_sub(memory);
        self.live_bytes = (self.live_bytes + page.live_bytes()).saturating_sub(live);
    }

    fn grow(&mut self, owner: &mut impl Owner) {
        let pages = self.list.len();
        if self.len > pages * PAGE_ENTRIES || (self.live_bytes > pages * PAGE_BYTES && self.len > pages * 4) {
            self.split_next(owner);
        }
    }

    /// Makes one more page, of entries of the page whose turn it is.
    fn split_next(&mut self, owner: &mut impl Owner) {
        let level = self.level();
        let source = Self::origin(self.list.len());
        let Some(page) = self.list.get_mut(source) else { return };
        owner.before(page);
        let (memory, live) = (page.memory(), page.live_bytes());
        let moved = page.split(|key| owner.hash(key).0 >> level & 1 == 1);
        self.memory = (self.memory + page.memory() + moved.memory()).saturating_sub(memory);
        self.live_bytes = (self.live_bytes + page.live_bytes() + moved.live_bytes()).saturating_sub(live);
        if self.list.len() == self.list.capacity() {
            self.list.reserve_exact(self.list.len() / 8 + 1);
        }
        self.list.push(moved);
    }

    /// Merges two pages if they became empty enough. Returns whether it did.
    fn shrink(&mut self, owner: &mut impl Owner) -> bool {
        let pages = self.list.len();
        let few = self.len < pages * PAGE_ENTRIES / MERGE_FRACTION;
        if !few || self.live_bytes > pages * PAGE_BYTES / MERGE_FRACTION || pages < 2 {
            return false;
        }
        let Some(mut last) = self.list.pop() else { return false };
        owner.before(&mut last);
        let (memory, live) = (last.memory(), last.live_bytes());
        if let Some(Err((_, last))) =
            self.change(owner, Self::origin(self.list.len()), |page| page.merge(last))
        {
            self.list.push(last);
            return false;
        }
        self.memory = self.memory.saturating_sub(memory);
        self.live_bytes = self.live_bytes.saturating_sub(live);
        if self.list.capacity() > self.list.len() * 2 {
            self.list.shrink_to_fit();
        }
        true
    }

    /// Shows the pages at `cursor` and returns the cursor to go on with, 0 at the end. An entry that is there all the
    /// time is shown, however the pages are split or merged between two calls.
    ///
    /// The cursor counts in the hash's low bits from the highest to the lowest, as Redis' `dictScan` does: pages that
    /// were split or merged since are then either all before it or all behind it.
    pub(super) fn scan(&self, cursor: u64, mut show: impl FnMut(&Page)) -> u64 {
        let level = self.level();
        let mask = (1_u64 << level) - 1;
        let page = cursor & mask;
        let buddy = page | 1 << level;
        for page in [page, buddy] {
            if let Some(page) = usize::try_from(page).ok().and_then(|page| self.list.get(page)) {
                show(page);
            }
        }
        // Set the bits above the level, and count up in reverse: that carries into them at the end.
        (cursor | !mask).reverse_bits().wrapping_add(1).reverse_bits()
    }
}
