//! A data directory goes from a real server to the node and back, whole.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::collections::BTreeMap;

use redis::{Connection, Value};
use support::{Process, Run, until};

/// Far in the future, in Unix milliseconds.
const LATER: &str = "4102444800123";

/// Database and key, and what stands there: type, elements in an order of their own, and when it expires.
type Content = BTreeMap<(usize, Vec<u8>), (String, Vec<Vec<u8>>, i64)>;

fn content(server: &Process) -> Content {
    let mut connection = server.connect();
    let mut content = Content::new();
    for db in [0, 9] {
        let () = redis::cmd("SELECT").arg(db).query(&mut connection).unwrap();
        let keys: Vec<Vec<u8>> = connection.run(&["KEYS", "*"]).unwrap();
        for key in keys {
            let mut ask = |command: &str, args: &[&str]| -> Value {
                redis::cmd(command).arg(&key).arg(args).query(&mut connection).unwrap()
            };
            let kind: String = redis::from_redis_value(ask("TYPE", &[])).unwrap();
            let expires: i64 = redis::from_redis_value(ask("PEXPIRETIME", &[])).unwrap();
            let elements = match kind.as_str() {
                "string" => vec![redis::from_redis_value(ask("GET", &[])).unwrap()],
                "list" => redis::from_redis_value(ask("LRANGE", &["0", "-1"])).unwrap(),
                "set" => sorted(ask("SMEMBERS", &[]), 1),
                "hash" => sorted(ask("HGETALL", &[]), 2),
                "zset" => ranked(ask("ZRANGE", &["0", "-1", "WITHSCORES"])),
                other => panic!("{key:?} is a {other}"),
            };
            content.insert((db, key), (kind, elements, expires));
        }
    }
    content
}

/// The elements of what has no order, in groups of `width`.
fn sorted(reply: Value, width: usize) -> Vec<Vec<u8>> {
    let elements: Vec<Vec<u8>> = redis::from_redis_value(reply).unwrap();
    let mut groups: Vec<_> = elements.chunks(width).map(<[_]>::to_vec).collect();
    groups.sort();
    groups.concat()
}

/// Members and scores, each score in one form: servers differ in how many digits they print.
fn ranked(reply: Value) -> Vec<Vec<u8>> {
    let pairs: Vec<(Vec<u8>, f64)> = redis::from_redis_value(reply).unwrap();
    pairs.into_iter().flat_map(|(member, score)| [member, score.to_string().into_bytes()]).collect()
}

fn assert_same(found: &Content, expected: &Content, what: &str) {
    for (at @ (db, key), value) in expected {
        let key = String::from_utf8_lossy(key);
        assert!(found.get(at) == Some(value), "{what}: {key} of database {db} differs");
    }
    assert_eq!(found.len(), expected.len(), "{what}");
}

/// Keys of every type in every encoding of it, below a prefix.
fn fill(connection: &mut Connection, prefix: &str) {
    let mut run = |command: &str, key: &str, args: &[&str]| {
        let key = format!("{prefix}:{key}");
        let () = redis::cmd(command).arg(key).arg(args).query(connection).unwrap();
    };
    let (long, longer) = ("d".repeat(100), "c".repeat(9000));
    let numbers: Vec<String> = (0..1000).map(|n| (n * 37 - 500).to_string()).collect();
    let many: Vec<&str> = numbers.iter().map(String::as_str).collect();
    let scored: Vec<String> = (0..1000).map(|n| format!("{:e}", f64::from(n) / 7.0 - 30.0)).collect();
    let pairs: Vec<&str> =
        scored.iter().map(String::as_str).zip(many.iter().copied()).flat_map(|(a, b)| [a, b]).collect();
    for (name, value) in [
        ("text", "hello"),
        ("empty", ""),
        ("i8", "-5"),
        ("i16", "-3000"),
        ("i32", "2000000000"),
        ("i64", "9000000000000000000"),
        ("zeros", "007"),
        ("repeating", &longer),
        ("varied", &numbers.join(" ")),
    ] {
        run("SET", name, &[value]);
    }
    run("SET", "expiring", &["v", "PXAT", LATER]);
    run("APPEND", "raw", &["appended"]);
    run(
        "RPUSH",
        "list:packed",
        &["a", "1", "-1", "5000", "-70000", "3000000000", "9000000000000000000", &long],
    );
    run("RPUSH", "list:long", &many);
    run("RPUSH", "list:plain", &[&longer, "d"]);
    run("SADD", "set:i16", &["-3", "1", "300"]);
    run("SADD", "set:i32", &["1", "100000"]);
    run("SADD", "set:i64", &["1", "10000000000"]);
    run("SADD", "set:packed", &["a", "b", "3"]);
    run("SADD", "set:table", &[&long, "x"]);
    run("SADD", "set:many", &many);
    run("HSET", "hash:packed", &["f", "v", "g", "2", "empty", ""]);
    run("HSET", "hash:table", &["f", &long, "g", "2"]);
    run("HSET", "hash:many", &many);
    run("ZADD", "zset:packed", &["1", "one", "-inf", "low", "2.5", "two", "+inf", "high", "0.1", "tenth"]);
    run("ZADD", "zset:table", &["1", &long, "0.1", "b"]);
    run("ZADD", "zset:many", &pairs);
    for key in ["list:long", "set:many", "hash:many", "zset:many"] {
        run("PEXPIREAT", key, &[LATER]);
    }
    let () = connection.run(&["SELECT", "9"]).unwrap();
    let () = connection.run(&["SET", &format!("{prefix}:other"), "db"]).unwrap();
    let () = connection.run(&["SELECT", "0"]).unwrap();
}

