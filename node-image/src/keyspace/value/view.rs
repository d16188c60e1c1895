//! A look at a value where it stands.

use super::{Hash, List, Set, Str, Value, ZSet};

/// A value as it stands in the keyspace.
#[derive(Clone, Copy, Debug)]
pub enum ValueRef<'a> {
    /// A string.
    Str {
        /// Its bytes.
        bytes: &'a [u8],
        /// Whether it was changed in place.
        edited: bool,
    },
    /// A list.
    List(&'a List),
    /// A hash.
    Hash(&'a Hash),
    /// A set.
    Set(&'a Set),
    /// A sorted set.
    ZSet(&'a ZSet),
}

impl<'a> From<&'a Value> for ValueRef<'a> {
    fn from(value: &'a Value) -> Self {
        match value {
            Value::Str(value) => Self::Str { bytes: value.bytes(), edited: value.is_edited() },
            Value::List(value) => Self::List(value),
            Value::Hash(value) => Self::Hash(value),
            Value::Set(value) => Self::Set(value),
            Value::ZSet(value) => Self::ZSet(value),
        }
    }
}

impl<'a> ValueRef<'a> {
    /// The bytes, if it is a string.
    #[must_use]
    pub fn string(self) -> Option<&'a [u8]> {
        if let Self::Str { bytes, .. } = self { Some(bytes) } else { None }
    }

    /// Number of elements of a collection.
    #[must_use]
    pub fn elements(self) -> usize {
        match self {
            Self::Str { .. } => 0,
            Self::List(value) => value.len(),
            Self::Hash(value) => value.len(),
            Self::Set(value) => value.len(),
            Self::ZSet(value) => value.len(),
        }
    }

    /// A copy.
    #[must_use]
    pub fn to_value(self) -> Value {
        match self {
            Self::Str { bytes, edited } => Value::Str(Str::with_history(bytes, edited)),
            Self::List(value) => Value::from(value.clone()),
            Self::Hash(value) => Value::from(value.clone()),
            Self::Set(value) => Value::from(value.clone()),
            Self::ZSet(value) => Value::from(value.clone()),
        }
    }

    /// The type's name as `TYPE` tells it.
    #[must_use]
    pub fn type_name(self) -> &'static str {
        match self {
            Self::Str { .. } => "string",
            Self::List(_) => "list",
            Self::Hash(_) => "hash",
            Self::Set(_) => "set",
            Self::ZSet(_) => "zset",
        }
    }

    /// The encoding's name as `OBJECT ENCODING` tells it.
    #[must_use]
    pub fn encoding(self) -> &'static str {
        match self {
            Self::Str { bytes, edited } => Str::encoding_of(bytes, edited),
            Self::List(value) => value.encoding(),
            Self::Hash(value) => value.encoding(),
            Self::Set(value) => value.encoding(),
            Self::ZSet(value) => value.encoding(),
        }
    }
}
