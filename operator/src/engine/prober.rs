//! Asks every sighted node for its report, five times a second, and wakes the engine when something that matters
//! changed. What it keeps is a cache: a prober that starts anew knows the same within one round.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kv_core::control::{DataState, LinkState, NodeReport, NodeState};
use kv_core::id::{ClusterUid, Epoch, NodeId};
use kv_core::plan::{NodeObserved, Presence, Site};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::client::{ClientError, NodeClient, Request};
use crate::provider::SightedNode;

/// How often each node is asked.
const PERIOD: Duration = Duration::from_millis(200);

/// For how long a grant stands that the engine does not repeat: one that hangs, or is none any more, grants nothing.
const STANDS_FOR: Duration = Duration::from_secs(1);

/// No lease is longer than this.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// A node that answered before, runs by the word of its provider, and refuses this many connections in a row, has
/// ended: its machine says so.
const REFUSALS_OF_AN_EXITED: u32 = 2;

/// A node that does not answer so often in a row is not in step any more, as far as is known.
const FAILURES_OF_AN_UNSTEADY: u32 = 3;

/// What is known of one life of a node.
#[derive(Debug)]
struct Seen {
    first: Instant,
    answered: Option<Instant>,
    report: Option<NodeReport>,
    failures: u32,
    refusals: u32,
    error: Option<ClientError>,
    /// The epoch under which the node is granted its lease as the master, and until when the engine stands by that.
    grant: Option<(Epoch, Instant)>,
    /// Who was granted, and when it had last answered before: what it has is counted from before then.
    granted: Option<(NodeId, Instant)>,
    /// When it was last seen to take writes.
    served: Option<Instant>,
    /// Since when it has been a replica in step with its parent.
    steady: Option<Instant>,
}

/// Whether a node is a replica that is in step with its parent, by its own word.
fn is_in_step(report: &NodeReport) -> bool {
    let streams = report.link.as_ref().is_some_and(|link| link.state == LinkState::Streaming);
    let live = report.data == DataState::Live && report.disk_error.is_none();
    report.state == NodeState::Replica && streams && live
}

/// Whether a node takes writes, by its own word.
#[must_use]
pub fn takes_writes(report: &NodeReport) -> bool {
    let durable = report.durability.is_none_or(|durability| durability.settled || durability.degraded);
    let leads = report.state == NodeState::Master && report.bound && durable;
    leads && !report.paused && report.disk_error.is_none()
}

/// A node that can be called; what it answers is fed back into the cache.
#[derive(Clone)]
pub struct NodeHandle {
    client: Arc<NodeClient>,
    seen: Arc<Mutex<Seen>>,
    wake: Arc<Notify>,
}

impl NodeHandle {
    /// Sends a request, and remembers the report that answers it.
    ///
    /// # Errors
    /// Why there was no report.
    pub async fn call(&self, request: &Request) -> Result<NodeReport, ClientError> {
        let outcome = self.client.call(request).await;
        if lock(&self.seen).record(&outcome) {
            self.wake.notify_one();
        }
        outcome
    }

    async fn probe_forever(self) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let request = lock(&self.seen).request(Instant::now());
            // The outcome is in the cache.
            let _ = self.call(&request).await;
        }
    }
}

impl Seen {
    fn new(now: Instant) -> Self {
        Self {
            first: now,
            answered: None,
            report: None,
            failures: 0,
            refusals: 0,
            error: None,
            grant: None,
            granted: None,
            served: None,
            steady: None,
        }
    }

    /// What to ask next. A lease is counted from a clock that the node said before, so that it is over when it has been
    /// silent for that long.
    fn request(&mut self, now: Instant) -> Request {
        let due = self.grant.filter(|(_, until)| now < *until);
        match (due, &self.report) {
            (Some((epoch, _)), Some(report)) if report.config.as_ref().is_some_and(|c| c.epoch == epoch) => {
                self.granted = self.answered.map(|at| (report.id, at)).or(self.granted);
                Request::Grant { run_id: report.run_id.clone(), epoch, clock_ms: report.clock_ms }
            }
            _ => Request::Report,
        }
    }

