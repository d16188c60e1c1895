//! A change of master: who votes, who may lead, and whether there are promises enough.

use std::cmp::Reverse;

use crate::control::{Consent, DataState, NodeReport};
use crate::id::{Epoch, NodeId};
use crate::plan::change::{sorted_members, with_parents};
use crate::plan::reason::{Loss, Reason};
use crate::plan::view::{Seen, View, epoch_of};
use crate::plan::{Action, Step, Template};
use crate::plan::{force, founding};
use crate::quorum::Electorate;
use crate::shard::{Member, ShardConfig};

/// Those whose promises count.
pub(super) struct Voters<'v, 'a> {
    view: &'v View<'a>,
    members: Vec<&'v Member>,
    /// The same, and voters of before that are no members any more.
    voters: Vec<&'v Member>,
    /// Members that answer, and voters of before that do.
    answering: Vec<(&'v Seen<'a>, &'a NodeReport)>,
    electorates: Vec<Electorate>,
    /// Whether the shard follows a source.
    follows: bool,
    /// Whether the observer may vote where it is a voter.
    witness: bool,
}

/// The next step towards a new master, after the old one was lost.
pub(super) fn elect(view: &View<'_>, config: &ShardConfig, loss: Loss) -> Step {
    let released = loss.is_certain() && view.bound_to == Some(config.master);
    let witness = view.bound_ms.is_some_and(|bound| bound == 0 || released);
    let voters = Voters::of(view, config, witness);
    if voters.members.is_empty() {
        return founding::found_anew(view, config);
    }
    if let Some(step) = force::force(view, config, &loss, voters.elect(|_| true) && voters.best().is_some()) {
        return step;
    }
    if !voters.elect(|_| true) {
        let (needed, answering, missing) = (voters.needed(), voters.answering.len(), voters.missing());
        return Step::Wait(Reason::NoQuorum { loss, needed, answering, missing });
    }
    let Some((best, report)) = voters.best() else {
        return Step::Wait(Reason::NoCandidate { loss, missing: voters.missing() });
    };
    let candidate = best.node.name.clone();
    let epoch = proposed_epoch(view, config, best.node.ordinal);
    let promised = |report: &NodeReport| report.promised == epoch;
    // One observer's word is not enough to depose a master that others hear; nor is a promise that was given in the belief
    // that the master agrees, as long as it may still count on who gave it.
    let lets_go = |report: &NodeReport| loss.is_certain() || !report.bound;
    if promised(report) && voters.elect(|other| promised(other) && lets_go(other)) {
        let reason = match voters.best_data() {
            DataState::Empty | DataState::Syncing if config.source.is_none() => {
                Reason::FoundingAnew { master: candidate }
            }
            _ => Reason::Promoting { loss, master: candidate },
        };
        let source = config.source.clone().filter(|_| voters.history_epoch(report) == Epoch(0));
        let config = ShardConfig { source, ..config.clone() };
        return promote(view, &config, report, epoch, reason);
    }
    if !voters.elect(lets_go) {
        let hearing = voters.answering.iter().filter(|(_, other)| !lets_go(other));
        let nodes = hearing.map(|(seen, _)| seen.node.name.clone()).collect();
        return Step::Wait(Reason::HeardByOthers { loss, nodes });
    }
    let behind = voters.answering.iter().filter(|(_, other)| other.promised < epoch);
    let nodes = behind.map(|(_, other)| other.id).collect();
    let consent = if loss.is_certain() { Consent::Ended } else { Consent::IfSilent };
    Step::Do(Action::Prepare { epoch, nodes, consent }, Reason::Electing { loss, candidate })
}

/// Whether a new config is decided by the observer's vote too: where too few nodes have promised its epoch for every later
/// election to meet one of them. Where the observer is no voter, its vote is of no use.
pub(super) fn needs_vote(view: &View<'_>, old: &ShardConfig, step: &Step) -> bool {
    let Step::Do(Action::Accept { config, .. }, _) = step else { return false };
    let even = |electorate: Electorate| electorate.voters.len().is_multiple_of(2);
    let decided =
        |of: &ShardConfig| Voters::of(view, of, false).majority(|report| report.promised == config.epoch);
    let votes = old.electorates().chain(config.electorates()).any(even);
    **config != *old && votes && !(decided(old) && decided(config))
}

/// Whether so many have accepted `config` that nobody is elected any more by those who know only the one before it. The
/// observer's own vote does not count: the next observer may see none who knows, and vote again.
pub(super) fn is_known(view: &View<'_>, config: &ShardConfig) -> bool {
    Voters::of(view, config, false).majority(|report| epoch_of(report) >= config.epoch)
}

/// Asks for the promises that a change needs which keeps the master; `None` if a majority has given them. An election by
/// others either refused those who promised this, or is seen by who asks for it.
pub(super) fn agree(view: &View<'_>, config: &ShardConfig, master: u16) -> (Epoch, Option<Vec<NodeId>>) {
    let voters = Voters::of(view, config, true);
    let epoch = proposed_epoch(view, config, master);
    let promised = |report: &NodeReport| report.promised == epoch;
    if voters.majority(promised) {
        return (epoch, None);
    }
    let behind = voters.answering.iter().filter(|(_, other)| other.promised < epoch);
    (epoch, Some(behind.map(|(_, other)| other.id).collect()))
}

/// Whether a node was asked for its promise in this election and, as its disk takes nothing, did not give it. It counts as
/// one that does not answer. One whose disk takes no writes but did take the promise may lead, if it holds the most: it
/// hands over at once to who can keep writes, and nothing is lost.
fn failed_to_promise(view: &View<'_>, config: &ShardConfig, report: &NodeReport) -> bool {
    let asked = view.known_epoch();
    report.disk_error.is_some() && asked > config.epoch && report.promised < asked
}

/// The epoch that was promised in an election for this candidate that was begun before, or else a new one.
pub(super) fn proposed_epoch(view: &View<'_>, config: &ShardConfig, candidate: u16) -> Epoch {
    let known = view.known_epoch();
    if known > config.epoch && known.is_for(candidate) { known } else { known.next_for(candidate) }
}

fn promote(view: &View<'_>, config: &ShardConfig, master: &NodeReport, epoch: Epoch, reason: Reason) -> Step {
    let mut members = config.members.clone();
    if config.member(master.id).is_none() {
        members.push(Member { id: master.id, name: master.name.clone(), parent: None });
    }
    let members = with_parents(view, master.id, sorted_members(members));
    let then = view
        .answering()
        .filter(|(_, report)| report.id != master.id)
        .filter(|(_, report)| config.member(report.id).is_some() || epoch_of(report) > Epoch(0))
        .map(|(_, report)| report.id)
        .collect();
    let former = config.former.iter().filter(|former| former.id != master.id).cloned().collect();
    let config = ShardConfig { epoch, master: master.id, members, former, ..config.clone() };
    Step::Do(Action::Accept { config: Box::new(config), first: master.id, then }, reason)
}

impl<'v, 'a> Voters<'v, 'a> {
    /// The members of `config`. Where every one of them answers or was replaced by a blank node, which is gone for good then
    /// with its promises, those that were replaced do not count; else the loss of most volumes would stop the shard forever.
    pub(super) fn of(view: &'v View<'a>, config: &'v ShardConfig, witness: bool) -> Self {
        let answers = |member: &&Member| view.node(member.id).is_some_and(|seen| seen.answers);
        let all_heard = config.voters().all(|voter| answers(&voter) || view.reborn(voter));
        let members: Vec<_> =
            config.members.iter().filter(|member| !(all_heard && view.reborn(member))).collect();
        let voters = config.voters().filter(|voter| !(all_heard && view.reborn(voter))).collect();
        let gone = |id: NodeId| all_heard && view.gone(config, id);
        let electorates = config.electorates().map(|voters| voters.without(gone));
        let electorates: Vec<_> = electorates.filter(|electorate| !electorate.voters.is_empty()).collect();
        let votes = |id: NodeId| electorates.iter().any(|electorate| electorate.voters.contains(&id));
        let answering = view
            .answering()
            .filter(|(_, report)| votes(report.id) && !failed_to_promise(view, config, report))
            .collect();
        let follows = config.source.is_some();
        Self { view, members, voters, answering, electorates, follows, witness }
    }

