//! Transactions: MULTI, EXEC, DISCARD, WATCH, UNWATCH.

use super::{Args, CommandError, CommandResult, CommandSpec, Flags, Group, Handler, KeySpec};
use crate::server::{ClientKey, Server};

const fn row(
    name: &'static str,
    arity: i32,
    keys: KeySpec,
    since: &'static str,
    summary: &'static str,
    handler: super::ServerHandler,
) -> CommandSpec {
    let flags = Flags::LOADING.union(Flags::STALE).union(Flags::FAST);
    let handler = Handler::Server(handler);
    CommandSpec { name, arity, flags, keys, group: Group::Transactions, since, summary, handler }
}

/// The part of the command table that is about transactions.
pub const COMMANDS: &[CommandSpec] = &[
    row("multi", 1, KeySpec::None, "1.2.0", "Starts a transaction.", multi),
    row("exec", 1, KeySpec::None, "1.2.0", "Executes all commands in a transaction.", exec),
    row("discard", 1, KeySpec::None, "2.0.0", "Discards a transaction.", discard),
    row(
        "watch",
        -2,
        KeySpec::ALL,
        "2.2.0",
        "Monitors changes to keys to determine the execution of a transaction.",
        watch,
    ),
    row("unwatch", 1, KeySpec::None, "2.2.0", "Forgets about watched keys of a transaction.", unwatch),
];

fn multi(server: &mut Server, key: ClientKey, _: Args<'_>) -> CommandResult {
    server.multi(key)
}

fn exec(server: &mut Server, key: ClientKey, _: Args<'_>) -> CommandResult {
    server.exec(key)
}

fn discard(server: &mut Server, key: ClientKey, _: Args<'_>) -> CommandResult {
    if !server.discard(key) {
        return Err(CommandError::text("ERR DISCARD without MULTI"));
    }
    server.reply(key).ok();
    Ok(())
}

fn watch(server: &mut Server, key: ClientKey, args: Args<'_>) -> CommandResult {
    server.watch(key, args.from(1))?;
    server.reply(key).ok();
    Ok(())
}

fn unwatch(server: &mut Server, key: ClientKey, _: Args<'_>) -> CommandResult {
    server.unwatch(key);
    server.reply(key).ok();
    Ok(())
}
