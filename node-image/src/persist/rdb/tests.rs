//! What Redis wrote is read, what we wrote is read back, and broken files are errors.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{
    Aux, Content, Epoch, Finisher, Format, Loaded, RdbError, RdbErrorKind, RdbWriter, kind, lzf, opcode, read,
};
use crate::keyspace::value::{End, Hash, Kind, List, Set, Value, ZSet};
use crate::keyspace::{At, Keyspace, Tracking, Usage};
use crate::persist::redis::Redis;

const BY_REDIS: &[u8] = include_bytes!("testdata/redis-7.0.rdb");

/// Everything that a keyspace holds, in an order and a form that can be compared.
pub(crate) fn content(keyspace: &Keyspace) -> BTreeMap<(usize, String), (String, u64)> {
    let mut content = BTreeMap::new();
    for db in 0..keyspace.databases() {
        let mut from = 0;
        while let Some(slot) = keyspace.next_occupied_slot(db, from) {
            for entry in keyspace.slot_entries(db, slot) {
                let key = String::from_utf8_lossy(entry.key).into_owned();
                content.insert((db, key), (shown(&entry.value.to_value()), entry.expire_at));
            }
            from = slot + 1;
        }
    }
    content
}

fn shown(value: &Value) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let sorted = |mut items: Vec<String>| {
        items.sort();
        items.join(" ")
    };
    match value {
        Value::Str(value) => text(value.bytes()),
        Value::List(value) => value.iter().map(|item| text(&item)).collect::<Vec<_>>().join(" "),
        Value::Set(value) => sorted(value.iter().map(|member| text(&member)).collect()),
        Value::Hash(value) => {
            sorted(value.iter().map(|(f, v)| format!("{}={}", text(&f), text(&v))).collect())
        }
        Value::ZSet(value) => value
            .iter()
            .map(|(score, member)| format!("{score}:{}", text(&member)))
            .collect::<Vec<_>>()
            .join(" "),
    }
}

fn load(input: impl BufRead, databases: usize) -> Result<Loaded, RdbError> {
    super::load(input, Keyspace::new(databases))
}

fn write(keyspace: &Keyspace, aux: &Aux) -> Vec<u8> {
    write_as(keyspace, aux, Format::default())
}

fn write_as(keyspace: &Keyspace, aux: &Aux, format: Format) -> Vec<u8> {
    let mut writer = RdbWriter::begin(aux, keyspace.tracking());
    let mut finisher = Finisher::new(format);
    let mut out = Vec::new();
    for db in 0..keyspace.databases() {
        for slot in 0..kv_core::slot::SLOT_COUNT {
            keyspace.slot_entries(db, slot).for_each(|entry| writer.entry(db, &entry));
            out.append(&mut finisher.finish(writer.take(), false));
        }
    }
    writer.finish();
    out.append(&mut finisher.finish(writer.take(), false));
    out.extend(finisher.end());
    out
}

fn sample() -> Keyspace {
    let mut keyspace = Keyspace::new(16);
    for text in ["", "plain", "0", "-1", "127", "128", "-32769", "2147483647", "2147483648", "007", "-0"] {
        keyspace.insert_loaded(0, text.as_bytes(), Value::string(text.as_bytes()), 0);
    }
    let long = "x".repeat(70_000);
    keyspace.insert_loaded(3, long.as_bytes(), Value::string(long.as_bytes()), 4_102_444_800_123);
    let mut list = List::default();
    (0..100).for_each(|n| list.push(End::Left, n.to_string().as_bytes()));
    keyspace.insert_loaded(3, b"list".as_slice(), list.into_value(), 1);
    let (mut set, mut hash, mut zset) = (Set::default(), Hash::default(), ZSet::default());
    for n in 0..20_000_u32 {
        set.insert(format!("m{n}").as_bytes());
        hash.set(n.to_string().as_bytes(), b"v");
        zset.set(n.to_string().as_bytes(), f64::from(n) / 3.0);
    }
    zset.set(b"low", f64::NEG_INFINITY);
    keyspace.insert_loaded(15, b"set".as_slice(), set.into_value(), 0);
    keyspace.insert_loaded(15, b"hash".as_slice(), hash.into_value(), 0);
    keyspace.insert_loaded(15, b"zset".as_slice(), zset.into_value(), 0);
    keyspace
}

