//! How much is done in one run.

use std::time::Duration;

/// How much is done in one run.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Requests of a throughput run without pipelining; pipelined ones do [`Scale::PIPELINED`] times as many.
    pub requests: usize,
    /// Different keys, or elements of the one collection, of requests for throughput and latency.
    pub served_keys: usize,
    /// Keys that memory is measured with.
    pub keys: usize,
    /// Small collections that memory is measured with.
    pub collections: usize,
    /// Elements of a big collection.
    pub elements: usize,
    /// Keys of the snapshot, of 64-byte values.
    pub snapshot_keys: usize,
    /// How long the load of a snapshot is watched before it.
    pub before_snapshot: Duration,
    /// How long latency is measured.
    pub latency: Duration,
    /// Idle connections.
    pub idle: usize,
}

impl Scale {
    /// Pipelined throughput runs do so many times more requests: they take about as long.
    pub const PIPELINED: usize = 15;

    /// For figures to publish.
    pub const FULL: Self = Self {
        requests: 200_000,
        served_keys: 100_000,
        keys: 2_000_000,
        collections: 20_000,
        elements: 1_000_000,
        snapshot_keys: 9_000_000,
        before_snapshot: Duration::from_secs(2),
        latency: Duration::from_secs(10),
        idle: 10_000,
    };

    /// For a look: all rows in three minutes. A smaller snapshot than the full one's; keys and elements are as many,
    /// because the fill of a table depends on their number.
    pub const QUICK: Self = Self {
        requests: 50_000,
        collections: 10_000,
        snapshot_keys: 2_000_000,
        latency: Duration::from_secs(3),
        ..Self::FULL
    };
}
