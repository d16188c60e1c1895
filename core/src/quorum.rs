//! What an acknowledged write promises, and whose word it takes: how many copies an acknowledgement needs, and how many
//! promises a change of master.
//!
//! Both together are the proof that nothing acknowledged is lost: any set of nodes that can elect a master has a node in
//! common with any set that can acknowledge a write.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::NodeId;

/// What an acknowledged write promises (`spec.replication.acknowledge`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all_fields = "camelCase")]
pub enum Acknowledge {
    /// Nothing beyond the master: replies leave at once.
    #[default]
    Async,
    /// Replies are held until so many replicas have the write. After the timeout the shard degrades to Async, and says
    /// so, until they have caught up.
    SemiSync {
        /// Replicas that must have the write.
        replicas: u16,
        /// For how long a reply is held, in milliseconds.
        timeout_ms: u64,
    },
    /// Replies are held until so many nodes have the write. It never degrades: after the timeout the reply is an error
    /// that says that the outcome is unknown.
    Quorum {
        /// Nodes that must have the write, the master included.
        copies: u16,
        /// For how long a reply is held, in milliseconds.
        timeout_ms: u64,
    },
}

impl Acknowledge {
    /// Copies that an acknowledged write has, the master's included: W in DESIGN's words. 1 promises nothing.
    #[must_use]
    pub const fn copies(self) -> u16 {
        match self {
            Self::Async => 1,
            Self::SemiSync { replicas, .. } => replicas.saturating_add(1),
            Self::Quorum { copies, .. } => copies,
        }
    }

    /// For how long a reply is held at most, in milliseconds; `None` if none is.
    #[must_use]
    pub const fn timeout_ms(self) -> Option<u64> {
        match self {
            Self::Async => None,
            Self::SemiSync { timeout_ms, .. } | Self::Quorum { timeout_ms, .. } => Some(timeout_ms),
        }
    }

    /// Whether replies wait for other nodes.
    #[must_use]
    pub const fn holds_replies(self) -> bool {
        self.copies() > 1
    }
}

impl fmt::Display for Acknowledge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Async => write!(f, "Async"),
            Self::SemiSync { replicas, .. } => write!(f, "SemiSync (replicas {replicas})"),
            Self::Quorum { copies, .. } => write!(f, "Quorum (copies {copies})"),
        }
    }
}

/// The nodes whose word counts, and how many copies an acknowledged write has among them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Electorate {
    /// The nodes that vote: D of them.
    pub voters: Vec<NodeId>,
    /// Copies that an acknowledged write has among them: W. 0 where an acknowledgement promises nothing.
    pub copies: u16,
}

impl Electorate {
    /// Promises of data nodes that make a majority. Where the number of voters is even, the operator is one more voter, a
    /// witness, and `with_witness` says whether it votes.
    #[must_use]
    pub fn majority(&self, with_witness: bool) -> usize {
        let data = self.voters.len();
        if data.is_multiple_of(2) && with_witness { (data / 2).max(1) } else { data / 2 + 1 }
    }

    /// Data nodes that must promise so that one of them has every acknowledged write: D−W+1. Where an acknowledgement
    /// promises nothing, one that has data is enough.
    #[must_use]
    pub fn readers(&self) -> usize {
        match self.copies {
            0 => 1,
            copies => (self.voters.len() + 1).saturating_sub(usize::from(copies)).max(1),
        }
    }

    /// The same without voters that are gone for good, with their promises and what they held.
    #[must_use]
    pub fn without(mut self, gone: impl Fn(NodeId) -> bool) -> Self {
        let before = self.voters.len();
        self.voters.retain(|&id| !gone(id));
        let lost = u16::try_from(before - self.voters.len()).unwrap_or(u16::MAX);
        if self.copies > 0 {
            self.copies = self.copies.saturating_sub(lost).max(1);
        }
        self
    }

    /// Copies that a decision must have so that every election sees it, whatever acknowledgements promise.
    #[must_use]
    pub fn decisive(&self) -> usize {
        let electing = self.majority(true).max(self.readers());
        (self.voters.len() + 1).saturating_sub(electing).max(usize::from(self.copies))
    }

    /// The offset up to which at least `copies` of the voters hold the stream; `held` tells how far a node is, if that
    /// counts. 0 if there are not so many.
    #[must_use]
    pub fn reached(&self, copies: usize, held: impl Fn(NodeId) -> Option<u64>) -> u64 {
        let mut offsets: Vec<u64> = self.voters.iter().filter_map(|&id| held(id)).collect();
        offsets.sort_unstable_by(|a, b| b.cmp(a));
        offsets.get(copies.saturating_sub(1)).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> NodeId {
        NodeId::from_bytes([n; 20])
    }

    fn electorate(voters: u8, copies: u16) -> Electorate {
        Electorate { voters: (0..voters).map(id).collect(), copies }
    }

    /// Every set of voters, as bits.
    fn sets(voters: u8) -> impl Iterator<Item = u16> + Clone {
        0..1 << voters
    }

    #[test]
    fn whoever_elects_has_every_acknowledged_write() {
        for voters in 1..=9 {
            for copies in 1..=u16::from(voters) {
                let electorate = electorate(voters, copies);
                let electing = electorate.majority(true).max(electorate.readers()) as u32;
                for elect in sets(voters).filter(|set| set.count_ones() == electing) {
                    for hold in sets(voters).filter(|set| set.count_ones() == u32::from(copies)) {
                        assert!(elect & hold != 0, "{voters} voters, {copies} copies");
                    }
                }
            }
        }
    }

    #[test]
    fn two_elections_have_a_voter_in_common() {
        for voters in 1..=9 {
            let electorate = electorate(voters, 0);
            let all = usize::from(voters) + usize::from(voters % 2 == 0);
            let with_witness = electorate.majority(true) + usize::from(voters % 2 == 0);
            assert!(2 * with_witness > all && 2 * electorate.majority(false) > all, "{voters} voters");
        }
    }

    #[test]
    fn every_election_sees_a_decisive_copy() {
        for voters in 1..=9 {
            for copies in 0..=u16::from(voters) {
                let electorate = electorate(voters, copies);
                let electing = electorate.majority(true).max(electorate.readers());
                assert!(electing + electorate.decisive() > usize::from(voters), "{voters} {copies}");
                assert!(electorate.decisive() <= usize::from(voters), "{voters} {copies}");
            }
        }
    }

    #[test]
    fn what_gone_voters_held_is_not_counted_on() {
        for voters in 2..=6 {
            for copies in 1..=u16::from(voters) {
                for lost in 1..u16::from(voters) {
                    let left =
                        electorate(voters, copies).without(|node| u16::from(node.as_bytes()[0]) < lost);
                    let electing = left.majority(true).max(left.readers()) as u32;
                    let alive = (1 << voters) - (1 << lost);
                    let holders = |set: &u16| set.count_ones() == u32::from(copies) && set & alive != 0;
                    for hold in sets(voters).filter(holders) {
                        for elect in
                            sets(voters).filter(|set| set & !alive == 0 && set.count_ones() == electing)
                        {
                            assert!(elect & hold != 0, "{voters} voters, {copies} copies, {lost} lost");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn an_offset_is_reached_by_so_many() {
        let offsets = |n: NodeId| {
            [Some(50), Some(30), None, Some(40)].get(usize::from(n.as_bytes()[0])).copied().flatten()
        };
        let electorate = electorate(4, 2);
        let reached: Vec<_> = (1..=4).map(|copies| electorate.reached(copies, offsets)).collect();
        assert_eq!(reached, [50, 40, 30, 0]);
    }
}
