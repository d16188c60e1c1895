//! `maxmemory`: keys go when there is too much, or writes are refused.

use super::Server;

/// Keys that are evicted in one go; the rest follow in the next ticks, and writes go on meanwhile.
const MOST: usize = 256;

/// What eviction remembers.
#[derive(Debug, Default)]
pub(super) struct Eviction {
    pool: crate::keyspace::Pool,
    /// There is more to evict than was done in one go.
    unfinished: bool,
}

impl Server {
    /// Bytes that the data and what is kept beside them take: of clients, of the backlog, of the append-only file.
    pub(crate) fn used_memory(&self) -> u64 {
        self.counted_memory() + self.uncounted_memory()
    }

    /// Those of them that count against `maxmemory`.
    fn counted_memory(&self) -> u64 {
        let backlog = &self.history.backlog;
        let beside = self.clients.totals().normal() + backlog.memory() - backlog.surplus();
        (self.keyspace.used_memory() + beside) as u64
    }

    /// Those that do not, as in Redis (`mem_not_counted_for_evict`): what grows with how slow replicas and the disk are,
    /// and with evictions, too, which would then go on until nothing is left.
    pub(crate) fn uncounted_memory(&self) -> u64 {
        let replicas = self.clients.totals().replicas + self.history.backlog.surplus();
        (replicas + self.persistence.buffered()) as u64
    }

    fn is_over_maxmemory(&self) -> bool {
        let max = self.tunables.maxmemory;
        max > 0 && self.counted_memory() > max
    }

    /// Whether a command that takes more memory is to be refused.
    pub(super) fn out_of_memory(&self) -> bool {
        !self.eviction.unfinished && self.is_over_maxmemory()
    }

    /// Whether keys are still to be evicted.
    pub(super) fn is_evicting(&self) -> bool {
        self.eviction.unfinished
    }

    /// Evicts keys while the data take too much, as far as the policy allows. Replicas leave it to their master.
    pub(super) fn make_room(&mut self) {
        self.eviction.unfinished = false;
        let Some(policy) = self.tunables.eviction_policy else { return };
        if !self.is_over_maxmemory() || !self.may_originate() {
            return;
        }
        for _ in 0..MOST {
            let (samples, now) = (self.tunables.eviction_samples, self.clock.unix_ms);
            let evicted = self.keyspace.evict(policy, samples, now, &mut self.eviction.pool);
            let Some((db, key)) = evicted else { return };
            self.stats.evicted += 1;
            self.stats.dirty += 1;
            self.replicate(db, &[b"DEL", &key]);
            if !self.is_over_maxmemory() {
                return;
            }
        }
        self.eviction.unfinished = true;
    }

    /// Takes over the directives: the policy asks for other accounts of keys, and likes other ones.
    pub(super) fn retune_eviction(&mut self) {
        self.keyspace.track(self.tunables.tracking);
        self.keyspace.set_lazily(self.tunables.lazily);
        self.eviction.pool = crate::keyspace::Pool::default();
    }
}
