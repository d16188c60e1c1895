//! A page: the entries of one hash bucket, packed into one block of memory.
//!
//! Entries are added from the front. From the end grows the directory: groups of eight one-byte tags and eight two-byte
//! offsets, so that a look-up compares eight tags at once and touches few entries that are not the wanted one. Between
//! them is free space. What does not fit into a page (collections, long strings, long keys) is an object beside it, which
//! the entry names by its index. There is no allocation per key, and none of its overhead.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use smallvec::SmallVec;

use super::entry::{EntryRef, Head, KEY_MAX, Meta, STRING_MAX};
use super::value::{Str, Tap, Value, ValueRef};

/// Entries of a group of the directory.
const LANES: usize = 8;
/// Bytes of a group: tags, then offsets.
const GROUP: usize = LANES + 2 * LANES;
/// The largest page: offsets take two bytes.
const PAGE_MAX: usize = 1 << 16;

const LOW_BITS: u64 = 0x0101_0101_0101_0101;
const HIGH_BITS: u64 = 0x8080_8080_8080_8080;

/// What is beside a page.
#[derive(Clone, Debug)]
enum Object {
    Value(Value),
    Keyed(Box<(Box<[u8]>, Value)>),
}

impl Object {
    fn value(&self) -> &Value {
        match self {
            Self::Value(value) => value,
            Self::Keyed(keyed) => &keyed.1,
        }
    }

    fn value_mut(&mut self) -> &mut Value {
        match self {
            Self::Value(value) => value,
            Self::Keyed(keyed) => &mut keyed.1,
        }
    }

    fn into_value(self) -> Value {
        match self {
            Self::Value(value) => value,
            Self::Keyed(keyed) => keyed.1,
        }
    }

    fn memory(&self) -> usize {
        match self {
            Self::Value(value) => value.memory(),
            Self::Keyed(keyed) => size_of_val(&**keyed) + keyed.0.len() + keyed.1.memory(),
        }
    }
}

/// The objects of a page. Indices stay as they are when others go.
#[derive(Clone, Debug, Default)]
struct Objects {
    /// Many pages have one, which needs no block beside this one.
    list: SmallVec<[Option<Object>; 1]>,
    vacant: usize,
    /// Bytes of what is in the list.
    memory: usize,
}

impl Objects {
    fn add(&mut self, object: Object) -> usize {
        self.memory += object.memory();
        if self.vacant > 0
            && let Some(index) = self.list.iter().position(Option::is_none)
            && let Some(place) = self.list.get_mut(index)
        {
            self.vacant -= 1;
            *place = Some(object);
            return index;
        }
        if self.list.len() == self.list.capacity() {
            self.list.reserve_exact(self.list.len() / 4 + 1);
        }
        self.list.push(Some(object));
        self.list.len() - 1
    }

    fn take(&mut self, index: usize) -> Option<Object> {
        let object = self.list.get_mut(index)?.take()?;
        self.vacant += 1;
        self.memory = self.memory.saturating_sub(object.memory());
        Some(object)
    }

    fn get(&self, index: usize) -> Option<&Object> {
        self.list.get(index)?.as_ref()
    }
}

/// A page cannot take the entry: it would be too large. The table has to split it first.
#[derive(Debug)]
pub(super) struct Full;

/// What is to be put into a page.
#[derive(Debug)]
pub(super) enum NewValue<'a> {
    /// A string of at most [`STRING_MAX`] bytes.
    Inline {
        /// Its bytes.
        bytes: &'a [u8],
        /// Whether it was changed in place.
        edited: bool,
    },
    /// Anything else.
    Object(Value),
}

impl<'a> NewValue<'a> {
    /// A string that was set as it is.
    pub(super) fn string(bytes: &'a [u8]) -> Self {
        if bytes.len() <= STRING_MAX {
            Self::Inline { bytes, edited: false }
        } else {
            Self::Object(Value::string(bytes))
        }
    }

