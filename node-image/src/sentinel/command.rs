//! The commands of `sentinel-port`.

use std::sync::LazyLock;

use super::view::{Field, View};
use crate::command::glob::glob_match;
use crate::command::table::{NODE, Table};
use crate::command::{Args, CommandError, CommandResult, CommandSpec, Flags, Group, help, row};
use crate::resp::Reply;
use crate::server::{ClientKey, Server};

/// Commands that are the same as on the data port.
const SHARED: [&str; 10] = [
    "auth",
    "client",
    "command",
    "hello",
    "info",
    "ping",
    "psubscribe",
    "punsubscribe",
    "subscribe",
    "unsubscribe",
];

const OWN: &[CommandSpec] = &[
    row(
        Group::Server,
        "sentinel",
        -2,
        Flags::ADMIN.union(Flags::STALE),
        "2.8.4",
        "A container for Redis Sentinel commands.",
        sentinel,
    ),
    row(
        Group::Server,
        "role",
        1,
        Flags::FAST.union(Flags::STALE),
        "2.8.12",
        "Returns the replication role.",
        role,
    ),
];

/// The commands of `sentinel-port`.
pub static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let shared = NODE.all().filter(|spec| SHARED.contains(&spec.name));
    Table::new(OWN.iter().chain(shared))
});

/// What SENTINEL HELP says.
const HELP: &[&str] = &[
    "SENTINEL <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "CKQUORUM <master-name>",
    "    Check if enough Sentinels answer to elect another master.",
    "FAILOVER <master-name>",
    "    Have a replica take the place of the master.",
    "GET-MASTER-ADDR-BY-NAME <master-name>",
    "    Return the ip and port number of the master with that name.",
    "IS-MASTER-DOWN-BY-ADDR <ip> <port> <current-epoch> <runid>",
    "    Check if the master specified by ip:port is down from current Sentinel's",
    "    point of view.",
    "MASTER <master-name>",
    "    Show the state and info of the specified master.",
    "MASTERS",
    "    Show a list of monitored masters and their state.",
    "MYID",
    "    Return the ID of the Sentinel instance.",
    "REPLICAS <master-name>",
    "    Show a list of replicas for this master and their state.",
    "RESET <pattern>",
    "    Form all opinions anew of masters whose names match this pattern.",
    "SENTINELS <master-name>",
    "    Show a list of Sentinel instances for this master and their state.",
];

fn role(server: &mut Server, key: ClientKey, _: Args<'_>) -> CommandResult {
    let name = server.shard_view(None).map(|view| view.name);
    let mut reply = server.reply(key);
    reply.array(2);
    reply.bulk(b"sentinel");
    reply.array(usize::from(name.is_some()));
    name.iter().for_each(|name| reply.bulk(name.as_bytes()));
    Ok(())
}

fn sentinel(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    let subcommand = args.at(1).to_ascii_lowercase();
    let arity = |count: usize| {
        let name = String::from_utf8_lossy(&subcommand);
        if args.len() == count { Ok(()) } else { Err(CommandError::Arity(format!("sentinel|{name}"))) }
    };
    match subcommand.as_slice() {
        b"help" => help::reply(&mut server.reply(key), args.len(), HELP),
        b"myid" => {
            arity(2)?;
            let id = server.routing.id().to_string();
            server.reply(key).bulk(id.as_bytes());
            Ok(())
        }
        b"masters" => {
            arity(2)?;
            answer(server, key, |view, reply| {
                reply.array(usize::from(view.is_some()));
                view.iter().for_each(|view| fields(reply, &view.master_fields()));
                Ok(())
            })
        }
        b"get-master-addr-by-name" => {
            arity(3)?;
            let deposed = server.is_deposed();
            answer(server, key, |view, reply| {
                match view.filter(|view| view.name.as_bytes() == args.at(2) && !deposed) {
                    None => reply.nil_array(),
                    Some(View { address: (host, port), .. }) => {
                        reply.array(2);
                        reply.bulk(host.as_bytes());
                        reply.bulk(port.to_string().as_bytes());
                    }
                }
                Ok(())
            })
        }
        b"is-master-down-by-addr" => {
            arity(6)?;
            is_master_down(server, key, args)
        }
        b"reset" => {
            arity(3)?;
            reset(server, key, args)
        }
        b"failover" => {
            arity(3)?;
            if server.shard_view(None).is_none_or(|view| view.name.as_bytes() != args.at(2)) {
                return Err(CommandError::text("ERR No such master with that name"));
            }
            server.ask_for_another_master()?;
            server.reply(key).ok();
            Ok(())
        }
        b"master" | b"replicas" | b"slaves" | b"sentinels" | b"ckquorum" => {
            arity(3)?;
            answer(server, key, |view, reply| {
                let named = view.filter(|view| view.name.as_bytes() == args.at(2));
                let view = named.ok_or(CommandError::text("ERR No such master with that name"))?;
                of_master(&view, &subcommand, reply)
            })
        }
        b"monitor" | b"remove" | b"set" | b"flushconfig" | b"simulate-failure" | b"config" | b"debug"
        | b"info-cache" | b"pending-scripts" => Err(CommandError::text(
            "ERR not available: what this node watches is the shard that it belongs to, as its KvCluster has it",
        )),
        _ => {
            let other = String::from_utf8_lossy(args.at(1));
            Err(CommandError::text(format!("ERR unknown subcommand '{other}'. Try SENTINEL HELP.")))
        }
    }
}