    /// Takes in an answer; true if it changes what the engine should do.
    fn record(&mut self, outcome: &Result<NodeReport, ClientError>) -> bool {
        match outcome {
            Ok(report) => {
                let news = self.failures > 0 || self.report.as_ref().is_none_or(|old| matters(old, report));
                // Answers to concurrent requests may be taken in out of order.
                let older = self
                    .report
                    .as_ref()
                    .is_some_and(|old| old.run_id == report.run_id && old.uptime_ms > report.uptime_ms);
                let same_life = self.report.as_ref().is_some_and(|old| old.run_id == report.run_id);
                if !older {
                    self.report = Some(report.clone());
                }
                self.answered = Some(Instant::now());
                if takes_writes(report) {
                    self.served = self.answered;
                }
                let since = self.steady.filter(|_| same_life).or(self.answered);
                self.steady = since.filter(|_| is_in_step(report));
                (self.failures, self.refusals, self.error) = (0, 0, None);
                news && !older
            }
            Err(error) => {
                // A refusal of an old epoch is an answer.
                if matches!(error, ClientError::StaleEpoch { .. } | ClientError::Sticky { .. }) {
                    return true;
                }
                self.failures = self.failures.saturating_add(1);
                self.steady = self.steady.filter(|_| self.failures < FAILURES_OF_AN_UNSTEADY);
                let refused = matches!(error, ClientError::Refused { .. });
                self.refusals = if refused { self.refusals.saturating_add(1) } else { 0 };
                let news = self.error.as_ref() != Some(error) || self.refusals == REFUSALS_OF_AN_EXITED;
                self.error = Some(error.clone());
                news
            }
        }
    }

    /// The provider's word, unless the network knows more.
    fn presence(&self, told: Presence) -> Presence {
        let ended = self.report.is_some() && self.refusals >= REFUSALS_OF_AN_EXITED;
        if ended && told == Presence::Running { Presence::Exited } else { told }
    }
}

/// How far behind a source is far.
const FAR: u64 = 1 << 20;

/// Whether two reports differ in anything but the growth of what always grows.
fn matters(old: &NodeReport, new: &NodeReport) -> bool {
    let still = |report: &NodeReport| {
        let mut report = report.clone();
        (report.offset, report.keys, report.uptime_ms, report.clock_ms) = (0, 0, 0, 0);
        if let Some(durability) = report.durability.as_mut() {
            durability.durable = 0;
        }
        if let Some(lag) = report.source.as_mut().and_then(|source| source.lag_bytes.as_mut()) {
            *lag = u64::from(*lag >= FAR);
        }
        if let Some(export) = report.export.as_mut() {
            (export.keys, export.pending_bytes) = (0, 0);
        }
        if let Some(link) = report.link.as_mut() {
            link.silent_ms = 0;
        }
        for replica in &mut report.replicas {
            (replica.offset, replica.ack_age_ms) = (0, 0);
        }
        report
    };
    still(old) != still(new)
}

struct Tracked {
    incarnation: String,
    shard: u16,
    handle: Option<NodeHandle>,
    seen: Arc<Mutex<Seen>>,
    task: Option<JoinHandle<()>>,
}

impl Tracked {
    fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
        self.handle = None;
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Probes the nodes of one cluster.
pub struct Prober {
    uid: ClusterUid,
    password: String,
    wake: Arc<Notify>,
    nodes: BTreeMap<String, Tracked>,
    /// By shard, which nodes were granted a lease, and when last, that are gone from sight: they may run on.
    former: BTreeMap<u16, BTreeMap<NodeId, Instant>>,
    /// When nodes were last seen to take writes, in a life that is over.
    served: BTreeMap<String, Instant>,
}

impl Prober {
    /// A prober that knows no node yet. `wake` is notified when something that matters changed.
    #[must_use]
    pub fn new(uid: ClusterUid, password: String, wake: Arc<Notify>) -> Self {
        Self { uid, password, wake, nodes: BTreeMap::new(), former: BTreeMap::new(), served: BTreeMap::new() }
    }