    /// A value; a small string is put into `scratch`, and from there into the page.
    pub(super) fn of(value: Value, scratch: &'a mut Str) -> Self {
        match value {
            Value::Str(text) if text.len() <= STRING_MAX => {
                *scratch = text;
                Self::Inline { bytes: scratch.bytes(), edited: scratch.is_edited() }
            }
            other => Self::Object(other),
        }
    }
}

/// How an entry is best shown.
#[derive(Debug)]
pub enum Showing {
    /// As it is.
    Whole,
    /// A large collection: in parts, by a tap.
    Elements,
    /// A long string: in parts, from these bytes, which stay as they are.
    Bytes(Arc<Vec<u8>>),
}

/// The entries of one hash bucket.
#[derive(Clone, Debug, Default)]
pub struct Page {
    bytes: Box<[u8]>,
    objects: Option<Box<Objects>>,
    /// The number of the snapshot that has seen it.
    pub(super) version: u32,
    /// Where the free space begins.
    used: u32,
    /// Bytes before that which belong to no entry any more.
    garbage: u32,
    count: u16,
}

impl Page {
    /// An empty page that the snapshot of this number need not see.
    pub(super) fn new(version: u32) -> Self {
        Self { version, ..Self::default() }
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes that it takes, its objects included. What entries left behind that were removed does not count: the next
    /// ones take it.
    pub(super) fn memory(&self) -> usize {
        let objects = self.objects.as_deref();
        self.bytes.len() - self.garbage as usize
            + objects.map_or(0, |objects| {
                let spilled = if objects.list.spilled() { objects.list.capacity() } else { 0 };
                size_of::<Objects>() + spilled * size_of::<Option<Object>>() + objects.memory
            })
    }

    /// Bytes of its entries in the page.
    pub(super) fn live_bytes(&self) -> usize {
        (self.used - self.garbage) as usize
    }

    /// The entries, the expired ones included.
    pub fn iter(&self) -> impl Iterator<Item = EntryRef<'_>> {
        (0..self.len()).filter_map(|index| self.entry(index))
    }

