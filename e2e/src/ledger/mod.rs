//! The ledger: writers put unique values into a cluster while it is being hurt, and record what became of each; a
//! checker then reads everything back and says what is missing, double or stale, and for how long writes were refused.
//!
//! [`check`] and [`outage`] are pure. [`lane`] and [`cluster_lane`] are the two kinds of writers, [`route`] knows where
//! they go, [`readback`] reads everything back, [`session`] holds one run together, and [`wire`] drives a run from
//! another process, which is how a pod's run is driven from a test.

mod book;
pub mod check;
mod cluster_lane;
pub use cluster_lane::connect as connect_cluster;
mod lane;
pub mod outage;
mod readback;
mod report;
pub mod route;
mod session;
pub mod wire;

pub use book::{Attempt, Book, Clock, Kind, Outcome};
pub use report::{LaneReport, Report, Tally};
pub use session::{Options, Session};

/// Why a run could not be started or judged.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No node answered with a slot map that covers all slots.
    #[error("no complete slot map from any of {seeds:?} within {waited_s} s; the last answer was: {last}")]
    NoSlotMap {
        /// Whom we asked.
        seeds: Vec<String>,
        /// For how long.
        waited_s: u64,
        /// The last error or answer.
        last: String,
    },
    /// Not every shard acknowledged a write in time.
    #[error("no write acknowledged within {waited_s} s by: {lanes}; tally: {tally}")]
    NoAcknowledgement {
        /// For how long.
        waited_s: u64,
        /// The writers that wait.
        lanes: String,
        /// What was counted so far.
        tally: String,
    },
    /// What was written could not be read back.
    #[error("could not read back {keys} keys within {waited_s} s: {last}")]
    Unreadable {
        /// Keys that were not read.
        keys: usize,
        /// For how long.
        waited_s: u64,
        /// The last error.
        last: String,
    },
    /// The client library refused the options.
    #[error("cannot make a client: {0}")]
    Client(#[from] redis::RedisError),
    /// The other process of a run broke the protocol of [`wire`].
    #[error("the ledger process: {0}")]
    Wire(String),
}
