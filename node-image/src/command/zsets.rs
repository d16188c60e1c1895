//! Sorted sets: members and scores, pops, random members.

use super::data::{counted, numbered_keys, pop_count, positive};
use super::sample;
use super::scan::ScanOptions;
use super::table::data_commands;
use super::zranges::Members;
use super::{Args, CommandError, CommandResult, Ctx, KeySpec};
use crate::keyspace::value::ZSet;
use crate::resp::{Protocol, format_float};

data_commands! { SortedSet;
    "zadd" -4 [WRITE DENYOOM FAST] KeySpec::FIRST, "1.2.0", zadd, "Adds one or more members to a sorted set, or updates their scores. Creates the key if it doesn't exist.";
    "zincrby" 4 [WRITE DENYOOM FAST] KeySpec::FIRST, "1.2.0", zincrby, "Increments the score of a member in a sorted set.";
    "zrem" -3 [WRITE FAST] KeySpec::FIRST, "1.2.0", zrem, "Removes one or more members from a sorted set. Deletes the sorted set if all members were removed.";
    "zcard" 2 [READONLY FAST] KeySpec::FIRST, "1.2.0", zcard, "Returns the number of members in a sorted set.";
    "zscore" 3 [READONLY FAST] KeySpec::FIRST, "1.2.0", zscore, "Returns the score of a member in a sorted set.";
    "zmscore" -3 [READONLY FAST] KeySpec::FIRST, "6.2.0", zmscore, "Returns the score of one or more members in a sorted set.";
    "zrank" -3 [READONLY FAST] KeySpec::FIRST, "2.0.0", zrank, "Returns the index of a member in a sorted set ordered by ascending scores.";
    "zrevrank" -3 [READONLY FAST] KeySpec::FIRST, "2.0.0", zrevrank, "Returns the index of a member in a sorted set ordered by descending scores.";
    "zpopmin" -2 [WRITE FAST] KeySpec::FIRST, "5.0.0", zpopmin, "Returns the lowest-scoring members from a sorted set after removing them. Deletes the sorted set if the last member was popped.";
    "zpopmax" -2 [WRITE FAST] KeySpec::FIRST, "5.0.0", zpopmax, "Returns the highest-scoring members from a sorted set after removing them. Deletes the sorted set if the last member was popped.";
    "zmpop" -4 [WRITE MOVABLE_KEYS] KeySpec::Numbered { count_at: 1, also: None }, "7.0.0", zmpop, "Returns the highest- or lowest-scoring members from one or more sorted sets after removing them. Deletes the sorted set if the last member was popped.";
    "zrandmember" -2 [READONLY] KeySpec::FIRST, "6.2.0", zrandmember, "Returns one or more random members from a sorted set.";
    "zscan" -3 [READONLY] KeySpec::FIRST, "2.8.0", zscan, "Iterates over members and scores of a sorted set.";
}

/// Options of ZADD.
#[derive(Clone, Copy, Debug, Default)]
struct AddOptions {
    nx: bool,
    xx: bool,
    gt: bool,
    lt: bool,
    changed: bool,
    increment: bool,
}

impl AddOptions {
    /// The options, and the index of the first score.
    fn parse(args: Args<'_>) -> Result<(Self, usize), CommandError> {
        let mut options = Self::default();
        let mut index = 2;
        loop {
            let flag = if args.is(index, "NX") {
                &mut options.nx
            } else if args.is(index, "XX") {
                &mut options.xx
            } else if args.is(index, "GT") {
                &mut options.gt
            } else if args.is(index, "LT") {
                &mut options.lt
            } else if args.is(index, "CH") {
                &mut options.changed
            } else if args.is(index, "INCR") {
                &mut options.increment
            } else {
                break;
            };
            *flag = true;
            index += 1;
        }
        options.check(args.len() - index.min(args.len()))?;
        Ok((options, index))
    }

    /// Refuses options that exclude each other, and `left` arguments that are no pairs.
    fn check(self, left: usize) -> Result<(), CommandError> {
        if left == 0 || !left.is_multiple_of(2) {
            return Err(CommandError::Syntax);
        }
        let text = if self.nx && self.xx {
            "ERR XX and NX options at the same time are not compatible"
        } else if (self.nx && (self.gt || self.lt)) || (self.gt && self.lt) {
            "ERR GT, LT, and/or NX options at the same time are not compatible"
        } else if self.increment && left > 2 {
            "ERR INCR option supports a single increment-element pair"
        } else {
            return Ok(());
        };
        Err(CommandError::text(text))
    }

