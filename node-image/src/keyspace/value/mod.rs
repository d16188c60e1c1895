//! Values: strings, lists, hashes, sets and sorted sets. How they are laid out is known to these modules only.
//!
//! | type | small | large |
//! |---|---|---|
//! | list | one block of packed elements | a row of such blocks of about a kilobyte |
//! | hash | one block of packed pairs | pages, as keys stand in |
//! | set | one block of numbers, or of packed elements | the same |
//! | sorted set | one block of packed pairs in order | members in a row, a table of them, a tree of scores |
//!
//! Directives say what is small ([`Limits`]). Lists become small again; the others stay large. No change to a large
//! one moves more than a few hundred elements.

mod counts;
mod element;
mod fields;
mod hash;
mod intset;
mod limits;
mod list;
mod name;
mod packed;
mod part;
mod scored;
mod set;
mod string;
mod table;
mod text;
mod tree;
mod view;
mod zset;

#[cfg(test)]
mod boundaries;
#[cfg(test)]
mod tests;

pub use hash::Hash;
pub use limits::Limits;
pub use list::{End, List};
pub(super) use part::Whereabouts;
pub use part::{Element, Part, Sink, Tap};
pub use set::Set;
#[cfg(test)]
pub(crate) use string::LONG;
pub use string::Str;
pub use text::Text;
pub use view::ValueRef;
pub use zset::ZSet;

/// From one in so many elements on it is quicker to walk over all than to look each up by its position.
const WALK_FROM: usize = 8;

/// What a key holds.
#[derive(Clone, Debug)]
pub enum Value {
    /// A string.
    Str(Str),
    /// A list.
    List(List),
    /// A hash.
    Hash(Hash),
    /// A set.
    Set(Set),
    /// A sorted set.
    ZSet(ZSet),
}

/// One of the types of values.
pub trait Kind: Default {
    /// The value, if it is of this type.
    fn of(value: &Value) -> Option<&Self>;

    /// The value to be changed, if it is of this type.
    fn of_mut(value: &mut Value) -> Option<&mut Self>;

    /// A value of this type.
    fn into_value(self) -> Value;
}

/// A type whose values stand beside the pages of keys, where they are changed in place: any but strings.
pub trait Collection: Kind {
    /// The value, if it is of this type.
    fn of_ref(value: ValueRef<'_>) -> Option<&Self>;
}

macro_rules! collections {
    ($($type:ident)*) => {$(
        impl Collection for $type {
            fn of_ref(value: ValueRef<'_>) -> Option<&Self> {
                if let ValueRef::$type(value) = value { Some(value) } else { None }
            }
        }
    )*};
}

collections! { List Hash Set ZSet }

macro_rules! kinds {
    ($($variant:ident($type:ty);)*) => {$(
        impl Kind for $type {
            fn of(value: &Value) -> Option<&Self> {
                if let Value::$variant(value) = value { Some(value) } else { None }
            }

            fn of_mut(value: &mut Value) -> Option<&mut Self> {
                if let Value::$variant(value) = value { Some(value) } else { None }
            }

            fn into_value(self) -> Value {
                Value::$variant(self)
            }
        }

        impl From<$type> for Value {
            fn from(value: $type) -> Self {
                value.into_value()
            }
        }
    )*};
}

kinds! {
    Str(Str);
    List(List);
    Hash(Hash);
    Set(Set);
    ZSet(ZSet);
}

impl Value {
    /// A string value.
    #[must_use]
    pub fn string(bytes: &[u8]) -> Self {
        Self::Str(Str::new(bytes))
    }

    /// The type's name as `TYPE` tells it.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Str(_) => "string",
            Self::List(_) => "list",
            Self::Hash(_) => "hash",
            Self::Set(_) => "set",
            Self::ZSet(_) => "zset",
        }
    }

    /// The encoding's name as `OBJECT ENCODING` tells it, by the thresholds that redis.conf sets.
    #[must_use]
    pub fn encoding(&self) -> &'static str {
        match self {
            Self::Str(value) => value.encoding(),
            Self::List(value) => value.encoding(),
            Self::Hash(value) => value.encoding(),
            Self::Set(value) => value.encoding(),
            Self::ZSet(value) => value.encoding(),
        }
    }

    /// The bytes that it takes besides the value itself, without what the allocator adds.
    #[must_use]
    pub fn memory(&self) -> usize {
        match self {
            Self::Str(value) => value.memory(),
            Self::List(value) => value.memory(),
            Self::Hash(value) => value.memory(),
            Self::Set(value) => value.memory(),
            Self::ZSet(value) => value.memory(),
        }
    }

    /// About how many blocks of memory are to be freed with it.
    #[must_use]
    pub(super) fn blocks(&self) -> usize {
        /// A block that is larger goes back to the system, page by page.
        const LARGE: usize = 16 * 1024;
        let blocks = match self {
            Self::Str(_) => 1,
            Self::List(value) => value.blocks(),
            Self::Hash(value) => value.blocks(),
            Self::Set(value) => value.blocks(),
            Self::ZSet(value) => value.blocks(),
        };
        blocks.max(self.memory() / LARGE)
    }

    /// Whether it is a collection without elements, which no key may hold.
    #[must_use]
    pub fn is_empty_collection(&self) -> bool {
        match self {
            Self::Str(_) => false,
            Self::List(value) => value.is_empty(),
            Self::Hash(value) => value.is_empty(),
            Self::Set(value) => value.is_empty(),
            Self::ZSet(value) => value.is_empty(),
        }
    }
}
