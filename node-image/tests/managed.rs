//! The control protocol: how a node of a managed shard obeys its config, and nothing older.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::collections::BTreeMap;

use kv_core::control::{DataState, NodeState};
use kv_core::id::Epoch;
use kv_core::shard::ClusterMap;
use kv_core::slot::SlotSet;
use rustix::process::Signal;
use support::shard::{accept, address, config, streaming, tell_map};
use support::wire::Wire;
use support::{Process, Run, until};

/// A master and a replica under epoch 1.
fn shard() -> (Process, Process) {
    shard_of(&[])
}

fn shard_of(args: &[&str]) -> (Process, Process) {
    let (a, b) = (Process::managed("s-0-0", args), Process::managed("s-0-1", args));
    let first = config(1, &a, &[&b]);
    for node in [&a, &b] {
        accept(node, &first).unwrap();
    }
    tell_map(&[&a, &b], &first);
    until("the replica streams", || streaming(&b));
    (a, b)
}

#[test]
fn a_blank_node_serves_nothing_until_it_has_a_config() {
    let node = Process::managed("s-0-0", &[]);
    assert_eq!(node.report().state, NodeState::Blank);
    assert_eq!(node.report().data, DataState::Empty);
    let refused = node.run::<String>(&["SET", "a", "1"]).unwrap_err();
    assert_eq!(refused.code(), Some("CLUSTERDOWN"));
    let report = accept(&node, &config(1, &node, &[])).unwrap();
    assert_eq!((report.state, report.promised), (NodeState::Master, Epoch(1)));
    let () = node.run(&["SET", "a", "1"]).unwrap();
}

#[test]
fn control_needs_its_own_user_and_that_user_can_do_nothing_else() {
    let node = Process::managed("s-0-0", &[]);
    assert_eq!(node.run::<String>(&["KV", "REPORT"]).unwrap_err().code(), Some("NOPERM"));
    let mut connection = node.connect();
    assert_eq!(
        connection.run::<String>(&["AUTH", "kv-operator", "wrong"]).unwrap_err().code(),
        Some("WRONGPASS")
    );
    let () = connection.run(&["AUTH", "kv-operator", "secret"]).unwrap();
    assert_eq!(connection.run::<String>(&["GET", "a"]).unwrap_err().code(), Some("NOPERM"));
    assert_eq!(connection.run::<String>(&["FLUSHALL"]).unwrap_err().code(), Some("NOPERM"));
}

#[test]
fn older_epochs_are_refused_with_the_newer_one_in_the_error() {
    let (a, b) = shard();
    a.control(&["PREPARE", "uid", "0", "5", "ENDED"]).unwrap();
    for args in [["PREPARE", "uid", "0", "4", "ENDED"], ["PREPARE", "uid", "0", "1", "ENDED"]] {
        let refused = a.control(&args).unwrap_err();
        assert_eq!(refused.code(), Some("STALEEPOCH"));
        assert!(refused.to_string().contains("epoch 5"), "{refused}");
    }
    assert_eq!(accept(&a, &config(4, &a, &[&b])).unwrap_err().code(), Some("STALEEPOCH"));
    assert_eq!(accept(&a, &config(5, &a, &[&b])).unwrap().promised, Epoch(5));
    assert_eq!(
        accept(&a, &config(5, &b, &[&a])).unwrap_err().code(),
        Some("STALEEPOCH"),
        "another one at epoch 5"
    );
    assert_eq!(a.control(&["PREPARE", "other", "0", "9", "ENDED"]).unwrap_err().code(), Some("WRONGCLUSTER"));
    assert_eq!(a.control(&["PREPARE", "uid", "1", "9", "ENDED"]).unwrap_err().code(), Some("WRONGCLUSTER"));
}

