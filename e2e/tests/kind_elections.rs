//! Masters on Kubernetes that change without an operator, without an API server, or because a user wants it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::time::Duration;

use kube::api::{Patch, PatchParams};
use kv_e2e::cluster::kind::absent::{NoApiServer, NoOperator};
use kv_e2e::cluster::kind::faults::Process;
use kv_e2e::cluster::kind::{Kind, eventually};
use kv_e2e::cluster::view::View;
use kv_e2e::cluster::{Cluster, Ledger, Result, info_number, manifest};
use kv_e2e::scenario::{self, SETTLE_WITHIN, Size};
use serde_json::{Value, json};

const NAME: &str = "shop";
const SIZE: Size = Size { shards: 2, nodes: 3 };
const READ_WITHIN: Duration = Duration::from_secs(60);
const SWITCHOVERS: usize = 20;

async fn up(purpose: &str, rest: &Value) -> Result<(Kind, View)> {
    let mut kind = Kind::new(purpose).await?;
    kind.apply(&manifest(NAME, SIZE.shards, SIZE.nodes - 1, rest)).await?;
    let view = scenario::settled(&kind, SIZE).await?;
    Ok((kind, view))
}

fn quorum() -> Value {
    json!({"replication": {"acknowledge": {"mode": "Quorum", "copies": 2}}})
}

/// Loses the master of a shard, whose process that is, by `inflict`; returns for how long writes were refused.
async fn lose(
    ledger: &mut Ledger,
    shard: usize,
    process: &Process,
    inflict: impl Future<Output = Result<()>>,
) -> Result<f64> {
    ledger.acknowledged(SETTLE_WITHIN).await?;
    let since_us = ledger.now_us().await?;
    inflict.await?;
    ended("the master", process).await?;
    ledger.acknowledged(SETTLE_WITHIN).await?;
    Ok(ledger.longest_ms(shard, since_us).await?)
}

async fn ended(whose: &str, process: &Process) -> Result<()> {
    eventually(&format!("the end of {whose}'s process"), SETTLE_WITHIN, async || {
        Ok(if process.runs().await? { Err("it runs".to_owned()) } else { Ok(()) })
    })
    .await
}

/// Waits until the nodes of a shard say that one of them leads the others, and returns its name.
async fn elected(kind: &Kind, view: &View, shard: usize) -> Result<String> {
    let what = format!("shard {shard} has one master, and the others follow it");
    eventually(&what, SETTLE_WITHIN, async || {
        let mut followers = BTreeMap::new();
        for node in &view.status.shards[shard].nodes {
            followers.insert(&node.name, info_number(&kind.info(&node.name).await?, "connected_slaves"));
        }
        let wanted = Some(SIZE.nodes as u64 - 1);
        let master = followers.iter().find(|(_, count)| **count == wanted);
        Ok(master.map(|(name, _)| (*name).clone()).ok_or_else(|| format!("followers: {followers:?}")))
    })
    .await
}

