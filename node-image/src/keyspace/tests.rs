//! Behaviour of the keyspace and of its values, against simple models.

use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::value::{Hash, Set, Value};
use super::*;

const AT: At = At { db: 0, now: 1000 };

fn later(now: u64) -> At {
    At { db: 0, now }
}

#[test]
fn a_keyspace_can_be_handed_to_another_thread() {
    fn is_send<T: Send>() {}
    is_send::<Keyspace>();
}

#[test]
fn expired_keys_by_mode() {
    for (mode, seen, kept, recorded) in
        [(ExpiryMode::Delete, false, 0, 1), (ExpiryMode::Hide, false, 1, 0), (ExpiryMode::Ignore, true, 1, 0)]
    {
        let mut keyspace = Keyspace::new(16);
        keyspace.set_expiry_mode(mode);
        keyspace.insert(AT, b"k", Value::string(b"v"), Expire::At(1500));
        assert!(keyspace.find(later(1500), b"k").is_some());
        assert_eq!(keyspace.find(later(1501), b"k").is_some(), seen, "{mode:?}");
        assert_eq!(keyspace.entries(later(1501)).count(), usize::from(seen), "{mode:?}");
        assert_eq!(keyspace.len(0), kept, "{mode:?}");
        assert_eq!(keyspace.take_expired().len(), recorded, "{mode:?}");
    }
}

#[test]
fn the_removal_of_a_hidden_key_is_a_change_to_who_watched_it() {
    let mut keyspace = Keyspace::new(1);
    keyspace.set_expiry_mode(ExpiryMode::Hide);
    keyspace.insert(AT, b"k", Value::string(b"v"), Expire::At(1500));
    let ticket = keyspace.watch(AT, b"k");
    assert!(!keyspace.remove(later(2000), b"k"));
    assert!(keyspace.changed_since(later(2000), b"k", ticket));
}

#[test]
fn the_expiry_cycle_removes_what_is_due_within_its_budget() {
    let mut keyspace = Keyspace::new(2);
    for i in 0..1000u64 {
        let expire = if i % 2 == 0 { Expire::At(2000 + i) } else { Expire::Never };
        let at = At { db: (i % 4 / 2) as usize, now: 1000 };
        keyspace.insert(at, format!("key:{i}").as_bytes(), Value::string(b"v"), expire);
    }
    let found = keyspace.expire_cycle(2000, 100_000);
    assert_eq!(found, ExpirySearch { round: true, ..found });
    assert_eq!(found.expired, 0);
    assert!(keyspace.expire_cycle(2501, 100).expired <= 100);
    for _ in 0..100 {
        keyspace.expire_cycle(2501, 100);
    }
    assert_eq!(keyspace.len(0) + keyspace.len(1), 1000 - 251);
    assert_eq!(keyspace.take_expired().len(), 251);
    assert_eq!(keyspace.expiring_len(0) + keyspace.expiring_len(1), 249);
}

#[test]
fn many_expired_keys_of_one_slot_go_bit_by_bit() {
    let mut keyspace = Keyspace::new(1);
    for i in 0..500 {
        keyspace.insert(AT, format!("{{tag}}{i}").as_bytes(), Value::string(b"v"), Expire::At(1001));
    }
    let mut rounds = 0;
    while !keyspace.is_empty() {
        keyspace.expire_cycle(2000, 50);
        rounds += 1;
        assert!(rounds <= 20, "{} keys left", keyspace.len(0));
    }
    assert!(rounds >= 5);
    assert_eq!(keyspace.used_memory(), 0);
}

#[test]
fn a_scan_shows_every_key_once() {
    let mut keyspace = Keyspace::new(1);
    for i in 0..1000 {
        keyspace.insert(AT, format!("key:{i}").as_bytes(), Value::string(b"v"), Expire::Never);
    }
    let mut seen = Vec::new();
    let mut cursor = 0;
    loop {
        cursor = keyspace.scan(AT, cursor, 10, |entry| seen.push(entry.key.to_vec()));
        if cursor == 0 {
            break;
        }
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 1000);
}

