//! A shard as Sentinel shows one.

use std::borrow::Cow;
use std::fmt::Write as _;

use kv_core::control::{LinkState, NodeReport, NodeState};
use kv_core::id::NodeId;
use kv_core::shard::{Role, ShardConfig};

use super::watch::Known;
use crate::peers::clock_ms;
use crate::server::Server;

/// Where a node is: what a client dials.
pub(super) type Address = (String, u16);

/// The shard of this node as Sentinel shows it.
pub(super) struct View<'a> {
    /// The name that clients ask for.
    pub name: String,
    pub config: &'a ShardConfig,
    /// Where the master is.
    pub address: Address,
    /// All members, in order of name.
    pub instances: Vec<Instance<'a>>,
    /// When all this was looked at, by [`clock_ms`].
    pub now: u64,
    /// Since when enough nodes agree that the master is down.
    pub odown_since: Option<u64>,
    /// Since when the master is the master, as far as this node knows.
    pub since: u64,
}

/// A node of the shard: a master or a replica, and a Sentinel.
pub(super) struct Instance<'a> {
    pub id: NodeId,
    pub address: Address,
    pub parent: Option<NodeId>,
    /// What it last said of itself.
    pub report: Option<Cow<'a, NodeReport>>,
    pub known: Known,
    /// Whether it is this node.
    pub me: bool,
}

/// A field of an instance, and its text.
pub(super) type Field = (&'static str, String);

/// Whether a node that the config calls master is one.
pub(super) fn serves(state: NodeState, isolated: bool) -> bool {
    state == NodeState::Master && !isolated
}

/// The name of a shard's master: the cluster's where there is one shard, else `NAME-SHARD`. Nodes are called
/// `NAME-SHARD-ORDINAL`.
fn master_name(node: &str, shards: usize) -> &str {
    let of_shard = node.rsplit_once('-').map_or(node, |(shard, _)| shard);
    match of_shard.strip_suffix("-0") {
        Some(cluster) if shards <= 1 => cluster,
        _ => of_shard,
    }
}

/// A host and a port in one word.
pub(super) fn joined((host, port): &Address) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

impl Server {
    /// What this node knows of its shard; `None` unless it knows who the master is and where, and belongs to it. `own`: what
    /// it reports of itself, if that is to be shown.
    pub(super) fn shard_view(&self, mut own: Option<NodeReport>) -> Option<View<'_>> {
        let identity = self.routing.identity()?;
        let (config, map, me) = (self.routing.newest_own()?, self.routing.map()?, self.routing.id());
        config.member(me)?;
        let now = clock_ms();
        let instances: Vec<_> = config
            .members
            .iter()
            .filter_map(|member| {
                let known = self.sentinel.known(member.id).cloned().unwrap_or_else(|| Known::new(now));
                let report = match member.id == me {
                    true => own.take().map(Cow::Owned),
                    false => self.heard_of(member.id).map(|(report, _)| Cow::Borrowed(report)),
                };
                let address = self.routing.client_address(member.id).or_else(|| known.address.clone())?;
                Some(Instance {
                    id: member.id,
                    address,
                    parent: member.parent,
                    report,
                    known,
                    me: member.id == me,
                })
            })
            .collect();
        let master = instances.iter().find(|instance| instance.id == config.master)?;
        Some(View {
            name: master_name(&identity.name, map.shards.len()).to_owned(),
            config,
            address: master.address.clone(),
            instances,
            now,
            odown_since: self.sentinel.odown_since(),
            since: self.sentinel.since(),
        })
    }

    /// Whether this node knows better than to send clients to the master of its config: that is itself, and it may not
    /// serve. Another one may have been elected; who asks is to ask the next node.
    pub(super) fn is_deposed(&self) -> bool {
        self.routing.role() == Some(Role::Master)
            && !serves(self.routing.state(), self.isolated || self.lease_is_over())
    }
}

