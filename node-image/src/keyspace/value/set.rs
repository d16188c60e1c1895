//! Sets.

use hashbrown::DefaultHashBuilder;
use indexmap::IndexSet;

use super::{ELEMENT_OVERHEAD, scan_window};
use crate::resp::parse_i64;

/// `set-max-intset-entries`
const INTSET_ENTRIES: usize = 512;

/// `set-max-listpack-entries`
const LISTPACK_ENTRIES: usize = 128;

/// `set-max-listpack-value`
const LISTPACK_VALUE: usize = 64;

/// What `OBJECT ENCODING` shows; a set never goes back to an earlier one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Encoding {
    #[default]
    Intset,
    Listpack,
    Hashtable,
}

/// A set of strings.
#[derive(Clone, Debug, Default)]
pub struct Set {
    members: IndexSet<Box<[u8]>, DefaultHashBuilder>,
    bytes: usize,
    encoding: Encoding,
}

impl Set {
    /// Number of members.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether it has no members.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Whether `member` is in it.
    #[must_use]
    pub fn contains(&self, member: &[u8]) -> bool {
        self.members.contains(member)
    }

    /// Adds a member. Returns whether it is a new one.
    pub fn insert(&mut self, member: &[u8]) -> bool {
        if self.contains(member) {
            return false;
        }
        self.members.insert(member.into());
        self.bytes += member.len();
        self.encoding = self.encoding.max(self.encoding_with(member));
        true
    }

    /// The encoding that the set needs at its length, and with `member`.
    fn encoding_with(&self, member: &[u8]) -> Encoding {
        let integers = self.encoding == Encoding::Intset && parse_i64(member).is_some();
        if integers && self.len() <= INTSET_ENTRIES {
            Encoding::Intset
        } else if !integers && self.len() <= LISTPACK_ENTRIES && member.len() <= LISTPACK_VALUE {
            Encoding::Listpack
        } else {
            Encoding::Hashtable
        }
    }

    /// Removes a member. Returns whether there was one.
    pub fn remove(&mut self, member: &[u8]) -> bool {
        let removed = self.members.swap_remove(member);
        if removed {
            self.bytes -= member.len();
        }
        removed
    }

    /// Takes out the member at a position below the length.
    pub fn take_nth(&mut self, index: usize) -> Option<Box<[u8]>> {
        let member = self.members.swap_remove_index(index)?;
        self.bytes -= member.len();
        Some(member)
    }

    /// The members in no particular order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.members.iter().map(|member| &**member)
    }

    /// The member at a position below the length; positions change with every change.
    #[must_use]
    pub fn nth(&self, index: usize) -> Option<&[u8]> {
        self.members.get_index(index).map(|member| &**member)
    }

    /// Shows about `count` members; returns the cursor to go on with, 0 at the end.
    pub fn scan(&self, cursor: u64, count: usize, show: impl FnMut(&[u8])) -> u64 {
        let count = if self.encoding == Encoding::Hashtable { count } else { self.len() };
        let (window, next) = scan_window(self.len(), cursor, count);
        window.filter_map(|index| self.nth(index)).for_each(show);
        next
    }

    pub(super) fn encoding(&self) -> &'static str {
        match self.encoding {
            Encoding::Intset => "intset",
            Encoding::Listpack => "listpack",
            Encoding::Hashtable => "hashtable",
        }
    }

    pub(super) fn memory(&self) -> usize {
        self.bytes + self.members.len() * ELEMENT_OVERHEAD
    }
}
