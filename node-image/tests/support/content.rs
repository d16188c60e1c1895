//! What a server holds, by type and element, so that two servers can be compared; and data of every type and encoding.

use std::collections::BTreeMap;

use redis::{Connection, Pipeline, Value};

use super::{Process, Run};

/// Far in the future, in Unix milliseconds.
pub const LATER: &str = "4102444800123";

/// The databases that are looked at.
pub const DATABASES: [usize; 2] = [0, 9];

/// What stands at a key: type, elements in an order of their own, and when it expires in Unix milliseconds, or -1.
pub type Item = (String, Vec<Vec<u8>>, i64);

/// What stands at which key of which database.
pub type Content = BTreeMap<(usize, Vec<u8>), Item>;

/// All that a server shows.
pub fn content(server: &Process) -> Content {
    let mut connection = server.connect();
    let mut content = Content::new();
    for db in DATABASES {
        let () = redis::cmd("SELECT").arg(db).query(&mut connection).unwrap();
        let keys: Vec<Vec<u8>> = connection.run(&["KEYS", "*"]).unwrap();
        for some in keys.chunks(500) {
            for (key, item) in some.iter().zip(items(&mut connection, some)) {
                // A key may expire while it is looked at.
                content.extend(item.map(|item| ((db, key.clone()), item)));
            }
        }
    }
    content
}

fn items(connection: &mut Connection, keys: &[Vec<u8>]) -> Vec<Option<Item>> {
    let ask = |connection: &mut Connection, command: fn(usize, &[u8], &mut Pipeline)| -> Vec<Value> {
        let mut pipe = redis::pipe();
        keys.iter().enumerate().for_each(|(index, key)| command(index, key, &mut pipe));
        pipe.query(connection).unwrap()
    };
    let kinds = ask(connection, |_, key, pipe| _ = pipe.cmd("TYPE").arg(key));
    let kinds: Vec<String> = kinds.into_iter().map(|kind| redis::from_redis_value(kind).unwrap()).collect();
    let mut pipe = redis::pipe();
    for (key, kind) in keys.iter().zip(&kinds) {
        match kind.as_str() {
            "list" => pipe.cmd("LRANGE").arg(key).arg(0).arg(-1),
            "set" => pipe.cmd("SMEMBERS").arg(key),
            "hash" => pipe.cmd("HGETALL").arg(key),
            "zset" => pipe.cmd("ZRANGE").arg(key).arg(0).arg(-1).arg("WITHSCORES"),
            "string" | "none" => pipe.cmd("GET").arg(key),
            other => panic!("{key:?} is a {other}"),
        };
    }
    let values: Vec<Value> = pipe.query(connection).unwrap();
    let expiries = ask(connection, |_, key, pipe| _ = pipe.cmd("PEXPIRETIME").arg(key));
    let item = |(kind, value, expires): (String, Value, Value)| {
        let expires: i64 = redis::from_redis_value(expires).unwrap();
        let elements = match kind.as_str() {
            "string" => vec![redis::from_redis_value::<Option<Vec<u8>>>(value).unwrap()?],
            "list" => redis::from_redis_value(value).unwrap(),
            "set" => sorted(value, 1),
            "hash" => sorted(value, 2),
            "zset" => ranked(value),
            _ => return None,
        };
        (expires != -2 && !elements.is_empty()).then_some((kind, elements, expires))
    };
    kinds.into_iter().zip(values).zip(expiries).map(|((kind, value), at)| item((kind, value, at))).collect()
}

/// The elements of what has no order, in groups of `width`.
fn sorted(reply: Value, width: usize) -> Vec<Vec<u8>> {
    let elements: Vec<Vec<u8>> = redis::from_redis_value(reply).unwrap();
    let mut groups: Vec<_> = elements.chunks(width).map(<[_]>::to_vec).collect();
    groups.sort();
    groups.concat()
}

