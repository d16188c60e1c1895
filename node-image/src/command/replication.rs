//! Replication commands: REPLICAOF, PSYNC, REPLCONF, ROLE, WAIT.

use kv_core::control::REPLICATION_USER;
use kv_core::id::{ClusterUid, Epoch, NodeId};

use super::spec::row;
use super::{Args, CommandError, CommandResult, CommandSpec, Flags, Group};
use crate::replication::{LINEAGE, Stage};
use crate::server::{Client, ClientKey, Server, User};

// A change of the history, or of what the connection is for, cannot be part of a transaction.
const ADMIN: Flags = Flags::ADMIN.union(Flags::STALE).union(Flags::NO_MULTI);

/// The part of the command table that is about replication.
pub const COMMANDS: &[CommandSpec] = &[
    row(
        Group::Server,
        "replicaof",
        3,
        ADMIN,
        "5.0.0",
        "Configures a server as replica of another, or promotes it to a master.",
        replicaof,
    ),
    row(
        Group::Server,
        "slaveof",
        3,
        ADMIN,
        "1.0.0",
        "Sets a Redis server as a replica of another, or promotes it to being a master.",
        replicaof,
    ),
    row(
        Group::Server,
        "failover",
        -1,
        ADMIN,
        "6.2.0",
        "Starts a coordinated failover from a server to one of its replicas.",
        failover,
    ),
    row(Group::Server, "psync", -3, ADMIN, "2.8.0", "An internal command used in replication.", psync),
    row(Group::Server, "sync", 1, ADMIN, "1.0.0", "An internal command used in replication.", sync),
    row(
        Group::Server,
        "replconf",
        -1,
        ADMIN.union(Flags::LOADING),
        "3.0.0",
        "An internal command for configuring the replication stream.",
        replconf,
    ),
    row(
        Group::Server,
        "role",
        1,
        Flags::FAST.union(Flags::STALE).union(Flags::LOADING),
        "2.8.12",
        "Returns the replication role.",
        role,
    ),
    row(
        Group::Server,
        "wait",
        3,
        Flags::STALE,
        "3.0.0",
        "Blocks until the asynchronous replication of all preceding write commands sent by the connection is completed.",
        wait,
    ),
    row(
        Group::Server,
        "waitaof",
        4,
        Flags::STALE,
        "7.2.0",
        "Blocks until all of the preceding write commands sent by the connection are written to the append-only file of the master and/or replicas.",
        waitaof,
    ),
];

fn replicaof(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    if server.routing.is_managed() {
        return Err(CommandError::text(
            "ERR REPLICAOF not allowed: the topology of this node is set by its KvCluster (spec.replication)",
        ));
    }
    if server.tunables.cluster_enabled {
        return Err(CommandError::text("ERR REPLICAOF not allowed in cluster mode."));
    }
    if server.failover.is_some() {
        return Err(CommandError::text("ERR REPLICAOF not allowed while failing over."));
    }
    if args.is(1, "no") && args.is(2, "one") {
        server.follow_nobody();
        server.reply(key).ok();
        return Ok(());
    }
    let port = args.integer(2)?;
    let port = u16::try_from(port).map_err(|_| CommandError::text("ERR Invalid master port"))?;
    let host = args.text(1)?.to_owned();
    let address = (host, port);
    if server.link.as_ref().is_some_and(|link| link.address == address) {
        server.reply(key).simple("OK Already connected to specified master");
        return Ok(());
    }
    server.follow(address, None);
    server.reply(key).ok();
    Ok(())
}

fn failover(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    if server.routing.is_managed() {
        return Err(CommandError::text(
            "ERR FAILOVER not allowed: the topology of this node is set by its KvCluster (spec.replication)",
        ));
    }
    if server.tunables.cluster_enabled {
        return Err(CommandError::text("ERR FAILOVER not allowed in cluster mode."));
    }
    server.begin_failover(key, args)
}

fn psync(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    let replid = args.text(1)?.to_owned();
    // A replica asks for the byte after the last one that it has, and Redis counts bytes from 1.
    let offset = args.integer(2)?;
    let offset = u64::try_from(offset.saturating_sub(1)).unwrap_or(0);
    if server.routing.is_managed() && !server.routing.may_feed() {
        return Err(CommandError::text(UNPLACED));
    }
    if args.is(3, "failover") {
        server.take_over(&replid)?;
    }
    server.resync(key, &replid, offset);
    Ok(())
}

