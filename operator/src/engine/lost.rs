//! Which shards are without a quorum, and for how long: a permission to go on without one counts for those that have been for a
//! while, so that nodes that are being restarted are waited for.

use std::collections::BTreeMap;
use std::time::Duration;

use kv_core::id::Epoch;
use kv_core::plan::{Plan, Reason, Step};
use tokio::time::Instant;

use crate::force::Force;

/// For how long a shard must have been without a quorum, and the permission must have been there.
const A_WHILE: Duration = Duration::from_secs(5);

/// What is remembered from pass to pass.
#[derive(Debug, Default)]
pub struct Lost {
    /// The shards that are without a quorum, since when, and the epoch of their config.
    since: BTreeMap<u16, (Instant, Epoch)>,
    /// Since when there is a permission that was not used yet.
    granted: Option<Instant>,
}

impl Lost {
    /// Takes in a plan. Returns for which shards the permission is to be used now; `None` if not yet, or if there is none.
    pub fn look(&mut self, force: &Force, plan: &Plan, now: Instant) -> Option<BTreeMap<u16, Epoch>> {
        let lost = plan.shards.iter().filter(|shard| {
            matches!(&shard.step, Step::Wait(Reason::NoQuorum { .. } | Reason::NoCandidate { .. }))
        });
        let lost: BTreeMap<_, _> =
            lost.filter_map(|shard| Some((shard.index, shard.config.as_ref()?.epoch))).collect();
        self.since.retain(|shard, (_, epoch)| lost.get(shard) == Some(epoch));
        for (shard, epoch) in lost {
            self.since.entry(shard).or_insert((now, epoch));
        }
        if *force != Force::Granted {
            self.granted = None;
            return None;
        }
        let long = |since: Instant| now.saturating_duration_since(since) >= A_WHILE;
        if !long(*self.granted.get_or_insert(now)) {
            return None;
        }
        let long_lost = self.since.iter().filter(|(_, (since, _))| long(*since));
        Some(long_lost.map(|(shard, (_, epoch))| (*shard, *epoch)).collect())
    }
}

#[cfg(test)]
mod tests {
    use kv_core::id::{ClusterUid, NodeId};
    use kv_core::lease::Failover;
    use kv_core::plan::{Loss, ShardPlan};
    use kv_core::quorum::Acknowledge;
    use kv_core::shard::{ClusterMap, ShardConfig};
    use kv_core::slot::SlotSet;
    use kv_core::topology::Topology;

    use super::*;

    fn plan(lost: &[(u16, u64)]) -> Plan {
        let shard = |&(index, epoch): &(u16, u64)| {
            let loss = Loss::Exited { master: "m".into() };
            let config = ShardConfig {
                uid: ClusterUid("u".into()),
                shard: index,
                epoch: Epoch(epoch),
                master: NodeId::from_bytes([0; 20]),
                members: Vec::new(),
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
            };
            ShardPlan {
                index,
                step: Step::Wait(Reason::NoQuorum { loss, needed: 2, answering: 1, missing: Vec::new() }),
                config: Some(config),
                serving: false,
                durable: false,
                follows: false,
                needs_vote: false,
                ready_nodes: 1,
                wish: None,
                new_nodes: 0,
            }
        };
        let map = ClusterMap {
            uid: ClusterUid("u".into()),
            shards: Vec::new(),
            addresses: BTreeMap::new(),
            down: Vec::new(),
        };
        let shards = lost.iter().map(shard).collect();
        Plan { workloads: Vec::new(), shards, moves: Vec::new(), map, map_targets: Vec::new() }
    }

    #[test]
    fn a_permission_counts_for_shards_that_have_been_lost_for_a_while() {
        let (mut lost, begun) = (Lost::default(), Instant::now());
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        assert_eq!(lost.look(&Force::Denied, &plan(&[(0, 1)]), at(0)), None);
        assert_eq!(lost.look(&Force::Granted, &plan(&[(0, 1), (1, 1), (2, 1)]), at(100)), None);
        // One comes back, and is lost again; another one has been elected for meanwhile.
        assert_eq!(lost.look(&Force::Granted, &plan(&[(0, 1), (2, 17)]), at(103)), None);
        let used = lost.look(&Force::Granted, &plan(&[(0, 1), (1, 1), (2, 17)]), at(105));
        assert_eq!(used, Some(BTreeMap::from([(0, Epoch(1))])));
        assert_eq!(lost.look(&Force::Used(BTreeMap::new()), &plan(&[(0, 1)]), at(200)), None);
        assert_eq!(lost.look(&Force::Granted, &plan(&[(0, 1)]), at(201)), None, "another one counts anew");
    }
}
