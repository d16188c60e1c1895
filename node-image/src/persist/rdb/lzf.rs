//! LZF, the compression of strings in snapshots: fast, and no more than twice or thrice the work of a copy.
//!
//! Source: the format that `lzf_d.c` of liblzf reads. A byte below 32 begins a run of that many bytes plus one. Any
//! other begins a copy of what stood up to 8192 bytes before: its 3 high bits are the length less two (7: another byte
//! adds to it), its 5 low bits and the last byte are the distance less one.

/// Strings up to this length are not compressed, as in Redis.
pub(super) const TOO_SHORT: usize = 20;

/// The most bytes that one byte can stand for (3 bytes for 264).
pub(super) const RATIO: u64 = 88;

const RUN_MAX: usize = 32;
const COPY_MIN: usize = 3;
const COPY_MAX: usize = 264;
const DISTANCE_MAX: usize = 8192;
const TABLE_BITS: u32 = 13;

/// Compresses one string after the other.
#[derive(Debug)]
pub(super) struct Compressor {
    /// Where three bytes of a hash stood last, counted over all strings, so that nothing is to be cleared between them.
    table: Box<[u32]>,
    /// Where the next string begins in that count.
    base: u32,
}

impl Default for Compressor {
    fn default() -> Self {
        Self { table: vec![0; 1 << TABLE_BITS].into_boxed_slice(), base: 1 }
    }
}

impl Compressor {
    /// Appends the compressed form of `data` to `out` if that is shorter by four bytes at least; else leaves `out` as it
    /// is, and returns false.
    pub fn compress(&mut self, data: &[u8], out: &mut Vec<u8>) -> bool {
        let Ok(len) = u32::try_from(data.len()) else { return false };
        if data.len() <= TOO_SHORT {
            return false;
        }
        if self.base.checked_add(len).is_none() {
            self.table.fill(0);
            self.base = 1;
        }
        let start = out.len();
        let small = self.fill(data, out, start + data.len() - 4);
        self.base = self.base.saturating_add(len);
        if !small {
            out.truncate(start);
        }
        small
    }

    /// Gives up when `out` becomes longer than `most`.
    fn fill(&mut self, data: &[u8], out: &mut Vec<u8>, most: usize) -> bool {
        let (mut at, mut run) = (0, 0);
        while let Some(&[a, b, c]) = data.get(at..).and_then(<[u8]>::first_chunk) {
            let hash =
                (u32::from_le_bytes([a, b, c, 0]).wrapping_mul(0x9e37_79b1) >> (32 - TABLE_BITS)) as usize;
            let Some(seen) = self.table.get_mut(hash) else { return false };
            let before = std::mem::replace(seen, self.base + at as u32);
            let earlier = before.checked_sub(self.base).map(|earlier| earlier as usize);
            let copy = earlier
                .filter(|&earlier| at - earlier <= DISTANCE_MAX)
                .map_or(0, |earlier| common(data, earlier, at));
            if copy < COPY_MIN {
                at += 1;
                continue;
            }
            push_runs(out, data.get(run..at).unwrap_or_default());
            push_copy(out, at - earlier.unwrap_or(at) - 1, copy - 2);
            at += copy;
            run = at;
            if out.len() > most {
                return false;
            }
        }
        let rest = data.get(run..).unwrap_or_default();
        if out.len() + rest.len() + rest.len().div_ceil(RUN_MAX) > most {
            return false;
        }
        push_runs(out, rest);
        true
    }
}

/// How many bytes from `at` on are the same as those from `earlier` on.
fn common(data: &[u8], earlier: usize, at: usize) -> usize {
    let pairs = data.iter().skip(earlier).zip(data.iter().skip(at));
    pairs.take(COPY_MAX).take_while(|(a, b)| a == b).count()
}

fn push_runs(out: &mut Vec<u8>, bytes: &[u8]) {
    for run in bytes.chunks(RUN_MAX) {
        out.push(run.len() as u8 - 1);
        out.extend_from_slice(run);
    }
}

fn push_copy(out: &mut Vec<u8>, distance: usize, len: usize) {
    let high = (distance >> 8) as u8;
    if len < 7 {
        out.push(high | (len as u8) << 5);
    } else {
        out.extend_from_slice(&[high | 7 << 5, (len - 7) as u8]);
    }
    out.push(distance as u8);
}

