//! A model of a node, as far as its shard is concerned: promises, config, the log of its writes, lease, acknowledgements.
//! What it decides it asks the real code for.

use std::collections::BTreeMap;

use kv_core::control::{Consent, DataState, Durability, Link, LinkState, NodeReport, NodeState};
use kv_core::id::{ClusterUid, Epoch, NodeId};
use kv_core::lease;
use kv_core::shard::{Role, ShardConfig};

/// What stands in a node's log: a client's write, or the barrier with which a master's reign begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    Write(u64),
    Barrier(Epoch),
}

/// A write that waits to be acknowledged.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    pub id: u64,
    /// The log's length with it.
    pub offset: usize,
}

#[derive(Clone, Debug)]
pub struct Node {
    pub name: String,
    pub ordinal: u16,
    pub id: NodeId,
    pub running: bool,
    /// Stopped (SIGSTOP) until then.
    pub frozen_until: u64,
    pub life: u32,
    // On the disk.
    pub promised: Epoch,
    pub renewing: bool,
    pub config: Option<ShardConfig>,
    /// How much of the log survives a crash.
    pub synced: usize,
    // In memory.
    pub log: Vec<Entry>,
    pub replid: u64,
    pub previous: Option<(u64, usize)>,
    pub write_epoch: Epoch,
    pub data: DataState,
    pub confirmed: bool,
    pub streaming: bool,
    pub paused_until: u64,
    pub started: u64,
    pub heard_master: u64,
    pub granted: BTreeMap<NodeId, u64>,
    pub witness: Option<u64>,
    pub acked: BTreeMap<NodeId, (usize, Epoch)>,
    pub durable: usize,
    pub settle_at: usize,
    pub barrier: usize,
    /// How long the log was that was lost in a crash, until it is whole again.
    pub forgot: usize,
    pub waiting: Vec<Waiting>,
    pub propose_at: u64,
    /// When a user asked it to lead.
    pub asked_at: Option<u64>,
}

impl Node {
    pub fn new(ordinal: u16, id: NodeId, now: u64) -> Self {
        Self {
            name: format!("a-0-{ordinal}"),
            ordinal,
            id,
            running: true,
            frozen_until: 0,
            life: 0,
            promised: Epoch(0),
            renewing: false,
            config: None,
            synced: 0,
            log: Vec::new(),
            replid: 0,
            previous: None,
            write_epoch: Epoch(0),
            data: DataState::Empty,
            confirmed: false,
            streaming: false,
            paused_until: 0,
            started: now,
            heard_master: now,
            granted: BTreeMap::new(),
            witness: None,
            acked: BTreeMap::new(),
            durable: 0,
            settle_at: 0,
            barrier: 0,
            forgot: 0,
            waiting: Vec::new(),
            propose_at: 0,
            asked_at: None,
        }
    }

    pub fn asked_to_lead(&self, now: u64) -> bool {
        self.asked_at.is_some_and(|at| now - at < 5000) && self.state() != NodeState::Master
    }

    pub fn epoch(&self) -> Epoch {
        self.config.as_ref().map_or(Epoch(0), |config| config.epoch)
    }

    pub fn role(&self) -> Option<Role> {
        self.config.as_ref()?.role(self.id)
    }

    pub fn parent(&self) -> Option<NodeId> {
        self.config.as_ref()?.member(self.id)?.parent
    }

    pub fn state(&self) -> NodeState {
        match self.role() {
            None => NodeState::Blank,
            Some(_) if self.promised > self.epoch() && !self.renewing => NodeState::Fenced,
            Some(Role::Replica) => NodeState::Replica,
            Some(Role::Master) if self.confirmed => NodeState::Master,
            Some(Role::Master) => NodeState::Joining,
        }
    }

    pub fn acts(&self, now: u64) -> bool {
        self.running && self.frozen_until <= now
    }

    /// Ends without warning. What was not synced is gone.
    pub fn crash(&mut self) {
        self.running = false;
        self.forgot = self.forgot.max(self.log.len());
        self.log.truncate(self.synced);
        self.waiting.clear();
    }