    /// Shows the entries as they are now, and how each is best shown. For a collection a tap may be returned.
    pub fn show(&mut self, mut show: impl FnMut(&EntryRef<'_>, Showing) -> Option<Tap>) {
        for index in 0..self.len() {
            let Some(entry) = self.entry(index) else { continue };
            let showing = self.value(index).map_or(Showing::Whole, Value::showing);
            if let Some(tap) = show(&entry, showing) {
                let version = self.version;
                self.change_object(index, |value| value.set_tap(tap, version));
            }
        }
    }

    /// The object of an entry, if it has one.
    fn value(&self, index: usize) -> Option<&Value> {
        let objects = self.objects.as_deref()?;
        objects.get(self.head(index)?.object_index()?).map(Object::value)
    }

    fn group_at(&self, group: usize) -> usize {
        self.bytes.len().saturating_sub(GROUP * (group + 1))
    }

    fn group(&self, group: usize) -> Option<&[u8; GROUP]> {
        self.bytes.get(self.group_at(group)..)?.first_chunk()
    }

    fn group_mut(&mut self, group: usize) -> Option<&mut [u8; GROUP]> {
        let at = self.group_at(group);
        self.bytes.get_mut(at..)?.first_chunk_mut()
    }

    #[inline]
    fn offset(&self, index: usize) -> Option<usize> {
        let lane = LANES + 2 * (index % LANES);
        let &[low, high] = self.group(index / LANES)?.get(lane..)?.first_chunk()?;
        Some(usize::from(u16::from_le_bytes([low, high])))
    }

    fn tag(&self, index: usize) -> u8 {
        self.group(index / LANES).and_then(|group| group.get(index % LANES).copied()).unwrap_or(0)
    }

    fn set_lane(&mut self, index: usize, tag: u8, offset: usize) {
        let Some(group) = self.group_mut(index / LANES) else { return };
        let lane = index % LANES;
        let [low, high] = (offset as u16).to_le_bytes();
        for (at, byte) in [(lane, tag), (LANES + 2 * lane, low), (LANES + 2 * lane + 1, high)] {
            if let Some(place) = group.get_mut(at) {
                *place = byte;
            }
        }
    }

    fn tail(&self, index: usize) -> Option<&[u8]> {
        self.bytes.get(self.offset(index)?..)
    }

    fn head(&self, index: usize) -> Option<Head> {
        Head::read(self.tail(index)?)
    }

    /// The place of `key` among the entries. `tag` is never 0.
    #[inline]
    pub(super) fn find(&self, tag: u8, key: &[u8]) -> Option<usize> {
        let wanted = LOW_BITS.wrapping_mul(u64::from(tag));
        for group in 0..self.len().div_ceil(LANES) {
            let tags = u64::from_le_bytes(*self.group(group)?.first_chunk()?) ^ wanted;
            // A zero byte is a match; a borrow may show more of them than there are, which the comparison sorts out.
            let mut matches = tags.wrapping_sub(LOW_BITS) & !tags & HIGH_BITS;
            while matches != 0 {
                let index = group * LANES + (matches.trailing_zeros() / 8) as usize;
                matches &= matches - 1;
                if index < self.len() && self.key(index) == Some(key) {
                    return Some(index);
                }
            }
        }
        None
    }

    /// Touches the directory.
    pub(super) fn warm_directory(&self) -> usize {
        self.group(0).map_or(0, |group| usize::from(group[0]))
    }

    /// Touches the first entry that has this tag.
    pub(super) fn warm_entry(&self, tag: u8) -> usize {
        let wanted = LOW_BITS.wrapping_mul(u64::from(tag));
        for group in 0..self.len().div_ceil(LANES) {
            let Some(tags) = self.group(group).and_then(|group| group.first_chunk()) else { return 0 };
            let tags = u64::from_le_bytes(*tags) ^ wanted;
            let matches = tags.wrapping_sub(LOW_BITS) & !tags & HIGH_BITS;
            if matches != 0 {
                let index = group * LANES + (matches.trailing_zeros() / 8) as usize;
                return self.tail(index).and_then(<[u8]>::first).map_or(0, |byte| usize::from(*byte));
            }
        }
        0
    }

    #[inline]
    fn key(&self, index: usize) -> Option<&[u8]> {
        let tail = self.tail(index)?;
        let head = Head::read(tail)?;
        if head.is_key_in_object() {
            return self.object_key(&head);
        }
        tail.get(head.len()..head.len() + head.key_len())
    }

    fn object_key(&self, head: &Head) -> Option<&[u8]> {
        match self.objects.as_ref()?.get(head.object_index()?)? {
            Object::Keyed(keyed) => Some(&keyed.0),
            Object::Value(_) => None,
        }
    }

    /// The entry at a place.
    #[inline]
    pub(super) fn entry(&self, index: usize) -> Option<EntryRef<'_>> {
        let tail = self.tail(index)?;
        let head = Head::read(tail)?;
        let entry = tail.get(head.len()..head.entry_len())?;
        let (key, value) = match head.object_index() {
            None => {
                let (key, bytes) = entry.split_at_checked(head.key_len())?;
                (key, ValueRef::Str { bytes, edited: head.is_edited() })
            }
            Some(object) => {
                let value = self.objects.as_ref()?.get(object)?.value().into();
                (if head.is_key_in_object() { self.object_key(&head)? } else { entry }, value)
            }
        };
        Some(EntryRef { key, value, expire_at: head.meta.expire_at, access: head.meta.access })
    }

    /// When the entry at a place expires; 0: never.
    pub(super) fn expire_at(&self, index: usize) -> u64 {
        self.head(index).map_or(0, |head| head.meta.expire_at)
    }

    /// Changes the object at a place, if the value is one, and keeps the account of its memory.
    pub(super) fn change_object<R>(
        &mut self,
        index: usize,
        change: impl FnOnce(&mut Value) -> R,
    ) -> Option<R> {
        let object = self.head(index)?.object_index()?;
        let objects = self.objects.as_deref_mut()?;
        let object = objects.list.get_mut(object)?.as_mut()?;
        let before = object.memory();
        let result = change(object.value_mut());
        objects.memory = (objects.memory + object.memory()).saturating_sub(before);
        Some(result)
    }

