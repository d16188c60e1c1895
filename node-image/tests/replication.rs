//! Replication between nodes, and with a real Redis on either side.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use support::{Process, Run, until};

fn value(node: &Process, key: &str) -> Option<String> {
    node.run(&["GET", key]).unwrap()
}

fn replica_of(parent: &Process) -> Process {
    Process::node(&["--replicaof", "127.0.0.1", &parent.port_text()])
}

fn fill(node: &Process, count: usize) {
    let mut connection = node.connect();
    let mut pipe = redis::pipe();
    for i in 0..count {
        pipe.cmd("SET").arg(format!("key:{i}")).arg(format!("value:{i}")).ignore();
    }
    let () = pipe.query(&mut connection).unwrap();
    let () = connection.run(&["RPUSH", "list", "a", "b", "c"]).unwrap();
    let () = connection.run(&["HSET", "hash", "f", "1", "g", "2"]).unwrap();
    let () = connection.run(&["SADD", "set", "1", "2", "x"]).unwrap();
    let () = connection.run(&["ZADD", "zset", "1.5", "a", "-inf", "b"]).unwrap();
    let () = connection.run(&["SET", "expiring", "x", "EX", "1000"]).unwrap();
}

fn assert_equal(a: &Process, b: &Process) {
    until("the copies hold the same number of keys", || {
        a.run::<u64>(&["DBSIZE"]).unwrap() == b.run::<u64>(&["DBSIZE"]).unwrap()
    });
    for command in [
        &["GET", "key:7"][..],
        &["LRANGE", "list", "0", "-1"],
        &["HGET", "hash", "g"],
        &["SCARD", "set"],
        &["ZRANGE", "zset", "0", "-1", "WITHSCORES"],
        &["PEXPIRETIME", "expiring"],
    ] {
        let get = |node: &Process| node.run::<redis::Value>(command).unwrap();
        until(&format!("{command:?} gives the same"), || get(a) == get(b));
    }
}

#[test]
fn a_chain_passes_everything_on() {
    let master = Process::node(&[]);
    fill(&master, 1000);
    let relay = replica_of(&master);
    let leaf = replica_of(&relay);
    assert_equal(&master, &leaf);
    let () = master.run(&["SET", "later", "1"]).unwrap();
    until("a later write arrives", || value(&leaf, "later").as_deref() == Some("1"));
    assert_eq!(master.info("master_replid"), leaf.info("master_replid"));
    let refused = leaf.run::<String>(&["SET", "later", "2"]).unwrap_err();
    assert_eq!(refused.code(), Some("READONLY"));
}

#[test]
fn a_cut_link_goes_on_where_it_was() {
    let master = Process::node(&[]);
    let replica = replica_of(&master);
    let () = master.run(&["SET", "a", "1"]).unwrap();
    until("the first write arrives", || value(&replica, "a").is_some());
    let full_before = master.info("sync_full");
    let _: i64 = master.run(&["CLIENT", "KILL", "TYPE", "replica"]).unwrap();
    let () = master.run(&["SET", "a", "2"]).unwrap();
    until("the next write arrives", || value(&replica, "a").as_deref() == Some("2"));
    assert_eq!(master.info("sync_full"), full_before);
    assert_eq!(replica.info("kv_partial_syncs"), "1");
}

#[test]
fn after_a_promotion_the_others_go_on_without_a_full_synchronisation() {
    let master = Process::node(&[]);
    let (first, second) = (replica_of(&master), replica_of(&master));
    fill(&master, 100);
    assert_equal(&master, &first);
    assert_equal(&master, &second);
    until("both stand at the same offset", || {
        first.info("master_repl_offset") == second.info("master_repl_offset")
    });
    let () = first.run(&["REPLICAOF", "NO", "ONE"]).unwrap();
    let () = first.run(&["SET", "new", "1"]).unwrap();
    let () = second.run(&["REPLICAOF", "127.0.0.1", &first.port_text()]).unwrap();
    until("the new master's write arrives", || value(&second, "new").is_some());
    assert_eq!(second.info("kv_full_syncs"), "1");
    // The old master holds nothing that the new one lacks: it goes on, too.
    let () = master.run(&["REPLICAOF", "127.0.0.1", &first.port_text()]).unwrap();
    until("the old master has it, too", || value(&master, "new").is_some());
    assert_eq!(master.info("kv_full_syncs"), "0");
}

