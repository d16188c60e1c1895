//! Ranges of sorted sets, by position, by score or by member.

use std::ops::Range;

use super::data::resolve_range;
use super::table::data_commands;
use super::{Args, CommandError, CommandResult, Ctx, KeySpec};
use crate::keyspace::Expire;
use crate::keyspace::value::{Kind, ZSet};
use crate::resp::{Protocol, parse_f64};

data_commands! { SortedSet;
    "zrange" -4 [READONLY] KeySpec::FIRST, "1.2.0", zrange, "Returns members in a sorted set within a range of indexes.";
    "zrangestore" -5 [WRITE DENYOOM] KeySpec::TWO, "6.2.0", zrangestore, "Stores a range of members from sorted set in a key.";
    "zrevrange" -4 [READONLY] KeySpec::FIRST, "1.2.0", zrevrange, "Returns members in a sorted set within a range of indexes in reverse order.";
    "zrangebyscore" -4 [READONLY] KeySpec::FIRST, "1.0.5", zrangebyscore, "Returns members in a sorted set within a range of scores.";
    "zrevrangebyscore" -4 [READONLY] KeySpec::FIRST, "2.2.0", zrevrangebyscore, "Returns members in a sorted set within a range of scores in reverse order.";
    "zrangebylex" -4 [READONLY] KeySpec::FIRST, "2.8.9", zrangebylex, "Returns members in a sorted set within a lexicographical range.";
    "zrevrangebylex" -4 [READONLY] KeySpec::FIRST, "2.8.9", zrevrangebylex, "Returns members in a sorted set within a lexicographical range in reverse order.";
    "zcount" 4 [READONLY FAST] KeySpec::FIRST, "2.0.0", zcount, "Returns the count of members in a sorted set that have scores within a range.";
    "zlexcount" 4 [READONLY FAST] KeySpec::FIRST, "2.8.9", zlexcount, "Returns the number of members in a sorted set within a lexicographical range.";
    "zremrangebyrank" 4 [WRITE] KeySpec::FIRST, "2.0.0", zremrangebyrank, "Removes members in a sorted set within a range of indexes. Deletes the sorted set if all members were removed.";
    "zremrangebyscore" 4 [WRITE] KeySpec::FIRST, "1.2.0", zremrangebyscore, "Removes members in a sorted set within a range of scores. Deletes the sorted set if all members were removed.";
    "zremrangebylex" 4 [WRITE] KeySpec::FIRST, "2.8.9", zremrangebylex, "Removes members in a sorted set within a lexicographical range. Deletes the sorted set if all members were removed.";
}

/// Members with their scores, in the order of a reply.
pub(super) type Members = Vec<(f64, Box<[u8]>)>;

/// What a range is given by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Rank,
    Score,
    Lex,
}

/// A bound of a range of scores.
#[derive(Clone, Copy, Debug)]
struct ScoreBound {
    score: f64,
    exclusive: bool,
}

impl ScoreBound {
    fn parse(text: &[u8]) -> Result<Self, CommandError> {
        let number = text.strip_prefix(b"(");
        // Nothing counts as 0, as in Redis.
        let score = match number.unwrap_or(text) {
            b"" => Some(0.0),
            number => parse_f64(number),
        };
        let score = score.ok_or(CommandError::text("ERR min or max is not a float"))?;
        Ok(Self { score, exclusive: number.is_some() })
    }
}

/// A bound of a range of members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LexBound<'a> {
    Lowest,
    Highest,
    Member { member: &'a [u8], exclusive: bool },
}

impl<'a> LexBound<'a> {
    fn parse(text: &'a [u8]) -> Result<Self, CommandError> {
        match text {
            b"-" => Ok(Self::Lowest),
            b"+" => Ok(Self::Highest),
            [b'(', member @ ..] => Ok(Self::Member { member, exclusive: true }),
            [b'[', member @ ..] => Ok(Self::Member { member, exclusive: false }),
            _ => Err(CommandError::text("ERR min or max not valid string range item")),
        }
    }

    /// How many members lie before the bound; one equal to it does if `equal_before`.
    fn position(self, set: &ZSet, equal_before: bool) -> usize {
        match self {
            Self::Lowest => 0,
            Self::Highest => set.len(),
            Self::Member { member, .. } if equal_before => set.partition_point(|_, other| other <= member),
            Self::Member { member, .. } => set.partition_point(|_, other| other < member),
        }
    }

