//! Hostile and slow clients: what they cost is bounded, and others are served meanwhile.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use support::wire::Wire;
use support::{Process, Run, until};

const MB: usize = 1024 * 1024;

fn request(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n", word.len()).bytes());
        bytes.extend(*word);
        bytes.extend(b"\r\n");
    }
    bytes
}

fn raw(node: &Process) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", node.port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

/// Writes as much as the other end takes at once; returns how much that was.
fn write_what_goes(stream: &mut TcpStream, bytes: &[u8]) -> usize {
    stream.set_nonblocking(true).unwrap();
    let count = stream.write(bytes).unwrap_or(0);
    stream.set_nonblocking(false).unwrap();
    count
}

fn is_closed(stream: &mut TcpStream) -> bool {
    let mut buffer = vec![0; MB];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return false,
            Err(_) => return true,
        }
    }
}

fn number(node: &Process, field: &str) -> usize {
    node.info(field).parse().unwrap_or_else(|_| panic!("no {field} in INFO"))
}

/// A field of the line of CLIENT LIST that belongs to the other end of this stream.
fn field(node: &Process, stream: &TcpStream, name: &str) -> usize {
    let list: String = node.run(&["CLIENT", "LIST"]).unwrap();
    let address = format!(" addr={} ", stream.local_addr().unwrap());
    let line = list
        .lines()
        .find(|line| line.contains(&address))
        .unwrap_or_else(|| panic!("{address} not in {list}"));
    let found = line.split(' ').find_map(|part| part.strip_prefix(&format!("{name}=")));
    found.unwrap().parse().unwrap()
}

fn store(node: &Process, key: &str, len: usize) {
    let _: () = node.run(&["SET", key, &"x".repeat(len)]).unwrap();
}

#[test]
fn who_asks_for_much_and_does_not_read_is_not_read_from() {
    let node = Process::node(&[]);
    let key = "k".repeat(1000); // so that the requests are more than sockets hold
    store(&node, &key, MB);
    let before = number(&node, "used_memory_rss");
    let mut greedy = raw(&node);
    let gets = request(&[b"GET", key.as_bytes()]).repeat(30_000); // would take 30 GB
    let mut sent = 0;
    until("the node takes no more of its requests", || {
        sent += write_what_goes(&mut greedy, &gets[sent..]);
        assert!(sent < gets.len(), "all was read");
        let waiting = field(&node, &greedy, "omem") > MB;
        waiting && write_what_goes(&mut greedy, &gets[sent..]) == 0
    });
    assert!(field(&node, &greedy, "tot-mem") < 4 * MB);
    assert!(number(&node, "used_memory_rss") < before + 16 * MB);
    assert!(number(&node, "mem_clients_normal") > MB);
    assert!(number(&node, "client_recent_max_output_buffer") > MB);
    // It may read late: nothing is lost.
    let mut reply = vec![0; MB];
    for _ in 0..20 {
        let mut head = [0; 10];
        greedy.read_exact(&mut head).unwrap();
        assert_eq!(&head, b"$1048576\r\n");
        greedy.read_exact(&mut reply).unwrap();
        greedy.read_exact(&mut head[..2]).unwrap();
    }
    assert!(field(&node, &greedy, "qbuf") < 128 * 1024, "it is read from faster than it is served");
}

#[test]
fn one_reply_does_not_grow_beyond_the_limit_of_its_class() {
    let node = Process::node(&["--client-output-buffer-limit", "normal 8mb 0 0"]);
    store(&node, "k", MB);
    let before = number(&node, "used_memory_rss");
    for words in [vec![&b"MGET"[..]], vec![b"MULTI"]] {
        let mut greedy = raw(&node);
        // A terabyte in one reply, and ten gigabytes in one EXEC.
        let bytes = match words[0] {
            b"MGET" => request(&[words, vec![b"k"; 1_000_000]].concat()),
            _ => [request(&words), request(&[b"GET", b"k"]).repeat(10_000), request(&[b"EXEC"])].concat(),
        };
        greedy.write_all(&bytes).unwrap();
        assert!(is_closed(&mut greedy));
    }
    assert_eq!(number(&node, "client_output_buffer_limit_disconnections"), 2);
    // The request itself takes some, too.
    assert!(number(&node, "used_memory_rss") < before + 128 * MB);
    assert!(number(&node, "client_recent_max_output_buffer") < 10 * MB);
}

