//! An independent checker of plans: rules of safety, written apart from the planner and without its helpers, so that a mistake
//! must be made twice to go unseen. Tests and simulations run it on every plan.

use std::fmt;

use crate::control::{Consent, DataState, LinkState, NodeReport, NodeState};
use crate::id::{Epoch, NodeId};
use crate::plan::{
    Action, NodeObserved, Observed, Plan, Presence, ShardObserved, ShardPlan, Step, Template, Vote,
};
use crate::quorum::{Acknowledge, Electorate};
use crate::shard::{Member, ShardConfig, Transfer};
use crate::slot::SlotSet;
use crate::spec::{ClusterSpec, Home, Preferred};

/// A rule that a plan breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Index of the shard.
    pub shard: u16,
    /// What is wrong.
    pub rule: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shard {}: {}", self.shard, self.rule)
    }
}

/// Checks a plan against what it was made from. Empty if it breaks no rule.
#[must_use]
pub fn check(spec: &ClusterSpec, observed: &Observed, plan: &Plan) -> Vec<Violation> {
    let mut violations = Vec::new();
    for shard in &plan.shards {
        let mut rules = Rules { shard: shard.index, broken: Vec::new() };
        let facts = Facts::of(spec, observed, shard.index);
        check_step(&facts, shard, &mut rules);
        check_workload(&facts, plan, shard, &mut rules);
        violations.append(&mut rules.broken);
    }
    violations.extend(check_slots(plan));
    violations
}

struct Rules {
    shard: u16,
    broken: Vec<Violation>,
}

impl Rules {
    fn must(&mut self, holds: bool, rule: impl Into<String>) {
        if !holds {
            self.broken.push(Violation { shard: self.shard, rule: rule.into() });
        }
    }
}

struct Facts<'a> {
    spec: &'a ClusterSpec,
    observed: &'a Observed,
    shard: Option<&'a ShardObserved>,
    /// Nodes with a report of this cluster, shard and name.
    reports: Vec<(&'a NodeObserved, &'a NodeReport)>,
    newest: Option<&'a ShardConfig>,
}

impl<'a> Facts<'a> {
    fn of(spec: &'a ClusterSpec, observed: &'a Observed, index: u16) -> Self {
        let shard = observed.shards.iter().find(|shard| shard.index == index);
        let mut reports = Vec::new();
        for node in shard.map(|shard| shard.nodes.as_slice()).unwrap_or_default() {
            if let Some(report) = &node.report
                && (&report.uid, report.shard, &report.name) == (&observed.uid, index, &node.name)
            {
                reports.push((node, report));
            }
        }
        let newest = reports.iter().filter_map(|(_, report)| report.config.as_ref()).max_by_key(|c| c.epoch);
        Self { spec, observed, shard, reports, newest }
    }

    fn heard(&self) -> impl Iterator<Item = (&'a NodeObserved, &'a NodeReport)> {
        let down_after = self.spec.failover.down_after_ms;
        let heard =
            move |node: &NodeObserved| node.presence != Presence::Exited && node.silent_ms < down_after;
        self.reports.iter().copied().filter(move |(node, _)| heard(node))
    }

    fn heard_from(&self, id: NodeId) -> Option<(&'a NodeObserved, &'a NodeReport)> {
        self.heard().find(|(_, report)| report.id == id)
    }

    /// The present master, if it answers and serves.
    fn serving(&self) -> Option<(&'a NodeObserved, &'a NodeReport)> {
        let newest = self.newest?;
        // The observer voted for a later one.
        let later = |vote: Vote| vote.epoch > newest.epoch && vote.master != newest.master;
        let superseded = self.shard.and_then(|shard| shard.witness).is_some_and(later);
        self.heard_from(newest.master).filter(|(_, report)| report.state == NodeState::Master && !superseded)
    }

    /// Whether the present master is known to acknowledge nothing: its process ended, or says that it is no master.
    fn has_ended(&self) -> bool {
        let Some(config) = self.newest else { return false };
        let name = config.members.iter().find(|member| member.id == config.master).map(|member| &member.name);
        let nodes = self.shard.map(|shard| shard.nodes.as_slice()).unwrap_or_default();
        let exited = nodes.iter().any(|node| Some(&node.name) == name && node.presence == Presence::Exited);
        let stands_back =
            self.heard_from(config.master).is_some_and(|(_, report)| report.state != NodeState::Master);
        exited || stands_back
    }

