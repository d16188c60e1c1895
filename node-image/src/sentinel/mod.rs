//! The Sentinel protocol, which a node of a cluster speaks on `sentinel-port`: clients of Redis Sentinel find the master
//! of the node's shard there, and hear when another one leads.
//!
//! What belongs here is the language of Sentinel: its commands (`command.rs`), how it shows masters, replicas and other
//! Sentinels (`view.rs`), and its events (`watch.rs`). Nothing is decided here. Who is master is what the shard's config
//! says; the other Sentinels are the other nodes of the shard; who is down is what this node hears of them. A node speaks
//! for its own shard only.

mod command;
mod view;
mod watch;

pub use command::TABLE;
pub use view::info;
pub use watch::Sentinel;
