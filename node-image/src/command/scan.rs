//! Walks over keys: SCAN, KEYS, and the options that HSCAN, SSCAN and ZSCAN share with them.

use super::glob::glob_match;
use super::table::data_commands;
use super::{Args, CommandError, CommandResult, Ctx, KeySpec};

data_commands! { Generic;
    "scan" -2 [READONLY] KeySpec::None, "2.8.0", scan, "Iterates over the key names in the database.";
    "keys" 2 [READONLY] KeySpec::None, "1.0.0", keys, "Returns all key names that match a pattern.";
    "randomkey" 1 [READONLY] KeySpec::None, "1.0.0", randomkey, "Returns a random key name from the database.";
    "dbsize" 1 [READONLY FAST] KeySpec::None, "1.0.0", dbsize, "Returns the number of keys in the database.";
}

/// Options of SCAN and its kin.
#[derive(Debug)]
pub(super) struct ScanOptions<'a> {
    pub(super) cursor: u64,
    pub(super) count: usize,
    pattern: Option<&'a [u8]>,
    type_name: Option<&'a [u8]>,
}

impl<'a> ScanOptions<'a> {
    /// Reads the cursor at `index`.
    pub(super) fn cursor(args: Args<'_>, index: usize) -> Result<u64, CommandError> {
        let text = args.text(index).unwrap_or_default();
        // A negative cursor is taken as a large one, as in Redis.
        let cursor = text.parse::<u64>().ok().or_else(|| Some(text.parse::<i64>().ok()?.cast_unsigned()));
        cursor.ok_or(CommandError::text("ERR invalid cursor"))
    }

    /// Reads the cursor at `index` and the options after it; TYPE only if `with_type`.
    pub(super) fn parse(args: Args<'a>, index: usize, with_type: bool) -> Result<Self, CommandError> {
        let cursor = Self::cursor(args, index)?;
        let mut options = Self { cursor, count: 10, pattern: None, type_name: None };
        let mut index = index + 1;
        while index < args.len() {
            let value = args.get(index + 1).ok_or(CommandError::Syntax)?;
            if args.is(index, "COUNT") {
                let count = usize::try_from(args.integer(index + 1)?).unwrap_or(0);
                options.count = if count > 0 { count } else { return Err(CommandError::Syntax) };
            } else if args.is(index, "MATCH") {
                options.pattern = (value != b"*").then_some(value);
            } else if args.is(index, "TYPE") && with_type {
                options.type_name = Some(value);
            } else {
                return Err(CommandError::Syntax);
            }
            index += 2;
        }
        Ok(options)
    }

    /// Whether the pattern, if any, fits `name`.
    pub(super) fn shows(&self, name: &[u8]) -> bool {
        self.pattern.is_none_or(|pattern| glob_match(pattern, name))
    }
}

impl Ctx<'_> {
    /// Replies as SCAN does: the cursor, then the items.
    pub(super) fn reply_scan<T: AsRef<[u8]>>(&mut self, cursor: u64, items: &[T]) {
        self.reply.array(2);
        self.reply.bulk(itoa::Buffer::new().format(cursor).as_bytes());
        self.reply.array(items.len());
        for item in items {
            self.reply.bulk(item.as_ref());
        }
    }
}

fn scan(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let options = ScanOptions::parse(args, 1, true)?;
    let mut keys: Vec<Box<[u8]>> = Vec::new();
    let next = ctx.keyspace.scan(ctx.at(), options.cursor, options.count, |entry| {
        let of_type = options
            .type_name
            .is_none_or(|name| name.eq_ignore_ascii_case(entry.value.type_name().as_bytes()));
        if of_type && options.shows(entry.key) {
            keys.push(entry.key.into());
        }
    });
    ctx.reply_scan(next, &keys);
    Ok(())
}

fn keys(ctx: &mut Ctx<'_>, args: Args<'_>) -> CommandResult {
    let pattern = args.at(1);
    let names = ctx.keyspace.entries(ctx.at()).map(|entry| entry.key);
    let found: Vec<&[u8]> = names.filter(|name| pattern == b"*" || glob_match(pattern, name)).collect();
    ctx.reply.array(found.len());
    found.into_iter().for_each(|name| ctx.reply.bulk(name));
    Ok(())
}

fn randomkey(ctx: &mut Ctx<'_>, _args: Args<'_>) -> CommandResult {
    let at = ctx.at();
    ctx.reply.bulk_or_nil(ctx.keyspace.random_key(at, ctx.random));
    Ok(())
}

fn dbsize(ctx: &mut Ctx<'_>, _args: Args<'_>) -> CommandResult {
    ctx.reply.count(ctx.keyspace.len(ctx.db));
    Ok(())
}
