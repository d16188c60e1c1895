//! How the replicas of a shard hang below its master.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use crate::id::NodeId;

/// The shape of replication within a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "PascalCase")]
pub enum Topology {
    /// Every replica is fed by the master.
    #[default]
    Star,
    /// The master feeds one replica, that one the next, and so on.
    Chain,
    /// The master and every relay feed up to `fanout` replicas each.
    Tree {
        /// Children of each node, at least 1.
        fanout: u16,
    },
}

impl Topology {
    /// How many children a node may have.
    #[must_use]
    pub fn fanout(self) -> usize {
        match self {
            Self::Star => usize::MAX,
            Self::Chain => 1,
            Self::Tree { fanout } => usize::from(fanout.max(1)),
        }
    }
}

/// A node of a shard, as the assignment of parents sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// The node.
    pub id: NodeId,
    /// What can be asked of it.
    pub fitness: Fitness,
    /// Who feeds it now.
    pub parent: Option<NodeId>,
}

/// What can be asked of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fitness {
    /// It is in step, and may feed any other.
    Synced,
    /// It is up and on its way: it may feed nodes that are on their way too, and those that it feeds already.
    Joining,
    /// It is down, or about to go: it feeds nobody, and does not count towards the fanout.
    Down,
}

/// Who feeds whom: the parent of every seat but the master's.
///
/// Present parents are kept where the topology allows, so that few streams break. A node that is in step is never moved
/// below one that is not. No node that is up is deeper than it must be; only [`Topology::Chain`] is one line.
#[must_use]
pub fn assign_parents(topology: Topology, master: NodeId, seats: &[Seat]) -> BTreeMap<NodeId, NodeId> {
    let up = seats.iter().filter(|seat| seat.id != master && seat.fitness != Fitness::Down);
    let fanout = topology.fanout();
    let mut tree = Tree { fanout, levels: levels(up.clone().count(), fanout), placed: Vec::new() };
    tree.placed.push(Placed { id: master, parent: None, depth: 0, children: 0 });

    let first = with_relays_above(seats, up.clone().filter(|seat| seat.fitness == Fitness::Synced));
    let (first, second): (Vec<Seat>, Vec<Seat>) = up.partition(|seat| first.contains(&seat.id));
    tree.place(&first);
    tree.place(&second);

    let mut parents: BTreeMap<_, _> =
        tree.placed.iter().filter_map(|placed| Some((placed.id, placed.parent?))).collect();
    for seat in seats.iter().filter(|seat| seat.id != master && seat.fitness == Fitness::Down) {
        let kept = seat.parent.filter(|parent| tree.position(*parent).is_some());
        let free = || tree.shallowest_free().map(|placed| placed.id);
        parents.insert(seat.id, kept.or_else(free).unwrap_or(master));
    }
    parents
}

/// `seats` and all relays that are up and feed them, directly or not.
fn with_relays_above<'a>(all: &'a [Seat], seats: impl Iterator<Item = &'a Seat>) -> BTreeSet<NodeId> {
    let mut found = BTreeSet::new();
    for seat in seats {
        let mut at = Some(seat);
        while let Some(seat) = at.filter(|seat| seat.fitness != Fitness::Down && found.insert(seat.id)) {
            at = all.iter().find(|other| Some(other.id) == seat.parent);
        }
    }
    found
}

/// How many levels below the master `nodes` need at least.
fn levels(nodes: usize, fanout: usize) -> usize {
    let (mut levels, mut width, mut room) = (0, 1_usize, 0_usize);
    while room < nodes {
        width = width.saturating_mul(fanout);
        room = room.saturating_add(width);
        levels += 1;
    }
    levels
}

struct Tree {
    fanout: usize,
    levels: usize,
    placed: Vec<Placed>,
}

struct Placed {
    id: NodeId,
    parent: Option<NodeId>,
    depth: usize,
    children: usize,
}

