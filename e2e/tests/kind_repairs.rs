//! A KvCluster on Kubernetes that somebody meddles with: a bad image, labels that are taken away, a name that is taken.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Service};
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kv_e2e::cluster::kind::{Kind, eventually};
use kv_e2e::cluster::view::View;
use kv_e2e::cluster::{Cluster, Result, manifest};
use kv_e2e::scenario::{self, SETTLE_WITHIN, Size};
use serde_json::json;

const NAME: &str = "shop";
const READ_WITHIN: Duration = Duration::from_secs(60);

/// The UID of each of the cluster's pods.
async fn uids(kind: &Kind) -> Result<BTreeMap<String, String>> {
    let pods = kind.pods().await?;
    Ok(pods.iter().map(|pod| (pod.name_any(), pod.uid().unwrap_or_default())).collect())
}

fn says(view: &View, condition: &str, words: &[&str]) -> bool {
    view.condition(condition).is_some_and(|one| words.iter().all(|word| one.message.contains(word)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_loses_its_labels_gets_them_back_and_is_not_taken_for_gone() -> Result<()> {
    let size = Size { shards: 1, nodes: 2 };
    let mut kind = Kind::new("labels").await?;
    kind.apply(&manifest(NAME, size.shards, size.nodes - 1, &json!({}))).await?;
    let view = scenario::settled(&kind, size).await?;
    let (master, epoch) = (view.master(0).unwrap_or_default().to_owned(), view.epoch(0));
    let before = uids(&kind).await?;
    let mut ledger = kind.ledger().await?;
    for label in ["kvcluster.io/shard", "kvcluster.io/cluster"] {
        let removed = Patch::Merge(json!({"metadata": {"labels": {label: null}}}));
        kind.api::<Pod>().patch(&master, &PatchParams::default(), &removed).await?;
        // Its StatefulSet gives up a pod that it does not select, and takes it back.
        eventually(&format!("{label} is back, and the pod is its set's"), SETTLE_WITHIN, async || {
            let pod = kind.pod(&master).await?;
            let back = pod.labels().contains_key(label)
                && pod.owner_references().iter().any(|owner| owner.kind == "StatefulSet");
            Ok(if back { Ok(()) } else { Err(format!("{:?}", pod.metadata)) })
        })
        .await?;
        ledger.acknowledged(SETTLE_WITHIN).await?;
    }
    let view = scenario::settled(&kind, size).await?;
    assert_eq!((view.master(0), view.epoch(0)), (Some(master.as_str()), epoch), "{}", view.summary());
    assert_eq!(uids(&kind).await?, before, "pods were replaced");
    let report = ledger.finish(READ_WITHIN).await?;
    assert_eq!((report.tally().refused, report.tally().unknown), (0, 0), "{report}");
    assert!(report.verdict.clean(), "{report}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_of_somebody_else_keeps_its_name_until_it_is_gone() -> Result<()> {
    let size = Size { shards: 1, nodes: 2 };
    let mut kind = Kind::new("taken").await?;
    let foreign: Service = serde_json::from_value(json!({
        "metadata": {"name": NAME}, "spec": {"ports": [{"port": 80}], "selector": {"app": "other"}},
    }))
    .unwrap();
    let services = kind.api::<Service>();
    let foreign = services.create(&PostParams::default(), &foreign).await?;
    kind.apply(&manifest(NAME, size.shards, size.nodes - 1, &json!({}))).await?;
    let told = ["Service shop exists and does not belong to this cluster", "delete or rename it"];
    let runs_and_tells = |view: &View| {
        let all_ready = view.nodes().count() == size.nodes && view.nodes().all(|node| node.state == "Ready");
        all_ready && view.holds("Degraded") && says(view, "Degraded", &told)
    };
    kind.wait("all nodes ready, and a condition that names the Service", SETTLE_WITHIN, runs_and_tells)
        .await?;
    assert_eq!(services.get(NAME).await?, foreign, "somebody else's object was touched");

    services.delete(NAME, &DeleteParams::default()).await?;
    scenario::settled(&kind, size).await?;
    let own = services.get(NAME).await?;
    assert!(own.owner_references().iter().any(|owner| owner.kind == "KvCluster"), "{own:?}");
    Ok(())
}
