//! What a master owes its replicas, and what they cost it: snapshots, memory, what it tells of them.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use support::content::{assert_same, content};
use support::wire::Wire;
use support::{Process, Run, until};

fn value(node: &Process, key: &str) -> Option<String> {
    node.run(&["GET", key]).unwrap()
}

fn replica_of(parent: &Process) -> Process {
    Process::node(&["--replicaof", "127.0.0.1", &parent.port_text()])
}

fn fill(node: &Process) {
    support::content::fill(&mut node.connect(), "key");
}

fn assert_equal(a: &Process, b: &Process) {
    until("the copies are level", || level(a, b));
    assert_same(&content(b), &content(a), "the copy");
}

fn is_up(replica: &Process) -> bool {
    replica.info("master_link_status") == "up"
}

fn level(master: &Process, replica: &Process) -> bool {
    is_up(replica) && master.info("master_repl_offset") == replica.info("master_repl_offset")
}

#[test]
fn a_frozen_replica_costs_its_master_no_more_than_the_limit_and_comes_back() {
    let limit = 4 * 1024 * 1024;
    let soft = format!("replica {limit} {limit} 60");
    let master =
        Process::node(&["--repl-backlog-size", "1mb", "--client-output-buffer-limit", &soft, "--hz", "100"]);
    let (frozen, healthy) = (replica_of(&master), replica_of(&master));
    until("both are fed", || level(&master, &frozen) && level(&master, &healthy));
    let before: u64 = master.info("used_memory").parse().unwrap();
    frozen.signal(rustix::process::Signal::STOP);
    let mut connection = master.connect();
    let value = "x".repeat(10_000);
    let mut most = 0;
    // 50 MB of stream, more than the kernel's buffers and the limit hold; the healthy one is never far behind.
    for i in 0..50 {
        let mut pipe = redis::pipe();
        (0..100).for_each(|_| _ = pipe.cmd("SET").arg(i % 10).arg(&value).ignore());
        let () = pipe.query(&mut connection).unwrap();
        assert!(connection.run::<u64>(&["WAIT", "1", "20000"]).unwrap() >= 1);
        most = most.max(master.info("mem_replication_backlog").parse().unwrap());
    }
    assert!(most <= limit + 3 * 1024 * 1024, "the backlog took {most}");
    assert_eq!(master.info("connected_slaves"), "1", "the frozen one was cut off");
    assert_eq!(master.info("client_output_buffer_limit_disconnections"), "1");
    until("the healthy one has everything", || level(&master, &healthy));
    until("the memory is given back", || {
        master.info("used_memory").parse::<u64>().unwrap() < before + 3 * 1024 * 1024
    });
    frozen.signal(rustix::process::Signal::CONT);
    until("it catches up", || level(&master, &frozen));
    assert_eq!(value_of_all(&frozen), value_of_all(&master));
}

fn value_of_all(node: &Process) -> Vec<Option<String>> {
    (0..10).map(|i| value(node, &i.to_string())).collect()
}

#[test]
fn a_short_freeze_costs_nothing() {
    let master = Process::node(&["--repl-backlog-size", "1mb"]);
    let replica = replica_of(&master);
    until("it is fed", || level(&master, &replica));
    replica.signal(rustix::process::Signal::STOP);
    let mut connection = master.connect();
    let value = "x".repeat(100_000);
    // More than the backlog is to keep, less than a replica may be behind.
    for i in 0..200 {
        let () = connection.run(&["SET", &(i % 10).to_string(), &value]).unwrap();
    }
    replica.signal(rustix::process::Signal::CONT);
    until("it catches up", || level(&master, &replica));
    assert_eq!((master.info("sync_full"), master.info("sync_partial_ok")), ("1".into(), "0".into()));
}

#[test]
fn one_snapshot_serves_all_replicas_that_come_together() {
    let args = ["--repl-diskless-sync-max-replicas", "8", "--repl-diskless-sync-delay", "25"];
    let master = Process::node(&args);
    fill(&master);
    let replicas: Vec<_> = (0..7).map(|_| replica_of(&master)).collect();
    until("seven wait", || master.info("connected_slaves") == "7");
    assert_eq!(master.info("kv_snapshots_for_replicas"), "0");
    let last = Process::redis(&["--replicaof", "127.0.0.1", &master.port_text()]);
    replicas.iter().chain([&last]).for_each(|replica| assert_equal(&master, replica));
    assert_eq!(master.info("sync_full"), "8");
    assert_eq!(master.info("kv_snapshots_for_replicas"), "1");
}

