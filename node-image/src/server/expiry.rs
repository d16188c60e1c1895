//! When and for how long expired keys are looked for.
//!
//! In each period of `hz` a part of the processor's time may be spent, which `active-expire-effort` sets. It is spent in
//! slices of less than a millisecond, with a turn of the event loop between them, and only as long as enough of what is
//! looked at is expired: what is left then is few.

use std::time::{Duration, Instant};

use super::Server;
use crate::keyspace::ExpirySearch;

/// The longest that expired keys are looked for in one go.
const SLICE: Duration = Duration::from_micros(500);

/// Keys that are looked at between two looks at the clock.
const STEP: usize = 100;

/// What is still to be done in this period.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Time that may be spent until the next period.
    left: Duration,
    /// There is more to find.
    goes_on: bool,
}

impl Pace {
    /// Begins a period.
    fn begin(&mut self, period: Duration, effort: u32) {
        // As in Redis: a quarter of the time, and up to 18 % more.
        self.left = period * (25 + 2 * effort.saturating_sub(1)) / 100;
        self.goes_on = true;
    }

    /// Whether another slice is due.
    fn is_due(&self) -> bool {
        self.goes_on && !self.left.is_zero()
    }

    /// Takes steps for one slice. `stale`: percent of expired keys that may stay.
    fn slice(&mut self, stale: usize, clock: impl Fn() -> Instant, mut step: impl FnMut() -> ExpirySearch) {
        let began = clock();
        let mut found = ExpirySearch::default();
        while !found.round {
            found += step();
            if clock().saturating_duration_since(began) >= SLICE.min(self.left) {
                break;
            }
        }
        let few = found.expired * 100 <= found.looked_at * stale;
        self.goes_on = !few || (!found.round && found.looked_at == 0);
        self.left = self.left.saturating_sub(clock().saturating_duration_since(began));
    }
}

impl Server {
    /// Begins a period of looking for expired keys.
    pub(super) fn begin_expiry(&mut self) {
        let period = Duration::from_millis(1000 / self.tunables.hz.max(1));
        self.expiry.begin(period, self.tunables.expire_effort);
        self.expire_slice();
    }

    /// Whether expired keys are to be looked for before the next period.
    pub(super) fn is_expiring(&self) -> bool {
        self.expiry.is_due() && self.may_originate()
    }

    /// Looks for expired keys for a short time, and removes them.
    pub(super) fn expire_slice(&mut self) {
        if !self.is_expiring() {
            return;
        }
        self.set_expiry_mode();
        let stale = 11_usize.saturating_sub(self.tunables.expire_effort as usize);
        let mut pace = std::mem::take(&mut self.expiry);
        pace.slice(stale, Instant::now, || {
            let found = self.keyspace.expire_cycle(self.clock.unix_ms, STEP);
            self.replicate_expired();
            found
        });
        self.expiry = pace;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const PERIOD: Duration = Duration::from_millis(100);

    /// Slices of one period in which each step takes `step` and finds `found`: how long each took.
    fn period(effort: u32, step: Duration, found: ExpirySearch) -> Vec<Duration> {
        let start = Instant::now();
        let now = Cell::new(start);
        let mut pace = Pace::default();
        pace.begin(PERIOD, effort);
        let mut slices = vec![];
        while pace.is_due() && slices.len() < 10_000 {
            let before = now.get();
            pace.slice(
                10,
                || now.get(),
                || {
                    now.set(now.get() + step);
                    found
                },
            );
            slices.push(now.get() - before);
        }
        slices
    }

    #[test]
    fn a_slice_ends_at_its_budget_and_a_period_at_its_share() {
        let many = ExpirySearch { looked_at: 100, expired: 100, round: false };
        for (effort, share) in [(1, 25), (10, 43)] {
            let slices = period(effort, Duration::from_micros(30), many);
            assert!(slices.iter().all(|slice| *slice < SLICE + Duration::from_micros(30)));
            let total: Duration = slices.iter().sum();
            let wanted = PERIOD * share / 100;
            assert!(total >= wanted && total < wanted + Duration::from_micros(30), "{total:?}");
        }
        // A step that takes long is the last one.
        assert_eq!(period(1, Duration::from_millis(60), many).len(), 1);
    }

    #[test]
    fn it_ends_early_where_little_is_expired() {
        let step = Duration::from_micros(30);
        let few = ExpirySearch { looked_at: 100, expired: 10, round: false };
        assert_eq!(period(1, step, few).len(), 1);
        let over = ExpirySearch { looked_at: 0, expired: 0, round: true };
        assert_eq!(period(1, step, over), [step]);
        let nothing_yet = ExpirySearch { round: false, ..over };
        assert!(period(1, step, nothing_yet).len() > 10, "it is to go on to where something is");
    }
}
