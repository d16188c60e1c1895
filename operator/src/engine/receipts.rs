//! Receipts of changes of master, made from what each pass sees: when it was detected, promised, accepted and served, by whom,
//! and what it cost. Elections that others held, also while no operator was there, are told from the master being another one.
//!
//! A cache like the status that they stand in: an operator that takes over goes on with those of the one before it.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kv_core::control::NodeReport;
use kv_core::id::Epoch;
use kv_core::plan::{Action, Loss, NodeObserved, Observed, Plan, Reason, ShardObserved, ShardPlan, Step};
use kv_core::quorum::Acknowledge;
use kv_core::shard::ShardConfig;

use super::prober::takes_writes;
use crate::crd::{Candidate, KvClusterStatus, Lost, Proposer, Receipt, ReceiptKind};

/// How many are kept of a cluster.
const KEPT: usize = 5;

/// The receipts of a cluster.
#[derive(Debug, Default)]
pub struct Receipts {
    /// The latest first.
    kept: Vec<Receipt>,
    shards: BTreeMap<u16, Shard>,
}

/// What is remembered of a shard from pass to pass.
#[derive(Debug, Default)]
struct Shard {
    /// The master that was seen last, and the epoch of its config.
    master: Option<(String, u64)>,
    /// The history that it held, and up to where.
    held: Option<(String, u64)>,
    /// A change that is under way.
    draft: Option<Draft>,
    /// A change that was made, until the new master is seen to take writes.
    open: Option<Receipt>,
}

/// A change of master that is under way.
#[derive(Debug)]
struct Draft {
    kind: ReceiptKind,
    reason: String,
    message: String,
    detected: MicroTime,
    last_served: Option<MicroTime>,
    /// The epoch that was proposed here, when enough nodes had promised it, and whom there was to choose from.
    proposed: Option<(Epoch, MicroTime, Vec<Candidate>)>,
    /// Bytes that the old master held beyond the new one when it was last heard.
    beyond: Option<u64>,
    /// No node held any data.
    anew: bool,
    /// There was no quorum, and it was done without.
    forced: bool,
}

/// What there is to tell of a receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// The change is over: the new master takes writes, or is not the master any more.
    Changed(Receipt),
    /// The old master has returned, and told what it discarded.
    Returned(Receipt),
}

impl Receipts {
    /// Goes on with those of a status, if there is one. A master that is another one than there was changed meanwhile.
    #[must_use]
    pub fn of(status: Option<&KvClusterStatus>) -> Self {
        let shards = status.into_iter().flat_map(|status| &status.shards);
        let known = shards.filter_map(|shard| Some((shard.index, (shard.master.clone()?, shard.epoch))));
        Self {
            kept: status.map(|status| status.failovers.clone()).unwrap_or_default(),
            shards: known
                .map(|(index, master)| (index, Shard { master: Some(master), ..Shard::default() }))
                .collect(),
        }
    }

    /// The last ones, the latest first.
    #[must_use]
    pub fn list(&self) -> &[Receipt] {
        &self.kept
    }

    /// Takes in what a pass sees and plans. `served` tells when a node was last seen to take writes.
    pub fn look(
        &mut self,
        observed: &Observed,
        plan: &Plan,
        served: impl Fn(&str) -> Option<Timestamp>,
        now: Timestamp,
    ) -> Vec<News> {
        let (now, mut news) = (MicroTime(micros(now)), Vec::new());
        let served = |name: &str| served(name).map(|time| MicroTime(micros(time)));
        for shard in &plan.shards {
            let Some((config, seen)) = shard.config.as_ref().zip(find(observed, shard.index)) else {
                continue;
            };
            let state = self.shards.entry(shard.index).or_default();
            let (made, over) = state.look(shard, config, seen, &served, &now);
            news.extend(over.map(News::Changed));
            if let Some(receipt) = made {
                self.kept.insert(0, receipt);
                self.kept.truncate(KEPT);
            }
            if let Some(receipt) = state.serve(config, seen, &now) {
                self.replace(&receipt);
                news.push(News::Changed(receipt));
            }
        }
        news.extend(self.returned(observed).into_iter().map(News::Returned));
        news
    }

