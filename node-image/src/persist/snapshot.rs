//! Snapshots without a second process: the state of one moment is serialised in steps, while clients go on writing.
//!
//! A [`Walker`] visits the pages of keys in order. It observes the keyspace, too: before anything changes in a page that
//! it did not visit yet, it serialises that page at once. So what it brings out is exactly what was there when it began,
//! and no write waits for more than a page. Large collections and long strings are serialised in parts, one after the
//! other: what other pages bring out meanwhile is kept aside, since what belongs to a key stands together.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kv_core::slot::Slot;

use super::rdb::{Aux, Piece, RdbWriter};
use crate::keyspace::value::{Element, Part, Tap};
use crate::keyspace::{EntryRef, Keyspace, Page, Showing, WriteObserver};

/// How long a step may take, however little it serialised: what is spread over memory takes longer.
const STEP: Duration = Duration::from_millis(1);

/// Bytes of a long string that are serialised at a time.
const TEXT_PART: usize = 64 * 1024;

/// Why a snapshot cannot be finished. It can be begun anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Aborted {
    /// FLUSHALL, FLUSHDB, SWAPDB, or a full synchronisation with a parent.
    #[error("a database was emptied, swapped or replaced while its snapshot was made")]
    Flushed,
    /// Another snapshot was begun, or the keyspace was put away.
    #[error("the keyspace is not observed any more: another snapshot was begun, or it was replaced")]
    NotObserved,
    /// A collection went before all of it was serialised. No command does that.
    #[error("a collection went before all of it was serialised")]
    Lost,
}

/// A snapshot that is being made. A keyspace has room for one at a time: a second one aborts the first.
#[derive(Debug)]
pub struct Walker(Arc<Mutex<Walk>>);

#[derive(Debug)]
struct Walk {
    writer: RdbWriter,
    /// The next page in order; everything before it was visited.
    db: usize,
    slot: Slot,
    page: usize,
    /// What is serialised in parts, of visited pages.
    parts: VecDeque<InParts>,
    /// What comes after the first of them, once its head is written.
    aside: Option<RdbWriter>,
    state: Result<bool, Aborted>,
}

/// A value that is serialised in parts.
#[derive(Debug)]
struct InParts {
    head: RdbWriter,
    rest: Rest,
}

/// What is left of it.
#[derive(Debug)]
enum Rest {
    Elements { shown: Arc<Mutex<Piece>>, part: Part },
    Bytes { bytes: Arc<Vec<u8>>, done: usize },
}

impl Rest {
    /// What is to be set into the collection of an entry, and its counterpart.
    fn elements(db: usize, entry: &EntryRef<'_>) -> (Self, Tap) {
        let shown = Arc::new(Mutex::new(Piece::default()));
        let sink = Arc::clone(&shown);
        let sink = Box::new(move |elements: &mut dyn Iterator<Item = Element<'_>>| {
            let mut piece = lock(&sink);
            elements.for_each(|element| piece.element(element));
        });
        let (part, tap) = Part::new(db, entry.key, entry.value.elements(), sink);
        (Self::Elements { shown, part }, tap)
    }

    /// Writes a part. Returns whether it was the last one.
    fn step(&mut self, keyspace: &mut Keyspace, writer: &mut RdbWriter) -> Result<bool, Aborted> {
        match self {
            Self::Elements { shown, part } => {
                let left = part.left();
                let is_lost = !keyspace.show_more(part) && left > 0;
                writer.elements(&std::mem::take(&mut *lock(shown)));
                if is_lost { Err(Aborted::Lost) } else { Ok(left == 0) }
            }
            Self::Bytes { bytes, done } => {
                let rest = bytes.get(*done..).unwrap_or_default();
                let part = rest.get(..TEXT_PART).unwrap_or(rest);
                writer.text(part);
                *done += part.len();
                Ok(part.len() == rest.len())
            }
        }
    }
}

/// The walker's ear in the keyspace.
struct Observer(Arc<Mutex<Walk>>);

impl Walker {
    /// Begins a snapshot of what the keyspace holds now. What it says of itself (`aux`) stands at its beginning.
    pub fn start(keyspace: &mut Keyspace, aux: &Aux) -> Self {
        let writer = RdbWriter::begin(aux, keyspace.tracking());
        let (parts, aside) = (VecDeque::new(), None);
        let walk = Walk { writer, db: 0, slot: 0, page: 0, parts, aside, state: Ok(false) };
        let walk = Arc::new(Mutex::new(walk));
        // Dropping the observer of an earlier snapshot aborts that.
        drop(keyspace.observe(Some(Box::new(Observer(Arc::clone(&walk))))));
        Self(walk)
    }

