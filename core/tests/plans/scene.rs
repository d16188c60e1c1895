//! The state that the lines of a case build up, for a cluster called `a`.
//!
//! | line | meaning |
//! |---|---|
//! | `spec shards=1 replicas=2 topology=star\|chain\|tree:2 acknowledge=async\|semisync:1\|quorum:2 down-after=2000 durable=yes preferred=zone:eu:60000` | the spec |
//! | `shard 1 workload=3` | the lines that follow are about this shard, whose workload has so many nodes; with `bound=500:0` the operator may not vote against node 0 for so many ms (`bound=500`: it is not known against whom), with `witness=18:1` it has voted for node 1 under that epoch; `wish=a-0-1` is a user's, `forced=17` gives up that epoch |
//! | `config 17: 0 1<0 2<1` | a config: its epoch, its master, its replicas and who feeds each; with `acknowledge=quorum:2` another mode than the spec's, with `overlap=0,1:2` voters of before and the copies that they keep, with `slots=0-99,200-300` other slots than its share |
//! | `node 1 state=replica offset=90 ...` | a node; `state` gives it a new report that fits the last config, what follows departs from it |
//! | `node 1 disk=full` | it cannot write to its disk; `disk=dead`: it cannot even write a promise |
//! | `spec source=old:6379` | the shards follow it; a config with `source=old:6379` does, `source=none` ends it; `node 0 link=streaming lag=0 cutting-over=yes complete=yes problem=...` is how far its master is |
//! | `node 0 export=following`, `export=h1` | the master has sent all keys of the slots that were asked for, or holds writes to them as `h1`; `import=h1`: all has arrived that was written until then, `import=lost`: no more comes |
//! | `gone 1` | the node is not there any more |
//! | `apply` | the nodes that answer do what the last plan asks of them |
//! | `show status` | the next output is the status instead of the plan |
//!
//! A node is called by its ordinal; one that came back blank under another id by its ordinal and a letter: `1b`.

use std::collections::BTreeMap;

use kv_core::control::{
    Completion, Consent, DataState, Durability, ExportReport, ImportReport, Link, LinkState, NodeReport,
    NodeState,
};
use kv_core::id::{ClusterUid, Epoch, NodeId};
use kv_core::lease::Failover;
use kv_core::plan::check::check;
use kv_core::plan::{
    Action, Memory, NodeObserved, Observed, Plan, Presence, ShardObserved, Site, Step, Template, Vote, plan,
    status,
};
use kv_core::quorum::{Acknowledge, Electorate};
use kv_core::shard::{Member, ShardConfig};
use kv_core::slot::{SlotSet, even_share};
use kv_core::source::{Following, Source, Writers};
use kv_core::spec::{ClusterSpec, Home, Preferred};
use kv_core::topology::Topology;

use crate::show;

#[derive(Clone)]
pub struct Scene {
    spec: ClusterSpec,
    observed: Observed,
    shard: usize,
    configs: BTreeMap<(u16, u64), ShardConfig>,
    last_config: Option<ShardConfig>,
    plan: Option<Plan>,
    memory: Memory,
    show_status: bool,
}

impl Default for Scene {
    fn default() -> Self {
        let spec = ClusterSpec {
            shards: 1,
            replicas_per_shard: 1,
            topology: Topology::Star,
            acknowledge: Acknowledge::Async,
            failover: Failover::default(),
            preferred: None,
            source: None,
            durable: true,
            config: BTreeMap::new(),
        };
        let shard = ShardObserved {
            index: 0,
            workload_nodes: None,
            nodes: Vec::new(),
            bound_ms: Some(0),
            bound_to: None,
            witness: None,
            wish: None,
            forced: None,
        };
        let observed = Observed { uid: uid(), name: "a".into(), shards: vec![shard] };
        Self {
            spec,
            observed,
            shard: 0,
            configs: BTreeMap::new(),
            last_config: None,
            plan: None,
            memory: Memory::default(),
            show_status: false,
        }
    }
}