    fn is_exclusive(self) -> bool {
        matches!(self, Self::Member { exclusive: true, .. })
    }
}

/// Both bounds of a range.
#[derive(Clone, Copy, Debug)]
enum Bounds<'a> {
    Rank(i64, i64),
    Score(ScoreBound, ScoreBound),
    Lex(LexBound<'a>, LexBound<'a>),
}

impl<'a> Bounds<'a> {
    fn parse(by: By, args: Args<'a>, min: usize, max: usize) -> Result<Self, CommandError> {
        Ok(match by {
            By::Rank => Self::Rank(args.integer(min)?, args.integer(max)?),
            By::Score => Self::Score(ScoreBound::parse(args.at(min))?, ScoreBound::parse(args.at(max))?),
            By::Lex => Self::Lex(LexBound::parse(args.at(min))?, LexBound::parse(args.at(max))?),
        })
    }

    /// The positions in `set`, lowest score first. Ranks count from the other end if `reverse`.
    fn positions(self, set: &ZSet, reverse: bool) -> Range<usize> {
        let len = set.len();
        let (start, end) = match self {
            Self::Rank(start, stop) => {
                let range = resolve_range(start, stop, len);
                if reverse { (len - range.end, len - range.start) } else { (range.start, range.end) }
            }
            Self::Score(min, max) => {
                let below = |score: f64, _: &[u8]| score < min.score || (min.exclusive && score == min.score);
                let within =
                    |score: f64, _: &[u8]| score < max.score || (!max.exclusive && score == max.score);
                (set.partition_point(below), set.partition_point(within))
            }
            Self::Lex(min, max) => {
                (min.position(set, min.is_exclusive()), max.position(set, !max.is_exclusive()))
            }
        };
        start..end.max(start)
    }
}

/// A whole request for a range.
#[derive(Debug)]
struct Query<'a> {
    bounds: Bounds<'a>,
    reverse: bool,
    limit: Option<(i64, i64)>,
    with_scores: bool,
}

impl<'a> Query<'a> {
    /// Reads the bounds at `at` and the options after them. What the command's name does not say (`None`), options may.
    fn parse(
        args: Args<'a>,
        at: usize,
        by: Option<By>,
        reverse: Option<bool>,
        store: bool,
    ) -> Result<Self, CommandError> {
        let (mut by, mut reverse) = (by, reverse);
        let mut limit = None;
        let mut with_scores = false;
        let mut index = at + 2;
        while index < args.len() {
            if !store && args.is(index, "WITHSCORES") {
                with_scores = true;
            } else if args.is(index, "LIMIT") && index + 2 < args.len() {
                limit = Some((args.integer(index + 1)?, args.integer(index + 2)?));
                index += 2;
            } else if reverse.is_none() && args.is(index, "REV") {
                reverse = Some(true);
            } else if by.is_none() && args.is(index, "BYLEX") {
                by = Some(By::Lex);
            } else if by.is_none() && args.is(index, "BYSCORE") {
                by = Some(By::Score);
            } else {
                return Err(CommandError::Syntax);
            }
            index += 1;
        }
        let by = by.unwrap_or(By::Rank);
        let reverse = reverse.unwrap_or(false);
        Self::check(by, limit.is_some_and(|(_, count)| count != -1), with_scores)?;
        let (min, max) = if reverse && by != By::Rank { (at + 1, at) } else { (at, at + 1) };
        Ok(Self { bounds: Bounds::parse(by, args, min, max)?, reverse, limit, with_scores })
    }

    fn check(by: By, limited: bool, with_scores: bool) -> Result<(), CommandError> {
        let text = if limited && by == By::Rank {
            "ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX"
        } else if with_scores && by == By::Lex {
            "ERR syntax error, WITHSCORES not supported in combination with BYLEX"
        } else {
            return Ok(());
        };
        Err(CommandError::text(text))
    }

    /// The positions that are asked for, lowest score first.
    fn positions(&self, set: &ZSet) -> Range<usize> {
        let Range { start, end } = self.bounds.positions(set, self.reverse);
        let Some((offset, count)) = self.limit.filter(|_| !matches!(self.bounds, Bounds::Rank(..))) else {
            return start..end;
        };
        // A negative offset shows nothing, a negative count everything.
        let offset = usize::try_from(offset).unwrap_or(usize::MAX).min(end - start);
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(end - start - offset);
        if self.reverse { end - offset - count..end - offset } else { start + offset..start + offset + count }
    }

