//! Replication: the stream, its recent past, feeding replicas, following a parent.
//!
//! Source: "Redis replication", section "How Redis replication works"; PSYNC2 as of Redis 4.

mod backlog;
mod feed;
mod handshake;
mod link;
mod stream;
mod sync;

pub use backlog::Backlog;
pub use feed::{Feed, FeedState};
pub use handshake::{Attach, LINEAGE, Outcome, Peer, Target};
pub use link::{ParentLink, Stage};
pub use stream::{History, ResyncVerdict, random_hex};
pub use sync::{Progress, SentFile, SyncJob};
