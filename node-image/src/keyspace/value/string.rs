//! Strings.

use std::sync::Arc;

use crate::resp::parse_i64;

/// The longest string that Redis embeds in its key's object.
const EMBEDDED_MAX: usize = 44;

/// Strings of so many bytes are shared with snapshots, which show them in parts.
pub(crate) const LONG: usize = 1024 * 1024;

#[derive(Clone, Debug)]
enum Bytes {
    Own(Vec<u8>),
    /// Of a long string. It is copied when it is changed in place while a snapshot shows it.
    Shared(Arc<Vec<u8>>),
}

impl Bytes {
    fn edit(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        match self {
            Self::Own(bytes) => change(bytes),
            Self::Shared(bytes) => change(Arc::make_mut(bytes)),
        }
        if let Self::Own(bytes) = self
            && bytes.len() >= LONG
        {
            *self = Self::from(std::mem::take(bytes));
        }
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        if bytes.len() >= LONG { Self::Shared(Arc::new(bytes)) } else { Self::Own(bytes) }
    }
}

impl Default for Bytes {
    fn default() -> Self {
        Self::Own(Vec::new())
    }
}

/// A string of bytes.
#[derive(Clone, Debug, Default)]
pub struct Str {
    bytes: Bytes,
    /// Whether it was changed in place, which `OBJECT ENCODING` shows.
    edited: bool,
}

impl Str {
    /// A string of these bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self::with_history(bytes, false)
    }

    /// A string of these bytes; `edited`: it was changed in place at some time.
    #[must_use]
    pub fn with_history(bytes: &[u8], edited: bool) -> Self {
        Self { bytes: bytes.to_vec().into(), edited }
    }

    /// Whether it was changed in place.
    #[must_use]
    pub fn is_edited(&self) -> bool {
        self.edited
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Own(bytes) => bytes,
            Bytes::Shared(bytes) => bytes,
        }
    }

    /// Its bytes, which stay as they are now, if it is long.
    #[must_use]
    pub(crate) fn share(&self) -> Option<Arc<Vec<u8>>> {
        if let Bytes::Shared(bytes) = &self.bytes { Some(Arc::clone(bytes)) } else { None }
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes().len()
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    /// Replaces its bytes.
    pub fn set(&mut self, bytes: &[u8]) {
        *self = Self::new(bytes);
    }

    /// Adds bytes at its end.
    pub fn append(&mut self, bytes: &[u8]) {
        self.bytes.edit(|own| own.extend_from_slice(bytes));
        self.edited = true;
    }

    /// Overwrites from `offset` on, after zero bytes up to there if it is shorter.
    pub fn overwrite(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        self.bytes.edit(|own| {
            if own.len() < end {
                own.resize(end, 0);
            }
            if let Some(target) = own.get_mut(offset..end) {
                target.copy_from_slice(bytes);
            }
        });
        self.edited = true;
    }

    pub(super) fn encoding(&self) -> &'static str {
        Self::encoding_of(self.bytes(), self.edited)
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
        match &self.bytes {
            Bytes::Own(bytes) => bytes.capacity(),
            Bytes::Shared(bytes) => bytes.capacity() + size_of::<Vec<u8>>(),
        }
    }
}
