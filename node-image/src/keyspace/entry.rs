//! How an entry is written into the bytes of a page, and what a reader sees of it.
//!
//! ```text
//! flags | key length | value length | expiry    | key | value        a string
//! flags | key length | object index | expiry    | key                anything larger
//! 1       1 or 2       1 or 2         0, 5 or 8
//! ```

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

/// Times are counted from here, so that those of the next decades fit into 5 bytes: Unix milliseconds of 2020-09-13.
const EXPIRY_BASE: u64 = 1_600_000_000_000;

/// A key with what it holds, as it stands in the keyspace.
#[derive(Clone, Copy, Debug)]
pub struct EntryRef<'a> {
    /// The key.
    pub key: &'a [u8],
    /// Its value.
    pub value: ValueRef<'a>,
    /// When it expires, in Unix milliseconds; 0: never.
    pub expire_at: u64,
}

impl EntryRef<'_> {
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
    /// When it expires; 0: never.
    pub(super) expire_at: u64,
    len: u8,
}

impl Head {
    /// The head of an entry whose value is a string of `len` bytes in the page.
    pub(super) fn string(key: &[u8], len: usize, edited: bool, expire_at: u64) -> Self {
        let flags = if edited { EDITED } else { 0 };
        Self::new(flags, key.len() as u16, len as u16, expire_at)
    }

    /// The head of an entry whose value is the object `index`; `key` is `None` if the object has the key, too.
    pub(super) fn object(key: Option<&[u8]>, index: u16, expire_at: u64) -> Self {
        let flags = OBJECT | if key.is_none() { KEY_OBJECT } else { 0 };
        Self::new(flags, key.map_or(0, |key| key.len() as u16), index, expire_at)
    }

    fn new(mut flags: u8, key_len: u16, value_len: u16, expire_at: u64) -> Self {
        let mut len = 3;
        if key_len > 0xff || value_len > 0xff {
            flags |= WIDE;
            len += 2;
        }
        if expire_at != 0 {
            let near = expire_at.checked_sub(EXPIRY_BASE).is_some_and(|delta| delta >> 40 == 0);
            flags |= if near { EXPIRES } else { EXPIRES_WIDE };
            len += if near { 5 } else { 8 };
        }
        Self { flags, key_len, value_len, expire_at, len }
    }

    /// The same with another expiry.
    pub(super) fn expiring(self, expire_at: u64) -> Self {
        let flags = self.flags & !(WIDE | EXPIRES | EXPIRES_WIDE);
        Self::new(flags, self.key_len, self.value_len, expire_at)
    }

    /// The same with another object.
    pub(super) fn with_object(self, index: u16) -> Self {
        Self::new(self.flags & !(WIDE | EXPIRES | EXPIRES_WIDE), self.key_len, index, self.expire_at)
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
        let mut expire_at = 0;
        if flags & EXPIRES != 0 {
            let &[a, b, c, d, e] = rest.first_chunk()?;
            expire_at = EXPIRY_BASE + u64::from_le_bytes([a, b, c, d, e, 0, 0, 0]);
            len += 5;
        } else if flags & EXPIRES_WIDE != 0 {
            expire_at = u64::from_le_bytes(*rest.first_chunk()?);
            len += 8;
        }
        Some(Self { flags, key_len, value_len, expire_at, len })
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
        if self.flags & EXPIRES != 0 {
            let [a, b, c, d, e, ..] = (self.expire_at - EXPIRY_BASE).to_le_bytes();
            put(rest, [a, b, c, d, e])
        } else if self.flags & EXPIRES_WIDE != 0 {
            put(rest, self.expire_at.to_le_bytes())
        } else {
            Some(rest)
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
            let heads = [
                Head::string(&key[..3], 255, false, expire_at),
                Head::string(&key[..3], 256, true, expire_at),
                Head::string(&key, 0, false, expire_at),
                Head::object(Some(&key[..1]), 700, expire_at),
                Head::object(None, 0, expire_at),
            ];
            for head in heads {
                let mut bytes = vec![0; head.len()];
                assert!(head.write(&mut bytes).is_some_and(|rest| rest.is_empty()));
                assert_eq!(Head::read(&bytes), Some(head));
                assert_eq!(Head::read(&bytes[..bytes.len() - 1]), None);
                assert_eq!(head.expiring(0).expiring(expire_at), head);
            }
        }
    }
}
