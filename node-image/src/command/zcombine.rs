//! Unions, intersections and differences of sorted sets, and of sets, whose members score 1.

use hashbrown::HashMap;

use super::data::numbered_keys;
use super::table::data_commands;
use super::zranges::{reply_members, store_members};
use super::{Args, CommandError, CommandResult, Ctx, KeySpec};
use crate::keyspace::ValueRef;
use crate::keyspace::WrongType;
use crate::keyspace::value::ZSet;
use crate::resp::parse_f64;

const NUMBERED: KeySpec = KeySpec::Numbered { count_at: 1, also: None };
const STORED: KeySpec = KeySpec::Numbered { count_at: 2, also: Some(1) };

data_commands! { SortedSet;
    "zunion" -3 [READONLY MOVABLE_KEYS] NUMBERED, "6.2.0", zunion, "Returns the union of multiple sorted sets.";
    "zinter" -3 [READONLY MOVABLE_KEYS] NUMBERED, "6.2.0", zinter, "Returns the intersect of multiple sorted sets.";
    "zdiff" -3 [READONLY MOVABLE_KEYS] NUMBERED, "6.2.0", zdiff, "Returns the difference between multiple sorted sets.";
    "zintercard" -3 [READONLY MOVABLE_KEYS] NUMBERED, "7.0.0", zintercard, "Returns the number of members of the intersect of multiple sorted sets.";
    "zunionstore" -4 [WRITE DENYOOM MOVABLE_KEYS] STORED, "2.0.0", zunionstore, "Stores the union of multiple sorted sets in a key.";
    "zinterstore" -4 [WRITE DENYOOM MOVABLE_KEYS] STORED, "2.0.0", zinterstore, "Stores the intersect of multiple sorted sets in a key.";
    "zdiffstore" -4 [WRITE DENYOOM MOVABLE_KEYS] STORED, "6.2.0", zdiffstore, "Stores the difference of multiple sorted sets in a key.";
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Union,
    Intersection,
    Difference,
}

#[derive(Clone, Copy, Debug)]
enum Aggregate {
    Sum,
    Min,
    Max,
}

impl Aggregate {
    fn of(self, a: f64, b: f64) -> f64 {
        match self {
            Self::Sum => number(a + b),
            Self::Min => a.min(b),
            Self::Max => a.max(b),
        }
    }
}

/// A score; what is not a number, such as the sum of both infinities, counts as 0.
fn number(score: f64) -> f64 {
    if score.is_nan() { 0.0 } else { score }
}

/// What the result is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Show,
    Count,
    Store,
}

#[derive(Debug)]
struct Options {
    weights: Vec<f64>,
    aggregate: Aggregate,
    with_scores: bool,
    limit: usize,
}

impl Options {
    fn parse(
        args: Args<'_>,
        mut index: usize,
        keys: usize,
        operation: Operation,
        purpose: Purpose,
    ) -> Result<Self, CommandError> {
        let weighs = operation != Operation::Difference && purpose != Purpose::Count;
        let mut options = Self {
            weights: vec![1.0; keys],
            aggregate: Aggregate::Sum,
            with_scores: false,
            limit: usize::MAX,
        };
        while index < args.len() {
            let left = args.len() - index;
            if weighs && left > keys && args.is(index, "WEIGHTS") {
                options.weights = weights(args.from(index + 1), keys)?;
                index += keys;
            } else if weighs && left >= 2 && args.is(index, "AGGREGATE") {
                index += 1;
                options.aggregate = aggregate(args, index)?;
            } else if purpose == Purpose::Show && args.is(index, "WITHSCORES") {
                options.with_scores = true;
            } else if purpose == Purpose::Count && left >= 2 && args.is(index, "LIMIT") {
                index += 1;
                options.limit = limit(args, index)?;
            } else {
                return Err(CommandError::Syntax);
            }
            index += 1;
        }
        Ok(options)
    }
}

fn weights(texts: &[&[u8]], keys: usize) -> Result<Vec<f64>, CommandError> {
    let error = || CommandError::text("ERR weight value is not a float");
    texts.iter().take(keys).map(|text| parse_f64(text).ok_or_else(error)).collect()
}

fn aggregate(args: Args<'_>, index: usize) -> Result<Aggregate, CommandError> {
    if args.is(index, "SUM") {
        Ok(Aggregate::Sum)
    } else if args.is(index, "MIN") {
        Ok(Aggregate::Min)
    } else if args.is(index, "MAX") {
        Ok(Aggregate::Max)
    } else {
        Err(CommandError::Syntax)
    }
}

fn limit(args: Args<'_>, index: usize) -> Result<usize, CommandError> {
    let negative = || CommandError::text("ERR LIMIT can't be negative");
    let limit = usize::try_from(args.integer(index).map_err(|_| negative())?).map_err(|_| negative())?;
    Ok(if limit == 0 { usize::MAX } else { limit })
}

type Scores = HashMap<Box<[u8]>, f64>;

/// One of the sets that are combined.
#[derive(Clone, Copy)]
enum Input<'a> {
    Missing,
    Value(ValueRef<'a>),
}

