//! Cluster commands: what clients ask to find the node that serves a slot.

use std::fmt::Write as _;

use kv_core::id::NodeId;
use kv_core::shard::{Member, NodeAddress, ShardConfig};
use kv_core::slot::{SLOT_COUNT, Slot, key_slot};

use super::spec::row;
use super::{Args, CommandError, CommandResult, CommandSpec, Flags, Group, help};
use crate::resp::Reply;
use crate::server::{ClientKey, Server};

/// The part of the command table that is about the cluster.
pub const COMMANDS: &[CommandSpec] = &[row(
    Group::Cluster,
    "cluster",
    -2,
    Flags::LOADING.union(Flags::STALE),
    "3.0.0",
    "A container for Redis Cluster commands.",
    cluster,
)];

fn cluster(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    if !server.tunables.cluster_enabled {
        return Err(CommandError::text("ERR This instance has cluster support disabled"));
    }
    if let Some(client) = server.clients.get_mut(key) {
        client.knows_cluster = true;
    }
    match (args.at(1).to_ascii_lowercase().as_slice(), args.len()) {
        (b"help", count) => help::reply(&mut server.reply(key), count, help::CLUSTER)?,
        (b"info", 2) => info(server, key),
        (b"myid", 2) => {
            let id = server.routing.id().to_string();
            server.reply(key).bulk(id.as_bytes());
        }
        (b"myshardid", 2) => {
            let id = server.routing.identity().map(|identity| shard_id(&identity.uid.0, identity.shard));
            server.reply(key).bulk(id.unwrap_or_else(|| "0".repeat(40)).as_bytes());
        }
        (b"slots", 2) => slots(server, key),
        (b"shards", 2) => shards(server, key),
        (b"nodes", 2) => {
            let text: String = nodes(server).iter().map(|node| node.line(server) + "\n").collect();
            server.reply(key).verbatim(&text);
        }
        (b"replicas" | b"slaves", 3) => replicas(server, key, args)?,
        (b"failover", 2 | 3) if server.routing.is_managed() => failover(server, key, args)?,
        (b"keyslot", 3) => server.reply(key).integer(i64::from(key_slot(args.at(2)))),
        (b"countkeysinslot", 3) => {
            let slot = slot_argument(args, 2)?;
            let count = server.keyspace.slot_len(0, slot);
            server.reply(key).count(count);
        }
        (b"getkeysinslot", 4) => keys_in_slot(server, key, args)?,
        (
            b"meet" | b"forget" | b"replicate" | b"reset" | b"addslots" | b"addslotsrange" | b"delslots"
            | b"delslotsrange" | b"setslot" | b"flushslots" | b"bumpepoch",
            _,
        ) if server.routing.is_managed() => {
            return Err(CommandError::text(
                "ERR not allowed: the slots and roles of this cluster are set by its KvCluster; change its spec instead",
            ));
        }
        (other, _) => {
            let other = String::from_utf8_lossy(other).into_owned();
            return Err(CommandError::text(format!(
                "ERR unknown subcommand or wrong number of arguments for '{other}'. Try CLUSTER HELP."
            )));
        }
    }
    Ok(())
}

/// `CLUSTER FAILOVER [FORCE]`: this replica is to lead. Source: "CLUSTER FAILOVER" of Redis. As there, the answer only says
/// that it was asked. FORCE asks even if the master cannot be reached; the nodes then elect who has the newest data.
fn failover(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    let force = args.len() == 3 && args.is(2, "force");
    if args.len() == 3 && args.is(2, "takeover") {
        return Err(CommandError::text(
            "ERR TAKEOVER not allowed: without a majority of the shard's nodes there could be two masters; use CLUSTER FAILOVER or FORCE",
        ));
    }
    if args.len() == 3 && !force {
        return Err(CommandError::Syntax);
    }
    server.ask_to_lead(force)?;
    server.reply(key).ok();
    Ok(())
}

/// A shard's id as clients see it: 40 hex digits that depend on nothing but cluster and index.
fn shard_id(uid: &str, shard: u16) -> String {
    use kv_core::control::digest;
    let mut id = digest(format!("{uid}/{shard}").as_bytes());
    id.push_str(&digest(format!("{shard}/{uid}").as_bytes()));
    id.push_str("00000000");
    id
}

fn slot_argument(args: Args<'_>, index: usize) -> Result<Slot, CommandError> {
    let slot = args.integer(index).ok().and_then(|slot| Slot::try_from(slot).ok());
    slot.filter(|slot| *slot < SLOT_COUNT).ok_or(CommandError::text("ERR Invalid or out of range slot"))
}