    /// Makes room for one more entry of `len` bytes.
    ///
    /// # Errors
    /// If the page would be too large.
    pub(super) fn reserve(&mut self, len: usize) -> Result<(), Full> {
        let directory = (self.len() + 1).div_ceil(LANES) * GROUP;
        if self.used as usize + len + directory <= self.bytes.len() {
            return Ok(());
        }
        let mut needed = self.live_bytes() + len + directory;
        if self.garbage > 0 {
            // Entries that change their length would have a page without spare room rebuilt again and again.
            needed += needed / 16;
        }
        if needed > PAGE_MAX {
            return Err(Full);
        }
        self.rebuild(size_class(needed));
        Ok(())
    }

    /// Moves everything into a block of `capacity` bytes, without the garbage.
    fn rebuild(&mut self, capacity: usize) {
        if self.garbage == 0 && self.extend(capacity).is_some() {
            return;
        }
        let mut fresh = Self {
            bytes: vec![0; capacity].into_boxed_slice(),
            objects: self.objects.take(),
            version: self.version,
            ..Self::default()
        };
        for index in 0..self.len() {
            let raw = self.head(index).and_then(|head| self.tail(index)?.get(..head.entry_len()));
            fresh.append(self.tag(index), raw.unwrap_or_default());
        }
        *self = fresh;
    }

    /// Moves entries and directory as they are into a block of `capacity` bytes. Gives up if they do not fit.
    fn extend(&mut self, capacity: usize) -> Option<()> {
        let directory = self.bytes.get(self.group_at(self.len().div_ceil(LANES).checked_sub(1)?)..)?;
        let entries = self.bytes.get(..self.used as usize)?;
        let free = capacity.checked_sub(entries.len() + directory.len())?;
        let mut bytes = Vec::with_capacity(capacity);
        bytes.extend_from_slice(entries);
        bytes.resize(entries.len() + free, 0);
        bytes.extend_from_slice(directory);
        self.bytes = bytes.into_boxed_slice();
        Some(())
    }

    /// Writes an entry into the free space, and gives it a place.
    fn append(&mut self, tag: u8, raw: &[u8]) {
        let offset = self.used as usize;
        if let Some(place) = self.bytes.get_mut(offset..offset + raw.len()) {
            place.copy_from_slice(raw);
            self.used += raw.len() as u32;
            self.set_lane(self.len(), tag, offset);
            self.count += 1;
        }
    }

    /// Writes an entry of a head and two parts into the free space; returns where it begins.
    fn write(&mut self, head: &Head, key: &[u8], value: &[u8]) -> usize {
        let offset = self.used as usize;
        let target = self.bytes.get_mut(offset..offset + head.entry_len());
        if let Some(rest) = target.and_then(|target| head.write(target))
            && let Some((key_place, value_place)) = rest.split_at_mut_checked(key.len())
            && value_place.len() == value.len()
        {
            key_place.copy_from_slice(key);
            value_place.copy_from_slice(value);
            self.used += head.entry_len() as u32;
        }
        offset
    }

    /// Bytes in a page that an entry takes at most.
    pub(super) fn entry_len(key: &[u8], value: &NewValue<'_>, meta: Meta) -> usize {
        let key = (key.len() <= KEY_MAX).then_some(key);
        match (value, key) {
            (NewValue::Inline { bytes, .. }, Some(key)) => {
                Head::string(key, bytes.len(), false, meta).entry_len()
            }
            _ => Head::object(key, u16::MAX, meta).entry_len(),
        }
    }

