//! Transactions: compared with a real Redis, on the way to replicas, in the append-only file, and at a hand-over.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod commands;
mod support;

use std::io::{BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{SystemTime, UNIX_EPOCH};

use commands::generate::Generator;
use commands::reply::Reply;
use support::wire::{Wire, compare};
use support::{Process, Run, until};

#[test]
fn the_rules_are_those_of_redis() {
    compare(
        "a EXEC
         a DISCARD
         a MULTI
         a MULTI
         a SET x 1
         a INCR x
         a LPUSH x y
         a GET x
         a WATCH x
         a EXEC
         a MULTI
         a EXEC
         a MULTI
         a SET x 7
         a DISCARD
         a GET x
         a MULTI
         a NONESUCH 1 2
         a SET x 9
         a EXEC
         a GET x
         a MULTI
         a GET
         a EXEC
         a MULTI
         a SAVE
         a EXEC
         a MULTI
         a SHUTDOWN
         a PSYNC ? -1
         a EXEC
         a MULTI
         a PING
         a SELECT 3
         a SET other 1
         a WAIT 5 0
         a UNWATCH
         a EXEC
         a GET other
         a MULTI extra
         a EXEC extra
         a WATCH
         a MULTI
         a RESET
         a EXEC
         a MULTI
         a SET x 1
         a QUIT",
        &[],
    );
}

#[test]
fn watches_are_those_of_redis() {
    let mut script = String::new();
    for (before, change) in [
        ("SET k 1", "SET k 1"),
        ("SET k 1", "SET j 1"),
        ("SET k 1", "DEL k"),
        ("SET k 1", "EXPIRE k 100"),
        ("SET k 1", "PERSIST k"),
        ("SET k 1", "GET k"),
        ("SET k 1", "GETEX k"),
        ("SET k 1", "FLUSHALL"),
        ("SET k 1", "FLUSHDB"),
        ("SET j 1", "FLUSHALL"),
        ("SET k 1", "SWAPDB 0 1"),
        ("SET j 1", "SWAPDB 0 1"),
        ("SET k 1", "RENAME k j"),
        ("SET j 1", "RENAME j k"),
        ("SET j 1", "COPY j k"),
        ("SET k 1", "COPY k j"),
        ("SET k 1", "MOVE k 1"),
        ("SET k 1", "SETNX k 2"),
        ("SET k 1", "APPEND k x"),
        ("SET k 1", "LPUSH k x"),
        ("SADD k a b", "SADD k a"),
        ("SADD k a b", "SREM k c"),
        ("SADD k a b", "SREM k a b"),
        ("SADD k a b", "SUNIONSTORE k j"),
        ("ZADD k 1 a", "ZADD k 1 a"),
        ("ZADD k 1 a", "ZADD k 2 a"),
        ("ZADD k 1 a", "ZREM k b"),
        ("HSET k f v", "HSET k f v"),
        ("HSET k f v", "HDEL k g"),
        ("HSET k f v", "HSETNX k f w"),
        ("RPUSH k a b", "LREM k 0 c"),
        ("RPUSH k a b", "LSET k 0 a"),
        ("RPUSH k a b", "LPOP k"),
        ("RPUSH k a b", "LPOP k 0"),
    ] {
        script += &format!("a FLUSHALL\na {before}\na WATCH k\nb {change}\na MULTI\na PING\na EXEC\n");
    }
    script += "a WATCH k
        a UNWATCH
        b SET k 2
        a MULTI
        a PING
        a EXEC
        a WATCH k
        b SET k 3
        a MULTI
        a DISCARD
        a MULTI
        a PING
        a EXEC
        a WATCH k
        a SET k 4
        a MULTI
        a EXEC
        a WATCH k
        b SET k 5
        a MULTI
        a EXEC";
    compare(&script, &[]);
}

#[test]
fn replies_are_those_of_redis_in_resp3() {
    let script = "a HELLO 3
        a HSET h f v
        a WATCH h
        a MULTI
        a HGETALL h
        a GET none
        a SMEMBERS none
        a ZSCORE none m
        a EXEC
        a WATCH h
        b HSET h f w
        a MULTI
        a HGETALL h
        a EXEC";
    let (redis, node) = (Process::redis(&[]), Process::node(&[]));
    let after_hello = |server| support::wire::transcript(server, script).split_off(1);
    assert_eq!(after_hello(&redis), after_hello(&node));
}

#[test]
fn what_is_refused_while_queueing_aborts() {
    let script = "b SET z 1
        a MULTI
        a SET x 1
        b CONFIG SET maxmemory 1
        a SET y 1
        a GET y
        a EXEC
        a MULTI
        a GET x
        a EXEC
        b CONFIG SET maxmemory 0
        b SET x 1
        a MULTI
        a SET x 2
        b CONFIG SET maxmemory 1
        a EXEC
        a EXEC
        a GET x
        b CONFIG SET maxmemory 0
        b CONFIG SET requirepass secret
        c MULTI
        c EXEC";
    compare(script, &[]);
}

#[test]
fn a_watched_key_that_expires_is_a_change_unless_it_was_expired_when_watched() {
    let node = Process::node(&[]);
    let (mut a, mut b) = (Wire::connect(&node), Wire::connect(&node));
    assert_eq!(a.run("SET k v PX 300"), "+OK");
    assert_eq!(a.run("WATCH k"), "+OK");
    until("the key expires", || b.run("EXISTS k") == ":0");
    assert_eq!(a.run("MULTI"), "+OK");
    assert_eq!(a.run("PING"), "+QUEUED");
    assert_eq!(a.run("EXEC"), "*-1");

    // On a replica the key stays, hidden, until the master says to delete it.
    let master = Process::node(&[]);
    let replica = Process::node(&["--replicaof", "127.0.0.1", &master.port_text()]);
    let () = master.run(&["SET", "stays", "v"]).unwrap();
    until("the replica is in sync", || replica.info("master_link_status") == "up");
    let () = master.run(&["SET", "k", "v", "PX", "1000"]).unwrap();
    let mut wire = Wire::connect(&replica);
    until("the key arrives", || wire.run("DBSIZE") == ":2");
    master.signal(rustix::process::Signal::STOP);
    until("the key expires", || wire.run("EXISTS k") == ":0");
    assert_eq!(wire.run("WATCH k"), "+OK");
    master.signal(rustix::process::Signal::CONT);
    until("the master deletes it", || wire.run("DBSIZE") == ":1");
    assert_eq!(wire.run("MULTI"), "+OK");
    assert_eq!(wire.run("PING"), "+QUEUED");
    assert_eq!(wire.run("EXEC"), "*[+PONG]");
}

#[test]
fn a_transaction_has_a_bound() {
    let node = Process::node(&["--client-query-buffer-limit", "1mb"]);
    let mut wire = Wire::connect(&node);
    let value = "x".repeat(300_000);
    assert_eq!(wire.run("MULTI"), "+OK");
    let replies: Vec<_> = (0..5).map(|i| wire.run(&format!("SET k{i} {value}"))).collect();
    assert_eq!(replies[2], "+QUEUED");
    assert!(replies[3].starts_with("-ERR the transaction is larger"), "{}", replies[3]);
    assert_eq!(wire.run("EXEC"), "-EXECABORT Transaction discarded because of previous errors.");
    assert_eq!(wire.run("DBSIZE"), ":0");
    let replies: Vec<_> = (0..5).map(|i| wire.run(&format!("WATCH {i}{value}"))).collect();
    assert_eq!(replies[2], "+OK");
    assert!(replies[3].starts_with("-ERR the watched keys are larger"), "{}", replies[3]);
}

#[test]
fn sessions_are_shown_and_end_with_their_client() {
    let node = Process::node(&[]);
    let mut wire = Wire::connect(&node);
    for line in ["WATCH a b", "MULTI", "SET a 1"] {
        wire.run(line);
    }
    let list: String = node.run(&["CLIENT", "LIST"]).unwrap();
    assert!(list.contains("flags=x") && list.contains("multi=1 watch=2"), "{list}");
    assert_eq!((node.info("total_watched_keys"), node.info("watching_clients")), ("2".into(), "1".into()));
    drop(wire);
    until("nothing is watched", || node.info("total_watched_keys") == "0");
}

/// A connection to compare on.
struct Peer(BufReader<TcpStream>);

impl Peer {
    fn execute(&mut self, argv: &[Vec<u8>]) -> Reply {
        let mut request = format!("*{}\r\n", argv.len()).into_bytes();
        for arg in argv {
            request.extend(format!("${}\r\n", arg.len()).into_bytes());
            request.extend(arg);
            request.extend(b"\r\n");
        }
        self.0.get_mut().write_all(&request).unwrap();
        Reply::read(&mut self.0)
    }
}

/// What is left to chance, or known to differ. In Redis LTRIM is a change for those who watch even if it trims nothing.
const LEFT_OUT: [&str; 11] = [
    "LTRIM",
    "SPOP",
    "SRANDMEMBER",
    "HRANDFIELD",
    "ZRANDMEMBER",
    "RANDOMKEY",
    "INCRBYFLOAT",
    "HINCRBYFLOAT",
    "OBJECT",
    "ZRANK",
    "ZREVRANK",
];

fn name_of(command: &[Vec<u8>]) -> String {
    String::from_utf8_lossy(&command[0]).to_uppercase()
}

/// Makes comparable what clocks and orders make different.
fn comparable(reply: Reply, command: &[Vec<u8>]) -> Reply {
    let name = name_of(command);
    if name.contains("TTL") || name.contains("EXPIRETIME") || name.contains("SCAN") {
        return Reply::Line(String::new());
    }
    reply.comparable(&name, command.len())
}

/// Unix time in milliseconds.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// Random transactions of three clients that watch each other's keys.
#[test]
fn random_transactions_come_out_as_in_redis() {
    let seed =
        std::env::var("KV_TRANSACTIONS_SEED").map_or_else(|_| fastrand::u64(..), |s| s.parse().unwrap());
    println!("KV_TRANSACTIONS_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut generator = Generator::new(fastrand::Rng::with_seed(seed));
    let (redis, node) = (Process::redis(&[]), Process::node(&[]));
    let connect =
        |server: &Process| Peer(BufReader::new(TcpStream::connect(("127.0.0.1", server.port)).unwrap()));
    let mut pairs: Vec<_> = (0..3).map(|_| (connect(&redis), connect(&node))).collect();
    let mut queued: Vec<Vec<Vec<Vec<u8>>>> = vec![Vec::new(); 3];
    let words = |line: &str| line.split(' ').map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>();
    let (mut executed, mut refused) = (0, 0);
    let mut history = Vec::new();
    for step in 0..20_000 {
        let who = random.usize(..3);
        let command = match random.u8(..40) {
            0..4 => words("MULTI"),
            4..8 => words("EXEC"),
            8 => words("DISCARD"),
            9 => words("UNWATCH"),
            10..14 => words(&format!(
                "WATCH {}{} {}{}",
                random.choice(["s", "h", "l", "e", "z"]).unwrap(),
                random.u8(1..5),
                random.choice(["s", "h", "l", "e", "z"]).unwrap(),
                random.u8(1..5)
            )),
            _ => generator.next(now()),
        };
        let name = name_of(&command);
        if LEFT_OUT.contains(&&*name) || (name == "LPOS" && command.len() > 3) {
            continue;
        }
        let (theirs, ours) = (pairs[who].0.execute(&command), pairs[who].1.execute(&command));
        let same = match (&theirs, &ours) {
            (Reply::Array('*', theirs), Reply::Array('*', ours)) if name == "EXEC" => {
                executed += 1;
                assert_eq!(theirs.len(), ours.len());
                let all = theirs.iter().zip(ours).zip(&queued[who]);
                all.into_iter().all(|((theirs, ours), command)| {
                    comparable(theirs.clone(), command) == comparable(ours.clone(), command)
                })
            }
            _ => comparable(theirs.clone(), &command) == comparable(ours.clone(), &command),
        };
        let shown: Vec<_> = command.iter().map(|arg| arg.escape_ascii().to_string()).collect();
        history.push(format!("{who}: {} -> {theirs:?}", shown.join(" ")));
        let history = &history[history.len().saturating_sub(60)..];
        assert!(
            same,
            "KV_TRANSACTIONS_SEED={seed} step {step}: {:?}\n redis: {theirs:?}\n  ours: {ours:?}\nbefore: {history:#?}",
            queued[who].iter().map(|command| name_of(command)).collect::<Vec<_>>()
        );
        match &ours {
            Reply::Line(line) if line == "+QUEUED" => queued[who].push(command),
            _ if name == "EXEC" || name == "DISCARD" => {
                refused += usize::from(matches!(&ours, Reply::Line(line) if line == "*-1"));
                queued[who].clear();
            }
            _ => {}
        }
    }
    assert!(executed > 100 && refused > 10, "{executed} executed, {refused} refused by a watch");
}

#[test]
fn a_replica_never_shows_half() {
    let master = Process::node(&[]);
    let relay = Process::node(&["--replicaof", "127.0.0.1", &master.port_text()]);
    let leaf = Process::node(&["--replicaof", "127.0.0.1", &relay.port_text()]);
    until("the leaf is in sync", || leaf.info("master_link_status") == "up");
    let mut writer = master.connect();
    let mut readers = [relay.connect(), leaf.connect()];
    let value = "v".repeat(20_000);
    for round in 0..300 {
        let text = format!("{round}:{value}");
        let mut pipe = redis::pipe();
        pipe.atomic();
        for key in ["a", "b", "c", "d"] {
            pipe.cmd("SET").arg(key).arg(&text).ignore();
        }
        let () = pipe.query(&mut writer).unwrap();
        for reader in &mut readers {
            let all: Vec<Option<String>> = reader.run(&["MGET", "a", "b", "c", "d"]).unwrap();
            assert!(all.iter().all(|one| *one == all[0]), "round {round}");
        }
    }
    until("the last one arrives", || {
        leaf.run::<Option<String>>(&["GET", "d"]).unwrap().is_some_and(|text| text.starts_with("299:"))
    });
    assert_eq!(master.info("kv_full_syncs"), "0");
    assert_eq!(leaf.info("kv_full_syncs"), "1");
    assert_eq!(master.info("master_repl_offset"), leaf.info("master_repl_offset"));
}

#[test]
fn a_real_redis_and_a_node_follow_each_others_transactions() {
    let node = Process::node(&[]);
    let redis = Process::redis(&["--replicaof", "127.0.0.1", &node.port_text()]);
    until("the real Redis is in sync", || redis.info("master_link_status") == "up");
    let source = Process::redis(&["--repl-diskless-sync-delay", "0"]);
    let follower = Process::node(&["--replicaof", "127.0.0.1", &source.port_text()]);
    until("the node is in sync", || follower.info("master_link_status") == "up");
    for (master, replica) in [(&node, &redis), (&source, &follower)] {
        let mut wire = Wire::connect(master);
        for line in ["MULTI", "SET a 1", "SELECT 2", "INCR a", "SADD s x y z", "SPOP s 2", "EXEC"] {
            wire.run(line);
        }
        let other = |server: &Process| {
            let mut connection = server.connect();
            let () = connection.run(&["SELECT", "2"]).unwrap();
            let a: Option<String> = connection.run(&["GET", "a"]).unwrap();
            (a, connection.run::<Vec<String>>(&["SMEMBERS", "s"]).unwrap())
        };
        until("it arrives", || other(replica) == other(master) && other(master).0.is_some());
        assert_eq!(replica.run::<String>(&["GET", "a"]).unwrap(), "1");
    }
    assert_eq!(follower.info("kv_full_syncs"), "1");
}

/// A master made by hand: takes a replica in, and sends it what the test wants.
fn feed(listener: &TcpListener, answer: &[u8]) -> TcpStream {
    let (stream, _) = listener.accept().unwrap();
    let mut input = BufReader::new(stream.try_clone().unwrap());
    let mut output = stream.try_clone().unwrap();
    loop {
        let Reply::Array(_, words) = Reply::read(&mut input) else { panic!("a request") };
        if words[0] == Reply::Bulk(b"PSYNC".to_vec()) {
            output.write_all(answer).unwrap();
            return stream;
        }
        let reply: &[u8] = if words[0] == Reply::Bulk(b"PING".to_vec()) { b"+PONG\r\n" } else { b"+OK\r\n" };
        output.write_all(reply).unwrap();
    }
}

fn resp(line: &str) -> Vec<u8> {
    let words: Vec<_> = line.split(' ').collect();
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    words.iter().for_each(|word| bytes.extend(format!("${}\r\n{word}\r\n", word.len()).bytes()));
    bytes
}

#[test]
fn of_a_transaction_that_is_cut_off_nothing_stays() {
    // An empty snapshot, from a real node.
    let empty = Process::node(&[]);
    let _: String = empty.run(&["SAVE"]).unwrap();
    let snapshot = std::fs::read(empty.dir.path().join("dump.rdb")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let args = ["--replicaof", "127.0.0.1", &port, "--appendonly", "yes"];
    let replica = std::thread::scope(|scope| {
        let starting = scope.spawn(|| Process::node(&args));
        let id = "a".repeat(40);
        let mut head = format!("+FULLRESYNC {id} 1000\r\n${}\r\n", snapshot.len()).into_bytes();
        head.extend(&snapshot);
        let mut stream = feed(&listener, &head);
        let transaction: Vec<u8> =
            ["MULTI", "SELECT 0", "SET a 1", "SET b 1", "EXEC"].iter().flat_map(|line| resp(line)).collect();
        let half = transaction.len() - 30;
        stream.write_all(&transaction[..half]).unwrap();
        let replica = starting.join().unwrap();
        // It comes back to ask for the rest: from the beginning of the transaction.
        drop(stream);
        let mut stream = feed(&listener, b"+CONTINUE\r\n");
        assert_eq!(replica.info("slave_repl_offset"), "1000");
        assert_eq!(replica.run::<Option<String>>(&["GET", "a"]).unwrap(), None);
        stream.write_all(&transaction).unwrap();
        until("the whole is applied", || replica.run::<Option<String>>(&["GET", "b"]).unwrap().is_some());
        assert_eq!(replica.info("slave_repl_offset"), (1000 + transaction.len()).to_string());
        replica
    });
    let log = replica.dir.path().join("appendonlydir");
    let bytes: Vec<u8> = std::fs::read_dir(log)
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(".incr.aof"))
        .flat_map(|path| std::fs::read(path).unwrap())
        .collect();
    let text = String::from_utf8_lossy(&bytes);
    assert_eq!((text.matches("MULTI").count(), text.matches("EXEC").count()), (1, 1), "{text}");
}

fn incr_file(node: &Process) -> std::path::PathBuf {
    let files = std::fs::read_dir(node.dir.path().join("appendonlydir")).unwrap();
    let mut paths = files.map(|file| file.unwrap().path());
    paths.find(|path| path.to_string_lossy().ends_with(".incr.aof")).unwrap()
}

#[test]
fn of_a_transaction_that_is_torn_in_the_file_nothing_stays() {
    let mut node = Process::node(&["--appendonly", "yes", "--appendfsync", "always"]);
    let mut wire = Wire::connect(&node);
    for line in ["SET a 0", "MULTI", "SET a 1", "SET b 1", "EXEC", "MULTI", "GET a", "EXEC"] {
        wire.run(line);
    }
    node.kill();
    let path = incr_file(&node);
    let bytes = std::fs::read(&path).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    assert_eq!(text.matches("MULTI").count(), 1, "nothing is written of what changed nothing: {text}");
    let both = |node: &Process| node.run::<Vec<Option<i64>>>(&["MGET", "a", "b"]).unwrap();
    node.restart();
    assert_eq!(both(&node), [Some(1), Some(1)]);
    node.kill();
    std::fs::write(&path, &bytes[..text.rfind("EXEC").unwrap() + 2]).unwrap();
    node.restart();
    assert_eq!(both(&node), [Some(0), None]);
}
