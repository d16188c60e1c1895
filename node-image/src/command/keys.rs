//! Keys of any type: whether they are there, their types, moves and removals.

use super::table::data_commands;
use super::{Args, CommandError, CommandResult, Ctx, KeySpec, help};
use crate::keyspace::{At, Expire, Tracking};

data_commands! { Generic;
    "del" -2 [WRITE] KeySpec::ALL, "1.0.0", del, "Deletes one or more keys.";
    "unlink" -2 [WRITE FAST] KeySpec::ALL, "4.0.0", unlink, "Asynchronously deletes one or more keys.";
    "exists" -2 [READONLY FAST] KeySpec::ALL, "1.0.0", exists, "Determines whether one or more keys exist.";
    "touch" -2 [READONLY FAST] KeySpec::ALL, "3.2.1", touch, "Returns the number of existing keys out of those specified after updating the time they were last accessed.";
    "type" 2 [READONLY FAST] KeySpec::FIRST, "1.0.0", type_, "Determines the type of value stored at a key.";
    "rename" 3 [WRITE] KeySpec::TWO, "1.0.0", rename, "Renames a key and overwrites the destination.";
    "renamenx" 3 [WRITE FAST] KeySpec::TWO, "1.0.0", renamenx, "Renames a key only when the target key name doesn't exist.";
    "copy" -3 [WRITE DENYOOM] KeySpec::TWO, "6.2.0", copy, "Copies the value of a key to a new key.";
    "move" 3 [WRITE FAST] KeySpec::FIRST, "1.0.0", move_, "Moves a key to another database.";
    "flushdb" -1 [WRITE] KeySpec::None, "1.0.0", flushdb, "Remove all keys from the current database.";
    "flushall" -1 [WRITE] KeySpec::None, "1.0.0", flushall, "Removes all keys from all databases.";
    "swapdb" 3 [WRITE FAST] KeySpec::None, "4.0.0", swapdb, "Swaps two Redis databases.";
    "object" -2 [READONLY] KeySpec::Range { first: 2, last: 2, step: 1 }, "2.2.3", object, "Shows how the value of a key is stored.";
}

fn del(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    delete(ctx, args, ctx.keyspace.lazily().user_del)
}

fn unlink(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    delete(ctx, args, true)
}

fn delete(ctx: &mut Ctx<'_>, args: Args<'_>, lazily: bool) -> CommandResult {
    let at = ctx.at();
    let removed = args.from(1).iter().filter(|key| ctx.keyspace.delete(at, key, lazily)).count();
    ctx.effects.changed(removed);
    ctx.reply.count(removed);
    Ok(())
}

fn touch(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let at = ctx.at();
    let found = args.from(1).iter().filter(|key| ctx.keyspace.use_key(at, key).is_some()).count();
    ctx.reply.count(found);
    Ok(())
}

fn exists(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let at = ctx.at();
    let found = args.from(1).iter().filter(|key| ctx.keyspace.find(at, key).is_some()).count();
    ctx.reply.count(found);
    Ok(())
}

fn type_(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let at = ctx.at();
    let name = ctx.keyspace.find(at, args.at(1)).map_or("none", |entry| entry.value.type_name());
    ctx.reply.simple(name);
    Ok(())
}

/// Renames if `replace` or if there is nothing at the destination; returns whether it did.
fn rename_key(ctx: &mut Ctx<'_>, args: Args<'_>, replace: bool) -> Result<bool, CommandError> {
    let (from, to) = (args.at(1), args.at(2));
    let at = ctx.at();
    if ctx.keyspace.find(at, from).is_none() {
        return Err(CommandError::NoSuchKey);
    }
    if from == to || (!replace && ctx.keyspace.find(at, to).is_some()) {
        return Ok(false);
    }
    if let Some((value, expire_at)) = ctx.keyspace.take(at, from) {
        ctx.keyspace.insert_loaded(at.db, to, value, expire_at);
        ctx.effects.changed(1);
    }
    Ok(true)
}

fn rename(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    rename_key(ctx, args, true)?;
    ctx.reply.ok();
    Ok(())
}

fn renamenx(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let renamed = rename_key(ctx, args, false)?;
    ctx.reply.one_or_zero(renamed);
    Ok(())
}

/// The database that the argument at `index` names.
fn database(ctx: &Ctx<'_>, args: Args<'_>, index: usize) -> Result<usize, CommandError> {
    let number = i32::try_from(args.integer(index)?).map_err(|_| {
        CommandError::text("ERR value is out of range, value must between -2147483648 and 2147483647")
    })?;
    let db = usize::try_from(number).ok().filter(|db| *db < ctx.settings.databases);
    db.ok_or(CommandError::text("ERR DB index is out of range"))
}

const SAME_OBJECT: CommandError =
    CommandError::Text(std::borrow::Cow::Borrowed("ERR source and destination objects are the same"));

