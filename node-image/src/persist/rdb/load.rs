//! Turns a snapshot into a keyspace.

use std::io::BufRead;
use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

use kv_core::slot::{Slot, key_slot};

use super::{Aux, Content, Item, RdbError, RdbErrorKind, read};
use crate::keyspace::{At, Keyspace, Usage};
use crate::warning;

/// What was read from a snapshot.
#[derive(Debug)]
pub struct Loaded {
    /// The data, the expired keys included.
    pub keyspace: Keyspace,
    /// What the snapshot says of itself.
    pub aux: Aux,
}

/// Strings that are put in order together: a few for each slot.
const BATCH: usize = 64 * 1024;

/// Bytes of a batch above which it is inserted.
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// Strings whose places are looked at together.
const AHEAD: usize = 32;

/// Reads a whole snapshot into a keyspace that is empty, and nothing of the input beyond its end.
///
/// # Errors
/// At the first byte that makes no sense, and if it holds databases that this node does not have.
pub fn load(input: impl BufRead, keyspace: Keyspace) -> Result<Loaded, RdbError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    let mut loader = Loader { keyspace, at: At { db: 0, now }, strings: Vec::new(), bytes: Vec::new() };
    let aux = read(input, |item| loader.insert(item))?;
    loader.flush();
    if aux.left_out > 0 {
        warning!(
            "{} libraries of functions, or data of modules, in the snapshot are left out: they are not supported",
            aux.left_out
        );
    }
    Ok(Loaded { keyspace: loader.keyspace, aux })
}

/// A string that is to be inserted.
struct Text {
    slot: Slot,
    key: Range<usize>,
    value: Range<usize>,
    expire_at: u64,
    usage: Option<Usage>,
}

/// Puts items into a keyspace, many strings at a time, in the order of their slots: other servers write keys in an order
/// that has nothing to do with where they stand here. The memory that some will go to is looked at for all of these first.
struct Loader {
    keyspace: Keyspace,
    /// The database of `strings`.
    at: At,
    strings: Vec<Text>,
    /// Keys and values of `strings`.
    bytes: Vec<u8>,
}

impl Loader {
    fn insert(&mut self, item: Item<'_>) -> Result<(), RdbErrorKind> {
        let db = usize::try_from(item.db).unwrap_or(usize::MAX);
        if db >= self.keyspace.databases() {
            return Err(RdbErrorKind::Database(item.db));
        }
        if db != self.at.db {
            self.flush();
            self.at.db = db;
        }
        match item.content {
            Content::Text(text) => {
                let (key, value) = (self.keep(item.key), self.keep(text));
                let (slot, expire_at, usage) = (key_slot(item.key), item.expire_at, item.usage);
                self.strings.push(Text { slot, key, value, expire_at, usage });
                if self.strings.len() >= BATCH || self.bytes.len() >= BATCH_BYTES {
                    self.flush();
                }
            }
            // No key may hold an empty collection; files of old servers do contain them.
            Content::Collection(value) if value.is_empty_collection() => {}
            Content::Collection(value) => {
                self.keyspace.load(self.at, item.key, value, item.expire_at, item.usage);
            }
        }
        Ok(())
    }

    fn keep(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }

    fn flush(&mut self) {
        let Self { keyspace, at, strings, bytes } = self;
        let part = |range: &Range<usize>| bytes.get(range.clone()).unwrap_or_default();
        strings.sort_by_key(|text| text.slot);
        for some in strings.chunks(AHEAD) {
            keyspace.warm(at.db, some.iter().map(|text| part(&text.key)));
            for text in some {
                keyspace.load_str(*at, part(&text.key), part(&text.value), text.expire_at, text.usage);
            }
        }
        keyspace.forget();
        strings.clear();
        bytes.clear();
    }
}
