//! Lists.

use either::Either;

use super::data::{counted, numbered_keys, pop_count, positive, resolve_index, resolve_range};
use super::table::data_commands;
use super::{Args, CommandError, CommandResult, Ctx, KeySpec};
use crate::keyspace::value::{End, List};

data_commands! { List;
    "lpush" -3 [WRITE DENYOOM FAST] KeySpec::FIRST, "1.0.0", lpush, "Prepends one or more elements to a list. Creates the key if it doesn't exist.";
    "rpush" -3 [WRITE DENYOOM FAST] KeySpec::FIRST, "1.0.0", rpush, "Appends one or more elements to a list. Creates the key if it doesn't exist.";
    "lpushx" -3 [WRITE DENYOOM FAST] KeySpec::FIRST, "2.2.0", lpushx, "Prepends one or more elements to a list only when the list exists.";
    "rpushx" -3 [WRITE DENYOOM FAST] KeySpec::FIRST, "2.2.0", rpushx, "Appends an element to a list only when the list exists.";
    "lpop" -2 [WRITE FAST] KeySpec::FIRST, "1.0.0", lpop, "Returns the first elements in a list after removing it. Deletes the list if the last element was popped.";
    "rpop" -2 [WRITE FAST] KeySpec::FIRST, "1.0.0", rpop, "Returns and removes the last elements of a list. Deletes the list if the last element was popped.";
    "lmpop" -4 [WRITE MOVABLE_KEYS] KeySpec::Numbered { count_at: 1, also: None }, "7.0.0", lmpop, "Returns multiple elements from a list after removing them. Deletes the list if the last element was popped.";
    "llen" 2 [READONLY FAST] KeySpec::FIRST, "1.0.0", llen, "Returns the length of a list.";
    "lrange" 4 [READONLY] KeySpec::FIRST, "1.0.0", lrange, "Returns a range of elements from a list.";
    "lindex" 3 [READONLY] KeySpec::FIRST, "1.0.0", lindex, "Returns an element from a list by its index.";
    "lset" 4 [WRITE DENYOOM] KeySpec::FIRST, "1.0.0", lset, "Sets the value of an element in a list by its index.";
    "linsert" 5 [WRITE DENYOOM] KeySpec::FIRST, "2.2.0", linsert, "Inserts an element before or after another element in a list.";
    "lrem" 4 [WRITE] KeySpec::FIRST, "1.0.0", lrem, "Removes elements from a list. Deletes the list if the last element was removed.";
    "ltrim" 4 [WRITE] KeySpec::FIRST, "1.0.0", ltrim, "Removes elements from both ends a list. Deletes the list if all elements were trimmed.";
    "lpos" -3 [READONLY] KeySpec::FIRST, "6.0.6", lpos, "Returns the index of matching elements in a list.";
    "lmove" 5 [WRITE DENYOOM] KeySpec::TWO, "6.2.0", lmove, "Returns an element after popping it from one list and pushing it to another. Deletes the list if the last element was moved.";
    "rpoplpush" 3 [WRITE DENYOOM] KeySpec::TWO, "1.2.0", rpoplpush, "Returns the last element of a list after removing and pushing it to another list. Deletes the list if the last element was popped.";
}

fn push(ctx: &mut Ctx<'_>, args: Args<'_>, end: End, create: bool) -> CommandResult {
    let key = args.at(1);
    let at = ctx.at();
    if !create && ctx.keyspace.read::<List>(at, key)?.is_none() {
        ctx.reply.integer(0);
        return Ok(());
    }
    let items = args.from(2);
    let len = ctx.keyspace.upsert(at, key, |list: &mut List| {
        items.iter().for_each(|item| list.push(end, item));
        list.len()
    })?;
    ctx.effects.changed(items.len());
    ctx.reply.count(len);
    Ok(())
}

fn lpush(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    push(ctx, args, End::Left, true)
}

fn rpush(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    push(ctx, args, End::Right, true)
}

fn lpushx(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    push(ctx, args, End::Left, false)
}

fn rpushx(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    push(ctx, args, End::Right, false)
}

/// Takes up to `count` elements; nothing if there is no list.
fn take(
    ctx: &mut Ctx<'_>,
    key: &[u8],
    end: End,
    count: usize,
) -> Result<Option<Vec<Box<[u8]>>>, CommandError> {
    let at = ctx.at();
    if count == 0 {
        return Ok(ctx.keyspace.read::<List>(at, key)?.map(|_| Vec::new()));
    }
    let items = ctx.keyspace.modify(at, key, |list: &mut List| {
        let count = count.min(list.len());
        (0..count).map_while(|_| list.pop(end)).collect::<Vec<_>>()
    })?;
    ctx.effects.changed(items.as_ref().map_or(0, Vec::len));
    Ok(items)
}