    /// Probes exactly these nodes from now on. Another incarnation of a node is another node; a mere change of
    /// address keeps what is known.
    pub fn follow(&mut self, sighted: &[SightedNode]) {
        let mut gone = Vec::new();
        self.nodes.retain(|name, tracked| {
            let stays =
                sighted.iter().any(|node| node.name == *name && node.incarnation == tracked.incarnation);
            if !stays {
                let seen = lock(&tracked.seen);
                gone.push((tracked.shard, seen.granted));
                self.served.extend(seen.served.map(|served| (name.clone(), served)));
            }
            stays
        });
        self.former.values_mut().for_each(|former| former.retain(|_, at| at.elapsed() < LONGEST));
        for (shard, granted) in gone {
            self.former.entry(shard).or_default().extend(granted);
        }
        for node in sighted {
            let tracked = self.nodes.entry(node.name.clone()).or_insert_with(|| Tracked {
                incarnation: node.incarnation.clone(),
                shard: node.shard,
                handle: None,
                seen: Arc::new(Mutex::new(Seen::new(Instant::now()))),
                task: None,
            });
            let wanted = node.address.as_ref().filter(|_| node.presence != Presence::Exited);
            if tracked.handle.as_ref().map(|handle| handle.client.address()) == wanted {
                continue;
            }
            tracked.stop();
            if let Some(address) = wanted {
                let client = NodeClient::new(
                    self.uid.clone(),
                    node.name.clone(),
                    address.clone(),
                    self.password.clone(),
                );
                let handle = NodeHandle {
                    client: Arc::new(client),
                    seen: Arc::clone(&tracked.seen),
                    wake: Arc::clone(&self.wake),
                };
                tracked.task = Some(tokio::spawn(handle.clone().probe_forever()));
                tracked.handle = Some(handle);
            }
        }
    }

    /// What was seen of a node, by its provider and by asking it.
    #[must_use]
    pub fn observe(&self, node: &SightedNode) -> NodeObserved {
        let mut observed = NodeObserved {
            name: node.name.clone(),
            ordinal: node.ordinal,
            presence: node.presence,
            report: None,
            silent_ms: 0,
            address: node.address.clone(),
            template: node.template,
            site: Site { zone: node.zone.clone(), draining: node.draining, steady_ms: 0 },
        };
        if let Some(tracked) = self.nodes.get(&node.name) {
            let seen = lock(&tracked.seen);
            observed.presence = seen.presence(node.presence);
            observed.report = seen.report.clone();
            let since = seen.answered.unwrap_or(seen.first);
            observed.silent_ms = millis(since.elapsed());
            observed.site.steady_ms = seen.steady.map_or(0, |since| millis(since.elapsed()));
        }
        observed
    }

    /// The node with this id, if it ever answered and can be called.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<NodeHandle> {
        let tracked = self
            .nodes
            .values()
            .find(|tracked| lock(&tracked.seen).report.as_ref().is_some_and(|report| report.id == id))?;
        tracked.handle.clone()
    }

    /// Grants exactly these masters their leases from now on, each under its epoch, until the engine has not said so for a
    /// second. What was granted binds on until [`Prober::bound`] says that it does not.
    pub fn grant(&self, masters: &BTreeMap<NodeId, Epoch>) {
        let until = Instant::now() + STANDS_FOR;
        for tracked in self.nodes.values() {
            let mut seen = lock(&tracked.seen);
            let epoch = seen.report.as_ref().and_then(|report| masters.get(&report.id));
            seen.grant = epoch.map(|epoch| (*epoch, until));
        }
    }