fn copy(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let (from, to) = (args.at(1), args.at(2));
    let mut target = ctx.at();
    let mut replace = false;
    let mut index = 3;
    while index < args.len() {
        if args.is(index, "REPLACE") {
            replace = true;
        } else if args.is(index, "DB") && index + 1 < args.len() {
            index += 1;
            target.db = database(ctx, args, index)?;
        } else {
            return Err(CommandError::Syntax);
        }
        index += 1;
    }
    if target.db == ctx.db && from == to {
        return Err(SAME_OBJECT);
    }
    let at = ctx.at();
    let source = ctx.keyspace.find(at, from).map(|entry| (entry.value.to_value(), entry.expire_at));
    let Some((value, expire_at)) = source.filter(|_| replace || ctx.keyspace.find(target, to).is_none())
    else {
        ctx.reply.one_or_zero(false);
        return Ok(());
    };
    ctx.keyspace.insert_loaded(target.db, to, value, expire_at);
    ctx.effects.changed(1);
    ctx.reply.one_or_zero(true);
    Ok(())
}

fn move_(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    if ctx.settings.cluster_enabled {
        return Err(CommandError::text("ERR MOVE is not allowed in cluster mode"));
    }
    let key = args.at(1);
    let target = At { db: database(ctx, args, 2)?, now: ctx.now };
    if target.db == ctx.db {
        return Err(SAME_OBJECT);
    }
    let free = ctx.keyspace.find(target, key).is_none();
    let moved = if free { ctx.keyspace.take(ctx.at(), key) } else { None };
    ctx.reply.one_or_zero(moved.is_some());
    if let Some((value, expire_at)) = moved {
        ctx.keyspace.insert(target, key, value, Expire::time(expire_at));
        ctx.effects.changed(1);
    }
    Ok(())
}

/// Whether FLUSHALL or FLUSHDB frees on a thread of its own.
fn flushes_lazily(ctx: &Ctx<'_>, args: Args<'_>) -> Result<bool, CommandError> {
    match args.len() {
        1 => Ok(ctx.keyspace.lazily().user_flush),
        2 if args.is(1, "ASYNC") => Ok(true),
        2 if args.is(1, "SYNC") => Ok(false),
        _ => Err(CommandError::Syntax),
    }
}

fn flushdb(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let lazily = flushes_lazily(ctx, args)?;
    ctx.keyspace.flush(ctx.db, lazily);
    ctx.effects.changed(1);
    ctx.reply.ok();
    Ok(())
}

fn flushall(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let lazily = flushes_lazily(ctx, args)?;
    ctx.keyspace.flush_all(lazily);
    ctx.effects.changed(1);
    ctx.reply.ok();
    Ok(())
}

fn swapdb(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    if ctx.settings.cluster_enabled {
        return Err(CommandError::text("ERR SWAPDB is not allowed in cluster mode"));
    }
    let index = |index: usize, which: &str| {
        let number = args.integer(index).ok().and_then(|number| i32::try_from(number).ok());
        let number = number.ok_or_else(|| CommandError::text(format!("ERR invalid {which} DB index")))?;
        Ok::<_, CommandError>(usize::try_from(number).unwrap_or(usize::MAX))
    };
    let (first, second) = (index(1, "first")?, index(2, "second")?);
    if !ctx.keyspace.swap_databases(first, second) {
        return Err(CommandError::text("ERR DB index is out of range"));
    }
    ctx.effects.changed(1);
    ctx.reply.ok();
    Ok(())
}

fn object(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    if args.is(1, "HELP") {
        return help::reply(&mut ctx.reply, args.len(), help::OBJECT);
    }
    let name = String::from_utf8_lossy(args.at(1)).to_ascii_lowercase();
    if !["encoding", "refcount", "idletime", "freq"].contains(&&*name) {
        let given = String::from_utf8_lossy(args.at(1));
        return Err(CommandError::text(format!("ERR unknown subcommand '{given}'. Try OBJECT HELP.")));
    }
    if args.len() != 3 {
        return Err(CommandError::Arity(format!("object|{name}")));
    }
    let (at, key) = (ctx.at(), args.at(2));
    let Some(entry) = ctx.keyspace.find(at, key) else {
        ctx.reply.nil();
        return Ok(());
    };
    let encoding = entry.value.encoding();
    let by_frequency = matches!(ctx.keyspace.tracking(), Tracking::Frequency { .. });
    match &*name {
        "encoding" => ctx.reply.bulk(encoding.as_bytes()),
        "refcount" => ctx.reply.integer(1),
        "idletime" if by_frequency => return Err(not_tracked("is selected, idle time")),
        "idletime" => ctx.reply.integer(ctx.keyspace.idle_seconds(at, key).unwrap_or(0).into()),
        _ if by_frequency => ctx.reply.integer(ctx.keyspace.frequency(at, key).unwrap_or(0).into()),
        _ => return Err(not_tracked("is not selected, access frequency")),
    }
    Ok(())
}

fn not_tracked(what: &str) -> CommandError {
    CommandError::text(format!(
        "ERR An LFU maxmemory policy {what} not tracked. Please note that when switching between policies at runtime \
         LRU and LFU data will take some time to adjust."
    ))
}
