//! Local clusters whose number of shards changes under load, also with faults in the middle of it. The faults and their
//! moments come from a seed, which the output names: `KV_E2E_SEED` replays it. `KV_E2E_MOVES` sets the number of rounds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use kv_e2e::cluster::local::Local;
use kv_e2e::cluster::view::View;
use kv_e2e::cluster::{Cluster, Result, info_number, manifest};
use kv_e2e::scenario;
use serde_json::{Value, json};

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn with(shards: usize, rest: &Value) -> Value {
    manifest("moves", shards, 1, rest)
}

async fn settled(local: &Local, shards: usize) -> Result<View> {
    let what = format!("{shards} shards, all as specified,");
    local.wait(&what, scenario::SETTLE_WITHIN, |view| view.settled(shards, 2)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_come_and_go_without_a_lost_or_a_refused_write() -> Result<()> {
    let mut local = Local::up(&with(3, &json!({}))).await?;
    settled(&local, 3).await?;
    let access = local.access().await?;
    assert_eq!(scenario::write_and_read(&access, 20_000).await?, 20_000);
    let mut ledger = local.ledger().await?;
    for shards in [5, 3, 1, 4] {
        local.apply(&with(shards, &json!({}))).await?;
        settled(&local, shards).await?;
        ledger.acknowledged(scenario::SETTLE_WITHIN).await?;
        println!("{shards} shards: settled");
    }
    let report = ledger.finish(Duration::from_secs(60)).await?;
    println!("moves: {report}");
    // A busy machine brings timeouts; what servers say is MOVED and nothing else.
    let tally = report.tally();
    let mut said = tally.errors.keys().filter(|code| code.chars().all(|c| c.is_ascii_uppercase()));
    assert!(said.all(|code| code == "MOVED"), "{report}");
    assert!(report.verdict.clean(), "{report}");
    let mut sizes = Vec::new();
    for node in settled(&local, 4).await?.nodes().filter(|node| node.role.as_deref() == Some("Master")) {
        let info = local.info(&node.name).await?;
        sizes.push(info.lines().any(|line| line.starts_with("db0:keys=")));
        assert!(info_number(&info, "connected_slaves") == Some(1), "{info}");
    }
    assert_eq!(sizes, [true; 4], "each shard has keys");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_mind_and_the_loss_of_masters_and_operator_lose_nothing() -> Result<()> {
    let seed = number("KV_E2E_SEED", fastrand::u64(..));
    let rounds = number("KV_E2E_MOVES", 4);
    println!("KV_E2E_SEED={seed} KV_E2E_MOVES={rounds}");
    let mut random = fastrand::Rng::with_seed(seed);
    let rest = json!({"replication": {"acknowledge": {"mode": "Quorum", "copies": 2}}});
    let mut local = Local::up(&with(3, &rest)).await?;
    let mut shards = 3;
    settled(&local, shards).await?;
    let access = local.access().await?;
    scenario::write_and_read(&access, 20_000).await?;
    let mut ledger = local.ledger().await?;
    for round in 0..rounds {
        let (from, to) = (shards, if shards == 3 { 5 } else { 3 });
        local.apply(&with(to, &rest)).await?;
        // The fault's time, not a wait for anything.
        tokio::time::sleep(Duration::from_millis(random.u64(..4000))).await;
        let view = local.view().await?;
        let masters: Vec<String> =
            view.status.shards.iter().filter_map(|shard| shard.master.clone()).collect();
        let victim = random.usize(..=masters.len());
        match masters.get(victim) {
            // One of a shard that goes may be gone already.
            Some(master) => drop(local.kill(master).await),
            None => {
                local.kill_operator().await?;
                local.start_operator()?;
            }
        }
        shards = to;
        if random.bool() {
            tokio::time::sleep(Duration::from_millis(random.u64(..2000))).await;
            local.apply(&with(from, &rest)).await?;
            shards = from;
        }
        let what = masters.get(victim).map_or("the operator", String::as_str);
        println!("round {round}: {from} to {to} shards, {what} killed, now for {shards}");
        settled(&local, shards).await?;
        ledger.acknowledged(scenario::SETTLE_WITHIN).await?;
    }
    let report = ledger.finish(Duration::from_secs(60)).await?;
    println!("moves: {report}");
    assert!(report.verdict.clean(), "{report}");
    Ok(())
}
