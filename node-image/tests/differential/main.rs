//! Random commands, run by a real Redis server and by the command table: the replies must be the same. What the table
//! says is to be replicated goes to a second keyspace, which must hold the same data in the end.
//!
//! A failure prints the seed; `KV_DIFFERENTIAL_SEED` replays it, `KV_DIFFERENTIAL_COMMANDS` sets how many commands run.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what it expects"
)]

#[path = "../commands/mod.rs"]
mod commands;
mod redis;

use std::collections::VecDeque;
use std::time::{SystemTime, UNIX_EPOCH};

use kv_node::command::{Args, Handler, table};
use kv_node::keyspace::ExpiryMode;
use kv_node::resp::Protocol;
use proptest::prelude::*;

use commands::content::{contents, of_key};
use commands::generate::{ANY, Generator};
use commands::node::{DATABASES, Node, words};
use commands::reply::Reply;
use redis::Redis;

/// Commands between two comparisons of all the data with those of Redis.
const ROUND: usize = 2000;

/// Commands between two comparisons of all the data with those of the replica.
const COPY_ROUND: usize = 50;

/// Commands that are shown before the one that failed.
const HISTORY: usize = 30;

fn number(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable} must be a number, not {text:?}")),
        Err(_) => default,
    }
}

/// Unix time in milliseconds.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

