//! A key with a value, as small as can be: within sixteen bytes if they fit, or else in one block of memory.

use super::table::{Hasher, Slot, hash};

/// Bytes of key and value that need no block.
const INLINE_MAX: usize = 13;

/// Key and value in a block of their own.
#[derive(Clone, Debug)]
pub(super) struct Long {
    key_len: usize,
    bytes: Box<[u8]>,
}

/// The key's first `key` bytes, then the value, up to `len`.
fn cut(bytes: &[u8], key: u8, len: u8) -> (&[u8], &[u8]) {
    bytes.get(..usize::from(len)).and_then(|bytes| bytes.split_at_checked(key.into())).unwrap_or_default()
}

fn join<const N: usize>(key: &[u8], value: &[u8]) -> [u8; N] {
    let mut bytes = [0; N];
    if let Some((to_key, rest)) = bytes.split_at_mut_checked(key.len()) {
        to_key.copy_from_slice(key);
        if let Some(to_value) = rest.get_mut(..value.len()) {
            to_value.copy_from_slice(value);
        }
    }
    bytes
}

macro_rules! records {
    ($($name:ident $size:literal),*) => {
        /// A key with a value, or nothing.
        ///
        /// Blocks have the sizes that allocators deal in, and their lengths stand here beside the pointer. Where
        /// there is a block, the key's hash stands here too, so that tables grow without a look at the blocks.
        #[derive(Clone, Debug, Default)]
        pub(super) enum Record {
            #[default]
            Empty,
            Inline { key: u8, len: u8, bytes: [u8; INLINE_MAX] },
            $($name { key: u8, len: u8, hash: u32, bytes: Box<[u8; $size]> },)*
            Long { hash: u32, long: Box<Long> },
        }

        impl Record {
            /// A record of a key with this hash.
            pub(super) fn new(hash: u32, key: &[u8], value: &[u8]) -> Self {
                let len = key.len() + value.len();
                let (key_len, short) = (key.len() as u8, len as u8);
                match len {
                    ..=INLINE_MAX => Self::Inline { key: key_len, len: short, bytes: join(key, value) },
                    $(..=$size => Self::$name { key: key_len, len: short, hash, bytes: Box::new(join(key, value)) },)*
                    _ => {
                        let long = Long { key_len: key.len(), bytes: [key, value].concat().into() };
                        Self::Long { hash, long: Box::new(long) }
                    }
                }
            }

            /// Key and value; nothing if it is empty.
            pub(super) fn get(&self) -> Option<(&[u8], &[u8])> {
                Some(match self {
                    Self::Empty => return None,
                    Self::Inline { key, len, bytes } => cut(bytes, *key, *len),
                    $(Self::$name { key, len, bytes, .. } => cut(&**bytes, *key, *len),)*
                    Self::Long { long, .. } => long.bytes.split_at_checked(long.key_len).unwrap_or_default(),
                })
            }

            /// Whether its key is `wanted`, which has this hash.
            pub(super) fn is(&self, wanted_hash: u32, wanted: &[u8]) -> bool {
                match self {
                    Self::Empty => false,
                    Self::Inline { key, bytes, .. } => {
                        // The last bytes differ most often.
                        usize::from(*key) == wanted.len()
                            && wanted.last().is_none_or(|last| bytes.get(wanted.len() - 1) == Some(last))
                            && bytes.starts_with(wanted)
                    }
                    $(Self::$name { key, hash, bytes, .. } => {
                        *hash == wanted_hash && usize::from(*key) == wanted.len() && bytes.starts_with(wanted)
                    })*
                    Self::Long { hash, long } => {
                        *hash == wanted_hash && long.key_len == wanted.len() && long.bytes.starts_with(wanted)
                    }
                }
            }

            /// Bytes of its block.
            pub(super) fn heap(&self) -> usize {
                match self {
                    Self::Empty | Self::Inline { .. } => 0,
                    $(Self::$name { .. } => $size,)*
                    Self::Long { long, .. } => size_of::<Long>() + long.bytes.len(),
                }
            }
        }

        impl Slot for Record {
            #[inline]
            fn hash(&self, hasher: &Hasher) -> Option<u32> {
                match self {
                    Self::Empty => None,
                    Self::Inline { key, bytes, .. } => bytes.get(..usize::from(*key)).map(|key| hash(hasher, key)),
                    $(Self::$name { hash, .. })|* | Self::Long { hash, .. } => Some(*hash),
                }
            }

            fn is_empty(&self) -> bool {
                matches!(self, Self::Empty)
            }
        }
    };
}

records! {
    Block16 16, Block32 32, Block48 48, Block64 64, Block80 80, Block96 96, Block112 112, Block128 128, Block160 160,
    Block192 192, Block224 224, Block255 255
}
