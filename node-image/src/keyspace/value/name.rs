//! The name of a member, as small as can be: within sixteen bytes if it fits, or else in one block of memory.

/// Bytes of a name that needs no block.
const INLINE_MAX: usize = 14;

fn pad<const N: usize>(name: &[u8]) -> [u8; N] {
    let mut bytes = [0; N];
    if let Some(to) = bytes.get_mut(..name.len()) {
        to.copy_from_slice(name);
    }
    bytes
}

macro_rules! names {
    ($($block:ident $size:literal),*) => {
        /// A name. Blocks have the sizes that allocators deal in, and their lengths stand here beside the pointer.
        #[derive(Clone, Debug)]
        pub(super) enum Name {
            Inline { len: u8, bytes: [u8; INLINE_MAX] },
            $($block { len: u8, bytes: Box<[u8; $size]> },)*
            Long(Box<Box<[u8]>>),
        }

        impl Name {
            pub(super) fn new(name: &[u8]) -> Self {
                let len = name.len() as u8;
                match name.len() {
                    ..=INLINE_MAX => Self::Inline { len, bytes: pad(name) },
                    $(..=$size => Self::$block { len, bytes: Box::new(pad(name)) },)*
                    _ => Self::Long(Box::new(name.into())),
                }
            }

            #[inline]
            pub(super) fn bytes(&self) -> &[u8] {
                match self {
                    Self::Inline { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),
                    $(Self::$block { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),)*
                    Self::Long(bytes) => bytes,
                }
            }

            /// Bytes of its block.
            pub(super) fn heap(&self) -> usize {
                match self {
                    Self::Inline { .. } => 0,
                    $(Self::$block { .. } => $size,)*
                    Self::Long(bytes) => size_of::<Box<[u8]>>() + bytes.len(),
                }
            }
        }
    };
}

names! {
    Block16 16, Block32 32, Block48 48, Block64 64, Block80 80, Block96 96, Block112 112, Block128 128, Block160 160,
    Block192 192, Block224 224, Block255 255
}
