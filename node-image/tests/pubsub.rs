//! Publishing and subscribing: compared with a real Redis, on the way to replicas, and its bounds.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use support::wire::{Wire, compare, transcript};
use support::{Process, until};

const SCRIPT: &str = "a SUBSCRIBE x y
    a <
    a SUBSCRIBE x
    b PUBLISH x hello
    a <
    b PUBLISH z hello
    a PSUBSCRIBE x* [a-y]
    a <
    b PUBLISH y hello
    a <
    a <
    a PUNSUBSCRIBE [a-y]
    a UNSUBSCRIBE nonesuch
    a PING
    a PING text
    b PUBSUB CHANNELS x*
    b PUBSUB NUMSUB x nonesuch
    b PUBSUB NUMSUB
    b PUBSUB NUMPAT
    b PUBSUB NUMPAT extra
    b PUBSUB CHANNELS a b
    b PUBSUB SHARDCHANNELS
    b PUBSUB NONESUCH
    a UNSUBSCRIBE x y
    a <
    a UNSUBSCRIBE
    a PUNSUBSCRIBE x*
    a PUNSUBSCRIBE
    a SSUBSCRIBE s t
    a <
    b SPUBLISH s hello
    a <
    b PUBLISH s hello
    b PUBSUB SHARDCHANNELS s*
    b PUBSUB SHARDNUMSUB s x
    a SUNSUBSCRIBE t
    a SUNSUBSCRIBE
    a SUNSUBSCRIBE
    a GET none
    b PUBLISH x
    b SUBSCRIBE";

#[test]
fn the_rules_are_those_of_redis() {
    compare(SCRIPT, &[]);
    compare(
        "a SUBSCRIBE x
         a GET none
         a SET x 1
         a MULTI
         a EXEC
         a PUBLISH x y
         a HELLO 3
         a RESET
         a GET none
         b PUBLISH x y
         a SSUBSCRIBE x
         a GET none
         a SUNSUBSCRIBE
         a MULTI
         a SUBSCRIBE x
         a PUBLISH y 1
         a GET none
         a EXEC
         a GET none
         b PUBLISH x y
         a <
         a QUIT",
        &[],
    );
}

#[test]
fn messages_are_pushes_in_resp3() {
    let script =
        format!("a HELLO 3\n{SCRIPT}\na SUBSCRIBE x\na GET none\na SET k 1\na MULTI\na GET k\na EXEC");
    let (redis, node) = (Process::redis(&[]), Process::node(&[]));
    let after_hello = |server| transcript(server, &script).split_off(1);
    assert_eq!(after_hello(&redis), after_hello(&node));
}

#[test]
fn who_publishes_to_itself_gets_the_reply_first() {
    let node = Process::node(&[]);
    let mut wire = Wire::connect(&node);
    wire.run("HELLO 3");
    assert_eq!(wire.run("SUBSCRIBE x"), ">[\"subscribe\" \"x\" :1]");
    assert_eq!(wire.run("PUBLISH x one"), ":1");
    assert_eq!(wire.read(), ">[\"message\" \"x\" \"one\"]");
    for line in ["MULTI", "PUBLISH x two", "GET none"] {
        wire.run(line);
    }
    assert_eq!(wire.run("EXEC"), "*[:1 _]");
    assert_eq!(wire.read(), ">[\"message\" \"x\" \"two\"]");
}