    fn must_go(&self, node: &NodeObserved, report: &NodeReport) -> bool {
        node.presence == Presence::Leaving
            || report.leaving
            || report.asked_to_yield
            || report.disk_error.is_some()
            || node.ordinal > self.spec.replicas_per_shard
            || node.template != Template::Current
            || node.site.draining
            || self.somebody_else_is_asked(node)
            || self.is_not_preferred(node)
    }

    /// Whether masters are to be brought back to a place where this node is not, and one is that has been in step for long.
    fn is_not_preferred(&self, master: &NodeObserved) -> bool {
        let Some(Preferred { home, failback_ms: Some(after) }) = &self.spec.preferred else { return false };
        let lives_there = |node: &NodeObserved| match home {
            Home::Zone(zone) => node.site.zone.as_deref() == Some(zone.as_str()),
            Home::Ordinal(ordinal) => node.ordinal == *ordinal,
        };
        let paused = self.heard().any(|(node, report)| node.name == master.name && report.paused);
        let comes_back = |node: &NodeObserved| lives_there(node) && (paused || node.site.steady_ms >= *after);
        !lives_there(master) && self.heard().any(|(node, _)| comes_back(node))
    }

    /// Whether of all whose word counts under a config more than half have accepted it.
    fn accepted_by_majorities(&self, config: &ShardConfig) -> bool {
        let gone = |id: NodeId| config.voters().any(|voter| voter.id == id && self.replaced(voter));
        let has = |id: &NodeId| {
            let report = self.heard_from(*id).map(|(_, report)| report);
            report.and_then(|report| report.config.as_ref()).is_some_and(|own| own.epoch >= config.epoch)
        };
        config.electorates().all(|electorate| {
            let voters: Vec<_> = electorate.voters.into_iter().filter(|id| !gone(*id)).collect();
            2 * voters.iter().filter(|id| has(id)).count() > voters.len() || voters.is_empty()
        })
    }

    fn somebody_else_is_asked(&self, master: &NodeObserved) -> bool {
        let wished =
            self.shard.and_then(|shard| shard.wish.as_ref()).is_some_and(|name| *name != master.name);
        let asked =
            |(node, report): (&NodeObserved, &NodeReport)| node.name != master.name && report.asked_to_lead;
        wished || self.heard().any(asked)
    }

    /// Whether all specified nodes are there to stay and do what the newest config says, and no others are there.
    fn whole(&self) -> bool {
        let (Some(config), Some(shard)) = (self.newest, self.shard) else { return false };
        let well = |node: &NodeObserved| {
            let report = self.heard().find(|(other, _)| other.name == node.name).map(|(_, report)| report);
            let stays = node.presence != Presence::Leaving && node.ordinal <= self.spec.replicas_per_shard;
            let in_step = report.is_some_and(|report| {
                let streams = report.link.as_ref().is_some_and(|link| link.state == LinkState::Streaming);
                let acts = match report.state {
                    NodeState::Master => report.id == config.master,
                    NodeState::Replica => streams && report.data == DataState::Live,
                    _ => false,
                };
                acts && !report.leaving && report.disk_error.is_none() && config.member(report.id).is_some()
            });
            stays && in_step
        };
        shard.nodes.len() == usize::from(self.spec.nodes_per_shard())
            && config.members.len() == shard.nodes.len()
            && shard.nodes.iter().all(well)
    }

    /// Whether another node answers under the member's name, and the member itself does not.
    fn replaced(&self, member: &Member) -> bool {
        let mut under_name = self.heard().filter(|(node, _)| node.name == member.name);
        under_name.any(|(_, report)| report.id != member.id)
    }

    /// The members that count, and those of them that answer.
    fn voters(&self, config: &ShardConfig) -> (usize, Vec<&'a NodeReport>) {
        let answering: Vec<_> =
            config.members.iter().filter_map(|member| self.heard_from(member.id)).map(|(_, r)| r).collect();
        let replaced = config.members.iter().filter(|member| self.replaced(member)).count();
        let total = config.members.len();
        (if answering.len() + replaced == total { total - replaced } else { total }, answering)
    }
}