#[test]
fn every_encoding_of_real_servers_is_read() {
    for (file, version) in [
        (BY_REDIS, "7.0.15"),
        (include_bytes!("testdata/redis-8.0.rdb"), "8.0.6"),
        (include_bytes!("testdata/valkey-9.1.rdb"), "9.1.2"),
    ] {
        let loaded = load(file, 16).unwrap();
        assert_eq!(loaded.aux.redis_ver.as_deref(), Some(version));
        assert_eq!(loaded.aux.left_out, 1, "a library of functions");
        check_made_content(&loaded);
    }
}

/// That all is there which `testdata/make.sh` makes.
fn check_made_content(loaded: &Loaded) {
    let content = content(&loaded.keyspace);
    let expect = |key: &str, value: &str| assert_eq!(content[&(0, key.to_owned())].0, value, "{key}");
    expect("string:text", "hello");
    expect("string:empty", "");
    expect("string:i8", "-5");
    expect("string:i16", "-3000");
    expect("string:i32", "2000000000");
    expect("string:i64", "9000000000000000000");
    expect("string:compressed", &"a".repeat(300));
    expect("string:long", &(1..=200).map(|n| format!("{n} ")).collect::<String>());
    expect("list:packed", &format!("a 1 -1 5000 -70000 3000000000 {}", "b".repeat(100)));
    expect("list:quick", "1 2 3 4 5 six seven");
    expect("list:plain", &format!("{} d", "c".repeat(9000)));
    expect("set:i16", "-3 1 300");
    expect("set:i32", "1 100000");
    expect("set:i64", "1 10000000000");
    expect("set:table", "3 a b");
    expect("hash:packed", "f=v g=2");
    expect("hash:table", &format!("f={} g=2", "d".repeat(100)));
    expect("zset:packed", "-inf:low 1:one 2.5:two inf:high");
    expect("zset:table", &format!("0.1:b 1:{}", "e".repeat(100)));
    assert_eq!(content[&(0, "expiring".into())], ("v".into(), 4_102_444_800_123));
    assert_eq!(content[&(9, "other".into())].0, "db");
    assert_eq!(content.len(), 21);
}

#[test]
fn what_is_written_is_read_back_and_nothing_beyond() {
    let aux = Aux {
        redis_ver: Some(kv_core::REDIS_VERSION.into()),
        ctime: Some(1_700_000_000),
        used_mem: Some(1 << 33),
        repl_id: Some("0123456789abcdef0123456789abcdef01234567".into()),
        repl_offset: Some(1 << 40),
        repl_stream_db: Some(3),
        write_epoch: Some(Epoch(7)),
        aof_base: true,
        left_out: 0,
    };
    let keyspace = sample();
    let mut bytes = write(&keyspace, &aux);
    bytes.extend_from_slice(b"what follows");
    // A small buffer, so that values span many of them.
    let mut input = BufReader::with_capacity(17, bytes.as_slice());
    let loaded = load(&mut input, 16).unwrap();
    assert_eq!(loaded.aux, aux);
    assert_eq!(content(&loaded.keyspace), content(&keyspace));
    let mut rest = String::new();
    input.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "what follows");
}

/// A file of Redis, and one of ours with each type, an expiry and a second database.
fn files() -> [Vec<u8>; 2] {
    let mut small = Keyspace::new(2);
    small.insert_loaded(0, b"text".as_slice(), Value::string(b"value"), 4_102_444_800_123);
    small.insert_loaded(0, b"number".as_slice(), Value::string(b"-70000"), 0);
    let (mut list, mut set, mut hash, mut zset) =
        (List::default(), Set::default(), Hash::default(), ZSet::default());
    list.push(End::Right, b"one");
    set.insert(b"two");
    hash.set(b"field", b"three");
    zset.set(b"four", 4.5);
    small.insert_loaded(0, b"list".as_slice(), list.into_value(), 0);
    small.insert_loaded(1, b"set".as_slice(), set.into_value(), 0);
    small.insert_loaded(1, b"hash".as_slice(), hash.into_value(), 1);
    small.insert_loaded(1, b"zset".as_slice(), zset.into_value(), 0);
    let aux = Aux { repl_offset: Some(77), write_epoch: Some(Epoch(7)), ..Aux::default() };
    [BY_REDIS.to_vec(), write(&small, &aux)]
}

