//! Commands that make snapshots, what INFO says of them, and how a node behaves while it loads one.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use support::{Process, eventually, until};

/// The replies' first lines to commands that are sent together, so that one tick executes them all.
fn together(node: &Process, commands: &[&str]) -> Vec<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", node.port)).unwrap();
    stream.write_all(format!("{}\r\n", commands.join("\r\n")).as_bytes()).unwrap();
    let lines = BufReader::new(stream).lines();
    lines.take(commands.len()).map(|line| line.unwrap()).collect()
}

#[test]
fn one_snapshot_at_a_time_and_it_can_be_given_up() {
    let node = Process::node(&[]);
    let () = node.run(&["SET", "k", "v"]).unwrap();
    let replies = together(
        &node,
        &["BGSAVE", "BGSAVE", "BGSAVE SCHEDULE", "SAVE", "BGSAVE CANCEL", "BGSAVE CANCEL", "BGSAVE X"],
    );
    assert_eq!(replies[0], "+Background saving started");
    for reply in &replies[1..4] {
        assert_eq!(reply, "-ERR Background save already in progress");
    }
    assert_eq!(replies[4], "+Background saving cancelled");
    assert_eq!(replies[5], "-ERR Background saving is currently not in progress or scheduled");
    assert_eq!(replies[6], "-ERR syntax error");
    assert_eq!(node.info("rdb_last_bgsave_status"), "ok", "it did not fail");
    assert_eq!(node.info("rdb_saves"), "0");
    assert!(!node.dir.path().join("dump.rdb").exists());
}

#[test]
fn while_the_append_only_file_is_rewritten_a_snapshot_waits_if_it_may() {
    let node = Process::node(&["--appendonly", "yes"]);
    let () = node.run(&["SET", "k", "v"]).unwrap();
    let replies = together(&node, &["BGREWRITEAOF", "BGSAVE", "BGSAVE SCHEDULE"]);
    assert_eq!(replies[0], "+Background append only file rewriting started");
    assert!(replies[1].starts_with("-ERR Another child process is active (AOF?)"), "{replies:?}");
    assert_eq!(replies[2], "+Background saving scheduled");
    until("both are done", || node.info("rdb_saves") == "1" && node.info("aof_rewrites") == "1");
    assert!(node.dir.path().join("dump.rdb").exists());
    assert_eq!(node.info("aof_last_bgrewrite_status"), "ok");
    assert_eq!(node.info("aof_current_rewrite_time_sec"), "-1");
    assert!(node.info("aof_last_rewrite_time_sec").parse::<u64>().is_ok());
}

#[test]
fn info_tells_of_saves_and_of_the_load() {
    let mut node = Process::node(&[]);
    for key in ["a", "b", "c"] {
        let () = node.run(&["SET", key, &"x".repeat(1000)]).unwrap();
    }
    assert_eq!(node.info("rdb_changes_since_last_save"), "3");
    assert_eq!(node.info("rdb_last_bgsave_time_sec"), "-1");
    let () = node.run(&["SAVE"]).unwrap();
    assert_eq!(node.info("rdb_changes_since_last_save"), "0");
    assert!(node.info("rdb_last_bgsave_time_sec").parse::<u64>().is_ok());
    assert_eq!(node.info("rdb_current_bgsave_time_sec"), "-1");
    let saved = std::fs::metadata(node.dir.path().join("dump.rdb")).unwrap().len();
    assert!(saved < 1000, "compressed: {saved}");
    let () = node.run(&["CONFIG", "SET", "rdbcompression", "no"]).unwrap();
    let () = node.run(&["SAVE"]).unwrap();
    assert!(std::fs::metadata(node.dir.path().join("dump.rdb")).unwrap().len() > 3000);
    node.stop();
    node.restart();
    assert_eq!(node.info("rdb_last_load_keys_loaded"), "3");
    assert_eq!(node.info("loading"), "0");
    assert_eq!(node.info("rdb_changes_since_last_save"), "0");
}

