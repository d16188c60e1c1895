//! How an entry is written into the bytes of a page, and what a reader sees of it.
//!
//! ```text
//! flags | key length | value length | expiry    | access | key | value        a string
//! flags | key length | object index | expiry    | access | key                anything larger
//! 1       1 or 2       1 or 2         0, 5 or 8   0 or 3
//! ```

use super::access::{Tracking, Usage};
use super::value::ValueRef;

/// Keys longer than this stand beside the page.
pub(super) const KEY_MAX: usize = 512;
/// Strings longer than this stand beside the page.
pub(super) const STRING_MAX: usize = 512;

/// Lengths take two bytes each.
const WIDE: u8 = 1;
/// The value stands beside the page, in its objects; the length is its index there.
const OBJECT: u8 = 1 << 1;
/// The key does, too.
const KEY_OBJECT: u8 = 1 << 2;
/// A string that was changed in place, which `OBJECT ENCODING` shows.
const EDITED: u8 = 1 << 3;
/// It expires; the time takes 5 bytes.
const EXPIRES: u8 = 1 << 4;
/// It expires; the time takes 8 bytes.
const EXPIRES_WIDE: u8 = 1 << 5;

/// It has 3 bytes that say how it was used.
const ACCESSED: u8 = 1 << 6;

/// Times are counted from here, so that those of the next decades fit into 5 bytes: Unix milliseconds of 2020-09-13.
const EXPIRY_BASE: u64 = 1_600_000_000_000;

/// What an entry says beside its key and value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Meta {
    /// When it expires, in Unix milliseconds; 0: never.
    pub(super) expire_at: u64,
    /// How it was used: 24 bits, for [`super::access`]; none if nobody asks.
    pub(super) access: Option<u32>,
}

impl Meta {
    /// Of an entry whose use is not kept account of.
    pub(super) fn expiring(expire_at: u64) -> Self {
        Self { expire_at, access: None }
    }
}

/// A key with what it holds, as it stands in the keyspace.
#[derive(Clone, Copy, Debug)]
pub struct EntryRef<'a> {
    /// The key.
    pub key: &'a [u8],
    /// Its value.
    pub value: ValueRef<'a>,
    /// When it expires, in Unix milliseconds; 0: never.
    pub expire_at: u64,
    /// How it was used, if that is kept account of.
    pub(super) access: Option<u32>,
}

impl EntryRef<'_> {
    /// How it was used until `now` (Unix milliseconds), as a snapshot says it.
    #[must_use]
    pub fn usage(&self, tracking: Tracking, now: u64) -> Option<Usage> {
        tracking.usage(self.access, now)
    }

    /// Whether its time is over.
    #[must_use]
    pub fn is_expired(&self, now: u64) -> bool {
        self.expire_at != 0 && now > self.expire_at
    }
}

/// An entry's first bytes, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    flags: u8,
    key_len: u16,
    value_len: u16,
    /// What it says beside key and value.
    pub(super) meta: Meta,
    len: u8,
}

impl Head {
    /// The head of an entry whose value is a string of `len` bytes in the page.
    pub(super) fn string(key: &[u8], len: usize, edited: bool, meta: Meta) -> Self {
        let flags = if edited { EDITED } else { 0 };
        Self::new(flags, key.len() as u16, len as u16, meta)
    }

    /// The head of an entry whose value is the object `index`; `key` is `None` if the object has the key, too.
    pub(super) fn object(key: Option<&[u8]>, index: u16, meta: Meta) -> Self {
        let flags = OBJECT | if key.is_none() { KEY_OBJECT } else { 0 };
        Self::new(flags, key.map_or(0, |key| key.len() as u16), index, meta)
    }

    fn new(mut flags: u8, key_len: u16, value_len: u16, meta: Meta) -> Self {
        let mut len = 3;
        if key_len > 0xff || value_len > 0xff {
            flags |= WIDE;
            len += 2;
        }
        if meta.expire_at != 0 {
            let near = meta.expire_at.checked_sub(EXPIRY_BASE).is_some_and(|delta| delta >> 40 == 0);
            flags |= if near { EXPIRES } else { EXPIRES_WIDE };
            len += if near { 5 } else { 8 };
        }
        if meta.access.is_some() {
            flags |= ACCESSED;
            len += 3;
        }
        Self { flags, key_len, value_len, meta, len }
    }

    /// The flags that say what it is, without those that say how it is written.
    fn kind(self) -> u8 {
        self.flags & (OBJECT | KEY_OBJECT | EDITED)
    }

    /// The same with another expiry.
    pub(super) fn expiring(self, expire_at: u64) -> Self {
        Self::new(self.kind(), self.key_len, self.value_len, Meta { expire_at, ..self.meta })
    }

    /// The same with another account of its use.
    pub(super) fn accessed(self, access: u32) -> Self {
        let meta = Meta { access: Some(access), ..self.meta };
        Self::new(self.kind(), self.key_len, self.value_len, meta)
    }