#[test]
fn a_promise_fences_the_old_master_and_its_stream() {
    let (a, b) = shard();
    let () = a.run(&["SET", "a", "1"]).unwrap();
    for node in [&a, &b] {
        assert_eq!(node.control(&["PREPARE", "uid", "0", "2", "ENDED"]).unwrap().state, NodeState::Fenced);
    }
    assert_eq!(a.run::<String>(&["SET", "a", "2"]).unwrap_err().code(), Some("CLUSTERDOWN"));
    assert_eq!(a.run::<String>(&["FLUSHALL"]).unwrap_err().code(), Some("CLUSTERDOWN"));
    until("the stream is cut", || !streaming(&b));
    let second = config(2, &b, &[&a]);
    assert_eq!(accept(&b, &second).unwrap().state, NodeState::Master);
    assert_eq!(accept(&a, &second).unwrap().state, NodeState::Replica);
    until("the old master follows", || streaming(&a));
    assert_eq!(a.report().full_syncs, 0, "it had nothing that the new one lacks");
    let moved = a.run::<String>(&["SET", "a", "2"]).unwrap_err();
    assert_eq!(moved.kind(), redis::ErrorKind::Server(redis::ServerErrorKind::Moved), "{moved}");
    assert!(moved.to_string().contains(&b.port_text()), "{moved}");
}

#[test]
fn a_returning_master_tells_how_many_bytes_it_discarded() {
    let (a, b) = shard();
    let () = a.run(&["SET", "a", "1"]).unwrap();
    until("the write arrives", || b.report().offset == a.report().offset);
    let prepare = |node: &Process| node.control(&["PREPARE", "uid", "0", "2", "ENDED"]).unwrap();
    prepare(&b);
    let () = a.run(&["SET", "tail", "lost"]).unwrap();
    let (held, shared) = (prepare(&a).offset, b.report().offset);
    assert!(held > shared);
    let second = config(2, &b, &[&a]);
    assert_eq!(accept(&b, &second).unwrap().discarded, None, "a master follows nobody");
    accept(&a, &second).unwrap();
    until("the old master follows", || streaming(&a));
    let discarded = a.report().discarded.unwrap();
    assert_eq!((discarded.master, discarded.epoch), (b.report().id, Epoch(2)));
    assert_eq!(discarded.bytes, Some(held - shared));
    assert_eq!(a.info("kv_discarded_bytes"), (held - shared).to_string());
    // It stays told as long as the master does, though the link is made anew and goes on where it was.
    let _: i64 = b.run(&["CLIENT", "KILL", "TYPE", "replica"]).unwrap();
    until("it follows again", || a.report().partial_syncs == 1 && streaming(&a));
    assert_eq!(a.report().discarded, Some(discarded));
}

#[test]
fn a_master_that_lost_its_memory_does_not_say_that_it_discarded_nothing() {
    let (mut a, b) = shard();
    let () = a.run(&["SET", "a", "1"]).unwrap();
    a.kill();
    a.restart();
    b.control(&["PREPARE", "uid", "0", "2", "ENDED"]).unwrap();
    let second = config(2, &b, &[&a]);
    [&b, &a].into_iter().for_each(|node| drop(accept(node, &second).unwrap()));
    tell_map(&[&a, &b], &second);
    until("it follows", || streaming(&a));
    let discarded = a.report().discarded.unwrap();
    assert_eq!((discarded.epoch, discarded.bytes), (Epoch(2), None));
}

#[test]
fn a_promise_survives_a_kill() {
    let (mut a, _b) = shard();
    a.control(&["PREPARE", "uid", "0", "7", "ENDED"]).unwrap();
    let id = a.report().id;
    a.kill();
    a.restart();
    let report = a.report();
    assert_eq!((report.id, report.promised, report.state), (id, Epoch(7), NodeState::Fenced));
}

#[test]
fn a_restarted_master_serves_nothing_until_a_newer_config_says_so() {
    let (mut a, b) = shard();
    a.kill();
    a.restart();
    assert_eq!(a.report().state, NodeState::Joining);
    assert_eq!(a.run::<String>(&["GET", "a"]).unwrap_err().code(), Some("CLUSTERDOWN"));
    accept(&a, &config(1, &a, &[&b])).unwrap();
    assert_eq!(a.report().state, NodeState::Joining, "the config that it had is no news");
    assert_eq!(accept(&a, &config(2, &a, &[&b])).unwrap().state, NodeState::Master);
}

