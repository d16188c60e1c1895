//! What outlives the process: the node's state file, snapshots (RDB files) and the append-only file.
//!
//! Nothing here decides anything about the shard, and nothing here waits on the data thread's behalf but where its
//! name says so (`save_now`, `appendfsync always`).

pub mod aof;
mod checksum;
mod fs;
pub mod rdb;
#[cfg(test)]
mod redis;
pub mod save;
pub mod snapshot;
pub mod state;
pub(crate) mod watched;

pub use state::{NodeStateFile, PersistedState, StateError};
