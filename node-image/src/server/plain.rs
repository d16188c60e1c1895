//! Clients that do not know that they talk to a cluster.
//!
//! One of a single shard serves them, too: they look its master up by the Sentinel protocol, as they do with a Redis that
//! Sentinel watches. When that master is none any more, Sentinel has its connections closed, so that clients look again;
//! a redirection they do not understand. Here they are told MOVED, as any client, and are closed a moment later. For
//! clients of a cluster nothing is lost: what they had under way was answered, and they know by then where to go.

use std::time::{Duration, Instant};

use super::{ClientKey, Server};
use crate::command::CommandError;

/// For how long a client's requests are still answered that was told to go elsewhere.
const GRACE: Duration = Duration::from_millis(100);

impl Server {
    /// Whether the cluster has one shard, so that any client can use it.
    pub(super) fn is_single_shard(&self) -> bool {
        self.routing.map().is_some_and(|map| map.shards.len() == 1)
    }

    /// A client is told this error instead of what it asked for.
    pub(super) fn note_refusal(&mut self, key: ClientKey, error: &CommandError) {
        let CommandError::Text(text) = error else { return };
        let elsewhere = text.starts_with("MOVED ") || text.starts_with("CLUSTERDOWN ");
        if elsewhere
            && self.is_single_shard()
            && let Some(client) = self.clients.get_mut(key)
            && client.misdirected.is_none()
        {
            client.misdirected = Some(self.clock.instant);
            self.misdirected.push(key);
        }
    }

    /// Closes those that were told to go elsewhere, and did not show that they understand.
    pub(super) fn close_misdirected(&mut self) {
        let now = self.clock.instant;
        let is_due = |told: Instant| now.saturating_duration_since(told) >= GRACE;
        let (mut lost, mut later) = (Vec::new(), Vec::new());
        for key in std::mem::take(&mut self.misdirected) {
            // Another client may have its place by now.
            let Some(client) = self.clients.get(key).filter(|client| !client.knows_cluster) else { continue };
            match client.misdirected {
                Some(told) if is_due(told) && client.input.is_empty() => lost.push(key),
                Some(_) => later.push(key),
                None => {}
            }
        }
        self.misdirected = later;
        for key in lost {
            if let Some(client) = self.clients.get_mut(key) {
                client.closing = true;
            }
            self.clients.queue_write(key);
        }
    }
}