    pub fn start(&mut self, now: u64, history: u64) {
        let barrier = |entry: &Entry| if let Entry::Barrier(epoch) = entry { Some(*epoch) } else { None };
        let write_epoch = self.log.iter().filter_map(barrier).next_back().unwrap_or_default();
        let data = if self.log.is_empty() { DataState::Empty } else { DataState::Restored };
        *self = Self {
            running: true,
            life: self.life + 1,
            promised: self.promised,
            renewing: self.renewing,
            config: self.config.take(),
            synced: self.log.len(),
            forgot: self.forgot,
            log: std::mem::take(&mut self.log),
            replid: history,
            write_epoch,
            data,
            ..Self::new(self.ordinal, self.id, now)
        };
    }

    /// Whether it is bound to its master, or is the master with its lease.
    pub fn bound(&self, now: u64) -> bool {
        let Some(config) = &self.config else { return false };
        match self.state() {
            NodeState::Master => self.holds_lease(now),
            NodeState::Replica => now.saturating_sub(self.heard_master) < config.failover.lease_ms,
            NodeState::Fenced if self.role() == Some(Role::Replica) => {
                now.saturating_sub(self.heard_master) < config.failover.lease_ms
            }
            _ => false,
        }
    }

    pub fn holds_lease(&self, now: u64) -> bool {
        let Some(config) = &self.config else { return false };
        now < lease::until(config, self.id, |id| self.granted.get(&id).copied(), self.witness)
    }

    pub fn prepare(&mut self, epoch: Epoch, consent: Consent, now: u64) {
        let sticky = consent == Consent::IfSilent && self.bound(now);
        let renewal = consent.renews(self.epoch());
        let deposed = renewal && self.state() == NodeState::Fenced && self.role() == Some(Role::Master);
        if epoch <= self.promised || epoch <= self.epoch() || sticky || deposed {
            return;
        }
        self.renewing = renewal && self.state() != NodeState::Fenced;
        self.promised = epoch;
        self.paused_until = 0;
        if self.state() == NodeState::Fenced {
            self.waiting.clear();
            self.streaming = false;
        }
    }

    /// Whether it accepted.
    pub fn accept(&mut self, config: &ShardConfig, now: u64, history: u64) -> bool {
        if self.config.as_ref() == Some(config) {
            return true;
        }
        if config.epoch < self.promised || self.epoch() >= config.epoch {
            return false;
        }
        let reigned = self.state() == NodeState::Master;
        let before = self.config.replace(config.clone());
        self.promised = config.epoch;
        self.renewing = false;
        self.confirmed = true;
        self.paused_until = 0;
        let same_voters = before.as_ref().is_some_and(|old| {
            old.electorates().collect::<Vec<_>>() == config.electorates().collect::<Vec<_>>()
        });
        if before.as_ref().map(|old| old.master) != Some(config.master) {
            self.streaming = false;
        }
        if !reigned || before.map(|old| old.failover) != Some(config.failover) {
            self.granted.clear();
            self.witness = None;
        }
        match self.role() {
            Some(Role::Master) => {
                if !reigned {
                    self.forgot = 0;
                    self.previous = Some((self.replid, self.log.len()));
                    self.replid = history;
                    self.data = DataState::Live;
                    self.acked.clear();
                }
                self.log.push(Entry::Barrier(config.epoch));
                self.barrier = self.log.len();
                self.write_epoch = config.epoch;
            }
            _ => {
                self.heard_master = now;
                self.waiting.clear();
            }
        }
        if !(reigned && same_voters) {
            self.settle_at = self.log.len();
            self.durable = 0;
        }
        true
    }

