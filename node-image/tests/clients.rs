//! Clients as other clients see, pause and end them.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use support::wire::{Wire, compare};
use support::{Process, until};

#[test]
fn the_rules_are_those_of_redis() {
    compare(
        "a CLIENT SETNAME one
         b CLIENT KILL
         b CLIENT KILL nonesuch
         b CLIENT KILL TYPE normal SKIPME
         b CLIENT KILL TYPE nonesuch
         b CLIENT KILL ID 0
         b CLIENT KILL ID x
         b CLIENT KILL ID 12345
         b CLIENT KILL NOSUCH x
         b CLIENT KILL USER nobody
         b CLIENT KILL USER default SKIPME perhaps
         b CLIENT LIST ID
         b CLIENT LIST ID 12345 12346
         b CLIENT LIST TYPE replica
         b CLIENT LIST TYPE nonesuch
         b CLIENT PAUSE
         b CLIENT PAUSE x
         b CLIENT PAUSE -1
         b CLIENT PAUSE 1 NOW
         b CLIENT PAUSE 100000 WRITE
         b GET x
         b CLIENT PAUSE 1 WRITE
         b GET x
         b CLIENT UNPAUSE
         b SET x 1
         b CLIENT UNPAUSE
         b CLIENT UNPAUSE x
         b CLIENT PAUSE 1
         b GET x
         b CLIENT NO-EVICT
         b CLIENT NO-EVICT perhaps
         b CLIENT NO-EVICT ON
         a CLIENT GETNAME
         b CLIENT KILL TYPE normal SKIPME yes
         b PING",
        &[],
    );
}

fn count(wire: &mut Wire, filters: &str) -> usize {
    wire.run(&format!("CLIENT LIST {filters}")).matches("id=").count()
}

#[test]
fn filters_have_all_to_fit() {
    let node = Process::node(&[]);
    let mut admin = Wire::connect(&node);
    let mut others: Vec<_> = (0..4).map(|_| Wire::connect(&node)).collect();
    for (index, other) in others.iter_mut().enumerate() {
        other.run(&format!("CLIENT SETNAME name{}", index % 2));
        other.run(&format!("CLIENT SETINFO LIB-NAME lib{}", index / 2));
        other.run(&format!("SELECT {index}"));
    }
    let ids: Vec<String> = others.iter_mut().map(|other| other.run("CLIENT ID")[1..].to_owned()).collect();
    for (filters, wanted) in [
        ("NAME name0", 2),
        ("NAME name0 LIB-NAME lib1", 1),
        ("LIB-NAME lib0", 2),
        ("DB 3", 1),
        ("IP 127.0.0.1", 5),
        ("IP 127.0.0.1 SKIPME yes", 4),
        ("USER default", 5),
        ("TYPE normal IDLE 1000", 0),
        ("MAXAGE 1000", 0),
    ] {
        assert_eq!(count(&mut admin, filters), wanted, "{filters}");
    }
    assert_eq!(count(&mut admin, &format!("ID {} {} DB 0", ids[0], ids[1])), 1);
    assert_eq!(admin.run(&format!("CLIENT KILL ID {} {} NAME name1", ids[0], ids[1])), ":1");
    assert!(others[1].is_closed());
    assert_eq!(admin.run("CLIENT KILL LIB-NAME lib1 NAME name0"), ":1");
    assert!(others[2].is_closed());
    assert_eq!(others[0].run("PING"), "+PONG");
    assert_eq!(others[3].run("PING"), "+PONG");
}

#[test]
fn a_pause_holds_what_it_says_and_lets_it_go_in_order() {
    let node = Process::node(&[]);
    let (mut admin, mut writer, mut reader) =
        (Wire::connect(&node), Wire::connect(&node), Wire::connect(&node));
    admin.run("SET k old");
    assert_eq!(admin.run("CLIENT PAUSE 100000 WRITE"), "+OK");
    writer.send(&["SET", "k", "new"]);
    writer.send(&["GET", "k"]);
    until("the write is held", || node.info("blocked_clients") == "1");
    assert_eq!(reader.run("GET k"), "\"old\"");
    assert_eq!(admin.run("CLIENT UNPAUSE"), "+OK");
    assert_eq!((writer.read(), writer.read()), ("+OK".into(), "\"new\"".into()));
    // A pause ends by itself.
    admin.run("CLIENT PAUSE 200 ALL");
    assert_eq!(reader.run("GET k"), "\"new\"");
    assert_eq!(writer.run("SET k newer"), "+OK");
}

#[test]
fn nothing_expires_in_a_pause() {
    let node = Process::node(&[]);
    let mut admin = Wire::connect(&node);
    admin.run("CLIENT PAUSE 100000 WRITE");
    admin.run("CLIENT UNPAUSE");
    admin.run("SET k v PX 1");
    admin.run("SET l v PX 50");
    admin.run("CLIENT PAUSE 100000 WRITE");
    until("it is hidden", || admin.run("GET l") == "$-1");
    let before = node.info("master_repl_offset");
    let expired = node.info("expired_keys");
    assert_eq!(admin.run("EXISTS l"), ":0");
    assert_eq!((node.info("master_repl_offset"), node.info("expired_keys")), (before, expired));
    admin.run("CLIENT UNPAUSE");
    until("they go", || node.info("expired_keys") == "2");
}

