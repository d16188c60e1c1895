//! Scores and ids in order: a B+-tree that counts, so that places are found by position and positions by order.
//!
//! It does not know the order: callers give the place by a predicate that holds for a first part of the pairs.

use std::ops::Range;

/// The most pairs of a leaf, and the most children of an inner node.
const NODE_MAX: usize = 64;

/// A node that is smaller than this is put together with a neighbour where both are small.
const NODE_MIN: usize = NODE_MAX / 4;

/// The most of what is put together, so that it is not split at once.
const MERGED_MAX: usize = NODE_MAX * 3 / 4;

/// A score, and the id of its member. The score is cut in two, so that a pair takes twelve bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    score: [u32; 2],
    pub(super) id: u32,
}

impl Pair {
    /// A pair of a score and an id.
    pub(super) fn new(score: f64, id: u32) -> Self {
        let bits = score.to_bits();
        Self { score: [bits as u32, (bits >> u32::BITS) as u32], id }
    }

    /// The score.
    pub(super) fn score(self) -> f64 {
        let [low, high] = self.score.map(u64::from);
        f64::from_bits(high << u32::BITS | low)
    }
}

#[derive(Clone, Debug)]
enum Node {
    Leaf(Vec<Pair>),
    Inner(Box<Inner>),
}

/// Children, with the number of pairs below each and the last of them.
#[derive(Clone, Debug, Default)]
struct Inner {
    counts: Vec<u32>,
    lasts: Vec<Pair>,
    nodes: Vec<Node>,
}

/// Takes one half of a full row to the right; the whole of it, or nothing, where it grows at an end.
fn split<T>(row: &mut Vec<T>, at: usize) -> Vec<T> {
    let half = match at {
        0 => 1,
        at if at + 1 == row.len() => at,
        _ => row.len() / 2,
    };
    row.split_off(half)
}

fn add<T>(row: &mut Vec<T>, at: usize, new: T) {
    row.insert(at.min(row.len()), new);
}

impl Inner {
    fn memory(&self) -> usize {
        size_of::<Self>()
            + self.counts.capacity() * size_of::<u32>()
            + self.lasts.capacity() * size_of::<Pair>()
            + self.nodes.capacity() * size_of::<Node>()
    }

    fn insert_child(&mut self, at: usize, node: Node) {
        let Some(last) = node.last() else { return };
        add(&mut self.counts, at, node.count() as u32);
        add(&mut self.lasts, at, last);
        add(&mut self.nodes, at, node);
    }

    fn remove_child(&mut self, at: usize) -> Option<Node> {
        (at < self.nodes.len()).then(|| {
            self.counts.remove(at);
            self.lasts.remove(at);
            self.nodes.remove(at)
        })
    }

    /// Notes what a child holds now.
    fn refresh(&mut self, at: usize, change: i32) {
        if let (Some(count), Some(place), Some(node)) =
            (self.counts.get_mut(at), self.lasts.get_mut(at), self.nodes.get(at))
        {
            *count = count.wrapping_add_signed(change);
            *place = node.last().unwrap_or(*place);
        }
    }

    /// The child where the first pair is that does not fulfil `before`, or the last child.
    fn child(&self, before: &impl Fn(Pair) -> bool) -> usize {
        self.lasts.partition_point(|last| before(*last)).min(self.nodes.len().saturating_sub(1))
    }

    /// Takes a child away that is empty, or puts it together with a neighbour.
    fn tidy(&mut self, at: usize, bytes: &mut usize) {
        let len = |at: usize| self.nodes.get(at).map(Node::len);
        if len(at) == Some(0) {
            let gone = self.remove_child(at);
            *bytes -= gone.map_or(0, |node| node.own_memory());
            return;
        }
        if len(at).is_none_or(|len| len >= NODE_MIN) {
            return;
        }
        let together = |left: usize| len(left).zip(len(left + 1)).is_some_and(|(a, b)| a + b <= MERGED_MAX);
        let left = [Some(at), at.checked_sub(1)].into_iter().flatten().find(|left| together(*left));
        let Some(left) = left else { return };
        let (Some(mut a), Some(b)) = (self.remove_child(left), self.remove_child(left)) else { return };
        *bytes -= a.own_memory() + b.own_memory();
        a.append(b);
        *bytes += a.own_memory();
        self.insert_child(left, a);
    }
}