fn pop(ctx: &mut Ctx<'_>, args: Args<'_>, end: End) -> CommandResult {
    if args.len() > 3 {
        return Err(CommandError::Arity(String::from_utf8_lossy(args.at(0)).to_ascii_lowercase()));
    }
    if args.len() == 2 {
        let items = take(ctx, args.at(1), end, 1)?.unwrap_or_default();
        ctx.reply.bulk_or_nil(items.first().map(|item| &**item));
        return Ok(());
    }
    let count = positive(args, 2)?;
    match take(ctx, args.at(1), end, count)? {
        Some(items) => reply_items(ctx, &items),
        None => ctx.reply.nil_array(),
    }
    Ok(())
}

fn reply_items(ctx: &mut Ctx<'_>, items: &[Box<[u8]>]) {
    ctx.reply.array(items.len());
    items.iter().for_each(|item| ctx.reply.bulk(item));
}

fn lpop(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    pop(ctx, args, End::Left)
}

fn rpop(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    pop(ctx, args, End::Right)
}

fn end(args: Args<'_>, index: usize) -> Result<End, CommandError> {
    if args.is(index, "LEFT") {
        Ok(End::Left)
    } else if args.is(index, "RIGHT") {
        Ok(End::Right)
    } else {
        Err(CommandError::Syntax)
    }
}

fn lmpop(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let count = counted(args, 1, "numkeys should be greater than 0")?;
    let (keys, index) = numbered_keys(args, 1, count)?;
    let end = end(args, index)?;
    let count = pop_count(args, index + 1)?;
    for key in keys {
        let Some(items) = take(ctx, key, end, count)? else { continue };
        let command: &[u8] = if end == End::Left { b"LPOP" } else { b"RPOP" };
        ctx.effects.replicate(&[command, key, itoa::Buffer::new().format(items.len()).as_bytes()]);
        ctx.reply.array(2);
        ctx.reply.bulk(key);
        reply_items(ctx, &items);
        return Ok(());
    }
    ctx.reply.nil_array();
    Ok(())
}

fn llen(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let len = ctx.keyspace.read::<List>(ctx.at(), args.at(1))?.map_or(0, List::len);
    ctx.reply.count(len);
    Ok(())
}

fn lrange(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let (start, stop) = (args.integer(2)?, args.integer(3)?);
    let Some(list) = ctx.keyspace.read::<List>(ctx.at(), args.at(1))? else {
        ctx.reply.array(0);
        return Ok(());
    };
    let range = resolve_range(start, stop, list.len());
    ctx.reply.array(range.len());
    list.range(range).for_each(|item| ctx.reply.bulk(&item));
    Ok(())
}

fn lindex(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let Some(list) = ctx.keyspace.read::<List>(ctx.at(), args.at(1))? else {
        ctx.reply.nil();
        return Ok(());
    };
    let index = resolve_index(args.integer(2)?, list.len());
    ctx.reply.bulk_or_nil(index.and_then(|index| list.get(index)).as_deref());
    Ok(())
}

fn lset(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let at = ctx.at();
    let len = ctx.keyspace.read::<List>(at, args.at(1))?.map(List::len).ok_or(CommandError::NoSuchKey)?;
    let index = resolve_index(args.integer(2)?, len).ok_or(CommandError::IndexOutOfRange)?;
    ctx.keyspace.modify(at, args.at(1), |list: &mut List| list.set(index, args.at(3)))?;
    ctx.effects.changed(1);
    ctx.reply.ok();
    Ok(())
}

fn linsert(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let after = match (args.is(2, "BEFORE"), args.is(2, "AFTER")) {
        (true, _) => 0,
        (_, true) => 1,
        _ => return Err(CommandError::Syntax),
    };
    let at = ctx.at();
    let Some(list) = ctx.keyspace.read::<List>(at, args.at(1))? else {
        ctx.reply.integer(0);
        return Ok(());
    };
    let Some(pivot) = list.iter().position(|item| *item == *args.at(3)) else {
        ctx.reply.integer(-1);
        return Ok(());
    };
    let len = ctx.keyspace.modify(at, args.at(1), |list: &mut List| {
        list.insert(pivot + after, args.at(4));
        list.len()
    })?;
    ctx.effects.changed(1);
    ctx.reply.count(len.unwrap_or(0));
    Ok(())
}

fn lrem(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let count = args.integer(2)?;
    let from = if count < 0 { End::Right } else { End::Left };
    let limit = usize::try_from(count.unsigned_abs()).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    let removed =
        ctx.keyspace.modify(ctx.at(), args.at(1), |list: &mut List| list.remove(from, limit, args.at(3)));
    let removed = removed?.unwrap_or(0);
    ctx.effects.changed(removed);
    ctx.reply.count(removed);
    Ok(())
}