impl View<'_> {
    /// Sentinels that must agree that the master is down. Where the number of nodes is even the operator is one more voter
    /// of an election, but it is no Sentinel.
    pub fn quorum(&self) -> usize {
        self.config.electorate().majority(false)
    }

    pub fn master(&self) -> Option<&Instance<'_>> {
        self.instances.iter().find(|instance| self.leads(instance))
    }

    pub fn leads(&self, instance: &Instance<'_>) -> bool {
        instance.id == self.config.master
    }

    pub fn replicas(&self) -> impl Iterator<Item = &Instance<'_>> {
        self.instances.iter().filter(|instance| !self.leads(instance))
    }

    pub fn other_sentinels(&self) -> impl Iterator<Item = &Instance<'_>> {
        self.instances.iter().filter(|instance| !instance.me && instance.known.sentinel_port > 0)
    }

    /// Sentinels that answer, this one included.
    pub fn usable(&self) -> usize {
        1 + self.other_sentinels().filter(|instance| instance.known.silent_since.is_none()).count()
    }

    /// As events name an instance.
    pub fn event(&self, instance: &Instance<'_>) -> String {
        let (host, port) = &instance.address;
        match self.leads(instance) {
            true => format!("master {} {host} {port}", self.name),
            false => format!("slave {} {host} {port}{}", joined(&instance.address), self.of_master()),
        }
    }

    /// As events name another Sentinel.
    pub fn sentinel_event(&self, instance: &Instance<'_>) -> String {
        let (host, port) = (&instance.address.0, instance.known.sentinel_port);
        format!("sentinel {} {host} {port}{}", instance.id, self.of_master())
    }

    fn of_master(&self) -> String {
        let (host, port) = &self.address;
        format!(" @ {} {host} {port}", self.name)
    }

    /// `SENTINEL MASTER`
    pub fn master_fields(&self) -> Vec<Field> {
        let Some(master) = self.master() else { return Vec::new() };
        let mut fields = self.link_fields(master, self.name.clone(), self.role_flags(master));
        fields.extend(self.role_fields(master));
        let replicas = self.config.members.len() - 1;
        let failover = &self.config.failover;
        fields.extend([
            ("config-epoch", self.config.epoch.to_string()),
            ("num-slaves", self.replicas().count().to_string()),
            ("num-other-sentinels", self.other_sentinels().count().to_string()),
            ("quorum", self.quorum().to_string()),
            ("failover-timeout", failover.down_after_ms.to_string()),
            ("parallel-syncs", replicas.max(1).to_string()),
        ]);
        fields
    }

    /// An entry of `SENTINEL REPLICAS`.
    pub fn replica_fields(&self, replica: &Instance<'_>) -> Vec<Field> {
        let mut fields = self.link_fields(replica, joined(&replica.address), self.role_flags(replica));
        fields.extend(self.role_fields(replica));
        let report = replica.report.as_deref();
        let link = report.and_then(|report| report.link.as_ref());
        let up = link.is_some_and(|link| link.state == LinkState::Streaming);
        let down_ms = if up { 0 } else { link.map_or(0, |link| link.silent_ms) };
        let parent = self.instances.iter().find(|instance| Some(instance.id) == replica.parent);
        let (host, port) = parent.map_or(("?", 0), |parent| (parent.address.0.as_str(), parent.address.1));
        fields.extend([
            ("master-link-down-time", down_ms.to_string()),
            ("master-link-status", if up { "ok" } else { "err" }.to_owned()),
            ("master-host", host.to_owned()),
            ("master-port", port.to_string()),
            ("slave-priority", "100".to_owned()),
            ("slave-repl-offset", report.map_or(0, |report| report.offset).to_string()),
            ("replica-announced", "1".to_owned()),
        ]);
        fields
    }

    /// An entry of `SENTINEL SENTINELS`.
    pub fn sentinel_fields(&self, sentinel: &Instance<'_>) -> Vec<Field> {
        let id = sentinel.id.to_string();
        let down = sentinel.known.silent_since.is_some();
        let flags = if down { "s_down,sentinel,disconnected" } else { "sentinel" };
        let mut fields = self.link_fields(sentinel, id.clone(), flags.to_owned());
        for (name, text) in &mut fields {
            match *name {
                "port" => *text = sentinel.known.sentinel_port.to_string(),
                "runid" => text.clone_from(&id),
                _ => {}
            }
        }
        let promised = sentinel.report.as_deref().map_or(0, |report| report.promised.0);
        fields.extend([
            ("last-hello-message", self.ago(sentinel.known.answered)),
            ("voted-leader", "?".to_owned()),
            ("voted-leader-epoch", promised.to_string()),
        ]);
        fields
    }

    fn ago(&self, then: u64) -> String {
        self.now.saturating_sub(then).to_string()
    }

    fn role_flags(&self, instance: &Instance<'_>) -> String {
        let leads = self.leads(instance);
        let flags = [
            ("s_down", instance.known.down_since.is_some()),
            ("o_down", leads && self.odown_since.is_some()),
            ("master", leads),
            ("slave", !leads),
            ("disconnected", instance.known.silent_since.is_some()),
        ];
        let flags: Vec<_> = flags.into_iter().filter(|(_, holds)| *holds).map(|(flag, _)| flag).collect();
        flags.join(",")
    }

    fn link_fields(&self, instance: &Instance<'_>, name: String, flags: String) -> Vec<Field> {
        let known = &instance.known;
        let pending = if known.silent_since.is_some() { self.ago(known.answered) } else { "0".to_owned() };
        let mut fields = vec![
            ("name", name),
            ("ip", instance.address.0.clone()),
            ("port", instance.address.1.to_string()),
            ("runid", instance.report.as_ref().map(|report| report.run_id.clone()).unwrap_or_default()),
            ("flags", flags),
            ("link-pending-commands", "0".to_owned()),
            ("link-refcount", "1".to_owned()),
            ("last-ping-sent", pending),
            ("last-ok-ping-reply", self.ago(known.heard)),
            ("last-ping-reply", self.ago(known.answered)),
        ];
        fields.extend(known.down_since.map(|since| ("s-down-time", self.ago(since))));
        let odown = self.odown_since.filter(|_| self.leads(instance));
        fields.extend(odown.map(|since| ("o-down-time", self.ago(since))));
        fields.push(("down-after-milliseconds", self.config.failover.down_after_ms.to_string()));
        fields
    }

    fn role_fields(&self, instance: &Instance<'_>) -> [Field; 3] {
        let state = instance.report.as_deref().map(|report| report.state);
        let role = match state {
            Some(NodeState::Replica | NodeState::Blank) => "slave",
            Some(NodeState::Master | NodeState::Joining) => "master",
            Some(NodeState::Fenced) | None if self.leads(instance) => "master",
            Some(NodeState::Fenced) | None => "slave",
        };
        [
            ("info-refresh", self.ago(instance.known.answered)),
            ("role-reported", role.to_owned()),
            ("role-reported-time", self.ago(self.since)),
        ]
    }
}

