//! Hashes.

use super::decimal::{NoSum, sum};
use super::sample;
use super::scan::ScanOptions;
use super::table::data_commands;
use super::{Args, CommandError, CommandResult, Ctx, KeySpec};
use crate::keyspace::value::{Hash, Text};
use crate::resp::{Protocol, parse_i64};

data_commands! { Hash;
    "hset" -4 [WRITE DENYOOM FAST] KeySpec::FIRST, "2.0.0", hset, "Creates or modifies the value of a field in a hash.";
    "hmset" -4 [WRITE DENYOOM FAST] KeySpec::FIRST, "2.0.0", hmset, "Sets the values of multiple fields.";
    "hsetnx" 4 [WRITE DENYOOM FAST] KeySpec::FIRST, "2.0.0", hsetnx, "Sets the value of a field in a hash only when the field doesn't exist.";
    "hget" 3 [READONLY FAST] KeySpec::FIRST, "2.0.0", hget, "Returns the value of a field in a hash.";
    "hmget" -3 [READONLY FAST] KeySpec::FIRST, "2.0.0", hmget, "Returns the values of all fields in a hash.";
    "hgetall" 2 [READONLY] KeySpec::FIRST, "2.0.0", hgetall, "Returns all fields and values in a hash.";
    "hkeys" 2 [READONLY] KeySpec::FIRST, "2.0.0", hkeys, "Returns all fields in a hash.";
    "hvals" 2 [READONLY] KeySpec::FIRST, "2.0.0", hvals, "Returns all values in a hash.";
    "hdel" -3 [WRITE FAST] KeySpec::FIRST, "2.0.0", hdel, "Deletes one or more fields and their values from a hash. Deletes the hash if no fields remain.";
    "hlen" 2 [READONLY FAST] KeySpec::FIRST, "2.0.0", hlen, "Returns the number of fields in a hash.";
    "hstrlen" 3 [READONLY FAST] KeySpec::FIRST, "3.2.0", hstrlen, "Returns the length of the value of a field.";
    "hexists" 3 [READONLY FAST] KeySpec::FIRST, "2.0.0", hexists, "Determines whether a field exists in a hash.";
    "hincrby" 4 [WRITE DENYOOM FAST] KeySpec::FIRST, "2.0.0", hincrby, "Increments the integer value of a field in a hash by a number. Uses 0 as initial value if the field doesn't exist.";
    "hincrbyfloat" 4 [WRITE DENYOOM FAST] KeySpec::FIRST, "2.6.0", hincrbyfloat, "Increments the floating point value of a field by a number. Uses 0 as initial value if the field doesn't exist.";
    "hrandfield" -2 [READONLY] KeySpec::FIRST, "6.2.0", hrandfield, "Returns one or more random fields from a hash.";
    "hscan" -3 [READONLY] KeySpec::FIRST, "2.8.0", hscan, "Iterates over fields and values of a hash.";
}