#[test]
fn a_restarted_replica_finds_its_parent_by_itself() {
    let (a, mut b) = shard();
    let () = a.run(&["SET", "a", "1"]).unwrap();
    b.kill();
    b.restart();
    until("the replica streams again", || streaming(&b) && b.report().keys == 1);
}

#[test]
fn a_pause_holds_writes_and_ends_in_a_redirect_or_by_itself() {
    let (a, b) = shard();
    let report = a.control(&["PAUSE", "uid", "0", "1", "10000"]).unwrap();
    assert!(report.paused);
    let mut connection = a.connect();
    assert_eq!(connection.run::<Option<String>>(&["GET", "held"]).unwrap(), None, "reads go on");
    let writer = std::thread::spawn(move || connection.run::<String>(&["SET", "held", "1"]));
    until("the write is held", || a.info("blocked_clients") == "1");
    assert_eq!(a.report().offset, report.offset, "nothing is added to the stream");
    until("the replica has it all", || b.report().offset == report.offset);
    for node in [&a, &b] {
        node.control(&["PREPARE", "uid", "0", "2", "ENDED"]).unwrap();
    }
    let second = config(2, &b, &[&a]);
    accept(&b, &second).unwrap();
    accept(&a, &second).unwrap();
    let moved = writer.join().unwrap().unwrap_err();
    assert_eq!(moved.kind(), redis::ErrorKind::Server(redis::ServerErrorKind::Moved), "{moved}");

    until("the old master follows", || streaming(&a));
    b.control(&["PAUSE", "uid", "0", "2", "100"]).unwrap();
    let () = b.run(&["SET", "held", "2"]).unwrap();
    assert!(!b.report().paused);
}

#[test]
fn a_pause_holds_a_transaction_as_a_whole() {
    let (a, b) = shard();
    let (mut writer, mut reader) = (Wire::connect(&a), Wire::connect(&a));
    for line in ["READWRITE", "MULTI", "SET {k}a 1", "SET {k}b 1"] {
        assert!(writer.run(line).starts_with('+'));
    }
    assert_eq!((reader.run("MULTI"), reader.run("GET {k}a")), ("+OK".into(), "+QUEUED".into()));
    let report = a.control(&["PAUSE", "uid", "0", "1", "10000"]).unwrap();
    writer.send(&["EXEC"]);
    until("the transaction is held", || a.info("blocked_clients") == "1");
    assert_eq!(reader.run("EXEC"), "*[$-1]", "reads go on");
    assert_eq!(a.report().offset, report.offset, "nothing is added to the stream");
    for node in [&a, &b] {
        node.control(&["PREPARE", "uid", "0", "2", "ENDED"]).unwrap();
    }
    let second = config(2, &b, &[&a]);
    accept(&b, &second).unwrap();
    accept(&a, &second).unwrap();
    let moved = writer.read();
    assert!(moved.starts_with("-MOVED "), "{moved}");
    assert_eq!(writer.run("EXEC"), "-ERR EXEC without MULTI");
    assert_eq!(b.run::<Option<String>>(&["GET", "{k}a"]).unwrap(), None);

    // Transactions are of one slot, and queueing is refused where the slot is not.
    let mut writer = Wire::connect(&b);
    for line in ["MULTI", "SET a 1", "SET b 1"] {
        assert!(writer.run(line).starts_with('+'));
    }
    assert_eq!(writer.run("EXEC"), "-CROSSSLOT Keys in request don't hash to the same slot");
    let mut writer = Wire::connect(&a);
    assert_eq!(writer.run("READWRITE"), "+OK", "who knows no cluster would be closed");
    assert_eq!(writer.run("MULTI"), "+OK");
    assert!(writer.run("SET a 1").starts_with("-MOVED "));
    assert_eq!(writer.run("EXEC"), "-EXECABORT Transaction discarded because of previous errors.");
}

