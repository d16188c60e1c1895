use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::keyspace::value::{LONG, Str, Value};
use crate::keyspace::{At, Expire, ValueRef};
use crate::persist::rdb;

/// What clients do.
#[derive(Clone, Debug)]
enum Write {
    Set(usize, u8),
    Append(usize, u8),
    Delete(usize, u8),
    Expire(usize, u8),
    Step,
}

fn write() -> impl Strategy<Value = Write> {
    let place = || (0..2_usize, 0..250_u8);
    prop_oneof![
        place().prop_map(|(db, key)| Write::Set(db, key)),
        place().prop_map(|(db, key)| Write::Append(db, key)),
        place().prop_map(|(db, key)| Write::Delete(db, key)),
        place().prop_map(|(db, key)| Write::Expire(db, key)),
        Just(Write::Step),
    ]
}

fn apply(keyspace: &mut Keyspace, write: &Write, number: usize) {
    // Hash tags, so that many keys share a slot, and its table grows and shrinks.
    let name = |key: u8| format!("{{{}}}{key}", key / 100).into_bytes();
    match *write {
        Write::Set(db, key) => {
            let value = Value::string(number.to_string().as_bytes());
            keyspace.insert(At { db, now: 0 }, &name(key), value, Expire::Never);
        }
        Write::Append(db, key) => {
            keyspace.update_str(At { db, now: 0 }, &name(key), |value| value.append(b"+")).unwrap();
        }
        Write::Delete(db, key) => _ = keyspace.remove(At { db, now: 0 }, &name(key)),
        Write::Expire(db, key) => {
            keyspace.set_expire(At { db, now: 0 }, &name(key), 1000 + number as u64);
        }
        Write::Step => {}
    }
}

type Content = BTreeMap<(usize, Vec<u8>), (Vec<u8>, u64)>;

