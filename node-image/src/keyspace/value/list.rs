//! Lists.

use std::collections::VecDeque;
use std::ops::Range;

use either::Either;

use super::Text;
use super::element::Encoded;
use super::limits::Limits;
use super::packed::Packed;
use super::part::{ChunksShown, Tap, Tapped};

/// Bytes of a chunk above which elements go to another one. What is done within a chunk takes time with its size, so
/// this is less than the size up to which a list counts as small.
const CHUNK_BYTES: usize = 1024;

/// An end of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The head.
    Left,
    /// The tail.
    Right,
}

/// A list of strings.
#[derive(Clone, Debug)]
pub struct List(Form);

#[derive(Clone, Debug)]
enum Form {
    One(Packed),
    Many(Box<Chunks>),
}

/// A list of more than one chunk. No chunk is empty.
#[derive(Clone, Debug, Default)]
struct Chunks {
    chunks: VecDeque<Packed>,
    len: usize,
    /// Bytes of the chunks.
    bytes: usize,
    /// Whether it outgrew the limit of a small list.
    is_large: bool,
    shown: Tapped<ChunksShown>,
}

/// Whether a list of so many elements and bytes is within a limit divided by `part`.
fn is_small(limits: Limits, len: usize, bytes: usize, part: usize) -> bool {
    let (most, most_bytes) = limits.list();
    len <= most / part && bytes <= most_bytes / part
}

fn has_room(chunk: &Packed, element: &Encoded<'_>) -> bool {
    chunk.len() == 0 || chunk.size() + element.size() < CHUNK_BYTES
}

fn push(chunk: &mut Packed, end: End, element: &Encoded<'_>) {
    match end {
        End::Left => chunk.push_front(element),
        End::Right => chunk.push_back(element),
    }
}

/// As few chunks as hold the texts.
fn chunks<'a>(texts: impl Iterator<Item = Text<'a>>) -> Vec<Packed> {
    let mut chunks: Vec<Packed> = Vec::new();
    for text in texts {
        let element = Encoded::text(&text);
        match chunks.last_mut().filter(|chunk| has_room(chunk, &element)) {
            Some(chunk) => chunk.push_back(&element),
            None => {
                let mut chunk = Packed::default();
                chunk.push_back(&element);
                chunks.push(chunk);
            }
        }
    }
    chunks
}

impl From<Packed> for Chunks {
    fn from(chunk: Packed) -> Self {
        let (len, bytes) = (chunk.len(), chunk.size());
        let chunks = Some(chunk).filter(|chunk| chunk.len() > 0).into_iter().collect();
        Self { chunks, len, bytes, ..Self::default() }
    }
}

impl Chunks {
    /// The one chunk of what is small, if there are no others.
    fn only(&mut self) -> Option<Packed> {
        let is_one = !self.is_large && self.chunks.len() <= 1 && self.shown.get().is_none();
        is_one.then(|| self.chunks.pop_front().unwrap_or_default())
    }

    fn push(&mut self, end: End, element: &Encoded<'_>) {
        let last = match end {
            End::Left => 0,
            End::Right => self.chunks.len().saturating_sub(1),
        };
        self.len += 1;
        if let Some(chunk) = self.chunks.get_mut(last).filter(|chunk| has_room(chunk, element)) {
            self.shown.get().into_iter().for_each(|shown| shown.before(last, chunk));
            self.bytes -= chunk.size();
            push(chunk, end, element);
            self.bytes += chunk.size();
            return;
        }
        let mut chunk = Packed::default();
        push(&mut chunk, end, element);
        self.bytes += chunk.size();
        let index = if end == End::Left { 0 } else { self.chunks.len() };
        self.insert(index, chunk);
    }

    /// Puts a chunk in.
    fn insert(&mut self, index: usize, chunk: Packed) {
        self.chunks.insert(index, chunk);
        self.shown.get().into_iter().for_each(|shown| shown.added(index));
    }

    fn pop(&mut self, end: End) -> Option<Box<[u8]>> {
        let index = if end == End::Left { 0 } else { self.chunks.len().checked_sub(1)? };
        self.change(index, |chunk| {
            let (place, item) = if end == End::Left { chunk.first()? } else { chunk.last()? };
            let text = item.text().into();
            chunk.remove(place);
            Some(text)
        })?
    }

