//! What a shard's nodes agree on, and what every node knows of the whole cluster.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{ClusterUid, Epoch, NodeId};
use crate::lease::Failover;
use crate::quorum::{Acknowledge, Electorate};
use crate::slot::SlotSet;
use crate::source::Source;
use crate::topology::Topology;

/// The longest that a master may be silent: a day.
const LONGEST_MS: u64 = 24 * 3600 * 1000;

/// Whether a node is the writer of its shard or a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    /// The shard's one writer.
    Master,
    /// A copy, fed by its parent.
    Replica,
}

/// One node of a shard, as the shard's config has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// Its random id. A pod of the same name with another id is another node.
    pub id: NodeId,
    /// Its name: the pod's, such as `shop-0-1`.
    pub name: String,
    /// Who feeds it; `None` for the master.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<NodeId>,
}

/// The config of a shard. It changes only under a higher epoch; a node that promised an epoch refuses older ones.
///
/// A change that keeps the master is sent to the master first (`KV ACCEPT`), which orders rival proposals. A change of
/// master is prepared first (`KV PREPARE`), see DESIGN "Who decides" in ARCHITECTURE.md.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShardConfig {
    /// The cluster.
    pub uid: ClusterUid,
    /// Index of the shard in the cluster, from 0.
    pub shard: u16,
    /// The epoch under which this config was decided.
    pub epoch: Epoch,
    /// The writer; one of `members`.
    pub master: NodeId,
    /// All nodes of the shard, the master included, in order of name.
    pub members: Vec<Member>,
    /// The slots that the shard serves.
    pub slots: SlotSet,
    /// What an acknowledged write promises.
    #[serde(default)]
    pub acknowledge: Acknowledge,
    /// How its replicas hang below its master.
    #[serde(default)]
    pub topology: Topology,
    /// When its master counts as lost, and what one does that hears nobody.
    #[serde(default)]
    pub failover: Failover,
    /// The server that the master follows, so that the shard takes no writes; `None` if the shard has data of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// While members or copies change: those of before, whose word counts as well. All of them must acknowledge a write, and
    /// all elect; so no decision of the one goes unseen by the other.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overlap: Vec<Electorate>,
    /// Those of them that are no members any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former: Vec<Member>,
    /// Slots that the shard gave away, of which it keeps the data until the other shard is known to serve them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub given: Vec<Transfer>,
    /// Slots that the shard took, as long as the giver may not know; they are in `slots`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taken: Vec<Transfer>,
    /// Slots that another shard serves, and of which keys may be here, left over or on their way in: its master deletes those
    /// that it does not import.
    #[serde(default, skip_serializing_if = "SlotSet::is_empty")]
    pub left: SlotSet,
}

/// A transfer certificate: slots that went from one shard to another. It is decided when the giver's config has it, and from
/// then on it says who owns them, whoever dies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Transfer {
    /// Which slots.
    pub slots: SlotSet,
    /// Index of the shard that gave them.
    pub from: u16,
    /// Index of the shard that gets them.
    pub to: u16,
    /// The hold of writes that it was decided under: who has all that was written until then has seen this id.
    pub id: String,
}

impl ShardConfig {
    /// The members as voters.
    #[must_use]
    pub fn electorate(&self) -> Electorate {
        let copies = if self.acknowledge.holds_replies() { self.acknowledge.copies() } else { 0 };
        Electorate { voters: self.members.iter().map(|member| member.id).collect(), copies }
    }

    /// All whose word counts: the members, and those of before while that changes.
    pub fn electorates(&self) -> impl Iterator<Item = Electorate> {
        std::iter::once(self.electorate()).chain(self.overlap.iter().cloned())
    }

    /// The offset up to which a write may be acknowledged; `held` tells how far a node is, if it accepted this config.
    #[must_use]
    pub fn durable(&self, held: impl Fn(NodeId) -> Option<u64>) -> u64 {
        let own = self.electorate();
        let before = self.overlap.iter().map(|old| old.reached(old.decisive(), &held));
        before.fold(own.reached(usize::from(own.copies.max(1)), &held), u64::min)
    }

