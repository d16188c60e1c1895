//! For how long writes were refused: the times between two acknowledgements. Pure.

use serde::{Deserialize, Serialize};

use super::book::{Book, Outcome};

/// A time in which a shard acknowledged nothing, from its last acknowledgement before to its first one after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outage {
    /// The shard, in order of the first slot; `None` for writers over all slots.
    pub shard: Option<usize>,
    /// When the last write before was acknowledged, in microseconds of Unix time.
    pub from_us: u64,
    /// When the next one was; for an outage that is not over, the time of asking.
    pub to_us: u64,
    /// Whether it is over.
    pub over: bool,
}

impl Outage {
    /// How long it took.
    #[must_use]
    pub fn us(&self) -> u64 {
        self.to_us.saturating_sub(self.from_us)
    }

    /// How long it took, in milliseconds.
    #[must_use]
    pub fn ms(&self) -> f64 {
        self.us() as f64 / 1000.0
    }
}

/// The outages of a shard that ended after `since_us` and took at least `min_us`, the longest first.
///
/// All writers of the shard count together: one acknowledgement by any of them ends an outage. A shard whose writers
/// pause (between two writes) has outages as long as the pause: choose `min_us` above it.
#[must_use]
pub fn outages(
    books: &[&Book],
    shard: Option<usize>,
    since_us: u64,
    min_us: u64,
    now_us: u64,
) -> Vec<Outage> {
    let mut acked: Vec<u64> = books
        .iter()
        .filter(|book| book.shard == shard)
        .flat_map(|book| book.attempts.iter())
        .filter(|attempt| attempt.outcome == Outcome::Acked)
        .map(|attempt| attempt.ended_us)
        .collect();
    acked.sort_unstable();
    let pairs = acked.iter().zip(acked.iter().skip(1));
    let mut found: Vec<Outage> =
        pairs.map(|(&from_us, &to_us)| Outage { shard, from_us, to_us, over: true }).collect();
    if let Some(&from_us) = acked.last() {
        found.push(Outage { shard, from_us, to_us: now_us.max(from_us), over: false });
    }
    found.retain(|outage| outage.to_us > since_us && outage.us() >= min_us);
    found.sort_by_key(|outage| std::cmp::Reverse(outage.us()));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Attempt, Kind};

    fn book(lane: &str, acked: &[u64]) -> Book {
        let mut book = Book::new(lane, Some(0), Kind::Fresh("f".into()));
        for &ended_us in acked {
            book.enter(Attempt { began_us: ended_us, ended_us, outcome: Outcome::Acked }, None);
        }
        book
    }

    fn spans(found: &[Outage]) -> Vec<(u64, u64, bool)> {
        found.iter().map(|outage| (outage.from_us, outage.to_us, outage.over)).collect()
    }

    #[test]
    fn the_longest_time_without_an_acknowledgement_comes_first() {
        let one = book("one", &[10, 20, 100, 110]);
        assert_eq!(
            spans(&outages(&[&one], Some(0), 0, 10, 115)),
            [(20, 100, true), (10, 20, true), (100, 110, true)]
        );
    }

    #[test]
    fn one_writer_of_the_shard_is_enough_to_end_an_outage() {
        let one = book("one", &[10, 100]);
        let two = book("two", &[50]);
        assert_eq!(spans(&outages(&[&one, &two], Some(0), 0, 20, 101)), [(50, 100, true), (10, 50, true)]);
    }

    #[test]
    fn refused_writes_do_not_end_an_outage_and_an_open_one_counts() {
        let mut one = book("one", &[10]);
        one.enter(Attempt { began_us: 20, ended_us: 30, outcome: Outcome::Refused }, None);
        assert_eq!(spans(&outages(&[&one], Some(0), 0, 1, 500)), [(10, 500, false)]);
    }

    #[test]
    fn outages_that_ended_before_and_other_shards_are_left_out() {
        let one = book("one", &[10, 50, 60]);
        assert_eq!(spans(&outages(&[&one], Some(0), 50, 5, 61)), [(50, 60, true)]);
        assert!(outages(&[&one], Some(1), 0, 0, 61).is_empty());
    }
}
