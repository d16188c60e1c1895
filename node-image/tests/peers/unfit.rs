//! Peers that hold, or send, what a node has no place for: it says so and stops, and takes nothing half.

use crate::servers;
use crate::support::{Process, Run, until};

fn follow(master: &Process, more: &[&str]) -> Process {
    Process::node(&[&["--replicaof", "127.0.0.1", &master.port_text()], more].concat())
}

fn master(peer: &servers::Peer) -> Process {
    peer.start(&["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"])
}

fn get(server: &Process, key: &str) -> Option<String> {
    server.run(&["GET", key]).unwrap()
}

fn number(server: &Process, field: &str) -> u64 {
    server.info(field).parse().unwrap()
}

#[test]
fn a_value_of_an_unknown_type_is_named_and_nothing_of_its_snapshot_is_served() {
    for peer in servers::all() {
        let source = master(&peer);
        let () = source.run(&["SET", "before", "1"]).unwrap();
        let replica = follow(&source, &[]);
        until("it is in sync", || get(&replica, "before").is_some());
        let other = master(&peer);
        let () = other.run(&["SET", "other", "2"]).unwrap();
        let _: String = other.run(&["XADD", "events", "*", "f", "v"]).unwrap();
        let () = replica.run(&["REPLICAOF", "127.0.0.1", &other.port_text()]).unwrap();
        until("it says what it cannot load", || {
            let error = replica.info("kv_link_error");
            error.contains("\"events\"") && error.contains("a stream")
        });
        assert!(replica.log().contains("a stream"), "{}", replica.log());
        assert_eq!(get(&replica, "before").as_deref(), Some("1"), "what it held stays readable");
        assert_eq!(get(&replica, "other"), None);
        assert_eq!(replica.info("master_link_status"), "down");
        // Each attempt costs the master a snapshot: they get fewer.
        assert!(number(&other, "sync_full") <= 3, "{}", other.info("sync_full"));
        let () = other.run(&["DEL", "events"]).unwrap();
        until("it goes on by itself when that is gone", || get(&replica, "other").is_some());
        assert_eq!(replica.info("kv_link_error"), "");
        assert_eq!(get(&replica, "before"), None);
    }
}

#[test]
fn an_unknown_command_ends_the_link_and_is_neither_kept_nor_passed_on() {
    for peer in servers::all() {
        let source = master(&peer);
        let () = source.run(&["SET", "a", "1"]).unwrap();
        let mut replica = follow(&source, &["--appendonly", "yes"]);
        let leaf = follow(&replica, &[]);
        until("they are in sync", || get(&replica, "a").is_some() && get(&leaf, "a").is_some());
        let mut connection = source.connect();
        // Of a transaction nothing is applied either.
        let () = redis::pipe()
            .atomic()
            .cmd("SET")
            .arg("b")
            .arg(1)
            .cmd("XADD")
            .arg(&["events", "*", "f", "v"])
            .query::<redis::Value>(&mut connection)
            .map(drop)
            .unwrap();
        until("it is counted", || number(&replica, "kv_stream_refused") == 1);
        let error = replica.info("kv_link_error");
        assert!(error.contains("'XADD'") && error.contains("\"events\""), "{error}");
        assert!(replica.log().contains("'XADD'"));
        assert_eq!(get(&replica, "b"), None);
        // The leaf has lost nothing, and is not told either.
        assert_eq!(get(&leaf, "a").as_deref(), Some("1"));
        assert_eq!(number(&leaf, "kv_stream_refused"), 0);
        replica.stop();
        replica.restart();
        assert_eq!(get(&replica, "a").as_deref(), Some("1"), "its own file holds none of it");
        let () = connection.run(&["DEL", "events"]).unwrap();
        until("all get what is right", || get(&replica, "b").is_some() && get(&leaf, "b").is_some());
    }
}

#[test]
fn functions_are_left_out_and_told() {
    for peer in servers::all() {
        let source = master(&peer);
        let () = source.run(&["SET", "a", "1"]).unwrap();
        let mut replica = follow(&source, &["--appendonly", "yes"]);
        until("it is in sync", || get(&replica, "a").is_some());
        let code = "#!lua name=mine\nredis.register_function('f', function() return 1 end)";
        let () = source.run(&["FUNCTION", "LOAD", code]).unwrap();
        let () = source.run(&["SET", "b", "2"]).unwrap();
        until("what follows arrives", || get(&replica, "b").is_some());
        assert_eq!(number(&replica, "kv_stream_left_out"), 1);
        assert!(replica.log().contains("'FUNCTION'"), "{}", replica.log());
        assert_eq!(replica.info("master_repl_offset"), source.info("master_repl_offset"));
        replica.stop();
        replica.restart();
        assert_eq!(get(&replica, "b").as_deref(), Some("2"), "its own file can be loaded");
    }
}

#[test]
fn fields_that_expire_are_named_in_a_snapshot_and_in_the_stream() {
    for peer in servers::all() {
        let source = master(&peer);
        let () = source.run(&["HSET", "hash", "f", "v"]).unwrap();
        let replica = follow(&source, &[]);
        until("it is in sync", || replica.run::<bool>(&["HEXISTS", "hash", "f"]).unwrap());
        if source.run::<redis::Value>(&["HEXPIRE", "hash", "1000", "FIELDS", "1", "f"]).is_err() {
            continue; // an older one
        }
        until("the stream is refused", || {
            replica.info("kv_link_error").contains("'HPEXPIREAT' with \"hash\" first")
        });
        until("and so is the snapshot", || {
            replica.info("kv_link_error").contains("key \"hash\"")
                && replica.log().contains("whose fields expire")
        });
        assert!(replica.run::<bool>(&["HEXISTS", "hash", "f"]).unwrap(), "what it held stays readable");
        let _: i64 = source.run(&["DEL", "hash"]).unwrap();
        until("it goes on when that is gone", || !replica.run::<bool>(&["HEXISTS", "hash", "f"]).unwrap());
    }
}
