//! Keys that clients watch (`WATCH`): whether one changed since.

use std::collections::HashMap;

use super::{At, Keyspace};

/// What became of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It was set or changed.
    Written,
    /// It was there, and is no more.
    Removed,
}

/// The moment from which on a key is watched.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    serial: u64,
    /// Its time was over already: its removal is no change.
    expired: bool,
}

/// A watched key.
#[derive(Clone, Copy, Debug, Default)]
struct Watched {
    watchers: usize,
    /// Serial number of the last change of this kind; 0 for none.
    written: u64,
    removed: u64,
}

/// All watched keys. Empty maps are not kept, so that it is quick to see that nothing is watched.
#[derive(Debug, Default)]
pub(super) struct Watches {
    dbs: HashMap<usize, HashMap<Box<[u8]>, Watched>>,
    /// Number of the last change of a watched key.
    serial: u64,
    /// What the command that runs has touched so far.
    touched: Vec<(usize, Box<[u8]>, Change)>,
}

impl Watches {
    /// A command touches a key: it counts as changed if the command turns out to have changed something.
    #[inline]
    pub(super) fn touch(&mut self, db: usize, key: &[u8], change: Change) {
        if !self.dbs.is_empty() {
            self.note(db, key, change);
        }
    }

    #[cold]
    fn note(&mut self, db: usize, key: &[u8], change: Change) {
        if self.dbs.get(&db).is_some_and(|keys| keys.contains_key(key)) {
            self.touched.push((db, key.into(), change));
        }
    }

    /// A key changed.
    pub(super) fn mark(&mut self, db: usize, key: &[u8], change: Change) {
        let Some(watched) = self.dbs.get_mut(&db).and_then(|keys| keys.get_mut(key)) else { return };
        self.serial += 1;
        match change {
            Change::Written => watched.written = self.serial,
            Change::Removed => watched.removed = self.serial,
        }
    }

    /// The watched keys of a database.
    fn keys_of(&self, db: usize) -> Vec<Box<[u8]>> {
        self.dbs.get(&db).map(|keys| keys.keys().cloned().collect()).unwrap_or_default()
    }
}

impl Keyspace {
    /// Watches a key until [`Keyspace::unwatch`] is called as often.
    pub fn watch(&mut self, at: At, key: &[u8]) -> Ticket {
        let expired = self.locate(at.db, key).is_some_and(|(_, _, entry)| entry.is_expired(at.now));
        let keys = self.watches.dbs.entry(at.db).or_default();
        keys.entry(key.into()).or_default().watchers += 1;
        Ticket { serial: self.watches.serial, expired }
    }

    /// Ends a watch.
    pub fn unwatch(&mut self, db: usize, key: &[u8]) {
        let Some(keys) = self.watches.dbs.get_mut(&db) else { return };
        if let Some(watched) = keys.get_mut(key) {
            watched.watchers -= 1;
            if watched.watchers == 0 {
                keys.remove(key);
            }
        }
        if keys.is_empty() {
            self.watches.dbs.remove(&db);
        }
    }

    /// Whether a watched key changed since, or its time is over by now.
    #[must_use]
    pub fn changed_since(&self, at: At, key: &[u8], ticket: Ticket) -> bool {
        let Some(watched) = self.watches.dbs.get(&at.db).and_then(|keys| keys.get(key)) else { return true };
        let gone = || {
            watched.removed > ticket.serial
                || self.locate(at.db, key).is_some_and(|(_, _, entry)| entry.is_expired(at.now))
        };
        watched.written > ticket.serial || (!ticket.expired && gone())
    }

    /// A command is done: what it touched counts if it `changed` something.
    #[inline]
    pub fn settle_touched(&mut self, changed: bool) {
        if !self.watches.touched.is_empty() {
            for (db, key, change) in std::mem::take(&mut self.watches.touched) {
                if changed {
                    self.watches.mark(db, &key, change);
                }
            }
        }
    }

    /// A database is about to be emptied, or replaced by one that holds the keys for which `comes` says so.
    pub(super) fn touch_all(&mut self, db: usize, comes: impl Fn(&Self, &[u8]) -> bool) {
        for key in self.watches.keys_of(db) {
            if comes(self, &key) {
                self.watches.mark(db, &key, Change::Written);
            } else if self.locate(db, &key).is_some() {
                self.watches.mark(db, &key, Change::Removed);
            }
        }
    }