    fn replace(&mut self, receipt: &Receipt) {
        let same = |one: &&mut Receipt| (one.shard, one.epoch) == (receipt.shard, receipt.epoch);
        if let Some(old) = self.kept.iter_mut().find(same) {
            old.clone_from(receipt);
        }
    }

    /// Those of which the old master has just told what it discarded.
    fn returned(&mut self, observed: &Observed) -> Vec<Receipt> {
        let mut told = Vec::new();
        for receipt in self.kept.iter_mut().filter(|receipt| !is_settled(receipt)) {
            let node = find(observed, receipt.shard).and_then(|shard| named(shard, &receipt.from));
            let discarded = node.and_then(|node| node.report.as_ref()?.discarded);
            let of_this = discarded.filter(|discarded| discarded.epoch.0 >= receipt.epoch);
            let Some(bytes) = of_this.and_then(|discarded| discarded.bytes) else { continue };
            receipt.discarded_bytes = Some(bytes);
            if matches!(receipt.lost, Lost::Unknown | Lost::AtLeast) {
                receipt.lost = if bytes == 0 { Lost::None } else { Lost::Discarded };
            }
            told.push(receipt.clone());
        }
        told
    }
}

/// Whether nothing more can be learnt of what was lost.
fn is_settled(receipt: &Receipt) -> bool {
    match receipt.lost {
        Lost::None | Lost::Discarded | Lost::All => true,
        Lost::NoneByQuorum => receipt.discarded_bytes.is_some(),
        Lost::AtLeast | Lost::Unknown => false,
    }
}

impl Shard {
    /// Returns the receipt of a change that was made, and the one before it if its master never was seen to take writes.
    fn look(
        &mut self,
        plan: &ShardPlan,
        config: &ShardConfig,
        seen: &ShardObserved,
        served: &impl Fn(&str) -> Option<MicroTime>,
        now: &MicroTime,
    ) -> (Option<Receipt>, Option<Receipt>) {
        let Some(name) = config.member(config.master).map(|member| member.name.clone()) else {
            return (None, None);
        };
        let known = self.master.replace((name.clone(), config.epoch.0));
        let made = match known {
            Some((from, before)) if from != name && before < config.epoch.0 => {
                let last_served = served(&from);
                Some(self.receipt(plan.index, (from, before), config, last_served, now))
            }
            // What was seen later is not taken back.
            Some(known) if known.1 > config.epoch.0 => {
                self.master = Some(known);
                return (None, None);
            }
            _ => None,
        };
        let over = made.as_ref().and_then(|receipt| self.open.replace(receipt.clone()));
        self.note(plan, config, seen, served(&name), now);
        (made, over)
    }

    /// Notes how far a change is that is under way.
    fn note(
        &mut self,
        plan: &ShardPlan,
        config: &ShardConfig,
        seen: &ShardObserved,
        last_served: Option<MicroTime>,
        now: &MicroTime,
    ) {
        let master = seen.nodes.iter().filter_map(|node| node.report.as_ref());
        let master = master.into_iter().find(|report| report.id == config.master);
        if let Some(report) = master {
            self.held = Some((report.replid.clone(), report.offset));
        }
        let (action, reason) = match &plan.step {
            Step::Do(action, reason) => (Some(action), Some(reason)),
            Step::Wait(reason) => (None, Some(reason)),
            Step::Nothing => (None, None),
        };
        let cause = reason.and_then(|reason| cause(reason, self.draft.is_some()));
        let Some((kind, code, message)) = cause else {
            // While nodes are being asked there may be something else to plan for a moment.
            if master.is_some_and(takes_writes) {
                self.draft = None;
            }
            return;
        };
        let draft = self.draft.get_or_insert_with(|| Draft {
            kind,
            reason: code.to_owned(),
            message: message.clone(),
            detected: now.clone(),
            last_served: None,
            proposed: None,
            beyond: None,
            anew: false,
            forced: false,
        });
        let forced = matches!(reason, Some(Reason::Forcing { .. }));
        if forced || kind != ReceiptKind::Unknown && draft.kind != kind {
            (draft.kind, draft.reason, draft.message) = (kind, code.to_owned(), message);
        }
        draft.anew = matches!(reason, Some(Reason::FoundingAnew { .. }));
        draft.forced = forced;
        draft.last_served = last_served.or(draft.last_served.take());
        let held = self.held.clone();
        draft.propose(action, config, seen, held, now);
    }