fn uid() -> ClusterUid {
    ClusterUid("u".into())
}

/// The id of the node that a case calls `token`.
fn id(shard: u16, token: &str) -> NodeId {
    let digits = token.trim_end_matches(|c: char| c.is_alphabetic());
    let ordinal: u8 = digits.parse().unwrap_or_else(|_| panic!("no node: {token}"));
    let generation = token.as_bytes().get(digits.len()).map_or(0, |letter| letter - b'a');
    let shard = u8::try_from(shard).expect("a small shard");
    NodeId::from_bytes(std::array::from_fn(|i| [ordinal, generation, shard].get(i).copied().unwrap_or(0)))
}

const DURABLE: Durability = Durability { durable: 100, settled: false, degraded: false };

fn acknowledge(text: &str) -> Acknowledge {
    let (mode, count) = text.split_once(':').unwrap_or((text, "0"));
    match mode {
        "async" => Acknowledge::Async,
        "semisync" => Acknowledge::SemiSync { replicas: number(count), timeout_ms: 1000 },
        "quorum" => Acknowledge::Quorum { copies: number(count), timeout_ms: 1000 },
        other => panic!("no such mode: {other}"),
    }
}

/// `ordinal:0`, `zone:eu` or, with the milliseconds after which masters are brought back, `zone:eu:60000`.
fn preferred(text: &str) -> Option<Preferred> {
    let mut words = text.split(':');
    let home = match (words.next()?, words.next()?) {
        ("ordinal", ordinal) => Home::Ordinal(number(ordinal)),
        (_, zone) => Home::Zone(zone.to_owned()),
    };
    Some(Preferred { home, failback_ms: words.next().map(number) })
}

fn source(text: &str) -> Option<Source> {
    let (host, port) = text.split_once(':')?;
    Some(Source { host: host.into(), port: number(port), secret: None, writers: Writers::Pause })
}

fn pairs<'a>(words: &[&'a str]) -> Vec<(&'a str, &'a str)> {
    let pair = |word: &&'a str| word.split_once('=').unwrap_or_else(|| panic!("no KEY=VALUE: {word}"));
    words.iter().map(pair).collect()
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("no number: {text}"))
}

