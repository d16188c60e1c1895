//! For how long a master may go on without hearing from others, and what it does then.
//!
//! A master asks the other voters again and again. Who answers promises to take part in no election against it for the
//! time of the lease, which the master counts from when it asked, so that it never counts for longer than the voter
//! does. A master without the promises of a majority acknowledges nothing: another one may have been elected.
//! (C. Gray, D. Cheriton: Leases, SOSP 1989.)

use serde::{Deserialize, Serialize};

use crate::id::NodeId;
use crate::quorum::Electorate;
use crate::shard::ShardConfig;

/// When a silent master is replaced, and what one does that hears nobody (`spec.failover`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failover {
    /// For how long a master must be silent until it counts as down, in milliseconds.
    pub down_after_ms: u64,
    /// For how long an answer binds its voter, in milliseconds; less than `down_after_ms`.
    pub lease_ms: u64,
    /// What a master does whose lease is over.
    pub on_isolation: OnIsolation,
}

impl Default for Failover {
    fn default() -> Self {
        Self { down_after_ms: 2000, lease_ms: 1500, on_isolation: OnIsolation::RefuseWrites }
    }
}

/// What a master does that cannot reach a majority of the voters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OnIsolation {
    /// It refuses writes, since another one may have been elected.
    #[default]
    RefuseWrites,
    /// It goes on; what it acknowledges is lost if another one was elected.
    KeepWriting,
}

/// Until when, in milliseconds of its own clock, the master `me` of `config` may acknowledge writes. `granted` tells when a
/// voter was asked that has answered since, `witness` the same of the operator. `u64::MAX` if it depends on nobody.
#[must_use]
pub fn until(
    config: &ShardConfig,
    me: NodeId,
    granted: impl Fn(NodeId) -> Option<u64>,
    witness: Option<u64>,
) -> u64 {
    if config.failover.on_isolation == OnIsolation::KeepWriting {
        return u64::MAX;
    }
    let asked = |id: NodeId| if id == me { Some(u64::MAX) } else { granted(id) };
    let since = config.electorates().map(|voters| since(&voters, asked, witness)).min().unwrap_or(0);
    if since == 0 { 0 } else { since.saturating_add(config.failover.lease_ms) }
}

/// When the oldest answer of the freshest majority was asked for; 0 if there is none.
fn since(voters: &Electorate, asked: impl Fn(NodeId) -> Option<u64>, witness: Option<u64>) -> u64 {
    let alone = voters.reached(voters.majority(false), &asked);
    let even = voters.voters.len().is_multiple_of(2);
    let with_witness = witness
        .filter(|_| even)
        .map_or(0, |witness| voters.reached(voters.majority(true), &asked).min(witness));
    alone.max(with_witness)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{ClusterUid, Epoch};
    use crate::quorum::Acknowledge;
    use crate::shard::Member;
    use crate::slot::SlotSet;
    use crate::topology::Topology;

    fn id(n: u8) -> NodeId {
        NodeId::from_bytes([n; 20])
    }

    fn config(nodes: u8) -> ShardConfig {
        let parent = |n: u8| (n > 0).then(|| id(0));
        ShardConfig {
            uid: ClusterUid("u".into()),
            shard: 0,
            epoch: Epoch(1),
            master: id(0),
            members: (0..nodes)
                .map(|n| Member { id: id(n), name: format!("a-0-{n}"), parent: parent(n) })
                .collect(),
            slots: SlotSet::all(),
            acknowledge: Acknowledge::Async,
            topology: Topology::Star,
            failover: Failover { lease_ms: 100, ..Failover::default() },
            source: None,
            overlap: Vec::new(),
            former: Vec::new(),
            given: Vec::new(),
            taken: Vec::new(),
            left: SlotSet::default(),
        }
    }

    /// `answers`: when the nodes from 1 on were asked that answered.
    fn lease(nodes: u8, answers: &[Option<u64>], witness: Option<u64>) -> u64 {
        let granted = |node: NodeId| answers.get(usize::from(node.as_bytes()[0]) - 1).copied().flatten();
        until(&config(nodes), id(0), granted, witness)
    }

    #[test]
    fn a_lease_lasts_as_long_as_a_majority_promised() {
        assert_eq!(lease(1, &[], None), u64::MAX, "it is the majority");
        assert_eq!(lease(2, &[None], None), 0);
        assert_eq!(lease(2, &[Some(5)], None), 105);
        assert_eq!(lease(2, &[None], Some(7)), 107, "the operator is the third voter of two nodes");
        assert_eq!(lease(2, &[Some(5)], Some(7)), 107, "either is enough");
        assert_eq!(lease(3, &[None, Some(5)], None), 105);
        assert_eq!(lease(3, &[None, None], Some(7)), 0, "of three nodes the operator is none");
        assert_eq!(lease(4, &[Some(5), Some(9), None], None), 105);
        assert_eq!(lease(4, &[Some(5), None, None], Some(9)), 105);
        assert_eq!(lease(5, &[Some(5), Some(9), Some(3), None], None), 105);
    }

    #[test]
    fn while_memberships_overlap_both_must_promise() {
        let mut config = config(3);
        config.overlap = vec![Electorate { voters: [0, 3, 4].map(id).to_vec(), copies: 0 }];
        let with = |answers: &[u8]| {
            until(&config, id(0), |node| answers.contains(&node.as_bytes()[0]).then_some(5), None)
        };
        assert_eq!(with(&[1, 2]), 0);
        assert_eq!(with(&[1, 3]), 105);
    }

    #[test]
    fn who_keeps_writing_needs_no_lease() {
        let mut config = config(3);
        config.failover.on_isolation = OnIsolation::KeepWriting;
        assert_eq!(until(&config, id(0), |_| None, None), u64::MAX);
    }
}
