//! Hash slots: which of the 16384 parts of the keyspace a key belongs to, and sets of them.
//!
//! Source: the Redis Cluster specification, "Key distribution model" and "Hash tags".

use std::fmt;
use std::str::FromStr;

use crc::{CRC_16_XMODEM, Crc, Table};
use serde::{Deserialize, Serialize};

/// How many slots there are.
pub const SLOT_COUNT: u16 = 16384;

/// Sixteen bytes a step: every command with a key goes through it.
static CRC16: Crc<u16, Table<16>> = Crc::<u16, Table<16>>::new(&CRC_16_XMODEM);
const WORDS: usize = SLOT_COUNT as usize / 64;

/// A slot number, 0 to 16383.
pub type Slot = u16;

/// The slot of `key`: CRC16 of its hash tag, or of all of it, modulo 16384.
#[must_use]
pub fn key_slot(key: &[u8]) -> Slot {
    CRC16.checksum(hash_tag(key)) % SLOT_COUNT
}

/// What is hashed of `key`: the text between the first `{` and the next `}` if there is any, else the whole key.
#[must_use]
pub fn hash_tag(key: &[u8]) -> &[u8] {
    let tag = key.iter().position(|&b| b == b'{').and_then(|open| {
        let rest = key.get(open + 1..)?;
        let close = rest.iter().position(|&b| b == b'}')?;
        rest.get(..close)
    });
    tag.filter(|tag| !tag.is_empty()).unwrap_or(key)
}

/// The slots that shard `index` of `shards` gets when slots are dealt out evenly, in order: sizes differ by one at the
/// most. Empty if `index` is not a shard.
#[must_use]
pub fn even_share(index: u16, shards: u16) -> SlotSet {
    if index >= shards {
        return SlotSet::default();
    }
    let bound = |i: u16| (u32::from(i) * u32::from(SLOT_COUNT) / u32::from(shards)) as u16;
    (bound(index)..bound(index + 1)).collect()
}

/// A set of slots. In JSON and in text a list of ranges: `["0-5460", "7000"]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct SlotSet(Box<[u64; WORDS]>);

impl Default for SlotSet {
    fn default() -> Self {
        Self(Box::new([0; WORDS]))
    }
}

impl SlotSet {
    /// Every slot.
    #[must_use]
    pub fn all() -> Self {
        Self(Box::new([u64::MAX; WORDS]))
    }

    /// Whether `slot` is in the set.
    #[must_use]
    pub fn contains(&self, slot: Slot) -> bool {
        self.0.get(usize::from(slot) / 64).is_some_and(|word| word >> (slot % 64) & 1 == 1)
    }

    /// Adds `slot`; a number that is no slot is ignored.
    pub fn insert(&mut self, slot: Slot) {
        if let Some(word) = self.0.get_mut(usize::from(slot) / 64) {
            *word |= 1 << (slot % 64);
        }
    }

    /// Removes `slot`.
    pub fn remove(&mut self, slot: Slot) {
        if let Some(word) = self.0.get_mut(usize::from(slot) / 64) {
            *word &= !(1 << (slot % 64));
        }
    }

    /// How many slots are in the set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether no slot is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }

    /// Whether the two sets share no slot.
    #[must_use]
    pub fn is_disjoint(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0.iter()).all(|(a, b)| a & b == 0)
    }

    /// Whether all slots of `other` are in this set.
    #[must_use]
    pub fn is_superset(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0.iter()).all(|(a, b)| b & !a == 0)
    }

    /// The slots of this set and of `other`.
    #[must_use]
    pub fn union(mut self, other: &Self) -> Self {
        self.0.iter_mut().zip(other.0.iter()).for_each(|(a, b)| *a |= b);
        self
    }

    /// The slots of this set that are not in `other`.
    #[must_use]
    pub fn without(mut self, other: &Self) -> Self {
        self.0.iter_mut().zip(other.0.iter()).for_each(|(a, b)| *a &= !b);
        self
    }

    /// The slots in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = Slot> + '_ {
        (0..SLOT_COUNT).filter(|&slot| self.contains(slot))
    }

    /// The set as inclusive ranges in ascending order.
    #[must_use]
    pub fn ranges(&self) -> Vec<SlotRange> {
        let mut ranges: Vec<SlotRange> = Vec::new();
        for (&word, start) in self.0.iter().zip((0..SLOT_COUNT).step_by(64)) {
            let mut at = 0;
            // Runs of ones within the word; one that begins where the last word's ended continues it.
            while let Some(rest) = word.checked_shr(at).filter(|&rest| rest != 0) {
                at += rest.trailing_zeros();
                let length = (word >> at).trailing_ones();
                let (first, last) = (start + at as Slot, start + (at + length) as Slot - 1);
                at += length;
                match ranges.last_mut() {
                    Some(range) if range.last + 1 == first => range.last = last,
                    _ => ranges.push(SlotRange { first, last }),
                }
            }
        }
        ranges
    }
}

