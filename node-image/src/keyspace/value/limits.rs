//! Up to which size collections keep their compact forms.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

/// The most elements that a compact form ever has, whatever the directives say: work in it grows with their number.
const COMPACT_MAX: usize = 1 << 15;

/// The thresholds that redis.conf names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `hash-max-listpack-entries`
    pub hash_entries: usize,
    /// `hash-max-listpack-value`, in bytes
    pub hash_value: usize,
    /// `list-max-listpack-size`: elements, or, if it is negative, a size from -1 (4 kB) to -5 (64 kB)
    pub list_size: i64,
    /// `set-max-intset-entries`
    pub set_integers: usize,
    /// `set-max-listpack-entries`
    pub set_entries: usize,
    /// `set-max-listpack-value`, in bytes
    pub set_value: usize,
    /// `zset-max-listpack-entries`
    pub zset_entries: usize,
    /// `zset-max-listpack-value`, in bytes
    pub zset_value: usize,
}

/// As Valkey 9 has them.
pub(super) const DEFAULTS: Limits = Limits {
    hash_entries: 512,
    hash_value: 64,
    list_size: -2,
    set_integers: 512,
    set_entries: 128,
    set_value: 64,
    zset_entries: 128,
    zset_value: 64,
};

impl Default for Limits {
    fn default() -> Self {
        DEFAULTS
    }
}

/// The limits of the process. They decide on forms only, never on contents, so that it does no harm if a thread sees
/// an old value.
struct Current {
    hash_entries: AtomicUsize,
    hash_value: AtomicUsize,
    list_size: AtomicI64,
    set_integers: AtomicUsize,
    set_entries: AtomicUsize,
    set_value: AtomicUsize,
    zset_entries: AtomicUsize,
    zset_value: AtomicUsize,
}

static CURRENT: Current = Current {
    hash_entries: AtomicUsize::new(DEFAULTS.hash_entries),
    hash_value: AtomicUsize::new(DEFAULTS.hash_value),
    list_size: AtomicI64::new(DEFAULTS.list_size),
    set_integers: AtomicUsize::new(DEFAULTS.set_integers),
    set_entries: AtomicUsize::new(DEFAULTS.set_entries),
    set_value: AtomicUsize::new(DEFAULTS.set_value),
    zset_entries: AtomicUsize::new(DEFAULTS.zset_entries),
    zset_value: AtomicUsize::new(DEFAULTS.zset_value),
};

impl Limits {
    /// Those of the process.
    #[must_use]
    pub fn current() -> Self {
        Self {
            hash_entries: CURRENT.hash_entries.load(Ordering::Relaxed),
            hash_value: CURRENT.hash_value.load(Ordering::Relaxed),
            list_size: CURRENT.list_size.load(Ordering::Relaxed),
            set_integers: CURRENT.set_integers.load(Ordering::Relaxed),
            set_entries: CURRENT.set_entries.load(Ordering::Relaxed),
            set_value: CURRENT.set_value.load(Ordering::Relaxed),
            zset_entries: CURRENT.zset_entries.load(Ordering::Relaxed),
            zset_value: CURRENT.zset_value.load(Ordering::Relaxed),
        }
    }

    /// Makes these the limits of the process. Collections take notice when they grow next.
    pub fn make_current(self) {
        let count = |number: usize| number.min(COMPACT_MAX);
        CURRENT.hash_entries.store(count(self.hash_entries), Ordering::Relaxed);
        CURRENT.hash_value.store(self.hash_value, Ordering::Relaxed);
        CURRENT.list_size.store(self.list_size, Ordering::Relaxed);
        CURRENT.set_integers.store(count(self.set_integers), Ordering::Relaxed);
        CURRENT.set_entries.store(count(self.set_entries), Ordering::Relaxed);
        CURRENT.set_value.store(self.set_value, Ordering::Relaxed);
        CURRENT.zset_entries.store(count(self.zset_entries), Ordering::Relaxed);
        CURRENT.zset_value.store(self.zset_value, Ordering::Relaxed);
    }

    /// The most elements and bytes of a list in one piece.
    pub(super) fn list(self) -> (usize, usize) {
        const KB: usize = 1024;
        match self.list_size {
            -1 => (usize::MAX, 4 * KB),
            ..=-5 => (usize::MAX, 64 * KB),
            -4 => (usize::MAX, 32 * KB),
            -3 => (usize::MAX, 16 * KB),
            -2 => (usize::MAX, 8 * KB),
            count => (usize::try_from(count).unwrap_or(usize::MAX), 8 * KB),
        }
    }
}
