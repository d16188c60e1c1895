//! A replica as the node that feeds it sees it.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use kv_core::id::{Epoch, NodeId};

use super::SentFile;

/// How far a replica has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedState {
    /// It said what it is, and has not asked for the stream yet.
    Handshake,
    /// It asked for a history that this node has not reached yet; answered then, or at the deadline.
    Ahead {
        /// What it holds.
        replid: String,
        /// Up to where.
        offset: u64,
        /// When it gets a full synchronisation instead.
        deadline: Instant,
    },
    /// It waits for the next snapshot to begin.
    WaitingForSnapshot {
        /// Since when.
        since: Instant,
    },
    /// The snapshot for it is being written to a file.
    Saving,
    /// A snapshot is being sent to it.
    Snapshot,
    /// All of the snapshot was made, and it is to say that it has it. Nothing may follow the mark at the end before: Redis
    /// looks for it at the end of what it has just read.
    Loading,
    /// The stream flows.
    Online,
}

/// A replica that this node feeds.
#[derive(Debug)]
pub struct Feed {
    /// How far it has come.
    pub state: FeedState,
    /// Position in the stream of the next byte to be sent to it.
    pub position: u64,
    /// The last offset that it acknowledged.
    pub acked: u64,
    /// The config that it had accepted then; 0 if it is no node of this shard.
    pub acked_epoch: Epoch,
    /// The last offset that it acknowledged to have on the disk.
    pub synced: u64,
    /// When it acknowledged; while a snapshot is sent, when it last made progress.
    pub acked_at: Instant,
    /// The port that it serves clients on, as it says.
    pub port: u16,
    /// The address that it serves clients on, if it says so.
    pub address: String,
    /// Its node id, if it is a node of this shard.
    pub node: Option<NodeId>,
    /// It understands a snapshot that ends with a mark.
    pub eof_capable: bool,
    /// It wants a snapshot and no stream.
    pub snapshot_only: bool,
    /// It asked by SYNC, and does not acknowledge.
    pub silent: bool,
    /// The file of the snapshot that it gets, and what of that is still to be read.
    pub file: Option<(Arc<SentFile>, Range<u64>)>,
}

impl Feed {
    /// A replica that has just begun to say what it is.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            state: FeedState::Handshake,
            position: 0,
            acked: 0,
            acked_epoch: Epoch(0),
            synced: 0,
            acked_at: now,
            port: 0,
            address: String::new(),
            node: None,
            eof_capable: false,
            snapshot_only: false,
            silent: false,
            file: None,
        }
    }

    /// Whether the stream flows.
    #[must_use]
    pub fn online(&self) -> bool {
        self.state == FeedState::Online
    }

    /// It acknowledged so much. One that has loaded its snapshot gets the stream from now on.
    pub fn acknowledge(&mut self, offset: u64, now: Instant) {
        self.acked = offset;
        self.acked_at = now;
        if self.state == FeedState::Loading {
            self.state = FeedState::Online;
        }
    }

    /// Whether nothing can be sent to it yet but that it is not forgotten.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        use FeedState::{Ahead, Saving, WaitingForSnapshot};
        matches!(self.state, Ahead { .. } | WaitingForSnapshot { .. } | Saving)
    }

    /// Whether it is to get what stands in the backlog from its position on.
    #[must_use]
    pub fn needs_backlog(&self) -> bool {
        use FeedState::{Loading, Online, Saving, Snapshot};
        matches!(self.state, Online | Saving | Snapshot | Loading)
    }

    /// Its state as `INFO replication` names it.
    #[must_use]
    pub fn state_name(&self) -> &'static str {
        match self.state {
            FeedState::Handshake
            | FeedState::Ahead { .. }
            | FeedState::WaitingForSnapshot { .. }
            | FeedState::Saving => "wait_bgsave",
            FeedState::Snapshot | FeedState::Loading => "send_bulk",
            FeedState::Online => "online",
        }
    }
}
