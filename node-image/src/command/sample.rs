//! Random choices of HRANDFIELD, SRANDMEMBER and ZRANDMEMBER.

use std::collections::HashSet;

use super::{Args, CommandError};

/// The most elements that a negative count may ask for: such a reply is not bounded by the size of the value.
const REPEATS_MAX: i64 = 1 << 24;

/// The count at `index`: that many different elements, or, if it is negative, as many with repeats.
pub(super) fn count(args: Args<'_>, index: usize) -> Result<i64, CommandError> {
    let count = args.integer(index)?;
    if count == i64::MIN {
        let text =
            "ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807";
        return Err(CommandError::text(text));
    }
    if count < -REPEATS_MAX {
        return Err(CommandError::text("ERR value is out of range"));
    }
    Ok(count)
}

/// Positions below `len` as `count` asks for.
pub(super) fn pick(random: &mut fastrand::Rng, len: usize, count: i64) -> Vec<usize> {
    let wanted = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
    if len == 0 {
        Vec::new()
    } else if count < 0 {
        (0..wanted).map(|_| random.usize(..len)).collect()
    } else if wanted >= len {
        (0..len).collect()
    } else {
        distinct(random, len, wanted)
    }
}

/// `wanted` different positions below `len`, each choice as likely as any (Floyd's algorithm).
fn distinct(random: &mut fastrand::Rng, len: usize, wanted: usize) -> Vec<usize> {
    let mut chosen = HashSet::with_capacity(wanted);
    for top in len - wanted..len {
        let position = random.usize(..=top);
        if !chosen.insert(position) {
            chosen.insert(top);
        }
    }
    chosen.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_asked_for() {
        let mut random = fastrand::Rng::with_seed(1);
        for (len, count, expected) in
            [(10, 3, 3), (10, 10, 10), (10, 99, 10), (10, -30, 30), (0, 5, 0), (0, -5, 0)]
        {
            let picked = pick(&mut random, len, count);
            assert_eq!(picked.len(), expected);
            assert!(picked.iter().all(|position| *position < len));
            if count > 0 {
                assert_eq!(picked.iter().collect::<HashSet<_>>().len(), expected);
            }
        }
    }
}
