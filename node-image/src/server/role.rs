//! Taking the role that the shard's config gives this node, and reporting what it is.

use kv_core::control::{FedReplica, Link, NodeReport};
use kv_core::id::Epoch;
use kv_core::lease::Failover;
use kv_core::shard::Role;

use super::{Ending, Kind, Server};
use crate::peers::clock_ms;
use crate::warning;

/// How the argument of GETACK begins that marks the begin of a master's reign; the cluster's UID and the epoch follow. What a
/// source that is a node of another cluster has written is no reign of this one.
const BARRIER: &str = "kv-epoch:";

/// For how many milliseconds clients are paused until that is reported: what a failover tool does in passing is not.
const LONG_PAUSE_MS: u64 = 5000;

impl Server {
    /// After a promise: what belongs to an older epoch ends here.
    pub(crate) fn after_promise(&mut self) {
        if self.routing.is_fenced() {
            // Bytes that were received already still count.
            self.release_waits();
            self.fail_held("this node stepped down");
            self.drain_link();
            self.drop_link();
            self.settle_moves();
            self.retry_held();
        }
    }

    /// After a config was accepted: takes the role that it gives.
    ///
    /// `reigned`: whether it was the serving master before; `before`: when masters counted as lost.
    pub(crate) fn take_role(&mut self, reigned: bool, before: Option<Failover>) {
        let (role, id) = (self.routing.role(), self.routing.id());
        let source = self.routing.config().and_then(|config| config.source.clone());
        match role {
            Some(Role::Master) if source.is_some() => {
                source.into_iter().for_each(|source| self.follow_source(source));
                self.attach_now();
            }
            Some(Role::Master) => {
                self.leave_source(true);
                self.follow_nobody();
                self.discarded = None;
                self.routing.set_data(kv_core::control::DataState::Live);
                self.begin_reign();
            }
            Some(Role::Replica) => {
                self.leave_source(false);
                self.follow_configured_parent();
                self.attach_now();
                self.send_ack();
            }
            None => {
                self.leave_source(false);
                self.drop_link();
                self.link = None;
                self.drop_replicas();
                warning!("This node ({id}) is no member of its shard any more");
            }
        }
        self.drop_foreign_replicas();
        self.drop_foreign_channels();
        self.renew_lease(reigned, before);
        self.begin_settling(reigned);
        self.settle_moves();
        self.release_writes();
    }

    /// Writes a barrier into the stream. Who has it has all that its master had when that began, so that what it holds is
    /// of this epoch; nothing is acknowledged before enough nodes have. A master that stays writes one, too: a rival that
    /// was elected meanwhile, and led nobody, has one of its own. Any Redis takes it for a request to acknowledge.
    fn begin_reign(&mut self) {
        let Some((uid, epoch)) = self.routing.config().map(|config| (&config.uid.0, config.epoch)) else {
            return;
        };
        let barrier = format!("{BARRIER}{uid}:{epoch}");
        self.append_beat(&[b"REPLCONF", b"GETACK", barrier.as_bytes()]);
        self.durability.data_offset = self.history.offset();
        self.durability.barrier = self.history.offset();
        self.note_write_epoch(epoch);
    }

    /// The parent's stream holds a barrier, if this is one.
    pub(super) fn note_barrier(&mut self, argument: &[u8]) {
        let text = std::str::from_utf8(argument).unwrap_or_default();
        let Some((uid, epoch)) = text.strip_prefix(BARRIER).and_then(|barrier| barrier.rsplit_once(':'))
        else {
            return;
        };
        let ours = self.routing.identity().is_some_and(|identity| identity.uid.0 == uid);
        if let Some(epoch) = epoch.parse().ok().filter(|_| ours) {
            self.note_write_epoch(Epoch(epoch));
        }
    }

