use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn tag(key: &[u8]) -> u8 {
    key.last().map_or(1, |byte| byte % 5 + 1)
}

fn put(page: &mut Page, key: &[u8], value: &[u8], expire_at: u64) {
    let expire_at = Meta::expiring(expire_at);
    let value = NewValue::string(value);
    page.reserve(Page::entry_len(key, &value, expire_at)).unwrap();
    match page.find(tag(key), key) {
        Some(index) => drop(page.replace(index, key, value, expire_at)),
        None => page.insert(tag(key), key, value, expire_at),
    }
}

type Content = BTreeMap<Vec<u8>, (Vec<u8>, u64)>;

fn content(page: &Page) -> Content {
    let entries = page
        .iter()
        .map(|entry| (entry.key.to_vec(), (entry.value.string().unwrap().to_vec(), entry.expire_at)));
    entries.collect()
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, usize, u64),
    Remove(u8),
    Expire(u8, u64),
    Split(u8),
}

fn key(name: u8) -> Vec<u8> {
    // One of ten keys is too long for a page.
    vec![name; if name.is_multiple_of(10) { KEY_MAX + 1 } else { usize::from(name % 7) + 1 }]
}

fn step() -> impl Strategy<Value = Step> {
    let expiry = || prop_oneof![Just(0), Just(1), Just(1_900_000_000_000)];
    let len = prop_oneof![0..40_usize, Just(STRING_MAX), Just(STRING_MAX + 1), 200..300_usize];
    prop_oneof![
        8 => (0..60_u8, len, expiry()).prop_map(|(name, len, expiry)| Step::Put(name, len, expiry)),
        4 => (0..60_u8).prop_map(Step::Remove),
        2 => (0..60_u8, expiry()).prop_map(|(name, expiry)| Step::Expire(name, expiry)),
        1 => (0..60_u8).prop_map(Step::Split),
    ]
}

proptest! {
    #[test]
    fn a_page_is_a_map(steps in prop::collection::vec(step(), 0..200)) {
        let mut page = Page::new(0);
        let mut model = Content::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Put(name, len, expire_at) => {
                    let value = vec![number as u8; len];
                    put(&mut page, &key(name), &value, expire_at);
                    model.insert(key(name), (value, expire_at));
                }
                Step::Remove(name) => {
                    let found = page.find(tag(&key(name)), &key(name));
                    prop_assert_eq!(found.is_some(), model.remove(&key(name)).is_some());
                    if let Some(index) = found {
                        page.remove(index);
                    }
                }
                Step::Expire(name, expire_at) => {
                    if let Some(index) = page.find(tag(&key(name)), &key(name)) {
                        page.reserve(page.len_expiring(index, expire_at)).unwrap();
                        page.set_expire(index, expire_at);
                        model.get_mut(&key(name)).unwrap().1 = expire_at;
                    }
                }
                Step::Split(name) => {
                    let other = page.split(|key| key[0] < name);
                    let (kept, left) = (content(&page), content(&other));
                    prop_assert!(kept.keys().all(|key| key[0] >= name));
                    prop_assert!(left.keys().all(|key| key[0] < name));
                    page.merge(other).unwrap();
                }
            }
            prop_assert_eq!(&content(&page), &model);
            prop_assert_eq!(page.len(), model.len());
        }
        let strings: usize = model.iter().map(|(key, (value, _))| key.len() + value.len()).sum();
        prop_assert!(page.memory() >= strings, "{} bytes for {strings}", page.memory());
    }
}

#[test]
fn a_page_has_a_largest_size() {
    let mut page = Page::new(0);
    let value = NewValue::string(&[0; 500]);
    let mut count = 0_u32;
    while page.reserve(Page::entry_len(&count.to_le_bytes(), &value, Meta::default())).is_ok() {
        put(&mut page, &count.to_le_bytes(), &[0; 500], 0);
        count += 1;
    }
    assert_eq!(page.len(), count as usize);
    assert!((120..=130).contains(&count), "{count}");
    assert!((0..count).all(|n| page.find(tag(&n.to_le_bytes()), &n.to_le_bytes()).is_some()));
}

#[test]
fn little_of_a_block_is_spare() {
    for (bytes, class) in [(0, 0), (1, 16), (16, 16), (17, 32), (129, 144), (2049, 2176), (65000, 65536)] {
        assert_eq!(size_class(bytes), class, "{bytes}");
    }
}
