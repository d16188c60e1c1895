//! A shard follows a server of others in place of a reign of its own (`spec.source`), and is cut over from it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use kv_core::control::{DataState, LinkState, NodeReport};
use kv_core::shard::ShardConfig;
use kv_core::source::{Source, Writers};
use redis::RedisResult;

use crate::servers;
use crate::support::shard::{Shard, accept, config, tell_map};
use crate::support::{Process, Run, until};

const KEYS: usize = 1000;

fn source(peer: &servers::Peer) -> Process {
    let source = peer.start(&["--repl-diskless-sync-delay", "0"]);
    let mut connection = source.connect();
    let mut pipe = redis::pipe();
    (0..KEYS).for_each(|n| _ = pipe.cmd("SET").arg(format!("key:{n}")).arg(n).ignore());
    let () = pipe.query(&mut connection).unwrap();
    source
}

fn of(source: &Process, writers: Writers) -> Option<Source> {
    Some(Source { host: "127.0.0.1".into(), port: source.port, secret: None, writers })
}

/// A shard that follows the source; its replicas stream.
fn shard(source: &Process, writers: Writers, replicas: usize) -> Shard {
    Shard::with(&[], replicas, |config| config.source = of(source, writers))
}

fn follows(node: &Process) -> bool {
    let report = node.report();
    report.data == DataState::Live && report.link.is_some_and(|link| link.state == LinkState::Streaming)
}

fn cut_over(node: &Process) -> NodeReport {
    node.control(&["CUTOVER", "uid", "0", &node.report().config.unwrap().epoch.to_string()]).unwrap()
}

fn problem(node: &Process) -> String {
    node.report().source.unwrap().problem.unwrap_or_default()
}

fn is_complete(node: &Process) -> bool {
    node.report().source.unwrap().complete
}

fn get(node: &Process, key: &str) -> Option<String> {
    let mut connection = node.connect();
    let () = connection.run(&["READONLY"]).unwrap();
    // It may have no data yet (LOADING).
    connection.run(&["GET", key]).unwrap_or_default()
}

fn set(node: &Process, key: &str) -> RedisResult<()> {
    node.run(&["SET", key, "1"])
}

fn number(node: &Process, field: &str) -> u64 {
    node.info(field).parse().unwrap()
}

#[test]
fn it_is_read_while_it_follows_and_written_once_all_is_here() {
    for peer in servers::all() {
        let source = source(&peer);
        let shard = shard(&source, Writers::Pause, 1);
        let (master, replica) = (&shard.nodes[0], &shard.nodes[1]);
        for node in [master, replica] {
            until("the data arrives", || get(node, "key:7").as_deref() == Some("7"));
            assert_eq!(node.report().keys, KEYS as u64);
        }
        let error = set(master, "ours").unwrap_err().to_string();
        assert!(
            error.contains(&format!("127.0.0.1:{}", source.port)) && error.contains("spec.source"),
            "{error}"
        );
        assert_eq!(set(master, "ours").unwrap_err().code(), Some("READONLY"));
        let () = source.run(&["SET", "late", "1"]).unwrap();
        until("what is written to the source arrives", || get(replica, "late").is_some());
        until("the lag is known", || master.report().source.unwrap().lag_bytes == Some(0));

        let mut next = ShardConfig { source: None, ..shard.config.clone() };
        next.epoch.0 += 16;
        let error = accept(master, &next).unwrap_err().to_string();
        assert!(error.contains("does not have all of"), "{error}");
        cut_over(master);
        until("all is here", || is_complete(master));
        let (sender, held) = mpsc::channel();
        let mut connection = source.connect();
        let writer = thread::spawn(move || {
            let written: RedisResult<()> = connection.run(&["SET", "too-late", "1"]);
            let _ = sender.send(written.is_ok());
        });
        let before = number(master, "sync_full");
        let report = accept(master, &next).unwrap();
        accept(replica, &next).unwrap();
        assert_eq!(report.source, None);
        set(master, "ours").unwrap();
        until("the replica goes on", || get(replica, "ours").is_some());
        assert_eq!(number(master, "sync_full"), before, "nobody was copied anew");
        assert!(held.try_recv().is_err(), "the source's writers are held still");
        assert_eq!(get(master, "too-late"), None);

        // The way back: the source goes on below the cluster, where it stands.
        let () = source.run(&["CLIENT", "UNPAUSE"]).unwrap();
        assert!(held.recv_timeout(Duration::from_secs(30)).unwrap());
        writer.join().unwrap();
        let () = source.run(&["REPLICAOF", "127.0.0.1", &master.port_text()]).unwrap();
        until("the source follows", || source.run::<Option<String>>(&["GET", "ours"]).unwrap().is_some());
        assert_eq!(source.run::<Option<String>>(&["GET", "too-late"]).unwrap(), None, "{}", source.log());
    }
}

