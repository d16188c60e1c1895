//! A KvCluster on Kubernetes whose number of shards changes under load.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use kube::ResourceExt;
use kv_e2e::cluster::kind::Kind;
use kv_e2e::cluster::{Cluster, Result, manifest};
use kv_e2e::scenario::{self, SETTLE_WITHIN, Size};
use serde_json::json;

const NAME: &str = "shop";
const FIRST: usize = 2;

fn size(shards: usize) -> Size {
    Size { shards, nodes: 2 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_move_to_new_shards_and_back_without_a_lost_or_a_refused_write() -> Result<()> {
    let mut kind = Kind::new("reshard").await?;
    kind.apply(&manifest(NAME, FIRST, 1, &json!({}))).await?;
    let before = scenario::settled(&kind, size(FIRST)).await?;
    let mut ledger = kind.ledger().await?;
    for shards in [4, FIRST] {
        kind.apply(&manifest(NAME, shards, 1, &json!({}))).await?;
        scenario::settled(&kind, size(shards)).await?;
        ledger.acknowledged(SETTLE_WITHIN).await?;
    }
    let after = scenario::settled(&kind, size(FIRST)).await?;
    assert_eq!(after.status.shards.len(), FIRST, "{}", after.summary());
    assert_eq!(scenario::full_syncs(&kind, &after).await?, scenario::full_syncs(&kind, &before).await?);
    let pods: Vec<String> = kind.pods().await?.iter().map(ResourceExt::name_any).collect();
    let gone = |pod: &&String| !["shop-0-", "shop-1-"].iter().any(|kept| pod.starts_with(kept));
    let left: Vec<_> = pods.iter().filter(|pod| pod.starts_with(NAME)).filter(gone).collect();
    assert!(left.is_empty(), "pods of shards that went are left: {left:?}");
    let lies = scenario::lies_of(&kind, &mut ledger).await?;
    assert!(lies.is_empty(), "Ready during {lies:?}");
    let report = ledger.finish(Duration::from_secs(60)).await?;
    println!("shards {FIRST} to 4 to {FIRST}: {report}");
    // A busy machine brings timeouts; what servers say is MOVED and nothing else.
    let tally = report.tally();
    let mut said = tally.errors.keys().filter(|code| code.chars().all(|c| c.is_ascii_uppercase()));
    assert!(said.all(|code| code == "MOVED"), "{report}");
    assert!(report.verdict.clean(), "{report}");
    Ok(())
}