#[test]
fn a_soft_limit_closes_who_stays_above_it() {
    let node = Process::node(&["--client-output-buffer-limit", "normal 0 4mb 3"]);
    store(&node, "k", 16 * MB);
    let (mut slow, mut quick) = (raw(&node), raw(&node));
    slow.write_all(&request(&[b"GET", b"k"])).unwrap();
    quick.write_all(&request(&[b"GET", b"k"])).unwrap();
    let mut reply = vec![0; 11 + 16 * MB + 2];
    quick.read_exact(&mut reply).unwrap();
    until("the slow one is closed", || number(&node, "client_output_buffer_limit_disconnections") == 1);
    quick.write_all(&request(&[b"PING"])).unwrap();
    quick.read_exact(&mut reply[..7]).unwrap();
    assert_eq!(&reply[..7], b"+PONG\r\n");
    assert!(is_closed(&mut slow));
}

#[test]
fn a_replica_that_stays_above_the_soft_limit_is_closed() {
    let node =
        Process::node(&["--repl-backlog-size", "1mb", "--client-output-buffer-limit", "replica 0 2mb 1000"]);
    let mut replica = raw(&node);
    replica.write_all(&request(&[b"PSYNC", b"?", b"-1"])).unwrap();
    until("it gets its snapshot", || node.info("slave0").contains("state=online"));
    (0..48).for_each(|_| store(&node, "k", MB)); // more than sockets hold
    assert_eq!(number(&node, "connected_slaves"), 1, "not for longer than it may");
    // What waits for it counts for itself, and not against maxmemory.
    let (used, uncounted) = (number(&node, "used_memory"), number(&node, "mem_not_counted_for_evict"));
    assert!(
        number(&node, "mem_total_replication_buffers") > 8 * MB && uncounted > 8 * MB && used > uncounted
    );
    let () = node.run(&["CONFIG", "SET", "maxmemory", "8mb"]).unwrap();
    store(&node, "k", MB);
    let () = node.run(&["CONFIG", "SET", "client-output-buffer-limit", "replica 0 2mb 1"]).unwrap();
    until("it is closed", || number(&node, "connected_slaves") == 0);
    assert_eq!(number(&node, "client_output_buffer_limit_disconnections"), 1);
    until("nothing is kept for it", || number(&node, "mem_not_counted_for_evict") < 2 * MB);
    // The backlog does count.
    let used = number(&node, "used_memory");
    assert!(number(&node, "mem_replication_backlog") >= MB);
    let () = node.run(&["CONFIG", "SET", "maxmemory", &(used - MB / 2).to_string()]).unwrap();
    assert_eq!(node.run::<()>(&["SET", "k", "v"]).unwrap_err().code(), Some("OOM"));
}

#[test]
fn who_reads_but_never_all_of_it_takes_no_more_than_what_waits() {
    let node = Process::node(&["--client-output-buffer-limit", "pubsub 64mb 0 0"]);
    let mut subscriber = raw(&node);
    subscriber.write_all(&request(&[b"SUBSCRIBE", b"c"])).unwrap();
    let mut confirmation = [0; 30];
    subscriber.read_exact(&mut confirmation).unwrap();
    let message = "m".repeat(MB);
    let frame = request(&[b"message", b"c", message.as_bytes()]).len();
    let mut publisher = node.connect();
    let mut publish = || assert_eq!(publisher.run::<usize>(&["PUBLISH", "c", &message]).unwrap(), 1);
    (0..24).for_each(|_| publish()); // more than sockets hold
    let mut read = vec![0; frame];
    for _ in 0..100 {
        publish();
        subscriber.read_exact(&mut read).unwrap();
        assert!(read.starts_with(b"*3\r\n$7\r\nmessage"));
    }
    assert!(field(&node, &subscriber, "obl") > MB, "all was read");
    assert!(field(&node, &subscriber, "omem") < 64 * MB);
}