#[test]
fn flush_swap_and_replace() {
    let mut keyspace = Keyspace::new(2);
    keyspace.insert(AT, b"a", Value::string(b"1"), Expire::Never);
    assert!(keyspace.swap_databases(0, 1));
    assert!(!keyspace.swap_databases(0, 2));
    assert_eq!((keyspace.len(0), keyspace.len(1)), (0, 1));
    let mut loaded = Keyspace::new(1);
    loaded.insert_loaded(0, b"b", Value::string(b"2"), 0);
    keyspace.replace_all(loaded);
    assert_eq!((keyspace.len(0), keyspace.len(1), keyspace.databases()), (1, 0, 2));
    keyspace.flush(0, true);
    assert!(keyspace.is_empty());
    assert_eq!(keyspace.used_memory(), 0);
}

#[test]
fn a_collection_takes_the_place_of_a_string_of_any_length() {
    for len in 0..20 {
        let mut keyspace = Keyspace::new(1);
        keyspace.set_str(AT, b"{t}k", &vec![b'x'; len], Expire::Never);
        (0..100).for_each(|i| keyspace.set_str(AT, format!("{{t}}{i}").as_bytes(), b"v", Expire::Never));
        for _ in 0..20 {
            let mut set = Set::default();
            set.insert(b"m");
            keyspace.insert(AT, b"{t}k", set.into_value(), Expire::Never);
            assert_eq!(keyspace.read::<Set>(AT, b"{t}k").unwrap().unwrap().len(), 1);
            keyspace.set_str(AT, b"{t}k", &vec![b'x'; len], Expire::Never);
            assert_eq!(keyspace.read_str(AT, b"{t}k").unwrap().unwrap().len(), len);
        }
        assert_eq!(keyspace.len(0), 101);
    }
}

#[test]
fn what_was_noted_of_keys_does_not_outlive_their_database() {
    type Change = fn(&mut Keyspace);
    let changes: [Change; 5] = [
        |_| {},
        |keyspace| keyspace.flush(0, true),
        |keyspace| keyspace.flush_all(true),
        |keyspace| assert!(keyspace.swap_databases(0, 1)),
        |keyspace| {
            let mut loaded = Keyspace::new(2);
            loaded.set_str(AT, b"c", b"1", Expire::Never);
            keyspace.replace_all(loaded);
        },
    ];
    for change in changes {
        let mut keyspace = Keyspace::new(2);
        (0..2).for_each(|db| keyspace.set_str(At { db, ..AT }, b"b", b"1", Expire::Never));
        let keys = [b"a".to_vec(), b"b".to_vec(), b"a".to_vec()];
        keyspace.warm(0, keys.iter().map(Vec::as_slice));
        change(&mut keyspace);
        for key in &keys {
            keyspace.set_str(AT, key, b"v", Expire::Never);
            keyspace.upsert(AT, &[key, b"s".as_slice()].concat(), |set: &mut Set| set.insert(b"m")).unwrap();
        }
        keyspace.forget();
        for key in [b"a".as_slice(), b"b"] {
            assert_eq!(keyspace.read_str(AT, key).unwrap(), Some(b"v".as_slice()));
        }
        assert!(keyspace.slot_len(0, key_slot(b"a")) == 1 && keyspace.slot_len(0, key_slot(b"b")) == 1);
    }
}

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<(usize, Slot, usize)>>>);

impl WriteObserver for Seen {
    fn before_write(&mut self, db: usize, slot: Slot, page: &mut Page) {
        self.0.lock().unwrap().push((db, slot, page.len()));
    }

    fn before_flush(&mut self, _dbs: &[usize]) {}
}