    /// The score that `member` is to have; nothing if the options leave it as it is.
    fn score(self, set: &ZSet, member: &[u8], score: f64) -> Result<Option<f64>, CommandError> {
        if !(self.nx || self.xx || self.gt || self.lt || self.increment) {
            return Ok(Some(score));
        }
        let Some(current) = set.score(member) else { return Ok((!self.xx).then_some(score)) };
        if self.nx {
            return Ok(None);
        }
        let score = if self.increment { current + score } else { score };
        if score.is_nan() {
            return Err(CommandError::text("ERR resulting score is not a number (NaN)"));
        }
        let unwanted = (self.lt && score >= current) || (self.gt && score <= current);
        Ok((!unwanted).then_some(score))
    }
}

/// What ZADD did.
#[derive(Debug, Default)]
struct Added {
    added: usize,
    updated: usize,
    /// The last score that was set.
    score: Option<f64>,
}

fn add(
    ctx: &mut Ctx<'_>,
    key: &[u8],
    options: AddOptions,
    pairs: &[(f64, &[u8])],
) -> Result<Added, CommandError> {
    let done = ctx.keyspace.upsert(ctx.at(), key, |set: &mut ZSet| {
        let mut done = Added::default();
        for (score, member) in pairs {
            let Some(score) = options.score(set, member, *score)? else { continue };
            done.score = Some(score);
            match set.set(member, score) {
                None => done.added += 1,
                Some(before) if before != score => done.updated += 1,
                Some(_) => {}
            }
        }
        Ok::<_, CommandError>(done)
    })??;
    ctx.effects.changed(done.added + done.updated);
    Ok(done)
}

fn zadd(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let (options, first) = AddOptions::parse(args)?;
    let scores = (first..args.len()).step_by(2);
    let pairs: Vec<(f64, &[u8])> = scores
        .map(|index| Ok((args.float(index)?, args.at(index + 1))))
        .collect::<Result<_, CommandError>>()?;
    let done = add(ctx, args.at(1), options, &pairs)?;
    match done.score {
        Some(score) if options.increment => ctx.reply.double(score),
        None if options.increment => ctx.reply.nil(),
        _ => ctx.reply.count(done.added + if options.changed { done.updated } else { 0 }),
    }
    Ok(())
}

fn zincrby(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let (options, first) = AddOptions::parse(args)?;
    let options = AddOptions { increment: true, ..options };
    let done = add(ctx, args.at(1), options, &[(args.float(first)?, args.at(first + 1))])?;
    ctx.reply.double(done.score.unwrap_or_default());
    Ok(())
}

fn zrem(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let removed = ctx.keyspace.modify(ctx.at(), args.at(1), |set: &mut ZSet| {
        args.from(2).iter().filter(|member| set.remove(member).is_some()).count()
    })?;
    let removed = removed.unwrap_or(0);
    ctx.effects.changed(removed);
    ctx.reply.count(removed);
    Ok(())
}

fn zcard(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let len = ctx.keyspace.read::<ZSet>(ctx.at(), args.at(1))?.map_or(0, ZSet::len);
    ctx.reply.count(len);
    Ok(())
}

fn reply_score(ctx: &mut Ctx<'_>, score: Option<f64>) {
    match score {
        Some(score) => ctx.reply.double(score),
        None => ctx.reply.nil(),
    }
}

fn zscore(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let set = ctx.keyspace.read::<ZSet>(ctx.at(), args.at(1))?;
    let score = set.and_then(|set| set.score(args.at(2)));
    reply_score(ctx, score);
    Ok(())
}

fn zmscore(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let set = ctx.keyspace.read::<ZSet>(ctx.at(), args.at(1))?;
    let scores: Vec<_> = args.from(2).iter().map(|member| set.and_then(|set| set.score(member))).collect();
    ctx.reply.array(scores.len());
    scores.into_iter().for_each(|score| reply_score(ctx, score));
    Ok(())
}

fn rank(ctx: &mut Ctx<'_>, args: Args<'_>, reverse: bool) -> CommandResult {
    if args.len() > 4 {
        return Err(CommandError::Arity(String::from_utf8_lossy(args.at(0)).to_ascii_lowercase()));
    }
    let with_score = args.len() == 4;
    if with_score && !args.is(3, "WITHSCORE") {
        return Err(CommandError::Syntax);
    }
    let set = ctx.keyspace.read::<ZSet>(ctx.at(), args.at(1))?;
    let found = set.and_then(|set| {
        let rank = set.rank(args.at(2))?;
        Some((if reverse { set.len() - 1 - rank } else { rank }, set.score(args.at(2))?))
    });
    match found {
        Some((rank, score)) if with_score => {
            ctx.reply.array(2);
            ctx.reply.count(rank);
            ctx.reply.double(score);
        }
        Some((rank, _)) => ctx.reply.count(rank),
        None if with_score => ctx.reply.nil_array(),
        None => ctx.reply.nil(),
    }
    Ok(())
}

fn zrank(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    rank(ctx, args, false)
}

fn zrevrank(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    rank(ctx, args, true)
}

