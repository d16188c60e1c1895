//! Counts in a row, and their sums: a Fenwick tree.

/// Counts, each reached by its index.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    /// At `i - 1` the sum of the counts before `i`, as many of them as the lowest bit of `i` says.
    sums: Vec<u32>,
}

fn lowest_bit(number: usize) -> usize {
    number & number.wrapping_neg()
}

impl Counts {
    /// Adds a count at the end.
    pub(super) fn push(&mut self, count: usize) {
        let index = self.sums.len() + 1;
        let mut sum = count as u32;
        let mut part = index - 1;
        while part > index - lowest_bit(index) {
            sum += self.sums.get(part - 1).copied().unwrap_or_default();
            part -= lowest_bit(part);
        }
        self.sums.push(sum);
    }

    /// How many counts there are.
    pub(super) fn len(&self) -> usize {
        self.sums.len()
    }

    /// A count; 0 if there is no such one.
    pub(super) fn get(&self, index: usize) -> usize {
        let end = index + 1;
        let Some(sum) = self.sums.get(index) else { return 0 };
        // The sum at `end` is of the counts from its lowest bit on: what lies before this one is taken off.
        let (mut count, mut part) = (*sum, index);
        while part > end - lowest_bit(end) {
            count = count.wrapping_sub(self.sums.get(part - 1).copied().unwrap_or_default());
            part -= lowest_bit(part);
        }
        count as usize
    }

    /// Sets a count.
    pub(super) fn set(&mut self, index: usize, count: usize) {
        let change = count as isize - self.get(index) as isize;
        if change != 0 {
            self.add(index, change);
        }
    }

    /// Takes the last count away.
    pub(super) fn pop(&mut self) {
        self.sums.pop();
    }

    /// Changes a count.
    pub(super) fn add(&mut self, index: usize, change: isize) {
        let mut index = index + 1;
        while let Some(sum) = self.sums.get_mut(index - 1) {
            *sum = sum.wrapping_add_signed(change as i32);
            index += lowest_bit(index);
        }
    }

    /// In which of the things counted the one at `position` is, and how many of it come before that one.
    pub(super) fn find(&self, position: usize) -> Option<(usize, usize)> {
        let mut index = 0;
        let mut left = position;
        let mut step = self.sums.len().checked_ilog2().map_or(0, |log| 1 << log);
        while step > 0 {
            if let Some(sum) = self.sums.get(index + step - 1)
                && *sum as usize <= left
            {
                left -= *sum as usize;
                index += step;
            }
            step /= 2;
        }
        (index < self.sums.len()).then_some((index, left))
    }

    /// Bytes that it takes.
    pub(super) fn memory(&self) -> usize {
        self.sums.capacity() * size_of::<u32>()
    }
}