#[test]
fn a_subscriber_of_a_replica_gets_what_the_master_publishes() {
    let mut master = Process::node(&["--appendonly", "yes", "--appendfsync", "always"]);
    let relay = Process::node(&["--replicaof", "127.0.0.1", &master.port_text()]);
    let leaf = Process::redis(&["--replicaof", "127.0.0.1", &relay.port_text()]);
    until("the leaf is in sync", || leaf.info("master_link_status") == "up");
    let mut listeners: Vec<_> = [&master, &relay, &leaf].into_iter().map(Wire::connect).collect();
    for listener in &mut listeners {
        listener.run("SUBSCRIBE x");
        listener.run("PSUBSCRIBE ?");
        listener.run("SSUBSCRIBE shard");
    }
    let mut publisher = Wire::connect(&master);
    for line in ["PUBLISH x 1", "SPUBLISH shard 2", "MULTI", "PUBLISH y 3", "SET a 1", "EXEC"] {
        publisher.run(line);
    }
    assert_eq!(publisher.run("WAIT 1 20000"), ":1");
    for listener in &mut listeners {
        let received: Vec<_> = (0..4).map(|_| listener.read()).collect();
        assert_eq!(
            received,
            [
                "*[\"message\" \"x\" \"1\"]",
                "*[\"pmessage\" \"?\" \"x\" \"1\"]",
                "*[\"smessage\" \"shard\" \"2\"]",
                "*[\"pmessage\" \"?\" \"y\" \"3\"]"
            ]
        );
    }
    assert_eq!(relay.run::<i64>(&["PUBLISH", "x", "here only"]).unwrap(), 2);
    assert_eq!(relay.info("master_repl_offset"), master.info("master_repl_offset"));
    // The append-only file holds the stream, and its messages are not sent again.
    master.kill();
    master.restart();
    assert_eq!(master.run::<i64>(&["GET", "a"]).unwrap(), 1);
}

#[test]
fn a_subscriber_that_does_not_read_is_closed() {
    for limits in ["pubsub 1mb 0 0", "pubsub 0 300kb 1"] {
        let node = Process::node(&["--client-output-buffer-limit", limits]);
        let mut slow = Wire::connect(&node);
        slow.run("SUBSCRIBE x");
        let mut publisher = Wire::connect(&node);
        let message = "m".repeat(100_000);
        // Beyond what the sockets between them hold.
        until("the subscriber is closed", || publisher.run(&format!("PUBLISH x {message}")) == ":0");
        assert_eq!(node.info("pubsub_channels"), "0");
        assert_eq!(publisher.run("PING"), "+PONG", "the publisher's class has no limit");
    }
}

#[test]
fn subscriptions_have_a_bound() {
    let node = Process::node(&["--client-query-buffer-limit", "1mb"]);
    let mut wire = Wire::connect(&node);
    let name = "x".repeat(300_000);
    let replies: Vec<_> = (0..4).map(|i| wire.run(&format!("SUBSCRIBE {i}{name}"))).collect();
    assert!(replies[2].starts_with("*["));
    assert!(replies[3].starts_with("-ERR the subscriptions are larger"), "{}", replies[3]);
}

#[test]
fn subscribers_are_shown_and_end_with_their_connection() {
    let node = Process::node(&[]);
    let (mut one, mut two) = (Wire::connect(&node), Wire::connect(&node));
    for line in ["SUBSCRIBE a", "SUBSCRIBE b", "PSUBSCRIBE *", "SSUBSCRIBE s"] {
        one.run(line);
    }
    two.run("SUBSCRIBE a");
    let list: String = node.run(&["CLIENT", "LIST", "TYPE", "pubsub"]).unwrap();
    assert_eq!(list.lines().count(), 2);
    assert!(list.contains("flags=P db=0 sub=2 psub=1 ssub=1 multi=-1 watch=0"), "{list}");
    let shown = |field: &str| node.info(field);
    assert_eq!(
        [
            shown("pubsub_clients"),
            shown("pubsub_channels"),
            shown("pubsub_patterns"),
            shown("pubsubshard_channels")
        ],
        ["2", "2", "1", "1"]
    );
    drop(one);
    until("its subscriptions are gone", || shown("pubsub_patterns") == "0");
    assert_eq!((shown("pubsub_channels"), shown("pubsubshard_channels")), ("1".into(), "0".into()));
    assert_eq!(node.run::<i64>(&["CLIENT", "KILL", "TYPE", "pubsub"]).unwrap(), 1);
    assert!(two.is_closed());
}
