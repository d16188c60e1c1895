//! Electing a new master where no operator does: a node that has not heard its master for long asks the others, plans as
//! the operator would ([`kv_core::plan::succeed`]), and carries out what that says. Epochs settle it when several do.

use std::collections::BTreeMap;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use kv_core::control::NodeReport;
use kv_core::id::NodeId;
use kv_core::plan::{Action, NodeObserved, Observed, Presence, ShardObserved, Step, Template, succeed};
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
    /// Where its voters are, this node included.
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
    let mut nodes: BTreeMap<NodeId, Node> = proposal
        .places
        .iter()
        .map(|(id, place)| (*id, Node { place: place.clone(), connection: None, report: None }))
        .collect();
    let spec = spec(&proposal.config);
    let mut last = Proposed::Nothing;
    let (begin, mut rounds, mut acted) = (Instant::now(), 0, false);
    // What was begun is looked at once more: nodes that promised wait for what comes of it.
    while rounds < ROUNDS && (begin.elapsed() < LONGEST || std::mem::take(&mut acted)) {
        to_all(&mut nodes, &[], &["KV", "REPORT"]);
        match succeed(&spec, &observed(proposal, &nodes), proposal.config.shard) {
            None | Some(Step::Nothing) => return last,
            Some(Step::Wait(reason)) if reason.is_pressing() => thread::sleep(MOMENT),
            Some(Step::Wait(reason)) => return Proposed::Waits(reason.to_string()),
            Some(Step::Do(action, reason)) => {
                if let Err(error) = act(&proposal.config, &action, &mut nodes) {
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
        durable: true,
        config: BTreeMap::new(),
    }
}

fn ordinal(member: &Member) -> Option<u16> {
    member.name.rsplit_once('-')?.1.parse().ok()
}

fn observed(proposal: &Proposal, nodes: &BTreeMap<NodeId, Node>) -> Observed {
    let config = &proposal.config;
    let seen = config.voters().map(|member| {
        let report = nodes.get(&member.id).and_then(|node| node.report.clone());
        let silent = proposal.silent_ms.get(&member.id).copied().unwrap_or(u64::MAX);
        NodeObserved {
            name: member.name.clone(),
            ordinal: ordinal(member).unwrap_or_default(),
            presence: Presence::Running,
            silent_ms: if report.is_some() { 0 } else { silent },
            report,
            address: None,
            template: Template::Current,
        }
    });
    // Who proposes here is a voter itself, and no witness.
    let shard = ShardObserved {
        index: config.shard,
        workload_nodes: None,
        nodes: seen.collect(),
        bound_ms: None,
        witness: None,
        wish: None,
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
            if !then.is_empty() {
                to_all(nodes, then, &["KV", "ACCEPT", &text]);
            }
            Ok(())
        }
        Action::Pause { master, epoch, milliseconds, .. } => {
            let (shard, epoch) = (config.shard.to_string(), epoch.to_string());
            let node = nodes.get_mut(master).ok_or("the master cannot be reached")?;
            let args = ["KV", "PAUSE", &config.uid.0, &shard, &epoch, &milliseconds.to_string()];
            node.ask(&args).map_err(|error| error.to_string())
        }
        Action::Replace { .. } | Action::Import { .. } | Action::Hold { .. } => {
            Err("only an operator does that".into())
        }
    }
}

/// Asks these nodes, or all if none is named, at once.
fn to_all(nodes: &mut BTreeMap<NodeId, Node>, which: &[NodeId], args: &[&str]) {
    thread::scope(|scope| {
        for (id, node) in nodes.iter_mut() {
            if which.is_empty() || which.contains(id) {
                scope.spawn(move || node.ask(args));
            }
        }
    });
}

struct Node {
    place: Place,
    connection: Option<Connection>,
    /// What it answered last; `None` if it did not answer last time.
    report: Option<NodeReport>,
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
            none => none.insert(connect(&self.place, PATIENCE)?),
        };
        serde_json::from_slice(&call(connection, args)?).map_err(io::Error::other)
    }
}

/// How long a node may take to answer, or to write a promise.
const PATIENCE: Duration = Duration::from_millis(700);
