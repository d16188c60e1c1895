//! A node's place in its shard, and what it knows of the whole cluster: identity, promises, config, map.
//!
//! Architecture invariant: a promise and a config are on disk before anybody is told of them, and a node that promised
//! an epoch refuses everything older.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use kv_core::control::{DataState, NodeState};
use kv_core::id::{ClusterUid, Epoch, NodeId};
use kv_core::shard::{ClusterMap, InvalidConfig, NodeAddress, Role, ShardConfig};
use kv_core::slot::{SLOT_COUNT, Slot, SlotSet};

use crate::persist::{NodeStateFile, StateError};

/// Why a node refuses what the operator asks. The first word is the error's code.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// A newer epoch was promised.
    #[error("STALEEPOCH epoch {asked} is older than epoch {promised}, which this node promised")]
    StaleEpoch {
        /// The epoch that was asked for.
        asked: Epoch,
        /// The epoch that the node promised.
        promised: Epoch,
    },
    /// Another config was accepted under the same epoch.
    #[error("STALEEPOCH this node accepted another config under epoch {0}")]
    Conflict(Epoch),
    /// The master was heard a moment ago.
    #[error("STICKY this node heard its master {silent_ms} ms ago and does not vote against it")]
    Sticky {
        /// How long ago.
        silent_ms: u64,
    },
    /// The message is for another cluster or shard.
    #[error("WRONGCLUSTER this node belongs to shard {shard} of cluster {uid}")]
    WrongCluster {
        /// The node's cluster.
        uid: ClusterUid,
        /// The node's shard.
        shard: u16,
    },
    /// The node is not managed.
    #[error("ERR this node was not started for a cluster (kv-cluster-uid)")]
    Unmanaged,
    /// The config makes no sense.
    #[error("ERR invalid config: {0}")]
    Invalid(#[from] InvalidConfig),
    /// The promise could not be written.
    #[error("ERR {0}")]
    State(#[from] StateError),
    /// The node follows no source.
    #[error("ERR this node follows no source (spec.source)")]
    NoSource,
    /// The node is to follow its source no more, and lacks some of it.
    #[error("ERR this node does not have all of {0}, and goes on to follow it")]
    Incomplete(String),
    /// The config gives slots away of which not everything was sent.
    #[error(
        "ERR the slots {0} cannot be given away: not all that was written to them was sent, with writes held since"
    )]
    NotSent(SlotSet),
    /// The config has slots of which not everything has arrived.
    #[error("ERR the slots {0} cannot be taken: not all of their keys have arrived")]
    NotArrived(SlotSet),
    /// The node is no master, or not the one that was meant.
    #[error("ERR this node is not the serving master of its shard")]
    NotMaster,
}

/// Who may serve a slot, seen from this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// This node.
    Here,
    /// Nobody yet: a decision is under way.
    Hold,
    /// Nobody for a moment: the slot goes from one shard to another.
    Between,
    /// Another: the error that says so (MOVED or CLUSTERDOWN).
    Elsewhere(String),
}

/// A node's place in its shard, and what it knows of the cluster.
#[derive(Debug)]
pub struct Routing {
    file: NodeStateFile,
    identity: Option<Identity>,
    /// Whether a config of this life of the process made it what it is.
    confirmed: bool,
    map: Option<ClusterMap>,
    map_digest: String,
    /// Index of the shard in `map` that owns each slot.
    owners: Vec<Option<u16>>,
    /// The slots that each shard shows to clients: those that it owns, and those on their way from it.
    shown: BTreeMap<u16, SlotSet>,
    /// Slots of this node's shard that nobody serves for a moment.
    between: SlotSet,
    data: DataState,
    /// Epoch of the last config under which the data changed.
    write_epoch: Epoch,
    cluster_enabled: bool,
}

/// What a managed node was started as.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its cluster.
    pub uid: ClusterUid,
    /// Its shard.
    pub shard: u16,
    /// Its name.
    pub name: String,
}

impl Routing {
    /// The state of a node that just started.
    ///
    /// # Errors
    /// If the directory belongs to a node of another cluster or shard, or cannot be written.
    pub fn new(
        mut file: NodeStateFile,
        identity: Option<Identity>,
        cluster_enabled: bool,
    ) -> Result<Self, Refusal> {
        if let Some(identity) = &identity {
            let known = file.get();
            let same = known.uid.as_ref().is_none_or(|uid| *uid == identity.uid)
                && known.shard.is_none_or(|shard| shard == identity.shard);
            if !same {
                let uid = known.uid.clone().unwrap_or(ClusterUid(String::new()));
                return Err(Refusal::WrongCluster { uid, shard: known.shard.unwrap_or_default() });
            }
            if known.uid.is_none() || known.shard.is_none() {
                file.update(|state| {
                    state.uid = Some(identity.uid.clone());
                    state.shard = Some(identity.shard);
                })?;
            }
        }
        let mut routing = Self {
            map: file.read_map(),
            file,
            identity,
            confirmed: false,
            map_digest: String::new(),
            owners: Vec::new(),
            shown: BTreeMap::new(),
            between: SlotSet::default(),
            data: DataState::Empty,
            write_epoch: Epoch(0),
            cluster_enabled,
        };
        routing.rebuild_owners();
        Ok(routing)
    }

