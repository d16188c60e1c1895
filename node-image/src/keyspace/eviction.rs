//! Which keys go when the data take more than `maxmemory`.
//!
//! As in Redis: a few keys are drawn by chance, and the one that the policy likes least goes. Keys that were drawn and
//! not evicted are remembered, so that the choice becomes better than the sample.

use kv_core::slot::key_slot;

use super::db::Address;
use super::table::Place;
use super::{At, Change, Keyspace, Tracking, access};

/// Keys that are remembered as good ones to evict.
const POOL: usize = 16;

/// How keys are chosen (`maxmemory-policy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Only keys that expire go.
    pub volatile: bool,
    /// What is looked at.
    pub by: By,
}

/// What is looked at to choose a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// When it was used last, or how often: what is kept account of.
    Use,
    /// When it expires: the soonest goes.
    Expiry,
    /// Nothing.
    Chance,
}

impl Policy {
    /// The policy of a name; none for `noeviction`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let (scope, by) = name.split_once('-')?;
        let by = match by {
            "lru" | "lfu" => By::Use,
            "ttl" => By::Expiry,
            "random" => By::Chance,
            _ => return None,
        };
        Some(Self { volatile: scope == "volatile", by })
    }
}

/// A key that may be evicted.
#[derive(Debug)]
struct Candidate {
    idleness: u64,
    db: usize,
    key: Box<[u8]>,
}

/// Keys that were drawn, from the one to keep to the one to evict.
#[derive(Debug, Default)]
pub struct Pool(Vec<Candidate>);

impl Pool {
    fn offer(&mut self, candidate: Candidate) {
        if self.0.iter().any(|other| other.db == candidate.db && other.key == candidate.key) {
            return;
        }
        let at = self.0.partition_point(|other| other.idleness < candidate.idleness);
        self.0.insert(at, candidate);
        if self.0.len() > POOL {
            self.0.remove(0);
        }
    }
}

impl Keyspace {
    /// Sets what is kept account of from now on.
    pub fn track(&mut self, tracking: Tracking) {
        self.tracking = tracking;
    }

    /// Sets whether reads count as no uses from now on (`CLIENT NO-TOUCH`).
    pub fn set_untouched(&mut self, untouched: bool) {
        self.untouched = untouched;
    }

    /// What is kept account of.
    #[must_use]
    pub fn tracking(&self) -> Tracking {
        self.tracking
    }

    /// How often a key was used, on a scale to 255 (`OBJECT FREQ`); `None` if there is no such key.
    #[must_use]
    pub fn frequency(&self, at: At, key: &[u8]) -> Option<u32> {
        self.peek(at, key).map(|entry| self.tracking.frequency(entry.access, at.now))
    }

    /// Seconds since a key was last used (`OBJECT IDLETIME`), 0 if that is not kept account of; `None` if there is no
    /// such key.
    #[must_use]
    pub fn idle_seconds(&self, at: At, key: &[u8]) -> Option<u32> {
        let entry = self.peek(at, key)?;
        Some(entry.access.map_or(0, |account| access::idle_seconds(Some(account), at.now)))
    }

    pub(super) fn access_after(&mut self, before: Option<u32>, now: u64) -> Option<u32> {
        self.tracking.used(before, now, &mut self.random)
    }

    #[cold]
    pub(super) fn note_use(&mut self, at: At, address: Address, place: Place) {
        let before = self.db(at.db).and_then(|db| db.slot(address.slot)?.entry(place)?.access);
        if let Some(account) = self.access_after(before, at.now)
            && let Some(db) = self.db_mut(at.db)
        {
            db.set_access(address, place, account);
        }
    }

    /// Removes the key that the policy likes least among some; returns it with its database. `None`: there is no key
    /// that it lets go.
    pub fn evict(
        &mut self,
        policy: Policy,
        samples: usize,
        now: u64,
        pool: &mut Pool,
    ) -> Option<(usize, Box<[u8]>)> {
        for db in 0..self.dbs.len() {
            self.draw(policy, samples, At { db, now }, pool);
        }
        while let Some(Candidate { db, key, .. }) = pool.0.pop() {
            let Some((address, place, entry)) = self.locate(db, &key) else { continue };
            if policy.volatile && entry.expire_at == 0 {
                continue;
            }
            self.watches.mark(db, &key, Change::Removed);
            if let Some((found, seen)) = self.writable(db)
                && let Some(gone) = found.remove(seen, address, place)
            {
                self.freer.value(gone.object, self.freer.lazily.eviction);
                return Some((db, key));
            }
        }
        None
    }

    fn draw(&mut self, policy: Policy, samples: usize, at: At, pool: &mut Pool) {
        let tracking = self.tracking;
        let mut random = self.random.clone();
        let Some(db) = self.db(at.db).filter(|db| db.len() > 0) else { return };
        for _ in 0..samples {
            let Some(entry) = db.sample(&mut random, policy.volatile) else { break };
            if self.staged.is_some() && self.is_staged(key_slot(entry.key)) {
                continue;
            }
            let idleness = match policy.by {
                By::Use => tracking.idleness(entry.access, at.now),
                By::Expiry => u64::MAX - entry.expire_at,
                By::Chance => 0,
            };
            pool.offer(Candidate { idleness, db: at.db, key: entry.key.into() });
        }
        self.random = random;
    }
}
