//! Counters of the data thread.

use std::time::Instant;

/// Counters since the process started.
#[derive(Clone, Debug)]
pub struct Stats {
    /// Connections that were taken.
    pub connections: u64,
    /// Connections that were refused.
    pub rejected_connections: u64,
    /// Clients that were closed since all of them took too much memory.
    pub evicted_clients: u64,
    /// Clients that were closed since a request of theirs was too large.
    pub query_limit_disconnections: u64,
    /// Clients that were closed since they did not read.
    pub output_limit_disconnections: u64,
    /// Commands that were run.
    pub commands: u64,
    /// Commands that were refused before they ran.
    pub rejected_commands: u64,
    /// Bytes of replies.
    pub output_bytes: u64,
    /// Bytes of the replication stream that came from the parent.
    pub replication_input_bytes: u64,
    /// Bytes of the replication stream that were sent to replicas.
    pub replication_bytes: u64,
    /// Changes of data.
    pub dirty: u64,
    /// Changes of data when the last save was made.
    pub dirty_at_save: u64,
    /// Keys that expired.
    pub expired: u64,
    /// Keys that were evicted.
    pub evicted: u64,
    /// Full synchronisations that were served to replicas.
    pub sync_full: u64,
    /// Snapshots that were begun for replicas.
    pub replica_snapshots: u64,
    /// Partial synchronisations that were served to replicas.
    pub sync_partial_ok: u64,
    /// Requests for a partial synchronisation that could not be met.
    pub sync_partial_err: u64,
    /// Full synchronisations that this node went through as a replica.
    pub full_syncs: u64,
    /// Partial synchronisations that this node went through as a replica.
    pub partial_syncs: u64,
    /// Bytes of the stream that this node gave up, as a new master had never got them.
    pub discarded_bytes: u64,
    /// Commands of the parent's stream that could not be applied; each ended the link.
    pub stream_refused: u64,
    /// Functions and scripts in the parent's stream that were left out.
    pub stream_left_out: u64,
    /// Why the last attempt to attach to the parent failed.
    pub last_link_error: String,
    /// The offset that the parent was last sent as acknowledged.
    pub acked_offset: u64,
    /// When the parent was last sent an acknowledgement.
    pub last_ack: Instant,
}

impl Stats {
    /// `CONFIG RESETSTAT`: begins to count anew what is counted for people.
    pub fn reset(&mut self) {
        *self = Self {
            dirty: self.dirty,
            dirty_at_save: self.dirty_at_save,
            last_link_error: std::mem::take(&mut self.last_link_error),
            ..Self::new(self.last_ack)
        };
    }

    /// All at zero.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            connections: 0,
            rejected_connections: 0,
            evicted_clients: 0,
            query_limit_disconnections: 0,
            output_limit_disconnections: 0,
            commands: 0,
            rejected_commands: 0,
            output_bytes: 0,
            replication_input_bytes: 0,
            replication_bytes: 0,
            dirty: 0,
            dirty_at_save: 0,
            expired: 0,
            evicted: 0,
            sync_full: 0,
            replica_snapshots: 0,
            sync_partial_ok: 0,
            sync_partial_err: 0,
            full_syncs: 0,
            partial_syncs: 0,
            discarded_bytes: 0,
            stream_refused: 0,
            stream_left_out: 0,
            last_link_error: String::new(),
            acked_offset: 0,
            last_ack: now,
        }
    }
}