/// The section `Sentinel` of INFO.
pub fn info(server: &Server, text: &mut String) {
    let view = server.shard_view(None);
    let _ = write!(
        text,
        "sentinel_masters:{}\r\nsentinel_tilt:0\r\nsentinel_tilt_since_seconds:-1\r\nsentinel_running_scripts:0\r\n\
         sentinel_scripts_queue_length:0\r\nsentinel_simulate_failure_flags:0\r\n",
        usize::from(view.is_some())
    );
    let Some(view) = view else { return };
    let down = view.master().is_some_and(|master| master.known.down_since.is_some());
    let status = match (view.odown_since.is_some(), down) {
        (true, _) => "odown",
        (false, true) => "sdown",
        (false, false) => "ok",
    };
    let _ = write!(
        text,
        "master0:name={},status={status},address={},slaves={},sentinels={}\r\n",
        view.name,
        joined(&view.address),
        view.replicas().count(),
        view.other_sentinels().count() + 1,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_has_the_name_of_its_cluster_where_that_has_one_shard() {
        assert_eq!(master_name("shop-0-1", 1), "shop");
        assert_eq!(master_name("shop-0-1", 3), "shop-0");
        assert_eq!(master_name("my-shop-2-0", 3), "my-shop-2");
        assert_eq!(master_name("my-shop-2-0", 1), "my-shop-2", "a cluster whose other shards are going");
        assert_eq!(master_name("odd", 1), "odd");
    }

    #[test]
    fn addresses_in_one_word_tell_host_from_port() {
        assert_eq!(joined(&("10.0.0.1".into(), 6379)), "10.0.0.1:6379");
        assert_eq!(joined(&("fd00::1".into(), 6379)), "[fd00::1]:6379");
    }
}
