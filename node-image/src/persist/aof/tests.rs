//! The life of an append-only file on a real disk, and whether Redis agrees.

use std::collections::BTreeMap;

use super::*;
use crate::keyspace::Tracking;
use crate::keyspace::value::Value;
use crate::keyspace::{At, Expire};
use crate::persist::rdb::Format;
use crate::persist::redis::Redis;

const AT: At = At { db: 0, now: 0 };
const OPTIONS: LoadOptions = LoadOptions { databases: 2, tracking: Tracking::Off, truncate: true };

type Content = BTreeMap<String, String>;

/// A node in small: a keyspace and its append-only file.
struct Node {
    keyspace: Keyspace,
    offset: u64,
}

impl Node {
    fn new() -> Self {
        Self { keyspace: Keyspace::new(2), offset: 0 }
    }

    fn aux(&self, epoch: u64) -> Aux {
        Aux { repl_offset: Some(self.offset), write_epoch: Some(Epoch(epoch)), ..Aux::default() }
    }

    fn set(&mut self, aof: &mut Aof, key: &str, value: &str) {
        self.keyspace.insert(AT, key.as_bytes(), Value::string(value.as_bytes()), Expire::Never);
        let stream = resp(&["SET", key, value]);
        self.offset += stream.len() as u64;
        aof.append(&stream);
    }

    fn content(&self) -> Content {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        self.keyspace
            .entries(AT)
            .map(|entry| (text(entry.key), text(entry.value.string().unwrap())))
            .collect()
    }

    fn rewrite(&mut self, aof: &mut Aof, epoch: u64) -> Result<(), AofError> {
        let aux = self.aux(epoch);
        aof.start_rewrite(&mut self.keyspace, &aux)
    }

    fn reset(&mut self, aof: &mut Aof, epoch: u64) {
        let aux = self.aux(epoch);
        aof.reset(&mut self.keyspace, &aux);
    }

