//! Replies that wait for other nodes: what `spec.replication.acknowledge` promises.
//!
//! What a client is told was computed at some offset of the stream. Its reply leaves when as many nodes hold the stream up
//! to there as the shard's config asks for, so that nobody sees a write that may still vanish. Only the client that asked
//! waits; its replies stay in order.
//!
//! Architecture invariant: an acknowledgement counts only if its sender is fed from here and accepted the same config. So
//! whoever can elect another master either knows of this config or was not counted on.

use std::time::{Duration, Instant};

use kv_core::control::{self, NodeState};
use kv_core::quorum::{Acknowledge, Electorate};
use kv_core::shard::ShardConfig;

use super::client::Held;
use super::{ClientKey, Server};
use crate::{notice, warning};

/// For how long a master holds replies whose lease is over, in milliseconds, where no other time is given.
const ISOLATED_MS: u64 = 1000;

/// What is known of who holds the stream.
#[derive(Debug, Default)]
pub struct Durability {
    /// Clients of which replies are held.
    waiting: Vec<ClientKey>,
    /// The offset up to which enough nodes hold the stream.
    durable: u64,
    /// Whose word it takes.
    electorates: Vec<Electorate>,
    /// Where the stream stood when they were asked for their word first.
    settle_at: u64,
    /// Where the stream stood with the barrier of this epoch.
    pub(super) barrier: u64,
    /// Where the stream stood when this master last had its lease.
    led_until: u64,
    /// Where the stream stood after the last change of data.
    pub(super) data_offset: u64,
    /// Replies leave without waiting (SemiSync): the replicas are too far behind.
    degraded: bool,
    /// While degraded: where the stream stood at some moment. It recovers when replicas have that within the timeout.
    probe: Option<(u64, Instant)>,
    /// Since when too few replicas are attached for a write to be acknowledged.
    short_since: Option<Instant>,
    /// Times that replies were no longer waited for.
    pub degradations: u64,
    /// Replies that became errors, as nobody knows whether what they say holds.
    pub uncertain: u64,
}

impl Durability {
    /// Clients of which replies are held.
    #[must_use]
    pub fn held_clients(&self) -> usize {
        self.waiting.len()
    }
}

/// What is to happen with a write, as far as its acknowledgement is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prospect {
    /// It can be acknowledged.
    Good,
    /// It cannot yet.
    Soon,
    /// It could not for too long: there are too few replicas.
    Bad,
    /// The same: this master's lease is over.
    Isolated,
}

impl Server {
    /// The present promise, if this node is the master and replies wait for others.
    fn acknowledge_mode(&self) -> Option<Acknowledge> {
        let config = self.routing.config().filter(|config| config.holds_replies())?;
        (self.routing.state() == NodeState::Master).then_some(config.acknowledge)
    }

    /// How safe writes are, for reports; `None` if replies wait for nobody.
    #[must_use]
    pub fn durability_report(&self) -> Option<control::Durability> {
        self.acknowledge_mode().map(|_| control::Durability {
            durable: self.durability.durable,
            settled: self.durability.durable >= self.durability.settle_at,
            degraded: self.durability.degraded,
        })
    }

    /// A new config was accepted: what was written so far is to be with those that it names. `reigned`: whether this node
    /// was the serving master before.
    pub(super) fn begin_settling(&mut self, reigned: bool) {
        if !reigned {
            self.durability.electorates.clear();
            self.durability.led_until = 0;
        }
        let electorates: Vec<_> =
            self.routing.config().into_iter().flat_map(ShardConfig::electorates).collect();
        if self.durability.electorates != electorates {
            self.durability.electorates = electorates;
            self.durability.settle_at = self.history.offset();
            self.durability.durable = 0;
        }
        self.durability.short_since = None;
        if self.acknowledge_mode().is_none() {
            self.durability.degraded = false;
            let why = "this node is not the master any more";
            if self.routing.state() == NodeState::Master {
                self.release_held(self.durability.led_until);
            } else {
                self.fail_held(why);
            }
        }
    }

    /// Finds out how far enough nodes are, lets the replies go that waited for it, and holds those of this tick that
    /// have to wait. A master whose lease is over acknowledges no write: that is looked at here, when replies leave.
    pub(crate) fn hold_replies(&mut self) {
        if self.routing.state() != NodeState::Master {
            return;
        }
        self.watch_lease();
        let lapsed = self.lapsed_ms().is_some();
        let mode = self.acknowledge_mode();
        let offset = self.history.offset();
        let mut durable = match mode {
            Some(mode) => self.durable_now(mode, offset),
            None => u64::MAX,
        };
        if lapsed {
            durable = durable.min(self.durability.led_until);
        } else {
            self.durability.led_until = offset;
        }
        self.release_held(durable);
        if durable < offset {
            let dirty = mode.is_none() || self.tunables.dirty_reads;
            let now = self.clock.instant;
            self.clients.hold_queued(durable, dirty, now, &mut self.durability.waiting);
        }
    }

    /// The offset up to which replies may leave, as far as other nodes' copies are concerned.
    fn durable_now(&mut self, mode: Acknowledge, offset: u64) -> u64 {
        // What was on enough nodes once is, whatever became of them.
        let reached = Some(self.durable_offset()).filter(|reached| *reached >= self.durability.barrier);
        let durable = reached.unwrap_or(0).max(self.durability.durable);
        self.durability.durable = durable;
        if self.durability.degraded && self.keeps_up(mode, durable, offset) {
            self.durability.degraded = false;
            notice!("The replicas have caught up: replies wait for {mode} again");
        }
        self.note_shortage(mode);
        if self.durability.degraded { u64::MAX } else { durable }
    }