impl Node {
    /// Number of pairs, or of children.
    fn len(&self) -> usize {
        match self {
            Self::Leaf(pairs) => pairs.len(),
            Self::Inner(inner) => inner.nodes.len(),
        }
    }

    /// Number of pairs below.
    fn count(&self) -> usize {
        match self {
            Self::Leaf(pairs) => pairs.len(),
            Self::Inner(inner) => inner.counts.iter().map(|count| *count as usize).sum(),
        }
    }

    fn last(&self) -> Option<Pair> {
        match self {
            Self::Leaf(pairs) => pairs.last().copied(),
            Self::Inner(inner) => inner.lasts.last().copied(),
        }
    }

    /// Bytes that it takes, without its children and itself.
    fn own_memory(&self) -> usize {
        match self {
            Self::Leaf(pairs) => pairs.capacity() * size_of::<Pair>(),
            Self::Inner(inner) => inner.memory(),
        }
    }

    fn append(&mut self, right: Self) {
        match (self, right) {
            (Self::Leaf(a), Self::Leaf(b)) => a.extend(b),
            (Self::Inner(a), Self::Inner(b)) => {
                a.counts.extend(b.counts);
                a.lasts.extend(b.lasts);
                a.nodes.extend(b.nodes);
            }
            // All children of a node have the same height.
            _ => {}
        }
    }

    /// Puts a pair in behind those that are `before` it. Returns the right part of a node that was split.
    fn insert(&mut self, before: &impl Fn(Pair) -> bool, new: Pair, bytes: &mut usize) -> Option<Self> {
        let old = self.own_memory();
        let right = match self {
            Self::Leaf(pairs) => {
                let at = pairs.partition_point(|pair| before(*pair));
                if pairs.len() == pairs.capacity() {
                    // Never more than a leaf has before it is split.
                    pairs.reserve_exact((pairs.len() / 4 + 4).min(NODE_MAX + 1 - pairs.len()));
                }
                pairs.insert(at, new);
                (pairs.len() > NODE_MAX).then(|| Self::Leaf(split(pairs, at)))
            }
            Self::Inner(inner) => {
                let at = inner.child(before);
                let right = inner.nodes.get_mut(at).and_then(|node| node.insert(before, new, bytes));
                match right {
                    None => {
                        inner.refresh(at, 1);
                        None
                    }
                    Some(right) => {
                        inner.refresh(at, 1 - right.count() as i32);
                        inner.insert_child(at + 1, right);
                        (inner.nodes.len() > NODE_MAX).then(|| {
                            let nodes = split(&mut inner.nodes, at + 1);
                            let keep = inner.nodes.len();
                            let (counts, lasts) = (inner.counts.split_off(keep), inner.lasts.split_off(keep));
                            Self::Inner(Box::new(Inner { counts, lasts, nodes }))
                        })
                    }
                }
            }
        };
        *bytes = *bytes + self.own_memory() + right.as_ref().map_or(0, Self::own_memory) - old;
        right
    }

    /// Takes the first pair out that is not `before`.
    fn remove(&mut self, before: &impl Fn(Pair) -> bool, bytes: &mut usize) -> Option<Pair> {
        match self {
            Self::Leaf(pairs) => {
                let at = pairs.partition_point(|pair| before(*pair));
                (at < pairs.len()).then(|| pairs.remove(at))
            }
            Self::Inner(inner) => {
                let at = inner.child(before);
                let removed = inner.nodes.get_mut(at)?.remove(before, bytes)?;
                inner.refresh(at, -1);
                inner.tidy(at, bytes);
                Some(removed)
            }
        }
    }

    /// Gives the first pair that is not `before` another id.
    fn set_id(&mut self, before: &impl Fn(Pair) -> bool, id: u32) {
        match self {
            Self::Leaf(pairs) => {
                let at = pairs.partition_point(|pair| before(*pair));
                pairs.get_mut(at).into_iter().for_each(|pair| pair.id = id);
            }
            Self::Inner(inner) => {
                let at = inner.child(before);
                inner.nodes.get_mut(at).into_iter().for_each(|node| node.set_id(before, id));
                inner.refresh(at, 0);
            }
        }
    }