#[test]
fn a_replica_that_knows_no_marks_gets_its_snapshot_by_a_file() {
    let master = Process::node(&[]);
    fill(&master);
    let mut wire = Wire::connect(&master);
    // Not what the node itself can do: neither EOF marks nor PSYNC.
    wire.send(&["SYNC"]);
    let snapshot = wire.read_snapshot();
    assert!(snapshot.starts_with(b"REDIS0009"), "{:?}", &snapshot[..9]);
    let () = master.run(&["SET", "later", "1"]).unwrap();
    assert_eq!(wire.read(), "*[\"SELECT\" \"0\"]");
    assert_eq!(wire.read(), "*[\"SET\" \"later\" \"1\"]");
    assert!(master.info("slave0").contains("state=online"), "{}", master.info("slave0"));
    let left: Vec<_> =
        std::fs::read_dir(master.dir.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_str().unwrap().starts_with("temp")), "{left:?}");
}

#[test]
fn snapshots_go_by_files_if_so_configured() {
    let master = Process::node(&["--repl-diskless-sync", "no"]);
    fill(&master);
    let (ours, theirs) =
        (replica_of(&master), Process::redis(&["--replicaof", "127.0.0.1", &master.port_text()]));
    for replica in [&ours, &theirs] {
        until("it is in sync", || level(&master, replica));
        assert_equal(&master, replica);
    }
    assert!(theirs.log().contains("bytes from master to disk"), "{}", theirs.log());
    let source = Process::redis(&["--repl-diskless-sync", "no"]);
    fill(&source);
    let follower = replica_of(&source);
    until("it is in sync", || is_up(&follower));
    assert_equal(&source, &follower);
}

#[test]
fn writes_are_refused_with_too_few_good_replicas() {
    let text = "NOREPLICAS: Not enough good replicas to write.";
    let master = Process::node(&["--min-replicas-to-write", "1", "--min-replicas-max-lag", "1"]);
    let refused = || master.run::<String>(&["SET", "a", "1"]).unwrap_err().to_string();
    assert!(refused().contains(text.split(": ").nth(1).unwrap()), "{}", refused());
    assert_eq!(master.info("min_slaves_good_slaves"), "0");
    let replica = replica_of(&master);
    until("there is one", || master.info("min_slaves_good_slaves") == "1");
    let () = master.run(&["SET", "a", "1"]).unwrap();
    assert_eq!(master.run::<String>(&["GET", "a"]).unwrap(), "1");
    replica.signal(rustix::process::Signal::STOP);
    until("it lags", || master.info("min_slaves_good_slaves") == "0");
    let _ = refused();
    assert_eq!(value(&master, "a").as_deref(), Some("1"), "reads go on");
    let () = master.run(&["CONFIG", "SET", "min-replicas-to-write", "0"]).unwrap();
    let () = master.run(&["SET", "a", "2"]).unwrap();
    replica.signal(rustix::process::Signal::CONT);
}

#[test]
fn waitaof_counts_disks() {
    let aof = ["--appendonly", "yes", "--appendfsync", "always"];
    let master = Process::node(&aof);
    let follow =
        |more: &[&str]| Process::node(&[&["--replicaof", "127.0.0.1", &master.port_text()], more].concat());
    let (kept, lost) = (follow(&aof), follow(&[]));
    let redis = Process::redis(&["--replicaof", "127.0.0.1", &master.port_text()]);
    until("all are fed", || [&kept, &lost, &redis].iter().all(|replica| level(&master, replica)));
    let mut connection = master.connect();
    let () = connection.run(&["SET", "a", "1"]).unwrap();
    assert_eq!(connection.run::<(i64, i64)>(&["WAITAOF", "1", "1", "20000"]).unwrap(), (1, 1));
    assert_eq!(connection.run::<(i64, i64)>(&["WAITAOF", "0", "2", "100"]).unwrap(), (1, 1));
    assert_eq!(connection.run::<i64>(&["WAIT", "3", "20000"]).unwrap(), 3);
    let error = Process::node(&[]).run::<redis::Value>(&["WAITAOF", "1", "0", "0"]).unwrap_err().to_string();
    assert!(error.contains("numlocal is set but appendonly is disabled"), "{error}");
    let error = kept.run::<redis::Value>(&["WAITAOF", "1", "0", "0"]).unwrap_err().to_string();
    assert!(error.contains("cannot be used with replica instances"), "{error}");
}

/// The names of the fields of `INFO replication`.
fn fields(server: &Process) -> Vec<String> {
    let text: String = server.run(&["INFO", "replication"]).unwrap();
    text.lines().filter_map(|line| Some(line.split_once(':')?.0.to_owned())).collect()
}

