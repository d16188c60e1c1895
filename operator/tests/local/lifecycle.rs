//! Start, change, stop.

use std::net::TcpListener;
use std::process::{Command, Stdio};

use redis::Commands;
use serde_json::{Value, json};

use crate::harness::{Cluster, eventually, master, process, runs, signal};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_cluster_comes_up_is_shown_and_goes() {
    let mut cluster = Cluster::ready("{shards: 2, replicasPerShard: 1}");
    let status = cluster.status().unwrap();
    assert_eq!(status["cluster"]["status"]["ready"], "4/4");
    assert_eq!(status["cluster"]["status"]["masters"], "2/2");
    assert_eq!(status["processes"].as_array().unwrap().len(), 4);
    let table = text(&cluster.run(&["status"]).stdout);
    assert!(
        table.lines().nth(1).unwrap().starts_with("shop   2        1          4/4     2/2       Ready"),
        "{table}"
    );
    eventually("says how to connect", || {
        cluster.said().contains(&format!("redis-cli -c -p {}", cluster.base_port)).then_some(())
    });

    let pids: Vec<_> = ["shop-0-0", "shop-1-1"].map(|node| cluster.pid(node)).into();
    assert!(cluster.stop_up());
    for pid in pids {
        assert!(!runs(pid));
    }
    let output = cluster.run(&["down", "--purge"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(!cluster.dir().exists());
}

#[test]
fn a_second_up_is_refused_and_names_the_first() {
    let cluster = Cluster::ready("{shards: 1, replicasPerShard: 0}");
    let output = cluster.up_command().output().unwrap();
    assert!(!output.status.success());
    let error = text(&output.stderr);
    assert!(error.contains("runs already, with process id"), "{error}");
    cluster.wait_ready();
}

#[test]
fn a_port_in_use_is_named() {
    let cluster = Cluster::new();
    cluster.write("{shards: 1, replicasPerShard: 1}");
    let port = cluster.base_port + 1;
    let _taken = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let output = cluster.up_command().output().unwrap();
    assert!(!output.status.success());
    let error = text(&output.stderr);
    assert!(error.contains(&format!("port {port} is in use")), "{error}");
}

#[test]
fn a_bad_spec_is_refused_and_the_cluster_untouched() {
    let cluster = Cluster::ready("{shards: 1, replicasPerShard: 1}");
    let before = cluster.status().unwrap();
    for (spec, field) in [
        ("{shards: 0}", "spec.shards"),
        ("{shards: 1025}", "spec.shards"),
        ("{shards: 1, config: {nonsense: 1}}", "spec.config.nonsense"),
        ("{shards: 1, replicas: 2}", "spec.replicas"),
    ] {
        let output = cluster.apply(spec);
        assert!(!output.status.success(), "{spec}");
        let error = text(&output.stderr);
        assert!(error.contains(field), "{error}");
    }
    let after = cluster.status().unwrap();
    assert_eq!(after["processes"], before["processes"]);
    assert_eq!(after["cluster"]["metadata"], before["cluster"]["metadata"]);
    assert_eq!(after["cluster"]["spec"], before["cluster"]["spec"]);
}

#[test]
fn replicas_and_topology_are_changed_live() {
    let cluster = Cluster::ready("{shards: 1, replicasPerShard: 1}");
    let (master_pid, port) = (cluster.pid("shop-0-0"), cluster.port("shop-0-0"));
    let _: () = cluster.connect("shop-0-0").set("key", "value").unwrap();

    let chain = "{shards: 1, replicasPerShard: 2, replication: {topology: {type: Chain}}}";
    assert!(cluster.apply(chain).status.success());
    let status = cluster.wait_for("3 nodes in a chain", |status| {
        status["cluster"]["status"]["ready"] == "3/3"
            && status["cluster"]["status"]["shards"][0]["nodes"][2]["parent"] == "shop-0-1"
    });
    assert_eq!(status["cluster"]["status"]["topology"], "Chain");
    assert_eq!(process(&status, "shop-0-2")["port"], json!(port + 2));
    let last = cluster.pid("shop-0-2");
    let mut replica = cluster.connect("shop-0-2");
    let _: () = redis::cmd("READONLY").query(&mut replica).unwrap();
    assert_eq!(replica.get::<_, String>("key").unwrap(), "value");

    assert!(cluster.apply("{shards: 1, replicasPerShard: 1}").status.success());
    cluster.wait_for("2 nodes", |status| {
        status["cluster"]["status"]["ready"] == "2/2" && status["processes"].as_array().unwrap().len() == 2
    });
    eventually("the third node stops", || (!runs(last)).then_some(()));
    eventually("its folder goes", || (!cluster.dir().join("nodes/shop-0-2").exists()).then_some(()));
    assert_eq!(cluster.pid("shop-0-0"), master_pid);
}

#[test]
fn directives_are_changed_live() {
    let cluster = Cluster::ready("{shards: 1, replicasPerShard: 1, config: {maxclients: 111}}");
    let pid = cluster.pid("shop-0-1");
    // What somebody else sets is set right, too.
    let mut connection = cluster.connect("shop-0-0");
    let _: () = redis::cmd("CONFIG").arg("SET").arg("maxclients").arg(333).query(&mut connection).unwrap();
    let value = |node: &str| {
        let mut connection = cluster.connect(node);
        let pair: Vec<String> =
            redis::cmd("CONFIG").arg("GET").arg("maxclients").query(&mut connection).unwrap();
        pair[1].clone()
    };
    for (spec, expected) in [
        ("{shards: 1, replicasPerShard: 1, config: {maxclients: 111}}", "111"),
        ("{shards: 1, replicasPerShard: 1, config: {maxclients: 222}}", "222"),
        ("{shards: 1, replicasPerShard: 1}", "10000"),
    ] {
        assert!(cluster.apply(spec).status.success());
        for node in ["shop-0-0", "shop-0-1"] {
            eventually("the new value", || (value(node) == expected).then_some(()));
        }
    }
    assert_eq!(cluster.pid("shop-0-1"), pid);
}

#[test]
fn data_on_volumes_outlives_a_stop() {
    let spec = "{shards: 1, replicasPerShard: 1, storage: {volume: {size: 1Gi}}}";
    let mut cluster = Cluster::ready(spec);
    let _: () = cluster.connect(&master(&cluster.status().unwrap(), 0)).set("key", "value").unwrap();
    assert!(cluster.stop_up());
    cluster.up();
    let status = cluster.wait_ready();
    let value: String = cluster.connect(&master(&status, 0)).get("key").unwrap();
    assert_eq!(value, "value");
}

#[test]
fn up_goes_to_the_background_and_down_ends_it() {
    let cluster = Cluster::new();
    cluster.write("{shards: 1, replicasPerShard: 1}");
    let output = cluster.up_command().arg("--detach").output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("redis-cli -c -p"), "{}", text(&output.stdout));
    let pid = cluster.pid("shop-0-0");
    let output = cluster.run(&["down"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(!runs(pid));
    assert!(cluster.dir().join("cluster.yaml").exists());
}

#[test]
fn nodes_without_an_up_are_shown_and_stopped() {
    let mut cluster = Cluster::ready("{shards: 1, replicasPerShard: 1}");
    cluster.kill_up();
    let status = cluster.status().unwrap();
    assert_eq!(status["cluster"]["status"]["ready"], "2/2", "{status:#}");
    let pid = cluster.pid("shop-0-1");
    signal(pid, "KILL");
    eventually("the loss is shown", || {
        (cluster.status()?["cluster"]["status"]["ready"] == "1/2").then_some(())
    });
    let other = cluster.pid("shop-0-0");
    let output = cluster.run(&["down"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(!runs(other));
}

#[test]
fn a_copied_folder_leaves_the_original_alone_and_a_moved_one_is_the_same() {
    let mut cluster = Cluster::ready("{shards: 1, replicasPerShard: 1}");
    let pids = ["shop-0-0", "shop-0-1"].map(|node| cluster.pid(node));
    let copy = cluster.dir().with_file_name("copy");
    assert!(Command::new("cp").arg("-a").arg(cluster.dir()).arg(&copy).status().unwrap().success());
    let in_copy = |args: &[&str]| cluster.command_in(&copy, args).output().unwrap();
    // With other ports nothing else would keep them apart.
    let other_ports = (cluster.base_port + 20).to_string();
    for args in [&["up"][..], &["up", "--base-port", &other_ports]] {
        let output = in_copy(args);
        let error = text(&output.stderr);
        assert!(!output.status.success() && error.contains("is a copy of a cluster that runs"), "{error}");
        assert!(error.contains(cluster.dir().to_str().unwrap()), "{error}");
    }
    let status: Value = serde_json::from_slice(&in_copy(&["status", "-o", "json"]).stdout).unwrap();
    assert_eq!(status["processes"], json!([]));
    let output = in_copy(&["down", "--purge"]);
    assert!(output.status.success() && !copy.exists(), "{}", text(&output.stderr));
    assert!(pids.into_iter().all(runs));
    cluster.wait_ready();

    // A folder that is moved takes its nodes along.
    cluster.kill_up();
    std::fs::rename(cluster.dir(), &copy).unwrap();
    let output = cluster.command_in(&copy, &["down"]).output().unwrap();
    std::fs::rename(&copy, cluster.dir()).unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(!pids.into_iter().any(runs));
}

#[test]
fn output_that_nobody_reads_is_no_failure() {
    let mut cluster = Cluster::new();
    cluster.write("{shards: 1, replicasPerShard: 0}");
    let file = cluster.file();
    let apply = ["apply", "-f", file.to_str().unwrap()];
    for args in [&apply[..], &["status"], &["status", "-o", "json"], &["receipts"], &["down"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = cluster.command(args).stdout(writer).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    }
    cluster.up();
    cluster.wait_ready();
}

#[test]
fn a_cluster_that_was_never_started_says_so() {
    let cluster = Cluster::new();
    assert!(cluster.apply("{shards: 1, replicasPerShard: 1}").status.success());
    let conditions = cluster.status().unwrap()["cluster"]["status"]["conditions"].clone();
    let degraded = conditions.as_array().unwrap().iter().find(|one| one["type"] == "Degraded").unwrap();
    assert_eq!((&degraded["status"], &degraded["reason"]), (&json!("True"), &json!("NotRunning")));
    assert!(degraded["message"].as_str().unwrap().contains("kv-operator local up"), "{degraded}");
}

#[test]
fn of_two_that_go_to_the_background_at_once_one_is_told_of_the_other() {
    let cluster = Cluster::new();
    assert!(cluster.apply("{shards: 1, replicasPerShard: 0}").status.success());
    let start = || cluster.up_command().arg("--detach").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let both = [start().unwrap(), start().unwrap()].map(|child| child.wait_with_output().unwrap());
    let (won, lost): (Vec<_>, Vec<_>) = both.iter().partition(|output| output.status.success());
    assert_eq!((won.len(), lost.len()), (1, 1), "{both:?}");
    assert!(text(&lost[0].stderr).contains("runs already, with process id"), "{}", text(&lost[0].stderr));
    let log = std::fs::read_to_string(cluster.dir().join("up.log")).unwrap();
    assert!(log.contains("shop is ready"), "{log}");
}

#[test]
fn clients_that_are_paused_for_long_are_told() {
    let cluster = Cluster::ready("{shards: 1, replicasPerShard: 0}");
    let client = |args: &[&str]| {
        redis::cmd("CLIENT").arg(args).query::<()>(&mut cluster.connect("shop-0-0")).unwrap();
    };
    client(&["PAUSE", "9999999", "WRITE"]);
    eventually("it is not ready", || {
        let conditions = cluster.status()?["cluster"]["status"]["conditions"].clone();
        let ready = conditions.as_array()?.iter().find(|one| one["type"] == "Ready")?.clone();
        (ready["reason"] == "ClientsPaused" && ready["status"] == "False").then_some(())
    });
    client(&["UNPAUSE"]);
    cluster.wait_ready();
}
