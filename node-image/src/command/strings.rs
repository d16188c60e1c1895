//! Strings: reading, setting, parts of them.

use super::data::{invalid_expire, resolve_range};
use super::table::data_commands;
use super::{Args, CommandError, CommandResult, Ctx, KeySpec};
use crate::keyspace::{Expire, ExpiryMode};

const PAIRS: KeySpec = KeySpec::Range { first: 1, last: -1, step: 2 };

data_commands! { String;
    "get" 2 [READONLY FAST] KeySpec::FIRST, "1.0.0", get, "Returns the string value of a key.";
    "set" -3 [WRITE DENYOOM] KeySpec::FIRST, "1.0.0", set, "Sets the string value of a key, ignoring its type. The key is created if it doesn't exist.";
    "setnx" 3 [WRITE DENYOOM FAST] KeySpec::FIRST, "1.0.0", setnx, "Sets the string value of a key only when the key doesn't exist.";
    "setex" 4 [WRITE DENYOOM] KeySpec::FIRST, "2.0.0", setex, "Sets the string value and expiration time of a key. Creates the key if it doesn't exist.";
    "psetex" 4 [WRITE DENYOOM] KeySpec::FIRST, "2.6.0", psetex, "Sets both string value and expiration time in milliseconds of a key. The key is created if it doesn't exist.";
    "getset" 3 [WRITE DENYOOM FAST] KeySpec::FIRST, "1.0.0", getset, "Returns the previous string value of a key after setting it to a new value.";
    "getdel" 2 [WRITE FAST] KeySpec::FIRST, "6.2.0", getdel, "Returns the string value of a key after deleting the key.";
    "getex" -2 [WRITE FAST] KeySpec::FIRST, "6.2.0", getex, "Returns the string value of a key after setting its expiration time.";
    "mget" -2 [READONLY FAST] KeySpec::ALL, "1.0.0", mget, "Atomically returns the string values of one or more keys.";
    "mset" -3 [WRITE DENYOOM] PAIRS, "1.0.1", mset, "Atomically creates or modifies the string values of one or more keys.";
    "msetnx" -3 [WRITE DENYOOM] PAIRS, "1.0.1", msetnx, "Atomically modifies the string values of one or more keys only when all keys don't exist.";
    "append" 3 [WRITE DENYOOM FAST] KeySpec::FIRST, "2.0.0", append, "Appends a string to the value of a key. Creates the key if it doesn't exist.";
    "strlen" 2 [READONLY FAST] KeySpec::FIRST, "2.2.0", strlen, "Returns the length of a string value.";
    "getrange" 4 [READONLY] KeySpec::FIRST, "2.4.0", getrange, "Returns a substring of the string stored at a key.";
    "substr" 4 [READONLY] KeySpec::FIRST, "1.0.0", getrange, "Returns a substring from a string value.";
    "setrange" 4 [WRITE DENYOOM] KeySpec::FIRST, "2.2.0", setrange, "Overwrites a part of a string value with another by an offset. Creates the key if it doesn't exist.";
}

/// What SET and GETEX do about the time to live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ttl {
    Unchanged,
    Keep,
    Persist,
    /// EX, PX, EXAT or PXAT (the option's index; its number follows it).
    Until(usize),
}

fn reply_string(ctx: &mut Ctx<'_>, key: &[u8]) -> Result<bool, CommandError> {
    let at = ctx.at();
    let value = ctx.keyspace.read_str(at, key)?;
    ctx.reply.bulk_or_nil(value);
    Ok(value.is_some())
}

fn get(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    reply_string(ctx, args.at(1)).map(drop)
}

fn mget(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let at = ctx.at();
    ctx.reply.array(args.len() - 1);
    for key in args.from(1) {
        ctx.reply.bulk_or_nil(ctx.keyspace.read_str(at, key).unwrap_or_default());
    }
    Ok(())
}

fn strlen(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let at = ctx.at();
    let len = ctx.keyspace.read_str(at, args.at(1))?.map_or(0, <[u8]>::len);
    ctx.reply.count(len);
    Ok(())
}

/// The moment that the number at `index` names: seconds or milliseconds, from now on or since 1970.
fn moment(args: Args<'_>, index: usize, seconds: bool, base: u64) -> Result<u64, CommandError> {
    let number = args.integer(index)?;
    let scale = if seconds { 1000 } else { 1 };
    let base = i64::try_from(base).unwrap_or(i64::MAX);
    let time = number.checked_mul(scale).and_then(|time| time.checked_add(base)).filter(|_| number > 0);
    time.and_then(|time| u64::try_from(time).ok()).ok_or_else(|| invalid_expire(args))
}

fn moment_of_option(ctx: &Ctx<'_>, args: Args<'_>, option: usize) -> Result<u64, CommandError> {
    let absolute = args.is(option, "EXAT") || args.is(option, "PXAT");
    let seconds = args.is(option, "EX") || args.is(option, "EXAT");
    moment(args, option + 1, seconds, if absolute { 0 } else { ctx.now })
}

