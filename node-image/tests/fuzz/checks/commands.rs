//! Commands: whatever they are and whenever they come, what they say is to be replicated makes an equal copy, a snapshot
//! is what was there when it began, watched keys do not change unnoticed, and memory is accounted for to the last byte.
//!
//! An input is a row of choices. `KV_FUZZ_TRACE=1` prints what they come to.

use std::sync::LazyLock;

use kv_node::command::{CommandSpec, Flags, Handler, table};
use kv_node::keyspace::value::Limits;
use kv_node::keyspace::{At, ExpiryMode, Keyspace, Policy, Pool, Ticket, Tracking};
use kv_node::persist::rdb::{Aux, Finisher, Format, load};
use kv_node::persist::snapshot::Walker;
use kv_node::resp::Protocol;

use super::Bytes;
use crate::commands::content::{self, Content, Contents, contents, snapshot};
use crate::commands::generate::{ANY, Generator, Source};
use crate::commands::node::{DATABASES, Effect, Node, words};

/// More than enough to bring out anything; it bounds the time that an input takes.
const STEPS: usize = 200;

/// Steps between two comparisons with the copy: what is wrong may be overwritten soon.
const ROUND: usize = 20;

/// What is there from the beginning, so that commands find something to work on.
const BEGINNING: &str = "
    SET s1 10
    SET s2 hello
    SET c1 1.5
    HSET h1 a 1 b x c 3
    HSET h2 a y 1 2
    RPUSH l1 x y 10 a
    RPUSH l2 a b
    SADD e1 a b c aa
    SADD e2 1 2 3
    ZADD z1 1 a 2 b 2.5 c
    ZADD z2 -1 a 7 aa
    ZADD w1 0 a 0 b 0 c
    EXPIRE s2 5000
    PEXPIRE e1 7000000
    PEXPIRE z2 900";

/// Bits of an input's first byte.
const WRITABLE_REPLICA: u8 = 1;
const RESP3: u8 = 2;
/// Of these all: large values take their time.
const DEFAULT_LIMITS: u8 = 4 | 8 | 16;

/// Limits that a few elements exceed.
const SMALL: Limits = Limits {
    hash_entries: 6,
    hash_value: 10,
    list_size: 10,
    set_integers: 6,
    set_entries: 8,
    set_value: 10,
    zset_entries: 6,
    zset_value: 10,
};

static SPECS: LazyLock<Vec<&CommandSpec>> =
    LazyLock::new(|| table::NODE.all().filter(|spec| matches!(spec.handler, Handler::Data(_))).collect());

static TRACE: LazyLock<bool> = LazyLock::new(|| std::env::var_os("KV_FUZZ_TRACE").is_some());

/// A snapshot that is being made.
struct Snapshot {
    walker: Walker,
    finisher: Finisher,
    at_start: Contents,
    out: Vec<u8>,
    flushed: bool,
}

/// A key that is watched.
struct Watched {
    db: usize,
    key: Vec<u8>,
    ticket: Ticket,
    before: Option<Content>,
}

struct World<'a> {
    generator: Generator<Bytes<'a>>,
    node: Node,
    /// What is replicated goes there. A replica that may be written to replicates nothing.
    copy: Option<Node>,
    now: u64,
    snapshot: Option<Snapshot>,
    watched: Option<Watched>,
}