fn check_step(facts: &Facts<'_>, shard: &ShardPlan, rules: &mut Rules) {
    match &shard.step {
        Step::Nothing | Step::Wait(_) => {}
        Step::Do(Action::Prepare { epoch, nodes, consent }, _) => {
            check_prepare(facts, *epoch, nodes, *consent, rules);
            let over = facts.serving().is_some() || facts.has_ended();
            rules.must(
                *consent != Consent::Ended || over,
                "nobody is told that a master has ended of which that is not known",
            );
        }
        Step::Do(Action::Pause { master, target, epoch, .. }, _) => {
            let serving = facts.serving();
            let config = facts.newest.is_some_and(|config| config.epoch == *epoch);
            rules.must(config, "a pause is for the present epoch");
            rules.must(
                serving.is_some_and(|(node, report)| report.id == *master && facts.must_go(node, report)),
                "only a serving master that must go is paused",
            );
            rules.must(facts.heard_from(*target).is_some(), "the target of a pause answers");
        }
        Step::Do(Action::CutOver { master, epoch }, _) => {
            let follows =
                facts.newest.is_some_and(|config| config.epoch == *epoch && config.source.is_some());
            rules.must(follows && facts.spec.source.is_none(), "a cut-over was asked for by the user");
            rules.must(
                facts.serving().is_some_and(|(_, report)| report.id == *master),
                "a cut-over is the serving master's",
            );
        }
        Step::Do(Action::Replace { node, template }, _) => check_replace(facts, node, *template, rules),
        Step::Do(Action::Import { master, epoch, slots, .. }, _) => {
            check_master(facts, *master, *epoch, rules);
            let own = facts.newest.is_some_and(|config| !config.slots.is_disjoint(slots));
            rules.must(!own, "a shard imports no slots that it has");
        }
        Step::Do(Action::Hold { master, epoch, slots, .. }, _) => {
            check_master(facts, *master, *epoch, rules);
            let own = facts.newest.is_some_and(|config| config.slots.is_superset(slots));
            rules.must(own, "a shard holds writes to slots that it has");
        }
        Step::Do(Action::Accept { config, first, then }, _) => {
            rules.must(!then.contains(first), "the first one is not told twice");
            check_accept(facts, config, *first, rules);
        }
    }
}

fn check_master(facts: &Facts<'_>, master: NodeId, epoch: Epoch, rules: &mut Rules) {
    let present = facts.newest.is_some_and(|config| config.epoch == epoch);
    let serves = facts.serving().is_some_and(|(_, report)| report.id == master);
    rules.must(present && serves, "only the serving master is asked, under the present epoch");
}

fn check_replace(facts: &Facts<'_>, node: &str, template: Template, rules: &mut Rules) {
    let nodes = facts.shard.map(|shard| shard.nodes.as_slice()).unwrap_or_default();
    let found = nodes.iter().find(|other| other.name == node);
    rules.must(
        found.is_some_and(|node| node.template == template && node.presence != Presence::Leaving),
        "a node is replaced as it was seen, and not twice",
    );
    rules.must(template != Template::Current, "only an outdated node is replaced");
    match facts.heard().find(|(other, _)| other.name == node) {
        None => {
            rules.must(template == Template::Stuck, "a node that does not answer is replaced if it is stuck")
        }
        Some((_, report)) => {
            rules.must(facts.whole(), "a node that answers is replaced only while all are in step");
            let leads = facts.newest.is_some_and(|config| config.master == report.id);
            let alone = facts.spec.replicas_per_shard == 0 && facts.spec.durable;
            rules.must(!leads || alone, "a master is replaced only if there can be no other");
        }
    }
}