    fn receipt(
        &mut self,
        shard: u16,
        (from, epoch_before): (String, u64),
        config: &ShardConfig,
        last_served: Option<MicroTime>,
        now: &MicroTime,
    ) -> Receipt {
        let draft = self.draft.take().unwrap_or_else(|| Draft::of_others(now.clone()));
        let own = draft.proposed.filter(|(epoch, ..)| *epoch == config.epoch);
        let by = if own.is_some() { Proposer::Operator } else { Proposer::Others };
        let beyond = draft.beyond.filter(|bytes| *bytes > 0 && own.is_some());
        let lost = match (draft.kind, config.acknowledge, beyond) {
            _ if draft.anew => Lost::All,
            (_, Acknowledge::Quorum { .. }, _) if !draft.forced => Lost::NoneByQuorum,
            (ReceiptKind::Planned, ..) if own.is_some() => Lost::None,
            (.., Some(_)) => Lost::AtLeast,
            (.., None) => Lost::Unknown,
        };
        let (promised, candidates) =
            own.map(|(_, promised, candidates)| (Some(promised), candidates)).unwrap_or_default();
        let to = self.master.as_ref().map(|(name, _)| name.clone()).unwrap_or_default();
        Receipt {
            shard,
            from,
            to,
            kind: draft.kind,
            reason: draft.reason,
            message: draft.message,
            by,
            epoch_before,
            epoch: config.epoch.0,
            last_served: last_served.or(draft.last_served),
            detected: draft.detected,
            accepted: promised.is_some().then(|| now.clone()),
            promised,
            served: None,
            interruption: None,
            candidates,
            discarded_bytes: (lost == Lost::AtLeast).then_some(beyond).flatten(),
            lost,
        }
    }

    /// The receipt of the last change, once its master takes writes.
    fn serve(&mut self, config: &ShardConfig, seen: &ShardObserved, now: &MicroTime) -> Option<Receipt> {
        let leads = |report: &NodeReport| report.id == config.master && takes_writes(report);
        let takes = seen.nodes.iter().any(|node| node.report.as_ref().is_some_and(leads));
        let mut receipt = self.open.take_if(|open| takes && open.epoch <= config.epoch.0)?;
        receipt.served = Some(now.clone());
        receipt.interruption = receipt.interruption_ms().map(|ms| format!("{ms}ms"));
        Some(receipt)
    }
}

impl Draft {
    /// Of a change that was made by others, and is seen now.
    fn of_others(detected: MicroTime) -> Self {
        Self {
            kind: ReceiptKind::Unknown,
            reason: "ElectedByOthers".to_owned(),
            message: "the nodes, or an operator before this one, changed the master".to_owned(),
            detected,
            last_served: None,
            proposed: None,
            beyond: None,
            anew: false,
            forced: false,
        }
    }

    /// Notes whom there is to choose from when a new master is proposed. `held`: what the old one held.
    fn propose(
        &mut self,
        action: Option<&Action>,
        config: &ShardConfig,
        seen: &ShardObserved,
        held: Option<(String, u64)>,
        now: &MicroTime,
    ) {
        let Some(Action::Accept { config: new, .. }) = action else { return };
        if new.master == config.master
            || self.proposed.as_ref().is_some_and(|(epoch, ..)| *epoch == new.epoch)
        {
            return;
        }
        let candidates = seen.nodes.iter().filter_map(|node| candidate(node, new)).collect();
        self.proposed = Some((new.epoch, now.clone(), candidates));
        let mut reports = seen.nodes.iter().filter_map(|node| node.report.as_ref());
        let chosen = reports.find(|report| report.id == new.master);
        self.beyond = chosen.zip(held).and_then(|(chosen, (replid, offset))| {
            (chosen.replid == replid).then(|| offset.saturating_sub(chosen.offset))
        });
    }
}

