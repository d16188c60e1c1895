//! Large values are freed on a thread of its own, as the directives say.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::time::{Duration, Instant};

use redis::Connection;
use support::{Process, Run, until};

const MEMBERS: usize = 100_000;

fn fill(connection: &mut Connection) {
    for from in (0..MEMBERS).step_by(20_000) {
        let members: Vec<String> =
            (from..from + 20_000).map(|member| format!("a member of some length, number {member}")).collect();
        redis::cmd("SADD").arg("k").arg(members).exec(connection).unwrap();
    }
}

/// The least time that a command takes on a large set, of some attempts.
fn least(connection: &mut Connection, words: &[&str]) -> Duration {
    let times = (0..3).map(|_| {
        fill(connection);
        let before = Instant::now();
        let _: redis::Value = connection.run(words).unwrap();
        before.elapsed()
    });
    times.min().unwrap()
}

#[test]
fn what_is_freed_elsewhere_does_not_hold_the_others() {
    let node = Process::node(&["--lazyfree-lazy-user-del", "no", "--lazyfree-lazy-user-flush", "no"]);
    let mut connection = node.connect();
    let held = least(&mut connection, &["DEL", "k"]);
    assert_eq!(node.info("lazyfreed_objects"), "0");
    let unlinked = least(&mut connection, &["UNLINK", "k"]);
    assert!(unlinked * 4 < held, "UNLINK takes {unlinked:?}, DEL {held:?}");
    until("all is freed", || {
        (node.info("lazyfree_pending_objects"), node.info("lazyfreed_objects")) == ("0".into(), "3".into())
    });
    println!("{MEMBERS} members: DEL {held:?}, UNLINK {unlinked:?}");
}

#[test]
fn directives_say_what_is_freed_elsewhere() {
    let node = Process::node(&[]);
    let mut connection = node.connect();
    let directives = ["lazyfree-lazy-user-del", "lazyfree-lazy-server-del", "lazyfree-lazy-user-flush"];
    for directive in directives {
        for on in ["yes", "no"] {
            for other in directives {
                let value = if other == directive { on } else { "no" };
                let _: () = connection.run(&["CONFIG", "SET", other, value]).unwrap();
            }
            let words: &[&str] = match directive {
                "lazyfree-lazy-user-del" => &["DEL", "k"],
                "lazyfree-lazy-server-del" => &["SET", "k", "v"],
                _ => &["FLUSHALL"],
            };
            for member in 0..1000 {
                let _: () = connection.run(&["SADD", "k", &format!("member {member}")]).unwrap();
                let _: () = connection.run(&["SET", &format!("k{member}"), "v"]).unwrap();
            }
            let _: () = connection.run(&["CONFIG", "RESETSTAT"]).unwrap();
            let _: redis::Value = connection.run(words).unwrap();
            let objects = match (on, directive) {
                ("no", _) => "0",
                (_, "lazyfree-lazy-user-flush") => "1001",
                _ => "1",
            };
            until("what is to be freed elsewhere is", || {
                node.info("lazyfree_pending_objects") == "0" && node.info("lazyfreed_objects") == objects
            });
            let _: () = connection.run(&["DEL", "k"]).unwrap();
        }
    }
    let _: () = connection.run(&["MSET", "a", "1", "b", "2"]).unwrap();
    for (words, refused) in
        [(&["FLUSHALL", "SYNC"][..], false), (&["FLUSHDB", "ASYNC"], false), (&["FLUSHDB", "NOW"], true)]
    {
        assert_eq!(connection.run::<()>(words).is_err(), refused);
    }
}
