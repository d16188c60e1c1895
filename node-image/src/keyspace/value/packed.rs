//! Elements packed into one block, for small collections.
//!
//! The block is a count of two bytes, the offset of the last group in two more if it is known, and then groups of two
//! elements: a byte whose halves say how each is stored, and the two one after the other. Hashes and sorted sets keep a
//! pair in a group; in lists and sets one half may be absent.

use std::ops::Range;

use super::End;
use super::element::{ABSENT, Encoded, Item, size_at};

/// Bytes of the count and the offset.
const HEADER: usize = 4;

/// Two elements, and where they are in the block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group<'a> {
    start: usize,
    end: usize,
    pub(super) first: Item<'a>,
    pub(super) second: Item<'a>,
}

impl Group<'_> {
    /// Where it is in the block.
    pub(super) fn range(&self) -> Range<usize> {
        self.start..self.end
    }

    fn place(&self, second: bool) -> Place {
        let middle = self.start + 1 + self.first.bytes.len();
        let (start, end) = if second { (middle, self.end) } else { (self.start + 1, middle) };
        Place { group: self.start, start, end, second }
    }
}

/// Where one element is in the block. It is good until the next change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    group: usize,
    start: usize,
    end: usize,
    second: bool,
}

struct Groups<'a> {
    block: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Groups<'a> {
    type Item = Group<'a>;

    fn next(&mut self) -> Option<Group<'a>> {
        let (head, mut rest) = self.block.get(self.at..)?.split_first()?;
        let first = Item::take(head & 15, &mut rest)?;
        let second = Item::take(head >> 4, &mut rest)?;
        let start = self.at;
        self.at = self.block.len() - rest.len();
        Some(Group { start, end: self.at, first, second })
    }
}

/// Elements in one block; none take no memory.
#[derive(Clone, Debug, Default)]
pub(super) struct Packed(Box<[u8]>);

impl Packed {
    /// Number of elements, or of pairs in a block of pairs.
    pub(super) fn len(&self) -> usize {
        match *self.0 {
            [a, b, ..] => u16::from_le_bytes([a, b]).into(),
            _ => 0,
        }
    }

    /// Bytes of the block.
    pub(super) fn size(&self) -> usize {
        self.0.len()
    }

