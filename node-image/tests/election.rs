//! Shards without an operator: their nodes elect a new master themselves.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use kv_core::control::NodeState;
use kv_core::lease::{Failover, OnIsolation};
use kv_core::quorum::Acknowledge;
use kv_core::shard::ShardConfig;
use rustix::process::Signal;
use support::shard::{Shard, accept, config, streaming, tell_map};
use support::{Process, eventually, until};

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
fn who_asks_a_master_to_step_down_has_time_to_elect_another_one() {
    let shard = Shard::new(2, short);
    let patience = shard.config.failover.down_after_ms;
    let clock = || shard.master().report().clock_ms;
    let since = clock();
    until("it has led for longer than a master may be silent", || clock() > since + 3 * patience);
    let asked = clock();
    let epoch = shard.config.epoch.next_for(1);
    for node in &shard.nodes {
        node.control(&["PREPARE", "uid", "0", &epoch.to_string(), "ENDED"]).unwrap();
    }
    // Who asked does not go on. The nodes do, as if their master had been silent from then on.
    let report = eventually("an election by the nodes", || {
        let report = shard.master().report();
        (report.promised > epoch || report.config.as_ref()?.epoch >= epoch).then_some(report)
    });
    assert!(report.clock_ms >= asked + patience, "after {} ms", report.clock_ms - asked);
    until("somebody leads", || shard.leader(&[0, 1, 2]).is_some());
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

#[test]
fn a_replica_that_is_asked_to_lead_does_without_an_operator_and_nothing_is_lost() {
    let shard = Shard::new(2, short);
    let refused = shard.master().run::<()>(&["CLUSTER", "FAILOVER"]).unwrap_err().to_string();
    assert!(refused.contains("You should send CLUSTER FAILOVER to a replica"), "{refused}");
    let refused = shard.nodes[2].run::<()>(&["CLUSTER", "FAILOVER", "TAKEOVER"]).unwrap_err().to_string();
    assert!(refused.contains("TAKEOVER not allowed"), "{refused}");
    let () = shard.master().run(&["SET", "a", "1"]).unwrap();
    let () = shard.nodes[2].run(&["CLUSTER", "FAILOVER"]).unwrap();
    until("it leads", || shard.leader(&[0, 1, 2]) == Some(2));
    assert_eq!(shard.nodes[2].run::<String>(&["GET", "a"]).unwrap(), "1");
    until("the others follow", || [0, 1].iter().all(|&node| streaming(&shard.nodes[node])));
    assert!([0, 1].iter().all(|&node| shard.nodes[node].report().full_syncs <= 1), "by what they have");
    assert_eq!(shard.nodes[0].report().full_syncs, 0, "the old master goes on where it stands");
}

#[test]
fn a_master_that_is_asked_to_stop_hands_over_without_an_operator() {
    let mut shard = Shard::new(2, short);
    let () = shard.master().run(&["SET", "a", "1"]).unwrap();
    shard.signal(&[0], Signal::TERM);
    let leader = eventually("a new master", || shard.leader(&[1, 2]));
    assert_eq!(shard.nodes[leader].run::<String>(&["GET", "a"]).unwrap(), "1");
    shard.nodes[0].wait_until_gone();
    assert!(shard.nodes[0].log().contains("Relieved of the master role"), "{}", shard.nodes[0].log());
}

#[test]
fn who_missed_changes_of_members_finds_the_new_ones() {
    let mut shard = Shard::new(2, short);
    let new: Vec<_> = (3..5).map(|n| Process::managed(&format!("s-0-{n}"), &[])).collect();
    // Node 2 misses that the others are replaced one after the other; it is only told where all are.
    let last = ShardConfig { failover: shard.config.failover, ..config(36, &new[0], &[&new[1]]) };
    for node in &new {
        accept(node, &last).unwrap();
    }
    tell_map(&[&shard.nodes[2], &new[0], &new[1]], &last);
    shard.nodes[0].kill();
    shard.nodes[1].kill();
    until("it knows", || shard.nodes[2].report().config.unwrap().epoch == last.epoch);
    assert_eq!(new[0].report().state, NodeState::Master);
}
