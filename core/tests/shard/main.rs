//! One shard by seed: elections by the operator and by nodes, leases, quorum writes and their changes, over links that fail,
//! among nodes that crash, freeze and lose what they had. Checked throughout: once a write was acknowledged under an epoch, none is
//! under an older one (M); an epoch has one config; whoever goes on with a stream has its past. In the end: no promised write is
//! lost (L), and the shard is as specified (E).
//!
//! `SEED=7 cargo test -p kv-core --test shard` replays one world, `SEEDS=20000` tries that many.

// A world that is not as it should be ends the test, wherever that is found.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod node;
mod world;

use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};

use world::World;

const SEEDS: u64 = 2000;

fn run(seed: u64) -> u64 {
    let mut world = World::new(seed);
    for _ in 0..1200 {
        world.tick();
    }
    world.heal();
    let mut quiet = 0;
    for _ in 0..2400 {
        quiet = if world.tick() { quiet + 1 } else { 0 };
        if quiet == 40 {
            world.assert_nothing_lost(seed);
            return world.acked;
        }
    }
    panic!("seed {seed} does not become quiet\n{}", world.history());
}

#[test]
fn every_world_is_safe_and_converges() {
    if let Ok(seed) = std::env::var("SEED") {
        run(seed.parse().expect("SEED is a number"));
        return;
    }
    let seeds = std::env::var("SEEDS").map_or(SEEDS, |n| n.parse().expect("SEEDS is a number"));
    let (next, acked) = (AtomicU64::new(0), AtomicU64::new(0));
    let work = || {
        while let Some(seed) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|seed| *seed < seeds) {
            let result = std::panic::catch_unwind(|| run(seed));
            acked.fetch_add(result.unwrap_or_else(|_| panic!("replay with SEED={seed}")), Ordering::Relaxed);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    std::thread::scope(|scope| (0..threads).for_each(|_| _ = scope.spawn(work)));
    let acked = acked.into_inner();
    assert!(
        acked > seeds * 100,
        "{acked} writes were acknowledged in {seeds} worlds: too few to tell anything"
    );
}