impl Tree {
    fn position(&self, id: NodeId) -> Option<usize> {
        self.placed.iter().position(|placed| placed.id == id)
    }

    fn has_room(&self, placed: &Placed) -> bool {
        placed.children < self.fanout && placed.depth < self.levels
    }

    fn shallowest_free(&self) -> Option<&Placed> {
        self.placed.iter().filter(|placed| self.has_room(placed)).min_by_key(|placed| placed.depth)
    }

    fn attach(&mut self, id: NodeId, parent: NodeId) {
        if let Some(above) = self.placed.iter_mut().find(|placed| placed.id == parent) {
            above.children += 1;
            let depth = above.depth + 1;
            self.placed.push(Placed { id, parent: Some(parent), depth, children: 0 });
        }
    }

    /// Places all of `seats`: first what may stay below its present parent, then one other after another, each followed by
    /// what may stay below it.
    fn place(&mut self, seats: &[Seat]) {
        let mut waiting: Vec<Seat> = seats.to_vec();
        let mut parents: VecDeque<NodeId> = self.placed.iter().map(|placed| placed.id).collect();
        loop {
            while let Some(parent) = parents.pop_front() {
                parents.extend(self.keep_children(parent, &mut waiting));
            }
            let waits_for_parent = |seat: &Seat| {
                waiting.iter().any(|other| Some(other.id) == seat.parent && other.id != seat.id)
            };
            let next = waiting.iter().position(|seat| !waits_for_parent(seat)).unwrap_or(0);
            if waiting.is_empty() {
                return;
            }
            let seat = waiting.remove(next);
            if let Some(parent) = self.shallowest_free().map(|placed| placed.id) {
                self.attach(seat.id, parent);
                parents.push_back(seat.id);
            }
        }
    }

