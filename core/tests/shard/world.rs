//! The world around the nodes: time, links that fail one way or both, crashes, freezes, clients, and an operator that is
//! there or not. Everything is drawn from one seed.

use std::collections::{BTreeMap, BTreeSet};

use kv_core::control::{Consent, DataState, NodeReport, NodeState};
use kv_core::id::{ClusterUid, Epoch, NodeId};
use kv_core::lease::Failover;
use kv_core::plan::check::check;
use kv_core::plan::{
    Action, NodeObserved, Observed, Presence, ShardObserved, Site, Step, Template, Vote, plan, succeed,
};
use kv_core::quorum::Acknowledge;
use kv_core::shard::ShardConfig;
use kv_core::spec::ClusterSpec;
use kv_core::topology::Topology;

use crate::node::{Entry, Node, Waiting};

pub const TICK_MS: u64 = 50;

/// Writes down what happens, where one world is looked at.
macro_rules! say {
    ($world:ident, $($text:tt)*) => {
        if $world.is_watched {
            let text = format!($($text)*);
            $world.log.push(format!("{} {text}", $world.now));
        }
    };
}

/// What the operator knows of a node.
struct Heard {
    life: (NodeId, u32),
    report: Option<NodeReport>,
    at: u64,
    granted: BTreeMap<NodeId, u64>,
}

