//! How old a replica's data is (`replica-max-staleness`).
//!
//! A managed node asks the master several times a second how it is. Its data is as new as the last question whose answer
//! names an offset that this node has reached: whatever the master had when it was asked is here. So it is known across
//! relays, without traffic in the stream, and no clocks of two machines are compared. A replica by `replicaof` goes by when
//! its parent's stream last said something, which the parent does every `repl-ping-replica-period`.

use std::collections::VecDeque;

use kv_core::control::{NodeReport, NodeState};
use kv_core::shard::Role;

use super::Server;
use crate::peers::clock_ms;

/// How many answers are remembered whose offsets were not reached yet.
const MOST: usize = 64;

/// Answers of the master. Times are those of [`clock_ms`].
#[derive(Debug, Default)]
pub(super) struct Freshness {
    /// When the master was asked last of whose answer all is here; 0 for never.
    as_of: u64,
    /// Later ones: when it was asked, and the offset that it named.
    ahead: VecDeque<(u64, u64)>,
}

impl Freshness {
    /// The master named this offset.
    fn note(&mut self, asked: u64, offset: u64, reached: u64) {
        self.as_of = self.as_of(reached);
        self.ahead.push_back((asked, offset));
        self.ahead.retain(|(asked, _)| *asked > self.as_of);
        if self.ahead.len() > MOST {
            self.ahead.pop_front();
        }
    }

    /// When the data were all there was, for a node that has reached this offset.
    fn as_of(&self, reached: u64) -> u64 {
        let known = self.ahead.iter().rev().find(|(_, offset)| *offset <= reached);
        known.map_or(self.as_of, |(asked, _)| *asked)
    }
}

impl Server {
    /// Another node has answered.
    pub(super) fn note_freshness(&mut self, report: &NodeReport, asked: u64) {
        let Some(config) = self.routing.config() else { return };
        let leads = config.master == report.id && report.state == NodeState::Master;
        if leads && report.replid == self.history.replid {
            self.freshness.note(asked, report.offset, self.history.offset());
        }
    }

    /// For how long the master may have had what this replica has not, in milliseconds; `None` for a master.
    #[must_use]
    pub fn data_age_ms(&self) -> Option<u64> {
        if self.routing.is_managed() {
            (self.routing.role() == Some(Role::Replica))
                .then(|| clock_ms().saturating_sub(self.freshness.as_of(self.history.offset())))
        } else {
            let link = self.link.as_ref()?;
            Some(link.streamed.map_or(u64::MAX, |streamed| self.millis_since(streamed)))
        }
    }

    /// Whether this replica's data is older than reads may be answered from.
    pub(super) fn is_stale(&self) -> bool {
        self.tunables.max_staleness.is_some_and(|most| self.data_age_ms().is_some_and(|age| age > most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_as_new_as_the_last_question_whose_offset_was_reached() {
        let mut freshness = Freshness::default();
        assert_eq!(freshness.as_of(100), 0);
        freshness.note(1000, 100, 100);
        freshness.note(1250, 180, 120);
        freshness.note(1500, 260, 140);
        assert_eq!([100, 179, 180, 259, 260].map(|at| freshness.as_of(at)), [1000, 1000, 1250, 1250, 1500]);
        freshness.note(1750, 300, 180);
        assert_eq!(freshness.as_of(180), 1250);
        for n in 0..1000 {
            freshness.note(2000 + n, 1000 + n, 180);
        }
        assert!(freshness.ahead.len() <= MOST);
        assert_eq!((freshness.as_of(999), freshness.as_of(1999)), (1250, 2999));
    }
}
