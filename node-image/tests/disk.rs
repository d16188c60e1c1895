//! A disk that is full, or read-only: writes are refused, reads go on, nothing acknowledged is lost, and with the space
//! the writes come back, too.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;

use redis::Connection;
use support::volume::Volume;
use support::{Process, Run, eventually, free_port, until};

/// A node that keeps its files on a volume.
struct Node {
    process: Process,
    health: u16,
    /// Keys that it acknowledged.
    acknowledged: Vec<String>,
}

impl Node {
    fn start(volume: &Volume, args: &[&str]) -> Self {
        let health = free_port();
        let port = health.to_string();
        let all = [&["--dir", volume.name(), "--kv-health-port", &port], args].concat();
        Self { process: Process::node(&all), health, acknowledged: Vec::new() }
    }

    /// Sets a key to its own name and some more; returns the error, which breaks the connection or is a reply.
    fn set(&mut self, connection: &mut Connection) -> Result<(), String> {
        let key = format!("key:{}", self.acknowledged.len());
        let value = key.repeat(20);
        connection.run::<()>(&["SET", &key, &value]).map_err(|error| error.to_string())?;
        self.acknowledged.push(key);
        Ok(())
    }

    fn set_some(&mut self, count: usize) {
        let mut connection = self.process.connect();
        (0..count).for_each(|_| self.set(&mut connection).unwrap());
    }

    /// Writes until the node says that it cannot; returns what it says.
    fn write_until_refused(&mut self) -> String {
        eventually("writes are refused", || {
            let mut connection = self.process.connect();
            loop {
                match self.set(&mut connection) {
                    Ok(()) => {}
                    Err(error) if error.contains("MISCONF") => return Some(error),
                    // What was not written is not acknowledged: the connection was closed.
                    Err(_) => return None,
                }
            }
        })
    }

    fn until_writable(&mut self) {
        until("writes are taken again", || self.set(&mut self.process.connect()).is_ok());
    }

    /// Under everysec what is acknowledged may still wait for a sync that is under way.
    fn until_written(&self) {
        until("nothing waits for the disk", || self.process.info("aof_buffer_length") == "0");
    }

    /// Kills it and starts it again. What was acknowledged last, from `certain` on, may be lost then, but not the rest
    /// of it, and nothing in its middle.
    fn kill_and_restart(&mut self, certain: usize) {
        self.process.kill();
        self.process.restart();
        let mut connection = self.process.connect();
        let mut is_there = |key: &String| connection.run::<bool>(&["EXISTS", key]).unwrap();
        let kept = self.acknowledged.iter().position(|key| !is_there(key)).unwrap_or(self.acknowledged.len());
        assert!(kept >= certain, "{kept} of {certain}");
        assert!(!self.acknowledged.iter().skip(kept).any(is_there));
        self.acknowledged.truncate(kept);
        self.check();
    }

    fn check(&self) {
        let mut connection = self.process.connect();
        for key in &self.acknowledged {
            let value: Option<String> = connection.run(&["GET", key]).unwrap();
            assert_eq!(value, Some(key.repeat(20)), "{key} of {}", self.acknowledged.len());
        }
    }

    /// Status and text of `/readyz`.
    fn ready(&self) -> (bool, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.health)).unwrap();
        stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        (text.contains(" 200 "), text)
    }

    fn until_not_ready(&self, why: &str) {
        until("/readyz says so", || {
            let (ready, text) = self.ready();
            !ready && text.contains(why)
        });
    }

    fn until_ready(&self) {
        until("it is ready", || self.ready().0);
    }
}

