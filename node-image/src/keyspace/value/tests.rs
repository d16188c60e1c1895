//! Every type against a plain model, across the thresholds between its forms.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::limits::DEFAULTS;
use super::*;

/// Small ones, so that a few changes cross them.
pub(super) const LIMITS: Limits = Limits {
    hash_entries: 12,
    hash_value: 10,
    list_size: 30,
    set_integers: 10,
    set_entries: 14,
    set_value: 10,
    zset_entries: 12,
    zset_value: 10,
};

/// Texts of all stored forms: numbers of each width, texts of each kind of length.
fn text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => (-3i64..40).prop_map(|n| n.to_string().into_bytes()),
        2 => (0..64u32, any::<bool>(), -1..2i64).prop_map(|(bits, negative, near)| {
            let number = (1i64 << bits.min(62)).wrapping_add(near);
            (if negative { -number } else { number }).to_string().into_bytes()
        }),
        8 => (0..40u8).prop_map(|n| format!("m{n}").into_bytes()),
        3 => (0..30usize).prop_map(|len| vec![b'x'; len]),
        1 => prop::sample::select(vec![64usize, 255, 256, 300]).prop_map(|len| vec![b'y'; len]),
        1 => prop::sample::select(vec!["", "-0", "007", "+1", "9223372036854775808", "-9223372036854775808"])
            .prop_map(|text| text.as_bytes().to_vec()),
    ]
}

fn limits() -> impl Strategy<Value = Limits> {
    prop::sample::select(vec![LIMITS, DEFAULTS])
}

#[test]
fn a_name_takes_sixteen_bytes() {
    assert_eq!(size_of::<name::Name>(), 16);
    assert_eq!((size_of::<Hash>(), size_of::<Set>()), (16, 24));
}

#[test]
fn a_table_grows_and_shrinks_and_keeps_its_elements() {
    let mut set = Set::default();
    let name = |number: usize| format!("member:{number:b}").into_bytes();
    let contains =
        |set: &Set, numbers: std::ops::Range<usize>| numbers.filter(|n| set.contains(&name(*n))).count();
    for number in 0..20_000 {
        assert!(set.insert(&name(number)));
    }
    assert_eq!((set.len(), contains(&set, 0..30_000)), (20_000, 20_000));
    let full = set.memory();
    assert_eq!(full, set.recounted());
    for number in 100..20_000 {
        assert!(set.remove(&name(number)));
    }
    assert_eq!((set.len(), contains(&set, 0..20_000)), (100, 100));
    assert_eq!(set.memory(), set.recounted());
    assert!(set.memory() < full / 50, "{} of {full}", set.memory());
    let mut random = fastrand::Rng::with_seed(7);
    let mut picks = BTreeMap::new();
    for _ in 0..10_000 {
        *picks.entry(set.nth(random.usize(..100)).unwrap().to_vec()).or_insert(0) += 1;
    }
    assert!(picks.len() == 100 && picks.values().all(|times| (40..200).contains(times)), "{picks:?}");
}

#[test]
fn encodings_follow_the_default_thresholds() {
    let numbers = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>();
    let names = |count: usize, len: usize| (0..count).map(|n| format!("{n:x>len$}")).collect::<Vec<_>>();
    let hash = |names: Vec<String>| {
        let mut hash = Hash::default();
        names.iter().for_each(|name| _ = hash.set(name.as_bytes(), b"v"));
        Value::from(hash).encoding()
    };
    let set = |names: Vec<String>| {
        let mut set = Set::default();
        names.iter().for_each(|name| _ = set.insert(name.as_bytes()));
        Value::from(set).encoding()
    };
    let zset = |names: Vec<String>| {
        let mut zset = ZSet::default();
        names.iter().for_each(|name| _ = zset.set(name.as_bytes(), 1.0));
        Value::from(zset).encoding()
    };
    let list = |names: Vec<String>| {
        let mut list = List::default();
        names.iter().for_each(|name| list.push(End::Right, name.as_bytes()));
        Value::from(list).encoding()
    };
    assert_eq!(
        (hash(names(512, 64)), hash(names(513, 8)), hash(names(1, 65))),
        ("listpack", "hashtable", "hashtable")
    );
    assert_eq!(
        (zset(names(128, 64)), zset(names(129, 8)), zset(names(1, 65))),
        ("listpack", "skiplist", "skiplist")
    );
    assert_eq!(
        (set(names(128, 64)), set(names(129, 8)), set(names(1, 65))),
        ("listpack", "hashtable", "hashtable")
    );
    assert_eq!((set(numbers(512)), set(numbers(513))), ("intset", "hashtable"));
    assert_eq!(set([numbers(127), names(1, 64)].concat()), "listpack");
    assert_eq!(set([numbers(128), names(1, 64)].concat()), "hashtable");
    assert_eq!(
        (list(names(120, 64)), list(names(130, 64)), list(names(1, 9000))),
        ("listpack", "quicklist", "quicklist")
    );
}

