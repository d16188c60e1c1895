//! Everything that a keyspace holds, in a form that can be compared, and whether it holds together.

use std::collections::{BTreeMap, BTreeSet};

use kv_core::slot::SLOT_COUNT;
use kv_node::keyspace::value::ZSet;
use kv_node::keyspace::{At, EntryRef, Keyspace, ValueRef};
use kv_node::persist::rdb::{Aux, Finisher, Format, RdbWriter};

type Bytes = Vec<u8>;

/// What a key holds. Scores are bits, so that they can be compared; -0 counts as 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Str(Bytes),
    List(Vec<Bytes>),
    Set(BTreeSet<Bytes>),
    Hash(BTreeMap<Bytes, Bytes>),
    ZSet(BTreeMap<Bytes, u64>),
}

impl From<ValueRef<'_>> for Content {
    fn from(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Str { bytes, .. } => Self::Str(bytes.to_vec()),
            ValueRef::List(list) => Self::List(list.iter().map(|item| item.to_vec()).collect()),
            ValueRef::Set(set) => Self::Set(set.iter().map(|member| member.to_vec()).collect()),
            ValueRef::Hash(hash) => {
                Self::Hash(hash.iter().map(|(field, value)| (field.to_vec(), value.to_vec())).collect())
            }
            ValueRef::ZSet(set) => Self::ZSet(
                set.iter().map(|(score, member)| (member.to_vec(), (score + 0.0).to_bits())).collect(),
            ),
        }
    }
}

/// By database and key: what it holds, and when it expires. Keys whose time is over are included.
pub type Contents = BTreeMap<(usize, Bytes), (Content, u64)>;

pub fn contents(keyspace: &Keyspace) -> Contents {
    let entries = entries(keyspace);
    entries
        .map(|(db, entry)| ((db, entry.key.to_vec()), (Content::from(entry.value), entry.expire_at)))
        .collect()
}

/// What a key holds in each database, and when it expires.
pub fn of_key(keyspace: &Keyspace, key: &[u8]) -> Vec<Option<(Content, u64)>> {
    let entry = |db| keyspace.peek(At { db, now: 0 }, key);
    (0..keyspace.databases())
        .map(|db| entry(db).map(|entry| (Content::from(entry.value), entry.expire_at)))
        .collect()
}

/// All entries with their databases, those whose time is over included.
fn entries(keyspace: &Keyspace) -> impl Iterator<Item = (usize, EntryRef<'_>)> {
    (0..keyspace.databases()).flat_map(move |db| {
        let next = move |slot: u16| keyspace.next_occupied_slot(db, slot).filter(|slot| *slot < SLOT_COUNT);
        let slots = std::iter::successors(next(0), move |slot| next(slot + 1));
        slots.flat_map(move |slot| keyspace.slot_entries(db, slot)).map(move |entry| (db, entry))
    })
}

/// A snapshot of the keyspace.
pub fn snapshot(keyspace: &Keyspace, aux: &Aux) -> Vec<u8> {
    let mut writer = RdbWriter::begin(aux, keyspace.tracking());
    entries(keyspace).for_each(|(db, entry)| writer.entry(db, &entry));
    writer.finish();
    let mut finisher = Finisher::new(Format::default());
    let mut bytes = finisher.finish(writer.take(), false);
    bytes.extend(finisher.end());
    bytes
}

/// Panics unless counts, orders and ways to look something up agree with each other.
pub fn check(keyspace: &Keyspace) {
    for db in 0..keyspace.databases() {
        let all: Vec<_> = entries(keyspace).filter(|(of, _)| *of == db).map(|(_, entry)| entry).collect();
        assert_eq!(keyspace.len(db), all.len(), "number of keys");
        let expiring = all.iter().filter(|entry| entry.expire_at != 0).count();
        assert_eq!(keyspace.expiring_len(db), expiring, "number of keys that expire");
        for entry in all {
            let found = keyspace.peek(At { db, now: 0 }, entry.key).expect("a key that is there is found");
            assert_eq!(Content::from(found.value), Content::from(entry.value));
            check_value(entry.value);
        }
    }
    assert_eq!(keyspace.total() == 0, keyspace.used_memory() == 0, "no keys, no memory");
}

fn check_value(value: ValueRef<'_>) {
    let len = match value {
        ValueRef::Str { .. } => return,
        ValueRef::List(list) => {
            let items: Vec<_> = list.iter().map(|item| item.to_vec()).collect();
            assert!((0..list.len()).all(|i| list.get(i).is_some_and(|item| *item == *items[i])));
            let mut back: Vec<_> = list.iter_back().map(|item| item.to_vec()).collect();
            back.reverse();
            assert_eq!(items, back, "a list read from both ends");
            assert_eq!(items.len(), list.len());
            list.len()
        }
        ValueRef::Set(set) => {
            assert!(set.iter().all(|member| set.contains(&member)), "members are found");
            set.len()
        }
        ValueRef::Hash(hash) => {
            let found = |field: &[u8], value: &[u8]| hash.get(field).is_some_and(|got| *got == *value);
            assert!(hash.iter().all(|(field, value)| found(&field, &value)), "fields are found");
            hash.len()
        }
        ValueRef::ZSet(set) => {
            let pairs: Vec<_> = set.iter().map(|(score, member)| (score, member.to_vec())).collect();
            assert!(
                pairs.is_sorted_by(|a, b| ZSet::order((a.0, &a.1), (b.0, &b.1)).is_lt()),
                "members are in order"
            );
            for (rank, (score, member)) in pairs.iter().enumerate() {
                assert_eq!((set.rank(member), set.score(member)), (Some(rank), Some(*score)));
            }
            set.len()
        }
    };
    let distinct = match Content::from(value) {
        Content::Set(members) => members.len(),
        Content::Hash(fields) => fields.len(),
        Content::ZSet(members) => members.len(),
        _ => len,
    };
    assert_eq!(len, distinct, "members are counted, and none is there twice");
    assert!(len > 0, "no key holds an empty collection");
}
