//! Keys whose time is over go by themselves, and nobody waits for that.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;

use redis::Connection;
use support::{Process, Run, until};

/// Sets keys, with a time to live in milliseconds if `ttl` is above 0.
fn fill(node: &Process, prefix: &str, count: usize, ttl: usize) {
    let mut stream = TcpStream::connect(("127.0.0.1", node.port)).unwrap();
    for from in (0..count).step_by(1000) {
        let mut requests = String::new();
        for key in from..from + 1000 {
            let ttl = if ttl > 0 { format!(" PX {ttl}") } else { String::new() };
            requests += &format!("SET {prefix}{key} v{ttl}\r\n");
        }
        stream.write_all(requests.as_bytes()).unwrap();
        let mut replies = [0; 5 * 1000];
        stream.read_exact(&mut replies).unwrap();
        assert_eq!(replies, *b"+OK\r\n".repeat(1000));
    }
}

/// What INFO says of the keys of database 0: how many there are, and how many expire.
fn keys(connection: &mut Connection) -> (usize, usize) {
    let info: String = connection.run(&["INFO", "keyspace"]).unwrap();
    let field = |name: &str| {
        let at = info.find(name).map(|at| at + name.len());
        at.map_or(0, |at| info[at..].split([',', '\r']).next().unwrap().parse().unwrap())
    };
    (field("keys="), field("expires="))
}

#[test]
fn most_expired_keys_are_gone_soon_without_being_asked_for() {
    // The second in a single slot, which is one table.
    for (prefix, count) in [("", 100_000), ("{tag}", 50_000)] {
        let node = Process::node(&[]);
        let mut connection = node.connect();
        fill(&node, &format!("{prefix}lasting:"), count, 0);
        fill(&node, &format!("{prefix}brief:"), count, 1);
        until("less than a tenth of the expired are left", || {
            let (all, expiring) = keys(&mut connection);
            assert_eq!(all - expiring, count);
            expiring < count / 10
        });
        assert_eq!(connection.run::<String>(&["GET", &format!("{prefix}lasting:7")]).unwrap(), "v");
    }
}

#[test]
fn others_are_served_while_many_expire() {
    const COUNT: usize = 100_000;
    let node = Process::node(&[]);
    let mut connection = node.connect();
    let far = 1_000_000_000;
    fill(&node, "k", COUNT, far);
    // All become due at once, when they are written anew with a time that is over in a moment.
    fill(&node, "k", COUNT, 300);
    let mut seen = std::collections::BTreeSet::new();
    until("nearly all are gone", || {
        let (_, expiring) = keys(&mut connection);
        seen.insert(expiring);
        expiring < COUNT / 10
    });
    // Each number that was seen is a turn of this client between two slices.
    assert!(seen.len() > 20, "served {} times only: {seen:?}", seen.len());
}