#[test]
fn compression_and_checksum_are_a_matter_of_taste() {
    let keyspace = sample();
    let whole = write(&keyspace, &Aux::default());
    for (format, longer) in [
        (Format { compress: false, checksum: true }, true),
        (Format { compress: true, checksum: false }, false),
        (Format { compress: false, checksum: false }, true),
    ] {
        let bytes = write_as(&keyspace, &Aux::default(), format);
        assert_eq!(bytes.len() > whole.len(), longer);
        assert_eq!(bytes.ends_with(&[0; 8]), !format.checksum);
        assert_eq!(content(&load(bytes.as_slice(), 16).unwrap().keyspace), content(&keyspace));
    }
}

#[test]
fn a_piece_that_has_to_go_fast_is_not_compressed() {
    let mut keyspace = Keyspace::new(1);
    keyspace.insert_loaded(0, b"k", Value::string(&[b'v'; 1000]), 0);
    let piece = || {
        let mut writer = RdbWriter::begin(&Aux::default(), keyspace.tracking());
        keyspace.slot_entries(0, kv_core::slot::key_slot(b"k")).for_each(|entry| writer.entry(0, &entry));
        writer.finish();
        writer.take()
    };
    let lens = [false, true].map(|fast| {
        let mut finisher = Finisher::new(Format::default());
        let mut bytes = finisher.finish(piece(), fast);
        bytes.extend(finisher.end());
        assert_eq!(content(&load(bytes.as_slice(), 1).unwrap().keyspace), content(&keyspace));
        bytes.len()
    });
    assert!(lens[0] < 500 && lens[1] > 1000, "{lens:?}");
}

#[test]
fn strings_of_every_length_are_compressed_and_come_back() {
    for len in [19, 20, 21, 63, 64, 16_383, 16_384, 100_000] {
        let mut keyspace = Keyspace::new(1);
        let (short, long) = ("s".repeat(lzf::TOO_SHORT), "l".repeat(len));
        for (key, text) in [(&short, &short), (&long, &long)] {
            keyspace.insert_loaded(0, key.as_bytes(), Value::string(text.as_bytes()), 0);
        }
        let bytes = write(&keyspace, &Aux::default());
        assert!(bytes.len() < 4000, "{len}: {}", bytes.len());
        assert_eq!(content(&load(bytes.as_slice(), 1).unwrap().keyspace), content(&keyspace));
    }
}

#[test]
fn how_keys_were_used_comes_back_if_the_policy_asks_for_it() {
    let frequency = Tracking::Frequency { log_factor: 10, decay_minutes: 1 };
    for (tracking, usage) in [(Tracking::Recency, Usage::Idle(1000)), (frequency, Usage::Frequency(77))] {
        let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
        let at = At { db: 0, now };
        let mut keyspace = Keyspace::new(1).tracking_as(tracking);
        keyspace.load_str(at, b"k", b"v", 0, Some(usage));
        let aux = Aux { ctime: Some((now / 1000) as i64), ..Aux::default() };
        let bytes = write(&keyspace, &aux);
        let usage_of = |keyspace: &Keyspace| keyspace.peek(at, b"k").unwrap().usage(tracking, now);
        let same = super::load(bytes.as_slice(), Keyspace::new(1).tracking_as(tracking)).unwrap();
        match (usage_of(&same.keyspace), usage) {
            (Some(Usage::Idle(found)), Usage::Idle(wanted)) => {
                assert!(found.abs_diff(wanted) <= 2, "{found}")
            }
            (found, wanted) => assert_eq!(found, Some(wanted)),
        }
        let other = load(bytes.as_slice(), 1).unwrap();
        assert_eq!(usage_of(&other.keyspace), None);
    }
}

#[test]
fn a_cut_file_is_an_error_at_every_byte() {
    for file in files() {
        for len in 0..file.len() {
            let error = items(&file[..len]).unwrap_err();
            assert!(matches!(error.kind, RdbErrorKind::Truncated), "{len}: {error}");
            assert_eq!(error.offset, len as u64);
        }
    }
}

fn items(bytes: &[u8]) -> Result<(Vec<String>, Aux), RdbError> {
    let mut items = Vec::new();
    let aux = read(bytes, |item| {
        let value = match item.content {
            Content::Text(text) => format!("{text:?}"),
            Content::Collection(value) => shown(&value),
        };
        items.push(format!("{} {:?} {value} {} {:?}", item.db, item.key, item.expire_at, item.usage));
        Ok(())
    })?;
    Ok((items, aux))
}