/// Takes up to `count` members from an end; nothing if there is no such key.
fn take(ctx: &mut Ctx<'_>, key: &[u8], max: bool, count: usize) -> Result<Option<Members>, CommandError> {
    let at = ctx.at();
    let Some(set) = ctx.keyspace.read::<ZSet>(at, key)? else { return Ok(None) };
    let len = set.len();
    let count = count.min(len);
    let range = if max { len - count..len } else { 0..count };
    let mut popped: Members = set.range(range).map(|(score, member)| (score, member.into())).collect();
    if max {
        popped.reverse();
    }
    if !popped.is_empty() {
        ctx.keyspace.modify(at, key, |set: &mut ZSet| {
            popped.iter().for_each(|(_, member)| _ = set.remove(member));
        })?;
        ctx.effects.changed(popped.len());
    }
    Ok(Some(popped))
}

fn pop(ctx: &mut Ctx<'_>, args: Args<'_>, max: bool) -> CommandResult {
    if args.len() > 3 {
        return Err(CommandError::Syntax);
    }
    let count = if args.len() == 3 { positive(args, 2)? } else { 1 };
    let popped = take(ctx, args.at(1), max, count)?.unwrap_or_default();
    let paired = args.len() == 3 && ctx.reply.protocol() == Protocol::Resp3;
    reply_pairs(ctx, &popped, paired);
    Ok(())
}

/// Replies members with their scores, as pairs or one after the other.
fn reply_pairs(ctx: &mut Ctx<'_>, popped: &[(f64, Box<[u8]>)], paired: bool) {
    ctx.reply.array(if paired { popped.len() } else { popped.len() * 2 });
    for (score, member) in popped {
        if paired {
            ctx.reply.array(2);
        }
        ctx.reply.bulk(member);
        ctx.reply.double(*score);
    }
}

fn zpopmin(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    pop(ctx, args, false)
}

fn zpopmax(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    pop(ctx, args, true)
}

fn zmpop(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let count = counted(args, 1, "numkeys should be greater than 0")?;
    let (keys, index) = numbered_keys(args, 1, count)?;
    let max = args.is(index, "MAX");
    if !max && !args.is(index, "MIN") {
        return Err(CommandError::Syntax);
    }
    let count = pop_count(args, index + 1)?;
    for key in keys {
        let Some(popped) = take(ctx, key, max, count)? else { continue };
        let command: &[u8] = if max { b"ZPOPMAX" } else { b"ZPOPMIN" };
        ctx.effects.replicate(&[command, key, itoa::Buffer::new().format(popped.len()).as_bytes()]);
        ctx.reply.array(2);
        ctx.reply.bulk(key);
        reply_pairs(ctx, &popped, true);
        return Ok(());
    }
    ctx.reply.nil_array();
    Ok(())
}

fn zrandmember(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    if args.len() == 2 {
        let set = ctx.keyspace.read::<ZSet>(ctx.at(), args.at(1))?;
        let member = set.and_then(|set| set.nth(ctx.random.usize(..set.len().max(1))));
        ctx.reply.bulk_or_nil(member.as_ref().map(|(_, member)| &**member));
        return Ok(());
    }
    let count = sample::count(args, 2)?;
    let with_scores = args.len() == 4 && args.is(3, "WITHSCORES");
    if args.len() > 3 && !with_scores {
        return Err(CommandError::Syntax);
    }
    if with_scores && count > i64::MAX / 2 {
        return Err(CommandError::text("ERR value is out of range"));
    }
    let set = ctx.keyspace.read::<ZSet>(ctx.at(), args.at(1))?;
    let picked = sample::pick(ctx.random, set.map_or(0, ZSet::len), count);
    let paired = with_scores && ctx.reply.protocol() == Protocol::Resp3;
    ctx.reply.array(if with_scores && !paired { picked.len() * 2 } else { picked.len() });
    for (score, member) in set.map(|set| set.pick(&picked)).unwrap_or_default() {
        if paired {
            ctx.reply.array(2);
        }
        ctx.reply.bulk(&member);
        if with_scores {
            ctx.reply.double(score);
        }
    }
    Ok(())
}

fn zscan(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let cursor = ScanOptions::cursor(args, 2)?;
    let Some(set) = ctx.keyspace.read::<ZSet>(ctx.at(), args.at(1))? else {
        ctx.reply_scan::<&[u8]>(0, &[]);
        return Ok(());
    };
    let options = ScanOptions::parse(args, 2, false)?;
    let mut items: Vec<Vec<u8>> = Vec::new();
    let next = set.scan(cursor, options.count, |score, member| {
        if options.shows(member) {
            items.extend([member.to_vec(), format_float(score).into_bytes()]);
        }
    });
    ctx.reply_scan(next, &items);
    Ok(())
}
