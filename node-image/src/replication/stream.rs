//! Which replication history a node holds, and whether a replica can go on from where it stands.

use super::Backlog;

/// The replication history that a node holds: ids, offset, and recent past.
#[derive(Debug)]
pub struct History {
    /// Id of the history, 40 hex digits.
    pub replid: String,
    /// The history that this one continues, and the offset up to which both are the same.
    pub previous: Option<(String, u64)>,
    /// The recent past; its end is the replication offset.
    pub backlog: Backlog,
    /// The database that the last command in the stream was for; `None`: the next command needs a SELECT.
    pub stream_db: Option<usize>,
    /// Whether the stream is kept: from when somebody may want it on, for ever. See [`History::record`].
    recorded: bool,
}

/// 40 random hex digits.
#[must_use]
pub fn random_hex(random: &mut fastrand::Rng) -> String {
    (0..40).map(|_| random.digit(16)).collect()
}

/// Whether a replica can go on from where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResyncVerdict {
    /// From this position on.
    Continue(u64),
    /// Its history is ours, and it is ahead of us: it can as soon as we have caught up.
    Ahead(u64),
    /// It holds another history, or is too far behind.
    Full,
}

impl History {
    /// An empty history with a new id.
    #[must_use]
    pub fn new(random: &mut fastrand::Rng, backlog: usize) -> Self {
        Self {
            replid: random_hex(random),
            previous: None,
            backlog: Backlog::new(0, backlog),
            stream_db: None,
            recorded: false,
        }
    }

    /// Keeps the stream from now on. A node that never had a replica, a parent or an append-only file need not, and is
    /// quicker for it: as with Redis, its offset stands still. It never ends once it has begun, for a gap in the stream
    /// would go unnoticed.
    pub fn record(&mut self) {
        self.recorded = true;
    }

    /// Whether the stream is kept.
    #[must_use]
    pub fn is_recorded(&self) -> bool {
        self.recorded
    }

    /// Bytes of the stream so far.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.backlog.end()
    }

    /// Begins a history of its own that continues the present one: the node was promoted.
    pub fn fork(&mut self, random: &mut fastrand::Rng) {
        let old = std::mem::replace(&mut self.replid, random_hex(random));
        self.recorded = true;
        // Nothing is known of a history that was given up.
        self.previous = Some((old, self.offset())).filter(|(old, _)| !old.is_empty());
        self.stream_db = None;
    }

    /// A snapshot file was loaded that says where it stood, and in which history if anybody may hold a copy of it: this
    /// one continues that. The id is a new one, for what is written from now on is not what others wrote who went on.
    pub fn restore(&mut self, replid: Option<String>, offset: u64) {
        self.backlog.reset(offset);
        if let Some(replid) = replid {
            // Unrecorded, the offset would stand still, and a copy would be taken for whole that is not.
            self.recorded = true;
            self.previous = Some((replid, offset));
        }
    }

    /// The node goes on to follow: it holds nothing but what the restored history holds. `stream_db`: the database that
    /// the stream has selected there.
    pub fn resume(&mut self, stream_db: usize) {
        if let Some((replid, _)) = self.previous.take_if(|(_, switch)| *switch == self.backlog.end()) {
            self.replid = replid;
            self.stream_db = Some(stream_db);
        }
    }

    /// Takes up another history at `offset`: a full synchronisation was loaded.
    pub fn adopt(&mut self, replid: String, offset: u64) {
        self.replid = replid;
        self.recorded = true;
        self.previous = None;
        self.backlog.reset(offset);
        self.stream_db = None;
    }

    /// The parent goes on under the id `replid`: what was held so far is the same up to `switch`.
    pub fn rename(&mut self, replid: String, switch: u64) {
        self.recorded = true;
        if replid != self.replid {
            let old = std::mem::replace(&mut self.replid, replid);
            self.previous = Some((old, switch));
        }
    }

    /// How many bytes of this history one lacks that is called `replid`, stands at `offset`, and continues `previous` from
    /// where that says on; `None` if nobody knows.
    #[must_use]
    pub fn beyond(&self, replid: &str, offset: u64, previous: Option<&(String, u64)>) -> Option<u64> {
        let shared = match previous {
            _ if replid == self.replid => Some(offset),
            Some((previous, switch)) if *previous == self.replid => Some(*switch),
            _ => None,
        };
        shared.map(|shared| self.offset().saturating_sub(shared))
    }

    /// Whether a replica that holds the history `replid` up to `offset` can go on from there.
    #[must_use]
    pub fn resync(&self, replid: &str, offset: u64) -> ResyncVerdict {
        let shared = match &self.previous {
            _ if replid == self.replid => u64::MAX,
            Some((previous, switch)) if replid == previous => *switch,
            _ => return ResyncVerdict::Full,
        };
        if offset > shared || offset < self.backlog.start() {
            ResyncVerdict::Full
        } else if offset > self.offset() {
            ResyncVerdict::Ahead(offset)
        } else {
            ResyncVerdict::Continue(offset)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_another_history_is_counted_where_they_parted() {
        let mut history = History::new(&mut fastrand::Rng::with_seed(1), 1024);
        history.backlog.append(&[0; 100]);
        let own = history.replid.clone();
        let other = "e".repeat(40);
        assert_eq!(history.beyond(&other, 500, Some(&(own.clone(), 60))), Some(40));
        assert_eq!(history.beyond(&other, 500, Some(&(own.clone(), 160))), Some(0));
        assert_eq!(history.beyond(&own, 90, None), Some(10));
        assert_eq!(history.beyond(&other, 500, Some(&("f".repeat(40), 60))), None);
        assert_eq!(history.beyond(&other, 500, None), None);
    }

    #[test]
    fn who_may_go_on() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut history = History::new(&mut random, 1024);
        history.backlog.append(&[0; 100]);
        let first = history.replid.clone();
        assert_eq!(history.resync(&first, 40), ResyncVerdict::Continue(40));
        assert_eq!(history.resync(&first, 100), ResyncVerdict::Continue(100));
        assert_eq!(history.resync(&first, 101), ResyncVerdict::Ahead(101));
        assert_eq!(history.resync("?", 0), ResyncVerdict::Full);

        history.fork(&mut random);
        history.backlog.append(&[0; 50]);
        assert_eq!(history.resync(&first, 100), ResyncVerdict::Continue(100));
        assert_eq!(history.resync(&first, 101), ResyncVerdict::Full, "a tail that the new master never had");
        assert_eq!(history.resync(&history.replid, 150), ResyncVerdict::Continue(150));

        history.restore(Some("e".repeat(40)), 300);
        assert_eq!(history.resync(&"e".repeat(40), 300), ResyncVerdict::Continue(300));
        history.backlog.append(&[0; 50]);
        assert_eq!(history.resync(&"e".repeat(40), 301), ResyncVerdict::Full);
        history.resume(0);
        assert_ne!(history.replid, "e".repeat(40), "something was written since");
        history.restore(Some("e".repeat(40)), 300);
        history.resume(3);
        assert_eq!((history.replid.clone(), history.stream_db), ("e".repeat(40), Some(3)));

        history.adopt("f".repeat(40), 7000);
        assert_eq!(history.resync(&first, 100), ResyncVerdict::Full);
        assert_eq!(history.resync(&"f".repeat(40), 6999), ResyncVerdict::Full);
        assert_eq!(history.resync(&"f".repeat(40), 7000), ResyncVerdict::Continue(7000));
    }
}
