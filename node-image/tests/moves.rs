//! Slots move from the master of one shard to the master of another, with everything that is in them.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kv_core::control::NodeReport;
use kv_core::id::Epoch;
use kv_core::shard::{ClusterMap, ShardConfig, Transfer};
use kv_core::slot::{SlotSet, key_slot};
use redis::{Connection, RedisResult};
use support::shard::{accept, address, config};
use support::{Process, Run, eventually, until};

/// Two shards of one node each: the first has all slots.
struct Pair {
    nodes: [Process; 2],
    configs: [ShardConfig; 2],
}

impl Pair {
    fn new() -> Self {
        let nodes = [Process::managed("s-0-0", &[]), Process::managed("s-1-0", &["--kv-shard", "1"])];
        let mut configs = [config(1, &nodes[0], &[]), config(1, &nodes[1], &[])];
        configs[1].shard = 1;
        configs[1].slots = SlotSet::default();
        let pair = Self { nodes, configs };
        (0..2).for_each(|shard| drop(accept(&pair.nodes[shard], &pair.configs[shard]).unwrap()));
        pair.tell_map();
        pair
    }

    fn tell_map(&self) {
        let addresses: BTreeMap<_, _> =
            self.nodes.iter().map(|node| (node.report().id, address(node))).collect();
        let uid = self.configs[0].uid.clone();
        let map = ClusterMap { uid, shards: self.configs.to_vec(), addresses, down: vec![] };
        let map = serde_json::to_string(&map).unwrap();
        self.nodes.iter().for_each(|node| drop(node.control(&["MAP", &map]).unwrap()));
    }

    fn import(&self, slots: &SlotSet) -> RedisResult<NodeReport> {
        let (slots, epoch) = (serde_json::to_string(slots).unwrap(), self.configs[1].epoch.to_string());
        self.nodes[1].control(&["IMPORT", "uid", "1", &epoch, "0", &slots])
    }

    fn hold(&self, slots: &SlotSet, millis: &str) -> RedisResult<NodeReport> {
        let (slots, epoch) = (serde_json::to_string(slots).unwrap(), self.configs[0].epoch.to_string());
        self.nodes[0].control(&["HOLD", "uid", "0", &epoch, "1", &slots, millis])
    }

    fn import_and_follow(&self, slots: &SlotSet) {
        self.import(slots).unwrap();
        until("all keys were sent", || self.nodes[0].report().export.is_some_and(|export| export.following));
    }

    /// Waits until the target has all that was written until the hold, and returns its id.
    fn arrived(&self, held: &NodeReport) -> String {
        let id = held.export.as_ref().unwrap().held.clone().unwrap();
        until("everything has arrived", || {
            let import = self.nodes[1].report().import;
            import.and_then(|import| import.complete).is_some_and(|complete| complete.id == id)
        });
        id
    }

    fn change(&mut self, shard: usize, change: impl FnOnce(&mut ShardConfig)) -> RedisResult<NodeReport> {
        let mut new = self.configs[shard].clone();
        new.epoch = Epoch(new.epoch.0 + 1);
        change(&mut new);
        let report = accept(&self.nodes[shard], &new)?;
        self.configs[shard] = new;
        Ok(report)
    }

    fn give(&mut self, transfer: &Transfer) -> RedisResult<NodeReport> {
        let transfer = transfer.clone();
        self.change(0, |config| {
            config.slots = config.slots.clone().without(&transfer.slots);
            config.given.push(transfer);
        })
    }

    fn take(&mut self, transfer: &Transfer) -> RedisResult<NodeReport> {
        let transfer = transfer.clone();
        self.change(1, |config| {
            config.slots = config.slots.clone().union(&transfer.slots);
            config.taken.push(transfer);
        })
    }

    /// The whole of a move.
    fn move_slots(&mut self, slots: &SlotSet) {
        self.import_and_follow(slots);
        let held = self.hold(slots, "10000").unwrap();
        let transfer = Transfer { slots: slots.clone(), from: 0, to: 1, id: self.arrived(&held) };
        self.give(&transfer).unwrap();
        self.take(&transfer).unwrap();
        self.tell_map();
        self.change(0, |config| {
            config.given.clear();
            config.left = config.left.clone().union(slots);
        })
        .unwrap();
        self.change(1, |config| config.taken.clear()).unwrap();
        self.tell_map();
    }
}