impl Scene {
    pub fn run(&mut self, input: &str) -> String {
        for line in input.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
            let words: Vec<_> = line.split_whitespace().collect();
            match words[0] {
                "spec" => self.set_spec(&words[1..]),
                "shard" => self.set_shard(words[1], &words[2..]),
                "config" => self.set_config(words[1].trim_end_matches(':'), &words[2..]),
                "node" => self.set_node(number(words[1]), &words[2..]),
                "gone" => {
                    let gone: u16 = number(words[1]);
                    self.observed.shards[self.shard].nodes.retain(|node| node.ordinal != gone);
                }
                "apply" => self.apply(),
                "show" => self.show_status = true,
                other => panic!("no such line: {other}"),
            }
        }
        let plan = plan(&self.spec, &self.observed);
        let violations = check(&self.spec, &self.observed, &plan);
        assert!(violations.is_empty(), "{input}\n{violations:#?}\n{plan:#?}");
        let founded = plan.shards.iter().filter(|shard| shard.config.is_some()).map(|shard| shard.index);
        self.memory.founded.extend(founded);
        let text = if std::mem::take(&mut self.show_status) {
            show::status(&status(&self.spec, &self.observed, &plan, &self.memory, &[]))
        } else {
            show::plan(&plan)
        };
        self.plan = Some(plan);
        text + &self.then()
    }

    /// What follows when all who are asked have agreed to a change.
    fn then(&self) -> String {
        let mut agreed = self.clone();
        if !agreed.agree() {
            return String::new();
        }
        let plan = plan(&agreed.spec, &agreed.observed);
        let violations = check(&agreed.spec, &agreed.observed, &plan);
        assert!(violations.is_empty(), "{violations:#?}\n{plan:#?}");
        plan.shards.iter().filter_map(show::accept).map(|text| format!("  then {text}\n")).collect()
    }

    /// The nodes agree to the changes that the last plan asks them to agree to; false if there are none.
    fn agree(&mut self) -> bool {
        let steps: Vec<_> = self.plan.iter().flat_map(|plan| &plan.shards).map(|s| s.step.clone()).collect();
        let asks =
            |step: &Step| matches!(step, Step::Do(Action::Prepare { consent: Consent::Renewal(_), .. }, _));
        let asked = steps.iter().any(asks);
        if asked {
            steps.into_iter().filter(asks).for_each(|step| self.take(step));
        }
        asked
    }

    fn set_spec(&mut self, words: &[&str]) {
        for (key, value) in pairs(words) {
            match key {
                "shards" => self.spec.shards = number(value),
                "replicas" => self.spec.replicas_per_shard = number(value),
                "down-after" => self.spec.failover.down_after_ms = number(value),
                "durable" => self.spec.durable = value == "yes",
                "topology" => {
                    self.spec.topology = match value.split_once(':') {
                        Some((_, fanout)) => Topology::Tree { fanout: number(fanout) },
                        None if value == "chain" => Topology::Chain,
                        None => Topology::Star,
                    }
                }
                "acknowledge" => self.spec.acknowledge = acknowledge(value),
                "preferred" => self.spec.preferred = preferred(value),
                "source" => self.spec.source = source(value),
                other => panic!("no such part of a spec: {other}"),
            }
        }
    }

    fn set_shard(&mut self, index: &str, words: &[&str]) {
        let index: u16 = number(index);
        let shards = &mut self.observed.shards;
        let found = shards.iter().position(|shard| shard.index == index);
        self.shard = found.unwrap_or_else(|| {
            shards.push(ShardObserved {
                index,
                workload_nodes: None,
                nodes: Vec::new(),
                bound_ms: Some(0),
                bound_to: None,
                witness: None,
                wish: None,
                forced: None,
            });
            shards.len() - 1
        });
        for (key, value) in pairs(words) {
            match key {
                "witness" => {
                    let (epoch, master) = value.split_once(':').expect("EPOCH:NODE");
                    let (epoch, master) = (Epoch(number(epoch)), id(index, master));
                    shards[self.shard].witness = Some(Vote { epoch, master });
                }
                "wish" => shards[self.shard].wish = (value != "none").then(|| value.to_owned()),
                "forced" => shards[self.shard].forced = Some(Epoch(number(value))),
                "bound" => {
                    let (ms, to) = value.split_once(':').unwrap_or((value, ""));
                    shards[self.shard].bound_ms = (ms != "novote").then(|| number(ms));
                    shards[self.shard].bound_to = (!to.is_empty()).then(|| id(index, to));
                }
                _ => shards[self.shard].workload_nodes = Some(number(value)),
            }
        }
    }

    fn set_config(&mut self, epoch: &str, words: &[&str]) {
        let index = self.observed.shards[self.shard].index;
        let (options, words): (Vec<&str>, Vec<&str>) = words.iter().partition(|word| word.contains('='));
        let members = words.iter().map(|word| {
            let (node, parent) =
                word.split_once('<').map_or((*word, None), |(node, p)| (node, Some(id(index, p))));
            let ordinal = node.trim_end_matches(|c: char| c.is_alphabetic());
            Member { id: id(index, node), name: format!("a-{index}-{ordinal}"), parent }
        });
        let mut members: Vec<_> = members.collect();
        let master = members[0].id;
        members.sort_by(|a, b| a.name.cmp(&b.name));
        let epoch = Epoch(number(epoch));
        let slots = even_share(index, self.spec.shards);
        let acknowledge = self.spec.acknowledge;
        let mut config = ShardConfig {
            uid: uid(),
            shard: index,
            epoch,
            master,
            members,
            slots,
            acknowledge,
            topology: self.spec.topology,
            failover: self.spec.failover,
            source: None,
            overlap: Vec::new(),
            former: Vec::new(),
            given: Vec::new(),
            taken: Vec::new(),
            left: SlotSet::default(),
        };
        for (key, value) in pairs(&options) {
            match key {
                "acknowledge" => config.acknowledge = self::acknowledge(value),
                "source" => config.source = source(value),
                "overlap" => {
                    let (voters, copies) = value.split_once(':').expect("VOTERS:COPIES");
                    let tokens = voters.split(',');
                    let voters: Vec<NodeId> = tokens.clone().map(|node| id(index, node)).collect();
                    let former = voters.iter().zip(tokens).filter(|(id, _)| config.member(**id).is_none());
                    let former: Vec<Member> = former
                        .map(|(id, node)| Member { id: *id, name: format!("a-{index}-{node}"), parent: None })
                        .collect();
                    config.former.extend(former);
                    config.overlap.push(Electorate { voters, copies: number(copies) });
                }
                "slots" => {
                    let ranges: Vec<String> = value.split(',').map(str::to_owned).collect();
                    config.slots = ranges.try_into().expect("slots");
                }
                other => panic!("no such part of a config: {other}"),
            }
        }
        self.configs.insert((index, epoch.0), config.clone());
        self.last_config = Some(config);
    }

    fn set_node(&mut self, ordinal: u16, words: &[&str]) {
        let shard = &mut self.observed.shards[self.shard];
        let index = shard.index;
        let nodes = &mut shard.nodes;
        let position = nodes.iter().position(|node| node.ordinal == ordinal).unwrap_or_else(|| {
            let presence = Presence::Running;
            let name = format!("a-{index}-{ordinal}");
            let template = Template::Current;
            nodes.push(NodeObserved {
                name,
                ordinal,
                presence,
                report: None,
                silent_ms: 0,
                address: None,
                template,
                site: Site::default(),
            });
            nodes.len() - 1
        });
        let node = &mut nodes[position];
        for (key, value) in pairs(words) {
            match (key, value) {
                ("presence", "starting") => node.presence = Presence::Starting,
                ("presence", "running") => node.presence = Presence::Running,
                ("presence", "leaving") => node.presence = Presence::Leaving,
                ("presence", "exited") => node.presence = Presence::Exited,
                ("template", "current") => node.template = Template::Current,
                ("template", "outdated") => node.template = Template::Outdated,
                ("template", "stuck") => node.template = Template::Stuck,
                ("silent", _) => node.silent_ms = number(value),
                ("zone", _) => node.site.zone = Some(value.to_owned()),
                ("draining", _) => node.site.draining = value == "yes",
                ("steady", _) => node.site.steady_ms = number(value),
                ("report", "none") => node.report = None,
                ("state", _) => {
                    let config = self.last_config.as_ref().filter(|_| value != "blank");
                    node.report = Some(report(node, index, value, config));
                    node.silent_ms = 0;
                }
                _ => {
                    let report = node.report.as_mut().unwrap_or_else(|| panic!("no report: {key}"));
                    set_report(report, index, key, value, &self.configs);
                }
            }
        }
    }

    fn apply(&mut self) {
        if self.agree() {
            self.plan = Some(plan(&self.spec, &self.observed));
        }
        let steps: Vec<_> = self.plan.iter().flat_map(|plan| &plan.shards).map(|s| s.step.clone()).collect();
        steps.into_iter().for_each(|step| self.take(step));
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Do(Action::Prepare { epoch, nodes, consent }, _) => {
                for id in nodes {
                    let Some(report) = self.report_of(id) else { continue };
                    if report.disk_error.as_deref() == Some("dead") {
                        continue;
                    }
                    report.promised = epoch;
                    report.renewing = report.config.as_ref().is_some_and(|c| consent.renews(c.epoch));
                    if report.renewing {
                        continue;
                    }
                    report.state = NodeState::Fenced;
                    report.paused = false;
                    report.link = None;
                }
            }
            Step::Do(Action::Accept { config, first, then }, _) => {
                for id in [first].into_iter().chain(then) {
                    if let Some(report) = self.report_of(id) {
                        accept(report, &config);
                    }
                }
            }
            Step::Do(Action::Pause { master, .. }, _) => {
                self.report_of(master).into_iter().for_each(|report| report.paused = true);
            }
            Step::Do(Action::CutOver { master, .. }, _) => {
                let report = self.report_of(master).into_iter();
                report.for_each(|report| report.source.get_or_insert_default().cutting_over = true);
            }
            Step::Do(Action::Import { master, from, slots, .. }, _) => self.import(master, from, slots),
            Step::Do(Action::Hold { master, .. }, _) => {
                let export = self.report_of(master).and_then(|report| report.export.as_mut());
                export.into_iter().for_each(|export| export.held = Some("h1".into()));
            }
            Step::Do(Action::Replace { node: name, .. }, _) => {
                let nodes = self.observed.shards.iter_mut().flat_map(|shard| &mut shard.nodes);
                for node in nodes.filter(|node| node.name == name) {
                    (node.template, node.presence) = (Template::Current, Presence::Starting);
                    node.report = None;
                }
            }
            Step::Nothing | Step::Wait(_) => {}
        }
    }

    /// The target's master asks the source's, which begins to send.
    fn import(&mut self, master: NodeId, from: u16, slots: SlotSet) {
        let Some(target) = self.report_of(master) else { return };
        let to = target.shard;
        let source = id(from, "0");
        let import = ImportReport { from, source, slots: slots.clone(), complete: None, error: None };
        target.import = (!slots.is_empty()).then_some(import);
        let masters = self.observed.shards.iter_mut().filter(|shard| shard.index == from);
        let reports = masters.flat_map(|shard| &mut shard.nodes).filter_map(|node| node.report.as_mut());
        for source in reports.filter(|report| report.state == NodeState::Master) {
            let (following, held) = (false, None);
            let export =
                ExportReport { to, slots: slots.clone(), following, held, keys: 0, pending_bytes: 0 };
            source.export = (!slots.is_empty()).then_some(export);
        }
    }

    fn report_of(&mut self, id: NodeId) -> Option<&mut NodeReport> {
        let nodes = self.observed.shards.iter_mut().flat_map(|shard| &mut shard.nodes);
        nodes.filter_map(|node| node.report.as_mut()).find(|report| report.id == id)
    }
}

