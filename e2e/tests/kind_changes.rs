//! A KvCluster on Kubernetes whose spec changes, is bad, or is deleted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret};
use kube::ResourceExt;
use kube::api::PostParams;
use kv_e2e::cluster::kind::{Kind, eventually, owned};
use kv_e2e::cluster::{Cluster, Result, manifest};
use kv_e2e::scenario::{self, SETTLE_WITHIN, Size};
use serde_json::{Value, json};

const NAME: &str = "shop";
const SHARDS: usize = 2;

fn with(replicas: usize, topology: &Value) -> Value {
    manifest(NAME, SHARDS, replicas, &json!({"replication": {"topology": topology}}))
}

fn size(replicas: usize) -> Size {
    Size { shards: SHARDS, nodes: replicas + 1 }
}

fn star() -> Value {
    json!({"type": "Star"})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_and_topology_change_without_a_refused_write() -> Result<()> {
    let mut kind = Kind::new("changes").await?;
    kind.apply(&with(1, &star())).await?;
    let view = scenario::settled(&kind, size(1)).await?;
    let mut ledger = kind.ledger().await?;
    let mut syncs = scenario::full_syncs(&kind, &view).await?;
    let mut replicas_before = 1;
    let steps: [(usize, Value, &[usize]); 5] = [
        (2, star(), &[0, 1, 1]),
        (2, json!({"type": "Chain"}), &[0, 1, 2]),
        (2, json!({"type": "Tree", "fanout": 2}), &[0, 1, 1]),
        (2, star(), &[0, 1, 1]),
        (1, star(), &[0, 1]),
    ];
    for (replicas, topology, depths) in steps {
        kind.apply(&with(replicas, &topology)).await?;
        let what = format!("{replicas} replicas as {topology}");
        let view = kind
            .wait(&what, SETTLE_WITHIN, |view| {
                view.settled(SHARDS, replicas + 1) && (0..SHARDS).all(|shard| view.depths(shard) == depths)
            })
            .await?;
        if replicas >= replicas_before {
            let added = (SHARDS * (replicas - replicas_before)) as u64;
            let now = scenario::full_syncs(&kind, &view).await?;
            assert_eq!(now - syncs, added, "{what}: only new nodes need a full resync; {}", view.summary());
            syncs = now;
        }
        replicas_before = replicas;
    }
    ledger.acknowledged(SETTLE_WITHIN).await?;
    let report = ledger.finish(Duration::from_secs(60)).await?;
    println!("changes: {report}");
    assert_eq!((report.tally().refused, report.tally().unknown), (0, 0), "{report}");
    assert!(report.verdict.clean(), "{report}");
    Ok(())
}

/// A spec is refused by the API server, or shown in a condition; either names what is wrong with what.
async fn refused_or_shown(kind: &mut Kind, manifest: &Value, words: &[&str]) -> Result<()> {
    let named = |text: &str| words.iter().all(|word| text.contains(word));
    if let Err(refusal) = kind.apply(manifest).await {
        let refusal = refusal.to_string();
        assert!(named(&refusal), "the refusal does not name {words:?}: {refusal}");
        return Ok(());
    }
    let what = format!("a condition that names {words:?}");
    let shown =
        |view: &kv_e2e::cluster::view::View| view.status.conditions.iter().any(|one| named(&one.message));
    kind.wait(&what, Duration::from_secs(30), shown).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_specs_touch_nothing_and_deletion_takes_only_what_is_owned() -> Result<()> {
    let mut kind = Kind::new("bad").await?;
    let config: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "mine"}})).unwrap();
    let secret: Secret = serde_json::from_value(json!({"metadata": {"name": "shop-mine"}})).unwrap();
    let claim: PersistentVolumeClaim = serde_json::from_value(json!({
        "metadata": {"name": "data-shop-mine"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}},
    }))
    .unwrap();
    kind.api::<ConfigMap>().create(&PostParams::default(), &config).await?;
    kind.api::<Secret>().create(&PostParams::default(), &secret).await?;
    kind.api::<PersistentVolumeClaim>().create(&PostParams::default(), &claim).await?;
    let users =
        ["ConfigMap/mine", "Secret/shop-mine", "PersistentVolumeClaim/data-shop-mine"].map(str::to_owned);
    let good = with(1, &star());
    kind.apply(&good).await?;
    scenario::settled(&kind, size(1)).await?;
    let uids = async |kind: &Kind| -> Result<Vec<_>> {
        let pods: Vec<Pod> = kind.pods().await?;
        Ok(pods.iter().map(|pod| (pod.name_any(), pod.uid())).collect())
    };
    let before = uids(&kind).await?;

    let mut ledger = kind.ledger().await?;
    refused_or_shown(&mut kind, &manifest(NAME, 0, 1, &json!({})), &["spec.shards"]).await?;
    refused_or_shown(&mut kind, &manifest(NAME, SHARDS, 9, &json!({})), &["spec.replicasPerShard"]).await?;
    let smaller = json!({"storage": {"volume": {"size": "1Mi", "retention": "Delete"}}});
    refused_or_shown(&mut kind, &manifest(NAME, SHARDS, 1, &smaller), &["spec.storage.volume.size"]).await?;
    let unknown = json!({"config": {"maxmemroy": "1gb"}});
    refused_or_shown(&mut kind, &manifest(NAME, SHARDS, 1, &unknown), &["maxmemroy"]).await?;
    kind.apply(&good).await?;
    scenario::settled(&kind, size(1)).await?;
    assert_eq!(uids(&kind).await?, before, "a bad spec restarted pods");
    ledger.acknowledged(SETTLE_WITHIN).await?;
    let report = ledger.finish(Duration::from_secs(60)).await?;
    assert_eq!((report.tally().refused, report.tally().unknown), (0, 0), "{report}");
    assert!(report.verdict.clean(), "{report}");

    kind.delete(SETTLE_WITHIN).await?;
    only(&kind, &users).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_that_are_to_be_retained_are() -> Result<()> {
    let mut kind = Kind::new("retain").await?;
    let retain = json!({"storage": {"volume": {"size": "1Gi", "retention": "Retain"}}});
    kind.apply(&manifest(NAME, 1, 1, &retain)).await?;
    scenario::settled(&kind, Size { shards: 1, nodes: 2 }).await?;
    kind.delete(SETTLE_WITHIN).await?;
    only(&kind, &[0, 1].map(|node| format!("PersistentVolumeClaim/data-{NAME}-0-{node}"))).await
}

/// Waits until these objects are all that is left.
async fn only(kind: &Kind, expected: &[String]) -> Result<()> {
    let expected = expected.iter().cloned().collect();
    eventually("nothing is left but what must be", SETTLE_WITHIN, async || {
        let found = owned::objects(kind).await?;
        Ok(if found == expected { Ok(()) } else { Err(format!("{found:?}")) })
    })
    .await
}