    fn finish_rewrite(&mut self, aof: &mut Aof) -> Result<(), AofError> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(outcome) = aof.poll(&mut self.keyspace, 100) {
                return outcome;
            }
            assert!(Instant::now() < deadline, "the rewrite does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn resp(args: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
    args.iter().for_each(|arg| bytes.extend(format!("${}\r\n{arg}\r\n", arg.len()).bytes()));
    bytes
}

fn location(dir: &Path) -> AofLocation {
    AofLocation::new(dir, "appendonlydir", "appendonly.aof")
}

fn load_node(dir: &Path, options: LoadOptions) -> Result<Option<(Node, LoadedAof)>, LoadError> {
    let mut node = Node::new();
    let loaded = load(&location(dir), options, |step| {
        match step {
            Step::Base(keyspace) => node.keyspace.replace_all(*keyspace),
            Step::Command([b"SET", key, value]) => {
                node.keyspace.insert(AT, key, Value::string(value), Expire::Never);
            }
            Step::Command([b"SELECT", ..]) | Step::Read(_) => {}
            Step::Command(other) => return Err(format!("unknown command {other:?}")),
        }
        Ok(())
    })?;
    Ok(loaded.map(|loaded| {
        node.offset = loaded.offset;
        (node, loaded)
    }))
}

fn reload(dir: &Path) -> (Node, LoadedAof) {
    load_node(dir, OPTIONS).unwrap().unwrap()
}

fn start(dir: &Path) -> (Node, Aof) {
    let mut node = Node::new();
    node.offset = 1000;
    let aof =
        Aof::create(location(dir), FsyncPolicy::Always, &node.keyspace, &node.aux(1), SaveOptions::default())
            .unwrap();
    (node, aof)
}

fn files(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir.join("appendonlydir")).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Files are removed by another thread.
fn wait_for_files(dir: &Path, names: &[&str]) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while files(dir) != names {
        assert!(Instant::now() < deadline, "{:?}", files(dir));
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn what_was_appended_is_loaded_and_gone_on_with() {
    let dir = tempfile::tempdir().unwrap();
    assert!(load_node(dir.path(), OPTIONS).unwrap().is_none());
    let (mut node, mut aof) = start(dir.path());
    node.set(&mut aof, "a", "1");
    aof.append_write_epoch(Epoch(5));
    node.set(&mut aof, "b", "2");
    aof.flush(Instant::now()).unwrap();
    drop(aof);

    let (mut node, loaded) = reload(dir.path());
    assert_eq!(node.content(), BTreeMap::from([("a".into(), "1".into()), ("b".into(), "2".into())]));
    assert_eq!((loaded.offset, loaded.write_epoch), (1000 + 54, Epoch(5)));
    let mut aof = Aof::resume(location(dir.path()), FsyncPolicy::No, loaded).unwrap();
    node.set(&mut aof, "b", "3");
    aof.close().unwrap();
    let (after, loaded) = reload(dir.path());
    assert_eq!(after.content(), node.content());
    assert_eq!(loaded.offset, node.offset);
}

#[test]
fn a_rewrite_can_be_interrupted_anywhere() {
    let dir = tempfile::tempdir().unwrap();
    let (mut node, mut aof) = start(dir.path());
    (0..200).for_each(|n| node.set(&mut aof, &format!("k{n}"), "old"));
    node.rewrite(&mut aof, 3).unwrap();
    (0..300).for_each(|n| node.set(&mut aof, &format!("k{n}"), "new"));
    assert!(aof.poll(&mut node.keyspace, 1).is_none());
    aof.flush(Instant::now()).unwrap();
    // As after a crash now.
    let (crashed, loaded) = reload(dir.path());
    assert_eq!(crashed.content(), node.content());
    assert_eq!((loaded.offset, loaded.write_epoch), (node.offset, Epoch(1)));

    node.finish_rewrite(&mut aof).unwrap();
    node.set(&mut aof, "after", "1");
    aof.flush(Instant::now()).unwrap();
    let (after, loaded) = reload(dir.path());
    assert_eq!(after.content(), node.content());
    assert_eq!((loaded.offset, loaded.write_epoch), (node.offset, Epoch(3)));
    wait_for_files(
        dir.path(),
        &["appendonly.aof.2.base.rdb", "appendonly.aof.2.incr.aof", "appendonly.aof.manifest"],
    );
}

#[test]
fn an_aborted_rewrite_is_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (mut node, mut aof) = start(dir.path());
    (0..200).for_each(|n| node.set(&mut aof, &format!("k{n}"), "old"));
    node.rewrite(&mut aof, 1).unwrap();
    node.keyspace.flush_all(true);
    let error = node.finish_rewrite(&mut aof).unwrap_err();
    assert!(matches!(error, AofError::Base(SaveError::Aborted { .. })), "{error}");
    node.rewrite(&mut aof, 1).unwrap();
    node.set(&mut aof, "a", "1");
    node.finish_rewrite(&mut aof).unwrap();
    aof.close().unwrap();
    assert_eq!(reload(dir.path()).0.content(), node.content());
}

#[test]
fn a_reset_shows_the_old_data_until_the_new_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (mut node, mut aof) = start(dir.path());
    node.set(&mut aof, "old", "1");
    aof.flush(Instant::now()).unwrap();
    let old = node.content();
    node.keyspace.flush_all(true);
    node.keyspace.insert(AT, b"synced", Value::string(b"1"), Expire::Never);
    node.offset = 50_000;
    node.reset(&mut aof, 9);
    node.set(&mut aof, "streamed", "1");
    aof.flush(Instant::now()).unwrap();
    assert_eq!(reload(dir.path()).0.content(), old);
    // A FLUSHALL in the stream aborts the new base; only another one brings the data to the disk.
    node.keyspace.flush_all(true);
    assert!(node.finish_rewrite(&mut aof).is_err());
    assert!(aof.rewrite_wanted(Instant::now(), 0, 0));
    node.rewrite(&mut aof, 9).unwrap();
    node.set(&mut aof, "streamed", "2");
    node.finish_rewrite(&mut aof).unwrap();
    aof.flush(Instant::now()).unwrap();
    assert!(!aof.rewrite_wanted(Instant::now(), 0, 0));
    let (after, loaded) = reload(dir.path());
    assert_eq!(after.content(), node.content());
    assert_eq!((loaded.offset, loaded.write_epoch), (node.offset, Epoch(9)));
}

