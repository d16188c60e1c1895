//! Showing a large collection as it is at one moment, in parts, while it goes on to change.
//!
//! A [`Tap`] is set into the collection. From then on whatever is about to change is shown first, unless it was shown
//! already; the rest is asked for bit by bit ([`Value::show_more`]). So every element of that moment is shown once. What
//! is removed meanwhile goes to the [`Part`], whose owner goes on there.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Value;
use super::packed::Packed;
use crate::keyspace::page::{Page, Showing};

/// Collections that take more bytes than this are shown in parts.
const IN_PARTS: usize = 16 * 1024;

/// One element of a collection.
#[derive(Clone, Copy, Debug)]
pub enum Element<'a> {
    /// Of a list, or of a set.
    One(&'a [u8]),
    /// A field and its value.
    Pair(&'a [u8], &'a [u8]),
    /// A member and its score.
    Scored(&'a [u8], f64),
}

/// Takes elements as they are shown: all that it is given.
pub type Sink = Box<dyn FnMut(&mut dyn Iterator<Item = Element<'_>>) + Send>;

struct Shown {
    sink: Sink,
    /// How many elements are still to be shown.
    left: usize,
    /// Nobody wants to see more.
    over: bool,
    db: usize,
    key: Box<[u8]>,
    /// The collection, if it is not in the keyspace any more.
    removed: Option<Value>,
}

/// Where the rest of a collection is.
pub(in crate::keyspace) enum Whereabouts {
    /// What this key holds.
    Key(usize, Box<[u8]>),
    /// Not in the keyspace any more.
    Removed(Value),
}

/// A collection that is shown in parts. When it is dropped, no more is shown.
#[derive(Debug)]
pub struct Part(Tap);

impl Part {
    /// Of a collection of so many elements that a key holds: what is to be set into it, and its counterpart.
    #[must_use]
    pub fn new(db: usize, key: &[u8], elements: usize, sink: Sink) -> (Self, Tap) {
        let (left, over, removed) = (elements, false, None);
        let tap = Tap(Arc::new(Mutex::new(Shown { sink, left, over, db, key: key.into(), removed })));
        (Self(tap.clone()), tap)
    }

    /// How many elements are still to be shown.
    #[must_use]
    pub fn left(&self) -> usize {
        self.0.lock().left
    }

    pub(in crate::keyspace) fn whereabouts(&self) -> Whereabouts {
        let mut shown = self.0.lock();
        match shown.removed.take() {
            Some(value) => Whereabouts::Removed(value),
            None => Whereabouts::Key(shown.db, shown.key.clone()),
        }
    }

    pub(in crate::keyspace) fn keep(&self, value: Value) {
        self.0.lock().removed = Some(value);
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let mut shown = self.0.lock();
        shown.over = true;
        let removed = shown.removed.take();
        drop(shown);
        drop(removed); // with another tap in it
    }
}

/// What a collection that is shown in parts has in it.
#[derive(Clone)]
pub struct Tap(Arc<Mutex<Shown>>);

impl std::fmt::Debug for Tap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tap").finish_non_exhaustive()
    }
}

impl Tap {
    /// Only the data thread works on it; the lock is there so that a keyspace can be handed to another thread.
    fn lock(&self) -> MutexGuard<'_, Shown> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show<'a>(&self, elements: impl Iterator<Item = Element<'a>>) {
        let shown = &mut *self.lock();
        if !shown.over {
            let mut count = 0;
            (shown.sink)(&mut elements.inspect(|_| count += 1));
            shown.left = shown.left.saturating_sub(count);
        }
    }

    /// Whether all was shown, or nobody wants to see more.
    fn is_done(&self) -> bool {
        let shown = self.lock();
        shown.over || shown.left == 0
    }
}

/// The place for a tap and its account in a collection. Copies of a collection have nothing in it.
#[derive(Debug)]
pub(super) struct Tapped<T>(Option<Box<T>>);

impl<T> Default for Tapped<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T> Clone for Tapped<T> {
    fn clone(&self) -> Self {
        Self(None)
    }
}

