//! Electing a new master where no operator does: a node that has not heard its master for long asks the others, plans as
//! the operator would ([`kv_core::plan::succeed`]), and carries out what that says. Epochs settle it when several do.

use std::collections::BTreeMap;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use kv_core::control::NodeReport;
use kv_core::id::NodeId;
use kv_core::plan::{Action, NodeObserved, Observed, Presence, ShardObserved, Site, Step, Template, succeed};
use kv_core::shard::{Member, ShardConfig};
use kv_core::spec::ClusterSpec;

use crate::peers::{Connection, Place, call, connect};

/// Rounds of asking, planning and acting. An election takes two, and a hand-over one more.
const ROUNDS: usize = 8;

/// How long the first round may be over before the last one: as long as a master holds writes.
const LONGEST: Duration = Duration::from_secs(1);

/// How long to wait before a successor is asked again whether it has caught up.
const MOMENT: Duration = Duration::from_millis(2);

/// All that an election needs to know.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// The present config.
    pub config: ShardConfig,
    /// Where its voters are, this node included, and those of a newer config that this node has heard of.
    pub places: BTreeMap<NodeId, Place>,
    /// For how long each has been silent, in milliseconds, if it does not answer now either.
    pub silent_ms: BTreeMap<NodeId, u64>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proposed {
    /// Nothing is to be done: the master answers, or a new one leads.
    Nothing,
    /// It cannot go on; the text says what it waits for.
    Waits(String),
    /// The last step of these was taken; the text says why.
    Acted(String),
}

/// Runs an election on a thread of its own; `tell` is called with what came of it.
///
/// # Errors
/// If no thread can be started.
pub fn start(proposal: Proposal, tell: impl FnOnce(Proposed) + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name("kv-propose".into()).spawn(move || tell(elect(&proposal)))?;
    Ok(())
}

fn elect(proposal: &Proposal) -> Proposed {
    let node = |(id, place): (&NodeId, &Place)| {
        let silent = proposal.silent_ms.get(id).is_some_and(|silent| *silent >= SILENT_MS);
        let patience = if silent { LITTLE_PATIENCE } else { PATIENCE };
        (*id, Node { place: place.clone(), patience, connection: None, report: None, gave_up: false })
    };
    let mut nodes: BTreeMap<NodeId, Node> = proposal.places.iter().map(node).collect();
    let mut config = proposal.config.clone();
    let mut last = Proposed::Nothing;
    let (begin, mut rounds, mut acted) = (Instant::now(), 0, false);
    // What was begun is looked at once more: nodes that promised wait for what comes of it.
    while rounds < ROUNDS && (begin.elapsed() < LONGEST || std::mem::take(&mut acted)) {
        report_all(&mut nodes);
        config = newest(config, &nodes);
        match succeed(&spec(&config), &observed(&config, proposal, &nodes), config.shard) {
            None | Some(Step::Nothing) => return last,
            Some(Step::Wait(reason)) if reason.is_pressing() => thread::sleep(MOMENT),
            Some(Step::Wait(reason)) => return Proposed::Waits(reason.to_string()),
            Some(Step::Do(action, reason)) => {
                if let Err(error) = act(&config, &action, &mut nodes) {
                    return Proposed::Waits(format!("{reason}: {error}"));
                }
                last = Proposed::Acted(reason.to_string());
                (rounds, acted) = (rounds + 1, true);
            }
        }
    }
    last
}

/// The spec as far as an election asks for it: what the config was made from.
fn spec(config: &ShardConfig) -> ClusterSpec {
    let last = config.voters().filter_map(ordinal).max().unwrap_or(0);
    ClusterSpec {
        shards: config.shard.saturating_add(1),
        replicas_per_shard: last,
        topology: config.topology,
        acknowledge: config.acknowledge,
        failover: config.failover,
        preferred: None,
        // Nobody but a user cuts over.
        source: config.source.clone(),
        durable: true,
        config: BTreeMap::new(),
    }
}

fn ordinal(member: &Member) -> Option<u16> {
    member.name.rsplit_once('-')?.1.parse().ok()
}

/// The newest config that a node reports, or this one: who missed a change of members asks the new ones from then on.
fn newest(config: ShardConfig, nodes: &BTreeMap<NodeId, Node>) -> ShardConfig {
    let reported = nodes.values().filter_map(|node| node.report.as_ref()?.config.as_ref());
    let of_shard = reported.filter(|other| other.uid == config.uid && other.shard == config.shard);
    match of_shard.max_by_key(|other| other.epoch) {
        Some(other) if other.epoch > config.epoch => other.clone(),
        _ => config,
    }
}

