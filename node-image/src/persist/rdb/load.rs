//! Turns a snapshot into a keyspace.

use std::io::BufRead;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Aux, Content, Item, RdbError, RdbErrorKind, read};
use crate::keyspace::{At, Keyspace};
use crate::warning;

/// What was read from a snapshot.
#[derive(Debug)]
pub struct Loaded {
    /// The data, the expired keys included.
    pub keyspace: Keyspace,
    /// What the snapshot says of itself.
    pub aux: Aux,
}

/// Reads a whole snapshot into a keyspace that is empty, and nothing of the input beyond its end.
///
/// # Errors
/// At the first byte that makes no sense, and if it holds databases that this node does not have.
pub fn load(input: impl BufRead, mut keyspace: Keyspace) -> Result<Loaded, RdbError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    let aux = read(input, |item| insert(&mut keyspace, now, item))?;
    if aux.left_out > 0 {
        warning!(
            "{} libraries of functions, or data of modules, in the snapshot are left out: they are not supported",
            aux.left_out
        );
    }
    Ok(Loaded { keyspace, aux })
}

fn insert(keyspace: &mut Keyspace, now: u64, item: Item<'_>) -> Result<(), RdbErrorKind> {
    let db = usize::try_from(item.db).unwrap_or(usize::MAX);
    if db >= keyspace.databases() {
        return Err(RdbErrorKind::Database(item.db));
    }
    let at = At { db, now };
    match item.content {
        Content::Text(text) => keyspace.load_str(at, item.key, text, item.expire_at, item.usage),
        // No key may hold an empty collection; files of old servers do contain them.
        Content::Collection(value) if value.is_empty_collection() => {}
        Content::Collection(value) => keyspace.load(at, item.key, value, item.expire_at, item.usage),
    }
    Ok(())
}
