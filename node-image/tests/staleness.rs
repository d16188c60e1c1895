//! `replica-max-staleness`: a replica whose data are too old sends readers to the master.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use redis::RedisResult;
use rustix::process::Signal;
use support::shard::Shard;
use support::wire::Wire;
use support::{Process, Run, until};

const BOUND: &[&str] = &["--replica-max-staleness", "2000"];

fn get(node: &Process) -> RedisResult<Option<String>> {
    let mut connection = node.connect();
    // Unknown to a node in no cluster, which does not ask for it either.
    let _: RedisResult<()> = connection.run(&["READONLY"]);
    connection.run(&["GET", "a"])
}

fn code(node: &Process) -> Option<String> {
    get(node).err().and_then(|error| error.code().map(str::to_owned))
}

#[test]
fn clients_of_a_cluster_are_sent_to_the_master() {
    let shard = Shard::with(BOUND, 2, |_| {});
    let () = shard.master().run(&["SET", "a", "1"]).unwrap();
    until("the replica answers", || get(&shard.nodes[1]).is_ok_and(|found| found.as_deref() == Some("1")));
    // Without any write its data are as new as the master's.
    let age = || shard.nodes[1].info("kv_data_age_ms").parse::<u64>().unwrap();
    until("idle for longer than the bound", || shard.nodes[1].report().uptime_ms > 4000);
    assert!(age() < 2000 && get(&shard.nodes[1]).is_ok(), "{}", age());

    shard.signal(&[0], Signal::STOP);
    let mut client = Wire::connect(&shard.nodes[1]);
    assert_eq!(client.run("READONLY"), "+OK");
    until("it is too old", || client.run("GET a").starts_with("-MOVED 15495 127.0.0.1:"));
    assert!(client.run("DBSIZE").starts_with("-MASTERDOWN "));
    assert!(client.run("SUBSCRIBE c").contains("subscribe"), "messages are no reads");
    shard.signal(&[0], Signal::CONT);
    until("it has caught up", || get(&shard.nodes[1]).is_ok());
    assert_eq!(shard.master().info("kv_data_age_ms"), "", "a master has no age");
}

#[test]
fn a_replica_by_replicaof_goes_by_its_parent_s_pings() {
    let master = Process::node(&["--repl-ping-replica-period", "1"]);
    let port = master.port_text();
    let args = [&["--replicaof", "127.0.0.1", &port], BOUND].concat();
    let replica = Process::node(&args);
    let () = master.run(&["SET", "a", "1"]).unwrap();
    until("it answers", || get(&replica).is_ok_and(|found| found.is_some()));
    master.signal(Signal::STOP);
    until("it is too old", || code(&replica).as_deref() == Some("MASTERDOWN"));
    let () = replica.run(&["CONFIG", "SET", "replica-max-staleness", "0"]).unwrap();
    assert!(get(&replica).is_ok(), "without a bound it answers");
    let () = replica.run(&["CONFIG", "SET", "replica-max-staleness", "2000"]).unwrap();
    assert_eq!(code(&replica).as_deref(), Some("MASTERDOWN"));
    master.signal(Signal::CONT);
    until("it answers again", || get(&replica).is_ok());
}
