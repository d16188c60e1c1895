//! Freeing on a thread of its own what takes long to free.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use super::Keyspace;
use super::db::Db;
use super::value::Value;

/// What costs more than this, in blocks of memory, is worth the way to another thread. As in Redis.
const WORTH_A_THREAD: usize = 64;

/// What may wait for the thread. Beyond that it is freed where it became free, so that garbage does not pile up.
const QUEUE: usize = 4096;

/// Which removals have what they remove freed on a thread of its own: `lazyfree-lazy-*`, `replica-lazy-flush`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LazyFree {
    /// Of keys that are evicted.
    pub eviction: bool,
    /// Of keys whose time is over.
    pub expire: bool,
    /// Of what commands overwrite.
    pub server_del: bool,
    /// By DEL.
    pub user_del: bool,
    /// By FLUSHALL and FLUSHDB.
    pub user_flush: bool,
    /// For the data of a new parent.
    pub replica_flush: bool,
}

impl Default for LazyFree {
    fn default() -> Self {
        Self {
            eviction: true,
            expire: true,
            server_del: true,
            user_del: true,
            user_flush: true,
            replica_flush: true,
        }
    }
}

#[derive(Debug)]
enum Garbage {
    Value(Value),
    Db(Box<Db>),
}

impl Garbage {
    /// Number of keys.
    fn objects(&self) -> usize {
        match self {
            Self::Value(_) => 1,
            Self::Db(db) => db.len(),
        }
    }

    fn is_worth_a_thread(&self) -> bool {
        match self {
            Self::Value(value) => value.blocks() > WORTH_A_THREAD,
            Self::Db(db) => db.len() > WORTH_A_THREAD,
        }
    }
}

#[derive(Debug, Default)]
struct Counts {
    pending: AtomicUsize,
    freed: AtomicUsize,
}

/// Frees values and databases: here, or on a thread that is started when it is needed first, and ends with this.
#[derive(Debug, Default)]
pub(super) struct Freer {
    pub(super) lazily: LazyFree,
    queue: Option<SyncSender<Garbage>>,
    counts: Arc<Counts>,
}

impl Freer {
    /// Frees a value that went, if any did.
    #[inline]
    pub(super) fn value(&mut self, value: Option<Value>, lazily: bool) {
        // One that is being shown in parts goes there.
        if let Some(value) = value.and_then(Value::removed) {
            self.free(Garbage::Value(value), lazily);
        }
    }

    /// Frees a database.
    pub(super) fn db(&mut self, db: Box<Db>, lazily: bool) {
        self.free(Garbage::Db(db), lazily);
    }

    fn free(&mut self, garbage: Garbage, lazily: bool) {
        if !lazily || !garbage.is_worth_a_thread() {
            return drop(garbage);
        }
        if self.queue.is_none() {
            let (sender, receiver) = sync_channel(QUEUE);
            let counts = Arc::clone(&self.counts);
            let thread = std::thread::Builder::new().name("kv-lazy-free".into());
            if thread.spawn(move || work(&receiver, &counts)).is_err() {
                return drop(garbage); // there may be a thread for the next one
            }
            self.queue = Some(sender);
        }
        let objects = garbage.objects();
        self.counts.pending.fetch_add(objects, Ordering::Relaxed);
        let refused = self.queue.as_ref().and_then(|queue| queue.try_send(garbage).err());
        if let Some(TrySendError::Full(garbage) | TrySendError::Disconnected(garbage)) = refused {
            self.counts.pending.fetch_sub(objects, Ordering::Relaxed);
            drop(garbage);
        }
    }
}

fn work(queue: &Receiver<Garbage>, counts: &Counts) {
    for garbage in queue {
        let objects = garbage.objects();
        drop(garbage);
        counts.freed.fetch_add(objects, Ordering::Relaxed);
        counts.pending.fetch_sub(objects, Ordering::Relaxed);
    }
}

impl Keyspace {
    /// Which removals have what they remove freed on a thread of its own.
    #[must_use]
    pub fn lazily(&self) -> LazyFree {
        self.freer.lazily
    }