    /// The node's random id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.file.get().id
    }

    /// Why promises cannot be kept on disk; `None` if they can.
    #[must_use]
    pub fn disk_error(&self) -> Option<&str> {
        self.file.error()
    }

    /// Periodic work: tries again what the disk refused.
    pub fn tend(&mut self, now: Instant) {
        self.file.tend(now);
    }

    /// What the node was started as; `None` if it is not managed.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Whether an operator decides about this node.
    #[must_use]
    pub fn is_managed(&self) -> bool {
        self.identity.is_some()
    }

    /// The highest epoch that the node promised or accepted.
    #[must_use]
    pub fn promised(&self) -> Epoch {
        self.file.get().promised
    }

    /// The config that it accepted last.
    #[must_use]
    pub fn config(&self) -> Option<&ShardConfig> {
        self.file.get().config.as_ref()
    }

    /// Epoch of the master whose barrier its data hold.
    #[must_use]
    pub fn write_epoch(&self) -> Epoch {
        self.write_epoch
    }

    /// How much its data is worth.
    #[must_use]
    pub fn data(&self) -> DataState {
        self.data
    }

    /// Says how much its data is worth from now on.
    pub fn set_data(&mut self, data: DataState) {
        self.data = data;
    }

    /// The cluster as it was told.
    #[must_use]
    pub fn map(&self) -> Option<&ClusterMap> {
        self.map.as_ref()
    }

    /// Digest of the map's text.
    #[must_use]
    pub fn map_digest(&self) -> &str {
        &self.map_digest
    }

    /// Its role by its config.
    #[must_use]
    pub fn role(&self) -> Option<Role> {
        self.config().and_then(|config| config.role(self.id()))
    }

    /// Whether what it promised last leaves its master where it is.
    #[must_use]
    pub fn is_renewing(&self) -> bool {
        self.file.get().renewing
    }

    /// Whether it promised an epoch newer than its config's, and its master may be another by then.
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.is_managed()
            && !self.is_renewing()
            && self.config().is_some_and(|config| self.promised() > config.epoch)
    }

    /// What the node does at present.
    #[must_use]
    pub fn state(&self) -> NodeState {
        match self.role() {
            None => NodeState::Blank,
            Some(_) if self.is_fenced() => NodeState::Fenced,
            Some(Role::Replica) => NodeState::Replica,
            Some(Role::Master) if self.confirmed => NodeState::Master,
            Some(Role::Master) => NodeState::Joining,
        }
    }

    /// Whether writes may be acknowledged here, as far as promises are concerned.
    #[must_use]
    pub fn may_write(&self) -> bool {
        !self.is_managed() || self.state() == NodeState::Master
    }

    /// Whether replicas may be fed from here: not before this node knows that its own data are right.
    #[must_use]
    pub fn may_feed(&self) -> bool {
        matches!(self.state(), NodeState::Master | NodeState::Replica) && self.data == DataState::Live
    }

    /// Whether the present config has that node fed from here.
    #[must_use]
    pub fn feeds(&self, child: NodeId) -> bool {
        self.config()
            .and_then(|config| config.member(child))
            .is_some_and(|member| member.parent == Some(self.id()))
    }

    /// Who a managed node is, for its parent.
    #[must_use]
    pub fn peer(&self) -> Option<(ClusterUid, u16, NodeId, Epoch)> {
        let identity = self.identity.as_ref()?;
        let epoch = self.config().map_or(Epoch(0), |config| config.epoch);
        Some((identity.uid.clone(), identity.shard, self.id(), epoch))
    }

    /// Addresses of a node: its IP, then its name.
    #[must_use]
    pub fn addresses(&self, id: NodeId) -> Vec<(String, u16)> {
        let Some(address) = self.address(id) else { return Vec::new() };
        [&address.ip, &address.hostname]
            .into_iter()
            .filter(|host| !host.is_empty())
            .map(|host| (host.clone(), address.port))
            .collect()
    }

    /// Address of a node.
    #[must_use]
    pub fn address(&self, id: NodeId) -> Option<&NodeAddress> {
        self.map.as_ref()?.addresses.get(&id)
    }

    /// Where clients are sent that are to go to a node: an IP address and a port.
    #[must_use]
    pub fn client_address(&self, id: NodeId) -> Option<(String, u16)> {
        self.address(id).map(|address| (bracketless(&address.ip).to_owned(), address.port))
    }

    /// Refuses messages for another cluster or shard.
    ///
    /// # Errors
    /// [`Refusal::Unmanaged`], [`Refusal::WrongCluster`]
    pub fn check_target(&self, uid: &ClusterUid, shard: u16) -> Result<(), Refusal> {
        let identity = self.identity.as_ref().ok_or(Refusal::Unmanaged)?;
        if identity.uid == *uid && identity.shard == shard {
            Ok(())
        } else {
            Err(Refusal::WrongCluster { uid: identity.uid.clone(), shard: identity.shard })
        }
    }

    /// Promises `epoch`, or, where `renewal`, that of a config with the same master. Promising the same one again is fine.
    ///
    /// # Errors
    /// If a newer epoch was promised, or the promise cannot be written.
    pub fn promise(&mut self, epoch: Epoch, renewal: bool) -> Result<(), Refusal> {
        let promised = self.promised();
        let accepted = self.config().map_or(Epoch(0), |config| config.epoch);
        // A master that stepped down is not made one again by who does not know that.
        let fenced = self.is_fenced();
        let deposed = renewal && fenced && self.role() == Some(Role::Master);
        if epoch < promised || epoch <= accepted || deposed {
            return Err(Refusal::StaleEpoch { asked: epoch, promised });
        }
        if epoch > promised || (self.is_renewing() && !renewal) {
            self.file.update(|state| {
                state.promised = epoch;
                // Who let its master go may be counted on by another one, and comes back only with the next config.
                state.renewing = renewal && !fenced;
            })?;
        }
        Ok(())
    }

    /// Accepts a config. Returns false if it is the one that was accepted already.
    ///
    /// # Errors
    /// If a newer epoch was promised, another config was accepted under the same epoch, the config makes no sense, or
    /// it cannot be written.
    pub fn accept(&mut self, config: ShardConfig) -> Result<bool, Refusal> {
        self.check_target(&config.uid, config.shard)?;
        config.validate()?;
        let promised = self.promised();
        if config.epoch < promised {
            return Err(Refusal::StaleEpoch { asked: config.epoch, promised });
        }
        match self.config() {
            Some(present) if *present == config => return Ok(false),
            Some(present) if present.epoch >= config.epoch => return Err(Refusal::Conflict(present.epoch)),
            _ => {}
        }
        self.file.update(|state| {
            state.promised = config.epoch;
            state.renewing = false;
            state.config = Some(config);
        })?;
        self.confirmed = true;
        self.rebuild_owners();
        Ok(true)
    }

    /// Remembers that the data are of that epoch. Returns whether it is another than before.
    pub fn note_write_epoch(&mut self, epoch: Epoch) -> bool {
        epoch != std::mem::replace(&mut self.write_epoch, epoch)
    }

    /// The loaded data were written under this epoch.
    pub fn restore_write_epoch(&mut self, epoch: Epoch) {
        self.write_epoch = epoch;
    }

    /// Takes the operator's view of the cluster. Of each shard the config with the highest epoch is kept.
    ///
    /// # Errors
    /// If it is the map of another cluster.
    pub fn set_map(&mut self, mut map: ClusterMap, digest: String) -> Result<(), Refusal> {
        let identity = self.identity.as_ref().ok_or(Refusal::Unmanaged)?;
        if map.uid != identity.uid {
            return Err(Refusal::WrongCluster { uid: identity.uid.clone(), shard: identity.shard });
        }
        if let Some(old) = &self.map {
            for shard in &mut map.shards {
                let newer =
                    old.shards.iter().find(|known| known.shard == shard.shard && known.epoch > shard.epoch);
                if let Some(newer) = newer {
                    *shard = newer.clone();
                }
            }
        }
        self.file.keep_map(&map);
        self.map = Some(map);
        self.map_digest = digest;
        self.rebuild_owners();
        Ok(())
    }

    /// All shards' configs, the own one as it was accepted.
    pub fn shards(&self) -> impl Iterator<Item = &ShardConfig> {
        let own = self.config();
        let others = self.map.iter().flat_map(|map| &map.shards);
        own.into_iter().chain(others.filter(move |shard| own.is_none_or(|own| own.shard != shard.shard)))
    }

    /// The newest config of this node's own shard that it was shown, accepted or not.
    #[must_use]
    pub fn newest_own(&self) -> Option<&ShardConfig> {
        let shard = self.identity.as_ref()?.shard;
        let told = self.map.iter().flat_map(|map| &map.shards).find(|config| config.shard == shard);
        self.config().into_iter().chain(told).max_by_key(|config| config.epoch)
    }

    /// Finds out who owns which slot. The own config outranks what was told of other shards, which may be older. Slots that were
    /// given away are shown as the giver's, which holds requests for them, until their taker is known to serve them.
    fn rebuild_owners(&mut self) {
        let mut owners = vec![None; usize::from(SLOT_COUNT)];
        let mut put = |slots: &SlotSet, shard: &ShardConfig| {
            for slot in slots.iter() {
                if let Some(owner) = owners.get_mut(usize::from(slot)).filter(|owner| owner.is_none()) {
                    *owner = Some(shard.shard);
                }
            }
        };
        // The own one is the first.
        self.shards().for_each(|shard| put(&shard.slots, shard));
        self.shards().for_each(|shard| shard.given.iter().for_each(|given| put(&given.slots, shard)));
        self.shards().for_each(|shard| put(&shard.left, shard));
        let mut shown: BTreeMap<u16, SlotSet> = BTreeMap::new();
        for (slot, owner) in (0..SLOT_COUNT).zip(&owners) {
            if let Some(owner) = owner {
                shown.entry(*owner).or_default().insert(slot);
            }
        }
        self.between = self.between_masters(self.config().and_then(|own| shown.get(&own.shard)));
        self.shown = shown;
        self.owners = owners;
    }

    /// The slots of this node's shard, `shown` to clients as such, that it does not serve: it gave them away, and their taker is
    /// not known to serve them; or it took them, and the map, which tells what a majority knows, does not say so yet.
    fn between_masters(&self, shown: Option<&SlotSet>) -> SlotSet {
        let (Some(config), Some(shown)) = (self.config(), shown) else { return SlotSet::default() };
        let mut between = shown.clone().without(&config.slots);
        let told = self.map.iter().flat_map(|map| &map.shards).find(|told| told.shard == config.shard);
        for taken in &config.taken {
            let known = |told: &ShardConfig| told.taken.contains(taken) || told.epoch > config.epoch;
            if !told.is_some_and(known) {
                between = between.union(&taken.slots);
            }
        }
        between
    }

    /// The slots that a shard shows to clients.
    #[must_use]
    pub fn shown(&self, shard: u16) -> SlotSet {
        self.shown.get(&shard).cloned().unwrap_or_default()
    }

    /// Whether there are slots of this node's shard that nobody serves for a moment.
    #[must_use]
    pub fn is_between(&self) -> bool {
        !self.between.is_empty()
    }

    /// The shard that owns a slot.
    #[must_use]
    pub fn owner(&self, slot: Slot) -> Option<u16> {
        self.owners.get(usize::from(slot)).copied().flatten()
    }

    /// Who may serve a request for a slot.
    #[must_use]
    pub fn route(&self, slot: Slot, writes: bool, readonly: bool) -> Route {
        if !self.cluster_enabled {
            return Route::Here;
        }
        let Some(identity) = &self.identity else {
            return Route::Elsewhere("CLUSTERDOWN Hash slot not served".into());
        };
        match self.owner(slot) {
            None => Route::Elsewhere("CLUSTERDOWN Hash slot not served".into()),
            Some(shard) if shard != identity.shard => {
                let master = self.shards().find(|config| config.shard == shard).map(|config| config.master);
                self.moved(slot, master)
            }
            Some(_) => match self.state() {
                NodeState::Master if self.between.contains(slot) => Route::Between,
                NodeState::Master => Route::Here,
                NodeState::Replica if readonly && !writes && self.data != DataState::Empty => Route::Here,
                NodeState::Fenced | NodeState::Joining => Route::Hold,
                NodeState::Replica | NodeState::Blank => self.to_master(slot),
            },
        }
    }

    /// Sends a client to the master of this shard.
    #[must_use]
    pub fn to_master(&self, slot: Slot) -> Route {
        self.moved(slot, self.newest_own().map(|config| config.master))
    }

    fn moved(&self, slot: Slot, master: Option<NodeId>) -> Route {
        let address = master.filter(|id| *id != self.id()).and_then(|id| self.client_address(id));
        Route::Elsewhere(match address {
            Some((host, port)) => format!("MOVED {slot} {host}:{port}"),
            None => "CLUSTERDOWN The cluster is down".into(),
        })
    }
}

/// An IP address as MOVED shows it: IPv6 without brackets, as Redis does.
fn bracketless(ip: &str) -> &str {
    let inner = ip.trim_start_matches('[').trim_end_matches(']');
    if inner.parse::<IpAddr>().is_ok() { inner } else { ip }
}
