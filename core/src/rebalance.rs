//! Which slots go from which shard to which, so that every shard serves as many as it should.
//!
//! Pure, and recomputed from what the shards serve now: a change of mind midway, or a move that came to nothing, needs no
//! word of its own.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::slot::{Slot, SlotSet};

/// Slots that are to go from one shard to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// Which slots.
    pub slots: SlotSet,
    /// Index of the shard that serves them.
    pub from: u16,
    /// Index of the shard that is to.
    pub to: u16,
}

/// The moves after which the shards 0 to `shards` serve the slots of `owned`, each as many as any other or one more. No
/// slot moves that need not, and none twice; all of a shard beyond them does. A slot that nobody owns is left alone.
#[must_use]
pub fn moves(owned: &BTreeMap<u16, SlotSet>, shards: u16) -> Vec<Move> {
    let quotas = quotas(owned, shards);
    let quota = |shard: u16| quotas.get(&shard).copied().unwrap_or(0);
    let none = SlotSet::default();
    let mut surplus = owned.iter().filter_map(|(&from, slots)| {
        let more = slots.len().saturating_sub(quota(from));
        (more > 0).then(|| (from, highest(slots, more)))
    });
    let mut moves: Vec<Move> = Vec::new();
    let mut rest: Option<(u16, Vec<Slot>)> = None;
    for to in 0..shards {
        let mut lacks = quota(to).saturating_sub(owned.get(&to).unwrap_or(&none).len());
        while lacks > 0 {
            let Some((from, mut slots)) = rest.take().or_else(|| surplus.next()) else { return moves };
            let kept = slots.split_off(slots.len().min(lacks));
            lacks -= slots.len();
            moves.push(Move { slots: slots.into_iter().collect(), from, to });
            rest = Some((from, kept)).filter(|(_, kept)| !kept.is_empty());
        }
    }
    moves
}

/// How many slots each shard should serve. Those that serve more than the others should keep one more than they, so that
/// as few as possible move.
fn quotas(owned: &BTreeMap<u16, SlotSet>, shards: u16) -> BTreeMap<u16, usize> {
    let total: usize = owned.values().map(SlotSet::len).sum();
    let count = usize::from(shards.max(1));
    let (base, more) = (total / count, total % count);
    let len = |shard: u16| owned.get(&shard).map_or(0, SlotSet::len);
    let mut order: Vec<u16> = (0..shards).collect();
    order.sort_by_key(|&shard| Reverse(len(shard)));
    order.into_iter().enumerate().map(|(place, shard)| (shard, base + usize::from(place < more))).collect()
}

/// The highest `count` slots of a set, in ascending order.
fn highest(slots: &SlotSet, count: usize) -> Vec<Slot> {
    slots.iter().skip(slots.len().saturating_sub(count)).collect()
}

impl Move {
    /// The first part of it, of so many slots at the most: the highest, so that what is left of the giver stays in one piece.
    #[must_use]
    pub fn batch(mut self, most: usize) -> Self {
        if self.slots.len() > most {
            self.slots = highest(&self.slots, most).into_iter().collect();
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::slot::{SLOT_COUNT, even_share};

    fn apply(owned: &mut BTreeMap<u16, SlotSet>, Move { slots, from, to }: &Move) {
        let giver = owned.get_mut(from).unwrap();
        assert!(giver.is_superset(slots), "what is moved is the giver's");
        *giver = giver.clone().without(slots);
        let taker = owned.entry(*to).or_default();
        *taker = std::mem::take(taker).union(slots);
    }

    fn even(shards: u16) -> BTreeMap<u16, SlotSet> {
        (0..shards).map(|shard| (shard, even_share(shard, shards))).collect()
    }

    /// Slots dealt out to shards by chance, some to none.
    fn any_owned() -> impl Strategy<Value = BTreeMap<u16, SlotSet>> {
        (1u16..12, any::<u64>()).prop_map(|(shards, seed)| {
            let mut owned: BTreeMap<u16, SlotSet> = (0..shards).map(|s| (s, SlotSet::default())).collect();
            let (mut state, mut shard) = (seed | 1, 0);
            for slot in 0..SLOT_COUNT {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                if state >> 58 == 0 {
                    shard = ((state >> 32) % u64::from(shards + 1)) as u16;
                }
                if let Some(slots) = owned.get_mut(&shard) {
                    slots.insert(slot);
                }
            }
            owned
        })
    }

    fn moved(moves: &[Move]) -> usize {
        moves.iter().map(|one| one.slots.len()).sum()
    }

    /// How many slots have to move at least.
    fn least(owned: &BTreeMap<u16, SlotSet>, shards: u16) -> usize {
        let total: usize = owned.values().map(SlotSet::len).sum();
        let (base, more) = (total / usize::from(shards), total % usize::from(shards));
        let mut sizes: Vec<usize> = (0..shards).map(|s| owned.get(&s).map_or(0, SlotSet::len)).collect();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        let lacks = |(place, len): (usize, usize)| (base + usize::from(place < more)).saturating_sub(len);
        sizes.into_iter().enumerate().map(lacks).sum()
    }

    #[test]
    fn three_become_five_and_three_again() {
        let mut owned = even(3);
        for (shards, slots) in [(5, 6553), (3, 6553)] {
            let moves = moves(&owned, shards);
            assert_eq!(moved(&moves), slots);
            moves.iter().for_each(|one| apply(&mut owned, one));
        }
        assert!(owned[&3].is_empty() && owned[&4].is_empty());
    }

    #[test]
    fn a_thousand_shards_are_planned_at_once() {
        let owned = even(1000);
        let began = std::time::Instant::now();
        let moves = moves(&owned, 1024);
        let took = began.elapsed();
        assert_eq!(moved(&moves), least(&owned, 1024));
        // 50 ms with optimisation; tests run without.
        assert!(took.as_millis() < 1000, "{took:?}");
    }

    proptest! {
        #[test]
        fn moves_are_balanced_minimal_and_the_same_each_time(owned in any_owned(), shards in 1u16..12) {
            let moves = moves(&owned, shards);
            prop_assert_eq!(&moves, &super::moves(&owned, shards));
            prop_assert_eq!(moved(&moves), least(&owned, shards) );
            let mut after = owned.clone();
            moves.iter().for_each(|one| apply(&mut after, one));
            let lens: Vec<_> = (0..shards).map(|s| after.get(&s).map_or(0, SlotSet::len)).collect();
            let (most, fewest) = (lens.iter().max().unwrap(), lens.iter().min().unwrap());
            prop_assert!(most - fewest <= 1, "{:?}", lens);
            prop_assert!(after.range(shards..).all(|(_, slots)| slots.is_empty()));
            prop_assert!(super::moves(&after, shards).is_empty());
        }

        #[test]
        fn from_every_state_in_between_it_goes_on_or_back(
            owned in any_owned(), shards in 1u16..12, batch in 1usize..5000, stop in 0usize..12, back in 1u16..12,
        ) {
            let (mut now, mut total) = (owned.clone(), 0);
            for round in 0.. {
                let plan = moves(&now, shards);
                prop_assert_eq!(total + moved(&plan), least(&owned, shards), "it moves no slot twice");
                let Some(next) = plan.into_iter().next() else { break };
                if round == stop {
                    // A change of mind.
                    let plan = moves(&now, back);
                    prop_assert_eq!(moved(&plan), least(&now, back));
                    plan.iter().for_each(|one| apply(&mut now, one));
                    prop_assert!(moves(&now, back).is_empty());
                    break;
                }
                let next = next.batch(batch);
                total += next.slots.len();
                apply(&mut now, &next);
            }
        }
    }
}
