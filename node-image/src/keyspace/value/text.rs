//! The contents of an element as a reader sees them, whether they are stored as bytes or as a number.

use std::fmt;
use std::ops::Deref;

/// Bytes of the longest decimal of 64 bits.
const DIGITS_MAX: usize = 20;

/// An element of a collection. It reads as a slice of bytes.
#[derive(Clone, Copy)]
pub enum Text<'a> {
    /// It is stored as it reads.
    Bytes(&'a [u8]),
    /// It is stored as a number.
    Digits(Digits),
}

/// The decimal form of a number.
#[derive(Clone, Copy)]
pub struct Digits {
    bytes: [u8; DIGITS_MAX],
    len: u8,
}

impl From<i64> for Text<'_> {
    fn from(number: i64) -> Self {
        let mut buffer = itoa::Buffer::new();
        let text = buffer.format(number).as_bytes();
        let mut bytes = [0; DIGITS_MAX];
        bytes.iter_mut().zip(text).for_each(|(to, from)| *to = *from);
        Self::Digits(Digits { bytes, len: text.len() as u8 })
    }
}

impl Deref for Text<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Digits(digits) => digits.bytes.get(..usize::from(digits.len)).unwrap_or_default(),
        }
    }
}

impl AsRef<[u8]> for Text<'_> {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl PartialEq for Text<'_> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl PartialEq<[u8]> for Text<'_> {
    fn eq(&self, other: &[u8]) -> bool {
        **self == *other
    }
}

impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.escape_ascii())
    }
}

impl From<Text<'_>> for Box<[u8]> {
    fn from(text: Text<'_>) -> Self {
        (&*text).into()
    }
}
