//! Who may go on where: the replication histories of nodes that are cut off, restarted, promoted and hung below others at
//! random, by the node's own code ([`History`] and its backlog), in worlds drawn from a seed.
//!
//! What a history is worth is its promise: whoever is told that it can go on has, byte by byte, what the other one had at
//! that offset. The worlds are wild on purpose: several nodes may lead and take writes at once, as unmanaged ones can, and a
//! node loads snapshots of any age. In the end all hang below one, and must hold the same.
//!
//! `SEED=7 cargo test -p kv-node --test histories` replays one world, `SEEDS=1000000` runs more of them.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::ops::Range;

use kv_node::replication::{History, ResyncVerdict};

const STEPS: usize = 160;
const BACKLOG: usize = 1;

/// A file that a node has saved.
#[derive(Clone)]
struct Saved {
    content: Vec<u8>,
    replid: String,
}

struct Node {
    history: History,
    /// All that it holds: what its stream has brought since the beginning, so that its length is its offset.
    content: Vec<u8>,
    /// Who feeds it, if its link is up.
    fed_by: Option<usize>,
    /// Whether it follows somebody, be the link up or not. Who does not takes writes.
    follows: Option<usize>,
    saved: Option<Saved>,
}

struct World {
    nodes: Vec<Node>,
    rng: fastrand::Rng,
    /// What happened, for a failed world.
    told: Vec<String>,
    partial: u64,
    /// Whether so much is written that the backlog cannot keep all.
    large: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let count = rng.usize(2..6);
        let nodes = (0..count).map(|_| Node {
            history: History::new(&mut rng, BACKLOG),
            content: Vec::new(),
            fed_by: None,
            follows: None,
            saved: None,
        });
        let nodes = nodes.collect();
        let large = rng.u8(0..50) == 0;
        Self { nodes, rng, told: Vec::new(), partial: 0, large }
    }

    fn tell(&mut self, what: String) {
        self.told.push(what);
    }

    fn any(&mut self) -> usize {
        self.rng.usize(0..self.nodes.len())
    }

    fn step(&mut self) {
        let node = self.any();
        match self.rng.u8(0..20) {
            0..=5 => self.write(node),
            6..=10 => self.feed(node),
            11..=13 => self.attach(node),
            14 => self.cut(node),
            15 => self.promote(node),
            16 | 17 => {
                let parent = self.any();
                self.follow(node, parent);
            }
            18 => self.save(node),
            _ => self.restart(node),
        }
        self.check();
    }

    /// A client writes to a node that follows nobody.
    fn write(&mut self, at: usize) {
        let len = if self.large && self.rng.u8(0..10) == 0 { 70_000 } else { self.rng.usize(1..200) };
        let bytes: Vec<u8> = (0..len).map(|_| self.rng.u8(..)).collect();
        let node = &mut self.nodes[at];
        if node.follows.is_none() {
            node.history.record();
            node.history.backlog.append(&bytes);
            node.content.extend_from_slice(&bytes);
            self.tell(format!("{at} takes {len} bytes"));
        }
    }

    /// A node gets more of its parent's stream, or all that there is.
    fn feed(&mut self, at: usize) {
        let Some(parent) = self.nodes[at].fed_by else { return };
        let mut left = if self.rng.bool() { usize::MAX } else { self.rng.usize(1..300) };
        loop {
            let position = self.nodes[at].history.offset();
            let bytes = self.nodes[parent].history.backlog.read(position).expect("what it needs is kept");
            let bytes = bytes[..bytes.len().min(left)].to_vec();
            if bytes.is_empty() {
                return self.trim(parent);
            }
            left -= bytes.len();
            let node = &mut self.nodes[at];
            node.history.backlog.append(&bytes);
            node.content.extend_from_slice(&bytes);
        }
    }

    /// What nobody needs and the backlog's size does not ask for is dropped.
    fn trim(&mut self, at: usize) {
        let fed = self.nodes.iter().filter(|node| node.fed_by == Some(at));
        let needed = fed.map(|node| node.history.offset()).min().unwrap_or(u64::MAX);
        self.nodes[at].history.backlog.trim(needed);
        if needed == u64::MAX && self.rng.u8(0..20) == 0 {
            // It had no replica for long.
            let end = self.nodes[at].history.offset();
            self.nodes[at].history.backlog.reset(end);
        }
    }

    /// A node whose link is down asks its parent to go on, or to get everything.
    fn attach(&mut self, at: usize) {
        let Some(parent) = self.nodes[at].follows.filter(|_| self.nodes[at].fed_by.is_none()) else { return };
        // As a node does: who waits for a parent itself may be about to hold something else.
        if self.nodes[parent].follows.is_some() && self.nodes[parent].fed_by.is_none() {
            return;
        }
        self.nodes[parent].history.record();
        let asks = match &self.nodes[at].history {
            history if history.is_recorded() => (history.replid.clone(), history.offset()),
            _ => ("?".to_owned(), 0),
        };
        let verdict = self.nodes[parent].history.resync(&asks.0, asks.1);
        let (replid, previous) = {
            let history = &self.nodes[parent].history;
            // Nodes of a shard say which history they continue, and Redis does not.
            (history.replid.clone(), history.previous.clone().filter(|_| self.rng.bool()))
        };
        self.tell(format!("{at} asks {parent} for {asks:?}: {verdict:?}"));
        match verdict {
            ResyncVerdict::Ahead(_) if self.nodes[parent].follows.is_some() => return,
            ResyncVerdict::Continue(offset) => {
                let (had, has) = (&self.nodes[at].content, &self.nodes[parent].content);
                let same = has.get(..had.len()) == Some(had.as_slice()) && offset == had.len() as u64;
                assert!(same, "{at} goes on below {parent} and holds something else");
                self.partial += 1;
                let node = &mut self.nodes[at];
                if replid != node.history.replid {
                    let switch = previous
                        .filter(|(id, _)| *id == node.history.replid)
                        .map_or(node.history.offset(), |(_, switch)| switch);
                    node.history.rename(replid, switch);
                    self.drop_replicas(at);
                }
            }
            ResyncVerdict::Ahead(_) | ResyncVerdict::Full => {
                let content = self.nodes[parent].content.clone();
                self.drop_replicas(at);
                let node = &mut self.nodes[at];
                node.history.adopt(replid, content.len() as u64);
                node.content = content;
            }
        }
        self.nodes[at].fed_by = Some(parent);
    }

    fn drop_replicas(&mut self, at: usize) {
        self.nodes.iter_mut().filter(|node| node.fed_by == Some(at)).for_each(|node| node.fed_by = None);
    }

    fn cut(&mut self, at: usize) {
        self.nodes[at].fed_by = None;
    }

    fn promote(&mut self, at: usize) {
        if self.nodes[at].follows.is_none() {
            return;
        }
        self.tell(format!("{at} leads"));
        (self.nodes[at].follows, self.nodes[at].fed_by) = (None, None);
        self.nodes[at].history.fork(&mut self.rng);
        self.drop_replicas(at);
    }

    /// Follows another one, unless that is fed by it.
    fn follow(&mut self, at: usize, parent: usize) {
        let mut above = Some(parent);
        while let Some(node) = above {
            if node == at {
                return;
            }
            above = self.nodes[node].follows;
        }
        self.tell(format!("{at} follows {parent}"));
        (self.nodes[at].follows, self.nodes[at].fed_by) = (Some(parent), None);
    }

    fn save(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if node.history.is_recorded() {
            node.saved = Some(Saved { content: node.content.clone(), replid: node.history.replid.clone() });
        }
    }

    /// A node ends and starts again with what it has saved, which may be old; with nothing, it is empty.
    fn restart(&mut self, at: usize) {
        let follows = self.nodes[at].follows;
        self.drop_replicas(at);
        let mut history = History::new(&mut self.rng, BACKLOG);
        let saved = self.nodes[at].saved.clone();
        let content = match saved {
            Some(saved) if !saved.replid.is_empty() => {
                history.restore(Some(saved.replid), saved.content.len() as u64);
                saved.content
            }
            _ => Vec::new(),
        };
        if follows.is_some() {
            history.resume(0);
        }
        self.tell(format!("{at} starts again with {} bytes", content.len()));
        let node = &mut self.nodes[at];
        (node.history, node.content, node.fed_by) = (history, content, None);
    }

    /// A node's offset counts what it holds, its backlog holds the end of that, and who is fed holds what its parent held.
    fn check(&self) {
        for (at, node) in self.nodes.iter().enumerate() {
            assert_eq!(node.history.offset(), node.content.len() as u64, "{at}");
            let kept: Range<usize> = node.history.backlog.start() as usize..node.content.len();
            assert_eq!(read(node, kept.start), node.content[kept], "the backlog of {at}");
            if let Some(parent) = node.fed_by {
                let has = self.nodes[parent].content.get(..node.content.len());
                assert_eq!(has, Some(node.content.as_slice()), "{at} is fed by {parent}");
            }
        }
    }

    /// Everybody hangs below one, in some shape, and nothing goes wrong any more.
    fn heal(&mut self) {
        let master = self.any();
        self.promote(master);
        let mut placed = vec![master];
        for at in 0..self.nodes.len() {
            if at != master {
                self.nodes[at].follows = None;
                let parent = placed[self.rng.usize(0..placed.len())];
                (self.nodes[at].follows, self.nodes[at].fed_by) = (Some(parent), None);
                placed.push(at);
            }
        }
        self.write(master);
        for _ in 0..self.nodes.len() * 3 {
            for at in placed.clone() {
                self.attach(at);
                while self.nodes[at].fed_by.is_some_and(|parent| {
                    self.nodes[parent].history.offset() > self.nodes[at].history.offset()
                }) {
                    self.feed(at);
                }
                self.check();
            }
        }
        for at in placed {
            assert!(self.nodes[at].content == self.nodes[master].content, "{at} differs from {master}");
        }
    }
}

