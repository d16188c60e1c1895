//! A hash table that grows and shrinks by small steps at any size, by linear hashing.
//!
//! It is made of segments of about a hundred elements; the low bits of an element's hash say which segment it is in.
//! As it grows, one segment after the other is split in two. So no operation moves more than a few hundred elements.
//! Within a segment elements stand near the place that the high bits of their hashes point to (linear probing).

use std::hash::{BuildHasher, Hasher as _};

/// Makes hashes; each table has one with a seed of its own.
type Hasher = hashbrown::DefaultHashBuilder;

/// Elements per segment above which a segment is split.
const SPLIT_ABOVE: usize = 128;

/// Elements per segment below which two segments become one.
const MERGE_BELOW: usize = 32;

/// The smallest segment.
const SLOTS_MIN: usize = 4;

/// A place in the table, which may be empty.
pub(super) trait Slot: Default {
    /// The hash of what is there; nothing if it is empty.
    fn hash(&self) -> Option<u32>;

    /// Whether nothing is there.
    fn is_empty(&self) -> bool;
}

/// Where an element is. It is good until the next change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    segment: usize,
    slot: usize,
}

#[derive(Clone, Debug, Default)]
struct Segment<S> {
    slots: Box<[S]>,
    len: usize,
}

/// The next larger size of a segment. These are sizes that allocators deal in.
fn larger(slots: usize) -> usize {
    slots + (1 << slots.max(SLOTS_MIN).ilog2()) / 4
}

/// The size of a segment that is to hold `len` elements and some more.
fn fitting(len: usize) -> usize {
    let mut slots = SLOTS_MIN;
    while slots * 5 < len * 8 {
        slots = larger(slots);
    }
    slots
}

/// Where in `slots` places an element of this hash belongs.
fn home(hash: u32, slots: usize) -> usize {
    ((u64::from(hash) * slots as u64) >> u32::BITS) as usize
}

impl<S: Slot> Segment<S> {
    fn with_slots(slots: usize) -> Self {
        Self { slots: std::iter::repeat_with(S::default).take(slots).collect(), len: 0 }
    }

    fn is_full(&self) -> bool {
        self.len * 6 >= self.slots.len() * 5
    }

    /// The position of the first slot from the hash's home on that fulfils `stop`.
    fn probe(&self, hash: u32, mut stop: impl FnMut(&S) -> bool) -> Option<usize> {
        let home = home(hash, self.slots.len());
        let (before, from) = self.slots.split_at_checked(home)?;
        let found = from.iter().position(&mut stop).map(|index| home + index);
        found.or_else(|| before.iter().position(stop))
    }

    fn find(&self, hash: u32, is: impl Fn(&S) -> bool) -> Option<usize> {
        let found = self.probe(hash, |slot| slot.is_empty() || is(slot))?;
        self.slots.get(found).is_some_and(|slot| !slot.is_empty()).then_some(found)
    }

    /// Puts an element in that is not there; there must be an empty slot.
    fn put(&mut self, hash: u32, element: S) {
        if let Some(slot) = self.probe(hash, S::is_empty).and_then(|found| self.slots.get_mut(found)) {
            // The slot is empty: there is nothing to drop, and no need to look.
            std::mem::forget(std::mem::replace(slot, element));
            self.len += 1;
        }
    }

    fn grow_if_full(&mut self) {
        if self.is_full() {
            self.resize(larger(larger(self.slots.len())));
        }
    }

    fn resize(&mut self, slots: usize) {
        let old = std::mem::replace(self, Self::with_slots(slots));
        self.absorb(old);
    }

    /// Puts in what another segment held; there must be room.
    fn absorb(&mut self, mut other: Self) {
        for slot in &mut other.slots {
            if let Some(hash) = slot.hash() {
                self.put(hash, std::mem::take(slot));
            }
        }
    }

