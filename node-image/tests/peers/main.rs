//! Replication with real servers of others, in both directions, through what happens to links and processes.
//!
//! `KV_PEER_KEYS` sets how many keys there are (20,000), `KV_PEERS` names the servers (programs, separated by colons). A failure prints the seed of
//! the writes; `KV_PEER_SEED` replays it.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod adopt;
mod chain;
mod load;
mod login;
mod moves;
mod servers;
#[path = "../support/mod.rs"]
mod support;
mod unfit;

use std::time::Instant;

use Who::{Ours, Theirs};
use chain::{Chain, Data, Who};

/// Everything that can happen to a chain, under load; contents are compared after each part.
fn matrix(order: &[Who]) {
    let seed = std::env::var("KV_PEER_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    eprintln!("KV_PEER_SEED={seed}");
    for peer in servers::all() {
        for data in [Data::Nothing, Data::Much] {
            let began = Instant::now();
            let mut chain = Chain::start(order, &peer, data, servers::keys());
            let synchronised = began.elapsed();
            chain.write(seed);
            (0..order.len() - 1).for_each(|index| chain.cut(index));
            chain.rest();
            chain.assert_equal("after cuts");
            chain.write(seed + 1);
            (1..order.len()).for_each(|index| chain.restart_replica(index));
            chain.restart_master();
            chain.rest();
            chain.assert_equal("after restarts");
            chain.switch();
            chain.write(seed + 2);
            chain.rest();
            chain.assert_equal("after a switch");
            eprintln!("{}: synchronised {synchronised:.1?}, all {:.1?}", chain.what, began.elapsed());
        }
    }
}

#[test]
fn a_node_follows_a_peer() {
    matrix(&[Theirs, Ours]);
}

#[test]
fn a_peer_follows_a_node() {
    matrix(&[Ours, Theirs]);
}

#[test]
fn a_peer_stands_between_nodes() {
    matrix(&[Ours, Theirs, Ours]);
}

#[test]
fn a_node_stands_between_peers() {
    matrix(&[Theirs, Ours, Theirs]);
}
