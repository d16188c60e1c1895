//! Snapshots without a second process: the state of one moment is serialised in steps, while clients go on writing.
//!
//! A [`Walker`] visits the pages of keys in order. It observes the keyspace, too: before anything changes in a page that
//! it did not visit yet, it serialises that page at once. So what it brings out is exactly what was there when it began,
//! and no write waits for more than a page.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kv_core::slot::Slot;

use super::rdb::{Aux, Piece, RdbWriter};
use crate::keyspace::{Keyspace, Page, WriteObserver};

/// Why a snapshot cannot be finished. It can be begun anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Aborted {
    /// FLUSHALL, FLUSHDB, SWAPDB, or a full synchronisation with a parent.
    #[error("a database was emptied, swapped or replaced while its snapshot was made")]
    Flushed,
    /// Another snapshot was begun, or the keyspace was put away.
    #[error("the keyspace is not observed any more: another snapshot was begun, or it was replaced")]
    NotObserved,
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
    state: Result<bool, Aborted>,
}

/// The walker's ear in the keyspace.
struct Observer(Arc<Mutex<Walk>>);

impl Walker {
    /// Begins a snapshot of what the keyspace holds now. What it says of itself (`aux`) stands at its beginning.
    pub fn start(keyspace: &mut Keyspace, aux: &Aux) -> Self {
        let writer = RdbWriter::begin(aux, keyspace.tracking());
        let walk = Walk { writer, db: 0, slot: 0, page: 0, state: Ok(false) };
        let walk = Arc::new(Mutex::new(walk));
        // Dropping the observer of an earlier snapshot aborts that.
        drop(keyspace.observe(Some(Box::new(Observer(Arc::clone(&walk))))));
        Self(walk)
    }

    /// Serialises pages until there are `budget` more bytes to be taken, or all is done. Returns whether all is done;
    /// then the keyspace is not observed any more. A page is serialised in one go.
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

