//! Publish and subscribe: SUBSCRIBE, PSUBSCRIBE, SSUBSCRIBE, their opposites, PUBLISH, SPUBLISH, PUBSUB.

use super::glob::glob_match;
use super::spec::row;
use super::{Args, CommandError, CommandResult, CommandSpec, Flags, Group, KeySpec, help};
use crate::server::{ClientKey, Scope, Server};

const ANY: Flags = Flags::LOADING.union(Flags::STALE);
const LISTEN: Flags = ANY.union(Flags::PUBSUB).union(Flags::WHILE_SUBSCRIBED);
const PUBLISH: Flags = ANY.union(Flags::PUBSUB).union(Flags::FAST).union(Flags::MAY_REPLICATE);

/// The part of the command table that is about publishing and subscribing. Shard channels are routed as keys are.
pub const COMMANDS: &[CommandSpec] = &[
    row(
        Group::PubSub,
        "subscribe",
        -2,
        LISTEN,
        "2.0.0",
        "Listens for messages published to channels.",
        subscribe,
    ),
    row(
        Group::PubSub,
        "unsubscribe",
        -1,
        LISTEN,
        "2.0.0",
        "Stops listening to messages posted to channels.",
        unsubscribe,
    ),
    row(
        Group::PubSub,
        "psubscribe",
        -2,
        LISTEN,
        "2.0.0",
        "Listens for messages published to channels that match one or more patterns.",
        psubscribe,
    ),
    row(
        Group::PubSub,
        "punsubscribe",
        -1,
        LISTEN,
        "2.0.0",
        "Stops listening to messages published to channels that match one or more patterns.",
        punsubscribe,
    ),
    row(
        Group::PubSub,
        "ssubscribe",
        -2,
        LISTEN,
        "7.0.0",
        "Listens for messages published to shard channels.",
        ssubscribe,
    )
    .with_keys(KeySpec::ALL),
    row(
        Group::PubSub,
        "sunsubscribe",
        -1,
        LISTEN,
        "7.0.0",
        "Stops listening to messages posted to shard channels.",
        sunsubscribe,
    )
    .with_keys(KeySpec::ALL),
    row(Group::PubSub, "publish", 3, PUBLISH, "2.0.0", "Posts a message to a channel.", publish),
    row(Group::PubSub, "spublish", 3, PUBLISH, "7.0.0", "Posts a message to a shard channel.", spublish)
        .with_keys(KeySpec::FIRST),
    row(Group::PubSub, "pubsub", -2, ANY, "2.8.0", "A container for Pub/Sub commands.", pubsub),
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
        (b"help", count) => help::reply(&mut server.reply(key), count, help::PUBSUB)?,
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
