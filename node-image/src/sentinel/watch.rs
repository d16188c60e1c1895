//! What this node thinks of the others, and what it tells about that: Sentinel's events.

use std::collections::{BTreeMap, BTreeSet};

use kv_core::id::{Epoch, NodeId};

use super::view::{Address, View, serves};
use crate::peers::clock_ms;
use crate::server::{PubSub, Server};

/// The state behind `sentinel-port`.
#[derive(Debug)]
pub struct Sentinel {
    /// The port; 0 for none.
    pub port: u16,
    /// Who has subscribed to events; these channels are apart from those of the data port.
    pub channels: PubSub,
    members: BTreeMap<NodeId, Known>,
    odown_since: Option<u64>,
    /// Since when the master is who it is, as far as this node knows.
    since: u64,
    shown: Option<Shown>,
}

/// What is known of a member. Times are those of [`clock_ms`].
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// Where it was last.
    pub address: Option<Address>,
    /// Its port of this protocol; 0 while it is not known.
    pub sentinel_port: u16,
    /// When it last answered.
    pub answered: u64,
    /// When it last answered as what the config says that it is: a master that does not serve is as good as silent.
    pub heard: u64,
    /// Since when it counts as down.
    pub down_since: Option<u64>,
    /// Since when it counts as down as a Sentinel.
    pub silent_since: Option<u64>,
}

impl Known {
    pub fn new(now: u64) -> Self {
        Self {
            address: None,
            sentinel_port: 0,
            answered: now,
            heard: now,
            down_since: None,
            silent_since: None,
        }
    }
}

/// What subscribers were told last.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shown {
    master: NodeId,
    address: Address,
    epoch: Epoch,
    replicas: BTreeSet<NodeId>,
    sentinels: BTreeSet<NodeId>,
}

