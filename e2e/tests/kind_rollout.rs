//! A KvCluster on Kubernetes whose pods are to be started from something else: image, resources, fixed directives.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kv_e2e::cluster::kind::{Kind, eventually};
use kv_e2e::cluster::view::View;
use kv_e2e::cluster::{Cluster, Result, manifest};
use kv_e2e::scenario::{self, SETTLE_WITHIN, Size};
use serde_json::{Value, json};

const NAME: &str = "shop";
const SIZE: Size = Size { shards: 2, nodes: 2 };
const BAD_IMAGE: &str = "kvcluster/node:that-nobody-has";

fn with(rest: &Value) -> Value {
    manifest(NAME, SIZE.shards, SIZE.nodes - 1, rest)
}

fn uids(pods: &[Pod]) -> BTreeMap<String, String> {
    pods.iter().map(|pod| (pod.name_any(), pod.uid().unwrap_or_default())).collect()
}

/// As specified, and every pod started from what is specified.
fn renewed(view: &View) -> bool {
    view.settled(SIZE.shards, SIZE.nodes) && view.holds("UpToDate")
}

/// Every shard has all of its pods but one, at least.
fn at_most_one_is_down(pods: &[Pod]) {
    for shard in 0..SIZE.shards {
        let of_shard = format!("{NAME}-{shard}-");
        let runs = |pod: &&Pod| {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            pod.name_any().starts_with(&of_shard)
                && pod.metadata.deletion_timestamp.is_none()
                && phase == Some("Running")
        };
        let running = pods.iter().filter(runs).count();
        assert!(running + 1 >= SIZE.nodes, "shard {shard}: {running} pods run");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_spec_stops_at_a_replica_and_a_good_one_renews_every_pod_without_a_lost_write() -> Result<()> {
    let mut kind = Kind::new("rollout").await?;
    let good = with(&json!({}));
    kind.apply(&good).await?;
    let view = scenario::settled(&kind, SIZE).await?;
    let before = uids(&kind.pods().await?);
    let mut ledger = kind.ledger().await?;
    ledger.acknowledged(SETTLE_WITHIN).await?;

    kind.apply(&with(&json!({"image": BAD_IMAGE}))).await?;
    let stopped = |view: &View| {
        let told = view.condition("Degraded").is_some_and(|one| one.message.contains(BAD_IMAGE));
        let waiting = view.nodes().filter(|node| node.state != "Ready").count();
        told && waiting == SIZE.shards && view.status.masters == format!("{0}/{0}", SIZE.shards)
    };
    kind.wait("a replica of each shard waits for its image, and a condition says so", SETTLE_WITHIN, stopped)
        .await?;
    ledger.acknowledged(SETTLE_WITHIN).await?;
    kind.apply(&good).await?;
    let mended = kind.wait("mended by itself", SETTLE_WITHIN, renewed).await?;
    let pods = uids(&kind.pods().await?);
    for shard in 0..SIZE.shards {
        assert_eq!(mended.master(shard), view.master(shard), "{}", mended.summary());
        let master = view.master(shard).unwrap_or_default();
        assert_eq!(pods[master], before[master], "the pod of a master was touched");
    }
    let tally = ledger.tally().await?;
    assert_eq!((tally.refused, tally.unknown), (0, 0), "service was lost");

    let requests = json!({"cpu": "20m", "memory": "48Mi"});
    let since_us = ledger.now_us().await?;
    let began = Instant::now();
    kind.apply(&with(&json!({"resources": {"requests": requests}, "config": {"tcp-backlog": 256}}))).await?;
    eventually("every pod is renewed", SETTLE_WITHIN, async || {
        let pods = kind.pods().await?;
        at_most_one_is_down(&pods);
        let now = uids(&pods);
        let all_new = now.len() == before.len() && now.iter().all(|(name, uid)| before[name] != *uid);
        let view = kind.view().await?;
        Ok(if all_new && renewed(&view) { Ok(()) } else { Err(view.summary()) })
    })
    .await?;
    println!("rolled through after {:.1} s", began.elapsed().as_secs_f64());
    for pod in kind.pods().await? {
        let container = &pod.spec.as_ref().unwrap().containers[0];
        let resources = serde_json::to_value(&container.resources).unwrap();
        assert_eq!(resources["requests"], requests, "{}", pod.name_any());
    }
    ledger.acknowledged(SETTLE_WITHIN).await?;
    for shard in 0..SIZE.shards {
        println!("shard {shard}: writes held for {:.0} ms", ledger.longest_ms(shard, since_us).await?);
    }
    assert!(scenario::lies_of(&kind, &mut ledger).await?.is_empty());
    let report = ledger.finish(Duration::from_secs(60)).await?;
    println!("{report}");
    assert!(report.verdict.clean(), "{report}");
    Ok(())
}