    /// The groups.
    fn groups(&self) -> Groups<'_> {
        Groups { block: &self.0, at: HEADER }
    }

    /// The pairs of a block of pairs.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (Item<'_>, Item<'_>)> {
        self.groups().map(|group| (group.first, group.second))
    }

    /// The group that holds an element, and whether it is the second there.
    ///
    /// Small collections spend their time here: an element of up to eight bytes is compared as one number.
    fn search(&self, wanted: &Encoded<'_>, in_pairs: bool) -> Option<(Group<'_>, bool)> {
        let Some((mask, word)) = wanted.word() else {
            return self.groups().find_map(|group| match (wanted.is(group.first), wanted.is(group.second)) {
                (true, _) => Some((group, false)),
                (_, true) if !in_pairs => Some((group, true)),
                _ => None,
            });
        };
        let block = &*self.0;
        let is_at = |code: u8, at: usize| {
            code == wanted.code
                && match block.get(at..).and_then(|rest| rest.first_chunk()) {
                    Some(bytes) => u64::from_le_bytes(*bytes) & mask == word,
                    // So near to the end there is not always a whole word.
                    None => block.get(at..).is_some_and(|rest| {
                        rest.iter().zip(word.to_le_bytes()).take(wanted.size()).all(|(a, b)| *a == b)
                    }),
                }
        };
        let mut at = HEADER;
        while let Some(head) = block.get(at) {
            let (first, second) = (head & 15, head >> 4);
            let middle = at + 1 + size_at(block, at + 1, first);
            let second_is = !in_pairs && is_at(second, middle);
            if second_is || is_at(first, at + 1) {
                return Some((Groups { block, at }.next()?, second_is));
            }
            at = middle + size_at(block, middle, second);
        }
        None
    }

    /// The pair whose first element is `key`.
    pub(super) fn find_pair(&self, key: &Encoded<'_>) -> Option<Group<'_>> {
        self.search(key, true).map(|(group, _)| group)
    }

    /// The position of the pair whose first element is `key`.
    pub(super) fn position(&self, key: &Encoded<'_>) -> Option<usize> {
        self.groups().position(|group| key.is(group.first))
    }

    /// The offset of the first pair that fulfils `is`, or the end.
    pub(super) fn offset_where(&self, is: impl Fn(Item<'_>, Item<'_>) -> bool) -> usize {
        let found = self.groups().find(|group| is(group.first, group.second));
        found.map_or(self.0.len().max(HEADER), |group| group.start)
    }

    /// Adds a pair behind all others.
    pub(super) fn push_pair(&mut self, first: &Encoded<'_>, second: &Encoded<'_>) {
        self.insert_pair(self.0.len().max(HEADER), first, second);
    }

    /// Puts a pair in at an offset where a group begins, or at the end.
    pub(super) fn insert_pair(&mut self, at: usize, first: &Encoded<'_>, second: &Encoded<'_>) {
        let head = first.code | second.code << 4;
        self.splice(at..at, &[&[head], first.head(), first.body, second.head(), second.body]);
        self.count(1);
    }

    /// Replaces the second element of the pair in `range`.
    pub(super) fn replace_second(&mut self, range: Range<usize>, second: &Encoded<'_>) {
        let group = Groups { block: &self.0, at: range.start }.next();
        if let Some(place) = group.map(|group| group.place(true)) {
            self.replace(place, second);
        }
    }

    /// Removes the pair in `range`.
    pub(super) fn remove_pair(&mut self, range: Range<usize>) {
        self.splice(range, &[]);
        self.count(-1);
    }

    /// The elements with their places.
    pub(super) fn places(&self) -> impl Iterator<Item = (Place, Item<'_>)> {
        self.groups()
            .flat_map(|group| [(group.place(false), group.first), (group.place(true), group.second)])
            .filter(|(_, item)| item.is_present())
    }

    /// The elements.
    pub(super) fn items(&self) -> impl Iterator<Item = Item<'_>> {
        self.groups().flat_map(|group| [group.first, group.second]).filter(|item| item.is_present())
    }

    /// The first element.
    pub(super) fn first(&self) -> Option<(Place, Item<'_>)> {
        self.places().next()
    }

    /// The last element.
    pub(super) fn last(&self) -> Option<(Place, Item<'_>)> {
        let group = self.last_group()?;
        let second = group.second.is_present();
        Some((group.place(second), if second { group.second } else { group.first }))
    }

    /// Removes up to `limit` elements equal to `element`, searching from the front, or from the end. Returns how many.
    pub(super) fn remove_equal(&mut self, from: End, limit: usize, element: &Encoded<'_>) -> usize {
        let mut removed = 0;
        while removed < limit {
            let place = {
                let mut equal = self.places().filter(|(_, item)| element.is(*item)).map(|(place, _)| place);
                if from == End::Left { equal.next() } else { equal.last() }
            };
            let Some(place) = place else { break };
            self.remove(place);
            removed += 1;
        }
        removed
    }

    /// Where `element` is.
    pub(super) fn find(&self, element: &Encoded<'_>) -> Option<Place> {
        self.search(element, false).map(|(group, second)| group.place(second))
    }

    /// The offset of the last group; 0 if it is not known, as after most changes.
    fn known_last(&self) -> usize {
        match *self.0 {
            [_, _, a, b, ..] => u16::from_le_bytes([a, b]).into(),
            _ => 0,
        }
    }

    fn note_last(&mut self, at: usize) {
        if let [_, _, a, b, ..] = &mut *self.0 {
            [*a, *b] = u16::try_from(at).unwrap_or(0).to_le_bytes();
        }
    }

    fn last_group(&self) -> Option<Group<'_>> {
        let block = &*self.0;
        let mut last = self.known_last().max(HEADER);
        let mut at = last;
        while let Some(head) = block.get(at) {
            last = at;
            let middle = at + 1 + size_at(block, at + 1, head & 15);
            at = middle + size_at(block, middle, head >> 4);
        }
        Groups { block, at: last }.next()
    }

    /// Adds an element at the end.
    pub(super) fn push_back(&mut self, element: &Encoded<'_>) {
        let half = self.last_group().filter(|group| !group.second.is_present());
        let (place, end) = (half.map(|group| group.place(true)), self.0.len().max(HEADER));
        match place {
            Some(place) => self.fill(place, element),
            None => self.insert_group(end, element.code | ABSENT << 4, element),
        }
        self.note_last(place.map_or(end, |place| place.group));
    }

    /// Adds an element at the front.
    pub(super) fn push_front(&mut self, element: &Encoded<'_>) {
        match self.groups().next() {
            Some(group) if !group.first.is_present() => self.fill(group.place(false), element),
            _ => self.insert_group(HEADER, ABSENT | element.code << 4, element),
        }
    }

    /// Puts an element in before the one at `place`.
    pub(super) fn insert_before(&mut self, place: Place, element: &Encoded<'_>) {
        if !place.second {
            return self.insert_group(place.group, element.code | ABSENT << 4, element);
        }
        // The second element leaves its group for one of its own.
        let Some(head) = self.0.get(place.group) else { return };
        let next = head >> 4 | ABSENT << 4;
        self.set_code(place, element.code);
        self.splice(place.start..place.start, &[element.head(), element.body, &[next]]);
        self.count(1);
    }

    /// Replaces an element.
    pub(super) fn replace(&mut self, place: Place, element: &Encoded<'_>) {
        self.set_code(place, element.code);
        self.splice(place.start..place.end, &[element.head(), element.body]);
    }

    /// Removes an element.
    pub(super) fn remove(&mut self, place: Place) {
        self.set_code(place, ABSENT);
        let alone = self.0.get(place.group) == Some(&(ABSENT | ABSENT << 4));
        let start = if alone { place.group } else { place.start };
        let last = self.known_last();
        self.splice(start..place.end, &[]);
        self.count(-1);
        if !alone && last == place.group {
            self.note_last(last);
        }
    }

    /// Keeps the elements of a range of positions only.
    pub(super) fn keep(&mut self, range: Range<usize>) {
        /// So many are removed one by one; for more it is quicker to begin anew.
        const FEW: usize = 4;
        let end = range.end.min(self.len());
        let (front, back) = (range.start.min(end), self.len() - end);
        if front + back <= FEW {
            for from_back in std::iter::repeat_n(true, back).chain(std::iter::repeat_n(false, front)) {
                let outer = if from_back { self.last() } else { self.first() };
                let place = outer.map(|(place, _)| place);
                place.into_iter().for_each(|place| self.remove(place));
            }
            return;
        }
        let mut kept = Self::default();
        let items = self.items().take(end).skip(front);
        items.for_each(|item| kept.push_back(&Encoded::text(&item.text())));
        *self = kept;
    }

    fn fill(&mut self, place: Place, element: &Encoded<'_>) {
        self.replace(place, element);
        self.count(1);
    }

    /// Puts in a group of one element.
    fn insert_group(&mut self, at: usize, head: u8, element: &Encoded<'_>) {
        self.splice(at..at, &[&[head], element.head(), element.body]);
        self.count(1);
    }

    fn set_code(&mut self, place: Place, code: u8) {
        if let Some(head) = self.0.get_mut(place.group) {
            *head = if place.second { *head & 15 | code << 4 } else { *head & 0xf0 | code };
        }
    }

    fn count(&mut self, change: i16) {
        let count = (self.len() as u16).wrapping_add_signed(change);
        if count == 0 {
            self.0 = Box::default();
        } else if let [a, b, ..] = &mut *self.0 {
            [*a, *b] = count.to_le_bytes();
        }
    }

    /// Replaces a range of the block by other bytes.
    fn splice(&mut self, range: Range<usize>, pieces: &[&[u8]]) {
        let mut block = std::mem::take(&mut self.0).into_vec();
        let added: usize = pieces.iter().map(|piece| piece.len()).sum();
        if block.is_empty() {
            block.reserve_exact(HEADER + added);
            block.resize(HEADER, 0);
        }
        let old = block.len();
        let new = old + added - range.len();
        block.reserve_exact(new.saturating_sub(old));
        block.resize(new.max(old), 0);
        block.copy_within(range.end..old, range.start + added);
        block.truncate(new);
        let mut target = block.get_mut(range.start..).unwrap_or_default();
        for piece in pieces {
            let Some((place, rest)) = target.split_at_mut_checked(piece.len()) else { break };
            place.copy_from_slice(piece);
            target = rest;
        }
        self.0 = block.into_boxed_slice();
        self.note_last(0);
    }
}
