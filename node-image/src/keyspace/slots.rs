//! Which slots of a database have something in them.

use kv_core::slot::{SLOT_COUNT, Slot};

const WORDS: usize = SLOT_COUNT as usize / 64;

/// A set of slots in which the next member is found fast.
#[derive(Clone, Debug)]
pub(super) struct SlotBitmap(Box<[u64; WORDS]>);

impl Default for SlotBitmap {
    fn default() -> Self {
        Self(Box::new([0; WORDS]))
    }
}

impl SlotBitmap {
    /// Puts `slot` in or takes it out.
    pub(super) fn put(&mut self, slot: Slot, member: bool) {
        if let Some(word) = self.0.get_mut(usize::from(slot) / 64) {
            let bit = 1u64 << (slot % 64);
            *word = if member { *word | bit } else { *word & !bit };
        }
    }

    /// Whether `slot` is in.
    pub(super) fn contains(&self, slot: Slot) -> bool {
        self.0.get(usize::from(slot) / 64).is_some_and(|word| word >> (slot % 64) & 1 == 1)
    }

    /// The lowest member that is not below `from`.
    pub(super) fn next(&self, from: Slot) -> Option<Slot> {
        let first = usize::from(from) / 64;
        let mut mask = u64::MAX << (from % 64);
        for (index, word) in self.0.iter().enumerate().skip(first) {
            let rest = word & mask;
            if rest != 0 {
                return Slot::try_from(index * 64 + rest.trailing_zeros() as usize).ok();
            }
            mask = u64::MAX;
        }
        None
    }

    /// The members in ascending order.
    pub(super) fn iter(&self) -> impl Iterator<Item = Slot> + '_ {
        let mut from = Some(0);
        std::iter::from_fn(move || {
            let slot = self.next(from?)?;
            from = slot.checked_add(1);
            Some(slot)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_found_in_order() {
        let mut bitmap = SlotBitmap::default();
        for slot in [16383, 0, 64, 63, 9000] {
            bitmap.put(slot, true);
        }
        bitmap.put(64, false);
        assert_eq!(bitmap.iter().collect::<Vec<_>>(), [0, 63, 9000, 16383]);
        assert_eq!(bitmap.next(9001), Some(16383));
        assert_eq!(bitmap.next(16384), None);
    }
}
