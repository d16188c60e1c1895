//! Reads a snapshot item by item. It trusts no byte: what makes no sense is an error with its offset.

use std::io::BufRead;

use kv_core::id::Epoch;

use super::source::Source;
use super::{Aux, FIRST_WITH_CRC, NEWEST_VERSION, RdbError, RdbErrorKind, kind, opcode, packed};

/// Bytes of a key that an error shows.
const SHOWN_KEY: usize = 128;

/// A value as it stands in a snapshot, unpacked.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A string.
    String(Vec<u8>),
    /// A list, from its left end.
    List(Vec<Vec<u8>>),
    /// A set.
    Set(Vec<Vec<u8>>),
    /// A hash: fields and their values.
    Hash(Vec<(Vec<u8>, Vec<u8>)>),
    /// A sorted set: members and their scores, none of them NaN.
    Zset(Vec<(Vec<u8>, f64)>),
}

/// A key with its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The database.
    pub db: u64,
    /// The key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Value,
    /// When it expires, in Unix milliseconds.
    pub expire_at: Option<u64>,
}

/// Reads a whole snapshot, its checksum included and nothing beyond, and shows every item. Returns what it says of itself.
///
/// # Errors
/// At the first byte that makes no sense, or if `show` refuses an item. What was shown until then is not to be used.
pub fn read(
    input: impl BufRead,
    mut show: impl FnMut(Item) -> Result<(), RdbErrorKind>,
) -> Result<Aux, RdbError> {
    let mut source = Source::new(input);
    let version = header(&mut source)?;
    let mut aux = Aux::default();
    let mut db = 0;
    let mut expire_at = None;
    loop {
        match source.byte()? {
            opcode::EOF => break,
            opcode::SELECT_DB => db = source.length()?,
            opcode::EXPIRE_TIME_MS => expire_at = Some(expiry(i64::from_le_bytes(source.array()?))),
            opcode::EXPIRE_TIME => {
                let seconds = i64::from(i32::from_le_bytes(source.array()?));
                expire_at = Some(expiry(seconds * 1000));
            }
            opcode::AUX => {
                let (name, value) = (source.string()?, source.string()?);
                note_aux(&mut aux, &name, &value);
            }
            opcode @ opcode::SLOT_INFO..=opcode::RESIZE_DB => skip(&mut source, opcode)?,
            kind => {
                let key = source.string()?;
                let value = value(&mut source, kind, &key)?;
                let item = Item { db, key, value, expire_at: expire_at.take() };
                show(item).map_err(|kind| source.error(kind))?;
            }
        }
    }
    if version >= FIRST_WITH_CRC {
        check(&mut source)?;
    }
    Ok(aux)
}