fn check_prepare(facts: &Facts<'_>, epoch: Epoch, nodes: &[NodeId], consent: Consent, rules: &mut Rules) {
    rules.must(!nodes.is_empty(), "somebody is asked for a promise");
    rules.must(
        nodes.iter().all(|id| facts.heard_from(*id).is_some_and(|(_, report)| report.promised < epoch)),
        "only those who answer and have not promised are asked",
    );
    rules.must(facts.newest.is_some_and(|config| config.epoch < epoch), "an election has a new epoch");
    if let Consent::Renewal(of) = consent {
        rules.must(
            facts.newest.is_some_and(|config| config.epoch == of),
            "what is renewed is the newest config",
        );
        return match facts.serving() {
            None => rules.must(false, "only a serving master is renewed"),
            Some((node, _)) => {
                rules.must((epoch.0 - 1) % 16 == u64::from(node.ordinal), "the epoch is one of the master's");
            }
        };
    }
    if let Some((node, master)) = facts.serving() {
        let follows = facts.newest.is_some_and(|config| config.source.is_some());
        let caught_up = facts.heard().any(|(_, other)| {
            other.id != master.id && (follows || master.paused && other.offset == master.offset)
        });
        rules.must(
            facts.must_go(node, master) && caught_up,
            "no election while the master serves, but for a hand-over with writes held and a successor in step",
        );
    }
}

fn check_accept(facts: &Facts<'_>, config: &ShardConfig, first: NodeId, rules: &mut Rules) {
    if let Err(error) = config.validate() {
        rules.must(false, error.to_string());
    }
    rules.must(config.uid == facts.observed.uid && config.shard == rules.shard, "a config is for its shard");
    for (_, report) in &facts.reports {
        if let Some(known) = &report.config {
            rules.must(known.epoch != config.epoch || known == config, "one config only for an epoch");
        }
    }
    if facts.newest == Some(config) {
        return;
    }
    rules.must(first == config.master, "the master hears first of a new config");
    let Some((node, master)) = facts.heard_from(config.master) else {
        return rules.must(false, "the new master answers");
    };
    rules.must((config.epoch.0 - 1) % 16 == u64::from(node.ordinal), "the epoch is one of the new master's");
    rules.must(master.promised <= config.epoch, "the new master has promised no newer epoch");
    match facts.newest {
        None => check_founding(facts, config, rules),
        Some(old) => {
            rules.must(config.epoch > old.epoch, "epochs grow");
            check_source(facts, old, config, master, rules);
            check_transfers(facts, old, config, rules);
            match facts.serving() {
                Some((_, serving)) => {
                    rules.must(serving.id == config.master, "a serving master is not replaced");
                    check_voters(facts, old, config, serving, rules);
                    let (total, answering) = facts.voters(old);
                    let promises = answering.iter().filter(|r| r.promised == config.epoch).count();
                    let witness = usize::from(total % 2 == 0);
                    rules.must(2 * (promises + witness) > total + witness, "a majority agreed to a change");
                }
                None => check_election(facts, old, config, master, rules),
            }
        }
    }
}

/// A shard with data of its own follows nobody, and one that follows a source does so until it has all of it, or somebody
/// has what was written after that.
fn check_source(
    facts: &Facts<'_>,
    old: &ShardConfig,
    config: &ShardConfig,
    master: &NodeReport,
    rules: &mut Rules,
) {
    match (&old.source, &config.source) {
        (None, Some(_)) => rules.must(false, "no source replaces the data of a shard"),
        (Some(_), None) => {
            let same = |other: &NodeReport| other.replid == master.replid && other.write_epoch > Epoch(0);
            let written = facts.heard().any(|(_, other)| same(other));
            let complete = master.source.as_ref().is_some_and(|source| source.complete);
            let asked = facts.spec.source.is_none() && facts.serving().is_some() && complete;
            rules.must(asked || written, "a source is followed until all of it is here");
        }
        _ => {}
    }
}

