//! Transactions: MULTI, EXEC, DISCARD, WATCH, UNWATCH.

use super::spec::row;
use super::{Args, CommandError, CommandResult, CommandSpec, Flags, Group, KeySpec};
use crate::server::{ClientKey, Server};

const FLAGS: Flags = Flags::LOADING.union(Flags::STALE).union(Flags::FAST);

/// The part of the command table that is about transactions.
pub const COMMANDS: &[CommandSpec] = &[
    row(Group::Transactions, "multi", 1, FLAGS, "1.2.0", "Starts a transaction.", multi),
    row(Group::Transactions, "exec", 1, FLAGS, "1.2.0", "Executes all commands in a transaction.", exec),
    row(Group::Transactions, "discard", 1, FLAGS, "2.0.0", "Discards a transaction.", discard),
    row(
        Group::Transactions,
        "watch",
        -2,
        FLAGS,
        "2.2.0",
        "Monitors changes to keys to determine the execution of a transaction.",
        watch,
    )
    .with_keys(KeySpec::ALL),
    row(
        Group::Transactions,
        "unwatch",
        1,
        FLAGS,
        "2.2.0",
        "Forgets about watched keys of a transaction.",
        unwatch,
    ),
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
