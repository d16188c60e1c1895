//! Local clusters whose spec changes under load, or is bad.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use kv_e2e::cluster::local::Local;
use kv_e2e::cluster::{Cluster, Result, manifest};
use kv_e2e::scenario::{self, Size};
use serde_json::{Value, json};

const SHARDS: usize = 2;

fn with(replicas: usize, topology: &Value) -> Value {
    manifest("changes", SHARDS, replicas, &json!({"replication": {"topology": topology}}))
}

fn star() -> Value {
    json!({"type": "Star"})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_and_topology_change_without_a_refused_write() -> Result<()> {
    let mut local = Local::up(&with(1, &star())).await?;
    let size = |replicas: usize| Size { shards: SHARDS, nodes: replicas + 1 };
    let view = scenario::settled(&local, size(1)).await?;
    let mut ledger = local.ledger().await?;
    let mut syncs = scenario::full_syncs(&local, &view).await?;
    let steps: [(usize, Value, &[usize]); 6] = [
        (2, star(), &[0, 1, 1]),
        (3, star(), &[0, 1, 1, 1]),
        (3, json!({"type": "Chain"}), &[0, 1, 2, 3]),
        (3, json!({"type": "Tree", "fanout": 2}), &[0, 1, 1, 2]),
        (3, star(), &[0, 1, 1, 1]),
        (1, star(), &[0, 1]),
    ];
    let mut replicas_before = 1;
    for (replicas, topology, depths) in steps {
        local.apply(&with(replicas, &topology)).await?;
        let what = format!("{replicas} replicas as {topology}");
        let view = local
            .wait(&what, scenario::SETTLE_WITHIN, |view| {
                view.settled(SHARDS, replicas + 1) && (0..SHARDS).all(|shard| view.depths(shard) == depths)
            })
            .await?;
        if replicas >= replicas_before {
            let added = (SHARDS * (replicas - replicas_before)) as u64;
            let now = scenario::full_syncs(&local, &view).await?;
            assert_eq!(now - syncs, added, "{what}: only new nodes need a full resync; {}", view.summary());
            syncs = now;
        }
        replicas_before = replicas;
    }
    assert_eq!(local.processes().await?.len(), 2 * SHARDS);
    ledger.acknowledged(scenario::SETTLE_WITHIN).await?;
    let report = ledger.finish(Duration::from_secs(60)).await?;
    println!("changes: {report}");
    assert_eq!((report.tally().refused, report.tally().unknown), (0, 0), "{report}");
    assert!(report.verdict.clean(), "{report}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_acknowledgement_promises_changes_live() -> Result<()> {
    let with = |acknowledge: &Value| {
        manifest("changes", SHARDS, 2, &json!({"replication": {"acknowledge": acknowledge}}))
    };
    let size = Size { shards: SHARDS, nodes: 3 };
    let mut local = Local::up(&with(&json!({"mode": "Async"}))).await?;
    scenario::settled(&local, size).await?;
    let mut ledger = local.ledger().await?;
    let steps = [
        (json!({"mode": "Quorum"}), "Quorum (copies 2)"),
        (json!({"mode": "Quorum", "copies": 3}), "Quorum (copies 3)"),
        (json!({"mode": "SemiSync", "replicas": 1}), "SemiSync (replicas 1)"),
        (json!({"mode": "Async"}), "Async"),
        (json!({"mode": "SemiSync", "replicas": 2}), "SemiSync (replicas 2)"),
    ];
    for (acknowledge, mode) in steps {
        local.apply(&with(&acknowledge)).await?;
        let view = local
            .wait(mode, scenario::SETTLE_WITHIN, |view| {
                let durable = view.condition("Durable");
                let told =
                    durable.map_or(mode == "Async", |one| one.status == "True" && one.message.contains(mode));
                view.settled(SHARDS, 3) && told
            })
            .await?;
        for node in view.nodes() {
            let info = local.info(&node.name).await?;
            assert!(info.contains(&format!("kv_acknowledge:{mode}\r\n")), "{}: {info}", node.name);
        }
        ledger.acknowledged(scenario::SETTLE_WITHIN).await?;
    }
    let report = ledger.finish(Duration::from_secs(60)).await?;
    println!("acknowledge: {report}");
    assert_eq!((report.tally().refused, report.tally().unknown), (0, 0), "{report}");
    assert!(report.verdict.clean(), "{report}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_specs_are_refused_by_name_and_touch_nothing() -> Result<()> {
    let size = Size { shards: SHARDS, nodes: 2 };
    let mut local = Local::up(&with(1, &star())).await?;
    let before = scenario::settled(&local, size).await?;
    let processes: Vec<i32> = local.processes().await?.iter().map(|process| process.pid).collect();
    let mut ledger = local.ledger().await?;
    let bad = [
        (manifest("changes", 0, 1, &json!({})), "spec.shards"),
        (manifest("changes", SHARDS, 9, &json!({})), "spec.replicasPerShard"),
        (
            manifest("changes", SHARDS, 1, &json!({"storage": {"volume": {"size": "1Mi"}}})),
            "spec.storage.volume.size",
        ),
        (manifest("changes", SHARDS, 1, &json!({"config": {"maxmemroy": "1gb"}})), "maxmemroy"),
        (manifest("changes", SHARDS, 1, &json!({"replica": 1})), "spec.replica"),
    ];
    for (manifest, field) in bad {
        let refusal = local.apply(&manifest).await.expect_err(field).to_string();
        assert!(refusal.contains(field), "the refusal does not name {field}: {refusal}");
    }
    ledger.acknowledged(scenario::SETTLE_WITHIN).await?;
    let after = scenario::settled(&local, size).await?;
    let epochs =
        |view: &kv_e2e::cluster::view::View| view.status.shards.iter().map(|s| s.epoch).collect::<Vec<_>>();
    assert_eq!(epochs(&after), epochs(&before));
    assert_eq!(local.processes().await?.iter().map(|process| process.pid).collect::<Vec<_>>(), processes);
    let report = ledger.finish(Duration::from_secs(60)).await?;
    assert_eq!(report.tally().refused, 0, "{report}");
    assert!(report.verdict.clean(), "{report}");
    Ok(())
}