fn candidate(node: &NodeObserved, new: &ShardConfig) -> Option<Candidate> {
    let report = node.report.as_ref()?;
    Some(Candidate {
        name: node.name.clone(),
        offset: report.offset,
        write_epoch: report.write_epoch.0,
        data: report.data,
        promised: report.promised == new.epoch,
    })
}

/// What kind of change a reason speaks of, its code, and it in words; `None` if of none. A master that has stepped down, or
/// was voted out, was so for the sake of a change that was begun before, if one was.
fn cause(reason: &Reason, begun: bool) -> Option<(ReceiptKind, &'static str, String)> {
    if let Some(departure) = reason.departure() {
        return Some((ReceiptKind::Planned, departure.code(), departure.to_string()));
    }
    if matches!(reason, Reason::FoundingAnew { .. }) {
        return Some((ReceiptKind::Unplanned, reason.code(), reason.to_string()));
    }
    let loss = reason.loss()?;
    if matches!(reason, Reason::Forcing { .. }) {
        return Some((ReceiptKind::Unplanned, reason.code(), reason.to_string()));
    }
    let goes_on = matches!(loss, Loss::Fenced { .. } | Loss::Superseded { .. });
    let kind = if goes_on { ReceiptKind::Unknown } else { ReceiptKind::Unplanned };
    let message = match loss {
        Loss::Fenced { .. } if !begun => format!("{loss}, as others asked it to"),
        loss => loss.to_string(),
    };
    Some((kind, loss.code(), message))
}

fn find(observed: &Observed, index: u16) -> Option<&ShardObserved> {
    observed.shards.iter().find(|shard| shard.index == index)
}

fn named<'a>(shard: &'a ShardObserved, name: &str) -> Option<&'a NodeObserved> {
    shard.nodes.iter().find(|node| node.name == name)
}

