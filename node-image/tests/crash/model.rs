//! What a writer does, and what its keys hold after each step of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Keys of each type that a writer has.
const KEYS: u64 = 4;

/// Far in the future, in Unix milliseconds.
const FAR: u64 = 9_000_000_000_000;

/// One command.
pub type Command = Vec<String>;

/// The commands of a step; several are a transaction.
pub type Step = Vec<Command>;

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    String(String),
    List(VecDeque<String>),
    Hash(BTreeMap<String, String>),
    Set(BTreeSet<String>),
    Zset(BTreeMap<String, i64>),
}

/// A value and when it expires, in Unix milliseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub value: Value,
    pub expires: Option<u64>,
}

/// The keys of one writer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model(pub BTreeMap<String, Entry>);

/// A key that expires soon: it is written once and never looked at by a command.
pub fn is_short_lived(key: &str) -> bool {
    key.contains(":e")
}

/// Draws the next step of the writer called `name`. Every argument tells the steps apart by their `number`.
pub fn draw(random: &mut fastrand::Rng, name: &str, number: u64, now: u64) -> Step {
    let count = if random.u8(..5) == 0 { random.usize(2..5) } else { 1 };
    (0..count).map(|index| draw_command(random, name, number * 10 + index as u64, now)).collect()
}

fn draw_command(random: &mut fastrand::Rng, name: &str, number: u64, now: u64) -> Command {
    let index = random.u64(..KEYS);
    let key = |kind: &str| format!("{name}:{kind}{index}");
    let field = random.u64(..6).to_string();
    let any = random.choice(["s", "l", "h", "m", "z"]).unwrap();
    // Up to some thousand bytes, so that a write can be cut in the middle.
    let size = if random.u8(..20) == 0 { 5000 } else { random.usize(..30) };
    let text = format!("{number}{}", "x".repeat(size));
    let words: Vec<String> = match random.u8(..22) {
        0..=2 => vec!["SET".into(), key("s"), text],
        3 => vec!["APPEND".into(), key("s"), format!("+{number}")],
        4 | 5 => vec!["INCRBY".into(), key("c"), number.to_string()],
        6 => vec!["RPUSH".into(), key("l"), text, number.to_string()],
        7 => vec!["LPUSH".into(), key("l"), text],
        8 => vec!["LPOP".into(), key("l")],
        9 => vec!["RPOP".into(), key("l")],
        10 | 11 => vec!["HSET".into(), key("h"), field, text],
        12 => vec!["HDEL".into(), key("h"), field],
        13 | 14 => vec!["SADD".into(), key("m"), number.to_string(), field],
        15 => vec!["SREM".into(), key("m"), field],
        16 => vec!["ZADD".into(), key("z"), number.to_string(), field],
        17 => vec!["ZINCRBY".into(), key("z"), "7".into(), field],
        18 => vec!["DEL".into(), key(any)],
        19 => vec!["PEXPIREAT".into(), key(any), (FAR + number).to_string()],
        20 => vec!["PERSIST".into(), key(any)],
        _ => {
            let at = now + random.u64(20..1500);
            vec!["SET".into(), format!("{name}:e{number}"), text, "PXAT".into(), at.to_string()]
        }
    };
    words
}

impl Model {
    pub fn apply(&mut self, step: &Step) {
        step.iter().for_each(|command| self.run(command));
    }

    fn run(&mut self, command: &Command) {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["SET", key, text, expiry @ ..] => {
                let expires = expiry.get(1).map(|at| at.parse().unwrap());
                let value = Value::String((*text).to_owned());
                self.0.insert((*key).to_owned(), Entry { value, expires });
            }
            ["DEL", key] => drop(self.0.remove(*key)),
            ["PEXPIREAT", key, at] => self.set_expiry(key, Some(at.parse().unwrap())),
            ["PERSIST", key] => self.set_expiry(key, None),
            [name, key, args @ ..] => self.change(name, key, args),
            _ => panic!("no such step: {command:?}"),
        }
    }

    fn set_expiry(&mut self, key: &str, expires: Option<u64>) {
        if let Some(entry) = self.0.get_mut(key) {
            entry.expires = expires;
        }
    }

    fn change(&mut self, name: &str, key: &str, args: &[&str]) {
        let entry =
            self.0.entry(key.to_owned()).or_insert_with(|| Entry { value: empty(key), expires: None });
        match (&mut entry.value, name, args) {
            (Value::String(text), "APPEND", [more]) => text.push_str(more),
            (Value::String(text), "INCRBY", [by]) => {
                let sum = text.parse().unwrap_or(0_i64) + by.parse::<i64>().unwrap();
                *text = sum.to_string();
            }
            (Value::List(list), "RPUSH", items) => list.extend(items.iter().map(|item| (*item).to_owned())),
            (Value::List(list), "LPUSH", [item]) => list.push_front((*item).to_owned()),
            (Value::List(list), "LPOP", []) => drop(list.pop_front()),
            (Value::List(list), "RPOP", []) => drop(list.pop_back()),
            (Value::Hash(hash), "HSET", [field, text]) => {
                hash.insert((*field).to_owned(), (*text).to_owned());
            }
            (Value::Hash(hash), "HDEL", [field]) => drop(hash.remove(*field)),
            (Value::Set(set), "SADD", members) => set.extend(members.iter().map(|item| (*item).to_owned())),
            (Value::Set(set), "SREM", [member]) => _ = set.remove(*member),
            (Value::Zset(zset), "ZADD", [score, member]) => {
                zset.insert((*member).to_owned(), score.parse().unwrap());
            }
            (Value::Zset(zset), "ZINCRBY", [by, member]) => {
                *zset.entry((*member).to_owned()).or_default() += by.parse::<i64>().unwrap();
            }
            other => panic!("no such step: {other:?}"),
        }
        if is_empty(&entry.value) {
            self.0.remove(key);
        }
    }

    /// Forgets the keys that expire soon and are expired.
    pub fn expire(&mut self, now: u64) {
        self.0.retain(|key, entry| !is_short_lived(key) || entry.expires.is_none_or(|at| at > now));
    }
}

fn empty(key: &str) -> Value {
    match key.split(':').nth(1).and_then(|kind| kind.chars().next()) {
        Some('l') => Value::List(VecDeque::new()),
        Some('h') => Value::Hash(BTreeMap::new()),
        Some('m') => Value::Set(BTreeSet::new()),
        Some('z') => Value::Zset(BTreeMap::new()),
        _ => Value::String(String::new()),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::String(_) => false,
        Value::List(list) => list.is_empty(),
        Value::Hash(hash) => hash.is_empty(),
        Value::Set(set) => set.is_empty(),
        Value::Zset(zset) => zset.is_empty(),
    }
}
