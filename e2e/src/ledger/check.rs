//! Judges what was read back against the books. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use super::book::{Attempt, Book, Kind, Outcome};

/// What was read back: for each key that exists its value, or its elements in order.
pub type Found = HashMap<String, Vec<String>>;

/// How many examples of each kind a verdict names.
const EXAMPLES: usize = 20;

/// A write that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Suspect {
    /// The key.
    pub key: String,
    /// The value, or element, in question.
    pub value: String,
    /// When its outcome was known, in microseconds of Unix time; 0 if nobody wrote it.
    pub ended_us: u64,
}

/// Faults of one kind: how many, and examples.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Suspects {
    /// How many there are.
    pub count: u64,
    /// The first of them.
    pub examples: Vec<Suspect>,
    /// Time of the oldest, in microseconds of Unix time.
    pub oldest_us: u64,
}

impl Suspects {
    fn add(&mut self, key: &str, value: String, attempt: Option<&Attempt>) {
        let ended_us = attempt.map_or(0, |attempt| attempt.ended_us);
        self.oldest_us = if self.count == 0 { ended_us } else { self.oldest_us.min(ended_us) };
        self.count += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(Suspect { key: key.to_owned(), value, ended_us });
        }
    }
}

/// What is wrong with the data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// Acknowledged, and not there.
    pub missing: Suspects,
    /// There more than once.
    pub double: Suspects,
    /// An older acknowledged value where a newer one must be, or elements out of order.
    pub stale: Suspects,
    /// Refused, and there all the same; or written by nobody.
    pub phantom: Suspects,
}

impl Verdict {
    /// Whether all is as it must be but for lost writes, of which the caller knows how many may be lost.
    #[must_use]
    pub fn clean_but_missing(&self) -> bool {
        self.double.count == 0 && self.stale.count == 0 && self.phantom.count == 0
    }

    /// Whether all is as it must be.
    #[must_use]
    pub fn clean(&self) -> bool {
        self.missing.count == 0 && self.clean_but_missing()
    }
}

/// Judges what was found. `strays` are keys that were found on a node that does not own their slot, or on two.
#[must_use]
pub fn judge(books: &[Book], found: &Found, strays: &[String]) -> Verdict {
    let mut verdict = Verdict::default();
    for book in books {
        match &book.kind {
            Kind::Append(_) => judge_lists(book, found, &mut verdict),
            Kind::Fresh(_) | Kind::Register(_) => judge_values(book, found, &mut verdict),
        }
    }
    for key in strays {
        verdict.double.add(key, String::new(), None);
    }
    verdict
}

/// By key, the numbers of the writes to it, in order.
fn by_key(book: &Book) -> BTreeMap<String, Vec<usize>> {
    let mut writes: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for seq in 0..book.attempts.len() {
        writes.entry(book.key(seq)).or_default().push(seq);
    }
    writes
}

fn judge_lists(book: &Book, found: &Found, verdict: &mut Verdict) {
    for (key, writes) in by_key(book) {
        let elements = found.get(&key).map_or(&[][..], Vec::as_slice);
        let mut seen: BTreeSet<usize> = BTreeSet::new();
        let mut newest = None;
        for element in elements {
            let seq = number(book, element).filter(|seq| book.key(*seq) == key);
            let attempt = seq.and_then(|seq| book.attempts.get(seq));
            let (Some(seq), Some(attempt)) = (seq, attempt) else {
                verdict.phantom.add(&key, element.clone(), None);
                continue;
            };
            if !seen.insert(seq) {
                verdict.double.add(&key, element.clone(), Some(attempt));
            } else if attempt.outcome == Outcome::Refused {
                verdict.phantom.add(&key, element.clone(), Some(attempt));
            } else if attempt.outcome == Outcome::Acked {
                // An unanswered write may be carried out late; an acknowledged one may not change places.
                if newest > Some(seq) {
                    verdict.stale.add(&key, element.clone(), Some(attempt));
                }
                newest = newest.max(Some(seq));
            }
        }
        for seq in writes {
            let Some(attempt) = book.attempts.get(seq) else { continue };
            if attempt.outcome == Outcome::Acked && !seen.contains(&seq) {
                verdict.missing.add(&key, book.value(seq), Some(attempt));
            }
        }
    }
}

fn judge_values(book: &Book, found: &Found, verdict: &mut Verdict) {
    for (key, writes) in by_key(book) {
        let attempts = || writes.iter().filter_map(|&seq| Some((seq, book.attempts.get(seq)?)));
        let last_acked = attempts().rfind(|(_, attempt)| attempt.outcome == Outcome::Acked);
        let Some(value) = found.get(&key).and_then(|values| values.last()) else {
            if let Some((seq, attempt)) = last_acked {
                verdict.missing.add(&key, book.value(seq), Some(attempt));
            }
            continue;
        };
        let seq = number(book, value).filter(|seq| book.key(*seq) == key);
        match seq.and_then(|seq| Some((seq, book.attempts.get(seq)?))) {
            None => verdict.phantom.add(&key, value.clone(), None),
            Some((_, attempt)) if attempt.outcome == Outcome::Refused => {
                verdict.phantom.add(&key, value.clone(), Some(attempt));
            }
            Some((seq, attempt)) if last_acked.is_some_and(|(acked, _)| seq < acked) => {
                // An unanswered write that was carried out late lies over the newer one rightly.
                if attempt.outcome == Outcome::Acked {
                    verdict.stale.add(&key, value.clone(), Some(attempt));
                }
            }
            Some(_) => {}
        }
    }
}