fn read(node: &Node, from: usize) -> Vec<u8> {
    let (mut all, mut position) = (Vec::new(), from as u64);
    while position < node.history.backlog.end() {
        let bytes = node.history.backlog.read(position).expect("a kept position");
        all.extend_from_slice(bytes);
        position += bytes.len() as u64;
    }
    all
}

/// Runs a world; returns how often a node went on where it stood.
fn run(seed: u64) -> u64 {
    let ran = std::panic::catch_unwind(|| {
        let mut world = World::new(seed);
        let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            (0..STEPS).for_each(|_| world.step());
            world.heal();
        }));
        if told.is_err() {
            eprintln!("SEED={seed}\n{}", world.told.join("\n"));
        }
        assert!(told.is_ok());
        world.partial
    });
    ran.unwrap_or_else(|_| panic!("SEED={seed}"))
}

#[test]
fn who_goes_on_has_what_the_other_one_had() {
    if let Ok(seed) = std::env::var("SEED") {
        run(seed.parse().expect("SEED is a number"));
        return;
    }
    let seeds = std::env::var("SEEDS").map_or(10_000, |seeds| seeds.parse().expect("SEEDS is a number"));
    let began = fastrand::u64(..u64::MAX / 2);
    let partial: u64 = (began..began + seeds).map(run).sum();
    // Else this would have shown nothing.
    assert!(partial > seeds, "{partial} partial resynchronisations in {seeds} worlds");
}