fn content(keyspace: &Keyspace) -> Content {
    let entries = (0..keyspace.databases())
        .flat_map(|db| keyspace.entries(At { db, now: 0 }).map(move |entry| (db, entry)));
    let text = |value: ValueRef<'_>| value.string().unwrap().to_vec();
    entries.map(|(db, entry)| ((db, entry.key.to_vec()), (text(entry.value), entry.expire_at))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_snapshot_is_the_state_at_its_start(
        before in prop::collection::vec(write(), 0..400),
        during in prop::collection::vec(write(), 0..400),
    ) {
        let mut keyspace = Keyspace::new(2);
        before.iter().enumerate().for_each(|(n, write)| apply(&mut keyspace, write, n));
        let expected = content(&keyspace);
        let mut walker = Walker::start(&mut keyspace, &rdb::Aux::default());
        let mut finisher = rdb::Finisher::new(rdb::Format::default());
        let mut output = Vec::new();
        for (n, write) in during.iter().enumerate() {
            match write {
                Write::Step => drop(walker.step(&mut keyspace, 1).unwrap()),
                other => apply(&mut keyspace, other, n + 1000),
            }
            output.append(&mut finisher.finish(walker.take_output(), false));
        }
        while !walker.step(&mut keyspace, 1).unwrap() {}
        output.append(&mut finisher.finish(walker.take_output(), false));
        output.extend(finisher.end());
        let loaded = rdb::load(output.as_slice(), Keyspace::new(2)).unwrap();
        prop_assert_eq!(content(&loaded.keyspace), expected);
        prop_assert!(keyspace.observe(None).is_none(), "a finished walker observes nothing");
    }
}

fn filled() -> Keyspace {
    let mut keyspace = Keyspace::new(2);
    (0..20).for_each(|key| apply(&mut keyspace, &Write::Set(0, key), 0));
    keyspace
}

#[test]
fn what_replaces_the_data_aborts_the_snapshot() {
    let flushes: [fn(&mut Keyspace); 4] = [
        |keyspace| keyspace.flush(1, true),
        |keyspace| keyspace.flush_all(true),
        |keyspace| assert!(keyspace.swap_databases(0, 1)),
        |keyspace| keyspace.replace_all(Keyspace::new(2)),
    ];
    for flush in flushes {
        let mut keyspace = filled();
        let mut walker = Walker::start(&mut keyspace, &rdb::Aux::default());
        assert_eq!(walker.step(&mut keyspace, 1), Ok(false));
        flush(&mut keyspace);
        assert_eq!(walker.step(&mut keyspace, 1), Err(Aborted::Flushed));
    }
}

#[test]
fn a_second_snapshot_aborts_the_first() {
    let mut keyspace = filled();
    let mut first = Walker::start(&mut keyspace, &rdb::Aux::default());
    let mut second = Walker::start(&mut keyspace, &rdb::Aux::default());
    assert_eq!(first.step(&mut keyspace, 1), Err(Aborted::NotObserved));
    first.cancel(&mut keyspace);
    assert_eq!(second.step(&mut keyspace, usize::MAX), Ok(true));
}

#[test]
fn a_long_string_is_saved_in_parts_as_it_was() {
    const LEN: usize = 5 << 20;
    const AT: At = At { db: 0, now: 0 };
    fn edit(keyspace: &mut Keyspace, key: &[u8], edit: fn(&mut Str)) {
        keyspace.update_str(AT, key, edit).unwrap();
    }
    let changes: [fn(&mut Keyspace); 6] = [
        |keyspace| edit(keyspace, b"long", |value| value.append(b"more")),
        |keyspace| edit(keyspace, b"long", |value| value.overwrite(LEN - 100, b"other")),
        |keyspace| keyspace.set_str(AT, b"long", b"short", Expire::Never),
        |keyspace| keyspace.set_str(AT, b"long", &vec![b'n'; LEN], Expire::Never),
        |keyspace| assert!(keyspace.delete(AT, b"long", true)),
        |keyspace| {
            let (value, _) = keyspace.take(AT, b"long").unwrap();
            keyspace.insert(AT, b"other name", value, Expire::Never);
        },
    ];
    for (number, change) in changes.iter().enumerate() {
        // Before it is shown, and in the middle.
        for steps in [0, 30] {
            let mut keyspace = filled();
            keyspace.set_str(AT, b"long", &vec![b'v'; LEN], Expire::At(5000));
            // One that became long in place.
            keyspace.set_str(AT, b"grown", &vec![b'g'; LONG - 1], Expire::Never);
            edit(&mut keyspace, b"grown", |value| value.append(b"rown"));
            let expected = content(&keyspace);
            let mut walker = Walker::start(&mut keyspace, &rdb::Aux::default());
            let mut finisher = rdb::Finisher::new(rdb::Format::default());
            let (mut output, mut most, mut done, mut step) = (Vec::new(), 0, false, 0);
            while !done {
                if step == steps {
                    change(&mut keyspace);
                }
                done = walker.step(&mut keyspace, 1).unwrap();
                let piece = walker.take_output();
                most = most.max(piece.len());
                output.append(&mut finisher.finish(piece, false));
                step += 1;
            }
            assert!(step > 60 && most < 256 * 1024, "{most} bytes in one of {step} steps");
            output.extend(finisher.end());
            let loaded = rdb::load(output.as_slice(), Keyspace::new(2)).unwrap();
            assert!(content(&loaded.keyspace) == expected, "change {number} at step {steps}");
        }
    }
}

mod collections {
    use super::*;
    use crate::keyspace::Expire;
    use crate::keyspace::value::{End, Hash, List, Set, ZSet};

    /// Which key: one of two of each type.
    type Key = (usize, usize);

    /// What clients do to large collections.
    #[derive(Clone, Debug)]
    enum Change {
        /// Adds or changes elements from one on.
        Put(Key, usize, usize),
        /// Removes them.
        Remove(Key, usize, usize),
        /// Lists only: what works on positions.
        Insert(usize, usize),
        Trim(usize, usize, usize),
        Delete(Key),
        Rename(Key, Key),
        Copy(Key, Key),
        /// To the other database, or back.
        Move(Key),
        Overwrite(Key),
        Expire(Key),
        Step,
    }

    const ELEMENTS: usize = 400;

    fn change() -> impl Strategy<Value = Change> {
        let key = || (0..4_usize, 0..2_usize);
        let element = || (0..ELEMENTS * 5 / 4, prop_oneof![4 => 1..4_usize, 1 => 1..ELEMENTS * 2]);
        prop_oneof![
            8 => (key(), element()).prop_map(|(key, (from, count))| Change::Put(key, from, count)),
            8 => (key(), element()).prop_map(|(key, (from, count))| Change::Remove(key, from, count)),
            4 => (0..2_usize, 0..ELEMENTS).prop_map(|(list, at)| Change::Insert(list, at)),
            1 => (0..2_usize, 0..ELEMENTS, 0..ELEMENTS).prop_map(|(list, from, len)| Change::Trim(list, from, len)),
            1 => key().prop_map(Change::Delete),
            2 => (key(), key()).prop_map(|(from, to)| Change::Rename(from, to)),
            1 => (key(), key()).prop_map(|(from, to)| Change::Copy(from, to)),
            1 => key().prop_map(Change::Move),
            1 => key().prop_map(Change::Overwrite),
            1 => key().prop_map(Change::Expire),
            20 => Just(Change::Step),
        ]
    }

    const AT: At = At { db: 0, now: 0 };

    fn name((kind, number): Key) -> Vec<u8> {
        // Some share a page, others do not.
        format!("{{{number}}}{kind}").into_bytes()
    }

    fn text(element: usize) -> Vec<u8> {
        format!("{element:0100}").into_bytes()
    }

    fn put(keyspace: &mut Keyspace, key: Key, elements: impl Iterator<Item = usize>, number: usize) {
        let name = name(key);
        // A key may hold another type after it was renamed: then nothing is done.
        elements.for_each(|element| match key.0 {
            0 => _ = keyspace.upsert(AT, &name, |v: &mut Hash| v.set(&text(element), &text(number))),
            1 => _ = keyspace.upsert(AT, &name, |v: &mut Set| v.insert(&text(element))),
            2 => {
                let end = if element % 2 == 0 { End::Left } else { End::Right };
                _ = keyspace.upsert(AT, &name, |v: &mut List| v.push(end, &text(element)));
            }
            _ => {
                let score = (element * 7 % 50 + number) as f64;
                _ = keyspace.upsert(AT, &name, |v: &mut ZSet| v.set(&text(element), score));
            }
        });
    }

    fn remove(keyspace: &mut Keyspace, key: Key, elements: impl Iterator<Item = usize>) {
        let name = name(key);
        elements.for_each(|element| match key.0 {
            0 => _ = keyspace.modify(AT, &name, |v: &mut Hash| v.remove(&text(element))),
            1 => _ = keyspace.modify(AT, &name, |v: &mut Set| v.remove(&text(element))),
            2 => {
                let end = if element % 2 == 0 { End::Left } else { End::Right };
                _ = keyspace.modify(AT, &name, |v: &mut List| match element % 3 {
                    0 => v.remove(end, 1, &text(element)) > 0,
                    _ => v.pop(end).is_some(),
                });
            }
            _ => _ = keyspace.modify(AT, &name, |v: &mut ZSet| v.remove(&text(element))),
        });
    }

    fn apply(keyspace: &mut Keyspace, change: &Change, number: usize) {
        match *change {
            Change::Put(key, from, count) => put(keyspace, key, from..from + count, number),
            Change::Remove(key, from, count) => remove(keyspace, key, from..from + count),
            Change::Insert(list, at) => {
                _ = keyspace.modify(AT, &name((2, list)), |v: &mut List| {
                    v.insert(at, &text(number));
                    v.set(at / 2, &text(number))
                });
            }
            Change::Trim(list, from, len) => {
                _ = keyspace.modify(AT, &name((2, list)), |v: &mut List| v.keep(from..from + len));
            }
            Change::Delete(key) => _ = keyspace.delete(AT, &name(key), true),
            Change::Rename(from, to) => {
                if let Some((value, expire_at)) = keyspace.take(AT, &name(from)) {
                    keyspace.insert_loaded(0, &name(to), value, expire_at);
                }
            }
            Change::Copy(from, to) => {
                if let Some(value) = keyspace.find(AT, &name(from)).map(|entry| entry.value.to_value()) {
                    keyspace.insert(AT, &name(to), value, Expire::Never);
                }
            }
            Change::Move(key) => {
                let (from, to) = if keyspace.find(AT, &name(key)).is_some() { (0, 1) } else { (1, 0) };
                if let Some((value, expire_at)) = keyspace.take(At { db: from, ..AT }, &name(key)) {
                    keyspace.insert_loaded(to, &name(key), value, expire_at);
                }
            }
            Change::Overwrite(key) => keyspace.set_str(AT, &name(key), b"text", Expire::Never),
            Change::Expire(key) => {
                keyspace.set_expire(AT, &name(key), 1000);
                keyspace.expire_if_due(At { now: 2000, ..AT }, &name(key));
            }
            Change::Step => {}
        }
    }

    /// What a key of a database holds, and when it expires.
    type All = BTreeMap<(usize, Vec<u8>), (u64, Vec<Vec<u8>>)>;

    fn all(keyspace: &Keyspace) -> All {
        let entries = (0..keyspace.databases())
            .flat_map(|db| keyspace.entries(At { db, now: 0 }).map(move |entry| (db, entry)));
        let elements = |value: ValueRef<'_>| -> Vec<Vec<u8>> {
            let mut elements: Vec<Vec<u8>> = match value {
                ValueRef::Str { bytes, .. } => vec![bytes.to_vec()],
                ValueRef::List(list) => return list.iter().map(|item| item.to_vec()).collect(),
                ValueRef::Set(set) => set.iter().map(|member| member.to_vec()).collect(),
                ValueRef::Hash(hash) => {
                    hash.iter().map(|(field, value)| [&*field, b"=", &*value].concat()).collect()
                }
                ValueRef::ZSet(zset) => zset
                    .iter()
                    .map(|(score, member)| [score.to_string().as_bytes(), &*member].concat())
                    .collect(),
            };
            elements.sort();
            elements
        };
        entries.map(|(db, e)| ((db, e.key.to_vec()), (e.expire_at, elements(e.value)))).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn large_ones_are_saved_as_they_were_when_the_snapshot_began(
            during in prop::collection::vec(change(), 0..100),
        ) {
            let mut keyspace = Keyspace::new(2);
            for key in (0..4).flat_map(|kind| [(kind, 0), (kind, 1)]) {
                put(&mut keyspace, key, 0..ELEMENTS, 0);
            }
            let expected = all(&keyspace);
            let mut walker = Walker::start(&mut keyspace, &rdb::Aux::default());
            let mut finisher = rdb::Finisher::new(rdb::Format::default());
            let mut output = Vec::new();
            for (n, change) in during.iter().enumerate() {
                match change {
                    Change::Step => drop(walker.step(&mut keyspace, 1).unwrap()),
                    other => apply(&mut keyspace, other, n + 1),
                }
                output.append(&mut finisher.finish(walker.take_output(), false));
            }
            let now = all(&keyspace);
            while !walker.step(&mut keyspace, 1).unwrap() {}
            prop_assert_eq!(all(&keyspace), now, "a snapshot changes nothing");
            output.append(&mut finisher.finish(walker.take_output(), false));
            output.extend(finisher.end());
            let loaded = rdb::load(output.as_slice(), Keyspace::new(2)).unwrap();
            prop_assert_eq!(all(&loaded.keyspace), expected);
        }
    }

    #[test]
    fn one_step_serialises_a_part_of_a_collection_only() {
        for kind in 0..4 {
            let mut keyspace = Keyspace::new(1);
            put(&mut keyspace, (kind, 0), 0..20_000, 0);
            let mut walker = Walker::start(&mut keyspace, &rdb::Aux::default());
            let (mut most, mut steps) = (0, 0);
            // A write to it shows no more than what it changes.
            put(&mut keyspace, (kind, 0), 7..8, 1);
            most = most.max(walker.take_output().len());
            while !walker.step(&mut keyspace, 1).unwrap() {
                most = most.max(walker.take_output().len());
                steps += 1;
            }
            assert!(most < 64 * 1024 && steps > 20, "type {kind}: {most} bytes in one of {steps} steps");
        }
    }

    #[test]
    fn a_snapshot_that_was_given_up_leaves_nothing_behind() {
        let mut keyspace = Keyspace::new(1);
        put(&mut keyspace, (3, 0), 0..ELEMENTS, 0);
        let mut walker = Walker::start(&mut keyspace, &rdb::Aux::default());
        assert_eq!(walker.step(&mut keyspace, 1), Ok(false));
        put(&mut keyspace, (3, 0), 0..10, 1);
        walker.cancel(&mut keyspace);
        put(&mut keyspace, (3, 0), 0..ELEMENTS, 2);
        let expected = all(&keyspace);
        let mut walker = Walker::start(&mut keyspace, &rdb::Aux::default());
        while !walker.step(&mut keyspace, 1).unwrap() {}
        let mut finisher = rdb::Finisher::new(rdb::Format::default());
        let mut output = finisher.finish(walker.take_output(), false);
        output.extend(finisher.end());
        assert_eq!(all(&rdb::load(output.as_slice(), Keyspace::new(1)).unwrap().keyspace), expected);
    }
}
