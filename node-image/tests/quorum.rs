//! Replies that wait for other nodes: SemiSync and Quorum.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kv_core::control::NodeReport;
use kv_core::quorum::{Acknowledge, Electorate};
use kv_core::shard::ShardConfig;
use rustix::process::Signal;
use support::proxy::Proxy;
use support::shard::{Shard, accept, config, tell_map, tell_map_at};
use support::wire::Wire;
use support::{Process, until};

const LONG: u64 = 60_000;
const SHORT: u64 = 300;

fn quorum(copies: u16, timeout_ms: u64) -> Acknowledge {
    Acknowledge::Quorum { copies, timeout_ms }
}

fn words(line: &str) -> Vec<&str> {
    line.split(' ').collect()
}

fn shard(replicas: usize, acknowledge: Acknowledge) -> Shard {
    let shard = Shard::new(replicas, |config| config.acknowledge = acknowledge);
    until("the master knows who has what", || settled(&shard));
    shard
}

/// Changes the config of a running shard.
fn change(shard: &mut Shard, change: impl FnOnce(&mut ShardConfig)) {
    shard.config.epoch.0 += 1;
    change(&mut shard.config);
    shard.accept();
}

fn settled(shard: &Shard) -> bool {
    shard.master().report().durability.is_none_or(|durability| durability.settled)
}

fn degraded(shard: &Shard) -> bool {
    shard.master().report().durability.is_some_and(|durability| durability.degraded)
}

fn written_epoch(report: &NodeReport) -> u64 {
    report.write_epoch.0
}

#[test]
fn a_reply_waits_for_its_copies_and_only_its_own_connection_does() {
    let shard = shard(2, quorum(3, LONG));
    let mut writer = Wire::connect(shard.master());
    assert_eq!(writer.run("SET a 1"), "+OK");

    shard.nodes[2].signal(Signal::STOP);
    ["SET a 2", "PING", "GET a"].iter().for_each(|line| writer.send(&words(line)));
    let mut other = Wire::connect(shard.master());
    assert_eq!(other.run("PING"), "+PONG", "who asked for no data is not held");
    // It reads what may still vanish: it waits as well.
    let mut reader = Wire::connect(shard.master());
    reader.send(&["GET", "a"]);
    until("both wait", || shard.master().info("kv_held_clients") == "2");
    assert!(writer.is_silent() && reader.is_silent());

    shard.nodes[2].signal(Signal::CONT);
    assert_eq!([writer.read(), writer.read(), writer.read()], ["+OK", "+PONG", "\"2\""]);
    assert_eq!(reader.read(), "\"2\"");
}

#[test]
fn what_is_not_confirmed_in_time_is_said_to_be_uncertain() {
    let shard = shard(1, quorum(2, SHORT));
    let mut client = Wire::connect(shard.master());
    assert_eq!(client.run("SET a 1"), "+OK");
    shard.nodes[1].signal(Signal::STOP);
    client.send(&["SET", "a", "2"]);
    client.send(&["MGET", "a", "{a}b"]);
    let reply = client.read() + &client.read();
    assert_eq!(reply.matches("-UNCERTAIN ").count(), 2, "{reply}");
    shard.nodes[1].signal(Signal::CONT);
    // The connection goes on, and what was uncertain is certain now.
    until("the replica has it", || client.run("GET a").starts_with('"'));
    assert_eq!(shard.nodes[1].report().offset, shard.master().report().offset);
}

#[test]
fn only_what_tells_of_data_is_uncertain() {
    let shard = shard(1, quorum(2, SHORT));
    let mut client = Wire::connect(shard.master());
    shard.nodes[1].signal(Signal::STOP);
    let lines =
        ["SET a 1", "MULTI", "INCR a", "EXEC", "HELLO 3", "GET a", "FOO", "SUBSCRIBE c", "PING", "DEL a"];
    let mut whole = Vec::new();
    for line in lines {
        let words = words(line);
        whole.extend(format!("*{}\r\n", words.len()).bytes());
        words.iter().for_each(|word| whole.extend(format!("${}\r\n{word}\r\n", word.len()).bytes()));
    }
    client.send_bytes(&whole);
    let replies: Vec<_> = lines.iter().map(|_| client.read()).collect();
    let uncertain: Vec<_> = replies.iter().map(|reply| reply.starts_with("-UNCERTAIN ")).collect();
    assert_eq!(uncertain, [true, false, false, true, false, true, false, false, false, true], "{replies:?}");
    assert_eq!(replies[1..3], ["+OK", "+QUEUED"]);
    assert!(replies[4].contains("proto") && replies[6].starts_with("-ERR unknown"), "{replies:?}");
    assert_eq!(replies[8], "+PONG");
    assert_eq!(shard.master().info("kv_uncertain_replies"), "4");
    shard.nodes[1].signal(Signal::CONT);
}

