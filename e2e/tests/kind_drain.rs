//! Machines of Kubernetes that are drained under load, and masters that come back to where they should live.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use kv_e2e::cluster::kind::faults::Cordoned;
use kv_e2e::cluster::kind::{Kind, eventually};
use kv_e2e::cluster::{Cluster, Result, manifest};
use kv_e2e::scenario::{self, SETTLE_WITHIN, Size};
use serde_json::{Value, json};

const NAME: &str = "shop";
const SIZE: Size = Size { shards: 3, nodes: 3 };
const ZONE: &str = "topology.kubernetes.io/zone";

/// Where each pod of the cluster runs.
async fn places(kind: &Kind) -> Result<BTreeMap<String, (String, String)>> {
    let place = |pod: Pod| {
        let node = pod.spec.as_ref()?.node_name.clone()?;
        Some((pod.name_any(), (node, pod.uid()?)))
    };
    Ok(kind.pods().await?.into_iter().filter_map(place).collect())
}

/// The machines on which masters run.
async fn homes(kind: &Kind) -> Result<BTreeSet<String>> {
    let (view, places) = (kind.view().await?, places(kind).await?);
    let masters = (0..SIZE.shards).filter_map(|shard| view.master(shard));
    Ok(masters.filter_map(|master| Some(places.get(master)?.0.clone())).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_is_drained_without_a_refused_write() -> Result<()> {
    let mut kind = Kind::new("drain").await?;
    kind.apply(&with(&json!({}))).await?;
    scenario::settled(&kind, SIZE).await?;
    let mut ledger = kind.ledger().await?;
    ledger.acknowledged(SETTLE_WITHIN).await?;
    let since_us = ledger.now_us().await?;
    let before = places(&kind).await?;
    let machine = homes(&kind).await?.pop_first().expect("a machine with a master");

    let cordoned = Cordoned::begin(&machine).await?;
    eventually("no master runs there any more", SETTLE_WITHIN, async || {
        let homes = homes(&kind).await?;
        Ok(if homes.contains(&machine) { Err(format!("{homes:?}")) } else { Ok(()) })
    })
    .await?;
    assert_eq!(places(&kind).await?, before, "the masters went before a pod was evicted");
    cordoned.drain(NAME).await?;
    let left = places(&kind).await?;
    assert!(left.values().all(|(node, _)| *node != machine), "{left:?}");
    ledger.acknowledged(SETTLE_WITHIN).await?;
    // Their volumes are that machine's: they come back with it.
    cordoned.end().await?;
    scenario::settled(&kind, SIZE).await?;
    ledger.acknowledged(SETTLE_WITHIN).await?;
    for shard in 0..SIZE.shards {
        println!("shard {shard}: writes held for {:.0} ms", ledger.longest_ms(shard, since_us).await?);
    }
    let report = ledger.finish(Duration::from_secs(60)).await?;
    println!("{machine} was drained; {report}");
    // A client that waits is told where the master is now, and is not refused; its connection there may take long.
    let tally = report.tally();
    let no_refusal = |code: &String| code == "MOVED" || code == "connect: timeout";
    assert!(tally.unknown == 0 && tally.errors.keys().all(no_refusal), "{report}");
    assert!(report.verdict.clean(), "{report}");
    Ok(())
}

async fn zone(kind: &Kind, machine: &str, zone: Option<&str>) -> Result<()> {
    let nodes: Api<Node> = Api::all(kind.client());
    let patch = Patch::Merge(json!({"metadata": {"labels": {ZONE: zone}}}));
    nodes.patch_metadata(machine, &PatchParams::default(), &patch).await?;
    Ok(())
}

fn with(failover: &Value) -> Value {
    manifest(NAME, SIZE.shards, SIZE.nodes - 1, &json!({"failover": failover}))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn masters_come_to_their_zone_and_stay_there() -> Result<()> {
    let mut kind = Kind::new("home").await?;
    kind.apply(&with(&json!({}))).await?;
    scenario::settled(&kind, SIZE).await?;
    let machine = places(&kind).await?.into_values().next().expect("a pod").0;
    zone(&kind, &machine, Some("e2e-home")).await?;
    let home = json!({"preferred": {"zone": "e2e-home"}, "failback": "WhenCaughtUp", "failbackAfter": "1s"});
    kind.apply(&with(&home)).await?;
    let places = places(&kind).await?;
    let could = |shard: usize| {
        (0..SIZE.nodes)
            .any(|n| places.get(&format!("{NAME}-{shard}-{n}")).is_some_and(|(at, _)| *at == machine))
    };
    let came = eventually("masters live where they should", SETTLE_WITHIN, async || {
        let view = kind.view().await?;
        let lives = |shard: usize| {
            view.master(shard).and_then(|master| places.get(master)).is_some_and(|(at, _)| *at == machine)
        };
        let away: Vec<_> = (0..SIZE.shards).filter(|shard| could(*shard) && !lives(*shard)).collect();
        Ok(if away.is_empty() { Ok(()) } else { Err(format!("not those of {away:?}: {}", view.summary())) })
    })
    .await;
    zone(&kind, &machine, None).await?;
    came?;
    scenario::settled(&kind, SIZE).await.map(drop)
}
