//! The arguments of a request.

use std::str;

use super::CommandError;
use crate::resp::{parse_f64, parse_i64};

/// The arguments of a request, the command's name first. Dispatch checked their number against the command's arity.
#[derive(Clone, Copy, Debug)]
pub struct Args<'a>(&'a [&'a [u8]]);

impl<'a> Args<'a> {
    /// Wraps a list of arguments.
    #[must_use]
    pub fn new(args: &'a [&'a [u8]]) -> Self {
        Self(args)
    }

    /// Number of arguments, the name included.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a request has a name")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The argument at `index`; empty if there is none.
    #[must_use]
    pub fn at(&self, index: usize) -> &'a [u8] {
        self.0.get(index).copied().unwrap_or_default()
    }

    /// The argument at `index`, if there is one.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&'a [u8]> {
        self.0.get(index).copied()
    }

    /// The arguments from `index` on.
    #[must_use]
    pub fn from(&self, index: usize) -> &'a [&'a [u8]] {
        self.0.get(index..).unwrap_or_default()
    }

    /// All arguments.
    #[must_use]
    pub fn all(&self) -> &'a [&'a [u8]] {
        self.0
    }

    /// Whether the argument at `index` is `word`, whatever the case.
    #[must_use]
    pub fn is(&self, index: usize, word: &str) -> bool {
        self.at(index).eq_ignore_ascii_case(word.as_bytes())
    }

    /// The argument at `index` as an integer.
    ///
    /// # Errors
    /// `ERR value is not an integer or out of range`
    pub fn integer(&self, index: usize) -> Result<i64, CommandError> {
        parse_i64(self.at(index)).ok_or(CommandError::NotInteger)
    }

    /// The argument at `index` as a float.
    ///
    /// # Errors
    /// `ERR value is not a valid float`
    pub fn float(&self, index: usize) -> Result<f64, CommandError> {
        parse_f64(self.at(index)).ok_or(CommandError::NotFloat)
    }

    /// The argument at `index` as text.
    ///
    /// # Errors
    /// `ERR syntax error`
    pub fn text(&self, index: usize) -> Result<&'a str, CommandError> {
        str::from_utf8(self.at(index)).map_err(|_| CommandError::Syntax)
    }
}
