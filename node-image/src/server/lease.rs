//! A master's lease, and the voter's side of it: whom this node heard, and whom it is bound to. See [`kv_core::lease`].

use std::collections::BTreeMap;
use std::time::Duration;

use kv_core::control::{DataState, NodeReport, NodeState};
use kv_core::id::{Epoch, NodeId};
use kv_core::lease;
use kv_core::shard::{Role, ShardConfig};

use super::{Event, Server};
use crate::command::CommandError;
use crate::peers::{Answer, Peers, Place, Target, clock_ms};
use crate::propose::{self, Proposal, Proposed};
use crate::{notice, warning};

/// By how much later a node begins an election than the one before it, in milliseconds.
const TURN_MS: u64 = 500;

/// After how long a node sees to what an operator would have seen to long before, in milliseconds.
const ALONE_MS: u64 = 1000;

/// For how long a node that was asked to lead tries to, in milliseconds. As long as in Redis.
const WISH_STANDS_MS: u64 = 5000;

/// How often the other nodes are asked, where a lease is not so short that it must be more often.
const INTERVAL: Duration = Duration::from_millis(250);

/// What is known of the other nodes of the shard. Times are those of [`clock_ms`].
#[derive(Debug)]
pub struct Lease {
    peers: Peers,
    /// When each voter was asked last that has answered as a voter of this node's config.
    granted: BTreeMap<NodeId, u64>,
    /// The same of the operator.
    witness: Option<u64>,
    /// Until when this node, as the master, may acknowledge writes.
    until: u64,
    /// Since when it may not; `None` if it may.
    lapsed_since: Option<u64>,
    /// When the master of this node's config last asked, or this node served as it. A node that just started does not know,
    /// and waits as if it had.
    heard_master: u64,
    /// What the others last answered, and when they were asked.
    reports: BTreeMap<NodeId, (NodeReport, u64)>,
    /// Since when a stream flows whose master may have more than this node had before it was restarted.
    catching_up: Option<u64>,
    /// An election is under way that this node began.
    proposing: bool,
    /// When it may begin the next one.
    propose_at: u64,
    /// What it waited for when it last began one.
    waited_for: String,
    /// When this replica was asked to lead (`CLUSTER FAILOVER`), or this master to make way (`SENTINEL FAILOVER`).
    /// With the role that it had then: another one ends that.
    asked: Option<(Role, u64)>,
    /// Since when the master says that it is about to stop, or was asked to make way.
    leaving_since: Option<u64>,
    /// When this node accepted a config with another master than before.
    changed: Option<u64>,
}

impl Lease {
    /// Nobody was heard yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            peers: Peers::default(),
            granted: BTreeMap::new(),
            witness: None,
            until: 0,
            lapsed_since: None,
            heard_master: clock_ms(),
            reports: BTreeMap::new(),
            catching_up: None,
            proposing: false,
            propose_at: 0,
            waited_for: String::new(),
            asked: None,
            leaving_since: None,
            changed: None,
        }
    }

    /// When the master was last known to serve: it asked, or said so itself.
    fn master_seen(&self, master: NodeId) -> u64 {
        let said = self.reports.get(&master).filter(|(report, _)| report.state == NodeState::Master);
        self.heard_master.max(said.map_or(0, |(_, asked)| *asked))
    }
}

/// Epoch of the config that a node reports.
fn report_epoch(report: &NodeReport) -> Epoch {
    report.config.as_ref().map_or(Epoch(0), |config| config.epoch)
}

impl Server {
    /// Asks the other members of the shard from now on, where they are by the map.
    pub(crate) fn ask_peers(&mut self) {
        let (Some(config), Some(identity)) = (self.routing.config(), self.routing.identity()) else { return };
        let me = self.routing.id();
        let quarter = Duration::from_millis((config.failover.lease_ms / 4).max(1));
        let interval = INTERVAL.min(quarter);
        let target = |id: NodeId| Target {
            place: self.place(id),
            uid: identity.uid.clone(),
            shard: identity.shard,
            me,
            epoch: config.epoch,
            interval,
            timeout: Duration::from_millis((config.failover.down_after_ms / 2).max(1)),
        };
        let others = config.electorates().flat_map(|electorate| electorate.voters).filter(|id| *id != me);
        let targets: BTreeMap<_, _> = others.map(|id| (id, target(id))).collect();
        self.lease.reports.retain(|id, _| targets.contains_key(id));
        let mailbox = self.mailbox();
        if let Err(error) = self.lease.peers.ask(targets, move |answer| mailbox.send(Event::Peer(answer))) {
            warning!("Cannot start a thread to ask other nodes: {error}");
        }
    }