#[test]
fn a_refused_reset_is_an_error_until_a_rewrite_heals_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mut node, mut aof) = start(dir.path());
    let (there, away) = (dir.path().join("appendonlydir"), dir.path().join("away"));
    std::fs::rename(&there, &away).unwrap();
    node.reset(&mut aof, 2);
    node.set(&mut aof, "a", "1");
    assert!(aof.flush(Instant::now()).is_err());
    assert!(node.rewrite(&mut aof, 2).is_err());
    assert!(!aof.rewrite_wanted(Instant::now(), 0, 0), "not at once");
    assert!(aof.rewrite_wanted(Instant::now() + AFTER_FAILURE, 0, 0));
    std::fs::rename(&away, &there).unwrap();
    node.rewrite(&mut aof, 2).unwrap();
    assert!(aof.flush(Instant::now()).is_err(), "until the base is there");
    node.finish_rewrite(&mut aof).unwrap();
    aof.flush(Instant::now()).unwrap();
    assert_eq!(reload(dir.path()).0.content(), node.content());
}

#[test]
fn it_can_be_enabled_while_serving() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::new();
    node.keyspace.insert(AT, b"a", Value::string(b"1"), Expire::Never);
    let aux = node.aux(1);
    let mut aof = Aof::enable(
        location(dir.path()),
        FsyncPolicy::EverySec,
        &mut node.keyspace,
        &aux,
        SaveOptions::default(),
    )
    .unwrap();
    node.set(&mut aof, "b", "2");
    assert!(load_node(dir.path(), OPTIONS).unwrap().is_none());
    node.finish_rewrite(&mut aof).unwrap();
    aof.close().unwrap();
    assert_eq!(reload(dir.path()).0.content(), node.content());
}

#[test]
fn the_first_base_is_written_as_the_directives_say() {
    let mut sizes = Vec::new();
    for compress in [true, false] {
        let options =
            SaveOptions { format: Format { compress, ..Format::default() }, ..SaveOptions::default() };
        let (created, enabled) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut node = Node::new();
        node.keyspace.insert(AT, b"a", Value::string(&[b'x'; 10_000]), Expire::Never);
        let aux = node.aux(1);
        Aof::create(location(created.path()), FsyncPolicy::No, &node.keyspace, &aux, options).unwrap();
        let mut aof =
            Aof::enable(location(enabled.path()), FsyncPolicy::No, &mut node.keyspace, &aux, options)
                .unwrap();
        node.finish_rewrite(&mut aof).unwrap();
        for dir in [created, enabled] {
            let base = files(dir.path()).into_iter().find(|file| file.contains("base")).unwrap();
            sizes.push(std::fs::metadata(dir.path().join("appendonlydir").join(base)).unwrap().len());
        }
    }
    assert!(sizes[..2].iter().all(|size| *size < 1000), "{sizes:?}");
    assert!(sizes[2..].iter().all(|size| *size > 10_000), "{sizes:?}");
}

#[test]
fn it_grows_until_a_rewrite_is_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let (mut node, mut aof) = start(dir.path());
    let now = Instant::now();
    assert!(!aof.rewrite_wanted(now, 100, 1));
    let size = aof.size();
    while aof.size() < 2 * size {
        node.set(&mut aof, "a", "1");
    }
    assert!(aof.rewrite_wanted(now, 100, 1));
    assert!(!aof.rewrite_wanted(now, 100, 1 << 20));
    assert!(!aof.rewrite_wanted(now, 0, 0));
}

fn incr(dir: &Path, seq: u64) -> PathBuf {
    dir.join("appendonlydir").join(format!("appendonly.aof.{seq}.incr.aof"))
}

