//! Large values are freed on a thread of its own, as the directives say.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use support::{Process, Run, until};

#[test]
fn unlink_frees_elsewhere_whatever_the_directives_say() {
    let node = Process::node(&["--lazyfree-lazy-user-del", "no", "--lazyfree-lazy-user-flush", "no"]);
    let mut connection = node.connect();
    let mut freed_after = |words: &[&str]| {
        let members: Vec<String> = (0..10_000).map(|member| format!("member number {member}")).collect();
        redis::cmd("SADD").arg("k").arg(members).exec(&mut connection).unwrap();
        let _: redis::Value = connection.run(words).unwrap();
        until("nothing is to be freed", || node.info("lazyfree_pending_objects") == "0");
        node.info("lazyfreed_objects")
    };
    assert_eq!(freed_after(&["DEL", "k"]), "0");
    assert_eq!(freed_after(&["UNLINK", "k"]), "1");
    assert_eq!(freed_after(&["UNLINK", "k", "other"]), "2");
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
