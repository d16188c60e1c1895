//! A node that is killed (SIGKILL), or whose file system fails, at random moments keeps what it acknowledged.
//!
//! Several writers send commands of all types, transactions, expiries and deletions; meanwhile the append-only file is
//! rewritten and snapshots are saved. After each restart, what each writer finds must be its own state after one of its
//! steps, and none that is too early:
//!
//! - `always`: no acknowledged step is missing;
//! - `everysec`: none that was acknowledged more than 2 s before the kill, and twice as long as the disk took to sync;
//! - `no`: none either. A kill leaves what was handed to the system.
//!
//! A file system that fails is as a machine that crashes: what was not synced is lost, too.
//!
//! `KV_CRASH_ROUNDS` sets how often it is killed, `KV_CRASH_SEED` replays the choices (not the scheduling).
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod model;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use model::{Entry, Model, Step, Value, draw, is_short_lived};
use redis::{Connection, RedisResult};
use support::volume::Volume;
use support::{Process, Run};

const WRITERS: usize = 4;

/// What `everysec` may lose.
const EVERYSEC: Duration = Duration::from_secs(2);

/// Between a look at the clock here and one there, in milliseconds.
const CLOCK_SLACK: u64 = 100;

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// One client that writes keys of its own, in a database that it shares with others.
struct Writer {
    name: String,
    db: usize,
    random: fastrand::Rng,
    number: u64,
    /// After the last restart.
    model: Model,
    /// What was sent since then, and when it was acknowledged.
    sent: Vec<(Step, Option<Instant>)>,
}

impl Writer {
    fn new(index: usize, seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed ^ index as u64);
        let (model, sent) = (Model::default(), Vec::new());
        Self { name: format!("w{index}"), db: index % 2, random, number: 0, model, sent }
    }

    fn connect(&self, node: &Process) -> Connection {
        let mut connection = node.connect();
        let () = connection.run(&["SELECT", &self.db.to_string()]).unwrap();
        connection
    }

    /// Writes until the connection breaks, in batches as long as the node likes to read at once.
    fn write(&mut self, mut connection: Connection, acknowledged: &AtomicBool) {
        while self.write_batch(&mut connection).is_ok() {
            acknowledged.store(true, Ordering::Relaxed);
        }
    }

    fn write_batch(&mut self, connection: &mut Connection) -> RedisResult<()> {
        let first = self.sent.len();
        let mut packed = Vec::new();
        for _ in 0..self.random.usize(1..8) {
            self.number += 1;
            let step = draw(&mut self.random, &self.name, self.number, now_ms());
            packed.extend(requests(&step).iter().flat_map(redis::Cmd::get_packed_command));
            self.sent.push((step, None));
        }
        connection.send_packed_command(&packed)?;
        for index in first..self.sent.len() {
            for _ in requests(&self.sent[index].0) {
                if let redis::Value::ServerError(error) = connection.recv_response()? {
                    assert_eq!(error.code(), "MISCONF", "{:?}: {error:?}", self.sent[index].0);
                    return Err(error.into());
                }
            }
            self.sent[index].1 = Some(Instant::now());
        }
        Ok(())
    }

    /// Compares what the node holds with what may be there. Returns how many acknowledged steps are missing, and how
    /// many are there that were not acknowledged.
    fn check(&mut self, node: &Process, struck: Instant, bound: Duration) -> (usize, usize) {
        let mut connection = self.connect(node);
        let from = now_ms();
        let found = read_all(&mut connection, &format!("{}:*", self.name));
        let read = (from, now_ms());
        let acknowledged = self.sent.iter().rposition(|(_, at)| at.is_some()).map_or(0, |last| last + 1);
        let least = self.sent.iter().rposition(|(_, at)| at.is_some_and(|at| at + bound <= struck));
        let least = least.map_or(0, |last| last + 1);
        let mut model = std::mem::take(&mut self.model);
        let mut kept = None;
        for count in 0..=self.sent.len() {
            if count > 0 {
                model.apply(&self.sent[count - 1].0);
            }
            // The latest that fits: a step that changes nothing leaves no trace.
            if fits(&model, &found, read) {
                kept = Some((count, model.clone()));
            }
        }
        let Some((kept, mut model)) = kept else {
            panic!("{}: the state after none of {} steps: {found:#?}", self.name, self.sent.len());
        };
        assert!(
            kept >= least,
            "{}: {kept} of {} steps are there, but {acknowledged} were acknowledged, and {least} must be there: {:#?}",
            self.name,
            self.sent.len(),
            &self.sent[kept..]
        );
        model.expire(from);
        self.model = model;
        self.sent.clear();
        (acknowledged.saturating_sub(kept), kept.saturating_sub(acknowledged))
    }
}

