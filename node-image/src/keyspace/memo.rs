//! The addresses of keys that are about to be used: worked out for the look ahead, and not once more for the command.

use std::cell::Cell;

use super::db::Address;

/// A command may not use its key: so many are looked at to find the next one.
const SKIPPED: usize = 3;

/// Addresses of keys, which are recognised by where they are in memory. That is only right as long as nothing else comes
/// to stand there: whoever has them noted keeps the keys borrowed, and has them forgotten before that ends.
#[derive(Debug, Default)]
pub(super) struct Memo {
    db: usize,
    addresses: Vec<(usize, usize, Address)>,
    /// The one that was asked for last.
    at: Cell<usize>,
}

fn identity(key: &[u8]) -> (usize, usize) {
    (key.as_ptr() as usize, key.len())
}

impl Memo {
    /// Notes keys of a database in the order in which they are used.
    pub(super) fn note<'k>(&mut self, db: usize, addresses: impl Iterator<Item = (&'k [u8], Address)>) {
        self.forget();
        self.db = db;
        self.addresses.extend(addresses.map(|(key, address)| {
            let (start, len) = identity(key);
            (start, len, address)
        }));
    }

    /// What was noted, in order.
    pub(super) fn addresses(&self) -> impl Iterator<Item = Address> {
        self.addresses.iter().map(|(_, _, address)| *address)
    }

    /// The address of a key, if it was noted.
    #[inline]
    pub(super) fn recall(&self, db: usize, key: &[u8]) -> Option<Address> {
        if self.addresses.is_empty() || db != self.db {
            return None;
        }
        let from = self.at.get();
        let mut candidates = self.addresses.get(from..)?.iter().take(SKIPPED + 1);
        let found = candidates.position(|(start, len, _)| (*start, *len) == identity(key))?;
        self.at.set(from + found);
        self.addresses.get(from + found).map(|(_, _, address)| *address)
    }

    /// Forgets everything: the keys will not stay where they are, or databases get other addresses.
    pub(super) fn forget(&mut self) {
        self.addresses.clear();
        self.at.set(0);
    }
}
