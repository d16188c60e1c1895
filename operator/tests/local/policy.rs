//! What users say of failover: where masters should live, and what is done without a quorum.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;

use redis::Commands;
use serde_json::{Value, json};

use crate::harness::{Cluster, SOON, connect, eventually, master, signal};

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

/// Takes one request with a JSON body, and answers that it did.
fn take_notification(listener: &TcpListener) -> Value {
    let (mut stream, _) = eventually("a notification", || listener.accept().ok());
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        match line.trim().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.parse().unwrap()
            }
            None if line.trim().is_empty() => break,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").unwrap();
    serde_json::from_slice(&body).unwrap()
}

#[test]
fn a_lost_master_is_posted_with_its_receipt() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut cluster = Cluster::new();
    cluster.notify_url = format!("http://{}/hook", listener.local_addr().unwrap());
    cluster.write("{shards: 1, replicasPerShard: 1}");
    cluster.up();
    let old = master(&cluster.wait_ready(), 0);
    signal(cluster.pid(&old), "KILL");
    let posted = std::iter::repeat_with(|| take_notification(&listener));
    let posted =
        posted.take(100).find(|posted| posted["reason"] == "FailedOver").expect("a failover is posted");
    assert_eq!((&posted["cluster"], &posted["type"]), (&json!("shop"), &json!("Warning")));
    assert_eq!(posted["receipt"]["from"], old);
    assert_eq!(posted["receipt"]["reason"], "MasterExited");
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
