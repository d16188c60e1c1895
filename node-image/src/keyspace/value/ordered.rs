//! Members in the order of their scores, with positions: blocks of a few hundred, so that a position is found by adding
//! up the lengths of blocks, and a change moves no more than one block.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use super::ZSet;

/// A block of this length is split in two.
const BLOCK_MAX: usize = 512;

/// Two neighbours that are together no longer than this become one.
const BLOCK_MERGE: usize = 192;

type Item = (f64, Arc<[u8]>);

/// Scores and members, ordered by score, then by member.
#[derive(Clone, Debug, Default)]
pub(super) struct Ordered {
    blocks: Vec<Vec<Item>>,
}

fn order(item: &Item, score: f64, member: &[u8]) -> Ordering {
    ZSet::order((item.0, &item.1), (score, member))
}

impl Ordered {
    /// The block where `score` and `member` are or belong.
    fn block_of(&self, score: f64, member: &[u8]) -> usize {
        let below =
            |block: &Vec<Item>| block.last().is_some_and(|last| order(last, score, member) == Ordering::Less);
        self.blocks.partition_point(below).min(self.blocks.len().saturating_sub(1))
    }

    /// Adds a pair that is not in it.
    pub(super) fn insert(&mut self, score: f64, member: Arc<[u8]>) {
        let index = self.block_of(score, &member);
        let Some(block) = self.blocks.get_mut(index) else {
            self.blocks.push(vec![(score, member)]);
            return;
        };
        let place = block.partition_point(|item| order(item, score, &member) == Ordering::Less);
        block.insert(place, (score, member));
        if block.len() >= BLOCK_MAX {
            let upper = block.split_off(BLOCK_MAX / 2);
            self.blocks.insert(index + 1, upper);
        }
    }

    /// Removes a pair.
    pub(super) fn remove(&mut self, score: f64, member: &[u8]) {
        let index = self.block_of(score, member);
        let Some(block) = self.blocks.get_mut(index) else { return };
        if let Ok(place) = block.binary_search_by(|item| order(item, score, member)) {
            block.remove(place);
        }
        self.merge(index);
    }

    fn merge(&mut self, index: usize) {
        let len = |index: usize| self.blocks.get(index).map(Vec::len);
        if len(index) == Some(0) {
            self.blocks.remove(index);
        } else if let (Some(this), Some(next)) = (len(index), len(index + 1))
            && this + next <= BLOCK_MERGE
        {
            let next = self.blocks.remove(index + 1);
            if let Some(block) = self.blocks.get_mut(index) {
                block.extend(next);
            }
        }
    }

    /// How many pairs come before this one.
    pub(super) fn rank(&self, score: f64, member: &[u8]) -> usize {
        self.partition_point(|other, name| ZSet::order((other, name), (score, member)) == Ordering::Less)
    }

    /// How many pairs fulfil `before`, which holds for a first part of them only.
    pub(super) fn partition_point(&self, before: impl Fn(f64, &[u8]) -> bool) -> usize {
        let whole = self.blocks.partition_point(|block| block.last().is_some_and(|(s, m)| before(*s, m)));
        let part = self.blocks.get(whole).map_or(0, |block| block.partition_point(|(s, m)| before(*s, m)));
        self.blocks.iter().take(whole).map(Vec::len).sum::<usize>() + part
    }

    /// The pairs of a range of positions.
    pub(super) fn range(&self, range: Range<usize>) -> impl DoubleEndedIterator<Item = (f64, &[u8])> {
        let mut start = 0;
        let cuts: Vec<&[Item]> = self
            .blocks
            .iter()
            .filter_map(|block| {
                let from = range.start.saturating_sub(start).min(block.len());
                let to = range.end.saturating_sub(start).min(block.len());
                start += block.len();
                block.get(from..to).filter(|cut| !cut.is_empty())
            })
            .collect();
        cuts.into_iter().flatten().map(|(score, member)| (*score, &**member))
    }
}
