//! Local clusters that lose their masters under load.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use kv_e2e::cluster::local::Local;
use kv_e2e::cluster::view::View;
use kv_e2e::cluster::{Cluster, Result, manifest};
use kv_e2e::ledger::Report;
use kv_e2e::scenario::{self, Loss, SETTLE_WITHIN, Size};
use serde_json::json;

const SIZE: Size = Size { shards: 3, nodes: 2 };
const READ_WITHIN: Duration = Duration::from_secs(60);
async fn up() -> Result<Local> {
    let local = Local::up(&manifest("faults", SIZE.shards, SIZE.nodes - 1, &json!({}))).await?;
    scenario::settled(&local, SIZE).await?;
    Ok(local)
}

fn print(what: &str, losses: &[Loss], report: &Report) {
    for loss in losses {
        println!(
            "{what}: {} -> {}: writes refused for {:.0} ms, as specified again after {:.0} ms",
            loss.old, loss.new, loss.refused_ms, loss.settled_ms
        );
    }
    let times: Vec<f64> = losses.iter().map(|loss| loss.refused_ms).collect();
    println!("{what}: median {:.0} ms of {} runs; {report}", scenario::median(&times), times.len());
}

fn only_tails_are_lost(losses: &[Loss], report: &Report) {
    assert!(report.verdict.clean_but_missing(), "{report}");
    let lost = scenario::lost_beyond_tails(losses, report);
    assert!(lost.is_empty(), "lost though it was old: {lost:?}; {report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_client_writes_and_reads_all_slots() -> Result<()> {
    let local = up().await?;
    let keys = 100_000;
    assert_eq!(scenario::write_and_read(&local.access().await?, keys).await?, keys);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_master_is_replaced_and_comes_back_as_a_replica() -> Result<()> {
    let local = up().await?;
    let mut ledger = local.ledger().await?;
    let mut losses = Vec::new();
    for round in 0..10 {
        let kill = async |master: &str| local.kill(master).await;
        let loss =
            scenario::lose_master(&local, &mut ledger, SIZE, round % SIZE.shards, kill, async |()| Ok(()))
                .await?;
        let view = local.view().await?;
        assert_eq!(view.role(&loss.old), Some("Replica"), "{}", view.summary());
        losses.push(loss);
    }
    assert!(scenario::lies_of(&local, &mut ledger).await?.is_empty());
    let report = ledger.finish(READ_WITHIN).await?;
    print("kill -9", &losses, &report);
    only_tails_are_lost(&losses, &report);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_is_told_to_stop_hands_over_and_nothing_is_lost() -> Result<()> {
    let local = up().await?;
    let mut ledger = local.ledger().await?;
    let mut losses = Vec::new();
    for shard in 0..SIZE.shards {
        let stop = async |master: &str| local.terminate(master).await;
        let loss = scenario::lose_master(&local, &mut ledger, SIZE, shard, stop, async |()| Ok(())).await?;
        assert_ne!(loss.old, loss.new);
        losses.push(loss);
    }
    let report = ledger.finish(READ_WITHIN).await?;
    print("SIGTERM", &losses, &report);
    assert!(report.verdict.clean(), "{report}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_whose_disk_is_full_hands_over_and_nothing_is_lost() -> Result<()> {
    let local = up().await?;
    let mut ledger = local.ledger().await?;
    let fill = async |master: &str| local.limit_files(master, Some(1024)).await.map(|()| master.to_owned());
    let told = async |master: String| {
        let says = |view: &View| {
            let ready = view.condition("Ready");
            ready.is_some_and(|one| one.reason == "DiskFull" && one.message.contains(&master))
        };
        local.wait("Ready says whose disk is full", SETTLE_WITHIN, says).await?;
        local.limit_files(&master, None).await
    };
    let loss = scenario::lose_master(&local, &mut ledger, SIZE, 1, fill, told).await?;
    assert_ne!(loss.old, loss.new);
    assert!(scenario::lies_of(&local, &mut ledger).await?.is_empty());
    let report = ledger.finish(READ_WITHIN).await?;
    print("full disk", std::slice::from_ref(&loss), &report);
    assert!(report.verdict.clean(), "{report}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_master_is_replaced_and_does_not_come_back_as_one() -> Result<()> {
    let local = up().await?;
    let mut ledger = local.ledger().await?;
    let freeze = async |master: &str| local.freeze(master).await.map(|()| master.to_owned());
    let thaw = async |master: String| local.thaw(&master).await;
    let loss = scenario::lose_master(&local, &mut ledger, SIZE, 1, freeze, thaw).await?;
    let view = local.view().await?;
    assert_eq!(view.role(&loss.old), Some("Replica"), "{}", view.summary());
    assert!(scenario::lies_of(&local, &mut ledger).await?.is_empty());
    let report = ledger.finish(READ_WITHIN).await?;
    print("SIGSTOP", std::slice::from_ref(&loss), &report);
    only_tails_are_lost(&[loss], &report);
    Ok(())
}
