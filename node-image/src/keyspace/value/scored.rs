//! A sorted set that outgrew the packed form: members by number, an index of them, and the order of their scores.

use std::num::NonZeroU32;
use std::ops::Range;

use super::Text;
use super::name::Name;
use super::part::{ScoresShown, Tap, Tapped};
use super::table::{Place, Slot, Table};
use super::tree::{Pair, Tree};

/// Members in a piece of the row of members.
const PIECE: usize = 256;

#[derive(Clone, Debug)]
struct Member {
    name: Name,
    score: f64,
}

/// Members, numbered from 0 without gaps, in pieces, so that there is no pause in which all of them move.
#[derive(Clone, Debug, Default)]
struct Members {
    pieces: Vec<Vec<Member>>,
    len: usize,
    /// Bytes of the names' blocks.
    heap: usize,
}

impl Members {
    fn get(&self, id: u32) -> Option<&Member> {
        self.pieces.get(id as usize / PIECE)?.get(id as usize % PIECE)
    }

    fn get_mut(&mut self, id: u32) -> Option<&mut Member> {
        self.pieces.get_mut(id as usize / PIECE)?.get_mut(id as usize % PIECE)
    }

    fn name(&self, id: u32) -> &[u8] {
        self.get(id).map_or(&[], |member| member.name.bytes())
    }

    fn push(&mut self, member: Member) {
        self.heap += member.name.heap();
        self.len += 1;
        match self.pieces.last_mut().filter(|piece| piece.len() < PIECE) {
            Some(piece) => piece.push(member),
            None => {
                // The first one grows as it has to: there may be no other.
                let mut piece = Vec::with_capacity(if self.pieces.is_empty() { 1 } else { PIECE });
                piece.push(member);
                self.pieces.push(piece);
            }
        }
    }

    /// Takes a member out; the last one gets its number.
    fn swap_remove(&mut self, id: u32) {
        let Some(last) = self.pieces.last_mut().and_then(Vec::pop) else { return };
        self.len -= 1;
        let gone = match self.get_mut(id) {
            Some(place) => std::mem::replace(place, last),
            None => last,
        };
        self.heap -= gone.name.heap();
        if self.pieces.last().is_some_and(Vec::is_empty) {
            self.pieces.pop();
        }
        if self.pieces.len() * 4 < self.pieces.capacity() {
            self.pieces.shrink_to(self.pieces.len() * 2);
        }
    }

    fn memory(&self) -> usize {
        let first = self.pieces.first().map_or(0, Vec::capacity);
        self.pieces.capacity() * size_of::<Vec<Member>>()
            + (first + self.pieces.len().saturating_sub(1) * PIECE) * size_of::<Member>()
            + self.heap
    }
}

/// The number of a member, one more than it, in the table of names.
#[derive(Clone, Copy, Debug, Default)]
struct Handle {
    hash: u32,
    number: Option<NonZeroU32>,
}

impl Handle {
    fn new(hash: u32, id: u32) -> Self {
        Self { hash, number: NonZeroU32::new(id.wrapping_add(1)) }
    }

    fn id(&self) -> Option<u32> {
        self.number.map(|number| number.get() - 1)
    }
}

impl Slot for Handle {
    fn hash(&self) -> Option<u32> {
        self.number.map(|_| self.hash)
    }

    fn is_empty(&self) -> bool {
        self.number.is_none()
    }
}

/// Members with scores, by name and in order. It holds up to 2^32 - 1 of them, which take 200 GB.
#[derive(Clone, Debug, Default)]
pub(super) struct Scored {
    members: Members,
    index: Table<Handle>,
    tree: Tree,
    shown: Tapped<ScoresShown>,
}

/// Whether a pair comes before one of this score and name.
fn is_before(members: &Members, score: f64, name: &[u8]) -> impl Fn(Pair) -> bool {
    move |pair| match pair.score().partial_cmp(&score) {
        Some(std::cmp::Ordering::Equal) | None => members.name(pair.id) < name,
        Some(order) => order.is_lt(),
    }
}

impl Scored {
    /// Number of members.
    pub(super) fn len(&self) -> usize {
        self.members.len
    }

    fn find(&self, hash: u32, name: &[u8]) -> Option<(Place, u32)> {
        let is = |handle: &Handle| {
            handle.hash == hash && handle.id().is_some_and(|id| self.members.name(id) == name)
        };
        let place = self.index.find(hash, is)?;
        Some((place, self.index.get(place)?.id()?))
    }

    /// The score of a member.
    pub(super) fn score(&self, name: &[u8]) -> Option<f64> {
        let (_, id) = self.find(self.index.hash(name), name)?;
        self.members.get(id).map(|member| member.score)
    }

