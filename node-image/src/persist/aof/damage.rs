//! Every cut and every flipped bit: what is loaded is what was written, or a beginning of it after a cut, or nothing.

use std::collections::BTreeMap;

use super::*;
use crate::command::{Args, Ctx, Effects, Handler, Settings, table};
use crate::keyspace::{ExpiryMode, Tracking};
use crate::persist::rdb::tests::content;
use crate::resp::{Protocol, Reply};

const OPTIONS: LoadOptions = LoadOptions { databases: 2, tracking: Tracking::Off, truncate: true };

/// What was loaded, in a form that can be compared: the data, the offset, and the epoch.
type Loaded = (BTreeMap<(usize, String), (String, u64)>, u64, Epoch);

/// What stands in the first incr file, a line a command. All is short: each bit of it costs a test.
const FIRST: &[&str] =
    &["SET s 1 PX 9000000000000", "RPUSH l a", "HSET h f v", "SADD m x", "ZADD z 1.5 n", "DEL b"];

/// What stands in the last one. What is between MULTI and EXEC is one command.
const LAST: &[&str] = &[
    "LPOP l",
    "PEXPIREAT s 9000000000001",
    "MULTI|HSET h g w|ZADD z 7 o|EXEC",
    "SELECT 1",
    "SADD m 17",
    "APPEND s 23",
];

/// Bytes of a line with a checksum.
const SEAL: u64 = 18;

/// A node that executes commands.
struct Node {
    keyspace: Keyspace,
    db: usize,
}

impl Node {
    fn apply(&mut self, args: &[&[u8]]) -> Result<(), String> {
        let args = Args::new(args);
        if args.is(0, "select") {
            self.db = args.integer(1).ok().and_then(|db| usize::try_from(db).ok()).ok_or("no database")?;
            return if self.db < 2 { Ok(()) } else { Err("no such database".into()) };
        }
        let handler = table::lookup(args.at(0)).map(|spec| spec.handler);
        let Some(Handler::Data(handler)) = handler else { return Err("no such command".into()) };
        self.keyspace.set_expiry_mode(ExpiryMode::Ignore);
        let (mut reply, mut effects) = (Vec::new(), Effects::default());
        let settings = Settings { max_bulk: 1 << 20, cluster_enabled: false, databases: 2 };
        let ctx = &mut Ctx {
            keyspace: &mut self.keyspace,
            db: self.db,
            now: 1,
            reply: Reply::new(&mut reply, Protocol::Resp2),
            effects: &mut effects,
            random: &mut fastrand::Rng::with_seed(1),
            settings: &settings,
        };
        handler(ctx, args).map_err(|error| error.to_string())
    }
}

fn resp(line: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for command in line.split('|') {
        let words: Vec<_> = command.split(' ').collect();
        bytes.extend(format!("*{}\r\n", words.len()).bytes());
        words.iter().for_each(|word| bytes.extend(format!("${}\r\n{word}\r\n", word.len()).bytes()));
    }
    bytes
}

fn location(dir: &Path) -> AofLocation {
    AofLocation::new(dir, "aof", "log")
}

fn load_all(dir: &Path) -> Result<(Loaded, LoadedAof), LoadError> {
    let mut node = None;
    let loaded = load(&location(dir), OPTIONS, |step| match step {
        Step::Base(keyspace) => {
            node = Some(Node { keyspace: *keyspace, db: 0 });
            Ok(())
        }
        Step::Read(_) => Ok(()),
        Step::Command(args) => node.as_mut().ok_or("a command without a base")?.apply(args),
    })?;
    let (loaded, node) = loaded.zip(node).expect("there is an append-only file");
    Ok(((content(&node.keyspace), loaded.offset, loaded.write_epoch), loaded))
}

/// An append-only file in a directory, and what it holds.
struct Sample {
    dir: tempfile::TempDir,
    /// After each step of [`LAST`]: the length of its file, and what is loaded.
    states: Vec<(u64, Loaded)>,
}

/// In memory where that is possible: it is written and loaded many thousand times.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// A base, an incr file that is complete, and one that is written. Each command is a write of its own.
fn sample() -> Sample {
    let dir = directory();
    let mut node = Node { keyspace: Keyspace::new(2), db: 0 };
    for line in ["SET b 1", "RPUSH l 0", "SET o 2 PXAT 9000000000002", "ZADD z 3 p"] {
        let words: Vec<_> = line.split(' ').map(str::as_bytes).collect();
        node.apply(&words).unwrap();
    }
    let aux = Aux { repl_offset: Some(1000), write_epoch: Some(Epoch(3)), ..Aux::default() };
    let policy = FsyncPolicy::Always;
    let mut aof =
        Aof::create(location(dir.path()), policy, &node.keyspace, &aux, SaveOptions::default()).unwrap();
    let write = |aof: &mut Aof, bytes: &[u8]| {
        aof.append(bytes);
        aof.flush(Instant::now()).unwrap();
    };
    FIRST.iter().for_each(|line| write(&mut aof, &resp(line)));
    aof.start_rewrite(&mut node.keyspace, &aux).unwrap();
    let state = || {
        let len = std::fs::metadata(dir.path().join("aof/log.2.incr.aof")).unwrap().len();
        (len, load_all(dir.path()).unwrap().0)
    };
    let mut states = vec![state()];
    aof.append_write_epoch(Epoch(4));
    aof.flush(Instant::now()).unwrap();
    states.push(state());
    for line in LAST {
        write(&mut aof, &resp(line));
        states.push(state());
    }
    aof.cancel_rewrite(&mut node.keyspace);
    drop(aof);
    let files = std::fs::read_dir(dir.path().join("aof")).unwrap();
    files
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().contains("temp-"))
        .for_each(
            // The thread of the rewrite removes it, too.
            |path| drop(std::fs::remove_file(path)),
        );
    Sample { dir, states }
}

