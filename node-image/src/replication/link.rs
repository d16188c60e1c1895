//! A replica's link to its parent, as the data thread sees it.

use std::time::{Duration, Instant};

use kv_core::control::LinkState;
use kv_core::id::NodeId;

use super::Attach;
use crate::server::ClientKey;

/// The longest time after which a parent is tried again that sends what this node has no place for.
const LONGEST_BACK_OFF: Duration = Duration::from_secs(60);

/// A replica's link to its parent.
#[derive(Debug)]
pub struct ParentLink {
    /// Host and port that it was told; a managed node looks its parent's address up at each attempt.
    pub address: (String, u16),
    /// The parent's node id, in a managed shard.
    pub parent: Option<NodeId>,
    /// The runs that feed this node: its parent's, that of its parent's parent, and so on, as far as they say.
    pub lineage: Vec<String>,
    /// Tells the attempts apart: what comes of an older one is dropped.
    pub generation: u64,
    /// How far it has come.
    pub stage: Stage,
    /// When the parent was last heard.
    pub heard: Instant,
    /// When the parent's stream last said something; `None` if it never did.
    pub streamed: Option<Instant>,
    /// When the link went down; `None` while it is up.
    pub down_since: Option<Instant>,
    /// How often in a row that was so: see [`ParentLink::hold_back`].
    refusals: u32,
    /// No attempt is made before that.
    pub held_back: Instant,
}

/// How far a link has come.
#[derive(Debug)]
pub enum Stage {
    /// The next attempt begins then.
    Idle {
        /// When.
        retry_at: Instant,
    },
    /// Connection and handshake.
    Attaching(Attach),
    /// A full synchronisation is under way.
    Syncing(Attach),
    /// The stream flows on this client.
    Streaming(ClientKey),
}

impl ParentLink {
    /// A link that is to be made at once.
    #[must_use]
    pub fn new(address: (String, u16), parent: Option<NodeId>, generation: u64, now: Instant) -> Self {
        Self {
            address,
            parent,
            lineage: Vec::new(),
            generation,
            stage: Stage::Idle { retry_at: now },
            heard: now,
            streamed: None,
            down_since: Some(now),
            refusals: 0,
            held_back: now,
        }
    }

    /// A full synchronisation failed, or is needed since the parent sent what this node has no place for. Returns after
    /// which time it is tried again: each attempt costs the parent a snapshot, and only rarely something has changed.
    /// `chance`: it may have failed by chance, and is tried again at once the first time.
    pub fn hold_back(&mut self, now: Instant, chance: bool) -> Duration {
        let long_ago = now.saturating_duration_since(self.held_back) > LONGEST_BACK_OFF;
        let before = if long_ago { 0 } else { self.refusals };
        self.refusals = before + 1;
        let wait = match before {
            0 if chance => Duration::ZERO,
            _ => Duration::from_secs(1 << before.min(6)).min(LONGEST_BACK_OFF),
        };
        self.held_back = now + wait;
        wait
    }

    /// Its state as reports name it.
    #[must_use]
    pub fn state(&self) -> LinkState {
        match self.stage {
            Stage::Idle { .. } | Stage::Attaching(_) => LinkState::Connecting,
            Stage::Syncing(_) => LinkState::Syncing,
            Stage::Streaming(_) => LinkState::Streaming,
        }
    }

    /// The client on which the stream flows.
    #[must_use]
    pub fn client(&self) -> Option<ClientKey> {
        match self.stage {
            Stage::Streaming(key) => Some(key),
            _ => None,
        }
    }
}