/// A channel, and a message.
type Event = (&'static str, String);

impl Sentinel {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(port: u16) -> Self {
        Self {
            port,
            channels: PubSub::default(),
            members: BTreeMap::new(),
            odown_since: None,
            since: clock_ms(),
            shown: None,
        }
    }

    pub(super) fn known(&self, id: NodeId) -> Option<&Known> {
        self.members.get(&id)
    }

    pub(super) fn odown_since(&self) -> Option<u64> {
        self.odown_since
    }

    pub(super) fn since(&self) -> u64 {
        self.since
    }

    /// `SENTINEL RESET`: forms its opinions anew.
    pub(super) fn reset(&mut self) {
        self.members.clear();
        self.odown_since = None;
        if let Some(shown) = &mut self.shown {
            shown.replicas.clear();
            shown.sentinels.clear();
        }
    }
}

impl Server {
    /// Looks at the shard, and tells subscribers what is new. What they were told last is compared with what is, so that
    /// nothing is missed, whatever it was that changed.
    pub(crate) fn tend_sentinel(&mut self) {
        if self.sentinel.port == 0 {
            return;
        }
        self.note_members();
        let mut events = Vec::new();
        self.tell_changes(&mut events);
        self.tell_opinions(&mut events);
        for (channel, message) in events {
            self.announce(channel, &message);
        }
    }

    /// This node begins an election.
    pub(crate) fn tell_election(&mut self) {
        self.tell_of_master("+try-failover");
    }

    /// An election that this node began cannot go on.
    pub(crate) fn tell_no_election(&mut self) {
        self.tell_of_master("-failover-abort-not-elected");
    }

    fn tell_of_master(&mut self, channel: &str) {
        let text = self.shard_view(None).and_then(|view| Some(view.event(view.master()?)));
        if let Some(text) = text.filter(|_| self.sentinel.port > 0) {
            self.announce(channel, &text);
        }
    }

    fn note_members(&mut self) {
        let (now, me) = (clock_ms(), self.routing.id());
        let serving = serves(self.routing.state(), self.isolated);
        let Some(config) = self.routing.newest_own().cloned() else { return };
        self.sentinel.members.retain(|id, _| config.member(*id).is_some());
        for id in config.members.iter().map(|member| member.id) {
            let address = self.routing.client_address(id);
            let news = match self.heard_of(id) {
                _ if id == me => Some((self.sentinel.port, now, serving)),
                Some((report, asked)) => {
                    Some((report.sentinel_port, *asked, serves(report.state, report.isolated)))
                }
                None => None,
            };
            let known = self.sentinel.members.entry(id).or_insert_with(|| Known::new(now));
            known.address = address.or(known.address.take());
            let Some((port, answered, serves)) = news else { continue };
            known.sentinel_port = port;
            known.answered = known.answered.max(answered);
            if id != config.master || serves {
                known.heard = known.heard.max(answered);
            }
        }
    }

    /// What the config says, where it is not what it said.
    fn tell_changes(&mut self, events: &mut Vec<Event>) {
        let Some(view) = self.shard_view(None) else { return };
        let shown = Shown {
            master: view.config.master,
            address: view.address.clone(),
            epoch: view.config.epoch,
            replicas: view.replicas().map(|instance| instance.id).collect(),
            sentinels: view.other_sentinels().map(|instance| instance.id).collect(),
        };
        let before = self.sentinel.shown.clone();
        if before.as_ref() == Some(&shown) {
            return;
        }
        tell_change(&view, before.as_ref(), &shown, self.routing.id(), events);
        if before.is_none_or(|before| before.master != shown.master) {
            self.sentinel.since = clock_ms();
            self.sentinel.odown_since = None;
            for known in self.sentinel.members.values_mut() {
                known.down_since = None;
            }
            if let Some(master) = self.sentinel.members.get_mut(&shown.master) {
                master.heard = clock_ms();
            }
        }
        self.sentinel.shown = Some(shown);
    }

    /// Who is down in the eyes of this node, and of enough others.
    fn tell_opinions(&mut self, events: &mut Vec<Event>) {
        let Some(view) = self.shard_view(None) else { return };
        let (now, limit) = (view.now, view.config.failover.down_after_ms);
        let mut opinions = Vec::new();
        let mut turn = |since: Option<u64>, last: u64, text: &dyn Fn() -> String| {
            let down = now.saturating_sub(last) > limit;
            if down != since.is_some() {
                events.push((if down { "+sdown" } else { "-sdown" }, text()));
            }
            down.then(|| since.unwrap_or(now))
        };
        for instance in &view.instances {
            let known = &instance.known;
            let down = turn(known.down_since, known.heard, &|| view.event(instance));
            let silent = match instance.known.sentinel_port {
                0 => None,
                _ => turn(known.silent_since, known.answered, &|| view.sentinel_event(instance)),
            };
            opinions.push((instance.id, down, silent));
        }
        let master = opinions.iter().find(|(id, ..)| *id == view.config.master);
        let agreeing = match master {
            Some((_, Some(_), _)) => 1 + view.other_sentinels().filter(|other| agrees(&view, other)).count(),
            _ => 0,
        };
        let odown = agreeing >= view.quorum();
        if odown != view.odown_since.is_some() {
            let text = view.master().map(|master| view.event(master)).unwrap_or_default();
            events.push(match odown {
                true => ("+odown", format!("{text} #quorum {agreeing}/{}", view.quorum())),
                false => ("-odown", text),
            });
        }
        let odown_since = odown.then(|| view.odown_since.unwrap_or(now));
        self.sentinel.odown_since = odown_since;
        for (id, down, silent) in opinions {
            if let Some(known) = self.sentinel.members.get_mut(&id) {
                (known.down_since, known.silent_since) = (down, silent);
            }
        }
    }
}

/// Whether another node said of late that it does not hear the master either.
fn agrees(view: &View<'_>, other: &super::view::Instance<'_>) -> bool {
    let fresh = view.now.saturating_sub(other.known.answered) <= view.config.failover.down_after_ms;
    let report = other.report.as_deref().filter(|report| {
        let epoch = report.config.as_ref().map(|config| config.epoch);
        epoch == Some(view.config.epoch) && !report.bound
    });
    fresh && !view.leads(other) && report.is_some()
}

/// The events of a config, or of addresses, that are new. `me`: this node.
fn tell_change(view: &View<'_>, before: Option<&Shown>, now: &Shown, me: NodeId, events: &mut Vec<Event>) {
    let name = &view.name;
    let (host, port) = &now.address;
    match before {
        None => {
            events.push(("+monitor", format!("master {name} {host} {port} quorum {}", view.quorum())));
        }
        Some(before) => {
            let (old_host, old_port) = &before.address;
            if before.epoch != now.epoch {
                events.push(("+new-epoch", now.epoch.to_string()));
            }
            if before.master != now.master && now.master == me {
                let promoted = format!(
                    "slave {} {host} {port} @ {name} {old_host} {old_port}",
                    super::view::joined(&now.address)
                );
                events.push(("+promoted-slave", promoted));
                events.push(("+failover-end", format!("master {name} {old_host} {old_port}")));
            }
            // One that is somewhere else is another one to clients.
            if before.master != now.master || before.address != now.address {
                events.push(("+switch-master", format!("{name} {old_host} {old_port} {host} {port}")));
            }
        }
    }
    let switched = before.is_none_or(|before| before.master != now.master);
    let old = |known: fn(&Shown) -> &BTreeSet<NodeId>, id: &NodeId| {
        before.is_some_and(|before| known(before).contains(id))
    };
    for replica in view.replicas() {
        if switched || !old(|shown| &shown.replicas, &replica.id) {
            events.push(("+slave", view.event(replica)));
        }
        if replica.me && before.is_some_and(|before| before.master == me) {
            events.push(("+convert-to-slave", view.event(replica)));
        }
    }
    for sentinel in view.other_sentinels() {
        if !old(|shown| &shown.sentinels, &sentinel.id) {
            events.push(("+sentinel", view.sentinel_event(sentinel)));
        }
    }
}