#[test]
fn a_message_to_who_waits_is_no_uncertain_reply() {
    let shard = shard(1, quorum(2, SHORT));
    let mut client = Wire::connect(shard.master());
    assert!(client.run("SUBSCRIBE c").contains("subscribe"));
    let mut writer = Wire::connect(shard.master());
    assert!(writer.run("SUBSCRIBE d").contains("subscribe"));
    assert!(writer.run("UNSUBSCRIBE d").contains("unsubscribe"));
    shard.nodes[1].signal(Signal::STOP);
    writer.send(&["SET", "a", "1"]);
    writer.send(&["SUBSCRIBE", "c"]);
    assert!(writer.read().starts_with("-UNCERTAIN "));
    assert!(writer.read().contains("subscribe"));
    shard.nodes[1].signal(Signal::CONT);
}

#[test]
fn semisync_recovers_under_steady_load_as_soon_as_replicas_keep_up() {
    let nodes = vec![Process::managed("s-0-0", &[]), Process::managed("s-0-1", &[])];
    let slow = Proxy::slow(nodes[0].port, Duration::from_millis(5));
    let acknowledge = Acknowledge::SemiSync { replicas: 1, timeout_ms: 1000 };
    let config = ShardConfig { acknowledge, ..config(1, &nodes[0], &[&nodes[1]]) };
    let shard = Shard { nodes, config };
    shard.accept();
    let both: Vec<_> = shard.nodes.iter().collect();
    tell_map_at(&both, &shard.config, &[(shard.master().report().id, slow.port)]);
    until("the master knows who has what", || settled(&shard));
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Something is always on its way: there is no moment in which the replica has everything.
        for _ in 0..2 {
            let mut client = Wire::connect(shard.master());
            let ended = &ended;
            scope.spawn(move || {
                while !ended.load(Ordering::SeqCst) {
                    assert_eq!(client.run("SET a 1"), "+OK");
                }
            });
        }
        shard.nodes[1].signal(Signal::STOP);
        let went = std::panic::catch_unwind(|| until("it degrades", || degraded(&shard)));
        shard.nodes[1].signal(Signal::CONT);
        let came = std::panic::catch_unwind(|| until("it recovers", || !degraded(&shard)));
        ended.store(true, Ordering::SeqCst);
        assert!(went.is_ok() && came.is_ok());
    });
}

#[test]
fn a_write_that_nobody_could_confirm_is_refused_before_it_runs() {
    let mut shard = shard(1, quorum(2, SHORT));
    let () = shard.master().run(&["SET", "a", "1"]).unwrap();
    shard.nodes[1].kill();
    until("the master knows", || shard.master().info("connected_slaves") == "0");
    let refused = shard.master().run::<String>(&["SET", "a", "2"]).unwrap_err();
    assert_eq!(refused.code(), Some("NOREPLICAS"));
    assert_eq!(shard.master().run::<String>(&["GET", "a"]).unwrap(), "1", "reads go on");
    shard.nodes[1].restart();
    accept(&shard.nodes[1], &shard.config).unwrap();
    until("writes go on", || shard.master().run::<String>(&["SET", "a", "3"]).is_ok());
}

#[test]
fn an_older_config_s_acknowledgement_does_not_count() {
    let mut shard = shard(1, quorum(2, LONG));
    shard.config.epoch.0 += 1;
    accept(shard.master(), &shard.config).unwrap();
    let mut client = Wire::connect(shard.master());
    client.send(&["SET", "a", "1"]);
    until("the replica has it", || shard.nodes[1].report().offset == shard.master().report().offset);
    until("it waits", || shard.master().info("kv_held_clients") == "1");
    assert!(client.is_silent());
    accept(&shard.nodes[1], &shard.config).unwrap();
    assert_eq!(client.read(), "+OK");
}