    /// Follows the parent that the config names; at its address of the map, as far as known.
    pub(crate) fn follow_configured_parent(&mut self) {
        let id = self.routing.id();
        let Some(parent) = self.routing.config().and_then(|config| config.member(id)?.parent) else { return };
        let address = self.routing.addresses(parent).into_iter().next().unwrap_or_default();
        match &mut self.link {
            Some(link) if link.parent == Some(parent) => {
                link.address = address;
            }
            _ => self.follow(address, Some(parent)),
        }
    }

    /// After a new map: the parent may be somewhere else.
    pub(crate) fn after_map(&mut self) {
        if self.routing.role() == Some(Role::Replica) && !self.routing.is_fenced() {
            self.follow_configured_parent();
            self.attach_now();
        }
        self.drop_foreign_channels();
        self.settle_moves();
        self.retry_held();
        self.ask_peers();
        self.tend_sentinel();
    }

    /// Cuts off nodes of the shard whose parent is another now.
    fn drop_foreign_replicas(&mut self) {
        let (id, config) = (self.routing.id(), self.routing.config().cloned());
        let Some(config) = config else { return };
        let gone = self.clients.keys_where(|client| {
            let node = client.feed().and_then(|feed| feed.node);
            node.is_some_and(|node| config.member(node).is_none_or(|member| member.parent != Some(id)))
        });
        gone.into_iter().for_each(|key| self.clients.doom(key));
    }

    /// Records under which config the data change.
    fn note_write_epoch(&mut self, epoch: Epoch) {
        if self.routing.note_write_epoch(epoch) {
            self.persistence.append_write_epoch(epoch);
        }
    }

    /// What the node says of itself; `None` if it is not managed.
    #[must_use]
    pub fn report(&self) -> Option<NodeReport> {
        let identity = self.routing.identity()?;
        Some(NodeReport {
            id: self.routing.id(),
            name: identity.name.clone(),
            run_id: self.run_id.clone(),
            version: kv_core::VERSION.to_owned(),
            uid: identity.uid.clone(),
            shard: identity.shard,
            promised: self.routing.promised(),
            renewing: self.routing.is_renewing(),
            config: self.routing.config().cloned(),
            state: self.routing.state(),
            link: self.link.as_ref().map(|link| Link {
                parent: link.parent,
                state: link.state(),
                silent_ms: self.millis_since(link.heard),
            }),
            replid: self.history.replid.clone(),
            offset: self.history.offset(),
            data: self.routing.data(),
            write_epoch: self.routing.write_epoch(),
            keys: self.keyspace.total() as u64,
            replicas: self.fed_replicas(),
            paused: self.pause.is_some(),
            clients_paused: self
                .client_pause
                .is_some_and(|pause| self.millis_since(pause.since) > LONG_PAUSE_MS),
            leaving: matches!(self.ending, Ending::Leaving(_)),
            asked_to_lead: self.asked_to_lead(),
            asked_to_yield: self.asked_to_yield(),
            map_digest: self.routing.map_digest().to_owned(),
            config_digest: self.config_digest.clone(),
            full_syncs: self.stats.full_syncs,
            partial_syncs: self.stats.partial_syncs,
            uptime_ms: self.millis_since(self.started.instant),
            sentinel_port: self.sentinel.port,
            clock_ms: clock_ms(),
            bound: self.bound_to_master().is_some(),
            isolated: self.isolated,
            durability: self.durability_report(),
            discarded: self.discarded,
            source: self.source_report(),
            export: self.export_report(),
            import: self.import_report(),
            disk_error: self.disk_error().or(self.routing.disk_error().map(str::to_owned)),
        })
    }

    fn fed_replicas(&self) -> Vec<FedReplica> {
        let feeds = self.clients.iter().filter_map(|(_, client)| match &client.kind {
            Kind::Replica(feed) => Some(feed),
            _ => None,
        });
        feeds
            .map(|feed| FedReplica {
                id: feed.node,
                offset: feed.acked,
                ack_age_ms: self.millis_since(feed.acked_at),
                online: feed.online(),
            })
            .collect()
    }
}
