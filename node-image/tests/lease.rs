//! Masters that hear nobody acknowledge nothing, and voters that hear their master elect no other.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use kv_core::control::{NodeReport, NodeState};
use kv_core::id::Epoch;
use kv_core::lease::{Failover, OnIsolation};
use kv_core::shard::ShardConfig;
use rustix::process::Signal;
use support::shard::{Shard, accept, config};
use support::wire::Wire;
use support::{Process, until};

const SHORT: Failover =
    Failover { down_after_ms: 800, lease_ms: 600, on_isolation: OnIsolation::RefuseWrites };

fn shard(replicas: usize, failover: Failover) -> Shard {
    Shard::new(replicas, |config| config.failover = failover)
}

fn shard_of_two() -> Shard {
    shard(1, SHORT)
}

/// A control command for an epoch, with what follows.
fn prepare(node: &Process, epoch: &str, rest: &[&str]) -> redis::RedisResult<NodeReport> {
    node.control(&[&["PREPARE", "uid", "0", epoch][..], rest].concat())
}

fn set(node: &Process) -> redis::RedisResult<String> {
    node.run(&["SET", "a", "1"])
}

#[test]
fn a_master_that_hears_nobody_refuses_writes_until_it_does() {
    let shard = shard(2, SHORT);
    assert_eq!(set(shard.master()).unwrap(), "OK");
    shard.signal(&[1, 2], Signal::STOP);
    until("it is isolated", || shard.master().report().isolated);
    assert_eq!(set(shard.master()).unwrap_err().code(), Some("CLUSTERDOWN"));
    assert_eq!(shard.master().run::<String>(&["GET", "a"]).unwrap(), "1", "reads go on");
    shard.signal(&[1], Signal::CONT);
    until("it goes on", || set(shard.master()).is_ok());
    assert!(!shard.master().report().isolated);
    shard.signal(&[2], Signal::CONT);
}

#[test]
fn a_master_that_is_to_keep_writing_does() {
    let shard = shard(1, Failover { on_isolation: OnIsolation::KeepWriting, ..SHORT });
    shard.signal(&[1], Signal::STOP);
    until("the replica is silent", || shard.master().report().replicas[0].ack_age_ms > SHORT.lease_ms);
    assert_eq!(set(shard.master()).unwrap(), "OK");
    shard.signal(&[1], Signal::CONT);
}

#[test]
fn of_two_nodes_the_operator_is_the_third_voter() {
    let mut shard = shard(1, SHORT);
    shard.nodes[1].kill();
    until("it is isolated", || shard.master().report().isolated);
    let grant = |run_id: &str, epoch: &str, clock: u64| {
        shard.master().control(&["REPORT", run_id, epoch, &clock.to_string()]).unwrap()
    };
    let report = shard.master().report();
    grant("another", "1", report.clock_ms);
    grant(&report.run_id, "2", report.clock_ms);
    grant(&report.run_id, "1", report.clock_ms + 60_000);
    until("that was of no use", || shard.master().report().clock_ms > report.clock_ms + 100);
    assert!(shard.master().report().isolated);
    until("it goes on", || {
        let report = shard.master().report();
        grant(&report.run_id, "1", report.clock_ms);
        set(shard.master()).is_ok()
    });
    until("the grant is over", || shard.master().report().isolated);
}

#[test]
fn who_hears_the_master_does_not_vote_against_it() {
    let shard = shard(2, SHORT);
    for node in 0..3 {
        let refused = prepare(&shard.nodes[node], "5", &[]).unwrap_err();
        assert_eq!(refused.code(), Some("STICKY"), "{refused}");
    }
    assert_eq!(shard.nodes[1].report().promised, Epoch(1));
    shard.signal(&[0], Signal::STOP);
    until("its voters let go", || {
        prepare(&shard.nodes[1], "5", &[]).is_ok() && prepare(&shard.nodes[2], "5", &[]).is_ok()
    });
    shard.signal(&[0], Signal::CONT);
    // A hand-over that the master agrees to, or a master that has ended, needs no patience.
    let two = shard_of_two();
    assert!((0..2).all(|node| prepare(&two.nodes[node], "5", &["ENDED"]).is_ok()));
}

#[test]
fn a_frozen_master_that_wakes_up_acknowledges_nothing() {
    let shard = shard(2, SHORT);
    let mut client = Wire::connect(shard.master());
    assert_eq!(client.run("SET a old"), "+OK");
    shard.signal(&[0], Signal::STOP);
    // These wait in its socket, and are the first thing that it sees.
    (0..100).for_each(|n| client.send(&["SET", "a", &n.to_string()]));
    until("its voters let go", || {
        prepare(&shard.nodes[1], "2", &[]).is_ok() && prepare(&shard.nodes[2], "2", &[]).is_ok()
    });
    let second = ShardConfig { failover: SHORT, ..config(2, &shard.nodes[1], &[&shard.nodes[2]]) };
    [1, 2].iter().for_each(|&node| drop(accept(&shard.nodes[node], &second).unwrap()));
    shard.signal(&[0], Signal::CONT);
    for _ in 0..100 {
        let reply = client.read();
        assert!(reply.starts_with('-'), "{reply}");
    }
    assert_eq!(shard.config.epoch, Epoch(1));
}

#[test]
fn a_voter_that_was_restarted_waits_as_if_it_had_heard_its_master() {
    let mut shard = shard(2, Failover { lease_ms: 5000, down_after_ms: 6000, ..SHORT });
    shard.nodes[0].kill();
    shard.nodes[1].kill();
    shard.nodes[1].restart();
    assert_eq!(prepare(&shard.nodes[1], "5", &[]).unwrap_err().code(), Some("STICKY"));
    assert!(prepare(&shard.nodes[1], "5", &["ENDED"]).is_ok());
}

#[test]
fn who_let_its_master_go_does_not_go_on_with_it_when_it_is_renewed() {
    let shard = shard(2, SHORT);
    assert_eq!(prepare(&shard.nodes[2], "2", &["RENEWAL", "1"]).unwrap().state, NodeState::Replica);
    assert_eq!(prepare(&shard.nodes[1], "5", &["ENDED"]).unwrap().state, NodeState::Fenced);
    // Who was elected by that promise may write a barrier at any time, and outrank what would be acknowledged here.
    let renewed = prepare(&shard.nodes[1], "17", &["RENEWAL", "1"]).unwrap();
    assert_eq!((renewed.promised, renewed.state), (Epoch(17), NodeState::Fenced));
    let config = ShardConfig { epoch: Epoch(17), ..shard.config.clone() };
    accept(shard.master(), &config).unwrap();
    assert_eq!(accept(&shard.nodes[1], &config).unwrap().state, NodeState::Replica);
}
