//! Shards without an operator: their nodes elect a new master themselves.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use kv_core::control::NodeState;
use kv_core::lease::{Failover, OnIsolation};
use kv_core::quorum::Acknowledge;
use kv_core::shard::ShardConfig;
use rustix::process::Signal;
use support::shard::{Shard, streaming};
use support::{eventually, until};

fn short(config: &mut ShardConfig) {
    config.failover = Failover { down_after_ms: 800, lease_ms: 600, on_isolation: OnIsolation::RefuseWrites };
    config.acknowledge = Acknowledge::Quorum { copies: 2, timeout_ms: 5000 };
}

#[test]
fn the_replicas_of_a_dead_master_elect_one_of_themselves() {
    let mut shard = Shard::new(2, short);
    let () = shard.master().run(&["SET", "a", "1"]).unwrap();
    shard.nodes[0].kill();
    let leader = eventually("a new master", || shard.leader(&[1, 2]));
    let epoch = shard.nodes[leader].report().config.unwrap().epoch;
    assert!(epoch > shard.config.epoch && epoch.is_for(leader as u16), "{epoch}");
    until("it takes writes", || shard.nodes[leader].run::<String>(&["SET", "b", "1"]).is_ok());
    assert_eq!(shard.nodes[leader].run::<String>(&["GET", "a"]).unwrap(), "1");
    // The old one comes back, learns of it from the others and follows.
    shard.nodes[0].restart();
    until("the old master follows", || {
        shard.nodes[0].report().state == NodeState::Replica && streaming(&shard.nodes[0])
    });
    assert_eq!(shard.leader(&[0, 1, 2]), Some(leader));
}

#[test]
fn a_minority_elects_nobody() {
    let mut shard = Shard::new(2, short);
    shard.nodes[0].kill();
    shard.signal(&[1], Signal::STOP);
    until("it has tried", || shard.nodes[2].log().contains("No election"));
    assert_eq!(shard.nodes[2].report().promised, shard.config.epoch, "it promises nothing in vain");
    assert_eq!(shard.leader(&[2]), None);
    shard.signal(&[1], Signal::CONT);
    until("a majority does", || shard.leader(&[1, 2]).is_some());
}

#[test]
fn who_is_cut_off_from_a_master_that_others_hear_deposes_nobody() {
    let shard = Shard::new(2, short);
    // It is frozen for longer than a master may be silent, and wakes up with nothing heard.
    shard.signal(&[2], Signal::STOP);
    let since = shard.nodes[1].report().clock_ms;
    until("it missed enough", || shard.nodes[1].report().clock_ms > since + 3000);
    shard.signal(&[2], Signal::CONT);
    until("it follows", || streaming(&shard.nodes[2]));
    until("it takes writes", || shard.master().run::<String>(&["SET", "a", "1"]).is_ok());
    for node in &shard.nodes {
        assert_eq!(node.report().promised, shard.config.epoch);
    }
}

#[test]
fn a_shard_that_was_restarted_as_a_whole_goes_on_with_its_data() {
    let mut shard = Shard::with(&["--appendonly", "yes"], 2, short);
    let () = shard.master().run(&["SET", "a", "1"]).unwrap();
    shard.nodes.iter_mut().for_each(support::Process::kill);
    shard.nodes.iter_mut().for_each(support::Process::restart);
    let leader = eventually("a new master", || shard.leader(&[0, 1, 2]));
    until("it takes writes", || shard.nodes[leader].run::<String>(&["SET", "b", "1"]).is_ok());
    assert_eq!(shard.nodes[leader].report().config.unwrap().members.len(), 3);
}