/// The number of the write that made `value`; `None` if it is not one of this book's.
fn number(book: &Book, value: &str) -> Option<usize> {
    value.strip_prefix(book.lane.as_str())?.strip_prefix(':')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A book with one write for each letter: `a`cked, `r`efused, `u`nknown.
    fn book(kind: Kind, outcomes: &str) -> Book {
        let mut book = Book::new("w", Some(0), kind);
        for (i, letter) in outcomes.chars().enumerate() {
            let outcome = match letter {
                'a' => Outcome::Acked,
                'r' => Outcome::Refused,
                _ => Outcome::Unknown,
            };
            let ended_us = 10 * (i as u64 + 1);
            book.enter(Attempt { began_us: ended_us - 5, ended_us, outcome }, None);
        }
        book
    }

    fn list(outcomes: &str) -> Book {
        book(Kind::Append(vec!["k".into()]), outcomes)
    }

    fn found(pairs: &[(&str, &[&str])]) -> Found {
        pairs
            .iter()
            .map(|(key, values)| ((*key).to_owned(), values.iter().map(|v| (*v).to_owned()).collect()))
            .collect()
    }

    /// (missing, double, stale, phantom)
    fn counts(verdict: &Verdict) -> (u64, u64, u64, u64) {
        (verdict.missing.count, verdict.double.count, verdict.stale.count, verdict.phantom.count)
    }

    fn lists(outcomes: &str, elements: &[&str]) -> (u64, u64, u64, u64) {
        counts(&judge(&[list(outcomes)], &found(&[("k", elements)]), &[]))
    }

    #[test]
    fn a_list_with_all_acknowledged_elements_is_clean() {
        assert_eq!(lists("aaa", &["w:0", "w:1", "w:2"]), (0, 0, 0, 0));
        assert!(judge(&[list("aa")], &found(&[("k", &["w:0", "w:1"])]), &[]).clean());
    }

    #[test]
    fn an_unanswered_write_may_be_there_or_not_and_late() {
        assert_eq!(lists("aua", &["w:0", "w:2"]), (0, 0, 0, 0));
        assert_eq!(lists("aua", &["w:0", "w:1", "w:2"]), (0, 0, 0, 0));
        assert_eq!(lists("aua", &["w:0", "w:2", "w:1"]), (0, 0, 0, 0));
    }

    #[test]
    fn a_lost_element_is_missing() {
        let verdict = judge(&[list("aaa")], &found(&[("k", &["w:0"])]), &[]);
        assert_eq!(counts(&verdict), (2, 0, 0, 0));
        assert_eq!(verdict.missing.oldest_us, 20);
        assert_eq!(verdict.missing.examples[0].value, "w:1");
        assert!(!verdict.clean());
        assert!(verdict.clean_but_missing());
    }

    #[test]
    fn a_lost_key_is_missing_once_for_each_write() {
        assert_eq!(counts(&judge(&[list("aau")], &Found::new(), &[])), (2, 0, 0, 0));
    }

    #[test]
    fn a_repeated_element_is_double() {
        assert_eq!(lists("aa", &["w:0", "w:1", "w:1"]), (0, 1, 0, 0));
        assert_eq!(lists("au", &["w:0", "w:1", "w:1"]), (0, 1, 0, 0));
    }

    #[test]
    fn acknowledged_elements_out_of_order_are_stale() {
        assert_eq!(lists("aa", &["w:1", "w:0"]), (0, 0, 1, 0));
    }

    #[test]
    fn refused_and_foreign_elements_are_phantoms() {
        assert_eq!(lists("ar", &["w:0", "w:1"]), (0, 0, 0, 1));
        assert_eq!(lists("a", &["w:0", "x:1", "w:7"]), (0, 0, 0, 2));
    }

    #[test]
    fn a_register_holds_the_last_acknowledged_value_or_a_later_unknown_one() {
        let register = |outcomes, value: &[&str]| {
            let book = book(Kind::Register(vec!["k".into()]), outcomes);
            counts(&judge(&[book], &found(&[("k", value)]), &[]))
        };
        assert_eq!(register("aa", &["w:1"]), (0, 0, 0, 0));
        assert_eq!(register("aau", &["w:2"]), (0, 0, 0, 0));
        assert_eq!(register("aaur", &["w:1"]), (0, 0, 0, 0));
        assert_eq!(register("aaa", &["w:1"]), (0, 0, 1, 0), "stale");
        assert_eq!(register("ua", &["w:0"]), (0, 0, 0, 0), "carried out late");
        assert_eq!(register("ar", &["w:1"]), (0, 0, 0, 1), "refused, and there");
        assert_eq!(register("a", &["other"]), (0, 0, 0, 1), "nobody wrote this");
    }

    #[test]
    fn fresh_keys_are_missing_one_by_one() {
        let fresh = book(Kind::Fresh("f:".into()), "aaru");
        let verdict = judge(&[fresh], &found(&[("f:0", &["w:0"]), ("f:3", &["w:3"])]), &[]);
        assert_eq!(counts(&verdict), (1, 0, 0, 0));
        assert_eq!(verdict.missing.examples[0].key, "f:1");
    }

    #[test]
    fn a_key_that_two_masters_hold_is_double() {
        let verdict = judge(&[list("a")], &found(&[("k", &["w:0"])]), &["k".to_owned()]);
        assert_eq!(counts(&verdict), (0, 1, 0, 0));
    }
}