    /// Sets a member's score; returns the score that it had.
    pub(super) fn set(&mut self, name: &[u8], score: f64) -> Option<f64> {
        self.before(name);
        let hash = self.index.hash(name);
        let Some((_, id)) = self.find(hash, name) else {
            let id = self.members.len as u32;
            self.members.push(Member { name: Name::new(name), score });
            self.index.insert_new(hash, Handle::new(hash, id));
            self.tree.insert(is_before(&self.members, score, name), Pair::new(score, id));
            return None;
        };
        let before = self.members.get(id)?.score;
        if before != score {
            self.tree.remove(is_before(&self.members, before, name));
            self.tree.insert(is_before(&self.members, score, name), Pair::new(score, id));
            self.members.get_mut(id)?.score = score;
        }
        Some(before)
    }

    /// Removes a member; returns the score that it had.
    pub(super) fn remove(&mut self, name: &[u8]) -> Option<f64> {
        self.before(name);
        let (place, id) = self.find(self.index.hash(name), name)?;
        let score = self.members.get(id)?.score;
        self.tree.remove(is_before(&self.members, score, name));
        self.index.remove(place);
        let last = (self.members.len - 1) as u32;
        if id != last {
            self.renumber(last, id)?;
        }
        self.members.swap_remove(id);
        Some(score)
    }

    /// Puts another number wherever that of a member stands.
    fn renumber(&mut self, old: u32, new: u32) -> Option<()> {
        let (name, score) = (self.members.name(old), self.members.get(old)?.score);
        let hash = self.index.hash(name);
        let place = self.index.find(hash, |handle| handle.id() == Some(old))?;
        self.tree.set_id(is_before(&self.members, score, name), new);
        *self.index.get_mut(place)? = Handle::new(hash, new);
        Some(())
    }

    /// A member is about to change, to come or to go.
    #[inline]
    fn before(&mut self, name: &[u8]) {
        if self.shown.tap().is_some() {
            let score = self.score(name);
            self.shown.get().into_iter().for_each(|shown| shown.before(name, score));
        }
    }

    /// Has all shown in parts.
    pub(super) fn set_tap(&mut self, tap: Tap) {
        self.shown.set(ScoresShown::new(tap));
    }

    /// What was set in.
    pub(super) fn tap(&self) -> Option<&Tap> {
        self.shown.tap()
    }

    /// Shows some members. Returns whether there were any left.
    pub(super) fn show_more(&mut self) -> bool {
        const MEMBERS: usize = 256;
        let Some(shown) = self.shown.get() else { return false };
        let (members, tree) = (&self.members, &self.tree);
        let from = shown.last.as_ref().map_or(0, |(score, name)| {
            let is_shown = is_before(members, *score, name);
            tree.rank(|pair| is_shown(pair) || (pair.score() == *score && members.name(pair.id) == &**name))
        });
        let pairs: Vec<_> = tree.range(from..from + MEMBERS).collect();
        // They stand in no order in memory: so the processor waits for all of them at once, not for one after the other.
        let first = |pair: &Pair| members.name(pair.id).first().map_or(0, |byte| *byte);
        std::hint::black_box(pairs.iter().fold(0, |seen, pair| seen ^ first(pair)));
        shown.show(pairs.iter().map(|pair| (pair.score(), members.name(pair.id))));
        from < members.len
    }

    /// How many members fulfil `before`, which holds for a first part of them only.
    pub(super) fn rank(&self, before: impl Fn(f64, &[u8]) -> bool) -> usize {
        self.tree.rank(|pair| before(pair.score(), self.members.name(pair.id)))
    }

    /// The members of a range of positions, with their scores, lowest first.
    pub(super) fn range(&self, range: Range<usize>) -> impl DoubleEndedIterator<Item = (f64, Text<'_>)> {
        self.tree.range(range).map(|pair| (pair.score(), Text::Bytes(self.members.name(pair.id))))
    }

    /// Shows about `count` members; returns the cursor to go on with, 0 at the end.
    pub(super) fn scan(&self, cursor: u64, count: usize, mut show: impl FnMut(f64, &[u8])) -> u64 {
        self.index.scan(cursor, count, |handle| {
            if let Some(member) = handle.id().and_then(|id| self.members.get(id)) {
                show(member.score, member.name.bytes());
            }
        })
    }

    /// Bytes that it takes.
    pub(super) fn memory(&self) -> usize {
        size_of::<Members>()
            + size_of::<Tree>()
            + self.members.memory()
            + self.index.memory()
            + self.tree.memory()
    }

    /// [`Scored::memory`] without the use of counters.
    #[cfg(test)]
    pub(super) fn recounted(&self) -> usize {
        let members = self.members.pieces.iter().flatten();
        let heap: usize = members.clone().map(|member| member.name.heap()).sum();
        assert_eq!((members.count(), self.index.len()), (self.members.len, self.members.len));
        for (score, name) in self.range(0..self.len()) {
            assert_eq!(self.score(&name), Some(score));
        }
        let slots: usize = self.members.pieces.iter().map(Vec::capacity).sum();
        let pieces = self.members.pieces.capacity() * size_of::<Vec<Member>>();
        assert_eq!(self.members.memory(), pieces + slots * size_of::<Member>() + heap);
        self.memory() - self.index.memory() + self.index.recounted() - self.tree.memory()
            + self.tree.recounted()
    }
}
