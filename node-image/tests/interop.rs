//! A data directory goes from a real server to the node and back, whole.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use support::content::{assert_same, content, fill};
use support::{Process, Run, until};

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
        let _: redis::Value = redis.run(command).unwrap();
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
