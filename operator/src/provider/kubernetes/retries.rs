//! What could not be done, object by object, and when it is tried again: pure. One object that cannot be written must not
//! hold up the others, nor be tried without end.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long an object is left alone after its first failure; after each one more, twice as long.
const FIRST: Duration = Duration::from_secs(1);

/// The longest that an object is left alone.
const LONGEST: Duration = Duration::from_secs(60);

/// Kind and name of an object.
pub type Object = (&'static str, String);

/// The failures that last.
#[derive(Debug)]
pub struct Retries<E> {
    failed: BTreeMap<Object, Failed<E>>,
}

#[derive(Debug)]
struct Failed<E> {
    /// What was tried. Something else is tried at once.
    what: String,
    wait: Duration,
    not_before: Instant,
    error: E,
}

impl<E> Default for Retries<E> {
    fn default() -> Self {
        Self { failed: BTreeMap::new() }
    }
}

impl<E: Clone> Retries<E> {
    /// Whether `what` may be tried on an object now.
    pub fn may_try(&self, object: &Object, what: &str, now: Instant) -> bool {
        self.failed.get(object).is_none_or(|failed| failed.what != what || failed.not_before <= now)
    }

    /// Takes in how it went.
    pub fn note(&mut self, object: Object, what: String, outcome: Result<(), E>, now: Instant) {
        let Err(error) = outcome else {
            self.failed.remove(&object);
            return;
        };
        let before = self.failed.get(&object).filter(|failed| failed.what == what);
        let wait = before.map_or(FIRST, |failed| (failed.wait * 2).min(LONGEST));
        self.failed.insert(object, Failed { what, wait, not_before: now + wait, error });
    }

    /// Forgets the objects that need nothing any more.
    pub fn keep(&mut self, needed: impl Fn(&Object) -> bool) {
        self.failed.retain(|object, _| needed(object));
    }

    /// Why what was tried last did not go, in order of the objects.
    pub fn errors(&self) -> Vec<E> {
        self.failed.values().map(|failed| failed.error.clone()).collect()
    }

    /// When the next object may be tried again.
    pub fn next(&self) -> Option<Instant> {
        self.failed.values().map(|failed| failed.not_before).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str) -> Object {
        ("Service", name.to_owned())
    }

    #[test]
    fn waits_double_up_to_a_minute_and_end_with_success() {
        let (mut retries, mut now) = (Retries::default(), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..8 {
            retries.note(object("a"), "same".into(), Err("no"), now);
            assert!(!retries.may_try(&object("a"), "same", now));
            let next = retries.next().unwrap();
            waits.push((next - now).as_secs());
            now = next;
            assert!(retries.may_try(&object("a"), "same", now));
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        retries.note(object("a"), "same".into(), Ok(()), now);
        assert_eq!((retries.errors(), retries.next()), (vec![], None));
    }

    #[test]
    fn other_objects_and_other_changes_are_tried_at_once() {
        let (mut retries, now) = (Retries::default(), Instant::now());
        retries.note(object("a"), "bad".into(), Err("no"), now);
        retries.note(object("b"), "bad".into(), Err("neither"), now);
        assert!(retries.may_try(&object("c"), "bad", now));
        assert!(retries.may_try(&object("a"), "mended", now));
        assert_eq!(retries.errors(), ["no", "neither"]);
        retries.keep(|kept| *kept == object("b"));
        assert_eq!(retries.errors(), ["neither"]);
    }
}