pub struct World {
    pub spec: ClusterSpec,
    pub nodes: Vec<Node>,
    pub faults: bool,
    pub acked: u64,
    rng: fastrand::Rng,
    uid: ClusterUid,
    now: u64,
    /// Whether nodes sync each write before they acknowledge it.
    syncs: bool,
    /// Whether messages from one node reach another.
    cut: BTreeMap<(u16, u16), bool>,
    /// Whether the operator runs, since when, and whom it does not reach.
    operator: Option<u64>,
    unseen: BTreeMap<u16, bool>,
    /// Nodes that the operator's provider knows nothing of any more, though they run: their pods were deleted by force, and
    /// others are to come in their place.
    forgotten: BTreeSet<u16>,
    heard: BTreeMap<String, Heard>,
    /// What the operator's votes are kept in.
    witness: Option<Vote>,
    next_write: u64,
    next_history: u64,
    /// Writes that were promised to be kept, and the log that they stood in up to them.
    promised: Vec<u64>,
    /// The newest epoch that a write was acknowledged under.
    newest: Epoch,
    /// Whether it is written down what happens.
    is_watched: bool,
    log: Vec<String>,
    /// The operator's last step.
    last: String,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let replicas = rng.u16(1..5);
        let spec = ClusterSpec {
            shards: 1,
            replicas_per_shard: replicas,
            topology: Topology::Star,
            acknowledge: mode(&mut rng, replicas),
            failover: Failover::default(),
            preferred: None,
            source: None,
            durable: true,
            config: BTreeMap::new(),
        };
        Self {
            spec,
            nodes: Vec::new(),
            faults: true,
            acked: 0,
            syncs: rng.bool(),
            rng,
            uid: ClusterUid("sim".into()),
            now: 10_000,
            cut: BTreeMap::new(),
            operator: Some(0),
            unseen: BTreeMap::new(),
            forgotten: BTreeSet::new(),
            heard: BTreeMap::new(),
            witness: None,
            next_write: 0,
            next_history: 0,
            promised: Vec::new(),
            newest: Epoch(0),
            is_watched: std::env::var_os("SEED").is_some(),
            log: Vec::new(),
            last: String::new(),
        }
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.rng.u32(0..n) == 0
    }

    pub fn history(&self) -> String {
        let most = std::env::var("HISTORY").ok().and_then(|most| most.parse().ok()).unwrap_or(120);
        let from = self.log.len().saturating_sub(most);
        format!("{}\nlast: {}\n{:#?}", self.log[from..].join("\n"), self.last, self.nodes)
    }

    pub fn heal(&mut self) {
        self.faults = false;
        self.cut.clear();
        self.unseen.clear();
        self.forgotten.clear();
        self.operator.get_or_insert(self.now);
        self.nodes.iter_mut().for_each(|node| node.frozen_until = 0);
    }

    /// One tick. Returns whether the shard is as specified.
    pub fn tick(&mut self) -> bool {
        self.now += TICK_MS;
        if self.faults {
            self.inject();
        }
        self.restart();
        self.write();
        self.ping();
        self.replicate();
        self.acknowledge();
        let settled = self.operate();
        self.propose();
        settled
    }

    fn inject(&mut self) {
        for i in 0..self.nodes.len() {
            if self.one_in(400) && self.may_crash(i) {
                say!(self, "{} crashes", self.nodes[i].name);
                self.nodes[i].crash();
                if self.one_in(4) && self.may_lose_volume(i) {
                    say!(self, "{} loses its volume", self.nodes[i].name);
                    let id = self.new_id();
                    self.nodes[i] = Node { running: false, ..Node::new(self.nodes[i].ordinal, id, self.now) };
                }
            }
            if self.one_in(500) && self.nodes[i].state() == NodeState::Replica {
                say!(self, "{} is asked to lead", self.nodes[i].name);
                self.nodes[i].asked_at = Some(self.now);
            }
            if self.one_in(300) {
                let until = self.now + self.rng.u64(100..6000);
                say!(self, "{} is frozen until {until}", self.nodes[i].name);
                self.nodes[i].frozen_until = until;
            }
            for j in 0..self.nodes.len() {
                if i != j && self.one_in(200) {
                    let cut = self.rng.u32(0..3) == 0;
                    say!(self, "{i} to {j} cut: {cut}");
                    self.cut.insert((i as u16, j as u16), cut);
                }
            }
            if self.one_in(200) {
                let unseen = self.rng.u32(0..3) == 0;
                say!(self, "operator to {i} cut: {unseen}");
                self.unseen.insert(i as u16, unseen);
            }
            if self.one_in(300) {
                let forgets = self.rng.u32(0..3) == 0;
                say!(self, "the provider forgets {i}: {forgets}");
                if forgets {
                    self.forgotten.insert(i as u16);
                } else {
                    self.forgotten.remove(&(i as u16));
                }
            }
        }
        if self.one_in(200) {
            self.operator = if self.operator.is_some() { None } else { Some(self.now) };
            self.heard.clear();
            say!(self, "operator since: {:?}", self.operator);
        }
        if self.one_in(300) {
            self.spec.acknowledge = mode(&mut self.rng, self.spec.replicas_per_shard);
            say!(self, "{}", self.spec.acknowledge);
        }
        if self.one_in(400) {
            self.spec.replicas_per_shard = self.rng.u16(1..5);
            self.spec.acknowledge = mode(&mut self.rng, self.spec.replicas_per_shard);
            say!(self, "{} replicas, {}", self.spec.replicas_per_shard, self.spec.acknowledge);
        }
    }

    /// Where writes are not synced, a crash forgets. One node at a time may: until it has again all that it had, no other.
    fn may_crash(&self, lost: usize) -> bool {
        let others = self.nodes.iter().enumerate().filter(|(i, _)| *i != lost).map(|(_, node)| node);
        self.syncs || others.into_iter().all(|node| node.running && node.log.len() >= node.forgot)
    }

    /// A volume may go when all others have all of what it had, and no decision hangs on it.
    fn may_lose_volume(&self, lost: usize) -> bool {
        let others = || self.nodes.iter().enumerate().filter(|(i, _)| *i != lost).map(|(_, node)| node);
        let epoch = self.nodes.iter().map(Node::epoch).max();
        let longest = self.nodes.iter().map(|node| node.log.len()).max();
        self.nodes.len() > 2
            && others().all(|node| {
                node.running
                    && node.data == DataState::Live
                    && Some(node.epoch()) == epoch
                    && node.promised == node.epoch()
                    && Some(node.log.len()) == longest
                    && node.config.as_ref().is_some_and(|config| config.overlap.is_empty())
            })
    }

    fn restart(&mut self) {
        for i in 0..self.nodes.len() {
            if !self.nodes[i].running && self.one_in(40) {
                let history = self.new_history();
                self.nodes[i].start(self.now, history);
            }
        }
    }

    /// Clients write to whoever says that it is the master.
    fn write(&mut self) {
        for i in 0..self.nodes.len() {
            let node = &self.nodes[i];
            let takes =
                node.acts(self.now) && node.state() == NodeState::Master && node.paused_until <= self.now;
            if takes && node.waiting.len() < 20 && self.rng.bool() {
                self.next_write += 1;
                let node = &mut self.nodes[i];
                node.log.push(Entry::Write(self.next_write));
                node.waiting.push(Waiting { id: self.next_write, offset: node.log.len() });
            }
        }
    }

    fn reaches(&mut self, from: usize, to: usize) -> bool {
        let cut = self.cut.get(&(from as u16, to as u16)).copied().unwrap_or(false);
        let lost = self.faults && self.one_in(20);
        from == to || (!cut && !lost)
    }

    fn index(&self, id: NodeId) -> Option<usize> {
        self.nodes.iter().position(|node| node.id == id)
    }

    /// Nodes ask each other; questions and answers take a while.
    fn ping(&mut self) {
        for i in 0..self.nodes.len() {
            let config = self.nodes[i].config.as_ref().filter(|_| self.nodes[i].acts(self.now));
            let Some(config) = config else { continue };
            let voters: Vec<NodeId> = config.electorates().flat_map(|electorate| electorate.voters).collect();
            let (master, epoch) = (config.master, config.epoch);
            let others: Vec<usize> =
                voters.into_iter().filter_map(|id| self.index(id)).filter(|j| *j != i).collect();
            for j in others {
                let there = self.reaches(i, j);
                if !there || !self.nodes[j].acts(self.now) {
                    continue;
                }
                // Some answers take their time: what they grant is counted from the question all the same.
                let slow = self.faults && self.one_in(8);
                let asked = self.now - self.rng.u64(if slow { 49..600 } else { 20..49 });
                let heard = self.rng.u64(asked..self.now);
                let of_master = |other: &ShardConfig| other.master == master && other.epoch == epoch;
                let is_master = master == self.nodes[i].id;
                let same = self.nodes[j].config.as_ref().is_some_and(of_master)
                    && (self.nodes[j].promised == epoch || self.nodes[j].renewing);
                if same && is_master {
                    self.nodes[j].heard_master = self.nodes[j].heard_master.max(heard);
                }
                if same && self.reaches(j, i) {
                    let id = self.nodes[j].id;
                    let granted = self.nodes[i].granted.entry(id).or_default();
                    *granted = asked.max(*granted);
                    if self.nodes[j].state() == NodeState::Master {
                        self.nodes[i].heard_master = self.nodes[i].heard_master.max(asked);
                    }
                }
            }
        }
    }

    fn replicate(&mut self) {
        for i in 0..self.nodes.len() {
            let parent = self.nodes[i].parent().and_then(|id| self.index(id));
            let Some(p) = parent.filter(|_| self.nodes[i].acts(self.now)) else { continue };
            let connected = self.nodes[p].acts(self.now) && self.reaches(i, p) && self.reaches(p, i);
            if !connected {
                // A link that is only slow goes on later.
                if self.one_in(3) || !self.nodes[p].running {
                    self.nodes[i].streaming = false;
                }
                continue;
            }
            let most = self.rng.usize(0..6);
            let [child, parent] = self.nodes.get_disjoint_mut([i, p]).expect("two nodes");
            child.follow(parent, most);
        }
        for i in 0..self.nodes.len() {
            // Or from time to time, as with `appendfsync everysec`.
            if self.nodes[i].running && (self.syncs || self.one_in(20)) {
                self.nodes[i].synced = self.nodes[i].log.len();
            }
        }
    }

    fn acknowledge(&mut self) {
        for i in 0..self.nodes.len() {
            if !self.nodes[i].acts(self.now) {
                continue;
            }
            let epoch = self.nodes[i].epoch();
            let promises = self.nodes[i].config.as_ref().is_some_and(ShardConfig::holds_replies);
            let done = self.nodes[i].acknowledge(self.now);
            if self.nodes[i].state() == NodeState::Master && !promises {
                // A user who chose Async takes the loss of a master for the loss of what it had not sent.
                self.promised.clear();
            }
            for write in done {
                assert!(
                    epoch >= self.newest,
                    "{} acknowledges under {epoch}, and {} was acknowledged before\n{}",
                    self.nodes[i].name,
                    self.newest,
                    self.history()
                );
                self.newest = epoch;
                self.acked += 1;
                if promises {
                    say!(self, "{} acknowledges {} under {epoch}", self.nodes[i].name, write.id);
                    self.promised.push(write.id);
                }
            }
        }
    }

    /// The master has every write that was promised to be kept.
    pub fn assert_nothing_lost(&self, seed: u64) {
        let master = self.nodes.iter().find(|node| node.state() == NodeState::Master).expect("a master");
        for id in &self.promised {
            assert!(
                master.log.contains(&Entry::Write(*id)),
                "write {id} is lost; replay with SEED={seed}\n{}",
                self.history()
            );
        }
    }

    fn operator_reaches(&mut self, i: usize) -> bool {
        let lost = self.faults && self.one_in(20);
        let unseen = self.unseen.get(&(i as u16)).copied().unwrap_or(false);
        !unseen && !self.forgotten.contains(&(i as u16)) && self.nodes[i].acts(self.now) && !lost
    }

    /// One pass of the operator, if there is one.
    fn operate(&mut self) -> bool {
        let Some(since) = self.operator else { return false };
        for i in 0..self.nodes.len() {
            let reached = self.operator_reaches(i);
            let node = &self.nodes[i];
            let life = (node.id, node.life);
            let fresh = || Heard { life, report: None, at: self.now, granted: BTreeMap::new() };
            let heard = self.heard.entry(node.name.clone()).or_insert_with(fresh);
            let forgotten = self.forgotten.contains(&(i as u16));
            if heard.life != life && node.running || forgotten && heard.report.is_some() {
                *heard = Heard { granted: std::mem::take(&mut heard.granted), ..fresh() };
            }
            if reached {
                heard.report = Some(node.report(&self.uid, self.now));
                heard.at = self.now;
            }
        }
        let lease = self.spec.failover.lease_ms;
        let now = self.now;
        let granted = self.heard.values().flat_map(|heard| &heard.granted);
        let standing: Vec<_> = granted.filter(|(_, at)| **at + lease > now).collect();
        let granted = standing.iter().map(|(_, at)| **at).max().unwrap_or(0);
        let bound = granted.max(since).saturating_add(lease).saturating_sub(now);
        // A predecessor may have granted a lease to anybody.
        let to = standing
            .first()
            .map(|(id, _)| **id)
            .filter(|first| since + lease <= now && standing.iter().all(|(id, _)| *id == first));
        let mut observed = self.observed(Some(bound));
        observed.shards[0].bound_to = to;
        let plan = plan(&self.spec, &observed);
        let violations = check(&self.spec, &observed, &plan);
        assert!(violations.is_empty(), "{violations:#?}\n{plan:#?}\n{}", self.history());
        let shard = plan.shards[0].clone();
        if !matches!(shard.step, Step::Nothing | Step::Wait(_)) {
            say!(self, "operator {:?}", shard.step);
        }
        self.scale(plan.workloads[0].nodes);
        if self.is_watched {
            self.last = format!("{:?}", shard.step);
        }
        let electing = matches!(
            &shard.step,
            Step::Do(Action::Prepare { consent: Consent::IfSilent | Consent::Ended, .. }, _)
        );
        if let Some(config) = shard.config.as_ref().filter(|_| shard.serving && !electing) {
            self.grant(config);
        }
        // The operator's vote is kept before anybody can act on it.
        if let Step::Do(Action::Accept { config, .. }, _) = &shard.step
            && shard.needs_vote
        {
            self.witness = Some(Vote { epoch: config.epoch, master: config.master });
        }
        self.execute(&shard.step, None);
        shard.step == Step::Nothing && shard.serving && shard.ready_nodes == self.spec.nodes_per_shard()
    }

    /// The operator sends the master back the clock that it reported last.
    fn grant(&mut self, config: &ShardConfig) {
        let Some(i) = self.index(config.master) else { return };
        let Some(heard) = self.heard.get_mut(&self.nodes[i].name) else { return };
        let Some(report) = heard.report.clone().filter(|report| report.id == config.master) else { return };
        heard.granted.insert(config.master, heard.at);
        let same = report.run_id == self.nodes[i].life.to_string() && self.nodes[i].epoch() == config.epoch;
        if same && self.operator_reaches(i) {
            let node = &mut self.nodes[i];
            node.witness = node.witness.max(Some(report.clock_ms));
        }
    }

    fn observed(&self, bound_ms: Option<u64>) -> Observed {
        let nodes = self.nodes.iter().map(|node| {
            let heard = &self.heard[&node.name];
            NodeObserved {
                name: node.name.clone(),
                ordinal: node.ordinal,
                presence: match node.running {
                    _ if self.forgotten.contains(&node.ordinal) => Presence::Starting,
                    true => Presence::Running,
                    false => Presence::Exited,
                },
                report: heard.report.clone(),
                silent_ms: self.now - heard.at,
                address: None,
                template: Template::Current,
                site: Site::default(),
            }
        });
        let workload_nodes = u16::try_from(self.nodes.len()).ok();
        self.shard(workload_nodes, nodes.collect(), bound_ms)
    }

    fn shard(
        &self,
        workload_nodes: Option<u16>,
        nodes: Vec<NodeObserved>,
        bound_ms: Option<u64>,
    ) -> Observed {
        let witness = self.witness.filter(|_| bound_ms.is_some());
        let shard = ShardObserved {
            index: 0,
            workload_nodes,
            nodes,
            bound_ms,
            bound_to: None,
            witness,
            wish: None,
            forced: None,
        };
        Observed { uid: self.uid.clone(), name: "a".into(), shards: vec![shard] }
    }

    fn scale(&mut self, wanted: u16) {
        let gone: Vec<_> =
            self.nodes.iter().skip(usize::from(wanted)).map(|node| node.name.clone()).collect();
        self.nodes.truncate(usize::from(wanted));
        for name in gone {
            self.heard.remove(&name);
            say!(self, "{name} is taken away");
        }
        for ordinal in self.nodes.len()..usize::from(wanted) {
            let id = self.new_id();
            self.nodes.push(Node::new(ordinal as u16, id, self.now));
        }
    }

    /// Nodes that have not heard their master for long plan as an operator would.
    fn propose(&mut self) {
        for i in 0..self.nodes.len() {
            let node = &self.nodes[i];
            let Some(epoch) = node.config.as_ref().filter(|_| node.acts(self.now)).map(|one| one.epoch)
            else {
                continue;
            };
            let patience = self.spec.failover.down_after_ms + 500 * (u64::from(node.ordinal) + 1);
            let silent = self.now - node.heard_master;
            let alone = node.asked_to_lead(self.now) && node.asked_at.is_some_and(|at| self.now - at >= 1000);
            let outdated = (0..self.nodes.len()).any(|j| {
                let newer = self.nodes[j].epoch() > epoch && self.nodes[j].acts(self.now);
                newer && self.reaches(i, j) && self.reaches(j, i)
            });
            let node = &self.nodes[i];
            let due = outdated || node.state() != NodeState::Master && (silent >= patience || alone);
            if !due || self.now < node.propose_at {
                continue;
            }
            self.nodes[i].propose_at = self.now + patience;
            let Some(config) = self.nodes[i].config.clone() else { continue };
            for _ in 0..4 {
                let step = self.plan_at(i, &config, silent);
                if let Some(Step::Wait(reason)) = &step
                    && reason.is_pressing()
                {
                    self.replicate();
                    self.acknowledge();
                    continue;
                }
                if matches!(step, None | Some(Step::Nothing | Step::Wait(_))) {
                    break;
                }
                say!(self, "node {i} {step:?}");
                step.iter().for_each(|step| self.execute(step, Some(i)));
            }
        }
    }

    fn plan_at(&mut self, i: usize, config: &ShardConfig, silent_ms: u64) -> Option<Step> {
        let mut nodes = Vec::new();
        for member in config.voters() {
            let at = self.index(member.id);
            let answers =
                at.is_some_and(|j| self.reaches(i, j) && self.reaches(j, i) && self.nodes[j].acts(self.now));
            let report = at.filter(|_| answers).map(|j| self.nodes[j].report(&self.uid, self.now));
            nodes.push(NodeObserved {
                name: member.name.clone(),
                ordinal: member.name.rsplit_once('-').expect("a name").1.parse().expect("an ordinal"),
                presence: Presence::Running,
                silent_ms: if report.is_some() { 0 } else { silent_ms },
                report,
                address: None,
                template: Template::Current,
                site: Site::default(),
            });
        }
        let last = nodes.iter().map(|node| node.ordinal).max().unwrap_or(0);
        let spec =
            ClusterSpec { replicas_per_shard: last, acknowledge: config.acknowledge, ..self.spec.clone() };
        succeed(&spec, &self.shard(None, nodes, None), 0)
    }

    /// Carries out a step, as far as its messages arrive; `by` is the node that sends them, else the operator does.
    fn execute(&mut self, step: &Step, by: Option<usize>) {
        match step {
            Step::Do(Action::Prepare { epoch, nodes, consent }, _) => {
                for id in nodes {
                    if let Some(j) = self.delivered(*id, by) {
                        self.nodes[j].prepare(*epoch, *consent, self.now);
                    }
                }
            }
            Step::Do(Action::CutOver { .. }, _) => panic!("nobody follows a source"),
            Step::Do(Action::Accept { config, first, then }, _) => {
                if self.accept(config, *first, by) {
                    then.iter().for_each(|&id| _ = self.accept(config, id, by));
                }
            }
            Step::Do(Action::Pause { master, epoch, milliseconds, .. }, _) => {
                if let Some(j) = self.delivered(*master, by)
                    && self.nodes[j].epoch() == *epoch
                {
                    self.nodes[j].paused_until = self.now + milliseconds;
                }
            }
            Step::Do(Action::Replace { .. } | Action::Import { .. } | Action::Hold { .. }, _)
            | Step::Nothing
            | Step::Wait(_) => {}
        }
    }

    fn delivered(&mut self, id: NodeId, by: Option<usize>) -> Option<usize> {
        let j = self.index(id)?;
        let arrives = match by {
            None => self.operator_reaches(j),
            Some(i) => self.reaches(i, j) && self.nodes[j].acts(self.now),
        };
        arrives.then_some(j)
    }

    /// Whether the sender knows that the node accepted.
    fn accept(&mut self, config: &ShardConfig, id: NodeId, by: Option<usize>) -> bool {
        let Some(j) = self.delivered(id, by) else { return false };
        let history = self.new_history();
        let accepted = self.nodes[j].accept(config, self.now, history);
        let rivals = |node: &&Node| node.epoch() == config.epoch && node.config.as_ref() != Some(config);
        let rival = accepted.then(|| self.nodes.iter().find(rivals)).flatten();
        assert!(rival.is_none(), "two configs under epoch {}\n{}", config.epoch, self.history());
        let told = match by {
            None => !(self.faults && self.one_in(20)),
            Some(i) => self.reaches(j, i),
        };
        accepted && told
    }

    fn new_id(&mut self) -> NodeId {
        NodeId::from_bytes(std::array::from_fn(|_| self.rng.u8(..)))
    }

    fn new_history(&mut self) -> u64 {
        self.next_history += 1;
        self.next_history
    }
}

fn mode(rng: &mut fastrand::Rng, replicas: u16) -> Acknowledge {
    match rng.u8(0..3) {
        0 => Acknowledge::Async,
        _ => Acknowledge::Quorum { copies: rng.u16(2..=replicas + 1), timeout_ms: 1000 },
    }
}