    /// Whether those that answer, and that `given` holds for, can elect a master: a majority of every electorate, and so
    /// many that hold what they were given that no acknowledged write is missing among them.
    fn elect(&self, given: impl Fn(&NodeReport) -> bool) -> bool {
        self.electorates.iter().all(|electorate| {
            let votes = |report: &NodeReport| electorate.voters.contains(&report.id) && given(report);
            let promises = self.answering.iter().filter(|(_, report)| votes(report));
            let (mut all, mut live) = (0, 0);
            for (_, report) in promises {
                all += 1;
                live += usize::from(report.data == DataState::Live);
            }
            // Where every voter answers, nobody has more than the best of them. But who holds what was restored is not
            // chosen as long as anybody is silent whose word counts, be it one of before.
            let complete = all == electorate.voters.len() && self.all_answer();
            all >= electorate.majority(self.witness)
                && (complete || live >= electorate.readers() || electorate.copies == 0)
        })
    }

    /// Whether those that answer, and that `given` holds for, are a majority of every electorate.
    fn majority(&self, given: impl Fn(&NodeReport) -> bool) -> bool {
        self.electorates.iter().all(|electorate| {
            let votes = |report: &NodeReport| electorate.voters.contains(&report.id) && given(report);
            let promises = self.answering.iter().filter(|(_, report)| votes(report)).count();
            promises >= electorate.majority(self.witness)
        })
    }

