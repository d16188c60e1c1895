//! The fields of a large hash, or the members of a large set (which have empty values): [`Pages`], as keys stand in.

use foldhash::quality::RandomState;

use super::counts::Counts;
use super::part::{Element, PagesShown, Tap, Tapped};
use crate::keyspace::entry::{EntryRef, Meta};
use crate::keyspace::page::{NewValue, Page};
use crate::keyspace::pages::{KeyHash, Owner, Pages, Place};

/// Fields with values, or members.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields {
    pages: Pages,
    /// The numbers of entries of the pages.
    counts: Counts,
    hasher: Hasher,
}

#[derive(Clone, Debug, Default)]
struct Hasher {
    state: RandomState,
    shown: Tapped<PagesShown>,
}

impl Owner for Hasher {
    fn hash(&self, key: &[u8]) -> KeyHash {
        KeyHash::of(&self.state, key)
    }

    fn new_page(&self) -> Page {
        Page::new(self.shown.peek().map_or(0, |shown| shown.version))
    }

    fn before(&mut self, page: &mut Page) {
        if let Some(shown) = self.shown.get() {
            shown.before(page);
        }
    }
}

fn texts(entry: EntryRef<'_>) -> (&[u8], &[u8]) {
    (entry.key, entry.value.string().unwrap_or_default())
}

impl Fields {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.pages.len()
    }

    fn find(&self, field: &[u8]) -> Option<Place> {
        self.pages.find(self.hasher.hash(field), field)
    }

    /// Whether there is such a field.
    pub(super) fn contains(&self, field: &[u8]) -> bool {
        self.find(field).is_some()
    }

    /// The value of a field.
    pub(super) fn get(&self, field: &[u8]) -> Option<&[u8]> {
        self.pages.entry(self.find(field)?).map(|entry| texts(entry).1)
    }

    /// Sets a field. Returns whether it is a new one.
    pub(super) fn set(&mut self, field: &[u8], value: &[u8]) -> bool {
        let hash = self.hasher.hash(field);
        let found = self.pages.find(hash, field);
        self.pages.insert(&mut self.hasher, hash, found, field, NewValue::string(value), Meta::default());
        self.recount(self.pages.page_of(hash));
        found.is_none()
    }

    /// Removes a field. Returns whether there was one.
    pub(super) fn remove(&mut self, field: &[u8]) -> bool {
        let place = self.find(field);
        place.into_iter().for_each(|place| self.remove_at(place));
        place.is_some()
    }

    fn remove_at(&mut self, place: Place) {
        self.pages.remove(&mut self.hasher, place);
        self.recount(place.page);
    }

    /// Takes out what is at a position below the length; returns the field.
    pub(super) fn take_nth(&mut self, index: usize) -> Option<Box<[u8]>> {
        let place = self.place(index)?;
        let field = self.pages.entry(place)?.key.into();
        self.remove_at(place);
        Some(field)
    }

    /// Takes notice of how many entries this page has, and those that were split off or merged.
    fn recount(&mut self, page: usize) {
        let pages = self.pages.list();
        let len = |page: usize| pages.get(page).map_or(0, Page::len);
        while self.counts.len() > pages.len() {
            self.counts.pop();
            let target = Pages::origin(self.counts.len().max(1));
            self.counts.set(target, len(target));
        }
        while self.counts.len() < pages.len() {
            let (new, source) = (self.counts.len(), Pages::origin(self.counts.len().max(1)));
            self.counts.push(len(new));
            self.counts.set(source, len(source));
        }
        self.counts.set(page, len(page));
    }

    fn place(&self, index: usize) -> Option<Place> {
        let (page, index) = self.counts.find(index)?;
        Some(Place { page, index })
    }

    /// The field at a position below the length, with its value; positions change with every change.
    pub(super) fn nth(&self, index: usize) -> Option<(&[u8], &[u8])> {
        self.pages.entry(self.place(index)?).map(texts)
    }

    /// All, in no particular order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.pages.iter().map(texts)
    }

    /// Shows at least `count` fields, in whole pages; returns the cursor to go on with, 0 at the end. What is there all
    /// the time is shown, whatever else changes.
    pub(super) fn scan(&self, mut cursor: u64, count: usize, mut show: impl FnMut(&[u8], &[u8])) -> u64 {
        let mut seen = 0;
        loop {
            cursor = self.pages.scan(cursor, |page| {
                seen += page.len();
                page.iter().map(texts).for_each(|(field, value)| show(field, value));
            });
            if cursor == 0 || seen >= count {
                return cursor;
            }
        }
    }

    /// Has all shown in parts. `version` is a number that no page has.
    pub(super) fn set_tap(
        &mut self,
        tap: Tap,
        version: u32,
        element: for<'a> fn(&'a [u8], &'a [u8]) -> Element<'a>,
    ) {
        self.hasher.shown.set(PagesShown::new(tap, version, element));
    }

    /// What was set in.
    pub(super) fn tap(&self) -> Option<&Tap> {
        self.hasher.shown.tap()
    }

    /// Shows some pages. Returns whether there were any left.
    pub(super) fn show_more(&mut self) -> bool {
        const PAGES: usize = 4;
        let Some(shown) = self.hasher.shown.get() else { return false };
        let mut pages =
            (0..PAGES).map_while(|_| self.pages.page_mut(shown.advance()).map(|page| shown.before(page)));
        pages.by_ref().count() > 0
    }

    /// Bytes that it takes.
    pub(super) fn memory(&self) -> usize {
        size_of::<Self>() + self.pages.memory() + self.counts.memory()
    }

    /// [`Fields::memory`] without the use of counters.
    #[cfg(test)]
    pub(super) fn recounted(&self) -> usize {
        for (page, index) in self.pages.list().iter().zip(0..) {
            assert_eq!(self.counts.get(index), page.len());
        }
        assert_eq!(self.counts.len(), self.pages.list().len());
        size_of::<Self>() + self.pages.recount() + self.counts.memory()
    }
}
