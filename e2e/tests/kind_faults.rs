//! A KvCluster on Kubernetes that loses its masters in every way, under load.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::ResourceExt;
use kube::api::PostParams;
use kv_e2e::cluster::kind::faults::CutOff;
use kv_e2e::cluster::kind::{Kind, eventually, owned};
use kv_e2e::cluster::{Cluster, Result, manifest};
use kv_e2e::measure::shard_elsewhere;
use kv_e2e::scenario::{self, Loss, SETTLE_WITHIN, Size};
use serde_json::json;

const NAME: &str = "shop";
const SIZE: Size = Size { shards: 3, nodes: 2 };
const READ_WITHIN: Duration = Duration::from_secs(60);

fn print(what: &str, loss: &Loss) {
    println!(
        "{what}: {} -> {}: writes refused for {:.0} ms, as specified again after {:.0} ms",
        loss.old, loss.new, loss.refused_ms, loss.settled_ms
    );
}

/// `kubectl get kvc -o wide`, line by line, field by field.
fn columns() -> Vec<Vec<String>> {
    let output = std::process::Command::new("kubectl").args(["get", "kvc", "-A", "-o", "wide"]).output();
    let text = String::from_utf8(output.expect("kubectl runs").stdout).expect("text");
    print!("{text}");
    text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

/// The owned objects are exactly the expected ones, and what is the user's is there unchanged.
async fn only_expected_objects(kind: &Kind, mine: &ConfigMap) -> Result<()> {
    let mut expected = owned::expected(NAME, SIZE);
    expected.insert(format!("ConfigMap/{}", mine.name_any()));
    eventually("the objects are the expected ones", SETTLE_WITHIN, async || {
        let found = owned::objects(kind).await?;
        let differ: Vec<_> = found.symmetric_difference(&expected).collect();
        Ok(if differ.is_empty() { Ok(()) } else { Err(format!("{differ:?}")) })
    })
    .await?;
    let now = kind.api::<ConfigMap>().get(&mine.name_any()).await?;
    assert_eq!(now.resource_version(), mine.resource_version(), "a user's object was touched");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_master_is_replaced_however_it_is_lost() -> Result<()> {
    let mut kind = Kind::new("faults").await?;
    let mine: ConfigMap =
        serde_json::from_value(json!({"metadata": {"name": "mine"}, "data": {"a": "b"}})).unwrap();
    let mine = kind.api::<ConfigMap>().create(&PostParams::default(), &mine).await?;
    let began = std::time::Instant::now();
    kind.apply(&manifest(NAME, SIZE.shards, SIZE.nodes - 1, &json!({}))).await?;
    scenario::settled(&kind, SIZE).await?;
    println!("ready after {:.1} s", began.elapsed().as_secs_f64());
    let lines = columns();
    assert_eq!(
        lines[0][1..],
        ["NAME", "SHARDS", "REPLICAS", "READY", "MASTERS", "STATUS", "AGE", "TOPOLOGY", "IMAGE"]
    );
    let line = lines.iter().find(|line| line[0] == kind.namespace()).expect("the cluster is listed");
    assert_eq!(line[1..7], [NAME, "3", "1", "6/6", "3/3", "Ready"]);
    assert_eq!(line[8], "Star");
    only_expected_objects(&kind, &mine).await?;

    let nothing = async |()| Ok(());
    let mut ledger = kind.ledger().await?;
    let delete = async |master: &str| kind.delete_pod(master, None).await;
    let loss = scenario::lose_master(&kind, &mut ledger, SIZE, 0, delete, nothing).await?;
    print("kubectl delete pod", &loss);
    assert!(scenario::lies_of(&kind, &mut ledger).await?.is_empty());
    let report = ledger.finish(READ_WITHIN).await?;
    println!("{report}");
    assert!(report.verdict.clean(), "a pod that is deleted in peace loses nothing: {report}");

    let mut ledger = kind.ledger().await?;
    let mut losses = Vec::new();
    let force = async |master: &str| kind.delete_pod(master, Some(0)).await;
    losses.push(scenario::lose_master(&kind, &mut ledger, SIZE, 1, force, nothing).await?);
    let kill = async |master: &str| kind.kill(master).await;
    losses.push(scenario::lose_master(&kind, &mut ledger, SIZE, 2, kill, nothing).await?);
    let freeze = async |master: &str| kind.freeze(master).await.map(|()| master.to_owned());
    let thaw = async |master: String| kind.thaw(&master).await;
    losses.push(scenario::lose_master(&kind, &mut ledger, SIZE, 0, freeze, thaw).await?);
    let shard = shard_elsewhere(&kind).await?;
    let cut = async |master: &str| CutOff::begin(&kind.worker_of(master).await?).await;
    let heal = async |cut: CutOff| cut.heal().await;
    losses.push(scenario::lose_master(&kind, &mut ledger, SIZE, shard, cut, heal).await?);
    for (what, loss) in ["forced deletion", "kill -9", "SIGSTOP", "worker cut off"].iter().zip(&losses) {
        print(what, loss);
    }
    let lies = scenario::lies_of(&kind, &mut ledger).await?;
    assert!(lies.is_empty(), "Ready while writes failed: {lies:?}");
    let report = ledger.finish(READ_WITHIN).await?;
    println!("{report}");
    assert!(report.verdict.clean_but_missing(), "{report}");
    let lost = scenario::lost_beyond_tails(&losses, &report);
    assert!(lost.is_empty(), "lost though it was old: {lost:?}; {report}");
    only_expected_objects(&kind, &mine).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_pods_restarted_at_once_form_the_cluster_again_with_its_data() -> Result<()> {
    let mut kind = Kind::new("restart").await?;
    kind.apply(&manifest(NAME, SIZE.shards, SIZE.nodes - 1, &json!({}))).await?;
    scenario::settled(&kind, SIZE).await?;
    let mut ledger = kind.ledger().await?;
    ledger.acknowledged(READ_WITHIN).await?;
    ledger.stop().await?;
    let uids =
        |pods: &[Pod]| pods.iter().filter_map(ResourceExt::uid).collect::<std::collections::BTreeSet<_>>();
    let before = kind.pods().await?;
    for pod in &before {
        kind.delete_pod(&pod.name_any(), None).await?;
    }
    eventually("all pods are new", SETTLE_WITHIN, async || {
        let pods = kind.pods().await?;
        let new = pods.len() == before.len() && uids(&pods).is_disjoint(&uids(&before));
        Ok(if new { Ok(()) } else { Err(format!("{} pods", pods.len())) })
    })
    .await?;
    scenario::settled(&kind, SIZE).await?;
    let report = ledger.finish(READ_WITHIN).await?;
    println!("{report}");
    assert!(report.verdict.clean(), "{report}");
    Ok(())
}
