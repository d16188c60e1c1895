//! The active operator, killed at random moments of creation, scaling and failover on Kubernetes. The moments come from
//! a seed, which the output names: `KV_E2E_SEED` replays it. `KV_E2E_KILLS` sets the number of kills.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::{Duration, Instant};

use kv_e2e::cluster::kind::Kind;
use kv_e2e::cluster::{Cluster, Result, manifest};
use kv_e2e::scenario::{self, SETTLE_WITHIN, Size};
use serde_json::json;

const SHARDS: usize = 2;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A random moment within so many milliseconds: the fault's time, not a wait for anything.
async fn moment(random: &mut fastrand::Rng, within_ms: u64) {
    tokio::time::sleep(Duration::from_millis(random.u64(..within_ms))).await;
}

/// Kills a node's process. If that was done to it before, its pod is deleted by force instead: the kubelet waits ever
/// longer, up to minutes, before it starts a container once more, and it is not the kubelet that is tested.
async fn lose(kind: &Kind, node: &str) -> Result<()> {
    let containers = kind.pod(node).await?.status.and_then(|status| status.container_statuses);
    let restarts = containers.iter().flatten().map(|container| container.restart_count).sum::<i32>();
    if restarts == 0 { kind.kill(node).await } else { kind.delete_pod(node, Some(0)).await }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_converges_though_the_active_operator_is_killed_at_any_moment() -> Result<()> {
    let seed = number("KV_E2E_SEED", fastrand::u64(..));
    let kills = number("KV_E2E_KILLS", 5);
    println!("KV_E2E_SEED={seed} KV_E2E_KILLS={kills}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut kind = Kind::new("operator").await?;
    let mut replicas = 1;
    kind.apply(&manifest("shop", SHARDS, replicas, &json!({}))).await?;
    moment(&mut random, 8000).await;
    kind.kill_operator().await?;
    scenario::settled(&kind, Size { shards: SHARDS, nodes: 2 }).await?;
    println!("creation: converged");
    let mut ledger = kind.ledger().await?;
    let mut slowest: f64 = 0.0;
    for round in 1..kills {
        if round % 2 == 1 {
            replicas = 3 - replicas;
            kind.apply(&manifest("shop", SHARDS, replicas, &json!({}))).await?;
        } else {
            let view = kind.view().await?;
            lose(&kind, view.master(random.usize(..SHARDS)).unwrap_or_default()).await?;
        }
        moment(&mut random, 3000).await;
        kind.kill_operator().await?;
        let killed = Instant::now();
        scenario::settled(&kind, Size { shards: SHARDS, nodes: replicas + 1 }).await?;
        ledger.acknowledged(SETTLE_WITHIN).await?;
        let after = killed.elapsed().as_secs_f64();
        slowest = slowest.max(after);
        println!("round {round} with {replicas} replicas: converged after {after:.1} s");
    }
    let report = ledger.finish(Duration::from_secs(60)).await?;
    println!("{kills} kills, slowest {slowest:.1} s; {report}");
    assert!(report.verdict.clean_but_missing(), "{report}");
    Ok(())
}