#[test]
fn an_old_masters_own_tail_is_discarded() {
    let master = Process::node(&[]);
    let replica = replica_of(&master);
    let () = master.run(&["SET", "a", "1"]).unwrap();
    until("the write arrives", || value(&replica, "a").is_some());
    let () = replica.run(&["REPLICAOF", "NO", "ONE"]).unwrap();
    let () = master.run(&["SET", "tail", "lost"]).unwrap();
    let () = replica.run(&["SET", "a", "2"]).unwrap();
    let () = master.run(&["REPLICAOF", "127.0.0.1", &replica.port_text()]).unwrap();
    until("the old master holds the new one's data", || {
        value(&master, "a").as_deref() == Some("2") && value(&master, "tail").is_none()
    });
    assert_eq!(master.info("kv_full_syncs"), "1");
}

#[test]
fn a_real_redis_follows_a_node_and_a_node_follows_a_real_redis() {
    let node = Process::node(&[]);
    fill(&node, 500);
    let redis = Process::redis(&["--replicaof", "127.0.0.1", &node.port_text()]);
    until("the real Redis is in sync", || redis.info("master_link_status") == "up");
    assert_equal(&node, &redis);
    let () = node.run(&["SETEX", "short", "100", "x"]).unwrap();
    until("an expiring write arrives", || value(&redis, "short").is_some());

    let source = Process::redis(&["--repl-diskless-sync-delay", "0"]);
    fill(&source, 500);
    let follower = replica_of(&source);
    until("the node is in sync", || follower.info("master_link_status") == "up");
    assert_equal(&source, &follower);
    let () = source.run(&["INCR", "counter"]).unwrap();
    until("a later write arrives", || value(&follower, "counter").as_deref() == Some("1"));
}

#[test]
fn wait_counts_the_replicas_that_have_it() {
    let master = Process::node(&[]);
    let _replica = replica_of(&master);
    until("the replica is fed", || master.info("connected_slaves") == "1");
    let mut connection = master.connect();
    let () = connection.run(&["SET", "a", "1"]).unwrap();
    assert_eq!(connection.run::<i64>(&["WAIT", "1", "20000"]).unwrap(), 1);
    assert_eq!(connection.run::<i64>(&["WAIT", "2", "50"]).unwrap(), 1);
    assert_eq!(connection.run::<i64>(&["WAIT", "0", "0"]).unwrap(), 1);
}

#[test]
fn writes_go_on_while_a_replica_is_synchronised() {
    let master = Process::node(&[]);
    fill(&master, 20_000);
    let mut connection = master.connect();
    let replica = replica_of(&master);
    for i in 0..5000 {
        let () = connection.run(&["SET", &format!("key:{}", i * 7 % 20_000), "changed"]).unwrap();
        let () = connection.run(&["INCR", "counter"]).unwrap();
    }
    until("the last write arrives", || value(&replica, "counter").as_deref() == Some("5000"));
    let mut copy = replica.connect();
    for i in (0..20_000).step_by(97) {
        let key = format!("key:{i}");
        assert_eq!(
            connection.run::<String>(&["GET", &key]).unwrap(),
            copy.run::<String>(&["GET", &key]).unwrap(),
            "{key}"
        );
    }
}

