//! Nodes and the operator die.

use std::time::{Duration, Instant};

use redis::Commands;
use serde_json::json;

use crate::harness::{Cluster, connect, eventually, master, runs, signal};

/// Writes until `until`, one key after the other, to whoever takes them; returns the longest time without an
/// acknowledged write, and how many were acknowledged.
fn write_through(ports: &[u16], until: impl Fn() -> bool) -> (Duration, u32) {
    let (mut longest, mut last, mut acknowledged) = (Duration::ZERO, Instant::now(), 0_u32);
    let mut at = 0;
    let mut connection = None;
    while !until() {
        let port = ports[at % ports.len()];
        let link = connection.get_or_insert_with(|| {
            let client = redis::Client::open(("127.0.0.1", port)).unwrap();
            client.get_connection_with_timeout(Duration::from_millis(500)).ok()
        });
        let written = link.as_mut().is_some_and(|link| {
            link.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            link.set::<_, _, ()>(format!("key:{acknowledged}"), acknowledged).is_ok()
        });
        if written {
            longest = longest.max(last.elapsed());
            last = Instant::now();
            acknowledged += 1;
        } else {
            connection = None;
            at += 1;
        }
    }
    (longest.max(last.elapsed()), acknowledged)
}

fn keys(port: u16) -> u32 {
    redis::cmd("DBSIZE").query(&mut connect(port)).unwrap()
}

/// Makes `old` stop being the master while keys are written. Returns the longest time without an acknowledged write,
/// how many were acknowledged, and how many keys the new master holds.
fn change_of_master(cluster: &Cluster, old: &str, strike: impl FnOnce()) -> (Duration, u32, u32) {
    let ports: Vec<_> = ["shop-0-0", "shop-0-1"].map(|node| cluster.port(node)).into();
    let old_port = cluster.port(old);
    redis::cmd("FLUSHALL").exec(&mut connect(old_port)).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    let (gap, acknowledged) = std::thread::scope(|scope| {
        let writer =
            scope.spawn(|| write_through(&ports, || done.load(std::sync::atomic::Ordering::Relaxed)));
        // Once some keys are there the writer is at work.
        eventually("writes", || (keys(old_port) > 100).then_some(()));
        strike();
        cluster.wait_for("another master, all ready", |status| master(status, 0) != old);
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        writer.join().unwrap()
    });
    let new = master(&cluster.status().unwrap(), 0);
    (gap, acknowledged, keys(cluster.port(&new)))
}

#[test]
fn a_killed_master_is_replaced_and_returns_as_a_replica() {
    let cluster = Cluster::ready("{shards: 1, replicasPerShard: 1}");
    for _ in 0..2 {
        let old = master(&cluster.status().unwrap(), 0);
        let pid = cluster.pid(&old);
        let (gap, _, _) = change_of_master(&cluster, &old, || signal(pid, "KILL"));
        println!("no acknowledged write for {gap:?} after kill -9");
        assert!(gap < Duration::from_secs(2), "{gap:?}");
        cluster.wait_restarted(&old, pid);
        assert_ne!(master(&cluster.status().unwrap(), 0), old);
        let receipts = cluster.receipts();
        let receipt = &receipts[0];
        assert_eq!((&receipt["from"], &receipt["by"]), (&json!(old), &json!("Operator")), "{receipt:#}");
        assert_eq!(receipt["kind"], "Unplanned");
        // Its memory is gone: it cannot tell.
        assert!(receipt["lost"] == "Unknown" || receipt["lost"] == "AtLeast", "{receipt:#}");
        let names = receipt["candidates"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap());
        assert!(names.eq(["shop-0-0", "shop-0-1"]), "{receipt:#}");
        let refused = receipt["interruption"].as_str().unwrap().strip_suffix("ms").unwrap();
        assert!(refused.parse::<u64>().unwrap() < 2000, "{receipt:#}");
        assert_eq!(cluster.status().unwrap()["cluster"]["status"]["failovers"], receipts);
    }
    let text = String::from_utf8(cluster.run(&["receipts"]).stdout).unwrap();
    assert!(
        text.contains("shard 0: shop-0-1 -> shop-0-0") && text.contains("new master takes writes"),
        "{text}"
    );
}

#[test]
fn a_master_that_is_told_to_stop_hands_over_and_loses_nothing() {
    let cluster = Cluster::ready("{shards: 1, replicasPerShard: 1}");
    for _ in 0..2 {
        let old = master(&cluster.status().unwrap(), 0);
        let pid = cluster.pid(&old);
        let (gap, acknowledged, found) = change_of_master(&cluster, &old, || signal(pid, "TERM"));
        println!("no acknowledged write for {gap:?} during a hand-over");
        assert!(gap < Duration::from_millis(1000), "{gap:?}");
        assert!(found >= acknowledged, "{acknowledged} acknowledged, {found} found");
        cluster.wait_restarted(&old, pid);
        let receipt = &cluster.receipts()[0];
        assert_eq!((&receipt["kind"], &receipt["lost"]), (&json!("Planned"), &json!("None")), "{receipt:#}");
    }
}