    /// What another node last answered, and when it was asked.
    pub(crate) fn heard_of(&self, id: NodeId) -> Option<&(NodeReport, u64)> {
        self.lease.reports.get(&id)
    }

    pub(super) fn place(&self, id: NodeId) -> Place {
        Place {
            addresses: self.routing.addresses(id),
            password: self.config.control_password.clone().unwrap_or_default(),
        }
    }

    /// `CLUSTER FAILOVER`: this replica is to lead. The operator hands over to it or, where none does, the nodes.
    ///
    /// # Errors
    /// If it is no replica, or hears no master and is not forced.
    pub(crate) fn ask_to_lead(&mut self, force: bool) -> Result<(), CommandError> {
        if self.routing.state() != NodeState::Replica {
            return Err(CommandError::text("ERR You should send CLUSTER FAILOVER to a replica"));
        }
        let streams = self.link.as_ref().is_some_and(|link| link.client().is_some());
        if !streams && !force {
            return Err(CommandError::text(
                "ERR Master is down or failed, please use CLUSTER FAILOVER FORCE",
            ));
        }
        notice!("Asked to lead in place of the master.");
        self.lease.asked = Some((Role::Replica, clock_ms()));
        Ok(())
    }

    /// `SENTINEL FAILOVER`: a replica is to lead, this one if it is one.
    ///
    /// # Errors
    /// If no replica can, as far as this node knows, or the last change is not long over.
    pub(crate) fn ask_for_another_master(&mut self) -> Result<(), CommandError> {
        // Clients have to follow each change: one at a time, and not more often than a lost master is replaced.
        let patience = self.routing.config().map_or(0, |config| config.failover.down_after_ms);
        let just_changed = self.lease.changed.is_some_and(|at| clock_ms().saturating_sub(at) < patience);
        if just_changed || self.asked_to_lead() || self.asked_to_yield() {
            return Err(CommandError::text("INPROG Failover already in progress"));
        }
        if self.routing.state() != NodeState::Master {
            return self.ask_to_lead(true);
        }
        if self.clients.feeds().all(|(_, feed)| !feed.online()) {
            return Err(CommandError::text("NOGOODSLAVE No suitable replica to promote"));
        }
        notice!("Asked to make way for a replica.");
        self.lease.asked = Some((Role::Master, clock_ms()));
        Ok(())
    }

    /// Whether this node was asked to lead a moment ago, and does not yet.
    pub(super) fn asked_to_lead(&self) -> bool {
        self.asked_as(Role::Replica).is_some()
    }

    /// Whether this node was asked a moment ago to make way, and has not yet.
    pub(super) fn asked_to_yield(&self) -> bool {
        self.asked_as(Role::Master).is_some()
    }

    /// When this node was asked to give up this role; `None` if that was long ago, or has come about.
    fn asked_as(&self, role: Role) -> Option<u64> {
        let (asked, since) = self.lease.asked?;
        let stands = asked == role && self.routing.role() == Some(role);
        (stands && clock_ms().saturating_sub(since) < WISH_STANDS_MS).then_some(since)
    }

    /// Whether the master is to make way, for long enough that an operator would have seen to it.
    fn is_left_alone(&self, now: u64, rank: usize) -> bool {
        let after = |since: u64, wait: u64| now.saturating_sub(since) >= ALONE_MS + wait;
        let asked = self.asked_as(Role::Replica);
        let turn = TURN_MS * rank as u64;
        asked.is_some_and(|since| after(since, 0))
            || self.lease.leaving_since.is_some_and(|since| after(since, turn))
    }