#[test]
fn info_has_every_field_that_redis_has() {
    let args = ["--min-replicas-to-write", "1", "--repl-diskless-sync-delay", "0"];
    let fresh = [Process::redis(&[]), Process::node(&[])];
    let masters = [Process::redis(&args), Process::node(&args)];
    let start = |down: &str| {
        [
            Process::redis(&["--replicaof", "127.0.0.1", down]),
            Process::node(&["--replicaof", "127.0.0.1", down]),
        ]
    };
    let replicas: Vec<_> = masters.iter().flat_map(|master| start(&master.port_text())).collect();
    until("all are in sync", || {
        replicas.iter().all(is_up)
            && masters.iter().all(|master| master.info("slave1").contains("state=online"))
    });
    let port = support::free_port().to_string();
    let lost = start(&port);
    for [theirs, ours] in [
        [&fresh[0], &fresh[1]],
        [&masters[0], &masters[1]],
        [&replicas[0], &replicas[1]],
        [&lost[0], &lost[1]],
    ] {
        let ours_fields = fields(ours);
        let missing: Vec<_> =
            fields(theirs).into_iter().filter(|field| !ours_fields.contains(field)).collect();
        assert_eq!(missing, Vec::<String>::new());
    }
    let names = |server: &Process| -> Vec<String> {
        server.info("slave0").split(',').map(|part| part.split('=').next().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&masters[1]), names(&masters[0]));
    for server in [&masters[0], &masters[1]] {
        let list: String = server.run(&["CLIENT", "LIST", "TYPE", "replica"]).unwrap();
        assert_eq!(list.lines().filter(|line| line.contains(" flags=S ")).count(), 2, "{list}");
    }
    for server in [&replicas[0], &replicas[1]] {
        let list: String = server.run(&["CLIENT", "LIST", "TYPE", "master"]).unwrap();
        assert_eq!(list.lines().filter(|line| line.contains(" flags=M ")).count(), 1, "{list}");
        let before = masters[0].info("sync_partial_ok");
        assert_eq!(server.run::<i64>(&["CLIENT", "KILL", "TYPE", "master"]).unwrap(), 1);
        until("it has come back", || is_up(server) && masters[0].info("sync_partial_ok") != before);
    }
    for [theirs, ours] in [[&replicas[0], &replicas[1]], [&lost[0], &lost[1]]] {
        let role = |server: &Process| server.run::<Vec<redis::Value>>(&["ROLE"]).unwrap();
        until("ROLE says the same", || role(theirs)[..3] == role(ours)[..3]);
        if theirs.port == lost[0].port {
            assert_eq!(role(ours)[4], redis::Value::Int(-1));
        }
    }
}

#[test]
fn a_replica_announces_itself_as_it_is_told() {
    for master in [Process::node(&[]), Process::redis(&["--repl-diskless-sync-delay", "0"])] {
        let args = ["--replica-announce-ip", "10.1.2.3", "--replica-announce-port", "7000"];
        let port = master.port_text();
        let _replica = Process::node(&[&["--replicaof", "127.0.0.1", &port][..], &args].concat());
        until("it is known by its address", || master.info("slave0").starts_with("ip=10.1.2.3,port=7000,"));
    }
}

#[test]
fn a_stale_replica_refuses_reads_if_so_configured() {
    let port = support::free_port().to_string();
    let args = ["--replica-serve-stale-data", "no"];
    let servers = [Process::redis(&args), Process::node(&args)];
    servers.iter().for_each(|server| server.run(&["REPLICAOF", "127.0.0.1", &port]).unwrap());
    let [theirs, ours] =
        servers.each_ref().map(|server| server.run::<String>(&["GET", "a"]).unwrap_err().to_string());
    assert_eq!(ours, theirs);
    assert!(ours.contains("MASTER is down"), "{ours}");
}

#[test]
fn nobody_is_a_replica_of_itself_neither_at_once_nor_through_others() {
    let alone = Process::node(&[]);
    let _: () = alone.run(&["SET", "k", "v"]).unwrap();
    let _: () = alone.run(&["REPLICAOF", "127.0.0.1", &alone.port_text()]).unwrap();
    until("it is told why not", || alone.log().contains("it is this node itself"));
    assert_eq!(alone.info("master_link_status"), "down");
    assert_eq!(value(&alone, "k").as_deref(), Some("v"));

    let top = Process::node(&[]);
    let _: () = top.run(&["SET", "k", "v"]).unwrap();
    let middle = replica_of(&top);
    until("the middle one is up", || is_up(&middle));
    let low = replica_of(&middle);
    until("the low one is up", || is_up(&low));
    let _: () = top.run(&["REPLICAOF", "127.0.0.1", &low.port_text()]).unwrap();
    until("it is told why not", || top.log().contains("it is a replica of this node"));
    assert_eq!(top.info("master_link_status"), "down");
    // Once the other is a master, it is one to follow.
    let _: () = low.run(&["REPLICAOF", "NO", "ONE"]).unwrap();
    let _: () = top.run(&["REPLICAOF", "NO", "ONE"]).unwrap();
    let _: () = top.run(&["REPLICAOF", "127.0.0.1", &low.port_text()]).unwrap();
    until("it follows", || is_up(&top) && is_up(&middle));
    let _: () = low.run(&["SET", "k", "later"]).unwrap();
    until("what is written comes round", || value(&middle, "k").as_deref() == Some("later"));
}
