//! Sorted sets.

use std::cmp::Ordering;
use std::ops::Range;

use either::Either;

use super::element::Encoded;
use super::limits::Limits;
use super::packed::Packed;
use super::part::Tap;
use super::scored::Scored;
use super::{Text, WALK_FROM};

/// Members with scores, ordered by score, then by member.
#[derive(Clone, Debug)]
pub struct ZSet(Form);

#[derive(Clone, Debug)]
enum Form {
    /// Members with their scores, in order.
    Packed(Packed),
    Scored(Box<Scored>),
}

impl Default for ZSet {
    fn default() -> Self {
        Self(Form::Packed(Packed::default()))
    }
}

impl ZSet {
    /// Number of members.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            Form::Packed(packed) => packed.len(),
            Form::Scored(scored) => scored.len(),
        }
    }

    /// Whether it has no members.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The order of members with their scores.
    #[must_use]
    pub fn order(a: (f64, &[u8]), b: (f64, &[u8])) -> Ordering {
        a.0.partial_cmp(&b.0).unwrap_or(Ordering::Equal).then_with(|| a.1.cmp(b.1))
    }

    /// The score of a member.
    #[must_use]
    pub fn score(&self, member: &[u8]) -> Option<f64> {
        match &self.0 {
            Form::Packed(packed) => packed.find_pair(&Encoded::text(member)).map(|pair| pair.second.score()),
            Form::Scored(scored) => scored.score(member),
        }
    }

    /// Sets a member's score, which must not be NaN; returns the score that it had.
    pub fn set(&mut self, member: &[u8], score: f64) -> Option<f64> {
        self.set_within(Limits::current(), member, score)
    }

    pub(super) fn set_within(&mut self, limits: Limits, member: &[u8], score: f64) -> Option<f64> {
        debug_assert!(!score.is_nan(), "a score is a number");
        // There is but one zero.
        let score = score + 0.0;
        if let Form::Packed(packed) = &mut self.0 {
            let name = Encoded::text(member);
            let found = packed.find_pair(&name).map(|pair| (pair.range(), pair.second.score()));
            if let Some((range, before)) = found {
                if before != score {
                    packed.remove_pair(range);
                    insert(packed, member, score);
                }
                return Some(before);
            }
            if packed.len() < limits.zset_entries && member.len() <= limits.zset_value {
                insert(packed, member, score);
                return None;
            }
            let mut scored = Box::<Scored>::default();
            for (name, score) in packed.pairs() {
                scored.set(&name.text(), score.score());
            }
            self.0 = Form::Scored(scored);
        }
        let Form::Scored(scored) = &mut self.0 else { return None };
        scored.set(member, score)
    }

    /// Removes a member; returns the score that it had.
    pub fn remove(&mut self, member: &[u8]) -> Option<f64> {
        match &mut self.0 {
            Form::Packed(packed) => {
                let found = packed.find_pair(&Encoded::text(member));
                let (range, score) = found.map(|pair| (pair.range(), pair.second.score()))?;
                packed.remove_pair(range);
                Some(score)
            }
            Form::Scored(scored) => scored.remove(member),
        }
    }

    /// How many members come before `member`, lowest score first.
    #[must_use]
    pub fn rank(&self, member: &[u8]) -> Option<usize> {
        match &self.0 {
            Form::Packed(packed) => packed.position(&Encoded::text(member)),
            Form::Scored(scored) => {
                let score = scored.score(member)?;
                Some(scored.rank(|other, name| Self::order((other, name), (score, member)).is_lt()))
            }
        }
    }

    /// How many members fulfil `before`, which holds for a first part of them only.
    pub fn partition_point(&self, before: impl Fn(f64, &[u8]) -> bool) -> usize {
        match &self.0 {
            Form::Packed(packed) => {
                packed.pairs().take_while(|(name, score)| before(score.score(), &name.text())).count()
            }
            Form::Scored(scored) => scored.rank(before),
        }
    }

    /// The members of a range of positions, with their scores, lowest first.
    pub fn range(&self, range: Range<usize>) -> impl DoubleEndedIterator<Item = (f64, Text<'_>)> {
        match &self.0 {
            Form::Packed(packed) => {
                let pairs: Vec<_> = packed.pairs().skip(range.start).take(range.len()).collect();
                Either::Left(pairs.into_iter().map(|(name, score)| (score.score(), name.text())))
            }
            Form::Scored(scored) => Either::Right(scored.range(range)),
        }
    }

    /// All members with their scores, lowest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (f64, Text<'_>)> {
        self.range(0..self.len())
    }

    /// The member at a position, lowest first.
    #[must_use]
    pub fn nth(&self, index: usize) -> Option<(f64, Text<'_>)> {
        self.range(index..index.saturating_add(1)).next()
    }

    /// The members at positions below the length, which may come more than once.
    #[must_use]
    pub fn pick(&self, positions: &[usize]) -> Vec<(f64, Text<'_>)> {
        let is_small = matches!(self.0, Form::Packed(_));
        if is_small || positions.len() > self.len() / WALK_FROM {
            let all: Vec<_> = self.iter().collect();
            return positions.iter().filter_map(|index| all.get(*index).copied()).collect();
        }
        positions.iter().filter_map(|index| self.nth(*index)).collect()
    }

    /// Shows about `count` members; returns the cursor to go on with, 0 at the end.
    pub fn scan(&self, cursor: u64, count: usize, mut show: impl FnMut(f64, &[u8])) -> u64 {
        match &self.0 {
            Form::Packed(_) => {
                self.iter().for_each(|(score, member)| show(score, &member));
                0
            }
            Form::Scored(scored) => scored.scan(cursor, count, show),
        }
    }

    pub(super) fn encoding(&self) -> &'static str {
        match self.0 {
            Form::Packed(_) => "listpack",
            Form::Scored(_) => "skiplist",
        }
    }

    /// Whether it can be shown in parts.
    pub(super) fn can_tap(&self) -> bool {
        matches!(self.0, Form::Scored(_))
    }

    /// Has it shown in parts.
    pub(super) fn set_tap(&mut self, tap: Tap) {
        if let Form::Scored(scored) = &mut self.0 {
            scored.set_tap(tap);
        }
    }

    pub(super) fn tap(&self) -> Option<&Tap> {
        if let Form::Scored(scored) = &self.0 { scored.tap() } else { None }
    }

    /// Shows a bit more of it. Returns whether there was something left to look at.
    pub(super) fn show_more(&mut self) -> bool {
        if let Form::Scored(scored) = &mut self.0 { scored.show_more() } else { false }
    }

    /// About how many blocks of memory it has.
    pub(super) fn blocks(&self) -> usize {
        match &self.0 {
            Form::Packed(_) => 1,
            Form::Scored(_) => self.len(),
        }
    }

    pub(super) fn memory(&self) -> usize {
        let form = match &self.0 {
            Form::Packed(packed) => packed.size(),
            Form::Scored(scored) => scored.memory(),
        };
        size_of::<Self>() + form
    }

    /// [`ZSet::memory`] without the use of counters.
    #[cfg(test)]
    pub(super) fn recounted(&self) -> usize {
        match &self.0 {
            Form::Packed(_) => self.memory(),
            Form::Scored(scored) => size_of::<Self>() + scored.recounted(),
        }
    }
}

/// Puts a new pair in where it belongs.
fn insert(packed: &mut Packed, member: &[u8], score: f64) {
    let after = |name: &[u8], other: f64| ZSet::order((other, name), (score, member)).is_gt();
    let at = packed.offset_where(|name, other| after(&name.text(), other.score()));
    packed.insert_pair(at, &Encoded::text(member), &Encoded::score(score));
}