    /// Number of watched keys.
    #[must_use]
    pub fn watched_keys(&self) -> usize {
        self.watches.dbs.values().map(HashMap::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Expire, ExpiryMode};
    use super::*;

    const AT: At = At { db: 0, now: 1000 };

    fn keyspace() -> Keyspace {
        let mut keyspace = Keyspace::new(2);
        keyspace.set_str(AT, b"a", b"1", Expire::Never);
        keyspace.set_str(AT, b"old", b"1", Expire::At(500));
        keyspace
    }

    /// Whether the key of this name counts as changed by `change`.
    fn changed_by(key: &[u8], change: impl FnOnce(&mut Keyspace)) -> bool {
        let mut keyspace = keyspace();
        let ticket = keyspace.watch(AT, key);
        change(&mut keyspace);
        keyspace.settle_touched(true);
        keyspace.changed_since(AT, key, ticket)
    }

    #[test]
    fn a_change_of_any_kind_counts_and_only_of_the_watched_key() {
        let set = |key: &'static [u8]| move |k: &mut Keyspace| k.set_str(AT, key, b"2", Expire::Never);
        assert!(changed_by(b"a", set(b"a")));
        assert!(changed_by(b"new", set(b"new")));
        assert!(!changed_by(b"a", set(b"b")));
        assert!(!changed_by(b"a", |k| k.set_str(At { db: 1, ..AT }, b"a", b"2", Expire::Never)));
        assert!(changed_by(b"a", |k| assert!(k.remove(AT, b"a"))));
        assert!(changed_by(b"a", |k| assert!(k.take(AT, b"a").is_some())));
        assert!(changed_by(b"a", |k| assert!(k.set_expire(AT, b"a", 5000).is_some())));
        assert!(changed_by(b"a", |k| k.update_str(AT, b"a", |_| ()).unwrap()));
        assert!(changed_by(b"a", |k| k.flush(0, true)));
        assert!(changed_by(b"a", |k| k.flush_all(true)));
        assert!(!changed_by(b"a", |k| k.flush(1, true)));
        assert!(!changed_by(b"new", |k| k.flush_all(true)));
        assert!(changed_by(b"a", |k| assert!(k.swap_databases(0, 1))));
        assert!(!changed_by(b"new", |k| assert!(k.swap_databases(0, 1))));
        assert!(changed_by(b"a", |k| k.replace_all(keyspace())));
        assert!(changed_by(b"a", |k| k.replace_all(Keyspace::new(2))));
        assert!(!changed_by(b"new", |k| k.replace_all(keyspace())));
    }

    #[test]
    fn what_a_command_touched_counts_only_if_it_changed_something() {
        let mut keyspace = keyspace();
        let ticket = keyspace.watch(AT, b"a");
        keyspace.update_str(AT, b"a", |_| ()).unwrap();
        keyspace.settle_touched(false);
        keyspace.settle_touched(true);
        assert!(!keyspace.changed_since(AT, b"a", ticket));
    }

    #[test]
    fn expiry_is_a_change_but_not_of_a_key_that_was_expired_when_watched() {
        assert!(!changed_by(b"old", |_| ()));
        assert!(!changed_by(b"old", |k| k.expire_if_due(AT, b"old")));
        assert!(!changed_by(b"old", |k| _ = k.remove(AT, b"old")));
        assert!(!changed_by(b"old", |k| k.flush_all(true)));
        assert!(changed_by(b"old", |k| k.set_str(AT, b"old", b"2", Expire::Never)));
        // As the stream of a master removes it.
        assert!(!changed_by(b"old", |k| {
            k.set_expiry_mode(ExpiryMode::Ignore);
            assert!(k.remove(AT, b"old"));
        }));

        let mut keyspace = keyspace();
        let before = At { now: 400, ..AT };
        let ticket = keyspace.watch(before, b"old");
        assert!(!keyspace.changed_since(before, b"old", ticket));
        assert!(keyspace.changed_since(AT, b"old", ticket));
        keyspace.expire_if_due(AT, b"old");
        assert!(keyspace.changed_since(AT, b"old", ticket));
    }

    #[test]
    fn nothing_is_kept_of_a_watch_that_ended() {
        let mut keyspace = keyspace();
        keyspace.watch(AT, b"a");
        keyspace.watch(AT, b"a");
        keyspace.unwatch(0, b"a");
        assert_eq!(keyspace.watched_keys(), 1);
        keyspace.unwatch(0, b"a");
        keyspace.unwatch(0, b"a");
        assert_eq!(keyspace.watched_keys(), 0);
        assert!(keyspace.watches.dbs.is_empty());
    }
}
