//! Decisions and nothing else.
//!
//! What the node and the operator must agree on lives here: slots, topology, a shard's config and its epochs, the
//! node's directives, and the planner that turns a spec and an observed state into the next steps.
//!
//! Nothing in this crate does I/O, reads a clock, starts a thread, draws a random number or iterates over a hash map:
//! time and entropy are arguments, so that every decision can be replayed.

pub mod control;
pub mod directive;
pub mod id;
pub mod lease;
pub mod plan;
pub mod quorum;
pub mod rebalance;
pub mod shard;
pub mod slot;
pub mod source;
pub mod spec;
pub mod topology;

/// The version that nodes and operator of this release report.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The highest version of Redis whose commands and replies this release follows; `redis_version` in `INFO`.
pub const REDIS_VERSION: &str = "7.2.4";
