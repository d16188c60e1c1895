//! Sorted sets.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use hashbrown::DefaultHashBuilder;
use indexmap::IndexMap;

use super::ordered::Ordered;
use super::{ELEMENT_OVERHEAD, scan_window};

/// `zset-max-listpack-entries`
const LISTPACK_ENTRIES: usize = 128;

/// `zset-max-listpack-value`
const LISTPACK_VALUE: usize = 64;

/// Bytes of a member's place in the order, besides those of an element.
const PLACE_OVERHEAD: usize = 40;

/// Members with scores, ordered by score, then by member.
#[derive(Clone, Debug, Default)]
pub struct ZSet {
    scores: IndexMap<Arc<[u8]>, f64, DefaultHashBuilder>,
    ordered: Ordered,
    bytes: usize,
    /// Whether it outgrew a listpack once.
    grown: bool,
}

impl ZSet {
    /// Number of members.
    #[must_use]
    pub fn len(&self) -> usize {
        self.scores.len()
    }

    /// Whether it has no members.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.scores.is_empty()
    }

    /// The order of members with their scores.
    #[must_use]
    pub fn order(a: (f64, &[u8]), b: (f64, &[u8])) -> Ordering {
        a.0.partial_cmp(&b.0).unwrap_or(Ordering::Equal).then_with(|| a.1.cmp(b.1))
    }

    /// The score of a member.
    #[must_use]
    pub fn score(&self, member: &[u8]) -> Option<f64> {
        self.scores.get(member).copied()
    }

    /// Sets a member's score, which must not be NaN; returns the score that it had.
    pub fn set(&mut self, member: &[u8], score: f64) -> Option<f64> {
        debug_assert!(!score.is_nan(), "a score is a number");
        // There is but one zero.
        let score = score + 0.0;
        if let Some((_, name, place)) = self.scores.get_full_mut(member) {
            let before = std::mem::replace(place, score);
            let name = Arc::clone(name);
            self.ordered.remove(before, member);
            self.ordered.insert(score, name);
            return Some(before);
        }
        let name: Arc<[u8]> = member.into();
        self.ordered.insert(score, Arc::clone(&name));
        self.scores.insert(name, score);
        self.bytes += member.len();
        self.grown |= self.len() > LISTPACK_ENTRIES || member.len() > LISTPACK_VALUE;
        None
    }

    /// Removes a member; returns the score that it had.
    pub fn remove(&mut self, member: &[u8]) -> Option<f64> {
        let score = self.scores.swap_remove(member)?;
        self.ordered.remove(score, member);
        self.bytes -= member.len();
        Some(score)
    }

    /// How many members come before `member`, lowest score first.
    #[must_use]
    pub fn rank(&self, member: &[u8]) -> Option<usize> {
        Some(self.ordered.rank(self.score(member)?, member))
    }

    /// How many members fulfil `before`, which holds for a first part of them only.
    pub fn partition_point(&self, before: impl Fn(f64, &[u8]) -> bool) -> usize {
        self.ordered.partition_point(before)
    }

    /// The members of a range of positions, with their scores, lowest first.
    pub fn range(&self, range: Range<usize>) -> impl DoubleEndedIterator<Item = (f64, &[u8])> {
        self.ordered.range(range)
    }

    /// All members with their scores, lowest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (f64, &[u8])> {
        self.ordered.range(0..self.len())
    }

    /// The member at a position of its own below the length; these positions have nothing to do with the order.
    #[must_use]
    pub fn nth(&self, index: usize) -> Option<(f64, &[u8])> {
        self.scores.get_index(index).map(|(member, score)| (*score, &**member))
    }

    /// Shows about `count` members; returns the cursor to go on with, 0 at the end.
    pub fn scan(&self, cursor: u64, count: usize, mut show: impl FnMut(f64, &[u8])) -> u64 {
        let count = if self.grown { count } else { self.len() };
        let (window, next) = scan_window(self.len(), cursor, count);
        for (score, member) in window.filter_map(|index| self.nth(index)) {
            show(score, member);
        }
        next
    }

    pub(super) fn encoding(&self) -> &'static str {
        if self.grown { "skiplist" } else { "listpack" }
    }

    pub(super) fn memory(&self) -> usize {
        self.bytes + self.scores.len() * (ELEMENT_OVERHEAD + PLACE_OVERHEAD)
    }
}