fn observed(config: &ShardConfig, proposal: &Proposal, nodes: &BTreeMap<NodeId, Node>) -> Observed {
    // Those that were members before are told the newest config, too; this node may be one.
    let former = nodes
        .values()
        .filter_map(|node| node.report.as_ref())
        .filter(|report| report.config.is_some() && !config.voters().any(|voter| voter.id == report.id));
    let former = former.map(|report| Member { id: report.id, name: report.name.clone(), parent: None });
    let seen = config.voters().cloned().chain(former).map(|member| {
        let report = nodes.get(&member.id).and_then(|node| node.report.clone());
        let silent = proposal.silent_ms.get(&member.id).copied().unwrap_or(u64::MAX);
        NodeObserved {
            ordinal: ordinal(&member).unwrap_or_default(),
            name: member.name,
            presence: Presence::Running,
            silent_ms: if report.is_some() { 0 } else { silent },
            report,
            address: None,
            template: Template::Current,
            site: Site::default(),
        }
    });
    // Who proposes here is a voter itself, and no witness.
    let shard = ShardObserved {
        index: config.shard,
        workload_nodes: None,
        nodes: seen.collect(),
        bound_ms: None,
        bound_to: None,
        witness: None,
        wish: None,
        forced: None,
    };
    let name = config.members.first().map_or("", |member| member.name.as_str());
    let name = name.rsplitn(3, '-').last().unwrap_or_default().to_owned();
    Observed { uid: config.uid.clone(), name, shards: vec![shard] }
}

fn act(config: &ShardConfig, action: &Action, nodes: &mut BTreeMap<NodeId, Node>) -> Result<(), String> {
    match action {
        Action::Prepare { epoch, nodes: voters, consent } => {
            let (shard, epoch) = (config.shard.to_string(), epoch.to_string());
            let mut args = vec!["KV", "PREPARE", &config.uid.0, &shard, &epoch];
            let consent = consent.arguments();
            args.extend(consent.iter().map(String::as_str));
            to_all(nodes, voters, &args);
            Ok(())
        }
        Action::Accept { config: new, first, then } => {
            let text = serde_json::to_string(new).map_err(|error| error.to_string())?;
            let node = nodes.get_mut(first).ok_or("the new master cannot be reached")?;
            node.ask(&["KV", "ACCEPT", &text]).map_err(|error| error.to_string())?;
            to_all(nodes, then, &["KV", "ACCEPT", &text]);
            Ok(())
        }
        Action::Pause { master, epoch, milliseconds, .. } => {
            let (shard, epoch) = (config.shard.to_string(), epoch.to_string());
            let node = nodes.get_mut(master).ok_or("the master cannot be reached")?;
            let args = ["KV", "PAUSE", &config.uid.0, &shard, &epoch, &milliseconds.to_string()];
            node.ask(&args).map_err(|error| error.to_string())
        }
        Action::CutOver { .. } | Action::Replace { .. } | Action::Import { .. } | Action::Hold { .. } => {
            Err("only an operator does that".into())
        }
    }
}

/// Asks all nodes how they are, at once. One that takes too long is not asked again: each round would wait for it.
fn report_all(nodes: &mut BTreeMap<NodeId, Node>) {
    thread::scope(|scope| {
        for node in nodes.values_mut().filter(|node| !node.gave_up) {
            scope.spawn(move || {
                let late = |kind| matches!(kind, io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock);
                node.gave_up = node.ask(&["KV", "REPORT"]).is_err_and(|error| late(error.kind()));
            });
        }
    });
}

/// Asks these nodes at once.
fn to_all(nodes: &mut BTreeMap<NodeId, Node>, which: &[NodeId], args: &[&str]) {
    thread::scope(|scope| {
        for (_, node) in nodes.iter_mut().filter(|(id, _)| which.contains(id)) {
            scope.spawn(move || node.ask(args));
        }
    });
}

struct Node {
    place: Place,
    /// How long a connection to it may take, and an answer.
    patience: Duration,
    connection: Option<Connection>,
    /// What it answered last; `None` if it did not answer last time.
    report: Option<NodeReport>,
    /// Whether it took too long to say how it is.
    gave_up: bool,
}

impl Node {
    /// Asks; the answer is in `report`. An error that the node answers with leaves the report of before.
    fn ask(&mut self, args: &[&str]) -> io::Result<()> {
        let outcome = self.exchange(args);
        match outcome {
            Ok(report) => self.report = Some(report),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
            Err(error) => {
                (self.connection, self.report) = (None, None);
                return Err(error);
            }
        }
        Ok(())
    }

    fn exchange(&mut self, args: &[&str]) -> io::Result<NodeReport> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(connect(&self.place, self.patience)?),
        };
        serde_json::from_slice(&call(connection, args)?).map_err(io::Error::other)
    }
}

/// How long a node may take to answer, or to write a promise.
const PATIENCE: Duration = Duration::from_millis(700);

/// How long one may take that has been silent for long: it probably does not answer now either.
const LITTLE_PATIENCE: Duration = Duration::from_millis(150);

/// A node that has been silent for so many milliseconds probably does not answer.
const SILENT_MS: u64 = 1000;