/// How a collection keeps account of what was shown.
pub(super) trait Account {
    /// Where the elements go.
    fn tap(&self) -> &Tap;
}

impl<T: Account> Tapped<T> {
    pub(super) fn set(&mut self, account: T) {
        self.0 = Some(Box::new(account));
    }

    /// The account, as long as anything is to be shown.
    #[inline]
    pub(super) fn get(&mut self) -> Option<&mut T> {
        if self.0.as_ref()?.tap().is_done() {
            self.0 = None;
        }
        self.0.as_deref_mut()
    }

    /// The account, if there is one.
    pub(super) fn peek(&self) -> Option<&T> {
        self.0.as_deref()
    }

    pub(super) fn tap(&self) -> Option<&Tap> {
        self.0.as_ref().map(|account| account.tap())
    }
}

macro_rules! accounts {
    ($($type:ident)*) => {$(
        impl Account for $type {
            fn tap(&self) -> &Tap {
                &self.tap
            }
        }
    )*};
}

accounts! { PagesShown ChunksShown ScoresShown }

/// Of pages of fields or members: those of an older version were not shown.
#[derive(Debug)]
pub(super) struct PagesShown {
    tap: Tap,
    pub(super) version: u32,
    element: for<'a> fn(&'a [u8], &'a [u8]) -> Element<'a>,
    next: usize,
}

impl PagesShown {
    pub(super) fn new(
        tap: Tap,
        version: u32,
        element: for<'a> fn(&'a [u8], &'a [u8]) -> Element<'a>,
    ) -> Self {
        Self { tap, version, element, next: 0 }
    }

    /// This page is about to change.
    pub(super) fn before(&mut self, page: &mut Page) {
        if page.version != self.version {
            page.version = self.version;
            let texts = page.iter().map(|entry| (entry.key, entry.value.string().unwrap_or_default()));
            self.tap.show(texts.map(|(field, value)| (self.element)(field, value)));
        }
    }

    /// The number of the page that is to be shown next. Pages before it were shown: what is split off one goes to the
    /// end, and what is merged is shown before that.
    pub(super) fn advance(&mut self) -> usize {
        self.next += 1;
        self.next - 1
    }
}

/// Of the chunks of a list.
#[derive(Debug)]
pub(super) struct ChunksShown {
    tap: Tap,
    /// For each chunk, one more than its number if it is still to be shown; numbers go up.
    marks: VecDeque<u32>,
    /// So many marks at the front are 0.
    clear: usize,
    /// Chunks as they were before they changed, in the order of their numbers.
    saved: BTreeMap<u32, Packed>,
    /// The number of the chunk that is to be shown next.
    next: u32,
}

impl ChunksShown {
    pub(super) fn new(tap: Tap, chunks: usize) -> Self {
        let marks = (1..).take(chunks).collect();
        Self { tap, marks, clear: 0, saved: BTreeMap::new(), next: 0 }
    }

    /// This chunk is about to change.
    pub(super) fn before(&mut self, index: usize, chunk: &Packed) {
        if let Some(mark) = self.marks.get_mut(index).filter(|mark| **mark > 0) {
            self.saved.insert(*mark - 1, chunk.clone());
            *mark = 0;
        }
    }

    /// A new chunk stands here.
    pub(super) fn added(&mut self, index: usize) {
        self.marks.insert(index, 0);
        self.clear += usize::from(index <= self.clear);
    }

    /// Chunks went, which were saved before.
    pub(super) fn removed(&mut self, range: Range<usize>) {
        self.clear -= range.end.min(self.clear).saturating_sub(range.start);
        self.marks.drain(range);
    }

    /// Shows the next chunk. Returns whether there was one.
    pub(super) fn show_next(&mut self, chunks: &VecDeque<Packed>) -> bool {
        let show = |chunk: &Packed| {
            let texts: Vec<_> = chunk.items().map(|item| item.text()).collect();
            self.tap.show(texts.iter().map(|text| Element::One(text)));
        };
        if let Some(chunk) = self.saved.remove(&self.next) {
            show(&chunk);
        } else {
            self.clear += self.marks.iter().skip(self.clear).take_while(|mark| **mark == 0).count();
            let Some((chunk, mark)) = chunks.get(self.clear).zip(self.marks.get_mut(self.clear)) else {
                return false;
            };
            show(chunk);
            *mark = 0;
        }
        self.next += 1;
        true
    }
}