#[test]
fn a_list_goes_back_to_one_piece_at_half_the_limit() {
    let mut list = List::default();
    let len_at = |list: &mut List, end: &str, step: fn(&mut List)| {
        while list.encoding() != end {
            step(list);
        }
        list.len()
    };
    let large = len_at(&mut list, "quicklist", |list| list.push(End::Left, b"ten bytes!"));
    let small = len_at(&mut list, "listpack", |list| _ = list.pop(End::Right));
    assert!((700..800).contains(&large), "{large}");
    assert!((large / 2 - 10..=large / 2).contains(&small), "{small} of {large}");
}

proptest! {
    #[test]
    fn a_hash_is_its_model(
        limits in limits(),
        changes in prop::collection::vec((text(), text(), 0..4u8), 0..150),
    ) {
        let mut hash = Hash::default();
        let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for (field, value, action) in changes {
            if action == 0 {
                prop_assert_eq!(hash.remove(&field), model.remove(&field).is_some());
            } else {
                prop_assert_eq!(hash.set_within(limits, &field, &value), model.insert(field.clone(), value).is_none());
            }
            prop_assert_eq!(hash.get(&field).map(|value| value.to_vec()), model.get(&field).cloned());
            prop_assert_eq!(hash.len(), model.len());
        }
        let pair = |(field, value): (Text<'_>, Text<'_>)| (field.to_vec(), value.to_vec());
        prop_assert_eq!(hash.iter().map(pair).collect::<BTreeMap<_, _>>(), model.clone());
        prop_assert_eq!(hash.iter().count(), model.len());
        prop_assert_eq!((0..hash.len()).filter_map(|i| hash.nth(i)).map(pair).collect::<BTreeMap<_, _>>(), model.clone());
        prop_assert!(hash.nth(hash.len()).is_none());
        let mut scanned = BTreeMap::new();
        let mut cursor = 0;
        loop {
            cursor = hash.scan(cursor, 5, |field, value| _ = scanned.insert(field.to_vec(), value.to_vec()));
            if cursor == 0 {
                break;
            }
        }
        prop_assert_eq!(scanned, model);
        prop_assert_eq!(hash.pick(&[0, 0]).len(), 2 * hash.len().min(1));
        prop_assert_eq!(hash.memory(), hash.recounted());
    }

    #[test]
    fn a_set_is_its_model(limits in limits(), changes in prop::collection::vec((text(), 0..5u8), 0..200)) {
        let mut set = Set::default();
        let mut model: BTreeSet<Vec<u8>> = BTreeSet::new();
        for (member, action) in changes {
            match action {
                0 => prop_assert_eq!(set.remove(&member), model.remove(&member)),
                1 if member.len() > 2 => {
                    let taken = set.take_nth(member.len() % set.len().max(1));
                    prop_assert_eq!(taken.is_none(), model.is_empty());
                    prop_assert!(taken.is_none_or(|taken| model.remove(&*taken)));
                }
                _ => prop_assert_eq!(set.insert_within(limits, &member), model.insert(member.clone())),
            }
            prop_assert_eq!(set.contains(&member), model.contains(&member));
            prop_assert_eq!(set.len(), model.len());
        }
        prop_assert_eq!(set.iter().map(|m| m.to_vec()).collect::<BTreeSet<_>>(), model.clone());
        prop_assert_eq!(set.iter().count(), model.len());
        prop_assert_eq!((0..set.len()).filter_map(|i| set.nth(i)).map(|m| m.to_vec()).collect::<BTreeSet<_>>(), model);
        prop_assert_eq!(set.memory(), set.recounted());
    }

    #[test]
    fn a_list_is_its_model(
        limits in limits(),
        long in any::<bool>(),
        changes in prop::collection::vec((0..16u8, 0..400usize, text()), 0..250),
    ) {
        let mut list = List::default();
        let mut model: Vec<Vec<u8>> = Vec::new();
        if long {
            for number in 0..600 {
                let item = format!("a longer item: {}", number % 50).into_bytes();
                list.push_within(limits, End::Right, &item);
                model.push(item);
            }
        }
        for (action, index, item) in changes {
            let at = index.min(model.len());
            match action {
                0..4 => { list.push_within(limits, End::Left, &item); model.insert(0, item); }
                4..8 => { list.push_within(limits, End::Right, &item); model.push(item); }
                8 => {
                    let popped = if model.is_empty() { None } else { Some(model.remove(0)) };
                    prop_assert_eq!(list.pop_within(limits, End::Left).map(Vec::from), popped);
                }
                9 => prop_assert_eq!(list.pop_within(limits, End::Right).map(Vec::from), model.pop()),
                10 => { list.insert_within(limits, index, &item); model.insert(at, item); }
                11 => {
                    prop_assert_eq!(list.set_within(limits, index, &item), index < model.len());
                    model.get_mut(index).into_iter().for_each(|place| *place = item.clone());
                }
                12 | 13 => {
                    let item = model.get(index).cloned().unwrap_or(item);
                    let mut equal: Vec<_> = (0..model.len()).filter(|i| model[*i] == item).collect();
                    let from = if action == 12 { End::Left } else { equal.reverse(); End::Right };
                    equal.truncate(index % 4 + 1);
                    prop_assert_eq!(list.remove_within(limits, from, index % 4 + 1, &item), equal.len());
                    equal.sort_unstable();
                    equal.into_iter().rev().for_each(|i| _ = model.remove(i));
                }
                14 => {
                    let end = (at + model.len() * 3 / 4).min(model.len());
                    list.keep_within(limits, at / 4..end);
                    model.truncate(end);
                    model.drain(..(at / 4).min(end));
                }
                _ => {
                    prop_assert_eq!(list.get(index).map(|item| item.to_vec()), model.get(index).cloned());
                    let range = at / 2..at;
                    let shown: Vec<_> = list.range(range.clone()).map(|item| item.to_vec()).collect();
                    prop_assert_eq!(&shown[..], &model[range]);
                }
            }
            prop_assert_eq!(list.len(), model.len());
        }
        prop_assert_eq!(list.memory(), list.recounted());
        prop_assert_eq!(list.iter().map(|item| item.to_vec()).collect::<Vec<_>>(), model.clone());
        model.reverse();
        prop_assert_eq!(list.clone().iter_back().map(|item| item.to_vec()).collect::<Vec<_>>(), model);
    }

    #[test]
    fn a_sorted_set_is_its_model(
        limits in limits(),
        many in prop::sample::select(vec![0u32, 500, 6000]),
        few in any::<bool>(),
        changes in prop::collection::vec((text(), -8i8..8, 0..6u8), 0..200),
    ) {
        let mut set = ZSet::default();
        let mut model: BTreeMap<Vec<u8>, f64> = BTreeMap::new();
        for number in 0..many {
            let (name, score) = (format!("n{number}").into_bytes(), f64::from(number.wrapping_mul(2_654_435_761) % 999));
            set.set_within(limits, &name, score);
            model.insert(name, score);
        }
        for number in (0..many).filter(|number| few && number % 40 != 0) {
            let name = format!("n{number}").into_bytes();
            prop_assert_eq!(set.remove(&name), model.remove(&name));
        }
        for (member, score, action) in changes {
            let score = match score {
                -8 => f64::NEG_INFINITY,
                -7 => -0.0,
                7 => 1e300,
                score => f64::from(score) / 2.0,
            };
            if action == 0 {
                prop_assert_eq!(set.remove(&member), model.remove(&member));
            } else {
                prop_assert_eq!(set.set_within(limits, &member, score), model.insert(member.clone(), score));
            }
            prop_assert_eq!(set.score(&member), model.get(&member).copied());
            prop_assert_eq!(set.len(), model.len());
        }
        let mut expected: Vec<(f64, Vec<u8>)> = model.into_iter().map(|(member, score)| (score, member)).collect();
        expected.sort_by(|a, b| ZSet::order((a.0, &a.1), (b.0, &b.1)));
        let pairs = |range: std::ops::Range<usize>| set.range(range).map(|(score, member)| (score, member.to_vec()));
        prop_assert_eq!(pairs(0..set.len()).collect::<Vec<_>>(), expected.clone());
        let middle = expected.len() / 3..expected.len() * 2 / 3;
        prop_assert_eq!(pairs(middle.clone()).collect::<Vec<_>>(), expected[middle.clone()].to_vec());
        let reversed: Vec<_> = expected[middle.clone()].iter().rev().cloned().collect();
        prop_assert_eq!(pairs(middle).rev().collect::<Vec<_>>(), reversed);
        for (rank, (score, member)) in expected.iter().enumerate() {
            prop_assert_eq!(set.rank(member), Some(rank));
            prop_assert_eq!(set.nth(rank).map(|(score, member)| (score, member.to_vec())), Some((*score, member.clone())));
            prop_assert_eq!(set.partition_point(|other, _| other < *score), expected.partition_point(|(other, _)| other < score));
        }
        prop_assert_eq!(set.memory(), set.recounted());
        prop_assert_eq!(set.clone().iter().count(), expected.len());
        let mut scanned = Vec::new();
        let mut cursor = 0;
        loop {
            cursor = set.scan(cursor, 5, |score, member| scanned.push((score, member.to_vec())));
            if cursor == 0 {
                break;
            }
        }
        scanned.sort_by(|a, b| ZSet::order((a.0, &a.1), (b.0, &b.1)));
        prop_assert_eq!(scanned, expected);
    }

    #[test]
    fn a_scan_misses_nothing_that_stays(
        seed: u64,
        stay in prop::collection::btree_set(0..6000u32, 0..900),
        rounds in prop::collection::vec((0..6000u32, 0..300u32, any::<bool>(), 1..60usize), 1..40),
    ) {
        let mut set = Set::default();
        let name = |n: u32| if n.is_multiple_of(3) { format!("a long member {n}") } else { n.to_string() }.into_bytes();
        stay.iter().for_each(|n| _ = set.insert_within(LIMITS, &name(*n)));
        let mut seen = BTreeSet::new();
        let mut random = fastrand::Rng::with_seed(seed);
        let mut cursor = 0;
        loop {
            let (from, many, add, count) = rounds[random.usize(..rounds.len())];
            cursor = set.scan(cursor, count, |member| _ = seen.insert(member.to_vec()));
            if cursor == 0 {
                break;
            }
            for other in (from..from + many).filter(|n| !stay.contains(n)) {
                if add { set.insert_within(LIMITS, &name(other)); } else { set.remove(&name(other)); }
            }
        }
        let missed = stay.iter().filter(|n| !seen.contains(&name(**n))).count();
        prop_assert_eq!(missed, 0);
    }

    #[test]
    fn a_scan_of_what_does_not_change_shows_each_once(len in 0..3000u32, count in 1..100usize) {
        let mut set = Set::default();
        (0..len).for_each(|n| _ = set.insert(format!("m{n}").as_bytes()));
        let (mut seen, mut cursor) = (Vec::new(), 0);
        loop {
            let before = seen.len();
            cursor = set.scan(cursor, count, |member| seen.push(member.to_vec()));
            if cursor == 0 {
                break;
            }
            // Whole pages: at most two that are about to be split are more than was asked for.
            prop_assert!((count..count + 200).contains(&(seen.len() - before)));
        }
        prop_assert_eq!(seen.len(), len as usize);
        seen.sort();
        seen.dedup();
        prop_assert_eq!(seen.len(), len as usize);
    }
}