fn ltrim(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let (start, stop) = (args.integer(2)?, args.integer(3)?);
    let removed = ctx.keyspace.modify(ctx.at(), args.at(1), |list: &mut List| {
        let before = list.len();
        list.keep(resolve_range(start, stop, before));
        before - list.len()
    })?;
    ctx.effects.changed(removed.unwrap_or(0));
    ctx.reply.ok();
    Ok(())
}

/// Options of LPOS: which match is the first to be shown, how many of them, and how many elements are compared.
#[derive(Debug)]
struct Search {
    backwards: bool,
    skip: usize,
    count: Option<usize>,
    max_len: usize,
}

impl Search {
    fn parse(args: Args<'_>) -> Result<Self, CommandError> {
        let mut search = Self { backwards: false, skip: 0, count: None, max_len: usize::MAX };
        let mut index = 3;
        while index < args.len() {
            if index + 1 >= args.len() {
                return Err(CommandError::Syntax);
            } else if args.is(index, "RANK") {
                let rank = args.integer(index + 1)?;
                search.backwards = rank < 0;
                search.skip = Self::skip(rank)?;
            } else if args.is(index, "COUNT") {
                search.count = Some(Self::limit(args, index, "ERR COUNT can't be negative")?);
            } else if args.is(index, "MAXLEN") {
                search.max_len = Self::limit(args, index, "ERR MAXLEN can't be negative")?;
            } else {
                return Err(CommandError::Syntax);
            }
            index += 2;
        }
        Ok(search)
    }

    fn skip(rank: i64) -> Result<usize, CommandError> {
        let text = match rank {
            0 => {
                "ERR RANK can't be zero: use 1 to start from the first match, 2 from the second ... or use negative to \
                 start from the end of the list"
            }
            i64::MIN => {
                "ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807"
            }
            _ => return Ok(usize::try_from(rank.unsigned_abs() - 1).unwrap_or(usize::MAX)),
        };
        Err(CommandError::text(text))
    }

    /// The limit that follows the option at `index`; 0 means none.
    fn limit(args: Args<'_>, index: usize, negative: &'static str) -> Result<usize, CommandError> {
        let error = || CommandError::text(negative);
        let limit = usize::try_from(args.integer(index + 1).map_err(|_| error())?).map_err(|_| error())?;
        Ok(if limit == 0 { usize::MAX } else { limit })
    }

    fn run(&self, list: &List, item: &[u8]) -> Vec<usize> {
        let items = if self.backwards { Either::Left(list.iter_back()) } else { Either::Right(list.iter()) };
        let equal = items.take(self.max_len).enumerate().filter(|(_, other)| **other == *item);
        let found = equal.map(|(index, _)| if self.backwards { list.len() - 1 - index } else { index });
        found.skip(self.skip).take(self.count.unwrap_or(1)).collect()
    }
}

fn lpos(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let search = Search::parse(args)?;
    let list = ctx.keyspace.read::<List>(ctx.at(), args.at(1))?;
    let found = list.map(|list| search.run(list, args.at(2))).unwrap_or_default();
    if search.count.is_some() {
        ctx.reply.array(found.len());
        found.into_iter().for_each(|position| ctx.reply.count(position));
    } else if let Some(position) = found.first() {
        ctx.reply.count(*position);
    } else {
        ctx.reply.nil();
    }
    Ok(())
}

fn shift(ctx: &mut Ctx<'_>, args: Args<'_>, from_end: End, to_end: End) -> CommandResult {
    let (from, to) = (args.at(1), args.at(2));
    let at = ctx.at();
    if ctx.keyspace.read::<List>(at, from)?.is_none() {
        ctx.reply.nil();
        return Ok(());
    }
    ctx.keyspace.read::<List>(at, to)?;
    let item = if from == to {
        ctx.keyspace.modify(at, from, |list: &mut List| {
            let item = list.pop(from_end)?;
            list.push(to_end, &item);
            Some(item)
        })?
    } else {
        ctx.keyspace.modify(at, from, |list: &mut List| list.pop(from_end))?
    };
    let Some(item) = item.flatten() else {
        ctx.reply.nil();
        return Ok(());
    };
    if from != to {
        ctx.keyspace.upsert(at, to, |list: &mut List| list.push(to_end, &item))?;
    }
    ctx.effects.changed(1);
    ctx.reply.bulk(&item);
    Ok(())
}

fn lmove(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    shift(ctx, args, end(args, 3)?, end(args, 4)?)
}

fn rpoplpush(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    shift(ctx, args, End::Right, End::Left)
}