    /// The members that are asked for, in the order asked for.
    fn run(&self, ctx: &mut Ctx<'_>, key: &[u8]) -> Result<Members, CommandError> {
        let Some(set) = ctx.keyspace.read::<ZSet>(ctx.at(), key)? else { return Ok(Vec::new()) };
        let members = set.range(self.positions(set)).map(|(score, member)| (score, member.into()));
        Ok(if self.reverse { members.rev().collect() } else { members.collect() })
    }
}

/// Replies members, with scores if asked for: as pairs in RESP3, one after the other in RESP2.
pub(super) fn reply_members<T: AsRef<[u8]>>(ctx: &mut Ctx<'_>, members: &[(f64, T)], with_scores: bool) {
    let paired = with_scores && ctx.reply.protocol() == Protocol::Resp3;
    ctx.reply.array(if with_scores && !paired { members.len() * 2 } else { members.len() });
    for (score, member) in members {
        if paired {
            ctx.reply.array(2);
        }
        ctx.reply.bulk(member.as_ref());
        if with_scores {
            ctx.reply.double(*score);
        }
    }
}

/// Stores members at `key` in place of what was there, and replies how many.
pub(super) fn store_members<T: AsRef<[u8]>>(ctx: &mut Ctx<'_>, key: &[u8], members: &[(f64, T)]) {
    let at = ctx.at();
    ctx.reply.count(members.len());
    if members.is_empty() {
        let removed = ctx.keyspace.remove(at, key);
        ctx.effects.changed(usize::from(removed));
        return;
    }
    let mut set = ZSet::default();
    members.iter().for_each(|(score, member)| _ = set.set(member.as_ref(), *score));
    ctx.keyspace.insert(at, key, set.into_value(), Expire::Never);
    ctx.effects.changed(1);
}

fn show(ctx: &mut Ctx<'_>, args: Args<'_>, by: Option<By>, reverse: Option<bool>) -> CommandResult {
    let query = Query::parse(args, 2, by, reverse, false)?;
    let members = query.run(ctx, args.at(1))?;
    reply_members(ctx, &members, query.with_scores);
    Ok(())
}

fn zrange(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    show(ctx, args, None, None)
}

fn zrangestore(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let members = Query::parse(args, 3, None, None, true)?.run(ctx, args.at(2))?;
    store_members(ctx, args.at(1), &members);
    Ok(())
}

fn zrevrange(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    show(ctx, args, Some(By::Rank), Some(true))
}

fn zrangebyscore(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    show(ctx, args, Some(By::Score), Some(false))
}

fn zrevrangebyscore(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    show(ctx, args, Some(By::Score), Some(true))
}

fn zrangebylex(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    show(ctx, args, Some(By::Lex), Some(false))
}

fn zrevrangebylex(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    show(ctx, args, Some(By::Lex), Some(true))
}

fn count(ctx: &mut Ctx<'_>, args: Args<'_>, by: By) -> CommandResult {
    let bounds = Bounds::parse(by, args, 2, 3)?;
    let set = ctx.keyspace.read::<ZSet>(ctx.at(), args.at(1))?;
    ctx.reply.count(set.map_or(0, |set| bounds.positions(set, false).len()));
    Ok(())
}

fn zcount(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    count(ctx, args, By::Score)
}

fn zlexcount(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    count(ctx, args, By::Lex)
}

fn remove(ctx: &mut Ctx<'_>, args: Args<'_>, by: By) -> CommandResult {
    let bounds = Bounds::parse(by, args, 2, 3)?;
    let removed = ctx.keyspace.modify(ctx.at(), args.at(1), |set: &mut ZSet| {
        let range = bounds.positions(set, false);
        let members: Vec<Box<[u8]>> = set.range(range).map(|(_, member)| member.into()).collect();
        members.iter().filter(|member| set.remove(member).is_some()).count()
    })?;
    let removed = removed.unwrap_or(0);
    ctx.effects.changed(removed);
    ctx.reply.count(removed);
    Ok(())
}

fn zremrangebyrank(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    remove(ctx, args, By::Rank)
}

fn zremrangebyscore(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    remove(ctx, args, By::Score)
}

fn zremrangebylex(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    remove(ctx, args, By::Lex)
}