    /// The member with this id.
    #[must_use]
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        self.members.iter().find(|member| member.id == id)
    }

    /// All whose word counts, by name: the members and, while that changes, those of before.
    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().chain(&self.former)
    }

    /// The role of the node with this id; `None` if it is no member.
    #[must_use]
    pub fn role(&self, id: NodeId) -> Option<Role> {
        self.member(id).map(|_| if id == self.master { Role::Master } else { Role::Replica })
    }

    /// Whether replies wait for other nodes.
    #[must_use]
    pub fn holds_replies(&self) -> bool {
        self.acknowledge.holds_replies()
    }

    /// Checks that the master is a member without a parent, that ids and names are unique, that every other member's
    /// parents lead to the master without a cycle, and that the times of failover can be kept.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        let master = self.member(self.master).ok_or(InvalidConfig::MasterNotMember(self.master))?;
        if master.parent.is_some() {
            return Err(InvalidConfig::MasterHasParent(self.master));
        }
        let Failover { down_after_ms, lease_ms, .. } = self.failover;
        if lease_ms == 0 || lease_ms >= down_after_ms || down_after_ms > LONGEST_MS {
            return Err(InvalidConfig::Failover { down_after_ms, lease_ms });
        }
        let by_id: BTreeMap<_, _> = self.members.iter().map(|member| (member.id, member)).collect();
        let names: std::collections::BTreeSet<_> = self.members.iter().map(|member| &member.name).collect();
        if by_id.len() != self.members.len() || names.len() != self.members.len() {
            return Err(InvalidConfig::DuplicateMember);
        }
        let apart = |transfer: &Transfer| transfer.slots.is_disjoint(&self.slots);
        let within = |transfer: &Transfer| self.slots.is_superset(&transfer.slots);
        if !self.given.iter().all(apart)
            || !self.taken.iter().all(within)
            || !self.left.is_disjoint(&self.slots)
        {
            return Err(InvalidConfig::Transfers);
        }
        for member in &self.members {
            let mut at = member;
            for _ in 0..=self.members.len() {
                match at.parent {
                    Some(parent) => {
                        at = by_id
                            .get(&parent)
                            .copied()
                            .ok_or(InvalidConfig::ParentNotMember(at.id, parent))?;
                    }
                    None => break,
                }
            }
            if at.id != self.master {
                return Err(InvalidConfig::NotFedByMaster(member.id));
            }
        }
        Ok(())
    }
}

/// Why a shard config makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidConfig {
    /// The master is not in the list of members.
    #[error("master {0} is not a member")]
    MasterNotMember(NodeId),
    /// A lease must be shorter than a master may be silent, and neither can be without end.
    #[error("a lease of {lease_ms} ms, and a master that is down after {down_after_ms} ms, make no sense")]
    Failover {
        /// For how long a master must be silent until it counts as down.
        down_after_ms: u64,
        /// For how long an answer binds its voter.
        lease_ms: u64,
    },
    /// The master must be fed by nobody.
    #[error("master {0} has a parent")]
    MasterHasParent(NodeId),
    /// Two members share an id or a name.
    #[error("two members share an id or a name")]
    DuplicateMember,
    /// A slot is served and was given away, or was taken and is not served.
    #[error("slots that are served were given away, or slots that were taken are not served")]
    Transfers,
    /// A parent is not in the list of members.
    #[error("member {0} has a parent {1} that is not a member")]
    ParentNotMember(NodeId, NodeId),
    /// Following the parents of a member does not lead to the master.
    #[error("member {0} is not fed by the master: its parents form a cycle")]
    NotFedByMaster(NodeId),
}

/// Where a node can be reached. It is no part of a shard's config: addresses change without a decision, and a handshake
/// proves who answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeAddress {
    /// IP address that peers and clients connect to.
    pub ip: String,
    /// DNS name that outlives the IP; empty if there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// Port of the data protocol.
    pub port: u16,
    /// Port for peers, as `CLUSTER NODES` announces it.
    pub bus_port: u16,
}