/// A node as this one knows it.
struct Node<'a> {
    config: &'a ShardConfig,
    member: &'a Member,
    address: Option<&'a NodeAddress>,
    down: bool,
}

fn nodes(server: &Server) -> Vec<Node<'_>> {
    let down = |id: NodeId| server.routing.map().is_some_and(|map| map.down.contains(&id));
    let nodes =
        server.routing.shards().flat_map(|config| config.members.iter().map(move |member| (config, member)));
    nodes
        .map(|(config, member)| Node {
            config,
            member,
            address: server.routing.address(member.id),
            down: member.id != server.routing.id() && down(member.id),
        })
        .collect()
}

impl Node<'_> {
    fn is_master(&self) -> bool {
        self.config.master == self.member.id
    }

    /// Whether clients may be sent to it.
    fn usable(&self) -> bool {
        self.address.is_some() && !self.down
    }

    fn line(&self, server: &Server) -> String {
        let mut flags = Vec::new();
        if self.member.id == server.routing.id() {
            flags.push("myself");
        }
        flags.push(if self.is_master() { "master" } else { "slave" });
        if self.down {
            flags.push("fail");
        }
        if self.address.is_none() {
            flags.push("noaddr");
        }
        let address = match self.address {
            Some(NodeAddress { ip, port, bus_port, hostname }) if hostname.is_empty() => {
                format!("{ip}:{port}@{bus_port}")
            }
            Some(NodeAddress { ip, port, bus_port, hostname }) => {
                format!("{ip}:{port}@{bus_port},{hostname}")
            }
            None => ":0@0".to_owned(),
        };
        let master = if self.is_master() { "-".to_owned() } else { self.config.master.to_string() };
        let mut line = format!(
            "{} {address} {} {master} 0 {} {} {}",
            self.member.id,
            flags.join(","),
            if self.down { 0 } else { server.clock.unix_ms },
            self.config.epoch,
            if self.down || self.address.is_none() { "disconnected" } else { "connected" },
        );
        if self.is_master() {
            for range in server.routing.shown(self.config.shard).ranges() {
                let _ = write!(line, " {range}");
            }
        }
        line
    }

    fn entry(&self, reply: &mut Reply<'_>) {
        let Some(address) = self.address else { return };
        reply.array(4);
        reply.bulk(address.ip.as_bytes());
        reply.integer(i64::from(address.port));
        reply.bulk(self.member.id.to_string().as_bytes());
        if address.hostname.is_empty() {
            reply.array(0);
        } else {
            reply.array(2);
            reply.bulk(b"hostname");
            reply.bulk(address.hostname.as_bytes());
        }
    }
}

fn info(server: &mut Server, key: ClientKey) {
    let routing = &server.routing;
    let shown = |shard: u16| routing.shown(shard).len();
    let assigned: usize = routing.shards().map(|config| shown(config.shard)).sum();
    let nodes = nodes(server);
    let lost: usize =
        nodes.iter().filter(|n| n.is_master() && !n.usable()).map(|n| shown(n.config.shard)).sum();
    let size = nodes.iter().filter(|node| node.is_master() && shown(node.config.shard) > 0).count();
    let epoch = routing.shards().map(|config| config.epoch.0).max().unwrap_or(0);
    let mine = routing.config().map_or(0, |config| config.epoch.0);
    let ok = assigned == usize::from(SLOT_COUNT) && lost == 0;
    let text = format!(
        "cluster_enabled:1\r\ncluster_state:{}\r\ncluster_slots_assigned:{assigned}\r\ncluster_slots_ok:{}\r\n\
         cluster_slots_pfail:0\r\ncluster_slots_fail:{lost}\r\ncluster_known_nodes:{}\r\ncluster_size:{size}\r\n\
         cluster_current_epoch:{epoch}\r\ncluster_my_epoch:{mine}\r\ncluster_stats_messages_sent:0\r\n\
         cluster_stats_messages_received:0\r\ntotal_cluster_links_buffer_limit_exceeded:0\r\n",
        if ok { "ok" } else { "fail" },
        assigned - lost,
        nodes.len().max(1),
    );
    server.reply(key).verbatim(&text);
}

/// The nodes of each shard that clients can be sent to, the master first; shards without a usable master are left out.
fn usable_shards<'a>(nodes: &'a [Node<'a>]) -> impl Iterator<Item = (&'a Node<'a>, Vec<&'a Node<'a>>)> {
    nodes.iter().filter(|node| node.is_master() && node.usable()).map(|master| {
        let same =
            |node: &&Node<'_>| node.config.shard == master.config.shard && !node.is_master() && node.usable();
        (master, nodes.iter().filter(same).collect())
    })
}

