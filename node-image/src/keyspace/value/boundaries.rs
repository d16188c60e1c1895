//! Every form of every type where it ends: at the thresholds between forms, at the widths of stored numbers and lengths,
//! at both ends of ranges, and while elements go that a scan is still to show.

use std::collections::{BTreeMap, BTreeSet};

use super::limits::DEFAULTS;
use super::tests::LIMITS;
use super::*;

/// Texts at every width of numbers and of lengths.
fn texts() -> Vec<Vec<u8>> {
    let near = |number: i128| [number - 1, number, number + 1];
    let numbers = (0..=64).flat_map(|bits| near(1 << bits).into_iter().chain(near(-(1 << bits))));
    let mut texts: Vec<Vec<u8>> = numbers.map(|number| number.to_string().into_bytes()).collect();
    for len in [0, 1, 7, 8, 9, 10, 11, 63, 64, 65, 254, 255, 256, 257, 65_534, 65_535, 65_536, 65_537] {
        texts.push(vec![b'x'; len]);
    }
    texts
        .extend(["-0", "00", "+1", " 1", "1 ", "-", "0x1", "1e3", "\0"].map(|text| text.as_bytes().to_vec()));
    let distinct: BTreeSet<_> = texts.into_iter().collect();
    distinct.into_iter().collect()
}

/// Limits under which everything is large, something is, or nothing.
fn all_limits() -> [Limits; 3] {
    let large = Limits {
        hash_entries: 0,
        hash_value: 0,
        list_size: 1,
        set_integers: 0,
        set_entries: 0,
        set_value: 0,
        zset_entries: 0,
        zset_value: 0,
    };
    let (all, list_size) = (1 << 15, -5);
    let small = Limits {
        hash_entries: all,
        hash_value: 1 << 20,
        list_size,
        set_integers: all,
        set_entries: all,
        set_value: 1 << 20,
        zset_entries: all,
        zset_value: 1 << 20,
    };
    [large, LIMITS, small]
}

#[test]
fn every_text_reads_as_it_was_written() {
    let texts = texts();
    for limits in all_limits() {
        let (mut hash, mut set, mut list, mut zset) =
            (Hash::default(), Set::default(), List::default(), ZSet::default());
        for (index, text) in texts.iter().enumerate() {
            assert!(hash.set_within(limits, text, &texts[texts.len() - 1 - index]));
            assert!(set.insert_within(limits, text) && !set.insert_within(limits, text));
            list.push_within(limits, End::Right, text);
            assert_eq!(zset.set_within(limits, text, index as f64), None);
        }
        assert!(list.iter().map(|item| item.to_vec()).eq(texts.iter().cloned()));
        assert_eq!(
            set.iter().map(|member| member.to_vec()).collect::<BTreeSet<_>>(),
            texts.iter().cloned().collect()
        );
        for (index, text) in texts.iter().enumerate() {
            assert_eq!(hash.get(text).unwrap().to_vec(), texts[texts.len() - 1 - index]);
            assert_eq!((zset.score(text), zset.rank(text)), (Some(index as f64), Some(index)));
            assert_eq!(list.get(index).unwrap().to_vec(), *text);
        }
        for text in &texts {
            assert!(hash.remove(text) && set.remove(text) && zset.remove(text).is_some());
            assert_eq!(list.pop_within(limits, End::Left).unwrap().to_vec(), *text);
            assert!(hash.get(text).is_none() && !set.contains(text) && zset.score(text).is_none());
        }
        assert!(hash.is_empty() && set.is_empty() && list.is_empty() && zset.is_empty());
    }
}

#[test]
fn numbers_of_any_width_make_an_ordered_set_whatever_comes_first() {
    let numbers: Vec<_> = texts().into_iter().filter(|text| crate::resp::parse_i64(text).is_some()).collect();
    assert!(numbers.contains(&i64::MIN.to_string().into()) && numbers.contains(&i64::MAX.to_string().into()));
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..20 {
        let mut order = numbers.clone();
        random.shuffle(&mut order);
        let mut set = Set::default();
        order.iter().for_each(|number| assert!(set.insert(number)));
        assert_eq!(set.encoding(), "intset");
        let value = |text: &[u8]| crate::resp::parse_i64(text).unwrap();
        assert!(set.iter().map(|number| value(&number)).is_sorted());
        let (gone, left) = order.split_at(order.len() / 2);
        assert!(gone.iter().all(|number| set.remove(number)));
        assert!(left.iter().all(|number| set.contains(number)) && set.len() == left.len());
        assert_eq!(set.memory(), set.recounted());
    }
}

#[test]
fn every_score_reads_as_it_was_written() {
    let whole =
        [0.0, 127.0, 128.0, 32_767.0, 32_768.0, 2_147_483_647.0, 2_147_483_648.0, 9_007_199_254_740_993.0];
    let scores: Vec<f64> = whole
        .into_iter()
        .chain([0.1, 0.5, f64::MIN_POSITIVE, f64::EPSILON, f64::MAX, f64::INFINITY, 5e-324])
        .flat_map(|score| [score, -score, -score - 1.0])
        .collect();
    for limits in all_limits() {
        let mut set = ZSet::default();
        for (index, score) in scores.iter().enumerate() {
            set.set_within(limits, index.to_string().as_bytes(), *score);
        }
        for (index, score) in scores.iter().enumerate() {
            assert_eq!(set.score(index.to_string().as_bytes()), Some(*score), "{score:e}");
        }
        assert!(set.iter().map(|(score, _)| score).is_sorted());
    }
}