    /// Writes an entry, for which there is room, into the free space; returns where it begins.
    fn put(&mut self, key: &[u8], value: NewValue<'_>, meta: Meta) -> usize {
        let short = key.len() <= KEY_MAX;
        let object = match value {
            NewValue::Inline { bytes, edited } if short => {
                return self.write(&Head::string(key, bytes.len(), edited, meta), key, bytes);
            }
            NewValue::Inline { bytes, edited } => Value::Str(Str::with_history(bytes, edited)),
            NewValue::Object(value) => value,
        };
        let object =
            if short { Object::Value(object) } else { Object::Keyed(Box::new((key.into(), object))) };
        let index = self.objects.get_or_insert_default().add(object);
        let key = short.then_some(key);
        // More objects than two bytes can count do not fit into a page.
        self.write(&Head::object(key, index as u16, meta), key.unwrap_or_default(), &[])
    }

    /// Adds an entry whose key is not there, after room was [made](Page::reserve) for it.
    pub(super) fn insert(&mut self, tag: u8, key: &[u8], value: NewValue<'_>, meta: Meta) {
        let offset = self.put(key, value, meta);
        self.set_lane(self.len(), tag, offset);
        self.count += 1;
    }

    /// Gives an entry another value and expiry; returns the object that it had. If its length differs, room must have
    /// been [made](Page::reserve) for it.
    pub(super) fn replace(
        &mut self,
        index: usize,
        key: &[u8],
        value: NewValue<'_>,
        meta: Meta,
    ) -> Option<Value> {
        let head = self.head(index)?;
        if let (NewValue::Inline { bytes, edited }, None) = (&value, head.object_index())
            && Head::string(key, bytes.len(), *edited, meta).entry_len() == head.entry_len()
        {
            let target = self.offset(index).and_then(|offset| self.bytes.get_mut(offset..));
            let rest = Head::string(key, bytes.len(), *edited, meta).write(target?)?;
            rest.get_mut(..key.len())?.copy_from_slice(key);
            rest.get_mut(key.len()..)?.get_mut(..bytes.len())?.copy_from_slice(bytes);
            return None;
        }
        let displaced = self.discard(&head);
        let offset = self.put(key, value, meta);
        self.set_lane(index, self.tag(index), offset);
        displaced
    }

    /// Whether [`Page::replace`] by a string, which makes an entry of `len` bytes, needs no room.
    pub(super) fn fits_in_place(&self, index: usize, len: usize) -> bool {
        self.head(index).is_some_and(|head| head.object_index().is_none() && head.entry_len() == len)
    }

    /// Sets when an entry expires (0: never). Room must have been made for an entry of its new length.
    pub(super) fn set_expire(&mut self, index: usize, expire_at: u64) -> Option<()> {
        let head = self.head(index)?;
        self.rewrite(index, head, head.expiring(expire_at))
    }

    /// Notes how an entry was used. Gives up if there is no room for a first note.
    pub(super) fn set_access(&mut self, index: usize, access: u32) -> Option<()> {
        let head = self.head(index)?;
        let changed = head.accessed(access);
        if changed.len() != head.len() {
            self.reserve(changed.entry_len()).ok()?;
        }
        self.rewrite(index, head, changed)
    }

    /// Gives an entry another head. If its length differs, room must have been made for it.
    fn rewrite(&mut self, index: usize, head: Head, changed: Head) -> Option<()> {
        let offset = self.offset(index)?;
        if changed.len() == head.len() {
            changed.write(self.bytes.get_mut(offset..)?)?;
            return Some(());
        }
        let target = self.used as usize;
        let content = offset + head.len()..offset + head.entry_len();
        changed.write(self.bytes.get_mut(target..target + changed.entry_len())?)?;
        self.bytes.copy_within(content, target + changed.len());
        self.used += changed.entry_len() as u32;
        self.garbage += head.entry_len() as u32;
        self.set_lane(index, self.tag(index), target);
        Some(())
    }

    /// Bytes that the entry at a place would take with this expiry.
    pub(super) fn len_expiring(&self, index: usize, expire_at: u64) -> usize {
        self.head(index).map_or(0, |head| head.expiring(expire_at).entry_len())
    }

    /// Counts an entry as garbage; returns its object.
    fn discard(&mut self, head: &Head) -> Option<Value> {
        self.garbage += head.entry_len() as u32;
        let object = self.objects.as_mut()?.take(head.object_index()?)?;
        Some(object.into_value())
    }