fn argv(words: &[&str]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

/// Whether the reply is known to be another one: by the version of Redis, or on purpose.
fn is_known_difference(name: &str, command: &[Vec<u8>]) -> bool {
    match name {
        // Has WITHSCORE now.
        "ZRANK" | "ZREVRANK" => command.len() > 3,
        // Refuses this as a rank now.
        "LPOS" => command.iter().any(|arg| *arg == i64::MIN.to_string().as_bytes()),
        _ => false,
    }
}

/// The last argument, if it is a number.
fn addend(command: &[Vec<u8>]) -> f64 {
    let text = command.last().and_then(|arg| std::str::from_utf8(arg).ok());
    text.and_then(|text| text.parse().ok()).unwrap_or(0.0)
}

struct Comparison {
    redis: Redis,
    node: Node,
    replica: Node,
    history: VecDeque<String>,
    seed: u64,
}

impl Comparison {
    fn new(protocol: Protocol, seed: u64) -> Self {
        let mut redis = Redis::start();
        if protocol == Protocol::Resp3 {
            redis.execute(&argv(&["HELLO", "3"]));
        }
        let node = Node::new(ExpiryMode::Delete, protocol, seed);
        let replica = Node::new(ExpiryMode::Ignore, protocol, seed ^ 1);
        Self { redis, node, replica, history: VecDeque::new(), seed }
    }

    fn step(&mut self, command: &[Vec<u8>]) {
        let name = String::from_utf8_lossy(&command[0]).to_uppercase();
        if is_known_difference(&name, command) {
            return;
        }
        let mut theirs = self.redis.execute(command);
        let (ours, replicated) = self.node.execute(command, now());
        self.history.push_back(format!("{} -> {theirs:?}", words(command)));
        if self.history.len() > HISTORY {
            self.history.pop_front();
        }
        if name.ends_with("SCAN")
            && (theirs.is_partial_scan() || ours.is_partial_scan() || !command.contains(&b"0".to_vec()))
        {
            return;
        }
        if theirs != ours && name.ends_with("INCRBYFLOAT") && theirs.is_near(&ours, addend(command)) {
            // Redis' 80-bit floats show noise where decimals are added exactly here. Both go on with the exact sum.
            replicated.iter().for_each(|(_, effect)| _ = self.redis.execute(effect));
            theirs = ours.clone();
        }
        if ["TTL", "EXPIRETIME", "PTTL", "PEXPIRETIME"].contains(&&*name)
            && theirs.is_about(&ours, !name.starts_with('P'))
        {
            theirs = ours.clone();
        }
        let theirs = theirs.comparable(&name, command.len());
        let ours = ours.comparable(&name, command.len());
        assert!(
            theirs == ours,
            "KV_DIFFERENTIAL_SEED={}: {}\n redis: {theirs:?}\n  ours: {ours:?}\nbefore:\n{}",
            self.seed,
            words(command),
            self.history.iter().map(|line| format!("  {line}\n")).collect::<String>(),
        );
        for effect in replicated {
            if let Err(failure) = self.replica.apply(&effect, now()) {
                panic!("seed {}: {failure}, an effect of {}", self.seed, words(command));
            }
        }
        self.compare_keys(command);
    }

    /// Compares the keys of a command with those of the replica at once: the next command may cover a difference up.
    fn compare_keys(&self, command: &[Vec<u8>]) {
        let Some(difference) = difference(&self.node, &self.replica, command) else { return };
        panic!(
            "KV_DIFFERENTIAL_SEED={}: the replica differs after {}: {difference}",
            self.seed,
            words(command)
        );
    }

    /// Compares all the data of database 0, and with the replica those of all databases.
    fn compare_data(&mut self) {
        for kind in ["s", "h", "l", "e", "z", "w", "c"] {
            for index in 1..=4 {
                let key = format!("{kind}{index}");
                for read in
                    [vec!["TYPE", &key], vec!["PEXPIRETIME", &key], read_whole(self.type_of(&key), &key)]
                {
                    let read = argv(&read);
                    self.step(&read);
                    let name = String::from_utf8_lossy(&read[0]).into_owned();
                    let ours = self.node.execute(&read, now()).0.comparable(&name, 0);
                    let copy = self.replica.execute(&read, now()).0.comparable(&name, 0);
                    assert_eq!(ours, copy, "seed {}: the replica differs at {key}", self.seed);
                }
            }
        }
        let lens = |node: &Node| (0..DATABASES).map(|db| node.keyspace.len(db)).collect::<Vec<_>>();
        assert_eq!(lens(&self.node), lens(&self.replica), "seed {}: numbers of keys", self.seed);
        assert_eq!(self.node.keyspace.used_memory() > 0, self.replica.keyspace.used_memory() > 0);
    }

    fn type_of(&mut self, key: &str) -> String {
        match self.node.execute(&argv(&["TYPE", key]), now()).0 {
            Reply::Line(line) => line[1..].to_owned(),
            other => panic!("TYPE replies {other:?}"),
        }
    }
}

/// Where the keys of a command differ between a node and its replica.
fn difference(node: &Node, replica: &Node, command: &[Vec<u8>]) -> Option<String> {
    let args: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
    let keys = table::lookup(args[0])?.keys.positions(Args::new(&args));
    keys.into_iter().filter_map(|index| args.get(index)).find_map(|key| {
        let (here, there) = (of_key(&node.keyspace, key), of_key(&replica.keyspace, key));
        (here != there).then(|| format!("{}: {here:?}, {there:?}", key.escape_ascii()))
    })
}

/// The command that shows all of a value.
fn read_whole(type_name: String, key: &str) -> Vec<&str> {
    match &*type_name {
        "list" => vec!["LRANGE", key, "0", "-1"],
        "hash" => vec!["HGETALL", key],
        "set" => vec!["SMEMBERS", key],
        "zset" => vec!["ZRANGE", key, "0", "-1", "WITHSCORES"],
        _ => vec!["GET", key],
    }
}

fn compare(protocol: Protocol) {
    let seed = number("KV_DIFFERENTIAL_SEED", fastrand::u64(..));
    let commands = number("KV_DIFFERENTIAL_COMMANDS", 40_000) as usize;
    println!("KV_DIFFERENTIAL_SEED={seed}");
    let mut generator = Generator::new(fastrand::Rng::with_seed(seed));
    let mut comparison = Comparison::new(protocol, seed);
    for step in 1..=commands {
        comparison.step(&generator.next(now()));
        if step % COPY_ROUND == 0 {
            let (node, replica) = (&comparison.node.keyspace, &comparison.replica.keyspace);
            assert_eq!(contents(node), contents(replica), "KV_DIFFERENTIAL_SEED={seed}: the replica differs");
        }
        if step % ROUND == 0 {
            comparison.compare_data();
        }
    }
}

#[test]
fn replies_are_those_of_redis_in_resp2() {
    compare(Protocol::Resp2);
}

#[test]
fn replies_are_those_of_redis_in_resp3() {
    compare(Protocol::Resp3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever the arguments, a command has one whole reply, and what it replicates works elsewhere.
    #[test]
    fn no_arguments_panic(
        stream in prop::collection::vec((any::<prop::sample::Index>(), prop::collection::vec(0..ANY.len(), 0..8)), 1..300),
    ) {
        let specs: Vec<_> = table::NODE.all().filter(|spec| matches!(spec.handler, Handler::Data(_))).collect();
        let mut node = Node::new(ExpiryMode::Delete, Protocol::Resp3, 1);
        let mut replica = Node::new(ExpiryMode::Ignore, Protocol::Resp3, 2);
        for (spec, args) in stream {
            let spec = spec.get(&specs);
            let mut command = argv(&[spec.name]);
            // Arguments begin with a key more often than not.
            command.extend(args.iter().enumerate().map(|(i, arg)| ANY[if i == 0 { arg % 4 } else { *arg }].into()));
            let (_, replicated) = node.execute(&command, now());
            for effect in replicated {
                let applied = replica.apply(&effect, now());
                prop_assert!(applied.is_ok(), "{applied:?}, an effect of {}", words(&command));
            }
            prop_assert_eq!(difference(&node, &replica, &command), None, "after {}", words(&command));
        }
        prop_assert_eq!(contents(&node.keyspace), contents(&replica.keyspace));
        prop_assert_eq!(node.keyspace.used_memory() == 0, replica.keyspace.used_memory() == 0);
    }
}
