//! Turns a snapshot into a keyspace.

use std::io::BufRead;

use super::{Aux, Item, RdbError, RdbErrorKind, Value as Plain, read};
use crate::keyspace::Keyspace;
use crate::keyspace::value::{End, Hash, Kind, List, Set, Value, ZSet};

/// What was read from a snapshot.
#[derive(Debug)]
pub struct Loaded {
    /// The data, the expired keys included.
    pub keyspace: Keyspace,
    /// What the snapshot says of itself.
    pub aux: Aux,
}

/// Reads a whole snapshot into a new keyspace, and nothing of the input beyond its end.
///
/// # Errors
/// At the first byte that makes no sense, and if it holds databases that this node does not have.
pub fn load(input: impl BufRead, databases: usize) -> Result<Loaded, RdbError> {
    let mut keyspace = Keyspace::new(databases);
    let aux = read(input, |item| insert(&mut keyspace, item))?;
    Ok(Loaded { keyspace, aux })
}

fn insert(keyspace: &mut Keyspace, item: Item) -> Result<(), RdbErrorKind> {
    let db = usize::try_from(item.db).unwrap_or(usize::MAX);
    if db >= keyspace.databases() {
        return Err(RdbErrorKind::Database(item.db));
    }
    let value = convert(item.value);
    // No key may hold an empty collection; files of old servers do contain them.
    if !value.is_empty_collection() {
        keyspace.insert_loaded(db, &item.key, value, item.expire_at.unwrap_or(0));
    }
    Ok(())
}

fn convert(value: Plain) -> Value {
    match value {
        Plain::String(text) => Value::string(&text),
        Plain::List(items) => {
            let mut list = List::default();
            items.iter().for_each(|item| list.push(End::Right, item));
            list.into_value()
        }
        Plain::Set(members) => {
            let mut set = Set::default();
            for member in &members {
                set.insert(member);
            }
            set.into_value()
        }
        Plain::Hash(fields) => {
            let mut hash = Hash::default();
            for (field, content) in &fields {
                hash.set(field, content);
            }
            hash.into_value()
        }
        Plain::Zset(members) => {
            let mut zset = ZSet::default();
            for (member, score) in &members {
                zset.set(member, *score);
            }
            zset.into_value()
        }
    }
}