/// Waits until the status tells of a later epoch of each shard than before, and of all as specified.
async fn caught_up(kind: &Kind, before: &View, shards: std::ops::Range<usize>) -> Result<View> {
    let newer = |view: &View| shards.clone().all(|shard| view.epoch(shard) > before.epoch(shard));
    let wanted = |view: &View| newer(view) && view.settled(SIZE.shards, SIZE.nodes);
    kind.wait("the status tells who was elected, and all is as specified,", SETTLE_WITHIN, wanted).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_operator_the_nodes_elect_a_master_and_nothing_is_lost() -> Result<()> {
    let (kind, before) = up("alone", &quorum()).await?;
    let mut ledger = kind.ledger().await?;
    let masters = [0, 1].map(|shard| before.master(shard).expect("a master"));
    let absent = NoOperator::begin(&kind).await?;
    let process = Process::of(&kind.pod(masters[0]).await?).await?;
    let killed_ms = lose(&mut ledger, 0, &process, process.signal("KILL")).await?;
    let process = Process::of(&kind.pod(masters[1]).await?).await?;
    let deleted_ms = lose(&mut ledger, 1, &process, kind.delete_pod(masters[1], Some(0))).await?;
    let elected = [elected(&kind, &before, 0).await?, elected(&kind, &before, 1).await?];
    absent.end().await?;
    let after = caught_up(&kind, &before, 0..SIZE.shards).await?;
    let known = [0, 1].map(|shard| after.master(shard).unwrap_or_default());
    assert_eq!(known, elected.each_ref().map(String::as_str), "{}", after.summary());
    ledger.acknowledged(SETTLE_WITHIN).await?;
    let report = ledger.finish(READ_WITHIN).await?;
    println!("no operator: {masters:?} -> {elected:?}");
    println!(
        "writes refused for {killed_ms:.0} ms after kill -9, {deleted_ms:.0} ms after a forced deletion"
    );
    println!("{report}");
    assert!(report.verdict.clean(), "{report}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_api_server_a_shard_gets_a_new_master_and_nothing_is_lost() -> Result<()> {
    let (kind, before) = up("headless", &quorum()).await?;
    let mut ledger = kind.ledger().await?;
    let master = before.master(0).expect("a master");
    let process = Process::of(&kind.pod(master).await?).await?;
    let operator = kind.operator_process().await?;
    let absent = NoApiServer::begin(&kind).await?;
    // It cannot renew its lease.
    ended("the operator", &operator).await?;
    let refused_ms = lose(&mut ledger, 0, &process, process.signal("KILL")).await?;
    absent.end(&kind).await?;
    let after = caught_up(&kind, &before, 0..1).await?;
    ledger.acknowledged(SETTLE_WITHIN).await?;
    let report = ledger.finish(READ_WITHIN).await?;
    println!("no API server: {master} -> {}", after.master(0).unwrap_or_default());
    println!("writes refused for {refused_ms:.0} ms after kill -9; {report}");
    assert!(report.verdict.clean(), "{report}");
    Ok(())
}

/// Wishes for a master as `kubectl annotate` does, and waits until the wish is granted, and gone.
async fn annotate(kind: &Kind, shard: usize, node: &str) -> Result<()> {
    let name = format!("kvcluster.io/switchover-{shard}");
    let wish = Patch::Merge(json!({"metadata": {"annotations": {&name: node}}}));
    kind.kvclusters().patch(NAME, &PatchParams::default(), &wish).await?;
    let granted =
        |view: &View| !view.metadata.annotations.contains_key(&name) && view.master(shard) == Some(node);
    kind.wait(&format!("{node} leads, and the wish is gone"), SETTLE_WITHIN, granted).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_is_changed_again_and_again_without_a_refused_write() -> Result<()> {
    let (kind, before) = up("switchover", &json!({})).await?;
    let syncs = scenario::full_syncs(&kind, &before).await?;
    let mut ledger = kind.ledger().await?;
    let mut held = Vec::new();
    for round in 0..SWITCHOVERS {
        let shard = round % SIZE.shards;
        let view = scenario::settled(&kind, SIZE).await?;
        let master = view.master(shard).expect("a master");
        let of_shard = &view.status.shards[shard].nodes;
        let replica = &of_shard.iter().find(|node| node.name != master).expect("a replica").name;
        ledger.acknowledged(SETTLE_WITHIN).await?;
        let since_us = ledger.now_us().await?;
        match round % 5 {
            0 => {
                let printed = kind.switchover(shard, None).await?;
                assert!(printed.contains("leads") && !printed.contains(master), "{printed}");
            }
            1 => {
                let printed = kind.switchover(shard, Some(replica)).await?;
                assert_eq!(printed, format!("shard {shard}: {replica} leads\n"));
            }
            _ => annotate(&kind, shard, replica).await?,
        }
        ledger.acknowledged(SETTLE_WITHIN).await?;
        held.push(ledger.longest_ms(shard, since_us).await?);
    }
    let after = scenario::settled(&kind, SIZE).await?;
    assert_eq!(after.metadata.annotations, before.metadata.annotations, "a wish is left");
    assert_eq!(scenario::full_syncs(&kind, &after).await?, syncs, "all go on where they stand");
    assert!(scenario::lies_of(&kind, &mut ledger).await?.is_empty());
    let report = ledger.finish(READ_WITHIN).await?;
    let worst = held.iter().copied().fold(0.0, f64::max);
    println!(
        "switchover: writes held for {:.0} ms (median), {worst:.0} ms (worst of {SWITCHOVERS}); {report}",
        scenario::median(&held)
    );
    // A client that waits is told where the master is now, and is not refused; its connection there may take long.
    let tally = report.tally();
    let no_refusal = |code: &String| code == "MOVED" || code == "connect: timeout";
    assert!(tally.unknown == 0 && tally.errors.keys().all(no_refusal), "{report}");
    assert!(report.verdict.clean(), "{report}");
    Ok(())
}