fn is_moment_option(args: Args<'_>, index: usize) -> bool {
    ["EX", "PX", "EXAT", "PXAT"].iter().any(|word| args.is(index, word))
}

#[derive(Debug)]
struct SetOptions {
    nx: bool,
    xx: bool,
    get: bool,
    ttl: Ttl,
}

impl SetOptions {
    fn parse(args: Args<'_>) -> Result<Self, CommandError> {
        let mut options = Self { nx: false, xx: false, get: false, ttl: Ttl::Unchanged };
        let mut index = 3;
        while index < args.len() {
            if args.is(index, "NX") && !options.xx {
                options.nx = true;
            } else if args.is(index, "XX") && !options.nx {
                options.xx = true;
            } else if args.is(index, "GET") {
                options.get = true;
            } else if args.is(index, "KEEPTTL") && matches!(options.ttl, Ttl::Unchanged | Ttl::Keep) {
                options.ttl = Ttl::Keep;
            } else if let Some(ttl) = until(args, index, options.ttl) {
                options.ttl = ttl;
                index += 1;
            } else {
                return Err(CommandError::Syntax);
            }
            index += 1;
        }
        Ok(options)
    }
}

/// The option at `index` if it sets a time, has its number, and goes with what was said before: the same option may be
/// repeated, another one not.
fn until(args: Args<'_>, index: usize, before: Ttl) -> Option<Ttl> {
    let agrees = match before {
        Ttl::Unchanged => true,
        Ttl::Until(other) => args.at(other).eq_ignore_ascii_case(args.at(index)),
        Ttl::Keep | Ttl::Persist => false,
    };
    (is_moment_option(args, index) && agrees && index + 1 < args.len()).then_some(Ttl::Until(index))
}

fn set(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let (key, value) = (args.at(1), args.at(2));
    let options = SetOptions::parse(args)?;
    let expire = match options.ttl {
        Ttl::Until(option) => Expire::At(moment_of_option(ctx, args, option)?),
        Ttl::Keep => Expire::Keep,
        Ttl::Unchanged | Ttl::Persist => Expire::Never,
    };
    ctx.check_length(value.len())?;
    if options.get {
        reply_string(ctx, key)?;
    }
    let at = ctx.at();
    let found = (options.nx || options.xx) && ctx.keyspace.find(at, key).is_some();
    if (options.nx && found) || (options.xx && !found) {
        if !options.get {
            ctx.reply.nil();
        }
        return Ok(());
    }
    if !options.get {
        ctx.reply.ok();
    }
    store(ctx, key, value, expire, args.len() > 3);
    Ok(())
}

/// Sets a string, and replicates it as a plain SET if the command is something else.
fn store(ctx: &mut Ctx<'_>, key: &[u8], value: &[u8], expire: Expire, rewrite: bool) {
    ctx.keyspace.set_str(ctx.at(), key, value, expire);
    ctx.effects.changed(1);
    if !rewrite {
        return;
    }
    match expire {
        Expire::Never => ctx.effects.replicate(&[b"SET", key, value]),
        Expire::Keep => ctx.effects.replicate(&[b"SET", key, value, b"KEEPTTL"]),
        Expire::At(time) => {
            let mut digits = itoa::Buffer::new();
            ctx.effects.replicate(&[b"SET", key, value, b"PXAT", digits.format(time).as_bytes()]);
        }
    }
}

fn setnx(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let absent = ctx.keyspace.find(ctx.at(), args.at(1)).is_none();
    if absent {
        ctx.check_length(args.at(2).len())?;
        store(ctx, args.at(1), args.at(2), Expire::Never, true);
    }
    ctx.reply.one_or_zero(absent);
    Ok(())
}

fn set_for(ctx: &mut Ctx<'_>, args: Args<'_>, seconds: bool) -> CommandResult {
    let time = moment(args, 2, seconds, ctx.now)?;
    ctx.check_length(args.at(3).len())?;
    store(ctx, args.at(1), args.at(3), Expire::At(time), true);
    ctx.reply.ok();
    Ok(())
}

fn setex(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    set_for(ctx, args, true)
}

fn psetex(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    set_for(ctx, args, false)
}

fn getset(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    ctx.check_length(args.at(2).len())?;
    reply_string(ctx, args.at(1))?;
    store(ctx, args.at(1), args.at(2), Expire::Never, true);
    Ok(())
}

fn delete(ctx: &mut Ctx<'_>, key: &[u8]) {
    if ctx.keyspace.remove(ctx.at(), key) {
        ctx.effects.changed(1);
        ctx.effects.replicate(&[b"DEL", key]);
    }
}

fn getdel(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    if reply_string(ctx, args.at(1))? {
        delete(ctx, args.at(1));
    }
    Ok(())
}

