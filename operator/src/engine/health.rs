//! What the engine remembers of the shards between its passes, so that what passes by itself in a moment is not told as a
//! failure. An engine that starts anew has forgotten it, and tells failures that there were a moment later.

use std::collections::BTreeMap;
use std::time::Duration;

use kv_core::plan::{Memory, Plan};
use kv_core::spec::ClusterSpec;
use tokio::time::Instant;

/// For how long a shard may lack something until it counts as degraded, if nothing alarming is seen of it.
const PASSING: Duration = Duration::from_secs(2);

/// What is remembered.
#[derive(Debug, Default)]
pub(super) struct Health {
    memory: Memory,
    /// Since when shards lack something that do; `None` for those that count as degraded, until they lack nothing.
    lacking: BTreeMap<u16, Option<Instant>>,
}

impl Health {
    /// Takes in what a pass has seen.
    pub fn note(&mut self, spec: &ClusterSpec, plan: &Plan, now: Instant) -> &Memory {
        let founded = plan.shards.iter().filter(|shard| shard.config.is_some()).map(|shard| shard.index);
        self.memory.founded.extend(founded);
        for shard in &plan.shards {
            if !shard.lacks(spec) {
                self.lacking.remove(&shard.index);
                continue;
            }
            let since = self.lacking.entry(shard.index).or_insert(Some(now));
            if shard.is_alarming() || since.is_some_and(|since| now - since >= PASSING) {
                *since = None;
            }
        }
        self.lacking.retain(|index, _| plan.shards.iter().any(|shard| shard.index == *index));
        let passing = self.lacking.iter().filter(|(_, since)| since.is_some());
        self.memory.in_passing = passing.map(|(index, _)| *index).collect();
        &self.memory
    }

    /// When a shard begins to count as degraded that lacks something now.
    pub fn next_change(&self) -> Option<Instant> {
        self.lacking.values().flatten().map(|since| *since + PASSING).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kv_core::id::ClusterUid;
    use kv_core::lease::Failover;
    use kv_core::plan::{Action, Loss, Observed, Reason, Step, Template, plan};
    use kv_core::quorum::Acknowledge;
    use kv_core::topology::Topology;

    fn shard_plan(serving: bool, step: Step) -> (ClusterSpec, Plan) {
        let spec = ClusterSpec {
            shards: 1,
            replicas_per_shard: 1,
            topology: Topology::Star,
            acknowledge: Acknowledge::Async,
            failover: Failover::default(),
            durable: true,
            preferred: None,
            source: None,
            config: BTreeMap::new(),
        };
        let observed = Observed { uid: ClusterUid("u".into()), name: "a".into(), shards: Vec::new() };
        let mut plan = plan(&spec, &observed);
        plan.shards[0].serving = serving;
        plan.shards[0].step = step;
        plan.shards[0].ready_nodes = if serving { spec.nodes_per_shard() } else { 0 };
        plan.shards[0].new_nodes = 0;
        (spec, plan)
    }

    #[test]
    fn what_lasts_a_moment_is_passing_unless_it_alarms() {
        let start = Instant::now();
        let (spec, well) = shard_plan(true, Step::Nothing);
        let (_, waits) = shard_plan(false, Step::Wait(Reason::Settling));
        let loss = Loss::Exited { master: "a-0-0".into() };
        let elects = Step::Do(
            Action::Replace { node: "a-0-0".into(), template: Template::Stuck },
            Reason::Electing { loss, candidate: "a-0-1".into() },
        );
        let (_, elects) = shard_plan(false, elects);
        let mut health = Health::default();
        let mut passing = |plan: &Plan, after: u64| {
            !health.note(&spec, plan, start + Duration::from_millis(after)).in_passing.is_empty()
        };
        assert!(!passing(&well, 0));
        assert!(passing(&waits, 10) && passing(&waits, 2009));
        assert!(!passing(&waits, 2010), "it lasts");
        assert!(!passing(&well, 2020));
        assert!(passing(&waits, 2030), "counted anew");
        assert!(!passing(&elects, 2040), "alarming at once");
        assert!(!passing(&waits, 2050), "until it is well again");
        assert!(!passing(&well, 2060) && passing(&waits, 2070));
        assert_eq!(health.next_change(), Some(start + Duration::from_millis(2070) + PASSING));
    }
}
