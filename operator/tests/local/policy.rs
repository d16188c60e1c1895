//! What users say of failover: where masters should live, and what is done without a quorum.

use redis::Commands;
use serde_json::{Value, json};

use crate::harness::{Cluster, connect, eventually, master, signal};

#[test]
fn masters_come_back_to_where_they_should_live() {
    let cluster = Cluster::ready(
        "{shards: 1, replicasPerShard: 1, failover: {preferred: {ordinal: 1}, failback: WhenCaughtUp, failbackAfter: 1s}}",
    );
    let home = |status: &Value| master(status, 0) == "shop-0-1";
    cluster.wait_for("the master lives where it should", home);
    let receipt = &cluster.receipts()[0];
    assert_eq!((&receipt["reason"], &receipt["kind"]), (&json!("MasterAwayFromHome"), &json!("Planned")));
    signal(cluster.pid("shop-0-1"), "KILL");
    eventually("another one leads meanwhile", || (cluster.receipts()[0]["to"] == "shop-0-0").then_some(()));
    cluster.wait_for("it is back", home);
    assert_eq!(cluster.receipts()[0]["lost"], "None");
}

#[test]
fn a_shard_without_a_quorum_goes_on_once_where_a_user_says_so() {
    let spec = |policy: &str| {
        format!("{{shards: 1, replicasPerShard: 2, failover: {{downAfter: 1s, onQuorumLoss: {policy}}}}}")
    };
    let cluster = Cluster::ready(&spec("Abort"));
    let old = master(&cluster.status().unwrap(), 0);
    let others: Vec<_> =
        ["shop-0-0", "shop-0-1", "shop-0-2"].into_iter().filter(|name| *name != old).collect();
    let (gone, left) = (others[0], others[1]);
    let frozen = [cluster.pid(&old), cluster.pid(gone)];
    let port = cluster.port(left);
    let _: () = cluster.connect(&old).set("key", "value").unwrap();
    eventually("it has the key", || {
        let mut replica = connect(port);
        let _: () = redis::cmd("READONLY").query(&mut replica).unwrap();
        replica.exists::<_, bool>("key").unwrap().then_some(())
    });
    frozen.iter().for_each(|pid| signal(*pid, "STOP"));
    let ready = |status: &Value| status["cluster"]["status"]["conditions"][0]["reason"].clone();
    eventually("too few are left", || (ready(&cluster.status()?) == "NoQuorum").then_some(()));
    assert!(cluster.apply(&spec("ForceWithPossibleDataLoss")).status.success());
    eventually("it goes on alone", || connect(port).set::<_, _, ()>("other", "value").ok());
    frozen.iter().for_each(|pid| signal(*pid, "CONT"));
    let status = cluster.wait_for("all follow it", |status| master(status, 0) == left);
    assert_eq!(connect(port).get::<_, String>("key").unwrap(), "value");
    let receipt = &cluster.receipts()[0];
    assert_eq!((&receipt["from"], &receipt["to"]), (&json!(old), &json!(left)), "{receipt:#}");
    assert_eq!(receipt["reason"], "ForcedWithPossibleDataLoss", "{receipt:#}");
    // It is used up, also for whoever applies the same again.
    let kept = |status: &Value| status["cluster"]["metadata"]["annotations"]["kvcluster.io/forced"].clone();
    assert_eq!(kept(&status), "0@1");
    assert!(cluster.apply(&spec("ForceWithPossibleDataLoss")).status.success());
    assert_eq!(kept(&cluster.status().unwrap()), "0@1");
    assert!(cluster.apply(&spec("Abort")).status.success());
    eventually("it is forgotten", || kept(&cluster.status()?).is_null().then_some(()));
}