fn header<R: BufRead>(source: &mut Source<R>) -> Result<u16, RdbError> {
    let magic: [u8; 5] = source.array()?;
    let digits: [u8; 4] = source.array()?;
    if &magic != b"REDIS" || !digits.iter().all(u8::is_ascii_digit) {
        return Err(source.error(RdbErrorKind::NotRdb));
    }
    let version = digits.iter().fold(0, |number, digit| number * 10 + u16::from(digit - b'0'));
    if !(1..=NEWEST_VERSION).contains(&version) {
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
        b"redis-ver" => aux.redis_ver = Some(text.to_owned()),
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

/// Reads over what says nothing about the data: access statistics, sizes, functions, and data of modules.
fn skip<R: BufRead>(source: &mut Source<R>, opcode: u8) -> Result<(), RdbError> {
    match opcode {
        opcode::SLOT_INFO => (0..3).try_for_each(|_| source.length().map(drop)),
        opcode::RESIZE_DB => (0..2).try_for_each(|_| source.length().map(drop)),
        opcode::FUNCTION2 => source.string().map(drop),
        opcode::IDLE => source.length().map(drop),
        opcode::FREQ => source.byte().map(drop),
        opcode::MODULE_AUX => skip_module_aux(source),
        opcode::FUNCTION_PRE_GA => {
            Err(source.error(RdbErrorKind::Unsupported("a function of a release candidate of Redis 7")))
        }
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
            5 => source.string().map(drop)?,
            _ => return Err(source.corrupt("an unknown type in the data of a module")),
        }
    }
}

fn shown(key: &[u8]) -> String {
    String::from_utf8_lossy(key.get(..SHOWN_KEY).unwrap_or(key)).into_owned()
}

fn value<R: BufRead>(source: &mut Source<R>, kind: u8, key: &[u8]) -> Result<Value, RdbError> {
    let value = match kind {
        kind::STRING => Some(Value::String(source.string()?)),
        kind::LIST => Some(Value::List(strings(source, 1)?)),
        kind::SET => Some(Value::Set(strings(source, 1)?)),
        kind::HASH => strings(source, 2).map(hash)?,
        kind::ZSET | kind::ZSET_2 => zset(source, kind)?,
        kind::HASH_ZIPMAP => packed::zipmap(&source.string()?).and_then(hash),
        kind::LIST_ZIPLIST => packed::ziplist(&source.string()?).map(Value::List),
        kind::SET_INTSET => packed::intset(&source.string()?).map(Value::Set),
        kind::ZSET_ZIPLIST => packed::ziplist(&source.string()?).and_then(scored),
        kind::HASH_ZIPLIST => packed::ziplist(&source.string()?).and_then(hash),
        kind::LIST_QUICKLIST => quicklist(source, false)?,
        kind::HASH_LISTPACK => packed::listpack(&source.string()?).and_then(hash),
        kind::ZSET_LISTPACK => packed::listpack(&source.string()?).and_then(scored),
        kind::LIST_QUICKLIST_2 => quicklist(source, true)?,
        kind::SET_LISTPACK => packed::listpack(&source.string()?).map(Value::Set),
        _ => return Err(source.error(RdbErrorKind::UnsupportedType { key: shown(key), kind })),
    };
    value.ok_or_else(|| {
        let what = "a packed collection or a score does not read";
        source.error(RdbErrorKind::CorruptValue { key: shown(key), what })
    })
}

/// A count, and that many strings times `width`.
fn strings<R: BufRead>(source: &mut Source<R>, width: u64) -> Result<Vec<Vec<u8>>, RdbError> {
    let count = source.length()?.checked_mul(width).ok_or_else(|| source.corrupt("an impossible count"))?;
    (0..count).map(|_| source.string()).collect()
}

fn hash(entries: Vec<Vec<u8>>) -> Option<Value> {
    pairs(entries).map(Value::Hash)
}

fn scored(entries: Vec<Vec<u8>>) -> Option<Value> {
    let pairs = pairs(entries)?.into_iter();
    pairs.map(|(member, score)| Some((member, number(&score)?))).collect::<Option<_>>().map(Value::Zset)
}

fn pairs(entries: Vec<Vec<u8>>) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    if !entries.len().is_multiple_of(2) {
        return None;
    }
    let mut pairs = Vec::with_capacity(entries.len() / 2);
    let mut entries = entries.into_iter();
    while let (Some(first), Some(second)) = (entries.next(), entries.next()) {
        pairs.push((first, second));
    }
    Some(pairs)
}

fn number(text: &[u8]) -> Option<f64> {
    std::str::from_utf8(text).ok()?.parse::<f64>().ok().filter(|score| !score.is_nan())
}

fn zset<R: BufRead>(source: &mut Source<R>, kind: u8) -> Result<Option<Value>, RdbError> {
    let mut members = Vec::new();
    for _ in 0..source.length()? {
        let member = source.string()?;
        let score = match kind {
            kind::ZSET_2 => Some(f64::from_le_bytes(source.array()?)).filter(|score| !score.is_nan()),
            _ => text_score(source)?,
        };
        let Some(score) = score else { return Ok(None) };
        members.push((member, score));
    }
    Ok(Some(Value::Zset(members)))
}

/// A score of the first version of sorted sets: a length or a mark, and decimal digits.
fn text_score<R: BufRead>(source: &mut Source<R>) -> Result<Option<f64>, RdbError> {
    Ok(match source.byte()? {
        253 => None,
        254 => Some(f64::INFINITY),
        255 => Some(f64::NEG_INFINITY),
        len => number(&source.bytes(len.into())?),
    })
}

/// A list of packed lists; from the second version on with single large elements between them.
fn quicklist<R: BufRead>(source: &mut Source<R>, second: bool) -> Result<Option<Value>, RdbError> {
    const PLAIN: u64 = 1;
    const PACKED: u64 = 2;
    let mut list = Vec::new();
    for _ in 0..source.length()? {
        let container = if second { source.length()? } else { PACKED };
        let node = source.string()?;
        let entries = match container {
            PLAIN => Some(vec![node]),
            PACKED if second => packed::listpack(&node),
            PACKED => packed::ziplist(&node),
            _ => None,
        };
        let Some(mut entries) = entries else { return Ok(None) };
        list.append(&mut entries);
    }
    Ok(Some(Value::List(list)))
}