    /// Serialises pages until `budget` bytes wait to be taken, with those that writes brought out, or all is done; at
    /// least one page, in one go but for what is large in it, and for no longer than [`STEP`]. With a budget of
    /// `usize::MAX` it serialises all. Returns whether all is done; then the keyspace is not observed any more.
    ///
    /// # Errors
    /// If the keyspace was emptied, replaced, or given another observer.
    pub fn step(&mut self, keyspace: &mut Keyspace, budget: usize) -> Result<bool, Aborted> {
        let before = lock(&self.0).state?;
        let done = lock(&self.0).step(keyspace, budget)?;
        if done && !before {
            keyspace.observe(None);
        }
        Ok(done)
    }

    /// What was serialised since the last call, in order. It may be called at any time, also for what writes to
    /// unvisited slots brought out between two steps.
    pub fn take_output(&mut self) -> Piece {
        lock(&self.0).writer.take()
    }

    /// Bytes that are kept aside until a collection is complete.
    #[must_use]
    pub fn aside(&self) -> usize {
        lock(&self.0).aside.as_ref().map_or(0, RdbWriter::pending)
    }

    /// Gives the snapshot up.
    pub fn cancel(self, keyspace: &mut Keyspace) {
        if lock(&self.0).state == Ok(false) {
            keyspace.observe(None);
        }
    }
}

impl Drop for Walker {
    /// A walker that was given up without a word costs no memory; its observer goes with the next one.
    fn drop(&mut self) {
        let mut walk = lock(&self.0);
        walk.abort(Aborted::NotObserved);
        drop(walk.writer.take());
    }
}

impl Walk {
    fn step(&mut self, keyspace: &mut Keyspace, budget: usize) -> Result<bool, Aborted> {
        let enough = budget.max(self.writer.pending().saturating_add(1));
        let began = Instant::now();
        while self.state == Ok(false) && self.writer.pending() < enough {
            if budget < usize::MAX && began.elapsed() > STEP {
                break;
            }
            if !self.parts.is_empty() {
                self.step_part(keyspace);
                continue;
            }
            if self.db >= keyspace.databases() {
                self.writer.finish();
                self.state = Ok(true);
                break;
            }
            match keyspace.next_occupied_slot(self.db, self.slot) {
                Some(slot) => {
                    if slot != self.slot {
                        (self.slot, self.page) = (slot, 0);
                    }
                    let (db, page) = (self.db, self.page);
                    if keyspace.visit_page(db, slot, page, |page| self.visit(db, page)) {
                        self.page += 1;
                    } else {
                        (self.slot, self.page) = (slot.saturating_add(1), 0);
                    }
                }
                None => {
                    self.db += 1;
                    (self.slot, self.page) = (0, 0);
                }
            }
        }
        self.state
    }

    /// Serialises the entries of a page. What is large waits for its turn.
    fn visit(&mut self, db: usize, page: &mut Page) {
        let writer = self.aside.as_mut().unwrap_or(&mut self.writer);
        let parts = &mut self.parts;
        page.show(|entry, showing| {
            let (rest, tap) = match showing {
                Showing::Whole => {
                    writer.entry(db, entry);
                    return None;
                }
                Showing::Elements => {
                    let (rest, tap) = Rest::elements(db, entry);
                    (rest, Some(tap))
                }
                Showing::Bytes(bytes) => (Rest::Bytes { bytes, done: 0 }, None),
            };
            parts.push_back(InParts { head: writer.head_of(db, entry), rest });
            tap
        });
    }

    /// Goes on with the first value that is serialised in parts.
    fn step_part(&mut self, keyspace: &mut Keyspace) {
        let Some(InParts { head, rest }) = self.parts.front_mut() else { return };
        if self.aside.is_none() {
            self.aside = Some(self.writer.aside());
            self.writer.append(head);
        }
        match rest.step(keyspace, &mut self.writer) {
            Ok(false) => {}
            Ok(true) => {
                self.parts.pop_front();
                self.aside.take().into_iter().for_each(|aside| self.writer.append(&aside));
            }
            Err(why) => self.abort(why),
        }
    }

    fn abort(&mut self, why: Aborted) {
        if self.state == Ok(false) {
            self.state = Err(why);
            self.parts.clear();
            self.aside = None;
        }
    }
}

impl WriteObserver for Observer {
    fn before_write(&mut self, db: usize, _slot: Slot, page: &mut Page) {
        let mut walk = lock(&self.0);
        if walk.state == Ok(false) {
            walk.visit(db, page);
        }
    }

    fn before_flush(&mut self, _dbs: &[usize]) {
        lock(&self.0).abort(Aborted::Flushed);
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        lock(&self.0).abort(Aborted::NotObserved);
    }
}

/// Only the data thread works on it; the lock is there so that a keyspace can be handed to another thread.
fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