fn slots(server: &mut Server, key: ClientKey) {
    let mut out = Vec::new();
    let mut reply =
        Reply::new(&mut out, server.clients.get(key).map(|client| client.protocol).unwrap_or_default());
    let nodes = nodes(server);
    let shown = |node: &Node<'_>| server.routing.shown(node.config.shard).ranges();
    let ranges = usable_shards(&nodes).map(|(master, _)| shown(master).len()).sum();
    reply.array(ranges);
    for (master, replicas) in usable_shards(&nodes) {
        for range in shown(master) {
            reply.array(3 + replicas.len());
            reply.integer(i64::from(range.first));
            reply.integer(i64::from(range.last));
            master.entry(&mut reply);
            replicas.iter().for_each(|replica| replica.entry(&mut reply));
        }
    }
    server.reply(key).raw(&out);
}

fn shards(server: &mut Server, key: ClientKey) {
    let mut out = Vec::new();
    let mut reply =
        Reply::new(&mut out, server.clients.get(key).map(|client| client.protocol).unwrap_or_default());
    let nodes = nodes(server);
    let configs: Vec<&ShardConfig> = server.routing.shards().collect();
    reply.array(configs.len());
    for config in configs {
        reply.map(2);
        reply.bulk(b"slots");
        let ranges = server.routing.shown(config.shard).ranges();
        reply.array(ranges.len() * 2);
        for range in ranges {
            reply.integer(i64::from(range.first));
            reply.integer(i64::from(range.last));
        }
        reply.bulk(b"nodes");
        let members: Vec<&Node<'_>> = nodes.iter().filter(|node| node.config.shard == config.shard).collect();
        reply.array(members.len());
        for node in members {
            describe(&mut reply, node, server);
        }
    }
    server.reply(key).raw(&out);
}

fn describe(reply: &mut Reply<'_>, node: &Node<'_>, server: &Server) {
    let (ip, port, hostname) = node
        .address
        .map_or(("", 0, ""), |address| (address.ip.as_str(), address.port, address.hostname.as_str()));
    let offset = if node.member.id == server.routing.id() { server.history.offset() } else { 0 };
    let health = if node.down { "fail" } else { "online" };
    reply.map(if hostname.is_empty() { 7 } else { 8 });
    reply.bulk(b"id");
    reply.bulk(node.member.id.to_string().as_bytes());
    reply.bulk(b"port");
    reply.integer(i64::from(port));
    for (field, text) in [("ip", ip), ("endpoint", ip)] {
        reply.bulk(field.as_bytes());
        reply.bulk(text.as_bytes());
    }
    if !hostname.is_empty() {
        reply.bulk(b"hostname");
        reply.bulk(hostname.as_bytes());
    }
    reply.bulk(b"role");
    reply.bulk(if node.is_master() { b"master" } else { b"replica" });
    reply.bulk(b"replication-offset");
    reply.integer(i64::try_from(offset).unwrap_or(i64::MAX));
    reply.bulk(b"health");
    reply.bulk(health.as_bytes());
}

fn replicas(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    let wanted = args.text(2)?;
    let nodes = nodes(server);
    let master = nodes.iter().find(|node| node.member.id.to_string() == wanted).ok_or_else(|| {
        CommandError::text(format!("ERR Unknown node {}", wanted.get(..64).unwrap_or(wanted)))
    })?;
    if !master.is_master() {
        return Err(CommandError::text("ERR The specified node is not a master"));
    }
    let lines: Vec<String> = nodes
        .iter()
        .filter(|node| node.config.shard == master.config.shard && !node.is_master())
        .map(|node| node.line(server))
        .collect();
    let mut reply = server.reply(key);
    reply.array(lines.len());
    lines.iter().for_each(|line| reply.bulk(line.as_bytes()));
    Ok(())
}

fn keys_in_slot(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    let slot = slot_argument(args, 2)?;
    let count =
        usize::try_from(args.integer(3)?).map_err(|_| CommandError::text("ERR Invalid number of keys"))?;
    let keys: Vec<Vec<u8>> =
        server.keyspace.slot_entries(0, slot).take(count).map(|entry| entry.key.to_vec()).collect();
    let mut reply = server.reply(key);
    reply.array(keys.len());
    keys.iter().for_each(|key| reply.bulk(key));
    Ok(())
}
