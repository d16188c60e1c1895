//! The data thread.

/// Names a connected client; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientKey(pub usize);

/// The state of the data thread.
pub struct Server {}