fn requests(step: &Step) -> Vec<redis::Cmd> {
    let command = |words: &[String]| {
        let mut command = redis::cmd(&words[0]);
        command.arg(&words[1..]);
        command
    };
    let mut all: Vec<_> = step.iter().map(|words| command(words)).collect();
    if all.len() > 1 {
        all.insert(0, redis::cmd("MULTI"));
        all.push(redis::cmd("EXEC"));
    }
    all
}

/// Whether a node may show this in that state. A key that expired while it was read may be there or not.
fn fits(model: &Model, found: &BTreeMap<String, Entry>, (from, to): (u64, u64)) -> bool {
    let certain = |key: &String, entry: &Entry| {
        !is_short_lived(key) || entry.expires.is_some_and(|at| at > to + CLOCK_SLACK)
    };
    let expected = model.0.iter().filter(|(key, entry)| certain(key, entry));
    let mut expected = expected.collect::<BTreeMap<_, _>>();
    found.iter().all(|(key, entry)| match expected.remove(key) {
        Some(known) => known == entry,
        None => model
            .0
            .get(key)
            .is_some_and(|known| known == entry && entry.expires.is_some_and(|at| at + CLOCK_SLACK > from)),
    }) && expected.is_empty()
}

fn read_all(connection: &mut Connection, pattern: &str) -> BTreeMap<String, Entry> {
    let keys: Vec<String> = connection.run(&["KEYS", pattern]).unwrap();
    keys.into_iter().filter_map(|key| Some((read(connection, &key)?, key))).map(|(e, k)| (k, e)).collect()
}

/// A key; nothing if it expired meanwhile.
fn read(connection: &mut Connection, key: &str) -> Option<Entry> {
    let kind: String = connection.run(&["TYPE", key]).unwrap();
    let value = match kind.as_str() {
        "none" => return None,
        "string" => Value::String(connection.run::<Option<String>>(&["GET", key]).unwrap()?),
        "list" => Value::List(connection.run::<Vec<String>>(&["LRANGE", key, "0", "-1"]).unwrap().into()),
        "hash" => Value::Hash(connection.run(&["HGETALL", key]).unwrap()),
        "set" => Value::Set(connection.run(&["SMEMBERS", key]).unwrap()),
        "zset" => Value::Zset(connection.run(&["ZRANGE", key, "0", "-1", "WITHSCORES"]).unwrap()),
        other => panic!("{key} is a {other}"),
    };
    match connection.run::<i64>(&["PEXPIRETIME", key]).unwrap() {
        -2 => None,
        -1 => Some(Entry { value, expires: None }),
        at => Some(Entry { value, expires: Some(at as u64) }),
    }
}

/// Syncs a file again and again; returns how long it took at most.
fn slowest_sync(dir: &Path, over: &AtomicBool) -> Duration {
    let mut slowest = Duration::ZERO;
    while !over.load(Ordering::Relaxed) {
        let start = Instant::now();
        // In the end the disk may have failed.
        let _ = File::create(dir.join("probe"))
            .and_then(|mut file| file.write_all(b"x").and_then(|()| file.sync_all()));
        slowest = slowest.max(start.elapsed());
        std::thread::sleep(Duration::from_millis(50)); // it is not to keep the disk busy itself
    }
    slowest
}

/// Lets all write, with snapshots and rewrites at random moments, and strikes at another, which is up to `most`
/// milliseconds later. Returns up to when what was acknowledged counts, and how long the disk took to sync.
fn write_until_struck(
    node: &mut Process,
    disk: Option<&Volume>,
    writers: &mut [Writer],
    random: &mut fastrand::Rng,
    most: u64,
) -> (Instant, Duration) {
    let acknowledged: Vec<_> = writers.iter().map(|_| AtomicBool::new(false)).collect();
    let dir = disk.map_or(node.dir.path(), Volume::path).to_path_buf();
    let over = &AtomicBool::new(false);
    let connections: Vec<_> = writers.iter().map(|writer| writer.connect(node)).collect();
    let mut control = node.connect();
    // Nothing in here may panic before the node is killed: the writers would go on for ever.
    let (struck, failed, slowest) = std::thread::scope(|scope| {
        let slowest = scope.spawn(move || slowest_sync(&dir, over));
        for ((writer, connection), acknowledged) in writers.iter_mut().zip(connections).zip(&acknowledged) {
            scope.spawn(move || writer.write(connection, acknowledged));
        }
        let patience = Instant::now() + Duration::from_secs(30);
        while !acknowledged.iter().all(|flag| flag.load(Ordering::Relaxed)) && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(1)); // poll interval
        }
        let end = Instant::now() + Duration::from_millis(random.u64(..most));
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            let wait = Duration::from_millis(random.u64(..100));
            std::thread::sleep(wait.min(left)); // the moment is what is drawn
            let command = random.choice(["BGREWRITEAOF", "BGSAVE", "PING"]).unwrap();
            let _ = control.run::<redis::Value>(&[command]); // one may be under way
        }
        // While ext4 gives up, fdatasync may report success for what is lost (seen on Linux 6.18).
        let before = Instant::now();
        let failed = disk.map_or(Ok(()), Volume::fail);
        node.kill();
        over.store(true, Ordering::Relaxed);
        (if disk.is_some() { before } else { Instant::now() }, failed, slowest.join())
    });
    failed.unwrap();
    assert!(acknowledged.iter().all(|flag| flag.load(Ordering::Relaxed)), "not in time: all have written");
    (struck, slowest.unwrap())
}

