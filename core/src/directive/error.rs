//! What can be wrong with a directive, and where it was written.

use std::fmt;

/// A directive that cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct DirectiveError {
    /// Where it was written.
    pub place: Place,
    /// Its name as it was written; empty if there was none.
    pub name: String,
    /// What is wrong.
    pub problem: Problem,
}

impl fmt::Display for DirectiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, name, problem } = self;
        match place {
            Place::File { file, line } if name.is_empty() => {
                write!(f, "*** FATAL CONFIG FILE ERROR *** {file}:{line}: {problem}")
            }
            Place::File { file, line } => {
                write!(f, "*** FATAL CONFIG FILE ERROR *** {file}:{line} '{name}': {problem}")
            }
            Place::Flag => write!(f, "*** FATAL CONFIG ERROR *** --{name}: {problem}"),
            Place::Spec => write!(f, "spec.config.{name}: {problem}"),
        }
    }
}

/// Where a directive was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file.
    File {
        /// Name of the file.
        file: String,
        /// Number of the line, from 1.
        line: usize,
    },
    /// In a flag of the command line.
    Flag,
    /// In a KvCluster's `spec.config`.
    Spec,
}

/// What is wrong with a directive.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// There is no such directive.
    #[error("is no directive{}", .suggestion.map(|near| format!("; did you mean '{near}'?")).unwrap_or_default())]
    Unknown {
        /// The nearest name, if one is near.
        suggestion: Option<&'static str>,
    },
    /// It is not for users to set.
    #[error("is set by the operator; remove it")]
    SetByOperator,
    /// It has too few or too many arguments.
    #[error("takes {wanted}; got {got} arguments")]
    WrongNumberOfArguments {
        /// What it takes.
        wanted: &'static str,
        /// How many there were.
        got: usize,
    },
    /// The value is not of the directive's kind.
    #[error("must be {wanted}; got {got:?}")]
    BadValue {
        /// What it takes.
        wanted: String,
        /// What was written.
        got: String,
    },
    /// A quote is open at the end of the line, or a closing one is followed by more text.
    #[error("unbalanced quotes")]
    UnbalancedQuotes,
    /// The text is not UTF-8.
    #[error("the text is not UTF-8")]
    NotUtf8,
    /// The command line has a word where a flag should be.
    #[error("a flag starts with --, such as --port 6379")]
    NotAFlag,
}

impl Problem {
    pub(super) fn bad_value(wanted: impl Into<String>, got: &str) -> Self {
        Self::BadValue { wanted: wanted.into(), got: got.chars().take(100).collect() }
    }
}