/// A slot changes its owner by a certificate only: the giver's first, while it holds writes and the taker has all of them;
/// then the taker's. Each is forgotten when the other side knows.
fn check_transfers(facts: &Facts<'_>, old: &ShardConfig, config: &ShardConfig, rules: &mut Rules) {
    let lost = old.slots.clone().without(&config.slots);
    let gained = config.slots.clone().without(&old.slots);
    let new = |list: &[Transfer], before: &[Transfer]| -> Vec<Transfer> {
        list.iter().filter(|one| !before.contains(one)).cloned().collect()
    };
    let given = new(&config.given, &old.given);
    let taken = new(&config.taken, &old.taken);
    let sums = |transfers: &[Transfer]| {
        transfers.iter().fold(SlotSet::default(), |sum, transfer| sum.union(&transfer.slots))
    };
    rules.must(sums(&given) == lost, "no slot is given away without a certificate");
    rules.must(sums(&taken) == gained, "no slot is taken without a certificate");
    for transfer in &given {
        let export = facts.serving().and_then(|(_, master)| master.export.as_ref());
        let held = export.is_some_and(|export| {
            export.held.as_ref() == Some(&transfer.id)
                && export.slots == transfer.slots
                && export.to == transfer.to
        });
        rules.must(
            held && transfer.from == config.shard,
            "slots are given away while writes to them are held",
        );
        rules.must(arrived(facts, transfer), "slots are given away when all of them have arrived");
    }
    for transfer in &taken {
        let source = Facts::of(facts.spec, facts.observed, transfer.from);
        let given = source.newest.filter(|newest| newest.given.contains(transfer));
        rules.must(
            given.is_some_and(|given| source.accepted_by_majorities(given)),
            "slots are taken when a majority of the giver knows that they were given away",
        );
        rules.must(arrived(facts, transfer), "slots are taken when all of them have arrived");
    }
    for transfer in new(&old.given, &config.given) {
        let target = Facts::of(facts.spec, facts.observed, transfer.to);
        let took = target.newest.filter(|newest| newest.taken.contains(&transfer));
        rules.must(
            took.is_some_and(|took| target.accepted_by_majorities(took)),
            "what was given away is kept until a majority of the taker has it",
        );
    }
    for transfer in new(&old.taken, &config.taken) {
        let source = Facts::of(facts.spec, facts.observed, transfer.from);
        let forgot = source.newest.filter(|newest| !newest.given.contains(&transfer));
        rules.must(
            forgot.is_some_and(|forgot| source.accepted_by_majorities(forgot)),
            "a certificate is kept until a majority of the giver has forgotten it",
        );
    }
}

/// Whether the taker's master has all that was written until the certificate's hold.
fn arrived(facts: &Facts<'_>, transfer: &Transfer) -> bool {
    let target = Facts::of(facts.spec, facts.observed, transfer.to);
    let import = target.serving().and_then(|(_, master)| master.import.as_ref());
    import.is_some_and(|import| {
        let complete = import.complete.as_ref().is_some_and(|complete| complete.id == transfer.id);
        complete && import.slots == transfer.slots && import.from == transfer.from
    })
}

/// Who keeps acknowledged writes changes by way of both, and not before what was written is with both.
fn check_voters(
    facts: &Facts<'_>,
    old: &ShardConfig,
    config: &ShardConfig,
    master: &NodeReport,
    rules: &mut Rules,
) {
    let ids = |config: &ShardConfig| config.members.iter().map(|member| member.id).collect::<Vec<_>>();
    let same = ids(old) == ids(config) && old.acknowledge.copies() == config.acknowledge.copies();
    let holds = config.acknowledge.holds_replies();
    let known = facts.accepted_by_majorities(old);
    let settled = !holds || master.durability.is_some_and(|durability| durability.settled);
    if !old.overlap.is_empty() && config.overlap.is_empty() {
        // Those whose place is taken by blank nodes vote no more.
        let gone = |id: &NodeId| old.voters().any(|voter| voter.id == *id && facts.replaced(voter));
        let left = |one: &Electorate| one.voters.iter().copied().filter(|id| !gone(id)).collect::<Vec<_>>();
        let only_copies = !holds && old.overlap.iter().all(|one| left(one) == ids(config));
        rules
            .must(same && settled || only_copies, "an overlap ends when what was written before is with all");
        return rules.must(known || only_copies, "an overlap ends when majorities know of it");
    }
    let left = old.members.iter().filter(|member| !facts.replaced(member)).map(|member| member.id);
    let same = same || !holds && (ids(old) == ids(config) || left.eq(ids(config)));
    let more = usize::from(!same);
    rules.must(config.overlap.len() <= old.overlap.len() + more, "no more overlap than there were changes");
    rules.must(same || !config.overlap.is_empty(), "a change of who keeps acknowledged writes overlaps");
}