/// Replies with what `write` makes of the shard.
fn answer(
    server: &mut Server,
    key: ClientKey,
    write: impl FnOnce(Option<View<'_>>, &mut Reply<'_>) -> CommandResult,
) -> CommandResult {
    let mut out = Vec::new();
    let protocol = server.clients.get(key).map(|client| client.protocol).unwrap_or_default();
    write(server.shard_view(server.report()), &mut Reply::new(&mut out, protocol))?;
    server.reply(key).raw(&out);
    Ok(())
}

fn fields(reply: &mut Reply<'_>, fields: &[Field]) {
    reply.map(fields.len());
    for (name, text) in fields {
        reply.bulk(name.as_bytes());
        reply.bulk(text.as_bytes());
    }
}

/// The subcommands that name a master.
fn of_master(view: &View<'_>, subcommand: &[u8], reply: &mut Reply<'_>) -> CommandResult {
    match subcommand {
        b"master" => fields(reply, &view.master_fields()),
        b"replicas" | b"slaves" => {
            reply.array(view.replicas().count());
            view.replicas().for_each(|replica| fields(reply, &view.replica_fields(replica)));
        }
        b"sentinels" => {
            reply.array(view.other_sentinels().count());
            view.other_sentinels().for_each(|other| fields(reply, &view.sentinel_fields(other)));
        }
        b"ckquorum" if view.usable() >= view.quorum() => reply.simple(&format!(
            "OK {} usable Sentinels. Quorum and failover authorization can be reached",
            view.usable()
        )),
        _ => {
            return Err(CommandError::text(format!(
                "NOQUORUM {} usable Sentinels. Not enough available Sentinels to reach the specified quorum for this \
                 master. Not enough available Sentinels to reach the majority and authorize a failover",
                view.usable()
            )));
        }
    }
    Ok(())
}

/// This node has no vote to give to another Sentinel: elections are held among the nodes, by epochs of their own.
fn is_master_down(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    let port = args.integer(3)?;
    args.integer(4)?;
    answer(server, key, |view, reply| {
        let is =
            |view: &View<'_>| view.address.0.as_bytes() == args.at(2) && i64::from(view.address.1) == port;
        let down = view
            .filter(is)
            .is_some_and(|view| view.master().is_some_and(|master| master.known.down_since.is_some()));
        reply.array(3);
        reply.one_or_zero(down);
        reply.bulk(b"*");
        reply.integer(0);
        Ok(())
    })
}

fn reset(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    let view = server.shard_view(None).filter(|view| glob_match(args.at(2), view.name.as_bytes()));
    let event = view.and_then(|view| Some(view.event(view.master()?)));
    if let Some(event) = &event {
        server.sentinel.reset();
        server.announce("+reset-master", event);
        server.tend_sentinel();
    }
    server.reply(key).one_or_zero(event.is_some());
    Ok(())
}