    /// How many pairs are `before`.
    fn rank(&self, before: &impl Fn(Pair) -> bool) -> usize {
        match self {
            Self::Leaf(pairs) => pairs.partition_point(|pair| before(*pair)),
            Self::Inner(inner) => {
                let at = inner.child(before);
                let whole: usize = inner.counts.iter().take(at).map(|count| *count as usize).sum();
                whole + inner.nodes.get(at).map_or(0, |node| node.rank(before))
            }
        }
    }

    /// Adds the parts of leaves that make up a range of positions.
    fn cut<'a>(&'a self, range: Range<usize>, cuts: &mut Vec<&'a [Pair]>) {
        match self {
            Self::Leaf(pairs) => cuts.extend(pairs.get(range.start..range.end.min(pairs.len()))),
            Self::Inner(inner) => {
                let mut start = 0;
                for (node, count) in inner.nodes.iter().zip(&inner.counts) {
                    let end = start + *count as usize;
                    if start >= range.end {
                        break;
                    }
                    if end > range.start {
                        node.cut(range.start.saturating_sub(start)..range.end.min(end) - start, cuts);
                    }
                    start = end;
                }
            }
        }
    }
}

/// Pairs in order.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    root: Node,
    /// Bytes of all nodes.
    bytes: usize,
}

impl Default for Tree {
    fn default() -> Self {
        Self { root: Node::Leaf(Vec::new()), bytes: 0 }
    }
}

impl Tree {
    /// Puts a pair in behind those that are `before` it.
    pub(super) fn insert(&mut self, before: impl Fn(Pair) -> bool, new: Pair) {
        let Some(right) = self.root.insert(&before, new, &mut self.bytes) else { return };
        let left = std::mem::replace(&mut self.root, Node::Leaf(Vec::new()));
        let mut inner = Inner::default();
        inner.insert_child(0, left);
        inner.insert_child(1, right);
        self.bytes += inner.memory();
        self.root = Node::Inner(Box::new(inner));
    }

    /// Takes the first pair out that is not `before`.
    pub(super) fn remove(&mut self, before: impl Fn(Pair) -> bool) {
        self.root.remove(&before, &mut self.bytes);
        if let Node::Inner(inner) = &mut self.root
            && inner.nodes.len() <= 1
        {
            self.bytes -= inner.memory();
            self.root = inner.remove_child(0).unwrap_or(Node::Leaf(Vec::new()));
        }
    }

    /// Gives the first pair that is not `before` another id.
    pub(super) fn set_id(&mut self, before: impl Fn(Pair) -> bool, id: u32) {
        self.root.set_id(&before, id);
    }

    /// How many pairs are `before`.
    pub(super) fn rank(&self, before: impl Fn(Pair) -> bool) -> usize {
        self.root.rank(&before)
    }

    /// The pairs of a range of positions.
    pub(super) fn range(&self, range: Range<usize>) -> impl DoubleEndedIterator<Item = Pair> {
        let mut cuts = Vec::new();
        if !range.is_empty() {
            self.root.cut(range, &mut cuts);
        }
        cuts.into_iter().flatten().copied()
    }

    /// Bytes of all nodes.
    pub(super) fn memory(&self) -> usize {
        self.bytes
    }

    /// [`Tree::memory`] without the use of counters, after a check of what nodes note of their children.
    #[cfg(test)]
    pub(super) fn recounted(&self) -> usize {
        fn check(node: &Node) -> usize {
            let Node::Inner(inner) = node else { return node.own_memory() };
            assert!(inner.nodes.len() <= NODE_MAX);
            for (index, child) in inner.nodes.iter().enumerate() {
                assert!(child.len() > 0);
                assert_eq!(
                    (inner.counts[index] as usize, Some(inner.lasts[index])),
                    (child.count(), child.last())
                );
            }
            node.own_memory() + inner.nodes.iter().map(check).sum::<usize>()
        }
        check(&self.root)
    }
}