fn check_founding(facts: &Facts<'_>, config: &ShardConfig, rules: &mut Rules) {
    let all = (0..=facts.spec.replicas_per_shard).all(|ordinal| {
        facts.heard().any(|(node, report)| node.ordinal == ordinal && report.config.is_none())
    });
    rules.must(all, "a shard is founded when all of its nodes answer and none has a config");
    let there = facts.shard.map(|shard| shard.nodes.as_slice()).unwrap_or_default();
    rules.must(
        there.len() == facts.heard().count(),
        "a shard is founded when every node that is there answers",
    );
    let most = facts.heard().map(|(_, report)| (report.data, report.write_epoch, report.offset)).max();
    let master = facts.heard_from(config.master).map(|(_, r)| (r.data, r.write_epoch, r.offset));
    rules.must(master == most, "the founder with the most data leads");
}

fn check_election(
    facts: &Facts<'_>,
    old: &ShardConfig,
    config: &ShardConfig,
    master: &NodeReport,
    rules: &mut Rules,
) {
    let (total, mut answering) = facts.voters(old);
    // Who cannot write the promise of this epoch cannot lead, whatever it holds.
    answering.retain(|report| report.disk_error.is_none() || report.promised >= config.epoch);
    if total == 0 {
        let all = (0..=facts.spec.replicas_per_shard)
            .all(|ordinal| facts.heard().any(|(node, _)| node.ordinal == ordinal));
        return rules.must(all, "a shard is founded anew when all of its nodes answer");
    }
    let lets_go = |report: &NodeReport| !report.bound || facts.has_ended();
    if facts.shard.and_then(|shard| shard.forced) == Some(old.epoch)
        && config.members.len() < old.members.len()
    {
        return check_forced(config, master, &answering, lets_go, rules);
    }
    check_copies(facts, old, config, total, rules);
    let gave = |report: &&&NodeReport| report.promised == config.epoch && lets_go(report);
    let promises = answering.iter().filter(gave).count();
    let bound = match facts.shard.map_or(Some(0), |shard| shard.bound_ms) {
        None => true,
        Some(bound) => {
            let released = facts.shard.is_some_and(|shard| shard.bound_to == Some(old.master));
            bound > 0 && !(facts.has_ended() && released)
        }
    };
    let even = usize::from(total % 2 == 0);
    let witness = if bound { 0 } else { even };
    rules.must(
        2 * (promises + witness) > total + even,
        format!("a majority promised: {promises} of {total} members"),
    );
    let votes = old.electorates().any(|electorate| electorate.voters.contains(&master.id));
    rules.must(master.promised == config.epoch && votes, "the new master is a voter and promised");
    // Of those that were members before, one that is silent may hold more as well.
    let known = |former: &Member| facts.heard_from(former.id).is_some() || facts.replaced(former);
    let all_answer = answering.len() == total && old.former.iter().all(known);
    let of_source = old.source.is_some() && master.write_epoch == Epoch(0);
    rules.must(
        master.data == DataState::Live || all_answer || of_source,
        "restored data leads only when all answer",
    );
    for other in answering {
        // Restored data leads only when all answer, see above: then it may be newer than what is live elsewhere.
        let trust = |report: &NodeReport| report.data.min(DataState::Restored);
        rules.must(trust(other) <= trust(master), "no member has more trustworthy data");
        // What was being loaded when the parent went says nothing by its offset.
        let comparable = other.data >= DataState::Restored && (all_answer || other.data == master.data);
        let same_history = other.replid == master.replid && comparable;
        rules.must(
            of_source || !same_history || other.offset <= master.offset,
            "no member has more of the same history",
        );
    }
}

/// A user has given up those that do not answer: who does goes on alone.
fn check_forced(
    config: &ShardConfig,
    master: &NodeReport,
    answering: &[&NodeReport],
    lets_go: impl Fn(&NodeReport) -> bool,
    rules: &mut Rules,
) {
    let promised = |report: &&&NodeReport| report.promised == config.epoch && lets_go(report);
    rules.must(
        answering.iter().all(|report| promised(&report)),
        "all who answer promised, and none hears the master",
    );
    let same = config.members.len() == answering.len()
        && answering.iter().all(|report| config.member(report.id).is_some());
    rules.must(same && config.overlap.is_empty(), "who answers makes up the shard, and nobody else");
    rules.must(master.data >= DataState::Restored, "an empty node is not forced to lead");
    let copies = usize::from(config.acknowledge.copies());
    let kept = copies <= config.members.len() || !matches!(config.acknowledge, Acknowledge::Quorum { .. });
    rules.must(kept, "no more copies are promised than there are nodes");
    for other in answering.iter().filter(|other| other.replid == master.replid && other.data == master.data) {
        rules.must(other.offset <= master.offset, "no member has more of the same history");
    }
}