    /// Follows a parent that it reaches for a moment, and tells it how far it is.
    pub fn follow(&mut self, parent: &mut Self, most: usize) {
        let feeds = matches!(parent.state(), NodeState::Master | NodeState::Replica)
            && parent.data == DataState::Live
            && (parent.state() == NodeState::Master || parent.streaming);
        // Who attaches says its epoch, and is refused by one that is behind, or that is to feed others.
        let named = parent.epoch() > self.epoch() || parent.epoch() == self.epoch();
        if self.state() != NodeState::Replica || !feeds || !named {
            self.streaming = false;
            return;
        }
        if !self.streaming {
            let own = self.log.len();
            let goes_on = match parent.previous {
                _ if self.replid == parent.replid => own <= parent.log.len(),
                Some((replid, switch)) => replid == self.replid && own <= switch,
                None => false,
            };
            if goes_on && self.data >= DataState::Restored {
                assert_eq!(
                    self.log[..],
                    parent.log[..own],
                    "{} goes on at {} with another past",
                    self.name,
                    parent.name
                );
            } else {
                self.log.clone_from(&parent.log);
                self.write_epoch = parent.write_epoch;
            }
            if self.replid != parent.replid {
                self.previous = parent.previous.filter(|(id, _)| *id == self.replid);
                self.replid = parent.replid;
            }
            self.streaming = true;
            self.data = DataState::Live;
        }
        let from = self.log.len().min(parent.log.len());
        let to = (from + most).min(parent.log.len());
        for entry in &parent.log[from..to] {
            self.log.push(*entry);
            if let Entry::Barrier(epoch) = entry {
                self.write_epoch = *epoch;
            }
        }
        if parent.state() == NodeState::Master {
            if self.log.len() == parent.log.len() {
                self.forgot = 0;
            }
            parent.acked.insert(self.id, (self.log.len(), self.epoch()));
        }
    }

    /// As the master: which waiting writes may be acknowledged now.
    pub fn acknowledge(&mut self, now: u64) -> Vec<Waiting> {
        let Some(config) = self.config.as_ref().filter(|_| self.state() == NodeState::Master) else {
            return Vec::new();
        };
        let holds_replies = config.holds_replies();
        let held = |id: NodeId| match self.acked.get(&id) {
            _ if id == self.id => Some(self.log.len() as u64),
            Some((offset, epoch)) if *epoch == config.epoch => Some(*offset as u64),
            _ => None,
        };
        let reached = Some(config.durable(held) as usize).filter(|reached| *reached >= self.barrier);
        self.durable = self.durable.max(reached.unwrap_or(0));
        if !self.holds_lease(now) {
            return Vec::new();
        }
        let durable = if holds_replies { self.durable } else { self.log.len() };
        let (done, waiting) = self.waiting.iter().partition(|write| write.offset <= durable);
        self.waiting = waiting;
        done
    }

    pub fn report(&self, uid: &ClusterUid, now: u64) -> NodeReport {
        let state = if self.streaming { LinkState::Streaming } else { LinkState::Connecting };
        let link = Link { parent: self.parent(), state, silent_ms: 0 };
        let master = self.state() == NodeState::Master;
        let holds = self.config.as_ref().is_some_and(ShardConfig::holds_replies);
        NodeReport {
            id: self.id,
            name: self.name.clone(),
            run_id: self.life.to_string(),
            version: String::new(),
            uid: uid.clone(),
            shard: 0,
            promised: self.promised,
            renewing: self.renewing,
            config: self.config.clone(),
            state: self.state(),
            link: (self.state() == NodeState::Replica).then_some(link),
            replid: self.replid.to_string(),
            offset: self.log.len() as u64,
            data: self.data,
            write_epoch: self.write_epoch,
            keys: 0,
            replicas: Vec::new(),
            paused: self.paused_until > now,
            leaving: false,
            asked_to_lead: self.asked_to_lead(now),
            asked_to_yield: false,
            clients_paused: false,
            map_digest: String::new(),
            config_digest: String::new(),
            full_syncs: 0,
            discarded: None,
            partial_syncs: 0,
            uptime_ms: now - self.started,
            disk_error: None,
            clock_ms: now,
            sentinel_port: 0,
            bound: self.bound(now),
            isolated: master && !self.holds_lease(now),
            durability: (master && holds).then_some(Durability {
                durable: self.durable as u64,
                settled: self.durable >= self.settle_at,
                degraded: false,
            }),
            source: None,
            export: None,
            import: None,
        }
    }
}
