//! Local clusters that are stopped, started again, taken over and removed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;
use std::time::Duration;

use kv_e2e::cluster::local::Local;
use kv_e2e::cluster::{Cluster, Result, manifest};
use kv_e2e::scenario::{self, Size};
use serde_json::json;

const SIZE: Size = Size { shards: 2, nodes: 2 };
const READ_WITHIN: Duration = Duration::from_secs(60);

async fn up() -> Result<Local> {
    let local = Local::up(&manifest("restart", SIZE.shards, SIZE.nodes - 1, &json!({}))).await?;
    scenario::settled(&local, SIZE).await?;
    Ok(local)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_restarted_at_once_form_the_cluster_again_with_its_data() -> Result<()> {
    let local = up().await?;
    let mut ledger = local.ledger().await?;
    ledger.acknowledged(READ_WITHIN).await?;
    ledger.stop().await?;
    let before = local.processes().await?;
    for process in &before {
        local.terminate(&process.node).await?;
    }
    let restarted = async || -> Result<bool> {
        let now = local.processes().await?;
        Ok(now.len() == before.len()
            && now.iter().all(|process| before.iter().all(|old| old.pid != process.pid)))
    };
    let deadline = tokio::time::Instant::now() + scenario::SETTLE_WITHIN;
    while !restarted().await? {
        assert!(
            tokio::time::Instant::now() < deadline,
            "not all nodes were restarted: {:?}",
            local.processes().await?
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    scenario::settled(&local, SIZE).await?;
    let report = ledger.finish(READ_WITHIN).await?;
    assert!(report.verdict.clean(), "{report}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_cluster_comes_up_again_with_its_data() -> Result<()> {
    let mut local = up().await?;
    let mut ledger = local.ledger().await?;
    ledger.acknowledged(READ_WITHIN).await?;
    ledger.stop().await?;
    let before = local.processes().await?;
    assert!(local.stop_operator().await?, "the operator ended with an error: {}", local.log());
    for process in &before {
        assert!(!Path::new(&format!("/proc/{}", process.pid)).exists(), "{} still runs", process.node);
    }
    local.start_operator()?;
    scenario::settled(&local, SIZE).await?;
    let report = ledger.finish(READ_WITHIN).await?;
    assert!(report.verdict.clean(), "{report}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_outlive_a_killed_operator_and_are_taken_over() -> Result<()> {
    let mut local = up().await?;
    let mut ledger = local.ledger().await?;
    let before = local.processes().await?;
    local.kill_operator().await?;
    ledger.acknowledged(READ_WITHIN).await?;
    local.start_operator()?;
    scenario::settled(&local, SIZE).await?;
    let after = local.processes().await?;
    assert_eq!(
        after.iter().map(|p| p.pid).collect::<Vec<_>>(),
        before.iter().map(|p| p.pid).collect::<Vec<_>>()
    );
    let report = ledger.finish(READ_WITHIN).await?;
    assert_eq!(report.tally().refused, 0, "{report}");
    assert!(report.verdict.clean(), "{report}");
    Ok(())
}
