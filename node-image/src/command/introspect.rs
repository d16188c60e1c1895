//! COMMAND: the command table as clients ask for it.

use super::{Args, CommandError, CommandResult, CommandSpec, Flags, Group, KeySpec, help, table};
use crate::resp::Reply;
use crate::server::{Client, ClientKey, Server};

/// `COMMAND [COUNT | LIST | INFO name ... | DOCS name ... | GETKEYS command ...]`
pub(super) fn command(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    let table = server.clients.get(key).map_or(&*table::NODE, Client::table);
    let mut reply = server.reply(key);
    match args.at(1).to_ascii_lowercase().as_slice() {
        b"" => {
            reply.array(table.all().len());
            table.all().for_each(|spec| describe(&mut reply, spec));
        }
        b"help" => help::reply(&mut reply, args.len(), help::COMMAND)?,
        b"count" => reply.count(table.all().len()),
        b"list" => {
            reply.array(table.all().len());
            table.all().for_each(|spec| reply.bulk(spec.name.as_bytes()));
        }
        b"info" if args.len() > 2 => {
            reply.array(args.len() - 2);
            for name in args.from(2) {
                match table.lookup(name) {
                    Some(spec) => describe(&mut reply, spec),
                    None => reply.nil_array(),
                }
            }
        }
        b"info" => {
            reply.array(table.all().len());
            table.all().for_each(|spec| describe(&mut reply, spec));
        }
        b"docs" => {
            let wanted: Vec<_> = if args.len() > 2 {
                args.from(2).iter().filter_map(|name| table.lookup(name)).collect()
            } else {
                table.all().collect()
            };
            reply.map(wanted.len());
            wanted.into_iter().for_each(|spec| document(&mut reply, spec));
        }
        b"getkeys" if args.len() > 2 => {
            let inner = Args::new(args.from(2));
            let spec =
                table.lookup(inner.at(0)).ok_or(CommandError::text("ERR Invalid command specified"))?;
            let positions = spec.keys.positions(inner);
            if positions.is_empty() || spec.flags.contains(Flags::PUBSUB) {
                return Err(CommandError::text("ERR The command has no key arguments"));
            }
            reply.array(positions.len());
            positions.into_iter().for_each(|index| reply.bulk(inner.at(index)));
        }
        other => {
            let other = String::from_utf8_lossy(other).into_owned();
            return Err(CommandError::text(format!("ERR unknown subcommand '{other}'. Try COMMAND HELP.")));
        }
    }
    Ok(())
}

fn flag_names(spec: &CommandSpec) -> Vec<&'static str> {
    [
        (Flags::WRITE, "write"),
        (Flags::READONLY, "readonly"),
        (Flags::DENYOOM, "denyoom"),
        (Flags::ADMIN, "admin"),
        (Flags::FAST, "fast"),
        (Flags::LOADING, "loading"),
        (Flags::STALE, "stale"),
        (Flags::NO_AUTH, "no_auth"),
        (Flags::MOVABLE_KEYS, "movablekeys"),
        (Flags::NO_MULTI, "no_multi"),
        (Flags::PUBSUB, "pubsub"),
    ]
    .into_iter()
    .filter(|(flag, _)| spec.flags.contains(*flag))
    .map(|(_, name)| name)
    .collect()
}

fn describe(reply: &mut Reply<'_>, spec: &CommandSpec) {
    let (first, last, step) = match spec.keys {
        KeySpec::Range { first, last, step } => (first as i64, i64::from(last), step as i64),
        KeySpec::Numbered { also: Some(also), .. } => (also as i64, also as i64, 1),
        KeySpec::None | KeySpec::Numbered { also: None, .. } => (0, 0, 0),
    };
    reply.array(10);
    reply.bulk(spec.name.as_bytes());
    reply.integer(i64::from(spec.arity));
    let flags = flag_names(spec);
    reply.set(flags.len());
    flags.into_iter().for_each(|name| reply.simple(name));
    [first, last, step].into_iter().for_each(|number| reply.integer(number));
    reply.set(1);
    reply.simple(category(spec));
    reply.array(0); // tips
    reply.array(0); // key specifications
    reply.array(0); // subcommands
}

fn category(spec: &CommandSpec) -> &'static str {
    match spec.group {
        Group::Generic => "@keyspace",
        Group::String => "@string",
        Group::Hash => "@hash",
        Group::List => "@list",
        Group::Set => "@set",
        Group::SortedSet => "@sortedset",
        Group::Connection => "@connection",
        Group::Server | Group::Cluster => "@admin",
        Group::Transactions => "@transaction",
        Group::PubSub => "@pubsub",
    }
}

fn document(reply: &mut Reply<'_>, spec: &CommandSpec) {
    let group = match spec.group {
        Group::Generic => "generic",
        Group::String => "string",
        Group::Hash => "hash",
        Group::List => "list",
        Group::Set => "set",
        Group::SortedSet => "sorted-set",
        Group::Connection => "connection",
        Group::Server => "server",
        Group::Cluster => "cluster",
        Group::Transactions => "transactions",
        Group::PubSub => "pubsub",
    };
    reply.bulk(spec.name.as_bytes());
    reply.map(3);
    for (field, text) in [("summary", spec.summary), ("since", spec.since), ("group", group)] {
        reply.bulk(field.as_bytes());
        reply.bulk(text.as_bytes());
    }
}