#[test]
fn without_a_checksum_a_snapshot_ends_with_zeros() {
    let node = Process::node(&["--rdbchecksum", "no"]);
    let () = node.run(&["SET", "k", "v"]).unwrap();
    let () = node.run(&["SAVE"]).unwrap();
    assert!(
        std::fs::read(node.dir.path().join("dump.rdb")).unwrap().ends_with(&[0xff, 0, 0, 0, 0, 0, 0, 0, 0])
    );
}

/// A snapshot without an end, in a pipe, so that whoever loads it goes on loading until [`Endless::end`].
struct Endless {
    enough: Arc<AtomicBool>,
    writer: JoinHandle<()>,
}

impl Endless {
    fn at(path: &Path) -> Self {
        mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert!(std::fs::metadata(path).unwrap().file_type().is_fifo());
        let (path, enough) = (path.to_owned(), Arc::new(AtomicBool::new(false)));
        let told = Arc::clone(&enough);
        let writer = std::thread::spawn(move || {
            let mut pipe = std::fs::OpenOptions::new().write(true).open(path).unwrap();
            let mut next = b"REDIS0009".to_vec();
            // A reader that ended makes this an error.
            while pipe.write_all(&next).is_ok() && !told.load(Ordering::Relaxed) {
                next = b"\xfa\x01a\x01b".to_vec(); // a note that nobody knows
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            let _ = pipe.write_all(b"\x00\x01k\x01v\xff\0\0\0\0\0\0\0\0");
        });
        Self { enough, writer }
    }

    fn end(self) {
        self.enough.store(true, Ordering::Relaxed);
        self.writer.join().unwrap();
    }
}

/// A node that loads an endless snapshot and answers already.
fn loading(args: &[&str]) -> (Process, Endless) {
    let mut node = Process::node(args);
    node.kill();
    let _ = std::fs::remove_dir_all(node.dir.path().join("appendonlydir"));
    let endless = Endless::at(&node.dir.path().join("dump.rdb"));
    node.spawn_again();
    eventually("it answers", || TcpStream::connect(("127.0.0.1", node.port)).ok());
    (node, endless)
}

#[test]
fn clients_are_told_while_data_are_loaded() {
    let (node, endless) = loading(&[]);
    let replies = together(&node, &["PING", "GET k", "SET k x", "MULTI", "GET k", "DISCARD", "ECHO x"]);
    let refused = "-LOADING Redis is loading the dataset in memory";
    let begun = ["+OK", refused, "+OK", "$1"];
    assert_eq!(replies, [[refused; 3].as_slice(), &begun].concat());
    assert_eq!(node.info("loading"), "1");
    endless.end();
    until("it is loaded", || node.run::<String>(&["PING"]).is_ok_and(|pong| pong == "PONG"));
    assert_eq!(node.run::<String>(&["GET", "k"]).unwrap(), "v");
    assert_eq!(node.info("loading"), "0");
}

#[test]
fn a_node_that_is_stopped_while_it_loads_leaves_its_files_alone() {
    let stops: [fn(&mut Process); 2] = [Process::stop, |node| {
        assert!(node.run::<()>(&["SHUTDOWN", "SAVE"]).is_err(), "there is no reply");
        node.wait_until_gone();
    }];
    for stop in stops {
        let (mut node, endless) = loading(&[]);
        stop(&mut node);
        endless.end();
        let dump = std::fs::metadata(node.dir.path().join("dump.rdb")).unwrap();
        assert!(dump.file_type().is_fifo(), "it was replaced");
    }
}

#[test]
fn directives_that_change_meanwhile_leave_the_append_only_file_for_later() {
    let (mut node, endless) = loading(&["--appendonly", "yes"]);
    let () = node.run(&["CONFIG", "SET", "maxmemory", "100mb"]).unwrap();
    assert_eq!(node.info("aof_enabled"), "0");
    endless.end();
    until("it is loaded", || node.info("aof_enabled") == "1");
    node.kill();
    node.restart();
    assert_eq!(node.run::<String>(&["GET", "k"]).unwrap(), "v");
}