#[test]
fn a_client_that_says_it_is_a_node_of_the_shard_counts_for_nothing() {
    let mut shard = shard(1, quorum(2, 300));
    let replica = shard.nodes[1].report().id.to_string();
    shard.nodes[1].kill();
    let epoch = shard.config.epoch.to_string();
    let refused = shard.master().run::<()>(&["REPLCONF", "kv-peer", "uid", "0", &replica, &epoch]);
    assert_eq!(refused.unwrap_err().code(), Some("NOPERM"));
}

#[test]
fn a_master_that_steps_down_leaves_nobody_waiting() {
    let shard = shard(1, quorum(2, LONG));
    shard.nodes[1].signal(Signal::STOP);
    let mut client = Wire::connect(shard.master());
    client.send(&["SET", "a", "1"]);
    until("it waits", || shard.master().info("kv_held_clients") == "1");
    shard.master().control(&["PREPARE", "uid", "0", "9", "ENDED"]).unwrap();
    assert!(client.read().starts_with("-UNCERTAIN "));
    shard.nodes[1].signal(Signal::CONT);
}

#[test]
fn semisync_degrades_when_replicas_do_not_keep_up_and_recovers_when_they_do() {
    let shard = shard(1, Acknowledge::SemiSync { replicas: 1, timeout_ms: SHORT });
    let mut client = Wire::connect(shard.master());
    assert_eq!(client.run("SET a 1"), "+OK");
    assert!(!degraded(&shard));
    shard.nodes[1].signal(Signal::STOP);
    assert_eq!(client.run("SET a 2"), "+OK", "acknowledged in the end");
    assert!(degraded(&shard));
    assert_eq!(client.run("SET a 3"), "+OK");
    assert_eq!(shard.master().info("kv_degradations"), "1");
    shard.nodes[1].signal(Signal::CONT);
    until("it recovers", || !degraded(&shard));
}

#[test]
fn a_change_of_who_acknowledges_asks_both_until_it_is_settled() {
    let mut shard = shard(2, Acknowledge::Async);
    let mut client = Wire::connect(shard.master());
    let before = Electorate { copies: 0, ..shard.config.electorate() };
    // Of three that may elect by any two, two must know of the new config before it counts.
    shard.nodes[1].signal(Signal::STOP);
    shard.nodes[2].signal(Signal::STOP);
    shard.config.epoch.0 += 1;
    shard.config.acknowledge = quorum(2, LONG);
    shard.config.overlap = vec![before];
    accept(shard.master(), &shard.config).unwrap();
    client.send(&["SET", "a", "1"]);
    until("it waits", || shard.master().info("kv_held_clients") == "1");
    assert!(!settled(&shard));
    shard.nodes[1].signal(Signal::CONT);
    accept(&shard.nodes[1], &shard.config).unwrap();
    assert_eq!(client.read(), "+OK");
    until("it is settled", || settled(&shard));
    shard.nodes[2].signal(Signal::CONT);
    change(&mut shard, |config| config.overlap.clear());
    assert_eq!(client.run("SET a 2"), "+OK");
    // Back to Async: nobody waits any more.
    change(&mut shard, |config| config.acknowledge = Acknowledge::Async);
    shard.nodes[1].signal(Signal::STOP);
    shard.nodes[2].signal(Signal::STOP);
    assert_eq!(client.run("SET a 3"), "+OK");
    shard.nodes[1].signal(Signal::CONT);
    shard.nodes[2].signal(Signal::CONT);
}