/// Of the voters that a write was acknowledged by, one at least must be among those that elect.
fn check_copies(facts: &Facts<'_>, old: &ShardConfig, config: &ShardConfig, total: usize, rules: &mut Rules) {
    let members: Vec<NodeId> = old.members.iter().map(|member| member.id).collect();
    let own = old.acknowledge.holds_replies().then(|| (members, usize::from(old.acknowledge.copies())));
    let before = old.overlap.iter().filter(|overlap| overlap.copies > 0);
    let before = before.map(|overlap| (overlap.voters.clone(), usize::from(overlap.copies)));
    for (voters, copies) in own.into_iter().chain(before) {
        let promised: Vec<_> = voters
            .iter()
            .filter_map(|id| facts.heard_from(*id))
            .filter(|(_, report)| report.promised == config.epoch)
            .collect();
        let live = promised.iter().filter(|(_, report)| report.data == DataState::Live).count();
        // Voters whose place is taken by blank nodes hold nothing any more, wherever all others promise.
        let gone = |id: &NodeId| old.voters().any(|voter| voter.id == *id && facts.replaced(voter));
        let left = voters.iter().filter(|id| !gone(id)).count();
        let known = |former: &Member| facts.heard_from(former.id).is_some() || facts.replaced(former);
        let everybody = promised.len() >= left.min(total.max(1)) && old.former.iter().all(known);
        rules.must(
            everybody || live + copies > voters.len(),
            format!(
                "{live} of {} voters that hold their data promised, where {copies} acknowledge",
                voters.len()
            ),
        );
    }
    let changed = config.acknowledge != old.acknowledge || config.overlap != old.overlap;
    rules.must(!changed, "an election leaves acknowledgements alone");
}

fn check_workload(facts: &Facts<'_>, plan: &Plan, shard: &ShardPlan, rules: &mut Rules) {
    let Some(workload) = plan.workloads.iter().find(|workload| workload.shard == shard.index) else {
        let serves = |config: &ShardConfig| !config.slots.is_empty() || !config.given.is_empty();
        return rules.must(!facts.newest.is_some_and(serves), "a shard with slots has a workload");
    };
    rules.must(workload.nodes >= facts.spec.nodes_per_shard(), "a workload has the nodes of the spec");
    for (node, report) in &facts.reports {
        let is_member = facts.newest.is_some_and(|config| config.member(report.id).is_some());
        rules.must(!is_member || node.ordinal < workload.nodes, "no member is taken away");
    }
    if facts.serving().is_none() {
        let present = facts.shard.and_then(|shard| shard.workload_nodes).unwrap_or(0);
        rules.must(workload.nodes >= present, "nothing is taken away while nobody serves");
    }
}

fn check_slots(plan: &Plan) -> Vec<Violation> {
    let configs = plan.shards.iter().filter_map(|shard| match &shard.step {
        Step::Do(Action::Accept { config, .. }, _) => Some(config.as_ref()),
        _ => shard.config.as_ref(),
    });
    let mut configs: Vec<_> = configs.cloned().collect();
    // What was given away and not taken yet is the giver's, still.
    let taken: Vec<Transfer> = configs.iter().flat_map(|config| config.taken.clone()).collect();
    for config in &mut configs {
        let kept = config.given.iter().filter(|given| !taken.contains(given));
        config.slots = kept.fold(config.slots.clone(), |slots, given| slots.union(&given.slots));
    }
    let overlaps = |config: &&ShardConfig| {
        configs.iter().any(|other| other.shard < config.shard && !other.slots.is_disjoint(&config.slots))
    };
    let rule = "a slot belongs to one shard";
    configs
        .iter()
        .filter(overlaps)
        .map(|config| Violation { shard: config.shard, rule: rule.into() })
        .collect()
}