/// Of the members of a sorted set, which are shown in order.
#[derive(Debug)]
pub(super) struct ScoresShown {
    tap: Tap,
    /// The last one that was shown in its turn.
    pub(super) last: Option<(f64, Box<[u8]>)>,
    /// Members that changed, came or went: they were shown before that, if there was anything to show.
    changed: HashSet<Box<[u8]>>,
}

impl ScoresShown {
    pub(super) fn new(tap: Tap) -> Self {
        Self { tap, last: None, changed: HashSet::new() }
    }

    /// A member is about to change, to come or to go; `score` is what it has, if it is there.
    pub(super) fn before(&mut self, member: &[u8], score: Option<f64>) {
        if self.changed.contains(member) {
            return;
        }
        self.changed.insert(member.into());
        let is_ahead = |score: f64| {
            let last = self.last.as_ref().map(|(score, member)| (*score, &**member));
            last.is_none_or(|last| super::ZSet::order((score, member), last).is_gt())
        };
        self.tap.show(score.filter(|score| is_ahead(*score)).map(|s| Element::Scored(member, s)).into_iter());
    }

    /// Shows members whose turn it is.
    pub(super) fn show<'a>(&mut self, members: impl Iterator<Item = (f64, &'a [u8])>) {
        let mut last = None;
        let all = members.inspect(|member| last = Some(*member));
        let fresh = all.filter(|(_, member)| !self.changed.contains(*member));
        self.tap.show(fresh.map(|(score, member)| Element::Scored(member, score)));
        self.last = last.map(|(score, member)| (score, member.into())).or(self.last.take());
    }
}

impl Value {
    /// How it is shown.
    pub(in crate::keyspace) fn showing(&self) -> Showing {
        let is_large = match self {
            Self::Str(value) => return value.share().map_or(Showing::Whole, Showing::Bytes),
            Self::List(value) => value.can_tap(),
            Self::Hash(value) => value.can_tap(),
            Self::Set(value) => value.can_tap(),
            Self::ZSet(value) => value.can_tap(),
        };
        if is_large && self.memory() > IN_PARTS { Showing::Elements } else { Showing::Whole }
    }

    /// Sets a tap in. `version` is the number of the snapshot.
    pub(in crate::keyspace) fn set_tap(&mut self, tap: Tap, version: u32) {
        match self {
            Self::Str(_) => {}
            Self::List(value) => value.set_tap(tap),
            Self::Hash(value) => value.set_tap(tap, version),
            Self::Set(value) => value.set_tap(tap, version),
            Self::ZSet(value) => value.set_tap(tap),
        }
    }

    fn tap(&self) -> Option<&Tap> {
        match self {
            Self::Str(_) => None,
            Self::List(value) => value.tap(),
            Self::Hash(value) => value.tap(),
            Self::Set(value) => value.tap(),
            Self::ZSet(value) => value.tap(),
        }
    }

    /// Shows a bit more of it, which is some kilobytes. Returns whether there was something left to look at.
    pub(in crate::keyspace) fn show_more(&mut self) -> bool {
        match self {
            Self::Str(_) => false,
            Self::List(value) => value.show_more(),
            Self::Hash(value) => value.show_more(),
            Self::Set(value) => value.show_more(),
            Self::ZSet(value) => value.show_more(),
        }
    }

    /// It has another key now.
    pub(in crate::keyspace) fn moved(&self, db: usize, key: &[u8]) {
        if let Some(tap) = self.tap() {
            let mut shown = tap.lock();
            (shown.db, shown.key) = (db, key.into());
        }
    }

    /// It was removed: it goes where the rest of it is to be shown, or is given back.
    pub(in crate::keyspace) fn removed(self) -> Option<Self> {
        let Some(tap) = self.tap().filter(|tap| !tap.is_done()).cloned() else { return Some(self) };
        tap.lock().removed = Some(self);
        None
    }
}