fn is_moved<T: std::fmt::Debug>(result: RedisResult<T>) -> bool {
    matches!(result, Err(error) if error.kind() == redis::ErrorKind::Server(redis::ServerErrorKind::Moved))
}

/// A key of the low half of the slots.
fn low(n: usize) -> String {
    (0..).map(|salt| format!("k{n}-{salt}")).find(|key| key_slot(key.as_bytes()) < 8192).unwrap()
}

fn low_slots() -> SlotSet {
    (0..8192).collect()
}

fn fill(connection: &mut Connection) -> Vec<String> {
    let keys: Vec<String> = (0..500).map(low).collect();
    for (n, key) in keys.iter().enumerate() {
        let number = n.to_string();
        match n % 5 {
            0 => connection.run::<()>(&["SET", key, &number]).unwrap(),
            1 => connection.run::<()>(&["RPUSH", key, "a", &number, "b"]).unwrap(),
            2 => connection.run::<()>(&["SADD", key, "a", &number]).unwrap(),
            3 => connection.run::<()>(&["HSET", key, "f", &number, "g", ""]).unwrap(),
            _ => connection.run::<()>(&["ZADD", key, "1.5", "a", "-inf", &number]).unwrap(),
        }
        if n % 3 == 0 {
            connection.run::<()>(&["PEXPIREAT", key, &(4_000_000_000_000 + n).to_string()]).unwrap();
        }
    }
    keys
}

/// What a key holds, with when it expires.
fn content(connection: &mut Connection, n: usize, key: &str) -> String {
    let read: &[&str] = match n % 5 {
        0 => &["GET", key],
        1 => &["LRANGE", key, "0", "-1"],
        2 => &["SMEMBERS", key],
        3 => &["HGETALL", key],
        _ => &["ZRANGE", key, "0", "-1", "WITHSCORES"],
    };
    let value: redis::Value = connection.run(read).unwrap();
    let mut text = format!("{value:?}");
    if n % 5 == 2 || n % 5 == 3 {
        let mut parts: Vec<char> = text.chars().collect();
        parts.sort_unstable(); // in no order
        text = parts.into_iter().collect();
    }
    let expires: i64 = connection.run(&["PEXPIRETIME", key]).unwrap();
    format!("{text} until {expires}")
}

#[test]
fn every_key_is_there_after_a_move_and_only_there() {
    let mut pair = Pair::new();
    let mut source = pair.nodes[0].connect();
    let keys = fill(&mut source);
    let big = low(1000);
    for n in 0..200 {
        let mut words = vec!["RPUSH".to_owned(), big.clone()];
        words.extend((0..100).map(|m| format!("{n:0>20}-{m:0>20}")));
        source.run::<()>(&words.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    }
    let stays = (0..).map(|n| format!("h{n}")).find(|key| key_slot(key.as_bytes()) >= 8192).unwrap();
    source.run::<()>(&["SET", &stays, "1"]).unwrap();
    let before: Vec<_> = keys.iter().enumerate().map(|(n, key)| content(&mut source, n, key)).collect();

    // Written to all the time: each acknowledged write counts once, wherever it is done.
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..3)
        .map(|n| {
            let (stop, counter) = (stop.clone(), low(2000 + n));
            let mut connections = [pair.nodes[0].connect(), pair.nodes[1].connect()];
            std::thread::spawn(move || {
                let (mut at, mut done, mut redirects) = (0, 0_i64, 0);
                while !stop.load(Ordering::Relaxed) {
                    match connections[at].run::<i64>(&["INCR", &counter]) {
                        Ok(count) => {
                            done += 1;
                            redirects = 0;
                            assert_eq!(count, done, "a write was lost or done twice");
                        }
                        moved => {
                            assert!(is_moved(moved), "nothing but MOVED");
                            (at, redirects) = (1 - at, redirects + 1);
                            assert!(redirects < 5, "sent to and fro");
                        }
                    }
                }
                (counter, at, done)
            })
        })
        .collect();
    pair.move_slots(&low_slots());
    let counts: Vec<_> = eventually("the writers go on", || {
        let mut target = pair.nodes[1].connect();
        let counts: Vec<Option<i64>> =
            (0..3).map(|n| target.run(&["GET", &low(2000 + n)]).unwrap()).collect();
        counts.iter().all(Option::is_some).then_some(counts)
    });
    until("they write at the target", || {
        let mut target = pair.nodes[1].connect();
        (0..3).all(|n| target.run::<Option<i64>>(&["GET", &low(2000 + n)]).unwrap() > counts[n])
    });
    stop.store(true, Ordering::Relaxed);
    let mut target = pair.nodes[1].connect();
    for writer in writers {
        let (counter, at, done) = writer.join().unwrap();
        assert_eq!(at, 1, "it was sent to the target");
        assert_eq!(target.run::<i64>(&["GET", &counter]).unwrap(), done);
    }
    let after: Vec<_> = keys.iter().enumerate().map(|(n, key)| content(&mut target, n, key)).collect();
    assert_eq!(before, after);
    assert_eq!(target.run::<i64>(&["LLEN", &big]).unwrap(), 20_000);
    assert!(is_moved(source.run::<String>(&["GET", &keys[0]])));
    until("the source has deleted them", || pair.nodes[0].report().keys == 1);
    assert_eq!(source.run::<String>(&["GET", &stays]).unwrap(), "1");
    assert_eq!(pair.nodes[1].report().keys, keys.len() as u64 + 1 + 3);
}