/// Appends what `data` stands for, which must be `len` bytes, to `out`. Nothing is said of `out` if it returns `None`.
pub(super) fn decompress(data: &[u8], len: usize, out: &mut Vec<u8>) -> Option<()> {
    let start = out.len();
    let mut rest = data;
    while let Some((&first, after)) = rest.split_first() {
        if usize::from(first) < RUN_MAX {
            let (run, after) = after.split_at_checked(usize::from(first) + 1)?;
            out.extend_from_slice(run);
            rest = after;
        } else {
            let (more, after) = if first >> 5 == 7 { after.split_first()? } else { (&0, after) };
            let (&low, after) = after.split_first()?;
            let distance = usize::from(first & 0x1f) << 8 | usize::from(low);
            let copy = usize::from(first >> 5) + usize::from(*more) + 2;
            copy_back(out, start, distance + 1, copy)?;
            rest = after;
        }
        if out.len() - start > len {
            return None;
        }
    }
    (out.len() - start == len).then_some(())
}

/// Appends `len` bytes of what stands `distance` before the end. These may reach into what is being appended: then a
/// pattern repeats, and more and more of it can be copied at a time.
fn copy_back(out: &mut Vec<u8>, start: usize, distance: usize, len: usize) -> Option<()> {
    let from = out.len().checked_sub(distance).filter(|&from| from >= start)?;
    let mut missing = len;
    while missing > 0 {
        let count = missing.min(out.len() - from);
        out.extend_from_within(from..from + count);
        missing -= count;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round_trip(compressor: &mut Compressor, text: &[u8]) -> Option<usize> {
        let mut packed = b"before".to_vec();
        let small = compressor.compress(text, &mut packed);
        let packed = packed.strip_prefix(b"before").unwrap().to_vec();
        if !small {
            assert!(packed.is_empty());
            return None;
        }
        assert!(packed.len() + 4 <= text.len());
        let mut unpacked = b"x".to_vec();
        decompress(&packed, text.len(), &mut unpacked).unwrap();
        assert_eq!(&unpacked[1..], text);
        // The decompressor of another author agrees.
        assert_eq!(lzf::decompress(&packed, text.len()).unwrap(), text);
        Some(packed.len())
    }

    #[test]
    fn what_repeats_becomes_short_and_what_does_not_stays() {
        let mut compressor = Compressor::default();
        assert_eq!(round_trip(&mut compressor, &[b'x'; 20]), None, "too short to be worth it");
        assert!(round_trip(&mut compressor, &[b'x'; 64]).unwrap() <= 8);
        let numbers: Vec<u8> = (0..20_000).flat_map(|n: u32| n.to_string().into_bytes()).collect();
        assert!(round_trip(&mut compressor, &numbers).unwrap() < numbers.len() * 3 / 4);
        let noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(10_000).collect();
        assert_eq!(round_trip(&mut compressor, &noise), None);
    }

    #[test]
    fn strings_do_not_see_each_other_also_when_the_count_begins_anew() {
        let mut compressor = Compressor { base: u32::MAX - 200, ..Compressor::default() };
        for _ in 0..10 {
            assert!(round_trip(&mut compressor, &[b'y'; 64]).is_some());
        }
    }

    proptest! {
        #[test]
        fn anything_comes_back(text in prop::collection::vec(0..4_u8, 0..3000), more in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut compressor = Compressor::default();
            round_trip(&mut compressor, &text);
            round_trip(&mut compressor, &more);
            round_trip(&mut compressor, &[text, more].concat());
        }

        #[test]
        fn no_bytes_panic(data in prop::collection::vec(any::<u8>(), 0..200), len in 0..300_usize) {
            let mut out = Vec::new();
            let ours = decompress(&data, len, &mut out).map(|()| out);
            let theirs = lzf::decompress(&data, len).ok().filter(|text| text.len() == len && !data.is_empty());
            if let (Some(ours), Some(theirs)) = (ours, theirs) {
                prop_assert_eq!(ours, theirs);
            }
        }
    }
}