    /// How many must promise at least.
    fn needed(&self) -> usize {
        let needed = |electorate: &Electorate| electorate.majority(self.witness).max(electorate.readers());
        self.electorates.iter().map(needed).max().unwrap_or(1)
    }

    fn missing(&self) -> Vec<String> {
        let answers = |member: &Member| self.answering.iter().any(|(_, report)| report.id == member.id);
        let takes_nothing = |member: &Member| self.view.node(member.id).is_some_and(|seen| seen.answers);
        let named = |member: &&Member| match takes_nothing(member) {
            true => format!("{} (its disk takes nothing)", member.name),
            false => member.name.clone(),
        };
        self.voters.iter().filter(|voter| !answers(voter)).map(named).collect()
    }

    fn best_data(&self) -> DataState {
        self.answering.iter().map(|(_, report)| report.data).max().unwrap_or(DataState::Empty)
    }

    /// Who should lead: the newest data. What was not held since it was written may lead only where everybody answers, and so
    /// nobody has better; there it counts as much as what was: a replica that was cut off for long holds less than the log
    /// of a master that was killed.
    fn best(&self) -> Option<(&'v Seen<'a>, &'a NodeReport)> {
        let may_lead = |report: &NodeReport| match report.data {
            DataState::Live => true,
            // Nobody has anything that the source has not.
            _ if self.follows && self.history_epoch(report) == Epoch(0) => true,
            DataState::Restored => self.all_answer(),
            data => self.all_answer() && data == self.best_data(),
        };
        // A voter of before may be the one that has what was acknowledged.
        let eligible = self.answering.iter().filter(|(_, report)| may_lead(report));
        eligible.max_by_key(|(seen, report)| self.rank(seen, report)).copied()
    }

    fn all_answer(&self) -> bool {
        self.missing().is_empty()
    }

    /// Those that answer, the best one last.
    pub(super) fn ranked(self) -> Vec<(&'v Seen<'a>, &'a NodeReport)> {
        let mut answering = self.answering.clone();
        answering.sort_by_key(|(seen, report)| self.rank(seen, report));
        answering
    }

    fn rank(&self, seen: &Seen<'_>, report: &NodeReport) -> impl Ord + use<> {
        let ordinal = seen.node.ordinal;
        let has_data = report.data >= DataState::Restored;
        let (epoch, offset) = (self.history_epoch(report), report.offset);
        let healthy = report.disk_error.is_none();
        let stays = !seen.leaving() && !report.asked_to_yield && !seen.node.site.draining;
        let current = seen.node.template == Template::Current;
        let wanted = self.view.wants(ordinal);
        let asked = self.view.is_asked(seen);
        let preferred = self.view.prefers(seen);
        // The rest of the source's stream comes to anybody.
        let first = if self.follows && epoch == Epoch(0) { 0 } else { offset };
        let data = (has_data, epoch, first, report.data);
        (data, healthy, stays, wanted, asked, current, preferred, offset, Reverse(ordinal))
    }

    /// The epoch that the node's history was last written under. Copies of one history are ordered by their offsets alone, as
    /// a replica may have learnt of an epoch a moment after its master wrote under it.
    fn history_epoch(&self, report: &NodeReport) -> Epoch {
        let same = self.answering.iter().filter(|(_, other)| other.replid == report.replid);
        same.map(|(_, other)| other.write_epoch).max().unwrap_or(report.write_epoch)
    }
}
