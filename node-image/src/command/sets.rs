//! Sets.

use super::data::{counted, positive};
use super::sample;
use super::scan::ScanOptions;
use super::table::data_commands;
use super::{Args, CommandError, CommandResult, Ctx, KeySpec};
use crate::keyspace::value::{Collection, Kind, Set, Text};
use crate::keyspace::{Expire, WrongType};

data_commands! { Set;
    "sadd" -3 [WRITE DENYOOM FAST] KeySpec::FIRST, "1.0.0", sadd, "Adds one or more members to a set. Creates the key if it doesn't exist.";
    "srem" -3 [WRITE FAST] KeySpec::FIRST, "1.0.0", srem, "Removes one or more members from a set. Deletes the set if the last member was removed.";
    "smembers" 2 [READONLY] KeySpec::FIRST, "1.0.0", smembers, "Returns all members of a set.";
    "sismember" 3 [READONLY FAST] KeySpec::FIRST, "1.0.0", sismember, "Determines whether a member belongs to a set.";
    "smismember" -3 [READONLY FAST] KeySpec::FIRST, "6.2.0", smismember, "Determines whether multiple members belong to a set.";
    "scard" 2 [READONLY FAST] KeySpec::FIRST, "1.0.0", scard, "Returns the number of members in a set.";
    "spop" -2 [WRITE FAST] KeySpec::FIRST, "1.0.0", spop, "Returns one or more random members from a set after removing them. Deletes the set if the last member was popped.";
    "srandmember" -2 [READONLY] KeySpec::FIRST, "1.0.0", srandmember, "Get one or multiple random members from a set";
    "smove" 4 [WRITE FAST] KeySpec::TWO, "1.0.0", smove, "Moves a member from one set to another.";
    "sinter" -2 [READONLY] KeySpec::ALL, "1.0.0", sinter, "Returns the intersect of multiple sets.";
    "sinterstore" -3 [WRITE DENYOOM] KeySpec::ALL, "1.0.0", sinterstore, "Stores the intersect of multiple sets in a key.";
    "sintercard" -3 [READONLY MOVABLE_KEYS] KeySpec::Numbered { count_at: 1, also: None }, "7.0.0", sintercard, "Returns the number of members of the intersect of multiple sets.";
    "sunion" -2 [READONLY] KeySpec::ALL, "1.0.0", sunion, "Returns the union of multiple sets.";
    "sunionstore" -3 [WRITE DENYOOM] KeySpec::ALL, "1.0.0", sunionstore, "Stores the union of multiple sets in a key.";
    "sdiff" -2 [READONLY] KeySpec::ALL, "1.0.0", sdiff, "Returns the difference of multiple sets.";
    "sdiffstore" -3 [WRITE DENYOOM] KeySpec::ALL, "1.0.0", sdiffstore, "Stores the difference of multiple sets in a key.";
    "sscan" -3 [READONLY] KeySpec::FIRST, "2.8.0", sscan, "Iterates over members of a set.";
}

fn sadd(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let added = ctx.keyspace.upsert(ctx.at(), args.at(1), |set: &mut Set| {
        args.from(2).iter().filter(|member| set.insert(member)).count()
    })?;
    ctx.effects.changed(added);
    ctx.reply.count(added);
    Ok(())
}

fn srem(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let removed = ctx.keyspace.modify(ctx.at(), args.at(1), |set: &mut Set| {
        args.from(2).iter().filter(|member| set.remove(member)).count()
    })?;
    let removed = removed.unwrap_or(0);
    ctx.effects.changed(removed);
    ctx.reply.count(removed);
    Ok(())
}

fn smembers(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let set = ctx.keyspace.read::<Set>(ctx.at(), args.at(1))?;
    ctx.reply.set(set.map_or(0, Set::len));
    set.into_iter().flat_map(Set::iter).for_each(|member| ctx.reply.bulk(&member));
    Ok(())
}

fn sismember(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let set = ctx.keyspace.read::<Set>(ctx.at(), args.at(1))?;
    ctx.reply.one_or_zero(set.is_some_and(|set| set.contains(args.at(2))));
    Ok(())
}

fn smismember(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let set = ctx.keyspace.read::<Set>(ctx.at(), args.at(1))?;
    ctx.reply.array(args.len() - 2);
    for member in args.from(2) {
        ctx.reply.one_or_zero(set.is_some_and(|set| set.contains(member)));
    }
    Ok(())
}