#[test]
fn shard_channels_go_where_their_slots_are() {
    let (a, b) = shard();
    let (mut at_master, mut at_replica) = (Wire::connect(&a), Wire::connect(&b));
    for wire in [&mut at_master, &mut at_replica] {
        assert_eq!(wire.run("SSUBSCRIBE s"), "*[\"ssubscribe\" \"s\" :1]");
    }
    let (mut master, mut replica) = (Wire::connect(&a), Wire::connect(&b));
    assert!(replica.run("SPUBLISH s 1").starts_with("-MOVED "), "all of the shard's nodes are to get it");
    assert_eq!(master.run("SPUBLISH s 1"), ":1");
    for wire in [&mut at_master, &mut at_replica] {
        assert_eq!(wire.read(), "*[\"smessage\" \"s\" \"1\"]");
    }
    assert!(master.run("SSUBSCRIBE s t").starts_with("-CROSSSLOT "));

    // What is published while a hand-over waits for equal offsets is held.
    let report = a.control(&["PAUSE", "uid", "0", "1", "100"]).unwrap();
    master.send(&["PUBLISH", "x", "1"]);
    until("the message is held", || a.info("blocked_clients") == "1" || !a.report().paused);
    assert!(a.report().offset == report.offset || !a.report().paused);
    assert_eq!(master.read(), ":0");

    let mut second = config(2, &a, &[&b]);
    second.slots = SlotSet::default();
    // A serving master gives nothing away that was not sent elsewhere.
    a.control(&["PREPARE", "uid", "0", "2", "ENDED"]).unwrap();
    accept(&a, &second).unwrap();
    assert_eq!(at_master.read(), "*[\"sunsubscribe\" \"s\" :0]");
    assert_eq!(a.info("pubsubshard_channels"), "0");
}

#[test]
fn a_master_that_is_told_to_stop_waits_to_be_relieved() {
    let (mut a, b) = shard();
    a.signal(Signal::TERM);
    until("it says that it leaves", || a.report().leaving);
    let () = a.run(&["SET", "still", "served"]).unwrap();
    until("the replica has it", || b.report().offset == a.report().offset);
    for node in [&a, &b] {
        node.control(&["PREPARE", "uid", "0", "2", "ENDED"]).unwrap();
    }
    let second = config(2, &b, &[&a]);
    accept(&b, &second).unwrap();
    accept(&a, &second).unwrap();
    a.wait_until_gone();
    assert_eq!(b.run::<String>(&["GET", "still"]).unwrap(), "served");
}

#[test]
fn a_master_in_the_middle_of_a_hand_over_stays_for_its_end() {
    let (mut a, b) = shard();
    a.control(&["PAUSE", "uid", "0", "1", "10000"]).unwrap();
    let mut connection = a.connect();
    let writer = std::thread::spawn(move || connection.run::<String>(&["SET", "held", "1"]));
    until("the write is held", || a.info("blocked_clients") == "1");
    for node in [&a, &b] {
        node.control(&["PREPARE", "uid", "0", "2", "ENDED"]).unwrap();
    }
    a.signal(Signal::TERM);
    until("it says that it leaves", || a.report().leaving);
    let second = config(2, &b, &[&a]);
    accept(&b, &second).unwrap();
    accept(&a, &second).unwrap();
    let moved = writer.join().unwrap().unwrap_err();
    assert_eq!(moved.kind(), redis::ErrorKind::Server(redis::ServerErrorKind::Moved), "{moved}");
    a.wait_until_gone();
}

#[test]
fn a_hand_over_that_does_not_end_holds_up_nobody_forever() {
    let (mut a, b) = shard_of(&["--kv-handover-timeout", "200"]);
    for node in [&a, &b] {
        node.control(&["PREPARE", "uid", "0", "2", "ENDED"]).unwrap();
    }
    a.signal(Signal::TERM);
    a.wait_until_gone();
}

#[test]
fn a_node_whose_disk_is_full_says_so_and_can_still_hand_over() {
    let (a, b) = shard_of(&["--appendonly", "yes", "--appendfsync", "always"]);
    let () = a.run(&["SET", "kept", "1"]).unwrap();
    assert_eq!(a.report().disk_error, None);
    a.limit_files(Some(4096));
    until("the disk is full", || a.run::<String>(&["SET", "big", &"x".repeat(8192)]).is_err());
    until("it says so", || a.report().disk_error.is_some());
    let refused = a.run::<String>(&["SET", "a", "1"]).unwrap_err();
    assert_eq!(refused.code(), Some("MISCONF"), "{refused}");
    for node in [&a, &b] {
        node.control(&["PREPARE", "uid", "0", "2", "ENDED"]).unwrap();
    }
    let second = config(2, &b, &[&a]);
    accept(&b, &second).unwrap();
    accept(&a, &second).unwrap();
    assert_eq!(b.run::<String>(&["GET", "kept"]).unwrap(), "1");
    let () = b.run(&["SET", "a", "1"]).unwrap();
    a.limit_files(None);
    until("the disk takes writes again", || a.report().disk_error.is_none());
}