/// There and back: each server reads what the other one wrote, and adds to it.
fn there_and_back(program: &str, args: &[&str]) {
    let with_aof = args.contains(&"--appendonly");
    let keep = |server: &mut Process| {
        if !with_aof {
            let () = server.run(&["SAVE"]).unwrap();
        }
        server.stop();
    };
    let mut theirs = Process::other(program, args);
    let mut connection = theirs.connect();
    fill(&mut connection, "first");
    if with_aof {
        let () = connection.run(&["BGREWRITEAOF"]).unwrap();
        until("the rewrite is done", || {
            theirs.info("aof_rewrite_in_progress") == "0" && theirs.info("aof_rewrite_scheduled") == "0"
        });
        fill(&mut connection, "second");
        let () = connection.run(&["FUNCTION", "LOAD", LIBRARY]).unwrap(); // which is left out
    }
    let written = content(&theirs);
    assert!(written.len() > 25);
    keep(&mut theirs);

    let dir = theirs.dir.path().to_str().unwrap().to_owned();
    let in_place = |mine: &[&'static str]| {
        let mut all = vec!["--dir".to_owned(), dir.clone()];
        all.extend(mine.iter().map(|&arg| arg.to_owned()));
        all
    };
    let node_args = in_place(if with_aof { &["--appendonly", "yes"] } else { &[] });
    let node_args: Vec<&str> = node_args.iter().map(String::as_str).collect();
    let mut node = Process::node(&node_args);
    assert_same(&content(&node), &written, &format!("from {program} {args:?}"));
    fill(&mut node.connect(), "third");
    if with_aof {
        let () = node.run(&["BGREWRITEAOF"]).unwrap();
        until("the rewrite is done", || node.info("aof_rewrite_in_progress") == "0");
        fill(&mut node.connect(), "fourth");
    }
    let both = content(&node);
    assert!(both.len() > written.len());
    keep(&mut node);

    theirs.restart();
    assert_same(&content(&theirs), &both, &format!("to {program} {args:?}"));
}

const LIBRARY: &str = "#!lua name=l\nredis.register_function('f', function() return 1 end)";

#[test]
fn functions_in_the_stream_of_a_redis_are_left_out() {
    let redis = Process::redis(&[]);
    let node = Process::node(&["--replicaof", "127.0.0.1", &redis.port.to_string()]);
    until("the copy is there", || node.info("master_link_status") == "up");
    for command in [
        &["SET", "k", "1"][..],
        &["FUNCTION", "LOAD", LIBRARY],
        &["INCR", "k"],
        &["FUNCTION", "FLUSH"],
        &["INCR", "k"],
    ] {
        let _: Value = redis.run(command).unwrap();
    }
    until("all came", || node.run::<Option<u64>>(&["GET", "k"]).unwrap() == Some(3));
    assert_eq!(redis.info("sync_full"), "1");
}

const WAYS: [&[&str]; 3] =
    [&[], &["--appendonly", "yes"], &["--appendonly", "yes", "--aof-use-rdb-preamble", "no"]];

#[test]
fn redis_and_the_node_take_over_each_others_files() {
    WAYS.iter().for_each(|args| there_and_back("redis-server", args));
}

#[test]
fn so_do_the_peer_that_is_named_and_the_node() {
    let Ok(peer) = std::env::var("KV_PEER") else {
        return eprintln!("skipped: KV_PEER names no valkey-server");
    };
    WAYS.iter().for_each(|args| there_and_back(&peer, args));
}

#[test]
fn redis_reads_what_the_node_keeps_account_of_for_eviction() {
    for (policy, command) in [("allkeys-lfu", "FREQ"), ("allkeys-lru", "IDLETIME")] {
        let mut node = Process::node(&["--maxmemory-policy", policy]);
        let mut connection = node.connect();
        let () = connection.run(&["SET", "k", "v"]).unwrap();
        for _ in 0..200 {
            let () = connection.run(&["GET", "k"]).unwrap();
        }
        let ours: i64 = connection.run(&["OBJECT", command, "k"]).unwrap();
        let () = connection.run(&["SAVE"]).unwrap();
        node.stop();
        let redis =
            Process::redis(&["--dir", node.dir.path().to_str().unwrap(), "--maxmemory-policy", policy]);
        let theirs: i64 = redis.run(&["OBJECT", command, "k"]).unwrap();
        assert!(
            ours.abs_diff(theirs) <= if command == "FREQ" { 1 } else { 60 },
            "{policy}: {ours}, {theirs}"
        );
        assert!(command != "FREQ" || theirs > 5, "a new key has 5");
        node.restart();
        let again: i64 = node.run(&["OBJECT", command, "k"]).unwrap();
        assert!(
            again.abs_diff(theirs) <= if command == "FREQ" { 1 } else { 60 },
            "{policy}: {again}, {theirs}"
        );
    }
}