#[test]
fn an_election_without_an_operator_leaves_a_receipt_and_older_ones_stay() {
    let mut cluster = Cluster::ready("{shards: 1, replicasPerShard: 2, failover: {downAfter: 1s}}");
    let first = master(&cluster.status().unwrap(), 0);
    signal(cluster.pid(&first), "KILL");
    let status = cluster.wait_for("another master", |status| master(status, 0) != first);
    let second = master(&status, 0);
    let others: Vec<_> =
        ["shop-0-0", "shop-0-1", "shop-0-2"].into_iter().filter(|name| *name != second).collect();
    let ports: Vec<_> = others.iter().map(|name| cluster.port(name)).collect();
    let pid = cluster.pid(&second);
    cluster.kill_up();
    signal(pid, "KILL");
    let writes = |port: u16| connect(port).set::<_, _, ()>("key", "value").is_ok();
    eventually("the nodes have elected one", || ports.iter().any(|port| writes(*port)).then_some(()));
    cluster.up();
    let status = cluster.wait_for("yet another master", |status| master(status, 0) != second);
    let receipts = cluster.receipts();
    let told = |index: usize| [&receipts[index]["from"], &receipts[index]["to"], &receipts[index]["by"]];
    assert_eq!(told(0), [&json!(second), &json!(master(&status, 0)), &json!("Others")], "{receipts:#}");
    assert_eq!(told(1), [&json!(first), &json!(second), &json!("Operator")], "{receipts:#}");
}

#[test]
fn a_frozen_master_is_replaced_and_demoted_when_it_thaws() {
    let cluster = Cluster::ready("{shards: 1, replicasPerShard: 1, failover: {downAfter: 1s}}");
    let old = master(&cluster.status().unwrap(), 0);
    let pid = cluster.pid(&old);
    signal(pid, "STOP");
    eventually("another master", || (master(&cluster.status()?, 0) != old).then_some(()));
    signal(pid, "CONT");
    cluster.wait_for("all ready again", |status| master(status, 0) != old);
    assert_eq!(cluster.pid(&old), pid);
}

#[test]
fn nodes_outlive_a_killed_up_and_are_taken_over() {
    let mut cluster = Cluster::ready("{shards: 1, replicasPerShard: 1}");
    let (first, second) = (cluster.pid("shop-0-0"), cluster.pid("shop-0-1"));
    let _: () = cluster.connect(&master(&cluster.status().unwrap(), 0)).set("key", "value").unwrap();
    cluster.kill_up();
    // As if it had been killed between starting a node and writing it down.
    std::fs::remove_file(cluster.dir().join("nodes/shop-0-1/process.json")).unwrap();
    cluster.up();
    let status = cluster.wait_ready();
    assert_eq!((cluster.pid("shop-0-0"), cluster.pid("shop-0-1")), (first, second));

    // An adopted node that dies is noticed and started again, although it is no child.
    let old = master(&status, 0);
    let pid = cluster.pid(&old);
    signal(pid, "KILL");
    let status = cluster.wait_for("another master", |status| master(status, 0) != old);
    let value: String = cluster.connect(&master(&status, 0)).get("key").unwrap();
    assert_eq!(value, "value");

    // A node that dies while nobody looks is started again by the next `up`.
    cluster.kill_up();
    let old = master(&status, 0);
    signal(cluster.pid(&old), "KILL");
    cluster.up();
    let status = cluster.wait_for("another master again", |status| master(status, 0) != old);
    let value: String = cluster.connect(&master(&status, 0)).get("key").unwrap();
    assert_eq!(value, "value");
}

#[test]
fn files_that_are_lost_are_told_or_written_again() {
    let error = |output: std::process::Output| {
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let mut cluster = Cluster::ready("{shards: 1, replicasPerShard: 0}");
    let uid = cluster.status().unwrap()["cluster"]["metadata"]["uid"].clone();
    let file = cluster.dir().join("cluster.yaml");
    std::fs::remove_file(&file).unwrap();
    eventually("it is written again", || file.exists().then_some(()));
    assert_eq!(cluster.status().unwrap()["cluster"]["metadata"]["uid"], uid);
    cluster.wait_ready();

    // Without an `up` nobody knows what it was.
    cluster.kill_up();
    let pid = cluster.pid("shop-0-0");
    let kept = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let told = error(cluster.apply("{shards: 1, replicasPerShard: 0}"));
    assert!(told.contains("cluster.yaml is gone"), "{told}");
    std::fs::write(&file, kept).unwrap();

    // A node takes no other password than the one that it was started with.
    std::fs::remove_file(cluster.dir().join("control-password")).unwrap();
    let told = error(cluster.up_command().output().unwrap());
    assert!(told.contains("control-password is gone, and shop-0-0 runs"), "{told}");
    assert!(cluster.run(&["down"]).status.success() && !runs(pid));
    cluster.up();
    cluster.wait_ready();
}

#[test]
fn why_a_node_does_not_start_is_told_until_it_does() {
    let cluster = Cluster::ready("{shards: 1, replicasPerShard: 1, storage: {volume: {size: 1Gi}}}");
    let node = "shop-0-1";
    let state = cluster.dir().join("nodes").join(node).join("data/node.json");
    let sound = std::fs::read(&state).unwrap();
    std::fs::write(&state, "{").unwrap();
    signal(cluster.pid(node), "KILL");
    let told = eventually("the reason", || {
        let conditions = cluster.status()?["cluster"]["status"]["conditions"].clone();
        let degraded = conditions.as_array()?.iter().find(|one| one["type"] == "Degraded")?.clone();
        let message = degraded["message"].as_str()?.to_owned();
        message.contains("ends again and again").then_some(message)
    });
    assert!(told.contains("exited with code 1: ") && told.contains("node.json"), "{told}");
    std::fs::write(&state, sound).unwrap();
    cluster.wait_for("all ready", |status| status["cluster"]["status"]["ready"] == "2/2");
}
