//! Bytes of resident memory that a key, or an element of a collection, costs.

use super::servers::{Program, Server};
use super::table::{Goal, Row, Unit};
use super::{Bench, Scale, Scenario, client};
use crate::cluster::Result;

/// Elements of a small collection.
const SMALL: usize = 100;
/// Seconds that a key with a TTL lives: longer than any run.
const TTL_S: u64 = 1_000_000;

/// Strings of one size, with or without a TTL.
pub(super) struct Keys {
    bytes: usize,
    ttl: bool,
    /// Most bytes that a key should take.
    goal: f64,
}

/// Strings as in the table.
pub(super) fn keys() -> Vec<Keys> {
    vec![
        Keys { bytes: 16, ttl: false, goal: 51.0 },
        Keys { bytes: 16, ttl: true, goal: 59.0 },
        Keys { bytes: 64, ttl: false, goal: 99.0 },
    ]
}

impl Scenario for Keys {
    fn rows(&self) -> Vec<Row> {
        let ttl = if self.ttl { ", TTL" } else { "" };
        let name = format!("memory of a key: 16-byte key, {}-byte value{ttl}", self.bytes);
        vec![Row::new(name, Unit::Bytes, Goal::Value(self.goal))]
    }

    fn rounds(&self, asked: usize) -> usize {
        asked.div_ceil(2)
    }

    fn run(&self, bench: &Bench, program: &Program) -> Result<Vec<f64>> {
        let value = client::value(self.bytes);
        growth(program, bench.scale.keys, bench.scale.keys, |number| {
            let mut command = redis::cmd("SET");
            command.arg(client::key(number)).arg(&value);
            if self.ttl {
                command.arg("EX").arg(TTL_S);
            }
            command
        })
    }
}

/// Many small collections, or a big one.
pub(super) struct Collections {
    kind: Kind,
    small: bool,
    count: usize,
}

#[derive(Clone, Copy)]
enum Kind {
    Hash,
    List,
    Set,
    Zset,
}

/// Each type in both sizes.
pub(super) fn collections(scale: Scale) -> Vec<Collections> {
    let kinds = [Kind::Hash, Kind::List, Kind::Set, Kind::Zset];
    let sizes = [(true, scale.collections * SMALL), (false, scale.elements)];
    let of = |(small, count)| kinds.map(|kind| Collections { kind, small, count });
    sizes.into_iter().flat_map(of).collect()
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Hash => "hash",
            Self::List => "list",
            Self::Set => "set",
            Self::Zset => "sorted set",
        }
    }

    /// The command that adds the elements `first`, `first` + 1 ... to a collection.
    fn add(self, key: &str, first: usize) -> redis::Cmd {
        let mut command = redis::cmd(match self {
            Self::Hash => "HSET",
            Self::List => "RPUSH",
            Self::Set => "SADD",
            Self::Zset => "ZADD",
        });
        command.arg(key);
        for number in first..first + SMALL {
            let element = format!("e{number:07}");
            match self {
                Self::Hash => command.arg(element).arg("v-8bytes"),
                Self::List | Self::Set => command.arg(element),
                Self::Zset => command.arg(number).arg(element),
            };
        }
        command
    }
}

impl Scenario for Collections {
    fn rows(&self) -> Vec<Row> {
        let size = if self.small { SMALL.to_string() } else { format!("{}M", self.count as f64 / 1e6) };
        let value = if matches!(self.kind, Kind::Hash) { " (field and value)" } else { "" };
        let name = format!("memory of an 8-byte element{value} in a {} of {size}", self.kind.name());
        vec![Row::new(name, Unit::Bytes, Goal::Ratio(0.9))]
    }

    fn rounds(&self, asked: usize) -> usize {
        asked.div_ceil(2)
    }

    fn run(&self, _: &Bench, program: &Program) -> Result<Vec<f64>> {
        growth(program, self.count, self.count / SMALL, |number| {
            if self.small {
                self.kind.add(&client::key(number), 0)
            } else {
                self.kind.add("big", number * SMALL)
            }
        })
    }
}

/// By how many bytes a new server grows for each of `things`, which so many `commands` add.
fn growth(
    program: &Program,
    things: usize,
    commands: usize,
    command: impl Fn(usize) -> redis::Cmd,
) -> Result<Vec<f64>> {
    let server = Server::start(program)?;
    let mut connection = server.connect()?;
    let before = server.settled_rss()?;
    client::send(&mut connection, commands, command)?;
    Ok(vec![(server.settled_rss()? - before) / things as f64])
}