fn getex_option(args: Args<'_>) -> Result<Ttl, CommandError> {
    let mut ttl = Ttl::Unchanged;
    let mut index = 2;
    while index < args.len() {
        if args.is(index, "PERSIST") && matches!(ttl, Ttl::Unchanged | Ttl::Persist) {
            ttl = Ttl::Persist;
        } else if let Some(until) = until(args, index, ttl) {
            ttl = until;
            index += 1;
        } else {
            return Err(CommandError::Syntax);
        }
        index += 1;
    }
    Ok(ttl)
}

fn getex(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let key = args.at(1);
    let ttl = getex_option(args)?;
    let at = ctx.at();
    let exists = ctx.keyspace.read_str(at, key)?.is_some();
    let time = match ttl {
        Ttl::Until(option) if exists => Some(moment_of_option(ctx, args, option)?),
        _ => None,
    };
    reply_string(ctx, key)?;
    match (ttl, time) {
        (_, Some(time)) if time <= at.now && ctx.keyspace.expiry_mode() != ExpiryMode::Ignore => {
            delete(ctx, key)
        }
        (_, Some(time)) => {
            ctx.keyspace.set_expire(at, key, time);
            ctx.effects.changed(1);
            ctx.effects.replicate(&[b"PEXPIREAT", key, itoa::Buffer::new().format(time).as_bytes()]);
        }
        (Ttl::Persist, None) if ctx.keyspace.find(at, key).is_some_and(|entry| entry.expire_at != 0) => {
            ctx.keyspace.set_expire(at, key, 0);
            ctx.effects.changed(1);
            ctx.effects.replicate(&[b"PERSIST", key]);
        }
        _ => {}
    }
    Ok(())
}

type Pair<'a> = (&'a [u8], &'a [u8]);

/// The keys and values of MSET and MSETNX.
fn pairs<'a>(ctx: &Ctx<'_>, args: Args<'a>) -> Result<Vec<Pair<'a>>, CommandError> {
    if args.len().is_multiple_of(2) {
        let name = String::from_utf8_lossy(args.at(0)).to_ascii_lowercase();
        return Err(CommandError::Arity(name));
    }
    let pairs = args.from(1).chunks_exact(2);
    let pairs: Vec<_> = pairs.filter_map(|pair| Some((*pair.first()?, *pair.get(1)?))).collect();
    pairs.iter().try_for_each(|(_, value)| ctx.check_length(value.len()))?;
    Ok(pairs)
}

fn mset(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    for (key, value) in pairs(ctx, args)? {
        store(ctx, key, value, Expire::Never, false);
    }
    ctx.reply.ok();
    Ok(())
}

fn msetnx(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let pairs = pairs(ctx, args)?;
    let at = ctx.at();
    let free = pairs.iter().all(|(key, _)| ctx.keyspace.find(at, key).is_none());
    if free {
        for (key, value) in pairs {
            store(ctx, key, value, Expire::Never, false);
        }
    }
    ctx.reply.one_or_zero(free);
    Ok(())
}

fn append(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let (key, tail) = (args.at(1), args.at(2));
    let at = ctx.at();
    let len = ctx.keyspace.read_str(at, key)?.map(<[u8]>::len);
    let total = len.unwrap_or(0) + tail.len();
    ctx.check_length(total)?;
    if len.is_some() {
        ctx.keyspace.update_str(at, key, |value| value.append(tail))?;
    } else {
        ctx.keyspace.set_str(at, key, tail, Expire::Never);
    }
    ctx.effects.changed(1);
    ctx.reply.count(total);
    Ok(())
}

fn getrange(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let (start, end) = (args.integer(2)?, args.integer(3)?);
    let at = ctx.at();
    let bytes = ctx.keyspace.read_str(at, args.at(1))?.unwrap_or_default();
    let reversed = start < 0 && end < 0 && start > end;
    // An end before the first byte counts as the first byte, as in Redis.
    let end = if end < 0 && end.unsigned_abs() > bytes.len() as u64 { 0 } else { end };
    let part = bytes.get(resolve_range(start, end, bytes.len())).unwrap_or_default();
    ctx.reply.bulk(if reversed { b"" } else { part });
    Ok(())
}

fn setrange(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let (key, part) = (args.at(1), args.at(3));
    let offset =
        usize::try_from(args.integer(2)?).map_err(|_| CommandError::text("ERR offset is out of range"))?;
    let at = ctx.at();
    let len = ctx.keyspace.read_str(at, key)?.map_or(0, <[u8]>::len);
    if part.is_empty() {
        ctx.reply.count(len);
        return Ok(());
    }
    ctx.check_length(offset.saturating_add(part.len()))?;
    let len = ctx.keyspace.update_str(at, key, |value| {
        value.overwrite(offset, part);
        value.len()
    })?;
    ctx.effects.changed(1);
    ctx.reply.count(len);
    Ok(())
}
