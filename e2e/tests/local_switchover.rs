//! Changes of master that a user asks for: clients see latency, and no error.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use kv_e2e::cluster::local::Local;
use kv_e2e::cluster::{Cluster, Result, manifest};
use kv_e2e::scenario::{self, SETTLE_WITHIN, Size};
use serde_json::json;

const SHARDS: usize = 2;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_is_changed_again_and_again_without_a_refused_write() -> Result<()> {
    let size = Size { shards: SHARDS, nodes: 3 };
    let local = Local::up(&manifest("shop", SHARDS, 2, &json!({}))).await?;
    let before = scenario::settled(&local, size).await?;
    let syncs = scenario::full_syncs(&local, &before).await?;
    let mut ledger = local.ledger().await?;
    ledger.acknowledged(SETTLE_WITHIN).await?;
    let mut held = Vec::new();
    for round in 0..10 {
        let shard = round % SHARDS;
        let view = local.view().await?;
        let master = view.master(shard).expect("a master").to_owned();
        let since = ledger.now_us().await?;
        if round % 3 == 2 {
            // As tools for Redis Cluster ask for it.
            let replica = view.nodes().find(|node| view.parents().get(&*node.name) == Some(&&*master));
            let replica = replica.expect("a replica").name.clone();
            local.run(&replica, &["CLUSTER", "FAILOVER"]).await?;
            let leads = format!("{replica} leads");
            local.wait(&leads, SETTLE_WITHIN, |view| view.master(shard) == Some(&replica)).await?;
        } else {
            let printed = local.switchover(shard, None).await?;
            assert!(printed.contains("leads") && !printed.contains(&master), "{printed}");
        }
        ledger.acknowledged(SETTLE_WITHIN).await?;
        held.push(ledger.longest_ms(shard, since).await?);
        scenario::settled(&local, size).await?;
    }
    let after = local.view().await?;
    assert_eq!(scenario::full_syncs(&local, &after).await?, syncs, "all go on where they stand");
    let report = ledger.finish(Duration::from_secs(60)).await?;
    held.sort_by(f64::total_cmp);
    println!(
        "switchover: writes held for {} ms (median), {} ms (worst of {}); {report}",
        scenario::median(&held).round(),
        held.last().copied().unwrap_or_default().round(),
        held.len()
    );
    let tally = report.tally();
    // A client that waits is told where the master is now, and is not refused.
    let moved = tally.errors.get("MOVED").copied().unwrap_or_default();
    assert_eq!((tally.refused - moved, tally.unknown), (0, 0), "{report}");
    assert!(report.verdict.clean(), "{report}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_lead_is_not_waited_for_and_writes_go_on() -> Result<()> {
    let local = Local::up(&manifest("shop", 1, 1, &json!({}))).await?;
    let size = Size { shards: 1, nodes: 2 };
    scenario::settled(&local, size).await?;
    let error = local.switchover(0, Some("shop-0-9")).await.unwrap_err().to_string();
    assert!(error.contains("shard 0 has no node shop-0-9; it has shop-0-0, shop-0-1"), "{error}");
    let error = local.switchover(7, None).await.unwrap_err().to_string();
    assert!(error.contains("there is no shard 7"), "{error}");
    let master = local.view().await?.master(0).expect("a master").to_owned();
    let printed = local.switchover(0, Some(&master)).await?;
    assert!(printed.contains(&format!("{master} leads")), "{printed}");

    // It is there and frozen: the wish is taken back in the end, and never held up a write.
    let replica = if master == "shop-0-0" { "shop-0-1" } else { "shop-0-0" };
    let mut ledger = local.ledger().await?;
    local.freeze(replica).await?;
    let error = local.switchover(0, Some(replica)).await.unwrap_err().to_string();
    assert!(error.contains("does not lead shard 0 after 5 s"), "{error}");
    let asked = |view: &kv_e2e::cluster::view::View| {
        view.condition("Ready").is_some_and(|ready| ready.message.contains("was asked to lead"))
    };
    local.wait("the operator has seen that", SETTLE_WITHIN, |view| !asked(view)).await?;
    local.thaw(replica).await?;
    scenario::settled(&local, size).await?;
    assert_eq!(local.view().await?.master(0), Some(&*master), "the wish was taken back");
    ledger.acknowledged(SETTLE_WITHIN).await?;
    let report = ledger.finish(Duration::from_secs(60)).await?;
    assert!(report.verdict.clean(), "{report}");
    Ok(())
}
