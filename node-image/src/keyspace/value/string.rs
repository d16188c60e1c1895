//! Strings.

use crate::resp::parse_i64;

/// The longest string that Redis embeds in its key's object.
const EMBEDDED_MAX: usize = 44;

/// A string of bytes.
#[derive(Clone, Debug, Default)]
pub struct Str {
    bytes: Vec<u8>,
    /// Whether it was changed in place, which `OBJECT ENCODING` shows.
    edited: bool,
}

impl Str {
    /// A string of these bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), edited: false }
    }

    /// A string of these bytes; `edited`: it was changed in place at some time.
    #[must_use]
    pub fn with_history(bytes: &[u8], edited: bool) -> Self {
        Self { bytes: bytes.to_vec(), edited }
    }

    /// Whether it was changed in place.
    #[must_use]
    pub fn is_edited(&self) -> bool {
        self.edited
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Replaces its bytes.
    pub fn set(&mut self, bytes: &[u8]) {
        *self = Self::new(bytes);
    }

    /// Adds bytes at its end.
    pub fn append(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.edited = true;
    }

    /// Overwrites from `offset` on, after zero bytes up to there if it is shorter.
    pub fn overwrite(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        if let Some(target) = self.bytes.get_mut(offset..end) {
            target.copy_from_slice(bytes);
        }
        self.edited = true;
    }

    pub(super) fn encoding(&self) -> &'static str {
        Self::encoding_of(&self.bytes, self.edited)
    }

    /// The encoding's name as `OBJECT ENCODING` tells it.
    #[must_use]
    pub fn encoding_of(bytes: &[u8], edited: bool) -> &'static str {
        if edited {
            "raw"
        } else if parse_i64(bytes).is_some() {
            "int"
        } else if bytes.len() <= EMBEDDED_MAX {
            "embstr"
        } else {
            "raw"
        }
    }

    pub(super) fn memory(&self) -> usize {
        self.bytes.capacity()
    }
}
