//! The packed encodings of small collections: ziplist, listpack, intset and zipmap. Each is a string in the snapshot.
//!
//! All take untrusted bytes, and show their entries one after the other: what does not fit is `None`, and what was shown
//! until then is not to be used. The counts in their headers are not relied on.

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
}

/// An entry as it is packed.
enum Entry<'a> {
    Text(&'a [u8]),
    Number(i64),
}

impl Entry<'_> {
    /// Shows it as text.
    fn show(self, show: &mut impl FnMut(&[u8])) {
        match self {
            Self::Text(text) => show(text),
            Self::Number(number) => show(itoa::Buffer::new().format(number).as_bytes()),
        }
    }
}

/// A signed number of 24 bits.
fn i24([a, b, c]: [u8; 3]) -> i64 {
    i64::from(i32::from_le_bytes([0, a, b, c]) >> 8)
}

/// The entries of a ziplist.
pub(super) fn ziplist(data: &[u8], mut show: impl FnMut(&[u8])) -> Option<()> {
    let mut cursor = Cursor(data);
    if cursor.u32()? != data.len() {
        return None;
    }
    cursor.take(6)?;
    loop {
        match cursor.byte()? {
            255 => return cursor.0.is_empty().then_some(()),
            254 => {
                cursor.take(4)?;
            }
            _ => {}
        }
        ziplist_entry(&mut cursor)?.show(&mut show);
    }
}

fn ziplist_entry<'a>(cursor: &mut Cursor<'a>) -> Option<Entry<'a>> {
    let first = cursor.byte()?;
    let low = usize::from(first & 0x3f);
    Some(Entry::Number(match first {
        0x00..=0x3f => return cursor.take(low).map(Entry::Text),
        0x40..=0x7f => {
            let len = low << 8 | usize::from(cursor.byte()?);
            return cursor.take(len).map(Entry::Text);
        }
        0x80..=0xbf => {
            let len = u32::from_be_bytes(cursor.array()?);
            return cursor.take(usize::try_from(len).ok()?).map(Entry::Text);
        }
        0xc0 => i16::from_le_bytes(cursor.array()?).into(),
        0xd0 => i32::from_le_bytes(cursor.array()?).into(),
        0xe0 => i64::from_le_bytes(cursor.array()?),
        0xf0 => i24(cursor.array()?),
        0xfe => i8::from_le_bytes(cursor.array()?).into(),
        0xf1..=0xfd => i64::from(first & 0x0f) - 1,
        _ => return None,
    }))
}

/// The entries of a listpack.
pub(super) fn listpack(data: &[u8], mut show: impl FnMut(&[u8])) -> Option<()> {
    let mut cursor = Cursor(data);
    if cursor.u32()? != data.len() {
        return None;
    }
    cursor.take(2)?;
    loop {
        let before = cursor.0.len();
        let first = cursor.byte()?;
        if first == 0xff {
            return cursor.0.is_empty().then_some(());
        }
        let entry = listpack_entry(first, &mut cursor)?;
        let length = before - cursor.0.len();
        cursor.take(back_length_size(length))?;
        entry.show(&mut show);
    }
}

fn listpack_entry<'a>(first: u8, cursor: &mut Cursor<'a>) -> Option<Entry<'a>> {
    Some(Entry::Number(match first {
        0x00..=0x7f => i64::from(first),
        0x80..=0xbf => return cursor.take(usize::from(first & 0x3f)).map(Entry::Text),
        0xc0..=0xdf => {
            let bits = i16::from(first & 0x1f) << 8 | i16::from(cursor.byte()?);
            i64::from((bits << 3) >> 3)
        }
        0xe0..=0xef => {
            let len = usize::from(first & 0x0f) << 8 | usize::from(cursor.byte()?);
            return cursor.take(len).map(Entry::Text);
        }
        0xf0 => {
            let len = cursor.u32()?;
            return cursor.take(len).map(Entry::Text);
        }
        0xf1 => i16::from_le_bytes(cursor.array()?).into(),
        0xf2 => i24(cursor.array()?),
        0xf3 => i32::from_le_bytes(cursor.array()?).into(),
        0xf4 => i64::from_le_bytes(cursor.array()?),
        _ => return None,
    }))
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
pub(super) fn intset(data: &[u8], mut show: impl FnMut(&[u8])) -> Option<()> {
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
    for bytes in cursor.0.chunks_exact(width) {
        Entry::Number(number(bytes)?).show(&mut show);
    }
    Some(())
}

/// The keys and values of a zipmap, in turn.
pub(super) fn zipmap(data: &[u8], mut show: impl FnMut(&[u8])) -> Option<()> {
    let mut cursor = Cursor(data);
    cursor.byte()?;
    loop {
        let Some(len) = zipmap_length(&mut cursor)? else {
            return cursor.0.is_empty().then_some(());
        };
        show(cursor.take(len)?);
        let len = zipmap_length(&mut cursor)??;
        let unused = usize::from(cursor.byte()?);
        show(cursor.take(len)?);
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

    fn all(read: impl Fn(&[u8], &mut dyn FnMut(&[u8])) -> Option<()>, data: &[u8]) -> Option<Vec<String>> {
        let mut entries = Vec::new();
        read(data, &mut |entry| entries.push(String::from_utf8_lossy(entry).into_owned()))?;
        Some(entries)
    }

    #[test]
    fn a_zipmap_with_free_bytes() {
        let data = b"\x02\x03foo\x03\x02bar..\x05hello\x05\x00world\xff";
        assert_eq!(all(|data, show| zipmap(data, show), data).unwrap(), ["foo", "bar", "hello", "world"]);
    }

    #[test]
    fn listpack_numbers_keep_their_sign() {
        // 13 bits -1, 16 bits -2, 24 bits -3, 7 bits 100, then the string "x".
        let body = b"\xdf\xff\x02\xf1\xfe\xff\x03\xf2\xfd\xff\xff\x04\x64\x01\x81x\x02\xff";
        let mut data = (body.len() as u32 + 6).to_le_bytes().to_vec();
        data.extend([5, 0]);
        data.extend(body);
        assert_eq!(all(|data, show| listpack(data, show), &data).unwrap(), ["-1", "-2", "-3", "100", "x"]);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut data = (body.len() as u32 + 4).to_le_bytes().to_vec();
            data.extend(&body);
            let _ = (ziplist(&data, |_| ()), listpack(&data, |_| ()), intset(&data, |_| ()));
            let _ = (zipmap(&data, |_| ()), zipmap(&body, |_| ()));
        }
    }
}