#[test]
fn another_node_goes_on_to_follow_where_the_master_stood() {
    for peer in servers::all() {
        let source = source(&peer);
        let mut shard = shard(&source, Writers::Pause, 2);
        until("the master is in step", || follows(&shard.nodes[0]));
        shard.nodes[0].kill();
        let () = source.run(&["SET", "meanwhile", "1"]).unwrap();
        let next = ShardConfig {
            source: shard.config.source.clone(),
            ..config(18, &shard.nodes[1], &[&shard.nodes[2]])
        };
        tell_map(&[&shard.nodes[1], &shard.nodes[2]], &next);
        for node in &shard.nodes[1..] {
            accept(node, &next).unwrap();
            until("it goes on", || get(node, "meanwhile").is_some());
            assert_eq!(node.report().full_syncs, 1, "{}", node.log());
        }
        assert_eq!(number(&source, "sync_full"), 1);
        // The old one comes back as a replica, and a cut-over is the new one's.
        shard.nodes[0].restart();
        let next = ShardConfig { epoch: kv_core::id::Epoch(34), ..next };
        accept(&shard.nodes[1], &next).unwrap();
        cut_over(&shard.nodes[1]);
        until("all is here", || is_complete(&shard.nodes[1]));
        let next = ShardConfig { epoch: kv_core::id::Epoch(50), source: None, ..next };
        accept(&shard.nodes[1], &next).unwrap();
        set(&shard.nodes[1], "ours").unwrap();
        assert_eq!(number(&source, "sync_full"), 1);
    }
}

#[test]
fn what_has_no_place_here_is_named() {
    for peer in servers::all() {
        let source = source(&peer);
        let mut connection = source.connect();
        let () = connection.run(&["SELECT", "3"]).unwrap();
        let () = connection.run(&["SET", "elsewhere", "1"]).unwrap();
        let shard = Shard::with(&[], 0, |config| config.source = of(&source, Writers::Pause));
        let master = &shard.nodes[0];
        until("it names the database", || problem(master).contains("database 3"));
        let error = master.run::<Option<String>>(&["GET", "key:1"]).unwrap_err();
        assert_eq!(error.code(), Some("LOADING"), "{error}");
        let () = connection.run(&["FLUSHDB"]).unwrap();
        let _: String = source.run(&["XADD", "events", "*", "f", "v"]).unwrap();
        until("it names the key", || problem(master).contains("\"events\""));
        let () = source.run(&["DEL", "events"]).unwrap();
        until("it goes on by itself", || get(master, "key:1").is_some());
        // In the stream.
        let _: String = source.run(&["XADD", "events", "*", "f", "v"]).unwrap();
        until("it names the command", || problem(master).to_lowercase().contains("xadd"));
        assert_eq!(get(master, "key:1").as_deref(), Some("1"), "what it holds stays readable");
        assert!(!is_complete(master));
    }
}

#[test]
fn a_source_that_is_written_to_is_not_cut_over_from_if_its_writers_are_said_to_be_stopped() {
    for peer in servers::all() {
        let source = source(&peer);
        let shard = shard(&source, Writers::Stopped, 0);
        let master = &shard.nodes[0];
        until("it follows", || follows(master));
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let mut connection = source.connect();
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) && connection.run::<u64>(&["INCR", "count"]).is_ok() {}
            });
            cut_over(master);
            let told = std::panic::catch_unwind(|| {
                until("it says why it goes on", || problem(master).contains("still takes writes"));
            });
            stop.store(true, Ordering::SeqCst);
            assert!(told.is_ok() && !is_complete(master), "{}", master.log());
        });
        until("the cut-over is made when nothing is written", || {
            cut_over(master);
            is_complete(master)
        });
    }
}

#[test]
fn it_logs_in_and_says_what_it_may_not_do() {
    for peer in servers::all() {
        let source = source(&peer);
        let () =
            source.run(&["ACL", "SETUSER", "copy", "on", ">secret", "+psync", "+replconf", "+ping"]).unwrap();
        let shard = Shard::with(&[], 0, |config| config.source = of(&source, Writers::Pause));
        let master = &shard.nodes[0];
        let tell = |text: &str| master.control(&["CONFIG", text]).unwrap();
        tell(r#"{"masteruser":"copy","masterauth":"wrong"}"#);
        let () = source.run(&["CONFIG", "SET", "requirepass", "closed"]).unwrap();
        master.control(&["REPORT"]).unwrap();
        let mut admin = source.connect();
        let () = admin.run(&["AUTH", "closed"]).unwrap();
        let () = admin.run(&["CLIENT", "KILL", "TYPE", "replica"]).unwrap();
        until("it says that it cannot log in", || problem(master).contains("WRONGPASS"));
        tell(r#"{"masteruser":"copy","masterauth":"secret"}"#);
        until("it follows", || follows(master));
        until("it says that it does not know how far it is", || problem(master).contains("(INFO)"));
        let () = admin.run(&["ACL", "SETUSER", "copy", "+info"]).unwrap();
        until("it knows", || master.report().source.unwrap().lag_bytes.is_some());
        cut_over(master);
        until("it says that it may not hold writers", || problem(master).contains("CLIENT PAUSE"));
        let () = admin.run(&["ACL", "SETUSER", "copy", "+client"]).unwrap();
        until("all is here", || {
            cut_over(master);
            is_complete(master)
        });
        let shown: Vec<String> = master.run(&["CONFIG", "GET", "masterauth"]).unwrap();
        assert_eq!(shown, ["masterauth", ""], "clients are not told the source's password");
    }
}
