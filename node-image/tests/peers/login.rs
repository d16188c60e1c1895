//! Replicas that have to show who they are.

use crate::servers;
use crate::support::{Process, Run, until};

fn is_up(replica: &Process) -> bool {
    replica.info("master_link_status") == "up"
}

fn assert_follows(master_password: &str, master: &Process, replica: &Process) {
    until("the link is up", || is_up(replica));
    let mut connection = master.connect();
    let () = connection.run(&["AUTH", master_password]).unwrap();
    let () = connection.run(&["SET", "k", "v"]).unwrap();
    until("a write arrives", || replica.run::<Option<String>>(&["GET", "k"]).unwrap().is_some());
}

#[test]
fn a_node_logs_in_at_a_peer() {
    for peer in servers::all() {
        let master = peer.start(&["--requirepass", "open", "--repl-diskless-sync-delay", "0"]);
        let mut admin = master.connect();
        let () = admin.run(&["AUTH", "open"]).unwrap();
        // What Redis' documentation says that a replica needs, and nothing else.
        let () =
            admin.run(&["ACL", "SETUSER", "copy", "on", ">secret", "+psync", "+replconf", "+ping"]).unwrap();
        let follow = |more: &[&str]| {
            Process::node(&[&["--replicaof", "127.0.0.1", &master.port_text()], more].concat())
        };
        assert_follows("open", &master, &follow(&["--masteruser", "copy", "--masterauth", "secret"]));
        assert_follows("open", &master, &follow(&["--masterauth", "open"]));
        let wrong = follow(&["--masteruser", "copy", "--masterauth", "wrong"]);
        until("it says why it does not follow", || wrong.info("kv_link_error").contains("WRONGPASS"));
        assert!(!is_up(&wrong));
        let nameless = follow(&[]);
        until("it says that it must log in", || nameless.info("kv_link_error").contains("NOAUTH"));
        let () = nameless.run(&["CONFIG", "SET", "masterauth", "open"]).unwrap();
        until("it follows as soon as it can log in", || is_up(&nameless));
    }
}

#[test]
fn a_peer_logs_in_at_a_node() {
    let master = Process::node(&["--requirepass", "open"]);
    for peer in servers::all() {
        let follow =
            |more: &[&str]| peer.start(&[&["--replicaof", "127.0.0.1", &master.port_text()], more].concat());
        assert_follows("open", &master, &follow(&["--masterauth", "open"]));
        assert_follows("open", &master, &follow(&["--masteruser", "default", "--masterauth", "open"]));
        let wrong = follow(&["--masterauth", "wrong"]);
        until("it is refused", || wrong.log().contains("WRONGPASS"));
        assert!(!is_up(&wrong));
    }
}
