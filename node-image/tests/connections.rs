//! Many connections that do little: what each takes.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{Process, Run, until};

/// Files that a process needs besides the connections.
const OTHERS: u64 = 300;

/// Has this process, and what it starts, open as many files as the system allows. Returns how many connections there
/// can be, up to `wanted`.
fn allow(wanted: u64) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    let current = limit.current.unwrap_or(u64::MAX).max(most.min(wanted + OTHERS));
    setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum: limit.maximum }).unwrap();
    (current - OTHERS).min(wanted) as usize
}

/// Sends a request on all connections, and then reads a reply from each.
fn ask(streams: &mut [TcpStream], request: &str, reply: &str) {
    streams.iter_mut().for_each(|stream| stream.write_all(request.as_bytes()).unwrap());
    let mut bytes = vec![0; reply.len()];
    for stream in streams {
        stream.read_exact(&mut bytes).unwrap();
        assert_eq!(String::from_utf8_lossy(&bytes), reply);
    }
}

fn resident(node: &Process) -> usize {
    node.info("used_memory_rss").parse().unwrap()
}

#[test]
fn an_idle_connection_takes_less_than_four_kilobytes() {
    let count = allow(10_000);
    assert!(count >= 500, "the system allows {count} connections only");
    let node = Process::node(&["--maxclients", "20000"]);
    let before = resident(&node);
    let each = |what: &str| {
        let bytes = resident(&node).saturating_sub(before) / count;
        println!("{count} connections, {what}: {bytes} bytes each");
        assert!(bytes < 4096, "{what}: {bytes} bytes each");
    };
    let mut idle: Vec<TcpStream> =
        (0..count).map(|_| TcpStream::connect(("127.0.0.1", node.port)).unwrap()).collect();
    until("all are there", || node.info("connected_clients").parse::<usize>().unwrap() > count);
    each("that were just made");
    let value = "v".repeat(1000);
    ask(&mut idle, "PING\r\n", "+PONG\r\n");
    ask(&mut idle, &format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1000\r\n{value}\r\n"), "+OK\r\n");
    ask(&mut idle, "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", &format!("$1000\r\n{value}\r\n"));
    each("that sent a few commands");
    // Pieces of a request that come apart, and a reply of some size.
    ask(&mut idle, "*1\r\n$4\r\nPI", "");
    ask(&mut idle, "NG\r\n", "+PONG\r\n");
    ask(&mut idle, "*9\r\n$4\r\nMGET\r\n", "");
    let values = format!("$1000\r\n{value}\r\n").repeat(8);
    ask(&mut idle, &"$1\r\nk\r\n".repeat(8), &format!("*8\r\n{values}"));
    each("that sent pieces and got eight kilobytes");
    let mut active = node.connect();
    assert_eq!(active.run::<usize>(&["DEL", "k"]).unwrap(), 1);
}