pub fn check(data: &[u8]) {
    let mut bytes = Bytes(data);
    let flags = bytes.byte();
    // They are those of the process. Tests that run at the same time find other forms of values, not other contents.
    if flags & DEFAULT_LIMITS == DEFAULT_LIMITS { Limits::default() } else { SMALL }.make_current();
    let protocol = if flags & RESP3 == 0 { Protocol::Resp2 } else { Protocol::Resp3 };
    let is_replica = flags & WRITABLE_REPLICA != 0;
    let mode = if is_replica { ExpiryMode::Hide } else { ExpiryMode::Delete };
    let node = |mode, seed| {
        let mut node = Node::new(mode, protocol, seed);
        node.settings.max_bulk = 1 << 16;
        node
    };
    let mut world = World {
        generator: Generator::new(bytes),
        node: node(mode, 1),
        copy: (!is_replica).then(|| node(ExpiryMode::Ignore, 2)),
        now: 1_900_000_000_000,
        snapshot: None,
        watched: None,
    };
    world.begin();
    for step in 1..=STEPS {
        if world.generator.source.0.is_empty() {
            break;
        }
        world.step();
        if step % ROUND == 0 {
            world.compare();
        }
    }
    world.finish();
}

impl World<'_> {
    fn begin(&mut self) {
        for line in BEGINNING.lines().filter(|line| !line.is_empty()) {
            let command: Vec<_> = line.split_whitespace().map(|word| word.as_bytes().to_vec()).collect();
            self.execute(&command);
        }
    }

    /// What was replicated has made an equal copy.
    fn compare(&self) {
        if let Some(copy) = &self.copy {
            assert_eq!(contents(&copy.keyspace), contents(&self.node.keyspace), "a copy is the same");
        }
    }

    fn step(&mut self) {
        let source = &mut self.generator.source;
        match source.below(28) {
            0 => self.now += source.pick(&[1, 1000, 20_000_000, 10_000_000_000]),
            1 => self.expire(),
            2 => self.read_while_expired_keys_are_hidden(),
            3 => self.work_at_snapshot(),
            4 => self.watch(),
            5 => self.node.db = source.pick(&[0, 0, 0, 1, 3]),
            6 => {
                let frequency = Tracking::Frequency { log_factor: 1, decay_minutes: 1 };
                self.node.keyspace.track(source.pick(&[Tracking::Off, Tracking::Recency, frequency]));
            }
            7 => self.evict(),
            8 | 9 => self.grow(),
            10 => self.shrink(),
            11..15 => self.anything(),
            _ => {
                let command = self.generator.next(self.now);
                self.execute(&command);
            }
        }
    }

    fn execute(&mut self, command: &[Vec<u8>]) {
        if *TRACE {
            eprintln!("{} [{}] {}", self.now, self.node.db, words(command));
        }
        let name = command[0].to_ascii_lowercase();
        if let Some(snapshot) = &mut self.snapshot {
            snapshot.flushed |= [&b"flushall"[..], b"flushdb", b"swapdb"].contains(&&*name);
        }
        let (reply, effects) = self.node.execute(command, self.now);
        if *TRACE {
            eprintln!("    {reply:?}");
        }
        self.replicate(&effects);
    }

    fn replicate(&mut self, effects: &[Effect]) {
        let Some(copy) = &mut self.copy else { return };
        for effect in effects {
            if *TRACE {
                eprintln!("    => [{}] {}", effect.0, words(&effect.1));
            }
            copy.apply(effect, self.now).expect("what is replicated works elsewhere");
        }
    }

    fn expire(&mut self) {
        let budget = self.generator.source.below(200);
        self.node.keyspace.expire_cycle(self.now, budget);
        let effects = self.node.take_expired();
        self.replicate(&effects);
    }

    /// As at a master whose writes are held.
    fn read_while_expired_keys_are_hidden(&mut self) {
        let command = self.generator.next(self.now);
        let spec = table::lookup(&command[0]).expect("templates have commands");
        if spec.flags.contains(Flags::READONLY) {
            let (mode, before) = (self.node.keyspace.expiry_mode(), contents(&self.node.keyspace));
            self.node.keyspace.set_expiry_mode(ExpiryMode::Hide);
            let (_, effects) = self.node.execute(&command, self.now);
            assert!(effects.is_empty(), "{} replicates {effects:?}", spec.name);
            assert_eq!(contents(&self.node.keyspace), before, "{} changes data", spec.name);
            self.node.keyspace.set_expiry_mode(mode);
        }
    }

    fn work_at_snapshot(&mut self) {
        let budget = self.generator.source.below(2000);
        let Some(mut snapshot) = self.snapshot.take() else {
            let at_start = contents(&self.node.keyspace);
            let walker = Walker::start(&mut self.node.keyspace, &Aux::default());
            let finisher = Finisher::new(Format::default());
            self.snapshot = Some(Snapshot { walker, at_start, finisher, out: Vec::new(), flushed: false });
            return;
        };
        let outcome = snapshot.walker.step(&mut self.node.keyspace, budget);
        snapshot.out.extend(snapshot.finisher.finish(snapshot.walker.take_output(), false));
        match outcome {
            Ok(false) => self.snapshot = Some(snapshot),
            Ok(true) => {
                snapshot.out.extend(snapshot.finisher.end());
                let empty = Keyspace::new(DATABASES);
                let loaded = load(snapshot.out.as_slice(), empty).expect("a snapshot is read");
                assert_eq!(contents(&loaded.keyspace), snapshot.at_start, "the moment that it began");
            }
            Err(error) => assert!(snapshot.flushed, "{error}"),
        }
    }

    fn watch(&mut self) {
        self.end_watch();
        let key = self.generator.value("k").into_bytes();
        let (db, at) = (self.node.db, At { db: self.node.db, now: self.now });
        let ticket = self.node.keyspace.watch(at, &key);
        self.watched = Some(Watched { db, ticket, before: self.visible(at, &key), key });
    }

    fn end_watch(&mut self) {
        let Some(Watched { db, key, ticket, before }) = self.watched.take() else { return };
        let at = At { db, now: self.now };
        let changed = self.node.keyspace.changed_since(at, &key, ticket);
        assert!(changed || self.visible(at, &key) == before, "{} changed unnoticed", key.escape_ascii());
        self.node.keyspace.unwatch(db, &key);
    }

    fn visible(&self, at: At, key: &[u8]) -> Option<Content> {
        self.node.keyspace.peek(at, key).map(|entry| entry.value.into())
    }

    fn evict(&mut self) {
        let policies = ["allkeys-lru", "allkeys-lfu", "allkeys-random", "volatile-ttl", "volatile-lru"];
        let policy = Policy::named(self.generator.source.pick(&policies)).expect("a policy's name");
        let evicted = self.node.keyspace.evict(policy, 5, self.now, &mut Pool::default());
        if let Some((db, key)) = evicted {
            self.replicate(&[(db, vec![b"DEL".to_vec(), key.into()])]);
        }
    }

    /// Adds elements, enough of them to take a value from one form to another.
    fn grow(&mut self) {
        let source = &mut self.generator.source;
        let name = source.pick(&["RPUSH", "LPUSH", "SADD", "HSET", "ZADD", "APPEND"]);
        let counts = if Limits::current() == SMALL { [3, 7, 15, 40] } else { [3, 40, 129, 513] };
        let (count, from) = (source.pick(&counts), source.below(100));
        let len = if count > 200 { source.pick(&[0, 9]) } else { source.pick(&[0, 10, 64, 65]) };
        let key = match name {
            "SADD" => "e",
            "HSET" => "h",
            "ZADD" => "z",
            "APPEND" => "s",
            _ => "l",
        };
        let mut command = vec![name.into(), self.generator.value(key).into_bytes()];
        for number in from..from + if name == "APPEND" { 1 } else { count } {
            let element = if len == 0 { number.to_string() } else { format!("{number:x>len$}") };
            match name {
                "HSET" => command.extend([element.clone().into(), element.into()]),
                "ZADD" => command.extend([(number % 50).to_string().into(), element.into()]),
                _ => command.push(element.into()),
            }
        }
        self.execute(&command);
    }

    fn shrink(&mut self) {
        let source = &mut self.generator.source;
        let (name, kind) = source.pick(&[
            ("SPOP", "e"),
            ("LTRIM", "l"),
            ("ZREMRANGEBYRANK", "z"),
            ("ZPOPMAX", "z"),
            ("LPOP", "l"),
        ]);
        let (few, many) = (source.below(8), source.below(600));
        let mut command = vec![name.into(), self.generator.value(kind).into_bytes()];
        match name {
            "SPOP" | "ZPOPMAX" | "LPOP" => command.push(many.to_string().into()),
            _ => command.extend([few.to_string().into(), (-(few as i64)).to_string().into()]),
        }
        self.execute(&command);
    }

    /// Any command with arguments that need not fit.
    fn anything(&mut self) {
        let spec = self.generator.source.pick(&SPECS);
        let mut command = vec![spec.name.into()];
        for index in 0..self.generator.source.below(9) {
            let kind = self.generator.source.below(if index == 0 { 4 } else { 12 });
            let argument = match kind {
                0 | 1 => self.generator.value("k"),
                2 => self.generator.value("c"),
                3 | 4 => self.generator.value("f"),
                5 => self.generator.value("v"),
                6 => self.generator.value("x"),
                _ => self.generator.source.pick(ANY).into(),
            };
            command.push(argument.into());
        }
        self.execute(&command);
    }

    fn finish(mut self) {
        self.end_watch();
        while self.snapshot.is_some() {
            self.generator.source.0 = &[1, 255, 255];
            self.work_at_snapshot();
        }
        self.compare();
        let all = contents(&self.node.keyspace);
        content::check(&self.node.keyspace);
        let bytes = snapshot(&self.node.keyspace, &Aux::default());
        let empty = Keyspace::new(DATABASES);
        let loaded = load(bytes.as_slice(), empty).expect("what was written is read").keyspace;
        assert_eq!(contents(&loaded), all, "a snapshot is what it is made of");
        if let Some(mut copy) = self.copy {
            content::check(&copy.keyspace);
            empty_by_commands(&mut copy, &all, self.now);
        }
        for (db, key) in all.keys() {
            self.node.keyspace.set_expiry_mode(ExpiryMode::Ignore);
            assert!(self.node.keyspace.remove(At { db: *db, now: self.now }, key));
        }
        check_empty(&self.node);
    }
}

