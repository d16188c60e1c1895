//! What a run came to.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::book::{Book, Outcome};
use super::check::Verdict;
use super::outage::Outage;

/// Counts of writes by their outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tally {
    /// The server said OK.
    pub acked: u64,
    /// The server said no, or was never reached.
    pub refused: u64,
    /// Sent, and never answered.
    pub unknown: u64,
    /// How often each error came, by its code.
    pub errors: BTreeMap<String, u64>,
}

impl Tally {
    /// The sum over some books.
    pub fn of<'a>(books: impl IntoIterator<Item = &'a Book>) -> Self {
        let mut tally = Self::default();
        for book in books {
            tally.acked += book.count(Outcome::Acked);
            tally.refused += book.count(Outcome::Refused);
            tally.unknown += book.count(Outcome::Unknown);
            for (code, count) in &book.errors {
                *tally.errors.entry(code.clone()).or_default() += count;
            }
        }
        tally
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} acknowledged, {} refused, {} unknown", self.acked, self.refused, self.unknown)?;
        for (code, count) in &self.errors {
            write!(f, ", {code} {count}×")?;
        }
        Ok(())
    }
}

/// What one writer came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LaneReport {
    /// The writer's name.
    pub lane: String,
    /// Its shard; `None` for a writer over all slots.
    pub shard: Option<usize>,
    /// Its writes.
    pub tally: Tally,
}

/// What a run came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// By writer.
    pub lanes: Vec<LaneReport>,
    /// The longest time without an acknowledgement, by shard; of the writers over all slots last.
    pub longest: Vec<Outage>,
    /// What is wrong with the data.
    pub verdict: Verdict,
}

impl Report {
    /// The sum over all writers.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let mut sum = Tally::default();
        for lane in &self.lanes {
            sum.acked += lane.tally.acked;
            sum.refused += lane.tally.refused;
            sum.unknown += lane.tally.unknown;
            for (code, count) in &lane.tally.errors {
                *sum.errors.entry(code.clone()).or_default() += count;
            }
        }
        sum
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.tally())?;
        for outage in &self.longest {
            match outage.shard {
                Some(shard) => write!(f, "; shard {shard}")?,
                None => write!(f, "; cluster client")?,
            }
            write!(f, " longest outage {:.0} ms", outage.ms())?;
        }
        let verdict = &self.verdict;
        write!(
            f,
            "; {} missing, {} double, {} stale, {} phantom",
            verdict.missing.count, verdict.double.count, verdict.stale.count, verdict.phantom.count
        )?;
        for suspects in [&verdict.missing, &verdict.double, &verdict.stale, &verdict.phantom] {
            for suspect in suspects.examples.iter().take(3) {
                write!(f, "\n  {} {} at {}", suspect.key, suspect.value, suspect.ended_us)?;
            }
        }
        Ok(())
    }
}
