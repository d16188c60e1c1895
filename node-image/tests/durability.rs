//! What is on disk after a kill.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use support::wire::Wire;
use support::{Process, Run, until};

#[test]
fn with_appendfsync_always_nothing_acknowledged_is_lost() {
    let mut node = Process::node(&["--appendonly", "yes", "--appendfsync", "always"]);
    for round in 0..5 {
        let mut connection = node.connect();
        for i in 0..50 {
            let () = connection.run(&["RPUSH", "list", &format!("{round}:{i}")]).unwrap();
        }
        node.kill();
        node.restart();
        assert_eq!(node.run::<usize>(&["LLEN", "list"]).unwrap(), (round + 1) * 50);
    }
}

#[test]
fn every_type_and_database_comes_back() {
    let mut node = Process::node(&["--appendonly", "yes"]);
    let mut connection = node.connect();
    for command in [
        &["SET", "s", "1"][..],
        &["SELECT", "3"],
        &["HSET", "h", "f", "v"],
        &["ZADD", "z", "2", "m"],
        &["SADD", "set", "a", "b", "c"],
        &["SPOP", "set"],
        &["INCRBYFLOAT", "f", "0.1"],
        &["SET", "e", "x", "EX", "1000"],
    ] {
        let _: redis::Value = connection.run(command).unwrap();
    }
    let members: Vec<String> = connection.run(&["SMEMBERS", "set"]).unwrap();
    node.signal(rustix::process::Signal::TERM);
    node.wait_until_gone();
    node.restart();
    assert_eq!(node.run::<String>(&["GET", "s"]).unwrap(), "1");
    let mut connection = node.connect();
    let () = connection.run(&["SELECT", "3"]).unwrap();
    assert_eq!(connection.run::<String>(&["HGET", "h", "f"]).unwrap(), "v");
    assert_eq!(connection.run::<f64>(&["ZSCORE", "z", "m"]).unwrap(), 2.0);
    assert_eq!(connection.run::<Vec<String>>(&["SMEMBERS", "set"]).unwrap(), members);
    assert_eq!(connection.run::<String>(&["GET", "f"]).unwrap(), "0.1");
    assert!(connection.run::<i64>(&["TTL", "e"]).unwrap() > 900);
}

#[test]
fn a_rewrite_under_load_loses_nothing() {
    let mut node = Process::node(&["--appendonly", "yes", "--appendfsync", "always"]);
    let mut connection = node.connect();
    for i in 0..400 {
        let () = connection.run(&["SET", &format!("key:{i}"), "old"]).unwrap();
        if i == 200 {
            let () = connection.run(&["BGREWRITEAOF"]).unwrap();
        }
        let () = connection.run(&["INCR", "counter"]).unwrap();
    }
    until("the rewrite is done", || node.info("aof_rewrite_in_progress") == "0");
    node.kill();
    node.restart();
    assert_eq!(node.run::<usize>(&["DBSIZE"]).unwrap(), 401);
    assert_eq!(node.run::<String>(&["GET", "counter"]).unwrap(), "400");
}

#[test]
fn a_real_redis_reads_the_append_only_file() {
    let mut node = Process::node(&["--appendonly", "yes"]);
    let () = node.run(&["SET", "a", "1"]).unwrap();
    let () = node.run(&["BGREWRITEAOF"]).unwrap();
    let () = node.run(&["LPUSH", "l", "x", "y"]).unwrap();
    until("the rewrite is done", || node.info("aof_rewrite_in_progress") == "0");
    node.signal(rustix::process::Signal::TERM);
    node.wait_until_gone();
    let dir = node.dir.path().to_str().unwrap();
    let redis = Process::redis(&["--dir", dir, "--appendonly", "yes"]);
    assert_eq!(redis.run::<String>(&["GET", "a"]).unwrap(), "1");
    assert_eq!(redis.run::<usize>(&["LLEN", "l"]).unwrap(), 2);
}

#[test]
fn a_replica_keeps_what_it_was_sent() {
    let master = Process::node(&[]);
    let () = master.run(&["SET", "before", "1"]).unwrap();
    let mut replica =
        Process::node(&["--appendonly", "yes", "--replicaof", "127.0.0.1", &master.port_text()]);
    until("it is in sync", || replica.info("master_link_status") == "up");
    let () = master.run(&["SET", "after", "2"]).unwrap();
    until("it has the later write", || replica.run::<Option<String>>(&["GET", "after"]).unwrap().is_some());
    drop(master);
    replica.signal(rustix::process::Signal::TERM);
    replica.wait_until_gone();
    replica.restart();
    assert_eq!(replica.run::<usize>(&["DBSIZE"]).unwrap(), 2);
}

#[test]
fn a_damaged_file_is_refused_by_its_name_and_place() {
    let mut node = Process::node(&["--appendonly", "yes", "--appendfsync", "always"]);
    for value in ["first", "second", "third"] {
        let () = node.run(&["SET", "key", value]).unwrap();
    }
    node.kill();
    let path = node.dir.path().join("appendonlydir/appendonly.aof.1.incr.aof");
    let good = std::fs::read(&path).unwrap();
    let at = good.windows(6).position(|window| window == b"second").unwrap();
    let mut bytes = good.clone();
    bytes[at] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    node.spawn_again();
    node.wait_until_gone();
    let log = node.log();
    let chunk = good.windows(8).position(|window| window == b"#kv-crc ").unwrap() + 18;
    let place = format!("{}, at byte {chunk}: ", path.display());
    assert!(log.contains(&place) && log.contains("do not match their checksum"), "{log}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "it is left as it is");
    // As the message says, for who can bear the loss.
    std::fs::write(&path, &good[..chunk]).unwrap();
    node.restart();
    assert_eq!(node.run::<String>(&["GET", "key"]).unwrap(), "first");
}

#[test]
fn nothing_is_acknowledged_after_the_last_save() {
    let mut node = Process::node(&["--save", "100000 100000"]);
    let mut wire = Wire::connect(&node);
    wire.send(&["SET", "before", "1"]);
    wire.send(&["SHUTDOWN"]);
    wire.send(&["SET", "after", "1"]);
    assert_eq!(wire.read(), "+OK");
    assert!(wire.is_closed());
    node.wait_until_gone();
    node.restart();
    assert_eq!(node.run::<Vec<String>>(&["KEYS", "*"]).unwrap(), ["before"]);
}

#[test]
fn commands_that_would_lose_data_keep_a_node_from_starting() {
    let mut node = Process::node(&["--appendonly", "yes", "--databases", "4"]);
    let () = node.run(&["SET", "a", "1"]).unwrap();
    node.signal(rustix::process::Signal::TERM);
    node.wait_until_gone();
    let file = node.dir.path().join("appendonlydir/appendonly.aof.1.incr.aof");
    let good = std::fs::read(&file).unwrap();
    for (bad, error) in [
        (
            "*2\r\n$6\r\nSELECT\r\n$1\r\n4\r\n*3\r\n$3\r\nSET\r\n$1\r\nb\r\n$1\r\n2\r\n",
            "database 4 does not exist here",
        ),
        ("*2\r\n$3\r\nSET\r\n$1\r\nb\r\n", "wrong number of arguments for 'set' command"),
    ] {
        std::fs::write(&file, [&good, bad.as_bytes()].concat()).unwrap();
        let log = node.restart_in_vain();
        assert!(log.contains(&format!("at byte {}", good.len())) && log.contains(error), "{log}");
    }
    std::fs::write(&file, good).unwrap();
    node.restart();
    assert_eq!(node.run::<String>(&["GET", "a"]).unwrap(), "1");
}