fn sync(server: &mut Server, key: ClientKey, _: Args<'_>) -> CommandResult {
    if server.routing.is_managed() && !server.routing.may_feed() {
        return Err(CommandError::text(UNPLACED));
    }
    server.sync_silently(key);
    Ok(())
}

const UNPLACED: &str = "NOMASTERLINK Can't SYNC: this node waits for its place in the shard";

fn replconf(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    if args.is(1, "kv-peer") {
        return peer(server, key, args);
    }
    if args.is(1, LINEAGE) {
        return lineage(server, key);
    }
    if args.len().is_multiple_of(2) {
        return Err(CommandError::Syntax);
    }
    let now = server.clock.instant;
    let acks = args.is(1, "ack");
    if acks && server.clients.get(key).is_some_and(|client| client.feed().is_none()) {
        return Ok(()); // of no replica
    }
    let Some(feed) = server.clients.make_replica(key, now) else { return Ok(()) };
    for index in (1..args.len()).step_by(2) {
        match args.at(index).to_ascii_lowercase().as_slice() {
            b"listening-port" => {
                feed.port = u16::try_from(args.integer(index + 1)?).map_err(|_| CommandError::NotInteger)?;
            }
            b"ip-address" => {
                let text = args.text(index + 1)?;
                if text.len() > 255 {
                    return Err(CommandError::text(
                        "ERR REPLCONF ip-address provided by replica instance is too long",
                    ));
                }
                text.clone_into(&mut feed.address);
            }
            b"capa" => feed.eof_capable |= args.is(index + 1, "eof"),
            b"rdb-only" => feed.snapshot_only = args.integer(index + 1)? == 1,
            b"rdb-filter-only" if !args.at(index + 1).is_empty() => {
                return Err(CommandError::text("ERR Unsupported rdb-filter-only option: all data are sent"));
            }
            b"ack" => {
                feed.acknowledge(u64::try_from(args.integer(index + 1)?).unwrap_or(0), now);
                for index in (index + 2..args.len().saturating_sub(1)).step_by(2) {
                    let number = u64::try_from(args.integer(index + 1)?).unwrap_or(0);
                    if args.is(index, "fack") {
                        feed.synced = number;
                    } else if args.is(index, "kv-epoch") {
                        feed.acked_epoch = Epoch(number);
                    }
                }
                server.answer_waits();
                server.end_if_drained();
                server.tend_failover();
                return Ok(()); // an acknowledgement is not answered
            }
            b"getack" | b"version" | b"rdb-filter-only" => {}
            other => {
                let other = String::from_utf8_lossy(other).into_owned();
                return Err(CommandError::text(format!("ERR Unrecognized REPLCONF option: {other}")));
            }
        }
    }
    server.reply(key).ok();
    Ok(())
}

/// `REPLCONF kv-peer uid shard id epoch`: a node of a managed shard says who it is, and learns who answers, and which
/// history ours goes on.
fn peer(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    if args.len() != 6 {
        return Err(CommandError::Syntax);
    }
    // What a node acknowledges counts as a copy: any client could say that it is one.
    let user = server.clients.get(key).map_or(User::Nobody, |client| client.user);
    if server.config.control_password.is_some() && !user.is_peer() {
        return Err(CommandError::text(format!(
            "NOPERM User {} has no permissions to run 'replconf|kv-peer'; nodes of a cluster are the user {REPLICATION_USER}",
            user.name()
        )));
    }
    let uid = ClusterUid(args.text(2)?.to_owned());
    let shard = u16::try_from(args.integer(3)?).map_err(|_| CommandError::NotInteger)?;
    let id: NodeId = args.text(4)?.parse().map_err(|error| CommandError::text(format!("ERR {error}")))?;
    let epoch = Epoch(u64::try_from(args.integer(5)?).map_err(|_| CommandError::NotInteger)?);
    server.routing.check_target(&uid, shard)?;
    let present = server.routing.config().map_or(Epoch(0), |config| config.epoch);
    if epoch > present {
        return Err(CommandError::text(format!(
            "STALEEPOCH this node is at epoch {present}, you are at {epoch}"
        )));
    }
    if epoch == present && !server.routing.feeds(id) {
        return Err(CommandError::text("NOMASTERLINK the config of this epoch names another parent for you"));
    }
    if !server.routing.may_feed() {
        return Err(CommandError::text("NOMASTERLINK this node waits for its place in the shard"));
    }
    // A node has one link: an earlier one hangs, and what was acknowledged there would hide what is from now on.
    let earlier = |client: &Client| client.feed().is_some_and(|feed| feed.node == Some(id));
    for other in server.clients.keys_where(earlier).into_iter().filter(|other| *other != key) {
        server.clients.doom(other);
    }
    let now = server.clock.instant;
    if let Some(feed) = server.clients.make_replica(key, now) {
        feed.node = Some(id);
    }
    let me = server.routing.id();
    let reply = match &server.history.previous {
        Some((replid, switch)) => format!("OK {me} {replid} {switch}"),
        None => format!("OK {me}"),
    };
    server.reply(key).simple(&reply);
    Ok(())
}