    /// Takes out what is at a position, and moves what follows nearer to its home.
    fn take(&mut self, index: usize) -> Option<S> {
        let slots = self.slots.len();
        let taken = self.slots.get_mut(index).map(std::mem::take)?;
        self.len -= 1;
        let (mut free, mut next) = (index, index);
        loop {
            next = if next + 1 == slots { 0 } else { next + 1 };
            let Some(hash) = self.slots.get(next).and_then(|slot| slot.hash()) else { break };
            // How far the slot is behind its home, and behind the free one.
            let behind = |from: usize| if next >= from { next - from } else { next + slots - from };
            if behind(home(hash, slots)) >= behind(free) {
                self.slots.swap(free, next);
                free = next;
            }
        }
        Some(taken)
    }
}

/// A table of elements.
#[derive(Clone, Debug)]
pub(super) struct Table<S> {
    segments: Vec<Segment<S>>,
    /// Slots of all segments.
    slots: usize,
    len: usize,
    hasher: Hasher,
}

impl<S: Slot> Default for Table<S> {
    fn default() -> Self {
        let segments = vec![Segment::with_slots(SLOTS_MIN)];
        Self { segments, slots: SLOTS_MIN, len: 0, hasher: Hasher::default() }
    }
}

impl<S: Slot> Table<S> {
    /// Number of elements.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes that it takes, without what the elements have elsewhere.
    pub(super) fn memory(&self) -> usize {
        size_of::<Self>() + self.segments.capacity() * size_of::<Segment<S>>() + self.slots * size_of::<S>()
    }

    /// The hash of a key in this table.
    pub(super) fn hash(&self, key: &[u8]) -> u32 {
        let mut state = self.hasher.build_hasher();
        state.write(key);
        let hash = state.finish();
        (hash ^ hash >> 32) as u32
    }

    /// The segment of a hash among `segments`.
    fn segment_of(hash: u32, segments: usize) -> usize {
        let mask = segments.next_power_of_two() - 1;
        let index = hash as usize & mask;
        if index < segments { index } else { index & (mask >> 1) }
    }

    /// The element of this hash that `is` the one.
    pub(super) fn find(&self, hash: u32, is: impl Fn(&S) -> bool) -> Option<Place> {
        let segment = Self::segment_of(hash, self.segments.len());
        let slot = self.segments.get(segment)?.find(hash, is)?;
        Some(Place { segment, slot })
    }

    /// The element at a place.
    pub(super) fn get(&self, place: Place) -> Option<&S> {
        self.segments.get(place.segment)?.slots.get(place.slot)
    }

    /// The element at a place, to be replaced by one of the same hash.
    pub(super) fn get_mut(&mut self, place: Place) -> Option<&mut S> {
        self.segments.get_mut(place.segment)?.slots.get_mut(place.slot)
    }

    /// Puts an element in that is not there.
    pub(super) fn insert_new(&mut self, hash: u32, element: S) {
        let index = Self::segment_of(hash, self.segments.len());
        let Some(segment) = self.segments.get_mut(index) else { return };
        let old = segment.slots.len();
        segment.grow_if_full();
        self.slots += segment.slots.len() - old;
        segment.put(hash, element);
        self.len += 1;
        if self.len > self.segments.len() * SPLIT_ABOVE {
            self.split();
        }
    }

    /// Takes an element out.
    pub(super) fn remove(&mut self, place: Place) -> Option<S> {
        let segment = self.segments.get_mut(place.segment)?;
        let element = segment.take(place.slot)?;
        let old = segment.slots.len();
        if segment.len * 4 < old && fitting(segment.len) < old {
            segment.resize(fitting(segment.len));
            self.slots -= old - segment.slots.len();
        }
        self.len -= 1;
        if self.len < (self.segments.len() - 1) * MERGE_BELOW {
            self.merge();
        }
        Some(element)
    }

    fn push_segment(&mut self, segment: Segment<S>) {
        self.slots += segment.slots.len();
        self.segments.push(segment);
    }

    /// The segment that the last of `segments` is the other half of.
    fn other_half(last: usize) -> usize {
        last - (1 << last.ilog2())
    }