fn accept(report: &mut NodeReport, config: &ShardConfig) {
    let member = config.member(report.id);
    report.promised = config.epoch;
    report.renewing = false;
    report.state = if config.master == report.id { NodeState::Master } else { NodeState::Replica };
    report.link = member.and_then(|member| member.parent).map(streaming);
    report.data = if config.source.is_some() { report.data } else { DataState::Live };
    report.source =
        config.source.as_ref().filter(|_| config.master == report.id).map(|_| Following::default());
    report.paused = false;
    if report.import.as_ref().is_some_and(|import| config.slots.is_superset(&import.slots)) {
        report.import = None;
    }
    report.config = Some(config.clone());
}

fn streaming(parent: NodeId) -> Link {
    Link { parent: Some(parent), state: LinkState::Streaming, silent_ms: 0 }
}

fn report(node: &NodeObserved, shard: u16, state: &str, config: Option<&ShardConfig>) -> NodeReport {
    let member = config.and_then(|config| config.members.iter().find(|member| member.name == node.name));
    let epoch = config.map_or(Epoch(0), |config| config.epoch);
    let has_data = config.is_some();
    NodeReport {
        id: member.map_or_else(|| id(shard, &node.ordinal.to_string()), |member| member.id),
        name: node.name.clone(),
        run_id: String::new(),
        version: String::new(),
        uid: uid(),
        shard,
        promised: epoch,
        renewing: false,
        config: config.cloned(),
        state: match state {
            "blank" => NodeState::Blank,
            "joining" => NodeState::Joining,
            "master" => NodeState::Master,
            "fenced" => NodeState::Fenced,
            "replica" => NodeState::Replica,
            other => panic!("no such state: {other}"),
        },
        link: member.and_then(|member| member.parent).map(streaming),
        replid: if has_data { "r".into() } else { String::new() },
        offset: if has_data { 100 } else { 0 },
        data: if has_data { DataState::Live } else { DataState::Empty },
        write_epoch: epoch,
        keys: 0,
        replicas: Vec::new(),
        paused: false,
        leaving: false,
        asked_to_lead: false,
        asked_to_yield: false,
        clients_paused: false,
        map_digest: String::new(),
        config_digest: String::new(),
        full_syncs: 0,
        discarded: None,
        partial_syncs: 0,
        uptime_ms: 0,
        disk_error: None,
        clock_ms: 0,
        sentinel_port: 0,
        bound: false,
        isolated: false,
        durability: None,
        source: None,
        export: None,
        import: None,
    }
}

