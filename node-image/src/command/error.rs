//! Errors that commands reply with, in the exact words of Redis.

use std::borrow::Cow;

/// An error reply; its text is what the client sees after the `-`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The key holds a value of another type.
    #[error("WRONGTYPE Operation against a key holding the wrong kind of value")]
    WrongType,
    /// An argument or a value is no 64-bit integer.
    #[error("ERR value is not an integer or out of range")]
    NotInteger,
    /// An argument or a value is no float.
    #[error("ERR value is not a valid float")]
    NotFloat,
    /// The arguments fit no form of the command.
    #[error("ERR syntax error")]
    Syntax,
    /// The key does not exist, and the command needs it.
    #[error("ERR no such key")]
    NoSuchKey,
    /// An index is outside of the value.
    #[error("ERR index out of range")]
    IndexOutOfRange,
    /// The number of arguments does not fit.
    #[error("ERR wrong number of arguments for '{0}' command")]
    Arity(String),
    /// Any other, with its code.
    #[error("{0}")]
    Text(Cow<'static, str>),
}

impl CommandError {
    /// An error with this text, its code included.
    pub fn text(text: impl Into<Cow<'static, str>>) -> Self {
        Self::Text(text.into())
    }
}
