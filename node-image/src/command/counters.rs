//! Strings as numbers.

use super::decimal::{NoSum, sum};
use super::table::data_commands;
use super::{Args, CommandError, CommandResult, Ctx, KeySpec};
use crate::keyspace::Expire;
use crate::resp::parse_i64;

data_commands! { String;
    "incr" 2 [WRITE DENYOOM FAST] KeySpec::FIRST, "1.0.0", incr, "Increments the integer value of a key by one. Uses 0 as initial value if the key doesn't exist.";
    "decr" 2 [WRITE DENYOOM FAST] KeySpec::FIRST, "1.0.0", decr, "Decrements the integer value of a key by one. Uses 0 as initial value if the key doesn't exist.";
    "incrby" 3 [WRITE DENYOOM FAST] KeySpec::FIRST, "1.0.0", incrby, "Increments the integer value of a key by a number. Uses 0 as initial value if the key doesn't exist.";
    "decrby" 3 [WRITE DENYOOM FAST] KeySpec::FIRST, "1.0.0", decrby, "Decrements a number from the integer value of a key. Uses 0 as initial value if the key doesn't exist.";
    "incrbyfloat" 3 [WRITE DENYOOM FAST] KeySpec::FIRST, "2.6.0", incrbyfloat, "Increment the floating point value of a key by a number. Uses 0 as initial value if the key doesn't exist.";
}

fn add(ctx: &mut Ctx<'_>, key: &[u8], by: i64) -> CommandResult {
    let at = ctx.at();
    let (before, expire) = match ctx.keyspace.find(at, key) {
        Some(entry) => {
            let text = entry.value.string().ok_or(CommandError::WrongType)?;
            (parse_i64(text).ok_or(CommandError::NotInteger)?, Expire::time(entry.expire_at))
        }
        None => (0, Expire::Never),
    };
    let overflow = || CommandError::text("ERR increment or decrement would overflow");
    let after = before.checked_add(by).ok_or_else(overflow)?;
    let mut digits = itoa::Buffer::new();
    ctx.keyspace.set_str(at, key, digits.format(after).as_bytes(), expire);
    ctx.effects.changed(1);
    ctx.reply.integer(after);
    Ok(())
}

fn incr(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    add(ctx, args.at(1), 1)
}

fn decr(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    add(ctx, args.at(1), -1)
}

fn incrby(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    add(ctx, args.at(1), args.integer(2)?)
}

fn decrby(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let by = args.integer(2)?.checked_neg();
    add(ctx, args.at(1), by.ok_or_else(|| CommandError::text("ERR decrement would overflow"))?)
}

fn incrbyfloat(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let key = args.at(1);
    let at = ctx.at();
    let before = ctx.keyspace.read_str(at, key)?.unwrap_or(b"0");
    let after = sum(before, args.at(2)).map_err(|error| match error {
        NoSum::First | NoSum::Second => CommandError::NotFloat,
        NoSum::NotFinite => CommandError::text("ERR increment would produce NaN or Infinity"),
    })?;
    ctx.keyspace.set_str(at, key, after.as_bytes(), Expire::Keep);
    ctx.effects.changed(1);
    // As a value, so that a copy does not depend on how it adds.
    ctx.effects.replicate(&[b"SET", key, after.as_bytes(), b"KEEPTTL"]);
    ctx.reply.bulk(after.as_bytes());
    Ok(())
}