#[test]
fn a_torn_tail_is_cut_and_a_broken_middle_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (mut node, mut aof) = start(dir.path());
    node.set(&mut aof, "a", "1");
    aof.close().unwrap();
    let path = incr(dir.path(), 1);
    let whole = std::fs::read(&path).unwrap();
    // What was not written before a crash may be zeros. Who wants no file mended is told the same.
    for tail in [&[0; 5][..], b"*1\r\n$4\r\nPING\r\0"] {
        std::fs::write(&path, [&whole, tail].concat()).unwrap();
        let strict = load_node(dir.path(), LoadOptions { truncate: false, ..OPTIONS }).err().unwrap();
        assert!(strict.to_string().contains("at byte 45: the file ends inside"), "{strict}");
        assert_eq!(reload(dir.path()).1.cut.map(|cut| cut.bytes), Some(tail.len() as u64));
    }
    let half = [resp(&["MULTI"]), resp(&["SET", "half", "1"])].concat();
    std::fs::write(&path, [whole.as_slice(), &half].concat()).unwrap();

    let strict = load_node(dir.path(), LoadOptions { truncate: false, ..OPTIONS }).err().unwrap().to_string();
    assert!(strict.contains("appendonly.aof.1.incr.aof, at byte 45: the file ends inside"), "{strict}");
    let (after, loaded) = reload(dir.path());
    assert_eq!(after.content(), node.content());
    assert_eq!(loaded.cut, Some(CutTail { path: path.clone(), offset: 45, bytes: 15 + 30 }));
    assert_eq!(loaded.offset, node.offset);
    assert_eq!(reload(dir.path()).1.cut, None);

    let mut bytes = std::fs::read(&path).unwrap();
    bytes.extend(b"garbage");
    std::fs::write(&path, &bytes).unwrap();
    let error = load_node(dir.path(), OPTIONS).err().unwrap().to_string();
    assert!(error.contains("appendonly.aof.1.incr.aof, at byte 45: neither a command"), "{error}");
}

#[test]
fn only_the_last_file_may_be_torn() {
    let dir = tempfile::tempdir().unwrap();
    let (mut node, mut aof) = start(dir.path());
    node.set(&mut aof, "a", "1");
    node.rewrite(&mut aof, 1).unwrap();
    drop(aof);
    let first = incr(dir.path(), 1);
    let len = std::fs::metadata(&first).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&first).unwrap().set_len(len - 1).unwrap();
    assert!(matches!(load_node(dir.path(), OPTIONS), Err(LoadError::Length { .. })));
}

#[test]
fn a_lost_manifest_is_not_an_empty_node() {
    let dir = tempfile::tempdir().unwrap();
    let (mut node, mut aof) = start(dir.path());
    let manifest = location(dir.path()).manifest_path();
    let text = std::fs::read(&manifest).unwrap();
    std::fs::remove_file(&manifest).unwrap();
    assert!(load_node(dir.path(), OPTIONS).unwrap().is_none(), "a creation that was interrupted");
    node.set(&mut aof, "a", "1");
    aof.close().unwrap();
    let error = load_node(dir.path(), OPTIONS).err().unwrap().to_string();
    assert!(error.contains("appendonly.aof.manifest is missing"), "{error}");
    std::fs::write(&manifest, [&text[..], b"nonsense\n"].concat()).unwrap();
    let error = load_node(dir.path(), OPTIONS).err().unwrap().to_string();
    assert!(error.contains("appendonly.aof.manifest is corrupt: line 1: the checksum"), "{error}");
}

#[test]
fn redis_reads_our_files_and_we_read_its() {
    let dir = tempfile::tempdir().unwrap();
    let (mut node, mut aof) = start(dir.path());
    node.set(&mut aof, "a", "1");
    node.rewrite(&mut aof, 1).unwrap();
    node.set(&mut aof, "b", "2");
    node.finish_rewrite(&mut aof).unwrap();
    aof.append_write_epoch(Epoch(4));
    node.set(&mut aof, "c", "3");
    aof.close().unwrap();

    let args = ["--appendonly", "yes", "--aof-timestamp-enabled", "yes"];
    let Some(mut redis) = Redis::start(dir.path(), &args) else { return };
    for (command, reply) in [("DBSIZE", ":3"), ("GET b", "2"), ("SET d 4", "+OK"), ("SET c 5", "+OK")] {
        assert_eq!(redis.ask(command), reply, "{command}");
    }
    redis.stop();

    node.keyspace.insert(AT, b"c", Value::string(b"5"), Expire::Never);
    node.keyspace.insert(AT, b"d", Value::string(b"4"), Expire::Never);
    let (after, loaded) = reload(dir.path());
    assert_eq!(after.content(), node.content());
    assert_eq!(loaded.write_epoch, Epoch(4));
}

