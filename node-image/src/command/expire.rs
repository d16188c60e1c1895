//! Times to live. They are replicated as moments, never as spans.

use super::data::invalid_expire;
use super::table::data_commands;
use super::{Args, CommandError, CommandResult, Ctx, KeySpec};
use crate::keyspace::ExpiryMode;

data_commands! { Generic;
    "expire" -3 [WRITE FAST] KeySpec::FIRST, "1.0.0", expire, "Sets the expiration time of a key in seconds.";
    "pexpire" -3 [WRITE FAST] KeySpec::FIRST, "2.6.0", pexpire, "Sets the expiration time of a key in milliseconds.";
    "expireat" -3 [WRITE FAST] KeySpec::FIRST, "1.2.0", expireat, "Sets the expiration time of a key to a Unix timestamp.";
    "pexpireat" -3 [WRITE FAST] KeySpec::FIRST, "2.6.0", pexpireat, "Sets the expiration time of a key to a Unix milliseconds timestamp.";
    "persist" 2 [WRITE FAST] KeySpec::FIRST, "2.2.0", persist, "Removes the expiration time of a key.";
    "ttl" 2 [READONLY FAST] KeySpec::FIRST, "1.0.0", ttl, "Returns the expiration time in seconds of a key.";
    "pttl" 2 [READONLY FAST] KeySpec::FIRST, "2.6.0", pttl, "Returns the expiration time in milliseconds of a key.";
    "expiretime" 2 [READONLY FAST] KeySpec::FIRST, "7.0.0", expiretime, "Returns the expiration time of a key as a Unix timestamp.";
    "pexpiretime" 2 [READONLY FAST] KeySpec::FIRST, "7.0.0", pexpiretime, "Returns the expiration time of a key as a Unix milliseconds timestamp.";
}

/// When EXPIRE and its kin have no effect.
#[derive(Debug, Default)]
struct Conditions {
    nx: bool,
    xx: bool,
    gt: bool,
    lt: bool,
}

impl Conditions {
    fn parse(args: Args<'_>) -> Result<Self, CommandError> {
        let mut conditions = Self::default();
        for index in 3..args.len() {
            let flag = if args.is(index, "NX") {
                &mut conditions.nx
            } else if args.is(index, "XX") {
                &mut conditions.xx
            } else if args.is(index, "GT") {
                &mut conditions.gt
            } else if args.is(index, "LT") {
                &mut conditions.lt
            } else {
                let option = String::from_utf8_lossy(args.at(index));
                return Err(CommandError::text(format!("ERR Unsupported option {option}")));
            };
            *flag = true;
        }
        let Self { nx, xx, gt, lt } = conditions;
        if nx && (xx || gt || lt) {
            let text = "ERR NX and XX, GT or LT options at the same time are not compatible";
            return Err(CommandError::text(text));
        }
        if gt && lt {
            return Err(CommandError::text("ERR GT and LT options at the same time are not compatible"));
        }
        Ok(conditions)
    }

    /// Whether a key that expires at `current` (0: never) is to expire at `time`.
    fn allow(&self, current: i64, time: i64) -> bool {
        !(self.nx && current != 0
            || self.xx && current == 0
            || self.gt && (current == 0 || time <= current)
            || self.lt && current != 0 && time >= current)
    }
}

fn set_expiry(ctx: &mut Ctx<'_>, args: Args<'_>, seconds: bool, base: u64) -> CommandResult {
    let key = args.at(1);
    let conditions = Conditions::parse(args)?;
    let scale = if seconds { 1000 } else { 1 };
    let base = i64::try_from(base).unwrap_or(i64::MAX);
    let time = args.integer(2)?.checked_mul(scale).and_then(|time| time.checked_add(base));
    let time = time.ok_or_else(|| invalid_expire(args))?;
    let at = ctx.at();
    let current = ctx.keyspace.find(at, key).map(|entry| i64::try_from(entry.expire_at).unwrap_or(i64::MAX));
    let changes = current.is_some_and(|current| conditions.allow(current, time));
    ctx.reply.one_or_zero(changes);
    if !changes {
        return Ok(());
    }
    ctx.effects.changed(1);
    // A time before 1970 is as past as any.
    let time = u64::try_from(time).unwrap_or(0).max(1);
    if time <= ctx.now && ctx.keyspace.expiry_mode() != ExpiryMode::Ignore {
        ctx.keyspace.delete(at, key, ctx.keyspace.lazily().expire);
        ctx.effects.replicate(&[b"DEL", key]);
    } else {
        ctx.keyspace.set_expire(at, key, time);
        ctx.effects.replicate(&[b"PEXPIREAT", key, itoa::Buffer::new().format(time).as_bytes()]);
    }
    Ok(())
}

fn expire(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    set_expiry(ctx, args, true, ctx.now)
}

fn pexpire(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    set_expiry(ctx, args, false, ctx.now)
}

fn expireat(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    set_expiry(ctx, args, true, 0)
}

fn pexpireat(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    set_expiry(ctx, args, false, 0)
}

fn persist(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let at = ctx.at();
    let expires = ctx.keyspace.find(at, args.at(1)).is_some_and(|entry| entry.expire_at != 0);
    if expires {
        ctx.keyspace.set_expire(at, args.at(1), 0);
        ctx.effects.changed(1);
    }
    ctx.reply.one_or_zero(expires);
    Ok(())
}

/// Replies -2 for no key, -1 for no expiry, else what `show` makes of the expiry and of now.
fn reply_expiry(ctx: &mut Ctx<'_>, key: &[u8], show: fn(u64, u64) -> u64) -> CommandResult {
    let at = ctx.at();
    let number = match ctx.keyspace.find(at, key).map(|entry| entry.expire_at) {
        None => -2,
        Some(0) => -1,
        Some(time) => i64::try_from(show(time, at.now)).unwrap_or(i64::MAX),
    };
    ctx.reply.integer(number);
    Ok(())
}

fn ttl(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    reply_expiry(ctx, args.at(1), |time, now| time.saturating_sub(now).saturating_add(500) / 1000)
}

fn pttl(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    reply_expiry(ctx, args.at(1), u64::saturating_sub)
}

fn expiretime(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    reply_expiry(ctx, args.at(1), |time, _| time.saturating_add(500) / 1000)
}

fn pexpiretime(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    reply_expiry(ctx, args.at(1), |time, _| time)
}