#[test]
fn a_second_signal_stops_a_leaving_master_at_once() {
    let (mut a, _b) = shard();
    a.signal(Signal::TERM);
    until("it says that it leaves", || a.report().leaving);
    a.signal(Signal::TERM);
    a.wait_until_gone();
}

#[test]
fn a_node_of_another_cluster_is_not_fed() {
    let (a, _b) = shard();
    let mut connection = a.connect();
    let () = connection.run(&["AUTH", "kv-replica", "secret"]).unwrap();
    let id = "0".repeat(40);
    let refused = connection.run::<String>(&["REPLCONF", "kv-peer", "other", "0", &id, "1"]).unwrap_err();
    assert_eq!(refused.code(), Some("WRONGCLUSTER"));
    let newer = connection.run::<String>(&["REPLCONF", "kv-peer", "uid", "0", &id, "9"]).unwrap_err();
    assert_eq!(newer.code(), Some("STALEEPOCH"), "who knows a newer epoch must not be fed by an older one");
}

#[test]
fn a_directory_belongs_to_one_node() {
    let (a, _b) = shard();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_kv-node"))
        .args(["--port", &support::free_port().to_string(), "--dir", a.dir.path().to_str().unwrap()])
        .output()
        .unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains(a.dir.path().to_str().unwrap()), "{error}");
}

#[test]
fn a_leaving_master_without_replicas_does_not_wait_for_long() {
    let (mut a, b) = shard();
    drop(b);
    until("the replica is gone", || a.report().replicas.is_empty());
    a.signal(Signal::TERM);
    a.wait_until_gone();
    assert!(a.log().contains("bye bye"));
}

#[test]
fn a_replica_does_not_take_another_node_for_its_parent() {
    let (a, b) = (Process::managed("s-0-0", &[]), Process::managed("s-0-1", &[]));
    let first = config(1, &a, &[&b]);
    for node in [&a, &b] {
        accept(node, &first).unwrap();
    }
    // An address out of date: at the parent's there is the replica itself now.
    let mut map = ClusterMap {
        uid: first.uid.clone(),
        shards: vec![first.clone()],
        addresses: BTreeMap::from([(a.report().id, address(&b)), (b.report().id, address(&b))]),
        down: vec![],
    };
    b.control(&["MAP", &serde_json::to_string(&map).unwrap()]).unwrap();
    until("it has tried", || b.log().contains("Attaching to the parent failed"));
    assert!(!streaming(&b));
    map.addresses.insert(a.report().id, address(&a));
    b.control(&["MAP", &serde_json::to_string(&map).unwrap()]).unwrap();
    until("it follows its parent", || streaming(&b));
}

#[test]
fn who_waits_for_replicas_is_told_when_the_master_is_none_any_more() {
    let (a, b) = shard();
    let mut connection = a.connect();
    let () = connection.run(&["SET", "a", "1"]).unwrap();
    let waiting = std::thread::spawn(move || connection.run::<i64>(&["WAIT", "2", "0"]));
    until("the client waits", || a.info("blocked_clients") == "1");
    for node in [&a, &b] {
        node.control(&["PREPARE", "uid", "0", "2", "ENDED"]).unwrap();
    }
    assert_eq!(waiting.join().unwrap().unwrap_err().code(), Some("UNBLOCKED"));
}

#[test]
fn the_operator_gets_in_though_all_places_are_taken() {
    let node = Process::managed("s-0-0", &["--maxclients", "2"]);
    let _taken = [node.connect(), node.connect()];
    assert_eq!(node.report().state, NodeState::Blank);
    let refused = node.run::<String>(&["PING"]).unwrap_err();
    assert!(refused.to_string().contains("max number of clients"), "{refused}");
}