    /// Whether the replicas have all there is, or, as new writes come all the time, had what there was a moment ago so soon that
    /// a reply would not have waited for too long.
    fn keeps_up(&mut self, mode: Acknowledge, durable: u64, offset: u64) -> bool {
        let now = self.clock.instant;
        let (asked, since) = *self.durability.probe.get_or_insert((offset, now));
        if durable < asked {
            return false;
        }
        self.durability.probe = None;
        durable >= offset || self.millis_since(since) < mode.timeout_ms().unwrap_or(0)
    }

    fn durable_offset(&self) -> u64 {
        let Some(config) = self.routing.config() else { return 0 };
        let (me, offset) = (self.routing.id(), self.history.offset());
        config.durable(|id| {
            if id == me {
                return Some(offset);
            }
            let mut feeds = self.clients.feeds().map(|(_, feed)| feed);
            let feed = feeds.find(|feed| feed.node == Some(id) && feed.online())?;
            (feed.acked_epoch == config.epoch).then_some(feed.acked)
        })
    }

    /// Lets replies go that were computed at an offset up to `durable`.
    fn release_held(&mut self, durable: u64) {
        let mut waiting = std::mem::take(&mut self.durability.waiting);
        waiting.retain(|&key| {
            let Some(client) = self.clients.get_mut(key) else { return false };
            let Some(held) = &mut client.held else { return false };
            let (freed, waits) = (held.release(durable), held.waits());
            if freed {
                self.clients.queue_write(key);
            }
            waits
        });
        self.durability.waiting = waiting;
    }

    /// Gives up on replies that waited for too long.
    pub(super) fn tend_held(&mut self) {
        self.retry_short();
        if self.durability.waiting.is_empty() {
            return;
        }
        let mode = self.acknowledge_mode().unwrap_or(Acknowledge::Async);
        let timeout = mode.timeout_ms().unwrap_or(ISOLATED_MS);
        let timeout = Duration::from_millis(timeout);
        let now = self.clock.instant;
        let late =
            |held: &Held| held.oldest().is_some_and(|since| now.saturating_duration_since(since) >= timeout);
        let waiting = self.durability.waiting.iter().copied();
        let late: Vec<_> = waiting
            .filter(|&key| self.clients.get(key).and_then(|client| client.held.as_deref()).is_some_and(late))
            .collect();
        if late.is_empty() {
            return;
        }
        match mode {
            _ if self.lapsed_ms().is_some() => {
                let why = "this master reaches too few nodes of its shard";
                late.into_iter().for_each(|key| self.fail_client(key, why, Some(now - timeout)));
            }
            Acknowledge::SemiSync { .. } => {
                warning!(
                    "Too few replicas acknowledged writes within {timeout:?}: replies no longer wait for them"
                );
                self.durability.degraded = true;
                self.durability.probe = None;
                self.durability.degradations += 1;
                self.release_held(u64::MAX);
            }
            Acknowledge::Quorum { copies, .. } => {
                let why = format!("not on {copies} nodes within {} ms", timeout.as_millis());
                late.into_iter().for_each(|key| self.fail_client(key, &why, Some(now - timeout)));
            }
            Acknowledge::Async => {}
        }
    }

    /// Nobody knows what becomes of what is not acknowledged yet: says so to all who wait.
    pub(super) fn fail_held(&mut self, why: &str) {
        for key in std::mem::take(&mut self.durability.waiting) {
            self.fail_client(key, why, None);
        }
    }

    /// Turns held replies into errors: those from before `until`, or all.
    fn fail_client(&mut self, key: ClientKey, why: &str, until: Option<Instant>) {
        let error = format!("UNCERTAIN {why}: what this command wrote or read may be kept or lost");
        let Some(client) = self.clients.get_mut(key) else { return };
        match client.fail_held(&error, until) {
            Some(count) => self.durability.uncertain += count,
            None => client.doomed = true, // no reply can be told from the next
        }
        self.clients.queue_write(key);
        // It may have had more to read than it is given requests for; what is left is little.
        self.clients.wake(key);
    }

    /// Whether a write that runs now can be acknowledged. One that nobody could is better refused than left uncertain.
    pub(super) fn prospect(&self) -> Prospect {
        if self.isolated {
            return Prospect::Isolated;
        }
        match self.durability.short_since {
            _ if self.lapsed_ms().is_some() => Prospect::Soon,
            None => Prospect::Good,
            Some(since) => {
                let timeout = self.acknowledge_mode().and_then(Acknowledge::timeout_ms).unwrap_or(0);
                if self.millis_since(since) < timeout { Prospect::Soon } else { Prospect::Bad }
            }
        }
    }

    fn note_shortage(&mut self, mode: Acknowledge) {
        let Acknowledge::Quorum { copies, .. } = mode else {
            self.durability.short_since = None;
            return;
        };
        let attached = self.clients.feeds().filter(|(_, feed)| feed.online() && feed.node.is_some()).count();
        if attached + 1 >= usize::from(copies) {
            if self.durability.short_since.take().is_some() {
                self.retry_held();
            }
        } else {
            self.durability.short_since.get_or_insert(self.clock.instant);
        }
    }

    /// Writes that were held for want of replicas are refused when that took too long.
    fn retry_short(&mut self) {
        if self.durability.short_since.is_some() && self.prospect() == Prospect::Bad {
            self.retry_held();
        }
    }

    /// Tells the master how far this node is, if somebody there waits for it.
    pub(super) fn acknowledge_stream(&mut self) {
        let Some(config) = self.routing.config().filter(|config| config.holds_replies()) else { return };
        let Some(link) = self.link.as_ref().filter(|link| link.client().is_some()) else { return };
        if link.parent == Some(config.master) && self.stats.acked_offset != self.history.offset() {
            self.send_ack();
        }
    }
}
