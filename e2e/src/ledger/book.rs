//! What a writer did: every attempt, its times and what became of it.

use std::collections::BTreeMap;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A monotonic clock that counts microseconds of Unix time, so that the times of two processes on one machine compare.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
    started_unix_us: u64,
}

impl Clock {
    /// A clock that is set by the system's, now, and runs by itself from then on.
    #[must_use]
    pub fn start() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { started: Instant::now(), started_unix_us: micros(unix.as_micros()) }
    }

    /// Microseconds since the Unix epoch.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        self.started_unix_us.saturating_add(micros(self.started.elapsed().as_micros()))
    }
}

fn micros(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The server said OK: it must be there.
    Acked,
    /// The server said no, or was never reached: it must not be there.
    Refused,
    /// It was sent, and no answer came: it may be there.
    Unknown,
}

/// One write; its number is its place in the book.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// When it was begun.
    pub began_us: u64,
    /// When its outcome was known.
    pub ended_us: u64,
    /// What became of it.
    pub outcome: Outcome,
}

/// How a writer writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `RPUSH` of a unique element to one of these keys, in turn. Shows what is missing, double, and out of order.
    /// Never retried by itself, for a retry is how a client doubles a write.
    Append(Vec<String>),
    /// `SET` of a key that is used once, over all slots; its names start with this.
    Fresh(String),
    /// `SET` of one of these keys, in turn, to a unique value. Shows what is missing and stale.
    Register(Vec<String>),
}

/// All that one writer did.
#[derive(Clone, Debug)]
pub struct Book {
    /// The writer's name; part of each value.
    pub lane: String,
    /// Index of the shard, in order of the first slot, if it writes to one only.
    pub shard: Option<usize>,
    /// How it writes.
    pub kind: Kind,
    /// Its writes in order.
    pub attempts: Vec<Attempt>,
    /// How often each error came, by its code.
    pub errors: BTreeMap<String, u64>,
}

impl Book {
    /// An empty book.
    #[must_use]
    pub fn new(lane: impl Into<String>, shard: Option<usize>, kind: Kind) -> Self {
        Self { lane: lane.into(), shard, kind, attempts: Vec::new(), errors: BTreeMap::new() }
    }

    /// The key of write number `seq`.
    #[must_use]
    pub fn key(&self, seq: usize) -> String {
        match &self.kind {
            Kind::Append(keys) | Kind::Register(keys) => {
                keys.get(seq.checked_rem(keys.len()).unwrap_or(0)).cloned().unwrap_or_default()
            }
            Kind::Fresh(prefix) => format!("{prefix}{seq}"),
        }
    }

    /// The unique value of write number `seq`.
    #[must_use]
    pub fn value(&self, seq: usize) -> String {
        format!("{}:{seq}", self.lane)
    }

    /// Enters the next write's outcome, and the error's code if there was one.
    pub fn enter(&mut self, attempt: Attempt, error: Option<String>) {
        self.attempts.push(attempt);
        if let Some(code) = error {
            *self.errors.entry(code).or_default() += 1;
        }
    }

    /// How many writes had this outcome.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> u64 {
        self.attempts.iter().filter(|attempt| attempt.outcome == outcome).count() as u64
    }
}