fn scard(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let len = ctx.keyspace.read::<Set>(ctx.at(), args.at(1))?.map_or(0, Set::len);
    ctx.reply.count(len);
    Ok(())
}

/// Takes `count` members by chance, and replicates which ones they are.
fn take(ctx: &mut Ctx<'_>, key: &[u8], count: usize) -> Result<Vec<Box<[u8]>>, CommandError> {
    let at = ctx.at();
    let random = &mut *ctx.random;
    let members = ctx.keyspace.modify(at, key, |set: &mut Set| {
        let count = count.min(set.len());
        (0..count).map_while(|_| set.take_nth(random.usize(..set.len()))).collect::<Vec<_>>()
    })?;
    let members = members.unwrap_or_default();
    if members.is_empty() {
        return Ok(members);
    }
    ctx.effects.changed(members.len());
    if ctx.keyspace.peek(at, key).is_none() {
        ctx.effects.replicate(&[b"DEL", key]);
    } else {
        let mut argv: Vec<&[u8]> = vec![b"SREM", key];
        argv.extend(members.iter().map(|member| &**member));
        ctx.effects.replicate(&argv);
    }
    Ok(members)
}

fn spop(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    if args.len() > 3 {
        return Err(CommandError::Syntax);
    }
    if args.len() == 2 {
        let members = take(ctx, args.at(1), 1)?;
        ctx.reply.bulk_or_nil(members.first().map(|member| &**member));
        return Ok(());
    }
    let count = positive(args, 2)?;
    let members = take(ctx, args.at(1), count)?;
    ctx.reply.set(members.len());
    members.iter().for_each(|member| ctx.reply.bulk(member));
    Ok(())
}

fn srandmember(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    if args.len() > 3 {
        return Err(CommandError::Syntax);
    }
    if args.len() == 2 {
        let set = ctx.keyspace.read::<Set>(ctx.at(), args.at(1))?;
        let member = set.and_then(|set| set.nth(ctx.random.usize(..set.len().max(1))));
        ctx.reply.bulk_or_nil(member.as_deref());
        return Ok(());
    }
    let count = sample::count(args, 2)?;
    let set = ctx.keyspace.read::<Set>(ctx.at(), args.at(1))?;
    let picked = sample::pick(ctx.random, set.map_or(0, Set::len), count);
    ctx.reply.array(picked.len());
    let members = set.map(|set| set.pick(&picked)).unwrap_or_default();
    members.iter().for_each(|member| ctx.reply.bulk(member));
    Ok(())
}

fn smove(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let (from, to, member) = (args.at(1), args.at(2), args.at(3));
    let at = ctx.at();
    ctx.keyspace.expire_if_due(at, to);
    let found = match ctx.keyspace.find(at, from) {
        Some(entry) => Set::of_ref(entry.value).ok_or(WrongType)?.contains(member),
        None => {
            ctx.reply.integer(0);
            return Ok(());
        }
    };
    ctx.keyspace.peek_as::<Set>(at, to)?;
    if found && from != to {
        ctx.keyspace.modify(at, from, |set: &mut Set| set.remove(member))?;
        ctx.keyspace.upsert(at, to, |set: &mut Set| set.insert(member))?;
        ctx.effects.changed(1);
    }
    ctx.reply.one_or_zero(found);
    Ok(())
}

/// The sets at `keys`, in order; nothing for a key that is not there.
fn sets<'c>(ctx: &'c mut Ctx<'_>, keys: &[&[u8]]) -> Result<Vec<Option<&'c Set>>, CommandError> {
    let at = ctx.at();
    keys.iter().for_each(|key| ctx.keyspace.expire_if_due(at, key));
    let keyspace = &*ctx.keyspace;
    keys.iter().map(|key| Ok(keyspace.peek_as::<Set>(at, key)?)).collect()
}

/// A way to make one set of several.
type Combine = fn(&[Option<&Set>]) -> Vec<Box<[u8]>>;

/// The members that are in every set, at most `limit`. The smallest set is walked.
fn common<'a>(sets: &[Option<&'a Set>], limit: usize) -> Vec<Text<'a>> {
    let Some(mut sets) = sets.iter().copied().collect::<Option<Vec<&Set>>>() else { return Vec::new() };
    sets.sort_by_key(|set| set.len());
    let Some((smallest, others)) = sets.split_first() else { return Vec::new() };
    let members = smallest.iter().filter(|member| others.iter().all(|set| set.contains(member)));
    members.take(limit).collect()
}

