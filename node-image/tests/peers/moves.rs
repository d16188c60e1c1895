//! A service moves from a server of others to a node, and back, without a write lost.

use std::time::Duration;

use crate::load::Load;
use crate::servers::{self, Peer};
use crate::support::content::{content, difference};
use crate::support::{Process, Run, eventually, until};

const ARGS: [&str; 4] = ["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"];

fn pair(peer: &Peer, ours_first: bool) -> [Process; 2] {
    let start = |ours: bool, more: &[&str]| {
        let args = [&ARGS, more].concat();
        if ours { Process::node(&args) } else { peer.start(&args) }
    };
    let master = start(ours_first, &[]);
    let () = master.run(&["SET", "k", "v"]).unwrap();
    let replica = start(!ours_first, &["--replicaof", "127.0.0.1", &master.port_text()]);
    until("the replica is in sync", || {
        replica.info("master_link_status") == "up" && master.info("slave0").contains("state=online")
    });
    [master, replica]
}

fn assert_changes_places(old: &Process, new: &Process) {
    until("they have changed places", || {
        new.info("role") == "master" && old.info("role") == "slave" && old.info("master_link_status") == "up"
    });
    until("the old one says that it is over", || old.info("master_failover_state") == "no-failover");
    let () = new.run(&["SET", "after", "1"]).unwrap();
    until("writes go the other way", || old.run::<Option<String>>(&["GET", "after"]).unwrap().is_some());
    assert_eq!(new.info("sync_full"), "0", "no full synchronisation");
}

#[test]
fn a_failover_under_writes_there_and_back() {
    for peer in servers::all() {
        for ours_first in [false, true] {
            let [first, second] = pair(&peer, ours_first);
            let load = Load::start(first.port, fastrand::u64(..));
            until("writes flow", || load.written() > 200);
            let () =
                first.run(&["FAILOVER", "TO", "127.0.0.1", &second.port_text(), "TIMEOUT", "20000"]).unwrap();
            assert_changes_places(&first, &second);
            load.stop();
            // And back, to any replica.
            let full = first.info("sync_full");
            let () = second.run(&["FAILOVER"]).unwrap();
            until("they are back", || {
                first.info("role") == "master" && second.info("master_link_status") == "up"
            });
            assert_eq!(first.info("sync_full"), full);
            eventually("they hold the same", || {
                difference(&content(&second), &content(&first)).is_none().then_some(())
            });
        }
    }
}

#[test]
fn a_failover_waits_for_a_replica_and_can_be_given_up() {
    let peer = &servers::all()[0];
    let [master, replica] = pair(peer, true);
    let mut connection = master.connect();
    replica.signal(rustix::process::Signal::STOP);
    let () = connection.run(&["SET", "more", "1"]).unwrap();
    let () = connection.run(&["FAILOVER", "TIMEOUT", "300"]).unwrap();
    assert_eq!(master.info("master_failover_state"), "waiting-for-sync");
    let mut writer = master.connect();
    writer.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!(writer.run::<String>(&["SET", "held", "1"]).unwrap_err().is_timeout());
    until("its time is over", || master.info("master_failover_state") == "no-failover");
    assert_eq!(master.info("role"), "master");
    until("the held write ran", || connection.run::<Option<String>>(&["GET", "held"]).unwrap().is_some());
    let () = connection.run(&["FAILOVER"]).unwrap();
    let () = connection.run(&["FAILOVER", "ABORT"]).unwrap();
    let () = connection.run(&["SET", "again", "1"]).unwrap();
    replica.signal(rustix::process::Signal::CONT);
}

#[test]
fn failover_refuses_what_redis_refuses() {
    let peer = &servers::all()[0];
    let lone = [peer.start(&[]), Process::node(&[])];
    let pairs = [pair(peer, false), pair(peer, true)];
    let texts = |servers: [&Process; 2], args: &[&str]| {
        let [theirs, ours] = servers.map(|server| server.run::<String>(args).unwrap_err().to_string());
        assert_eq!(ours, theirs, "{args:?}");
    };
    for args in
        [&["FAILOVER"][..], &["FAILOVER", "ABORT"], &["FAILOVER", "TIMEOUT", "0"], &["FAILOVER", "NOW"]]
    {
        texts([&lone[0], &lone[1]], args);
    }
    for args in [
        &["FAILOVER", "TO", "127.0.0.1", "1"][..],
        &["FAILOVER", "FORCE"],
        &["FAILOVER", "TO", "127.0.0.1", "1", "FORCE"],
        &["FAILOVER", "TIMEOUT", "x"],
        &["PSYNC", "x", "1", "FAILOVER"],
    ] {
        texts([&pairs[0][0], &pairs[1][0]], args);
    }
    for args in [&["FAILOVER"][..], &["PSYNC", &"0".repeat(40), "1", "FAILOVER"]] {
        texts([&pairs[1][1], &pairs[0][1]], args);
    }
}
