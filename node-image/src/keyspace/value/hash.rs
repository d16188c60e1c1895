//! Hashes.

use hashbrown::DefaultHashBuilder;
use indexmap::IndexMap;

use super::{ELEMENT_OVERHEAD, scan_window};

/// `hash-max-listpack-entries`
const LISTPACK_ENTRIES: usize = 512;

/// `hash-max-listpack-value`
const LISTPACK_VALUE: usize = 64;

/// A map of fields to values.
#[derive(Clone, Debug, Default)]
pub struct Hash {
    fields: IndexMap<Box<[u8]>, Box<[u8]>, DefaultHashBuilder>,
    bytes: usize,
    /// Whether it outgrew a listpack once.
    grown: bool,
}

impl Hash {
    /// Number of fields.
    #[must_use]
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Whether it has no fields.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// The value of a field.
    #[must_use]
    pub fn get(&self, field: &[u8]) -> Option<&[u8]> {
        self.fields.get(field).map(|value| &**value)
    }

    /// Sets a field. Returns whether it is a new one.
    pub fn set(&mut self, field: &[u8], value: &[u8]) -> bool {
        self.grown |= field.len().max(value.len()) > LISTPACK_VALUE;
        self.bytes += value.len();
        if let Some(place) = self.fields.get_mut(field) {
            self.bytes -= place.len();
            *place = value.into();
            return false;
        }
        self.bytes += field.len();
        self.fields.insert(field.into(), value.into());
        self.grown |= self.fields.len() > LISTPACK_ENTRIES;
        true
    }

    /// Removes a field. Returns whether there was one.
    pub fn remove(&mut self, field: &[u8]) -> bool {
        let Some((field, value)) = self.fields.swap_remove_entry(field) else { return false };
        self.bytes -= field.len() + value.len();
        true
    }

    /// The fields and their values in no particular order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        self.fields.iter().map(|(field, value)| (&**field, &**value))
    }

    /// The field at a position below the length; positions change with every change.
    #[must_use]
    pub fn nth(&self, index: usize) -> Option<(&[u8], &[u8])> {
        self.fields.get_index(index).map(|(field, value)| (&**field, &**value))
    }

    /// Shows about `count` fields; returns the cursor to go on with, 0 at the end.
    pub fn scan(&self, cursor: u64, count: usize, mut show: impl FnMut(&[u8], &[u8])) -> u64 {
        let count = if self.grown { count } else { self.len() };
        let (window, next) = scan_window(self.len(), cursor, count);
        for (field, value) in window.filter_map(|index| self.nth(index)) {
            show(field, value);
        }
        next
    }

    pub(super) fn encoding(&self) -> &'static str {
        if self.grown { "hashtable" } else { "listpack" }
    }

    pub(super) fn memory(&self) -> usize {
        self.bytes + self.fields.len() * ELEMENT_OVERHEAD
    }
}
