//! `maxmemory`: what goes, what stays, and that replicas lose the same keys.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use redis::{Commands, Connection};
use support::{Process, eventually};

const VALUE: &str =
    "a value of some length, so that a few thousand keys take a megabyte or two and pages fill";

fn used(connection: &mut Connection) -> u64 {
    let info: String = redis::cmd("INFO").arg("memory").query(connection).unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    line.trim().parse().unwrap()
}

fn configure(connection: &mut Connection, directive: &str, value: impl ToString) {
    redis::cmd("CONFIG").arg("SET").arg(directive).arg(value.to_string()).exec(connection).unwrap();
}

fn fill(connection: &mut Connection, keys: std::ops::Range<usize>, value: &str) {
    let mut pipe = redis::pipe();
    keys.for_each(|key| _ = pipe.set(format!("key:{key}"), value).ignore());
    pipe.exec(connection).unwrap();
}

#[test]
fn memory_stays_within_its_bound_under_every_policy_that_evicts() {
    let node = Process::node(&["--maxmemory", "1mb"]);
    let mut connection = node.connect();
    for policy in ["allkeys-lru", "allkeys-lfu", "allkeys-random"] {
        connection.flushall::<()>().unwrap();
        configure(&mut connection, "maxmemory-policy", policy);
        fill(&mut connection, 0..20_000, VALUE);
        eventually("there is room again", || (used(&mut connection) <= 1024 * 1024).then_some(()));
        let kept: usize = redis::cmd("DBSIZE").query(&mut connection).unwrap();
        assert!((4_000..12_000).contains(&kept), "{policy}: {kept} keys are left");
    }
}

#[test]
fn volatile_policies_take_only_keys_that_expire_and_then_writes_are_refused() {
    let node = Process::node(&["--maxmemory", "2mb"]);
    let mut connection = node.connect();
    for policy in ["volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl"] {
        connection.flushall::<()>().unwrap();
        configure(&mut connection, "maxmemory-policy", policy);
        fill(&mut connection, 0..3_000, VALUE);
        (0..100).for_each(|key| {
            connection.set_ex::<_, _, ()>(format!("brief:{key}"), VALUE, 1000 + key).unwrap()
        });
        let refused =
            (3_000..100_000).find_map(|key| connection.set::<_, _, ()>(format!("key:{key}"), VALUE).err());
        let refused = refused.expect("a write that is refused");
        assert_eq!(refused.code(), Some("OOM"), "{policy}: {refused}");
        let brief: Vec<String> = connection.keys("brief:*").unwrap();
        assert!(brief.is_empty(), "{policy}: {} keys that expire are left", brief.len());
        assert!(connection.exists::<_, bool>("key:0").unwrap());
        assert_eq!(connection.del::<_, usize>(&["key:0", "key:1"]).unwrap(), 2, "what frees memory goes on");
    }
}

#[test]
fn the_soonest_to_expire_goes_first_under_volatile_ttl() {
    let node = Process::node(&["--maxmemory-policy", "volatile-ttl", "--maxmemory-samples", "64"]);
    let mut connection = node.connect();
    // All in one slot, so that each of the many samples sees most of them.
    for key in 0..40 {
        connection.set_ex::<_, _, ()>(format!("{{t}}{key}"), VALUE.repeat(5), 1000 + key).unwrap();
    }
    for _ in 0..10 {
        let bound = used(&mut connection) - 1;
        configure(&mut connection, "maxmemory", bound);
    }
    let left: Vec<String> = connection.keys("*").unwrap();
    assert!((10..=35).contains(&left.len()), "{} of 40 keys are left", left.len());
    for key in 25..40 {
        assert!(left.contains(&format!("{{t}}{key}")), "{key} expires late, and went before one of {left:?}");
    }
}

/// Numbers of keys of which few are asked for often.
fn zipf(random: &mut fastrand::Rng, keys: usize) -> usize {
    ((keys as f64).powf(random.f64()) as usize - 1).min(keys - 1)
}

/// The share of requests that a cache with room for a quarter of the keys answers.
fn hit_rate(server: &Process, policy: &str, seed: u64) -> f64 {
    const KEYS: usize = 4_000;
    let mut connection = server.connect();
    connection.flushall::<()>().unwrap();
    configure(&mut connection, "maxmemory", 0);
    configure(&mut connection, "maxmemory-policy", policy);
    // Large values, so that what a server takes besides them makes no difference.
    let value = VALUE.repeat(20);
    fill(&mut connection, 0..KEYS / 4, &value);
    let quarter = used(&mut connection);
    configure(&mut connection, "maxmemory", quarter);
    connection.flushall::<()>().unwrap();
    let mut random = fastrand::Rng::with_seed(seed);
    let mut hits = 0;
    const REQUESTS: usize = 30_000;
    for _ in 0..REQUESTS {
        let key = format!("key:{}", zipf(&mut random, KEYS));
        if connection.get::<_, Option<String>>(&key).unwrap().is_some() {
            hits += 1;
        } else {
            connection.set::<_, _, ()>(&key, &value).unwrap();
        }
    }
    hits as f64 / REQUESTS as f64
}

#[test]
fn the_choice_is_as_good_as_that_of_redis() {
    let seed = fastrand::u64(..);
    let (node, redis) = (Process::node(&[]), Process::redis(&[]));
    for policy in ["allkeys-lru", "allkeys-lfu"] {
        let (ours, theirs) = (hit_rate(&node, policy, seed), hit_rate(&redis, policy, seed));
        println!("{policy}: {ours:.3} of the requests hit, {theirs:.3} with Redis (seed {seed})");
        assert!(ours > theirs - 0.05, "{policy}: {ours:.3} instead of {theirs:.3} (seed {seed})");
    }
}

#[test]
fn a_replica_loses_what_its_master_evicts_and_nothing_else() {
    let small = ["--maxmemory", "1mb", "--maxmemory-policy", "allkeys-random", "--repl-backlog-size", "64kb"];
    let master = Process::node(&small);
    let replica = Process::node(&["--maxmemory", "100kb", "--maxmemory-policy", "allkeys-random"]);
    let (mut on_master, mut on_replica) = (master.connect(), replica.connect());
    redis::cmd("REPLICAOF").arg("127.0.0.1").arg(master.port).exec(&mut on_replica).unwrap();
    fill(&mut on_master, 0..20_000, VALUE);
    let keys = |connection: &mut Connection| -> Vec<String> {
        let mut keys: Vec<String> = connection.keys("*").unwrap();
        keys.sort();
        keys
    };
    eventually("both hold the same keys", || {
        let (ours, theirs) = (keys(&mut on_master), keys(&mut on_replica));
        (!ours.is_empty() && ours == theirs).then_some(())
    });
    assert!(keys(&mut on_replica).len() > 2_000, "the replica keeps more than its own bound");
}