    /// Removes an entry; returns its object. The last entry takes its place.
    pub(super) fn remove(&mut self, index: usize) -> Option<Value> {
        let head = self.head(index)?;
        let object = self.discard(&head);
        let last = self.len().checked_sub(1)?;
        self.set_lane(index, self.tag(last), self.offset(last)?);
        self.count -= 1;
        if self.is_empty() {
            *self = Self::new(self.version);
            return object;
        }
        let needed = self.live_bytes() + self.len().div_ceil(LANES) * GROUP;
        if needed < self.bytes.len() * 5 / 8 {
            self.rebuild(size_class(needed + needed / 8));
        }
        object
    }

    /// Moves an entry here from another page, where it counts as garbage but keeps its place.
    ///
    /// # Errors
    /// If this page would be too large.
    fn adopt(&mut self, from: &mut Self, index: usize) -> Result<(), Full> {
        let Some(head) = from.head(index) else { return Ok(()) };
        self.reserve(head.entry_len() + 2)?;
        let object = head.object_index().and_then(|object| from.objects.as_mut()?.take(object));
        let content = from.tail(index).and_then(|tail| tail.get(head.len()..head.entry_len()));
        let head = match object {
            Some(object) => head.with_object(self.objects.get_or_insert_default().add(object) as u16),
            None => head,
        };
        let offset = self.write(&head, content.unwrap_or_default(), &[]);
        self.set_lane(self.len(), from.tag(index), offset);
        self.count += 1;
        Ok(())
    }

    /// Moves the entries whose keys `leaves` holds for to a page of their own, which is returned.
    pub(super) fn split(&mut self, leaves: impl Fn(&[u8]) -> bool) -> Self {
        let chosen: Vec<bool> = (0..self.len()).map(|index| self.key(index).is_some_and(&leaves)).collect();
        let mut pages = [self.sized_for(&chosen, false), self.sized_for(&chosen, true)];
        for (index, leaves) in chosen.into_iter().enumerate() {
            if let Some(page) = pages.get_mut(usize::from(leaves)) {
                // There is room: neither holds more than both did.
                let _ = page.adopt(self, index);
            }
        }
        let [stay, left] = pages;
        *self = stay;
        left
    }

    /// An empty page with room for the entries that are chosen, or for the others.
    fn sized_for(&self, chosen: &[bool], wanted: bool) -> Self {
        let places =
            chosen.iter().enumerate().filter(|(_, leaves)| **leaves == wanted).map(|(index, _)| index);
        let (count, bytes) = places.fold((0, 0), |(count, bytes), index| {
            (count + 1, bytes + self.head(index).map_or(0, |head| head.entry_len() + 2))
        });
        let mut page = Self::new(self.version);
        if count > 0 {
            let capacity = (bytes + usize::div_ceil(count, LANES) * GROUP).min(PAGE_MAX);
            page.bytes = vec![0; size_class(capacity)].into_boxed_slice();
        }
        page
    }

    /// Takes over all entries of another page.
    ///
    /// # Errors
    /// If it would be too large; then it took none.
    pub(super) fn merge(&mut self, mut other: Self) -> Result<(), (Full, Self)> {
        let both = self.live_bytes() + other.live_bytes() + 4 * (self.len() + other.len() + LANES);
        if both > PAGE_MAX / 2 {
            return Err((Full, other));
        }
        for index in 0..other.len() {
            let _ = self.adopt(&mut other, index);
        }
        Ok(())
    }
}

/// The size of a block for so many bytes: a sixteenth at most is spare, which a page outgrows in a few entries. Measured
/// with the allocators at hand: the system's, which has a size for every 16 bytes, and these steps take the least memory
/// by far; jemalloc's four sizes to each power of two cost a fifth more.
fn size_class(bytes: usize) -> usize {
    let step = bytes.saturating_sub(1).max(1).ilog2().saturating_sub(4);
    bytes.next_multiple_of(1 << step.max(4)).min(PAGE_MAX)
}