    fn keep_children(&mut self, parent: NodeId, waiting: &mut Vec<Seat>) -> Vec<NodeId> {
        let mut kept = Vec::new();
        waiting.retain(|seat| {
            let room =
                self.position(parent).and_then(|i| self.placed.get(i)).is_some_and(|at| self.has_room(at));
            let keep = seat.parent == Some(parent) && room;
            if keep {
                self.attach(seat.id, parent);
                kept.push(seat.id);
            }
            !keep
        });
        kept
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(n: usize) -> NodeId {
        NodeId::from_bytes([n as u8; 20])
    }

    fn seats(seats: &[(Fitness, Option<usize>)]) -> Vec<Seat> {
        let seat = |(n, &(fitness, parent)): (usize, &(Fitness, Option<usize>))| Seat {
            id: id(n),
            fitness,
            parent: parent.map(id),
        };
        seats.iter().enumerate().map(seat).collect()
    }

    /// Parents of the nodes 1, 2, 3 ... below master 0.
    fn parents(topology: Topology, input: &[(Fitness, Option<usize>)]) -> Vec<usize> {
        let parents = assign_parents(topology, id(0), &seats(input));
        (1..input.len()).map(|n| (0..input.len()).find(|&p| id(p) == parents[&id(n)]).unwrap()).collect()
    }

    use Fitness::{Down, Joining, Synced};

    #[test]
    fn shapes_from_nothing() {
        let fresh = [(Joining, None); 6];
        assert_eq!(parents(Topology::Star, &fresh), [0, 0, 0, 0, 0]);
        assert_eq!(parents(Topology::Chain, &fresh), [0, 1, 2, 3, 4]);
        assert_eq!(parents(Topology::Tree { fanout: 2 }, &fresh), [0, 0, 1, 1, 2]);
    }

    #[test]
    fn only_what_must_move_moves() {
        let star = [(Synced, None), (Synced, Some(0)), (Synced, Some(0)), (Synced, Some(0))];
        assert_eq!(parents(Topology::Chain, &star), [0, 1, 2]);
        assert_eq!(parents(Topology::Tree { fanout: 2 }, &star), [0, 0, 1]);
        let chain = [(Synced, None), (Synced, Some(0)), (Synced, Some(1)), (Synced, Some(2))];
        assert_eq!(parents(Topology::Star, &chain), [0, 0, 0]);
        assert_eq!(parents(Topology::Tree { fanout: 2 }, &chain), [0, 1, 0]);
    }

    #[test]
    fn children_of_a_relay_that_is_down_move_up_and_it_comes_back_at_the_end() {
        let chain = [(Synced, None), (Down, Some(0)), (Synced, Some(1)), (Synced, Some(2))];
        assert_eq!(parents(Topology::Chain, &chain), [0, 0, 2]);
        let back = [(Synced, None), (Joining, Some(0)), (Synced, Some(0)), (Synced, Some(2))];
        assert_eq!(parents(Topology::Chain, &back), [3, 0, 2]);
    }

    #[test]
    fn a_relay_that_is_still_syncing_keeps_its_children() {
        let chain = [(Synced, None), (Joining, Some(0)), (Synced, Some(1)), (Joining, None)];
        assert_eq!(parents(Topology::Chain, &chain), [0, 1, 2]);
    }

    fn any_topology() -> impl Strategy<Value = Topology> {
        prop_oneof![
            Just(Topology::Star),
            Just(Topology::Chain),
            (1u16..4).prop_map(|fanout| Topology::Tree { fanout })
        ]
    }

    fn any_seat() -> impl Strategy<Value = (Fitness, Option<usize>)> {
        let fitness = prop_oneof![3 => Just(Synced), 1 => Just(Joining), 1 => Just(Down)];
        (fitness, prop::option::of(0usize..10))
    }

    proptest! {
        #[test]
        fn assignments_are_sound(topology in any_topology(), input in prop::collection::vec(any_seat(), 1..10)) {
            let mut seats = seats(&input);
            seats[0].fitness = Synced;
            let parents = assign_parents(topology, id(0), &seats);
            prop_assert_eq!(parents.len(), seats.len() - 1);
            let seat = |id: NodeId| *seats.iter().find(|seat| seat.id == id).unwrap();
            let up = seats.iter().skip(1).filter(|seat| seat.fitness != Down).count();
            for seat in &seats[1..] {
                let mut at = seat.id;
                let mut depth = 0;
                while at != id(0) {
                    at = parents[&at];
                    depth += 1;
                    prop_assert!(depth <= seats.len(), "cycle");
                }
                prop_assert!(seat.fitness == Down || depth <= levels(up, topology.fanout()));
            }
            for (child, parent) in &parents {
                let (child, parent) = (seat(*child), seat(*parent));
                prop_assert!(parent.fitness != Down);
                let kept = child.parent == Some(parent.id);
                let relays = with_relays_above(&seats, seats.iter().filter(|s| s.fitness == Synced));
                prop_assert!(kept || child.fitness != Synced || relays.contains(&parent.id));
            }
            for at in &seats {
                let fed = parents.iter().filter(|(child, parent)| **parent == at.id && seat(**child).fitness != Down);
                prop_assert!(fed.count() <= topology.fanout());
            }
            for seat in &mut seats {
                seat.parent = parents.get(&seat.id).copied();
            }
            prop_assert_eq!(assign_parents(topology, id(0), &seats), parents, "not stable");
        }

        #[test]
        fn nothing_moves_while_nodes_fall_in_step(
            topology in any_topology(), synced in prop::collection::vec(any::<bool>(), 1..10),
        ) {
            let mut seats = seats(&vec![(Joining, None); synced.len()]);
            let parents = assign_parents(topology, id(0), &seats);
            for (seat, synced) in seats.iter_mut().zip(synced) {
                seat.parent = parents.get(&seat.id).copied();
                seat.fitness = if synced { Synced } else { Joining };
            }
            prop_assert_eq!(assign_parents(topology, id(0), &seats), parents);
        }
    }
}