fn set_report(
    report: &mut NodeReport,
    shard: u16,
    key: &str,
    value: &str,
    configs: &BTreeMap<(u16, u64), ShardConfig>,
) {
    match (key, value) {
        ("id", _) => report.id = id(shard, value),
        ("uid", _) => report.uid = ClusterUid(value.into()),
        ("promised", _) => report.promised = Epoch(number(value)),
        ("config", "none") => report.config = None,
        ("config", _) => report.config = Some(configs[&(shard, number(value))].clone()),
        ("data", "empty") => report.data = DataState::Empty,
        ("data", "syncing") => report.data = DataState::Syncing,
        ("data", "restored") => report.data = DataState::Restored,
        ("data", "live") => report.data = DataState::Live,
        ("offset", _) => report.offset = number(value),
        ("write-epoch", _) => report.write_epoch = Epoch(number(value)),
        ("replid", _) => report.replid = value.into(),
        ("link", "none") => report.link = None,
        ("link", state) => {
            let state = match state {
                "connecting" => LinkState::Connecting,
                "syncing" => LinkState::Syncing,
                _ => LinkState::Streaming,
            };
            let link = report.link.get_or_insert(Link { parent: None, state, silent_ms: 0 });
            link.state = state;
        }
        ("export", "none") => report.export = None,
        ("export", state) => {
            let export = report.export.as_mut().unwrap_or_else(|| panic!("no export"));
            (export.following, export.held) = (true, None);
            if state != "following" {
                export.held = Some(state.into());
            }
        }
        ("import", "none") => report.import = None,
        ("import", state) => {
            let import = report.import.as_mut().unwrap_or_else(|| panic!("no import"));
            match state {
                "lost" => import.error = Some(state.into()),
                id => import.complete = Some(Completion { id: id.into(), offset: report.offset }),
            }
        }
        ("keys", _) => report.keys = number(value),
        ("disk", _) => report.disk_error = (value != "ok").then(|| value.into()),
        ("clients", _) => report.clients_paused = value == "paused",
        ("paused", _) => report.paused = value == "yes",
        ("durable", _) => report.durability.get_or_insert(DURABLE).durable = number(value),
        ("settled", _) => report.durability.get_or_insert(DURABLE).settled = value == "yes",
        ("degraded", _) => report.durability.get_or_insert(DURABLE).degraded = value == "yes",
        ("lag", _) => report.source.get_or_insert_default().lag_bytes = Some(number(value)),
        ("cutting-over", _) => report.source.get_or_insert_default().cutting_over = value == "yes",
        ("complete", _) => report.source.get_or_insert_default().complete = value == "yes",
        ("problem", _) => {
            report.source.get_or_insert_default().problem = (value != "none").then(|| value.into());
        }
        ("bound", _) => report.bound = value == "yes",
        ("yields", _) => report.asked_to_yield = value == "yes",
        ("asked", _) => report.asked_to_lead = value == "yes",
        ("leaving", _) => report.leaving = value == "yes",
        (key, value) => panic!("no such part of a node: {key}={value}"),
    }
}