#[test]
fn a_flipped_bit_is_an_error_or_changes_no_data() {
    for file in files() {
        let good = items(&file).unwrap();
        for at in 0..file.len() {
            for bit in 0..8 {
                let mut bytes = file.clone();
                bytes[at] ^= 1 << bit;
                if let Ok(found) = items(&bytes) {
                    assert_eq!(found, good, "byte {at}, bit {bit}");
                }
            }
        }
    }
}

#[test]
fn without_a_checksum_flipped_bits_do_not_panic() {
    let end = BY_REDIS.len() - 8;
    for at in 9..end {
        for bit in 0..8 {
            let mut bytes = BY_REDIS.to_vec();
            bytes[at] ^= 1 << bit;
            bytes[end..].fill(0);
            let _ = items(&bytes);
        }
    }
}

/// A file of version 9 without checksum, of one value under the key `k`.
fn one(kind: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = b"REDIS0009".to_vec();
    bytes.extend([kind, 1, b'k']);
    bytes.extend(value);
    bytes.push(opcode::EOF);
    bytes.extend([0; 8]);
    bytes
}

fn string(bytes: &[u8]) -> Vec<u8> {
    [&[bytes.len() as u8], bytes].concat()
}

/// A ziplist of "a" (text), 2 (immediate), -2 (8 bits), 1000 (16 bits), -70000 (24 bits), "bc" (14-bit length).
fn old_ziplist() -> Vec<u8> {
    let body = b"\0\x01a\x03\xf3\x02\xfe\xfe\x03\xc0\xe8\x03\x04\xf0\x90\xee\xfe\x05\x40\x02bc\xff";
    let mut bytes = (body.len() as u32 + 10).to_le_bytes().to_vec();
    bytes.extend([0, 0, 0, 0, 6, 0]);
    bytes.extend(body);
    bytes
}

/// A ziplist of "a", 1 (immediate), "b", "2.5".
fn scores_in_a_ziplist() -> Vec<u8> {
    let body = b"\0\x01a\x03\xf2\x02\x01b\x03\x032.5\xff";
    let mut bytes = (body.len() as u32 + 10).to_le_bytes().to_vec();
    bytes.extend([0, 0, 0, 0, 4, 0]);
    bytes.extend(body);
    bytes
}

#[test]
fn encodings_of_old_servers_are_read() {
    let ziplist = string(&old_ziplist());
    let cases: Vec<(u8, Vec<u8>, &str)> = vec![
        (kind::LIST_ZIPLIST, ziplist.clone(), "a 2 -2 1000 -70000 bc"),
        (kind::HASH_ZIPLIST, ziplist.clone(), "-2=1000 -70000=bc a=2"),
        (
            kind::LIST_QUICKLIST,
            [&[2], ziplist.as_slice(), &ziplist].concat(),
            "a 2 -2 1000 -70000 bc a 2 -2 1000 -70000 bc",
        ),
        (kind::LIST_QUICKLIST_2, b"\x01\x01\x05plain".to_vec(), "plain"),
        (kind::HASH_ZIPMAP, string(b"\x01\x01f\x01\x02v..\xff"), "f=v"),
        (kind::LIST, b"\x02\x01a\xc0\xfe".to_vec(), "a -2"),
        (kind::SET, b"\x02\x01b\xc1\xe8\x03".to_vec(), "1000 b"),
        (kind::HASH, b"\x01\x01f\xc2\0\0\0\x80".to_vec(), "f=-2147483648"),
        (kind::STRING, b"\xc3\x06\x0c\x01aa\xe0\x01\0".to_vec(), "aaaaaaaaaaaa"),
        (kind::SET_INTSET, string(b"\x02\0\0\0\x02\0\0\0\xff\xff\x05\0"), "-1 5"),
        (kind::ZSET_ZIPLIST, string(&scores_in_a_ziplist()), "1:a 2.5:b"),
        (kind::SET_LISTPACK, string(b"\x0c\0\0\0\x02\0\x81x\x02\x05\x01\xff"), "5 x"),
        (kind::ZSET, b"\x03\x01a\x031.5\x01b\xfe\x01c\xff".to_vec(), "-inf:c 1.5:a inf:b"),
    ];
    for (kind, value, text) in cases {
        let loaded = load(one(kind, &value).as_slice(), 16).unwrap_or_else(|error| panic!("{kind}: {error}"));
        assert_eq!(content(&loaded.keyspace)[&(0, "k".into())].0, text, "type {kind}");
    }
}