#[test]
fn an_announced_argument_takes_no_memory_before_it_comes() {
    let node = Process::node(&[]);
    let mut clients: Vec<_> = (0..200).map(|_| raw(&node)).collect();
    until("all are there", || number(&node, "connected_clients") > 200);
    let before = number(&node, "used_memory_rss");
    for client in &mut clients {
        client.write_all(b"*1048576\r\n$3\r\nSET\r\n$536870912\r\nbegin").unwrap();
    }
    let read = |bytes: &str| node.run::<String>(&["CLIENT", "LIST"]).unwrap().matches(bytes).count() == 200;
    until("all was read", || read(" qbuf=36 "));
    // More comes, and is no whole argument yet.
    clients.iter_mut().for_each(|client| client.write_all(b"ning").unwrap());
    until("all was read", || read(" qbuf=40 "));
    let each = (number(&node, "used_memory_rss").saturating_sub(before)) / clients.len();
    assert!(each < 64 * 1024, "{each} bytes each");
}

#[test]
fn many_arguments_are_given_back() {
    let node = Process::node(&[]);
    let keys: Vec<Vec<u8>> = (0..500_000).map(|key| format!("k{key}").into_bytes()).collect();
    let mut client = raw(&node);
    let words = |name: &'static [u8]| {
        let mut words = vec![name];
        for key in &keys {
            words.push(key);
            if name == b"MSET" {
                words.push(b"v");
            }
        }
        words
    };
    client.write_all(&request(&words(b"MSET"))).unwrap();
    let mut reply = [0; 9];
    client.read_exact(&mut reply[..5]).unwrap();
    client.write_all(&request(&words(b"DEL"))).unwrap();
    client.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b":500000\r\n");
    // What took the arguments may have gone to another request; all of that is small again.
    let mut others: Vec<_> = (0..10).map(|_| raw(&node)).collect();
    for other in &mut others {
        other.write_all(&request(&[b"PING"])).unwrap();
        other.read_exact(&mut reply[..7]).unwrap();
        assert!(field(&node, other, "tot-mem") < 64 * 1024);
    }
    assert!(field(&node, &client, "tot-mem") < 64 * 1024);
}

#[test]
fn strangers_get_little() {
    let node = Process::node(&[]);
    let _: () = node.run(&["CONFIG", "SET", "requirepass", "secret"]).unwrap();
    let mut stranger = raw(&node);
    stranger.write_all(b"*11\r\n").unwrap();
    assert!(is_closed(&mut stranger));
    let mut stranger = raw(&node);
    stranger.write_all(b"*2\r\n$4\r\nAUTH\r\n$16385\r\n").unwrap();
    assert!(is_closed(&mut stranger));
    // Refusals that are not read do not add up either.
    let mut stranger = raw(&node);
    let pings = request(&[b"PING"]).repeat(2_000_000);
    let mut sent = 0;
    let mut admin = Wire::connect(&node);
    admin.run("AUTH secret");
    until("no more is read", || {
        sent += write_what_goes(&mut stranger, &pings[sent..]);
        assert!(sent < pings.len(), "all was read");
        assert_eq!(admin.run("PING"), "+PONG");
        write_what_goes(&mut stranger, &pings[sent..]) == 0
    });
    let list = admin.run("CLIENT LIST");
    let address = stranger.local_addr().unwrap().to_string();
    let line = list.split("\\n").find(|line| line.contains(&address)).unwrap();
    let total = line.split(' ').find_map(|part| part.strip_prefix("tot-mem=")).unwrap();
    assert!(total.parse::<usize>().unwrap() < 256 * 1024, "{line}");
}

#[test]
fn a_query_that_is_too_large_ends_its_client_only() {
    let node = Process::node(&["--client-query-buffer-limit", "1mb"]);
    let mut large = raw(&node);
    let _ = large.write_all(&request(&[b"SET", b"k", &vec![b'x'; 4 * MB]]));
    assert!(is_closed(&mut large));
    assert_eq!(number(&node, "client_query_buffer_limit_disconnections"), 1);
    for words in [["SUBSCRIBE"], ["WATCH"]] {
        let mut client = raw(&node);
        let names: Vec<_> =
            (0..1000).map(|name| format!("{name}{}", "x".repeat(2000)).into_bytes()).collect();
        let mut refused = false;
        for names in names.chunks(100) {
            let words: Vec<&[u8]> =
                [words[0].as_bytes()].into_iter().chain(names.iter().map(Vec::as_slice)).collect();
            client.write_all(&request(&words)).unwrap();
            let mut text = vec![0; 1];
            client.read_exact(&mut text).unwrap();
            refused |= text[0] == b'-';
            if refused {
                break;
            }
            // The rest of the replies.
            client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            while client.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {}
            client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        }
        assert!(refused, "{words:?}");
        assert!(field(&node, &client, "tot-mem") < 4 * MB);
    }
}

