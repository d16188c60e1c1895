//! Invariant T: the condition Ready is never true while probe writes fail for over 5 s. Pure.

use crate::ledger::outage::Outage;

/// For so long writes may fail until Ready must say so.
pub const GRACE_US: u64 = 5_000_000;

/// Moments of an outage that don't count: what was said is read with a delay, and a writer may need so long until it
/// notices that writes are possible again.
const RESOLUTION_US: u64 = 1_000_000;

/// What the condition said from a moment on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// When it was read, in microseconds of Unix time.
    pub at_us: u64,
    /// Whether the condition Ready was true.
    pub ready: bool,
}

/// The outages during which Ready was true after writes had failed for over 5 s. `said` is in order of time; what was
/// said holds until the next word, and the last until `until_us`.
#[must_use]
pub fn lies(said: &[Said], outages: &[Outage], until_us: u64) -> Vec<Outage> {
    let ends = said.iter().skip(1).map(|next| next.at_us).chain([until_us]);
    let spans: Vec<(u64, u64)> =
        said.iter().zip(ends).filter(|(said, _)| said.ready).map(|(said, end)| (said.at_us, end)).collect();
    let lied = |outage: &&Outage| {
        let (from, to) =
            (outage.from_us.saturating_add(GRACE_US), outage.to_us.saturating_sub(RESOLUTION_US));
        spans.iter().any(|&(begin, end)| begin.max(from) < end.min(to))
    };
    outages.iter().filter(lied).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outage(from_s: u64, to_s: u64) -> Outage {
        Outage { shard: Some(0), from_us: from_s * 1_000_000, to_us: to_s * 1_000_000, over: true }
    }

    fn said(words: &[(u64, bool)]) -> Vec<Said> {
        words.iter().map(|&(at_s, ready)| Said { at_us: at_s * 1_000_000, ready }).collect()
    }

    fn count(words: &[(u64, bool)], outages: &[Outage]) -> usize {
        lies(&said(words), outages, 100_000_000).len()
    }

    #[test]
    fn short_outages_may_go_unsaid() {
        assert_eq!(count(&[(0, true)], &[outage(10, 15)]), 0);
    }

    #[test]
    fn ready_must_end_within_five_seconds() {
        assert_eq!(count(&[(0, true)], &[outage(10, 18)]), 1);
        assert_eq!(count(&[(0, true), (14, false)], &[outage(10, 18)]), 0);
        assert_eq!(count(&[(0, true), (17, false)], &[outage(10, 20)]), 1, "said too late");
    }

    #[test]
    fn ready_must_not_come_back_before_writes_do() {
        assert_eq!(count(&[(0, true), (12, false), (18, true)], &[outage(10, 25)]), 1);
        assert_eq!(count(&[(0, true), (12, false), (20, true)], &[outage(10, 20)]), 0);
    }
}