    /// The chunk that holds the element at `index`, and its position there. The walk begins at the nearer end.
    fn locate(&self, index: usize) -> Option<(usize, usize)> {
        if index < self.len / 2 {
            let mut left = index;
            for (chunk, packed) in self.chunks.iter().enumerate() {
                if left < packed.len() {
                    return Some((chunk, left));
                }
                left -= packed.len();
            }
            return None;
        }
        let mut end = self.len;
        for (chunk, packed) in self.chunks.iter().enumerate().rev() {
            end = end.checked_sub(packed.len())?;
            if index >= end {
                return (index < self.len).then_some((chunk, index - end));
            }
        }
        None
    }

    /// Changes a chunk, and keeps count. It is split if it is far too large then, and goes if it is empty.
    fn change<R>(&mut self, index: usize, change: impl FnOnce(&mut Packed) -> R) -> Option<R> {
        let chunk = self.chunks.get_mut(index)?;
        self.shown.get().into_iter().for_each(|shown| shown.before(index, chunk));
        self.len -= chunk.len();
        self.bytes -= chunk.size();
        let result = change(chunk);
        self.len += chunk.len();
        self.bytes += chunk.size();
        if chunk.len() == 0 {
            self.replace(index..index + 1, Vec::new());
        } else if chunk.size() > 2 * CHUNK_BYTES && chunk.len() > 1 {
            let parts = chunks(chunk.items().map(|item| item.text()));
            self.replace(index..index + 1, parts);
        } else if chunk.size() < CHUNK_BYTES / 4 {
            self.merge(index);
        }
        Some(result)
    }

    fn replace(&mut self, range: Range<usize>, parts: Vec<Packed>) {
        if let Some(shown) = self.shown.get() {
            range
                .clone()
                .zip(self.chunks.range(range.clone()))
                .for_each(|(index, chunk)| shown.before(index, chunk));
            shown.removed(range.clone());
        }
        for chunk in self.chunks.drain(range.clone()) {
            self.bytes -= chunk.size();
        }
        for chunk in parts.into_iter().rev() {
            self.bytes += chunk.size();
            self.insert(range.start, chunk);
        }
    }

    /// Makes one of a chunk and the next if both are small. The ends of a list are left alone, as they grow again.
    fn merge(&mut self, index: usize) {
        let size = |index: usize| self.chunks.get(index).map_or(CHUNK_BYTES, Packed::size);
        if index == 0 || index + 2 >= self.chunks.len() || size(index) + size(index + 1) > CHUNK_BYTES / 2 {
            return;
        }
        let both = self.chunks.range(index..index + 2).flat_map(Packed::items);
        let parts = chunks(both.map(|item| item.text()));
        self.replace(index..index + 2, parts);
    }

    /// Keeps the elements of a range of positions only.
    fn keep(&mut self, range: Range<usize>) {
        let end = range.end.min(self.len);
        for (from, mut surplus) in [(End::Right, self.len - end), (End::Left, range.start.min(end))] {
            while surplus > 0 {
                let left = from == End::Left;
                let index = if left { 0 } else { self.chunks.len().saturating_sub(1) };
                let Some(chunk) = self.chunks.get(index) else { break };
                let cut = surplus.min(chunk.len());
                let kept = if left { cut..chunk.len() } else { 0..chunk.len() - cut };
                self.change(index, |chunk| chunk.keep(kept));
                surplus -= cut;
            }
        }
    }
}

impl Default for List {
    fn default() -> Self {
        Self(Form::One(Packed::default()))
    }
}