    /// Bytes that wait to be taken.
    #[must_use]
    pub fn pending(&self) -> usize {
        lock(&self.0).writer.pending()
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
        let enough = self.writer.pending().saturating_add(budget);
        while self.state == Ok(false) && self.writer.pending() < enough {
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
                    let (db, writer) = (self.db, &mut self.writer);
                    if keyspace.visit_page(db, slot, self.page, |entry| writer.entry(db, &entry)) {
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

    fn visit_early(&mut self, db: usize, page: &Page) {
        if self.state == Ok(false) {
            page.iter().for_each(|entry| self.writer.entry(db, &entry));
        }
    }

    fn abort(&mut self, why: Aborted) {
        if self.state == Ok(false) {
            self.state = Err(why);
        }
    }
}

impl WriteObserver for Observer {
    fn before_write(&mut self, db: usize, _slot: Slot, page: &Page) {
        lock(&self.0).visit_early(db, page);
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
fn lock(walk: &Mutex<Walk>) -> MutexGuard<'_, Walk> {
    walk.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::keyspace::value::Value;
    use crate::keyspace::{At, Expire, ValueRef};
    use crate::persist::rdb;

    /// What clients do.
    #[derive(Clone, Debug)]
    enum Write {
        Set(usize, u8),
        Append(usize, u8),
        Delete(usize, u8),
        Expire(usize, u8),
        Step,
    }

    fn write() -> impl Strategy<Value = Write> {
        let place = || (0..2_usize, 0..250_u8);
        prop_oneof![
            place().prop_map(|(db, key)| Write::Set(db, key)),
            place().prop_map(|(db, key)| Write::Append(db, key)),
            place().prop_map(|(db, key)| Write::Delete(db, key)),
            place().prop_map(|(db, key)| Write::Expire(db, key)),
            Just(Write::Step),
        ]
    }

    fn apply(keyspace: &mut Keyspace, write: &Write, number: usize) {
        // Hash tags, so that many keys share a slot, and its table grows and shrinks.
        let name = |key: u8| format!("{{{}}}{key}", key / 100).into_bytes();
        match *write {
            Write::Set(db, key) => {
                let value = Value::string(number.to_string().as_bytes());
                keyspace.insert(At { db, now: 0 }, &name(key), value, Expire::Never);
            }
            Write::Append(db, key) => {
                keyspace.update_str(At { db, now: 0 }, &name(key), |value| value.append(b"+")).unwrap();
            }
            Write::Delete(db, key) => _ = keyspace.remove(At { db, now: 0 }, &name(key)),
            Write::Expire(db, key) => {
                keyspace.set_expire(At { db, now: 0 }, &name(key), 1000 + number as u64);
            }
            Write::Step => {}
        }
    }

    type Content = BTreeMap<(usize, Vec<u8>), (Vec<u8>, u64)>;

    fn content(keyspace: &Keyspace) -> Content {
        let entries = (0..keyspace.databases())
            .flat_map(|db| keyspace.entries(At { db, now: 0 }).map(move |entry| (db, entry)));
        let text = |value: ValueRef<'_>| value.string().unwrap().to_vec();
        entries.map(|(db, entry)| ((db, entry.key.to_vec()), (text(entry.value), entry.expire_at))).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_snapshot_is_the_state_at_its_start(
            before in prop::collection::vec(write(), 0..400),
            during in prop::collection::vec(write(), 0..400),
        ) {
            let mut keyspace = Keyspace::new(2);
            before.iter().enumerate().for_each(|(n, write)| apply(&mut keyspace, write, n));
            let expected = content(&keyspace);
            let mut walker = Walker::start(&mut keyspace, &rdb::Aux::default());
            let mut finisher = rdb::Finisher::new(rdb::Format::default());
            let mut output = Vec::new();
            for (n, write) in during.iter().enumerate() {
                match write {
                    Write::Step => drop(walker.step(&mut keyspace, 1).unwrap()),
                    other => apply(&mut keyspace, other, n + 1000),
                }
                output.append(&mut finisher.finish(walker.take_output(), false));
            }
            while !walker.step(&mut keyspace, 1).unwrap() {}
            output.append(&mut finisher.finish(walker.take_output(), false));
            output.extend(finisher.end());
            let loaded = rdb::load(output.as_slice(), Keyspace::new(2)).unwrap();
            prop_assert_eq!(content(&loaded.keyspace), expected);
            prop_assert!(keyspace.observe(None).is_none(), "a finished walker observes nothing");
        }
    }

    fn filled() -> Keyspace {
        let mut keyspace = Keyspace::new(2);
        (0..20).for_each(|key| apply(&mut keyspace, &Write::Set(0, key), 0));
        keyspace
    }

    #[test]
    fn what_replaces_the_data_aborts_the_snapshot() {
        let flushes: [fn(&mut Keyspace); 4] = [
            |keyspace| keyspace.flush(1, true),
            |keyspace| keyspace.flush_all(true),
            |keyspace| assert!(keyspace.swap_databases(0, 1)),
            |keyspace| keyspace.replace_all(Keyspace::new(2)),
        ];
        for flush in flushes {
            let mut keyspace = filled();
            let mut walker = Walker::start(&mut keyspace, &rdb::Aux::default());
            assert_eq!(walker.step(&mut keyspace, 1), Ok(false));
            flush(&mut keyspace);
            assert_eq!(walker.step(&mut keyspace, 1), Err(Aborted::Flushed));
        }
    }

    #[test]
    fn a_second_snapshot_aborts_the_first() {
        let mut keyspace = filled();
        let mut first = Walker::start(&mut keyspace, &rdb::Aux::default());
        let mut second = Walker::start(&mut keyspace, &rdb::Aux::default());
        assert_eq!(first.step(&mut keyspace, 1), Err(Aborted::NotObserved));
        first.cancel(&mut keyspace);
        assert_eq!(second.step(&mut keyspace, usize::MAX), Ok(true));
    }
}