    /// Adds a segment: the half of another one.
    fn split(&mut self) {
        let new = self.segments.len();
        let index = Self::other_half(new);
        let Some(segment) = self.segments.get_mut(index) else { return };
        let mut whole = std::mem::take(segment);
        self.slots -= whole.slots.len();
        // About half goes; what is a bit more finds room, too.
        let room = fitting(whole.len / 2 + whole.len / 16);
        let (mut stays, mut moves) = (Segment::with_slots(room), Segment::with_slots(room));
        for slot in &mut whole.slots {
            let Some(hash) = slot.hash() else { continue };
            let half = if Self::segment_of(hash, new + 1) == new { &mut moves } else { &mut stays };
            half.grow_if_full();
            half.put(hash, std::mem::take(slot));
        }
        self.slots += stays.slots.len();
        *segment = stays;
        self.push_segment(moves);
    }

    /// Takes the last segment away; what it held goes where it came from.
    fn merge(&mut self) {
        let Some(last) = self.segments.pop() else { return };
        let index = Self::other_half(self.segments.len());
        self.slots -= last.slots.len();
        let Some(segment) = self.segments.get_mut(index) else { return };
        let old = segment.slots.len();
        let wanted = fitting(segment.len + last.len);
        if wanted > old {
            segment.resize(wanted);
            self.slots += segment.slots.len() - old;
        }
        segment.absorb(last);
        if self.segments.len() * 4 < self.segments.capacity() {
            self.segments.shrink_to(self.segments.len() * 2);
        }
    }

    /// How many low bits of the hash are the same for everything in the segment of `hash`.
    fn segment_bits(&self, hash: u32) -> u32 {
        let segments = self.segments.len();
        let all = segments.next_power_of_two();
        let (index, half) = (hash as usize & (all - 1), all / 2);
        let is_split = index < segments && (index >= half || index + half < segments);
        all.ilog2() - u32::from(!is_split)
    }

    /// Shows about `count` elements; returns the cursor to go on with, 0 at the end.
    ///
    /// The order is that of the hashes with their bits reversed, which no growth and no removal changes. So whatever
    /// is there all the time is shown. Everything that one segment holds is together in that order.
    pub(super) fn scan(&self, cursor: u64, count: usize, mut show: impl FnMut(&S)) -> u64 {
        let mut left = count.max(1);
        let mut cursor = cursor;
        while let Ok(from) = u32::try_from(cursor) {
            let hash = from.reverse_bits();
            let Some(segment) = self.segments.get(Self::segment_of(hash, self.segments.len())) else { break };
            let order = |slot: &S| slot.hash().map(u32::reverse_bits).filter(|order| *order >= from);
            let mut found: Vec<(u32, &S)> =
                segment.slots.iter().filter_map(|slot| Some((order(slot)?, slot))).collect();
            found.sort_unstable_by_key(|(order, _)| *order);
            let last = found.get(left - 1).map(|(order, _)| *order);
            let shown = found.iter().take_while(|(order, _)| last.is_none_or(|last| *order <= last));
            left = left.saturating_sub(shown.map(|(_, slot)| show(slot)).count());
            let shift = u32::BITS - self.segment_bits(hash);
            cursor = match last {
                Some(last) => u64::from(last) + 1,
                None => ((cursor >> shift) + 1) << shift,
            };
            if left == 0 {
                break;
            }
        }
        if cursor > u64::from(u32::MAX) { 0 } else { cursor }
    }

    /// [`Table::memory`] without the use of counters.
    #[cfg(test)]
    pub(super) fn recounted(&self) -> usize {
        let slots: usize = self.segments.iter().map(|segment| segment.slots.len()).sum();
        let taken = |segment: &Segment<S>| segment.slots.iter().filter(|slot| !slot.is_empty()).count();
        assert!(self.segments.iter().all(|segment| segment.len == taken(segment)));
        assert_eq!(self.len, self.segments.iter().map(|segment| segment.len).sum::<usize>());
        self.memory() - self.slots * size_of::<S>() + slots * size_of::<S>()
    }
}
