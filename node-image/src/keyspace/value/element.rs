//! The stored forms of one element of a packed block: a code of half a byte, which stands apart, and bytes.
//!
//! Every text has but one form, so that equal texts are equal bytes.

use super::Text;
use crate::resp::parse_i64;

/// How an element is stored: codes up to this one are the length of a text.
const SHORT_MAX: u8 = 8;
/// A text behind its length in one byte.
const TEXT_8: u8 = 9;
/// A text behind its length in four bytes.
const TEXT_32: u8 = 10;
/// Numbers of one, two, four and eight bytes.
const INT_8: u8 = 11;
const INT_16: u8 = 12;
const INT_32: u8 = 13;
const INT_64: u8 = 14;
/// There is no such element.
pub(super) const ABSENT: u8 = 15;

/// An element as it is stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item<'a> {
    pub(super) code: u8,
    pub(super) bytes: &'a [u8],
}

/// Bytes that an element of this code takes, if that needs no look at it.
const SIZES: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 1, 2, 4, 8, 0];

/// Bytes that the element of this code at an offset takes.
pub(super) fn size_at(block: &[u8], at: usize, code: u8) -> usize {
    let word = || block.get(at..).and_then(|rest| rest.first_chunk());
    match code {
        TEXT_8 => 1 + block.get(at).map_or(0, |len| usize::from(*len)),
        TEXT_32 => 4 + word().map_or(0, |len| u32::from_le_bytes(*len) as usize),
        _ => SIZES.get(usize::from(code)).map_or(0, |size| usize::from(*size)),
    }
}

fn little_endian(bytes: &[u8]) -> i64 {
    match *bytes {
        [a] => i8::from_le_bytes([a]).into(),
        [a, b] => i16::from_le_bytes([a, b]).into(),
        [a, b, c, d] => i32::from_le_bytes([a, b, c, d]).into(),
        [a, b, c, d, e, f, g, h] => i64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => 0,
    }
}

impl<'a> Item<'a> {
    /// Cuts an element of this code off `rest`.
    pub(super) fn take(code: u8, rest: &mut &'a [u8]) -> Option<Self> {
        let size = size_at(rest, 0, code);
        let (bytes, after) = rest.split_at_checked(size)?;
        *rest = after;
        Some(Self { code, bytes })
    }

    pub(super) fn is_present(self) -> bool {
        self.code != ABSENT
    }

    /// What it reads as.
    pub(super) fn text(self) -> Text<'a> {
        let (code, bytes) = (self.code, self.bytes);
        match code {
            TEXT_8 => Text::Bytes(bytes.get(1..).unwrap_or_default()),
            TEXT_32 => Text::Bytes(bytes.get(4..).unwrap_or_default()),
            INT_8..=INT_64 => Text::from(little_endian(bytes)),
            _ => Text::Bytes(bytes),
        }
    }

    /// What it is as a score.
    pub(super) fn score(self) -> f64 {
        match self.code {
            SHORT_MAX => f64::from_bits(little_endian(self.bytes).cast_unsigned()),
            _ => little_endian(self.bytes) as f64,
        }
    }
}

/// An element in its stored form.
#[derive(Clone, Copy, Debug)]
pub(super) struct Encoded<'a> {
    pub(super) code: u8,
    head_len: u8,
    head: [u8; 8],
    pub(super) body: &'a [u8],
}

impl<'a> Encoded<'a> {
    /// The stored form of a text.
    pub(super) fn text(text: &'a [u8]) -> Self {
        if let Some(number) = parse_i64(text) {
            return Self::integer(number);
        }
        let len = text.len();
        if len <= usize::from(SHORT_MAX) {
            Self { code: len as u8, head_len: 0, head: [0; 8], body: text }
        } else if let Ok(len) = u8::try_from(len) {
            Self::with_head(TEXT_8, &[len], text)
        } else {
            // No request carries a text that is longer than 512 MB.
            Self::with_head(TEXT_32, &(len as u32).to_le_bytes(), text)
        }
    }

    /// The stored form of a score: a number if it is a small one, or else the bytes of the float.
    pub(super) fn score(score: f64) -> Self {
        let number = score as i32;
        if f64::from(number) == score {
            Self::integer(number.into())
        } else {
            Self::with_head(SHORT_MAX, &score.to_bits().to_le_bytes(), &[])
        }
    }

    fn integer(number: i64) -> Self {
        if let Ok(number) = i8::try_from(number) {
            Self::with_head(INT_8, &number.to_le_bytes(), &[])
        } else if let Ok(number) = i16::try_from(number) {
            Self::with_head(INT_16, &number.to_le_bytes(), &[])
        } else if let Ok(number) = i32::try_from(number) {
            Self::with_head(INT_32, &number.to_le_bytes(), &[])
        } else {
            Self::with_head(INT_64, &number.to_le_bytes(), &[])
        }
    }

    fn with_head(code: u8, bytes: &[u8], body: &'a [u8]) -> Self {
        let mut head = [0; 8];
        head.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        Self { code, head_len: bytes.len() as u8, head, body }
    }

    pub(super) fn head(&self) -> &[u8] {
        self.head.get(..usize::from(self.head_len)).unwrap_or_default()
    }

    /// Bytes that it takes, without its half of a byte in front of the group.
    pub(super) fn size(&self) -> usize {
        usize::from(self.head_len) + self.body.len()
    }

    /// The first eight bytes of an element that are to be compared, and what they must be; nothing if it has more.
    pub(super) fn word(&self) -> Option<(u64, u64)> {
        let size = self.size();
        if size > 8 {
            return None;
        }
        let mut word = self.head;
        let rest = word.iter_mut().skip(self.head_len.into());
        rest.zip(self.body).for_each(|(to, from)| *to = *from);
        let mask = u64::MAX.checked_shr(64 - 8 * size as u32).unwrap_or(0);
        Some((mask, u64::from_le_bytes(word)))
    }

    pub(super) fn is(&self, item: Item<'_>) -> bool {
        self.code == item.code
            && self.size() == item.bytes.len()
            && item.bytes.ends_with(self.body)
            && item.bytes.starts_with(self.head())
    }
}