#[test]
fn a_pipeline_has_others_served_between() {
    let node = Process::node(&[]);
    let mut busy = raw(&node);
    let incrs = request(&[b"INCR", b"n"]).repeat(300_000);
    let mut reader = busy.try_clone().unwrap();
    let drain = std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
    let send = std::thread::spawn(move || {
        busy.write_all(&incrs).unwrap();
        busy.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut other = node.connect();
    let mut seen = std::collections::BTreeSet::new();
    until("the pipeline is done", || {
        let count = other.run::<Option<usize>>(&["GET", "n"]).unwrap().unwrap_or(0);
        seen.insert(count);
        count == 300_000
    });
    send.join().unwrap();
    drain.join().unwrap().unwrap();
    assert!(seen.len() > 5, "another client was served {} times only", seen.len());
}

#[test]
fn the_largest_clients_go_first() {
    let node = Process::node(&["--maxmemory-clients", "80mb"]);
    let half = |bytes: usize| [b"*2\r\n$4\r\nECHO\r\n$100000000\r\n", &vec![b'x'; bytes][..]].concat();
    let (mut spared, mut large, mut small) = (raw(&node), raw(&node), raw(&node));
    spared.write_all(&request(&[b"CLIENT", b"NO-EVICT", b"ON"])).unwrap();
    spared.read_exact(&mut [0; 5]).unwrap();
    for (client, bytes) in [(&mut spared, 16 * MB), (&mut large, 6 * MB), (&mut small, 2 * MB)] {
        client.write_all(&half(bytes)).unwrap();
        until("it was read", || field(&node, client, "qbuf") >= bytes);
    }
    assert_eq!(number(&node, "evicted_clients"), 0);
    let mut rising = raw(&node);
    let _ = rising.write_all(&half(90 * MB));
    until("the one that rises is closed", || number(&node, "evicted_clients") == 1);
    assert!(is_closed(&mut rising));
    for client in [&spared, &large, &small] {
        assert!(field(&node, client, "qbuf") >= 2 * MB);
    }
    // A percentage of maxmemory that is below what they take: the largest that may go goes.
    let bound = number(&node, "mem_clients_normal") - MB;
    let _: () = node.run(&["CONFIG", "SET", "maxmemory", &(bound * 10).to_string()]).unwrap();
    let _: () = node.run(&["CONFIG", "SET", "maxmemory-clients", "10%"]).unwrap();
    assert!(is_closed(&mut large));
    for client in [&spared, &small] {
        assert!(field(&node, client, "qbuf") >= 2 * MB);
    }
    assert_eq!(number(&node, "evicted_clients"), 2);
}

#[test]
fn a_reply_beyond_all_of_the_clients_memory_ends_who_asked_for_it() {
    let node = Process::node(&["--maxmemory-clients", "24mb"]);
    store(&node, "k", MB);
    let before = number(&node, "used_memory_rss");
    let mut greedy = raw(&node);
    greedy.write_all(&request(&[&[&b"MGET"[..]][..], &vec![&b"k"[..]; 100_000]].concat())).unwrap();
    assert!(is_closed(&mut greedy));
    assert!(number(&node, "used_memory_rss") < before + 128 * MB);
    assert_eq!(
        number(&node, "evicted_clients") + number(&node, "client_output_buffer_limit_disconnections"),
        1
    );
}

#[test]
fn buffers_count_towards_maxmemory() {
    let node = Process::node(&["--maxmemory", "32mb"]);
    assert!(node.run::<()>(&["SET", "a", "1"]).is_ok());
    let mut large = raw(&node);
    large.write_all(b"*2\r\n$4\r\nECHO\r\n$100000000\r\n").unwrap();
    large.write_all(&vec![b'x'; 40 * MB]).unwrap();
    until("it was read", || field(&node, &large, "qbuf") >= 40 * MB);
    let refused = node.run::<()>(&["SET", "a", "2"]).unwrap_err();
    assert_eq!(refused.code(), Some("OOM"));
    drop(large);
    until("writes go on", || node.run::<()>(&["SET", "a", "3"]).is_ok());
}

#[test]
fn a_flood_of_connections_is_refused_and_who_is_there_is_served() {
    let node = Process::node(&["--maxclients", "50"]);
    let mut first = node.connect();
    let mut flood: Vec<_> = (0..300).map(|_| raw(&node)).collect();
    let _: String = first.run(&["PING"]).unwrap();
    until("the rest is refused", || {
        let info: String = first.run(&["INFO", "stats"]).unwrap();
        let rejected = info.lines().find_map(|line| line.strip_prefix("rejected_connections:")).unwrap();
        rejected.parse::<usize>().unwrap() >= 251
    });
    let refused = flood.split_off(60);
    for mut stream in refused {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, "-ERR max number of clients reached\r\n");
    }
}

#[test]
fn the_idle_are_closed_and_who_reads_is_not_idle() {
    let node = Process::node(&["--timeout", "2"]);
    store(&node, "k", 64 * MB);
    let (mut idle, mut reader) = (raw(&node), raw(&node));
    reader.write_all(&request(&[b"GET", b"k"])).unwrap();
    // It reads on until the other one was closed, and some time after that.
    let mut read = 0;
    let mut piece = vec![0; 256 * 1024];
    idle.set_nonblocking(true).unwrap();
    until("the idle one is closed", || {
        read += reader.read(&mut piece).unwrap();
        matches!(idle.read(&mut [0; 1]), Ok(0))
    });
    while read < 11 + 64 * MB + 2 {
        let count = reader.read(&mut piece).unwrap();
        assert!(count > 0, "it was closed after {read} bytes");
        read += count;
    }
}

#[test]
fn the_health_port_bears_floods_and_comes_back_after_the_files_ran_out() {
    let port = support::free_port();
    let node = Process::node(&["--kv-health-port", &port.to_string()]);
    let is_well = || {
        let ask = || {
            let mut stream = TcpStream::connect(("127.0.0.1", port))?;
            stream.set_read_timeout(Some(Duration::from_secs(30)))?;
            stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")?;
            let mut reply = String::new();
            stream.read_to_string(&mut reply)?;
            std::io::Result::Ok(reply)
        };
        ask().is_ok_and(|reply| reply.starts_with("HTTP/1.1 200 OK\r\n") && reply.ends_with("\r\n\r\nok\n"))
    };
    until("it answers", is_well);
    node.limit_open_files(Some(3));
    let waiting = TcpStream::connect(("127.0.0.1", port)).unwrap();
    until("it takes nobody any more", || node.log().contains("Cannot take a connection to the health port"));
    node.limit_open_files(None);
    until("it goes on", is_well);
    drop(waiting);
    let silent: Vec<_> = (0..200).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    until("it answers among many that say nothing", is_well);
    drop(silent);
}

/// What the operator is answered.
fn asks(node: &Process, words: &[&str]) -> String {
    let mut wire = Wire::connect(node);
    wire.send(&["AUTH", "kv-operator", "secret"]);
    assert!(wire.read().contains("OK"));
    wire.send(words);
    wire.read()
}

#[test]
fn no_directive_and_no_pause_locks_the_operator_out() {
    let node = Process::managed("a", &[]);
    let strangle =
        ["client-output-buffer-limit", "normal 1 1 1", "maxmemory-clients", "1", "maxclients", "1"];
    let _: () = node.run(&[&["CONFIG", "SET"], &strangle[..]].concat()).unwrap_or_default();
    let mut client = raw(&node);
    client.write_all(&request(&[b"PING"])).unwrap();
    assert!(is_closed(&mut client), "they hold for clients");
    for _ in 0..50 {
        assert!(asks(&node, &["KV", "REPORT"]).contains("runId"));
    }
    let node = Process::managed("b", &[]);
    let _: () = node.run(&["CLIENT", "PAUSE", "3600000", "ALL"]).unwrap();
    assert!(asks(&node, &["KV", "REPORT"]).contains("runId"));
    let mut held = Wire::connect(&node);
    held.send(&["PING"]);
    assert!(held.is_silent());
}

#[test]
fn the_operator_is_not_closed_for_being_idle() {
    let node = Process::managed("a", &["--timeout", "1"]);
    let mut operator = Wire::connect(&node);
    operator.send(&["AUTH", "kv-operator", "secret"]);
    assert!(operator.read().contains("OK"));
    for _ in 0..2 {
        let mut client = raw(&node);
        client.write_all(&request(&[b"PING"])).unwrap();
        assert!(is_closed(&mut client)); // it came later, and was idle for less long
    }
    operator.send(&["KV", "REPORT"]);
    assert!(operator.read().contains("runId"));
}
