//! What the fuzzers check, on seeds, on chance inputs, and on what they found once. The fuzzers: `node-image/fuzz`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects"
)]

mod checks;
#[path = "../commands/mod.rs"]
mod commands;

use checks::{aof, commands as table, rdb, resp};

/// Checks the seeds, and what comes of random changes to them. `KV_FUZZ_SEED` replays a failure.
fn check_seeds(check: fn(&[u8]), seeds: &[Vec<u8>], changed: usize) {
    let seed = std::env::var("KV_FUZZ_SEED").map_or_else(|_| fastrand::u64(..), |text| text.parse().unwrap());
    println!("KV_FUZZ_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    seeds.iter().for_each(|seed| check(seed));
    for _ in 0..changed {
        let mut input = random.choice(seeds).unwrap().clone();
        for _ in 0..random.usize(..8) {
            let at = random.usize(..=input.len());
            match random.u8(..4) {
                0 => input.truncate(at),
                1 => input.insert(at, random.u8(..)),
                2 => input.extend_from_within(at..),
                _ => input.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << random.u8(..8)),
            }
        }
        check(&input);
    }
}

#[test]
fn requests() {
    check_seeds(resp::check, &resp::seeds(), 3000);
}

#[test]
fn snapshots() {
    check_seeds(rdb::check, &rdb::seeds(), 1000);
}

#[test]
fn append_only_files() {
    check_seeds(aof::check, &aof::seeds(), 300);
}

#[test]
fn command_sequences() {
    check_seeds(table::check, &table::seeds(), 50);
}

#[test]
fn what_was_found_stays_found() {
    // A watched key that was removed while it was hidden did not count as changed.
    table::check(include_bytes!("found/commands-watch-hidden"));
}