#[test]
fn nothing_is_lost_at_a_threshold() {
    let name = |number: usize, len: usize| format!("{number:x>len$}").into_bytes();
    for (entries, limits) in [(12, LIMITS), (128, DEFAULTS), (512, DEFAULTS)] {
        for count in entries - 1..=entries + 2 {
            for (len, last) in [(0, 0), (3, 3), (3, limits.hash_value), (3, limits.hash_value + 1)] {
                let names: Vec<_> =
                    (0..count).map(|n| name(n, if n + 1 == count { last } else { len })).collect();
                let (mut hash, mut set, mut zset) = (Hash::default(), Set::default(), ZSet::default());
                for (index, name) in names.iter().enumerate() {
                    hash.set_within(limits, name, name);
                    set.insert_within(limits, name);
                    zset.set_within(limits, name, (index % 7) as f64);
                }
                let all: BTreeSet<_> = names.iter().cloned().collect();
                assert_eq!(set.iter().map(|member| member.to_vec()).collect::<BTreeSet<_>>(), all);
                assert!(hash.iter().all(|(field, value)| *field == *value) && hash.len() == count);
                assert!(names.iter().all(|name| hash.get(name).is_some() && zset.rank(name).is_some()));
                // Back below the threshold, and up again.
                for name in names.iter().step_by(2) {
                    assert!(hash.remove(name) && set.remove(name) && zset.remove(name).is_some());
                }
                for name in names.iter().step_by(2) {
                    assert!(hash.set_within(limits, name, b"") && set.insert_within(limits, name));
                    assert_eq!(zset.set_within(limits, name, -1.0), None);
                }
                assert_eq!((hash.len(), set.len(), zset.len()), (count, count, count));
                assert_eq!(zset.partition_point(|score, _| score < 0.0), count.div_ceil(2));
                let memory = (hash.memory(), set.memory(), zset.memory());
                assert_eq!(memory, (hash.recounted(), set.recounted(), zset.recounted()));
            }
        }
    }
}

#[test]
fn ranges_begin_and_end_anywhere() {
    for limits in [LIMITS, DEFAULTS] {
        for len in [0, 1, 2, 11, 12, 13, 29, 30, 31, 70] {
            let (mut list, mut set) = (List::default(), ZSet::default());
            let items: Vec<_> = (0..len).map(|n| format!("an item: {n:03}").into_bytes()).collect();
            for (index, item) in items.iter().enumerate() {
                list.push_within(limits, End::Right, item);
                set.set_within(limits, item, (index / 3) as f64);
            }
            for start in 0..=len {
                for end in start..=len {
                    let expected = &items[start..end];
                    assert!(list.range(start..end).map(|item| item.to_vec()).eq(expected.iter().cloned()));
                    let members = || set.range(start..end).map(|(_, member)| member.to_vec());
                    assert!(members().eq(expected.iter().cloned()));
                    assert!(members().rev().eq(expected.iter().rev().cloned()));
                    let mut kept = list.clone();
                    kept.keep_within(limits, start..end);
                    assert!(kept.iter().map(|item| item.to_vec()).eq(expected.iter().cloned()));
                    assert_eq!(kept.memory(), kept.recounted());
                }
            }
        }
    }
}

#[test]
fn a_scan_shows_what_stays_while_the_rest_is_deleted() {
    let name = |number: usize| format!("member {number}").into_bytes();
    let stays = |number: usize| number.is_multiple_of(10);
    for (len, limits) in [(10, LIMITS), (2000, LIMITS), (100, DEFAULTS)] {
        let (mut hash, mut set) = (Hash::default(), ZSet::default());
        for number in 0..len {
            hash.set_within(limits, &name(number), b"v");
            set.set_within(limits, &name(number), (number % 9) as f64);
        }
        let (mut fields, mut members) = (BTreeMap::new(), BTreeMap::new());
        let (mut cursors, mut next) = ((0, 0), 0);
        loop {
            cursors.0 =
                hash.scan(cursors.0, 7, |field, value| _ = fields.insert(field.to_vec(), value.to_vec()));
            if cursors.0 == 0 {
                break;
            }
            for number in (next..len.min(next + 20)).filter(|number| !stays(*number)) {
                assert!(hash.remove(&name(number)));
            }
            next += 20;
        }
        next = 0;
        loop {
            cursors.1 = set.scan(cursors.1, 7, |score, member| _ = members.insert(member.to_vec(), score));
            if cursors.1 == 0 {
                break;
            }
            for number in (next..len.min(next + 20)).filter(|number| !stays(*number)) {
                assert!(set.remove(&name(number)).is_some());
            }
            next += 20;
        }
        for number in (0..len).filter(|number| stays(*number)) {
            assert!(fields.contains_key(&name(number)), "field {number} of {len}");
            assert_eq!(members.get(&name(number)), Some(&((number % 9) as f64)), "member {number} of {len}");
        }
    }
}