    /// Which nodes of this shard may still have what they were granted, and for how long.
    #[must_use]
    pub fn bound(&self, shard: u16, lease: Duration) -> BTreeMap<NodeId, Duration> {
        let of_shard = self.nodes.values().filter(|tracked| tracked.shard == shard);
        let granted = of_shard.filter_map(|tracked| lock(&tracked.seen).granted);
        let former = self.former.get(&shard).into_iter().flatten().map(|(id, at)| (*id, *at));
        let mut bound = BTreeMap::new();
        for (id, at) in former.chain(granted) {
            let left = lease.saturating_sub(at.elapsed());
            if left > Duration::ZERO {
                let longest: &mut Duration = bound.entry(id).or_default();
                *longest = left.max(*longest);
            }
        }
        bound
    }

    /// When the node of this name was last seen to take writes.
    #[must_use]
    pub fn served(&self, name: &str) -> Option<Instant> {
        let present = self.nodes.get(name).and_then(|tracked| lock(&tracked.seen).served);
        present.or_else(|| self.served.get(name).copied())
    }

    /// All nodes that can be called.
    #[must_use]
    pub fn handles(&self) -> Vec<NodeHandle> {
        self.nodes.values().filter_map(|tracked| tracked.handle.clone()).collect()
    }

    /// For each node that does not answer: its name and why.
    #[must_use]
    pub fn errors(&self) -> Vec<(String, ClientError)> {
        self.nodes
            .iter()
            .filter_map(|(name, tracked)| Some((name.clone(), lock(&tracked.seen).error.clone()?)))
            .collect()
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kv_core::control::Link;

    fn report(uptime_ms: u64) -> NodeReport {
        serde_json::from_value(serde_json::json!({
            "id": "00".repeat(20), "name": "a-0-0", "runId": "r", "version": "1", "uid": "u", "shard": 0,
            "promised": 1, "config": null, "state": "Replica", "link": {"parent": null, "state": "Streaming", "silentMs": 3},
            "replid": "", "offset": uptime_ms, "data": "Live", "writeEpoch": 1, "keys": uptime_ms, "replicas": [],
            "paused": false, "leaving": false, "mapDigest": "", "configDigest": "", "fullSyncs": 0, "partialSyncs": 0,
            "uptimeMs": uptime_ms,
        }))
        .unwrap()
    }

    fn refused() -> Result<NodeReport, ClientError> {
        Err(ClientError::Refused { node: "a-0-0".into(), address: "x".into() })
    }

    #[tokio::test]
    async fn mere_growth_wakes_nobody_and_changes_do() {
        let mut seen = Seen::new(Instant::now());
        assert!(seen.record(&Ok(report(1))));
        assert!(!seen.record(&Ok(report(2))));
        let syncing = Link { parent: None, state: LinkState::Syncing, silent_ms: 0 };
        let changed = NodeReport { link: Some(syncing), ..report(3) };
        assert!(seen.record(&Ok(changed.clone())));
        // An answer that was overtaken by a later one.
        assert!(!seen.record(&Ok(report(2))));
        assert_eq!(seen.report, Some(changed));
        // The same node, started again.
        assert!(seen.record(&Ok(NodeReport { run_id: "s".into(), ..report(1) })));
    }

    #[tokio::test]
    async fn who_refuses_connections_after_having_answered_has_exited() {
        let mut seen = Seen::new(Instant::now());
        for _ in 0..3 {
            seen.record(&refused());
        }
        assert_eq!(seen.presence(Presence::Running), Presence::Running);
        assert!(seen.record(&Ok(report(1))));
        seen.record(&refused());
        assert_eq!(seen.presence(Presence::Running), Presence::Running);
        assert!(seen.record(&refused()));
        assert_eq!(seen.presence(Presence::Running), Presence::Exited);
        assert_eq!(seen.presence(Presence::Leaving), Presence::Leaving);
        assert!(seen.record(&Ok(report(2))));
        assert_eq!(seen.presence(Presence::Running), Presence::Running);
    }
}
