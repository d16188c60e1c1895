//! A model of a node: what it promises, accepts, keeps on disk, and how it follows its parent.

use kv_core::control::{DataState, Link, LinkState, NodeReport, NodeState};
use kv_core::id::{ClusterUid, Epoch, NodeId};
use kv_core::shard::ShardConfig;

#[derive(Clone, Debug)]
pub struct SimNode {
    pub name: String,
    pub ordinal: u16,
    pub id: NodeId,
    pub running: bool,
    pub deleting: bool,
    /// Cut off from the operator, not from its peers.
    pub cut: bool,
    pub life: u32,
    pub promised: Epoch,
    pub renewing: bool,
    pub config: Option<ShardConfig>,
    pub state: NodeState,
    pub data: DataState,
    pub replid: u64,
    pub offset: u64,
    pub write_epoch: Epoch,
    pub link: LinkState,
    pub paused_until: u64,
    /// Its disk takes nothing.
    pub full: bool,
    /// Which version of the spec it was started from.
    pub template: u32,
    /// A new volume takes a while.
    pub blocked_until: u64,
}

impl SimNode {
    pub fn new(name: String, ordinal: u16, id: NodeId) -> Self {
        Self {
            name,
            ordinal,
            id,
            running: true,
            deleting: false,
            cut: false,
            life: 0,
            promised: Epoch(0),
            renewing: false,
            config: None,
            state: NodeState::Blank,
            data: DataState::Empty,
            replid: 0,
            offset: 0,
            write_epoch: Epoch(0),
            link: LinkState::Connecting,
            paused_until: 0,
            blocked_until: 0,
            full: false,
            template: 0,
        }
    }

    pub fn epoch(&self) -> Epoch {
        self.config.as_ref().map_or(Epoch(0), |config| config.epoch)
    }

    pub fn parent(&self) -> Option<NodeId> {
        self.config.as_ref()?.member(self.id)?.parent
    }

    /// Starts again from disk, without what was written last.
    pub fn restart(&mut self, lost: u64) {
        self.running = true;
        self.life += 1;
        self.paused_until = 0;
        self.offset = self.offset.saturating_sub(lost);
        self.link = LinkState::Connecting;
        if self.data >= DataState::Restored {
            self.data = DataState::Restored;
        }
        self.state = match &self.config {
            None => NodeState::Blank,
            Some(config) if config.master == self.id => NodeState::Joining,
            Some(_) if self.promised > self.epoch() && !self.renewing => NodeState::Fenced,
            Some(_) => NodeState::Replica,
        };
    }

    pub fn prepare(&mut self, epoch: Epoch, renewal: bool) {
        let deposed = self.state == NodeState::Fenced
            && self.config.as_ref().is_some_and(|config| config.master == self.id);
        if epoch > self.promised && !self.full && !(renewal && deposed) {
            self.promised = epoch;
            self.renewing = renewal;
            if renewal {
                if self.state == NodeState::Fenced {
                    self.state = NodeState::Replica;
                }
                return;
            }
            self.paused_until = 0;
            self.link = LinkState::Connecting;
            if self.state != NodeState::Joining {
                self.state = NodeState::Fenced;
            }
        }
    }

    /// Whether it accepted. A node takes one config for an epoch.
    pub fn accept(&mut self, config: &ShardConfig) -> bool {
        let rival = self.epoch() == config.epoch && self.config.as_ref() != Some(config);
        if config.epoch < self.promised || rival || (self.full && self.config.as_ref() != Some(config)) {
            return false;
        }
        let old_parent = self.parent();
        self.promised = config.epoch;
        self.renewing = false;
        self.config = Some(config.clone());
        self.paused_until = 0;
        if config.master == self.id {
            if self.state != NodeState::Master {
                self.replid = config.epoch.0;
            }
            self.state = NodeState::Master;
            self.data = DataState::Live;
        } else {
            if self.state != NodeState::Replica || old_parent != self.parent() {
                self.link = LinkState::Connecting;
            }
            self.state = NodeState::Replica;
        }
        true
    }

    pub fn pause(&mut self, epoch: Epoch, until: u64) {
        if self.state == NodeState::Master && self.epoch() == epoch {
            self.paused_until = until;
        }
    }

    /// One step of following `parent`.
    pub fn follow(&mut self, parent: Option<&Self>) {
        let feeding = |parent: &&Self| {
            parent.running
                && (parent.state == NodeState::Master
                    || (parent.state == NodeState::Replica && parent.data == DataState::Live))
        };
        let Some(parent) = parent.filter(feeding) else {
            self.link = LinkState::Connecting;
            return;
        };
        let continues = self.replid == parent.replid && self.offset <= parent.offset;
        match self.link {
            LinkState::Connecting if continues && self.data >= DataState::Restored => {
                self.link = LinkState::Streaming;
                self.data = DataState::Live;
            }
            LinkState::Connecting => {
                self.link = LinkState::Syncing;
                self.data = DataState::Syncing;
            }
            LinkState::Streaming if !continues => self.link = LinkState::Connecting,
            LinkState::Syncing | LinkState::Streaming => {
                self.link = LinkState::Streaming;
                self.data = DataState::Live;
                self.replid = parent.replid;
                self.offset = parent.offset;
                self.write_epoch = parent.write_epoch;
            }
        }
    }

    pub fn report(&self, uid: &ClusterUid, now: u64) -> NodeReport {
        let link = Link { parent: self.parent(), state: self.link, silent_ms: 0 };
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
            state: self.state,
            link: (self.state == NodeState::Replica).then_some(link),
            replid: self.replid.to_string(),
            offset: self.offset,
            data: self.data,
            write_epoch: self.write_epoch,
            keys: 0,
            replicas: Vec::new(),
            paused: self.paused_until > now,
            leaving: false,
            asked_to_lead: false,
            asked_to_yield: false,
            clients_paused: false,
            map_digest: String::new(),
            config_digest: String::new(),
            full_syncs: 0,
            discarded: None,
            partial_syncs: 0,
            uptime_ms: 0,
            clock_ms: 0,
            sentinel_port: 0,
            bound: false,
            isolated: false,
            durability: None,
            source: None,
            export: None,
            import: None,
            disk_error: self.full.then(|| "full".to_owned()),
        }
    }
}
