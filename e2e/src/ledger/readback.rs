//! Reads back all that was written, each key from the master that owns it, and looks for keys where they don't belong.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use kv_core::slot::key_slot;
use redis::{RedisResult, Value};

use super::Error;
use super::book::{Book, Kind};
use super::check::Found;
use super::route::{Access, Routes, Shard};

const CHUNK: usize = 200;
const ANSWER: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);

/// All that was found.
pub struct ReadBack {
    /// The keys with their values.
    pub found: Found,
    /// Keys on a master that does not own them, or on two.
    pub strays: Vec<String>,
}

/// Reads back the keys of all books, from whichever node owns them by then, until the deadline.
///
/// # Errors
/// If some key could not be read before the deadline.
pub async fn read_back(
    access: &Access,
    known: &[String],
    books: &[Book],
    prefix: &str,
    within: Duration,
) -> Result<ReadBack, Error> {
    let started = Instant::now();
    let mut wanted = keys(books);
    let mut found = Found::new();
    let mut last = String::new();
    while !wanted.is_empty() {
        let left = within.saturating_sub(started.elapsed());
        if left.is_zero() {
            let keys = wanted.values().map(Vec::len).sum();
            return Err(Error::Unreadable { keys, waited_s: within.as_secs(), last });
        }
        let routes = access.routes(known, left).await?;
        let mut again: HashMap<bool, Vec<String>> = HashMap::new();
        for shard in &routes.shards {
            for (is_list, keys) in &wanted {
                let own: Vec<&String> =
                    keys.iter().filter(|key| shard.slots.contains(key_slot(key.as_bytes()))).collect();
                let read = read_shard(access, shard, &own, *is_list, &mut found).await;
                if let Err(error) = read {
                    last = format!("{}: {error}", shard.master);
                    again.entry(*is_list).or_default().extend(own.into_iter().cloned());
                }
            }
        }
        wanted = again;
        if !wanted.is_empty() {
            tokio::time::sleep(PAUSE).await;
        }
    }
    let strays = loop {
        let left = within.saturating_sub(started.elapsed());
        let routes = access.routes(known, left).await?;
        match strays(access, &routes, prefix).await {
            Ok(strays) => break strays,
            Err(error) if left.is_zero() => {
                return Err(Error::Unreadable {
                    keys: 0,
                    waited_s: within.as_secs(),
                    last: error.to_string(),
                });
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    };
    Ok(ReadBack { found, strays })
}

/// The keys of all books, apart by whether they are lists.
fn keys(books: &[Book]) -> HashMap<bool, Vec<String>> {
    let mut keys: HashMap<bool, BTreeSet<String>> = HashMap::new();
    for book in books {
        let of_kind = keys.entry(matches!(book.kind, Kind::Append(_))).or_default();
        of_kind.extend((0..book.attempts.len()).map(|seq| book.key(seq)));
    }
    keys.into_iter().map(|(is_list, keys)| (is_list, keys.into_iter().collect())).collect()
}

async fn read_shard(
    access: &Access,
    shard: &Shard,
    keys: &[&String],
    is_list: bool,
    found: &mut Found,
) -> RedisResult<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let mut connection = access.connect(&shard.master, ANSWER).await?;
    for chunk in keys.chunks(if is_list { 1 } else { CHUNK }) {
        let mut pipeline = redis::pipe();
        for key in chunk {
            match is_list {
                true => pipeline.cmd("LRANGE").arg(key.as_str()).arg(0).arg(-1),
                false => pipeline.cmd("GET").arg(key.as_str()),
            };
        }
        let replies: Vec<Value> = pipeline.query_async(&mut connection).await?;
        for (key, reply) in chunk.iter().zip(replies) {
            let values: Vec<String> = match reply {
                Value::Nil => continue,
                Value::Array(elements) => redis::from_redis_value(Value::Array(elements))?,
                value => vec![redis::from_redis_value(value)?],
            };
            if !values.is_empty() {
                found.insert((*key).clone(), values);
            }
        }
    }
    Ok(())
}

/// Keys of this run that a master holds though their slot is another's.
async fn strays(access: &Access, routes: &Routes, prefix: &str) -> RedisResult<Vec<String>> {
    let mut strays = Vec::new();
    for shard in &routes.shards {
        let mut connection = access.connect(&shard.master, ANSWER).await?;
        let mut cursor = 0_u64;
        loop {
            let (next, keys): (u64, Vec<String>) = redis::cmd("SCAN")
                .arg(cursor)
                .arg("MATCH")
                .arg(format!("{prefix}*"))
                .arg("COUNT")
                .arg(1000)
                .query_async(&mut connection)
                .await?;
            strays.extend(keys.into_iter().filter(|key| !shard.slots.contains(key_slot(key.as_bytes()))));
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
    }
    Ok(strays)
}
