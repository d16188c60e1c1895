//! Small sets of whole numbers: sorted, each in as few bytes as the widest needs.

/// Bytes in front of the numbers: how wide they are.
const HEADER: usize = 1;

/// Numbers in one block, the lowest first; none take no memory.
#[derive(Clone, Debug, Default)]
pub(super) struct IntSet(Box<[u8]>);

/// The least width that holds a number: 2, 4 or 8 bytes.
fn width_of(number: i64) -> usize {
    if i16::try_from(number).is_ok() {
        2
    } else if i32::try_from(number).is_ok() {
        4
    } else {
        8
    }
}

fn number(bytes: &[u8]) -> i64 {
    match *bytes {
        [a, b] => i16::from_le_bytes([a, b]).into(),
        [a, b, c, d] => i32::from_le_bytes([a, b, c, d]).into(),
        [a, b, c, d, e, f, g, h] => i64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => 0,
    }
}

impl IntSet {
    fn width(&self) -> usize {
        self.0.first().map_or(2, |width| usize::from(*width))
    }

    fn numbers(&self) -> &[u8] {
        self.0.get(HEADER..).unwrap_or_default()
    }

    /// How many numbers there are.
    pub(super) fn len(&self) -> usize {
        self.numbers().len() / self.width()
    }

    /// Bytes of the block.
    pub(super) fn size(&self) -> usize {
        self.0.len()
    }

    /// The number at a position.
    pub(super) fn nth(&self, index: usize) -> Option<i64> {
        let start = index.checked_mul(self.width())?;
        self.numbers().get(start..start + self.width()).map(number)
    }

    /// The numbers, the lowest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = i64> {
        self.numbers().chunks_exact(self.width()).map(number)
    }

    /// Where a number is, or else where it belongs.
    fn search(&self, wanted: i64) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.nth(middle).map(|number| number.cmp(&wanted)) {
                Some(std::cmp::Ordering::Less) => low = middle + 1,
                Some(std::cmp::Ordering::Equal) => return Ok(middle),
                _ => high = middle,
            }
        }
        Err(low)
    }

    /// Whether a number is in it.
    pub(super) fn contains(&self, wanted: i64) -> bool {
        self.search(wanted).is_ok()
    }

    /// Adds a number. Returns whether it is a new one.
    pub(super) fn insert(&mut self, new: i64) -> bool {
        let Err(index) = self.search(new) else { return false };
        let width = self.width().max(width_of(new));
        if self.0.is_empty() || width > self.width() {
            self.widen(width);
        }
        let mut block = std::mem::take(&mut self.0).into_vec();
        let (at, old) = (HEADER + index * width, block.len());
        block.reserve_exact(width);
        block.resize(old + width, 0);
        block.copy_within(at..old, at + width);
        let bytes = new.to_le_bytes();
        if let Some(place) = block.get_mut(at..at + width) {
            place.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        }
        self.0 = block.into_boxed_slice();
        true
    }

    fn widen(&mut self, width: usize) {
        let mut block = Vec::with_capacity(HEADER + self.len() * width);
        block.push(width as u8);
        for number in self.iter() {
            block.extend(number.to_le_bytes().into_iter().take(width));
        }
        self.0 = block.into_boxed_slice();
    }

    /// Removes a number. Returns whether there was one.
    pub(super) fn remove(&mut self, number: i64) -> bool {
        let Ok(index) = self.search(number) else { return false };
        let width = self.width();
        if self.len() == 1 {
            self.0 = Box::default();
            return true;
        }
        let mut block = std::mem::take(&mut self.0).into_vec();
        let at = HEADER + index * width;
        block.copy_within(at + width.., at);
        block.truncate(block.len() - width);
        self.0 = block.into_boxed_slice();
        true
    }
}