/// All shards with their nodes' addresses: what a node answers `CLUSTER SLOTS` and MOVED from.
///
/// For its own shard a node trusts only the config that it accepted; of the other shards it keeps the config with the
/// highest epoch that it was shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterMap {
    /// The cluster.
    pub uid: ClusterUid,
    /// The shards in order of their index.
    pub shards: Vec<ShardConfig>,
    /// Addresses of the members that are reachable now.
    pub addresses: BTreeMap<NodeId, NodeAddress>,
    /// Members that are known to be down; `CLUSTER NODES` shows them with the flag `fail`, `CLUSTER SLOTS` hides them.
    #[serde(default)]
    pub down: Vec<NodeId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u8) -> NodeId {
        NodeId::from_bytes([n; 20])
    }

    fn config(parents: &[(u8, Option<u8>)]) -> ShardConfig {
        ShardConfig {
            uid: ClusterUid("u".into()),
            shard: 0,
            epoch: Epoch(1),
            master: id(0),
            members: parents
                .iter()
                .map(|&(n, parent)| Member { id: id(n), name: format!("a-0-{n}"), parent: parent.map(id) })
                .collect(),
            slots: SlotSet::all(),
            acknowledge: Acknowledge::Async,
            topology: Topology::Star,
            failover: Failover::default(),
            source: None,
            overlap: Vec::new(),
            former: Vec::new(),
            given: Vec::new(),
            taken: Vec::new(),
            left: SlotSet::default(),
        }
    }

    #[test]
    fn a_cascade_is_valid() {
        assert_eq!(config(&[(0, None), (1, Some(0)), (2, Some(1))]).validate(), Ok(()));
    }

    #[test]
    fn broken_configs_are_told_apart() {
        assert_eq!(config(&[(1, None)]).validate(), Err(InvalidConfig::MasterNotMember(id(0))));
        assert_eq!(config(&[(0, Some(1)), (1, None)]).validate(), Err(InvalidConfig::MasterHasParent(id(0))));
        assert_eq!(
            config(&[(0, None), (1, Some(2)), (2, Some(1))]).validate(),
            Err(InvalidConfig::NotFedByMaster(id(1)))
        );
        assert_eq!(
            config(&[(0, None), (1, Some(7))]).validate(),
            Err(InvalidConfig::ParentNotMember(id(1), id(7)))
        );
        assert_eq!(config(&[(0, None), (1, None)]).validate(), Err(InvalidConfig::NotFedByMaster(id(1))));
        assert_eq!(config(&[(0, None), (0, None)]).validate(), Err(InvalidConfig::DuplicateMember));
    }

    #[test]
    fn times_that_cannot_be_kept_are_refused() {
        for (down_after_ms, lease_ms) in [(2000, 0), (2000, 2000), (0, 0), (u64::MAX, 1500)] {
            let mut config = config(&[(0, None)]);
            config.failover = Failover { down_after_ms, lease_ms, ..config.failover };
            assert_eq!(config.validate(), Err(InvalidConfig::Failover { down_after_ms, lease_ms }));
        }
    }

    #[test]
    fn what_was_given_is_not_served_and_what_was_taken_is() {
        let transfer =
            |slots: std::ops::Range<u16>| Transfer { slots: slots.collect(), from: 0, to: 1, id: "x".into() };
        let mut config = config(&[(0, None)]);
        config.slots = (0..100).collect();
        config.given = vec![transfer(100..200)];
        config.taken = vec![transfer(0..100)];
        config.left = (200..300).collect();
        assert_eq!(config.validate(), Ok(()));
        for broken in [
            ShardConfig { given: vec![transfer(99..200)], ..config.clone() },
            ShardConfig { taken: vec![transfer(99..101)], ..config.clone() },
            ShardConfig { left: (99..101).collect(), ..config.clone() },
        ] {
            assert_eq!(broken.validate(), Err(InvalidConfig::Transfers));
        }
    }
}
