//! Reads a snapshot item by item. It trusts no byte: what makes no sense is an error with its offset.

use std::io::BufRead;

use kv_core::id::Epoch;

use super::source::Source;
use super::{Aux, Dialect, FIRST_WITH_CRC, RdbError, RdbErrorKind, kind, opcode, packed};
use crate::keyspace::Usage;
use crate::keyspace::value::{End, Hash, Kind, List, Set, Value, ZSet};

/// Bytes of a key that an error shows.
const SHOWN_KEY: usize = 128;

/// What a key holds.
#[derive(Debug)]
pub enum Content<'a> {
    /// A string.
    Text(&'a [u8]),
    /// Anything else. It may be empty.
    Collection(Value),
}

/// A key with its value.
#[derive(Debug)]
pub struct Item<'a> {
    /// The database.
    pub db: u64,
    /// The key.
    pub key: &'a [u8],
    /// What it holds.
    pub content: Content<'a>,
    /// When it expires, in Unix milliseconds; 0: never.
    pub expire_at: u64,
    /// How it was used, if the snapshot says so.
    pub usage: Option<Usage>,
}

/// Reads a whole snapshot, its checksum included and nothing beyond, and shows every item. Returns what it says of itself.
///
/// # Errors
/// At the first byte that makes no sense, or if `show` refuses an item. What was shown until then is not to be used.
pub fn read(
    input: impl BufRead,
    mut show: impl FnMut(Item<'_>) -> Result<(), RdbErrorKind>,
) -> Result<Aux, RdbError> {
    let mut source = Source::new(input);
    let version = header(&mut source)?;
    let mut aux = Aux::default();
    let (mut db, mut expire_at, mut usage) = (0, 0, None);
    let (mut key, mut text, mut builder) = (Vec::new(), Vec::new(), Builder::default());
    loop {
        match source.byte()? {
            opcode::EOF => break,
            opcode::SELECT_DB => db = source.length()?,
            opcode::EXPIRE_TIME_MS => expire_at = expiry(i64::from_le_bytes(source.array()?)),
            opcode::EXPIRE_TIME => {
                let seconds = i64::from(i32::from_le_bytes(source.array()?));
                expire_at = expiry(seconds * 1000);
            }
            opcode::IDLE => usage = Some(Usage::Idle(source.length()?)),
            opcode::FREQ => usage = Some(Usage::Frequency(source.byte()?)),
            opcode::AUX => {
                let (name, value) = (source.short_string()?, source.short_string()?);
                note_aux(&mut aux, &name, &value);
            }
            opcode @ opcode::SLOT_IMPORT..=opcode::RESIZE_DB => {
                skip(&mut source, opcode)?;
                aux.left_out += u32::from(matches!(opcode, opcode::FUNCTION2 | opcode::MODULE_AUX));
            }
            kind => {
                source.string(&mut key)?;
                let content = if kind == kind::STRING {
                    source.string(&mut text)?;
                    Content::Text(&text)
                } else {
                    Content::Collection(collection(&mut source, kind, &key, &mut text, &mut builder)?)
                };
                let item = Item { db, key: &key, content, expire_at, usage: usage.take() };
                expire_at = 0;
                show(item).map_err(|kind| source.error(kind))?;
            }
        }
    }
    if version >= FIRST_WITH_CRC {
        check(&mut source)?;
    }
    source.settle();
    Ok(aux)
}

fn header<R: BufRead>(source: &mut Source<R>) -> Result<u16, RdbError> {
    let head: [u8; 9] = source.array()?;
    let dialects = [Dialect::REDIS, Dialect::VALKEY];
    let found = dialects.iter().find_map(|dialect| Some((dialect, head.strip_prefix(dialect.magic)?)));
    let Some((dialect, digits)) = found.filter(|(_, digits)| digits.iter().all(u8::is_ascii_digit)) else {
        return Err(source.error(RdbErrorKind::NotRdb));
    };
    let version = digits.iter().fold(0, |number, digit| number * 10 + u16::from(digit - b'0'));
    if !dialect.versions.contains(&version) {
        return Err(source.error(RdbErrorKind::Version(version)));
    }
    Ok(version)
}

fn check<R: BufRead>(source: &mut Source<R>) -> Result<(), RdbError> {
    let expected = source.checksum();
    let found = u64::from_le_bytes(source.array()?);
    // 0: the writer was told to save the time (rdbchecksum no).
    if found != 0 && found != expected {
        return Err(source.error(RdbErrorKind::Checksum { expected, found }));
    }
    Ok(())
}

/// 0 stands for "never" in the keyspace; what expired before 1970 expires just after it.
fn expiry(millis: i64) -> u64 {
    u64::try_from(millis).unwrap_or(1).max(1)
}

fn note_aux(aux: &mut Aux, name: &[u8], value: &[u8]) {
    let Ok(text) = std::str::from_utf8(value) else { return };
    match name {
        b"redis-ver" | b"valkey-ver" => aux.redis_ver = Some(text.to_owned()),
        b"ctime" => aux.ctime = text.parse().ok(),
        b"used-mem" => aux.used_mem = text.parse().ok(),
        b"repl-id" => aux.repl_id = Some(text.to_owned()),
        b"repl-offset" => aux.repl_offset = text.parse().ok(),
        b"repl-stream-db" => aux.repl_stream_db = text.parse().ok(),
        b"kv-write-epoch" => aux.write_epoch = text.parse().ok().map(Epoch),
        b"aof-base" => aux.aof_base = text == "1",
        _ => {}
    }
}

/// Reads over what is no data: sizes, functions, and what modules keep beside the data.
fn skip<R: BufRead>(source: &mut Source<R>, opcode: u8) -> Result<(), RdbError> {
    match opcode {
        opcode::SLOT_INFO => (0..3).try_for_each(|_| source.length().map(drop)),
        opcode::RESIZE_DB => (0..2).try_for_each(|_| source.length().map(drop)),
        opcode::FUNCTION2 => source.short_string().map(drop),
        opcode::MODULE_AUX => skip_module_aux(source),
        opcode::FUNCTION_PRE_GA => {
            Err(source.error(RdbErrorKind::Unsupported("a function of a release candidate of Redis 7")))
        }
        opcode::SLOT_IMPORT => Err(source.error(RdbErrorKind::Unsupported("an unfinished import of slots"))),
        _ => Err(source.corrupt("an unknown operation")),
    }
}

fn skip_module_aux<R: BufRead>(source: &mut Source<R>) -> Result<(), RdbError> {
    source.length()?;
    loop {
        match source.length()? {
            0 => return Ok(()),
            1 | 2 => source.length().map(drop)?,
            3 => source.array::<4>().map(drop)?,
            4 => source.array::<8>().map(drop)?,
            5 => source.short_string().map(drop)?,
            _ => return Err(source.corrupt("an unknown type in the data of a module")),
        }
    }
}

fn shown(key: &[u8]) -> String {
    String::from_utf8_lossy(key.get(..SHOWN_KEY).unwrap_or(key)).into_owned()
}

/// Puts a collection together from its entries.
#[derive(Default)]
struct Builder {
    /// The first half of a pair, once it is there.
    first: Vec<u8>,
    half: bool,
    wrong: bool,
}

impl Builder {
    fn add(&mut self, value: &mut Value, entry: &[u8]) {
        match value {
            Value::Str(_) => {}
            Value::List(list) => list.push(End::Right, entry),
            Value::Set(set) => _ = set.insert(entry),
            Value::Hash(_) | Value::ZSet(_) if !self.half => {
                self.first.clear();
                self.first.extend_from_slice(entry);
                self.half = true;
            }
            Value::Hash(hash) => {
                hash.set(&self.first, entry);
                self.half = false;
            }
            Value::ZSet(zset) => {
                match number(entry) {
                    Some(score) => _ = zset.set(&self.first, score),
                    None => self.wrong = true,
                }
                self.half = false;
            }
        }
    }

    /// Whether all entries made sense. It is ready for another collection.
    fn finish(&mut self) -> Option<()> {
        let Self { half, wrong, .. } = *self;
        (self.half, self.wrong) = (false, false);
        (!half && !wrong).then_some(())
    }
}

fn collection<R: BufRead>(
    source: &mut Source<R>,
    kind: u8,
    key: &[u8],
    text: &mut Vec<u8>,
    builder: &mut Builder,
) -> Result<Value, RdbError> {
    let mut value = match kind {
        kind::LIST | kind::LIST_ZIPLIST | kind::LIST_QUICKLIST | kind::LIST_QUICKLIST_2 => {
            List::default().into_value()
        }
        kind::SET | kind::SET_INTSET | kind::SET_LISTPACK => Set::default().into_value(),
        kind::HASH | kind::HASH_ZIPMAP | kind::HASH_ZIPLIST | kind::HASH_LISTPACK => {
            Hash::default().into_value()
        }
        kind::ZSET | kind::ZSET_2 | kind::ZSET_ZIPLIST | kind::ZSET_LISTPACK => ZSet::default().into_value(),
        _ => return Err(source.error(RdbErrorKind::UnsupportedType { key: shown(key), kind })),
    };
    let mut add = |entry: &[u8]| builder.add(&mut value, entry);
    let read = match kind {
        kind::LIST | kind::SET => entries(source, 1, text, add)?,
        kind::HASH => entries(source, 2, text, add)?,
        kind::ZSET | kind::ZSET_2 => zset(source, kind, text, &mut value)?,
        kind::LIST_QUICKLIST => quicklist(source, false, text, add)?,
        kind::LIST_QUICKLIST_2 => quicklist(source, true, text, add)?,
        _ => {
            source.string(text)?;
            match kind {
                kind::HASH_ZIPMAP => packed::zipmap(text, &mut add),
                kind::SET_INTSET => packed::intset(text, &mut add),
                kind::LIST_ZIPLIST | kind::ZSET_ZIPLIST | kind::HASH_ZIPLIST => {
                    packed::ziplist(text, &mut add)
                }
                _ => packed::listpack(text, &mut add),
            }
        }
    };
    let whole = builder.finish();
    read.and(whole).map(|()| value).ok_or_else(|| {
        let what = "a packed collection or a score does not read";
        source.error(RdbErrorKind::CorruptValue { key: shown(key), what })
    })
}

/// A count, and that many strings times `width`.
fn entries<R: BufRead>(
    source: &mut Source<R>,
    width: u64,
    text: &mut Vec<u8>,
    mut add: impl FnMut(&[u8]),
) -> Result<Option<()>, RdbError> {
    let count = source.length()?.checked_mul(width).ok_or_else(|| source.corrupt("an impossible count"))?;
    for _ in 0..count {
        source.string(text)?;
        add(text);
    }
    Ok(Some(()))
}

fn number(text: &[u8]) -> Option<f64> {
    std::str::from_utf8(text).ok()?.parse::<f64>().ok().filter(|score| !score.is_nan())
}

fn zset<R: BufRead>(
    source: &mut Source<R>,
    kind: u8,
    text: &mut Vec<u8>,
    value: &mut Value,
) -> Result<Option<()>, RdbError> {
    for _ in 0..source.length()? {
        source.string(text)?;
        let score = match kind {
            kind::ZSET_2 => Some(f64::from_le_bytes(source.array()?)).filter(|score| !score.is_nan()),
            _ => text_score(source)?,
        };
        let (Some(score), Value::ZSet(zset)) = (score, &mut *value) else { return Ok(None) };
        zset.set(text, score);
    }
    Ok(Some(()))
}

/// A score of the first version of sorted sets: a length or a mark, and decimal digits.
fn text_score<R: BufRead>(source: &mut Source<R>) -> Result<Option<f64>, RdbError> {
    Ok(match source.byte()? {
        253 => None,
        254 => Some(f64::INFINITY),
        255 => Some(f64::NEG_INFINITY),
        len => {
            let mut digits = Vec::new();
            source.append(len.into(), &mut digits)?;
            number(&digits)
        }
    })
}

/// A list of packed lists; from the second version on with single large elements between them.
fn quicklist<R: BufRead>(
    source: &mut Source<R>,
    second: bool,
    text: &mut Vec<u8>,
    mut add: impl FnMut(&[u8]),
) -> Result<Option<()>, RdbError> {
    const PLAIN: u64 = 1;
    const PACKED: u64 = 2;
    for _ in 0..source.length()? {
        let container = if second { source.length()? } else { PACKED };
        source.string(text)?;
        let read = match container {
            PLAIN => {
                add(text);
                Some(())
            }
            PACKED if second => packed::listpack(text, &mut add),
            PACKED => packed::ziplist(text, &mut add),
            _ => None,
        };
        if read.is_none() {
            return Ok(None);
        }
    }
    Ok(Some(()))
}