#[test]
fn a_large_slot_that_changes_while_it_is_sent_arrives_as_it_is() {
    let mut pair = Pair::new();
    let mut source = pair.nodes[0].connect();
    let tag = low(0);
    let key = |n: usize| format!("{{{tag}}}{n}");
    for chunk in (0..60_000).collect::<Vec<_>>().chunks(500) {
        let mut words = vec!["MSET".to_owned()];
        words.extend(chunk.iter().flat_map(|n| [key(*n), format!("{n:0>200}")]));
        source.run::<()>(&words.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    }
    let slots: SlotSet = [key_slot(tag.as_bytes())].into_iter().collect();
    pair.import(&slots).unwrap();
    let mut n = 0;
    until("all keys were sent", || {
        for _ in 0..50 {
            n += 1;
            source.run::<()>(&["APPEND", &key(n * 7 % 60_000), "+"]).unwrap();
            source.run::<()>(&["DEL", &key(n * 13 % 60_000)]).unwrap();
            source.run::<()>(&["SET", &key(60_000 + n), "new"]).unwrap();
        }
        pair.nodes[0].report().export.is_some_and(|export| export.following)
    });
    source.run::<()>(&["SET", &key(1), "last"]).unwrap();
    let all: Vec<String> = (0..60_000 + n + 1).map(key).collect();
    let read = |connection: &mut Connection| -> Vec<Option<String>> {
        let parts = all.chunks(1000).map(|part| {
            let mut words = vec!["MGET"];
            words.extend(part.iter().map(String::as_str));
            connection.run::<Vec<Option<String>>>(&words).unwrap()
        });
        parts.flatten().collect()
    };
    let before = read(&mut source);
    pair.move_slots(&slots);
    let after = read(&mut pair.nodes[1].connect());
    assert!(before == after, "what has arrived differs");
}

#[test]
fn nothing_is_given_or_taken_that_was_not_sent() {
    let mut pair = Pair::new();
    fill(&mut pair.nodes[0].connect());
    let slots = low_slots();
    let made_up = Transfer { slots: slots.clone(), from: 0, to: 1, id: "x".into() };
    assert!(pair.give(&made_up).unwrap_err().to_string().contains("cannot be given away"));
    assert!(pair.take(&made_up).unwrap_err().to_string().contains("cannot be taken"));
    let lost = pair.change(0, |config| config.slots = SlotSet::default()).unwrap_err();
    assert!(lost.to_string().contains("cannot be given away"), "{lost}");
    assert!(pair.hold(&slots, "100").is_err(), "nothing is exported");
    pair.import_and_follow(&slots);
    assert!(pair.give(&made_up).is_err(), "writes are not held");

    // A hold ends by itself, and what was decided under it counts no more.
    let held = pair.hold(&slots, "200").unwrap();
    let key = low(0);
    let mut writer = pair.nodes[0].connect();
    let write = std::thread::spawn(move || writer.run::<()>(&["SET", &key, "late"]));
    let id = pair.arrived(&held);
    write.join().unwrap().unwrap();
    let late = Transfer { id, ..made_up };
    assert!(pair.give(&late).is_err(), "writes went on since");
    let held = pair.hold(&slots, "10000").unwrap();
    let transfer = Transfer { id: pair.arrived(&held), ..late };
    pair.give(&transfer).unwrap();
    pair.take(&transfer).unwrap();
    pair.tell_map();
    assert_eq!(pair.nodes[1].run::<String>(&["GET", &low(0)]).unwrap(), "late");
}

#[test]
fn what_is_still_coming_in_is_seen_by_nobody_and_goes_when_it_is_given_up() {
    let pair = Pair::new();
    let keys = fill(&mut pair.nodes[0].connect());
    let short = low(5000);
    pair.nodes[0].run::<()>(&["SET", &short, "1", "PX", "100"]).unwrap();
    pair.import_and_follow(&low_slots());
    let mut target = pair.nodes[1].connect();
    until("the keys are there", || target.run::<usize>(&["DBSIZE"]).unwrap() >= keys.len());
    assert_eq!(target.run::<Vec<String>>(&["KEYS", "*"]).unwrap(), Vec::<String>::new());
    let (cursor, seen): (u64, Vec<String>) = target.run(&["SCAN", "0", "COUNT", "100000"]).unwrap();
    assert_eq!((cursor, seen), (0, vec![]));
    assert_eq!(target.run::<Option<String>>(&["RANDOMKEY"]).unwrap(), None);
    assert!(is_moved(target.run::<String>(&["GET", &keys[0]])));
    // The source says when a key expires.
    until("it expires", || pair.nodes[0].report().keys == keys.len() as u64);
    until("it does here", || target.run::<usize>(&["DBSIZE"]).unwrap() == keys.len());
    // It would be lost with the rest.
    pair.import(&SlotSet::default()).unwrap();
    until("they are deleted", || target.run::<usize>(&["DBSIZE"]).unwrap() == 0);
    until("the source knows", || pair.nodes[0].report().export.is_none());
    assert_eq!(pair.nodes[0].report().keys, keys.len() as u64);
    assert_eq!(pair.nodes[1].report().import, None);
}

#[test]
fn slots_that_were_given_away_are_sent_again_to_who_lost_them() {
    let mut pair = Pair::new();
    let mut source = pair.nodes[0].connect();
    let keys = fill(&mut source);
    let before: Vec<_> = keys.iter().enumerate().map(|(n, key)| content(&mut source, n, key)).collect();
    let slots = low_slots();
    pair.import_and_follow(&slots);
    let held = pair.hold(&slots, "10000").unwrap();
    let transfer = Transfer { slots: slots.clone(), from: 0, to: 1, id: pair.arrived(&held) };
    pair.give(&transfer).unwrap();
    pair.tell_map();
    // The target loses it: its memory was all that it had.
    pair.nodes[1].kill();
    pair.nodes[1].restart();
    pair.change(1, |_| {}).unwrap();
    pair.tell_map();
    assert!(pair.take(&transfer).is_err());
    // Who asks meanwhile waits.
    let mut asking = pair.nodes[0].connect();
    let key = keys[0].clone();
    let asks = std::thread::spawn(move || asking.run::<String>(&["GET", &key]));
    pair.import(&slots).unwrap();
    until("everything has arrived again", || {
        let import = pair.nodes[1].report().import;
        import.and_then(|import| import.complete).is_some_and(|complete| complete.id == transfer.id)
    });
    pair.take(&transfer).unwrap();
    pair.tell_map();
    assert!(is_moved(asks.join().unwrap()));
    let mut target = pair.nodes[1].connect();
    let after: Vec<_> = keys.iter().enumerate().map(|(n, key)| content(&mut target, n, key)).collect();
    assert_eq!(before, after);
}
