//! The data: databases of slots of keys.

/// All databases.
pub struct Keyspace {}
