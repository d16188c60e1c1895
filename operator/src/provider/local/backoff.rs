//! How long to wait before a node that died is started again, as a kubelet does it.

use std::time::Duration;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(10);

/// A process that ran for this long is taken to be sound again.
const SOUND: Duration = Duration::from_secs(10);

/// Waits double from 1 s up to 10 s, and start anew once a process has run for 10 s.
#[derive(Clone, Copy, Debug, Default)]
pub struct Backoff {
    last: Option<Duration>,
}

impl Backoff {
    /// Whether it ended soon, more than once in a row.
    pub fn is_growing(self) -> bool {
        self.last.is_some_and(|last| last > FIRST)
    }

    /// How long to wait after a process ran for `ran`.
    pub fn after(&mut self, ran: Duration) -> Duration {
        let wait = match self.last {
            Some(last) if ran < SOUND => (last * 2).min(LONGEST),
            _ => FIRST,
        };
        self.last = Some(wait);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_are_forgotten() {
        let mut backoff = Backoff::default();
        let mut waits = |ran: &[u64]| -> Vec<u64> {
            ran.iter().map(|ran| backoff.after(Duration::from_secs(*ran)).as_secs()).collect()
        };
        assert_eq!(waits(&[100, 0, 9, 1, 0, 0]), [1, 2, 4, 8, 10, 10]);
        assert_eq!(waits(&[10, 9]), [1, 2]);
    }
}