/// Members and scores, each score in one form: servers differ in how many digits they print.
fn ranked(reply: Value) -> Vec<Vec<u8>> {
    let pairs: Vec<(Vec<u8>, f64)> = redis::from_redis_value(reply).unwrap();
    pairs.into_iter().flat_map(|(member, score)| [member, score.to_string().into_bytes()]).collect()
}

/// The first difference, if there is any.
pub fn difference(found: &Content, expected: &Content) -> Option<String> {
    for (at @ (db, key), value) in expected {
        let key = String::from_utf8_lossy(key);
        match found.get(at) {
            Some(other) if other == value => {}
            other => return Some(format!("{key} of database {db} is {other:?} instead of {value:?}")),
        }
    }
    let more = found.keys().find(|at| !expected.contains_key(*at))?;
    Some(format!("{} of database {} is too many", String::from_utf8_lossy(&more.1), more.0))
}

pub fn assert_same(found: &Content, expected: &Content, what: &str) {
    if let Some(difference) = difference(found, expected) {
        panic!("{what}: {:.2000}", difference);
    }
}

/// Keys of every type in every encoding of it, below a prefix.
pub fn fill(connection: &mut Connection, prefix: &str) {
    let mut run = |command: &str, key: &str, args: &[&str]| {
        let key = format!("{prefix}:{key}");
        let () = redis::cmd(command).arg(key).arg(args).query(connection).unwrap();
    };
    let (long, longer) = ("d".repeat(100), "c".repeat(9000));
    let numbers: Vec<String> = (0..1000).map(|n| (n * 37 - 500).to_string()).collect();
    let many: Vec<&str> = numbers.iter().map(String::as_str).collect();
    let scored: Vec<String> = (0..1000).map(|n| format!("{:e}", f64::from(n) / 7.0 - 30.0)).collect();
    let pairs: Vec<&str> =
        scored.iter().map(String::as_str).zip(many.iter().copied()).flat_map(|(a, b)| [a, b]).collect();
    for (name, value) in [
        ("text", "hello"),
        ("empty", ""),
        ("i8", "-5"),
        ("i16", "-3000"),
        ("i32", "2000000000"),
        ("i64", "9000000000000000000"),
        ("zeros", "007"),
        ("repeating", &longer),
        ("varied", &numbers.join(" ")),
    ] {
        run("SET", name, &[value]);
    }
    run("SET", "expiring", &["v", "PXAT", LATER]);
    run("APPEND", "raw", &["appended"]);
    run(
        "RPUSH",
        "list:packed",
        &["a", "1", "-1", "5000", "-70000", "3000000000", "9000000000000000000", &long],
    );
    run("RPUSH", "list:long", &many);
    run("RPUSH", "list:plain", &[&longer, "d"]);
    run("SADD", "set:i16", &["-3", "1", "300"]);
    run("SADD", "set:i32", &["1", "100000"]);
    run("SADD", "set:i64", &["1", "10000000000"]);
    run("SADD", "set:packed", &["a", "b", "3"]);
    run("SADD", "set:table", &[&long, "x"]);
    run("SADD", "set:many", &many);
    run("HSET", "hash:packed", &["f", "v", "g", "2", "empty", ""]);
    run("HSET", "hash:table", &["f", &long, "g", "2"]);
    run("HSET", "hash:many", &many);
    run("ZADD", "zset:packed", &["1", "one", "-inf", "low", "2.5", "two", "+inf", "high", "0.1", "tenth"]);
    run("ZADD", "zset:table", &["1", &long, "0.1", "b"]);
    run("ZADD", "zset:many", &pairs);
    for key in ["list:long", "set:many", "hash:many", "zset:many"] {
        run("PEXPIREAT", key, &[LATER]);
    }
    let () = connection.run(&["SELECT", "9"]).unwrap();
    let () = connection.run(&["SET", &format!("{prefix}:other"), "db"]).unwrap();
    let () = connection.run(&["SELECT", "0"]).unwrap();
}