impl Input<'_> {
    fn len(self) -> usize {
        match self {
            Self::Value(ValueRef::ZSet(set)) => set.len(),
            Self::Value(ValueRef::Set(set)) => set.len(),
            _ => 0,
        }
    }

    fn score(self, member: &[u8]) -> Option<f64> {
        match self {
            Self::Value(ValueRef::ZSet(set)) => set.score(member),
            Self::Value(ValueRef::Set(set)) => set.contains(member).then_some(1.0),
            _ => None,
        }
    }

    fn for_each(self, mut show: impl FnMut(f64, &[u8])) {
        match self {
            Self::Value(ValueRef::ZSet(set)) => set.iter().for_each(|(score, member)| show(score, &member)),
            Self::Value(ValueRef::Set(set)) => set.iter().for_each(|member| show(1.0, &member)),
            _ => {}
        }
    }
}

fn inputs<'c>(ctx: &'c mut Ctx<'_>, keys: &[&[u8]]) -> Result<Vec<Input<'c>>, CommandError> {
    let at = ctx.at();
    keys.iter().for_each(|key| ctx.keyspace.expire_if_due(at, key));
    let keyspace = &*ctx.keyspace;
    let input = |key: &&[u8]| match keyspace.peek(at, key).map(|entry| entry.value) {
        None => Ok(Input::Missing),
        Some(value @ (ValueRef::ZSet(_) | ValueRef::Set(_))) => Ok(Input::Value(value)),
        Some(_) => Err(WrongType.into()),
    };
    keys.iter().map(input).collect()
}

fn union(inputs: &[Input<'_>], options: &Options) -> Scores {
    let mut scores = Scores::default();
    for (input, weight) in inputs.iter().zip(&options.weights) {
        input.for_each(|score, member| {
            let score = number(weight * score);
            match scores.get_mut(member) {
                Some(total) => *total = options.aggregate.of(*total, score),
                None => _ = scores.insert(member.into(), score),
            }
        });
    }
    scores
}

fn intersection(inputs: &[Input<'_>], options: &Options) -> Scores {
    let mut scores = Scores::default();
    let mut weighted: Vec<_> = inputs.iter().zip(&options.weights).collect();
    weighted.sort_by_key(|(input, _)| input.len());
    let Some(((smallest, first), others)) = weighted.split_first() else { return scores };
    smallest.for_each(|score, member| {
        if scores.len() >= options.limit {
            return;
        }
        let mut others = others.iter().map(|(input, weight)| Some(*weight * input.score(member)?));
        let aggregated = others.try_fold(number(*first * score), |a, b| Some(options.aggregate.of(a, b?)));
        if let Some(score) = aggregated {
            scores.insert(member.into(), score);
        }
    });
    scores
}

fn difference(inputs: &[Input<'_>]) -> Scores {
    let mut scores = Scores::default();
    let Some((first, others)) = inputs.split_first() else { return scores };
    first.for_each(|score, member| {
        if others.iter().all(|other| other.score(member).is_none()) {
            scores.insert(member.into(), score);
        }
    });
    scores
}

/// Runs any command of this module; its keys' count is at `count_at`.
fn combine(ctx: &mut Ctx<'_>, args: Args<'_>, operation: Operation, purpose: Purpose) -> CommandResult {
    let count_at = if purpose == Purpose::Store { 2 } else { 1 };
    let count = usize::try_from(args.integer(count_at)?).unwrap_or(0);
    if count == 0 {
        let name = String::from_utf8_lossy(args.at(0)).to_ascii_lowercase();
        let text = format!("ERR at least 1 input key is needed for '{name}' command");
        return Err(CommandError::text(text));
    }
    let (keys, index) = numbered_keys(args, count_at, count)?;
    let inputs = inputs(ctx, keys)?;
    let options = Options::parse(args, index, count, operation, purpose)?;
    let scores = match operation {
        Operation::Union => union(&inputs, &options),
        Operation::Intersection => intersection(&inputs, &options),
        Operation::Difference => difference(&inputs),
    };
    let mut members: Vec<_> = scores.into_iter().map(|(member, score)| (score, member)).collect();
    match purpose {
        Purpose::Count => ctx.reply.count(members.len()),
        Purpose::Store => store_members(ctx, args.at(1), &members),
        Purpose::Show => {
            members.sort_by(|a, b| ZSet::order((a.0, &a.1), (b.0, &b.1)));
            reply_members(ctx, &members, options.with_scores);
        }
    }
    Ok(())
}

fn zunion(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    combine(ctx, args, Operation::Union, Purpose::Show)
}

fn zinter(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    combine(ctx, args, Operation::Intersection, Purpose::Show)
}

fn zdiff(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    combine(ctx, args, Operation::Difference, Purpose::Show)
}

fn zintercard(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    combine(ctx, args, Operation::Intersection, Purpose::Count)
}

fn zunionstore(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    combine(ctx, args, Operation::Union, Purpose::Store)
}

fn zinterstore(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    combine(ctx, args, Operation::Intersection, Purpose::Store)
}

fn zdiffstore(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    combine(ctx, args, Operation::Difference, Purpose::Store)
}