impl List {
    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            Form::One(chunk) => chunk.len(),
            Form::Many(chunks) => chunks.len,
        }
    }

    /// Whether it has no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds an element at an end.
    pub fn push(&mut self, end: End, item: &[u8]) {
        self.push_within(Limits::current(), end, item);
    }

    pub(super) fn push_within(&mut self, limits: Limits, end: End, item: &[u8]) {
        let element = Encoded::text(item);
        if let Form::One(chunk) = &mut self.0
            && is_small(limits, chunk.len() + 1, chunk.size() + element.size(), 1)
            && has_room(chunk, &element)
        {
            return push(chunk, end, &element);
        }
        self.change(limits, |chunks| chunks.push(end, &element));
    }

    /// Changes it as chunks, and goes to the form that its size asks for then. What is large counts as small again at
    /// half the limit only.
    fn change<R>(&mut self, limits: Limits, change: impl FnOnce(&mut Chunks) -> R) -> R {
        match &mut self.0 {
            Form::One(chunk) => {
                let mut chunks = Box::new(Chunks::from(std::mem::take(chunk)));
                let result = change(&mut chunks);
                chunks.is_large = !is_small(limits, chunks.len, chunks.bytes, 1);
                self.0 = match chunks.only() {
                    Some(chunk) => Form::One(chunk),
                    None => Form::Many(chunks),
                };
                result
            }
            Form::Many(chunks) => {
                let result = change(chunks);
                let part = if chunks.is_large { 2 } else { 1 };
                chunks.is_large = !is_small(limits, chunks.len, chunks.bytes, part);
                if let Some(chunk) = chunks.only() {
                    self.0 = Form::One(chunk);
                } else if chunks.chunks.capacity() > 64 && chunks.chunks.len() < chunks.chunks.capacity() / 4
                {
                    chunks.chunks.shrink_to(chunks.chunks.len() * 2);
                }
                result
            }
        }
    }

    /// Takes an element from an end.
    pub fn pop(&mut self, end: End) -> Option<Box<[u8]>> {
        self.pop_within(Limits::current(), end)
    }

    pub(super) fn pop_within(&mut self, limits: Limits, end: End) -> Option<Box<[u8]>> {
        match &mut self.0 {
            Form::One(chunk) => {
                let (place, item) = if end == End::Left { chunk.first()? } else { chunk.last()? };
                let text = item.text().into();
                chunk.remove(place);
                Some(text)
            }
            Form::Many(_) => self.change(limits, |chunks| chunks.pop(end)),
        }
    }

    /// The element at `index`.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<Text<'_>> {
        self.range(index..index.saturating_add(1)).next()
    }

    /// Replaces the element at `index`. Returns whether there is one.
    pub fn set(&mut self, index: usize, item: &[u8]) -> bool {
        self.set_within(Limits::current(), index, item)
    }

    pub(super) fn set_within(&mut self, limits: Limits, index: usize, item: &[u8]) -> bool {
        self.change(limits, |chunks| {
            let Some((chunk, position)) = chunks.locate(index) else { return false };
            let replaced = chunks.change(chunk, |chunk| {
                let (place, _) = chunk.places().nth(position)?;
                chunk.replace(place, &Encoded::text(item));
                Some(())
            });
            replaced.flatten().is_some()
        })
    }

    /// Puts an element in at `index`, or at the end if there are fewer.
    pub fn insert(&mut self, index: usize, item: &[u8]) {
        self.insert_within(Limits::current(), index, item);
    }

    pub(super) fn insert_within(&mut self, limits: Limits, index: usize, item: &[u8]) {
        let element = Encoded::text(item);
        self.change(limits, |chunks| match chunks.locate(index) {
            None => chunks.push(End::Right, &element),
            Some((chunk, position)) => {
                chunks.change(chunk, |chunk| {
                    let place = chunk.places().nth(position);
                    place
                        .map(|(place, _)| place)
                        .into_iter()
                        .for_each(|place| chunk.insert_before(place, &element));
                });
            }
        });
    }

    /// Removes up to `limit` elements equal to `item`, searching from `from`. Returns how many it removed.
    pub fn remove(&mut self, from: End, limit: usize, item: &[u8]) -> usize {
        self.remove_within(Limits::current(), from, limit, item)
    }

    pub(super) fn remove_within(&mut self, limits: Limits, from: End, limit: usize, item: &[u8]) -> usize {
        let element = Encoded::text(item);
        self.change(limits, |chunks| {
            let mut left = limit;
            let mut rest = chunks.chunks.len();
            let mut index = 0;
            while rest > 0 && left > 0 {
                rest -= 1;
                let before = chunks.chunks.len();
                let at = if from == End::Left { index } else { rest };
                chunks.change(at, |chunk| left -= chunk.remove_equal(from, left, &element));
                // A chunk that went makes room for the next one.
                index += usize::from(chunks.chunks.len() == before);
            }
            limit - left
        })
    }

    /// Keeps the elements of a range of positions only.
    pub fn keep(&mut self, range: Range<usize>) {
        self.keep_within(Limits::current(), range);
    }

    pub(super) fn keep_within(&mut self, limits: Limits, range: Range<usize>) {
        match &mut self.0 {
            Form::One(chunk) => chunk.keep(range),
            Form::Many(_) => self.change(limits, |chunks| chunks.keep(range)),
        }
    }

    fn chunks(&self) -> impl DoubleEndedIterator<Item = &Packed> {
        match &self.0 {
            Form::One(chunk) => Either::Left(std::iter::once(chunk)),
            Form::Many(chunks) => Either::Right(chunks.chunks.iter()),
        }
    }

    /// The elements from head to tail.
    pub fn iter(&self) -> impl Iterator<Item = Text<'_>> {
        self.chunks().flat_map(Packed::items).map(|item| item.text())
    }

    /// The elements from tail to head.
    pub fn iter_back(&self) -> impl Iterator<Item = Text<'_>> {
        let chunks = self.chunks().rev();
        chunks
            .flat_map(move |chunk| chunk.items().collect::<Vec<_>>().into_iter().rev())
            .map(|item| item.text())
    }

    /// The elements of a range of positions.
    pub fn range(&self, range: Range<usize>) -> impl Iterator<Item = Text<'_>> {
        let (chunk, skip) = match &self.0 {
            Form::One(_) => (0, range.start),
            Form::Many(chunks) => chunks.locate(range.start).unwrap_or((chunks.chunks.len(), 0)),
        };
        let chunks = match &self.0 {
            Form::One(chunk) => Either::Left(std::iter::once(chunk)),
            Form::Many(chunks) => Either::Right(chunks.chunks.range(chunk..)),
        };
        chunks.flat_map(Packed::items).skip(skip).take(range.len()).map(|item| item.text())
    }

    pub(super) fn encoding(&self) -> &'static str {
        match &self.0 {
            Form::Many(chunks) if chunks.is_large => "quicklist",
            _ => "listpack",
        }
    }

    /// Whether it can be shown in parts.
    pub(super) fn can_tap(&self) -> bool {
        matches!(self.0, Form::Many(_))
    }

    /// Has it shown in parts.
    pub(super) fn set_tap(&mut self, tap: Tap) {
        if let Form::Many(chunks) = &mut self.0 {
            chunks.shown.set(ChunksShown::new(tap, chunks.chunks.len()));
        }
    }

    pub(super) fn tap(&self) -> Option<&Tap> {
        if let Form::Many(chunks) = &self.0 { chunks.shown.tap() } else { None }
    }

    /// Shows some chunks. Returns whether there were any left.
    pub(super) fn show_more(&mut self) -> bool {
        const CHUNKS: usize = 16;
        let Form::Many(chunks) = &mut self.0 else { return false };
        let Some(shown) = chunks.shown.get() else { return false };
        (0..CHUNKS).take_while(|_| shown.show_next(&chunks.chunks)).count() > 0
    }

    /// About how many blocks of memory it has.
    pub(super) fn blocks(&self) -> usize {
        match &self.0 {
            Form::One(_) => 1,
            Form::Many(chunks) => chunks.chunks.len(),
        }
    }

    pub(super) fn memory(&self) -> usize {
        let form = match &self.0 {
            Form::One(chunk) => chunk.size(),
            Form::Many(chunks) => {
                size_of::<Chunks>() + chunks.chunks.capacity() * size_of::<Packed>() + chunks.bytes
            }
        };
        size_of::<Self>() + form
    }

    /// [`List::memory`] without the use of counters.
    #[cfg(test)]
    pub(super) fn recounted(&self) -> usize {
        let Form::Many(chunks) = &self.0 else { return self.memory() };
        assert_eq!(chunks.len, self.iter().count());
        assert!(chunks.chunks.iter().all(|chunk| chunk.len() > 0));
        let bytes: usize = chunks.chunks.iter().map(Packed::size).sum();
        self.memory() - chunks.bytes + bytes
    }
}
