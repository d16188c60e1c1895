//! What the data commands share.

use std::ops::Range;

use super::{Args, CommandError, Ctx};
use crate::keyspace::{At, WrongType};

impl From<WrongType> for CommandError {
    fn from(_: WrongType) -> Self {
        Self::WrongType
    }
}

impl Ctx<'_> {
    /// Where and when the command runs.
    pub(super) fn at(&self) -> At {
        At { db: self.db, now: self.now }
    }

    /// Refuses a string of `len` bytes if that is too long.
    pub(super) fn check_length(&self, len: usize) -> Result<(), CommandError> {
        if len > self.settings.max_bulk {
            return Err(CommandError::text("ERR string exceeds maximum allowed size (proto-max-bulk-len)"));
        }
        Ok(())
    }
}

/// `invalid expire time` of the command that runs.
pub(super) fn invalid_expire(args: Args<'_>) -> CommandError {
    let name = String::from_utf8_lossy(args.at(0)).to_ascii_lowercase();
    CommandError::text(format!("ERR invalid expire time in '{name}' command"))
}

/// The positions from `start` to `stop`, both included, negative ones counted from the end, in a sequence of `len`.
pub(super) fn resolve_range(start: i64, stop: i64, len: usize) -> Range<usize> {
    let from_end = |index: i64| {
        let len = i64::try_from(len).unwrap_or(i64::MAX);
        if index < 0 { index.saturating_add(len) } else { index }
    };
    let start = usize::try_from(from_end(start).max(0)).unwrap_or(usize::MAX).min(len);
    let stop = usize::try_from(from_end(stop).saturating_add(1).max(0)).unwrap_or(usize::MAX).min(len);
    start..stop.max(start)
}

/// The position of `index`, a negative one counted from the end, in a sequence of `len`.
pub(super) fn resolve_index(index: i64, len: usize) -> Option<usize> {
    let position = if index < 0 {
        len.checked_sub(usize::try_from(index.unsigned_abs()).ok()?)?
    } else {
        usize::try_from(index).ok()?
    };
    (position < len).then_some(position)
}

/// The `count` keys that follow the argument at `count_at`, and the index after them.
pub(super) fn numbered_keys<'a>(
    args: Args<'a>,
    count_at: usize,
    count: usize,
) -> Result<(&'a [&'a [u8]], usize), CommandError> {
    let keys = args.from(count_at + 1).get(..count).ok_or(CommandError::Syntax)?;
    Ok((keys, count_at + 1 + count))
}

/// The argument at `index` as a count of at least one; `error` says what it has to be.
pub(super) fn counted(args: Args<'_>, index: usize, error: &str) -> Result<usize, CommandError> {
    let count = args.integer(index).ok().and_then(|count| usize::try_from(count).ok());
    count.filter(|count| *count > 0).ok_or_else(|| CommandError::text(format!("ERR {error}")))
}

/// The count of LMPOP and ZMPOP: 1 unless there is a COUNT at `index`.
pub(super) fn pop_count(args: Args<'_>, mut index: usize) -> Result<usize, CommandError> {
    let mut count = None;
    while index < args.len() {
        if count.is_some() || !args.is(index, "COUNT") || index + 1 >= args.len() {
            return Err(CommandError::Syntax);
        }
        count = Some(counted(args, index + 1, "count should be greater than 0")?);
        index += 2;
    }
    Ok(count.unwrap_or(1))
}

/// The argument at `index` as a count that is not negative.
pub(super) fn positive(args: Args<'_>, index: usize) -> Result<usize, CommandError> {
    let out_of_range = || CommandError::text("ERR value is out of range, must be positive");
    usize::try_from(args.integer(index).map_err(|_| out_of_range())?).map_err(|_| out_of_range())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_indices() {
        assert_eq!(resolve_range(0, -1, 5), 0..5);
        assert_eq!(resolve_range(-3, -2, 5), 2..4);
        assert_eq!(resolve_range(4, 2, 5), 4..4);
        assert_eq!(resolve_range(-100, 100, 5), 0..5);
        assert_eq!(resolve_range(i64::MIN, i64::MAX, 5), 0..5);
        assert_eq!(resolve_range(7, 9, 5).len(), 0);
        assert_eq!(resolve_range(0, -9, 5).len(), 0);
        assert_eq!(resolve_index(-1, 5), Some(4));
        assert_eq!(resolve_index(i64::MIN, 5), None);
        assert_eq!(resolve_index(5, 5), None);
    }
}