#[test]
fn redis_reads_what_an_interrupted_rewrite_leaves_and_adds_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mut node, mut aof) = start(dir.path());
    node.set(&mut aof, "a", "1");
    node.rewrite(&mut aof, 1).unwrap();
    aof.cancel_rewrite(&mut node.keyspace);
    node.set(&mut aof, "b", "2");
    aof.close().unwrap();
    let manifest = std::fs::read_to_string(location(dir.path()).manifest_path()).unwrap();
    assert!(manifest.contains("appendonly.aof.1.incr.aof seq 1 type i len 45\n"), "{manifest}");
    let args = ["--appendonly", "yes", "--auto-aof-rewrite-percentage", "0"];
    let Some(mut redis) = Redis::start(dir.path(), &args) else { return };
    for (command, reply) in [("DBSIZE", ":2"), ("GET b", "2"), ("SET c 3", "+OK")] {
        assert_eq!(redis.ask(command), reply, "{command}");
    }
    redis.stop();

    node.keyspace.insert(AT, b"c", Value::string(b"3"), Expire::Never);
    let (mut after, loaded) = reload(dir.path());
    assert_eq!(after.content(), node.content());
    // What it added has no checksum; it gets one with the next write.
    assert!(loaded.checksum.bytes() > 0);
    let mut aof = Aof::resume(location(dir.path()), FsyncPolicy::No, loaded).unwrap();
    after.set(&mut aof, "d", "4");
    aof.close().unwrap();
    let (again, loaded) = reload(dir.path());
    assert_eq!((again.content(), loaded.checksum.bytes()), (after.content(), 0));
}

#[test]
fn a_rewrite_that_fails_again_and_again_is_tried_less_often() {
    let dir = tempfile::tempdir().unwrap();
    let (mut node, mut aof) = start(dir.path());
    while aof.size() < 10_000 {
        node.set(&mut aof, "a", "1");
    }
    aof.flush(Instant::now()).unwrap();
    // The new base's file cannot be made: a directory has its name.
    std::fs::create_dir(location(dir.path()).dir().join("appendonly.aof.2.base.rdb")).unwrap();
    let wanted_after =
        |aof: &Aof, seconds| aof.rewrite_wanted(Instant::now() + Duration::from_secs(seconds), 100, 1);
    for wait in [5, 10, 20, 40] {
        assert!(node.rewrite(&mut aof, 1).and_then(|()| node.finish_rewrite(&mut aof)).is_err());
        assert!(!wanted_after(&aof, wait - 1), "after a failure it waits for {wait} s");
        assert!(wanted_after(&aof, wait));
        assert!(aof.last_rewrite_failed());
    }
    std::fs::remove_dir(location(dir.path()).dir().join("appendonly.aof.2.base.rdb")).unwrap();
    node.rewrite(&mut aof, 1).unwrap();
    node.finish_rewrite(&mut aof).unwrap();
    assert!(!aof.last_rewrite_failed());
    assert_eq!(reload(dir.path()).0.content(), node.content());
}

#[test]
fn a_manifest_that_is_in_doubt_stops_writes_until_a_rewrite_heals_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mut node, mut aof) = start(dir.path());
    node.set(&mut aof, "a", "1");
    aof.flush(Instant::now()).unwrap();
    let path = location(dir.path()).manifest_path();
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(node.rewrite(&mut aof, 1).is_err());
    assert!(aof.flush(Instant::now()).is_err(), "what is added now may never be read");
    std::fs::remove_dir(&path).unwrap();
    assert!(aof.rewrite_wanted(Instant::now() + AFTER_FAILURE, 0, 0));
    node.rewrite(&mut aof, 1).unwrap();
    node.finish_rewrite(&mut aof).unwrap();
    aof.flush(Instant::now()).unwrap();
    assert_eq!(reload(dir.path()).0.content(), node.content());
}
