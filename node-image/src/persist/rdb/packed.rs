//! The packed encodings of small collections: ziplist, listpack, intset and zipmap. Each is a string in the snapshot.
//!
//! All take untrusted bytes: what does not fit is `None`. The counts in their headers are not relied on.

use super::source::decimal;

/// A slice that is consumed from its front.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u32(&mut self) -> Option<usize> {
        self.array().map(u32::from_le_bytes).and_then(|number| usize::try_from(number).ok())
    }

    fn string(&mut self, len: usize) -> Option<Vec<u8>> {
        self.take(len).map(<[u8]>::to_vec)
    }
}

/// A signed number of 24 bits.
fn i24([a, b, c]: [u8; 3]) -> i64 {
    i64::from(i32::from_le_bytes([0, a, b, c]) >> 8)
}

/// The entries of a ziplist.
pub(super) fn ziplist(data: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut cursor = Cursor(data);
    if cursor.u32()? != data.len() {
        return None;
    }
    cursor.take(6)?;
    let mut entries = Vec::new();
    loop {
        match cursor.byte()? {
            255 => return cursor.0.is_empty().then_some(entries),
            254 => {
                cursor.take(4)?;
            }
            _ => {}
        }
        entries.push(ziplist_entry(&mut cursor)?);
    }
}

fn ziplist_entry(cursor: &mut Cursor<'_>) -> Option<Vec<u8>> {
    let first = cursor.byte()?;
    let low = usize::from(first & 0x3f);
    let number = match first {
        0x00..=0x3f => return cursor.string(low),
        0x40..=0x7f => {
            let len = low << 8 | usize::from(cursor.byte()?);
            return cursor.string(len);
        }
        0x80..=0xbf => {
            let len = u32::from_be_bytes(cursor.array()?);
            return cursor.string(usize::try_from(len).ok()?);
        }
        0xc0 => i16::from_le_bytes(cursor.array()?).into(),
        0xd0 => i32::from_le_bytes(cursor.array()?).into(),
        0xe0 => i64::from_le_bytes(cursor.array()?),
        0xf0 => i24(cursor.array()?),
        0xfe => i8::from_le_bytes(cursor.array()?).into(),
        0xf1..=0xfd => i64::from(first & 0x0f) - 1,
        _ => return None,
    };
    Some(decimal(number))
}

/// The entries of a listpack.
pub(super) fn listpack(data: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut cursor = Cursor(data);
    if cursor.u32()? != data.len() {
        return None;
    }
    cursor.take(2)?;
    let mut entries = Vec::new();
    loop {
        let before = cursor.0.len();
        let first = cursor.byte()?;
        if first == 0xff {
            return cursor.0.is_empty().then_some(entries);
        }
        entries.push(listpack_entry(first, &mut cursor)?);
        let length = before - cursor.0.len();
        cursor.take(back_length_size(length))?;
    }
}

fn listpack_entry(first: u8, cursor: &mut Cursor<'_>) -> Option<Vec<u8>> {
    let number = match first {
        0x00..=0x7f => i64::from(first),
        0x80..=0xbf => return cursor.string(usize::from(first & 0x3f)),
        0xc0..=0xdf => {
            let bits = i16::from(first & 0x1f) << 8 | i16::from(cursor.byte()?);
            i64::from((bits << 3) >> 3)
        }
        0xe0..=0xef => {
            let len = usize::from(first & 0x0f) << 8 | usize::from(cursor.byte()?);
            return cursor.string(len);
        }
        0xf0 => {
            let len = cursor.u32()?;
            return cursor.string(len);
        }
        0xf1 => i16::from_le_bytes(cursor.array()?).into(),
        0xf2 => i24(cursor.array()?),
        0xf3 => i32::from_le_bytes(cursor.array()?).into(),
        0xf4 => i64::from_le_bytes(cursor.array()?),
        _ => return None,
    };
    Some(decimal(number))
}

/// How many bytes say the entry's length again behind it, for walking backwards.
fn back_length_size(length: usize) -> usize {
    match length {
        0..=127 => 1,
        128..=16382 => 2,
        16383..=2_097_150 => 3,
        2_097_151..=268_435_454 => 4,
        _ => 5,
    }
}

/// The numbers of an intset.
pub(super) fn intset(data: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut cursor = Cursor(data);
    let width = cursor.u32()?;
    let count = cursor.u32()?;
    if !matches!(width, 2 | 4 | 8) || width.checked_mul(count)? != cursor.0.len() {
        return None;
    }
    let number = |bytes: &[u8]| match width {
        2 => bytes.try_into().ok().map(|bytes| i16::from_le_bytes(bytes).into()),
        4 => bytes.try_into().ok().map(|bytes| i32::from_le_bytes(bytes).into()),
        _ => bytes.try_into().ok().map(i64::from_le_bytes),
    };
    cursor.0.chunks_exact(width).map(|bytes| number(bytes).map(decimal)).collect()
}

/// The keys and values of a zipmap, in turn.
pub(super) fn zipmap(data: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut cursor = Cursor(data);
    cursor.byte()?;
    let mut entries = Vec::new();
    loop {
        let Some(len) = zipmap_length(&mut cursor)? else {
            return cursor.0.is_empty().then_some(entries);
        };
        entries.push(cursor.string(len)?);
        let len = zipmap_length(&mut cursor)??;
        let unused = usize::from(cursor.byte()?);
        entries.push(cursor.string(len)?);
        cursor.take(unused)?;
    }
}

/// A length; `Some(None)` is the end mark.
fn zipmap_length(cursor: &mut Cursor<'_>) -> Option<Option<usize>> {
    match cursor.byte()? {
        255 => Some(None),
        254 => cursor.u32().map(Some),
        len => Some(Some(usize::from(len))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_zipmap_with_free_bytes() {
        let data = b"\x02\x03foo\x03\x02bar..\x05hello\x05\x00world\xff";
        let entries: Vec<_> = zipmap(data).unwrap();
        assert_eq!(entries, [b"foo".to_vec(), b"bar".to_vec(), b"hello".to_vec(), b"world".to_vec()]);
    }

    #[test]
    fn listpack_numbers_keep_their_sign() {
        // 13 bits -1, 16 bits -2, 24 bits -3, 7 bits 100, then the string "x".
        let body = b"\xdf\xff\x02\xf1\xfe\xff\x03\xf2\xfd\xff\xff\x04\x64\x01\x81x\x02\xff";
        let mut data = (body.len() as u32 + 6).to_le_bytes().to_vec();
        data.extend([5, 0]);
        data.extend(body);
        let entries: Vec<_> =
            listpack(&data).unwrap().into_iter().map(|entry| String::from_utf8(entry).unwrap()).collect();
        assert_eq!(entries, ["-1", "-2", "-3", "100", "x"]);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut data = (body.len() as u32 + 4).to_le_bytes().to_vec();
            data.extend(&body);
            let _ = (ziplist(&data), listpack(&data), intset(&data), zipmap(&data), zipmap(&body));
        }
    }
}
