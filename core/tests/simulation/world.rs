//! A model of the world around the nodes: time, a lossy network, a provider, an operator that runs the planner.

use std::collections::BTreeMap;

use kv_core::control::{LinkState, NodeReport, NodeState};
use kv_core::id::{ClusterUid, NodeId};
use kv_core::lease::Failover;
use kv_core::plan::check::check;
use kv_core::plan::{
    Action, NodeObserved, Observed, Plan, Presence, ShardObserved, Site, Step, Template, plan,
};
use kv_core::quorum::Acknowledge;
use kv_core::shard::ShardConfig;
use kv_core::spec::{ClusterSpec, Home, Preferred};
use kv_core::topology::Topology;

use crate::node::SimNode;

const TICK_MS: u64 = 100;

/// After how long in step a master comes back to where it should live.
const FAILBACK_MS: u64 = 500;

/// What the operator remembers of a node between passes.
struct Heard {
    life: (NodeId, u32),
    report: Option<NodeReport>,
    at: u64,
}

pub struct World {
    pub spec: ClusterSpec,
    pub nodes: Vec<SimNode>,
    pub faults: bool,
    rng: fastrand::Rng,
    uid: ClusterUid,
    now: u64,
    /// The version of the spec's templates: a node is outdated that was started from another.
    pub template: u32,
    heard: BTreeMap<String, Heard>,
    /// The ordinal of the node whose machine is being drained.
    draining: Option<u16>,
    /// Since when nodes are known to be in step.
    steady: BTreeMap<String, u64>,
    pub log: Vec<String>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let spec = ClusterSpec {
            shards: 1,
            replicas_per_shard: rng.u16(0..4),
            topology: topology(&mut rng),
            acknowledge: Acknowledge::Async,
            failover: Failover::default(),
            preferred: rng
                .bool()
                .then(|| Preferred { home: Home::Ordinal(rng.u16(0..4)), failback_ms: Some(FAILBACK_MS) }),
            source: None,
            durable: true,
            config: BTreeMap::new(),
        };
        Self {
            spec,
            nodes: Vec::new(),
            faults: true,
            rng,
            uid: ClusterUid("sim".into()),
            now: 0,
            template: 0,
            heard: BTreeMap::new(),
            draining: None,
            steady: BTreeMap::new(),
            log: Vec::new(),
        }
    }

    /// One tick: faults, data, and a pass of the operator. Returns its plan.
    pub fn tick(&mut self) -> Plan {
        self.now += TICK_MS;
        if self.faults {
            self.inject();
        }
        self.restart_ended();
        self.replicate();
        self.listen();
        self.note_steady();
        let observed = self.observed();
        let plan = plan(&self.spec, &observed);
        let violations = check(&self.spec, &observed, &plan);
        assert!(violations.is_empty(), "{violations:#?}\n{plan:#?}\n{observed:#?}\n{}", self.history());
        self.log.push(format!("{} {:?}", self.now, plan.shards[0].step));
        self.scale(plan.workloads[0].nodes);
        self.execute(&plan.shards[0].step);
        plan
    }

    /// Whether the master lives where masters should, if there is such a node.
    pub fn lives_at_home(&self, plan: &Plan) -> bool {
        let Some(Preferred { home: Home::Ordinal(home), .. }) = self.spec.preferred else { return true };
        let master = plan.shards[0].config.as_ref().map(|config| config.master);
        let home = self.nodes.iter().find(|node| node.ordinal == home);
        home.is_none_or(|node| Some(node.id) == master)
    }

    pub fn history(&self) -> String {
        self.log.iter().rev().take(40).rev().cloned().collect::<Vec<_>>().join("\n")
    }

    pub fn heal(&mut self) {
        self.faults = false;
        self.draining = None;
        self.nodes.iter_mut().for_each(|node| (node.cut, node.full) = (false, false));
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.rng.u32(0..n) == 0
    }

    fn inject(&mut self) {
        for i in 0..self.nodes.len() {
            if self.one_in(60) {
                self.nodes[i].running = false;
                self.log.push(format!("{} {} crashes", self.now, self.nodes[i].name));
            }
            if self.one_in(60) {
                self.nodes[i].cut = !self.nodes[i].cut;
                self.log.push(format!("{} {} cut: {}", self.now, self.nodes[i].name, self.nodes[i].cut));
            }
            if self.one_in(100) {
                self.nodes[i].full = !self.nodes[i].full;
                self.log.push(format!("{} {} full: {}", self.now, self.nodes[i].name, self.nodes[i].full));
            }
            if self.one_in(150) && self.nodes[i].running {
                self.nodes[i].deleting = true;
                self.log.push(format!("{} {} is being deleted", self.now, self.nodes[i].name));
            }
            if !self.nodes[i].running && self.one_in(20) {
                let id = self.new_id();
                let old = &self.nodes[i];
                let blank = SimNode {
                    running: false,
                    template: old.template,
                    blocked_until: self.now + 1500,
                    ..SimNode::new(old.name.clone(), old.ordinal, id)
                };
                self.log.push(format!("{} {} loses its volume", self.now, blank.name));
                self.nodes[i] = blank;
            }
        }
        if self.one_in(100) {
            self.spec.topology = topology(&mut self.rng);
        }
        if self.one_in(100) {
            self.spec.replicas_per_shard = self.rng.u16(0..4);
            self.log.push(format!("{} replicas: {}", self.now, self.spec.replicas_per_shard));
        }
        if self.one_in(100) {
            self.template += 1;
            self.log.push(format!("{} all nodes are outdated", self.now));
        }
        if self.one_in(100) {
            self.draining = self.rng.bool().then(|| self.rng.u16(0..4));
            self.log.push(format!("{} draining: {:?}", self.now, self.draining));
        }
        if self.one_in(50) {
            self.steady.clear();
            self.heard.clear();
            self.log.push(format!("{} the operator is replaced", self.now));
        }
    }

    /// Pods that are deleted end after a while, and what ended is started again.
    fn restart_ended(&mut self) {
        for i in 0..self.nodes.len() {
            if self.nodes[i].deleting && self.one_in(30) {
                self.nodes[i].running = false;
                self.nodes[i].deleting = false;
                self.nodes[i].template = self.template;
            } else if !self.nodes[i].running && self.nodes[i].blocked_until <= self.now && self.one_in(10) {
                let lost = self.rng.u64(0..5);
                self.nodes[i].restart(lost);
            }
        }
    }

    fn replicate(&mut self) {
        for i in 0..self.nodes.len() {
            let node = &self.nodes[i];
            if !node.running {
                continue;
            }
            match node.state {
                NodeState::Master if node.paused_until <= self.now && !node.full => {
                    let writes = self.rng.u64(0..5);
                    let node = &mut self.nodes[i];
                    node.offset += writes;
                    if writes > 0 {
                        node.write_epoch = node.epoch();
                    }
                }
                NodeState::Replica if self.rng.u32(0..5) > 0 => {
                    let parent = node.parent().and_then(|id| self.nodes.iter().find(|n| n.id == id)).cloned();
                    self.nodes[i].follow(parent.as_ref());
                }
                _ => {}
            }
        }
    }

    fn listen(&mut self) {
        for i in 0..self.nodes.len() {
            let reached = self.reaches(i);
            let node = &self.nodes[i];
            let life = (node.id, node.life);
            let fresh = Heard { life, report: None, at: self.now };
            let heard = self.heard.entry(node.name.clone()).or_insert(fresh);
            if heard.life != life && node.running {
                *heard = Heard { life, report: None, at: self.now };
            }
            if reached {
                heard.report = Some(node.report(&self.uid, self.now));
                heard.at = self.now;
            }
        }
    }

    fn reaches(&mut self, node: usize) -> bool {
        let lost = self.faults && self.one_in(10);
        self.nodes.get(node).is_some_and(|node| node.running && !node.cut) && !lost
    }

    fn note_steady(&mut self) {
        for (name, heard) in &self.heard {
            let streams = |report: &NodeReport| {
                report.link.as_ref().is_some_and(|link| link.state == LinkState::Streaming)
            };
            if heard.report.as_ref().is_some_and(streams) && heard.at == self.now {
                self.steady.entry(name.clone()).or_insert(self.now);
            } else {
                self.steady.remove(name);
            }
        }
    }

    fn observed(&self) -> Observed {
        let nodes = self.nodes.iter().map(|node| {
            let heard = &self.heard[&node.name];
            NodeObserved {
                name: node.name.clone(),
                ordinal: node.ordinal,
                presence: match (node.running, node.deleting) {
                    (true, false) => Presence::Running,
                    (true, true) => Presence::Leaving,
                    (false, _) => Presence::Exited,
                },
                report: heard.report.clone(),
                silent_ms: self.now - heard.at,
                address: None,
                template: match node.template == self.template {
                    true => Template::Current,
                    false => Template::Outdated,
                },
                site: Site {
                    zone: None,
                    draining: self.draining == Some(node.ordinal),
                    steady_ms: self.steady.get(&node.name).map_or(0, |since| self.now - since),
                },
            }
        });
        let workload_nodes = u16::try_from(self.nodes.len()).ok();
        let shard = ShardObserved {
            index: 0,
            workload_nodes,
            nodes: nodes.collect(),
            bound_ms: Some(0),
            bound_to: None,
            witness: None,
            wish: None,
            forced: None,
        };
        Observed { uid: self.uid.clone(), name: "a".into(), shards: vec![shard] }
    }

    fn scale(&mut self, wanted: u16) {
        while self.nodes.len() > usize::from(wanted) {
            self.nodes.pop();
        }
        for ordinal in self.nodes.len()..usize::from(wanted) {
            let name = format!("a-0-{ordinal}");
            self.heard.remove(&name);
            let id = self.new_id();
            let node = SimNode { template: self.template, ..SimNode::new(name, ordinal as u16, id) };
            self.nodes.push(node);
        }
    }

    fn new_id(&mut self) -> NodeId {
        NodeId::from_bytes(std::array::from_fn(|_| self.rng.u8(..)))
    }

    fn execute(&mut self, step: &Step) {
        match step {
            Step::Do(Action::Prepare { epoch, nodes, consent }, _) => {
                nodes.iter().for_each(|&id| {
                    self.send(id, |node| {
                        node.prepare(*epoch, consent.renews(node.epoch()));
                        true
                    });
                });
            }
            Step::Do(Action::CutOver { .. }, _) => panic!("nobody follows a source"),
            Step::Do(Action::Accept { config, first, then }, _) => {
                if self.accept(config, *first) {
                    then.iter().for_each(|&id| {
                        self.accept(config, id);
                    });
                }
            }
            Step::Do(Action::Pause { master, epoch, milliseconds, .. }, _) => {
                let until = self.now + milliseconds;
                self.send(*master, |node| {
                    node.pause(*epoch, until);
                    true
                });
            }
            Step::Do(Action::Replace { node: name, .. }, _) => {
                let node = self.nodes.iter_mut().find(|node| node.name == *name);
                node.expect("a node that is replaced is there").deleting = true;
            }
            // One shard has nowhere to move slots to.
            Step::Do(Action::Import { .. } | Action::Hold { .. }, _) | Step::Nothing | Step::Wait(_) => {}
        }
    }

    fn accept(&mut self, config: &ShardConfig, id: NodeId) -> bool {
        let (accepted, known) = self.send_and_hear(id, |node| node.accept(config));
        if accepted {
            let rivals =
                |node: &&SimNode| node.epoch() == config.epoch && node.config.as_ref() != Some(config);
            let rival = self.nodes.iter().find(rivals);
            assert!(rival.is_none(), "two configs under epoch {}\n{}", config.epoch, self.history());
        }
        known
    }

    fn send(&mut self, id: NodeId, message: impl FnOnce(&mut SimNode) -> bool) {
        self.send_and_hear(id, message);
    }

    /// Whether the node took the message, and whether the operator knows it: requests get lost, and replies too.
    fn send_and_hear(&mut self, id: NodeId, message: impl FnOnce(&mut SimNode) -> bool) -> (bool, bool) {
        let Some(i) = self.nodes.iter().position(|node| node.id == id) else { return (false, false) };
        let taken = self.reaches(i) && message(&mut self.nodes[i]);
        (taken, taken && self.reaches(i))
    }
}

fn topology(rng: &mut fastrand::Rng) -> Topology {
    match rng.u8(0..3) {
        0 => Topology::Star,
        1 => Topology::Chain,
        _ => Topology::Tree { fanout: rng.u16(1..4) },
    }
}