impl FromIterator<Slot> for SlotSet {
    fn from_iter<I: IntoIterator<Item = Slot>>(slots: I) -> Self {
        let mut set = Self::default();
        slots.into_iter().for_each(|slot| set.insert(slot));
        set
    }
}

impl fmt::Display for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, range) in self.ranges().into_iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{range}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{self}]")
    }
}

impl From<SlotSet> for Vec<String> {
    fn from(set: SlotSet) -> Self {
        set.ranges().iter().map(ToString::to_string).collect()
    }
}

impl TryFrom<Vec<String>> for SlotSet {
    type Error = InvalidSlotRange;

    fn try_from(ranges: Vec<String>) -> Result<Self, Self::Error> {
        let mut set = Self::default();
        for range in ranges {
            let SlotRange { first, last } = range.parse()?;
            (first..=last).for_each(|slot| set.insert(slot));
        }
        Ok(set)
    }
}

/// An inclusive range of slots, written `0-5460`, or `7` when it is a single one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotRange {
    /// The lowest slot.
    pub first: Slot,
    /// The highest slot.
    pub last: Slot,
}

impl fmt::Display for SlotRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// A text that is not a range of slots.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a slot range is FIRST-LAST with 0 <= FIRST <= LAST <= 16383, not {0:?}")]
pub struct InvalidSlotRange(pub String);

impl FromStr for SlotRange {
    type Err = InvalidSlotRange;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidSlotRange(text.chars().take(64).collect());
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let first = first.parse().map_err(|_| invalid())?;
        let last = last.parse().map_err(|_| invalid())?;
        if first <= last && last < SLOT_COUNT { Ok(Self { first, last }) } else { Err(invalid()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn slots_are_those_of_redis_cluster() {
        // From `CLUSTER KEYSLOT` of a Redis 7.0 server.
        for (key, slot) in [("foo", 12182), ("bar", 5061), ("somekey", 11058), ("", 0), ("123456789", 12739)]
        {
            assert_eq!(key_slot(key.as_bytes()), slot, "{key}");
        }
    }

    #[test]
    fn hash_tags() {
        for (key, tag) in [
            ("{user1000}.following", "user1000"),
            ("foo{}{bar}", "foo{}{bar}"),
            ("foo{{bar}}zap", "{bar"),
            ("foo{bar}{zap}", "bar"),
            ("foo{bar", "foo{bar"),
            ("}foo{", "}foo{"),
        ] {
            assert_eq!(hash_tag(key.as_bytes()), tag.as_bytes(), "{key}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn shares_cover_every_slot_once(shards in 1u16..=1024) {
            let shares: Vec<_> = (0..shards).map(|i| even_share(i, shards)).collect();
            prop_assert_eq!(shares.iter().map(SlotSet::len).sum::<usize>(), usize::from(SLOT_COUNT));
            let sizes = shares.iter().map(SlotSet::len);
            prop_assert!(sizes.clone().max().unwrap_or(0) - sizes.min().unwrap_or(0) <= 1);
            let union: SlotSet = shares.iter().flat_map(|s| s.iter().collect::<Vec<_>>()).collect();
            prop_assert_eq!(union, SlotSet::all());
        }
    }

    proptest! {
        #[test]
        fn a_set_reads_back_what_it_writes(slots in prop::collection::vec(0..SLOT_COUNT, 0..200)) {
            let set: SlotSet = slots.iter().copied().collect();
            let text = Vec::<String>::from(set.clone());
            prop_assert_eq!(SlotSet::try_from(text).unwrap(), set);
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = text.parse::<SlotRange>();
        }
    }
}