    /// Begins an election if there is a newer config, which it will find, or if the master has been silent, or about to
    /// stop, for so long that an operator would have held one: one that is there is quicker, as it sees more, and so are
    /// nodes with a lower number.
    fn propose_if_due(&mut self) {
        let now = clock_ms();
        let serves = self.routing.state() == NodeState::Master;
        if serves {
            // It hears itself. Who asks it to step down gets the time that an election against a silent master waits for.
            self.lease.heard_master = now;
        }
        let Some(config) = self.routing.config().filter(|_| !self.lease.proposing) else { return };
        let me = self.routing.id();
        let Some(rank) = config.members.iter().position(|member| member.id == me) else { return };
        let patience = config.failover.down_after_ms + TURN_MS * (rank as u64 + 1);
        let newer = |(report, _): &(NodeReport, u64)| {
            report.config.as_ref().is_some_and(|other| other.epoch > config.epoch)
        };
        let outdated = self.lease.reports.values().any(newer);
        let silent = now.saturating_sub(self.lease.master_seen(config.master));
        // A master asks too, as soon as another one was elected while it was frozen or cut off.
        let due = outdated || !serves && (silent >= patience || self.is_left_alone(now, rank));
        if now < self.lease.propose_at || !due {
            return;
        }
        let silent = |id: NodeId| self.lease.reports.get(&id).map(|(_, asked)| now.saturating_sub(*asked));
        let newest = || self.routing.newest_own().into_iter().flat_map(ShardConfig::voters);
        let others = || config.voters().chain(newest()).map(|voter| voter.id);
        let silent_ms = others().filter_map(|id| Some((id, silent(id)?))).collect();
        let places = others().map(|id| (id, self.place(id))).collect();
        let proposal = Proposal { config: config.clone(), places, silent_ms };
        let mailbox = self.mailbox();
        self.lease.propose_at = now + patience;
        match propose::start(proposal, move |outcome| mailbox.send(Event::Proposed(outcome))) {
            Ok(()) => {
                self.lease.proposing = true;
                if !outdated {
                    self.tell_election();
                }
            }
            Err(error) => warning!("Cannot start a thread for an election: {error}"),
        }
    }

    /// What came of an election that this node began.
    pub(super) fn on_proposed(&mut self, outcome: Proposed) {
        self.lease.proposing = false;
        let text = match outcome {
            Proposed::Nothing => String::new(),
            Proposed::Waits(text) if text == self.lease.waited_for => text,
            Proposed::Waits(text) => {
                warning!("No election: {text}");
                self.tell_no_election();
                text
            }
            Proposed::Acted(text) => {
                notice!("Held an election: {text}");
                String::new()
            }
        };
        self.lease.waited_for = text;
    }

    /// A new config was accepted. `reigned`: whether this node was the serving master before, and what it was granted goes on
    /// to bind who granted it.
    pub(super) fn renew_lease(&mut self, reigned: bool, before: Option<lease::Failover>) {
        let same = before == self.routing.config().map(|config| config.failover);
        if !reigned || !same {
            self.lease.granted.clear();
            self.lease.witness = None;
        }
        self.lease.leaving_since = None;
        if self.lease.asked.is_some_and(|(role, _)| self.routing.role() != Some(role)) {
            self.lease.asked = None;
        }
        if !reigned {
            self.lease.lapsed_since = None;
            self.lease.heard_master = clock_ms();
        }
        self.ask_peers();
        self.count_lease();
    }

    /// Another node leads than before.
    pub(crate) fn note_new_master(&mut self) {
        self.lease.changed = Some(clock_ms());
    }

    /// Another node answered, or did not.
    pub(super) fn on_peer(&mut self, answer: Answer) {
        let Ok(report) = answer.report else { return };
        let (Some(config), Some(identity)) = (self.routing.config(), self.routing.identity()) else { return };
        if report.id != answer.id || report.uid != identity.uid || report.shard != identity.shard {
            return;
        }
        let accepted = report.config.as_ref().map(|config| config.epoch);
        let same = answer.epoch == config.epoch && accepted == Some(config.epoch);
        if same && (report.promised == config.epoch || report.renewing) {
            self.lease.granted.insert(answer.id, answer.asked_ms);
        }
        if report.id == config.master {
            let leaving = (report.leaving || report.asked_to_yield) && report.state == NodeState::Master;
            let since = self.lease.leaving_since.unwrap_or(answer.asked_ms);
            self.lease.leaving_since = leaving.then_some(since);
        }
        self.note_caught_up(&report, answer.asked_ms);
        self.note_freshness(&report, answer.asked_ms);
        self.lease.reports.insert(answer.id, (*report, answer.asked_ms));
        self.count_lease();
    }

    /// A stream flows. What this node acknowledged before it was restarted may be gone with its memory: until it has all
    /// that its master had at some moment since, its data do not count for more than they did.
    pub(super) fn begin_catching_up(&mut self) {
        // A source has all there is; what was restored is its past.
        let of_node = self.routing.is_managed() && self.adoption.is_none();
        if of_node && self.routing.data() == DataState::Restored {
            self.lease.catching_up = Some(clock_ms());
        } else {
            self.routing.set_data(DataState::Live);
        }
    }