#[test]
fn errors_say_what_and_where() {
    for (bytes, text) in [
        (
            b"HELLO0009".to_vec(),
            "RDB, at byte 9: it does not begin with REDIS or VALKEY and a version: this is no RDB file",
        ),
        (
            b"REDIS0080".to_vec(),
            "RDB, at byte 9: version 80 is not supported (Redis' 1 to 12 and Valkey's 80 are): it was made by a newer server",
        ),
        (one(15, b""), "RDB, at byte 12: key \"k\" has type 15 (a stream), which is not supported"),
        (
            one(22, b""),
            "RDB, at byte 12: key \"k\" has type 22 (a hash whose fields expire), which is not supported",
        ),
        (b"VALKEY080\xf3".to_vec(), "RDB, at byte 10: an unfinished import of slots is not supported"),
        (
            one(kind::ZSET_2, b"\x01\x01a\0\0\0\0\0\0\xf8\x7f"),
            "RDB, at byte 23: the value of key \"k\" is corrupt: a packed collection or a score does not read",
        ),
        (
            b"REDIS0009\xfe\x10\x00\x01k\x01v\xff\0\0\0\0\0\0\0\0".to_vec(),
            "RDB, at byte 16: database 16 does not exist here: a cluster has database 0 only, another node as many as its directive databases says",
        ),
    ] {
        assert_eq!(load(bytes.as_slice(), 16).unwrap_err().to_string(), text);
    }
}

#[test]
fn what_is_no_data_is_passed_over() {
    // Functions, data of a module, sizes of a database and of a slot, uses of a key in both units.
    let mut bytes = b"VALKEY080\xf5\x03lua\xf7\x01\x02\x05\x05\x03abc\x04\0\0\0\0\0\0\0\0\0".to_vec();
    bytes.extend(
        b"\xfe\x01\xfb\x02\x01\xf4\x05\x02\x01\xfd\x01\0\0\0\xf8\x42\x01\0\x01k\x01v\xf9\x07\0\x01l\x01w\xff",
    );
    bytes.extend([0; 8]);
    let loaded = load(bytes.as_slice(), 2).unwrap();
    assert_eq!(loaded.aux.left_out, 2);
    let expected =
        [((1, "k".to_owned()), ("v".to_owned(), 1000)), ((1, "l".to_owned()), ("w".to_owned(), 0))];
    assert_eq!(content(&loaded.keyspace), BTreeMap::from(expected));
}

#[test]
fn claimed_lengths_take_no_memory() {
    // A string, a list and a compressed string of 2^60 elements or bytes.
    let huge = [&[0x81][..], &(1_u64 << 60).to_be_bytes()].concat();
    for (kind, value) in
        [(kind::STRING, huge.clone()), (kind::LIST, huge.clone()), (kind::SET_INTSET, huge.clone())]
    {
        assert!(load(one(kind, &value).as_slice(), 16).is_err());
    }
    let compressed = [&[0xc3, 1][..], &huge, b"x"].concat();
    assert!(load(one(kind::STRING, &compressed).as_slice(), 16).is_err());
}

#[test]
fn redis_reads_what_we_write() {
    let dir = tempfile::tempdir().unwrap();
    let aux = Aux { write_epoch: Some(Epoch(7)), repl_offset: Some(5), ..Aux::default() };
    std::fs::write(dir.path().join("dump.rdb"), write(&sample(), &aux)).unwrap();
    let Some(mut redis) = Redis::start(dir.path(), &[]) else { return };
    for (command, reply) in [
        ("DBSIZE", ":11"),
        ("GET -32769", "-32769"),
        ("GET -0", "-0"),
        ("SELECT 3", "+OK"),
        ("DBSIZE", ":1"), // the list has expired long ago
        ("SELECT 15", "+OK"),
        ("SCARD set", ":20000"),
        ("HGET hash 19999", "v"),
        ("ZSCORE zset 3", "1"),
        ("ZSCORE zset low", "-inf"),
    ] {
        assert_eq!(redis.ask(command), reply, "{command}");
    }
}
