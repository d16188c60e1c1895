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