#[test]
fn data_are_of_an_epoch_when_they_hold_its_barrier() {
    let shard = shard(2, quorum(2, LONG));
    until("the barrier arrives", || shard.nodes.iter().all(|node| written_epoch(&node.report()) == 1));
    // The second node is to lead. The third one is told, and cannot follow yet.
    shard.nodes.iter().for_each(|node| drop(node.control(&["PREPARE", "uid", "0", "2", "ENDED"]).unwrap()));
    let second = ShardConfig {
        acknowledge: shard.config.acknowledge,
        ..config(2, &shard.nodes[1], &[&shard.nodes[0], &shard.nodes[2]])
    };
    accept(&shard.nodes[2], &second).unwrap();
    assert_eq!(written_epoch(&shard.nodes[2].report()), 1, "its data are still of the first");
    accept(&shard.nodes[1], &second).unwrap();
    tell_map(&shard.nodes.iter().collect::<Vec<_>>(), &second);
    until("the barrier arrives", || written_epoch(&shard.nodes[2].report()) == 2);
    assert_eq!(shard.nodes[2].report().full_syncs, 1, "only the first one");
    assert_eq!(shard.nodes[1].run::<String>(&["SET", "a", "1"]).unwrap(), "OK");
}

#[test]
fn who_was_answered_as_the_master_stepped_down_is_not_told_that_all_is_well() {
    let shard = shard(1, quorum(2, LONG));
    let mut operator = Wire::connect(shard.master());
    assert_eq!(operator.run("AUTH kv-operator secret"), "+OK");
    let mut client = Wire::connect(shard.master());
    assert_eq!(client.run("PING"), "+PONG");
    shard.signal(&[0, 1], Signal::STOP);
    // Both wait in their sockets, and are taken in one tick.
    client.send(&["SET", "a", "1"]);
    operator.send(&["KV", "PREPARE", "uid", "0", "9", "ENDED"]);
    shard.signal(&[0], Signal::CONT);
    let reply = client.read();
    assert!(reply.starts_with('-'), "{reply}");
    shard.signal(&[1], Signal::CONT);
}

#[test]
fn a_client_whose_large_replies_became_errors_is_read_on() {
    let shard = shard(1, quorum(2, SHORT));
    let mut client = Wire::connect(shard.master());
    let large = "x".repeat(400_000);
    client.send(&["SET", "large", &large]);
    assert_eq!(client.read(), "+OK");
    shard.signal(&[1], Signal::STOP);
    client.send(&["SET", "a", "1"]);
    // More than a client may have unread: the rest of its requests wait until these are gone.
    (0..20).for_each(|_| client.send(&["GET", "large"]));
    for _ in 0..21 {
        assert!(client.read().starts_with("-UNCERTAIN "));
    }
    shard.signal(&[1], Signal::CONT);
}

#[test]
fn a_replica_that_came_back_counts_though_its_old_connection_hangs() {
    let mut shard = Shard::new(1, |_| {});
    let ghost = kv_core::id::NodeId::from_bytes([7; 20]);
    let master = shard.config.master;
    let member = kv_core::shard::Member { id: ghost, name: "s-0-9".into(), parent: Some(master) };
    shard.config.members.push(member);
    shard.config.acknowledge = quorum(3, LONG);
    shard.config.failover.on_isolation = kv_core::lease::OnIsolation::KeepWriting;
    shard.config.epoch.0 += 1;
    shard.accept();
    let replid = shard.master().report().replid;
    let attach = || {
        let mut wire = Wire::connect(shard.master());
        assert_eq!(wire.run("AUTH kv-replica secret"), "+OK");
        let greeted = wire.run(&format!("REPLCONF kv-peer uid 0 {ghost} 2"));
        assert!(greeted.starts_with("+OK"), "{greeted}");
        let offset = shard.master().report().offset + 1;
        assert!(wire.run(&format!("PSYNC {replid} {offset}")).starts_with("+CONTINUE"));
        wire
    };
    let _hangs = attach();
    let mut lives = attach();
    let mut client = Wire::connect(shard.master());
    client.send(&["SET", "a", "1"]);
    until("it waits", || shard.master().info("kv_held_clients") == "1");
    lives.send(&["REPLCONF", "ACK", "1000000", "KV-EPOCH", "2"]);
    assert_eq!(client.read(), "+OK");
}

#[test]
fn a_master_that_stays_begins_each_epoch_with_a_barrier() {
    let mut shard = shard(1, quorum(2, LONG));
    // A rival may have been elected meanwhile that led nobody: it has the barrier of its own epoch.
    change(&mut shard, |config| config.epoch.0 += 15);
    until("the barrier arrives", || shard.nodes.iter().all(|node| written_epoch(&node.report()) == 17));
    assert_eq!(shard.master().run::<String>(&["SET", "a", "1"]).unwrap(), "OK");
}