fn intersection(sets: &[Option<&Set>]) -> Vec<Box<[u8]>> {
    common(sets, usize::MAX).into_iter().map(Into::into).collect()
}

fn union(sets: &[Option<&Set>]) -> Set {
    /// From so many members on a copy is quicker than to add them one by one.
    const COPIED: usize = 1000;
    let largest =
        sets.iter().flatten().copied().filter(|set| set.len() >= COPIED).max_by_key(|set| set.len());
    let mut union = largest.cloned().unwrap_or_default();
    let others =
        sets.iter().flatten().filter(|set| largest.is_none_or(|largest| !std::ptr::eq(largest, **set)));
    others.flat_map(|set| set.iter()).for_each(|member| _ = union.insert(&member));
    union
}

fn difference(sets: &[Option<&Set>]) -> Vec<Box<[u8]>> {
    let Some((Some(first), others)) = sets.split_first() else { return Vec::new() };
    let kept = first.iter().filter(|member| !others.iter().flatten().any(|set| set.contains(member)));
    kept.map(Into::into).collect()
}

fn combined(ctx: &mut Ctx<'_>, args: Args<'_>, combine: Combine) -> CommandResult {
    let members = combine(&sets(ctx, args.from(1))?);
    ctx.reply.set(members.len());
    members.iter().for_each(|member| ctx.reply.bulk(member));
    Ok(())
}

/// Stores what is made of sets.
fn store(ctx: &mut Ctx<'_>, args: Args<'_>, combine: fn(&[Option<&Set>]) -> Set) -> CommandResult {
    let set = combine(&sets(ctx, args.from(2))?);
    let (at, key) = (ctx.at(), args.at(1));
    ctx.reply.count(set.len());
    if set.is_empty() {
        let removed = ctx.keyspace.remove(at, key);
        ctx.effects.changed(usize::from(removed));
        return Ok(());
    }
    ctx.keyspace.insert(at, key, set.into_value(), Expire::Never);
    ctx.effects.changed(1);
    Ok(())
}

fn collect(members: Vec<Box<[u8]>>) -> Set {
    let mut set = Set::default();
    members.iter().for_each(|member| _ = set.insert(member));
    set
}

fn sinter(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    combined(ctx, args, intersection)
}

fn sunion(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    combined(ctx, args, |sets| union(sets).iter().map(Into::into).collect())
}

fn sdiff(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    combined(ctx, args, difference)
}

fn sinterstore(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    store(ctx, args, |sets| collect(intersection(sets)))
}

fn sunionstore(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    store(ctx, args, union)
}

fn sdiffstore(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    store(ctx, args, |sets| collect(difference(sets)))
}

fn sintercard(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let count = counted(args, 1, "numkeys should be greater than 0")?;
    let too_many = || CommandError::text("ERR Number of keys can't be greater than number of args");
    let keys = args.from(2).get(..count).ok_or_else(too_many)?;
    let mut limit = usize::MAX;
    let mut index = 2 + count;
    while index < args.len() {
        if !args.is(index, "LIMIT") || index + 1 >= args.len() {
            return Err(CommandError::Syntax);
        }
        let negative = || CommandError::text("ERR LIMIT can't be negative");
        limit = usize::try_from(args.integer(index + 1).map_err(|_| negative())?).map_err(|_| negative())?;
        limit = if limit == 0 { usize::MAX } else { limit };
        index += 2;
    }
    let len = common(&sets(ctx, keys)?, limit).len();
    ctx.reply.count(len);
    Ok(())
}

fn sscan(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let cursor = ScanOptions::cursor(args, 2)?;
    let Some(set) = ctx.keyspace.read::<Set>(ctx.at(), args.at(1))? else {
        ctx.reply_scan::<&[u8]>(0, &[]);
        return Ok(());
    };
    let options = ScanOptions::parse(args, 2, false)?;
    let mut members: Vec<Box<[u8]>> = Vec::new();
    let next = set.scan(cursor, options.count, |member| {
        if options.shows(member) {
            members.push(member.into());
        }
    });
    ctx.reply_scan(next, &members);
    Ok(())
}
