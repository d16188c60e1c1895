//! Keys as commands that make them.

use crate::keyspace::{EntryRef, ValueRef};
use crate::resp::{Protocol, Reply, format_float};
use crate::server::propagate::encode;

/// Bytes of a collection that stand in one command, about.
const PART: usize = 64 * 1024;

/// Appends the commands that make a key what it is, whatever it was before.
pub(super) fn push_entry(out: &mut Vec<u8>, entry: &EntryRef<'_>) {
    let mut digits = itoa::Buffer::new();
    let time = digits.format(entry.expire_at).as_bytes();
    let expires = entry.expire_at != 0;
    let key = entry.key;
    if let Some(bytes) = entry.value.string() {
        return match expires {
            true => encode(out, &[b"SET", key, bytes, b"PXAT", time]),
            false => encode(out, &[b"SET", key, bytes]),
        };
    }
    push_removal(out, key);
    match entry.value {
        ValueRef::Str { .. } => {}
        ValueRef::List(list) => {
            let mut parts = Parts::new(out, b"RPUSH", key);
            list.iter().for_each(|item| parts.add(&[&item]));
            parts.end();
        }
        ValueRef::Set(set) => {
            let mut parts = Parts::new(out, b"SADD", key);
            set.iter().for_each(|member| parts.add(&[&member]));
            parts.end();
        }
        ValueRef::Hash(hash) => {
            let mut parts = Parts::new(out, b"HSET", key);
            hash.iter().for_each(|(field, value)| parts.add(&[&field, &value]));
            parts.end();
        }
        ValueRef::ZSet(zset) => {
            let mut parts = Parts::new(out, b"ZADD", key);
            zset.iter().for_each(|(score, member)| parts.add(&[format_float(score).as_bytes(), &member]));
            parts.end();
        }
    }
    if expires {
        encode(out, &[b"PEXPIREAT", key, time]);
    }
}

/// Appends the command that removes a key.
pub(super) fn push_removal(out: &mut Vec<u8>, key: &[u8]) {
    encode(out, &[b"DEL", key]);
}

/// A command with many elements, in parts.
struct Parts<'a> {
    out: &'a mut Vec<u8>,
    name: &'a [u8],
    key: &'a [u8],
    words: usize,
    body: Vec<u8>,
}

impl<'a> Parts<'a> {
    fn new(out: &'a mut Vec<u8>, name: &'a [u8], key: &'a [u8]) -> Self {
        Self { out, name, key, words: 0, body: Vec::new() }
    }

    /// Adds words that belong together.
    fn add(&mut self, words: &[&[u8]]) {
        let mut reply = Reply::new(&mut self.body, Protocol::Resp2);
        words.iter().for_each(|word| reply.bulk(word));
        self.words += words.len();
        if self.body.len() >= PART {
            self.end();
        }
    }

    fn end(&mut self) {
        if self.words > 0 {
            let mut reply = Reply::new(self.out, Protocol::Resp2);
            reply.array(self.words + 2);
            reply.bulk(self.name);
            reply.bulk(self.key);
            reply.raw(&self.body);
            self.body.clear();
            self.words = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyspace::value::{End, Hash, List, Set, ZSet};
    use crate::keyspace::{At, Collection, Expire, Keyspace};

    const AT: At = At { db: 0, now: 1 };

    fn commands<T: Collection>(expire: Expire, fill: impl FnOnce(&mut T)) -> String {
        let mut keyspace = Keyspace::new(1);
        keyspace.upsert(AT, b"k", fill).unwrap();
        if let Expire::At(time) = expire {
            keyspace.set_expire(AT, b"k", time);
        }
        let mut out = Vec::new();
        push_entry(&mut out, &keyspace.peek(AT, b"k").unwrap());
        let text = String::from_utf8(out).unwrap();
        let words = text.split("\r\n").filter(|line| !line.starts_with(['*', '$']));
        words.collect::<Vec<_>>().join(" ").trim_end().to_owned()
    }

    #[test]
    fn each_type_is_made_anew_with_its_time_to_live() {
        let list = commands(Expire::At(5), |list: &mut List| {
            list.push(End::Right, b"a");
            list.push(End::Right, b"1");
        });
        assert_eq!(list, "DEL k RPUSH k a 1 PEXPIREAT k 5");
        assert_eq!(commands(Expire::Never, |set: &mut Set| _ = set.insert(b"m")), "DEL k SADD k m");
        assert_eq!(commands(Expire::Never, |hash: &mut Hash| _ = hash.set(b"f", b"v")), "DEL k HSET k f v");
        let zset = commands(Expire::Never, |zset: &mut ZSet| {
            zset.set(b"m", 0.1);
            zset.set(b"n", f64::INFINITY);
        });
        assert_eq!(zset, "DEL k ZADD k 0.1 m inf n");
        let mut keyspace = Keyspace::new(1);
        keyspace.set_str(AT, b"s", b"v", Expire::At(7));
        let mut out = Vec::new();
        push_entry(&mut out, &keyspace.peek(AT, b"s").unwrap());
        assert!(String::from_utf8(out).unwrap().ends_with("$4\r\nPXAT\r\n$1\r\n7\r\n"));
    }

    #[test]
    fn large_collections_come_in_parts() {
        let text = commands(Expire::Never, |list: &mut List| {
            (0..5000).for_each(|n| list.push(End::Right, format!("{n:0>30}").as_bytes()));
        });
        let pushes = text.matches("RPUSH k").count();
        assert!((2..10).contains(&pushes), "{pushes}");
        assert!(text.ends_with("4999"));
    }
}