impl Sample {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("aof").join(name)
    }

    fn whole(&self) -> &Loaded {
        &self.states.last().unwrap().1
    }

    /// Loads with other bytes in place of a file's.
    fn load_with(&self, name: &str, bytes: &[u8]) -> Result<(Loaded, LoadedAof), String> {
        std::fs::write(self.path(name), bytes).unwrap();
        load_all(self.dir.path()).map_err(|error| {
            let text = error.to_string();
            let place = ["at byte ", "line ", "bytes long"].iter().any(|place| text.contains(place));
            assert!(text.contains(name) && place, "it does not say where: {text}");
            text
        })
    }

    fn flip_every_bit(&self, name: &str) {
        let good = std::fs::read(self.path(name)).unwrap();
        let mut refused = 0;
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bytes = good.clone();
                bytes[at] ^= 1 << bit;
                match self.load_with(name, &bytes) {
                    Err(_) => refused += 1,
                    Ok((found, _)) => assert_eq!(&found, self.whole(), "{name}, byte {at}, bit {bit}"),
                }
            }
        }
        std::fs::write(self.path(name), &good).unwrap();
        assert_eq!(&load_all(self.dir.path()).unwrap().0, self.whole(), "the sample is as it was");
        assert!(refused > good.len(), "{name}: {refused} of {} flipped bits were found", good.len() * 8);
    }
}

#[test]
fn no_flipped_bit_of_the_last_incr_file_changes_the_data() {
    sample().flip_every_bit("log.2.incr.aof");
}

#[test]
fn no_flipped_bit_of_another_file_changes_the_data() {
    let sample = sample();
    for name in ["log.manifest", "log.1.base.rdb", "log.1.incr.aof"] {
        sample.flip_every_bit(name);
    }
}

#[test]
fn a_cut_of_any_file_but_the_last_is_refused() {
    let sample = sample();
    for name in ["log.manifest", "log.1.base.rdb", "log.1.incr.aof"] {
        let good = std::fs::read(sample.path(name)).unwrap();
        for len in 0..good.len() {
            let outcome = sample.load_with(name, &good[..len]);
            assert!(outcome.is_err(), "{name}, cut at {len}");
        }
        std::fs::write(sample.path(name), &good).unwrap();
    }
}

#[test]
fn a_cut_of_the_last_file_leaves_what_was_complete_and_is_gone_on_with() {
    let sample = sample();
    let name = "log.2.incr.aof";
    let good = std::fs::read(sample.path(name)).unwrap();
    for len in 0..=good.len() {
        // A command is complete without its checksum.
        let complete = |end: u64| end.saturating_sub(SEAL) <= len as u64;
        let (_, expected) = sample.states.iter().rfind(|(end, _)| complete(*end)).unwrap();
        let (found, loaded) = sample.load_with(name, &good[..len]).unwrap();
        assert_eq!(&found, expected, "cut at {len}");
        let mut aof = Aof::resume(location(sample.dir.path()), FsyncPolicy::No, loaded).unwrap();
        aof.append(&resp("SELECT 1|SET after cut"));
        aof.close().unwrap();
        let (after, loaded) = load_all(sample.dir.path()).unwrap();
        assert_eq!(after.0[&(1, "after".into())].0, "cut", "cut at {len}");
        assert_eq!((after.0.len(), loaded.cut), (found.0.len() + 1, None), "cut at {len}");
        assert_eq!(loaded.checksum.bytes(), 0, "cut at {len}: all of it is sealed");
    }
}

#[test]
fn zeros_in_place_of_the_end_are_cut_off_as_if_the_file_ended_there() {
    let sample = sample();
    let name = "log.2.incr.aof";
    let good = std::fs::read(sample.path(name)).unwrap();
    for from in 0..good.len() {
        let mut bytes = good.clone();
        bytes[from..].fill(0);
        let complete = |end: u64| end.saturating_sub(SEAL) <= from as u64;
        let (_, expected) = sample.states.iter().rfind(|(end, _)| complete(*end)).unwrap();
        let (found, loaded) = sample.load_with(name, &bytes).unwrap();
        assert_eq!((&found, loaded.cut.is_some()), (expected, true), "zeros from {from}");
        // Anywhere else they are damage.
        bytes.push(b'*');
        assert!(sample.load_with(name, &bytes).is_err(), "zeros from {from}");
    }
}