/// Takes values apart until nothing is left of them.
fn empty_by_commands(node: &mut Node, all: &Contents, now: u64) {
    for ((db, key), (content, _)) in all {
        let name: &[u8] = match content {
            Content::Str(_) => b"GETDEL",
            Content::List(_) => b"RPOP",
            Content::Set(_) => b"SREM",
            Content::Hash(_) => b"HDEL",
            Content::ZSet(_) => b"ZREM",
        };
        let mut command = vec![name.to_vec(), key.clone()];
        match content {
            Content::Str(_) => {}
            Content::List(items) => command.push(items.len().to_string().into()),
            Content::Set(members) => command.extend(members.iter().cloned()),
            Content::Hash(fields) => command.extend(fields.keys().cloned()),
            Content::ZSet(members) => command.extend(members.keys().cloned()),
        }
        node.apply(&(*db, command), now).expect("what is there can be taken out");
    }
    check_empty(node);
}

fn check_empty(node: &Node) {
    let expiring: usize = (0..DATABASES).map(|db| node.keyspace.expiring_len(db)).sum();
    let left = (node.keyspace.total(), expiring, node.keyspace.used_memory());
    assert_eq!(left, (0, 0, 0), "keys, keys that expire and bytes that are left when all is gone");
}

/// Choices by chance, always the same ones.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut random = fastrand::Rng::with_seed(1);
    let mut input = |flags: u8| {
        std::iter::once(flags).chain((0..usize::from(flags) * 40).map(|_| random.u8(..))).collect()
    };
    (0..48).map(&mut input).collect()
}
