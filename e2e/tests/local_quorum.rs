//! Local clusters under Quorum: whatever becomes of masters, no acknowledged write is lost.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use kv_e2e::cluster::local::Local;
use kv_e2e::cluster::{Cluster, Result, manifest};
use kv_e2e::scenario::{self, Size};
use serde_json::json;

const SIZE: Size = Size { shards: 2, nodes: 3 };

/// Rounds of one kill and one freeze; `KV_E2E_ROUNDS` for more.
fn rounds() -> usize {
    std::env::var("KV_E2E_ROUNDS").map_or(3, |rounds| rounds.parse().expect("KV_E2E_ROUNDS is a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_write_is_lost_with_a_master() -> Result<()> {
    let quorum = json!({"replication": {"acknowledge": {"mode": "Quorum", "copies": 2}}});
    let local = Local::up(&manifest("quorum", SIZE.shards, SIZE.nodes - 1, &quorum)).await?;
    scenario::settled(&local, SIZE).await?;
    let mut ledger = local.ledger().await?;
    let (mut kills, mut freezes) = (Vec::new(), Vec::new());
    for round in 0..rounds() {
        let shard = round % SIZE.shards;
        let kill = async |master: &str| local.kill(master).await;
        let loss = scenario::lose_master(&local, &mut ledger, SIZE, shard, kill, async |()| Ok(())).await?;
        kills.push(loss.refused_ms);
        let freeze = async |master: &str| local.freeze(master).await.map(|()| master.to_owned());
        let thaw = async |master: String| local.thaw(&master).await;
        let loss = scenario::lose_master(&local, &mut ledger, SIZE, shard, freeze, thaw).await?;
        freezes.push(loss.refused_ms);
    }
    assert!(scenario::lies_of(&local, &mut ledger).await?.is_empty());
    let report = ledger.finish(Duration::from_secs(60)).await?;
    println!(
        "Quorum: writes refused for {:.0} ms after kill -9, {:.0} ms after SIGSTOP (medians of {}); {report}",
        scenario::median(&kills),
        scenario::median(&freezes),
        rounds()
    );
    assert!(report.verdict.clean(), "{report}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_operator_the_replicas_elect_a_master_and_nothing_is_lost() -> Result<()> {
    let quorum = json!({"replication": {"acknowledge": {"mode": "Quorum", "copies": 2}}});
    let mut local = Local::up(&manifest("alone", SIZE.shards, SIZE.nodes - 1, &quorum)).await?;
    let view = scenario::settled(&local, SIZE).await?;
    let mut ledger = local.ledger().await?;
    ledger.acknowledged(scenario::SETTLE_WITHIN).await?;
    local.kill_operator().await?;
    let since_us = ledger.now_us().await?;
    let master = view.master(0).expect("a master").to_owned();
    local.kill(&master).await?;
    ledger.acknowledged(scenario::SETTLE_WITHIN).await?;
    let refused_ms = ledger.longest_ms(0, since_us).await?;
    local.start_operator()?;
    let view = scenario::settled(&local, SIZE).await?;
    assert_eq!(view.role(&master), Some("Replica"), "{}", view.summary());
    let report = ledger.finish(Duration::from_secs(60)).await?;
    println!("no operator: writes refused for {refused_ms:.0} ms after kill -9; {report}");
    assert!(report.verdict.clean(), "{report}");
    Ok(())
}