    fn note_caught_up(&mut self, report: &NodeReport, asked_ms: u64) {
        let Some(since) = self.lease.catching_up else { return };
        if self.routing.data() != DataState::Restored {
            self.lease.catching_up = None;
            return;
        }
        let of_master = self.routing.config().is_some_and(|config| {
            config.master == report.id
                && report.state == NodeState::Master
                && config.epoch == report_epoch(report)
        });
        let streams = self.link.as_ref().is_some_and(|link| link.client().is_some());
        let same = report.replid == self.history.replid && self.history.offset() >= report.offset;
        if of_master && streams && same && asked_ms >= since {
            self.lease.catching_up = None;
            self.routing.set_data(DataState::Live);
        }
    }

    /// `KV PING`: the master of this node's own epoch is heard.
    pub(crate) fn hear_peer(&mut self, from: NodeId, epoch: Epoch) {
        let bound = self.routing.promised() == epoch || self.routing.is_renewing();
        let config = self.routing.config();
        if bound && config.is_some_and(|config| config.master == from && config.epoch == epoch) {
            self.lease.heard_master = clock_ms();
        }
    }

    /// `KV REPORT run-id epoch clock`: the operator grants the master of this run and epoch its lease from that clock on.
    pub(crate) fn hear_witness(&mut self, run_id: &str, epoch: Epoch, clock: u64) {
        let present = self.routing.config().map(|config| config.epoch);
        if run_id == self.run_id && present == Some(epoch) && clock <= clock_ms() {
            self.lease.witness = self.lease.witness.max(Some(clock));
            self.count_lease();
        }
    }

    /// For how long this node heard nothing of its master, if that is less than the lease and it is bound to it. A promise to
    /// another one does not take back what it granted: the master counts on it.
    pub(crate) fn bound_to_master(&self) -> Option<u64> {
        let config = self.routing.config()?;
        let silent = match self.routing.state() {
            NodeState::Master => self.holds_lease().then_some(0)?,
            NodeState::Fenced if self.routing.role() != Some(Role::Replica) => return None,
            NodeState::Replica | NodeState::Fenced => clock_ms().saturating_sub(self.lease.heard_master),
            NodeState::Joining | NodeState::Blank => return None,
        };
        (silent < config.failover.lease_ms).then_some(silent)
    }

    fn count_lease(&mut self) {
        let Some(config) = self.routing.config().filter(|_| self.routing.state() == NodeState::Master) else {
            return;
        };
        let granted = |id: NodeId| self.lease.granted.get(&id).copied();
        self.lease.until = lease::until(config, self.routing.id(), granted, self.lease.witness);
        self.watch_lease();
    }

    /// Whether this node, as the master, may acknowledge writes now.
    pub(super) fn holds_lease(&self) -> bool {
        self.lease.until == u64::MAX || clock_ms() < self.lease.until
    }

    /// Whether it had a lease in this reign, and has none now.
    pub(crate) fn lease_is_over(&self) -> bool {
        self.lease.until > 0 && !self.holds_lease()
    }

    /// Since when it may not, in milliseconds; `None` if it may.
    pub(super) fn lapsed_ms(&self) -> Option<u64> {
        self.lease.lapsed_since.map(|since| clock_ms().saturating_sub(since))
    }

    /// Notices that the lease is over, or is there again.
    pub(super) fn watch_lease(&mut self) {
        if self.routing.state() != NodeState::Master || !self.routing.is_managed() {
            self.lease.lapsed_since = None;
            return;
        }
        match (self.holds_lease(), self.lease.lapsed_since) {
            (true, Some(_)) => {
                self.lease.lapsed_since = None;
                self.retry_held();
            }
            (false, None) => self.lease.lapsed_since = Some(clock_ms()),
            _ => {}
        }
    }

    /// Says so when the lease has been over for a while.
    pub(super) fn tend_lease(&mut self) {
        self.propose_if_due();
        let before = self.isolated;
        let most = self.routing.config().map_or(0, |config| config.failover.lease_ms);
        self.watch_lease();
        self.isolated = self.lapsed_ms().is_some_and(|lapsed| lapsed >= most);
        match (before, self.isolated) {
            (false, true) => {
                warning!("This master reaches too few nodes of its shard: it refuses writes until it does");
                self.retry_held();
            }
            (true, false) => notice!("This master is not isolated any more"),
            _ => {}
        }
    }
}
