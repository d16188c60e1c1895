//! The measurements beside a peer run, with little to do, on what Debian has: so they are there when they are needed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use kv_e2e::peer::{Bench, Scale};

const SCALE: Scale = Scale {
    requests: 1000,
    served_keys: 1000,
    keys: 20_000,
    collections: 200,
    elements: 20_000,
    snapshot_keys: 1000,
    before_snapshot: Duration::from_millis(50),
    latency: Duration::from_millis(200),
    idle: 50,
};

/// Runs the rows called so; the ones that must be more than nothing on either side, by what their names begin with.
fn runs(rows: &str, count: usize, more_than_nothing: &str) {
    let bench = Bench::against("redis-server".into(), SCALE).unwrap();
    let measured = bench.run(rows, 1).unwrap();
    assert_eq!(measured.len(), count, "rows: {measured:?}");
    for one in &measured {
        assert_eq!((one.ours.len(), one.peer.len()), (1, 1), "{one:?}");
        if one.row.name.contains(more_than_nothing) {
            assert!(one.ours[0] > 0.0 && one.peer[0] > 0.0, "{one:?}");
        }
    }
    let section = bench.section(&measured);
    assert!(section.contains("kv-node") && section.contains("Redis"), "{section}");
}

#[test]
fn throughput_of_both_is_measured() {
    runs("set, no pipelining", 2, "SET, no pipelining");
}

#[test]
fn throughput_of_elements_is_measured() {
    runs("zadd", 2, "ZADD, pipeline 16");
}

#[test]
fn memory_of_keys_and_elements_is_measured() {
    runs("value, ttl", 1, "memory");
    runs("sorted set of 100", 1, "memory");
}

#[test]
fn snapshots_are_measured() {
    runs("snapshot", 6, "load of");
}

#[test]
fn full_synchronisations_are_measured() {
    runs("full sync", 5, "duration");
}

#[test]
fn latency_is_measured() {
    runs("full load", 3, "p50");
}

#[test]
fn idle_connections_are_measured() {
    runs("idle", 2, "SETs per second");
}