    /// Sets which those are.
    pub fn set_lazily(&mut self, lazily: LazyFree) {
        self.freer.lazily = lazily;
    }

    /// Number of keys whose values wait to be freed.
    #[must_use]
    pub fn lazyfree_pending(&self) -> usize {
        self.freer.counts.pending.load(Ordering::Relaxed)
    }

    /// Number of keys whose values were freed on a thread of their own.
    #[must_use]
    pub fn lazyfreed(&self) -> usize {
        self.freer.counts.freed.load(Ordering::Relaxed)
    }

    /// Counts those anew.
    pub fn reset_lazyfreed(&mut self) {
        self.freer.counts.freed.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::value::Set;
    use super::super::{At, Expire};
    use super::*;

    const AT: At = At { db: 0, now: 1000 };

    fn large() -> Value {
        let mut set = Set::default();
        (0..1000).for_each(|member| _ = set.insert(format!("member:{member}").as_bytes()));
        set.into()
    }

    fn with(lazily: LazyFree) -> Keyspace {
        let mut keyspace = Keyspace::new(1);
        keyspace.set_lazily(lazily);
        keyspace.insert(AT, b"k", large(), Expire::At(2000));
        keyspace
    }

    const NEVER: LazyFree = LazyFree {
        eviction: false,
        expire: false,
        server_del: false,
        user_del: false,
        user_flush: false,
        replica_flush: false,
    };

    #[test]
    fn each_kind_of_removal_has_its_say() {
        type Removal = fn(&mut Keyspace);
        let removals: [(LazyFree, Removal); 4] = [
            (LazyFree { expire: true, ..NEVER }, |k| k.expire_if_due(At { now: 3000, ..AT }, b"k")),
            (LazyFree { server_del: true, ..NEVER }, |k| k.set_str(AT, b"k", b"v", Expire::Never)),
            (LazyFree { server_del: true, ..NEVER }, |k| k.insert(AT, b"k", large(), Expire::Never)),
            (NEVER, |k| _ = k.delete(AT, b"k", true)),
        ];
        for (lazily, removal) in removals {
            let mut keyspace = with(lazily);
            removal(&mut keyspace);
            while keyspace.lazyfreed() + keyspace.lazyfree_pending() == 0 || keyspace.lazyfree_pending() > 0 {
                std::thread::yield_now();
            }
            assert_eq!(keyspace.lazyfreed(), 1);
            if lazily != NEVER {
                let mut keyspace = with(NEVER);
                removal(&mut keyspace);
                assert!(keyspace.freer.queue.is_none(), "freed elsewhere, though nothing asks for it");
            }
        }
        let mut keyspace = with(NEVER);
        keyspace.delete(AT, b"k", false);
        assert!(keyspace.freer.queue.is_none());
    }

    #[test]
    fn small_values_are_freed_where_they_are() {
        let mut keyspace = Keyspace::new(1);
        for len in [1, 50] {
            let mut set = Set::default();
            (0..len).for_each(|member| _ = set.insert(format!("member:{member}").as_bytes()));
            keyspace.insert(AT, b"k", set.into(), Expire::Never);
            keyspace.delete(AT, b"k", true);
        }
        keyspace.set_str(AT, b"k", &[b'x'; 10_000], Expire::Never);
        keyspace.delete(AT, b"k", true);
        keyspace.flush(0, true);
        assert!(keyspace.freer.queue.is_none());
    }

    #[test]
    fn a_full_queue_has_the_rest_freed_here() {
        let (sender, receiver) = sync_channel(2);
        let mut freer = Freer { queue: Some(sender), ..Freer::default() };
        (0..5).for_each(|_| freer.value(Some(large()), true));
        assert_eq!(freer.counts.pending.load(Ordering::Relaxed), 2);
        drop(freer.queue.take());
        work(&receiver, &freer.counts);
        assert_eq!(freer.counts.pending.load(Ordering::Relaxed), 0);
        assert_eq!(freer.counts.freed.load(Ordering::Relaxed), 2);
    }
}