/// `REPLCONF kv-lineage ?`: says whom this node gets its data from.
fn lineage(server: &mut Server, key: ClientKey) -> CommandResult {
    let ancestors = server.link.as_ref().map_or(&[][..], |link| &link.lineage);
    let runs: Vec<&str> = std::iter::once(&server.run_id).chain(ancestors).map(String::as_str).collect();
    let reply = format!("OK {}", runs.join(" "));
    server.reply(key).simple(&reply);
    Ok(())
}

fn role(server: &mut Server, key: ClientKey, _: Args<'_>) -> CommandResult {
    let offset = i64::try_from(server.history.offset()).unwrap_or(i64::MAX);
    if let Some(link) = &server.link {
        let state = match link.stage {
            Stage::Idle { .. } => "connect",
            Stage::Attaching(_) => "connecting",
            Stage::Syncing(_) => "sync",
            Stage::Streaming(_) => "connected",
        };
        let offset = if link.client().is_some() { offset } else { -1 };
        let (host, port) = link.address.clone();
        let mut reply = server.reply(key);
        reply.array(5);
        reply.bulk(b"slave");
        reply.bulk(host.as_bytes());
        reply.integer(i64::from(port));
        reply.bulk(state.as_bytes());
        reply.integer(offset);
        return Ok(());
    }
    let replicas: Vec<(String, u16, u64)> = server
        .clients
        .iter()
        .filter_map(|(_, client)| {
            let feed = client.feed().filter(|feed| feed.online())?;
            let address =
                if feed.address.is_empty() { client.peer.ip().to_string() } else { feed.address.clone() };
            Some((address, feed.port, feed.acked))
        })
        .collect();
    let mut reply = server.reply(key);
    reply.array(3);
    reply.bulk(b"master");
    reply.integer(offset);
    reply.array(replicas.len());
    for (address, port, acked) in replicas {
        reply.array(3);
        reply.bulk(address.as_bytes());
        reply.bulk(port.to_string().as_bytes());
        reply.bulk(acked.to_string().as_bytes());
    }
    Ok(())
}

fn wait(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    if server.link.is_some() {
        return Err(CommandError::text(
            "ERR WAIT cannot be used with replica instances. Please also note that since Redis 4.0 if a replica is configured to be writable (which is not the default) writes to replicas are just local and are not propagated.",
        ));
    }
    let replicas = usize::try_from(args.integer(1)?).unwrap_or(0);
    let timeout = wait_timeout(args, 2)?;
    server.wait_for_replicas(key, replicas, None, timeout);
    Ok(())
}

/// A time to wait in milliseconds.
fn wait_timeout(args: Args<'_>, index: usize) -> Result<u64, CommandError> {
    let timeout = args
        .integer(index)
        .map_err(|_| CommandError::text("ERR timeout is not an integer or out of range"))?;
    u64::try_from(timeout).map_err(|_| CommandError::text("ERR timeout is negative"))
}

/// `WAITAOF numlocal numreplicas timeout`
fn waitaof(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    let local = args.integer(1).ok().filter(|local| (0..=1).contains(local));
    let local = local.ok_or(CommandError::text("ERR value is out of range, value must between 0 and 1"))?;
    let replicas = usize::try_from(args.integer(2)?)
        .map_err(|_| CommandError::text("ERR value is out of range, must be positive"))?;
    let timeout = wait_timeout(args, 3)?;
    if server.link.is_some() {
        return Err(CommandError::text(
            "ERR WAITAOF cannot be used with replica instances. Please also note that writes to replicas are just local and are not propagated.",
        ));
    }
    if local == 1 && server.persistence.synced().is_none() {
        return Err(CommandError::text(
            "ERR WAITAOF cannot be used when numlocal is set but appendonly is disabled.",
        ));
    }
    server.wait_for_replicas(key, replicas, Some(local == 1), timeout);
    Ok(())
}
