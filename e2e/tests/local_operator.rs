//! The operator of a local cluster, killed at random moments of creation, scaling and failover. The moments come from
//! a seed, which the output names: `KV_E2E_SEED` replays it. `KV_E2E_KILLS` sets the number of rounds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use kv_e2e::cluster::local::Local;
use kv_e2e::cluster::{Cluster, Result, manifest};
use kv_e2e::scenario::{self, Size};
use serde_json::{Value, json};

const SHARDS: usize = 2;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn with(replicas: usize) -> Value {
    manifest("operator", SHARDS, replicas, &json!({}))
}

/// A random moment within so many milliseconds: the fault's time, not a wait for anything.
async fn moment(random: &mut fastrand::Rng, within_ms: u64) {
    tokio::time::sleep(Duration::from_millis(random.u64(..within_ms))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_converges_though_its_operator_is_killed_at_any_moment() -> Result<()> {
    let seed = number("KV_E2E_SEED", fastrand::u64(..));
    let rounds = number("KV_E2E_KILLS", 9);
    println!("KV_E2E_SEED={seed} KV_E2E_KILLS={rounds}");
    let mut random = fastrand::Rng::with_seed(seed);

    for round in 0..rounds.div_ceil(3) {
        let mut local = Local::up(&with(1)).await?;
        moment(&mut random, 1500).await;
        local.kill_operator().await?;
        local.start_operator()?;
        scenario::settled(&local, Size { shards: SHARDS, nodes: 2 }).await?;
        println!("creation {round}: converged");
    }

    let mut local = Local::up(&with(1)).await?;
    let mut replicas = 1;
    scenario::settled(&local, Size { shards: SHARDS, nodes: 2 }).await?;
    let mut ledger = local.ledger().await?;
    for round in 0..rounds.div_ceil(3) {
        replicas = if replicas == 1 { 2 } else { 1 };
        local.apply(&with(replicas)).await?;
        moment(&mut random, 2500).await;
        local.kill_operator().await?;
        local.start_operator()?;
        scenario::settled(&local, Size { shards: SHARDS, nodes: replicas + 1 }).await?;
        println!("scale {round} to {replicas} replicas: converged");

        let size = Size { shards: SHARDS, nodes: replicas + 1 };
        let view = local.view().await?;
        assert!(view.settled(SHARDS, replicas + 1), "a status came and went: {}", view.summary());
        let master = view.master(random.usize(..SHARDS)).unwrap_or_default().to_owned();
        local.kill(&master).await?;
        moment(&mut random, 1500).await;
        local.kill_operator().await?;
        local.start_operator()?;
        ledger.acknowledged(scenario::SETTLE_WITHIN).await?;
        scenario::settled(&local, size).await?;
        println!("failover {round} of {master}: converged");
    }
    let report = ledger.finish(Duration::from_secs(60)).await?;
    println!("{report}");
    assert!(report.verdict.clean_but_missing(), "{report}");
    Ok(())
}