#[test]
fn an_observer_sees_each_page_once_and_before_it_changes() {
    type Change = fn(&mut Keyspace);
    let changes: [Change; 6] = [
        |keyspace| keyspace.insert(AT, b"k", Value::string(b"w"), Expire::Never),
        |keyspace| _ = keyspace.set_expire(AT, b"k", 1002).unwrap(),
        |keyspace| _ = keyspace.find(later(2000), b"k").is_none(),
        |keyspace| _ = keyspace.remove(AT, b"k"),
        |keyspace| keyspace.set_str(AT, b"{k}new", b"", Expire::Never),
        |keyspace| keyspace.update_str(AT, b"k", |text| text.append(b"+")).unwrap(),
    ];
    for change in changes {
        let mut keyspace = Keyspace::new(1);
        keyspace.insert(AT, b"k", Value::string(b"v"), Expire::At(1500));
        let seen = Seen::default();
        keyspace.observe(Some(Box::new(seen.clone())));
        keyspace.find(AT, b"k");
        assert!(seen.0.lock().unwrap().is_empty());
        change(&mut keyspace);
        assert_eq!(*seen.0.lock().unwrap(), [(0, key_slot(b"k"), 1)]);
        keyspace.insert(AT, b"k", Value::string(b"x"), Expire::Never);
        assert_eq!(seen.0.lock().unwrap().len(), 1, "once is enough");
    }
}

#[test]
fn a_scan_of_one_slot_misses_no_key_that_stays_while_its_table_grows_and_shrinks() {
    let name = |i: u32| format!("{{tag}}{i}").into_bytes();
    for (before, after) in [(100, 5000), (5000, 100), (3000, 3000)] {
        let mut keyspace = Keyspace::new(1);
        (0..before).for_each(|i| keyspace.set_str(AT, &name(i), b"v", Expire::Never));
        let mut missing: std::collections::BTreeSet<_> = (0..before.min(after)).map(name).collect();
        let (mut cursor, mut at) = (0, before);
        let mut rounds = 0;
        loop {
            cursor = keyspace.scan(AT, cursor, 10, |entry| _ = missing.remove(entry.key));
            rounds += 1;
            for _ in 0..100 {
                if at < after {
                    keyspace.set_str(AT, &name(at), b"v", Expire::Never);
                    at += 1;
                } else if at > after {
                    at -= 1;
                    assert!(keyspace.remove(AT, &name(at)));
                }
            }
            if cursor == 0 {
                break;
            }
        }
        assert!(rounds > 2, "it took only {rounds} calls");
        assert!(missing.is_empty(), "{before} to {after}: {} missed", missing.len());
    }
}

#[test]
fn encodings_of_strings() {
    assert_eq!(Value::string(b"123").encoding(), "int");
    assert_eq!(Value::string(b"0123").encoding(), "embstr");
    assert_eq!(Value::string(&[b'a'; 45]).encoding(), "raw");
}

proptest! {
    #[test]
    fn memory_adds_up(changes in prop::collection::vec((0..200u8, 0..4u8, 0..600usize), 0..800)) {
        let mut keyspace = Keyspace::new(1);
        for (key, action, len) in changes {
            let key = [b"{t}".as_slice(), &[key]].concat();
            match action {
                0 => keyspace.insert(AT, &key, Value::string(&vec![b'x'; len]), Expire::Never),
                1 => _ = keyspace.remove(AT, &key),
                _ => _ = keyspace.upsert(AT, &key, |hash: &mut Hash| hash.set(&[len as u8], &vec![0; len])),
            }
        }
        let tables = (0..SLOT_COUNT).filter_map(|slot| keyspace.db(0)?.slot(slot));
        prop_assert_eq!(keyspace.used_memory(), tables.map(|table| table.recount()).sum::<usize>());
    }
}

#[test]
fn a_value_takes_no_more_room_than_its_largest_kind() {
    assert_eq!(size_of::<Value>(), 32);
    assert_eq!(size_of::<Page>(), 40);
}