/// Names of half-made files.
fn temporary(volume: &Volume) -> Vec<String> {
    let names = |dir: &std::path::Path| -> Vec<String> {
        let entries = std::fs::read_dir(dir).into_iter().flatten();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    let all = [names(volume.path()), names(&volume.path().join("appendonlydir"))].concat();
    all.into_iter().filter(|name| name.starts_with("temp-")).collect()
}

fn fill_and_recover(policy: &str) {
    let Some(volume) = Volume::tmpfs("4m") else { return };
    let mut node = Node::start(&volume, &["--appendonly", "yes", "--appendfsync", policy]);
    node.set_some(50);
    volume.fill();
    let error = node.write_until_refused();
    assert!(error.contains("appendonly.aof.1.incr.aof") && error.contains("free space"), "{error}");
    node.check();
    assert_eq!(node.process.info("aof_last_write_status"), "err");
    node.until_not_ready("Errors writing to the AOF file");
    // There is no room for this either, and it does not make things worse.
    let _ = node.process.run::<redis::Value>(&["BGREWRITEAOF"]);
    until("it is over", || node.process.info("aof_rewrite_in_progress") == "0");
    node.check();

    volume.give_space_back();
    node.until_writable();
    assert_eq!(node.process.info("aof_last_write_status"), "ok");
    node.until_ready();
    node.set_some(50);
    node.until_written();
    let written = node.acknowledged.len();
    node.kill_and_restart(written);

    // Killed and started again on the full disk: it serves what it can read.
    volume.fill();
    node.write_until_refused();
    let certain = if policy == "everysec" { written } else { node.acknowledged.len() };
    node.kill_and_restart(certain);
    node.write_until_refused();
    volume.give_space_back();
    node.until_writable();
    node.until_written();
    node.kill_and_restart(node.acknowledged.len());
    assert_eq!(temporary(&volume), [""; 0]);
}

#[test]
fn a_full_disk_refuses_writes_until_there_is_space_always() {
    fill_and_recover("always");
}

#[test]
fn a_full_disk_refuses_writes_until_there_is_space_everysec() {
    fill_and_recover("everysec");
}

#[test]
fn a_full_disk_refuses_writes_until_there_is_space_no() {
    fill_and_recover("no");
}

#[test]
fn a_snapshot_that_cannot_be_saved_stops_writes_and_leaves_the_old_one() {
    let Some(volume) = Volume::tmpfs("4m") else { return };
    // No save point falls due in this test.
    let mut node = Node::start(&volume, &["--save", "100000 100000"]);
    node.set_some(10);
    let () = node.process.run(&["SAVE"]).unwrap();
    let dump = volume.path().join("dump.rdb");
    let saved = std::fs::read(&dump).unwrap();
    node.set_some(10);
    volume.fill();
    let error = node.process.run::<()>(&["SAVE"]).unwrap_err().to_string();
    assert!(error.contains("dump.rdb") && error.contains("free space"), "{error}");
    assert_eq!(node.process.info("rdb_last_bgsave_status"), "ok", "SAVE has told its client");
    node.set_some(1);

    let () = node.process.run(&["BGSAVE"]).unwrap();
    until("it has failed", || node.process.info("rdb_last_bgsave_status") == "err");
    let error = node.write_until_refused();
    assert!(error.contains("dump.rdb") && error.contains("stop-writes-on-bgsave-error"), "{error}");
    node.check();
    node.until_not_ready("Errors saving a snapshot");
    assert_eq!(std::fs::read(&dump).unwrap(), saved);
    assert_eq!(temporary(&volume), [""; 0]);

    let () = node.process.run(&["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"]).unwrap();
    node.set_some(1);
    node.until_ready();
    let () = node.process.run(&["CONFIG", "SET", "stop-writes-on-bgsave-error", "yes"]).unwrap();
    node.write_until_refused();
    // Without save points nobody relies on snapshots.
    let () = node.process.run(&["CONFIG", "SET", "save", ""]).unwrap();
    node.set_some(1);
    let () = node.process.run(&["CONFIG", "SET", "save", "100000 100000"]).unwrap();
    node.write_until_refused();

    // It does not throw away what it cannot save.
    let error = node.process.run::<()>(&["SHUTDOWN"]).unwrap_err().to_string();
    assert!(error.contains("Errors trying to SHUTDOWN"), "{error}");
    node.check();

    volume.give_space_back();
    until("a snapshot was saved", || node.process.info("rdb_last_bgsave_status") == "ok");
    node.process.kill();
    node.process.restart();
    node.check();
    node.set_some(1);

    volume.fill();
    assert!(node.process.run::<()>(&["SHUTDOWN", "FORCE"]).is_err(), "there is no reply");
    node.process.wait_until_gone();
}

#[test]
fn a_flush_in_the_middle_of_a_snapshot_is_no_error() {
    let node = Process::node(&["--save", "100000 100000"]);
    let mut connection = node.connect();
    let value = "x".repeat(1 << 20);
    (0..32).for_each(|n| connection.run::<()>(&["SET", &format!("key:{n}"), &value]).unwrap());
    let () = connection.run(&["BGSAVE"]).unwrap();
    let () = connection.run(&["FLUSHALL"]).unwrap();
    until("it is over", || node.info("rdb_bgsave_in_progress") == "0");
    assert_eq!(node.info("rdb_last_bgsave_status"), "ok");
    let () = connection.run(&["SET", "a", "1"]).unwrap();
}

#[test]
fn on_a_read_only_directory_a_node_does_not_start_and_says_why() {
    let Some(mut volume) = Volume::tmpfs("4m") else { return };
    for with_data in [false, true] {
        if with_data {
            let mut node = Node::start(&volume, &["--appendonly", "yes"]);
            node.set_some(1);
            node.until_written();
        }
        volume.close_to_writers();
        let args = ["--dir", volume.name(), "--appendonly", "yes", "--port", "0"];
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_kv-node")).args(args).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert!(!output.status.success(), "{text}");
        assert!(text.contains(volume.name()) && text.contains("must exist and be writable"), "{text}");
        volume.open_to_writers();
    }
    let mut node = Node::start(&volume, &["--appendonly", "yes"]);
    node.acknowledged = vec!["key:0".into()];
    node.check();
}

#[test]
fn a_directory_that_becomes_read_only_fails_snapshots_and_rewrites_only() {
    let Some(mut volume) = Volume::tmpfs("4m") else { return };
    let mut node = Node::start(&volume, &["--appendonly", "yes", "--save", "100000 100000"]);
    node.set_some(10);
    volume.close_to_writers();
    let error = node.process.run::<()>(&["BGREWRITEAOF"]).unwrap_err().to_string();
    assert!(error.contains("Read-only file system"), "{error}");
    assert_eq!(node.process.info("aof_last_bgrewrite_status"), "err");
    node.set_some(10);
    let error = node.process.run::<()>(&["BGSAVE"]).unwrap_err().to_string();
    assert!(error.contains("Read-only file system"), "{error}");
    node.write_until_refused();
    volume.open_to_writers();
    node.until_writable();
    let () = node.process.run(&["BGREWRITEAOF"]).unwrap();
    until("it is rewritten", || node.process.info("aof_last_bgrewrite_status") == "ok");
    node.until_written();
    node.kill_and_restart(node.acknowledged.len());
}

#[test]
fn a_file_system_that_fails_loses_nothing_acknowledged() {
    let Some(mut volume) = Volume::ext4() else { return };
    let mut node = Node::start(&volume, &["--appendonly", "yes", "--appendfsync", "always"]);
    node.set_some(50);
    volume.fail().unwrap();
    node.write_until_refused();
    node.check();
    assert_eq!(node.process.info("aof_last_write_status"), "err");
    node.until_not_ready("Errors writing to the AOF file");
    node.process.kill();
    volume.mount_again();
    node.process.restart();
    node.check();
    node.set_some(1);
}
