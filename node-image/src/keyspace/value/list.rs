//! Lists.

use std::collections::VecDeque;

use super::ELEMENT_OVERHEAD;

/// `list-max-listpack-size -2`: a longer list is called a quicklist.
const LISTPACK_BYTES: usize = 8192;

/// What a listpack needs for an element besides its bytes.
const LISTPACK_OVERHEAD: usize = 2;

/// An end of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The head.
    Left,
    /// The tail.
    Right,
}

/// A list of strings.
#[derive(Clone, Debug, Default)]
pub struct List {
    items: VecDeque<Box<[u8]>>,
    bytes: usize,
}

impl List {
    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether it has no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Adds an element at an end.
    pub fn push(&mut self, end: End, item: &[u8]) {
        self.bytes += item.len();
        match end {
            End::Left => self.items.push_front(item.into()),
            End::Right => self.items.push_back(item.into()),
        }
    }

    /// Takes an element from an end.
    pub fn pop(&mut self, end: End) -> Option<Box<[u8]>> {
        let item = match end {
            End::Left => self.items.pop_front(),
            End::Right => self.items.pop_back(),
        }?;
        self.bytes -= item.len();
        Some(item)
    }

    /// The element at `index`.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        self.items.get(index).map(|item| &**item)
    }

    /// Replaces the element at `index`. Returns whether there is one.
    pub fn set(&mut self, index: usize, item: &[u8]) -> bool {
        let Some(place) = self.items.get_mut(index) else { return false };
        self.bytes = self.bytes - place.len() + item.len();
        *place = item.into();
        true
    }

    /// Puts an element in at `index`, or at the end if there are fewer.
    pub fn insert(&mut self, index: usize, item: &[u8]) {
        self.bytes += item.len();
        self.items.insert(index.min(self.items.len()), item.into());
    }

    /// Removes up to `limit` elements equal to `item`, searching from `from`. Returns how many it removed.
    pub fn remove(&mut self, from: End, limit: usize, item: &[u8]) -> usize {
        let equal = self.items.iter().filter(|other| ***other == *item).count();
        let remove = equal.min(limit);
        let mut skip = if from == End::Right { equal - remove } else { 0 };
        let mut left = remove;
        self.items.retain(|other| {
            if **other != *item {
                return true;
            }
            if skip > 0 {
                skip -= 1;
                return true;
            }
            let keep = left == 0;
            left = left.saturating_sub(1);
            keep
        });
        self.bytes -= remove * item.len();
        remove
    }

    /// Keeps the elements of a range of positions only.
    pub fn keep(&mut self, range: std::ops::Range<usize>) {
        let end = range.end.min(self.items.len());
        self.items.truncate(end);
        self.items.drain(..range.start.min(end));
        self.bytes = self.items.iter().map(|item| item.len()).sum();
    }

    /// The elements from head to tail.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &[u8]> + ExactSizeIterator {
        self.items.iter().map(|item| &**item)
    }

    /// The elements of a range of positions.
    pub fn range(&self, range: std::ops::Range<usize>) -> impl ExactSizeIterator<Item = &[u8]> {
        let end = range.end.min(self.items.len());
        self.items.range(range.start.min(end)..end).map(|item| &**item)
    }

    pub(super) fn encoding(&self) -> &'static str {
        let packed = self.bytes + self.items.len() * LISTPACK_OVERHEAD;
        if packed <= LISTPACK_BYTES { "listpack" } else { "quicklist" }
    }

    pub(super) fn memory(&self) -> usize {
        self.bytes + self.items.len() * ELEMENT_OVERHEAD
    }
}
