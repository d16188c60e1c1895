//! The command line, and what tools look for in it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::process::{Command, Output};

use support::{Process, until};

fn kv_node(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kv-node")).args(args).output().unwrap()
}

#[test]
fn the_version_has_the_form_of_redis() {
    let output = kv_node(&["--version"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    assert!(text.contains(&format!(" v={} ", kv_core::REDIS_VERSION)), "{text}");
}

#[test]
fn a_wrong_directive_names_file_and_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("kv.conf");
    std::fs::write(&file, "port 7000\n\nappendfsync sometimes\n").unwrap();
    let output = kv_node(&[file.to_str().unwrap()]);
    assert!(!output.status.success());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains(&format!("{}:3 'appendfsync'", file.display())), "{error}");
    let error = String::from_utf8(kv_node(&["--prot", "7000"]).stderr).unwrap();
    assert!(error.contains("did you mean 'port'"), "{error}");
}

#[test]
fn the_log_says_what_harnesses_wait_for() {
    let mut node = Process::node(&[]);
    let log = node.log();
    for text in ["Server initialized", "Ready to accept connections", " PID: "] {
        assert!(log.contains(text), "{text}: {log}");
    }
    node.signal(rustix::process::Signal::TERM);
    node.wait_until_gone();
    assert!(node.log().contains("bye bye"));
}

#[test]
fn a_directive_that_does_nothing_is_not_accepted_silently() {
    let node = Process::node(&["--io-threads", "4", "--timeout", "70"]);
    let log = node.log();
    let warnings: Vec<_> = log.lines().filter(|line| line.contains("has no effect")).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("io-threads"), "{log}");
}

#[test]
fn a_saved_snapshot_is_loaded_again() {
    let mut node = Process::node(&["--save", "900 1"]);
    let () = node.run(&["SET", "a", "1"]).unwrap();
    let () = node.run(&["SET", "b", "2", "EX", "1000"]).unwrap();
    node.signal(rustix::process::Signal::TERM);
    node.wait_until_gone();
    node.restart();
    assert_eq!(node.run::<String>(&["GET", "a"]).unwrap(), "1");
    until("the other is there, with its time", || node.run::<i64>(&["TTL", "b"]).unwrap() > 900);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    for flag in ["--help", "--version"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = Command::new(env!("CARGO_BIN_EXE_kv-node")).arg(flag).stdout(writer).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && error.is_empty(), "{flag}: {error}");
    }
}

#[test]
fn files_do_not_leave_their_folder() {
    for (name, value) in
        [("dbfilename", "../x.rdb"), ("appendfilename", "/tmp/x.aof"), ("appenddirname", "../x")]
    {
        let output = kv_node(&[&format!("--{name}"), value]);
        assert!(!output.status.success());
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(name) && error.contains("a name without a path"), "{error}");
    }
}