    /// The same with another object.
    pub(super) fn with_object(self, index: u16) -> Self {
        Self::new(self.kind(), self.key_len, index, self.meta)
    }

    /// Reads the head of the entry that `bytes` begin with.
    #[inline]
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let (&flags, rest) = bytes.split_first()?;
        let (key_len, value_len, rest, mut len) = if flags & WIDE == 0 {
            let (&[key_len, value_len], rest) = rest.split_first_chunk()?;
            (u16::from(key_len), u16::from(value_len), rest, 3)
        } else {
            let (&[a, b, c, d], rest) = rest.split_first_chunk()?;
            (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]), rest, 5)
        };
        let mut meta = Meta::default();
        let mut rest = rest;
        if flags & EXPIRES != 0 {
            let (&[a, b, c, d, e], after) = rest.split_first_chunk()?;
            meta.expire_at = EXPIRY_BASE + u64::from_le_bytes([a, b, c, d, e, 0, 0, 0]);
            (rest, len) = (after, len + 5);
        } else if flags & EXPIRES_WIDE != 0 {
            let (bytes, after) = rest.split_first_chunk()?;
            meta.expire_at = u64::from_le_bytes(*bytes);
            (rest, len) = (after, len + 8);
        }
        if flags & ACCESSED != 0 {
            let &[a, b, c] = rest.first_chunk()?;
            meta.access = Some(u32::from_le_bytes([a, b, c, 0]));
            len += 3;
        }
        Some(Self { flags, key_len, value_len, meta, len })
    }

    /// Writes it to the beginning of `target`, which has room for it; returns the rest.
    pub(super) fn write<'a>(&self, target: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let (flags, rest) = target.split_first_mut()?;
        *flags = self.flags;
        let rest = if self.flags & WIDE == 0 {
            put(rest, [self.key_len as u8, self.value_len as u8])?
        } else {
            let [[a, b], [c, d]] = [self.key_len.to_le_bytes(), self.value_len.to_le_bytes()];
            put(rest, [a, b, c, d])?
        };
        let rest = if self.flags & EXPIRES != 0 {
            let [a, b, c, d, e, ..] = (self.meta.expire_at - EXPIRY_BASE).to_le_bytes();
            put(rest, [a, b, c, d, e])?
        } else if self.flags & EXPIRES_WIDE != 0 {
            put(rest, self.meta.expire_at.to_le_bytes())?
        } else {
            rest
        };
        match self.meta.access {
            Some(access) => {
                let [a, b, c, _] = access.to_le_bytes();
                put(rest, [a, b, c])
            }
            None => Some(rest),
        }
    }

    /// Bytes of the head itself.
    pub(super) fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Bytes of the whole entry in the page.
    #[inline]
    pub(super) fn entry_len(&self) -> usize {
        let value = if self.flags & OBJECT == 0 { usize::from(self.value_len) } else { 0 };
        self.len() + usize::from(self.key_len) + value
    }

    /// Length of the key in the page.
    #[inline]
    pub(super) fn key_len(&self) -> usize {
        usize::from(self.key_len)
    }

    /// Index of the object that holds the value, if one does.
    #[inline]
    pub(super) fn object_index(&self) -> Option<usize> {
        (self.flags & OBJECT != 0).then_some(usize::from(self.value_len))
    }

    /// Whether the object holds the key, too.
    #[inline]
    pub(super) fn is_key_in_object(&self) -> bool {
        self.flags & KEY_OBJECT != 0
    }

    /// Whether it is a string that was changed in place.
    pub(super) fn is_edited(&self) -> bool {
        self.flags & EDITED != 0
    }
}

fn put<const N: usize>(target: &mut [u8], bytes: [u8; N]) -> Option<&mut [u8]> {
    let (place, rest) = target.split_first_chunk_mut()?;
    *place = bytes;
    Some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_read_as_they_were_written() {
        let key = [b'k'; 300];
        for expire_at in
            [0, 1, EXPIRY_BASE - 1, EXPIRY_BASE, EXPIRY_BASE + (1 << 40), 1_900_000_000_000, u64::MAX]
        {
            let meta = Meta::expiring(expire_at);
            let heads = [
                Head::string(&key[..3], 255, false, meta),
                Head::string(&key[..3], 256, true, meta),
                Head::string(&key, 0, false, Meta { access: Some(0x00ab_cdef), ..meta }),
                Head::object(Some(&key[..1]), 700, Meta { access: Some(0), ..meta }),
                Head::object(None, 0, meta),
            ];
            for head in heads {
                let mut bytes = vec![0; head.len()];
                assert!(head.write(&mut bytes).is_some_and(|rest| rest.is_empty()));
                assert_eq!(Head::read(&bytes), Some(head));
                assert_eq!(Head::read(&bytes[..bytes.len() - 1]), None);
                assert_eq!(head.expiring(0).expiring(expire_at), head);
                assert_eq!(head.accessed(7).accessed(7).meta.access, Some(7));
            }
        }
    }
}