/// A time as it is written: more would not come back.
fn micros(time: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use kv_core::control::{DataState, Discarded, NodeState};
    use kv_core::id::{ClusterUid, NodeId};
    use kv_core::lease::Failover;
    use kv_core::plan::{Presence, Site, Template, Vote, plan};
    use kv_core::shard::Member;
    use kv_core::slot::SlotSet;
    use kv_core::spec::ClusterSpec;
    use kv_core::topology::Topology;
    use serde_json::json;

    use super::*;

    fn spec() -> ClusterSpec {
        ClusterSpec {
            shards: 1,
            replicas_per_shard: 2,
            topology: Topology::Star,
            acknowledge: Acknowledge::Async,
            failover: Failover::default(),
            preferred: None,
            source: None,
            durable: true,
            config: BTreeMap::new(),
        }
    }

    fn id(ordinal: u8) -> NodeId {
        NodeId::from_bytes([ordinal; 20])
    }

    fn config(epoch: u64, master: u8) -> ShardConfig {
        let member = |n: u8| {
            let parent = (n != master).then(|| id(master));
            Member { id: id(n), name: format!("a-0-{n}"), parent }
        };
        ShardConfig {
            uid: ClusterUid("u".into()),
            shard: 0,
            epoch: Epoch(epoch),
            master: id(master),
            members: (0..3).map(member).collect(),
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
        }
    }

    /// A node that does what the config says.
    fn node(ordinal: u8, config: &ShardConfig, offset: u64) -> NodeObserved {
        let master = config.master == id(ordinal);
        let link = json!({"parent": config.master, "state": "Streaming", "silentMs": 0});
        let report = json!({
            "id": id(ordinal), "name": format!("a-0-{ordinal}"), "runId": "r", "version": "1", "uid": "u", "shard": 0,
            "promised": config.epoch, "config": config, "state": if master { "Master" } else { "Replica" },
            "link": if master { None } else { Some(link) }, "replid": "history", "offset": offset, "data": "Live",
            "writeEpoch": 1, "keys": 1, "replicas": [], "paused": false, "leaving": false, "mapDigest": "",
            "configDigest": "", "fullSyncs": 0, "partialSyncs": 0, "uptimeMs": 1, "bound": master,
        });
        NodeObserved {
            name: format!("a-0-{ordinal}"),
            ordinal: ordinal.into(),
            presence: Presence::Running,
            report: serde_json::from_value(report).unwrap(),
            silent_ms: 0,
            address: None,
            template: Template::Current,
            site: Site::default(),
        }
    }

    fn shard(config: &ShardConfig) -> Vec<NodeObserved> {
        (0..3).map(|ordinal| node(ordinal, config, 100)).collect()
    }

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(1_700_000_000_000 + ms).unwrap()
    }

    fn look(receipts: &mut Receipts, nodes: &[NodeObserved], ms: i64) -> Vec<News> {
        look_with(receipts, nodes, ms, None)
    }

    fn look_with(
        receipts: &mut Receipts,
        nodes: &[NodeObserved],
        ms: i64,
        witness: Option<Vote>,
    ) -> Vec<News> {
        let nodes = nodes.to_vec();
        let one = ShardObserved {
            index: 0,
            workload_nodes: Some(3),
            nodes,
            witness,
            wish: None,
            forced: None,
            bound_ms: Some(0),
            bound_to: None,
        };
        let observed = Observed { uid: ClusterUid("u".into()), name: "a".into(), shards: vec![one] };
        let plan = plan(&spec(), &observed);
        receipts.look(&observed, &plan, |name| (name == "a-0-0").then(|| at(10)), at(ms))
    }

    fn report(node: &mut NodeObserved) -> &mut NodeReport {
        node.report.as_mut().unwrap()
    }

    #[test]
    fn a_lost_master_leaves_a_receipt_of_each_step_and_of_what_it_discards() {
        let mut receipts = Receipts::default();
        let mut nodes = shard(&config(1, 0));
        report(&mut nodes[0]).offset = 137;
        assert_eq!(look(&mut receipts, &nodes, 0), []);
        nodes[0].presence = Presence::Exited;
        look(&mut receipts, &nodes, 210);
        let promise = |node: &mut NodeObserved| {
            report(node).promised = Epoch(2);
            report(node).state = NodeState::Fenced;
        };
        nodes[1..].iter_mut().for_each(promise);
        look(&mut receipts, &nodes, 230);
        assert_eq!(receipts.list(), []);
        nodes[1] = node(1, &config(2, 1), 120);
        report(&mut nodes[1]).bound = false;
        assert_eq!(look(&mut receipts, &nodes, 250), [], "its lease is not there yet");
        report(&mut nodes[1]).bound = true;
        let told = look(&mut receipts, &nodes, 412);
        let [News::Changed(receipt)] = &told[..] else { panic!("{told:?}") };
        assert_eq!(receipts.list(), std::slice::from_ref(receipt));
        let candidate = |name: &str| Candidate {
            name: name.into(),
            offset: 100,
            write_epoch: 1,
            data: DataState::Live,
            promised: true,
        };
        let old = Candidate { offset: 137, promised: false, ..candidate("a-0-0") };
        let expected = Receipt {
            shard: 0,
            from: "a-0-0".into(),
            to: "a-0-1".into(),
            kind: ReceiptKind::Unplanned,
            reason: "MasterExited".into(),
            message: "the master a-0-0 has exited".into(),
            by: Proposer::Operator,
            epoch_before: 1,
            epoch: 2,
            last_served: Some(MicroTime(at(10))),
            detected: MicroTime(at(210)),
            promised: Some(MicroTime(at(230))),
            accepted: Some(MicroTime(at(250))),
            served: Some(MicroTime(at(412))),
            interruption: Some("402ms".into()),
            candidates: vec![old, candidate("a-0-1"), candidate("a-0-2")],
            lost: Lost::AtLeast,
            discarded_bytes: Some(37),
        };
        assert_eq!(*receipt, expected);

        nodes[0] = node(0, &config(2, 1), 120);
        assert_eq!(look(&mut receipts, &nodes, 900), [], "it has not told yet");
        let discarded = Discarded { master: id(1), epoch: Epoch(2), bytes: Some(41) };
        report(&mut nodes[0]).discarded = Some(discarded);
        let told = look(&mut receipts, &nodes, 1000);
        let returned = Receipt { lost: Lost::Discarded, discarded_bytes: Some(41), ..expected };
        assert_eq!(told, [News::Returned(returned.clone())]);
        assert_eq!(receipts.list(), [returned]);
        assert_eq!(look(&mut receipts, &nodes, 1100), [], "it is told once");
    }

    #[test]
    fn a_planned_change_loses_nothing_and_one_that_lapses_leaves_no_receipt() {
        let mut receipts = Receipts::default();
        let mut nodes = shard(&config(1, 0));
        nodes[0].presence = Presence::Leaving;
        look(&mut receipts, &nodes, 0);
        nodes[0].presence = Presence::Running;
        look(&mut receipts, &nodes, 50);
        nodes[0].presence = Presence::Leaving;
        look(&mut receipts, &nodes, 100);
        report(&mut nodes[0]).paused = true;
        look(&mut receipts, &nodes, 110);
        for node in &mut nodes {
            report(node).promised = Epoch(2);
            report(node).state = NodeState::Fenced;
        }
        look(&mut receipts, &nodes, 120);
        // The promise of one is seen before that of another.
        let mut between = nodes.clone();
        between[0] = node(0, &config(1, 0), 100);
        report(&mut between[0]).paused = true;
        look(&mut receipts, &between, 121);
        let vote = Vote { epoch: Epoch(2), master: id(1) };
        look_with(&mut receipts, &nodes, 125, Some(vote));
        let told = look(&mut receipts, &shard(&config(2, 1)), 130);
        let [News::Changed(receipt)] = &told[..] else { panic!("{told:?}") };
        assert_eq!((receipt.kind, receipt.lost), (ReceiptKind::Planned, Lost::None));
        assert_eq!((receipt.reason.as_str(), &receipt.detected), ("MasterStopping", &MicroTime(at(100))));
    }

    #[test]
    fn what_others_decided_is_told_also_by_the_next_operator_and_few_are_kept() {
        let status = json!({"shards": [{"index": 0, "epoch": 1, "master": "a-0-0", "nodes": []}]});
        let mut receipts = Receipts::of(Some(&serde_json::from_value(status).unwrap()));
        let told = look(&mut receipts, &shard(&config(2, 1)), 500);
        let [News::Changed(receipt)] = &told[..] else { panic!("{told:?}") };
        assert_eq!((receipt.by, receipt.kind), (Proposer::Others, ReceiptKind::Unknown));
        assert_eq!((receipt.lost, receipt.promised.is_none()), (Lost::Unknown, true));
        // An old config, as from a node that is behind, changes nothing.
        assert_eq!(look(&mut receipts, &shard(&config(1, 0)), 600), []);
        for round in 1..=6 {
            let master = u8::try_from(round % 3).unwrap();
            look(&mut receipts, &shard(&config(16 * round + u64::from(master) + 1, master)), 700);
        }
        let status = KvClusterStatus { failovers: receipts.list().to_vec(), ..KvClusterStatus::default() };
        let epochs: Vec<_> = Receipts::of(Some(&status)).list().iter().map(|receipt| receipt.epoch).collect();
        assert_eq!(epochs.len(), KEPT);
        assert!(epochs.is_sorted_by(|later, earlier| later > earlier), "{epochs:?}");
    }
}