#[test]
fn a_replica_with_too_few_databases_stops_instead_of_losing_writes() {
    let master = Process::node(&[]);
    let follow = |parent: &Process| {
        Process::node(&["--databases", "4", "--replicaof", "127.0.0.1", &parent.port_text()])
    };
    let (relay, replica) = (replica_of(&master), follow(&master));
    let is_up = |replica: &Process| replica.info("master_link_status") == "up";
    until("both are in sync", || is_up(&relay) && is_up(&replica));
    let mut connection = master.connect();
    let () = connection.run(&["SELECT", "4"]).unwrap();
    let () = connection.run(&["SET", "a", "1"]).unwrap();
    until("it says why it stops", || replica.log().contains("database 4 does not exist here"));
    // No data are there that it has no place for, but there may be more to come.
    let () = connection.run(&["DEL", "a"]).unwrap();
    until("the relay has that, too", || {
        relay.info("master_repl_offset") == master.info("master_repl_offset")
    });
    let leaf = follow(&relay);
    until("it says what is to come", || leaf.log().contains("stream is in database 4"));
    let () = connection.run(&["SELECT", "0"]).unwrap();
    let () = connection.run(&["SET", "b", "2"]).unwrap();
    for replica in [&replica, &leaf] {
        until("it goes on", || value(replica, "b").as_deref() == Some("2"));
    }
}

/// The first word of the answer to PSYNC, or the whole of an error.
fn psync(server: &Process, replid: &str, offset: u64) -> String {
    let mut wire = support::wire::Wire::connect(server);
    assert_eq!(wire.run("REPLCONF capa eof capa psync2"), "+OK");
    let answer = wire.run(&format!("PSYNC {replid} {offset}"));
    if answer.starts_with('-') { answer } else { answer.split(' ').next().unwrap().to_owned() }
}

/// What a server that was promoted answers to those who come with the one history or the other.
fn answers(first: &Process, promoted: &Process) -> Vec<String> {
    let () = first.run(&["SET", "a", "1"]).unwrap();
    until("it has the write", || {
        first.info("master_repl_offset") == promoted.info("master_repl_offset")
            && value(promoted, "a").is_some()
    });
    // A Redis begins a new history when its first replica comes.
    let old = first.info("master_replid");
    let () = promoted.run(&["REPLICAOF", "NO", "ONE"]).unwrap();
    let switch: u64 = promoted.info("second_repl_offset").parse().unwrap();
    assert_eq!(promoted.info("master_replid2"), old);
    assert_eq!(switch, promoted.info("master_repl_offset").parse::<u64>().unwrap() + 1);
    let () = promoted.run(&["SET", "b", "2"]).unwrap();
    let (new, end) = (promoted.info("master_replid"), promoted.info("master_repl_offset"));
    let end: u64 = end.parse().unwrap();
    let first_byte: u64 = promoted.info("repl_backlog_first_byte_offset").parse().unwrap();
    [
        (old.as_str(), switch),
        (&old, switch + 1),
        (&old, first_byte),
        (&new, end + 1),
        (&new, switch),
        (&new, first_byte),
        ("0000000000000000000000000000000000000000", switch),
        ("?", 0),
    ]
    .into_iter()
    .map(|(replid, offset)| psync(promoted, replid, offset))
    .collect()
}

#[test]
fn psync_is_answered_as_redis_answers() {
    let args = ["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "3600"];
    let first = Process::redis(&args);
    let follow = ["--replicaof", "127.0.0.1", &first.port_text()];
    let theirs = Process::redis(&[&follow[..], &args].concat());
    let theirs = answers(&first, &theirs);
    let ours = Process::node(&[&follow[..], &args].concat());
    let ours = answers(&first, &ours);
    assert_eq!(ours, theirs);
    assert!(ours.contains(&"+CONTINUE".to_owned()) && ours.contains(&"+FULLRESYNC".to_owned()), "{ours:?}");
    let port = support::free_port().to_string();
    let lost = ["--replicaof", "127.0.0.1", &port];
    let [theirs, ours] = [Process::redis(&lost), Process::node(&lost)].map(|server| psync(&server, "?", 0));
    assert_eq!(ours, theirs);
    assert!(ours.starts_with("-NOMASTERLINK"), "{ours}");
}