/// Whether the snapshot, if one was saved, reads.
fn check_dump(dir: &Path) {
    let dump = dir.join("dump.rdb");
    if dump.exists() {
        let other = tempfile::tempdir().unwrap();
        std::fs::copy(&dump, other.path().join("dump.rdb")).unwrap();
        let reader = Process::node(&["--dir", other.path().to_str().unwrap()]);
        assert!(reader.log().contains("DB loaded from"), "{}", reader.log());
    }
}

fn crash(policy: &str, bound: Duration, mut volume: Option<Volume>) {
    let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (seed, rounds) = (number("KV_CRASH_SEED", fastrand::u64(..)), number("KV_CRASH_ROUNDS", 4));
    let what = if volume.is_some() { format!("{policy}, failing disk") } else { policy.to_owned() };
    println!("KV_CRASH_SEED={seed} ({what})");
    let mut random = fastrand::Rng::with_seed(seed);
    // Small enough that it is rewritten on its own account, too.
    let mut args =
        vec!["--appendonly", "yes", "--appendfsync", policy, "--auto-aof-rewrite-min-size", "200kb"];
    if let Some(volume) = &volume {
        args.extend(["--dir", volume.name()]);
    }
    let mut node = Process::node(&args);
    let mut writers: Vec<_> = (0..WRITERS).map(|index| Writer::new(index, seed)).collect();
    let (mut steps, mut acknowledged, mut lost, mut more) = (0, 0, 0, 0);
    for round in 0..rounds {
        // Long enough now and then that something is to be found which was acknowledged before the bound.
        let most = if random.u8(..3) == 0 { 250 + 2 * bound.as_millis() as u64 } else { 250 };
        let (struck, slowest) =
            write_until_struck(&mut node, volume.as_ref(), &mut writers, &mut random, most);
        let bound = if bound.is_zero() { bound } else { bound + 2 * slowest };
        volume.iter_mut().for_each(Volume::mount_again);
        while random.u8(..4) == 0 {
            // Killed while it loads.
            node.spawn_again();
            std::thread::sleep(Duration::from_millis(random.u64(..200))); // the moment is what is drawn
            node.kill();
        }
        node.restart();
        for writer in &mut writers {
            steps += writer.sent.len();
            acknowledged += writer.sent.iter().filter(|(_, at)| at.is_some()).count();
            let (missing, surplus) = writer.check(&node, struck, bound);
            lost += missing;
            more += surplus;
        }
        if round % 8 == 3 {
            check_dump(volume.as_ref().map_or(node.dir.path(), Volume::path));
        }
    }
    println!(
        "{what}: {rounds} rounds, {steps} steps, {acknowledged} acknowledged, of which {lost} are lost; {more} were \
         kept that were not acknowledged"
    );
}

#[test]
fn always_loses_nothing_acknowledged() {
    crash("always", Duration::ZERO, None);
}

#[test]
fn everysec_loses_no_more_than_two_seconds() {
    crash("everysec", EVERYSEC, None);
}

#[test]
fn no_sync_loses_nothing_to_a_kill() {
    crash("no", Duration::ZERO, None);
}

#[test]
fn always_loses_nothing_to_a_failing_disk() {
    if let Some(volume) = Volume::ext4() {
        crash("always", Duration::ZERO, Some(volume));
    }
}

#[test]
fn everysec_loses_no_more_than_two_seconds_to_a_failing_disk() {
    if let Some(volume) = Volume::ext4() {
        crash("everysec", EVERYSEC, Some(volume));
    }
}