/// Sets the fields of HSET and HMSET; returns how many are new.
fn set_fields(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<usize, CommandError> {
    if !args.len().is_multiple_of(2) {
        return Err(CommandError::Arity(String::from_utf8_lossy(args.at(0)).to_ascii_lowercase()));
    }
    let pairs = args.from(2).chunks_exact(2);
    let changes = pairs.len();
    let added = ctx.keyspace.upsert(ctx.at(), args.at(1), |hash: &mut Hash| {
        let pairs = pairs.filter_map(|pair| Some((pair.first()?, pair.get(1)?)));
        pairs.filter(|(field, value)| hash.set(field, value)).count()
    })?;
    ctx.effects.changed(changes);
    Ok(added)
}

fn hset(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let added = set_fields(ctx, args)?;
    ctx.reply.count(added);
    Ok(())
}

fn hmset(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    set_fields(ctx, args)?;
    ctx.reply.ok();
    Ok(())
}

fn hsetnx(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let set = ctx.keyspace.upsert(ctx.at(), args.at(1), |hash: &mut Hash| {
        hash.get(args.at(2)).is_none() && hash.set(args.at(2), args.at(3))
    })?;
    ctx.effects.changed(usize::from(set));
    ctx.reply.one_or_zero(set);
    Ok(())
}

fn hget(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let hash = ctx.keyspace.read::<Hash>(ctx.at(), args.at(1))?;
    ctx.reply.bulk_or_nil(hash.and_then(|hash| hash.get(args.at(2))).as_deref());
    Ok(())
}

fn hmget(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let hash = ctx.keyspace.read::<Hash>(ctx.at(), args.at(1))?;
    let fields = args.from(2);
    ctx.reply.array(fields.len());
    for field in fields {
        ctx.reply.bulk_or_nil(hash.and_then(|hash| hash.get(field)).as_deref());
    }
    Ok(())
}

fn hgetall(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let hash = ctx.keyspace.read::<Hash>(ctx.at(), args.at(1))?;
    ctx.reply.map(hash.map_or(0, Hash::len));
    for (field, value) in hash.into_iter().flat_map(Hash::iter) {
        ctx.reply.bulk(&field);
        ctx.reply.bulk(&value);
    }
    Ok(())
}

fn hkeys(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let hash = ctx.keyspace.read::<Hash>(ctx.at(), args.at(1))?;
    ctx.reply.array(hash.map_or(0, Hash::len));
    hash.into_iter().flat_map(Hash::iter).for_each(|(field, _)| ctx.reply.bulk(&field));
    Ok(())
}

fn hvals(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let hash = ctx.keyspace.read::<Hash>(ctx.at(), args.at(1))?;
    ctx.reply.array(hash.map_or(0, Hash::len));
    hash.into_iter().flat_map(Hash::iter).for_each(|(_, value)| ctx.reply.bulk(&value));
    Ok(())
}

fn hdel(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let removed = ctx.keyspace.modify(ctx.at(), args.at(1), |hash: &mut Hash| {
        args.from(2).iter().filter(|field| hash.remove(field)).count()
    })?;
    let removed = removed.unwrap_or(0);
    ctx.effects.changed(removed);
    ctx.reply.count(removed);
    Ok(())
}

fn hlen(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let len = ctx.keyspace.read::<Hash>(ctx.at(), args.at(1))?.map_or(0, Hash::len);
    ctx.reply.count(len);
    Ok(())
}

fn field_len(ctx: &mut Ctx<'_>, args: Args<'_>) -> Result<Option<usize>, CommandError> {
    let hash = ctx.keyspace.read::<Hash>(ctx.at(), args.at(1))?;
    Ok(hash.and_then(|hash| hash.get(args.at(2))).map(|value| value.len()))
}

fn hstrlen(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let len = field_len(ctx, args)?;
    ctx.reply.count(len.unwrap_or(0));
    Ok(())
}

fn hexists(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let len = field_len(ctx, args)?;
    ctx.reply.one_or_zero(len.is_some());
    Ok(())
}

fn hincrby(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let (key, field, by) = (args.at(1), args.at(2), args.integer(3)?);
    let hash = ctx.keyspace.read::<Hash>(ctx.at(), key)?;
    let before = match hash.and_then(|hash| hash.get(field)) {
        Some(value) => parse_i64(&value).ok_or(CommandError::text("ERR hash value is not an integer"))?,
        None => 0,
    };
    let overflow = || CommandError::text("ERR increment or decrement would overflow");
    let after = before.checked_add(by).ok_or_else(overflow)?;
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(after).as_bytes();
    ctx.keyspace.upsert(ctx.at(), key, |hash: &mut Hash| hash.set(field, digits))?;
    ctx.effects.changed(1);
    ctx.reply.integer(after);
    Ok(())
}

fn hincrbyfloat(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let (key, field) = (args.at(1), args.at(2));
    if args.float(3)?.is_infinite() {
        return Err(CommandError::text("ERR value is NaN or Infinity"));
    }
    let hash = ctx.keyspace.read::<Hash>(ctx.at(), key)?;
    let before = hash.and_then(|hash| hash.get(field)).unwrap_or(Text::Bytes(b"0"));
    let after = sum(&before, args.at(3)).map_err(|error| match error {
        NoSum::First => CommandError::text("ERR hash value is not a float"),
        NoSum::Second => CommandError::NotFloat,
        NoSum::NotFinite => CommandError::text("ERR increment would produce NaN or Infinity"),
    })?;
    ctx.keyspace.upsert(ctx.at(), key, |hash: &mut Hash| hash.set(field, after.as_bytes()))?;
    ctx.effects.changed(1);
    // As a value, so that a copy does not depend on how it adds.
    ctx.effects.replicate(&[b"HSET", key, field, after.as_bytes()]);
    ctx.reply.bulk(after.as_bytes());
    Ok(())
}

fn hrandfield(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    if args.len() == 2 {
        let hash = ctx.keyspace.read::<Hash>(ctx.at(), args.at(1))?;
        let field = hash.and_then(|hash| hash.nth(ctx.random.usize(..hash.len().max(1))));
        ctx.reply.bulk_or_nil(field.as_ref().map(|(field, _)| &**field));
        return Ok(());
    }
    let count = sample::count(args, 2)?;
    let with_values = args.len() == 4 && args.is(3, "WITHVALUES");
    if args.len() > 3 && !with_values {
        return Err(CommandError::Syntax);
    }
    if with_values && count > i64::MAX / 2 {
        return Err(CommandError::text("ERR value is out of range"));
    }
    let hash = ctx.keyspace.read::<Hash>(ctx.at(), args.at(1))?;
    let picked = sample::pick(ctx.random, hash.map_or(0, Hash::len), count);
    let paired = with_values && ctx.reply.protocol() == Protocol::Resp3;
    ctx.reply.array(if with_values && !paired { picked.len() * 2 } else { picked.len() });
    for (field, value) in hash.map(|hash| hash.pick(&picked)).unwrap_or_default() {
        if paired {
            ctx.reply.array(2);
        }
        ctx.reply.bulk(&field);
        if with_values {
            ctx.reply.bulk(&value);
        }
    }
    Ok(())
}

fn hscan(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let cursor = ScanOptions::cursor(args, 2)?;
    let Some(hash) = ctx.keyspace.read::<Hash>(ctx.at(), args.at(1))? else {
        ctx.reply_scan::<&[u8]>(0, &[]);
        return Ok(());
    };
    let options = ScanOptions::parse(args, 2, false)?;
    let mut items: Vec<Box<[u8]>> = Vec::new();
    let next = hash.scan(cursor, options.count, |field, value| {
        if options.shows(field) {
            items.extend([field.into(), value.into()]);
        }
    });
    ctx.reply_scan(next, &items);
    Ok(())
}
