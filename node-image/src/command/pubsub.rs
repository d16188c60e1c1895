//! Publish and subscribe: SUBSCRIBE, PSUBSCRIBE, SSUBSCRIBE, their opposites, PUBLISH, SPUBLISH, PUBSUB.

use super::glob::glob_match;
use super::{Args, CommandError, CommandResult, CommandSpec, Flags, Group, Handler, KeySpec};
use crate::server::{ClientKey, Scope, Server};

const fn row(
    name: &'static str,
    arity: i32,
    flags: Flags,
    keys: KeySpec,
    since: &'static str,
    summary: &'static str,
    handler: super::ServerHandler,
) -> CommandSpec {
    let flags = flags.union(Flags::LOADING).union(Flags::STALE);
    let handler = Handler::Server(handler);
    CommandSpec { name, arity, flags, keys, group: Group::PubSub, since, summary, handler }
}

const LISTEN: Flags = Flags::PUBSUB.union(Flags::WHILE_SUBSCRIBED);
const PUBLISH: Flags = Flags::PUBSUB.union(Flags::FAST).union(Flags::MAY_REPLICATE);

/// The part of the command table that is about publishing and subscribing. Shard channels are routed as keys are.
pub const COMMANDS: &[CommandSpec] = &[
    row(
        "subscribe",
        -2,
        LISTEN,
        KeySpec::None,
        "2.0.0",
        "Listens for messages published to channels.",
        subscribe,
    ),
    row(
        "unsubscribe",
        -1,
        LISTEN,
        KeySpec::None,
        "2.0.0",
        "Stops listening to messages posted to channels.",
        unsubscribe,
    ),
    row(
        "psubscribe",
        -2,
        LISTEN,
        KeySpec::None,
        "2.0.0",
        "Listens for messages published to channels that match one or more patterns.",
        psubscribe,
    ),
    row(
        "punsubscribe",
        -1,
        LISTEN,
        KeySpec::None,
        "2.0.0",
        "Stops listening to messages published to channels that match one or more patterns.",
        punsubscribe,
    ),
    row(
        "ssubscribe",
        -2,
        LISTEN,
        KeySpec::ALL,
        "7.0.0",
        "Listens for messages published to shard channels.",
        ssubscribe,
    ),
    row(
        "sunsubscribe",
        -1,
        LISTEN,
        KeySpec::ALL,
        "7.0.0",
        "Stops listening to messages posted to shard channels.",
        sunsubscribe,
    ),
    row("publish", 3, PUBLISH, KeySpec::None, "2.0.0", "Posts a message to a channel.", publish),
    row("spublish", 3, PUBLISH, KeySpec::FIRST, "7.0.0", "Posts a message to a shard channel.", spublish),
    row("pubsub", -2, Flags::empty(), KeySpec::None, "2.8.0", "A container for Pub/Sub commands.", pubsub),
];

fn subscribe(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    server.subscribe(key, Scope::Channel, args.from(1))
}

fn psubscribe(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    server.subscribe(key, Scope::Pattern, args.from(1))
}

fn ssubscribe(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    server.subscribe(key, Scope::Shard, args.from(1))
}

fn unsubscribe(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    server.unsubscribe(key, Scope::Channel, args.from(1));
    Ok(())
}

fn punsubscribe(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    server.unsubscribe(key, Scope::Pattern, args.from(1));
    Ok(())
}

fn sunsubscribe(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    server.unsubscribe(key, Scope::Shard, args.from(1));
    Ok(())
}

fn publish(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    server.publish_for(key, Scope::Channel, args.at(1), args.at(2));
    Ok(())
}

fn spublish(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    server.publish_for(key, Scope::Shard, args.at(1), args.at(2));
    Ok(())
}

fn pubsub(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    let subcommand = args.at(1).to_ascii_lowercase();
    match (subcommand.as_slice(), args.len()) {
        (b"channels", 2 | 3) => channels(server, key, Scope::Channel, args.get(2)),
        (b"shardchannels", 2 | 3) => channels(server, key, Scope::Shard, args.get(2)),
        (b"numsub", _) => numbers(server, key, Scope::Channel, args.from(2)),
        (b"shardnumsub", _) => numbers(server, key, Scope::Shard, args.from(2)),
        (b"numpat", 2) => {
            let count = server.pubsub.of(Scope::Pattern).len();
            server.reply(key).count(count);
        }
        (b"numpat", _) => return Err(CommandError::Arity("pubsub|numpat".into())),
        (b"channels" | b"shardchannels", _) => {
            let name = String::from_utf8_lossy(args.at(1)).into_owned();
            return Err(CommandError::text(format!(
                "ERR unknown subcommand or wrong number of arguments for '{name}'. Try PUBSUB HELP."
            )));
        }
        _ => {
            let name = String::from_utf8_lossy(args.at(1)).into_owned();
            return Err(CommandError::text(format!("ERR unknown subcommand '{name}'. Try PUBSUB HELP.")));
        }
    }
    Ok(())
}

fn channels(server: &mut Server, key: ClientKey, scope: Scope, pattern: Option<&[u8]>) {
    let fits = |name: &[u8]| pattern.is_none_or(|pattern| glob_match(pattern, name));
    let found: Vec<_> = server.pubsub.of(scope).keys().filter(|name| fits(name)).cloned().collect();
    let mut reply = server.reply(key);
    reply.array(found.len());
    found.iter().for_each(|name| reply.bulk(name));
}

fn numbers(server: &mut Server, key: ClientKey, scope: Scope, names: &[&[u8]]) {
    let subscribers = server.pubsub.of(scope);
    let counts: Vec<_> =
        names.iter().map(|name| subscribers.get(*name).map_or(0, |keys| keys.len())).collect();
    let mut reply = server.reply(key);
    reply.array(names.len() * 2);
    for (name, count) in names.iter().zip(counts) {
        reply.bulk(name);
        reply.count(count);
    }
}