#[test]
fn who_asked_for_no_touch_leaves_no_trace() {
    let node = Process::node(&["--maxmemory-policy", "allkeys-lfu"]);
    let (mut quiet, mut loud) = (Wire::connect(&node), Wire::connect(&node));
    loud.run("SET k v");
    let before = loud.run("OBJECT FREQ k");
    assert_eq!(quiet.run("CLIENT NO-TOUCH ON"), "+OK");
    for _ in 0..20 {
        quiet.run("GET k");
    }
    assert_eq!(loud.run("OBJECT FREQ k"), before);
    assert_eq!(quiet.run("TOUCH k"), ":1");
    assert_ne!(loud.run("OBJECT FREQ k"), before);
}

#[test]
fn replies_are_left_out_as_in_redis() {
    // What is not answered stands in front of something that is: `wire` reads one reply a line.
    let (redis, node) = (Process::redis(&[]), Process::node(&[]));
    let scripts: [&[&str]; 7] = [
        &["CLIENT REPLY SKIP", "SET k 1", "GET k"],
        &["CLIENT REPLY OFF", "INCR k", "NOSUCH", "GET", "CLIENT REPLY SKIP", "CLIENT REPLY ON", "GET k"],
        &["CLIENT REPLY SKIP", "NOSUCH", "PING"],
        &["CLIENT REPLY SKIP", "CLIENT REPLY SKIP", "PING", "ECHO x"],
        &["CLIENT REPLY SKIP", "CLIENT REPLY ON", "PING"],
        &["CLIENT REPLY OFF", "SUBSCRIBE c", "UNSUBSCRIBE c", "RESET", "PING"],
        &["CLIENT REPLY OFF", "MULTI", "INCR k", "CLIENT REPLY ON", "EXEC", "CLIENT REPLY ON", "GET k"],
    ];
    for script in scripts {
        let answers = |server: &Process| {
            let mut wire = Wire::connect(server);
            script
                .iter()
                .chain(&["ECHO end"])
                .for_each(|line| wire.send(&line.split(' ').collect::<Vec<_>>()));
            let mut answers = vec![wire.read()];
            while answers.last().is_some_and(|answer| answer != "\"end\"") {
                answers.push(wire.read());
            }
            answers
        };
        assert_eq!(answers(&node), answers(&redis), "{script:?}");
    }
}

#[test]
fn a_wait_is_ended_by_another_client() {
    let node = Process::node(&[]);
    let (mut admin, mut waiting) = (Wire::connect(&node), Wire::connect(&node));
    let id = waiting.run("CLIENT ID")[1..].to_owned();
    assert_eq!(admin.run(&format!("CLIENT UNBLOCK {id}")), ":0", "it does not wait");
    for (reason, reply) in
        [("", ":0"), (" timeout", ":0"), (" ERROR", "-UNBLOCKED client unblocked via CLIENT UNBLOCK")]
    {
        waiting.send(&["WAIT", "1", "0"]);
        until("the client waits", || admin.run("CLIENT LIST").contains(" flags=b "));
        assert_eq!(admin.run(&format!("CLIENT UNBLOCK {id}{reason}")), ":1");
        assert_eq!(waiting.read(), reply);
        assert_eq!(waiting.run("PING"), "+PONG");
    }
}

/// Lines that Redis 7.0 lacks.
const LATER: [&str; 14] = [
    "    * ID <client-id>",
    "      Kill connections by client id.",
    "    * MAXAGE <maxage>",
    "      Kill connections older than the specified age.",
    "SETINFO <option> <value>",
    "    Set client meta attr. Options are:",
    "    * LIB-NAME: the client lib name.",
    "    * LIB-VER: the client lib version.",
    "NO-TOUCH (ON|OFF)",
    "    Will not touch LRU/LFU stats when this mode is on.",
    "MYSHARDID",
    "    Print this help.",
    "    Return the node's shard id.",
    "    <id> <ip:port@bus-port[,hostname]> <flags> <master> <pings> <pongs> <epoch> <link> <slot> ...",
];

#[test]
fn help_has_the_lines_of_redis() {
    for name in ["CLIENT", "CLUSTER", "COMMAND", "CONFIG", "OBJECT", "PUBSUB"] {
        let args = ["--cluster-enabled", if name == "CLUSTER" { "yes" } else { "no" }];
        let (redis, node) = (Process::redis(&args), Process::node(&args));
        let (mut redis, mut node) = (Wire::connect(&redis), Wire::connect(&node));
        let (theirs, ours) = (redis.run(&format!("{name} HELP")), node.run(&format!("{name} HELP")));
        assert!(ours.len() > 100, "{ours}");
        for line in ours.trim_matches(['*', '[', ']']).split('+').map(str::trim_end) {
            let known = theirs.contains(line) || LATER.contains(&line);
            assert!(known, "{name} HELP of Redis lacks {line:?}: {theirs}");
        }
        let surplus = format!("{name} HELP me");
        assert_eq!(node.run(&surplus), redis.run(&surplus));
    }
}
